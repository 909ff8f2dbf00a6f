# SPDX-License-Identifier: Apache-2.0
"""Processes by pid and start time: a pid alone may long belong to somebody else."""
import os
import signal
import subprocess
import time

from . import LabError


def start_time(pid):
    """Field 22 of /proc/PID/stat (clock ticks since boot); None when there is no such process or it is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            fields = f.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def boot_id():
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as f:
        return f.read().strip()


def alive(pid, start):
    return start is not None and start_time(pid) == start


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as f:
            return [int(word) for word in f.read().split()]
    except OSError:
        return []


def wait_gone(pid, start, seconds):
    deadline = time.monotonic() + seconds
    while alive(pid, start):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def end(pid, start, seconds=5.0, first=signal.SIGTERM):
    """A polite signal, then SIGKILL. True when the process is gone."""
    for number in (first, signal.SIGKILL):
        if not alive(pid, start):
            break
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            break
        if wait_gone(pid, start, seconds):
            break
    try:
        os.waitpid(pid, os.WNOHANG)
    except (ChildProcessError, OSError):
        pass
    return not alive(pid, start)


def run(command, check=True, timeout=60, **options):
    """subprocess.run with captured text; a failure says what was run and everything that it printed."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL if "input" not in options else None, capture_output=True,
                          text=True, errors="replace", timeout=timeout, check=False, **options)
    if check and done.returncode != 0:
        raise LabError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done

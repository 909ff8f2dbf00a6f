# SPDX-License-Identifier: Apache-2.0
"""What exists outside of folders: recorded before it is made, removed in reverse order."""
import atexit
import glob
import json
import os
import signal
import stat
import sys
import threading
import time

from . import RUN, LabError, process


def _remove_process(entry):
    if not process.end(entry["pid"], entry["start"], first=entry.get("signal", signal.SIGTERM)):
        raise LabError(f"process {entry['pid']} ({entry['what']}) does not end")


def _remove_container(entry):
    """The container's init first: with it its whole pid namespace ends. (It outlives a killed systemd-nspawn.)"""
    for init in process.children(entry["pid"]) if process.alive(entry["pid"], entry["start"]) else []:
        process.end(init, process.start_time(init), first=signal.SIGKILL)
    _remove_process({**entry, "signal": signal.SIGKILL})


def _remove_mount(entry):
    for _ in range(50):
        if not os.path.ismount(entry["path"]):
            return
        done = process.run(["umount", entry["path"]], check=False)
        if done.returncode != 0:
            time.sleep(0.1)
    process.run(["umount", "--lazy", entry["path"]])


def _remove_netns(entry):
    if os.path.exists(f"/run/netns/{entry['name']}"):
        process.run(["ip", "netns", "del", entry["name"]])


def _remove_link(entry):
    if os.path.exists(f"/sys/class/net/{entry['name']}"):
        process.run(["ip", "link", "del", entry["name"]])


def _cgroup_members(folder):
    try:
        with open(os.path.join(folder, "cgroup.procs"), encoding="utf-8") as f:
            return [int(line) for line in f if line.strip() != "0"]
    except OSError:
        return []


def _remove_cgroup(entry):
    """A cgroup of ours with all that still runs in it, and those below it."""
    for folder, _, _ in os.walk(entry["path"], topdown=False):
        for pid in _cgroup_members(folder):
            process.end(pid, process.start_time(pid), first=signal.SIGKILL)
        for _ in range(100):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.05)
                continue
            break


def _remove_empty_folder(entry):
    try:
        os.rmdir(entry["path"])
    except OSError:
        pass  # absent, or somebody else uses it


def _remove_sshd_folder(entry):
    """sshd's folder for privilege separation, which we made: unless another sshd runs by now."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8") as f:
                if f.read().strip() == "sshd":
                    return
        except OSError:
            continue
    _remove_empty_folder(entry)


REMOVERS = {"process": _remove_process, "container": _remove_container, "mount": _remove_mount, "netns": _remove_netns, "link": _remove_link,
            "cgroup": _remove_cgroup, "empty-folder": _remove_empty_folder, "sshd-folder": _remove_sshd_folder}


class State:
    """The record of one cluster. `keep()` lets it outlive this process (`./dev demo --keep`)."""

    def __init__(self, folder):
        self.path = os.path.join(os.path.realpath(folder), "state.json")
        self.entries = []
        self.owner = {"pid": os.getpid(), "start": process.start_time(os.getpid())}
        self.lock = threading.Lock()
        os.makedirs(folder, exist_ok=True)
        self._write()
        os.makedirs(RUN, exist_ok=True)
        os.symlink(self.path, os.path.join(RUN, f"{os.getpid()}-{time.monotonic_ns():x}.state"))
        atexit.register(self.teardown)
        _install_signals()

    @classmethod
    def load(cls, path):
        self = cls.__new__(cls)
        with open(path, encoding="utf-8") as f:
            data = json.load(f)
        self.path, self.lock = os.path.realpath(path), threading.Lock()
        self.owner, self.entries = data["owner"], data["entries"]
        if data["boot"] != process.boot_id():
            self.entries = []  # the machine was restarted: nothing of it is left
        return self

    def _write(self):
        text = json.dumps({"boot": process.boot_id(), "owner": self.owner, "entries": self.entries}, indent=1)
        with open(self.path + ".new", "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(self.path + ".new", self.path)

    def add(self, kind, **entry):
        with self.lock:
            self.entries.append({"kind": kind, **entry})
            self._write()

    def add_process(self, pid, what, kind="process"):
        self.add(kind, pid=pid, start=process.start_time(pid), what=what)

    def forget_process(self, pid):
        with self.lock:
            self.entries = [e for e in self.entries if e.get("pid") != pid]
            self._write()

    def keep(self):
        """From now on nobody owns it: it stays until `teardown` of a later process."""
        with self.lock:
            self.owner = None
            self._write()
        atexit.unregister(self.teardown)

    def owned(self):
        return self.owner is not None and process.alive(self.owner["pid"], self.owner["start"])

    def teardown(self):
        """Removes everything, also after a failure of one; the failures are reported together."""
        atexit.unregister(self.teardown)
        failures = []
        while self.entries:
            entry = self.entries[-1]
            try:
                REMOVERS[entry["kind"]](entry)
            except (LabError, OSError) as error:
                failures.append(str(error))
            with self.lock:
                self.entries.pop()
                if os.path.isdir(os.path.dirname(self.path)):
                    self._write()
        links = [link for link in glob.glob(os.path.join(RUN, "*.state")) if os.path.realpath(link) == self.path]
        for path in (*links, self.path):
            if os.path.lexists(path):
                os.unlink(path)
        if failures:
            raise LabError("could not be removed: " + "; ".join(failures))


def _install_signals():
    """SIGTERM and SIGHUP end the process by sys.exit, so that what is registered with atexit is removed."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda n, _: sys.exit(128 + n))


def make_private(path, text, mode=0o400):
    """A new file with exactly this mode; never for a moment with a wider one."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    with os.fdopen(fd, "w", encoding="utf-8") as f:
        f.write(text)
    os.chmod(path, mode)

# SPDX-License-Identifier: Apache-2.0
"""What must hold once a run that was hit by a fault has come to its end, asked from outside of the nodes and quickly: one key
opens everything, nothing is lost, the rekey ran at most once, every service is up, nothing is left running or half written."""
import glob
import json
import os
import signal
import stat
import subprocess
import tempfile

from . import LabError, loopback
from .coordinator import OK
from .running import until

FINAL = ("turned", "rolled-back", "refused")
AGENT = "keyturn-agent"
TEMPORARY = "*.kt??????"  # base/file.c


def database(lab):
    """The shared database as a path on this machine."""
    return lab.local(lab.nodes[0], lab.cluster.variables()["database"])


def opened(lab, key_text):
    """(items that open with this key, items in all), by a program of this machine; a key of another store opens none."""
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run([os.path.join(lab.bin, "keyturn-store"), "verify", "--content", "--json", "--database",
                               database(lab)], env={"LKR_MASTER_KEY_ENV": key_text.strip()}, cwd=empty,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    answer = json.loads(done.stdout)
    return (0, lab.items) if "error" in answer else (answer["compared"], answer["items"])


def app_pid(lab, node):
    """Of the application on a node, as this machine sees it; None when it does not run."""
    return loopback.app_pid(lab.local(node, node.looker))


def _of_node(lab, node, pid):
    """Does this process belong to the node?"""
    try:
        if hasattr(node, "init_pid"):
            init = node.init_pid()
            return init and os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{init}/ns/pid")
        return os.readlink(f"/proc/{pid}/exe").startswith(lab.cluster.node_folder(node.name) + "/")
    except OSError:
        return False


def agents(lab, node, verb=None):
    """The pids of the agent's processes on a node: all, or those of one verb ("serve", "run")."""
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        if os.path.basename(words[0]) == AGENT and verb in (None, *words[1:2]) and _of_node(lab, node, pid):
            found.append(pid)
    return found


def rekeys(lab, run):
    """How often the application itself says in its log that it was rekeyed to this run's key."""
    made = [e for e in lab.journal.entries(run) if e["kind"] == "outcome" and e["step"] == "generate"]
    kcv = json.loads(made[-1]["body"]).get("result", {}).get("kcv") if made else None
    if not kcv:
        return 0
    with open(lab.local(lab.nodes[0], f"{lab.nodes[0].looker}/log/looker.log"), encoding="utf-8") as f:
        return sum("Rekey complete" in line and f"to {kcv}," in line for line in f)


def _expect(true, what):
    if not true:
        raise LabError(what)


def _check_node(lab, node, key):
    names = {name for name in lab.env(node) if name.startswith("LKR_")}
    _expect(names == {"LKR_MASTER_KEY_FILE"}, f"{node.name}: the env file has {sorted(names)}")
    _expect(lab.current_key(node).strip() == key, f"{node.name} has another key than the others")
    _expect(stat.S_IMODE(os.stat(lab.local(node, node.env_file)).st_mode) == 0o600, f"{node.name}: mode of the env file")
    _expect(app_pid(lab, node), f"{node.name}: the application does not run")
    until(lambda: not agents(lab, node), f"{node.name}: an agent is left: {agents(lab, node)}", 15)
    for pattern in (f"{node.looker}/{TEMPORARY}", f"{node.env_file}.kt??????"):
        left = glob.glob(lab.local(node, pattern))
        _expect(not left, f"{node.name}: left behind: {left}")


def _check_data(lab, key, other):
    got = opened(lab, key)
    _expect(got == (lab.items, lab.items), f"{got[0]} of {got[1]} items open, {lab.items} should")
    if other != key:
        got = opened(lab, other)
        _expect(got[0] == 0, f"{got[0]} items open with the other key too")


def assert_whole(lab, before=None):
    """After the end of the latest run; `before`: the run that was the latest before, so that none may have been begun. The key
    in force counts as the old one from here on. Returns the state."""
    run = lab.journal.latest()
    state = "not begun" if run == before else lab.journal.end(run)
    _expect(state in ("not begun", *FINAL), f"run {run} ended {state}")
    old, key = lab.cluster.key_text.strip(), lab.current_key(lab.nodes[0]).strip()
    _expect((key != old) == (state == "turned"), f"{state}, and the key is {'another' if key != old else 'the same'}")
    for node in lab.nodes:
        _check_node(lab, node, key)
    _check_data(lab, key, old)
    if state != "not begun":
        # One attempt: asked again under the same key it is not done again.
        attempts, done = {e["attempt"] for e in lab.journal.intents("rekey", run)}, rekeys(lab, run)
        _expect(len(attempts) <= 1, f"attempts {sorted(attempts)} at the rekey")
        _expect(done <= 1, f"the application was rekeyed {done} times")
        _expect(done == 1 or state != "turned", "turned, and the application knows of no rekey")
    lab.cluster.key_text = key + "\n"
    return state


def resume_to_the_end(lab, before=None, times=6):
    """`keyturn resume` until the run is at its end, as a person would. Returns how often that was."""
    for count in range(times):
        run = lab.journal.latest()
        if run == before or lab.journal.end(run) in FINAL:
            return count
        lab.keyturn.run("resume", check=None)
    _expect(lab.journal.end() in FINAL, f"still {lab.journal.end()} after {times} times `keyturn resume`\n"
            f"{lab.keyturn.history[-1]}")
    return times


def refresh(lab):
    """Where a check failed: everything up and one key known, so that others can go on. False when that can't be had."""
    try:
        if not all(app_pid(lab, node) for node in lab.nodes):
            lab.keyturn.run("resume", check=None)
        lab.cluster.key_text = lab.current_key(lab.nodes[0]).strip() + "\n"
        return lab.keyturn.run("doctor", check=None).code == OK
    except (LabError, OSError, subprocess.SubprocessError):
        return False


def kill(pids):
    """SIGKILL; the pids."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return pids


def processes(lab, node, name):
    """The pids of a node's processes of this name."""
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8") as f:
                if f.read().strip() == name and _of_node(lab, node, pid):
                    found.append(pid)
        except OSError:
            continue
    return found

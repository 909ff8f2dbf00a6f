# SPDX-License-Identifier: Apache-2.0
"""A run that is watched by its journal, so that a test can do something in the middle of it, and what tests do then."""
import contextlib
import glob
import os
import time

from . import ROOT, LabError

TO = {"to": "file:${dir}/cmk-${run}"}
WARP = 5  # how much faster the coordinator's timers go in faults: a minute of reaching for a lost node is twelve seconds


def variables(lab, **changes):
    lab.rewrite(key=TO, vars={**lab.cluster.variables(), **changes})


def until(question, what, seconds=30.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = question()
        if answer:
            return answer
        time.sleep(0.01)
    raise LabError(f"not within {seconds} s: {what}")


class Running:
    """`keyturn run`, waited for until its journal has an entry of this kind."""

    def __init__(self, lab, *arguments, keyturn=None, **options):
        self.lab, self.keyturn = lab, keyturn or lab.keyturn
        self.before = len(lab.journal.entries())
        self.process = self.keyturn.start(*(arguments or ("run", "--yes")), **options)

    def wait(self, step, kind="intent", role="do"):
        def seen():
            found = any(e["kind"] == kind and (not step or (e["step"], e["role"]) == (step, role))
                        for e in self.lab.journal.entries()[self.before:])
            if not found and self.process.poll() is not None:
                raise LabError(f"the run ended before {kind} {step}\n{self.finish()}")
            return found

        until(seen, f"{kind} {step}")
        return self

    def signal(self, number):
        self.process.send_signal(number)
        return self

    def finish(self, check=None):
        return self.keyturn.finish(self.process, check=check, timeout=100)


def owner_of(pid):
    """The process that owns the token of a coordinator."""

    def find():
        for children in glob.glob(f"/proc/{pid}/task/*/children"):
            with open(children, encoding="utf-8") as f:
                found = f.read().split()
            for child in found:
                with contextlib.suppress(OSError), open(f"/proc/{child}/cmdline", "rb") as line:
                    if b"hsm-owner" in line.read():
                        return int(child)
        return None

    return until(find, "an owner of the token")


class Gate:
    """The shipped playbook with one step more, "gate", in front of another of the phase key: it lasts until `open()`. So what a
    test does meanwhile happens between two steps for certain."""

    STEP = """{{
			"name": "gate", "phase": "key", "title": "wait for the test", "on": "rekey", "do": "command",
			"with": {{"command": {{"argv": ["/bin/sh", "-c", "until test -e {path}; do sleep 0.05; done"], "timeout_s": 60}},
				 "expect": {{"exit": 0}}}}
		}},
		"""

    def __init__(self, lab, before):
        where = os.path.join(os.path.dirname(lab.cluster.variables()["database"]), "gate")
        self.lab, self.path = lab, lab.local(lab.nodes[0], where)
        with open(os.path.join(ROOT, "playbooks", "looker.json"), encoding="utf-8") as f:
            text = f.read()
        at = text.rindex("{", 0, text.index(f'"name": "{before}"'))
        self.playbook = os.path.join(lab.folder, "gated.json")
        with open(self.playbook, "w", encoding="utf-8") as f:
            f.write(text[:at] + self.STEP.format(path=where) + text[at:])

    def open(self):
        with open(self.path, "w", encoding="utf-8"):
            pass

    def __enter__(self):
        self.lab.rewrite(key=TO, playbook=self.playbook)
        return self

    def __exit__(self, *_):
        self.open()
        os.unlink(self.path)
        self.lab.rewrite(key=TO)


def told(result, *words):
    """Said, with a remedy, where people look. (A failed test shows all output.)"""
    missing = [word for word in (*words, "→") if word not in result.err + ("" if word == "→" else result.out)]
    assert not missing, f"not said: {missing}; said: {result.err}"


@contextlib.contextmanager
def slow_rekey(lab, ms=1200):
    """The application's rekey pauses before its commit."""
    for node in lab.nodes:
        with open(lab.local(node, node.env_file), "a", encoding="utf-8") as f:
            f.write(f"KEYTURN_STORE_REKEY_DELAY_MS={ms}\n")
    try:
        yield
    finally:
        for node in lab.nodes:
            with open(lab.local(node, node.env_file), encoding="utf-8") as f:
                lines = [line for line in f if not line.startswith("KEYTURN_STORE_REKEY_DELAY_MS")]
            with open(lab.local(node, node.env_file), "w", encoding="utf-8") as f:
                f.writelines(lines)


def fill_up(path):
    """Takes all the space that is left."""
    with open(os.path.join(path, "filler"), "wb", buffering=0) as f, contextlib.suppress(OSError):
        while True:
            f.write(b"\0" * 4096)

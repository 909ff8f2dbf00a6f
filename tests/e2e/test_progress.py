# SPDX-License-Identifier: Apache-2.0
"""What a long command prints is seen while it runs: in the lines of --json and on the terminal."""
import json
import os
import pty
import time

from ktlab.coordinator import OK

# The application's rekey in a mantle that talks: a line now and then, then the real one.
SLOW = """#!/bin/sh
for i in 1 2 3 4; do
	echo "moved $i of 4 tablespaces"
	sleep 1
done
exec ./looker "$@"
"""
TO = {"to": "file:${dir}/cmk-${run}"}


def talkative(make_lab):
    lab = make_lab(n=2, items=20, enroll=False)
    for node in lab.nodes:
        path = os.path.join(node.looker, "talks")
        with open(path, "w", encoding="utf-8") as f:
            f.write(SLOW)
        os.chmod(path, 0o755)
    lab.rewrite(key=TO, vars={**lab.cluster.variables(), "rekey_command": ["./talks", "rekey"]})
    lab.enroll()
    return lab


def test_lines_of_json(make_lab):
    lab = talkative(make_lab)
    process = lab.keyturn.start("--json", "run", "--yes")
    seen = {}
    lines = []
    for line in process.stdout:
        lines.append(line)
        event = json.loads(line)
        if event.get("event") == "progress" and event["step"] == "rekey":
            seen.setdefault(event["text"], time.monotonic())
        if event.get("event") == "outcome" and event["step"] == "rekey":
            ended = time.monotonic()
    assert process.wait(60) == OK, b"".join(lines) + process.stderr.read()
    said = [text for text in seen if text.startswith("moved ")]
    assert len(said) >= 2, seen
    # While it ran, not afterwards.
    assert ended - min(seen[text] for text in said) > 1.5
    assert any(e.get("event") == "progress" and e["node"] == lab.nodes[0].name for e in map(json.loads, lines))
    process.stdout.close()
    process.stderr.close()


def test_on_the_terminal(make_lab):
    lab = talkative(make_lab)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(lab.keyturn.binary, lab.keyturn.command("run", "--yes"), {**lab.keyturn.env, "TERM": "xterm"})
    screen = b""
    first = None
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # the program has ended
            break
        if not chunk:
            break
        screen += chunk
        if first is None and b"of 4 tablespaces" in screen:
            first = time.monotonic()
            assert b"new env files" not in screen  # the step after the rekey
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == OK, screen
    assert b"web01 moved 3 of 4 tablespaces" in screen, screen

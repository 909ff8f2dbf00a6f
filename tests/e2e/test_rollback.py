# SPDX-License-Identifier: Apache-2.0
"""`keyturn rollback RUN` on turns that had ended: backup, env files and key as they were before."""
import os
import signal
import sqlite3
import time

import pytest
from ktlab import LabError
from ktlab.coordinator import HELD, OK, REFUSED, USAGE


def put(node, name, value):
    node.app.run("put", name, value)


def names(node):
    return node.app.run("list").stdout.split()


def turned(lab):
    lab.run()
    assert lab.assert_turned()
    return lab.journal.latest()


def assert_back(lab):
    """The old key, every item of before the turn, none of after it, every node up, and the way back in the journal."""
    lab.assert_on_old_key()
    assert lab.journal.end() == "rolled-back"
    assert lab.status()["committed"] is False
    for node in lab.nodes:
        assert "written-later" not in names(node)


@pytest.mark.parametrize("to", ["file:${dir}/cmk-${run}", "env:LKR_MASTER_KEY_ENV"])
def test_a_turned_run_is_taken_back(make_lab, to):
    lab = make_lab(n=2, items=40, enroll=False)
    lab.rewrite(key={"to": to})
    lab.enroll()
    run = turned(lab)
    new = lab.current_key(lab.nodes[0]).strip()
    put(lab.nodes[0], "written-later", "x")
    result = lab.keyturn.run("rollback", run, check=None)
    assert result.code == REFUSED and "rollback --yes" in result.err, result  # there is no terminal to ask on
    lab.items += 1
    lab.cluster.key_text, old = new + "\n", lab.cluster.key_text
    lab.assert_on_old_key()  # nothing was changed
    lab.items -= 1
    lab.cluster.key_text = old
    result = lab.keyturn.run("rollback", "--yes", run)
    assert "ROLLED BACK" in result.out, result
    assert_back(lab)
    again = lab.keyturn.run("rollback", "--yes", run)
    assert "ROLLED BACK" in again.out
    turned(lab)  # and the next turn works


def test_only_the_latest_change_is_taken_back(make_lab):
    lab = make_lab(n=1, items=10)
    first = turned(lab)
    lab.cluster.key_text = lab.current_key(lab.nodes[0]).strip() + "\n"
    second = turned(lab)
    result = lab.keyturn.run("rollback", "--yes", first, check=REFUSED)
    assert second in result.err and "first" in result.err, result
    assert lab.keyturn.run("rollback", "--yes", "20200101T000000Z-000000", check=REFUSED)
    assert "which run" in lab.keyturn.run("rollback", "--yes", check=USAGE).err
    assert lab.assert_turned()


def killed_at(lab, run, step):
    """`keyturn rollback`, killed when it has the intent of this step's undo."""
    process = lab.keyturn.start("rollback", "--yes", run)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if lab.journal.intents(step, run, role="undo"):
            process.send_signal(signal.SIGKILL)
            return lab.keyturn.finish(process)
        time.sleep(0.005)
    raise LabError(f"no undo of {step}\n{lab.keyturn.finish(process)}")


@pytest.mark.parametrize("step", ["start", "env", "rekey"])
def test_a_killed_rollback_is_resumed(make_lab, step):
    lab = make_lab(n=2, items=40)
    run = turned(lab)
    put(lab.nodes[0], "written-later", "x")
    killed_at(lab, run, step)
    lab.keyturn.run("resume", check=None)
    assert_back(lab)


def test_nothing_is_restored_under_a_client(make_lab):
    lab = make_lab(n=2, items=40)
    run = turned(lab)
    client = sqlite3.connect(lab.cluster.database)
    client.execute("BEGIN")
    client.execute("SELECT count(*) FROM item").fetchone()
    try:
        result = lab.keyturn.run("rollback", "--yes", run, check=HELD)
    finally:
        client.close()
    assert str(os.getpid()) in result.err + result.out and "keyturn resume" in result.out + result.err, result
    assert not lab.journal.intents("rekey", run, role="undo")
    lab.keyturn.run("resume", check=None)
    assert_back(lab)


def test_the_way_back_needs_no_token(make_lab):
    lab = make_lab(n=2, items=40)
    run = turned(lab)
    os.rename(lab.token.folder, lab.token.folder + ".gone")
    try:
        result = lab.keyturn.run("rollback", "--yes", run)
        assert result.code == OK, result
        assert_back(lab)
    finally:
        os.rename(lab.token.folder + ".gone", lab.token.folder)

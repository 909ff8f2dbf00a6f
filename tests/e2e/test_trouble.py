# SPDX-License-Identifier: Apache-2.0
"""Signals, killed processes, full disks, damaged files, a poor token and a rekey that lies: what the operator is told, and that
every run ends on one key with every node up."""
import contextlib
import json
import os
import pty
import shutil
import signal
import sqlite3
import subprocess
import time

import pytest
from ktlab import process
from ktlab.aftermath import agents
from ktlab.coordinator import AUDIT, HELD, HSM, INTERRUPTED, IO, OK, REFUSED, ROLLED_BACK, UNREACHABLE, Keyturn
from ktlab.running import TO, Running, fill_up, slow_rekey, told, until, variables

root_only = pytest.mark.skipif(os.getuid() != 0, reason="mounts need root")


@pytest.fixture(scope="module")
def module_cluster(module_lab):
    """One cluster of two nodes for the whole module."""
    return module_lab(n=2, items=30)


@pytest.fixture
def lab(module_cluster):
    """The cluster as it is between tests: up, on one key, with its ordinary cluster.json."""
    lab = module_cluster
    state = lab.cluster.state_folder
    lab.rewrite(key=TO)
    yield lab
    lab.cluster.state_folder = state
    lab.rewrite(key=TO)
    lab.recover()


def rolled_back(lab, result):
    assert result.code == ROLLED_BACK, result
    assert lab.assert_settled() == "rolled-back"
    assert "ROLLED BACK" in result.out


def turned(lab, result=None):
    assert result is None or result.code == OK, result
    assert lab.assert_settled() == "turned"
    assert len(lab.journal.intents("rekey")) == 1


@contextlib.contextmanager
def somebody_in_the_folder(node):
    """The gate is not quiet: a process works in the application's folder."""
    with subprocess.Popen(["sleep", "100"], cwd=node.looker) as sleeper:
        try:
            yield sleeper
        finally:
            sleeper.kill()


@contextlib.contextmanager
def tmpfs(lab, path, size, options=""):
    os.makedirs(path, exist_ok=True)
    lab.cluster.state.add("mount", path=path)
    process.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700{options}", "tmpfs", path])
    try:
        yield path
    finally:
        process.run(["umount", "--lazy", path])


# --- signals -------------------------------------------------------------------------------------------------------------

def test_a_signal_turns_the_run_back(lab):
    result = Running(lab).wait("stop").signal(signal.SIGINT).finish()
    told(result, "Ctrl-C", "turning back", "interrupted")
    rolled_back(lab, result)


def test_a_signal_while_the_gate_waits_does_not_wait_with_it(lab):
    variables(lab, quiet_every_s=60, quiet_times=20)
    with somebody_in_the_folder(lab.nodes[1]):
        run = Running(lab).wait("quiet", kind="outcome").signal(signal.SIGTERM)
        began = time.monotonic()
        result = run.finish()
    assert time.monotonic() - began < 20
    told(result, "SIGTERM", "turning back")
    rolled_back(lab, result)


def test_a_second_signal_stops_here_and_resume_goes_on(lab):
    result = Running(lab).wait("backup").signal(signal.SIGINT).wait("", kind="interrupt").signal(signal.SIGINT).finish()
    assert result.code == INTERRUPTED, result
    told(result, "second signal", "keyturn resume", lab.journal.latest())
    assert lab.journal.end() is None
    rolled_back(lab, lab.keyturn.run("resume", check=None))


def test_a_signal_during_the_rekey_is_noted_and_the_turn_goes_on(lab):
    with slow_rekey(lab):
        result = Running(lab).wait("rekey").signal(signal.SIGINT).finish(OK)
        assert "the rekey has begun" in result.out and "TURNED" in result.out
        turned(lab, result)


def test_a_closed_terminal_does_not_end_the_run(lab):
    before = len(lab.journal.entries())
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(lab.keyturn.binary, lab.keyturn.command("run", "--yes"), lab.keyturn.env)

    def stopping():
        with contextlib.suppress(BlockingIOError):
            os.read(terminal, 65536)
        return any(e["step"] == "stop" for e in lab.journal.entries()[before:])

    os.set_blocking(terminal, False)
    until(stopping, "the step stop")
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == OK
    turned(lab)


def test_closed_output_does_not_end_the_run(lab):
    run = Running(lab).wait("stop")
    run.process.stdout.close()
    run.process.stderr.close()
    assert run.process.wait(60) == OK
    turned(lab)


# --- processes on the nodes ----------------------------------------------------------------------------------------------

def ssh_servers(lab, node):
    return process.children(lab.cluster._sshd_process(node)["pid"])


def kill(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids


def test_killed_server_processes_are_replaced(lab):
    """The agent and the ssh session of the rekey node are killed during the stop, and one after the other during the rekey,
    which goes on by itself."""
    node = lab.nodes[0]
    with slow_rekey(lab, 2500):
        run = Running(lab).wait("stop")
        assert kill(ssh_servers(lab, node))
        run.wait("rekey")
        time.sleep(0.3)
        first = kill(agents(lab, node, "serve"))
        assert first
        until(lambda: set(agents(lab, node, "serve")) - set(first), "another agent")
        assert kill(ssh_servers(lab, node))
        result = run.finish(OK)
        assert result.err.count("reached for again") >= 3 and "web01" in result.err, result
        turned(lab, result)


# --- the state folder ----------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def state_on(lab, folder):
    """The state folder (pins and journal) is copied to `folder`, and used there."""
    old = lab.cluster.state_folder
    for name in os.listdir(old):
        source = os.path.join(old, name)
        (shutil.copytree if os.path.isdir(source) else shutil.copy2)(source, os.path.join(folder, name))
    lab.cluster.state_folder = folder
    lab.rewrite(key=TO)
    try:
        yield
        for name in os.listdir(folder):  # what happened there counts
            source = os.path.join(folder, name)
            if name != "filler":
                (shutil.copytree(source, os.path.join(old, name), dirs_exist_ok=True) if os.path.isdir(source)
                 else shutil.copy2(source, os.path.join(old, name)))
    finally:
        lab.cluster.state_folder = old
        lab.rewrite(key=TO)


@root_only
def test_a_state_folder_that_cannot_be_written(lab, tmp_path):
    with tmpfs(lab, str(tmp_path / "state"), "8m") as folder, state_on(lab, folder):
        process.run(["mount", "-o", "remount,ro", folder])
        result = lab.run(check=None)
        process.run(["mount", "-o", "remount,rw", folder])
        assert result.code in (AUDIT, IO), result
        told(result, folder, "ead-only")
    lab.assert_on_old_key()


@root_only
def test_a_full_state_folder(lab, tmp_path):
    with tmpfs(lab, str(tmp_path / "state"), "8m") as folder, state_on(lab, folder):
        fill_up(folder)
        result = lab.run(check=None)
        assert result.code in (AUDIT, IO), result
        told(result, folder, "space")
        os.unlink(os.path.join(folder, "filler"))
    lab.assert_on_old_key()


@root_only
@pytest.mark.parametrize("step", ["stop", "rekey"])
def test_a_state_folder_that_fills_up(lab, tmp_path, step):
    with tmpfs(lab, str(tmp_path / "state"), "16m") as folder, state_on(lab, folder), slow_rekey(lab, 500):
        run = Running(lab).wait(step)
        fill_up(folder)
        result = run.finish()
        assert result.code in (AUDIT, IO), result
        told(result, folder, "space", "keyturn resume")
        os.unlink(os.path.join(folder, "filler"))
        again = lab.keyturn.run("resume", check=None)
        assert again.code in (OK, ROLLED_BACK), again
        lab.assert_settled()
        assert len(lab.journal.intents("rekey")) <= 1


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_journal(lab, damage):
    path = lab.journal.path
    if not lab.journal.latest():
        lab.run()
        lab.assert_settled()
    shutil.copy2(path, path + ".kept")
    with open(path, "r+b") as f:
        if damage == "truncated":
            f.truncate(os.path.getsize(path) - 5000)
        else:
            f.seek(f.read().index(b'key.forget'))  # in the first plan
            f.write(b'key.forgeT')
    try:
        for verb in (("run", "--yes"), ("resume",), ("status",), ("runs",)):
            result = lab.keyturn.run(*verb, check=AUDIT)
            told(result, path)
        lab.assert_on_old_key()
    finally:
        os.replace(path + ".kept", path)


def deleted(path):
    os.unlink(path)


def emptied(path):
    os.truncate(path, 0)


def overwritten(path):
    """The second half of the last page but one of the database: entries of the run's beginning stay good."""
    with open(path, "r+b") as f:
        f.seek(os.path.getsize(path) - 6144)
        f.write(b"Z" * 2048)


def older(path):
    shutil.copy2(path + ".older", path)


@pytest.mark.parametrize("damage", [deleted, emptied, overwritten, older])
def test_a_journal_that_is_damaged_in_the_middle_of_a_turn(lab, damage):
    """A coordinator is killed and its journal damaged: each verb says so and changes nothing, `status` shows what is good of
    it; with the newest copy put in its place the run goes on."""
    path = lab.journal.path
    if not os.path.exists(path):
        lab.run()
    shutil.copy2(path, path + ".older")
    kept = path + ".kept"
    lab.run_killed_at("env")
    run = lab.journal.latest()
    for end in ("", "-journal"):
        if os.path.exists(path + end):
            shutil.copy2(path + end, kept + end)
    with contextlib.closing(sqlite3.connect(path)) as db:  # a commit that was under way is rolled back
        db.execute("SELECT count(*) FROM entry").fetchone()
    # What the agents were asked before the kill, they do: it may have come to the canary's start.
    until(lambda: not any(agents(lab, node, "serve") for node in lab.nodes), "the agents notice that they are alone")
    up = [lab.cluster.app_pid(node) for node in lab.nodes]
    damage(path)
    try:
        for verb in (("run", "--yes"), ("resume",), ("runs",), ("status",)):
            result = lab.keyturn.run(*verb, check=AUDIT)
            told(result, path, "keyturn-recovery(7)")
        assert os.path.exists(path) == (damage is not deleted)
        assert ("THE JOURNAL IS DAMAGED" in result.out) == (damage in (overwritten, older)), result
        if damage is overwritten:
            assert "last good" in result.out and run in result.out
            shown = lab.keyturn.run("--json", "status", check=AUDIT).events()[0]
            assert shown["run"] == run and shown["damage"]["entries"] > 0 and shown["damage"]["last"]["run"] == run
        assert [lab.cluster.app_pid(node) for node in lab.nodes] == up  # nothing was started with whichever key
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + "-journal")
        for end in ("", "-journal"):
            if os.path.exists(kept + end):
                os.replace(kept + end, path + end)
        os.unlink(path + ".older")
    again = lab.keyturn.run("resume", check=None)
    assert again.code in (OK, ROLLED_BACK), again
    lab.assert_settled()


# --- two coordinators ----------------------------------------------------------------------------------------------------

def elsewhere(lab, folder):
    """The state folder and cluster.json copied, as to another machine."""
    state = folder / "state"
    shutil.copytree(lab.cluster.state_folder, state)
    document = lab.cluster.document(lab.token, key=TO, state="state")
    (folder / "cluster.json").write_text(json.dumps(document))
    keyturn = Keyturn(lab.keyturn.binary, str(folder / "cluster.json"), lab.token.env, lab.canaries)
    return keyturn, str(state)


DIE_IN_A_COMMIT = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode=TRUNCATE")
db.execute("PRAGMA cache_size=2")  # so that pages of the transaction are in the database before it is over
db.execute("BEGIN IMMEDIATE")
for n in range(200):
    db.execute("INSERT INTO entry SELECT (SELECT max(seq) + 1 FROM entry), run, epoch, time_ms, 'note', step, role, node,"
               " attempt, hex(randomblob(500)), prev, hash FROM entry LIMIT 1")
os.kill(os.getpid(), signal.SIGKILL)
"""


def die_in_a_commit(path):
    """As a coordinator that is killed in the middle of a commit leaves its journal: half of it written, and how to undo it."""
    before = os.path.getsize(path)
    subprocess.run(["python3", "-c", DIE_IN_A_COMMIT, path], check=False)
    assert os.path.getsize(path) > before and os.path.getsize(path + "-journal") > 0


@pytest.mark.parametrize("step", ["backup", "env"])
def test_resume_from_a_copy_elsewhere_shuts_out_the_first(lab, tmp_path, step):
    lab.run_killed_at(step)
    keyturn, state = elsewhere(lab, tmp_path)
    if step == "env":
        die_in_a_commit(os.path.join(state, "journal.db"))
    result = keyturn.run("resume", check=None)
    assert result.code in (OK, ROLLED_BACK), result
    stale = lab.cluster.state_folder
    lab.cluster.state_folder = state
    settled = lab.assert_settled()
    before = [(node.name, lab.cluster.app_pid(node), lab.env(node)) for node in lab.nodes]
    try:
        for arguments in (("resume",), ("resume", "--rollback"), ("resume",)):
            again = lab.keyturn.run(*arguments, check=None)
            assert again.code == REFUSED, again
            told(again, "another coordinator", lab.journal.latest(), stale)
            assert "ROLLED BACK" not in again.out and "TURNED" not in again.out
            assert before == [(node.name, lab.cluster.app_pid(node), lab.env(node)) for node in lab.nodes]
    finally:
        shutil.rmtree(stale)
        shutil.copytree(state, stale)
    assert settled in ("turned", "rolled-back")


@root_only
def test_a_lost_machine_and_a_lost_node_together(lab, tmp_path):
    """Nobody can say whether the coordinator on another machine lives, and a node cannot be told: a person must know."""
    there = tmp_path / "keyturn-there"
    there.write_text(f"""#!/bin/sh
exec unshare --uts sh -c 'hostname another-machine; exec "$0" "$@"' {lab.keyturn.binary} "$@"
""")
    there.chmod(0o755)
    here, lab.keyturn.binary = lab.keyturn.binary, str(there)
    try:
        lab.run_killed_at("hsm")
    finally:
        lab.keyturn.binary = here
    node = lab.node("web02")
    lab.cluster.stop_sshd(node)
    try:
        result = lab.keyturn.run("resume", check=UNREACHABLE)
        told(result, "web02", "another-machine", "--no-other-coordinator")
        assert lab.journal.end() is None
        result = lab.keyturn.run("resume", "--no-other-coordinator", check=UNREACHABLE)
        told(result, "web02", "refused")  # it went on, as far as one can without that node
        assert lab.journal.end() == "refused"
    finally:
        lab.cluster.start_sshd(node)
    lab.assert_on_old_key()


# --- backups -------------------------------------------------------------------------------------------------------------

@root_only
def test_no_room_for_the_backup_is_seen_before_anything_stops(lab):
    folder = os.path.join(lab.cluster.node_folder("web02"), "backup")
    pids = [lab.cluster.app_pid(node) for node in lab.nodes]
    with tmpfs(lab, folder, "64k"):
        result = lab.run(check=REFUSED)
    told(result, "web02", folder, "bytes", "free")
    assert pids == [lab.cluster.app_pid(node) for node in lab.nodes]
    lab.assert_on_old_key()


@root_only
def test_a_backup_that_runs_out_of_room(lab):
    folder = os.path.join(lab.cluster.node_folder("web02"), "backup")
    with tmpfs(lab, folder, "32m"):
        run = Running(lab).wait("stop")
        fill_up(folder)
        result = run.finish()
        told(result, "web02", folder, "space")
        rolled_back(lab, result)


# --- the token -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("missing", ["CKM_RSA_PKCS_OAEP", "CKM_AES_KEY_WRAP,CKM_AES_KEY_WRAP_PAD"])
def test_a_token_without_a_needed_mechanism(lab, missing):
    with open(lab.token.conf, encoding="utf-8") as f:
        kept = f.read()
    with open(lab.token.conf, "w", encoding="utf-8") as f:  # (SoftHSM 2.6.1 drops the first name after the minus sign)
        f.write(kept.replace("slots.mechanisms = ALL", f"slots.mechanisms = -CKM_MD5,{missing}"))
    pids = [lab.cluster.app_pid(node) for node in lab.nodes]
    try:
        doctor = lab.keyturn.run("doctor", check=None)
        assert doctor.code == HSM, doctor
        assert "mechanism" in doctor.out and all(name in doctor.out for name in missing.split(",")), doctor
        result = lab.run(check=HSM)
        told(result, "mechanism", *missing.split(","))
    finally:
        with open(lab.token.conf, "w", encoding="utf-8") as f:
            f.write(kept)
    assert pids == [lab.cluster.app_pid(node) for node in lab.nodes]


# --- a canary and a rekey that lie ---------------------------------------------------------------------------------------

def test_a_canary_that_does_not_open_the_data(lab):
    variables(lab, verify_command=["/bin/sh", "-c", "echo the cipher says no; exit 7"])
    result = lab.run(check=None)
    told(result, "web01", "verify-canary", "exited with 7", "the cipher says no")
    rolled_back(lab, result)
    assert lab.journal.intents("rekey", role="undo")


def test_a_rekey_that_did_nothing(lab):
    variables(lab, rekey_command=["/bin/true"])
    result = lab.run(check=None)
    told(result, "web01", "the rekey reported success", "opens with: old")
    rolled_back(lab, result)


def script(lab, text):
    """A program in every node's folder; the same text everywhere, as the nodes must be alike."""
    for node in lab.nodes:
        path = os.path.join(node.looker, "trouble.sh")
        with open(path, "w", encoding="utf-8") as f:
            f.write("#!/bin/sh\n" + text + "\n")
        os.chmod(path, 0o755)
    return ["./trouble.sh"]


def test_a_rekey_that_worked_and_says_it_failed(lab):
    variables(lab, rekey_command=script(lab, './looker rekey "$@"; exit 1'))
    result = lab.run(check=None)
    turned(lab, result)


def test_a_probe_that_says_nothing_of_use_is_found_before_the_rekey(lab):
    variables(lab, probe_command=["/bin/echo", "lorem ipsum"])
    result = lab.run(check=None)
    told(result, "web01", "step probed", "verdict", "unknown", "old")
    rolled_back(lab, result)
    assert not lab.journal.intents("rekey")


def test_a_probe_that_breaks_after_the_rekey(lab):
    """The data is restored, and as the probe cannot say that the old key opens it, a person must look; `resume` goes on."""
    good = './looker probe "$@"'
    command = script(lab, f"if test -e asked; then echo lorem ipsum; else touch asked; {good}; fi")
    variables(lab, probe_command=command)
    result = lab.run(check=HELD)
    told(result, "HELD", "web01", "opens with: unknown", "lorem ipsum", "probe_command", "keyturn resume")
    assert not any(lab.states().values())
    again = lab.keyturn.run("resume", check=HELD)
    told(again, "HELD", "opens with: unknown", "lorem ipsum")
    script(lab, good)
    rolled_back(lab, lab.keyturn.run("resume", check=None))

# SPDX-License-Identifier: Apache-2.0
"""Faults on real systemd nodes, in every phase of a turn: processes and nodes that die, links that are cut, disks that fill up,
a token that is gone, clocks that jump, signals, archives that rot. Each run ends turned or rolled back, by itself or by `keyturn
resume` when the fault is gone, and says what to do when it can't go on.

A phase is held open by the preloaded library: the agent (or the runner of the rekey) waits at a chosen step.
"""
import contextlib
import json
import os
import pty
import shutil
import signal
import time

import pytest
from ktlab import LabError, aftermath, process
from ktlab.coordinator import HELD, INTERRUPTED, IO, OK, ROLLED_BACK
from ktlab.faultpoints import COORDINATOR, RUN, SERVE
from ktlab.running import WARP, Running, fill_up, told, until, variables

pytestmark = pytest.mark.systemd

# phase: (machine, class of programs, text in the path of the step that waits)
PHASES = {
    "stop": ("web02", SERVE, "/stop.do.1/outcome.json"),
    "backup": ("web02", SERVE, "/backup.do.1/outcome.json"),
    "key": ("web02", SERVE, "/receive.do.1/outcome.json"),
    "rekey": ("web01", RUN, "/rekey.do.1/child"),
    "rekeyed": ("web01", RUN, "/rekey.do.1/outcome.json"),
    "env": ("web02", SERVE, "/env.do.1/outcome.json"),
    "canary": ("web01", SERVE, "/canary.do.1/outcome.json"),
    "start": ("web02", SERVE, "/start.do.1/outcome.json"),
}
EVERY_PHASE = pytest.mark.parametrize("phase", [*PHASES, "quiet"])
PLACES = {**PHASES, "retire": ("web02", SERVE, "/forget.do.1/outcome.json")}


class Held:
    """A run that is held open in a phase, until `go`."""

    def __init__(self, lab, phase, *arguments, **options):
        self.lab, self.phase = lab, phase
        self.before = lab.journal.latest()
        if phase == "quiet":
            # Somebody on web02 works in the application's folder: the gate asks again and again.
            self.node = lab.node("web02")
            self.node.root_run(["systemd-run", "--quiet", "--unit=byhand", "--uid=lookerops", "--collect",
                                f"--working-directory={self.node.looker}", "sleep", "600"])
            variables(lab, quiet_every_s=1, quiet_times=600)
            self.run = Running(lab, *arguments, **options).wait("quiet", kind="outcome")
            return
        machine, self.kind, text = PLACES[phase]
        self.node, self.place = lab.node(machine), lab.fault_places[machine]
        self.place.pause(self.kind, text)
        self.run = Running(lab, *arguments, **options)
        until(lambda: self.place.paused(self.kind) or self.run.process.poll() is not None, f"phase {phase}", 60)
        if self.run.process.poll() is not None:
            raise LabError(f"the run ended before {phase}\n{self.run.finish()}")

    def go(self):
        if self.phase == "quiet":
            aftermath.kill(aftermath.processes(self.lab, self.node, "sleep"))  # also while its link is cut
        else:
            self.place.go(self.kind)
        return self

    def finish(self):
        return self.run.finish()

    def end(self, *words):
        """To the end of the run: it must not have stopped in between without saying what to do."""
        result = self.finish()
        if self.lab.journal.end() not in aftermath.FINAL:
            told(result, *(words or ("keyturn resume",)))
        return result

    def whole(self):
        """`resume` where it is needed, and what must hold. The state."""
        aftermath.resume_to_the_end(self.lab, self.before)
        return aftermath.assert_whole(self.lab, self.before)


# --- links and servers ---------------------------------------------------------------------------------------------------

@EVERY_PHASE
def test_sshd_is_killed(lab, phase):
    """All of it: the listener, which systemd starts again, and the sessions. The run goes on by itself."""
    held = Held(lab, phase)
    assert len(aftermath.kill(aftermath.processes(lab, held.node, "sshd"))) >= 2
    held.go()
    assert held.end().code == OK
    assert held.whole() == "turned"


@EVERY_PHASE
def test_a_link_is_cut_and_healed_soon(lab, phase):
    """The run goes on by itself: longer than the pings bear, shorter than a lost node is reached for."""
    held = Held(lab, phase)
    held.node.partition()
    try:
        held.go()
        time.sleep(5)
    finally:
        held.node.heal()
    result = held.end()
    assert held.whole() == "turned", result
    assert result.code == OK


@EVERY_PHASE
def test_a_link_is_cut_for_long(lab, phase):
    """The coordinator gives up: the run is turned back as far as it can be, or held. Healed and resumed it comes to its end."""
    lab.fault_places[COORDINATOR].warp(COORDINATOR, 10)
    held = Held(lab, phase)
    held.node.partition()
    try:
        held.go()
        result = held.end()
    finally:
        held.node.heal()
        lab.fault_places[COORDINATOR].warp(COORDINATOR, WARP)
    # What sshd would notice by itself (ClientAliveInterval): the sessions whose other end is gone.
    aftermath.kill(aftermath.processes(lab, held.node, "sshd"))
    held.node.wait()
    assert held.node.name in result.err and result.code in (ROLLED_BACK, HELD), result
    held.whole()


# --- nodes ---------------------------------------------------------------------------------------------------------------

def enabled(lab):
    for node in lab.nodes:
        node.service("enable")


def assert_down_after_boot(node):
    """An enabled unit that a run has stopped was not started by the boot, and is not by hand; systemd says why."""
    assert node.root_run(["systemctl", "is-enabled", "looker"]).stdout.strip() == "enabled"
    assert node.root_run(["systemctl", "is-active", "looker"], check=False).stdout.strip() == "inactive"
    assert node.root_run(["systemctl", "start", "looker"], check=False).returncode != 0
    status = node.root_run(["systemctl", "status", "looker"], check=False).stdout
    assert "keyturn-looker.conf" in status and "AssertPathExists=!" in status, status


@EVERY_PHASE
def test_a_node_loses_its_power(lab, phase):
    """SIGKILL to everything on it, and a boot while the run still reaches for it: what is enabled does not start in the middle
    of a turn."""
    enabled(lab)
    held = Held(lab, phase)
    held.node.kill()
    held.go()
    held.node.boot()
    result = held.end()
    assert held.whole() in ("turned", "rolled-back"), result


def test_an_enabled_unit_does_not_start_at_a_boot_in_the_middle_of_a_turn(lab):
    """The coordinator is killed while all is down; every node is booted anew; nothing starts until the run goes on."""
    enabled(lab)
    before = lab.journal.latest()
    lab.fault_places["web01"].pause(RUN, "/rekey.do.1/child")
    run = Running(lab)
    until(lambda: lab.fault_places["web01"].paused(RUN), "the rekey")
    run.signal(signal.SIGKILL).finish()
    for node in lab.nodes:
        node.kill()
    lab.fault_places["web01"].go(RUN)
    for node in lab.nodes:
        node.boot()
    for node in lab.nodes:
        assert_down_after_boot(node)
    aftermath.resume_to_the_end(lab, before)
    aftermath.assert_whole(lab, before)
    for node in lab.nodes:
        assert not os.path.exists(node.path("/etc/systemd/system/looker.service.d"))
        node.kill()
        node.boot()
        until(lambda: aftermath.app_pid(lab, node), f"{node.name} starts its application again at a boot")


def test_the_others_come_back_while_a_node_is_off(lab):
    """Power off before the rekey: the turn goes back, the others are up on the old key, and the run is held for the one; then it
    is booted. (After the rekey nothing is restored while it is not known that nobody is live on it.)"""
    held = Held(lab, "key")
    held.node.kill()
    held.place.go(SERVE)
    result = held.end("web02", "keyturn resume")
    assert result.code == HELD, result
    for node in lab.nodes:
        if node is not held.node:
            assert aftermath.app_pid(lab, node), node.name
            assert lab.current_key(node).strip() == lab.cluster.key_text.strip(), node.name
    held.node.boot()
    assert held.whole() == "rolled-back"


# --- room ----------------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def small_disk(node, folder, megabytes=8):
    """A file system of its own in a folder of a node, with what is in the folder now; afterwards back on the old one."""
    there = node.root_run(["test", "-d", folder], check=False).returncode == 0
    node.root_run(["mkdir", "-p", f"{folder}.kept"])
    if there:
        node.root_run(["cp", "-a", f"{folder}/.", f"{folder}.kept/"])
    else:
        node.root_run(["mkdir", "-p", "-m", "0700", folder])
    node.root_run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", folder])
    node.root_run(["cp", "-a", f"{folder}.kept/.", f"{folder}/"])
    try:
        yield f"{folder}/filler"
    finally:
        node.root_run(["rm", "-rf", f"{folder}.kept", f"{folder}/filler"])
        node.root_run(["cp", "-a", f"{folder}/.", f"{folder}.kept/"])
        node.root_run(["umount", folder])
        node.root_run(["rm", "-rf", folder])
        node.root_run(["mv", f"{folder}.kept", folder])


def fill_node(node, filler, left_kib):
    """All the room but so much."""
    node.root_run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], check=False)
    if left_kib:
        node.root_run(["truncate", "-s", f"-{left_kib}K", filler])


@pytest.mark.parametrize("left_kib", [0, 36, 100])
@pytest.mark.parametrize("phase", ["stop", "backup", "key", "rekey", "rekeyed", "env", "start"])
def test_a_full_spool(lab, phase, left_kib):
    """The agent's state folder fills up in a phase: what cannot be recorded is not done, and is said; what was promised room
    is recorded. With room again the run is resumed to its end."""
    node = lab.node(PHASES[phase][0])
    with small_disk(node, "/var/lib/keyturn") as filler:
        held = Held(lab, phase)
        fill_node(node, filler, left_kib)
        held.go()
        result = held.end(node.name, "space", "keyturn resume")
        node.root_run(["rm", "-f", filler])
        assert result.code in (OK, ROLLED_BACK, HELD), result
        held.whole()


@pytest.mark.parametrize("left_kib", [0, 20, 60])
def test_a_full_backup(lab, left_kib):
    """The room for the backup goes away after the preflight has seen it: said, and turned back."""
    node = lab.node("web02")
    with small_disk(node, "/var/backups/keyturn", 32) as filler:
        held = Held(lab, "stop")
        fill_node(node, filler, left_kib)
        held.go()
        result = held.end()
        node.root_run(["rm", "-f", filler])
        told(result, "web02", "/var/backups/keyturn", "space")
        assert result.code == ROLLED_BACK
        assert held.whole() == "rolled-back"


@contextlib.contextmanager
def state_on_small_disk(lab, folder, megabytes=16):
    """The coordinator's state folder on a file system of its own."""
    state = lab.cluster.state_folder
    os.makedirs(folder)
    lab.cluster.state.add("mount", path=folder)
    process.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs", folder])
    process.run(["cp", "-a", f"{state}/.", folder])
    lab.cluster.state_folder = folder
    variables(lab)
    try:
        yield os.path.join(folder, "filler")
    finally:
        process.run(["rm", "-f", os.path.join(folder, "filler")])
        process.run(["cp", "-a", f"{folder}/.", state])
        process.run(["umount", "--lazy", folder])
        lab.cluster.state_folder = state
        variables(lab)


@pytest.mark.parametrize("left_kib", [0, 8, 40])
@pytest.mark.parametrize("phase", ["stop", "key", "rekey", "env", "start"])
def test_a_full_journal(lab, tmp_path, phase, left_kib):
    with state_on_small_disk(lab, str(tmp_path / "state")) as filler:
        held = Held(lab, phase)
        fill_up(os.path.dirname(filler))
        os.truncate(filler, os.path.getsize(filler) - 1024 * left_kib)
        held.go()
        result = held.end("space", "keyturn resume")
        again = lab.keyturn.run("resume", check=None) if lab.journal.end() not in aftermath.FINAL else None
        if again and lab.journal.end() not in aftermath.FINAL:
            told(again, "space")
        os.unlink(filler)
        held.whole()


def test_the_end_cannot_be_recorded(lab, tmp_path):
    """All is done, and only the journal's last word has no room: a run that is not over must not be reported as one."""
    with state_on_small_disk(lab, str(tmp_path / "state")) as filler:
        held = Held(lab, "retire")
        fill_up(os.path.dirname(filler))
        held.go()
        result = held.end("space", "keyturn resume")
        os.unlink(filler)
        assert result.code == IO, result
        assert held.whole() == "turned"


# --- the token -----------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def no_token(lab):
    folder = os.path.join(lab.token.folder, "tokens")
    os.rename(folder, folder + ".away")
    try:
        yield
    finally:
        os.rename(folder + ".away", folder)


@pytest.mark.parametrize("phase", ["stop", "quiet", "backup", "key", "rekey", "start"])
def test_the_token_is_removed(lab, phase):
    """Before the new key was made: turned back. Later nothing needs it."""
    held = Held(lab, phase)
    with no_token(lab):
        held.go()
        result = held.end()
        if phase in ("stop", "quiet", "backup"):
            told(result, "token")
    assert held.whole() == ("rolled-back" if phase in ("stop", "quiet", "backup") else "turned")


@pytest.mark.parametrize("phase", ["stop", "backup", "env"])
def test_a_resume_without_the_token(lab, phase):
    held = Held(lab, phase)
    held.run.signal(signal.SIGKILL).finish()
    held.go()
    with no_token(lab):
        result = lab.keyturn.run("resume", check=None)
        if lab.journal.end() not in aftermath.FINAL:
            told(result, "token")
    held.whole()


# --- clocks --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seconds", [86400, -86400])
@pytest.mark.parametrize("machine", [COORDINATOR, "web01", "web02"])
@pytest.mark.parametrize("phase", ["stop", "quiet", "rekey", "env"])
def test_a_clock_jumps(lab, machine, seconds, phase):
    held = Held(lab, phase)
    lab.fault_places[machine].clock(seconds)
    held.go()
    result = held.end()
    lab.fault_places[machine].clock(0)
    assert held.whole() == "turned", result


@pytest.mark.parametrize("seconds", [86400, -86400])
def test_a_clock_jumps_before_the_resume(lab, seconds):
    held = Held(lab, "backup")
    held.run.signal(signal.SIGKILL).finish()
    held.go()
    lab.fault_places[COORDINATOR].clock(seconds)
    held.whole()


# --- signals and terminals -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@EVERY_PHASE
def test_a_signal_in_every_phase(lab, phase, number):
    """Before the rekey the run turns back; from then on it goes on to its end."""
    late = phase in ("rekey", "rekeyed", "env", "canary", "start")
    held = Held(lab, phase)
    held.run.signal(number).wait("", kind="interrupt")
    held.go()
    result = held.end()
    assert result.code == (OK if late else ROLLED_BACK), result
    assert held.whole() == ("turned" if late else "rolled-back")


@EVERY_PHASE
def test_a_second_signal_in_every_phase(lab, phase):
    held = Held(lab, phase)
    held.run.signal(signal.SIGINT).wait("", kind="interrupt").signal(signal.SIGINT)
    result = held.finish()
    held.go()
    assert result.code == INTERRUPTED, result
    told(result, "keyturn resume")
    held.whole()


@EVERY_PHASE
def test_a_hang_up_in_every_phase(lab, phase):
    """SIGHUP is what a closed terminal sends; the run goes on."""
    held = Held(lab, phase)
    held.run.signal(signal.SIGHUP)
    held.go()
    assert held.end().code == OK
    assert held.whole() == "turned"


@EVERY_PHASE
def test_output_that_nobody_reads_any_more(lab, phase):
    held = Held(lab, phase)
    held.run.process.stdout.close()
    held.run.process.stderr.close()
    held.go()
    assert held.run.process.wait(60) == OK
    assert held.whole() == "turned"


@pytest.mark.parametrize("phase", ["stop", "rekey", "start"])
def test_the_terminal_is_gone(lab, phase):
    """A run on a terminal of its own session, which is closed."""
    before = lab.journal.latest()
    machine, kind, text = PHASES[phase]
    lab.fault_places[machine].pause(kind, text)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(lab.keyturn.binary, lab.keyturn.command("run", "--yes"), lab.keyturn.env)
    os.set_blocking(terminal, False)

    def there():
        with contextlib.suppress(BlockingIOError):
            os.read(terminal, 65536)
        return lab.fault_places[machine].paused(kind)

    until(there, phase)
    os.close(terminal)
    lab.fault_places[machine].go(kind)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == OK
    assert aftermath.assert_whole(lab, before) == "turned"


# --- backups that rot ----------------------------------------------------------------------------------------------------

def flip(path):
    with open(path, "r+b") as f:
        f.seek(os.path.getsize(path) // 2)
        byte = f.read(1)[0]
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte ^ 0x40]))


def cut(path):
    os.truncate(path, os.path.getsize(path) // 2)


def opens_with_the_new_key(lab, run):
    with open(lab.local(lab.nodes[0], f"{lab.nodes[0].looker}/cmk-{run}"), encoding="utf-8") as f:
        return aftermath.opened(lab, f.read()) == (lab.items, lab.items)


@pytest.mark.parametrize("damage", [flip, cut, os.unlink], ids=["flipped", "truncated", "removed"])
def test_a_damaged_backup_when_the_way_back_needs_it(lab, damage):
    """Seen, said, and nothing is written over the data; with the archive in its place again, `resume` comes to the end."""
    variables(lab, verify_command=["/bin/false"])
    held = Held(lab, "env")
    outcome = next(e for e in lab.journal.entries(lab.journal.latest())
                   if e["kind"] == "outcome" and e["step"] == "backup" and e["node"] == "web01")
    archive = lab.local(lab.nodes[0], json.loads(outcome["body"])["result"]["archive"])
    shutil.copy2(archive, archive + ".kept")
    try:
        damage(archive)
        held.go()
        result = held.end("web01", os.path.basename(archive), "keyturn resume")
        assert result.code == HELD, result
        assert opens_with_the_new_key(lab, lab.journal.latest())
        again = lab.keyturn.run("resume", check=HELD)
        told(again, "web01", os.path.basename(archive))
        assert opens_with_the_new_key(lab, lab.journal.latest())
    finally:
        os.replace(archive + ".kept", archive)
    assert held.whole() == "rolled-back"

# SPDX-License-Identifier: Apache-2.0
"""The laboratory itself: what it makes works, and what it leaves is found and removed."""
import base64
import os
import subprocess
import sys
import time

import pytest

from ktlab import RUN, LabError, cleanup, coordinator, hsm, process, ssh
from ktlab.state import State, make_private

HERE = os.path.dirname(os.path.abspath(__file__))


def sleeper():
    return subprocess.Popen(["sleep", "600"], start_new_session=True)


def test_a_process_is_known_by_its_start_time():
    child = sleeper()
    start = process.start_time(child.pid)
    assert process.alive(child.pid, start)
    assert not process.alive(child.pid, start + 1)
    assert process.end(child.pid, start + 1)  # somebody else's by now: nothing is done
    assert process.alive(child.pid, start)
    assert process.end(child.pid, start)
    assert not process.alive(child.pid, start)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path):
    ready = tmp_path / "ready"
    child = subprocess.Popen([sys.executable, "-c", "import signal, time, sys\nsignal.signal(signal.SIGTERM, "
                              f"signal.SIG_IGN)\nopen({str(ready)!r}, 'w').close()\ntime.sleep(600)"])
    while not ready.exists():
        time.sleep(0.01)
    assert process.end(child.pid, process.start_time(child.pid), seconds=0.3)


def test_teardown_ends_what_was_recorded(tmp_path):
    state = State(str(tmp_path / "lab"))
    child = sleeper()
    state.add_process(child.pid, "sleep")
    state.teardown()
    assert process.start_time(child.pid) is None
    assert not os.path.exists(state.path)


CRASHING = """
import os, signal, subprocess, sys
sys.path.insert(0, {here!r})
from ktlab.state import State
state = State({folder!r})
child = subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
state.add_process(child.pid, "sleep")
print(child.pid, flush=True)
if {keep}:
    state.keep()
os.kill(os.getpid(), signal.{how})
"""


def crash(folder, how, keep=False):
    code = CRASHING.format(here=HERE, folder=str(folder), how=how, keep=keep)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    return int(done.stdout)


def test_cleanup_finds_what_a_killed_owner_left(tmp_path):
    pid = crash(tmp_path / "lab", "SIGKILL")
    assert process.start_time(pid) is not None
    assert cleanup.cleanup() >= 1
    assert process.start_time(pid) is None


def test_sigterm_removes_everything(tmp_path):
    pid = crash(tmp_path / "lab", "SIGTERM")
    assert process.start_time(pid) is None


def test_what_is_kept_stays_until_it_is_ended(tmp_path):
    pid = crash(tmp_path / "lab", "SIGKILL", keep=True)
    cleanup.cleanup()
    assert process.start_time(pid) is not None
    State.load(str(tmp_path / "lab" / "state.json")).teardown()
    assert process.start_time(pid) is None


def test_teardown_goes_on_after_a_failure(tmp_path):
    state = State(str(tmp_path / "lab"))
    child = sleeper()
    state.add_process(child.pid, "sleep")
    state.add("link", name="lo")  # cannot be removed
    with pytest.raises(LabError):
        state.teardown()
    assert process.start_time(child.pid) is None


def test_private_files_are_never_wider(tmp_path):
    path = tmp_path / "pin"
    make_private(str(path), "1234")
    assert path.stat().st_mode & 0o777 == 0o400
    with pytest.raises(FileExistsError):
        make_private(str(path), "5678")


def test_token_is_there_with_its_serial(tmp_path):
    token = hsm.SoftHsm(str(tmp_path / "hsm"), label="lab one")
    assert len(token.serial) == 16
    uri = token.uri()
    assert uri.startswith(f"pkcs11:token=lab%20one;serial={token.serial}?module-path=/")
    assert f"pin-source=file:{token.pin_file}" in uri
    assert token.pin not in uri
    assert "serial=" not in token.uri(serial=None)
    assert os.stat(token.pin_file).st_mode & 0o777 == 0o400
    token.objects()


def test_canaries_are_found_in_every_shape(tmp_path):
    canaries = coordinator.Canaries()
    canaries.add("pin", "secret-pin-1")

    for shape in ("secret-pin-1", base64.b64encode(b"secret-pin-1").decode(), b"secret-pin-1".hex(),
                  b"secret-pin-1".hex().upper()):
        assert canaries.find(f"x{shape}y") == ["pin"]
        (tmp_path / "f").write_text(shape)
        assert canaries.scan(str(tmp_path)) == [(str(tmp_path / "f"), "pin")]
        assert canaries.scan(str(tmp_path), allowed=[str(tmp_path / "f")]) == []
    assert canaries.find("secret-pin-2") == []


def test_a_program_that_prints_a_secret_is_caught(tmp_path):
    program = tmp_path / "leaky"
    program.write_text("#!/bin/bash\necho secret-pin-1\n")
    program.chmod(0o755)
    canaries = coordinator.Canaries()
    canaries.add("pin", "secret-pin-1")
    with pytest.raises(LabError, match="printed a secret"):
        coordinator.Keyturn(str(program), "cluster.json", canaries=canaries).run("status")


def test_a_wrong_exit_code_is_shown_with_all_output(tmp_path):
    program = tmp_path / "failing"
    program.write_text('#!/bin/bash\necho "out $*"\necho err >&2\nexit 4\n')
    program.chmod(0o755)
    keyturn = coordinator.Keyturn(str(program), "c.json")
    with pytest.raises(LabError, match=r"exit 4 instead of 0[\s\S]*out --cluster c.json run[\s\S]*err"):
        keyturn.run("run")
    assert keyturn.run("run", check=4).code == 4


def test_no_server_is_said_with_its_log(tmp_path):
    log = tmp_path / "sshd.log"
    log.write_text("fatal: the reason\n")
    client = ssh.Client("nobody", "127.42.9.9", ssh.free_port("127.42.9.9"), "/dev/null", "/dev/null")
    with pytest.raises(LabError, match="fatal: the reason"):
        client.wait(0.3, lambda: True, str(log))


def test_nothing_is_left_in_the_register():
    cleanup.cleanup()
    for name in os.listdir(RUN) if os.path.isdir(RUN) else []:
        if name.endswith(".state"):
            state = State.load(os.path.realpath(os.path.join(RUN, name)))
            assert state.owned() or state.owner is None

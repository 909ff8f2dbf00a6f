# SPDX-License-Identifier: Apache-2.0
"""What can be wrong before a turn: each gives a clear error with its remedy, the exit code of its class, and changes nothing."""
import os
import pty
import stat

import pytest
from ktlab import process
from ktlab.coordinator import BUSY, HSM, INPUT, IO, KEY, OK, REFUSED, UNREACHABLE, USAGE


def says(result, code, *words):
    assert result.code == code, result
    for word in words:
        assert word in result.err, f"{word!r} is not in\n{result}"
    assert "→" in result.err, f"no remedy in\n{result}"


@pytest.fixture(scope="module")
def lab(module_lab):
    lab = module_lab(items=50)
    lab.rewrite(key={"to": "file:${dir}/cmk-${run}"})
    return lab


@pytest.fixture
def unchanged(lab):
    """Afterwards every node is up with the old key, and no run went beyond its preflight."""
    before = len(lab.journal.entries())
    yield lab
    lab.rewrite(key={"to": "file:${dir}/cmk-${run}"})
    later = lab.journal.entries()[before:]
    assert not [e for e in later if e["kind"] == "intent" and e["step"] in ("stop", "backup", "generate", "rekey")]
    lab.assert_on_old_key()


# --- the token -----------------------------------------------------------------------------------------------------------

def test_wrong_pin_is_tried_once(unchanged, tmp_path):
    pin = tmp_path / "pin"
    pin.write_text("wrong-pin-000000")
    pin.chmod(0o400)
    document = {"uri": unchanged.token.uri(pin_file=str(pin)), "escrow_key": "keyturn-escrow"}
    unchanged.rewrite(hsm=document)
    result = unchanged.keyturn.run("--trace", "run", "--yes", check=HSM)
    says(result, HSM, "PIN", "one try")
    assert result.err.count("C_Login") == 1, "the PIN was tried more than once"
    assert "wrong-pin" not in result.out + result.err


def test_pin_in_the_uri_is_refused(unchanged):
    unchanged.rewrite(hsm={"uri": unchanged.token.uri(pin_source=None, pin_value="1234"), "escrow_key": "x"})
    says(unchanged.keyturn.run("run", "--yes", check=INPUT), INPUT, "pin-value", "pin-source", "cluster.json:")


def test_pin_file_that_others_may_read(unchanged, tmp_path):
    pin = tmp_path / "pin"
    pin.write_text(unchanged.token.pin)
    pin.chmod(0o644)
    unchanged.rewrite(hsm={"uri": unchanged.token.uri(pin_file=str(pin)), "escrow_key": "keyturn-escrow"})
    says(unchanged.keyturn.run("run", "--yes", check=IO), IO, str(pin))


def test_missing_module(unchanged):
    unchanged.rewrite(hsm={"uri": unchanged.token.uri(module_path="/nowhere/libhsm.so"), "escrow_key": "keyturn-escrow"})
    says(unchanged.keyturn.run("run", "--yes", check=HSM), HSM, "/nowhere/libhsm.so")


def test_absent_token(unchanged):
    unchanged.rewrite(hsm={"uri": unchanged.token.uri(token="elsewhere"), "escrow_key": "keyturn-escrow"})
    says(unchanged.keyturn.run("run", "--yes", check=HSM), HSM, "elsewhere")


def test_missing_escrow_key(unchanged):
    unchanged.rewrite(hsm={"uri": unchanged.token.uri(), "escrow_key": "no-such-key"})
    result = unchanged.keyturn.run("doctor", check=None)
    assert result.code == KEY, result
    assert "no-such-key" in result.out and "enroll --create-escrow-key" in result.out


# --- the nodes -----------------------------------------------------------------------------------------------------------

def test_changed_host_key(unchanged):
    node = unchanged.nodes[2]
    pinned = node.fingerprint()
    known = os.path.join(unchanged.cluster.state_folder, "known_hosts")
    with open(known, encoding="utf-8") as f:
        kept = f.read()
    unchanged.cluster.new_host_key(node)
    try:
        result = unchanged.keyturn.run("run", "--yes", check=REFUSED)
        says(result, REFUSED, node.name, node.fingerprint(), pinned)
        enrolled = unchanged.keyturn.run("enroll", "--accept-host-keys", check=None)
        assert enrolled.code == REFUSED, enrolled
    finally:
        with open(known, "w", encoding="utf-8") as f:
            for line in kept.splitlines():
                if f"[{node.host}]:{node.port} " not in line:
                    f.write(line + "\n")
        unchanged.enroll()


def test_node_without_sshd(unchanged):
    node = unchanged.nodes[1]
    unchanged.cluster.stop_sshd(node)
    try:
        says(unchanged.keyturn.run("run", "--yes", check=UNREACHABLE), UNREACHABLE, node.name)
    finally:
        unchanged.cluster.start_sshd(node)


@pytest.mark.parametrize("mode", [0o644, 0o440, 0o600])
def test_key_file_of_wrong_mode(unchanged, mode):
    path = f"{unchanged.nodes[0].looker}/cmk"
    os.chmod(path, mode)
    try:
        result = unchanged.keyturn.run("run", "--yes", check=KEY)
        assert f"Permission for backing key file must be 0400, but is {mode:04o}" in result.err
        assert unchanged.nodes[0].name in result.err
    finally:
        os.chmod(path, 0o400)


def test_key_file_of_wrong_size(unchanged):
    path = f"{unchanged.nodes[0].looker}/cmk"
    with open(path, encoding="utf-8") as f:
        kept = f.read()
    os.chmod(path, 0o600)
    with open(path, "w", encoding="utf-8") as f:
        f.write("c2hvcnQ=\n")
    os.chmod(path, 0o400)
    try:
        result = unchanged.keyturn.run("run", "--yes", check=KEY)
        assert "Size of the Master Key is invalid it must be 32 bytes however is 5" in result.err
    finally:
        os.chmod(path, 0o600)
        with open(path, "w", encoding="utf-8") as f:
            f.write(kept)
        os.chmod(path, 0o400)


def test_missing_key_file(unchanged):
    path = f"{unchanged.nodes[0].looker}/cmk"
    os.rename(path, path + ".away")
    try:
        result = unchanged.keyturn.run("run", "--yes", check=KEY)
        assert "Missing backing keystore" in result.err
    finally:
        os.rename(path + ".away", path)


# --- the files -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, words", [
    ("{", ["cluster.json:1"]),
    ('{\n  "cluster": "looker",\n  "playbok": "looker"\n}', ["cluster.json:3", "$.playbok", "playbook"]),
    ('{\n  "cluster": "looker",\n  "nodes": [\n    {"name": "web[3-1]"}\n  ]\n}', ["cluster.json:"]),
    ('{"cluster": "a", "cluster": "b"}', ["cluster.json", "twice"]),
])
def test_malformed_inventory(unchanged, text, words):
    with open(unchanged.cluster.cluster_file, "w", encoding="utf-8") as f:
        f.write(text)
    for verb in ("plan", "doctor", "enroll", "runs"):
        says(unchanged.keyturn.run(verb, check=INPUT), INPUT, *words)


def shipped_playbook():
    with open(os.path.join(os.path.dirname(__file__), "../../playbooks/looker.json"), encoding="utf-8") as f:
        return f.read()


def test_malformed_playbook(unchanged, tmp_path):
    playbook = tmp_path / "mine.json"
    playbook.write_text(shipped_playbook().replace('"phase": "quiet"', '"phase": "quit"'))
    unchanged.rewrite(playbook=str(playbook))
    line = 1 + playbook.read_text().splitlines().index(
        next(text for text in playbook.read_text().splitlines() if '"phase": "quit"' in text))
    says(unchanged.keyturn.run("plan", check=INPUT), INPUT, f"mine.json:{line}: $.steps[9].phase", "quiet")


def test_unsafe_playbook(unchanged, tmp_path):
    """The shipped playbook with a gate on one node only is refused when it is loaded: S2."""
    text = shipped_playbook()
    gate = text.index('"name": "still-quiet"')
    text = text[:gate] + text[gate:].replace('"on": "all"', '"on": "rekey"', 1)
    playbook = tmp_path / "unsafe.json"
    playbook.write_text(text)
    unchanged.rewrite(playbook=str(playbook))
    says(unchanged.keyturn.run("plan", check=INPUT), INPUT, "unsafe.json:", "S2", "$.steps")


def test_no_cluster_file(lab, tmp_path):
    command = lab.keyturn.command("plan")
    command[2] = str(tmp_path / "nowhere.json")
    done = process.run(command, check=False)
    assert done.returncode == IO and "nowhere.json" in done.stderr and "keyturn init" in done.stderr


def test_a_node_that_speaks_no_frames(unchanged):
    """The agent's program was replaced by something that prints a greeting."""
    agent = os.path.join(unchanged.cluster.node_folder(unchanged.nodes[1].name), "agent", "keyturn-agent")
    os.rename(agent, agent + ".kept")
    with open(agent, "w", encoding="utf-8") as f:
        f.write("#!/bin/sh\necho Welcome to this node\nsleep 60\n")
    os.chmod(agent, 0o755)
    try:
        result = unchanged.keyturn.run("run", "--yes", check=None)
        assert result.code in (UNREACHABLE, INPUT, REFUSED), result
        assert unchanged.nodes[1].name in result.err and "does not speak keyturn" in result.err
    finally:
        os.rename(agent + ".kept", agent)


# --- the command line ----------------------------------------------------------------------------------------------------

VERBS = ("init", "enroll", "doctor", "plan", "run", "resume", "rollback", "status", "runs", "backup list", "backup verify", "backup restore", "hsm list", "hsm probe", "hsm mechanisms",
         *("key " + verb for verb in "generate policy list show wrap unwrap escrow recover rewrap verify deactivate destroy".split()), "help", "version")


@pytest.mark.parametrize("arguments, words", [
    (["plam"], ["plam", "keyturn plan"]),
    (["run", "--yess"], ["--yess"]),
    (["plan", "extra"], ["extra"]),
    (["plan", "--output"], ["--output", "value"]),
    (["--nonsense"], ["no verb"]),
    (["hsm"], ["second word", "list"]),
    (["hsm", "lisst"], ["hsm lisst", "keyturn hsm list"]),
    (["hsm", "--json"], ["second word"]),
    (["help", "hsm", "lisst"], ["hsm lisst"]),
])
def test_wrong_command_lines(lab, arguments, words):
    says(lab.keyturn.run(*arguments, check=USAGE), USAGE, *words)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_a_man_page(lab, verb):
    text = lab.keyturn.run(*verb.split(), "--help").out
    assert text.startswith(f"Usage: keyturn {verb}") and "Exit status:" in text
    page = lab.keyturn.run("help", "--man", *verb.split()).out
    assert ".SH NAME" in page and ".SH EXIT STATUS" in page


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
def test_without_a_verb_there_is_the_list_of_verbs(lab, arguments):
    text = lab.keyturn.run(*arguments).out
    assert "Verbs:" in text and "resume" in text and "Start with `keyturn init`" in text


@pytest.mark.parametrize("arguments", [["hsm", "--help"], ["--help", "hsm"], ["help", "hsm"]])
def test_a_group_of_verbs_has_help(lab, arguments):
    text = lab.keyturn.run(*arguments).out
    assert text.startswith("Usage: keyturn hsm VERB") and "hsm list" in text and "hsm" in text and "enroll" not in text


def test_options_stand_anywhere_around_a_verb_of_two_words(lab):
    assert lab.keyturn.run("--json", "hsm", "--verbose", "list", "--help").out.startswith("Usage: keyturn hsm list")


def test_run_without_a_terminal_asks_nobody(unchanged):
    says(unchanged.keyturn.run("run", check=REFUSED), REFUSED, "terminal", "--yes")


def test_init_does_not_overwrite(lab, tmp_path):
    path = str(tmp_path / "cluster.json")
    lab.keyturn.run("init", "--output", path, check=OK)
    says(lab.keyturn.run("init", "--output", path, check=REFUSED), REFUSED, path)
    lab.keyturn.run("init", "--output", path, "--force", check=OK)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644


def test_a_second_coordinator_is_refused(unchanged):
    """The first one waits for its answer on a terminal, and holds the lock."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(unchanged.keyturn.binary, unchanged.keyturn.command("run"), unchanged.keyturn.env)
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(terminal, 4096)
    try:
        says(unchanged.keyturn.run("run", "--yes", check=BUSY), BUSY, str(pid))
        says(unchanged.keyturn.run("enroll", "--accept-host-keys", check=BUSY), BUSY, str(pid))
        unchanged.keyturn.run("runs", check=None)
    finally:
        os.write(terminal, b"n\n")
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == REFUSED

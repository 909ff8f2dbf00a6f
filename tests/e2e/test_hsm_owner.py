# SPDX-License-Identifier: Apache-2.0
"""The process that owns the token, in whole turns: calls that hang, a module that crashes, sessions and tokens that go away in the
middle, a PIN that is refused then. The module is SoftHSM under tests/unit/pkcs11/shim.c, which takes orders from a folder."""
import contextlib
import os
import pty
import re
import signal
import time

import pytest
from ktlab.coordinator import HSM, OK, ROLLED_BACK
from ktlab.running import TO, Running, owner_of, told, until

CALL_S = 2  # RSA keys are made in between, on busy machines


class Orders:
    """What goes wrong in the module (shim.h): orders["C_Sign"] = "crash"."""

    def __init__(self, folder):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)

    def __setitem__(self, call, what):
        with open(os.path.join(self.folder, call + ".new"), "w", encoding="utf-8") as f:
            f.write(what + "\n")
        os.rename(os.path.join(self.folder, call + ".new"), os.path.join(self.folder, call))

    def open(self):
        """Those that were not carried out."""
        return sorted(set(os.listdir(self.folder)) - {"logins"})

    def clear(self):
        for name in os.listdir(self.folder):
            os.unlink(os.path.join(self.folder, name))

    def logins(self):
        """The processes that called C_Login, in order."""
        with contextlib.suppress(FileNotFoundError), open(os.path.join(self.folder, "logins"), encoding="utf-8") as f:
            return [int(line) for line in f]
        return []


@pytest.fixture(scope="module")
def shimmed(module_lab):
    lab = module_lab(n=3, items=20)
    lab.orders = Orders(os.path.join(lab.folder, "orders"))
    lab.keyturn.env["KT_SHIM"] = lab.orders.folder
    lab.rewrite(hsm={**hsm_of(lab), "call_timeout_s": 60})
    lab.keyturn.run("hsm", "probe")
    return lab


def hsm_of(lab, **query):
    shim = os.path.join(lab.bin, "kt_p11_shim.so")
    return {"uri": lab.token.uri(module_path=shim, **query), "call_timeout_s": CALL_S, "sessions": 2}


@pytest.fixture
def lab(shimmed):
    shimmed.orders.clear()
    shimmed.rewrite(key=TO, hsm=hsm_of(shimmed))
    yield shimmed
    shimmed.orders.clear()
    shimmed.cluster.key_text = shimmed.current_key(shimmed.nodes[0]).strip() + "\n"


def said(result, *words):
    missing = [word for word in words if word not in result.err]
    assert not missing, f"not said: {missing}; said: {result.err}"


def test_a_turn_goes_on_over_whatever_the_module_does(lab):
    """One thing after the other, in one turn: each costs one process, or one session, and the key is the same all the time."""
    lab.orders["C_SignInit"] = "after 9 rv 0xB3"  # CKR_SESSION_HANDLE_INVALID
    lab.orders["C_GenerateKey"] = "after 5 rv 0x32"  # CKR_DEVICE_REMOVED
    run = Running(lab).wait("backup")
    os.kill(owner_of(run.process.pid), signal.SIGKILL)
    lab.orders["C_WrapKey"] = "after 2 hang"
    lab.orders["C_Sign"] = "crash"
    result = run.finish(check=OK)
    assert lab.assert_settled() == "turned"
    assert lab.orders.open() == []
    said(result, "C_WrapKey was under way for 2.", "crashed in C_Sign", "a new session was opened", "the work goes on")
    owners = 1 + result.err.count("module and login are new")
    assert owners >= 4 and len(set(lab.orders.logins())) == owners
    assert len(lab.orders.logins()) <= owners + result.err.count("a new session was opened")


def test_a_module_that_always_hangs(lab):
    run = Running(lab).wait("backup")
    lab.orders["C_UnwrapKey"] = "always hang"
    began = time.monotonic()
    result = run.finish(check=ROLLED_BACK)
    assert lab.assert_settled() == "rolled-back"
    told(result, "C_UnwrapKey was under way for 2.", "hsm.call_timeout_s")
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("verb", [["doctor"], ["enroll", "--create-escrow-key"]])
def test_verbs_of_one_shot_do_not_hang_either(lab, verb):
    lab.orders["C_Login"] = "hang"
    result = lab.keyturn.run(*verb, check=None, timeout=30)
    assert result.code == HSM
    told(result, "C_Login was under way for 2.", "not known whether the PIN was taken")
    assert len(lab.orders.logins()) == 1


def test_the_token_is_taken_out_and_put_back(lab):
    """SoftHSM's folder of tokens is away for two seconds while the run needs it."""
    tokens = os.path.join(lab.token.folder, "tokens")
    run = Running(lab).wait("backup")
    os.rename(tokens, tokens + ".away")
    run.wait("generate")
    time.sleep(2)
    os.rename(tokens + ".away", tokens)
    result = run.finish(check=OK)
    assert lab.assert_settled() == "turned"
    said(result, "the token is gone", "the work goes on")


def test_a_pin_that_is_refused_in_the_middle_is_not_tried_twice(lab):
    """The PIN's file is changed during a run, then the owner crashes: one login, refused, and the way back."""
    with open(lab.token.pin_file, encoding="utf-8") as f:
        pin = f.read()
    copy = os.path.join(lab.orders.folder, "..", "pin-of-the-run")
    with open(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as f:
        f.write(pin)
    try:
        lab.rewrite(key=TO, hsm=hsm_of(lab, pin_file=os.path.abspath(copy)))
        run = Running(lab).wait("backup")
        with open(copy, "w", encoding="utf-8") as f:
            f.write("canary-wrong-31\n")
        lab.orders["C_FindObjectsInit"] = "crash"
        result = run.finish(check=ROLLED_BACK)
    finally:
        os.unlink(copy)
    assert lab.assert_settled() == "rolled-back"
    told(result, "the PIN is wrong", "never tries a PIN twice")
    assert len(lab.orders.logins()) == 2


def test_the_owner_ends_with_a_killed_coordinator(lab):
    """Also in a call that hangs; and who resumes finds nobody at the token."""
    run = Running(lab).wait("backup")
    lab.orders["C_UnwrapKey"] = "always hang"
    run.wait("escrow")
    owner = owner_of(run.process.pid)
    run.signal(signal.SIGKILL).finish()
    until(lambda: not os.path.exists(f"/proc/{owner}"), "the owner's end", 5)
    lab.orders.clear()
    lab.keyturn.run("resume", check=OK)
    assert lab.assert_settled() == "turned"


def test_what_a_module_prints_by_itself(lab):
    """Not on the user's terminal; with --verbose in the log."""
    shim = os.path.join(lab.bin, "kt_p11_shim.so")
    for verb in (["hsm", "list", f"pkcs11:?module-path={shim}"], ["doctor"]):
        lab.orders["C_GetTokenInfo"] = "always print WARNING: noise of the module"
        assert "noise of the module" not in lab.keyturn.run(*verb).err
        said(lab.keyturn.run("--verbose", *verb), "the PKCS#11 module prints: WARNING: noise of the module")


def typed(lab, *verb):
    """keyturn at a terminal of its own, and the PIN typed there: (exit status, what the terminal showed)."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(lab.keyturn.binary, lab.keyturn.command(*verb), lab.keyturn.env)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while True:
            shown += os.read(terminal, 4096)
            if re.search(rb"PIN of token [^\n]*: $", shown):
                os.write(terminal, lab.token.pin.encode() + b"\n")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown.decode("utf-8", "replace")


def test_a_pin_that_is_typed_is_asked_for_once(lab):
    """By the owner, without an echo; when it is lost nobody is asked again in the middle of a run."""
    hsm = hsm_of(lab)
    hsm["uri"] = re.sub(r"[?&]pin-source=[^&]*", "", hsm["uri"])
    lab.rewrite(key=TO, hsm=hsm)
    code, shown = typed(lab, "doctor")
    assert code == OK and lab.token.pin not in shown and shown.count("PIN of token") == 1, shown
    lab.orders["C_FindObjectsInit"] = "crash"
    code, shown = typed(lab, "doctor")
    assert code == HSM and "read once and is not kept" in " ".join(shown.split()) and shown.count("PIN of token") == 1, shown

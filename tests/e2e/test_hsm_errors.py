# SPDX-License-Identifier: Apache-2.0
"""Errors that mislead: each is provoked on the real token, and keyturn says what it means and what to do (docs/TOKENS.md). What a
module answers does not tell an absent file from an absent daemon; the table in pkcs11/errors.c knows."""
import contextlib
import json
import os
import signal
import subprocess

import pytest
from ktlab.coordinator import HSM, KEY, ROLLED_BACK, Keyturn
from ktlab.running import Running, told

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
as_root = pytest.mark.skipif(os.getuid() != 0, reason="not root: another user is needed")


@pytest.fixture
def keyturn_with(bin_folder, tmp_path_factory):
    """keyturn_with(token, uri=None, env={}, prefix=()): a coordinator with this token, and a node that is not there."""
    folder = tmp_path_factory.mktemp("ask")
    base = tmp_path_factory.getbasetemp()
    for path in (base.parent, base, *base.iterdir()):
        path.chmod(0o711)  # for those who ask as nobody
    folder.chmod(0o777)

    def made(token, uri=None, env=None, prefix=()):
        path = folder / "cluster.json"
        path.write_text(json.dumps({
            "cluster": "ask", "playbook": "looker", "state": str(folder / "state"), "hsm": {"uri": uri or token.uri()},
            "nodes": [{"name": "n1", "host": "127.0.0.1", "port": 1}], "key": {"to": "file:/nowhere/cmk-${run}"},
            "vars": {"dir": "/nowhere", "ports": [1], "database": None}}))
        path.chmod(0o644)
        keyturn = Keyturn(os.path.join(bin_folder, "keyturn"), str(path), {**token.env, **(env or {})},
                          prefix=[*token.prefix, *prefix])
        keyturn.canaries.add("the PIN", token.pin)
        return keyturn

    return made


@pytest.fixture
def ask(keyturn_with):
    """ask(token, *words, ...) opens the token as `enroll` does, which must fail with the class HSM, say all of the words and a
    remedy; returns what was said."""

    def asked(token, *words, **options):
        result = keyturn_with(token, **options).run("enroll", "--create-escrow-key", check=HSM)
        told(result, *words)
        return result.err

    return asked


@contextlib.contextmanager
def away(path):
    os.rename(path, path + ".away")
    yield
    os.rename(path + ".away", path)


@contextlib.contextmanager
def closed(path):
    """Nobody but root may look there."""
    mode = os.stat(path).st_mode
    os.chmod(path, 0)
    yield
    os.chmod(path, mode)


def open_to_nobody(token):
    """The user nobody has the PIN, and reaches what a test of pytest's has made."""
    os.chown(token.pin_file, 65534, 65534)
    os.chmod(token.folder, 0o711)


def let_read(folder):
    """Everybody may read what is in there."""
    for where, _, names in os.walk(folder):
        os.chmod(where, 0o755)
        for name in names:
            os.chmod(os.path.join(where, name), 0o644)


# --- C_Initialize: CKR_GENERAL_ERROR ---------------------------------------------------------------------------------------

SOFTHSM = ("SOFTHSM2_CONF", "directories.tokendir", "C_Initialize", "CKR_GENERAL_ERROR")
TPM = ("TPM2_PKCS11_TCTI", "TPM2_PKCS11_STORE", "C_Initialize", "CKR_GENERAL_ERROR")


def test_softhsm_without_its_configuration(softhsm, ask):
    ask(softhsm, *SOFTHSM, env={"SOFTHSM2_CONF": softhsm.conf + ".none"})


def test_softhsm_whose_token_folder_is_missing(softhsm, ask):
    with away(softhsm.tokens):
        ask(softhsm, *SOFTHSM)


@as_root
@pytest.mark.parametrize("what", ["conf", "tokens"])
def test_softhsm_that_may_not_be_read(softhsm, ask, what):
    open_to_nobody(softhsm)
    with closed(getattr(softhsm, what)):
        ask(softhsm, *SOFTHSM, prefix=NOBODY)


@as_root
def test_softhsm_that_may_only_be_read(softhsm, ask):
    """It lists its token all the same."""
    open_to_nobody(softhsm)
    let_read(softhsm.tokens)
    ask(softhsm, "the token is gone (C_GetTokenInfo", "directories.tokendir", "able to write", prefix=NOBODY)


def test_tpm_that_is_down(tpm, ask):
    tpm.stop()
    assert "SoftHSM" not in ask(tpm, *TPM)


def test_tpm_whose_store_is_missing(tpm, ask):
    ask(tpm, *TPM, env={"TPM2_PKCS11_STORE": tpm.folder + "/other"})


def test_tpm_that_is_shown_another_store(tpm, ask):
    """tpm2-pkcs11 begins a new one there, with no token in it, and says nothing."""
    os.mkdir(tpm.folder + "/other")
    ask(tpm, "no token fits", "not initialised: 1", "TPM2_PKCS11_STORE", env={"TPM2_PKCS11_STORE": tpm.folder + "/other"})


# --- openCryptoki: CKR_HOST_MEMORY, CKR_FUNCTION_FAILED --------------------------------------------------------------------

def test_opencryptoki_whose_daemon_does_not_run(opencryptoki, ask):
    opencryptoki.stop()
    ask(opencryptoki, "pkcsslotd is not running", "start pkcsslotd", "CKR_HOST_MEMORY")


def test_opencryptoki_whose_daemon_crashed(opencryptoki, ask):
    opencryptoki.kill()
    ask(opencryptoki, "pkcsslotd has crashed", "restart pkcsslotd", "CKR_FUNCTION_FAILED")


def test_opencryptoki_for_a_user_outside_its_group(opencryptoki, ask):
    open_to_nobody(opencryptoki)
    ask(opencryptoki, "group pkcs11", "CKR_FUNCTION_FAILED", prefix=NOBODY)


# --- NSS: CKR_ARGUMENTS_BAD, CKR_NSS_CERTDB_FAILED --------------------------------------------------------------------------

def test_nss_without_its_parameter_string(nss, ask):
    ask(nss, "parameter string", "x-init-reserved", "CKR_ARGUMENTS_BAD", uri=nss.uri(x_init_reserved=None))


def test_nss_without_its_database(nss, ask):
    with away(nss.database):
        ask(nss, "NSS database is missing", "certutil -N", "0xce534351")


@as_root
def test_nss_whose_database_may_not_be_read(nss, ask):
    open_to_nobody(nss)
    ask(nss, "may not read", "configdir", "0xce534351", prefix=NOBODY)


@as_root
def test_nss_whose_database_may_not_be_written(nss, ask):
    open_to_nobody(nss)
    let_read(nss.database)
    ask(nss, "may not write the NSS database", "configdir", "CKR_TOKEN_WRITE_PROTECTED", prefix=NOBODY)


# --- TPM: CKR_GENERAL_ERROR at login -----------------------------------------------------------------------------------------

DIES_AFTER_LOGIN = """
import ctypes, os, signal, sys
module, pin = ctypes.CDLL(sys.argv[1]), sys.stdin.read().encode()
ulong = ctypes.c_ulong
module.C_Initialize(None)
slots, n, session = (ulong * 8)(), ulong(8), ulong()
module.C_GetSlotList(ctypes.c_ubyte(1), slots, ctypes.byref(n))
module.C_OpenSession(slots[0], ulong(6), None, None, ctypes.byref(session))
assert module.C_Login(session, ulong(1), pin, ulong(len(pin))) == 0
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_tpm_with_handles_of_processes_that_died(tpm, ask):
    """Three that were killed while they were logged in fill the TPM up. What our remedy names mends it."""
    for _ in range(3):
        done = subprocess.run(["/usr/bin/python3", "-c", DIES_AFTER_LOGIN, tpm.module], input=tpm.pin, text=True, check=False,
                              env={**os.environ, **tpm.env}, capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
    said = ask(tpm, "handles", "died", "tpm2_flushcontext -l", "/dev/tpmrm0", "C_Login", "CKR_GENERAL_ERROR")
    assert "PIN is wrong" not in said
    tpm.tpm2("flushcontext", "-l")
    assert "handles" not in ask(tpm), "a TPM makes no wrapping key; it is logged in to, though"


def test_tpm_that_lost_its_power(tpm, ask):
    """Switched off while it is in use, it counts a wrong PIN, though none was given. What our remedy names mends it."""
    for _ in range(4):
        ask(tpm)
        tpm.kill()
        tpm.start()
    said = ask(tpm, "lockout", "the PIN may be right", "tpm2_dictionarylockout --clear-lockout", "C_Login", "CKR_PIN_LOCKED")
    assert "not tried again" not in said
    tpm.tpm2("dictionarylockout", "--clear-lockout")
    assert "lockout" not in ask(tpm)


# --- tokens that do not do what a coordinator's must -----------------------------------------------------------------------

@pytest.mark.parametrize("kind, what", [("opencryptoki", "does not do AES-CMAC"), ("tpm", "does not make AES keys")])
def test_a_token_that_is_unfit_for_the_coordinator(make_token, ask, kind, what):
    """Refused at the first step, before anything is there; nothing is left in the token."""
    token = make_token(kind)
    ask(token, what, "use a token")
    assert "keyturn-escrow" not in token.objects()


# --- an empty answer -----------------------------------------------------------------------------------------------------

def test_softhsm_whose_token_folder_vanishes(make_lab):
    """Under a run that has the token open. SoftHSM then finds no keys, and all is well with it: only C_GetTokenInfo says
    otherwise. Nothing is made anew in its place, and once it is back nothing is found."""
    lab = make_lab(n=1, items=20)
    running = Running(lab).wait("stop")
    with away(lab.token.tokens):
        result = running.finish(check=ROLLED_BACK)
        told(result, "the token is gone (C_GetTokenInfo", "SOFTHSM2_CONF", "directories.tokendir")
        assert "no key" not in result.err and not os.path.exists(lab.token.tokens)
    lab.assert_on_old_key()
    lab.keyturn.run("doctor")


# --- a wrapped key that was damaged --------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind, rv", [("softhsm", "CKR_GENERAL_ERROR"), ("nss", "CKR_WRAPPED_KEY_INVALID")])
def test_a_wrapped_key_that_was_damaged(make_token, keyturn_with, tmp_path, kind, rv):
    """(openCryptoki and the TPM wrap nothing; what is damaged in nodes' tokens: test_mixed_tokens.py, interop/test_node_tokens.py.)"""
    token, blob = make_token(kind), tmp_path / "blob.json"
    keyturn = keyturn_with(token)
    keyturn.run("key", "generate", "--wrapping", token.uri("keyturn-escrow"))
    keyturn.run("key", "generate", token.uri("first"))
    keyturn.run("key", "wrap", token.uri("first"), "--under", "keyturn-escrow", "--output", str(blob))
    good = blob.read_text()
    at = good.index('"wrapped":"') + 20
    blob.write_text(good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1:])
    told(keyturn.run("key", "unwrap", str(blob), token.uri("second"), check=KEY),
         "the wrapped key was damaged, or wrapped under another key", "C_UnwrapKey", rv, "take the blob again")
    blob.write_text(good)
    keyturn.run("key", "verify", str(blob))

# SPDX-License-Identifier: Apache-2.0
"""The tokens of the laboratory: each answers an independent program, keeps what it holds over a restart, and leaves nothing."""
import os
import stat

import pytest
from ktlab import LabError, process, tokens

WITH_PKCS11_TOOL = ("softhsm", "opencryptoki", "tpm")
DAEMONS = ("opencryptoki", "tpm")


@pytest.mark.parametrize("kind", WITH_PKCS11_TOOL)
def test_a_token_keeps_a_key_pair_over_a_restart(make_token, kind):
    token = make_token(kind)
    token.tool("--keypairgen", "--key-type", "rsa:2048", "--label", "lab-pair", "--id", "01")
    token.stop()
    token.start()
    assert token.objects().count("lab-pair") == 2, "a private and a public key"


def test_nss_has_its_database(nss):
    """certutil, NSS's own tool, opens it with the PIN (it has no key yet) and not with another."""
    command = ["certutil", "-K", "-d", f"sql:{nss.database}", "-f"]
    right, wrong = nss.run([*command, nss.pin_file], check=False), nss.run([*command, nss.so_pin_file], check=False)
    assert "no keys found" in right.stdout, right
    assert "password" in wrong.stderr, wrong


@pytest.mark.parametrize("kind", tokens.KINDS)
def test_the_uri_names_token_module_and_pin_file(make_token, kind):
    token = make_token(kind)
    uri = token.uri("a key", serial=None)
    assert uri.startswith(f"pkcs11:token={token.label};object=a%20key?module-path=/") and f"file:{token.pin_file}" in uri
    assert token.pin not in uri and stat.S_IMODE(os.stat(token.pin_file).st_mode) == 0o400
    assert f"serial={token.serial}" in token.uri()


@pytest.mark.parametrize("kind", DAEMONS)
def test_a_stopped_token_does_not_answer(make_token, kind):
    token = make_token(kind)
    token.stop()
    with pytest.raises(LabError):
        token.objects()


@pytest.mark.parametrize("kind", DAEMONS)
def test_a_closed_token_leaves_no_process(tmp_path, make_token, kind):
    with tokens.make(kind, str(tmp_path / "token")) as token:
        pids = [entry["pid"] for entry in token.state.entries]
    assert pids and not any(process.start_time(pid) for pid in pids)
    assert os.listdir(tmp_path) == ["token"]


def test_a_token_that_does_not_start_shows_its_log(tpm):
    tpm.stop()
    os.rename(os.path.join(tpm.folder, "tpm"), os.path.join(tpm.folder, "gone"))
    with pytest.raises(LabError, match="(?s)does not start.*log.*tpm"):
        tpm.start()


def test_a_missing_token_is_skipped_and_fails_in_ci(monkeypatch, need_token):
    monkeypatch.setattr(tokens, "missing", lambda kind: "it is not installed (package x)")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="token tpm: it is not installed"):
        need_token("tpm")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="token tpm: it is not installed"):
        need_token("tpm")

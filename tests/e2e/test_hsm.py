# SPDX-License-Identifier: Apache-2.0
"""keyturn hsm: which tokens there are, what each really does, and that a run knows a token that changed since."""
import json
import os
import shutil
import subprocess

import jsonschema
import pytest
from ktlab import ROOT
from ktlab.coordinator import HSM, KEY, OK, REFUSED, Keyturn


def keyturn_of(bin_folder, token, **env):
    return Keyturn(f"{bin_folder}/keyturn", "/nowhere/cluster.json", {**token.env, **env}, prefix=token.prefix)


def probe(bin_folder, token, *arguments, code=OK, uri=None):
    result = keyturn_of(bin_folder, token).run("--json", "hsm", "probe", uri or token.uri(), *arguments, check=code)
    assert token.pin not in result.out + result.err
    report = json.loads(result.out.splitlines()[0])
    with open(os.path.join(ROOT, "playbooks", "probe.schema.json"), encoding="utf-8") as f:
        jsonschema.validate(report, json.load(f))
    return report


def rows(report):
    return {row["id"]: (row["verdict"], row["seen"]) for row in report["rows"]}


# --- list ------------------------------------------------------------------------------------------------------------

def test_list_shows_a_token_and_the_state_of_its_pin(bin_folder, softhsm):
    keyturn = keyturn_of(bin_folder, softhsm)
    uri = softhsm.uri(token=None, serial=None, pin_source=None)

    def listed():
        tokens = [json.loads(line) for line in keyturn.run("--json", "hsm", "list", uri).out.splitlines()]
        return next(token for token in tokens if token["label"] == softhsm.label)

    token = listed()
    assert (token["serial"], token["initialized"], token["pin"]) == (softhsm.serial, True, "ok")
    assert token["module"]["path"] == softhsm.module and token["module"]["version"] == token["firmware"]
    assert "login required" in token["flags"]
    softhsm.run(["pkcs11-tool", "--module", softhsm.module, "--token-label", softhsm.label, "--login", "--pin", "wrong-one",
                 "--list-objects"], check=False)
    assert listed()["pin"] == "low"
    text = keyturn.run("hsm", "list", uri).out
    assert softhsm.serial in text and "wrong PIN was used" in text


# --- probe -----------------------------------------------------------------------------------------------------------

def test_softhsm(bin_folder, softhsm):
    report = probe(bin_folder, softhsm)
    found = rows(report)
    assert report["coordinator"] == {"fit": True, "verdict": "fit with warnings"} and report["node"]["fit"]
    assert found["wrap.CKM_AES_KEY_WRAP_PAD"] == ("ok", "RFC 5649, there and back")
    assert found["use.escrow"][1] == "rfc5649 by CKM_AES_KEY_WRAP_PAD (0x210a)"
    assert found["policy.extractable-wrap"][0] == "ok"
    assert "keyturn" not in softhsm.objects(), "something stayed on the token"


def test_nss_is_not_softhsm(bin_folder, nss):
    found = rows(probe(bin_folder, nss))
    assert found["wrap.CKM_AES_KEY_WRAP_PAD"] == ("warning", "RFC 3394 of PKCS#7-padded bytes, which no RFC has")
    assert found["use.escrow"][1] == "rfc5649 by CKM_AES_KEY_WRAP_KWP (0x210b)"
    assert found["policy.extractable-wrap"] == ("warning", "done")
    assert found["size-query.CKM_AES_KEY_WRAP_KWP"] == ("warning", "says 32, gives 40")
    assert found["node.opens"] == ("ok", "rsa-oaep-sha256")


def test_opencryptoki_is_for_nodes(bin_folder, opencryptoki):
    report = probe(bin_folder, opencryptoki, code=REFUSED)
    assert not report["coordinator"]["fit"] and "AES-CMAC" in report["coordinator"]["verdict"]
    assert report["node"] == {"fit": True, "verdict": "fit with warnings"}
    assert "CKR_ATTRIBUTE_READ_ONLY" in str(rows(report)["node.unwrap-attributes"])
    assert "Secret Key" not in opencryptoki.objects() and "Private Key" not in opencryptoki.objects()


def test_a_tpm_makes_no_key_that_does_not_stay(bin_folder, tpm):
    report = probe(bin_folder, tpm, code=REFUSED)
    assert rows(report)["node.opens"][0] == "not tried"
    before = tpm.objects()
    found = rows(probe(bin_folder, tpm, "--key-on-token", code=REFUSED))
    assert found["node.opens"] == ("ok", "rsa-oaep-sha256")
    tpm.tpm2("flushcontext", "-t")  # a destroyed key stays loaded in a TPM without a resource manager
    assert tpm.objects() == before


def test_a_key_that_is_not_there(bin_folder, softhsm):
    result = keyturn_of(bin_folder, softhsm).run("hsm", "probe", softhsm.uri("no-such-key"), check=KEY)
    assert "0 RSA key pairs" in result.err and "object=" in result.err


def test_a_module_that_crashes_in_the_middle_costs_a_process_and_leaves_nothing(bin_folder, softhsm, tmp_path):
    shim = f"{bin_folder}/kt_p11_shim.so"
    if not os.access(shim, os.R_OK):
        pytest.skip("the misbehaving module is built with the unit tests")
    keyturn = keyturn_of(bin_folder, softhsm, KT_SHIM=str(tmp_path))
    uri = softhsm.uri(module_path=shim)
    (tmp_path / "C_WrapKey").write_text("after 4 crash")  # once: another process does it again
    assert "fit with warnings" in keyturn.run("hsm", "probe", uri).out
    assert not (tmp_path / "C_WrapKey").exists()
    (tmp_path / "C_WrapKey").write_text("always crash")
    result = keyturn.run("hsm", "probe", uri, check=HSM)
    assert "C_WrapKey" in result.err
    assert "keyturn" not in softhsm.objects()


def test_the_page_on_tokens_is_what_the_probe_finds(bin_folder, need_token):
    for kind in ("softhsm", "nss", "opencryptoki", "tpm"):
        need_token(kind)
    done = subprocess.run([os.path.join(ROOT, "scripts", "tokens"), bin_folder, "--check"], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mechanisms_are_listed(bin_folder, softhsm):
    keyturn = keyturn_of(bin_folder, softhsm)
    listed = [json.loads(line) for line in keyturn.run("--json", "hsm", "mechanisms").out.splitlines()]
    assert {"format": "rfc5649", "mechanism": "CKM_LUNA_AES_KWP", "number": "0x80000171", "maker": "Thales Luna",
            "tested": False, "note": "Luna 7"} in listed
    assert not [row for row in listed if row["tested"] and row["maker"]]
    assert not [row for row in listed if "CBC" in row["mechanism"] or row["mechanism"] == "CKM_RSA_PKCS"]
    assert "untested here" in keyturn.run("hsm", "mechanisms").out


# --- what was found is kept, and held against the token ---------------------------------------------------------------

def test_a_module_that_was_replaced_is_refused_until_it_is_probed(make_lab, tmp_path):
    lab = make_lab(n=2, items=20)
    kept = os.path.join(lab.cluster.state_folder, "hsm", f"{lab.token.serial}.json")
    assert not os.path.exists(kept)
    lab.run()
    with open(kept, encoding="utf-8") as f:
        assert json.loads(f.readline())["format"] == "keyturn-probe/1"
    other = tmp_path / "libsofthsm2.so"
    shutil.copy(lab.token.module, other)
    with open(other, "ab") as f:
        f.write(b"another build")
    lab.rewrite(hsm={"uri": lab.token.uri(module_path=str(other)), "escrow_key": "keyturn-escrow"})
    for verb in (["run", "--yes"], ["doctor"]):
        result = lab.keyturn.run(*verb, check=REFUSED)
        assert "SHA-256" in result.out + result.err and "keyturn hsm probe" in result.out + result.err
    assert "Kept in" in lab.keyturn.run("hsm", "probe").out
    lab.run()
    lab.assert_turned()

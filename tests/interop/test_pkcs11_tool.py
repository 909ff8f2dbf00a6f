# SPDX-License-Identifier: Apache-2.0
"""Wrapped keys between keyturn and pkcs11-tool, both ways. (pkcs11-tool cannot give NSS the parameter string that it needs.)"""
import base64
import os

import blobs
import pytest

OAEP = {"rsa-oaep-sha1": ("SHA-1", "MGF1-SHA1"), "rsa-oaep-sha256": ("SHA256", "MGF1-SHA256")}


def oaep_options(form):
    hash_name, mgf = OAEP[form]
    return ["--mechanism", "RSA-PKCS-OAEP", "--hash-algorithm", hash_name, "--mgf", mgf]


def read_key(token, key_id, openssl):
    out = openssl.file()
    token.tool("--read-object", "--type", "secrkey", "--id", key_id, "--output-file", out)
    with open(out, "rb") as f:
        return f.read()


def unwrap(token, blob, mechanism, key_id, openssl):
    """The key, unwrapped in the token by pkcs11-tool and read."""
    token.tool("--unwrap", *mechanism, "--id", key_id, "--input-file", openssl.file(base64.b64decode(blob["wrapped"])),
               "--key-type", "AES:", "--application-label", "opened", "--application-id", "7777", "--extractable")
    return read_key(token, "7777", openssl)


def test_it_opens_an_escrow_in_the_token(softhsm, keyturn, openssl):
    _, public = openssl.rsa_pair()
    made = keyturn(softhsm, "make", "label:escrow", public)
    blob = made["blobs"]["rfc5649"]
    key = unwrap(softhsm, blob, ["--mechanism", "0x" + blob["mechanism_id"]], blob["wrapping_key"]["id"], openssl)
    assert (openssl.kcv(key), openssl.proof(key)) == (made["kcv"], made["proof"])
    assert openssl.mac(key, blob) == blob["mac"]


def new_pair(token, openssl, label):
    """An RSA pair that pkcs11-tool made; the public half as a PEM file."""
    token.tool("--keypairgen", "--key-type", "rsa:2048", "--label", label, "--id", "55", "--usage-wrap", "--usage-decrypt")
    der, public = openssl.file(), openssl.file()
    token.tool("--read-object", "--type", "pubkey", "--id", "55", "--output-file", der)
    openssl.run("pkey", "-pubin", "-inform", "DER", "-in", der, "-out", public)
    return public


@pytest.mark.parametrize("kind,form", [("softhsm", "rsa-oaep-sha1"), ("opencryptoki", "rsa-oaep-sha1"),
                                       ("opencryptoki", "rsa-oaep-sha256"), ("tpm", "rsa-oaep-sha256")])
def test_it_opens_what_was_wrapped_to_its_pair(kind, form, make_token, keyturn, openssl):
    """Wrapped by a coordinator's token, opened by C_Decrypt in a token whose pair pkcs11-tool made."""
    token = make_token(kind)
    public = new_pair(token, openssl, "node")
    coordinator = make_token("nss" if form.endswith("sha256") else "softhsm")
    made = keyturn(coordinator, "make", "label:escrow", public)
    out = openssl.file()
    token.tool("--decrypt", *oaep_options(form), "--id", "55", "--input-file",
               openssl.file(base64.b64decode(made["blobs"][form]["wrapped"])), "--output-file", out)
    with open(out, "rb") as f:
        key = f.read()
    assert (openssl.kcv(key), openssl.proof(key)) == (made["kcv"], made["proof"])


@pytest.mark.parametrize("form,mechanism", [("rfc5649", "0x210A"), ("rfc3394", "AES-KEY-WRAP")])
def test_keyturn_opens_what_it_wraps_under_a_key(form, mechanism, softhsm, keyturn, openssl):
    wrapping, key = os.urandom(32), os.urandom(32)
    for key_id, value, more in (("55", wrapping, ["--usage-wrap"]), ("66", key, ["--extractable"])):
        softhsm.tool("--write-object", openssl.file(value), "--type", "secrkey", "--key-type", "AES:32", "--id", key_id,
                     "--label", f"key {key_id}", *more)
    out = openssl.file()
    softhsm.tool("--wrap", "--mechanism", mechanism, "--id", "55", "--application-id", "66", "--output-file", out)
    with open(out, "rb") as f:
        wrapped = f.read()
    assert len(wrapped) == 40
    blob = blobs.escrow(openssl, key, form, wrapped, openssl.kcv(wrapping))
    expected = {"kcv": openssl.kcv(key), "proof": openssl.proof(key)}
    assert keyturn(softhsm, "open", f"file:{openssl.file(wrapping)}", blob=blob) == expected
    assert keyturn(None, "open-file", openssl.file(wrapping), blob=blob) == expected

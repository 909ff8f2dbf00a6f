# SPDX-License-Identifier: Apache-2.0
"""Wrapped keys between the tokens and the openssl program, both ways, in every format that a token does."""
import base64
import os

import blobs
import pytest

# What each token wraps: a format that is missing from here, or too much, is found as well. openCryptoki and the TPM do no
# AES-CMAC, so no coordinator or custodian can have them; nodes can (test_node_tokens.py).
DOES = {"softhsm": {"rfc5649", "rfc3394", "rsa-oaep-sha1", "rsa-aes-sha1"},
        "nss": {"rfc5649", "rfc3394", "rsa-oaep-sha256", "rsa-oaep-sha1", "rsa-aes-sha256", "rsa-aes-sha1"}}


def opened(openssl, blob, wrapping, private):
    wrapped = base64.b64decode(blob["wrapped"])
    if blob["format"] in blobs.AES:
        return openssl.aes_unwrap(blob["format"], wrapping, wrapped)
    return openssl.rsa_unwrap(blob["format"], private, wrapped)


@pytest.mark.parametrize("kind", DOES)
def test_openssl_opens_what_the_token_wraps(kind, make_token, keyturn, openssl):
    token, wrapping = make_token(kind), os.urandom(32)
    private, public = openssl.rsa_pair()
    made = keyturn(token, "make", f"file:{openssl.file(wrapping)}", public)
    assert set(made["blobs"]) == DOES[kind]
    for form, blob in made["blobs"].items():
        key = opened(openssl, blob, wrapping, private)
        assert key is not None and len(key) == 32, f"openssl does not open {form}"
        assert openssl.kcv(key) == made["kcv"] == blob["key"]["kcv"]
        assert openssl.proof(key) == made["proof"], "another key than the token's"
        assert openssl.mac(key, blob) == blob["mac"], "the MAC is not what FORMATS.md says"
        assert blob["token"]["label"] == token.label and int(blob["mechanism_id"], 16) > 0


@pytest.mark.parametrize("kind", DOES)
def test_the_token_opens_what_openssl_wraps(kind, make_token, keyturn, openssl):
    token, wrapping, key = make_token(kind), os.urandom(32), os.urandom(32)
    expected = {"kcv": openssl.kcv(key), "proof": openssl.proof(key)}
    public = openssl.file(keyturn(token, "custodian", "alice").encode())
    for form in sorted(DOES[kind]):
        if form in blobs.AES:
            blob = blobs.escrow(openssl, key, form, openssl.aes_wrap(form, wrapping, key), openssl.kcv(wrapping))
            where = f"file:{openssl.file(wrapping)}"
        else:
            blob = blobs.custodian(openssl, key, form, openssl.rsa_wrap(form, public, key), public)
            where = "rsa:alice"
        assert keyturn(token, "open", where, blob=blob) == expected, form
        blob["run"] = "R2"  # the MAC is now another one
        refused = keyturn(token, "open", where, blob=blob, check=False)
        assert refused.returncode == 11 and "MAC" in refused.stderr and not refused.stdout


@pytest.mark.parametrize("form", blobs.AES + blobs.RSA)
def test_libcrypto_opens_what_openssl_wraps(form, keyturn, openssl):
    key, wrapping = os.urandom(32), os.urandom(32)
    private, public = openssl.rsa_pair()
    if form in blobs.AES:
        blob = blobs.escrow(openssl, key, form, openssl.aes_wrap(form, wrapping, key), openssl.kcv(wrapping))
        own = openssl.file(wrapping)
    else:
        blob, own = blobs.transport(openssl, key, form, openssl.rsa_wrap(form, public, key), public), private
    assert keyturn(None, "open-file", own, blob=blob) == {"kcv": openssl.kcv(key), "proof": openssl.proof(key)}

# SPDX-License-Identifier: Apache-2.0
"""A node's transport key in a token opens what another program wrapped to its public half."""
import os

import blobs
import pytest

# Hashes of RSA-OAEP that each token opens with.
FORMS = {"softhsm": ["rsa-oaep-sha1", "rsa-aes-sha1"],
         "nss": ["rsa-oaep-sha256", "rsa-oaep-sha1", "rsa-aes-sha256"],
         "opencryptoki": ["rsa-oaep-sha256", "rsa-oaep-sha1", "rsa-aes-sha256"],
         "tpm": ["rsa-oaep-sha256", "rsa-aes-sha256"]}


@pytest.mark.parametrize("kind", FORMS)
def test_it_opens_what_openssl_wraps(kind, make_token, keyturn, openssl):
    token, key = make_token(kind), os.urandom(32)
    public = openssl.file(keyturn(token, "node", "transport").encode())
    for form in FORMS[kind]:
        blob = blobs.transport(openssl, key, form, openssl.rsa_wrap(form, public, key), public)
        assert keyturn(token, "open-node", "transport", blob=blob) == {"kcv": openssl.kcv(key), "proof": openssl.proof(key)}
        blob["node"] = "web02"
        refused = keyturn(token, "open-node", "transport", blob=blob, check=False)
        assert refused.returncode == 11 and "MAC" in refused.stderr


def test_a_damaged_key_is_told_where_the_token_only_unwraps(make_token, keyturn, openssl):
    """openCryptoki, asked by C_UnwrapKey because the pair may not decrypt: CKR_FUNCTION_FAILED means a damaged key there."""
    token, key = make_token("opencryptoki"), os.urandom(32)
    public = openssl.file(keyturn(token, "custodian", "transport").encode())
    wrapped = bytearray(openssl.rsa_wrap("rsa-oaep-sha256", public, key))
    blob = blobs.transport(openssl, key, "rsa-oaep-sha256", bytes(wrapped), public)
    assert keyturn(token, "open-node", "transport", blob=blob)["kcv"] == openssl.kcv(key)
    wrapped[100] ^= 1
    blob = blobs.transport(openssl, key, "rsa-oaep-sha256", bytes(wrapped), public)
    refused = keyturn(token, "open-node", "transport", blob=blob, check=False)
    assert refused.returncode == 11 and "does not open with this transport key: it was damaged" in refused.stderr

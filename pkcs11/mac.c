/* SPDX-License-Identifier: Apache-2.0 */
#include "pkcs11/mac.h"

#include <openssl/crypto.h>
#include <string.h>

#include "pkcs11/internal.h"

enum { BLOCK = KT_CMAC_LEN };

static kt_code cmac(kt_token *t, CK_OBJECT_HANDLE key, const uint8_t *bytes, size_t n, uint8_t out[BLOCK], kt_err *err)
{
	/* PKCS#11 takes the input as non-const and does not write to it; a copy keeps that honest. */
	uint8_t input[KT_MAC_KEY_INPUT];
	CK_MECHANISM m = {CKM_AES_CMAC, NULL, 0};
	CK_ULONG len = BLOCK;
	_Static_assert((int)KT_MAC_KEY_INPUT >= (int)BLOCK, "room for each input");
	memcpy(input, bytes, n);
	KT_TRY(P11(t, err, C_SignInit, t->session, &m, key));
	KT_TRY(P11(t, err, C_Sign, t->session, input, n, out, &len));
	if (len != BLOCK)
		return kt_fail(err, KT_E_HSM, "use another token", "%s: its AES-CMAC has %lu bytes instead of %d",
			       t->name, len, BLOCK);
	return KT_OK;
}

/* --- The MAC key -------------------------------------------------------------------------------------------------- */

/* Derived in the token; the caller's. */
static kt_code derive(kt_token *t, CK_OBJECT_HANDLE key, kt_secret *out, kt_err *err)
{
	uint8_t input[KT_MAC_KEY_INPUT];
	kt_code rc = KT_OK;
	KT_TRY(kt_secret_new(out, (size_t)KT_MAC_KEY_BLOCKS * BLOCK, err));
	for (unsigned i = 0; rc == KT_OK && i < KT_MAC_KEY_BLOCKS; i++) {
		kt_mac_key_input(i + 1, input);
		rc = cmac(t, key, input, sizeof input, out->data + (size_t)i * BLOCK, err);
	}
	if (rc != KT_OK)
		kt_secret_free(out);
	return rc;
}

/* kt_mac_of in the token. The working copy's MAC key stays: thousands of blobs are made with it. */
static kt_code mac(kt_token *t, CK_OBJECT_HANDLE key, const uint8_t *bytes, size_t n, uint8_t out[BLOCK], kt_err *err)
{
	kt_secret own = KT_SECRET_INIT;
	const bool keep = key == t->working.handle;
	kt_secret *under = keep ? &t->working_mac_key : &own;
	if (!under->len)
		KT_TRY(derive(t, key, under, err));
	kt_code rc = kt_cmac_of(under, bytes, n, out, err);
	kt_secret_free(&own);
	return rc;
}

/* --- Check value, blob, proof ------------------------------------------------------------------------------------- */

kt_code kt_p11_kcv(kt_token *t, CK_OBJECT_HANDLE key, char out[KT_KCV_TEXT], kt_err *err)
{
	static const uint8_t zeros[BLOCK];
	uint8_t all[BLOCK];
	KT_TRY(cmac(t, key, zeros, sizeof zeros, all, err));
	kt_kcv_text(all, out);
	OPENSSL_cleanse(all, sizeof all);
	return KT_OK;
}

kt_code kt_token_kcv(kt_token *t, const kt_token_key *key, char out[KT_KCV_TEXT], kt_err *err)
{
	return kt_p11_kcv(t, key->handle, out, err);
}

kt_code kt_p11_seal(kt_token *t, CK_OBJECT_HANDLE key, kt_blob *blob, kt_err *err)
{
	uint8_t input[KT_BLOB_MAC_INPUT_MAX];
	const char *wrong = kt_blob_broken(blob);
	if (wrong)
		return kt_fail(err, KT_E_INTERNAL, NULL, "a wrapped key cannot be sealed: %s", wrong);
	return mac(t, key, input, kt_blob_mac_input(blob, input), blob->mac, err);
}

kt_code kt_p11_check_blob(kt_token *t, CK_OBJECT_HANDLE key, const kt_blob *blob, kt_err *err)
{
	char kcv[KT_KCV_TEXT];
	uint8_t input[KT_BLOB_MAC_INPUT_MAX], made[KT_BLOB_MAC_LEN];
	KT_TRY(kt_p11_kcv(t, key, kcv, err));
	if (strcmp(kcv, blob->kcv) != 0)
		return kt_fail(err, KT_E_KEY, "take the blob again from where it was made; do not edit it",
			       "%s: the unwrapped key has check value %s, the blob says %s", t->name, kcv, blob->kcv);
	KT_TRY(mac(t, key, input, kt_blob_mac_input(blob, input), made, err));
	if (CRYPTO_memcmp(made, blob->mac, sizeof made) == 0)
		return KT_OK;
	return kt_err_prefix(err, kt_blob_mac_differs(err), "%s", t->name);
}

kt_code kt_token_proof(kt_token *t, const kt_token_key *key, const char *label, const void *nonce, size_t nonce_len,
		       uint8_t out[KT_PROOF_LEN], kt_err *err)
{
	uint8_t input[KT_PROOF_INPUT_MAX];
	size_t n = 0;
	KT_TRY(kt_proof_input(label, nonce, nonce_len, input, &n, err));
	return mac(t, key->handle, input, n, out, err);
}

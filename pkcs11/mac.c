/* SPDX-License-Identifier: Apache-2.0 */
#include "pkcs11/mac.h"

#include <openssl/crypto.h>
#include <string.h>

#include "pkcs11/internal.h"

enum { BLOCK = KT_CMAC_LEN };

static kt_code cmac(kt_token *t, CK_OBJECT_HANDLE key, const uint8_t *bytes, size_t n, uint8_t out[BLOCK], kt_err *err)
{
	/* PKCS#11 takes the input as non-const and does not write to it; a copy keeps that honest. */
	uint8_t input[KT_BLOB_MAC_INPUT_MAX];
	CK_MECHANISM m = {CKM_AES_CMAC, NULL, 0};
	CK_ULONG len = BLOCK;
	_Static_assert((int)KT_BLOB_MAC_INPUT_MAX >= (int)KT_PROOF_INPUT_MAX, "room for each input");
	memcpy(input, bytes, n);
	KT_TRY(P11(t, err, C_SignInit, t->session, &m, key));
	KT_TRY(P11(t, err, C_Sign, t->session, input, n, out, &len));
	if (len != BLOCK)
		return kt_fail(err, KT_E_HSM, "use another token", "%s: its AES-CMAC has %lu bytes instead of %d",
			       t->name, len, BLOCK);
	return KT_OK;
}

kt_code kt_p11_kcv(kt_token *t, CK_OBJECT_HANDLE key, char out[KT_KCV_TEXT], kt_err *err)
{
	static const uint8_t zeros[BLOCK];
	uint8_t mac[BLOCK];
	KT_TRY(cmac(t, key, zeros, sizeof zeros, mac, err));
	kt_kcv_text(mac, out);
	OPENSSL_cleanse(mac, sizeof mac);
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
	return cmac(t, key, input, kt_blob_mac_input(blob, input), blob->mac, err);
}

kt_code kt_p11_check_blob(kt_token *t, CK_OBJECT_HANDLE key, const kt_blob *blob, kt_err *err)
{
	char kcv[KT_KCV_TEXT];
	uint8_t input[KT_BLOB_MAC_INPUT_MAX], mac[KT_BLOB_MAC_LEN];
	KT_TRY(kt_p11_kcv(t, key, kcv, err));
	if (strcmp(kcv, blob->kcv) != 0)
		return kt_fail(err, KT_E_KEY, "take the blob again from where it was made; do not edit it",
			       "%s: the unwrapped key has check value %s, the blob says %s", t->name, kcv, blob->kcv);
	KT_TRY(cmac(t, key, input, kt_blob_mac_input(blob, input), mac, err));
	if (CRYPTO_memcmp(mac, blob->mac, sizeof mac) == 0)
		return KT_OK;
	return kt_err_prefix(err, kt_blob_mac_differs(err), "%s", t->name);
}

kt_code kt_token_proof(kt_token *t, const kt_token_key *key, const char *label, const void *nonce, size_t nonce_len,
		       uint8_t out[KT_PROOF_LEN], kt_err *err)
{
	uint8_t input[KT_PROOF_INPUT_MAX];
	size_t n = 0;
	KT_TRY(kt_proof_input(label, nonce, nonce_len, input, &n, err));
	return cmac(t, key->handle, input, n, out, err);
}

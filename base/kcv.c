/* SPDX-License-Identifier: Apache-2.0 */
#include "base/kcv.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <string.h>

enum { KEY_LEN = 32, BLOCK = KT_CMAC_LEN };

static bool cmac(EVP_MAC_CTX *ctx, const kt_secret *key, const uint8_t *bytes, size_t n, uint8_t out[BLOCK])
{
	char cipher[] = "AES-256-CBC";
	OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_CIPHER, cipher, 0),
			       OSSL_PARAM_construct_end()};
	size_t len = 0;
	return EVP_MAC_init(ctx, key->data, key->len, params) == 1 && EVP_MAC_update(ctx, bytes, n) == 1 &&
	       EVP_MAC_final(ctx, out, &len, BLOCK) == 1 && len == BLOCK;
}

kt_code kt_cmac_of(const kt_secret *key, const uint8_t *bytes, size_t n, uint8_t out[BLOCK], kt_err *err)
{
	if (key->len != KEY_LEN)
		return kt_fail(err, KT_E_KEY, NULL, "an AES-256 key has %d bytes, this one has %zu", KEY_LEN, key->len);
	EVP_MAC *mac = EVP_MAC_fetch(NULL, "CMAC", NULL);
	EVP_MAC_CTX *ctx = mac ? EVP_MAC_CTX_new(mac) : NULL;
	bool done = ctx && cmac(ctx, key, bytes, n, out);
	EVP_MAC_CTX_free(ctx);
	EVP_MAC_free(mac);
	return done ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "AES-CMAC is not available in libcrypto");
}

void kt_kcv_text(const uint8_t mac[KT_KCV_LEN], char out[KT_KCV_TEXT])
{
	static const char digits[] = "0123456789abcdef";
	for (size_t i = 0; i < KT_KCV_LEN; i++) {
		out[2 * i] = digits[mac[i] >> 4];
		out[2 * i + 1] = digits[mac[i] & 15];
	}
	out[KT_KCV_TEXT - 1] = '\0';
}

kt_code kt_kcv_of(const kt_secret *key, char out[KT_KCV_TEXT], kt_err *err)
{
	static const uint8_t zeros[BLOCK];
	uint8_t mac[BLOCK];
	KT_TRY(kt_cmac_of(key, zeros, sizeof zeros, mac, err));
	kt_kcv_text(mac, out);
	OPENSSL_cleanse(mac, sizeof mac);
	return KT_OK;
}

void kt_mac_key_input(unsigned i, uint8_t out[KT_MAC_KEY_INPUT])
{
	static const char label[] = KT_MAC_KEY_LABEL; /* with its NUL, which is the 0x00 after it */
	_Static_assert(4 + sizeof label + 4 == KT_MAC_KEY_INPUT, "[i] || Label || 0x00 || [L]");
	const uint8_t bits[4] = {0, 0, 1, 0}; /* 256 */
	const uint8_t counter[4] = {0, 0, 0, (uint8_t)i};
	memcpy(out, counter, sizeof counter);
	memcpy(out + 4, label, sizeof label);
	memcpy(out + 4 + sizeof label, bits, sizeof bits);
}

kt_code kt_mac_key_of(const kt_secret *key, kt_secret *out, kt_err *err)
{
	uint8_t input[KT_MAC_KEY_INPUT];
	kt_code rc = KT_OK;
	KT_TRY(kt_secret_new(out, (size_t)KT_MAC_KEY_BLOCKS * BLOCK, err));
	for (unsigned i = 0; rc == KT_OK && i < KT_MAC_KEY_BLOCKS; i++) {
		kt_mac_key_input(i + 1, input);
		rc = kt_cmac_of(key, input, sizeof input, out->data + (size_t)i * BLOCK, err);
	}
	if (rc != KT_OK)
		kt_secret_free(out);
	return rc;
}

kt_code kt_mac_of(const kt_secret *key, const uint8_t *bytes, size_t n, uint8_t out[BLOCK], kt_err *err)
{
	kt_secret under;
	KT_TRY(kt_mac_key_of(key, &under, err));
	kt_code rc = kt_cmac_of(&under, bytes, n, out, err);
	kt_secret_free(&under);
	return rc;
}

kt_code kt_proof_input(const char *label, const void *nonce, size_t nonce_len, uint8_t out[KT_PROOF_INPUT_MAX],
		       size_t *n, kt_err *err)
{
	size_t len = strnlen(label, KT_PROOF_LABEL_MAX + 1);
	if (len == 0 || len > KT_PROOF_LABEL_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "the label of a proof must have 1 to %d bytes",
			       KT_PROOF_LABEL_MAX);
	if (nonce_len < KT_PROOF_NONCE_MIN || nonce_len > KT_PROOF_NONCE_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "the nonce of a proof must have %d to %d bytes, this one has %zu",
			       KT_PROOF_NONCE_MIN, KT_PROOF_NONCE_MAX, nonce_len);
	memcpy(out, label, len);
	out[len] = 0;
	memcpy(out + len + 1, nonce, nonce_len);
	*n = len + 1 + nonce_len;
	return KT_OK;
}

kt_code kt_proof_of(const kt_secret *key, const char *label, const void *nonce, size_t nonce_len,
		    uint8_t out[KT_PROOF_LEN], kt_err *err)
{
	uint8_t input[KT_PROOF_INPUT_MAX];
	size_t n = 0;
	KT_TRY(kt_proof_input(label, nonce, nonce_len, input, &n, err));
	return kt_mac_of(key, input, n, out, err);
}

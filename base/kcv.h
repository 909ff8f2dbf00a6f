/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Check value, MACs and proof of possession of an AES-256 key, with libcrypto. The token computes the same over a key
 * that never leaves it (pkcs11/mac.h). AES-CMAC: SP 800-38B, RFC 4493.
 *
 * MACs and proofs are not made under the key itself but under its MAC key: the KDF in counter mode of SP 800-108r1,
 * section 4.1, with AES-CMAC under the key: K(i) = CMAC([i] || Label || 0x00 || [L]), i = 1, 2, both numbers of 4
 * bytes, big endian, Label KT_MAC_KEY_LABEL, no context, L = 256; the MAC key is K(1) || K(2). It tells nothing of the
 * key, so a token is asked for it once, and what is to be authenticated needs no token.
 */
#ifndef KT_BASE_KCV_H
#define KT_BASE_KCV_H

#include "base/secret.h"

enum {
	KT_KCV_LEN = 3,  /* bytes */
	KT_KCV_TEXT = 7, /* as lower-case hex with its NUL */
	KT_CMAC_LEN = 16,
	KT_PROOF_LEN = KT_CMAC_LEN,
	KT_PROOF_LABEL_MAX = 256, /* bytes; the label names the run and the node */
	KT_PROOF_NONCE_MIN = 16,
	KT_PROOF_NONCE_MAX = 64,
	KT_PROOF_INPUT_MAX = KT_PROOF_LABEL_MAX + 1 + KT_PROOF_NONCE_MAX,
	KT_MAC_KEY_BLOCKS = 2, /* K(1), K(2), of KT_CMAC_LEN bytes each */
	KT_MAC_KEY_INPUT = 22  /* bytes of what each is taken over */
};

/* How the check value is made: the first 3 bytes of AES-CMAC over one block of zeros. */
#define KT_KCV_METHOD "cmac-zero16"

#define KT_MAC_KEY_LABEL "keyturn-mac/1"

/* AES-CMAC over n bytes. KT_E_KEY unless the key has 32 bytes. */
KT_MUST_CHECK kt_code kt_cmac_of(const kt_secret *key, const uint8_t *bytes, size_t n, uint8_t out[KT_CMAC_LEN],
				 kt_err *err);
/* The check value. Errors as above. */
KT_MUST_CHECK kt_code kt_kcv_of(const kt_secret *key, char out[KT_KCV_TEXT], kt_err *err);
/* The MAC key of a key, a new secret: the caller's. Errors as above. */
KT_MUST_CHECK kt_code kt_mac_key_of(const kt_secret *key, kt_secret *out, kt_err *err);
/* What K(i) is taken over. For the token's side. */
void kt_mac_key_input(unsigned i, uint8_t out[KT_MAC_KEY_INPUT]);
/* AES-CMAC over n bytes under the MAC key of `key`. Errors as above. */
KT_MUST_CHECK kt_code kt_mac_of(const kt_secret *key, const uint8_t *bytes, size_t n, uint8_t out[KT_CMAC_LEN],
				kt_err *err);
/* The same over label || 0x00 || nonce. The label has 1..256 bytes, the nonce 16..64 (fresh random). */
KT_MUST_CHECK kt_code kt_proof_of(const kt_secret *key, const char *label, const void *nonce, size_t nonce_len,
				  uint8_t out[KT_PROOF_LEN], kt_err *err);
/* The bytes that a proof is taken over, into `out`; *n is their number. For the token's side. KT_E_INPUT for a bad
 * length. */
KT_MUST_CHECK kt_code kt_proof_input(const char *label, const void *nonce, size_t nonce_len,
				     uint8_t out[KT_PROOF_INPUT_MAX], size_t *n, kt_err *err);
/* The check value as text from the first bytes of a CMAC over the zero block. */
void kt_kcv_text(const uint8_t mac[KT_KCV_LEN], char out[KT_KCV_TEXT]);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node's own RSA key pair in a token. Its private half is made there and stays there; the HSM wraps new keys to its
 * public half by RSA-OAEP, and here they are opened.
 *
 *            TOKEN PRIVATE SENSITIVE EXTRACTABLE DECRYPT  UNWRAP  SIGN SIGN_RECOVER DERIVE
 *   private    1      1        1          0      one of them is 1    0      0          0
 *
 * Each attribute is given, read back and compared; a new pair that came out otherwise is destroyed. What is found must
 * be the same: a key that signs, or that can leave the token, is refused.
 */
#ifndef KT_PKCS11_TRANSPORT_H
#define KT_PKCS11_TRANSPORT_H

#include "base/codec.h"
#include "base/secret.h"
#include "pkcs11/key.h"

enum {
	KT_TRANSPORT_KEY_MIN_BITS = 2048, /* SP 800-56B r2 §6.2; a TPM may do no more: 112 bits of security */
	KT_TRANSPORT_KEY_MAX_BITS = 4096,
	KT_TRANSPORT_KEYS_MAX = 16, /* under one name in one token */
	KT_TRANSPORT_SPKI_MAX = 1024
};

/* A pair of the token that it came from; valid until that token is closed. Holds nothing secret. */
typedef struct kt_token_transport {
	unsigned long handle;  /* CK_OBJECT_HANDLE of the private half */
	bool decrypt, unwrap;  /* how it may open: CKA_DECRYPT, CKA_UNWRAP */
	unsigned bits;         /* of the modulus */
	uint8_t id[KT_URI_ID]; /* CKA_ID, the same for both halves */
	size_t id_len;
	uint8_t spki[KT_TRANSPORT_SPKI_MAX]; /* the public half: SubjectPublicKeyInfo (RFC 5280 §4.1) in DER */
	size_t spki_len;
	char spki_sha256[KT_SHA256_HEX]; /* of that, hex */
} kt_token_transport;

/*
 * The pairs of this name (label, id, or both; see kt_token_key_name), each checked as above. *n of them into `out`,
 * which has room for KT_TRANSPORT_KEYS_MAX; none is no error, once the token itself was seen to be there. KT_E_REFUSED:
 * one of them is not as it must be, or there are more.
 */
KT_MUST_CHECK kt_code kt_token_transport_list(kt_token *t, const kt_token_key_name *name, kt_token_transport *out,
					      size_t *n, kt_err *err);
/*
 * Make a pair of `bits` (2048 to 4096, a multiple of 256) under a label and, when none is given, a random id of 16
 * bytes; where the token does no such length, the next shorter of 4096, 3072, 2048 (out->bits tells). KT_E_HSM: the
 * token makes none; KT_E_REFUSED: it made one that is not as it must be, which is destroyed again.
 */
KT_MUST_CHECK kt_code kt_token_transport_make(kt_token *t, const kt_token_key_name *name, unsigned bits,
					      kt_token_transport *out, kt_err *err);
/*
 * Open `n` bytes, as long as the modulus, that RSA-OAEP (RFC 8017 §7.1; hash and MGF1 hash alike, SHA-256 or SHA-1, no
 * label) gave for the public half: by C_Decrypt where the key may, else by C_UnwrapKey into a readable session key and
 * reading it. *out is the caller's. KT_E_KEY: it does not open (damaged, or for another key); KT_E_HSM: the token does
 * not do this hash, or failed.
 */
KT_MUST_CHECK kt_code kt_token_transport_open(kt_token *t, const kt_token_transport *key, bool sha256,
					      const uint8_t *wrapped, size_t n, kt_secret *out, kt_err *err);
/* Destroy both halves for good. */
KT_MUST_CHECK kt_code kt_token_transport_destroy(kt_token *t, const kt_token_transport *key, kt_err *err);

#endif

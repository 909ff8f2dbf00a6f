/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AES-256 keys in a token. Every attribute that matters is given explicitly, read back, and compared; a key that came
 * out otherwise is destroyed and the call fails (tokens ignore parts of templates).
 *
 *                   TOKEN PRIVATE SENSITIVE EXTRACTABLE WRAP UNWRAP SIGN VERIFY ENCRYPT DECRYPT
 *   wrapping key      1      1        1         0         1    1     1     1       0       0     (escrow; CMK of a
 * keystore) cluster key      0/1     1        1         1         0    0     1     1       0       0     (is wrapped
 * for the nodes)
 *
 * SIGN and VERIFY serve AES-CMAC alone: check value and proof of possession (pkcs11/mac.h). A new key that the token
 * calls once readable or extractable is destroyed, too; of a wrapping key that is found so, a warning is logged. A
 * wrapping key of fewer than 256 bits is refused.
 */
#ifndef KT_PKCS11_KEY_H
#define KT_PKCS11_KEY_H

#include "base/kcv.h"
#include "pkcs11/token.h"

/* A key of the token that it came from; valid until that token is closed. Holds nothing secret. */
typedef struct kt_token_key {
	unsigned long handle; /* CK_OBJECT_HANDLE */
	bool on_token;        /* false: a session object, gone with the session */
	char label[KT_URI_OBJECT];
	uint8_t id[KT_URI_ID]; /* CKA_ID */
	size_t id_len;
	char kcv[KT_KCV_TEXT]; /* computed in the token, method KT_KCV_METHOD */
} kt_token_key;

/* The name of a key that is to be made or found. */
typedef struct kt_token_key_name {
	const char *label; /* 1..128 bytes; NULL in a search: any */
	const uint8_t *id; /* CKA_ID */
	size_t id_len;     /* 0..64; 0 in a search: any; 0 in making: random 16 bytes */
} kt_token_key_name;

/* Make a wrapping key on the token. KT_E_REFUSED when one with this label (or id) is there already. */
KT_MUST_CHECK kt_code kt_token_create_wrapping_key(kt_token *t, const kt_token_key_name *name, kt_token_key *out,
						   kt_err *err);
/*
 * Find the one wrapping key. KT_E_KEY when there is none (after the token itself was seen to be there) or more than
 * one, KT_E_REFUSED when its attributes are not those of a wrapping key (extractable, not sensitive, may decrypt).
 */
KT_MUST_CHECK kt_code kt_token_find_wrapping_key(kt_token *t, const kt_token_key_name *name, kt_token_key *out,
						 kt_err *err);

/*
 * The cluster key with this id (required): found, or made when there is none. Idempotent, so that a resumed run gets
 * the key that it made before. *made tells which. A key found under the id but with another label or other attributes
 * is KT_E_REFUSED.
 */
KT_MUST_CHECK kt_code kt_token_ensure_cluster_key(kt_token *t, const kt_token_key_name *name, bool on_token,
						  kt_token_key *out, bool *made, kt_err *err);
/* Find the one cluster key of this name. Errors as for kt_token_find_wrapping_key. */
KT_MUST_CHECK kt_code kt_token_find_cluster_key(kt_token *t, const kt_token_key_name *name, kt_token_key *out,
						kt_err *err);

/* Is there a key of this name (label, id, or both), of whatever kind? The token itself was seen to be there. */
KT_MUST_CHECK kt_code kt_token_has_key(kt_token *t, const kt_token_key_name *name, bool *has, kt_err *err);

/* Destroy the object; key->handle is 0 afterwards. A key whose handle is 0 already is fine. */
KT_MUST_CHECK kt_code kt_token_destroy_key(kt_token *t, kt_token_key *key, kt_err *err);

#endif

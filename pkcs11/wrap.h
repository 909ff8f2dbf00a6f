/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Wrapping and unwrapping in the token (C_WrapKey, C_UnwrapKey). Which format a token's mechanism really gives is found
 * by a round trip with throw-away keys that is checked with libcrypto, once per open token; flags and mechanism names
 * are not believed. Formats: under a wrapping key RFC 5649, else RFC 3394 (SP 800-38F); to an RSA key RSA-OAEP (RFC
 * 8017 §7.1) with SHA-256 and MGF1-SHA-256, else both with SHA-1, else composed of OAEP and RFC 5649, which is what the
 * mechanism CKM_RSA_AES_KEY_WRAP gives. PKCS#1 v1.5 and CBC never.
 */
#ifndef KT_PKCS11_WRAP_H
#define KT_PKCS11_WRAP_H

#include "base/secret.h"
#include "pkcs11/key.h"
#include "pkcs11/transport.h"
#include "wire/blob.h"

/* A node's RSA public key, imported as a session object. */
typedef struct kt_token_node_key {
	unsigned long handle;
	unsigned bits;
	char spki_sha256[65]; /* hex of the SHA-256 of the SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), DER */
} kt_token_node_key;

enum { KT_NODE_KEY_MIN_BITS = 2048, KT_NODE_KEY_MAX_BITS = 8192 };

/* Import a SubjectPublicKeyInfo, DER or PEM. KT_E_INPUT when it is not one, KT_E_REFUSED when it is not RSA, is too
 * short or has an unfit exponent. Give it back with kt_token_drop_node_key (or by closing the token). */
KT_MUST_CHECK kt_code kt_token_import_node_key(kt_token *t, const void *spki, size_t n, kt_token_node_key *out,
					       kt_err *err);
void kt_token_drop_node_key(kt_token *t, kt_token_node_key *node);

/* Wrap a cluster key to an RSA key: a node's (purpose KT_BLOB_TRANSPORT or KT_BLOB_REHEARSAL, with run and node) or a
 * custodian's (KT_BLOB_CUSTODIAN, with custodian). By the best format that the token does and address->accepts has:
 * rsa-oaep-sha256, rsa-oaep-sha1, and then the composed ones. The blob is complete, its MAC made by the key in the
 * token. */
KT_MUST_CHECK kt_code kt_token_wrap_for_node(kt_token *t, const kt_token_key *key, const kt_token_node_key *node,
					     const kt_blob_address *address, kt_blob *out, kt_err *err);
/* Wrap a cluster key under a wrapping key; purpose KT_BLOB_ESCROW or KT_BLOB_KEK. */
KT_MUST_CHECK kt_code kt_token_wrap_under(kt_token *t, const kt_token_key *key, const kt_token_key *wrapping,
					  const kt_blob_address *address, kt_blob *out, kt_err *err);
/*
 * Unwrap what kt_token_wrap_under made into a session object with the attributes of a cluster key, read back, and check
 * KCV and MAC of the blob with it. KT_E_KEY when the blob was changed or is of another wrapping key, KT_E_HSM when the
 * token cannot do the blob's format. The caller destroys the key.
 */
KT_MUST_CHECK kt_code kt_token_unwrap_under(kt_token *t, const kt_blob *blob, const kt_token_key *wrapping,
					    kt_token_key *out, kt_err *err);

/*
 * A cluster key (by label and id) for wrapping to one node after the other: a session object that came out of wrapping
 * the key under a wrapping key of the token, as from its escrow; KCV and MAC are checked, and it has the same
 * attributes but for CKA_TOKEN. Made once in a session, so that the key need not be looked for and read back for each
 * node; besides, a token object may be read from its file each time that it is used (SoftHSM). It ends with the
 * session, or with the key (kt_token_destroy_key): not to be destroyed. Errors as of finding the keys and of
 * unwrapping.
 */
KT_MUST_CHECK kt_code kt_token_working_key(kt_token *t, const kt_token_key_name *name,
					   const kt_token_key_name *wrapping, kt_token_key *out, kt_err *err);
/*
 * Open a blob of an RSA format (a custodian's) within the token that has the private key, which must be one that may
 * unwrap, into a session object as kt_token_unwrap_under gives. Errors as there; KT_E_KEY also when the blob is for
 * another RSA key.
 */
KT_MUST_CHECK kt_code kt_token_unwrap_rsa(kt_token *t, const kt_blob *blob, const kt_token_transport *private_key,
					  kt_token_key *out, kt_err *err);

/* What this token was found to do; names of mechanisms ("CKM_AES_KEY_WRAP_PAD") or NULL where none does it. */
typedef struct kt_token_formats {
	const char *rfc5649;
	const char *rfc3394;
	const char *oaep_sha256;
	const char *oaep_sha1;
} kt_token_formats;
KT_MUST_CHECK kt_code kt_token_probe_formats(kt_token *t, kt_token_formats *out, kt_err *err);

/*
 * For a keystore whose CMK is the wrapping key: the KEK has to be in this process (libcrypto uses it), the CMK stays.
 * make: generated in the token, wrapped under the CMK, and read once. import: a given KEK goes in as a session object
 * and is wrapped. export: unwrapped into a readable session object, read, destroyed. 32 bytes each.
 */
KT_MUST_CHECK kt_code kt_token_make_kek(kt_token *t, const kt_token_key *cmk, kt_secret *kek, kt_blob *out,
					kt_err *err);
KT_MUST_CHECK kt_code kt_token_import_kek(kt_token *t, const kt_token_key *cmk, const kt_secret *kek, kt_blob *out,
					  kt_err *err);
KT_MUST_CHECK kt_code kt_token_export_kek(kt_token *t, const kt_token_key *cmk, const kt_blob *blob, kt_secret *kek,
					  kt_err *err);
/* `len` bytes of the token's own generator (C_GenerateRandom). KT_E_REFUSED: it says that it has none (CKF_RNG). */
KT_MUST_CHECK kt_code kt_token_random(kt_token *t, size_t len, kt_secret *out, kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A wrapped AES-256 key as a self-describing JSON object (docs/FORMATS.md, "Blob"). It holds no secret in the clear. It
 * records the format of the wrapping by its standard, not only by a vendor's mechanism, and which key unwraps it.
 *
 *   {"v":1, "purpose":"escrow"|"kek"|"transport"|"rehearsal",
 *    "format":"rfc5649"|"rfc3394"|"rsa-oaep-sha256"|"rsa-oaep-sha1", "mechanism":"CKM_...",
 *    "token":{"label","manufacturer","serial","model"},      (absent when no token made it)
 *    "wrapping_key":{"label","id","kcv"} (escrow, kek) or {"spki_sha256"} (transport, rehearsal),
 *    "key":{"type":"aes","bits":256,"kcv":"a1b2c3","kcv_method":"cmac-zero16"},
 *    "run":"...", "node":"...",                              (absent when empty)
 *    "wrapped":"base64"}
 */
#ifndef KT_WIRE_BLOB_H
#define KT_WIRE_BLOB_H

#include <openssl/evp.h>

#include "base/json.h"
#include "base/kcv.h"
#include "base/secret.h"

typedef enum kt_blob_purpose {
	KT_BLOB_ESCROW,    /* the new cluster key under the HSM's long-lived wrapping key */
	KT_BLOB_KEK,       /* the KEK of a store under its CMK */
	KT_BLOB_TRANSPORT, /* the new cluster key to a node's transport key */
	KT_BLOB_REHEARSAL  /* a throw-away key to a node's transport key */
} kt_blob_purpose;

typedef enum kt_blob_format {
	KT_BLOB_RFC5649,         /* AES key wrap with padding, KWP of SP 800-38F */
	KT_BLOB_RFC3394,         /* AES key wrap, KW */
	KT_BLOB_RSA_OAEP_SHA256, /* RFC 8017 §7.1; hash and MGF1 hash alike, no label */
	KT_BLOB_RSA_OAEP_SHA1
} kt_blob_format;

enum {
	KT_BLOB_WRAPPED_MAX = 1024, /* RSA-8192 */
	KT_BLOB_NAME = 129,         /* sizes of texts with the NUL */
	KT_BLOB_ID_HEX = 129,
	KT_BLOB_KEY_BITS = 256
};

/*
 * Invariants: (1) spki_sha256 is set exactly for RSA formats, wrapping.kcv exactly for AES ones; (2) the format fits
 * the purpose (RSA: transport and rehearsal); (3) wrapped_len is 40 for AES formats and a multiple of 8 of at least 256
 * for RSA.
 */
typedef struct kt_blob {
	kt_blob_purpose purpose;
	kt_blob_format format;
	char mechanism[48];
	struct {
		char label[33], manufacturer[33], serial[17], model[17]; /* all empty: made without a token */
	} token;
	struct {
		char label[KT_BLOB_NAME], id[KT_BLOB_ID_HEX], kcv[KT_KCV_TEXT]; /* id in hex */
	} wrapping;
	char spki_sha256[65];
	char kcv[KT_KCV_TEXT];
	char run[KT_BLOB_NAME];
	char node[KT_BLOB_NAME];
	uint8_t wrapped[KT_BLOB_WRAPPED_MAX];
	size_t wrapped_len;
} kt_blob;

const char *kt_blob_format_name(kt_blob_format format);
const char *kt_blob_purpose_name(kt_blob_purpose purpose);

/* The blob as a new JSON object, the caller's: cJSON_Delete. KT_E_INTERNAL when an invariant does not hold. */
KT_MUST_CHECK kt_code kt_blob_to_json(const kt_blob *blob, cJSON **out, kt_err *err);
/* Strict: unknown, missing or over-long members, wrong versions, types and lengths are KT_E_INPUT. */
KT_MUST_CHECK kt_code kt_blob_from_json(const cJSON *json, kt_blob *out, kt_err *err);
/* The same from and to text without comments. */
KT_MUST_CHECK kt_code kt_blob_to_text(const kt_blob *blob, kt_buf *out, kt_err *err);
KT_MUST_CHECK kt_code kt_blob_from_text(const char *name, const void *text, size_t n, kt_blob *out, kt_err *err);

/*
 * Open an RSA blob with the private key and check the key's KCV against the blob's. KT_E_KEY when the blob is for
 * another key (spki_sha256 differs), was damaged, or holds a key with another check value; KT_E_INPUT when it is not an
 * RSA blob.
 */
KT_MUST_CHECK kt_code kt_blob_unwrap_rsa(const kt_blob *blob, EVP_PKEY *priv, kt_secret *out, kt_err *err);
/* Hex of the SHA-256 of a key's SubjectPublicKeyInfo in DER. */
KT_MUST_CHECK kt_code kt_blob_spki_sha256(EVP_PKEY *key, char out[65], kt_err *err);
/* Wrap and open the AES formats with libcrypto, for keys that are in this process (keystores `file:` and `env:`,
 * recovery). wrap fills format RFC 5649, wrapped, both check values and the mechanism name. Errors as above. */
KT_MUST_CHECK kt_code kt_blob_wrap_aes(kt_blob *blob, const kt_secret *wrapping, const kt_secret *key, kt_err *err);
KT_MUST_CHECK kt_code kt_blob_unwrap_aes(const kt_blob *blob, const kt_secret *wrapping, kt_secret *out, kt_err *err);

#endif

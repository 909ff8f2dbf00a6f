/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A wrapped AES-256 key as a self-describing JSON object (docs/FORMATS.md, section 5). It holds no secret in the clear.
 * It records the format of the wrapping by its standard, not only by a vendor's mechanism, and which key unwraps it;
 * and all of it is under a MAC by the very key that it carries, so that whoever opens it knows whether anything was
 * changed.
 *
 *   {"v":2, "purpose":"escrow"|"kek"|"transport"|"rehearsal"|"custodian",
 *    "format":"rfc5649"|"rfc3394"|"rsa-oaep-sha256"|"rsa-oaep-sha1"|"rsa-aes-sha256"|"rsa-aes-sha1"|"aws-kms",
 *    "mechanism":"CKM_...", "mechanism_id":"0000210a",       (the second absent when no token made it)
 *    "token":{"label","manufacturer","serial","model"},      (absent when no token made it)
 *    "wrapping_key":{"label","id","kcv"} (escrow, kek) or {"spki_sha256"} (transport, rehearsal, custodian)
 *                     or {"arn"} (kek, format aws-kms),
 *    "key":{"type":"aes","bits":256,"kcv":"a1b2c3","kcv_method":"cmac-zero16"},
 *    "run":"...", "node":"...", "custodian":"...",           (each absent when empty)
 *    "wrapped":"base64", "mac":"hex"}
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
	KT_BLOB_REHEARSAL, /* a throw-away key to a node's transport key */
	KT_BLOB_CUSTODIAN, /* the new cluster key to a custodian's public key: an escrow that needs no HSM of ours */
	KT_BLOB_PURPOSES
} kt_blob_purpose;

typedef enum kt_blob_format {
	KT_BLOB_RFC5649,         /* AES key wrap with padding, KWP of SP 800-38F */
	KT_BLOB_RFC3394,         /* AES key wrap, KW */
	KT_BLOB_RSA_OAEP_SHA256, /* RFC 8017 §7.1; hash and MGF1 hash alike, no label */
	KT_BLOB_RSA_OAEP_SHA1,
	KT_BLOB_RSA_AES_SHA256, /* OAEP of an ephemeral AES-256 key, then RFC 5649 under that key: the bytes of */
	KT_BLOB_RSA_AES_SHA1,   /* CKM_RSA_AES_KEY_WRAP (PKCS#11 v3.0 Current Mechanisms, "RSA AES KEY WRAP") */
	KT_BLOB_AWS_KMS,        /* a CiphertextBlob of AWS KMS, opaque to everybody else */
	KT_BLOB_FORMATS
} kt_blob_format;

enum {
	KT_BLOB_AES_WRAPPED = 40,                         /* bytes of a key of 32 by either AES key wrap */
	KT_BLOB_WRAPPED_MAX = 1024 + KT_BLOB_AES_WRAPPED, /* RSA-8192, and what is wrapped under the ephemeral key */
	KT_BLOB_KMS_MAX = 1024,                           /* bytes of AWS KMS for a key of 32; about 180 today */
	KT_BLOB_MECHANISM = 64,                           /* sizes of texts with the NUL */
	KT_BLOB_NAME = 129,
	KT_BLOB_ID_HEX = 129,
	KT_BLOB_KEY_BITS = 256,
	KT_BLOB_MAC_LEN = 16, /* AES-CMAC, SP 800-38B */
	KT_BLOB_MAC_INPUT_MAX = 2304
};

/*
 * Invariants: (1) spki_sha256 is set exactly for RSA formats, wrapping.kcv exactly for AES ones; (2) the format fits
 * the purpose (AES: escrow and kek; AWS KMS: kek; RSA: the others); (3) wrapped_len is 40 for AES formats, a multiple
 * of 8 of at least 256 for RSA-OAEP, and 40 more than that for RSA-AES, 33 to KT_BLOB_KMS_MAX for AWS KMS; (4) node is
 * set exactly for transport and rehearsal, where run is set, too; custodian exactly for purpose custodian; (5) for AWS
 * KMS wrapping.label is the key's ARN, and wrapping.id is empty.
 */
typedef struct kt_blob {
	kt_blob_purpose purpose;
	kt_blob_format format;
	char mechanism[KT_BLOB_MECHANISM];
	uint32_t mechanism_id; /* CK_MECHANISM_TYPE; of the two in "A+B" the second; 0: made without a token */
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
	char custodian[KT_BLOB_NAME];
	uint8_t wrapped[KT_BLOB_WRAPPED_MAX];
	size_t wrapped_len;
	uint8_t mac[KT_BLOB_MAC_LEN];
} kt_blob;

/* What a blob is for and whom it is for: what its maker has to say, for it is under the MAC. Texts are borrowed; NULL
 * stands for none. */
typedef struct kt_blob_address {
	kt_blob_purpose purpose;
	const char *run;
	const char *node;
	const char *custodian;
	unsigned accepts; /* bits 1 << kt_blob_format of what the receiver opens; 0: every format */
} kt_blob_address;

/* An empty blob with this address. KT_E_INPUT when a name is longer than KT_BLOB_NAME - 1 bytes. */
KT_MUST_CHECK kt_code kt_blob_begin(const kt_blob_address *address, kt_blob *out, kt_err *err);
/* Is the receiver's key an RSA key? */
bool kt_blob_is_rsa(kt_blob_format format);
/* Is it an AES key, by either AES key wrap? */
bool kt_blob_is_aes(kt_blob_format format);
/* Is it OAEP of an ephemeral AES key, and the key wrapped under that one? */
bool kt_blob_is_composed(kt_blob_format format);
/* Does a format have OAEP with SHA-256 (else SHA-1)? Of RSA formats only. */
bool kt_blob_is_sha256(kt_blob_format format);
const char *kt_blob_format_name(kt_blob_format format);
const char *kt_blob_purpose_name(kt_blob_purpose purpose);

/* The invariants, executed: NULL when all hold, else what is wrong. */
const char *kt_blob_broken(const kt_blob *blob);

/* KT_E_REFUSED when a key was wrapped by a mechanism that is never used: PKCS#1 v1.5 and raw RSA, CBC, ECB. By its
 * name, also one of several joined by '+', or by its number (CK_MECHANISM_TYPE; 0: none). Asked of every blob
 * that is read, and before a token opens one. */
KT_MUST_CHECK kt_code kt_blob_refuse_mechanism(const char *name, uint32_t id, kt_err *err);

/* The blob as a new JSON object, the caller's: cJSON_Delete. KT_E_INTERNAL when an invariant does not hold. */
KT_MUST_CHECK kt_code kt_blob_to_json(const kt_blob *blob, cJSON **out, kt_err *err);
/* Strict: unknown, missing or over-long members, wrong versions, types and lengths are KT_E_INPUT; a
 * mechanism that is never used is KT_E_REFUSED. */
KT_MUST_CHECK kt_code kt_blob_from_json(const cJSON *json, kt_blob *out, kt_err *err);
/* The same from and to text without comments. */
KT_MUST_CHECK kt_code kt_blob_to_text(const kt_blob *blob, kt_buf *out, kt_err *err);
KT_MUST_CHECK kt_code kt_blob_from_text(const char *name, const void *text, size_t n, kt_blob *out, kt_err *err);

/*
 * The MAC: AES-CMAC under the key that the blob carries, over what kt_blob_mac_input gives (docs/FORMATS.md, section
 * 5); everything but the MAC itself is in it. seal sets kcv and mac of a blob that is complete otherwise (KT_E_INTERNAL
 * when it is not); check_key compares both with the key that was unwrapped, the MAC in constant time (KT_E_KEY). The
 * token does the same with a key that never leaves it (pkcs11/).
 */
size_t kt_blob_mac_input(const kt_blob *blob, uint8_t out[KT_BLOB_MAC_INPUT_MAX]);
KT_MUST_CHECK kt_code kt_blob_seal(kt_blob *blob, const kt_secret *key, kt_err *err);
KT_MUST_CHECK kt_code kt_blob_check_key(const kt_blob *blob, const kt_secret *key, kt_err *err);
/* What kt_blob_check_key fails with for another MAC; for the token's side. */
KT_MUST_CHECK kt_code kt_blob_mac_differs(kt_err *err);

/*
 * Open an RSA blob with the private key, and check KCV and MAC. KT_E_KEY when the blob is for another key (spki_sha256
 * differs), was changed or damaged; KT_E_INPUT when it is not an RSA blob.
 */
KT_MUST_CHECK kt_code kt_blob_unwrap_rsa(const kt_blob *blob, EVP_PKEY *priv, kt_secret *out, kt_err *err);
/*
 * The same where a token has the private key, which does the RSA step alone: `open` decrypts the n bytes of OAEP
 * (format KT_BLOB_RSA_OAEP_SHA256 or _SHA1) to the 32 bytes in them. spki_sha256 is that of the private key.
 */
typedef kt_code kt_blob_oaep_open(void *cookie, kt_blob_format oaep, const uint8_t *wrapped, size_t n, kt_secret *out,
				  kt_err *err);
KT_MUST_CHECK kt_code kt_blob_unwrap_rsa_by(const kt_blob *blob, const char *spki_sha256, kt_blob_oaep_open *open,
					    void *cookie, kt_secret *out, kt_err *err);
/* Is the blob for the RSA key with this digest? KT_E_KEY else. *oaep: how many bytes of `wrapped`, from its beginning,
 * are OAEP. */
KT_MUST_CHECK kt_code kt_blob_for_rsa(const kt_blob *blob, const char *spki_sha256, size_t *oaep, kt_err *err);
/* Wrap a key that is in this process to an RSA public key, in any RSA format. Fills a blob of kt_blob_begin but for the
 * token. */
KT_MUST_CHECK kt_code kt_blob_wrap_rsa(kt_blob *blob, EVP_PKEY *pub, kt_blob_format format, const kt_secret *key,
				       kt_err *err);
/* Hex of the SHA-256 of a key's SubjectPublicKeyInfo in DER. */
KT_MUST_CHECK kt_code kt_blob_spki_sha256(EVP_PKEY *key, char out[65], kt_err *err);
/* Wrap and open the AES formats with libcrypto, for keys that are in this process (keystores `file:` and `env:`,
 * recovery). wrap fills a blob of kt_blob_begin: format RFC 5649, wrapped, check values, mechanism name and MAC. Errors
 * as above. */
KT_MUST_CHECK kt_code kt_blob_wrap_aes(kt_blob *blob, const kt_secret *wrapping, const kt_secret *key, kt_err *err);
KT_MUST_CHECK kt_code kt_blob_unwrap_aes(const kt_blob *blob, const kt_secret *wrapping, kt_secret *out, kt_err *err);

/* Only the unwrapping, of n bytes in a format, into a key of 32 bytes that nothing was checked of: for finding out what
 * a token's mechanisms give, and for wrapped bytes that came without a blob. KT_E_KEY when they do not open. */
KT_MUST_CHECK kt_code kt_blob_open_aes(kt_blob_format format, const kt_secret *wrapping, const uint8_t *wrapped,
				       size_t n, kt_secret *out, kt_err *err);
KT_MUST_CHECK kt_code kt_blob_open_rsa(kt_blob_format format, EVP_PKEY *priv, const uint8_t *wrapped, size_t n,
				       kt_secret *out, kt_err *err);

#endif

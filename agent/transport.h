/* SPDX-License-Identifier: Apache-2.0 */
/*
 * This node's transport key: the RSA pair to whose public half new keys are wrapped, in a file of the state folder or
 * in a token of this node (agent/transportfile.h, agent/token.h). While it is being changed there are two, and a
 * wrapped key opens with whichever it was wrapped for. Which keys are in a token is in the record `transport.json`:
 *   {"keys":[{"uri":"pkcs11:...","environment":{...},"spki_sha256":"..."}]}
 */
#ifndef KT_AGENT_TRANSPORT_H
#define KT_AGENT_TRANSPORT_H

#include "base/buf.h"
#include "base/codec.h"
#include "base/json.h"
#include "base/secret.h"
#include "wire/blob.h"

/* Which key is asked for. */
typedef struct kt_transport_wish {
	const char *uri;          /* NULL: a file */
	const cJSON *environment; /* with a URI: what the token's module needs; NULL: nothing */
	unsigned bits;            /* of one that is made */
	const char *pinned;       /* hex SHA-256 of the SubjectPublicKeyInfo that the coordinator has; NULL: none */
	bool rotate;              /* another one than that */
} kt_transport_wish;

/* The key that it came to. */
typedef struct kt_transport_key {
	char spki_sha256[KT_SHA256_HEX];
	kt_buf public_pem; /* the caller's: kt_buf_free */
	int64_t bits;
	bool made;      /* just now */
	int64_t others; /* how many more transport keys this node has */
} kt_transport_key;

enum { KT_TRANSPORT_MAKE = -1 };

/*
 * Which of n keys (their digests) it is: the pinned one where it is asked for and there; else the one that is not
 * pinned; KT_TRANSPORT_MAKE when there is none. So a rotation that was broken off finds the key that it had made.
 * KT_E_KEY: there are several, and nothing says which.
 */
KT_MUST_CHECK kt_code kt_transport_choose(const char (*spki)[KT_SHA256_HEX], size_t n, const char *pinned, bool rotate,
					  int *which, kt_err *err);

/* Find or make the key. KT_E_KEY: a key file is damaged or open to others; KT_E_AUDIT: the record is damaged; KT_E_HSM:
 * the token. */
KT_MUST_CHECK kt_code kt_transport_ensure(const char *state, const kt_transport_wish *wish, kt_transport_key *out,
					  kt_err *err);
/* Open a blob with the key that it was wrapped for; checked as kt_blob_unwrap_rsa does. */
KT_MUST_CHECK kt_code kt_transport_unwrap(const char *state, const kt_blob *blob, kt_secret *key, kt_err *err);
/* The public half of the key with this digest: EVP_PKEY_free. KT_E_KEY: there is none. */
KT_MUST_CHECK kt_code kt_transport_public(const char *state, const char *spki_sha256, EVP_PKEY **out, kt_err *err);
/*
 * Destroy every transport key but the one with this digest. KT_E_KEY: that one is not there; nothing is destroyed then.
 * A key whose token cannot be reached stays in the record, is counted in *left, and *why says what is the matter. May
 * be repeated.
 */
KT_MUST_CHECK kt_code kt_transport_retire(const char *state, const char *keep, size_t *left, kt_err *why, kt_err *err);

#endif

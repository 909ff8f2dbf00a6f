/* SPDX-License-Identifier: Apache-2.0 */
/*
 * This node's token, where its transport key is in one. Module, login and sessions are in a process of their own
 * (`keyturn-agent token`, pkcs11/owner.h), started for one request and ended after it: the agent itself starts commands
 * of the application, and must not fork with a module initialised. A call that hangs, or a module that crashes, ends
 * that process alone.
 *
 * A PIN that the token refused is not tried again, by whichever agent: the record `pin-refused` in the state folder
 * names its file as it was, and is gone when the file has changed.
 */
#ifndef KT_AGENT_TOKEN_H
#define KT_AGENT_TOKEN_H

#include "base/codec.h"
#include "base/json.h"
#include "base/secret.h"
#include "pkcs11/owner.h"

/* Which token, and how to get at it. Borrowed. */
typedef struct kt_node_token {
	const char *state;        /* the agent's state folder */
	const char *uri;          /* pkcs11: URI; object and id name the key, object default keyturn-transport */
	const cJSON *environment; /* object of texts: what the module needs; NULL: nothing */
} kt_node_token;

/* The public half of a key in the token. */
typedef struct kt_node_token_key {
	char spki_sha256[KT_SHA256_HEX];
	kt_buf spki; /* SubjectPublicKeyInfo, DER; the caller's: kt_buf_free */
	bool made;   /* just now */
} kt_node_token_key;

/* Is it a URI for a node's key: no PIN in it or from anywhere but a file, and names of keys that fit? KT_E_INPUT. */
KT_MUST_CHECK kt_code kt_node_token_check(const char *uri, kt_err *err);
/* Find or make the key, as kt_transport_choose says. KT_E_HSM: the token; the message names it, and the remedy what to
 * do. */
KT_MUST_CHECK kt_code kt_node_token_ensure(const kt_node_token *t, unsigned bits, const char *pinned, bool rotate,
					   kt_node_token_key *out, kt_err *err);
/* Open n bytes of RSA-OAEP with the key of this digest: 32 bytes. KT_E_KEY: it does not open, or the key is not there
 * any more. */
KT_MUST_CHECK kt_code kt_node_token_open(const kt_node_token *t, const char *spki_sha256, bool sha256,
					 const uint8_t *wrapped, size_t n, kt_secret *out, kt_err *err);
/* Destroy the key of this digest; that it is not there is fine. */
KT_MUST_CHECK kt_code kt_node_token_destroy(const kt_node_token *t, const char *spki_sha256, kt_err *err);

/* What `keyturn-agent token` serves (kt_owner_serve). */
extern const kt_owner_handler kt_node_token_handlers[];

#endif

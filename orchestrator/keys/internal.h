/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of keys/ share; nobody outside includes this. */
#ifndef KT_KEYS_INTERNAL_H
#define KT_KEYS_INTERNAL_H

#include "orchestrator/keys/keys.h"
#include "pkcs11/rsa_key.h"
#include "pkcs11/wrap.h"
#include "wire/message.h"

enum { KT_KEYS_PATH = 4096, KT_KEYS_NEW_ID = 16 };

/* Invariant: journal is NULL only where nothing is changed and no run was begun yet. */
struct kt_keys {
	const kt_cluster *cluster;
	kt_keys_mode mode;
	kt_journal *journal;
	kt_ledger ledger;
	cJSON *told; /* by the journal's runs; nothing is journalled while this is open */
	cJSON *view;
};

/* --- keys.c ------------------------------------------------------------------------------------------------------- */

/* Save the ledger and make the view anew. */
KT_MUST_CHECK kt_code kt_keys_save(kt_keys *k, kt_err *err);
/* The ledger's entry of a key of the view, made when there is none. */
KT_MUST_CHECK kt_code kt_keys_entry(kt_keys *k, const cJSON *known, cJSON **out, kt_err *err);
/* Set a text of an entry that is there already. */
KT_MUST_CHECK kt_code kt_keys_set(cJSON *entry, const char *name, const char *value, kt_err *err);
/* id, label, uri, kind, kcv, state of a key of the view into a result. */
KT_MUST_CHECK kt_code kt_keys_tell(const kt_keys *k, const char *id, cJSON *result, kt_err *err);
KT_MUST_CHECK kt_code kt_keys_hex(const void *bytes, size_t n, char out[KT_LEDGER_ID], kt_err *err);

/* --- place.c ------------------------------------------------------------------------------------------------------ */

/* Where a KEY is. */
typedef struct kt_place {
	bool file;
	bool awskms;             /* uri is the key's own; nothing else but `known` is set */
	char path[KT_KEYS_PATH]; /* of a file: */
	char uri[KT_KEYS_PATH];  /* of its token, as it is opened */
	char label[KT_URI_OBJECT];
	uint8_t id[KT_URI_ID];
	size_t id_len;
	const cJSON *known; /* in the view of that moment; NULL: not known */
} kt_place;

/* A cluster key that keyturn did not make: its places are on the nodes, and not known here. */
bool kt_keys_elsewhere(const cJSON *key);
KT_MUST_CHECK kt_code kt_place_of(const kt_keys *k, const char *key, kt_place *out, kt_err *err);
kt_token_key_name kt_place_name(const kt_place *p);

/* A key found in its token. */
typedef struct kt_found {
	kt_token *token;
	kt_token_key key;
	const char *kind; /* cluster, wrapping */
	char id[KT_LEDGER_ID];
	char run[KT_RUN_MAX + 1]; /* which made it; "": none */
	const cJSON *known;       /* in the view of that moment */
} kt_found;

/* Open the token and find the key; kt_found_close also after failure. `token` is there, and the code KT_E_KEY, when
 * only the key is missing. */
KT_MUST_CHECK kt_code kt_find(const kt_keys *k, const kt_place *p, kt_found *out, kt_err *err);
void kt_found_close(kt_found *f);
/* The key's URI for the ledger: token, serial, object, id. */
KT_MUST_CHECK kt_code kt_keys_uri(const kt_token *t, const char *label, const uint8_t *id, size_t id_len,
				  char out[KT_LEDGER_PATH], kt_err *err);
/* The ledger's entry of a found key; one that nobody knew is entered as active: it was found in use. */
KT_MUST_CHECK kt_code kt_found_entry(kt_keys *k, const kt_found *f, cJSON **out, kt_err *err);

/* --- make.c ------------------------------------------------------------------------------------------------------- */

/* A key file (0400, base64), which must not be there yet: KT_E_REFUSED. */
KT_MUST_CHECK kt_code kt_keys_write_file(const char *path, const kt_secret *key, kt_err *err);

/* --- wrap.c ------------------------------------------------------------------------------------------------------- */

/* Wrap `key` (of `t`) for a target and write the blob; noted with `entry` (may be NULL) and saved before it is written.
 * Members of the escrow go into `result`. */
KT_MUST_CHECK kt_code kt_keys_wrap_to(kt_keys *k, kt_token *t, const kt_token_key *key, const char *run,
				      const kt_keys_target *to, cJSON *entry, cJSON *result, kt_err *err);

/* --- open.c ------------------------------------------------------------------------------------------------------- */

/* What opens blobs: a token with wrapping keys, a custodian's token; each opened when it is needed first. */
typedef struct kt_opener {
	const char *hsm_uri;
	const char *custodian_uri; /* NULL: none */
	kt_token *hsm;
	kt_token *custodian;
	kt_token_rsa_key priv; /* handle 0: not found yet */
	kt_err hsm_failed;     /* why the token could not be opened: no PIN is tried twice */
	kt_err custodian_failed;
} kt_opener;

/* A blob's file, read strictly; KT_E_REFUSED unless it is an escrow or a custodian's. */
KT_MUST_CHECK kt_code kt_blob_read(const char *path, kt_blob *out, kt_err *err);
/* Open a blob into a session key of *token. *can is false (and the code KT_E_REFUSED) when nothing is at hand that
 * could open it. The caller destroys the key. */
KT_MUST_CHECK kt_code kt_opener_open(kt_opener *o, const kt_blob *blob, kt_token **token, kt_token_key *key, bool *can,
				     kt_err *err);
KT_MUST_CHECK kt_code kt_opener_hsm(kt_opener *o, kt_token **out, kt_err *err);
KT_MUST_CHECK kt_code kt_opener_custodian(kt_opener *o, kt_token **out, kt_err *err);
/* The wrapping key that a blob names, in this token. */
KT_MUST_CHECK kt_code kt_opener_wrapping(kt_token *t, const kt_blob *blob, kt_token_key *out, kt_err *err);
void kt_opener_close(kt_opener *o);

/* Make a proof of a key into `o` (label, nonce, proof); compare a key with one that was recorded (KT_E_KEY). */
KT_MUST_CHECK kt_code kt_proof_make(kt_token *t, const kt_token_key *key, cJSON *o, kt_err *err);
KT_MUST_CHECK kt_code kt_proof_check(kt_token *t, const kt_token_key *key, const cJSON *recorded, kt_err *err);

/* --- verify.c ----------------------------------------------------------------------------------------------------- */

/* Open one blob and prove it against what is known of its key (may be NULL); a row {path, custodian, status, message,
 * remedy} goes into `rows`. *good. Proof over `nonce` (a recorded form, made by the first good one) shows that all hold
 * the same key: an empty object is filled. */
KT_MUST_CHECK kt_code kt_keys_try(kt_keys *k, kt_opener *o, const char *path, const cJSON *known, cJSON *same,
				  cJSON *rows, bool *good, kt_err *err);

#endif

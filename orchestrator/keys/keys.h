/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `keyturn key` does: operations on the keys of one cluster, in tokens and files, each recorded in the ledger
 * (orchestrator/ledger) before it is done. No key is in this process, but for those of file: keystores.
 *
 * A KEY is a pkcs11: URI with object= or id=, a file: URI, or what the ledger knows a key by: its id (or its first 8
 * digits), its label, or the run that made it; such a key is sought in the token of cluster.json.
 *
 * Every operation fills `result`, an empty object of the caller's, with what --json prints. Errors: KT_E_INPUT,
 * KT_E_KEY (there is no such key, or another one), KT_E_REFUSED (states, dependants, policies; nothing was changed),
 * KT_E_HSM, KT_E_IO, KT_E_AUDIT (the ledger cannot be written or is damaged), KT_E_BUSY (the folder is locked).
 */
#ifndef KT_KEYS_KEYS_H
#define KT_KEYS_KEYS_H

#include "orchestrator/inventory/inventory.h"
#include "orchestrator/ledger/view.h"

typedef struct kt_keys kt_keys;

typedef enum kt_keys_mode {
	KT_KEYS_LOOK,  /* nothing is changed, and the folder is not locked */
	KT_KEYS_CHANGE /* under the folder's lock until it is closed */
} kt_keys_mode;

/* The ledger and the journal of a cluster, which is borrowed. */
KT_MUST_CHECK kt_code kt_keys_open(const kt_cluster *cluster, kt_keys_mode mode, kt_keys **out, kt_err *err);
void kt_keys_close(kt_keys *k);
/* All keys (orchestrator/ledger/view.h). Owned by `k`; another one after each change. */
const cJSON *kt_keys_view(const kt_keys *k);
/* One key: what ledger and runs know; for a pkcs11: URI also what the token has ("token":{label,id,kind,kcv}). */
KT_MUST_CHECK kt_code kt_keys_show(kt_keys *k, const char *key, cJSON *result, kt_err *err);

/* --- Making ------------------------------------------------------------------------------------------------------- */

typedef struct kt_keys_generate {
	const char *key;           /* a URI with the new key's label (object=), or file:/path */
	bool wrapping;             /* else a cluster key */
	bool activate;             /* it is in use from now on; else it is pre-active */
	int64_t cryptoperiod_days; /* 0: none */
} kt_keys_generate;

/* Asked again after a crash it finishes what was begun: the key has the same id. */
KT_MUST_CHECK kt_code kt_keys_make(kt_keys *k, const kt_keys_generate *what, cJSON *result, kt_err *err);
/* A custodian's RSA pair in their own token; no cluster takes part. `pem` gets the public half. */
KT_MUST_CHECK kt_code kt_keys_make_custodian(const char *uri, kt_buf *pem, cJSON *result, kt_err *err);

/* --- Wrapping ----------------------------------------------------------------------------------------------------- */

/* Who gets a wrapped copy: exactly one of the first two. */
typedef struct kt_keys_target {
	const char *public_key; /* path of a PEM */
	const char *under;      /* label of a wrapping key in the same token */
	const char *name;       /* the custodian's, of public_key; NULL: the file's name */
	const char *output;     /* path of the blob */
} kt_keys_target;

KT_MUST_CHECK kt_code kt_keys_wrap(kt_keys *k, const char *key, const kt_keys_target *to, cJSON *result, kt_err *err);
/* Under the escrow key of cluster.json, and to each custodian. */
KT_MUST_CHECK kt_code kt_keys_escrow(kt_keys *k, const char *key, cJSON *result, kt_err *err);
/* Open a blob in the token and wrap it anew there. `custodian`: URI of the custodian's key, for a blob to one; NULL:
 * the token of cluster.json. */
KT_MUST_CHECK kt_code kt_keys_rewrap(kt_keys *k, const char *path, const char *custodian, const kt_keys_target *to,
				     cJSON *result, kt_err *err);

/* --- Opening ------------------------------------------------------------------------------------------------------ */

/* Open each of these files (none: every escrow that is known) in a token and prove it. KT_E_KEY when one is not good.
 */
KT_MUST_CHECK kt_code kt_keys_verify(kt_keys *k, const char *const *paths, size_t n, const char *custodian,
				     cJSON *result, kt_err *err);

typedef struct kt_keys_recover {
	const char *const *paths; /* of blobs of one key */
	size_t n;
	const char *key;       /* where it goes: a KEY that is lost, or a URI with object= and id= */
	const char *custodian; /* URI of a custodian's key; NULL: by the wrapping key in the token of `key` */
	bool plaintext;        /* a file: URI is meant */
} kt_keys_recover;

/* Every blob is verified, not only the first that opens; those that are not good are told in `result`. */
KT_MUST_CHECK kt_code kt_keys_restore(kt_keys *k, const kt_keys_recover *what, cJSON *result, kt_err *err);

/* --- Ending ------------------------------------------------------------------------------------------------------- */

typedef struct kt_keys_end {
	const char *key;
	const char *why;  /* for the history; NULL: none was given */
	const char *gone; /* a run of which a person says that its backups are gone; NULL: none */
	bool compromised;
	bool with_escrows; /* remove the escrows, too */
	bool lost;         /* its token is gone for good: only recorded */
} kt_keys_end;

KT_MUST_CHECK kt_code kt_keys_deactivate(kt_keys *k, const kt_keys_end *what, cJSON *result, kt_err *err);
/* May it be destroyed? The question for a person is appended to `question`. */
KT_MUST_CHECK kt_code kt_keys_may_destroy(kt_keys *k, const kt_keys_end *what, kt_buf *question, kt_err *err);
KT_MUST_CHECK kt_code kt_keys_destroy(kt_keys *k, const kt_keys_end *what, cJSON *result, kt_err *err);

#endif

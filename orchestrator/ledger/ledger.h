/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ledger of keys: ledger.json in the coordinator's state folder (docs/FORMATS.md, section 12). It has what people
 * did by `keyturn key`; what runs did is in the journal, and is never written here: kt_ledger_view (view.h) joins both.
 *
 * A change is made in memory and kept by kt_ledger_save, which replaces the file atomically and durably, with its
 * checksum. Who changes it holds the folder's lock (an open KT_JOURNAL_WRITE). What cannot be recorded is not done
 * (S8): save the intent (kt_ledger_intend), do it, save its end (kt_ledger_done).
 */
#ifndef KT_LEDGER_LEDGER_H
#define KT_LEDGER_LEDGER_H

#include "base/json.h"
#include "orchestrator/ledger/states.h"

enum { KT_LEDGER_ID = 129, KT_LEDGER_PATH = 4096 };

/* Invariant: root fits playbooks/ledger.schema.json. */
typedef struct kt_ledger {
	char path[KT_LEDGER_PATH];
	cJSON *root;
} kt_ledger;

/* What is known of a key when it comes into the ledger. Borrowed. */
typedef struct kt_ledger_new {
	const char *id;            /* hex of CKA_ID; of file: and awskms: random; "kcv-a1b2c3" for one that came from
				      elsewhere, "at-…" (a digest of its URI) for one that stays there */
	const char *label;         /* "" when it has none */
	const char *uri;           /* without a pin-source */
	const char *kind;          /* cluster, wrapping, custodian, backup */
	const char *kcv;           /* "" when it is not known yet */
	int64_t cryptoperiod_days; /* 0: none */
} kt_ledger_new;

/* Read `folder`/ledger.json; none is an empty ledger. KT_E_AUDIT: it is damaged (nothing was changed; the remedy says
 * how to go on); KT_E_INPUT: of a newer format, or of another cluster. kt_ledger_close also after failure is harmless.
 */
KT_MUST_CHECK kt_code kt_ledger_open(const char *folder, const char *cluster, kt_ledger *out, kt_err *err);
void kt_ledger_close(kt_ledger *l);
/* On any failure the old file is as it was; KT_E_AUDIT. */
KT_MUST_CHECK kt_code kt_ledger_save(const kt_ledger *l, kt_err *err);

/* The entry of a key, NULL when there is none; and made when there is none. Owned by the ledger. */
cJSON *kt_ledger_find(const kt_ledger *l, const char *id);
KT_MUST_CHECK kt_code kt_ledger_enter(kt_ledger *l, const kt_ledger_new *key, cJSON **out, kt_err *err);

/* A member of an object, NULL when there is none (or no object). */
cJSON *kt_ledger_member(const cJSON *o, const char *name);
/* Its text, "" when it is not one. */
const char *kt_ledger_text(const cJSON *o, const char *name);
bool kt_ledger_is(const cJSON *o, const char *name, const char *text);
/* The first element of an array of objects of which the member `name` is this text. */
cJSON *kt_ledger_element(const cJSON *array, const char *name, const char *value);

/* Append to the entry's history. That it may follow is the caller's to see (kt_ledger_may). */
KT_MUST_CHECK kt_code kt_ledger_moved(cJSON *entry, kt_key_state to, int64_t time_ms, const char *why, kt_err *err);
/* KT_E_REFUSED when SP 800-57 does not let `what` (for the message) go from one to the other. */
KT_MUST_CHECK kt_code kt_ledger_may(const char *what, kt_key_state from, kt_key_state to, kt_err *err);

/* The entry's intent: "generate", "recover", "destroy". And its end. */
KT_MUST_CHECK kt_code kt_ledger_intend(cJSON *entry, const char *what, int64_t time_ms, kt_err *err);
void kt_ledger_done(cJSON *entry);

/* One wrapped copy of a key, in a file. Borrowed. */
typedef struct kt_ledger_escrow {
	const char *path;      /* absolute */
	const char *custodian; /* "": under a wrapping key */
	const char *under;     /* label of the wrapping key, or SHA-256 of the custodian's SubjectPublicKeyInfo */
	const char *under_kcv; /* of the wrapping key, else "" */
	int64_t time_ms;
	bool gone; /* it was removed */
} kt_ledger_escrow;

/* Note an escrow with the entry; one of the same path is replaced. */
KT_MUST_CHECK kt_code kt_ledger_escrowed(cJSON *entry, const kt_ledger_escrow *e, kt_err *err);
/* A proof of possession (base/kcv.h) that was made while the key was there: what tells it from every other key when it
 * is recovered, for a check value has 3 bytes only. `from` has label, nonce and proof (hex); one that is there is
 * replaced. Nothing is noted when `from` lacks one of them. */
KT_MUST_CHECK kt_code kt_ledger_proved(cJSON *entry, const cJSON *from, kt_err *err);
/* A person says that what this run left (its backups, what its restore kept) needs the key no more. */
KT_MUST_CHECK kt_code kt_ledger_release(cJSON *entry, const char *run, int64_t time_ms, kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All keys of a cluster: the ledger joined with what the journal's runs tell. Each key is an object with the members of
 * the ledger's entries, and (docs/FORMATS.md, section 12)
 *   state, since_ms, on_data (data is, or may be, under it), run (which made it; absent: none),
 *   dependants: [{kind: data|run|backup|kept|escrow, what, node, run}], warnings: [text]
 */
#ifndef KT_LEDGER_VIEW_H
#define KT_LEDGER_VIEW_H

#include "orchestrator/journal/journal.h"
#include "orchestrator/ledger/ledger.h"

typedef struct kt_view_options {
	const char *cluster;       /* its name */
	int64_t now_ms;            /* for cryptoperiods */
	int64_t cryptoperiod_days; /* of keys that runs made; 0: none */
} kt_view_options;

/* The keys that the journal's runs tell of, with their events, escrows and dependants; *out is an array, the caller's:
 * cJSON_Delete. It stays true as long as nothing is journalled. `j` may be NULL: there was no run yet. KT_E_AUDIT when
 * the journal does not fit. */
KT_MUST_CHECK kt_code kt_ledger_told(kt_journal *j, cJSON **out, kt_err *err);
/* The ledger joined with that. *out is an array, the caller's. */
KT_MUST_CHECK kt_code kt_ledger_view(const kt_ledger *l, const cJSON *told, const kt_view_options *o, cJSON **out,
				     kt_err *err);

/* The key with this id; else the one with this check value and kind (a key that came from elsewhere has no other name).
 * NULL when there is none. */
const cJSON *kt_view_find(const cJSON *keys, const char *id, const char *kind, const char *kcv);
/* The key that a wrapped key says it carries: of this check value, and no wrapping key. NULL when there is none. */
const cJSON *kt_view_carried(const cJSON *keys, const char *kcv);
/* Its state, and what an entry of the ledger for it begins with. */
kt_key_state kt_view_state(const cJSON *key);
kt_ledger_new kt_view_describe(const cJSON *key);
/* KT_OK when the ledger does not forbid to wrap new keys under the wrapping key with this label; KT_E_REFUSED when it
 * is deactivated, compromised or destroyed there. One that the ledger does not know is fine. */
KT_MUST_CHECK kt_code kt_ledger_may_wrap(const kt_ledger *l, const char *label, kt_err *err);
/* A dependant for people, "backup /b/r1 on web01 of run r1"; as snprintf. */
int kt_view_need(const cJSON *need, char *out, size_t size);
/* KT_OK when nothing depends on the key, else KT_E_REFUSED naming each (the first ten). */
KT_MUST_CHECK kt_code kt_view_unneeded(const cJSON *key, kt_err *err);

#endif

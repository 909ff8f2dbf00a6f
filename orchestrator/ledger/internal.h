/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the ledger share; nobody outside includes this. */
#ifndef KT_LEDGER_INTERNAL_H
#define KT_LEDGER_INTERNAL_H

#include "orchestrator/journal/journal.h"
#include "orchestrator/ledger/ledger.h"

/* A new key of the view, with every member that the ledger's entries have, appended to `keys`. */
KT_MUST_CHECK kt_code kt_ledger_add_key(cJSON *keys, const kt_ledger_new *key, cJSON **out, kt_err *err);
/* Append an event that a run's journal tells. */
KT_MUST_CHECK kt_code kt_ledger_add_event(cJSON *key, kt_key_state state, int64_t time_ms, const char *run,
					  const char *why, kt_err *err);
/* Append what needs the key; `node` and `run` may be "". Kinds: data, run, backup, kept, escrow. */
KT_MUST_CHECK kt_code kt_ledger_add_need(cJSON *key, const char *kind, const char *what, const char *node,
					 const char *run, kt_err *err);

#endif

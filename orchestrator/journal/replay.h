/* SPDX-License-Identifier: Apache-2.0 */
/* Between the engine's events and the journal's entries, and a run rebuilt from its journal. No SQLite here. */
#ifndef KT_ORCHESTRATOR_REPLAY_H
#define KT_ORCHESTRATOR_REPLAY_H

#include "orchestrator/engine/engine.h"
#include "orchestrator/journal/journal.h"

/* The entry for an event other than `begin`, `take` and `note`. `body` receives its JSON; *out borrows from ev, run and
 * body. `message` (may be NULL) is kept with interrupt, rollback, resume and end. */
KT_MUST_CHECK kt_code kt_entry_of_event(const kt_event *ev, const char *run, int64_t epoch, int64_t time_ms,
					const char *message, kt_buf *body, kt_entry *out, kt_err *err);
/* The entry that begins a run: its body is the plan. */
KT_MUST_CHECK kt_code kt_entry_of_plan(const cJSON *plan, const char *run, int64_t time_ms, kt_buf *body, kt_entry *out,
				       kt_err *err);

/* An event out of an entry. *body is the parsed body (NULL for an empty one) and the caller's; *ev borrows from `e`,
 * *body and *error. KT_E_AUDIT names the seq. */
KT_MUST_CHECK kt_code kt_event_of_entry(const kt_entry *e, kt_event *ev, cJSON **body, kt_err *error, kt_err *err);

/* A run as its journal tells it. */
typedef struct kt_replay {
	cJSON *plan;
	kt_engine *engine; /* borrows plan */
	int64_t events;
} kt_replay;

/* Fold all entries of `run`. KT_E_REFUSED when the journal has no such run, KT_E_AUDIT when an event does not fit. */
KT_MUST_CHECK kt_code kt_replay_run(kt_journal *j, const char *run, kt_replay *out, kt_err *err);
void kt_replay_free(kt_replay *r);

#endif

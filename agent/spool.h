/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The spool: what this node was asked to change, and what came of it, on disk before it is said. One folder a request:
 * spool/<run>/<step>.<role>.<attempt>/ with intent.json, outcome.json, and for detached work pid, child and output.
 * A record that is damaged is KT_E_AUDIT with its path (base/record.h), never "not there".
 */
#ifndef KT_AGENT_SPOOL_H
#define KT_AGENT_SPOOL_H

#include "agent/process.h"
#include "base/json.h"
#include "wire/message.h"

/* What a repeated request finds. */
typedef enum kt_spool_state {
	KT_SPOOL_NEW,     /* its intent has just been written */
	KT_SPOOL_STARTED, /* an earlier one was started, its outcome is not recorded */
	KT_SPOOL_DONE     /* its outcome is recorded */
} kt_spool_state;

/* An outcome as it was recorded. Free with kt_spool_outcome_free. */
typedef struct kt_spool_outcome {
	cJSON *json; /* owns result */
	kt_status status;
	const cJSON *result; /* may be NULL */
	kt_err error;
} kt_spool_outcome;

/* The folder of a request, into `dir`. */
KT_MUST_CHECK kt_code kt_spool_path(const char *state, const kt_request *r, kt_buf *dir, kt_err *err);
/*
 * Make the folder, write the intent and sync it, and set aside room for the outcome, so that a full disk is found out
 * now; or find that this was done before. The member `hide` of the arguments (NULL: none) is kept as its digest only.
 * KT_E_AUDIT: it cannot be recorded, so it must not be done; also when the idempotency key was used for another
 * request, and when it was used and a record of it is damaged. On failure *state is KT_SPOOL_NEW when this request was
 * certainly never begun; else nobody knows.
 */
KT_MUST_CHECK kt_code kt_spool_begin(const char *dir, const kt_request *r, const char *hide, kt_spool_state *state,
				     kt_err *err);
/* Was this key certainly never used? */
bool kt_spool_unused(const char *dir);
/*
 * Which of these requests of `run` has this node begun? `asked` is an array of their names ("<step>.<role>.<attempt>");
 * every request of that step and role whose intent is here, of that attempt or a later one, is added to the array
 * `known`. KT_E_INPUT: a name that is none.
 */
KT_MUST_CHECK kt_code kt_spool_known(const char *state, const char *run, const cJSON *asked, cJSON *known, kt_err *err);
/* The intent: *json is the caller's and *r borrows from it. */
KT_MUST_CHECK kt_code kt_spool_intent(const char *dir, cJSON **json, kt_request *r, kt_err *err);
/* Record how it ended; atomic and durable. The first one stays. KT_E_AUDIT when it cannot be recorded. */
KT_MUST_CHECK kt_code kt_spool_finish(const char *dir, kt_status status, const cJSON *result, const kt_err *error,
				      kt_err *err);
/* *found is false when there is none yet. */
KT_MUST_CHECK kt_code kt_spool_outcome_load(const char *dir, bool *found, kt_spool_outcome *out, kt_err *err);
void kt_spool_outcome_free(kt_spool_outcome *o);

/*
 * The right to carry out a request that may be done once: exactly one process ever gets *mine == true for a folder. It
 * is recorded in `pid` (durably) who that was.
 */
KT_MUST_CHECK kt_code kt_spool_claim(const char *dir, bool *mine, kt_err *err);
/* Nobody will ever execute it, by the word of who has claimed it or found that its runner is gone: records `failed`
 * with
 * {"started":false} and the reason, and adds that to `result` (NULL: nobody asks). Nothing has to be undone then. */
KT_MUST_CHECK kt_code kt_spool_never_started(const char *dir, const kt_err *why, cJSON *result, kt_err *err);
/* Record the command itself, before it executes anything; its session is that of its descendants. */
KT_MUST_CHECK kt_code kt_spool_child(const char *dir, pid_t pid, kt_err *err);

/* Who carries it out. */
typedef struct kt_spool_work {
	bool claimed; /* somebody began: `pid` is there */
	bool started; /* the command itself may have been executed: `child` is there */
	bool alive;   /* the runner, the command or a process of the command's session still runs */
	kt_process runner;
} kt_spool_work;
KT_MUST_CHECK kt_code kt_spool_work_of(const char *dir, kt_spool_work *out, kt_err *err);

/* A remark of a verb for its own repetition ("the service was active"), a small object; written durably once, the first
 * one stays. */
KT_MUST_CHECK kt_code kt_spool_note(const char *dir, const cJSON *note, kt_err *err);
/* The remark of this attempt or of an earlier one of the same step and role; *out is the caller's, NULL when there is
 * none. */
KT_MUST_CHECK kt_code kt_spool_noted(const char *dir, cJSON **out, kt_err *err);

#endif

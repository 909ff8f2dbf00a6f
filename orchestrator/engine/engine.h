/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine: a pure state machine over a plan (docs/FORMATS.md, section 7; docs/DESIGN.md, "The engine's rules").
 *
 * Events go in (kt_engine_apply), commands come out (kt_engine_next). No I/O, no clock, no randomness: the same events
 * over the same plan give the same state, so that resuming is replaying. One thread at a time.
 *
 * The driver's loop:
 *   while (kt_engine_next() has a command)  make its intent, put it into the batch, kt_engine_apply(intent);
 *   make the batch durable; send the commands of the batch (each after its delay_ms);
 *   for each completion: journal the outcome, kt_engine_apply(outcome), and go round again;
 *   when kt_engine_idle() and nothing is wanted: the run is at rest (kt_engine_state), journal `end`.
 * After a crash: replay, apply `take` (journalled), send what kt_engine_in_doubt() lists, go on as above.
 */
#ifndef KT_ORCHESTRATOR_ENGINE_H
#define KT_ORCHESTRATOR_ENGINE_H

#include "base/json.h"
#include "orchestrator/playbook/verbs.h"
#include "wire/message.h"

typedef struct kt_engine kt_engine;

/* --- Events ------------------------------------------------------------------------------------------------------ */

typedef enum kt_event_kind {
	KT_EVENT_BEGIN,     /* the first event of every run */
	KT_EVENT_TAKE,      /* a coordinator takes the run: `epoch`, higher than any before */
	KT_EVENT_INTENT,    /* the command that kt_engine_next gave is about to be sent: step, role, node, attempt */
	KT_EVENT_OUTCOME,   /* how it ended: the same key, and status, result, error */
	KT_EVENT_INTERRUPT, /* Ctrl-C: way back before the rekey's first intent; later only noted */
	KT_EVENT_ROLLBACK,  /* a person wants the old key: like an interrupt, but heeded until the commit */
	KT_EVENT_REVERT,    /* a person wants the old key, and gives up what was written since: heeded after the commit,
			       too, and in a turned run that was taken again */
	KT_EVENT_RESUME,    /* a person says: go on from `held`. Only then may it be applied */
	KT_EVENT_NOTE,      /* journalled for people; changes nothing */
	KT_EVENT_END,       /* the run is at rest: `state`; after `held` it may be taken and resumed later */
	KT_EVENT_KINDS
} kt_event_kind;

/* Where a run stands. The names (kt_run_state_name) are what the journal's `end` and --json say. */
typedef enum kt_run_state {
	KT_RUN_NEW,         /* not begun, or begun and not yet taken */
	KT_RUN_FORWARD,     /* "forward" */
	KT_RUN_PROBING,     /* "probing": which key opens the data? */
	KT_RUN_BACK,        /* "way-back" */
	KT_RUN_HELD,        /* "held": a person must look; KT_EVENT_RESUME goes on */
	KT_RUN_TURNED,      /* "turned": final; only a revert goes on from it */
	KT_RUN_ROLLED_BACK, /* "rolled-back": final */
	KT_RUN_REFUSED,     /* "refused": final; nothing had been changed */
	KT_RUN_STATES
} kt_run_state;

const char *kt_run_state_name(kt_run_state s);
KT_MUST_CHECK kt_code kt_run_state_parse(const char *name, kt_run_state *out, kt_err *err);
/* True for turned, rolled-back and refused: nothing will ever be done in this run again. */
bool kt_run_state_final(kt_run_state s);
const char *kt_event_kind_name(kt_event_kind k);
KT_MUST_CHECK kt_code kt_event_kind_parse(const char *name, kt_event_kind *out, kt_err *err);

/* One event; all pointers are borrowed for the call of kt_engine_apply (result and error are copied). */
typedef struct kt_event {
	kt_event_kind kind;
	int64_t epoch;    /* take */
	const char *step; /* intent, outcome */
	kt_role role;
	const char *node; /* "@" for the cluster */
	int64_t attempt;
	kt_status status;    /* outcome. A node that could not be asked, or did not answer: KT_STATUS_FAILED or
				KT_STATUS_UNKNOWN, and error->code KT_E_UNREACHABLE; it is then taken for "perhaps done" */
	const cJSON *result; /* outcome; an object or NULL */
	const kt_err *error; /* outcome; NULL when ok */
	kt_run_state state;  /* end */
} kt_event;

/* --- Commands ---------------------------------------------------------------------------------------------------- */

/*
 * A command. The strings belong to the engine (as long as it lives), `args` belongs to the command: kt_command_free;
 * it may borrow lists from the engine (cJSON references), so that it must go before the engine.
 *
 * (run, step, role, node, attempt) is the idempotency key. `once` marks work that must never be done twice: it has one
 * attempt only. `settle` is set when such a command may already have been sent: then the node must answer out of its
 * spool and must NOT start the work when the spool does not know the key (it records and answers `failed`, "never
 * started"). Hours may have passed since the gate was quiet (S1, S2).
 *
 * `problem.code` is KT_OK, or says why the arguments could not be made (a late-bound value that is not there): then the
 * command must not be sent; journal its intent and at once the outcome `failed` with this error.
 */
typedef struct kt_command {
	kt_place place;
	const char *step;
	kt_role role;
	const char *node;
	int64_t attempt; /* from 1 */
	const char *verb;
	cJSON *args;       /* an object, every late-bound value filled in */
	int64_t timeout_s; /* > 0 */
	int64_t delay_ms;  /* wait so long between the intent and sending; >= 0 */
	bool once;
	bool settle;
	kt_err problem;
} kt_command;

void kt_command_free(kt_command *c); /* args only; `c` may be NULL and may be used again */

/* --- The engine --------------------------------------------------------------------------------------------------- */

/*
 * A new engine for `plan`, which is borrowed and must outlive the engine. The plan is checked strictly (it comes out of
 * a journal): KT_E_INPUT with the JSON path of what is wrong. Beside its form: exactly one `once` step, of phase rekey,
 * on one node, with probe and undo; exactly one `commit` step, not before it; phases in their order; and directly
 * before the rekey gate.check on every node of the cluster (S2).
 */
KT_MUST_CHECK kt_code kt_engine_new(const cJSON *plan, kt_engine **out, kt_err *err);
void kt_engine_free(kt_engine *e);

/* Fold one event in. KT_E_AUDIT when it does not fit the state (a corrupt journal, or a driver that broke the rules):
 * the engine is then unchanged. An intent fits only when it is the command that kt_engine_next would give. */
KT_MUST_CHECK kt_code kt_engine_apply(kt_engine *e, const kt_event *ev, kt_err *err);

/* The next command that is wanted and has no intent yet; *have is false when there is none now. The state does not
 * change: the same command is given until its intent is applied. KT_E_INTERNAL only when out of memory. */
KT_MUST_CHECK kt_code kt_engine_next(const kt_engine *e, kt_command *out, bool *have, kt_err *err);

/* Each command with an intent and without an outcome, in the plan's order, to be sent (again) under its old key, with
 * delay_ms 0. `cb` borrows the command; it may take `args` by setting it to NULL. A code other than KT_OK from `cb`
 * ends the walk and is returned. Only after a crash: the driver that is alive knows what it sent. */
typedef kt_code (*kt_command_cb)(void *user, kt_command *c, kt_err *err);
KT_MUST_CHECK kt_code kt_engine_in_doubt(const kt_engine *e, kt_command_cb cb, void *user, kt_err *err);

/* True when no command is under way (intent without outcome). */
bool kt_engine_idle(const kt_engine *e);

/* --- Looking at it ------------------------------------------------------------------------------------------------ */

typedef struct kt_engine_status {
	kt_run_state state;
	bool at_rest;       /* held or final: write `end`, nothing more is wanted */
	bool ended;         /* `end` was applied, and no `take` since */
	bool draining;      /* it is only waiting for commands under way, then it turns back, is held or looks again */
	bool interrupted;   /* an interrupt was applied */
	bool rekey_started; /* the rekey has an intent: from here on the data may be under either key */
	bool rekey_done;    /* the probe said `new`, and the way back has not undone it */
	bool committed;     /* no way back any more, but by a revert */
	int64_t epoch;      /* of the latest take; 0 before */
	const char *step;   /* the step that is being worked on; NULL when none */
	kt_role role;
	const char *failed_step; /* what made it turn back or hold; NULL when nothing failed */
	const char *failed_node; /* NULL when no single node is to blame */
	const kt_err *reason;    /* code KT_OK when nothing failed; else what, where, why and the remedy */
	size_t warnings;         /* failed targets of phase retire: the run ends `turned` all the same */
} kt_engine_status;

/* Strings and `reason` belong to the engine and change with the next apply. */
kt_engine_status kt_engine_state(const kt_engine *e);

typedef enum kt_target_state {
	KT_TARGET_IDLE,   /* not begun */
	KT_TARGET_WANTED, /* is to be sent */
	KT_TARGET_SENT,   /* has an intent and no outcome */
	KT_TARGET_OK,
	KT_TARGET_FAILED, /* failed, unknown or unreachable */
	KT_TARGET_STATES
} kt_target_state;

const char *kt_target_state_name(kt_target_state s); /* "idle", "wanted", "sent", "ok", "failed" */

/* One target of one step in one role. Strings, error and result belong to the engine. */
typedef struct kt_target_status {
	const char *node;
	kt_target_state state;
	int64_t attempts;    /* the attempt that counts now; 0 before the first intent */
	const kt_err *error; /* of the latest outcome that was not ok, else NULL */
	const cJSON *result; /* the latest result, or NULL */
} kt_target_status;

typedef struct kt_step_status {
	const char *name;
	const char *phase;
	const char *title;
	bool done;               /* every target of `do` is ok */
	bool undone;             /* the way back has passed it */
	size_t targets;          /* of `do` */
	size_t ok, failed, sent; /* of `do` */
} kt_step_status;

size_t kt_engine_steps(const kt_engine *e);
/* `i` below kt_engine_steps(). */
kt_step_status kt_engine_step(const kt_engine *e, size_t i);
/* How many targets step `i` has in `role` (0 when it has no such role), and one of them. */
size_t kt_engine_targets(const kt_engine *e, size_t i, kt_role role);
kt_target_status kt_engine_target(const kt_engine *e, size_t i, kt_role role, size_t target);

/* The invariants (numbered in orchestrator/engine/core.h), executed; for tests. Walks everything. */
bool kt_engine_sane(const kt_engine *e);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Private to orchestrator/engine/: the structs, and what its files offer each other. */
#ifndef KT_ORCHESTRATOR_ENGINE_CORE_H
#define KT_ORCHESTRATOR_ENGINE_CORE_H

#include "base/planted.h"
#include "orchestrator/engine/engine.h"

enum { KT_TIMES_MAX = 100000, KT_SECONDS_MAX = 7 * 24 * 3600, KT_NODES_MAX = 100000, KT_STEPS_MAX = 1000 };

typedef struct kt_target {
	uint32_t node;     /* index; kt_engine.n_nodes is "@" */
	uint8_t state;     /* kt_target_state */
	bool member;       /* takes part in this block */
	bool queued;       /* stands in the block's queue */
	bool tried;        /* has had an intent */
	bool undone;       /* of an undo: it has succeeded */
	bool same_key;     /* it could not be asked how the latest attempt ended: the next sending carries its key */
	int64_t attempt;   /* the attempt that counts now, or comes next while wanted */
	int64_t again;     /* how often it was asked again since the block was opened or resumed */
	int64_t delay_ms;  /* of the next sending */
	const cJSON *args; /* of the plan, templates and all */
	cJSON *result;     /* latest, or NULL */
	kt_err *error;     /* of the latest outcome that was not ok, or NULL */
} kt_target;

/*
 * One step in one role, and how far it has come. A target that answered `retry` in a `together` block waits: it is
 * WANTED and not queued until the round is over.
 *
 * Invariants: (1) members = wanted + sent + ok + failed, each the count of the targets in that state, and others are
 * IDLE; (2) the queue holds each WANTED member at most once and nothing else; those not in it are counted by `waiting`;
 * (3) SENT implies tried; (4) parallel is 0 or sent <= parallel of the step; (5) first_failed is the index of a FAILED
 * target exactly when failed > 0, else n.
 */
typedef struct kt_block {
	const char *verb;
	kt_place at;
	int64_t timeout_s;
	int64_t times; /* a target may be asked again so often */
	int64_t every_ms;
	bool together;
	size_t n;
	kt_target *targets;
	uint32_t *of_node; /* node index -> target index + 1; n_nodes + 1 entries */
	uint32_t *queue;   /* ring of n */
	size_t head, queued;
	size_t members, sent, ok, failed, waiting;
	size_t tried; /* targets that have had an intent */
	size_t first_failed;
	int64_t round; /* of a `together` block */
} kt_block;

typedef struct kt_step {
	const char *name;
	const char *phase_name;
	const char *title;
	int phase; /* KT_PHASE_… */
	bool once, commit, watch;
	int64_t parallel;    /* 0: all */
	const cJSON *expect; /* an object or NULL */
	bool undone;
	kt_block role[3]; /* by kt_role; n == 0 and verb NULL: there is none */
} kt_step;

/* What the engine is doing: an index into the table of modes in engine.c. */
typedef enum kt_mode {
	MODE_NEW,        /* not begun */
	MODE_FORWARD,    /* do of `cur` */
	MODE_PROBE,      /* probe of the once step, after its outcome */
	MODE_UNDO,       /* undo of `cur` */
	MODE_BACK_PROBE, /* probe before the rekey is undone */
	MODE_BACK_GATE,  /* do of `cur`, a gate directly before the rekey: nobody is live when the backup is restored */
	MODE_BACK_CHECK, /* probe after it was undone */
	MODE_TURNED,
	MODE_ROLLED_BACK,
	MODE_REFUSED,
	MODES
} kt_mode;

/* A failure that made the engine turn back or hold. */
typedef struct kt_blame {
	const char *step;
	const char *node;
	kt_err error;
} kt_blame;

/*
 * Invariants: (6) only the active block (of `cur`, in the role of `mode`) has targets SENT; (7) a once step's `do` has
 * attempt <= 1 on every target (S1); (8) the once step was tried only when every step before it is complete, or the way
 * back has begun (S2, S3); (9) committed implies that every step up to the commit step is complete, and excludes every
 * mode of the way back (a revert takes the commit back); (10) held only in a mode with a role, with nothing SENT; (11)
 * no step above `top` was tried.
 */
struct kt_engine {
	const char **nodes; /* names, in the plan's order; [n_nodes] is "@" */
	uint32_t *by_name;  /* indexes of nodes, sorted by name */
	bool *behind;       /* by node: left behind on the way back */
	size_t n_nodes;
	cJSON *names;  /* of the nodes, for ${plan.nodes} */
	cJSON *shared; /* the same list by reference: commands borrow it, or a thousand of them would copy a thousand
			  names */
	kt_step *steps;
	size_t n_steps;
	size_t cap_steps; /* allocated: a plan that does not load has more of them than n_steps */
	size_t once;      /* index of the once step */
	size_t commit;    /* index of the commit step */

	kt_mode mode;
	size_t cur;
	size_t top; /* highest step that was ever entered */
	int64_t epoch;
	bool held;
	bool ended; /* `end` was applied and no `take` since */
	bool interrupted;
	bool turn_back;  /* go back as soon as nothing is under way */
	bool look_again; /* S2: what was seen before another coordinator took the run counts no more: look again, as
			    soon as nothing is under way */
	bool rekey_done;
	bool committed;
	bool given_up; /* a person asked for the old key, and gave up what was written since the backup */
	size_t warnings;
	size_t left;    /* nodes that the way back has left behind: one of their undos failed for good */
	size_t left_at; /* the step at which the first of them was left */
	kt_blame back;  /* why it turned back; error.code KT_OK: it did not */
	kt_blame hold;  /* why it is held */
};

/* --- load.c ------------------------------------------------------------------------------------------------------- */

/* Fill the engine's plan part; on failure what was made is freed by kt_engine_free. */
KT_MUST_CHECK kt_code kt_engine_load(kt_engine *e, const cJSON *plan, kt_err *err);
/* Index of a node ("@" included), or SIZE_MAX. */
size_t kt_engine_node(const kt_engine *e, const char *name);

/* --- block.c ------------------------------------------------------------------------------------------------------ */

typedef enum kt_retry_how {
	RETRY_WHEN_ASKED,  /* do: `retry` alone is asked again */
	RETRY_UNREACHABLE, /* do of the once step: only to hear what became of it (S1) */
	RETRY_ALL          /* undo and probe */
} kt_retry_how;

/* Nothing is wanted of anybody: no members, every target idle. The caller chooses members and opens it. */
void kt_block_clear(kt_block *b);
/* Queue every member afresh with a new attempt. */
void kt_block_open(kt_block *b);
/* Queue the failed members (in a `together` block: all members) again, with fresh patience. */
void kt_block_reopen(kt_block *b);
/* The intent of the target at the head of the queue. */
void kt_block_sent(kt_block *b);
/* The target at the head of the queue; NULL when it is empty. */
const kt_target *kt_block_head(const kt_block *b);
/* The outcome of a SENT target. `result` and `error` are taken over (both may be NULL). */
void kt_block_settle(kt_block *b, kt_target *t, kt_status status, cJSON *result, kt_err *error, kt_retry_how how);
bool kt_block_complete(const kt_block *b);
bool kt_block_sane(const kt_block *b, int64_t parallel);

/* --- command.c ---------------------------------------------------------------------------------------------------- */

KT_MUST_CHECK kt_code kt_command_make(const kt_engine *e, size_t step, kt_role role, const kt_target *t,
				      kt_command *out, kt_err *err);
/* Does the result of a target satisfy the step's `expect`? *why (code KT_OK: yes) says what is wrong. */
KT_MUST_CHECK kt_code kt_expect_check(const kt_engine *e, size_t step, const kt_target *t, const cJSON *result,
				      kt_err *why, kt_err *err);

/* --- engine.c ----------------------------------------------------------------------------------------------------- */

/* The active block, or NULL; its role. */
kt_block *kt_engine_active(const kt_engine *e, kt_role *role);

#endif

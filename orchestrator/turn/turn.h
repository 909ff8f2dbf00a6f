/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver of a run: takes commands from the engine, journals their intents, sends them to the nodes or to the HSM
 * worker, journals the outcomes, and feeds them back (docs/DESIGN.md, "The coordinator"). It owns the event loop,
 * the delays and the signals; it decides nothing.
 */
#ifndef KT_TURN_TURN_H
#define KT_TURN_TURN_H

#include "orchestrator/engine/engine.h"
#include "orchestrator/inventory/inventory.h"
#include "orchestrator/journal/journal.h"
#include "orchestrator/turn/hsm.h"
#include "orchestrator/turn/nodes.h"

/* Who wants to know what happens. Every member may be NULL; everything given is borrowed for the call. */
typedef struct kt_watcher {
	void *cookie;
	/* An event was applied: look at the engine for what it means. An outcome is told as it comes, and is durable
	 * within seconds (group.h); everything else is told once it is durable. */
	void (*event)(void *cookie, const kt_engine *engine, const kt_event *event, int64_t time_ms);
	/* A command says how far it is. */
	void (*progress)(void *cookie, const char *step, const char *node, const kt_progress *progress);
	/* Something that people should read: a lost connection, a signal. */
	void (*note)(void *cookie, const char *text);
} kt_watcher;

typedef struct kt_turn_options {
	const kt_cluster *cluster;
	kt_journal *journal; /* open for writing */
	kt_hsm *hsm;         /* open; NULL: its verbs fail, as on the way back of a run whose token is gone */
	uv_loop_t *loop;
	kt_nodes *nodes;
	const char *run;
	const kt_watcher *watcher;
	bool rollback; /* kt_turn_resume: ask for the old key where that is still possible */
	bool alone;    /* kt_turn_resume: a person knows that no other coordinator of the run lives */
	bool revert;   /* kt_turn_resume: the same, after the commit and from `turned` too (KT_EVENT_REVERT) */
} kt_turn_options;

/* How a run came to rest. */
typedef struct kt_turn_end {
	kt_run_state state;
	kt_err reason; /* why it is not `turned`; code KT_OK when it is */
	char failed_step[KT_NAME_MAX + 1];
	char failed_node[KT_NAME_MAX + 1];
	size_t warnings;
} kt_turn_end;

/*
 * Begin the run with this plan and drive it until it rests. KT_OK when it came to rest, whatever the state: see *end.
 * KT_E_AUDIT or KT_E_IO when the journal could not be written (the run stopped where it was and can be resumed),
 * KT_E_INTERRUPTED after a second signal (likewise).
 */
KT_MUST_CHECK kt_code kt_turn_begin(const kt_turn_options *o, const cJSON *plan, kt_turn_end *end, kt_err *err);
/* Go on with a run that is in the journal. A run that is final already is only told in *end, unless it is turned and is
 * to be reverted. */
KT_MUST_CHECK kt_code kt_turn_resume(const kt_turn_options *o, kt_turn_end *end, kt_err *err);

/* The class (and exit code) of a resting state: turned KT_OK, rolled-back KT_E_ROLLED_BACK, refused KT_E_REFUSED or the
 * class of its reason where that says more (unreachable, hsm, key), held KT_E_HELD. */
kt_code kt_turn_class(const kt_turn_end *end);

#endif

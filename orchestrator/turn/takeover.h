/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Coming to a run: is this state folder the newest one of its cluster, and is whoever had the run before shut out?
 *
 * A state folder may have been copied, and the coordinator on the other machine may still live. The nodes know better
 * than any journal what was begun on them: a request of the run that a node has begun and the journal does not have was
 * made by somebody with a newer one. They are asked twice: before the take, so that an older copy does not even disturb
 * the newer one, and after it, under the new epoch, which from then on keeps everybody else off the node; so nothing
 * can have been begun between the answer and the first command.
 */
#ifndef KT_TURN_TAKEOVER_H
#define KT_TURN_TAKEOVER_H

#include "orchestrator/engine/engine.h"
#include "orchestrator/inventory/inventory.h"
#include "orchestrator/journal/journal.h"
#include "orchestrator/turn/nodes.h"

typedef struct kt_takeover {
	kt_nodes *nodes;
	const kt_cluster *cluster;
	kt_journal *journal;
	const char *run;
	const kt_engine *engine; /* the run as the journal tells it; NULL: a new run */
	bool alone;              /* a person knows that no other coordinator of the run lives */
	int64_t floor;           /* out: the highest epoch that a node follows; the new one must be higher */
} kt_takeover;

/*
 * Before the take; runs the loop. KT_E_REFUSED names the first node that follows a run which the journal does not have,
 * or has begun a request of this run which it does not have. A node that cannot be asked is passed over.
 */
KT_MUST_CHECK kt_code kt_takeover_check(kt_takeover *t, kt_err *err);
/*
 * After the take of `epoch`, before any command; runs the loop. KT_E_REFUSED as above, and when a node follows a higher
 * epoch by now. KT_E_UNREACHABLE when a node cannot be asked and the coordinator that had the run before may still
 * live: it was on another machine, or its process is there. (With `alone` the word of a person stands against that.)
 */
KT_MUST_CHECK kt_code kt_takeover_fence(kt_takeover *t, int64_t epoch, kt_err *err);

#endif

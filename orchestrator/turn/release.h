/* SPDX-License-Identifier: Apache-2.0 */
/* The nodes are told that a run is over, so that another cluster's run may have them (agent/runlock.h). */
#ifndef KT_TURN_RELEASE_H
#define KT_TURN_RELEASE_H

#include "orchestrator/engine/engine.h"
#include "orchestrator/inventory/inventory.h"
#include "orchestrator/turn/nodes.h"

typedef struct kt_release {
	const kt_cluster *cluster;
	kt_nodes *nodes;
	const kt_engine *engine; /* of a run that is final */
	const char *run;
	int64_t epoch; /* of its latest take */
	/* Which nodes could not be told, and what that means; may be NULL. */
	void (*note)(void *cookie, const char *text);
	void *cookie;
} kt_release;

/* Tell every node that was reached in this run; runs the loop, 20 s at most. Best effort: a node that is not told stays
 * held, and resuming the run tells it again. */
void kt_release_nodes(const kt_release *r);

#endif

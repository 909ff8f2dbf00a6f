/* SPDX-License-Identifier: Apache-2.0 */
/* From a request to its outcome: what must hold before a verb may run, whatever it does. */
#ifndef KT_AGENT_DISPATCH_H
#define KT_AGENT_DISPATCH_H

#include "agent/action.h"

enum { KT_VERB_READS, KT_VERB_CHANGES, KT_VERB_ENDS };
enum { KT_VERB_AGAIN, KT_VERB_ONCE };

/* What must hold before a verb may run; docs/FORMATS.md, section 2. */
typedef struct kt_agent_verb {
	const char *name;
	unsigned kind; /* CHANGES: needs a run and an admitted epoch, holds the node, takes the lock, is recorded first;
			  ENDS: the run is over on this node; as CHANGES, but it neither holds nor is recorded */
	unsigned repeat;    /* ONCE: its handler records the outcome and decides about repetitions */
	bool outside;       /* a changing verb that may also be asked for outside of a run, then not recorded */
	bool quiet;         /* a reading verb that must not run beside detached work: it would see it half done */
	bool alone;         /* a reading verb that takes the lock: a change that is under way would escape it */
	const char *hidden; /* the argument that is kept in the spool only as a digest */
	kt_action_fn *act;
} kt_agent_verb;

/* The agent's verbs (verbs.c); the last one has no name. */
extern const kt_agent_verb kt_agent_verbs[];

/* How a conversation serves its requests; borrowed. */
typedef struct kt_agent {
	const kt_agent_verb *verbs; /* the last one has no name */
	const char *state;          /* absolute */
	const char *node;
	void (*report)(void *arg, int64_t done, int64_t total, const char *text);
	bool (*stopping)(void *arg);
	void *arg;
} kt_agent;

/*
 * Serve one request. `result` is an empty object that is filled; *err is set unless the status is KT_STATUS_OK. One
 * thread at a time.
 */
KT_MUST_CHECK kt_status kt_dispatch(const kt_agent *a, const kt_request *r, cJSON *result, kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* From a request to its outcome: the table of verbs, and what must hold before each may run. */
#ifndef KT_AGENT_DISPATCH_H
#define KT_AGENT_DISPATCH_H

#include "agent/action.h"

/* How a conversation serves its requests; borrowed. */
typedef struct kt_agent {
	const char *state; /* absolute */
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

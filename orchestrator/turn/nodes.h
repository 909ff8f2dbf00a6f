/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The nodes of a cluster as the driver sees them: send a request to a node, and get exactly one answer. Connecting,
 * starting the agent, and finding the way back after a lost connection happen here; the request goes out again under
 * its same idempotency key, and the node's spool answers it (docs/DESIGN.md, "The agent").
 */
#ifndef KT_TURN_NODES_H
#define KT_TURN_NODES_H

#include <uv.h>

#include "orchestrator/fleet/fleet.h"
#include "orchestrator/inventory/inventory.h"

typedef struct kt_nodes kt_nodes;

typedef struct kt_nodes_options {
	/* A line about what the connections do, for --trace; may be NULL. */
	void (*on_trace)(void *cookie, const char *node, const char *line);
	/* An open connection was lost; the node is being reached again where a request waits. May be NULL. */
	void (*on_lost)(void *cookie, size_t node, const kt_err *err);
	void *cookie;
} kt_nodes_options;

/* Read the pins (state/known_hosts), ask `ssh -G` about each node, and make the fleet. Nothing is connected yet.
 * `cluster` and `loop` are borrowed. */
KT_MUST_CHECK kt_code kt_nodes_open(uv_loop_t *loop, const kt_cluster *cluster, const kt_nodes_options *options,
				    kt_nodes **out, kt_err *err);
/* Close all connections; runs the loop until they are closed. Answers under way are dropped. NULL is fine. */
void kt_nodes_close(kt_nodes *nodes);

/* The fleet's node, for what comes before there is an agent (enroll). `node` is an index into cluster->nodes. */
kt_fleet_node *kt_nodes_get(kt_nodes *nodes, size_t node);
kt_hostkeys *kt_nodes_hostkeys(kt_nodes *nodes);
/* The name and port under which a node's host key is pinned. */
const char *kt_nodes_pin_host(const kt_nodes *nodes, size_t node);
unsigned kt_nodes_pin_port(const kt_nodes *nodes, size_t node);

/*
 * The one answer. `status` is ok, retry, failed or unknown, from the node or from here: `failed` with class unreachable
 * when the request never left, `unknown` when it left and no answer came. `result` may be NULL; both are borrowed.
 */
typedef void (*kt_nodes_answer_cb)(void *cookie, size_t node, kt_status status, const cJSON *result,
				   const kt_err *error);
typedef void (*kt_nodes_progress_cb)(void *cookie, size_t node, const kt_progress *progress);

typedef struct kt_ask {
	kt_request request;               /* its texts are copied; `node`, `id` and `args` are set here */
	cJSON *args;                      /* taken over, also on failure; NULL: {} */
	bool once;                        /* sent again after a lost connection it may only settle: see kt_request */
	int64_t timeout_ms;               /* for the answer, from when the request is sent; 0: none */
	int64_t reach_ms;                 /* how long an unreachable node is tried again; 0: one attempt */
	kt_nodes_progress_cb on_progress; /* may be NULL */
	kt_nodes_answer_cb on_answer;
	void *cookie;
} kt_ask;

/* KT_OK: on_answer will be called once, from the loop. */
KT_MUST_CHECK kt_code kt_nodes_ask(kt_nodes *nodes, size_t node, const kt_ask *ask, kt_err *err);

/* Forget every request that has no answer yet: their on_answer is never called. */
void kt_nodes_drop(kt_nodes *nodes);

/* A verb outside of any run (a reading one, or key.transport) or at the end of one (run.release), on many nodes at
 * once; runs the loop until all have answered. */
typedef struct kt_answer {
	kt_status status;
	cJSON *result; /* may be NULL */
	kt_err error;
} kt_answer;
typedef struct kt_survey {
	const char *verb;
	const char *run; /* NULL: outside of any run */
	int64_t epoch;   /* of that run */
	/* The arguments for a node: a new object that the survey deletes. NULL: {}. */
	kt_code (*args)(void *cookie, size_t node, cJSON **out, kt_err *err);
	/* Leave this node out; its answer stays empty (ok, without a result). NULL: none. */
	bool (*skip)(void *cookie, size_t node);
	void *cookie;
	int64_t timeout_ms;
} kt_survey;
/* *answers has one entry a node and is the caller's: kt_answers_free. KT_OK also when nodes failed to answer. */
KT_MUST_CHECK kt_code kt_nodes_survey(kt_nodes *nodes, const kt_survey *survey, kt_answer **answers, kt_err *err);
void kt_answers_free(kt_answer *answers, size_t n);

/* Clock of the node minus ours when its agent said hello, in ms; 0 when it has not. */
int64_t kt_nodes_skew_ms(const kt_nodes *nodes, size_t node);

#endif

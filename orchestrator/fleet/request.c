/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>

#include "orchestrator/fleet/internal.h"

typedef struct request_op {
	kt_op op;
	kt_fleet_request_options options;
	char verb[KT_NAME_MAX + 1];
	int64_t id; /* on the wire */
	cJSON *payload;
	kt_reply reply;
} request_op;

static void deliver_request(kt_op *op)
{
	request_op *r = (request_op *)op;
	if (r->options.on_reply)
		r->options.on_reply(op->cookie, op->node, &op->err, op->err.code == KT_OK ? &r->reply : NULL);
}

static void dispose_request(kt_op *op)
{
	cJSON_Delete(((request_op *)op)->payload);
}

static void expire_request(kt_op *op)
{
	kt_err err = KT_ERR_INIT;
	KT_IGNORE(kt_node_fail(op->node, &err, KT_E_UNREACHABLE,
			       "raise the step's timeout_s if the node only needs longer",
			       "no answer to %s within %lld ms", ((request_op *)op)->verb, (long long)op->timeout));
	kt_op_finish(op, &err);
}

static const kt_op_class request_class = {
	.name = "the request",
	.deliver = deliver_request,
	.dispose = dispose_request,
	.expired = expire_request,
};

static request_op *find_request(kt_fleet_node *node, int64_t id)
{
	for (kt_op *op = node->ops; op; op = op->next)
		if (op->class == &request_class && ((request_op *)op)->id == id)
			return (request_op *)op;
	return NULL;
}

/* An id that was given out but is not open any more was cancelled or has timed out. */
static kt_code check_late(const kt_fleet_node *node, int64_t id, const char *what, kt_err *err)
{
	if (id > 0 && id < node->agent.next_id) {
		kt_trace(node, "a %s to request %lld came too late", what, (long long)id);
		return KT_OK;
	}
	return kt_fail(err, KT_E_INPUT, "run `keyturn enroll` to put the same version on every node",
		       "the agent sent a %s to request %lld, which was never made", what, (long long)id);
}

kt_code kt_request_on_reply(kt_fleet_node *node, cJSON **payload, kt_err *err)
{
	kt_reply reply;
	KT_TRY(kt_reply_decode(*payload, &reply, err));
	request_op *r = find_request(node, reply.id);
	if (!r)
		return check_late(node, reply.id, "reply", err);
	r->payload = *payload;
	r->reply = reply;
	*payload = NULL;
	kt_op_finish(&r->op, NULL);
	return KT_OK;
}

typedef struct progress_event {
	kt_event event;
	kt_fleet_node *node;
	kt_fleet_progress_cb on_progress;
	void *cookie;
	cJSON *payload;
	kt_progress progress;
} progress_event;

static void deliver_progress(kt_event *event)
{
	progress_event *p = (progress_event *)event;
	p->on_progress(p->cookie, p->node, &p->progress);
	cJSON_Delete(p->payload);
	free(p);
}

kt_code kt_request_on_progress(kt_fleet_node *node, cJSON **payload, kt_err *err)
{
	kt_progress progress;
	KT_TRY(kt_progress_decode(*payload, &progress, err));
	request_op *r = find_request(node, progress.id);
	if (!r)
		return check_late(node, progress.id, "progress", err);
	if (!r->options.on_progress)
		return KT_OK;
	progress_event *p = calloc(1, sizeof *p);
	if (!p)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	*p = (progress_event){.event.deliver = deliver_progress,
			      .node = node,
			      .on_progress = r->options.on_progress,
			      .cookie = r->op.cookie,
			      .payload = *payload,
			      .progress = progress};
	*payload = NULL;
	kt_fleet_queue(node->fleet, &p->event);
	return KT_OK;
}

kt_code kt_fleet_request(kt_fleet_node *node, const kt_request *request, const kt_fleet_request_options *options,
			 kt_fleet_op *op, kt_err *err)
{
	kt_request numbered = *request;
	kt_err trouble = KT_ERR_INIT;
	cJSON *payload = NULL;
	kt_op *made = NULL;
	const bool ready = node->agent.state == KT_AG_READY && node->fatal.code == KT_OK;
	numbered.id = ready ? node->agent.next_id : 1;
	KT_TRY(kt_request_encode(&numbered, &payload, err));
	kt_code rc = kt_op_new(node, &request_class, sizeof(request_op), options->timeout_ms, options->cookie, op,
			       &made, err);
	if (rc != KT_OK) {
		cJSON_Delete(payload);
		return rc;
	}
	request_op *r = (request_op *)made;
	r->options = *options;
	r->id = ready ? node->agent.next_id++ : 0;
	(void)snprintf(r->verb, sizeof r->verb, "%s", request->verb);
	rc = ready ? kt_agent_send(node, KT_FRAME_REQUEST, payload, &trouble)
		   : kt_node_fail(node, &trouble, KT_E_UNREACHABLE, "connect it again",
				  "its agent is not running, %s was not sent", r->verb);
	cJSON_Delete(payload);
	if (rc != KT_OK)
		kt_op_finish(&r->op, &trouble);
	return KT_OK;
}

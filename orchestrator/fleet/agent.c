/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "orchestrator/fleet/internal.h"

typedef struct start_op {
	kt_op op;
	kt_fleet_hello_cb done;
	cJSON *payload;
	kt_hello hello;
} start_op;

static void deliver_start(kt_op *op)
{
	start_op *s = (start_op *)op;
	if (s->done)
		s->done(op->cookie, op->node, &op->err, op->err.code == KT_OK ? &s->hello : NULL);
}

/* Over without an agent: let go of the channel. */
static void release_start(kt_op *op)
{
	if (op->err.code != KT_OK && op->node->agent.state == KT_AG_STARTING)
		kt_agent_end(op->node);
}

static void dispose_start(kt_op *op)
{
	cJSON_Delete(((start_op *)op)->payload);
}

static void expire_start(kt_op *op)
{
	kt_err err = KT_ERR_INIT;
	char said[200];
	kt_snippet(&op->node->agent.errors, said, sizeof said);
	KT_IGNORE(kt_node_fail(op->node, &err, KT_E_UNREACHABLE,
			       "run the agent's command by hand on the node and see what it waits for",
			       "the agent has not said hello within %lld ms%s%s", (long long)op->timeout,
			       said[0] ? "; it said: " : "", said));
	kt_op_finish(op, &err);
}

static const kt_op_class start_class = {
	.name = "the start of the agent",
	.deliver = deliver_start,
	.release = release_start,
	.dispose = dispose_start,
	.expired = expire_start,
};

void kt_agent_end(kt_fleet_node *node)
{
	kt_agent_link *link = &node->agent;
	kt_channel_abandon(link->channel);
	kt_buf_free(&link->in);
	kt_buf_free(&link->errors);
	*link = (kt_agent_link){.state = KT_AG_NONE};
}

/* The agent cannot be talked to any more. */
static void give_up(kt_fleet_node *node, const kt_err *err)
{
	kt_op *op = kt_op_find(node, &start_class);
	if (node->agent.state == KT_AG_READY)
		kt_node_break(node, err);
	else if (op)
		kt_op_finish(op, err);
	else
		kt_agent_end(node);
}

/* ---- frames ---- */

kt_code kt_agent_send(kt_fleet_node *node, kt_frame_kind kind, const cJSON *payload, kt_err *err)
{
	kt_buf frame = KT_BUF_INIT;
	kt_code rc = kt_frame_encode(kind, payload, &frame, err);
	if (rc == KT_OK)
		rc = kt_channel_write(node->agent.channel, frame.data, frame.len, err);
	kt_buf_free(&frame);
	return rc;
}

static kt_code send_number(kt_fleet_node *node, kt_frame_kind kind, int64_t n, kt_err *err)
{
	cJSON *payload = cJSON_CreateObject();
	kt_code rc =
		payload ? kt_json_add_int(payload, "n", n, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = kt_agent_send(node, kind, payload, err);
	cJSON_Delete(payload);
	return rc;
}

static void become_ready(kt_fleet_node *node)
{
	kt_agent_link *link = &node->agent;
	link->state = KT_AG_READY;
	link->next_id = 1;
	link->ping_n = 0;
	link->silent = 0;
	link->heard_at_ping = UINT64_MAX;
	link->ping_due = kt_fleet_now(node->fleet) + node->fleet->options.ping_interval_ms;
}

static kt_code on_hello(kt_fleet_node *node, cJSON **payload, kt_err *err)
{
	start_op *s = (start_op *)kt_op_find(node, &start_class);
	kt_hello hello;
	KT_TRY(kt_hello_decode(*payload, &hello, err));
	if (strcmp(hello.node, node->name) != 0)
		return kt_fail(err, KT_E_REFUSED, "correct the node's host in cluster.json, or enroll it again",
			       "the agent there calls itself \"%.63s\" (host %.63s)", hello.node, hello.hostname);
	kt_trace(node, "agent %.32s is ready", hello.agent);
	become_ready(node);
	if (!s)
		return KT_OK;
	s->payload = *payload;
	s->hello = hello;
	*payload = NULL;
	kt_op_finish(&s->op, NULL);
	return KT_OK;
}

static kt_code on_ping(kt_fleet_node *node, const cJSON *payload, kt_err *err)
{
	int64_t n;
	KT_TRY(kt_json_int(payload, "n", 0, INT64_C(1) << 53, &n, err));
	return send_number(node, KT_FRAME_PONG, n, err);
}

static kt_code on_frame(kt_fleet_node *node, kt_frame_kind kind, cJSON **payload, kt_err *err)
{
	const bool ready = node->agent.state == KT_AG_READY;
	if (!ready && kind == KT_FRAME_HELLO)
		return on_hello(node, payload, err);
	if (ready && kind == KT_FRAME_REPLY)
		return kt_request_on_reply(node, payload, err);
	if (ready && kind == KT_FRAME_PROGRESS)
		return kt_request_on_progress(node, payload, err);
	if (ready && kind == KT_FRAME_PING)
		return on_ping(node, *payload, err);
	if (ready && (kind == KT_FRAME_PONG || kind == KT_FRAME_BYE))
		return KT_OK; /* that bytes came is all that matters; after a bye the end comes */
	return kt_fail(err, KT_E_INPUT, "run `keyturn enroll` to put the same version on every node",
		       "the agent sent a frame of kind %d %s", (int)kind, ready ? "" : "before its hello");
}

/* A frame that cannot be read ends the conversation; show what came instead. */
static void not_understood(kt_fleet_node *node, const kt_err *cause)
{
	kt_err err = KT_ERR_INIT;
	char said[120];
	kt_buf head = KT_BUF_INIT;
	const kt_buf *in = &node->agent.in;
	kt_err ignored = KT_ERR_INIT;
	KT_IGNORE(kt_buf_append(&head, in->data, in->len < 100 ? in->len : 100, &ignored));
	kt_snippet(&head, said, sizeof said);
	kt_buf_free(&head);
	const bool hello = node->agent.state != KT_AG_READY;
	KT_IGNORE(kt_node_fail(node, &err, cause->code == KT_E_REFUSED ? KT_E_REFUSED : KT_E_UNREACHABLE, cause->remedy,
			       "%s%s%s%s", cause->msg, hello && said[0] ? "; it began: \"" : "", hello ? said : "",
			       hello && said[0] ? "\"" : ""));
	give_up(node, &err);
}

static void read_frames(kt_fleet_node *node)
{
	kt_agent_link *link = &node->agent;
	while (link->channel && node->fatal.code == KT_OK) {
		kt_err err = KT_ERR_INIT;
		kt_frame_kind kind;
		cJSON *payload = NULL;
		kt_code rc = kt_frame_decode(&link->in, &kind, &payload, &err);
		if (rc == KT_OK && !payload)
			return;
		if (rc == KT_OK)
			rc = on_frame(node, kind, &payload, &err);
		cJSON_Delete(payload);
		if (rc != KT_OK) {
			not_understood(node, &err);
			return;
		}
	}
}

/* ---- its channel ---- */

static void keep_tail(kt_buf *b, const uint8_t *bytes, size_t n)
{
	kt_err ignored = KT_ERR_INIT;
	if (n > KT_STDERR_MAX) {
		bytes += n - KT_STDERR_MAX;
		n = KT_STDERR_MAX;
	}
	if (b->len + n > KT_STDERR_MAX)
		kt_buf_consume(b, b->len + n - KT_STDERR_MAX);
	KT_IGNORE(kt_buf_append(b, bytes, n, &ignored));
}

static void on_data(void *owner, bool is_stderr, const uint8_t *bytes, size_t n)
{
	kt_fleet_node *node = owner;
	kt_agent_link *link = &node->agent;
	kt_err err = KT_ERR_INIT;
	if (is_stderr) {
		keep_tail(&link->errors, bytes, n);
		return;
	}
	link->heard += n;
	if (kt_buf_append(&link->in, bytes, n, &err) != KT_OK) {
		not_understood(node, &err);
		return;
	}
	read_frames(node);
}

static void describe_end(kt_fleet_node *node, int status, const char *signal, kt_err *err)
{
	char said[300];
	char how[64];
	const bool ready = node->agent.state == KT_AG_READY;
	kt_snippet(&node->agent.errors, said, sizeof said);
	if (signal[0])
		(void)snprintf(how, sizeof how, "signal %.20s", signal);
	else
		(void)snprintf(how, sizeof how, "exit status %d", status);
	const char *remedy = kt_remote_remedy(said, ready ? 0 : status);
	if (!remedy)
		remedy = ready ? "see the node's log; `keyturn resume` connects again"
			       : "run the agent's command by hand on the node";
	KT_IGNORE(kt_node_fail(node, err, KT_E_UNREACHABLE, remedy, "the agent %s (%s)%s%s",
			       ready ? "ended" : "did not start", how, said[0] ? ": " : "", said));
}

static void on_end(void *owner, const kt_err *end, int status, const char *signal)
{
	kt_fleet_node *node = owner;
	kt_err err = *end;
	if (err.code == KT_OK)
		describe_end(node, status, signal, &err);
	node->agent.channel = NULL;
	give_up(node, &err);
}

kt_code kt_fleet_start_agent(kt_fleet_node *node, kt_fleet_hello_cb done, void *cookie, kt_fleet_op *op, kt_err *err)
{
	static const kt_channel_user user = {.on_data = on_data, .on_end = on_end};
	kt_err trouble = KT_ERR_INIT;
	kt_op *made = NULL;
	if (!node->agent_argv[0])
		return kt_node_fail(node, err, KT_E_USAGE, NULL, "no agent command was given for it");
	if (node->agent.state != KT_AG_NONE)
		return kt_node_fail(node, err, KT_E_USAGE, NULL, "its agent runs already");
	KT_TRY(kt_op_new(node, &start_class, sizeof(start_op), node->fleet->options.start_timeout_ms, cookie, op, &made,
			 err));
	start_op *s = (start_op *)made;
	s->done = done;
	kt_code rc = node->phase == KT_PH_UP ? kt_channel_exec(node, (const char *const *)node->agent_argv, &user, node,
							       &node->agent.channel, &trouble)
					     : kt_node_fail(node, &trouble, KT_E_UNREACHABLE, NULL, "is not connected");
	if (rc != KT_OK) {
		kt_op_finish(&s->op, &trouble);
		return KT_OK;
	}
	node->agent.state = KT_AG_STARTING;
	node->agent.in.max = KT_FRAME_HEADER + KT_FRAME_PAYLOAD_MAX + KT_CHUNK;
	return KT_OK;
}

/* ---- is it still there? ---- */

void kt_agent_tick(kt_fleet_node *node, int64_t now)
{
	kt_agent_link *link = &node->agent;
	const kt_fleet_options *o = &node->fleet->options;
	kt_err err = KT_ERR_INIT;
	if (link->state != KT_AG_READY || link->ping_due > now || node->fatal.code != KT_OK)
		return;
	link->silent = link->heard == link->heard_at_ping ? link->silent + 1 : 0;
	link->heard_at_ping = link->heard;
	link->ping_due = now + o->ping_interval_ms;
	if (link->silent >= o->ping_limit) {
		KT_IGNORE(kt_node_fail(node, &err, KT_E_UNREACHABLE, "see whether the node is up and the network works",
				       "no sign of life for %lld ms", (long long)o->ping_interval_ms * link->silent));
		kt_node_break(node, &err);
		return;
	}
	if (kt_channel_unsent(link->channel) < KT_TX_HIGH &&
	    send_number(node, KT_FRAME_PING, ++link->ping_n, &err) != KT_OK)
		kt_node_break(node, &err);
}

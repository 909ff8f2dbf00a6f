/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ssh-agent, asked without ever blocking the loop: one connection, requests one after the other in their order. The
 * connection is made when the first node needs it and closed when the last one has logged in, so that the next
 * round sees the keys of that time.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/fleet/internal.h"
#include "orchestrator/fleet/sshbytes.h"

enum { REQUEST_IDENTITIES = 11, IDENTITIES_ANSWER = 12, SIGN_REQUEST = 13, SIGN_RESPONSE = 14 };
enum { MESSAGE_MAX = 256 * 1024, KEYS_MAX = 1024, LENGTH = 4 };

typedef enum agent_state { A_CLOSED, A_CONNECTING, A_LISTING, A_READY, A_FAILED } agent_state;

/* Waits for an answer; the first one in the queue was asked. */
typedef struct question {
	struct question *next;
	kt_fleet_node *node; /* NULL: nobody wants the answer any more */
	kt_buf message;
	bool asked;
} question;

/* The connection is an object of its own, because libuv closes it later than we forget it. */
typedef struct pipe_link {
	uv_pipe_t pipe;
	uv_connect_t connect;
	kt_sshagent *agent; /* NULL: given up */
	kt_fleet *fleet;
	uint8_t chunk[16 * 1024];
} pipe_link;

struct kt_sshagent {
	kt_sshagent *next;
	kt_fleet *fleet;
	char *path;
	agent_state state;
	size_t users;
	pipe_link *link;
	kt_buf in;
	kt_agentkey *keys;
	size_t n_keys;
	question *first;
	char trouble[128];
};

static void wake_all(kt_sshagent *agent)
{
	for (kt_fleet_node *node = agent->fleet->nodes; node; node = node->next)
		if (node->auth.asked_agent && node->ssh_agent && strcmp(node->ssh_agent, agent->path) == 0)
			kt_node_mark(node);
}

static void forget_keys(kt_sshagent *agent)
{
	for (size_t i = 0; i < agent->n_keys; i++)
		kt_buf_free(&agent->keys[i].blob);
	free(agent->keys);
	agent->keys = NULL;
	agent->n_keys = 0;
}

static void pop_question(kt_sshagent *agent, const uint8_t *raw, size_t len)
{
	question *q = agent->first;
	agent->first = q->next;
	if (q->node)
		kt_auth_signed(q->node, raw, len);
	kt_buf_free(&q->message);
	free(q);
}

static void on_link_closed(uv_handle_t *handle)
{
	pipe_link *l = handle->data;
	kt_fleet_handle_gone(l->fleet);
	free(l);
}

static void hang_up(kt_sshagent *agent)
{
	pipe_link *l = agent->link;
	agent->link = NULL;
	kt_buf_free(&agent->in);
	if (!l)
		return;
	l->agent = NULL;
	uv_close((uv_handle_t *)&l->pipe, on_link_closed);
}

/* It cannot be talked to; who waits for it is told. */
static void fail(kt_sshagent *agent, const char *why)
{
	(void)snprintf(agent->trouble, sizeof agent->trouble, "the ssh-agent: %s", why);
	agent->state = A_FAILED;
	hang_up(agent);
	while (agent->first)
		pop_question(agent, NULL, 0);
	wake_all(agent);
}

/* ---- writing ---- */

typedef struct write_request {
	uv_write_t request;
	pipe_link *link;
	uint8_t bytes[];
} write_request;

static void on_written(uv_write_t *request, int status)
{
	write_request *w = request->data;
	kt_sshagent *agent = w->link->agent;
	kt_fleet *fleet = w->link->fleet;
	if (status != 0 && agent)
		fail(agent, uv_strerror(status));
	free(w);
	kt_fleet_dispatch(fleet);
}

static void send_message(kt_sshagent *agent, const kt_buf *message)
{
	write_request *w = malloc(sizeof *w + message->len);
	int rc = UV_ENOMEM;
	if (w) {
		w->request.data = w;
		w->link = agent->link;
		memcpy(w->bytes, message->data, message->len);
		uv_buf_t buf = uv_buf_init((char *)w->bytes, (unsigned)message->len);
		rc = uv_write(&w->request, (uv_stream_t *)&agent->link->pipe, &buf, 1, on_written);
	}
	if (rc != 0) {
		free(w);
		fail(agent, uv_strerror(rc));
	}
}

static void ask_next(kt_sshagent *agent)
{
	question *q = agent->first;
	if (agent->state != A_READY || !q || q->asked)
		return;
	q->asked = true;
	send_message(agent, &q->message);
}

/* ---- answers ---- */

static bool read_key(kt_bytes *in, kt_agentkey *key)
{
	kt_bytes blob, comment;
	kt_err ignored = KT_ERR_INIT;
	if (!kt_bytes_string(in, &blob) || !kt_bytes_string(in, &comment))
		return false;
	size_t n = comment.len < sizeof key->comment - 1 ? comment.len : sizeof key->comment - 1;
	for (size_t i = 0; i < n; i++)
		key->comment[i] = comment.at[i] < 0x20 || comment.at[i] >= 0x7f ? '?' : (char)comment.at[i];
	return kt_buf_append(&key->blob, blob.at, blob.len, &ignored) == KT_OK;
}

static void on_identities(kt_sshagent *agent, kt_bytes in)
{
	uint8_t type;
	uint32_t n;
	if (!kt_bytes_u8(&in, &type) || type != IDENTITIES_ANSWER || !kt_bytes_u32(&in, &n) || n > KEYS_MAX) {
		fail(agent, "it does not tell its keys");
		return;
	}
	agent->keys = calloc(n ? n : 1, sizeof *agent->keys);
	for (; agent->keys && agent->n_keys < n; agent->n_keys++) {
		if (read_key(&in, &agent->keys[agent->n_keys]))
			continue;
		kt_buf_free(&agent->keys[agent->n_keys].blob);
		fail(agent, "its list of keys is malformed");
		return;
	}
	agent->state = A_READY;
	wake_all(agent);
	ask_next(agent);
}

static void on_signature(kt_sshagent *agent, kt_bytes in)
{
	uint8_t type;
	kt_bytes signature, name, raw;
	if (!agent->first || !agent->first->asked) {
		fail(agent, "it answered without being asked");
		return;
	}
	if (kt_bytes_u8(&in, &type) && type == SIGN_RESPONSE && kt_bytes_string(&in, &signature) &&
	    kt_bytes_string(&signature, &name) && kt_bytes_string(&signature, &raw))
		pop_question(agent, raw.at, raw.len);
	else
		pop_question(agent, NULL, 0);
	ask_next(agent);
}

static void read_messages(kt_sshagent *agent)
{
	while (agent->link && agent->in.len >= LENGTH) {
		kt_bytes all = {agent->in.data, agent->in.len};
		kt_bytes message;
		uint32_t n = 0;
		kt_bytes peek = all;
		if (kt_bytes_u32(&peek, &n) && n > MESSAGE_MAX) {
			fail(agent, "it sent something that is too long");
			return;
		}
		if (!kt_bytes_string(&all, &message))
			return;
		if (agent->state == A_LISTING)
			on_identities(agent, message);
		else
			on_signature(agent, message);
		kt_buf_consume(&agent->in, LENGTH + n);
	}
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
	(void)suggested;
	pipe_link *l = handle->data;
	*buf = uv_buf_init((char *)l->chunk, sizeof l->chunk);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	pipe_link *l = stream->data;
	kt_sshagent *agent = l->agent;
	kt_err err = KT_ERR_INIT;
	if (!agent)
		return;
	if (n < 0)
		fail(agent, n == UV_EOF ? "it closed the connection" : uv_strerror((int)n));
	else if (kt_buf_append(&agent->in, buf->base, (size_t)n, &err) != KT_OK)
		fail(agent, "out of memory");
	else
		read_messages(agent);
	kt_fleet_dispatch(l->fleet);
}

/* ---- connecting ---- */

static void list_keys(kt_sshagent *agent)
{
	static const uint8_t ask[] = {0, 0, 0, 1, REQUEST_IDENTITIES};
	kt_buf message = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	agent->state = A_LISTING;
	if (kt_buf_append(&message, ask, sizeof ask, &err) == KT_OK)
		send_message(agent, &message);
	else
		fail(agent, "out of memory");
	kt_buf_free(&message);
}

static void on_connected(uv_connect_t *connect, int status)
{
	pipe_link *l = connect->data;
	kt_sshagent *agent = l->agent;
	if (agent && status == 0)
		status = uv_read_start((uv_stream_t *)&l->pipe, on_alloc, on_read);
	if (agent && status != 0)
		fail(agent, uv_strerror(status));
	else if (agent)
		list_keys(agent);
	kt_fleet_dispatch(l->fleet);
}

static void dial(kt_sshagent *agent)
{
	pipe_link *l = calloc(1, sizeof *l);
	int rc = l ? uv_pipe_init(agent->fleet->loop, &l->pipe, 0) : UV_ENOMEM;
	forget_keys(agent);
	agent->trouble[0] = '\0';
	if (rc != 0) {
		free(l);
		fail(agent, uv_strerror(rc));
		return;
	}
	agent->fleet->handles++;
	agent->link = l;
	agent->state = A_CONNECTING;
	agent->in.max = MESSAGE_MAX + sizeof l->chunk;
	l->agent = agent;
	l->fleet = agent->fleet;
	l->pipe.data = l;
	l->connect.data = l;
	uv_pipe_connect(&l->connect, &l->pipe, agent->path, on_connected);
}

/* ---- what the login uses ---- */

kt_code kt_sshagent_get(kt_fleet *fleet, const char *path, kt_sshagent **out, kt_err *err)
{
	for (*out = fleet->agents; *out; *out = (*out)->next)
		if (strcmp((*out)->path, path) == 0)
			return KT_OK;
	kt_sshagent *agent = calloc(1, sizeof *agent);
	char *copy = strdup(path);
	if (!agent || !copy) {
		free(agent);
		free(copy);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	agent->fleet = fleet;
	agent->path = copy;
	agent->next = fleet->agents;
	fleet->agents = agent;
	*out = agent;
	return KT_OK;
}

void kt_sshagent_join(kt_sshagent *agent)
{
	if (agent->users++ == 0 && !agent->link)
		dial(agent);
}

void kt_sshagent_leave(kt_sshagent *agent, kt_fleet_node *node)
{
	if (!agent)
		return;
	for (question *q = agent->first; q; q = q->next)
		if (q->node == node)
			q->node = NULL;
	if (--agent->users > 0)
		return;
	hang_up(agent);
	agent->state = A_CLOSED;
	while (agent->first)
		pop_question(agent, NULL, 0);
	forget_keys(agent);
}

bool kt_sshagent_keys(const kt_sshagent *agent, const kt_agentkey **keys, size_t *count, const char **trouble)
{
	*keys = agent->keys;
	*count = agent->n_keys;
	*trouble = agent->state == A_FAILED ? agent->trouble : NULL;
	if (*trouble)
		*count = 0;
	return agent->state == A_READY || agent->state == A_FAILED;
}

static kt_code make_question(const kt_buf *blob, const uint8_t *data, size_t len, kt_buf *out, kt_err *err)
{
	const uint8_t kind = SIGN_REQUEST;
	KT_TRY(kt_bytes_put_u32(out, (uint32_t)(1 + LENGTH + blob->len + LENGTH + len + 4), err));
	KT_TRY(kt_buf_append(out, &kind, 1, err));
	KT_TRY(kt_bytes_put(out, blob->data, blob->len, err));
	KT_TRY(kt_bytes_put(out, data, len, err));
	return kt_bytes_put_u32(out, 0, err);
}

kt_code kt_sshagent_sign(kt_sshagent *agent, kt_fleet_node *node, const kt_buf *blob, const uint8_t *data, size_t len,
			 kt_err *err)
{
	if (agent->state != A_READY)
		return kt_fail(err, KT_E_KEY, NULL, "the ssh-agent is gone");
	question *q = calloc(1, sizeof *q);
	if (!q)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = make_question(blob, data, len, &q->message, err);
	if (rc != KT_OK) {
		kt_buf_free(&q->message);
		free(q);
		return rc;
	}
	q->node = node;
	question **at = &agent->first;
	while (*at)
		at = &(*at)->next;
	*at = q;
	ask_next(agent);
	return KT_OK;
}

void kt_sshagents_close(kt_fleet *fleet)
{
	while (fleet->agents) {
		kt_sshagent *agent = fleet->agents;
		fleet->agents = agent->next;
		hang_up(agent);
		while (agent->first)
			pop_question(agent, NULL, 0);
		forget_keys(agent);
		free(agent->path);
		free(agent);
	}
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/fleet/internal.h"

enum { DEFAULT_CONNECT_MS = 20000, DEFAULT_START_MS = 20000, DEFAULT_CONNECTING = 64, DEFAULT_PING_MS = 5000 };
enum { DEFAULT_PING_LIMIT = 3, DEFAULT_PORT = 22 };

/* ---- the queue of completions, and the turn of the loop in which they are delivered ---- */

static void on_idle(uv_idle_t *idle)
{
	kt_fleet_dispatch(idle->data);
}

void kt_fleet_wake(kt_fleet *fleet)
{
	if (fleet->idle_on || fleet->handles_closed)
		return;
	(void)uv_idle_start(&fleet->idle, on_idle); /* fails only without a callback */
	fleet->idle_on = true;
}

void kt_fleet_queue(kt_fleet *fleet, kt_event *event)
{
	event->next = NULL;
	if (fleet->events_tail)
		fleet->events_tail->next = event;
	else
		fleet->events_head = event;
	fleet->events_tail = event;
	kt_fleet_wake(fleet);
}

void kt_node_mark(kt_fleet_node *node)
{
	if (node->dirty)
		return;
	node->dirty = true;
	node->next_dirty = node->fleet->dirty;
	node->fleet->dirty = node;
	kt_fleet_wake(node->fleet);
}

static void deliver_next(kt_fleet *fleet)
{
	kt_event *event = fleet->events_head;
	fleet->events_head = event->next;
	if (!fleet->events_head)
		fleet->events_tail = NULL;
	event->deliver(event);
}

static void pump_next(kt_fleet *fleet)
{
	kt_fleet_node *node = fleet->dirty;
	fleet->dirty = node->next_dirty;
	node->dirty = false;
	kt_node_pump(node);
}

static void on_handle_closed(uv_handle_t *handle)
{
	kt_fleet_handle_gone(handle->data);
}

static void on_timer_closed(uv_handle_t *handle)
{
	kt_fleet_node *node = handle->data;
	kt_fleet_handle_gone(node->fleet);
}

static void close_handles(kt_fleet *fleet)
{
	fleet->handles_closed = true;
	kt_sshagents_close(fleet);
	for (kt_fleet_node *node = fleet->nodes; node; node = node->next)
		uv_close((uv_handle_t *)&node->timer, on_timer_closed);
	uv_close((uv_handle_t *)&fleet->idle, on_handle_closed);
}

/* Bounded, so that the rest of the loop gets its turn: what is left is done in the next one. */
void kt_fleet_dispatch(kt_fleet *fleet)
{
	enum { TURN = 4096 };
	if (fleet->dispatching || fleet->handles_closed)
		return;
	fleet->dispatching = true;
	for (int i = 0; i < TURN && (fleet->dirty || fleet->events_head); i++) {
		if (fleet->dirty)
			pump_next(fleet);
		else
			deliver_next(fleet);
	}
	fleet->dispatching = false;
	if (fleet->dirty || fleet->events_head)
		return;
	if (fleet->idle_on)
		(void)uv_idle_stop(&fleet->idle);
	fleet->idle_on = false;
	if (fleet->closing)
		close_handles(fleet);
}

/* ---- making and closing ---- */

static void set_defaults(kt_fleet_options *o)
{
	if (o->connect_timeout_ms <= 0)
		o->connect_timeout_ms = DEFAULT_CONNECT_MS;
	if (o->start_timeout_ms <= 0)
		o->start_timeout_ms = DEFAULT_START_MS;
	if (o->connecting_max == 0)
		o->connecting_max = DEFAULT_CONNECTING;
	if (o->ping_interval_ms <= 0)
		o->ping_interval_ms = DEFAULT_PING_MS;
	if (o->ping_limit == 0)
		o->ping_limit = DEFAULT_PING_LIMIT;
}

kt_code kt_fleet_new(uv_loop_t *loop, const kt_fleet_options *options, kt_fleet **out, kt_err *err)
{
	*out = NULL;
	if (libssh2_init(0) != 0)
		return kt_fail(err, KT_E_INTERNAL, NULL, "libssh2 cannot be set up");
	kt_fleet *fleet = calloc(1, sizeof *fleet);
	if (!fleet) {
		libssh2_exit();
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	fleet->loop = loop;
	if (options)
		fleet->options = *options;
	set_defaults(&fleet->options);
	int rc = uv_idle_init(loop, &fleet->idle);
	if (rc != 0) {
		free(fleet);
		libssh2_exit();
		return kt_fail(err, KT_E_INTERNAL, NULL, "the event loop: %s", uv_strerror(rc));
	}
	fleet->idle.data = fleet;
	fleet->handles = 1;
	*out = fleet;
	return KT_OK;
}

static void free_list(char **list)
{
	for (size_t i = 0; list && list[i]; i++)
		free(list[i]);
	free(list);
}

static void free_node(kt_fleet_node *node)
{
	free(node->name);
	free(node->host);
	free(node->user);
	free(node->address);
	free(node->ssh_agent);
	free(node->hostkey_alias);
	free_list(node->identities);
	free_list(node->agent_argv);
	kt_buf_free(&node->rx);
	kt_buf_free(&node->tx);
	free(node);
}

void kt_fleet_handle_gone(kt_fleet *fleet)
{
	if (--fleet->handles > 0)
		return;
	while (fleet->nodes) {
		kt_fleet_node *node = fleet->nodes;
		fleet->nodes = node->next;
		free_node(node);
	}
	void (*on_closed)(void *) = fleet->on_closed;
	void *cookie = fleet->closed_cookie;
	free(fleet);
	libssh2_exit();
	if (on_closed)
		on_closed(cookie);
}

void kt_fleet_close(kt_fleet *fleet, void (*on_closed)(void *cookie), void *cookie)
{
	if (fleet->closing)
		return;
	fleet->closing = true;
	fleet->on_closed = on_closed;
	fleet->closed_cookie = cookie;
	for (kt_fleet_node *node = fleet->nodes; node; node = node->next)
		kt_fleet_disconnect(node);
	kt_fleet_wake(fleet);
}

/* ---- nodes ---- */

static kt_code copy_text(const char *in, char **out, kt_err *err)
{
	*out = in ? strdup(in) : NULL;
	return in && !*out ? kt_fail(err, KT_E_INTERNAL, NULL, "out of memory") : KT_OK;
}

static kt_code copy_list(const char *const *in, char ***out, kt_err *err)
{
	size_t n = 0;
	while (in && in[n])
		n++;
	*out = calloc(n + 1, sizeof **out);
	if (!*out)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	for (size_t i = 0; i < n; i++)
		KT_TRY(copy_text(in[i], &(*out)[i], err));
	return KT_OK;
}

static kt_code check_options(const kt_fleet *fleet, const kt_fleet_node_options *o, kt_err *err)
{
	if (fleet->closing)
		return kt_fail(err, KT_E_USAGE, NULL, "the fleet is being closed");
	if (kt_name_check("node", o->name, err) != KT_OK)
		return kt_fail(err, KT_E_USAGE, NULL, "a node has no proper name");
	if (!o->host || !o->host[0] || o->host[0] == '-')
		return kt_fail(err, KT_E_USAGE, "give the node a host in cluster.json", "node %s has no host", o->name);
	if (!o->user || !o->user[0])
		return kt_fail(err, KT_E_USAGE, "set ssh.user in cluster.json", "node %s has no login name", o->name);
	if (o->port > 65535)
		return kt_fail(err, KT_E_USAGE, NULL, "node %s: %u is not a port", o->name, o->port);
	if (!o->hostkeys)
		return kt_fail(err, KT_E_USAGE, NULL, "node %s has no table of host keys", o->name);
	if (o->agent_argv && !o->agent_argv[0])
		return kt_fail(err, KT_E_USAGE, NULL, "node %s: the agent's command is empty", o->name);
	return KT_OK;
}

static kt_code make_address(kt_fleet_node *node, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	const bool v6 = strchr(node->host, ':') != NULL;
	kt_code rc = kt_buf_printf(&text, err, v6 ? "[%s]:%u" : "%s:%u", node->host, node->port);
	if (rc == KT_OK && !(node->address = kt_buf_steal(&text)))
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_buf_free(&text);
	return rc;
}

static kt_code fill_node(kt_fleet_node *node, const kt_fleet_node_options *o, kt_err *err)
{
	const char *agent = o->ssh_agent ? o->ssh_agent : getenv("SSH_AUTH_SOCK");
	if (agent && (!agent[0] || strcmp(agent, "none") == 0))
		agent = NULL;
	KT_TRY(copy_text(o->name, &node->name, err));
	KT_TRY(copy_text(o->host, &node->host, err));
	KT_TRY(copy_text(o->user, &node->user, err));
	KT_TRY(copy_text(agent, &node->ssh_agent, err));
	KT_TRY(copy_text(o->hostkey_alias, &node->hostkey_alias, err));
	KT_TRY(copy_list(o->identities, &node->identities, err));
	KT_TRY(copy_list(o->agent_argv, &node->agent_argv, err));
	node->port = o->port ? o->port : DEFAULT_PORT;
	node->identities_only = o->identities_only;
	node->hostkeys = o->hostkeys;
	node->jump = o->jump;
	node->cookie = o->cookie;
	node->rx.max = KT_RX_MAX + KT_CHUNK;
	return make_address(node, err);
}

kt_code kt_fleet_add(kt_fleet *fleet, const kt_fleet_node_options *options, kt_fleet_node **out, kt_err *err)
{
	*out = NULL;
	KT_TRY(check_options(fleet, options, err));
	kt_fleet_node *node = calloc(1, sizeof *node);
	if (!node)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	node->fleet = fleet;
	kt_code rc = fill_node(node, options, err);
	int uv = rc == KT_OK ? uv_timer_init(fleet->loop, &node->timer) : 0;
	if (uv != 0)
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "the event loop: %s", uv_strerror(uv));
	if (rc != KT_OK) {
		free_node(node);
		return rc;
	}
	node->timer.data = node;
	fleet->handles++;
	node->next = fleet->nodes;
	fleet->nodes = node;
	*out = node;
	return KT_OK;
}

const char *kt_fleet_node_name(const kt_fleet_node *node)
{
	return node->name;
}

const char *kt_fleet_node_address(const kt_fleet_node *node)
{
	return node->address;
}

void *kt_fleet_node_cookie(const kt_fleet_node *node)
{
	return node->cookie;
}

kt_fleet_state kt_fleet_node_state(const kt_fleet_node *node)
{
	if (node->phase == KT_PH_DOWN)
		return KT_FLEET_DOWN;
	if (node->phase != KT_PH_UP)
		return KT_FLEET_CONNECTING;
	if (node->agent.state == KT_AG_NONE)
		return KT_FLEET_CONNECTED;
	return node->agent.state == KT_AG_STARTING ? KT_FLEET_STARTING : KT_FLEET_READY;
}

/* ---- time and trace ---- */

int64_t kt_fleet_now(const kt_fleet *fleet)
{
	return (int64_t)uv_now(fleet->loop);
}

static void on_timer(uv_timer_t *timer)
{
	kt_fleet_node *node = timer->data;
	node->timer_at = 0;
	kt_node_on_timer(node);
	kt_fleet_dispatch(node->fleet);
}

static void sooner(int64_t *at, int64_t when)
{
	if (when > 0 && (*at == 0 || when < *at))
		*at = when;
}

void kt_node_rearm(kt_fleet_node *node)
{
	int64_t at = 0;
	if (node->fleet->handles_closed)
		return;
	sooner(&at, node->connect_deadline);
	if (node->agent.state == KT_AG_READY)
		sooner(&at, node->agent.ping_due);
	for (const kt_op *op = node->ops; op; op = op->next)
		sooner(&at, op->deadline);
	if (at == node->timer_at)
		return;
	node->timer_at = at;
	if (at == 0) {
		(void)uv_timer_stop(&node->timer);
		return;
	}
	int64_t wait = at - kt_fleet_now(node->fleet);
	(void)uv_timer_start(&node->timer, on_timer, wait > 0 ? (uint64_t)wait : 0, 0);
}

void kt_trace(const kt_fleet_node *node, const char *fmt, ...)
{
	const kt_fleet_options *o = &node->fleet->options;
	if (!o->on_trace)
		return;
	char line[512];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	o->on_trace(o->cookie, node, line);
}

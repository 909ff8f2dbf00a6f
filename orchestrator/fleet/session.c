/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "orchestrator/fleet/internal.h"

/* ---- set-up ---- */

static const char *pin_name(const kt_fleet_node *node, unsigned *port)
{
	*port = node->hostkey_alias ? 22 : node->port;
	return node->hostkey_alias ? node->hostkey_alias : node->host;
}

static kt_code prefer_methods(kt_fleet_node *node, kt_err *err)
{
	kt_buf hostkey = KT_BUF_INIT;
	unsigned port;
	const char *name = pin_name(node, &port);
	kt_code rc = kt_hostkeys_methods(node->hostkeys, name, port, &hostkey, err);
	if (rc == KT_OK)
		rc = kt_methods_prefer(node->session, kt_buf_cstr(&hostkey), err);
	kt_buf_free(&hostkey);
	return rc == KT_OK ? rc : kt_err_prefix(err, rc, "%s (%s)", node->name, node->address);
}

kt_code kt_session_start(kt_fleet_node *node, kt_err *err)
{
	node->session = libssh2_session_init_ex(NULL, NULL, NULL, node);
	if (!node->session)
		return kt_node_fail(node, err, KT_E_INTERNAL, NULL, "out of memory");
	libssh2_session_set_blocking(node->session, 0);
	kt_transport_attach(node);
	KT_TRY(prefer_methods(node, err));
	node->phase = KT_PH_HANDSHAKE;
	return KT_OK;
}

/* ---- the steps: one for each phase; false when it has to wait ---- */

static bool step_wait(kt_fleet_node *node)
{
	(void)node;
	return false;
}

static bool step_tcp(kt_fleet_node *node)
{
	kt_connect_step(node);
	if (node->phase == KT_PH_HANDSHAKE)
		kt_transport_fill(node);
	return node->phase != KT_PH_TCP;
}

static kt_code check_hostkey(kt_fleet_node *node, kt_err *err)
{
	size_t len;
	int type;
	unsigned port;
	const char *name = pin_name(node, &port);
	const char *key = libssh2_session_hostkey(node->session, &len, &type);
	if (!key)
		return kt_node_fail(node, err, KT_E_UNREACHABLE, NULL, "the key exchange brought no host key");
	kt_code rc = kt_hostkeys_check(node->hostkeys, name, port, (const uint8_t *)key, len, err);
	return rc == KT_OK ? rc : kt_err_prefix(err, rc, "%s (%s)", node->name, node->address);
}

static bool step_handshake(kt_fleet_node *node)
{
	kt_err err = KT_ERR_INIT;
	int rc = libssh2_session_handshake(node->session, kt_node_fd(node));
	if (rc == LIBSSH2_ERROR_EAGAIN)
		return false;
	kt_code code = rc != 0 ? kt_ssh_fail(node, rc, kt_fleet_phase_name(node->phase), &err) : KT_OK;
	if (code == KT_OK && node->scanning) {
		kt_scan_found(node);
		return false;
	}
	if (code == KT_OK)
		code = check_hostkey(node, &err);
	if (code != KT_OK) {
		kt_node_break(node, &err);
		return false;
	}
	kt_trace(node, "host key checked, key exchange %s", libssh2_session_methods(node->session, LIBSSH2_METHOD_KEX));
	node->phase = KT_PH_AUTH;
	return true;
}

static bool step_auth(kt_fleet_node *node)
{
	kt_err err = KT_ERR_INIT;
	bool done = false;
	if (kt_auth_step(node, &done, &err) != KT_OK) {
		kt_node_break(node, &err);
		return false;
	}
	if (!done)
		return false;
	kt_auth_reset(node);
	node->phase = KT_PH_UP;
	node->connect_deadline = 0;
	kt_trace(node, "logged in as %s", node->user);
	kt_connect_turn_over(node);
	kt_op *op = kt_op_find(node, &kt_connect_class);
	if (op)
		kt_op_finish(op, NULL);
	kt_connect_jump_changed(node, &err);
	return true;
}

static bool step_up(kt_fleet_node *node)
{
	kt_err err = KT_ERR_INIT;
	bool again = false;
	kt_code rc = kt_channels_pump(node, &again, &err);
	if (rc == KT_OK && node->rx_errno && !kt_transport_unread(node))
		rc = kt_ssh_fail(node, 0, "connected", &err);
	if (rc == KT_OK && node->rx_eof && !node->channels)
		rc = kt_ssh_fail(node, LIBSSH2_ERROR_SOCKET_DISCONNECT, "connected", &err);
	if (rc != KT_OK)
		kt_node_break(node, &err);
	else if (again)
		kt_node_mark(node);
	return false;
}

static bool (*const steps[KT_PH_COUNT])(kt_fleet_node *) = {
	[KT_PH_DOWN] = step_wait,           [KT_PH_WAIT_JUMP] = step_wait, [KT_PH_QUEUED] = step_wait,
	[KT_PH_RESOLVE] = step_wait,        [KT_PH_TCP] = step_tcp,        [KT_PH_TUNNEL] = step_wait,
	[KT_PH_HANDSHAKE] = step_handshake, [KT_PH_AUTH] = step_auth,      [KT_PH_UP] = step_up,
};

/* ---- the pump ---- */

void kt_node_pump(kt_fleet_node *node)
{
	kt_transport_fill(node);
	while (node->fatal.code == KT_OK && steps[node->phase](node))
		;
	kt_transport_flush(node);
	if (node->fatal.code == KT_OK)
		kt_transport_poll(node);
	if (node->fatal.code != KT_OK) {
		kt_err err = node->fatal;
		kt_node_down(node, &err);
	}
	kt_node_rearm(node);
}

void kt_node_break(kt_fleet_node *node, const kt_err *err)
{
	if (node->fatal.code != KT_OK || node->phase == KT_PH_DOWN)
		return;
	node->fatal = *err;
	kt_trace(node, "breaks: %s", err->msg);
	kt_node_mark(node);
}

static void check_connect_deadline(kt_fleet_node *node, int64_t now)
{
	kt_err err = KT_ERR_INIT;
	if (!node->connect_deadline || node->connect_deadline > now)
		return;
	const char *remedy = node->auth.sign == KT_SIGN_WAITING
				     ? "the ssh-agent has not answered: see whether it asks for a confirmation"
				     : "see whether the node is up and reachable, or raise ssh.connect_timeout_s";
	KT_IGNORE(kt_node_fail(node, &err, KT_E_UNREACHABLE, remedy, "no answer within %lld ms while %s",
			       (long long)node->fleet->options.connect_timeout_ms, kt_fleet_phase_name(node->phase)));
	kt_node_break(node, &err);
}

/* The loop may have stood still: what has arrived meanwhile is looked at before anything is called late. */
void kt_node_on_timer(kt_fleet_node *node)
{
	kt_node_pump(node);
	int64_t now = kt_fleet_now(node->fleet);
	check_connect_deadline(node, now);
	kt_agent_tick(node, now);
	kt_op_expire(node, now);
	kt_node_pump(node);
}

/* ---- the end of a connection ---- */

typedef struct lost_event {
	kt_event event;
	kt_fleet_node *node;
	kt_err err;
} lost_event;

static void deliver_lost(kt_event *event)
{
	lost_event *lost = (lost_event *)event;
	const kt_fleet_options *o = &lost->node->fleet->options;
	o->on_lost(o->cookie, lost->node, &lost->err);
	free(lost);
}

static void queue_lost(kt_fleet_node *node, const kt_err *err)
{
	if (!node->fleet->options.on_lost || err->code == KT_E_INTERRUPTED)
		return;
	lost_event *lost = calloc(1, sizeof *lost);
	if (!lost)
		return; /* the failed operations tell it too */
	lost->event.deliver = deliver_lost;
	lost->node = node;
	lost->err = *err;
	kt_fleet_queue(node->fleet, &lost->event);
}

static void free_session(kt_fleet_node *node)
{
	enum { ENOUGH = 1000 };
	if (!node->session)
		return;
	if (node->phase == KT_PH_HANDSHAKE) /* cut off: fails, and frees the half-done exchange */
		(void)libssh2_session_handshake(node->session, kt_node_fd(node));
	for (int i = 0; i < ENOUGH && libssh2_session_free(node->session) == LIBSSH2_ERROR_EAGAIN; i++)
		;
	node->session = NULL;
}

void kt_node_down(kt_fleet_node *node, const kt_err *cause)
{
	const kt_err err = *cause;
	const bool was_up = node->phase == KT_PH_UP;
	if (node->phase == KT_PH_DOWN)
		return;
	node->cut = true;
	kt_agent_end(node);
	kt_channels_drop(node, &err);
	kt_op_finish_all(node, &err);
	kt_auth_reset(node);
	free_session(node);
	kt_connect_drop(node);
	kt_buf_free(&node->rx);
	kt_buf_free(&node->tx);
	node->rx_done = node->tx_done = 0;
	node->rx_eof = node->cut = node->scanning = false;
	node->rx_errno = 0;
	node->opener = NULL;
	node->fatal = KT_ERR_INIT;
	node->phase = KT_PH_DOWN;
	if (was_up)
		queue_lost(node, &err);
	kt_connect_turn_over(node);
	kt_connect_jump_changed(node, &err);
}

/* ---- connect and disconnect ---- */

typedef struct connect_op {
	kt_op op;
	kt_fleet_done_cb done;
} connect_op;

static void deliver_connect(kt_op *op)
{
	connect_op *c = (connect_op *)op;
	if (c->done)
		c->done(op->cookie, op->node, &op->err);
}

/* Cancelling drops the connection that is being made, which completes the operation. */
void kt_connect_cancelled(kt_op *op)
{
	kt_err err = KT_ERR_INIT;
	KT_IGNORE(kt_node_fail(op->node, &err, KT_E_INTERRUPTED, NULL, "%s was cancelled", op->class->name));
	if (op->node->phase == KT_PH_DOWN || op->node->phase == KT_PH_UP)
		kt_op_finish(op, &err);
	else
		kt_node_down(op->node, &err);
}

const kt_op_class kt_connect_class = {
	.name = "the connect",
	.deliver = deliver_connect,
	.cancelled = kt_connect_cancelled,
};

kt_code kt_fleet_connect(kt_fleet_node *node, kt_fleet_done_cb done, void *cookie, kt_fleet_op *op, kt_err *err)
{
	kt_op *made = NULL;
	if (node->scanning || kt_op_find(node, &kt_connect_class))
		return kt_node_fail(node, err, KT_E_USAGE, NULL, "is being connected already");
	KT_TRY(kt_op_new(node, &kt_connect_class, sizeof(connect_op), 0, cookie, op, &made, err));
	connect_op *c = (connect_op *)made;
	c->done = done;
	if (node->phase == KT_PH_UP)
		kt_op_finish(&c->op, NULL);
	else if (node->phase == KT_PH_DOWN)
		kt_connect_begin(node);
	return KT_OK;
}

static void say_goodbye(kt_fleet_node *node)
{
	kt_err ignored = KT_ERR_INIT;
	bool again;
	if (node->agent.state == KT_AG_READY) {
		cJSON *bye = cJSON_CreateObject();
		if (bye && kt_agent_send(node, KT_FRAME_BYE, bye, &ignored) == KT_OK)
			KT_IGNORE(kt_channels_pump(node, &again, &ignored));
		cJSON_Delete(bye);
	}
	(void)libssh2_session_disconnect(node->session, "keyturn is done");
	kt_transport_flush(node);
	if (node->tunnel) /* the jump host's session carries it away */
		kt_node_pump(node->jump);
}

void kt_fleet_disconnect(kt_fleet_node *node)
{
	kt_err err = KT_ERR_INIT;
	KT_IGNORE(kt_node_fail(node, &err, KT_E_INTERRUPTED, NULL, "was disconnected by us"));
	if (node->phase == KT_PH_UP && node->fatal.code == KT_OK)
		say_goodbye(node);
	kt_node_down(node, &err);
	kt_op_finish_all(node, &err); /* those that were to fail because the node was down */
}

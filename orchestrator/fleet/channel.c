/* SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/shell.h"
#include "orchestrator/fleet/internal.h"

enum { READS = 16, ROUNDS = 64, CHANNEL_NOT_SAID = -1 };

/* ---- making ---- */

static kt_code new_channel(kt_fleet_node *node, const kt_channel_user *user, void *owner, kt_channel **out, kt_err *err)
{
	kt_channel *ch = calloc(1, sizeof *ch);
	*out = ch;
	if (!ch)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	ch->node = node;
	ch->user = user;
	ch->owner = owner;
	return KT_OK;
}

/* The oldest first, so that channels are opened in the order in which they were asked for. */
static void link_channel(kt_channel *ch)
{
	kt_channel **at = &ch->node->channels;
	while (*at)
		at = &(*at)->next;
	*at = ch;
	kt_node_mark(ch->node);
}

static void free_channel(kt_channel *ch)
{
	free(ch->command);
	free(ch->tunnel_host);
	kt_buf_free(&ch->in);
	free(ch);
}

kt_code kt_channel_exec(kt_fleet_node *node, const char *const *argv, const kt_channel_user *user, void *owner,
			kt_channel **out, kt_err *err)
{
	kt_buf command = KT_BUF_INIT;
	kt_channel *ch = NULL;
	*out = NULL;
	kt_code rc = kt_shell_quote(argv, &command, err);
	if (rc == KT_OK)
		rc = new_channel(node, user, owner, &ch, err);
	if (rc == KT_OK) {
		ch->command = kt_buf_steal(&command);
		link_channel(ch);
		*out = ch;
	}
	kt_buf_free(&command);
	return rc;
}

kt_code kt_channel_tunnel(kt_fleet_node *node, const char *host, unsigned port, const kt_channel_user *user,
			  void *owner, kt_channel **out, kt_err *err)
{
	kt_channel *ch;
	*out = NULL;
	KT_TRY(new_channel(node, user, owner, &ch, err));
	ch->tunnel_host = strdup(host);
	ch->tunnel_port = (int)port;
	if (!ch->tunnel_host) {
		free_channel(ch);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	link_channel(ch);
	*out = ch;
	return KT_OK;
}

/* ---- what its user does with it ---- */

kt_code kt_channel_write(kt_channel *ch, const void *bytes, size_t n, kt_err *err)
{
	KT_TRY(kt_buf_append(&ch->in, bytes, n, err));
	kt_node_mark(ch->node);
	return KT_OK;
}

size_t kt_channel_unsent(const kt_channel *ch)
{
	return ch->in.len - ch->in_done;
}

void kt_channel_send_eof(kt_channel *ch)
{
	ch->eof_wanted = true;
	kt_node_mark(ch->node);
}

void kt_channel_pause(kt_channel *ch, bool paused)
{
	ch->paused = paused;
	if (!paused)
		kt_node_mark(ch->node);
}

void kt_channel_abandon(kt_channel *ch)
{
	if (!ch)
		return;
	ch->user = NULL;
	ch->owner = NULL;
	kt_node_mark(ch->node);
}

/* ---- stepping: each returns true when something moved; a broken session is told by node->fatal ---- */

static void end_channel(kt_channel *ch, const kt_err *err, int status, const char *signal)
{
	const kt_channel_user *user = ch->user;
	void *owner = ch->owner;
	ch->user = NULL;
	ch->owner = NULL;
	ch->state = KT_CH_CLOSING;
	if (user)
		user->on_end(owner, err, status, signal);
}

static bool is_broken(int rc)
{
	return rc != LIBSSH2_ERROR_CHANNEL_FAILURE && rc != LIBSSH2_ERROR_CHANNEL_REQUEST_DENIED &&
	       rc != LIBSSH2_ERROR_CHANNEL_CLOSED && rc != LIBSSH2_ERROR_CHANNEL_EOF_SENT &&
	       rc != LIBSSH2_ERROR_CHANNEL_UNKNOWN && rc != LIBSSH2_ERROR_REQUEST_DENIED;
}

static bool session_broke(kt_channel *ch, int rc, const char *doing)
{
	kt_err err = KT_ERR_INIT;
	KT_IGNORE(kt_ssh_fail(ch->node, rc, doing, &err));
	kt_node_break(ch->node, &err);
	return false;
}

static bool refused(kt_channel *ch, int rc, const char *doing, const char *remedy)
{
	kt_err err = KT_ERR_INIT;
	char *said = NULL;
	if (is_broken(rc))
		return session_broke(ch, rc, doing);
	(void)libssh2_session_last_error(ch->node->session, &said, NULL, 0);
	KT_IGNORE(kt_node_fail(ch->node, &err, KT_E_UNREACHABLE, remedy, "the server refused %s: %s", doing,
			       said ? said : "no reason given"));
	end_channel(ch, &err, CHANNEL_NOT_SAID, "");
	return true;
}

static bool step_waiting(kt_channel *ch)
{
	if (!ch->user) {
		ch->state = KT_CH_CLOSING;
		return true;
	}
	if (ch->node->opener)
		return false;
	ch->node->opener = ch;
	ch->state = KT_CH_OPENING;
	return true;
}

static bool step_opening(kt_channel *ch)
{
	LIBSSH2_SESSION *session = ch->node->session;
	ch->ssh = ch->tunnel_host ? libssh2_channel_direct_tcpip(session, ch->tunnel_host, ch->tunnel_port)
				  : libssh2_channel_open_session(session);
	int rc = ch->ssh ? 0 : libssh2_session_last_errno(session);
	if (rc == LIBSSH2_ERROR_EAGAIN)
		return false;
	ch->node->opener = NULL;
	if (rc != 0)
		return refused(ch, rc, ch->tunnel_host ? "to connect to the node from there" : "to open a channel",
			       ch->tunnel_host ? "see host and port, and AllowTcpForwarding on the jump host"
					       : "see MaxSessions in the node's sshd_config");
	ch->state = ch->tunnel_host ? KT_CH_RUNNING : KT_CH_STARTING;
	if (ch->tunnel_host && ch->user && ch->user->on_open)
		ch->user->on_open(ch->owner);
	return true;
}

static bool step_starting(kt_channel *ch)
{
	int rc = libssh2_channel_process_startup(ch->ssh, "exec", sizeof "exec" - 1, ch->command,
						 (unsigned)strlen(ch->command));
	if (rc == LIBSSH2_ERROR_EAGAIN)
		return false;
	if (rc != 0)
		return refused(ch, rc, "to run a command", "see ForceCommand and the login shell of this user");
	ch->state = KT_CH_RUNNING;
	if (ch->user && ch->user->on_open)
		ch->user->on_open(ch->owner);
	return true;
}

static bool read_stream(kt_channel *ch, int stream)
{
	static char chunk[KT_CHUNK]; /* one thread: the loop's */
	bool moved = false;
	for (int i = 0; i < READS && ch->user && !ch->paused && ch->node->fatal.code == KT_OK; i++) {
		ssize_t n = libssh2_channel_read_ex(ch->ssh, stream, chunk, sizeof chunk);
		if (n == LIBSSH2_ERROR_EAGAIN || n == 0)
			break;
		if (n < 0)
			return session_broke(ch, (int)n, "reading");
		moved = true;
		ch->user->on_data(ch->owner, stream != 0, (const uint8_t *)chunk, (size_t)n);
	}
	return moved;
}

static bool write_stdin(kt_channel *ch)
{
	bool moved = false;
	while (kt_channel_unsent(ch) && kt_transport_unsent(ch->node) < KT_TX_HIGH) {
		ssize_t n = libssh2_channel_write_ex(ch->ssh, 0, (const char *)ch->in.data + ch->in_done,
						     kt_channel_unsent(ch));
		if (n == LIBSSH2_ERROR_EAGAIN || n == 0)
			break;
		if (n < 0 && is_broken((int)n))
			return session_broke(ch, (int)n, "writing");
		ch->in_done = n < 0 ? ch->in.len : ch->in_done + (size_t)n; /* closed: nobody reads it any more */
		moved = true;
	}
	if (ch->in.len && !kt_channel_unsent(ch)) {
		kt_buf_free(&ch->in);
		ch->in_done = 0;
	}
	return moved;
}

static bool send_eof(kt_channel *ch)
{
	if (!ch->eof_wanted || ch->eof_sent || kt_channel_unsent(ch))
		return false;
	int rc = libssh2_channel_send_eof(ch->ssh);
	if (rc == LIBSSH2_ERROR_EAGAIN)
		return false;
	if (rc != 0 && is_broken(rc))
		return session_broke(ch, rc, "closing stdin");
	ch->eof_sent = true;
	return true;
}

/* Everything was read and the other side has closed: how did it end? */
static bool see_end(kt_channel *ch)
{
	kt_err ok = KT_ERR_INIT;
	char *signal = NULL;
	if (ch->paused || !libssh2_channel_eof(ch->ssh))
		return false;
	ch->saw_eof = true;
	int rc = libssh2_channel_wait_closed(ch->ssh);
	if (rc == LIBSSH2_ERROR_EAGAIN)
		return false;
	if (rc != 0)
		return session_broke(ch, rc, "waiting for the end of a command");
	(void)libssh2_channel_get_exit_signal(ch->ssh, &signal, NULL, NULL, NULL, NULL, NULL);
	int status = signal ? CHANNEL_NOT_SAID : libssh2_channel_get_exit_status(ch->ssh);
	end_channel(ch, &ok, status, signal ? signal : "");
	libssh2_free(ch->node->session, signal);
	return true;
}

static bool step_running(kt_channel *ch)
{
	bool moved = false;
	if (!ch->user) {
		ch->state = KT_CH_CLOSING;
		return true;
	}
	moved |= read_stream(ch, 0);
	moved |= read_stream(ch, SSH_EXTENDED_DATA_STDERR);
	if (ch->node->fatal.code != KT_OK || !ch->user)
		return moved;
	moved |= write_stdin(ch);
	moved |= send_eof(ch);
	if (ch->node->fatal.code == KT_OK)
		moved |= see_end(ch);
	return moved;
}

/* true and *gone: the channel is no more. Its end may never come (a process that goes on): then it stays. */
static bool step_closing(kt_channel *ch, bool *gone)
{
	if (ch->ssh && libssh2_channel_free(ch->ssh) == LIBSSH2_ERROR_EAGAIN)
		return false;
	ch->ssh = NULL;
	*gone = true;
	return true;
}

static bool step_channel(kt_channel *ch, bool *gone)
{
	switch (ch->state) {
	case KT_CH_WAITING:
		return step_waiting(ch);
	case KT_CH_OPENING:
		return step_opening(ch);
	case KT_CH_STARTING:
		return step_starting(ch);
	case KT_CH_RUNNING:
		return step_running(ch);
	case KT_CH_CLOSING:
		return step_closing(ch, gone);
	}
	return false;
}

/* Has libssh2 put something aside for a channel while it read for another one? The socket would not tell us. */
static bool is_queued(const kt_fleet_node *node)
{
	for (const kt_channel *ch = node->channels; ch; ch = ch->next) {
		if (ch->state != KT_CH_RUNNING || ch->paused)
			continue;
		if (libssh2_poll_channel_read(ch->ssh, 1) > 0 || (!ch->saw_eof && libssh2_channel_eof(ch->ssh)))
			return true;
	}
	return kt_transport_unread(node) && node->channels;
}

static bool pass(kt_fleet_node *node)
{
	bool moved = false;
	for (kt_channel **at = &node->channels; *at && node->fatal.code == KT_OK;) {
		kt_channel *ch = *at;
		bool gone = false;
		moved |= step_channel(ch, &gone);
		if (gone) {
			*at = ch->next;
			free_channel(ch);
		} else {
			at = &ch->next;
		}
	}
	return moved;
}

kt_code kt_channels_pump(kt_fleet_node *node, bool *again, kt_err *err)
{
	int still = 0;
	*again = false;
	for (int i = 0; i < ROUNDS && still < 2; i++) {
		still = pass(node) ? 0 : still + 1;
		if (node->fatal.code != KT_OK) {
			if (err)
				*err = node->fatal;
			return node->fatal.code;
		}
		if (still && !is_queued(node))
			return KT_OK;
	}
	*again = still == 0;
	return KT_OK;
}

void kt_channels_drop(kt_fleet_node *node, const kt_err *err)
{
	while (node->channels) {
		kt_channel *ch = node->channels;
		end_channel(ch, err, CHANNEL_NOT_SAID, "");
		node->channels = ch->next;
		free_channel(ch); /* libssh2's half goes with the session */
	}
	node->opener = NULL;
}

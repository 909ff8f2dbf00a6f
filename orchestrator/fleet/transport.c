/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "orchestrator/fleet/internal.h"

struct kt_socket {
	uv_poll_t poll;
	kt_fleet *fleet;
	kt_fleet_node *node; /* NULL: given up */
	int fd;
	int events; /* being waited for */
};

/* ---- libssh2's side ---- */

size_t kt_transport_unsent(const kt_fleet_node *node)
{
	return node->tx.len - node->tx_done;
}

size_t kt_transport_unread(const kt_fleet_node *node)
{
	return node->rx.len - node->rx_done;
}

static ssize_t give_to_ssh(libssh2_socket_t fd, void *buffer, size_t length, int flags, void **abstract)
{
	(void)fd;
	(void)flags;
	kt_fleet_node *node = *abstract;
	size_t n = kt_transport_unread(node);
	if (node->cut)
		return 0;
	if (n == 0)
		return node->rx_errno ? -node->rx_errno : node->rx_eof ? 0 : -EAGAIN;
	if (n > length)
		n = length;
	memcpy(buffer, node->rx.data + node->rx_done, n);
	node->rx_done += n;
	if (node->rx_done == node->rx.len) {
		kt_buf_clear(&node->rx);
		node->rx_done = 0;
	}
	if (node->tunnel && node->tunnel->paused && kt_transport_unread(node) < KT_RX_MAX / 2)
		kt_channel_pause(node->tunnel, false);
	return (ssize_t)n;
}

/* Takes everything, so that libssh2 never sees a packet partly sent. */
static ssize_t take_from_ssh(libssh2_socket_t fd, const void *buffer, size_t length, int flags, void **abstract)
{
	(void)fd;
	(void)flags;
	kt_fleet_node *node = *abstract;
	kt_err err = KT_ERR_INIT;
	if (node->cut)
		return -EPIPE;
	if (kt_buf_append(&node->tx, buffer, length, &err) != KT_OK)
		return -ENOBUFS;
	return (ssize_t)length;
}

/* libssh2 takes callbacks of every type as void *; POSIX lets function pointers be converted to it. */
typedef union {
	ssize_t (*receive)(libssh2_socket_t, void *, size_t, int, void **);
	ssize_t (*send)(libssh2_socket_t, const void *, size_t, int, void **);
	void *any;
} callback;

void kt_transport_attach(kt_fleet_node *node)
{
	callback receive = {.receive = give_to_ssh};
	callback send_out = {.send = take_from_ssh};
	(void)libssh2_session_callback_set(node->session, LIBSSH2_CALLBACK_RECV, receive.any);
	(void)libssh2_session_callback_set(node->session, LIBSSH2_CALLBACK_SEND, send_out.any);
}

/* ---- the socket's side ---- */

/* libuv calls every error of a socket EBADF and stops watching it: ask the socket itself. */
static void see_trouble(kt_fleet_node *node)
{
	const size_t before = kt_transport_unread(node);
	node->socket->events = 0;
	if (node->phase == KT_PH_TCP)
		return; /* tcp_step asks for SO_ERROR */
	kt_transport_fill(node);
	if (!node->rx_eof && !node->rx_errno && kt_transport_unread(node) == before)
		node->rx_errno = EIO;
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
	(void)events;
	kt_socket *s = poll->data;
	if (!s->node)
		return;
	kt_fleet *fleet = s->fleet;
	if (status < 0)
		see_trouble(s->node);
	kt_node_pump(s->node);
	kt_fleet_dispatch(fleet);
}

kt_code kt_socket_new(kt_fleet_node *node, int fd, kt_err *err)
{
	kt_socket *s = calloc(1, sizeof *s);
	int rc = s ? uv_poll_init(node->fleet->loop, &s->poll, fd) : UV_ENOMEM;
	if (rc != 0) {
		free(s);
		(void)close(fd);
		return kt_node_fail(node, err, KT_E_INTERNAL, NULL, "the event loop: %s", uv_strerror(rc));
	}
	s->poll.data = s;
	s->fleet = node->fleet;
	s->node = node;
	s->fd = fd;
	node->fleet->handles++;
	node->socket = s;
	return KT_OK;
}

static void on_socket_closed(uv_handle_t *handle)
{
	kt_socket *s = handle->data;
	kt_fleet_handle_gone(s->fleet);
	free(s);
}

void kt_socket_close(kt_fleet_node *node)
{
	kt_socket *s = node->socket;
	node->socket = NULL;
	if (!s)
		return;
	s->node = NULL;
	uv_close((uv_handle_t *)&s->poll, on_socket_closed);
	(void)close(s->fd);
}

int kt_node_fd(const kt_fleet_node *node)
{
	while (!node->socket && node->jump)
		node = node->jump;
	return node->socket ? node->socket->fd : -1;
}

/* Set-up is a chain of short questions and answers: a delayed ACK would cost 40 ms at each (ssh-facts, pitfall 1). */
static void quick_ack(const kt_fleet_node *node)
{
	const int on = node->agent.state != KT_AG_READY;
	if (on)
		(void)setsockopt(node->socket->fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
}

void kt_transport_fill(kt_fleet_node *node)
{
	static uint8_t chunk[KT_CHUNK]; /* one thread: the loop's */
	kt_err err = KT_ERR_INIT;
	if (!node->socket || node->phase < KT_PH_HANDSHAKE || node->rx_eof || node->rx_errno)
		return;
	while (kt_transport_unread(node) < KT_RX_MAX) {
		ssize_t n = recv(node->socket->fd, chunk, sizeof chunk, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			node->rx_errno = errno;
		if (n == 0)
			node->rx_eof = true;
		if (n <= 0)
			break;
		if (node->rx_done) {
			kt_buf_consume(&node->rx, node->rx_done);
			node->rx_done = 0;
		}
		if (kt_buf_append(&node->rx, chunk, (size_t)n, &err) != KT_OK)
			node->rx_errno = ENOMEM;
		if ((size_t)n < sizeof chunk)
			break;
	}
	quick_ack(node);
}

static void flush_to_tunnel(kt_fleet_node *node)
{
	kt_err err = KT_ERR_INIT;
	if (kt_channel_unsent(node->tunnel) > KT_TUNNEL_MAX)
		return;
	if (kt_channel_write(node->tunnel, node->tx.data + node->tx_done, kt_transport_unsent(node), &err) != KT_OK) {
		kt_node_break(node, &err);
		return;
	}
	node->tx_done = node->tx.len;
}

static void flush_to_socket(kt_fleet_node *node)
{
	while (kt_transport_unsent(node)) {
		ssize_t n =
			send(node->socket->fd, node->tx.data + node->tx_done, kt_transport_unsent(node), MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN && !node->rx_errno)
			node->rx_errno = errno; /* what was received before is still read */
		if (n <= 0)
			return;
		node->tx_done += (size_t)n;
	}
}

void kt_transport_flush(kt_fleet_node *node)
{
	if (kt_transport_unsent(node) && node->tunnel)
		flush_to_tunnel(node);
	else if (kt_transport_unsent(node) && node->socket)
		flush_to_socket(node);
	if (node->tx.len && kt_transport_unsent(node) == 0) {
		kt_buf_clear(&node->tx);
		node->tx_done = 0;
	} else if (node->tx_done > KT_TX_HIGH) {
		kt_buf_consume(&node->tx, node->tx_done);
		node->tx_done = 0;
	}
}

void kt_transport_poll(kt_fleet_node *node)
{
	kt_socket *s = node->socket;
	if (!s)
		return;
	int events = 0;
	if (node->phase == KT_PH_TCP || kt_transport_unsent(node))
		events |= UV_WRITABLE;
	if (node->phase != KT_PH_TCP && !node->rx_eof && !node->rx_errno && kt_transport_unread(node) < KT_RX_MAX)
		events |= UV_READABLE;
	if (events == s->events)
		return;
	s->events = events;
	int rc = events ? uv_poll_start(&s->poll, events, on_ready) : uv_poll_stop(&s->poll);
	if (rc != 0) {
		kt_err err = KT_ERR_INIT;
		KT_IGNORE(kt_node_fail(node, &err, KT_E_INTERNAL, NULL, "the event loop: %s", uv_strerror(rc)));
		kt_node_break(node, &err);
	}
}

/* ---- through a jump host: the connection is a channel of its session ---- */

static void tunnel_open(void *owner)
{
	kt_fleet_node *node = owner;
	kt_err err = KT_ERR_INIT;
	if (kt_session_start(node, &err) != KT_OK)
		kt_node_break(node, &err);
	kt_node_mark(node);
}

static void tunnel_data(void *owner, bool is_stderr, const uint8_t *bytes, size_t n)
{
	kt_fleet_node *node = owner;
	kt_err err = KT_ERR_INIT;
	if (is_stderr)
		return;
	if (node->rx_done) {
		kt_buf_consume(&node->rx, node->rx_done);
		node->rx_done = 0;
	}
	if (kt_buf_append(&node->rx, bytes, n, &err) != KT_OK)
		kt_node_break(node, &err);
	if (kt_transport_unread(node) >= KT_RX_MAX)
		kt_channel_pause(node->tunnel, true);
	kt_node_mark(node);
}

static void tunnel_end(void *owner, const kt_err *end, int status, const char *signal)
{
	(void)status;
	(void)signal;
	kt_fleet_node *node = owner;
	node->tunnel = NULL;
	node->rx_eof = true;
	if (end->code == KT_OK && node->phase > KT_PH_TUNNEL) {
		kt_node_mark(node); /* what came before the end is still read */
		return;
	}
	kt_err err = KT_ERR_INIT;
	KT_IGNORE(kt_node_fail(node, &err, end->code == KT_E_INTERRUPTED ? KT_E_INTERRUPTED : KT_E_UNREACHABLE,
			       end->remedy, "through the jump host: %s",
			       end->code != KT_OK ? end->msg : "it ended the connection"));
	kt_node_break(node, &err);
}

kt_code kt_transport_tunnel(kt_fleet_node *node, kt_err *err)
{
	static const kt_channel_user user = {.on_open = tunnel_open, .on_data = tunnel_data, .on_end = tunnel_end};
	return kt_channel_tunnel(node->jump, node->host, node->port, &user, node, &node->tunnel, err);
}

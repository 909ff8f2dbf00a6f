/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "orchestrator/fleet/internal.h"

/* ---- TCP ---- */

static void no_route(kt_fleet_node *node, int errnum)
{
	kt_err err = KT_ERR_INIT;
	const char *remedy = errnum == ECONNREFUSED ? "see whether sshd runs there and listens on this port"
						    : "see whether the node is up and the network lets us through";
	KT_IGNORE(kt_node_fail(node, &err, KT_E_UNREACHABLE, remedy, "cannot connect: %s", strerror(errnum)));
	kt_node_break(node, &err);
}

static int start_connect(const struct addrinfo *ai, int *fd)
{
	const int on = 1;
	*fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
	if (*fd < 0)
		return errno;
	(void)setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (connect(*fd, ai->ai_addr, ai->ai_addrlen) == 0 || errno == EINPROGRESS)
		return 0;
	int e = errno;
	(void)close(*fd);
	return e;
}

/* Try the next address; `errnum` is what became of the one before. */
static void try_next_address(kt_fleet_node *node, int errnum)
{
	kt_err err = KT_ERR_INIT;
	kt_socket_close(node);
	while (node->address_next) {
		int fd;
		const struct addrinfo *ai = node->address_next;
		node->address_next = ai->ai_next;
		errnum = start_connect(ai, &fd);
		if (errnum != 0)
			continue;
		node->phase = KT_PH_TCP;
		if (kt_socket_new(node, fd, &err) != KT_OK)
			kt_node_break(node, &err);
		else
			kt_transport_poll(node);
		return;
	}
	no_route(node, errnum ? errnum : EHOSTUNREACH);
}

/* The socket became writable: connected, or not. */
static void tcp_step(kt_fleet_node *node)
{
	kt_err err = KT_ERR_INIT;
	int e = 0;
	socklen_t len = sizeof e;
	struct sockaddr_storage peer;
	socklen_t peer_len = sizeof peer;
	int fd = kt_node_fd(node);
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len) != 0)
		e = errno;
	if (e == 0 && getpeername(fd, (struct sockaddr *)&peer, &peer_len) != 0) {
		if (errno == ENOTCONN)
			return; /* a wake-up of something else: not yet */
		e = errno;
	}
	if (e != 0) {
		try_next_address(node, e);
		return;
	}
	kt_trace(node, "connected");
	if (kt_session_start(node, &err) != KT_OK)
		kt_node_break(node, &err);
}

void kt_connect_step(kt_fleet_node *node)
{
	if (node->phase == KT_PH_TCP)
		tcp_step(node);
}

/* ---- names ---- */

struct kt_resolve {
	uv_getaddrinfo_t request;
	kt_fleet *fleet;
	kt_fleet_node *node; /* NULL: given up */
};

static void cannot_resolve(kt_fleet_node *node, const char *why)
{
	kt_err err = KT_ERR_INIT;
	KT_IGNORE(kt_node_fail(node, &err, KT_E_UNREACHABLE, "correct the node's host in cluster.json, or the DNS",
			       "the name %s cannot be resolved: %s", node->host, why));
	kt_node_break(node, &err);
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *list)
{
	kt_resolve *r = request->data;
	kt_fleet *fleet = r->fleet;
	kt_fleet_node *node = r->node;
	if (!node) {
		uv_freeaddrinfo(list);
	} else {
		node->resolve = NULL;
		node->addresses = node->address_next = list;
		if (status != 0)
			cannot_resolve(node, uv_strerror(status));
		else
			try_next_address(node, 0);
	}
	free(r);
	kt_fleet_dispatch(fleet);
	kt_fleet_handle_gone(fleet);
}

static void resolve(kt_fleet_node *node, const struct addrinfo *hints, const char *port)
{
	kt_resolve *r = calloc(1, sizeof *r);
	int rc = UV_ENOMEM;
	if (r) {
		r->request.data = r;
		r->fleet = node->fleet;
		r->node = node;
		rc = uv_getaddrinfo(node->fleet->loop, &r->request, on_resolved, node->host, port, hints);
	}
	if (rc != 0) {
		free(r);
		cannot_resolve(node, uv_strerror(rc));
		return;
	}
	node->resolve = r;
	node->fleet->handles++;
}

static void start_resolve(kt_fleet_node *node)
{
	char port[8];
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
	(void)snprintf(port, sizeof port, "%u", node->port);
	node->phase = KT_PH_RESOLVE;
	hints.ai_flags |= AI_NUMERICHOST; /* an address needs no thread and no waiting */
	if (getaddrinfo(node->host, port, &hints, &node->addresses) == 0) {
		node->address_next = node->addresses;
		try_next_address(node, 0);
		return;
	}
	node->addresses = NULL;
	hints.ai_flags &= ~AI_NUMERICHOST;
	resolve(node, &hints, port);
}

/* ---- taking turns: at most connecting_max nodes at the same time ---- */

static void take_turn(kt_fleet_node *node)
{
	kt_err err = KT_ERR_INIT;
	kt_fleet *fleet = node->fleet;
	node->has_turn = true;
	fleet->connecting++;
	node->connect_deadline = kt_fleet_now(fleet) + fleet->options.connect_timeout_ms;
	kt_node_mark(node);
	if (!node->jump) {
		start_resolve(node);
		return;
	}
	node->phase = KT_PH_TUNNEL;
	if (kt_transport_tunnel(node, &err) != KT_OK)
		kt_node_break(node, &err);
}

static void wait_for_turn(kt_fleet_node *node)
{
	kt_fleet *fleet = node->fleet;
	if (fleet->connecting < fleet->options.connecting_max) {
		take_turn(node);
		return;
	}
	node->phase = KT_PH_QUEUED;
	node->next_queued = NULL;
	if (fleet->queue_tail)
		fleet->queue_tail->next_queued = node;
	else
		fleet->queue_head = node;
	fleet->queue_tail = node;
}

static void leave_queue(kt_fleet_node *node)
{
	kt_fleet *fleet = node->fleet;
	kt_fleet_node *before = NULL;
	for (kt_fleet_node *q = fleet->queue_head; q; before = q, q = q->next_queued) {
		if (q != node)
			continue;
		*(before ? &before->next_queued : &fleet->queue_head) = q->next_queued;
		if (fleet->queue_tail == q)
			fleet->queue_tail = before;
		return;
	}
}

void kt_connect_turn_over(kt_fleet_node *node)
{
	kt_fleet *fleet = node->fleet;
	if (!node->has_turn)
		return;
	node->has_turn = false;
	fleet->connecting--;
	kt_fleet_node *next = fleet->queue_head;
	if (!next || fleet->closing)
		return;
	leave_queue(next);
	take_turn(next);
}

/* ---- beginning and giving up ---- */

void kt_connect_begin(kt_fleet_node *node)
{
	kt_fleet_node *jump = node->jump;
	kt_node_mark(node);
	if (!jump || jump->phase == KT_PH_UP) {
		wait_for_turn(node);
		return;
	}
	node->phase = KT_PH_WAIT_JUMP;
	if (jump->phase == KT_PH_DOWN)
		kt_connect_begin(jump);
}

void kt_connect_jump_changed(kt_fleet_node *jump, const kt_err *cause)
{
	for (kt_fleet_node *node = jump->fleet->nodes; node; node = node->next) {
		if (node->jump != jump || node->phase != KT_PH_WAIT_JUMP)
			continue;
		if (cause->code == KT_OK) {
			wait_for_turn(node);
			continue;
		}
		kt_err err = KT_ERR_INIT;
		KT_IGNORE(kt_node_fail(node, &err, cause->code, cause->remedy, "the jump host is not there: %s",
				       cause->msg));
		kt_node_break(node, &err);
	}
}

void kt_connect_drop(kt_fleet_node *node)
{
	if (node->phase == KT_PH_QUEUED)
		leave_queue(node);
	if (node->resolve) {
		node->resolve->node = NULL;
		(void)uv_cancel((uv_req_t *)&node->resolve->request); /* too late: on_resolved sees that nobody waits */
		node->resolve = NULL;
	}
	if (node->addresses)
		uv_freeaddrinfo(node->addresses);
	node->addresses = node->address_next = NULL;
	kt_channel_abandon(node->tunnel);
	node->tunnel = NULL;
	kt_socket_close(node);
	node->connect_deadline = 0;
}

const char *kt_fleet_phase_name(kt_phase phase)
{
	static const char *const names[KT_PH_COUNT] = {
		"down",       "waiting for the jump host",        "waiting for its turn", "resolving the name",
		"connecting", "being connected by the jump host", "exchanging keys",      "logging in",
		"connected",
	};
	return names[phase];
}

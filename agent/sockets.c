/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/sockets.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { ANSWER_MAX = 64 * 1024, DUMP_TRIES = 5, WAIT_S = 10, NEW_SYN_RECV = 12 };

static const char *const state_names[] = {
	[TCP_ESTABLISHED] = "established",
	[TCP_SYN_SENT] = "connecting",
	[TCP_SYN_RECV] = "being connected",
	[TCP_FIN_WAIT1] = "closing",
	[TCP_FIN_WAIT2] = "closing",
	[TCP_TIME_WAIT] = NULL,
	[TCP_CLOSE] = NULL,
	[TCP_CLOSE_WAIT] = "closing",
	[TCP_LAST_ACK] = "closing",
	[TCP_LISTEN] = "listening",
	[TCP_CLOSING] = "closing",
	[NEW_SYN_RECV] = "being connected",
};

typedef struct question {
	struct nlmsghdr head;
	struct inet_diag_req_v2 body;
} question;

/* One dump. `interrupted`: the table changed meanwhile, so that something may be missing. */
typedef struct dump {
	kt_socket_fn fn;
	void *arg;
	bool done;
	bool interrupted;
} dump;

static void print_address(int family, const void *address, uint16_t port, char out[KT_SOCKET_ADDRESS])
{
	char text[INET6_ADDRSTRLEN] = "?";
	(void)inet_ntop(family, address, text, sizeof text);
	if (family == AF_INET6)
		(void)snprintf(out, KT_SOCKET_ADDRESS, "[%s]:%u", text, (unsigned)port);
	else
		(void)snprintf(out, KT_SOCKET_ADDRESS, "%s:%u", text, (unsigned)port);
}

static kt_code take_socket(const dump *d, const struct inet_diag_msg *m, kt_err *err)
{
	const char *state =
		m->idiag_state < sizeof state_names / sizeof *state_names ? state_names[m->idiag_state] : NULL;
	bool closing = state && strcmp(state, "closing") == 0;
	if (!state || (closing && m->idiag_inode == 0))
		return KT_OK;
	kt_socket s = {.state = state, .port = ntohs(m->id.idiag_sport), .uid = m->idiag_uid, .inode = m->idiag_inode};
	print_address(m->idiag_family, m->id.idiag_src, s.port, s.local);
	if (m->idiag_state != TCP_LISTEN)
		print_address(m->idiag_family, m->id.idiag_dst, ntohs(m->id.idiag_dport), s.remote);
	return d->fn(d->arg, &s, err);
}

static kt_code take_message(dump *d, const struct nlmsghdr *h, kt_err *err)
{
	int code = 0;
	if (h->nlmsg_flags & NLM_F_DUMP_INTR)
		d->interrupted = true;
	if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR) {
		if (h->nlmsg_len >= NLMSG_LENGTH(sizeof code))
			memcpy(&code, NLMSG_DATA(h), sizeof code);
		else if (h->nlmsg_type == NLMSG_ERROR)
			code = -EPROTO;
		d->done = true;
		return code < 0 ? kt_fail_errno(err, -code, NULL, "the kernel does not list its TCP sockets") : KT_OK;
	}
	struct inet_diag_msg m;
	if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY || h->nlmsg_len < NLMSG_LENGTH(sizeof m))
		return KT_OK;
	memcpy(&m, NLMSG_DATA(h), sizeof m);
	return take_socket(d, &m, err);
}

static kt_code take_answer(dump *d, uint8_t *bytes, size_t n, kt_err *err)
{
	struct nlmsghdr h;
	while (!d->done && n >= sizeof h) {
		memcpy(&h, bytes, sizeof h);
		if (h.nlmsg_len < sizeof h || h.nlmsg_len > n)
			return kt_fail(err, KT_E_IO, NULL, "the kernel's list of TCP sockets is malformed");
		KT_TRY(take_message(d, (const struct nlmsghdr *)(const void *)bytes, err));
		size_t step = NLMSG_ALIGN(h.nlmsg_len);
		step = step < n ? step : n;
		bytes += step;
		n -= step;
	}
	return KT_OK;
}

static kt_code ask(int fd, uint8_t family, kt_err *err)
{
	question q = {.head = {.nlmsg_len = sizeof q,
			       .nlmsg_type = SOCK_DIAG_BY_FAMILY,
			       .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
		      .body = {.sdiag_family = family, .sdiag_protocol = IPPROTO_TCP, .idiag_states = ~0U}};
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	if (sendto(fd, &q, sizeof q, 0, (const struct sockaddr *)&kernel, sizeof kernel) != (ssize_t)sizeof q)
		return kt_fail_errno(err, errno, NULL, "the kernel cannot be asked for its TCP sockets");
	return KT_OK;
}

static kt_code run_dump(int fd, uint8_t family, dump *d, kt_err *err)
{
	_Alignas(struct nlmsghdr) static _Thread_local uint8_t answer[ANSWER_MAX];
	KT_TRY(ask(fd, family, err));
	while (!d->done) {
		struct sockaddr_nl from;
		socklen_t len = sizeof from;
		ssize_t n = recvfrom(fd, answer, sizeof answer, MSG_TRUNC, (struct sockaddr *)&from, &len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return kt_fail_errno(err, errno, NULL, "the kernel's list of TCP sockets cannot be read");
		if ((size_t)n > sizeof answer)
			return kt_fail(err, KT_E_IO, NULL, "the kernel's list of TCP sockets was cut off");
		if (n == 0)
			return kt_fail(err, KT_E_IO, NULL, "the kernel's list of TCP sockets ended early");
		if (len == sizeof from && from.nl_pid == 0)
			KT_TRY(take_answer(d, answer, (size_t)n, err));
	}
	return KT_OK;
}

static kt_code dump_family(uint8_t family, kt_socket_fn fn, void *arg, kt_err *err)
{
	for (int i = 0; i < DUMP_TRIES; i++) {
		dump d = {.fn = fn, .arg = arg};
		const struct timeval wait = {.tv_sec = WAIT_S};
		int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
		if (fd < 0)
			return kt_fail_errno(err, errno, NULL, "the kernel cannot be asked for its TCP sockets");
		kt_code rc = KT_OK;
		if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait) != 0)
			rc = kt_fail_errno(err, errno, NULL, "the kernel cannot be asked for its TCP sockets");
		if (rc == KT_OK)
			rc = run_dump(fd, family, &d, err);
		(void)close(fd);
		if (rc != KT_OK || !d.interrupted)
			return rc;
	}
	return kt_fail(err, KT_E_IO, NULL, "the list of TCP sockets changed each time it was read");
}

kt_code kt_sockets_each(kt_socket_fn fn, void *arg, kt_err *err)
{
	KT_TRY(dump_family(AF_INET, fn, arg, err));
	return dump_family(AF_INET6, fn, arg, err);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* TCP sockets of this network namespace, asked from the kernel (sock_diag(7)), v4 and v6. */
#ifndef KT_AGENT_SOCKETS_H
#define KT_AGENT_SOCKETS_H

#include <stdint.h>

#include "base/result.h"

enum { KT_SOCKET_ADDRESS = 64 };

typedef struct kt_socket {
	const char *state;              /* "listening", "established", ... */
	char local[KT_SOCKET_ADDRESS];  /* 127.0.0.1:9999, [::1]:9999 */
	char remote[KT_SOCKET_ADDRESS]; /* the peer; of a listening one "" */
	uint16_t port;                  /* local */
	uint32_t uid;
	uint64_t inode; /* 0: no process has it (yet, or any more) */
} kt_socket;

typedef kt_code (*kt_socket_fn)(void *arg, const kt_socket *s, kt_err *err);

/*
 * Visit every socket that listens, is connected or is being connected; and what is being closed as long as a process
 * still holds it. One may come twice when sockets come and go meanwhile. Not: TIME_WAIT, and what the kernel alone
 * still closes. KT_E_IO when the kernel cannot be asked. A failure of `fn` passes through.
 */
KT_MUST_CHECK kt_code kt_sockets_each(kt_socket_fn fn, void *arg, kt_err *err);

#endif

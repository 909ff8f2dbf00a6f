/* SPDX-License-Identifier: Apache-2.0 */
/* Starting this program again as a process of its own session, which outlives us, sshd and the login. */
#ifndef KT_AGENT_DETACH_H
#define KT_AGENT_DETACH_H

#include "base/result.h"

enum { KT_DETACH_REPORT_FD = 3 };

/*
 * Start `argv` (argv[0] is only a name; ends with NULL) from our own executable: double fork, own session, folder "/",
 * stdout and stderr /dev/null, stdin `in` (-1: /dev/null), descriptor 3 `report` (-1: closed). Both descriptors stay
 * the caller's. KT_E_IO when there is no process to be had; whether it could execute shows in the end of `report`.
 */
KT_MUST_CHECK kt_code kt_detach(const char *const *argv, int in, int report, kt_err *err);
/* Keep reading `fd` (an output that a daemon holds open) until its end, in a detached process; fd stays the caller's.
 */
KT_MUST_CHECK kt_code kt_detach_drain(int fd, kt_err *err);
/* That process's work: read stdin until its end. */
void kt_drain(void);

/*
 * Detached work, called in the runner, best effort: leave the cgroup of the login, so that the end of the session
 * cannot take us with it (logind's KillUserProcesses=). Asks systemd for a scope of its own named after `name`; does
 * nothing where systemd is not the init or we are not root.
 */
void kt_detach_scope(const char *name);

#endif

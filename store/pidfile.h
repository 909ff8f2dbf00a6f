/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pid file of a running node. What counts is not the number in it but the lock (fcntl(2)) that the node holds on it
 * for as long as it lives: a number can be stale and reused, a lock cannot.
 */
#ifndef KT_STORE_PIDFILE_H
#define KT_STORE_PIDFILE_H

#include <sys/types.h>

#include "base/result.h"

/* The process that holds the pid file; 0 when nobody does. KT_E_IO, KT_E_REFUSED when it is in another pid namespace.
 */
KT_MUST_CHECK kt_code kt_pidfile_owner(const char *path, pid_t *pid, kt_err *err);
/* Take it, for this process: lock it and write our pid. *fd is kept open as long as the node runs, and nothing else may
 * open the file in this process. KT_E_BUSY, naming the pid, when another process holds it. */
KT_MUST_CHECK kt_code kt_pidfile_take(const char *path, int *fd, kt_err *err);
/* Remove the file and give the lock back. fd -1 is fine. */
void kt_pidfile_release(const char *path, int fd);

/* Ask the owner to end (SIGTERM) and wait for it, at most timeout_ms. *pid is its pid, 0 when there was none. The
 * signal can reach nobody but the process that holds the lock. KT_E_BUSY when it is still running after that time. */
KT_MUST_CHECK kt_code kt_pidfile_stop(const char *path, int timeout_ms, pid_t *pid, kt_err *err);

#endif

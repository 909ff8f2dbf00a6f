/* SPDX-License-Identifier: Apache-2.0 */
/* Going into the background, with the parent waiting until the child is ready or has failed. */
#ifndef KT_STORE_DAEMON_H
#define KT_STORE_DAEMON_H

#include <stdbool.h>

#include "base/result.h"

/* Invariant: fd is -1 once the parent has been told, and in the foreground. */
typedef struct kt_daemon {
	bool child; /* are we the one in the background? */
	int fd;
} kt_daemon;

enum { KT_DAEMON_TEXT = 512 };

/*
 * Fork. In the parent this returns after the child has reported: KT_OK with its text in `text`, or the child's error.
 * In the child it returns KT_OK at once with d->child set: a new session, no descriptors but 0, 1, 2 and the pipe.
 * Call it before anything that does not survive a fork (locked memory, SQLite, threads).
 */
KT_MUST_CHECK kt_code kt_daemon_fork(kt_daemon *d, char text[KT_DAEMON_TEXT], kt_err *err);
/* In the child: tell the parent that all is well, or (`err` not NULL) what went wrong, once; then 0, 1 and 2 are
 * /dev/null. */
void kt_daemon_report(kt_daemon *d, const char *text, const kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Run an argv array and wait for it: working folder, environment, user, timeout, output handed over as it comes. Never
 * a shell. The child has its own session, default signals, /dev/null as stdin (unless told otherwise) and no descriptor
 * of ours but 0, 1 and 2.
 */
#ifndef KT_BASE_SPAWN_H
#define KT_BASE_SPAWN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"

/* A user to run as, looked up before the fork (NSS is not safe after it). */
typedef struct kt_user {
	char name[256];
	char home[1024];
	uid_t uid;
	gid_t gid;
	gid_t *groups; /* supplementary groups, `gid` among them */
	size_t n_groups;
} kt_user;

/* By name, or NULL for the user that we are. KT_E_REFUSED: no such user. Free with kt_user_free. */
KT_MUST_CHECK kt_code kt_user_find(const char *name, kt_user *out, kt_err *err);
void kt_user_free(kt_user *u);

/* What to run. All borrowed. */
typedef struct kt_spawn_what {
	const char *const
		*argv; /* ends with NULL. argv[0]: with a slash it is a path, relative to cwd; else PATH of env */
	const char *const *env; /* complete, NAME=value, ends with NULL; NULL: ours */
	const char *cwd;        /* NULL: ours */
	const kt_user *user;    /* NULL: stay who we are; else we must be root (or that user already): KT_E_REFUSED */
	int64_t timeout_ms;     /* then SIGTERM to its process group, KILL_GRACE later SIGKILL; 0: none */
	int in_fd;              /* its stdin, from where it stands; 0: /dev/null */
} kt_spawn_what;

/* How it ended. */
typedef struct kt_spawn_end {
	int exit;       /* 0..255, -1 when a signal ended it */
	int signal;     /* 0 when it exited */
	bool timed_out; /* we ended it because of the timeout */
	bool stopped;   /* we ended it because `stop` said so */
	int64_t ms;     /* how long it took */
} kt_spawn_end;

/* What happens meanwhile; every member may be left out. */
typedef struct kt_spawn_hooks {
	/* Output, as it comes; stream 1 or 2. A failure of the hook is reported by kt_spawn at the end. */
	kt_code (*output)(void *arg, int stream, const uint8_t *bytes, size_t n, kt_err *err);
	/* The child exists but has not yet executed anything; it goes on only when this returns KT_OK. */
	kt_code (*started)(void *arg, pid_t pid, kt_err *err);
	/* Asked about five times a second; true ends the child like a timeout. */
	bool (*stop)(void *arg);
	/* Called about five times a second. */
	void (*tick)(void *arg);
	void *arg;
} kt_spawn_hooks;

enum { KT_SPAWN_KILL_GRACE_MS = 5000, KT_SPAWN_LINGER_MS = 1000 };

/*
 * Run and wait until the child is dead and its output is at its end. When background processes that it left behind hold
 * the output open, they get KT_SPAWN_LINGER_MS; then the rest is given up, or, when `leftover` is given, the
 * readable ends are left there (the caller's, -1 when at the end), so that a daemon does not die of SIGPIPE.
 * KT_OK: it ran and ended in whatever way, see *end. KT_E_IO: it could not be started (not found, not executable, no
 * such folder): nothing was executed. KT_E_REFUSED: another user and we are not root. A failure of `started` passes
 * through. Thread-safe.
 */
KT_MUST_CHECK kt_code kt_spawn(const kt_spawn_what *what, const kt_spawn_hooks *hooks, int leftover[2],
			       kt_spawn_end *end, kt_err *err);

/* The simple case: output of both streams appended to `out` (NULL: dropped), what is beyond out->max is dropped. */
KT_MUST_CHECK kt_code kt_spawn_capture(const kt_spawn_what *what, kt_buf *out, kt_buf *errors, kt_spawn_end *end,
				       kt_err *err);

#endif

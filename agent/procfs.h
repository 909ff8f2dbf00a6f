/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The processes of this machine as proc(5) shows them. Everything that cannot be read is said so, never taken for
 * absent; only a process that has ended meanwhile is silently left out.
 */
#ifndef KT_AGENT_PROCFS_H
#define KT_AGENT_PROCFS_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/json.h"

/* One process. Kernel threads and what is dead in all its threads are never shown. */
typedef struct kt_proc {
	pid_t pid;
	pid_t parent;
	uid_t uid;          /* effective */
	char name[64];      /* comm */
	char user[64];      /* name of uid, or the number */
	char folder[64];    /* "/proc/<pid>", or that of a living thread where the first one has ended */
	char exe[PATH_MAX]; /* without " (deleted)"; "" when it could not be read */
	char cwd[PATH_MAX]; /* the same */
	kt_buf args;        /* argv, each closed by NUL */
	bool exe_unread;    /* exe or cwd could not be read (another user's, and we are not root) */
} kt_proc;

/* Called for each process; borrowed for the call. */
typedef kt_code (*kt_proc_fn)(void *arg, const kt_proc *p, kt_err *err);

/*
 * Visit every process but ourselves. KT_E_IO when /proc cannot be read, or hides other users' processes (hidepid=):
 * then nothing is known. A failure of `fn` passes through.
 */
KT_MUST_CHECK kt_code kt_procfs_each(kt_proc_fn fn, void *arg, kt_err *err);

/* The inodes of the sockets that a process has open; *out is the caller's (free), NULL when there are none or when they
 * cannot be read. */
KT_MUST_CHECK kt_code kt_procfs_sockets(const kt_proc *p, uint64_t **out, size_t *n, kt_err *err);
/* Whether `pid` is one of our ancestors (not process 1). */
bool kt_procfs_is_ancestor(pid_t pid);
/*
 * Whether a process that cannot be looked into counts as live. `users`: an array of the names of the only users who
 * could run the application or open its files; NULL: anybody could. Init does not count when we are root: some
 * sandboxes keep it out of reach of their own root. (A process that can be looked into is always looked into.)
 */
bool kt_procfs_blind_counts(const cJSON *users, const kt_proc *p);
/* The command line for people: spaces between, values of what looks like a password option masked, at most `max` bytes.
 */
KT_MUST_CHECK kt_code kt_procfs_cmdline(const kt_proc *p, size_t max, kt_buf *out, kt_err *err);
/* How many processes that count we cannot look into (their exe, cwd and open files), our ancestors left out; 0 as root.
 * KT_E_IO as above. */
KT_MUST_CHECK kt_code kt_procfs_blind(const cJSON *users, size_t *count, kt_err *err);

#endif

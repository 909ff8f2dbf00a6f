/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who holds a file open, mapped or locked. Files are told by device and inode, so that another path, a bind mount or a
 * chroot does not hide one, and by the path that the kernel shows, so that a deleted or replaced file is still seen.
 */
#ifndef KT_AGENT_HOLDERS_H
#define KT_AGENT_HOLDERS_H

#include <limits.h>

#include "agent/findings.h"
#include "agent/procfs.h"

typedef struct kt_watched {
	char path[PATH_MAX]; /* as people know it */
	char real[PATH_MAX]; /* as the kernel shows it */
	bool exists;
	dev_t dev; /* while it exists */
	ino_t ino;
} kt_watched;

typedef struct kt_holder {
	size_t file; /* index into files */
	pid_t pid;
} kt_holder;

/* A set of files with what has been found out about them. Free with kt_holders_free. */
typedef struct kt_holders {
	kt_watched *files;
	size_t n;
	kt_holder *holders; /* found by kt_holders_look */
	size_t holder_n;
	size_t blind; /* processes whose open files or mappings could not be read */
	char first_blind[192];
} kt_holders;

/* Watch a file, and its -wal, -shm and -journal, whether they are there or not. KT_E_IO when that cannot be told. */
KT_MUST_CHECK kt_code kt_holders_watch(kt_holders *h, const char *path, kt_err *err);
void kt_holders_free(kt_holders *h);
/* Look into one process: a finding for each file that it holds. `users`: kt_procfs_blind_counts. */
KT_MUST_CHECK kt_code kt_holders_look(kt_holders *h, const cJSON *users, const kt_proc *p, kt_findings *findings,
				      kt_err *err);
/* After all processes: locks that none of those found explains, and a finding when there were processes that could not
 * be looked into. */
KT_MUST_CHECK kt_code kt_holders_locks(kt_holders *h, kt_findings *findings, kt_err *err);

#endif

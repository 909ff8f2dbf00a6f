/* SPDX-License-Identifier: Apache-2.0 */
/* What is mounted where, as proc(5) shows it in /proc/self/mountinfo. */
#ifndef KT_AGENT_MOUNTS_H
#define KT_AGENT_MOUNTS_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/result.h"

typedef struct kt_mount {
	dev_t device;
	char *root; /* the folder of the file system that is mounted there: "", but for bind mounts */
	char *at;   /* where */
	char fstype[16];
} kt_mount;

/* A mount comes after those that its place is in. */
typedef struct kt_mounts {
	kt_mount *list;
	size_t n;
} kt_mounts;

/* Those of this process, and of such a text (which is changed). *out is the caller's: kt_mounts_free. KT_E_IO,
 * KT_E_INPUT. */
KT_MUST_CHECK kt_code kt_mounts_read(kt_mounts *out, kt_err *err);
KT_MUST_CHECK kt_code kt_mounts_parse(char *text, kt_mounts *out, kt_err *err);
void kt_mounts_free(kt_mounts *m);

/* The one that an absolute path without symbolic links lies on; NULL when there is none. */
const kt_mount *kt_mount_of(const kt_mounts *m, const char *path);
/* Is a path the folder itself, or below it? */
bool kt_mount_is_below(const char *path, const char *folder);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Old versions (S9): before a run replaces a file of the application, the version of before is kept beside it as
 * FILE.keyturn-RUN.old, made once. Whatever is repeated afterwards, it stays the first one. Backups leave them out.
 */
#ifndef KT_AGENT_KEEP_H
#define KT_AGENT_KEEP_H

#include <limits.h>
#include <stdbool.h>

#include "base/result.h"

/* Where the old version of `path` is kept; `ending` follows (a database's "-wal" is only found beside "FILE.old-wal"),
 * "" otherwise. KT_E_INPUT: bad name of a run, or too long. */
KT_MUST_CHECK kt_code kt_keep_path(const char *path, const char *run, const char *ending, char out[PATH_MAX],
				   kt_err *err);
/* Keep the file at `path`, as it is now, under that name as well: a hard link, durable when this returns. Fine when
 * there is one already, which stays, and when there is no file or link at `path`. */
KT_MUST_CHECK kt_code kt_keep_link(const char *path, const char *run, const char *ending, kt_err *err);
/* Is a file of this name (without its folder) such an old version? */
bool kt_keep_is(const char *base);

#endif

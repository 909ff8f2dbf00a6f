/* SPDX-License-Identifier: Apache-2.0 */
/* Files: bounded reads, and replacement that is atomic and durable (S9). */
#ifndef KT_BASE_FILE_H
#define KT_BASE_FILE_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/buf.h"

/* Append a regular file's content to `out`, bounded by out->max. */
KT_MUST_CHECK kt_code kt_file_read(const char *path, kt_buf *out, kt_err *err);
/* The same where there may be none: *found is false then. */
KT_MUST_CHECK kt_code kt_file_find(const char *path, bool *found, kt_buf *out, kt_err *err);

/* How a file is to be written. A field left at KT_KEEP takes the value of the file being replaced (or of the caller
 * when there is none yet). */
#define KT_KEEP ((unsigned)-1)
typedef struct kt_file_attr {
	mode_t mode; /* permission bits */
	uid_t uid;
	gid_t gid;
} kt_file_attr;

/*
 * Replace `path`: write a temporary file beside it with mode 0600, fsync, set owner and mode, rename over `path`, fsync
 * the folder. On any failure the old file is untouched and the temporary one is gone. A symbolic link is refused.
 */
KT_MUST_CHECK kt_code kt_file_replace(const char *path, const void *bytes, size_t n, const kt_file_attr *attr,
				      kt_err *err);
/* The same for a file that must not exist yet: *made is false, and nothing was changed, when something is there
 * already; that is durable then, too. Two processes that race for it: exactly one makes it. */
KT_MUST_CHECK kt_code kt_file_create(const char *path, const void *bytes, size_t n, const kt_file_attr *attr,
				     bool *made, kt_err *err);
/*
 * Remove the temporary files that a replace or create of `path` left because its process was killed; they may hold a
 * key (S6). Only for a caller who knows that nobody else is writing `path` now.
 */
KT_MUST_CHECK kt_code kt_file_sweep(const char *path, kt_err *err);
/* Remove `path`, durably. That it is not there is fine, and is made durable, too: whoever removed it may have been
 * killed before it was. `was_there` may be NULL. KT_E_IO. */
KT_MUST_CHECK kt_code kt_file_remove(const char *path, bool *was_there, kt_err *err);
/* fsync the folder that holds `path`. */
KT_MUST_CHECK kt_code kt_file_sync_folder(const char *path, kt_err *err);
/* mkdir -p; what is made gets `mode` and is durable. An existing folder is fine, anything else in the way is an error.
 */
KT_MUST_CHECK kt_code kt_file_mkdirs(const char *path, mode_t mode, kt_err *err);
/* Write all of it, retrying after EINTR and short writes. `name` is for the message. */
KT_MUST_CHECK kt_code kt_file_write_all(int fd, const void *bytes, size_t n, const char *name, kt_err *err);

#endif

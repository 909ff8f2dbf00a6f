/* SPDX-License-Identifier: Apache-2.0 */
/* Which files a backup holds: the one selection behind measuring and making it. Private to the archive. */
#ifndef KT_AGENT_ARCHIVE_SELECT_H
#define KT_AGENT_ARCHIVE_SELECT_H

#include "agent/archive.h"
#include "agent/tree.h"

/* One thing that is to be saved. `name` is its member name; `database`: it was named as a path. Borrowed for the call.
 */
typedef kt_code (*kt_archive_select_fn)(void *arg, const char *name, bool database, const kt_tree_item *item,
					kt_err *err);

/* Call `fn` for each thing to be saved: top and what is below it, then the paths (those below top only once; unless
 * excluded there). `leave_out` (may be NULL) is one more file that is not saved. `roots` (may be NULL) gets top and
 * paths. */
KT_MUST_CHECK kt_code kt_archive_select(const kt_archive_source *source, const char *const leave_out[2],
					kt_manifest *roots, kt_archive_select_fn fn, void *arg, kt_err *err);

/* A key of this application's kind, of whichever run: mode 0400, and nothing but base64 of 32 bytes. A key has no place
 * in a backup, and the key files of earlier turns lie beside the one in force. False also for what cannot be read: that
 * is met again when it is saved. */
bool kt_archive_is_key_file(const kt_tree_item *item);

#endif

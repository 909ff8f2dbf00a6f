/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An SQLite database, copied by SQLite itself (https://www.sqlite.org/backup.html): what an application would see that
 * opened it at this moment, whoever writes to it meanwhile, and without journals. The one file of the agent that calls
 * SQLite.
 */
#ifndef KT_AGENT_SQLITE_H
#define KT_AGENT_SQLITE_H

#include <stdint.h>

#include "agent/tree.h"

/* Does the file `base` in a folder begin as an SQLite database does (https://www.sqlite.org/fileformat.html, 1.3)?
 * False also for what cannot be read: that is met again when it is saved. */
bool kt_sqlite_is(int folder_fd, const char *base);
/* Is `base` the "-wal", "-journal" or "-shm" of such a database in the same folder? What counts of it is in the copy.
 */
bool kt_sqlite_is_journal(int folder_fd, const char *base);
/* Bytes of its write-ahead log, which a copy holds as well at most; 0: there is none. */
uint64_t kt_sqlite_wal_bytes(int folder_fd, const char *base);

/* Called after each piece, `bytes` were copied (0: it waits, or looks at the copy). Anything but KT_OK stops the work
 * and is passed on. */
typedef kt_code (*kt_sqlite_progress)(void *arg, size_t bytes, kt_err *err);
typedef struct kt_sqlite_how {
	const char *beside; /* a path on the file system that has the room for the copy */
	kt_sqlite_progress progress;
	void *arg;
} kt_sqlite_how;

/*
 * Copy a database for which kt_sqlite_is() into a file without a name, and have SQLite look at the copy (quick_check).
 * The original is only read: one that was left in the middle of a transaction is copied with its journals, and SQLite
 * recovers the copy. *fd is the caller's; -1 when SQLite says that this is no database, for all its beginning.
 * KT_E_REFUSED: damaged, locked for more than 5 seconds, or changed while it had to be copied with its journals.
 * KT_E_IO: unreadable, no room.
 */
KT_MUST_CHECK kt_code kt_sqlite_copy(const kt_tree_item *item, const kt_sqlite_how *how, int *fd, kt_err *err);

#endif

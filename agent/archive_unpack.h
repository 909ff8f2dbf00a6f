/* SPDX-License-Identifier: Apache-2.0 */
/* Writing one member to the disk, for the test restore and the real one. Private to the archive. */
#ifndef KT_AGENT_ARCHIVE_UNPACK_H
#define KT_AGENT_ARCHIVE_UNPACK_H

#include <archive.h>
#include <archive_entry.h>
#include <stdbool.h>

#include "agent/keyscan.h"

/* A writer that refuses "..", and paths through a symbolic link; owners are set when we are root. */
KT_MUST_CHECK kt_code kt_archive_unpack_open(struct archive **out, kt_err *err);
/* The entry (its path is absolute, its parents need not exist) with content, mode, owner, times, ACL and attributes.
 * With `exact` an attribute that cannot be set is an error; without, only the content, mode and owner must be right,
 * which the caller compares. `scan` (NULL: none): KT_E_KEY when the content holds one of its keys. KT_E_IO,
 * KT_E_INPUT. */
KT_MUST_CHECK kt_code kt_archive_unpack_entry(struct archive *disk, struct archive *from, struct archive_entry *e,
					      bool exact, kt_keyscan *scan, kt_err *err);
/* Set what folders get last (mode, times), and free. Frees also on failure; NULL is fine. */
KT_MUST_CHECK kt_code kt_archive_unpack_close(struct archive *disk, kt_err *err);

#endif

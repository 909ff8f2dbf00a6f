/* SPDX-License-Identifier: Apache-2.0 */
/* One coordinator at a time: a locked file in the state folder that says who holds it, and how long the journal was. */
#ifndef KT_ORCHESTRATOR_JOURNAL_LOCK_H
#define KT_ORCHESTRATOR_JOURNAL_LOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/result.h"

/* Lock `folder`/journal.lock until *fd is closed (the kernel does it when the process dies) and write pid, host and
 * time into it. *entries is what kt_lock_note wrote last, 0 when it is not known. KT_E_BUSY names the holder; KT_E_IO.
 */
KT_MUST_CHECK kt_code kt_lock_take(const char *folder, int *fd, int64_t *entries, kt_err *err);
/* Note for the next one who comes that the journal has this many entries, so that an older copy of it, or the loss of
 * its end, is seen. Best effort: it is not synced, and a failure is not told. */
void kt_lock_note(int fd, int64_t entries);
/* The same number for a reader. */
int64_t kt_lock_entries(const char *folder);
/* Is a coordinator at work? */
bool kt_lock_held(const char *folder);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* One coordinator at a time: a locked file in the state folder that says who holds it. */
#ifndef KT_ORCHESTRATOR_JOURNAL_LOCK_H
#define KT_ORCHESTRATOR_JOURNAL_LOCK_H

#include "base/result.h"

/* Lock `folder`/journal.lock until *fd is closed (the kernel does it when the process dies) and write pid, host and
 * time into it. KT_E_BUSY names the holder; KT_E_IO. */
KT_MUST_CHECK kt_code kt_lock_take(const char *folder, int *fd, kt_err *err);

#endif

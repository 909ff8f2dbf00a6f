/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The database and its rollback journal. A coordinator that died in the middle of a commit leaves both, and SQLite puts
 * the database back with the journal when it is opened next: whatever journal lies there. A journal of another database
 * would destroy this one, so it is tried on a copy first.
 */
#ifndef KT_ORCHESTRATOR_JOURNAL_PAIR_H
#define KT_ORCHESTRATOR_JOURNAL_PAIR_H

#include "base/result.h"

#include <stdbool.h>

/* Has `folder`/journal.db a rollback journal that would be used? (It is empty between commits.) */
bool kt_pair_is_hot(const char *folder);
/* Copy both into a new folder below it; *copy is its path, which kt_pair_remove removes with what is in it. On failure
 * nothing is left. */
KT_MUST_CHECK kt_code kt_pair_copy(const char *folder, char copy[4096], kt_err *err);
void kt_pair_remove(const char *copy);
/* Remove the copies of processes that were killed before they could. */
void kt_pair_sweep(const char *folder);

#endif

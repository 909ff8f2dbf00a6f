/* SPDX-License-Identifier: Apache-2.0 */
/* The folder of a test restore: 0700, ours alone, marked, so that what a killed agent left is known and removed. And
 * files that are not even seen. */
#ifndef KT_AGENT_SCRATCH_H
#define KT_AGENT_SCRATCH_H

#include "agent/tree.h"
#include "base/json.h"

/* The file in it that says that it is ours. */
#define KT_SCRATCH_MARK ".keyturn-scratch"

/* Make an empty folder with the mark (missing parents are made, 0755). One with the mark that was left behind is
 * removed first. KT_E_REFUSED: there is something else at that path, which is not touched. Remove it with
 * kt_tree_remove. */
KT_MUST_CHECK kt_code kt_scratch_make(const char *path, kt_err *err);
/* A copy of a JSON value in which "${scratch}" is replaced by `path` in every string; the caller's. */
KT_MUST_CHECK kt_code kt_scratch_command(const cJSON *value, const char *path, cJSON **out, kt_err *err);

/* A file without a name on the file system of `beside` (missing folders are made, as an archive's): nothing is left of
 * it when we are killed. The caller closes it. `what` is for messages. KT_E_IO, KT_E_INPUT. */
KT_MUST_CHECK kt_code kt_scratch_file(const char *beside, const char *what, int *fd, kt_err *err);

#endif

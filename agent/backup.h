/* SPDX-License-Identifier: Apache-2.0 */
/* What the backup verbs and preflight share: reading what is to be saved from a request. */
#ifndef KT_AGENT_BACKUP_H
#define KT_AGENT_BACKUP_H

#include "agent/action.h"
#include "agent/archive.h"

/* From the members top, paths, exclude, key_files and secrets (each may be absent); keys are resolved. Borrows the
 * texts from `args`; free with kt_backup_source_free. KT_E_INPUT, KT_E_KEY, KT_E_IO. */
KT_MUST_CHECK kt_code kt_backup_source(const kt_agent_ctx *ctx, const cJSON *args, kt_archive_source *out, kt_err *err);
void kt_backup_source_free(kt_archive_source *s);

#endif

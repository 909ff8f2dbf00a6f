/* SPDX-License-Identifier: Apache-2.0 */
/* A person says that a run's backups are gone: the nodes are asked whether that is so. */
#ifndef KT_CLI_BACKUPS_H
#define KT_CLI_BACKUPS_H

#include "orchestrator/cli/context.h"

/*
 * Ask every node that has a backup of `run` among `dependants` (of a key of orchestrator/ledger/view.h). KT_E_REFUSED
 * names what is still there. A node that cannot be asked, or is not in cluster.json any more, is warned of: there the
 * person's word counts.
 */
KT_MUST_CHECK kt_code kt_backups_gone(kt_ctx *c, const cJSON *dependants, const char *run, kt_err *err);

#endif

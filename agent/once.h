/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work that is done at most once (S1): who may start it, and what is said about it afterwards. The decisions alone: how
 * a runner comes into being and how one waits for it is the caller's.
 */
#ifndef KT_AGENT_ONCE_H
#define KT_AGENT_ONCE_H

#include "agent/action.h"

/* Start a runner for the request in `spool` and return when it has claimed the work or is gone. `report` receives what
 * it said, "" when nothing. */
typedef kt_code kt_once_start_fn(void *arg, const char *spool, char report[KT_ERR_MSG], kt_err *err);

/*
 * A request for such work has come, and its intent is recorded: have a runner started by `start`, unless the work was
 * begun before or may only be settled. KT_OK: it is claimed, by a runner or by ourselves because there will be none,
 * and kt_once_look tells how it stands. KT_E_UNKNOWN (*err has its own class): the spool cannot be read or written.
 * Anything else: certainly not started.
 */
KT_MUST_CHECK kt_code kt_once_begin(kt_agent_ctx *ctx, kt_once_start_fn *start, void *arg, kt_err *err);

/*
 * How claimed work stands. *runs is true while it goes on: ask again later. Else the status is how it ended, `result`
 * and *err as they were recorded; and when nobody is left who could record it, `failed` (the command was certainly not
 * executed) or `unknown`, which is then recorded.
 */
KT_MUST_CHECK kt_status kt_once_look(const char *spool, bool *runs, cJSON *result, kt_err *err);

#endif

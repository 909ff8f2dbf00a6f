/* SPDX-License-Identifier: Apache-2.0 */
/* What a run came to, out of its plan and the engine's results: for the end of `run`, for `status`, and as JSON. Pure.
 */
#ifndef KT_REPORT_SUMMARY_H
#define KT_REPORT_SUMMARY_H

#include "orchestrator/engine/engine.h"

/*
 * {"run","cluster","state","digest","committed":bool,"reason"?,"remedy"?,"failed_step"?,"failed_node"?,
 *  "old_key":{"kcv","uri"},"new_key":{"kcv","id","label","uri"},"escrow"?,"backups":[{"node","archive","sha256",
 *  "files","bytes","archive_bytes","encrypted"}]}
 * Members that are not known (yet) are absent. *out is the caller's.
 */
KT_MUST_CHECK kt_code kt_summary_make(const cJSON *plan, const kt_engine *engine, cJSON **out, kt_err *err);
/* The same for people, appended to `out`. */
KT_MUST_CHECK kt_code kt_summary_print(const cJSON *summary, kt_buf *out, kt_err *err);
/* What to do next after this state, where its reason does not say it; "" where there is nothing to do. */
const char *kt_summary_remedy(kt_run_state state);

#endif

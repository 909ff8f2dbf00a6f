/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a person or a program sees of a run while it goes on: live lines on a terminal, plain lines without one, or one
 * JSON object per line. Writes to the given stream only; a stream that cannot be written (terminal gone) is given up
 * silently, the run goes on.
 */
#ifndef KT_REPORT_REPORT_H
#define KT_REPORT_REPORT_H

#include <stdio.h>

#include "orchestrator/turn/turn.h"

typedef enum kt_report_mode { KT_REPORT_LIVE, KT_REPORT_PLAIN, KT_REPORT_JSON } kt_report_mode;

typedef struct kt_report kt_report;

/* `out` stays the caller's. `colour` is heeded in KT_REPORT_LIVE only. */
KT_MUST_CHECK kt_code kt_report_new(FILE *out, kt_report_mode mode, bool colour, kt_report **out_report, kt_err *err);
void kt_report_free(kt_report *r);
/* The watcher that feeds it; owned by the report. */
const kt_watcher *kt_report_watcher(kt_report *r);

/* When the service was down: from the first `stop` intent to the last `start` outcome seen, in ms; -1 when it was not.
 */
int64_t kt_report_downtime_ms(const kt_report *r);

#endif

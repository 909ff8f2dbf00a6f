/* SPDX-License-Identifier: Apache-2.0 */
/* The verb drift.check: an earlier step's answers must be equal on all nodes, and their clocks near ours. Pure. */
#ifndef KT_TURN_DRIFT_H
#define KT_TURN_DRIFT_H

#include "base/json.h"

/* One node's answer to the step that is looked at. */
typedef struct kt_drift_answer {
	const char *node;
	const cJSON *result; /* an object */
	int64_t skew_ms;     /* the node's clock minus ours */
} kt_drift_answer;

/* `args`: {"fields":[names], "clock_skew_s": n}. KT_E_REFUSED names every field that differs and who has what. */
KT_MUST_CHECK kt_code kt_drift_check(const cJSON *args, const kt_drift_answer *answers, size_t n, kt_err *err);

#endif

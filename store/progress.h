/* SPDX-License-Identifier: Apache-2.0 */
/* How far a walk over items is, and how fast: one line on standard error, kept up to date, when that is a terminal. */
#ifndef KT_STORE_PROGRESS_H
#define KT_STORE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/result.h"

typedef struct kt_progress {
	const char *what; /* "rewrapping": the caller's, for as long as the walk */
	int64_t total, done;
	int64_t start_ms, shown_ms;
	bool shows; /* standard error is a terminal */
} kt_progress;

/* `total`: how many items there will be. */
void kt_progress_begin(kt_progress *p, const char *what, int64_t total);
/* One item more. NULL is fine. */
void kt_progress_step(kt_progress *p);
/* The last word on the line, and its end. */
void kt_progress_end(kt_progress *p);

/* KEYTURN_STORE_REKEY_DELAY_MS: a pause before a commit, so that a test can kill the process there. KT_E_USAGE: not a
 * number of milliseconds up to ten minutes. */
KT_MUST_CHECK kt_code kt_progress_pause(kt_err *err);

#endif

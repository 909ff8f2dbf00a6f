/* SPDX-License-Identifier: Apache-2.0 */
/* Opening every item with one KEK. */
#ifndef KT_STORE_VERIFY_H
#define KT_STORE_VERIFY_H

#include "envelope/envelope.h"
#include "store/db.h"
#include "store/progress.h"

enum { KT_VERIFY_FIRST = 10 };

typedef struct kt_verify_report {
	int64_t items, opened, failed;
	int64_t compared; /* filled items whose content was compared with what it must be */
	kt_code worst;    /* KT_E_KEY when any is under another key, else KT_E_INPUT when any is damaged, else KT_OK */
	size_t n_first;
	struct {
		char name[128]; /* cut if longer */
		char message[KT_ERR_MSG];
	} first[KT_VERIFY_FIRST]; /* the first failures */
} kt_verify_report;

/* Walk all items (`span` NULL) or those of a span, stepping `progress` (may be NULL). KT_OK when the walk came to its
 * end, whatever it found. In the caller's transaction if there is one. */
KT_MUST_CHECK kt_code kt_verify_items(kt_db *db, kt_db_span *span, kt_envelope_ctx *ctx, bool content,
				      kt_progress *progress, kt_verify_report *report, kt_err *err);
/* KT_OK when every item opened; else an error of class report->worst that names the first ones. */
KT_MUST_CHECK kt_code kt_verify_judge(const kt_verify_report *report, kt_err *err);

#endif

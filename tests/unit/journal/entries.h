/* SPDX-License-Identifier: Apache-2.0 */
/* Entries of which everything follows from their number, so that what is read back can be told from what was written.
 */
#ifndef KT_TESTS_UNIT_JOURNAL_ENTRIES_H
#define KT_TESTS_UNIT_JOURNAL_ENTRIES_H

#include <inttypes.h>
#include <string.h>

#include "orchestrator/journal/journal.h"
#include "tests/sim/chance.h"

enum { BATCH_MAX = 30, BODY_MAX = 9000 };

static inline size_t entries_length(int64_t seq)
{
	sim_rng r = {(uint64_t)seq};
	size_t most = sim_chance(&r, 100) ? BODY_MAX : 900;
	return 2 + sim_below(&r, most - 2);
}

static inline void entries_body(int64_t seq, char out[BODY_MAX + 1])
{
	size_t n = entries_length(seq);
	memset(out, 'a' + (int)(seq % 26), n);
	out[0] = out[n - 1] = '"';
	out[n] = '\0';
}

/* Append the entries first .. first + n - 1; n is at most BATCH_MAX. */
static inline kt_code entries_append(kt_journal *j, int64_t first, size_t n, kt_err *err)
{
	static char body[BATCH_MAX][BODY_MAX + 1];
	kt_entry e[BATCH_MAX];
	for (size_t i = 0; i < n; i++) {
		entries_body(first + (int64_t)i, body[i]);
		e[i] = (kt_entry){.run = "r",
				  .epoch = 1,
				  .time_ms = first,
				  .kind = "note",
				  .step = "",
				  .role = "",
				  .node = "",
				  .body = body[i]};
	}
	return kt_journal_append(j, e, n, err);
}

/* For kt_journal_read: is it as it was written? *user is the seq of the last one. */
static inline kt_code entries_compare(void *user, const kt_entry *e, kt_err *err)
{
	static char body[BODY_MAX + 1];
	entries_body(e->seq, body);
	*(int64_t *)user = e->seq;
	return strcmp(body, e->body) == 0 ? KT_OK
					  : kt_fail(err, KT_E_AUDIT, NULL, "entry %" PRId64 " has changed", e->seq);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "store/shard.h"

#include <limits.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "store/logfile.h"
#include "store/verify.h"

enum { BATCH = 2000, LEASE_MS = 5000, POLL_MS = 100, TRIES = 60, TRY_AGAIN_MS = 1000 };

static void pause_ms(int ms)
{
	struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
	while (nanosleep(&left, &left) != 0)
		;
}

/* One batch of a range, in a transaction on it. *more: there may be another one. */
typedef kt_code batch_fn(kt_shard *s, kt_db_range *range, kt_db_span *opened, bool *more, kt_err *err);

static kt_code move_batch(kt_shard *s, kt_db_range *range, kt_db_span *opened, bool *more, kt_err *err)
{
	int64_t count;
	kt_db_span span = {.after = range->after, .upto = range->upto, .limit = BATCH};
	(void)opened;
	KT_TRY(kt_db_item_edit(s->db, &span, s->head_len, s->from, s->edit, s->arg, &count, err));
	range->after = span.after;
	range->items += count;
	*more = count == BATCH;
	if (!*more)
		range->after = range->upto;
	KT_TRY(kt_db_range_save(s->db, range, LEASE_MS, false, err));
	return kt_progress_pause(err);
}

/* `opened` says how far this worker has opened the range's items; the last one makes the range done. */
static kt_code open_batch(kt_shard *s, kt_db_range *range, kt_db_span *opened, bool *more, kt_err *err)
{
	kt_verify_report report;
	kt_db_span span = *opened;
	span.limit = BATCH;
	KT_TRY(kt_verify_items(s->db, &span, s->fresh, false, NULL, &report, err));
	KT_TRY(kt_verify_judge(&report, err));
	*more = report.items == BATCH;
	KT_TRY(kt_db_range_save(s->db, range, LEASE_MS, !*more, err));
	*opened = span;
	return KT_OK;
}

static kt_code transaction(kt_shard *s, batch_fn *fn, kt_db_range *range, kt_db_span *opened, bool *ours, bool *more,
			   kt_err *err)
{
	kt_db_span before = *opened;
	KT_TRY(kt_db_range_begin(s->db, range, ours, err));
	if (!*ours)
		return KT_OK;
	kt_code rc = fn(s, range, opened, more, err);
	if (rc == KT_OK)
		rc = kt_db_commit(s->db, err);
	kt_db_rollback(s->db);
	if (rc != KT_OK)
		*opened = before;
	return rc;
}

/* May what failed so be tried again? Nothing that was not committed has happened, and what was is read anew. */
static bool passing(kt_code rc)
{
	return rc == KT_E_BUSY || rc == KT_E_UNREACHABLE || rc == KT_E_UNKNOWN;
}

static bool try_again(kt_code rc, int *tries, const kt_err *why)
{
	if (!passing(rc) || ++*tries >= TRIES)
		return false;
	kt_logfile(KT_LOG_WARN, "crypt", "tried again: %s", why->msg);
	pause_ms(TRY_AGAIN_MS);
	return true;
}

static kt_code batches(kt_shard *s, batch_fn *fn, kt_db_range *range, bool *ours, kt_err *err)
{
	kt_db_span opened = {.after = range->first, .upto = range->upto};
	bool more = true;
	int tries = 0;
	*ours = true;
	while (*ours && more) {
		kt_err why = KT_ERR_INIT;
		kt_code rc = transaction(s, fn, range, &opened, ours, &more, &why);
		if (rc == KT_OK)
			tries = 0;
		else if (try_again(rc, &tries, &why))
			more = true;
		else
			return kt_fail(err, rc, why.remedy, "%s", why.msg);
	}
	return KT_OK;
}

static kt_code work_range(kt_shard *s, kt_db_range *range, kt_err *err)
{
	bool ours;
	KT_TRY(batches(s, move_batch, range, &ours, err));
	if (ours)
		KT_TRY(batches(s, open_batch, range, &ours, err));
	if (!ours) {
		kt_logfile(KT_LOG_WARN, "crypt", "another worker has taken over range %lld", (long long)range->id);
		return KT_OK;
	}
	s->ranges++;
	s->taken_over += range->taken_over;
	return KT_OK;
}

/* All ranges are done: the new KEK takes the place of the old one. In a write transaction. */
static kt_code finish(kt_shard *s, const kt_db_rekey *rekey, kt_err *err)
{
	int64_t items;
	KT_TRY(kt_db_item_count(s->db, &items, err));
	if (items != rekey->items)
		return kt_fail(err, KT_E_INTERNAL, "restore the database from the backup",
			       "%lld items were moved, %lld are there", (long long)rekey->items, (long long)items);
	KT_TRY(kt_db_kek_replace(s->db, rekey->generation, &rekey->record, err));
	return kt_db_rekey_close(s->db, err);
}

/* *ended: there is no rekey under way any more. */
static kt_code end_within(kt_shard *s, bool *ended, kt_err *err)
{
	kt_db_rekey rekey;
	bool open;
	KT_TRY(kt_db_rekey_get(s->db, &rekey, &open, err));
	bool last = open && rekey.done == rekey.ranges;
	kt_code rc = last ? finish(s, &rekey, err) : KT_OK;
	kt_buf_free(&rekey.record);
	if (rc == KT_OK && (last || !open))
		rc = kt_db_item_count(s->db, &s->items, err);
	if (rc == KT_OK && last)
		rc = kt_db_commit(s->db, err);
	s->ended = s->ended || (last && (rc == KT_OK || rc == KT_E_UNKNOWN));
	*ended = rc == KT_OK && (last || !open);
	return rc;
}

static kt_code try_to_end(kt_shard *s, bool *ended, kt_err *err)
{
	KT_TRY(kt_db_begin(s->db, true, err));
	kt_code rc = end_within(s, ended, err);
	kt_db_rollback(s->db);
	return rc;
}

static void name_worker(char *out, size_t size)
{
	char host[HOST_NAME_MAX + 1] = {0};
	(void)gethostname(host, sizeof host - 1);
	(void)snprintf(out, size, "pid %d on %.200s", (int)getpid(), host);
}

/* One step: a range, or, where none is free, the end. */
static kt_code step(kt_shard *s, const char *worker, bool *ended, kt_err *err)
{
	kt_db_range range;
	bool got;
	KT_TRY(kt_db_range_claim(s->db, worker, LEASE_MS, &range, &got, err));
	if (got)
		return work_range(s, &range, err);
	KT_TRY(try_to_end(s, ended, err));
	if (!*ended)
		pause_ms(POLL_MS);
	return KT_OK;
}

kt_code kt_shard_work(kt_shard *s, kt_err *err)
{
	char worker[256];
	int tries = 0;
	name_worker(worker, sizeof worker);
	for (bool ended = false; !ended;) {
		kt_err why = KT_ERR_INIT;
		kt_code rc = step(s, worker, &ended, &why);
		if (rc == KT_OK)
			tries = 0;
		else if (!try_again(rc, &tries, &why))
			return kt_fail(err, rc, why.remedy, "%s", why.msg);
	}
	return KT_OK;
}

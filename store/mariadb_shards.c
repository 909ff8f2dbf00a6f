/* SPDX-License-Identifier: Apache-2.0 */
/* The MariaDB back end's rekey in shards: its record, and the ranges that workers claim. */
#include <stdio.h>
#include <string.h>

#include "store/mariadb.h"

kt_code kt_mariadb_rekey_get(kt_db *base, kt_db_rekey *out, bool *open, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(base);
	int rows;
	*out = (kt_db_rekey){0};
	*open = false;
	KT_TRY(kt_mariadb_one_row(db, REKEY_GET, NO_VALUES, "the rekey under way cannot be read", &rows, err));
	if (rows == 0)
		return KT_OK;
	if (rows != 1)
		return kt_mariadb_damaged(db, "more than one rekey is under way", err);
	(void)snprintf(out->depth, sizeof out->depth, "%s", kt_buf_cstr(&db->row[0].bytes));
	out->generation = (uint32_t)db->row[1].number;
	kt_code rc = kt_buf_append(&out->record, db->row[2].bytes.data, db->row[2].bytes.len, err);
	if (rc == KT_OK)
		rc = kt_mariadb_one_row(db, RANGES, NO_VALUES, "the ranges cannot be read", &rows, err);
	if (rc != KT_OK) {
		kt_buf_free(&out->record);
		return rc;
	}
	out->ranges = db->row[0].number;
	out->done = db->row[1].number;
	out->items = db->row[2].number;
	*open = true;
	return KT_OK;
}

/* Rows first+1 .. last, in so many ranges of the same width. */
static kt_code put_ranges(kt_mariadb *db, int64_t first, int64_t last, int64_t ranges, kt_err *err)
{
	int64_t width = (last - first + ranges - 1) / ranges;
	for (int64_t id = 1; first < last; id++) {
		int64_t upto = last - first > width ? first + width : last;
		KT_TRY(kt_mariadb_change(db, RANGE_PUT, VALUES(number(id), number(first), number(first), number(upto)),
					 "a range cannot be written", NULL, err));
		first = upto;
	}
	return KT_OK;
}

kt_code kt_mariadb_rekey_open(kt_db *base, const kt_db_rekey *rekey, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(base);
	int rows;
	KT_TRY(kt_mariadb_change(db, RANGE_CLEAR, NO_VALUES, "the ranges cannot be removed", NULL, err));
	KT_TRY(kt_mariadb_change(
		db, REKEY_PUT,
		VALUES(text(rekey->depth), number(rekey->generation), bytes(rekey->record.data, rekey->record.len)),
		"the rekey cannot be recorded", NULL, err));
	KT_TRY(kt_mariadb_one_row(db, ROWS, NO_VALUES, "the items cannot be counted", &rows, err));
	if (db->row[0].number == 0)
		return KT_OK;
	return put_ranges(db, db->row[1].number - 1, db->row[2].number, rekey->ranges, err);
}

kt_code kt_mariadb_rekey_close(kt_db *base, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(base);
	KT_TRY(kt_mariadb_change(db, REKEY_CLEAR, NO_VALUES, "the end of the rekey cannot be recorded", NULL, err));
	return kt_mariadb_change(db, RANGE_CLEAR, NO_VALUES, "the ranges cannot be removed", NULL, err);
}

/* A transaction that does not take the write lock. */
static kt_code begin_shared(kt_mariadb *db, kt_err *err)
{
	KT_TRY(kt_mariadb_ensure(db, err));
	KT_TRY(kt_mariadb_run(db, "START TRANSACTION", "a transaction cannot begin", err));
	db->in_transaction = true;
	return KT_OK;
}

static kt_code claim_free(kt_mariadb *db, const char *worker, int64_t lease_ms, kt_db_range *range, bool *got,
			  kt_err *err)
{
	int rows;
	KT_TRY(kt_mariadb_one_row(db, RANGE_FREE, NO_VALUES, "no range can be claimed", &rows, err));
	*got = rows == 1;
	if (!*got)
		return KT_OK;
	const cell *row = db->row;
	*range = (kt_db_range){.id = row[0].number,
			       .fence = row[1].number + 1,
			       .first = row[2].number,
			       .after = row[3].number,
			       .upto = row[4].number,
			       .items = row[5].number,
			       .taken_over = row[1].number > 0};
	return kt_mariadb_change(db, RANGE_CLAIM, VALUES(text(worker), number(lease_ms), number(range->id)),
				 "a range cannot be claimed", NULL, err);
}

kt_code kt_mariadb_range_claim(kt_db *base, const char *worker, int64_t lease_ms, kt_db_range *range, bool *got,
			       kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(base);
	*got = false;
	kt_code rc = begin_shared(db, err);
	if (rc == KT_OK)
		rc = claim_free(db, worker, lease_ms, range, got, err);
	if (rc == KT_OK)
		rc = kt_mariadb_commit(base, err);
	kt_mariadb_rollback(base);
	return rc;
}

kt_code kt_mariadb_range_begin(kt_db *base, kt_db_range *range, bool *ours, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(base);
	int rows;
	*ours = false;
	kt_code rc = begin_shared(db, err);
	if (rc == KT_OK)
		rc = kt_mariadb_one_row(db, RANGE_LOCK, VALUES(number(range->id), number(range->fence)), "the range",
					&rows, err);
	*ours = rc == KT_OK && rows == 1;
	if (!*ours) {
		kt_mariadb_rollback(base);
		return rc;
	}
	range->after = db->row[0].number;
	range->items = db->row[1].number;
	return KT_OK;
}

kt_code kt_mariadb_range_save(kt_db *base, const kt_db_range *range, int64_t lease_ms, bool done, kt_err *err)
{
	return kt_mariadb_change(
		kt_mariadb_of(base), RANGE_SAVE,
		VALUES(number(range->after), number(range->items), number(done), number(lease_ms), number(range->id)),
		"the range cannot be written", NULL, err);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The MariaDB back end's items, read and written in batches. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/edit.h"
#include "store/mariadb.h"

enum {
	BATCH_ROWS = 2000,     /* that are read, edited and written together */
	BATCH_BYTES = 2 << 20, /* the same; one item may be larger */
	FIRST_ROWS = 64,       /* of a batch, while it is not known how long items are */
	SAME_MAX = 2
};
_Static_assert((int)BATCH_ROWS <= (int)KT_BATCH_ROWS, "a batch holds them");

kt_code kt_mariadb_item_get(kt_db *base, const char *name, kt_buf *envelope, int64_t *version, bool *found, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(base);
	int rows;
	KT_TRY(kt_mariadb_one_row(db, ITEM_GET, VALUES(number(envelope != NULL), text(name)), "an item cannot be read",
				  &rows, err));
	*found = rows == 1;
	if (!*found)
		return KT_OK;
	if (version)
		*version = db->row[0].number;
	return envelope ? kt_buf_append(envelope, db->row[1].bytes.data, db->row[1].bytes.len, err) : KT_OK;
}

kt_code kt_mariadb_item_put(kt_db *base, const char *name, const kt_buf *envelope, kt_err *err)
{
	return kt_mariadb_change(kt_mariadb_of(base), ITEM_PUT,
				 VALUES(text(name), bytes(envelope->data, envelope->len)), "the item cannot be written",
				 NULL, err);
}

kt_code kt_mariadb_item_count(kt_db *base, int64_t *count, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(base);
	int rows;
	KT_TRY(kt_mariadb_one_row(db, ITEM_COUNT, NO_VALUES, "the items cannot be counted", &rows, err));
	*count = db->row[0].number;
	return KT_OK;
}

/* The row's name, NULL when it cannot be one. */
static const char *row_name(const kt_mariadb *db)
{
	const kt_buf *b = &db->row[1].bytes;
	return memchr(b->data, '\0', b->len) ? NULL : (const char *)b->data;
}

static kt_code give_row(const kt_mariadb *db, bool envelopes, kt_db_item_fn *fn, void *arg, kt_err *err)
{
	char made_up[64];
	const char *name = row_name(db);
	(void)snprintf(made_up, sizeof made_up, "(row %lld)", db->row[0].number);
	if (!name)
		return fn(arg, made_up, NULL, 0, "its name is not a text", err);
	if (!envelopes)
		return fn(arg, name, NULL, 0, NULL, err);
	return fn(arg, name, db->row[2].bytes.data, db->row[2].bytes.len, NULL, err);
}

/* The rows come as the server sends them; none is kept. */
static kt_code each(kt_mariadb *db, statement which, const value *in, size_t n, kt_db_span *span, kt_db_item_fn *fn,
		    void *arg, kt_err *err)
{
	MYSQL_STMT *s;
	bool more = true;
	KT_TRY(kt_mariadb_execute(db, which, in, n, "the items cannot be read", &s, err));
	kt_code rc = kt_mariadb_next_row(db, s, which, &more, err);
	while (rc == KT_OK && more) {
		if (span)
			span->after = db->row[0].number;
		rc = give_row(db, which == ITEM_EACH, fn, arg, err);
		if (rc == KT_OK)
			rc = kt_mariadb_next_row(db, s, which, &more, err);
	}
	return kt_mariadb_end_rows(db, s, rc, err);
}

kt_code kt_mariadb_item_each(kt_db *base, kt_db_span *span, kt_db_item_fn *fn, void *arg, kt_err *err)
{
	int64_t limit = span && span->limit >= 0 ? span->limit : INT64_MAX;
	return each(
		kt_mariadb_of(base), ITEM_EACH,
		VALUES(number(span ? span->after : INT64_MIN), number(span ? span->upto : INT64_MAX), number(limit)),
		span, fn, arg, err);
}

kt_code kt_mariadb_item_names(kt_db *base, kt_db_item_fn *fn, void *arg, kt_err *err)
{
	return each(kt_mariadb_of(base), ITEM_NAMES, NO_VALUES, NULL, fn, arg, err);
}

/* What is needed beside a batch: how it was asked for, and its rows as the bulk statement wants them. */
typedef struct array {
	int64_t ask; /* how many to ask for: follows the length of the items */
	char *at[BATCH_ROWS];
	unsigned long lens[BATCH_ROWS];
	long long ids[BATCH_ROWS];
	long long same[SAME_MAX][BATCH_ROWS];
} array;

static kt_code bad_item(const kt_mariadb *db, const char *name, const char *bad, kt_err *err)
{
	return kt_fail(err, KT_E_INPUT, "restore the item from a backup", "%s: item \"%s\": %s", db->base.name, name,
		       bad);
}

/* `room`: of the first bytes of the envelope, as kt_batch_add; at least as many as there are. */
static kt_code keep_row(kt_mariadb *db, kt_batch *b, size_t room, kt_err *err)
{
	char made_up[64];
	(void)snprintf(made_up, sizeof made_up, "(row %lld)", db->row[0].number);
	if (!row_name(db))
		return bad_item(db, made_up, "its name is not a text", err);
	kt_batched *item;
	const kt_buf *envelope = &db->row[2].bytes;
	KT_TRY(kt_batch_add(b, db->row[0].number, row_name(db), room > envelope->len ? room : envelope->len, &item,
			    err));
	item->len = envelope->len;
	item->total = (size_t)db->row[3].number;
	memcpy(b->data.data + item->bytes, envelope->data, envelope->len);
	return KT_OK;
}

static kt_code fill_batch(kt_mariadb *db, MYSQL_STMT *s, statement which, size_t room, kt_batch *b, array *r,
			  kt_err *err)
{
	bool more = true;
	while (b->n < BATCH_ROWS && b->data.len < BATCH_BYTES) {
		KT_TRY(kt_mariadb_next_row(db, s, which, &more, err));
		if (!more)
			break;
		KT_TRY(keep_row(db, b, room, err));
	}
	if (b->n) { /* what did not fit is read again: ask for no more than fits */
		size_t mean = b->data.len / b->n + 1;
		r->ask = mean > BATCH_BYTES ? 1 : BATCH_BYTES / (int64_t)mean;
		r->ask = r->ask > BATCH_ROWS ? BATCH_ROWS : r->ask;
	}
	return KT_OK;
}

static kt_code read_batch(kt_mariadb *db, statement which, const value *in, size_t n, size_t room, kt_batch *b,
			  array *r, kt_err *err)
{
	MYSQL_STMT *s;
	KT_TRY(kt_mariadb_execute(db, which, in, n, "the items cannot be read", &s, err));
	return kt_mariadb_end_rows(db, s, fill_batch(db, s, which, room, b, r, err), err);
}

/* Where rows are written, the statement's first values are the same for all of them; the bytes and the row's number
 * follow. */
static kt_code write_bulk(kt_mariadb *db, statement which, const value *first, size_t n, array *w, size_t count,
			  kt_err *err)
{
	MYSQL_STMT *s;
	MYSQL_BIND in[SAME_MAX + 2];
	unsigned size = (unsigned)count;
	memset(in, 0, sizeof in);
	for (size_t i = 0; i < n; i++) {
		for (size_t r = 0; r < count; r++)
			w->same[i][r] = first[i].number;
		in[i].buffer_type = MYSQL_TYPE_LONGLONG;
		in[i].buffer = w->same[i];
	}
	in[n].buffer_type = MYSQL_TYPE_LONG_BLOB;
	in[n].buffer = w->at;
	in[n].length = w->lens;
	in[n + 1].buffer_type = MYSQL_TYPE_LONGLONG;
	in[n + 1].buffer = w->ids;
	KT_TRY(kt_mariadb_prepare(db, which, &s, err));
	if (mysql_stmt_attr_set(s, STMT_ATTR_ARRAY_SIZE, &size) != 0 || mysql_stmt_bind_param(s, in) != 0 ||
	    mysql_stmt_execute(s) != 0)
		return kt_mariadb_statement_failed(db, s, "the items cannot be written", err);
	if (mysql_stmt_affected_rows(s) == count)
		return KT_OK;
	return kt_fail(err, KT_E_INTERNAL, NULL, "%s: %zu items were written, and %llu were there", db->base.name,
		       count, (unsigned long long)mysql_stmt_affected_rows(s));
}

static kt_code write_one_by_one(kt_mariadb *db, statement which, const value *first, size_t n, const array *w,
				size_t count, kt_err *err)
{
	value in[SAME_MAX + 2];
	uint64_t found;
	for (size_t i = 0; i < n; i++)
		in[i] = first[i];
	for (size_t r = 0; r < count; r++) {
		in[n] = bytes(w->at[r], w->lens[r]);
		in[n + 1] = number(w->ids[r]);
		KT_TRY(kt_mariadb_change(db, which, in, n + 2, "the items cannot be written", &found, err));
		if (found != 1)
			return kt_fail(err, KT_E_INTERNAL, NULL, "%s: an item has gone", db->base.name);
	}
	return KT_OK;
}

static kt_code write_rows(kt_mariadb *db, statement which, const value *first, size_t n, array *w, size_t count,
			  kt_err *err)
{
	if (count == 0)
		return KT_OK;
	return db->bulk ? write_bulk(db, which, first, n, w, count, err)
			: write_one_by_one(db, which, first, n, w, count, err);
}

static kt_code write_edited(const kt_edit *e, kt_batch *b, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(e->db);
	array *w = e->own;
	size_t count = 0;
	for (size_t i = 0; i < b->n; i++) {
		const kt_batched *item = &b->item[i];
		if (item->len <= e->from)
			continue;
		w->at[count] = (char *)b->data.data + item->bytes + e->from;
		w->lens[count] = item->len - e->from;
		w->ids[count++] = item->id;
	}
	if (e->len == KT_DB_WHOLE)
		return write_rows(db, ITEM_WRITE, NO_VALUES, w, count, err);
	return write_rows(db, ITEM_EDIT, VALUES(number((int64_t)e->from + 1), number((int64_t)(e->len - e->from))), w,
			  count, err);
}

static kt_code read_for_edit(const kt_edit *e, const kt_db_span *span, kt_batch *b, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(e->db);
	array *r = e->own;
	int64_t limit = span->limit < 0 || span->limit > r->ask ? r->ask : span->limit;
	if (e->len == KT_DB_WHOLE)
		return read_batch(db, ITEM_WHOLE, VALUES(number(span->after), number(span->upto), number(limit)), 0, b,
				  r, err);
	return read_batch(db, ITEM_HEADS,
			  VALUES(number((int64_t)e->len), number(span->after), number(span->upto), number(limit)),
			  e->len, b, r, err);
}

kt_code kt_mariadb_item_edit(kt_db *base, kt_db_span *span, size_t head_len, size_t from, kt_db_edit_fn *fn, void *arg,
			     int64_t *count, kt_err *err)
{
	array *r = calloc(1, sizeof *r);
	if (!r)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	r->ask = FIRST_ROWS;
	kt_edit e = {.db = base,
		     .len = head_len,
		     .from = from,
		     .fn = fn,
		     .arg = arg,
		     .read = read_for_edit,
		     .write = write_edited,
		     .own = r};
	kt_code rc = kt_edit_run(&e, span, count, err);
	free(r);
	return rc;
}

/* Convert what is in a batch, and write what became of it. */
static kt_code convert_batch(kt_mariadb *db, const kt_batch *b, kt_db_convert_fn *fn, void *arg, kt_buf *out,
			     kt_err *err)
{
	for (size_t i = 0; i < b->n; i++) {
		const kt_batched *item = &b->item[i];
		const char *name = (const char *)b->data.data + item->name;
		kt_buf_clear(out);
		kt_code rc = fn(arg, name, b->data.data + item->bytes, item->len, out, err);
		if (rc != KT_OK)
			return kt_err_prefix(err, rc, "%s: item \"%s\"", db->base.name, name);
		if (out->len)
			KT_TRY(kt_mariadb_change(db, ITEM_REPLACE, VALUES(bytes(out->data, out->len), number(item->id)),
						 "the item cannot be written", NULL, err));
	}
	return KT_OK;
}

typedef struct conversion {
	kt_batch batch;
	array array;
	kt_buf out;
} conversion;

static kt_code convert_all(kt_mariadb *db, conversion *c, int64_t *after, int64_t limit, kt_db_convert_fn *fn,
			   void *arg, int64_t *seen, kt_err *err)
{
	kt_batch *b = &c->batch;
	c->array.ask = FIRST_ROWS;
	do {
		int64_t ask = limit - *seen < c->array.ask ? limit - *seen : c->array.ask;
		kt_batch_clear(b);
		KT_TRY(read_batch(db, ITEM_AFTER, VALUES(number(*after), number(ask)), 0, b, &c->array, err));
		KT_TRY(convert_batch(db, b, fn, arg, &c->out, err));
		if (b->n)
			*after = b->item[b->n - 1].id;
		*seen += (int64_t)b->n;
	} while (b->n && *seen < limit);
	return KT_OK;
}

kt_code kt_mariadb_item_convert(kt_db *base, int64_t *after, int64_t limit, kt_db_convert_fn *fn, void *arg,
				int64_t *seen, kt_err *err)
{
	*seen = 0;
	conversion *c = calloc(1, sizeof *c);
	if (!c)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = convert_all(kt_mariadb_of(base), c, after, limit, fn, arg, seen, err);
	kt_buf_free(&c->out);
	kt_buf_free(&c->batch.data);
	free(c);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The store's database in one SQLite file. The only place of the store that calls SQLite. */
#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/db_backend.h"
#include "store/edit.h"

enum {
	APPLICATION_ID = 0x4b545354,
	SCHEMA_VERSION = 1,
	BATCH_ROWS = 256,        /* that are read, edited and written together */
	BATCH_BYTES = 256 * 1024 /* the same; one item may be larger */
};
_Static_assert((int)BATCH_ROWS <= (int)KT_BATCH_ROWS, "a batch holds them");

static const char schema[] = "CREATE TABLE meta(name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL);"
			     "CREATE TABLE kek(generation INTEGER PRIMARY KEY, record BLOB NOT NULL);"
			     "CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
			     " version INTEGER NOT NULL, envelope BLOB NOT NULL);"
			     "CREATE TABLE node(name TEXT PRIMARY KEY NOT NULL, host TEXT NOT NULL, home TEXT NOT NULL,"
			     " pid INTEGER NOT NULL, address TEXT NOT NULL, started_ms INTEGER NOT NULL,"
			     " heartbeat_ms INTEGER NOT NULL, interval_ms INTEGER NOT NULL, beats INTEGER NOT NULL);"
			     "INSERT INTO meta VALUES('epoch', 1);"
			     "PRAGMA application_id=1263817556; PRAGMA user_version=1;";
_Static_assert(APPLICATION_ID == 1263817556 && SCHEMA_VERSION == 1, "the numbers in the schema's text");

/* Statements that are used often are prepared once. */
typedef enum statement {
	EPOCH,
	SET_EPOCH,
	KEK_GET,
	KEK_CLEAR,
	KEK_PUT,
	ITEM_GET,
	ITEM_VERSION,
	ITEM_PUT,
	ITEM_COUNT,
	ITEM_EACH,
	ITEM_NAMES,
	ITEM_AFTER,
	ITEM_REPLACE,
	NODE_PUT,
	NODE_BEAT,
	NODE_REMOVE,
	NODE_EACH,
	STATEMENTS
} statement;

static const char *const sql[STATEMENTS] = {
	[EPOCH] = "SELECT value FROM meta WHERE name='epoch'",
	[SET_EPOCH] = "UPDATE meta SET value=?1 WHERE name='epoch'",
	[KEK_GET] = "SELECT record FROM kek",
	[KEK_CLEAR] = "DELETE FROM kek",
	[KEK_PUT] = "INSERT INTO kek VALUES(?1, ?2)",
	[ITEM_GET] = "SELECT version, envelope FROM item WHERE name=?1",
	[ITEM_VERSION] = "SELECT version FROM item WHERE name=?1",
	[ITEM_PUT] = "INSERT INTO item(name, version, envelope) VALUES(?1, 1, ?2)"
		     " ON CONFLICT(name) DO UPDATE SET version=version+1, envelope=excluded.envelope",
	[ITEM_COUNT] = "SELECT count(*) FROM item",
	[ITEM_EACH] = "SELECT id, name, envelope FROM item WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
	[ITEM_NAMES] = "SELECT id, name FROM item NOT INDEXED WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
	[ITEM_AFTER] = "SELECT id, name, envelope FROM item WHERE id > ?1 ORDER BY id LIMIT ?2",
	[ITEM_REPLACE] = "UPDATE item SET envelope=?2, version=version+1 WHERE id=?1",
	[NODE_PUT] = "INSERT OR REPLACE INTO node VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
	[NODE_BEAT] = "UPDATE node SET heartbeat_ms=?3, beats=beats+1 WHERE name=?1 AND pid=?2",
	[NODE_REMOVE] = "DELETE FROM node WHERE name=?1 AND pid=?2",
	[NODE_EACH] = "SELECT name, host, home, pid, address, started_ms, heartbeat_ms, interval_ms, beats FROM node"
		      " ORDER BY name",
};

typedef struct file_db {
	kt_db base; /* first */
	sqlite3 *sq;
	sqlite3_stmt *prepared[STATEMENTS];
} file_db;

static file_db *of(kt_db *base)
{
	return (file_db *)(void *)base;
}

static kt_code class_of(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return KT_E_BUSY;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
	case SQLITE_MISMATCH:
	case SQLITE_CONSTRAINT:
	case SQLITE_FORMAT:
	case SQLITE_ERROR:
	case SQLITE_SCHEMA:
	case SQLITE_TOOBIG:
		return KT_E_INPUT;
	case SQLITE_MISUSE:
	case SQLITE_RANGE:
	case SQLITE_NOMEM:
		return KT_E_INTERNAL;
	default:
		return KT_E_IO;
	}
}

static const char *remedy_of(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return "another process is using the database: try again when it has finished";
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return "restore the database from a backup";
	case SQLITE_FULL:
		return "free space on that file system and try again";
	case SQLITE_READONLY:
	case SQLITE_PERM:
	case SQLITE_CANTOPEN:
		return "check the path, and that this user may read and write the file and its folder";
	default:
		return NULL;
	}
}

static kt_code failed(const file_db *db, const char *what, kt_err *err)
{
	int rc = sqlite3_extended_errcode(db->sq);
	int os = sqlite3_system_errno(db->sq);
	kt_code code = class_of(rc);
	if (code == KT_E_IO && os)
		return kt_fail(err, code, remedy_of(rc), "%s: %s: %s: %s", db->base.name, what, sqlite3_errmsg(db->sq),
			       strerror(os));
	return kt_fail(err, code, remedy_of(rc), "%s: %s: %s", db->base.name, what, sqlite3_errmsg(db->sq));
}

static kt_code run(file_db *db, const char *text, const char *what, kt_err *err)
{
	return sqlite3_exec(db->sq, text, NULL, NULL, NULL) == SQLITE_OK ? KT_OK : failed(db, what, err);
}

static kt_code get_statement(file_db *db, statement which, sqlite3_stmt **out, kt_err *err)
{
	if (!db->prepared[which] && sqlite3_prepare_v3(db->sq, sql[which], -1, SQLITE_PREPARE_PERSISTENT,
						       &db->prepared[which], NULL) != SQLITE_OK)
		return failed(db, "a query cannot be prepared", err);
	*out = db->prepared[which];
	return KT_OK;
}

/* Take the result of a statement that returns no row. */
static kt_code finish(file_db *db, sqlite3_stmt *s, const char *what, kt_err *err)
{
	kt_code rc = sqlite3_step(s) == SQLITE_DONE ? KT_OK : failed(db, what, err);
	(void)sqlite3_reset(s);
	(void)sqlite3_clear_bindings(s);
	return rc;
}

static kt_code open_flags(file_db *db, kt_db_mode mode, kt_err *err)
{
	int flags = mode == KT_DB_CREATE ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE
		    : mode == KT_DB_WRITE || access(db->base.name, W_OK) == 0 ? SQLITE_OPEN_READWRITE
									      : SQLITE_OPEN_READONLY;
	if (mode != KT_DB_CREATE && access(db->base.name, F_OK) != 0)
		return kt_fail_errno(err, errno,
				     "check the path of the database in store.json; `start` makes a new one",
				     "the database %s", db->base.name);
	if (sqlite3_open_v2(db->base.name, &db->sq, flags | SQLITE_OPEN_EXRESCODE, NULL) != SQLITE_OK)
		return db->sq ? failed(db, "the database cannot be opened", err)
			      : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	return KT_OK;
}

static void file_close(kt_db *base)
{
	file_db *db = of(base);
	for (size_t i = 0; i < STATEMENTS; i++)
		(void)sqlite3_finalize(db->prepared[i]);
	(void)sqlite3_close(db->sq); /* rolls back what is open */
	free(db->base.name);
	free(db);
}

static kt_code file_begin(kt_db *base, bool write, kt_err *err)
{
	file_db *db = of(base);
	return run(db, write ? "BEGIN IMMEDIATE" : "BEGIN", "a transaction cannot begin", err);
}

static kt_code file_commit(kt_db *base, kt_err *err)
{
	file_db *db = of(base);
	return run(db, "COMMIT", "the transaction cannot be committed", err);
}

/* A process that was killed commits nothing any more, and what it left is rolled back by whoever reads next. */
static kt_code file_settle(kt_db *base, kt_err *err)
{
	(void)base;
	(void)err;
	return KT_OK;
}

static void file_rollback(kt_db *base)
{
	file_db *db = of(base);
	if (db->sq && !sqlite3_get_autocommit(db->sq))
		(void)sqlite3_exec(db->sq, "ROLLBACK", NULL, NULL, NULL);
}

static kt_code one_int(file_db *db, const char *query, int64_t *out, kt_err *err)
{
	sqlite3_stmt *s = NULL;
	if (sqlite3_prepare_v2(db->sq, query, -1, &s, NULL) != SQLITE_OK || sqlite3_step(s) != SQLITE_ROW) {
		kt_code rc = failed(db, "the database cannot be read", err);
		(void)sqlite3_finalize(s);
		return rc;
	}
	*out = sqlite3_column_int64(s, 0);
	(void)sqlite3_finalize(s);
	return KT_OK;
}

static kt_code file_initialized(kt_db *base, bool *yes, kt_err *err)
{
	file_db *db = of(base);
	int64_t tables = 0, id = 0, version = 0;
	*yes = false;
	KT_TRY(one_int(db, "SELECT count(*) FROM sqlite_master", &tables, err));
	KT_TRY(one_int(db, "PRAGMA application_id", &id, err));
	KT_TRY(one_int(db, "PRAGMA user_version", &version, err));
	if (tables == 0 && id == 0)
		return KT_OK;
	if (id != APPLICATION_ID)
		return kt_fail(err, KT_E_INPUT, "check the path of the database in store.json",
			       "%s: this is the database of another program", db->base.name);
	if (version != SCHEMA_VERSION)
		return kt_fail(err, KT_E_INPUT, "use the keyturn-store that wrote it, or a newer one",
			       "%s: version %lld of the database is not known", db->base.name, (long long)version);
	*yes = true;
	return KT_OK;
}

static kt_code file_create_schema(kt_db *base, kt_err *err)
{
	file_db *db = of(base);
	return run(db, schema, "the tables cannot be made", err);
}

static kt_code file_epoch(kt_db *base, int64_t *epoch, kt_err *err)
{
	file_db *db = of(base);
	sqlite3_stmt *s = NULL;
	KT_TRY(get_statement(db, EPOCH, &s, err));
	int step = sqlite3_step(s);
	kt_code rc = KT_OK;
	if (step == SQLITE_ROW && sqlite3_column_type(s, 0) == SQLITE_INTEGER)
		*epoch = sqlite3_column_int64(s, 0);
	else if (step == SQLITE_ROW || step == SQLITE_DONE)
		rc = kt_fail(err, KT_E_INPUT, "restore the database from a backup", "%s: the epoch is missing",
			     db->base.name);
	else
		rc = failed(db, "the epoch cannot be read", err);
	(void)sqlite3_reset(s);
	return rc;
}

static kt_code file_set_epoch(kt_db *base, int64_t epoch, kt_err *err)
{
	file_db *db = of(base);
	sqlite3_stmt *s = NULL;
	KT_TRY(get_statement(db, SET_EPOCH, &s, err));
	(void)sqlite3_bind_int64(s, 1, epoch);
	return finish(db, s, "the epoch cannot be written", err);
}

static kt_code file_kek_get(kt_db *base, kt_buf *record, kt_err *err)
{
	file_db *db = of(base);
	sqlite3_stmt *s = NULL;
	KT_TRY(get_statement(db, KEK_GET, &s, err));
	int step = sqlite3_step(s);
	kt_code rc = KT_OK;
	if (step == SQLITE_ROW)
		rc = kt_buf_append(record, sqlite3_column_blob(s, 0), (size_t)sqlite3_column_bytes(s, 0), err);
	else if (step == SQLITE_DONE)
		rc = kt_fail(err, KT_E_INPUT, "restore the database from a backup", "%s: there is no KEK record",
			     db->base.name);
	if (rc == KT_OK && step == SQLITE_ROW && (step = sqlite3_step(s)) == SQLITE_ROW)
		rc = kt_fail(err, KT_E_INPUT, "restore the database from a backup",
			     "%s: there is more than one KEK record", db->base.name);
	if (rc == KT_OK && step != SQLITE_DONE)
		rc = failed(db, "the KEK record cannot be read", err);
	(void)sqlite3_reset(s);
	return rc;
}

static kt_code file_kek_replace(kt_db *base, uint32_t generation, const kt_buf *record, kt_err *err)
{
	file_db *db = of(base);
	sqlite3_stmt *s = NULL;
	KT_TRY(get_statement(db, KEK_CLEAR, &s, err));
	KT_TRY(finish(db, s, "the old KEK record cannot be removed", err));
	KT_TRY(get_statement(db, KEK_PUT, &s, err));
	(void)sqlite3_bind_int64(s, 1, generation);
	(void)sqlite3_bind_blob64(s, 2, record->data, record->len, SQLITE_STATIC);
	return finish(db, s, "the KEK record cannot be written", err);
}

static kt_code file_has_kek(kt_db *base, bool *yes, kt_err *err)
{
	file_db *db = of(base);
	int64_t n = 0;
	kt_code rc = one_int(db, "SELECT count(*) FROM kek", &n, err);
	*yes = n > 0;
	return rc;
}

static kt_code bad_legacy(const file_db *db, kt_err *err)
{
	return kt_fail(err, KT_E_INPUT, "restore the database from a backup",
		       "%s: the table legacy does not hold one key", db->base.name);
}

static kt_code read_legacy_key(file_db *db, sqlite3_stmt *s, kt_secret *key, kt_err *err)
{
	if (sqlite3_step(s) != SQLITE_ROW || sqlite3_column_type(s, 0) != SQLITE_BLOB ||
	    sqlite3_column_bytes(s, 0) == 0)
		return bad_legacy(db, err);
	const void *bytes = sqlite3_column_blob(s, 0);
	KT_TRY(kt_secret_copy(key, bytes, (size_t)sqlite3_column_bytes(s, 0), err));
	if (sqlite3_step(s) == SQLITE_DONE)
		return KT_OK;
	kt_secret_free(key);
	return bad_legacy(db, err);
}

static kt_code file_legacy_get(kt_db *base, kt_secret *key, bool *legacy, kt_err *err)
{
	file_db *db = of(base);
	int64_t tables = 0;
	*legacy = false;
	KT_TRY(one_int(db, "SELECT count(*) FROM sqlite_master WHERE type='table' AND name='legacy'", &tables, err));
	*legacy = tables > 0;
	if (!*legacy || !key)
		return KT_OK;
	sqlite3_stmt *s = NULL;
	if (sqlite3_prepare_v2(db->sq, "SELECT key FROM legacy", -1, &s, NULL) != SQLITE_OK)
		return failed(db, "the legacy key cannot be read", err);
	kt_code rc = read_legacy_key(db, s, key, err);
	(void)sqlite3_finalize(s);
	return rc;
}

static kt_code file_legacy_drop(kt_db *base, kt_err *err)
{
	file_db *db = of(base);
	return run(db, "DROP TABLE legacy", "the legacy key cannot be removed", err);
}

static kt_code take_item(file_db *db, sqlite3_stmt *s, const char *name, kt_buf *envelope, int64_t *version,
			 kt_err *err)
{
	if (version)
		*version = sqlite3_column_int64(s, 0);
	if (!envelope)
		return KT_OK;
	if (sqlite3_column_type(s, 1) != SQLITE_BLOB)
		return kt_fail(err, KT_E_INPUT, "restore the item from a backup",
			       "%s: the item \"%s\" holds no envelope", db->base.name, name);
	const void *bytes = sqlite3_column_blob(s, 1);
	return kt_buf_append(envelope, bytes, (size_t)sqlite3_column_bytes(s, 1), err);
}

static kt_code file_item_get(kt_db *base, const char *name, kt_buf *envelope, int64_t *version, bool *found,
			     kt_err *err)
{
	file_db *db = of(base);
	sqlite3_stmt *s = NULL;
	KT_TRY(get_statement(db, envelope ? ITEM_GET : ITEM_VERSION, &s, err));
	(void)sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
	int step = sqlite3_step(s);
	*found = step == SQLITE_ROW;
	kt_code rc = KT_OK;
	if (step == SQLITE_ROW)
		rc = take_item(db, s, name, envelope, version, err);
	else if (step != SQLITE_DONE)
		rc = failed(db, "an item cannot be read", err);
	(void)sqlite3_reset(s);
	(void)sqlite3_clear_bindings(s);
	return rc;
}

static kt_code file_item_put(kt_db *base, const char *name, const kt_buf *envelope, kt_err *err)
{
	file_db *db = of(base);
	sqlite3_stmt *s = NULL;
	KT_TRY(get_statement(db, ITEM_PUT, &s, err));
	(void)sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
	(void)sqlite3_bind_blob64(s, 2, envelope->data, envelope->len, SQLITE_STATIC);
	return finish(db, s, "the item cannot be written", err);
}

static kt_code file_item_count(kt_db *base, int64_t *count, kt_err *err)
{
	file_db *db = of(base);
	sqlite3_stmt *s = NULL;
	KT_TRY(get_statement(db, ITEM_COUNT, &s, err));
	kt_code rc = KT_OK;
	if (sqlite3_step(s) == SQLITE_ROW)
		*count = sqlite3_column_int64(s, 0);
	else
		rc = failed(db, "the items cannot be counted", err);
	(void)sqlite3_reset(s);
	return rc;
}

/* The name in column 1 of the row, NULL when it cannot be one. Valid until the next step. */
static const char *row_name(sqlite3_stmt *s)
{
	/* The type first: reading a value as another type changes what is said about it. */
	if (sqlite3_column_type(s, 1) != SQLITE_TEXT)
		return NULL;
	const char *name = (const char *)sqlite3_column_text(s, 1);
	return name && strlen(name) == (size_t)sqlite3_column_bytes(s, 1) ? name : NULL;
}

static kt_code give_row(sqlite3_stmt *s, bool envelopes, kt_db_item_fn *fn, void *arg, kt_err *err)
{
	char made_up[64];
	const char *name = row_name(s);
	(void)snprintf(made_up, sizeof made_up, "(row %lld)", (long long)sqlite3_column_int64(s, 0));
	if (!name)
		return fn(arg, made_up, NULL, 0, "its name is not a text", err);
	if (!envelopes)
		return fn(arg, name, NULL, 0, NULL, err);
	if (sqlite3_column_type(s, 2) != SQLITE_BLOB)
		return fn(arg, name, NULL, 0, "it holds no envelope", err);
	const void *bytes = sqlite3_column_blob(s, 2);
	return fn(arg, name, bytes ? bytes : "", (size_t)sqlite3_column_bytes(s, 2), NULL, err);
}

/* The names or all of a span's items; NULL: of all items. */
static kt_code get_span(file_db *db, statement which, const kt_db_span *span, sqlite3_stmt **out, kt_err *err)
{
	KT_TRY(get_statement(db, which, out, err));
	(void)sqlite3_bind_int64(*out, 1, span ? span->after : INT64_MIN);
	(void)sqlite3_bind_int64(*out, 2, span ? span->upto : INT64_MAX);
	(void)sqlite3_bind_int64(*out, 3, span ? span->limit : -1);
	return KT_OK;
}

static kt_code each(file_db *db, bool envelopes, kt_db_span *span, kt_db_item_fn *fn, void *arg, kt_err *err)
{
	sqlite3_stmt *s = NULL;
	KT_TRY(get_span(db, envelopes ? ITEM_EACH : ITEM_NAMES, span, &s, err));
	kt_code rc = KT_OK;
	int step = SQLITE_ROW;
	while (rc == KT_OK && (step = sqlite3_step(s)) == SQLITE_ROW) {
		if (span)
			span->after = sqlite3_column_int64(s, 0);
		rc = give_row(s, envelopes, fn, arg, err);
	}
	if (rc == KT_OK && step != SQLITE_DONE)
		rc = failed(db, "the items cannot be read", err);
	(void)sqlite3_reset(s);
	return rc;
}

static kt_code file_item_each(kt_db *base, kt_db_span *span, kt_db_item_fn *fn, void *arg, kt_err *err)
{
	return each(of(base), true, span, fn, arg, err);
}

static kt_code file_item_names(kt_db *base, kt_db_item_fn *fn, void *arg, kt_err *err)
{
	return each(of(base), false, NULL, fn, arg, err);
}

static kt_code bad_item(const file_db *db, const char *name, const char *bad, kt_err *err)
{
	return kt_fail(err, KT_E_INPUT, "restore the item from a backup", "%s: item \"%s\": %s", db->base.name, name,
		       bad);
}

static kt_code move_blob(file_db *db, int64_t id, const char *name, sqlite3_blob **blob, kt_err *err)
{
	int rc = *blob ? sqlite3_blob_reopen(*blob, id)
		       : sqlite3_blob_open(db->sq, "main", "item", "envelope", id, 1, blob);
	if (rc == SQLITE_OK)
		return KT_OK;
	if ((rc & 0xff) == SQLITE_ERROR)
		return bad_item(db, name, "it holds no envelope", err);
	return failed(db, "an envelope cannot be opened", err);
}

/* What of one envelope is edited, into the batch. */
static kt_code read_one(file_db *db, sqlite3_stmt *s, const kt_edit *e, kt_batch *b, kt_err *err)
{
	char made_up[64];
	sqlite3_blob **blob = e->own;
	kt_batched *item;
	int64_t id = sqlite3_column_int64(s, 0);
	const char *name = row_name(s);
	(void)snprintf(made_up, sizeof made_up, "(row %lld)", (long long)id);
	if (!name)
		return bad_item(db, made_up, "its name is not a text", err);
	KT_TRY(move_blob(db, id, name, blob, err));
	size_t total = (size_t)sqlite3_blob_bytes(*blob);
	KT_TRY(kt_batch_add(b, id, name, e->len == KT_DB_WHOLE ? total : e->len, &item, err));
	item->total = total;
	item->len = total < e->len ? total : e->len;
	return sqlite3_blob_read(*blob, b->data.data + item->bytes, (int)item->len, 0) == SQLITE_OK
		       ? KT_OK
		       : failed(db, "an envelope cannot be read", err);
}

static kt_code read_batch(const kt_edit *e, const kt_db_span *span, kt_batch *b, kt_err *err)
{
	file_db *db = of(e->db);
	sqlite3_stmt *s = NULL;
	KT_TRY(get_span(db, ITEM_NAMES, span, &s, err));
	kt_code rc = KT_OK;
	int step = SQLITE_ROW;
	while (rc == KT_OK && b->n < BATCH_ROWS && b->data.len < BATCH_BYTES && (step = sqlite3_step(s)) == SQLITE_ROW)
		rc = read_one(db, s, e, b, err);
	if (rc == KT_OK && step != SQLITE_ROW && step != SQLITE_DONE)
		rc = failed(db, "the items cannot be read", err);
	(void)sqlite3_reset(s);
	return rc;
}

static kt_code write_batch(const kt_edit *e, kt_batch *b, kt_err *err)
{
	file_db *db = of(e->db);
	sqlite3_blob **blob = e->own;
	for (size_t i = 0; i < b->n; i++) {
		const kt_batched *item = &b->item[i];
		const uint8_t *bytes = b->data.data + item->bytes;
		if (item->len <= e->from)
			continue;
		KT_TRY(move_blob(db, item->id, (const char *)b->data.data + item->name, blob, err));
		if (sqlite3_blob_write(*blob, bytes + e->from, (int)(item->len - e->from), (int)e->from) != SQLITE_OK)
			return failed(db, "an envelope cannot be written", err);
	}
	return KT_OK;
}

static kt_code file_item_edit(kt_db *base, kt_db_span *span, size_t head_len, size_t from, kt_db_edit_fn *fn, void *arg,
			      int64_t *count, kt_err *err)
{
	sqlite3_blob *blob = NULL;
	kt_edit e = {.db = base,
		     .len = head_len,
		     .from = from,
		     .fn = fn,
		     .arg = arg,
		     .read = read_batch,
		     .write = write_batch,
		     .own = &blob};
	kt_code rc = kt_edit_run(&e, span, count, err);
	if (sqlite3_blob_close(blob) != SQLITE_OK && rc == KT_OK)
		rc = failed(of(base), "an envelope cannot be written", err);
	return rc;
}

typedef struct conversion {
	file_db *db;
	kt_db_convert_fn *fn;
	void *arg;
	kt_buf out;
	int64_t id; /* of the row at hand */
} conversion;

static kt_code convert_one(void *arg, const char *name, const void *envelope, size_t len, const char *bad, kt_err *err)
{
	conversion *c = arg;
	sqlite3_stmt *s = NULL;
	if (bad)
		return bad_item(c->db, name, bad, err);
	kt_buf_clear(&c->out);
	kt_code rc = c->fn(c->arg, name, envelope, len, &c->out, err);
	if (rc != KT_OK)
		return kt_err_prefix(err, rc, "%s: item \"%s\"", c->db->base.name, name);
	if (c->out.len == 0)
		return KT_OK;
	KT_TRY(get_statement(c->db, ITEM_REPLACE, &s, err));
	(void)sqlite3_bind_int64(s, 1, c->id);
	(void)sqlite3_bind_blob64(s, 2, c->out.data, c->out.len, SQLITE_STATIC);
	return finish(c->db, s, "the item cannot be written", err);
}

static kt_code file_item_convert(kt_db *base, int64_t *after, int64_t limit, kt_db_convert_fn *fn, void *arg,
				 int64_t *seen, kt_err *err)
{
	file_db *db = of(base);
	sqlite3_stmt *s = NULL;
	conversion c = {.db = db, .fn = fn, .arg = arg};
	*seen = 0;
	KT_TRY(get_statement(db, ITEM_AFTER, &s, err));
	(void)sqlite3_bind_int64(s, 1, *after);
	(void)sqlite3_bind_int64(s, 2, limit);
	kt_code rc = KT_OK;
	int step = SQLITE_ROW;
	while (rc == KT_OK && (step = sqlite3_step(s)) == SQLITE_ROW) {
		*after = c.id = sqlite3_column_int64(s, 0);
		(*seen)++;
		rc = give_row(s, true, convert_one, &c, err);
	}
	if (rc == KT_OK && step != SQLITE_DONE)
		rc = failed(db, "the items cannot be read", err);
	(void)sqlite3_reset(s);
	kt_buf_free(&c.out);
	return rc;
}

static kt_code file_node_put(kt_db *base, const kt_db_node *node, kt_err *err)
{
	file_db *db = of(base);
	sqlite3_stmt *s = NULL;
	KT_TRY(get_statement(db, NODE_PUT, &s, err));
	(void)sqlite3_bind_text(s, 1, node->name, -1, SQLITE_STATIC);
	(void)sqlite3_bind_text(s, 2, node->host, -1, SQLITE_STATIC);
	(void)sqlite3_bind_text(s, 3, node->home, -1, SQLITE_STATIC);
	(void)sqlite3_bind_int64(s, 4, node->pid);
	(void)sqlite3_bind_text(s, 5, node->address, -1, SQLITE_STATIC);
	(void)sqlite3_bind_int64(s, 6, node->started_ms);
	(void)sqlite3_bind_int64(s, 7, node->heartbeat_ms);
	(void)sqlite3_bind_int64(s, 8, node->interval_ms);
	(void)sqlite3_bind_int64(s, 9, node->beats);
	return finish(db, s, "the node cannot be registered", err);
}

static kt_code file_node_beat(kt_db *base, const char *name, int64_t pid, int64_t now_ms, bool *known, kt_err *err)
{
	file_db *db = of(base);
	sqlite3_stmt *s = NULL;
	KT_TRY(get_statement(db, NODE_BEAT, &s, err));
	(void)sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
	(void)sqlite3_bind_int64(s, 2, pid);
	(void)sqlite3_bind_int64(s, 3, now_ms);
	kt_code rc = finish(db, s, "the heartbeat cannot be written", err);
	*known = rc == KT_OK && sqlite3_changes(db->sq) == 1;
	return rc;
}

static kt_code file_node_remove(kt_db *base, const char *name, int64_t pid, kt_err *err)
{
	file_db *db = of(base);
	sqlite3_stmt *s = NULL;
	KT_TRY(get_statement(db, NODE_REMOVE, &s, err));
	(void)sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
	(void)sqlite3_bind_int64(s, 2, pid);
	return finish(db, s, "the node cannot be deregistered", err);
}

static const char *text_or_empty(sqlite3_stmt *s, int column)
{
	const char *t = (const char *)sqlite3_column_text(s, column);
	return t ? t : "";
}

static kt_code give_node(sqlite3_stmt *s, kt_db_node_fn *fn, void *arg, kt_err *err)
{
	kt_db_node node = {.name = text_or_empty(s, 0),
			   .host = text_or_empty(s, 1),
			   .home = text_or_empty(s, 2),
			   .pid = sqlite3_column_int64(s, 3),
			   .address = text_or_empty(s, 4),
			   .started_ms = sqlite3_column_int64(s, 5),
			   .heartbeat_ms = sqlite3_column_int64(s, 6),
			   .interval_ms = sqlite3_column_int64(s, 7),
			   .beats = sqlite3_column_int64(s, 8)};
	return fn(arg, &node, err);
}

static kt_code file_node_each(kt_db *base, kt_db_node_fn *fn, void *arg, kt_err *err)
{
	file_db *db = of(base);
	sqlite3_stmt *s = NULL;
	KT_TRY(get_statement(db, NODE_EACH, &s, err));
	kt_code rc = KT_OK;
	int step = SQLITE_ROW;
	while (rc == KT_OK && (step = sqlite3_step(s)) == SQLITE_ROW)
		rc = give_node(s, fn, arg, err);
	if (rc == KT_OK && step != SQLITE_DONE)
		rc = failed(db, "the nodes cannot be read", err);
	(void)sqlite3_reset(s);
	return rc;
}

static kt_code file_rekey_get(kt_db *base, kt_db_rekey *out, bool *open, kt_err *err)
{
	(void)base;
	(void)err;
	*out = (kt_db_rekey){0};
	*open = false;
	return KT_OK;
}

static kt_code no_shards(kt_db *base, kt_err *err)
{
	return kt_fail(err, KT_E_USAGE, "rekey without --shards: it is as fast",
		       "%s: a rekey in shards needs a database on a server; an SQLite file has one writer", base->name);
}

static kt_code file_rekey_open(kt_db *base, const kt_db_rekey *rekey, kt_err *err)
{
	(void)rekey;
	return no_shards(base, err);
}

static kt_code file_range_claim(kt_db *base, const char *worker, int64_t lease_ms, kt_db_range *range, bool *got,
				kt_err *err)
{
	(void)worker;
	(void)lease_ms;
	(void)range;
	*got = false;
	return no_shards(base, err);
}

static kt_code file_range_begin(kt_db *base, kt_db_range *range, bool *ours, kt_err *err)
{
	(void)range;
	*ours = false;
	return no_shards(base, err);
}

static kt_code file_range_save(kt_db *base, const kt_db_range *range, int64_t lease_ms, bool done, kt_err *err)
{
	(void)range;
	(void)lease_ms;
	(void)done;
	return no_shards(base, err);
}

/* SQLite keeps no list of who has the file open: the gate of the nodes asks the kernel (locks, open files). */
static kt_code file_client_each(kt_db *base, kt_db_client_fn *fn, void *arg, kt_err *err)
{
	(void)base;
	(void)fn;
	(void)arg;
	(void)err;
	return KT_OK;
}

static const kt_db_ops ops = {
	.close = file_close,
	.begin = file_begin,
	.commit = file_commit,
	.settle = file_settle,
	.rollback = file_rollback,
	.initialized = file_initialized,
	.create_schema = file_create_schema,
	.epoch = file_epoch,
	.set_epoch = file_set_epoch,
	.kek_get = file_kek_get,
	.kek_replace = file_kek_replace,
	.has_kek = file_has_kek,
	.legacy_get = file_legacy_get,
	.legacy_drop = file_legacy_drop,
	.item_get = file_item_get,
	.item_put = file_item_put,
	.item_count = file_item_count,
	.item_each = file_item_each,
	.item_names = file_item_names,
	.item_edit = file_item_edit,
	.item_convert = file_item_convert,
	.node_put = file_node_put,
	.node_beat = file_node_beat,
	.node_remove = file_node_remove,
	.node_each = file_node_each,
	.rekey_get = file_rekey_get,
	.rekey_open = file_rekey_open,
	.rekey_close = no_shards,
	.range_claim = file_range_claim,
	.range_begin = file_range_begin,
	.range_save = file_range_save,
	.client_each = file_client_each,
};

kt_code kt_db_open_sqlite(const char *path, kt_db_mode mode, int busy_ms, kt_db **out, kt_err *err)
{
	file_db *db = calloc(1, sizeof *db);
	if (!db || !(db->base.name = strdup(path))) {
		free(db);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	db->base.ops = &ops;
	kt_code rc = open_flags(db, mode, err);
	if (rc == KT_OK && sqlite3_busy_timeout(db->sq, busy_ms) != SQLITE_OK)
		rc = failed(db, "the database cannot be set up", err);
	if (rc == KT_OK)
		rc = run(db,
			 "PRAGMA trusted_schema=OFF; PRAGMA synchronous=EXTRA; PRAGMA secure_delete=ON;"
			 "PRAGMA cache_size=-16384; PRAGMA temp_store=MEMORY;",
			 "the database cannot be set up", err);
	if (rc == KT_OK)
		*out = &db->base;
	else
		file_close(&db->base);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rekey speed. The store moves the data key of every item to a new KEK and writes it back. The limit is what SQLite
 * needs to write the same bytes without any cryptography: the plain loop `UPDATE item SET envelope=? WHERE id=?`, on
 * the same database, with the same settings, in the same run. Both work on a fresh copy; the best of three each.
 *
 * bench_rekey [ITEMS [BYTES]]
 */
#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/secret.h"
#include "envelope/envelope.h"
#include "store/db.h"
#include "store/item.h"
#include "store/verify.h"

enum { ITEMS = 50000, BYTES = 1024, ROUNDS = 3 };
static const double goal_ratio = 0.8;

static double now(void)
{
	struct timespec t;
	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static kt_code make_ctx(kt_kek *kek, kt_envelope_ctx **ctx, kt_err *err)
{
	static uint8_t id;
	*kek = (kt_kek){.generation = 1};
	memset(kek->id, ++id, sizeof kek->id);
	KT_TRY(kt_secret_random(&kek->key, KT_KEK_LEN, err));
	return kt_envelope_ctx_new(kek, ctx, err);
}

static kt_code fill(kt_db *db, kt_envelope_ctx *ctx, int64_t items, size_t bytes, kt_err *err)
{
	kt_buf plain = KT_BUF_INIT, env = KT_BUF_INIT;
	kt_code rc = KT_OK;
	for (int64_t i = 1; rc == KT_OK && i <= items; i++) {
		char name[64];
		(void)snprintf(name, sizeof name, KT_ITEM_FILL_PREFIX "%08lld", (long long)i);
		kt_buf_clear(&plain);
		kt_buf_clear(&env);
		rc = kt_item_filler(name, bytes, &plain, err);
		if (rc == KT_OK)
			rc = kt_envelope_seal(ctx, name, plain.data, plain.len, &env, err);
		if (rc == KT_OK)
			rc = kt_db_item_put(db, name, &env, err);
	}
	kt_buf_free(&plain);
	kt_buf_free(&env);
	return rc;
}

/* The database that both work on copies of. */
static kt_code make(const char *path, kt_envelope_ctx *ctx, int64_t items, size_t bytes, kt_err *err)
{
	kt_db *db;
	KT_TRY(kt_db_open(path, KT_DB_CREATE, 1000, &db, err));
	kt_code rc = kt_db_begin(db, true, err);
	if (rc == KT_OK)
		rc = kt_db_create_schema(db, err);
	if (rc == KT_OK)
		rc = fill(db, ctx, items, bytes, err);
	if (rc == KT_OK)
		rc = kt_db_commit(db, err);
	kt_db_close(db);
	return rc;
}

static kt_code copy(const char *from, const char *to, kt_err *err)
{
	char block[65536];
	FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
	size_t n = 0;
	bool good = in && out;
	while (good && (n = fread(block, 1, sizeof block, in)) > 0)
		good = fwrite(block, 1, n, out) == n;
	good = good && !ferror(in) && fflush(out) == 0 && fsync(fileno(out)) == 0;
	if (in)
		(void)fclose(in);
	if (out && fclose(out) != 0)
		good = false;
	return good ? KT_OK : kt_fail_errno(err, errno, NULL, "%s cannot be copied", from);
}

typedef struct pair {
	kt_envelope_ctx *from, *to;
} pair;

static kt_code rewrap(void *arg, const char *name, uint8_t *head, size_t total, kt_err *err)
{
	pair *p = arg;
	return kt_envelope_rewrap(p->from, p->to, name, head, total, err);
}

/* The same walk in place without cryptography: what of the rekey is SQLite. */
static kt_code leave(void *arg, const char *name, uint8_t *head, size_t total, kt_err *err)
{
	(void)arg;
	(void)name;
	(void)head;
	(void)total;
	(void)err;
	return KT_OK;
}

static kt_code time_walk(const char *path, kt_db_edit_fn *fn, pair *p, int64_t items, double *rate, kt_err *err)
{
	kt_db *db;
	int64_t count = 0;
	KT_TRY(kt_db_open(path, KT_DB_WRITE, 1000, &db, err));
	double start = now();
	kt_code rc = kt_db_begin(db, true, err);
	if (rc == KT_OK)
		rc = kt_db_item_edit(db, KT_ENVELOPE_HEAD_LEN, KT_ENVELOPE_FIXED_LEN, fn, p, &count, err);
	if (rc == KT_OK)
		rc = kt_db_commit(db, err);
	*rate = (double)items / (now() - start);
	if (rc == KT_OK && count != items)
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "%lld items instead of %lld", (long long)count,
			     (long long)items);
	kt_db_close(db);
	return rc;
}

/* Everything opens with the new KEK: what was measured is the real thing. */
static kt_code check(const char *path, kt_envelope_ctx *ctx, double *rate, kt_err *err)
{
	kt_db *db;
	kt_verify_report report;
	KT_TRY(kt_db_open(path, KT_DB_LOOK, 1000, &db, err));
	double start = now();
	kt_code rc = kt_verify_items(db, ctx, false, NULL, &report, err);
	*rate = (double)report.items / (now() - start);
	if (rc == KT_OK)
		rc = kt_verify_judge(&report, err);
	kt_db_close(db);
	return rc;
}

static kt_code sql(sqlite3 *db, const char *text, kt_err *err)
{
	return sqlite3_exec(db, text, NULL, NULL, NULL) == SQLITE_OK
		       ? KT_OK
		       : kt_fail(err, KT_E_IO, NULL, "%s: %s", text, sqlite3_errmsg(db));
}

/* Give an envelope other bytes where a rewrap would, since SQLite skips pages that do not change. */
static bool change(sqlite3_stmt *get, kt_buf *bytes)
{
	kt_buf_clear(bytes);
	const void *old = sqlite3_column_blob(get, 2);
	if (kt_buf_append(bytes, old, (size_t)sqlite3_column_bytes(get, 2), NULL) != KT_OK)
		return false;
	for (size_t i = KT_ENVELOPE_FIXED_LEN; i < KT_ENVELOPE_HEAD_LEN; i++)
		bytes->data[i] ^= 0x55;
	return true;
}

static bool plain_rows(sqlite3_stmt *get, sqlite3_stmt *put)
{
	kt_buf bytes = KT_BUF_INIT;
	bool good = true;
	while (good && sqlite3_step(get) == SQLITE_ROW) {
		good = change(get, &bytes);
		(void)sqlite3_bind_int64(put, 1, sqlite3_column_int64(get, 0));
		(void)sqlite3_bind_blob64(put, 2, bytes.data, bytes.len, SQLITE_STATIC);
		good = good && sqlite3_step(put) == SQLITE_DONE;
		(void)sqlite3_reset(put);
	}
	kt_buf_free(&bytes);
	return good;
}

/* Read each envelope and write it back with other bytes in it: rekeying without the cryptography. */
static kt_code plain_loop(sqlite3 *db, kt_err *err)
{
	sqlite3_stmt *get = NULL, *put = NULL;
	KT_TRY(sql(db, "BEGIN IMMEDIATE", err));
	bool good = sqlite3_prepare_v2(db, "SELECT id, name, envelope FROM item NOT INDEXED ORDER BY id", -1, &get,
				       NULL) == SQLITE_OK &&
		    sqlite3_prepare_v2(db, "UPDATE item SET envelope=?2 WHERE id=?1", -1, &put, NULL) == SQLITE_OK &&
		    plain_rows(get, put);
	(void)sqlite3_finalize(get);
	(void)sqlite3_finalize(put);
	return good ? sql(db, "COMMIT", err) : kt_fail(err, KT_E_IO, NULL, "%s", sqlite3_errmsg(db));
}

static kt_code time_plain(const char *path, int64_t items, double *rate, kt_err *err)
{
	sqlite3 *db = NULL;
	if (sqlite3_open(path, &db) != SQLITE_OK)
		return kt_fail(err, KT_E_IO, NULL, "%s cannot be opened", path);
	kt_code rc = sql(db, "PRAGMA synchronous=EXTRA; PRAGMA secure_delete=ON; PRAGMA cache_size=-32768", err);
	double start = now();
	if (rc == KT_OK)
		rc = plain_loop(db, err);
	*rate = (double)items / (now() - start);
	(void)sqlite3_close(db);
	return rc;
}

typedef struct figures {
	double rekey, walk, plain, verify;
} figures;

static kt_code round_of(const char *base, const char *work, pair *p, int64_t items, figures *f, kt_err *err)
{
	double rekey = 0, walk = 0, plain = 0, verify = 0;
	KT_TRY(copy(base, work, err));
	KT_TRY(time_plain(work, items, &plain, err));
	KT_TRY(copy(base, work, err));
	KT_TRY(time_walk(work, leave, p, items, &walk, err));
	KT_TRY(copy(base, work, err));
	KT_TRY(time_walk(work, rewrap, p, items, &rekey, err));
	KT_TRY(check(work, p->to, &verify, err));
	f->rekey = rekey > f->rekey ? rekey : f->rekey;
	f->walk = walk > f->walk ? walk : f->walk;
	f->plain = plain > f->plain ? plain : f->plain;
	f->verify = verify > f->verify ? verify : f->verify;
	return KT_OK;
}

static kt_code measure(const char *folder, int64_t items, size_t bytes, figures *f, kt_err *err)
{
	char base[512], work[512];
	(void)snprintf(base, sizeof base, "%s/base.db", folder);
	(void)snprintf(work, sizeof work, "%s/work.db", folder);
	kt_kek old_kek = KT_KEK_INIT, new_kek = KT_KEK_INIT;
	pair p = {0};
	kt_code rc = make_ctx(&old_kek, &p.from, err);
	if (rc == KT_OK)
		rc = make_ctx(&new_kek, &p.to, err);
	if (rc == KT_OK)
		rc = make(base, p.from, items, bytes, err);
	for (int i = 0; rc == KT_OK && i < ROUNDS; i++)
		rc = round_of(base, work, &p, items, f, err);
	(void)unlink(base);
	(void)unlink(work);
	kt_envelope_ctx_free(p.from);
	kt_envelope_ctx_free(p.to);
	kt_kek_free(&old_kek);
	kt_kek_free(&new_kek);
	return rc;
}

static bool report(const figures *f, int64_t items, size_t bytes)
{
	double ratio = f->rekey / f->plain;
	bool met = ratio >= goal_ratio;
	(void)printf("rekey_items %lld items - -\n", (long long)items);
	(void)printf("rekey_item_size %zu bytes - -\n", bytes);
	(void)printf("plain_update_rate %.0f items/s - -\n", f->plain);
	(void)printf("walk_in_place_rate %.0f items/s - -\n", f->walk);
	(void)printf("rewrap_rate %.0f items/s - -\n", f->rekey);
	(void)printf("verify_rate %.0f items/s - -\n", f->verify);
	(void)printf("rewrap_to_walk_in_place %.2f ratio - -\n", f->rekey / f->walk);
	(void)printf("rewrap_to_plain_update %.2f ratio %.2f %s\n", ratio, goal_ratio, met ? "met" : "missed");
	return met;
}

int main(int argc, char **argv)
{
	int64_t items = argc > 1 ? strtoll(argv[1], NULL, 10) : ITEMS;
	long long bytes = argc > 2 ? strtoll(argv[2], NULL, 10) : BYTES;
	char folder[] = "bench-rekey-XXXXXX";
	kt_err err = KT_ERR_INIT;
	figures f = {0};
	if (items < 1 || bytes < 0 || bytes > KT_ENVELOPE_CONTENT_MAX || !mkdtemp(folder)) {
		(void)fprintf(stderr, "usage: bench_rekey [ITEMS [BYTES]], in a folder that can be written\n");
		return KT_E_USAGE;
	}
	kt_code rc = kt_secret_setup(&err);
	if (rc == KT_OK)
		rc = measure(folder, items, (size_t)bytes, &f, &err);
	(void)rmdir(folder);
	if (rc != KT_OK) {
		(void)fprintf(stderr, "%s\n", err.msg);
		return (int)rc;
	}
	return report(&f, items, (size_t)bytes) ? 0 : 1;
}

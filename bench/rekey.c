/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rekey speed at its three depths. The limit of kek and data is what SQLite needs to write the same bytes without any
 * cryptography: the plain loop `UPDATE item SET envelope=? WHERE id=?`, on the same database, with the same settings,
 * in the same run. The limit of data's cryptography is AES-256-GCM in long blocks under one key, as `openssl speed -evp
 * aes-256-gcm -bytes 16384` measures it, for the bytes that are decrypted and encrypted. All work on a fresh copy; the
 * best of three each (of one from half a million items on).
 *
 * The rekey is a pipeline of two threads (store/edit.h), the plain loop one: with a second processor it can be faster
 * than the plain loop, for it writes in place and does the cryptography meanwhile. What it cannot pass is the slower
 * of its two threads alone, which is measured beside it (data_to_limit): the same walk in place without cryptography
 * (walk_in_place_rate_as_data), and the cryptography in memory without a database (data_crypto_rate). On one processor
 * the two add up; the line `processors` says what the figures are of.
 *
 * The same on a MariaDB server, with the bulk UPDATEs of the rekey itself as the plain loop; and, on the same rows in
 * the same server, what a user would have instead: InnoDB's own encryption, moved to another key by ALTER TABLE.
 *
 * bench_rekey [ITEMS [BYTES [ITEMS-ON-THE-SERVER]]]
 */
#include <errno.h>
#include <mysql.h>
#include <openssl/evp.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/secret.h"
#include "bench/mariadb.h"
#include "envelope/envelope.h"
#include "store/db.h"
#include "store/item.h"
#include "store/verify.h"

enum { ITEMS = 200000, SERVER_ITEMS = 50000, BYTES = 256, ROUNDS = 3, MANY = 500000, SPEED_BLOCK = 16384 };
static const double goal_kek = 0.8, goal_data = 0.7, goal_mib = 64;

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
	KT_TRY(kt_db_open((kt_db_place){.text = path}, KT_DB_CREATE, 1000, &db, err));
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

static kt_code reseal(void *arg, const char *name, uint8_t *envelope, size_t len, kt_err *err)
{
	pair *p = arg;
	return kt_envelope_reseal(p->from, p->to, name, envelope, len, err);
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

/* Other bytes where the rekey would write: done twice, all is as before. */
static kt_code scramble_wrap(void *arg, const char *name, uint8_t *head, size_t total, kt_err *err)
{
	(void)arg;
	(void)name;
	(void)total;
	(void)err;
	for (size_t i = KT_ENVELOPE_FIXED_LEN; i < KT_ENVELOPE_HEAD_LEN; i++)
		head[i] ^= 0x55;
	return KT_OK;
}

static kt_code scramble_all(void *arg, const char *name, uint8_t *envelope, size_t len, kt_err *err)
{
	(void)arg;
	(void)name;
	(void)err;
	for (size_t i = 0; i < len; i++)
		envelope[i] ^= 0x55;
	return KT_OK;
}

static kt_code time_walk(const char *path, size_t head, size_t from, kt_db_edit_fn *fn, pair *p, int64_t items,
			 double *rate, kt_err *err)
{
	kt_db *db;
	int64_t count = 0;
	KT_TRY(kt_db_open((kt_db_place){.text = path}, KT_DB_WRITE, 1000, &db, err));
	double start = now();
	kt_code rc = kt_db_begin(db, true, err);
	if (rc == KT_OK)
		rc = kt_db_item_edit(db, NULL, head, from, fn, p, &count, err);
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
	KT_TRY(kt_db_open((kt_db_place){.text = path}, KT_DB_LOOK, 1000, &db, err));
	double start = now();
	kt_code rc = kt_verify_items(db, NULL, ctx, false, NULL, &report, err);
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

/* Give an envelope other bytes where the rekey would, since SQLite skips pages that do not change. */
static bool change(sqlite3_stmt *get, size_t from, size_t to, kt_buf *bytes)
{
	kt_buf_clear(bytes);
	const void *old = sqlite3_column_blob(get, 2);
	if (kt_buf_append(bytes, old, (size_t)sqlite3_column_bytes(get, 2), NULL) != KT_OK)
		return false;
	for (size_t i = from; i < to && i < bytes->len; i++)
		bytes->data[i] ^= 0x55;
	return true;
}

static bool plain_rows(sqlite3_stmt *get, sqlite3_stmt *put, size_t from, size_t to)
{
	kt_buf bytes = KT_BUF_INIT;
	bool good = true;
	while (good && sqlite3_step(get) == SQLITE_ROW) {
		good = change(get, from, to, &bytes);
		(void)sqlite3_bind_int64(put, 1, sqlite3_column_int64(get, 0));
		(void)sqlite3_bind_blob64(put, 2, bytes.data, bytes.len, SQLITE_STATIC);
		good = good && sqlite3_step(put) == SQLITE_DONE;
		(void)sqlite3_reset(put);
	}
	kt_buf_free(&bytes);
	return good;
}

/* Read each envelope and write it back with other bytes in it: rekeying without the cryptography. */
static kt_code plain_loop(sqlite3 *db, size_t from, size_t to, kt_err *err)
{
	sqlite3_stmt *get = NULL, *put = NULL;
	KT_TRY(sql(db, "BEGIN IMMEDIATE", err));
	bool good = sqlite3_prepare_v2(db, "SELECT id, name, envelope FROM item NOT INDEXED ORDER BY id", -1, &get,
				       NULL) == SQLITE_OK &&
		    sqlite3_prepare_v2(db, "UPDATE item SET envelope=?2 WHERE id=?1", -1, &put, NULL) == SQLITE_OK &&
		    plain_rows(get, put, from, to);
	(void)sqlite3_finalize(get);
	(void)sqlite3_finalize(put);
	return good ? sql(db, "COMMIT", err) : kt_fail(err, KT_E_IO, NULL, "%s", sqlite3_errmsg(db));
}

static kt_code time_plain(const char *path, size_t from, size_t to, int64_t items, double *rate, kt_err *err)
{
	sqlite3 *db = NULL;
	if (sqlite3_open(path, &db) != SQLITE_OK)
		return kt_fail(err, KT_E_IO, NULL, "%s cannot be opened", path);
	kt_code rc = sql(db, "PRAGMA synchronous=EXTRA; PRAGMA secure_delete=ON; PRAGMA cache_size=-16384", err);
	double start = now();
	if (rc == KT_OK)
		rc = plain_loop(db, from, to, err);
	*rate = (double)items / (now() - start);
	(void)sqlite3_close(db);
	return rc;
}

/* The KEK of a record under one CMK wrapped by another, and the record replaced: the whole of depth cmk. */
static kt_code turn_cmk(kt_db *db, kt_keystore *from, kt_keystore *to, const kt_buf *old, kt_err *err)
{
	kt_kek kek;
	kt_buf record = KT_BUF_INIT;
	KT_TRY(kt_kek_open(old->data, old->len, from, &kek, err));
	kt_code rc = kt_db_begin(db, true, err);
	if (rc == KT_OK)
		rc = kt_kek_wrap(&kek, to, 1, &record, err);
	if (rc == KT_OK)
		rc = kt_db_kek_replace(db, kek.generation, &record, err);
	if (rc == KT_OK)
		rc = kt_db_commit(db, err);
	kt_kek_free(&kek);
	kt_buf_free(&record);
	return rc;
}

static kt_code time_cmk_with(kt_keystore *from, kt_keystore *to, const char *path, double *seconds, kt_err *err)
{
	kt_kek kek;
	kt_db *db = NULL;
	kt_buf record = KT_BUF_INIT;
	KT_TRY(kt_kek_make(from, 1, 1, &kek, &record, err));
	kt_kek_free(&kek);
	kt_code rc = kt_db_open((kt_db_place){.text = path}, KT_DB_WRITE, 1000, &db, err);
	double start = now();
	if (rc == KT_OK)
		rc = turn_cmk(db, from, to, &record, err);
	*seconds = now() - start;
	kt_db_close(db);
	kt_buf_free(&record);
	return rc;
}

static kt_code time_cmk(const char *path, double *seconds, kt_err *err)
{
	kt_keystore *from = NULL, *to = NULL;
	(void)setenv("BENCH_CMK_1", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", 1);
	(void)setenv("BENCH_CMK_2", "IAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", 1);
	kt_code rc = kt_keystore_open("env:BENCH_CMK_1", &from, err);
	if (rc == KT_OK)
		rc = kt_keystore_open("env:BENCH_CMK_2", &to, err);
	if (rc == KT_OK)
		rc = time_cmk_with(from, to, path, seconds, err);
	kt_keystore_close(from);
	kt_keystore_close(to);
	return rc;
}

/* Bytes a second of AES-256-GCM, encrypted in long blocks under one key. */
static kt_code time_aes(double *rate, kt_err *err)
{
	static uint8_t block[SPEED_BLOCK];
	static const uint8_t key[32], nonce[12];
	int n, blocks = 20000;
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	bool good = c && EVP_EncryptInit_ex2(c, EVP_aes_256_gcm(), key, nonce, NULL) == 1;
	double start = now();
	for (int i = 0; good && i < blocks; i++)
		good = EVP_EncryptUpdate(c, block, &n, block, SPEED_BLOCK) == 1;
	*rate = (double)blocks * SPEED_BLOCK / (now() - start);
	EVP_CIPHER_CTX_free(c);
	return good ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "libcrypto failed");
}

/* Items a second that are sealed anew in memory, by one thread. */
static kt_code time_crypto(const pair *p, size_t bytes, double *rate, kt_err *err)
{
	static const char name[] = KT_ITEM_FILL_PREFIX "00000001";
	pair now_is = *p;
	kt_buf plain = KT_BUF_INIT, envelope = KT_BUF_INIT;
	int n = 50000;
	kt_code rc = kt_item_filler(name, bytes, &plain, err);
	if (rc == KT_OK)
		rc = kt_envelope_seal(now_is.from, name, plain.data, plain.len, &envelope, err);
	double start = now();
	for (int i = 0; rc == KT_OK && i < n; i++) {
		rc = kt_envelope_reseal(now_is.from, now_is.to, name, envelope.data, envelope.len, err);
		now_is = (pair){.from = now_is.to, .to = now_is.from};
	}
	*rate = n / (now() - start);
	kt_buf_free(&plain);
	kt_buf_free(&envelope);
	return rc;
}

/* Rates in items a second; the plain loops write where kek and where data do. */
typedef struct figures {
	double kek, data, walk, walk_data, crypto, plain_kek, plain_data, verify; /* the best */
	double aes;                                                               /* bytes a second, the best */
	double cmk_seconds;                                                       /* the best */
} figures;

static void keep(double *best, double now_is)
{
	if (now_is > *best)
		*best = now_is;
}

static kt_code round_of(const char *base, const char *work, pair *p, int64_t items, size_t bytes, figures *f,
			kt_err *err)
{
	figures r = {0};
	KT_TRY(copy(base, work, err));
	KT_TRY(time_plain(work, KT_ENVELOPE_FIXED_LEN, KT_ENVELOPE_HEAD_LEN, items, &r.plain_kek, err));
	KT_TRY(copy(base, work, err));
	KT_TRY(time_plain(work, 0, SIZE_MAX, items, &r.plain_data, err));
	KT_TRY(copy(base, work, err));
	KT_TRY(time_walk(work, KT_ENVELOPE_HEAD_LEN, KT_ENVELOPE_FIXED_LEN, leave, p, items, &r.walk, err));
	KT_TRY(time_cmk(work, &r.cmk_seconds, err));
	KT_TRY(copy(base, work, err));
	KT_TRY(time_walk(work, KT_DB_WHOLE, 0, scramble_all, p, items, &r.walk_data, err));
	KT_TRY(time_crypto(p, bytes, &r.crypto, err));
	KT_TRY(copy(base, work, err));
	KT_TRY(time_walk(work, KT_ENVELOPE_HEAD_LEN, KT_ENVELOPE_FIXED_LEN, rewrap, p, items, &r.kek, err));
	KT_TRY(check(work, p->to, &r.verify, err));
	KT_TRY(copy(base, work, err));
	KT_TRY(time_walk(work, KT_DB_WHOLE, 0, reseal, p, items, &r.data, err));
	KT_TRY(check(work, p->to, &r.verify, err));
	KT_TRY(time_aes(&r.aes, err));
	keep(&f->plain_kek, r.plain_kek);
	keep(&f->plain_data, r.plain_data);
	keep(&f->walk, r.walk);
	keep(&f->walk_data, r.walk_data);
	keep(&f->crypto, r.crypto);
	keep(&f->kek, r.kek);
	keep(&f->data, r.data);
	keep(&f->verify, r.verify);
	keep(&f->aes, r.aes);
	if (f->cmk_seconds == 0 || r.cmk_seconds < f->cmk_seconds)
		f->cmk_seconds = r.cmk_seconds;
	return KT_OK;
}

static int rounds(int64_t items)
{
	return items < MANY ? ROUNDS : 1;
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
	for (int i = 0; rc == KT_OK && i < rounds(items); i++)
		rc = round_of(base, work, &p, items, bytes, f, err);
	(void)unlink(base);
	(void)unlink(work);
	kt_envelope_ctx_free(p.from);
	kt_envelope_ctx_free(p.to);
	kt_kek_free(&old_kek);
	kt_kek_free(&new_kek);
	return rc;
}

static bool judge(const char *name, double value, const char *unit, double goal, bool met)
{
	(void)printf("%s %.2f %s %.2f %s\n", name, value, unit, goal, met ? "met" : "missed");
	return met;
}

static bool report(const figures *f, int64_t items, size_t bytes)
{
	struct rusage used;
	double mib = getrusage(RUSAGE_SELF, &used) == 0 ? (double)used.ru_maxrss / 1024 : 0;
	/* data decrypts and encrypts a content and a DEK, kek a DEK */
	double moved_data = 2 * ((double)bytes + 32), moved_kek = 2 * 32;
	(void)printf("rekey_items %lld items - -\n", (long long)items);
	(void)printf("rekey_item_size %zu bytes - -\n", bytes);
	(void)printf("cmk_time %.1f ms - -\n", f->cmk_seconds * 1000);
	(void)printf("kek_rate %.0f items/s - -\n", f->kek);
	(void)printf("data_rate %.0f items/s - -\n", f->data);
	(void)printf("verify_rate %.0f items/s - -\n", f->verify);
	(void)printf("plain_update_rate_as_kek %.0f items/s - -\n", f->plain_kek);
	(void)printf("plain_update_rate_as_data %.0f items/s - -\n", f->plain_data);
	(void)printf("walk_in_place_rate %.0f items/s - -\n", f->walk);
	(void)printf("walk_in_place_rate_as_data %.0f items/s - -\n", f->walk_data);
	(void)printf("data_crypto_rate %.0f items/s - -\n", f->crypto);
	(void)printf("aes_256_gcm_rate %.0f MB/s - -\n", f->aes / 1e6);
	(void)printf("processors %ld - - -\n", sysconf(_SC_NPROCESSORS_ONLN));
	(void)printf("data_to_limit %.2f ratio - -\n", f->data / (f->walk_data < f->crypto ? f->walk_data : f->crypto));
	(void)printf("kek_to_walk_in_place %.2f ratio - -\n", f->kek / f->walk);
	(void)printf("kek_bytes_to_aes_256_gcm %.4f ratio - -\n", f->kek * moved_kek / f->aes);
	(void)printf("data_bytes_to_aes_256_gcm %.4f ratio - -\n", f->data * moved_data / f->aes);
	double kek = f->kek / f->plain_kek, data = f->data / f->plain_data;
	bool met = judge("kek_to_plain_update", kek, "ratio", goal_kek, kek >= goal_kek);
	met = judge("data_to_plain_update", data, "ratio", goal_data, data >= goal_data) && met;
	return judge("memory", mib, "MiB", goal_mib, mib > 0 && mib <= goal_mib) && met;
}

/* ---- on a server ---- */

/* Every row that the rekey turns, in a table that InnoDB encrypts, moved from key 1 to key 2. */
static kt_code time_alter(const bench_mariadb *m, int64_t items, double *rate, kt_err *err)
{
	static const char *const setup[] = {
		"CREATE TABLE peer LIKE keyturn_item", "ALTER TABLE peer ENCRYPTED=YES ENCRYPTION_KEY_ID=1",
		"INSERT INTO peer SELECT * FROM keyturn_item", "FLUSH TABLES peer FOR EXPORT", "UNLOCK TABLES"};
	MYSQL *my = mysql_init(NULL);
	bool good = my && mysql_real_connect(my, "localhost", "root", NULL, "bench", 0, m->socket, 0);
	for (size_t i = 0; good && i < sizeof setup / sizeof setup[0]; i++)
		good = mysql_query(my, setup[i]) == 0;
	double start = now();
	good = good &&
	       mysql_query(my, "ALTER TABLE peer ENCRYPTED=YES ENCRYPTION_KEY_ID=2, ALGORITHM=INPLACE, LOCK=NONE") == 0;
	*rate = (double)items / (now() - start);
	kt_code rc =
		good ? KT_OK : kt_fail(err, KT_E_IO, NULL, "ALTER TABLE: %s", my ? mysql_error(my) : "out of memory");
	mysql_close(my);
	return rc;
}

static kt_code server_round(const char *url, pair *p, int64_t items, figures *f, kt_err *err)
{
	figures r = {0};
	pair back = {.from = p->to, .to = p->from};
	for (int i = 0; i < 2; i++) {
		KT_TRY(time_walk(url, KT_ENVELOPE_HEAD_LEN, KT_ENVELOPE_FIXED_LEN, scramble_wrap, p, items,
				 &r.plain_kek, err));
		keep(&f->plain_kek, r.plain_kek);
		KT_TRY(time_walk(url, KT_DB_WHOLE, 0, scramble_all, p, items, &r.plain_data, err));
		keep(&f->plain_data, r.plain_data);
	}
	KT_TRY(time_walk(url, KT_ENVELOPE_HEAD_LEN, KT_ENVELOPE_FIXED_LEN, rewrap, p, items, &r.kek, err));
	KT_TRY(check(url, p->to, &r.verify, err));
	KT_TRY(time_walk(url, KT_DB_WHOLE, 0, reseal, &back, items, &r.data, err));
	KT_TRY(check(url, p->from, &r.verify, err));
	KT_TRY(time_cmk(url, &r.cmk_seconds, err));
	keep(&f->kek, r.kek);
	keep(&f->data, r.data);
	keep(&f->verify, r.verify);
	if (f->cmk_seconds == 0 || r.cmk_seconds < f->cmk_seconds)
		f->cmk_seconds = r.cmk_seconds;
	return KT_OK;
}

static kt_code measure_server(const bench_mariadb *m, int64_t items, size_t bytes, figures *f, double *alter,
			      kt_err *err)
{
	kt_kek old_kek = KT_KEK_INIT, new_kek = KT_KEK_INIT;
	pair p = {0};
	kt_code rc = make_ctx(&old_kek, &p.from, err);
	if (rc == KT_OK)
		rc = make_ctx(&new_kek, &p.to, err);
	if (rc == KT_OK)
		rc = make(m->url, p.from, items, bytes, err);
	for (int i = 0; rc == KT_OK && i < rounds(items); i++)
		rc = server_round(m->url, &p, items, f, err);
	if (rc == KT_OK)
		rc = time_alter(m, items, alter, err);
	kt_envelope_ctx_free(p.from);
	kt_envelope_ctx_free(p.to);
	kt_kek_free(&old_kek);
	kt_kek_free(&new_kek);
	return rc;
}

static void report_server(const figures *f, double aes, double alter, int64_t items, size_t bytes)
{
	double moved_data = 2 * ((double)bytes + 32), moved_kek = 2 * 32;
	(void)printf("mariadb_items %lld items - -\n", (long long)items);
	(void)printf("mariadb_cmk_time %.1f ms - -\n", f->cmk_seconds * 1000);
	(void)printf("mariadb_kek_rate %.0f items/s - -\n", f->kek);
	(void)printf("mariadb_data_rate %.0f items/s - -\n", f->data);
	(void)printf("mariadb_verify_rate %.0f items/s - -\n", f->verify);
	(void)printf("mariadb_plain_update_rate_as_kek %.0f items/s - -\n", f->plain_kek);
	(void)printf("mariadb_plain_update_rate_as_data %.0f items/s - -\n", f->plain_data);
	(void)printf("mariadb_kek_to_plain_update %.2f ratio - -\n", f->kek / f->plain_kek);
	(void)printf("mariadb_data_to_plain_update %.2f ratio - -\n", f->data / f->plain_data);
	(void)printf("mariadb_kek_bytes_to_aes_256_gcm %.4f ratio - -\n", f->kek * moved_kek / aes);
	(void)printf("mariadb_data_bytes_to_aes_256_gcm %.4f ratio - -\n", f->data * moved_data / aes);
	(void)printf("mariadb_alter_key_id_rate %.0f items/s - -\n", alter);
	(void)printf("mariadb_kek_to_alter_key_id %.3f ratio - -\n", f->kek / alter);
	(void)printf("mariadb_data_to_alter_key_id %.3f ratio - -\n", f->data / alter);
}

/* After a failure the server's log stays. */
static void clear(const char *folder)
{
	char log[64];
	(void)snprintf(log, sizeof log, "%.40s/mariadb.log", folder);
	(void)unlink(log);
	(void)rmdir(folder);
}

static kt_code server(const char *folder, int64_t items, size_t bytes, double aes, kt_err *err)
{
	bench_mariadb m;
	figures f = {0};
	double alter = 0;
	if (!bench_mariadb_present()) {
		(void)fprintf(stderr, "skipped on MariaDB: the package mariadb-server is not installed\n");
		return KT_OK;
	}
	kt_code rc = bench_mariadb_start(&m, folder, err);
	if (rc == KT_OK)
		rc = measure_server(&m, items, bytes, &f, &alter, err);
	bench_mariadb_stop(&m);
	if (rc == KT_OK)
		report_server(&f, aes, alter, items, bytes);
	return rc;
}

int main(int argc, char **argv)
{
	int64_t items = argc > 1 ? strtoll(argv[1], NULL, 10) : ITEMS;
	long long bytes = argc > 2 ? strtoll(argv[2], NULL, 10) : BYTES;
	int64_t on_server = argc > 3 ? strtoll(argv[3], NULL, 10) : SERVER_ITEMS;
	char folder[] = "bench-rekey-XXXXXX";
	kt_err err = KT_ERR_INIT;
	figures f = {0};
	if (items < 1 || on_server < 1 || bytes < 0 || bytes > KT_ENVELOPE_CONTENT_MAX || !mkdtemp(folder)) {
		(void)fprintf(
			stderr,
			"usage: bench_rekey [ITEMS [BYTES [ITEMS-ON-THE-SERVER]]], in a folder that can be written\n");
		return KT_E_USAGE;
	}
	kt_code rc = kt_secret_setup(&err);
	if (rc == KT_OK)
		rc = measure(folder, items, (size_t)bytes, &f, &err);
	if (rc == KT_OK)
		rc = server(folder, on_server, (size_t)bytes, f.aes, &err);
	if (rc == KT_OK)
		clear(folder);
	if (rc != KT_OK) {
		(void)fprintf(stderr, "%s\n", err.msg);
		return (int)rc;
	}
	return report(&f, items, (size_t)bytes) ? 0 : 1;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The one file of the coordinator that calls SQLite. */
#include "orchestrator/journal/journal.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/file.h"
#include "orchestrator/journal/lock.h"
#include "orchestrator/journal/pair.h"

enum {
	APPLICATION_ID = 0x4b544a4c, /* "KTJL", in SQLite's header: tells a journal from other databases */
	BUSY_MS = 10000,             /* a reader waits so long for a commit */
	PATH_LEN = 4096,
	COLUMNS = 12
};

static const char SCHEMA[] = "CREATE TABLE entry(seq INTEGER PRIMARY KEY, run TEXT NOT NULL, epoch INTEGER NOT NULL,"
			     " time_ms INTEGER NOT NULL, kind TEXT NOT NULL, step TEXT NOT NULL, role TEXT NOT NULL,"
			     " node TEXT NOT NULL, attempt INTEGER NOT NULL, body TEXT NOT NULL, prev BLOB NOT NULL,"
			     " hash BLOB NOT NULL) STRICT";
static const char SELECT[] = "SELECT seq,run,epoch,time_ms,kind,step,role,node,attempt,body,prev,hash FROM entry"
			     " ORDER BY seq";
static const char INSERT[] = "INSERT INTO entry(seq,run,epoch,time_ms,kind,step,role,node,attempt,body,prev,hash)"
			     " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)";
static const char DAMAGED[] =
	"put the newest copy of the whole state folder in its place; without one, `keyturn status` shows "
	"what is good of it, and keyturn-recovery(7) says how to go on by hand";

static const char SHORTER[] =
	"put the newest copy of the whole state folder in its place; without one, read keyturn-recovery(7) "
	"before anything else: what the journal has lost may have been done";

struct kt_journal {
	sqlite3 *db;
	sqlite3_stmt *insert;
	int lock; /* -1: opened for reading */
	bool salvage;
	kt_err damage;      /* of one that is salvaged */
	int64_t remembered; /* how many entries it had, as journal.lock says; 0: not known */
	char path[PATH_LEN];
	int64_t seq;                 /* of the last entry */
	int64_t epoch;               /* highest of any entry */
	uint8_t head[KT_SHA256_LEN]; /* hash of the last entry */
};

/* --- SQLite's results --------------------------------------------------------------------------------------------- */

/* What to say about a failure of SQLite; `what` is what was tried. */
static kt_code db_fail(const kt_journal *j, int rc, const char *what, kt_err *err)
{
	int os = sqlite3_system_errno(j->db);
	switch (rc & 0xff) {
	case SQLITE_FULL:
		return kt_fail_errno(err, ENOSPC, NULL, "%s: %s", j->path, what);
	case SQLITE_CORRUPT:
		return kt_fail(err, KT_E_AUDIT, DAMAGED, "%s is damaged: %s: %s", j->path, what, sqlite3_errmsg(j->db));
	case SQLITE_NOTADB:
		if (j->remembered > 0)
			return kt_fail(err, KT_E_AUDIT, DAMAGED, "%s is damaged: its header is not that of a database",
				       j->path);
		return kt_fail(err, KT_E_INPUT, "give the state folder of a cluster", "%s is no journal of keyturn",
			       j->path);
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return kt_fail(err, KT_E_BUSY, "try again shortly", "%s: %s: another process is using it", j->path,
			       what);
	case SQLITE_NOMEM:
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	default:
		if (os)
			return kt_fail_errno(err, os, NULL, "%s: %s", j->path, what);
		return kt_fail(err, KT_E_IO, "check the disk, and owner and mode of the state folder", "%s: %s: %s",
			       j->path, what, sqlite3_errmsg(j->db));
	}
}

static kt_code exec(kt_journal *j, const char *sql, const char *what, kt_err *err)
{
	int rc = sqlite3_exec(j->db, sql, NULL, NULL, NULL);
	return rc == SQLITE_OK ? KT_OK : db_fail(j, rc, what, err);
}

static kt_code prepare(kt_journal *j, const char *sql, sqlite3_stmt **out, kt_err *err)
{
	int rc = sqlite3_prepare_v2(j->db, sql, -1, out, NULL);
	if (rc == SQLITE_ERROR) /* no such table or column: the file is ours by its mark, and not whole */
		return kt_fail(err, KT_E_AUDIT, DAMAGED, "%s is damaged: %s", j->path, sqlite3_errmsg(j->db));
	return rc == SQLITE_OK ? KT_OK : db_fail(j, rc, "reading it", err);
}

/* The one number that a pragma gives. */
static kt_code pragma_int(kt_journal *j, const char *sql, int64_t *out, kt_err *err)
{
	sqlite3_stmt *st = NULL;
	KT_TRY(prepare(j, sql, &st, err));
	int rc = sqlite3_step(st);
	*out = rc == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
	(void)sqlite3_finalize(st);
	return rc == SQLITE_ROW ? KT_OK : db_fail(j, rc, "reading its header", err);
}

/* --- The chain ---------------------------------------------------------------------------------------------------- */

static kt_code entry_json(const kt_entry *e, cJSON *o, kt_err *err)
{
	KT_TRY(kt_json_add_int(o, "attempt", e->attempt, err));
	KT_TRY(kt_json_add_str(o, "body", e->body, err));
	KT_TRY(kt_json_add_int(o, "epoch", e->epoch, err));
	KT_TRY(kt_json_add_str(o, "kind", e->kind, err));
	KT_TRY(kt_json_add_str(o, "node", e->node, err));
	KT_TRY(kt_json_add_str(o, "role", e->role, err));
	KT_TRY(kt_json_add_str(o, "run", e->run, err));
	KT_TRY(kt_json_add_int(o, "seq", e->seq, err));
	KT_TRY(kt_json_add_str(o, "step", e->step, err));
	return kt_json_add_int(o, "time_ms", e->time_ms, err);
}

/* SHA-256(prev ‖ canonical JSON of the other columns). */
static kt_code entry_hash(const uint8_t prev[KT_SHA256_LEN], const kt_entry *e, uint8_t out[KT_SHA256_LEN], kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	cJSON *o = cJSON_CreateObject();
	kt_code rc = o ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = entry_json(e, o, err);
	if (rc == KT_OK)
		rc = kt_buf_append(&text, prev, KT_SHA256_LEN, err);
	if (rc == KT_OK)
		rc = kt_json_canonical(o, &text, err);
	if (rc == KT_OK)
		rc = kt_sha256(text.data, text.len, out, err);
	cJSON_Delete(o);
	kt_buf_free(&text);
	return rc;
}

static kt_code broken(const kt_journal *j, int64_t seq, const char *why, kt_err *err)
{
	return kt_fail(err, KT_E_AUDIT, DAMAGED, "%s: entry %" PRId64 " %s", j->path, seq, why);
}

/* A text column as it was written: NULL when it has another type or a NUL inside. */
static const char *text_column(sqlite3_stmt *st, int i)
{
	const char *text = sqlite3_column_type(st, i) == SQLITE_TEXT ? (const char *)sqlite3_column_text(st, i) : NULL;
	return text && strlen(text) == (size_t)sqlite3_column_bytes(st, i) ? text : NULL;
}

static const uint8_t *hash_column(sqlite3_stmt *st, int i)
{
	const uint8_t *blob = sqlite3_column_blob(st, i);
	return blob && sqlite3_column_bytes(st, i) == KT_SHA256_LEN ? blob : NULL;
}

static bool read_row(sqlite3_stmt *st, kt_entry *e)
{
	*e = (kt_entry){
		.seq = sqlite3_column_int64(st, 0),
		.run = text_column(st, 1),
		.epoch = sqlite3_column_int64(st, 2),
		.time_ms = sqlite3_column_int64(st, 3),
		.kind = text_column(st, 4),
		.step = text_column(st, 5),
		.role = text_column(st, 6),
		.node = text_column(st, 7),
		.attempt = sqlite3_column_int64(st, 8),
		.body = text_column(st, 9),
	};
	return e->run && e->kind && e->step && e->role && e->node && e->body;
}

/* Where a walk over the chain has come to. */
typedef struct walk {
	int64_t seq;
	int64_t epoch;
	uint8_t head[KT_SHA256_LEN];
} walk;

static kt_code check_row(const kt_journal *j, sqlite3_stmt *st, walk *w, kt_entry *e, kt_err *err)
{
	uint8_t hash[KT_SHA256_LEN];
	bool whole = read_row(st, e);
	const uint8_t *prev = hash_column(st, 10);
	const uint8_t *own = hash_column(st, 11);
	if (e->seq != w->seq + 1)
		return broken(j, w->seq + 1, "is missing", err);
	if (!whole || !prev || !own)
		return broken(j, e->seq, "has a column of a wrong type", err);
	if (memcmp(prev, w->head, sizeof w->head) != 0)
		return broken(j, e->seq, "does not follow on the one before it: the chain of hashes is broken", err);
	KT_TRY(entry_hash(prev, e, hash, err));
	if (memcmp(own, hash, sizeof hash) != 0)
		return broken(j, e->seq, "was altered: its hash does not fit", err);
	w->seq = e->seq;
	w->epoch = e->epoch > w->epoch ? e->epoch : w->epoch;
	memcpy(w->head, hash, sizeof hash);
	return KT_OK;
}

static kt_code walk_rows(kt_journal *j, sqlite3_stmt *st, const char *run, kt_entry_cb cb, void *user, walk *w,
			 kt_err *err)
{
	for (;;) {
		kt_entry e;
		int rc = sqlite3_step(st);
		if (rc == SQLITE_DONE)
			return KT_OK;
		kt_code good =
			rc == SQLITE_ROW ? check_row(j, st, w, &e, err) : db_fail(j, rc, "reading the entries", err);
		if (good == KT_E_AUDIT && j->salvage)
			return KT_OK;
		KT_TRY(good);
		if (cb && (!run || strcmp(run, e.run) == 0))
			KT_TRY(cb(user, &e, err));
	}
}

static kt_code walk_chain(kt_journal *j, const char *run, kt_entry_cb cb, void *user, walk *w, kt_err *err)
{
	sqlite3_stmt *st = NULL;
	*w = (walk){0};
	KT_TRY(prepare(j, SELECT, &st, err));
	kt_code rc = walk_rows(j, st, run, cb, user, w, err);
	(void)sqlite3_finalize(st);
	return rc;
}

/* --- Opening ------------------------------------------------------------------------------------------------------ */

/* SQLite would make it with the mode of the umask, and gives its own files the mode of the database. */
static kt_code make_file(const char *path, kt_err *err)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be opened", path);
	(void)close(fd);
	return KT_OK;
}

static kt_code open_db(kt_journal *j, kt_journal_mode mode, kt_err *err)
{
	struct stat st;
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW;
	bool there = lstat(j->path, &st) == 0;
	if (!there && j->remembered > 0)
		return kt_fail(err, KT_E_AUDIT, DAMAGED, "%s is missing; it had %" PRId64 " entries", j->path,
			       j->remembered);
	if (!there && mode == KT_JOURNAL_READ)
		return kt_fail_errno(err, errno, "no run was begun with this state folder, or its path is wrong", "%s",
				     j->path);
	if (mode == KT_JOURNAL_READ && access(j->path, W_OK) != 0)
		flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_NOFOLLOW;
	if (mode == KT_JOURNAL_WRITE)
		KT_TRY(make_file(j->path, err));
	int rc = sqlite3_open_v2(j->path, &j->db, flags, NULL);
	if (rc != SQLITE_OK)
		return db_fail(j, rc, "opening it", err);
	(void)sqlite3_extended_result_codes(j->db, 1);
	(void)sqlite3_busy_timeout(j->db, BUSY_MS);
	KT_TRY(exec(j, "PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON", "opening it", err));
	/* EXTRA is FULL, and more where it matters. TRUNCATE: what is committed is in the one file, always. */
	if (mode == KT_JOURNAL_WRITE)
		return exec(j, "PRAGMA synchronous=EXTRA; PRAGMA journal_mode=TRUNCATE", "opening it", err);
	return KT_OK;
}

/* Is it ours, and of a format that we know? *fresh: it is empty. */
static kt_code check_mark(kt_journal *j, bool *fresh, kt_err *err)
{
	int64_t mark;
	int64_t format;
	int64_t pages;
	KT_TRY(pragma_int(j, "PRAGMA application_id", &mark, err));
	KT_TRY(pragma_int(j, "PRAGMA user_version", &format, err));
	KT_TRY(pragma_int(j, "PRAGMA page_count", &pages, err));
	*fresh = pages == 0;
	if (*fresh)
		return KT_OK;
	if (mark != APPLICATION_ID && j->remembered > 0)
		return kt_fail(err, KT_E_AUDIT, DAMAGED, "%s is damaged: its header is not that of a journal", j->path);
	if (mark != APPLICATION_ID)
		return kt_fail(err, KT_E_INPUT, "give the state folder of a cluster",
			       "%s is a database, but no journal of keyturn", j->path);
	if (format > KT_JOURNAL_FORMAT)
		return kt_fail(err, KT_E_INPUT, "use the newer keyturn that wrote it",
			       "%s has format %" PRId64 "; this keyturn knows %d", j->path, format,
			       (int)KT_JOURNAL_FORMAT);
	if (format != KT_JOURNAL_FORMAT)
		return kt_fail(err, KT_E_AUDIT, DAMAGED, "%s is damaged: format %" PRId64, j->path, format);
	return KT_OK;
}

static kt_code make_schema(kt_journal *j, kt_err *err)
{
	char mark[128];
	(void)snprintf(mark, sizeof mark, "PRAGMA application_id=%d; PRAGMA user_version=%d", (int)APPLICATION_ID,
		       (int)KT_JOURNAL_FORMAT);
	kt_code rc = exec(j, "BEGIN EXCLUSIVE", "making it", err);
	if (rc == KT_OK)
		rc = exec(j, SCHEMA, "making it", err);
	if (rc == KT_OK)
		rc = exec(j, mark, "making it", err);
	if (rc == KT_OK)
		rc = exec(j, "COMMIT", "making it", err);
	if (rc != KT_OK)
		(void)sqlite3_exec(j->db, "ROLLBACK", NULL, NULL, NULL);
	return rc == KT_OK ? kt_file_sync_folder(j->path, err) : rc;
}

/* SQLite's own check of pages and records. */
static kt_code check_pages(kt_journal *j, kt_err *err)
{
	sqlite3_stmt *st = NULL;
	KT_TRY(prepare(j, "PRAGMA integrity_check(1)", &st, err));
	int rc = sqlite3_step(st);
	const char *said = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(st, 0) : NULL;
	kt_code out = KT_OK;
	if (rc != SQLITE_ROW)
		out = db_fail(j, rc, "checking it", err);
	else if (!said || strcmp(said, "ok") != 0)
		out = kt_fail(err, KT_E_AUDIT, DAMAGED, "%s is damaged: %.200s", j->path, said ? said : "?");
	(void)sqlite3_finalize(st);
	return out;
}

static kt_code open_checked(kt_journal *j, kt_journal_mode mode, kt_err *err)
{
	bool fresh;
	walk w;
	KT_TRY(open_db(j, mode, err));
	KT_TRY(check_mark(j, &fresh, err));
	if (fresh && j->remembered > 0)
		return kt_fail(err, KT_E_AUDIT, DAMAGED, "%s is empty; it had %" PRId64 " entries", j->path,
			       j->remembered);
	if (fresh && mode == KT_JOURNAL_READ)
		return kt_fail(err, KT_E_INPUT, "no run was begun with this state folder", "%s is empty", j->path);
	if (fresh)
		KT_TRY(make_schema(j, err));
	KT_TRY(check_pages(j, err));
	KT_TRY(walk_chain(j, NULL, NULL, NULL, &w, err));
	if (w.seq < j->remembered)
		return kt_fail(err, KT_E_AUDIT, SHORTER,
			       "%s has %" PRId64 " entries, and had %" PRId64
			       ": its end is lost, or an older copy was put there",
			       j->path, w.seq, j->remembered);
	j->seq = w.seq;
	j->epoch = w.epoch;
	memcpy(j->head, w.head, sizeof j->head);
	return KT_OK;
}

static kt_code new_journal(const char *folder, kt_journal **out, kt_err *err)
{
	*out = NULL;
	kt_journal *j = calloc(1, sizeof *j);
	if (!j)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	j->lock = -1;
	if ((size_t)snprintf(j->path, sizeof j->path, "%s/journal.db", folder) >= sizeof j->path) {
		free(j);
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", folder);
	}
	*out = j;
	return KT_OK;
}

/* The rollback journal that lies there is tried on a copy: one that belongs to another database would destroy this one.
 * Where no copy can be made (a full disk), SQLite's own checks must do. */
static kt_code check_pair(const char *folder, int64_t remembered, kt_err *err)
{
	char copy[PATH_LEN];
	kt_journal *j;
	kt_err why = KT_ERR_INIT;
	if (kt_pair_copy(folder, copy, NULL) != KT_OK)
		return KT_OK;
	kt_code rc = new_journal(copy, &j, &why);
	if (rc == KT_OK) {
		j->remembered = remembered;
		rc = open_checked(j, KT_JOURNAL_READ, &why);
	}
	kt_journal_close(j);
	kt_pair_remove(copy);
	if (rc != KT_E_AUDIT && rc != KT_E_INPUT)
		return KT_OK;
	return kt_fail(
		err, KT_E_AUDIT,
		"put journal.db and journal.db-journal of one copy of the state folder there; `keyturn status` shows "
		"journal.db as it is without the other, and keyturn-recovery(7) says more",
		"%s/journal.db-journal does not fit journal.db, or one of them is damaged; neither was changed",
		folder);
}

static kt_code open_for(kt_journal *j, const char *folder, kt_journal_mode mode, kt_err *err)
{
	if (mode == KT_JOURNAL_WRITE) {
		KT_TRY(kt_file_mkdirs(folder, 0700, err));
		KT_TRY(kt_lock_take(folder, &j->lock, &j->remembered, err));
		kt_pair_sweep(folder);
	} else {
		j->remembered = kt_lock_entries(folder);
	}
	if (kt_pair_is_hot(folder) && (mode == KT_JOURNAL_WRITE || !kt_lock_held(folder)))
		KT_TRY(check_pair(folder, j->remembered, err));
	KT_TRY(open_checked(j, mode, err));
	if (mode == KT_JOURNAL_WRITE)
		kt_lock_note(j->lock, j->seq);
	return KT_OK;
}

/* As SQLite takes it: with `immutable`, which leaves a rollback journal alone. */
static kt_code immutable_uri(const char *path, kt_buf *out, kt_err *err)
{
	KT_TRY(kt_buf_str(out, "file:", err));
	for (const char *p = path; *p; p++) {
		bool plain = isalnum((unsigned char)*p) || strchr("/._-", *p);
		KT_TRY(plain ? kt_buf_append(out, p, 1, err)
			     : kt_buf_printf(out, err, "%%%02X", (unsigned)(unsigned char)*p));
	}
	return kt_buf_str(out, "?immutable=1", err);
}

/* What is good of a damaged one: the file as it is, and nothing is changed. */
static kt_code open_damaged(kt_journal *j, kt_err *err)
{
	walk w;
	kt_buf uri = KT_BUF_INIT;
	kt_code rc = immutable_uri(j->path, &uri, err);
	(void)sqlite3_close(j->db);
	j->db = NULL;
	j->salvage = true;
	if (rc == KT_OK &&
	    sqlite3_open_v2(kt_buf_cstr(&uri), &j->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL) != 0)
		rc = kt_fail(err, KT_E_AUDIT, DAMAGED, "%s", j->damage.msg);
	kt_buf_free(&uri);
	if (rc == KT_OK)
		rc = walk_chain(j, NULL, NULL, NULL, &w, err);
	if (rc == KT_OK && w.seq > 0)
		return KT_OK;
	return kt_fail(err, KT_E_AUDIT, j->damage.remedy, "%s (nothing of it can be read)", j->damage.msg);
}

kt_code kt_journal_open(const char *folder, kt_journal_mode mode, kt_journal **out, kt_err *err)
{
	kt_journal *j;
	*out = NULL;
	KT_TRY(new_journal(folder, &j, err));
	kt_code rc = open_for(j, folder, mode == KT_JOURNAL_SALVAGE ? KT_JOURNAL_READ : mode, &j->damage);
	if (rc == KT_E_AUDIT && mode == KT_JOURNAL_SALVAGE)
		rc = open_damaged(j, err);
	else if (rc != KT_OK && err)
		*err = j->damage;
	if (rc != KT_OK) {
		kt_journal_close(j);
		return rc;
	}
	*out = j;
	return KT_OK;
}

const kt_err *kt_journal_damage(const kt_journal *j)
{
	return &j->damage;
}

void kt_journal_close(kt_journal *j)
{
	if (!j)
		return;
	(void)sqlite3_finalize(j->insert);
	(void)sqlite3_close(j->db);
	if (j->lock >= 0 && j->seq > j->remembered)
		kt_lock_note(j->lock, j->seq);
	if (j->lock >= 0)
		(void)close(j->lock);
	free(j);
}

/* --- Appending ---------------------------------------------------------------------------------------------------- */

static bool is_utf8(const char *text)
{
	const unsigned char *p = (const unsigned char *)text;
	while (*p) {
		size_t more = *p < 0x80 ? 0 : *p >= 0xc2 && *p < 0xe0 ? 1 : *p >= 0xe0 && *p < 0xf0 ? 2 : 3;
		if (*p >= 0xf5 || (*p >= 0x80 && *p < 0xc2))
			return false;
		unsigned second_min = *p == 0xe0 ? 0xa0 : *p == 0xf0 ? 0x90 : 0x80;
		unsigned second_max = *p == 0xed ? 0x9f : *p == 0xf4 ? 0x8f : 0xbf;
		for (size_t i = 1; i <= more; i++)
			if (p[i] < (i == 1 ? second_min : 0x80) || p[i] > (i == 1 ? second_max : 0xbf))
				return false;
		p += more + 1;
	}
	return true;
}

/* What could not be read back must not be written. */
static kt_code check_entry(const kt_entry *e, kt_err *err)
{
	const char *texts[] = {e->run, e->kind, e->step, e->role, e->node, e->body};
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
		if (!texts[i] || !is_utf8(texts[i]))
			return kt_fail(err, KT_E_INPUT, NULL, "an entry for the journal is not whole or no UTF-8");
	if (!e->run[0] || strlen(e->run) > KT_RUN_MAX || !e->kind[0] || e->epoch < 0 || e->attempt < 0)
		return kt_fail(err, KT_E_INPUT, NULL, "an entry for the journal without run or kind");
	return KT_OK;
}

static void bind_text(sqlite3_stmt *st, int i, const char *text, int *rc)
{
	if (*rc == SQLITE_OK)
		*rc = sqlite3_bind_text(st, i, text, -1, SQLITE_STATIC);
}

static void bind_int(sqlite3_stmt *st, int i, int64_t n, int *rc)
{
	if (*rc == SQLITE_OK)
		*rc = sqlite3_bind_int64(st, i, n);
}

static void bind_hash(sqlite3_stmt *st, int i, const uint8_t hash[KT_SHA256_LEN], int *rc)
{
	if (*rc == SQLITE_OK)
		*rc = sqlite3_bind_blob(st, i, hash, KT_SHA256_LEN, SQLITE_STATIC);
}

static kt_code insert_entry(kt_journal *j, const kt_entry *e, const walk *w, const uint8_t hash[KT_SHA256_LEN],
			    kt_err *err)
{
	sqlite3_stmt *st = j->insert;
	int rc = sqlite3_reset(st);
	bind_int(st, 1, e->seq, &rc);
	bind_text(st, 2, e->run, &rc);
	bind_int(st, 3, e->epoch, &rc);
	bind_int(st, 4, e->time_ms, &rc);
	bind_text(st, 5, e->kind, &rc);
	bind_text(st, 6, e->step, &rc);
	bind_text(st, 7, e->role, &rc);
	bind_text(st, 8, e->node, &rc);
	bind_int(st, 9, e->attempt, &rc);
	bind_text(st, 10, e->body, &rc);
	bind_hash(st, 11, w->head, &rc);
	bind_hash(st, 12, hash, &rc);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(st);
	kt_code out = rc == SQLITE_DONE ? KT_OK : db_fail(j, rc, "writing an entry", err);
	(void)sqlite3_reset(st);
	(void)sqlite3_clear_bindings(st);
	return out;
}

static kt_code append_one(kt_journal *j, const kt_entry *given, walk *w, kt_err *err)
{
	uint8_t hash[KT_SHA256_LEN];
	kt_entry e = *given;
	e.seq = w->seq + 1;
	KT_TRY(check_entry(&e, err));
	KT_TRY(entry_hash(w->head, &e, hash, err));
	KT_TRY(insert_entry(j, &e, w, hash, err));
	w->seq = e.seq;
	w->epoch = e.epoch > w->epoch ? e.epoch : w->epoch;
	memcpy(w->head, hash, sizeof hash);
	return KT_OK;
}

kt_code kt_journal_append(kt_journal *j, const kt_entry *entries, size_t n, kt_err *err)
{
	walk w = {.seq = j->seq, .epoch = j->epoch};
	memcpy(w.head, j->head, sizeof w.head);
	if (j->lock < 0)
		return kt_fail(err, KT_E_INTERNAL, NULL, "%s is open for reading", j->path);
	if (n == 0)
		return KT_OK;
	if (!j->insert)
		KT_TRY(prepare(j, INSERT, &j->insert, err));
	kt_code rc = exec(j, "BEGIN IMMEDIATE", "beginning a transaction", err);
	for (size_t i = 0; rc == KT_OK && i < n; i++)
		rc = append_one(j, &entries[i], &w, err);
	if (rc == KT_OK)
		rc = exec(j, "COMMIT", "making entries durable", err);
	if (rc != KT_OK) {
		if (!sqlite3_get_autocommit(j->db))
			(void)sqlite3_exec(j->db, "ROLLBACK", NULL, NULL, NULL);
		return rc;
	}
	j->seq = w.seq;
	j->epoch = w.epoch;
	memcpy(j->head, w.head, sizeof j->head);
	return KT_OK;
}

static kt_code take_body(kt_buf *body, kt_err *err)
{
	char host[256] = "?";
	(void)gethostname(host, sizeof host - 1);
	cJSON *o = cJSON_CreateObject();
	kt_code rc = o ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "host", host, err);
	if (rc == KT_OK)
		rc = kt_json_add_int(o, "pid", getpid(), err);
	if (rc == KT_OK)
		rc = kt_json_canonical(o, body, err);
	cJSON_Delete(o);
	return rc;
}

kt_code kt_journal_take(kt_journal *j, const char *run, int64_t time_ms, int64_t *epoch, kt_err *err)
{
	kt_buf body = KT_BUF_INIT;
	*epoch = 0;
	kt_code rc = take_body(&body, err);
	/* The time, so that two copies of a state folder do not take the same epoch. */
	const kt_entry e = {.run = run,
			    .epoch = time_ms > j->epoch ? time_ms : j->epoch + 1,
			    .time_ms = time_ms,
			    .kind = "take",
			    .step = "",
			    .role = "",
			    .node = "",
			    .body = kt_buf_cstr(&body)};
	if (rc == KT_OK)
		rc = kt_journal_append(j, &e, 1, err);
	if (rc == KT_OK) {
		*epoch = e.epoch;
		kt_lock_note(j->lock, j->seq);
	}
	kt_buf_free(&body);
	return rc;
}

/* --- Reading ------------------------------------------------------------------------------------------------------ */

kt_code kt_journal_read(kt_journal *j, const char *run, kt_entry_cb cb, void *user, kt_err *err)
{
	walk w;
	return walk_chain(j, run, cb, user, &w, err);
}

kt_code kt_journal_verify(kt_journal *j, int64_t *entries, char head[65], kt_err *err)
{
	walk w;
	kt_buf hex = KT_BUF_INIT;
	KT_TRY(check_pages(j, err));
	KT_TRY(walk_chain(j, NULL, NULL, NULL, &w, err));
	kt_code rc = kt_hex_encode(w.head, sizeof w.head, &hex, err);
	if (rc == KT_OK && head)
		(void)snprintf(head, 65, "%s", kt_buf_cstr(&hex));
	if (rc == KT_OK && entries)
		*entries = w.seq;
	kt_buf_free(&hex);
	return rc;
}

typedef struct runs {
	kt_run_info *list;
	size_t n, cap;
} runs;

/* The newest run is the likeliest; there are few. */
static kt_run_info *find_run(runs *r, const char *run)
{
	for (size_t i = r->n; i-- > 0;)
		if (strcmp(r->list[i].run, run) == 0)
			return &r->list[i];
	return NULL;
}

static kt_code add_run(runs *r, const kt_entry *e, kt_run_info **out, kt_err *err)
{
	if (r->n == r->cap) {
		size_t cap = r->cap ? 2 * r->cap : 8;
		kt_run_info *list = realloc(r->list, cap * sizeof *list);
		if (!list)
			return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
		r->list = list;
		r->cap = cap;
	}
	*out = &r->list[r->n++];
	**out = (kt_run_info){.begun_ms = e->time_ms, .state = "open"};
	(void)snprintf((*out)->run, sizeof(*out)->run, "%s", e->run);
	return KT_OK;
}

static kt_code note_end(kt_run_info *i, const kt_entry *e, kt_err *err)
{
	cJSON *body = NULL;
	const char *state = "";
	const char *message = "";
	kt_code rc = kt_json_parse("the entry `end`", e->body, strlen(e->body), &body, err);
	if (rc == KT_OK)
		rc = kt_json_str(body, "state", &state, err);
	if (rc == KT_OK)
		rc = kt_json_opt_str(body, "message", "", &message, err);
	if (rc == KT_OK) {
		(void)snprintf(i->state, sizeof i->state, "%s", state);
		(void)snprintf(i->message, sizeof i->message, "%s", message);
	}
	cJSON_Delete(body);
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, KT_E_AUDIT, "entry %" PRId64, e->seq);
}

static kt_code note_run(void *user, const kt_entry *e, kt_err *err)
{
	runs *r = user;
	kt_run_info *i = find_run(r, e->run);
	if (!i)
		KT_TRY(add_run(r, e, &i, err));
	i->last_ms = e->time_ms;
	i->entries++;
	if (strcmp(e->kind, "take") == 0) {
		i->epoch = e->epoch;
		(void)snprintf(i->state, sizeof i->state, "open");
		i->message[0] = '\0';
	}
	return strcmp(e->kind, "end") == 0 ? note_end(i, e, err) : KT_OK;
}

kt_code kt_journal_runs(kt_journal *j, kt_run_info **out, size_t *n, kt_err *err)
{
	runs r = {0};
	kt_code rc = kt_journal_read(j, NULL, note_run, &r, err);
	if (rc != KT_OK) {
		free(r.list);
		r = (runs){0};
	}
	*out = r.list;
	*n = r.n;
	return rc;
}

kt_code kt_journal_latest(kt_journal *j, kt_run_info *out, kt_err *err)
{
	kt_run_info *list;
	size_t n;
	KT_TRY(kt_journal_runs(j, &list, &n, err));
	kt_code rc = n ? KT_OK : kt_fail(err, KT_E_REFUSED, "begin one with `keyturn run`", "%s has no run", j->path);
	if (n)
		*out = list[n - 1];
	free(list);
	return rc;
}

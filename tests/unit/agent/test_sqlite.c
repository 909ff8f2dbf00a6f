/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite databases in a backup: copied under a living writer, after one that was killed, and what is refused. */
#include <signal.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>

#include "agent/archive.h"
#include "agent/sqlite.h"
#include "base/clock.h"
#include "tests/unit/agent/scratch.h"

enum { ROWS = 250, AGREE = 1, TORN = 0 };

/* --- databases ------------------------------------------------------------------------------------------------- */

static sqlite3 *open_db(const char *path)
{
	sqlite3 *db = NULL;
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_busy_timeout(db, 20000), SQLITE_OK);
	return db;
}

static void run_sql(sqlite3 *db, const char *sql)
{
	char *why = NULL;
	if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK)
		fail_msg("%s: %s", sql, why);
}

/* The number that a query gives; -1: it fails. */
static int64_t ask(const char *path, const char *sql)
{
	sqlite3 *db = NULL;
	sqlite3_stmt *s = NULL;
	int64_t n = -1;
	if (sqlite3_open(path, &db) == SQLITE_OK && sqlite3_prepare_v2(db, sql, -1, &s, NULL) == SQLITE_OK &&
	    sqlite3_step(s) == SQLITE_ROW)
		n = sqlite3_column_int64(s, 0);
	(void)sqlite3_finalize(s);
	(void)sqlite3_close(db);
	return n;
}

/* Two tables at both ends of the file, each row with the same value. */
static void make_db(const char *path, const char *mode)
{
	char sql[200];
	sqlite3 *db = open_db(path);
	(void)snprintf(sql, sizeof sql, "PRAGMA journal_mode=%s", mode);
	run_sql(db, sql);
	run_sql(db, "CREATE TABLE a(id INTEGER PRIMARY KEY, n INT, pad BLOB); CREATE TABLE b(id INTEGER PRIMARY KEY, n "
		    "INT, pad "
		    "BLOB)");
	(void)snprintf(sql, sizeof sql, "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i<%d) ",
		       (int)ROWS);
	char both[600];
	(void)snprintf(both, sizeof both,
		       "BEGIN; %s INSERT INTO a SELECT i, 0, zeroblob(900) FROM c; %s INSERT INTO b SELECT i, 0, "
		       "zeroblob(900) "
		       "FROM c; COMMIT",
		       sql, sql);
	run_sql(db, both);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static const char agreement[] =
	"SELECT (SELECT count(DISTINCT n) FROM (SELECT n FROM a UNION ALL SELECT n FROM b)) = 1";

static bool is_whole(const char *path)
{
	return ask(path, agreement) == AGREE && ask(path, "SELECT quick_check = 'ok' FROM pragma_quick_check(1)") == 1;
}

/* A process that sets every row of both tables to the next number, one transaction after the other. */
static pid_t start_writer(const char *path)
{
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails must not leave it behind */
	sqlite3 *db = NULL;
	if (sqlite3_open(path, &db) != SQLITE_OK || sqlite3_busy_timeout(db, 20000) != SQLITE_OK)
		_exit(1);
	while (sqlite3_exec(db, "BEGIN IMMEDIATE; UPDATE a SET n=n+1; UPDATE b SET n=n+1; COMMIT", NULL, NULL, NULL) ==
	       SQLITE_OK)
		;
	_exit(1);
}

static void end_writer(pid_t pid)
{
	int status;
	assert_int_equal(waitpid(pid, &status, WNOHANG), 0); /* it has written to the end */
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
}

/* As cp does it, on a slow disk. */
static void copy_plainly(const char *from, const char *to)
{
	static uint8_t piece[16384];
	int in = open(from, O_RDONLY | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(in >= 0 && out >= 0);
	for (ssize_t n = read(in, piece, sizeof piece); n > 0; n = read(in, piece, sizeof piece)) {
		assert_int_equal(write(out, piece, (size_t)n), n);
		(void)nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
	}
	assert_int_equal(close(in), 0);
	assert_int_equal(close(out), 0);
}

/* --- backups of them ------------------------------------------------------------------------------------------- */

static kt_code try_backup(const kt_archive_hooks *hooks, kt_archive_made *made, kt_err *err)
{
	static char top[PATH_MAX];
	(void)snprintf(top, sizeof top, "%s", at("top"));
	const kt_archive_source source = {.top = top};
	return kt_archive_create(at("b/backup.tar.zst"), &source, &(kt_archive_how){.hooks = hooks}, made, err);
}

static kt_archive_made backup(void)
{
	kt_err err = KT_ERR_INIT;
	kt_archive_made made;
	assert_kt_ok(try_backup(NULL, &made, &err));
	return made;
}

/* Unpacked below "x". */
static void unpack(const kt_archive_made *made)
{
	kt_err err = KT_ERR_INIT;
	kt_archive_reader *r = NULL;
	kt_manifest m;
	assert_kt_ok(kt_tree_remove(at("x"), &err));
	put_folder("x", 0700);
	assert_kt_ok(kt_archive_open(at("b/backup.tar.zst"), made->sha256, NULL, &r, &err));
	assert_kt_ok(kt_archive_extract(r, at("x"), NULL, NULL, &m, &err));
	kt_manifest_free(&m);
	kt_archive_close(r);
}

static const char *unpacked(const char *name)
{
	static char path[4 * PATH_MAX];
	(void)snprintf(path, sizeof path, "%s%s", at("x"), at(name));
	return path;
}

static bool is_unpacked(const char *name)
{
	struct stat st;
	return lstat(unpacked(name), &st) == 0;
}

static void put_back(const kt_archive_made *made)
{
	kt_err err = KT_ERR_INIT;
	kt_archive_reader *r = NULL;
	kt_manifest m;
	uint64_t written;
	assert_kt_ok(kt_archive_open(at("b/backup.tar.zst"), made->sha256, NULL, &r, &err));
	assert_kt_ok(kt_archive_verify(r, NULL, &m, &err));
	assert_kt_ok(kt_archive_restore(r, &m, NULL, 0, NULL, &written, &err));
	kt_manifest_free(&m);
	kt_archive_close(r);
}

/* Nothing but the archive is there, whatever happened. */
static void assert_nothing_left(bool archive)
{
	if (!archive)
		assert_false(is_there("b/backup.tar.zst"));
	(void)unlink(at("b/backup.tar.zst"));
	assert_true(rmdir(at("b")) == 0 || errno == ENOENT);
}

/* --- tests ----------------------------------------------------------------------------------------------------- */

static void under_a_writer(const char *mode)
{
	put_folder("top", 0755);
	make_db(at("top/app.db"), mode);
	pid_t writer = start_writer(at("top/app.db"));
	bool torn = false;
	for (int i = 0; i < 50 && !torn; i++) {
		copy_plainly(at("top/app.db"), at("plain.db"));
		torn = !is_whole(at("plain.db"));
	}
	int64_t last = -1;
	for (int i = 0; i < 3; i++) {
		kt_archive_made made = backup();
		unpack(&made);
		assert_true(is_whole(unpacked("top/app.db")));
		int64_t n = ask(unpacked("top/app.db"), "SELECT n FROM a LIMIT 1");
		assert_true(n >= last);
		last = n;
	}
	end_writer(writer);
	assert_true(torn);     /* else this test shows nothing */
	assert_true(last > 0); /* what was written is in it */
	assert_false(is_unpacked("top/app.db-wal") || is_unpacked("top/app.db-shm") ||
		     is_unpacked("top/app.db-journal"));
	assert_nothing_left(true);
}

static void test_a_writer_with_a_rollback_journal(void **state)
{
	(void)state;
	under_a_writer("DELETE");
}

static void test_a_writer_with_a_wal(void **state)
{
	(void)state;
	under_a_writer("WAL");
}

/* A process that is gone in the middle of a transaction, after having written to the database. */
static void die_in_a_transaction(const char *path)
{
	pid_t pid = fork();
	if (pid == 0) {
		sqlite3 *db = NULL;
		if (sqlite3_open(path, &db) == SQLITE_OK &&
		    sqlite3_exec(
			    db,
			    "PRAGMA cache_size=2; PRAGMA cache_spill=2; BEGIN; UPDATE a SET n=7, pad=randomblob(900)",
			    NULL, NULL, NULL) == SQLITE_OK)
			(void)kill(getpid(), SIGKILL);
		_exit(1);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
}

/* A process that is gone after a transaction that is in the log alone. */
static void die_with_a_log(const char *path)
{
	pid_t pid = fork();
	if (pid == 0) {
		sqlite3 *db = NULL;
		if (sqlite3_open(path, &db) == SQLITE_OK &&
		    sqlite3_exec(db, "PRAGMA wal_autocheckpoint=0; BEGIN; UPDATE a SET n=8; UPDATE b SET n=8; COMMIT",
				 NULL, NULL, NULL) == SQLITE_OK)
			(void)kill(getpid(), SIGKILL);
		_exit(1);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
}

static void digest_of(const char *name, char out[KT_SHA256_HEX])
{
	kt_err err = KT_ERR_INIT;
	kt_buf bytes = {.max = (size_t)1 << 30};
	assert_kt_ok(kt_file_read(at(name), &bytes, &err));
	assert_kt_ok(kt_sha256_hex(bytes.data, bytes.len, out, &err));
	kt_buf_free(&bytes);
}

/* The backup has `n` in every row, and neither the database nor its journal was changed. */
static void assert_backup_reads(const char *journal, int64_t n)
{
	char was[2][KT_SHA256_HEX];
	char is[2][KT_SHA256_HEX];
	digest_of("top/app.db", was[0]);
	digest_of(journal, was[1]);
	kt_archive_made made = backup();
	digest_of("top/app.db", is[0]);
	digest_of(journal, is[1]);
	assert_string_equal(was[0], is[0]);
	assert_string_equal(was[1], is[1]);
	unpack(&made);
	assert_false(is_unpacked(journal));
	assert_true(is_whole(unpacked("top/app.db")));
	assert_int_equal(ask(unpacked("top/app.db"), "SELECT max(n) FROM a"), n);
	assert_nothing_left(true);
}

static void test_a_hot_journal(void **state)
{
	(void)state;
	put_folder("top", 0755);
	make_db(at("top/app.db"), "DELETE");
	die_in_a_transaction(at("top/app.db"));
	assert_true(is_there("top/app.db-journal"));
	copy_plainly(at("top/app.db"), at("plain.db"));
	assert_false(is_whole(at("plain.db"))); /* the journal is needed */
	assert_backup_reads("top/app.db-journal", 0);
}

static void test_a_log_that_was_left(void **state)
{
	(void)state;
	put_folder("top", 0755);
	make_db(at("top/app.db"), "WAL");
	die_with_a_log(at("top/app.db"));
	copy_plainly(at("top/app.db"), at("plain.db"));
	assert_int_equal(ask(at("plain.db"), "SELECT max(n) FROM a"), 0); /* the log is needed */
	assert_backup_reads("top/app.db-wal", 8);
	assert_int_equal(ask(unpacked("top/app.db"), "SELECT journal_mode = 'wal' FROM pragma_journal_mode"), 1);
}

/* As on a file system that is mounted read-only: the shared memory of a log cannot be made there. */
static void test_a_log_that_cannot_be_opened_in_place(void **state)
{
	(void)state;
	put_folder("top", 0755);
	make_db(at("top/app.db"), "WAL");
	die_with_a_log(at("top/app.db"));
	(void)unlink(at("top/app.db-shm"));
	put_folder("top/app.db-shm", 0755);
	assert_backup_reads("top/app.db-wal", 8);
}

/* What is put back is what was saved, though a later log of the same database lies there. */
static void test_a_later_log_is_not_played_into_what_is_restored(void **state)
{
	(void)state;
	put_folder("top", 0755);
	make_db(at("top/app.db"), "WAL");
	kt_archive_made made = backup();
	die_with_a_log(at("top/app.db"));
	assert_true(is_there("top/app.db-wal"));
	put_back(&made);
	assert_true(is_whole(at("top/app.db")));
	assert_int_equal(ask(at("top/app.db"), "SELECT max(n) FROM a"), 0);
}

static void test_it_keeps_its_owner_mode_and_attributes(void **state)
{
	(void)state;
	struct stat was;
	struct stat is;
	char value[8] = "";
	put_folder("top", 0755);
	make_db(at("top/app.db"), "DELETE");
	assert_int_equal(chmod(at("top/app.db"), 0640), 0);
	if (geteuid() == 0)
		assert_int_equal(chown(at("top/app.db"), 12, 34), 0);
	bool xattr = setxattr(at("top/app.db"), "user.kt", "value", 5, 0) == 0;
	assert_int_equal(lstat(at("top/app.db"), &was), 0);
	kt_archive_made made = backup();
	assert_int_equal(unlink(at("top/app.db")), 0);
	put_back(&made);
	assert_int_equal(lstat(at("top/app.db"), &is), 0);
	assert_int_equal(is.st_mode, was.st_mode);
	assert_int_equal(is.st_uid, was.st_uid);
	assert_int_equal(is.st_gid, was.st_gid);
	assert_int_equal(is.st_mtim.tv_sec, was.st_mtim.tv_sec);
	if (xattr)
		assert_int_equal(getxattr(at("top/app.db"), "user.kt", value, sizeof value), 5);
}

static void test_a_lock_that_stays(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_archive_made made;
	int ready[2];
	put_folder("top", 0755);
	make_db(at("top/app.db"), "DELETE");
	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		sqlite3 *db = NULL;
		if (sqlite3_open(at("top/app.db"), &db) != SQLITE_OK ||
		    sqlite3_exec(db, "BEGIN EXCLUSIVE", NULL, NULL, NULL) != SQLITE_OK || write(ready[1], "", 1) != 1)
			_exit(1);
		(void)pause();
		_exit(0);
	}
	char byte;
	assert_int_equal(read(ready[0], &byte, 1), 1);
	int64_t began = kt_clock_mono_ms();
	assert_int_equal(try_backup(NULL, &made, &err), KT_E_REFUSED);
	assert_in_range(kt_clock_mono_ms() - began, 4000, 30000);
	assert_non_null(strstr(err.msg, "top/app.db is locked by another process"));
	assert_nothing_left(false);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	(void)close(ready[0]);
	(void)close(ready[1]);
}

static void overwrite(const char *name, off_t offset, const void *bytes, size_t n)
{
	int fd = open(at(name), O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, n, offset), n);
	assert_int_equal(close(fd), 0);
}

static void test_a_damaged_one_is_named(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_archive_made made;
	uint8_t noise[4096];
	memset(noise, 0xa5, sizeof noise);
	put_folder("top", 0755);
	make_db(at("top/app.db"), "DELETE");
	overwrite("top/app.db", 20 * 4096, noise, sizeof noise);
	assert_int_equal(try_backup(NULL, &made, &err), KT_E_REFUSED);
	assert_non_null(strstr(err.msg, "top/app.db is a damaged SQLite database"));
	assert_non_null(strstr(err.remedy, "exclude"));
	assert_nothing_left(false);
}

/* It begins as one: kept byte for byte, but not where it was named as the database. */
static void test_what_only_looks_like_one(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_archive_made made;
	char note[2048] = "SQLite format 3";
	memset(note + 16, 'x', sizeof note - 16);
	put_folder("top", 0755);
	put_bytes("top/note", note, sizeof note, 0600);
	made = backup();
	unpack(&made);
	struct stat st;
	assert_int_equal(lstat(unpacked("top/note"), &st), 0);
	assert_int_equal(st.st_size, sizeof note);
	char named[PATH_MAX];
	(void)snprintf(named, sizeof named, "%s", at("top/note"));
	const char *paths[] = {named};
	const kt_archive_source source = {.paths = paths, .path_n = 1};
	assert_int_equal(kt_archive_create(at("b/backup.tar.zst"), &source, NULL, &made, &err), KT_E_REFUSED);
	assert_non_null(strstr(err.msg, "SQLite says that it is none"));
}

/* What its schema uses and only its application has (a collation, a function, a module) does not hinder. */
static void test_what_only_its_application_knows(void **state)
{
	(void)state;
	put_folder("top", 0755);
	make_db(at("top/app.db"), "DELETE");
	sqlite3 *db = open_db(at("top/app.db"));
	run_sql(db, "PRAGMA writable_schema=ON;"
		    "UPDATE sqlite_schema SET sql='CREATE TABLE b(id INTEGER PRIMARY KEY, n INT COLLATE looker "
		    "CHECK(own(n)), pad BLOB)'"
		    " WHERE name='b'");
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	db = open_db(at("top/app.db"));
	assert_int_not_equal(sqlite3_exec(db, "SELECT * FROM b ORDER BY n", NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	kt_archive_made made = backup();
	unpack(&made);
	assert_int_equal(ask(unpacked("top/app.db"), "SELECT count(*) FROM b"), ROWS);
}

static kt_code stop_at_once(void *arg, uint64_t done, uint64_t total, kt_err *err)
{
	(void)total;
	(void)arg;
	return done ? kt_fail(err, KT_E_INTERRUPTED, NULL, "stopped") : KT_OK;
}

static void test_it_can_be_stopped(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_archive_made made;
	const kt_archive_hooks hooks = {.progress = stop_at_once};
	put_folder("top", 0755);
	make_db(at("top/app.db"), "DELETE");
	assert_int_equal(try_backup(&hooks, &made, &err), KT_E_INTERRUPTED);
	assert_nothing_left(false);
}

/* Enough room for the archive and not for the copy: said before; filled up meanwhile: said then. */
static void test_a_full_disk(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	struct stat folder;
	struct stat st;
	int fd;
	put_folder("top", 0755);
	put_folder("b", 0755);
	make_db(at("top/app.db"), "DELETE");
	if (geteuid() != 0 || mount("tmpfs", at("b"), "tmpfs", 0, "size=256k") != 0) {
		print_message("skipped: a small file system needs root\n");
		skip();
	}
	int folder_fd = open(at("top"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(fstat(folder_fd, &folder), 0);
	assert_int_equal(fstatat(folder_fd, "app.db", &st, 0), 0);
	const kt_tree_item item = {.path = at("top/app.db"),
				   .name = "app.db",
				   .base = "app.db",
				   .folder_fd = folder_fd,
				   .in = &folder,
				   .st = &st};
	kt_code rc = kt_sqlite_copy(&item, &(kt_sqlite_how){.beside = at("b/x")}, &fd, &err);
	kt_archive_made made;
	kt_err early = KT_ERR_INIT;
	kt_code refused = try_backup(NULL, &made, &early);
	assert_int_equal(umount(at("b")), 0);
	assert_int_equal(close(folder_fd), 0);
	assert_int_equal(rc, KT_E_IO);
	assert_int_equal(fd, -1);
	assert_non_null(strstr(err.msg, "no room for its copy"));
	assert_int_equal(refused, KT_E_IO);
	assert_non_null(strstr(early.msg, "are free"));
}

/* A copy needs room beside the archive, and holds what is in the log. */
static void test_what_is_measured(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_archive_size size;
	struct stat db;
	struct stat wal;
	put_folder("top", 0755);
	put_text("top/other", "12345", 0600);
	make_db(at("top/app.db"), "WAL");
	die_with_a_log(at("top/app.db"));
	assert_int_equal(stat(at("top/app.db"), &db), 0);
	assert_int_equal(stat(at("top/app.db-wal"), &wal), 0);
	const kt_archive_source source = {.top = at("top")};
	assert_kt_ok(kt_archive_measure(&source, &size, &err));
	assert_int_equal(size.files, 2);
	assert_int_equal(size.copy, db.st_size + wal.st_size);
	assert_int_equal(size.bytes, size.copy + 5);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_drop)
int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_writer_with_a_rollback_journal),
		TEST(test_a_writer_with_a_wal),
		TEST(test_a_hot_journal),
		TEST(test_a_log_that_was_left),
		TEST(test_a_log_that_cannot_be_opened_in_place),
		TEST(test_a_later_log_is_not_played_into_what_is_restored),
		TEST(test_it_keeps_its_owner_mode_and_attributes),
		TEST(test_a_lock_that_stays),
		TEST(test_a_damaged_one_is_named),
		TEST(test_what_only_looks_like_one),
		TEST(test_what_only_its_application_knows),
		TEST(test_it_can_be_stopped),
		TEST(test_a_full_disk),
		TEST(test_what_is_measured),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A journal that was damaged, cut, deleted, put back from an older copy, or lies beside another one's rollback journal:
 * it is said, nothing is changed, and what is good of it can be read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "tests/sim/vfs.h"
#include "tests/unit/journal/entries.h"

enum { ENTRIES = 60, BATCH = 6, PAGE = 4096, CALLS = 14 };

static char folder[64];
static char db[100];
static char hot[100];
static char lock[100];

static int fresh(void **state)
{
	(void)state;
	(void)snprintf(folder, sizeof folder, "damage.XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	(void)snprintf(db, sizeof db, "%s/journal.db", folder);
	(void)snprintf(hot, sizeof hot, "%s/journal.db-journal", folder);
	(void)snprintf(lock, sizeof lock, "%s/journal.lock", folder);
	return 0;
}

static int tidy(void **state)
{
	(void)state;
	(void)remove(db);
	(void)remove(hot);
	(void)remove(lock);
	return rmdir(folder); /* nothing else was left there */
}

/* --- Files -------------------------------------------------------------------------------------------------------- */

static kt_buf slurp(const char *path)
{
	kt_buf b = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	if (kt_file_read(path, &b, &err) != KT_OK)
		fail_msg("%s", err.msg);
	return b;
}

static void spill(const char *path, const void *bytes, size_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(kt_file_write_all(fd, bytes, n, path, NULL), KT_OK);
	(void)close(fd);
}

static void same_as(const char *path, const kt_buf *b)
{
	kt_buf now = slurp(path);
	assert_int_equal(now.len, b->len);
	assert_memory_equal(now.data, b->data, b->len);
	kt_buf_free(&now);
}

/* --- Opening ------------------------------------------------------------------------------------------------------ */

static void write_entries(int64_t first, int64_t last)
{
	kt_journal *j;
	kt_err err = KT_ERR_INIT;
	if (kt_journal_open(folder, KT_JOURNAL_WRITE, &j, &err) != KT_OK)
		fail_msg("%s", err.msg);
	for (int64_t n = first; n <= last; n += BATCH)
		assert_int_equal(entries_append(j, n, BATCH, &err), KT_OK);
	kt_journal_close(j);
}

static kt_code try(kt_journal_mode mode, int64_t *entries, kt_err *err)
{
	kt_journal *j;
	*entries = 0;
	*err = KT_ERR_INIT;
	kt_code rc = kt_journal_open(folder, mode, &j, err);
	if (rc == KT_OK)
		rc = kt_journal_read(j, NULL, entries_compare, entries, err);
	if (rc == KT_OK && mode == KT_JOURNAL_SALVAGE)
		*err = *kt_journal_damage(j);
	kt_journal_close(j);
	return rc;
}

/* Damage, for a coordinator and for a reader; it says `says` and leads on. */
static void damaged(const char *says)
{
	static const kt_journal_mode modes[] = {KT_JOURNAL_WRITE, KT_JOURNAL_READ};
	for (size_t i = 0; i < 2; i++) {
		int64_t n;
		kt_err err;
		assert_int_equal(try(modes[i], &n, &err), KT_E_AUDIT);
		if (!strstr(err.msg, says) || !strstr(err.remedy, "keyturn-recovery(7)"))
			fail_msg("\"%s\" (%s) does not say \"%s\"", err.msg, err.remedy, says);
	}
}

/* What is good of it: `entries` of them (-1: as many as there are), each as it was written. */
static int64_t salvaged(int64_t entries)
{
	int64_t n;
	kt_err err;
	kt_code rc = try(KT_JOURNAL_SALVAGE, &n, &err);
	if (rc == KT_OK && (entries >= 0 ? n != entries : n > ENTRIES))
		fail_msg("%d entries are good", (int)n);
	if (rc != KT_OK && (rc != KT_E_AUDIT || entries > 0 || !strstr(err.msg, "nothing of it can be read")))
		fail_msg("%s", err.msg);
	assert_true(err.msg[0]);
	return n;
}

static void opens(int64_t entries)
{
	int64_t n;
	kt_err err;
	if (try(KT_JOURNAL_WRITE, &n, &err) != KT_OK)
		fail_msg("%s", err.msg);
	assert_int_equal(n, entries);
}

/* --- Damage ------------------------------------------------------------------------------------------------------- */

static void test_a_sound_one(void **state)
{
	(void)state;
	int64_t n;
	kt_err err;
	write_entries(1, ENTRIES);
	assert_int_equal(try(KT_JOURNAL_SALVAGE, &n, &err), KT_OK);
	assert_int_equal(n, ENTRIES);
	assert_int_equal(err.code, KT_OK);
}

/* A sector of each page is overwritten: the entries before it are there. */
static void test_any_page(void **state)
{
	(void)state;
	int64_t most = 0, n;
	kt_err err;
	size_t seen = 0;
	write_entries(1, ENTRIES);
	kt_buf good = slurp(db);
	for (size_t at = 0; at < good.len; at += PAGE) {
		kt_buf bad = slurp(db);
		memset(bad.data + at + PAGE / 2, 0x5a, PAGE / 2);
		spill(db, bad.data, bad.len);
		kt_buf_free(&bad);
		if (try(KT_JOURNAL_READ, &n, &err) != KT_OK) {
			damaged("");
			int64_t whole = salvaged(-1);
			most = whole > most ? whole : most;
			seen++;
		}
		spill(db, good.data, good.len);
	}
	assert_true(seen > good.len / PAGE / 2);
	assert_true(most > ENTRIES / 2); /* damage near the end leaves most of it */
	opens(ENTRIES);
	kt_buf_free(&good);
}

static void test_header(void **state)
{
	(void)state;
	write_entries(1, ENTRIES);
	kt_buf good = slurp(db);
	good.data[3] ^= 0xff;
	spill(db, good.data, good.len);
	damaged("header");
	salvaged(0);
	good.data[3] ^= 0xff;
	memset(good.data + 68, 0, 4); /* application_id, SQLite file format 1.3 */
	spill(db, good.data, good.len);
	damaged("header");
	salvaged(ENTRIES); /* the entries are all there, and say so */
	same_as(db, &good);
	kt_buf_free(&good);
}

static void test_cut(void **state)
{
	(void)state;
	write_entries(1, ENTRIES);
	kt_buf good = slurp(db);
	for (size_t n = 1; n < good.len; n += PAGE / 2 + 1) {
		spill(db, good.data, n);
		damaged("");
		(void)salvaged(-1);
	}
	spill(db, good.data, good.len);
	opens(ENTRIES);
	kt_buf_free(&good);
}

static void test_emptied_and_deleted(void **state)
{
	(void)state;
	write_entries(1, ENTRIES);
	kt_buf good = slurp(db);
	spill(db, "", 0);
	damaged("is empty; it had 60 entries");
	salvaged(0);
	assert_int_equal(remove(db), 0);
	damaged("is missing; it had 60 entries");
	salvaged(0);
	assert_int_equal(access(db, F_OK), -1); /* no new one was made */
	assert_int_equal(remove(lock), 0);
	opens(0);
	kt_buf_free(&good);
}

static void test_an_older_copy(void **state)
{
	(void)state;
	write_entries(1, ENTRIES / 2);
	kt_buf older = slurp(db);
	write_entries(ENTRIES / 2 + 1, ENTRIES);
	kt_buf newer = slurp(db);
	spill(db, older.data, older.len);
	damaged("has 30 entries, and had 60");
	salvaged(ENTRIES / 2);
	assert_int_equal(remove(lock), 0); /* a person says: this is all that there is */
	opens(ENTRIES / 2);
	spill(db, newer.data, newer.len);
	opens(ENTRIES);
	kt_buf_free(&older);
	kt_buf_free(&newer);
}

/* --- Died in the middle of a commit --------------------------------------------------------------------------------
 */

/* Database and rollback journal of a coordinator that was killed after `calls` calls of the commit that follows
 * `entries` entries; false when the commit was over by then. */
static bool killed_in_commit(int64_t entries, size_t calls, kt_buf *base, kt_buf *rollback)
{
	kt_journal *j;
	kt_err err = KT_ERR_INIT;
	const uint8_t *bytes;
	size_t n;
	assert_true(vfs_register());
	vfs_reset();
	(void)remove(lock);
	(void)remove(hot);
	write_entries(1, entries);
	assert_int_equal(kt_journal_open(folder, KT_JOURNAL_WRITE, &j, &err), KT_OK);
	vfs_stop_after(calls);
	bool over = entries_append(j, entries + 1, BATCH, &err) == KT_OK;
	kt_journal_close(j);
	vfs_settle();
	assert_true(vfs_get(db, &bytes, &n));
	assert_int_equal(kt_buf_append(base, bytes, n, &err), KT_OK);
	if (vfs_get(hot, &bytes, &n))
		assert_int_equal(kt_buf_append(rollback, bytes, n, &err), KT_OK);
	assert_true(vfs_use_real());
	return !over;
}

/* `base` and `rollback` lie in the folder; no coordinator has been there. */
static void lay(const kt_buf *base, const kt_buf *rollback)
{
	(void)remove(lock);
	(void)remove(hot);
	spill(db, base->data, base->len);
	if (rollback)
		spill(hot, rollback->data, rollback->len);
}

/* Either all that was sure is there, with the batch under way or without it, or it is said that it is damaged. */
static bool whole_or_told(void)
{
	int64_t n;
	kt_err err;
	kt_code rc = try(KT_JOURNAL_WRITE, &n, &err);
	if (rc == KT_OK && n != ENTRIES && n != ENTRIES + BATCH)
		fail_msg("%d entries", (int)n);
	if (rc != KT_OK && rc != KT_E_AUDIT && rc != KT_E_INPUT)
		fail_msg("%s", err.msg);
	return rc == KT_OK;
}

static void test_its_own_rollback_journal(void **state)
{
	(void)state;
	size_t used = 0;
	for (size_t calls = 0; calls < CALLS; calls++) {
		kt_buf base = KT_BUF_INIT, rollback = KT_BUF_INIT;
		(void)killed_in_commit(ENTRIES, calls, &base, &rollback);
		used += rollback.len > 0;
		lay(&base, &rollback);
		assert_true(whole_or_told());
		lay(&base, NULL); /* lost: the database may be half written */
		(void)whole_or_told();
		for (size_t n = 1; n < rollback.len; n += 511) {
			kt_buf cut = rollback;
			cut.len = n;
			lay(&base, &cut);
			(void)whole_or_told();
		}
		kt_buf_free(&base);
		kt_buf_free(&rollback);
	}
	assert_true(used > 3);
}

/* The latest moment at which the commit is not over: the journal is complete. */
static void complete_pair(int64_t entries, kt_buf *base, kt_buf *rollback)
{
	for (size_t calls = 1; calls < 40; calls++) {
		kt_buf b = KT_BUF_INIT, r = KT_BUF_INIT;
		bool middle = killed_in_commit(entries, calls, &b, &r) && r.len > 0;
		kt_buf_free(base);
		kt_buf_free(rollback);
		*base = b;
		*rollback = r;
		if (!middle && calls > 4)
			return;
		if (middle && r.len > 3 * PAGE && r.data[11]) /* nRec, SQLite file format 3 */
			return;
	}
	fail_msg("no commit in the middle");
}

static void test_another_ones_rollback_journal(void **state)
{
	(void)state;
	kt_buf base = KT_BUF_INIT, rollback = KT_BUF_INIT, other = KT_BUF_INIT, others = KT_BUF_INIT;
	complete_pair(ENTRIES, &base, &rollback);
	complete_pair(BATCH, &other, &others);
	assert_true(others.len > 0);
	lay(&KT_BUF_INIT, NULL);
	write_entries(1, ENTRIES);
	kt_buf good = slurp(db);
	spill(hot, others.data, others.len);
	damaged("does not fit journal.db");
	salvaged(ENTRIES);
	same_as(db, &good); /* SQLite would have put pages of the other one into it */
	same_as(hot, &others);
	assert_int_equal(remove(hot), 0);
	opens(ENTRIES);
	kt_buf_free(&good);
	kt_buf_free(&base);
	kt_buf_free(&rollback);
	kt_buf_free(&other);
	kt_buf_free(&others);
}

/* --- What can be in the way ----------------------------------------------------------------------------------------
 */

static void path_in_folder(char out[160], const char *name)
{
	(void)snprintf(out, 160, "%s/%s", folder, name);
}

/* A pair that must be tried on a copy, of a coordinator that was killed in its commit. */
static void lay_hot_pair(void)
{
	kt_buf base = KT_BUF_INIT, rollback = KT_BUF_INIT;
	complete_pair(ENTRIES, &base, &rollback);
	lay(&base, &rollback);
	kt_buf_free(&base);
	kt_buf_free(&rollback);
}

/* The copy of a process that was killed is removed, that of one that lives is not. */
static void test_copies_that_were_left(void **state)
{
	(void)state;
	char dead[160], alive[160], file[180];
	lay_hot_pair();
	path_in_folder(dead, ".journal-check.99999999");
	path_in_folder(alive, ".journal-check.1");
	assert_int_equal(mkdir(dead, 0700), 0);
	assert_int_equal(mkdir(alive, 0700), 0);
	(void)snprintf(file, sizeof file, "%s/journal.db", dead);
	spill(file, "x", 1);
	assert_true(whole_or_told());
	assert_int_equal(access(dead, F_OK), -1);
	assert_int_equal(access(alive, F_OK), 0);
	assert_int_equal(mkdir(dead, 0700), 0);
	assert_true(whole_or_told()); /* also when nothing needs a copy any more */
	assert_int_equal(access(dead, F_OK), -1);
	assert_int_equal(rmdir(alive), 0);
}

/* Where no copy can be made, SQLite's own rollback must do. */
static void test_no_place_for_a_copy(void **state)
{
	(void)state;
	char name[64], path[160];
	lay_hot_pair();
	(void)snprintf(name, sizeof name, ".journal-check.%ld", (long)getpid());
	path_in_folder(path, name);
	spill(path, "in the way", 10);
	assert_true(whole_or_told());
	assert_int_equal(remove(path), 0);
	lay_hot_pair();
	assert_int_equal(remove(db), 0); /* a rollback journal without its database */
	int64_t n;
	kt_err err;
	assert_int_equal(try(KT_JOURNAL_READ, &n, &err), KT_E_IO);
}

static void test_a_lock_that_cannot_be_used(void **state)
{
	(void)state;
	int64_t n;
	kt_err err;
	assert_int_equal(mkdir(lock, 0700), 0);
	assert_int_equal(try(KT_JOURNAL_WRITE, &n, &err), KT_E_IO);
	assert_non_null(strstr(err.msg, "journal.lock"));
	assert_int_equal(rmdir(lock), 0);
	assert_int_equal(symlink("elsewhere", lock), 0);
	assert_int_equal(try(KT_JOURNAL_WRITE, &n, &err), KT_E_IO);
	assert_int_equal(remove(lock), 0);
	/* What it says is not taken for more than it is. */
	static const char *const texts[] = {"", "pid 1 on x since y", "\nentries -5\n", "\nentries x\n",
					    "entries 900\n"};
	write_entries(1, BATCH);
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		spill(lock, texts[i], strlen(texts[i]));
		opens(BATCH);
	}
	spill(lock, "pid 1 on x\nentries 7\n", 21);
	damaged("has 6 entries, and had 7");
}

static void test_a_path_that_is_too_long(void **state)
{
	(void)state;
	char path[5000];
	kt_journal *j;
	kt_err err = KT_ERR_INIT;
	for (size_t n = 4060; n < 4100; n++) {
		memset(path, 'x', n);
		for (size_t i = 0; i < n; i += 200)
			path[i] = '/';
		path[n] = '\0';
		assert_int_not_equal(kt_journal_open(path, KT_JOURNAL_READ, &j, &err), KT_OK);
		assert_null(j);
	}
	assert_int_equal(err.code, KT_E_INPUT);
}

int main(void)
{
#define WITH_FOLDER(t) cmocka_unit_test_setup_teardown(t, fresh, tidy)
	const struct CMUnitTest tests[] = {
		WITH_FOLDER(test_a_sound_one),
		WITH_FOLDER(test_any_page),
		WITH_FOLDER(test_header),
		WITH_FOLDER(test_cut),
		WITH_FOLDER(test_emptied_and_deleted),
		WITH_FOLDER(test_an_older_copy),
		WITH_FOLDER(test_its_own_rollback_journal),
		WITH_FOLDER(test_another_ones_rollback_journal),
		WITH_FOLDER(test_copies_that_were_left),
		WITH_FOLDER(test_no_place_for_a_copy),
		WITH_FOLDER(test_a_lock_that_cannot_be_used),
		WITH_FOLDER(test_a_path_that_is_too_long),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

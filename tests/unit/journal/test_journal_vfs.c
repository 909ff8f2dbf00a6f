/* SPDX-License-Identifier: Apache-2.0 */
/* The real journal on a disk that loses, tears and reorders what was not synced, and fails: what an append said is
 * there is there, whole; the one under way is there wholly or not at all; the chain holds; and it goes on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "orchestrator/journal/journal.h"
#include "tests/sim/vfs.h"
#include "tests/unit/journal/entries.h"

enum { BATCHES = 6, OPS = 130, CUTS = 2000, LIES = 200 };

static const char folder[] = "state";

/* The folder is the real one, with an empty journal.db and the lock: nothing in it need be durable here. */
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
	(void)fd;
	return 0;
}

static void new_disk(void)
{
	vfs_reset();
	(void)remove("state/journal.lock"); /* which remembers how long the journal was */
}

/* --- A session ---------------------------------------------------------------------------------------------------- */

typedef struct session {
	int64_t sure;     /* entries of which an append said that they are there */
	int64_t possible; /* with the batch under way */
	bool opened;
} session;

/* Open the journal and append batches until something fails. */
static void work(session *s, sim_rng *r, size_t batches)
{
	kt_journal *j;
	kt_err err = KT_ERR_INIT;
	if (kt_journal_open(folder, KT_JOURNAL_WRITE, &j, &err) != KT_OK)
		return;
	s->opened = true;
	for (size_t i = 0; i < batches; i++) {
		size_t n = 1 + sim_below(r, BATCH_MAX);
		s->possible = s->sure + (int64_t)n;
		if (entries_append(j, s->sure + 1, n, &err) != KT_OK)
			break;
		s->sure = s->possible;
	}
	kt_journal_close(j);
}

/* What must hold afterwards; "" when it does. */
static const char *judge(session *s)
{
	static char why[KT_ERR_MSG + 100];
	kt_journal *j;
	kt_err err = KT_ERR_INIT;
	int64_t there = 0;
	why[0] = '\0';
	kt_code rc = kt_journal_open(folder, KT_JOURNAL_WRITE, &j, &err);
	if (rc == KT_OK)
		rc = kt_journal_read(j, NULL, entries_compare, &there, &err);
	kt_journal_close(j);
	if (rc != KT_OK)
		(void)snprintf(why, sizeof why, "%s", err.msg);
	else if (there != s->sure && there != s->possible)
		(void)snprintf(why, sizeof why, "%" PRId64 " entries, and %" PRId64 " or %" PRId64 " must be there",
			       there, s->sure, s->possible);
	s->sure = s->possible = there;
	return why;
}

/* One session with the power cut somewhere in it, again while it recovers, and then it goes on. */
static const char *cut_somewhere(uint64_t seed, bool lies)
{
	sim_rng r = {seed};
	session s = {0};
	new_disk();
	vfs_lie(lies);
	vfs_stop_after(sim_below(&r, OPS));
	work(&s, &r, BATCHES);
	vfs_cut(&r);
	if (sim_chance(&r, 300)) {
		kt_journal *j;
		vfs_stop_after(sim_below(&r, 12));
		if (kt_journal_open(folder, KT_JOURNAL_WRITE, &j, NULL) == KT_OK)
			kt_journal_close(j);
		vfs_cut(&r);
	}
	const char *why = judge(&s);
	if (why[0])
		return why;
	work(&s, &r, 2);
	return judge(&s);
}

static size_t rounds(size_t n)
{
	return getenv("KT_VALGRIND") ? n / 50 : n;
}

static void test_power_cuts(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= rounds(CUTS); seed++) {
		const char *why = cut_somewhere(seed, false);
		if (why[0])
			fail_msg("cut %" PRIu64 ": %s", seed, why);
	}
}

/* The same on a disk that lies about its syncs: it would be seen. */
static void test_a_disk_that_lies_is_found_out(void **state)
{
	(void)state;
	size_t seen = 0;
	for (uint64_t seed = 1; seed <= rounds(LIES); seed++)
		seen += cut_somewhere(seed, true)[0] != '\0';
	assert_true(seen > rounds(LIES) / 10);
}

/* Killed between any two calls: the disk has everything that was written so far. */
static void test_killed_between_any_two_calls(void **state)
{
	(void)state;
	bool stopped = true;
	for (size_t i = 0; stopped; i += getenv("KT_VALGRIND") ? 13 : 1) {
		session s = {0};
		sim_rng r = {3};
		new_disk();
		vfs_stop_after(i);
		work(&s, &r, BATCHES);
		stopped = vfs_stopped();
		vfs_settle();
		const char *why = judge(&s);
		if (why[0])
			fail_msg("killed before call %zu: %s", i, why);
		assert_true(stopped || i > OPS - 20);
	}
}

/* --- Calls that fail ---------------------------------------------------------------------------------------------- */

/* The session goes on after a failure, as far as the journal lets it. False when it was not reached any more. */
static bool fail_one(size_t at, int code)
{
	kt_journal *j;
	kt_err err = KT_ERR_INIT;
	session s = {0};
	sim_rng r = {11};
	new_disk();
	vfs_fail_at(at, code);
	kt_code rc = kt_journal_open(folder, KT_JOURNAL_WRITE, &j, &err);
	if (rc != KT_OK) {
		assert_true(vfs_failed() && err.msg[0] && err.remedy[0]);
		assert_string_equal(judge(&s), "");
		return true;
	}
	for (size_t i = 0; i < 4; i++) {
		size_t n = 1 + sim_below(&r, BATCH_MAX);
		kt_err why = KT_ERR_INIT;
		s.possible = s.sure + (int64_t)n;
		rc = entries_append(j, s.sure + 1, n, &why);
		if (rc == KT_OK)
			s.sure = s.possible;
		else if (rc != KT_E_IO || !why.remedy[0])
			fail_msg("call %zu: %s: %s", at, kt_code_name(rc), why.msg);
		else
			break; /* what a coordinator does: it stops, and may be resumed */
	}
	/* A rollback may only be tried again: the same journal takes more, or says that it cannot. */
	int64_t before = s.sure;
	if (rc != KT_OK && entries_append(j, s.sure + 1, 1, &err) == KT_OK)
		s.sure = s.possible = before + 1;
	kt_journal_close(j);
	bool reached = vfs_failed();
	vfs_fail_at(SIZE_MAX, 0);
	const char *why = judge(&s);
	if (why[0])
		fail_msg("call %zu failed with %d: %s", at, code, why);
	return reached;
}

static void test_any_call_fails_once(void **state)
{
	(void)state;
	static const int codes[] = {SQLITE_IOERR, SQLITE_FULL, SQLITE_IOERR_FSYNC, SQLITE_CANTOPEN};
	for (size_t c = 0; c < sizeof codes / sizeof codes[0]; c++) {
		size_t at = 0;
		while (fail_one(at, codes[c]))
			at += getenv("KT_VALGRIND") ? 17 : 1;
		assert_true(at > 100);
	}
}

static void test_reading_from_a_disk_that_fails(void **state)
{
	(void)state;
	session s = {0};
	sim_rng r = {5};
	new_disk();
	work(&s, &r, BATCHES);
	bool failed = true;
	for (size_t at = 0; failed; at++) {
		kt_journal *j;
		kt_err err = KT_ERR_INIT;
		int64_t there = 0;
		vfs_fail_at(at, SQLITE_IOERR);
		kt_code rc = kt_journal_open(folder, KT_JOURNAL_READ, &j, &err);
		if (rc == KT_OK)
			rc = kt_journal_read(j, NULL, entries_compare, &there, &err);
		kt_journal_close(j);
		failed = vfs_failed();
		vfs_fail_at(SIZE_MAX, 0);
		if (rc != KT_OK && (!failed || !err.msg[0]))
			fail_msg("call %zu: %s", at, err.msg);
		if (rc == KT_OK)
			assert_int_equal(there, s.sure);
		assert_string_equal(judge(&s), "");
	}
}

/* --- Figures ------------------------------------------------------------------------------------------------------ */

/* docs/DESIGN.md, "What a commit costs": four of the five (the folder's is inside of SQLite's own VFS). */
static void test_syncs_of_a_commit(void **state)
{
	(void)state;
	kt_journal *j;
	kt_err err = KT_ERR_INIT;
	new_disk();
	assert_int_equal(kt_journal_open(folder, KT_JOURNAL_WRITE, &j, &err), KT_OK);
	assert_int_equal(entries_append(j, 1, 3, &err), KT_OK);
	size_t before = vfs_syncs();
	assert_int_equal(entries_append(j, 4, BATCH_MAX, &err), KT_OK);
	assert_int_equal(vfs_syncs() - before, 4);
	kt_journal_close(j);
}

static int set_up(void **state)
{
	(void)state;
	return vfs_register() && kt_file_mkdirs(folder, 0700, NULL) == KT_OK ? 0 : -1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_power_cuts),
		cmocka_unit_test(test_a_disk_that_lies_is_found_out),
		cmocka_unit_test(test_killed_between_any_two_calls),
		cmocka_unit_test(test_any_call_fails_once),
		cmocka_unit_test(test_reading_from_a_disk_that_fails),
		cmocka_unit_test(test_syncs_of_a_commit),
	};
	return cmocka_run_group_tests(tests, set_up, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Memory runs out at every single allocation, SQLite's own included: an error that says so, nothing lost, nothing half
 * there, and the next one who comes goes on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "orchestrator/journal/journal.h"
#include "orchestrator/journal/replay.h"
#include "tests/sim/plan.h"
#include "tests/sim/vfs.h"
#include "tests/unit/allocfail.h"

enum { BATCH = 3 };
#define STRIDE (getenv("KT_VALGRIND") ? 37U : 1U)

static const char folder[] = "state";

/* The database is in memory (vfs.h), and nothing in the real folder need be durable. */
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

/* --- SQLite's allocator ------------------------------------------------------------------------------------------- */

static sqlite3_mem_methods real;

static void *sqlite_malloc(int n)
{
	return allocfail_now() ? NULL : real.xMalloc(n);
}

static void *sqlite_realloc(void *p, int n)
{
	return allocfail_now() ? NULL : real.xRealloc(p, n);
}

static int wrap_sqlite(void **state)
{
	(void)state;
	if (sqlite3_config(SQLITE_CONFIG_GETMALLOC, &real) != SQLITE_OK)
		return -1;
	sqlite3_mem_methods mine = real;
	mine.xMalloc = sqlite_malloc;
	mine.xRealloc = sqlite_realloc;
	if (sqlite3_config(SQLITE_CONFIG_MALLOC, &mine) != SQLITE_OK)
		return -1;
	return vfs_register() && kt_file_mkdirs(folder, 0700, NULL) == KT_OK ? 0 : -1;
}

/* --- A journal ---------------------------------------------------------------------------------------------------- */

static kt_entry note(const char *body)
{
	return (kt_entry){.run = "r", .time_ms = 1, .kind = "note", .step = "", .role = "", .node = "", .body = body};
}

static kt_code append(kt_journal *j, size_t n, kt_err *err)
{
	const kt_entry e[BATCH] = {note("{\"n\":1}"), note("{\"n\":2}"), note("{\"n\":3}")};
	return kt_journal_append(j, e, n, err);
}

/* Every round begins with the same: what grows would never end. */
static kt_journal *open_with(size_t entries)
{
	kt_journal *j;
	kt_err err = KT_ERR_INIT;
	new_disk();
	if (kt_journal_open(folder, KT_JOURNAL_WRITE, &j, &err) != KT_OK)
		fail_msg("%s", err.msg);
	if (entries)
		assert_int_equal(append(j, entries, &err), KT_OK);
	return j;
}

static kt_code count(void *user, const kt_entry *e, kt_err *err)
{
	(void)err;
	*(int64_t *)user = e->seq;
	return KT_OK;
}

/* Only by the allocation that failed, and it says so. */
static void told(kt_code rc, const kt_err *err, bool failed)
{
	if (rc == KT_OK)
		return;
	bool says = rc == KT_E_INTERNAL && strstr(err->msg, "memory");
	says |= strstr(err->msg, "not valid JSON") != NULL; /* cJSON does not tell the one from the other */
	if (!failed || !says)
		fail_msg("%s: %s", kt_code_name(rc), err->msg);
}

static int64_t entries_now(void)
{
	kt_journal *j;
	kt_err err = KT_ERR_INIT;
	int64_t n = 0;
	if (kt_journal_open(folder, KT_JOURNAL_WRITE, &j, &err) != KT_OK)
		fail_msg("%s", err.msg);
	assert_int_equal(kt_journal_verify(j, &n, NULL, &err), KT_OK);
	kt_journal_close(j);
	return n;
}

static void test_making_it(void **state)
{
	(void)state;
	size_t n = 1;
	for (; allocfail_more(n); n += STRIDE) {
		kt_journal *j;
		kt_err err = KT_ERR_INIT;
		new_disk();
		allocfail_begin(n);
		kt_code rc = kt_journal_open(folder, KT_JOURNAL_WRITE, &j, &err);
		kt_journal_close(j);
		told(rc, &err, allocfail_end());
		assert_int_equal(entries_now(), 0);
	}
	assert_true(n > 50);
}

/* What was said to be there is there, nothing else comes, and the same journal can go on. */
static void test_appending(void **state)
{
	(void)state;
	for (size_t n = 1; allocfail_more(n); n += STRIDE) {
		kt_err err = KT_ERR_INIT;
		kt_journal *j = open_with(1);
		allocfail_begin(n);
		kt_code rc = append(j, BATCH, &err);
		told(rc, &err, allocfail_end());
		int64_t there = 1 + (rc == KT_OK ? BATCH : 0);
		if (append(j, 1, &err) != KT_OK)
			fail_msg("round %zu: %s", n, err.msg);
		kt_journal_close(j);
		assert_int_equal(entries_now(), there + 1);
	}
}

static void test_reading(void **state)
{
	(void)state;
	kt_journal *j = open_with(BATCH);
	for (size_t n = 1; allocfail_more(n); n += STRIDE) {
		int64_t seen = 0;
		char head[65];
		kt_err err = KT_ERR_INIT;
		allocfail_begin(n);
		kt_code rc = kt_journal_read(j, "r", count, &seen, &err);
		if (rc == KT_OK)
			rc = kt_journal_verify(j, &seen, head, &err);
		told(rc, &err, allocfail_end());
		if (rc == KT_OK)
			assert_int_equal(seen, BATCH);
	}
	kt_journal_close(j);
}

static void test_runs_and_takes(void **state)
{
	(void)state;
	for (size_t n = 1; allocfail_more(n); n += STRIDE) {
		kt_err err = KT_ERR_INIT;
		kt_run_info latest;
		int64_t epoch = 0;
		kt_journal *j = open_with(1);
		allocfail_begin(n);
		kt_code rc = kt_journal_take(j, "r", 1000, &epoch, &err);
		bool taken = rc == KT_OK;
		assert_int_equal(epoch, taken ? 1000 : 0);
		if (taken)
			rc = kt_journal_latest(j, &latest, &err);
		told(rc, &err, allocfail_end());
		kt_journal_close(j);
		assert_int_equal(entries_now(), taken ? 2 : 1);
	}
}

/* --- A run -------------------------------------------------------------------------------------------------------- */

static kt_code add_event(kt_journal *j, const kt_event *ev, kt_err *err)
{
	kt_buf body = KT_BUF_INIT;
	kt_entry e;
	kt_code rc = kt_entry_of_event(ev, "r", 1, 1000, "said", &body, &e, err);
	if (rc == KT_OK)
		rc = kt_journal_append(j, &e, 1, err);
	kt_buf_free(&body);
	return rc;
}

static kt_code begin_run(kt_journal *j, const cJSON *plan, kt_err *err)
{
	kt_buf body = KT_BUF_INIT;
	kt_entry e;
	kt_code rc = kt_entry_of_plan(plan, "r", 1000, &body, &e, err);
	if (rc == KT_OK)
		rc = kt_journal_append(j, &e, 1, err);
	kt_buf_free(&body);
	return rc;
}

static kt_code first_step(kt_journal *j, const kt_err *why, kt_err *err)
{
	cJSON *result = cJSON_CreateObject();
	kt_event ev = {.kind = KT_EVENT_INTENT, .step = "preflight", .node = "n0", .attempt = 1};
	kt_code rc = result ? add_event(j, &ev, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	ev.kind = KT_EVENT_OUTCOME;
	ev.status = KT_STATUS_FAILED;
	ev.result = result;
	ev.error = why;
	if (rc == KT_OK)
		rc = add_event(j, &ev, err);
	if (rc == KT_OK)
		rc = add_event(j, &(kt_event){.kind = KT_EVENT_END, .state = KT_RUN_REFUSED}, err);
	cJSON_Delete(result);
	return rc;
}

static void test_a_run(void **state)
{
	(void)state;
	kt_err why = KT_ERR_INIT;
	cJSON *plan = sim_plan(2);
	KT_IGNORE(kt_fail(&why, KT_E_UNREACHABLE, "look", "no route"));
	for (size_t n = 1; allocfail_more(n); n += STRIDE) {
		kt_err err = KT_ERR_INIT;
		int64_t epoch;
		kt_replay r = {0};
		kt_journal *j = open_with(0);
		allocfail_begin(n);
		kt_code rc = begin_run(j, plan, &err);
		if (rc == KT_OK)
			rc = kt_journal_take(j, "r", 1000, &epoch, &err);
		if (rc == KT_OK)
			rc = first_step(j, &why, &err);
		if (rc == KT_OK)
			rc = kt_replay_run(j, "r", &r, &err);
		told(rc, &err, allocfail_end());
		if (rc == KT_OK)
			assert_int_equal(kt_engine_state(r.engine).state, KT_RUN_REFUSED);
		kt_replay_free(&r);
		kt_journal_close(j);
		(void)entries_now();
	}
	cJSON_Delete(plan);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_making_it),      cmocka_unit_test(test_appending), cmocka_unit_test(test_reading),
		cmocka_unit_test(test_runs_and_takes), cmocka_unit_test(test_a_run),
	};
	return cmocka_run_group_tests(tests, wrap_sqlite, NULL);
}

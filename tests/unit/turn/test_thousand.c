/* SPDX-License-Identifier: Apache-2.0 */
/* A turn of a thousand nodes: its journal takes hundreds of syncs, and the coordinator little memory (bench_journal
 * prints the figures). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "orchestrator/journal/journal.h"
#include "tests/sim/fullturn.h"

enum { NODES = 1000, FEW = 60, SYNCS_MAX = 500, MIB_MAX = 64 };

#ifdef __SANITIZE_ADDRESS__
static const bool memory_is_ours = false;
#else
static const bool memory_is_ours = true;
#endif

static char folder[] = "thousand.XXXXXX";

static int tidy(void **state)
{
	static const char *const files[] = {"/journal.db", "/journal.db-journal", "/journal.lock", ""};
	(void)state;
	for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
		char path[64];
		(void)snprintf(path, sizeof path, "%s%s", folder, files[i]);
		(void)remove(path);
	}
	return 0;
}

static void test_a_thousand_nodes(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	fullturn_figures f;
	bool slow = getenv("KT_VALGRIND") != NULL;
	size_t nodes = slow ? FEW : NODES;
	assert_non_null(mkdtemp(folder));
	const fullturn_options o = {.nodes = nodes, .folder = folder, .seed = 1};
	if (fullturn_run(&o, &f, &err) != KT_OK)
		fail_msg("%s", err.msg);
	size_t mib = fullturn_memory_kib() / 1024;
	print_message("%zu entries in %zu commits, %zu syncs, %zu MiB\n", f.entries, f.commits, f.syncs, mib);
	assert_true(f.entries > 30 * nodes);
	assert_true(f.syncs > f.commits); /* they are counted */
	assert_true(f.syncs < SYNCS_MAX);
	if (memory_is_ours && !slow)
		assert_true(mib < MIB_MAX);
	/* And all of it is there. */
	kt_journal *j;
	int64_t there = 0;
	assert_int_equal(kt_journal_open(folder, KT_JOURNAL_READ, &j, &err), KT_OK);
	assert_int_equal(kt_journal_verify(j, &there, NULL, &err), KT_OK);
	assert_int_equal(there, f.entries);
	kt_journal_close(j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_a_thousand_nodes, tidy),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

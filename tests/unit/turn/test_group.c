/* SPDX-License-Identifier: Apache-2.0 */
/* Group commit: what waits, how long, and what never does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "orchestrator/turn/group.h"

enum { AT_ONCE = -1, NEVER = -2 };

static void due(const kt_group *g, bool wanted, bool alone, int64_t when)
{
	int64_t got = kt_group_due(g, wanted, alone);
	int64_t want = when == AT_ONCE ? INT64_MIN : when == NEVER ? INT64_MAX : when;
	assert_true(got == want);
}

static void test_nothing_recorded(void **state)
{
	(void)state;
	const kt_group g = {.commit_ms = 50};
	due(&g, false, false, NEVER);
	due(&g, false, true, NEVER);
	due(&g, true, true, AT_ONCE);
	due(&g, true, false, AT_ONCE);
}

static void test_an_outcome_that_enables_nothing(void **state)
{
	(void)state;
	kt_group g = {0};
	kt_group_outcome(&g, 5000, 80);
	due(&g, false, false, 5000 + KT_GROUP_WINDOW_MS);
	kt_group_outcome(&g, 5400, 10); /* company does not make the oldest wait longer */
	due(&g, false, false, 5000 + KT_GROUP_WINDOW_MS);
	due(&g, false, true, AT_ONCE); /* the last one: nobody else can come */
	due(&g, true, true, AT_ONCE);
}

static void test_an_outcome_that_enables_commands(void **state)
{
	(void)state;
	kt_group g = {0};
	kt_group_outcome(&g, 5000, 800);
	due(&g, true, false, 5100);
	kt_group_outcome(&g, 5010, 80); /* the quickest counts, from the oldest on */
	due(&g, true, false, 5010);
	g = (kt_group){.commit_ms = 30};
	kt_group_outcome(&g, 5000, 80);
	due(&g, true, false, 5030); /* on a slow disk, as long as a commit takes */
}

static void test_no_wait_is_longer_than_the_window(void **state)
{
	(void)state;
	kt_group g = {.commit_ms = 60000};
	kt_group_outcome(&g, 0, 0);
	due(&g, true, false, KT_GROUP_WINDOW_MS);
	g = (kt_group){0};
	kt_group_outcome(&g, 0, 3600 * 1000);
	due(&g, true, false, KT_GROUP_WINDOW_MS);
}

static void test_what_is_urgent(void **state)
{
	(void)state;
	kt_group g = {0};
	kt_group_urgent(&g);
	due(&g, false, false, AT_ONCE);
	kt_group_outcome(&g, 5000, 800);
	due(&g, true, false, AT_ONCE);
}

static void test_after_a_commit(void **state)
{
	(void)state;
	kt_group g = {0};
	kt_group_outcome(&g, 5000, 800);
	kt_group_urgent(&g);
	kt_group_committed(&g, 5000, 5040);
	due(&g, false, false, NEVER);
	due(&g, true, false, AT_ONCE);
	kt_group_outcome(&g, 9000, 8);
	due(&g, true, false, 9040);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_recorded),
		cmocka_unit_test(test_an_outcome_that_enables_nothing),
		cmocka_unit_test(test_an_outcome_that_enables_commands),
		cmocka_unit_test(test_no_wait_is_longer_than_the_window),
		cmocka_unit_test(test_what_is_urgent),
		cmocka_unit_test(test_after_a_commit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Group commit: what waits, how long, and what never does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "orchestrator/turn/group.h"

enum { AT_ONCE = -1, NEVER = -2 };

static void due(const kt_group *g, bool wanted, size_t under_way, int64_t when)
{
	int64_t got = kt_group_due(g, (kt_group_view){.wanted = wanted, .under_way = under_way});
	int64_t want = when == AT_ONCE ? INT64_MIN : when == NEVER ? INT64_MAX : when;
	assert_true(got == want);
}

static void test_nothing_recorded(void **state)
{
	(void)state;
	const kt_group g = {.commit_ms = 50};
	due(&g, false, 1, NEVER);
	due(&g, false, 0, NEVER);
	due(&g, true, 0, AT_ONCE);
	due(&g, true, 1, AT_ONCE);
}

static void test_an_outcome_that_enables_nothing(void **state)
{
	(void)state;
	kt_group g = {0};
	kt_group_outcome(&g, 5000, 80);
	due(&g, false, 1, 5000 + KT_GROUP_WINDOW_MIN_MS);
	kt_group_outcome(&g, 5400, 10000); /* company does not make the oldest wait longer */
	due(&g, false, 1, 5000 + KT_GROUP_WINDOW_MIN_MS);
	due(&g, false, 0, AT_ONCE); /* the last one: nobody else can come */
	due(&g, true, 0, AT_ONCE);
}

static void test_what_took_long_may_wait_longer(void **state)
{
	(void)state;
	kt_group g = {0};
	kt_group_outcome(&g, 5000, 6000);
	due(&g, false, 1, 8000);
	kt_group_outcome(&g, 5500, 4000); /* the quickest counts */
	due(&g, false, 1, 7000);
	g = (kt_group){0};
	kt_group_outcome(&g, 5000, 3600 * 1000);
	due(&g, false, 1, 5000 + KT_GROUP_WINDOW_MAX_MS);
}

static void test_an_outcome_that_enables_commands(void **state)
{
	(void)state;
	kt_group g = {0};
	kt_group_outcome(&g, 5000, 800);
	due(&g, true, KT_GROUP_MANY, 5200);
	due(&g, true, KT_GROUP_MANY - 1, 5000); /* few are under way: nobody is worth waiting for */
	kt_group_outcome(&g, 5010, 80);         /* the quickest counts, from the oldest on */
	due(&g, true, KT_GROUP_MANY, 5020);
	g = (kt_group){.commit_ms = 30};
	kt_group_outcome(&g, 5000, 80);
	due(&g, true, KT_GROUP_MANY, 5030); /* on a slow disk, as long as a commit takes */
	due(&g, true, 1, 5030);
}

static void test_commands_are_never_held_up_long(void **state)
{
	(void)state;
	kt_group g = {.commit_ms = 60000};
	kt_group_outcome(&g, 0, 0);
	due(&g, true, 1, KT_GROUP_GATHER_MAX_MS);
	g = (kt_group){0};
	kt_group_outcome(&g, 0, 3600 * 1000);
	due(&g, true, KT_GROUP_MANY, KT_GROUP_GATHER_MAX_MS);
}

static void test_what_is_urgent(void **state)
{
	(void)state;
	kt_group g = {0};
	kt_group_urgent(&g);
	due(&g, false, 1, AT_ONCE);
	kt_group_outcome(&g, 5000, 800);
	due(&g, true, 1, AT_ONCE);
}

static void test_after_a_commit(void **state)
{
	(void)state;
	kt_group g = {0};
	kt_group_outcome(&g, 5000, 800);
	kt_group_urgent(&g);
	kt_group_committed(&g, 5000, 5040);
	due(&g, false, 1, NEVER);
	due(&g, true, 1, AT_ONCE);
	kt_group_outcome(&g, 9000, 8);
	due(&g, true, 1, 9040);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_recorded),
		cmocka_unit_test(test_an_outcome_that_enables_nothing),
		cmocka_unit_test(test_an_outcome_that_enables_commands),
		cmocka_unit_test(test_what_took_long_may_wait_longer),
		cmocka_unit_test(test_commands_are_never_held_up_long),
		cmocka_unit_test(test_what_is_urgent),
		cmocka_unit_test(test_after_a_commit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

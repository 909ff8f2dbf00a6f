/* SPDX-License-Identifier: Apache-2.0 */
/* The simulator as a unit test: many seeds on every size of cluster, and the same seed twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

static sim_totals run_many(uint64_t first, size_t runs, size_t nodes)
{
	sim_totals t;
	uint64_t failed;
	char why[SIM_WHY];
	if (getenv("KT_VALGRIND")) /* 20 to 50 times slower: a tenth is enough to see every line under it */
		runs /= 10;
	if (!sim_many(first, runs, nodes, &t, &failed, why))
		fail_msg("./dev sim --seed %" PRIu64 " --runs 1 --nodes %zu --trace: %s", failed, nodes, why);
	return t;
}

/* A simulation in which one of the ends never comes, or one of the faults, proves little. */
static void test_everything_happens(void **state)
{
	(void)state;
	sim_totals t = run_many(1000000, 3000, 0);
	assert_true(t.end[KT_RUN_TURNED] > t.runs / 10);
	assert_true(t.end[KT_RUN_ROLLED_BACK] > t.runs / 10);
	assert_true(t.end[KT_RUN_REFUSED] > t.runs / 100);
	assert_true(t.takes > t.runs && t.restores > t.runs / 100);
	if (!getenv("KT_VALGRIND"))
		for (int f = 0; f < SIM_FAULTS; f++)
			if (t.fault[f] == 0)
				fail_msg("never: %s", sim_fault_name((sim_fault)f));
}

static void test_one_node(void **state)
{
	(void)state;
	(void)run_many(2000000, 1000, 1);
}

static void test_sixteen_nodes(void **state)
{
	(void)state;
	(void)run_many(3000000, 100, 16);
}

static void test_a_thousand_nodes(void **state)
{
	(void)state;
	if (!getenv("KT_VALGRIND"))
		(void)run_many(4000000, 2, SIM_NODES_MAX);
}

static void test_same_seed_same_run(void **state)
{
	(void)state;
	sim_totals a = run_many(77, 100, 0);
	sim_totals b = run_many(77, 100, 0);
	assert_memory_equal(&a, &b, sizeof a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_everything_happens), cmocka_unit_test(test_one_node),
		cmocka_unit_test(test_sixteen_nodes),      cmocka_unit_test(test_a_thousand_nodes),
		cmocka_unit_test(test_same_seed_same_run),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

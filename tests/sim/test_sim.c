/* SPDX-License-Identifier: Apache-2.0 */
/* The simulator as a unit test: many seeds on every size of cluster, and the same seed twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdlib.h>

#include "tests/sim/sim.h"

static void run_many(uint64_t first, size_t runs, size_t nodes)
{
	sim_totals t;
	uint64_t failed;
	char why[SIM_WHY];
	if (getenv("KT_VALGRIND")) /* 20 to 50 times slower: a tenth is enough to see every line under it */
		runs /= 10;
	if (!sim_many(first, runs, nodes, &t, &failed, why))
		fail_msg("kt_sim --seed %" PRIu64 " --runs 1 --nodes %zu: %s", failed, nodes, why);
	/* A simulation in which one of the ends never comes proves little. */
	assert_true(t.turned > runs / 10);
	assert_true(t.rolled_back > runs / 10);
	assert_true(t.refused > 0);
	assert_true(t.crashes > runs / 10);
}

static void test_one_node(void **state)
{
	(void)state;
	run_many(1000000, 2000, 1);
}

static void test_three_nodes(void **state)
{
	(void)state;
	run_many(2000000, 2000, 3);
}

static void test_sixteen_nodes(void **state)
{
	(void)state;
	run_many(3000000, 1000, SIM_NODES_MAX);
}

static void test_same_seed_same_run(void **state)
{
	(void)state;
	sim_totals a;
	sim_totals b;
	uint64_t failed;
	char why[SIM_WHY];
	assert_true(sim_many(77, 50, 0, &a, &failed, why));
	assert_true(sim_many(77, 50, 0, &b, &failed, why));
	assert_memory_equal(&a, &b, sizeof a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_node),
		cmocka_unit_test(test_three_nodes),
		cmocka_unit_test(test_sixteen_nodes),
		cmocka_unit_test(test_same_seed_same_run),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

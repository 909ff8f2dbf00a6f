/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kt_sim [--runs N] [--seed S] [--nodes N] [--trace] [--finds TEXT]
 * Simulates runs from seed S on; prints the schedule of the first that breaks a property, and exits 1. With --trace
 * every schedule is printed. With --finds a failure is what is wanted: exit 0 when one is found of which the text
 * begins with TEXT, 1 when none is or another one: the proof that the simulator sees a planted bug.
 * With KT_VALGRIND in the environment a twentieth of the runs is made.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/planted.h"
#include "tests/sim/sim.h"

#ifdef KT_PLANTED_BUGS
kt_planted kt_planted_bug = KT_MUTANT;
#endif

typedef struct request {
	uint64_t seed;
	size_t runs;
	size_t nodes;
	bool trace;
	const char *finds;
} request;

static bool parse(int argc, char **argv, request *r)
{
	static const struct option options[] = {
		{"runs", required_argument, NULL, 'r'},  {"seed", required_argument, NULL, 's'},
		{"nodes", required_argument, NULL, 'n'}, {"trace", no_argument, NULL, 't'},
		{"finds", required_argument, NULL, 'f'}, {0}};
	int c;
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'r':
			r->runs = strtoul(optarg, NULL, 10);
			break;
		case 's':
			r->seed = strtoull(optarg, NULL, 10);
			break;
		case 'n':
			r->nodes = strtoul(optarg, NULL, 10);
			break;
		case 't':
			r->trace = true;
			break;
		case 'f':
			r->finds = optarg;
			break;
		default:
			return false;
		}
	}
	return optind == argc && r->nodes <= SIM_NODES_MAX;
}

/* One seed with its schedule on stdout. */
static void show(uint64_t seed, size_t nodes)
{
	const cJSON *plans[SIM_NODES_MAX + 1] = {0};
	cJSON *made[SIM_NODES_MAX + 1] = {0};
	for (size_t i = 1; i <= SIM_NODES_MAX; i++)
		plans[i] = made[i] = sim_plan(i);
	const sim_options o = {.seed = seed, .nodes = nodes, .trace = true};
	(void)sim_run(&o, plans);
	for (size_t i = 1; i <= SIM_NODES_MAX; i++)
		cJSON_Delete(made[i]);
}

int main(int argc, char **argv)
{
	request r = {.seed = 1, .runs = 1000};
	if (!parse(argc, argv, &r)) {
		(void)fprintf(stderr, "usage: kt_sim [--runs N] [--seed S] [--nodes 1-%d] [--trace] [--finds TEXT]\n",
			      (int)SIM_NODES_MAX);
		return 2;
	}
	if (getenv("KT_VALGRIND") && r.runs >= 20)
		r.runs /= 20;
	for (uint64_t seed = r.seed; r.trace && seed < r.seed + r.runs; seed++)
		show(seed, r.nodes);
	sim_totals t;
	uint64_t failed = 0;
	char why[SIM_WHY] = "";
	bool ok = sim_many(r.seed, r.runs, r.nodes, &t, &failed, why);
	(void)printf("%zu runs: %zu turned, %zu rolled back, %zu refused; %zu events, %zu coordinators died, %zu took "
		     "over\n",
		     t.runs, t.turned, t.rolled_back, t.refused, t.events, t.crashes, t.resumes);
	if (!ok)
		(void)printf("seed %" PRIu64 ": %s\n", failed, why);
	if (r.finds)
		return !ok && strncmp(why, r.finds, strlen(r.finds)) == 0 ? 0 : 1;
	if (!ok)
		show(failed, r.nodes);
	return ok ? 0 : 1;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kt_mutants [--runs N] [--seed S] [--jobs N] [--bug NAME [--trace]]
 * Puts each planted bug to work, one at a time, and simulates up to N runs from seed S on until one breaks the property
 * that the bug must break. A line a bug: where it was found, and the simulator's words. Exit 1 when one was not found,
 * or broke something else. With --bug only that one; --trace prints the schedule in which it was found.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/sim/mutants.h"
#include "tests/sim/sim.h"

enum { JOBS_MAX = 256, MUTANTS_MAX = 128 };

typedef struct request {
	uint64_t seed;
	size_t runs, jobs;
	const char *bug;
	bool trace;
} request;

typedef struct finding {
	bool done, found;
	uint64_t seed;
	size_t runs;
	char why[SIM_WHY];
} finding;

typedef struct share {
	atomic_size_t next; /* the first that nobody has taken yet */
	finding of[MUTANTS_MAX];
} share;

static bool parse(int argc, char **argv, request *r)
{
	static const struct option options[] = {
		{"runs", required_argument, NULL, 'r'}, {"seed", required_argument, NULL, 's'},
		{"jobs", required_argument, NULL, 'j'}, {"bug", required_argument, NULL, 'b'},
		{"trace", no_argument, NULL, 't'},      {0}};
	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		if (c == 'r')
			r->runs = strtoull(optarg, NULL, 10);
		else if (c == 's')
			r->seed = strtoull(optarg, NULL, 10);
		else if (c == 'j')
			r->jobs = strtoull(optarg, NULL, 10);
		else if (c == 'b')
			r->bug = optarg;
		else if (c == 't')
			r->trace = true;
		else
			return false;
	}
	return optind == argc && r->jobs >= 1 && r->jobs <= JOBS_MAX;
}

static bool wanted(const request *r, const sim_mutant *m)
{
	return !r->bug || strcmp(r->bug, m->name) == 0;
}

/* Many bugs break more than one property: only the one that the bug is about counts. */
static void hunt(const request *r, const sim_mutant *m, finding *out)
{
	uint64_t failed = 0;
	kt_planted_bug = m->bug;
	while (!out->found && out->runs < r->runs) {
		sim_totals t;
		bool ok = sim_many(r->seed + out->runs, r->runs - out->runs, 0, &t, &failed, out->why);
		out->runs += t.runs;
		out->found = !ok && strncmp(out->why, m->breaks, strlen(m->breaks)) == 0;
	}
	out->seed = failed;
	out->done = true;
	if (out->found && r->trace) {
		sim *s = sim_new();
		const sim_options o = {.seed = failed, .trace = true};
		(void)sim_run(s, &o);
		sim_free(s);
	}
}

static void work(const request *r, share *all)
{
	for (size_t i; sim_mutants[i = atomic_fetch_add(&all->next, 1)].name;)
		if (wanted(r, &sim_mutants[i]))
			hunt(r, &sim_mutants[i], &all->of[i]);
}

static size_t tell(const request *r, const share *all)
{
	size_t missed = 0, found = 0;
	for (size_t i = 0; sim_mutants[i].name; i++) {
		const finding *f = &all->of[i];
		if (!wanted(r, &sim_mutants[i]))
			continue;
		if (f->found)
			(void)printf("%-24s found in run %zu: %s\n", sim_mutants[i].name, f->runs, f->why);
		else
			(void)printf("%-24s NOT FOUND in %zu runs: %s\n", sim_mutants[i].name, f->runs,
				     f->done ? f->why : "the simulator crashed");
		found += f->found;
		missed += !f->found;
	}
	(void)printf("%zu planted bugs found, %zu missed\n", found, missed);
	return found == 0 ? 1 : missed;
}

int main(int argc, char **argv)
{
	request r = {.seed = 1, .runs = 100000, .jobs = 1};
	if (!parse(argc, argv, &r)) {
		(void)fprintf(stderr, "usage: kt_mutants [--runs N] [--seed S] [--jobs N] [--bug NAME [--trace]]\n");
		return 2;
	}
	if (getenv("KT_VALGRIND")) {
		(void)printf("not under valgrind: the simulator is, without the planted bugs\n");
		return 0;
	}
	sim_memory_pool();
	share *all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (all == MAP_FAILED)
		return 1;
	for (size_t i = 0; i < r.jobs; i++) {
		if (fork() != 0)
			continue;
		work(&r, all);
		(void)fflush(stdout);
		_exit(0); /* lint: allow exit: a process of its own */
	}
	while (wait(NULL) > 0)
		;
	return tell(&r, all) ? 1 : 0;
}

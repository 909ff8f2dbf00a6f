/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kt_sim [--runs N] [--seed S] [--nodes N] [--jobs N] [--quiet] [--trace]
 * Simulates runs from seed S on, in `jobs` processes; prints what happened in them, and the schedule of the first that
 * breaks a property, and exits 1. With --trace every schedule is printed. With --quiet nothing goes wrong. With
 * KT_VALGRIND in the environment a twentieth of the runs is made.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "orchestrator/playbook/playbook.h"
#include "tests/sim/sim.h"

enum { JOBS_MAX = 256 };

typedef struct request {
	uint64_t seed;
	size_t runs, nodes, jobs;
	bool trace, quiet;
} request;

/* What one process has seen; in memory that all share. */
typedef struct share {
	sim_totals t;
	bool ok, done;
	uint64_t failed;
	char why[SIM_WHY];
} share;

static bool parse(int argc, char **argv, request *r)
{
	static const struct option options[] = {{"runs", required_argument, NULL, 'r'},
						{"seed", required_argument, NULL, 's'},
						{"nodes", required_argument, NULL, 'n'},
						{"jobs", required_argument, NULL, 'j'},
						{"trace", no_argument, NULL, 't'},
						{"quiet", no_argument, NULL, 'q'},
						{0}};
	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		size_t n = optarg ? strtoull(optarg, NULL, 10) : 0;
		switch (c) {
		case 'r':
			r->runs = n;
			break;
		case 's':
			r->seed = n;
			break;
		case 'n':
			r->nodes = n;
			break;
		case 'j':
			r->jobs = n;
			break;
		case 't':
			r->trace = true;
			break;
		case 'q':
			r->quiet = true;
			break;
		default:
			return false;
		}
	}
	return optind == argc && r->nodes <= SIM_NODES_MAX && r->jobs >= 1 && r->jobs <= JOBS_MAX;
}

static bool one(sim *s, const request *r, uint64_t seed, bool trace, share *out)
{
	const sim_options o = {.seed = seed, .nodes = r->nodes, .trace = trace, .quiet = r->quiet};
	sim_result got = sim_run(s, &o);
	sim_totals_add(&out->t, &got);
	if (!got.ok && out->ok) {
		out->failed = seed;
		(void)snprintf(out->why, sizeof out->why, "%s", got.why);
	}
	return out->ok &= got.ok;
}

/* Every jobs-th run from `job` on, up to the first that fails. */
static void work(const request *r, size_t job, share *out)
{
	sim *s = sim_new();
	out->ok = true;
	for (size_t i = job; i < r->runs && one(s, r, r->seed + i, r->trace, out); i += r->jobs)
		;
	sim_free(s);
	out->done = true;
}

static void work_all(const request *r, share *shares)
{
	if (r->jobs == 1) {
		work(r, 0, shares);
		return;
	}
	for (size_t i = 0; i < r->jobs; i++) {
		if (fork() != 0)
			continue;
		work(r, i, &shares[i]);
		_exit(0); /* lint: allow exit: a process of its own */
	}
	while (wait(NULL) > 0)
		;
}

static share sum(const request *r, const share *shares)
{
	share out = {.ok = true};
	for (size_t i = 0; i < r->jobs; i++) {
		const share *a = &shares[i];
		const size_t *from = (const size_t *)&a->t;
		size_t *to = (size_t *)&out.t;
		for (size_t k = 0; k < sizeof out.t / sizeof *to; k++)
			to[k] += from[k];
		if (!a->done) {
			out.ok = false;
			(void)snprintf(out.why, sizeof out.why, "a process of the simulator crashed");
		} else if (!a->ok && (out.ok || a->failed < out.failed)) {
			out.ok = false;
			out.failed = a->failed;
			memcpy(out.why, a->why, sizeof out.why);
		}
	}
	return out;
}

static double seconds(void)
{
	struct timespec t;
	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The time that the processors have spent on us, whatever else they had to do: on the one process, or on those that
 * have ended. (The latter count from before main, too: who started us by exec has had children of its own.) */
static double cpu_seconds(const request *r)
{
	struct rusage u;
	int who = r->jobs == 1 ? RUSAGE_SELF : RUSAGE_CHILDREN;
	(void)getrusage(who, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void tell(const request *r, const share *s, double took, double cpu)
{
	const sim_totals *t = &s->t;
	(void)printf(
		"%zu runs: %zu turned, %zu rolled back, %zu refused; %zu rekeys, %zu restores, %zu takes, %zu events, "
		"%zu commits\n",
		t->runs, t->end[KT_RUN_TURNED], t->end[KT_RUN_ROLLED_BACK], t->end[KT_RUN_REFUSED], t->rekeys,
		t->restores, t->takes, t->events, t->commits);
	(void)printf("the last phase that was begun:");
	for (int p = 0; p < 16; p++)
		if (t->deepest[p])
			(void)printf(" %s %zu", kt_phase_name(p), t->deepest[p]);
	(void)printf("\nfaults:");
	for (int f = 0; f < SIM_FAULTS; f++)
		(void)printf("%s %s %zu", f ? "," : "", sim_fault_name((sim_fault)f), t->fault[f]);
	(void)printf("\n%.1f s in %zu processes, %.1f s of processor time: %.0f runs a second and core\n", took,
		     r->jobs, cpu, (double)t->runs / cpu);
}

static void show(const request *r, uint64_t seed)
{
	sim *s = sim_new();
	share unused = {.ok = true};
	(void)one(s, r, seed, true, &unused);
	sim_free(s);
}

int main(int argc, char **argv)
{
	request r = {.seed = 1, .runs = 1000, .jobs = 1};
	if (!parse(argc, argv, &r)) {
		(void)fprintf(stderr,
			      "usage: kt_sim [--runs N] [--seed S] [--nodes 1-%d] [--jobs N] [--quiet] [--trace]\n",
			      (int)SIM_NODES_MAX);
		return 2;
	}
	if (getenv("KT_VALGRIND") && r.runs >= 20)
		r.runs /= 20;
	if (r.jobs > r.runs)
		r.jobs = r.runs ? r.runs : 1;
	share *shares = mmap(NULL, r.jobs * sizeof *shares, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shares == MAP_FAILED)
		return 1;
	if (!getenv("KT_VALGRIND"))
		sim_memory_pool();
	double begun = seconds();
	double spent = cpu_seconds(&r);
	work_all(&r, shares);
	share all = sum(&r, shares);
	tell(&r, &all, seconds() - begun, cpu_seconds(&r) - spent);
	if (!all.ok)
		(void)printf("seed %" PRIu64 ": %s\n", all.failed, all.why);
	if (!all.ok && !r.trace && all.failed)
		show(&r, all.failed);
	if (!all.ok)
		(void)printf("to see it again: ./dev sim --seed %" PRIu64 " --nodes %zu --runs 1 --trace\n", all.failed,
			     r.nodes);
	return all.ok ? 0 : 1;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* One run: what a seed makes of it, from the first coordinator to the end. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "tests/sim/sim.h"

enum { EVENTS_PER_NODE = 4000, EVENTS_MIN = 60000 };

void sim_trace(const sim *s, const char *fmt, ...)
{
	if (!s->o->trace)
		return;
	va_list ap;
	va_start(ap, fmt);
	(void)printf("%9.3f ", (double)s->now / 1000);
	(void)vprintf(fmt, ap);
	va_end(ap);
	(void)putchar('\n');
}

/* --- The plans, made once for each number of nodes: a rekey, a migration ------------------------------------------ */

static cJSON *plans[SIM_NODES_MAX + 1][2];

static const cJSON *plan_of(size_t n, bool migration)
{
	cJSON **plan = &plans[n][migration];
	if (!*plan)
		*plan = migration ? sim_plan_migration(n) : sim_plan(n);
	return *plan;
}

static void forget_plans(void)
{
	for (size_t i = 0; i <= SIM_NODES_MAX; i++)
		for (size_t k = 0; k < 2; k++) {
			cJSON_Delete(plans[i][k]);
			plans[i][k] = NULL;
		}
}

/* --- A simulator -------------------------------------------------------------------------------------------------- */

sim *sim_new(void)
{
	sim *s = calloc(1, sizeof *s);
	if (!s)
		abort();
	kt_log_setup(KT_LOG_ERROR, STDERR_FILENO); /* nodes warn of what is done to them here */
	return s;
}

void sim_free(sim *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->disks; i++)
		sim_disk_free(s->disk[i]);
	free((void *)s->disk);
	free(s->heap);
	sim_memory_free(s);
	free(s);
	forget_plans();
}

/* Disks as if they were new, for n nodes. */
static void fresh_disks(sim *s, size_t n)
{
	if (n > s->disks) {
		s->disk = realloc(s->disk, n * sizeof(sim_disk *));
		if (!s->disk)
			abort();
		while (s->disks < n)
			s->disk[s->disks++] = sim_disk_new();
	}
	for (size_t i = 0; i < n; i++)
		sim_disk_reset(s->disk[i]);
}

static void begin(sim *s, const sim_options *o, sim_result *out)
{
	*s = (sim){.o = o,
		   .rng = {o->seed * 2 + 1},
		   .out = out,
		   .heap = s->heap,
		   .heap_cap = s->heap_cap,
		   .chunk = s->chunk,
		   .kept = s->kept,
		   .kept_cap = s->kept_cap,
		   .disk = s->disk,
		   .disks = s->disks};
	s->n = o->nodes ? o->nodes : 1 + sim_below(&s->rng, 5);
	s->migration = o->seed % 4 == 0;
	s->plan = plan_of(s->n, s->migration);
	s->node = sim_alloc(s, s->n * sizeof *s->node);
	fresh_disks(s, s->n);
	for (size_t i = 0; i < s->n; i++)
		sim_node_init(s, i);
	sim_faults_draw(s);
	s->may_revert = sim_chance(&s->rng, 150);
	out->nodes = s->n;
	sim_trace(s, "seed %" PRIu64 ": %zu nodes, %s, faults %u, failures %u per mille", o->seed, s->n,
		  s->migration ? "a migration" : "a rekey", s->fault_rate, s->fail);
	sim_coord_start(s, &s->machine[0], false, false);
}

static void end(sim *s)
{
	for (size_t i = 0; i < SIM_MACHINES; i++)
		if (s->machine[i].coord)
			kt_engine_free(s->machine[i].coord->engine);
	for (size_t i = 0; i < s->n; i++)
		for (sim_talk *t = s->node[i].talks; t; t = t->next) {
			kt_buf_free(&t->in);
			for (size_t q = 0; q < t->queued; q++)
				cJSON_Delete(t->queue[q]);
		}
	s->heap_n = 0;
	sim_memory_reset(s);
}

static void events(sim *s)
{
	size_t max = EVENTS_MIN + EVENTS_PER_NODE * s->n;
	sim_event e;
	for (size_t i = 0; !s->broken[0] && sim_next(s, &e); i++) {
		if (i > max)
			sim_break(s, "S7: no end after %zu events", max);
		e.fn(s, e.who, e.what);
		if (!s->broken[0] && s->faults && s->faults_left && sim_chance(&s->rng, s->fault_rate))
			sim_fault_now(s);
		if (s->faults && s->faults_left == 0 && s->fault_rate)
			sim_heal(s);
		sim_check(s);
		/* Where no more happens the run is over, or a person must look. */
		if (s->heap_n == 0 && !s->broken[0] && !kt_run_state_final(s->last)) {
			if (s->faults)
				sim_heal(s);
			sim_call_operator(s);
		}
	}
}

sim_result sim_run(sim *s, const sim_options *o)
{
	sim_result out = {.end = KT_RUN_NEW};
	begin(s, o, &out);
	events(s);
	if (!s->broken[0])
		sim_check_end(s);
	out.ok = !s->broken[0];
	out.end = s->last;
	(void)snprintf(out.why, sizeof out.why, "%s", s->broken);
	sim_trace(s, "%s", out.ok ? kt_run_state_name(out.end) : out.why);
	end(s);
	return out;
}

void sim_totals_add(sim_totals *t, const sim_result *r)
{
	t->runs++;
	t->end[r->end]++;
	t->deepest[r->deepest]++;
	t->events += r->events;
	t->takes += r->takes;
	t->commits += r->commits;
	t->rekeys += r->rekeys;
	t->restores += r->restores;
	for (size_t i = 0; i < SIM_FAULTS; i++)
		t->fault[i] += r->fault[i];
}

bool sim_many(uint64_t first, size_t runs, size_t nodes, sim_totals *totals, uint64_t *failed, char why[SIM_WHY])
{
	bool ok = true;
	sim *s = sim_new();
	*totals = (sim_totals){0};
	for (uint64_t seed = first; ok && seed < first + runs; seed++) {
		const sim_options o = {.seed = seed, .nodes = nodes};
		sim_result r = sim_run(s, &o);
		sim_totals_add(totals, &r);
		ok = r.ok;
		*failed = seed;
		(void)snprintf(why, SIM_WHY, "%s", r.why);
	}
	sim_free(s);
	return ok;
}

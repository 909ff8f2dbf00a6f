/* SPDX-License-Identifier: Apache-2.0 */
/* One run: a driver that obeys engine.h, a journal that survives, a scheduler that takes every choice from the seed. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

enum { FLIGHTS = 2 * SIM_NODES_MAX, TICKS_MAX = 20000, RESUMES_MAX = 20, TEXT = 24 };

typedef enum stage { ON_WAY, WORKING, ANSWERED } stage;

typedef struct flight {
	sim_request r; /* r.c.args owned */
	stage stage;
	kt_status status;
	cJSON *result;
	kt_err error;
} flight;

/* One entry of the journal. */
typedef struct entry {
	kt_event ev;
	char step[TEXT];
	char node[TEXT];
	cJSON *result;
	kt_err error;
} entry;

typedef struct sim {
	const sim_options *o;
	const cJSON *plan;
	sim_rng rng;
	sim_world w;
	sim_result *out;
	entry *log;
	size_t n_log, cap_log, durable;
	kt_engine *engine; /* NULL: no coordinator runs */
	int64_t epoch;
	int64_t connection[SIM_NODES_MAX];
	flight flight[FLIGHTS];
	size_t flights;
	sim_request late[SIM_LATE];
	size_t n_late;
	bool wake; /* the driver has something to look at */
	unsigned fault_rate;
	unsigned rekey_speed; /* permille: how likely it ends while other things happen */
	size_t faults_left;
	size_t resumes_after;
} sim;

static void trace(const sim *s, const char *fmt, ...) KT_PRINTF(2, 3);
static void trace(const sim *s, const char *fmt, ...)
{
	if (!s->o->trace)
		return;
	va_list ap;
	va_start(ap, fmt);
	(void)vprintf(fmt, ap);
	va_end(ap);
	(void)putchar('\n');
}

/* --- The journal -------------------------------------------------------------------------------------------------- */

static void free_entry(entry *e)
{
	cJSON_Delete(e->result);
}

static void journal(sim *s, const kt_event *ev)
{
	if (s->n_log == s->cap_log) {
		s->cap_log = s->cap_log ? 2 * s->cap_log : 256;
		s->log = realloc(s->log, s->cap_log * sizeof *s->log);
		if (!s->log)
			abort();
	}
	entry *e = &s->log[s->n_log++];
	e->ev = *ev;
	e->result = ev->result ? cJSON_Duplicate(ev->result, true) : NULL;
	(void)snprintf(e->step, sizeof e->step, "%s", ev->step ? ev->step : "");
	(void)snprintf(e->node, sizeof e->node, "%s", ev->node ? ev->node : "");
	if (ev->error)
		e->error = *ev->error;
	e->ev.error = NULL;
	e->ev.result = NULL;
	s->out->events++;
}

/* The entry as an event; its pointers are good until the journal grows. */
static kt_event event_of(const entry *e)
{
	kt_event ev = e->ev;
	bool keyed = ev.kind == KT_EVENT_INTENT || ev.kind == KT_EVENT_OUTCOME;
	ev.step = keyed ? e->step : NULL;
	ev.node = keyed ? e->node : NULL;
	ev.result = e->result;
	ev.error = ev.kind == KT_EVENT_OUTCOME && ev.status != KT_STATUS_OK ? &e->error : NULL;
	return ev;
}

static void forget_undurable(sim *s)
{
	while (s->n_log > s->durable)
		free_entry(&s->log[--s->n_log]);
}

/* S8: what arrives at a node stands in the journal. */
static void check_recorded(sim *s, const kt_command *c)
{
	for (size_t i = s->durable; i-- > 0;) {
		const entry *e = &s->log[i];
		if (e->ev.kind == KT_EVENT_INTENT && e->ev.attempt == c->attempt && e->ev.role == c->role &&
		    strcmp(e->step, c->step) == 0 && strcmp(e->node, c->node) == 0)
			return;
	}
	sim_world_break(&s->w, "S8: %s on %s is done without a record", c->step, c->node);
}

/* --- Checks ------------------------------------------------------------------------------------------------------- */

static void check(sim *s)
{
	sim_world_check(&s->w);
#ifndef KT_PLANTED_BUGS /* a planted bug is to be seen in the world, not by the engine itself */
	if (s->engine && !kt_engine_sane(s->engine))
		sim_world_break(&s->w, "an invariant of the engine does not hold");
#endif
}

static bool broken(const sim *s)
{
	return s->w.broken[0] != '\0';
}

/* Journal and apply; what does not fit is a bug of engine or driver. */
static void record(sim *s, const kt_event *ev)
{
	kt_err err = KT_ERR_INIT;
	journal(s, ev);
	if (kt_engine_apply(s->engine, ev, &err) != KT_OK)
		sim_world_break(&s->w, "the engine does not take its own event: %s", err.msg);
	check(s);
}

/* --- The driver --------------------------------------------------------------------------------------------------- */

static void drop_flight(sim *s, size_t i)
{
	kt_command_free(&s->flight[i].r.c);
	cJSON_Delete(s->flight[i].result);
	s->flight[i] = s->flight[--s->flights];
}

static size_t node_index(const char *name)
{
	return name[0] == '@' ? SIM_NODES_MAX : (size_t)strtoul(name + 1, NULL, 10);
}

/* Takes over the arguments. */
static void add_flight(sim *s, kt_command *c)
{
	if (s->flights == FLIGHTS)
		abort();
	flight *f = &s->flight[s->flights++];
	*f = (flight){.r = {.c = *c, .epoch = s->epoch, .node = node_index(c->node)}};
	c->args = NULL;
	if (f->r.c.place == KT_PLACE_NODE)
		f->r.connection = s->connection[f->r.node];
	if (f->r.c.problem.code != KT_OK) {
		f->stage = ANSWERED;
		f->status = KT_STATUS_FAILED;
		f->error = f->r.c.problem;
		s->wake = true;
	}
}

static void answer_unreachable(sim *s, flight *f)
{
	cJSON_Delete(f->result);
	f->result = NULL;
	f->stage = ANSWERED;
	f->status = sim_chance(&s->rng, 500) ? KT_STATUS_FAILED : KT_STATUS_UNKNOWN;
	KT_IGNORE(kt_fail(&f->error, KT_E_UNREACHABLE, NULL, "%s cannot be reached", f->r.c.node));
	if (f->r.node < SIM_NODES_MAX)
		s->connection[f->r.node]++;
	s->wake = true;
}

/* The coordinator dies: what was not durable is lost; requests on their way are lost, or arrive some time later. */
static void coordinator_dies(sim *s)
{
	trace(s, "-- the coordinator dies; %zu entries lost", s->n_log - s->durable);
	forget_undurable(s);
	kt_engine_free(s->engine);
	s->engine = NULL;
	s->out->crashes++;
	while (s->flights) {
		flight *f = &s->flight[s->flights - 1];
		if (f->stage == ON_WAY && f->r.c.place == KT_PLACE_NODE && s->n_late < SIM_LATE &&
		    sim_chance(&s->rng, 400)) {
			s->late[s->n_late++] = f->r;
			f->r.c.args = NULL;
		}
		drop_flight(s, s->flights - 1);
	}
}

/* Does the coordinator die here? What is in flight from `old` on was not sent yet: lost for good. The moment between
 * the rekey's intent and its sending is the most delicate of all, and is tried more often. */
static bool dies_now(sim *s, size_t old)
{
	bool delicate = kt_engine_state(s->engine).rekey_started && s->w.rekey_started == 0;
	if (!s->faults_left || !sim_chance(&s->rng, delicate ? 10 * s->fault_rate : s->fault_rate))
		return false;
	while (s->flights > old)
		drop_flight(s, s->flights - 1);
	s->faults_left--;
	coordinator_dies(s);
	return true;
}

static void take_outcomes(sim *s)
{
	for (size_t i = 0; i < s->flights && !broken(s);) {
		flight *f = &s->flight[i];
		if (f->stage != ANSWERED) {
			i++;
			continue;
		}
		const kt_event ev = {.kind = KT_EVENT_OUTCOME,
				     .step = f->r.c.step,
				     .role = f->r.c.role,
				     .node = f->r.c.node,
				     .attempt = f->r.c.attempt,
				     .status = f->status,
				     .result = f->result,
				     .error = f->status == KT_STATUS_OK ? NULL : &f->error};
		trace(s, "outcome %s %s %s #%" PRId64 ": %s %s", ev.step, kt_role_name(ev.role), ev.node, ev.attempt,
		      kt_status_name(ev.status), ev.error ? ev.error->msg : "");
		record(s, &ev);
		drop_flight(s, i);
	}
}

/* Intents, put into the journal and not yet sent: their flights begin at *first. */
static void make_intents(sim *s)
{
	bool have = true;
	while (have && !broken(s)) {
		kt_command c;
		kt_err err = KT_ERR_INIT;
		if (kt_engine_next(s->engine, &c, &have, &err) != KT_OK)
			abort();
		if (!have)
			return;
		const kt_event ev = {
			.kind = KT_EVENT_INTENT, .step = c.step, .role = c.role, .node = c.node, .attempt = c.attempt};
		trace(s, "intent  %s %s %s #%" PRId64 "%s%s", c.step, kt_role_name(c.role), c.node, c.attempt,
		      c.settle ? " (settle)" : "", c.problem.code == KT_OK ? "" : c.problem.msg);
		add_flight(s, &c);
		record(s, &ev);
	}
}

static void at_rest(sim *s, kt_run_state state)
{
	const kt_event ev = {.kind = KT_EVENT_END, .state = state};
	trace(s, "-- at rest: %s (%s)", kt_run_state_name(state), kt_engine_state(s->engine).reason->msg);
	record(s, &ev);
	s->durable = s->n_log;
	s->out->end = state;
	kt_engine_free(s->engine);
	s->engine = NULL;
}

/* One turn of the driver's loop; it may die before, in or after the commit. */
static void pump(sim *s)
{
	s->wake = false;
	take_outcomes(s);
	size_t old = s->flights;
	if (broken(s))
		return;
	make_intents(s);
	if (broken(s) || dies_now(s, old)) /* before the commit */
		return;
	s->durable = s->n_log;
	if (dies_now(s, old)) /* after it, and before anything is sent */
		return;
	kt_engine_status st = kt_engine_state(s->engine);
	if (st.at_rest && kt_engine_idle(s->engine))
		at_rest(s, st.state);
}

static kt_code send_again(void *user, kt_command *c, kt_err *err)
{
	sim *s = user;
	(void)err;
	trace(s, "again   %s %s %s #%" PRId64 "%s", c->step, kt_role_name(c->role), c->node, c->attempt,
	      c->settle ? " (settle)" : "");
	add_flight(s, c);
	return KT_OK;
}

/* A new coordinator: replay, take, resume. */
static void coordinator_starts(sim *s)
{
	kt_err err = KT_ERR_INIT;
	if (kt_engine_new(s->plan, &s->engine, &err) != KT_OK) {
		sim_world_break(&s->w, "the plan is refused: %s", err.msg);
		return;
	}
	for (size_t i = 0; i < s->n_log && !broken(s); i++) {
		const kt_event ev = event_of(&s->log[i]);
		if (kt_engine_apply(s->engine, &ev, &err) != KT_OK)
			sim_world_break(&s->w, "S7: the journal does not replay: %s", err.msg);
	}
	if (broken(s))
		return;
	if (s->n_log == 0)
		record(s, &(kt_event){.kind = KT_EVENT_BEGIN});
	s->epoch++;
	s->out->resumes++;
	s->faults_left -= s->faults_left > 0; /* patience has an end, also where nothing else goes wrong */
	trace(s, "-- a coordinator takes the run, epoch %" PRId64, s->epoch);
	record(s, &(kt_event){.kind = KT_EVENT_TAKE, .epoch = s->epoch});
	if (!broken(s) && kt_engine_state(s->engine).state == KT_RUN_HELD)
		record(s, &(kt_event){.kind = KT_EVENT_RESUME});
	s->durable = s->n_log;
	if (!broken(s) && kt_engine_in_doubt(s->engine, send_again, s, &err) != KT_OK)
		abort();
	s->wake = true;
	check(s);
}

/* --- The net ------------------------------------------------------------------------------------------------------ */

/* Work of node `node` that nobody will answer any more. */
static void lose_node(sim *s, size_t node)
{
	for (size_t i = 0; i < s->flights; i++)
		if (s->flight[i].r.node == node && s->flight[i].stage == WORKING)
			answer_unreachable(s, &s->flight[i]);
}

static void answer(sim *s, flight *f, sim_reply *r)
{
	f->stage = ANSWERED;
	f->status = r->status;
	f->result = r->result;
	f->error = r->error;
	s->wake = true;
}

static void deliver(sim *s, flight *f)
{
	bool on_node = f->r.c.place == KT_PLACE_NODE;
	if (on_node && (!s->w.node[f->r.node].up || !s->w.node[f->r.node].reachable)) {
		answer_unreachable(s, f);
		return;
	}
	check_recorded(s, &f->r.c);
	sim_reply r = sim_world_act(&s->w, &f->r);
	if (!r.later)
		answer(s, f, &r);
	else if (s->w.node[f->r.node].up)
		f->stage = WORKING;
	else
		answer_unreachable(s, f);
	if (on_node && !s->w.node[f->r.node].up)
		lose_node(s, f->r.node);
	check(s);
}

static void deliver_late(sim *s)
{
	size_t i = sim_below(&s->rng, s->n_late);
	sim_request *r = &s->late[i];
	trace(s, "late    %s %s %s #%" PRId64, r->c.step, kt_role_name(r->c.role), r->c.node, r->c.attempt);
	if (s->w.node[r->node].up) {
		sim_reply reply = sim_world_act(&s->w, r);
		cJSON_Delete(reply.result);
		if (!s->w.node[r->node].up)
			lose_node(s, r->node);
	}
	kt_command_free(&r->c);
	s->late[i] = s->late[--s->n_late];
	check(s);
}

static void rekey_ends(sim *s)
{
	sim_world_rekey_ends(&s->w);
	trace(s, "-- the rekey ends; the data is %d", (int)s->w.data);
	for (size_t i = 0; i < s->flights; i++) {
		flight *f = &s->flight[i];
		if (f->stage != WORKING)
			continue;
		sim_reply r = sim_world_act(&s->w, &f->r); /* the spool answers */
		answer(s, f, &r);
	}
	check(s);
}

/* --- Faults ------------------------------------------------------------------------------------------------------- */

static void fault_connection(sim *s)
{
	if (!s->flights)
		return;
	flight *f = &s->flight[sim_below(&s->rng, s->flights)];
	if (f->r.c.place != KT_PLACE_NODE || f->r.c.problem.code != KT_OK)
		return;
	trace(s, "-- the connection breaks: %s on %s (%s)", f->r.c.step, f->r.c.node,
	      f->stage == ON_WAY    ? "on its way"
	      : f->stage == WORKING ? "working"
				    : "the answer is lost");
	if (f->stage == ON_WAY && s->n_late < SIM_LATE && sim_chance(&s->rng, 500)) {
		s->late[s->n_late] = f->r;
		s->late[s->n_late++].c.args = cJSON_Duplicate(f->r.c.args, true);
	}
	answer_unreachable(s, f);
}

static void fault_node(sim *s)
{
	size_t i = sim_below(&s->rng, s->w.n);
	sim_node *n = &s->w.node[i];
	if (!n->up || !n->reachable) {
		trace(s, "-- n%zu is back", i);
		n->up = n->reachable = true;
	} else if (sim_chance(&s->rng, 500)) {
		trace(s, "-- n%zu crashes", i);
		sim_world_crash(&s->w, i);
		lose_node(s, i);
	} else {
		trace(s, "-- n%zu cannot be reached", i);
		n->reachable = false;
		lose_node(s, i);
	}
}

static void fault_person(sim *s)
{
	bool rollback = sim_chance(&s->rng, 500);
	trace(s, "-- %s", rollback ? "rollback is asked for" : "interrupt");
	record(s, &(kt_event){.kind = rollback ? KT_EVENT_ROLLBACK : KT_EVENT_INTERRUPT});
	s->wake = true;
}

/* Nobody watches, and a person brings a node back by hand, as long as nothing of the rekey was begun on it. */
static void fault_hand(sim *s)
{
	size_t i = sim_below(&s->rng, s->w.n);
	if (s->engine || s->n_late || s->w.rekey_started || !s->w.node[i].up)
		return;
	trace(s, "-- somebody starts n%zu by hand", i);
	sim_world_start_by_hand(&s->w, i);
	if (sim_chance(&s->rng, 500)) {
		trace(s, "-- and stops it again");
		s->w.node[i].service = false;
		s->w.node[i].crashed = true; /* the person took it over */
	}
}

static void fault(sim *s)
{
	s->faults_left--;
	switch (sim_below(&s->rng, 8)) {
	case 0:
	case 1:
		if (s->engine)
			coordinator_dies(s);
		else
			fault_hand(s);
		return;
	case 2:
	case 3:
		fault_connection(s);
		return;
	case 4:
	case 5:
		fault_node(s);
		return;
	case 6:
		if (s->engine && !kt_engine_state(s->engine).at_rest)
			fault_person(s);
		return;
	default:
		fault_hand(s);
	}
}

/* All is well again, and must come to an end. */
static void heal(sim *s)
{
	trace(s, "-- no more faults");
	s->w.faults = false;
	for (size_t i = 0; i < s->w.n; i++)
		s->w.node[i].up = s->w.node[i].reachable = true;
}

/* --- The scheduler ------------------------------------------------------------------------------------------------ */

static flight *random_on_way(sim *s)
{
	size_t n = 0;
	for (size_t i = 0; i < s->flights; i++)
		n += s->flight[i].stage == ON_WAY;
	if (!n)
		return NULL;
	n = sim_below(&s->rng, n);
	for (size_t i = 0;; i++)
		if (s->flight[i].stage == ON_WAY && n-- == 0)
			return &s->flight[i];
}

typedef enum move { PUMP, DELIVER, LATE, REKEY_ENDS, START, MOVES } move;

static void make_move(sim *s)
{
	flight *f = random_on_way(s);
	bool busy = f || s->wake || !s->engine;
	const bool can[MOVES] = {
		[PUMP] = s->engine && s->wake,
		[DELIVER] = s->engine && f,
		[LATE] = s->n_late > 0,
		[REKEY_ENDS] = s->w.rekey_running && (!busy || sim_chance(&s->rng, s->rekey_speed)),
		[START] = !s->engine,
	};
	size_t n = 0;
	move list[MOVES];
	for (int m = 0; m < MOVES; m++)
		if (can[m])
			list[n++] = (move)m;
	if (!n) {
		sim_world_break(&s->w, "S7: nothing is wanted, nothing is under way, and the run is not at rest");
		return;
	}
	switch (list[sim_below(&s->rng, n)]) {
	case PUMP:
		pump(s);
		return;
	case DELIVER:
		deliver(s, f);
		return;
	case LATE:
		deliver_late(s);
		return;
	case REKEY_ENDS:
		rekey_ends(s);
		return;
	default:
		if (!s->w.faults && ++s->resumes_after > RESUMES_MAX)
			sim_world_break(&s->w, "S7: %d resumes without faults bring no end", (int)RESUMES_MAX);
		coordinator_starts(s);
	}
}

/* --- The end ------------------------------------------------------------------------------------------------------ */

static void check_end(sim *s)
{
	const sim_world *w = &s->w;
	sim_key key = s->out->end == KT_RUN_TURNED ? SIM_NEW : SIM_OLD;
	if (w->data != key || w->rekey_running)
		sim_world_break(&s->w, "S7: the run is %s and the data is not on that key",
				kt_run_state_name(s->out->end));
	if (s->out->end == KT_RUN_REFUSED && (w->changed || w->rekey_started))
		sim_world_break(&s->w, "S7: the run is refused and something was changed");
	for (size_t i = 0; i < w->n; i++) {
		const sim_node *n = &w->node[i];
		if (n->env != key || (key == SIM_NEW && !n->key_file))
			sim_world_break(&s->w, "S7: the run is %s and n%zu has the other key",
					kt_run_state_name(s->out->end), i);
		if (!n->service && !n->crashed)
			sim_world_break(&s->w, "S7: the run is %s and n%zu does not run",
					kt_run_state_name(s->out->end), i);
		if (key == SIM_OLD && n->key_file)
			sim_world_break(&s->w, "S7: the run is %s and n%zu keeps the new key",
					kt_run_state_name(s->out->end), i);
	}
}

static void schedule(sim *s)
{
	for (size_t tick = 0; !broken(s) && !kt_run_state_final(s->out->end); tick++) {
		if (tick > TICKS_MAX)
			sim_world_break(&s->w, "S7: no end after %d ticks", (int)TICKS_MAX);
		if (s->w.faults && s->faults_left == 0)
			heal(s);
		if (s->faults_left && sim_chance(&s->rng, s->fault_rate))
			fault(s);
		else
			make_move(s);
	}
	if (s->w.faults)
		heal(s);
	while (!broken(s) && s->n_late) /* what arrives after the end must not matter */
		deliver_late(s);
	check(s);
	if (!broken(s))
		check_end(s);
}

static void finish(sim *s)
{
	while (s->flights)
		drop_flight(s, s->flights - 1);
	while (s->n_late)
		kt_command_free(&s->late[--s->n_late].c);
	s->durable = 0;
	forget_undurable(s);
	free(s->log);
	kt_engine_free(s->engine);
	sim_world_free(&s->w);
}

sim_result sim_run(const sim_options *o, const cJSON *plans[SIM_NODES_MAX + 1])
{
	static const unsigned fault_rates[] = {0, 5, 20, 60, 150};
	static const unsigned fail_rates[] = {0, 0, 5, 20, 80};
	sim_result out = {.end = KT_RUN_NEW};
	sim s = {.o = o, .rng = {o->seed * 2 + 1}, .out = &out};
	size_t nodes = o->nodes ? o->nodes : 1 + sim_below(&s.rng, 5);
	s.plan = plans[nodes];
	sim_world_init(&s.w, &s.rng, nodes);
	s.fault_rate = fault_rates[sim_below(&s.rng, 5)];
	s.w.fail = fail_rates[sim_below(&s.rng, 5)];
	s.rekey_speed = sim_chance(&s.rng, 500) ? 1000 : 20;
	s.faults_left = 1 + (s.fault_rate ? sim_below(&s.rng, 12) : 40);
	trace(&s, "seed %" PRIu64 ": %zu nodes, faults %u, failures %u per mille", o->seed, nodes, s.fault_rate,
	      s.w.fail);
	schedule(&s);
	out.ok = !broken(&s);
	out.rekeyed = s.w.rekey_started > 0;
	(void)snprintf(out.why, sizeof out.why, "%s", s.w.broken);
	trace(&s, "%s", out.ok ? kt_run_state_name(out.end) : out.why);
	finish(&s);
	return out;
}

bool sim_many(uint64_t first, size_t runs, size_t nodes, sim_totals *totals, uint64_t *failed, char why[SIM_WHY])
{
	cJSON *made[SIM_NODES_MAX + 1] = {0};
	const cJSON *plans[SIM_NODES_MAX + 1] = {0};
	bool ok = true;
	for (size_t i = 1; i <= SIM_NODES_MAX; i++)
		plans[i] = made[i] = sim_plan(i);
	*totals = (sim_totals){0};
	for (uint64_t seed = first; ok && seed < first + runs; seed++) {
		const sim_options o = {.seed = seed, .nodes = nodes};
		sim_result r = sim_run(&o, plans);
		totals->runs++;
		totals->turned += r.end == KT_RUN_TURNED;
		totals->rolled_back += r.end == KT_RUN_ROLLED_BACK;
		totals->refused += r.end == KT_RUN_REFUSED;
		totals->events += r.events;
		totals->crashes += r.crashes;
		totals->resumes += r.resumes;
		ok = r.ok;
		*failed = seed;
		(void)snprintf(why, SIM_WHY, "%s", r.why);
	}
	for (size_t i = 1; i <= SIM_NODES_MAX; i++)
		cJSON_Delete(made[i]);
	return ok;
}

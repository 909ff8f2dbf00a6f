/* SPDX-License-Identifier: Apache-2.0 */
/* What goes wrong, and the person who resumes the run. */
#include <inttypes.h>
#include <string.h>

#include "tests/sim/sim.h"

enum { CALM_RESUMES_MAX = 60, MINUTE = 60000, DAY = 24 * 60 * MINUTE };

static const char *const names[SIM_FAULTS] = {
	[SIM_COORDINATOR_DIES] = "coordinator dies",
	[SIM_NODE_CRASHES] = "node crashes",
	[SIM_AGENT_KILLED] = "agent killed",
	[SIM_RUNNER_KILLED] = "runner killed",
	[SIM_CONNECTION_BREAKS] = "connection breaks",
	[SIM_PARTITION] = "partition",
	[SIM_NODE_STUCK] = "node stuck",
	[SIM_NODE_SLOW] = "node slow",
	[SIM_DISK_FULL] = "node's disk full",
	[SIM_JOURNAL_FULL] = "journal's disk full",
	[SIM_HSM_SESSION_LOST] = "HSM session lost",
	[SIM_CLOCK_JUMPS] = "clock jumps",
	[SIM_INTERRUPT] = "interrupt",
	[SIM_ROLLBACK] = "rollback",
	[SIM_REVERT] = "revert",
	[SIM_BY_HAND] = "started by hand",
	[SIM_SECOND_COORDINATOR] = "second coordinator",
	[SIM_STATE_MOVED] = "state folder moved",
	[SIM_VERB_FAILS] = "action fails or lies",
	[SIM_REKEY_LIES] = "rekey lies",
	[SIM_LATE_REQUEST] = "late request",
	[SIM_TORN_RECORD] = "torn record",
};

const char *sim_fault_name(sim_fault f)
{
	return names[f];
}

void sim_count(sim *s, sim_fault f)
{
	s->out->fault[f]++;
}

bool sim_goes_wrong(sim *s)
{
	bool yes = s->faults && sim_chance(&s->rng, s->fail);
	if (yes)
		sim_count(s, SIM_VERB_FAILS);
	return yes;
}

void sim_faults_draw(sim *s)
{
	static const unsigned fault_rates[] = {0, 3, 10, 30, 80};
	static const unsigned fail_rates[] = {0, 0, 5, 20, 60};
	s->faults = !s->o->quiet;
	s->fault_rate = fault_rates[sim_below(&s->rng, 5)];
	s->fail = s->faults ? fail_rates[sim_below(&s->rng, 5)] : 0;
	s->faults_left = s->fault_rate ? 1 + sim_below(&s->rng, 14) : 0;
	for (size_t i = 0; i < SIM_MACHINES; i++)
		s->machine[i] = (sim_machine){.index = i, .clock = (int64_t)sim_below(&s->rng, 2 * MINUTE)};
}

/* --- Who and where ------------------------------------------------------------------------------------------------ */

/* The rekey's node more often than the others. */
static sim_node *some_node(sim *s)
{
	return &s->node[sim_chance(&s->rng, 300) ? 0 : sim_below(&s->rng, s->n)];
}

static sim_coord *some_coord(sim *s)
{
	size_t first = sim_below(&s->rng, SIM_MACHINES);
	for (size_t i = 0; i < SIM_MACHINES; i++) {
		sim_coord *c = s->machine[(first + i) % SIM_MACHINES].coord;
		if (c)
			return c;
	}
	return NULL;
}

static sim_machine *newest(sim *s)
{
	sim_machine *best = NULL;
	for (size_t i = 0; i < SIM_MACHINES; i++) {
		sim_machine *m = &s->machine[i];
		if (m->has_journal && !m->coord && (!best || m->journal.epoch > best->journal.epoch))
			best = m;
	}
	return best;
}

static sim_machine *another_machine(sim *s, const sim_machine *than)
{
	return &s->machine[(than->index + 1 + sim_below(&s->rng, SIM_MACHINES - 1)) % SIM_MACHINES];
}

/* --- Faults ------------------------------------------------------------------------------------------------------- */

static void fault_coordinator(sim *s)
{
	sim_coord *c = some_coord(s);
	if (!c)
		return;
	sim_count(s, SIM_COORDINATOR_DIES);
	sim_coord_dies(c, "killed");
}

/* One to which a request is on its way, if there is one: that is when it matters. */
static sim_node *busy_node(sim *s)
{
	size_t first = sim_below(&s->rng, s->n);
	for (size_t i = 0; i < s->n; i++) {
		sim_node *n = &s->node[(first + i) % s->n];
		if (n->talks && n->talks->to_agent > s->now)
			return n;
	}
	return some_node(s);
}

static void fault_connection(sim *s)
{
	sim_node *n = busy_node(s);
	if (!n->talks)
		return;
	sim_trace(s, "-- a connection to %s breaks", n->name);
	sim_count(s, SIM_CONNECTION_BREAKS);
	sim_connection_breaks(s, n->talks, (int64_t)sim_below(&s->rng, 100));
}

static void fault_crash(sim *s)
{
	sim_node *n = some_node(s);
	if (n->up)
		sim_node_crash(s, n);
}

static void fault_agent(sim *s)
{
	sim_node *n = some_node(s);
	if (n->talks)
		sim_agent_killed(s, n->talks);
}

static void fault_runner(sim *s)
{
	sim_runner_kill(s, &s->node[0]);
}

static void heal_cut(sim *s, void *node, int64_t what)
{
	sim_node *n = node;
	(void)what;
	memset(n->cut, 0, sizeof n->cut);
	sim_trace(s, "-- %s can be reached again", n->name);
}

static void fault_partition(sim *s)
{
	sim_node *n = busy_node(s);
	bool all = sim_chance(&s->rng, 500);
	size_t one = sim_below(&s->rng, SIM_MACHINES);
	for (size_t i = 0; i < SIM_MACHINES; i++)
		n->cut[i] |= all || i == one;
	sim_trace(s, "-- %s is cut off from %s", n->name, all ? "all" : "one machine");
	sim_count(s, SIM_PARTITION);
	for (sim_talk *t = n->talks; t; t = t->next)
		if (n->cut[t->coord->machine->index])
			sim_connection_breaks(s, t, 15000); /* when the pings get no answer */
	sim_after(s, (int64_t)sim_below(&s->rng, 3 * MINUTE), heal_cut, n, 0);
}

static void fault_stuck(sim *s)
{
	sim_node *n = busy_node(s);
	int64_t ms = (int64_t)sim_below(&s->rng, 2 * MINUTE);
	sim_trace(s, "-- %s stands still for %" PRId64 " s", n->name, ms / 1000);
	sim_count(s, SIM_NODE_STUCK);
	n->stuck_until = s->now + ms;
	for (sim_talk *t = n->talks; t && ms > 15000; t = t->next)
		if (t->open && t->coord->alive)
			sim_after(s, 15000, sim_link_lost, t, 0);
}

static void fault_slow(sim *s)
{
	sim_count(s, SIM_NODE_SLOW);
	some_node(s)->slow = (int64_t)sim_below(&s->rng, 5000);
}

static void make_room(sim *s, void *node, int64_t what)
{
	sim_node *n = node;
	(void)s, (void)what;
	n->full = false;
	sim_disk_limit(n->disk, SIZE_MAX);
}

static void fault_disk_full(sim *s)
{
	sim_node *n = some_node(s);
	sim_trace(s, "-- the disk of %s is full", n->name);
	sim_count(s, SIM_DISK_FULL);
	n->full = true;
	sim_disk_limit(n->disk, sim_disk_used(n->disk) + sim_below(&s->rng, 16) * SIM_DISK_BLOCK);
	sim_after(s, (int64_t)sim_below(&s->rng, 3 * MINUTE), make_room, n, 0);
}

static void fault_journal_full(sim *s)
{
	const sim_coord *c = some_coord(s);
	if (!c)
		return;
	sim_trace(s, "-- no room for the journal on machine %zu", c->machine->index);
	sim_count(s, SIM_JOURNAL_FULL);
	c->machine->full = true;
}

static void fault_hsm(sim *s)
{
	sim_coord *c = some_coord(s);
	if (!c)
		return;
	sim_trace(s, "-- the HSM's session is lost");
	sim_count(s, SIM_HSM_SESSION_LOST);
	c->hsm_lost = true;
}

static void fault_clock(sim *s)
{
	sim_machine *m = &s->machine[sim_below(&s->rng, SIM_MACHINES)];
	m->clock += (int64_t)sim_below(&s->rng, 2 * DAY) - DAY;
	sim_trace(s, "-- the clock of machine %zu jumps", m->index);
	sim_count(s, SIM_CLOCK_JUMPS);
}

static void fault_person(sim *s)
{
	sim_coord *c = some_coord(s);
	bool rollback = sim_chance(&s->rng, 500);
	if (!c)
		return;
	sim_count(s, rollback ? SIM_ROLLBACK : SIM_INTERRUPT);
	sim_coord_person(c, rollback ? KT_EVENT_ROLLBACK : KT_EVENT_INTERRUPT);
}

/* Nobody watches and nothing is on its way, and a person brings a node back by hand; after the rekey only where the
 * application would open the data. */
static void fault_hand(sim *s)
{
	sim_node *n = some_node(s);
	if (some_coord(s) || s->on_way || s->node[0].runner.spool || !n->up || n->service)
		return;
	if (n->dirty)
		sim_node_look(n);
	if (n->env != s->w.data)
		return;
	sim_trace(s, "-- somebody starts %s by hand", n->name);
	sim_count(s, SIM_BY_HAND);
	n->service = n->by_hand = n->may_be_down = true;
	n->runs_with = n->env;
	s->w.version += s->w.rekey_started == 0;
	if (sim_chance(&s->rng, 500)) {
		sim_trace(s, "-- and stops it again");
		n->service = n->by_hand = false;
	}
}

void sim_by_hand(sim *s, void *unused, int64_t unused_too)
{
	(void)unused, (void)unused_too;
	if (s->faults)
		fault_hand(s);
}

/* Another machine with a copy of the state folder takes the run, and the first one lives on. */
static void fault_second(sim *s)
{
	const sim_coord *c = some_coord(s);
	if (!c || c->machine->journal.durable == 0) /* there is no run to be taken */
		return;
	sim_machine *m = another_machine(s, c->machine);
	if (m->coord || !sim_journal_may_copy(c->machine, m))
		return;
	sim_trace(s, "-- the state folder of machine %zu is copied to machine %zu", c->machine->index, m->index);
	sim_count(s, SIM_SECOND_COORDINATOR);
	sim_journal_copy(s, c->machine, m);
	sim_coord_start(s, m, sim_chance(&s->rng, 200), false);
}

static void (*const fault_table[])(sim *) = {
	fault_coordinator, fault_coordinator, fault_connection,   fault_connection, fault_crash,
	fault_crash,       fault_agent,       fault_runner,       fault_partition,  fault_stuck,
	fault_slow,        fault_disk_full,   fault_journal_full, fault_hsm,        fault_clock,
	fault_person,      fault_hand,        fault_hand,         fault_second,
};

void sim_fault_now(sim *s)
{
	s->faults_left--;
	fault_table[sim_below(&s->rng, sizeof fault_table / sizeof fault_table[0])](s);
}

/* All is well again, and must come to an end. */
void sim_heal(sim *s)
{
	sim_trace(s, "-- no more faults");
	s->faults = false;
	for (size_t i = 0; i < s->n; i++) {
		sim_node *n = &s->node[i];
		memset(n->cut, 0, sizeof n->cut);
		n->stuck_until = n->slow = 0;
		make_room(s, n, 0);
		sim_node_boot(s, n, n->boots);
	}
	for (size_t i = 0; i < SIM_MACHINES; i++)
		s->machine[i].full = false;
}

/* --- The operator ------------------------------------------------------------------------------------------------- */

static void look_after_things(sim *s)
{
	for (size_t i = 0; i < s->n; i++) {
		sim_node *n = &s->node[i];
		if (n->by_hand)
			n->service = n->by_hand = false;
	}
	for (size_t i = 0; i < SIM_MACHINES; i++)
		s->machine[i].full = false;
}

/* Usually the machine with the newest journal; sometimes an old one, or its folder is copied to another machine first.
 */
static sim_machine *choose_machine(sim *s)
{
	sim_machine *m = newest(s);
	if (!m)
		return &s->machine[0];
	sim_machine *other = another_machine(s, m);
	if (s->refused && other->has_journal && sim_chance(&s->rng, 500))
		return other;
	if (!s->faults || m->journal.durable == 0 || sim_chance(&s->rng, 700))
		return m;
	if (sim_chance(&s->rng, 500) && other->has_journal)
		return other;
	if (!sim_journal_may_copy(m, other))
		return m;
	sim_trace(s, "-- the state folder moves from machine %zu to machine %zu", m->index, other->index);
	sim_count(s, SIM_STATE_MOVED);
	sim_journal_copy(s, m, other);
	return other;
}

static void operator(sim *s, void *who, int64_t what)
{
	(void)who, (void)what;
	s->operator_called = false;
	if (some_coord(s))
		return;
	bool revert = false;
	if (kt_run_state_final(s->last)) {
		revert = s->last == KT_RUN_TURNED && !s->w.reverted && s->may_revert;
		if (!revert)
			return;
		sim_trace(s, "-- the old key is wanted back");
		sim_count(s, SIM_REVERT);
		s->w.reverted = true;
		s->last = KT_RUN_BACK;
	}
	if (!s->faults && ++s->calm_resumes > CALM_RESUMES_MAX) {
		sim_break(s, "S7: %d resumes without faults bring no end", (int)CALM_RESUMES_MAX);
		return;
	}
	if (s->faults_left)
		s->faults_left--; /* patience has an end, also where nothing else goes wrong */
	look_after_things(s);
	bool rollback =
		s->faults && sim_chance(&s->rng, 100); /* in this order: the compiler has no say in the schedule */
	sim_coord_start(s, revert ? newest(s) : choose_machine(s), rollback, s->w.reverted);
}

void sim_call_operator(sim *s)
{
	if (s->operator_called)
		return;
	s->operator_called = true;
	sim_after(s, 1000 + (int64_t)sim_below(&s->rng, MINUTE), operator, NULL, 0);
}

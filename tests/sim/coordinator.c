/* SPDX-License-Identifier: Apache-2.0 */
/* A coordinator: the rules of orchestrator/turn/turn.c. Intents are durable before anything is sent; outcomes alone may
 * wait a short window for their commit; a coordinator may die at each of these points. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/planted.h"
#include "orchestrator/playbook/playbook.h"
#include "tests/sim/sim.h"

enum { COMMIT_LATE_MS = 500, HAND_MS = 1000, HSM_MS = 30, LINKS = 1 << 20, EPOCH_BASE = 1000000 };

static bool broken(const sim *s)
{
	return s->broken[0] != '\0';
}

static void push(sim_flight ***end, sim_flight *f)
{
	f->next = NULL;
	**end = f;
	*end = &f->next;
}

static sim_flight *pop(sim_flight **first, sim_flight ***end)
{
	sim_flight *f = *first;
	if (f && !(*first = f->next))
		*end = first;
	return f;
}

/* --- Ends --------------------------------------------------------------------------------------------------------- */

void sim_coord_gone(sim_coord *c)
{
	sim *s = c->s;
	c->alive = false;
	c->machine->coord = NULL;
	for (size_t i = 0; i < s->n; i++) {
		sim_talk *t = c->link[i].talk;
		if (t) {
			sim_connection_breaks(s, t, -1);
			t->open = false;
		}
	}
	kt_engine_free(c->engine);
	c->engine = NULL;
	sim_call_operator(s);
}

void sim_coord_dies(sim_coord *c, const char *why)
{
	sim_trace(c->s, "-- the coordinator on machine %zu dies: %s", c->machine->index, why);
	sim_journal_crash(c->s, c->machine);
	sim_coord_gone(c);
}

/* Does it die here? The moments around the rekey's first intent are the most delicate, and are tried more often. */
static bool dies_now(sim_coord *c, const char *where)
{
	sim *s = c->s;
	if (!s->faults || !s->faults_left)
		return false;
	bool delicate = kt_engine_state(c->engine).rekey_started && s->w.rekey_started == 0;
	if (!sim_chance(&s->rng, delicate ? 10 * s->fault_rate : s->fault_rate / 2))
		return false;
	s->faults_left--;
	sim_count(s, SIM_COORDINATOR_DIES);
	sim_coord_dies(c, where);
	if (delicate && sim_chance(&s->rng, 500))
		sim_after(s, (int64_t)sim_below(&s->rng, HAND_MS), sim_by_hand, NULL, 0);
	return true;
}

/* --- Recording ---------------------------------------------------------------------------------------------------- */

static void record(sim_coord *c, const kt_event *ev)
{
	kt_err err = KT_ERR_INIT;
	sim_journal_append(c->s, &c->machine->journal, ev);
	if (kt_engine_apply(c->engine, ev, &err) != KT_OK)
		sim_break(c->s, "the engine does not take its own event: %s", err.msg);
}

static bool commit(sim_coord *c)
{
	if (c->machine->journal.n > c->machine->journal.durable && !sim_journal_commit(c->s, c->machine)) {
		sim_coord_dies(c, "its journal cannot be written");
		return false;
	}
	kt_group_committed(&c->group, c->s->now, c->s->now);
	return true;
}

/* --- Flights ------------------------------------------------------------------------------------------------------ */

static void pump(sim *s, void *coord, int64_t what);

void sim_coord_wake(sim_coord *c)
{
	if (c->wake || !c->alive)
		return;
	c->wake = true;
	sim_after(c->s, 0, pump, c, 0);
}

void sim_arrive(sim_flight *f, kt_status status, cJSON *result, const kt_err *error)
{
	if (f->over)
		return;
	f->over = true;
	f->status = status;
	f->result = result;
	if (status != KT_STATUS_OK) {
		kt_err *copy = sim_alloc(f->coord->s, sizeof *copy);
		*copy = *error;
		f->error = copy;
	}
	if (strcmp(f->c.step, "facts") == 0) {
		sim_takeover_answer(f);
		return;
	}
	push(&f->coord->arrived_end, f);
	sim_coord_wake(f->coord);
}

sim_flight *sim_flight_new(sim_coord *c, const kt_command *cmd)
{
	sim_flight *f = sim_alloc(c->s, sizeof *f);
	f->coord = c;
	f->older = c->flights;
	c->flights = f;
	f->c = *cmd;
	f->begun = c->s->now;
	c->under_way += c->stage == SIM_STAGE_RUN;
	if (cmd->args)
		(void)sim_keep(c->s, cmd->args);
	f->node = cmd->place == KT_PLACE_NODE ? (size_t)strtoul(cmd->node + 1, NULL, 10) : SIZE_MAX;
	return f;
}

static void act_here(sim *s, void *flight, int64_t what)
{
	sim_flight *f = flight;
	kt_err err = KT_ERR_INIT;
	kt_status status;
	(void)what;
	if (!f->coord->alive)
		return;
	cJSON *result = sim_keep(s, cJSON_CreateObject());
	sim_world_act(f->coord, &f->c, &status, result, &err);
	sim_arrive(f, status, result, &err);
}

static void execute(sim *s, void *flight, int64_t what)
{
	sim_flight *f = flight;
	(void)what;
	if (!f->coord->alive || f->over)
		return;
	f->delayed = false;
	if (f->c.problem.code != KT_OK)
		sim_arrive(f, KT_STATUS_FAILED, NULL, &f->c.problem);
	else if (f->c.place == KT_PLACE_NODE)
		sim_ask(f);
	else
		sim_after(s, 1 + (int64_t)sim_below(&s->rng, HSM_MS), act_here, f, 0);
}

static void launch(sim_coord *c)
{
	for (sim_flight *f; (f = pop(&c->to_send, &c->to_send_end));) {
		f->delayed = f->c.delay_ms > 0;
		if (f->delayed)
			sim_after(c->s, f->c.delay_ms, execute, f, 0);
		else
			execute(c->s, f, 0);
	}
}

/* What waits for its time has not been sent: it ends here, so that the way back does not wait for it. */
static void end_delayed(sim_coord *c)
{
	kt_err err = KT_ERR_INIT;
	KT_IGNORE(kt_fail(&err, KT_E_INTERRUPTED, NULL, "not sent: the run was interrupted"));
	for (sim_flight *f = c->flights; f; f = f->older)
		if (f->delayed)
			sim_arrive(f, KT_STATUS_FAILED, NULL, &err);
}

/* --- The loop ----------------------------------------------------------------------------------------------------- */

static void take_outcomes(sim_coord *c)
{
	for (sim_flight *f; !broken(c->s) && (f = pop(&c->arrived, &c->arrived_end));) {
		const kt_event ev = {.kind = KT_EVENT_OUTCOME,
				     .step = f->c.step,
				     .role = f->c.role,
				     .node = f->c.node,
				     .attempt = f->c.attempt,
				     .status = f->status,
				     .result = f->result,
				     .error = f->error};
		sim_trace(c->s, "outcome %s %s %s #%" PRId64 ": %s %s", ev.step, kt_role_name(ev.role), ev.node,
			  ev.attempt, kt_status_name(ev.status), ev.error ? ev.error->msg : "");
		c->under_way--;
		kt_group_outcome(&c->group, c->s->now, c->s->now - f->begun);
		record(c, &ev);
	}
}

static bool next(sim_coord *c, kt_command *cmd)
{
	bool have;
	kt_err err = KT_ERR_INIT;
	sim_must(kt_engine_next(c->engine, cmd, &have, &err), &err);
	return have;
}

static void make_intents(sim_coord *c, kt_command cmd, bool have)
{
	for (; have && !broken(c->s); have = next(c, &cmd)) {
		push(&c->to_send_end, sim_flight_new(c, &cmd));
		const kt_event ev = {.kind = KT_EVENT_INTENT,
				     .step = cmd.step,
				     .role = cmd.role,
				     .node = cmd.node,
				     .attempt = cmd.attempt};
		sim_trace(c->s, "intent  %s %s %s #%" PRId64 "%s%s", cmd.step, kt_role_name(cmd.role), cmd.node,
			  cmd.attempt, cmd.settle ? " (settle)" : "", cmd.problem.code == KT_OK ? "" : cmd.problem.msg);
		record(c, &ev);
	}
}

static bool at_rest(sim_coord *c)
{
	kt_engine_status st = kt_engine_state(c->engine);
	if (!st.at_rest || !kt_engine_idle(c->engine) || c->arrived)
		return false;
	sim_trace(c->s, "-- at rest on machine %zu: %s (%s)", c->machine->index, kt_run_state_name(st.state),
		  st.reason->msg);
	record(c, &(kt_event){.kind = KT_EVENT_END, .state = st.state});
	return true;
}

/* The phase of the last step that was begun. */
static size_t deepest(const kt_engine *e)
{
	size_t out = 0;
	for (size_t i = 0; i < kt_engine_steps(e); i++) {
		kt_step_status st = kt_engine_step(e, i);
		if (st.ok + st.failed + st.sent)
			out = (size_t)kt_phase_find(st.phase);
	}
	return out;
}

static void told_end(sim_coord *c)
{
	if (sim_nobody_newer(c)) {
		c->s->last = kt_engine_state(c->engine).state;
		c->s->out->deepest = deepest(c->engine);
	}
	sim_coord_gone(c);
}

/* Wait for further outcomes, when the group commit says so? */
static bool waits(sim_coord *c, bool wanted)
{
	int64_t due = kt_group_due(&c->group, (kt_group_view){.wanted = wanted, .under_way = c->under_way});
	if (due <= c->s->now)
		return false;
	if (due < INT64_MAX)
		sim_after(c->s, due - c->s->now, pump, c, 0);
	return true;
}

static void commit_late(sim *s, void *coord, int64_t what)
{
	sim_coord *c = coord;
	(void)s, (void)what;
	if (c->alive)
		(void)commit(c);
}

static void pump(sim *s, void *coord, int64_t what)
{
	sim_coord *c = coord;
	kt_command cmd = {0};
	(void)what;
	if (!c->alive)
		return;
	c->wake = false;
	take_outcomes(c);
	if (broken(s))
		return;
	bool have = next(c, &cmd);
	if (waits(c, have || kt_engine_state(c->engine).at_rest)) {
		kt_command_free(&cmd);
		launch(c); /* what was in doubt has its intent */
		return;
	}
	make_intents(c, cmd, have);
	sim_check_engine(s, c->engine);
	bool rests = !broken(s) && at_rest(c);
	if (broken(s) || dies_now(c, "before the commit"))
		return;
	if (PLANTED(INTENT_NOT_SYNCED) && !rests)
		sim_after(s, COMMIT_LATE_MS, commit_late, c, 0);
	else if (!commit(c))
		return;
	if (dies_now(c, "after the commit"))
		return;
	if (rests)
		told_end(c);
	else
		launch(c);
}

/* --- People ------------------------------------------------------------------------------------------------------- */

void sim_coord_person(sim_coord *c, kt_event_kind kind)
{
	if (!c->alive || !c->engine || c->stage != SIM_STAGE_RUN || kt_engine_state(c->engine).at_rest)
		return;
	sim_trace(c->s, "-- %s", kt_event_kind_name(kind));
	record(c, &(kt_event){.kind = kind});
	kt_group_urgent(&c->group);
	if (!commit(c))
		return;
	if (kind == KT_EVENT_INTERRUPT)
		end_delayed(c);
	sim_coord_wake(c);
}

/* --- Going on ----------------------------------------------------------------------------------------------------- */

static void replay(sim_coord *c)
{
	kt_err err = KT_ERR_INIT;
	const sim_journal *j = &c->machine->journal;
	sim_must(kt_engine_new(c->s->plan, &c->engine, &err), &err);
	for (size_t i = 0; i < j->n && !broken(c->s); i++)
		if (kt_engine_apply(c->engine, &j->entry[i]->ev, &err) != KT_OK)
			sim_break(c->s, "S7: the journal does not replay: %s", err.msg);
}

static kt_code send_again(void *user, kt_command *cmd, kt_err *err)
{
	sim_coord *c = user;
	(void)err;
	sim_trace(c->s, "again   %s %s %s #%" PRId64 "%s", cmd->step, kt_role_name(cmd->role), cmd->node, cmd->attempt,
		  cmd->settle ? " (settle)" : "");
	sim_flight *f = sim_flight_new(c, cmd);
	cmd->args = NULL;
	f->resend = true;
	push(&c->to_send_end, f);
	return KT_OK;
}

void sim_coord_go_on(sim_coord *c)
{
	sim *s = c->s;
	kt_err err = KT_ERR_INIT;
	c->stage = SIM_STAGE_RUN;
	s->last = KT_RUN_FORWARD;
	if (kt_engine_state(c->engine).state == KT_RUN_HELD)
		record(c, &(kt_event){.kind = KT_EVENT_RESUME});
	if (c->rollback)
		record(c, &(kt_event){.kind = KT_EVENT_ROLLBACK});
	if (c->revert)
		record(c, &(kt_event){.kind = KT_EVENT_REVERT});
	kt_group_urgent(&c->group);
	if (!broken(s))
		sim_must(kt_engine_in_doubt(c->engine, send_again, c, &err), &err);
	sim_coord_wake(c);
}

/* The take is durable; false when there is no coordinator any more. */
bool sim_coord_take(sim_coord *c)
{
	sim *s = c->s;
	int64_t wall = EPOCH_BASE + s->now + c->machine->clock;
	int64_t floor = c->floor > c->machine->journal.epoch ? c->floor : c->machine->journal.epoch;
	if (c->machine->journal.n == 0)
		record(c, &(kt_event){.kind = KT_EVENT_BEGIN});
	c->epoch = wall > floor ? wall : floor + 1;
	s->out->takes++;
	sim_trace(s, "-- machine %zu takes the run, epoch %" PRId64, c->machine->index, c->epoch);
	record(c, &(kt_event){.kind = KT_EVENT_TAKE, .epoch = c->epoch});
	c->machine->journal.entry[c->machine->journal.n - 1]->machine = c->machine->index;
	return commit(c) && !broken(s);
}

/* Nothing is to be done any more. */
static bool is_over(const sim_coord *c)
{
	kt_engine_status st = kt_engine_state(c->engine);
	return kt_run_state_final(st.state) && st.ended && !(c->revert && st.state == KT_RUN_TURNED);
}

void sim_coord_start(sim *s, sim_machine *m, bool rollback, bool revert)
{
	sim_coord *c = sim_alloc(s, sizeof *c);
	*c = (sim_coord){.s = s, .machine = m, .alive = true, .rollback = rollback, .revert = revert};
	c->links = (int64_t)sim_below(&s->rng, LINKS) * LINKS;
	c->arrived_end = &c->arrived;
	c->to_send_end = &c->to_send;
	c->link = sim_alloc(s, s->n * sizeof *c->link);
	m->coord = c;
	m->has_journal = true;
	sim_journal_open(s, m);
	sim_trace(s, "-- a coordinator starts on machine %zu", m->index);
	replay(c);
	if (is_over(c))
		told_end(c);
	else if (!broken(s))
		sim_takeover_begin(c);
}

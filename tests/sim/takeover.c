/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a coordinator comes to a run: the rules of orchestrator/turn/takeover.c. First the nodes are asked, outside of
 * the run, whether they know requests of it that this journal does not have: then it is not the newest. After the take
 * they are asked the same under the new epoch, which shuts out whoever had the run before.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/spool.h"
#include "base/planted.h"
#include "tests/sim/sim.h"

enum { LIMIT_S = 5 };

/* The highest attempt of each changing role on that node that has an intent in the journal. */
static void count(const sim_coord *c, const char *node, int64_t *made)
{
	const sim_journal *j = &c->machine->journal;
	size_t steps = kt_engine_steps(c->engine);
	for (size_t i = 0; i < j->n; i++) {
		const kt_event *ev = &j->entry[i]->ev;
		if (ev->kind != KT_EVENT_INTENT || ev->role == KT_ROLE_PROBE || strcmp(ev->node, node) != 0)
			continue;
		size_t step = 0;
		while (step < steps && strcmp(kt_engine_step(c->engine, step).name, ev->step) != 0)
			step++;
		int64_t *at = &made[2 * step + (ev->role == KT_ROLE_UNDO)];
		*at = ev->attempt > *at ? ev->attempt : *at;
	}
}

static bool on_nodes(const kt_engine *e, size_t step, kt_role role)
{
	return kt_engine_targets(e, step, role) > 0 && kt_engine_target(e, step, role, 0).node[0] != '@';
}

/* The name of a request. They are asked for again and again, so they are kept. */
static const char *request_name(const sim_coord *c, size_t step, bool undo, int64_t attempt)
{
	sim *s = c->s;
	size_t kept = (size_t)attempt < SIM_NAMED ? (2 * step + undo) * SIM_NAMED + (size_t)attempt : 0;
	if (!s->request_name)
		s->request_name = sim_alloc(s, 2 * kt_engine_steps(c->engine) * SIM_NAMED * sizeof(char *));
	if (!kept || !s->request_name[kept]) {
		char name[SIM_TEXT];
		(void)snprintf(name, sizeof name, "%s.%s.%d", kt_engine_step(c->engine, step).name,
			       undo ? "undo" : "do", (int)attempt);
		s->request_name[kept] = sim_text(s, name);
	}
	return s->request_name[kept];
}

/* The requests that would come next: whoever has made one of them has a newer journal. */
static cJSON *next_requests(const sim_coord *c, const char *node)
{
	size_t steps = kt_engine_steps(c->engine);
	int64_t *made = sim_alloc(c->s, 2 * steps * sizeof *made);
	cJSON *args = cJSON_CreateObject();
	cJSON *asked = cJSON_AddArrayToObject(args, "asked");
	(void)cJSON_AddStringToObject(args, "run", "r");
	count(c, node, made);
	for (size_t i = 0; i < 2 * steps; i++) {
		if (!on_nodes(c->engine, i / 2, i % 2 ? KT_ROLE_UNDO : KT_ROLE_DO))
			continue;
		const char *name = request_name(c, i / 2, i % 2, made[i] + 1);
		(void)cJSON_AddItemToArray(asked, cJSON_CreateStringReference(name));
	}
	return args;
}

static void ask_all(sim_coord *c)
{
	sim *s = c->s;
	bool fresh = c->machine->journal.n == 0;
	c->asked = s->n;
	c->unheard = 0;
	for (size_t i = 0; i < s->n && c->alive; i++) {
		const kt_command facts = {.place = KT_PLACE_NODE,
					  .step = "facts",
					  .node = s->node[i].name,
					  .attempt = 1,
					  .verb = "facts",
					  .args = fresh ? cJSON_CreateObject() : next_requests(c, s->node[i].name),
					  .timeout_s = LIMIT_S};
		sim_ask(sim_flight_new(c, &facts));
	}
}

/*
 * May a coordinator on another machine still live, that has not been shut out? One that took the run last, or since the
 * last one that went on: who went on had shut out everybody before.
 */
static bool held_elsewhere(const sim_coord *c)
{
	const sim_journal *j = &c->machine->journal;
	for (size_t i = j->n - 1; i-- > 0;) { /* our own take is the last one */
		if (j->entry[i]->ev.kind != KT_EVENT_TAKE)
			continue;
		if (j->entry[i]->machine != c->machine->index)
			return true;
		if (j->entry[i + 1]->ev.kind != KT_EVENT_TAKE)
			return false;
	}
	return false;
}

/*
 * What no node can tell: this journal is an older copy, and the nodes that know better are out of reach
 * (docs/SAFETY.md, "What is not covered"). There a person must know.
 */
static bool older_copy(const sim_coord *c)
{
	for (size_t i = 0; i < SIM_MACHINES; i++) {
		const sim_machine *m = &c->s->machine[i];
		if (m != c->machine && m->has_journal && !sim_journal_may_copy(c->machine, m))
			return true;
	}
	return false;
}

/* Does the journal know all that was begun on the nodes? Else somebody goes on elsewhere, and its word counts. */
bool sim_nobody_newer(const sim_coord *c)
{
	bool out = true;
	size_t journals = 0;
	for (size_t i = 0; i < SIM_MACHINES; i++)
		journals += c->s->machine[i].has_journal;
	for (size_t i = 0; journals > 1 && i < c->s->n; i++) {
		kt_err err = KT_ERR_INIT;
		cJSON *known = cJSON_CreateArray();
		cJSON *args = next_requests(c, c->s->node[i].name);
		sim_enter(&c->s->node[i], 1);
		sim_must(
			kt_spool_known("/sim/state", "r", cJSON_GetObjectItemCaseSensitive(args, "asked"), known, &err),
			&err);
		out &= known->child == NULL;
		cJSON_Delete(args);
		cJSON_Delete(known);
	}
	sim_enter(NULL, 0);
	return out;
}

static void checked(sim_coord *c)
{
	bool fresh = c->machine->journal.n == 0;
	if (!sim_coord_take(c))
		return;
	c->stage = SIM_STAGE_FENCE;
	if (fresh)
		sim_coord_go_on(c);
	else
		ask_all(c);
}

static void give_up(sim_coord *c, const char *why)
{
	sim_trace(c->s, "-- machine %zu: %s", c->machine->index, why);
	c->s->refused = true;
	sim_coord_gone(c);
}

void sim_takeover_answer(sim_flight *f)
{
	sim_coord *c = f->coord;
	const cJSON *epoch = f->result ? cJSON_GetObjectItemCaseSensitive(f->result, "epoch") : NULL;
	const cJSON *known = f->result ? cJSON_GetObjectItemCaseSensitive(f->result, "known") : NULL;
	if (cJSON_IsNumber(epoch) && (int64_t)epoch->valuedouble > c->floor)
		c->floor = (int64_t)epoch->valuedouble;
	c->refused |= known && known->child && !PLANTED(COPY_NOT_CHECKED);
	c->refused |= f->error && f->error->code == KT_E_BUSY; /* somebody else came first */
	c->unheard += f->status != KT_STATUS_OK;
	if (--c->asked > 0)
		return;
	if (c->refused)
		give_up(c, "this journal is not the newest");
	else if (c->stage == SIM_STAGE_CHECK)
		checked(c);
	else if (c->unheard && older_copy(c))
		give_up(c, "a person knows that the newest state folder is another one");
	else if (c->unheard && held_elsewhere(c) && !PLANTED(FENCE_INCOMPLETE))
		give_up(c, "a node cannot be asked, and another machine may hold the run");
	else
		sim_coord_go_on(c);
}

void sim_takeover_begin(sim_coord *c)
{
	ask_all(c);
}

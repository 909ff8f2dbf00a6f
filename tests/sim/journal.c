/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal in memory: entries, of which those of whole transactions survive their coordinator. What was written of a
 * transaction that was not committed may lie behind them, torn; whoever opens the journal drops it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/planted.h"
#include "tests/sim/sim.h"

static void room(sim *s, sim_journal *j, size_t n)
{
	if (n <= j->cap)
		return;
	size_t cap = j->cap ? 2 * j->cap : 256;
	while (cap < n)
		cap *= 2;
	sim_entry **fresh = sim_alloc(s, cap * sizeof *fresh);
	if (j->n)
		memcpy(fresh, j->entry, j->n * sizeof *fresh);
	j->entry = fresh;
	j->cap = cap;
}

void sim_journal_append(sim *s, sim_journal *j, const kt_event *ev)
{
	room(s, j, j->n + 1);
	sim_entry *e = sim_alloc(s, sizeof *e);
	e->ev = *ev;
	j->entry[j->n++] = e;
	s->out->events++;
}

bool sim_journal_commit(sim *s, sim_machine *m)
{
	sim_journal *j = &m->journal;
	if (m->full)
		return false;
	j->commits++;
	s->out->commits++;
	for (; j->durable < j->n; j->durable++)
		if (j->entry[j->durable]->ev.kind == KT_EVENT_TAKE)
			j->epoch = j->entry[j->durable]->ev.epoch;
	return true;
}

/* Of what was not committed some may have reached the disk, the last of it torn. */
void sim_journal_crash(sim *s, sim_machine *m)
{
	sim_journal *j = &m->journal;
	size_t reached = j->durable + sim_below(&s->rng, j->n - j->durable + 1);
	if (reached > j->durable) {
		sim_count(s, SIM_TORN_RECORD);
		sim_entry *torn = sim_alloc(s, sizeof *torn);
		torn->ev = j->entry[reached - 1]->ev;
		torn->ev.result = NULL;
		torn->ev.error = NULL;
		torn->ev.status = KT_STATUS_OK;
		j->entry[reached - 1] = torn;
	}
	j->n = reached;
}

void sim_journal_open(sim *s, sim_machine *m)
{
	(void)s;
	if (PLANTED(TORN_RECORD_ACCEPTED))
		m->journal.durable = m->journal.n;
	m->journal.n = m->journal.durable;
}

bool sim_journal_may_copy(const sim_machine *from, const sim_machine *to)
{
	size_t n = to->journal.durable;
	return n == 0 || (n <= from->journal.durable && to->journal.entry[n - 1] == from->journal.entry[n - 1]);
}

void sim_journal_copy(sim *s, const sim_machine *from, sim_machine *to)
{
	const sim_journal *a = &from->journal;
	to->journal = (sim_journal){.epoch = a->epoch};
	room(s, &to->journal, a->durable);
	if (a->durable)
		memcpy(to->journal.entry, a->entry, a->durable * sizeof(sim_entry *));
	to->journal.n = to->journal.durable = a->durable;
	to->has_journal = true;
}

static bool in_journal(const sim_journal *j, const kt_request *r)
{
	for (size_t i = j->durable; i-- > 0;) {
		const kt_event *ev = &j->entry[i]->ev;
		if (ev->kind == KT_EVENT_INTENT && ev->attempt == r->attempt && ev->role == r->role &&
		    strcmp(ev->node, r->node) == 0 && strcmp(ev->step, r->step) == 0)
			return true;
	}
	return false;
}

bool sim_journal_has_intent(const sim *s, const kt_request *r)
{
	for (size_t i = 0; i < SIM_MACHINES; i++)
		if (in_journal(&s->machine[i].journal, r))
			return true;
	return false;
}

bool sim_journal_has_take(const sim_journal *j, int64_t epoch)
{
	for (size_t i = j->durable; i-- > 0;)
		if (j->entry[i]->ev.kind == KT_EVENT_TAKE && j->entry[i]->ev.epoch == epoch)
			return true;
	return false;
}

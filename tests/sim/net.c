/* SPDX-License-Identifier: Apache-2.0 */
/* The network: bytes take their time, nothing overtakes on one connection, and what was sent on a connection that its
 * coordinator has given up may still arrive. */
#include <string.h>

#include "tests/sim/sim.h"

enum { AGAIN_MS = 20000, GIVEN_UP = 30, LATE_MS = 200000 };

typedef struct message {
	sim_talk *talk;
	size_t n;
	int64_t tries;
	uint8_t bytes[];
} message;

static message *new_message(sim *s, sim_talk *t, const uint8_t *bytes, size_t n)
{
	message *m = sim_alloc(s, sizeof *m + n);
	m->talk = t;
	m->n = n;
	memcpy(m->bytes, bytes, n);
	return m;
}

/* When it arrives, from now on: after everything that was sent before. */
static int64_t arrival(sim *s, int64_t *last, int64_t slow)
{
	int64_t at = s->now + 1 + (int64_t)sim_below(&s->rng, 4) + slow;
	*last = at > *last ? at : *last;
	return *last - s->now;
}

static void at_agent(sim *s, void *what, int64_t unused)
{
	message *m = what;
	sim_talk *t = m->talk;
	sim_node *n = t->node;
	(void)unused;
	bool waits = t->agent && (n->stuck_until > s->now || n->cut[t->coord->machine->index]);
	if (waits && ++m->tries < GIVEN_UP) {
		/* TCP sends again; a machine that stood still goes on where it was. */
		sim_after(s, 1 + (int64_t)sim_below(&s->rng, AGAIN_MS), at_agent, m, 0);
		return;
	}
	s->on_way--;
	if (!t->agent || waits)
		return;
	if (!t->open || !t->coord->alive) {
		sim_count(s, SIM_LATE_REQUEST);
		sim_trace(s, "-- late at %s:", n->name);
	}
	sim_node_receive(s, t, m->bytes, m->n);
}

static void at_coord(sim *s, void *what, int64_t unused)
{
	message *m = what;
	(void)unused;
	if (!m->talk->open || !m->talk->coord->alive)
		return;
	if (m->talk->node->cut[m->talk->coord->machine->index]) {
		if (++m->tries < GIVEN_UP)
			sim_after(s, 1 + (int64_t)sim_below(&s->rng, AGAIN_MS), at_coord, m, 0);
		return;
	}
	sim_reply_came(s, m->talk, m->bytes, m->n);
}

void sim_send_to_agent(sim *s, sim_talk *t, const uint8_t *bytes, size_t n)
{
	s->on_way++;
	sim_after(s, arrival(s, &t->to_agent, 0), at_agent, new_message(s, t, bytes, n), 0);
}

void sim_send_to_coord(sim *s, sim_talk *t, const uint8_t *bytes, size_t n)
{
	sim_after(s, arrival(s, &t->to_coord, t->node->slow), at_coord, new_message(s, t, bytes, n), 0);
}

void sim_connection_breaks(sim *s, sim_talk *t, int64_t delay)
{
	if (t->open && t->coord->alive)
		sim_after(s, delay, sim_link_lost, t, 0);
	if (!t->agent)
		return;
	/* What is on its way arrives before the end is seen; sometimes much later. */
	int64_t late = sim_chance(&s->rng, 400) ? (int64_t)sim_below(&s->rng, LATE_MS) : 0;
	if (late && t->to_agent > s->now)
		t->to_agent += late;
	sim_after(s, late + 10, sim_node_eof, t, 0);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Requests and answers as the driver sees them: the rules of orchestrator/turn/nodes.c. A request goes out again under
 * its key after a lost connection, and has exactly one answer. */
#include <string.h>

#include "tests/sim/sim.h"
#include "wire/frame.h"

enum {
	REACH_MS = 60 * 1000,
	GRACE_MS = 30 * 1000,
	FIRST_BACKOFF_MS = 500,
	LAST_BACKOFF_MS = 8000,
	REFUSED_MS = 20,
	CONNECT_TIMEOUT_MS = 20000,
	LOGIN_MS = 30
};

static void reach(sim *s, void *coord, int64_t node);

static sim_flight **place_of(sim_link *l, const sim_flight *f)
{
	sim_flight **at = &l->waiting;
	while (*at && *at != f)
		at = &(*at)->next;
	return at;
}

static void answer(sim_flight *f, kt_status status, cJSON *result, const kt_err *error)
{
	sim_flight **at = place_of(&f->coord->link[f->node], f);
	if (*at)
		*at = f->next;
	sim_arrive(f, status, result, error);
}

static void unreachable(sim_flight *f, const char *why)
{
	kt_err err = KT_ERR_INIT;
	KT_IGNORE(kt_fail(&err, KT_E_UNREACHABLE, NULL, "%s: %s", f->coord->s->node[f->node].name, why));
	answer(f, f->sent_times ? KT_STATUS_UNKNOWN : KT_STATUS_FAILED, NULL, &err);
}

/* A node that was lost in a run is tried again for a while; in the preflight, and when it is only asked what it
 * follows, not. */
static int64_t patience(const sim_flight *f)
{
	static const char *const early[] = {"preflight", "facts"};
	for (size_t i = 0; i < 2; i++)
		if (strcmp(f->c.step, early[i]) == 0 && !f->resend)
			return 0;
	return REACH_MS;
}

static void not_reached(sim_coord *c, sim_link *l)
{
	for (sim_flight *f = l->waiting, *next; f; f = next) {
		next = f->next;
		if (f->in_flight)
			continue;
		if (f->give_up_at == 0)
			f->give_up_at = c->s->now + patience(f);
		if (c->s->now >= f->give_up_at)
			unreachable(f, "cannot be reached");
	}
}

/* --- Sending ------------------------------------------------------------------------------------------------------ */

static void timed_out(sim *s, void *flight, int64_t sending)
{
	sim_flight *f = flight;
	(void)s;
	if (f->coord->alive && f->in_flight && !f->over && f->sent_times == sending) {
		f->in_flight = false;
		unreachable(f, "no answer in time");
	}
}

static void send_one(sim_coord *c, sim_link *l, sim_flight *f)
{
	kt_err err = KT_ERR_INIT;
	kt_buf frame = KT_BUF_INIT;
	cJSON *payload = NULL;
	bool outside = f->coord->stage == SIM_STAGE_CHECK;
	f->id = ++c->ids;
	const kt_request r = {.id = f->id,
			      .cluster = "sim",
			      .run = outside ? "-" : "r",
			      .epoch = outside ? 0 : c->epoch,
			      .link = outside ? 0 : l->talk->link,
			      .step = f->c.step,
			      .role = f->c.role,
			      .node = f->c.node,
			      .attempt = f->c.attempt,
			      .verb = f->c.verb,
			      .settle = f->c.settle || (f->sent_times && f->c.once),
			      .args = f->c.args};
	sim_must(kt_request_encode(&r, &payload, &err), &err);
	sim_must(kt_frame_encode(KT_FRAME_REQUEST, payload, &frame, &err), &err);
	sim_send_to_agent(c->s, l->talk, frame.data, frame.len);
	cJSON_Delete(payload);
	kt_buf_free(&frame);
	f->in_flight = true;
	f->give_up_at = 0;
	sim_after(c->s, f->c.timeout_s * 1000 + GRACE_MS, timed_out, f, ++f->sent_times);
}

static void send_waiting(sim_coord *c, sim_link *l)
{
	for (sim_flight *f = l->waiting; f; f = f->next)
		if (!f->in_flight)
			send_one(c, l, f);
}

/* --- Reaching ----------------------------------------------------------------------------------------------------- */

static void again(sim_coord *c, sim_link *l, int64_t delay)
{
	if (l->timer)
		return;
	l->timer = true;
	sim_after(c->s, delay, reach, c, l - c->link);
}

static void reach_failed(sim *s, void *coord, int64_t node)
{
	sim_coord *c = coord;
	sim_link *l = &c->link[node];
	(void)s;
	if (!c->alive)
		return;
	l->reaching = false;
	not_reached(c, l);
	l->backoff = l->backoff ? 2 * l->backoff : FIRST_BACKOFF_MS;
	if (l->backoff > LAST_BACKOFF_MS)
		l->backoff = LAST_BACKOFF_MS;
	if (l->waiting)
		again(c, l, l->backoff);
}

static void connected(sim *s, void *coord, int64_t node)
{
	sim_coord *c = coord;
	sim_link *l = &c->link[node];
	if (!c->alive)
		return;
	if (!sim_reachable(&s->node[node], c->machine) || s->node[node].stuck_until > s->now) {
		reach_failed(s, c, node);
		return;
	}
	l->reaching = false;
	l->backoff = 0;
	l->talk = sim_node_connect(c, (size_t)node);
	send_waiting(c, l);
}

static void reach(sim *s, void *coord, int64_t node)
{
	sim_coord *c = coord;
	sim_link *l = &c->link[node];
	const sim_node *n = &s->node[node];
	l->timer = false;
	if (!c->alive || l->reaching)
		return;
	if (l->talk) {
		send_waiting(c, l);
		return;
	}
	l->reaching = true;
	if (sim_reachable(n, c->machine) && n->stuck_until <= s->now)
		sim_after(s, LOGIN_MS + (int64_t)sim_below(&s->rng, LOGIN_MS), connected, c, node);
	else
		sim_after(s, n->up ? CONNECT_TIMEOUT_MS : REFUSED_MS, reach_failed, c, node);
}

void sim_ask(sim_flight *f)
{
	sim_link *l = &f->coord->link[f->node];
	f->next = NULL;
	*place_of(l, NULL) = f;
	if (l->talk)
		send_one(f->coord, l, f);
	else if (!l->reaching)
		again(f->coord, l, 0);
}

void sim_link_lost(sim *s, void *talk, int64_t what)
{
	sim_talk *t = talk;
	sim_coord *c = t->coord;
	sim_link *l = &c->link[t->node->index];
	(void)what;
	if (!t->open || !c->alive || l->talk != t)
		return;
	sim_trace(s, "-- the connection to %s is lost", t->node->name);
	t->open = false;
	l->talk = NULL;
	if (t->agent)
		sim_connection_breaks(s, t, 0);
	for (sim_flight *f = l->waiting; f; f = f->next)
		f->in_flight = false;
	not_reached(c, l);
	if (l->waiting && !l->reaching)
		again(c, l, 0);
}

void sim_reply_came(sim *s, sim_talk *t, const uint8_t *bytes, size_t n)
{
	kt_err err = KT_ERR_INIT;
	kt_buf in = KT_BUF_INIT;
	kt_frame_kind kind;
	cJSON *payload;
	kt_reply r;
	sim_link *l = &t->coord->link[t->node->index];
	sim_must(kt_buf_append(&in, bytes, n, &err), &err);
	sim_must(kt_frame_decode(&in, &kind, &payload, &err), &err);
	kt_buf_free(&in);
	sim_must(kt_reply_decode(sim_keep(s, payload), &r, &err), &err);
	cJSON *result = cJSON_GetObjectItemCaseSensitive(payload, "result");
	for (sim_flight *f = l->waiting; f; f = f->next) {
		if (f->id != r.id || !f->in_flight)
			continue;
		f->in_flight = false;
		answer(f, r.status, result, &r.error);
		return;
	}
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What must hold after every event, and at the end. */
#include <stdarg.h>
#include <stdio.h>

#include "base/planted.h"
#include "tests/sim/sim.h"

enum { SANE_NODES = 16 };

void sim_break(sim *s, const char *fmt, ...)
{
	if (s->broken[0])
		return;
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(s->broken, sizeof s->broken, fmt, ap);
	va_end(ap);
	sim_trace(s, "!! %s", s->broken);
}

static void check_node(sim *s, sim_node *n)
{
	const sim_world *w = &s->w;
	if (n->dirty)
		sim_node_look(n);
	if (n->torn)
		sim_break(s, "S9: %s of %s is neither the old file nor the new one", n->torn, n->name);
	if (n->service && n->runs_with != w->data)
		sim_break(s, "S4: %s runs with the %s key, the data is %s", n->name, sim_key_name(n->runs_with),
			  sim_key_name(w->data));
	if (n->service && w->rekey_running)
		sim_break(s, "S2: %s is live while the rekey runs", n->name);
	if (n->env == SIM_NEW && !n->key_file)
		sim_break(s, "S5: %s has no new key file any more and its env names it", n->name);
}

/* A planted bug is to be seen in the world, not by the engine itself. */
void sim_check_engine(sim *s, const kt_engine *e)
{
#ifndef KT_PLANTED_BUGS
	if (s->n <= SANE_NODES && !kt_engine_sane(e))
		sim_break(s, "an invariant of the engine does not hold");
#else
	(void)s, (void)e;
#endif
}

void sim_check(sim *s)
{
	const sim_world *w = &s->w;
	if (w->rekey_completed > 1)
		sim_break(s, "S1: the rekey was completed %u times", w->rekey_completed);
	if (w->data != SIM_OLD && !w->escrowed)
		sim_break(s, "S5: the data needs the new key, and there is no escrow");
	for (size_t i = 0; i < s->n; i++)
		check_node(s, &s->node[i]);
}

void sim_check_end(sim *s)
{
	const sim_world *w = &s->w;
	const char *state = kt_run_state_name(s->last);
	sim_key key = s->last == KT_RUN_TURNED ? SIM_NEW : SIM_OLD;
	if (!kt_run_state_final(s->last))
		sim_break(s, "S7: nothing is under way, and the run is %s", state);
	if (w->data != key || w->rekey_running)
		sim_break(s, "S7: the run is %s and the data is not on that key", state);
	if (s->last == KT_RUN_TURNED && s->migration && !w->log_tells)
		sim_break(s, "S4: the run is turned and the log does not tell of the migration");
	if (s->last == KT_RUN_REFUSED && (w->changed || w->rekey_started))
		sim_break(s, "S7: the run is refused and something was changed");
	for (size_t i = 0; i < s->n; i++) {
		const sim_node *n = &s->node[i];
		if (n->env != key || (key == SIM_NEW && !n->key_file))
			sim_break(s, "S7: the run is %s and %s has the other key", state, n->name);
		if (!n->service && !n->may_be_down)
			sim_break(s, "S7: the run is %s and %s does not run", state, n->name);
		if (key == SIM_OLD && n->key_file)
			sim_break(s, "S7: the run is %s and %s keeps the new key", state, n->name);
	}
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated time: a heap of events. */
#include <stdlib.h>

#include "tests/sim/sim.h"

static bool before(const sim_event *a, const sim_event *b)
{
	return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

static void swap(sim_event *a, sim_event *b)
{
	sim_event t = *a;
	*a = *b;
	*b = t;
}

void sim_after(sim *s, int64_t delay, sim_event_fn *fn, void *who, int64_t what)
{
	if (s->heap_n == s->heap_cap) {
		s->heap_cap = s->heap_cap ? 2 * s->heap_cap : 256;
		s->heap = realloc(s->heap, s->heap_cap * sizeof *s->heap);
		if (!s->heap)
			abort();
	}
	size_t i = s->heap_n++;
	s->heap[i] = (sim_event){.at = s->now + delay, .seq = s->seq++, .fn = fn, .who = who, .what = what};
	for (; i && before(&s->heap[i], &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
		swap(&s->heap[i], &s->heap[(i - 1) / 2]);
}

bool sim_next(sim *s, sim_event *out)
{
	if (s->heap_n == 0)
		return false;
	*out = s->heap[0];
	s->heap[0] = s->heap[--s->heap_n];
	for (size_t i = 0;;) {
		size_t least = i;
		for (size_t c = 2 * i + 1; c <= 2 * i + 2 && c < s->heap_n; c++)
			if (before(&s->heap[c], &s->heap[least]))
				least = c;
		if (least == i)
			break;
		swap(&s->heap[i], &s->heap[least]);
		i = least;
	}
	s->now = out->at;
	return true;
}

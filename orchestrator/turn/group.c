/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/turn/group.h"

void kt_group_outcome(kt_group *g, int64_t now_ms, int64_t took_ms)
{
	if (g->held == 0)
		g->since_ms = now_ms;
	if (g->held == 0 || took_ms < g->took_ms)
		g->took_ms = took_ms;
	g->held++;
}

void kt_group_urgent(kt_group *g)
{
	g->urgent = true;
}

void kt_group_committed(kt_group *g, int64_t began_ms, int64_t now_ms)
{
	*g = (kt_group){.commit_ms = now_ms - began_ms};
}

static int64_t clamp(int64_t value, int64_t least, int64_t most)
{
	return value < least ? least : value > most ? most : value;
}

/* How long the oldest outcome may wait. */
static int64_t patience(const kt_group *g, kt_group_view v)
{
	if (!v.wanted)
		return clamp(g->took_ms / KT_GROUP_WINDOW_SHARE, KT_GROUP_WINDOW_MIN_MS, KT_GROUP_WINDOW_MAX_MS);
	int64_t commit = clamp(g->commit_ms, 0, KT_GROUP_GATHER_MAX_MS);
	if (v.under_way < KT_GROUP_MANY)
		return commit;
	return clamp(g->took_ms / KT_GROUP_GATHER_SHARE, commit, KT_GROUP_GATHER_MAX_MS);
}

int64_t kt_group_due(const kt_group *g, kt_group_view v)
{
	if (g->urgent)
		return INT64_MIN;
	if (g->held == 0)
		return v.wanted ? INT64_MIN : INT64_MAX;
	return v.under_way == 0 ? INT64_MIN : g->since_ms + patience(g, v);
}

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

/* How long the oldest outcome may hold up commands that are wanted. */
static int64_t patience(const kt_group *g)
{
	int64_t share = g->took_ms / KT_GROUP_SHARE;
	int64_t most = share > g->commit_ms ? share : g->commit_ms;
	return most < KT_GROUP_WINDOW_MS ? most : KT_GROUP_WINDOW_MS;
}

int64_t kt_group_due(const kt_group *g, bool wanted, bool alone)
{
	if (g->urgent)
		return INT64_MIN;
	if (g->held == 0)
		return wanted ? INT64_MIN : INT64_MAX;
	if (alone)
		return INT64_MIN;
	return g->since_ms + (wanted ? patience(g) : KT_GROUP_WINDOW_MS);
}

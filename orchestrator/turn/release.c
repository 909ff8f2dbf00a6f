/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/turn/release.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIMIT_MS = 20 * 1000, NOTE_LEN = 600 };

typedef struct telling {
	const kt_release *r;
	bool *reached; /* a node each */
} telling;

/* It answered something in this run, so it may hold the run. */
static void mark(const telling *t, kt_target_status s)
{
	const kt_node *n = kt_cluster_node(t->r->cluster, s.node);
	if (n && s.attempts > 0 && !(s.error && s.error->code == KT_E_UNREACHABLE))
		t->reached[n - t->r->cluster->nodes] = true;
}

static void mark_reached(const telling *t)
{
	const kt_engine *e = t->r->engine;
	for (size_t i = 0; i < kt_engine_steps(e); i++)
		for (size_t k = 0; k < kt_engine_targets(e, i, KT_ROLE_DO); k++)
			mark(t, kt_engine_target(e, i, KT_ROLE_DO, k));
}

static bool not_reached(void *cookie, size_t node)
{
	const telling *t = cookie;
	return !t->reached[node];
}

/* A node that a later run of the same cluster holds is none of our business. */
static bool told(const kt_answer *a)
{
	return a->status == KT_STATUS_OK || a->error.code == KT_E_BUSY;
}

static void say_untold(const kt_release *r, const kt_answer *answers)
{
	char text[NOTE_LEN];
	const kt_answer *first = NULL;
	const char *name = "";
	size_t more = 0;
	for (size_t i = 0; i < r->cluster->nodes_count; i++) {
		if (told(&answers[i]))
			continue;
		if (first) {
			more++;
			continue;
		}
		first = &answers[i];
		name = r->cluster->nodes[i].name;
	}
	if (!first || !r->note)
		return;
	char others[40] = "";
	if (more)
		(void)snprintf(others, sizeof others, " and %zu more", more);
	(void)snprintf(text, sizeof text,
		       "%s%s could not be told that this run is over, and refuses runs of other clusters until "
		       "`keyturn resume` tells it again (%.300s)",
		       name, others, first->error.msg);
	r->note(r->cookie, text);
}

void kt_release_nodes(const kt_release *r)
{
	kt_answer *answers = NULL;
	kt_err err = KT_ERR_INIT;
	telling t = {.r = r, .reached = calloc(r->cluster->nodes_count, sizeof(bool))};
	if (!t.reached)
		return;
	mark_reached(&t);
	const kt_survey q = {.verb = "run.release",
			     .run = r->run,
			     .epoch = r->epoch,
			     .skip = not_reached,
			     .cookie = &t,
			     .timeout_ms = LIMIT_MS};
	if (kt_nodes_survey(r->nodes, &q, &answers, &err) == KT_OK)
		say_untold(r, answers);
	else if (r->note)
		r->note(r->cookie, err.msg);
	kt_answers_free(answers, r->cluster->nodes_count);
	free(t.reached);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/turn/takeover.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

enum { LIMIT_MS = 30 * 1000 };

/* A take that a node follows. Without one (epoch 0) there is nothing to look for. */
typedef struct followed {
	const char *run;
	int64_t epoch;
	bool known;
} followed;

typedef struct search {
	followed *node;
	size_t n;
} search;

static kt_code read_answer(const kt_answer *a, followed *out, kt_err *err)
{
	*out = (followed){.run = "", .known = true};
	if (a->status != KT_STATUS_OK || !a->result)
		return KT_OK;
	KT_TRY(kt_json_int(a->result, "epoch", 0, INT64_MAX, &out->epoch, err));
	if (out->epoch == 0)
		return KT_OK;
	out->known = false;
	return kt_json_str(a->result, "epoch_run", &out->run, err);
}

static kt_code on_entry(void *user, const kt_entry *e, kt_err *err)
{
	search *s = user;
	(void)err;
	if (strcmp(e->kind, "take") != 0)
		return KT_OK;
	for (size_t i = 0; i < s->n; i++)
		if (s->node[i].epoch == e->epoch && strcmp(s->node[i].run, e->run) == 0)
			s->node[i].known = true;
	return KT_OK;
}

static kt_code judge(const search *s, const kt_cluster *cluster, kt_err *err)
{
	for (size_t i = 0; i < s->n; i++) {
		if (s->node[i].known)
			continue;
		char since[KT_TIME_TEXT];
		kt_clock_format(s->node[i].epoch, since); /* an epoch is the time of its take */
		return kt_fail(
			err, KT_E_REFUSED,
			"go on with the newest copy of the state folder; if that is lost for good and no run is under "
			"way, remove clusters/CLUSTER/epoch in the agent's state folder of every node",
			"%s follows another coordinator (epoch %" PRId64
			" of run %s, taken %s), which the journal in %s "
			"does not know: this is an older copy, or not the only one",
			cluster->nodes[i].name, s->node[i].epoch, s->node[i].run, since, cluster->state);
	}
	return KT_OK;
}

kt_code kt_takeover_check(kt_nodes *nodes, const kt_cluster *cluster, kt_journal *journal, kt_err *err)
{
	kt_answer *answers = NULL;
	const kt_survey q = {.verb = "facts", .timeout_ms = LIMIT_MS};
	search s = {.n = cluster->nodes_count};
	KT_TRY(kt_nodes_survey(nodes, &q, &answers, err));
	s.node = calloc(s.n, sizeof *s.node);
	kt_code rc = s.node ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	for (size_t i = 0; rc == KT_OK && i < s.n; i++) {
		rc = read_answer(&answers[i], &s.node[i], err);
		if (rc != KT_OK)
			rc = kt_err_prefix(err, rc, "%s: facts", cluster->nodes[i].name);
	}
	if (rc == KT_OK)
		rc = kt_journal_read(journal, NULL, on_entry, &s, err);
	if (rc == KT_OK)
		rc = judge(&s, cluster, err);
	free(s.node);
	kt_answers_free(answers, s.n);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/turn/takeover.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

enum { LIMIT_MS = 30 * 1000, HOST = 256, ROLES = 2 };

static const char newest[] =
	"go on with the newest copy of the state folder; if that is lost for good and no run is under way, remove "
	"clusters/CLUSTER/epoch in the agent's state folder of every node";

/* A coordinator. */
typedef struct holder {
	char host[HOST];
	int64_t pid;
} holder;

/* What the journal says. */
typedef struct past {
	kt_takeover *t;
	size_t steps;
	int64_t *made; /* by step, role (do, undo) and node: the highest attempt that has an intent */
	int64_t epoch; /* our own take; 0: not taken yet */
	bool after_take;
	holder taken;      /* who took the run last */
	holder living;     /* one that may still live and has not been shut out; host "": there is none */
	kt_answer *answer; /* of each node */
	bool *take_known;  /* the take that it follows is in the journal */
} past;

static int64_t *made_of(const past *p, size_t step, size_t role, size_t node)
{
	return &p->made[(node * p->steps + step) * ROLES + role];
}

/* --- The journal -------------------------------------------------------------------------------------------------- */

static size_t find_step(const past *p, const char *name)
{
	size_t i = 0;
	while (i < p->steps && strcmp(kt_engine_step(p->t->engine, i).name, name) != 0)
		i++;
	return i;
}

static void note_intent(const past *p, const kt_entry *e)
{
	const kt_node *node = kt_cluster_node(p->t->cluster, e->node);
	size_t step = find_step(p, e->step);
	size_t role = strcmp(e->role, "undo") == 0;
	if (!node || step == p->steps || strcmp(e->role, "probe") == 0)
		return;
	int64_t *made = made_of(p, step, role, (size_t)(node - p->t->cluster->nodes));
	if (e->attempt > *made)
		*made = e->attempt;
}

/* On this machine the lock of the state folder, and a process that has gone, say that nobody else is left. */
static bool may_live(const holder *h)
{
	char host[HOST] = "?";
	(void)gethostname(host, sizeof host - 1);
	if (strcmp(host, h->host) != 0)
		return h->host[0] != '\0';
	return h->pid > 0 && h->pid != getpid() && (kill((pid_t)h->pid, 0) == 0 || errno == EPERM);
}

static kt_code note_take(past *p, const kt_entry *e, kt_err *err)
{
	cJSON *body = NULL;
	const char *host = "";
	if (e->epoch == p->epoch)
		return KT_OK;
	kt_code rc = kt_json_parse("the entry `take`", e->body, strlen(e->body), &body, err);
	if (rc == KT_OK)
		rc = kt_json_opt_str(body, "host", "", &host, err);
	if (rc == KT_OK)
		rc = kt_json_opt_int(body, "pid", 0, 0, INT64_C(1) << 31, &p->taken.pid, err);
	if (rc == KT_OK)
		(void)snprintf(p->taken.host, sizeof p->taken.host, "%s", host);
	cJSON_Delete(body);
	if (may_live(&p->taken))
		p->living = p->taken;
	return rc;
}

/* Who went on after a take had shut out everybody before. */
static void note_going_on(past *p)
{
	p->living = may_live(&p->taken) ? p->taken : (holder){.host = ""};
}

static kt_code on_entry(void *user, const kt_entry *e, kt_err *err)
{
	past *p = user;
	if (strcmp(e->run, p->t->run) != 0)
		return KT_OK;
	if (strcmp(e->kind, "intent") == 0)
		note_intent(p, e);
	bool take = strcmp(e->kind, "take") == 0;
	if (!take && p->after_take)
		note_going_on(p);
	p->after_take = take;
	return take ? note_take(p, e, err) : KT_OK;
}

static kt_code read_past(past *p, kt_err *err)
{
	size_t n = p->t->cluster->nodes_count;
	p->steps = p->t->engine ? kt_engine_steps(p->t->engine) : 0;
	p->made = calloc(n * p->steps * ROLES + 1, sizeof *p->made);
	p->take_known = calloc(n, sizeof *p->take_known);
	if (!p->made || !p->take_known)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	return p->t->engine ? kt_journal_read(p->t->journal, NULL, on_entry, p, err) : KT_OK;
}

static void forget(past *p)
{
	kt_answers_free(p->answer, p->t->cluster->nodes_count);
	free(p->take_known);
	free(p->made);
}

/* --- Asking ------------------------------------------------------------------------------------------------------- */

static bool on_nodes(const kt_engine *e, size_t step, kt_role role)
{
	return kt_engine_targets(e, step, role) > 0 && strcmp(kt_engine_target(e, step, role, 0).node, "@") != 0;
}

/* The requests that would come next: whoever has made one of them has a newer journal. */
static kt_code add_next(const past *p, size_t node, cJSON *asked, kt_err *err)
{
	static const char *const role[ROLES] = {"do", "undo"};
	for (size_t i = 0; i < p->steps * ROLES; i++) {
		if (!on_nodes(p->t->engine, i / ROLES, i % ROLES ? KT_ROLE_UNDO : KT_ROLE_DO))
			continue;
		char name[2 * KT_NAME_MAX];
		(void)snprintf(name, sizeof name, "%s.%s.%" PRId64, kt_engine_step(p->t->engine, i / ROLES).name,
			       role[i % ROLES], *made_of(p, i / ROLES, i % ROLES, node) + 1);
		if (!cJSON_AddItemToArray(asked, cJSON_CreateString(name)))
			return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	return KT_OK;
}

static kt_code next_requests(void *cookie, size_t node, cJSON **out, kt_err *err)
{
	const past *p = cookie;
	*out = cJSON_CreateObject();
	if (!*out)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (p->steps == 0)
		return KT_OK;
	kt_code rc = kt_json_add_str(*out, "run", p->t->run, err);
	cJSON *asked = cJSON_AddArrayToObject(*out, "asked");
	if (rc == KT_OK)
		rc = asked ? add_next(p, node, asked, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc != KT_OK) {
		cJSON_Delete(*out);
		*out = NULL;
	}
	return rc;
}

static kt_code ask_all(past *p, kt_err *err)
{
	const kt_survey q = {.verb = "facts",
			     .run = p->epoch ? p->t->run : NULL,
			     .epoch = p->epoch,
			     .args = next_requests,
			     .cookie = p,
			     .timeout_ms = LIMIT_MS};
	return kt_nodes_survey(p->t->nodes, &q, &p->answer, err);
}

/* --- Judging ------------------------------------------------------------------------------------------------------ */

static bool answered(const kt_answer *a)
{
	return a->status == KT_STATUS_OK && a->result;
}

static int64_t epoch_of(const kt_answer *a)
{
	const cJSON *epoch = answered(a) ? cJSON_GetObjectItemCaseSensitive(a->result, "epoch") : NULL;
	return cJSON_IsNumber(epoch) ? (int64_t)epoch->valuedouble : 0;
}

static const char *run_of(const kt_answer *a)
{
	const cJSON *run = answered(a) ? cJSON_GetObjectItemCaseSensitive(a->result, "epoch_run") : NULL;
	return cJSON_IsString(run) ? run->valuestring : "";
}

/* S1, S2: a request that the journal does not have was made by a coordinator with a newer one. */
static kt_code judge_requests(const past *p, size_t node, kt_err *err)
{
	const kt_answer *a = &p->answer[node];
	const cJSON *known = answered(a) ? cJSON_GetObjectItemCaseSensitive(a->result, "known") : NULL;
	if (!cJSON_IsArray(known) || !cJSON_IsString(known->child))
		return KT_OK;
	return kt_fail(
		err, KT_E_REFUSED, newest,
		"%s has begun %s of run %s, which the journal in %s does not know: another coordinator has gone on "
		"with a newer one",
		p->t->cluster->nodes[node].name, known->child->valuestring, p->t->run, p->t->cluster->state);
}

static kt_code on_take(void *user, const kt_entry *e, kt_err *err)
{
	const past *p = user;
	(void)err;
	if (strcmp(e->kind, "take") != 0)
		return KT_OK;
	for (size_t i = 0; i < p->t->cluster->nodes_count; i++)
		if (epoch_of(&p->answer[i]) == e->epoch && strcmp(run_of(&p->answer[i]), e->run) == 0)
			p->take_known[i] = true;
	return KT_OK;
}

/* A take of this run that the journal does not have is no harm when nothing was begun under it. */
static kt_code judge_take(const past *p, size_t node, kt_err *err)
{
	const kt_answer *a = &p->answer[node];
	if (epoch_of(a) == 0 || p->take_known[node] || (p->t->engine && strcmp(run_of(a), p->t->run) == 0))
		return KT_OK;
	char since[KT_TIME_TEXT];
	kt_clock_format(epoch_of(a), since); /* an epoch is the time of its take */
	return kt_fail(err, KT_E_REFUSED, newest,
		       "%s follows another coordinator (epoch %" PRId64
		       " of run %s, taken %s), which the journal in %s does not "
		       "know: this is an older copy, or not the only one",
		       p->t->cluster->nodes[node].name, epoch_of(a), run_of(a), since, p->t->cluster->state);
}

static kt_code check(past *p, kt_err *err)
{
	KT_TRY(read_past(p, err));
	KT_TRY(ask_all(p, err));
	KT_TRY(kt_journal_read(p->t->journal, NULL, on_take, p, err));
	for (size_t i = 0; i < p->t->cluster->nodes_count; i++) {
		KT_TRY(judge_requests(p, i, err));
		KT_TRY(judge_take(p, i, err));
		if (epoch_of(&p->answer[i]) > p->t->floor)
			p->t->floor = epoch_of(&p->answer[i]);
	}
	return KT_OK;
}

kt_code kt_takeover_check(kt_takeover *t, kt_err *err)
{
	past p = {.t = t};
	t->floor = 0;
	kt_code rc = check(&p, err);
	forget(&p);
	return rc;
}

static kt_code judge_fence(const past *p, size_t node, kt_err *err)
{
	const kt_answer *a = &p->answer[node];
	const char *name = p->t->cluster->nodes[node].name;
	KT_TRY(judge_requests(p, node, err));
	if (answered(a))
		return KT_OK;
	if (a->error.code == KT_E_BUSY)
		return kt_fail(err, KT_E_REFUSED, "look at its run with `keyturn status` there",
			       "another coordinator was quicker: %s", a->error.msg);
	if (p->living.host[0] == '\0' || p->t->alone)
		return KT_OK;
	return kt_fail(err, KT_E_UNREACHABLE,
		       "let it be reached, or go on where the run was held last; when you know that that process has "
		       "ended, or "
		       "its machine is off: `keyturn resume --no-other-coordinator`",
		       "%s cannot be told that the run is held here now (%s), and the coordinator that had it (process "
		       "%" PRId64 " on %s) may still live",
		       name, a->error.msg, p->living.pid, p->living.host);
}

kt_code kt_takeover_fence(kt_takeover *t, int64_t epoch, kt_err *err)
{
	past p = {.t = t, .epoch = epoch};
	kt_code rc = read_past(&p, err);
	if (rc == KT_OK)
		rc = ask_all(&p, err);
	for (size_t i = 0; rc == KT_OK && i < t->cluster->nodes_count; i++)
		rc = judge_fence(&p, i, err);
	forget(&p);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/turn/doctor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/inventory/template.h"
#include "orchestrator/plan/plan.h"
#include "orchestrator/turn/drift.h"

enum { GRACE_MS = 10000 };

typedef struct doctor {
	kt_doctor_options o;
	cJSON *results; /* step -> node -> result, of the checks that went well */
	size_t left;
	size_t findings;
	kt_code worst;
} doctor;

/* One target of one step. */
typedef struct check {
	doctor *d;
	const cJSON *step;
	const char *name, *title, *verb, *node;
	bool here; /* a verb of the coordinator */
	cJSON *args;
} check;

static const cJSON *result_of(const doctor *d, const char *step, const char *node)
{
	const cJSON *of_step = cJSON_GetObjectItemCaseSensitive(d->results, step);
	return of_step ? cJSON_GetObjectItemCaseSensitive(of_step, node) : NULL;
}

/* For ${step.field}: the same target's result, else that of the cluster. */
static const cJSON *lookup(void *cookie, const char *step, const char *field)
{
	const check *c = cookie;
	const cJSON *r = result_of(c->d, step, c->node);
	if (!r)
		r = result_of(c->d, step, "@");
	return r ? cJSON_GetObjectItemCaseSensitive(r, field) : NULL;
}

static kt_code keep(const check *c, const cJSON *result, kt_err *err)
{
	cJSON *of_step = cJSON_GetObjectItemCaseSensitive(c->d->results, c->name);
	if (!of_step) {
		of_step = cJSON_CreateObject();
		KT_TRY(kt_json_add(c->d->results, c->name, of_step, err));
	}
	return kt_json_add(of_step, c->node, result ? cJSON_Duplicate(result, 1) : cJSON_CreateObject(), err);
}

/* Does the result have what the step expects? */
static kt_code meets(check *c, const cJSON *result, kt_err *err)
{
	const cJSON *expect = cJSON_GetObjectItemCaseSensitive(c->step, "expect");
	cJSON *want = NULL;
	if (!cJSON_IsObject(expect))
		return KT_OK;
	KT_TRY(kt_template_resolve_late(expect, lookup, c, &want, err));
	kt_code rc = KT_OK;
	for (const cJSON *w = want->child; w && rc == KT_OK; w = w->next) {
		const cJSON *got = result ? cJSON_GetObjectItemCaseSensitive(result, w->string) : NULL;
		if (!got || !cJSON_Compare(got, w, 1))
			rc = kt_fail(err, KT_E_REFUSED, "enroll the node again, and try again",
				     "the answer's \"%s\" is not the one expected", w->string);
	}
	cJSON_Delete(want);
	return rc;
}

static void told(check *c, kt_err *err)
{
	if (err->code != KT_OK) {
		if (c->d->findings++ == 0)
			c->d->worst = err->code;
	}
	c->d->o.on_check(c->d->o.cookie, c->name, c->title, c->node, err);
}

static void finish(check *c, kt_status status, const cJSON *result, const kt_err *error)
{
	kt_err err = *error;
	if (status == KT_STATUS_OK && meets(c, result, &err) == KT_OK)
		KT_IGNORE(keep(c, result, &err));
	else if (err.code == KT_OK)
		KT_IGNORE(kt_fail(&err, KT_E_REFUSED, NULL, "answered %s", kt_status_name(status)));
	told(c, &err);
	cJSON_Delete(c->args);
	free(c);
}

static void on_answer(void *cookie, size_t node, kt_status status, const cJSON *result, const kt_err *error)
{
	check *c = cookie;
	(void)node;
	c->d->left--;
	finish(c, status, result, error);
}

static void ask_node(check *c)
{
	kt_err err = KT_ERR_INIT;
	const kt_cluster *k = c->d->o.cluster;
	const kt_node *n = kt_cluster_node(k, c->node);
	int64_t timeout_s;
	kt_code rc = kt_json_opt_int(c->step, "timeout_s", 60, 1, 86400, &timeout_s, &err);
	const kt_ask ask = {.request = {.cluster = k->name,
					.run = "-", /* nothing is kept: it needs no run */
					.step = c->name,
					.role = KT_ROLE_DO,
					.attempt = 1,
					.verb = c->verb},
			    .args = c->args,
			    .timeout_ms = timeout_s * 1000 + GRACE_MS,
			    .on_answer = on_answer,
			    .cookie = c};
	if (rc == KT_OK && n) {
		c->args = NULL; /* taken over */
		rc = kt_nodes_ask(c->d->o.nodes, (size_t)(n - k->nodes), &ask, &err);
	}
	if (rc != KT_OK || !n)
		finish(c, KT_STATUS_FAILED, NULL, &err);
	else
		c->d->left++;
}

static kt_code drift(const check *c, kt_err *err)
{
	const kt_cluster *k = c->d->o.cluster;
	const char *of;
	size_t n = 0;
	KT_TRY(kt_json_str(c->args, "of", &of, err));
	kt_drift_answer *a = calloc(k->nodes_count, sizeof *a);
	if (!a)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	for (size_t i = 0; i < k->nodes_count; i++) {
		const cJSON *r = result_of(c->d, of, k->nodes[i].name);
		if (r)
			a[n++] = (kt_drift_answer){k->nodes[i].name, r, kt_nodes_skew_ms(c->d->o.nodes, i)};
	}
	kt_code rc = kt_drift_check(c->args, a, n, err);
	free(a);
	return rc;
}

static void act_here(check *c)
{
	kt_hsm_command here = {.verb = c->verb, .node = c->node, .status = KT_STATUS_FAILED};
	if (kt_hsm_knows(c->verb) && !c->d->o.hsm)
		here.error = *c->d->o.hsm_error;
	else if (kt_hsm_knows(c->verb))
		kt_hsm_act(c->d->o.hsm, "-", &here, 1);
	else if (drift(c, &here.error) == KT_OK)
		here = (kt_hsm_command){.status = KT_STATUS_OK, .result = cJSON_CreateObject(), .error = KT_ERR_INIT};
	finish(c, here.status, here.result, &here.error);
	cJSON_Delete(here.result);
}

/* A check of which an earlier one failed has nothing to work with: it is left out, the earlier one was told. */
static kt_code start(doctor *d, const cJSON *step, const kt_plan_cursor *at, kt_err *err)
{
	const char *place;
	check *c = calloc(1, sizeof *c);
	if (!c)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	*c = (check){.d = d, .step = step, .node = at->node};
	kt_code rc = kt_json_str(step, "name", &c->name, err);
	if (rc == KT_OK)
		rc = kt_json_opt_str(step, "title", c->name, &c->title, err);
	if (rc == KT_OK)
		rc = kt_json_str(step, "verb", &c->verb, err);
	if (rc == KT_OK)
		rc = kt_json_opt_str(step, "at", "node", &place, err);
	if (rc == KT_OK)
		rc = kt_template_resolve_late(at->args, lookup, c, &c->args, err);
	if (rc != KT_OK) {
		free(c);
		return rc == KT_E_REFUSED ? KT_OK : rc;
	}
	if (strcmp(place, "node") == 0)
		ask_node(c);
	else
		act_here(c);
	return KT_OK;
}

static kt_code run_step(doctor *d, const cJSON *step, kt_err *err)
{
	kt_plan_cursor at = {0};
	kt_code rc = KT_OK;
	while (rc == KT_OK && kt_plan_next(step, &at))
		rc = start(d, step, &at, err);
	while (d->left)
		(void)uv_run(d->o.loop, UV_RUN_ONCE);
	return rc;
}

static kt_code run_all(doctor *d, kt_err *err)
{
	const cJSON *steps;
	const cJSON *step;
	KT_TRY(kt_json_array(d->o.plan, "steps", &steps, err));
	cJSON_ArrayForEach(step, steps)
	{
		const char *phase;
		KT_TRY(kt_json_str(step, "phase", &phase, err));
		if (kt_phase_find(phase) == KT_PHASE_PREFLIGHT)
			KT_TRY(run_step(d, step, err));
	}
	return KT_OK;
}

kt_code kt_doctor_run(const kt_doctor_options *o, size_t *findings, kt_code *worst, kt_err *err)
{
	doctor d = {.o = *o, .results = cJSON_CreateObject()};
	if (!d.results)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = run_all(&d, err);
	cJSON_Delete(d.results);
	*findings = d.findings;
	*worst = d.worst;
	return rc;
}

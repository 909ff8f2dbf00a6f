/* SPDX-License-Identifier: Apache-2.0 */
/* Commands out of targets: late-bound values filled in; and results held against what the step expects. */
#include <string.h>

#include "orchestrator/engine/core.h"
#include "orchestrator/inventory/template.h"

typedef struct late {
	const kt_engine *engine;
	size_t node;
} late;

static const kt_target *target_of(const kt_block *b, size_t node)
{
	return b->n && b->of_node[node] ? &b->targets[b->of_node[node] - 1] : NULL;
}

/* The field of a step's result on the same target, else on "@". ${plan.nodes}: the names of all nodes, which a plan
 * says once and not in every node's arguments. */
static const cJSON *lookup(void *cookie, const char *step, const char *field)
{
	const late *l = cookie;
	const kt_engine *e = l->engine;
	if (strcmp(step, "plan") == 0)
		return strcmp(field, "nodes") == 0 ? e->shared : NULL;
	for (size_t i = 0; i < e->n_steps; i++) {
		if (strcmp(e->steps[i].name, step) != 0)
			continue;
		const kt_block *b = &e->steps[i].role[KT_ROLE_DO];
		const kt_target *t = target_of(b, l->node);
		if (!t)
			t = target_of(b, e->n_nodes);
		return t && t->result ? cJSON_GetObjectItemCaseSensitive(t->result, field) : NULL;
	}
	return NULL;
}

void kt_command_free(kt_command *c)
{
	if (!c)
		return;
	cJSON_Delete(c->args);
	c->args = NULL;
}

kt_code kt_command_make(const kt_engine *e, size_t step, kt_role role, const kt_target *t, kt_command *out, kt_err *err)
{
	const kt_step *s = &e->steps[step];
	const kt_block *b = &s->role[role];
	bool once = s->once && role == KT_ROLE_DO;
	/* S2: a restore is not done late either; it is asked again when the gate is quiet. */
	bool restore = s->once && role == KT_ROLE_UNDO;
	late l = {e, t->node};
	*out = (kt_command){
		.place = b->at,
		.step = s->name,
		.role = role,
		.node = e->nodes[t->node],
		.attempt = t->attempt,
		.verb = b->verb,
		.timeout_s = b->timeout_s,
		.delay_ms = t->delay_ms,
		.once = once,
		.settle = (once || (restore && t->state == KT_TARGET_SENT)) && t->tried && !PLANTED(SETTLE_DROPPED) &&
			  !PLANTED(ONCE_RETRIED),
	};
	kt_code rc = kt_template_resolve_late(t->args, lookup, &l, &out->args, &out->problem);
	if (rc == KT_E_INTERNAL) {
		if (err)
			*err = out->problem;
		return rc;
	}
	if (rc != KT_OK)
		return kt_err_prefix(&out->problem, rc, "%s on %s", s->name, out->node) == rc ? KT_OK : KT_E_INTERNAL;
	return KT_OK;
}

/* Texts are shown; what is longer or no text (a list) would not help anybody. */
static kt_code unexpected(const cJSON *got, const cJSON *want, kt_err *why)
{
	enum { SHOWN = 64 };
	if (!cJSON_IsString(got) || !cJSON_IsString(want) || strlen(got->valuestring) > SHOWN ||
	    strlen(want->valuestring) > SHOWN)
		return kt_fail(why, KT_E_REFUSED, NULL, "\"%s\" is not what it must be", want->string);
	return kt_fail(why, KT_E_REFUSED, NULL, "\"%s\" is \"%s\", it must be \"%s\"", want->string, got->valuestring,
		       want->valuestring);
}

static kt_code expect_fields(const cJSON *expect, const cJSON *result, kt_err *why)
{
	const cJSON *want;
	cJSON_ArrayForEach(want, expect)
	{
		const cJSON *got = result ? cJSON_GetObjectItemCaseSensitive(result, want->string) : NULL;
		if (!got)
			return kt_fail(why, KT_E_REFUSED, NULL, "the answer has no \"%s\"", want->string);
		if (!cJSON_Compare(got, want, true))
			return unexpected(got, want, why);
	}
	return KT_OK;
}

kt_code kt_expect_check(const kt_engine *e, size_t step, const kt_target *t, const cJSON *result, kt_err *why,
			kt_err *err)
{
	*why = KT_ERR_INIT;
	const kt_step *s = &e->steps[step];
	if (!s->expect || PLANTED(EXPECT_IGNORED))
		return KT_OK;
	late l = {e, t->node};
	cJSON *expect = NULL;
	kt_code rc = kt_template_resolve_late(s->expect, lookup, &l, &expect, why);
	if (rc == KT_OK)
		rc = expect_fields(expect, result, why);
	cJSON_Delete(expect);
	if (rc == KT_E_INTERNAL)
		return kt_fail(err, rc, NULL, "%s", why->msg);
	return KT_OK;
}

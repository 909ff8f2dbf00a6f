/* SPDX-License-Identifier: Apache-2.0 */
/* From what a playbook says to what one node is asked. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "orchestrator/plan/internal.h"

static const cJSON *member(const cJSON *obj, const char *name)
{
	return obj ? cJSON_GetObjectItemCaseSensitive(obj, name) : NULL;
}

/* --- What variables may bring in
 * --------------------------------------------------------------------------------------- */

typedef struct late_ctx {
	const kt_planner *p;
} late_ctx;

/* The playbook's own references were checked when it was loaded; those that come out of variables were not. */
static kt_code check_late(void *cookie, const kt_template_ref *ref, kt_err *err)
{
	const kt_planner *p = ((const late_ctx *)cookie)->p;
	if (!ref->field || (strcmp(ref->name, "plan") == 0 && strcmp(ref->field, "nodes") == 0))
		return KT_OK; /* the agent's; the engine's */
	const cJSON *steps = member(p->playbook, "steps");
	size_t i = 0;
	const cJSON *s = steps->child;
	while (s && strcmp(member(s, "name")->valuestring, ref->name) != 0) {
		s = s->next;
		i++;
	}
	const kt_verb *verb = s ? kt_verb_find(member(s, "do")->valuestring) : NULL;
	if (!s)
		return kt_fail(err, KT_E_INPUT, NULL, "${%s.%s} is not known: there is no such step", ref->name,
			       ref->field);
	if (!verb || !kt_verb_gives(verb, ref->field))
		return kt_fail(err, KT_E_INPUT, NULL, "${%s.%s}: that step gives no \"%s\"", ref->name, ref->field,
			       ref->field);
	if (p->step != SIZE_MAX && (i > p->step || (i == p->step && !p->own)))
		return kt_fail(err, KT_E_INPUT, NULL, "${%s.%s}: that step is not earlier", ref->name, ref->field);
	return KT_OK;
}

/* --- Arguments
 * ----------------------------------------------------------------------------------------------------------- */

/* A member of a command or a service that is null was left out by somebody's variable. */
static void drop_nulls(cJSON *object)
{
	cJSON *next;
	for (cJSON *m = object->child; m; m = next) {
		next = m->next;
		if (cJSON_IsNull(m))
			cJSON_Delete(cJSON_DetachItemViaPointer(object, m));
	}
}

static void drop_nulls_of(const kt_verb *verb, cJSON *args)
{
	for (size_t i = 0; i < KT_VERB_ARGS && verb->args[i].name; i++) {
		cJSON *v = cJSON_GetObjectItemCaseSensitive(args, verb->args[i].name);
		if (cJSON_IsObject(v) && (verb->args[i].type == KT_ARG_COMMAND || verb->args[i].type == KT_ARG_SERVICE))
			drop_nulls(v);
	}
}

/* A gate that looks at nothing but the service would call a cluster quiet that it never looked at (S2). */
static kt_code check_gate(const kt_verb *verb, const cJSON *args, kt_err *err)
{
	if (strcmp(verb->name, "gate.check") != 0)
		return KT_OK;
	const cJSON *processes = member(args, "processes");
	if (!cJSON_IsArray(processes) || processes->child)
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED, "name at least the folder that the application runs from",
		       "S2: \"processes\" is empty: a process outside of the service would not be seen");
}

static kt_code finish_args(kt_planner *p, const kt_verb *verb, size_t node, cJSON *args, kt_err *err)
{
	const char *at = "";
	late_ctx late = {.p = p};
	KT_TRY(kt_plan_bind_keys(p, node, args, err));
	drop_nulls_of(verb, args);
	KT_TRY(kt_verb_check_args(verb, args, &at, err));
	KT_TRY(check_gate(verb, args, err));
	return kt_template_each(args, check_late, &late, err);
}

kt_code kt_plan_args(kt_planner *p, const kt_verb *verb, const cJSON *with, size_t node, cJSON **out, kt_err *err)
{
	kt_plan_scope s;
	kt_scope scope;
	cJSON *made = NULL;
	kt_plan_scope_init(p, node, true, &s, &scope);
	KT_TRY(kt_template_resolve(with, &scope, &made, err));
	kt_code rc = finish_args(p, verb, node, made, err);
	if (rc != KT_OK)
		cJSON_Delete(made);
	else
		*out = made;
	return rc;
}

kt_code kt_plan_expect(kt_planner *p, const cJSON *expect, cJSON **out, kt_err *err)
{
	kt_plan_scope s;
	kt_scope scope;
	kt_plan_scope_init(p, SIZE_MAX, true, &s, &scope);
	if (expect)
		KT_TRY(kt_template_resolve(expect, &scope, out, err));
	else
		*out = cJSON_CreateObject();
	if (!*out)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	drop_nulls(*out);
	return KT_OK;
}

kt_code kt_plan_number(kt_planner *p, const cJSON *value, const char *name, int64_t fallback, int64_t min, int64_t max,
		       int64_t *out, kt_err *err)
{
	kt_plan_scope s;
	kt_scope scope;
	cJSON *made = NULL;
	*out = fallback;
	if (!value)
		return KT_OK;
	kt_plan_scope_init(p, SIZE_MAX, true, &s, &scope);
	KT_TRY(kt_template_resolve(value, &scope, &made, err));
	bool ok = cJSON_IsNumber(made) && made->valuedouble == floor(made->valuedouble) &&
		  made->valuedouble >= (double)min && made->valuedouble <= (double)max;
	if (ok)
		*out = (int64_t)made->valuedouble;
	cJSON_Delete(made);
	return ok ? KT_OK
		  : kt_fail(err, KT_E_INPUT, NULL, "\"%s\" must be a whole number from %lld to %lld", name,
			    (long long)min, (long long)max);
}

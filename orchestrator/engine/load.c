/* SPDX-License-Identifier: Apache-2.0 */
/* A plan into the engine's tables, checked strictly: it comes out of a journal. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/engine/core.h"
#include "orchestrator/playbook/playbook.h"

static const char REMEDY[] = "the plan was not made by this version of keyturn, or was altered: make a new run";

static kt_code oom(kt_err *err)
{
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

/* --- Nodes -------------------------------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b, void *names)
{
	const char *const *n = names;
	return strcmp(n[*(const uint32_t *)a], n[*(const uint32_t *)b]);
}

size_t kt_engine_node(const kt_engine *e, const char *name)
{
	if (strcmp(name, "@") == 0)
		return e->n_nodes;
	size_t lo = 0;
	size_t hi = e->n_nodes;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int c = strcmp(name, e->nodes[e->by_name[mid]]);
		if (c == 0)
			return e->by_name[mid];
		if (c < 0)
			hi = mid;
		else
			lo = mid + 1;
	}
	return SIZE_MAX;
}

static kt_code load_nodes(kt_engine *e, const cJSON *plan, kt_err *err)
{
	const cJSON *list;
	KT_TRY(kt_json_array(plan, "nodes", &list, err));
	size_t n = (size_t)cJSON_GetArraySize(list);
	if (n == 0 || n > KT_NODES_MAX)
		return kt_fail(err, KT_E_INPUT, REMEDY, "$.nodes: %zu nodes, allowed are 1 to %d", n,
			       (int)KT_NODES_MAX);
	e->nodes = calloc(n + 1, sizeof *e->nodes);
	e->by_name = calloc(n, sizeof *e->by_name);
	e->behind = calloc(n + 1, sizeof *e->behind);
	if (!e->nodes || !e->by_name || !e->behind)
		return oom(err);
	const cJSON *c;
	cJSON_ArrayForEach(c, list)
	{
		size_t i = e->n_nodes;
		kt_code rc = kt_json_str(c, "name", &e->nodes[i], err);
		if (rc == KT_OK)
			rc = kt_name_check("node", e->nodes[i], err);
		if (rc != KT_OK)
			return kt_err_prefix(err, rc, "$.nodes[%zu]", i);
		e->by_name[i] = (uint32_t)i;
		e->n_nodes++;
	}
	e->nodes[n] = "@";
	e->names = cJSON_CreateStringArray(e->nodes, (int)n);
	e->shared = e->names ? cJSON_CreateArrayReference(e->names->child) : NULL;
	if (!e->shared)
		return oom(err);
	qsort_r(e->by_name, n, sizeof *e->by_name, by_name, (void *)e->nodes);
	for (size_t i = 1; i < n; i++)
		if (strcmp(e->nodes[e->by_name[i - 1]], e->nodes[e->by_name[i]]) == 0)
			return kt_fail(err, KT_E_INPUT, REMEDY, "$.nodes: \"%s\" stands twice",
				       e->nodes[e->by_name[i]]);
	return KT_OK;
}

/* --- Targets ------------------------------------------------------------------------------------------------------ */

static kt_code count_targets(const cJSON *groups, size_t *n, kt_err *err)
{
	*n = 0;
	const cJSON *g;
	cJSON_ArrayForEach(g, groups)
	{
		const cJSON *names;
		KT_TRY(kt_json_array(g, "nodes", &names, err));
		*n += (size_t)cJSON_GetArraySize(names);
	}
	return KT_OK;
}

static kt_code add_target(kt_engine *e, kt_block *b, const cJSON *name, const cJSON *args, kt_err *err)
{
	if (!cJSON_IsString(name))
		return kt_fail(err, KT_E_INPUT, REMEDY, "the name of a node must be a string");
	size_t node = kt_engine_node(e, name->valuestring);
	if (node == SIZE_MAX)
		return kt_fail(err, KT_E_INPUT, REMEDY, "\"%.63s\" is no node of the plan", name->valuestring);
	if (node == e->n_nodes && b->at == KT_PLACE_NODE)
		return kt_fail(err, KT_E_INPUT, REMEDY, "\"@\" cannot be the target of a verb of the nodes");
	if (b->of_node[node])
		return kt_fail(err, KT_E_INPUT, REMEDY, "\"%s\" is a target twice", e->nodes[node]);
	b->targets[b->n] = (kt_target){.node = (uint32_t)node, .member = true, .args = args};
	b->of_node[node] = (uint32_t)++b->n;
	return KT_OK;
}

static kt_code load_targets(kt_engine *e, kt_block *b, const cJSON *action, kt_err *err)
{
	const cJSON *groups;
	size_t n;
	KT_TRY(kt_json_array(action, "targets", &groups, err));
	KT_TRY(count_targets(groups, &n, err));
	if (n > e->n_nodes + 1)
		return kt_fail(err, KT_E_INPUT, REMEDY, "more targets than nodes");
	if (n == 0)
		return KT_OK; /* `rest` of a cluster of one node */
	b->targets = calloc(n, sizeof *b->targets);
	b->queue = calloc(n, sizeof *b->queue);
	b->of_node = calloc(e->n_nodes + 1, sizeof *b->of_node);
	if (!b->targets || !b->queue || !b->of_node)
		return oom(err);
	const cJSON *g;
	cJSON_ArrayForEach(g, groups)
	{
		const cJSON *names;
		const cJSON *args;
		const cJSON *name;
		KT_TRY(kt_json_array(g, "nodes", &names, err));
		KT_TRY(kt_json_object(g, "args", &args, err));
		cJSON_ArrayForEach(name, names) KT_TRY(add_target(e, b, name, args, err));
	}
	b->members = b->n;
	b->first_failed = b->n;
	return KT_OK;
}

/* --- Blocks ------------------------------------------------------------------------------------------------------- */

static kt_code load_retry(kt_block *b, const cJSON *action, kt_err *err)
{
	if (!kt_json_member(action, "retry"))
		return KT_OK;
	const cJSON *retry;
	int64_t every_s;
	KT_TRY(kt_json_object(action, "retry", &retry, err));
	KT_TRY(kt_json_opt_int(retry, "times", 0, 0, KT_TIMES_MAX, &b->times, err));
	KT_TRY(kt_json_opt_int(retry, "every_s", 0, 0, KT_SECONDS_MAX, &every_s, err));
	KT_TRY(kt_json_opt_bool(retry, "together", false, &b->together, err));
	b->every_ms = every_s * 1000;
	return KT_OK;
}

static kt_code load_block(kt_engine *e, kt_block *b, const cJSON *action, kt_err *err)
{
	const char *at;
	KT_TRY(kt_json_str(action, "verb", &b->verb, err));
	KT_TRY(kt_name_check("verb", b->verb, err));
	KT_TRY(kt_json_opt_str(action, "at", "node", &at, err));
	if (strcmp(at, "node") != 0 && strcmp(at, "coordinator") != 0)
		return kt_fail(err, KT_E_INPUT, REMEDY, "\"at\" must be \"node\" or \"coordinator\"");
	b->at = at[0] == 'n' ? KT_PLACE_NODE : KT_PLACE_COORDINATOR;
	KT_TRY(kt_json_int(action, "timeout_s", 1, KT_SECONDS_MAX, &b->timeout_s, err));
	KT_TRY(load_retry(b, action, err));
	return load_targets(e, b, action, err);
}

/* `undo` and `probe`: an action, null, or not there. */
static kt_code load_other(kt_engine *e, kt_step *s, kt_role role, const cJSON *step, kt_err *err)
{
	const cJSON *action = kt_json_member(step, kt_role_name(role));
	if (!action || cJSON_IsNull(action))
		return KT_OK;
	if (!cJSON_IsObject(action))
		return kt_fail(err, KT_E_INPUT, REMEDY, "\"%s\" must be an object or null", kt_role_name(role));
	kt_code rc = load_block(e, &s->role[role], action, err);
	if (rc == KT_OK && s->role[role].together)
		rc = kt_fail(err, KT_E_INPUT, REMEDY, "\"together\" is for gates only");
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "\"%s\"", kt_role_name(role));
}

/* --- Steps -------------------------------------------------------------------------------------------------------- */

/* What proves that the cluster is quiet, and data and key are saved. It proves it only while a coordinator watches:
 * what was written may have rotted since (S2, S3). */
static bool watches(const kt_step *s)
{
	const char *verb = s->role[KT_ROLE_DO].verb;
	return s->phase == KT_PHASE_QUIET || s->phase == KT_PHASE_BACKUP || strcmp(verb, "gate.check") == 0 ||
	       strcmp(verb, "key.escrow") == 0;
}

static kt_code load_step(kt_engine *e, kt_step *s, const cJSON *step, kt_err *err)
{
	KT_TRY(kt_json_str(step, "name", &s->name, err));
	KT_TRY(kt_name_check("step", s->name, err));
	for (const kt_step *other = e->steps; other < s; other++)
		if (strcmp(other->name, s->name) == 0)
			return kt_fail(err, KT_E_INPUT, REMEDY, "a second step with the name \"%s\"", s->name);
	KT_TRY(kt_json_str(step, "phase", &s->phase_name, err));
	s->phase = kt_phase_find(s->phase_name);
	if (s->phase < 0)
		return kt_fail(err, KT_E_INPUT, REMEDY, "\"%.32s\" is no phase", s->phase_name);
	if (s > e->steps && s[-1].phase > s->phase)
		return kt_fail(err, KT_E_INPUT, REMEDY, "phase %s must not come after phase %s", s->phase_name,
			       s[-1].phase_name);
	KT_TRY(kt_json_opt_str(step, "title", s->name, &s->title, err));
	KT_TRY(kt_json_opt_bool(step, "once", false, &s->once, err));
	KT_TRY(kt_json_opt_bool(step, "commit", false, &s->commit, err));
	KT_TRY(kt_json_opt_int(step, "parallel", 0, 0, KT_NODES_MAX, &s->parallel, err));
	const cJSON *expect = kt_json_member(step, "expect");
	if (expect && !cJSON_IsNull(expect))
		KT_TRY(kt_json_object(step, "expect", &s->expect, err));
	KT_TRY(load_block(e, &s->role[KT_ROLE_DO], step, err));
	KT_TRY(load_other(e, s, KT_ROLE_UNDO, step, err));
	s->watch = watches(s);
	return load_other(e, s, KT_ROLE_PROBE, step, err);
}

static kt_code load_steps(kt_engine *e, const cJSON *plan, kt_err *err)
{
	const cJSON *list;
	KT_TRY(kt_json_array(plan, "steps", &list, err));
	size_t n = (size_t)cJSON_GetArraySize(list);
	if (n == 0 || n > KT_STEPS_MAX)
		return kt_fail(err, KT_E_INPUT, REMEDY, "$.steps: %zu steps, allowed are 1 to %d", n,
			       (int)KT_STEPS_MAX);
	e->steps = calloc(n, sizeof *e->steps);
	if (!e->steps)
		return oom(err);
	e->cap_steps = n;
	const cJSON *c;
	cJSON_ArrayForEach(c, list)
	{
		kt_code rc = load_step(e, &e->steps[e->n_steps], c, err);
		if (rc != KT_OK)
			return kt_err_prefix(err, rc, "$.steps[%zu]", e->n_steps);
		e->n_steps++;
	}
	return KT_OK;
}

/* --- What the engine relies on ------------------------------------------------------------------------------------ */

static kt_code check_once(kt_engine *e, kt_err *err)
{
	size_t found = 0;
	for (size_t i = 0; i < e->n_steps; i++) {
		const kt_step *s = &e->steps[i];
		if (s->once) {
			e->once = i;
			found++;
		} else if (s->role[KT_ROLE_PROBE].verb) {
			return kt_fail(err, KT_E_INPUT, REMEDY, "$.steps[%zu]: only the rekey step has a probe", i);
		}
	}
	if (found != 1)
		return kt_fail(err, KT_E_INPUT, REMEDY, "$.steps: %zu steps are \"once\", it must be one", found);
	const kt_step *s = &e->steps[e->once];
	if (s->phase != KT_PHASE_REKEY || s->role[KT_ROLE_DO].n != 1 || s->role[KT_ROLE_DO].together)
		return kt_fail(err, KT_E_INPUT, REMEDY, "$.steps[%zu]: \"once\" is for phase rekey, on one node",
			       e->once);
	if (s->role[KT_ROLE_PROBE].n != 1 || s->role[KT_ROLE_UNDO].n == 0)
		return kt_fail(err, KT_E_INPUT, REMEDY,
			       "$.steps[%zu]: the rekey needs a probe on one node, and an undo (restore)", e->once);
	return KT_OK;
}

static kt_code check_commit(kt_engine *e, kt_err *err)
{
	size_t found = 0;
	for (size_t i = 0; i < e->n_steps; i++) {
		if (!e->steps[i].commit)
			continue;
		e->commit = i;
		found++;
	}
	if (found != 1 || e->commit < e->once)
		return kt_fail(err, KT_E_INPUT, REMEDY,
			       "$.steps: %zu steps are \"commit\", it must be one, not before the rekey", found);
	return KT_OK;
}

/* S2: directly before the rekey, gates ask every node. */
static kt_code check_gate(const kt_engine *e, kt_err *err)
{
	bool *asked = calloc(e->n_nodes + 1, sizeof *asked);
	if (!asked)
		return oom(err);
	size_t n = 0;
	for (size_t i = e->once; i-- > 0;) {
		const kt_block *b = &e->steps[i].role[KT_ROLE_DO];
		if (strcmp(b->verb, "gate.check") != 0)
			break;
		for (size_t t = 0; t < b->n; t++) {
			n += !asked[b->targets[t].node];
			asked[b->targets[t].node] = true;
		}
	}
	free(asked);
	if (n == e->n_nodes)
		return KT_OK;
	return kt_fail(err, KT_E_INPUT, REMEDY,
		       "$.steps[%zu]: gate.check asks %zu of %zu nodes directly before the rekey", e->once, n,
		       e->n_nodes);
}

kt_code kt_engine_load(kt_engine *e, const cJSON *plan, kt_err *err)
{
	const char *format;
	if (!cJSON_IsObject(plan))
		return kt_fail(err, KT_E_INPUT, REMEDY, "the plan is no JSON object");
	KT_TRY(kt_json_str(plan, "format", &format, err));
	if (strcmp(format, "keyturn-plan/1") != 0)
		return kt_fail(err, KT_E_INPUT, REMEDY, "$.format: \"%.32s\" is not keyturn-plan/1", format);
	KT_TRY(load_nodes(e, plan, err));
	KT_TRY(load_steps(e, plan, err));
	KT_TRY(check_once(e, err));
	KT_TRY(check_commit(e, err));
	return check_gate(e, err);
}

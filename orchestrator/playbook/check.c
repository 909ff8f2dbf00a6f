/* SPDX-License-Identifier: Apache-2.0 */
/* The form of a playbook beyond its schema: order, names, verbs and their members, and where references lead. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"
#include "orchestrator/inventory/template.h"
#include "orchestrator/playbook/internal.h"
#include "orchestrator/playbook/names.h"

enum { PATH_TEXT = 512 };

static const cJSON *member(const cJSON *obj, const char *name)
{
	return obj ? cJSON_GetObjectItemCaseSensitive(obj, name) : NULL;
}

static const char *text(const cJSON *obj, const char *name)
{
	const cJSON *v = member(obj, name);
	return cJSON_IsString(v) ? v->valuestring : NULL;
}

kt_code kt_playbook_fault(const kt_playbook_view *v, size_t i, const char *where, kt_err *err, const char *remedy,
			  const char *fmt, ...)
{
	char msg[KT_ERR_MSG / 2];
	char path[PATH_TEXT];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	(void)snprintf(path, sizeof path, "$.steps[%zu]%s", i, where);
	return kt_json_doc_fail(&v->p->doc, path, err, remedy, "%s", msg);
}

/* Put the place in front of an error that passes by. */
static kt_code at(const kt_playbook *p, const char *path, kt_code rc, kt_err *err)
{
	if (rc == KT_OK)
		return rc;
	return kt_err_prefix(err, rc, "%s:%zu: %s", p->doc.name, kt_json_doc_line(&p->doc, path), path);
}

/* --- Steps
 * ------------------------------------------------------------------------------------------------------------ */

static kt_code find_verb(const kt_playbook_view *v, size_t i, const char *where, const char *name, const kt_verb **out,
			 kt_err *err)
{
	*out = kt_verb_find(name);
	if (*out)
		return KT_OK;
	kt_nearest near = KT_NEAREST(name);
	for (const kt_verb *k = kt_verb_table(); k->name; k++)
		kt_nearest_offer(&near, k->name);
	if (near.best)
		return kt_playbook_fault(v, i, where, err, NULL, "no verb \"%s\"; did you mean \"%s\"?", name,
					 near.best);
	return kt_playbook_fault(v, i, where, err, "keyturn-playbook(5) lists the verbs", "no verb \"%s\"", name);
}

static kt_code view_step(kt_playbook_view *v, size_t i, const cJSON *json, kt_err *err)
{
	kt_step_view *s = &v->steps[i];
	*s = (kt_step_view){.json = json,
			    .name = text(json, "name"),
			    .on = text(json, "on"),
			    .phase = kt_phase_find(text(json, "phase")),
			    .with = member(json, "with"),
			    .once = cJSON_IsTrue(member(json, "once")),
			    .commit = cJSON_IsTrue(member(json, "commit"))};
	KT_TRY(find_verb(v, i, ".do", text(json, "do"), &s->verb, err));
	if (i && s->phase < v->steps[i - 1].phase)
		return kt_playbook_fault(v, i, ".phase", err,
					 "the phases stand in this order: preflight, approve, stop, quiet, "
					 "backup, key, rekey, env, start, retire",
					 "phase \"%s\" cannot come after \"%s\"", kt_phase_name(s->phase),
					 kt_phase_name(v->steps[i - 1].phase));
	if (kt_builtin_reserved(s->name))
		return kt_playbook_fault(v, i, ".name", err, NULL,
					 "the name \"%s\" is taken: ${%s} means something else", s->name, s->name);
	for (size_t j = 0; j < i; j++)
		if (strcmp(v->steps[j].name, s->name) == 0)
			return kt_playbook_fault(v, i, ".name", err, NULL,
						 "the name \"%s\" stands already at $.steps[%zu]", s->name, j);
	return KT_OK;
}

/* `where` is "" for the step itself, ".undo" or ".probe". */
static kt_code check_action(const kt_playbook_view *v, size_t i, const char *where, const cJSON *action, kt_err *err)
{
	char path[PATH_TEXT];
	const kt_verb *verb;
	const char *name = "";
	(void)snprintf(path, sizeof path, "%s.do", where);
	KT_TRY(find_verb(v, i, path, text(action, "do"), &verb, err));
	const char *place = text(action, "at");
	(void)snprintf(path, sizeof path, "%s.at", where);
	if (place && (strcmp(place, "node") == 0) != (verb->at == KT_PLACE_NODE))
		return kt_playbook_fault(v, i, path, err, NULL, "%s runs at the %s", verb->name,
					 verb->at == KT_PLACE_NODE ? "node" : "coordinator");
	bool once = strcmp(v->steps[i].on, "once") == 0;
	if (once == verb->per_node)
		return kt_playbook_fault(v, i, once ? ".on" : path, err, NULL, "%s is done %s", verb->name,
					 once ? "per node, not once for the cluster"
					      : "once for the cluster: \"on\":\"once\"");
	kt_code rc = kt_verb_check_args(verb, member(action, "with"), &name, err);
	(void)snprintf(path, sizeof path, "$.steps[%zu]%s.with%s%s", i, where, name[0] ? "." : "", name);
	return at(v->p, path, rc, err);
}

static kt_code check_actions(const kt_playbook_view *v, size_t i, kt_err *err)
{
	static const char *const roles[] = {"undo", "probe"};
	KT_TRY(check_action(v, i, "", v->steps[i].json, err));
	for (size_t r = 0; r < 2; r++) {
		const cJSON *action = member(v->steps[i].json, roles[r]);
		if (action)
			KT_TRY(check_action(v, i, r == 0 ? ".undo" : ".probe", action, err));
	}
	const cJSON *together = member(member(v->steps[i].json, "retry"), "together");
	if (cJSON_IsTrue(together) && strcmp(v->steps[i].verb->name, "gate.check") != 0)
		return kt_playbook_fault(v, i, ".retry.together", err, NULL, "\"together\" is for gate.check");
	return KT_OK;
}

/* --- References
 * -------------------------------------------------------------------------------------------------------- */

typedef struct ref_ctx {
	const kt_playbook_view *v;
	size_t step;       /* SIZE_MAX: not in a step */
	const char *where; /* JSON path before ref->path */
	bool own;          /* undo, probe: the step's own result may be used */
	bool key;          /* ${key.…}: in the keystores' sets */
	bool placed;       /* the fault found names its place already */
} ref_ctx;

static kt_code ref_fault(ref_ctx *c, const kt_template_ref *ref, kt_err *err, const char *fmt, ...) KT_PRINTF(4, 5);
static kt_code ref_fault(ref_ctx *c, const kt_template_ref *ref, kt_err *err, const char *fmt, ...)
{
	char msg[KT_ERR_MSG / 2];
	char path[PATH_TEXT];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	(void)snprintf(path, sizeof path, "%s%s", c->where, ref->path);
	c->placed = true;
	return kt_json_doc_fail(&c->v->p->doc, path, err, NULL, "%s", msg);
}

static kt_code unknown_ref(ref_ctx *c, const kt_template_ref *ref, const char *full, kt_err *err)
{
	kt_nearest near = KT_NEAREST(full);
	for (size_t i = 0; kt_builtin_names()[i]; i++)
		kt_nearest_offer(&near, kt_builtin_names()[i]);
	const cJSON *variables = member(c->v->p->doc.root, "variables");
	for (const cJSON *d = variables->child; d; d = d->next)
		kt_nearest_offer(&near, d->string);
	if (near.best)
		return ref_fault(c, ref, err, "${%s} is not known; did you mean ${%s}?", full, near.best);
	return ref_fault(c, ref, err, "${%s} is not known", full);
}

bool kt_playbook_names_kind(const cJSON *kinds, const char *kind)
{
	const cJSON *k = cJSON_IsArray(kinds) ? kinds->child : kinds;
	for (; k; k = cJSON_IsArray(kinds) ? k->next : NULL)
		if (strcmp(k->valuestring, kind) == 0)
			return true;
	return false;
}

/* Is each of the kinds of `inner` one of `outer`? NULL is any kind. */
static bool within(const cJSON *inner, const cJSON *outer)
{
	const cJSON *k = cJSON_IsArray(inner) ? inner->child : inner;
	bool all = inner || !outer;
	for (; outer && k; k = cJSON_IsArray(inner) ? k->next : NULL)
		all = all && kt_playbook_names_kind(outer, k->valuestring);
	return all;
}

/* Is the field there on every target of `user`, whatever kinds of keystores are in force? */
static bool always_there(const kt_step_view *user, const kt_step_view *source)
{
	bool covered = strcmp(source->on, "once") == 0 || strcmp(source->on, user->on) == 0 ||
		       (strcmp(source->on, "all") == 0 && strcmp(user->on, "once") != 0);
	const cJSON *when = member(source->json, "when");
	const cJSON *mine = member(user->json, "when");
	return covered && within(member(mine, "from"), member(when, "from")) &&
	       within(member(mine, "to"), member(when, "to"));
}

static kt_code check_step_ref(ref_ctx *c, const kt_template_ref *ref, kt_err *err)
{
	const kt_playbook_view *v = c->v;
	size_t j = 0;
	while (j < v->n && strcmp(v->steps[j].name, ref->name) != 0)
		j++;
	if (j == v->n) {
		kt_nearest near = KT_NEAREST(ref->name);
		for (size_t i = 0; i < v->n; i++)
			kt_nearest_offer(&near, v->steps[i].name);
		if (near.best)
			return ref_fault(c, ref, err, "${%s.%s}: no step \"%s\"; did you mean \"%s\"?", ref->name,
					 ref->field, ref->name, near.best);
		return ref_fault(c, ref, err, "${%s.%s}: no step \"%s\"", ref->name, ref->field, ref->name);
	}
	if (!kt_verb_gives(v->steps[j].verb, ref->field))
		return ref_fault(c, ref, err, "${%s.%s}: %s gives no \"%s\", but %s", ref->name, ref->field,
				 v->steps[j].verb->name, ref->field,
				 v->steps[j].verb->results[0] ? v->steps[j].verb->results : "nothing");
	if (c->step == SIZE_MAX)
		return KT_OK;
	if (j > c->step || (j == c->step && !c->own))
		return ref_fault(c, ref, err, "${%s.%s}: that step is not earlier", ref->name, ref->field);
	if (!ref->fallback && (j == c->step || !always_there(&v->steps[c->step], &v->steps[j])))
		return ref_fault(c, ref, err, "${%s.%s}: there may be no such result here: give a fallback, ${%s.%s|…}",
				 ref->name, ref->field, ref->name, ref->field);
	return KT_OK;
}

static kt_code check_ref(void *cookie, const kt_template_ref *ref, kt_err *err)
{
	ref_ctx *c = cookie;
	char full[2 * KT_TEMPLATE_NAME];
	(void)snprintf(full, sizeof full, "%s%s%s", ref->name, ref->field ? "." : "", ref->field ? ref->field : "");
	static const char *const of_keys[] = {"key.path", "key.name", "key.uri", "key.region", "key.context"};
	bool of_key = false;
	for (size_t i = 0; i < sizeof of_keys / sizeof of_keys[0]; i++)
		of_key = of_key || strcmp(full, of_keys[i]) == 0;
	if (kt_builtin_is(full) || (of_key && c->key))
		return KT_OK;
	if (ref->field && !kt_builtin_reserved(ref->name))
		return check_step_ref(c, ref, err);
	if (!ref->field && member(member(c->v->p->doc.root, "variables"), full))
		return KT_OK;
	return unknown_ref(c, ref, full, err);
}

static kt_code check_refs_in(const kt_playbook_view *v, size_t step, const char *where, bool own, const cJSON *value,
			     kt_err *err)
{
	ref_ctx c = {.v = v, .step = step, .where = where, .own = own, .key = strncmp(where, "$.keystores", 11) == 0};
	kt_code rc = value ? kt_template_each(value, check_ref, &c, err) : KT_OK;
	return c.placed ? rc : at(v->p, where, rc, err);
}

static kt_code check_step_refs(const kt_playbook_view *v, size_t i, kt_err *err)
{
	static const struct {
		const char *action, *member;
		bool own;
	} places[] = {{NULL, "with", false},        {NULL, "expect", false}, {NULL, "timeout_s", false},
		      {NULL, "parallel", false},    {NULL, "retry", false},  {"undo", "with", true},
		      {"undo", "timeout_s", true},  {"undo", "retry", true}, {"probe", "with", true},
		      {"probe", "timeout_s", true}, {"probe", "retry", true}};
	for (size_t k = 0; k < sizeof places / sizeof places[0]; k++) {
		const cJSON *action = places[k].action ? member(v->steps[i].json, places[k].action) : v->steps[i].json;
		char where[PATH_TEXT];
		(void)snprintf(where, sizeof where, "$.steps[%zu]%s%s.%s", i, places[k].action ? "." : "",
			       places[k].action ? places[k].action : "", places[k].member);
		KT_TRY(check_refs_in(v, i, where, places[k].own, member(action, places[k].member), err));
	}
	return KT_OK;
}

/* --- Variables and keystores
 * ------------------------------------------------------------------------------------------ */

static kt_code check_variables(const kt_playbook_view *v, kt_err *err)
{
	const cJSON *variables = member(v->p->doc.root, "variables");
	for (const cJSON *d = variables->child; d; d = d->next) {
		char path[PATH_TEXT];
		(void)snprintf(path, sizeof path, "$.variables.%s", d->string);
		if (kt_builtin_reserved(d->string))
			return kt_json_doc_fail(&v->p->doc, path, err, NULL,
						"the name \"%s\" is taken: ${%s} means something else", d->string,
						d->string);
		(void)snprintf(path, sizeof path, "$.variables.%s.default", d->string);
		KT_TRY(check_refs_in(v, SIZE_MAX, path, true, member(d, "default"), err));
	}
	return check_refs_in(v, SIZE_MAX, "$.env_file", true, member(v->p->doc.root, "env_file"), err);
}

static bool lists(const cJSON *names, const char *name)
{
	for (const cJSON *o = names ? names->child : NULL; o; o = o->next)
		if (strcmp(o->valuestring, name) == 0)
			return true;
	return false;
}

/* A variable that a turn sets and does not own would stay for ever. */
static kt_code check_keystores(const kt_playbook_view *v, kt_err *err)
{
	const cJSON *root = v->p->doc.root;
	for (const cJSON *k = member(root, "keystores")->child; k; k = k->next) {
		for (const cJSON *set = k->child; set; set = set->next) {
			char path[PATH_TEXT];
			(void)snprintf(path, sizeof path, "$.keystores.%s.%s", k->string, set->string);
			KT_TRY(check_refs_in(v, SIZE_MAX, path, true, set, err));
			for (const cJSON *name = set->child; name; name = name->next)
				if (!lists(member(root, "owns"), name->string) &&
				    !lists(member(root, "shares"), name->string))
					return kt_json_doc_fail(
						&v->p->doc, path, err,
						"add it to \"owns\", or to \"shares\" when others use it, too",
						"\"%s\" is not in \"owns\"", name->string);
		}
	}
	return KT_OK;
}

kt_code kt_playbook_check_form(const kt_playbook *p, kt_playbook_view *v, kt_err *err)
{
	const cJSON *steps = member(p->doc.root, "steps");
	*v = (kt_playbook_view){.p = p, .n = (size_t)cJSON_GetArraySize(steps), .rekey = SIZE_MAX, .commit = SIZE_MAX};
	v->steps = calloc(v->n, sizeof *v->steps);
	if (!v->steps)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	size_t i = 0;
	for (const cJSON *s = steps->child; s; s = s->next)
		KT_TRY(view_step(v, i++, s, err));
	KT_TRY(check_variables(v, err));
	KT_TRY(check_keystores(v, err));
	for (i = 0; i < v->n; i++) {
		KT_TRY(check_actions(v, i, err));
		KT_TRY(check_step_refs(v, i, err));
	}
	return KT_OK;
}

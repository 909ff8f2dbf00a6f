/* SPDX-License-Identifier: Apache-2.0 */
/* The names that the templates of a playbook and of cluster.json may use, and the variables' declarations. */
#include <stdio.h>
#include <string.h>

#include "orchestrator/plan/internal.h"
#include "orchestrator/playbook/names.h"

enum { PATH_TEXT = 512, TYPES_TEXT = 128 };

static const cJSON *member(const cJSON *obj, const char *name)
{
	return obj ? cJSON_GetObjectItemCaseSensitive(obj, name) : NULL;
}

/* --- Built-in names
 * --------------------------------------------------------------------------------------------------- */

static const cJSON *as_text(kt_plan_scope *s, const char *text)
{
	s->value = (cJSON){.type = cJSON_String, .valuestring = (char *)(uintptr_t)text};
	return &s->value;
}

static const cJSON *as_bool(kt_plan_scope *s, bool value)
{
	s->value = (cJSON){.type = value ? cJSON_True : cJSON_False};
	return &s->value;
}

static const cJSON *as_list(kt_plan_scope *s, const char *text)
{
	s->value = (cJSON){.type = cJSON_Array};
	if (text) {
		s->item = (cJSON){.type = cJSON_String, .valuestring = (char *)(uintptr_t)text};
		s->item.prev = &s->item;
		s->value.child = &s->item;
	}
	return &s->value;
}

static const cJSON *as_kcv(kt_plan_scope *s, const char *kcv)
{
	if (kcv)
		return as_text(s, kcv);
	s->value = (cJSON){.type = cJSON_NULL};
	return &s->value;
}

/* What is the same for all nodes. */
static const cJSON *find_of_cluster_key(kt_plan_scope *s, const kt_plan_key *k, bool from, const char *field)
{
	if (strcmp(field, "kind") == 0)
		return as_text(s, kt_keyuri_name(k->kind));
	if (strcmp(field, "stays") == 0)
		return as_bool(s, kt_keyuri_stays(k->kind));
	if (from && strcmp(field, "legacy") == 0)
		return as_bool(s, k->kind == KT_KEYURI_LEGACY);
	return strcmp(field, "kcv") == 0 ? as_kcv(s, from ? s->p->kcv : NULL) : NULL;
}

static const char *name_of(const kt_plan_key *k)
{
	return k->kind == KT_KEYURI_AWSKMS ? k->aws.name : k->kind == KT_KEYURI_ENV ? k->where : "";
}

/* `field` of from or to. */
static const cJSON *find_key(kt_plan_scope *s, bool from, const char *field)
{
	const kt_plan_key *keys = from ? s->p->from : s->p->to;
	const kt_plan_key *k = keys ? &keys[s->node ? s->index : 0] : NULL;
	if (!k || !k->uri)
		return NULL; /* not read yet */
	const char *path = k->kind == KT_KEYURI_FILE ? k->where : NULL;
	const cJSON *found = find_of_cluster_key(s, k, from, field);
	if (found || !s->node)
		return found;
	if (strcmp(field, "uri") == 0)
		return as_text(s, k->uri);
	if (strcmp(field, "path") == 0)
		return as_text(s, path ? path : "");
	if (strcmp(field, "name") == 0)
		return as_text(s, name_of(k));
	if (strcmp(field, "region") == 0)
		return as_text(s, k->aws.region);
	if (strcmp(field, "context") == 0)
		return as_text(s, k->aws.context);
	return strcmp(field, "files") == 0 ? as_list(s, path) : NULL;
}

static const cJSON *find_of_node(kt_plan_scope *s, const char *name)
{
	const kt_cluster *c = s->p->in->cluster;
	if (!s->node)
		return NULL;
	if (strcmp(name, "node") == 0)
		return as_text(s, s->node->name);
	if (strcmp(name, "host") == 0)
		return as_text(s, s->node->host);
	if (strcmp(name, "is_rekey") == 0)
		return as_bool(s, s->index == c->rekey);
	return strcmp(name, "is_canary") == 0 ? as_bool(s, s->index == c->canary) : NULL;
}

static const cJSON *find_builtin(kt_plan_scope *s, const char *name)
{
	if (strcmp(name, "run") == 0)
		return as_text(s, s->p->in->run);
	if (strcmp(name, "cluster") == 0)
		return as_text(s, s->p->in->cluster->name);
	if (strcmp(name, "nodes") == 0)
		return as_text(s, "${plan.nodes}");
	if (strncmp(name, "from.", 5) == 0)
		return find_key(s, true, name + 5);
	if (strncmp(name, "to.", 3) == 0)
		return find_key(s, false, name + 3);
	return find_of_node(s, name);
}

static const cJSON *find(void *cookie, const char *name)
{
	kt_plan_scope *s = cookie;
	if (kt_builtin_is(name))
		return find_builtin(s, name);
	const cJSON *set = kt_cluster_var(s->p->in->cluster, s->node, name);
	return set ? set : member(member(member(s->p->playbook, "variables"), name), "default");
}

static kt_code offer_set(void *cookie, const cJSON *value, const char *path, kt_err *err)
{
	(void)path;
	(void)err;
	kt_nearest_offer(cookie, value->string);
	return KT_OK;
}

static void offer(void *cookie, kt_nearest *near)
{
	const kt_plan_scope *s = cookie;
	for (size_t i = 0; kt_builtin_names()[i]; i++)
		kt_nearest_offer(near, kt_builtin_names()[i]);
	for (const cJSON *d = member(s->p->playbook, "variables")->child; d; d = d->next)
		kt_nearest_offer(near, d->string);
	KT_IGNORE(kt_cluster_each_var(s->p->in->cluster, offer_set, near, NULL));
}

static kt_code operate(void *cookie, const cJSON *object, cJSON **out, kt_err *err)
{
	kt_plan_scope *s = cookie;
	return kt_plan_operator(s->p, s->node ? s->index : SIZE_MAX, object, out, err);
}

void kt_plan_scope_init(kt_planner *p, size_t node, bool late, kt_plan_scope *s, kt_scope *out)
{
	const kt_cluster *c = p->in->cluster;
	*s = (kt_plan_scope){.p = p, .node = node == SIZE_MAX ? NULL : &c->nodes[node], .index = node};
	*out = (kt_scope){.cookie = s, .find = find, .offer = offer, .op = operate, .late = late, .keep = "scratch"};
}

/* --- Declarations
 * ------------------------------------------------------------------------------------------------------ */

static kt_code check_declared(void *cookie, const cJSON *value, const char *path, kt_err *err)
{
	const kt_planner *p = cookie;
	const cJSON *declared = member(p->playbook, "variables");
	if (value->string[0] == '_' || member(declared, value->string))
		return KT_OK;
	kt_nearest near = KT_NEAREST(value->string);
	for (const cJSON *d = declared->child; d; d = d->next)
		kt_nearest_offer(&near, d->string);
	const char *remedy = "a variable of your own, for use in others, begins with _";
	if (near.best)
		return kt_json_doc_fail(&p->in->cluster->doc, path, err, remedy,
					"playbook \"%s\" has no variable \"%s\"; did you mean \"%s\"?",
					p->in->playbook->name, value->string, near.best);
	return kt_json_doc_fail(&p->in->cluster->doc, path, err, remedy, "playbook \"%s\" has no variable \"%s\"",
				p->in->playbook->name, value->string);
}

/* Where the value of a variable for a node was written, for messages: the counterpart of kt_cluster_var. */
static const kt_json_doc *place_of(const kt_planner *p, const kt_node *n, const char *name, char path[PATH_TEXT])
{
	const kt_cluster *c = p->in->cluster;
	if (member(member(n->spec, "vars"), name)) {
		(void)snprintf(path, PATH_TEXT, "$.nodes[%zu].vars.%s", n->entry, name);
		return &c->doc;
	}
	const cJSON *groups = member(n->spec, "groups");
	for (const cJSON *g = groups ? groups->child : NULL; g; g = g->next) {
		if (!member(member(member(member(c->doc.root, "groups"), g->valuestring), "vars"), name))
			continue;
		(void)snprintf(path, PATH_TEXT, "$.groups.%s.vars.%s", g->valuestring, name);
		return &c->doc;
	}
	if (member(member(c->doc.root, "vars"), name)) {
		(void)snprintf(path, PATH_TEXT, "$.vars.%s", name);
		return &c->doc;
	}
	(void)snprintf(path, PATH_TEXT, "$.variables.%s.default", name);
	return &p->in->playbook->doc;
}

static const char *type_of(const cJSON *v)
{
	if (cJSON_IsString(v))
		return "string";
	if (cJSON_IsBool(v))
		return "boolean";
	if (cJSON_IsNull(v))
		return "null";
	if (cJSON_IsArray(v))
		return "array";
	if (cJSON_IsObject(v))
		return "object";
	return v->valuedouble == (double)(int64_t)v->valuedouble ? "integer" : "number";
}

static bool is_type(const cJSON *v, const char *type)
{
	return strcmp(type_of(v), type) == 0 || (strcmp(type, "number") == 0 && cJSON_IsNumber(v));
}

/* The types of a declaration as text, and whether `v` has one of them. */
static bool fits(const cJSON *declared, const cJSON *v, char types[TYPES_TEXT])
{
	const cJSON *type = member(declared, "type");
	const cJSON *one = cJSON_IsArray(type) ? type->child : type;
	bool ok = false;
	types[0] = '\0';
	if (!type) {
		const cJSON *usual = member(declared, "default");
		(void)snprintf(types, TYPES_TEXT, "%s", usual ? type_of(usual) : "");
		return !usual || is_type(v, type_of(usual));
	}
	for (; one; one = cJSON_IsArray(type) ? one->next : NULL) {
		size_t n = strlen(types);
		(void)snprintf(types + n, TYPES_TEXT - n, "%s%s", n ? " or " : "", one->valuestring);
		ok = ok || is_type(v, one->valuestring);
	}
	return ok;
}

/* A default that is an operator or a template has no type of its own. */
static bool has_plain_type(const cJSON *declared)
{
	const cJSON *usual = member(declared, "default");
	bool open = cJSON_IsString(usual) && usual->valuestring[0] == '$';
	for (const cJSON *m = cJSON_IsObject(usual) ? usual->child : NULL; m; m = m->next)
		open = open || m->string[0] == '$';
	return member(declared, "type") || !open;
}

/* A value that is bound late has no type yet. */
static bool is_late(const cJSON *v)
{
	return cJSON_IsString(v) && strstr(v->valuestring, "${") != NULL;
}

/* A declaration with "values" takes no other. */
static bool is_allowed(const cJSON *declared, const cJSON *v)
{
	const cJSON *values = member(declared, "values");
	bool found = !values;
	for (const cJSON *a = values ? values->child : NULL; a; a = a->next)
		found = found || cJSON_Compare(a, v, 1);
	return found;
}

static kt_code check_variable(kt_planner *p, size_t node, const cJSON *declared, kt_err *err)
{
	const kt_node *n = &p->in->cluster->nodes[node];
	char path[PATH_TEXT];
	char types[TYPES_TEXT];
	kt_plan_scope s;
	kt_scope scope;
	cJSON *made = NULL;
	kt_plan_scope_init(p, node, true, &s, &scope);
	const cJSON *value = find(&s, declared->string);
	if (!value)
		return kt_json_doc_fail(&p->in->cluster->doc, "$.vars", err, member(declared, "help")->valuestring,
					"\"%s\" must be set (node %s)", declared->string, n->name);
	const kt_json_doc *doc = place_of(p, n, declared->string, path);
	kt_code rc = kt_template_resolve(value, &scope, &made, err);
	if (rc != KT_OK)
		return kt_err_prefix(err, rc, "%s:%zu: %s: %s", doc->name, kt_json_doc_line(doc, path), path, n->name);
	if (!is_late(made) && has_plain_type(declared) && !fits(declared, made, types))
		rc = kt_json_doc_fail(doc, path, err, member(declared, "help")->valuestring,
				      "must be of type %s, is %s", types, type_of(made));
	if (rc == KT_OK && !is_late(made) && !is_allowed(declared, made))
		rc = kt_json_doc_fail(doc, path, err, member(declared, "help")->valuestring,
				      "is none of the values that it may have");
	cJSON_Delete(made);
	return rc;
}

/* Nodes of one entry share their variables: the first of them speaks for all. */
kt_code kt_plan_check_vars(kt_planner *p, kt_err *err)
{
	const kt_cluster *c = p->in->cluster;
	KT_TRY(kt_cluster_each_var(c, check_declared, p, err));
	for (size_t i = 0; i < c->nodes_count; i++) {
		if (i && c->nodes[i].entry == c->nodes[i - 1].entry)
			continue;
		for (const cJSON *d = member(p->playbook, "variables")->child; d; d = d->next)
			KT_TRY(check_variable(p, i, d, err));
	}
	return KT_OK;
}

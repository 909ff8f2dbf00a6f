/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/plan/plan.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/plan/internal.h"

enum { TIMEOUT_S = 60, RUN_LEN = 23 };

static const cJSON *member(const cJSON *obj, const char *name)
{
	return obj ? cJSON_GetObjectItemCaseSensitive(obj, name) : NULL;
}

static kt_code no_memory(kt_err *err)
{
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

/* A new object as a member; it belongs to `into`. */
static kt_code add_object(cJSON *into, const char *name, cJSON **out, kt_err *err)
{
	*out = cJSON_AddObjectToObject(into, name);
	return *out ? KT_OK : no_memory(err);
}

/* YYYYMMDDTHHMMSSZ-xxxxxx */
static kt_code check_run(const char *run, kt_err *err)
{
	static const char form[] = "ddddddddTddddddZ-hhhhhh";
	bool ok = strlen(run) == RUN_LEN;
	for (size_t i = 0; ok && i < RUN_LEN; i++) {
		unsigned char c = (unsigned char)run[i];
		ok = form[i] == 'd'   ? isdigit(c) != 0
		     : form[i] == 'h' ? isdigit(c) || (c >= 'a' && c <= 'f')
				      : c == (unsigned char)form[i];
	}
	return ok ? KT_OK : kt_fail(err, KT_E_INPUT, NULL, "\"%.60s\" is no run id (YYYYMMDDTHHMMSSZ-xxxxxx)", run);
}

/* --- One step
 * ------------------------------------------------------------------------------------------------------------ */

static kt_code add_retry(kt_planner *p, const cJSON *from, cJSON *into, kt_err *err)
{
	const cJSON *retry = member(from, "retry");
	int64_t times;
	int64_t every;
	cJSON *o;
	KT_TRY(kt_plan_number(p, member(retry, "times"), "times", 0, 0, KT_PLAN_TIMES, &times, err));
	KT_TRY(kt_plan_number(p, member(retry, "every_s"), "every_s", 0, 0, KT_PLAN_SECONDS, &every, err));
	KT_TRY(add_object(into, "retry", &o, err));
	KT_TRY(kt_json_add_int(o, "times", times, err));
	KT_TRY(kt_json_add_int(o, "every_s", every, err));
	return kt_json_add_bool(o, "together", cJSON_IsTrue(member(retry, "together")), err);
}

/* What step, undo and probe have in common: verb, place, timeout, retry, targets. */
static kt_code add_action(kt_planner *p, const char *on, const cJSON *from, cJSON *into, size_t *targets, kt_err *err)
{
	const kt_verb *verb = kt_verb_find(member(from, "do")->valuestring);
	int64_t timeout;
	cJSON *list = NULL;
	KT_TRY(kt_plan_number(p, member(from, "timeout_s"), "timeout_s", TIMEOUT_S, 1, KT_PLAN_SECONDS, &timeout, err));
	KT_TRY(kt_json_add_str(into, "at", verb->at == KT_PLACE_NODE ? "node" : "coordinator", err));
	KT_TRY(kt_json_add_str(into, "verb", verb->name, err));
	KT_TRY(kt_json_add_int(into, "timeout_s", timeout, err));
	KT_TRY(add_retry(p, from, into, err));
	KT_TRY(kt_plan_targets(p, on, verb, member(from, "with"), &list, targets, err));
	return kt_json_add(into, "targets", list, err);
}

/* `undo` or `probe`, null when there is none. */
static kt_code add_other(kt_planner *p, const cJSON *step, const char *name, cJSON *into, kt_err *err)
{
	const cJSON *action = member(step, name);
	size_t targets;
	cJSON *o;
	if (!action)
		return kt_json_add(into, name, cJSON_CreateNull(), err);
	KT_TRY(add_object(into, name, &o, err));
	p->own = true;
	kt_code rc = add_action(p, member(step, "on")->valuestring, action, o, &targets, err);
	p->own = false;
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "%s", name);
}

static kt_code fill_step(kt_planner *p, const cJSON *step, cJSON *o, size_t *targets, kt_err *err)
{
	int64_t parallel;
	cJSON *expect = NULL;
	KT_TRY(kt_plan_number(p, member(step, "parallel"), "parallel", 0, 0, KT_NODES_MAX, &parallel, err));
	KT_TRY(kt_json_add_str(o, "name", member(step, "name")->valuestring, err));
	KT_TRY(kt_json_add_str(o, "phase", member(step, "phase")->valuestring, err));
	KT_TRY(kt_json_add_str(o, "title", member(step, "title")->valuestring, err));
	KT_TRY(kt_json_add_bool(o, "once", cJSON_IsTrue(member(step, "once")), err));
	KT_TRY(kt_json_add_bool(o, "commit", cJSON_IsTrue(member(step, "commit")), err));
	KT_TRY(kt_json_add_int(o, "parallel", parallel, err));
	KT_TRY(kt_plan_expect(p, member(step, "expect"), &expect, err));
	KT_TRY(kt_json_add(o, "expect", expect, err));
	KT_TRY(add_action(p, member(step, "on")->valuestring, step, o, targets, err));
	KT_TRY(add_other(p, step, "undo", o, err));
	return add_other(p, step, "probe", o, err);
}

static kt_code add_step(kt_planner *p, const cJSON *step, cJSON *list, kt_err *err)
{
	size_t targets = 0;
	if (!kt_plan_applies(p, step))
		return KT_OK;
	cJSON *o = cJSON_CreateObject();
	if (!o)
		return no_memory(err);
	kt_code rc = fill_step(p, step, o, &targets, err);
	if (rc == KT_OK && targets && cJSON_AddItemToArray(list, o))
		return KT_OK;
	cJSON_Delete(o);
	if (rc == KT_OK)
		return targets ? no_memory(err) : KT_OK;
	char path[64];
	const kt_json_doc *doc = &p->in->playbook->doc;
	(void)snprintf(path, sizeof path, "$.steps[%zu]", p->step);
	return kt_err_prefix(err, rc, "%s:%zu: %s (%s)", doc->name, kt_json_doc_line(doc, path), path,
			     member(step, "name")->valuestring);
}

static kt_code add_steps(kt_planner *p, cJSON *plan, kt_err *err)
{
	cJSON *list = cJSON_AddArrayToObject(plan, "steps");
	if (!list)
		return no_memory(err);
	p->step = 0;
	for (const cJSON *s = member(p->playbook, "steps")->child; s; s = s->next, p->step++)
		KT_TRY(add_step(p, s, list, err));
	return KT_OK;
}

/* --- What stands before the steps
 * ----------------------------------------------------------------------------------------- */

static kt_code add_playbook(const kt_planner *p, cJSON *plan, kt_err *err)
{
	cJSON *o;
	KT_TRY(add_object(plan, "playbook", &o, err));
	KT_TRY(kt_json_add_str(o, "name", p->in->playbook->name, err));
	KT_TRY(kt_json_add_int(o, "version", p->in->playbook->version, err));
	return kt_json_add_str(o, "sha256", p->in->playbook->sha256, err);
}

/* Where the node's transport key is, and which one is pinned ("": none): what is approved is wrapping to that one. */
static kt_code add_transport_key(const kt_planner *p, size_t i, cJSON *node, kt_err *err)
{
	const kt_node *n = &p->in->cluster->nodes[i];
	const kt_plan_pin *pin = p->in->pins ? &p->in->pins[i] : NULL;
	kt_buf at = KT_BUF_INIT;
	cJSON *o;
	KT_TRY(add_object(node, "transport_key", &o, err));
	kt_code rc = kt_node_transport_at(n, &at, err);
	if (rc == KT_OK && pin && pin->at && strcmp(pin->at, kt_buf_cstr(&at)) != 0)
		rc = kt_fail(
			err, KT_E_REFUSED,
			"`keyturn enroll --rotate-transport` makes a key in its new place; or correct cluster.json",
			"%s: cluster.json has its transport key in %.200s, pinned is one in %.200s", n->name,
			kt_buf_cstr(&at), pin->at);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "at", kt_buf_cstr(&at), err);
	kt_buf_free(&at);
	return rc == KT_OK ? kt_json_add_str(o, "spki_sha256", pin && pin->at ? pin->spki_sha256 : "", err) : rc;
}

static kt_code add_nodes(const kt_planner *p, cJSON *plan, kt_err *err)
{
	const kt_cluster *c = p->in->cluster;
	cJSON *list = cJSON_AddArrayToObject(plan, "nodes");
	if (!list)
		return no_memory(err);
	for (size_t i = 0; i < c->nodes_count; i++) {
		cJSON *o = cJSON_CreateObject();
		if (!o || !cJSON_AddItemToArray(list, o)) {
			cJSON_Delete(o);
			return no_memory(err);
		}
		KT_TRY(kt_json_add_str(o, "name", c->nodes[i].name, err));
		KT_TRY(kt_json_add_str(o, "host", c->nodes[i].host, err));
		KT_TRY(kt_json_add_int(o, "port", c->nodes[i].port, err));
		KT_TRY(kt_json_add_str(o, "user", c->nodes[i].user ? c->nodes[i].user : "", err));
		KT_TRY(add_transport_key(p, i, o, err));
	}
	return KT_OK;
}

/* Which token, without what only says how this machine gets at it (module, PIN source: RFC 7512's query part). */
static kt_code add_hsm(const kt_planner *p, cJSON *plan, kt_err *err)
{
	const kt_cluster *c = p->in->cluster;
	char *uri = strndup(c->hsm.uri, strcspn(c->hsm.uri, "?"));
	cJSON *o;
	if (!uri)
		return no_memory(err);
	kt_code rc = add_object(plan, "hsm", &o, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "token", uri, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "escrow_key", c->hsm.escrow_key, err);
	free(uri);
	return rc;
}

static kt_code add_uris(const kt_planner *p, const kt_plan_key *keys, const char *name, cJSON *into, kt_err *err)
{
	const kt_cluster *c = p->in->cluster;
	cJSON *o;
	KT_TRY(add_object(into, name, &o, err));
	for (size_t i = 0; i < c->nodes_count; i++)
		if (!cJSON_AddItemToObject(o, c->nodes[i].name, cJSON_CreateString(keys[i].uri)))
			return no_memory(err);
	return KT_OK;
}

/* Who can open an escrow of the new key besides the HSM. Left out where there is nobody. */
static kt_code add_custodians(const kt_planner *p, cJSON *plan, kt_err *err)
{
	const kt_cluster *c = p->in->cluster;
	cJSON *all;
	if (!c->custodians_count || !p->in->custodians)
		return KT_OK;
	KT_TRY(kt_json_add(plan, "custodians", cJSON_CreateArray(), err));
	all = cJSON_GetObjectItemCaseSensitive(plan, "custodians");
	for (size_t i = 0; i < c->custodians_count; i++) {
		cJSON *o = cJSON_CreateObject();
		if (!o || !cJSON_AddItemToArray(all, o)) {
			cJSON_Delete(o);
			return no_memory(err);
		}
		KT_TRY(kt_json_add_str(o, "name", c->custodians[i].name, err));
		KT_TRY(kt_json_add_str(o, "spki_sha256", p->in->custodians[i], err));
	}
	return KT_OK;
}

static kt_code add_head(const kt_planner *p, cJSON *plan, kt_err *err)
{
	const kt_cluster *c = p->in->cluster;
	const cJSON *warnings = member(p->playbook, "warnings");
	cJSON *o;
	KT_TRY(kt_json_add_str(plan, "format", KT_PLAN_FORMAT, err));
	KT_TRY(kt_json_add_str(plan, "cluster", c->name, err));
	KT_TRY(kt_json_add_str(plan, "run", p->in->run, err));
	KT_TRY(add_playbook(p, plan, err));
	KT_TRY(add_nodes(p, plan, err));
	KT_TRY(add_object(plan, "roles", &o, err));
	KT_TRY(kt_json_add_str(o, "rekey", c->nodes[c->rekey].name, err));
	KT_TRY(kt_json_add_str(o, "canary", c->nodes[c->canary].name, err));
	KT_TRY(add_hsm(p, plan, err));
	KT_TRY(add_custodians(p, plan, err));
	KT_TRY(add_object(plan, "key", &o, err));
	if (p->kcv)
		KT_TRY(kt_json_add_str(o, "kcv", p->kcv, err));
	KT_TRY(add_uris(p, p->from, "from", o, err));
	KT_TRY(add_uris(p, p->to, "to", o, err));
	return kt_json_add(plan, "warnings", warnings ? cJSON_Duplicate(warnings, 1) : cJSON_CreateArray(), err);
}

/* --- All of it
 * ------------------------------------------------------------------------------------------------------------ */

static kt_code check_size(const cJSON *plan, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = kt_json_print(plan, &text, err);
	size_t n = text.len;
	kt_buf_free(&text);
	if (rc == KT_OK && n > KT_JSON_MAX)
		return kt_fail(err, KT_E_INPUT,
			       "let paths be the same on all nodes (no ${node} in them), so that the plan can "
			       "say them once",
			       "the plan has %zu bytes, a journal takes %d", n, (int)KT_JSON_MAX);
	return rc;
}

static kt_code make(kt_planner *p, cJSON *plan, char digest[KT_SHA256_HEX], kt_err *err)
{
	KT_TRY(check_run(p->in->run, err));
	KT_TRY(kt_plan_find_keys(p, err));
	KT_TRY(kt_plan_check_vars(p, err));
	KT_TRY(add_head(p, plan, err));
	KT_TRY(add_steps(p, plan, err));
	KT_TRY(check_size(plan, err));
	return kt_plan_digest(plan, digest, err);
}

kt_code kt_plan_make(const kt_plan_input *in, cJSON **plan, char digest[KT_SHA256_HEX], kt_err *err)
{
	kt_planner p = {.in = in, .playbook = in->playbook->doc.root, .step = SIZE_MAX};
	*plan = NULL;
	digest[0] = '\0';
	cJSON *made = cJSON_CreateObject();
	kt_code rc = made ? make(&p, made, digest, err) : no_memory(err);
	kt_plan_free_keys(&p);
	if (rc != KT_OK)
		cJSON_Delete(made);
	else
		*plan = made;
	return rc;
}

kt_code kt_plan_digest(const cJSON *plan, char digest[KT_SHA256_HEX], kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = kt_json_canonical(plan, &text, err);
	if (rc == KT_OK)
		rc = kt_sha256_hex(text.data, text.len, digest, err);
	kt_buf_free(&text);
	return rc;
}

/* --- Asking a node where its key is
 * ------------------------------------------------------------------------------------- */

/* What a variable that a keystore sets for running tells of its key; NULL: nothing. */
static const char *tells(const char *keystore, const cJSON *value)
{
	static const struct {
		const char *keystore, *value, *tells;
	} table[] = {{"file", "${key.path}", "file"},
		     {"pkcs11", "${key.uri}", "pkcs11"},
		     {"awskms", "${key.name}", "awskms"},
		     {"awskms", "${key.region}", "awskms.region"},
		     {"awskms", "${key.context}", "awskms.context"}};
	if (cJSON_IsObject(value))
		return "env";
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
		if (strcmp(keystore, table[i].keystore) == 0 && strcmp(value->valuestring, table[i].value) == 0)
			return table[i].tells;
	return NULL;
}

static kt_code add_variables(const kt_planner *p, cJSON *into, kt_err *err)
{
	cJSON *o;
	KT_TRY(add_object(into, "variables", &o, err));
	for (const cJSON *k = member(p->playbook, "keystores")->child; k; k = k->next) {
		const cJSON *run = member(k, "run");
		for (const cJSON *v = run ? run->child : NULL; v; v = v->next)
			if (tells(k->string, v))
				KT_TRY(kt_json_add_str(o, v->string, tells(k->string, v), err));
	}
	return KT_OK;
}

/* Whether a node that names no key may be one whose data is in the legacy form. */
static kt_code add_legacy(const kt_planner *p, cJSON *into, kt_err *err)
{
	const char *legacy = kt_keyuri_name(KT_KEYURI_LEGACY);
	return kt_json_add_bool(into, legacy, member(member(p->playbook, "keystores"), legacy) != NULL, err);
}

kt_code kt_plan_locate_args(const kt_plan_input *in, size_t node, cJSON **args, kt_err *err)
{
	kt_planner p = {.in = in, .playbook = in->playbook->doc.root, .step = SIZE_MAX};
	kt_plan_scope s;
	kt_scope scope;
	kt_buf path = KT_BUF_INIT;
	*args = NULL;
	cJSON *o = cJSON_CreateObject();
	kt_code rc = o ? KT_OK : no_memory(err);
	kt_plan_scope_init(&p, node, false, &s, &scope);
	if (rc == KT_OK)
		rc = kt_template_text(member(p.playbook, "env_file")->valuestring, &scope, &path, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "env_file", kt_buf_cstr(&path), err);
	if (rc == KT_OK)
		rc = add_variables(&p, o, err);
	if (rc == KT_OK)
		rc = add_legacy(&p, o, err);
	kt_buf_free(&path);
	if (rc != KT_OK)
		cJSON_Delete(o);
	else
		*args = o;
	return rc;
}

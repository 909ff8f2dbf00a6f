/* SPDX-License-Identifier: Apache-2.0 */
/* Where the old key is and where the new one goes, and how that reads as variables and as arguments of the agent. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/keymsg.h"
#include "orchestrator/plan/internal.h"

static const cJSON *member(const cJSON *obj, const char *name)
{
	return obj ? cJSON_GetObjectItemCaseSensitive(obj, name) : NULL;
}

static kt_code no_memory(kt_err *err)
{
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static const char *kind_name(const kt_plan_key *k)
{
	return kt_keyuri_name(k->kind);
}

/* --- Reading the URIs -----------------------------------------------------------------------------------------------
 */

/* Two spellings of one path must not pass for two. Dollar signs would be taken for templates. */
static bool path_is_plain(const char *p)
{
	size_t n = strlen(p);
	if (p[0] != '/' || n < 2 || p[n - 1] == '/' || strchr(p, '$'))
		return false;
	for (const char *c = p; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			return false;
	for (const char *c = strchr(p, '/'); c; c = strchr(c + 1, '/')) {
		size_t part = strcspn(c + 1, "/");
		if (part == 0 || (part == 1 && c[1] == '.') || (part == 2 && c[1] == '.' && c[2] == '.'))
			return false;
	}
	return true;
}

static bool name_is_plain(const char *name)
{
	bool ok = isalpha((unsigned char)name[0]) || name[0] == '_';
	for (const char *c = name; *c; c++)
		ok = ok && (isalnum((unsigned char)*c) || *c == '_');
	return ok && strlen(name) < 256;
}

static kt_code check_where(const char *uri, kt_keyuri_kind kind, const char *where, kt_err *err)
{
	if (kt_keyuri_none(kind) && where[0])
		return kt_fail(err, KT_E_INPUT, "write legacy: and nothing more", "\"%s\": the legacy form has no key",
			       uri);
	if (kind == KT_KEYURI_FILE && !path_is_plain(where))
		return kt_fail(err, KT_E_INPUT, "write an absolute path without \"//\", \".\", \"..\" and dollar signs",
			       "\"%s\": the path is not plain", uri);
	if (kind == KT_KEYURI_ENV && !name_is_plain(where))
		return kt_fail(err, KT_E_INPUT, NULL, "\"%s\" does not name a variable", uri);
	if (kind == KT_KEYURI_PKCS11)
		KT_TRY(kt_node_token_check(uri, err));
	if (kind == KT_KEYURI_PKCS11 && !strstr(uri, "object=") && !strstr(uri, "id="))
		return kt_fail(err, KT_E_INPUT, "add object= (the label) or id= to the URI",
			       "\"%s\" names a token, but no key in it", uri);
	return KT_OK;
}

static kt_code parse_key(const char *uri, kt_plan_key *out, kt_err *err)
{
	const char *where;
	kt_plan_key k = {0};
	if (!kt_keyuri_kind_of(uri, &k.kind, &where))
		return kt_fail(err, KT_E_INPUT,
			       "write file:/absolute/path, env:NAME, pkcs11:… or awskms:alias/NAME; for \"from\" also "
			       "legacy:",
			       "\"%s\" is no keystore that is known", uri);
	KT_TRY(check_where(uri, k.kind, where, err));
	if (k.kind == KT_KEYURI_AWSKMS)
		KT_TRY(kt_awsuri_parse(where, &k.aws, err));
	if (kt_keyuri_stays(k.kind) && (strchr(uri, '$') || strchr(k.aws.context, '$')))
		return kt_fail(err, KT_E_INPUT, NULL, "\"%s\": a dollar sign would be taken for a template", uri);
	k.uri = strdup(uri);
	if (!k.uri)
		return no_memory(err);
	k.where = k.uri + (where - uri);
	*out = k;
	return KT_OK;
}

static kt_code at_key(const kt_planner *p, const char *path, size_t node, kt_code rc, kt_err *err)
{
	const kt_cluster *c = p->in->cluster;
	if (rc == KT_OK)
		return rc;
	return kt_err_prefix(err, rc, "%s:%zu: %s: %s", c->doc.name, kt_json_doc_line(&c->doc, path), path,
			     c->nodes[node].name);
}

/* A template of cluster.json for one node. */
static kt_code read_key(kt_planner *p, const char *path, const char *text, size_t node, kt_plan_key *out, kt_err *err)
{
	kt_plan_scope s;
	kt_scope scope;
	kt_buf uri = KT_BUF_INIT;
	kt_plan_scope_init(p, node, false, &s, &scope);
	kt_code rc = kt_template_text(text, &scope, &uri, err);
	if (rc == KT_OK)
		rc = parse_key(kt_buf_cstr(&uri), out, err);
	kt_buf_free(&uri);
	return at_key(p, path, node, rc, err);
}

/* That a node names no key does not say yet that its data needs none: a person has to say it. */
static kt_code read_told(kt_planner *p, size_t i, const char *told, kt_err *err)
{
	const kt_cluster *c = p->in->cluster;
	KT_TRY(kt_err_prefix(err, parse_key(told, &p->from[i], err), "%s", c->nodes[i].name));
	if (!kt_keyuri_none(p->from[i].kind))
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED,
		       "where the data is in the legacy form, set \"from\": \"legacy:\" in \"key\" of the cluster "
		       "file; else set the variable that names the key in force",
		       "%s: no variable names the key in force (%s)", c->nodes[i].name, KT_KEYMSG_MISSING);
}

static kt_code find_from(kt_planner *p, size_t i, kt_err *err)
{
	const kt_cluster *c = p->in->cluster;
	const char *told = p->in->located ? p->in->located[i].uri : NULL;
	if (!told && !c->key_from)
		return kt_fail(err, KT_E_INPUT,
			       "set \"from\" in \"key\" of the cluster file, or let the nodes be asked",
			       "%s: where the old key is was neither said nor asked", c->nodes[i].name);
	if (!c->key_from)
		return read_told(p, i, told, err);
	KT_TRY(read_key(p, "$.key.from", c->key_from, i, &p->from[i], err));
	if (told && strcmp(told, p->from[i].uri) != 0)
		return kt_fail(err, KT_E_REFUSED, "correct $.key.from, or leave it out",
			       "%s runs with the key in %s, but %s says %s", c->nodes[i].name, told, c->doc.name,
			       p->from[i].uri);
	return KT_OK;
}

static kt_code find_kcv(kt_planner *p, kt_err *err)
{
	const kt_cluster *c = p->in->cluster;
	size_t first = 0;
	for (size_t i = 0; p->in->located && i < c->nodes_count; i++) {
		const char *kcv = p->in->located[i].kcv;
		if (kcv && !kcv[0])
			continue; /* of a key that stays where it is */
		if (kcv && !p->kcv) {
			p->kcv = kcv;
			first = i;
		}
		if (kcv && strcmp(kcv, p->kcv) != 0)
			return kt_fail(err, KT_E_REFUSED, "give all nodes the key that opens the data, then try again",
				       "the nodes have different keys: %s has %s, %s has %s", c->nodes[first].name,
				       p->kcv, c->nodes[i].name, kcv);
	}
	return KT_OK;
}

/* --- What must hold
 * ----------------------------------------------------------------------------------------------------- */

/* A key of AWS KMS is one key for the whole cluster; tokens are the nodes' own, and a step of the playbook compares
 * them. */
static kt_code check_same_kind(const kt_planner *p, const kt_plan_key *keys, const char *which, kt_err *err)
{
	const kt_cluster *c = p->in->cluster;
	for (size_t i = 1; i < c->nodes_count; i++) {
		if (keys[i].kind != keys[0].kind)
			return kt_fail(err, KT_E_REFUSED, "bring all nodes to the same kind of keystore first",
				       "the %s key is in %s on %s, but in %s on %s", which, keys[0].uri,
				       c->nodes[0].name, keys[i].uri, c->nodes[i].name);
		if (keys[i].kind == KT_KEYURI_AWSKMS && strcmp(keys[i].uri, keys[0].uri) != 0)
			return kt_fail(err, KT_E_REFUSED, "name it alike on all nodes first",
				       "the %s key is %s on %s, but %s on %s", which, keys[0].uri, c->nodes[0].name,
				       keys[i].uri, c->nodes[i].name);
	}
	return KT_OK;
}

/* The variable named must be the one that the application reads its key from. */
static kt_code check_variable(const kt_planner *p, const kt_plan_key *k, kt_err *err)
{
	const cJSON *set = member(member(p->playbook, "keystores"), kind_name(k));
	if (!set)
		return kt_fail(err, KT_E_REFUSED, NULL, "playbook \"%s\" has no keystore \"%s\", but the key is in %s",
			       p->in->playbook->name, kind_name(k), k->uri);
	if (k->kind != KT_KEYURI_ENV)
		return KT_OK;
	for (const cJSON *v = member(set, "run")->child; v; v = v->next)
		if (cJSON_IsObject(v) && strcmp(v->string, k->where) == 0)
			return KT_OK;
	return kt_fail(err, KT_E_REFUSED, "name the variable that playbook uses for its key",
		       "%s: the application does not read its key from this variable", k->uri);
}

/* The same place, whatever says how a node gets at it (RFC 7512's query part). A variable takes the new key's value. */
static bool same_place(const kt_plan_key *a, const kt_plan_key *b)
{
	size_t n = strcspn(a->uri, a->kind == KT_KEYURI_PKCS11 ? "?" : "");
	return a->kind == b->kind && a->kind != KT_KEYURI_ENV && strncmp(a->uri, b->uri, n) == 0 &&
	       n == strcspn(b->uri, b->kind == KT_KEYURI_PKCS11 ? "?" : "");
}

static kt_code check_new(const kt_planner *p, size_t i, kt_err *err)
{
	if (!kt_keyuri_none(p->to[i].kind))
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED,
		       "name in $.key.to where the new key goes; `keyturn rollback` takes a turn from the legacy form "
		       "back by its backup",
		       "%s: nothing is turned into the legacy form: %s can only be the source of a turn",
		       p->in->cluster->nodes[i].name, p->to[i].uri);
}

static kt_code check_keys(const kt_planner *p, kt_err *err)
{
	const kt_cluster *c = p->in->cluster;
	KT_TRY(check_same_kind(p, p->from, "old", err));
	KT_TRY(check_same_kind(p, p->to, "new", err));
	for (size_t i = 0; i < c->nodes_count; i++) {
		KT_TRY(check_variable(p, &p->from[i], err));
		KT_TRY(check_new(p, i, err));
		KT_TRY(check_variable(p, &p->to[i], err));
		if (same_place(&p->from[i], &p->to[i]))
			return kt_fail(err, KT_E_REFUSED,
				       kt_keyuri_stays(p->to[i].kind)
					       ? "make another key, and let $.key.to name it"
					       : "let $.key.to name another file, for instance with ${run} in it",
				       "%s: the new key would replace the old one, which stays needed (%s)",
				       c->nodes[i].name, p->to[i].uri);
	}
	return KT_OK;
}

kt_code kt_plan_find_keys(kt_planner *p, kt_err *err)
{
	const kt_cluster *c = p->in->cluster;
	p->from = calloc(c->nodes_count, sizeof *p->from);
	p->to = calloc(c->nodes_count, sizeof *p->to);
	if (!p->from || !p->to)
		return no_memory(err);
	for (size_t i = 0; i < c->nodes_count; i++)
		KT_TRY(find_from(p, i, err));
	KT_TRY(find_kcv(p, err));
	for (size_t i = 0; i < c->nodes_count; i++)
		KT_TRY(read_key(p, "$.key.to", c->key_to, i, &p->to[i], err));
	return check_keys(p, err);
}

void kt_plan_free_keys(kt_planner *p)
{
	for (size_t i = 0; i < p->in->cluster->nodes_count; i++) {
		if (p->from)
			free(p->from[i].uri);
		if (p->to)
			free(p->to[i].uri);
	}
	free(p->from);
	free(p->to);
	p->from = p->to = NULL;
}

/* --- Operators
 * ---------------------------------------------------------------------------------------------------------- */

/* `${key.` becomes `${from.` or `${to.`, so that the value means that side's key. */
static cJSON *value_for(const cJSON *value, const char *side)
{
	if (!cJSON_IsString(value)) {
		cJSON *ref = cJSON_CreateObject();
		if (ref && !cJSON_AddStringToObject(ref, "key", side)) {
			cJSON_Delete(ref);
			return NULL;
		}
		return ref;
	}
	kt_buf text = KT_BUF_INIT;
	kt_code rc = KT_OK;
	const char *p = value->valuestring;
	for (const char *at = strstr(p, "${key."); rc == KT_OK && at; p = at + 6, at = strstr(p, "${key.")) {
		rc = kt_buf_append(&text, p, (size_t)(at - p), NULL);
		if (rc == KT_OK)
			rc = kt_buf_printf(&text, NULL, "${%s.", side);
	}
	if (rc == KT_OK)
		rc = kt_buf_str(&text, p, NULL);
	cJSON *made = rc == KT_OK ? cJSON_CreateString(kt_buf_cstr(&text)) : NULL;
	kt_buf_free(&text);
	return made;
}

/* Region and encryption context need not be said; a variable for what was not said is not set. */
static bool not_said(const cJSON *value, const kt_plan_key *key)
{
	const char *text = cJSON_IsString(value) ? value->valuestring : "";
	return (strcmp(text, "${key.region}") == 0 && !key->aws.region[0]) ||
	       (strcmp(text, "${key.context}") == 0 && !key->aws.context[0]);
}

/* Is it one value, though it was reached in two ways (the region of both keys)? */
static bool same_value(kt_planner *p, size_t node, const cJSON *a, const cJSON *b)
{
	kt_plan_scope s;
	kt_scope scope;
	cJSON *x = NULL, *y = NULL;
	kt_plan_scope_init(p, node == SIZE_MAX ? 0 : node, true, &s, &scope);
	bool same = kt_template_resolve(a, &scope, &x, NULL) == KT_OK &&
		    kt_template_resolve(b, &scope, &y, NULL) == KT_OK && cJSON_Compare(x, y, 1);
	cJSON_Delete(x);
	cJSON_Delete(y);
	return same;
}

/* Add a variable to `into`; takes `made`. Two sets may agree on a variable, but not differ. */
static kt_code merge_value(kt_planner *p, size_t node, const char *name, cJSON *made, cJSON *into, kt_err *err)
{
	const cJSON *there = member(into, name);
	if (!there)
		return kt_json_add(into, name, made, err);
	bool same = made && same_value(p, node, there, made);
	cJSON_Delete(made);
	return same ? KT_OK
		    : kt_fail(err, KT_E_INPUT, "turn in two steps, by a keystore that does not use this variable",
			      "two sets give \"%s\" different values", name);
}

static bool is_side(const char *set)
{
	return strncmp(set, "from.", 5) == 0 || strncmp(set, "to.", 3) == 0;
}

/* The set of a keystore in force: "from.source". */
static const cJSON *find_set(const kt_planner *p, const char *name, const kt_plan_key **key)
{
	*key = name[0] == 'f' ? p->from : p->to;
	return is_side(name) ? member(member(member(p->playbook, "keystores"), kind_name(*key)), strchr(name, '.') + 1)
			     : NULL;
}

/* Without a key there is no variable for it. */
static bool is_empty_set(const char *name, const kt_plan_key *key)
{
	return is_side(name) && kt_keyuri_none(key->kind);
}

/* Add one set to `into`. */
static kt_code merge_set(kt_planner *p, size_t node, const char *name, cJSON *into, kt_err *err)
{
	const kt_plan_key *key;
	const cJSON *set = find_set(p, name, &key);
	if (is_empty_set(name, key))
		return KT_OK;
	if (!set)
		return kt_fail(err, KT_E_INPUT, "the sets are from.run, from.source, to.destination, to.run",
			       "there is no set of variables \"%.40s\"", name);
	for (const cJSON *v = set->child; v; v = v->next)
		if (!not_said(v, key))
			KT_TRY(merge_value(p, node, v->string, value_for(v, name[0] == 'f' ? "from" : "to"), into,
					   err));
	return KT_OK;
}

static kt_code merge_sets(kt_planner *p, size_t node, const cJSON *names, cJSON **out, kt_err *err)
{
	*out = cJSON_CreateObject();
	kt_code rc = *out ? KT_OK : no_memory(err);
	if (rc == KT_OK && !cJSON_IsArray(names))
		rc = kt_fail(err, KT_E_INPUT, NULL, "\"$set\" and \"$owned_except\" take an array of names of sets");
	for (const cJSON *n = rc == KT_OK ? names->child : NULL; rc == KT_OK && n; n = n->next)
		rc = merge_set(p, node, cJSON_IsString(n) ? n->valuestring : "", *out, err);
	if (rc != KT_OK) {
		cJSON_Delete(*out);
		*out = NULL;
	}
	return rc;
}

/* Every other variable that the playbook owns becomes null: removed from the command's environment. */
static kt_code clear_others(const kt_planner *p, cJSON *set, kt_err *err)
{
	for (const cJSON *o = member(p->playbook, "owns")->child; o; o = o->next)
		if (!member(set, o->valuestring))
			KT_TRY(kt_json_add(set, o->valuestring, cJSON_CreateNull(), err));
	return KT_OK;
}

static kt_code list_unless(const cJSON *set, const char *name, cJSON *list, kt_err *err)
{
	if (member(set, name))
		return KT_OK;
	cJSON *item = cJSON_CreateString(name);
	if (item && cJSON_AddItemToArray(list, item))
		return KT_OK;
	cJSON_Delete(item);
	return no_memory(err);
}

/* What others may use, too, goes only with the last keystore that uses it. */
static bool has_had_its_day(const kt_planner *p, const char *name)
{
	const kt_plan_key *key;
	const cJSON *before = find_set(p, "from.run", &key);
	return member(before, name) && !member(find_set(p, "to.run", &key), name);
}

static kt_code owned_except(kt_planner *p, size_t node, const cJSON *names, cJSON **out, kt_err *err)
{
	cJSON *set = NULL;
	KT_TRY(merge_sets(p, node, names, &set, err));
	cJSON *list = cJSON_CreateArray();
	kt_code rc = list ? KT_OK : no_memory(err);
	const cJSON *shared = member(p->playbook, "shares");
	for (const cJSON *o = member(p->playbook, "owns")->child; rc == KT_OK && o; o = o->next)
		rc = list_unless(set, o->valuestring, list, err);
	for (const cJSON *o = shared ? shared->child : NULL; rc == KT_OK && o; o = o->next)
		if (has_had_its_day(p, o->valuestring))
			rc = list_unless(set, o->valuestring, list, err);
	cJSON_Delete(set);
	if (rc != KT_OK)
		cJSON_Delete(list);
	else
		*out = list;
	return rc;
}

kt_code kt_plan_operator(kt_planner *p, size_t node, const cJSON *object, cJSON **out, kt_err *err)
{
	const cJSON *set = member(object, "$set");
	const cJSON *except = member(object, "$owned_except");
	const cJSON *clear = member(object, "clear");
	int members = cJSON_GetArraySize(object);
	if ((!set && !except) || !p->from)
		return KT_OK;
	if (members != 1 + (set && clear))
		return kt_fail(err, KT_E_INPUT, NULL,
			       "\"$set\" may have \"clear\" beside it, \"$owned_except\" nothing");
	if (except)
		return owned_except(p, node, except, out, err);
	KT_TRY(merge_sets(p, node, set, out, err));
	kt_code rc = cJSON_IsTrue(clear) ? clear_others(p, *out, err) : KT_OK;
	if (rc != KT_OK) {
		cJSON_Delete(*out);
		*out = NULL;
	}
	return rc;
}

/* --- Steps --------------------------------------------------------------------------------------------------------
 */

static bool names_kind(const cJSON *when, const char *side, const kt_plan_key *key)
{
	const cJSON *kinds = member(when, side);
	const cJSON *k = cJSON_IsArray(kinds) ? kinds->child : kinds;
	const char *kind = kind_name(key);
	bool found = !kinds;
	for (; k; k = cJSON_IsArray(kinds) ? k->next : NULL)
		found = found || strcmp(k->valuestring, kind) == 0;
	return found;
}

bool kt_plan_applies(const kt_planner *p, const cJSON *step)
{
	const cJSON *when = member(step, "when");
	return names_kind(when, "from", p->from) && names_kind(when, "to", p->to);
}

/* --- Key references
 * ---------------------------------------------------------------------------------------------------- */

static kt_code add_env_file(kt_planner *p, size_t node, cJSON *ref, kt_err *err)
{
	kt_plan_scope s;
	kt_scope scope;
	kt_buf path = KT_BUF_INIT;
	kt_plan_scope_init(p, node, true, &s, &scope);
	kt_code rc = kt_template_text(member(p->playbook, "env_file")->valuestring, &scope, &path, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(ref, "env_file", kt_buf_cstr(&path), err);
	kt_buf_free(&path);
	return rc;
}

/* What {"key":…} of the agent holds: {"slot"}, {"file"} or {"env_file","name"}. */
static kt_code fill_ref(kt_planner *p, size_t node, bool old, cJSON *ref, kt_err *err)
{
	const kt_plan_key *from = &p->from[node];
	if (kt_keyuri_stays(old ? from->kind : p->to[node].kind))
		return kt_fail(err, KT_E_INPUT, "\"when\" and ${from.stays}, ${to.stays} tell such keystores apart",
			       "the %s key stays where it is: nobody can have it", old ? "old" : "new");
	if (!old)
		return kt_json_add_str(ref, "slot", p->in->run, err);
	if (from->kind == KT_KEYURI_FILE)
		return kt_json_add_str(ref, "file", from->where, err);
	KT_TRY(add_env_file(p, node, ref, err));
	return kt_json_add_str(ref, "name", from->where, err);
}

static kt_code agent_ref(kt_planner *p, size_t node, const char *side, cJSON **out, kt_err *err)
{
	cJSON *ref = cJSON_CreateObject();
	kt_code rc = ref ? fill_ref(p, node, strcmp(side, "from") == 0, ref, err) : no_memory(err);
	if (rc != KT_OK)
		cJSON_Delete(ref);
	else
		*out = ref;
	return rc;
}

static bool names_side(const cJSON *v)
{
	return cJSON_IsString(v) && (strcmp(v->valuestring, "from") == 0 || strcmp(v->valuestring, "to") == 0);
}

kt_code kt_plan_bind_keys(kt_planner *p, size_t node, cJSON *value, kt_err *err)
{
	cJSON *key = cJSON_IsObject(value) ? cJSON_GetObjectItemCaseSensitive(value, "key") : NULL;
	if (names_side(key) && !value->child->next) {
		cJSON *ref = NULL;
		if (node == SIZE_MAX)
			return kt_fail(err, KT_E_INPUT, NULL, "a step for the whole cluster has no key at hand");
		KT_TRY(agent_ref(p, node, key->valuestring, &ref, err));
		cJSON_DeleteItemFromObjectCaseSensitive(value, "key");
		return kt_json_add(value, "key", ref, err);
	}
	for (cJSON *c = value->child; c; c = c->next)
		KT_TRY(kt_plan_bind_keys(p, node, c, err));
	return KT_OK;
}

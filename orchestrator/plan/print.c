/* SPDX-License-Identifier: Apache-2.0 */
/* A plan as people read it, before they agree to it. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/shell.h"
#include "orchestrator/inventory/range.h"
#include "orchestrator/plan/internal.h"

enum { INDENT = 5, NAME_WIDTH = 11, NAMES_MAX = KT_NODES_MAX };

static const cJSON *member(const cJSON *obj, const char *name)
{
	return obj ? cJSON_GetObjectItemCaseSensitive(obj, name) : NULL;
}

static const char *text(const cJSON *obj, const char *name)
{
	const cJSON *v = member(obj, name);
	return cJSON_IsString(v) ? v->valuestring : "";
}

static int64_t number(const cJSON *obj, const char *name)
{
	const cJSON *v = member(obj, name);
	return cJSON_IsNumber(v) ? (int64_t)v->valuedouble : 0;
}

static bool is_verb(const cJSON *action, const char *verb)
{
	return strcmp(text(action, "verb"), verb) == 0;
}

/* --- Values
 * ----------------------------------------------------------------------------------------------------------- */

/* A string of the plan: `$$` is a dollar sign, and what is bound late is told as <field of step>. */
static kt_code put_string(const char *s, kt_buf *out, kt_err *err)
{
	while (*s) {
		size_t n = strcspn(s, "$");
		KT_TRY(kt_buf_append(out, s, n, err));
		s += n;
		if (!*s)
			break;
		const char *close = s[1] == '{' ? strchr(s, '}') : NULL;
		const char *dot = close ? memchr(s, '.', (size_t)(close - s)) : NULL;
		if (close && dot) {
			size_t field = strcspn(dot + 1, "|}");
			KT_TRY(kt_buf_printf(out, err, "<%.*s of %.*s>", (int)field, dot + 1, (int)(dot - s - 2),
					     s + 2));
			s = close + 1;
		} else {
			KT_TRY(kt_buf_str(out, "$", err));
			s += s[1] == '$' ? 2 : 1;
		}
	}
	return KT_OK;
}

/* The same as one word of a shell. */
static kt_code put_word(const char *s, kt_buf *out, kt_err *err)
{
	kt_buf word = KT_BUF_INIT;
	kt_code rc = put_string(s, &word, err);
	if (rc == KT_OK)
		rc = kt_shell_quote_word(kt_buf_cstr(&word), out, err);
	kt_buf_free(&word);
	return rc;
}

static kt_code put_words(const cJSON *list, kt_buf *out, kt_err *err)
{
	for (const cJSON *w = list ? list->child : NULL; w; w = w->next) {
		if (w != list->child)
			KT_TRY(kt_buf_str(out, " ", err));
		KT_TRY(cJSON_IsString(w) ? put_word(w->valuestring, out, err) : kt_json_print(w, out, err));
	}
	return KT_OK;
}

/* A key reference of the agent: never a key, only where it is. */
static kt_code put_keyref(const cJSON *ref, kt_buf *out, kt_err *err)
{
	const cJSON *key = member(ref, "key");
	if (member(key, "slot"))
		return kt_buf_str(out, "<new key>", err);
	bool file = member(key, "file") != NULL;
	KT_TRY(kt_buf_printf(out, err, "<old key, %s%sin ", text(key, "name"), file ? "" : " "));
	KT_TRY(put_string(text(key, file ? "file" : "env_file"), out, err));
	return kt_buf_str(out, ">", err);
}

static bool is_keyref(const cJSON *v)
{
	return cJSON_IsObject(member(v, "key")) && !v->child->next;
}

/* NAME=value for every variable; null is a variable that is removed. */
static kt_code put_env(const cJSON *env, bool removed, kt_buf *out, kt_err *err)
{
	size_t n = 0;
	for (const cJSON *v = env ? env->child : NULL; v; v = v->next) {
		if (cJSON_IsNull(v) != removed)
			continue;
		if (n++)
			KT_TRY(kt_buf_str(out, " ", err));
		KT_TRY(kt_buf_str(out, v->string, err));
		if (removed)
			continue;
		KT_TRY(kt_buf_str(out, "=", err));
		KT_TRY(is_keyref(v) ? put_keyref(v, out, err) : put_word(v->valuestring, out, err));
	}
	return KT_OK;
}

static kt_code put_any(const cJSON *v, kt_buf *out, kt_err *err);

static kt_code put_object(const cJSON *v, kt_buf *out, kt_err *err)
{
	for (const cJSON *m = v->child; m; m = m->next) {
		if (m != v->child)
			KT_TRY(kt_buf_str(out, ", ", err));
		KT_TRY(kt_buf_printf(out, err, "%s ", m->string));
		KT_TRY(put_any(m, out, err));
	}
	return KT_OK;
}

static bool is_scalar_list(const cJSON *v)
{
	for (const cJSON *c = v->child; c; c = c->next)
		if (cJSON_IsObject(c) || cJSON_IsArray(c))
			return false;
	return true;
}

static kt_code put_list(const cJSON *v, kt_buf *out, kt_err *err)
{
	if (!v->child)
		return kt_buf_str(out, "none", err);
	if (is_scalar_list(v))
		return put_words(v, out, err);
	for (const cJSON *c = v->child; c; c = c->next) {
		if (c != v->child)
			KT_TRY(kt_buf_str(out, "; ", err));
		KT_TRY(put_any(c, out, err));
	}
	return KT_OK;
}

static kt_code put_any(const cJSON *v, kt_buf *out, kt_err *err)
{
	if (cJSON_IsString(v))
		return put_string(v->valuestring, out, err);
	if (is_keyref(v))
		return put_keyref(v, out, err);
	if (cJSON_IsObject(v))
		return put_object(v, out, err);
	if (cJSON_IsArray(v))
		return put_list(v, out, err);
	return cJSON_IsNull(v) ? kt_buf_str(out, "-", err) : kt_json_print(v, out, err);
}

/* --- Commands and services
 * -------------------------------------------------------------------------------------------- */

static kt_code begin_line(const char *name, kt_buf *out, kt_err *err)
{
	return kt_buf_printf(out, err, "%*s%-*s ", INDENT + 4, "", NAME_WIDTH, name);
}

static kt_code put_cd(const cJSON *o, kt_buf *out, kt_err *err)
{
	const char *cwd = text(o, "cwd");
	if (!cwd[0])
		return KT_OK;
	KT_TRY(kt_buf_str(out, "cd ", err));
	KT_TRY(put_word(cwd, out, err));
	return kt_buf_str(out, " && ", err);
}

/* Who runs it, and with which variables. */
static kt_code put_surroundings(const cJSON *o, kt_buf *out, kt_err *err)
{
	const cJSON *env = member(o, "env");
	bool sets = false;
	bool removes = false;
	for (const cJSON *v = env ? env->child : NULL; v; v = v->next) {
		sets = sets || !cJSON_IsNull(v);
		removes = removes || cJSON_IsNull(v);
	}
	KT_TRY(kt_buf_str(out, "\n", err));
	if (text(o, "user")[0] || text(o, "env_file")[0]) {
		KT_TRY(begin_line("", out, err));
		KT_TRY(kt_buf_printf(out, err, "as %s", text(o, "user")[0] ? text(o, "user") : "the agent's user"));
		if (text(o, "env_file")[0])
			KT_TRY(kt_buf_str(out, ", with the variables of ", err));
		KT_TRY(put_string(text(o, "env_file"), out, err));
		KT_TRY(kt_buf_str(out, "\n", err));
	}
	if (sets) {
		KT_TRY(begin_line("  set", out, err));
		KT_TRY(put_env(env, false, out, err));
		KT_TRY(kt_buf_str(out, "\n", err));
	}
	if (!removes)
		return KT_OK;
	KT_TRY(begin_line("  without", out, err));
	KT_TRY(put_env(env, true, out, err));
	return kt_buf_str(out, "\n", err);
}

static kt_code put_command(const char *name, const cJSON *o, kt_buf *out, kt_err *err)
{
	KT_TRY(begin_line(strcmp(name, "command") == 0 ? "run" : name, out, err));
	if (!cJSON_IsObject(o)) {
		KT_TRY(kt_buf_str(out, "none\n", err));
		return KT_OK;
	}
	KT_TRY(put_cd(o, out, err));
	KT_TRY(put_words(member(o, "argv"), out, err));
	return put_surroundings(o, out, err);
}

/* What a service verb runs: systemctl for a unit, the commands otherwise. */
static kt_code put_service(const char *verb, const cJSON *o, kt_buf *out, kt_err *err)
{
	const char *dot = strchr(verb, '.');
	const char *what = dot && strncmp(verb, "service", 7) == 0 ? dot + 1 : "status";
	KT_TRY(begin_line("service", out, err));
	if (member(o, "unit")) {
		KT_TRY(kt_buf_printf(out, err, "systemctl %s ", what));
		KT_TRY(put_word(text(o, "unit"), out, err));
		return kt_buf_str(out, "\n", err);
	}
	KT_TRY(put_cd(o, out, err));
	KT_TRY(put_words(member(o, what), out, err));
	return put_surroundings(o, out, err);
}

/* --- Names of nodes
 * ----------------------------------------------------------------------------------------------------- */

static kt_code put_names(const cJSON *list, kt_buf *out, kt_err *err)
{
	size_t n = (size_t)cJSON_GetArraySize(list);
	const char **names = calloc(n + 1, sizeof *names);
	if (!names)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	size_t i = 0;
	for (const cJSON *c = list ? list->child : NULL; c; c = c->next)
		names[i++] = cJSON_IsString(c) ? c->valuestring : "?";
	kt_code rc = n == 1 && strcmp(names[0], "@") == 0 ? kt_buf_str(out, "the coordinator", err)
							  : kt_range_fold(names, n, out, err);
	free((void *)names);
	return rc;
}

static bool is_boundary(char c)
{
	return !isalnum((unsigned char)c) && c != '_';
}

/* A copy of `s` with every whole word `name` in it as ${node}, so that nodes that differ in nothing else look alike. */
static char *without_name(const char *s, const char *name)
{
	kt_buf made = KT_BUF_INIT;
	size_t n = strlen(name);
	const char *p = s;
	kt_code rc = KT_OK;
	for (const char *at = strstr(s, name); rc == KT_OK && at; at = strstr(at + n, name)) {
		if ((at > s && !is_boundary(at[-1])) || !is_boundary(at[n]))
			continue;
		rc = kt_buf_append(&made, p, (size_t)(at - p), NULL);
		if (rc == KT_OK)
			rc = kt_buf_str(&made, "$${node}", NULL);
		p = at + n;
	}
	if (rc == KT_OK)
		rc = kt_buf_str(&made, p, NULL);
	char *text_made = rc == KT_OK ? kt_buf_steal(&made) : NULL;
	kt_buf_free(&made);
	return text_made;
}

/* A name that stands alone means the node itself and stays. */
static kt_code forget_name(cJSON *v, const char *name, kt_err *err)
{
	if (cJSON_IsString(v) && strstr(v->valuestring, name) && strcmp(v->valuestring, name) != 0) {
		char *made = without_name(v->valuestring, name);
		bool done = made && cJSON_SetValuestring(v, made);
		free(made);
		return done ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	for (cJSON *c = v->child; c; c = c->next)
		KT_TRY(forget_name(c, name, err));
	return KT_OK;
}

/* The groups of an action once more, now equal up to the node's name. */
static kt_code regroup(const cJSON *action, cJSON **out, kt_err *err)
{
	kt_plan_groups g;
	KT_TRY(kt_plan_groups_init(&g, NAMES_MAX, err));
	kt_plan_cursor at = {0};
	kt_code rc = KT_OK;
	while (rc == KT_OK && kt_plan_next(action, &at)) {
		cJSON *args = cJSON_Duplicate(at.args, 1);
		if (!args)
			rc = kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
		else if ((rc = forget_name(args, at.node, err)) != KT_OK)
			cJSON_Delete(args);
		else
			rc = kt_plan_groups_add(&g, at.node, args, err);
	}
	return kt_plan_groups_end(&g, rc, out);
}

/* --- Steps
 * ---------------------------------------------------------------------------------------------------------------- */

static kt_code put_arg(const char *verb, const cJSON *a, kt_buf *out, kt_err *err)
{
	const kt_verb *v = kt_verb_find(verb);
	kt_arg_type type = KT_ARG_OBJECT;
	for (size_t i = 0; v && i < KT_VERB_ARGS && v->args[i].name; i++)
		if (strcmp(v->args[i].name, a->string) == 0)
			type = v->args[i].type;
	if (type == KT_ARG_SERVICE && cJSON_IsObject(a))
		return put_service(verb, a, out, err);
	if (type == KT_ARG_COMMAND)
		return put_command(a->string, a, out, err);
	KT_TRY(begin_line(a->string, out, err));
	if (type == KT_ARG_VALUES && cJSON_IsObject(a))
		KT_TRY(put_env(a, false, out, err));
	else if (cJSON_IsString(a) && strcmp(a->valuestring, "${plan.nodes}") == 0)
		KT_TRY(kt_buf_str(out, "all nodes of this plan", err));
	else
		KT_TRY(put_any(a, out, err));
	return kt_buf_str(out, "\n", err);
}

/* The arguments as they are of the one node of a group; those of a larger group, in which ${node} stands for its nodes.
 */
static const cJSON *args_of(const cJSON *action, const cJSON *group)
{
	const cJSON *nodes = member(group, "nodes");
	kt_plan_cursor at = {0};
	while (nodes && !nodes->child->next && kt_plan_next(action, &at))
		if (strcmp(at.node, nodes->child->valuestring) == 0)
			return at.args;
	return member(group, "args");
}

static kt_code put_group(const cJSON *action, const cJSON *group, kt_buf *out, kt_err *err)
{
	const char *verb = text(action, "verb");
	KT_TRY(kt_buf_printf(out, err, "%*s", INDENT, ""));
	KT_TRY(put_names(member(group, "nodes"), out, err));
	KT_TRY(kt_buf_printf(out, err, ": %s\n", verb));
	const cJSON *args = args_of(action, group);
	for (const cJSON *a = args ? args->child : NULL; a; a = a->next)
		KT_TRY(put_arg(verb, a, out, err));
	return KT_OK;
}

static kt_code put_retry(const cJSON *action, kt_buf *out, kt_err *err)
{
	const cJSON *retry = member(action, "retry");
	if (!number(retry, "times"))
		return KT_OK;
	const char *what = cJSON_IsTrue(member(action, "once")) ? "its outcome is asked for" : "asked";
	return kt_buf_printf(out, err, "%*s%s again up to %" PRId64 " times, every %" PRId64 " s%s\n", INDENT, "", what,
			     number(retry, "times"), number(retry, "every_s"),
			     cJSON_IsTrue(member(retry, "together")) ? ", all nodes in the same round" : "");
}

static kt_code put_action(const cJSON *action, kt_buf *out, kt_err *err)
{
	cJSON *groups = NULL;
	KT_TRY(regroup(action, &groups, err));
	kt_code rc = KT_OK;
	for (const cJSON *g = groups->child; rc == KT_OK && g; g = g->next)
		rc = put_group(action, g, out, err);
	cJSON_Delete(groups);
	return rc == KT_OK ? put_retry(action, out, err) : rc;
}

static kt_code put_other(const cJSON *step, const char *name, const char *heading, kt_buf *out, kt_err *err)
{
	const cJSON *action = member(step, name);
	if (!cJSON_IsObject(action))
		return KT_OK;
	KT_TRY(kt_buf_printf(out, err, "%*s%s\n", INDENT - 2, "", heading));
	return put_action(action, out, err);
}

static kt_code put_expect(const cJSON *step, kt_buf *out, kt_err *err)
{
	const cJSON *expect = member(step, "expect");
	if (!expect || !expect->child)
		return KT_OK;
	KT_TRY(kt_buf_printf(out, err, "%*smust answer: ", INDENT, ""));
	KT_TRY(put_object(expect, out, err));
	return kt_buf_str(out, "\n", err);
}

/* What a reader must not overlook. */
static kt_code put_remarks(const cJSON *step, kt_buf *out, kt_err *err)
{
	if (number(step, "parallel"))
		KT_TRY(kt_buf_printf(out, err, "%*sat most %" PRId64 " nodes at once\n", INDENT, "",
				     number(step, "parallel")));
	if (cJSON_IsTrue(member(step, "once")))
		KT_TRY(kt_buf_printf(
			out, err,
			"%*s** Once. However it ends, the probe tells which key opens the data; then it goes forward, "
			"or back by restoring the backup.\n",
			INDENT - 2, ""));
	if (cJSON_IsTrue(member(step, "commit")))
		KT_TRY(kt_buf_printf(out, err,
				     "%*s** The commit: once this has succeeded there is no way back, only forward.\n",
				     INDENT - 2, ""));
	return KT_OK;
}

static kt_code put_step(const cJSON *step, size_t index, kt_buf *out, kt_err *err)
{
	KT_TRY(kt_buf_printf(out, err, "%2zu %s: %s\n", index + 1, text(step, "name"), text(step, "title")));
	KT_TRY(put_action(step, out, err));
	KT_TRY(put_expect(step, out, err));
	KT_TRY(put_remarks(step, out, err));
	KT_TRY(put_other(step, "probe", "then, or when its outcome is not known:", out, err));
	return put_other(step, "undo", "taken back by:", out, err);
}

static kt_code put_phase(const char *phase, kt_buf *out, kt_err *err)
{
	static const struct {
		const char *phase, *says;
	} notes[] = {{"preflight", "changes nothing; a failure refuses the turn"},
		     {"stop", "a failure starts what was stopped"},
		     {"quiet", "a failure starts again"},
		     {"backup", "a failure starts again"},
		     {"key", "a failure starts again with the old key"},
		     {"rekey", "a failure is judged by the probe"},
		     {"env", "a failure goes back"},
		     {"start", "before the commit a failure goes back, after it the rest is held"},
		     {"retire", "a failure is a warning"}};
	const char *says = "";
	for (size_t i = 0; i < sizeof notes / sizeof notes[0]; i++)
		if (strcmp(notes[i].phase, phase) == 0)
			says = notes[i].says;
	return kt_buf_printf(out, err, "\n== %s%s%s\n", phase, says[0] ? ": " : "", says);
}

static kt_code put_steps(const cJSON *plan, kt_buf *out, kt_err *err)
{
	const cJSON *steps = member(plan, "steps");
	const char *phase = "";
	size_t i = 0;
	for (const cJSON *s = steps ? steps->child : NULL; s; s = s->next) {
		if (strcmp(text(s, "phase"), phase) != 0)
			KT_TRY(put_phase(text(s, "phase"), out, err));
		phase = text(s, "phase");
		KT_TRY(put_step(s, i++, out, err));
	}
	return KT_OK;
}

/* --- Head and warnings
 * ---------------------------------------------------------------------------------------------------- */

/* "file:/k/cmk on web[01-03]", a line for each different place. */
static kt_code put_key(const cJSON *uris, const char *name, const char *kcv, kt_buf *out, kt_err *err)
{
	kt_plan_groups g;
	cJSON *groups = NULL;
	KT_TRY(kt_plan_groups_init(&g, NAMES_MAX, err));
	kt_code rc = KT_OK;
	for (const cJSON *u = uris ? uris->child : NULL; rc == KT_OK && u; u = u->next) {
		char *place = cJSON_IsString(u) ? without_name(u->valuestring, u->string) : NULL;
		cJSON *item = place ? cJSON_CreateString(place) : NULL;
		free(place);
		rc = item ? kt_plan_groups_add(&g, u->string, item, err)
			  : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	KT_TRY(kt_plan_groups_end(&g, rc, &groups));
	for (const cJSON *p = groups->child; rc == KT_OK && p; p = p->next) {
		rc = kt_buf_printf(out, err, "%-9s ", p == groups->child ? name : "");
		if (rc == KT_OK)
			rc = put_string(text(p, "args"), out, err);
		if (rc == KT_OK)
			rc = kt_buf_str(out, " on ", err);
		if (rc == KT_OK)
			rc = put_names(member(p, "nodes"), out, err);
		if (rc == KT_OK)
			rc = kt_buf_printf(out, err, "%s%s%s\n", kcv[0] ? " (check value " : "", kcv,
					   kcv[0] ? ")" : "");
	}
	cJSON_Delete(groups);
	return rc;
}

static const cJSON *find_step(const cJSON *plan, const char *verb)
{
	const cJSON *s = member(plan, "steps") ? member(plan, "steps")->child : NULL;
	while (s && !is_verb(s, verb))
		s = s->next;
	return s;
}

/* What becomes of a key where it is; of all nodes' alike. */
static kt_code put_fate(const cJSON *uris, bool old, kt_buf *out, kt_err *err)
{
	static const struct {
		const char *old, *new;
	} fates[KT_KEYURI_KINDS] = {
		[KT_KEYURI_FILE] = {"its file stays where it is",
				    "made in the token, escrowed, wrapped for each node, written to that file (0400)"},
		[KT_KEYURI_ENV] = {"it stays in the old env file, which is kept",
				   "made in the token, escrowed, wrapped for each node, written into its env file"},
		[KT_KEYURI_PKCS11] =
			{"it stays in the nodes' token: leave it there",
			 "there already, in the nodes' token: not made, escrowed or delivered here; each node "
			 "tries it before anything stops. Who deletes it deletes the data"},
		[KT_KEYURI_AWSKMS] =
			{"it stays in AWS KMS: do not schedule its deletion",
			 "there already, in AWS KMS: not made, escrowed or delivered here; each node tries it "
			 "before anything stops. Who deletes it deletes the data"},
		[KT_KEYURI_LEGACY] = {"none: the data is in the legacy form (AES-128-CBC) until the migration", ""}};
	kt_keyuri_kind kind;
	const char *rest;
	const cJSON *first = uris ? uris->child : NULL;
	if (!cJSON_IsString(first) || !kt_keyuri_kind_of(first->valuestring, &kind, &rest))
		return KT_OK;
	return kt_buf_printf(out, err, "%9s %s\n", "", old ? fates[kind].old : fates[kind].new);
}

static kt_code put_nodes(const cJSON *plan, kt_buf *out, kt_err *err)
{
	cJSON *names = cJSON_CreateArray();
	const cJSON *nodes = member(plan, "nodes");
	for (const cJSON *n = nodes ? nodes->child : NULL; names && n; n = n->next)
		(void)cJSON_AddItemToArray(names, cJSON_CreateString(text(n, "name")));
	kt_code rc = names ? kt_buf_str(out, "nodes     ", err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = put_names(names, out, err);
	cJSON_Delete(names);
	const cJSON *roles = member(plan, "roles");
	return rc == KT_OK ? kt_buf_printf(out, err, "; the rekey runs on %s, %s starts first\n", text(roles, "rekey"),
					   text(roles, "canary"))
			   : rc;
}

static kt_code put_head(const cJSON *plan, kt_buf *out, kt_err *err)
{
	const cJSON *playbook = member(plan, "playbook");
	const cJSON *key = member(plan, "key");
	KT_TRY(kt_buf_printf(out, err, "Turn the key of cluster %s: %d nodes, %d steps\n", text(plan, "cluster"),
			     cJSON_GetArraySize(member(plan, "nodes")), cJSON_GetArraySize(member(plan, "steps"))));
	KT_TRY(kt_buf_printf(out, err, "run       %s\nplaybook  %s, version %" PRId64 ", %.12s\n", text(plan, "run"),
			     text(playbook, "name"), number(playbook, "version"), text(playbook, "sha256")));
	KT_TRY(put_nodes(plan, out, err));
	KT_TRY(put_key(member(key, "from"), "old key", text(key, "kcv"), out, err));
	KT_TRY(put_fate(member(key, "from"), true, out, err));
	KT_TRY(put_key(member(key, "to"), "new key", "", out, err));
	KT_TRY(put_fate(member(key, "to"), false, out, err));
	KT_TRY(kt_buf_printf(out, err, "token     %s, escrow under %s\n", text(member(plan, "hsm"), "token"),
			     text(member(plan, "hsm"), "escrow_key")));
	const cJSON *custodians = member(plan, "custodians");
	for (const cJSON *c = custodians ? custodians->child : NULL; c; c = c->next)
		KT_TRY(kt_buf_printf(out, err, "custodian %s, public key sha256 %s\n", text(c, "name"),
				     text(c, "spki_sha256")));
	return KT_OK;
}

/* A line a node: every key is another one. */
static kt_code put_transport_keys(const cJSON *plan, kt_buf *out, kt_err *err)
{
	const cJSON *nodes = member(plan, "nodes");
	KT_TRY(kt_buf_str(out, "\n== transport keys, by the SHA-256 of their public half\n", err));
	for (const cJSON *n = nodes ? nodes->child : NULL; n; n = n->next) {
		const cJSON *key = member(n, "transport_key");
		const char *spki = text(key, "spki_sha256");
		KT_TRY(kt_buf_printf(out, err, "%-16s %s  %s\n", text(n, "name"), spki[0] ? spki : "not pinned yet",
				     text(key, "at")));
	}
	return KT_OK;
}

/* Has the step of this verb, on any node, a command as this argument? */
static bool has_command(const cJSON *plan, const char *verb, const char *argument)
{
	const cJSON *step = find_step(plan, verb);
	kt_plan_cursor at = {0};
	while (step && kt_plan_next(step, &at))
		if (cJSON_IsObject(member(at.args, argument)))
			return true;
	return false;
}

/* Is no backup looked into with the old key? */
static bool restores_unseen(const cJSON *plan)
{
	return !has_command(plan, "backup.check", "check") && !has_command(plan, "backup.check", "load");
}

static kt_code put_warning(const char *warning, kt_buf *out, kt_err *err)
{
	return kt_buf_printf(out, err, "- %s\n", warning);
}

/* Is what is turned the legacy form? All nodes have their keys in one kind of keystore. */
static bool had_no_key(const cJSON *plan)
{
	kt_keyuri_kind kind;
	const char *rest;
	const cJSON *from = member(member(plan, "key"), "from");
	const char *uri = from && cJSON_IsString(from->child) ? from->child->valuestring : "";
	return kt_keyuri_kind_of(uri, &kind, &rest) && kt_keyuri_none(kind);
}

static kt_code put_warnings(const cJSON *plan, kt_buf *out, kt_err *err)
{
	const cJSON *own = member(plan, "warnings");
	KT_TRY(kt_buf_str(out, "\n== before you agree\n", err));
	for (const cJSON *w = own ? own->child : NULL; w; w = w->next)
		KT_TRY(put_warning(cJSON_IsString(w) ? w->valuestring : "", out, err));
	KT_TRY(put_warning(
		had_no_key(plan)
			? "The backup holds the data in the legacy form, which no key of yours protects: what "
			  "protects it is the backup's own key. Keep it no longer than you need the way back."
			: "The old key stays needed as long as the backup is kept: do not destroy it, and keep it "
			  "apart from the backup.",
		out, err));
	if (had_no_key(plan))
		KT_TRY(put_warning(
			"From the migration on, who loses the new key loses the data: keep its escrow, and what "
			"opens it, apart from the nodes.",
			out, err));
	if (find_step(plan, "env.install"))
		KT_TRY(put_warning(
			"The old env files stay beside the new ones; where the old key was in them, it still is.", out,
			err));
	if (restores_unseen(plan))
		KT_TRY(put_warning(
			"The backup is test-restored and compared, but nobody looks into it with the old key: "
			"\"restore_check\" is not set.",
			out, err));
	if (has_command(plan, "backup.create", "dump") && !has_command(plan, "backup.check", "load"))
		KT_TRY(put_warning(
			"The dump of the database is compared by its checksum and loaded nowhere before the rekey: "
			"\"load_check_command\" is not set (mariadb-load-check, beside the agent on each node, loads "
			"it into "
			"a server of its own).",
			out, err));
	return KT_OK;
}

kt_code kt_plan_print(const cJSON *plan, kt_buf *out, kt_err *err)
{
	KT_TRY(put_head(plan, out, err));
	KT_TRY(put_transport_keys(plan, out, err));
	KT_TRY(put_steps(plan, out, err));
	return put_warnings(plan, out, err);
}

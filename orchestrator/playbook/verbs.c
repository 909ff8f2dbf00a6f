/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/playbook/verbs.h"

#include <string.h>

#include "base/nearest.h"

#define NODE .at = KT_PLACE_NODE, .per_node = true
#define HSM .at = KT_PLACE_COORDINATOR, .per_node = true
#define CLUSTER .at = KT_PLACE_COORDINATOR
#define NEED(n, t)                                                                                                     \
	{                                                                                                              \
		.name = (n), .type = KT_ARG_##t                                                                        \
	}
#define MAY(n, t)                                                                                                      \
	{                                                                                                              \
		.name = (n), .type = KT_ARG_##t, .optional = true                                                      \
	}
#define NULL_OK(n, t)                                                                                                  \
	{                                                                                                              \
		.name = (n), .type = KT_ARG_##t, .optional = true, .nullable = true                                    \
	}
/* It must be said, if only that there is none. */
#define NULL_ONLY(n, t)                                                                                                \
	{                                                                                                              \
		.name = (n), .type = KT_ARG_##t, .nullable = true                                                      \
	}

static const kt_verb table[] = {
	{.name = "facts", NODE, .results = "hostname boot_id time_ms agent uid kernel "},
	{.name = "preflight",
	 NODE,
	 .results = "service unit_sha256 env_names needed_bytes free_bytes kcv time_ms uid ",
	 .args = {NEED("service", SERVICE), NEED("env_file", STRING), NEED("backup", OBJECT), NULL_OK("key", KEYREF),
		  MAY("writable", ARRAY), MAY("needs", ARRAY), NULL_OK("users", ARRAY)}},
	{.name = "service.stop",
	 NODE,
	 .changes = true,
	 .undo = "service.start",
	 .results = "was_active state ",
	 .args = {NEED("service", SERVICE), MAY("timeout_s", INT)}},
	{.name = "service.start",
	 NODE,
	 .changes = true,
	 .undo = "service.stop",
	 .results = "state ",
	 .args = {NEED("service", SERVICE), MAY("timeout_s", INT), MAY("if", BOOL)}},
	{.name = "service.status", NODE, .results = "state pid ", .args = {NEED("service", SERVICE)}},
	{.name = "gate.check",
	 NODE,
	 .results = "quiet count findings ",
	 .args = {NEED("service", SERVICE), NEED("processes", ARRAY), NEED("ports", ARRAY), MAY("files", ARRAY),
		  NULL_OK("heartbeats", COMMAND), NEED("known_nodes", ARRAY), NULL_OK("users", ARRAY)}},
	{.name = "backup.create",
	 NODE,
	 .changes = true,
	 .results = "archive files bytes archive_bytes sha256 manifest_sha256 encrypted snapshots proof ",
	 .args = {NEED("archive", STRING), MAY("top", STRING), NEED("paths", ARRAY), MAY("exclude", ARRAY),
		  NEED("secrets", ARRAY), NEED("key_files", ARRAY), MAY("blob", OBJECT), MAY("label", STRING),
		  MAY("nonce", STRING), MAY("rate", INT), MAY("snapshot", STRING), MAY("snapshot_size", STRING),
		  NULL_OK("dump", COMMAND), NULL_OK("load", COMMAND)}},
	{.name = "backup.check",
	 NODE,
	 .changes = true,
	 .results = "files bytes checked loaded ",
	 .args = {NEED("archive", STRING), NEED("sha256", STRING), NEED("scratch", STRING), NULL_OK("check", COMMAND),
		  NULL_OK("load", COMMAND), MAY("secrets", ARRAY), MAY("blob", OBJECT)}},
	{.name = "backup.restore",
	 NODE,
	 .changes = true,
	 .results = "files written ",
	 .args = {NEED("archive", STRING), NEED("sha256", STRING), MAY("keep", STRING), MAY("blob", OBJECT),
		  NULL_OK("load", COMMAND)}},
	{.name = "key.transport",
	 NODE,
	 .changes = true,
	 .results = "public_pem spki_sha256 bits made ",
	 .args = {MAY("bits", INT)}},
	{.name = "key.locate",
	 NODE,
	 .results = "uri kcv kcv_method ",
	 .args = {NEED("env_file", STRING), NEED("variables", OBJECT), MAY("legacy", BOOL)}},
	{.name = "key.receive",
	 NODE,
	 .changes = true,
	 .undo = "key.forget",
	 .results = "kcv proof ",
	 .args = {NEED("slot", STRING), NEED("keep", BOOL), NEED("blob", OBJECT), NEED("label", STRING),
		  NEED("nonce", STRING)}},
	{.name = "key.install",
	 NODE,
	 .changes = true,
	 .undo = "key.forget",
	 .results = "path kcv ",
	 .args = {NEED("slot", STRING), NEED("path", STRING), NEED("like", STRING)}},
	{.name = "key.forget",
	 NODE,
	 .changes = true,
	 .undo = "key.receive",
	 .results = "",
	 .args = {NEED("slot", STRING), MAY("path", STRING)}},
	{.name = "env.install",
	 NODE,
	 .changes = true,
	 .undo = "env.restore",
	 .results = "sha256 kept ",
	 .args = {NEED("path", STRING), NEED("set", VALUES), NEED("unset", ARRAY), NEED("keep", STRING)}},
	{.name = "env.restore",
	 NODE,
	 .changes = true,
	 .results = "sha256 ",
	 .args = {NEED("path", STRING), NEED("keep", STRING)}},
	{.name = "exec",
	 NODE,
	 .changes = true,
	 .once = true,
	 .undo = "backup.restore",
	 .results = "exit signal ms tail log ",
	 .args = {NEED("command", COMMAND), MAY("expect", OBJECT)}},
	{.name = "command",
	 NODE,
	 .results = "exit ms tail json ",
	 .args = {NEED("command", COMMAND), MAY("expect", OBJECT), MAY("json", BOOL)}},
	{.name = "probe", NODE, .results = "verdict tail ", .args = {NEED("command", COMMAND)}},
	{.name = "log.check",
	 NODE,
	 .results = "line ",
	 .args = {NULL_ONLY("path", STRING), MAY("has", ARRAY), MAY("lacks", ARRAY), MAY("since_ms", INT)}},
	{.name = "file.remove", NODE, .changes = true, .results = "", .args = {NEED("path", STRING)}},
	{.name = "hsm.check", CLUSTER, .results = "token serial escrow_format node_format escrow_kcv probed "},
	{.name = "key.generate", CLUSTER, .changes = true, .results = "id label kcv kcv_method "},
	{.name = "key.escrow", CLUSTER, .changes = true, .results = "path wrapping_key recovered kcv kcv_method "},
	{.name = "key.wrap",
	 HSM,
	 .results = "blob label nonce expect kcv kcv_method ",
	 .args = {MAY("purpose", STRING)}},
	{.name = "key.rehearse", HSM, .results = "blob label nonce expect kcv kcv_method "},
	{.name = "backup.key", CLUSTER, .changes = true, .results = "id path wrapping_key recovered kcv kcv_method "},
	{.name = "backup.wrap", HSM, .results = "blob label nonce expect kcv kcv_method "},
	{.name = "drift.check",
	 CLUSTER,
	 .results = "",
	 .args = {NEED("of", STRING), NEED("fields", ARRAY), MAY("clock_skew_s", INT)}},
	{.name = NULL},
};

static const kt_verb_arg command_args[KT_VERB_ARGS] = {
	NEED("argv", ARRAY),         NULL_OK("cwd", STRING), NULL_OK("user", STRING),
	NULL_OK("env_file", STRING), NULL_OK("env", VALUES), NULL_OK("timeout_s", INT),
};

/* Either `unit`, or the three commands. */
static const kt_verb_arg service_args[KT_VERB_ARGS] = {
	MAY("unit", STRING),    MAY("start", ARRAY),         MAY("stop", ARRAY),      MAY("status", ARRAY),
	NULL_OK("cwd", STRING), NULL_OK("env_file", STRING), NULL_OK("user", STRING),
};

const kt_verb *kt_verb_table(void)
{
	return table;
}

const kt_verb *kt_verb_find(const char *name)
{
	for (const kt_verb *v = table; v->name; v++)
		if (strcmp(v->name, name) == 0)
			return v;
	return NULL;
}

bool kt_verb_gives(const kt_verb *verb, const char *field)
{
	size_t n = strcspn(field, ".");
	for (const char *p = verb->results; *p; p += strcspn(p, " ") + 1)
		if (strncmp(p, field, n) == 0 && p[n] == ' ')
			return true;
	return false;
}

/* --- Checking a `with`
 * ------------------------------------------------------------------------------------------------ */

static kt_code check_object(const kt_verb_arg *args, const char *what, const cJSON *with, const char **member,
			    kt_err *err);

/* Something that is known only after it was resolved: a string with a template, an operator. */
static bool is_open(const cJSON *v)
{
	if (cJSON_IsString(v))
		return strstr(v->valuestring, "${") != NULL;
	for (const cJSON *m = cJSON_IsObject(v) ? v->child : NULL; m; m = m->next)
		if (m->string[0] == '$')
			return true;
	return false;
}

static bool is_keyref(const cJSON *v)
{
	return cJSON_IsObject(v) && v->child && !v->child->next && strcmp(v->child->string, "key") == 0;
}

static const char *wanted(kt_arg_type type)
{
	static const char *const names[] = {
		[KT_ARG_STRING] = "a string",
		[KT_ARG_INT] = "a whole number",
		[KT_ARG_BOOL] = "true or false",
		[KT_ARG_ARRAY] = "an array",
		[KT_ARG_OBJECT] = "an object",
		[KT_ARG_KEYREF] = "a key reference, {\"key\":…}",
		[KT_ARG_VALUES] = "an object of strings, key references and nulls",
		[KT_ARG_SERVICE] = "a service: {\"unit\":…}, or {\"start\":[…],\"stop\":[…],\"status\":[…]}",
		[KT_ARG_COMMAND] = "a command: {\"argv\":[…]}",
	};
	return names[type];
}

static bool all_values(const cJSON *v)
{
	for (const cJSON *m = v->child; m; m = m->next)
		if (!cJSON_IsString(m) && !cJSON_IsNull(m) && !is_keyref(m) && !is_open(m))
			return false;
	return true;
}

static bool has_type(kt_arg_type type, const cJSON *v)
{
	switch (type) {
	case KT_ARG_STRING:
		return cJSON_IsString(v);
	case KT_ARG_INT:
		return cJSON_IsNumber(v) && v->valuedouble == (double)(int64_t)v->valuedouble;
	case KT_ARG_BOOL:
		return cJSON_IsBool(v);
	case KT_ARG_ARRAY:
		return cJSON_IsArray(v);
	case KT_ARG_KEYREF:
		return is_keyref(v);
	case KT_ARG_VALUES:
		return cJSON_IsObject(v) && all_values(v);
	default:
		return cJSON_IsObject(v);
	}
}

/* argv: words, at least one; no key ever (S6). */
static kt_code check_words(const char *name, const cJSON *list, kt_err *err)
{
	if (!list->child)
		return kt_fail(err, KT_E_INPUT, NULL, "\"%s\" is empty", name);
	for (const cJSON *w = list->child; w; w = w->next)
		if (!cJSON_IsString(w) && !is_open(w))
			return kt_fail(err, KT_E_INPUT, "a key goes into \"env\", where others cannot see it",
				       "\"%s\" may hold strings only", name);
	return KT_OK;
}

static kt_code check_service(const cJSON *v, kt_err *err)
{
	const char *inner = "";
	KT_TRY(check_object(service_args, "a service", v, &inner, err));
	bool unit = cJSON_HasObjectItem(v, "unit");
	static const char *const commands[] = {"start", "stop", "status"};
	for (size_t i = 0; i < 3; i++) {
		const cJSON *words = cJSON_GetObjectItemCaseSensitive(v, commands[i]);
		if (unit == (words != NULL))
			return kt_fail(err, KT_E_INPUT, NULL,
				       "a service has either \"unit\", or \"start\", \"stop\" and \"status\"");
		if (words && cJSON_IsArray(words))
			KT_TRY(check_words(commands[i], words, err));
	}
	return KT_OK;
}

static kt_code check_command(const cJSON *v, kt_err *err)
{
	const char *inner = "";
	KT_TRY(check_object(command_args, "a command", v, &inner, err));
	const cJSON *argv = cJSON_GetObjectItemCaseSensitive(v, "argv");
	return cJSON_IsArray(argv) ? check_words("argv", argv, err) : KT_OK;
}

static kt_code check_arg(const kt_verb_arg *a, const cJSON *v, kt_err *err)
{
	if (is_open(v) || (a->nullable && cJSON_IsNull(v)))
		return KT_OK;
	if (!has_type(a->type, v))
		return kt_fail(err, KT_E_INPUT, NULL, "\"%s\" must be %s%s", a->name, wanted(a->type),
			       a->nullable ? ", or null" : "");
	if (a->type == KT_ARG_SERVICE)
		return check_service(v, err);
	return a->type == KT_ARG_COMMAND ? check_command(v, err) : KT_OK;
}

static const kt_verb_arg *find_arg(const kt_verb_arg *args, const char *name)
{
	for (size_t i = 0; i < KT_VERB_ARGS && args[i].name; i++)
		if (strcmp(args[i].name, name) == 0)
			return &args[i];
	return NULL;
}

static kt_code unknown_arg(const kt_verb_arg *args, const char *what, const char *name, kt_err *err)
{
	kt_nearest near = KT_NEAREST(name);
	for (size_t i = 0; i < KT_VERB_ARGS && args[i].name; i++)
		kt_nearest_offer(&near, args[i].name);
	if (near.best)
		return kt_fail(err, KT_E_INPUT, NULL, "%s has no \"%.60s\"; did you mean \"%s\"?", what, name,
			       near.best);
	return kt_fail(err, KT_E_INPUT, NULL, "%s has no \"%.60s\"", what, name);
}

static kt_code check_object(const kt_verb_arg *args, const char *what, const cJSON *with, const char **member,
			    kt_err *err)
{
	for (const cJSON *m = with->child; m; m = m->next) {
		const kt_verb_arg *a = find_arg(args, m->string);
		*member = m->string;
		if (!a)
			return unknown_arg(args, what, m->string, err);
		KT_TRY(check_arg(a, m, err));
	}
	*member = "";
	for (size_t i = 0; i < KT_VERB_ARGS && args[i].name; i++)
		if (!args[i].optional && !cJSON_GetObjectItemCaseSensitive(with, args[i].name))
			return kt_fail(err, KT_E_INPUT, NULL, "%s needs \"%s\"", what, args[i].name);
	return KT_OK;
}

kt_code kt_verb_check_args(const kt_verb *verb, const cJSON *with, const char **member, kt_err *err)
{
	*member = "";
	return check_object(verb->args, verb->name, with, member, err);
}

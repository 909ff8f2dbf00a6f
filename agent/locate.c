/* SPDX-License-Identifier: Apache-2.0 */
/* key.locate: where the application's key is now, found from its env file. */
#include <stdio.h>
#include <string.h>

#include "agent/envfile.h"
#include "agent/keyref.h"
#include "base/kcv.h"
#include "base/keymsg.h"

enum { URI_MAX = 4200 };

typedef struct found {
	const char *variable; /* NULL: none yet */
	char uri[URI_MAX];
	char kcv[KT_KCV_TEXT];
} found;

/* A value of an env file as a C string; KT_E_KEY unless it is an absolute path. */
static kt_code path_of(const char *variable, const kt_secret *value, const char **out, kt_err *err)
{
	*out = (const char *)value->data;
	if (value->len == 0 || value->data[0] != '/' || value->len >= URI_MAX - 8 || strpbrk(*out, "\n\r"))
		return kt_fail(err, KT_E_KEY, "give an absolute path there",
			       "%s does not name a file by an absolute path", variable);
	return KT_OK;
}

static kt_code read_key(const char *variable, const char *kind, const kt_secret *value, found *f, kt_secret *key,
			kt_err *err)
{
	const char *path;
	if (strcmp(kind, "env") == 0) {
		(void)snprintf(f->uri, sizeof f->uri, "env:%s", variable);
		return kt_keyref_decode(value, variable, key, err);
	}
	if (strcmp(kind, "file") != 0)
		return kt_fail(err, KT_E_INPUT, NULL, "variables.%.64s must be \"file\" or \"env\", not \"%.32s\"",
			       variable, kind);
	KT_TRY(path_of(variable, value, &path, err));
	(void)snprintf(f->uri, sizeof f->uri, "file:%s", path);
	return kt_keyref_read_file(path, key, err);
}

static kt_code locate_one(const cJSON *item, const kt_envfile *env, found *best, kt_err *err)
{
	found f = {.variable = item->string};
	kt_secret key = KT_SECRET_INIT;
	if (!cJSON_IsString(item))
		return kt_fail(err, KT_E_INPUT, NULL, "variables.%.64s must be a string", item->string);
	const kt_secret *value = kt_envfile_get(env, item->string);
	if (!value)
		return KT_OK;
	kt_code rc = read_key(item->string, item->valuestring, value, &f, &key, err);
	if (rc == KT_OK)
		rc = kt_kcv_of(&key, f.kcv, err);
	kt_secret_free(&key);
	if (rc != KT_OK)
		return rc;
	if (best->variable && strcmp(best->kcv, f.kcv) != 0)
		return kt_fail(err, KT_E_REFUSED, "leave only the one that the service really uses",
			       "%s and %s name different keys (check values %s and %s)", best->variable, f.variable,
			       best->kcv, f.kcv);
	if (!best->variable)
		*best = f;
	return KT_OK;
}

static kt_code locate(const cJSON *args, cJSON *result, kt_err *err)
{
	const char *path;
	const cJSON *variables;
	const cJSON *item;
	kt_envfile *env;
	found f = {0};
	KT_TRY(kt_arg_path(args, "env_file", &path, err));
	KT_TRY(kt_json_object(args, "variables", &variables, err));
	KT_TRY(kt_envfile_load(path, &env, err));
	kt_code rc = KT_OK;
	for (item = variables->child; rc == KT_OK && item; item = item->next)
		rc = locate_one(item, env, &f, err);
	kt_envfile_free(env);
	if (rc != KT_OK)
		return rc;
	if (!f.variable)
		return kt_fail(err, KT_E_KEY, "set the variable that names the key in force",
			       KT_KEYMSG_MISSING " (%s sets none of the variables that name one)", path);
	KT_TRY(kt_json_add_str(result, "uri", f.uri, err));
	KT_TRY(kt_json_add_str(result, "kcv", f.kcv, err));
	return kt_json_add_str(result, "kcv_method", KT_KCV_METHOD, err);
}

kt_status kt_action_key_locate(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)ctx;
	return kt_action_end(locate(args, result, err));
}

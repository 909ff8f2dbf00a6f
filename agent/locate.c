/* SPDX-License-Identifier: Apache-2.0 */
/* key.locate: where the application's key is now, found from its env file. */
#include <stdio.h>
#include <string.h>

#include "agent/envfile.h"
#include "agent/keyref.h"
#include "base/kcv.h"
#include "base/keymsg.h"
#include "base/keyuri.h"

enum { URI_MAX = 4200 };

typedef struct found {
	const char *variable; /* NULL: none yet */
	char uri[URI_MAX];
	char kcv[KT_KCV_TEXT]; /* "": of a key that stays where it is */
} found;

/* Which variables tell of keys, and the env file that sets some of them. */
typedef struct place {
	const cJSON *variables;
	const kt_envfile *env;
} place;

/* A value of an env file as one line of text; KT_E_KEY unless it is. */
static kt_code text_of(const char *variable, const kt_secret *value, const char **out, kt_err *err)
{
	*out = value->len ? (const char *)value->data : "";
	if (value->len == 0 || strlen(*out) != value->len || value->len >= URI_MAX - 8 || strpbrk(*out, "\n\r"))
		return kt_fail(err, KT_E_KEY, NULL, "%s does not name a key", variable);
	return KT_OK;
}

static kt_code read_file(const char *variable, const kt_secret *value, found *f, kt_secret *key, kt_err *err)
{
	const char *path = "";
	if (value->len == 0 || value->data[0] != '/' || text_of(variable, value, &path, NULL) != KT_OK)
		return kt_fail(err, KT_E_KEY, "give an absolute path there",
			       "%s does not name a file by an absolute path", variable);
	(void)snprintf(f->uri, sizeof f->uri, "file:%s", path);
	return kt_keyref_read_file(path, key, err);
}

/* The URI goes to the coordinator and into its plan: no PIN may be in it. */
static kt_code read_pkcs11(const char *variable, const kt_secret *value, found *f, kt_err *err)
{
	const char *uri;
	KT_TRY(text_of(variable, value, &uri, err));
	if (strncmp(uri, "pkcs11:", 7) != 0)
		return kt_fail(err, KT_E_KEY, "write pkcs11:token=…;object=…", "%s is not a pkcs11: URI", variable);
	if (strcasestr(uri, "pin-value"))
		return kt_fail(err, KT_E_REFUSED,
			       "use pin-source=file:/path, a file with mode 0400, and change the PIN",
			       "%s holds a PIN (pin-value)", variable);
	(void)snprintf(f->uri, sizeof f->uri, "%s", uri);
	return KT_OK;
}

/* The value of the variable that tells `what` of the same key; "" when it is not set. */
static kt_code beside(const place *p, const char *what, const char **out, kt_err *err)
{
	*out = "";
	for (const cJSON *v = p->variables->child; v; v = v->next) {
		const kt_secret *value = kt_envfile_get(p->env, v->string);
		if (cJSON_IsString(v) && strcmp(v->valuestring, what) == 0 && value && value->len)
			return text_of(v->string, value, out, err);
	}
	return KT_OK;
}

/* An ARN has its region in it. */
static kt_code read_awskms(const place *p, const char *variable, const kt_secret *value, found *f, kt_err *err)
{
	const char *name, *region = "", *context;
	kt_awsuri uri;
	kt_buf text = KT_BUF_INIT;
	KT_TRY(text_of(variable, value, &name, err));
	if (strncmp(name, "arn:", 4) != 0)
		KT_TRY(beside(p, "awskms.region", &region, err));
	KT_TRY(beside(p, "awskms.context", &context, err));
	kt_code rc = kt_awsuri_make(name, region, context, &uri, err);
	if (rc != KT_OK)
		return kt_err_prefix(err, rc, "%s", variable);
	rc = kt_awsuri_format(&uri, &text, err);
	if (rc == KT_OK)
		(void)snprintf(f->uri, sizeof f->uri, "%s", kt_buf_cstr(&text));
	kt_buf_free(&text);
	return rc;
}

static kt_code read_env(const char *variable, const kt_secret *value, found *f, kt_secret *key, kt_err *err)
{
	(void)snprintf(f->uri, sizeof f->uri, "env:%s", variable);
	return kt_keyref_decode(value, variable, key, err);
}

/* `key` stays empty when it is out of reach. */
static kt_code read_key(const place *p, const char *variable, const char *tells, const kt_secret *value, found *f,
			kt_secret *key, kt_err *err)
{
	kt_keyuri_kind kind;
	if (!kt_keyuri_named(tells, &kind))
		return kt_fail(
			err, KT_E_INPUT, NULL,
			"variables.%.64s must be \"file\", \"env\", \"pkcs11\", \"awskms\", \"awskms.region\" or "
			"\"awskms.context\", not \"%.32s\"",
			variable, tells);
	switch (kind) {
	case KT_KEYURI_ENV:
		return read_env(variable, value, f, key, err);
	case KT_KEYURI_FILE:
		return read_file(variable, value, f, key, err);
	case KT_KEYURI_PKCS11:
		return read_pkcs11(variable, value, f, err);
	case KT_KEYURI_AWSKMS:
		return read_awskms(p, variable, value, f, err);
	default:
		return kt_fail(err, KT_E_INPUT, NULL, "variables.%.64s: nothing tells of \"%.32s\"", variable, tells);
	}
}

/* By what can be known of them: where they are, and their check values. */
static bool same_key(const found *a, const found *b)
{
	return strcmp(a->uri, b->uri) == 0 || (a->kcv[0] && strcmp(a->kcv, b->kcv) == 0);
}

static const char *told(const found *f)
{
	return f->kcv[0] ? f->kcv : f->uri;
}

static kt_code locate_one(const place *p, const cJSON *item, found *best, kt_err *err)
{
	found f = {.variable = item->string};
	kt_secret key = KT_SECRET_INIT;
	if (!cJSON_IsString(item))
		return kt_fail(err, KT_E_INPUT, NULL, "variables.%.64s must be a string", item->string);
	const kt_secret *value = kt_envfile_get(p->env, item->string);
	if (!value || strncmp(item->valuestring, "awskms.", 7) == 0)
		return KT_OK;
	kt_code rc = read_key(p, item->string, item->valuestring, value, &f, &key, err);
	if (rc == KT_OK && key.len)
		rc = kt_kcv_of(&key, f.kcv, err);
	kt_secret_free(&key);
	if (rc != KT_OK)
		return rc;
	if (best->variable && !same_key(best, &f))
		return kt_fail(err, KT_E_REFUSED, "leave only the one that the service really uses",
			       "%s and %s name different keys (%s and %s)", best->variable, f.variable, told(best),
			       told(&f));
	if (!best->variable)
		*best = f;
	return KT_OK;
}

static kt_code locate(const cJSON *args, cJSON *result, kt_err *err)
{
	const char *path;
	place p;
	kt_envfile *env;
	found f = {0};
	KT_TRY(kt_arg_path(args, "env_file", &path, err));
	KT_TRY(kt_json_object(args, "variables", &p.variables, err));
	KT_TRY(kt_envfile_load(path, &env, err));
	kt_code rc = KT_OK;
	p.env = env;
	for (const cJSON *item = p.variables->child; rc == KT_OK && item; item = item->next)
		rc = locate_one(&p, item, &f, err);
	kt_envfile_free(env);
	if (rc != KT_OK)
		return rc;
	bool legacy;
	KT_TRY(kt_json_opt_bool(args, "legacy", false, &legacy, err));
	if (!f.variable && legacy)
		(void)snprintf(f.uri, sizeof f.uri, "%s:", kt_keyuri_name(KT_KEYURI_LEGACY));
	else if (!f.variable)
		return kt_fail(err, KT_E_KEY, "set the variable that names the key in force",
			       KT_KEYMSG_MISSING " (%s sets none of the variables that name one)", path);
	KT_TRY(kt_json_add_str(result, "uri", f.uri, err));
	KT_TRY(kt_json_add_str(result, "kcv", f.kcv, err));
	return kt_json_add_str(result, "kcv_method", f.kcv[0] ? KT_KCV_METHOD : "", err);
}

kt_status kt_action_key_locate(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)ctx;
	return kt_action_end(locate(args, result, err));
}

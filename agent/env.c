/* SPDX-License-Identifier: Apache-2.0 */
/*
 * env.install and env.restore. The old version is kept beside the file, made once and durably before the first change:
 * whatever is repeated afterwards, it stays the original.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/envfile.h"
#include "agent/keep.h"
#include "agent/keyref.h"
#include "base/codec.h"
#include "base/file.h"

/* Which file, and where its old version is. A symbolic link is followed: the file that it leads to is changed. */
typedef struct place {
	char path[PATH_MAX];
	char kept[PATH_MAX];
} place;

static kt_code find_place(const cJSON *args, place *p, kt_err *err)
{
	const char *path;
	const char *run;
	KT_TRY(kt_arg_path(args, "path", &path, err));
	KT_TRY(kt_json_str(args, "keep", &run, err));
	KT_TRY(kt_name_check("run", run, err));
	char *real = realpath(path, NULL);
	if (!real)
		return kt_fail_errno(err, errno, "make it (it may be empty), or correct its path in the variables",
				     "the env file %s", path);
	(void)snprintf(p->path, sizeof p->path, "%s", real);
	kt_code rc = kt_keep_path(real, run, "", p->kept, err);
	free(real);
	return rc;
}

static kt_code put_digest(cJSON *result, const kt_envfile *f, kt_err *err)
{
	char hex[KT_SHA256_HEX];
	const kt_secret *text = kt_envfile_text(f);
	KT_TRY(kt_sha256_hex(text->len ? (const void *)text->data : "", text->len, hex, err));
	return kt_json_add_str(result, "sha256", hex, err);
}

static kt_code write_text(const char *path, const kt_envfile *f, kt_err *err)
{
	const kt_secret *text = kt_envfile_text(f);
	return kt_file_replace(path, text->len ? (const void *)text->data : "", text->len, NULL, err);
}

/* --- env.install ----------------------------------------------------------------------------------------------------
 */

static kt_code keep_old(const place *p, const kt_envfile *f, kt_err *err)
{
	struct stat st;
	bool made;
	if (stat(p->path, &st) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", p->path);
	kt_file_attr attr = {.mode = 0400, .uid = st.st_uid, .gid = st.st_gid};
	const kt_secret *text = kt_envfile_text(f);
	return kt_file_create(p->kept, text->len ? (const void *)text->data : "", text->len, &attr, &made, err);
}

static kt_code set_one(const kt_agent_ctx *ctx, kt_envfile *f, const cJSON *value, kt_err *err)
{
	kt_secret text = KT_SECRET_INIT;
	if (kt_keyref_is(value))
		KT_TRY(kt_keyref_text(ctx, value, &text, err));
	else if (!cJSON_IsString(value))
		return kt_fail(err, KT_E_INPUT, NULL, "set.%.64s must be a string or a key", value->string);
	else if (value->valuestring[0])
		KT_TRY(kt_secret_copy(&text, value->valuestring, strlen(value->valuestring), err));
	kt_code rc = kt_envfile_set(f, value->string, &text, err);
	kt_secret_free(&text);
	return rc;
}

static kt_code change(const kt_agent_ctx *ctx, const cJSON *args, kt_envfile *f, kt_err *err)
{
	const cJSON *set = NULL;
	const cJSON *unset;
	const cJSON *item;
	if (cJSON_HasObjectItem(args, "set"))
		KT_TRY(kt_json_object(args, "set", &set, err));
	KT_TRY(kt_arg_strings(args, "unset", &unset, err));
	cJSON_ArrayForEach(item, unset)
	{
		if (set && cJSON_HasObjectItem(set, item->valuestring))
			return kt_fail(err, KT_E_INPUT, NULL, "\"%.64s\" is to be set and unset", item->valuestring);
		KT_TRY(kt_envfile_unset(f, item->valuestring, err));
	}
	cJSON_ArrayForEach(item, set) KT_TRY(set_one(ctx, f, item, err));
	return KT_OK;
}

/* Where both files are; what a killed agent left half done beside them is gone (we hold the cluster's lock). */
static kt_code begin_at(const cJSON *args, place *p, kt_err *err)
{
	KT_TRY(find_place(args, p, err));
	KT_TRY(kt_file_sweep(p->kept, err));
	return kt_file_sweep(p->path, err);
}

static kt_code install(const kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	place p;
	kt_envfile *f;
	KT_TRY(begin_at(args, &p, err));
	KT_TRY(kt_envfile_load(p.path, &f, err));
	kt_code rc = keep_old(&p, f, err);
	if (rc == KT_OK)
		rc = change(ctx, args, f, err);
	if (rc == KT_OK)
		rc = write_text(p.path, f, err);
	if (rc == KT_OK)
		rc = put_digest(result, f, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(result, "kept", p.kept, err);
	kt_envfile_free(f);
	return rc;
}

kt_status kt_action_env_install(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	return kt_action_end(install(ctx, args, result, err));
}

/* --- env.restore ----------------------------------------------------------------------------------------------------
 */

static kt_code restore(const cJSON *args, cJSON *result, kt_err *err)
{
	place p;
	kt_envfile *f;
	KT_TRY(begin_at(args, &p, err));
	/* Nothing was kept: nothing was changed by this run, for it is kept before anything is changed. */
	bool kept = access(p.kept, F_OK) == 0;
	if (!kept && errno != ENOENT)
		return kt_fail_errno(err, errno, NULL, "%s", p.kept);
	KT_TRY(kt_envfile_load(kept ? p.kept : p.path, &f, err));
	kt_code rc = kept ? write_text(p.path, f, err) : KT_OK;
	if (rc == KT_OK)
		rc = put_digest(result, f, err);
	kt_envfile_free(f);
	return rc;
}

kt_status kt_action_env_restore(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)ctx;
	return kt_action_end(restore(args, result, err));
}

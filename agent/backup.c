/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs backup.create, backup.check and backup.restore (docs/FORMATS.md, section 2). */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/action.h"
#include "agent/backup.h"
#include "agent/command.h"
#include "agent/keyref.h"
#include "agent/scratch.h"
#include "base/clock.h"

enum { PROGRESS_EVERY_MS = 500 };

/* --- progress -------------------------------------------------------------------------------------------------- */

typedef struct reporter {
	kt_agent_ctx *ctx;
	const char *what;
	int64_t last_ms;
} reporter;

static kt_code report(void *arg, uint64_t done, uint64_t total, kt_err *err)
{
	reporter *r = arg;
	int64_t now = kt_clock_mono_ms();
	if (now - r->last_ms < PROGRESS_EVERY_MS)
		return KT_OK;
	r->last_ms = now;
	kt_agent_progress(r->ctx, (int64_t)done, (int64_t)total, "%s", r->what);
	return kt_agent_go_on(r->ctx, err);
}

/* --- arguments ------------------------------------------------------------------------------------------------- */

/* The strings of an array as a plain one, borrowed from it; the caller frees the list itself. */
static kt_code borrow_strings(const cJSON *array, const char *const **out, size_t *n, kt_err *err)
{
	*n = (size_t)cJSON_GetArraySize(array);
	const char **list = calloc(*n + 1, sizeof *list);
	if (!list)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	size_t i = 0;
	const cJSON *text;
	cJSON_ArrayForEach(text, array) list[i++] = text->valuestring;
	*out = list;
	return KT_OK;
}

static kt_code read_strings(const cJSON *args, const char *name, const char *const **out, size_t *n, kt_err *err)
{
	const cJSON *array;
	KT_TRY(kt_arg_strings(args, name, &array, err));
	return borrow_strings(array, out, n, err);
}

static kt_code resolve_secrets(const kt_agent_ctx *ctx, const cJSON *args, kt_archive_source *source, kt_err *err)
{
	const cJSON *refs = cJSON_GetObjectItemCaseSensitive(args, "secrets");
	const cJSON *ref;
	if (refs && !cJSON_IsNull(refs) && !cJSON_IsArray(refs))
		return kt_fail(err, KT_E_INPUT, NULL, "secrets is not an array");
	kt_secret *secrets = calloc((size_t)cJSON_GetArraySize(refs) + 1, sizeof *secrets);
	if (!secrets)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	source->secrets = secrets;
	cJSON_ArrayForEach(ref, refs)
	{
		KT_TRY(kt_keyref_resolve(ctx, ref, &secrets[source->secret_n], err));
		source->secret_n++;
	}
	return KT_OK;
}

kt_code kt_backup_source(const kt_agent_ctx *ctx, const cJSON *args, kt_archive_source *out, kt_err *err)
{
	*out = (kt_archive_source){0};
	KT_TRY(kt_json_opt_str(args, "top", NULL, &out->top, err));
	kt_code rc = read_strings(args, "exclude", &out->exclude, &out->exclude_n, err);
	if (rc == KT_OK)
		rc = read_strings(args, "paths", &out->paths, &out->path_n, err);
	if (rc == KT_OK)
		rc = read_strings(args, "key_files", &out->key_files, &out->key_file_n, err);
	if (rc == KT_OK)
		rc = resolve_secrets(ctx, args, out, err);
	if (rc != KT_OK)
		kt_backup_source_free(out);
	return rc;
}

void kt_backup_source_free(kt_archive_source *s)
{
	kt_secret *secrets = (kt_secret *)(uintptr_t)s->secrets;
	for (size_t i = 0; i < s->secret_n; i++)
		kt_secret_free(&secrets[i]);
	free(secrets);
	free((void *)(uintptr_t)s->exclude);
	free((void *)(uintptr_t)s->paths);
	free((void *)(uintptr_t)s->key_files);
	*s = (kt_archive_source){0};
}

/* --- backup.create --------------------------------------------------------------------------------------------- */

static kt_code add_note(cJSON *notes, const char *text, kt_err *err)
{
	cJSON *note = cJSON_CreateString(text);
	if (note && cJSON_AddItemToArray(notes, note))
		return KT_OK;
	cJSON_Delete(note);
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

/* What is not in the backup, for people. */
static kt_code say_notes(const kt_archive_made *made, cJSON *result, kt_err *err)
{
	char text[400];
	cJSON *notes = cJSON_AddArrayToObject(result, "notes");
	if (!notes)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (made->skipped) {
		(void)snprintf(text, sizeof text, "%zu sockets, pipes or devices are not in the backup (first: %s)",
			       made->skipped, made->first_skipped);
		KT_TRY(add_note(notes, text, err));
	}
	if (made->outside) {
		(void)snprintf(text, sizeof text,
			       "%zu symbolic links lead elsewhere; what is there is not in the backup (first: %s)",
			       made->outside, made->first_outside);
		KT_TRY(add_note(notes, text, err));
	}
	return KT_OK;
}

static kt_code say_made(const char *archive, const kt_archive_made *made, cJSON *result, kt_err *err)
{
	KT_TRY(kt_json_add_str(result, "archive", archive, err));
	KT_TRY(kt_json_add_int(result, "files", (int64_t)made->files, err));
	KT_TRY(kt_json_add_int(result, "bytes", (int64_t)made->bytes, err));
	KT_TRY(kt_json_add_int(result, "archive_bytes", (int64_t)made->archive_bytes, err));
	KT_TRY(kt_json_add_str(result, "sha256", made->sha256, err));
	KT_TRY(kt_json_add_str(result, "manifest_sha256", made->manifest_sha256, err));
	return say_notes(made, result, err);
}

static kt_code create(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	const char *archive;
	kt_archive_source source;
	kt_archive_made made;
	KT_TRY(kt_arg_path(args, "archive", &archive, err));
	KT_TRY(kt_backup_source(ctx, args, &source, err));
	reporter r = {.ctx = ctx, .what = "backing up"};
	const kt_archive_hooks hooks = {.progress = report, .arg = &r};
	kt_code rc = kt_archive_create(archive, &source, &hooks, &made, err);
	kt_backup_source_free(&source);
	return rc == KT_OK ? say_made(archive, &made, result, err) : rc;
}

kt_status kt_action_backup_create(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	return kt_action_end(create(ctx, args, result, err));
}

/* --- backup.check ---------------------------------------------------------------------------------------------- */

static kt_code open_archive(const cJSON *args, kt_archive_reader **out, kt_err *err)
{
	const char *archive;
	const char *sha256;
	KT_TRY(kt_arg_path(args, "archive", &archive, err));
	KT_TRY(kt_json_str(args, "sha256", &sha256, err));
	return kt_archive_open(archive, sha256, out, err);
}

/* The folder is 0700: who is to look at what was restored must own it. */
static kt_code give_scratch(const char *scratch, const cJSON *command, kt_err *err)
{
	const char *name;
	kt_user user;
	KT_TRY(kt_json_opt_str(command, "user", NULL, &name, err));
	if (!name || geteuid() != 0)
		return KT_OK;
	KT_TRY(kt_user_find(name, &user, err));
	kt_code rc = KT_OK;
	if (lchown(scratch, user.uid, user.gid) != 0)
		rc = kt_fail_errno(err, errno, NULL, "%s cannot be given to %s", scratch, name);
	kt_user_free(&user);
	return rc;
}

static kt_code run_check(kt_agent_ctx *ctx, const cJSON *check, const char *scratch, kt_err *err)
{
	cJSON *command = NULL;
	kt_command_result r;
	KT_TRY(kt_scratch_command(check, scratch, &command, err));
	kt_agent_progress(ctx, -1, -1, "opening the restored data");
	kt_code rc = give_scratch(scratch, command, err);
	if (rc == KT_OK)
		rc = kt_command_run(ctx, command, NULL, &r, err);
	cJSON_Delete(command);
	if (rc != KT_OK)
		return rc;
	rc = kt_expect_check(NULL, &r.end, NULL, kt_buf_cstr(&r.tail), err);
	kt_command_result_free(&r);
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "the test restore does not open");
}

static kt_code check_in(kt_agent_ctx *ctx, kt_archive_reader *reader, const char *scratch, const cJSON *check,
			cJSON *result, kt_err *err)
{
	kt_manifest manifest;
	uint64_t files;
	uint64_t bytes;
	reporter r = {.ctx = ctx, .what = "test restore"};
	const kt_archive_hooks hooks = {.progress = report, .arg = &r};
	KT_TRY(kt_archive_extract(reader, scratch, KT_SCRATCH_MARK, &hooks, &manifest, err));
	kt_manifest_totals(&manifest, &files, &bytes);
	kt_manifest_free(&manifest);
	if (check)
		KT_TRY(run_check(ctx, check, scratch, err));
	KT_TRY(kt_json_add_int(result, "files", (int64_t)files, err));
	KT_TRY(kt_json_add_int(result, "bytes", (int64_t)bytes, err));
	return kt_json_add_bool(result, "checked", check != NULL, err);
}

static kt_code check(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	const char *scratch;
	kt_archive_reader *reader = NULL;
	const cJSON *command = cJSON_GetObjectItemCaseSensitive(args, "check");
	if (cJSON_IsNull(command))
		command = NULL;
	if (command && !cJSON_IsObject(command))
		return kt_fail(err, KT_E_INPUT, NULL, "check is not a command");
	KT_TRY(kt_arg_path(args, "scratch", &scratch, err));
	KT_TRY(open_archive(args, &reader, err));
	kt_code rc = kt_scratch_make(scratch, err);
	if (rc == KT_OK) {
		kt_err late = KT_ERR_INIT;
		rc = check_in(ctx, reader, scratch, command, result, err);
		kt_code removed = kt_tree_remove(scratch, &late);
		if (rc == KT_OK && removed != KT_OK) {
			*err = late;
			rc = removed;
		}
	}
	kt_archive_close(reader);
	return rc;
}

kt_status kt_action_backup_check(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	return kt_action_end(check(ctx, args, result, err));
}

/* --- backup.restore -------------------------------------------------------------------------------------------- */

static kt_code restore_from(kt_agent_ctx *ctx, kt_archive_reader *reader, const char *keep, cJSON *result, kt_err *err)
{
	kt_manifest manifest;
	uint64_t files;
	uint64_t bytes;
	uint64_t written = 0;
	reporter r = {.ctx = ctx, .what = "checking the backup"};
	const kt_archive_hooks hooks = {.progress = report, .arg = &r};
	KT_TRY(kt_archive_verify(reader, &hooks, &manifest, err));
	r.what = "restoring";
	kt_code rc = kt_archive_restore(reader, &manifest, keep, &hooks, &written, err);
	kt_manifest_totals(&manifest, &files, &bytes);
	kt_manifest_free(&manifest);
	if (rc != KT_OK)
		return rc;
	KT_TRY(kt_json_add_int(result, "files", (int64_t)files, err));
	return kt_json_add_int(result, "written", (int64_t)written, err);
}

static kt_code restore(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	kt_archive_reader *reader = NULL;
	const char *keep;
	KT_TRY(kt_json_opt_str(args, "keep", NULL, &keep, err));
	if (keep)
		KT_TRY(kt_name_check("run", keep, err));
	KT_TRY(open_archive(args, &reader, err));
	kt_code rc = restore_from(ctx, reader, keep, result, err);
	kt_archive_close(reader);
	return rc;
}

kt_status kt_action_backup_restore(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	return kt_action_end(restore(ctx, args, result, err));
}

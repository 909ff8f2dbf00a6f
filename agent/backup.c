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
#include "agent/archive_seal.h"
#include "agent/backup.h"
#include "agent/command.h"
#include "agent/delivery.h"
#include "agent/dump.h"
#include "agent/keyref.h"
#include "agent/keyscan.h"
#include "agent/redact.h"
#include "agent/scratch.h"
#include "agent/slot.h"
#include "agent/snapshot.h"
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

/* Outside of a run a key may be gone by now: then nobody looks for it. */
static kt_code resolve_secrets(const kt_agent_ctx *ctx, const cJSON *args, kt_archive_source *source, kt_err *err)
{
	const bool may_be_gone = strcmp(ctx->run, "-") == 0;
	kt_err gone = KT_ERR_INIT;
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
		kt_code rc = kt_keyref_resolve(ctx, ref, &secrets[source->secret_n], may_be_gone ? &gone : err);
		if (rc == KT_OK)
			source->secret_n++;
		else if (!may_be_gone)
			return rc;
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

/* --- the backup key -------------------------------------------------------------------------------------------- */

/* The key as long as a verb needs it, and whose backup it is. `use`: NULL when the archive is not encrypted. */
typedef struct backup_key {
	kt_secret key;
	char context[KT_SEAL_CONTEXT_MAX + 1];
	kt_archive_seal seal;
	const kt_archive_seal *use;
} backup_key;

/* Wrapped for this node by the coordinator, as key.receive gets one, and never kept. Outside of a run the arguments say
 * of which run the backup is. */
static kt_code read_key(const kt_agent_ctx *ctx, const cJSON *args, backup_key *out, kt_err *err)
{
	const cJSON *json = cJSON_GetObjectItemCaseSensitive(args, "blob");
	const char *run;
	kt_blob blob;
	*out = (backup_key){.key = KT_SECRET_INIT};
	if (!json || cJSON_IsNull(json))
		return KT_OK;
	KT_TRY(kt_json_opt_str(args, "run", ctx->run, &run, err));
	int n = snprintf(out->context, sizeof out->context, "%s/%s/%s", ctx->cluster, run, ctx->node);
	if (n < 0 || (size_t)n >= sizeof out->context)
		return kt_fail(err, KT_E_INPUT, NULL, "the names of cluster, run and node are too long together");
	KT_TRY(kt_blob_from_json(json, &blob, err));
	KT_TRY(kt_delivery_check(ctx, &blob, run, err));
	KT_TRY(kt_slot_unwrap(ctx->state, &blob, &out->key, err));
	kt_code rc = kt_redact_key(&out->key, err);
	if (rc != KT_OK)
		kt_secret_free(&out->key);
	out->seal = (kt_archive_seal){.key = &out->key, .context = out->context};
	out->use = &out->seal;
	return rc;
}

/* That the archive was made with the very key that the coordinator has escrowed. */
static kt_code prove_key(const kt_agent_ctx *ctx, const cJSON *args, const backup_key *key, cJSON *result, kt_err *err)
{
	kt_delivery d;
	if (!key->use)
		return KT_OK;
	KT_TRY(kt_delivery_read(ctx, args, &d, err));
	kt_code rc = kt_delivery_prove(&d, &key->key, result, err);
	kt_delivery_free(&d);
	return rc;
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
	KT_TRY(kt_json_add_bool(result, "encrypted", made->sealed, err));
	return say_notes(made, result, err);
}

static const cJSON *command_of(const cJSON *args, const char *name)
{
	const cJSON *c = cJSON_GetObjectItemCaseSensitive(args, name);
	return cJSON_IsNull(c) ? NULL : c;
}

/* Said now, and not when the way back needs it. */
static kt_code check_dump(const cJSON *args, kt_err *err)
{
	if (!command_of(args, "dump") == !command_of(args, "load"))
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED, "set dump_command and load_command, or neither",
		       "a database's dump is of no use without a command that loads it again, and the other way round");
}

typedef struct making {
	const char *archive;
	const kt_archive_source *source;
	const kt_archive_how *how;
	kt_archive_made made;
} making;

static kt_code make_archive(void *arg, kt_err *err)
{
	making *m = arg;
	return kt_archive_create(m->archive, m->source, m->how, &m->made, err);
}

/* Out of LVM snapshots where they are asked for. What one that ran full gave is no backup. */
static kt_code make(const kt_agent_ctx *ctx, const cJSON *args, making *m, cJSON *result, kt_err *err)
{
	kt_snapshot *snapshot;
	cJSON *volumes = cJSON_AddArrayToObject(result, "snapshots");
	if (!volumes)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	KT_TRY(kt_snapshot_take(ctx, args, m->source, m->archive, &snapshot, err));
	kt_code rc = kt_snapshot_name(snapshot, volumes, err);
	if (rc == KT_OK)
		rc = kt_snapshot_within(snapshot, make_archive, m, err);
	const bool there = rc == KT_OK;
	rc = kt_snapshot_end(snapshot, rc, err);
	if (rc != KT_OK && there)
		(void)unlink(m->archive);
	return rc;
}

static kt_code create(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	const char *archive;
	int64_t rate;
	backup_key key;
	kt_archive_source source;
	making m = {.source = &source};
	KT_TRY(kt_arg_path(args, "archive", &archive, err));
	KT_TRY(kt_json_opt_int(args, "rate", 0, 0, INT64_C(1) << 52, &rate, err));
	KT_TRY(kt_backup_source(ctx, args, &source, err));
	kt_code rc = read_key(ctx, args, &key, err);
	if (rc == KT_OK)
		rc = prove_key(ctx, args, &key, result, err);
	int dump = -1;
	if (rc == KT_OK)
		rc = check_dump(args, err);
	if (rc == KT_OK)
		rc = kt_dump_make(ctx, args, "dump", archive, &dump, err);
	if (rc == KT_OK) {
		source.dump_fd = dump > 0 ? dump : 0;
		reporter r = {.ctx = ctx, .what = "backing up"};
		const kt_archive_hooks hooks = {.progress = report, .arg = &r};
		const kt_archive_how how = {.seal = key.use, .rate = (uint64_t)rate, .hooks = &hooks};
		m.archive = archive;
		m.how = &how;
		rc = make(ctx, args, &m, result, err);
	}
	if (dump >= 0)
		(void)close(dump);
	kt_secret_free(&key.key);
	kt_backup_source_free(&source);
	return rc == KT_OK ? say_made(archive, &m.made, result, err) : rc;
}

kt_status kt_action_backup_create(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	return kt_action_end(create(ctx, args, result, err));
}

/* --- backup.check ---------------------------------------------------------------------------------------------- */

/* An archive that is being read, and the key that it needs so long. */
typedef struct opened {
	backup_key key;
	kt_archive_reader *reader;
} opened;

static void close_archive(opened *o)
{
	kt_archive_close(o->reader);
	kt_secret_free(&o->key.key);
}

/* On failure there is nothing to close. */
static kt_code open_archive(const kt_agent_ctx *ctx, const cJSON *args, opened *out, kt_err *err)
{
	const char *archive;
	const char *sha256;
	out->reader = NULL;
	KT_TRY(kt_arg_path(args, "archive", &archive, err));
	KT_TRY(kt_json_str(args, "sha256", &sha256, err));
	kt_code rc = read_key(ctx, args, &out->key, err);
	if (rc == KT_OK)
		rc = kt_archive_open(archive, sha256, out->key.use, &out->reader, err);
	if (rc != KT_OK)
		close_archive(out);
	return rc;
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

/* Unpack into `folder`, and look for keys in what comes out (S6): also by somebody who made no backup himself. */
static kt_code unpack(kt_agent_ctx *ctx, const cJSON *args, opened *o, const char *folder, const char *ignore,
		      cJSON *result, kt_err *err)
{
	kt_archive_source keys = {0};
	kt_keyscan *scan = NULL;
	kt_manifest manifest;
	uint64_t files;
	uint64_t bytes;
	reporter r = {.ctx = ctx, .what = ignore ? "test restore" : "restoring"};
	kt_code rc = resolve_secrets(ctx, args, &keys, err);
	if (rc == KT_OK)
		rc = kt_keyscan_new(keys.secrets, keys.secret_n, &scan, err);
	if (rc == KT_OK) {
		const kt_archive_hooks hooks = {.progress = report, .arg = &r, .scan = scan};
		rc = kt_archive_extract(o->reader, folder, ignore, &hooks, &manifest, err);
	}
	kt_keyscan_free(scan);
	kt_backup_source_free(&keys);
	KT_TRY(rc);
	kt_manifest_totals(&manifest, &files, &bytes);
	kt_manifest_free(&manifest);
	KT_TRY(kt_json_add_int(result, "files", (int64_t)files, err));
	return kt_json_add_int(result, "bytes", (int64_t)bytes, err);
}

/* The dump goes into a place that is thrown away, before anything depends on it: a checksum says only that it is what
 * was printed. */
static kt_code test_load(kt_agent_ctx *ctx, const cJSON *args, const char *scratch, cJSON *result, kt_err *err)
{
	const cJSON *load = command_of(args, "load");
	char path[PATH_MAX];
	cJSON *command = NULL;
	if (!load)
		return kt_json_add_bool(result, "loaded", false, err);
	if ((size_t)snprintf(path, sizeof path, "%s/%s", scratch, KT_DUMP_MEMBER) >= sizeof path)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", scratch);
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return kt_fail(err, KT_E_REFUSED,
			       "name load_check_command where there is a dump_command, and only there",
			       "there is a command that test-loads a database's dump, and the backup has none");
	kt_code rc = kt_scratch_command(load, scratch, &command, err);
	if (rc == KT_OK)
		rc = give_scratch(scratch, command, err);
	if (rc == KT_OK)
		rc = kt_dump_load(ctx, command, fd, err);
	(void)close(fd);
	cJSON_Delete(command);
	return rc == KT_OK ? kt_json_add_bool(result, "loaded", true, err) : kt_err_prefix(err, rc, "the test restore");
}

static kt_code check_in(kt_agent_ctx *ctx, const cJSON *args, opened *o, const char *scratch, const cJSON *check,
			cJSON *result, kt_err *err)
{
	KT_TRY(unpack(ctx, args, o, scratch, KT_SCRATCH_MARK, result, err));
	KT_TRY(test_load(ctx, args, scratch, result, err));
	if (check)
		KT_TRY(run_check(ctx, check, scratch, err));
	return kt_json_add_bool(result, "checked", check != NULL, err);
}

static kt_code check(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	const char *scratch;
	opened o;
	const cJSON *command = cJSON_GetObjectItemCaseSensitive(args, "check");
	if (cJSON_IsNull(command))
		command = NULL;
	if (command && !cJSON_IsObject(command))
		return kt_fail(err, KT_E_INPUT, NULL, "check is not a command");
	KT_TRY(kt_arg_path(args, "scratch", &scratch, err));
	KT_TRY(open_archive(ctx, args, &o, err));
	kt_code rc = kt_scratch_make(scratch, err);
	if (rc == KT_OK) {
		kt_err late = KT_ERR_INIT;
		rc = check_in(ctx, args, &o, scratch, command, result, err);
		kt_code removed = kt_tree_remove(scratch, &late);
		if (rc == KT_OK && removed != KT_OK) {
			*err = late;
			rc = removed;
		}
	}
	close_archive(&o);
	return rc;
}

kt_status kt_action_backup_check(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	return kt_action_end(check(ctx, args, result, err));
}

/* --- backup.restore -------------------------------------------------------------------------------------------- */

/* What a restore does with the database's dump: `command` takes it out of `fd`; both none where there is no dump. */
typedef struct dump_load {
	const cJSON *command;
	int fd; /* 0: none */
} dump_load;

/* Before anything is written: a dump that nothing takes, or a command that gets none, would leave the old data. */
static kt_code prepare_load(const cJSON *args, const kt_manifest *m, dump_load *out, kt_err *err)
{
	const char *archive;
	const bool dumped = kt_manifest_find(m, KT_DUMP_MEMBER) != NULL;
	*out = (dump_load){.command = command_of(args, "load")};
	if (dumped != (out->command != NULL))
		return kt_fail(err, KT_E_REFUSED, "name load_command where there is a dump_command, and only there",
			       "%s",
			       dumped ? "the backup has a database's dump, and no command loads it"
				      : "there is a command that loads a database's dump, and the backup has none");
	KT_TRY(kt_arg_path(args, "archive", &archive, err));
	return dumped ? kt_scratch_file(archive, KT_DUMP_WHAT, &out->fd, err) : KT_OK;
}

static kt_code restore_verified(kt_agent_ctx *ctx, const cJSON *args, kt_archive_reader *reader, const kt_manifest *m,
				const char *keep, cJSON *result, kt_err *err)
{
	dump_load load;
	uint64_t files;
	uint64_t bytes;
	uint64_t written = 0;
	reporter r = {.ctx = ctx, .what = "restoring"};
	const kt_archive_hooks hooks = {.progress = report, .arg = &r};
	KT_TRY(prepare_load(args, m, &load, err));
	kt_code rc = kt_archive_restore(reader, m, keep, load.fd, &hooks, &written, err);
	if (rc == KT_OK && load.fd)
		rc = kt_dump_load(ctx, load.command, load.fd, err);
	if (load.fd)
		(void)close(load.fd);
	KT_TRY(rc);
	kt_manifest_totals(m, &files, &bytes);
	KT_TRY(kt_json_add_int(result, "files", (int64_t)files, err));
	return kt_json_add_int(result, "written", (int64_t)written, err);
}

static kt_code restore_from(kt_agent_ctx *ctx, const cJSON *args, kt_archive_reader *reader, const char *keep,
			    cJSON *result, kt_err *err)
{
	kt_manifest manifest;
	reporter r = {.ctx = ctx, .what = "checking the backup"};
	const kt_archive_hooks hooks = {.progress = report, .arg = &r};
	KT_TRY(kt_archive_verify(reader, &hooks, &manifest, err));
	kt_code rc = restore_verified(ctx, args, reader, &manifest, keep, result, err);
	kt_manifest_free(&manifest);
	return rc;
}

/* Beside, not in place: into a folder that is made for it, so that nothing can be overwritten. */
static kt_code restore_into(kt_agent_ctx *ctx, const cJSON *args, opened *o, const char *into, cJSON *result,
			    kt_err *err)
{
	if (mkdir(into, 0700) != 0)
		return kt_fail_errno(err, errno, "name a folder that is not there yet, in one that is",
				     "the folder %s cannot be made", into);
	kt_code rc = unpack(ctx, args, o, into, NULL, result, err);
	if (rc != KT_OK)
		KT_IGNORE(kt_tree_remove(into, NULL));
	return rc;
}

static kt_code restore(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	opened o;
	const char *keep;
	const char *into = NULL;
	KT_TRY(kt_json_opt_str(args, "keep", NULL, &keep, err));
	if (keep)
		KT_TRY(kt_name_check("run", keep, err));
	if (cJSON_HasObjectItem(args, "into"))
		KT_TRY(kt_arg_path(args, "into", &into, err));
	if (!into && strcmp(ctx->run, "-") == 0)
		return kt_fail(err, KT_E_REFUSED, "take the run back (keyturn rollback), or name another folder",
			       "a backup is put back in place in a run alone");
	KT_TRY(open_archive(ctx, args, &o, err));
	kt_code rc = into ? restore_into(ctx, args, &o, into, result, err)
			  : restore_from(ctx, args, o.reader, keep, result, err);
	close_archive(&o);
	return rc;
}

kt_status kt_action_backup_restore(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	return kt_action_end(restore(ctx, args, result, err));
}

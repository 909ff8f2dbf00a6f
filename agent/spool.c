/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/spool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/codec.h"
#include "base/planted.h"
#include "base/record.h"

enum { PATH_TEXT = KT_RECORD_PATH, RESERVE = 32 * 1024, NOTE_MAX = 16 * 1024, ATTEMPT_MAX = 1000000000 };

/* What a damaged record means, and what can still be done. */
static const char lost_request[] = "nothing is done under this key any more; `keyturn resume` asks with a new one, and "
				   "after the rekey the probe tells which key opens the data";
static const char lost_note[] =
	"see by hand whether the service is to run, then `keyturn resume`: the way back starts it";
static const char lost_process[] =
	"look with ps for its `keyturn-agent run` and for the command itself; the probe tells which key opens the data";

static kt_code in_folder(const char *dir, const char *name, char out[PATH_TEXT], kt_err *err)
{
	size_t d = strlen(dir);
	size_t n = strlen(name);
	if (d + n + 2 > PATH_TEXT)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", dir);
	memcpy(out, dir, d);
	out[d] = '/';
	memcpy(out + d + 1, name, n + 1);
	return KT_OK;
}

kt_code kt_spool_path(const char *state, const kt_request *r, kt_buf *dir, kt_err *err)
{
	kt_buf_clear(dir);
	return kt_buf_printf(dir, err, "%s/spool/%s/%s.%s.%lld", state, r->run, r->step, kt_role_name(r->role),
			     (long long)r->attempt);
}

/* mkdir that is on the disk when it returns; also when it was made by somebody who was killed before the sync. */
static kt_code make_folder(const char *path, kt_err *err)
{
	if (mkdir(path, 0700) != 0 && errno != EEXIST)
		return kt_fail_errno(err, errno, NULL, "the folder %s cannot be made", path);
	return PLANTED(SPOOL_INTENT_UNSYNCED) ? KT_OK : kt_file_sync_folder(path, err);
}

static kt_code make_folders(const char *dir, kt_err *err)
{
	char path[PATH_TEXT];
	if ((size_t)snprintf(path, sizeof path, "%s", dir) >= sizeof path)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", dir);
	char *request = strrchr(path, '/');
	*request = '\0';
	char *run = strrchr(path, '/');
	*run = '\0';
	KT_TRY(make_folder(path, err));
	*run = '/';
	KT_TRY(make_folder(path, err));
	*request = '/';
	return make_folder(path, err);
}

/* Room for the outcome: blocks that a full disk cannot take away any more. */
static kt_code reserve(const char *dir, kt_err *err)
{
	char path[PATH_TEXT];
	KT_TRY(in_folder(dir, "outcome.reserve", path, err));
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return kt_fail_errno(err, errno, NULL, "%s", path);
	int e = posix_fallocate(fd, 0, RESERVE);
	if (e == 0 && fsync(fd) != 0)
		e = errno;
	(void)close(fd);
	if (e)
		(void)unlink(path);
	return e ? kt_fail_errno(err, e, NULL, "%s", path) : KT_OK;
}

/* The arguments as they are kept: `hide` by its digest. *out is the caller's, and borrows from the request. */
static kt_code kept_args(const kt_request *r, const char *hide, cJSON **out, kt_err *err)
{
	bool hides = hide && kt_json_member(r->args, hide);
	*out = hides ? cJSON_Duplicate(r->args, 1) : cJSON_CreateObjectReference(r->args ? r->args->child : NULL);
	if (!*out)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (!hides)
		return KT_OK;
	cJSON *hidden = cJSON_DetachItemFromObjectCaseSensitive(*out, hide);
	kt_buf text = KT_BUF_INIT;
	char digest[KT_SHA256_HEX];
	kt_code rc = kt_json_canonical(hidden, &text, err);
	if (rc == KT_OK)
		rc = kt_sha256_hex(text.data, text.len, digest, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(*out, hide, digest, err);
	kt_buf_free(&text);
	cJSON_Delete(hidden);
	if (rc != KT_OK) {
		cJSON_Delete(*out);
		*out = NULL;
	}
	return rc;
}

static kt_code intent_text(const kt_request *r, const char *hide, kt_buf *out, kt_err *err)
{
	cJSON *args;
	cJSON *json = NULL;
	KT_TRY(kept_args(r, hide, &args, err));
	kt_request kept = *r;
	kept.args = args;
	kept.settle = false; /* how it is asked, not what is asked */
	kt_code rc = kt_request_encode(&kept, &json, err);
	if (rc == KT_OK)
		rc = kt_json_print(json, out, err);
	cJSON_Delete(json);
	cJSON_Delete(args);
	return rc;
}

static kt_code load(const char *dir, const char *name, const char *remedy, cJSON **json, kt_err *err)
{
	char path[PATH_TEXT];
	*json = NULL;
	KT_TRY(in_folder(dir, name, path, err));
	return kt_record_read_json(path, remedy, json, err);
}

static kt_code exists(const char *dir, const char *name, bool *found, kt_err *err)
{
	char path[PATH_TEXT];
	KT_TRY(in_folder(dir, name, path, err));
	return kt_record_exists(path, found, err);
}

kt_code kt_spool_intent(const char *dir, cJSON **json, kt_request *r, kt_err *err)
{
	KT_TRY(load(dir, "intent.json", lost_request, json, err));
	if (!*json)
		return kt_fail(err, KT_E_AUDIT, lost_request, "%s/intent.json is missing", dir);
	kt_code rc = kt_request_decode(*json, r, err);
	if (rc == KT_OK)
		return KT_OK;
	cJSON_Delete(*json);
	*json = NULL;
	return kt_err_prefix(err, rc, "%s/intent.json", dir);
}

/* Is `was` the same request as `r`, apart from what names the conversation (id) and the coordinator (epoch)? */
static kt_code same_request(const kt_request *was, const kt_request *r, const char *hide, bool *same, kt_err *err)
{
	cJSON *args = NULL;
	KT_TRY(kept_args(r, hide, &args, err));
	*same = strcmp(was->cluster, r->cluster) == 0 && strcmp(was->verb, r->verb) == 0 &&
		strcmp(was->node, r->node) == 0 && cJSON_Compare(was->args, args, 1);
	cJSON_Delete(args);
	return KT_OK;
}

static kt_code another_request(const char *dir, const kt_request *was, kt_err *err)
{
	return kt_fail(err, KT_E_AUDIT, "a new request needs a new attempt number",
		       "%s was already used for another request (%s of cluster %s): nothing was done", dir, was->verb,
		       was->cluster);
}

static kt_code write_intent(const char *dir, const kt_request *r, const char *hide, kt_err *err)
{
	char path[PATH_TEXT];
	KT_TRY(in_folder(dir, "intent.json", path, err));
	kt_buf text = KT_BUF_INIT;
	kt_code rc = intent_text(r, hide, &text, err);
	if (rc == KT_OK)
		rc = kt_record_replace(path, &text, &kt_record_private, err);
	kt_buf_free(&text);
	return rc;
}

/* No intent: then nothing else can be there but room for an outcome, unless the intent was lost. */
static kt_code check_unused(const char *dir, kt_err *err)
{
	static const char *const later[] = {"outcome.json", "note.json", "pid", "child"};
	bool begun;
	KT_TRY(kt_record_exists(dir, &begun, err));
	for (size_t i = 0; begun && i < sizeof later / sizeof later[0]; i++) {
		bool found;
		KT_TRY(exists(dir, later[i], &found, err));
		if (found)
			return kt_fail(err, KT_E_AUDIT, lost_request, "%s/intent.json is missing", dir);
	}
	return KT_OK;
}

bool kt_spool_unused(const char *dir)
{
	bool found;
	return exists(dir, "intent.json", &found, NULL) == KT_OK && !found && check_unused(dir, NULL) == KT_OK;
}

/* "<step>.<role>.<attempt>": the attempt, and how long the name is before it; 0 when it is no such name. */
static long attempt_of(const char *name, size_t *base)
{
	const char *dot = strrchr(name, '.');
	char *end = NULL;
	long n = dot && dot > name ? strtol(dot + 1, &end, 10) : 0;
	*base = dot ? (size_t)(dot - name) : 0;
	return end && *end == '\0' && n >= 1 && n <= ATTEMPT_MAX ? n : 0;
}

static kt_code check_asked(const cJSON *asked, kt_err *err)
{
	const cJSON *name;
	size_t base;
	cJSON_ArrayForEach(name, asked)
	{
		if (!cJSON_IsString(name))
			return kt_fail(err, KT_E_INPUT, NULL, "the name of a request must be a string");
		KT_TRY(kt_name_check("request", name->valuestring, err));
		if (attempt_of(name->valuestring, &base) == 0)
			return kt_fail(err, KT_E_INPUT, NULL, "\"%.70s\" is no request: it has no attempt",
				       name->valuestring);
	}
	return KT_OK;
}

/* An attempt that could not be recorded (a full disk) leaves nothing behind, so later ones than the one that is asked
 * for count, too. */
static bool is_asked(const cJSON *asked, const char *entry)
{
	size_t base;
	size_t other;
	long attempt = attempt_of(entry, &base);
	const cJSON *name;
	if (attempt == 0)
		return false;
	cJSON_ArrayForEach(name, asked)
	{
		if (strncmp(name->valuestring, entry, base + 1) == 0 &&
		    attempt >= attempt_of(name->valuestring, &other) && other == base)
			return true;
	}
	return false;
}

static kt_code add_known(const char *folder, const char *entry, cJSON *known, kt_err *err)
{
	char dir[PATH_TEXT];
	bool found;
	KT_TRY(in_folder(folder, entry, dir, err));
	KT_TRY(exists(dir, "intent.json", &found, err));
	if (!found || cJSON_AddItemToArray(known, cJSON_CreateString(entry)))
		return KT_OK;
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

kt_code kt_spool_known(const char *state, const char *run, const cJSON *asked, cJSON *known, kt_err *err)
{
	char folder[PATH_TEXT];
	KT_TRY(kt_name_check("run", run, err));
	KT_TRY(check_asked(asked, err));
	if ((size_t)snprintf(folder, sizeof folder, "%s/spool/%s", state, run) >= sizeof folder)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", folder);
	DIR *d = opendir(folder);
	if (!d)
		return errno == ENOENT ? KT_OK : kt_fail_errno(err, errno, NULL, "%s", folder);
	kt_code rc = KT_OK;
	errno = 0;
	for (struct dirent *e; rc == KT_OK && (e = readdir(d)); errno = 0)
		if (is_asked(asked, e->d_name))
			rc = add_known(folder, e->d_name, known, err);
	if (rc == KT_OK && errno)
		rc = kt_fail_errno(err, errno, NULL, "%s", folder);
	(void)closedir(d);
	return rc;
}

static kt_code begin_new(const char *dir, const kt_request *r, const char *hide, kt_err *err)
{
	kt_code rc = make_folders(dir, err);
	if (rc == KT_OK)
		rc = reserve(dir, err);
	if (rc == KT_OK)
		rc = write_intent(dir, r, hide, err);
	return rc == KT_OK ? KT_OK : kt_record_failed(err, r->verb);
}

/* It was asked for before. Whoever began it may have been killed before its records were durable. */
static kt_code begin_again(const char *dir, const kt_request *r, kt_spool_state *state, kt_err *err)
{
	char path[PATH_TEXT];
	bool done;
	bool room;
	KT_TRY(exists(dir, "outcome.json", &done, err));
	KT_TRY(exists(dir, "outcome.reserve", &room, err));
	kt_code rc = done || room ? KT_OK : reserve(dir, err);
	if (rc == KT_OK)
		rc = in_folder(dir, "intent.json", path, err);
	if (rc == KT_OK)
		rc = kt_file_sync_folder(path, err);
	if (rc != KT_OK)
		return kt_record_failed(err, r->verb);
	*state = done ? KT_SPOOL_DONE : KT_SPOOL_STARTED;
	return KT_OK;
}

kt_code kt_spool_begin(const char *dir, const kt_request *r, const char *hide, kt_spool_state *state, kt_err *err)
{
	kt_request was;
	cJSON *json;
	bool found;
	*state = KT_SPOOL_STARTED;
	KT_TRY(exists(dir, "intent.json", &found, err));
	if (!found) {
		KT_TRY(check_unused(dir, err));
		*state = KT_SPOOL_NEW;
		return begin_new(dir, r, hide, err);
	}
	bool same = false;
	KT_TRY(kt_spool_intent(dir, &json, &was, err));
	kt_code rc = same_request(&was, r, hide, &same, err);
	if (rc == KT_OK && !same) {
		*state = KT_SPOOL_NEW; /* whatever came of that one: this one was never begun */
		rc = another_request(dir, &was, err);
	}
	cJSON_Delete(json);
	return rc == KT_OK ? begin_again(dir, r, state, err) : rc;
}

/* --- Outcomes -------------------------------------------------------------------------------------------------------
 */

/* Into the reserved blocks, then by its name. */
static kt_code write_reserved(const char *dir, kt_buf *text, kt_err *err)
{
	char from[PATH_TEXT];
	char to[PATH_TEXT];
	KT_TRY(kt_record_seal(text, err));
	KT_TRY(in_folder(dir, "outcome.reserve", from, err));
	KT_TRY(in_folder(dir, "outcome.json", to, err));
	int fd = open(from, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return kt_fail_errno(err, errno, NULL, "%s", from);
	kt_code rc = kt_file_write_all(fd, text->data, text->len, from, err);
	if (rc == KT_OK && (ftruncate(fd, (off_t)text->len) != 0 || fsync(fd) != 0))
		rc = kt_fail_errno(err, errno, NULL, "%s", from);
	(void)close(fd);
	if (rc == KT_OK && rename(from, to) != 0)
		rc = kt_fail_errno(err, errno, NULL, "%s", to);
	return rc == KT_OK ? kt_file_sync_folder(to, err) : rc;
}

static kt_code outcome_text(kt_status status, const cJSON *result, const kt_err *error, kt_buf *text, kt_err *err)
{
	cJSON *json = cJSON_CreateObject();
	if (!json)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = kt_outcome_encode(status, result, error, json, err);
	if (rc == KT_OK)
		rc = kt_json_print(json, text, err);
	cJSON_Delete(json);
	return rc;
}

kt_code kt_spool_finish(const char *dir, kt_status status, const cJSON *result, const kt_err *error, kt_err *err)
{
	bool done;
	kt_buf text = KT_BUF_INIT;
	kt_code rc = exists(dir, "outcome.json", &done, err);
	if (rc == KT_OK && !done)
		rc = outcome_text(status, result, error, &text, err);
	if (rc == KT_OK && !done)
		rc = write_reserved(dir, &text, err);
	kt_buf_free(&text);
	return rc == KT_OK ? KT_OK : kt_record_failed(err, "the outcome");
}

kt_code kt_spool_outcome_load(const char *dir, bool *found, kt_spool_outcome *out, kt_err *err)
{
	*out = (kt_spool_outcome){0};
	*found = false;
	KT_TRY(load(dir, "outcome.json", lost_request, &out->json, err));
	if (!out->json)
		return KT_OK;
	kt_code rc = kt_outcome_decode(out->json, &out->status, &out->result, &out->error, err);
	if (rc != KT_OK) {
		kt_spool_outcome_free(out);
		return kt_err_prefix(err, rc, "%s/outcome.json", dir);
	}
	*found = true;
	return KT_OK;
}

void kt_spool_outcome_free(kt_spool_outcome *o)
{
	if (!o)
		return;
	cJSON_Delete(o->json);
	*o = (kt_spool_outcome){0};
}

/* --- Detached work --------------------------------------------------------------------------------------------------
 */

static kt_code write_process(const char *dir, const char *name, pid_t pid, bool *made, kt_err *err)
{
	kt_process p;
	char path[PATH_TEXT];
	kt_buf text = KT_BUF_INIT;
	KT_TRY(in_folder(dir, name, path, err));
	KT_TRY(kt_process_of(pid, &p, err));
	kt_code rc = kt_buf_printf(&text, err, "{\"boot_id\":\"%s\",\"pid\":%d,\"start\":%lld}\n", p.boot_id,
				   (int)p.pid, (long long)p.start);
	if (rc == KT_OK)
		rc = kt_record_create(path, &text, made, err);
	kt_buf_free(&text);
	return rc;
}

static kt_code read_process(const char *dir, const char *name, bool *found, kt_process *out, kt_err *err)
{
	cJSON *json;
	const char *boot_id = "";
	int64_t pid = 0;
	*out = (kt_process){0};
	KT_TRY(load(dir, name, lost_process, &json, err));
	*found = json;
	if (!json)
		return KT_OK;
	kt_code rc = kt_json_str(json, "boot_id", &boot_id, err);
	if (rc == KT_OK)
		rc = kt_json_int(json, "pid", 1, INT32_MAX, &pid, err);
	if (rc == KT_OK)
		rc = kt_json_int(json, "start", 0, INT64_C(1) << 53, &out->start, err);
	out->pid = (pid_t)pid;
	(void)snprintf(out->boot_id, sizeof out->boot_id, "%s", boot_id);
	cJSON_Delete(json);
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "%s/%s", dir, name);
}

kt_code kt_spool_claim(const char *dir, bool *mine, kt_err *err)
{
	*mine = false;
	kt_code rc = write_process(dir, "pid", getpid(), mine, err);
	*mine |= PLANTED(CLAIM_NOT_EXCLUSIVE);
	return rc == KT_OK ? KT_OK : kt_record_failed(err, "who carries it out");
}

kt_code kt_spool_never_started(const char *dir, const kt_err *why, cJSON *result, kt_err *err)
{
	cJSON *own = cJSON_CreateObject();
	kt_code rc = own ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = kt_json_add_bool(own, "started", false, err);
	if (rc == KT_OK && result)
		rc = kt_json_add_bool(result, "started", false, err);
	if (rc == KT_OK)
		rc = kt_spool_finish(dir, KT_STATUS_FAILED, own, why, err);
	cJSON_Delete(own);
	return rc;
}

kt_code kt_spool_child(const char *dir, pid_t pid, kt_err *err)
{
	bool made;
	if (PLANTED(CHILD_NOT_RECORDED))
		return KT_OK;
	kt_code rc = write_process(dir, "child", pid, &made, err);
	if (rc == KT_OK && !made)
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "%s/child is there already", dir);
	return rc == KT_OK ? KT_OK : kt_record_failed(err, "the start of the command");
}

kt_code kt_spool_work_of(const char *dir, kt_spool_work *out, kt_err *err)
{
	kt_process child;
	*out = (kt_spool_work){0};
	KT_TRY(read_process(dir, "pid", &out->claimed, &out->runner, err));
	KT_TRY(read_process(dir, "child", &out->started, &child, err));
	out->alive = (out->claimed && kt_process_alive(&out->runner)) ||
		     (out->started && (kt_process_alive(&child) || kt_process_session_alive(&child)));
	return KT_OK;
}

/* --- Notes ----------------------------------------------------------------------------------------------------------
 */

kt_code kt_spool_note(const char *dir, const cJSON *note, kt_err *err)
{
	char path[PATH_TEXT];
	bool made;
	kt_buf text = {.max = NOTE_MAX};
	KT_TRY(in_folder(dir, "note.json", path, err));
	kt_code rc = kt_json_print(note, &text, err);
	if (rc == KT_OK)
		rc = kt_record_create(path, &text, &made, err);
	kt_buf_free(&text);
	return rc == KT_OK ? KT_OK : kt_record_failed(err, "what was found before the change");
}

kt_code kt_spool_noted(const char *dir, cJSON **out, kt_err *err)
{
	char path[PATH_TEXT];
	*out = NULL;
	if ((size_t)snprintf(path, sizeof path, "%s", dir) >= sizeof path)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", dir);
	char *dot = strrchr(path, '.');
	if (!dot)
		return kt_fail(err, KT_E_INTERNAL, NULL, "%s is no folder of a request", dir);
	size_t room = sizeof path - (size_t)(dot + 1 - path);
	for (long attempt = strtol(dot + 1, NULL, 10); !*out && attempt >= 1; attempt--) {
		(void)snprintf(dot + 1, room, "%ld", attempt);
		KT_TRY(load(path, "note.json", lost_note, out, err));
	}
	return KT_OK;
}

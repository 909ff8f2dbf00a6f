/* SPDX-License-Identifier: Apache-2.0 */
/* The verb preflight: everything that can be known to go wrong on this node is found before anything is touched. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "agent/backup.h"
#include "agent/dump.h"
#include "agent/envfile.h"
#include "agent/keyref.h"
#include "agent/procfs.h"
#include "agent/runlock.h"
#include "agent/service.h"
#include "agent/snapshot.h"
#include "base/clock.h"
#include "base/kcv.h"
#include "base/spawn.h"

enum { SLACK_BYTES = 1024 * 1024, UNIT_TEXT_MAX = 1024 * 1024, SHOWN = 10 };

/* Where a program is looked for that is named without a slash, as for a service. */
static const char search_path[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/* One preflight. Findings are {"what","message","remedy"}; n counts them. */
typedef struct preflight {
	kt_agent_ctx *ctx;
	const cJSON *args;
	cJSON *result;
	cJSON *findings;
	size_t n;
} preflight;

/* Note what is wrong and go on. */
static kt_code found(preflight *p, const char *what, const kt_err *reason, kt_err *err)
{
	cJSON *one = cJSON_CreateObject();
	if (!one || !cJSON_AddItemToArray(p->findings, one)) {
		cJSON_Delete(one);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	p->n++;
	KT_TRY(kt_json_add_str(one, "what", what, err));
	KT_TRY(kt_json_add_str(one, "message", reason->msg, err));
	return kt_json_add_str(one, "remedy", reason->remedy, err);
}

/* A failed check is a finding, unless we are to stop or are broken ourselves. */
static kt_code note(preflight *p, const char *what, kt_code rc, const kt_err *reason, kt_err *err)
{
	if (rc == KT_OK)
		return KT_OK;
	if (rc == KT_E_INTERRUPTED || rc == KT_E_INTERNAL) {
		if (err)
			*err = *reason;
		return rc;
	}
	return found(p, what, reason, err);
}

static const cJSON *member(const cJSON *from, const char *name)
{
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(from, name);
	return cJSON_IsNull(value) ? NULL : value;
}

/* --- service --------------------------------------------------------------------------------------------------- */

/* The unit as systemd sees it, drop-ins included; "" for a service that is only commands. */
static kt_code unit_digest(const char *unit, char out[KT_SHA256_HEX], kt_err *err)
{
	const char *const argv[] = {"systemctl", "--no-pager", "cat", "--", unit, NULL};
	const kt_spawn_what what = {.argv = argv, .timeout_ms = 20000};
	kt_buf text = {.max = UNIT_TEXT_MAX};
	kt_buf errors = {.max = 4096};
	kt_spawn_end end;
	kt_code rc = kt_spawn_capture(&what, &text, &errors, &end, err);
	if (rc == KT_OK && end.exit != 0)
		rc = kt_fail(err, KT_E_REFUSED, "check the name of the unit", "systemctl cat %s: %.300s", unit,
			     kt_buf_cstr(&errors));
	if (rc == KT_OK)
		rc = kt_sha256_hex(text.data, text.len, out, err);
	kt_buf_free(&text);
	kt_buf_free(&errors);
	return rc;
}

static kt_code check_service(preflight *p, kt_err *err)
{
	const cJSON *service = member(p->args, "service");
	kt_err reason = KT_ERR_INIT;
	kt_service_info info = {.state = KT_SERVICE_UNKNOWN};
	char digest[KT_SHA256_HEX] = "";
	if (!service)
		return KT_OK;
	kt_code rc = kt_service_query(p->ctx, service, &info, &reason);
	KT_TRY(note(p, "service", rc, &reason, err));
	KT_TRY(kt_json_add_str(p->result, "service", kt_service_state_name(info.state), err));
	const cJSON *unit = member(service, "unit");
	if (rc == KT_OK && cJSON_IsString(unit)) {
		rc = unit_digest(unit->valuestring, digest, &reason);
		KT_TRY(note(p, "service", rc, &reason, err));
	}
	return kt_json_add_str(p->result, "unit_sha256", digest, err);
}

/* --- environment file ------------------------------------------------------------------------------------------ */

static kt_code add_names(const kt_envfile *f, cJSON *names, kt_err *err)
{
	for (size_t i = 0; i < kt_envfile_count(f); i++) {
		cJSON *name = cJSON_CreateString(kt_envfile_name(f, i));
		if (!name || !cJSON_AddItemToArray(names, name)) {
			cJSON_Delete(name);
			return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
		}
	}
	return KT_OK;
}

static kt_code check_env_file(preflight *p, kt_err *err)
{
	const char *path;
	kt_envfile *f = NULL;
	kt_err reason = KT_ERR_INIT;
	if (!member(p->args, "env_file"))
		return KT_OK;
	KT_TRY(kt_arg_path(p->args, "env_file", &path, err));
	cJSON *names = cJSON_AddArrayToObject(p->result, "env_names");
	if (!names)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = kt_envfile_load(path, &f, &reason);
	KT_TRY(note(p, "env_file", rc, &reason, err));
	rc = f ? add_names(f, names, err) : KT_OK;
	kt_envfile_free(f);
	return rc;
}

/* --- backup ---------------------------------------------------------------------------------------------------- */

/* The folder itself, or the nearest one above it that is there. */
static void nearest_folder(const char *path, char out[PATH_MAX])
{
	struct stat st;
	(void)snprintf(out, PATH_MAX, "%s", path);
	while (strcmp(out, "/") != 0 && (stat(out, &st) != 0 || !S_ISDIR(st.st_mode))) {
		char *slash = strrchr(out, '/');
		slash[slash == out] = '\0';
	}
}

static kt_code check_folder(const char *path, kt_err *err)
{
	if (faccessat(AT_FDCWD, path, W_OK | X_OK, AT_EACCESS) != 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be written to", path);
	return KT_OK;
}

static kt_code check_room(preflight *p, const char *destination, const kt_archive_size *size, uint64_t dump,
			  kt_err *err)
{
	char folder[PATH_MAX];
	struct statvfs fs;
	kt_err reason = KT_ERR_INIT;
	nearest_folder(destination, folder);
	if (statvfs(folder, &fs) != 0)
		return note(p, "backup", kt_fail_errno(&reason, errno, NULL, "free space in %s", folder), &reason, err);
	/* The archive, should nothing in it compress, and beside it the test restore. A dump is in both, and lies there
	 * by itself while the first is made; a server that it is test-loaded into is as large. */
	uint64_t needed = 2 * size->bytes + 3 * dump + SLACK_BYTES;
	uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
	KT_TRY(kt_json_add_int(p->result, "needed_bytes", (int64_t)needed, err));
	KT_TRY(kt_json_add_int(p->result, "free_bytes", (int64_t)room, err));
	if (room < needed)
		KT_TRY(note(p, "backup",
			    kt_fail(&reason, KT_E_IO, "make room there, or choose another destination for the backup",
				    "%s: backup and test restore may need %llu bytes, %llu are free", folder,
				    (unsigned long long)needed, (unsigned long long)room),
			    &reason, err));
	return note(p, "backup", check_folder(folder, &reason), &reason, err);
}

static kt_code check_backup(preflight *p, kt_err *err)
{
	const cJSON *backup = member(p->args, "backup");
	const char *destination;
	kt_archive_source source;
	kt_archive_size size;
	kt_err reason = KT_ERR_INIT;
	if (!backup)
		return KT_OK;
	if (!cJSON_IsObject(backup))
		return kt_fail(err, KT_E_INPUT, NULL, "backup is not an object");
	KT_TRY(kt_arg_path(backup, "destination", &destination, err));
	KT_TRY(kt_backup_source(p->ctx, backup, &source, err));
	kt_code rc = kt_snapshot_check(backup, &source, &reason);
	if (rc == KT_OK)
		rc = kt_archive_measure(&source, &size, &reason);
	kt_backup_source_free(&source);
	const cJSON *measure = member(backup, "dump_size");
	uint64_t dump = 0;
	if (rc == KT_OK && measure)
		rc = kt_dump_measure(p->ctx, measure, &dump, &reason);
	if (rc != KT_OK)
		return note(p, "backup", rc, &reason, err);
	return check_room(p, destination, &size, dump, err);
}

/* --- folders and programs -------------------------------------------------------------------------------------- */

static kt_code check_writable(preflight *p, kt_err *err)
{
	const cJSON *folders;
	const cJSON *folder;
	KT_TRY(kt_arg_strings(p->args, "writable", &folders, err));
	cJSON_ArrayForEach(folder, folders)
	{
		struct stat st;
		kt_err reason = KT_ERR_INIT;
		const char *path = folder->valuestring;
		kt_code rc;
		if (stat(path, &st) != 0)
			rc = kt_fail_errno(&reason, errno, NULL, "the folder %s", path);
		else if (!S_ISDIR(st.st_mode))
			rc = kt_fail(&reason, KT_E_IO, "give the path of a folder", "%s is not a folder", path);
		else
			rc = check_folder(path, &reason);
		KT_TRY(note(p, "writable", rc, &reason, err));
	}
	return KT_OK;
}

static bool is_executable(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0;
}

static bool is_in_path(const char *name)
{
	for (const char *folder = search_path; *folder; folder += strspn(folder, ":")) {
		char path[PATH_MAX];
		size_t n = strcspn(folder, ":");
		if ((size_t)snprintf(path, sizeof path, "%.*s/%s", (int)n, folder, name) < sizeof path &&
		    is_executable(path))
			return true;
		folder += n;
	}
	return false;
}

static kt_code check_needs(preflight *p, kt_err *err)
{
	const cJSON *programs;
	const cJSON *program;
	KT_TRY(kt_arg_strings(p->args, "needs", &programs, err));
	cJSON_ArrayForEach(program, programs)
	{
		kt_err reason = KT_ERR_INIT;
		const char *name = program->valuestring;
		if (strchr(name, '/') ? is_executable(name) : is_in_path(name))
			continue;
		kt_code rc = kt_fail(&reason, KT_E_IO, "install it, or correct its path in the playbook",
				     "%s is not there or cannot be executed", name);
		KT_TRY(note(p, "needs", rc, &reason, err));
	}
	return KT_OK;
}

/* --- key, and ourselves ---------------------------------------------------------------------------------------- */

static kt_code check_key(preflight *p, kt_err *err)
{
	const cJSON *ref = member(p->args, "key");
	kt_secret key = KT_SECRET_INIT;
	kt_err reason = KT_ERR_INIT;
	char kcv[KT_KCV_TEXT] = "";
	if (!ref || cJSON_IsNull(ref)) /* it stays in a token or in a service */
		return KT_OK;
	kt_code rc = kt_keyref_resolve(p->ctx, ref, &key, &reason);
	if (rc == KT_OK)
		rc = kt_kcv_of(&key, kcv, &reason);
	kt_secret_free(&key);
	KT_TRY(note(p, "key", rc, &reason, err));
	return kt_json_add_str(p->result, "kcv", kcv, err);
}

/* The gate counts what it cannot look into as live: better known now than after all nodes have been stopped. */
static kt_code check_sight(preflight *p, kt_err *err)
{
	size_t blind = 0;
	kt_err reason = KT_ERR_INIT;
	KT_TRY(kt_json_add_int(p->result, "time_ms", kt_clock_wall_ms(), err));
	KT_TRY(kt_json_add_int(p->result, "uid", (int64_t)geteuid(), err));
	const cJSON *users;
	KT_TRY(kt_arg_strings(p->args, "users", &users, err));
	kt_code rc = kt_procfs_blind(users, &blind, &reason);
	if (rc == KT_OK && blind)
		rc = kt_fail(
			&reason, KT_E_REFUSED,
			"let the agent run as root (agent.sudo), or say whose processes count (process_users)",
			"the agent runs as uid %u and cannot look into %zu processes of other users: the gate could "
			"never be quiet",
			(unsigned)geteuid(), blind);
	return note(p, "agent", rc, &reason, err);
}

/* Another cluster's run on this machine: better known now than when the first verb is refused. */
static kt_code check_holder(preflight *p, kt_err *err)
{
	kt_err reason = KT_ERR_INIT;
	return note(p, "holder", kt_runlock_check(p->ctx->state, p->ctx->cluster, &reason), &reason, err);
}

/* --- the verb -------------------------------------------------------------------------------------------------- */

static kt_code check_all(preflight *p, kt_err *err)
{
	KT_TRY(check_holder(p, err));
	KT_TRY(check_service(p, err));
	KT_TRY(check_env_file(p, err));
	KT_TRY(check_key(p, err));
	KT_TRY(check_writable(p, err));
	KT_TRY(check_needs(p, err));
	KT_TRY(check_sight(p, err));
	KT_TRY(kt_agent_go_on(p->ctx, err));
	return check_backup(p, err);
}

/* All findings in one message; the remedies of the first ones. */
static kt_code say_findings(const preflight *p, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_buf remedies = KT_BUF_INIT;
	kt_code rc = KT_OK;
	size_t i = 0;
	const cJSON *one;
	cJSON_ArrayForEach(one, p->findings)
	{
		const char *remedy = cJSON_GetObjectItemCaseSensitive(one, "remedy")->valuestring;
		if (i++ == SHOWN || rc != KT_OK)
			break;
		rc = kt_buf_printf(&text, err, "%s%.200s", i > 1 ? "; " : "",
				   cJSON_GetObjectItemCaseSensitive(one, "message")->valuestring);
		if (rc == KT_OK && remedy[0] && !strstr(kt_buf_cstr(&remedies), remedy))
			rc = kt_buf_printf(&remedies, err, "%s%.200s", remedies.len ? "; " : "", remedy);
	}
	if (rc == KT_OK && p->n == 1)
		rc = kt_fail(err, KT_E_REFUSED, kt_buf_cstr(&remedies), "%s", kt_buf_cstr(&text));
	else if (rc == KT_OK)
		rc = kt_fail(err, KT_E_REFUSED, kt_buf_cstr(&remedies), "%zu findings: %s", p->n, kt_buf_cstr(&text));
	kt_buf_free(&text);
	kt_buf_free(&remedies);
	return rc;
}

kt_status kt_action_preflight(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	preflight p = {.ctx = ctx, .args = args, .result = result};
	p.findings = cJSON_AddArrayToObject(result, "findings");
	kt_code rc = p.findings ? check_all(&p, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK && p.n)
		rc = say_findings(&p, err);
	return kt_action_end(rc);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/snapshot.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "agent/lvm.h"
#include "agent/mounts.h"
#include "base/file.h"
#include "base/record.h"

enum { VOLUMES = 16, POINTS = 64, TAG = 512, REMOVALS = 10, PAUSE_MS = 300 };

/* Where the thread builds what it sees. Others see empty folders. */
#define VIEW "/run/keyturn-snapshot"

static const char named[] = "snapshot";
static const char as_it_is[] = "make the backup without a snapshot (backup_snapshot never)";

typedef enum mode { NEVER, AUTO, LVM } mode;

typedef struct wish {
	mode mode;
	const char *size;
} wish;

/* One file system, and the logical volume that it is on. */
typedef struct part {
	dev_t device;
	char fstype[16];
	kt_lvm_volume of;
	char name[KT_LVM_NAME]; /* of its snapshot */
} part;

/* Paths that a backup reads or writes: as they are named, and what they lead to. */
typedef struct points {
	char *list[POINTS];
	size_t n;
} points;

struct kt_snapshot {
	const char *state;
	char tag[TAG];
	char folder[PATH_MAX]; /* the archive's */
	part parts[VOLUMES];
	size_t n;
	points seen;
	kt_mounts mounts;
};

/* --- arguments ---------------------------------------------------------------------------------------------------- */

static kt_code read_wish(const cJSON *args, wish *out, kt_err *err)
{
	const char *text;
	kt_lvm_volume none = {.thin = false};
	uint64_t bytes;
	KT_TRY(kt_json_opt_str(args, "snapshot", "never", &text, err));
	KT_TRY(kt_json_opt_str(args, "snapshot_size", "10%ORIGIN", &out->size, err));
	KT_TRY(kt_lvm_size(out->size, &none, &bytes, err));
	out->mode = strcmp(text, "lvm") == 0 ? LVM : strcmp(text, "auto") == 0 ? AUTO : NEVER;
	if (out->mode == NEVER && strcmp(text, "never") != 0)
		return kt_fail(err, KT_E_INPUT, "say never, auto or lvm", "\"%.40s\" is no kind of snapshot", text);
	return KT_OK;
}

static void free_points(points *p)
{
	while (p->n)
		free(p->list[--p->n]);
}

static kt_code add_point(points *p, char *path, kt_err *err)
{
	if (path && p->n < POINTS) {
		p->list[p->n++] = path;
		return KT_OK;
	}
	free(path);
	return path ? kt_fail(err, KT_E_REFUSED, as_it_is, "there are too many paths for a backup out of snapshots")
		    : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static kt_code add_real(points *p, const char *path, kt_err *err)
{
	char *real = realpath(path, NULL);
	return add_point(p, real ? real : strdup(path), err); /* what is not there is said when it is read */
}

static kt_code add_both(points *p, const char *path, kt_err *err)
{
	KT_TRY(add_real(p, path, err));
	return add_point(p, strdup(path), err);
}

static kt_code add_read(points *p, const kt_archive_source *s, kt_code (*add)(points *, const char *, kt_err *),
			kt_err *err)
{
	if (s->top)
		KT_TRY(add(p, s->top, err));
	for (size_t i = 0; i < s->path_n; i++)
		KT_TRY(add(p, s->paths[i], err));
	return KT_OK;
}

/* --- which volumes ------------------------------------------------------------------------------------------------ */

static bool can_mount(const char *fstype)
{
	return strcmp(fstype, "ext4") == 0 || strcmp(fstype, "xfs") == 0 || strcmp(fstype, "ext3") == 0 ||
	       strcmp(fstype, "ext2") == 0;
}

static const kt_lvm_volume *find_volume(const kt_lvm_volume *list, size_t n, const char *uuid)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(list[i].uuid, uuid) == 0)
			return &list[i];
	return NULL;
}

static kt_code add_part(kt_snapshot *s, const kt_mount *m, const kt_lvm_volume *list, size_t n, bool *can, kt_err *err)
{
	char uuid[KT_LVM_UUID];
	bool is;
	for (size_t i = 0; i < s->n; i++)
		if (s->parts[i].device == m->device)
			return KT_OK;
	KT_TRY(kt_lvm_uuid_of(m->device, uuid, &is, err));
	const kt_lvm_volume *v = is ? find_volume(list, n, uuid) : NULL;
	*can = v && can_mount(m->fstype) && s->n < VOLUMES;
	if (!*can)
		return KT_OK;
	part *p = &s->parts[s->n++];
	*p = (part){.device = m->device, .of = *v};
	(void)snprintf(p->fstype, sizeof p->fstype, "%s", m->fstype);
	return KT_OK;
}

/* What is mounted where nothing is saved need not stand still. */
static bool is_excluded(const kt_archive_source *source, const char *at)
{
	char path[PATH_MAX];
	for (size_t i = 0; source->top && i < source->exclude_n; i++) {
		int len = snprintf(path, sizeof path, "%s/%s", source->top, source->exclude[i]);
		if (len > 0 && (size_t)len < sizeof path && kt_mount_is_below(at, path))
			return true;
	}
	return false;
}

static kt_code find_parts(kt_snapshot *s, const points *read, const wish *w, const kt_archive_source *source,
			  const kt_lvm_volume *list, size_t n, kt_err *err)
{
	for (size_t i = 0; i < read->n; i++) {
		const kt_mount *holds = kt_mount_of(&s->mounts, read->list[i]);
		for (size_t k = 0; k < s->mounts.n; k++) {
			const kt_mount *m = &s->mounts.list[k];
			bool can = true;
			if (m != holds && (!kt_mount_is_below(m->at, read->list[i]) || is_excluded(source, m->at)))
				continue;
			KT_TRY(add_part(s, m, list, n, &can, err));
			if (!can && w->mode == LVM)
				return kt_fail(
					err, KT_E_REFUSED, as_it_is,
					"%s (%s) is not ext4 or xfs on a logical volume: there is no snapshot of it",
					m->at, m->fstype);
		}
	}
	return KT_OK;
}

/* One snapshot after the other takes of what is free in its group. */
static kt_code check_room(const kt_snapshot *s, const wish *w, kt_err *err)
{
	for (size_t i = 0; i < s->n; i++) {
		const kt_lvm_volume *v = &s->parts[i].of;
		uint64_t all = 0, bytes;
		for (size_t k = 0; k <= i; k++) {
			if (strcmp(s->parts[k].of.vg, v->vg) != 0 || s->parts[k].of.thin)
				continue;
			KT_TRY(kt_lvm_size(w->size, &s->parts[k].of, &bytes, err));
			all += bytes;
		}
		if (!v->thin && (all > v->free || v->free == 0))
			return kt_fail(
				err, KT_E_REFUSED,
				"make room in the volume group, name a smaller backup_snapshot_size, or make the "
				"backup without a snapshot (backup_snapshot never)",
				"the volume group %s has %llu bytes free, a snapshot of %s of %s/%s needs more", v->vg,
				(unsigned long long)v->free, w->size, v->vg, v->lv);
	}
	return KT_OK;
}

static kt_code plan(kt_snapshot *s, const wish *w, const kt_archive_source *source, kt_err *err)
{
	points read = {.n = 0};
	kt_lvm_volume *list = NULL;
	size_t n = 0;
	kt_code rc = geteuid() == 0 ? kt_mounts_read(&s->mounts, err)
				    : kt_fail(err, KT_E_REFUSED, "let the agent run as root (agent.sudo)",
					      "LVM snapshots are made by root alone");
	if (rc == KT_OK)
		rc = kt_lvm_list(&list, &n, err);
	if (rc == KT_OK)
		rc = add_read(&read, source, add_real, err);
	if (rc == KT_OK)
		rc = find_parts(s, &read, w, source, list, n, err);
	if (rc == KT_OK)
		rc = check_room(s, w, err);
	free(list);
	free_points(&read);
	return rc;
}

static void release(kt_snapshot *s)
{
	kt_mounts_free(&s->mounts);
	free_points(&s->seen);
	free(s);
}

kt_code kt_snapshot_check(const cJSON *args, const kt_archive_source *source, kt_err *err)
{
	wish w;
	KT_TRY(read_wish(args, &w, err));
	if (w.mode != LVM)
		return KT_OK;
	kt_snapshot *s = calloc(1, sizeof *s);
	if (!s)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = plan(s, &w, source, err);
	release(s);
	return rc;
}

/* --- removing ----------------------------------------------------------------------------------------------------- */

static kt_code record_path(const char *state, char path[KT_RECORD_PATH], kt_err *err)
{
	int n = snprintf(path, KT_RECORD_PATH, "%s/%s", state, named);
	return n > 0 && n < KT_RECORD_PATH ? KT_OK
					   : kt_fail(err, KT_E_INPUT, NULL, "the state folder's path is too long");
}

/* The last user of a mount may be gone a moment later than its thread. */
static kt_code remove_one(const kt_lvm_volume *v, kt_err *err)
{
	kt_code rc = KT_OK;
	for (int i = 0; i < REMOVALS; i++) {
		rc = kt_lvm_remove(v, err);
		if (rc != KT_E_IO)
			break;
		(void)nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000L}, NULL);
	}
	return rc;
}

/* All with that tag; *invalid: one of them had no room. */
static kt_code remove_tagged(const char *tag, bool *invalid, kt_err *err)
{
	kt_lvm_volume *list;
	size_t n;
	KT_TRY(kt_lvm_list(&list, &n, err));
	kt_code rc = KT_OK;
	for (size_t i = 0; rc == KT_OK && i < n; i++) {
		if (!kt_lvm_has_tag(&list[i], tag))
			continue;
		*invalid = *invalid || list[i].invalid;
		rc = remove_one(&list[i], err);
	}
	free(list);
	return rc;
}

static kt_code forget(const char *state, const char *tag, bool *invalid, kt_err *err)
{
	char path[KT_RECORD_PATH];
	KT_TRY(record_path(state, path, err));
	kt_code rc = remove_tagged(tag, invalid, err);
	if (rc != KT_OK)
		return kt_err_prefix(err, rc, "a snapshot with the tag %s may be left (lvs @%s, lvremove)", tag, tag);
	return kt_file_remove(path, NULL, err);
}

/* Whose it is. */
static kt_code make_tag(const kt_agent_ctx *ctx, char tag[TAG], kt_err *err)
{
	int n = snprintf(tag, TAG, "keyturn/%s/%s/%s", ctx->cluster, ctx->run, ctx->node);
	return n > 0 && n < TAG
		       ? KT_OK
		       : kt_fail(err, KT_E_INPUT, NULL, "the names of cluster, run and node are too long together");
}

kt_code kt_snapshot_clear(const kt_agent_ctx *ctx, bool others, kt_err *err)
{
	char path[KT_RECORD_PATH], left[TAG], ours[TAG];
	kt_buf text = {.max = TAG};
	bool found, invalid = false;
	KT_TRY(make_tag(ctx, ours, err));
	KT_TRY(record_path(ctx->state, path, err));
	kt_code rc =
		kt_record_read(path, "look with `lvs -o +lv_tags` for a snapshot of keyturn's, then remove the file",
			       &found, &text, err);
	(void)snprintf(left, sizeof left, "%.*s", (int)strcspn(kt_buf_cstr(&text), "\n"), kt_buf_cstr(&text));
	kt_buf_free(&text);
	KT_TRY(rc);
	return found && (others || strcmp(left, ours) == 0) ? forget(ctx->state, left, &invalid, err) : KT_OK;
}

/* --- making ------------------------------------------------------------------------------------------------------- */

static kt_code record(const kt_snapshot *s, kt_err *err)
{
	char path[KT_RECORD_PATH];
	kt_buf text = KT_BUF_INIT;
	KT_TRY(record_path(s->state, path, err));
	kt_code rc = kt_buf_printf(&text, err, "%s\n", s->tag);
	if (rc == KT_OK)
		rc = kt_record_replace(path, &text, &kt_record_private, err);
	kt_buf_free(&text);
	return rc == KT_OK ? KT_OK : kt_record_failed(err, "the snapshot");
}

static kt_code make_all(kt_snapshot *s, const wish *w, kt_err *err)
{
	for (size_t i = 0; i < s->n; i++)
		KT_TRY(kt_lvm_snapshot(&s->parts[i].of, s->parts[i].name, s->tag, w->size, err));
	return KT_OK;
}

/* Its name says whose it is; the run is in the tag, too. */
static kt_code name_all(kt_snapshot *s, const kt_agent_ctx *ctx, kt_err *err)
{
	KT_TRY(make_tag(ctx, s->tag, err));
	for (size_t i = 0; i < s->n; i++)
		(void)snprintf(s->parts[i].name, sizeof s->parts[i].name, "keyturn-%.80s-%zu", ctx->run, i);
	return KT_OK;
}

/* Everything that has to be there in the thread's view. */
static kt_code find_seen(kt_snapshot *s, const kt_archive_source *source, const char *archive, kt_err *err)
{
	const char *slash = strrchr(archive, '/');
	int n = snprintf(s->folder, sizeof s->folder, "%.*s", (int)(slash - archive + 1), archive);
	if (n < 0 || (size_t)n >= sizeof s->folder)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", archive);
	KT_TRY(kt_file_mkdirs(s->folder, 0711, err)); /* as the archive's own */
	KT_TRY(add_both(&s->seen, s->folder, err));
	(void)snprintf(s->folder, sizeof s->folder, "%s", s->seen.list[0]);
	KT_TRY(add_read(&s->seen, source, add_both, err));
	for (size_t i = 0; i < source->key_file_n; i++)
		KT_TRY(add_both(&s->seen, source->key_files[i], err));
	return add_real(&s->seen, "/proc", err);
}

static kt_code take_parts(kt_snapshot *s, const wish *w, kt_err *err)
{
	kt_err why = KT_ERR_INIT;
	bool invalid;
	KT_TRY(record(s, err));
	kt_code rc = make_all(s, w, err);
	if (rc != KT_OK)
		KT_IGNORE(forget(s->state, s->tag, &invalid, &why));
	return rc;
}

static kt_code take(kt_snapshot *s, const kt_agent_ctx *ctx, const wish *w, const kt_archive_source *source,
		    const char *archive, kt_err *err)
{
	KT_TRY(find_seen(s, source, archive, err));
	KT_TRY(plan(s, w, source, err));
	KT_TRY(name_all(s, ctx, err));
	return s->n ? take_parts(s, w, err) : KT_OK;
}

kt_code kt_snapshot_take(const kt_agent_ctx *ctx, const cJSON *args, const kt_archive_source *source,
			 const char *archive, kt_snapshot **out, kt_err *err)
{
	wish w;
	*out = NULL;
	KT_TRY(read_wish(args, &w, err));
	KT_TRY(kt_snapshot_clear(ctx, true, err));
	if (w.mode == NEVER)
		return KT_OK;
	kt_snapshot *s = calloc(1, sizeof *s);
	if (!s)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	s->state = ctx->state;
	kt_err own = KT_ERR_INIT;
	kt_code rc = take(s, ctx, &w, source, archive, &own);
	if (rc == KT_OK && s->n) {
		*out = s;
		return KT_OK;
	}
	release(s);
	if (rc != KT_OK && w.mode == AUTO && rc != KT_E_INTERNAL && rc != KT_E_AUDIT) {
		kt_agent_progress((kt_agent_ctx *)(uintptr_t)ctx, -1, -1, "no LVM snapshot: %s", own.msg);
		return KT_OK;
	}
	if (rc != KT_OK && err)
		*err = own;
	return rc;
}

/* --- within ------------------------------------------------------------------------------------------------------- */

typedef struct job {
	const kt_snapshot *s;
	kt_code (*fn)(void *arg, kt_err *err);
	void *arg;
	kt_code rc;
	kt_err err;
} job;

static kt_code mount_part(const part *p, size_t i, kt_err *err)
{
	char device[2 * KT_LVM_NAME + 8], at[64];
	(void)snprintf(device, sizeof device, "/dev/%s/%s", p->of.vg, p->name);
	(void)snprintf(at, sizeof at, VIEW "/%zu", i);
	KT_TRY(kt_file_mkdirs(at, 0700, err));
	/* A journal is replayed, into the snapshot. Two of one uuid are not mounted by xfs unless it is told. */
	if (mount(device, at, p->fstype, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
		  strcmp(p->fstype, "xfs") == 0 ? "nouuid" : NULL) != 0)
		return kt_fail_errno(err, errno, NULL, "the snapshot %s cannot be mounted", device);
	return KT_OK;
}

static bool is_needed(const kt_snapshot *s, const kt_mount *m)
{
	for (size_t i = 0; i < s->seen.n; i++)
		if (kt_mount_is_below(s->seen.list[i], m->at) || kt_mount_is_below(m->at, s->seen.list[i]))
			return true;
	return false;
}

static kt_code bind_at(const char *from, const char *at, kt_err *err)
{
	char to[PATH_MAX];
	int n = snprintf(to, sizeof to, VIEW "/root%s", strcmp(at, "/") == 0 ? "" : at);
	if (n < 0 || (size_t)n >= sizeof to)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", at);
	if (mount(from, to, NULL, MS_BIND, NULL) != 0)
		return kt_fail_errno(err, errno, as_it_is, "%s cannot be shown to the backup", at);
	return KT_OK;
}

/* What is mounted on a volume that has a snapshot is shown out of that. */
static kt_code bind_mount(const kt_snapshot *s, const kt_mount *m, kt_err *err)
{
	char from[PATH_MAX];
	for (size_t i = 0; i < s->n; i++) {
		if (s->parts[i].device != m->device)
			continue;
		int n = snprintf(from, sizeof from, VIEW "/%zu%s", i, m->root);
		return n > 0 && (size_t)n < sizeof from
			       ? bind_at(from, m->at, err)
			       : kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", m->at);
	}
	return bind_at(m->at, m->at, err);
}

/* This thread alone gets folders of its own: its mounts end with it, and nobody else sees them. */
static kt_code enter(const kt_snapshot *s, kt_err *err)
{
	KT_TRY(kt_file_mkdirs(VIEW "/root", 0700, err));
	if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
		return kt_fail_errno(err, errno, as_it_is, "no mount namespace of its own for the backup");
	for (size_t i = 0; i < s->n; i++)
		KT_TRY(mount_part(&s->parts[i], i, err));
	for (size_t i = 0; i < s->mounts.n; i++)
		if (is_needed(s, &s->mounts.list[i]))
			KT_TRY(bind_mount(s, &s->mounts.list[i], err));
	KT_TRY(bind_at(s->folder, s->folder, err));
	if (chroot(VIEW "/root") != 0 || chdir("/") != 0)
		return kt_fail_errno(err, errno, NULL, "the backup's view of the snapshots");
	return KT_OK;
}

static void *run(void *arg)
{
	job *j = arg;
	j->rc = enter(j->s, &j->err);
	if (j->rc == KT_OK)
		j->rc = j->fn(j->arg, &j->err);
	return NULL;
}

kt_code kt_snapshot_within(const kt_snapshot *s, kt_code (*fn)(void *arg, kt_err *err), void *arg, kt_err *err)
{
	job j = {.s = s, .fn = fn, .arg = arg, .err = KT_ERR_INIT};
	pthread_t thread;
	if (!s)
		return fn(arg, err);
	int bad = pthread_create(&thread, NULL, run, &j);
	if (bad)
		return kt_fail_errno(err, bad, NULL, "a thread for the backup");
	(void)pthread_join(thread, NULL);
	if (j.rc != KT_OK && err)
		*err = j.err;
	return j.rc;
}

/* --- the end ------------------------------------------------------------------------------------------------------ */

kt_code kt_snapshot_end(kt_snapshot *s, kt_code rc, kt_err *err)
{
	bool invalid = false;
	kt_err late = KT_ERR_INIT;
	if (!s)
		return rc;
	kt_code removed = forget(s->state, s->tag, &invalid, &late);
	release(s);
	if (invalid)
		return kt_fail(err, KT_E_IO, "give it more room (backup_snapshot_size), or stop what writes there",
			       "an LVM snapshot had no room for what was written to its volume during the backup");
	if (rc == KT_OK && removed != KT_OK && err)
		*err = late;
	return rc == KT_OK ? removed : rc;
}

kt_code kt_snapshot_name(const kt_snapshot *s, cJSON *array, kt_err *err)
{
	char name[2 * KT_LVM_NAME];
	for (size_t i = 0; s && i < s->n; i++) {
		(void)snprintf(name, sizeof name, "%s/%s", s->parts[i].of.vg, s->parts[i].of.lv);
		cJSON *text = cJSON_CreateString(name);
		if (!text || !cJSON_AddItemToArray(array, text)) {
			cJSON_Delete(text);
			return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
		}
	}
	return KT_OK;
}

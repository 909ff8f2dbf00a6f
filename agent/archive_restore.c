/* SPDX-License-Identifier: Apache-2.0 */
/* Putting a backup back in place, file by file. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "agent/archive_reader.h"
#include "agent/archive_unpack.h"
#include "agent/keep.h"
#include "agent/tree.h"
#include "base/file.h"

static const char *const sibling_endings[] = {"-wal", "-journal", "-shm"};
enum { SIBLINGS = sizeof sibling_endings / sizeof *sibling_endings };

/* A file that lies beside its place, written and not synced yet. */
typedef struct waiting {
	char *temp, *place;
} waiting;

/* How many of them one sync of the file system serves: tens of thousands of small files would each wait for the disk.
 */
enum { BATCH_FILES = 1024, BATCH_BYTES = 256 * 1024 * 1024 };

/* One restore. `dirty` is the folder whose entries changed and which is not synced yet. */
typedef struct restore {
	const kt_manifest *manifest;
	const char *keep; /* the run for which old versions are kept; NULL: none are */
	int dump_fd;      /* where a dump goes; 0: nowhere */
	struct archive *disk;
	char *top_real; /* real path of the installation's folder */
	int fs_fd; /* it, opened before anything is written, so that syncfs(2) tells of every error since; -1: none */
	dev_t fs_dev;
	waiting batch[BATCH_FILES];
	size_t batch_n;
	uint64_t batch_bytes;
	char dirty[PATH_MAX];
	uint64_t written;
} restore;

static kt_code too_long(const char *path, kt_err *err)
{
	return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", path);
}

/* Real path of a root: links above it are followed as the application follows them; none below it are. A root that is
 * gone is made again, so its parents must be there. */
static kt_code real_root(const char *root, bool folder, char **out, kt_err *err)
{
	char path[PATH_MAX];
	if ((size_t)snprintf(path, sizeof path, "/%s", root) >= sizeof path)
		return too_long(root, err);
	*out = folder ? realpath(path, NULL) : NULL;
	if (*out)
		return KT_OK;
	char *slash = strrchr(path, '/');
	*slash = '\0';
	if (path[0])
		KT_TRY(kt_file_mkdirs(path, 0755, err));
	char *parent = realpath(path[0] ? path : "/", NULL);
	if (!parent)
		return kt_fail_errno(err, errno, NULL, "%s", path);
	int n = asprintf(out, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, slash + 1);
	free(parent);
	if (n < 0) {
		*out = NULL;
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	return KT_OK;
}

static bool below(const char *name, const char *root)
{
	size_t n = strlen(root);
	return strncmp(name, root, n) == 0 && (name[n] == '\0' || name[n] == '/');
}

/* The root of `paths` that a member belongs to: the path itself, what is below it, or a database's sibling. */
static const char *path_root(const kt_manifest *m, const char *name, char sibling[PATH_MAX])
{
	for (size_t i = 0; i < m->path_n; i++) {
		if (below(name, m->paths[i]))
			return m->paths[i];
		for (size_t k = 0; k < SIBLINGS; k++) {
			int n = snprintf(sibling, PATH_MAX, "%s%s", m->paths[i], sibling_endings[k]);
			if (n > 0 && n < PATH_MAX && strcmp(name, sibling) == 0)
				return sibling;
		}
	}
	return NULL;
}

/* Where a member goes. */
static kt_code place_of(const restore *r, const char *name, char out[PATH_MAX], kt_err *err)
{
	char sibling[PATH_MAX];
	if (r->manifest->top && below(name, r->manifest->top)) {
		const char *rest = name + strlen(r->manifest->top);
		return (size_t)snprintf(out, PATH_MAX, "%s%s", r->top_real, rest) >= PATH_MAX ? too_long(name, err)
											      : KT_OK;
	}
	const char *root = path_root(r->manifest, name, sibling);
	if (!root)
		return kt_fail(err, KT_E_INPUT, "do not use this backup", "%s does not belong to what was saved", name);
	char *real;
	char path[PATH_MAX];
	struct stat st;
	if ((size_t)snprintf(path, sizeof path, "/%s", root) >= sizeof path)
		return too_long(root, err);
	bool folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
	KT_TRY(real_root(root, folder, &real, err));
	int n = snprintf(out, PATH_MAX, "%s%s", real, name + strlen(root));
	free(real);
	return n < 0 || n >= PATH_MAX ? too_long(name, err) : KT_OK;
}

/* --- durability ------------------------------------------------------------------------------------------------ */

static kt_code sync_dirty(restore *r, kt_err *err)
{
	if (!r->dirty[0])
		return KT_OK;
	KT_TRY(kt_file_sync_folder(r->dirty, err));
	r->dirty[0] = '\0';
	return KT_OK;
}

/* The folder that holds `path` has changed. kt_file_sync_folder takes a path in it. */
static kt_code mark_dirty(restore *r, const char *path, kt_err *err)
{
	size_t folder = (size_t)(strrchr(path, '/') - path) + 1;
	if (r->dirty[0] && (strncmp(r->dirty, path, folder) != 0 || strchr(r->dirty + folder, '/')))
		KT_TRY(sync_dirty(r, err));
	memcpy(r->dirty, path, strlen(path) + 1);
	return KT_OK;
}

static kt_code sync_file(const char *path, kt_err *err)
{
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	kt_code rc = KT_OK;
	if (fd < 0 || fsync(fd) != 0)
		rc = kt_fail_errno(err, errno, NULL, "%s cannot be synced", path);
	if (fd >= 0)
		(void)close(fd);
	return rc;
}

/* --- one member ------------------------------------------------------------------------------------------------ */

/* The same name for the same file every time, so that what a killed restore left is found and replaced. */
static kt_code temp_beside(const char *path, char out[PATH_MAX], kt_err *err)
{
	char sum[KT_SHA256_HEX];
	const char *slash = strrchr(path, '/');
	KT_TRY(kt_sha256_hex(slash + 1, strlen(slash + 1), sum, err));
	int n = snprintf(out, PATH_MAX, "%.*s/.keyturn-restore-%.16s", (int)(slash - path), path, sum);
	if (n < 0 || n >= PATH_MAX)
		return too_long(path, err);
	if (unlink(out) != 0 && errno != ENOENT && errno != ENOTDIR)
		return kt_fail_errno(err, errno, NULL, "%s cannot be removed", out);
	return KT_OK;
}

static kt_code remove_one(restore *r, const char *path, kt_err *err)
{
	if (unlink(path) != 0 && errno != ENOENT)
		return kt_fail_errno(err, errno, NULL, "%s cannot be removed", path);
	return mark_dirty(r, path, err); /* a restore that was killed may have removed it */
}

/* Before it is replaced or removed: the version that is there, also of a database with what belongs to it. */
static kt_code keep_old(const restore *r, const char *place, bool database, kt_err *err)
{
	if (!r->keep)
		return KT_OK;
	KT_TRY(kt_keep_link(place, r->keep, "", err));
	for (size_t k = 0; database && k < SIBLINGS; k++)
		if (strcmp(sibling_endings[k], "-shm") != 0)
			KT_TRY(kt_keep_link(place, r->keep, sibling_endings[k], err));
	return KT_OK;
}

/* Is a journal there that a restore of this database removes? */
static bool has_siblings(const char *place)
{
	for (size_t k = 0; k < SIBLINGS; k++) {
		char path[PATH_MAX];
		struct stat st;
		if ((size_t)snprintf(path, sizeof path, "%s%s", place, sibling_endings[k]) < sizeof path &&
		    lstat(path, &st) == 0)
			return true;
	}
	return false;
}

/*
 * A journal of another time would be played into the restored database and destroy it. So, before the database is
 * replaced, all of them go (those in the archive come back after it); one that is not in the archive goes in any case.
 */
static kt_code remove_siblings(restore *r, const kt_member *m, const char *place, bool replaced, kt_err *err)
{
	for (size_t k = 0; k < SIBLINGS; k++) {
		char name[PATH_MAX];
		char path[PATH_MAX];
		if ((size_t)snprintf(name, sizeof name, "%s%s", m->name, sibling_endings[k]) >= sizeof name ||
		    (size_t)snprintf(path, sizeof path, "%s%s", place, sibling_endings[k]) >= sizeof path)
			return too_long(place, err);
		if (replaced || !kt_manifest_find(r->manifest, name))
			KT_TRY(remove_one(r, path, err));
	}
	return sync_dirty(r, err);
}

static bool has_attributes(struct archive_entry *e, const char *place)
{
	return archive_entry_xattr_count(e) > 0 || archive_entry_acl_types(e) != 0 || llistxattr(place, NULL, 0) > 0;
}

/* Whether the file on the disk is the saved one, to the last byte and with the same owner, mode and time. */
static bool is_same(const kt_member *m, struct archive_entry *e, const char *place)
{
	struct stat st;
	char sum[KT_SHA256_HEX];
	int fd = open(place, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return false;
	bool same = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 07777) == m->mode &&
		    st.st_uid == m->uid && st.st_gid == m->gid && (uint64_t)st.st_size == m->size && st.st_nlink == 1 &&
		    st.st_mtim.tv_sec == archive_entry_mtime(e) && st.st_mtim.tv_nsec == archive_entry_mtime_nsec(e) &&
		    !has_attributes(e, place) &&
		    kt_content_hash_fd(fd, place, m->kind == KT_MEMBER_SPARSE, m->size, sum, NULL) == KT_OK &&
		    strcmp(sum, m->sha256) == 0;
	(void)close(fd);
	return same;
}

/* An owner that is not ours can only be given back by root. */
static kt_code check_owner(const kt_member *m, const char *path, kt_err *err)
{
	struct stat st;
	if (lstat(path, &st) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", path);
	if (st.st_uid != m->uid || st.st_gid != m->gid)
		return kt_fail(err, KT_E_IO, "let the agent run as root (agent.sudo)",
			       "%s cannot be given back to user %u and group %u", path, (unsigned)m->uid,
			       (unsigned)m->gid);
	return KT_OK;
}

static kt_code move_in_place(restore *r, const char *temp, const char *place, kt_err *err)
{
	if (rename(temp, place) != 0)
		return kt_fail_errno(err, errno, "move away what is in its place", "%s cannot be replaced", place);
	r->written++;
	return mark_dirty(r, place, err);
}

static kt_code write_beside(restore *r, struct archive *a, struct archive_entry *e, const kt_member *m,
			    const char *temp, kt_err *err)
{
	archive_entry_copy_pathname(e, temp);
	KT_TRY(kt_archive_unpack_entry(r->disk, a, e, true, NULL, err));
	return check_owner(m, temp, err);
}

/* Forget those that wait; with `remove` what lies there goes, too. */
static void drop_batch(restore *r, bool remove)
{
	for (; r->batch_n; r->batch_n--) {
		waiting *w = &r->batch[r->batch_n - 1];
		if (remove)
			(void)unlink(w->temp);
		free(w->temp);
		free(w->place);
	}
	r->batch_bytes = 0;
}

/* All that wait are durable; then, in their order, they take their places. */
static kt_code place_batch(restore *r, kt_err *err)
{
	if (r->batch_n && syncfs(r->fs_fd) != 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be synced", r->top_real);
	for (size_t i = 0; i < r->batch_n; i++)
		KT_TRY(move_in_place(r, r->batch[i].temp, r->batch[i].place, err));
	drop_batch(r, false);
	return KT_OK;
}

static kt_code wait_in_batch(restore *r, const kt_member *m, const char *temp, const char *place, kt_err *err)
{
	waiting w = {.temp = strdup(temp), .place = strdup(place)};
	if (!w.temp || !w.place) {
		free(w.temp);
		free(w.place);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	r->batch[r->batch_n++] = w;
	r->batch_bytes += m->size;
	return r->batch_n == BATCH_FILES || r->batch_bytes >= BATCH_BYTES ? place_batch(r, err) : KT_OK;
}

/* A database comes by itself, for its journals are removed just before; so does what is on another file system. */
static kt_code put_in_place(restore *r, const kt_member *m, const char *temp, const char *place, kt_err *err)
{
	struct stat st;
	if (m->kind != KT_MEMBER_LINK && !m->database && r->fs_fd >= 0 && lstat(temp, &st) == 0 &&
	    st.st_dev == r->fs_dev)
		return wait_in_batch(r, m, temp, place, err);
	KT_TRY(place_batch(r, err));
	if (m->kind != KT_MEMBER_LINK)
		KT_TRY(sync_file(temp, err));
	return move_in_place(r, temp, place, err);
}

static kt_code restore_file(restore *r, struct archive *a, struct archive_entry *e, const kt_member *m,
			    const char *place, kt_err *err)
{
	bool same = m->kind != KT_MEMBER_LINK && is_same(m, e, place);
	if (!same || (m->database && has_siblings(place)))
		KT_TRY(keep_old(r, place, m->database, err));
	if (m->database)
		KT_TRY(remove_siblings(r, m, place, !same, err));
	if (same)
		return KT_OK;
	char temp[PATH_MAX];
	KT_TRY(temp_beside(place, temp, err));
	kt_code rc = write_beside(r, a, e, m, temp, err);
	if (rc == KT_OK)
		rc = put_in_place(r, m, temp, place, err);
	if (rc != KT_OK)
		(void)unlink(temp);
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "%s", place);
}

static kt_code restore_hard_link(restore *r, const char *target, const char *place, kt_err *err)
{
	char first[PATH_MAX];
	char temp[PATH_MAX];
	struct stat is;
	struct stat want;
	KT_TRY(place_batch(r, err)); /* its first name may wait there */
	KT_TRY(place_of(r, target, first, err));
	if (lstat(first, &want) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", first);
	if (lstat(place, &is) == 0 && is.st_dev == want.st_dev && is.st_ino == want.st_ino)
		return KT_OK;
	KT_TRY(keep_old(r, place, false, err));
	KT_TRY(temp_beside(place, temp, err));
	if (link(first, temp) != 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be linked to %s", place, first);
	return move_in_place(r, temp, place, err);
}

static kt_code copy_dump(const restore *r, struct archive *a, kt_err *err)
{
	if (!r->dump_fd)
		return kt_fail(err, KT_E_INTERNAL, NULL, "nothing takes the database's dump");
	if (archive_read_data_into_fd(a, r->dump_fd) != ARCHIVE_OK)
		return kt_archive_read_failed(a, KT_DUMP_MEMBER, err);
	return KT_OK;
}

static kt_code restore_member(void *arg, struct archive *a, struct archive_entry *e, kt_member *m, const char *target,
			      kt_err *err)
{
	restore *r = arg;
	char place[PATH_MAX];
	const kt_member *known = kt_manifest_find(r->manifest, m->name);
	if (!known || known->kind != m->kind)
		return kt_fail(err, KT_E_INPUT, "do not use this backup", "%s is not what the manifest says", m->name);
	if (strcmp(m->name, KT_DUMP_MEMBER) == 0)
		return copy_dump(r, a, err);
	KT_TRY(place_of(r, m->name, place, err));
	if (m->kind == KT_MEMBER_HARD)
		return restore_hard_link(r, target, place, err);
	if (m->kind != KT_MEMBER_FOLDER)
		return restore_file(r, a, e, known, place, err);
	archive_entry_copy_pathname(e, place);
	return kt_archive_unpack_entry(r->disk, a, e, true, NULL, err);
}

/* By the installation's folder, or, where that is gone, the one that it was in. What cannot be opened is synced file by
 * file. */
static void open_file_system(restore *r)
{
	char path[PATH_MAX];
	struct stat st;
	if (!r->top_real || strlen(r->top_real) >= sizeof path)
		return;
	memcpy(path, r->top_real, strlen(r->top_real) + 1);
	if (lstat(path, &st) != 0)
		*(strrchr(path, '/') + 1) = '\0';
	r->fs_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (r->fs_fd >= 0 && fstat(r->fs_fd, &st) == 0)
		r->fs_dev = st.st_dev;
}

static kt_code restore_all(kt_archive_reader *reader, restore *r, const kt_archive_hooks *hooks, kt_err *err)
{
	kt_manifest again;
	if (r->manifest->top)
		KT_TRY(real_root(r->manifest->top, true, &r->top_real, err));
	open_file_system(r);
	KT_TRY(kt_archive_unpack_open(&r->disk, err));
	kt_code rc = kt_archive_each(reader, hooks, restore_member, r, &again, err);
	if (rc == KT_OK)
		rc = place_batch(r, err);
	if (rc == KT_OK)
		rc = sync_dirty(r, err);
	drop_batch(r, true);
	kt_manifest_free(&again);
	kt_code closed = kt_archive_unpack_close(r->disk, rc == KT_OK ? err : NULL);
	return rc == KT_OK ? closed : rc;
}

kt_code kt_archive_restore(kt_archive_reader *r, const kt_manifest *manifest, const char *keep, int dump_fd,
			   const kt_archive_hooks *hooks, uint64_t *written, kt_err *err)
{
	restore *w = calloc(1, sizeof *w);
	if (!w)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	w->manifest = manifest;
	w->keep = keep;
	w->dump_fd = dump_fd;
	w->fs_fd = -1;
	kt_code rc = restore_all(r, w, hooks, err);
	*written = w->written;
	if (w->fs_fd >= 0)
		(void)close(w->fs_fd);
	free(w->top_real);
	free(w);
	return rc;
}

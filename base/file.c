/* SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/planted.h"

#define TEMP_TAIL                                                                                                      \
	".ktXX"                                                                                                        \
	"XXXX" /* mkostemp replaces the six letters */
enum { READ_CHUNK = 64 * 1024, TEMP_NAME = 4096 };

static kt_code read_fd(int fd, const char *path, kt_buf *out, kt_err *err)
{
	struct stat st;
	if (fstat(fd, &st) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", path);
	if (!S_ISREG(st.st_mode))
		return kt_fail(err, KT_E_IO, "give the path of a regular file", "%s: not a regular file", path);
	size_t max = out->max ? out->max : KT_BUF_MAX;
	/* As much as it should hold, and one byte to see its end; it may have grown since. */
	size_t chunk = st.st_size < READ_CHUNK ? (size_t)st.st_size + 1 : READ_CHUNK;
	for (;;) {
		/* Beside the room that is left, one byte more is asked for, to tell "full" from "too large". */
		uint8_t beyond;
		size_t had = out->cap > out->len ? out->cap - out->len : chunk;
		size_t room = max - out->len < had ? max - out->len : had;
		KT_TRY(kt_buf_reserve(out, room, err));
		ssize_t n = room ? read(fd, out->data + out->len, room) : read(fd, &beyond, 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return kt_fail_errno(err, errno, NULL, "%s", path);
		if (n == 0)
			return KT_OK;
		if (!room)
			return kt_fail(err, KT_E_INPUT, NULL, "%s: larger than %zu bytes", path, max);
		out->len += (size_t)n;
		out->data[out->len] = '\0';
	}
}

kt_code kt_file_find(const char *path, bool *found, kt_buf *out, kt_err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	*found = fd >= 0;
	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR ? KT_OK : kt_fail_errno(err, errno, NULL, "%s", path);
	kt_code rc = read_fd(fd, path, out, err);
	(void)close(fd);
	return rc;
}

kt_code kt_file_read(const char *path, kt_buf *out, kt_err *err)
{
	bool found;
	KT_TRY(kt_file_find(path, &found, out, err));
	return found ? KT_OK : kt_fail_errno(err, ENOENT, NULL, "%s", path);
}

kt_code kt_file_write_all(int fd, const void *bytes, size_t n, const char *name, kt_err *err)
{
	const uint8_t *p = bytes;
	while (n) {
		ssize_t w = write(fd, p, n);
		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0)
			return kt_fail_errno(err, errno, NULL, "%s cannot be written", name);
		p += w;
		n -= (size_t)w;
	}
	return KT_OK;
}

static kt_code folder_of(const char *path, char **out, kt_err *err)
{
	const char *slash = strrchr(path, '/');
	*out = slash == path ? strdup("/") : slash ? strndup(path, (size_t)(slash - path)) : strdup(".");
	return *out ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static kt_code sync_folder(const char *path, bool may_be_missing, kt_err *err)
{
	char *folder;
	KT_TRY(folder_of(path, &folder, err));
	kt_code rc = KT_OK;
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool missing = fd < 0 && may_be_missing && (errno == ENOENT || errno == ENOTDIR);
	if (!missing && (fd < 0 || fsync(fd) != 0))
		rc = kt_fail_errno(err, errno, NULL, "the folder %s cannot be synced", folder);
	if (fd >= 0)
		(void)close(fd);
	free(folder);
	return rc;
}

kt_code kt_file_sync_folder(const char *path, kt_err *err)
{
	return sync_folder(path, false, err);
}

kt_code kt_file_remove(const char *path, bool *was_there, kt_err *err)
{
	bool there = unlink(path) == 0;
	if (was_there)
		*was_there = there;
	if (!there && errno != ENOENT && errno != ENOTDIR)
		return kt_fail_errno(err, errno, NULL, "%s cannot be removed", path);
	return sync_folder(path, !there, err);
}

/* The attributes that the new file is to have: those asked for, else those of the old file, else ours. */
static kt_code effective_attr(const char *path, const kt_file_attr *want, kt_file_attr *out, kt_err *err)
{
	struct stat st;
	*out = (kt_file_attr){.mode = 0600, .uid = geteuid(), .gid = getegid()};
	if (lstat(path, &st) == 0) {
		if (!S_ISREG(st.st_mode))
			return kt_fail(err, KT_E_IO, "replace it by a regular file", "%s: not a regular file", path);
		*out = (kt_file_attr){.mode = st.st_mode & 07777, .uid = st.st_uid, .gid = st.st_gid};
	} else if (errno != ENOENT) {
		return kt_fail_errno(err, errno, NULL, "%s", path);
	}
	if (want && want->mode != (mode_t)KT_KEEP)
		out->mode = want->mode;
	if (want && want->uid != (uid_t)KT_KEEP)
		out->uid = want->uid;
	if (want && want->gid != (gid_t)KT_KEEP)
		out->gid = want->gid;
	return KT_OK;
}

static kt_code fill_temp(int fd, const char *path, const void *bytes, size_t n, const kt_file_attr *attr, kt_err *err)
{
	KT_TRY(kt_file_write_all(fd, bytes, n, path, err));
	if ((attr->uid != geteuid() || attr->gid != getegid()) && fchown(fd, attr->uid, attr->gid) != 0)
		return kt_fail_errno(err, errno, NULL, "the owner of %s cannot be set", path);
	if (fchmod(fd, attr->mode) != 0)
		return kt_fail_errno(err, errno, NULL, "the mode of %s cannot be set", path);
	if (!PLANTED(FILE_NOT_SYNCED) && fsync(fd) != 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be synced", path);
	return KT_OK;
}

/* A complete temporary file beside `path`, synced; its name is left in `temp`. On failure it is gone. */
static kt_code make_temp(const char *path, const void *bytes, size_t n, const kt_file_attr *attr, char temp[TEMP_NAME],
			 kt_err *err)
{
	if ((size_t)snprintf(temp, TEMP_NAME, "%s" TEMP_TAIL, path) >= TEMP_NAME)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", path);
	int fd = mkostemp(temp, O_CLOEXEC);
	if (fd < 0)
		return kt_fail_errno(err, errno, NULL, "a file cannot be made beside %s", path);
	kt_code rc = fill_temp(fd, path, bytes, n, attr, err);
	if (close(fd) != 0 && rc == KT_OK)
		rc = kt_fail_errno(err, errno, NULL, "%s cannot be written", path);
	if (rc != KT_OK)
		(void)unlink(temp);
	return rc;
}

kt_code kt_file_replace(const char *path, const void *bytes, size_t n, const kt_file_attr *attr, kt_err *err)
{
	kt_file_attr eff;
	char temp[TEMP_NAME];
	KT_TRY(effective_attr(path, attr, &eff, err));
	KT_TRY(make_temp(path, bytes, n, &eff, temp, err));
	if (rename(temp, path) != 0) {
		kt_code rc = kt_fail_errno(err, errno, NULL, "%s cannot be replaced", path);
		(void)unlink(temp);
		return rc;
	}
	return PLANTED(NAME_NOT_SYNCED) ? KT_OK : kt_file_sync_folder(path, err);
}

/* Is `name` what make_temp names a temporary file of `of`? */
static bool is_temp_of(const char *name, const char *of)
{
	size_t n = strlen(of);
	size_t fixed = strcspn(TEMP_TAIL, "X");
	return strlen(name) == n + sizeof TEMP_TAIL - 1 && strncmp(name, of, n) == 0 &&
	       strncmp(name + n, TEMP_TAIL, fixed) == 0;
}

static kt_code sweep_folder(DIR *dir, const char *folder, const char *of, kt_err *err)
{
	for (const struct dirent *d = readdir(dir); d; d = readdir(dir))
		if (is_temp_of(d->d_name, of) && unlinkat(dirfd(dir), d->d_name, 0) != 0 && errno != ENOENT)
			return kt_fail_errno(err, errno, NULL, "%s/%s cannot be removed", folder, d->d_name);
	return KT_OK;
}

kt_code kt_file_sweep(const char *path, kt_err *err)
{
	char *folder;
	const char *slash = strrchr(path, '/');
	KT_TRY(folder_of(path, &folder, err));
	DIR *dir = opendir(folder);
	kt_code rc = KT_OK;
	if (dir)
		rc = sweep_folder(dir, folder, slash ? slash + 1 : path, err);
	else if (errno != ENOENT)
		rc = kt_fail_errno(err, errno, NULL, "%s", folder);
	if (dir)
		(void)closedir(dir);
	free(folder);
	return rc;
}

/* rename() that never replaces; by a hard link where the file system has no such rename. */
static int rename_new(const char *from, const char *to)
{
	if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -1;
	if (link(from, to) != 0)
		return -1;
	(void)unlink(from);
	return 0;
}

kt_code kt_file_create(const char *path, const void *bytes, size_t n, const kt_file_attr *attr, bool *made, kt_err *err)
{
	struct stat st;
	kt_file_attr eff;
	char temp[TEMP_NAME];
	*made = false;
	/* Whoever made it may have been killed before it was durable: also then the folder is synced. */
	if (lstat(path, &st) == 0)
		return kt_file_sync_folder(path, err);
	KT_TRY(effective_attr(path, attr, &eff, err));
	KT_TRY(make_temp(path, bytes, n, &eff, temp, err));
	if (rename_new(temp, path) != 0) {
		int e = errno;
		(void)unlink(temp);
		return e == EEXIST ? kt_file_sync_folder(path, err)
				   : kt_fail_errno(err, e, NULL, "%s cannot be made", path);
	}
	*made = true;
	return kt_file_sync_folder(path, err);
}

/* One folder, durable when it was made here. */
static kt_code make_folder(const char *path, mode_t mode, kt_err *err)
{
	struct stat st;
	if (mkdir(path, mode) == 0)
		return kt_file_sync_folder(path, err);
	if (errno != EEXIST)
		return kt_fail_errno(err, errno, NULL, "the folder %s cannot be made", path);
	if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
		return kt_fail_errno(err, ENOTDIR, NULL, "the folder %s cannot be made", path);
	return KT_OK;
}

kt_code kt_file_mkdirs(const char *path, mode_t mode, kt_err *err)
{
	char *copy = strdup(path);
	if (!copy)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = KT_OK;
	for (char *p = copy + 1; rc == KT_OK && copy[0]; p++) {
		if (*p != '/' && *p != '\0')
			continue;
		char kept = *p;
		*p = '\0';
		rc = make_folder(copy, mode, err);
		*p = kept;
		if (kept == '\0')
			break;
	}
	free(copy);
	return rc;
}

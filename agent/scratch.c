/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

static const char variable[] = "${scratch}";

static kt_code in_the_way(const char *path, const char *why, kt_err *err)
{
	return kt_fail(err, KT_E_REFUSED, "choose a scratch folder that is not there yet, or remove it by hand",
		       "%s is there already and %s: it is not touched", path, why);
}

static bool is_empty(const char *path)
{
	DIR *dir = opendir(path);
	if (!dir)
		return false;
	size_t n = 0;
	for (struct dirent *e = readdir(dir); e; e = readdir(dir))
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	(void)closedir(dir);
	return n == 0;
}

/* The mark is a regular file of ours in it. */
static bool has_mark(const char *path)
{
	char mark[PATH_MAX];
	struct stat st;
	return (size_t)snprintf(mark, sizeof mark, "%s/%s", path, KT_SCRATCH_MARK) < sizeof mark &&
	       lstat(mark, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid();
}

static kt_code clear_old(const char *path, kt_err *err)
{
	struct stat st;
	if (lstat(path, &st) != 0)
		return errno == ENOENT ? KT_OK : kt_fail_errno(err, errno, NULL, "%s", path);
	if (!S_ISDIR(st.st_mode))
		return in_the_way(path, "not a folder", err);
	if (!has_mark(path) && !is_empty(path))
		return in_the_way(path, "not an old scratch folder of ours", err);
	return kt_tree_remove(path, err);
}

static kt_code make_mark(const char *path, kt_err *err)
{
	char mark[PATH_MAX];
	if ((size_t)snprintf(mark, sizeof mark, "%s/%s", path, KT_SCRATCH_MARK) >= sizeof mark)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", path);
	int fd = open(mark, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be made", mark);
	(void)close(fd);
	return KT_OK;
}

static kt_code make_parents(const char *path, kt_err *err)
{
	const char *slash = strrchr(path, '/');
	if (path[0] != '/' || !slash[1])
		return kt_fail(err, KT_E_INPUT, "give an absolute path without a slash at its end",
			       "\"%.200s\" cannot be a scratch folder", path);
	if (slash == path)
		return KT_OK;
	char *folder = strndup(path, (size_t)(slash - path));
	if (!folder)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = kt_file_mkdirs(folder, 0755, err);
	free(folder);
	return rc;
}

kt_code kt_scratch_make(const char *path, kt_err *err)
{
	KT_TRY(make_parents(path, err));
	KT_TRY(clear_old(path, err));
	if (mkdir(path, 0700) != 0)
		return kt_fail_errno(err, errno, NULL, "the scratch folder %s cannot be made", path);
	kt_code rc = make_mark(path, err);
	if (rc != KT_OK)
		(void)rmdir(path);
	return rc;
}

/* A file system that cannot (NFS): it has a name as long as nobody can do anything with it. */
static int make_and_unlink(const char *folder)
{
	char path[PATH_MAX];
	if ((size_t)snprintf(path, sizeof path, "%s/.keyturn-XXXXXX", folder) >= sizeof path) {
		errno = ENAMETOOLONG;
		return -1;
	}
	int fd = mkostemp(path, O_CLOEXEC);
	if (fd >= 0 && unlink(path) != 0) {
		(void)close(fd);
		fd = -1;
	}
	return fd;
}

kt_code kt_scratch_file(const char *beside, const char *what, int *fd, kt_err *err)
{
	char folder[PATH_MAX];
	const char *slash = strrchr(beside, '/');
	*fd = -1;
	if (!slash ||
	    (size_t)snprintf(folder, sizeof folder, "%.*s", (int)(slash - beside + 1), beside) >= sizeof folder)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s: the path is too long", beside);
	KT_TRY(kt_file_mkdirs(folder, 0711, err)); /* as the archive's */
	*fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (*fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR))
		*fd = make_and_unlink(folder);
	if (*fd < 0)
		return kt_fail_errno(err, errno, NULL, "no room for %s in %s", what, folder);
	return KT_OK;
}

static kt_code replaced(const char *text, const char *path, char **out, kt_err *err)
{
	kt_buf b = KT_BUF_INIT;
	kt_code rc = KT_OK;
	while (rc == KT_OK) {
		const char *hit = strstr(text, variable);
		rc = kt_buf_append(&b, text, hit ? (size_t)(hit - text) : strlen(text), err);
		if (!hit)
			break;
		if (rc == KT_OK)
			rc = kt_buf_str(&b, path, err);
		text = hit + sizeof variable - 1;
	}
	*out = rc == KT_OK ? strdup(kt_buf_cstr(&b)) : NULL;
	kt_buf_free(&b);
	if (rc == KT_OK && !*out)
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	return rc;
}

/* Depth is bounded by the JSON parser. */
static kt_code replace_in(cJSON *value, const char *path, kt_err *err)
{
	if (cJSON_IsString(value) && strstr(value->valuestring, variable)) {
		char *text;
		KT_TRY(replaced(value->valuestring, path, &text, err));
		char *copy = cJSON_malloc(strlen(text) + 1);
		if (copy) {
			memcpy(copy, text, strlen(text) + 1);
			cJSON_free(value->valuestring);
			value->valuestring = copy;
		}
		free(text);
		if (!copy)
			return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	for (cJSON *child = value->child; child; child = child->next)
		KT_TRY(replace_in(child, path, err));
	return KT_OK;
}

kt_code kt_scratch_command(const cJSON *value, const char *path, cJSON **out, kt_err *err)
{
	cJSON *copy = cJSON_Duplicate(value, true);
	if (!copy)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = replace_in(copy, path, err);
	if (rc != KT_OK) {
		cJSON_Delete(copy);
		return rc;
	}
	*out = copy;
	return KT_OK;
}

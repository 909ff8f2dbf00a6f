/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/sqlite.h"

typedef struct names {
	char **list;
	size_t n;
} names;

static void free_names(names *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->list[i]);
	free(l->list);
	*l = (names){0};
}

static int by_bytes(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static kt_code add_name(names *l, const char *name, kt_err *err)
{
	if ((l->n & (l->n - 1)) == 0) {
		char **grown = reallocarray(l->list, l->n ? 2 * l->n : 1, sizeof *grown);
		if (!grown)
			return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
		l->list = grown;
	}
	l->list[l->n] = strdup(name);
	if (!l->list[l->n])
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	l->n++;
	return KT_OK;
}

/* The names in an open folder, sorted. The descriptor stays open. */
static kt_code list_folder(int fd, const char *path, names *out, kt_err *err)
{
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = copy < 0 ? NULL : fdopendir(copy);
	if (!dir) {
		int e = errno;
		if (copy >= 0)
			(void)close(copy);
		return kt_fail_errno(err, e, NULL, "the folder %s cannot be read", path);
	}
	kt_code rc = KT_OK;
	struct dirent *e;
	while (rc == KT_OK && (errno = 0, e = readdir(dir)) != NULL)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			rc = add_name(out, e->d_name, err);
	if (rc == KT_OK && errno != 0)
		rc = kt_fail_errno(err, errno, NULL, "the folder %s cannot be read", path);
	(void)closedir(dir);
	if (rc == KT_OK && out->n)
		qsort(out->list, out->n, sizeof *out->list, by_bytes);
	else if (rc != KT_OK)
		free_names(out);
	return rc;
}

/* One walk. `path` holds the root's path and what is below; `root_len` is where the latter begins (after its slash). */
typedef struct walk {
	kt_tree_fn fn;
	void *arg;
	char path[PATH_MAX];
	size_t root_len;
} walk;

static kt_code walk_folder(walk *w, int fd, const struct stat *st, size_t len, unsigned depth, kt_err *err);

static kt_code walk_entry(walk *w, int fd, const struct stat *in, size_t len, const char *base, unsigned depth,
			  kt_err *err)
{
	struct stat st;
	if (fstatat(fd, base, &st, AT_SYMLINK_NOFOLLOW) != 0) {
		const int why = errno;
		if (why == ENOENT && kt_sqlite_is_journal(fd, base))
			return KT_OK; /* such a one comes and goes with each transaction */
		return kt_fail_errno(err, why, "something still works in this folder: stop it first", "%s", w->path);
	}
	kt_tree_item item = {.path = w->path, .base = base, .folder_fd = fd, .in = in, .st = &st};
	item.name = w->path + w->root_len;
	bool skip = false;
	KT_TRY(w->fn(w->arg, &item, &skip, err));
	if (skip || !S_ISDIR(st.st_mode))
		return KT_OK;
	int sub = openat(fd, base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (sub < 0)
		return kt_fail_errno(err, errno, NULL, "the folder %s cannot be opened", w->path);
	kt_code rc = walk_folder(w, sub, &st, len, depth + 1, err);
	(void)close(sub);
	return rc;
}

static kt_code walk_folder(walk *w, int fd, const struct stat *st, size_t len, unsigned depth, kt_err *err)
{
	if (depth > KT_TREE_DEPTH)
		return kt_fail(err, KT_E_INPUT, "move what is down there out of the way",
			       "%.200s...: more than %d folders deep", w->path, (int)KT_TREE_DEPTH);
	names list = {0};
	KT_TRY(list_folder(fd, w->path, &list, err));
	kt_code rc = KT_OK;
	for (size_t i = 0; rc == KT_OK && i < list.n; i++) {
		int n = snprintf(w->path + len, sizeof w->path - len, "%s%s", w->path[len - 1] == '/' ? "" : "/",
				 list.list[i]);
		if (n < 0 || (size_t)n >= sizeof w->path - len)
			rc = kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", w->path);
		else
			rc = walk_entry(w, fd, st, len + (size_t)n, list.list[i], depth, err);
		w->path[len] = '\0';
	}
	free_names(&list);
	return rc;
}

static kt_code walk_root(walk *w, int fd, size_t len, kt_err *err)
{
	struct stat st;
	if (fstat(fd, &st) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", w->path);
	kt_tree_item item = {.path = w->path, .name = "", .base = ".", .folder_fd = fd, .in = &st, .st = &st};
	bool skip = false;
	KT_TRY(w->fn(w->arg, &item, &skip, err));
	return skip ? KT_OK : walk_folder(w, fd, &st, len, 0, err);
}

kt_code kt_tree_walk(const char *root, kt_tree_fn fn, void *arg, kt_err *err)
{
	size_t len = strlen(root);
	walk *w = calloc(1, sizeof *w);
	if (!w)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = KT_OK;
	int fd = -1;
	if (len == 0 || len + 1 >= sizeof w->path)
		rc = kt_fail(err, KT_E_INPUT, NULL, "%.200s: not a path", root);
	else if ((fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		rc = kt_fail_errno(err, errno, NULL, "the folder %s cannot be opened", root);
	if (rc == KT_OK) {
		w->fn = fn;
		w->arg = arg;
		memcpy(w->path, root, len + 1);
		w->root_len = root[len - 1] == '/' ? len : len + 1;
		rc = walk_root(w, fd, len, err);
	}
	if (fd >= 0)
		(void)close(fd);
	free(w);
	return rc;
}

static kt_code visit_in(int fd, const char *path, const char *base, kt_tree_fn fn, void *arg, kt_err *err)
{
	struct stat in;
	struct stat st;
	if (fstat(fd, &in) != 0 || fstatat(fd, base, &st, AT_SYMLINK_NOFOLLOW) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", path);
	kt_tree_item item = {.path = path, .name = "", .base = base, .folder_fd = fd, .in = &in, .st = &st};
	bool skip = false;
	return fn(arg, &item, &skip, err);
}

kt_code kt_tree_visit(const char *path, kt_tree_fn fn, void *arg, kt_err *err)
{
	const char *slash = strrchr(path, '/');
	if (!slash || !slash[1])
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s: not the path of a file", path);
	char *folder = strndup(path, (size_t)(slash - path) + 1);
	if (!folder)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	kt_code rc;
	if (fd < 0)
		rc = kt_fail_errno(err, errno, NULL, "the folder %s cannot be opened", folder);
	else
		rc = visit_in(fd, path, slash + 1, fn, arg, err);
	if (fd >= 0)
		(void)close(fd);
	free(folder);
	return rc;
}

static kt_code remove_content(int fd, const char *path, unsigned depth, kt_err *err);

static kt_code remove_entry(int fd, const char *path, const char *base, unsigned depth, kt_err *err)
{
	if (unlinkat(fd, base, 0) == 0 || errno == ENOENT)
		return KT_OK;
	if (errno != EISDIR && errno != EPERM)
		return kt_fail_errno(err, errno, "remove it by hand", "%s/%s cannot be removed", path, base);
	int sub = openat(fd, base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (sub < 0 && errno == EACCES && fchmodat(fd, base, 0700, 0) == 0)
		sub = openat(fd, base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (sub < 0)
		return kt_fail_errno(err, errno, "remove it by hand", "%s/%s cannot be removed", path, base);
	(void)fchmod(sub, 0700);
	kt_code rc = remove_content(sub, path, depth + 1, err);
	(void)close(sub);
	if (rc == KT_OK && unlinkat(fd, base, AT_REMOVEDIR) != 0)
		rc = kt_fail_errno(err, errno, "remove it by hand", "%s/%s cannot be removed", path, base);
	return rc;
}

static kt_code remove_content(int fd, const char *path, unsigned depth, kt_err *err)
{
	if (depth > 2 * KT_TREE_DEPTH)
		return kt_fail(err, KT_E_IO, "remove it by hand", "%s: too many folders deep", path);
	names list = {0};
	KT_TRY(list_folder(fd, path, &list, err));
	kt_code rc = KT_OK;
	for (size_t i = 0; rc == KT_OK && i < list.n; i++)
		rc = remove_entry(fd, path, list.list[i], depth, err);
	free_names(&list);
	return rc;
}

kt_code kt_tree_remove(const char *path, kt_err *err)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return KT_OK;
	if (fd < 0)
		return kt_fail_errno(err, errno, "remove it by hand", "%s cannot be removed", path);
	kt_code rc = remove_content(fd, path, 0, err);
	(void)close(fd);
	if (rc == KT_OK && rmdir(path) != 0)
		rc = kt_fail_errno(err, errno, "remove it by hand", "%s cannot be removed", path);
	return rc;
}

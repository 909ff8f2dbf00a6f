/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/archive_select.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/keep.h"
#include "agent/sqlite.h"

/* A file known by the folder that holds it and its name there, whatever path leads to that folder. */
typedef struct place {
	dev_t dev;
	ino_t ino;
	char *base;
} place;

/* A path may be met below top, or be the journal of a database that is a path too. */
enum { NOT_YET, SAVED, COMES_ALONG };

enum { KEY_LEN = 32, KEY_TEXT_MAX = 46 }; /* base64 of the bytes, and a line's end */

typedef struct selection {
	const kt_archive_source *source;
	char *top; /* member name; NULL: none */
	char **excludes;
	char **paths;  /* member names */
	uint8_t *seen; /* of each path: NOT_YET, SAVED, COMES_ALONG */
	place *hidden;
	size_t hidden_n;
	const char *root; /* member name of what is being walked */
	bool in_top;
	kt_archive_select_fn fn;
	void *arg;
	char name[PATH_MAX];
} selection;

kt_code kt_archive_member_name(const char *path, char **out, kt_err *err)
{
	*out = NULL;
	if (path[0] != '/')
		return kt_fail(err, KT_E_INPUT, "give an absolute path", "\"%.200s\" is not an absolute path", path);
	char *name = malloc(strlen(path) + 1);
	if (!name)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	size_t n = 0;
	for (const char *p = path; *p;) {
		size_t part = strcspn(p, "/");
		if (part && !(part == 1 && *p == '.')) {
			if (n)
				name[n++] = '/';
			memcpy(name + n, p, part);
			n += part;
		}
		p += part + (p[part] == '/');
	}
	name[n] = '\0';
	kt_code rc = kt_manifest_check_name(name, err);
	if (rc != KT_OK) {
		free(name);
		return kt_fail(err, KT_E_INPUT, "give the path of a file or of a folder other than /",
			       "\"%.200s\" cannot be backed up", path);
	}
	*out = name;
	return KT_OK;
}

/* "a/b", "./a/b" and "a/b/" become "a/b". */
static kt_code clean_exclude(const char *exclude, char **out, kt_err *err)
{
	char path[PATH_MAX];
	if ((size_t)snprintf(path, sizeof path, "/%s", exclude) >= sizeof path)
		return kt_fail(err, KT_E_INPUT, NULL, "\"%.200s...\" is too long", exclude);
	kt_code rc = kt_archive_member_name(path, out, err);
	if (rc != KT_OK)
		return kt_fail(err, KT_E_INPUT, "name what lies right below the folder, or a path below it",
			       "\"%.200s\" cannot be excluded from a backup", exclude);
	return KT_OK;
}

static kt_code hide_place(selection *s, const char *path, kt_err *err)
{
	const char *slash = strrchr(path, '/');
	struct stat st;
	char folder[PATH_MAX];
	if (!slash || (size_t)snprintf(folder, sizeof folder, "%.*s", (int)(slash - path + 1), path) >= sizeof folder)
		return kt_fail(err, KT_E_INPUT, "give an absolute path", "\"%.200s\" is not an absolute path", path);
	if (stat(folder, &st) != 0) {
		if (errno == ENOENT || errno == ENOTDIR)
			return KT_OK;
		return kt_fail_errno(err, errno, NULL, "%s", folder);
	}
	place *grown = reallocarray(s->hidden, s->hidden_n + 1, sizeof *grown);
	if (!grown)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	s->hidden = grown;
	s->hidden[s->hidden_n] = (place){.dev = st.st_dev, .ino = st.st_ino, .base = strdup(slash + 1)};
	if (!s->hidden[s->hidden_n].base)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	s->hidden_n++;
	return KT_OK;
}

/* Hide the file that is meant by `path`, and, where that is a link, also what it leads to. */
static kt_code hide(selection *s, const char *path, kt_err *err)
{
	KT_TRY(hide_place(s, path, err));
	char *real = realpath(path, NULL);
	kt_code rc = real ? hide_place(s, real, err) : KT_OK;
	free(real);
	return rc;
}

static bool is_hidden(const selection *s, const kt_tree_item *item)
{
	for (size_t i = 0; i < s->hidden_n; i++)
		if (s->hidden[i].dev == item->in->st_dev && s->hidden[i].ino == item->in->st_ino &&
		    strcmp(s->hidden[i].base, item->base) == 0)
			return true;
	return false;
}

bool kt_archive_is_key_file(const kt_tree_item *item)
{
	kt_secret text = KT_SECRET_INIT;
	kt_secret key = KT_SECRET_INIT;
	if (!S_ISREG(item->st->st_mode) || (item->st->st_mode & 07777) != 0400 || item->st->st_size > KEY_TEXT_MAX)
		return false;
	int fd = openat(item->folder_fd, item->base, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return false;
	bool is = kt_secret_read_fd(&text, fd, KEY_TEXT_MAX, item->path, NULL) == KT_OK &&
		  kt_secret_from_base64(&text, &key, NULL) == KT_OK && key.len == KEY_LEN;
	(void)close(fd);
	kt_secret_free(&key);
	kt_secret_free(&text);
	return is;
}

static bool is_excluded(const selection *s, const char *name)
{
	for (size_t i = 0; s->in_top && i < s->source->exclude_n; i++)
		if (strcmp(s->excludes[i], name) == 0)
			return true;
	return false;
}

/* Whether it is named as a path (then it is a database file), and whether it has been saved as such already. */
static bool note_path(selection *s, const char *name, bool *again)
{
	bool named = false;
	for (size_t i = 0; i < s->source->path_n; i++) {
		if (strcmp(s->paths[i], name) != 0)
			continue;
		*again = *again || s->seen[i] == SAVED;
		s->seen[i] = SAVED;
		named = true;
	}
	return named;
}

static kt_code visit(void *arg, const kt_tree_item *item, bool *skip, kt_err *err)
{
	selection *s = arg;
	*skip = is_excluded(s, item->name) || is_hidden(s, item) || kt_keep_is(item->base) ||
		kt_archive_is_key_file(item) || kt_sqlite_is_journal(item->folder_fd, item->base);
	if (*skip)
		return KT_OK;
	int n = snprintf(s->name, sizeof s->name, "%s%s%s", s->root, item->name[0] ? "/" : "", item->name);
	if (n < 0 || (size_t)n >= sizeof s->name)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", item->path);
	bool named = note_path(s, s->name, skip);
	return *skip ? KT_OK : s->fn(s->arg, s->name, named && S_ISREG(item->st->st_mode), item, err);
}

/* -wal and -journal beside a database file, where they are there. */
static kt_code visit_siblings(selection *s, const char *path, const char *name, kt_err *err)
{
	static const char *const endings[] = {"-wal", "-journal"};
	kt_code rc = KT_OK;
	for (size_t i = 0; rc == KT_OK && i < sizeof endings / sizeof *endings; i++) {
		char sibling[PATH_MAX];
		char root[PATH_MAX];
		struct stat st;
		if ((size_t)snprintf(sibling, sizeof sibling, "%s%s", path, endings[i]) >= sizeof sibling ||
		    (size_t)snprintf(root, sizeof root, "%s%s", name, endings[i]) >= sizeof root)
			return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", path);
		if (lstat(sibling, &st) != 0 && errno == ENOENT)
			continue;
		s->root = root;
		rc = kt_tree_visit(sibling, visit, s, err);
	}
	return rc;
}

static kt_code visit_path(selection *s, size_t i, kt_err *err)
{
	char path[PATH_MAX];
	struct stat st;
	if ((size_t)snprintf(path, sizeof path, "/%s", s->paths[i]) >= sizeof path)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", s->paths[i]);
	if (lstat(path, &st) != 0)
		return kt_fail_errno(err, errno, "name only files and folders that are there", "%s", path);
	if (S_ISLNK(st.st_mode))
		return kt_fail(err, KT_E_INPUT, "name what it leads to",
			       "%s is a symbolic link: its target would not be in the backup", path);
	s->root = s->paths[i];
	s->in_top = false;
	if (S_ISDIR(st.st_mode))
		return kt_tree_walk(path, visit, s, err);
	KT_TRY(kt_tree_visit(path, visit, s, err));
	return visit_siblings(s, path, s->paths[i], err);
}

/* A database comes before its journals, because a restore removes what is there before it puts a database back. */
static void note_siblings(selection *s)
{
	for (size_t i = 0; i < s->source->path_n; i++)
		for (size_t k = 0; k < s->source->path_n; k++) {
			size_t n = strlen(s->paths[k]);
			const char *rest = s->paths[i] + n;
			if (strncmp(s->paths[i], s->paths[k], n) == 0 &&
			    (strcmp(rest, "-wal") == 0 || strcmp(rest, "-journal") == 0))
				s->seen[i] = COMES_ALONG;
		}
}

static kt_code prepare(selection *s, const char *const leave_out[2], kt_manifest *roots, kt_err *err)
{
	const kt_archive_source *src = s->source;
	s->excludes = calloc(src->exclude_n + 1, sizeof *s->excludes);
	s->paths = calloc(src->path_n + 1, sizeof *s->paths);
	s->seen = calloc(src->path_n + 1, sizeof *s->seen);
	if (!s->excludes || !s->paths || !s->seen)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (src->top) {
		KT_TRY(kt_archive_member_name(src->top, &s->top, err));
		if (roots)
			KT_TRY(kt_manifest_set_top(roots, s->top, err));
	}
	for (size_t i = 0; i < src->exclude_n; i++)
		KT_TRY(clean_exclude(src->exclude[i], &s->excludes[i], err));
	for (size_t i = 0; i < src->path_n; i++) {
		KT_TRY(kt_archive_member_name(src->paths[i], &s->paths[i], err));
		if (roots)
			KT_TRY(kt_manifest_add_path(roots, s->paths[i], err));
	}
	note_siblings(s);
	for (size_t i = 0; i < src->key_file_n; i++)
		KT_TRY(hide(s, src->key_files[i], err));
	for (size_t i = 0; leave_out && i < 2; i++)
		KT_TRY(hide(s, leave_out[i], err));
	return KT_OK;
}

static void release(selection *s)
{
	for (size_t i = 0; s->excludes && i < s->source->exclude_n; i++)
		free(s->excludes[i]);
	for (size_t i = 0; s->paths && i < s->source->path_n; i++)
		free(s->paths[i]);
	for (size_t i = 0; i < s->hidden_n; i++)
		free(s->hidden[i].base);
	free(s->excludes);
	free(s->paths);
	free(s->seen);
	free(s->hidden);
	free(s->top);
	free(s);
}

static kt_code select_all(selection *s, kt_err *err)
{
	if (s->top) {
		char path[PATH_MAX];
		if ((size_t)snprintf(path, sizeof path, "/%s", s->top) >= sizeof path)
			return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", s->top);
		s->root = s->top;
		s->in_top = true;
		KT_TRY(kt_tree_walk(path, visit, s, err));
	}
	for (size_t i = 0; i < s->source->path_n; i++)
		if (s->seen[i] == NOT_YET)
			KT_TRY(visit_path(s, i, err));
	return KT_OK;
}

kt_code kt_archive_select(const kt_archive_source *source, const char *const leave_out[2], kt_manifest *roots,
			  kt_archive_select_fn fn, void *arg, kt_err *err)
{
	selection *s = calloc(1, sizeof *s);
	if (!s)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	s->source = source;
	s->fn = fn;
	s->arg = arg;
	kt_code rc = source->top || source->path_n
			     ? prepare(s, leave_out, roots, err)
			     : kt_fail(err, KT_E_INPUT, "name a folder or files", "there is nothing to back up");
	if (rc == KT_OK)
		rc = select_all(s, err);
	release(s);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Unpacking into a scratch folder, and comparing what then lies there with the manifest. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/archive_reader.h"
#include "agent/archive_select.h"
#include "agent/archive_unpack.h"
#include "agent/tree.h"

static const char bad_remedy[] = "do not use this backup; make a new one";

typedef struct extraction {
	const char *folder; /* real path */
	const char *ignore;
	struct archive *disk;
	kt_keyscan *scan; /* NULL: none */
} extraction;

static kt_code extract_member(void *arg, struct archive *a, struct archive_entry *e, kt_member *m, const char *target,
			      kt_err *err)
{
	extraction *x = arg;
	char path[PATH_MAX];
	char link[PATH_MAX];
	if (x->ignore && strcmp(m->name, x->ignore) == 0)
		return kt_fail(err, KT_E_INPUT, bad_remedy, "%s is not a name that a backup may hold", m->name);
	if ((size_t)snprintf(path, sizeof path, "%s/%s", x->folder, m->name) >= sizeof path)
		return kt_fail(err, KT_E_IO, "choose a scratch folder with a shorter name",
			       "%.200s...: the path is too long", path);
	archive_entry_copy_pathname(e, path);
	if (m->kind == KT_MEMBER_HARD) {
		if ((size_t)snprintf(link, sizeof link, "%s/%s", x->folder, target) >= sizeof link)
			return kt_fail(err, KT_E_IO, "choose a scratch folder with a shorter name",
				       "%.200s...: the path is too long", link);
		archive_entry_copy_hardlink(e, link);
	}
	return kt_archive_unpack_entry(x->disk, a, e, false, x->scan, err);
}

/* --- comparing ------------------------------------------------------------------------------------------------- */

/* A file with its place on the disk, so that hard links can be told. */
typedef struct on_disk {
	dev_t dev;
	ino_t ino;
	const char *name; /* of `want` */
} on_disk;

typedef struct comparison {
	const kt_manifest *want;
	kt_manifest is;
	const char *ignore;
	on_disk *firsts; /* files with more than one name */
	size_t firsts_n;
	on_disk *hard; /* what should be hard links to them */
	size_t hard_n;
} comparison;

static kt_code remember(on_disk **list, size_t *n, const char *name, const struct stat *st, kt_err *err)
{
	if ((*n & (*n - 1)) == 0) {
		on_disk *grown = reallocarray(*list, *n ? 2 * *n : 1, sizeof *grown);
		if (!grown)
			return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
		*list = grown;
	}
	(*list)[(*n)++] = (on_disk){.dev = st->st_dev, .ino = st->st_ino, .name = name};
	return KT_OK;
}

/* A folder that only leads to what was saved: it was not saved itself. */
static bool leads_to_root(const kt_manifest *m, const char *name)
{
	size_t n = strlen(name);
	if (n == 0)
		return true;
	if (m->top && strncmp(m->top, name, n) == 0 && m->top[n] == '/')
		return true;
	for (size_t i = 0; i < m->path_n; i++)
		if (strncmp(m->paths[i], name, n) == 0 && m->paths[i][n] == '/')
			return true;
	return false;
}

static kt_code hash_file(const kt_tree_item *item, const kt_member *want, kt_member *m, kt_err *err)
{
	m->kind = want && want->kind == KT_MEMBER_SPARSE ? KT_MEMBER_SPARSE : KT_MEMBER_FILE;
	m->size = (uint64_t)item->st->st_size;
	int fd = openat(item->folder_fd, item->base, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be opened", item->path);
	kt_code rc = kt_content_hash_fd(fd, item->path, m->kind == KT_MEMBER_SPARSE, m->size, m->sha256, err);
	(void)close(fd);
	return rc;
}

static kt_code hash_link(const kt_tree_item *item, kt_member *m, kt_err *err)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(item->folder_fd, item->base, target, sizeof target);
	if (n < 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be read", item->path);
	m->kind = KT_MEMBER_LINK;
	return kt_sha256_hex(target, (size_t)n, m->sha256, err);
}

static kt_code look(void *arg, const kt_tree_item *item, bool *skip, kt_err *err)
{
	comparison *c = arg;
	*skip = c->ignore && strcmp(item->name, c->ignore) == 0;
	const kt_member *want = kt_manifest_find(c->want, item->name);
	if (*skip || (!want && S_ISDIR(item->st->st_mode) && leads_to_root(c->want, item->name)))
		return KT_OK;
	kt_member m = {.kind = KT_MEMBER_FOLDER, .sha256 = "-", .mode = item->st->st_mode & 07777};
	m.uid = item->st->st_uid;
	m.gid = item->st->st_gid;
	m.name = (char *)(uintptr_t)item->name; /* is copied */
	if (kt_archive_is_key_file(item))
		return kt_fail(err, KT_E_KEY, "destroy this backup, and make a new one",
			       "the backup holds a key in the clear: the key file %s", item->path);
	if (S_ISREG(item->st->st_mode)) {
		if (want && want->kind == KT_MEMBER_HARD)
			return remember(&c->hard, &c->hard_n, want->name, item->st, err);
		if (want && item->st->st_nlink > 1)
			KT_TRY(remember(&c->firsts, &c->firsts_n, want->name, item->st, err));
		KT_TRY(hash_file(item, want, &m, err));
	} else if (S_ISLNK(item->st->st_mode)) {
		KT_TRY(hash_link(item, &m, err));
	}
	return kt_manifest_add(&c->is, &m, err);
}

static int by_place(const void *a, const void *b)
{
	const on_disk *x = a;
	const on_disk *y = b;
	if (x->dev != y->dev)
		return x->dev < y->dev ? -1 : 1;
	return x->ino == y->ino ? 0 : x->ino < y->ino ? -1 : 1;
}

/* Each hard link, with the name of the file that it shares its place with; without one it stays missing. */
static kt_code add_hard_links(comparison *c, kt_err *err)
{
	if (c->firsts_n)
		qsort(c->firsts, c->firsts_n, sizeof *c->firsts, by_place);
	for (size_t i = 0; i < c->hard_n; i++) {
		const on_disk *first =
			c->firsts_n ? bsearch(&c->hard[i], c->firsts, c->firsts_n, sizeof *c->firsts, by_place) : NULL;
		const kt_member *want = kt_manifest_find(c->want, c->hard[i].name);
		if (!first || !want)
			continue;
		kt_member m = *want;
		KT_TRY(kt_sha256_hex(first->name, strlen(first->name), m.sha256, err));
		KT_TRY(kt_manifest_add(&c->is, &m, err));
	}
	return KT_OK;
}

static kt_code compare(const kt_manifest *want, const char *folder, const char *ignore, kt_err *err)
{
	const kt_manifest_compare options = {.owner = geteuid() == 0};
	comparison c = {.want = want, .is = KT_MANIFEST_INIT, .ignore = ignore};
	kt_code rc = kt_tree_walk(folder, look, &c, err);
	if (rc == KT_OK)
		rc = add_hard_links(&c, err);
	if (rc == KT_OK)
		rc = kt_manifest_sort(&c.is, err);
	if (rc == KT_OK)
		rc = kt_manifest_equal(want, &c.is, &options, err);
	kt_manifest_free(&c.is);
	free(c.firsts);
	free(c.hard);
	return rc;
}

static kt_code extract_to(kt_archive_reader *r, extraction *x, const kt_archive_hooks *hooks, kt_manifest *out,
			  kt_err *err)
{
	x->scan = hooks ? hooks->scan : NULL;
	KT_TRY(kt_archive_unpack_open(&x->disk, err));
	kt_code rc = kt_archive_each(r, hooks, extract_member, x, out, err);
	kt_code closed = kt_archive_unpack_close(x->disk, rc == KT_OK ? err : NULL);
	if (rc == KT_OK && closed != KT_OK) {
		kt_manifest_free(out);
		rc = closed;
	}
	return rc;
}

kt_code kt_archive_extract(kt_archive_reader *r, const char *folder, const char *ignore, const kt_archive_hooks *hooks,
			   kt_manifest *out, kt_err *err)
{
	char *real = realpath(folder, NULL);
	if (!real)
		return kt_fail_errno(err, errno, NULL, "the scratch folder %s", folder);
	extraction x = {.folder = real, .ignore = ignore};
	kt_code rc = extract_to(r, &x, hooks, out, err);
	if (rc == KT_OK) {
		rc = compare(out, real, ignore, err);
		if (rc != KT_OK) {
			rc = kt_err_prefix(err, rc, "%s, restored into %s", r->path, folder);
			kt_manifest_free(out);
		}
	}
	free(real);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "agent/archive_seal.h"
#include "agent/archive_select.h"
#include "agent/keyscan.h"
#include "agent/sqlite.h"
#include "base/clock.h"
#include "base/file.h"

enum { CHUNK = 1024 * 1024, ZSTD_THREADS_MAX = 64 /* some MiB each */, EXTENTS_MAX = 65536, REST_MS = 100 };

static const char changed_remedy[] = "something still writes to it: stop that, then try again";
static const uint8_t zeros[CHUNK];

/* A file with more than one name: the first one met. */
typedef struct first_name {
	dev_t dev;
	ino_t ino;
	char *name;
} first_name;

/* Data between holes. */
typedef struct extent {
	off_t at;
	off_t len;
} extent;

/* One archive being written. Acquired by setup(), given back by release(). */
typedef struct writer {
	const kt_archive_how *how;
	char part[PATH_MAX]; /* the temporary file */
	int fd;
	bool given_up; /* nothing more is to be written */
	kt_err failed; /* why writing to fd failed, if it has */
	EVP_MD_CTX *md;
	kt_sealer *sealer; /* NULL: not encrypted */
	struct archive *out;
	struct archive *disk; /* reads ACLs and extended attributes */
	kt_keyscan *scan;
	kt_manifest manifest;
	void *first_names; /* tree of first_name */
	uint8_t *chunk;
	uint64_t total; /* bytes to be read, as measured */
	uint64_t done;
	int64_t began_ms;
	kt_archive_made *made;
} writer;

/* It has pages of 512 bytes or more: not every file must be opened for an estimate. */
static bool may_be_sqlite(const struct stat *st)
{
	return st->st_size > 0 && st->st_size % 512 == 0;
}

static kt_code measure_one(void *arg, const char *name, bool database, const kt_tree_item *item, kt_err *err)
{
	kt_archive_size *size = arg;
	(void)name;
	(void)database;
	(void)err;
	if (!S_ISREG(item->st->st_mode))
		return KT_OK;
	uint64_t blocks = (uint64_t)item->st->st_blocks * 512;
	uint64_t bytes = (uint64_t)item->st->st_size;
	size->files++;
	if (may_be_sqlite(item->st) && kt_sqlite_is(item->folder_fd, item->base)) {
		bytes += kt_sqlite_wal_bytes(item->folder_fd, item->base);
		blocks = bytes; /* its copy has no holes */
		size->copy = bytes > size->copy ? bytes : size->copy;
	}
	size->bytes += blocks < bytes ? blocks : bytes;
	return KT_OK;
}

kt_code kt_archive_measure(const kt_archive_source *source, kt_archive_size *out, kt_err *err)
{
	*out = (kt_archive_size){0};
	return kt_archive_select(source, NULL, NULL, measure_one, out, err);
}

/* --- the output ------------------------------------------------------------------------------------------------ */

/* The archive's own bytes. */
static kt_code put_out(void *arg, const void *bytes, size_t n, kt_err *err)
{
	writer *w = arg;
	KT_TRY(kt_file_write_all(w->fd, bytes, n, w->part, err));
	if (EVP_DigestUpdate(w->md, bytes, n) != 1)
		return kt_fail(err, KT_E_INTERNAL, NULL, "SHA-256 failed");
	w->made->archive_bytes += n;
	return KT_OK;
}

static la_ssize_t write_out(struct archive *a, void *arg, const void *bytes, size_t n)
{
	writer *w = arg;
	if (w->given_up) {
		archive_set_error(a, ECANCELED, "given up");
		return -1;
	}
	kt_code rc = w->sealer ? kt_sealer_feed(w->sealer, bytes, n, &w->failed) : put_out(w, bytes, n, &w->failed);
	if (rc == KT_OK)
		return (la_ssize_t)n;
	archive_set_error(a, EIO, "%s", w->failed.msg);
	return -1;
}

static kt_code output_failed(const writer *w, const char *what, kt_err *err)
{
	if (w->failed.code != KT_OK) {
		if (err)
			*err = w->failed;
		return w->failed.code;
	}
	const char *why = archive_error_string(w->out);
	return kt_fail(err, KT_E_IO, NULL, "%s cannot be put into the backup: %s", what, why ? why : "unknown reason");
}

static kt_code open_output(writer *w, kt_err *err)
{
	char threads[16];
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	(void)snprintf(threads, sizeof threads, "%ld",
		       cpus > ZSTD_THREADS_MAX ? ZSTD_THREADS_MAX
		       : cpus < 1              ? 1
					       : cpus);
	w->out = archive_write_new();
	w->disk = archive_read_disk_new();
	if (!w->out || !w->disk)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	/* Without threads in the zstd library the option is refused, and one thread does the work. */
	if (archive_write_set_format_pax(w->out) != ARCHIVE_OK || archive_write_add_filter_zstd(w->out) != ARCHIVE_OK ||
	    archive_write_set_format_option(w->out, "pax", "hdrcharset", "BINARY") != ARCHIVE_OK ||
	    archive_write_set_filter_option(w->out, "zstd", "compression-level", "3") != ARCHIVE_OK ||
	    archive_read_disk_set_behavior(w->disk, ARCHIVE_READDISK_NO_FFLAGS | ARCHIVE_READDISK_NO_SPARSE) !=
		    ARCHIVE_OK)
		return output_failed(w, w->part, err);
	(void)archive_write_set_filter_option(w->out, "zstd", "threads", threads);
	if (archive_write_set_bytes_per_block(w->out, CHUNK) != ARCHIVE_OK ||
	    archive_write_set_bytes_in_last_block(w->out, 1) != ARCHIVE_OK ||
	    archive_write_open2(w->out, w, NULL, write_out, NULL, NULL) != ARCHIVE_OK)
		return output_failed(w, w->part, err);
	return KT_OK;
}

/* --- one member ------------------------------------------------------------------------------------------------ */

static int by_inode(const void *a, const void *b)
{
	const first_name *x = a;
	const first_name *y = b;
	if (x->dev != y->dev)
		return x->dev < y->dev ? -1 : 1;
	return x->ino == y->ino ? 0 : x->ino < y->ino ? -1 : 1;
}

static void free_first_name(void *p)
{
	first_name *f = p;
	free(f->name);
	free(f);
}

/* *first: the member that has this file's content already; NULL when this is the one. */
static kt_code first_name_of(writer *w, const char *name, const struct stat *st, const char **first, kt_err *err)
{
	*first = NULL;
	if (st->st_nlink < 2)
		return KT_OK;
	first_name *f = calloc(1, sizeof *f);
	if (!f)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	*f = (first_name){.dev = st->st_dev, .ino = st->st_ino, .name = strdup(name)};
	first_name **slot = f->name ? tsearch(f, &w->first_names, by_inode) : NULL;
	if (!slot || *slot != f)
		free_first_name(f);
	if (!slot)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (*slot != f)
		*first = (*slot)->name;
	return KT_OK;
}

/* A header with what is the same for every kind. From stat only what a restore needs: no device, inode, access time. */
static kt_code new_entry(const char *name, const struct stat *st, struct archive_entry **out, kt_err *err)
{
	struct archive_entry *e = archive_entry_new();
	if (!e)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	archive_entry_copy_pathname(e, name);
	archive_entry_set_mode(e, st->st_mode);
	archive_entry_set_uid(e, (la_int64_t)st->st_uid);
	archive_entry_set_gid(e, (la_int64_t)st->st_gid);
	archive_entry_set_mtime(e, st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
	archive_entry_set_nlink(e, 1);
	*out = e;
	return KT_OK;
}

/* ACLs and extended attributes of an open file or folder. */
static kt_code add_attributes(writer *w, struct archive_entry *e, int fd, const kt_tree_item *item, kt_err *err)
{
	char link[64];
	(void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	archive_entry_copy_sourcepath(e, link);
	struct stat st = *item->st; /* the library wants it; what it takes from it is taken back below */
	if (archive_read_disk_entry_from_file(w->disk, e, fd, &st) != ARCHIVE_OK) {
		const char *why = archive_error_string(w->disk);
		return kt_fail(err, KT_E_IO, NULL, "the attributes of %s cannot be read: %s", item->path,
			       why ? why : "unknown reason");
	}
	archive_entry_unset_atime(e);
	archive_entry_unset_ctime(e);
	archive_entry_unset_birthtime(e);
	archive_entry_set_dev(e, 0);
	archive_entry_set_ino(e, 0);
	archive_entry_set_nlink(e, 1);
	archive_entry_sparse_clear(e);
	return KT_OK;
}

static kt_code put_header(writer *w, struct archive_entry *e, const kt_tree_item *item, kt_err *err)
{
	return archive_write_header(w->out, e) == ARCHIVE_OK ? KT_OK : output_failed(w, item->path, err);
}

static kt_member member_of(const char *name, kt_member_kind kind, const struct stat *st)
{
	kt_member m = {.kind = kind, .mode = st->st_mode & 07777, .uid = st->st_uid, .gid = st->st_gid};
	m.sha256[0] = '-';
	m.name = (char *)(uintptr_t)name; /* kt_manifest_add copies it */
	return m;
}

static kt_code put_folder(writer *w, const char *name, const kt_tree_item *item, kt_err *err)
{
	int fd = openat(item->folder_fd, item->base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return kt_fail_errno(err, errno, NULL, "the folder %s cannot be opened", item->path);
	struct archive_entry *e = NULL;
	kt_code rc = new_entry(name, item->st, &e, err);
	if (rc == KT_OK)
		rc = add_attributes(w, e, fd, item, err);
	if (rc == KT_OK)
		rc = put_header(w, e, item, err);
	archive_entry_free(e);
	(void)close(fd);
	kt_member m = member_of(name, KT_MEMBER_FOLDER, item->st);
	return rc == KT_OK ? kt_manifest_add(&w->manifest, &m, err) : rc;
}

/* Links are saved as links. Remember the first that leads out: what is there is not in the backup. */
static void note_outside(writer *w, const char *target, const kt_tree_item *item)
{
	const char *top = w->manifest.top;
	size_t n = top ? strlen(top) : 0;
	if (target[0] != '/' || (top && strncmp(target + 1, top, n) == 0 && (!target[n + 1] || target[n + 1] == '/')))
		return;
	if (w->made->outside++ == 0)
		(void)snprintf(w->made->first_outside, sizeof w->made->first_outside, "%.120s -> %.120s", item->path,
			       target);
}

static kt_code put_link(writer *w, const char *name, const kt_tree_item *item, kt_err *err)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(item->folder_fd, item->base, target, sizeof target - 1);
	if (n < 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be read", item->path);
	target[n] = '\0';
	struct archive_entry *e = NULL;
	KT_TRY(new_entry(name, item->st, &e, err));
	archive_entry_copy_symlink(e, target);
	kt_code rc = put_header(w, e, item, err);
	archive_entry_free(e);
	note_outside(w, target, item);
	kt_member m = member_of(name, KT_MEMBER_LINK, item->st);
	if (rc == KT_OK)
		rc = kt_sha256_hex(target, (size_t)n, m.sha256, err);
	return rc == KT_OK ? kt_manifest_add(&w->manifest, &m, err) : rc;
}

static kt_code put_hard_link(writer *w, const char *name, const char *first, const kt_tree_item *item, kt_err *err)
{
	struct archive_entry *e = NULL;
	KT_TRY(new_entry(name, item->st, &e, err));
	archive_entry_copy_hardlink(e, first);
	archive_entry_set_size(e, 0);
	kt_code rc = put_header(w, e, item, err);
	archive_entry_free(e);
	kt_member m = member_of(name, KT_MEMBER_HARD, item->st);
	if (rc == KT_OK)
		rc = kt_sha256_hex(first, strlen(first), m.sha256, err);
	return rc == KT_OK ? kt_manifest_add(&w->manifest, &m, err) : rc;
}

/* --- content --------------------------------------------------------------------------------------------------- */

/* A regular file being saved. */
typedef struct content {
	int file; /* itself */
	int fd;   /* what is read: itself, or SQLite's copy of it */
	const kt_tree_item *item;
	struct stat st; /* of fd, as it was looked at */
	extent *extents;
	size_t n;
	bool sparse;
	bool sqlite; /* begins as an SQLite database */
	kt_content_hash *hash;
} content;

static kt_code add_extent(content *c, off_t at, off_t end, kt_err *err)
{
	if ((c->n & (c->n - 1)) == 0) {
		extent *grown = reallocarray(c->extents, c->n ? 2 * c->n : 1, sizeof *grown);
		if (!grown)
			return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
		c->extents = grown;
	}
	c->extents[c->n++] = (extent){.at = at, .len = end - at};
	return KT_OK;
}

/* Where the data is. All of it as one piece when there are no holes or nobody can tell. */
static kt_code find_extents(content *c, kt_err *err)
{
	bool holes = (uint64_t)c->st.st_blocks * 512 < (uint64_t)c->st.st_size;
	off_t at = 0;
	while (holes && at < c->st.st_size && c->n < EXTENTS_MAX) {
		off_t data = lseek(c->fd, at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break; /* the rest is a hole */
		off_t end = data < 0 ? -1 : lseek(c->fd, data, SEEK_HOLE);
		if (data < 0 || end <= data)
			holes = false;
		else
			KT_TRY(add_extent(c, data, end < c->st.st_size ? end : c->st.st_size, err));
		at = end;
	}
	c->sparse = holes && c->n < EXTENTS_MAX && !(c->n == 1 && c->extents[0].len == c->st.st_size);
	if (c->sparse)
		return KT_OK;
	c->n = 0;
	return c->st.st_size ? add_extent(c, 0, c->st.st_size, err) : KT_OK;
}

static kt_code put_bytes(writer *w, const content *c, const void *bytes, size_t n, kt_err *err)
{
	for (const uint8_t *p = bytes; n;) {
		la_ssize_t put = archive_write_data(w->out, p, n);
		if (put <= 0)
			return output_failed(w, c->item->path, err);
		p += put;
		n -= (size_t)put;
	}
	return KT_OK;
}

static kt_code put_hole(writer *w, const content *c, off_t len, kt_err *err)
{
	while (len > 0) {
		size_t n = len < CHUNK ? (size_t)len : CHUNK;
		KT_TRY(put_bytes(w, c, zeros, n, err));
		len -= (off_t)n;
	}
	return KT_OK;
}

static kt_code read_exactly(const content *c, uint8_t *into, size_t n, off_t at, kt_err *err)
{
	for (size_t got = 0; got < n;) {
		ssize_t r = pread(c->fd, into + got, n - got, at + (off_t)got);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return kt_fail_errno(err, errno, NULL, "%s cannot be read", c->item->path);
		if (r == 0)
			return kt_fail(err, KT_E_REFUSED, changed_remedy, "%s became shorter while it was read",
				       c->item->path);
		got += (size_t)r;
	}
	return KT_OK;
}

static kt_code tell(const writer *w, kt_err *err)
{
	const kt_archive_hooks *hooks = w->how->hooks;
	if (!hooks || !hooks->progress)
		return KT_OK;
	return hooks->progress(hooks->arg, w->done, w->total > w->done ? w->total : w->done, err);
}

/* Rests until what was read is no more than the rate allows; whoever watches can stop it meanwhile. */
static kt_code keep_rate(const writer *w, kt_err *err)
{
	if (!w->how->rate)
		return KT_OK;
	int64_t due = w->began_ms + (int64_t)((double)w->done * 1000 / (double)w->how->rate);
	for (int64_t now = kt_clock_mono_ms(); now < due; now = kt_clock_mono_ms()) {
		int64_t rest = due - now < REST_MS ? due - now : REST_MS;
		(void)nanosleep(&(struct timespec){.tv_nsec = rest * 1000000}, NULL);
		KT_TRY(tell(w, err));
	}
	return KT_OK;
}

static kt_code report(writer *w, size_t n, kt_err *err)
{
	w->done += n;
	KT_TRY(tell(w, err));
	return keep_rate(w, err);
}

static kt_code put_extent(writer *w, content *c, const extent *x, kt_err *err)
{
	static const uint8_t magic[16] = "SQLite format 3";
	for (off_t at = x->at; at < x->at + x->len;) {
		off_t left = x->at + x->len - at;
		size_t n = left < CHUNK ? (size_t)left : CHUNK;
		KT_TRY(read_exactly(c, w->chunk, n, at, err));
		if (at == 0 && n >= sizeof magic && memcmp(w->chunk, magic, sizeof magic) == 0)
			c->sqlite = true;
		if (kt_keyscan_feed(w->scan, w->chunk, n))
			return kt_fail(err, KT_E_KEY,
				       "move the key out of what is backed up, or name the file in key_files",
				       "%s holds a key of this cluster: a backup must not", c->item->path);
		KT_TRY(kt_content_hash_feed(c->hash, (uint64_t)at, w->chunk, n, err));
		KT_TRY(put_bytes(w, c, w->chunk, n, err));
		KT_TRY(report(w, n, err));
		at += (off_t)n;
	}
	return KT_OK;
}

static bool same_time(struct timespec a, struct timespec b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

/* Nothing has been written to the file since it was looked at. */
static kt_code still_the_same(const content *c, kt_err *err)
{
	struct stat now;
	uint8_t more;
	const struct stat *was = &c->st;
	if (fstat(c->fd, &now) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", c->item->path);
	if (now.st_size != was->st_size || !same_time(now.st_mtim, was->st_mtim) ||
	    !same_time(now.st_ctim, was->st_ctim) || pread(c->fd, &more, 1, c->st.st_size) > 0)
		return kt_fail(err, KT_E_REFUSED, changed_remedy, "%s changed while it was read", c->item->path);
	return KT_OK;
}

static kt_code put_content(writer *w, content *c, kt_err *err)
{
	off_t at = 0;
	kt_keyscan_reset(w->scan);
	for (size_t i = 0; i < c->n; i++) {
		KT_TRY(put_hole(w, c, c->extents[i].at - at, err));
		KT_TRY(put_extent(w, c, &c->extents[i], err));
		at = c->extents[i].at + c->extents[i].len;
	}
	KT_TRY(put_hole(w, c, c->st.st_size - at, err));
	return still_the_same(c, err);
}

static void add_sparse_map(struct archive_entry *e, const content *c)
{
	for (size_t i = 0; c->sparse && i < c->n; i++)
		archive_entry_sparse_add_entry(e, c->extents[i].at, c->extents[i].len);
	if (c->sparse && c->n == 0)
		archive_entry_sparse_add_entry(e, c->st.st_size, 0);
}

static kt_code put_file(writer *w, const char *name, bool database, content *c, kt_err *err)
{
	struct archive_entry *e = NULL;
	KT_TRY(find_extents(c, err));
	KT_TRY(kt_content_hash_new(c->sparse, &c->hash, err));
	KT_TRY(new_entry(name, c->item->st, &e, err));
	kt_code rc = add_attributes(w, e, c->file, c->item, err);
	if (rc == KT_OK) {
		archive_entry_set_size(e, c->st.st_size);
		add_sparse_map(e, c);
		rc = put_header(w, e, c->item, err);
	}
	archive_entry_free(e);
	if (rc == KT_OK)
		rc = put_content(w, c, err);
	if (rc != KT_OK)
		return rc;
	kt_member m = member_of(name, c->sparse ? KT_MEMBER_SPARSE : KT_MEMBER_FILE, c->item->st);
	m.size = (uint64_t)c->st.st_size;
	m.database = database || c->sqlite;
	kt_content_hash *hash = c->hash;
	c->hash = NULL;
	KT_TRY(kt_content_hash_end(hash, m.size, m.sha256, err));
	return kt_manifest_add(&w->manifest, &m, err);
}

/* What SQLite has copied was read, too. */
static kt_code report_copied(void *arg, size_t bytes, kt_err *err)
{
	writer *w = arg;
	w->total += bytes;
	return report(w, bytes, err);
}

/* *copy: an SQLite database as its application would see it; the caller's; -1: it is none. */
static kt_code copy_database(writer *w, bool named, const kt_tree_item *item, int *copy, kt_err *err)
{
	const kt_sqlite_how how = {.beside = w->part, .progress = report_copied, .arg = w};
	*copy = -1;
	if (!kt_sqlite_is(item->folder_fd, item->base))
		return KT_OK;
	KT_TRY(kt_sqlite_copy(item, &how, copy, err));
	if (named && *copy < 0)
		return kt_fail(err, KT_E_REFUSED, "see whether it is the right file, and whole",
			       "%s begins as an SQLite database, and SQLite says that it is none", item->path);
	return KT_OK;
}

static kt_code open_content(content *c, int copy, kt_err *err)
{
	const kt_tree_item *item = c->item;
	struct stat st;
	c->file = openat(item->folder_fd, item->base, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (c->file < 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be opened", item->path);
	if (fstat(c->file, &st) != 0 || st.st_dev != item->st->st_dev || st.st_ino != item->st->st_ino)
		return kt_fail(err, KT_E_REFUSED, changed_remedy, "%s was replaced while it was read", item->path);
	c->fd = copy < 0 ? c->file : copy;
	if (copy >= 0 && fstat(copy, &c->st) != 0)
		return kt_fail_errno(err, errno, NULL, "the copy of %s", item->path);
	return KT_OK;
}

static kt_code put_regular(writer *w, const char *name, bool database, const kt_tree_item *item, kt_err *err)
{
	const char *first;
	KT_TRY(first_name_of(w, name, item->st, &first, err));
	if (first)
		return put_hard_link(w, name, first, item, err);
	content c = {.item = item, .st = *item->st, .file = -1};
	int copy;
	KT_TRY(copy_database(w, database, item, &copy, err));
	kt_code rc = open_content(&c, copy, err);
	if (rc == KT_OK)
		rc = put_file(w, name, database, &c, err);
	kt_content_hash_free(c.hash);
	free(c.extents);
	if (c.file >= 0)
		(void)close(c.file);
	if (copy >= 0)
		(void)close(copy);
	return rc;
}

static kt_code put_one(void *arg, const char *name, bool database, const kt_tree_item *item, kt_err *err)
{
	writer *w = arg;
	KT_TRY(report(w, 0, err));
	if (S_ISREG(item->st->st_mode))
		return put_regular(w, name, database, item, err);
	if (S_ISDIR(item->st->st_mode))
		return put_folder(w, name, item, err);
	if (S_ISLNK(item->st->st_mode))
		return put_link(w, name, item, err);
	if (w->made->skipped++ == 0)
		(void)snprintf(w->made->first_skipped, sizeof w->made->first_skipped, "%s", item->path);
	return KT_OK;
}

/* What has no place of its own: its attributes are those of a file that nobody sees. */
static kt_code put_dump(writer *w, int fd, kt_err *err)
{
	struct stat st;
	kt_tree_item item = {.path = "the database's dump", .st = &st};
	content c = {.file = fd, .fd = fd, .item = &item};
	if (fstat(fd, &st) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", item.path);
	c.st = st;
	kt_code rc = put_file(w, KT_DUMP_MEMBER, false, &c, err);
	kt_content_hash_free(c.hash);
	free(c.extents);
	return rc;
}

/* --- the whole ------------------------------------------------------------------------------------------------- */

static kt_code put_manifest(writer *w, kt_err *err)
{
	kt_buf text = {.max = (size_t)1 << 30};
	kt_code rc = kt_manifest_sort(&w->manifest, err);
	if (rc == KT_OK)
		rc = kt_manifest_print(&w->manifest, &text, err);
	if (rc == KT_OK)
		rc = kt_sha256_hex(text.data, text.len, w->made->manifest_sha256, err);
	struct archive_entry *e = NULL;
	struct stat st = {.st_mode = S_IFREG | 0600, .st_uid = geteuid(), .st_gid = getegid()};
	if (rc == KT_OK)
		rc = new_entry(KT_MANIFEST_MEMBER, &st, &e, err);
	if (rc == KT_OK) {
		archive_entry_set_size(e, (la_int64_t)text.len);
		if (archive_write_header(w->out, e) != ARCHIVE_OK ||
		    archive_write_data(w->out, text.data, text.len) != (la_ssize_t)text.len)
			rc = output_failed(w, KT_MANIFEST_MEMBER, err);
	}
	archive_entry_free(e);
	kt_buf_free(&text);
	return rc;
}

static kt_code close_output(writer *w, kt_err *err)
{
	if (archive_write_close(w->out) != ARCHIVE_OK)
		return output_failed(w, w->part, err);
	if (w->sealer)
		KT_TRY(kt_sealer_end(w->sealer, err));
	if (fsync(w->fd) != 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be synced", w->part);
	uint8_t sum[EVP_MAX_MD_SIZE];
	if (EVP_DigestFinal_ex(w->md, sum, NULL) != 1)
		return kt_fail(err, KT_E_INTERNAL, NULL, "SHA-256 failed");
	kt_buf hex = KT_BUF_INIT;
	kt_code rc = kt_hex_encode(sum, KT_SHA256_LEN, &hex, err);
	if (rc == KT_OK)
		memcpy(w->made->sha256, hex.data, KT_SHA256_HEX);
	kt_buf_free(&hex);
	return rc;
}

static kt_code check_space(writer *w, uint64_t needed, kt_err *err)
{
	struct statvfs fs;
	if (fstatvfs(w->fd, &fs) != 0)
		return kt_fail_errno(err, errno, NULL, "free space for %s", w->part);
	uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (room < needed)
		return kt_fail(err, KT_E_IO, "make room there, or choose another destination for the backup",
			       "%s: the backup may need %llu bytes, %llu are free", w->part, (unsigned long long)needed,
			       (unsigned long long)room);
	return KT_OK;
}

static kt_code setup(writer *w, const char *archive, const kt_archive_source *source, kt_err *err)
{
	if ((size_t)snprintf(w->part, sizeof w->part, "%s.part", archive) >= sizeof w->part)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", archive);
	w->chunk = malloc(CHUNK);
	w->md = EVP_MD_CTX_new();
	if (!w->chunk || !w->md || EVP_DigestInit_ex(w->md, EVP_sha256(), NULL) != 1)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	KT_TRY(kt_keyscan_new(source->secrets, source->secret_n, &w->scan, err));
	(void)unlink(w->part); /* of a run that was killed */
	w->fd = open(w->part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (w->fd < 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be made", w->part);
	w->began_ms = kt_clock_mono_ms();
	return w->how->seal ? kt_sealer_new(w->how->seal, put_out, w, &w->sealer, err) : KT_OK;
}

static void release(writer *w)
{
	archive_write_free(w->out);
	kt_sealer_free(w->sealer);
	archive_read_free(w->disk);
	if (w->fd >= 0)
		(void)close(w->fd);
	kt_keyscan_free(w->scan);
	EVP_MD_CTX_free(w->md);
	kt_manifest_free(&w->manifest);
	tdestroy(w->first_names, free_first_name);
	free(w->chunk);
}

/* What may be written there: the archive, should nothing in it compress, and beside it a copy of one database. A dump
 * is there already, and comes into the archive, too. */
static kt_code check_all_space(writer *w, const kt_archive_source *source, const kt_archive_size *size, kt_err *err)
{
	struct stat dump = {0};
	if (source->dump_fd && fstat(source->dump_fd, &dump) != 0)
		return kt_fail_errno(err, errno, NULL, "the database's dump");
	return check_space(w, size->bytes + size->copy + (uint64_t)dump.st_size, err);
}

static kt_code write_archive(writer *w, const char *archive, const kt_archive_source *source, kt_err *err)
{
	const char *const leave_out[2] = {archive, w->part};
	kt_archive_size size;
	KT_TRY(kt_archive_measure(source, &size, err));
	w->total = size.bytes;
	KT_TRY(check_all_space(w, source, &size, err));
	KT_TRY(open_output(w, err));
	KT_TRY(kt_archive_select(source, leave_out, &w->manifest, put_one, w, err));
	if (source->dump_fd)
		KT_TRY(put_dump(w, source->dump_fd, err));
	KT_TRY(put_manifest(w, err));
	KT_TRY(close_output(w, err));
	kt_manifest_totals(&w->manifest, &w->made->files, &w->made->bytes);
	w->made->sealed = w->sealer != NULL;
	if (rename(w->part, archive) != 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be put in place", archive);
	return kt_file_sync_folder(archive, err);
}

static kt_code make_folder(const char *archive, kt_err *err)
{
	const char *slash = strrchr(archive, '/');
	if (archive[0] != '/' || !slash[1])
		return kt_fail(err, KT_E_INPUT, "give the absolute path of a file", "\"%.200s\" cannot be an archive",
			       archive);
	if (slash == archive)
		return KT_OK;
	char *folder = strndup(archive, (size_t)(slash - archive));
	if (!folder)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	/* 0711: nobody can look around in it, and who checks a restored backup can pass through it. */
	kt_code rc = kt_file_mkdirs(folder, 0711, err);
	free(folder);
	return rc;
}

kt_code kt_archive_create(const char *archive, const kt_archive_source *source, const kt_archive_how *how,
			  kt_archive_made *out, kt_err *err)
{
	static const kt_archive_how plain = {0};
	*out = (kt_archive_made){0};
	KT_TRY(make_folder(archive, err));
	writer w = {.how = how ? how : &plain, .fd = -1, .made = out};
	kt_code rc = setup(&w, archive, source, err);
	if (rc == KT_OK)
		rc = write_archive(&w, archive, source, err);
	if (rc != KT_OK && w.fd >= 0)
		(void)unlink(w.part);
	w.given_up = rc != KT_OK; /* (archive_write_fail would leak what the library holds for the callback) */
	release(&w);
	return rc;
}

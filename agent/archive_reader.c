/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/archive_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 256 * 1024 };

static const char bad_remedy[] = "do not use this backup; make a new one";

/* --- opening --------------------------------------------------------------------------------------------------- */

static kt_code open_file(kt_archive_reader *r, const char *archive, kt_err *err)
{
	struct stat st;
	r->fd = open(archive, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (r->fd < 0 || fstat(r->fd, &st) != 0)
		return kt_fail_errno(err, errno, NULL, "the backup %s cannot be opened", archive);
	if (!S_ISREG(st.st_mode))
		return kt_fail(err, KT_E_INPUT, bad_remedy, "%s is not a regular file", archive);
	r->bytes = (uint64_t)st.st_size;
	r->path = strdup(archive);
	return r->path ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

/* Encrypted exactly where a key is given; and the key opens it, before anything is read out of it. */
static kt_code check_seal(kt_archive_reader *r, kt_err *err)
{
	bool sealed;
	kt_seal_reader *opens = NULL;
	KT_TRY(kt_seal_is(r->fd, r->path, &sealed, err));
	if (sealed && !r->seal)
		return kt_fail(err, KT_E_KEY, "name the backup key of its run", "%s is encrypted", r->path);
	if (!sealed && r->seal)
		return kt_fail(err, KT_E_INPUT, bad_remedy, "%s is not an encrypted backup of keyturn", r->path);
	if (!r->seal)
		return KT_OK;
	KT_TRY(kt_seal_reader_new(r->seal, r->fd, r->bytes, r->path, &opens, err));
	kt_seal_reader_free(opens);
	return KT_OK;
}

kt_code kt_archive_open(const char *archive, const char *sha256, const kt_archive_seal *seal, kt_archive_reader **out,
			kt_err *err)
{
	char is[KT_SHA256_HEX];
	kt_archive_reader *r = calloc(1, sizeof *r);
	if (!r)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	r->fd = -1;
	r->seal = seal;
	kt_code rc = open_file(r, archive, err);
	if (rc == KT_OK)
		rc = kt_content_hash_fd(r->fd, archive, false, r->bytes, is, err);
	if (rc == KT_OK && strcasecmp(is, sha256) != 0)
		rc = kt_fail(err, KT_E_INPUT, bad_remedy,
			     "%s is not the backup that was made: its SHA-256 is %s, not %.64s", archive, is, sha256);
	if (rc == KT_OK)
		rc = check_seal(r, err);
	if (rc != KT_OK) {
		kt_archive_close(r);
		return rc;
	}
	*out = r;
	return KT_OK;
}

void kt_archive_close(kt_archive_reader *r)
{
	if (!r)
		return;
	if (r->fd >= 0)
		(void)close(r->fd);
	free(r->path);
	free(r);
}

/* --- reading --------------------------------------------------------------------------------------------------- */

kt_code kt_archive_read_failed(struct archive *a, const char *name, kt_err *err)
{
	const char *why = archive_error_string(a);
	return kt_fail(err, KT_E_INPUT, bad_remedy, "%s cannot be read from the backup: %s", name,
		       why ? why : "it is damaged");
}

/* One pass over the archive. */
typedef struct pass {
	kt_archive_reader *r;
	const kt_archive_hooks *hooks;
	kt_archive_member_fn fn;
	void *arg;
	struct archive *a;
	kt_seal_reader *seal; /* NULL: it is not encrypted */
	uint64_t at;          /* bytes of the archive that have been read */
	uint8_t chunk[CHUNK];
	kt_buf manifest; /* its text, once it has come */
	bool complete;
} pass;

static la_ssize_t open_in(struct archive *a, pass *p, const void **bytes)
{
	kt_err err = KT_ERR_INIT;
	const uint8_t *plain;
	size_t n;
	if (kt_seal_reader_next(p->seal, &plain, &n, &p->at, &err) != KT_OK) {
		archive_set_error(a, EIO, "%s", err.msg);
		return -1;
	}
	*bytes = plain;
	return (la_ssize_t)n;
}

static la_ssize_t read_in(struct archive *a, void *arg, const void **bytes)
{
	pass *p = arg;
	if (p->seal)
		return open_in(a, p, bytes);
	for (;;) {
		ssize_t n = pread(p->r->fd, p->chunk, sizeof p->chunk, (off_t)p->at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			archive_set_error(a, errno, "%s", strerror(errno));
		else
			p->at += (uint64_t)n;
		*bytes = p->chunk;
		return n;
	}
}

static kt_code take_manifest(pass *p, struct archive_entry *e, kt_err *err)
{
	if (archive_entry_filetype(e) != AE_IFREG || archive_entry_hardlink(e))
		return kt_fail(err, KT_E_INPUT, bad_remedy, "%s is not a file", KT_MANIFEST_MEMBER);
	p->manifest.max = (size_t)1 << 30;
	for (;;) {
		const void *bytes;
		size_t n;
		la_int64_t at;
		int got = archive_read_data_block(p->a, &bytes, &n, &at);
		if (got == ARCHIVE_EOF)
			break;
		if (got != ARCHIVE_OK || (size_t)at != p->manifest.len)
			return kt_archive_read_failed(p->a, KT_MANIFEST_MEMBER, err);
		KT_TRY(kt_buf_append(&p->manifest, bytes, n, err));
	}
	p->complete = true;
	return KT_OK;
}

/* What kind of member it is, from its header alone; refuses what no backup of ours has. */
static kt_code kind_of(struct archive_entry *e, kt_member *m, const char **target, kt_err *err)
{
	*target = archive_entry_hardlink(e);
	if (*target) {
		m->kind = KT_MEMBER_HARD;
		return kt_manifest_check_name(*target, err);
	}
	switch (archive_entry_filetype(e)) {
	case AE_IFREG:
		m->kind = archive_entry_sparse_count(e) > 0 ? KT_MEMBER_SPARSE : KT_MEMBER_FILE;
		return KT_OK;
	case AE_IFDIR:
		m->kind = KT_MEMBER_FOLDER;
		return KT_OK;
	case AE_IFLNK:
		m->kind = KT_MEMBER_LINK;
		*target = archive_entry_symlink(e);
		if (*target && **target)
			return KT_OK;
		return kt_fail(err, KT_E_INPUT, bad_remedy, "%.200s is a link to nowhere", m->name);
	default:
		return kt_fail(err, KT_E_INPUT, bad_remedy, "%.200s is a device, a pipe or a socket: a backup has none",
			       m->name);
	}
}

/* A folder's name may end in one slash. */
static kt_code name_of(struct archive_entry *e, char **out, kt_err *err)
{
	const char *path = archive_entry_pathname(e);
	*out = strdup(path ? path : "");
	if (!*out)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	size_t n = strlen(*out);
	if (n > 1 && (*out)[n - 1] == '/' && archive_entry_filetype(e) == AE_IFDIR)
		(*out)[n - 1] = '\0';
	kt_code rc = kt_manifest_check_name(*out, err);
	if (rc != KT_OK) {
		free(*out);
		*out = NULL;
	}
	return rc;
}

static kt_code take_named(pass *p, struct archive_entry *e, char *name, kt_err *err)
{
	if (strcmp(name, KT_MANIFEST_MEMBER) == 0)
		return take_manifest(p, e, err);
	kt_member m = {.name = name, .mode = archive_entry_perm(e) & 07777, .sha256 = "-"};
	const char *target;
	KT_TRY(kind_of(e, &m, &target, err));
	m.uid = (uid_t)archive_entry_uid(e);
	m.gid = (gid_t)archive_entry_gid(e);
	if (target)
		KT_TRY(kt_sha256_hex(target, strlen(target), m.sha256, err));
	return p->fn(p->arg, p->a, e, &m, target, err);
}

static kt_code take_member(pass *p, struct archive_entry *e, kt_err *err)
{
	char *name;
	if (p->complete)
		return kt_fail(err, KT_E_INPUT, bad_remedy, "there is more behind %s", KT_MANIFEST_MEMBER);
	KT_TRY(name_of(e, &name, err));
	kt_code rc = take_named(p, e, name, err);
	free(name);
	if (rc == KT_OK && p->hooks && p->hooks->progress)
		rc = p->hooks->progress(p->hooks->arg, p->at, p->r->bytes, err);
	return rc;
}

static kt_code read_all(pass *p, kt_err *err)
{
	if (p->r->seal)
		KT_TRY(kt_seal_reader_new(p->r->seal, p->r->fd, p->r->bytes, p->r->path, &p->seal, err));
	if (archive_read_support_filter_zstd(p->a) != ARCHIVE_OK ||
	    archive_read_support_format_tar(p->a) != ARCHIVE_OK ||
	    archive_read_open2(p->a, p, NULL, read_in, NULL, NULL) != ARCHIVE_OK)
		return kt_archive_read_failed(p->a, p->r->path, err);
	for (;;) {
		struct archive_entry *e;
		int got = archive_read_next_header(p->a, &e);
		if (got == ARCHIVE_EOF)
			break;
		if (got != ARCHIVE_OK)
			return kt_archive_read_failed(p->a, p->r->path, err);
		KT_TRY(take_member(p, e, err));
	}
	if (!p->complete)
		return kt_fail(err, KT_E_INPUT, bad_remedy, "there is no %s: it is cut off, or not a backup of keyturn",
			       KT_MANIFEST_MEMBER);
	return KT_OK;
}

kt_code kt_archive_each(kt_archive_reader *r, const kt_archive_hooks *hooks, kt_archive_member_fn fn, void *arg,
			kt_manifest *out, kt_err *err)
{
	*out = KT_MANIFEST_INIT;
	pass *p = calloc(1, sizeof *p);
	if (!p || !(p->a = archive_read_new())) {
		free(p);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	p->r = r;
	p->hooks = hooks;
	p->fn = fn;
	p->arg = arg;
	kt_code rc = read_all(p, err);
	if (rc == KT_OK)
		rc = kt_manifest_parse(p->manifest.data, p->manifest.len, out, err);
	kt_buf_free(&p->manifest);
	archive_read_free(p->a);
	kt_seal_reader_free(p->seal);
	free(p);
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "%s", r->path);
}

/* --- verify ---------------------------------------------------------------------------------------------------- */

static kt_code hash_content(struct archive *a, kt_member *m, kt_content_hash *hash, kt_err *err)
{
	for (;;) {
		const void *bytes;
		size_t n;
		la_int64_t at;
		int got = archive_read_data_block(a, &bytes, &n, &at);
		if (got == ARCHIVE_EOF)
			return KT_OK;
		if (got != ARCHIVE_OK)
			return kt_archive_read_failed(a, m->name, err);
		KT_TRY(kt_content_hash_feed(hash, (uint64_t)at, bytes, n, err));
	}
}

static kt_code note_member(void *arg, struct archive *a, struct archive_entry *e, kt_member *m, const char *target,
			   kt_err *err)
{
	kt_manifest *is = arg;
	(void)target;
	if (m->kind == KT_MEMBER_FILE || m->kind == KT_MEMBER_SPARSE) {
		kt_content_hash *hash;
		m->size = (uint64_t)archive_entry_size(e);
		KT_TRY(kt_content_hash_new(m->kind == KT_MEMBER_SPARSE, &hash, err));
		kt_code rc = hash_content(a, m, hash, err);
		if (rc != KT_OK) {
			kt_content_hash_free(hash);
			return rc;
		}
		KT_TRY(kt_content_hash_end(hash, m->size, m->sha256, err));
	}
	return kt_manifest_add(is, m, err);
}

kt_code kt_archive_verify(kt_archive_reader *r, const kt_archive_hooks *hooks, kt_manifest *out, kt_err *err)
{
	kt_manifest is = KT_MANIFEST_INIT;
	kt_code rc = kt_archive_each(r, hooks, note_member, &is, out, err);
	if (rc == KT_OK) {
		const kt_manifest_compare all = {.owner = true};
		rc = kt_manifest_sort(&is, err);
		if (rc == KT_OK)
			rc = kt_manifest_equal(out, &is, &all, err);
		if (rc != KT_OK) {
			rc = kt_err_prefix(err, rc, "%s", r->path);
			kt_manifest_free(out);
		}
	}
	kt_manifest_free(&is);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "store/cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/codec.h"
#include "base/file.h"
#include "envelope/envelope.h"
#include "store/logfile.h"

enum { HEAD = 24, ENTRY_MAX = HEAD + KT_ENVELOPE_NAME_MAX + KT_ENVELOPE_OVERHEAD + KT_ENVELOPE_CONTENT_MAX };

static const uint8_t magic[4] = {'K', 'T', 'C', 'E'};

static void be_put(uint8_t *p, size_t n, uint64_t v)
{
	while (n--) {
		p[n] = (uint8_t)v;
		v >>= 8;
	}
}

static void make_head(uint8_t head[HEAD], const char *name, int64_t epoch, int64_t version)
{
	memset(head, 0, HEAD);
	memcpy(head, magic, sizeof magic);
	head[4] = 1;
	be_put(head + 6, 2, strlen(name));
	be_put(head + 8, 8, (uint64_t)epoch);
	be_put(head + 16, 8, (uint64_t)version);
}

static bool slot_path(const char *folder, const char *name, char *out, size_t size)
{
	char digest[KT_SHA256_HEX];
	if (!folder || kt_sha256_hex(name, strlen(name), digest, NULL) != KT_OK)
		return false;
	return (size_t)snprintf(out, size, "%s/%.2s.kte", folder, digest) < size;
}

bool kt_cache_get(const char *folder, const char *name, int64_t epoch, int64_t version, kt_buf *envelope)
{
	char path[4096];
	uint8_t head[HEAD];
	if (!slot_path(folder, name, path, sizeof path) || access(path, R_OK) != 0)
		return false;
	make_head(head, name, epoch, version);
	size_t n = strlen(name);
	kt_buf entry = {.max = ENTRY_MAX + 65536};
	bool hit = kt_file_read(path, &entry, NULL) == KT_OK && entry.len > HEAD + n &&
		   memcmp(entry.data, head, HEAD) == 0 && memcmp(entry.data + HEAD, name, n) == 0 &&
		   kt_buf_append(envelope, entry.data + HEAD + n, entry.len - HEAD - n, NULL) == KT_OK;
	kt_buf_free(&entry);
	return hit;
}

/* Not durable on purpose: what a power cut damages is a miss. It is atomic, so that a reader never sees half an entry.
 */
static kt_code write_entry(const char *path, const kt_buf *entry, kt_err *err)
{
	char temp[4200];
	(void)snprintf(temp, sizeof temp, "%s.XXXXXX", path);
	int fd = mkostemp(temp, O_CLOEXEC);
	if (fd < 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be made", temp);
	kt_code rc = kt_file_write_all(fd, entry->data, entry->len, temp, err);
	if (close(fd) != 0 && rc == KT_OK)
		rc = kt_fail_errno(err, errno, NULL, "%s cannot be written", temp);
	if (rc == KT_OK && rename(temp, path) != 0)
		rc = kt_fail_errno(err, errno, NULL, "%s cannot be replaced", path);
	if (rc != KT_OK)
		(void)unlink(temp);
	return rc;
}

void kt_cache_put(const char *folder, const char *name, int64_t epoch, int64_t version, const kt_buf *envelope)
{
	char path[4096];
	uint8_t head[HEAD];
	kt_err err = KT_ERR_INIT;
	if (!slot_path(folder, name, path, sizeof path))
		return;
	make_head(head, name, epoch, version);
	kt_buf entry = {.max = ENTRY_MAX};
	kt_code rc = kt_file_mkdirs(folder, 0700, &err);
	if (rc == KT_OK)
		rc = kt_buf_append(&entry, head, HEAD, &err);
	if (rc == KT_OK)
		rc = kt_buf_str(&entry, name, &err);
	if (rc == KT_OK)
		rc = kt_buf_append(&entry, envelope->data, envelope->len, &err);
	if (rc == KT_OK)
		rc = write_entry(path, &entry, &err);
	if (rc != KT_OK)
		kt_logfile(KT_LOG_WARN, "cache", "not cached: %s", err.msg);
	kt_buf_free(&entry);
}

/* Is it a file that this cache made (an entry, or the temporary one of a writer that was killed)? */
static bool ours(const char *file)
{
	return strlen(file) >= 6 && strncmp(file + 2, ".kte", 4) == 0 && (file[6] == '\0' || file[6] == '.');
}

static bool of_epoch(int folder, const char *file, int64_t epoch)
{
	uint8_t head[HEAD], want[8];
	int fd = openat(folder, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	ssize_t n = fd >= 0 ? read(fd, head, sizeof head) : -1;
	if (fd >= 0)
		(void)close(fd);
	be_put(want, 8, (uint64_t)epoch);
	return n == HEAD && memcmp(head, magic, sizeof magic) == 0 && memcmp(head + 8, want, 8) == 0;
}

/* keep_epoch 0: none is kept (epochs begin at 1). */
static kt_code sweep(const char *folder, int64_t keep_epoch, size_t *removed, kt_err *err)
{
	if (removed)
		*removed = 0;
	DIR *d = folder ? opendir(folder) : NULL;
	if (!d)
		return !folder || errno == ENOENT ? KT_OK
						  : kt_fail_errno(err, errno, NULL, "the cache folder %s", folder);
	kt_code rc = KT_OK;
	for (struct dirent *e; rc == KT_OK && (e = readdir(d)) != NULL;) {
		if (!ours(e->d_name) || (keep_epoch && of_epoch(dirfd(d), e->d_name, keep_epoch)))
			continue;
		if (unlinkat(dirfd(d), e->d_name, 0) != 0 && errno != ENOENT)
			rc = kt_fail_errno(err, errno, "remove the cache folder by hand", "%s/%s cannot be removed",
					   folder, e->d_name);
		else if (removed)
			(*removed)++;
	}
	(void)closedir(d);
	return rc;
}

kt_code kt_cache_clear(const char *folder, size_t *removed, kt_err *err)
{
	return sweep(folder, 0, removed, err);
}

kt_code kt_cache_drop_stale(const char *folder, int64_t epoch, size_t *removed, kt_err *err)
{
	return sweep(folder, epoch, removed, err);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/archive_unpack.h"

#include <errno.h>
#include <unistd.h>

#include "agent/archive_reader.h"

static kt_code write_failed(struct archive *disk, const char *path, kt_err *err)
{
	const char *why = archive_error_string(disk);
	int e = archive_errno(disk);
	if (e == ENOSPC || e == EDQUOT)
		return kt_fail_errno(err, e, NULL, "%s cannot be restored", path);
	return kt_fail(err, KT_E_IO, NULL, "%s cannot be restored: %s", path, why ? why : "unknown reason");
}

kt_code kt_archive_unpack_open(struct archive **out, kt_err *err)
{
	int flags = ARCHIVE_EXTRACT_PERM | ARCHIVE_EXTRACT_TIME | ARCHIVE_EXTRACT_ACL | ARCHIVE_EXTRACT_XATTR |
		    ARCHIVE_EXTRACT_SECURE_SYMLINKS | ARCHIVE_EXTRACT_SECURE_NODOTDOT;
	if (geteuid() == 0)
		flags |= ARCHIVE_EXTRACT_OWNER;
	struct archive *disk = archive_write_disk_new();
	if (!disk || archive_write_disk_set_options(disk, flags) != ARCHIVE_OK) {
		archive_write_free(disk);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	*out = disk;
	return KT_OK;
}

static kt_code copy_content(struct archive *disk, struct archive *from, const char *path, kt_keyscan *scan, kt_err *err)
{
	if (scan)
		kt_keyscan_reset(scan);
	for (;;) {
		const void *bytes;
		size_t n;
		la_int64_t at;
		int got = archive_read_data_block(from, &bytes, &n, &at);
		if (got == ARCHIVE_EOF)
			return KT_OK;
		if (got != ARCHIVE_OK)
			return kt_archive_read_failed(from, path, err);
		if (scan && kt_keyscan_feed(scan, bytes, n))
			return kt_fail(err, KT_E_KEY, "destroy this backup, and make a new one",
				       "the backup holds a key in the clear: it came to %s", path);
		if (n && archive_write_data_block(disk, bytes, n, at) < ARCHIVE_OK)
			return write_failed(disk, path, err);
	}
}

kt_code kt_archive_unpack_entry(struct archive *disk, struct archive *from, struct archive_entry *e, bool exact,
				kt_keyscan *scan, kt_err *err)
{
	const char *path = archive_entry_pathname(e);
	int least = exact ? ARCHIVE_OK : ARCHIVE_WARN;
	if (archive_write_header(disk, e) < least)
		return write_failed(disk, path, err);
	if (archive_entry_filetype(e) == AE_IFREG && !archive_entry_hardlink(e))
		KT_TRY(copy_content(disk, from, path, scan, err));
	if (archive_write_finish_entry(disk) < least)
		return write_failed(disk, path, err);
	return KT_OK;
}

kt_code kt_archive_unpack_close(struct archive *disk, kt_err *err)
{
	kt_code rc = KT_OK;
	if (disk && archive_write_close(disk) < ARCHIVE_WARN)
		rc = write_failed(disk, "a folder", err);
	archive_write_free(disk);
	return rc;
}

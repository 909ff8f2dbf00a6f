/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/unseal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/archive_seal.h"
#include "agent/keyref.h"
#include "base/file.h"

static kt_code copy_out(kt_seal_reader *r, int out, kt_err *err)
{
	for (;;) {
		const uint8_t *bytes;
		size_t n;
		uint64_t at;
		KT_TRY(kt_seal_reader_next(r, &bytes, &n, &at, err));
		if (n == 0)
			return KT_OK;
		KT_TRY(kt_file_write_all(out, bytes, n, "standard output", err));
	}
}

static kt_code unseal_fd(const kt_secret *key, int fd, const char *archive, int out, kt_err *err)
{
	const kt_archive_seal seal = {.key = key};
	kt_seal_reader *r = NULL;
	struct stat st;
	if (fstat(fd, &st) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", archive);
	KT_TRY(kt_seal_reader_new(&seal, fd, (uint64_t)st.st_size, archive, &r, err));
	kt_code rc = copy_out(r, out, err);
	kt_seal_reader_free(r);
	return rc;
}

kt_code kt_unseal(const char *key_file, const char *archive, int out, kt_err *err)
{
	kt_secret key;
	KT_TRY(kt_keyref_read_file(key_file, &key, err));
	int fd = open(archive, O_RDONLY | O_CLOEXEC);
	kt_code rc = fd < 0 ? kt_fail_errno(err, errno, NULL, "the backup %s cannot be opened", archive)
			    : unseal_fd(&key, fd, archive, out, err);
	if (fd >= 0)
		(void)close(fd);
	kt_secret_free(&key);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* file:/absolute/path: base64 of 32 bytes in a file of mode 0400. The path is taken as it is, without %-escapes. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "keystore/internal.h"

enum { MODE = 0400, PERMISSIONS = 07777 };

static kt_code missing(const char *path, kt_err *err)
{
	char remedy[KT_ERR_REMEDY];
	(void)snprintf(remedy, sizeof remedy, "there is no file %.400s: restore the key there, or correct the path",
		       path);
	return kt_fail(err, KT_E_KEY, remedy, KT_KEYSTORE_MISSING);
}

static kt_code check_mode(int fd, const char *path, kt_err *err)
{
	struct stat st;
	char remedy[KT_ERR_REMEDY];
	if (fstat(fd, &st) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", path);
	if (!S_ISREG(st.st_mode))
		return kt_fail(err, KT_E_KEY, "give the path of a regular file", "the keystore %s is not a file", path);
	if ((st.st_mode & PERMISSIONS) == MODE)
		return KT_OK;
	(void)snprintf(remedy, sizeof remedy, "chmod 0400 %.400s", path);
	return kt_fail(err, KT_E_KEY, remedy, KT_KEYSTORE_MODE, (unsigned)st.st_mode & PERMISSIONS);
}

static kt_code read_text(int fd, const char *path, kt_secret *text, kt_err *err)
{
	KT_TRY(check_mode(fd, path, err));
	kt_code rc = kt_secret_read_fd(text, fd, KT_KEYSTORE_TEXT_MAX, path, err);
	if (rc == KT_E_INPUT)
		return kt_fail(err, KT_E_KEY, "make a key with: openssl rand -base64 32",
			       "%s is larger than %d bytes: this is no master key", path, KT_KEYSTORE_TEXT_MAX);
	return rc;
}

static kt_code open_file(kt_keystore *ks, const char *rest, kt_err *err)
{
	kt_secret text = KT_SECRET_INIT;
	const char *path = strncmp(rest, "///", 3) == 0 ? rest + 2 : rest;
	if (path[0] != '/' || path[1] == '\0')
		return kt_fail(err, KT_E_INPUT, "write file:/absolute/path",
			       "the path of a file: keystore must be absolute");
	KT_TRY(kt_buf_printf(&ks->uri, err, "file:%s", path));
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return errno == ENOENT ? missing(path, err)
				       : kt_fail_errno(err, errno, NULL, "the key file %s cannot be opened", path);
	kt_code rc = read_text(fd, path, &text, err);
	(void)close(fd);
	if (rc == KT_OK)
		rc = kt_keystore_take_cmk(ks, &text, path, err);
	kt_secret_free(&text);
	return rc;
}

const kt_keystore_scheme kt_keystore_file = {.prefix = "file:",
					     .open = open_file,
					     .new_kek = kt_keystore_local_new,
					     .wrap_kek = kt_keystore_local_wrap,
					     .unwrap_kek = kt_keystore_local_unwrap};

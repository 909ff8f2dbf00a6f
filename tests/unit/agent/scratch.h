/* SPDX-License-Identifier: Apache-2.0 */
/* A fresh folder for each test, and short ways to fill it and to look at it. */
#ifndef KT_TESTS_UNIT_AGENT_SCRATCH_H
#define KT_TESTS_UNIT_AGENT_SCRATCH_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/tree.h"
#include "base/codec.h"
#include "base/file.h"
#include "base/record.h"
#include "tests/unit/support.h"

static char scratch_folder[PATH_MAX];

/* cmocka set-up and tear-down: a folder below the test's own working folder. */
static inline int scratch_make(void **state)
{
	char cwd[PATH_MAX - 32];
	(void)state;
	(void)umask(022);
	if (!getcwd(cwd, sizeof cwd))
		return -1;
	(void)snprintf(scratch_folder, sizeof scratch_folder, "%s/t.XXXXXX", cwd);
	return mkdtemp(scratch_folder) && chmod(scratch_folder, 0755) == 0 ? 0 : -1;
}

static inline int scratch_drop(void **state)
{
	kt_err err = KT_ERR_INIT;
	(void)state;
	return kt_tree_remove(scratch_folder, &err) == KT_OK ? 0 : -1;
}

/* An absolute path in the scratch folder; one of eight static buffers in turn. */
static inline const char *at(const char *name)
{
	static char paths[8][PATH_MAX];
	static unsigned next;
	char *path = paths[next++ % 8];
	if ((size_t)snprintf(path, PATH_MAX, "%s/%s", scratch_folder, name) >= PATH_MAX)
		fail_msg("path too long");
	return path;
}

static inline void put_folder(const char *name, mode_t mode)
{
	kt_err err = KT_ERR_INIT;
	assert_kt_ok(kt_file_mkdirs(at(name), 0755, &err));
	assert_int_equal(chmod(at(name), mode), 0);
}

static inline void put_bytes(const char *name, const void *bytes, size_t n, mode_t mode)
{
	kt_err err = KT_ERR_INIT;
	int fd = open(at(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		fail_msg("%s: %s", name, strerror(errno));
	assert_kt_ok(kt_file_write_all(fd, bytes, n, name, &err));
	assert_int_equal(fchmod(fd, mode), 0);
	assert_int_equal(close(fd), 0);
}

static inline void put_text(const char *name, const char *text, mode_t mode)
{
	put_bytes(name, text, strlen(text), mode);
}

/* A record of the agent's state folder: the text, and its last line. */
static inline void put_record(const char *name, const char *text)
{
	kt_err err = KT_ERR_INIT;
	kt_buf b = KT_BUF_INIT;
	assert_kt_ok(kt_buf_str(&b, text, &err));
	assert_kt_ok(kt_record_replace(at(name), &b, &kt_record_private, &err));
	kt_buf_free(&b);
}

/* The record is whole and says exactly this. */
static inline void assert_record(const char *name, const char *want)
{
	kt_err err = KT_ERR_INIT;
	kt_buf got = KT_BUF_INIT;
	bool found;
	assert_kt_ok(kt_record_read(at(name), NULL, &found, &got, &err));
	assert_true(found);
	assert_string_equal(kt_buf_cstr(&got), want);
	kt_buf_free(&got);
}

static inline bool is_there(const char *name)
{
	struct stat st;
	return lstat(at(name), &st) == 0;
}

/* The file holds exactly this. */
static inline void assert_text(const char *name, const char *want)
{
	kt_err err = KT_ERR_INIT;
	kt_buf got = KT_BUF_INIT;
	assert_kt_ok(kt_file_read(at(name), &got, &err));
	assert_string_equal(kt_buf_cstr(&got), want);
	kt_buf_free(&got);
}

static inline mode_t mode_of(const char *name)
{
	struct stat st;
	assert_int_equal(lstat(at(name), &st), 0);
	return st.st_mode & 07777;
}

#endif

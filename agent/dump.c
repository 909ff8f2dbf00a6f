/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/dump.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "agent/command.h"
#include "agent/scratch.h"

/* A disk that has become full is named: how far it came, and what is left. */
static kt_code not_dumped(int fd, const char *beside, kt_code rc, kt_err *err)
{
	struct stat st;
	struct statvfs fs;
	if (rc == KT_E_IO && fstat(fd, &st) == 0 && fstatvfs(fd, &fs) == 0)
		rc = kt_err_prefix(err, rc, "after %lld bytes, with %llu left beside %s", (long long)st.st_size,
				   (unsigned long long)fs.f_bavail * fs.f_frsize, beside);
	return kt_err_prefix(err, rc, "the database was not dumped");
}

static kt_code run_dump(kt_agent_ctx *ctx, const cJSON *command, int fd, const char *beside, kt_err *err)
{
	const kt_command_pipe pipe = {.out_fd = fd};
	kt_agent_progress(ctx, -1, -1, "dumping the database");
	kt_code rc = kt_command_pipe_run(ctx, command, &pipe, err);
	if (rc != KT_OK)
		return not_dumped(fd, beside, rc, err);
	off_t n = lseek(fd, 0, SEEK_CUR);
	if (n == 0)
		return kt_fail(err, KT_E_REFUSED, "look at the dump command", "the dump of the database is empty");
	if (n < 0 || lseek(fd, 0, SEEK_SET) != 0)
		return kt_fail_errno(err, errno, NULL, "the dump of the database");
	return KT_OK;
}

kt_code kt_dump_make(kt_agent_ctx *ctx, const cJSON *args, const char *name, const char *beside, int *fd, kt_err *err)
{
	const cJSON *command = cJSON_GetObjectItemCaseSensitive(args, name);
	*fd = -1;
	if (!command || cJSON_IsNull(command))
		return KT_OK;
	KT_TRY(kt_scratch_file(beside, KT_DUMP_WHAT, fd, err));
	kt_code rc = run_dump(ctx, command, *fd, beside, err);
	if (rc != KT_OK) {
		(void)close(*fd);
		*fd = -1;
	}
	return rc;
}

static kt_code read_size(const char *text, uint64_t *bytes, kt_err *err)
{
	char *end;
	size_t digits = strspn(text, "0123456789");
	errno = 0;
	*bytes = strtoull(text, &end, 10);
	if (digits && errno == 0 && *bytes <= (uint64_t)INT64_MAX / 8 && end[strspn(end, " \t\r\n")] == '\0')
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED, "have it print a number of bytes and nothing else",
		       "the size of the database's dump is no number: \"%.60s\"", text);
}

kt_code kt_dump_measure(kt_agent_ctx *ctx, const cJSON *command, uint64_t *bytes, kt_err *err)
{
	kt_command_result r;
	kt_code rc = kt_command_run(ctx, command, NULL, &r, err);
	if (rc == KT_OK)
		rc = kt_expect_check(NULL, &r.end, NULL, kt_buf_cstr(&r.tail), err);
	if (rc != KT_OK)
		rc = kt_err_prefix(err, rc, "the size of the database's dump");
	else
		rc = read_size(kt_buf_cstr(&r.out), bytes, err);
	kt_command_result_free(&r);
	return rc;
}

kt_code kt_dump_load(kt_agent_ctx *ctx, const cJSON *command, int fd, kt_err *err)
{
	const kt_command_pipe pipe = {.in_fd = fd};
	if (lseek(fd, 0, SEEK_SET) != 0)
		return kt_fail_errno(err, errno, NULL, "the dump of the database");
	kt_agent_progress(ctx, -1, -1, "loading the database");
	kt_code rc = kt_command_pipe_run(ctx, command, &pipe, err);
	return rc == KT_OK ? rc : kt_err_prefix(err, rc, "the database was not loaded");
}

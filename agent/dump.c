/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/dump.h"

#include <errno.h>
#include <unistd.h>

#include "agent/command.h"
#include "agent/scratch.h"

static kt_code run_dump(kt_agent_ctx *ctx, const cJSON *command, int fd, kt_err *err)
{
	const kt_command_pipe pipe = {.out_fd = fd};
	kt_agent_progress(ctx, -1, -1, "dumping the database");
	kt_code rc = kt_command_pipe_run(ctx, command, &pipe, err);
	if (rc != KT_OK)
		return kt_err_prefix(err, rc, "the database was not dumped");
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
	kt_code rc = run_dump(ctx, command, *fd, err);
	if (rc != KT_OK) {
		(void)close(*fd);
		*fd = -1;
	}
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

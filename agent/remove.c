/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/action.h"
#include "base/file.h"

static kt_code remove_file(const cJSON *args, kt_err *err)
{
	const char *path;
	struct stat st;
	KT_TRY(kt_arg_path(args, "path", &path, err));
	bool there = lstat(path, &st) == 0;
	if (!there && errno != ENOENT)
		return kt_fail_errno(err, errno, NULL, "%s", path);
	if (there && !S_ISREG(st.st_mode))
		return kt_fail(err, KT_E_REFUSED, "remove it by hand if it may go",
			       "%s is not a regular file; nothing else is removed", path);
	return kt_file_remove(path, NULL, err);
}

kt_status kt_action_file_remove(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)ctx, (void)result;
	return kt_action_end(remove_file(args, err));
}

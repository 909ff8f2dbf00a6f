/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/keep.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "wire/message.h"

kt_code kt_keep_path(const char *path, const char *run, const char *ending, char out[PATH_MAX], kt_err *err)
{
	KT_TRY(kt_name_check("run", run, err));
	int n = snprintf(out, PATH_MAX, "%s.keyturn-%s.old%s", path, run, ending);
	if (n < 0 || n >= PATH_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", path);
	return KT_OK;
}

kt_code kt_keep_link(const char *path, const char *run, const char *ending, kt_err *err)
{
	char file[PATH_MAX];
	char kept[PATH_MAX];
	struct stat st;
	if ((size_t)snprintf(file, sizeof file, "%s%s", path, ending) >= sizeof file)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", path);
	KT_TRY(kt_keep_path(path, run, ending, kept, err));
	if (lstat(file, &st) != 0)
		return errno == ENOENT || errno == ENOTDIR ? KT_OK : kt_fail_errno(err, errno, NULL, "%s", file);
	if (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
		return KT_OK; /* a folder is not replaced by a file: whoever tries says so */
	if (linkat(AT_FDCWD, file, AT_FDCWD, kept, 0) != 0 && errno != EEXIST)
		return kt_fail_errno(err, errno, "the file system must know hard links, and the agent may make them",
				     "the old version of %s cannot be kept as %s", file, kept);
	return kt_file_sync_folder(kept, err);
}

bool kt_keep_is(const char *base)
{
	static const char *const endings[] = {".old", ".old-wal", ".old-journal"};
	const char *mark = strstr(base, ".keyturn-");
	size_t n = mark ? strlen(mark) : 0;
	for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
		size_t end = strlen(endings[i]);
		if (n > sizeof ".keyturn-" - 1 + end && strcmp(mark + n - end, endings[i]) == 0)
			return true;
	}
	return false;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/journal/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"

enum { HOLDER_MAX = 400 };

/* One line of text; it only serves the message of the next one who comes. */
static kt_code write_holder(int fd, const char *path, kt_err *err)
{
	char host[256] = "?";
	char since[KT_TIME_TEXT];
	char text[HOLDER_MAX];
	(void)gethostname(host, sizeof host - 1);
	kt_clock_format(kt_clock_wall_ms(), since);
	int n = snprintf(text, sizeof text, "pid %ld on %s since %s\n", (long)getpid(), host, since);
	if (ftruncate(fd, 0) != 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be written", path);
	return kt_file_write_all(fd, text, (size_t)n, path, err);
}

static kt_code busy(int fd, const char *folder, kt_err *err)
{
	char text[HOLDER_MAX + 1];
	ssize_t n = pread(fd, text, HOLDER_MAX, 0);
	size_t len = n > 0 ? (size_t)n : 0;
	text[len] = '\0';
	text[strcspn(text, "\n")] = '\0';
	return kt_fail(err, KT_E_BUSY, "wait until it has ended, or end that process; `keyturn status` shows the run",
		       "%s is held by another coordinator (%s)", folder, text[0] ? text : "it does not say who");
}

kt_code kt_lock_take(const char *folder, int *fd, kt_err *err)
{
	char path[4096];
	*fd = -1;
	if ((size_t)snprintf(path, sizeof path, "%s/journal.lock", folder) >= sizeof path)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", folder);
	int f = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (f < 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be opened", path);
	kt_code rc = KT_OK;
	if (flock(f, LOCK_EX | LOCK_NB) != 0)
		rc = errno == EWOULDBLOCK ? busy(f, folder, err)
					  : kt_fail_errno(err, errno, NULL, "%s cannot be locked", path);
	if (rc == KT_OK)
		rc = write_holder(f, path, err);
	if (rc == KT_OK)
		*fd = f;
	else
		(void)close(f);
	return rc;
}

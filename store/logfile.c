/* SPDX-License-Identifier: Apache-2.0 */
#include "store/logfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"

enum { LINE = 4096 };

static int log_fd = -1;

static kt_code make_folder(const char *path, kt_err *err)
{
	char *folder = strdup(path);
	if (!folder)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	char *slash = strrchr(folder, '/');
	kt_code rc = KT_OK;
	if (slash && slash != folder) {
		*slash = '\0';
		rc = kt_file_mkdirs(folder, 0750, err);
	}
	free(folder);
	return rc;
}

kt_code kt_logfile_open(const char *path, kt_err *err)
{
	kt_logfile_close();
	if (!path)
		return KT_OK;
	KT_TRY(make_folder(path, err));
	log_fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);
	return log_fd >= 0 ? KT_OK : kt_fail_errno(err, errno, NULL, "the log %s cannot be opened", path);
}

void kt_logfile_close(void)
{
	if (log_fd >= 0)
		(void)close(log_fd);
	log_fd = -1;
}

static size_t head(char *line, size_t size, kt_log_level level, const char *part)
{
	static const char *const word[] = {"ERROR", "WARN", "INFO", "DEBUG", "TRACE"};
	int64_t now = kt_clock_wall_ms();
	time_t seconds = (time_t)(now / 1000);
	struct tm tm;
	char when[32];
	if (!gmtime_r(&seconds, &tm) || strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &tm) == 0)
		when[0] = '\0';
	int n = snprintf(line, size, "%s.%03d +0000 [%s|%05x|%s] :: ", when, (int)(now % 1000), word[level],
			 (unsigned)getpid(), part);
	return n > 0 && (size_t)n < size ? (size_t)n : 0;
}

void kt_logfile(kt_log_level level, const char *part, const char *fmt, ...)
{
	if (log_fd < 0)
		return;
	char line[LINE];
	size_t n = head(line, sizeof line, level, part);
	va_list ap;
	va_start(ap, fmt);
	int body = vsnprintf(line + n, sizeof line - n - 1, fmt, ap);
	va_end(ap);
	if (body < 0)
		return;
	n += (size_t)body < sizeof line - n - 1 ? (size_t)body : sizeof line - n - 2;
	n = kt_log_scrub((uint8_t *)line, n);
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?';
	line[n++] = '\n';
	/* A log that cannot be written must not stop the work that it describes. */
	KT_IGNORE(kt_file_write_all(log_fd, line, n, "log", NULL));
}

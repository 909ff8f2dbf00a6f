/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/journal/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"

enum { HOLDER_MAX = 400, PATH_LEN = 4096 };

/* Its first line says who holds it; the second how many entries the journal had. */
static const char ENTRIES[] = "\nentries ";

static size_t read_text(int fd, char text[HOLDER_MAX + 1])
{
	ssize_t n = pread(fd, text, HOLDER_MAX, 0);
	text[n > 0 ? n : 0] = '\0';
	return n > 0 ? (size_t)n : 0;
}

static int64_t read_entries(int fd)
{
	char text[HOLDER_MAX + 1];
	(void)read_text(fd, text);
	const char *at = strstr(text, ENTRIES);
	long long n = at ? strtoll(at + strlen(ENTRIES), NULL, 10) : 0;
	return n > 0 ? n : 0;
}

/* It only serves the next one who comes. */
static kt_code write_holder(int fd, const char *path, int64_t entries, kt_err *err)
{
	char host[256] = "?";
	char since[KT_TIME_TEXT];
	char text[HOLDER_MAX];
	(void)gethostname(host, sizeof host - 1);
	kt_clock_format(kt_clock_wall_ms(), since);
	int n = snprintf(text, sizeof text, "pid %ld on %s since %s%s%" PRId64 "\n", (long)getpid(), host, since,
			 ENTRIES, entries);
	if (ftruncate(fd, 0) != 0 || lseek(fd, 0, SEEK_SET) != 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be written", path);
	return kt_file_write_all(fd, text, (size_t)n, path, err);
}

void kt_lock_note(int fd, int64_t entries)
{
	KT_IGNORE(write_holder(fd, "journal.lock", entries, NULL));
}

static kt_code busy(int fd, const char *folder, kt_err *err)
{
	char text[HOLDER_MAX + 1];
	(void)read_text(fd, text);
	text[strcspn(text, "\n")] = '\0';
	return kt_fail(err, KT_E_BUSY, "wait until it has ended, or end that process; `keyturn status` shows the run",
		       "%s is held by another coordinator (%s)", folder, text[0] ? text : "it does not say who");
}

static bool lock_path(const char *folder, char out[PATH_LEN])
{
	return (size_t)snprintf(out, PATH_LEN, "%s/journal.lock", folder) < PATH_LEN;
}

kt_code kt_lock_take(const char *folder, int *fd, int64_t *entries, kt_err *err)
{
	char path[PATH_LEN];
	*fd = -1;
	*entries = 0;
	if (!lock_path(folder, path))
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", folder);
	int f = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (f < 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be opened", path);
	kt_code rc = KT_OK;
	if (flock(f, LOCK_EX | LOCK_NB) != 0)
		rc = errno == EWOULDBLOCK ? busy(f, folder, err)
					  : kt_fail_errno(err, errno, NULL, "%s cannot be locked", path);
	if (rc == KT_OK) {
		*entries = read_entries(f);
		rc = write_holder(f, path, *entries, err);
	}
	if (rc == KT_OK)
		*fd = f;
	else
		(void)close(f);
	return rc;
}

static int open_to_look(const char *folder)
{
	char path[PATH_LEN];
	return lock_path(folder, path) ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
}

int64_t kt_lock_entries(const char *folder)
{
	int f = open_to_look(folder);
	if (f < 0)
		return 0;
	int64_t entries = read_entries(f);
	(void)close(f);
	return entries;
}

bool kt_lock_held(const char *folder)
{
	int f = open_to_look(folder);
	if (f < 0)
		return false;
	bool held = flock(f, LOCK_SH | LOCK_NB) != 0;
	(void)close(f);
	return held;
}

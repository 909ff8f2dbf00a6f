/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/journal/pair.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

enum { PATH_LEN = 4096, BLOCK = 65536 };

static const char PREFIX[] = ".journal-check.";
static const char *const names[] = {"journal.db", "journal.db-journal"};

static bool path_of(const char *folder, const char *name, char out[PATH_LEN])
{
	return (size_t)snprintf(out, PATH_LEN, "%s/%s", folder, name) < PATH_LEN;
}

bool kt_pair_is_hot(const char *folder)
{
	struct stat st;
	char path[PATH_LEN];
	return path_of(folder, names[1], path) && lstat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0;
}

static kt_code copy_bytes(int from, int to, const char *path, kt_err *err)
{
	char block[BLOCK];
	for (;;) {
		ssize_t n = read(from, block, sizeof block);
		if (n < 0)
			return kt_fail_errno(err, errno, NULL, "%s cannot be read", path);
		if (n == 0)
			return KT_OK;
		KT_TRY(kt_file_write_all(to, block, (size_t)n, path, err));
	}
}

static kt_code copy_file(const char *from, const char *to, kt_err *err)
{
	int in = open(from, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	int out = in < 0 ? -1 : open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	kt_code rc =
		out < 0 ? kt_fail_errno(err, errno, NULL, "%s cannot be copied", from) : copy_bytes(in, out, from, err);
	if (in >= 0)
		(void)close(in);
	if (out >= 0)
		(void)close(out);
	return rc;
}

void kt_pair_sweep(const char *folder)
{
	DIR *d = opendir(folder);
	for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
		char path[PATH_LEN];
		if (strncmp(e->d_name, PREFIX, strlen(PREFIX)) != 0)
			continue;
		long pid = strtol(e->d_name + strlen(PREFIX), NULL, 10);
		bool gone = pid == getpid() || (kill((pid_t)pid, 0) != 0 && errno == ESRCH);
		if (pid > 0 && gone && path_of(folder, e->d_name, path))
			kt_pair_remove(path);
	}
	if (d)
		(void)closedir(d);
}

kt_code kt_pair_copy(const char *folder, char copy[PATH_LEN], kt_err *err)
{
	char name[64];
	kt_pair_sweep(folder);
	(void)snprintf(name, sizeof name, "%s%ld", PREFIX, (long)getpid());
	if (!path_of(folder, name, copy) || mkdir(copy, 0700) != 0)
		return kt_fail_errno(err, errno, NULL, "%.200s: no copy of the journal can be made", folder);
	kt_code rc = KT_OK;
	for (size_t i = 0; rc == KT_OK && i < sizeof names / sizeof names[0]; i++) {
		char from[PATH_LEN];
		char to[PATH_LEN];
		rc = path_of(folder, names[i], from) && path_of(copy, names[i], to)
			     ? copy_file(from, to, err)
			     : kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", folder);
	}
	if (rc != KT_OK)
		kt_pair_remove(copy);
	return rc;
}

void kt_pair_remove(const char *copy)
{
	char path[PATH_LEN];
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (path_of(copy, names[i], path))
			(void)unlink(path);
	(void)rmdir(copy);
}

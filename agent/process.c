/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/process.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char boot_id_file[] = "/proc/sys/kernel/random/boot_id";

/* A small file of /proc as text; its length, or -1 with errno. */
static ssize_t slurp(const char *path, char *out, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n;
	do
		n = read(fd, out, size - 1);
	while (n < 0 && errno == EINTR);
	int e = errno;
	(void)close(fd);
	errno = e;
	out[n > 0 ? n : 0] = '\0';
	return n;
}

kt_code kt_boot_id(char out[KT_BOOT_ID], kt_err *err)
{
	char text[64];
	if (slurp(boot_id_file, text, sizeof text) < 36)
		return kt_fail_errno(err, errno ? errno : EIO, NULL, "%s", boot_id_file);
	memcpy(out, text, 36);
	out[36] = '\0';
	return KT_OK;
}

typedef struct stat_line {
	char state;
	long session;
	int64_t start;
} stat_line;

/* proc(5): "pid (comm) state ppid pgrp session ... starttime(22)"; comm may hold anything, so from the last ')'. */
static bool read_stat(pid_t pid, stat_line *out)
{
	char path[64];
	char text[1024];
	(void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	if (slurp(path, text, sizeof text) <= 0)
		return false;
	const char *p = strrchr(text, ')');
	if (!p || p[1] != ' ')
		return false;
	*out = (stat_line){.state = p[2]};
	p += 3;
	for (int field = 4; field <= 22; field++) {
		char *end;
		long long v = strtoll(p, &end, 10);
		if (end == p)
			return false;
		if (field == 6)
			out->session = (long)v;
		if (field == 22)
			out->start = v;
		p = end;
	}
	return true;
}

static bool runs(const stat_line *s)
{
	return s->state != 'Z' && s->state != 'X' && s->state != 'x';
}

kt_code kt_process_of(pid_t pid, kt_process *out, kt_err *err)
{
	stat_line s;
	*out = (kt_process){.pid = pid};
	KT_TRY(kt_boot_id(out->boot_id, err));
	if (!read_stat(pid, &s))
		return kt_fail(err, KT_E_IO, NULL, "/proc/%d/stat cannot be read", (int)pid);
	out->start = s.start;
	return KT_OK;
}

static bool same_boot(const kt_process *p)
{
	char now[KT_BOOT_ID];
	kt_err ignored = KT_ERR_INIT;
	return kt_boot_id(now, &ignored) != KT_OK || strcmp(now, p->boot_id) == 0;
}

bool kt_process_alive(const kt_process *p)
{
	stat_line s;
	return same_boot(p) && read_stat(p->pid, &s) && s.start == p->start && runs(&s);
}

bool kt_process_session_alive(const kt_process *leader)
{
	stat_line now;
	if (!same_boot(leader))
		return false;
	/* The kernel gives no number to a process while a session bears it: another one with that number, another
	 * session. */
	if (read_stat(leader->pid, &now) && now.start != leader->start)
		return false;
	DIR *d = opendir("/proc");
	if (!d)
		return true;
	bool found = false;
	for (struct dirent *e; !found && (e = readdir(d));) {
		stat_line s;
		/* lint: allow atoi: names in /proc that begin with a digit are numbers */
		if (isdigit((unsigned char)e->d_name[0]) && read_stat((pid_t)atol(e->d_name), &s))
			found = s.session == (long)leader->pid && s.start >= leader->start && runs(&s);
	}
	(void)closedir(d);
	return found;
}

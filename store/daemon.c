/* SPDX-License-Identifier: Apache-2.0 */
#include "store/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"

/* What goes through the pipe, in one write of less than PIPE_BUF. */
typedef struct report {
	int code;
	char text[KT_ERR_MSG];
	char remedy[KT_ERR_REMEDY];
} report;

static void close_others(int keep)
{
	if (keep > 3)
		(void)close_range(3, (unsigned)keep - 1, 0);
	(void)close_range((unsigned)keep + 1, ~0U, 0);
}

static kt_code await(int fd, pid_t child, char text[KT_DAEMON_TEXT], kt_err *err)
{
	report r;
	size_t got = 0;
	while (got < sizeof r) {
		ssize_t n = read(fd, (char *)&r + got, sizeof r - got);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		got += (size_t)n;
	}
	if (got < sizeof r) {
		int status = 0;
		(void)waitpid(child, &status, 0);
		return kt_fail(err, KT_E_INTERNAL, "start it with --foreground to see more",
			       "the node ended before it was ready (%s %d)",
			       WIFSIGNALED(status) ? "signal" : "exit code",
			       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	}
	if (r.code == KT_OK) {
		(void)snprintf(text, KT_DAEMON_TEXT, "%.500s", r.text);
		return KT_OK;
	}
	(void)waitpid(child, NULL, 0);
	return kt_fail(err, (kt_code)r.code, r.remedy, "%s", r.text);
}

kt_code kt_daemon_fork(kt_daemon *d, char text[KT_DAEMON_TEXT], kt_err *err)
{
	int pipe_fd[2];
	*d = (kt_daemon){.fd = -1};
	if (pipe2(pipe_fd, O_CLOEXEC) != 0)
		return kt_fail_errno(err, errno, NULL, "a pipe cannot be made");
	(void)fflush(NULL);
	pid_t pid = fork();
	if (pid < 0) {
		int e = errno;
		(void)close(pipe_fd[0]);
		(void)close(pipe_fd[1]);
		return kt_fail_errno(err, e, NULL, "the process cannot be forked");
	}
	if (pid == 0) {
		(void)close(pipe_fd[0]);
		(void)setsid();
		close_others(pipe_fd[1]);
		*d = (kt_daemon){.child = true, .fd = pipe_fd[1]};
		return KT_OK;
	}
	(void)close(pipe_fd[1]);
	kt_code rc = await(pipe_fd[0], pid, text, err);
	(void)close(pipe_fd[0]);
	return rc;
}

void kt_daemon_report(kt_daemon *d, const char *text, const kt_err *err)
{
	if (d->fd < 0)
		return;
	report r = {.code = err ? (int)err->code : KT_OK};
	(void)snprintf(r.text, sizeof r.text, "%s", err ? err->msg : text);
	(void)snprintf(r.remedy, sizeof r.remedy, "%s", err ? err->remedy : "");
	/* A parent that is gone has nobody to tell. */
	KT_IGNORE(kt_file_write_all(d->fd, &r, sizeof r, "pipe", NULL));
	(void)close(d->fd);
	d->fd = -1;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; null >= 0 && fd <= 2; fd++)
		(void)dup2(null, fd);
	if (null > 2)
		(void)close(null);
}

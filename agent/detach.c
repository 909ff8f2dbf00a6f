/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/detach.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/spawn.h"

enum { SCOPE_TIMEOUT_MS = 10000, CHUNK = 64 * 1024 };

/* Only async-signal-safe calls: we come from a process with threads. */
static void become(const char *const *argv, int in, int report)
{
	union {
		const char *const *from;
		char *const *to;
	} args = {.from = argv};
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	sigset_t none;
	(void)sigemptyset(&none);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	/* Above everything that is about to be replaced. */
	int high_in = in >= 0 ? fcntl(in, F_DUPFD_CLOEXEC, 10) : null;
	int high_report = report >= 0 ? fcntl(report, F_DUPFD_CLOEXEC, 10) : -1;
	if (null < 0 || high_in < 0 || dup2(high_in, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0 ||
	    chdir("/") != 0)
		/* lint: allow exit: the child after fork, before exec */
		_exit(127);
	if (close_range(3, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */) != 0)
		for (int fd = 3; fd < 4096; fd++)
			(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
	if (high_report >= 0 && dup2(high_report, KT_DETACH_REPORT_FD) < 0)
		/* lint: allow exit: the child after fork, before exec */
		_exit(127);
	for (int s = 1; s < NSIG; s++)
		(void)sigaction(s, &dfl, NULL);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)execv("/proc/self/exe", args.to);
	/* lint: allow exit: the child after fork, before exec */
	_exit(127);
}

kt_code kt_detach(const char *const *argv, int in, int report, kt_err *err)
{
	pid_t first = fork();
	if (first < 0)
		return kt_fail_errno(err, errno, NULL, "no process for detached work");
	if (first == 0) {
		(void)setsid();
		pid_t second = fork();
		if (second == 0)
			become(argv, in, report);
		/* lint: allow exit: the child after fork, before exec */
		_exit(second < 0 ? 1 : 0);
	}
	int status;
	while (waitpid(first, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return kt_fail(err, KT_E_IO, NULL, "no process for detached work");
	return KT_OK;
}

kt_code kt_detach_drain(int fd, kt_err *err)
{
	return kt_detach((const char *const[]){"keyturn-agent", "drain", NULL}, fd, -1, err);
}

void kt_drain(void)
{
	static char sink[CHUNK];
	for (ssize_t n = 1; n > 0 || (n < 0 && errno == EINTR);)
		n = read(STDIN_FILENO, sink, sizeof sink);
	explicit_bzero(sink, sizeof sink);
}

/* What systemd takes in a unit's name. */
static void unit_name(const char *name, char *out, size_t size)
{
	size_t n = (size_t)snprintf(out, size, "keyturn-%s.scope", name);
	for (size_t i = 0; i < n && out[i]; i++)
		if (!isalnum((unsigned char)out[i]) && !strchr("-_.", out[i]))
			out[i] = '-';
}

void kt_detach_scope(const char *name)
{
	char unit[200];
	char pid[16];
	if (geteuid() != 0 || access("/run/systemd/private", F_OK) != 0)
		return;
	unit_name(name, unit, sizeof unit);
	(void)snprintf(pid, sizeof pid, "%d", (int)getpid());
	const char *argv[] = {"busctl",
			      "call",
			      "org.freedesktop.systemd1",
			      "/org/freedesktop/systemd1",
			      "org.freedesktop.systemd1.Manager",
			      "StartTransientUnit",
			      "ssa(sv)a(sa(sv))",
			      unit,
			      "fail",
			      "2",
			      "PIDs",
			      "au",
			      "1",
			      pid,
			      "CollectMode",
			      "s",
			      "inactive-or-failed",
			      "0",
			      NULL};
	kt_spawn_what what = {.argv = argv, .timeout_ms = SCOPE_TIMEOUT_MS};
	kt_spawn_end end;
	kt_err err = KT_ERR_INIT;
	if (kt_spawn_capture(&what, NULL, NULL, &end, &err) != KT_OK || end.exit != 0)
		kt_log(KT_LOG_WARN, "no scope of our own from systemd: %s", err.msg[0] ? err.msg : "busctl failed");
}

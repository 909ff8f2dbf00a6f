/* SPDX-License-Identifier: Apache-2.0 */
#include "store/pidfile.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"

enum { TAKE_TRIES = 10, POLL_MS = 20 };

static kt_code owner_of(int fd, const char *path, pid_t *pid, kt_err *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	*pid = 0;
	if (fcntl(fd, F_GETLK, &lock) != 0)
		return kt_fail_errno(err, errno, NULL, "the lock of %s cannot be read", path);
	if (lock.l_type == F_UNLCK)
		return KT_OK;
	if (lock.l_pid <= 0)
		return kt_fail(err, KT_E_REFUSED, "ask in the container or on the host where it runs",
			       "%s is held by a process that cannot be seen from here", path);
	*pid = lock.l_pid;
	return KT_OK;
}

kt_code kt_pidfile_owner(const char *path, pid_t *pid, kt_err *err)
{
	*pid = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return errno == ENOENT ? KT_OK : kt_fail_errno(err, errno, NULL, "the pid file %s", path);
	kt_code rc = owner_of(fd, path, pid, err);
	(void)close(fd);
	return rc;
}

/* Lock what is open; *stale when the path names another file by now (its last owner removed it in between). */
static kt_code lock_open(int fd, const char *path, bool *stale, kt_err *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	*stale = false;
	if (fcntl(fd, F_SETLK, &lock) != 0) {
		if (errno != EACCES && errno != EAGAIN)
			return kt_fail_errno(err, errno, NULL, "%s cannot be locked", path);
		pid_t pid;
		KT_TRY(owner_of(fd, path, &pid, err));
		return kt_fail(err, KT_E_BUSY, "stop it first", "this node is running already (pid %d, %s)", (int)pid,
			       path);
	}
	struct stat ours, named;
	if (fstat(fd, &ours) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", path);
	*stale = stat(path, &named) != 0 || named.st_dev != ours.st_dev || named.st_ino != ours.st_ino;
	return KT_OK;
}

static kt_code write_pid(int fd, const char *path, kt_err *err)
{
	char text[32];
	int n = snprintf(text, sizeof text, "%d\n", (int)getpid());
	if (ftruncate(fd, 0) != 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be written", path);
	return kt_file_write_all(fd, text, (size_t)n, path, err);
}

kt_code kt_pidfile_take(const char *path, int *fd, kt_err *err)
{
	for (int i = 0; i < TAKE_TRIES; i++) {
		bool stale;
		*fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
		if (*fd < 0)
			return kt_fail_errno(err, errno, NULL, "the pid file %s cannot be made", path);
		kt_code rc = lock_open(*fd, path, &stale, err);
		if (rc == KT_OK && !stale)
			rc = write_pid(*fd, path, err);
		if (rc == KT_OK && !stale)
			return KT_OK;
		(void)close(*fd);
		*fd = -1;
		KT_TRY(rc);
	}
	return kt_fail(err, KT_E_BUSY, "try again", "the pid file %s keeps changing", path);
}

void kt_pidfile_release(const char *path, int fd)
{
	if (fd < 0)
		return;
	(void)unlink(path);
	(void)close(fd);
}

static kt_code still_running(pid_t pid, int timeout_ms, kt_err *err)
{
	return kt_fail(err, KT_E_BUSY, "look at its log, and stop it by hand",
		       "pid %d was asked to stop and is still running after %d s", (int)pid, timeout_ms / 1000);
}

/* Wait until the process behind the pidfd has ended. */
static kt_code wait_gone(int pidfd, pid_t pid, int timeout_ms, kt_err *err)
{
	int64_t end = kt_clock_mono_ms() + timeout_ms;
	for (;;) {
		int64_t left = end - kt_clock_mono_ms();
		struct pollfd p = {.fd = pidfd, .events = POLLIN};
		int n = poll(&p, 1, left > 0 ? (int)left : 0);
		if (n > 0)
			return KT_OK;
		if (n < 0 && errno != EINTR)
			return kt_fail_errno(err, errno, NULL, "the end of pid %d cannot be awaited", (int)pid);
		if (n == 0 && left <= 0)
			return kt_fail(err, KT_E_BUSY, "look at its log, and stop it by hand",
				       "pid %d was asked to stop and is still running after %d s", (int)pid,
				       timeout_ms / 1000);
	}
}

/* For kernels without pidfds: the end of the process is the end of its lock. */
static kt_code stop_by_lock(const char *path, pid_t pid, int timeout_ms, kt_err *err)
{
	int64_t end = kt_clock_mono_ms() + timeout_ms;
	pid_t holder = pid;
	if (kill(pid, SIGTERM) != 0 && errno != ESRCH)
		return kt_fail_errno(err, errno, NULL, "pid %d cannot be signalled", (int)pid);
	while (holder == pid) {
		if (kt_clock_mono_ms() > end)
			return still_running(pid, timeout_ms, err);
		(void)poll(NULL, 0, POLL_MS);
		KT_TRY(kt_pidfile_owner(path, &holder, err));
	}
	return KT_OK;
}

static kt_code stop_by_pidfd(int pidfd, const char *path, pid_t pid, int timeout_ms, kt_err *err)
{
	/* The pid could have been reused before it was pinned: only the holder of the lock is signalled. */
	pid_t again;
	KT_TRY(kt_pidfile_owner(path, &again, err));
	if (again != pid)
		return KT_OK;
	if (pidfd_send_signal(pidfd, SIGTERM, NULL, 0) != 0 && errno != ESRCH)
		return kt_fail_errno(err, errno, NULL, "pid %d cannot be signalled", (int)pid);
	return wait_gone(pidfd, pid, timeout_ms, err);
}

kt_code kt_pidfile_stop(const char *path, int timeout_ms, pid_t *pid, kt_err *err)
{
	KT_TRY(kt_pidfile_owner(path, pid, err));
	if (*pid == 0)
		return KT_OK;
	int pidfd = pidfd_open(*pid, 0);
	if (pidfd < 0 && errno == ESRCH)
		return KT_OK;
	if (pidfd < 0 && errno == ENOSYS)
		return stop_by_lock(path, *pid, timeout_ms, err);
	if (pidfd < 0)
		return kt_fail_errno(err, errno, NULL, "pid %d cannot be watched", (int)*pid);
	kt_code rc = stop_by_pidfd(pidfd, path, *pid, timeout_ms, err);
	(void)close(pidfd);
	return rc;
}

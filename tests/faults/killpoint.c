/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loaded into programs by LD_PRELOAD (or a node's /etc/ld.so.preload): ends keyturn or keyturn-agent with SIGKILL just
 * before or just after a chosen durable step, and moves the clock. The product knows nothing of it.
 *
 * The folder KT_FAULTS (else /etc/keyturn-faults) says what is to happen. CLASS is "coordinator" (keyturn), "owner"
 * (its process that owns the token), "serve" or "run" (keyturn-agent): point.CLASS   "count" or "N before" or "N
 * after": what happens at the N-th step, counted over all processes below.CLASS   only steps on paths below this one
 * count; without that file: all pause.CLASS   text: a step on a path that has it waits as long as this file is there
 *   nap.CLASS     longest sleep in milliseconds
 *   warp.CLASS    how much faster the monotonic clock of event loops goes
 *   clock         seconds that the clock of every program is ahead
 * and gets count.CLASS (how many there were), log.CLASS (a line a step), fired.CLASS (written before the end) and
 * paused.CLASS (a line a step that waits).
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { TEXT = 2 * PATH_MAX };

/* The function of this name that comes after ours. (ISO C has no cast from an object to a function.) */
#define REAL(name) (__extension__((__typeof__(&name))real(#name)))

static const char *class; /* NULL: not one of ours */
static char folder[PATH_MAX];
static char below[PATH_MAX];
static long nap_ms = -1;
static long warp = 1;

static void *real(const char *name)
{
	void *f = dlsym(RTLD_NEXT, name);
	if (!f)
		abort();
	return f;
}

/* --- the folder that says what is to happen ------------------------------------------------------------------------
 */

static int open_in(const char *name, int flags)
{
	char path[TEXT];
	(void)snprintf(path, sizeof path, "%s/%s", folder, name);
	return open(path, flags | O_CLOEXEC, 0600);
}

static int open_of_class(const char *what, int flags)
{
	char name[64];
	(void)snprintf(name, sizeof name, "%s.%s", what, class);
	return open_in(name, flags);
}

/* The content without its last newline; false when there is none. */
static bool content(int fd, char *out, size_t size)
{
	ssize_t n = fd < 0 ? -1 : read(fd, out, size - 1);
	if (fd >= 0)
		(void)close(fd);
	if (n <= 0)
		return false;
	out[out[n - 1] == '\n' ? n - 1 : n] = '\0';
	return true;
}

static void say(const char *what, const char *text)
{
	int fd = open_of_class(what, O_WRONLY | O_CREAT | O_APPEND);
	if (fd < 0)
		return;
	if (write(fd, text, strlen(text)) < 0)
		abort();
	(void)close(fd);
}

/* Which of ours is this? By the program's file and its first argument. */
static const char *who(void)
{
	char exe[PATH_MAX];
	char args[PATH_MAX] = "";
	ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
	exe[n > 0 ? n : 0] = '\0';
	const char *name = strrchr(exe, '/');
	(void)content(open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC), args, sizeof args);
	const char *verb = args + strlen(args) + 1;
	if (name && strcmp(name, "/keyturn") == 0)
		return strcmp(verb, "hsm-owner") == 0 ? "owner" : "coordinator";
	if (!name || strcmp(name, "/keyturn-agent") != 0)
		return NULL;
	return strcmp(verb, "serve") == 0 ? "serve" : strcmp(verb, "run") == 0 ? "run" : NULL;
}

__attribute__((constructor)) static void begin(void)
{
	char text[32];
	int kept = errno;
	const char *given = getenv("KT_FAULTS");
	(void)snprintf(folder, sizeof folder, "%s", given ? given : "/etc/keyturn-faults");
	class = who();
	if (class) {
		(void)content(open_of_class("below", O_RDONLY), below, sizeof below);
		if (content(open_of_class("nap", O_RDONLY), text, sizeof text))
			nap_ms = strtol(text, NULL, 10);
		if (content(open_of_class("warp", O_RDONLY), text, sizeof text))
			warp = strtol(text, NULL, 10);
	}
	errno = kept;
}

/* --- points --------------------------------------------------------------------------------------------------------
 */

/* The next number, over all processes of this class. */
static long next_number(void)
{
	char text[32] = "0";
	int fd = open_of_class("count", O_RDWR | O_CREAT);
	if (fd < 0 || flock(fd, LOCK_EX) != 0)
		abort();
	ssize_t got = pread(fd, text, sizeof text - 1, 0);
	text[got > 0 ? got : 0] = '\0';
	long n = strtol(text, NULL, 10) + 1;
	int len = snprintf(text, sizeof text, "%ld", n);
	if (pwrite(fd, text, (size_t)len, 0) != len)
		abort();
	(void)close(fd);
	return n;
}

static void end_here(long n, const char *when, const char *step, const char *path)
{
	char line[TEXT];
	(void)snprintf(line, sizeof line, "%ld %s %s %s\n", n, when, step, path);
	say("fired", line);
	(void)kill(getpid(), SIGKILL);
	for (;;)
		(void)pause();
}

/* Would it change anything? What is there already is not made, what is not there is not removed. */
static bool there(const char *path)
{
	int kept = errno;
	bool yes = class && access(path, F_OK) == 0;
	errno = kept;
	return yes;
}

static void pause_here(const char *step, const char *path)
{
	char text[PATH_MAX];
	char line[TEXT];
	bool said = false;
	while (content(open_of_class("pause", O_RDONLY), text, sizeof text) && strstr(path, text)) {
		(void)snprintf(line, sizeof line, "%s %s\n", step, path);
		if (!said)
			say("paused", line);
		said = true;
		(void)REAL(nanosleep)(&(struct timespec){.tv_nsec = 5000000}, NULL);
	}
}

/* A step is about to be done. The number of it when it is to end right afterwards, else 0. */
static long before(const char *step, const char *path)
{
	char want[32];
	char line[TEXT];
	int kept = errno;
	long after = 0;
	if (class)
		pause_here(step, path);
	if (class && strncmp(path, below, strlen(below)) == 0 && strncmp(path, folder, strlen(folder)) != 0 &&
	    content(open_of_class("point", O_RDONLY), want, sizeof want)) {
		char *when;
		long n = next_number();
		long chosen = strtol(want, &when, 10);
		(void)snprintf(line, sizeof line, "%ld %s %s\n", n, step, path);
		say("log", line);
		if (n == chosen && strcmp(when, " before") == 0)
			end_here(n, "before", step, path);
		after = n == chosen ? n : 0;
	}
	errno = kept;
	return after;
}

static void after(long n, const char *step, const char *path)
{
	if (n)
		end_here(n, "after", step, path);
}

/* Files and folders have a path in /proc; sockets and pipes are no steps. */
static const char *path_of(int fd, char out[PATH_MAX])
{
	char link[64];
	int kept = errno;
	(void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t n = class ? readlink(link, out, PATH_MAX - 1) : -1;
	out[n > 0 ? n : 0] = '\0';
	errno = kept;
	return out;
}

#define STEP(path, call)                                                                                               \
	do {                                                                                                           \
		long chosen = before(__func__, path);                                                                  \
		int done = call;                                                                                       \
		after(chosen, __func__, path);                                                                         \
		return done;                                                                                           \
	} while (0)

int mkdir(const char *path, mode_t mode)
{
	if (there(path))
		return REAL(mkdir)(path, mode);
	STEP(path, REAL(mkdir)(path, mode));
}

int rename(const char *from, const char *to)
{
	STEP(to, REAL(rename)(from, to));
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
	STEP(to, REAL(renameat2)(from_fd, from, to_fd, to, flags));
}

int link(const char *from, const char *to)
{
	STEP(to, REAL(link)(from, to));
}

int unlink(const char *path)
{
	if (!there(path))
		return REAL(unlink)(path);
	STEP(path, REAL(unlink)(path));
}

int fsync(int fd)
{
	char path[PATH_MAX];
	STEP(path_of(fd, path), REAL(fsync)(fd));
}

int fdatasync(int fd)
{
	char path[PATH_MAX];
	STEP(path_of(fd, path), REAL(fdatasync)(fd));
}

int ftruncate(int fd, off_t size)
{
	char path[PATH_MAX];
	STEP(path_of(fd, path), REAL(ftruncate)(fd, size));
}

int ftruncate64(int fd, off64_t size)
{
	char path[PATH_MAX];
	STEP(path_of(fd, path), REAL(ftruncate64)(fd, size));
}

int posix_fallocate(int fd, off_t at, off_t size)
{
	char path[PATH_MAX];
	STEP(path_of(fd, path), REAL(posix_fallocate)(fd, at, size));
}

/* --- time ----------------------------------------------------------------------------------------------------------
 */

int nanosleep(const struct timespec *wanted, struct timespec *left)
{
	struct timespec t = *wanted;
	if (nap_ms >= 0 && t.tv_sec * 1000 + t.tv_nsec / 1000000 > nap_ms)
		t = (struct timespec){.tv_sec = nap_ms / 1000, .tv_nsec = nap_ms % 1000 * 1000000};
	return REAL(nanosleep)(&t, left);
}

static time_t ahead(void)
{
	char text[32];
	int kept = errno;
	time_t seconds =
		folder[0] && content(open_in("clock", O_RDONLY), text, sizeof text) ? strtol(text, NULL, 10) : 0;
	errno = kept;
	return seconds;
}

int clock_gettime(clockid_t which, struct timespec *out)
{
	int done = REAL(clock_gettime)(which, out);
	if (done == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
		out->tv_sec += ahead();
	if (done == 0 && warp > 1 && (which == CLOCK_MONOTONIC || which == CLOCK_MONOTONIC_COARSE)) {
		long long ns = (out->tv_sec * 1000000000LL + out->tv_nsec) * warp;
		*out = (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
	}
	return done;
}

/* An event loop waits by the clock that we let go faster. */
static int warped(int timeout_ms)
{
	return timeout_ms > 0 ? timeout_ms / (int)warp : timeout_ms;
}

int epoll_wait(int fd, struct epoll_event *events, int n, int timeout_ms)
{
	return REAL(epoll_wait)(fd, events, n, warped(timeout_ms));
}

int epoll_pwait(int fd, struct epoll_event *events, int n, int timeout_ms, const sigset_t *mask)
{
	return REAL(epoll_pwait)(fd, events, n, warped(timeout_ms), mask);
}

time_t time(time_t *out)
{
	struct timespec now;
	(void)clock_gettime(CLOCK_REALTIME, &now);
	if (out)
		*out = now.tv_sec;
	return now.tv_sec;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
	struct timespec now;
	(void)zone;
	(void)clock_gettime(CLOCK_REALTIME, &now);
	*out = (struct timeval){.tv_sec = now.tv_sec, .tv_usec = now.tv_nsec / 1000};
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "pkcs11/owner_child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "pkcs11/pin.h"

enum { KEPT = 3, CHUNK = 4096, TICK_MS = 10, OLD_KERNEL_FDS = 4096 };

extern char **environ;

/* What is made before the fork. */
typedef struct job {
	int sock[2], errors[2], memory, null;
	int pin; /* the descriptor of the PIN, else -1 */
	pid_t parent;
	char number[2][16];
	char *argv[5];
	char *const *env;
} job;

/* --- the child after fork: only async-signal-safe calls ----------------------------------------------------------- */

/* A signal that a person or the system sends to all of us is for the parent to answer: it needs the token for that. */
static void child_signals(void)
{
	static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGTSTP};
	sigset_t none;
	for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++)
		(void)signal(ignored[i], SIG_IGN);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static bool child_descriptors(const job *j)
{
	const int kept[KEPT] = {j->sock[1], j->memory, j->pin};
	if (j->pin != 0 && dup2(j->null, 0) < 0)
		return false;
	/* Our log stays where it is, as the child's stdout; its stderr, where modules print, becomes ours to read. */
	if (dup2(STDERR_FILENO, 1) < 0 || dup2(j->errors[1], STDERR_FILENO) < 0)
		return false;
	if (close_range(STDERR_FILENO + 1, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */) != 0)
		for (int fd = STDERR_FILENO + 1; fd < OLD_KERNEL_FDS; fd++)
			(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
	for (size_t i = 0; i < KEPT; i++)
		if (kept[i] > STDERR_FILENO && fcntl(kept[i], F_SETFD, 0) != 0)
			return false;
	return true;
}

static void child(const job *j)
{
	child_signals();
	/* It ends with us, whatever it is at: a coordinator that takes over must find no other at work. */
	if (child_descriptors(j) && prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == j->parent)
		(void)execve("/proc/self/exe", j->argv, j->env);
	/* lint: allow exit: the child after fork, before exec */
	_exit(127);
}

/* --- the parent --------------------------------------------------------------------------------------------------- */

static void close_fd(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
}

static void job_close(job *j)
{
	int *fds[] = {&j->sock[0], &j->sock[1], &j->errors[0], &j->errors[1], &j->memory, &j->null};
	for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
		close_fd(fds[i]);
}

static kt_code job_open(job *j, const char *pin_source, kt_err *err)
{
	j->pin = kt_pin_fd(pin_source);
	j->parent = getpid();
	if (j->pin == STDOUT_FILENO || j->pin == STDERR_FILENO || (j->pin >= 0 && fcntl(j->pin, F_GETFD) < 0))
		return kt_fail(err, KT_E_IO, "open the PIN's descriptor for this command, as in fd:3",
			       "the descriptor %d, which is to hold the PIN, is not open for reading", j->pin);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, j->sock) != 0 || pipe2(j->errors, O_CLOEXEC) != 0)
		return kt_fail_errno(err, errno, NULL, "no socket for the token's owner");
	j->null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	j->memory = memfd_create("keyturn-watch", MFD_CLOEXEC);
	if (j->null < 0 || j->memory < 0 || ftruncate(j->memory, sizeof(kt_watch_table)) != 0)
		return kt_fail_errno(err, errno, NULL, "no memory to share with the token's owner");
	return KT_OK;
}

static kt_code job_map(const job *j, kt_owner_child *c, kt_err *err)
{
	void *at = mmap(NULL, sizeof *c->table, PROT_READ | PROT_WRITE, MAP_SHARED, j->memory, 0);
	if (at == MAP_FAILED)
		return kt_fail_errno(err, errno, NULL, "no memory to share with the token's owner");
	c->table = at;
	return KT_OK;
}

static void job_words(job *j, const kt_owner_options *o)
{
	/* execve() does not write to what argv points to (POSIX says so); its type is only older than const. */
	union {
		const char *from;
		char *to;
	} word = {.from = o->subcommand};
	union {
		const char *const *from;
		char *const *to;
	} env = {.from = o->env};
	static char self[] = "keyturn";
	(void)snprintf(j->number[0], sizeof j->number[0], "%d", j->sock[1]);
	(void)snprintf(j->number[1], sizeof j->number[1], "%d", j->memory);
	char *const words[] = {self, word.to, j->number[0], j->number[1], NULL};
	memcpy(j->argv, words, sizeof words);
	j->env = o->env ? env.to : environ;
}

kt_code kt_owner_child_start(kt_owner_child *c, const kt_owner_options *options, const char *pin_source, kt_err *err)
{
	job j = {.sock = {-1, -1}, .errors = {-1, -1}, .memory = -1, .null = -1};
	kt_code rc;
	*c = KT_OWNER_CHILD_NONE;
	KT_TRY_GOTO(job_open(&j, pin_source, err), out);
	KT_TRY_GOTO(job_map(&j, c, err), out);
	job_words(&j, options);
	pid_t pid = fork();
	if (pid == 0)
		child(&j);
	if (pid < 0) {
		rc = kt_fail_errno(err, errno, NULL, "the token's owner cannot be started");
		(void)munmap(c->table, sizeof *c->table);
		c->table = NULL;
		goto out;
	}
	c->pid = pid;
	c->sock = j.sock[0];
	c->errors = j.errors[0];
	j.sock[0] = j.errors[0] = -1;
	(void)fcntl(c->errors, F_SETFL, O_NONBLOCK);
	kt_pin_handed_over(pin_source);
out:
	job_close(&j);
	return rc;
}

void kt_owner_child_read_errors(kt_owner_child *c)
{
	char chunk[CHUNK];
	ssize_t n;
	while ((n = read(c->errors, chunk, sizeof chunk)) > 0)
		kt_printed_add(&c->printed, chunk, (size_t)n);
	if (n == 0)
		close_fd(&c->errors);
}

/* Dead, or dead by now because it took too long. */
static int reap(kt_owner_child *c, int64_t grace_ms)
{
	const int64_t until = kt_clock_mono_ms() + grace_ms;
	int status = 0;
	pid_t got;
	while ((got = waitpid(c->pid, &status, WNOHANG)) == 0 && kt_clock_mono_ms() < until) {
		kt_owner_child_read_errors(c);
		(void)nanosleep(&(struct timespec){.tv_nsec = TICK_MS * 1000000L}, NULL);
	}
	if (got == 0) {
		(void)kill(c->pid, SIGKILL);
		while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
			;
	}
	return status;
}

int kt_owner_child_end(kt_owner_child *c, int64_t grace_ms)
{
	if (c->pid == 0)
		return 0;
	(void)shutdown(c->sock, SHUT_WR);
	int status = reap(c, grace_ms);
	kt_owner_child_read_errors(c);
	kt_printed_add(&c->printed, "\n", 1);
	close_fd(&c->sock);
	close_fd(&c->errors);
	(void)munmap(c->table, sizeof *c->table);
	c->table = NULL;
	c->pid = 0;
	return status;
}

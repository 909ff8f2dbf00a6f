/* SPDX-License-Identifier: Apache-2.0 */
#include "base/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

enum { TICK_MS = 200, SHORT_TICK_MS = 10, CHUNK = 16 * 1024, PATH_TEXT = 4096, GROUPS_MAX = 1024 };

/* --- Users -------------------------------------------------------------------------------------------------------- */

static kt_code find_groups(kt_user *u, kt_err *err)
{
	int n = GROUPS_MAX;
	gid_t *groups = calloc(GROUPS_MAX, sizeof *groups);
	if (!groups)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (getgrouplist(u->name, u->gid, groups, &n) < 0) {
		free(groups);
		return kt_fail(err, KT_E_REFUSED, NULL, "the user %.64s is in more than %d groups", u->name,
			       (int)GROUPS_MAX);
	}
	u->groups = groups;
	u->n_groups = (size_t)n;
	return KT_OK;
}

static kt_code fill_user(const struct passwd *pw, kt_user *out, kt_err *err)
{
	*out = (kt_user){.uid = pw->pw_uid, .gid = pw->pw_gid};
	if ((size_t)snprintf(out->name, sizeof out->name, "%s", pw->pw_name) >= sizeof out->name ||
	    (size_t)snprintf(out->home, sizeof out->home, "%s", pw->pw_dir) >= sizeof out->home)
		return kt_fail(err, KT_E_REFUSED, NULL, "the user %.64s has an over-long name or home folder",
			       pw->pw_name);
	return find_groups(out, err);
}

kt_code kt_user_find(const char *name, kt_user *out, kt_err *err)
{
	*out = (kt_user){0};
	struct passwd pw;
	struct passwd *found = NULL;
	char *room = malloc(CHUNK);
	if (!room)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	int e = name ? getpwnam_r(name, &pw, room, CHUNK, &found) : getpwuid_r(geteuid(), &pw, room, CHUNK, &found);
	kt_code rc;
	if (found)
		rc = fill_user(found, out, err);
	else if (name)
		rc = kt_fail(err, KT_E_REFUSED, "make the user, or correct its name in the variables",
			     "there is no user \"%.64s\" on this node%s%s", name, e ? ": " : "", e ? strerror(e) : "");
	else
		rc = kt_fail(err, KT_E_REFUSED, NULL, "our user id %u has no name on this node", (unsigned)geteuid());
	free(room);
	return rc;
}

void kt_user_free(kt_user *u)
{
	if (!u)
		return;
	free(u->groups);
	*u = (kt_user){0};
}

/* --- What is prepared before the fork ------------------------------------------------------------------------------
 */

typedef struct job {
	const kt_spawn_what *what;
	const kt_spawn_hooks *hooks;
	char path[PATH_TEXT]; /* what is executed */
	pid_t pid;
	int out[2], errs[2]; /* the child's stdout and stderr; -1 once closed */
	int go[2];           /* one byte lets the child go on */
	int fault[2];        /* errno and stage of a child that could not execute */
	int in;
	kt_code hook_rc;
	kt_err hook_err;
} job;

typedef struct fault {
	int error;
	int stage;
} fault;

enum { AT_USER, AT_CWD, AT_EXEC };

static const char *path_of(const kt_spawn_what *what)
{
	if (!what->env)
		return getenv("PATH");
	for (size_t i = 0; what->env[i]; i++)
		if (strncmp(what->env[i], "PATH=", 5) == 0)
			return what->env[i] + 5;
	return NULL;
}

static bool executable(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 0111);
}

/* The file that argv[0] names. Relative and empty entries of PATH are skipped: they depend on the folder. */
static kt_code find_executable(job *j, kt_err *err)
{
	const char *name = j->what->argv[0];
	if (!name || !name[0])
		return kt_fail(err, KT_E_INPUT, NULL, "an empty command");
	if (strchr(name, '/')) {
		if ((size_t)snprintf(j->path, sizeof j->path, "%s", name) >= sizeof j->path)
			return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", name);
		return KT_OK;
	}
	const char *dirs = path_of(j->what);
	for (const char *d = dirs ? dirs : ""; *d;) {
		int n = (int)strcspn(d, ":");
		if (*d == '/' && (size_t)snprintf(j->path, sizeof j->path, "%.*s/%s", n, d, name) < sizeof j->path &&
		    executable(j->path))
			return KT_OK;
		d += n;
		d += *d == ':';
	}
	return kt_fail(err, KT_E_IO, "install it, or give its path with a slash",
		       "the command \"%.200s\" is not in PATH (%.300s)", name, dirs ? dirs : "not set");
}

static kt_code check_user(const kt_user *user, kt_err *err)
{
	if (!user || geteuid() == 0 || user->uid == geteuid())
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED, "let the agent run as root: set agent.sudo in cluster.json",
		       "a command is to run as \"%.64s\", and only root may change to another user (we are uid %u)",
		       user->name, (unsigned)geteuid());
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
}

static void close_all(job *j)
{
	int *fds[] = {&j->out[0], &j->out[1],   &j->errs[0],  &j->errs[1], &j->go[0],
		      &j->go[1],  &j->fault[0], &j->fault[1], &j->in};
	for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
		close_fd(fds[i]);
}

static kt_code open_all(job *j, kt_err *err)
{
	if (pipe2(j->out, O_CLOEXEC) != 0 || pipe2(j->errs, O_CLOEXEC) != 0 || pipe2(j->go, O_CLOEXEC) != 0 ||
	    pipe2(j->fault, O_CLOEXEC) != 0)
		return kt_fail_errno(err, errno, NULL, "no pipe for a command");
	const int given = j->what->in_fd;
	j->in = given ? fcntl(given, F_DUPFD_CLOEXEC, 3) : open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (j->in < 0)
		return kt_fail_errno(err, errno, NULL, given ? "stdin of a command" : "/dev/null");
	return KT_OK;
}

/* --- The child: only async-signal-safe calls ------------------------------------------------------------------------
 */

static void child_fault(const job *j, int stage)
{
	fault f = {.error = errno, .stage = stage};
	ssize_t w = write(j->fault[1], &f, sizeof f);
	/* lint: allow exit: the child after fork, before exec */
	_exit(w == (ssize_t)sizeof f ? 126 : 127);
}

static void child_signals(void)
{
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	for (int s = 1; s < NSIG; s++)
		(void)sigaction(s, &dfl, NULL); /* SIGKILL, SIGSTOP and libc's own refuse, and may */
	sigset_t none;
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Every descriptor from 3 up closes on exec, also one that some library left open. */
static void child_descriptors(const job *j)
{
	if (dup2(j->in, 0) < 0 || dup2(j->out[1], 1) < 0 || dup2(j->errs[1], 2) < 0)
		child_fault(j, AT_EXEC);
	if (close_range(3, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */) == 0)
		return;
	for (int fd = 3; fd < 4096; fd++)
		(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static void child_user(const job *j)
{
	const kt_user *u = j->what->user;
	if (!u || geteuid() != 0)
		return;
	if (setgroups(u->n_groups, u->groups) != 0 || setgid(u->gid) != 0 || setuid(u->uid) != 0)
		child_fault(j, AT_USER);
}

static void child(const job *j, char *const *env)
{
	(void)setsid();
	char byte;
	(void)close(j->go[1]);
	if (read(j->go[0], &byte, 1) != 1)
		/* lint: allow exit: the child after fork, before exec */
		_exit(127); /* called off, or our parent died: nothing was executed */
	child_signals();
	child_descriptors(j);
	child_user(j);
	if (j->what->cwd && chdir(j->what->cwd) != 0)
		child_fault(j, AT_CWD);
	/* execve() does not write to what these point to (POSIX says so); its type is only older than const. */
	union {
		const char *const *from;
		char *const *to;
	} argv = {.from = j->what->argv};
	(void)execve(j->path, argv.to, env);
	child_fault(j, AT_EXEC);
}

/* --- The parent ----------------------------------------------------------------------------------------------------
 */

static void reap(pid_t pid, int *status)
{
	while (waitpid(pid, status, 0) < 0 && errno == EINTR)
		;
}

/* Has it died? It stays a zombie, so that its number, and that of its group, stay its own. */
static bool is_dead(pid_t pid)
{
	siginfo_t info = {0};
	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

static kt_code explain(const job *j, const fault *f, kt_err *err)
{
	if (f->stage == AT_USER)
		return kt_fail_errno(err, f->error, NULL, "cannot become the user \"%.64s\"", j->what->user->name);
	if (f->stage == AT_CWD)
		return kt_fail_errno(err, f->error, NULL, "the folder %.300s, in which \"%.300s\" is to run",
				     j->what->cwd, j->what->argv[0]);
	return kt_fail_errno(err, f->error, NULL, "the command \"%.300s\"%s%.300s cannot be executed", j->path,
			     j->what->cwd ? " in " : "", j->what->cwd ? j->what->cwd : "");
}

/* Let it go on, and hear whether it could execute. */
static kt_code release(job *j, kt_err *err)
{
	close_fd(&j->go[0]);
	close_fd(&j->fault[1]);
	ssize_t w;
	do
		w = write(j->go[1], "g", 1);
	while (w < 0 && errno == EINTR);
	close_fd(&j->go[1]);
	fault f;
	ssize_t n;
	do
		n = read(j->fault[0], &f, sizeof f);
	while (n < 0 && errno == EINTR);
	close_fd(&j->fault[0]);
	if (n == 0 && w == 1)
		return KT_OK;
	if (n == (ssize_t)sizeof f)
		return explain(j, &f, err);
	return kt_fail(err, KT_E_IO, NULL, "the command \"%.300s\" died before it was executed", j->path);
}

static void deliver(job *j, int stream, const uint8_t *bytes, size_t n)
{
	if (j->hooks && j->hooks->output && j->hook_rc == KT_OK)
		j->hook_rc = j->hooks->output(j->hooks->arg, stream, bytes, n, &j->hook_err);
}

/* Read what is there; at its end the descriptor is closed. */
static void drain(job *j, int stream, int *fd)
{
	uint8_t chunk[CHUNK];
	ssize_t n = read(*fd, chunk, sizeof chunk);
	if (n > 0)
		deliver(j, stream, chunk, (size_t)n);
	else if (n == 0 || (errno != EINTR && errno != EAGAIN))
		close_fd(fd);
	explicit_bzero(chunk, n > 0 ? (size_t)n : 0);
}

static void wait_output(job *j, int ms)
{
	struct pollfd p[2] = {{.fd = j->out[0], .events = POLLIN}, {.fd = j->errs[0], .events = POLLIN}};
	if (poll(p, 2, ms) <= 0)
		return;
	if (p[0].revents)
		drain(j, 1, &j->out[0]);
	if (p[1].revents)
		drain(j, 2, &j->errs[0]);
}

/* When to end it, and how far that has come. */
typedef struct ending {
	int64_t deadline; /* 0: none */
	int64_t kill_at;  /* 0: SIGTERM not sent yet */
	bool killed;
} ending;

static void enforce(job *j, ending *e, kt_spawn_end *end, int64_t now)
{
	bool late = e->deadline && now >= e->deadline;
	bool stop = !e->kill_at && !late && j->hooks && j->hooks->stop && j->hooks->stop(j->hooks->arg);
	if (!e->kill_at && (late || stop)) {
		end->timed_out = late;
		end->stopped = stop;
		e->kill_at = now + KT_SPAWN_KILL_GRACE_MS;
		(void)kill(-j->pid, SIGTERM);
	} else if (e->kill_at && now >= e->kill_at && !e->killed) {
		e->killed = true;
		(void)kill(-j->pid, SIGKILL);
	}
}

/* Until the child is dead. */
static void attend(job *j, kt_spawn_end *end)
{
	const int64_t start = kt_clock_mono_ms();
	ending e = {.deadline = j->what->timeout_ms > 0 ? start + j->what->timeout_ms : 0};
	int64_t next_tick = start + TICK_MS;
	while (!is_dead(j->pid)) {
		bool open = j->out[0] >= 0 || j->errs[0] >= 0;
		wait_output(j, open ? TICK_MS : SHORT_TICK_MS);
		int64_t now = kt_clock_mono_ms();
		if (now < next_tick && !(e.deadline && now >= e.deadline))
			continue;
		next_tick = now + TICK_MS;
		if (j->hooks && j->hooks->tick)
			j->hooks->tick(j->hooks->arg);
		enforce(j, &e, end, now);
	}
	end->ms = kt_clock_mono_ms() - start;
}

/* What is left in the pipes; background processes may hold them open. */
static void attend_rest(job *j)
{
	const int64_t until = kt_clock_mono_ms() + KT_SPAWN_LINGER_MS;
	while ((j->out[0] >= 0 || j->errs[0] >= 0) && kt_clock_mono_ms() < until)
		wait_output(j, SHORT_TICK_MS);
}

static kt_code start(job *j, kt_err *err)
{
	extern char **environ;
	union {
		const char *const *from;
		char *const *to;
	} env = {.from = j->what->env};
	j->pid = fork();
	if (j->pid < 0)
		return kt_fail_errno(err, errno, NULL, "no process for \"%.300s\"", j->path);
	if (j->pid == 0)
		child(j, j->what->env ? env.to : environ);
	close_fd(&j->out[1]);
	close_fd(&j->errs[1]);
	kt_code rc = j->hooks && j->hooks->started ? j->hooks->started(j->hooks->arg, j->pid, err) : KT_OK;
	if (rc == KT_OK)
		rc = release(j, err);
	if (rc != KT_OK) {
		close_fd(&j->go[1]);
		int status;
		reap(j->pid, &status);
	}
	return rc;
}

static void finish(job *j, int leftover[2], kt_spawn_end *end)
{
	if (end->timed_out || end->stopped)
		(void)kill(-j->pid, SIGKILL); /* stragglers of the group; its leader is not reaped yet */
	attend_rest(j);
	int status = 0;
	reap(j->pid, &status);
	end->exit = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	end->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	if (!leftover)
		return;
	leftover[0] = j->out[0];
	leftover[1] = j->errs[0];
	j->out[0] = j->errs[0] = -1;
}

kt_code kt_spawn(const kt_spawn_what *what, const kt_spawn_hooks *hooks, int leftover[2], kt_spawn_end *end,
		 kt_err *err)
{
	job j = {.what = what,
		 .hooks = hooks,
		 .out = {-1, -1},
		 .errs = {-1, -1},
		 .go = {-1, -1},
		 .fault = {-1, -1},
		 .in = -1};
	*end = (kt_spawn_end){.exit = -1};
	if (leftover)
		leftover[0] = leftover[1] = -1;
	KT_TRY(check_user(what->user, err));
	KT_TRY(find_executable(&j, err));
	kt_code rc = open_all(&j, err);
	if (rc == KT_OK)
		rc = start(&j, err);
	if (rc == KT_OK) {
		attend(&j, end);
		finish(&j, leftover, end);
		rc = j.hook_rc;
		if (rc != KT_OK && err)
			*err = j.hook_err;
	}
	close_all(&j);
	return rc;
}

/* --- The simple case ------------------------------------------------------------------------------------------------
 */

typedef struct capture {
	kt_buf *stream[3];
} capture;

static kt_code take(void *arg, int stream, const uint8_t *bytes, size_t n, kt_err *err)
{
	kt_buf *b = ((capture *)arg)->stream[stream];
	if (!b)
		return KT_OK;
	size_t max = b->max ? b->max : KT_BUF_MAX;
	size_t room = max > b->len ? max - b->len : 0;
	return kt_buf_append(b, bytes, n < room ? n : room, err);
}

kt_code kt_spawn_capture(const kt_spawn_what *what, kt_buf *out, kt_buf *errors, kt_spawn_end *end, kt_err *err)
{
	capture c = {.stream = {NULL, out, errors}};
	kt_spawn_hooks hooks = {.output = take, .arg = &c};
	return kt_spawn(what, &hooks, NULL, end, err);
}

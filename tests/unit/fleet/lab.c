/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/fleet/lab.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char run_sshd[] = "/run/sshd";
static const char sshd[] = "/usr/sbin/sshd";

static int complain(const char *what)
{
	(void)fprintf(stderr, "lab: %s: %s\n", what, strerror(errno));
	return -1;
}

const char *lab_path(const lab *l, const char *name, char out[LAB_PATH])
{
	(void)snprintf(out, LAB_PATH, "%s/%s", l->dir, name);
	return out;
}

/* ---- opening ---- */

int lab_open(lab *l)
{
	*l = (lab){.made_run_sshd = false};
	const struct passwd *pw = getpwuid(getuid());
	ssize_t n = readlink("/proc/self/exe", l->self, sizeof l->self - 1);
	if (n < 0 || !pw)
		return complain("who am I");
	l->self[n] = '\0';
	(void)snprintf(l->user, sizeof l->user, "%s", pw->pw_name);
	(void)snprintf(l->dir, sizeof l->dir, "/tmp/kt-fleet-lab.XXXXXX");
	if (!mkdtemp(l->dir))
		return complain(l->dir);
	if (getuid() == 0 && mkdir(run_sshd, 0755) == 0)
		l->made_run_sshd = true;
	return 0;
}

void lab_close(lab *l)
{
	const char *const argv[] = {"rm", "-rf", "--", l->dir, NULL};
	(void)lab_run(l, argv);
	if (l->made_run_sshd)
		(void)rmdir(run_sshd);
}

static pid_t start(const lab *l, const char *const *argv, const char *log)
{
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	char path[LAB_PATH];
	int out = open(lab_path(l, log, path), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
	(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
		_exit(126);
	execvp(argv[0], (char *const *)(const void *)argv);
	_exit(127);
}

int lab_run(const lab *l, const char *const *argv)
{
	int status;
	pid_t pid = start(l, argv, "tool.log");
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return complain(argv[0]);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* ---- keys ---- */

int lab_keygen(const lab *l, const char *name, const char *type, const char *passphrase)
{
	char path[LAB_PATH];
	const char *const argv[] = {
		"ssh-keygen", "-q", "-t", type, "-N", passphrase, "-C", name, "-f", lab_path(l, name, path), NULL};
	return lab_run(l, argv) == 0 ? 0 : complain("ssh-keygen");
}

static int slurp(const char *path, char *out, size_t max)
{
	FILE *f = fopen(path, "re");
	if (!f)
		return complain(path);
	size_t n = fread(out, 1, max - 1, f);
	out[n] = '\0';
	(void)fclose(f);
	return 0;
}

int lab_public(const lab *l, const char *name, char *out, size_t max)
{
	char file[LAB_PATH];
	char path[LAB_PATH + 8];
	(void)snprintf(path, sizeof path, "%s.pub", lab_path(l, name, file));
	if (slurp(path, out, max) != 0)
		return -1;
	char *space = strchr(out, ' ');
	space = space ? strchr(space + 1, ' ') : NULL;
	if (space)
		*space = '\0';
	return 0;
}

static int append(const lab *l, const char *name, const char *line)
{
	char path[LAB_PATH];
	FILE *f = fopen(lab_path(l, name, path), "ae");
	if (!f)
		return complain(path);
	(void)fprintf(f, "%s\n", line);
	return fclose(f) == 0 ? 0 : complain(path);
}

int lab_authorize(const lab *l, const char *name)
{
	char key[4096];
	if (lab_public(l, name, key, sizeof key) != 0)
		return -1;
	return append(l, "authorized_keys", key);
}

/* ---- one server ---- */

static int free_port(const char *address, unsigned *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t len = sizeof a;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || inet_pton(AF_INET, address, &a.sin_addr) != 1 || bind(fd, (struct sockaddr *)&a, len) != 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &len) != 0)
		return complain(address);
	*port = ntohs(a.sin_port);
	(void)close(fd);
	return 0;
}

static int try_connect(const char *address, unsigned port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	(void)inet_pton(AF_INET, address, &a.sin_addr);
	int rc = connect(fd, (struct sockaddr *)&a, sizeof a);
	(void)close(fd);
	return rc;
}

static void show_log(const char *path)
{
	char text[8192];
	if (slurp(path, text, sizeof text) == 0)
		(void)fprintf(stderr, "lab: the server's log:\n%s\n", text);
}

static int wait_until_up(const lab_server *s)
{
	const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
	for (int i = 0; i < 1000; i++) {
		if (try_connect(s->address, s->port) == 0)
			return 0;
		if (waitpid(s->pid, NULL, WNOHANG) == s->pid)
			break;
		(void)nanosleep(&pause, NULL);
	}
	show_log(s->log);
	return complain("the ssh server does not come up");
}

static int write_config(const lab *l, const char *name, const char *listen, const char *extra)
{
	char path[LAB_PATH];
	FILE *f = fopen(lab_path(l, name, path), "we");
	if (!f)
		return complain(path);
	(void)fprintf(f,
		      "%s\nPidFile none\nUsePAM no\nStrictModes no\nMaxStartups 4096\nPrintMotd no\n"
		      "PasswordAuthentication no\nKbdInteractiveAuthentication no\nSetEnv SHLVL=5\n"
		      "AuthorizedKeysFile %s/authorized_keys\n%s\n",
		      listen, l->dir, extra);
	return fclose(f) == 0 ? 0 : complain(path);
}

int lab_server_start(lab *l, lab_server *s, const char *address, const char *hostkey, const char *extra)
{
	char config[64];
	char path[LAB_PATH];
	char key[LAB_PATH];
	char listen[LAB_PATH * 2];
	char log[64];
	(void)snprintf(s->address, sizeof s->address, "%s", address);
	if (free_port(address, &s->port) != 0)
		return -1;
	(void)snprintf(config, sizeof config, "sshd-%s-%u.conf", address, s->port);
	(void)snprintf(log, sizeof log, "sshd-%s-%u.log", address, s->port);
	(void)lab_path(l, log, s->log);
	(void)snprintf(listen, sizeof listen, "ListenAddress %s:%u\nHostKey %s\nLogLevel VERBOSE", address, s->port,
		       lab_path(l, hostkey, key));
	if (write_config(l, config, listen, extra) != 0)
		return -1;
	const char *const argv[] = {sshd, "-D", "-e", "-f", lab_path(l, config, path), NULL};
	s->pid = start(l, argv, log);
	return s->pid > 0 ? wait_until_up(s) : complain("fork");
}

static size_t children_of(pid_t pid, pid_t *out, size_t max)
{
	char path[64];
	char text[4096];
	size_t n = 0;
	(void)snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
	FILE *f = fopen(path, "re");
	if (!f)
		return 0; /* it has ended */
	text[fread(text, 1, sizeof text - 1, f)] = '\0';
	(void)fclose(f);
	char *save = NULL;
	for (char *word = strtok_r(text, " ", &save); word && n < max; word = strtok_r(NULL, " ", &save))
		out[n++] = (pid_t)strtol(word, NULL, 10);
	return n;
}

void lab_signal_children(pid_t pid, int signal)
{
	pid_t list[64];
	size_t n = children_of(pid, list, 64);
	for (size_t i = 0; i < n; i++) {
		lab_signal_children(list[i], signal);
		(void)kill(list[i], signal);
	}
}

void lab_server_stop(lab_server *s)
{
	if (s->pid <= 0)
		return;
	lab_signal_children(s->pid, SIGCONT);
	lab_signal_children(s->pid, SIGTERM);
	(void)kill(s->pid, SIGTERM);
	(void)waitpid(s->pid, NULL, 0);
	s->pid = 0;
}

/* ---- many light nodes ---- */

static int listen_on(const char *address, unsigned port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	const int on = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	(void)inet_pton(AF_INET, address, &a.sin_addr);
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, 64) != 0)
		return complain(address);
	return fd;
}

static void serve_connection(const lab *l, size_t i, int fd)
{
	char name[32];
	char key[LAB_PATH];
	char config[LAB_PATH];
	pid_t pid = fork();
	if (pid != 0) {
		(void)close(fd);
		return;
	}
	(void)signal(SIGCHLD, SIG_DFL);
	(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
	(void)snprintf(name, sizeof name, "node-%zu", i);
	int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (dup2(fd, 0) < 0 || dup2(fd, 1) < 0 || dup2(quiet, 2) < 0)
		_exit(126);
	execl(sshd, sshd, "-i", "-f", lab_path(l, "nodes.conf", config), "-h", lab_path(l, name, key), (char *)NULL);
	_exit(127);
}

static void serve_nodes(const lab *l, struct pollfd *fds, size_t n)
{
	(void)signal(SIGCHLD, SIG_IGN);
	for (;;) {
		if (poll(fds, n, -1) < 0 && errno != EINTR)
			_exit(1);
		for (size_t i = 0; i < n; i++) {
			int fd = fds[i].revents ? accept4(fds[i].fd, NULL, NULL, SOCK_CLOEXEC) : -1;
			if (fd >= 0)
				serve_connection(l, i, fd);
		}
	}
}

static void node_address(size_t i, char out[32])
{
	(void)snprintf(out, 32, "127.42.8.%zu", i + 1);
}

int lab_nodes_start(lab *l, lab_server *s, size_t n)
{
	struct pollfd fds[LAB_NODES_MAX];
	char address[32];
	char name[32];
	s->log[0] = '\0';
	node_address(0, s->address);
	if (n > 250 || free_port(s->address, &s->port) != 0 ||
	    write_config(l, "nodes.conf", "LogLevel QUIET", "KexAlgorithms curve25519-sha256") != 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		node_address(i, address);
		(void)snprintf(name, sizeof name, "node-%zu", i);
		fds[i] = (struct pollfd){.fd = listen_on(address, s->port), .events = POLLIN};
		if (fds[i].fd < 0 || lab_keygen(l, name, "ed25519", "") != 0)
			return -1;
	}
	s->pid = fork();
	if (s->pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
		serve_nodes(l, fds, n);
	}
	for (size_t i = 0; i < n; i++)
		(void)close(fds[i].fd);
	return s->pid > 0 ? 0 : complain("fork");
}

int lab_nodes_known(const lab *l, const lab_server *s, size_t n, const char *name)
{
	char address[32];
	char key[1024];
	char file[32];
	char line[1200];
	for (size_t i = 0; i < n; i++) {
		node_address(i, address);
		(void)snprintf(file, sizeof file, "node-%zu", i);
		if (lab_public(l, file, key, sizeof key) != 0)
			return -1;
		(void)snprintf(line, sizeof line, "[%s]:%u %s", address, s->port, key);
		if (append(l, name, line) != 0)
			return -1;
	}
	return 0;
}

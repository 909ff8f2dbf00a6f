/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/store/lab.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/json.h"

enum { NODES = 4 };

static char before[PATH_MAX], folder[PATH_MAX];
static char nodes[NODES][64]; /* besides the first */
static size_t n_nodes;
static uid_t user; /* who runs the program; 0: who we are */

void lab_sleep_ms(int ms)
{
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
	while (nanosleep(&t, &t) != 0 && errno == EINTR)
		;
}

void lab_write(const char *path, mode_t mode, const void *bytes, size_t n)
{
	(void)unlink(path);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, n), (ssize_t)n);
	assert_int_equal(fchmod(fd, mode), 0);
	assert_int_equal(close(fd), 0);
}

static void program_link(const char *path)
{
	char program[PATH_MAX];
	const char *bin = getenv("KT_BIN_DIR");
	assert_non_null(bin);
	(void)snprintf(program, sizeof program, "%s/keyturn-store", bin);
	assert_int_equal(access(program, X_OK), 0);
	assert_int_equal(symlink(program, path), 0);
}

static void clear_variables(void)
{
	static const char *const names[] = {"LKR_MASTER_KEY_FILE", "LKR_MASTER_KEY_ENV", "LKR_AWS_CMK"};
	static const char *const ends[] = {"", "_SOURCE", "_DESTINATION"};
	for (size_t i = 0; i < 9; i++) {
		char name[64];
		(void)snprintf(name, sizeof name, "%s%s", names[i / 3], ends[i % 3]);
		(void)unsetenv(name);
	}
	(void)unsetenv("KEYTURN_STORE_CONFIG");
	(void)unsetenv("KEYTURN_STORE_REKEY_DELAY_MS");
}

int lab_set_up(void **state)
{
	(void)state;
	static const char config[] =
		"{ // a node\n\"database\": \"looker.db\", \"node\": \"web01\", \"listen\": \"127.0.0.1:0\","
		" \"heartbeat_seconds\": 1, \"live_window_seconds\": 2}";
	n_nodes = 0;
	user = 0;
	(void)snprintf(folder, sizeof folder, "store-XXXXXX");
	if (!getcwd(before, sizeof before) || !mkdtemp(folder) || chdir(folder) != 0 || !getcwd(folder, sizeof folder))
		return -1;
	lab_write("store.json", 0644, config, sizeof config - 1);
	lab_write("cmk", 0400, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n", 45);
	lab_write("cmk2", 0400, "IAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n", 45);
	program_link("looker");
	clear_variables();
	return setenv("LKR_MASTER_KEY_FILE", "cmk", 1);
}

void lab_node(const char *node)
{
	char path[PATH_MAX], config[512];
	assert_true(n_nodes < NODES);
	(void)snprintf(nodes[n_nodes++], sizeof nodes[0], "%s", node);
	assert_int_equal(mkdir(node, 0755), 0);
	int n = snprintf(config, sizeof config,
			 "{\"database\": \"../looker.db\", \"node\": \"%s\", \"listen\": \"127.0.0.1:0\","
			 " \"heartbeat_seconds\": 1, \"live_window_seconds\": 2}",
			 node);
	(void)snprintf(path, sizeof path, "%s/store.json", node);
	lab_write(path, 0644, config, (size_t)n);
	(void)snprintf(path, sizeof path, "%s/looker", node);
	program_link(path);
}

pid_t lab_pid(const char *dir)
{
	char path[PATH_MAX], text[32] = "";
	(void)snprintf(path, sizeof path, "%s/looker.pid", dir);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t n = read(fd, text, sizeof text - 1);
	(void)close(fd);
	return n > 0 ? (pid_t)strtol(text, NULL, 10) : 0;
}

static void kill_node(const char *dir)
{
	pid_t pid = lab_pid(dir);
	if (pid > 1)
		(void)kill(pid, SIGKILL);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

int lab_tear_down(void **state)
{
	(void)state;
	if (chdir(folder) != 0)
		return -1;
	kill_node(".");
	for (size_t i = 0; i < n_nodes; i++)
		kill_node(nodes[i]);
	user = 0;
	clear_variables();
	return chdir(before) != 0 || nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0 ? -1 : 0;
}

static pid_t spawn(const char *dir, const char *const args[], const char *out, const char *err)
{
	char program[PATH_MAX];
	char *argv[16] = {program};
	size_t n = 1;
	(void)snprintf(program, sizeof program, "%s/looker", dir);
	for (; args[n - 1]; n++)
		argv[n] = (char *)(uintptr_t)args[n - 1];
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid > 0)
		return pid;
	int in = open("stdin", O_RDONLY);
	int o = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0600), e = open(err, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (in < 0)
		in = open("/dev/null", O_RDONLY);
	if (dup2(in, 0) < 0 || dup2(o, 1) < 0 || dup2(e, 2) < 0)
		_exit(126);
	int file = open(program, O_RDONLY | O_CLOEXEC); /* by descriptor: the build folder may be closed to that user */
	if (file < 0 || (user && (setgid(user) != 0 || setuid(user) != 0)))
		_exit(126);
	(void)fexecve(file, argv, environ);
	_exit(127);
}

static void slurp(const char *path, char *into, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	ssize_t n = read(fd, into, size - 1);
	assert_true(n >= 0);
	into[n] = '\0';
	(void)close(fd);
}

const lab_result *lab_run(const char *dir, const char *const args[])
{
	static lab_result r;
	int status;
	pid_t pid = spawn(dir, args, "stdout", "stderr");
	assert_int_equal(waitpid(pid, &status, 0), pid);
	r.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	slurp("stdout", r.out, sizeof r.out);
	slurp("stderr", r.err, sizeof r.err);
	return &r;
}

static int give_away(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return lchown(path, user, (gid_t)user);
}

void lab_not_as_root(void)
{
	if (geteuid() != 0)
		return;
	user = 65534;
	assert_int_equal(nftw(".", give_away, 16, FTW_PHYS), 0);
}

pid_t lab_spawn(const char *const args[])
{
	return spawn(".", args, "spawned-stdout", "spawned-stderr");
}

const char *lab_json(const char *json, const char *name)
{
	static char text[4][512];
	static size_t turn;
	char *into = text[turn++ % 4];
	cJSON *root = cJSON_Parse(json);
	assert_non_null(root);
	const cJSON *at = root;
	char path[128];
	(void)snprintf(path, sizeof path, "%s", name);
	char *save = NULL;
	for (char *part = strtok_r(path, ".", &save); part && at; part = strtok_r(NULL, ".", &save))
		at = cJSON_IsArray(at) ? cJSON_GetArrayItem(at, (int)strtol(part, NULL, 10))
				       : cJSON_GetObjectItemCaseSensitive(at, part);
	into[0] = '\0';
	if (cJSON_IsString(at))
		(void)snprintf(into, sizeof text[0], "%s", at->valuestring);
	else if (cJSON_IsNumber(at))
		(void)snprintf(into, sizeof text[0], "%.0f", at->valuedouble);
	else if (cJSON_IsBool(at))
		(void)snprintf(into, sizeof text[0], "%s", cJSON_IsTrue(at) ? "true" : "false");
	cJSON_Delete(root);
	return into;
}

int lab_connect(const char *dir)
{
	const lab_result *r = lab_at(dir, "status", "--json");
	char address[128] = "";
	for (int i = 0; i < NODES + 1; i++) {
		char path[32];
		(void)snprintf(path, sizeof path, "nodes.%d.this", i);
		bool ours = strcmp(lab_json(r->out, path), "true") == 0;
		(void)snprintf(path, sizeof path, "nodes.%d.address", i);
		if (ours)
			(void)snprintf(address, sizeof address, "%s", lab_json(r->out, path));
	}
	const char *colon = strrchr(address, ':');
	assert_non_null(colon);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)strtol(colon + 1, NULL, 10))};
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	struct timeval limit = {.tv_sec = 10};
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
	return fd;
}

uint8_t *lab_envelope(const kt_buf *db, const char *name)
{
	/* The name stands in the index too; in its row the envelope follows it. */
	size_t n = strlen(name);
	for (uint8_t *p = db->data; (p = memmem(p, db->len - (size_t)(p - db->data), name, n)) != NULL; p++)
		for (size_t gap = 0; gap < 4; gap++)
			if (memcmp(p + n + gap, "KTEV", 4) == 0)
				return p + n + gap;
	fail_msg("no envelope of %s in the file", name);
	return NULL;
}

const char *lab_talk(const char *dir, const char *text)
{
	static char got[65536];
	int fd = lab_connect(dir);
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
	size_t n = 0;
	for (ssize_t r = 1; r > 0 && n < sizeof got - 1;) {
		r = recv(fd, got + n, sizeof got - 1 - n, 0);
		n += r > 0 ? (size_t)r : 0;
	}
	got[n] = '\0';
	(void)close(fd);
	return got;
}

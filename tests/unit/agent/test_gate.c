/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gate against real processes, sockets, files and locks: each live thing is found and named, nothing else is, and
 * what cannot be asked counts as live.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "agent/gate.h"
#include "agent/heartbeats.h"
#include "agent/holders.h"
#include "agent/procfs.h"
#include "agent/sockets.h"
#include "base/secret.h"
#include "tests/unit/agent/scratch.h"
#include "tests/unit/agent/world.h"

static kt_agent_ctx context(void)
{
	return (kt_agent_ctx){.state = scratch_folder,
			      .node = "web01",
			      .cluster = "c",
			      .run = "-",
			      .step = "gate.check",
			      .verb = "gate.check",
			      .attempt = 1,
			      .lock_fd = -1};
}

/* Ask the gate; `format` makes the arguments. The result object is the caller's. */
static kt_status ask(cJSON **result, kt_err *err, const char *format, ...) KT_PRINTF(3, 4);
static kt_status ask(cJSON **result, kt_err *err, const char *format, ...)
{
	char text[8192];
	cJSON *args;
	va_list ap;
	va_start(ap, format);
	(void)vsnprintf(text, sizeof text, format, ap);
	va_end(ap);
	*err = KT_ERR_INIT;
	if (kt_json_parse("args", text, strlen(text), &args, err) != KT_OK)
		fail_msg("%s: %s", text, err->msg);
	*result = cJSON_CreateObject();
	kt_agent_ctx ctx = context();
	kt_status status = kt_action_gate_check(&ctx, args, *result, err);
	cJSON_Delete(args);
	return status;
}

/* Whether there is a finding of this kind whose who or detail has this text. */
static bool has_finding(const cJSON *result, const char *kind, const char *text)
{
	const cJSON *one;
	cJSON_ArrayForEach(one, cJSON_GetObjectItemCaseSensitive(result, "findings"))
	{
		if (strcmp(cJSON_GetObjectItemCaseSensitive(one, "kind")->valuestring, kind) == 0 &&
		    (strstr(cJSON_GetObjectItemCaseSensitive(one, "who")->valuestring, text) ||
		     strstr(cJSON_GetObjectItemCaseSensitive(one, "detail")->valuestring, text)))
			return true;
	}
	return false;
}

static void assert_finding(kt_status status, cJSON *result, const char *kind, const char *text)
{
	if (status != KT_STATUS_RETRY || !has_finding(result, kind, text)) {
		char *print = cJSON_Print(result);
		fail_msg("no %s finding with \"%s\" (%s): %s", kind, text, kt_status_name(status), print);
	}
	assert_true(cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(result, "quiet")));
	cJSON_Delete(result);
}

static void assert_quiet(kt_status status, cJSON **result, const kt_err *err)
{
	if (status != KT_STATUS_OK)
		fail_msg("not quiet: %s", err->msg);
	assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(*result, "quiet")));
	assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(*result, "findings")), 0);
	cJSON_Delete(*result);
	*result = NULL;
}

/* --- children -------------------------------------------------------------------------------------------------- */

/* A child that has done what it should when this returns, and then waits. */
typedef struct child {
	pid_t pid;
	int ready;
} child;

static void wait_ready(const child *c)
{
	char byte;
	if (read(c->ready, &byte, 1) != 1)
		fail_msg("the child did not come up");
}

/* In the child (returns 0): do it, then child_wait(). In the parent (returns its pid). */
static pid_t start_child(child *c)
{
	int fds[2];
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	c->pid = fork();
	assert_true(c->pid >= 0);
	if (c->pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		c->ready = fds[1];
		return 0;
	}
	(void)close(fds[1]);
	c->ready = fds[0];
	wait_ready(c);
	return c->pid;
}

static _Noreturn void child_wait(const child *c)
{
	(void)!write(c->ready, "x", 1);
	for (;;)
		(void)pause();
}

static void end_child(child *c)
{
	assert_int_equal(kill(c->pid, SIGKILL), 0);
	assert_int_equal(waitpid(c->pid, NULL, 0), c->pid);
	(void)close(c->ready);
}

/* A program run in another folder; the pipe closes when it has been executed. */
static void start_program(child *c, const char *cwd, const char *const argv[])
{
	int fds[2];
	char byte;
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	c->pid = fork();
	assert_true(c->pid >= 0);
	if (c->pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (chdir(cwd) == 0)
			(void)execv(argv[0], (char *const *)(uintptr_t)argv);
		(void)!write(fds[1], "x", 1);
		_exit(1);
	}
	(void)close(fds[1]);
	c->ready = fds[0];
	if (read(fds[0], &byte, 1) != 0)
		fail_msg("%s cannot be run", argv[0]);
}

static void copy_program(const char *from, const char *to)
{
	kt_err err = KT_ERR_INIT;
	kt_buf bytes = KT_BUF_INIT;
	assert_kt_ok(kt_file_read(from, &bytes, &err));
	put_bytes(to, bytes.data, bytes.len, 0755);
	kt_buf_free(&bytes);
}

/* --- processes ------------------------------------------------------------------------------------------------- */

static void test_process_rules(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	child c;
	char exe[PATH_MAX];
	put_folder("app", 0755);
	copy_program("/bin/sleep", "app/looker-server");
	(void)snprintf(exe, sizeof exe, "%s", at("app/looker-server"));
	const char *const argv[] = {exe, "71234", NULL};
	assert_quiet(ask(&result, &err, "{\"processes\":[{\"under\":\"%s\"}]}", at("app")), &result, &err);
	start_program(&c, "/", argv);
	char pid[32];
	(void)snprintf(pid, sizeof pid, "pid %d", (int)c.pid);
	kt_status s = ask(&result, &err, "{\"processes\":[{\"exe\":\"%s\"}]}", exe);
	assert_non_null(strstr(err.msg, pid));
	assert_non_null(strstr(err.msg, "71234"));
	assert_finding(s, result, "process", pid);
	s = ask(&result, &err, "{\"processes\":[{\"under\":\"%s/\"}]}", at("app"));
	assert_finding(s, result, "process", pid);
	s = ask(&result, &err, "{\"processes\":[{\"match\":\"looker-server 71234\"}]}");
	assert_finding(s, result, "process", pid);
	/* Still found when its file was renamed, replaced or removed. */
	assert_int_equal(rename(exe, at("app/old")), 0);
	copy_program("/bin/sleep", "app/looker-server");
	s = ask(&result, &err, "{\"processes\":[{\"exe\":\"%s\"}]}", exe);
	assert_finding(s, result, "process", pid);
	assert_int_equal(unlink(at("app/old")), 0);
	s = ask(&result, &err, "{\"processes\":[{\"under\":\"%s\"}]}", at("app"));
	assert_finding(s, result, "process", pid);
	/* A neighbour whose name only begins alike is nothing. */
	s = ask(&result, &err, "{\"processes\":[{\"under\":\"%s/loo\"},{\"under\":\"%s-2\"}]}", at("app"), at("app"));
	assert_quiet(s, &result, &err);
	end_child(&c);
	s = ask(&result, &err, "{\"processes\":[{\"exe\":\"%s\"},{\"under\":\"%s\"}]}", exe, at("app"));
	assert_quiet(s, &result, &err);
}

static void test_folder_by_cwd_argument_and_link(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	child c;
	put_folder("app", 0755);
	put_text("app/run.sh", "#!/bin/sh\nread x\n", 0755);
	assert_int_equal(symlink("app", at("current")), 0);
	const char *const sleeper[] = {"/bin/sleep", "71235", NULL};
	start_program(&c, at("app"), sleeper);
	kt_status s = ask(&result, &err, "{\"processes\":[{\"under\":\"%s\"}]}", at("current"));
	assert_finding(s, result, "process", "works in the folder");
	end_child(&c);
	char option[PATH_MAX + 16];
	(void)snprintf(option, sizeof option, "--jar=%s", at("app/x.jar"));
	const char *const named[] = {"/usr/bin/tail", "-qf", "--", "/dev/null", option, NULL};
	start_program(&c, "/", named);
	s = ask(&result, &err, "{\"processes\":[{\"under\":\"%s\"}]}", at("app"));
	assert_finding(s, result, "process", "names a file in the folder");
	end_child(&c);
}

/* Command lines are shown without what looks like a password. */
static void test_cmdline_is_masked(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	child c;
	const char *const argv[] = {"/usr/bin/tail",
				    "-qf",
				    "--",
				    "/dev/null",
				    "gate-mask-test",
				    "--password",
				    "hunter2hunter2",
				    "--db-token=hunter3hunter3",
				    NULL};
	start_program(&c, "/", argv);
	kt_status s = ask(&result, &err, "{\"processes\":[{\"match\":\"gate-mask-test\"}]}");
	assert_null(strstr(err.msg, "hunter"));
	assert_non_null(strstr(err.msg, "--password ***"));
	assert_non_null(strstr(err.msg, "--db-token=***"));
	assert_finding(s, result, "process", "***");
	end_child(&c);
}

static void *wait_for_ever(void *arg)
{
	child_wait(arg);
}

/* The first thread has ended, another lives: not a corpse. A real zombie is one. */
static void test_zombies(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	child c;
	put_text("db", "x", 0600);
	if (start_child(&c) == 0) {
		pthread_t other;
		static child self; /* the stack of a thread that has ended is nobody's */
		self = c;
		if (chdir(scratch_folder) != 0 || open(at("db"), O_RDONLY) < 0 ||
		    pthread_create(&other, NULL, wait_for_ever, &self) != 0)
			_exit(1);
		pthread_exit(NULL);
	}
	char pid[32];
	(void)snprintf(pid, sizeof pid, "pid %d", (int)c.pid);
	kt_status s = ask(&result, &err, "{\"files\":[\"%s\"]}", at("db"));
	assert_finding(s, result, "file", pid);
	assert_int_equal(kill(c.pid, SIGKILL), 0);
	siginfo_t info;
	assert_int_equal(waitid(P_PID, (id_t)c.pid, &info, WEXITED | WNOWAIT), 0); /* now it is a zombie */
	s = ask(&result, &err, "{\"files\":[\"%s\"],\"processes\":[{\"under\":\"%s\"}]}", at("db"), scratch_folder);
	assert_quiet(s, &result, &err);
	assert_int_equal(waitpid(c.pid, NULL, 0), c.pid);
	(void)close(c.ready);
}

/* --- files ----------------------------------------------------------------------------------------------------- */

static void hold_open(const char *name, child *c)
{
	if (start_child(c) == 0) {
		if (open(at(name), O_RDONLY) < 0)
			_exit(1);
		child_wait(c);
	}
}

static void test_open_files(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	child c;
	static const char *const names[] = {"looker.db", "looker.db-wal", "looker.db-shm", "looker.db-journal",
					    "second-name"};
	put_text("looker.db", "db", 0600);
	put_text("looker.db-wal", "w", 0600);
	put_text("looker.db-shm", "s", 0600);
	put_text("looker.db-journal", "j", 0600);
	put_text("looker.db-other", "o", 0600);
	assert_int_equal(link(at("looker.db"), at("second-name")), 0);
	assert_quiet(ask(&result, &err, "{\"files\":[\"%s\"]}", at("looker.db")), &result, &err);
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		hold_open(names[i], &c);
		kt_status s = ask(&result, &err, "{\"files\":[\"%s\"]}", at("looker.db"));
		assert_finding(s, result, "file", "open");
		end_child(&c);
	}
	hold_open("looker.db-other", &c);
	assert_quiet(ask(&result, &err, "{\"files\":[\"%s\"]}", at("looker.db")), &result, &err);
	end_child(&c);
	/* Removed or replaced under its holder. */
	hold_open("looker.db", &c);
	assert_int_equal(unlink(at("looker.db")), 0);
	kt_status s = ask(&result, &err, "{\"files\":[\"%s\"]}", at("looker.db"));
	assert_finding(s, result, "file", "open");
	put_text("looker.db", "a new one", 0600);
	s = ask(&result, &err, "{\"files\":[\"%s\"]}", at("looker.db"));
	assert_finding(s, result, "file", "open");
	end_child(&c);
}

/* A file that is mapped and no longer open. */
static void test_mapped_file(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	child c;
	put_text("looker.db", "db", 0600);
	if (start_child(&c) == 0) {
		int fd = open(at("looker.db"), O_RDWR);
		if (fd < 0 || mmap(NULL, 2, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED || close(fd) != 0)
			_exit(1);
		child_wait(&c);
	}
	kt_status s = ask(&result, &err, "{\"files\":[\"%s\"]}", at("looker.db"));
	assert_finding(s, result, "file", "mapped");
	end_child(&c);
}

static void test_bind_mount(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	child c;
	put_folder("a", 0755);
	put_folder("b", 0755);
	put_text("a/looker.db", "db", 0600);
	if (geteuid() != 0 || mount(at("a"), at("b"), "none", MS_BIND, "") != 0) {
		print_message("skipped: a bind mount needs root\n");
		skip();
	}
	hold_open("b/looker.db", &c);
	kt_status s = ask(&result, &err, "{\"files\":[\"%s\"]}", at("a/looker.db"));
	assert_finding(s, result, "file", "open");
	end_child(&c);
	assert_int_equal(umount(at("b")), 0);
}

/* Locks whose holder no longer has the file open by a descriptor of its own, or is not to be seen. */
static void test_locks(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	child c;
	put_text("looker.db", "db", 0600);
	for (int kind = 0; kind < 3; kind++) {
		if (start_child(&c) == 0) {
			struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 1000, .l_len = 10};
			int fd = open(at("looker.db"), O_RDWR);
			int rc = kind == 0   ? fcntl(fd, F_SETLK, &lock)
				 : kind == 1 ? fcntl(fd, F_OFD_SETLK, &lock)
					     : flock(fd, LOCK_SH);
			if (rc != 0)
				_exit(1);
			child_wait(&c);
		}
		/* Without having looked at the processes: only the lock tells. */
		kt_holders h = {0};
		kt_findings f;
		kt_buf text = KT_BUF_INIT;
		assert_kt_ok(kt_findings_new(&f, &err));
		assert_kt_ok(kt_holders_watch(&h, at("looker.db"), &err));
		assert_kt_ok(kt_holders_locks(&h, &f, &err));
		assert_int_equal(f.n, 1);
		assert_kt_ok(kt_findings_text(&f, 10, &text, &err));
		assert_non_null(strstr(kt_buf_cstr(&text), kind == 1 ? "outside this node's view" : "pid"));
		kt_buf_free(&text);
		kt_findings_free(&f);
		kt_holders_free(&h);
		end_child(&c);
	}
	cJSON *result = NULL;
	assert_quiet(ask(&result, &err, "{\"files\":[\"%s\"]}", at("looker.db")), &result, &err);
}

static void test_missing_file_is_quiet(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	assert_quiet(ask(&result, &err, "{\"files\":[\"%s\"]}", at("not-there.db")), &result, &err);
}

/* --- sockets --------------------------------------------------------------------------------------------------- */

/* A bound socket on loopback; *port is the one that the kernel chose. */
static int listen_on(int family, uint16_t *port)
{
	struct sockaddr_storage address = {.ss_family = (sa_family_t)family};
	socklen_t len = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
	if (family == AF_INET)
		((struct sockaddr_in *)(void *)&address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		((struct sockaddr_in6 *)(void *)&address)->sin6_addr = in6addr_loopback;
	int s = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s < 0 || bind(s, (struct sockaddr *)&address, len) != 0 || listen(s, 5) != 0 ||
	    getsockname(s, (struct sockaddr *)&address, &len) != 0) {
		if (s >= 0)
			(void)close(s);
		return -1;
	}
	*port = ntohs(family == AF_INET ? ((struct sockaddr_in *)(void *)&address)->sin_port
					: ((struct sockaddr_in6 *)(void *)&address)->sin6_port);
	return s;
}

static void test_sockets(void **state)
{
	(void)state;
	static const int families[] = {AF_INET, AF_INET6};
	for (size_t i = 0; i < 2; i++) {
		kt_err err;
		cJSON *result = NULL;
		child c;
		uint16_t port = 0;
		int s = listen_on(families[i], &port);
		if (s < 0 && families[i] == AF_INET6) {
			print_message("skipped: no IPv6 on loopback\n");
			continue;
		}
		assert_true(s >= 0);
		if (start_child(&c) == 0)
			child_wait(&c); /* it has the listening socket too */
		(void)close(s);
		char pid[32];
		char address[32];
		(void)snprintf(pid, sizeof pid, "pid %d", (int)c.pid);
		(void)snprintf(address, sizeof address, families[i] == AF_INET ? "127.0.0.1:%u" : "[::1]:%u", port);
		kt_status status = ask(&result, &err, "{\"ports\":[%u]}", port);
		assert_true(has_finding(result, "socket", address));
		assert_true(has_finding(result, "socket", "listening"));
		assert_finding(status, result, "socket", pid);
		status = ask(&result, &err, "{\"ports\":[%u]}", port == 65535 ? 1 : port + 1);
		assert_quiet(status, &result, &err);
		end_child(&c);
		assert_quiet(ask(&result, &err, "{\"ports\":[%u]}", port), &result, &err);
	}
}

/* The listener is gone, one connection lives: found with its peer. Once closed, TIME_WAIT does not count. */
static void test_established_connection(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	uint16_t port = 0;
	int listener = listen_on(AF_INET, &port);
	assert_true(listener >= 0);
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(client, (struct sockaddr *)&to, sizeof to), 0);
	int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(server >= 0);
	(void)close(listener);
	socklen_t len = sizeof to;
	assert_int_equal(getsockname(client, (struct sockaddr *)&to, &len), 0);
	char peer[40];
	(void)snprintf(peer, sizeof peer, "peer 127.0.0.1:%u", ntohs(to.sin_port));
	kt_status s = ask(&result, &err, "{\"ports\":[%u]}", port);
	assert_true(has_finding(result, "socket", peer));
	assert_finding(s, result, "socket", "established");
	/* The server's side closes first, so that TIME_WAIT stays on its port. */
	(void)close(server);
	(void)close(client);
	assert_quiet(ask(&result, &err, "{\"ports\":[%u]}", port), &result, &err);
}

/* --- service and heartbeats ------------------------------------------------------------------------------------ */

static void test_service(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	char args[512];
	static const struct {
		int exit;
		const char *kind;
	} cases[] = {{0, "service"}, {1, "service"}, {4, "service"}};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		(void)snprintf(args, sizeof args,
			       "{\"service\":{\"start\":[\"/bin/true\"],\"stop\":[\"/bin/true\"],"
			       "\"status\":[\"/bin/sh\",\"-c\",\"exit %d\"]}}",
			       cases[i].exit);
		kt_status s = ask(&result, &err, "%s", args);
		assert_finding(s, result, cases[i].kind, "");
	}
	kt_status s = ask(&result, &err, "%s",
			  "{\"service\":{\"start\":[\"/bin/true\"],\"stop\":[\"/bin/true\"],"
			  "\"status\":[\"/bin/sh\",\"-c\",\"exit 3\"]}}");
	assert_quiet(s, &result, &err);
	s = ask(&result, &err, "%s",
		"{\"service\":{\"start\":[\"/bin/true\"],\"stop\":[\"/bin/true\"],\"status\":[\"/no/such/program\"]}}");
	assert_finding(s, result, "unasked", "");
}

static kt_status ask_status(cJSON **result, kt_err *err, const char *exit_code, const char *answer)
{
	put_text("answer", answer, 0644);
	return ask(result, err,
		   "{\"known_nodes\":[\"web01\",\"web02\"],\"heartbeats\":{\"argv\":[\"/bin/sh\",\"-c\",\"cat %s; exit "
		   "%s\"],"
		   "\"timeout_s\":2}}",
		   at("answer"), exit_code);
}

static void test_heartbeats(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	static const char *const quiet[] = {
		"{\"nodes\":[]}",
		("{\"running\":false,\"live_window_seconds\":60,\"nodes\":[{\"name\":\"web02\",\"age_ms\":61000,"
		 "\"live\":false}]}"),
		"{\"nodes\":[{\"name\":\"stranger\",\"age_ms\":99999999,\"live\":false}],\"extra\":[1,2]}",
		"{\"live_window_seconds\":60,\"nodes\":[{\"name\":\"web02\",\"age_seconds\":61}]}",
	};
	for (size_t i = 0; i < sizeof quiet / sizeof *quiet; i++)
		assert_quiet(ask_status(&result, &err, "0", quiet[i]), &result, &err);
	static const struct {
		const char *answer;
		const char *text;
	} live[] = {
		{"{\"nodes\":[{\"name\":\"web02\",\"age_ms\":1500,\"live\":true}]}", "1.5 s"},
		{"{\"nodes\":[{\"name\":\"stranger\",\"age_ms\":1500,\"live\":true}]}", "unknown node"},
		{"{\"nodes\":[{\"name\":\"web02\",\"age_ms\":-5,\"live\":false}]}", "web02"},
		{"{\"live_window_seconds\":60,\"nodes\":[{\"name\":\"web02\",\"age_ms\":59000,\"live\":false}]}",
		 "web02"},
		{"{\"live_window_seconds\":60,\"nodes\":[{\"name\":\"web02\",\"age_seconds\":60}]}", "web02"},
		{"{\"running\":true,\"nodes\":[]}", "this node"},
	};
	for (size_t i = 0; i < sizeof live / sizeof *live; i++) {
		kt_status s = ask_status(&result, &err, "0", live[i].answer);
		assert_finding(s, result, "heartbeat", live[i].text);
	}
	static const char *const broken[] = {
		"",
		"not json",
		"[]",
		"{}",
		"{\"nodes\":{}}",
		"{\"nodes\":[1]}",
		"{\"nodes\":[{\"name\":\"web02\"}]}",
		"{\"nodes\":[{\"name\":\"web02\",\"live\":\"no\"}]}",
		"{\"nodes\":[{\"name\":\"web02\",\"live\":false,\"age_ms\":\"old\"}]}",
		"{\"nodes\":[{\"live\":false,\"age_ms\":1}]}",
		"{\"nodes\":[{\"name\":\"web02\",\"age_ms\":100000}]}",
		"{\"nodes\":[]} and more",
	};
	for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
		kt_status s = ask_status(&result, &err, "0", broken[i]);
		assert_finding(s, result, "unasked", "heartbeats");
	}
	kt_status s = ask_status(&result, &err, "1", "{\"nodes\":[]}");
	assert_finding(s, result, "unasked", "exited with 1");
	s = ask(&result, &err, "{\"heartbeats\":{\"argv\":[\"/bin/sleep\",\"60\"],\"timeout_s\":1}}");
	assert_finding(s, result, "unasked", "heartbeats");
	s = ask(&result, &err, "{\"heartbeats\":{\"argv\":[\"/no/such/looker\",\"status\"]}}");
	assert_finding(s, result, "unasked", "heartbeats");
}

/* --- what cannot be asked -------------------------------------------------------------------------------------- */

static void test_bad_arguments(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	static const char *const bad[] = {
		"{}",
		"{\"processes\":[]}",
		"{\"processes\":[{}]}",
		"{\"processes\":[{\"exe\":\"/a\",\"under\":\"/b\"}]}",
		"{\"processes\":[{\"exe\":\"relative\"}]}",
		"{\"processes\":[{\"match\":\"\"}]}",
		"{\"processes\":[{\"name\":\"x\"}]}",
		"{\"processes\":{\"exe\":\"/a\"}}",
		"{\"ports\":[0]}",
		"{\"ports\":[65536]}",
		"{\"ports\":[1.5]}",
		"{\"ports\":[\"80\"]}",
		"{\"ports\":80}",
		"{\"files\":[\"relative\"]}",
		"{\"files\":[1]}",
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		kt_status s = ask(&result, &err, "%s", bad[i]);
		if (s != KT_STATUS_FAILED || err.code != KT_E_INPUT)
			fail_msg("%s: %s", bad[i], kt_status_name(s));
		cJSON_Delete(result);
	}
}

/* In a child that is nobody: run `fn`, whose value is the exit code. */
static int as_nobody(int (*fn)(void))
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (setgid(65534) != 0 || setuid(65534) != 0)
			_exit(99);
		_exit(fn());
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* Ask in a child that is somebody else: the status is `want`, and with a kind there is such a finding. */
static bool answers(kt_status want, const char *kind, const char *text, const char *args)
{
	kt_err err = KT_ERR_INIT;
	cJSON *result = NULL;
	kt_status s = ask(&result, &err, "%s", args);
	bool good = s == want && (!kind || has_finding(result, kind, text)) &&
		    (!kind || strcmp(kind, "unasked") != 0 || strstr(err.remedy, "root"));
	cJSON_Delete(result);
	return good;
}

/* Processes of root cannot be looked into by nobody: files and executables are unasked, ports can still be. The exit
 * code says which of these does not hold; 0: all do. */
static int nobody_asks(void)
{
	kt_err err = KT_ERR_INIT;
	size_t blind = 0;
	char args[PATH_MAX + 128];
	(void)snprintf(args, sizeof args, "{\"files\":[\"%s\"]}", at("public.db"));
	if (!answers(KT_STATUS_RETRY, "unasked", "open files", args))
		return 1;
	(void)snprintf(args, sizeof args, "{\"files\":[\"%s\"]}", at("private.db"));
	if (!answers(KT_STATUS_RETRY, "unasked", "private.db", args))
		return 2;
	if (!answers(KT_STATUS_RETRY, "unasked", "executables", "{\"processes\":[{\"exe\":\"/opt/none\"}]}"))
		return 3;
	/* A command line can be read by everybody. */
	if (!answers(KT_STATUS_OK, NULL, NULL, "{\"processes\":[{\"match\":\"no such text anywhere 8a7b\"}]}"))
		return 4;
	if (!answers(KT_STATUS_RETRY, "process", "(root)", "{\"processes\":[{\"match\":\"gate-root-child\"}]}"))
		return 5;
	if (kt_procfs_blind(NULL, &blind, &err) != KT_OK || blind == 0)
		return 6;
	/* Told that only nobody can open the file, it is quiet; but what can be seen of others still counts. */
	(void)snprintf(args, sizeof args, "{\"users\":[\"nobody\"],\"files\":[\"%s\"]}", at("public.db"));
	if (!answers(KT_STATUS_OK, NULL, NULL, args))
		return 7;
	(void)snprintf(args, sizeof args, "{\"users\":[\"root\"],\"files\":[\"%s\"]}", at("public.db"));
	if (!answers(KT_STATUS_RETRY, "unasked", "open files", args))
		return 8;
	return answers(KT_STATUS_RETRY, "process", "(root)",
		       "{\"users\":[\"nobody\"],\"processes\":[{\"match\":\"gate-root-child\"}]}")
		       ? 0
		       : 9;
}

static void test_not_root(void **state)
{
	(void)state;
	child c;
	if (geteuid() != 0) {
		print_message("skipped: needs root to become somebody else\n");
		skip();
	}
	put_text("public.db", "db", 0644);
	put_text("private.db", "db", 0600);
	const char *const argv[] = {"/usr/bin/tail", "-qf", "--", "/dev/null", "gate-root-child", NULL};
	start_program(&c, "/", argv);
	assert_int_equal(as_nobody(nobody_asks), 0);
	end_child(&c);
}

/* A /proc that hides others' processes proves nothing. */
static int hidden_proc(void)
{
	return answers(KT_STATUS_RETRY, "unasked", "/proc", "{\"processes\":[{\"match\":\"anything 55ab\"}]}") ? 0 : 1;
}

static void test_hidepid(void **state)
{
	(void)state;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, "") != 0 ||
		    mount("proc", "/proc", "proc", 0, "hidepid=2") != 0)
			_exit(77);
		_exit(as_nobody(hidden_proc));
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		print_message("skipped: /proc cannot be mounted with hidepid here\n");
		skip();
	}
	assert_int_equal(status, 0);
}

/* As root everybody can be looked into: that another user has the file open is a finding, whoever was said to count. */
static void test_users_excuse_nobody_who_can_be_seen(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	child c;
	put_text("db", "x", 0644);
	hold_open("db", &c);
	kt_status s = ask(&result, &err, "{\"users\":[\"daemon\"],\"files\":[\"%s\"]}", at("db"));
	assert_finding(s, result, "file", "open");
	end_child(&c);
}

/* Everything that is named, is named: the message has ten, the result has all. */
static void test_many_findings(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	child c[12];
	put_text("db", "x", 0600);
	for (size_t i = 0; i < 12; i++)
		hold_open("db", &c[i]);
	kt_status s = ask(&result, &err, "{\"files\":[\"%s\"]}", at("db"));
	assert_int_equal(s, KT_STATUS_RETRY);
	assert_int_equal(err.code, KT_E_REFUSED);
	assert_non_null(strstr(err.msg, "12 findings"));
	assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(result, "findings")), 12);
	cJSON_Delete(result);
	for (size_t i = 0; i < 12; i++)
		end_child(&c[i]);
}

static int all_tests(void)
{
	kt_err err = KT_ERR_INIT;
	if (kt_secret_setup(&err) != KT_OK || signal(SIGPIPE, SIG_IGN) == SIG_ERR) {
		(void)fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
	/* Test children must be seen as an application's processes are. */
	(void)prctl(PR_SET_DUMPABLE, 1);
#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_drop)
	const struct CMUnitTest tests[] = {
		TEST(test_process_rules),
		TEST(test_folder_by_cwd_argument_and_link),
		TEST(test_cmdline_is_masked),
		TEST(test_zombies),
		TEST(test_open_files),
		TEST(test_mapped_file),
		TEST(test_bind_mount),
		TEST(test_locks),
		TEST(test_missing_file_is_quiet),
		TEST(test_sockets),
		TEST(test_established_connection),
		TEST(test_service),
		TEST(test_heartbeats),
		TEST(test_bad_arguments),
		TEST(test_not_root),
		TEST(test_hidepid),
		TEST(test_users_excuse_nobody_who_can_be_seen),
		TEST(test_many_findings),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
	return in_own_world(all_tests);
}

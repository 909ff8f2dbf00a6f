/* SPDX-License-Identifier: Apache-2.0 */
/* The fleet against real ssh servers on loopback (127.42.7.x one server each, 127.42.8.x the light nodes). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/file.h"
#include "orchestrator/fleet/fleet.h"
#include "tests/unit/fleet/lab.h"

enum { WATCHDOG_MS = 30000, MANY = 64 };

static lab the_lab;
static lab_server server; /* host key "host", everybody in authorized_keys may log in */
static char agent_socket[LAB_PATH];
static pid_t agent_pid;

/* ---- a fleet with one loop, and what its completions told ---- */

typedef struct world {
	uv_loop_t loop;
	uv_timer_t watchdog;
	kt_fleet *fleet;
	kt_hostkeys *hostkeys;
	int done; /* completions so far */
	int lost;
	bool closed;
	kt_err err; /* of the last completion */
	kt_err lost_err;
	int status; /* of the last exec */
	char out[4096], errors[4096], signal[16];
	bool truncated;
	bool sent;
	char type[KT_FINGERPRINT], fingerprint[KT_FINGERPRINT];
	char agent_version[32];
	int64_t n;   /* result.n of the last reply */
	size_t text; /* length of result.text */
	kt_status reply_status;
	int progress;
	int ok; /* completions without an error */
} world;

static void on_watchdog(uv_timer_t *timer)
{
	(void)timer;
	fail_msg("nothing happened for %d ms", (int)WATCHDOG_MS);
}

static void on_lost(void *cookie, kt_fleet_node *node, const kt_err *err)
{
	world *w = cookie;
	(void)node;
	w->lost++;
	w->lost_err = *err;
}

static void on_closed(void *cookie)
{
	((world *)cookie)->closed = true;
}

static void completed(world *w, const kt_err *err)
{
	w->done++;
	w->ok += err->code == KT_OK;
	w->err = *err;
	if (err->code != KT_OK && getenv("KT_TEST_VERBOSE"))
		print_message("%s: %s\n", kt_code_name(err->code), err->msg);
}

static void on_done(void *cookie, kt_fleet_node *node, const kt_err *err)
{
	(void)node;
	completed(cookie, err);
}

static void on_exec(void *cookie, kt_fleet_node *node, const kt_err *err, const kt_fleet_exit *exit)
{
	world *w = cookie;
	(void)node;
	completed(w, err);
	assert_true((err->code == KT_OK) == (exit != NULL));
	if (!exit)
		return;
	w->status = exit->status;
	w->truncated = exit->truncated;
	(void)snprintf(w->out, sizeof w->out, "%s", kt_buf_cstr(&exit->out));
	(void)snprintf(w->errors, sizeof w->errors, "%s", kt_buf_cstr(&exit->errors));
	(void)snprintf(w->signal, sizeof w->signal, "%s", exit->signal);
	w->text = exit->out.len;
}

static void on_upload(void *cookie, kt_fleet_node *node, const kt_err *err, bool sent)
{
	(void)node;
	completed(cookie, err);
	((world *)cookie)->sent = sent;
}

static void on_hello(void *cookie, kt_fleet_node *node, const kt_err *err, const kt_hello *hello)
{
	world *w = cookie;
	(void)node;
	completed(w, err);
	assert_true((err->code == KT_OK) == (hello != NULL));
	if (hello)
		(void)snprintf(w->agent_version, sizeof w->agent_version, "%s", hello->agent);
}

static void on_reply(void *cookie, kt_fleet_node *node, const kt_err *err, const kt_reply *reply)
{
	world *w = cookie;
	(void)node;
	completed(w, err);
	assert_true((err->code == KT_OK) == (reply != NULL));
	if (!reply)
		return;
	w->reply_status = reply->status;
	const cJSON *n = cJSON_GetObjectItem(reply->result, "n");
	const cJSON *text = cJSON_GetObjectItem(reply->result, "text");
	w->n = n ? (int64_t)n->valuedouble : -1;
	w->text = text ? strlen(text->valuestring) : 0;
}

static void on_progress(void *cookie, kt_fleet_node *node, const kt_progress *progress)
{
	world *w = cookie;
	(void)node;
	assert_int_equal(progress->done, ++w->progress);
	assert_string_equal(progress->text, "working");
}

static void on_scan(void *cookie, kt_fleet_node *node, const kt_err *err, const uint8_t *key, size_t len,
		    const char *type, const char *fingerprint)
{
	world *w = cookie;
	completed(w, err);
	if (err->code != KT_OK)
		return;
	kt_err local = KT_ERR_INIT;
	char path[LAB_PATH];
	(void)node;
	(void)snprintf(w->type, sizeof w->type, "%s", type);
	(void)snprintf(w->fingerprint, sizeof w->fingerprint, "%s", fingerprint);
	assert_int_equal(kt_hostkeys_pin(w->hostkeys, lab_path(&the_lab, "scanned", path), server.address, server.port,
					 key, len, &local),
			 KT_OK);
}

static void world_open(world *w, const kt_fleet_options *options)
{
	kt_err err = KT_ERR_INIT;
	kt_fleet_options o = options ? *options : (kt_fleet_options){.connect_timeout_ms = 10000};
	*w = (world){.done = 0};
	o.on_lost = on_lost;
	o.cookie = w;
	assert_int_equal(uv_loop_init(&w->loop), 0);
	assert_int_equal(uv_timer_init(&w->loop, &w->watchdog), 0);
	assert_int_equal(kt_fleet_new(&w->loop, &o, &w->fleet, &err), KT_OK);
	assert_int_equal(kt_hostkeys_new(&w->hostkeys, &err), KT_OK);
}

static void pin(world *w, const lab_server *s, const char *key_name)
{
	char key[2048], line[2400];
	kt_err err = KT_ERR_INIT;
	assert_int_equal(lab_public(&the_lab, key_name, key, sizeof key), 0);
	(void)snprintf(line, sizeof line, "[%s]:%u %s\n", s->address, s->port, key);
	assert_int_equal(kt_hostkeys_parse(w->hostkeys, "pins", line, strlen(line), &err), KT_OK);
}

/* Run the loop until `n` completions have come. */
static void wait_for(world *w, int n)
{
	assert_int_equal(uv_timer_start(&w->watchdog, on_watchdog, WATCHDOG_MS, 0), 0);
	while (w->done < n)
		(void)uv_run(&w->loop, UV_RUN_ONCE);
	assert_int_equal(uv_timer_stop(&w->watchdog), 0);
	assert_int_equal(w->done, n);
}

static void wait_lost(world *w, int n)
{
	assert_int_equal(uv_timer_start(&w->watchdog, on_watchdog, WATCHDOG_MS, 0), 0);
	while (w->lost < n)
		(void)uv_run(&w->loop, UV_RUN_ONCE);
	assert_int_equal(uv_timer_stop(&w->watchdog), 0);
}

static void spin(world *w, uint64_t ms)
{
	const int64_t until = kt_clock_mono_ms() + (int64_t)ms;
	assert_int_equal(uv_timer_start(&w->watchdog, on_watchdog, WATCHDOG_MS, 0), 0);
	while (kt_clock_mono_ms() < until) {
		(void)uv_run(&w->loop, UV_RUN_NOWAIT);
		(void)usleep(2000);
	}
	assert_int_equal(uv_timer_stop(&w->watchdog), 0);
}

static void world_close(world *w)
{
	if (w->fleet)
		kt_fleet_close(w->fleet, on_closed, w);
	uv_close((uv_handle_t *)&w->watchdog, NULL);
	assert_int_equal(uv_run(&w->loop, UV_RUN_DEFAULT), 0); /* nothing of ours keeps the loop alive */
	assert_true(w->closed);
	assert_int_equal(uv_loop_close(&w->loop), 0);
	kt_hostkeys_free(w->hostkeys);
}

typedef struct who {
	const char *name;
	const lab_server *at;
	const char *key;  /* identity; NULL: none */
	const char *mode; /* of the lab's agent */
	const char *ssh_agent;
	kt_fleet_node *jump;
	bool only;
} who;

static kt_fleet_node *add(world *w, who p)
{
	char path[LAB_PATH];
	const char *name = p.name ? p.name : "web01";
	const char *const identities[] = {p.key ? lab_path(&the_lab, p.key, path) : NULL, NULL};
	const char *const argv[] = {the_lab.self, "lab-agent", name, p.mode, NULL};
	const lab_server *at = p.at ? p.at : &server;
	kt_fleet_node *node = NULL;
	kt_err err = KT_ERR_INIT;
	assert_int_equal(kt_fleet_add(w->fleet,
				      &(kt_fleet_node_options){.name = name,
							       .host = at->address,
							       .port = at->port,
							       .user = the_lab.user,
							       .identities = identities,
							       .identities_only = p.only,
							       .ssh_agent = p.ssh_agent ? p.ssh_agent : "none",
							       .hostkeys = w->hostkeys,
							       .agent_argv = argv,
							       .jump = p.jump},
				      &node, &err),
			 KT_OK);
	return node;
}

static kt_code connect_now(world *w, kt_fleet_node *node)
{
	kt_err err = KT_ERR_INIT;
	assert_int_equal(kt_fleet_connect(node, on_done, w, NULL, &err), KT_OK);
	wait_for(w, w->done + 1);
	return w->err.code;
}

static kt_code start_now(world *w, kt_fleet_node *node)
{
	kt_err err = KT_ERR_INIT;
	assert_int_equal(kt_fleet_start_agent(node, on_hello, w, NULL, &err), KT_OK);
	wait_for(w, w->done + 1);
	return w->err.code;
}

/* A world with one node that is connected and whose agent is ready. */
static kt_fleet_node *ready(world *w, const kt_fleet_options *options)
{
	world_open(w, options);
	pin(w, &server, "host");
	kt_fleet_node *node = add(w, (who){.key = "user"});
	assert_int_equal(connect_now(w, node), KT_OK);
	assert_int_equal(start_now(w, node), KT_OK);
	assert_int_equal(kt_fleet_node_state(node), KT_FLEET_READY);
	return node;
}

static kt_fleet_op ask(world *w, kt_fleet_node *node, const char *verb, int64_t n, int64_t timeout_ms)
{
	kt_err err = KT_ERR_INIT;
	kt_fleet_op op;
	cJSON *args = cJSON_CreateObject();
	assert_int_equal(kt_json_add_int(args, "n", n, &err), KT_OK);
	const kt_request r = {.cluster = "lab",
			      .run = "-",
			      .step = verb,
			      .role = KT_ROLE_DO,
			      .node = kt_fleet_node_name(node),
			      .attempt = 1,
			      .verb = verb,
			      .args = args};
	assert_int_equal(kt_fleet_request(node, &r,
					  &(kt_fleet_request_options){.timeout_ms = timeout_ms,
								      .on_progress = on_progress,
								      .on_reply = on_reply,
								      .cookie = w},
					  &op, &err),
			 KT_OK);
	cJSON_Delete(args);
	return op;
}

static kt_fleet_op start_exec(world *w, kt_fleet_node *node, const char *const *argv, const char *input, size_t len,
			      int64_t timeout_ms)
{
	kt_err err = KT_ERR_INIT;
	kt_fleet_op op;
	assert_int_equal(kt_fleet_exec(node,
				       &(kt_fleet_exec_options){.argv = argv,
								.input = input,
								.input_len = len,
								.timeout_ms = timeout_ms,
								.done = on_exec,
								.cookie = w},
				       &op, &err),
			 KT_OK);
	return op;
}

static void exec_now(world *w, kt_fleet_node *node, const char *const *argv, const char *input)
{
	(void)start_exec(w, node, argv, input, input ? strlen(input) : 0, 0);
	wait_for(w, w->done + 1);
}

static void says(const kt_err *err, const char *words)
{
	if (!strstr(err->msg, words) && !strstr(err->remedy, words))
		fail_msg("\"%s\" is not in: %s / %s", words, err->msg, err->remedy);
}

/* ---- connecting and logging in ---- */

static void login_by_file(const char *key)
{
	world w;
	world_open(&w, NULL);
	pin(&w, &server, "host");
	kt_fleet_node *node = add(&w, (who){.key = key});
	kt_code rc = connect_now(&w, node);
	if (rc != KT_OK)
		fail_msg("%s", w.err.msg);
	assert_int_equal(kt_fleet_node_state(node), KT_FLEET_CONNECTED);
	world_close(&w);
	assert_int_equal(w.done, 1); /* closing completed nothing twice */
	assert_int_equal(w.lost, 0);
}

static void login_with_files(void **state)
{
	(void)state;
	login_by_file("user");
	login_by_file("user-ecdsa");
	login_by_file("user-p521");
	login_by_file("user-pem");
}

static void login_with_ssh_agent(void **state)
{
	(void)state;
	world w;
	world_open(&w, NULL);
	pin(&w, &server, "host");
	assert_int_equal(connect_now(&w, add(&w, (who){.ssh_agent = agent_socket})), KT_OK);
	/* the file has a passphrase, the ssh-agent holds the key */
	assert_int_equal(connect_now(&w, add(&w, (who){.key = "locked", .ssh_agent = agent_socket, .only = true})),
			 KT_OK);
	assert_int_equal(connect_now(&w, add(&w, (who){.key = "locked", .only = true})), KT_E_UNREACHABLE);
	says(&w.err, "passphrase");
	/* a file that is not accepted, then the ssh-agent's */
	assert_int_equal(connect_now(&w, add(&w, (who){.key = "stranger", .ssh_agent = agent_socket})), KT_OK);
	assert_int_equal(connect_now(&w, add(&w, (who){.ssh_agent = "/nowhere/agent"})), KT_E_UNREACHABLE);
	says(&w.err, "/nowhere/agent");
	world_close(&w);
}

/* The ssh-agent takes the question and never answers: the loop goes on, the connect times out and says why. */
static void silent_ssh_agent(void **state)
{
	(void)state;
	world w;
	world_open(&w, &(kt_fleet_options){.connect_timeout_ms = 800});
	pin(&w, &server, "host");
	kt_fleet_node *stuck = add(&w, (who){.name = "stuck", .ssh_agent = agent_socket});
	kt_fleet_node *free_one = add(&w, (who){.name = "free", .key = "user"});
	kt_err err = KT_ERR_INIT;
	assert_int_equal(kill(agent_pid, SIGSTOP), 0);
	assert_int_equal(kt_fleet_connect(stuck, on_done, &w, NULL, &err), KT_OK);
	assert_int_equal(kt_fleet_connect(free_one, on_done, &w, NULL, &err), KT_OK);
	wait_for(&w, 1);
	assert_int_equal(w.err.code, KT_OK); /* the other one is not held up */
	wait_for(&w, 2);
	assert_int_equal(kill(agent_pid, SIGCONT), 0);
	assert_int_equal(w.err.code, KT_E_UNREACHABLE);
	says(&w.err, "logging in");
	world_close(&w);
}

static void unusable_keys(void **state)
{
	(void)state;
	world w;
	world_open(&w, NULL);
	pin(&w, &server, "host");
	assert_int_equal(connect_now(&w, add(&w, (who){.key = "user-rsa"})), KT_E_UNREACHABLE);
	says(&w.err, "SHA-1");
	says(&w.err, "ed25519");
	assert_int_equal(connect_now(&w, add(&w, (who){.key = "stranger"})), KT_E_UNREACHABLE);
	says(&w.err, "not accepted");
	says(&w.err, "authorized_keys");
	says(&w.err, server.address);
	assert_int_equal(connect_now(&w, add(&w, (who){.key = "absent"})), KT_E_UNREACHABLE);
	says(&w.err, "no such file");
	assert_int_equal(connect_now(&w, add(&w, (who){.key = "authorized_keys"})), KT_E_UNREACHABLE);
	assert_int_equal(connect_now(&w, add(&w, (who){.key = NULL})), KT_E_UNREACHABLE);
	says(&w.err, "no key to offer");
	world_close(&w);
	assert_int_equal(w.lost, 0); /* it never was connected */
}

static void host_keys(void **state)
{
	(void)state;
	world w;
	char offered[KT_FINGERPRINT], blob64[2048];
	kt_buf blob = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	assert_int_equal(lab_public(&the_lab, "host", blob64, sizeof blob64), 0);
	const char *base64 = strchr(blob64, ' ') + 1;
	assert_int_equal(kt_base64_decode(base64, strlen(base64), &blob, &err), KT_OK);
	assert_int_equal(kt_hostkey_fingerprint(blob.data, blob.len, offered, &err), KT_OK);
	kt_buf_free(&blob);
	world_open(&w, NULL);
	kt_fleet_node *node = add(&w, (who){.key = "user"});
	assert_int_equal(connect_now(&w, node), KT_E_REFUSED);
	says(&w.err, "unknown");
	says(&w.err, offered);
	says(&w.err, "enroll");
	pin(&w, &server, "host-ecdsa"); /* another key and another type */
	assert_int_equal(connect_now(&w, node), KT_E_REFUSED);
	says(&w.err, "changed");
	says(&w.err, offered);
	world_close(&w);
	world_open(&w, NULL);
	pin(&w, &server, "stranger"); /* another key of the same type */
	assert_int_equal(connect_now(&w, add(&w, (who){.key = "user"})), KT_E_REFUSED);
	says(&w.err, "changed");
	world_close(&w);
}

/* A server with two host keys shows the one that is pinned. */
static void pinned_type_is_asked_for(void **state)
{
	(void)state;
	lab_server two = {.pid = 0};
	char extra[LAB_PATH + 16], path[LAB_PATH];
	world w;
	(void)snprintf(extra, sizeof extra, "HostKey %s", lab_path(&the_lab, "host-ecdsa", path));
	assert_int_equal(lab_server_start(&the_lab, &two, "127.42.7.2", "host", extra), 0);
	world_open(&w, NULL);
	pin(&w, &two, "host-ecdsa");
	assert_int_equal(connect_now(&w, add(&w, (who){.at = &two, .key = "user"})), KT_OK);
	world_close(&w);
	lab_server_stop(&two);
}

/* OpenSSH 8.8 and newer do not sign with SHA-1, libssh2 1.10 knows nothing else for RSA. */
static void rsa_host(void **state)
{
	(void)state;
	lab_server rsa = {.pid = 0};
	world w;
	assert_int_equal(lab_server_start(&the_lab, &rsa, "127.42.7.9", "user-rsa", ""), 0);
	world_open(&w, NULL);
	pin(&w, &rsa, "user-rsa");
	assert_int_equal(connect_now(&w, add(&w, (who){.at = &rsa, .key = "user"})), KT_E_UNREACHABLE);
	says(&w.err, "ed25519");
	world_close(&w);
	lab_server_stop(&rsa);
}

static void scan(void **state)
{
	(void)state;
	world w;
	kt_err err = KT_ERR_INIT;
	world_open(&w, NULL);
	kt_fleet_node *node = add(&w, (who){.key = "user"});
	assert_int_equal(kt_fleet_scan(node, on_scan, &w, NULL, &err), KT_OK);
	assert_int_equal(kt_fleet_scan(node, on_scan, &w, NULL, &err), KT_E_USAGE);
	assert_int_equal(kt_fleet_connect(node, on_done, &w, NULL, &err), KT_E_USAGE);
	wait_for(&w, 1);
	assert_int_equal(w.err.code, KT_OK);
	assert_string_equal(w.type, "ssh-ed25519");
	assert_int_equal(strncmp(w.fingerprint, "SHA256:", 7), 0);
	spin(&w, 20);
	assert_int_equal(kt_fleet_node_state(node), KT_FLEET_DOWN);
	assert_int_equal(connect_now(&w, node), KT_OK); /* with the key that the scan has pinned */
	world_close(&w);
	assert_int_equal(w.lost, 0);
}

/* ---- nobody there ---- */

/* A socket that takes connections and never says a word. */
static int silent_peer(lab_server *s, const char *address)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t len = sizeof a;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(inet_pton(AF_INET, address, &a.sin_addr), 1);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
	assert_int_equal(listen(fd, 8), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	(void)snprintf(s->address, sizeof s->address, "%s", address);
	s->port = ntohs(a.sin_port);
	return fd;
}

static void nobody_there(void **state)
{
	(void)state;
	lab_server silent = {.pid = 0};
	world w;
	int fd = silent_peer(&silent, "127.42.7.3");
	world_open(&w, &(kt_fleet_options){.connect_timeout_ms = 300});
	const int64_t begun = kt_clock_mono_ms();
	kt_fleet_node *node = add(&w, (who){.at = &silent, .key = "user"});
	assert_int_equal(connect_now(&w, node), KT_E_UNREACHABLE);
	says(&w.err, "300 ms");
	says(&w.err, "exchanging keys");
	assert_in_range(kt_clock_mono_ms() - begun, 290, 3000);
	(void)close(fd);
	assert_int_equal(connect_now(&w, node), KT_E_UNREACHABLE);
	says(&w.err, "refused");
	says(&w.err, "127.42.7.3:");
	kt_fleet_node *lost;
	kt_err err = KT_ERR_INIT;
	assert_int_equal(kt_fleet_add(w.fleet,
				      &(kt_fleet_node_options){.name = "nowhere",
							       .host = "no-such-host.invalid",
							       .user = "x",
							       .hostkeys = w.hostkeys},
				      &lost, &err),
			 KT_OK);
	assert_int_equal(kt_fleet_connect(lost, on_done, &w, NULL, &err), KT_OK);
	wait_for(&w, 3);
	assert_int_equal(w.err.code, KT_E_UNREACHABLE);
	says(&w.err, "no-such-host.invalid");
	world_close(&w);
}

/* Something that talks, but not ssh. */
static void not_ssh(void **state)
{
	(void)state;
	lab_server other = {.pid = 0};
	world w;
	kt_err err = KT_ERR_INIT;
	int fd = silent_peer(&other, "127.42.7.4");
	world_open(&w, &(kt_fleet_options){.connect_timeout_ms = 1000});
	kt_fleet_node *node = add(&w, (who){.at = &other, .key = "user"});
	static const char *const words[] = {"HTTP/1.1 400 Bad Request\r\n\r\n",
					    "SSH-2.0-x\r\n\xff\xff\xff\xff\xff\xff\xff", "SSH-2.0-x\r\n"};
	for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
		assert_int_equal(kt_fleet_connect(node, on_done, &w, NULL, &err), KT_OK);
		spin(&w, 20);
		int peer = accept(fd, NULL, NULL);
		assert_true(peer >= 0);
		assert_true(send(peer, words[i], strlen(words[i]), MSG_NOSIGNAL) > 0);
		if (i % 2 == 0)
			assert_int_equal(shutdown(peer, SHUT_WR), 0);
		wait_for(&w, (int)i + 1); /* the open one: rubbish as a packet, or the timeout */
		(void)close(peer);
		assert_int_equal(w.err.code, KT_E_UNREACHABLE);
	}
	(void)close(fd);
	world_close(&w);
}

/* ---- commands ---- */

static void exec(void **state)
{
	(void)state;
	world w;
	kt_err err = KT_ERR_INIT;
	world_open(&w, NULL);
	pin(&w, &server, "host");
	kt_fleet_node *node = add(&w, (who){.key = "user"});
	const char *const hello[] = {"printf", "%s|", "it's", "a  b", "$HOME", NULL};
	exec_now(&w, node, hello, NULL);
	assert_int_equal(w.err.code, KT_E_UNREACHABLE); /* not connected */
	assert_int_equal(connect_now(&w, node), KT_OK);
	exec_now(&w, node, hello, NULL);
	assert_int_equal(w.err.code, KT_OK);
	assert_int_equal(w.status, 0);
	assert_string_equal(w.out, "it's|a  b|$HOME|");
	/* lint: allow shell: fixed scripts, run on the node or here */
	const char *const both[] = {"sh", "-c", "cat; echo problem >&2; exit 7", NULL};
	exec_now(&w, node, both, "from stdin");
	assert_int_equal(w.status, 7);
	assert_string_equal(w.out, "from stdin");
	assert_string_equal(w.errors, "problem\n");
	/* lint: allow shell: fixed scripts, run on the node or here */
	const char *const killed[] = {"sh", "-c", "kill -KILL $$", NULL};
	exec_now(&w, node, killed, NULL);
	assert_int_equal(w.err.code, KT_OK);
	assert_true(w.status == -1 ? strcmp(w.signal, "KILL") == 0 : w.status == 137);
	const char *const much[] = {"head", "-c", "3000000", "/dev/zero", NULL};
	exec_now(&w, node, much, NULL);
	assert_int_equal(w.err.code, KT_OK);
	assert_int_equal(w.text, KT_FLEET_OUTPUT_MAX);
	assert_true(w.truncated);
	const char *const absent[] = {"/no/such/program", NULL};
	exec_now(&w, node, absent, NULL);
	assert_int_equal(w.status, 127);
	const char *const none[] = {NULL};
	assert_int_equal(kt_fleet_exec(node, &(kt_fleet_exec_options){.argv = none}, NULL, &err), KT_E_USAGE);
	world_close(&w);
}

/* 3 MiB in and out again, and five commands at once on one session. */
static void exec_much_and_many(void **state)
{
	(void)state;
	enum { SIZE = 3 * 1024 * 1024 };
	world w;
	world_open(&w, NULL);
	pin(&w, &server, "host");
	kt_fleet_node *node = add(&w, (who){.key = "user"});
	assert_int_equal(connect_now(&w, node), KT_OK);
	char *input = malloc(SIZE);
	assert_non_null(input);
	for (size_t i = 0; i < SIZE; i++)
		input[i] = (char)(i * 2654435761U >> 13);
	char sum[KT_SHA256_HEX];
	kt_err err = KT_ERR_INIT;
	assert_int_equal(kt_sha256_hex(input, SIZE, sum, &err), KT_OK);
	const char *const hash[] = {"sha256sum", NULL};
	/* lint: allow shell: fixed scripts, run on the node or here */
	const char *const noisy[] = {"sh", "-c", "cat | tee /dev/stderr | sha256sum", NULL};
	(void)start_exec(&w, node, hash, input, SIZE, 0);
	(void)start_exec(&w, node, noisy, input, SIZE, 0);
	for (int i = 0; i < 5; i++)
		(void)start_exec(&w, node, hash, input, SIZE, 0);
	wait_for(&w, 8);
	assert_int_equal(w.ok, 8);
	assert_int_equal(strncmp(w.out, sum, 64), 0);
	free(input);
	world_close(&w);
}

/* Words on both streams and the end right behind them, eight commands at a time: an end or a word that libssh2 has put
 * aside while another channel was read must not be forgotten (it would hang until the timeout). */
static void no_end_is_missed(void **state)
{
	(void)state;
	world w;
	world_open(&w, NULL);
	pin(&w, &server, "host");
	kt_fleet_node *node = add(&w, (who){.key = "user"});
	assert_int_equal(connect_now(&w, node), KT_OK);
	/* lint: allow shell: a fixed script, run on the node */
	const char *const argv[] = {"sh", "-c", "echo a; echo b >&2; echo c; echo d >&2", NULL};
	for (int round = 0; round < 30; round++) {
		for (int i = 0; i < 8; i++)
			(void)start_exec(&w, node, argv, NULL, 0, 20000);
		wait_for(&w, 1 + 8 * (round + 1));
		assert_int_equal(w.ok, w.done);
		assert_string_equal(w.out, "a\nc\n");
		assert_string_equal(w.errors, "b\nd\n");
	}
	world_close(&w);
}

static void exec_timeout_and_cancel(void **state)
{
	(void)state;
	world w;
	world_open(&w, NULL);
	pin(&w, &server, "host");
	kt_fleet_node *node = add(&w, (who){.key = "user"});
	assert_int_equal(connect_now(&w, node), KT_OK);
	const char *const forever[] = {"sleep", "15", NULL};
	(void)start_exec(&w, node, forever, NULL, 0, 200);
	wait_for(&w, 2);
	assert_int_equal(w.err.code, KT_E_UNREACHABLE);
	says(&w.err, "200 ms");
	kt_fleet_op op = start_exec(&w, node, forever, NULL, 0, 0);
	spin(&w, 100);
	kt_fleet_cancel(w.fleet, op);
	assert_int_equal(w.done, 2); /* never from inside the call */
	wait_for(&w, 3);
	assert_int_equal(w.err.code, KT_E_INTERRUPTED);
	kt_fleet_cancel(w.fleet, op);
	op = start_exec(&w, node, forever, NULL, 0, 0); /* cancelled before its channel is open */
	kt_fleet_cancel(w.fleet, op);
	wait_for(&w, 4);
	const char *const yes[] = {"true", NULL};
	exec_now(&w, node, yes, NULL); /* the session is still good */
	assert_int_equal(w.err.code, KT_OK);
	(void)start_exec(&w, node, forever, NULL, 0, 0);
	spin(&w, 50);
	world_close(&w);
	assert_int_equal(w.done, 6);
	assert_int_equal(w.err.code, KT_E_INTERRUPTED);
}

/* ---- uploads ---- */

static void write_local(const char *name, size_t size, char fill)
{
	char path[LAB_PATH];
	char *bytes = malloc(size + 1);
	kt_err err = KT_ERR_INIT;
	assert_non_null(bytes);
	memset(bytes, fill, size);
	assert_int_equal(kt_file_replace(lab_path(&the_lab, name, path), bytes, size, NULL, &err), KT_OK);
	free(bytes);
}

static kt_code upload_now(world *w, kt_fleet_node *node, const char *local, const char *remote, unsigned mode)
{
	kt_err err = KT_ERR_INIT;
	char from[LAB_PATH], to[LAB_PATH];
	assert_int_equal(kt_fleet_upload(node,
					 &(kt_fleet_upload_options){.local = lab_path(&the_lab, local, from),
								    .remote = lab_path(&the_lab, remote, to),
								    .mode = mode,
								    .done = on_upload,
								    .cookie = w},
					 NULL, &err),
			 KT_OK);
	wait_for(w, w->done + 1);
	return w->err.code;
}

static void expect_file(const char *name, off_t size, unsigned mode)
{
	struct stat st;
	char path[LAB_PATH];
	assert_int_equal(stat(lab_path(&the_lab, name, path), &st), 0);
	assert_int_equal(st.st_size, size);
	assert_int_equal(st.st_mode & 07777, mode);
}

static int entries(const char *folder)
{
	char command[LAB_PATH + 32], path[LAB_PATH], line[32] = "";
	(void)snprintf(command, sizeof command, "%s", lab_path(&the_lab, folder, path));
	/* lint: allow shell: fixed scripts, run on the node or here */
	const char *const argv[] = {"sh", "-c", "ls -A \"$1\" | wc -l >\"$2\"", "sh", command, "ls.out", NULL};
	assert_int_equal(lab_run(&the_lab, argv), 0);
	FILE *f = fopen("ls.out", "re");
	assert_non_null(f);
	assert_non_null(fgets(line, sizeof line, f));
	(void)fclose(f);
	(void)unlink("ls.out");
	return (int)strtol(line, NULL, 10);
}

static void upload(void **state)
{
	(void)state;
	world w;
	kt_err err = KT_ERR_INIT;
	char path[LAB_PATH];
	world_open(&w, NULL);
	pin(&w, &server, "host");
	kt_fleet_node *node = add(&w, (who){.key = "user"});
	write_local("payload", 5000000, 'a');
	assert_int_equal(upload_now(&w, node, "payload", "up/deep er/it's", 0755), KT_E_UNREACHABLE);
	assert_int_equal(connect_now(&w, node), KT_OK);
	assert_int_equal(upload_now(&w, node, "payload", "up/deep er/it's", 0755), KT_OK);
	assert_true(w.sent);
	expect_file("up/deep er/it's", 5000000, 0755);
	assert_int_equal(upload_now(&w, node, "payload", "up/deep er/it's", 0755), KT_OK);
	assert_false(w.sent); /* identical */
	assert_int_equal(upload_now(&w, node, "payload", "up/deep er/it's", 0500), KT_OK);
	assert_true(w.sent); /* another mode */
	write_local("payload", 0, 'a');
	assert_int_equal(upload_now(&w, node, "payload", "up/deep er/it's", 0755), KT_OK);
	expect_file("up/deep er/it's", 0, 0755);
	assert_int_equal(entries("up/deep er"), 1); /* no temporary file */
	/* a folder in the way */
	assert_int_equal(upload_now(&w, node, "payload", "up/deep er", 0755), KT_E_IO);
	assert_int_equal(entries("up"), 1);
	/* a file where a folder should be */
	assert_int_equal(upload_now(&w, node, "payload", "up/deep er/it's/below", 0755), KT_E_IO);
	assert_int_equal(
		kt_fleet_upload(node, &(kt_fleet_upload_options){.local = "/absent", .remote = "/x"}, NULL, &err),
		KT_E_IO);
	assert_int_equal(
		kt_fleet_upload(node, &(kt_fleet_upload_options){.local = "/etc/hostname", .remote = "x"}, NULL, &err),
		KT_E_USAGE);
	assert_int_equal(kt_fleet_upload(node,
					 &(kt_fleet_upload_options){.local = lab_path(&the_lab, "payload", path),
								    .remote = "/x",
								    .mode = 04755},
					 NULL, &err),
			 KT_E_USAGE);
	world_close(&w);
}

/* Root by sudo -n; where this user has no such rule the refusal of sudo must be what is said. */
static void upload_with_sudo(void **state)
{
	(void)state;
	world w;
	kt_err err = KT_ERR_INIT;
	char from[LAB_PATH], to[LAB_PATH];
	static const char *const probe[] = {"sudo", "-n", "true", NULL};
	const bool allowed = lab_run(&the_lab, probe) == 0;
	world_open(&w, NULL);
	pin(&w, &server, "host");
	kt_fleet_node *node = add(&w, (who){.key = "user"});
	assert_int_equal(connect_now(&w, node), KT_OK);
	write_local("payload", 1000, 's');
	assert_int_equal(kt_fleet_upload(node,
					 &(kt_fleet_upload_options){.local = lab_path(&the_lab, "payload", from),
								    .remote = lab_path(&the_lab, "sudo/file", to),
								    .mode = 0644,
								    .sudo = true,
								    .done = on_upload,
								    .cookie = &w},
					 NULL, &err),
			 KT_OK);
	wait_for(&w, 2);
	assert_int_equal(w.err.code, allowed ? KT_OK : KT_E_IO);
	if (allowed)
		expect_file("sudo/file", 1000, 0644);
	else
		says(&w.err, "sudo");
	world_close(&w);
}

/* Cut in the middle: the old file stays, nothing else is left; the same upload again succeeds. */
static void upload_cut(void **state)
{
	(void)state;
	world w;
	kt_err err = KT_ERR_INIT;
	char from[LAB_PATH], to[LAB_PATH];
	world_open(&w, NULL);
	pin(&w, &server, "host");
	kt_fleet_node *node = add(&w, (who){.key = "user"});
	assert_int_equal(connect_now(&w, node), KT_OK);
	write_local("payload", 10, 'o');
	assert_int_equal(upload_now(&w, node, "payload", "cut/file", 0644), KT_OK);
	write_local("payload", 40 * 1000 * 1000, 'n');
	assert_int_equal(kt_fleet_upload(node,
					 &(kt_fleet_upload_options){.local = lab_path(&the_lab, "payload", from),
								    .remote = lab_path(&the_lab, "cut/file", to),
								    .mode = 0644,
								    .done = on_upload,
								    .cookie = &w},
					 NULL, &err),
			 KT_OK);
	for (int i = 0; i < 2000 && entries("cut") < 2; i++)
		(void)uv_run(&w.loop, UV_RUN_NOWAIT);
	assert_int_equal(entries("cut"), 2); /* the temporary file is being written */
	kt_fleet_disconnect(node);
	assert_int_equal(w.done, 2);
	wait_for(&w, 3);
	assert_int_equal(w.err.code, KT_E_INTERRUPTED);
	for (int i = 0; i < 500 && entries("cut") > 1; i++)
		spin(&w, 10);
	assert_int_equal(entries("cut"), 1);
	expect_file("cut/file", 10, 0644);
	assert_int_equal(connect_now(&w, node), KT_OK);
	assert_int_equal(upload_now(&w, node, "payload", "cut/file", 0644), KT_OK);
	expect_file("cut/file", 40 * 1000 * 1000, 0644);
	world_close(&w);
	assert_int_equal(w.lost, 0);
}

/* ---- the agent ---- */

static void requests(void **state)
{
	(void)state;
	world w;
	kt_fleet_node *node = ready(&w, NULL);
	assert_string_equal(w.agent_version, "0.1.0");
	(void)ask(&w, node, "echo", 41, 0);
	assert_int_equal(w.done, 2); /* never from inside the call */
	wait_for(&w, 3);
	assert_int_equal(w.err.code, KT_OK);
	assert_int_equal(w.n, 41);
	(void)ask(&w, node, "retry", 0, 0);
	wait_for(&w, 4);
	assert_int_equal(w.err.code, KT_OK);
	assert_int_equal(w.reply_status, KT_STATUS_RETRY);
	(void)ask(&w, node, "progress", 50, 0);
	wait_for(&w, 5);
	assert_int_equal(w.progress, 50);
	for (int i = 0; i < 200; i++)
		(void)ask(&w, node, "echo", i, 0);
	wait_for(&w, 205);
	assert_int_equal(w.ok, 205);
	assert_int_equal(w.n, 199); /* in order */
	(void)ask(&w, node, "big", 1000000, 0);
	wait_for(&w, 206);
	assert_int_equal(w.text, 1000000);
	/* commands beside the agent */
	const char *const yes[] = {"echo", "beside", NULL};
	exec_now(&w, node, yes, NULL);
	assert_string_equal(w.out, "beside\n");
	/* again after a disconnect */
	kt_fleet_disconnect(node);
	assert_int_equal(kt_fleet_node_state(node), KT_FLEET_DOWN);
	(void)ask(&w, node, "echo", 1, 0);
	wait_for(&w, 208);
	assert_int_equal(w.err.code, KT_E_UNREACHABLE);
	assert_int_equal(connect_now(&w, node), KT_OK);
	assert_int_equal(start_now(&w, node), KT_OK);
	(void)ask(&w, node, "echo", 5, 0);
	wait_for(&w, 211);
	assert_int_equal(w.n, 5);
	world_close(&w);
	assert_int_equal(w.lost, 0);
}

static void request_timeout_and_cancel(void **state)
{
	(void)state;
	world w;
	kt_fleet_node *node = ready(&w, NULL);
	(void)ask(&w, node, "never", 0, 150);
	wait_for(&w, 3);
	assert_int_equal(w.err.code, KT_E_UNREACHABLE);
	says(&w.err, "never within 150 ms");
	assert_int_equal(kt_fleet_node_state(node), KT_FLEET_READY);
	kt_fleet_op op = ask(&w, node, "later", 200, 0);
	spin(&w, 30);
	kt_fleet_cancel(w.fleet, op);
	wait_for(&w, 4);
	assert_int_equal(w.err.code, KT_E_INTERRUPTED);
	(void)ask(&w, node, "echo", 7, 0); /* the late reply to "later" comes before this one and is dropped */
	wait_for(&w, 5);
	assert_int_equal(w.err.code, KT_OK);
	assert_int_equal(w.n, 7);
	world_close(&w);
}

static void agent_dies(void **state)
{
	(void)state;
	world w;
	kt_fleet_node *node = ready(&w, NULL);
	(void)ask(&w, node, "never", 0, 0);
	(void)ask(&w, node, "die", 0, 0);
	wait_for(&w, 4);
	assert_int_equal(w.err.code, KT_E_UNREACHABLE);
	says(&w.err, "exit status 9");
	says(&w.err, "the disk is on fire");
	wait_lost(&w, 1);
	assert_int_equal(kt_fleet_node_state(node), KT_FLEET_DOWN);
	assert_int_equal(connect_now(&w, node), KT_OK);
	world_close(&w);
	assert_int_equal(w.lost, 1);
}

static void agent_talks_rubbish(void **state)
{
	(void)state;
	world w;
	static const char *const verbs[] = {"garbage", "stray"};
	for (size_t i = 0; i < 2; i++) {
		kt_fleet_node *node = ready(&w, NULL);
		(void)ask(&w, node, verbs[i], 0, 0);
		wait_for(&w, 3);
		assert_int_equal(w.err.code, KT_E_UNREACHABLE);
		wait_lost(&w, 1);
		world_close(&w);
	}
}

static void agent_does_not_start(void **state)
{
	(void)state;
	world w;
	kt_err err = KT_ERR_INIT;
	world_open(&w, &(kt_fleet_options){.start_timeout_ms = 400});
	pin(&w, &server, "host");
	static const struct {
		const char *mode, *words;
	} cases[] = {{"banner", "Welcome to this machine!"},
		     {"banner", "login script"},
		     {"complain", "a password is required"},
		     {"complain", "NOPASSWD"},
		     {"mute", "hello within 400 ms"}};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		kt_fleet_node *node = add(&w, (who){.key = "user", .mode = cases[i].mode});
		assert_int_equal(start_now(&w, node), KT_E_UNREACHABLE); /* not connected */
		assert_int_equal(connect_now(&w, node), KT_OK);
		assert_int_equal(start_now(&w, node), KT_E_UNREACHABLE);
		says(&w.err, cases[i].words);
		assert_int_equal(kt_fleet_node_state(node), KT_FLEET_CONNECTED); /* enroll can still put it there */
	}
	const char *const wrong[] = {the_lab.self, "lab-agent", "web99", NULL};
	const char *const absent[] = {"/usr/local/lib/keyturn/absent", "serve", NULL};
	char path[LAB_PATH];
	const char *const identities[] = {lab_path(&the_lab, "user", path), NULL};
	for (int i = 0; i < 2; i++) {
		kt_fleet_node *node;
		assert_int_equal(kt_fleet_add(w.fleet,
					      &(kt_fleet_node_options){.name = "web01",
								       .host = server.address,
								       .port = server.port,
								       .user = the_lab.user,
								       .identities = identities,
								       .hostkeys = w.hostkeys,
								       .agent_argv = i ? absent : wrong},
					      &node, &err),
				 KT_OK);
		assert_int_equal(connect_now(&w, node), KT_OK);
		assert_int_equal(start_now(&w, node), i ? KT_E_UNREACHABLE : KT_E_REFUSED);
		says(&w.err, i ? "enroll" : "web99");
	}
	world_close(&w);
	assert_int_equal(w.lost, 0);
}

/* The server's process stands still: only our ping can notice. */
static void link_goes_silent(void **state)
{
	(void)state;
	lab_server own = {.pid = 0};
	world w;
	assert_int_equal(lab_server_start(&the_lab, &own, "127.42.7.5", "host", ""), 0);
	world_open(&w, &(kt_fleet_options){.ping_interval_ms = 100, .ping_limit = 3});
	pin(&w, &own, "host");
	kt_fleet_node *node = add(&w, (who){.at = &own, .key = "user"});
	assert_int_equal(connect_now(&w, node), KT_OK);
	assert_int_equal(start_now(&w, node), KT_OK);
	spin(&w, 1000);
	assert_int_equal(kt_fleet_node_state(node), KT_FLEET_READY); /* idle, but it answers our pings */
	(void)ask(&w, node, "never", 0, 0);
	spin(&w, 20);
	lab_signal_children(own.pid, SIGSTOP);
	const int64_t begun = kt_clock_mono_ms();
	wait_for(&w, 3);
	assert_in_range(kt_clock_mono_ms() - begun, 200, 2000);
	assert_int_equal(w.err.code, KT_E_UNREACHABLE);
	says(&w.err, "no sign of life");
	wait_lost(&w, 1);
	lab_server_stop(&own);
	world_close(&w);
}

/* Our own loop stands still for longer than the limit: that is not the node's fault. */
static void loop_stands_still(void **state)
{
	(void)state;
	world w;
	kt_fleet_node *node = ready(&w, &(kt_fleet_options){.ping_interval_ms = 50, .ping_limit = 2});
	(void)ask(&w, node, "echo", 3, 100);
	(void)uv_run(&w.loop, UV_RUN_NOWAIT);
	(void)usleep(500 * 1000);
	wait_for(&w, 3);
	assert_int_equal(w.err.code, KT_OK); /* its answer lay there in time */
	spin(&w, 200);
	assert_int_equal(kt_fleet_node_state(node), KT_FLEET_READY);
	assert_int_equal(w.lost, 0);
	world_close(&w);
}

static void server_is_killed(void **state)
{
	(void)state;
	lab_server own = {.pid = 0};
	world w;
	assert_int_equal(lab_server_start(&the_lab, &own, "127.42.7.6", "host", ""), 0);
	world_open(&w, NULL);
	pin(&w, &own, "host");
	kt_fleet_node *idle = add(&w, (who){.name = "idle", .at = &own, .key = "user"});
	kt_fleet_node *busy = add(&w, (who){.name = "busy", .at = &own, .key = "user"});
	assert_int_equal(connect_now(&w, idle), KT_OK);
	assert_int_equal(connect_now(&w, busy), KT_OK);
	assert_int_equal(start_now(&w, busy), KT_OK);
	(void)ask(&w, busy, "never", 0, 0);
	spin(&w, 20);
	lab_signal_children(own.pid, SIGKILL);
	wait_for(&w, 4);
	assert_int_equal(w.err.code, KT_E_UNREACHABLE);
	wait_lost(&w, 2); /* the idle one without any operation notices too */
	lab_server_stop(&own);
	world_close(&w);
	assert_int_equal(w.lost, 2);
}

/* ---- cancelling and closing at any moment ---- */

static void cancel_connect(void **state)
{
	(void)state;
	world w;
	world_open(&w, NULL);
	pin(&w, &server, "host");
	kt_fleet_node *node = add(&w, (who){.key = "user", .ssh_agent = agent_socket});
	/* after each number of turns of the loop, until it is too late to cancel */
	for (int turns = 0; turns < 60; turns++) {
		kt_err err = KT_ERR_INIT;
		kt_fleet_op op;
		const int before = w.done;
		assert_int_equal(kt_fleet_connect(node, on_done, &w, &op, &err), KT_OK);
		for (int i = 0; i < turns; i++)
			(void)uv_run(&w.loop, UV_RUN_NOWAIT);
		kt_fleet_cancel(w.fleet, op);
		wait_for(&w, before + 1);
		assert_true(w.err.code == KT_E_INTERRUPTED || w.err.code == KT_OK);
		kt_fleet_disconnect(node);
	}
	assert_int_equal(connect_now(&w, node), KT_OK);
	world_close(&w);
	assert_int_equal(w.lost, 0);
}

static void close_at_any_moment(void **state)
{
	(void)state;
	for (int step = 0; step < 12; step++) {
		world w;
		kt_err err = KT_ERR_INIT;
		world_open(&w, NULL);
		pin(&w, &server, "host");
		kt_fleet_node *node = add(&w, (who){.key = step % 2 ? "user" : NULL, .ssh_agent = agent_socket});
		assert_int_equal(kt_fleet_connect(node, on_done, &w, NULL, &err), KT_OK);
		const int64_t until = kt_clock_mono_ms() + 4 * step;
		while (kt_clock_mono_ms() < until)
			(void)uv_run(&w.loop, UV_RUN_NOWAIT);
		world_close(&w);
		assert_int_equal(w.done, 1);
		assert_true(w.err.code == KT_E_INTERRUPTED || w.err.code == KT_OK);
	}
}

/* ---- jump hosts ---- */

static void jump_host(void **state)
{
	(void)state;
	lab_server gate = {.pid = 0};
	world w;
	kt_err err = KT_ERR_INIT;
	char path[LAB_PATH];
	const char *const identities[] = {lab_path(&the_lab, "user", path), NULL};
	assert_int_equal(lab_server_start(&the_lab, &gate, "127.42.7.7", "host-ecdsa", ""), 0);
	world_open(&w, NULL);
	pin(&w, &gate, "host-ecdsa");
	pin(&w, &server, "host");
	kt_fleet_node *jump, *inner[3];
	assert_int_equal(kt_fleet_add(w.fleet,
				      &(kt_fleet_node_options){.name = "gate",
							       .host = gate.address,
							       .port = gate.port,
							       .user = the_lab.user,
							       .identities = identities,
							       .hostkeys = w.hostkeys},
				      &jump, &err),
			 KT_OK);
	for (int i = 0; i < 3; i++) {
		inner[i] = add(&w, (who){.key = "user", .jump = i == 2 ? inner[1] : jump});
		assert_int_equal(kt_fleet_connect(inner[i], on_done, &w, NULL, &err), KT_OK);
	}
	wait_for(&w, 3);
	assert_int_equal(w.ok, 3);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(start_now(&w, inner[i]), KT_OK);
		(void)ask(&w, inner[i], "big", 900000, 0);
		wait_for(&w, w.done + 1);
		assert_int_equal(w.text, 900000);
		write_local("payload", 3000000, (char)('a' + i));
		assert_int_equal(upload_now(&w, inner[i], "payload", "through/jump", 0600), KT_OK);
		expect_file("through/jump", 3000000, 0600);
	}
	kt_fleet_disconnect(inner[0]);
	spin(&w, 50);
	assert_int_equal(kt_fleet_node_state(jump), KT_FLEET_CONNECTED);
	lab_signal_children(gate.pid, SIGKILL); /* all that goes through it is lost */
	wait_lost(&w, 3);
	assert_int_equal(kt_fleet_node_state(inner[2]), KT_FLEET_DOWN);
	lab_server_stop(&gate);
	const int before = w.done;
	assert_int_equal(kt_fleet_connect(inner[0], on_done, &w, NULL, &err), KT_OK);
	wait_for(&w, before + 1);
	assert_int_equal(w.err.code, KT_E_UNREACHABLE);
	says(&w.err, "gate");
	world_close(&w);
}

static void jump_host_refuses(void **state)
{
	(void)state;
	lab_server gate = {.pid = 0};
	lab_server nobody = {.address = "127.42.7.99", .port = 9};
	world w;
	assert_int_equal(lab_server_start(&the_lab, &gate, "127.42.7.8", "host", ""), 0);
	world_open(&w, NULL);
	pin(&w, &gate, "host");
	kt_fleet_node *jump = add(&w, (who){.name = "gate", .at = &gate, .key = "user"});
	assert_int_equal(connect_now(&w, add(&w, (who){.at = &nobody, .key = "user", .jump = jump})), KT_E_UNREACHABLE);
	says(&w.err, "jump host");
	/* the jump host does not spare the inner host key check */
	assert_int_equal(connect_now(&w, add(&w, (who){.key = "user", .jump = jump})), KT_E_REFUSED);
	says(&w.err, "unknown");
	world_close(&w);
	lab_server_stop(&gate);
}

/* ---- many ---- */

static void many_nodes(void **state)
{
	(void)state;
	lab_server nodes = {.pid = 0};
	world w;
	char path[LAB_PATH];
	kt_err err = KT_ERR_INIT;
	kt_fleet_node *list[MANY];
	lab_server at[MANY];
	assert_int_equal(lab_nodes_start(&the_lab, &nodes, MANY), 0);
	assert_int_equal(lab_nodes_known(&the_lab, &nodes, MANY, "known_hosts"), 0);
	world_open(&w, &(kt_fleet_options){.connecting_max = 16});
	assert_int_equal(kt_hostkeys_load(w.hostkeys, lab_path(&the_lab, "known_hosts", path), false, &err), KT_OK);
	char names[MANY][16];
	for (int i = 0; i < MANY; i++) {
		(void)snprintf(names[i], sizeof names[i], "node%02d", i);
		at[i] = (lab_server){.port = nodes.port};
		(void)snprintf(at[i].address, sizeof at[i].address, "127.42.8.%d", i + 1);
		list[i] = add(&w, (who){.name = names[i],
					.at = &at[i],
					.key = i % 2 ? "user" : NULL,
					.ssh_agent = i % 2 ? NULL : agent_socket});
		assert_int_equal(kt_fleet_connect(list[i], on_done, &w, NULL, &err), KT_OK);
	}
	wait_for(&w, MANY);
	assert_int_equal(w.ok, MANY);
	for (int i = 0; i < MANY; i++)
		assert_int_equal(kt_fleet_start_agent(list[i], on_hello, &w, NULL, &err), KT_OK);
	wait_for(&w, 2 * MANY);
	for (int round = 0; round < 5; round++)
		for (int i = 0; i < MANY; i++)
			(void)ask(&w, list[i], "echo", i, 0);
	wait_for(&w, 7 * MANY);
	assert_int_equal(w.ok, 7 * MANY);
	for (int i = 0; i < MANY; i++)
		(void)ask(&w, list[i], "never", i, 0);
	spin(&w, 20);
	lab_server_stop(&nodes); /* all at once */
	wait_for(&w, 8 * MANY);
	assert_int_equal(w.ok, 7 * MANY);
	wait_lost(&w, MANY);
	world_close(&w);
	assert_int_equal(w.lost, MANY);
}

/* ---- wrong use ---- */

static void wrong_use(void **state)
{
	(void)state;
	world w;
	kt_err err = KT_ERR_INIT;
	kt_fleet_node *node;
	world_open(&w, NULL);
	const kt_fleet_node_options good = {.name = "a", .host = "b", .user = "c", .hostkeys = w.hostkeys};
	kt_fleet_node_options o = good;
	o.name = "../x";
	assert_int_equal(kt_fleet_add(w.fleet, &o, &node, &err), KT_E_USAGE);
	o = good;
	o.host = "-oProxyCommand=x";
	assert_int_equal(kt_fleet_add(w.fleet, &o, &node, &err), KT_E_USAGE);
	o = good;
	o.user = "";
	assert_int_equal(kt_fleet_add(w.fleet, &o, &node, &err), KT_E_USAGE);
	o = good;
	o.port = 70000;
	assert_int_equal(kt_fleet_add(w.fleet, &o, &node, &err), KT_E_USAGE);
	o = good;
	o.hostkeys = NULL;
	assert_int_equal(kt_fleet_add(w.fleet, &o, &node, &err), KT_E_USAGE);
	assert_int_equal(kt_fleet_add(w.fleet, &good, &node, &err), KT_OK);
	assert_string_equal(kt_fleet_node_address(node), "b:22");
	assert_int_equal(kt_fleet_start_agent(node, on_hello, &w, NULL, &err), KT_E_USAGE); /* no agent_argv */
	kt_fleet_cancel(w.fleet, 0);
	kt_fleet_cancel(w.fleet, 12345);
	world_close(&w);
	assert_int_equal(w.done, 0);
}

/* ---- */

static int make_keys(void)
{
	static const struct {
		const char *name, *type, *passphrase;
		bool login;
	} keys[] = {{"host", "ed25519", "", false},       {"host-ecdsa", "ecdsa", "", false},
		    {"user", "ed25519", "", true},        {"user-ecdsa", "ecdsa", "", true},
		    {"user-rsa", "rsa", "", true},        {"stranger", "ed25519", "", false},
		    {"locked", "ed25519", "secret", true}};
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
		if (lab_keygen(&the_lab, keys[i].name, keys[i].type, keys[i].passphrase) != 0)
			return -1;
		if (keys[i].login && lab_authorize(&the_lab, keys[i].name) != 0)
			return -1;
	}
	char p521[LAB_PATH], pem[LAB_PATH];
	const char *const make_p521[] = {"ssh-keygen", "-q", "-t", "ecdsa", "-b",
					 "521",        "-N", "",   "-f",    lab_path(&the_lab, "user-p521", p521),
					 NULL};
	const char *const make_pem[] = {"ssh-keygen", "-q", "-t", "ecdsa", "-m",
					"PEM",        "-N", "",   "-f",    lab_path(&the_lab, "user-pem", pem),
					NULL};
	return lab_run(&the_lab, make_p521) == 0 && lab_run(&the_lab, make_pem) == 0 &&
			       lab_authorize(&the_lab, "user-p521") == 0 && lab_authorize(&the_lab, "user-pem") == 0
		       ? 0
		       : -1;
}

/* A real ssh-agent that holds "locked" (unlocked by SSH_ASKPASS) and an RSA key, which must be skipped. */
static int start_ssh_agent(void)
{
	char askpass[LAB_PATH], locked[LAB_PATH], rsa[LAB_PATH];
	kt_err err = KT_ERR_INIT;
	static const char script[] = "#!/bin/sh\necho secret\n";
	(void)lab_path(&the_lab, "agent.sock", agent_socket);
	agent_pid = fork();
	if (agent_pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGTERM); /* also when the test is killed */
		if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr))
			_exit(126);
		(void)execlp("ssh-agent", "ssh-agent", "-D", "-a", agent_socket, (char *)NULL);
		_exit(127);
	}
	for (int i = 0; i < 500 && access(agent_socket, F_OK) != 0; i++)
		(void)usleep(10000);
	if (kt_file_replace(lab_path(&the_lab, "askpass", askpass), script, sizeof script - 1,
			    &(kt_file_attr){.mode = 0700, .uid = KT_KEEP, .gid = KT_KEEP}, &err) != KT_OK)
		return -1;
	(void)setenv("SSH_AUTH_SOCK", agent_socket, 1);
	(void)setenv("SSH_ASKPASS", askpass, 1);
	(void)setenv("SSH_ASKPASS_REQUIRE", "force", 1);
	const char *const argv[] = {"ssh-add", "-q", lab_path(&the_lab, "user-rsa", rsa),
				    lab_path(&the_lab, "locked", locked), NULL};
	int rc = lab_run(&the_lab, argv);
	(void)unsetenv("SSH_AUTH_SOCK");
	return rc;
}

static int set_up(void **state)
{
	(void)state;
	if (lab_open(&the_lab) != 0 || make_keys() != 0 || start_ssh_agent() != 0)
		return -1;
	return lab_server_start(&the_lab, &server, "127.42.7.1", "host", "MaxSessions 40");
}

static int tear_down(void **state)
{
	(void)state;
	lab_server_stop(&server);
	if (agent_pid > 0) {
		(void)kill(agent_pid, SIGTERM);
		(void)waitpid(agent_pid, NULL, 0);
	}
	lab_close(&the_lab);
	return 0;
}

int main(int argc, char **argv)
{
	const int as_agent = lab_agent_main(argc, argv);
	if (as_agent >= 0)
		return as_agent;
	if (access("/usr/sbin/sshd", X_OK) != 0) {
		(void)fprintf(stderr, "skipped: there is no /usr/sbin/sshd (install openssh-server)\n");
		return LAB_SKIP;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(login_with_files),
		cmocka_unit_test(login_with_ssh_agent),
		cmocka_unit_test(silent_ssh_agent),
		cmocka_unit_test(unusable_keys),
		cmocka_unit_test(host_keys),
		cmocka_unit_test(pinned_type_is_asked_for),
		cmocka_unit_test(rsa_host),
		cmocka_unit_test(scan),
		cmocka_unit_test(nobody_there),
		cmocka_unit_test(not_ssh),
		cmocka_unit_test(exec),
		cmocka_unit_test(exec_much_and_many),
		cmocka_unit_test(no_end_is_missed),
		cmocka_unit_test(exec_timeout_and_cancel),
		cmocka_unit_test(upload),
		cmocka_unit_test(upload_with_sudo),
		cmocka_unit_test(upload_cut),
		cmocka_unit_test(requests),
		cmocka_unit_test(request_timeout_and_cancel),
		cmocka_unit_test(agent_dies),
		cmocka_unit_test(agent_talks_rubbish),
		cmocka_unit_test(agent_does_not_start),
		cmocka_unit_test(link_goes_silent),
		cmocka_unit_test(loop_stands_still),
		cmocka_unit_test(server_is_killed),
		cmocka_unit_test(cancel_connect),
		cmocka_unit_test(close_at_any_moment),
		cmocka_unit_test(jump_host),
		cmocka_unit_test(jump_host_refuses),
		cmocka_unit_test(many_nodes),
		cmocka_unit_test(wrong_use),
	};
	cmocka_set_test_filter(getenv("KT_TEST_FILTER"));
	return cmocka_run_group_tests(tests, set_up, tear_down);
}

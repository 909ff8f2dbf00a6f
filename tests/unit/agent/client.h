/* SPDX-License-Identifier: Apache-2.0 */
/* A coordinator in small: starts the real agent with pipes and talks frames to it. */
#ifndef KT_TESTS_UNIT_AGENT_CLIENT_H
#define KT_TESTS_UNIT_AGENT_CLIENT_H

#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <time.h>

#include "base/clock.h"
#include "tests/unit/agent/scratch.h"
#include "wire/frame.h"
#include "wire/message.h"

enum { CLIENT_PATIENCE_MS = 120000 };

typedef struct client {
	pid_t pid;
	int to, from, errs; /* the agent's stdin, stdout, stderr */
	kt_buf in;
	int64_t next_id;
	kt_buf progress; /* the texts, a line each */
	/* What the next requests say; change at will. */
	const char *cluster, *run, *step, *node;
	kt_role role;
	int64_t epoch, attempt, link;
	bool settle;
} client;

/* A reply; free with reply_free. */
typedef struct reply {
	cJSON *json;
	kt_status status;
	const cJSON *result;
	kt_err error;
} reply;

static inline void pause_ms(long ms)
{
	(void)nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

static inline const char *agent_path(void)
{
	static char path[PATH_MAX];
	const char *bin = getenv("KT_BIN_DIR");
	(void)snprintf(path, sizeof path, "%s/agent/keyturn-agent", bin ? bin : "bin");
	return path;
}

/* JSON for people: ' stands for ". One of eight static buffers in turn. */
static inline const char *J(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static inline const char *J(const char *fmt, ...)
{
	static char text[8][16384];
	static unsigned next;
	char *out = text[next++ % 8];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(out, sizeof text[0], fmt, ap);
	va_end(ap);
	assert_true(n >= 0 && (size_t)n < sizeof text[0]);
	for (char *p = out; *p; p++)
		if (*p == '\'')
			*p = '"';
	return out;
}

/* Start it; argv after the program's name ends with NULL. */
static inline void client_start_argv(client *c, const char *const *argv)
{
	int in[2];
	int out[2];
	int errs[2];
	*c = (client){.cluster = "looker", .run = "R1", .step = "s", .node = "web01", .epoch = 1, .attempt = 1};
	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	assert_int_equal(pipe2(errs, O_CLOEXEC), 0);
	c->pid = fork();
	assert_true(c->pid >= 0);
	if (c->pid == 0) {
		union {
			const char *const *from;
			char *const *to;
		} a = {.from = argv};
		(void)dup2(in[0], 0);
		(void)dup2(out[1], 1);
		(void)dup2(errs[1], 2);
		(void)execv(agent_path(), a.to);
		_exit(99);
	}
	(void)close(in[0]);
	(void)close(out[1]);
	(void)close(errs[1]);
	c->to = in[1];
	c->from = out[0];
	c->errs = errs[0];
	(void)signal(SIGPIPE, SIG_IGN);
}

static inline const char *state_dir(void)
{
	return at("state");
}

/* The next frame, the caller's; NULL at the end of the conversation. Progress is collected on the way. */
static inline cJSON *client_frame(client *c, kt_frame_kind *kind)
{
	const int64_t until = kt_clock_mono_ms() + CLIENT_PATIENCE_MS;
	for (;;) {
		kt_err err = KT_ERR_INIT;
		cJSON *payload;
		assert_kt_ok(kt_frame_decode(&c->in, kind, &payload, &err));
		if (payload && *kind == KT_FRAME_PROGRESS) {
			kt_progress p;
			assert_kt_ok(kt_progress_decode(payload, &p, &err));
			assert_kt_ok(kt_buf_printf(&c->progress, &err, "%s\n", p.text));
			cJSON_Delete(payload);
			continue;
		}
		if (payload)
			return payload;
		struct pollfd p = {.fd = c->from, .events = POLLIN};
		uint8_t chunk[65536];
		if (poll(&p, 1, 1000) == 0 && kt_clock_mono_ms() > until)
			fail_msg("the agent says nothing");
		if (!p.revents)
			continue;
		ssize_t n = read(c->from, chunk, sizeof chunk);
		if (n <= 0)
			return NULL;
		assert_kt_ok(kt_buf_append(&c->in, chunk, (size_t)n, &err));
	}
}

/* serve, with the hello taken. */
static inline void client_start(client *c)
{
	kt_frame_kind kind = KT_FRAME_BYE;
	client_start_argv(
		c, (const char *const[]){"keyturn-agent", "serve", "--node", "web01", "--state", state_dir(), NULL});
	cJSON *hello = client_frame(c, &kind);
	if (!hello) {
		char text[2000];
		ssize_t n = read(c->errs, text, sizeof text - 1);
		text[n > 0 ? n : 0] = '\0';
		fail_msg("no hello: %s", text);
	}
	assert_int_equal(kind, KT_FRAME_HELLO);
	cJSON_Delete(hello);
}

static inline void client_send_raw(client *c, const void *bytes, size_t n)
{
	kt_err err = KT_ERR_INIT;
	KT_IGNORE(kt_file_write_all(c->to, bytes, n, "agent", &err));
}

static inline void client_send(client *c, kt_frame_kind kind, const cJSON *payload)
{
	kt_err err = KT_ERR_INIT;
	kt_buf b = KT_BUF_INIT;
	assert_kt_ok(kt_frame_encode(kind, payload, &b, &err));
	client_send_raw(c, b.data, b.len);
	kt_buf_free(&b);
}

/* Send a request without waiting; its id. */
static inline int64_t client_ask(client *c, const char *verb, const char *args)
{
	kt_err err = KT_ERR_INIT;
	cJSON *a = NULL;
	cJSON *payload = NULL;
	assert_kt_ok(kt_json_parse("args", args, strlen(args), &a, &err));
	kt_request r = {.id = ++c->next_id,
			.cluster = c->cluster,
			.run = c->run,
			.epoch = c->epoch,
			.link = c->link,
			.step = c->step,
			.role = c->role,
			.node = c->node,
			.attempt = c->attempt,
			.verb = verb,
			.settle = c->settle,
			.args = a};
	assert_kt_ok(kt_request_encode(&r, &payload, &err));
	client_send(c, KT_FRAME_REQUEST, payload);
	cJSON_Delete(payload);
	cJSON_Delete(a);
	return c->next_id;
}

static inline reply client_reply(client *c, int64_t id)
{
	kt_frame_kind kind = KT_FRAME_BYE;
	kt_err err = KT_ERR_INIT;
	kt_reply r;
	reply out = {.json = client_frame(c, &kind)};
	if (!out.json)
		fail_msg("the conversation ended before the reply");
	assert_int_equal(kind, KT_FRAME_REPLY);
	assert_kt_ok(kt_reply_decode(out.json, &r, &err));
	assert_int_equal(r.id, id);
	out.status = r.status;
	out.result = r.result;
	out.error = r.error;
	return out;
}

static inline reply ask(client *c, const char *verb, const char *args)
{
	return client_reply(c, client_ask(c, verb, args));
}

static inline void reply_free(reply *r)
{
	cJSON_Delete(r->json);
	*r = (reply){0};
}

static inline const char *result_str(const reply *r, const char *name)
{
	const cJSON *m = cJSON_GetObjectItemCaseSensitive(r->result, name);
	if (!cJSON_IsString(m))
		fail_msg("no text \"%s\" in the result", name);
	return m->valuestring;
}

static inline int64_t result_int(const reply *r, const char *name)
{
	const cJSON *m = cJSON_GetObjectItemCaseSensitive(r->result, name);
	if (!cJSON_IsNumber(m))
		fail_msg("no number \"%s\" in the result", name);
	return (int64_t)m->valuedouble;
}

static inline bool result_bool(const reply *r, const char *name)
{
	const cJSON *m = cJSON_GetObjectItemCaseSensitive(r->result, name);
	if (!cJSON_IsBool(m))
		fail_msg("no bool \"%s\" in the result", name);
	return cJSON_IsTrue(m);
}

/* It must be ok. */
static inline reply ask_ok(client *c, const char *verb, const char *args)
{
	reply r = ask(c, verb, args);
	if (r.status != KT_STATUS_OK)
		fail_msg("%s: %s: %s (%s)", verb, kt_status_name(r.status), r.error.msg, r.error.remedy);
	return r;
}

/* It must end so, with this class, and `part` in its message. */
static inline void ask_bad(client *c, const char *verb, const char *args, kt_status status, kt_code code,
			   const char *part)
{
	reply r = ask(c, verb, args);
	if (r.status != status || r.error.code != code || !strstr(r.error.msg, part))
		fail_msg("%s %s: %s/%s \"%s\", not %s/%s \"%s\"", verb, args, kt_status_name(r.status),
			 kt_code_name(r.error.code), r.error.msg, kt_status_name(status), kt_code_name(code), part);
	reply_free(&r);
}

static inline void ask_done(client *c, const char *verb, const char *args)
{
	reply r = ask_ok(c, verb, args);
	reply_free(&r);
}

/* Wait for its end: the exit code, or -signal. */
static inline int client_wait(client *c)
{
	int status = 0;
	const int64_t until = kt_clock_mono_ms() + CLIENT_PATIENCE_MS;
	while (waitpid(c->pid, &status, WNOHANG) == 0) {
		if (kt_clock_mono_ms() > until)
			fail_msg("the agent does not end");
		pause_ms(5);
	}
	(void)close(c->from);
	(void)close(c->errs);
	if (c->to >= 0)
		(void)close(c->to);
	kt_buf_free(&c->in);
	kt_buf_free(&c->progress);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* End the conversation in order. */
static inline void client_end(client *c)
{
	(void)close(c->to);
	c->to = -1;
	assert_int_equal(client_wait(c), 0);
}

static inline void client_kill(client *c)
{
	assert_int_equal(kill(c->pid, SIGKILL), 0);
	assert_int_equal(client_wait(c), -SIGKILL);
}

/* Until a condition holds. */
#define WAIT_UNTIL(cond)                                                                                               \
	do {                                                                                                           \
		const int64_t wait_until = kt_clock_mono_ms() + CLIENT_PATIENCE_MS;                                    \
		while (!(cond)) {                                                                                      \
			if (kt_clock_mono_ms() > wait_until)                                                           \
				fail_msg("waited in vain for %s", #cond);                                              \
			pause_ms(5);                                                                                   \
		}                                                                                                      \
	} while (0)

/* A file's text, in a static buffer. */
static inline const char *text_of(const char *name)
{
	static char text[65536];
	int fd = open(at(name), O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return "";
	ssize_t n = read(fd, text, sizeof text - 1);
	(void)close(fd);
	text[n > 0 ? n : 0] = '\0';
	return text;
}

#endif

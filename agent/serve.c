/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/serve.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/dispatch.h"
#include "agent/epoch.h"
#include "agent/process.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "wire/frame.h"

enum { QUEUE = 64, CHUNK = 64 * 1024, WATCH_MS = 500 };

/*
 * Invariants: (1) payload[] holds n requests from `first` on, owned; (2) out is written under out_lock only; (3) what
 * the worker works on is described by id, cluster, run and epoch under `lock` while `busy`.
 */
typedef struct server {
	const kt_serve_options *o;
	pthread_mutex_t lock;
	pthread_cond_t more;
	cJSON *payload[QUEUE];
	size_t first, n;
	bool busy;
	int64_t id;
	char cluster[KT_NAME_MAX + 1];
	char run[KT_NAME_MAX + 1];
	int64_t epoch, link;
	pthread_mutex_t out_lock;
	atomic_bool out_failed;
	atomic_bool ending;   /* the conversation is over */
	atomic_bool replaced; /* a higher epoch or link came while the worker was at work */
} server;

/* --- Sending --------------------------------------------------------------------------------------------------------
 */

static kt_code send_frame(server *s, kt_frame_kind kind, const cJSON *payload, kt_err *err)
{
	kt_buf b = {.max = KT_FRAME_PAYLOAD_MAX + KT_FRAME_HEADER};
	kt_code rc = kt_frame_encode(kind, payload, &b, err);
	if (rc == KT_OK) {
		(void)pthread_mutex_lock(&s->out_lock);
		rc = kt_file_write_all(s->o->out, b.data, b.len, "the coordinator's connection", err);
		(void)pthread_mutex_unlock(&s->out_lock);
		if (rc != KT_OK)
			atomic_store(&s->out_failed, true);
	}
	kt_buf_free(&b);
	return rc;
}

static kt_code say_hello(server *s, kt_err *err)
{
	char host[256] = "";
	char boot_id[KT_BOOT_ID];
	cJSON *payload;
	if (gethostname(host, sizeof host - 1) != 0)
		return kt_fail_errno(err, errno, NULL, "gethostname");
	KT_TRY(kt_boot_id(boot_id, err));
	kt_hello hello = {.agent = KT_VERSION,
			  .node = s->o->node,
			  .hostname = host,
			  .boot_id = boot_id,
			  .uid = geteuid(),
			  .time_ms = kt_clock_wall_ms()};
	KT_TRY(kt_hello_encode(&hello, &payload, err));
	kt_code rc = send_frame(s, KT_FRAME_HELLO, payload, err);
	cJSON_Delete(payload);
	return rc;
}

static void send_reply(server *s, const kt_reply *reply)
{
	cJSON *payload;
	kt_err err = KT_ERR_INIT;
	kt_code rc = kt_reply_encode(reply, &payload, &err);
	if (rc == KT_OK) {
		rc = send_frame(s, KT_FRAME_REPLY, payload, &err);
		cJSON_Delete(payload);
	}
	if (rc == KT_E_INPUT && reply->result) {
		/* A result that is larger than a frame: the status is still told. */
		kt_reply bare = *reply;
		bare.result = NULL;
		if (bare.status == KT_STATUS_OK) {
			bare.status = KT_STATUS_FAILED;
			bare.error = err;
		}
		send_reply(s, &bare);
	} else if (rc != KT_OK) {
		kt_log(KT_LOG_ERROR, "a reply could not be sent: %s", err.msg);
	}
}

/* --- The worker -----------------------------------------------------------------------------------------------------
 */

static void report(void *arg, int64_t done, int64_t total, const char *text)
{
	server *s = arg;
	cJSON *payload;
	kt_err err = KT_ERR_INIT;
	kt_progress p = {.id = s->id, .done = done, .total = total, .text = text};
	if (kt_progress_encode(&p, &payload, &err) != KT_OK)
		return;
	KT_IGNORE(send_frame(s, KT_FRAME_PROGRESS, payload, &err));
	cJSON_Delete(payload);
}

static bool stopping(void *arg)
{
	server *s = arg;
	return atomic_load(&s->ending) || atomic_load(&s->replaced) || atomic_load(&s->out_failed);
}

static void copy_name(char out[KT_NAME_MAX + 1], const char *name)
{
	size_t n = strnlen(name, KT_NAME_MAX);
	memcpy(out, name, n);
	out[n] = '\0';
}

static void begin_work(server *s, const kt_request *r)
{
	(void)pthread_mutex_lock(&s->lock);
	s->id = r->id;
	s->epoch = r->epoch;
	s->link = r->link;
	copy_name(s->cluster, r->cluster);
	copy_name(s->run, r->run);
	atomic_store(&s->replaced, false);
	s->busy = true;
	(void)pthread_mutex_unlock(&s->lock);
}

static void end_work(server *s)
{
	(void)pthread_mutex_lock(&s->lock);
	s->busy = false;
	(void)pthread_mutex_unlock(&s->lock);
}

static void work_on(server *s, const cJSON *payload)
{
	kt_request r;
	kt_agent a = {.verbs = kt_agent_verbs,
		      .state = s->o->state,
		      .node = s->o->node,
		      .report = report,
		      .stopping = stopping,
		      .arg = s};
	kt_reply reply = {.status = KT_STATUS_FAILED};
	cJSON *result = cJSON_CreateObject();
	kt_code rc = kt_request_decode(payload, &r, &reply.error);
	if (rc == KT_OK && result) {
		begin_work(s, &r);
		reply.id = r.id;
		reply.result = result;
		reply.status = kt_dispatch(&a, &r, result, &reply.error);
		end_work(s);
	}
	if (rc != KT_OK) {
		/* The reader has seen to the id. */
		kt_err ignored = KT_ERR_INIT;
		KT_IGNORE(kt_json_int(payload, "id", 0, INT64_C(1) << 53, &reply.id, &ignored));
	} else if (!result) {
		KT_IGNORE(kt_fail(&reply.error, KT_E_INTERNAL, NULL, "out of memory"));
	}
	send_reply(s, &reply);
	cJSON_Delete(result);
}

/* The next request, the caller's; NULL when the conversation is over. What is queued then is not begun. */
static cJSON *take(server *s)
{
	cJSON *payload = NULL;
	(void)pthread_mutex_lock(&s->lock);
	while (s->n == 0 && !atomic_load(&s->ending))
		(void)pthread_cond_wait(&s->more, &s->lock);
	if (!atomic_load(&s->ending)) {
		payload = s->payload[s->first];
		s->payload[s->first] = NULL;
		s->first = (s->first + 1) % QUEUE;
		s->n--;
	}
	(void)pthread_mutex_unlock(&s->lock);
	return payload;
}

static void *worker(void *arg)
{
	server *s = arg;
	for (cJSON *payload = take(s); payload; payload = take(s)) {
		work_on(s, payload);
		cJSON_Delete(payload);
	}
	return NULL;
}

/* --- The reader -----------------------------------------------------------------------------------------------------
 */

/* A request without a usable id could never be answered: that ends the conversation. */
static kt_code enqueue(server *s, cJSON *payload, kt_err *err)
{
	int64_t id;
	kt_code rc = kt_json_int(payload, "id", 0, INT64_C(1) << 53, &id, err);
	if (rc == KT_OK) {
		(void)pthread_mutex_lock(&s->lock);
		if (s->n < QUEUE) {
			s->payload[(s->first + s->n++) % QUEUE] = payload;
			payload = NULL;
			(void)pthread_cond_signal(&s->more);
		} else {
			rc = kt_fail(err, KT_E_INPUT, "wait for replies before asking on",
				     "more than %d requests wait for an answer", (int)QUEUE);
		}
		(void)pthread_mutex_unlock(&s->lock);
	}
	cJSON_Delete(payload);
	return rc;
}

static kt_code pong(server *s, const cJSON *ping, kt_err *err)
{
	int64_t n;
	KT_TRY(kt_json_int(ping, "n", 0, INT64_C(1) << 53, &n, err));
	cJSON *payload = cJSON_CreateObject();
	if (!payload)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = kt_json_add_int(payload, "n", n, err);
	if (rc == KT_OK)
		rc = send_frame(s, KT_FRAME_PONG, payload, err);
	cJSON_Delete(payload);
	return rc;
}

static kt_code on_frame(server *s, kt_frame_kind kind, cJSON *payload, bool *bye, kt_err *err)
{
	if (kind == KT_FRAME_REQUEST)
		return enqueue(s, payload, err);
	kt_code rc = KT_OK;
	if (kind == KT_FRAME_PING)
		rc = pong(s, payload, err);
	else if (kind == KT_FRAME_BYE)
		*bye = true;
	else
		rc = kt_fail(err, KT_E_INPUT, NULL, "a frame of kind %d is not for an agent", (int)kind);
	cJSON_Delete(payload);
	return rc;
}

static kt_code take_frames(server *s, kt_buf *in, bool *bye, kt_err *err)
{
	while (!*bye) {
		kt_frame_kind kind;
		cJSON *payload;
		KT_TRY(kt_frame_decode(in, &kind, &payload, err));
		if (!payload)
			return KT_OK;
		KT_TRY(on_frame(s, kind, payload, bye, err));
	}
	return KT_OK;
}

/* What there is to read. *over at the end, which must not be in the middle of a frame. */
static kt_code read_some(server *s, kt_buf *in, bool *over, kt_err *err)
{
	KT_TRY(kt_buf_reserve(in, CHUNK, err));
	ssize_t n = read(s->o->in, in->data + in->len, CHUNK);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return KT_OK;
	if (n < 0)
		return kt_fail_errno(err, errno, NULL, "the coordinator's connection");
	if (n == 0) {
		*over = true;
		return in->len == 0 ? KT_OK
				    : kt_fail(err, KT_E_INPUT, NULL,
					      "the connection ended in the middle of a frame (%zu bytes of it came)",
					      in->len);
	}
	in->len += (size_t)n;
	in->data[in->len] = '\0';
	return take_frames(s, in, over, err);
}

/* Has another agent process admitted a higher epoch, or a newer connection, since this work was begun? */
static void watch_epoch(server *s)
{
	kt_epoch seen;
	kt_err ignored = KT_ERR_INIT;
	(void)pthread_mutex_lock(&s->lock);
	if (s->busy && s->epoch > 0 && kt_epoch_read(s->o->state, s->cluster, &seen, &ignored) == KT_OK &&
	    (seen.epoch > s->epoch || (seen.epoch == s->epoch && seen.link > s->link)))
		atomic_store(&s->replaced, true);
	(void)pthread_mutex_unlock(&s->lock);
}

static kt_code converse(server *s, int signals, kt_err *err)
{
	kt_buf in = {.max = 4 * KT_FRAME_PAYLOAD_MAX};
	bool over = false;
	kt_code rc = say_hello(s, err);
	while (rc == KT_OK && !over) {
		struct pollfd p[2] = {{.fd = s->o->in, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
		int ready = poll(p, 2, WATCH_MS);
		if (ready < 0 && errno != EINTR)
			rc = kt_fail_errno(err, errno, NULL, "poll");
		watch_epoch(s);
		if (ready > 0 && p[1].revents)
			over = true;
		else if (ready > 0 && p[0].revents)
			rc = read_some(s, &in, &over, err);
		if (rc == KT_OK && atomic_load(&s->out_failed))
			rc = kt_fail(err, KT_E_IO, NULL, "the coordinator's connection is closed");
	}
	kt_buf_free(&in);
	return rc;
}

/* --- Setting up -----------------------------------------------------------------------------------------------------
 */

static kt_code check_state(const char *state, kt_err *err)
{
	struct stat st;
	KT_TRY(kt_file_mkdirs(state, 0700, err));
	if (lstat(state, &st) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", state);
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
		return kt_fail(
			err, KT_E_IO, "make it ours: chown it and chmod 0700",
			"the state folder %s must be a folder of uid %u that nobody else can enter (uid %u, mode %04o)",
			state, (unsigned)geteuid(), (unsigned)st.st_uid, (unsigned)(st.st_mode & 07777));
	return KT_OK;
}

/* The signals that end the conversation in order, as a descriptor. */
static kt_code catch_signals(int *fd, kt_err *err)
{
	sigset_t set;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGHUP);
	int e = pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (e)
		return kt_fail_errno(err, e, NULL, "signals cannot be blocked");
	*fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return *fd >= 0 ? KT_OK : kt_fail_errno(err, errno, NULL, "signalfd");
}

static void end(server *s, pthread_t thread)
{
	(void)pthread_mutex_lock(&s->lock);
	atomic_store(&s->ending, true);
	(void)pthread_cond_signal(&s->more);
	(void)pthread_mutex_unlock(&s->lock);
	(void)pthread_join(thread, NULL);
	for (size_t i = 0; i < QUEUE; i++)
		cJSON_Delete(s->payload[i]);
}

kt_code kt_serve(const kt_serve_options *o, kt_err *err)
{
	server s = {.o = o,
		    .lock = PTHREAD_MUTEX_INITIALIZER,
		    .more = PTHREAD_COND_INITIALIZER,
		    .out_lock = PTHREAD_MUTEX_INITIALIZER};
	int signals = -1;
	pthread_t thread;
	KT_TRY(check_state(o->state, err));
	KT_TRY(catch_signals(&signals, err));
	kt_code rc = KT_OK;
	int e = pthread_create(&thread, NULL, worker, &s);
	if (e)
		rc = kt_fail_errno(err, e, NULL, "no thread for the work");
	if (rc == KT_OK) {
		rc = converse(&s, signals, err);
		end(&s, thread);
	}
	(void)close(signals);
	return rc;
}

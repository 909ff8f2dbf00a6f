/* SPDX-License-Identifier: Apache-2.0 */
#include "store/serve.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/codec.h"
#include "store/cache.h"
#include "store/item.h"
#include "store/logfile.h"
#include "store/node.h"
#include "store/pidfile.h"

enum {
	CLIENTS_MAX = 128,
	BACKLOG = 64,
	CONTENT_MAX = 1024 * 1024, /* of an item that goes over the line protocol */
	LINE_MAX_LEN = CONTENT_MAX / 3 * 4 + KT_ENVELOPE_NAME_MAX + 64, /* a PUT of such an item */
	QUEUE_MAX = 4 * 1024 * 1024,                                    /* bytes that a client may leave unread */
	CHUNK = 64 * 1024,
	BUSY_MAX_MS = 5000
};

typedef struct server {
	const kt_store_config *cfg;
	kt_session s;
	int pid_fd;
	char address[128];
	bool registered;
	uv_loop_t loop;
	uv_tcp_t listener;
	uv_timer_t beat;
	uv_signal_t term, intr;
	size_t clients;
	int64_t last_beat_ms; /* monotonic, of the last heartbeat that was written */
	char chunk[CHUNK];
	kt_code result;
	kt_err *err;
} server;

typedef struct client {
	uv_tcp_t tcp; /* first: a handle is its client */
	server *sv;
	kt_buf in;
	bool closing;
} client;

/* ---- clients ---- */

static void client_closed(uv_handle_t *h)
{
	client *c = (client *)h;
	c->sv->clients--;
	kt_buf_free(&c->in);
	free(c);
}

static void client_close(client *c)
{
	if (!c->closing)
		uv_close((uv_handle_t *)&c->tcp, client_closed);
	c->closing = true;
}

typedef struct reply {
	uv_write_t req; /* first */
	kt_buf text;
	bool last;
} reply;

static void reply_sent(uv_write_t *req, int status)
{
	reply *r = (reply *)req;
	if (status != 0 || r->last)
		client_close((client *)req->handle);
	kt_buf_free(&r->text);
	free(r);
}

/* Send a text, which is taken over. `last`: close the connection after it. */
static void client_send(client *c, kt_buf *text, bool last)
{
	reply *r = calloc(1, sizeof *r);
	if (!r) {
		kt_buf_free(text);
		client_close(c);
		return;
	}
	r->text = *text;
	*text = KT_BUF_INIT;
	r->last = last;
	uv_buf_t out = uv_buf_init((char *)r->text.data, (unsigned)r->text.len);
	if (uv_write(&r->req, (uv_stream_t *)&c->tcp, &out, 1, reply_sent) != 0) {
		kt_buf_free(&r->text);
		free(r);
		client_close(c);
	} else if (uv_stream_get_write_queue_size((uv_stream_t *)&c->tcp) > QUEUE_MAX) {
		kt_logfile(KT_LOG_WARN, "net", "a client that does not read its replies was disconnected");
		client_close(c);
	}
}

static kt_code answer_get(server *sv, const char *name, kt_buf *out, kt_err *err)
{
	kt_buf plain = KT_BUF_INIT;
	kt_code rc = kt_item_get(&sv->s, name, &plain, err);
	if (rc == KT_OK)
		rc = kt_buf_str(out, "OK ", err);
	if (rc == KT_OK)
		rc = kt_base64_encode(plain.data, plain.len, out, err);
	kt_buf_free(&plain);
	return rc;
}

static kt_code answer_put(server *sv, char *rest, kt_buf *out, kt_err *err)
{
	char *space = strchr(rest, ' ');
	if (!space)
		return kt_fail(err, KT_E_USAGE, NULL, "PUT name base64");
	*space++ = '\0';
	kt_buf plain = {.max = CONTENT_MAX + 3};
	kt_code rc = kt_base64_decode(space, strlen(space), &plain, err);
	if (rc == KT_OK)
		rc = kt_item_put(&sv->s, rest, plain.data, plain.len, err);
	if (rc == KT_OK)
		rc = kt_buf_str(out, "OK", err);
	kt_buf_free(&plain);
	return rc;
}

static kt_code answer_count(server *sv, kt_buf *out, kt_err *err)
{
	int64_t count;
	KT_TRY(kt_db_item_count(sv->s.db, &count, err));
	return kt_buf_printf(out, err, "OK %lld", (long long)count);
}

static kt_code answer(server *sv, char *line, kt_buf *out, bool *last, kt_err *err)
{
	if (strncmp(line, "GET ", 4) == 0)
		return answer_get(sv, line + 4, out, err);
	if (strncmp(line, "PUT ", 4) == 0)
		return answer_put(sv, line + 4, out, err);
	if (strcmp(line, "COUNT") == 0)
		return answer_count(sv, out, err);
	if (strcmp(line, "QUIT") != 0)
		return kt_fail(err, KT_E_USAGE, NULL, "known are GET, PUT, COUNT and QUIT");
	*last = true;
	return kt_buf_str(out, "BYE", err);
}

static void client_line(client *c, char *line)
{
	bool last = false;
	kt_buf out = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	kt_code rc = answer(c->sv, line, &out, &last, &err);
	if (rc != KT_OK) {
		kt_buf_clear(&out);
		rc = kt_buf_printf(&out, NULL, "ERR %s %s", kt_code_name(err.code), err.msg);
	}
	if (rc == KT_OK)
		rc = kt_buf_str(&out, "\n", NULL);
	if (rc == KT_OK) {
		client_send(c, &out, last);
	} else {
		kt_buf_free(&out);
		client_close(c);
	}
}

static void client_lines(client *c)
{
	size_t done = 0;
	while (!c->closing && done < c->in.len) {
		char *line = (char *)c->in.data + done;
		char *end = memchr(line, '\n', c->in.len - done);
		if (!end)
			break;
		*end = '\0';
		done = (size_t)(end + 1 - (char *)c->in.data);
		if (end > line && end[-1] == '\r')
			end[-1] = '\0';
		client_line(c, line);
	}
	kt_buf_consume(&c->in, done);
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
	(void)suggested;
	*buf = uv_buf_init(((client *)h)->sv->chunk, CHUNK);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	client *c = (client *)stream;
	if (n < 0) {
		client_close(c);
		return;
	}
	if (kt_buf_append(&c->in, buf->base, (size_t)n, NULL) == KT_OK) {
		client_lines(c);
		return;
	}
	kt_buf out = KT_BUF_INIT;
	kt_buf_clear(&c->in);
	(void)uv_read_stop(stream);
	if (kt_buf_printf(&out, NULL, "ERR input a line has at most %d bytes\n", (int)LINE_MAX_LEN) == KT_OK)
		client_send(c, &out, true);
	else
		client_close(c);
}

static void on_connection(uv_stream_t *listener, int status)
{
	server *sv = listener->data;
	client *c = status == 0 ? calloc(1, sizeof *c) : NULL;
	if (!c)
		return;
	c->sv = sv;
	c->in.max = LINE_MAX_LEN;
	if (uv_tcp_init(&sv->loop, &c->tcp) != 0) {
		free(c);
		return;
	}
	sv->clients++;
	if (uv_accept(listener, (uv_stream_t *)&c->tcp) != 0 || sv->clients > CLIENTS_MAX ||
	    uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read) != 0)
		client_close(c);
}

/* ---- the node ---- */

static void close_any(uv_handle_t *h, void *arg)
{
	server *sv = arg;
	if (uv_is_closing(h))
		return;
	if (h->type == UV_TCP && h != (uv_handle_t *)&sv->listener)
		client_close((client *)h);
	else
		uv_close(h, NULL);
}

static void end(server *sv)
{
	uv_walk(&sv->loop, close_any, sv);
}

static void on_signal(uv_signal_t *h, int signum)
{
	server *sv = h->data;
	kt_logfile(KT_LOG_INFO, "node", "signal %d: stopping", signum);
	end(sv);
}

static kt_code beat_in_transaction(server *sv, kt_err *err)
{
	bool known;
	KT_TRY(kt_session_check_epoch(&sv->s, err));
	KT_TRY(kt_db_node_beat(sv->s.db, sv->cfg->node, getpid(), kt_clock_wall_ms(), &known, err));
	if (!known)
		KT_TRY(kt_node_register(sv->s.db, sv->cfg, sv->address, err));
	return kt_db_commit(sv->s.db, err);
}

static kt_code write_beat(server *sv, kt_err *err)
{
	KT_TRY(kt_db_begin(sv->s.db, true, err));
	kt_code rc = beat_in_transaction(sv, err);
	kt_db_rollback(sv->s.db);
	if (rc == KT_OK)
		sv->last_beat_ms = kt_clock_mono_ms();
	return rc;
}

/* Others must be able to rely on the heartbeat, so a node without one does not go on. */
static void on_beat(uv_timer_t *timer)
{
	server *sv = timer->data;
	kt_err err = KT_ERR_INIT;
	kt_code rc = write_beat(sv, &err);
	if (rc == KT_OK)
		return;
	kt_logfile(KT_LOG_WARN, "node", "no heartbeat: %s", err.msg);
	int64_t silent = kt_clock_mono_ms() - sv->last_beat_ms;
	bool fatal = rc == KT_E_KEY || rc == KT_E_REFUSED || silent * 4 > (int64_t)sv->cfg->live_window_seconds * 3000;
	if (!fatal)
		return;
	kt_logfile(KT_LOG_ERROR, "node", "ending, since the other nodes cannot see that this one lives");
	sv->result = rc;
	if (sv->err)
		*sv->err = err;
	end(sv);
}

static kt_code uv_failed(int rc, const server *sv, const char *what, kt_err *err)
{
	return kt_fail(err, KT_E_IO, "check \"listen\" in store.json, and that nothing else uses that port",
		       "%s %s port %d: %s", what, sv->cfg->host, sv->cfg->port, uv_strerror(rc));
}

static kt_code parse_address(const server *sv, struct sockaddr_storage *out, kt_err *err)
{
	const char *host = strcmp(sv->cfg->host, "localhost") == 0 ? "127.0.0.1" : sv->cfg->host;
	if (uv_ip4_addr(host, sv->cfg->port, (struct sockaddr_in *)out) == 0 ||
	    uv_ip6_addr(host, sv->cfg->port, (struct sockaddr_in6 *)out) == 0)
		return KT_OK;
	return kt_fail(err, KT_E_INPUT, "write \"listen\" as ADDRESS:PORT", "\"%s\" is not an IP address", host);
}

static void name_address(server *sv)
{
	struct sockaddr_storage a;
	int n = sizeof a;
	char host[INET6_ADDRSTRLEN] = "?";
	uint16_t port = 0;
	if (uv_tcp_getsockname(&sv->listener, (struct sockaddr *)&a, &n) == 0) {
		bool v4 = a.ss_family == AF_INET;
		const void *addr = v4 ? (const void *)&((struct sockaddr_in *)&a)->sin_addr
				      : (const void *)&((struct sockaddr_in6 *)&a)->sin6_addr;
		(void)inet_ntop(a.ss_family, addr, host, sizeof host);
		port = ntohs(v4 ? ((struct sockaddr_in *)&a)->sin_port : ((struct sockaddr_in6 *)&a)->sin6_port);
	}
	(void)snprintf(sv->address, sizeof sv->address, strchr(host, ':') ? "[%s]:%u" : "%s:%u", host, port);
}

static kt_code bind_listener(server *sv, kt_err *err)
{
	struct sockaddr_storage a;
	KT_TRY(parse_address(sv, &a, err));
	int rc = uv_tcp_init(&sv->loop, &sv->listener);
	sv->listener.data = sv;
	if (rc == 0)
		rc = uv_tcp_bind(&sv->listener, (struct sockaddr *)&a, 0);
	if (rc == 0)
		rc = uv_listen((uv_stream_t *)&sv->listener, BACKLOG, on_connection);
	if (rc != 0)
		return uv_failed(rc, sv, "cannot listen on", err);
	name_address(sv);
	return KT_OK;
}

/* A stop that comes while the node starts waits until the loop can take it. */
static void hold_signals(bool hold)
{
	sigset_t set;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	(void)sigprocmask(hold ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
}

static kt_code start_timers(server *sv, kt_err *err)
{
	uint64_t every = (uint64_t)sv->cfg->heartbeat_seconds * 1000;
	int rc = uv_timer_init(&sv->loop, &sv->beat);
	if (rc == 0)
		rc = uv_signal_init(&sv->loop, &sv->term);
	if (rc == 0)
		rc = uv_signal_init(&sv->loop, &sv->intr);
	sv->beat.data = sv->term.data = sv->intr.data = sv;
	if (rc == 0)
		rc = uv_timer_start(&sv->beat, on_beat, every, every);
	if (rc == 0)
		rc = uv_signal_start(&sv->term, on_signal, SIGTERM);
	if (rc == 0)
		rc = uv_signal_start(&sv->intr, on_signal, SIGINT);
	return rc == 0 ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "the event loop: %s", uv_strerror(rc));
}

/* A new installation encrypts from its first start. */
static kt_code initialise(server *sv, kt_keystore *cmk, kt_err *err)
{
	bool yes;
	KT_TRY(kt_db_initialized(sv->s.db, &yes, err));
	if (yes)
		return KT_OK;
	kt_kek kek;
	kt_buf record = KT_BUF_INIT;
	KT_TRY(kt_session_stir(cmk, err));
	KT_TRY(kt_kek_make(cmk, 1, kt_clock_wall_ms(), &kek, &record, err));
	kt_kek_free(&kek);
	kt_code rc = kt_db_create_schema(sv->s.db, err);
	if (rc == KT_OK)
		rc = kt_db_kek_replace(sv->s.db, 1, &record, err);
	if (rc == KT_OK)
		kt_logfile(KT_LOG_INFO, "crypt", "New database: encrypting with AES-GCM-256, master key KCV %s",
			   kt_keystore_kcv(cmk));
	kt_buf_free(&record);
	return rc;
}

static kt_code unlock(server *sv, kt_keystore *cmk, kt_err *err)
{
	kt_buf record = KT_BUF_INIT;
	KT_TRY(initialise(sv, cmk, err));
	kt_code rc = kt_session_read_kek(sv->s.db, &record, &sv->s.kek, &sv->s.epoch, err);
	if (rc == KT_OK)
		rc = kt_session_unlock(&record, cmk, &sv->s.ctx, err);
	kt_buf_free(&record);
	return rc;
}

/* Open the data and register, in one transaction: no rekey can come between. `cmk` NULL: data in the legacy form. */
static kt_code join(server *sv, kt_keystore *cmk, kt_err *err)
{
	KT_TRY(cmk ? unlock(sv, cmk, err) : kt_session_read_legacy(&sv->s, err));
	KT_TRY(kt_node_register(sv->s.db, sv->cfg, sv->address, err));
	return kt_db_commit(sv->s.db, err);
}

static kt_code open_and_join(server *sv, kt_keystore *cmk, kt_err *err)
{
	int busy = sv->cfg->live_window_seconds * 250;
	KT_TRY(kt_db_open(kt_store_place(sv->cfg), KT_DB_CREATE, busy < BUSY_MAX_MS ? busy : BUSY_MAX_MS, &sv->s.db,
			  err));
	KT_TRY(kt_db_begin(sv->s.db, true, err));
	kt_code rc = join(sv, cmk, err);
	kt_db_rollback(sv->s.db);
	sv->registered = rc == KT_OK;
	sv->last_beat_ms = kt_clock_mono_ms();
	return rc;
}

static kt_code bring_up(server *sv, kt_err *err)
{
	kt_keystore *cmk = NULL;
	size_t dropped = 0;
	bool legacy;
	KT_TRY(kt_session_without_key(sv->cfg, &legacy, err));
	if (!legacy)
		KT_TRY(kt_keys_open(KT_KEYS_PLAIN, &cmk, err));
	kt_code rc = bind_listener(sv, err);
	if (rc == KT_OK)
		rc = open_and_join(sv, cmk, err);
	if (rc == KT_OK && legacy)
		kt_logfile(KT_LOG_WARN, "crypt", "AES-128-CBC Legacy, without a master key: the data is only read");
	else if (rc == KT_OK)
		kt_logfile(KT_LOG_INFO, "crypt", "Master key KCV %s opens the data: KEK %s, generation %u, KCV %s",
			   kt_keystore_kcv(cmk), sv->s.kek.id, sv->s.kek.generation, sv->s.kek.kcv);
	kt_keystore_close(cmk);
	if (rc == KT_OK)
		rc = start_timers(sv, err);
	if (rc == KT_OK)
		rc = kt_cache_drop_stale(sv->cfg->cache, sv->s.epoch, &dropped, err);
	if (rc == KT_OK && dropped)
		kt_logfile(KT_LOG_INFO, "cache", "%zu cached items of another key removed", dropped);
	if (rc == KT_OK)
		kt_keys_scrub();
	return rc;
}

static void take_down(server *sv)
{
	kt_err err = KT_ERR_INIT;
	end(sv);
	(void)uv_run(&sv->loop, UV_RUN_DEFAULT);
	if (sv->registered && kt_db_node_remove(sv->s.db, sv->cfg->node, getpid(), &err) != KT_OK)
		kt_logfile(KT_LOG_ERROR, "node", "not deregistered: %s", err.msg);
	kt_session_close(&sv->s);
}

static void announce(const server *sv, kt_serve_ready_fn *ready, void *arg)
{
	char text[512];
	(void)snprintf(text, sizeof text, "node %.255s is running, pid %d, listens on %s", sv->cfg->node, (int)getpid(),
		       sv->address);
	kt_logfile(KT_LOG_INFO, "node", "%s", text);
	ready(arg, text);
}

static kt_code run(server *sv, kt_serve_ready_fn *ready, void *arg, kt_err *err)
{
	int uv = uv_loop_init(&sv->loop);
	if (uv != 0)
		return kt_fail(err, KT_E_INTERNAL, NULL, "the event loop: %s", uv_strerror(uv));
	kt_code rc = bring_up(sv, err);
	if (rc == KT_OK) {
		announce(sv, ready, arg);
		hold_signals(false);
		(void)uv_run(&sv->loop, UV_RUN_DEFAULT);
		rc = sv->result;
	}
	hold_signals(true); /* a second SIGTERM must not cut the deregistration short */
	take_down(sv);
	(void)uv_loop_close(&sv->loop);
	return rc;
}

/* Key problems read as the procedure documents them. */
static kt_code as_documented(kt_code rc, kt_err *err)
{
	static const char lead[] = "Looker can not start because";
	if (rc == KT_E_KEY && err && strncmp(err->msg, lead, sizeof lead - 1) != 0)
		return kt_err_prefix(err, rc, "%s", lead);
	return rc;
}

kt_code kt_serve(const kt_store_config *cfg, kt_serve_ready_fn *ready, void *arg, kt_err *err)
{
	server *sv = calloc(1, sizeof *sv);
	if (!sv)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	*sv = (server){.cfg = cfg, .s.cfg = cfg, .pid_fd = -1, .err = err};
	(void)umask(027);
	(void)signal(SIGPIPE, SIG_IGN);
	hold_signals(true);
	kt_code rc = kt_logfile_open(cfg->log, err);
	if (rc == KT_OK)
		rc = kt_pidfile_take(cfg->pid, &sv->pid_fd, err);
	if (rc == KT_OK)
		rc = as_documented(run(sv, ready, arg, err), err);
	if (rc == KT_OK)
		kt_logfile(KT_LOG_INFO, "node", "stopped and deregistered");
	else
		kt_logfile(KT_LOG_ERROR, "node", "%s", err ? err->msg : kt_code_name(rc));
	kt_pidfile_release(cfg->pid, sv->pid_fd);
	kt_logfile_close();
	free(sv);
	return rc;
}

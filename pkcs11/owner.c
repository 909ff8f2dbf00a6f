/* SPDX-License-Identifier: Apache-2.0 */
#include "pkcs11/owner.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "pkcs11/owner_child.h"
#include "pkcs11/owner_wire.h"
#include "pkcs11/pin.h"

enum {
	LOOK_MS = 100,
	GATHER_US = 1000,
	END_MS = 5000,     /* for C_Finalize, when all is well */
	DIED_MS = 1000,    /* between the end of the conversation and that of the process */
	RETURN_MS = 15000, /* a token that is gone may come back for so long */
	FIRST_WAIT_MS = 250,
	RESTARTS = 4, /* in one kt_owner_ask */
	TRIES = 2,    /* of one request */
	WINDOW = 128, /* requests that the owner has at a time: it need not wait for the next one */
	MESSAGE = 32  /* requests in one message, of a long list */
};

struct kt_owner {
	kt_owner_options opt;
	kt_uri uri;
	kt_buf again; /* the URI with the serial of the token that was opened first; empty: opt.uri */
	kt_owner_child child;
	cJSON *token;      /* what it has open */
	char name[256];    /* of the token, for messages */
	bool logged_in;    /* once at least */
	bool reload;       /* session or device are lost: no more is sent, and a new owner is started */
	bool locked;       /* that is why no further login is tried */
	kt_err no_login;   /* why no further login is tried; KT_OK: one may be */
	int64_t latest_id; /* of a request */
};

/* --- how an owner is lost ----------------------------------------------------------------------------------------- */

/* It was in C_Login: the PIN may have been counted as wrong. */
static kt_code bar_login(kt_owner *o, kt_err *err)
{
	KT_IGNORE(kt_fail(&o->no_login, KT_E_HSM,
			  "see with the token's own tool what the token made of the PIN, then repeat the command",
			  "%.700s; it is not known whether the PIN was taken, so it is not tried again", err->msg));
	*err = o->no_login;
	return err->code;
}

/* The call that it was at, as part of a sentence. */
static void describe_call(kt_owner *o, char out[128])
{
	kt_watch_call call;
	(void)snprintf(out, 128, "outside of any call");
	if (kt_watch_look(o->child.table, &o->child.seen, &call))
		(void)snprintf(out, 128, "in %s, %lld ms after it began", call.name, (long long)call.ms);
}

static kt_code died(kt_owner *o, kt_err *err)
{
	char where[128];
	const bool in_login = kt_watch_has(o->child.table, "C_Login");
	describe_call(o, where);
	const int status = kt_owner_child_end(&o->child, DIED_MS);
	const char *words = o->child.printed.last;
	const char *printed = words[0] ? "; it had printed: " : "";
	kt_code rc;
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		rc = kt_fail(err, KT_E_HSM, "see who did: a person, or the kernel for want of memory",
			     "%s: the process that owned it was killed %s", o->name, where);
	else if (WIFSIGNALED(status))
		rc = kt_fail(err, KT_E_HSM,
			     "see the log of the module, or ask its vendor; update or replace the module",
			     "%s: the PKCS#11 module crashed %s (signal %d, %s)%s%s", o->name, where, WTERMSIG(status),
			     strsignal(WTERMSIG(status)), printed, words);
	else
		rc = kt_fail(err, KT_E_HSM, "see the log of the module; run again with tracing to see the calls before",
			     "%s: the process that owned it ended %s (exit %d)%s%s", o->name, where,
			     WEXITSTATUS(status), printed, words);
	return in_login ? bar_login(o, err) : rc;
}

static kt_code hung(kt_owner *o, const kt_watch_call *call, kt_err *err)
{
	const bool in_login = kt_watch_has(o->child.table, "C_Login");
	KT_IGNORE(kt_watch_hung(call, o->name, err));
	(void)kt_owner_child_end(&o->child, 0);
	return in_login ? bar_login(o, err) : KT_E_HSM;
}

/* --- messages ----------------------------------------------------------------------------------------------------- */

static kt_code receive(kt_owner *o, cJSON **reply, kt_secret *secret, kt_err *err)
{
	kt_frame_kind kind;
	kt_code rc = kt_owner_receive(o->child.sock, &kind, reply, secret, err);
	if (rc == KT_OK && *reply && kind == KT_FRAME_REPLY)
		return KT_OK;
	kt_secret_free(secret);
	cJSON_Delete(*reply);
	*reply = NULL;
	return died(o, err);
}

/* The next reply. A failure: the owner is lost, and was ended; *err says how. `gather`: the owner has enough to do, so
 * that replies may gather for a moment: to be woken for each would cost both sides as much as the message. */
static kt_code await(kt_owner *o, bool gather, cJSON **reply, kt_secret *secret, kt_err *err)
{
	kt_watch_call call;
	*reply = NULL;
	*secret = KT_SECRET_INIT;
	for (;;) {
		struct pollfd p[2] = {{.fd = o->child.sock, .events = POLLIN},
				      {.fd = o->child.errors, .events = POLLIN}};
		if (kt_watch_look(o->child.table, &o->child.seen, &call) && call.ms > o->opt.call_ms)
			return hung(o, &call, err);
		if (poll(p, 2, 0) == 0) {
			if (gather)
				(void)nanosleep(&(struct timespec){.tv_nsec = GATHER_US * 1000L}, NULL);
			(void)poll(p, 2, LOOK_MS);
		}
		if (p[1].revents)
			kt_owner_child_read_errors(&o->child);
		if (p[0].revents)
			return receive(o, reply, secret, err);
	}
}

/* One request into a list of them. What it points to is borrowed until the list is sent. */
static kt_code add_request(cJSON *list, int64_t id, const kt_owner_request *r, kt_err *err)
{
	cJSON *m = cJSON_CreateObject();
	if (!m || !cJSON_AddItemToArray(list, m)) {
		cJSON_Delete(m);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	KT_TRY(kt_json_add_int(m, "id", id, err));
	KT_TRY(kt_json_add_str(m, "verb", r->verb, err));
	KT_TRY(kt_json_add_bool(m, "again", r->again, err));
	if (!r->args)
		return kt_json_add(m, "args", cJSON_CreateObject(), err);
	return cJSON_AddItemReferenceToObject(m, "args", r->args) ? KT_OK
								  : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

/* Send a list of requests, which is taken over; with a secret it has one alone. The owner's end shows in await. */
static kt_code send_list(kt_owner *o, cJSON *list, const kt_secret *secret, kt_err *err)
{
	cJSON *m = cJSON_CreateObject();
	if (!m)
		cJSON_Delete(list);
	kt_code rc = m ? kt_json_add(m, "requests", list, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = kt_owner_send(o->child.sock, KT_FRAME_REQUEST, m, secret, err);
	cJSON_Delete(m);
	return rc == KT_E_IO ? KT_OK : rc;
}

static kt_code send_one(kt_owner *o, int64_t id, const kt_owner_request *r, kt_err *err)
{
	cJSON *list = cJSON_CreateArray();
	kt_code rc = list ? add_request(list, id, r, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		return send_list(o, list, r->secret, err);
	cJSON_Delete(list);
	return rc;
}

/* The error that a reply carries. */
static kt_code read_error(const cJSON *reply, kt_err *out)
{
	const cJSON *e;
	const char *class, *message, *remedy;
	KT_TRY(kt_json_object(reply, "error", &e, out));
	KT_TRY(kt_json_str(e, "class", &class, out));
	KT_TRY(kt_json_str(e, "message", &message, out));
	KT_TRY(kt_json_str(e, "remedy", &remedy, out));
	return kt_fail(out, kt_code_from_name(class), remedy[0] ? remedy : NULL, "%s", message);
}

/* What a reply says into the request. */
static void take_reply(cJSON *reply, kt_secret *secret, kt_owner_request *r)
{
	r->result = cJSON_DetachItemFromObjectCaseSensitive(reply, "result");
	r->error = KT_ERR_INIT;
	if (cJSON_IsObject(r->result)) {
		r->code = KT_OK;
		r->reply = *secret;
		*secret = KT_SECRET_INIT;
		return;
	}
	cJSON_Delete(r->result);
	r->result = NULL;
	r->reply = KT_SECRET_INIT;
	r->code = read_error(reply, &r->error);
}

static void fail_request(kt_owner_request *r, const kt_err *why)
{
	r->code = why->code;
	r->result = NULL;
	r->reply = KT_SECRET_INIT;
	r->error = *why;
}

/* --- start -------------------------------------------------------------------------------------------------------- */

static kt_code open_args(const kt_owner *o, cJSON **out, kt_err *err)
{
	*out = cJSON_CreateObject();
	if (!*out)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	KT_TRY(kt_json_add_str(*out, "uri", o->again.len ? kt_buf_cstr(&o->again) : o->opt.uri, err));
	KT_TRY(kt_json_add_int(*out, "log", (int64_t)kt_log_get_level(), err));
	return kt_json_add_int(*out, "sessions", o->opt.sessions, err);
}

static bool flag(const cJSON *o, const char *name)
{
	return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, name));
}

static void note_refusal(kt_owner *o, const cJSON *reply, const kt_err *why)
{
	if (!flag(reply, "refused"))
		return;
	o->no_login = *why;
	o->locked = flag(reply, "locked");
}

/* A later login is to this very token alone: another one with its label has not what was made, and may not see the PIN.
 */
static kt_code stay_with(kt_owner *o, const char *serial, kt_err *err)
{
	static const char scheme[] = "pkcs11:";
	const char *rest = o->opt.uri + sizeof scheme - 1; /* it was parsed */
	if (o->again.len || o->uri.serial[0] || !serial[0])
		return KT_OK;
	kt_code rc = kt_buf_printf(&o->again, err, "%sserial=", scheme);
	for (; rc == KT_OK && *serial; serial++)
		rc = kt_buf_printf(&o->again, err, "%%%02x", (unsigned)(unsigned char)*serial);
	return rc == KT_OK ? kt_buf_printf(&o->again, err, "%s%s", *rest && *rest != '?' ? ";" : "", rest) : rc;
}

/* The token that was opened. Takes over `token`. */
static kt_code note_token(kt_owner *o, cJSON *token, kt_err *err)
{
	const char *label, *serial;
	cJSON_Delete(o->token);
	o->token = token;
	KT_TRY(kt_json_str(token, "label", &label, err));
	KT_TRY(kt_json_str(token, "serial", &serial, err));
	(void)snprintf(o->name, sizeof o->name, "token \"%s\" (serial %s)", label, serial);
	KT_TRY(stay_with(o, serial, err));
	o->logged_in = true;
	return KT_OK;
}

/* The first request: the module is loaded and logged in to. */
static kt_code log_in(kt_owner *o, kt_err *err)
{
	kt_owner_request open = {.verb = "open"};
	cJSON *args = NULL;
	cJSON *reply = NULL;
	kt_secret none;
	kt_code rc = open_args(o, &args, err);
	open.args = args;
	if (rc == KT_OK)
		rc = send_one(o, ++o->latest_id, &open, err);
	cJSON_Delete(args);
	KT_TRY(rc);
	KT_TRY(await(o, false, &reply, &none, err));
	take_reply(reply, &none, &open);
	note_refusal(o, reply, &open.error);
	kt_secret_free(&none);
	cJSON_Delete(reply);
	*err = open.error;
	return open.code == KT_OK ? note_token(o, open.result, err) : open.code;
}

static kt_code start_child(kt_owner *o, kt_err *err)
{
	KT_TRY(kt_owner_child_start(&o->child, &o->opt, o->uri.pin_source, err));
	kt_code rc = log_in(o, err);
	if (rc != KT_OK)
		(void)kt_owner_child_end(&o->child, END_MS);
	else
		kt_log(KT_LOG_DEBUG, "%s is owned by process %ld", o->name, (long)o->child.pid);
	return rc;
}

kt_code kt_owner_start(const kt_owner_options *options, kt_owner **out, kt_err *err)
{
	kt_err why = KT_ERR_INIT;
	*out = NULL;
	kt_owner *o = calloc(1, sizeof *o);
	if (!o)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	o->opt = *options;
	o->opt.call_ms = options->call_ms > 0 ? options->call_ms : KT_OWNER_CALL_MS;
	o->opt.sessions = options->sessions == 0 ? 1 : options->sessions;
	if (o->opt.sessions > KT_OWNER_SESSIONS)
		o->opt.sessions = KT_OWNER_SESSIONS;
	o->child = KT_OWNER_CHILD_NONE;
	(void)snprintf(o->name, sizeof o->name, "the token");
	kt_code rc = kt_uri_parse(options->uri, &o->uri, &why);
	if (rc == KT_OK)
		rc = start_child(o, &why);
	if (rc == KT_OK) {
		*out = o;
		return KT_OK;
	}
	if (o->no_login.code != KT_OK && !o->locked && options->refused)
		*options->refused = true;
	cJSON_Delete(o->token);
	kt_buf_free(&o->again);
	free(o);
	if (err)
		*err = why;
	return rc;
}

void kt_owner_end(kt_owner *o)
{
	if (!o)
		return;
	(void)kt_owner_child_end(&o->child, END_MS);
	cJSON_Delete(o->token);
	kt_buf_free(&o->again);
	free(o);
}

const cJSON *kt_owner_token(const kt_owner *o)
{
	return o->token;
}

pid_t kt_owner_pid(const kt_owner *o)
{
	return o->child.pid;
}

static kt_code may_log_in(const kt_owner *o, kt_err *err)
{
	if (o->no_login.code != KT_OK) {
		*err = o->no_login;
		return err->code;
	}
	if (!o->logged_in || kt_pin_repeatable(o->uri.pin_source))
		return KT_OK;
	return kt_fail(err, KT_E_HSM, "repeat the command with the PIN; with pin-source=file: this goes by itself",
		       "%s: it is lost, and the PIN for another login was read once and is not kept", o->name);
}

/* A new owner after one that was lost. The token may be on its way back; without it no PIN is used. */
static kt_code start_again(kt_owner *o, kt_err *err)
{
	const int64_t until = kt_clock_mono_ms() + RETURN_MS;
	for (int64_t wait = FIRST_WAIT_MS;; wait *= 2) {
		KT_TRY(may_log_in(o, err));
		kt_code rc = start_child(o, err);
		if (rc == KT_OK)
			kt_log(KT_LOG_WARN, "%s: module and login are new, the work goes on", o->name);
		if (rc != KT_E_HSM || o->no_login.code != KT_OK || kt_clock_mono_ms() + wait > until)
			return rc;
		(void)nanosleep(&(struct timespec){.tv_sec = wait / 1000, .tv_nsec = wait % 1000 * 1000000}, NULL);
	}
}

/* --- asking ------------------------------------------------------------------------------------------------------- */

/* A request that was begun; r NULL: none. */
typedef struct place {
	kt_owner_request *r;
	int64_t id;
	unsigned tries;
	bool sent; /* and not answered */
} place;

typedef struct asking {
	kt_owner *o;
	const kt_owner_source *source;
	bool ended; /* it has given its last one */
	place at[WINDOW];
	unsigned restarts;
	kt_err lost; /* the latest reason */
} asking;

/* The request has its answer. */
static void finish_place(const asking *a, place *p)
{
	kt_owner_request *r = p->r;
	*p = (place){0};
	a->source->done(a->source->cookie, r);
}

/* The owner was lost at this request, or answered that the session is. */
static void ask_again(const asking *a, place *p, const kt_err *why)
{
	p->sent = false;
	p->tries++;
	if (p->r->again && p->tries < TRIES)
		return;
	fail_request(p->r, why);
	if (!p->r->again)
		KT_IGNORE(kt_err_prefix(&p->r->error, why->code, "whether %s was done is not known", p->r->verb));
	finish_place(a, p);
}

/* How many of those that are not answered were sent before this one. */
static size_t sent_before(const asking *a, const place *p)
{
	size_t n = 0;
	for (size_t i = 0; i < WINDOW; i++)
		n += a->at[i].sent && a->at[i].id < p->id;
	return n;
}

/* The owner takes requests in their order, one for each session: later ones were not begun, and are asked as if they
 * never had been. */
static void all_lost(asking *a)
{
	bool begun[WINDOW];
	for (size_t i = 0; i < WINDOW; i++)
		begun[i] = a->at[i].sent && sent_before(a, &a->at[i]) < a->o->opt.sessions;
	for (size_t i = 0; i < WINDOW; i++)
		if (begun[i])
			ask_again(a, &a->at[i], &a->lost);
		else
			a->at[i].sent = false;
	kt_log(KT_LOG_WARN, "%s", a->lost.msg);
}

static size_t count_begun(const asking *a)
{
	size_t n = 0;
	for (size_t i = 0; i < WINDOW; i++)
		n += a->at[i].r != NULL;
	return n;
}

static size_t count_sent(const asking *a)
{
	size_t n = 0;
	for (size_t i = 0; i < WINDOW; i++)
		n += a->at[i].sent;
	return n;
}

/* What was put into a message, with the ids from `from`, could not be sent. */
static void fail_places(asking *a, int64_t from, const kt_err *why)
{
	for (size_t i = 0; i < WINDOW; i++)
		if (a->at[i].sent && a->at[i].id >= from) {
			fail_request(a->at[i].r, why);
			finish_place(a, &a->at[i]);
		}
}

static kt_owner_request *take_request(asking *a)
{
	kt_owner_request *r = a->ended ? NULL : a->source->next(a->source->cookie);
	a->ended = !r;
	return r;
}

/* The next request that is to be sent, NULL: none. */
static place *next_place(asking *a)
{
	for (size_t i = 0; i < WINDOW; i++) {
		place *p = &a->at[i];
		if (!p->r)
			*p = (place){.r = take_request(a)};
		if (p->r && !p->sent)
			return p;
	}
	return NULL;
}

/* One message: requests without secrets, or one that has one. False: nothing is left to send. */
static bool send_message(asking *a)
{
	kt_err err = KT_ERR_INIT;
	const int64_t from = a->o->latest_id + 1;
	const kt_secret *secret = NULL;
	kt_code rc = KT_OK;
	place *p = next_place(a);
	cJSON *list = p ? cJSON_CreateArray() : NULL;
	for (size_t n = 0; rc == KT_OK && p && !secret && n < MESSAGE && (n == 0 || !p->r->secret); n++) {
		p->id = ++a->o->latest_id;
		p->sent = true;
		secret = p->r->secret;
		rc = add_request(list, p->id, p->r, &err);
		p = next_place(a);
	}
	if (list && rc == KT_OK)
		rc = send_list(a->o, list, secret, &err);
	else
		cJSON_Delete(list);
	if (rc != KT_OK)
		fail_places(a, from, &err);
	return rc == KT_OK && p;
}

/* Not for one request alone, as long as the owner has enough of them: a message costs more than what is in it. */
static void send_more(asking *a)
{
	const size_t sent = count_sent(a);
	if (a->o->reload || (sent && !a->ended && sent + MESSAGE > WINDOW))
		return;
	while (send_message(a))
		;
}

static place *find_place(asking *a, const cJSON *reply)
{
	int64_t id;
	if (kt_json_int(reply, "id", 1, INT64_C(1) << 53, &id, NULL) == KT_OK)
		for (size_t i = 0; i < WINDOW; i++)
			if (a->at[i].sent && a->at[i].id == id)
				return &a->at[i];
	return NULL;
}

static void answer(asking *a, cJSON *reply, kt_secret *secret)
{
	place *p = find_place(a, reply);
	if (!p)
		return; /* nobody asked */
	take_reply(reply, secret, p->r);
	note_refusal(a->o, reply, &p->r->error);
	if (p->r->code == KT_OK || !(flag(reply, "lost") || flag(reply, "refused"))) {
		finish_place(a, p);
		return;
	}
	a->o->reload = true;
	a->lost = p->r->error;
	ask_again(a, p, &a->lost);
}

/* Nothing more can be had: every request that has no answer fails with the reason. */
static void give_up(asking *a, const kt_err *why)
{
	for (size_t i = 0; i < WINDOW; i++)
		if (a->at[i].r) {
			fail_request(a->at[i].r, why);
			finish_place(a, &a->at[i]);
		}
	for (kt_owner_request *r; (r = take_request(a));) {
		fail_request(r, why);
		a->source->done(a->source->cookie, r);
	}
}

/* An owner that can be asked, a new one if need be. False: there is none, and all have their answer. */
static bool have_owner(asking *a)
{
	kt_err why = a->lost;
	if (a->o->reload && count_sent(a) == 0) {
		kt_log(KT_LOG_WARN, "%s", a->lost.msg);
		(void)kt_owner_child_end(&a->o->child, END_MS);
		a->o->reload = false;
	}
	if (a->o->child.pid || (a->restarts++ < RESTARTS && start_again(a->o, &why) == KT_OK))
		return true;
	give_up(a, &why);
	return false;
}

/* An owner that has died since the last request is no failure of this one. */
static void notice_death(kt_owner *o)
{
	kt_err err = KT_ERR_INIT;
	struct pollfd p = {.fd = o->child.sock, .events = POLLIN};
	if (!o->child.pid || poll(&p, 1, 0) <= 0)
		return;
	KT_IGNORE(died(o, &err)); /* nothing was asked: it has nothing to say but its end */
	kt_log(KT_LOG_WARN, "%s", err.msg);
}

void kt_owner_ask_from(kt_owner *o, const kt_owner_source *source)
{
	asking a = {.o = o, .source = source, .lost = KT_ERR_INIT};
	notice_death(o);
	for (;;) {
		cJSON *reply;
		kt_secret secret;
		if (a.ended && count_begun(&a) == 0)
			return;
		if (!have_owner(&a))
			return;
		send_more(&a);
		if (count_sent(&a) == 0)
			continue;
		if (await(o, count_sent(&a) > WINDOW - MESSAGE, &reply, &secret, &a.lost) != KT_OK) {
			all_lost(&a);
			continue;
		}
		answer(&a, reply, &secret);
		kt_secret_free(&secret);
		cJSON_Delete(reply);
	}
}

typedef struct listed {
	kt_owner_request *list;
	size_t n, next;
} listed;

static kt_owner_request *next_listed(void *cookie)
{
	listed *l = cookie;
	return l->next < l->n ? &l->list[l->next++] : NULL;
}

/* The answer is in the list. */
static void listed_done(void *cookie, kt_owner_request *request)
{
	(void)cookie;
	(void)request;
}

void kt_owner_ask(kt_owner *o, kt_owner_request *list, size_t n)
{
	listed l = {.list = list, .n = n};
	const kt_owner_source source = {.next = next_listed, .done = listed_done, .cookie = &l};
	kt_owner_ask_from(o, &source);
}

kt_code kt_owner_call(kt_owner *o, kt_owner_request *request, kt_err *err)
{
	kt_owner_ask(o, request, 1);
	if (request->code != KT_OK && err)
		*err = request->error;
	return request->code;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The owner's side: one thread reads requests, and a few carry them out, each with a session of its own. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"
#include "pkcs11/internal.h"
#include "pkcs11/owner.h"
#include "pkcs11/owner_wire.h"

/* What was asked; one of a queue. */
typedef struct job {
	struct job *next;
	int64_t id;
	bool again;
	const char *verb; /* of request */
	const cJSON *args;
	cJSON *request;
	kt_secret secret;
} job;

/* Invariant: what stands below a lock is read and written with it held. */
typedef struct server {
	int sock;
	const kt_owner_handler *handlers;
	char *uri;
	unsigned sessions;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	job *first, *last;
	size_t queued;
	bool end;
	kt_token *opened; /* by `open`; the first worker's, and the one that the others' sessions come from */
	bool taken;
	unsigned workers, idle;
	pthread_t thread[KT_OWNER_SESSIONS];

	pthread_mutex_t writing;

	pthread_mutex_t login;
	bool refused; /* the PIN was: nobody tries it again */
} server;

static void job_free(job *j)
{
	if (!j)
		return;
	cJSON_Delete(j->request);
	kt_secret_free(&j->secret);
	free(j);
}

/* --- replies ------------------------------------------------------------------------------------------------------ */

static kt_code add_error(cJSON *reply, const kt_err *why, kt_err *err)
{
	cJSON *e = cJSON_CreateObject();
	if (!e)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	KT_TRY(kt_json_add(reply, "error", e, err));
	KT_TRY(kt_json_add_str(e, "class", kt_code_name(why->code), err));
	KT_TRY(kt_json_add_str(e, "message", why->msg, err));
	KT_TRY(kt_json_add_str(e, "remedy", why->remedy, err));
	KT_TRY(kt_json_add_bool(reply, "lost", kt_p11_lost(), err));
	KT_TRY(kt_json_add_bool(reply, "locked", kt_p11_pin_locked(), err));
	return kt_json_add_bool(reply, "refused", kt_p11_pin_refused(), err);
}

/* Takes over *result. Where it cannot be sent the parent is gone, or will see that no answer comes. */
static void reply(server *s, int64_t id, cJSON **result, const kt_secret *secret, const kt_err *why)
{
	kt_err err = KT_ERR_INIT;
	cJSON *m = cJSON_CreateObject();
	cJSON *given = why->code == KT_OK ? *result : NULL;
	if (why->code != KT_OK)
		cJSON_Delete(*result);
	*result = NULL;
	kt_code rc = m ? kt_json_add_int(m, "id", id, &err) : KT_E_INTERNAL;
	if (given && rc == KT_OK)
		rc = kt_json_add(m, "result", given, &err);
	else if (given)
		cJSON_Delete(given);
	else if (rc == KT_OK)
		rc = add_error(m, why, &err);
	if (rc == KT_OK) {
		pthread_mutex_lock(&s->writing);
		rc = kt_owner_send(s->sock, KT_FRAME_REPLY, m, why->code == KT_OK ? secret : NULL, &err);
		pthread_mutex_unlock(&s->writing);
	}
	if (rc != KT_OK)
		kt_log(KT_LOG_DEBUG, "an answer could not be given: %s", err.msg);
	cJSON_Delete(m);
}

/* --- the PIN ------------------------------------------------------------------------------------------------------ */

/* The three ways to a session. Each may log in. */
static kt_code any_session(server *s, kt_token *lost, kt_token **out, kt_err *err)
{
	if (lost)
		return kt_token_again(lost, s->uri, err);
	return s->opened ? kt_token_another(s->opened, s->uri, out, err) : kt_token_open(s->uri, out, err);
}

/* Whatever may log in goes through here, one at a time, and no more once the PIN was refused. `lost`: the token whose
 * session is gone; NULL: one more in *out. */
static kt_code log_in(server *s, kt_token *lost, kt_token **out, kt_err *err)
{
	kt_code rc;
	pthread_mutex_lock(&s->login);
	if (s->refused)
		rc = kt_fail(err, KT_E_HSM, "correct the PIN where pin-source points, then repeat the command",
			     "the PIN was refused, and is not tried again");
	else
		rc = any_session(s, lost, out, err);
	s->refused |= rc != KT_OK && kt_p11_pin_refused();
	pthread_mutex_unlock(&s->login);
	return rc;
}

/* --- the threads that work ---------------------------------------------------------------------------------------- */

static const kt_owner_handler *find_handler(const server *s, const char *verb)
{
	for (const kt_owner_handler *h = s->handlers; h->verb; h++)
		if (strcmp(h->verb, verb) == 0)
			return h;
	return NULL;
}

/* One try; whatever it gave is gone when it fails. */
static kt_code attempt(const server *s, const job *j, kt_token *t, cJSON **result, kt_secret *out, kt_err *err)
{
	const kt_owner_handler *h = find_handler(s, j->verb);
	*out = KT_SECRET_INIT;
	*result = cJSON_CreateObject();
	*err = KT_ERR_INIT;
	kt_p11_forget();
	if (!h || !*result)
		return kt_fail(err, KT_E_INTERNAL, NULL, h ? "out of memory" : "the token's owner has no verb %s",
			       j->verb);
	kt_code rc = h->act(
		&(kt_owner_task){.token = t, .args = j->args, .secret = &j->secret, .result = *result, .reply = out},
		err);
	/* What looks like success may rest on a call that failed: a probe takes "the session is gone" for "it cannot".
	 */
	if (rc == KT_OK && j->again && kt_p11_lost())
		rc = kt_fail(err, KT_E_HSM, "repeat the command", "the token's session was lost during %s", j->verb);
	if (rc == KT_OK)
		return KT_OK;
	err->code = rc;
	kt_secret_free(out);
	cJSON_Delete(*result);
	*result = NULL;
	return rc;
}

/* The session is lost: a new one may do, without loading the module anew. */
static bool session_again(server *s, kt_token *t, kt_err *err)
{
	kt_err why = KT_ERR_INIT;
	kt_p11_forget();
	if (log_in(s, t, NULL, &why) == KT_OK) {
		kt_log(KT_LOG_WARN, "%s; a new session was opened, the work goes on", err->msg);
		return true;
	}
	if (kt_p11_pin_refused())
		*err = why;
	kt_p11_note_lost();
	return false;
}

static void carry_out(server *s, job *j, kt_token *t)
{
	cJSON *result;
	kt_secret out;
	kt_err err;
	kt_code rc = attempt(s, j, t, &result, &out, &err);
	if (rc != KT_OK && j->again && kt_p11_lost() && session_again(s, t, &err))
		rc = attempt(s, j, t, &result, &out, &err);
	err.code = rc;
	reply(s, j->id, &result, &out, &err);
	kt_secret_free(&out);
	job_free(j);
}

/* The next job, NULL at the end. With the lock held. */
static job *take(server *s)
{
	s->idle++;
	while (!s->first && !s->end)
		pthread_cond_wait(&s->changed, &s->lock);
	s->idle--;
	job *j = s->end ? NULL : s->first;
	if (!j)
		return NULL;
	s->first = j->next;
	s->queued--;
	return j;
}

/* This worker's session. Where the token has no more of them, the others do the work. With the lock held. */
static kt_token *session(server *s)
{
	kt_token *t = NULL;
	kt_err err = KT_ERR_INIT;
	if (!s->taken) {
		s->taken = true;
		return s->opened;
	}
	pthread_mutex_unlock(&s->lock);
	kt_p11_forget();
	if (log_in(s, NULL, &t, &err) != KT_OK)
		kt_log(KT_LOG_INFO, "no further session: %s", err.msg);
	pthread_mutex_lock(&s->lock);
	return t;
}

static void *work(void *arg)
{
	server *s = arg;
	pthread_mutex_lock(&s->lock);
	kt_token *t = session(s);
	if (!t)
		s->sessions = s->workers; /* no more are tried */
	for (job *j; t && (j = take(s));) {
		pthread_mutex_unlock(&s->lock);
		carry_out(s, j, t);
		pthread_mutex_lock(&s->lock);
	}
	pthread_mutex_unlock(&s->lock);
	if (t != s->opened)
		kt_token_close(t);
	return NULL;
}

/* --- the thread that reads ---------------------------------------------------------------------------------------- */

/* With the lock held. More sessions only when more is asked than the idle ones can take. */
static void add_worker(server *s)
{
	if (s->workers >= s->sessions || s->workers >= KT_OWNER_SESSIONS || (s->workers && s->queued <= s->idle))
		return;
	if (pthread_create(&s->thread[s->workers], NULL, work, s) == 0)
		s->workers++;
	else
		kt_log(KT_LOG_WARN, "no thread for a further session");
}

/* A list of jobs, in their order. */
static void enqueue(server *s, job *first)
{
	pthread_mutex_lock(&s->lock);
	for (job *j = first, *next; j; j = next) {
		next = j->next;
		j->next = NULL;
		*(s->first ? &s->last->next : &s->first) = j;
		s->last = j;
		s->queued++;
		add_worker(s);
	}
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

static kt_code open_token(server *s, const cJSON *args, cJSON *result, kt_err *err)
{
	const char *uri;
	int64_t level, sessions;
	KT_TRY(kt_json_str(args, "uri", &uri, err));
	KT_TRY(kt_json_int(args, "log", KT_LOG_ERROR, KT_LOG_TRACE, &level, err));
	KT_TRY(kt_json_int(args, "sessions", 1, KT_OWNER_SESSIONS, &sessions, err));
	kt_log_setup((kt_log_level)level, STDOUT_FILENO); /* there the parent's stderr is */
	s->sessions = (unsigned)sessions;
	free(s->uri);
	s->uri = strdup(uri);
	if (!s->uri)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	KT_TRY(log_in(s, NULL, &s->opened, err));
	return kt_token_info_json(kt_token_get_info(s->opened), result, err);
}

/* The parent's first request, before there is any worker. */
static void act_open(server *s, job *j)
{
	kt_err err = KT_ERR_INIT;
	cJSON *result = cJSON_CreateObject();
	kt_p11_forget();
	err.code = result ? open_token(s, j->args, result, &err) : KT_E_INTERNAL;
	reply(s, j->id, &result, NULL, &err);
	job_free(j);
}

/* One request of a message. Takes over `request` and *secret, also on failure. */
static kt_code make_job(cJSON *request, kt_secret *secret, job **out, kt_err *err)
{
	kt_code rc = KT_OK;
	job *j = calloc(1, sizeof *j);
	*out = j;
	if (!j) {
		cJSON_Delete(request);
		kt_secret_free(secret);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	j->request = request;
	j->secret = *secret;
	*secret = KT_SECRET_INIT;
	KT_TRY_GOTO(kt_json_int(request, "id", 1, INT64_C(1) << 53, &j->id, err), out);
	KT_TRY_GOTO(kt_json_str(request, "verb", &j->verb, err), out);
	KT_TRY_GOTO(kt_json_bool(request, "again", &j->again, err), out);
	rc = kt_json_object(request, "args", &j->args, err);
out:
	return rc;
}

static void free_jobs(job *first)
{
	for (job *j = first, *next; j; j = next) {
		next = j->next;
		job_free(j);
	}
}

/* The requests of a message, in their order. `secret` is the only one's. */
static kt_code make_jobs(cJSON *message, kt_secret *secret, job **first, kt_err *err)
{
	job **end = first;
	cJSON *list = cJSON_GetObjectItemCaseSensitive(message, "requests");
	for (cJSON *request; list && (request = cJSON_DetachItemFromArray(list, 0));) {
		KT_TRY(make_job(request, secret, end, err));
		end = &(*end)->next;
	}
	return *first ? KT_OK : kt_fail(err, KT_E_INPUT, NULL, "a message without requests");
}

/* The requests of the next message; *first NULL at the end of the conversation. */
static kt_code read_message(server *s, job **first, kt_err *err)
{
	kt_frame_kind kind;
	cJSON *message;
	kt_secret secret;
	*first = NULL;
	KT_TRY(kt_owner_receive(s->sock, &kind, &message, &secret, err));
	if (!message)
		return KT_OK;
	kt_code rc = make_jobs(message, &secret, first, err);
	cJSON_Delete(message);
	kt_secret_free(&secret);
	if (rc != KT_OK) {
		free_jobs(*first);
		*first = NULL;
	}
	return rc;
}

static kt_code read_messages(server *s, kt_err *err)
{
	for (job *first;;) {
		KT_TRY(read_message(s, &first, err));
		if (!first)
			return KT_OK;
		if (strcmp(first->verb, "open") == 0)
			act_open(s, first);
		else
			enqueue(s, first);
	}
}

/* Work under way is finished, the rest is dropped: nobody waits for it any more. */
static void finish(server *s)
{
	pthread_mutex_lock(&s->lock);
	s->end = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	for (unsigned i = 0; i < s->workers; i++)
		(void)pthread_join(s->thread[i], NULL);
	free_jobs(s->first);
	kt_token_close(s->opened);
	free(s->uri);
}

static kt_code descriptor(int argc, char **argv, int i, int *fd, kt_err *err)
{
	char *end = NULL;
	long n = i < argc ? strtol(argv[i], &end, 10) : -1;
	if (!end || *end || n <= STDERR_FILENO || n > 1 << 20)
		return kt_fail(err, KT_E_USAGE, "it is started by keyturn itself",
			       "this subcommand is not meant to be typed");
	*fd = (int)n;
	return KT_OK;
}

/* What the module keeps of keys and PINs is in memory of its own: none of that goes to swap, where the system lets us
 * lock without a limit. (Under a limit a module would run out of memory; what is ours is locked by kt_secret_setup in
 * any case.) */
static void lock_module_memory(void)
{
	const struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
	if (setrlimit(RLIMIT_MEMLOCK, &all) != 0 || mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0)
		kt_log(KT_LOG_DEBUG, "the module's own memory may be swapped: RLIMIT_MEMLOCK does not let us lock it");
}

kt_code kt_owner_serve(int argc, char **argv, const kt_owner_handler *handlers, kt_err *err)
{
	server s = {.handlers = handlers,
		    .lock = PTHREAD_MUTEX_INITIALIZER,
		    .changed = PTHREAD_COND_INITIALIZER,
		    .writing = PTHREAD_MUTEX_INITIALIZER,
		    .login = PTHREAD_MUTEX_INITIALIZER};
	int memory = -1;
	KT_TRY(descriptor(argc, argv, 0, &s.sock, err));
	KT_TRY(descriptor(argc, argv, 1, &memory, err));
	void *table = mmap(NULL, sizeof(kt_watch_table), PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	if (table == MAP_FAILED)
		return kt_fail_errno(err, errno, "it is started by keyturn itself",
				     "this subcommand is not meant to be typed");
	kt_watch_use(table);
	(void)close(memory);
	(void)fcntl(s.sock, F_SETFD, FD_CLOEXEC);  /* a module may start programs */
	(void)prctl(PR_SET_NAME, "keyturn-token"); /* not "exe", after /proc/self/exe */
	lock_module_memory();
	kt_code rc = read_messages(&s, err);
	finish(&s);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "pkcs11/key.h"
#include "pkcs11/mac.h"
#include "pkcs11/owner.h"
#include "tests/unit/pkcs11/softhsm.h"

enum { CALL_MS = 1000, MANY = 40 };

static char folder[600]; /* KT_SHIM */

/* --- the owner's verbs: this program is executed again for it ----------------------------------------------------- */

static kt_code find_or_make(const kt_owner_task *task, kt_token_key *key, kt_err *err)
{
	const kt_token_key_name name = {.label = "owner", .id = (const uint8_t *)"owner-key", .id_len = 9};
	bool made;
	return kt_token_ensure_cluster_key(task->token, &name, true, key, &made, err);
}

static kt_code act_kcv(const kt_owner_task *task, kt_err *err)
{
	kt_token_key key;
	KT_TRY(find_or_make(task, &key, err));
	KT_TRY(kt_json_add_int(task->result, "pid", getpid(), err));
	return kt_json_add_str(task->result, "kcv", key.kcv, err);
}

/* The bytes that came, each one higher. */
static kt_code act_turn(const kt_owner_task *task, kt_err *err)
{
	KT_TRY(kt_secret_copy(task->reply, task->secret->data, task->secret->len, err));
	for (size_t i = 0; i < task->reply->len; i++)
		task->reply->data[i]++;
	return kt_json_add_int(task->result, "n", (int64_t)task->secret->len, err);
}

static kt_code act_refuse(const kt_owner_task *task, kt_err *err)
{
	const char *why;
	KT_TRY(kt_json_str(task->args, "why", &why, err));
	return kt_fail(err, KT_E_REFUSED, "ask otherwise", "no: %s", why);
}

static int serve(int argc, char **argv)
{
	static const kt_owner_handler handlers[] = {{"kcv", act_kcv}, {"turn", act_turn}, {"refuse", act_refuse}, {0}};
	kt_err err = KT_ERR_INIT;
	kt_code rc = kt_secret_setup(&err);
	if (rc == KT_OK)
		rc = kt_owner_serve(argc, argv, handlers, &err);
	if (rc != KT_OK)
		(void)fprintf(stderr, "%s\n", err.msg);
	return (int)rc;
}

/* --- helpers ------------------------------------------------------------------------------------------------------ */

static int start(void **state)
{
	int rc = softhsm_start(state);
	(void)snprintf(folder, sizeof folder, "%s/orders", softhsm_folder());
	assert_int_equal(mkdir(folder, 0700), 0);
	assert_int_equal(setenv("KT_SHIM", folder, 1), 0);
	return rc;
}

static const char *order_path(const char *call)
{
	static char path[700];
	(void)snprintf(path, sizeof path, "%s/%s", folder, call);
	return path;
}

/* What goes wrong next; NULL: nothing any more. */
static void order(const char *call, const char *what)
{
	(void)unlink(order_path(call));
	FILE *f = what ? fopen(order_path(call), "we") : NULL;
	if (!f)
		return;
	(void)fprintf(f, "%s\n", what);
	(void)fclose(f);
}

static unsigned logins(void)
{
	FILE *f = fopen(order_path("logins"), "re");
	unsigned n = 0;
	for (int c; f && (c = fgetc(f)) != EOF;)
		n += c == '\n';
	if (f)
		(void)fclose(f);
	return n;
}

static kt_owner *begin(const char *uri, unsigned sessions)
{
	kt_owner *o;
	kt_err err = KT_ERR_INIT;
	(void)unlink(order_path("logins"));
	const kt_owner_options options = {.subcommand = "owner", .uri = uri, .call_ms = CALL_MS, .sessions = sessions};
	assert_kt_ok(kt_owner_start(&options, &o, &err));
	return o;
}

/* The key's check value by the owner; which process gave it. */
static int64_t ask_kcv(kt_owner *o, bool again, char kcv[16], kt_err *why)
{
	kt_owner_request r = {.verb = "kcv", .again = again};
	kt_err err = KT_ERR_INIT;
	const char *text;
	int64_t pid = 0;
	if (kt_owner_call(o, &r, why) != KT_OK)
		return 0;
	assert_kt_ok(kt_json_int(r.result, "pid", 1, 1 << 30, &pid, &err));
	assert_kt_ok(kt_json_str(r.result, "kcv", &text, &err));
	if (kcv)
		(void)snprintf(kcv, 16, "%s", text);
	cJSON_Delete(r.result);
	return pid;
}

/* --- tests -------------------------------------------------------------------------------------------------------- */

static void asks_and_answers_whole(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_owner *o = begin(softhsm_shim_uri(), 1);
	kt_secret key = KT_SECRET_INIT;
	const char *label;
	assert_kt_ok(kt_json_str(kt_owner_token(o), "label", &label, &err));
	assert_string_equal(label, "kt-test");
	assert_int_equal(ask_kcv(o, true, NULL, &err), kt_owner_pid(o));
	assert_kt_ok(kt_secret_copy(&key, "\0ABC\nxyz", 8, &err));
	kt_owner_request r = {.verb = "turn", .secret = &key};
	assert_kt_ok(kt_owner_call(o, &r, &err));
	assert_int_equal(r.reply.len, 8);
	assert_memory_equal(r.reply.data, "\1BCD\vyz{", 8);
	cJSON_Delete(r.result);
	kt_secret_free(&r.reply);
	kt_secret_free(&key);
	cJSON *args = cJSON_CreateObject();
	assert_kt_ok(kt_json_add_str(args, "why", "it is \"late\"", &err));
	r = (kt_owner_request){.verb = "refuse", .args = args};
	assert_kt_fails(KT_E_REFUSED, kt_owner_call(o, &r, &err));
	assert_string_equal(err.msg, "no: it is \"late\"");
	assert_string_equal(err.remedy, "ask otherwise");
	assert_null(r.result);
	r = (kt_owner_request){.verb = "nothing"};
	assert_kt_fails(KT_E_INTERNAL, kt_owner_call(o, &r, &err));
	cJSON_Delete(args);
	kt_owner_end(o);
	kt_owner_end(NULL);
}

static void many_at_a_time_over_several_sessions(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_owner *o = begin(softhsm_shim_uri(), 3);
	kt_owner_request list[MANY];
	char kcv[16];
	(void)ask_kcv(o, true, kcv, &err);
	for (size_t i = 0; i < MANY; i++)
		list[i] = (kt_owner_request){.verb = i % 10 == 9 ? "nothing" : "kcv"};
	kt_owner_ask(o, list, MANY);
	for (size_t i = 0; i < MANY; i++) {
		const char *text;
		assert_int_equal(list[i].code, i % 10 == 9 ? KT_E_INTERNAL : KT_OK);
		if (list[i].code != KT_OK)
			continue;
		assert_kt_ok(kt_json_str(list[i].result, "kcv", &text, &err));
		assert_string_equal(text, kcv);
		cJSON_Delete(list[i].result);
	}
	assert_int_equal(logins(), 1); /* a login is the process's */
	kt_owner_end(o);
}

/* One thing goes wrong once, in the middle of a verb that may be asked again. `same`: the process stays. */
static void survives(const char *call, const char *what, bool same)
{
	kt_err err = KT_ERR_INIT;
	kt_owner *o = begin(softhsm_shim_uri(), 1);
	char before[16], after[16];
	int64_t first = ask_kcv(o, true, before, &err);
	order(call, what);
	int64_t second = ask_kcv(o, true, after, &err);
	if (second == 0)
		fail_msg("%s %s: %s", call, what, err.msg);
	assert_string_equal(before, after);
	assert_int_equal(first == second, same);
	assert_int_equal(access(order_path(call), F_OK), -1);
	kt_owner_end(o);
}

static void a_lost_session_is_opened_again(void **state)
{
	(void)state;
	survives("C_SignInit", "rv 0xB3", true);        /* CKR_SESSION_HANDLE_INVALID */
	survives("C_SignInit", "rv 0x32", true);        /* CKR_DEVICE_REMOVED */
	survives("C_FindObjectsInit", "rv 0xE0", true); /* CKR_TOKEN_NOT_PRESENT */
	survives("C_Sign", "rv 0x101", true);           /* CKR_USER_NOT_LOGGED_IN */
	survives("C_Sign", "rv 0x190", true);           /* CKR_CRYPTOKI_NOT_INITIALIZED */
}

static void a_crash_and_a_hang_cost_one_process(void **state)
{
	(void)state;
	survives("C_Sign", "crash", false);
	survives("C_FindObjectsInit", "hang", false);
}

/* The new session fails as well: module and login are made anew. */
static void a_device_that_is_gone_means_a_new_module(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_owner *o = begin(softhsm_shim_uri(), 1);
	int64_t first = ask_kcv(o, true, NULL, &err);
	order("C_SignInit", "rv 0x32");
	order("C_OpenSession", "rv 0xE0");
	int64_t second = ask_kcv(o, true, NULL, &err);
	assert_true(second != 0 && second != first);
	assert_int_equal(logins(), 2);
	kt_owner_end(o);
}

static void move(const char *from, const char *to)
{
	char a[700], b[700];
	(void)snprintf(a, sizeof a, "%s/%s", softhsm_folder(), from);
	(void)snprintf(b, sizeof b, "%s/%s", softhsm_folder(), to);
	assert_int_equal(rename(a, b), 0);
}

/* Somebody puts another token with the same label in its place while the owner is lost: it is no longer the token that
 * was opened, and its PIN is not tried there. */
static void another_token_of_that_label_is_not_taken(void **state)
{
	(void)state;
	char path[700];
	kt_err err = KT_ERR_INIT;
	kt_owner *o = begin(softhsm_shim_uri(), 1);
	assert_true(ask_kcv(o, true, NULL, &err) != 0);
	move("tokens", "tokens.away");
	(void)snprintf(path, sizeof path, "%s/tokens", softhsm_folder());
	assert_int_equal(mkdir(path, 0700), 0);
	softhsm_add_token("kt-test");
	order("C_FindObjectsInit", "crash");
	assert_int_equal(ask_kcv(o, true, NULL, &err), 0);
	assert_int_equal(err.code, KT_E_HSM);
	assert_non_null(strstr(err.msg, "no token"));
	assert_int_equal(logins(), 1);
	move("tokens", "tokens.other");
	move("tokens.away", "tokens");
	assert_true(ask_kcv(o, true, NULL, &err) != 0); /* and the first one is, once it is back */
	kt_owner_end(o);
}

static void what_may_not_be_asked_again_is_not(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_owner *o = begin(softhsm_shim_uri(), 1);
	order("C_Sign", "crash");
	assert_int_equal(ask_kcv(o, false, NULL, &err), 0);
	assert_int_equal(err.code, KT_E_HSM);
	assert_non_null(strstr(err.msg, "whether kcv was done is not known"));
	assert_non_null(strstr(err.msg, "crashed in C_Sign"));
	assert_true(err.remedy[0]);
	assert_int_equal(kt_owner_pid(o), 0);
	assert_true(ask_kcv(o, false, NULL, &err) != 0); /* the next one has a new owner */
	order("C_Sign", "hang");
	assert_int_equal(ask_kcv(o, false, NULL, &err), 0);
	assert_non_null(strstr(err.msg, "C_Sign was under way for 1."));
	assert_non_null(strstr(err.remedy, "hsm.call_timeout_s"));
	kt_owner_end(o);
}

static void what_always_fails_is_given_up(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_owner *o = begin(softhsm_shim_uri(), 1);
	order("C_Sign", "always crash");
	assert_int_equal(ask_kcv(o, true, NULL, &err), 0);
	assert_non_null(strstr(err.msg, "crashed in C_Sign"));
	order("C_Sign", NULL);
	assert_true(ask_kcv(o, true, NULL, &err) != 0);
	kt_owner_end(o);
}

static void who_was_killed_between_requests_is_replaced(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_owner *o = begin(softhsm_shim_uri(), 1);
	int64_t first = ask_kcv(o, true, NULL, &err);
	assert_int_equal(kill((pid_t)first, SIGKILL), 0);
	(void)nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
	int64_t second = ask_kcv(o, false, NULL, &err); /* it was never given to the dead one */
	assert_true(second != 0 && second != first);
	kt_owner_end(o);
}

static void a_crash_among_many_costs_nothing(void **state)
{
	(void)state;
	kt_owner *o = begin(softhsm_shim_uri(), 2);
	kt_owner_request list[MANY];
	for (size_t i = 0; i < MANY; i++)
		list[i] = (kt_owner_request){.verb = "kcv", .again = true};
	order("C_Sign", "after 25 crash");
	kt_owner_ask(o, list, MANY);
	for (size_t i = 0; i < MANY; i++) {
		assert_int_equal(list[i].code, KT_OK);
		cJSON_Delete(list[i].result);
	}
	assert_int_equal(logins(), 2);
	kt_owner_end(o);
}

/* LONG requests that are made when they are asked for; every seventh has a secret, which says which one it is. */
enum { LONG = 300, AT_MOST = 128 };

typedef struct source {
	kt_owner_request r[LONG];
	kt_secret secret[LONG];
	size_t next, out, most, times[LONG];
} source;

static kt_owner_request *next_of(void *cookie)
{
	source *s = cookie;
	kt_err err = KT_ERR_INIT;
	size_t i = s->next;
	if (i == LONG)
		return NULL;
	const uint8_t said[2] = {(uint8_t)(i / 7), 100};
	s->r[i] = (kt_owner_request){.verb = i % 7 ? "kcv" : "turn", .again = true};
	if (i % 7 == 0) {
		assert_kt_ok(kt_secret_copy(&s->secret[i], said, sizeof said, &err));
		s->r[i].secret = &s->secret[i];
	}
	s->next++;
	s->most = ++s->out > s->most ? s->out : s->most;
	return &s->r[i];
}

static void done_of(void *cookie, kt_owner_request *r)
{
	source *s = cookie;
	size_t i = (size_t)(r - s->r);
	s->times[i]++;
	s->out--;
	assert_int_equal(r->code, KT_OK);
	assert_int_equal(r->reply.len, i % 7 ? 0 : 2);
	if (i % 7 == 0) {
		assert_int_equal(r->reply.data[0], i / 7 + 1);
		kt_secret_free(&s->secret[i]);
	}
	kt_secret_free(&r->reply);
	cJSON_Delete(r->result);
}

static void requests_that_are_made_as_they_go(void **state)
{
	(void)state;
	static source s;
	kt_owner *o = begin(softhsm_shim_uri(), 2);
	order("C_Sign", "after 90 crash");
	kt_owner_ask_from(o, &(kt_owner_source){.next = next_of, .done = done_of, .cookie = &s});
	assert_int_equal(logins(), 2); /* it did crash */
	for (size_t i = 0; i < LONG; i++)
		assert_int_equal(s.times[i], 1);
	assert_int_equal(s.out, 0);
	assert_in_range(s.most, 2, AT_MOST);
	kt_owner_end(o);
}

static const char *wrong_pin_uri(void)
{
	static char uri[2000];
	(void)snprintf(uri, sizeof uri, "pkcs11:token=kt-test?module-path=%s&pin-source=file:%s", softhsm_shim(),
		       softhsm_file("changing", "canary-wrong-9999\n", sizeof "canary-wrong-9999\n" - 1, 0400));
	return uri;
}

static void a_refused_pin_is_not_tried_again(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_owner *o;
	bool refused = false;
	const char *uri = wrong_pin_uri();
	kt_owner_options options = {.subcommand = "owner", .uri = "pkcs11:token=absent", .refused = &refused};
	(void)unlink(order_path("logins"));
	assert_kt_fails(KT_E_HSM, kt_owner_start(&options, &o, &err));
	assert_false(refused);
	options.uri = softhsm_shim_uri();
	order("C_Login", "rv 0xA4"); /* CKR_PIN_LOCKED: the token did not look at it */
	assert_kt_fails(KT_E_HSM, kt_owner_start(&options, &o, &err));
	assert_false(refused);
	(void)unlink(order_path("logins"));
	options.uri = uri;
	assert_kt_fails(KT_E_HSM, kt_owner_start(&options, &o, &err));
	assert_true(refused);
	assert_non_null(strstr(err.msg, "the PIN is wrong"));
	assert_int_equal(logins(), 1);
	/* In the middle of a run: the file changed, and the session is lost. */
	(void)softhsm_file("changing", SOFTHSM_PIN "\n", strlen(SOFTHSM_PIN) + 1, 0400);
	o = begin(uri, 2);
	(void)wrong_pin_uri();
	order("C_Sign", "crash");
	for (int i = 0; i < 3; i++) {
		assert_int_equal(ask_kcv(o, true, NULL, &err), 0);
		assert_non_null(strstr(err.msg, "the PIN is wrong"));
	}
	assert_int_equal(logins(), 2);
	kt_owner_end(o);
	/* softhsm counts nothing; a good login clears its flags for the tests that follow */
	kt_owner_end(begin(softhsm_shim_uri(), 1));
}

static void a_token_that_locks_is_left_alone(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_owner *o = begin(softhsm_shim_uri(), 1);
	order("C_Login", "always rv 0xA4");
	order("C_Sign", "crash");
	for (int i = 0; i < 3; i++) {
		assert_int_equal(ask_kcv(o, true, NULL, &err), 0);
		assert_non_null(strstr(err.msg, "locked"));
	}
	order("C_Login", NULL);
	assert_int_equal(logins(), 2);
	kt_owner_end(o);
}

static void nobody_knows_what_became_of_the_pin(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_owner *o = begin(softhsm_shim_uri(), 1);
	order("C_Login", "hang");
	order("C_Sign", "crash");
	for (int i = 0; i < 3; i++) {
		assert_int_equal(ask_kcv(o, true, NULL, &err), 0);
		assert_non_null(strstr(err.msg, "C_Login"));
		assert_non_null(strstr(err.msg, "not tried again"));
	}
	assert_int_equal(logins(), 2);
	kt_owner_end(o);
}

static void a_pin_from_the_environment_is_used_once(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	char uri[2000];
	(void)snprintf(uri, sizeof uri, "pkcs11:token=kt-test?module-path=%s&pin-source=env:KT_TEST_PIN",
		       softhsm_shim());
	assert_int_equal(setenv("KT_TEST_PIN", SOFTHSM_PIN, 1), 0);
	kt_owner *o = begin(uri, 1);
	assert_null(getenv("KT_TEST_PIN"));
	order("C_Sign", "crash");
	assert_int_equal(ask_kcv(o, true, NULL, &err), 0);
	assert_non_null(strstr(err.msg, "read once"));
	assert_int_equal(logins(), 1);
	kt_owner_end(o);
}

static void a_pin_by_descriptor(void **state)
{
	(void)state;
	int fd[2];
	char uri[2000];
	kt_err err = KT_ERR_INIT;
	assert_int_equal(pipe(fd), 0);
	assert_int_equal(write(fd[1], SOFTHSM_PIN "\n", strlen(SOFTHSM_PIN) + 1), strlen(SOFTHSM_PIN) + 1);
	(void)close(fd[1]);
	(void)snprintf(uri, sizeof uri, "pkcs11:token=kt-test?module-path=%s&pin-source=fd:%d", softhsm_shim(), fd[0]);
	kt_owner *o = begin(uri, 1);
	assert_true(ask_kcv(o, true, NULL, &err) != 0);
	kt_owner_end(o);
	kt_owner *none;
	assert_kt_fails(KT_E_IO, kt_owner_start(&(kt_owner_options){.subcommand = "owner", .uri = uri}, &none, &err));
}

static void what_the_module_prints_is_in_the_error(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_owner *o = begin(softhsm_shim_uri(), 1);
	order("C_FindObjectsInit", "print esys: something is broken");
	order("C_Sign", "crash");
	assert_int_equal(ask_kcv(o, false, NULL, &err), 0);
	assert_non_null(strstr(err.msg, "it had printed: esys: something is broken"));
	kt_owner_end(o);
}

/* The owner does not outlive us, not even in a call that hangs. */
static void it_ends_with_its_parent(void **state)
{
	(void)state;
	int fd[2];
	long owner = 0;
	assert_int_equal(pipe(fd), 0);
	pid_t parent = fork();
	if (parent == 0) {
		kt_owner *o;
		if (kt_owner_start(&(kt_owner_options){.subcommand = "owner", .uri = softhsm_shim_uri()}, &o, NULL) !=
		    KT_OK)
			_exit(1);
		owner = (long)kt_owner_pid(o);
		_exit(write(fd[1], &owner, sizeof owner) == sizeof owner ? 0 : 1);
	}
	assert_int_equal(read(fd[0], &owner, sizeof owner), sizeof owner);
	assert_int_equal(waitpid(parent, NULL, 0), parent);
	for (int i = 0; i < 200 && kill((pid_t)owner, 0) == 0; i++)
		(void)nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	assert_int_equal(kill((pid_t)owner, 0), -1);
	(void)close(fd[0]);
	(void)close(fd[1]);
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "owner") == 0)
		return serve(argc - 2, argv + 2);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(asks_and_answers_whole),
		cmocka_unit_test(many_at_a_time_over_several_sessions),
		cmocka_unit_test(a_lost_session_is_opened_again),
		cmocka_unit_test(a_crash_and_a_hang_cost_one_process),
		cmocka_unit_test(a_device_that_is_gone_means_a_new_module),
		cmocka_unit_test(another_token_of_that_label_is_not_taken),
		cmocka_unit_test(what_may_not_be_asked_again_is_not),
		cmocka_unit_test(what_always_fails_is_given_up),
		cmocka_unit_test(who_was_killed_between_requests_is_replaced),
		cmocka_unit_test(a_crash_among_many_costs_nothing),
		cmocka_unit_test(requests_that_are_made_as_they_go),
		cmocka_unit_test(a_refused_pin_is_not_tried_again),
		cmocka_unit_test(a_token_that_locks_is_left_alone),
		cmocka_unit_test(nobody_knows_what_became_of_the_pin),
		cmocka_unit_test(a_pin_from_the_environment_is_used_once),
		cmocka_unit_test(a_pin_by_descriptor),
		cmocka_unit_test(what_the_module_prints_is_in_the_error),
		cmocka_unit_test(it_ends_with_its_parent),
	};
	(void)signal(SIGPIPE, SIG_IGN);
	kt_log_setup(KT_LOG_ERROR, STDERR_FILENO);
	return cmocka_run_group_tests(tests, start, softhsm_stop);
}

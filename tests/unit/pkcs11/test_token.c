/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "pkcs11/token.h"
#include "tests/unit/pkcs11/shim.h"
#include "tests/unit/pkcs11/softhsm.h"

static int start(void **state)
{
	int rc = softhsm_start(state);
	softhsm_add_token("kt-twin");
	softhsm_add_token("kt-twin");
	return rc;
}

static void opens_by_label_and_by_serial(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token *t, *again;
	char path[128];
	assert_kt_ok(kt_token_open(softhsm_uri(NULL, NULL), &t, &err));
	const kt_token_info *info = kt_token_get_info(t);
	assert_string_equal(info->label, "kt-test");
	assert_string_equal(info->model, "SoftHSM v2");
	assert_string_equal(info->manufacturer, "SoftHSM project");
	assert_string_equal(info->module, softhsm_module());
	assert_int_equal(strlen(info->serial), 16);
	assert_true(info->initialized);
	assert_kt_ok(kt_token_check(t, &err));
	(void)snprintf(path, sizeof path, "serial=%s", info->serial);
	assert_kt_ok(kt_token_open(softhsm_uri(path, NULL), &again, &err));
	assert_string_equal(kt_token_get_info(again)->label, "kt-test");
	kt_token_close(again);
	assert_kt_ok(kt_token_check(t, &err)); /* closing one does not end the other */
	kt_token_close(t);
	kt_token_close(NULL);
}

static void a_wrong_pin_is_tried_once(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token *t;
	shim_control *shim = shim_get(softhsm_shim());
	char source[600], uri[2000];
	(void)snprintf(source, sizeof source, "file:%s",
		       softhsm_file("wrong", "canary-wrong-9999\n", sizeof "canary-wrong-9999\n" - 1, 0400));
	(void)snprintf(uri, sizeof uri, "pkcs11:token=kt-test?module-path=%s&pin-source=%s", softhsm_shim(), source);
	assert_kt_fails(KT_E_HSM, kt_token_open(uri, &t, &err));
	assert_null(t);
	assert_int_equal(shim->logins, 1);
	assert_int_equal(shim->sessions, 0);
	assert_non_null(strstr(err.msg, "one try was used"));
	assert_non_null(strstr(err.msg, "not tried again"));
	assert_non_null(strstr(err.msg, "CKR_PIN_INCORRECT"));
	assert_non_null(strstr(err.msg, "counts wrong PINs")); /* SoftHSM sets CKF_USER_PIN_COUNT_LOW */
	assert_null(strstr(err.msg, "canary"));
	/* The right one still works, and resets the counter. */
	assert_kt_ok(kt_token_open(softhsm_shim_uri(), &t, &err));
	assert_int_equal(shim->logins, 2);
	kt_token_close(t);
}

static void a_last_try_is_not_spent(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token *t;
	shim_control *shim = shim_get(softhsm_shim());
	shim->add_flags = CKF_USER_PIN_FINAL_TRY;
	assert_kt_fails(KT_E_HSM, kt_token_open(softhsm_shim_uri(), &t, &err));
	assert_non_null(strstr(err.msg, "only one try is left"));
	shim->add_flags = CKF_USER_PIN_LOCKED;
	assert_kt_fails(KT_E_HSM, kt_token_open(softhsm_shim_uri(), &t, &err));
	assert_non_null(strstr(err.msg, "locked"));
	shim->add_flags = 0;
	shim->drop_flags = CKF_USER_PIN_INITIALIZED;
	assert_kt_fails(KT_E_HSM, kt_token_open(softhsm_shim_uri(), &t, &err));
	assert_non_null(strstr(err.msg, "no user PIN"));
	assert_int_equal(shim->logins, 0);
	assert_int_equal(shim->sessions, 0);
}

static void other_login_failures_are_told_apart(void **state)
{
	static const struct {
		CK_RV rv;
		CK_FLAGS flags;
		const char *says;
	} rows[] = {
		{CKR_PIN_LOCKED, 0, "locked"},
		{CKR_PIN_EXPIRED, 0, "expired"},
		{CKR_GENERAL_ERROR, 0, "C_Login gave CKR_GENERAL_ERROR"},
		{CKR_PIN_LEN_RANGE, 0, "one try was used"},
		{CKR_USER_PIN_NOT_INITIALIZED, 0, "no user PIN"},
		{CKR_USER_ANOTHER_ALREADY_LOGGED_IN, 0, "security officer"},
	};
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token *t;
	shim_control *shim = shim_get(softhsm_shim());
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		shim->login_rv = rows[i].rv;
		shim->logins = 0;
		assert_kt_fails(KT_E_HSM, kt_token_open(softhsm_shim_uri(), &t, &err));
		assert_int_equal(shim->logins, 1);
		if (!strstr(err.msg, rows[i].says))
			fail_msg("0x%lx: %s", rows[i].rv, err.msg);
	}
	shim->login_rv = CKR_USER_ALREADY_LOGGED_IN;
	assert_kt_ok(kt_token_open(softhsm_shim_uri(), &t, &err));
	kt_token_close(t);
}

static void a_second_session_needs_no_pin(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token *t, *again;
	assert_int_equal(setenv("KT_TEST_PIN", SOFTHSM_PIN, 1), 0);
	assert_kt_ok(kt_token_open(softhsm_uri(NULL, "env:KT_TEST_PIN"), &t, &err));
	assert_null(getenv("KT_TEST_PIN"));
	assert_kt_ok(kt_token_open(softhsm_uri(NULL, "env:KT_TEST_PIN"), &again, &err));
	kt_token_close(again);
	kt_token_close(t);
	assert_kt_fails(KT_E_HSM, kt_token_open(softhsm_uri(NULL, "env:KT_TEST_PIN"), &t, &err));
}

static void a_module_that_is_missing_or_none(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token *t;
	char uri[2000];
	assert_kt_fails(KT_E_HSM, kt_token_open("pkcs11:token=x?module-path=/nonexistent/p11.so", &t, &err));
	assert_non_null(strstr(err.msg, "/nonexistent/p11.so"));
	assert_non_null(strstr(err.msg, "No such file"));
	assert_true(err.remedy[0] != '\0');
	(void)snprintf(uri, sizeof uri, "pkcs11:token=x?module-path=%s", softhsm_file("not.so", "text", 4, 0600));
	assert_kt_fails(KT_E_HSM, kt_token_open(uri, &t, &err));
	assert_non_null(strstr(err.msg, "not.so"));
	assert_kt_fails(KT_E_HSM, kt_token_open("pkcs11:token=x?module-name=no-such-module", &t, &err));
	assert_non_null(strstr(err.msg, "no-such-module"));
	assert_kt_fails(KT_E_INPUT, kt_token_open("pkcs11:tokem=x", &t, &err));
}

static void a_token_that_is_absent_or_not_the_only_one(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token *t;
	char path[128], serial[17] = "";
	assert_kt_fails(KT_E_HSM, kt_token_open(softhsm_uri("token=nowhere", NULL), &t, &err));
	assert_non_null(strstr(err.msg, "token=nowhere"));
	assert_non_null(strstr(err.msg, "\"kt-test\"")); /* what there is */
	assert_null(strstr(err.msg, "pin-source"));
	assert_kt_fails(KT_E_HSM, kt_token_open(softhsm_uri("token=kt-twin", NULL), &t, &err));
	assert_non_null(strstr(err.msg, "2 tokens fit"));
	assert_non_null(strstr(err.remedy, "serial="));
	char *at = strstr(err.msg, "(serial ");
	assert_non_null(at);
	assert_non_null(strstr(at + 8, "(serial ")); /* both are named */
	memcpy(serial, at + 8, 16);
	(void)snprintf(path, sizeof path, "token=kt-twin;serial=%s", serial);
	assert_kt_ok(kt_token_open(softhsm_uri(path, NULL), &t, &err));
	assert_string_equal(kt_token_get_info(t)->serial, serial);
	kt_token_close(t);
	(void)snprintf(path, sizeof path, "token=kt-test;serial=%s", serial); /* label of one, serial of another */
	assert_kt_fails(KT_E_HSM, kt_token_open(softhsm_uri(path, NULL), &t, &err));
	assert_kt_fails(KT_E_HSM, kt_token_open(softhsm_uri("token=kt-test;model=other", NULL), &t, &err));
}

/*
 * With every module that this system has configured, in a process of its own: one that is initialised in vain may leak
 * (tpm2-pkcs11 without a TPM does), which is not for our checkers to find. They look when a process exits: this one is
 * killed when it has done well.
 */
static void in_a_child(bool (*works)(void))
{
	int status = -1;
	pid_t pid = fork();
	if (pid == 0) {
		if (works())
			(void)raise(SIGKILL);
		_exit(1);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* Without a URI: what p11-kit is configured for, be it nothing. */
static bool lists_what_is_configured(void)
{
	kt_err err = KT_ERR_INIT;
	kt_token_info *list;
	size_t n;
	return kt_token_list(NULL, &list, &n, &err) == KT_OK || err.code == KT_E_HSM;
}

static bool opens_among_what_is_configured(void)
{
	kt_token *t;
	char uri[1200];
	(void)snprintf(uri, sizeof uri, "pkcs11:token=kt-test?pin-source=%s", softhsm_pin_source());
	return kt_token_open(uri, &t, NULL) == KT_OK && strcmp(kt_token_get_info(t)->label, "kt-test") == 0;
}

static void lists_what_can_be_seen(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_info *list;
	size_t n, named = 0, fresh = 0;
	assert_kt_ok(kt_token_list(softhsm_uri(NULL, NULL), &list, &n, &err));
	for (size_t i = 0; i < n; i++) {
		named += strncmp(list[i].label, "kt-", 3) == 0;
		fresh += !list[i].initialized;
	}
	free(list);
	assert_int_equal(named, 3);
	assert_int_equal(fresh, 1); /* SoftHSM always offers an uninitialised one; it is never chosen */
	in_a_child(lists_what_is_configured);
}

/* The Debian package configures p11-kit for it; SOFTHSM2_CONF leads it to our tokens. */
static void by_the_name_of_a_configured_module(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token *t;
	char uri[1200];
	(void)snprintf(uri, sizeof uri, "pkcs11:token=kt-test?module-name=softhsm2&pin-source=%s",
		       softhsm_pin_source());
	assert_kt_ok(kt_token_open(uri, &t, &err));
	assert_string_equal(kt_token_get_info(t)->label, "kt-test");
	kt_token_close(t);
	in_a_child(opens_among_what_is_configured);
}

static void a_module_without_its_configuration(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token *t;
	char *conf = strdup(getenv("SOFTHSM2_CONF"));
	assert_non_null(conf);
	assert_int_equal(setenv("SOFTHSM2_CONF", "/nonexistent/softhsm2.conf", 1), 0);
	err = KT_ERR_INIT;
	kt_code rc = kt_token_open(softhsm_uri(NULL, NULL), &t, &err);
	assert_int_equal(setenv("SOFTHSM2_CONF", conf, 1), 0);
	free(conf);
	assert_int_equal(rc, KT_E_HSM);
	assert_non_null(strstr(err.remedy, "SOFTHSM2_CONF"));
	assert_non_null(strstr(err.msg, "CKR_GENERAL_ERROR"));
}

/* Everything that a login writes at the finest level of the log: the calls are there, the PIN is not. */
static void the_trace_has_calls_and_no_pin(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token *t;
	kt_buf text = KT_BUF_INIT;
	const char *path = softhsm_file("trace", "", 0, 0600);
	int fd = open(path, O_WRONLY | O_APPEND);
	assert_true(fd >= 0);
	kt_log_setup(KT_LOG_TRACE, fd);
	kt_code rc = kt_token_open(softhsm_uri(NULL, NULL), &t, &err);
	kt_log_setup(KT_LOG_WARN, STDERR_FILENO);
	close(fd);
	assert_kt_ok(rc);
	kt_token_close(t);
	assert_kt_ok(kt_file_read(path, &text, &err));
	assert_non_null(strstr(kt_buf_cstr(&text), "C_Login = CKR_OK"));
	assert_non_null(strstr(kt_buf_cstr(&text), "C_OpenSession = CKR_OK"));
	assert_null(strstr(kt_buf_cstr(&text), SOFTHSM_PIN));
	kt_buf_free(&text);
}

static void a_token_that_goes_away_is_noticed(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token *t;
	shim_control *shim = shim_get(softhsm_shim());
	assert_kt_ok(kt_token_open(softhsm_shim_uri(), &t, &err));
	shim->token_info_rv = CKR_TOKEN_NOT_PRESENT;
	assert_kt_fails(KT_E_HSM, kt_token_check(t, &err));
	assert_non_null(strstr(err.msg, "gone"));
	shim->token_info_rv = 0;
	shim->drop_flags = CKF_TOKEN_INITIALIZED;
	assert_kt_fails(KT_E_HSM, kt_token_check(t, &err));
	shim->drop_flags = 0;
	assert_kt_ok(kt_token_check(t, &err));
	kt_token_close(t);
	assert_int_equal(shim->sessions, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(opens_by_label_and_by_serial),
		cmocka_unit_test(a_wrong_pin_is_tried_once),
		cmocka_unit_test(a_last_try_is_not_spent),
		cmocka_unit_test(other_login_failures_are_told_apart),
		cmocka_unit_test(a_second_session_needs_no_pin),
		cmocka_unit_test(a_module_that_is_missing_or_none),
		cmocka_unit_test(a_token_that_is_absent_or_not_the_only_one),
		cmocka_unit_test(lists_what_can_be_seen),
		cmocka_unit_test(by_the_name_of_a_configured_module),
		cmocka_unit_test(a_module_without_its_configuration),
		cmocka_unit_test(the_trace_has_calls_and_no_pin),
		cmocka_unit_test(a_token_that_goes_away_is_noticed),
	};
	return cmocka_run_group_tests(tests, start, softhsm_stop);
}

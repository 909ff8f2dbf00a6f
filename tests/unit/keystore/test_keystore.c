/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "keystore/keystore.h"
#include "pkcs11/key.h"
#include "tests/unit/pkcs11/softhsm.h"

/* base64 of 32 bytes "k" and "m". */
static const char key_k[] = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=";
static const char key_m[] = "bW1tbW1tbW1tbW1tbW1tbW1tbW1tbW1tbW1tbW1tbW0=";

static const char *file_uri(const char *text, mode_t mode)
{
	static char uri[700];
	(void)snprintf(uri, sizeof uri, "file:%s", softhsm_file("cmk", text, strlen(text), mode));
	return uri;
}

static kt_keystore *must_open(const char *uri)
{
	kt_err err = KT_ERR_INIT;
	kt_keystore *ks;
	assert_kt_ok(kt_keystore_open(uri, &ks, &err));
	return ks;
}

/* The message is the documented one, word for word. */
static void must_say(const char *uri, const char *message)
{
	kt_err err = KT_ERR_INIT;
	kt_keystore *ks;
	assert_kt_fails(KT_E_KEY, kt_keystore_open(uri, &ks, &err));
	assert_string_equal(err.msg, message);
	assert_true(err.remedy[0] != '\0');
	assert_null(ks);
}

static void round_trip(kt_keystore *ks)
{
	kt_err err = KT_ERR_INIT;
	kt_secret kek, again, moved;
	kt_blob blob, wrapped;
	assert_kt_ok(kt_keystore_new_kek(ks, &kek, &blob, &err));
	assert_int_equal(kek.len, 32);
	assert_int_equal(blob.purpose, KT_BLOB_KEK);
	assert_string_equal(blob.wrapping.kcv, kt_keystore_kcv(ks));
	assert_kt_ok(kt_keystore_unwrap_kek(ks, &blob, &again, &err));
	assert_true(kt_secret_equal(&kek, &again));
	kt_secret_free(&again);
	assert_kt_ok(kt_keystore_wrap_kek(ks, &kek, &wrapped, &err));
	assert_kt_ok(kt_keystore_unwrap_kek(ks, &wrapped, &moved, &err));
	assert_true(kt_secret_equal(&kek, &moved));
	kt_secret_free(&moved);
	blob.wrapped[7] ^= 1;
	assert_kt_fails(KT_E_KEY, kt_keystore_unwrap_kek(ks, &blob, &again, &err));
	blob.wrapped[7] ^= 1;
	blob.purpose = KT_BLOB_ESCROW;
	assert_kt_fails(KT_E_INPUT, kt_keystore_unwrap_kek(ks, &blob, &again, &err));
	assert_kt_ok(kt_secret_copy(&again, kek.data, 31, &err));
	assert_kt_fails(KT_E_KEY, kt_keystore_wrap_kek(ks, &again, &wrapped, &err));
	kt_secret_free(&again);
	kt_secret_free(&kek);
}

static void file_is_opened(void **state)
{
	(void)state;
	char with_newline[64], from_windows[64], kcv[KT_KCV_TEXT];
	(void)snprintf(with_newline, sizeof with_newline, "%s\n", key_k);
	(void)snprintf(from_windows, sizeof from_windows, "%s\r\n", key_k);
	const char *uri = file_uri(key_k, 0400);
	kt_keystore *ks = must_open(uri);
	assert_string_equal(kt_keystore_uri(ks), uri);
	memcpy(kcv, kt_keystore_kcv(ks), sizeof kcv);
	round_trip(ks);
	kt_keystore_close(ks);
	ks = must_open(file_uri(with_newline, 0400));
	assert_string_equal(kt_keystore_kcv(ks), kcv);
	kt_keystore_close(ks);
	ks = must_open(file_uri(from_windows, 0400));
	assert_string_equal(kt_keystore_kcv(ks), kcv);
	kt_keystore_close(ks);
	kt_keystore_close(NULL);
}

static void file_errors_are_the_documented_ones(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		const char *size;
	} sizes[] = {
		{"", "0"},
		{"\n", "0"},
		{"aw==", "1"},
		{"a2tra2tra2tra2tra2traw==", "16"},
		{"a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2tr", "33"},
	};
	static const mode_t modes[] = {0600, 0644, 0440, 0000, 0500, 04400};
	char message[256];
	must_say("file:/nonexistent/cmk", "Looker can not start because: Missing backing keystore");
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		(void)snprintf(message, sizeof message,
			       "Looker can not start because: Size of the Master Key is invalid it must be 32 bytes "
			       "however is %s",
			       sizes[i].size);
		must_say(file_uri(sizes[i].text, 0400), message);
	}
	for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
		if (modes[i] == 0 && geteuid() != 0)
			continue; /* only root can open it at all */
		(void)snprintf(
			message, sizeof message,
			"Looker can not start because: Permission for backing key file must be 0400, but is %04o",
			(unsigned)modes[i]);
		must_say(file_uri(key_k, modes[i]), message);
	}
}

static void file_that_is_no_key(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_keystore *ks;
	char big[5000], uri[700];
	static const char *const texts[] = {"canary: no base64", "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk!",
					    "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s", "\x01\x02\x03\x04"};
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		assert_kt_fails(KT_E_KEY, kt_keystore_open(file_uri(texts[i], 0400), &ks, &err));
		assert_null(strstr(err.msg, texts[i]));
	}
	memset(big, 'a', sizeof big - 1);
	big[sizeof big - 1] = '\0';
	assert_kt_fails(KT_E_KEY, kt_keystore_open(file_uri(big, 0400), &ks, &err));
	(void)snprintf(uri, sizeof uri, "file:%s", softhsm_folder());
	assert_kt_fails(KT_E_KEY, kt_keystore_open(uri, &ks, &err));
	assert_kt_fails(KT_E_INPUT, kt_keystore_open("file:relative", &ks, &err));
	assert_kt_fails(KT_E_INPUT, kt_keystore_open("file:", &ks, &err));
	assert_kt_fails(KT_E_INPUT, kt_keystore_open("file:/", &ks, &err));
}

static void env_is_opened(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_keystore *ks;
	assert_int_equal(setenv("KT_CMK", key_m, 1), 0);
	ks = must_open("env:KT_CMK");
	assert_string_equal(kt_keystore_uri(ks), "env:KT_CMK");
	round_trip(ks);
	kt_keystore_close(ks);
	assert_string_equal(getenv("KT_CMK"), key_m); /* stays, as the application needs it */
	assert_int_equal(setenv("KT_CMK", "aw==", 1), 0);
	must_say("env:KT_CMK", "Looker can not start because: Size of the Master Key is invalid it must be 32 bytes "
			       "however is 1");
	assert_int_equal(setenv("KT_CMK", "", 1), 0);
	must_say("env:KT_CMK", "Looker can not start because: Missing backing keystore");
	assert_int_equal(unsetenv("KT_CMK"), 0);
	must_say("env:KT_CMK", "Looker can not start because: Missing backing keystore");
	assert_kt_fails(KT_E_INPUT, kt_keystore_open("env:", &ks, &err));
	assert_kt_fails(KT_E_INPUT, kt_keystore_open("env:1X", &ks, &err));
	/* Somebody who puts the value where the name belongs does not find it in the log. */
	char uri[128];
	(void)snprintf(uri, sizeof uri, "env:%s", key_m);
	assert_kt_fails(KT_E_INPUT, kt_keystore_open(uri, &ks, &err));
	assert_null(strstr(err.msg, key_m));
}

static void another_cmk_does_not_open_it(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret kek;
	kt_blob blob;
	assert_int_equal(setenv("KT_CMK", key_m, 1), 0);
	kt_keystore *k = must_open(file_uri(key_k, 0400)), *m = must_open("env:KT_CMK");
	assert_string_not_equal(kt_keystore_kcv(k), kt_keystore_kcv(m));
	assert_kt_ok(kt_keystore_new_kek(k, &kek, &blob, &err));
	kt_secret_free(&kek);
	assert_kt_fails(KT_E_KEY, kt_keystore_unwrap_kek(m, &blob, &kek, &err));
	assert_non_null(strstr(err.msg, kt_keystore_kcv(k)));
	memcpy(blob.wrapping.kcv, kt_keystore_kcv(m), KT_KCV_TEXT);
	assert_kt_fails(KT_E_KEY, kt_keystore_unwrap_kek(m, &blob, &kek, &err));
	assert_null(kek.data);
	kt_keystore_close(k);
	kt_keystore_close(m);
}

static void unknown_schemes_are_named(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_keystore *ks;
	assert_kt_fails(KT_E_INPUT, kt_keystore_open("kmip:x", &ks, &err));
	assert_non_null(strstr(err.msg, "kmip:"));
	assert_non_null(strstr(err.remedy, "awskms:"));
	assert_non_null(strstr(err.remedy, "pkcs11:"));
	assert_non_null(strstr(err.remedy, "env:"));
	assert_kt_fails(KT_E_INPUT, kt_keystore_open("", &ks, &err));
	assert_kt_fails(KT_E_INPUT, kt_keystore_open("/etc/cmk", &ks, &err));
	assert_kt_fails(KT_E_INPUT, kt_keystore_open(key_k, &ks, &err));
	assert_null(strstr(err.msg, key_k));
}

static void make_cmk(const char *label)
{
	kt_err err = KT_ERR_INIT;
	kt_token *t;
	kt_token_key k;
	assert_kt_ok(kt_token_open(softhsm_uri(NULL, NULL), &t, &err));
	assert_kt_ok(kt_token_create_wrapping_key(t, &(kt_token_key_name){.label = label}, &k, &err));
	kt_token_close(t);
}

static void a_token_keeps_the_cmk(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret kek;
	kt_blob blob;
	make_cmk("cmk-1");
	make_cmk("cmk-2");
	kt_keystore *one = must_open(softhsm_uri("token=kt-test;object=cmk-1", NULL));
	assert_null(strstr(kt_keystore_uri(one), "pin"));
	assert_non_null(strstr(kt_keystore_uri(one), "object=cmk-1"));
	round_trip(one);
	assert_kt_ok(kt_keystore_new_kek(one, &kek, &blob, &err));
	kt_secret_free(&kek);
	kt_keystore *two = must_open(softhsm_uri("token=kt-test;object=cmk-2;type=secret-key", NULL));
	assert_kt_fails(KT_E_KEY, kt_keystore_unwrap_kek(two, &blob, &kek, &err));
	kt_keystore_close(two);
	kt_keystore_close(one);
}

static void a_kek_moves_between_keystores(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret kek, there;
	kt_blob a, b;
	kt_keystore *file = must_open(file_uri(key_k, 0400));
	kt_keystore *hsm = must_open(softhsm_uri("token=kt-test;object=cmk-1", NULL));
	assert_kt_ok(kt_keystore_new_kek(file, &kek, &a, &err));
	assert_kt_ok(kt_keystore_wrap_kek(hsm, &kek, &b, &err));
	assert_kt_ok(kt_keystore_unwrap_kek(hsm, &b, &there, &err));
	assert_true(kt_secret_equal(&kek, &there));
	assert_string_equal(a.kcv, b.kcv);
	kt_secret_free(&there);
	assert_kt_ok(kt_keystore_move_kek(hsm, file, &a, &there, &b, &err));
	assert_true(kt_secret_equal(&kek, &there));
	kt_secret_free(&there);
	kt_keystore *other = must_open(softhsm_uri("token=kt-test;object=cmk-2", NULL));
	assert_kt_ok(kt_keystore_move_kek(other, hsm, &b, &there, &a, &err));
	assert_true(kt_secret_equal(&kek, &there));
	assert_true(kt_keystore_made(other, &a) && kt_keystore_made(hsm, &b));
	kt_secret_free(&there);
	assert_kt_fails(KT_E_KEY, kt_keystore_move_kek(hsm, file, &a, &there, &b, &err)); /* file has not wrapped it */
	assert_null(there.data);
	kt_secret_free(&kek);
	kt_keystore_close(other);
	kt_keystore_close(file);
	kt_keystore_close(hsm);
}

static void pkcs11_errors(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_keystore *ks;
	assert_kt_fails(KT_E_INPUT, kt_keystore_open(softhsm_uri("token=kt-test", NULL), &ks, &err));
	assert_non_null(strstr(err.remedy, "object="));
	assert_kt_fails(KT_E_INPUT, kt_keystore_open("pkcs11:object=x?pin-value=canary", &ks, &err));
	assert_null(strstr(err.msg, "canary"));
	assert_kt_fails(KT_E_INPUT, kt_keystore_open(softhsm_uri("object=x;type=public", NULL), &ks, &err));
	assert_kt_fails(KT_E_HSM, kt_keystore_open(softhsm_uri("token=nowhere;object=x", NULL), &ks, &err));
	assert_kt_fails(KT_E_KEY, kt_keystore_open(softhsm_uri("token=kt-test;object=nothing", NULL), &ks, &err));
	assert_null(ks);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(file_is_opened),
		cmocka_unit_test(file_errors_are_the_documented_ones),
		cmocka_unit_test(file_that_is_no_key),
		cmocka_unit_test(env_is_opened),
		cmocka_unit_test(another_cmk_does_not_open_it),
		cmocka_unit_test(unknown_schemes_are_named),
		cmocka_unit_test(a_token_keeps_the_cmk),
		cmocka_unit_test(a_kek_moves_between_keystores),
		cmocka_unit_test(pkcs11_errors),
	};
	return cmocka_run_group_tests(tests, softhsm_start, softhsm_stop);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Keystore URIs as text. */
#include "tests/unit/support.h"

#include <stdio.h>
#include <string.h>

#include "base/keyuri.h"

static void kinds(void **state)
{
	static const struct {
		const char *uri, *name, *rest;
		bool stays, none;
	} rows[] = {{"file:/k", "file", "/k", false, false},
		    {"env:NAME", "env", "NAME", false, false},
		    {"pkcs11:token=t", "pkcs11", "token=t", true, false},
		    {"awskms:alias/a", "awskms", "alias/a", true, false},
		    {"legacy:", "legacy", "", true, true}};
	static const char *const none[] = {"", "file", "fil:/k", "files:/k", "FILE:/k", "kmip:x", ":/k", "legacy"};
	kt_keyuri_kind kind, again;
	const char *rest;
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		assert_true(kt_keyuri_kind_of(rows[i].uri, &kind, &rest));
		assert_string_equal(kt_keyuri_name(kind), rows[i].name);
		assert_string_equal(rest, rows[i].rest);
		assert_true(kt_keyuri_stays(kind) == rows[i].stays);
		assert_true(kt_keyuri_none(kind) == rows[i].none);
		assert_true(kt_keyuri_named(rows[i].name, &again) && again == kind);
	}
	for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
		assert_false(kt_keyuri_kind_of(none[i], &kind, &rest));
	assert_false(kt_keyuri_named("kmip", &kind));
}

static void formatted(const kt_awsuri *uri, const char *want)
{
	kt_err err = KT_ERR_INIT;
	kt_buf text = KT_BUF_INIT;
	assert_kt_ok(kt_awsuri_format(uri, &text, &err));
	assert_string_equal(kt_buf_cstr(&text), want);
	kt_buf_free(&text);
}

/* What is written comes back, and is written the same. */
static void there_and_back(void **state)
{
	static const struct {
		const char *name, *region, *context, *uri;
	} rows[] = {
		{"alias/a", "", "", "awskms:alias/a"},
		{"alias/a", "eu-west-1", "", "awskms:alias/a?region=eu-west-1"},
		{"1234abcd-12", NULL, "x", "awskms:1234abcd-12?context=x"},
		{"alias/a", "eu-west-1", "a b&c=\xc3\xa9%",
		 "awskms:alias/a?region=eu-west-1&context=a%20b%26c%3D%C3%A9%25"},
		{"arn:aws:kms:eu-west-1:1:key/k", "", "", "awskms:arn:aws:kms:eu-west-1:1:key/k?region=eu-west-1"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		kt_err err = KT_ERR_INIT;
		kt_awsuri made, read;
		assert_kt_ok(kt_awsuri_make(rows[i].name, rows[i].region, rows[i].context, &made, &err));
		formatted(&made, rows[i].uri);
		assert_kt_ok(kt_awsuri_parse(rows[i].uri + strlen("awskms:"), &read, &err));
		assert_string_equal(read.name, rows[i].name);
		assert_string_equal(read.region, made.region);
		assert_string_equal(read.context, rows[i].context);
		formatted(&read, rows[i].uri);
	}
}

static void malformed(void **state)
{
	static const char *const rows[] = {"",
					   "?region=eu-west-1",
					   "alias/a b",
					   "alias/a?",
					   "alias/a?region=",
					   "alias/a?region=x&region=y",
					   "alias/a?context=%0a",
					   "alias/a?context=%f",
					   "alias/a?context=%zz",
					   "alias/a?context=%ff",
					   "alias/a?secret=x",
					   "arn:aws:s3:::bucket",
					   "arn:aws:kms:eu-west-1:1:key/k?region=us-east-1"};
	char long_text[KT_AWSURI_NAME + 1];
	kt_awsuri uri;
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		kt_err err = KT_ERR_INIT;
		if (i == 3) /* nothing behind the '?' says nothing */
			assert_kt_ok(kt_awsuri_parse(rows[i], &uri, &err));
		else
			assert_kt_fails(KT_E_INPUT, kt_awsuri_parse(rows[i], &uri, &err));
	}
	memset(long_text, 'a', sizeof long_text - 1);
	long_text[sizeof long_text - 1] = '\0';
	kt_err err = KT_ERR_INIT;
	assert_kt_fails(KT_E_INPUT, kt_awsuri_make(long_text, "", "", &uri, &err));
	assert_kt_fails(KT_E_INPUT, kt_awsuri_make("alias/a", long_text, "", &uri, &err));
	assert_kt_fails(KT_E_INPUT, kt_awsuri_make("alias/a", "", long_text, &uri, &err));
	assert_kt_fails(KT_E_INPUT, kt_awsuri_make("alias/a", "", "a\nb", &uri, &err));
	assert_kt_fails(KT_E_INPUT, kt_awsuri_make("alias/a", "", "\xff", &uri, &err));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(kinds),
		cmocka_unit_test(there_and_back),
		cmocka_unit_test(malformed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

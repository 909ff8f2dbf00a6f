/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <errno.h>
#include <string.h>

static void fail_fills_the_error(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	assert_int_equal(kt_fail(&err, KT_E_HSM, "insert the token", "slot %d", 3), KT_E_HSM);
	assert_int_equal(err.code, KT_E_HSM);
	assert_string_equal(err.msg, "slot 3");
	assert_string_equal(err.remedy, "insert the token");
}

static void fail_without_remedy_clears_an_old_one(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	KT_IGNORE(kt_fail(&err, KT_E_IO, "old remedy", "first"));
	KT_IGNORE(kt_fail(&err, KT_E_INPUT, NULL, "second"));
	assert_string_equal(err.remedy, "");
}

static void fail_takes_no_error(void **state)
{
	(void)state;
	assert_int_equal(kt_fail(NULL, KT_E_BUSY, NULL, "x"), KT_E_BUSY);
	assert_int_equal(kt_fail_errno(NULL, ENOENT, NULL, "x"), KT_E_IO);
	assert_int_equal(kt_err_prefix(NULL, KT_E_KEY, "x"), KT_E_KEY);
}

static void fail_may_quote_the_message_that_it_replaces(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	KT_IGNORE(kt_fail(&err, KT_E_IO, "remedy", "inner"));
	KT_IGNORE(kt_fail(&err, KT_E_KEY, err.remedy, "outer (%s)", err.msg));
	assert_string_equal(err.msg, "outer (inner)");
	assert_string_equal(err.remedy, "remedy");
}

static void long_texts_are_cut_and_closed(void **state)
{
	(void)state;
	char big[4 * KT_ERR_MSG];
	memset(big, 'x', sizeof big - 1);
	big[sizeof big - 1] = '\0';
	kt_err err = KT_ERR_INIT;
	KT_IGNORE(kt_fail(&err, KT_E_IO, big, "%s", big));
	assert_int_equal(strlen(err.msg), KT_ERR_MSG - 1);
	assert_int_equal(strlen(err.remedy), KT_ERR_REMEDY - 1);
	KT_IGNORE(kt_err_prefix(&err, KT_E_IO, "%s", big));
	assert_int_equal(strlen(err.msg), KT_ERR_MSG - 1);
}

static void errno_gets_a_remedy(void **state)
{
	(void)state;
	const int with[] = {ENOSPC, EDQUOT, EACCES, EPERM, ENOENT, EROFS};
	for (size_t i = 0; i < sizeof with / sizeof with[0]; i++) {
		kt_err err = KT_ERR_INIT;
		assert_int_equal(kt_fail_errno(&err, with[i], NULL, "file"), KT_E_IO);
		assert_true(err.remedy[0] != '\0');
		assert_non_null(strstr(err.msg, strerror(with[i])));
		KT_IGNORE(kt_fail_errno(&err, with[i], "own remedy", "file"));
		assert_string_equal(err.remedy, "own remedy");
	}
}

static void prefix_keeps_the_remedy(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	KT_IGNORE(kt_fail(&err, KT_E_IO, "do this", "inner"));
	assert_int_equal(kt_err_prefix(&err, KT_E_HELD, "node %s", "web01"), KT_E_HELD);
	assert_string_equal(err.msg, "node web01: inner");
	assert_string_equal(err.remedy, "do this");
	assert_int_equal(err.code, KT_E_HELD);
}

static void names_go_both_ways(void **state)
{
	(void)state;
	for (int c = KT_OK; c <= KT_E_INTERRUPTED; c++) {
		assert_int_equal(kt_code_from_name(kt_code_name((kt_code)c)), c);
		for (int d = KT_OK; d < c; d++)
			assert_string_not_equal(kt_code_name((kt_code)c), kt_code_name((kt_code)d));
	}
	assert_string_equal(kt_code_name((kt_code)99), "internal");
	assert_int_equal(kt_code_from_name("nonsense"), KT_E_INTERNAL);
	assert_int_equal(kt_code_from_name(NULL), KT_E_INTERNAL);
}

static kt_code tries(kt_code code)
{
	KT_TRY(code);
	return KT_E_UNKNOWN;
}

static void try_passes_failures_on(void **state)
{
	(void)state;
	assert_int_equal(tries(KT_E_AUDIT), KT_E_AUDIT);
	assert_int_equal(tries(KT_OK), KT_E_UNKNOWN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fail_fills_the_error),
		cmocka_unit_test(fail_without_remedy_clears_an_old_one),
		cmocka_unit_test(fail_takes_no_error),
		cmocka_unit_test(fail_may_quote_the_message_that_it_replaces),
		cmocka_unit_test(long_texts_are_cut_and_closed),
		cmocka_unit_test(errno_gets_a_remedy),
		cmocka_unit_test(prefix_keeps_the_remedy),
		cmocka_unit_test(names_go_both_ways),
		cmocka_unit_test(try_passes_failures_on),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <string.h>

#include "orchestrator/inventory/range.h"

static kt_code collect(void *cookie, const char *name, kt_err *err)
{
	kt_buf *out = cookie;
	if (out->len)
		KT_TRY(kt_buf_str(out, " ", err));
	return kt_buf_str(out, name, err);
}

static void expands_to(const char *pattern, const char *names)
{
	kt_err err = KT_ERR_INIT;
	kt_buf out = KT_BUF_INIT;
	assert_kt_ok(kt_range_expand(pattern, 1000, collect, &out, &err));
	assert_string_equal(kt_buf_cstr(&out), names);
	kt_buf_free(&out);
}

static void expands(void **state)
{
	(void)state;
	expands_to("web", "web");
	expands_to("web[1-3]", "web1 web2 web3");
	expands_to("web[08-11]", "web08 web09 web10 web11");
	expands_to("web[8-11]", "web8 web9 web10 web11");
	expands_to("web[001-002].eu", "web001.eu web002.eu");
	expands_to("[1-2]", "1 2");
	expands_to("db[1,3,7-9]", "db1 db3 db7 db8 db9");
	expands_to("db[01,3]", "db01 db3");
	expands_to("r[1-2]n[08-09]", "r1n08 r1n09 r2n08 r2n09");
	expands_to("[1-2][3-4]x[5]", "13x5 14x5 23x5 24x5");
	expands_to("web[7]", "web7");
	expands_to("web[999999999]", "web999999999");
}

static void refuses_with(const char *pattern, const char *why)
{
	kt_err err = KT_ERR_INIT;
	kt_buf out = KT_BUF_INIT;
	assert_kt_fails(KT_E_INPUT, kt_range_expand(pattern, 1000, collect, &out, &err));
	if (!strstr(err.msg, why))
		fail_msg("%s: \"%s\" does not say \"%s\"", pattern, err.msg, why);
	assert_int_equal(out.len, 0); /* nothing was visited */
	kt_buf_free(&out);
}

static void refuses(void **state)
{
	(void)state;
	refuses_with("", "the name is empty");
	refuses_with("web[", "a number");
	refuses_with("web[1", "a [ has no ]");
	refuses_with("web[1-", "the range has no end");
	refuses_with("web[1-]", "the range has no end");
	refuses_with("web[-3]", "a number");
	refuses_with("web[]", "a number");
	refuses_with("web[1,]", "a number");
	refuses_with("web[1;2]", "neither a number");
	refuses_with("web[a-c]", "a number");
	refuses_with("web1]", "a ] has no [");
	refuses_with("web[1]]", "a ] has no [");
	refuses_with("web[[1]]", "a number");
	refuses_with("web[3-1]", "backwards");
	refuses_with("web[010-11]", "fewer digits");
	refuses_with("web[1-1001]", "more than 1000 names");
	refuses_with("web[1-40][1-40]", "more than 1000 names");
	refuses_with("web[0-999999999][0-999999999][0-999999999]", "more than 1000 names");
	refuses_with("web[1234567890]", "at most 9 digits");
	refuses_with("[1][1][1][1][1][1][1][1][1]", "too many brackets");
}

static void a_long_pattern_is_refused(void **state)
{
	(void)state;
	char text[5000];
	memset(text, 'a', sizeof text - 1);
	text[sizeof text - 1] = '\0';
	refuses_with(text, "too long");
	kt_buf many = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	assert_kt_ok(kt_buf_str(&many, "w[1", &err));
	for (int i = 0; i < 300; i++)
		assert_kt_ok(kt_buf_str(&many, ",1", &err));
	assert_kt_ok(kt_buf_str(&many, "]", &err));
	refuses_with(kt_buf_cstr(&many), "too many pieces");
	kt_buf_free(&many);
}

static void the_limit_itself_is_fine(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf out = KT_BUF_INIT;
	assert_kt_ok(kt_range_expand("n[1-1000]", 1000, collect, &out, &err));
	assert_non_null(strstr(kt_buf_cstr(&out), " n1000"));
	kt_buf_free(&out);
}

static kt_code stop_at_two(void *cookie, const char *name, kt_err *err)
{
	int *n = cookie;
	if (++*n == 2)
		return kt_fail(err, KT_E_BUSY, NULL, "enough at %s", name);
	return KT_OK;
}

static void stops_at_the_first_failure(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	int n = 0;
	assert_kt_fails(KT_E_BUSY, kt_range_expand("a[1-9]", 100, stop_at_two, &n, &err));
	assert_int_equal(n, 2);
	assert_string_equal(err.msg, "enough at a2");
}

static void folds_to(const char *const *names, size_t n, const char *text)
{
	kt_err err = KT_ERR_INIT;
	kt_buf out = KT_BUF_INIT;
	assert_kt_ok(kt_range_fold(names, n, &out, &err));
	assert_string_equal(kt_buf_cstr(&out), text);
	kt_buf_free(&out);
}

#define FOLDS(text, ...)                                                                                               \
	do {                                                                                                           \
		const char *const names[] = {__VA_ARGS__};                                                             \
		folds_to(names, sizeof names / sizeof names[0], text);                                                 \
	} while (0)

static void folds(void **state)
{
	(void)state;
	FOLDS("web", "web");
	FOLDS("web[1-3]", "web1", "web2", "web3");
	FOLDS("web[08-11]", "web08", "web09", "web10", "web11");
	FOLDS("web[9-10]", "web9", "web10");
	FOLDS("web09 web010", "web09", "web010"); /* no range gives these two */
	FOLDS("web1 web3 db[1-2]", "web1", "web3", "db1", "db2");
	FOLDS("web2 web1", "web2", "web1"); /* their order is kept */
	FOLDS("r1n[1-2].eu r2n[1-2].eu", "r1n1.eu", "r1n2.eu", "r2n1.eu", "r2n2.eu");
	FOLDS("@", "@");
	FOLDS("a b", "a", "b");
	FOLDS("n1.eu n2.us", "n1.eu", "n2.us");
	folds_to(NULL, 0, "");
}

static void what_is_folded_expands_again(void **state)
{
	(void)state;
	expands_to("web[9-10]", "web9 web10");
	FOLDS("n[98-101]", "n98", "n99", "n100", "n101");
	expands_to("n[98-101]", "n98 n99 n100 n101");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(expands),
		cmocka_unit_test(refuses),
		cmocka_unit_test(a_long_pattern_is_refused),
		cmocka_unit_test(the_limit_itself_is_fine),
		cmocka_unit_test(stops_at_the_first_failure),
		cmocka_unit_test(folds),
		cmocka_unit_test(what_is_folded_expands_again),
	};
	return cmocka_run_group_tests_name("range", tests, NULL, NULL);
}

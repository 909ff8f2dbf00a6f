/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

static void starts_empty(void **state)
{
	(void)state;
	kt_buf b = KT_BUF_INIT;
	assert_true(kt_buf_sane(&b));
	assert_string_equal(kt_buf_cstr(&b), "");
	kt_buf_clear(&b);
	kt_buf_consume(&b, 5);
	kt_buf_free(&b);
	kt_buf_free(NULL);
	assert_true(kt_buf_sane(&b));
}

static void grows_and_keeps_its_bytes(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf b = KT_BUF_INIT;
	for (unsigned i = 0; i < 5000; i++) {
		uint8_t byte = (uint8_t)(i * 7);
		assert_kt_ok(kt_buf_append(&b, &byte, 1, &err));
		assert_true(kt_buf_sane(&b));
	}
	assert_int_equal(b.len, 5000);
	for (unsigned i = 0; i < 5000; i++)
		assert_int_equal(b.data[i], (uint8_t)(i * 7));
	kt_buf_free(&b);
}

static void appends_nothing(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf b = KT_BUF_INIT;
	assert_kt_ok(kt_buf_append(&b, NULL, 0, &err));
	assert_kt_ok(kt_buf_str(&b, "", &err));
	assert_int_equal(b.len, 0);
	assert_true(kt_buf_sane(&b));
	kt_buf_free(&b);
}

static void never_passes_its_bound(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf b = {.max = 10};
	assert_kt_ok(kt_buf_str(&b, "0123456789", &err));
	assert_true(kt_buf_sane(&b));
	assert_kt_fails(KT_E_INPUT, kt_buf_str(&b, "x", &err));
	assert_kt_fails(KT_E_INPUT, kt_buf_printf(&b, &err, "%d", 1));
	assert_kt_fails(KT_E_INPUT, kt_buf_reserve(&b, SIZE_MAX, &err));
	assert_string_equal(kt_buf_cstr(&b), "0123456789");
	assert_true(kt_buf_sane(&b));
	kt_buf_free(&b);
	kt_buf whole = KT_BUF_INIT;
	assert_kt_fails(KT_E_INPUT, kt_buf_reserve(&whole, (size_t)KT_BUF_MAX + 1, &err));
	assert_null(whole.data);
}

static void formats(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf b = KT_BUF_INIT;
	assert_kt_ok(kt_buf_printf(&b, &err, "%s=%d", "a", 1));
	assert_kt_ok(kt_buf_printf(&b, &err, ";%600s", "end"));
	assert_int_equal(b.len, 604);
	assert_memory_equal(b.data, "a=1;", 4);
	assert_string_equal(kt_buf_cstr(&b) + 601, "end");
	kt_buf_free(&b);
}

static void consumes_from_the_front_and_wipes(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf b = KT_BUF_INIT;
	assert_kt_ok(kt_buf_str(&b, "abcdef", &err));
	kt_buf_consume(&b, 2);
	assert_string_equal(kt_buf_cstr(&b), "cdef");
	assert_int_equal(b.data[5], 0); /* where "f" stood */
	kt_buf_consume(&b, 100);
	assert_int_equal(b.len, 0);
	for (size_t i = 0; i < 6; i++)
		assert_int_equal(b.data[i], 0);
	assert_true(kt_buf_sane(&b));
	kt_buf_free(&b);
}

static void clear_wipes_and_keeps_the_memory(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf b = KT_BUF_INIT;
	assert_kt_ok(kt_buf_str(&b, "canary", &err));
	size_t cap = b.cap;
	kt_buf_clear(&b);
	assert_int_equal(b.cap, cap);
	for (size_t i = 0; i < cap; i++)
		assert_int_equal(b.data[i], 0);
	assert_true(kt_buf_sane(&b));
	kt_buf_free(&b);
}

static void steals_a_string(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf b = KT_BUF_INIT;
	char *empty = kt_buf_steal(&b);
	assert_string_equal(empty, "");
	free(empty);
	assert_kt_ok(kt_buf_str(&b, "text", &err));
	char *text = kt_buf_steal(&b);
	assert_string_equal(text, "text");
	free(text);
	assert_null(b.data);
	assert_true(kt_buf_sane(&b));
}

static void sane_sees_what_is_broken(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf b = KT_BUF_INIT;
	assert_kt_ok(kt_buf_str(&b, "x", &err));
	kt_buf bad = b;
	bad.len = bad.cap + 1;
	assert_false(kt_buf_sane(&bad));
	bad = b;
	bad.data = NULL;
	assert_false(kt_buf_sane(&bad));
	bad = b;
	bad.max = bad.cap - 1;
	assert_false(kt_buf_sane(&bad));
	b.data[1] = 'y';
	assert_false(kt_buf_sane(&b));
	kt_buf_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(starts_empty),
		cmocka_unit_test(grows_and_keeps_its_bytes),
		cmocka_unit_test(appends_nothing),
		cmocka_unit_test(never_passes_its_bound),
		cmocka_unit_test(formats),
		cmocka_unit_test(consumes_from_the_front_and_wipes),
		cmocka_unit_test(clear_wipes_and_keeps_the_memory),
		cmocka_unit_test(steals_a_string),
		cmocka_unit_test(sane_sees_what_is_broken),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

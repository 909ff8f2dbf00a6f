/* SPDX-License-Identifier: Apache-2.0 */
/* drift.check: nodes that are not alike are named, with the field and both values. */
#include "tests/unit/support.h"

#include <string.h>

#include "orchestrator/turn/drift.h"

static cJSON *json(const char *text)
{
	cJSON *o = NULL;
	kt_err err = KT_ERR_INIT;
	assert_int_equal(kt_json_parse("test", text, strlen(text), &o, &err), KT_OK);
	return o;
}

/* Check two nodes with these answers and clocks; the message is left in *err. */
static kt_code check(const char *args, const char *a, const char *b, int64_t skew_ms, kt_err *err)
{
	cJSON *wanted = json(args);
	cJSON *one = json(a);
	cJSON *two = json(b);
	const kt_drift_answer answers[] = {{"web01", one, 0}, {"web02", two, skew_ms}};
	*err = KT_ERR_INIT;
	kt_code rc = kt_drift_check(wanted, answers, 2, err);
	cJSON_Delete(wanted);
	cJSON_Delete(one);
	cJSON_Delete(two);
	return rc;
}

static void alike_nodes_pass(void **state)
{
	kt_err err;
	(void)state;
	assert_int_equal(check("{\"fields\":[\"kcv\",\"env\"],\"clock_skew_s\":5}",
			       "{\"kcv\":\"a1b2c3\",\"env\":[\"A\",\"B\"],\"free\":1}",
			       "{\"env\":[\"A\",\"B\"],\"kcv\":\"a1b2c3\",\"free\":2}", 4000, &err),
			 KT_OK);
}

static void another_key_is_named(void **state)
{
	kt_err err;
	(void)state;
	assert_int_equal(check("{\"fields\":[\"kcv\"]}", "{\"kcv\":\"a1b2c3\"}", "{\"kcv\":\"ffffff\"}", 0, &err),
			 KT_E_REFUSED);
	assert_non_null(strstr(err.msg, "kcv differs: web01 has \"a1b2c3\", web02 has \"ffffff\""));
}

static void a_missing_field_is_a_difference(void **state)
{
	kt_err err;
	(void)state;
	assert_int_equal(check("{\"fields\":[\"unit\"]}", "{\"unit\":\"x\"}", "{}", 0, &err), KT_E_REFUSED);
	assert_non_null(strstr(err.msg, "web02 has nothing"));
}

static void a_wrong_clock_is_named(void **state)
{
	kt_err err;
	(void)state;
	assert_int_equal(check("{\"fields\":[],\"clock_skew_s\":5}", "{}", "{}", -5001, &err), KT_E_REFUSED);
	assert_non_null(strstr(err.msg, "the clock of web02 is -5001 ms off"));
}

static void nobody_answered_is_an_error(void **state)
{
	kt_err err = KT_ERR_INIT;
	cJSON *args = json("{\"fields\":[\"kcv\"]}");
	(void)state;
	assert_int_equal(kt_drift_check(args, NULL, 0, &err), KT_E_INPUT);
	cJSON_Delete(args);
}

static void bad_arguments_are_errors(void **state)
{
	kt_err err;
	(void)state;
	assert_int_equal(check("{}", "{}", "{}", 0, &err), KT_E_INPUT);
	assert_int_equal(check("{\"fields\":[1]}", "{}", "{}", 0, &err), KT_E_INPUT);
	assert_int_equal(check("{\"fields\":[],\"clock_skew_s\":-1}", "{}", "{}", 0, &err), KT_E_INPUT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(alike_nodes_pass),
		cmocka_unit_test(another_key_is_named),
		cmocka_unit_test(a_missing_field_is_a_difference),
		cmocka_unit_test(a_wrong_clock_is_named),
		cmocka_unit_test(nobody_answered_is_an_error),
		cmocka_unit_test(bad_arguments_are_errors),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

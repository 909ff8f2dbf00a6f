/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <string.h>
#include <time.h>

#include "base/clock.h"

static void formats_utc_with_milliseconds(void **state)
{
	(void)state;
	char text[KT_TIME_TEXT];
	kt_clock_format(0, text);
	assert_string_equal(text, "1970-01-01T00:00:00.000Z");
	kt_clock_format(951782400007, text); /* 29 February 2000 */
	assert_string_equal(text, "2000-02-29T00:00:00.007Z");
	kt_clock_format(1795468266999, text);
	assert_string_equal(text, "2026-11-23T21:11:06.999Z");
}

static void formats_before_1970(void **state)
{
	(void)state;
	char text[KT_TIME_TEXT];
	kt_clock_format(-1, text);
	assert_string_equal(text, "1969-12-31T23:59:59.999Z");
}

static void formats_any_number_within_its_bound(void **state)
{
	(void)state;
	const int64_t odd[] = {INT64_MIN, INT64_MAX, 253402300799999, 253402300800000, -62135596800001};
	for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
		char text[KT_TIME_TEXT];
		memset(text, 'x', sizeof text);
		kt_clock_format(odd[i], text);
		assert_non_null(memchr(text, '\0', sizeof text));
	}
}

static void clocks_run(void **state)
{
	(void)state;
	int64_t mono = kt_clock_mono_ms();
	int64_t wall = kt_clock_wall_ms();
	const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
	assert_int_equal(nanosleep(&pause, NULL), 0);
	int64_t passed = kt_clock_mono_ms() - mono;
	assert_in_range(passed, 19, 60000);
	assert_true(wall > 1700000000000);
	assert_true(wall / 1000 - (int64_t)time(NULL) <= 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(formats_utc_with_milliseconds),
		cmocka_unit_test(formats_before_1970),
		cmocka_unit_test(formats_any_number_within_its_bound),
		cmocka_unit_test(clocks_run),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

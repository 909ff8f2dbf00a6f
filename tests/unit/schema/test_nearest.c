/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <string.h>

#include "base/nearest.h"

static const char *nearest(const char *word)
{
	static const char *const known[] = {"service", "timeout_s", "processes", "ports", "files", "keep", "kept"};
	kt_nearest n = KT_NEAREST(word);
	for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
		kt_nearest_offer(&n, known[i]);
	return n.best ? n.best : "-";
}

static void finds_the_name_that_was_meant(void **state)
{
	(void)state;
	assert_string_equal(nearest("service"), "service");
	assert_string_equal(nearest("sevrice"), "service");   /* two letters swapped: one change, not two */
	assert_string_equal(nearest("servise"), "service");   /* a wrong one */
	assert_string_equal(nearest("timeout"), "timeout_s"); /* two missing */
	assert_string_equal(nearest("process"), "processes"); /* two missing, 7 letters */
	assert_string_equal(nearest("portss"), "ports");      /* one too many */
	assert_string_equal(nearest("kep"), "keep");          /* equally near to kept: the first stays */
}

static void does_not_guess(void **state)
{
	(void)state;
	assert_string_equal(nearest("wobble"), "-");
	assert_string_equal(nearest(""), "-");
	assert_string_equal(nearest("k"), "-");
	char longest[200];
	memset(longest, 'a', sizeof longest - 1);
	longest[sizeof longest - 1] = '\0';
	assert_string_equal(nearest(longest), "-");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_the_name_that_was_meant),
		cmocka_unit_test(does_not_guess),
	};
	return cmocka_run_group_tests_name("nearest", tests, NULL, NULL);
}

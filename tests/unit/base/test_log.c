/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/codec.h"
#include "base/log.h"

static int fd = -1;

static int start(void **state)
{
	(void)state;
	fd = open(".", O_TMPFILE | O_RDWR, 0600);
	kt_log_setup(KT_LOG_TRACE, fd);
	return fd >= 0 ? 0 : -1;
}

static int stop(void **state)
{
	(void)state;
	kt_log_forget_all();
	kt_log_setup(KT_LOG_WARN, STDERR_FILENO);
	return close(fd);
}

/* Everything that was logged, as a string; the caller frees it. */
static char *logged(void)
{
	off_t size = lseek(fd, 0, SEEK_END);
	char *text = calloc(1, (size_t)size + 1);
	assert_non_null(text);
	assert_int_equal(pread(fd, text, (size_t)size, 0), size);
	return text;
}

static kt_secret secret_of(const char *text)
{
	kt_err err = KT_ERR_INIT;
	kt_secret s;
	assert_kt_ok(kt_secret_copy(&s, text, strlen(text), &err));
	return s;
}

static void redact(const char *text)
{
	kt_err err = KT_ERR_INIT;
	kt_secret s = secret_of(text);
	assert_kt_ok(kt_log_redact(&s, &err));
	kt_secret_free(&s);
}

/* `in` after scrubbing is `want`. */
static void assert_scrubs(const char *in, const char *want)
{
	char bytes[512];
	size_t n = strlen(in);
	assert_true(n < sizeof bytes);
	memcpy(bytes, in, n);
	size_t got = kt_log_scrub((uint8_t *)bytes, n);
	assert_true(got <= n);
	bytes[got] = '\0';
	assert_string_equal(bytes, want);
}

static void writes_one_line_with_time_and_level(void **state)
{
	(void)state;
	kt_log(KT_LOG_WARN, "node %s is late", "web01");
	char *text = logged();
	assert_non_null(strstr(text, "Z warning: node web01 is late\n"));
	assert_int_equal(text[strlen(text) - 1], '\n');
	assert_int_equal(text[10], 'T');
	free(text);
}

static void drops_what_is_above_its_level(void **state)
{
	(void)state;
	kt_log_setup(KT_LOG_INFO, fd);
	assert_int_equal(kt_log_get_level(), KT_LOG_INFO);
	kt_log(KT_LOG_DEBUG, "not this");
	kt_log(KT_LOG_INFO, "but this");
	char *text = logged();
	assert_null(strstr(text, "not this"));
	assert_non_null(strstr(text, "but this"));
	free(text);
}

static void cannot_be_made_to_forge_a_line(void **state)
{
	(void)state;
	kt_log(KT_LOG_ERROR, "%s", "a\n2026-01-01T00:00:00.000Z error: forged\r\x1b[31m\x7f");
	char *text = logged();
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
	for (const char *p = text; p[1]; p++)
		assert_true((unsigned char)*p >= 0x20 && *p != 0x7f);
	free(text);
}

static void cuts_long_lines(void **state)
{
	(void)state;
	char big[20000];
	memset(big, 'x', sizeof big - 1);
	big[sizeof big - 1] = '\0';
	kt_log(KT_LOG_ERROR, "%s", big);
	char *text = logged();
	assert_in_range(strlen(text), 1000, 5000);
	assert_int_equal(text[strlen(text) - 1], '\n');
	free(text);
}

static void scrubs_every_shape(void **state)
{
	(void)state;
	redact("canary-secret-1");
	assert_scrubs("a canary-secret-1 b", "a [redacted] b");
	assert_scrubs("Y2FuYXJ5LXNlY3JldC0x", "[redacted]");
	assert_scrubs("x63616e6172792d7365637265742d31y", "x[redacted]y");
	assert_scrubs("63616E6172792D7365637265742D31", "[redacted]");
	assert_scrubs("canary-secret-1canary-secret-1", "[redacted][redacted]");
	assert_scrubs("canary-secret-", "canary-secret-");
	assert_scrubs("", "");
	assert_int_equal(kt_log_scrub_reach(), 30);
}

/* Only the beginning of a secret, in any of its shapes, is open at the end of a stream. */
static void what_may_go_on(void **state)
{
	(void)state;
	assert_int_equal(kt_log_open_end((const uint8_t *)"canary", 6), 0);
	redact("canary-secret-1");
	static const struct {
		const char *text;
		size_t open;
	} of[] = {{"", 0},
		  {"a line\n", 0},
		  {"c", 1},
		  {"a line canary-secret-", 14},
		  {"canary-secret-1", 0}, /* whole: it has been replaced before */
		  {"canary-secret-2", 0},
		  {"x Y2FuYXJ5LXNlY3Jld", 17},
		  {"63616e6172792d7365637265742d3", 29},
		  {"63616E6172792D7365637265742D3", 29},
		  {"cccan", 3}};
	for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
		assert_int_equal(kt_log_open_end((const uint8_t *)of[i].text, strlen(of[i].text)), of[i].open);
}

static void scrubs_the_log_itself(void **state)
{
	(void)state;
	redact("canary-secret-2");
	kt_log(KT_LOG_ERROR, "PIN %s was refused", "canary-secret-2");
	char *text = logged();
	assert_null(strstr(text, "canary-secret-2"));
	assert_non_null(strstr(text, "PIN [redacted] was refused"));
	free(text);
}

/* A secret at the place where a long line is cut must not leave its first half. */
static void no_part_of_a_secret_survives_the_cut(void **state)
{
	(void)state;
	redact("canary-secret-3");
	char big[8192];
	for (size_t pad = 4000; pad < 4096; pad++) {
		(void)snprintf(big, sizeof big, "%*s%s", (int)pad, "", "canary-secret-3 and more");
		kt_log(KT_LOG_ERROR, "%s", big);
	}
	char *text = logged();
	assert_null(strstr(text, "canary-s"));
	free(text);
}

static void longest_secret_wins(void **state)
{
	(void)state;
	redact("canary-4");
	redact("canary-4-and-its-tail");
	assert_scrubs("canary-4-and-its-tail", "[redacted]");
	assert_scrubs("canary-4-and", "[redacte-and");
}

static void short_secrets_are_not_registered(void **state)
{
	(void)state;
	redact("1234567");
	assert_int_equal(kt_log_scrub_reach(), 0);
	assert_scrubs("1234567", "1234567");
}

static void remembers_64_and_says_when_there_are_more(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	char name[32];
	for (int i = 0; i < 64; i++) {
		(void)snprintf(name, sizeof name, "canary-number-%d", i);
		redact(name);
		redact(name); /* the same again takes no room */
	}
	kt_secret one_more = secret_of("one more canary");
	assert_kt_fails(KT_E_INTERNAL, kt_log_redact(&one_more, &err));
	kt_secret_free(&one_more);
	assert_scrubs("canary-number-63", "[redacted]");
	assert_scrubs("canary-number-0", "[redacted]");
	kt_log_forget_all();
	assert_scrubs("canary-number-0", "canary-number-0");
}

/* A secret of bytes, with zero bytes inside, in a stream. */
static void scrubs_bytes(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	const uint8_t key[16] = {0, 1, 2, 0, 0xff, 0, 7, 8, 9, 10, 0, 0, 13, 14, 15, 0};
	kt_secret s;
	assert_kt_ok(kt_secret_copy(&s, key, sizeof key, &err));
	assert_kt_ok(kt_log_redact(&s, &err));
	kt_secret_free(&s);
	uint8_t stream[40] = {0};
	memcpy(stream + 5, key, sizeof key);
	size_t n = kt_log_scrub(stream, sizeof stream);
	assert_int_equal(n, sizeof stream - sizeof key + 10);
	assert_memory_equal(stream + 5, "[redacted]", 10);
	for (size_t i = n; i < sizeof stream; i++)
		assert_int_equal(stream[i], 0);
}

int main(void)
{
	kt_err err = KT_ERR_INIT;
	if (kt_secret_setup(&err) != KT_OK) {
		(void)fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(writes_one_line_with_time_and_level, start, stop),
		cmocka_unit_test_setup_teardown(drops_what_is_above_its_level, start, stop),
		cmocka_unit_test_setup_teardown(cannot_be_made_to_forge_a_line, start, stop),
		cmocka_unit_test_setup_teardown(cuts_long_lines, start, stop),
		cmocka_unit_test_setup_teardown(scrubs_every_shape, start, stop),
		cmocka_unit_test_setup_teardown(what_may_go_on, start, stop),
		cmocka_unit_test_setup_teardown(scrubs_the_log_itself, start, stop),
		cmocka_unit_test_setup_teardown(no_part_of_a_secret_survives_the_cut, start, stop),
		cmocka_unit_test_setup_teardown(longest_secret_wins, start, stop),
		cmocka_unit_test_setup_teardown(short_secrets_are_not_registered, start, stop),
		cmocka_unit_test_setup_teardown(remembers_64_and_says_when_there_are_more, start, stop),
		cmocka_unit_test_setup_teardown(scrubs_bytes, start, stop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

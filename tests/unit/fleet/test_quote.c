/* SPDX-License-Identifier: Apache-2.0 */
/* Every word that kt_shell_quote makes must come out of a real shell byte by byte as it went in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/shell.h"

/* What `printf '%s\0' WORDS` prints when /bin/sh runs the quoted command line. */
static size_t through_shell(const char *const *words, char *out, size_t max)
{
	const char *argv[64] = {"printf", "%s\\0"};
	size_t n = 2;
	for (size_t i = 0; words[i]; i++)
		argv[n++] = words[i];
	argv[n] = NULL;
	kt_buf line = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	assert_int_equal(kt_shell_quote(argv, &line, &err), KT_OK);
	int fds[2];
	assert_int_equal(pipe(fds), 0);
	pid_t pid = fork();
	if (pid == 0) {
		(void)dup2(fds[1], 1);
		/* lint: allow shell: the shell is what is tested */
		(void)execl("/bin/sh", "sh", "-c", kt_buf_cstr(&line), (char *)NULL);
		_exit(127);
	}
	(void)close(fds[1]);
	size_t got = 0;
	ssize_t r;
	while ((r = read(fds[0], out + got, max - got)) > 0)
		got += (size_t)r;
	(void)close(fds[0]);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	kt_buf_free(&line);
	return got;
}

static void expect_unchanged(const char *const *words)
{
	static char out[1 << 16];
	size_t n = through_shell(words, out, sizeof out);
	size_t at = 0;
	for (size_t i = 0; words[i]; i++) {
		assert_true(at < n);
		assert_string_equal(out + at, words[i]);
		at += strlen(words[i]) + 1;
	}
	assert_int_equal(at, n);
}

static void nasty_words(void **state)
{
	(void)state;
	const char *const words[] = {"",   "plain", "two words",   "'",      "''",    "it's",        "'quoted'",
				     "\"", "$HOME", "$(id)",       "`id`",   "\\",    "\\'",         "a\\",
				     "*",  "?",     "[a]",         "~",      "~root", "!",           "#not a comment",
				     ";",  "&",     "|",           ">",      "<x",    "{a,b}",       "A=b",
				     "-n", "--",    "line\nbreak", "\t tab", "\r",    "caf\xc3\xa9", "\xff\xfe",
				     "%s", NULL};
	expect_unchanged(words);
}

static void every_byte(void **state)
{
	(void)state;
	char words[255][4];
	const char *list[33];
	for (int first = 1; first < 256; first += 32) {
		size_t n = 0;
		for (int c = first; c < first + 32 && c < 256; c++) {
			(void)snprintf(words[c - 1], 4, "%c%c", c, c);
			list[n] = words[c - 1];
			n++;
		}
		list[n] = NULL;
		expect_unchanged(list);
	}
}

/* A first word like A=b must be run as a command, not taken as an assignment. */
static void first_word(void **state)
{
	(void)state;
	const char *const argv[] = {"A=b", "x", NULL};
	kt_buf line = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	assert_int_equal(kt_shell_quote(argv, &line, &err), KT_OK);
	assert_string_equal(kt_buf_cstr(&line), "'A=b' x");
	kt_buf_free(&line);
}

static void nothing(void **state)
{
	(void)state;
	const char *const argv[] = {NULL};
	kt_buf line = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	assert_int_equal(kt_shell_quote(argv, &line, &err), KT_E_USAGE);
	assert_int_equal(kt_shell_quote(NULL, &line, &err), KT_E_USAGE);
	kt_buf_free(&line);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nasty_words),
		cmocka_unit_test(every_byte),
		cmocka_unit_test(first_word),
		cmocka_unit_test(nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

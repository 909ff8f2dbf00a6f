/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <fcntl.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pkcs11/pin.h"

static const char pin_path[] = "pin-file";
static char source[4200];

static int set_up(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	char cwd[4096];
	if (!getcwd(cwd, sizeof cwd))
		return -1;
	(void)snprintf(source, sizeof source, "file:%s/%s", cwd, pin_path);
	return kt_secret_setup(&err) == KT_OK ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	(void)unlink(pin_path);
	return 0;
}

static void put(const char *text, size_t n, mode_t mode)
{
	(void)unlink(pin_path);
	int fd = open(pin_path, O_WRONLY | O_CREAT | O_EXCL, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, n), n);
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static void is(const char *from, const char *expected)
{
	kt_err err = KT_ERR_INIT;
	kt_secret pin;
	assert_kt_ok(kt_pin_read(from, "PIN: ", &pin, &err));
	assert_string_equal((const char *)pin.data, expected);
	assert_int_equal(pin.len, strlen(expected));
	kt_secret_free(&pin);
}

static void from_a_file_without_its_newline(void **state)
{
	(void)state;
	char slashes[4300];
	put("1234\n", 5, 0400);
	is(source, "1234");
	is(source + 5, "1234"); /* a plain path */
	(void)snprintf(slashes, sizeof slashes, "file://%s", source + 5);
	is(slashes, "1234");
	put("12 34\r\n", 7, 0640);
	is(source, "12 34");
	put("1234\n\n", 6, 0600);
	is(source, "1234\n"); /* one newline, not all */
}

static void a_file_that_others_read_is_refused(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret pin;
	static const mode_t open_modes[] = {0404, 0644, 0602, 0601, 0777};
	for (size_t i = 0; i < sizeof open_modes / sizeof open_modes[0]; i++) {
		put("canary-pin\n", 11, open_modes[i]);
		assert_kt_fails(KT_E_IO, kt_pin_read(source, "", &pin, &err));
		assert_null(strstr(err.msg, "canary"));
		assert_non_null(strstr(err.remedy, "chmod"));
		assert_null(pin.data);
	}
}

static void a_file_of_somebody_else_is_refused(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret pin;
	if (geteuid() != 0) {
		skip(); /* only root can give a file away */
	}
	put("1234\n", 5, 0400);
	assert_int_equal(chown(pin_path, 12345, 12345), 0);
	assert_kt_fails(KT_E_IO, kt_pin_read(source, "", &pin, &err));
	assert_non_null(strstr(err.msg, "12345"));
}

static void no_pin_no_try(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret pin;
	char big[400];
	memset(big, '1', sizeof big);
	(void)unlink(pin_path);
	assert_kt_fails(KT_E_IO, kt_pin_read(source, "", &pin, &err));
	put("", 0, 0400);
	assert_kt_fails(KT_E_HSM, kt_pin_read(source, "", &pin, &err));
	put("\n", 1, 0400);
	assert_kt_fails(KT_E_HSM, kt_pin_read(source, "", &pin, &err));
	put(big, sizeof big, 0400);
	assert_kt_fails(KT_E_INPUT, kt_pin_read(source, "", &pin, &err));
	put(big, 255, 0400);
	assert_kt_ok(kt_pin_read(source, "", &pin, &err));
	kt_secret_free(&pin);
	assert_kt_fails(KT_E_IO, kt_pin_read("/", "", &pin, &err));
	assert_kt_fails(KT_E_INPUT, kt_pin_read("relative", "", &pin, &err));
	assert_kt_fails(KT_E_INPUT, kt_pin_read("http://x/pin", "", &pin, &err));
	assert_kt_fails(KT_E_INPUT, kt_pin_read("file:pin", "", &pin, &err));
	assert_kt_fails(KT_E_INPUT, kt_pin_read("fd:x", "", &pin, &err));
	assert_kt_fails(KT_E_INPUT, kt_pin_read("fd:-1", "", &pin, &err));
	assert_kt_fails(KT_E_INPUT, kt_pin_read("fd:", "", &pin, &err));
	assert_kt_fails(KT_E_INPUT, kt_pin_read("fd:99999999999999999999", "", &pin, &err));
	assert_kt_fails(KT_E_IO, kt_pin_read("fd:987", "", &pin, &err));
}

static void from_a_descriptor_that_is_closed(void **state)
{
	(void)state;
	int p[2];
	char from[32];
	assert_int_equal(pipe(p), 0);
	assert_int_equal(write(p[1], "9876\n", 5), 5);
	close(p[1]);
	(void)snprintf(from, sizeof from, "fd:%d", p[0]);
	is(from, "9876");
	assert_int_equal(fcntl(p[0], F_GETFD), -1);
}

static void from_the_environment_which_loses_it(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret pin;
	assert_int_equal(setenv("KT_TEST_PIN", "env-pin-1", 1), 0);
	const char *was = getenv("KT_TEST_PIN");
	is("env:KT_TEST_PIN", "env-pin-1");
	assert_null(getenv("KT_TEST_PIN"));
	assert_int_equal(was[0], '\0'); /* overwritten, not only unlinked */
	assert_kt_fails(KT_E_HSM, kt_pin_read("env:KT_TEST_PIN", "", &pin, &err));
	assert_kt_fails(KT_E_HSM, kt_pin_read("env:", "", &pin, &err));
}

/* In a child without a terminal: exit code 0 when the answer is the right error. */
static void without_a_terminal(void **state)
{
	(void)state;
	int status;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		kt_err err = KT_ERR_INIT;
		kt_secret pin;
		(void)setsid();
		kt_code rc = kt_pin_read("", "PIN: ", &pin, &err);
		_exit(rc == KT_E_HSM && strstr(err.remedy, "pin-source=") ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* What the terminal shows until the child ends, after `answer` was typed at the prompt. */
static int type_at_prompt(const char *answer, char *shown, size_t size)
{
	int master, status = -1;
	size_t n = 0;
	pid_t pid = forkpty(&master, NULL, NULL, NULL);
	assert_true(pid >= 0);
	if (pid == 0) {
		kt_err err = KT_ERR_INIT;
		kt_secret pin;
		(void)alarm(20); /* a prompt that does not end fails the test instead of holding it up */
		kt_code rc = kt_pin_read("", "PIN of x: ", &pin, &err);
		_exit(rc == KT_E_INTERRUPTED                             ? 3
		      : rc != KT_OK                                      ? 2
		      : strcmp((const char *)pin.data, "typed-pin") == 0 ? 0
									 : 1);
	}
	bool typed = false;
	for (;;) {
		ssize_t got = read(master, shown + n, size - 1 - n);
		if (got <= 0)
			break;
		n += (size_t)got;
		shown[n] = '\0';
		if (!typed && strstr(shown, "PIN of x: ")) {
			typed = true;
			assert_int_equal(write(master, answer, strlen(answer)), strlen(answer));
		}
	}
	shown[n] = '\0';
	close(master);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void asks_at_a_terminal_without_echo(void **state)
{
	(void)state;
	char shown[512] = "";
	assert_int_equal(type_at_prompt("typed-pin\n", shown, sizeof shown), 0);
	assert_non_null(strstr(shown, "PIN of x: "));
	assert_null(strstr(shown, "typed"));
	assert_int_equal(type_at_prompt("\n", shown, sizeof shown), 2);
	assert_int_equal(type_at_prompt("\x04", shown, sizeof shown), 2);      /* end of input */
	assert_int_equal(type_at_prompt("typed\x03", shown, sizeof shown), 3); /* Ctrl-C, without a newline */
	assert_null(strstr(shown, "typed"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(from_a_file_without_its_newline),
		cmocka_unit_test(a_file_that_others_read_is_refused),
		cmocka_unit_test(a_file_of_somebody_else_is_refused),
		cmocka_unit_test(no_pin_no_try),
		cmocka_unit_test(from_a_descriptor_that_is_closed),
		cmocka_unit_test(from_the_environment_which_loses_it),
		cmocka_unit_test(without_a_terminal),
		cmocka_unit_test(asks_at_a_terminal_without_echo),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}

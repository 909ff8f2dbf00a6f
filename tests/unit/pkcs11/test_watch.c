/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "pkcs11/watch.h"

enum { HUNG = 77, IN_TIME = 78, LIMIT_MS = 300 };

static void sleep_ms(long ms)
{
	(void)nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void what_is_under_way_is_seen_and_for_how_long(void **state)
{
	(void)state;
	static kt_watch_table table;
	kt_watch_seen seen = {0};
	kt_watch_call call;
	kt_watch_use(&table);
	assert_false(kt_watch_look(&table, &seen, &call));
	kt_watch_begin("C_WrapKey");
	assert_true(kt_watch_look(&table, &seen, &call));
	assert_string_equal(call.name, "C_WrapKey");
	sleep_ms(50);
	assert_true(kt_watch_look(&table, &seen, &call));
	assert_in_range(call.ms, 40, 5000);
	assert_true(kt_watch_has(&table, "C_WrapKey"));
	assert_false(kt_watch_has(&table, "C_Login"));
	kt_watch_end();
	kt_watch_begin("C_WrapKey"); /* another call, from its own beginning */
	assert_true(kt_watch_look(&table, &seen, &call));
	assert_in_range(call.ms, 0, 30);
	kt_watch_end();
	assert_false(kt_watch_look(&table, &seen, &call));
	kt_watch_end(); /* harmless */
}

static void hung(const kt_err *err)
{
	_exit(strstr(err->msg, "C_Sign was under way for 0.") && err->code == KT_E_HSM ? HUNG : 1);
}

/* A process that watches itself and is in a call for so long; how it ended. */
static int watched(long ms)
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		static kt_watch_table table;
		kt_watch_use(&table);
		if (kt_watch_start(LIMIT_MS, hung, NULL) != KT_OK)
			_exit(2);
		for (long left = ms; left > 0; left -= LIMIT_MS / 3) {
			kt_watch_begin("C_Sign");
			sleep_ms(ms > 1000 && left == ms ? ms : LIMIT_MS / 3);
			kt_watch_end();
		}
		_exit(IN_TIME);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void a_process_ends_itself_when_a_call_hangs(void **state)
{
	(void)state;
	assert_int_equal(watched(10000), HUNG);
	assert_int_equal(watched(900), IN_TIME); /* many short calls are no long one */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_under_way_is_seen_and_for_how_long),
		cmocka_unit_test(a_process_ends_itself_when_a_call_hangs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

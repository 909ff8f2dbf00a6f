/* SPDX-License-Identifier: Apache-2.0 */
/* base/spawn.h: how commands end, what they see of us, and what becomes of what they leave behind. */
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "base/clock.h"
#include "base/spawn.h"
#include "tests/unit/agent/scratch.h"

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define SH(text) ARGV("/bin/sh", "-c", text)

static kt_spawn_end run(const kt_spawn_what *what, kt_buf *out, kt_buf *errors)
{
	kt_err err = KT_ERR_INIT;
	kt_spawn_end end;
	assert_kt_ok(kt_spawn_capture(what, out, errors, &end, &err));
	return end;
}

static void endings(void **state)
{
	(void)state;
	kt_buf out = KT_BUF_INIT;
	kt_buf errors = KT_BUF_INIT;
	kt_spawn_end end = run(&(kt_spawn_what){.argv = SH("echo out; echo err >&2; exit 5")}, &out, &errors);
	assert_int_equal(end.exit, 5);
	assert_int_equal(end.signal, 0);
	assert_string_equal(kt_buf_cstr(&out), "out\n");
	assert_string_equal(kt_buf_cstr(&errors), "err\n");
	end = run(&(kt_spawn_what){.argv = SH("kill -KILL $$")}, NULL, NULL);
	assert_int_equal(end.exit, -1);
	assert_int_equal(end.signal, SIGKILL);
	end = run(&(kt_spawn_what){.argv = ARGV("true")}, NULL, NULL);
	assert_int_equal(end.exit, 0);
	kt_buf_free(&out);
	kt_buf_free(&errors);
}

static void what_cannot_be_started(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_spawn_end end;
	put_text("data", "no program", 0644);
	assert_kt_fails(KT_E_IO, kt_spawn_capture(&(kt_spawn_what){.argv = ARGV("/none")}, NULL, NULL, &end, &err));
	assert_kt_fails(KT_E_IO, kt_spawn_capture(&(kt_spawn_what){.argv = ARGV("no-such-x")}, NULL, NULL, &end, &err));
	assert_kt_fails(KT_E_IO, kt_spawn_capture(&(kt_spawn_what){.argv = ARGV(at("data"))}, NULL, NULL, &end, &err));
	assert_kt_fails(KT_E_IO, kt_spawn_capture(&(kt_spawn_what){.argv = ARGV("true"), .cwd = at("none")}, NULL, NULL,
						  &end, &err));
	assert_non_null(strstr(err.msg, "none"));
	assert_kt_fails(KT_E_INPUT, kt_spawn_capture(&(kt_spawn_what){.argv = ARGV("")}, NULL, NULL, &end, &err));
	/* PATH is that of the environment that is given; relative folders in it are not looked into. */
	put_text("prog", "#!/bin/sh\n", 0755);
	assert_int_equal(chdir(scratch_folder), 0);
	assert_kt_fails(KT_E_IO, kt_spawn_capture(&(kt_spawn_what){.argv = ARGV("prog"), .env = ARGV("PATH=.::/none")},
						  NULL, NULL, &end, &err));
	assert_int_equal(chdir(".."), 0);
}

static void another_user_needs_root(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_user nobody;
	kt_spawn_end end;
	assert_kt_fails(KT_E_REFUSED, kt_user_find("no-such-user", &nobody, &err));
	assert_kt_ok(kt_user_find(geteuid() == 0 ? "nobody" : "root", &nobody, &err));
	if (geteuid() != 0) {
		assert_kt_fails(KT_E_REFUSED, kt_spawn_capture(&(kt_spawn_what){.argv = ARGV("true"), .user = &nobody},
							       NULL, NULL, &end, &err));
		kt_user_free(&nobody);
		return;
	}
	kt_buf out = KT_BUF_INIT;
	end = run(&(kt_spawn_what){.argv = SH("id -u; id -g; id -G"), .user = &nobody}, &out, NULL);
	assert_int_equal(end.exit, 0);
	assert_string_equal(kt_buf_cstr(&out), "65534\n65534\n65534\n");
	kt_buf_free(&out);
	/* A child of ours that is not root is refused, and nothing is executed. */
	pid_t pid = fork();
	if (pid == 0) {
		if (setgid(65534) != 0 || setuid(65534) != 0)
			_exit(9);
		kt_user root;
		kt_code rc = kt_user_find("root", &root, &err);
		if (rc == KT_OK)
			rc = kt_spawn_capture(&(kt_spawn_what){.argv = ARGV("true"), .user = &root}, NULL, NULL, &end,
					      &err);
		_exit(rc == KT_E_REFUSED ? 0 : 1);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	kt_user_free(&nobody);
}

/* No descriptor but three, its own session, no environment but the one given. */
static void what_the_child_sees(void **state)
{
	(void)state;
	kt_buf out = KT_BUF_INIT;
	int leak = open("/dev/null", O_RDONLY); /* without O_CLOEXEC, as a library might */
	kt_spawn_end end = run(
		&(kt_spawn_what){.argv = SH("for i in 3 4 5 6 7 8 9; do [ ! -e /proc/$$/fd/$i ] || echo leak $i; done; "
					    "readlink /proc/$$/fd/0; echo $A $HOME; "
					    "read -r p c s pp g sid rest </proc/$$/stat; echo $((sid - p)) $((g - p))"),
				 .env = ARGV("PATH=/usr/bin:/bin", "A=1")},
		&out, NULL);
	assert_int_equal(end.exit, 0);
	assert_string_equal(kt_buf_cstr(&out), "/dev/null\n1\n0 0\n");
	(void)close(leak);
	kt_buf_free(&out);
}

static void signals_are_as_by_default(void **state)
{
	(void)state;
	kt_buf out = KT_BUF_INIT;
	sigset_t set;
	(void)signal(SIGPIPE, SIG_IGN);
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	assert_int_equal(sigprocmask(SIG_BLOCK, &set, NULL), 0);
	kt_spawn_end end =
		run(&(kt_spawn_what){.argv = ARGV("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")}, &out, NULL);
	assert_int_equal(sigprocmask(SIG_UNBLOCK, &set, NULL), 0);
	assert_int_equal(end.exit, 0);
	assert_string_equal(kt_buf_cstr(&out), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
	kt_buf_free(&out);
}

static void a_timeout_ends_the_group(void **state)
{
	(void)state;
	char text[PATH_MAX + 100];
	(void)snprintf(text, sizeof text, "sleep 60 & echo $! >%s; wait", at("pid"));
	int64_t begin = kt_clock_mono_ms();
	kt_spawn_end end = run(&(kt_spawn_what){.argv = SH(text), .timeout_ms = 500}, NULL, NULL);
	assert_true(end.timed_out);
	assert_int_equal(end.signal, SIGTERM);
	assert_in_range(kt_clock_mono_ms() - begin, 500, 30000);
	kt_err err = KT_ERR_INIT;
	kt_buf pid = KT_BUF_INIT;
	assert_kt_ok(kt_file_read(at("pid"), &pid, &err));
	for (int i = 0; i < 200 && kill((pid_t)atol(kt_buf_cstr(&pid)), 0) == 0; i++)
		(void)nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	assert_int_equal(kill((pid_t)atol(kt_buf_cstr(&pid)), 0), -1);
	kt_buf_free(&pid);
}

/* One that does not mind SIGTERM does not outlive its leader. */
static void stubborn_stragglers_end_too(void **state)
{
	(void)state;
	kt_buf out = KT_BUF_INIT;
	kt_spawn_end end =
		run(&(kt_spawn_what){.argv = SH("(trap '' TERM; sleep 60) & echo $!; wait"), .timeout_ms = 500}, &out,
		    NULL);
	assert_true(end.timed_out);
	pid_t straggler = (pid_t)atol(kt_buf_cstr(&out));
	assert_true(straggler > 1);
	for (int i = 0; i < 200 && kill(straggler, 0) == 0; i++)
		(void)nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	assert_int_equal(kill(straggler, 0), -1);
	kt_buf_free(&out);
}

static bool at_once(void *arg)
{
	(void)arg;
	return true;
}

static void stop_ends_it(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_spawn_end end;
	kt_spawn_hooks hooks = {.stop = at_once};
	assert_kt_ok(kt_spawn(&(kt_spawn_what){.argv = ARGV("sleep", "60")}, &hooks, NULL, &end, &err));
	assert_true(end.stopped);
	assert_false(end.timed_out);
	assert_int_equal(end.signal, SIGTERM);
}

static kt_code refuse_start(void *arg, pid_t pid, kt_err *err)
{
	*(pid_t *)arg = pid;
	return kt_fail(err, KT_E_AUDIT, NULL, "not recorded");
}

/* What `started` refuses is never executed. */
static void started_may_refuse(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_spawn_end end;
	pid_t pid = 0;
	kt_spawn_hooks hooks = {.started = refuse_start, .arg = &pid};
	assert_kt_fails(KT_E_AUDIT,
			kt_spawn(&(kt_spawn_what){.argv = ARGV("touch", at("executed"))}, &hooks, NULL, &end, &err));
	assert_true(pid > 0);
	assert_int_equal(kill(pid, 0), -1);
	assert_false(is_there("executed"));
}

static kt_code refuse_output(void *arg, int stream, const uint8_t *bytes, size_t n, kt_err *err)
{
	(void)stream, (void)bytes, (void)n;
	++*(int *)arg;
	return kt_fail(err, KT_E_INTERNAL, NULL, "no room");
}

/* It still runs to its end: a command is not killed because its output can't be kept. */
static void an_output_hook_that_fails(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_spawn_end end;
	int calls = 0;
	char text[PATH_MAX + 100];
	(void)snprintf(text, sizeof text, "yes | head -c 1000000; touch %s", at("end"));
	kt_spawn_hooks hooks = {.output = refuse_output, .arg = &calls};
	assert_kt_fails(KT_E_INTERNAL, kt_spawn(&(kt_spawn_what){.argv = SH(text)}, &hooks, NULL, &end, &err));
	assert_int_equal(calls, 1);
	assert_int_equal(end.exit, 0);
	assert_true(is_there("end"));
}

static void background_processes_do_not_hold_us(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_spawn_end end;
	int64_t begin = kt_clock_mono_ms();
	kt_buf out = KT_BUF_INIT;
	end = run(&(kt_spawn_what){.argv = SH("sleep 40 & echo done")}, &out, NULL);
	assert_int_equal(end.exit, 0);
	assert_string_equal(kt_buf_cstr(&out), "done\n");
	assert_in_range(kt_clock_mono_ms() - begin, 0, 30000);
	kt_buf_free(&out);
	/* Or their output is handed over. */
	int leftover[2];
	kt_spawn_hooks none = {0};
	assert_kt_ok(kt_spawn(&(kt_spawn_what){.argv = SH("(sleep 2; echo late) & exec 2>&-")}, &none, leftover, &end,
			      &err));
	assert_true(leftover[0] >= 0);
	char late[16] = "";
	assert_int_equal(read(leftover[0], late, sizeof late - 1), 5);
	assert_string_equal(late, "late\n");
	(void)close(leftover[0]);
	if (leftover[1] >= 0)
		(void)close(leftover[1]);
	/* Nothing is left over by a command that left nothing behind. */
	assert_kt_ok(kt_spawn(&(kt_spawn_what){.argv = ARGV("true")}, &none, leftover, &end, &err));
	assert_int_equal(leftover[0], -1);
	assert_int_equal(leftover[1], -1);
}

static void output_is_bounded(void **state)
{
	(void)state;
	kt_buf out = {.max = 1000};
	kt_spawn_end end = run(&(kt_spawn_what){.argv = SH("yes | head -c 5000000")}, &out, NULL);
	assert_int_equal(end.exit, 0);
	assert_int_equal(out.len, 1000);
	kt_buf_free(&out);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, scratch_make, scratch_drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(endings),
		TEST(what_cannot_be_started),
		TEST(another_user_needs_root),
		TEST(what_the_child_sees),
		TEST(signals_are_as_by_default),
		TEST(a_timeout_ends_the_group),
		TEST(stubborn_stragglers_end_too),
		TEST(stop_ends_it),
		TEST(started_may_refuse),
		TEST(an_output_hook_that_fails),
		TEST(background_processes_do_not_hold_us),
		TEST(output_is_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

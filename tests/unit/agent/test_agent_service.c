/* SPDX-License-Identifier: Apache-2.0 */
/* Services: by commands of their own, and as systemd units by way of a systemctl that this test puts into PATH. */
#include "tests/unit/agent/keys.h"

/* A daemon that says something ten times a second, and dies of SIGPIPE if nobody listens any more. */
static const char ctl[] =
	"#!/bin/sh\n"
	"cd \"$(dirname \"$0\")\" || exit 9\n"
	"alive() { [ -e pid ] && kill -0 \"$(cat pid)\" 2>/dev/null; }\n"
	"case $1 in\n"
	"start) echo starting; [ -e broken ] && { echo it is broken >&2; exit 4; }\n"
	"  [ -e stillborn ] && exit 0\n"
	"  (trap 'exit 0' TERM; n=0; while :; do echo alive $n; n=$((n+1));  sleep 0.1; done) & echo $! >pid ;;\n"
	"stop) [ -e stubborn ] && exit 0; alive && kill \"$(cat pid)\"; rm -f pid; [ ! -e noisy ] || exit 5 ;;\n"
	"status) [ -e odd ] && exit 77; alive || exit 3; [ ! -e dies ] || kill -9 \"$(cat pid)\" ;;\n"
	"esac\n";

static const char *service_args(const char *more)
{
	return J("{'service':{'start':['./ctl','start'],'stop':['./ctl','stop'],'status':['./"
		 "ctl','status'],'cwd':'%s'}%s}",
		 scratch_folder, more);
}

static void put_mark(const char *name)
{
	put_text(name, "", 0600);
}

static pid_t daemon_pid(void)
{
	return (pid_t)atol(text_of("pid"));
}

static void end_daemon(void)
{
	pid_t pid = daemon_pid();
	if (pid > 0)
		(void)kill(pid, SIGKILL);
}

static void assert_state(client *c, const char *want)
{
	reply r = ask_ok(c, "service.status", service_args(""));
	assert_string_equal(result_str(&r, "state"), want);
	assert_int_equal(result_int(&r, "pid"), 0);
	reply_free(&r);
}

static void a_service_goes_up_and_down(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_text("ctl", ctl, 0755);
	assert_state(&c, "inactive");
	c.step = "start";
	reply r = ask_ok(&c, "service.start", service_args(",'timeout_s':20"));
	assert_string_equal(result_str(&r, "state"), "active");
	reply_free(&r);
	assert_state(&c, "active");
	/* The agent goes; the daemon keeps talking and must not die of it. */
	client_end(&c);
	pause_ms(1500);
	assert_int_equal(kill(daemon_pid(), 0), 0);
	client_start(&c);
	assert_state(&c, "active");
	c.step = "start";
	c.attempt = 2;
	ask_done(&c, "service.start", service_args("")); /* it runs already */
	c.step = "stop";
	r = ask_ok(&c, "service.stop", service_args(",'timeout_s':20"));
	assert_true(result_bool(&r, "was_active"));
	assert_string_equal(result_str(&r, "state"), "inactive");
	reply_free(&r);
	assert_state(&c, "inactive");
	client_end(&c);
}

static void whether_it_was_active_is_not_forgotten(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_text("ctl", ctl, 0755);
	c.step = "start";
	ask_done(&c, "service.start", service_args(""));
	c.step = "stop";
	ask_done(&c, "service.stop", service_args(""));
	/* The agent died before it could record: stopped again, it was active all the same. */
	assert_int_equal(unlink(at("state/spool/R1/stop.do.1/outcome.json")), 0);
	reply r = ask_ok(&c, "service.stop", service_args(""));
	assert_true(result_bool(&r, "was_active"));
	reply_free(&r);
	/* So also for the next attempt of the same step, but not for another step. */
	c.attempt = 3;
	r = ask_ok(&c, "service.stop", service_args(""));
	assert_true(result_bool(&r, "was_active"));
	reply_free(&r);
	c.step = "stop2";
	r = ask_ok(&c, "service.stop", service_args(""));
	assert_false(result_bool(&r, "was_active"));
	reply_free(&r);
	client_end(&c);
}

static void starts_that_fail(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_text("ctl", ctl, 0755);
	c.step = "start";
	put_mark("broken");
	ask_bad(&c, "service.start", service_args(""), KT_STATUS_FAILED, KT_E_IO,
		"has a start command that exited with 4; its last lines: starting; it is broken");
	(void)unlink(at("broken"));
	put_mark("stillborn");
	c.attempt++;
	ask_bad(&c, "service.start", service_args(",'timeout_s':1"), KT_STATUS_FAILED, KT_E_IO, "not active in time");
	(void)unlink(at("stillborn"));
	put_mark("dies");
	c.attempt++;
	ask_bad(&c, "service.start", service_args(""), KT_STATUS_FAILED, KT_E_IO, "no longer active 2 s later");
	c.attempt++;
	ask_bad(&c, "service.start", J("{'service':{'start':['/none'],'stop':['true'],'status':['sh','-c','exit 3']}}"),
		KT_STATUS_FAILED, KT_E_IO, "/none");
	c.attempt++;
	ask_bad(&c, "service.start",
		J("{'service':{'start':['sleep','50'],'stop':['true'],'status':['sh','-c','exit 3']},'timeout_s':1}"),
		KT_STATUS_FAILED, KT_E_IO, "had not ended after 1 s");
	c.attempt++;
	ask_bad(&c, "service.start", service_args(",'timeout_s':0"), KT_STATUS_FAILED, KT_E_INPUT, "timeout_s");
	client_end(&c);
}

static void a_start_that_is_not_wanted(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_text("ctl", ctl, 0755);
	reply r = ask_ok(&c, "service.start", service_args(",'if':false"));
	assert_string_equal(result_str(&r, "state"), "inactive");
	reply_free(&r);
	assert_false(is_there("pid"));
	c.attempt = 2;
	ask_done(&c, "service.start", service_args(",'if':true"));
	assert_true(is_there("pid"));
	end_daemon();
	client_end(&c);
}

static void stops_that_fail(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_text("ctl", ctl, 0755);
	c.step = "start";
	ask_done(&c, "service.start", service_args(""));
	c.step = "stop";
	put_mark("stubborn");
	ask_bad(&c, "service.stop", service_args(",'timeout_s':1"), KT_STATUS_FAILED, KT_E_IO,
		"still active after 1 s");
	assert_int_equal(kill(daemon_pid(), 0), 0);
	(void)unlink(at("stubborn"));
	/* What its stop command says does not matter when it is down. */
	put_mark("noisy");
	c.attempt = 2;
	reply r = ask_ok(&c, "service.stop", service_args(""));
	assert_true(result_bool(&r, "was_active"));
	reply_free(&r);
	/* When its state can't be told, it does not count as stopped. */
	put_mark("odd");
	assert_state(&c, "unknown");
	c.attempt = 3;
	ask_bad(&c, "service.stop", service_args(",'timeout_s':1"), KT_STATUS_FAILED, KT_E_IO, "exited with 5");
	(void)unlink(at("noisy"));
	c.attempt = 4;
	ask_bad(&c, "service.stop", service_args(",'timeout_s':1"), KT_STATUS_FAILED, KT_E_IO, "still unknown");
	ask_bad(&c, "service.status", J("{'service':{'start':['x'],'stop':['x'],'status':['/none']}}"),
		KT_STATUS_FAILED, KT_E_IO, "cannot be asked");
	client_end(&c);
}

static void malformed_services(void **state)
{
	(void)state;
	static const char *const bad[] = {
		"{}",
		"{'service':'x'}",
		"{'service':{}}",
		"{'service':{'unit':7}}",
		"{'service':{'unit':''}}",
		"{'service':{'unit':'--now'}}",
		"{'service':{'unit':'a b'}}",
		"{'service':{'unit':'a/b'}}",
		"{'service':{'unit':'x','start':['x']}}",
		"{'service':{'start':['x']}}",
		"{'service':{'start':['x'],'stop':[],'status':['x']}}",
		"{'service':{'start':'x','stop':['x'],'status':['x']}}",
		"{'service':{'start':['x'],'stop':['x'],'status':[1]}}",
	};
	client c;
	client_start(&c);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		ask_bad(&c, "service.status", J("%s", bad[i]), KT_STATUS_FAILED, KT_E_INPUT, "");
	client_end(&c);
}

/* What a start command prints of its own key is not told. */
static void a_failing_start_does_not_tell_its_key(void **state)
{
	(void)state;
	client c;
	char env[PATH_MAX + 100];
	client_start(&c);
	(void)snprintf(env, sizeof env, "K=%s\n", base64_of(canary));
	put_text("env", env, 0600);
	const char *args = J("{'service':{'start':['sh','-c','echo my key is $K; exit 1'],'stop':['true'],"
			     "'status':['sh','-c','exit 3'],'env_file':'%s'}}",
			     at("env"));
	reply r = ask(&c, "service.start", args);
	assert_int_equal(r.status, KT_STATUS_FAILED);
	assert_non_null(strstr(r.error.msg, "my key is [redacted]"));
	assert_false(has_canary(r.error.msg, strlen(r.error.msg)));
	reply_free(&r);
	(void)assert_folder_clean(state_dir());
	client_end(&c);
}

/* --- Units ----------------------------------------------------------------------------------------------------------
 */

/* State in files: `active` holds ActiveState, `mainpid` MainPID; every call is written to `calls`. */
static const char systemctl[] =
	"#!/bin/sh\n"
	"cd \"$(dirname \"$0\")\" || exit 9\n"
	"echo \"$@\" >>calls\n"
	"[ -e mute ] && { echo Failed to connect to bus >&2; exit 1; }\n"
	"case $1 in\n"
	"show) echo \"UnitPath=/run/x/system $(pwd)/system.control $(pwd)/system /usr/lib/systemd/system\"\n"
	"  echo Id=x.service\n"
	"  [ -e nounit ] && { echo LoadState=not-found; echo ActiveState=inactive; echo MainPID=0; exit 0; }\n"
	"  echo LoadState=loaded; echo ActiveState=$(cat active); echo MainPID=$(cat mainpid);\n"
	"  [ -e crashes ] && [ $(cat active) = active ] && echo $(($(cat mainpid)+1)) >mainpid\n"
	"  echo \"EnvironmentFiles=$(pwd)/env (ignore_errors=no)\" ;;\n"
	"stop) [ -e stubborn ] || echo inactive >active ;;\n"
	"start) [ -e refuses ] && { echo failed >active; echo \"Job for x.service failed.\" >&2; echo \"See more.\" "
	">&2; exit 1; }; echo "
	"active >active;"
	" echo 4711 >mainpid ;;\n"
	"esac\n"
	"exit 0\n";

static const char journalctl[] =
	"#!/bin/sh\ncd \"$(dirname \"$0\")\"; echo one; echo \"two K=$(cut -c3- env)\"; echo three\n";

static void put_systemd(const char *active)
{
	char path[2 * PATH_MAX];
	char env[100];
	put_text("systemctl", systemctl, 0755);
	put_text("journalctl", journalctl, 0755);
	put_text("active", active, 0600);
	put_text("mainpid", "4711\n", 0600);
	(void)snprintf(env, sizeof env, "K=%s\n", base64_of(canary));
	put_text("env", env, 0600);
	(void)snprintf(path, sizeof path, "%s:/usr/bin:/bin", scratch_folder);
	(void)setenv("PATH", path, 1);
}

static void unit_states(void **state)
{
	(void)state;
	static const char *const states[][2] = {
		{"active", "active"},      {"reloading", "active"},     {"inactive", "inactive"}, {"failed", "failed"},
		{"activating", "unknown"}, {"deactivating", "unknown"}, {"rubbish", "unknown"},   {"", "unknown"}};
	client c;
	put_systemd("active");
	client_start(&c);
	for (size_t i = 0; i < sizeof states / sizeof states[0]; i++) {
		put_text("active", states[i][0], 0600);
		reply r = ask_ok(&c, "service.status", J("{'service':{'unit':'x.service'}}"));
		assert_string_equal(result_str(&r, "state"), states[i][1]);
		assert_int_equal(result_int(&r, "pid"), 4711);
		reply_free(&r);
	}
	put_mark("nounit");
	ask_bad(&c, "service.status", J("{'service':{'unit':'x.service'}}"), KT_STATUS_FAILED, KT_E_REFUSED,
		"not-found");
	put_mark("mute");
	ask_bad(&c, "service.status", J("{'service':{'unit':'x.service'}}"), KT_STATUS_FAILED, KT_E_IO,
		"Failed to connect to bus");
	client_end(&c);
}

static void units_stop_and_start(void **state)
{
	(void)state;
	client c;
	put_systemd("active");
	client_start(&c);
	const char *args = J("{'service':{'unit':'x.service'},'timeout_s':5}");
	c.step = "stop";
	reply r = ask_ok(&c, "service.stop", args);
	assert_true(result_bool(&r, "was_active"));
	assert_string_equal(result_str(&r, "state"), "inactive");
	reply_free(&r);
	assert_non_null(strstr(text_of("calls"), "daemon-reload\n"));
	assert_true(strstr(text_of("calls"), "daemon-reload\n") <
		    strstr(text_of("calls"), "stop --no-block -- x.service\n"));
	c.step = "start";
	ask_done(&c, "service.start", args);
	assert_non_null(strstr(text_of("calls"), "start --no-ask-password -- x.service\n"));
	put_mark("stubborn");
	c.step = "stop";
	c.attempt = 2;
	ask_bad(&c, "service.stop", J("{'service':{'unit':'x.service'},'timeout_s':1}"), KT_STATUS_FAILED, KT_E_IO,
		"x.service is still active after 1 s");
	/* A failed unit is down already. */
	put_text("active", "failed", 0600);
	c.attempt = 3;
	r = ask_ok(&c, "service.stop", args);
	assert_string_equal(result_str(&r, "state"), "failed");
	assert_true(result_bool(&r, "was_active")); /* at the first attempt of this step */
	reply_free(&r);
	client_end(&c);
}

#define DROPIN "system/x.service.d/keyturn-looker.conf"

/* The text of the drop-in that keeps x.service down, "" when there is none; it must name a flag that is there. */
static const char *guard_text(void)
{
	char line[2 * PATH_MAX];
	char flag[PATH_MAX];
	(void)snprintf(flag, sizeof flag, "%s/clusters/looker/stopped/x.service", state_dir());
	if (access(at(DROPIN), F_OK) != 0) {
		assert_int_not_equal(access(flag, F_OK), 0);
		return "";
	}
	assert_int_equal(access(flag, F_OK), 0);
	(void)snprintf(line, sizeof line, "\n[Unit]\nAssertPathExists=!%s\n", flag);
	assert_non_null(strstr(text_of(DROPIN), line));
	return text_of(DROPIN);
}

static void a_stopped_unit_is_kept_down(void **state)
{
	(void)state;
	client c;
	const char *args = J("{'service':{'unit':'x.service'},'timeout_s':5}");
	put_systemd("inactive"); /* down already: a boot would start it all the same */
	client_start(&c);
	c.step = "stop";
	ask_done(&c, "service.stop", args);
	assert_non_null(strstr(guard_text(), "Run R1 of cluster looker has stopped this unit"));
	assert_non_null(strstr(guard_text(), "keyturn resume"));
	c.step = "start";
	ask_done(&c, "service.start", J("{'service':{'unit':'x.service'},'if':false}"));
	assert_string_equal(guard_text(), "");
	assert_int_not_equal(access(at("system/x.service.d"), F_OK), 0);
	c.step = "stop";
	c.attempt = 2;
	ask_done(&c, "service.stop", args);
	put_text("system/x.service.d/other.conf", "", 0644);
	c.step = "start";
	ask_done(&c, "service.start", args);
	assert_string_equal(guard_text(), "");
	assert_int_equal(access(at("system/x.service.d/other.conf"), F_OK), 0);
	client_end(&c);
}

static void a_unit_that_cannot_be_kept_down_is_not_stopped(void **state)
{
	(void)state;
	client c;
	put_systemd("active");
	put_text("system", "a file where the folder should be", 0644);
	client_start(&c);
	ask_bad(&c, "service.stop", J("{'service':{'unit':'x.service'},'timeout_s':5}"), KT_STATUS_FAILED, KT_E_IO,
		"x.service cannot be kept from being started at a boot");
	assert_null(strstr(text_of("calls"), "stop --no-block"));
	client_end(&c);
}

static void units_that_do_not_come_up(void **state)
{
	(void)state;
	client c;
	put_systemd("inactive");
	client_start(&c);
	const char *args = J("{'service':{'unit':'x.service'},'timeout_s':5}");
	put_mark("refuses");
	reply r = ask(&c, "service.start", args);
	assert_int_equal(r.status, KT_STATUS_FAILED);
	assert_non_null(strstr(r.error.msg, "x.service did not start: Job for x.service failed."));
	assert_non_null(strstr(r.error.msg, "one|two K=[redacted]"));
	assert_false(has_canary(r.error.msg, strlen(r.error.msg)));
	assert_string_equal(result_str(&r, "state"), "inactive");
	reply_free(&r);
	(void)unlink(at("refuses"));
	put_mark("crashes"); /* and is started again by systemd, with another process */
	c.attempt = 2;
	ask_bad(&c, "service.start", args, KT_STATUS_FAILED, KT_E_IO, "another one 2 s later");
	client_end(&c);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, scratch_make, scratch_drop)

int main(void)
{
	kt_err err = KT_ERR_INIT;
	if (kt_secret_setup(&err) != KT_OK)
		return 1;
	const struct CMUnitTest tests[] = {
		TEST(a_service_goes_up_and_down),
		TEST(whether_it_was_active_is_not_forgotten),
		TEST(starts_that_fail),
		TEST(a_start_that_is_not_wanted),
		TEST(stops_that_fail),
		TEST(malformed_services),
		TEST(a_failing_start_does_not_tell_its_key),
		TEST(unit_states),
		TEST(units_stop_and_start),
		TEST(a_stopped_unit_is_kept_down),
		TEST(a_unit_that_cannot_be_kept_down_is_not_stopped),
		TEST(units_that_do_not_come_up),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

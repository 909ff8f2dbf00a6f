/* SPDX-License-Identifier: Apache-2.0 */
/* exec: done once, whatever is killed, and told truthfully. */
#include <sys/mount.h>

#include "agent/process.h"
#include "agent/spool.h"
#include "tests/unit/agent/keys.h"

#define SPOOL "state/spool/R1/rekey.do.1"

static void start_rekey(client *c)
{
	client_start(c);
	c->step = "rekey";
}

/* exec of a shell script; ' may not stand in it. */
static const char *script(const char *text, const char *more)
{
	return J("{'command':{'argv':['/bin/sh','-c','%s'],'cwd':'%s','timeout_s':60%s}}", text, scratch_folder, more);
}

static size_t lines_of(const char *name)
{
	size_t n = 0;
	for (const char *p = text_of(name); *p; p++)
		n += *p == '\n';
	return n;
}

/* The process recorded in the spool as `which`; 0 when there is none yet. */
static pid_t pid_in(const char *which)
{
	const char *p = strstr(text_of(which), "\"pid\":");
	return p ? (pid_t)atol(p + 6) : 0;
}

static void it_runs_and_is_answered_once(void **state)
{
	(void)state;
	client c;
	start_rekey(&c);
	const char *args = script("echo out; echo err >&2; echo ran >>count; pwd", "");
	for (int i = 0; i < 3; i++) {
		reply r = ask_ok(&c, "exec", args);
		assert_int_equal(result_int(&r, "exit"), 0);
		assert_int_equal(result_int(&r, "signal"), 0);
		assert_non_null(strstr(result_str(&r, "tail"), "out\n"));
		assert_non_null(strstr(result_str(&r, "tail"), "err\n"));
		assert_non_null(strstr(result_str(&r, "tail"), scratch_folder));
		assert_string_equal(result_str(&r, "log"), at(SPOOL "/output"));
		reply_free(&r);
	}
	assert_int_equal(lines_of("count"), 1);
	assert_int_equal(mode_of(SPOOL "/output"), 0600);
	assert_int_equal(mode_of(SPOOL), 0700);
	client_end(&c);
	/* Another agent process answers the same. */
	start_rekey(&c);
	ask_done(&c, "exec", args);
	assert_int_equal(lines_of("count"), 1);
	/* Another attempt is another execution. */
	c.attempt = 2;
	ask_done(&c, "exec", args);
	assert_int_equal(lines_of("count"), 2);
	client_end(&c);
}

static void the_environment_is_composed(void **state)
{
	(void)state;
	client c;
	(void)setenv("STRAY", "of the agent", 1);
	start_rekey(&c);
	put_text("env", "A=file\nB=\"file b\"\nC=file\n", 0600);
	reply r = ask_ok(&c, "exec",
			 J("{'command':{'argv':['/usr/bin/env'],'env_file':'%s','env':{'B':'env','C':null,'D':'d d'}}}",
			   at("env")));
	const char *tail = result_str(&r, "tail");
	assert_non_null(strstr(tail, "A=file\n"));
	assert_non_null(strstr(tail, "B=env\n"));
	assert_null(strstr(tail, "C="));
	assert_non_null(strstr(tail, "D=d d\n"));
	assert_null(strstr(tail, "STRAY"));
	assert_non_null(strstr(tail, "PATH=/usr/local/sbin:"));
	assert_non_null(strstr(tail, "HOME=/"));
	assert_non_null(strstr(tail, "LANG="));
	reply_free(&r);
	(void)unsetenv("STRAY");
	client_end(&c);
}

static void exec_bad(client *c, const char *args, kt_code code, const char *part)
{
	ask_bad(c, "exec", args, KT_STATUS_FAILED, code, part);
	ask_bad(c, "exec", args, KT_STATUS_FAILED, code, part); /* as recorded */
	c->attempt++;
}

/* Does the node say that the command never was and never will be executed? */
static void assert_never(client *c, const char *args, bool never)
{
	reply r = ask(c, "exec", args);
	assert_int_equal(r.status, KT_STATUS_FAILED);
	assert_int_equal(cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(r.result, "started")), never);
	reply_free(&r);
}

static void what_never_started_is_told_from_what_failed(void **state)
{
	(void)state;
	client c;
	start_rekey(&c);
	assert_never(&c, script("echo ran >>count; exit 3", ""), false);
	c.attempt++;
	assert_never(&c, script("echo ran >>count; kill -9 $$", ""), false);
	c.attempt++;
	assert_never(&c, J("{'command':{'argv':['true'],'user':'no-such-user'}}"), true);
	c.attempt++;
	assert_never(&c, "{}", true);
	assert_never(&c, "{}", true); /* as recorded */
	assert_int_equal(lines_of("count"), 2);
	client_end(&c);
}

static void expectations(void **state)
{
	(void)state;
	client c;
	start_rekey(&c);
	exec_bad(&c, script("echo why; exit 3", ""), KT_E_REFUSED, "exited with 3, not 0; its last lines: why");
	exec_bad(&c, script("kill -9 $$", ""), KT_E_REFUSED, "signal 9");
	reply r = ask_ok(&c, "exec",
			 J("{'command':{'argv':['/bin/sh','-c','echo all done; exit 3']},"
			   "'expect':{'exit':3,'has':['all','done'],'lacks':['error']}}"));
	assert_int_equal(result_int(&r, "exit"), 3);
	reply_free(&r);
	c.attempt++;
	exec_bad(&c, J("{'command':{'argv':['echo','done']},'expect':{'has':['all']}}"), KT_E_REFUSED,
		 "did not print \"all\"");
	exec_bad(&c, J("{'command':{'argv':['echo','an error']},'expect':{'lacks':['error']}}"), KT_E_REFUSED,
		 "printed \"error\"");
	exec_bad(&c, J("{'command':{'argv':['/no/such/thing']}}"), KT_E_IO, "/no/such/thing");
	exec_bad(&c, J("{'command':{'argv':['no-such-thing']}}"), KT_E_IO, "not in PATH");
	exec_bad(&c, J("{'command':{'argv':['true'],'cwd':'%s'}}", at("none")), KT_E_IO, "none");
	exec_bad(&c, J("{'command':{'argv':['./none'],'cwd':'%s'}}", scratch_folder), KT_E_IO, "./none");
	exec_bad(&c, J("{'command':{'argv':['true'],'user':'no-such-user'}}"), KT_E_REFUSED, "no-such-user");
	exec_bad(&c, J("{'command':{'argv':['true'],'env_file':'%s'}}", at("none")), KT_E_IO, "none");
	exec_bad(&c, J("{'command':{'argv':['true'],'env':{'A':7}}}"), KT_E_INPUT, "env.A");
	exec_bad(&c, J("{'command':{'argv':['true'],'env':{'A B':'x'}}}"), KT_E_INPUT, "no name of a variable");
	exec_bad(&c, J("{'command':{'argv':['true'],'env':{'A':{'key':{'slot':'R1'}}}}}"), KT_E_KEY,
		 "no key was received");
	exec_bad(&c, J("{'command':{'argv':[]}}"), KT_E_INPUT, "argv");
	exec_bad(&c, J("{'command':{'argv':['true'],'timeout_s':0}}"), KT_E_INPUT, "timeout_s");
	exec_bad(&c, J("{'command':'true'}"), KT_E_INPUT, "command");
	exec_bad(&c, "{}", KT_E_INPUT, "command");
	exec_bad(&c, J("{'command':{'argv':['true']},'expect':{'has':'x'}}"), KT_E_INPUT, "has");
	client_end(&c);
}

static void a_relative_program_is_that_of_the_folder(void **state)
{
	(void)state;
	client c;
	start_rekey(&c);
	put_folder("dir", 0755);
	put_text("dir/prog", "#!/bin/sh\necho I am $0\n", 0755);
	reply r = ask_ok(&c, "exec", J("{'command':{'argv':['./prog'],'cwd':'%s'}}", at("dir")));
	assert_string_equal(result_str(&r, "tail"), "I am ./prog\n");
	reply_free(&r);
	client_end(&c);
}

static void another_user(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	client c;
	start_rekey(&c);
	reply r = ask_ok(&c, "exec",
			 J("{'command':{'argv':['sh','-c','id -u; id -G; echo $HOME $USER'],'user':'nobody'}}"));
	assert_string_equal(result_str(&r, "tail"), "65534\n65534\n/nonexistent nobody\n");
	reply_free(&r);
	client_end(&c);
}

/* --- Keys -----------------------------------------------------------------------------------------------------------
 */

static void keys_reach_the_command_and_nothing_else(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	deliver(&c, canary);
	c.step = "rekey";
	char text[64];
	(void)snprintf(text, sizeof text, "K=%s\n", base64_of(canary));
	put_text("want", text, 0400);
	put_text("env", text, 0600);
	/* It prints its key in pieces, in hex, and from its env file; and it got the right one. */
	put_text("prog",
		 "#!/bin/sh\n"
		 "test \"K=$NEW\" = \"$(cat want)\" || exit 9\n"
		 "test \"K=$K\" = \"$(cat want)\" || exit 8\n"
		 "printf %s \"$NEW\" | cut -c1-20 | tr -d '\\n'; sleep 0.2; printf '%s\\n' \"$NEW\" | cut -c21-\n"
		 "printf %s \"$NEW\" | base64 -d | od -An -tx1 -v | tr -d ' \\n'; echo\n"
		 "echo key=$K >&2\n"
		 "touch started; while [ ! -e go ]; do sleep 0.05; done\n"
		 "printf %s \"$NEW\" | base64 -d\n",
		 0755);
	int64_t id = client_ask(&c, "exec",
				J("{'command':{'argv':['./prog'],'cwd':'%s','env_file':'%s',"
				  "'env':{'NEW':{'key':{'slot':'R1'}}}}}",
				  scratch_folder, at("env")));
	WAIT_UNTIL(is_there("started"));
	assert_process_clean(pid_in(SPOOL "/pid"));
	assert_process_clean(c.pid);
	put_text("go", "", 0600);
	reply r = client_reply(&c, id);
	if (r.status != KT_STATUS_OK)
		fail_msg("%s; tail %s", r.error.msg, result_str(&r, "tail"));
	const char *tail = result_str(&r, "tail");
	assert_false(has_canary(tail, strlen(tail)));
	assert_non_null(strstr(tail, "[redacted]"));
	assert_null(strstr(tail, "93636"));
	assert_false(has_canary(kt_buf_cstr(&c.progress), c.progress.len));
	reply_free(&r);
	assert_true(assert_folder_clean(state_dir()) >= 8);
	client_end(&c);
}

/* --- Killing --------------------------------------------------------------------------------------------------------
 */

static const char slow[] =
	"echo ran >>count; touch started; while [ ! -e go ]; do sleep 0.05; done; echo finished >>count";

static void the_agent_is_killed_and_another_one_waits_on(void **state)
{
	(void)state;
	client c;
	const char *args = script(slow, "");
	start_rekey(&c);
	(void)client_ask(&c, "exec", args);
	WAIT_UNTIL(is_there("started"));
	client_kill(&c);
	start_rekey(&c);
	int64_t id = client_ask(&c, "exec", args);
	pause_ms(300);
	put_text("go", "", 0600);
	reply r = client_reply(&c, id);
	assert_int_equal(r.status, KT_STATUS_OK);
	assert_int_equal(result_int(&r, "exit"), 0);
	reply_free(&r);
	assert_int_equal(lines_of("count"), 2);
	client_end(&c);
}

static void the_connection_ends_and_the_work_goes_on(void **state)
{
	(void)state;
	client c;
	const char *args = script(slow, "");
	start_rekey(&c);
	(void)client_ask(&c, "exec", args);
	WAIT_UNTIL(is_there("started"));
	const int64_t begin = kt_clock_mono_ms();
	client_end(&c);
	assert_true(kt_clock_mono_ms() - begin < 30000);
	put_text("go", "", 0600);
	WAIT_UNTIL(is_there(SPOOL "/outcome.json"));
	start_rekey(&c);
	ask_done(&c, "exec", args);
	assert_int_equal(lines_of("count"), 2);
	client_end(&c);
}

/* Its runner is killed: as long as the command itself lives we wait, then nobody knows how it ended. */
static void the_runner_is_killed(void **state)
{
	(void)state;
	client c;
	const char *args = script(slow, "");
	start_rekey(&c);
	int64_t id = client_ask(&c, "exec", args);
	WAIT_UNTIL(is_there("started"));
	assert_int_equal(kill(pid_in(SPOOL "/pid"), SIGKILL), 0);
	struct pollfd p = {.fd = c.from, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 700), 0);
	put_text("go", "", 0600);
	reply r = client_reply(&c, id);
	assert_int_equal(r.status, KT_STATUS_UNKNOWN);
	assert_int_equal(r.error.code, KT_E_UNKNOWN);
	assert_non_null(strstr(r.error.msg, "its runner is gone"));
	reply_free(&r);
	assert_int_equal(lines_of("count"), 2);
	ask_bad(&c, "exec", args, KT_STATUS_UNKNOWN, KT_E_UNKNOWN, "its runner is gone");
	client_end(&c);
	start_rekey(&c);
	ask_bad(&c, "exec", args, KT_STATUS_UNKNOWN, KT_E_UNKNOWN, "its runner is gone");
	assert_int_equal(lines_of("count"), 2);
	client_end(&c);
}

/* The command's shell is killed too, but what it started lives on in its session: still not over. */
static void grandchildren_count(void **state)
{
	(void)state;
	client c;
	start_rekey(&c);
	const char *args = script("(while [ ! -e go ]; do sleep 0.05; done) & touch started; wait", "");
	int64_t id = client_ask(&c, "exec", args);
	WAIT_UNTIL(is_there("started"));
	assert_int_equal(kill(pid_in(SPOOL "/pid"), SIGKILL), 0);
	assert_int_equal(kill(pid_in(SPOOL "/child"), SIGKILL), 0);
	struct pollfd p = {.fd = c.from, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 700), 0);
	put_text("go", "", 0600);
	reply r = client_reply(&c, id);
	assert_int_equal(r.status, KT_STATUS_UNKNOWN);
	reply_free(&r);
	client_end(&c);
}

/* The runner cannot be ended by what ends a session. */
static void the_runner_stands_signals(void **state)
{
	(void)state;
	static const int signals[] = {SIGHUP, SIGTERM, SIGINT, SIGPIPE};
	client c;
	start_rekey(&c);
	int64_t id = client_ask(&c, "exec", script(slow, ""));
	WAIT_UNTIL(is_there("started"));
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(kill(pid_in(SPOOL "/pid"), signals[i]), 0);
	pause_ms(200);
	put_text("go", "", 0600);
	reply r = client_reply(&c, id);
	assert_int_equal(r.status, KT_STATUS_OK);
	reply_free(&r);
	client_end(&c);
}

static void timeouts_end_the_whole_group(void **state)
{
	(void)state;
	client c;
	start_rekey(&c);
	const char *args =
		J("{'command':{'argv':['sh','-c','sleep 100 & echo $! >%s; wait'],'timeout_s':1}}", at("grandchild"));
	ask_bad(&c, "exec", args, KT_STATUS_FAILED, KT_E_IO, "had not ended after 1 s");
	pid_t grandchild = (pid_t)atol(text_of("grandchild"));
	WAIT_UNTIL(kill(grandchild, 0) != 0);
	c.attempt = 2;
	args = J("{'command':{'argv':['sh','-c','trap : TERM; while :; do sleep 0.1; done'],'timeout_s':1}}");
	const int64_t begin = kt_clock_mono_ms();
	reply r = ask(&c, "exec", args);
	assert_int_equal(r.status, KT_STATUS_FAILED);
	assert_int_equal(result_int(&r, "signal"), SIGKILL);
	reply_free(&r);
	assert_true(kt_clock_mono_ms() - begin >= 5500);
	client_end(&c);
}

/* --- What the spool says after a crash ------------------------------------------------------------------------------
 */

/* The agent died between its intent and the start of a runner: nothing has begun, so it begins now. */
static void an_intent_without_a_claim_is_begun(void **state)
{
	(void)state;
	client c;
	kt_err err = KT_ERR_INIT;
	const char *args = script("echo ran >>count", "");
	cJSON *json = NULL;
	kt_spool_state found;
	assert_kt_ok(kt_json_parse("args", args, strlen(args), &json, &err));
	kt_request q = {.id = 1,
			.cluster = "looker",
			.run = "R1",
			.epoch = 1,
			.step = "rekey",
			.node = "web01",
			.attempt = 1,
			.verb = "exec",
			.args = json};
	assert_int_equal(mkdir(at("state"), 0700), 0);
	assert_kt_ok(kt_spool_begin(at(SPOOL), &q, NULL, &found, &err));
	assert_int_equal(found, KT_SPOOL_NEW);
	assert_kt_ok(kt_spool_begin(at(SPOOL), &q, NULL, &found, &err));
	assert_int_equal(found, KT_SPOOL_STARTED);
	cJSON_Delete(json);
	start_rekey(&c);
	ask_done(&c, "exec", args);
	assert_int_equal(lines_of("count"), 1);
	client_end(&c);
}

static void put_process(const char *name, const char *boot_id, pid_t pid, int64_t start)
{
	char text[200];
	(void)snprintf(text, sizeof text, "{\"boot_id\":\"%s\",\"pid\":%d,\"start\":%lld}\n", boot_id, (int)pid,
		       (long long)start);
	put_record(name, text);
}

static void a_reboot_in_the_middle(void **state)
{
	(void)state;
	client c;
	const char *args = script("echo ran >>count", "");
	start_rekey(&c);
	ask_done(&c, "exec", args);
	assert_int_equal(unlink(at(SPOOL "/outcome.json")), 0);
	/* A process of that number and start lives, but this is another boot. */
	kt_err err = KT_ERR_INIT;
	kt_process us;
	assert_kt_ok(kt_process_of(getpid(), &us, &err));
	put_process(SPOOL "/pid", "00000000-0000-0000-0000-000000000000", us.pid, us.start);
	put_process(SPOOL "/child", "00000000-0000-0000-0000-000000000000", us.pid, us.start);
	ask_bad(&c, "exec", args, KT_STATUS_UNKNOWN, KT_E_UNKNOWN, "rebooted");
	assert_int_equal(lines_of("count"), 1);
	/* Claimed, but the command was not begun: certainly not done. */
	assert_int_equal(unlink(at(SPOOL "/outcome.json")), 0);
	assert_int_equal(unlink(at(SPOOL "/child")), 0);
	ask_bad(&c, "exec", args, KT_STATUS_FAILED, KT_E_INTERNAL, "before the command was executed");
	assert_int_equal(lines_of("count"), 1);
	client_end(&c);
}

static void a_number_used_again_is_not_the_same_process(void **state)
{
	(void)state;
	client c;
	kt_err err = KT_ERR_INIT;
	char boot_id[KT_BOOT_ID];
	const char *args = script("echo ran >>count", "");
	assert_kt_ok(kt_boot_id(boot_id, &err));
	start_rekey(&c);
	ask_done(&c, "exec", args);
	assert_int_equal(unlink(at(SPOOL "/outcome.json")), 0);
	put_process(SPOOL "/pid", boot_id, getpid(), 1);
	put_process(SPOOL "/child", boot_id, getpid(), 1);
	ask_bad(&c, "exec", args, KT_STATUS_UNKNOWN, KT_E_UNKNOWN, "its runner is gone");
	client_end(&c);
}

static void damaged_records_are_no_licence(void **state)
{
	(void)state;
	client c;
	const char *args = script("echo ran >>count", "");
	start_rekey(&c);
	ask_done(&c, "exec", args);
	put_text(SPOOL "/outcome.json", "{\"status\":\"o", 0600);
	ask_bad(&c, "exec", args, KT_STATUS_UNKNOWN, KT_E_AUDIT, "outcome.json is damaged");
	assert_int_equal(unlink(at(SPOOL "/outcome.json")), 0);
	put_text(SPOOL "/pid", "garbage", 0600);
	ask_bad(&c, "exec", args, KT_STATUS_UNKNOWN, KT_E_AUDIT, "pid is damaged");
	put_text(SPOOL "/intent.json", "", 0600);
	ask_bad(&c, "exec", args, KT_STATUS_UNKNOWN, KT_E_AUDIT, "intent.json is damaged");
	/* Without its intent it is not taken for one that never was. */
	assert_int_equal(unlink(at(SPOOL "/intent.json")), 0);
	ask_bad(&c, "exec", args, KT_STATUS_UNKNOWN, KT_E_AUDIT, "intent.json is missing");
	assert_int_equal(lines_of("count"), 1);
	client_end(&c);
}

/* A runner that is started by hand, or twice, does not do it again. */
static void a_second_runner_does_nothing(void **state)
{
	(void)state;
	client c;
	start_rekey(&c);
	ask_done(&c, "exec", script("echo ran >>count", ""));
	client_end(&c);
	client_start_argv(&c, (const char *const[]){"keyturn-agent", "run", at(SPOOL), NULL});
	assert_int_equal(client_wait(&c), 0);
	assert_int_equal(lines_of("count"), 1);
}

/* Asked to settle: out of the spool, and what was not begun then is not begun now, nor ever after. */
static void what_is_settled_is_not_started(void **state)
{
	(void)state;
	client c;
	const char *args = script("echo ran >>count", "");
	start_rekey(&c);
	c.settle = true;
	ask_bad(&c, "exec", args, KT_STATUS_FAILED, KT_E_REFUSED, "never started");
	c.settle = false;
	ask_bad(&c, "exec", args, KT_STATUS_FAILED, KT_E_REFUSED, "never started");
	assert_never(&c, args, true);
	assert_int_equal(lines_of("count"), 0);
	/* An intent whose runner never came is not begun either. */
	c.attempt = 2;
	ask_done(&c, "exec", args);
	assert_int_equal(unlink(at("state/spool/R1/rekey.do.2/outcome.json")), 0);
	assert_int_equal(unlink(at("state/spool/R1/rekey.do.2/pid")), 0);
	assert_int_equal(unlink(at("state/spool/R1/rekey.do.2/child")), 0);
	c.settle = true;
	ask_bad(&c, "exec", args, KT_STATUS_FAILED, KT_E_REFUSED, "never started");
	assert_int_equal(lines_of("count"), 1);
	client_end(&c);
}

static void settling_waits_for_what_runs(void **state)
{
	(void)state;
	client c;
	const char *args = script(slow, "");
	start_rekey(&c);
	(void)client_ask(&c, "exec", args);
	WAIT_UNTIL(is_there("started"));
	client_kill(&c);
	start_rekey(&c);
	c.settle = true;
	int64_t id = client_ask(&c, "exec", args);
	pause_ms(300);
	put_text("go", "", 0600);
	reply r = client_reply(&c, id);
	assert_int_equal(r.status, KT_STATUS_OK);
	reply_free(&r);
	ask_done(&c, "exec", args);
	assert_int_equal(lines_of("count"), 2);
	client_end(&c);
}

/* Many who claim at once: one gets it. */
static void one_claim_of_many_is_granted(void **state)
{
	(void)state;
	enum { CLAIMANTS = 24 };
	kt_err err = KT_ERR_INIT;
	for (int round = 0; round < 8; round++) {
		int granted = 0;
		pid_t pid[CLAIMANTS];
		int start[2];
		char name[32];
		(void)snprintf(name, sizeof name, "c%d", round);
		put_folder(name, 0700);
		assert_int_equal(pipe(start), 0);
		for (int i = 0; i < CLAIMANTS; i++) {
			pid[i] = fork();
			assert_true(pid[i] >= 0);
			if (pid[i] == 0) {
				bool mine = false;
				char byte;
				(void)close(start[1]);
				if (read(start[0], &byte, 1) != 0)
					_exit(2);
				_exit(kt_spool_claim(at(name), &mine, &err) == KT_OK ? mine : 2);
			}
		}
		(void)close(start[0]);
		(void)close(start[1]);
		for (int i = 0; i < CLAIMANTS; i++) {
			int status;
			assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
			assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 2);
			granted += WEXITSTATUS(status);
		}
		assert_int_equal(granted, 1);
	}
}

/* --- Beside detached work -------------------------------------------------------------------------------------------
 */

static void nothing_else_changes_meanwhile(void **state)
{
	(void)state;
	client c;
	client d;
	start_rekey(&c);
	put_text("victim", "", 0600);
	int64_t id = client_ask(&c, "exec", script(slow, ""));
	WAIT_UNTIL(is_there("started"));
	client_start(&d);
	d.epoch = 2; /* a coordinator that has taken over, and does not know */
	d.step = "remove";
	ask_bad(&d, "file.remove", J("{'path':'%s'}", at("victim")), KT_STATUS_FAILED, KT_E_BUSY,
		"detached work still runs");
	assert_true(is_there("victim"));
	ask_bad(&d, "probe", J("{'command':{'argv':['echo','old']}}"), KT_STATUS_FAILED, KT_E_BUSY, "detached work");
	d.step = "other";
	ask_bad(&d, "exec", script("echo other >>count", ""), KT_STATUS_FAILED, KT_E_BUSY, "detached work still runs");
	ask_done(&d, "facts", "{}");
	/* Another cluster on this node has nothing to do with it. */
	d.cluster = "store";
	ask_done(&d, "probe", J("{'command':{'argv':['echo','old']}}"));
	d.cluster = "looker";
	put_text("go", "", 0600);
	/* The first one was replaced by the higher epoch; its work is asked for by the new coordinator. */
	reply r = client_reply(&c, id);
	assert_true(r.status == KT_STATUS_OK || r.status == KT_STATUS_UNKNOWN);
	reply_free(&r);
	d.step = "rekey";
	ask_done(&d, "exec", script(slow, ""));
	d.step = "remove";
	ask_done(&d, "file.remove", J("{'path':'%s'}", at("victim"))); /* a refusal was no outcome */
	assert_false(is_there("victim"));
	client_end(&c);
	client_end(&d);
	assert_int_equal(lines_of("count"), 2);
}

/* Asked for, but its runner never came: when something else comes first, it is called off for good. */
static void what_was_not_begun_is_called_off(void **state)
{
	(void)state;
	client c;
	const char *args = script("echo ran >>count", "");
	start_rekey(&c);
	ask_done(&c, "exec", args);
	assert_int_equal(unlink(at(SPOOL "/outcome.json")), 0);
	assert_int_equal(unlink(at(SPOOL "/pid")), 0);
	assert_int_equal(unlink(at(SPOOL "/child")), 0);
	ask_done(&c, "probe", J("{'command':{'argv':['echo','old']}}"));
	ask_bad(&c, "exec", args, KT_STATUS_FAILED, KT_E_REFUSED, "called off");
	assert_never(&c, args, true);
	assert_int_equal(lines_of("count"), 1);
	client_end(&c);
}

/* --- Full disk ------------------------------------------------------------------------------------------------------
 */

static bool mount_small(void)
{
	put_folder("state", 0700);
	return geteuid() == 0 && mount("tmpfs", at("state"), "tmpfs", 0, "size=512k,mode=0700") == 0;
}

static void fill_up(void)
{
	int fd = open(at("state/ballast"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	char block[4096];
	assert_true(fd >= 0);
	memset(block, 'x', sizeof block);
	while (write(fd, block, sizeof block) > 0)
		;
	(void)close(fd);
}

static void what_cannot_be_recorded_is_not_done(void **state)
{
	(void)state;
	if (!mount_small())
		skip();
	client c;
	start_rekey(&c);
	ask_done(&c, "facts", "{}");
	c.step = "first"; /* so that the folders are there */
	ask_done(&c, "exec", script("true", ""));
	fill_up();
	c.step = "rekey";
	ask_bad(&c, "exec", script("echo ran >>count", ""), KT_STATUS_FAILED, KT_E_AUDIT, "cannot be recorded");
	assert_never(&c, script("echo ran >>count", ""), true);
	c.epoch = 2;
	ask_bad(&c, "exec", script("echo ran >>count", ""), KT_STATUS_FAILED, KT_E_AUDIT, "cannot be recorded");
	assert_never(&c, script("echo ran >>count", ""),
		     false); /* not even the epoch: what was sent before may still come */
	assert_int_equal(lines_of("count"), 0);
	assert_int_equal(unlink(at("state/ballast")), 0);
	ask_done(&c, "exec", script("echo ran >>count", ""));
	assert_int_equal(lines_of("count"), 1);
	client_end(&c);
	assert_int_equal(umount2(at("state"), MNT_DETACH), 0);
}

/* The disk fills while it runs: its room was set aside before, so the outcome is recorded all the same. */
static void an_outcome_has_its_room(void **state)
{
	(void)state;
	if (!mount_small())
		skip();
	client c;
	start_rekey(&c);
	const char *args = script("touch started; while [ ! -e go ]; do sleep 0.05; done; "
				  "i=0; while [ $i -lt 3000 ]; do echo much to say; i=$((i+1)); done",
				  "");
	int64_t id = client_ask(&c, "exec", args);
	WAIT_UNTIL(is_there("started"));
	fill_up();
	put_text("go", "", 0600);
	reply r = client_reply(&c, id);
	assert_int_equal(r.status, KT_STATUS_OK);
	assert_true(result_bool(&r, "log_cut"));
	assert_int_equal(strlen(result_str(&r, "tail")), 4096);
	reply_free(&r);
	ask_done(&c, "exec", args);
	client_end(&c);
	assert_int_equal(umount2(at("state"), MNT_DETACH), 0);
}

static void progress_is_told(void **state)
{
	(void)state;
	client c;
	start_rekey(&c);
	ask_done(&c, "exec", script("for i in 1 2 3 4 5; do echo step $i of 5; sleep 0.6; done", ""));
	assert_non_null(strstr(kt_buf_cstr(&c.progress), " of 5\n"));
	client_end(&c);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, scratch_make, scratch_drop)

int main(void)
{
	kt_err err = KT_ERR_INIT;
	if (kt_secret_setup(&err) != KT_OK)
		return 1;
	const struct CMUnitTest tests[] = {
		TEST(it_runs_and_is_answered_once),
		TEST(the_environment_is_composed),
		TEST(expectations),
		TEST(a_relative_program_is_that_of_the_folder),
		TEST(another_user),
		TEST(keys_reach_the_command_and_nothing_else),
		TEST(the_agent_is_killed_and_another_one_waits_on),
		TEST(the_connection_ends_and_the_work_goes_on),
		TEST(the_runner_is_killed),
		TEST(grandchildren_count),
		TEST(the_runner_stands_signals),
		TEST(timeouts_end_the_whole_group),
		TEST(an_intent_without_a_claim_is_begun),
		TEST(a_reboot_in_the_middle),
		TEST(a_number_used_again_is_not_the_same_process),
		TEST(damaged_records_are_no_licence),
		TEST(a_second_runner_does_nothing),
		TEST(one_claim_of_many_is_granted),
		TEST(what_never_started_is_told_from_what_failed),
		TEST(what_is_settled_is_not_started),
		TEST(settling_waits_for_what_runs),
		TEST(nothing_else_changes_meanwhile),
		TEST(what_was_not_begun_is_called_off),
		TEST(what_cannot_be_recorded_is_not_done),
		TEST(an_outcome_has_its_room),
		TEST(progress_is_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

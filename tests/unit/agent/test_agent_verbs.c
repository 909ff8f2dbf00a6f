/* SPDX-License-Identifier: Apache-2.0 */
/* command, probe, log.check, file.remove, env.install, env.restore: what they do and what they refuse. */
#include "tests/unit/agent/keys.h"

/* --- command and probe ----------------------------------------------------------------------------------------------
 */

static void commands(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	c.run = "-"; /* reading verbs need no run */
	c.epoch = 0;
	for (int i = 0; i < 2; i++) { /* and are done each time */
		reply r =
			ask_ok(&c, "command",
			       J("{'command':{'argv':['sh','-c','echo x >>count; echo out; echo err >&2'],'cwd':'%s'},"
				 "'expect':{'has':['out','err'],'lacks':['panic']}}",
				 scratch_folder));
		assert_int_equal(result_int(&r, "exit"), 0);
		assert_true(result_int(&r, "ms") >= 0);
		assert_non_null(strstr(result_str(&r, "tail"), "err"));
		reply_free(&r);
	}
	assert_text("count", "x\nx\n");
	reply r = ask(&c, "command", J("{'command':{'argv':['sh','-c','echo no; exit 7']}}"));
	assert_int_equal(r.status, KT_STATUS_FAILED);
	assert_int_equal(result_int(&r, "exit"), 7);
	assert_non_null(strstr(r.error.msg, "exited with 7"));
	reply_free(&r);
	/* What is to be done about a text that is known; the exit code of a missing task is 1 as well as any. */
	r = ask(&c, "command",
		J("{'command':{'argv':['sh','-c','echo no such task; exit 1']},"
		  "'expect':{'exit':0,'hints':{'other':'no','such task':'update it'}}}"));
	assert_int_equal(r.status, KT_STATUS_FAILED);
	assert_string_equal(r.error.remedy, "update it");
	reply_free(&r);
	r = ask(&c, "command", J("{'command':{'argv':['false']},'expect':{'hints':{'such task':'update it'}}}"));
	assert_string_equal(r.error.remedy, "read the command's output");
	reply_free(&r);
	ask_bad(&c, "command", J("{'command':{'argv':['sleep','100'],'timeout_s':1}}"), KT_STATUS_FAILED, KT_E_IO,
		"had not ended after 1 s");
	ask_bad(&c, "command", J("{'command':{'argv':['/none']}}"), KT_STATUS_FAILED, KT_E_IO, "/none");
	ask_bad(&c, "command", "{}", KT_STATUS_FAILED, KT_E_INPUT, "command");
	client_end(&c);
}

static void json_of_a_command(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_text("out.json", "{\"nodes\":[{\"name\":\"web01\",\"live\":false}]}\n", 0600);
	reply r = ask_ok(&c, "command",
			 J("{'command':{'argv':['sh','-c','echo log >&2; cat out.json'],'cwd':'%s'},'json':true}",
			   scratch_folder));
	const cJSON *json = cJSON_GetObjectItem(r.result, "json");
	assert_true(cJSON_IsArray(cJSON_GetObjectItem(json, "nodes")));
	reply_free(&r);
	ask_bad(&c, "command", J("{'command':{'argv':['echo','{']},'json':true}"), KT_STATUS_FAILED, KT_E_INPUT,
		"not valid JSON");
	ask_bad(&c, "command", J("{'command':{'argv':['true']},'json':true}"), KT_STATUS_FAILED, KT_E_INPUT,
		"not valid JSON");
	ask_bad(&c, "command", J("{'command':{'argv':['head','-c','300000','/dev/zero']},'json':true}"),
		KT_STATUS_FAILED, KT_E_INPUT, "more than");
	client_end(&c);
}

/* Gigabytes of output are no matter, and binary rubbish is not either. */
static void much_output(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	reply r = ask_ok(&c, "command",
			 J("{'command':{'argv':['sh','-c','yes | head -c 50000000; echo; echo the end']},"
			   "'expect':{'has':['the end']}}"));
	assert_non_null(strstr(result_str(&r, "tail"), "the end\n"));
	assert_true(strlen(result_str(&r, "tail")) <= 4096);
	reply_free(&r);
	r = ask_ok(&c, "command", J("{'command':{'argv':['head','-c','100000','/dev/urandom']}}"));
	reply_free(&r);
	client_end(&c);
}

static void assert_verdict(client *c, const char *shell, const char *want)
{
	reply r = ask_ok(c, "probe", J("{'command':{'argv':['sh','-c','%s']}}", shell));
	if (strcmp(result_str(&r, "verdict"), want) != 0)
		fail_msg("%s: %s, not %s", shell, result_str(&r, "verdict"), want);
	reply_free(&r);
}

static void probes(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	assert_verdict(&c, "echo old", "old");
	assert_verdict(&c, "echo the data opens with the new", "new");
	assert_verdict(&c, "echo old; printf both", "both");
	assert_verdict(&c, "printf mixed; echo old >&2", "mixed");
	assert_verdict(&c, "echo none; echo; echo", "none");
	assert_verdict(&c, "echo unknown", "unknown");
	assert_verdict(&c, "echo renew", "unknown");
	assert_verdict(&c, "echo new.", "unknown");
	assert_verdict(&c, "echo NEW", "unknown");
	assert_verdict(&c, "true", "unknown");
	assert_verdict(&c, "echo new; exit 1", "unknown");
	assert_verdict(&c, "echo new; kill -9 $$", "unknown");
	assert_verdict(&c, "yes | head -c 300000; echo new", "unknown");
	ask_bad(&c, "probe", J("{'command':{'argv':['/none']}}"), KT_STATUS_FAILED, KT_E_IO, "/none");
	client_end(&c);
}

/* --- log.check ------------------------------------------------------------------------------------------------------
 */

static const char looker_log[] =
	"written before any time\n"
	"2018-10-29 22:42:20.279 +0000 [INFO|007d0|crypt] :: old GCM\n"
	"  its second line\n"
	"2018-10-29 22:42:30.000 +0000 [INFO|007d0|crypt] :: Starting migration from AES-128-CBC "
	"Legacy to AES-GCM-256\n"
	"  with a detail\n"
	"2018-10-30 00:42:40.000 +0200 [ERROR|007d0|db:x] :: trouble";

/* 22:42:25 */
#define SINCE "1540852945000"

static const char *log_args(const char *more)
{
	return J("{'path':'%s',%s}", at("log"), more);
}

static void logs(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_text("log", looker_log, 0600);
	reply r = ask_ok(&c, "log.check", log_args("'has':['GCM'],'since_ms':" SINCE));
	assert_string_equal(result_str(&r, "line"), "2018-10-29 22:42:30.000 +0000 [INFO|007d0|crypt] :: Starting "
						    "migration from AES-128-CBC Legacy to AES-GCM-256");
	reply_free(&r);
	ask_done(&c, "log.check",
		 log_args("'has':['Starting','detail','trouble'],'lacks':['panic'],'since_ms':" SINCE));
	ask_bad(&c, "log.check", log_args("'has':['old GCM'],'since_ms':" SINCE), KT_STATUS_RETRY, KT_E_REFUSED,
		"does not say \"old GCM\"");
	ask_bad(&c, "log.check", log_args("'has':['second line'],'since_ms':" SINCE), KT_STATUS_RETRY, KT_E_REFUSED,
		"second line");
	ask_bad(&c, "log.check", log_args("'has':['before any'],'since_ms':" SINCE), KT_STATUS_RETRY, KT_E_REFUSED,
		"before any");
	ask_done(&c, "log.check", log_args("'has':['before any','old GCM','second line']"));
	ask_bad(&c, "log.check", log_args("'lacks':['ERROR'],'since_ms':" SINCE), KT_STATUS_FAILED, KT_E_REFUSED,
		"says \"ERROR\"");
	/* 22:42:40 in its own zone, so an hour later nothing counts. */
	ask_bad(&c, "log.check", log_args("'has':['trouble'],'since_ms':1540852960001"), KT_STATUS_RETRY, KT_E_REFUSED,
		"trouble");
	ask_done(&c, "log.check", log_args("'has':['trouble'],'since_ms':1540852960000"));
	/* A text does not reach over the end of a line. */
	ask_bad(&c, "log.check", log_args("'has':['GCM-256\\n  with']"), KT_STATUS_RETRY, KT_E_REFUSED, "GCM");
	ask_bad(&c, "log.check", J("{'path':'%s','has':['x']}", at("none")), KT_STATUS_FAILED, KT_E_IO, "none");
	ask_bad(&c, "log.check", J("{'path':'%s','has':['x']}", scratch_folder), KT_STATUS_FAILED, KT_E_IO,
		"not a regular file");
	ask_bad(&c, "log.check", J("{'path':'log','has':['x']}"), KT_STATUS_FAILED, KT_E_INPUT, "absolute");
	ask_bad(&c, "log.check", log_args("'has':'x'"), KT_STATUS_FAILED, KT_E_INPUT, "has");
	client_end(&c);
}

static void set_time(const char *name, int64_t ms)
{
	const struct timespec t[2] = {{.tv_sec = ms / 1000}, {.tv_sec = ms / 1000}};
	assert_int_equal(utimensat(AT_FDCWD, at(name), t, 0), 0);
}

/* What was rotated away since then counts, too, by its times alone; what nobody has written to since then is not read.
 */
static void logs_that_were_rotated(void **state)
{
	(void)state;
	static const char fresh[] = "2018-10-30 01:00:00.000 +0000 [INFO|1|node] :: started\n";
	client c;
	client_start(&c);
	put_text("log", fresh, 0600);
	put_text("log.1", looker_log, 0600);
	reply r = ask_ok(&c, "log.check", log_args("'has':['GCM','started'],'since_ms':" SINCE));
	assert_string_equal(result_str(&r, "line"), "2018-10-30 01:00:00.000 +0000 [INFO|1|node] :: started");
	reply_free(&r);
	ask_bad(&c, "log.check", log_args("'lacks':['trouble'],'since_ms':" SINCE), KT_STATUS_FAILED, KT_E_REFUSED,
		"says \"trouble\"");
	ask_bad(&c, "log.check", log_args("'has':['old GCM'],'since_ms':" SINCE), KT_STATUS_RETRY, KT_E_REFUSED,
		"old GCM");
	ask_bad(&c, "log.check", log_args("'has':['GCM']"), KT_STATUS_RETRY, KT_E_REFUSED, "GCM"); /* one file then */
	set_time("log.1", 1540852944000);
	ask_bad(&c, "log.check", log_args("'has':['GCM'],'since_ms':" SINCE), KT_STATUS_RETRY, KT_E_REFUSED, "GCM");
	put_text("log-20181030.gz", "\x1f\x8b compressed GCM\n", 0600);
	put_text("logs", looker_log, 0600);
	assert_int_equal(symlink("logs", at("log.2")), 0);
	ask_bad(&c, "log.check", log_args("'has':['GCM'],'since_ms':" SINCE), KT_STATUS_RETRY, KT_E_REFUSED, "GCM");
	put_text("log-20181030", looker_log, 0600);
	ask_done(&c, "log.check", log_args("'has':['GCM'],'since_ms':" SINCE));
	client_end(&c);
}

/* null: nobody said where there is one. */
static void no_log(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	reply r = ask_ok(&c, "log.check", J("{'path':null,'has':['GCM']}"));
	assert_string_equal(result_str(&r, "line"), "");
	reply_free(&r);
	ask_bad(&c, "log.check", J("{'has':['GCM']}"), KT_STATUS_FAILED, KT_E_INPUT, "path");
	client_end(&c);
}

static void logs_without_times_count_whole(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_text("log", "Oct 29 22:42:20 web01 looker: started\nok\n", 0600);
	ask_done(&c, "log.check", log_args("'has':['started','ok'],'since_ms':" SINCE));
	put_text("log", "", 0600);
	ask_done(&c, "log.check", log_args("'lacks':['x'],'since_ms':" SINCE));
	ask_bad(&c, "log.check", log_args("'has':['x']"), KT_STATUS_RETRY, KT_E_REFUSED, "\"x\"");
	client_end(&c);
}

/* The most memory that a process ever had resident, in KiB. */
static long peak_of(pid_t pid)
{
	char path[64];
	(void)snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
	FILE *f = fopen(path, "re");
	assert_non_null(f);
	long kib = 0;
	for (char line[256]; fgets(line, sizeof line, f);)
		(void)sscanf(line, "VmHWM: %ld", &kib);
	(void)fclose(f);
	assert_true(kib > 0);
	return kib;
}

/* 200 MB in one line, and the agent does not grow by it. */
static void huge_logs(void **state)
{
	(void)state;
	client c;
	kt_err err = KT_ERR_INIT;
	client_start(&c);
	put_text("log", "needle", 0600);
	ask_done(&c, "log.check", log_args("'has':['needle']"));
	long before = peak_of(c.pid);
	int fd = open(at("log"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 200 * 1024 * 1024), 0); /* NULs: one line */
	assert_int_equal(lseek(fd, 0, SEEK_END), 200 * 1024 * 1024);
	assert_kt_ok(kt_file_write_all(fd, "needle", 6, "log", &err));
	assert_int_equal(close(fd), 0);
	ask_done(&c, "log.check", log_args("'has':['needle']"));
	assert_in_range(peak_of(c.pid) - before, 0, 8 * 1024);
	client_end(&c);
}

static void a_key_in_a_log_is_not_told(void **state)
{
	(void)state;
	client c;
	char text[200];
	client_start(&c);
	deliver(&c, canary);
	(void)snprintf(text, sizeof text, "my key is %s, GCM\n", base64_of(canary));
	put_text("log", text, 0600);
	reply r = ask_ok(&c, "log.check", log_args("'has':['GCM']"));
	assert_string_equal(result_str(&r, "line"), "my key is [redacted], GCM");
	reply_free(&r);
	client_end(&c);
}

/* --- file.remove ----------------------------------------------------------------------------------------------------
 */

static void removing(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_text("target", "", 0600);
	assert_int_equal(symlink(at("target"), at("link")), 0);
	ask_bad(&c, "file.remove", J("{'path':'%s'}", at("link")), KT_STATUS_FAILED, KT_E_REFUSED,
		"not a regular file");
	assert_true(is_there("link") && is_there("target"));
	c.attempt = 2;
	ask_bad(&c, "file.remove", J("{'path':'%s/../x'}", scratch_folder), KT_STATUS_FAILED, KT_E_INPUT, "absolute");
	c.attempt = 3;
	ask_bad(&c, "file.remove", J("{'path':'x'}"), KT_STATUS_FAILED, KT_E_INPUT, "absolute");
	c.attempt = 4;
	ask_bad(&c, "file.remove", "{}", KT_STATUS_FAILED, KT_E_INPUT, "path");
	c.attempt = 5;
	ask_bad(&c, "file.remove", J("{'path':'%s/x'}", at("target")), KT_STATUS_FAILED, KT_E_IO, "target/x");
	client_end(&c);
}

/* --- env.install and env.restore ------------------------------------------------------------------------------------
 */

static const char before[] = "# Looker\nLKR_MASTER_KEY_FILE=/old/cmk\n\nJAVA=\"-Xmx 1g\"\n";

static const char *env_args(const char *set, const char *unset)
{
	return J("{'path':'%s','set':{%s},'unset':[%s],'keep':'R1'}", at("env"), set, unset);
}

static void env_files_are_changed_and_restored(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_text("env", before, 0640);
	if (geteuid() == 0)
		assert_int_equal(chown(at("env"), 12, 34), 0);
	c.step = "env";
	const char *args = env_args("'LKR_MASTER_KEY_FILE':'/new/cmk','X':'a b'", "'JAVA','NONE'");
	reply r = ask_ok(&c, "env.install", args);
	char kept[PATH_MAX];
	(void)snprintf(kept, sizeof kept, "%s.keyturn-R1.old", at("env"));
	assert_string_equal(result_str(&r, "kept"), kept);
	assert_int_equal(strlen(result_str(&r, "sha256")), 64);
	reply_free(&r);
	assert_text("env", "# Looker\nLKR_MASTER_KEY_FILE=/new/cmk\n\nX=\"a b\"\n");
	assert_int_equal(mode_of("env"), 0640);
	assert_text("env.keyturn-R1.old", before);
	assert_int_equal(mode_of("env.keyturn-R1.old"), 0400);
	struct stat st;
	assert_int_equal(stat(at("env"), &st), 0);
	if (geteuid() == 0)
		assert_true(st.st_uid == 12 && st.st_gid == 34);
	/* Again, under another key: what is kept stays the original. */
	c.attempt = 2;
	ask_done(&c, "env.install", args);
	assert_text("env.keyturn-R1.old", before);
	c.attempt = 3;
	ask_done(&c, "env.install", env_args("'Y':''", ""));
	assert_text("env.keyturn-R1.old", before);
	c.role = KT_ROLE_UNDO;
	for (c.attempt = 1; c.attempt <= 2; c.attempt++) {
		ask_done(&c, "env.restore", J("{'path':'%s','keep':'R1'}", at("env")));
		assert_text("env", before);
		assert_int_equal(mode_of("env"), 0640);
	}
	assert_true(is_there("env.keyturn-R1.old"));
	client_end(&c);
}

static void restoring_what_was_not_changed(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_text("env", before, 0640);
	reply r = ask_ok(&c, "env.restore", J("{'path':'%s','keep':'R1'}", at("env")));
	assert_int_equal(strlen(result_str(&r, "sha256")), 64);
	reply_free(&r);
	assert_text("env", before);
	client_end(&c);
}

static void keys_go_into_env_files_and_nowhere_else(void **state)
{
	(void)state;
	client c;
	char want[200];
	client_start(&c);
	deliver(&c, canary);
	put_text("env", "A=1\n", 0600);
	c.step = "env";
	ask_done(&c, "env.install", env_args("'LKR_MASTER_KEY_ENV':{'key':{'slot':'R1'}}", ""));
	(void)snprintf(want, sizeof want, "A=1\nLKR_MASTER_KEY_ENV=%s\n", base64_of(canary));
	assert_text("env", want);
	assert_true(assert_folder_clean(state_dir()) >= 6);
	assert_process_clean(c.pid);
	/* From one env file into another. */
	put_text("env2", "", 0600);
	c.attempt = 2;
	ask_done(&c, "env.install",
		 J("{'path':'%s','set':{'K':{'key':{'env_file':'%s','name':'LKR_MASTER_KEY_ENV'}}},'keep':'R1'}",
		   at("env2"), at("env")));
	(void)snprintf(want, sizeof want, "K=%s\n", base64_of(canary));
	assert_text("env2", want);
	c.attempt = 3;
	ask_bad(&c, "env.install",
		J("{'path':'%s','set':{'K':{'key':{'env_file':'%s','name':'NONE'}}},'keep':'R1'}", at("env2"),
		  at("env")),
		KT_STATUS_FAILED, KT_E_KEY, "NONE");
	assert_text("env2", want);
	client_end(&c);
}

static void env_bad(client *c, const char *args, kt_code code, const char *part)
{
	c->attempt++;
	ask_bad(c, "env.install", args, KT_STATUS_FAILED, code, part);
	assert_text("env", before);
}

static void what_env_install_refuses(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_text("env", before, 0640);
	env_bad(&c, env_args("'A':'x\\ny'", ""), KT_E_INPUT, "newline");
	env_bad(&c, env_args("'A B':'x'", ""), KT_E_INPUT, "no name");
	env_bad(&c, env_args("'A':7", ""), KT_E_INPUT, "set.A");
	env_bad(&c, env_args("'A':{'key':7}", ""), KT_E_INPUT, "key");
	env_bad(&c, env_args("'A':{'key':{}}", ""), KT_E_INPUT, "env_file");
	env_bad(&c, env_args("'A':'x'", "'A'"), KT_E_INPUT, "set and unset");
	env_bad(&c, env_args("", "7"), KT_E_INPUT, "unset[0]");
	env_bad(&c, J("{'path':'%s','keep':'../x'}", at("env")), KT_E_INPUT, "run");
	env_bad(&c, J("{'path':'%s'}", at("env")), KT_E_INPUT, "keep");
	env_bad(&c, J("{'path':'%s','keep':'R1'}", at("none")), KT_E_IO, "none");
	put_text("broken", "A=\"open\n", 0600);
	env_bad(&c, J("{'path':'%s','keep':'R1','set':{'A':'x'}}", at("broken")), KT_E_INPUT, "not closed");
	assert_text("broken", "A=\"open\n");
	client_end(&c);
}

static void a_link_is_followed(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_folder("etc", 0755);
	put_text("etc/real", "A=1\n", 0600);
	assert_int_equal(symlink("etc/real", at("env")), 0);
	reply r = ask_ok(&c, "env.install", env_args("'A':'2'", ""));
	assert_non_null(strstr(result_str(&r, "kept"), "/etc/real.keyturn-R1.old"));
	reply_free(&r);
	assert_text("etc/real", "A=2\n");
	struct stat st;
	assert_int_equal(lstat(at("env"), &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	c.role = KT_ROLE_UNDO;
	ask_done(&c, "env.restore", J("{'path':'%s','keep':'R1'}", at("env")));
	assert_text("etc/real", "A=1\n");
	client_end(&c);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, scratch_make, scratch_drop)

int main(void)
{
	kt_err err = KT_ERR_INIT;
	if (kt_secret_setup(&err) != KT_OK)
		return 1;
	const struct CMUnitTest tests[] = {
		TEST(commands),
		TEST(json_of_a_command),
		TEST(much_output),
		TEST(probes),
		TEST(logs),
		TEST(logs_that_were_rotated),
		TEST(no_log),
		TEST(logs_without_times_count_whole),
		TEST(huge_logs),
		TEST(a_key_in_a_log_is_not_told),
		TEST(removing),
		TEST(env_files_are_changed_and_restored),
		TEST(restoring_what_was_not_changed),
		TEST(keys_go_into_env_files_and_nowhere_else),
		TEST(what_env_install_refuses),
		TEST(a_link_is_followed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

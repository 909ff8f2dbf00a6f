/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs backup.create, backup.check, backup.restore and preflight, as a coordinator asks for them. */
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "agent/action.h"
#include "agent/scratch.h"
#include "base/file.h"
#include "base/kcv.h"
#include "base/secret.h"
#include "tests/unit/agent/scratch.h"
#include "tests/unit/agent/world.h"

static kt_status ask(kt_action_fn *act, cJSON **result, kt_err *err, const char *format, ...) KT_PRINTF(4, 5);
static kt_status ask(kt_action_fn *act, cJSON **result, kt_err *err, const char *format, ...)
{
	char text[16384];
	cJSON *args;
	va_list ap;
	va_start(ap, format);
	(void)vsnprintf(text, sizeof text, format, ap);
	va_end(ap);
	*err = KT_ERR_INIT;
	if (kt_json_parse("args", text, strlen(text), &args, err) != KT_OK)
		fail_msg("%s: %s", text, err->msg);
	*result = cJSON_CreateObject();
	kt_agent_ctx ctx = {.state = scratch_folder,
			    .node = "web01",
			    .cluster = "c",
			    .run = "20261123T204726Z-1a2b3c",
			    .step = "backup",
			    .verb = "backup",
			    .attempt = 1,
			    .lock_fd = -1};
	kt_status status = act(&ctx, args, *result, err);
	cJSON_Delete(args);
	return status;
}

static const char *text_of(const cJSON *result, const char *name)
{
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(result, name);
	if (!cJSON_IsString(value))
		fail_msg("the result has no \"%s\"", name);
	return value->valuestring;
}

static double number_of(const cJSON *result, const char *name)
{
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(result, name);
	if (!cJSON_IsNumber(value))
		fail_msg("the result has no \"%s\"", name);
	return value->valuedouble;
}

static void make_installation(void)
{
	put_folder("top", 0755);
	put_folder("top/models", 0755);
	put_folder("top/log", 0755);
	put_text("top/log/x", "log", 0644);
	put_text("top/models/a", "model", 0644);
	put_text("top/looker.db", "data under the old key", 0600);
}

/* A backup of it; the digest is copied out. */
static void make_backup(char sha256[KT_SHA256_HEX])
{
	kt_err err;
	cJSON *result = NULL;
	kt_status s = ask(kt_action_backup_create, &result, &err,
			  "{\"archive\":\"%s\",\"top\":\"%s\",\"exclude\":[\"log\"],\"paths\":[\"%s\"]}",
			  at("b/x.tar.zst"), at("top"), at("top/looker.db"));
	if (s != KT_STATUS_OK)
		fail_msg("%s", err.msg);
	assert_int_equal(number_of(result, "files"), 2);
	assert_int_equal(number_of(result, "bytes"), 27);
	assert_int_equal(strlen(text_of(result, "manifest_sha256")), 64);
	assert_string_equal(text_of(result, "archive"), at("b/x.tar.zst"));
	(void)snprintf(sha256, KT_SHA256_HEX, "%s", text_of(result, "sha256"));
	cJSON_Delete(result);
}

static void test_create_check_restore(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	char sha256[KT_SHA256_HEX];
	make_installation();
	make_backup(sha256);
	kt_status s =
		ask(kt_action_backup_check, &result, &err,
		    "{\"archive\":\"%s\",\"sha256\":\"%s\",\"scratch\":\"%s\",\"check\":{\"argv\":[\"/bin/sh\",\"-c\","
		    "\"test \\\"$(cat ${scratch}%s)\\\" = 'data under the old key' && test $IN = ${scratch} && pwd\"],"
		    "\"cwd\":\"${scratch}\",\"env\":{\"IN\":\"${scratch}\"},\"timeout_s\":20}}",
		    at("b/x.tar.zst"), sha256, at("deep/er/scratch"), at("top/looker.db"));
	if (s != KT_STATUS_OK)
		fail_msg("%s", err.msg);
	assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(result, "checked")));
	assert_int_equal(number_of(result, "files"), 2);
	cJSON_Delete(result);
	assert_false(is_there("deep/er/scratch"));

	put_text("top/looker.db", "half rekeyed", 0644);
	put_text("top/looker.db-journal", "hot", 0644);
	put_text("top/newer", "stays", 0644);
	for (int again = 0; again < 2; again++) {
		s = ask(kt_action_backup_restore, &result, &err,
			"{\"archive\":\"%s\",\"sha256\":\"%s\",\"keep\":\"R1\"}", at("b/x.tar.zst"), sha256);
		if (s != KT_STATUS_OK)
			fail_msg("%s", err.msg);
		assert_int_equal(number_of(result, "files"), 2);
		assert_int_equal(number_of(result, "written"), again ? 0 : 1);
		cJSON_Delete(result);
		assert_text("top/looker.db", "data under the old key");
		assert_int_equal(mode_of("top/looker.db"), 0600);
		assert_false(is_there("top/looker.db-journal"));
		assert_text("top/newer", "stays");
		assert_text("top/looker.db.keyturn-R1.old", "half rekeyed");
		assert_text("top/looker.db.keyturn-R1.old-journal", "hot");
	}
	s = ask(kt_action_backup_restore, &result, &err, "{\"archive\":\"%s\",\"sha256\":\"%s\",\"keep\":\"a/b\"}",
		at("b/x.tar.zst"), sha256);
	assert_int_equal(s, KT_STATUS_FAILED);
	assert_int_equal(err.code, KT_E_INPUT);
	cJSON_Delete(result);
}

/* A database that a command dumps: it comes back through another one, and neither is forgotten. */
static void test_dump_and_load(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	char create[2048], restore[1024];
	make_installation();
	put_text("server", "rows under the old key", 0600);
	(void)snprintf(create, sizeof create, "\"archive\":\"%s\",\"top\":\"%s\",\"paths\":[]", at("b/d.ktbackup"),
		       at("top"));
	char dump[512];
	(void)snprintf(dump, sizeof dump, "%s", at("server"));
	kt_status s = ask(kt_action_backup_create, &result, &err, "{%s,\"dump\":{\"argv\":[\"/bin/cat\",\"%s\"]}}",
			  create, dump);
	assert_int_equal(s, KT_STATUS_FAILED);
	assert_int_equal(err.code, KT_E_REFUSED);
	assert_non_null(strstr(err.remedy, "load_command"));
	cJSON_Delete(result);
	static const char *const bad[] = {"[\"/bin/sh\",\"-c\",\"echo half; exit 3\"]", "[\"/bin/true\"]"};
	for (size_t i = 0; i < 2; i++) {
		s = ask(kt_action_backup_create, &result, &err,
			"{%s,\"dump\":{\"argv\":%s},\"load\":{\"argv\":[\"x\"]}}", create, bad[i]);
		assert_int_equal(s, KT_STATUS_FAILED);
		assert_int_equal(err.code, KT_E_REFUSED);
		assert_false(is_there("b/d.ktbackup"));
		cJSON_Delete(result);
	}
	char load[1024];
	(void)snprintf(load, sizeof load, "{\"argv\":[\"/bin/sh\",\"-c\",\"cat >%s\"]}", dump);
	s = ask(kt_action_backup_create, &result, &err, "{%s,\"dump\":{\"argv\":[\"/bin/cat\",\"%s\"]},\"load\":%s}",
		create, dump, load);
	if (s != KT_STATUS_OK)
		fail_msg("%s", err.msg);
	(void)snprintf(restore, sizeof restore, "\"archive\":\"%s\",\"sha256\":\"%s\"", at("b/d.ktbackup"),
		       text_of(result, "sha256"));
	cJSON_Delete(result);
	put_text("server", "rows that were half rekeyed, and more of them", 0600);
	put_text("top/looker.db", "changed", 0600);
	s = ask(kt_action_backup_restore, &result, &err, "{%s}", restore);
	assert_int_equal(s, KT_STATUS_FAILED); /* nothing takes the dump: nothing is written */
	assert_int_equal(err.code, KT_E_REFUSED);
	assert_text("top/looker.db", "changed");
	cJSON_Delete(result);
	s = ask(kt_action_backup_restore, &result, &err, "{%s,\"load\":{\"argv\":[\"/bin/false\"]}}", restore);
	assert_int_equal(s, KT_STATUS_FAILED);
	assert_non_null(strstr(err.msg, "the database was not loaded"));
	cJSON_Delete(result);
	s = ask(kt_action_backup_restore, &result, &err, "{%s,\"load\":%s}", restore, load);
	if (s != KT_STATUS_OK)
		fail_msg("%s", err.msg);
	cJSON_Delete(result);
	assert_text("server", "rows under the old key");
	assert_text("top/looker.db", "data under the old key");
	/* An archive without a dump, and a command that waits for one. */
	char sha256[KT_SHA256_HEX];
	make_backup(sha256);
	s = ask(kt_action_backup_restore, &result, &err, "{\"archive\":\"%s\",\"sha256\":\"%s\",\"load\":%s}",
		at("b/x.tar.zst"), sha256, load);
	assert_int_equal(s, KT_STATUS_FAILED);
	assert_int_equal(err.code, KT_E_REFUSED);
	cJSON_Delete(result);
}

/* The dump is loaded by a command before anything depends on it; what that says decides, and nothing is left. */
static void test_dump_is_test_loaded(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	char check[1024];
	char plain[KT_SHA256_HEX];
	make_installation();
	put_text("server", "rows", 0600);
	kt_status s = ask(kt_action_backup_create, &result, &err,
			  "{\"archive\":\"%s\",\"top\":\"%s\",\"paths\":[],\"dump\":{\"argv\":[\"/bin/cat\",\"%s\"]},"
			  "\"load\":{\"argv\":[\"x\"]}}",
			  at("b/d.ktbackup"), at("top"), at("server"));
	if (s != KT_STATUS_OK)
		fail_msg("%s", err.msg);
	(void)snprintf(check, sizeof check, "\"archive\":\"%s\",\"sha256\":\"%s\",\"scratch\":\"%s\"",
		       at("b/d.ktbackup"), text_of(result, "sha256"), at("scratch"));
	cJSON_Delete(result);
	s = ask(kt_action_backup_check, &result, &err,
		"{%s,\"load\":{\"argv\":[\"/bin/sh\",\"-c\",\"test $(cat) = rows && echo loaded >${scratch}/data\"]},"
		"\"check\":{\"argv\":[\"/bin/cat\",\"${scratch}/data\"]}}",
		check);
	if (s != KT_STATUS_OK)
		fail_msg("%s", err.msg);
	assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(result, "loaded")));
	cJSON_Delete(result);
	s = ask(kt_action_backup_check, &result, &err, "{%s}", check);
	assert_int_equal(s, KT_STATUS_OK);
	assert_true(cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(result, "loaded")));
	cJSON_Delete(result);
	s = ask(kt_action_backup_check, &result, &err,
		"{%s,\"load\":{\"argv\":[\"/bin/sh\",\"-c\",\"echo no such table; exit 1\"]}}", check);
	assert_int_equal(s, KT_STATUS_FAILED);
	assert_int_equal(err.code, KT_E_REFUSED);
	assert_non_null(strstr(err.msg, "the database was not loaded"));
	assert_non_null(strstr(err.msg, "no such table"));
	assert_false(is_there("scratch"));
	cJSON_Delete(result);
	/* A command that waits for a dump, and an archive that has none. */
	make_backup(plain);
	s = ask(kt_action_backup_check, &result, &err,
		"{\"archive\":\"%s\",\"sha256\":\"%s\",\"scratch\":\"%s\",\"load\":{\"argv\":[\"/bin/true\"]}}",
		at("b/x.tar.zst"), plain, at("scratch"));
	assert_int_equal(s, KT_STATUS_FAILED);
	assert_int_equal(err.code, KT_E_REFUSED);
	assert_non_null(strstr(err.msg, "has none"));
	assert_false(is_there("scratch"));
	cJSON_Delete(result);
}

/* Whatever fails, the scratch folder is gone afterwards and the installation is untouched. */
static void test_check_refuses(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	char sha256[KT_SHA256_HEX];
	make_installation();
	make_backup(sha256);
	kt_status s =
		ask(kt_action_backup_check, &result, &err,
		    "{\"archive\":\"%s\",\"sha256\":\"%s\",\"scratch\":\"%s\",\"check\":{\"argv\":[\"/bin/false\"]}}",
		    at("b/x.tar.zst"), sha256, at("s"));
	assert_int_equal(s, KT_STATUS_FAILED);
	assert_non_null(strstr(err.msg, "does not open"));
	assert_false(is_there("s"));
	cJSON_Delete(result);
	s = ask(kt_action_backup_check, &result, &err,
		"{\"archive\":\"%s\",\"sha256\":\"%s\",\"scratch\":\"%s\",\"check\":{\"argv\":[\"/no/such\"]}}",
		at("b/x.tar.zst"), sha256, at("s"));
	assert_int_equal(s, KT_STATUS_FAILED);
	assert_false(is_there("s"));
	cJSON_Delete(result);
	/* Another digest, and a damaged file. */
	sha256[5] = sha256[5] == '0' ? '1' : '0';
	s = ask(kt_action_backup_check, &result, &err, "{\"archive\":\"%s\",\"sha256\":\"%s\",\"scratch\":\"%s\"}",
		at("b/x.tar.zst"), sha256, at("s"));
	assert_int_equal(s, KT_STATUS_FAILED);
	assert_int_equal(err.code, KT_E_INPUT);
	assert_false(is_there("s"));
	cJSON_Delete(result);
	put_text("top/looker.db", "newer", 0600);
	s = ask(kt_action_backup_restore, &result, &err, "{\"archive\":\"%s\",\"sha256\":\"%s\"}", at("b/x.tar.zst"),
		sha256);
	assert_int_equal(s, KT_STATUS_FAILED);
	assert_text("top/looker.db", "newer");
	cJSON_Delete(result);
}

static void test_scratch_of_others_is_not_touched(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	char sha256[KT_SHA256_HEX];
	make_installation();
	make_backup(sha256);
	put_folder("s", 0755);
	put_text("s/precious", "x", 0600);
	put_text("file", "x", 0600);
	assert_int_equal(symlink("s", at("link")), 0);
	static const char *const names[] = {"s", "file", "link"};
	for (size_t i = 0; i < 3; i++) {
		kt_status s = ask(kt_action_backup_check, &result, &err,
				  "{\"archive\":\"%s\",\"sha256\":\"%s\",\"scratch\":\"%s\"}", at("b/x.tar.zst"),
				  sha256, at(names[i]));
		assert_int_equal(s, KT_STATUS_FAILED);
		assert_int_equal(err.code, KT_E_REFUSED);
		assert_true(is_there("s/precious"));
		cJSON_Delete(result);
	}
	/* What a killed agent left is known by its mark. */
	assert_kt_ok(kt_scratch_make(at("old"), &err));
	put_text("old/half", "unpacked", 0600);
	kt_status s =
		ask(kt_action_backup_check, &result, &err, "{\"archive\":\"%s\",\"sha256\":\"%s\",\"scratch\":\"%s\"}",
		    at("b/x.tar.zst"), sha256, at("old"));
	if (s != KT_STATUS_OK)
		fail_msg("%s", err.msg);
	assert_true(cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(result, "checked")));
	assert_false(is_there("old"));
	cJSON_Delete(result);
}

/* The application's user opens what was restored, in a folder that is nobody else's. */
static void test_check_as_another_user(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	char sha256[KT_SHA256_HEX];
	if (geteuid() != 0) {
		print_message("skipped: needs root\n");
		skip();
	}
	make_installation();
	assert_int_equal(chown(at("top/looker.db"), 65534, 65534), 0);
	make_backup(sha256);
	kt_status s =
		ask(kt_action_backup_check, &result, &err,
		    "{\"archive\":\"%s\",\"sha256\":\"%s\",\"scratch\":\"%s\",\"check\":{\"user\":\"nobody\",\"argv\":"
		    "[\"/bin/sh\",\"-c\",\"test $(stat -c %%a ${scratch}) = 700 && cat ${scratch}%s >/dev/null && : > "
		    "${scratch}%s-wal\"]}}",
		    at("b/x.tar.zst"), sha256, at("s"), at("top/looker.db"), at("top/looker.db"));
	/* The folders inside keep their owners, so that only a file of nobody's own can be written there. */
	if (s != KT_STATUS_OK)
		assert_non_null(strstr(err.msg, "ermission"));
	assert_false(is_there("s"));
	cJSON_Delete(result);
	s = ask(kt_action_backup_check, &result, &err,
		"{\"archive\":\"%s\",\"sha256\":\"%s\",\"scratch\":\"%s\",\"check\":{\"user\":\"nobody\",\"argv\":"
		"[\"/bin/sh\",\"-c\",\"test $(stat -c %%a ${scratch}) = 700 && cat ${scratch}%s\"]}}",
		at("b/x.tar.zst"), sha256, at("s"), at("top/looker.db"));
	if (s != KT_STATUS_OK)
		fail_msg("%s", err.msg);
	assert_false(is_there("s"));
	cJSON_Delete(result);
}

/* A key of the cluster, as its file has it. */
static void make_key_file(const char *name, mode_t mode, char kcv[KT_KCV_TEXT])
{
	kt_err err = KT_ERR_INIT;
	kt_secret key;
	kt_secret text;
	assert_kt_ok(kt_secret_random(&key, 32, &err));
	assert_kt_ok(kt_secret_to_base64(&key, &text, &err));
	put_bytes(name, text.data, text.len, mode);
	if (kcv)
		assert_kt_ok(kt_kcv_of(&key, kcv, &err));
	kt_secret_free(&key);
	kt_secret_free(&text);
}

static void test_no_key_in_a_backup(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	cJSON *result = NULL;
	make_installation();
	make_key_file("top/cmk", 0400, NULL);
	/* In a file that is no key file by its mode: it is found by its content. */
	kt_buf text = KT_BUF_INIT;
	assert_kt_ok(kt_file_read(at("top/cmk"), &text, &err));
	put_bytes("top/notes.txt", text.data, text.len, 0600);
	kt_buf_free(&text);
	kt_status s = ask(kt_action_backup_create, &result, &err,
			  "{\"archive\":\"%s\",\"top\":\"%s\",\"secrets\":[{\"key\":{\"file\":\"%s\"}}]}",
			  at("b/x.tar.zst"), at("top"), at("top/cmk"));
	assert_int_equal(s, KT_STATUS_FAILED);
	assert_int_equal(err.code, KT_E_KEY);
	assert_non_null(strstr(err.msg, "top/notes.txt"));
	assert_false(is_there("b/x.tar.zst"));
	cJSON_Delete(result);
	assert_int_equal(unlink(at("top/notes.txt")), 0);
	s = ask(kt_action_backup_create, &result, &err,
		"{\"archive\":\"%s\",\"top\":\"%s\",\"secrets\":[{\"key\":{\"file\":\"%s\"}}],\"key_files\":[\"%s\"]}",
		at("b/x.tar.zst"), at("top"), at("top/cmk"), at("top/cmk"));
	if (s != KT_STATUS_OK)
		fail_msg("%s", err.msg);
	assert_int_equal(number_of(result, "files"), 3);
	cJSON_Delete(result);
	/* A key that cannot be resolved cannot be looked for. */
	s = ask(kt_action_backup_create, &result, &err,
		"{\"archive\":\"%s\",\"top\":\"%s\",\"secrets\":[{\"key\":{\"file\":\"%s\"}}]}", at("b/y.tar.zst"),
		at("top"), at("gone"));
	assert_int_equal(s, KT_STATUS_FAILED);
	assert_false(is_there("b/y.tar.zst"));
	cJSON_Delete(result);
}

static void test_bad_arguments(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	static const char *const bad[] = {
		"{}",
		"{\"archive\":\"relative\",\"top\":\"/tmp\"}",
		"{\"archive\":\"/tmp/../x\",\"top\":\"/tmp\"}",
		"{\"archive\":\"/nowhere/x\"}",
		"{\"archive\":\"/nowhere/x\",\"top\":5}",
		"{\"archive\":\"/nowhere/x\",\"top\":\"/tmp\",\"exclude\":[5]}",
		"{\"archive\":\"/nowhere/x\",\"top\":\"/tmp\",\"secrets\":{}}",
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		kt_status s = ask(kt_action_backup_create, &result, &err, "%s", bad[i]);
		if (s != KT_STATUS_FAILED)
			fail_msg("%s", bad[i]);
		cJSON_Delete(result);
	}
	if (is_there("/nowhere"))
		(void)rmdir("/nowhere");
}

/* --- preflight ------------------------------------------------------------------------------------------------- */

static void test_preflight_good(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	char kcv[KT_KCV_TEXT];
	make_installation();
	make_key_file("cmk", 0400, kcv);
	put_text("env", "A=1\nLKR_MASTER_KEY_FILE=/x # secret-value\n", 0640);
	kt_status s =
		ask(kt_action_preflight, &result, &err,
		    "{\"service\":{\"start\":[\"/bin/true\"],\"stop\":[\"/bin/true\"],\"status\":[\"/bin/true\"]},"
		    "\"env_file\":\"%s\",\"backup\":{\"destination\":\"%s\",\"top\":\"%s\",\"exclude\":[\"log\"],"
		    "\"paths\":[]},"
		    "\"key\":{\"key\":{\"file\":\"%s\"}},\"writable\":[\"%s\"],\"needs\":[\"/bin/sh\",\"ls\"]}",
		    at("env"), at("not/yet/there"), at("top"), at("cmk"), at("top"));
	if (geteuid() != 0 && s != KT_STATUS_OK) {
		assert_non_null(strstr(err.msg, "cannot look into"));
	} else {
		if (s != KT_STATUS_OK)
			fail_msg("%s", err.msg);
		assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(result, "findings")), 0);
	}
	assert_string_equal(text_of(result, "kcv"), kcv);
	assert_string_equal(text_of(result, "service"), "active");
	assert_true(number_of(result, "needed_bytes") >= 2 * 27);
	assert_true(number_of(result, "free_bytes") > number_of(result, "needed_bytes"));
	assert_int_equal(number_of(result, "uid"), geteuid());
	const cJSON *names = cJSON_GetObjectItemCaseSensitive(result, "env_names");
	assert_int_equal(cJSON_GetArraySize(names), 2);
	char *print = cJSON_PrintUnformatted(result);
	assert_null(strstr(print, "secret-value"));
	cJSON_free(print);
	assert_false(is_there("not"));
	cJSON_Delete(result);
}

/* Everything that is wrong is told at once, and the documented texts pass through. */
static void test_preflight_names_everything(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	make_installation();
	make_key_file("cmk", 0644, NULL);
	put_text("env", "A=\"not closed\n", 0640);
	kt_status s =
		ask(kt_action_preflight, &result, &err,
		    "{\"service\":{\"start\":[\"/bin/true\"],\"stop\":[\"/bin/true\"],\"status\":[\"/no/such\"]},"
		    "\"env_file\":\"%s\",\"backup\":{\"destination\":\"%s\",\"top\":\"%s\"},"
		    "\"key\":{\"key\":{\"file\":\"%s\"}},\"writable\":[\"%s\",\"%s\"],\"needs\":[\"no-such-program\","
		    "\"%s\"]}",
		    at("env"), at("b"), at("no-top"), at("cmk"), at("gone"), at("top/models/a"), at("top/models/a"));
	assert_int_equal(s, KT_STATUS_FAILED);
	assert_int_equal(err.code, KT_E_REFUSED);
	const cJSON *findings = cJSON_GetObjectItemCaseSensitive(result, "findings");
	assert_true(cJSON_GetArraySize(findings) >= 8);
	static const char *const what[] = {"service", "env_file", "backup", "key", "writable", "needs"};
	for (size_t i = 0; i < sizeof what / sizeof *what; i++) {
		const cJSON *one;
		bool there = false;
		cJSON_ArrayForEach(one, findings) there =
			there || strcmp(cJSON_GetObjectItemCaseSensitive(one, "what")->valuestring, what[i]) == 0;
		if (!there)
			fail_msg("nothing about %s: %s", what[i], err.msg);
	}
	char *print = cJSON_PrintUnformatted(findings);
	assert_non_null(strstr(print, "Permission for backing key file must be 0400, but is 0644"));
	cJSON_free(print);
	cJSON_Delete(result);
}

static void test_preflight_room(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	static uint8_t block[900000];
	make_installation();
	put_bytes("top/large", block, sizeof block, 0600);
	memset(block, 1, sizeof block);
	put_bytes("top/large", block, sizeof block, 0600);
	put_folder("small", 0755);
	if (geteuid() != 0 || mount("tmpfs", at("small"), "tmpfs", 0, "size=1m") != 0) {
		print_message("skipped: a small file system needs root\n");
		skip();
	}
	kt_status s = ask(kt_action_preflight, &result, &err, "{\"backup\":{\"destination\":\"%s\",\"top\":\"%s\"}}",
			  at("small/backups"), at("top"));
	assert_int_equal(umount(at("small")), 0);
	assert_int_equal(s, KT_STATUS_FAILED);
	assert_non_null(strstr(err.msg, "are free"));
	assert_non_null(strstr(err.remedy, "make room"));
	cJSON_Delete(result);
}

/* A dump counts three times; a disk that it fills up is named, and nothing is left. */
static void test_room_for_a_dump(void **state)
{
	(void)state;
	kt_err err;
	cJSON *result = NULL;
	make_installation();
	put_folder("small", 0755);
	if (geteuid() != 0 || mount("tmpfs", at("small"), "tmpfs", 0, "size=2m") != 0) {
		print_message("skipped: a small file system needs root\n");
		skip();
	}
	static const char ask_with[] =
		"{\"backup\":{\"destination\":\"%s\",\"top\":\"%s\",\"dump_size\":{\"argv\":[\"/bin/echo\",\"%s\"]}}}";
	kt_status s = ask(kt_action_preflight, &result, &err, ask_with, at("small/backups"), at("top"), "100000");
	double needed = number_of(result, "needed_bytes");
	cJSON_Delete(result);
	kt_err large;
	kt_status refused =
		ask(kt_action_preflight, &result, &large, ask_with, at("small/backups"), at("top"), "400000");
	double more = number_of(result, "needed_bytes");
	cJSON_Delete(result);
	kt_err odd;
	kt_status no_number = ask(kt_action_preflight, &result, &odd, ask_with, at("small/backups"), at("top"), "NULL");
	cJSON_Delete(result);
	kt_err full;
	kt_status dumped =
		ask(kt_action_backup_create, &result, &full,
		    "{\"archive\":\"%s\",\"top\":\"%s\",\"paths\":[],\"dump\":{\"argv\":[\"/bin/cat\",\"/dev/zero\"]},"
		    "\"load\":{\"argv\":[\"x\"]}}",
		    at("small/b/d.ktbackup"), at("top"));
	cJSON_Delete(result);
	bool left = is_there("small/b/d.ktbackup") || is_there("small/b/d.ktbackup.part");
	int unmounted = umount(at("small")); /* fails while something holds a file there */
	assert_int_equal(unmounted, 0);
	if (geteuid() == 0 && s != KT_STATUS_OK)
		fail_msg("%s", err.msg);
	assert_true(more - needed == 900000);
	assert_int_equal(refused, KT_STATUS_FAILED);
	assert_non_null(strstr(large.msg, "are free"));
	assert_int_equal(no_number, KT_STATUS_FAILED);
	assert_non_null(strstr(odd.msg, "no number"));
	assert_int_equal(dumped, KT_STATUS_FAILED);
	assert_int_equal(full.code, KT_E_IO);
	assert_non_null(strstr(full.msg, "the database was not dumped"));
	assert_non_null(strstr(full.msg, "left beside"));
	assert_non_null(strstr(full.msg, "small/b"));
	assert_non_null(strstr(full.msg, "No space left"));
	assert_false(left);
}

static int all_tests(void)
{
	kt_err err = KT_ERR_INIT;
	if (kt_secret_setup(&err) != KT_OK || signal(SIGPIPE, SIG_IGN) == SIG_ERR) {
		(void)fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_drop)
	const struct CMUnitTest tests[] = {
		TEST(test_create_check_restore),
		TEST(test_dump_and_load),
		TEST(test_dump_is_test_loaded),
		TEST(test_check_refuses),
		TEST(test_scratch_of_others_is_not_touched),
		TEST(test_check_as_another_user),
		TEST(test_no_key_in_a_backup),
		TEST(test_bad_arguments),
		TEST(test_preflight_good),
		TEST(test_preflight_names_everything),
		TEST(test_preflight_room),
		TEST(test_room_for_a_dump),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
	return in_own_world(all_tests);
}

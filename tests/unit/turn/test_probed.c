/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "orchestrator/turn/probed.h"

static char state[] = "probed-XXXXXX";
static const char module[] = "/bin/true"; /* some file: only its bytes matter */

static int make_folder(void **unused)
{
	(void)unused;
	return mkdtemp(state) ? 0 : -1;
}

static cJSON *report(const char *serial, bool fit)
{
	char text[1024];
	kt_err err = KT_ERR_INIT;
	cJSON *out;
	(void)snprintf(
		text, sizeof text,
		"{\"format\":\"keyturn-probe/1\",\"token\":{\"label\":\"T\",\"serial\":\"%s\",\"manufacturer\":\"M\","
		"\"model\":\"X\",\"hardware\":\"1.0\",\"firmware\":\"2.0\",\"module\":{\"path\":\"%s\",\"library\":"
		"\"L\","
		"\"manufacturer\":\"LM\",\"version\":\"3.0\",\"cryptoki\":\"2.40\"}},"
		"\"coordinator\":{\"fit\":%s,\"verdict\":\"unfit because it sings\"}}",
		serial, module, fit ? "true" : "false");
	assert_kt_ok(kt_json_parse("report", text, strlen(text), &out, &err));
	assert_kt_ok(kt_probed_identify(cJSON_GetObjectItemCaseSensitive(out, "token"), &err));
	return out;
}

static cJSON *token_of(cJSON *r)
{
	return cJSON_GetObjectItemCaseSensitive(r, "token");
}

static void what_was_never_probed_is_no_change(void **unused)
{
	(void)unused;
	kt_err err = KT_ERR_INIT;
	bool kept = true;
	cJSON *r = report("never", true);
	assert_kt_ok(kt_probed_check(state, token_of(r), &kept, &err));
	assert_false(kept);
	cJSON_Delete(r);
}

static void the_same_token_is_taken(void **unused)
{
	(void)unused;
	kt_err err = KT_ERR_INIT;
	bool kept = false;
	cJSON *r = report("same", true);
	assert_kt_ok(kt_probed_keep(state, r, &err));
	assert_kt_ok(kt_probed_check(state, token_of(r), &kept, &err));
	assert_true(kept);
	cJSON_Delete(r);
}

/* Each member that tells a token, or what it runs on, is told when it is another. */
static void a_changed_token_is_refused(void **unused)
{
	static const char *const of_token[] = {"label", "manufacturer", "model", "hardware", "firmware"};
	static const char *const of_module[] = {"library", "manufacturer", "version", "cryptoki", "sha256"};
	(void)unused;
	kt_err err = KT_ERR_INIT;
	bool kept;
	for (size_t i = 0; i < 10; i++) {
		cJSON *r = report("changing", true);
		assert_kt_ok(kt_probed_keep(state, r, &err));
		cJSON *o = i < 5 ? token_of(r) : cJSON_GetObjectItemCaseSensitive(token_of(r), "module");
		const char *name = i < 5 ? of_token[i] : of_module[i - 5];
		assert_true(cJSON_ReplaceItemInObjectCaseSensitive(o, name, cJSON_CreateString("another")));
		assert_kt_fails(KT_E_REFUSED, kt_probed_check(state, token_of(r), &kept, &err));
		assert_non_null(strstr(err.msg, "another"));
		assert_non_null(strstr(err.remedy, "keyturn hsm probe"));
		cJSON_Delete(r);
	}
}

/* The same file elsewhere is the same module. */
static void a_moved_module_is_no_change(void **unused)
{
	(void)unused;
	kt_err err = KT_ERR_INIT;
	bool kept;
	cJSON *r = report("moved", true);
	assert_kt_ok(kt_probed_keep(state, r, &err));
	cJSON *o = cJSON_GetObjectItemCaseSensitive(token_of(r), "module");
	assert_true(cJSON_ReplaceItemInObjectCaseSensitive(o, "path", cJSON_CreateString("/elsewhere")));
	assert_kt_ok(kt_probed_check(state, token_of(r), &kept, &err));
	cJSON_Delete(r);
}

static void an_unfit_token_is_refused(void **unused)
{
	(void)unused;
	kt_err err = KT_ERR_INIT;
	bool kept;
	cJSON *r = report("unfit", false);
	assert_kt_ok(kt_probed_keep(state, r, &err));
	assert_kt_fails(KT_E_REFUSED, kt_probed_check(state, token_of(r), &kept, &err));
	assert_non_null(strstr(err.msg, "it sings"));
	cJSON_Delete(r);
}

/* A record that was changed is not "never probed". */
static void a_damaged_record_is_told(void **unused)
{
	(void)unused;
	kt_err err = KT_ERR_INIT;
	bool kept;
	char path[128];
	cJSON *r = report("damaged", true);
	assert_kt_ok(kt_probed_keep(state, r, &err));
	(void)snprintf(path, sizeof path, "%s/hsm/damaged.json", state);
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(truncate(path, st.st_size / 2), 0);
	assert_kt_fails(KT_E_AUDIT, kt_probed_check(state, token_of(r), &kept, &err));
	cJSON_Delete(r);
}

static void another_format_is_refused(void **unused)
{
	(void)unused;
	kt_err err = KT_ERR_INIT;
	bool kept;
	cJSON *r = report("format", true);
	assert_true(cJSON_ReplaceItemInObjectCaseSensitive(r, "format", cJSON_CreateString("keyturn-probe/9")));
	assert_kt_ok(kt_probed_keep(state, r, &err));
	assert_kt_fails(KT_E_REFUSED, kt_probed_check(state, token_of(r), &kept, &err));
	assert_non_null(strstr(err.msg, "keyturn-probe/9"));
	cJSON_Delete(r);
}

static void a_serial_is_no_path(void **unused)
{
	(void)unused;
	kt_err err = KT_ERR_INIT;
	char path[128];
	cJSON *r = report("../a b", true);
	assert_kt_ok(kt_probed_keep(state, r, &err));
	(void)snprintf(path, sizeof path, "%s/hsm/%%2e%%2e%%2fa%%20b.json", state);
	assert_int_equal(access(path, R_OK), 0);
	cJSON_Delete(r);
	r = report("", true);
	assert_kt_ok(kt_probed_keep(state, r, &err));
	(void)snprintf(path, sizeof path, "%s/hsm/no-serial.json", state);
	assert_int_equal(access(path, R_OK), 0);
	cJSON_Delete(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_never_probed_is_no_change), cmocka_unit_test(the_same_token_is_taken),
		cmocka_unit_test(a_changed_token_is_refused),         cmocka_unit_test(a_moved_module_is_no_change),
		cmocka_unit_test(an_unfit_token_is_refused),          cmocka_unit_test(a_damaged_record_is_told),
		cmocka_unit_test(another_format_is_refused),          cmocka_unit_test(a_serial_is_no_path),
	};
	return cmocka_run_group_tests(tests, make_folder, NULL);
}

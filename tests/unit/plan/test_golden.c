/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole plans against files that a person has read: golden/NAME.json (the plan) and golden/NAME.txt (what `keyturn
 * plan` prints). When they differ the new text is left in the scratch folder: read the difference, and copy it if it is
 * meant.
 */
#include "tests/unit/support.h"

#include "base/file.h"
#include "tests/unit/plan/fixture.h"

static void equals_golden(const char *name, const char *text)
{
	char path[2000];
	kt_err err = KT_ERR_INIT;
	kt_buf want = KT_BUF_INIT;
	const char *source = getenv("KT_SOURCE_DIR");
	(void)snprintf(path, sizeof path, "%s/tests/unit/plan/golden/%s", source ? source : "../../../..", name);
	kt_code rc = kt_file_read(path, &want, &err);
	if (rc == KT_OK && strcmp(kt_buf_cstr(&want), text) == 0) {
		kt_buf_free(&want);
		return;
	}
	kt_buf_free(&want);
	FILE *f = fopen(name, "w");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
	char *here = realpath(name, NULL);
	print_error("%s differs (%s): diff %s %s\n", name, err.msg, path, here);
	free(here);
	fail();
}

static void check(const char *name, const fixture *f)
{
	char file[100];
	kt_err err = KT_ERR_INIT;
	kt_buf text = KT_BUF_INIT;
	cJSON *plan = fixture_plan(f);
	/* Of the playbook only what is done counts here, not its comments and helps. */
	cJSON *playbook = cJSON_GetObjectItem(plan, "playbook");
	(void)cJSON_ReplaceItemInObject(playbook, "sha256", cJSON_CreateString("000000000000"));
	char *json = cJSON_Print(plan);
	assert_kt_ok(kt_plan_print(plan, &text, &err));
	assert_kt_ok(kt_buf_str(&text, "", &err));
	kt_buf whole = KT_BUF_INIT;
	assert_kt_ok(kt_buf_printf(&whole, &err, "%s\n", json));
	(void)snprintf(file, sizeof file, "%s.txt", name);
	equals_golden(file, kt_buf_cstr(&text));
	(void)snprintf(file, sizeof file, "%s.json", name);
	equals_golden(file, kt_buf_cstr(&whole));
	cJSON_free(json);
	cJSON_Delete(plan);
	kt_buf_free(&whole);
	kt_buf_free(&text);
}

static void file_to_file(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	f.nodes = "[{'name':'web[01-02]','host':'${node}.example.com'},{'name':'web03','host':'${node}.example.com',"
		  "'transport_key':'pkcs11:token=${node};object=keyturn?module-path=/m.so&pin-source=file:/etc/pin'}]";
	f.pins[0] = (kt_plan_pin){"file", "1111111111111111111111111111111111111111111111111111111111111111"};
	f.pins[2] = (kt_plan_pin){"pkcs11:token=web03;object=keyturn",
				  "3333333333333333333333333333333333333333333333333333333333333333"};
	check("file-to-file", &f);
}

static void env_to_file(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	for (size_t i = 0; i < FIXTURE_NODES; i++)
		f.located[i] = (kt_located){"env:LKR_MASTER_KEY_ENV", NULL};
	check("env-to-file", &f);
}

/* No systemd, no root, no shared database, everything different on every node. */
static void file_to_env_by_commands(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	f.vars = "{'dir':'/srv/it\\u0027s ${node}/looker','env_file':'${dir}.env','run_user':null,'database':null,"
		 "'heartbeat_command':null,'restore_check':null,'internal_db_creds':'/srv/db.yaml',"
		 "'service':{'start':['./looker','start'],'stop':['./looker','stop'],'status':['./looker','status'],"
		 "'cwd':'${dir}','env_file':'${env_file}'}}";
	f.key = "{'from':'file:/keys/${node}/cmk','to':'env:LKR_MASTER_KEY_ENV'}";
	for (size_t i = 0; i < FIXTURE_NODES; i++)
		f.located[i] = (kt_located){0};
	check("file-to-env-by-commands", &f);
}

/* A key that never leaves AWS KMS, and one in the nodes' tokens. */
static void awskms_to_pkcs11(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	f.key = "{'to':'pkcs11:token=${node};object=cmk?pin-source=file:/etc/pin'}";
	f.vars = "{'database':'/srv/looker/looker.db','rekey_depth':'cmk'}";
	for (size_t i = 0; i < FIXTURE_NODES; i++)
		f.located[i] = (kt_located){"awskms:alias/looker?region=eu-west-1&context=mine", ""};
	check("awskms-to-pkcs11", &f);
}

/* No key yet: the migration out of the legacy form. */
static void legacy_to_file(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	f.key = "{'from':'legacy:','to':'file:${dir}/cmk-${run}'}";
	f.vars = "{'database':'/srv/looker/looker.db'}";
	for (size_t i = 0; i < FIXTURE_NODES; i++)
		f.located[i] = (kt_located){"legacy:", ""};
	check("legacy-to-file", &f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(file_to_file),
		cmocka_unit_test(env_to_file),
		cmocka_unit_test(file_to_env_by_commands),
		cmocka_unit_test(awskms_to_pkcs11),
		cmocka_unit_test(legacy_to_file),
	};
	return cmocka_run_group_tests_name("golden plans", tests, NULL, NULL);
}

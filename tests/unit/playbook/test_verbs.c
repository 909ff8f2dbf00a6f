/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <string.h>

#include "orchestrator/playbook/verbs.h"

static void the_table_is_whole(void **state)
{
	(void)state;
	size_t n = 0;
	for (const kt_verb *v = kt_verb_table(); v->name; v++, n++) {
		assert_ptr_equal(kt_verb_find(v->name), v);
		assert_non_null(v->results);
		size_t len = strlen(v->results);
		assert_true(len == 0 || v->results[len - 1] == ' ');
		if (v->undo) {
			assert_non_null(kt_verb_find(v->undo));
			assert_true(v->changes);
		}
	}
	assert_int_equal(n, 29);
	assert_null(kt_verb_find("service"));
	assert_null(kt_verb_find(""));
}

static void results_are_known_by_their_whole_name(void **state)
{
	(void)state;
	const kt_verb *v = kt_verb_find("key.wrap");
	assert_true(kt_verb_gives(v, "blob"));
	assert_true(kt_verb_gives(v, "blob.key.kcv"));
	assert_true(kt_verb_gives(v, "kcv"));
	assert_true(kt_verb_gives(v, "kcv_method"));
	assert_false(kt_verb_gives(v, "kc"));
	assert_false(kt_verb_gives(v, ""));
	assert_false(kt_verb_gives(v, "method"));
	assert_false(kt_verb_gives(kt_verb_find("drift.check"), "kcv"));
}

static const struct {
	const char *verb, *with;
	const char *message; /* NULL: fine */
	const char *member;
} rows[] = {
	{"facts", "{}", NULL, ""},
	{"facts", "{\"x\":1}", "facts has no \"x\"", "x"},
	{"service.stop", "{\"service\":{\"unit\":\"a.service\"},\"timeout_s\":5}", NULL, ""},
	{"service.stop", "{\"service\":\"${service}\",\"timeout_s\":\"${t}\"}", NULL, ""},
	{"service.stop", "{}", "service.stop needs \"service\"", ""},
	{"service.stop", "{\"sevrice\":1}", "service.stop has no \"sevrice\"; did you mean \"service\"?", "sevrice"},
	{"service.stop", "{\"service\":\"looker\"}", "\"service\" must be a service", "service"},
	{"service.stop", "{\"service\":{}}", "either \"unit\", or", "service"},
	{"service.stop", "{\"service\":{\"unit\":\"a\",\"start\":[\"b\"]}}", "either \"unit\", or", "service"},
	{"service.stop", "{\"service\":{\"start\":[\"a\"],\"stop\":[\"b\"]}}", "either \"unit\", or", "service"},
	{"service.stop", "{\"service\":{\"start\":[\"a\"],\"stop\":[],\"status\":[\"c\"]}}", "\"stop\" is empty",
	 "service"},
	{"service.stop", "{\"service\":{\"start\":[\"a\"],\"stop\":[\"b\"],\"status\":[\"c\"],\"user\":null}}", NULL,
	 ""},
	{"service.stop", "{\"service\":{\"unti\":\"a\"}}", "did you mean \"unit\"?", "service"},
	{"service.stop", "{\"service\":{\"unit\":\"a\"},\"timeout_s\":1.5}", "\"timeout_s\" must be a whole number",
	 "timeout_s"},
	{"service.start", "{\"service\":{\"unit\":\"a\"},\"if\":\"${stop.was_active|true}\"}", NULL, ""},
	{"service.start", "{\"service\":{\"unit\":\"a\"},\"if\":\"yes\"}", "\"if\" must be true or false", "if"},
	{"gate.check",
	 "{\"service\":{\"unit\":\"a\"},\"processes\":[],\"ports\":[],\"known_nodes\":[],\"heartbeats\":null}", NULL,
	 ""},
	{"gate.check",
	 "{\"service\":{\"unit\":\"a\"},\"processes\":[],\"ports\":[],\"known_nodes\":[],\"heartbeats\":1}",
	 "\"heartbeats\" must be a command", "heartbeats"},
	{"gate.check",
	 "{\"service\":{\"unit\":\"a\"},\"processes\":[],\"ports\":[],\"known_nodes\":[],\"heartbeats\":{}}",
	 "a command needs \"argv\"", "heartbeats"},
	{"exec", "{\"command\":{\"argv\":[\"./x\",\"${y}\"],\"env\":{\"A\":\"b\",\"C\":null,\"D\":{\"key\":\"to\"}}}}",
	 NULL, ""},
	{"exec", "{\"command\":{\"argv\":[\"./x\",{\"key\":\"to\"}]}}", "\"argv\" may hold strings only", "command"},
	{"exec", "{\"command\":{\"argv\":[]}}", "\"argv\" is empty", "command"},
	{"exec", "{\"command\":{\"argv\":[\"x\"],\"env\":{\"A\":7}}}", "\"env\" must be an object of strings",
	 "command"},
	{"exec", "{\"command\":{\"argv\":\"x\"}}", "\"argv\" must be an array", "command"},
	{"exec", "{\"command\":{\"argv\":{\"$concat\":[]}}}", NULL, ""},
	{"exec", "{\"command\":null}", "\"command\" must be a command", "command"},
	{"preflight", "{\"service\":{\"unit\":\"a\"},\"env_file\":\"/e\",\"backup\":{},\"key\":\"from\"}",
	 "\"key\" must be a key reference", "key"},
	{"env.install", "{\"path\":\"/e\",\"set\":[],\"unset\":[],\"keep\":\"r\"}", "\"set\" must be an object", "set"},
	{"key.receive", "{\"slot\":\"s\",\"keep\":1,\"blob\":{},\"label\":\"l\",\"nonce\":\"n\"}",
	 "\"keep\" must be true or false", "keep"},
};

static void members_are_checked(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		kt_err err = KT_ERR_INIT;
		cJSON *with = NULL;
		const char *member = NULL;
		assert_kt_ok(kt_json_parse("with", rows[i].with, strlen(rows[i].with), &with, &err));
		kt_code rc = kt_verb_check_args(kt_verb_find(rows[i].verb), with, &member, &err);
		if (rc != (rows[i].message ? KT_E_INPUT : KT_OK))
			fail_msg("%s %s: %s (%s)", rows[i].verb, rows[i].with, kt_code_name(rc), err.msg);
		if (rows[i].message && !strstr(err.msg, rows[i].message))
			fail_msg("%s: \"%s\" does not say \"%s\"", rows[i].with, err.msg, rows[i].message);
		assert_string_equal(member, rows[i].member);
		cJSON_Delete(with);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_table_is_whole),
		cmocka_unit_test(results_are_known_by_their_whole_name),
		cmocka_unit_test(members_are_checked),
	};
	return cmocka_run_group_tests_name("verbs", tests, NULL, NULL);
}

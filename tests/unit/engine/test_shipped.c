/* SPDX-License-Identifier: Apache-2.0 */
/* The engine takes the plans of the shipped playbooks, and turns them when every node says that all is well. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/engine/engine.h"
#include "orchestrator/plan/plan.h"

/* Every field that a step may ask for. */
static const char RESULT[] = "{\"was_active\":true,\"archive\":\"/a\",\"sha256\":\"s\",\"blob\":{},\"label\":\"l\","
			     "\"nonce\":\"00\",\"expect\":\"p\",\"proof\":\"p\",\"kcv\":\"aabbcc\",\"id\":\"01\","
			     "\"recovered\":true,\"checked\":true,\"verdict\":\"new\",\"quiet\":true}";

static void must(kt_code rc, const kt_err *err)
{
	if (rc != KT_OK)
		fail_msg("%s", err->msg);
}

static cJSON *shipped_plan(const char *example, const char *old_key)
{
	kt_err err = KT_ERR_INIT;
	char path[1000];
	char digest[KT_SHA256_HEX];
	kt_cluster cluster;
	kt_playbook playbook;
	cJSON *plan = NULL;
	const char *source = getenv("KT_SOURCE_DIR");
	assert_non_null(source);
	(void)snprintf(path, sizeof path, "%s/playbooks/examples/%s", source, example);
	must(kt_cluster_load(path, &cluster, &err), &err);
	must(kt_playbook_load("looker", &playbook, &err), &err);
	kt_located *located = calloc(cluster.nodes_count, sizeof *located);
	assert_non_null(located);
	for (size_t i = 0; i < cluster.nodes_count; i++)
		located[i] = (kt_located){.uri = old_key, .kcv = "aabbcc"};
	const kt_plan_input in = {
		.cluster = &cluster, .playbook = &playbook, .run = "20260101T000000Z-0a1b2c", .located = located};
	must(kt_plan_make(&in, &plan, digest, &err), &err);
	free(located);
	kt_playbook_free(&playbook);
	kt_cluster_free(&cluster);
	return plan;
}

/* Intent and outcome of one command; false when nothing is wanted any more. */
static bool one(kt_engine *e)
{
	kt_err err = KT_ERR_INIT;
	kt_command c;
	bool have;
	must(kt_engine_next(e, &c, &have, &err), &err);
	if (!have)
		return false;
	must(c.problem.code, &c.problem);
	cJSON *result = cJSON_Parse(RESULT);
	/* Asked before the rekey the probe says old, as the data is. */
	if (strcmp(c.verb, "probe") == 0 && c.role == KT_ROLE_DO)
		assert_true(cJSON_ReplaceItemInObjectCaseSensitive(result, "verdict", cJSON_CreateString("old")));
	kt_event ev = {.kind = KT_EVENT_INTENT, .step = c.step, .role = c.role, .node = c.node, .attempt = c.attempt};
	must(kt_engine_apply(e, &ev, &err), &err);
	ev.kind = KT_EVENT_OUTCOME;
	ev.result = result;
	must(kt_engine_apply(e, &ev, &err), &err);
	assert_true(kt_engine_sane(e));
	cJSON_Delete(result);
	kt_command_free(&c);
	return true;
}

static void turn(const char *example, const char *old_key)
{
	kt_err err = KT_ERR_INIT;
	kt_engine *e;
	cJSON *plan = shipped_plan(example, old_key);
	must(kt_engine_new(plan, &e, &err), &err);
	must(kt_engine_apply(e, &(kt_event){.kind = KT_EVENT_BEGIN}, &err), &err);
	must(kt_engine_apply(e, &(kt_event){.kind = KT_EVENT_TAKE, .epoch = 1}, &err), &err);
	while (one(e))
		;
	kt_engine_status s = kt_engine_state(e);
	if (s.state != KT_RUN_TURNED)
		fail_msg("%s: %s", kt_run_state_name(s.state), s.reason->msg);
	kt_engine_free(e);
	cJSON_Delete(plan);
}

static void test_loopback(void **state)
{
	(void)state;
	turn("loopback.json", NULL);
}

static void test_systemd(void **state)
{
	(void)state;
	turn("systemd.json", "file:/home/lookerops/looker/cmk");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_loopback),
		cmocka_unit_test(test_systemd),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What is behind the engine's contract: each numbered invariant is broken by hand and must be seen, and memory runs out
 * at every allocation of a whole run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/engine/core.h"
#include "tests/sim/plan.h"
#include "tests/unit/allocfail.h"
#include "tests/unit/engine/answers.h"

/* --- A run with every answer fine, or every second one after the rekey not -----------------------------------------
 */

static kt_code apply(kt_engine *e, kt_event ev, kt_err *err)
{
	return kt_engine_apply(e, &ev, err);
}

/* Intent and outcome of the next command; *have is false when there is none. */
static kt_code one(kt_engine *e, const char *fails, const char *verdict, bool *have, kt_err *err)
{
	kt_command c;
	KT_TRY(kt_engine_next(e, &c, have, err));
	if (!*have)
		return KT_OK;
	kt_event ev = {.kind = KT_EVENT_INTENT, .step = c.step, .role = c.role, .node = c.node, .attempt = c.attempt};
	kt_err why = {.code = KT_E_IO, .msg = "it went wrong"};
	bool bad = fails && strcmp(c.step, fails) == 0 && c.role == KT_ROLE_DO;
	cJSON *result = cJSON_Parse(answer_fine(&c, verdict));
	kt_code rc = result ? apply(e, ev, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	ev.kind = KT_EVENT_OUTCOME;
	ev.result = result;
	ev.status = bad ? KT_STATUS_FAILED : KT_STATUS_OK;
	ev.error = bad ? &why : NULL;
	if (rc == KT_OK)
		rc = apply(e, ev, err);
	cJSON_Delete(result);
	kt_command_free(&c);
	return rc;
}

static kt_code start(const cJSON *plan, kt_engine **e, kt_err *err)
{
	KT_TRY(kt_engine_new(plan, e, err));
	KT_TRY(apply(*e, (kt_event){.kind = KT_EVENT_BEGIN}, err));
	return apply(*e, (kt_event){.kind = KT_EVENT_TAKE, .epoch = 1}, err);
}

/* Until `step` is wanted in `role` (NULL: to its rest). */
static kt_code drive(kt_engine *e, const char *step, kt_role role, const char *fails, kt_err *err)
{
	for (bool have = true; have;) {
		kt_engine_status s = kt_engine_state(e);
		if (step && s.step && strcmp(s.step, step) == 0 && s.role == role)
			return KT_OK;
		KT_TRY(one(e, fails, s.rekey_started && !(fails && s.state == KT_RUN_BACK) ? "new" : "old", &have,
			   err));
	}
	return KT_OK;
}

static void must(kt_code rc, const kt_err *err)
{
	if (rc != KT_OK)
		fail_msg("%s", err->msg);
}

static size_t index_of(const kt_engine *e, const char *step)
{
	size_t i = 0;
	while (i < e->n_steps && strcmp(e->steps[i].name, step) != 0)
		i++;
	assert_true(i < e->n_steps);
	return i;
}

/* --- Invariants ------------------------------------------------------------------------------------------------------
 */

/* `stop` of two nodes: n0 is under way, n1 has failed for good; and 10 others of other states by what is set. */
static kt_engine *engine_at(const cJSON *plan, const char *step)
{
	kt_err err = KT_ERR_INIT;
	kt_engine *e = NULL;
	must(start(plan, &e, &err), &err);
	must(drive(e, step, KT_ROLE_DO, NULL, &err), &err);
	assert_true(kt_engine_sane(e));
	return e;
}

/* Set a field to another value, look, and set it back. */
#define BREAKS(e, field, value)                                                                                        \
	do {                                                                                                           \
		__typeof__(field) kept = (field);                                                                      \
		(field) = (value);                                                                                     \
		if (kt_engine_sane(e))                                                                                 \
			fail_msg("%s = %s is not seen", #field, #value);                                               \
		(field) = kept;                                                                                        \
		assert_true(kt_engine_sane(e));                                                                        \
	} while (0)

static void test_blocks_that_are_not_sane(void **state)
{
	(void)state;
	cJSON *plan = sim_plan(3);
	kt_err err = KT_ERR_INIT;
	kt_engine *e = engine_at(plan, "deliver"); /* at most 2 at once */
	for (int i = 0; i < 2; i++) {
		kt_command c;
		bool have;
		must(kt_engine_next(e, &c, &have, &err), &err);
		must(apply(e, (kt_event){.kind = KT_EVENT_INTENT, .step = c.step, .node = c.node, .attempt = c.attempt},
			   &err),
		     &err);
		kt_command_free(&c);
	}
	kt_block *b = &e->steps[index_of(e, "deliver")].role[KT_ROLE_DO];
	BREAKS(e, b->members, b->members + 1); /* (1) */
	BREAKS(e, b->sent, b->sent + 1);
	BREAKS(e, b->ok, 1);
	BREAKS(e, b->failed, 1);
	BREAKS(e, b->waiting, 1); /* (2) */
	BREAKS(e, b->queued, 0);
	BREAKS(e, b->targets[2].queued, false);
	BREAKS(e, b->targets[0].queued, true);
	BREAKS(e, b->targets[2].member, false);
	BREAKS(e, b->targets[2].state, KT_TARGET_STATES);
	BREAKS(e, b->targets[2].state, KT_TARGET_FAILED);
	BREAKS(e, b->targets[0].tried, false); /* (3) */
	BREAKS(e, b->tried, 0);
	BREAKS(e, e->steps[index_of(e, "deliver")].parallel, 1); /* (4) */
	BREAKS(e, b->first_failed, 0);                           /* (5) */
	BREAKS(e, b->queue[b->head], b->queue[b->head] - 1);
	kt_engine_free(e);
	cJSON_Delete(plan);
}

static void test_engines_that_are_not_sane(void **state)
{
	(void)state;
	cJSON *plan = sim_plan(2);
	kt_engine *e = engine_at(plan, "opens");
	kt_block *rekey = &e->steps[e->once].role[KT_ROLE_DO];
	kt_block *stop = &e->steps[index_of(e, "stop")].role[KT_ROLE_DO];
	kt_block *others = &e->steps[index_of(e, "others")].role[KT_ROLE_DO];
	BREAKS(e, rekey->targets[0].attempt, 2);   /* (7) */
	BREAKS(e, stop->ok, 1);                    /* (1), and by it (8) */
	BREAKS(e, e->committed, true);             /* (9): the commit step is not complete */
	BREAKS(e, e->top, 3);                      /* (11) */
	others->targets[0].state = KT_TARGET_SENT; /* (6) */
	others->targets[0].tried = true;
	others->sent = others->tried = 1;
	assert_false(kt_engine_sane(e));
	others->targets[0].state = KT_TARGET_IDLE;
	others->targets[0].tried = false;
	others->sent = others->tried = 0;
	assert_true(kt_engine_sane(e));
	e->held = true; /* (10): allowed here, where nothing is under way, and not without a role */
	BREAKS(e, e->mode, MODE_TURNED);
	e->held = false;
	kt_engine_free(e);
	e = engine_at(plan, "others");
	BREAKS(e, e->mode, MODE_UNDO); /* (9) */
	kt_engine_free(e);
	cJSON_Delete(plan);
}

/* --- Memory ----------------------------------------------------------------------------------------------------------
 */

static void test_memory_runs_out_while_a_plan_is_loaded(void **state)
{
	(void)state;
	cJSON *plan = sim_plan(2);
	for (size_t n = 1; allocfail_more(n); n++) {
		kt_err err = KT_ERR_INIT;
		kt_engine *e = NULL;
		allocfail_begin(n);
		kt_code rc = kt_engine_new(plan, &e, &err);
		bool failed = allocfail_end();
		assert_int_equal(rc, failed ? KT_E_INTERNAL : KT_OK);
		assert_true(!failed == (e != NULL));
		kt_engine_free(e);
	}
	cJSON_Delete(plan);
}

/* Forward, a failing canary, and the way back. What fails is told, the engine stays sane, and the same call then works:
 * a lack of memory never changes where a run goes. */
static void test_memory_runs_out_in_a_run(void **state)
{
	(void)state;
	cJSON *plan = sim_plan(2);
	for (size_t n = 1; allocfail_more(n); n++) {
		kt_err err = KT_ERR_INIT;
		kt_engine *e = NULL;
		must(start(plan, &e, &err), &err);
		allocfail_begin(n);
		kt_code rc = drive(e, NULL, KT_ROLE_DO, "canary", &err);
		bool failed = allocfail_end();
		assert_true(rc == KT_OK || (failed && rc == KT_E_INTERNAL));
		assert_true(kt_engine_sane(e));
		kt_engine_free(e);
	}
	cJSON_Delete(plan);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_blocks_that_are_not_sane),
		cmocka_unit_test(test_engines_that_are_not_sane),
		cmocka_unit_test(test_memory_runs_out_while_a_plan_is_loaded),
		cmocka_unit_test(test_memory_runs_out_in_a_run),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* One test for each rule of docs/DESIGN.md, "The engine's rules", and for what does not fit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tests/sim/plan.h"
#include "tests/unit/engine/answers.h"

/* --- A rig: an engine, and answers that are fine unless a test says otherwise ------------------------------------- */

typedef struct rig {
	cJSON *plan;
	kt_engine *e;
	const char *verdict; /* what the probe says */
	kt_err err;
} rig;

static void apply(rig *r, kt_event ev)
{
	if (kt_engine_apply(r->e, &ev, &r->err) != KT_OK)
		fail_msg("%s", r->err.msg);
	assert_true(kt_engine_sane(r->e));
}

static void refuse(rig *r, kt_event ev)
{
	r->err = KT_ERR_INIT;
	assert_int_equal(kt_engine_apply(r->e, &ev, &r->err), KT_E_AUDIT);
	assert_true(r->err.msg[0]);
	assert_true(kt_engine_sane(r->e));
}

static void begin_with(rig *r, cJSON *plan)
{
	*r = (rig){.plan = plan, .verdict = "new"};
	if (kt_engine_new(r->plan, &r->e, &r->err) != KT_OK)
		fail_msg("%s", r->err.msg);
	apply(r, (kt_event){.kind = KT_EVENT_BEGIN});
	apply(r, (kt_event){.kind = KT_EVENT_TAKE, .epoch = 1});
}

static void begin(rig *r, size_t nodes)
{
	begin_with(r, sim_plan(nodes));
}

static void end(rig *r)
{
	kt_engine_free(r->e);
	cJSON_Delete(r->plan);
}

static bool next(rig *r, kt_command *c)
{
	bool have;
	assert_int_equal(kt_engine_next(r->e, c, &have, &r->err), KT_OK);
	return have;
}

static kt_event event_for(const kt_command *c, kt_event_kind kind)
{
	return (kt_event){.kind = kind, .step = c->step, .role = c->role, .node = c->node, .attempt = c->attempt};
}

/* Take the next command, which must be this one, and apply its intent. */
static kt_command send(rig *r, const char *step, kt_role role, const char *node)
{
	kt_command c;
	if (!next(r, &c))
		fail_msg("nothing is wanted, but %s on %s should be", step, node);
	if (strcmp(c.step, step) != 0 || c.role != role || strcmp(c.node, node) != 0)
		fail_msg("%s %s on %s is wanted, not %s %s on %s", c.step, kt_role_name(c.role), c.node, step,
			 kt_role_name(role), node);
	apply(r, event_for(&c, KT_EVENT_INTENT));
	kt_command_free(&c);
	return c;
}

static void answer_with(rig *r, const kt_command *c, kt_status status, kt_code code, const char *result)
{
	kt_err error = KT_ERR_INIT;
	kt_event ev = event_for(c, KT_EVENT_OUTCOME);
	cJSON *json = cJSON_Parse(result);
	ev.status = status;
	ev.result = json;
	if (status != KT_STATUS_OK) {
		KT_IGNORE(kt_fail(&error, code, NULL, "%s on %s went wrong", c->step, c->node));
		ev.error = &error;
	}
	apply(r, ev);
	cJSON_Delete(json);
}

static void answer_ok(rig *r, const kt_command *c)
{
	answer_with(r, c, KT_STATUS_OK, KT_OK, answer_fine(c, r->verdict));
}

static void answer_bad(rig *r, const kt_command *c, kt_code code)
{
	answer_with(r, c, KT_STATUS_FAILED, code, "{}");
}

/* Everything is fine until this step, in this role, is wanted (NULL: until nothing is). Returns how many were sent. */
static size_t drive(rig *r, const char *step, kt_role role)
{
	size_t n = 0;
	for (;; n++) {
		kt_command c;
		if (!next(r, &c)) {
			if (step)
				fail_msg("%s is never wanted", step);
			return n;
		}
		if (step && strcmp(c.step, step) == 0 && c.role == role) {
			kt_command_free(&c);
			return n;
		}
		apply(r, event_for(&c, KT_EVENT_INTENT));
		answer_ok(r, &c);
		kt_command_free(&c);
	}
}

static void assert_state(const rig *r, kt_run_state state)
{
	kt_engine_status s = kt_engine_state(r->e);
	if (s.state != state)
		fail_msg("the run is %s, not %s (%s)", kt_run_state_name(s.state), kt_run_state_name(state),
			 s.reason->msg);
}

static size_t step_index(const rig *r, const char *name)
{
	for (size_t i = 0; i < kt_engine_steps(r->e); i++)
		if (strcmp(kt_engine_step(r->e, i).name, name) == 0)
			return i;
	fail_msg("no step %s", name);
	return 0;
}

/* The highest attempt of a target of a step. */
static int64_t attempts(const rig *r, const char *step, kt_role role, size_t target)
{
	return kt_engine_target(r->e, step_index(r, step), role, target).attempts;
}

/* --- Forward ------------------------------------------------------------------------------------------------------ */

static void test_all_fine(void **state)
{
	(void)state;
	rig r;
	begin(&r, 3);
	(void)drive(&r, "rekey", KT_ROLE_DO);
	assert_false(kt_engine_state(r.e).rekey_started);
	kt_command c = send(&r, "rekey", KT_ROLE_DO, "n0");
	assert_true(c.once);
	assert_false(c.settle);
	assert_true(kt_engine_state(r.e).rekey_started);
	answer_ok(&r, &c);
	assert_state(&r, KT_RUN_PROBING);
	(void)drive(&r, "others", KT_ROLE_DO);
	assert_true(kt_engine_state(r.e).rekey_done);
	assert_true(kt_engine_state(r.e).committed);
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_TURNED);
	assert_true(kt_engine_state(r.e).at_rest);
	assert_int_equal(attempts(&r, "rekey", KT_ROLE_DO, 0), 1);
	apply(&r, (kt_event){.kind = KT_EVENT_END, .state = KT_RUN_TURNED});
	assert_true(kt_engine_state(r.e).ended);
	refuse(&r, (kt_event){.kind = KT_EVENT_REVERT}); /* nobody has taken it */
	apply(&r, (kt_event){.kind = KT_EVENT_TAKE, .epoch = 2});
	assert_state(&r, KT_RUN_TURNED); /* and nothing comes of that alone */
	assert_int_equal(drive(&r, NULL, KT_ROLE_DO), 0);
	apply(&r, (kt_event){.kind = KT_EVENT_END, .state = KT_RUN_TURNED});
	end(&r);
}

static void test_parallel_is_kept(void **state)
{
	(void)state;
	rig r;
	begin(&r, 4);
	(void)drive(&r, "deliver", KT_ROLE_DO);
	kt_command a = send(&r, "deliver", KT_ROLE_DO, "n0");
	kt_command b = send(&r, "deliver", KT_ROLE_DO, "n1");
	kt_command c;
	assert_false(next(&r, &c)); /* parallel is 2 */
	answer_ok(&r, &b);
	c = send(&r, "deliver", KT_ROLE_DO, "n2");
	assert_false(kt_engine_idle(r.e));
	answer_ok(&r, &a);
	answer_ok(&r, &c);
	end(&r);
}

static void test_late_values_are_bound(void **state)
{
	(void)state;
	rig r;
	begin(&r, 2);
	kt_command c;
	(void)drive(&r, "deliver", KT_ROLE_DO);
	assert_true(next(&r, &c));
	assert_string_equal(cJSON_GetObjectItem(c.args, "blob")->valuestring, "b");
	kt_command_free(&c);
	end(&r);
}

static void test_missing_late_value_is_a_failure(void **state)
{
	(void)state;
	rig r;
	begin(&r, 1);
	(void)drive(&r, "backup", KT_ROLE_DO);
	kt_command c = send(&r, "backup", KT_ROLE_DO, "n0");
	answer_with(&r, &c, KT_STATUS_OK, KT_OK, "{\"proof\":\"p\"}"); /* no sha256 */
	assert_true(next(&r, &c));
	assert_string_equal(c.step, "restored");
	assert_int_not_equal(c.problem.code, KT_OK);
	assert_non_null(strstr(c.problem.msg, "restored on n0"));
	kt_command_free(&c);
	end(&r);
}

static void test_expect_decides(void **state)
{
	(void)state;
	rig r;
	begin(&r, 2);
	(void)drive(&r, "deliver", KT_ROLE_DO);
	kt_command c = send(&r, "deliver", KT_ROLE_DO, "n0");
	answer_with(&r, &c, KT_STATUS_OK, KT_OK, "{\"proof\":\"of another key\"}");
	assert_state(&r, KT_RUN_BACK);
	assert_string_equal(kt_engine_state(r.e).failed_step, "deliver");
	assert_string_equal(kt_engine_state(r.e).failed_node, "n0");
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_ROLLED_BACK);
	end(&r);
}

/* --- Retry -------------------------------------------------------------------------------------------------------- */

static void test_gate_asks_all_together(void **state)
{
	(void)state;
	rig r;
	begin(&r, 2);
	(void)drive(&r, "gate", KT_ROLE_DO);
	for (int64_t round = 1; round <= 4; round++) {
		kt_command a = send(&r, "gate", KT_ROLE_DO, "n0");
		kt_command b = send(&r, "gate", KT_ROLE_DO, "n1");
		kt_command none;
		assert_int_equal(a.attempt, round);
		assert_int_equal(b.attempt, round);
		assert_int_equal(b.delay_ms, round == 1 ? 0 : 5000);
		answer_with(&r, &b, KT_STATUS_RETRY, KT_E_REFUSED, "{}");
		assert_false(next(&r, &none)); /* not before n0 has answered too */
		answer_ok(&r, &a);
	}
	assert_state(&r, KT_RUN_BACK); /* asked again 3 times, no more */
	assert_string_equal(kt_engine_state(r.e).failed_node, "n1");
	end(&r);
}

/* --- Before the rekey --------------------------------------------------------------------------------------------- */

static void test_refused_when_only_looked(void **state)
{
	(void)state;
	rig r;
	begin(&r, 2);
	kt_command a = send(&r, "preflight", KT_ROLE_DO, "n0");
	kt_command b = send(&r, "preflight", KT_ROLE_DO, "n1");
	answer_bad(&r, &a, KT_E_REFUSED);
	answer_ok(&r, &b);
	assert_state(&r, KT_RUN_REFUSED);
	assert_int_equal(kt_engine_state(r.e).reason->code, KT_E_REFUSED);
	end(&r);
}

static void test_waits_for_siblings_and_undoes_what_began(void **state)
{
	(void)state;
	rig r;
	kt_command c;
	begin(&r, 4);
	(void)drive(&r, "deliver", KT_ROLE_DO);
	kt_command a = send(&r, "deliver", KT_ROLE_DO, "n0");
	kt_command b = send(&r, "deliver", KT_ROLE_DO, "n1");
	answer_bad(&r, &a, KT_E_IO);
	assert_state(&r, KT_RUN_FORWARD);
	assert_true(kt_engine_state(r.e).draining);
	assert_false(next(&r, &c)); /* neither n2 nor an undo while n1 is under way */
	answer_ok(&r, &b);
	assert_state(&r, KT_RUN_BACK);
	a = send(&r, "deliver", KT_ROLE_UNDO, "n0");
	b = send(&r, "deliver", KT_ROLE_UNDO, "n1");
	answer_ok(&r, &a);
	answer_ok(&r, &b);
	/* n2 and n3 never began; the next undo is that of `stop` */
	for (size_t i = 0; i < 4; i++) {
		char node[8];
		(void)snprintf(node, sizeof node, "n%zu", i);
		c = send(&r, "stop", KT_ROLE_UNDO, node);
		answer_ok(&r, &c);
	}
	assert_state(&r, KT_RUN_ROLLED_BACK);
	assert_int_equal(kt_engine_state(r.e).reason->code, KT_E_IO);
	end(&r);
}

static void test_unreachable_is_live(void **state)
{
	(void)state;
	rig r;
	begin(&r, 1);
	(void)drive(&r, "stop", KT_ROLE_DO);
	kt_command c = send(&r, "stop", KT_ROLE_DO, "n0");
	answer_bad(&r, &c, KT_E_UNREACHABLE);
	assert_state(&r, KT_RUN_BACK);
	/* Nobody knows whether it stopped, nor whether it had been active: it is started. */
	kt_command u;
	assert_true(next(&r, &u));
	assert_string_equal(u.verb, "service.start");
	assert_true(cJSON_IsTrue(cJSON_GetObjectItem(u.args, "if")));
	kt_command_free(&u);
	end(&r);
}

static void test_interrupt_before_the_rekey(void **state)
{
	(void)state;
	rig r;
	kt_command c;
	begin(&r, 2);
	(void)drive(&r, "install", KT_ROLE_DO);
	kt_command a = send(&r, "install", KT_ROLE_DO, "n0");
	apply(&r, (kt_event){.kind = KT_EVENT_INTERRUPT});
	assert_false(next(&r, &c));
	answer_ok(&r, &a);
	assert_state(&r, KT_RUN_BACK);
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_ROLLED_BACK);
	assert_int_equal(kt_engine_state(r.e).reason->code, KT_E_INTERRUPTED);
	assert_int_equal(attempts(&r, "rekey", KT_ROLE_DO, 0), 0);
	end(&r);
}

/* --- The rekey and its probe -------------------------------------------------------------------------------------- */

/* The rekey ends as given, the probe says `verdict`; what is wanted then? */
static void rekey(rig *r, kt_status status, const char *verdict)
{
	begin(r, 2);
	(void)drive(r, "rekey", KT_ROLE_DO);
	kt_command c = send(r, "rekey", KT_ROLE_DO, "n0");
	answer_with(r, &c, status, KT_E_REFUSED, "{}");
	r->verdict = verdict;
	c = send(r, "rekey", KT_ROLE_PROBE, "n0");
	answer_ok(r, &c);
}

/* The probe does not say old, so the gate is asked on all nodes (there are two), and then the backup is restored. */
static void restore(rig *r)
{
	static const char *const on[] = {"n0", "n0", "n1", "n0"};
	static const char *const step[] = {"rekey", "gate", "gate", "rekey"};
	static const kt_role role[] = {KT_ROLE_PROBE, KT_ROLE_DO, KT_ROLE_DO, KT_ROLE_UNDO};
	for (size_t i = 0; i < 4; i++) {
		kt_command c = send(r, step[i], role[i], on[i]);
		answer_ok(r, &c);
	}
}

static void test_probe_says_new(void **state)
{
	(void)state;
	static const kt_status any[] = {KT_STATUS_OK, KT_STATUS_FAILED, KT_STATUS_UNKNOWN, KT_STATUS_RETRY};
	for (size_t i = 0; i < 4; i++) {
		rig r;
		rekey(&r, any[i], "new");
		(void)drive(&r, NULL, KT_ROLE_DO);
		assert_state(&r, KT_RUN_TURNED);
		assert_int_equal(attempts(&r, "rekey", KT_ROLE_DO, 0), 1); /* S1 */
		end(&r);
	}
}

static void test_probe_says_old(void **state)
{
	(void)state;
	static const kt_status any[] = {KT_STATUS_OK, KT_STATUS_FAILED, KT_STATUS_UNKNOWN};
	for (size_t i = 0; i < 3; i++) {
		rig r;
		rekey(&r, any[i], "old");
		assert_state(&r, KT_RUN_BACK);
		(void)drive(&r, NULL, KT_ROLE_DO);
		assert_state(&r, KT_RUN_ROLLED_BACK);
		assert_int_equal(attempts(&r, "rekey", KT_ROLE_UNDO, 0), 0); /* nothing to restore */
		assert_int_equal(attempts(&r, "env", KT_ROLE_DO, 0), 0);
		end(&r);
	}
}

static void test_probe_says_anything_else(void **state)
{
	(void)state;
	static const char *const verdicts[] = {"both", "mixed", "none", "unknown", "NEW", ""};
	for (size_t i = 0; i < 6; i++) {
		rig r;
		rekey(&r, KT_STATUS_OK, verdicts[i]);
		restore(&r);
		r.verdict = "old"; /* the restore worked */
		(void)drive(&r, NULL, KT_ROLE_DO);
		assert_state(&r, KT_RUN_ROLLED_BACK);
		assert_int_equal(attempts(&r, "rekey", KT_ROLE_DO, 0), 1);
		end(&r);
	}
}

/* The node is certain that the rekey never started. */
static void never_started(rig *r, const char *verdict)
{
	begin(r, 2);
	(void)drive(r, "rekey", KT_ROLE_DO);
	kt_command c = send(r, "rekey", KT_ROLE_DO, "n0");
	answer_with(r, &c, KT_STATUS_FAILED, KT_E_REFUSED, "{\"started\":false}");
	r->verdict = verdict;
}

static void test_what_never_started_is_not_restored(void **state)
{
	(void)state;
	rig r;
	never_started(&r, "unknown");
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_HELD);
	assert_non_null(strstr(kt_engine_state(r.e).reason->msg, "unknown"));
	assert_non_null(strstr(kt_engine_state(r.e).reason->remedy, "keyturn rollback"));
	assert_int_equal(attempts(&r, "rekey", KT_ROLE_UNDO, 0), 0);
	assert_int_equal(attempts(&r, "stop", KT_ROLE_UNDO, 0), 0); /* S4: nobody was started */
	apply(&r, (kt_event){.kind = KT_EVENT_END, .state = KT_RUN_HELD});
	apply(&r, (kt_event){.kind = KT_EVENT_TAKE, .epoch = 2});
	apply(&r, (kt_event){.kind = KT_EVENT_RESUME});   /* asks the probe again */
	apply(&r, (kt_event){.kind = KT_EVENT_ROLLBACK}); /* which gives nothing up */
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_HELD);
	apply(&r, (kt_event){.kind = KT_EVENT_RESUME});
	r.verdict = "old";
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_ROLLED_BACK);
	assert_int_equal(attempts(&r, "rekey", KT_ROLE_UNDO, 0), 0);
	end(&r);
}

static void test_what_never_started_is_restored_when_a_person_says_so(void **state)
{
	(void)state;
	rig r;
	never_started(&r, "mixed");
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_HELD);
	apply(&r, (kt_event){.kind = KT_EVENT_RESUME});
	apply(&r, (kt_event){.kind = KT_EVENT_REVERT});
	restore(&r);
	r.verdict = "old";
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_ROLLED_BACK);
	end(&r);
}

/* Only that word counts: a command that ran and failed may have changed anything, also where its outcome came late. */
static void test_what_may_have_started_is_restored(void **state)
{
	(void)state;
	static const char *const results[] = {"{}", "{\"exit\":1}", "{\"started\":true}", "{\"started\":0}",
					      "{\"started\":\"false\"}"};
	for (size_t i = 0; i < sizeof results / sizeof results[0]; i++) {
		rig r;
		begin(&r, 2);
		(void)drive(&r, "rekey", KT_ROLE_DO);
		kt_command c = send(&r, "rekey", KT_ROLE_DO, "n0");
		answer_with(&r, &c, KT_STATUS_FAILED, KT_E_REFUSED, results[i]);
		r.verdict = "mixed";
		c = send(&r, "rekey", KT_ROLE_PROBE, "n0");
		answer_ok(&r, &c);
		restore(&r);
		end(&r);
	}
}

static void test_restore_is_checked(void **state)
{
	(void)state;
	rig r;
	rekey(&r, KT_STATUS_FAILED, "mixed");
	(void)drive(&r, NULL, KT_ROLE_DO); /* the probe says mixed for ever */
	assert_state(&r, KT_RUN_HELD);
	assert_non_null(strstr(kt_engine_state(r.e).reason->msg, "mixed"));
	assert_int_equal(attempts(&r, "stop", KT_ROLE_UNDO, 0), 0); /* S4: nobody was started */
	apply(&r, (kt_event){.kind = KT_EVENT_RESUME});
	restore(&r);
	assert_int_equal(attempts(&r, "rekey", KT_ROLE_UNDO, 0), 2);
	r.verdict = "old";
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_ROLLED_BACK);
	end(&r);
}

static void test_no_restore_while_somebody_is_live(void **state)
{
	(void)state;
	rig r;
	rekey(&r, KT_STATUS_FAILED, "mixed");
	(void)drive(&r, "gate", KT_ROLE_DO);
	for (int64_t round = 0; round < 4; round++) {
		kt_command a = send(&r, "gate", KT_ROLE_DO, "n0");
		kt_command b = send(&r, "gate", KT_ROLE_DO, "n1");
		answer_ok(&r, &a);
		answer_with(&r, &b, KT_STATUS_RETRY, KT_E_REFUSED, "{}");
	}
	assert_state(&r, KT_RUN_HELD);
	assert_string_equal(kt_engine_state(r.e).failed_node, "n1");
	apply(&r, (kt_event){.kind = KT_EVENT_END, .state = KT_RUN_HELD});
	apply(&r, (kt_event){.kind = KT_EVENT_TAKE, .epoch = 2});
	apply(&r, (kt_event){.kind = KT_EVENT_RESUME});
	restore(&r);
	r.verdict = "old";
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_ROLLED_BACK);
	end(&r);
}

static void test_an_unreachable_node_is_live_before_a_restore(void **state)
{
	(void)state;
	rig r;
	rekey(&r, KT_STATUS_FAILED, "mixed");
	(void)drive(&r, "gate", KT_ROLE_DO);
	kt_command a = send(&r, "gate", KT_ROLE_DO, "n0");
	kt_command b = send(&r, "gate", KT_ROLE_DO, "n1");
	answer_bad(&r, &b, KT_E_UNREACHABLE);
	answer_ok(&r, &a);
	assert_state(&r, KT_RUN_HELD);
	assert_string_equal(kt_engine_state(r.e).failed_node, "n1");
	apply(&r, (kt_event){.kind = KT_EVENT_RESUME});
	a = send(&r, "gate", KT_ROLE_DO, "n0"); /* together: n0 is asked again, too */
	b = send(&r, "gate", KT_ROLE_DO, "n1");
	answer_ok(&r, &a);
	answer_ok(&r, &b);
	a = send(&r, "rekey", KT_ROLE_UNDO, "n0");
	answer_ok(&r, &a);
	end(&r);
}

static void test_unreachable_rekey_is_settled_first(void **state)
{
	(void)state;
	rig r;
	kt_command c;
	begin(&r, 2);
	(void)drive(&r, "rekey", KT_ROLE_DO);
	for (int i = 0; i < 2; i++) { /* the first time and once more */
		c = send(&r, "rekey", KT_ROLE_DO, "n0");
		assert_int_equal(c.attempt, 1);
		assert_int_equal(c.settle, i > 0);
		assert_int_equal(c.delay_ms, i > 0 ? 5000 : 0);
		answer_with(&r, &c, i > 0 ? KT_STATUS_FAILED : KT_STATUS_UNKNOWN, KT_E_UNREACHABLE, "{}");
	}
	assert_state(&r, KT_RUN_HELD);
	assert_false(next(&r, &c)); /* no probe: perhaps it still runs */
	apply(&r, (kt_event){.kind = KT_EVENT_ROLLBACK});
	apply(&r, (kt_event){.kind = KT_EVENT_RESUME});
	c = send(&r, "rekey", KT_ROLE_DO, "n0");
	assert_int_equal(c.attempt, 1);
	assert_true(c.settle);
	answer_ok(&r, &c);
	c = send(&r, "rekey", KT_ROLE_PROBE, "n0");
	answer_ok(&r, &c);
	assert_state(&r, KT_RUN_BACK); /* new, but a person wants the old key */
	end(&r);
}

static void test_probe_that_fails(void **state)
{
	(void)state;
	rig r;
	begin(&r, 1);
	(void)drive(&r, "rekey", KT_ROLE_PROBE);
	for (int i = 0; i < 3; i++) {
		kt_command c = send(&r, "rekey", KT_ROLE_PROBE, "n0");
		answer_bad(&r, &c, i == 1 ? KT_E_UNREACHABLE : KT_E_IO);
	}
	assert_state(&r, KT_RUN_HELD);
	apply(&r, (kt_event){.kind = KT_EVENT_RESUME});
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_TURNED);
	end(&r);
}

static void test_interrupt_and_rollback_after_the_rekey(void **state)
{
	(void)state;
	rig r;
	begin(&r, 2);
	(void)drive(&r, "env", KT_ROLE_DO);
	apply(&r, (kt_event){.kind = KT_EVENT_INTERRUPT});
	assert_state(&r, KT_RUN_FORWARD);
	assert_true(kt_engine_state(r.e).interrupted);
	apply(&r, (kt_event){.kind = KT_EVENT_ROLLBACK});
	assert_state(&r, KT_RUN_BACK);
	restore(&r); /* for the probe says new */
	r.verdict = "old";
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_ROLLED_BACK);
	end(&r);
}

static void test_rollback_too_late(void **state)
{
	(void)state;
	rig r;
	begin(&r, 3);
	(void)drive(&r, "opens", KT_ROLE_DO);
	kt_command c = send(&r, "opens", KT_ROLE_DO, "n0");
	apply(&r, (kt_event){.kind = KT_EVENT_ROLLBACK});
	answer_ok(&r, &c); /* that was the commit */
	c = send(&r, "others", KT_ROLE_DO, "n1");
	answer_ok(&r, &c);
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_TURNED);
	assert_int_equal(attempts(&r, "verify", KT_ROLE_DO, 1), 1);
	end(&r);
}

/* --- After it ----------------------------------------------------------------------------------------------------- */

static void test_failure_before_the_commit(void **state)
{
	(void)state;
	rig r;
	begin(&r, 2);
	(void)drive(&r, "canary", KT_ROLE_DO);
	kt_command c = send(&r, "canary", KT_ROLE_DO, "n0");
	answer_bad(&r, &c, KT_E_IO);
	c = send(&r, "canary", KT_ROLE_UNDO, "n0"); /* it is stopped before its data changes */
	answer_ok(&r, &c);
	c = send(&r, "env", KT_ROLE_UNDO, "n0");
	answer_ok(&r, &c);
	c = send(&r, "env", KT_ROLE_UNDO, "n1");
	answer_ok(&r, &c);
	restore(&r);
	r.verdict = "old";
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_ROLLED_BACK);
	end(&r);
}

static void test_failure_after_the_commit(void **state)
{
	(void)state;
	rig r;
	kt_command none;
	begin(&r, 4);
	(void)drive(&r, "others", KT_ROLE_DO);
	kt_command a = send(&r, "others", KT_ROLE_DO, "n1");
	kt_command b = send(&r, "others", KT_ROLE_DO, "n2");
	answer_bad(&r, &a, KT_E_IO);
	assert_false(next(&r, &none));
	answer_ok(&r, &b);
	assert_state(&r, KT_RUN_HELD); /* n3 waits */
	assert_string_equal(kt_engine_state(r.e).failed_node, "n1");
	apply(&r, (kt_event){.kind = KT_EVENT_ROLLBACK}); /* too late: noted */
	apply(&r, (kt_event){.kind = KT_EVENT_END, .state = KT_RUN_HELD});
	refuse(&r, (kt_event){.kind = KT_EVENT_RESUME}); /* nobody has taken it */
	apply(&r, (kt_event){.kind = KT_EVENT_TAKE, .epoch = 2});
	apply(&r, (kt_event){.kind = KT_EVENT_RESUME});
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_TURNED);
	assert_int_equal(attempts(&r, "others", KT_ROLE_DO, 0), 2);
	assert_int_equal(attempts(&r, "others", KT_ROLE_DO, 1), 1);
	end(&r);
}

static void test_resume_starts_again(void **state)
{
	(void)state;
	rig r;
	begin(&r, 2);
	(void)drive(&r, "verify", KT_ROLE_DO);
	kt_command c = send(&r, "verify", KT_ROLE_DO, "n1");
	answer_bad(&r, &c, KT_E_REFUSED);
	assert_state(&r, KT_RUN_HELD);
	apply(&r, (kt_event){.kind = KT_EVENT_RESUME});
	c = send(&r, "others", KT_ROLE_DO, "n1"); /* it may have gone down meanwhile */
	assert_int_equal(c.attempt, 2);
	answer_ok(&r, &c);
	c = send(&r, "verify", KT_ROLE_DO, "n1");
	answer_ok(&r, &c);
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_TURNED);
	end(&r);
}

static void test_retire_only_warns(void **state)
{
	(void)state;
	rig r;
	begin(&r, 3);
	(void)drive(&r, "forget", KT_ROLE_DO);
	kt_command c = send(&r, "forget", KT_ROLE_DO, "n0");
	answer_bad(&r, &c, KT_E_IO);
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_TURNED);
	assert_int_equal(kt_engine_state(r.e).warnings, 1);
	end(&r);
}

static void test_undo_that_fails(void **state)
{
	(void)state;
	rig r;
	begin(&r, 2);
	(void)drive(&r, "env", KT_ROLE_DO);
	apply(&r, (kt_event){.kind = KT_EVENT_ROLLBACK});
	r.verdict = "old";
	(void)drive(&r, "deliver", KT_ROLE_UNDO);
	kt_command b = {0};
	for (int64_t i = 1; i <= 3; i++) {
		kt_command a = send(&r, "deliver", KT_ROLE_UNDO, "n0");
		assert_int_equal(a.attempt, i);
		answer_bad(&r, &a, KT_E_IO);
		if (i == 1) {
			b = send(&r, "deliver", KT_ROLE_UNDO, "n1"); /* a failing node keeps no other from its undo */
			answer_ok(&r, &b);
		}
	}
	b = send(&r, "stop", KT_ROLE_UNDO, "n1"); /* n1 is brought back, and n0, which failed, is not started */
	answer_ok(&r, &b);
	assert_state(&r, KT_RUN_HELD);
	assert_string_equal(kt_engine_state(r.e).failed_step, "deliver");
	assert_string_equal(kt_engine_state(r.e).failed_node, "n0");
	assert_non_null(strstr(kt_engine_state(r.e).reason->msg, "every other node is back (left: 1 of 2)"));
	assert_int_equal(attempts(&r, "stop", KT_ROLE_UNDO, 0), 0);
	apply(&r, (kt_event){.kind = KT_EVENT_RESUME});
	kt_command a = send(&r, "deliver", KT_ROLE_UNDO, "n0");
	answer_bad(&r, &a, KT_E_UNREACHABLE);
	kt_command again = send(&r, "deliver", KT_ROLE_UNDO, "n0");
	assert_int_equal(again.attempt, a.attempt); /* nobody knows how it ended: the same key */
	answer_ok(&r, &again);
	a = send(&r, "stop", KT_ROLE_UNDO, "n0"); /* n1 is up already */
	answer_ok(&r, &a);
	assert_state(&r, KT_RUN_ROLLED_BACK);
	end(&r);
}

/* A node that cannot be asked is left, and so is another one later; what is left of both is done in the end. */
static void test_nodes_are_left_one_by_one(void **state)
{
	(void)state;
	rig r;
	begin(&r, 3);
	(void)drive(&r, "canary", KT_ROLE_DO);
	apply(&r, (kt_event){.kind = KT_EVENT_ROLLBACK});
	for (int i = 0; i < 3; i++) {
		static const char *const on[] = {"n0", "n1", "n2"};
		kt_command c = send(&r, "env", KT_ROLE_UNDO, on[i]);
		if (i == 2)
			answer_bad(&r, &c, KT_E_UNREACHABLE);
		else
			answer_ok(&r, &c);
	}
	for (int i = 0; i < 2; i++) {
		kt_command c = send(&r, "env", KT_ROLE_UNDO, "n2");
		answer_bad(&r, &c, KT_E_UNREACHABLE);
	}
	r.verdict = "old"; /* nothing to restore, so nobody asks whether n2 is live */
	(void)drive(&r, "deliver", KT_ROLE_UNDO);
	for (int i = 0; i < 4; i++) {
		kt_command c = send(&r, "deliver", KT_ROLE_UNDO, i == 1 ? "n1" : "n0");
		if (i == 1)
			answer_ok(&r, &c);
		else
			answer_bad(&r, &c, KT_E_IO);
	}
	kt_command c = send(&r, "stop", KT_ROLE_UNDO, "n1");
	answer_ok(&r, &c);
	assert_state(&r, KT_RUN_HELD);
	assert_string_equal(kt_engine_state(r.e).failed_node, "n2");
	assert_non_null(strstr(kt_engine_state(r.e).reason->msg, "left: 2 of 3"));
	apply(&r, (kt_event){.kind = KT_EVENT_RESUME});
	static const struct {
		const char *step, *node;
	} rest[] = {{"env", "n2"}, {"deliver", "n0"}, {"deliver", "n2"}, {"stop", "n0"}, {"stop", "n2"}};
	for (size_t i = 0; i < sizeof rest / sizeof rest[0]; i++) {
		c = send(&r, rest[i].step, KT_ROLE_UNDO, rest[i].node);
		answer_ok(&r, &c);
	}
	assert_state(&r, KT_RUN_ROLLED_BACK);
	end(&r);
}

/* The canary does not stop: the data is not restored under it. */
static void test_a_node_that_is_left_keeps_the_backup_from_being_restored(void **state)
{
	(void)state;
	rig r;
	begin(&r, 2);
	(void)drive(&r, "opens", KT_ROLE_DO);
	apply(&r, (kt_event){.kind = KT_EVENT_ROLLBACK});
	for (int i = 0; i < 3; i++) {
		kt_command c = send(&r, "canary", KT_ROLE_UNDO, "n0");
		answer_bad(&r, &c, KT_E_IO);
	}
	kt_command c = send(&r, "env", KT_ROLE_UNDO, "n1");
	answer_ok(&r, &c);
	(void)drive(&r, "gate", KT_ROLE_DO);
	for (int i = 0; i < 4; i++) {
		c = send(&r, "gate", KT_ROLE_DO, "n0");
		kt_command quiet = send(&r, "gate", KT_ROLE_DO, "n1");
		answer_with(&r, &c, KT_STATUS_RETRY, KT_E_REFUSED, "{}");
		answer_ok(&r, &quiet);
	}
	assert_state(&r, KT_RUN_HELD);
	apply(&r, (kt_event){.kind = KT_EVENT_RESUME});
	c = send(&r, "canary", KT_ROLE_UNDO, "n0");
	answer_ok(&r, &c);
	c = send(&r, "env", KT_ROLE_UNDO, "n0");
	answer_ok(&r, &c);
	restore(&r);
	r.verdict = "old";
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_ROLLED_BACK);
	end(&r);
}

/* --- After a crash ------------------------------------------------------------------------------------------------ */

typedef struct doubt {
	size_t n;
	char first[64];
	bool settle;
} doubt;

static kt_code note_doubt(void *user, kt_command *c, kt_err *err)
{
	(void)err;
	doubt *d = user;
	if (d->n++ == 0)
		(void)snprintf(d->first, sizeof d->first, "%s %s #%d", c->step, c->node, (int)c->attempt);
	d->settle |= c->settle;
	assert_int_equal(c->delay_ms, 0);
	assert_non_null(c->args);
	return KT_OK;
}

static doubt in_doubt(rig *r)
{
	doubt d = {0};
	assert_int_equal(kt_engine_in_doubt(r->e, note_doubt, &d, &r->err), KT_OK);
	return d;
}

static void test_in_doubt(void **state)
{
	(void)state;
	rig r;
	begin(&r, 3);
	assert_int_equal(in_doubt(&r).n, 0);
	(void)drive(&r, "stop", KT_ROLE_DO);
	kt_command a = send(&r, "stop", KT_ROLE_DO, "n0");
	(void)send(&r, "stop", KT_ROLE_DO, "n1");
	answer_ok(&r, &a);
	doubt d = in_doubt(&r);
	assert_int_equal(d.n, 1);
	assert_string_equal(d.first, "stop n1 #1");
	assert_false(d.settle);
	end(&r);
}

static void test_rekey_in_doubt_is_never_started_late(void **state)
{
	(void)state;
	rig r;
	begin(&r, 1);
	(void)drive(&r, "rekey", KT_ROLE_DO);
	kt_command c = send(&r, "rekey", KT_ROLE_DO, "n0");
	apply(&r, (kt_event){.kind = KT_EVENT_TAKE, .epoch = 2});
	doubt d = in_doubt(&r);
	assert_int_equal(d.n, 1);
	assert_true(d.settle);
	answer_bad(&r, &c, KT_E_REFUSED); /* "never started" */
	r.verdict = "old";
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_ROLLED_BACK);
	end(&r);
}

static void test_take_repeats_gate_backup_and_escrow(void **state)
{
	(void)state;
	rig r;
	begin(&r, 2);
	(void)drive(&r, "rekey", KT_ROLE_DO);
	apply(&r, (kt_event){.kind = KT_EVENT_TAKE, .epoch = 2});
	static const char *const again[] = {"quiet",    "quiet",  "bkey", "bwrap", "backup",
					    "restored", "escrow", "gate", "gate"};
	static const char *const on[] = {"n0", "n1", "@", "n0", "n0", "n0", "@", "n0", "n1"};
	for (size_t i = 0; i < sizeof on / sizeof on[0]; i++) {
		kt_command c = send(&r, again[i], KT_ROLE_DO, on[i]);
		assert_int_equal(c.attempt, 2);
		answer_ok(&r, &c);
	}
	kt_command c = send(&r, "rekey", KT_ROLE_DO, "n0");
	answer_ok(&r, &c);
	apply(&r, (kt_event){.kind = KT_EVENT_TAKE, .epoch = 3}); /* after the rekey nothing is repeated */
	c = send(&r, "rekey", KT_ROLE_PROBE, "n0");
	answer_ok(&r, &c);
	end(&r);
}

static void test_take_looks_again_before_a_restore(void **state)
{
	(void)state;
	rig r;
	rekey(&r, KT_STATUS_FAILED, "mixed");
	(void)drive(&r, "rekey", KT_ROLE_UNDO); /* the gate was quiet */
	apply(&r, (kt_event){.kind = KT_EVENT_TAKE, .epoch = 2});
	restore(&r);
	end(&r);
}

static void test_restore_in_doubt_is_never_done_late(void **state)
{
	(void)state;
	rig r;
	rekey(&r, KT_STATUS_FAILED, "mixed");
	(void)drive(&r, "rekey", KT_ROLE_UNDO);
	kt_command c = send(&r, "rekey", KT_ROLE_UNDO, "n0");
	assert_false(c.settle);
	apply(&r, (kt_event){.kind = KT_EVENT_TAKE, .epoch = 2});
	doubt d = in_doubt(&r);
	assert_int_equal(d.n, 1);
	assert_true(d.settle);
	answer_bad(&r, &c, KT_E_REFUSED); /* "never started" */
	restore(&r);
	assert_int_equal(attempts(&r, "rekey", KT_ROLE_UNDO, 0), 2);
	r.verdict = "old";
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_ROLLED_BACK);
	end(&r);
}

/* --- A revert ----------------------------------------------------------------------------------------------------- */

/* From the last undo of the start on: everything, newest first. */
static void assert_reverts(rig *r)
{
	static const struct {
		const char *step, *node;
	} undo[] = {{"others", "n1"}, {"canary", "n0"}, {"env", "n0"}, {"env", "n1"}};
	for (size_t i = 0; i < sizeof undo / sizeof undo[0]; i++) {
		kt_command c = send(r, undo[i].step, KT_ROLE_UNDO, undo[i].node);
		answer_ok(r, &c);
	}
	restore(r);
	r->verdict = "old";
	(void)drive(r, NULL, KT_ROLE_DO);
	assert_state(r, KT_RUN_ROLLED_BACK);
	assert_false(kt_engine_state(r->e).committed);
	assert_int_equal(attempts(r, "stop", KT_ROLE_UNDO, 1), 1); /* every service is up again */
	apply(r, (kt_event){.kind = KT_EVENT_END, .state = KT_RUN_ROLLED_BACK});
	refuse(r, (kt_event){.kind = KT_EVENT_TAKE, .epoch = 9});
}

static void test_revert_of_a_turned_run(void **state)
{
	(void)state;
	rig r;
	begin(&r, 2);
	(void)drive(&r, NULL, KT_ROLE_DO);
	apply(&r, (kt_event){.kind = KT_EVENT_END, .state = KT_RUN_TURNED});
	apply(&r, (kt_event){.kind = KT_EVENT_TAKE, .epoch = 2});
	apply(&r, (kt_event){.kind = KT_EVENT_REVERT});
	assert_state(&r, KT_RUN_BACK);
	assert_int_equal(kt_engine_state(r.e).reason->code, KT_E_INTERRUPTED);
	kt_command c;
	assert_true(next(&r, &c));
	assert_string_equal(c.verb, "key.receive"); /* what `retire` took away is brought back first */
	kt_command_free(&c);
	for (int i = 0; i < 2; i++) {
		c = send(&r, "forget", KT_ROLE_UNDO, i ? "n1" : "n0");
		answer_ok(&r, &c);
	}
	apply(&r, (kt_event){.kind = KT_EVENT_REVERT}); /* once more changes nothing */
	assert_reverts(&r);
	end(&r);
}

static void test_revert_of_a_run_that_is_held(void **state)
{
	(void)state;
	rig r;
	begin(&r, 2);
	(void)drive(&r, "verify", KT_ROLE_DO);
	kt_command c = send(&r, "verify", KT_ROLE_DO, "n1");
	answer_bad(&r, &c, KT_E_REFUSED);
	assert_state(&r, KT_RUN_HELD);
	apply(&r, (kt_event){.kind = KT_EVENT_RESUME});
	apply(&r, (kt_event){.kind = KT_EVENT_REVERT});
	assert_state(&r, KT_RUN_BACK);
	assert_reverts(&r);
	end(&r);
}

static void test_revert_waits_for_what_is_under_way(void **state)
{
	(void)state;
	rig r;
	kt_command none;
	begin(&r, 2);
	(void)drive(&r, "others", KT_ROLE_DO);
	kt_command c = send(&r, "others", KT_ROLE_DO, "n1");
	apply(&r, (kt_event){.kind = KT_EVENT_REVERT});
	assert_false(next(&r, &none));
	answer_ok(&r, &c);
	assert_reverts(&r);
	end(&r);
}

static void test_revert_before_the_commit_is_a_rollback(void **state)
{
	(void)state;
	rig r;
	begin(&r, 2);
	(void)drive(&r, "quiet", KT_ROLE_DO);
	apply(&r, (kt_event){.kind = KT_EVENT_REVERT});
	(void)drive(&r, NULL, KT_ROLE_DO);
	assert_state(&r, KT_RUN_ROLLED_BACK);
	assert_int_equal(attempts(&r, "rekey", KT_ROLE_DO, 0), 0);
	end(&r);
}

/* --- What does not fit -------------------------------------------------------------------------------------------- */

static void test_events_that_do_not_fit(void **state)
{
	(void)state;
	rig r = {.plan = sim_plan(2)};
	assert_int_equal(kt_engine_new(r.plan, &r.e, &r.err), KT_OK);
	refuse(&r, (kt_event){.kind = KT_EVENT_TAKE, .epoch = 1});
	refuse(&r, (kt_event){.kind = KT_EVENT_NOTE});
	refuse(&r, (kt_event){.kind = KT_EVENT_INTERRUPT});
	refuse(&r, (kt_event){.kind = KT_EVENT_REVERT});
	apply(&r, (kt_event){.kind = KT_EVENT_BEGIN});
	kt_command c = {.step = "preflight", .role = KT_ROLE_DO, .node = "n0", .attempt = 1, .verb = "preflight"};
	refuse(&r, event_for(&c, KT_EVENT_INTENT)); /* not taken */
	refuse(&r, (kt_event){.kind = KT_EVENT_BEGIN});
	apply(&r, (kt_event){.kind = KT_EVENT_TAKE, .epoch = 5});
	refuse(&r, (kt_event){.kind = KT_EVENT_TAKE, .epoch = 5});
	refuse(&r, (kt_event){.kind = KT_EVENT_RESUME});
	refuse(&r, (kt_event){.kind = KT_EVENT_END, .state = KT_RUN_TURNED});
	refuse(&r, (kt_event){.kind = KT_EVENT_INTENT});
	refuse(&r, (kt_event){.kind = KT_EVENT_KINDS});
	refuse(&r, event_for(&c, KT_EVENT_OUTCOME)); /* without an intent */
	static const kt_command wrong[] = {
		{.step = "stop", .role = KT_ROLE_DO, .node = "n0", .attempt = 1},
		{.step = "preflight", .role = KT_ROLE_UNDO, .node = "n0", .attempt = 1},
		{.step = "preflight", .role = KT_ROLE_DO, .node = "n1", .attempt = 1},
		{.step = "preflight", .role = KT_ROLE_DO, .node = "nobody", .attempt = 1},
		{.step = "preflight", .role = KT_ROLE_DO, .node = "@", .attempt = 1},
		{.step = "preflight", .role = KT_ROLE_DO, .node = "n0", .attempt = 2},
	};
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		refuse(&r, event_for(&wrong[i], KT_EVENT_INTENT));
	apply(&r, event_for(&c, KT_EVENT_INTENT));
	refuse(&r, event_for(&c, KT_EVENT_INTENT)); /* twice */
	kt_event bad = event_for(&c, KT_EVENT_OUTCOME);
	bad.status = (kt_status)9;
	refuse(&r, bad);
	answer_ok(&r, &c);
	refuse(&r, event_for(&c, KT_EVENT_OUTCOME)); /* twice */
	end(&r);
}

/* --- Plans -------------------------------------------------------------------------------------------------------- */

static cJSON *step_of(cJSON *plan, const char *name)
{
	cJSON *s;
	cJSON_ArrayForEach(s,
			   cJSON_GetObjectItem(plan, "steps")) if (strcmp(cJSON_GetObjectItem(s, "name")->valuestring,
									  name) == 0) return s;
	return NULL;
}

static void assert_refused(cJSON *plan, const char *says)
{
	kt_engine *e;
	kt_err err = KT_ERR_INIT;
	assert_int_equal(kt_engine_new(plan, &e, &err), KT_E_INPUT);
	assert_null(e);
	if (!strstr(err.msg, says))
		fail_msg("\"%s\" does not say \"%s\"", err.msg, says);
	cJSON_Delete(plan);
}

static void test_plans_that_are_refused(void **state)
{
	(void)state;
	cJSON *p = sim_plan(2);
	cJSON_ReplaceItemInObject(step_of(p, "rekey"), "once", cJSON_CreateFalse());
	assert_refused(p, "probe");
	p = sim_plan(2);
	cJSON_ReplaceItemInObject(step_of(p, "rekey"), "probe", cJSON_CreateNull());
	assert_refused(p, "needs a probe");
	p = sim_plan(2);
	cJSON_ReplaceItemInObject(step_of(p, "rekey"), "undo", cJSON_CreateNull());
	assert_refused(p, "undo");
	p = sim_plan(2);
	cJSON_ReplaceItemInObject(step_of(p, "opens"), "commit", cJSON_CreateFalse());
	assert_refused(p, "commit");
	p = sim_plan(2);
	cJSON_AddTrueToObject(step_of(p, "stop"), "commit");
	assert_refused(p, "commit");
	p = sim_plan(2); /* S2: the last gate asks one node of two */
	cJSON *group = cJSON_GetArrayItem(cJSON_GetObjectItem(step_of(p, "gate"), "targets"), 0);
	cJSON_DeleteItemFromArray(cJSON_GetObjectItem(group, "nodes"), 1);
	assert_refused(p, "gate.check asks 1 of 2 nodes");
	p = sim_plan(2);
	cJSON_ReplaceItemInObject(step_of(p, "stop"), "phase", cJSON_CreateString("start"));
	assert_refused(p, "must not come after");
	p = sim_plan(2);
	cJSON_ReplaceItemInObject(step_of(p, "env"), "name", cJSON_CreateString("stop"));
	assert_refused(p, "second step");
	p = sim_plan(2);
	cJSON_AddItemToArray(cJSON_GetObjectItem(p, "nodes"),
			     cJSON_Duplicate(cJSON_GetArrayItem(cJSON_GetObjectItem(p, "nodes"), 0), 1));
	assert_refused(p, "twice");
	assert_refused(cJSON_CreateArray(), "object");
}

static const char *const junk[] = {"null", "true", "-1", "1e300", "\"\"", "\"../x\"", "[]", "{}", "[[]]", "[null]"};

/* Every value of the plan is replaced by junk and removed; the engine refuses or accepts, and never falls over. */
static void mutate(cJSON *plan, cJSON *at, size_t *refused)
{
	for (cJSON *c = at->child; c; c = c->next) {
		for (size_t i = 0; i < sizeof junk / sizeof junk[0]; i++) {
			cJSON *other = cJSON_Parse(junk[i]);
			cJSON kept = *c;
			kt_engine *e;
			kt_err err = KT_ERR_INIT;
			c->type = other->type;
			c->child = other->child;
			c->valuestring = other->valuestring;
			c->valuedouble = other->valuedouble;
			c->valueint = other->valueint;
			kt_code rc = kt_engine_new(plan, &e, &err);
			assert_true(rc == KT_OK || (rc == KT_E_INPUT && err.msg[0]));
			*refused += rc != KT_OK;
			kt_engine_free(e);
			*c = kept;
			cJSON_Delete(other);
		}
		mutate(plan, c, refused);
	}
}

static void test_mutated_plans(void **state)
{
	(void)state;
	size_t refused = 0;
	cJSON *plan = sim_plan(2);
	mutate(plan, plan, &refused);
	assert_true(refused > 1000);
	cJSON_Delete(plan);
}

/* --- Size --------------------------------------------------------------------------------------------------------- */

static void test_a_thousand_nodes(void **state)
{
	(void)state;
	rig r;
	begin(&r, 1000);
	size_t events = 0;
	int64_t began = kt_clock_mono_ms();
	kt_command *c = calloc(1000, sizeof *c);
	assert_non_null(c);
	for (;;) { /* as the driver does: all that is wanted, then all outcomes, newest first */
		size_t n = 0;
		while (n < 1000 && next(&r, &c[n])) {
			kt_event ev = event_for(&c[n], KT_EVENT_INTENT);
			assert_int_equal(kt_engine_apply(r.e, &ev, &r.err), KT_OK);
			n++;
		}
		if (n == 0)
			break;
		events += 2 * n;
		while (n-- > 0) {
			cJSON *result = cJSON_Parse(answer_fine(&c[n], r.verdict));
			kt_event ev = event_for(&c[n], KT_EVENT_OUTCOME);
			ev.result = result;
			assert_int_equal(kt_engine_apply(r.e, &ev, &r.err), KT_OK);
			cJSON_Delete(result);
			kt_command_free(&c[n]);
		}
	}
	free(c);
	assert_state(&r, KT_RUN_TURNED);
	int64_t ms = kt_clock_mono_ms() - began;
	print_message("%zu events in %d ms\n", events, (int)ms);
	assert_true(ms < 10000); /* quadratic would be minutes, also on a slow machine */
	end(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_fine),
		cmocka_unit_test(test_parallel_is_kept),
		cmocka_unit_test(test_late_values_are_bound),
		cmocka_unit_test(test_missing_late_value_is_a_failure),
		cmocka_unit_test(test_expect_decides),
		cmocka_unit_test(test_gate_asks_all_together),
		cmocka_unit_test(test_refused_when_only_looked),
		cmocka_unit_test(test_waits_for_siblings_and_undoes_what_began),
		cmocka_unit_test(test_unreachable_is_live),
		cmocka_unit_test(test_interrupt_before_the_rekey),
		cmocka_unit_test(test_probe_says_new),
		cmocka_unit_test(test_probe_says_old),
		cmocka_unit_test(test_probe_says_anything_else),
		cmocka_unit_test(test_what_never_started_is_not_restored),
		cmocka_unit_test(test_what_never_started_is_restored_when_a_person_says_so),
		cmocka_unit_test(test_what_may_have_started_is_restored),
		cmocka_unit_test(test_restore_is_checked),
		cmocka_unit_test(test_no_restore_while_somebody_is_live),
		cmocka_unit_test(test_an_unreachable_node_is_live_before_a_restore),
		cmocka_unit_test(test_unreachable_rekey_is_settled_first),
		cmocka_unit_test(test_probe_that_fails),
		cmocka_unit_test(test_interrupt_and_rollback_after_the_rekey),
		cmocka_unit_test(test_rollback_too_late),
		cmocka_unit_test(test_failure_before_the_commit),
		cmocka_unit_test(test_failure_after_the_commit),
		cmocka_unit_test(test_resume_starts_again),
		cmocka_unit_test(test_retire_only_warns),
		cmocka_unit_test(test_undo_that_fails),
		cmocka_unit_test(test_nodes_are_left_one_by_one),
		cmocka_unit_test(test_a_node_that_is_left_keeps_the_backup_from_being_restored),
		cmocka_unit_test(test_in_doubt),
		cmocka_unit_test(test_rekey_in_doubt_is_never_started_late),
		cmocka_unit_test(test_take_repeats_gate_backup_and_escrow),
		cmocka_unit_test(test_take_looks_again_before_a_restore),
		cmocka_unit_test(test_restore_in_doubt_is_never_done_late),
		cmocka_unit_test(test_revert_of_a_turned_run),
		cmocka_unit_test(test_revert_of_a_run_that_is_held),
		cmocka_unit_test(test_revert_waits_for_what_is_under_way),
		cmocka_unit_test(test_revert_before_the_commit_is_a_rollback),
		cmocka_unit_test(test_events_that_do_not_fit),
		cmocka_unit_test(test_plans_that_are_refused),
		cmocka_unit_test(test_mutated_plans),
		cmocka_unit_test(test_a_thousand_nodes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What must hold before a verb may run, fencing, the lock between agent processes, and the spool's answers. */
#include "tests/unit/agent/client.h"

static void what_is_refused_at_once(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_text("victim", "", 0600);
	const char *args = J("{'path':'%s'}", at("victim"));
	ask_bad(&c, "sing", "{}", KT_STATUS_FAILED, KT_E_USAGE, "agent " KT_VERSION);
	c.node = "web02";
	ask_bad(&c, "facts", "{}", KT_STATUS_FAILED, KT_E_REFUSED, "\"web02\" reached node \"web01\"");
	c.node = "web01";
	c.run = "-";
	ask_bad(&c, "file.remove", args, KT_STATUS_FAILED, KT_E_REFUSED, "needs a run");
	ask_bad(&c, "exec", "{}", KT_STATUS_FAILED, KT_E_REFUSED, "needs a run");
	c.run = "R1";
	c.epoch = 0;
	ask_bad(&c, "file.remove", args, KT_STATUS_FAILED, KT_E_REFUSED, "without an epoch");
	assert_true(is_there("victim"));
	assert_false(is_there("state/spool"));
	assert_false(is_there("state/clusters"));
	client_end(&c);
}

static void epochs(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	const char *args = J("{'path':'%s'}", at("none"));
	c.epoch = 5;
	ask_done(&c, "file.remove", args);
	assert_record("state/clusters/looker/epoch", "5 R1\n");
	c.attempt = 2;
	c.epoch = 4;
	ask_bad(&c, "file.remove", args, KT_STATUS_FAILED, KT_E_BUSY, "epoch 5 of run R1");
	ask_bad(&c, "file.remove", args, KT_STATUS_FAILED, KT_E_BUSY, "epoch 4 of run R1 is refused");
	/* An epoch belongs to one run. */
	c.epoch = 5;
	c.run = "R2";
	ask_bad(&c, "file.remove", args, KT_STATUS_FAILED, KT_E_BUSY, "epoch 5 of run R2 is refused");
	c.epoch = 6;
	ask_done(&c, "file.remove", args);
	assert_record("state/clusters/looker/epoch", "6 R2\n");
	/* Not even a recorded outcome is told to a stale coordinator. */
	c.epoch = 5;
	c.run = "R1";
	c.attempt = 1;
	ask_bad(&c, "file.remove", args, KT_STATUS_FAILED, KT_E_BUSY, "refused");
	/* Another cluster counts for itself; reading needs no epoch. */
	c.epoch = 6;
	c.run = "R2";
	ask_done(&c, "run.release", "{}");
	c.cluster = "store";
	c.epoch = 1;
	c.attempt = 3;
	ask_done(&c, "file.remove", args);
	reply r = ask_ok(&c, "facts", "{}");
	assert_int_equal(result_int(&r, "epoch"), 1);
	reply_free(&r);
	c.cluster = "looker";
	/* In a run, reading is fenced, too: what is seen there must not be undone by somebody who was replaced. */
	ask_bad(&c, "facts", "{}", KT_STATUS_FAILED, KT_E_BUSY, "epoch 1 of run R2 is refused");
	c.run = "-";
	c.epoch = 0;
	r = ask_ok(&c, "facts", "{}");
	assert_int_equal(result_int(&r, "epoch"), 6);
	assert_string_equal(result_str(&r, "epoch_run"), "R2");
	reply_free(&r);
	c.cluster = "never-seen";
	r = ask_ok(&c, "facts", "{}");
	assert_int_equal(result_int(&r, "epoch"), 0);
	reply_free(&r);
	assert_false(is_there("state/clusters/never-seen"));
	client_end(&c);
}

static void a_damaged_epoch_lets_nobody_in(void **state)
{
	(void)state;
	static const char *const bad[] = {"",        "5",      "5\n",  "5 \n",         "0 R1\n",
					  "-1 R1\n", "x R1\n", "5 R1", "5 R1\nmore\n", "99999999999999999999 R1\n"};
	client c;
	client_start(&c);
	put_folder("state/clusters/looker", 0700);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		put_text("state/clusters/looker/epoch", bad[i], 0600);
		c.epoch = 1000;
		ask_bad(&c, "file.remove", J("{'path':'%s'}", at("none")), KT_STATUS_FAILED, KT_E_AUDIT, "damaged");
		assert_text("state/clusters/looker/epoch", bad[i]);
		/* Whole, but not what we write. */
		if (strcmp(bad[i], "5 R1") == 0)
			continue; /* sealing adds the newline */
		put_record("state/clusters/looker/epoch", bad[i]);
		ask_bad(&c, "file.remove", J("{'path':'%s'}", at("none")), KT_STATUS_FAILED, KT_E_AUDIT, "damaged");
	}
	client_end(&c);
}

static void an_epoch_that_cannot_be_recorded(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_text("victim", "", 0600);
	put_folder("state/clusters/looker/epoch", 0700); /* in the way */
	ask_bad(&c, "file.remove", J("{'path':'%s'}", at("victim")), KT_STATUS_FAILED, KT_E_IO, "epoch");
	assert_int_equal(rmdir(at("state/clusters/looker/epoch")), 0);
	put_text("state/spool", "in the way", 0600);
	ask_bad(&c, "file.remove", J("{'path':'%s'}", at("victim")), KT_STATUS_FAILED, KT_E_AUDIT,
		"cannot be recorded");
	assert_true(is_there("victim"));
	assert_int_equal(unlink(at("state/spool")), 0);
	ask_done(&c, "file.remove", J("{'path':'%s'}", at("victim")));
	assert_false(is_there("victim"));
	client_end(&c);
}

/* --- One run per node -----------------------------------------------------------------------------------------------
 */

static void one_run_holds_a_node(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	const char *args = J("{'path':'%s'}", at("none"));
	c.epoch = 5;
	c.link = 7;
	ask_done(&c, "file.remove", args);
	reply r = ask_ok(&c, "facts", "{}");
	assert_string_equal(result_str(&r, "holder_cluster"), "looker");
	assert_string_equal(result_str(&r, "holder_run"), "R1");
	assert_true(result_int(&r, "holder_since_ms") > 0);
	reply_free(&r);
	ask_done(&c, "preflight", "{}"); /* ours */
	client_end(&c);
	/* Another cluster: found by its preflight, and refused when it comes all the same. */
	client_start(&c);
	c.cluster = "store";
	c.run = "S1";
	c.epoch = 9;
	ask_bad(&c, "preflight", "{}", KT_STATUS_FAILED, KT_E_REFUSED, "held by run R1 of cluster looker since 20");
	ask_bad(&c, "file.remove", args, KT_STATUS_FAILED, KT_E_BUSY, "held by run R1 of cluster looker since 20");
	ask_done(&c, "run.release", "{}"); /* not its to release */
	ask_bad(&c, "file.remove", args, KT_STATUS_FAILED, KT_E_BUSY, "held by run R1");
	assert_false(is_there("state/spool/S1"));
	/* By another process of its coordinator, which resumed a run that was over: it has a link of its own. */
	c.cluster = "looker";
	c.run = "R1";
	c.epoch = 4;
	c.link = 3;
	ask_bad(&c, "run.release", "{}", KT_STATUS_FAILED, KT_E_BUSY, "epoch 5");
	c.epoch = 5;
	ask_done(&c, "run.release", "{}");
	ask_done(&c, "run.release", "{}");
	assert_false(is_there("state/holder"));
	c.cluster = "store";
	c.run = "S1";
	c.epoch = 9;
	ask_done(&c, "preflight", "{}");
	ask_done(&c, "file.remove", args);
	/* It needs a run, as every changing verb. */
	c.run = "-";
	ask_bad(&c, "run.release", "{}", KT_STATUS_FAILED, KT_E_REFUSED, "needs a run");
	client_end(&c);
}

/* --- Repeated requests ----------------------------------------------------------------------------------------------
 */

static void the_first_outcome_stays(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_folder("victim", 0755);
	const char *args = J("{'path':'%s'}", at("victim"));
	ask_bad(&c, "file.remove", args, KT_STATUS_FAILED, KT_E_REFUSED, "not a regular file");
	assert_int_equal(rmdir(at("victim")), 0);
	put_text("victim", "", 0600);
	reply r = ask(&c, "file.remove", args);
	assert_int_equal(r.status, KT_STATUS_FAILED);
	assert_non_null(strstr(r.error.msg, "not a regular file"));
	assert_true(r.error.remedy[0] != '\0');
	reply_free(&r);
	c.attempt = 2;
	ask_done(&c, "file.remove", args);
	assert_false(is_there("victim"));
	/* Recorded as done: it is not done again. */
	put_text("victim", "", 0600);
	ask_done(&c, "file.remove", args);
	assert_true(is_there("victim"));
	/* Do, undo and probe are different keys. */
	c.role = KT_ROLE_UNDO;
	ask_done(&c, "file.remove", args);
	assert_false(is_there("victim"));
	client_end(&c);
}

static void started_and_unknown_is_done_again(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_text("victim", "", 0600);
	const char *args = J("{'path':'%s'}", at("victim"));
	ask_done(&c, "file.remove", args);
	assert_int_equal(unlink(at("state/spool/R1/s.do.1/outcome.json")), 0);
	put_text("victim", "", 0600);
	ask_done(&c, "file.remove", args);
	assert_false(is_there("victim"));
	assert_true(is_there("state/spool/R1/s.do.1/outcome.json"));
	client_end(&c);
}

static void what_is_settled_is_not_done_late(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_text("victim", "", 0600);
	const char *args = J("{'path':'%s'}", at("victim"));
	c.settle = true;
	ask_bad(&c, "file.remove", args, KT_STATUS_FAILED, KT_E_REFUSED, "never started");
	c.settle = false; /* nor by a request that comes late */
	ask_bad(&c, "file.remove", args, KT_STATUS_FAILED, KT_E_REFUSED, "never started");
	assert_true(is_there("victim"));
	/* What was begun and broken off is not gone on with either. */
	c.attempt = 2;
	ask_done(&c, "file.remove", args);
	assert_int_equal(unlink(at("state/spool/R1/s.do.2/outcome.json")), 0);
	put_text("victim", "", 0600);
	c.settle = true;
	ask_bad(&c, "file.remove", args, KT_STATUS_FAILED, KT_E_REFUSED, "broken off");
	assert_true(is_there("victim"));
	/* What has an outcome is told. */
	c.attempt = 3;
	c.settle = false;
	ask_done(&c, "file.remove", args);
	c.settle = true;
	ask_done(&c, "file.remove", args);
	client_end(&c);
}

static void one_key_is_one_request(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	put_text("victim", "", 0600);
	ask_done(&c, "file.remove", J("{'path':'%s'}", at("none")));
	ask_bad(&c, "file.remove", J("{'path':'%s'}", at("victim")), KT_STATUS_FAILED, KT_E_AUDIT, "already used");
	ask_bad(&c, "key.forget", J("{'slot':'x'}"), KT_STATUS_FAILED, KT_E_AUDIT, "already used");
	ask_done(&c, "run.release", "{}");
	c.cluster = "store";
	ask_bad(&c, "file.remove", J("{'path':'%s'}", at("none")), KT_STATUS_FAILED, KT_E_AUDIT, "already used");
	ask_done(&c, "run.release", "{}");
	assert_true(is_there("victim"));
	/* The same arguments in another order, from a coordinator that has taken over: the same request. */
	c.cluster = "looker";
	c.epoch = 2;
	c.attempt = 2;
	ask_done(&c, "key.forget", J("{'slot':'x','path':'%s'}", at("none")));
	c.epoch = 3;
	ask_done(&c, "key.forget", J("{'path':'%s','slot':'x'}", at("none")));
	client_end(&c);
}

/* --- Two agents -----------------------------------------------------------------------------------------------------
 */

/* A service that stops only when the file "down" is there: until then its stop is under way. */
static const char *endless(int timeout_s)
{
	return J("{'service':{'start':['true'],'stop':['true'],'status':['sh','-c','test ! -e down || exit "
		 "3'],'cwd':'%s'},"
		 "'timeout_s':%d}",
		 scratch_folder, timeout_s);
}

static void a_higher_epoch_replaces_work_under_way(void **state)
{
	(void)state;
	client old;
	client new;
	client_start(&old);
	old.step = "stop";
	int64_t id = client_ask(&old, "service.stop", endless(300));
	WAIT_UNTIL(is_there("state/spool/R1/stop.do.1/note.json"));
	client_start(&new);
	new.epoch = 2;
	const int64_t begin = kt_clock_mono_ms();
	ask_done(&new, "file.remove", J("{'path':'%s'}", at("none")));
	assert_true(kt_clock_mono_ms() - begin < 60000);
	reply r = client_reply(&old, id);
	assert_int_equal(r.status, KT_STATUS_FAILED);
	assert_int_equal(r.error.code, KT_E_INTERRUPTED);
	reply_free(&r);
	assert_false(is_there("state/spool/R1/stop.do.1/outcome.json")); /* not an outcome: it may be done again */
	old.step = "next";
	ask_bad(&old, "file.remove", J("{'path':'%s'}", at("none")), KT_STATUS_FAILED, KT_E_BUSY, "epoch 2");
	ask_bad(&old, "facts", "{}", KT_STATUS_FAILED, KT_E_BUSY, "epoch 2");
	client_end(&old);
	client_end(&new);
}

/* What was sent on an earlier connection of the same coordinator comes too late, and is not done any more. */
static void an_earlier_link_is_too_late(void **state)
{
	(void)state;
	client c;
	const char *args = J("{'path':'%s'}", at("none"));
	client_start(&c);
	c.link = 7;
	ask_done(&c, "file.remove", args);
	assert_record("state/clusters/looker/epoch", "1 R1 7\n");
	c.attempt = 2;
	c.link = 6;
	ask_bad(&c, "file.remove", args, KT_STATUS_FAILED, KT_E_BUSY, "too late (its link is 6, the newest 7)");
	assert_false(is_there("state/spool/R1/s.do.2"));
	c.link = 8;
	ask_done(&c, "file.remove", args);
	assert_record("state/clusters/looker/epoch", "1 R1 8\n");
	/* Another epoch counts anew. */
	c.epoch = 2;
	c.attempt = 3;
	c.link = 1;
	ask_done(&c, "file.remove", args);
	assert_record("state/clusters/looker/epoch", "2 R1 1\n");
	client_end(&c);
}

/* Whoever comes with a copy of the state folder asks which of the next requests were begun here already. */
static void what_was_begun_is_told(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	ask_done(&c, "file.remove", J("{'path':'%s'}", at("none")));
	c.run = "-";
	c.epoch = 0;
	reply r = ask_ok(&c, "facts", J("{'run':'R1','asked':['s.do.1','s.do.2','s.undo.1']}"));
	const cJSON *known = cJSON_GetObjectItemCaseSensitive(r.result, "known");
	assert_int_equal(cJSON_GetArraySize(known), 1);
	assert_string_equal(known->child->valuestring, "s.do.1");
	reply_free(&r);
	/* Also when the attempts before it left nothing behind. */
	c.run = "R1";
	c.epoch = 1;
	c.attempt = 80;
	c.step = "t";
	ask_done(&c, "file.remove", J("{'path':'%s'}", at("none")));
	c.run = "-";
	c.epoch = 0;
	r = ask_ok(&c, "facts", J("{'run':'R1','asked':['t.do.1','t.do.81','t.undo.1','t.d.1']}"));
	known = cJSON_GetObjectItemCaseSensitive(r.result, "known");
	assert_int_equal(cJSON_GetArraySize(known), 1);
	assert_string_equal(known->child->valuestring, "t.do.80");
	reply_free(&r);
	ask_bad(&c, "facts", J("{'run':'R1','asked':['t.do.x']}"), KT_STATUS_FAILED, KT_E_INPUT, "no attempt");
	ask_bad(&c, "facts", J("{'run':'R1','asked':['../R1/s.do.1']}"), KT_STATUS_FAILED, KT_E_INPUT, "request");
	ask_bad(&c, "facts", J("{'run':'..','asked':['s.do.1']}"), KT_STATUS_FAILED, KT_E_INPUT, "run");
	client_end(&c);
}

/* The same coordinator has connected anew while its first agent is still at work: it waits, then hears the outcome. */
static void a_second_agent_waits_for_the_first(void **state)
{
	(void)state;
	client first;
	client second;
	client_start(&first);
	client_start(&second);
	first.step = second.step = "stop";
	int64_t a = client_ask(&first, "service.stop", endless(4));
	WAIT_UNTIL(is_there("state/spool/R1/stop.do.1/note.json"));
	int64_t b = client_ask(&second, "service.stop", endless(4));
	reply r = client_reply(&second, b);
	assert_int_equal(r.status, KT_STATUS_FAILED);
	assert_non_null(strstr(r.error.msg, "still active after 4 s"));
	assert_true(result_bool(&r, "was_active"));
	reply_free(&r);
	assert_non_null(strstr(kt_buf_cstr(&second.progress), "waits for an agent of an earlier connection"));
	assert_non_null(strstr(kt_buf_cstr(&second.progress), "stop.do.1"));
	r = client_reply(&first, a);
	assert_int_equal(r.status, KT_STATUS_FAILED);
	reply_free(&r);
	client_end(&first);
	client_end(&second);
}

/* kill -9 in the middle: the lock goes with the process, the next one does it again. */
static void a_killed_agent_holds_nothing(void **state)
{
	(void)state;
	client c;
	client_start(&c);
	c.step = "stop";
	(void)client_ask(&c, "service.stop", endless(300));
	WAIT_UNTIL(is_there("state/spool/R1/stop.do.1/note.json"));
	client_kill(&c);
	client_start(&c);
	c.step = "stop";
	int64_t id = client_ask(&c, "service.stop", endless(300));
	put_text("down", "", 0600);
	reply r = client_reply(&c, id);
	assert_int_equal(r.status, KT_STATUS_OK);
	assert_true(result_bool(&r, "was_active"));
	reply_free(&r);
	client_end(&c);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, scratch_make, scratch_drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_is_refused_at_once),
		TEST(epochs),
		TEST(a_damaged_epoch_lets_nobody_in),
		TEST(an_epoch_that_cannot_be_recorded),
		TEST(one_run_holds_a_node),
		TEST(the_first_outcome_stays),
		TEST(started_and_unknown_is_done_again),
		TEST(what_is_settled_is_not_done_late),
		TEST(one_key_is_one_request),
		TEST(a_higher_epoch_replaces_work_under_way),
		TEST(an_earlier_link_is_too_late),
		TEST(what_was_begun_is_told),
		TEST(a_second_agent_waits_for_the_first),
		TEST(a_killed_agent_holds_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

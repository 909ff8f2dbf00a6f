/* SPDX-License-Identifier: Apache-2.0 */
/* What runs did to keys, as the fold of their journals, joined with what people did. */
#include "tests/unit/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "orchestrator/journal/replay.h"
#include "orchestrator/ledger/view.h"
#include "tests/sim/plan.h"

enum { DAY = 24 * 60 * 60 * 1000 };

static char folder[64];
static kt_journal *journal;
static kt_ledger ledger;
static int64_t now;

static int fresh(void **state)
{
	kt_err err = KT_ERR_INIT;
	(void)state;
	(void)snprintf(folder, sizeof folder, "ledger.XXXXXX");
	now = 1000;
	return mkdtemp(folder) && kt_journal_open(folder, KT_JOURNAL_WRITE, &journal, &err) == KT_OK &&
			       kt_ledger_open(folder, "sim", &ledger, &err) == KT_OK
		       ? 0
		       : -1;
}

static int tidy(void **state)
{
	static const char *const files[] = {"journal.db", "journal.db-journal", "journal.lock", "ledger.json"};
	char path[128];
	(void)state;
	kt_journal_close(journal);
	kt_ledger_close(&ledger);
	for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
		(void)snprintf(path, sizeof path, "%s/%s", folder, files[i]);
		(void)remove(path);
	}
	return rmdir(folder);
}

/* --- A run, journalled as the driver does it ---------------------------------------------------------------------- */

/* Invariant: every event is applied and appended. */
typedef struct running {
	const char *run, *new_id, *new_kcv;
	const char *fails;   /* the step that fails, NULL: none */
	const char *verdict; /* of the probe */
	cJSON *plan;
	kt_engine *engine;
	int64_t epoch;
} running;

/* Kept for one transaction: each costs what the disk needs to be sure. */
static kt_entry waiting[512];
static char *bodies[512];
static size_t waiting_n;

static void flush(void)
{
	kt_err err = KT_ERR_INIT;
	if (waiting_n)
		assert_kt_ok(kt_journal_append(journal, waiting, waiting_n, &err));
	while (waiting_n)
		free(bodies[--waiting_n]);
}

static void event(running *r, const kt_event *ev)
{
	kt_err err = KT_ERR_INIT;
	kt_buf body = KT_BUF_INIT;
	kt_entry *e = &waiting[waiting_n];
	assert_true(waiting_n < sizeof waiting / sizeof waiting[0]);
	assert_kt_ok(kt_engine_apply(r->engine, ev, &err));
	assert_kt_ok(kt_entry_of_event(ev, r->run, r->epoch, now++, NULL, &body, e, &err));
	bodies[waiting_n] = kt_buf_steal(&body);
	assert_non_null(bodies[waiting_n]);
	e->body = bodies[waiting_n++];
}

static void take(running *r)
{
	kt_err err = KT_ERR_INIT;
	flush();
	assert_kt_ok(kt_journal_take(journal, r->run, now++, &r->epoch, &err));
	assert_kt_ok(kt_engine_apply(r->engine, &(kt_event){.kind = KT_EVENT_TAKE, .epoch = r->epoch}, &err));
}

/* `old_kcv` NULL: the data is in the legacy form. */
static void start(running *r, const char *old_kcv)
{
	kt_err err = KT_ERR_INIT;
	kt_buf body = KT_BUF_INIT;
	kt_entry e;
	char text[128];
	flush();
	r->plan = sim_plan(2);
	if (old_kcv)
		(void)snprintf(text, sizeof text, "{\"kcv\":\"%s\",\"from\":{\"n0\":\"file:/old\"}}", old_kcv);
	else
		(void)snprintf(text, sizeof text, "{\"from\":{\"n0\":\"legacy:\"}}");
	cJSON_AddItemToObject(r->plan, "key", cJSON_Parse(text));
	cJSON_AddItemToObject(r->plan, "hsm", cJSON_Parse("{\"token\":\"pkcs11:token=t?module-path=/m\"}"));
	assert_kt_ok(kt_engine_new(r->plan, &r->engine, &err));
	assert_kt_ok(kt_entry_of_plan(r->plan, r->run, now++, &body, &e, &err));
	assert_kt_ok(kt_journal_append(journal, &e, 1, &err));
	assert_kt_ok(kt_engine_apply(r->engine, &(kt_event){.kind = KT_EVENT_BEGIN}, &err));
	kt_buf_free(&body);
	take(r);
}

static cJSON *answer(const running *r, const kt_command *c)
{
	char text[512] = "{}";
	if (strcmp(c->verb, "key.generate") == 0)
		(void)snprintf(text, sizeof text, "{\"id\":\"%s\",\"label\":\"keyturn:%s\",\"kcv\":\"%s\"}", r->new_id,
			       r->run, r->new_kcv);
	else if (strcmp(c->verb, "key.escrow") == 0)
		(void)snprintf(text, sizeof text,
			       "{\"recovered\":true,\"path\":\"/e/%s.json\",\"wrapping_key\":\"w\",\"wrapping_kcv\":"
			       "\"eeeeee\",\"custodians\":[{\"name\":\"alice\",\"path\":\"/e/%s.alice.json\","
			       "\"spki_sha256\":\"cafe00\"}]}",
			       r->run, r->run);
	else if (strcmp(c->verb, "backup.create") == 0)
		(void)snprintf(text, sizeof text,
			       "{\"archive\":\"/b/%s\",\"sha256\":\"s\",\"proof\":\"p\",\"encrypted\":true}", r->run);
	else if (strcmp(c->verb, "backup.key") == 0)
		(void)snprintf(
			text, sizeof text,
			"{\"id\":\"ba%s\",\"key_label\":\"keyturn-backup:%s\",\"kcv\":\"b0b0b0\",\"recovered\":true,"
			"\"path\":\"/e/%s-backup.json\",\"wrapping_key\":\"w\",\"wrapping_kcv\":\"eeeeee\"}",
			r->new_id, r->run, r->run);
	else if (strcmp(c->verb, "backup.check") == 0)
		(void)snprintf(text, sizeof text, "{\"checked\":true}");
	else if (strcmp(c->verb, "key.wrap") == 0 || strcmp(c->verb, "backup.wrap") == 0)
		(void)snprintf(text, sizeof text, "{\"blob\":{},\"expect\":\"p\"}");
	else if (strcmp(c->verb, "key.receive") == 0)
		(void)snprintf(text, sizeof text, "{\"proof\":\"p\"}");
	else if (strcmp(c->verb, "probe") == 0)
		(void)snprintf(text, sizeof text, "{\"verdict\":\"%s\"}", r->verdict);
	return cJSON_Parse(text);
}

static void work(running *r, const kt_command *c)
{
	kt_err broken = KT_ERR_INIT;
	bool fails = r->fails && strcmp(r->fails, c->step) == 0 && c->role == KT_ROLE_DO;
	KT_IGNORE(kt_fail(&broken, KT_E_IO, NULL, "broken"));
	kt_event ev = {
		.kind = KT_EVENT_INTENT, .step = c->step, .role = c->role, .node = c->node, .attempt = c->attempt};
	event(r, &ev);
	cJSON *result = answer(r, c);
	ev.kind = KT_EVENT_OUTCOME;
	ev.status = fails ? KT_STATUS_FAILED : KT_STATUS_OK;
	ev.result = fails ? NULL : result;
	ev.error = fails ? &broken : NULL;
	event(r, &ev);
	cJSON_Delete(result);
}

/* As far as it goes, or until the intent of `until` comes. */
static void go(running *r, const char *until)
{
	kt_err err = KT_ERR_INIT;
	for (bool have = true; have;) {
		kt_command c = {0};
		assert_kt_ok(kt_engine_next(r->engine, &c, &have, &err));
		bool stop = have && until && strcmp(c.step, until) == 0;
		if (have && !stop)
			work(r, &c);
		kt_command_free(&c);
		if (stop)
			return;
	}
	kt_engine_status s = kt_engine_state(r->engine);
	assert_true(s.at_rest);
	event(r, &(kt_event){.kind = KT_EVENT_END, .state = s.state});
}

static void done(running *r)
{
	flush();
	kt_engine_free(r->engine);
	cJSON_Delete(r->plan);
}

/* --- Looking ------------------------------------------------------------------------------------------------------ */

static cJSON *view(int64_t days)
{
	kt_err err = KT_ERR_INIT;
	cJSON *told, *keys;
	flush();
	const kt_view_options o = {.cluster = "sim", .now_ms = now, .cryptoperiod_days = days};
	assert_kt_ok(kt_ledger_told(journal, &told, &err));
	assert_kt_ok(kt_ledger_view(&ledger, told, &o, &keys, &err));
	cJSON_Delete(told);
	return keys;
}

static const cJSON *get(const cJSON *keys, const char *id)
{
	const cJSON *k = kt_view_find(keys, id, "", "");
	if (!k)
		fail_msg("there is no key %s", id);
	return k;
}

static void is(const cJSON *keys, const char *id, const char *state, bool on_data)
{
	const cJSON *k = get(keys, id);
	assert_string_equal(cJSON_GetObjectItem(k, "state")->valuestring, state);
	assert_int_equal(cJSON_IsTrue(cJSON_GetObjectItem(k, "on_data")), on_data);
}

/* "data,backup" in their order. */
static void needed_by(const cJSON *keys, const char *id, const char *kinds)
{
	char text[256] = "";
	const cJSON *n = cJSON_GetObjectItem(get(keys, id), "dependants")->child;
	for (; n; n = n->next) {
		size_t used = strlen(text);
		(void)snprintf(text + used, sizeof text - used, "%s%s", used ? "," : "",
			       cJSON_GetObjectItem(n, "kind")->valuestring);
	}
	assert_string_equal(text, kinds);
}

static void a_turned_run(void **state)
{
	kt_err err = KT_ERR_INIT;
	running r = {.run = "r1", .new_id = "0b", .new_kcv = "bbbbbb", .verdict = "new"};
	(void)state;
	start(&r, "aaaaaa");
	go(&r, NULL);
	cJSON *keys = view(0);
	is(keys, "kcv-aaaaaa", "deactivated", false);
	is(keys, "0b", "active", true);
	is(keys, "kcv-eeeeee", "active", false);
	needed_by(keys, "kcv-aaaaaa", "backup");
	needed_by(keys, "0b", "data");
	needed_by(keys, "kcv-eeeeee", "escrow,escrow");
	is(keys, "ba0b", "deactivated", false);
	needed_by(keys, "ba0b", "backup");
	assert_string_equal(cJSON_GetObjectItem(get(keys, "ba0b"), "kind")->valuestring, "backup");
	assert_kt_fails(KT_E_REFUSED, kt_view_unneeded(get(keys, "ba0b"), &err));
	assert_non_null(strstr(err.msg, "backup /b/r1 on n0 of run r1"));
	assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(get(keys, "0b"), "escrows")), 2);
	assert_string_equal(cJSON_GetObjectItem(get(keys, "0b"), "uri")->valuestring, "pkcs11:token=t;id=%0b");
	assert_kt_fails(KT_E_REFUSED, kt_view_unneeded(get(keys, "kcv-aaaaaa"), &err));
	assert_string_equal(err.msg, "the key is needed (1): backup /b/r1 on n0 of run r1");
	assert_kt_fails(KT_E_REFUSED, kt_view_unneeded(get(keys, "0b"), &err));
	assert_string_equal(err.msg, "the key is needed (1): the data of sim");
	cJSON_Delete(keys);
	done(&r);
}

/* The old key of the next run is the new one of the one before. */
static void two_runs(void **state)
{
	running one = {.run = "r1", .new_id = "0b", .new_kcv = "bbbbbb", .verdict = "new"};
	running two = {.run = "r2", .new_id = "0c", .new_kcv = "cccccc", .verdict = "new"};
	(void)state;
	start(&one, "aaaaaa");
	go(&one, NULL);
	start(&two, "bbbbbb");
	go(&two, NULL);
	cJSON *keys = view(0);
	assert_int_equal(cJSON_GetArraySize(keys), 6);
	is(keys, "kcv-aaaaaa", "deactivated", false);
	is(keys, "0b", "deactivated", false);
	is(keys, "0c", "active", true);
	needed_by(keys, "0b", "backup");
	needed_by(keys, "kcv-eeeeee", "escrow,escrow,escrow,escrow");
	cJSON_Delete(keys);
	done(&one);
	done(&two);
}

static void a_run_that_rolls_back(void **state)
{
	running r = {.run = "r1", .new_id = "0b", .new_kcv = "bbbbbb", .verdict = "old", .fails = "rekey"};
	(void)state;
	start(&r, "aaaaaa");
	go(&r, NULL);
	assert_int_equal(kt_engine_state(r.engine).state, KT_RUN_ROLLED_BACK);
	cJSON *keys = view(0);
	is(keys, "kcv-aaaaaa", "active", true);
	is(keys, "0b", "pre-active", false); /* it never became active */
	needed_by(keys, "kcv-aaaaaa", "backup,data");
	needed_by(keys, "0b", "");
	cJSON_Delete(keys);
	done(&r);
}

static void a_run_that_is_taken_back(void **state)
{
	running r = {.run = "r1", .new_id = "0b", .new_kcv = "bbbbbb", .verdict = "new"};
	(void)state;
	start(&r, "aaaaaa");
	go(&r, NULL);
	take(&r);
	event(&r, &(kt_event){.kind = KT_EVENT_REVERT});
	r.verdict = "old";
	go(&r, NULL);
	assert_int_equal(kt_engine_state(r.engine).state, KT_RUN_ROLLED_BACK);
	cJSON *keys = view(0);
	is(keys, "kcv-aaaaaa", "active", true);
	is(keys, "0b", "deactivated", false);
	needed_by(keys, "0b", "kept");
	cJSON_Delete(keys);
	done(&r);
}

/* From the legacy form there is no old key: none is in the ledger, before and after, and taken back none comes there.
 */
static void a_run_from_the_legacy_form(void **state)
{
	running one = {.run = "r1", .new_id = "0b", .new_kcv = "bbbbbb", .verdict = "new"};
	running two = {.run = "r2", .new_id = "0c", .new_kcv = "cccccc", .verdict = "new"};
	(void)state;
	start(&one, NULL);
	go(&one, "rekey");
	cJSON *keys = view(0);
	assert_int_equal(cJSON_GetArraySize(keys), 3); /* the new one, the backup's, the wrapping key */
	cJSON_Delete(keys);
	go(&one, NULL);
	keys = view(0);
	assert_int_equal(cJSON_GetArraySize(keys), 3);
	is(keys, "0b", "active", true);
	needed_by(keys, "ba0b", "backup");
	needed_by(keys, "0b", "data");
	cJSON_Delete(keys);
	start(&two, "bbbbbb"); /* the next turn is as any other */
	go(&two, NULL);
	keys = view(0);
	is(keys, "0b", "deactivated", false);
	is(keys, "0c", "active", true);
	needed_by(keys, "0b", "backup");
	cJSON_Delete(keys);
	done(&one);
	done(&two);
}

static void a_legacy_run_that_is_taken_back(void **state)
{
	kt_err err = KT_ERR_INIT;
	running r = {.run = "r1", .new_id = "0b", .new_kcv = "bbbbbb", .verdict = "new"};
	(void)state;
	start(&r, NULL);
	go(&r, NULL);
	take(&r);
	event(&r, &(kt_event){.kind = KT_EVENT_REVERT});
	r.verdict = "old";
	go(&r, NULL);
	assert_int_equal(kt_engine_state(r.engine).state, KT_RUN_ROLLED_BACK);
	cJSON *keys = view(0);
	assert_int_equal(cJSON_GetArraySize(keys), 3);
	is(keys, "0b", "deactivated", false);
	needed_by(keys, "0b", "kept");
	assert_kt_fails(KT_E_REFUSED, kt_view_unneeded(get(keys, "0b"), &err));
	cJSON_Delete(keys);
	done(&r);
}

/* Cut off: before the rekey both keys may be needed, and after it the more. */
static void an_open_run(void **state)
{
	running r = {.run = "r1", .new_id = "0b", .new_kcv = "bbbbbb", .verdict = "new"};
	(void)state;
	start(&r, "aaaaaa");
	go(&r, "rekey");
	cJSON *keys = view(0);
	is(keys, "0b", "pre-active", false);
	needed_by(keys, "0b", "run");
	needed_by(keys, "kcv-aaaaaa", "backup,run,data");
	cJSON_Delete(keys);
	done(&r);
}

static void people_and_runs(void **state)
{
	kt_err err = KT_ERR_INIT;
	running r = {.run = "r1", .new_id = "0b", .new_kcv = "bbbbbb", .verdict = "new"};
	cJSON *e;
	(void)state;
	start(&r, "aaaaaa");
	go(&r, NULL);
	cJSON *keys = view(0);
	const kt_ledger_new old = kt_view_describe(get(keys, "kcv-aaaaaa"));
	const kt_ledger_new new = kt_view_describe(get(keys, "0b"));
	assert_kt_ok(kt_ledger_enter(&ledger, &old, &e, &err));
	assert_kt_ok(kt_ledger_release(e, "r1", now, &err));
	assert_kt_ok(kt_ledger_moved(e, KT_KEY_DESTROYED, now, "by hand", &err));
	assert_kt_ok(kt_ledger_enter(&ledger, &new, &e, &err));
	assert_kt_ok(kt_ledger_moved(e, KT_KEY_COMPROMISED, now, "stolen", &err));
	const kt_ledger_escrow gone = {
		.path = "/e/r1.json", .custodian = "", .under = "w", .under_kcv = "eeeeee", .gone = true};
	assert_kt_ok(kt_ledger_escrowed(e, &gone, &err));
	cJSON_Delete(keys);
	keys = view(0);
	is(keys, "kcv-aaaaaa", "destroyed", false);
	needed_by(keys, "kcv-aaaaaa", "");
	is(keys, "0b", "compromised", true);
	needed_by(keys, "0b", "data");
	needed_by(keys, "kcv-eeeeee", "escrow"); /* of the backup key */
	cJSON_Delete(keys);
	const kt_ledger_new backup = kt_view_describe(get(keys = view(0), "ba0b"));
	assert_kt_ok(kt_ledger_enter(&ledger, &backup, &e, &err));
	assert_kt_ok(kt_ledger_release(e, "r1", now, &err));
	const kt_ledger_escrow away = {
		.path = "/e/r1-backup.json", .custodian = "", .under = "w", .under_kcv = "eeeeee", .gone = true};
	assert_kt_ok(kt_ledger_escrowed(e, &away, &err));
	cJSON_Delete(keys);
	keys = view(0);
	needed_by(keys, "ba0b", "");
	assert_kt_ok(kt_view_unneeded(get(keys, "ba0b"), &err));
	assert_null(kt_view_find(keys, "kcv-eeeeee", "", ""));
	cJSON_Delete(keys);
	done(&r);
}

static void cryptoperiods(void **state)
{
	running r = {.run = "r1", .new_id = "0b", .new_kcv = "bbbbbb", .verdict = "new"};
	(void)state;
	start(&r, "aaaaaa");
	go(&r, NULL);
	now += 2LL * DAY;
	cJSON *keys = view(3);
	assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(get(keys, "0b"), "warnings")), 0);
	cJSON_Delete(keys);
	keys = view(1);
	const cJSON *w = cJSON_GetObjectItem(get(keys, "0b"), "warnings");
	assert_int_equal(cJSON_GetArraySize(w), 1);
	assert_non_null(strstr(w->child->valuestring, "cryptoperiod"));
	cJSON_Delete(keys);
	done(&r);
}

/* What was begun and not seen to its end is said. */
static void an_intent(void **state)
{
	kt_err err = KT_ERR_INIT;
	cJSON *e;
	const kt_ledger_new k = {.id = "0d", .label = "w", .uri = "", .kind = "wrapping", .kcv = "dddddd"};
	(void)state;
	assert_kt_ok(kt_ledger_enter(&ledger, &k, &e, &err));
	assert_kt_ok(kt_ledger_intend(e, "destroy", 5, &err));
	cJSON *keys = view(0);
	const cJSON *w = cJSON_GetObjectItem(get(keys, "0d"), "warnings");
	assert_int_equal(cJSON_GetArraySize(w), 1);
	assert_non_null(strstr(w->child->valuestring, "destroy"));
	cJSON_Delete(keys);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_turned_run, fresh, tidy),
		cmocka_unit_test_setup_teardown(two_runs, fresh, tidy),
		cmocka_unit_test_setup_teardown(a_run_that_rolls_back, fresh, tidy),
		cmocka_unit_test_setup_teardown(a_run_that_is_taken_back, fresh, tidy),
		cmocka_unit_test_setup_teardown(a_run_from_the_legacy_form, fresh, tidy),
		cmocka_unit_test_setup_teardown(a_legacy_run_that_is_taken_back, fresh, tidy),
		cmocka_unit_test_setup_teardown(an_open_run, fresh, tidy),
		cmocka_unit_test_setup_teardown(people_and_runs, fresh, tidy),
		cmocka_unit_test_setup_teardown(cryptoperiods, fresh, tidy),
		cmocka_unit_test_setup_teardown(an_intent, fresh, tidy),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

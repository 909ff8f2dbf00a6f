/* SPDX-License-Identifier: Apache-2.0 */
/* The plan of the simulated cluster: the steps of docs/FORMATS.md, section 7, in the order of a turn. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/playbook/verbs.h"
#include "tests/sim/plan.h"

/* One row a step. `on`: a all, f first node, r rest, @ cluster. JSON texts may be NULL. */
static const struct row {
	const char *name, *phase;
	char on;
	const char *at, *verb, *args, *expect, *retry, *flags, *undo, *undo_args, *probe;
	int parallel;
} rows[] = {
	{"preflight", "preflight", 'a', "node", "preflight", "{}", NULL, NULL, "", NULL, NULL, NULL, 0},
	{"token", "preflight", '@', "coordinator", "hsm.check", "{}", NULL, NULL, "", NULL, NULL, NULL, 0},
	{"stop", "stop", 'a', "node", "service.stop", "{}", NULL, NULL, "", "service.start",
	 "{\"if\":\"${stop.was_active|true}\"}", NULL, 0},
	{"quiet", "quiet", 'a', "node", "gate.check", "{}", NULL, "{\"times\":3,\"every_s\":5,\"together\":true}", "",
	 NULL, NULL, NULL, 0},
	{"bkey", "backup", '@', "coordinator", "backup.key", "{}", "{\"recovered\":true}", NULL, "", NULL, NULL, NULL,
	 0},
	{"bwrap", "backup", 'f', "coordinator", "backup.wrap", "{}", NULL, NULL, "", NULL, NULL, NULL, 0},
	{"backup", "backup", 'f', "node", "backup.create", "{\"blob\":\"${bwrap.blob}\"}",
	 "{\"proof\":\"${bwrap.expect}\"}", NULL, "", NULL, NULL, NULL, 0},
	{"restored", "backup", 'f', "node", "backup.check",
	 "{\"sha256\":\"${backup.sha256}\",\"blob\":\"${bwrap.blob}\"}", "{\"checked\":true}", NULL, "", NULL, NULL,
	 NULL, 0},
	{"generate", "key", '@', "coordinator", "key.generate", "{}", NULL, NULL, "", NULL, NULL, NULL, 0},
	{"escrow", "key", '@', "coordinator", "key.escrow", "{\"id\":\"${generate.id}\"}", "{\"recovered\":true}", NULL,
	 "", NULL, NULL, NULL, 0},
	{"wrap", "key", 'a', "coordinator", "key.wrap", "{}", NULL, NULL, "", NULL, NULL, NULL, 0},
	{"deliver", "key", 'a', "node", "key.receive", "{\"blob\":\"${wrap.blob}\"}", "{\"proof\":\"${wrap.expect}\"}",
	 NULL, "", "key.forget", "{\"path\":\"/key\"}", NULL, 2},
	{"install", "key", 'a', "node", "key.install", "{}", NULL, NULL, "", NULL, NULL, NULL, 0},
	{"gate", "key", 'a', "node", "gate.check", "{}", NULL, "{\"times\":3,\"every_s\":5,\"together\":true}", "",
	 NULL, NULL, NULL, 0},
	{"rekey", "rekey", 'f', "node", "exec", "{}", NULL, "{\"times\":1,\"every_s\":5}", "\"once\":true,",
	 "backup.restore", "{\"sha256\":\"${backup.sha256}\",\"blob\":\"${bwrap.blob}\"}", "probe", 0},
	{"env", "env", 'a', "node", "env.install", "{}", NULL, NULL, "", "env.restore", "{}", NULL, 0},
	{"canary", "start", 'f', "node", "service.start", "{}", NULL, NULL, "", "service.stop", "{}", NULL, 0},
	{"migrated", "start", 'f', "node", "log.check", "{}", NULL, "{\"times\":2,\"every_s\":5}", "", NULL, NULL, NULL,
	 0},
	{"opens", "start", 'f', "node", "command", "{}", NULL, "{\"times\":2,\"every_s\":5}", "\"commit\":true,", NULL,
	 NULL, NULL, 0},
	{"others", "start", 'r', "node", "service.start", "{}", NULL, NULL, "", "service.stop", "{}", NULL, 2},
	{"verify", "start", 'r', "node", "command", "{}", NULL, NULL, "", NULL, NULL, NULL, 0},
	{"forget", "retire", 'a', "node", "key.forget", "{}", NULL, NULL, "", "key.receive",
	 "{\"blob\":\"${wrap.blob}\"}", NULL, 0},
};

static void must(kt_code rc, const kt_err *err)
{
	if (rc == KT_OK)
		return;
	(void)fprintf(stderr, "sim: %s\n", err->msg);
	abort();
}

static void add_targets(kt_buf *b, char on, size_t n, const char *args)
{
	kt_err err = KT_ERR_INIT;
	must(kt_buf_str(b, "\"targets\":[{\"nodes\":[", &err), &err);
	if (on == '@')
		must(kt_buf_str(b, "\"@\"", &err), &err);
	size_t first = on == 'r' ? 1 : 0;
	size_t end = on == '@' ? 0 : on == 'f' ? 1 : n;
	for (size_t i = first; i < end; i++)
		must(kt_buf_printf(b, &err, "%s\"n%zu\"", i > first ? "," : "", i), &err);
	must(kt_buf_printf(b, &err, "],\"args\":%s}]", args), &err);
}

static void add_other(kt_buf *b, const char *role, const char *verb, const struct row *r, const char *args, size_t n)
{
	kt_err err = KT_ERR_INIT;
	if (!verb) {
		must(kt_buf_printf(b, &err, ",\"%s\":null", role), &err);
		return;
	}
	must(kt_buf_printf(b, &err,
			   ",\"%s\":{\"verb\":\"%s\",\"at\":\"node\",\"timeout_s\":60,"
			   "\"retry\":{\"times\":2,\"every_s\":5,\"together\":false},",
			   role, verb),
	     &err);
	add_targets(b, r->on, n, args);
	must(kt_buf_str(b, "}", &err), &err);
}

static void add_step(kt_buf *b, const struct row *r, size_t n)
{
	kt_err err = KT_ERR_INIT;
	must(kt_buf_printf(b, &err,
			   "{\"name\":\"%s\",\"phase\":\"%s\",\"title\":\"%s\",\"at\":\"%s\",\"verb\":\"%s\",%s"
			   "\"parallel\":%d,\"timeout_s\":60,\"retry\":%s,\"expect\":%s,",
			   r->name, r->phase, r->name, r->at, r->verb, r->flags, r->parallel,
			   r->retry ? r->retry : "{\"times\":0,\"every_s\":0,\"together\":false}",
			   r->expect ? r->expect : "{}"),
	     &err);
	add_targets(b, r->on, n, r->args);
	add_other(b, "undo", r->undo, r, r->undo_args, n);
	add_other(b, "probe", r->probe, r, "{}", n);
	must(kt_buf_str(b, "}", &err), &err);
}

/* The log tells of a migration alone. */
static bool is_there(const struct row *r, bool migration)
{
	return migration || strcmp(r->verb, "log.check") != 0;
}

static cJSON *make(size_t n, bool migration)
{
	kt_err err = KT_ERR_INIT;
	kt_buf b = KT_BUF_INIT;
	cJSON *plan;
	must(kt_buf_str(&b, "{\"format\":\"keyturn-plan/1\",\"cluster\":\"sim\",\"run\":\"r\",\"nodes\":[", &err),
	     &err);
	for (size_t i = 0; i < n; i++)
		must(kt_buf_printf(&b, &err, "%s{\"name\":\"n%zu\"}", i ? "," : "", i), &err);
	must(kt_buf_str(&b, "],\"steps\":[", &err), &err);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		if (!is_there(&rows[i], migration))
			continue;
		must(kt_buf_str(&b, i ? "," : "", &err), &err);
		add_step(&b, &rows[i], n);
	}
	must(kt_buf_str(&b, "]}", &err), &err);
	must(kt_json_parse("plan", b.data, b.len, &plan, &err), &err);
	kt_buf_free(&b);
	return plan;
}

cJSON *sim_plan(size_t n)
{
	return make(n, false);
}

cJSON *sim_plan_migration(size_t n)
{
	return make(n, true);
}

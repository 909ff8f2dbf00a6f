/* SPDX-License-Identifier: Apache-2.0 */
/* run, resume, rollback, status: the verbs about one run. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "orchestrator/cli/context.h"
#include "orchestrator/cli/salvage.h"
#include "orchestrator/journal/replay.h"
#include "orchestrator/report/report.h"
#include "orchestrator/report/summary.h"

static kt_code make_report(const kt_cli *cli, kt_report **out, kt_err *err)
{
	kt_report_mode mode = cli->json ? KT_REPORT_JSON : cli->terminal ? KT_REPORT_LIVE : KT_REPORT_PLAIN;
	return kt_report_new(cli->out, mode, cli->colour, out, err);
}

/* What run, resume and rollback have in common: the cluster, and somebody who tells how it goes. */
static kt_code with_report(kt_cli *cli, kt_code (*act)(kt_ctx *, kt_report *, kt_err *), kt_err *err)
{
	kt_ctx c = {0};
	kt_report *report = NULL;
	kt_code rc = make_report(cli, &report, err);
	if (rc == KT_OK)
		rc = kt_ctx_load(&c, cli, err);
	if (rc == KT_OK)
		rc = act(&c, report, err);
	kt_ctx_close(&c);
	kt_report_free(report);
	return rc;
}

/* The end, out of the journal: what was not journalled did not happen. */
static kt_code summary_of(kt_ctx *c, const char *run, int64_t downtime_ms, cJSON **out, kt_err *err)
{
	kt_replay replay;
	KT_TRY(kt_replay_run(c->journal, run, &replay, err));
	kt_code rc = kt_summary_make(replay.plan, replay.engine, out, err);
	kt_replay_free(&replay);
	if (rc == KT_OK && downtime_ms >= 0)
		rc = kt_json_add_int(*out, "downtime_ms", downtime_ms, err);
	return rc;
}

static kt_code show_summary(kt_ctx *c, const char *run, int64_t downtime_ms, kt_err *err)
{
	cJSON *s = NULL;
	kt_buf text = KT_BUF_INIT;
	KT_TRY(summary_of(c, run, downtime_ms, &s, err));
	if (c->cli->json)
		return kt_cli_print_json(c->cli, s, err);
	kt_code rc = kt_summary_print(s, &text, err);
	if (rc == KT_OK)
		(void)fprintf(c->cli->out, "\n%s  journal   %s/journal.db\n", kt_buf_cstr(&text), c->cluster.state);
	if (rc == KT_OK && downtime_ms >= 0)
		(void)fprintf(c->cli->out, "  downtime  %.1f s\n", (double)downtime_ms / 1000);
	kt_buf_free(&text);
	cJSON_Delete(s);
	return rc;
}

/* The exit of a run that came to rest: its class, and why. */
static kt_code class_of(const kt_turn_end *end, kt_err *err)
{
	kt_code code = kt_turn_class(end);
	if (code == KT_OK)
		return KT_OK;
	const char *remedy = end->reason.remedy[0] ? end->reason.remedy : kt_summary_remedy(end->state);
	return kt_fail(err, code, remedy, "%s%s%s%s%s%s%s", kt_run_state_name(end->state),
		       end->failed_step[0] ? ": step " : "", end->failed_step, end->failed_node[0] ? " on " : "",
		       end->failed_node, end->reason.msg[0] ? ": " : "", end->reason.msg);
}

static kt_turn_options turn_options(kt_ctx *c, const char *run, const kt_report *report)
{
	return (kt_turn_options){.cluster = &c->cluster,
				 .journal = c->journal,
				 .hsm = c->hsm,
				 .loop = &c->loop,
				 .nodes = c->nodes,
				 .run = run,
				 .watcher = kt_report_watcher((kt_report *)report)};
}

/* --- run ---------------------------------------------------------------------------------------------------------- */

/* One run at a time: an unfinished one comes first. */
static kt_code no_open_run(kt_ctx *c, kt_err *err)
{
	kt_run_info *runs = NULL;
	size_t n = 0;
	kt_code rc = kt_journal_runs(c->journal, &runs, &n, err);
	for (size_t i = 0; rc == KT_OK && i < n; i++) {
		kt_run_state s;
		bool open = strcmp(runs[i].state, "open") == 0 ||
			    (kt_run_state_parse(runs[i].state, &s, NULL) == KT_OK && !kt_run_state_final(s));
		if (open)
			rc = kt_fail(err, KT_E_BUSY, "finish it with `keyturn resume` (or `resume --rollback`) first",
				     "the run %s is not finished (%s)", runs[i].run, runs[i].state);
	}
	free(runs);
	return rc;
}

static kt_code confirm(const kt_ctx *c, kt_err *err)
{
	char question[256];
	if (!c->cli->json)
		(void)fprintf(c->cli->out, "Run %s turns the key of %s (%zu node%s). Digest of the plan: %s\n", c->run,
			      c->cluster.name, c->cluster.nodes_count, c->cluster.nodes_count == 1 ? "" : "s",
			      c->digest);
	(void)fflush(c->cli->out);
	if (kt_cli_has(c->cli, "yes"))
		return KT_OK;
	(void)snprintf(question, sizeof question, "Every node of %s will be stopped. Go on?", c->cluster.name);
	return kt_cli_confirm(question, "look at `keyturn plan`, then: keyturn run --yes", err);
}

/* Is the token asked for anything? Not where the new key stays in another one, or in a service. */
static bool uses_hsm(const cJSON *plan)
{
	const cJSON *s;
	cJSON_ArrayForEach(s, cJSON_GetObjectItemCaseSensitive(plan, "steps"))
	{
		const cJSON *verb = cJSON_GetObjectItemCaseSensitive(s, "verb");
		if (cJSON_IsString(verb) && kt_hsm_knows(verb->valuestring))
			return true;
	}
	return false;
}

static kt_code run(kt_ctx *c, kt_report *report, kt_err *err)
{
	kt_turn_end end;
	KT_TRY(kt_ctx_open_journal(c, KT_JOURNAL_WRITE, err));
	KT_TRY(no_open_run(c, err));
	KT_TRY(kt_ctx_open_nodes(c, err));
	KT_TRY(kt_ctx_make_plan(c, true, err));
	if (uses_hsm(c->plan)) {
		KT_TRY(kt_ctx_check_escrow_key(c, err));
		KT_TRY(kt_ctx_open_hsm(c, err));
	}
	KT_TRY(confirm(c, err));
	const kt_turn_options o = turn_options(c, c->run, report);
	KT_TRY(kt_turn_begin(&o, c->plan, &end, err));
	KT_TRY(show_summary(c, c->run, kt_report_downtime_ms(report), err));
	return class_of(&end, err);
}

kt_code kt_verb_run(kt_cli *cli, kt_err *err)
{
	return with_report(cli, run, err);
}

/* --- resume ------------------------------------------------------------------------------------------------------- */

/* The run that is meant: the one named, else the latest. */
static kt_code choose_run(kt_ctx *c, char out[KT_RUN_MAX + 1], kt_err *err)
{
	kt_run_info latest;
	if (c->cli->args) {
		KT_TRY(kt_name_check("run", c->cli->arg[0], err));
		(void)snprintf(out, KT_RUN_MAX + 1, "%s", c->cli->arg[0]);
		return KT_OK;
	}
	KT_TRY(kt_journal_latest(c->journal, &latest, err));
	(void)snprintf(out, KT_RUN_MAX + 1, "%s", latest.run);
	return KT_OK;
}

/* Once the rekey has begun, or on the way back, the token has done its part: that it is gone then keeps nobody from the
 * end (S7). */
static kt_code open_hsm_if_needed(kt_ctx *c, kt_err *err)
{
	kt_err why = KT_ERR_INIT;
	kt_replay replay;
	if (kt_ctx_open_hsm(c, &why) == KT_OK)
		return KT_OK;
	KT_TRY(kt_replay_run(c->journal, c->run, &replay, err));
	kt_engine_status s = kt_engine_state(replay.engine);
	bool needed = s.state != KT_RUN_BACK && !s.rekey_started && uses_hsm(replay.plan);
	kt_replay_free(&replay);
	if (needed) {
		*err = why;
		return why.code;
	}
	kt_log(KT_LOG_WARN, "%s; the run goes on without it", why.msg);
	return KT_OK;
}

static kt_code resume(kt_ctx *c, kt_report *report, kt_err *err)
{
	kt_turn_end end;
	KT_TRY(kt_ctx_open_journal(c, KT_JOURNAL_WRITE, err));
	KT_TRY(choose_run(c, c->run, err));
	KT_TRY(open_hsm_if_needed(c, err));
	KT_TRY(kt_ctx_open_nodes(c, err));
	kt_turn_options o = turn_options(c, c->run, report);
	o.rollback = kt_cli_has(c->cli, "rollback");
	o.alone = kt_cli_has(c->cli, "no-other-coordinator");
	KT_TRY(kt_turn_resume(&o, &end, err));
	KT_TRY(show_summary(c, c->run, -1, err));
	return class_of(&end, err);
}

kt_code kt_verb_resume(kt_cli *cli, kt_err *err)
{
	return with_report(cli, resume, err);
}

/* --- rollback ----------------------------------------------------------------------------------------------------- */

/* A run that turned the key after this one: its data opens with neither of this one's keys. */
static kt_code is_latest_change(const kt_ctx *c, const kt_run_info *runs, size_t n, size_t i, kt_err *err)
{
	while (++i < n)
		if (strcmp(runs[i].state, kt_run_state_name(KT_RUN_REFUSED)) != 0 &&
		    strcmp(runs[i].state, kt_run_state_name(KT_RUN_ROLLED_BACK)) != 0)
			return kt_fail(err, KT_E_REFUSED, "roll that one back first",
				       "the run %s came after %s and is %s", runs[i].run, c->run, runs[i].state);
	return KT_OK;
}

/* *begun_ms: when the run that is meant began. */
static kt_code find_rollback(kt_ctx *c, int64_t *begun_ms, kt_err *err)
{
	kt_run_info *runs = NULL;
	size_t n = 0;
	size_t i = 0;
	KT_TRY(kt_journal_runs(c->journal, &runs, &n, err));
	while (i < n && strcmp(runs[i].run, c->run) != 0)
		i++;
	kt_code rc = i < n ? is_latest_change(c, runs, n, i, err)
			   : kt_fail(err, KT_E_REFUSED, "`keyturn runs` lists the runs", "the journal has no run %s",
				     c->run);
	*begun_ms = i < n ? runs[i].begun_ms : 0;
	free(runs);
	return rc;
}

/* The nodes of a finished turn have to get its key once more, as it was wrapped for them then. */
static kt_code can_deliver_again(kt_ctx *c, kt_err *err)
{
	kt_replay replay;
	kt_plan_pins *pins;
	KT_TRY(kt_replay_run(c->journal, c->run, &replay, err));
	kt_code rc = KT_OK;
	if (kt_engine_state(replay.engine).state == KT_RUN_TURNED) {
		rc = kt_plan_pins_new(replay.plan, &pins, err);
		if (rc == KT_OK)
			rc = kt_plan_pins_check(pins, c->cluster.state, err);
		kt_plan_pins_free(pins);
	}
	kt_replay_free(&replay);
	return rc;
}

static kt_code confirm_rollback(const kt_ctx *c, int64_t begun_ms, kt_err *err)
{
	char since[KT_TIME_TEXT];
	char question[512];
	if (kt_cli_has(c->cli, "yes"))
		return KT_OK;
	kt_clock_format(begun_ms, since);
	(void)snprintf(question, sizeof question,
		       "Every node of %s is stopped, and the backup of run %s (%s) is restored: what was written since "
		       "is no longer in the data, but in the files that are kept beside it. Go on?",
		       c->cluster.name, c->run, since);
	return kt_cli_confirm(question, "keyturn rollback --yes RUN", err);
}

/* The old key opens the data: that is what was asked for. */
static kt_code class_of_rollback(const kt_turn_end *end, kt_err *err)
{
	bool back = end->state == KT_RUN_ROLLED_BACK || end->state == KT_RUN_REFUSED;
	return back ? KT_OK : class_of(end, err);
}

static kt_code rollback(kt_ctx *c, kt_report *report, kt_err *err)
{
	kt_turn_end end;
	int64_t begun_ms;
	KT_TRY(kt_ctx_open_journal(c, KT_JOURNAL_WRITE, err));
	KT_TRY(choose_run(c, c->run, err));
	KT_TRY(find_rollback(c, &begun_ms, err));
	KT_TRY(can_deliver_again(c, err));
	KT_TRY(confirm_rollback(c, begun_ms, err));
	KT_TRY(kt_ctx_open_nodes(c, err));
	kt_turn_options o = turn_options(c, c->run, report);
	o.revert = true;
	KT_TRY(kt_turn_resume(&o, &end, err));
	KT_TRY(show_summary(c, c->run, kt_report_downtime_ms(report), err));
	return class_of_rollback(&end, err);
}

kt_code kt_verb_rollback(kt_cli *cli, kt_err *err)
{
	if (!cli->args)
		return kt_fail(err, KT_E_USAGE, "`keyturn runs` lists the runs", "which run is to be rolled back?");
	return with_report(cli, rollback, err);
}

/* --- status ------------------------------------------------------------------------------------------------------- */

static void status_text(const kt_ctx *c, const kt_engine *e)
{
	for (size_t i = 0; i < kt_engine_steps(e); i++) {
		kt_step_status s = kt_engine_step(e, i);
		const char *word = s.undone   ? "undone"
				   : s.done   ? "done"
				   : s.failed ? "failed"
				   : s.sent   ? "under way"
				   : s.ok     ? "begun"
					      : "-";
		(void)fprintf(c->cli->out, "  %-9s %-20s %-9s %zu/%zu\n", s.phase, s.name, word, s.ok, s.targets);
	}
}

static kt_code status_json(const kt_engine *e, cJSON *o, kt_err *err)
{
	cJSON *list = cJSON_AddArrayToObject(o, "steps");
	for (size_t i = 0; list && i < kt_engine_steps(e); i++) {
		kt_step_status s = kt_engine_step(e, i);
		cJSON *one = cJSON_CreateObject();
		if (!one || !cJSON_AddItemToArray(list, one))
			return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
		KT_TRY(kt_json_add_str(one, "name", s.name, err));
		KT_TRY(kt_json_add_str(one, "phase", s.phase, err));
		KT_TRY(kt_json_add_bool(one, "done", s.done, err));
		KT_TRY(kt_json_add_bool(one, "undone", s.undone, err));
		KT_TRY(kt_json_add_int(one, "targets", (int64_t)s.targets, err));
		KT_TRY(kt_json_add_int(one, "ok", (int64_t)s.ok, err));
		KT_TRY(kt_json_add_int(one, "failed", (int64_t)s.failed, err));
		KT_TRY(kt_json_add_int(one, "under_way", (int64_t)s.sent, err));
	}
	return list ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static kt_code show_status(kt_ctx *c, const kt_replay *replay, const kt_err *damage, kt_err *err)
{
	cJSON *s;
	kt_buf text = KT_BUF_INIT;
	KT_TRY(kt_summary_make(replay->plan, replay->engine, &s, err));
	if (c->cli->json) {
		kt_code rc = status_json(replay->engine, s, err);
		if (rc == KT_OK && damage->code != KT_OK)
			rc = kt_salvage_json(c, damage, s, err);
		if (rc == KT_OK)
			return kt_cli_print_json(c->cli, s, err);
		cJSON_Delete(s);
		return rc;
	}
	kt_code rc = damage->code == KT_OK ? KT_OK : kt_salvage_tell(c, damage, err);
	if (rc == KT_OK)
		rc = kt_summary_print(s, &text, err);
	if (rc == KT_OK)
		(void)fprintf(c->cli->out, "%s\n", kt_buf_cstr(&text));
	if (rc == KT_OK)
		status_text(c, replay->engine);
	kt_buf_free(&text);
	cJSON_Delete(s);
	return rc;
}

kt_code kt_verb_status(kt_cli *cli, kt_err *err)
{
	kt_ctx c;
	kt_err damage = KT_ERR_INIT;
	kt_replay replay = {0};
	kt_code rc = kt_ctx_load(&c, cli, err);
	if (rc == KT_OK)
		rc = kt_salvage_open(&c, &damage, err);
	if (rc == KT_OK)
		rc = choose_run(&c, c.run, err);
	if (rc == KT_OK)
		rc = kt_replay_run(c.journal, c.run, &replay, err);
	if (rc == KT_OK)
		rc = show_status(&c, &replay, &damage, err);
	kt_replay_free(&replay);
	kt_ctx_close(&c);
	if (damage.code != KT_OK && err)
		*err = damage;
	return damage.code != KT_OK ? damage.code : rc;
}

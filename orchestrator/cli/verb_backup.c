/* SPDX-License-Identifier: Apache-2.0 */
/*
 * backup list, backup verify, backup restore: the backups that runs made, outside of a run. What is known of them is in
 * the journal; an encrypted one is opened on its node with the run's backup key, which the token wraps to the node's
 * transport key for this one request.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/cli/context.h"
#include "orchestrator/inventory/template.h"
#include "orchestrator/journal/replay.h"
#include "orchestrator/report/summary.h"

/* What one of the verbs works with. */
typedef struct work {
	kt_ctx *ctx;
	kt_replay replay;
	cJSON *summary;
	const cJSON *backups;    /* of the run, in summary */
	cJSON **blobs;           /* one a node: its wrapped backup key, NULL where none is needed */
	const char *verb, *into; /* of the agent; `into` of restore alone */
	const cJSON *check;      /* the run's step backup.check, NULL: none */
} work;

static const char *text(const cJSON *o, const char *name)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
	return cJSON_IsString(v) ? v->valuestring : "";
}

static int64_t number(const cJSON *o, const char *name)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
	return cJSON_IsNumber(v) ? (int64_t)v->valuedouble : 0;
}

static bool is_encrypted(const cJSON *backup)
{
	return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(backup, "encrypted"));
}

/* --- list --------------------------------------------------------------------------------------------------------- */

static kt_code list_run(const kt_ctx *c, const char *run, kt_err *err)
{
	kt_replay replay;
	cJSON *summary = NULL;
	KT_TRY(kt_replay_run(c->journal, run, &replay, err));
	kt_code rc = kt_summary_make(replay.plan, replay.engine, &summary, err);
	kt_replay_free(&replay);
	KT_TRY(rc);
	const cJSON *b;
	cJSON_ArrayForEach(b, cJSON_GetObjectItemCaseSensitive(summary, "backups"))
	{
		if (!c->cli->json) {
			(void)fprintf(c->cli->out,
				      "%s  %-16s %s  %" PRId64 " files, %" PRId64 " bytes in %" PRId64 "%s\n", run,
				      text(b, "node"), text(b, "archive"), number(b, "files"), number(b, "bytes"),
				      number(b, "archive_bytes"), is_encrypted(b) ? ", encrypted" : "");
			continue;
		}
		cJSON *o = cJSON_Duplicate(b, true);
		rc = o ? kt_json_add_str(o, "run", run, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
		if (rc == KT_OK)
			rc = kt_cli_print_json(c->cli, o, err);
		else
			cJSON_Delete(o);
		if (rc != KT_OK)
			break;
	}
	cJSON_Delete(summary);
	return rc;
}

static kt_code list(kt_ctx *c, kt_err *err)
{
	kt_run_info *runs = NULL;
	size_t n = 0;
	KT_TRY(kt_ctx_open_journal(c, KT_JOURNAL_READ, err));
	if (c->cli->args) {
		KT_TRY(kt_name_check("run", c->cli->arg[0], err));
		return list_run(c, c->cli->arg[0], err);
	}
	kt_code rc = kt_journal_runs(c->journal, &runs, &n, err);
	for (size_t i = 0; rc == KT_OK && i < n; i++)
		rc = list_run(c, runs[i].run, err);
	free(runs);
	return rc;
}

kt_code kt_verb_backup_list(kt_cli *cli, kt_err *err)
{
	kt_ctx c;
	kt_code rc = kt_ctx_load(&c, cli, err);
	if (rc == KT_OK)
		rc = list(&c, err);
	kt_ctx_close(&c);
	return rc;
}

/* --- which ones --------------------------------------------------------------------------------------------------- */

static const cJSON *backup_of(const work *w, const char *node)
{
	const cJSON *b;
	cJSON_ArrayForEach(b, w->backups) if (strcmp(text(b, "node"), node) == 0) return b;
	return NULL;
}

static bool is_named(const kt_cli *cli, const char *node)
{
	for (int i = 1; i < cli->args; i++)
		if (strcmp(cli->arg[i], node) == 0)
			return true;
	return cli->args < 2;
}

/* The survey's: leave this node out? */
static bool left_out(void *cookie, size_t node)
{
	const work *w = cookie;
	const char *name = w->ctx->cluster.nodes[node].name;
	return !is_named(w->ctx->cli, name) || !backup_of(w, name);
}

/* Every node that is named has a backup, and is one of the cluster; and there is one at all. */
static kt_code check_named(const work *w, kt_err *err)
{
	const kt_ctx *c = w->ctx;
	const char *run = c->cli->arg[0];
	for (int i = 1; i < c->cli->args; i++) {
		if (!kt_cluster_node(&c->cluster, c->cli->arg[i]))
			return kt_fail(err, KT_E_USAGE, "the nodes are in cluster.json", "there is no node \"%s\"",
				       c->cli->arg[i]);
		if (!backup_of(w, c->cli->arg[i]))
			return kt_fail(err, KT_E_REFUSED, "`keyturn backup list` has them",
				       "run %s has no backup of %s", run, c->cli->arg[i]);
	}
	if (!cJSON_GetArraySize(w->backups))
		return kt_fail(err, KT_E_REFUSED, "`keyturn backup list` has those of other runs",
			       "run %s made no backup", run);
	return KT_OK;
}

static const cJSON *step_of(const cJSON *plan, const char *verb)
{
	const cJSON *s;
	cJSON_ArrayForEach(s, cJSON_GetObjectItemCaseSensitive(plan, "steps")) if (strcmp(text(s, "verb"), verb) ==
										   0) return s;
	return NULL;
}

static kt_code open_run(work *w, kt_err *err)
{
	const char *run = w->ctx->cli->arg[0];
	KT_TRY(kt_name_check("run", run, err));
	KT_TRY(kt_ctx_open_journal(w->ctx, KT_JOURNAL_READ, err));
	KT_TRY(kt_replay_run(w->ctx->journal, run, &w->replay, err));
	KT_TRY(kt_summary_make(w->replay.plan, w->replay.engine, &w->summary, err));
	w->backups = cJSON_GetObjectItemCaseSensitive(w->summary, "backups");
	w->check = step_of(w->replay.plan, "backup.check");
	return check_named(w, err);
}

/* --- the key ------------------------------------------------------------------------------------------------------ */

/* Wrapped anew in the token, for the transport keys that the nodes have now. */
static kt_code wrap_for(work *w, size_t node, kt_err *err)
{
	const char *name = w->ctx->cluster.nodes[node].name;
	kt_hsm_command wrap = {.verb = "backup.wrap", .node = name};
	if (!w->ctx->hsm)
		KT_TRY(kt_ctx_open_hsm(w->ctx, err));
	kt_hsm_act(w->ctx->hsm, w->ctx->cli->arg[0], &wrap, 1);
	w->blobs[node] = cJSON_DetachItemFromObjectCaseSensitive(wrap.result, "blob");
	cJSON_Delete(wrap.result);
	if (wrap.status == KT_STATUS_OK)
		return KT_OK;
	const char *remedy = wrap.error.code == KT_E_KEY
				     ? "bring it back from its escrow: keyturn key recover (escrow/RUN-backup.json)"
				     : wrap.error.remedy;
	return kt_fail(err, wrap.error.code, remedy, "%s: %s", name, wrap.error.msg);
}

static kt_code wrap_all(work *w, kt_err *err)
{
	size_t n = w->ctx->cluster.nodes_count;
	w->blobs = calloc(n, sizeof *w->blobs);
	if (!w->blobs)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	for (size_t i = 0; i < n; i++)
		if (!left_out(w, i) && is_encrypted(backup_of(w, w->ctx->cluster.nodes[i].name)))
			KT_TRY(wrap_for(w, i, err));
	return KT_OK;
}

/* --- the requests ------------------------------------------------------------------------------------------------- */

/* What the plan left open: archive and sha256 of the node's backup, and the wrapped key. */
typedef struct late {
	const cJSON *backup, *blob;
} late;

static const cJSON *lookup(void *cookie, const char *step, const char *field)
{
	const late *l = cookie;
	(void)step;
	return strcmp(field, "blob") == 0 ? l->blob : cJSON_GetObjectItemCaseSensitive(l->backup, field);
}

/* Once the run has turned, an old key that was in a variable is in no env file any more: then nothing can look inside.
 */
static bool can_look(const work *w, const char *node)
{
	const cJSON *from =
		cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(w->replay.plan, "key"), "from");
	return kt_engine_state(w->replay.engine).state != KT_RUN_TURNED || strncmp(text(from, node), "env:", 4) != 0;
}

/* As the run's own test restore, beside its scratch folder. */
static kt_code check_args(const work *w, const char *node, const late *l, cJSON **out, kt_err *err)
{
	kt_plan_cursor at = {0};
	kt_buf scratch = KT_BUF_INIT;
	while (kt_plan_next(w->check, &at))
		if (strcmp(at.node, node) == 0)
			break;
	if (!at.node || strcmp(at.node, node) != 0)
		return kt_fail(err, KT_E_REFUSED, "unpack it: keyturn backup restore",
			       "the run did not test-restore it");
	KT_TRY(kt_template_resolve_late(at.args, lookup, (void *)(uintptr_t)l, out, err));
	if (!can_look(w, node)) {
		cJSON_DeleteItemFromObjectCaseSensitive(*out, "check");
		cJSON_DeleteItemFromObjectCaseSensitive(*out, "load"); /* has the old key, too */
	}
	kt_code rc = kt_buf_printf(&scratch, err, "%s-verify", text(*out, "scratch"));
	cJSON_DeleteItemFromObjectCaseSensitive(*out, "scratch");
	if (rc == KT_OK)
		rc = kt_json_add_str(*out, "scratch", kt_buf_cstr(&scratch), err);
	kt_buf_free(&scratch);
	return rc;
}

static kt_code restore_args(const work *w, const late *l, cJSON **out, kt_err *err)
{
	*out = cJSON_CreateObject();
	KT_TRY(kt_json_add_str(*out, "archive", text(l->backup, "archive"), err));
	KT_TRY(kt_json_add_str(*out, "sha256", text(l->backup, "sha256"), err));
	KT_TRY(kt_json_add_str(*out, "into", w->into, err));
	return l->blob ? kt_json_add(*out, "blob", cJSON_Duplicate(l->blob, true), err) : KT_OK;
}

static kt_code make_args(void *cookie, size_t node, cJSON **out, kt_err *err)
{
	const work *w = cookie;
	const char *name = w->ctx->cluster.nodes[node].name;
	const late l = {.backup = backup_of(w, name), .blob = w->blobs[node]};
	*out = NULL;
	kt_code rc = w->into ? restore_args(w, &l, out, err) : check_args(w, name, &l, out, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(*out, "run", w->ctx->cli->arg[0], err);
	if (rc != KT_OK) {
		cJSON_Delete(*out);
		*out = NULL;
	}
	return rc;
}

/* --- what came of it ---------------------------------------------------------------------------------------------- */

static kt_code say_json(const kt_cli *cli, const char *node, const kt_answer *a, kt_err *err)
{
	cJSON *o = a->result ? cJSON_Duplicate(a->result, true) : cJSON_CreateObject();
	kt_code rc = kt_json_add_str(o, "node", node, err);
	if (rc == KT_OK)
		rc = kt_json_add_bool(o, "ok", a->status == KT_STATUS_OK, err);
	if (rc == KT_OK && a->status != KT_STATUS_OK)
		rc = kt_json_add_str(o, "message", a->error.msg, err);
	if (rc == KT_OK)
		return kt_cli_print_json(cli, o, err);
	cJSON_Delete(o);
	return rc;
}

static void say(const work *w, const char *node, const kt_answer *a)
{
	FILE *out = w->ctx->cli->out;
	if (a->status != KT_STATUS_OK) {
		(void)fprintf(out, "FAIL %-16s %s\n", node, a->error.msg);
		if (a->error.remedy[0])
			(void)fprintf(out, "     → %s\n", a->error.remedy);
		return;
	}
	const bool loaded = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(a->result, "loaded"));
	const char *how = w->into ? "restored"
			  : cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(a->result, "checked"))
				  ? loaded ? "restores, its dump loads, and the data in it opens"
					   : "restores, and the data in it opens"
			  : loaded ? "restores, and its dump loads"
				   : "restores; nothing looked into the data";
	(void)fprintf(out, "ok   %-16s %s (%" PRId64 " files, %" PRId64 " bytes)%s%s\n", node, how,
		      number(a->result, "files"), number(a->result, "bytes"), w->into ? " into " : "",
		      w->into ? w->into : "");
}

static kt_code judge(const work *w, const kt_answer *answers, kt_err *err)
{
	size_t bad = 0;
	const kt_err *why = NULL;
	for (size_t i = 0; i < w->ctx->cluster.nodes_count; i++) {
		const char *node = w->ctx->cluster.nodes[i].name;
		if (left_out((void *)(uintptr_t)w, i))
			continue;
		if (w->ctx->cli->json)
			KT_TRY(say_json(w->ctx->cli, node, &answers[i], err));
		else
			say(w, node, &answers[i]);
		if (answers[i].status == KT_STATUS_OK)
			continue;
		why = &answers[i].error;
		bad++;
	}
	if (!bad)
		return KT_OK;
	return kt_fail(err, why->code != KT_OK ? why->code : KT_E_REFUSED, why->remedy, "%zu backup%s of run %s: %s",
		       bad, bad == 1 ? "" : "s", w->ctx->cli->arg[0], why->msg);
}

static kt_code ask(work *w, kt_err *err)
{
	kt_answer *answers = NULL;
	KT_TRY(open_run(w, err));
	const kt_survey q = {.verb = w->verb,
			     .args = make_args,
			     .skip = left_out,
			     .cookie = w,
			     .timeout_ms = 1000 * number(w->check, "timeout_s")};
	KT_TRY(wrap_all(w, err));
	KT_TRY(kt_ctx_open_nodes(w->ctx, err));
	KT_TRY(kt_nodes_survey(w->ctx->nodes, &q, &answers, err));
	kt_code rc = judge(w, answers, err);
	kt_answers_free(answers, w->ctx->cluster.nodes_count);
	return rc;
}

static kt_code with_backups(kt_cli *cli, const char *verb, const char *into, kt_err *err)
{
	kt_ctx c;
	work w = {.ctx = &c, .verb = verb, .into = into};
	kt_code rc = kt_ctx_load(&c, cli, err);
	if (rc == KT_OK)
		rc = ask(&w, err);
	for (size_t i = 0; w.blobs && i < c.cluster.nodes_count; i++)
		cJSON_Delete(w.blobs[i]);
	free(w.blobs);
	cJSON_Delete(w.summary);
	kt_replay_free(&w.replay);
	kt_ctx_close(&c);
	return rc;
}

kt_code kt_verb_backup_verify(kt_cli *cli, kt_err *err)
{
	if (!cli->args)
		return kt_fail(err, KT_E_USAGE, "`keyturn backup list` has the runs", "name the run");
	return with_backups(cli, "backup.check", NULL, err);
}

kt_code kt_verb_backup_restore(kt_cli *cli, kt_err *err)
{
	const char *into = kt_cli_get(cli, "to");
	if (cli->args != 2 || !into)
		return kt_fail(err, KT_E_USAGE,
			       "keyturn backup restore RUN NODE --to FOLDER; in place: keyturn rollback RUN",
			       "name the run, the node, and a new folder on that node");
	if (into[0] != '/')
		return kt_fail(err, KT_E_USAGE, "give an absolute path on the node", "\"%s\" is not absolute", into);
	return with_backups(cli, "backup.restore", into, err);
}

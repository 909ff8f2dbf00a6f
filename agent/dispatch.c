/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/dispatch.h"

#include <string.h>

#include "agent/epoch.h"
#include "agent/runlock.h"
#include "agent/spool.h"
#include "base/log.h"
#include "base/planted.h"

static bool outside_of_run(const kt_request *r)
{
	return strcmp(r->run, "-") == 0;
}

static kt_code find_verb(const kt_agent_verb *verbs, const kt_request *r, const kt_agent_verb **out, kt_err *err)
{
	for (*out = verbs; (*out)->name; ++*out)
		if (strcmp((*out)->name, r->verb) == 0)
			return KT_OK;
	return kt_fail(err, KT_E_USAGE, "run `keyturn enroll` to put the coordinator's version on this node",
		       "agent " KT_VERSION " does not know the verb \"%s\"", r->verb);
}

static kt_code check_node(const kt_agent *a, const kt_request *r, kt_err *err)
{
	if (strcmp(a->node, r->node) == 0)
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED, "compare the host of this node in cluster.json with the others",
		       "a request for node \"%s\" reached node \"%s\"", r->node, a->node);
}

static kt_code check_run(const kt_agent_verb *v, const kt_request *r, kt_err *err)
{
	if (v->kind == KT_VERB_READS || (v->outside && outside_of_run(r)))
		return KT_OK;
	if (outside_of_run(r))
		return kt_fail(err, KT_E_REFUSED, NULL, "%s changes this node, and that needs a run", v->name);
	if (r->epoch < 1)
		return kt_fail(err, KT_E_REFUSED, NULL, "%s in run %s came without an epoch", v->name, r->run);
	return KT_OK;
}

/* --- Recorded verbs -------------------------------------------------------------------------------------------------
 */

/* Copy a recorded outcome into the answer. */
static kt_status replay(const char *dir, cJSON *result, kt_err *err)
{
	kt_spool_outcome o;
	bool found;
	const cJSON *item;
	kt_code rc = kt_spool_outcome_load(dir, &found, &o, err);
	if (rc == KT_OK && !found)
		rc = kt_fail(err, KT_E_AUDIT, NULL, "%s/outcome.json has gone", dir);
	if (rc != KT_OK)
		return KT_STATUS_UNKNOWN; /* it was done once, and how that ended can't be told any more */
	kt_status status = o.status;
	*err = o.error;
	cJSON_ArrayForEach(item, o.result) if (kt_json_add(result, item->string, cJSON_Duplicate(item, 1), err) !=
					       KT_OK) status = KT_STATUS_UNKNOWN;
	kt_spool_outcome_free(&o);
	return status;
}

/*
 * Act, then record. An outcome that can't be recorded is still told truthfully: the verb may be done again, and then
 * answers the same. What was broken off, or may be asked again, has no outcome yet; nor has what was begun earlier and
 * finds its own records damaged.
 */
static kt_status act_and_record(const kt_agent_verb *v, kt_agent_ctx *ctx, const cJSON *args, kt_spool_state state,
				cJSON *result, kt_err *err)
{
	kt_err trouble = KT_ERR_INIT;
	kt_status status = v->act(ctx, args, result, err);
	if (v->repeat == KT_VERB_ONCE || status == KT_STATUS_RETRY ||
	    (status != KT_STATUS_OK && err->code == KT_E_INTERRUPTED))
		return status;
	if (status == KT_STATUS_FAILED && err->code == KT_E_AUDIT && state == KT_SPOOL_STARTED)
		return KT_STATUS_UNKNOWN;
	if (kt_spool_finish(ctx->spool, status, result, err, &trouble) != KT_OK)
		kt_log(KT_LOG_WARN, "%s: %s", v->name, trouble.msg);
	return status;
}

/* Asked to settle: the coordinator that sent it first is gone, and what held then (a quiet gate) may hold no more. What
 * has no outcome gets this one, so that its key can never bring it about later. */
static kt_status not_gone_on_with(const kt_agent_verb *v, const kt_agent_ctx *ctx, kt_spool_state state, kt_err *err)
{
	kt_err trouble = KT_ERR_INIT;
	KT_IGNORE(kt_fail(err, KT_E_REFUSED, "the coordinator decides anew", "%s was %s", v->name,
			  state == KT_SPOOL_NEW ? "never started: its request had not arrived"
						: "begun and broken off; it is not gone on with under this key"));
	if (kt_spool_finish(ctx->spool, KT_STATUS_FAILED, NULL, err, &trouble) == KT_OK)
		return KT_STATUS_FAILED;
	*err = trouble;
	return KT_STATUS_UNKNOWN; /* a request that comes late may still bring it about */
}

/* Nothing is done now. Was it done before? A record that can't be read leaves that open. */
static kt_status not_done(const kt_agent_ctx *ctx, const kt_err *err)
{
	if (err->code == KT_E_BUSY || err->code == KT_E_INTERRUPTED || kt_spool_unused(ctx->spool))
		return KT_STATUS_FAILED;
	return KT_STATUS_UNKNOWN;
}

/* For want of a record, and behind the epoch, which shuts out what was sent before: this request comes to nothing for
 * good.
 */
static kt_status not_begun(const kt_agent_verb *v, cJSON *result)
{
	if (v->repeat == KT_VERB_ONCE)
		KT_IGNORE(kt_json_add_bool(result, "started", false, NULL));
	return KT_STATUS_FAILED;
}

static kt_status recorded(const kt_agent_verb *v, kt_agent_ctx *ctx, const kt_request *r, cJSON *result, kt_err *err)
{
	kt_spool_state state;
	/* While we waited for the lock, somebody may have taken over. */
	if (kt_epoch_still(ctx->state, r, err) != KT_OK ||
	    kt_runlock_take(ctx->state, r->cluster, r->run, err) != KT_OK ||
	    kt_detached_check(ctx->state, r->cluster, ctx->spool, err) != KT_OK)
		return not_done(ctx, err);
	if (kt_spool_begin(ctx->spool, r, v->hidden, &state, err) != KT_OK)
		return state == KT_SPOOL_NEW ? not_begun(v, result) : KT_STATUS_UNKNOWN;
	if (state == KT_SPOOL_DONE && !PLANTED(OUTCOME_NOT_LOOKED_UP))
		return replay(ctx->spool, result, err);
	if (ctx->settle && v->repeat == KT_VERB_AGAIN)
		return not_gone_on_with(v, ctx, state, err);
	return act_and_record(v, ctx, r->args, state, result, err);
}

static kt_status change(const kt_agent_verb *v, kt_agent_ctx *ctx, const kt_request *r, cJSON *result, kt_err *err)
{
	kt_buf dir = KT_BUF_INIT;
	kt_status status = KT_STATUS_UNKNOWN; /* who cannot look must not say that it was not done */
	if (kt_spool_path(ctx->state, r, &dir, err) == KT_OK) {
		ctx->spool = kt_buf_cstr(&dir);
		if (kt_epoch_admit(ctx->state, r, err) != KT_OK || kt_node_lock(ctx, err) != KT_OK)
			status = not_done(ctx, err);
		else
			status = recorded(v, ctx, r, result, err);
	}
	kt_node_unlock(ctx);
	kt_buf_free(&dir);
	return status;
}

/*
 * The last word of a run. It may be said again, also after the run was opened once more, so it has no place in the
 * spool; and by another process than the one that drove the run to its end, so it is not fenced by its connection.
 */
static kt_status end(const kt_agent_verb *v, kt_agent_ctx *ctx, const kt_request *r, cJSON *result, kt_err *err)
{
	kt_status status = KT_STATUS_FAILED;
	if (kt_epoch_check(ctx->state, r, err) == KT_OK && kt_node_lock(ctx, err) == KT_OK &&
	    kt_epoch_check(ctx->state, r, err) == KT_OK &&
	    kt_detached_check(ctx->state, r->cluster, NULL, err) == KT_OK)
		status = v->act(ctx, r->args, result, err);
	kt_node_unlock(ctx);
	return status;
}

/* A reading verb: what it sees must not be undone behind it by a coordinator that was replaced, nor change under it. */
static kt_status look(const kt_agent_verb *v, kt_agent_ctx *ctx, const kt_request *r, cJSON *result, kt_err *err)
{
	bool in_run = !outside_of_run(r) && r->epoch > 0;
	kt_status status = KT_STATUS_FAILED;
	kt_code rc = in_run ? kt_epoch_admit(ctx->state, r, err) : KT_OK;
	if (rc == KT_OK && in_run && v->alone)
		rc = kt_node_lock(ctx, err);
	if (rc == KT_OK && v->quiet)
		rc = kt_detached_check(ctx->state, r->cluster, NULL, err);
	if (rc == KT_OK)
		status = v->act(ctx, r->args, result, err);
	kt_node_unlock(ctx);
	return status;
}

static kt_status serve(const kt_agent_verb *v, kt_agent_ctx *ctx, const kt_request *r, cJSON *result, kt_err *err)
{
	if (v->kind == KT_VERB_CHANGES && !outside_of_run(r))
		return change(v, ctx, r, result, err);
	if (v->kind == KT_VERB_ENDS)
		return end(v, ctx, r, result, err);
	return look(v, ctx, r, result, err);
}

/* A status without its reason, or a reason with ok, would break the frame's format. */
static void settle(const kt_agent_verb *v, kt_status status, kt_err *err)
{
	if (status == KT_STATUS_OK)
		*err = KT_ERR_INIT;
	else if (err->code == KT_OK)
		KT_IGNORE(kt_fail(err, KT_E_INTERNAL, NULL, "%s failed without a reason", v->name));
}

kt_status kt_dispatch(const kt_agent *a, const kt_request *r, cJSON *result, kt_err *err)
{
	const kt_agent_verb *v = NULL;
	*err = KT_ERR_INIT;
	if (find_verb(a->verbs, r, &v, err) != KT_OK || check_node(a, r, err) != KT_OK || check_run(v, r, err) != KT_OK)
		return KT_STATUS_FAILED;
	kt_agent_ctx ctx = {.state = a->state,
			    .node = a->node,
			    .cluster = r->cluster,
			    .run = r->run,
			    .step = r->step,
			    .role = r->role,
			    .attempt = r->attempt,
			    .settle = r->settle,
			    .epoch = r->epoch,
			    .verb = v->name,
			    .lock_fd = -1,
			    .report = a->report,
			    .stopping = a->stopping,
			    .arg = a->arg};
	kt_status status = serve(v, &ctx, r, result, err);
	settle(v, status, err);
	kt_log_forget_all();
	return status;
}

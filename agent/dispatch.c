/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/dispatch.h"

#include <string.h>

#include "agent/epoch.h"
#include "agent/spool.h"
#include "base/log.h"

enum { READS, CHANGES };
enum { AGAIN, ONCE };

/* What must hold before a verb may run; docs/FORMATS.md, section 2. */
typedef struct verb {
	const char *name;
	unsigned kind;      /* CHANGES: needs a run and an admitted epoch, takes the lock, is recorded first */
	unsigned repeat;    /* ONCE: its handler records the outcome and decides about repetitions */
	bool outside;       /* a changing verb that may also be asked for outside of a run, then not recorded */
	bool quiet;         /* a reading verb that must not run beside detached work: it would see it half done */
	const char *hidden; /* the argument that is kept in the spool only as a digest */
	kt_action_fn *act;
} verb;

static const verb verbs[] = {
	{"facts", READS, AGAIN, false, false, NULL, kt_action_facts},
	{"service.status", READS, AGAIN, false, false, NULL, kt_action_service_status},
	{"service.stop", CHANGES, AGAIN, false, false, NULL, kt_action_service_stop},
	{"service.start", CHANGES, AGAIN, false, false, NULL, kt_action_service_start},
	{"preflight", READS, AGAIN, false, false, NULL, kt_action_preflight},
	{"gate.check", READS, AGAIN, false, false, NULL, kt_action_gate_check},
	{"backup.create", CHANGES, AGAIN, false, false, NULL, kt_action_backup_create},
	{"backup.check", CHANGES, AGAIN, false, false, NULL, kt_action_backup_check},
	{"backup.restore", CHANGES, AGAIN, false, false, NULL, kt_action_backup_restore},
	{"key.transport", CHANGES, AGAIN, true, false, NULL, kt_action_key_transport},
	{"key.locate", READS, AGAIN, false, false, NULL, kt_action_key_locate},
	{"key.receive", CHANGES, AGAIN, true, false, "blob", kt_action_key_receive},
	{"key.install", CHANGES, AGAIN, false, false, NULL, kt_action_key_install},
	{"key.forget", CHANGES, AGAIN, false, false, NULL, kt_action_key_forget},
	{"env.install", CHANGES, AGAIN, false, false, NULL, kt_action_env_install},
	{"env.restore", CHANGES, AGAIN, false, false, NULL, kt_action_env_restore},
	{"exec", CHANGES, ONCE, false, false, NULL, kt_action_exec},
	{"command", READS, AGAIN, false, false, NULL, kt_action_command},
	{"probe", READS, AGAIN, false, true, NULL, kt_action_probe},
	{"log.check", READS, AGAIN, false, false, NULL, kt_action_log_check},
	{"file.remove", CHANGES, AGAIN, false, false, NULL, kt_action_file_remove},
};

static bool outside_of_run(const kt_request *r)
{
	return strcmp(r->run, "-") == 0;
}

static kt_code find_verb(const kt_request *r, const verb **out, kt_err *err)
{
	for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
		if (strcmp(verbs[i].name, r->verb) == 0) {
			*out = &verbs[i];
			return KT_OK;
		}
	}
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

static kt_code check_run(const verb *v, const kt_request *r, kt_err *err)
{
	if (v->kind == READS || (v->outside && outside_of_run(r)))
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
		return KT_STATUS_FAILED;
	kt_status status = o.status;
	*err = o.error;
	cJSON_ArrayForEach(item, o.result) if (kt_json_add(result, item->string, cJSON_Duplicate(item, 1), err) !=
					       KT_OK) status = KT_STATUS_FAILED;
	kt_spool_outcome_free(&o);
	return status;
}

/*
 * Act, then record. An outcome that can't be recorded is still told truthfully: the verb may be done again, and then
 * answers the same. What was broken off, or may be asked again, has no outcome yet.
 */
static kt_status act_and_record(const verb *v, kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	kt_err trouble = KT_ERR_INIT;
	kt_status status = v->act(ctx, args, result, err);
	if (v->repeat == ONCE || status == KT_STATUS_RETRY || (status != KT_STATUS_OK && err->code == KT_E_INTERRUPTED))
		return status;
	if (kt_spool_finish(ctx->spool, status, result, err, &trouble) != KT_OK)
		kt_log(KT_LOG_WARN, "%s: %s", v->name, trouble.msg);
	return status;
}

/* Asked to settle: the coordinator that sent it first is gone, and what held then (a quiet gate) may hold no more. What
 * has no outcome gets this one, so that its key can never bring it about later. */
static kt_status not_gone_on_with(const verb *v, const kt_agent_ctx *ctx, kt_spool_state state, kt_err *err)
{
	kt_err trouble = KT_ERR_INIT;
	KT_IGNORE(kt_fail(err, KT_E_REFUSED, "the coordinator decides anew", "%s was %s", v->name,
			  state == KT_SPOOL_NEW ? "never started: its request had not arrived"
						: "begun and broken off; it is not gone on with under this key"));
	if (kt_spool_finish(ctx->spool, KT_STATUS_FAILED, NULL, err, &trouble) != KT_OK)
		*err = trouble;
	return KT_STATUS_FAILED;
}

static kt_status recorded(const verb *v, kt_agent_ctx *ctx, const kt_request *r, cJSON *result, kt_err *err)
{
	kt_spool_state state;
	/* While we waited for the lock, somebody may have taken over. */
	if (kt_epoch_admit(ctx->state, r->cluster, r->run, r->epoch, err) != KT_OK ||
	    kt_detached_check(ctx->state, r->cluster, ctx->spool, err) != KT_OK ||
	    kt_spool_begin(ctx->spool, r, v->hidden, &state, err) != KT_OK)
		return KT_STATUS_FAILED;
	if (state == KT_SPOOL_DONE)
		return replay(ctx->spool, result, err);
	if (ctx->settle && v->repeat == AGAIN)
		return not_gone_on_with(v, ctx, state, err);
	return act_and_record(v, ctx, r->args, result, err);
}

static kt_status change(const verb *v, kt_agent_ctx *ctx, const kt_request *r, cJSON *result, kt_err *err)
{
	kt_buf dir = KT_BUF_INIT;
	kt_status status = KT_STATUS_FAILED;
	kt_code rc = kt_spool_path(ctx->state, r, &dir, err);
	if (rc == KT_OK)
		rc = kt_epoch_admit(ctx->state, r->cluster, r->run, r->epoch, err);
	if (rc == KT_OK)
		rc = kt_node_lock(ctx, err);
	if (rc == KT_OK) {
		ctx->spool = kt_buf_cstr(&dir);
		status = recorded(v, ctx, r, result, err);
	}
	kt_node_unlock(ctx);
	kt_buf_free(&dir);
	return status;
}

static kt_status serve(const verb *v, kt_agent_ctx *ctx, const kt_request *r, cJSON *result, kt_err *err)
{
	if (v->kind == CHANGES && !outside_of_run(r))
		return change(v, ctx, r, result, err);
	if (v->quiet && kt_detached_check(ctx->state, r->cluster, NULL, err) != KT_OK)
		return KT_STATUS_FAILED;
	return v->act(ctx, r->args, result, err);
}

/* A status without its reason, or a reason with ok, would break the frame's format. */
static void settle(const verb *v, kt_status status, kt_err *err)
{
	if (status == KT_STATUS_OK)
		*err = KT_ERR_INIT;
	else if (err->code == KT_OK)
		KT_IGNORE(kt_fail(err, KT_E_INTERNAL, NULL, "%s failed without a reason", v->name));
}

kt_status kt_dispatch(const kt_agent *a, const kt_request *r, cJSON *result, kt_err *err)
{
	const verb *v = NULL;
	*err = KT_ERR_INIT;
	if (find_verb(r, &v, err) != KT_OK || check_node(a, r, err) != KT_OK || check_run(v, r, err) != KT_OK)
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

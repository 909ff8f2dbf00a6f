/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/once.h"

#include <string.h>
#include <unistd.h>

#include "agent/epoch.h"
#include "agent/spool.h"
#include "base/planted.h"

/* --- Starting ----------------------------------------------------------------------------------------------------- */

/* No runner has claimed it: see to it that none can any more, so that "failed" is certain. Where even that cannot be
 * recorded it is not: a runner of an earlier agent may still come. */
static kt_code give_up(const char *spool, const kt_err *why, kt_err *err)
{
	bool mine;
	if (kt_spool_claim(spool, &mine, err) != KT_OK)
		return KT_E_UNKNOWN;
	return mine ? kt_spool_never_started(spool, why, NULL, err) : KT_OK;
}

static kt_code try_start(kt_agent_ctx *ctx, kt_once_start_fn *start, void *arg, kt_err *why)
{
	char report[KT_ERR_MSG] = "";
	kt_spool_work work;
	KT_TRY(kt_detached_set(ctx, ctx->spool, why));
	KT_TRY(start(arg, ctx->spool, report, why));
	KT_TRY(kt_spool_work_of(ctx->spool, &work, why));
	if (work.claimed)
		return KT_OK;
	return kt_fail(why, KT_E_IO, "see whether the agent's files are complete, and the kernel's log",
		       "the detached runner could not be started%s%s", report[0] ? ": " : "", report);
}

/* S1, S2: asked about again after its coordinator or its connection was lost. What was not begun then is not begun now,
 * long after the gate was quiet. */
static kt_code never_started(kt_agent_ctx *ctx, kt_err *err)
{
	kt_err why = KT_ERR_INIT;
	KT_IGNORE(kt_fail(&why, KT_E_REFUSED, "the probe tells which key opens the data",
			  "the command was never started: its request had not arrived before the connection was lost"));
	return give_up(ctx->spool, &why, err);
}

kt_code kt_once_begin(kt_agent_ctx *ctx, kt_once_start_fn *start, void *arg, kt_err *err)
{
	kt_spool_work work;
	kt_err why = KT_ERR_INIT;
	/* Who cannot read whether it was begun must not say that it was not. */
	if (kt_spool_work_of(ctx->spool, &work, err) != KT_OK)
		return KT_E_UNKNOWN;
	if (work.claimed)
		return KT_OK;
	if (ctx->settle)
		return never_started(ctx, err);
	return try_start(ctx, start, arg, &why) == KT_OK ? KT_OK : give_up(ctx->spool, &why, err);
}

/* --- What became of it -------------------------------------------------------------------------------------------- */

static bool rebooted_since(const kt_process *p)
{
	char boot_id[KT_BOOT_ID];
	kt_err ignored = KT_ERR_INIT;
	return kt_boot_id(boot_id, &ignored) == KT_OK && strcmp(boot_id, p->boot_id) != 0;
}

/* The runner is gone and has recorded nothing. */
static kt_status lost(const char *spool, const kt_spool_work *work, cJSON *result, kt_err *err)
{
	kt_err ignored = KT_ERR_INIT;
	bool booted = rebooted_since(&work->runner);
	if (!work->started || PLANTED(UNKNOWN_IS_FAILED)) {
		KT_IGNORE(kt_fail(err, KT_E_INTERNAL, NULL,
				  "the detached runner ended before the command was executed%s (%s)",
				  booted ? ": the node was rebooted" : "", spool));
		KT_IGNORE(kt_spool_never_started(spool, err, result, &ignored));
		return KT_STATUS_FAILED;
	}
	KT_IGNORE(kt_fail(err, KT_E_UNKNOWN, "the probe tells which key opens the data",
			  "the command was started and its outcome is not known: %s (%s)",
			  booted ? "the node was rebooted meanwhile" : "its runner is gone and recorded nothing",
			  spool));
	/* Nobody is left who could record another outcome. When this can't be recorded either, the same is found again.
	 */
	KT_IGNORE(kt_spool_finish(spool, KT_STATUS_UNKNOWN, NULL, err, &ignored));
	return KT_STATUS_UNKNOWN;
}

/* Copy the recorded outcome into the answer. */
static kt_status answer(kt_spool_outcome *o, cJSON *result, kt_err *err)
{
	const cJSON *item;
	kt_status status = o->status;
	*err = o->error;
	cJSON_ArrayForEach(item, o->result) if (kt_json_add(result, item->string, cJSON_Duplicate(item, 1), err) !=
						KT_OK) status = KT_STATUS_UNKNOWN;
	kt_spool_outcome_free(o);
	return status;
}

kt_status kt_once_look(const char *spool, bool *runs, cJSON *result, kt_err *err)
{
	kt_spool_work work;
	kt_spool_outcome o;
	bool found;
	*runs = false;
	/* First whether it is alive, then whether it has recorded: an outcome is recorded before the end. */
	kt_code rc = kt_spool_work_of(spool, &work, err);
	if (kt_spool_outcome_load(spool, &found, &o, err) != KT_OK)
		return KT_STATUS_UNKNOWN;
	if (found)
		return answer(&o, result, err);
	if (rc != KT_OK)
		return KT_STATUS_UNKNOWN;
	if (!work.alive || work.runner.pid == getpid()) /* claimed by ourselves to keep others off */
		return lost(spool, &work, result, err);
	*runs = true;
	return KT_STATUS_UNKNOWN;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The verb run.release: a run is over, and nothing of it is left that should not be. */
#include "agent/action.h"
#include "agent/runlock.h"
#include "agent/snapshot.h"

kt_status kt_action_run_release(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	bool released;
	(void)args;
	KT_IGNORE(kt_snapshot_clear(ctx, false, NULL)); /* the next backup tries again */
	kt_code rc = kt_runlock_release(ctx->state, ctx->cluster, ctx->run, &released, err);
	if (rc == KT_OK)
		rc = kt_json_add_bool(result, "released", released, err);
	return kt_action_end(rc);
}

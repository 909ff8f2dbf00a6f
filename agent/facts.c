/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "agent/epoch.h"
#include "agent/process.h"
#include "agent/runlock.h"
#include "agent/spool.h"
#include "base/clock.h"

/* Who holds this node, of whichever cluster. */
static kt_code put_holder(const kt_agent_ctx *ctx, cJSON *result, kt_err *err)
{
	kt_runlock h;
	KT_TRY(kt_runlock_read(ctx->state, &h, err));
	if (!h.cluster[0])
		return KT_OK;
	KT_TRY(kt_json_add_str(result, "holder_cluster", h.cluster, err));
	KT_TRY(kt_json_add_str(result, "holder_run", h.run, err));
	return kt_json_add_int(result, "holder_since_ms", h.since_ms, err);
}

/* Is the journal of who asks the newest one? It names the next requests of a run that it has not made. */
static kt_code add_known(const kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	const char *run;
	const cJSON *asked;
	if (!cJSON_HasObjectItem(args, "asked"))
		return KT_OK;
	KT_TRY(kt_json_str(args, "run", &run, err));
	KT_TRY(kt_json_array(args, "asked", &asked, err));
	cJSON *known = cJSON_AddArrayToObject(result, "known");
	return known ? kt_spool_known(ctx->state, run, asked, known, err)
		     : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static kt_code facts(const kt_agent_ctx *ctx, cJSON *result, kt_err *err)
{
	struct utsname u;
	char boot_id[KT_BOOT_ID];
	kt_epoch seen;
	if (uname(&u) != 0)
		return kt_fail_errno(err, errno, NULL, "uname");
	KT_TRY(kt_boot_id(boot_id, err));
	KT_TRY(kt_epoch_read(ctx->state, ctx->cluster, &seen, err));
	KT_TRY(kt_json_add_str(result, "hostname", u.nodename, err));
	KT_TRY(kt_json_add_str(result, "boot_id", boot_id, err));
	KT_TRY(kt_json_add_int(result, "time_ms", kt_clock_wall_ms(), err));
	KT_TRY(kt_json_add_str(result, "agent", KT_VERSION, err));
	KT_TRY(kt_json_add_int(result, "uid", geteuid(), err));
	KT_TRY(kt_json_add_str(result, "kernel", u.release, err));
	KT_TRY(kt_json_add_int(result, "epoch", seen.epoch, err));
	if (seen.epoch)
		KT_TRY(kt_json_add_str(result, "epoch_run", seen.run, err));
	return put_holder(ctx, result, err);
}

kt_status kt_action_facts(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	kt_code rc = facts(ctx, result, err);
	return kt_action_end(rc == KT_OK ? add_known(ctx, args, result, err) : rc);
}

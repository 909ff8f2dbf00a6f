/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/service.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "agent/serviceimpl.h"
#include "agent/spool.h"
#include "base/clock.h"

enum { TIMEOUT_S = 120, TIMEOUT_S_MAX = 86400, POLL_MS = 100, STEADY_MS = 2000 };

const char *kt_service_state_name(kt_service_state s)
{
	static const char *const names[] = {"active", "inactive", "failed", "unknown"};
	return (unsigned)s < 4 ? names[s] : "unknown";
}

const char *kt_service_name(const cJSON *service)
{
	const cJSON *unit = cJSON_GetObjectItemCaseSensitive(service, "unit");
	const cJSON *start = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(service, "start"), 0);
	const cJSON *name = unit ? unit : start;
	return cJSON_IsString(name) ? name->valuestring : "the service";
}

/* A unit or commands? Exactly one of both. */
static kt_code kind_of(const cJSON *service, const kt_service_kind **kind, kt_err *err)
{
	bool unit = cJSON_HasObjectItem(service, "unit");
	bool commands = cJSON_HasObjectItem(service, "start");
	if (!cJSON_IsObject(service) || unit == commands)
		return kt_fail(err, KT_E_INPUT, NULL,
			       "a service must be an object with \"unit\", or with \"start\", \"stop\" and \"status\"");
	*kind = unit ? &kt_service_unit : &kt_service_commands;
	return (*kind)->check(service, err);
}

static kt_code find(const cJSON *args, const cJSON **service, const kt_service_kind **kind, kt_err *err)
{
	KT_TRY(kt_json_object(args, "service", service, err));
	return kind_of(*service, kind, err);
}

kt_code kt_service_query(kt_agent_ctx *ctx, const cJSON *service, kt_service_info *out, kt_err *err)
{
	const kt_service_kind *kind = NULL;
	*out = (kt_service_info){.state = KT_SERVICE_UNKNOWN};
	KT_TRY(kind_of(service, &kind, err));
	return kind->query(ctx, service, out, err);
}

static kt_code put_state(cJSON *result, const kt_service_info *info, kt_err *err)
{
	return kt_json_add_str(result, "state", kt_service_state_name(info->state), err);
}

static bool stopped(const kt_service_info *info)
{
	return info->state == KT_SERVICE_INACTIVE || info->state == KT_SERVICE_FAILED;
}

static void pause_ms(long ms)
{
	(void)nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

/* --- service.status -------------------------------------------------------------------------------------------------
 */

static kt_code status(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	const cJSON *service;
	const kt_service_kind *kind = NULL;
	kt_service_info info = {0};
	KT_TRY(find(args, &service, &kind, err));
	KT_TRY(kind->query(ctx, service, &info, err));
	KT_TRY(put_state(result, &info, err));
	return kt_json_add_int(result, "pid", info.pid, err);
}

kt_status kt_action_service_status(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	return kt_action_end(status(ctx, args, result, err));
}

/* --- service.stop ---------------------------------------------------------------------------------------------------
 */

/*
 * Was it active before we touched it? A repetition finds it stopped already, so the first look is noted, durably,
 * before the service is stopped.
 */
static kt_code note_active(kt_agent_ctx *ctx, bool active_now, bool *was_active, kt_err *err)
{
	cJSON *note = NULL;
	if (ctx->spool)
		KT_TRY(kt_spool_noted(ctx->spool, &note, err));
	*was_active = active_now || cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(note, "was_active"));
	cJSON_Delete(note);
	if (!ctx->spool)
		return KT_OK;
	note = cJSON_CreateObject();
	if (!note)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = kt_json_add_bool(note, "was_active", *was_active, err);
	if (rc == KT_OK)
		rc = kt_spool_note(ctx->spool, note, err);
	cJSON_Delete(note);
	return rc;
}

static kt_code wait_stopped(kt_agent_ctx *ctx, const cJSON *service, const kt_service_kind *kind, int64_t timeout_s,
			    kt_service_info *info, kt_err *err)
{
	const int64_t until = kt_clock_mono_ms() + timeout_s * 1000;
	for (;;) {
		KT_TRY(kind->query(ctx, service, info, err));
		if (stopped(info))
			return KT_OK;
		if (kt_clock_mono_ms() >= until)
			return kt_fail(err, KT_E_IO, "see what keeps it up, or raise the step's timeout_s",
				       "%.200s is still %s after %lld s", kt_service_name(service),
				       kt_service_state_name(info->state), (long long)timeout_s);
		KT_TRY(kt_agent_go_on(ctx, err));
		pause_ms(POLL_MS);
	}
}

static kt_code stop(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	const cJSON *service;
	const kt_service_kind *kind = NULL;
	kt_service_info info = {0};
	int64_t timeout_s;
	bool was_active;
	KT_TRY(find(args, &service, &kind, err));
	KT_TRY(kt_json_opt_int(args, "timeout_s", TIMEOUT_S, 1, TIMEOUT_S_MAX, &timeout_s, err));
	KT_TRY(kind->query(ctx, service, &info, err));
	KT_TRY(note_active(ctx, !stopped(&info), &was_active, err));
	KT_TRY(kt_json_add_bool(result, "was_active", was_active, err));
	if (kind->hold) /* also one that is down already: a boot would start it */
		KT_TRY(kind->hold(ctx, service, err));
	if (!stopped(&info)) {
		const int64_t begin = kt_clock_mono_ms();
		KT_TRY(kind->stop(ctx, service, timeout_s, err));
		int64_t left = timeout_s - (kt_clock_mono_ms() - begin) / 1000;
		KT_TRY(wait_stopped(ctx, service, kind, left > 0 ? left : 0, &info, err));
	}
	return put_state(result, &info, err);
}

kt_status kt_action_service_stop(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	return kt_action_end(stop(ctx, args, result, err));
}

/* --- service.start --------------------------------------------------------------------------------------------------
 */

static kt_code not_up(kt_agent_ctx *ctx, const cJSON *service, const kt_service_kind *kind, const char *what,
		      kt_err *err)
{
	char why[600] = "";
	kind->explain(ctx, service, why, sizeof why);
	return kt_fail(err, KT_E_IO, "read the service's own log on the node", "%.200s %s%s%s",
		       kt_service_name(service), what, why[0] ? "; its last lines: " : "", why);
}

static kt_code wait_active(kt_agent_ctx *ctx, const cJSON *service, const kt_service_kind *kind, int64_t timeout_s,
			   kt_service_info *info, kt_err *err)
{
	const int64_t until = kt_clock_mono_ms() + timeout_s * 1000;
	for (;;) {
		KT_TRY(kind->query(ctx, service, info, err));
		if (info->state == KT_SERVICE_ACTIVE)
			return KT_OK;
		if (info->state == KT_SERVICE_FAILED)
			return not_up(ctx, service, kind, "failed to start", err);
		if (kt_clock_mono_ms() >= until)
			return not_up(ctx, service, kind, "was not active in time", err);
		KT_TRY(kt_agent_go_on(ctx, err));
		pause_ms(POLL_MS);
	}
}

/* Active, and 2 s later still so and the same process: not one that dies at once and is started again. */
static kt_code verify_steady(kt_agent_ctx *ctx, const cJSON *service, const kt_service_kind *kind,
			     kt_service_info *info, kt_err *err)
{
	int64_t pid = info->pid;
	pause_ms(STEADY_MS);
	KT_TRY(kind->query(ctx, service, info, err));
	if (info->state != KT_SERVICE_ACTIVE)
		return not_up(ctx, service, kind, "started, but was no longer active 2 s later", err);
	if (info->pid != pid)
		return not_up(ctx, service, kind, "started, but its process was another one 2 s later", err);
	return KT_OK;
}

static kt_code start_and_verify(kt_agent_ctx *ctx, const cJSON *service, const kt_service_kind *kind, int64_t timeout_s,
				kt_service_info *info, kt_err *err)
{
	KT_TRY(kind->query(ctx, service, info, err));
	if (info->state != KT_SERVICE_ACTIVE) {
		const int64_t begin = kt_clock_mono_ms();
		char no[KT_SERVICE_NO] = "";
		KT_TRY(kind->start(ctx, service, timeout_s, no, err));
		if (no[0])
			return not_up(ctx, service, kind, no, err);
		int64_t left = timeout_s - (kt_clock_mono_ms() - begin) / 1000;
		KT_TRY(wait_active(ctx, service, kind, left > 0 ? left : 0, info, err));
	}
	return verify_steady(ctx, service, kind, info, err);
}

static kt_code start(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	const cJSON *service;
	const kt_service_kind *kind = NULL;
	kt_service_info info = {.state = KT_SERVICE_UNKNOWN};
	int64_t timeout_s;
	bool wanted;
	KT_TRY(find(args, &service, &kind, err));
	KT_TRY(kt_json_opt_int(args, "timeout_s", TIMEOUT_S, 1, TIMEOUT_S_MAX, &timeout_s, err));
	KT_TRY(kt_json_opt_bool(args, "if", true, &wanted, err));
	kt_err ignored = KT_ERR_INIT;
	kt_code rc = kind->release ? kind->release(ctx, service, err) : KT_OK;
	if (rc == KT_OK && wanted)
		rc = start_and_verify(ctx, service, kind, timeout_s, &info, err);
	else if (kind->query(ctx, service, &info, &ignored) != KT_OK)
		info.state = KT_SERVICE_UNKNOWN; /* that could not be asked changes nothing */
	kt_code put = put_state(result, &info, rc == KT_OK ? err : &ignored);
	return rc == KT_OK ? put : rc;
}

kt_status kt_action_service_start(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	return kt_action_end(start(ctx, args, result, err));
}

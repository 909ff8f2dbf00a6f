/* SPDX-License-Identifier: Apache-2.0 */
/* Services that are started, stopped and asked by commands of their own. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/command.h"
#include "agent/detach.h"
#include "agent/output.h"
#include "agent/serviceimpl.h"

enum { ASK_S = 60, EXIT_ACTIVE = 0, EXIT_INACTIVE = 3 };

/* What the last start or stop command printed, for explain(); the agent has one worker. */
static char last_words[600];

static kt_code check(const cJSON *service, kt_err *err)
{
	static const char *const needed[] = {"start", "stop", "status"};
	for (size_t i = 0; i < 3; i++) {
		const cJSON *list;
		KT_TRY(kt_arg_strings(service, needed[i], &list, err));
		if (cJSON_GetArraySize(list) < 1)
			return kt_fail(err, KT_E_INPUT, NULL, "a service needs \"%s\", an array of strings", needed[i]);
	}
	return KT_OK;
}

/* One of its commands as a command object; *out is the caller's. */
static kt_code command_of(const cJSON *service, const char *which, int64_t timeout_s, cJSON **out, kt_err *err)
{
	static const char *const shared[] = {"cwd", "env_file", "user"};
	cJSON *c = cJSON_CreateObject();
	*out = NULL;
	if (!c)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = kt_json_add(c, "argv", cJSON_Duplicate(cJSON_GetObjectItemCaseSensitive(service, which), 1), err);
	if (rc == KT_OK)
		rc = kt_json_add_int(c, "timeout_s", timeout_s, err);
	for (size_t i = 0; rc == KT_OK && i < 3; i++) {
		const cJSON *member = cJSON_GetObjectItemCaseSensitive(service, shared[i]);
		if (member)
			rc = kt_json_add(c, shared[i], cJSON_Duplicate(member, 1), err);
	}
	if (rc == KT_OK)
		*out = c;
	else
		cJSON_Delete(c);
	return rc;
}

static kt_code query(kt_agent_ctx *ctx, const cJSON *service, kt_service_info *out, kt_err *err)
{
	cJSON *c;
	kt_command_result r = {0};
	KT_TRY(command_of(service, "status", ASK_S, &c, err));
	kt_code rc = kt_command_run(ctx, c, NULL, &r, err);
	cJSON_Delete(c);
	out->pid = 0;
	out->state = r.end.exit == EXIT_ACTIVE     ? KT_SERVICE_ACTIVE
		     : r.end.exit == EXIT_INACTIVE ? KT_SERVICE_INACTIVE
						   : KT_SERVICE_UNKNOWN;
	kt_command_result_free(&r);
	return rc == KT_OK ? KT_OK
			   : kt_err_prefix(err, rc, "the status of %.200s cannot be asked", kt_service_name(service));
}

static kt_code on_output(void *arg, int stream, const uint8_t *bytes, size_t n, kt_err *err)
{
	return kt_output_feed(arg, stream, bytes, n, err);
}

/* A daemon that was started may hold its output open for as long as it lives. */
static kt_code keep_open(int leftover[2], kt_err *err)
{
	kt_code rc = KT_OK;
	for (int i = 0; i < 2; i++) {
		if (leftover[i] < 0)
			continue;
		kt_code one = kt_detach_drain(leftover[i], err);
		rc = rc == KT_OK ? one : rc;
		(void)close(leftover[i]);
	}
	return rc;
}

/* Not ended by a lost connection: a service half started or half stopped helps nobody. It has its own timeout. */
static kt_code run_command(kt_agent_ctx *ctx, const cJSON *command, kt_spawn_end *end, kt_err *err)
{
	kt_command *c;
	int leftover[2];
	kt_output output = {.tail_max = KT_COMMAND_TAIL, .fd = -1};
	kt_spawn_hooks hooks = {.output = on_output, .arg = &output};
	last_words[0] = '\0';
	KT_TRY(kt_command_prepare(ctx, command, &c, err));
	kt_code rc = kt_spawn(kt_command_what(c), &hooks, leftover, end, err);
	kt_command_free(c);
	kt_code kept = keep_open(leftover, rc == KT_OK ? err : NULL);
	rc = rc == KT_OK ? kept : rc;
	if (rc == KT_OK)
		rc = kt_output_end(&output, err);
	if (rc == KT_OK)
		kt_text_last_lines(kt_buf_cstr(&output.tail), last_words, sizeof last_words);
	kt_output_free(&output);
	return rc;
}

/* Run its start or stop command; when that ran and failed, what it did in `no`. */
static kt_code change(kt_agent_ctx *ctx, const cJSON *service, const char *which, int64_t timeout_s, char *no,
		      kt_err *err)
{
	cJSON *c;
	kt_spawn_end end = {0};
	KT_TRY(command_of(service, which, timeout_s, &c, err));
	kt_code rc = run_command(ctx, c, &end, err);
	cJSON_Delete(c);
	if (rc != KT_OK)
		return kt_err_prefix(err, rc, "the %s command of %.200s", which, kt_service_name(service));
	if (end.timed_out)
		(void)snprintf(no, KT_SERVICE_NO, "has a %s command that had not ended after %lld s", which,
			       (long long)timeout_s);
	else if (end.exit != 0)
		(void)snprintf(no, KT_SERVICE_NO, "has a %s command that %s %d", which,
			       end.signal ? "was ended by signal" : "exited with", end.signal ? end.signal : end.exit);
	return KT_OK;
}

/* Whether it stopped is what status says, not the exit code of the command. */
static kt_code stop(kt_agent_ctx *ctx, const cJSON *service, int64_t timeout_s, kt_err *err)
{
	char no[KT_SERVICE_NO] = "";
	kt_service_info info;
	KT_TRY(change(ctx, service, "stop", timeout_s, no, err));
	if (!no[0])
		return KT_OK;
	KT_TRY(query(ctx, service, &info, err));
	if (info.state == KT_SERVICE_INACTIVE)
		return KT_OK;
	return kt_fail(err, KT_E_IO, "read what its stop command needs", "%.200s %s%s%s", kt_service_name(service), no,
		       last_words[0] ? ": " : "", last_words);
}

static kt_code start(kt_agent_ctx *ctx, const cJSON *service, int64_t timeout_s, char *no, kt_err *err)
{
	return change(ctx, service, "start", timeout_s, no, err);
}

static void explain(kt_agent_ctx *ctx, const cJSON *service, char *out, size_t size)
{
	(void)ctx, (void)service;
	(void)snprintf(out, size, "%s", last_words);
}

const kt_service_kind kt_service_commands = {
	.check = check, .query = query, .stop = stop, .start = start, .explain = explain};

/* SPDX-License-Identifier: Apache-2.0 */
/* command and probe: commands that only look, run attached and as often as one likes. */
#include <string.h>

#include "agent/command.h"

static kt_code add_json(const kt_command_result *r, cJSON *result, kt_err *err)
{
	cJSON *json;
	if (r->out_cut)
		return kt_fail(err, KT_E_INPUT, NULL, "the command printed more than %d bytes where JSON is expected",
			       (int)KT_COMMAND_STDOUT);
	KT_TRY(kt_json_parse("the command's output", r->out.data, r->out.len, &json, err));
	return kt_json_add(result, "json", json, err);
}

static kt_code describe(const kt_command_result *r, cJSON *result, kt_err *err)
{
	KT_TRY(kt_json_add_int(result, "exit", r->end.exit, err));
	KT_TRY(kt_json_add_int(result, "signal", r->end.signal, err));
	KT_TRY(kt_json_add_int(result, "ms", r->end.ms, err));
	return kt_json_add_str(result, "tail", kt_buf_cstr(&r->tail), err);
}

/* What the request asks for. */
typedef struct wish {
	const cJSON *command;
	const cJSON *expect; /* may be NULL */
	bool json;
	kt_match *match;
} wish;

static kt_code read_args(const cJSON *args, wish *w, kt_err *err)
{
	*w = (wish){0};
	KT_TRY(kt_json_object(args, "command", &w->command, err));
	KT_TRY(kt_json_opt_bool(args, "json", false, &w->json, err));
	if (cJSON_HasObjectItem(args, "expect"))
		KT_TRY(kt_json_object(args, "expect", &w->expect, err));
	return kt_match_new(w->expect, &w->match, err);
}

kt_status kt_action_command(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	wish w;
	kt_command_result r = {0};
	kt_code rc = read_args(args, &w, err);
	if (rc == KT_OK)
		rc = kt_command_run(ctx, w.command, w.match, &r, err);
	if (rc == KT_OK)
		rc = describe(&r, result, err);
	if (rc == KT_OK)
		rc = kt_expect_check(w.expect, &r.end, w.match, kt_buf_cstr(&r.tail), err);
	if (rc == KT_OK && w.json)
		rc = add_json(&r, result, err);
	kt_match_free(w.match);
	kt_command_result_free(&r);
	return kt_action_end(rc);
}

/* The last word on stdout; anything but the five known ones, or an exit code other than 0, is "unknown". */
static const char *verdict(const kt_command_result *r)
{
	static const char *const words[] = {"old", "new", "both", "mixed", "none"};
	static const char space[] = " \t\n";
	const char *text = kt_buf_cstr(&r->out);
	size_t end = r->out.len;
	if (r->end.exit != 0 || r->out_cut)
		return "unknown";
	while (end && strchr(space, text[end - 1]))
		end--;
	size_t from = end;
	while (from && !strchr(space, text[from - 1]))
		from--;
	for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
		if (strlen(words[i]) == end - from && memcmp(text + from, words[i], end - from) == 0)
			return words[i];
	return "unknown";
}

static kt_code probe(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	const cJSON *command;
	kt_command_result r;
	KT_TRY(kt_json_object(args, "command", &command, err));
	kt_code rc = kt_command_run(ctx, command, NULL, &r, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(result, "verdict", verdict(&r), err);
	if (rc == KT_OK)
		rc = describe(&r, result, err);
	kt_command_result_free(&r);
	return rc;
}

kt_status kt_action_probe(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	return kt_action_end(probe(ctx, args, result, err));
}

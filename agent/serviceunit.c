/* SPDX-License-Identifier: Apache-2.0 */
/* Services that are systemd units, by systemctl(1) and journalctl(1). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/output.h"
#include "agent/redact.h"
#include "agent/serviceimpl.h"
#include "agent/unitguard.h"
#include "base/log.h"
#include "base/spawn.h"

enum { SHOW_MAX = 16 * 1024, JOURNAL_MAX = 8 * 1024, ASK_MS = 30000, UNIT_MAX = 255 };

static kt_code check(const cJSON *service, kt_err *err)
{
	static const char ok[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_.\\@-";
	const char *unit;
	KT_TRY(kt_json_str(service, "unit", &unit, err));
	size_t n = strlen(unit);
	if (n == 0 || n > UNIT_MAX || unit[0] == '-' || strspn(unit, ok) != n)
		return kt_fail(err, KT_E_INPUT, NULL, "\"%.100s\" is no name of a systemd unit", unit);
	return KT_OK;
}

static const char *unit_of(const cJSON *service)
{
	return cJSON_GetObjectItemCaseSensitive(service, "unit")->valuestring;
}

/* systemctl with what it printed; KT_E_IO when it could not be run or did not come back. */
static kt_code systemctl(const char *const *argv, int64_t timeout_ms, kt_buf *out, kt_buf *errors, kt_spawn_end *end,
			 kt_err *err)
{
	kt_spawn_what what = {.argv = argv, .timeout_ms = timeout_ms};
	KT_TRY(kt_spawn_capture(&what, out, errors, end, err));
	if (!end->timed_out)
		return KT_OK;
	return kt_fail(err, KT_E_IO, "see whether systemd on the node answers", "%s %s did not answer within %lld s",
		       argv[0], argv[1], (long long)(timeout_ms / 1000));
}

static kt_service_state state_of(const char *word)
{
	if (strcmp(word, "active") == 0 || strcmp(word, "reloading") == 0)
		return KT_SERVICE_ACTIVE;
	if (strcmp(word, "inactive") == 0)
		return KT_SERVICE_INACTIVE;
	return strcmp(word, "failed") == 0 ? KT_SERVICE_FAILED : KT_SERVICE_UNKNOWN;
}

/* The value of NAME= in systemctl show's lines, into `out`; "" when it is not there. */
static void property(const char *text, const char *name, char *out, size_t size)
{
	size_t n = strlen(name);
	out[0] = '\0';
	for (const char *p = text; *p;) {
		size_t len = strcspn(p, "\n");
		if (len > n && strncmp(p, name, n) == 0 && p[n] == '=')
			(void)snprintf(out, size, "%.*s", (int)(len - n - 1), p + n + 1);
		p += len;
		p += *p == '\n';
	}
}

static kt_code show(const char *unit, kt_buf *out, kt_err *err)
{
	const char *argv[] = {
		"systemctl", "show", "--no-pager", "--property=Id,LoadState,ActiveState,MainPID,EnvironmentFiles",
		"--",        unit,   NULL};
	kt_buf errors = {.max = SHOW_MAX};
	kt_spawn_end end;
	char why[200];
	kt_code rc = systemctl(argv, ASK_MS, out, &errors, &end, err);
	kt_text_clean(&errors);
	kt_text_last_line(kt_buf_cstr(&errors), why, sizeof why);
	kt_buf_free(&errors);
	if (rc == KT_OK && end.exit != 0)
		rc = kt_fail(err, KT_E_IO, "see whether systemd on the node answers",
			     "systemctl show %s exited with %d: %s", unit, end.exit, why);
	return rc;
}

static kt_code read_show(const char *unit, const char *text, kt_service_info *out, kt_err *err)
{
	char word[64];
	property(text, "LoadState", word, sizeof word);
	if (strcmp(word, "loaded") != 0)
		return kt_fail(err, KT_E_REFUSED, "correct the service's name in the variables",
			       "the unit %s is not there to be used (%s)", unit, word[0] ? word : "no answer");
	property(text, "ActiveState", word, sizeof word);
	out->state = state_of(word);
	property(text, "MainPID", word, sizeof word);
	out->pid = strtoll(word, NULL, 10);
	return KT_OK;
}

static kt_code query(kt_agent_ctx *ctx, const cJSON *service, kt_service_info *out, kt_err *err)
{
	(void)ctx;
	kt_buf text = {.max = SHOW_MAX};
	kt_code rc = show(unit_of(service), &text, err);
	if (rc == KT_OK)
		rc = read_show(unit_of(service), kt_buf_cstr(&text), out, err);
	kt_buf_free(&text);
	return rc;
}

/* --- keeping it down ------------------------------------------------------------------------------------------------
 */

typedef kt_code guard(const kt_agent_ctx *ctx, const char *unit, kt_err *err);

/* By the name that systemd itself uses: a drop-in of "looker" would not be one of "looker.service". */
static kt_code by_id(kt_agent_ctx *ctx, const cJSON *service, guard *act, kt_err *err)
{
	kt_buf text = {.max = SHOW_MAX};
	char id[UNIT_MAX + 1] = "";
	kt_code rc = show(unit_of(service), &text, err);
	if (rc == KT_OK)
		property(kt_buf_cstr(&text), "Id", id, sizeof id);
	kt_buf_free(&text);
	if (rc == KT_OK && (!id[0] || strchr(id, '/')))
		rc = kt_fail(err, KT_E_IO, "see whether systemd on the node answers", "systemd has no name for %s",
			     unit_of(service));
	return rc == KT_OK ? act(ctx, id, err) : rc;
}

static kt_code hold(kt_agent_ctx *ctx, const cJSON *service, kt_err *err)
{
	return by_id(ctx, service, kt_unitguard_set, err);
}

static kt_code release(kt_agent_ctx *ctx, const cJSON *service, kt_err *err)
{
	return by_id(ctx, service, kt_unitguard_clear, err);
}

/* --- changes --------------------------------------------------------------------------------------------------------
 */

/* systemctl VERB FLAG UNIT; when it says no, its first line in `no` (the others say where to read more). */
static kt_code do_verb(const char *verb, const char *flag, const char *unit, int64_t timeout_ms, char *no, kt_err *err)
{
	const char *argv[] = {"systemctl", verb, flag, "--", unit, NULL};
	kt_buf errors = {.max = SHOW_MAX};
	kt_spawn_end end;
	kt_code rc = systemctl(argv, timeout_ms, NULL, &errors, &end, err);
	kt_text_clean(&errors);
	const char *why = kt_buf_cstr(&errors);
	if (rc == KT_OK && end.exit != 0)
		(void)snprintf(no, KT_SERVICE_NO, "did not %s: %.*s", verb, (int)strcspn(why, "\n"), why);
	kt_buf_free(&errors);
	return rc;
}

static kt_code stop(kt_agent_ctx *ctx, const cJSON *service, int64_t timeout_s, kt_err *err)
{
	(void)ctx, (void)timeout_s;
	char no[KT_SERVICE_NO] = "";
	KT_TRY(do_verb("stop", "--no-block", unit_of(service), ASK_MS, no, err));
	if (no[0])
		return kt_fail(err, KT_E_IO, "stop it by hand and see what it says", "%s %s", unit_of(service), no);
	return KT_OK;
}

static kt_code start(kt_agent_ctx *ctx, const cJSON *service, int64_t timeout_s, char *no, kt_err *err)
{
	(void)ctx;
	char ignored_no[KT_SERVICE_NO];
	kt_err ignored = KT_ERR_INIT;
	/* A unit that failed too often in a short time would be refused for that alone. */
	KT_IGNORE(do_verb("reset-failed", "--no-ask-password", unit_of(service), ASK_MS, ignored_no, &ignored));
	return do_verb("start", "--no-ask-password", unit_of(service), timeout_s * 1000, no, err);
}

/* The keys that the unit is started with: what it logs may hold them. "EnvironmentFiles=/path (ignore_errors=no)" */
static void redact_env_of(const char *unit)
{
	kt_buf text = {.max = SHOW_MAX};
	kt_err ignored = KT_ERR_INIT;
	if (show(unit, &text, &ignored) == KT_OK) {
		for (const char *p = kt_buf_cstr(&text); (p = strstr(p, "EnvironmentFiles=/"));) {
			char path[1024];
			kt_envfile *f;
			p += strlen("EnvironmentFiles=");
			(void)snprintf(path, sizeof path, "%.*s", (int)strcspn(p, "\n"), p);
			char *flags = strstr(path, " (");
			if (flags)
				*flags = '\0';
			if (kt_envfile_load(path, &f, &ignored) == KT_OK) {
				KT_IGNORE(kt_redact_envfile(f, &ignored));
				kt_envfile_free(f);
			}
		}
	}
	kt_buf_free(&text);
}

static void explain(kt_agent_ctx *ctx, const cJSON *service, char *out, size_t size)
{
	(void)ctx;
	const char *argv[] = {"journalctl", "--no-pager", "--quiet",        "--output=cat",
			      "--lines=5",  "-u",         unit_of(service), NULL};
	kt_spawn_what what = {.argv = argv, .timeout_ms = ASK_MS};
	kt_buf text = {.max = JOURNAL_MAX};
	kt_spawn_end end;
	kt_err ignored = KT_ERR_INIT;
	out[0] = '\0';
	redact_env_of(unit_of(service));
	if (kt_spawn_capture(&what, &text, NULL, &end, &ignored) == KT_OK && end.exit == 0 && text.len) {
		text.len = kt_log_scrub(text.data, text.len);
		kt_text_clean(&text);
		for (size_t i = 0; i < text.len; i++)
			if (text.data[i] == '\n')
				text.data[i] = i + 1 < text.len ? '|' : ' ';
		/* The end says more than the beginning. */
		size_t from = text.len + 1 > size ? text.len + 1 - size : 0;
		while (from && from < text.len && (text.data[from] & 0xc0) == 0x80)
			from++;
		(void)snprintf(out, size, "%s", kt_buf_cstr(&text) + from);
	}
	kt_buf_free(&text);
}

const kt_service_kind kt_service_unit = {.check = check,
					 .query = query,
					 .hold = hold,
					 .release = release,
					 .stop = stop,
					 .start = start,
					 .explain = explain};

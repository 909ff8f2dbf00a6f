/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/action.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agent/output.h"
#include "base/log.h"

enum { PROGRESS_TEXT = 500, PATH_TEXT = 4096 };

kt_status kt_action_end(kt_code rc)
{
	if (rc == KT_OK)
		return KT_STATUS_OK;
	return rc == KT_E_UNKNOWN ? KT_STATUS_UNKNOWN : KT_STATUS_FAILED;
}

void kt_agent_progress(kt_agent_ctx *ctx, int64_t done, int64_t total, const char *fmt, ...)
{
	if (!ctx->report)
		return;
	char text[2 * PROGRESS_TEXT];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	kt_buf b = KT_BUF_INIT;
	size_t len = n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
	if (kt_buf_append(&b, text, len, NULL) == KT_OK) {
		b.len = kt_log_scrub(b.data, b.len);
		if (b.len > PROGRESS_TEXT)
			b.len = PROGRESS_TEXT;
		b.data[b.len] = '\0';
		kt_text_clean(&b);
		ctx->report(ctx->arg, done, total, kt_buf_cstr(&b));
	}
	kt_buf_free(&b);
}

bool kt_agent_stopping(kt_agent_ctx *ctx)
{
	return ctx->stopping && ctx->stopping(ctx->arg);
}

kt_code kt_agent_go_on(kt_agent_ctx *ctx, kt_err *err)
{
	if (!kt_agent_stopping(ctx))
		return KT_OK;
	return kt_fail(err, KT_E_INTERRUPTED, "ask again", "%s was broken off: its coordinator is gone or was replaced",
		       ctx->verb);
}

kt_code kt_agent_path(const kt_agent_ctx *ctx, kt_buf *out, kt_err *err, const char *fmt, ...)
{
	char tail[PATH_TEXT];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(tail, sizeof tail, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= sizeof tail)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", tail);
	kt_buf_clear(out);
	return kt_buf_printf(out, err, "%s/%s", ctx->state, tail);
}

static bool has_dotdot(const char *path)
{
	for (const char *p = path; (p = strstr(p, "/..")); p += 3)
		if (p[3] == '/' || p[3] == '\0')
			return true;
	return false;
}

kt_code kt_arg_path(const cJSON *args, const char *name, const char **out, kt_err *err)
{
	KT_TRY(kt_json_str(args, name, out, err));
	if ((*out)[0] != '/' || strlen(*out) >= PATH_TEXT || strpbrk(*out, "\n\r") || has_dotdot(*out))
		return kt_fail(err, KT_E_INPUT, "give an absolute path without \"..\"",
			       "\"%s\" must be an absolute path, not \"%.200s\"", name, *out);
	return KT_OK;
}

kt_code kt_arg_strings(const cJSON *args, const char *name, const cJSON **out, kt_err *err)
{
	*out = cJSON_GetObjectItemCaseSensitive(args, name);
	if (cJSON_IsNull(*out))
		*out = NULL;
	if (!*out)
		return KT_OK;
	if (!cJSON_IsArray(*out))
		return kt_fail(err, KT_E_INPUT, NULL, "\"%s\" must be an array of strings", name);
	int i = 0;
	const cJSON *item;
	cJSON_ArrayForEach(item, *out)
	{
		if (!cJSON_IsString(item))
			return kt_fail(err, KT_E_INPUT, NULL, "\"%s[%d]\" must be a string", name, i);
		i++;
	}
	return KT_OK;
}

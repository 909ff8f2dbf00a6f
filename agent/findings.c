/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/findings.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agent/output.h"
#include "base/log.h"

static const char *const names[] = {"service", "process", "socket", "file", "heartbeat", "unasked"};

const char *kt_finding_name(kt_finding_kind kind)
{
	return names[kind];
}

kt_code kt_findings_new(kt_findings *f, kt_err *err)
{
	*f = (kt_findings){.list = cJSON_CreateArray()};
	return f->list ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

void kt_findings_free(kt_findings *f)
{
	if (!f)
		return;
	cJSON_Delete(f->list);
	*f = (kt_findings){0};
}

/* Secrets out, control characters out, one line, not too long. */
static kt_code add_clean(cJSON *into, const char *name, const char *text, kt_err *err)
{
	kt_buf b = KT_BUF_INIT;
	kt_code rc = kt_buf_str(&b, text, err);
	if (rc == KT_OK) {
		b.len = kt_log_scrub(b.data, b.len);
		if (b.len > KT_FINDING_TEXT)
			b.len = KT_FINDING_TEXT;
		b.data[b.len] = '\0';
		kt_text_clean(&b);
		for (uint8_t *p = b.data; p < b.data + b.len; p++)
			if (*p == '\n' || *p == '\t')
				*p = ' ';
		rc = kt_json_add_str(into, name, kt_buf_cstr(&b), err);
	}
	kt_buf_free(&b);
	return rc;
}

kt_code kt_findings_add(kt_findings *f, kt_err *err, kt_finding_kind kind, const char *who, const char *fmt, ...)
{
	char detail[4096];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(detail, sizeof detail, fmt, ap);
	va_end(ap);
	f->n++;
	if (cJSON_GetArraySize(f->list) >= KT_FINDINGS_MAX)
		return KT_OK;
	cJSON *one = cJSON_CreateObject();
	if (!one || !cJSON_AddItemToArray(f->list, one)) {
		cJSON_Delete(one);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	KT_TRY(kt_json_add_str(one, "kind", names[kind], err));
	KT_TRY(add_clean(one, "who", who, err));
	return add_clean(one, "detail", detail, err);
}

kt_code kt_findings_text(const kt_findings *f, size_t shown, kt_buf *out, kt_err *err)
{
	size_t i = 0;
	const cJSON *one;
	cJSON_ArrayForEach(one, f->list)
	{
		if (i == shown)
			break;
		const char *who;
		const char *detail;
		KT_TRY(kt_json_str(one, "who", &who, err));
		KT_TRY(kt_json_str(one, "detail", &detail, err));
		KT_TRY(kt_buf_printf(out, err, "%s%s: %.150s", i ? "; " : "", who, detail));
		i++;
	}
	return f->n > i ? kt_buf_printf(out, err, "; and %zu more", f->n - i) : KT_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/turn/drift.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { TOLD_MAX = 8 };

/* The value of a field as text for comparing and for people; "nothing" when it is not there. */
static kt_code text_of(const cJSON *result, const char *field, kt_buf *out, kt_err *err)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(result, field);
	return v ? kt_json_canonical(v, out, err) : kt_buf_str(out, "nothing", err);
}

/* "FIELD differs: web01 has X, web03 has Y" appended to `said` when some node's value is not that of the first. */
static kt_code compare_field(const char *field, const kt_drift_answer *a, size_t n, kt_buf *said, kt_err *err)
{
	kt_buf first = KT_BUF_INIT;
	size_t told = 0;
	kt_code rc = text_of(a[0].result, field, &first, err);
	for (size_t i = 1; rc == KT_OK && i < n; i++) {
		kt_buf other = KT_BUF_INIT;
		rc = text_of(a[i].result, field, &other, err);
		if (rc == KT_OK && (other.len != first.len || memcmp(other.data, first.data, first.len) != 0) &&
		    told++ < TOLD_MAX)
			rc = told == 1 ? kt_buf_printf(said, err, "%s%s differs: %s has %.120s, %s has %.120s",
						       said->len ? "; " : "", field, a[0].node, kt_buf_cstr(&first),
						       a[i].node, kt_buf_cstr(&other))
				       : kt_buf_printf(said, err, ", %s has %.120s", a[i].node, kt_buf_cstr(&other));
		kt_buf_free(&other);
	}
	kt_buf_free(&first);
	return rc;
}

static kt_code compare_clocks(int64_t limit_s, const kt_drift_answer *a, size_t n, kt_buf *said, kt_err *err)
{
	for (size_t i = 0; i < n; i++)
		if (llabs(a[i].skew_ms) > limit_s * 1000)
			KT_TRY(kt_buf_printf(said, err, "%sthe clock of %s is %" PRId64 " ms off (limit %" PRId64 " s)",
					     said->len ? "; " : "", a[i].node, a[i].skew_ms, limit_s));
	return KT_OK;
}

static kt_code compare_all(const cJSON *fields, int64_t limit_s, const kt_drift_answer *a, size_t n, kt_buf *said,
			   kt_err *err)
{
	const cJSON *f;
	cJSON_ArrayForEach(f, fields)
	{
		if (!cJSON_IsString(f))
			return kt_fail(err, KT_E_INPUT, NULL, "drift.check: \"fields\" must hold strings");
		KT_TRY(compare_field(f->valuestring, a, n, said, err));
	}
	return limit_s ? compare_clocks(limit_s, a, n, said, err) : KT_OK;
}

kt_code kt_drift_check(const cJSON *args, const kt_drift_answer *answers, size_t n, kt_err *err)
{
	const cJSON *fields;
	int64_t limit_s;
	kt_buf said = KT_BUF_INIT;
	KT_TRY(kt_json_array(args, "fields", &fields, err));
	KT_TRY(kt_json_opt_int(args, "clock_skew_s", 0, 0, 86400, &limit_s, err));
	if (n == 0)
		return kt_fail(err, KT_E_INPUT, NULL, "drift.check: no node has answered the step that it looks at");
	kt_code rc = compare_all(fields, limit_s, answers, n, &said, err);
	if (rc == KT_OK && said.len)
		rc = kt_fail(err, KT_E_REFUSED, "make the nodes alike (env file, unit, key, clock) and try again",
			     "the nodes are not alike: %s", kt_buf_cstr(&said));
	kt_buf_free(&said);
	return rc;
}

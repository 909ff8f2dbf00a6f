/* SPDX-License-Identifier: Apache-2.0 */
#include "base/record.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/codec.h"

const kt_file_attr kt_record_private = {.mode = 0600, .uid = (uid_t)KT_KEEP, .gid = (gid_t)KT_KEEP};

static const char head[] = "{\"sha256\":\"";
static const char tail[] = "\"}\n";

enum { LAST_LINE = sizeof head - 1 + KT_SHA256_HEX - 1 + sizeof tail - 1 };

static kt_code last_line(const void *bytes, size_t n, char out[LAST_LINE + 1], kt_err *err)
{
	char sum[KT_SHA256_HEX];
	KT_TRY(kt_sha256_hex(bytes, n, sum, err));
	memcpy(out, head, sizeof head - 1);
	memcpy(out + sizeof head - 1, sum, KT_SHA256_HEX - 1);
	memcpy(out + sizeof head - 1 + KT_SHA256_HEX - 1, tail, sizeof tail);
	return KT_OK;
}

kt_code kt_record_seal(kt_buf *text, kt_err *err)
{
	char line[LAST_LINE + 1];
	if (text->len == 0 || text->data[text->len - 1] != '\n')
		KT_TRY(kt_buf_append(text, "\n", 1, err));
	KT_TRY(last_line(text->data, text->len, line, err));
	return kt_buf_append(text, line, LAST_LINE, err);
}

/* Cut off the last line, when it fits what is before it. */
static kt_code unseal(const char *path, const char *remedy, kt_buf *text, kt_err *err)
{
	char line[LAST_LINE + 1];
	if (text->len > LAST_LINE) {
		size_t n = text->len - LAST_LINE;
		KT_TRY(last_line(text->data, n, line, err));
		if (memcmp(text->data + n, line, LAST_LINE) == 0) {
			text->len = n;
			text->data[n] = '\0';
			return KT_OK;
		}
	}
	return kt_fail(err, KT_E_AUDIT, remedy, "%s is damaged: its checksum does not fit", path);
}

kt_code kt_record_exists(const char *path, bool *found, kt_err *err)
{
	*found = access(path, F_OK) == 0;
	return *found || errno == ENOENT || errno == ENOTDIR ? KT_OK : kt_fail_errno(err, errno, NULL, "%s", path);
}

kt_code kt_record_read(const char *path, const char *remedy, bool *found, kt_buf *out, kt_err *err)
{
	kt_code rc = kt_file_find(path, found, out, err);
	if (rc == KT_E_INPUT)
		return kt_fail(err, KT_E_AUDIT, remedy, "%s is damaged: it is larger than any such record", path);
	return rc == KT_OK && *found ? unseal(path, remedy, out, err) : rc;
}

kt_code kt_record_read_json(const char *path, const char *remedy, cJSON **out, kt_err *err)
{
	bool found;
	kt_buf text = KT_BUF_INIT;
	*out = NULL;
	kt_code rc = kt_record_read(path, remedy, &found, &text, err);
	if (rc == KT_OK && found)
		rc = kt_json_parse(path, text.data, text.len, out, err);
	kt_buf_free(&text);
	return rc;
}

kt_code kt_record_replace(const char *path, kt_buf *text, const kt_file_attr *attr, kt_err *err)
{
	KT_TRY(kt_record_seal(text, err));
	return kt_file_replace(path, text->data, text->len, attr, err);
}

kt_code kt_record_create(const char *path, kt_buf *text, bool *made, kt_err *err)
{
	KT_TRY(kt_record_seal(text, err));
	return kt_file_create(path, text->data, text->len, &kt_record_private, made, err);
}

kt_code kt_record_failed(kt_err *err, const char *what)
{
	kt_code rc = kt_err_prefix(err, KT_E_AUDIT, "%s cannot be recorded", what);
	if (err)
		err->code = rc = KT_E_AUDIT;
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "store/args.h"

static kt_code cannot_write(kt_err *err)
{
	return kt_fail_errno(err, errno ? errno : EIO, NULL, "standard output cannot be written");
}

kt_code kt_store_print(kt_err *err, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vfprintf(stdout, fmt, ap);
	va_end(ap);
	return n >= 0 && fflush(stdout) == 0 ? KT_OK : cannot_write(err);
}

kt_code kt_store_print_json(cJSON *value, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = value ? kt_json_print(value, &text, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = kt_store_print(err, "%s\n", kt_buf_cstr(&text));
	kt_buf_free(&text);
	cJSON_Delete(value);
	return rc;
}

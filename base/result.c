/* SPDX-License-Identifier: Apache-2.0 */
#include "base/result.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const names[] = {
	[KT_OK] = "ok",
	[KT_E_INTERNAL] = "internal",
	[KT_E_USAGE] = "usage",
	[KT_E_INPUT] = "input",
	[KT_E_REFUSED] = "refused",
	[KT_E_ROLLED_BACK] = "rolled-back",
	[KT_E_HELD] = "held",
	[KT_E_HSM] = "hsm",
	[KT_E_UNREACHABLE] = "unreachable",
	[KT_E_AUDIT] = "audit",
	[KT_E_IO] = "io",
	[KT_E_KEY] = "key",
	[KT_E_BUSY] = "busy",
	[KT_E_UNKNOWN] = "unknown",
	[KT_E_INTERRUPTED] = "interrupted",
};

enum { NAMES = sizeof names / sizeof names[0] };

static void set_remedy(kt_err *err, const char *remedy)
{
	(void)snprintf(err->remedy, sizeof err->remedy, "%s", remedy ? remedy : "");
}

kt_code kt_fail(kt_err *err, kt_code code, const char *remedy, const char *fmt, ...)
{
	if (!err)
		return code;
	/* Formatted aside first: an argument may be the very message that is being replaced. */
	char msg[KT_ERR_MSG];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	memcpy(err->msg, msg, sizeof msg);
	err->code = code;
	if (remedy != err->remedy)
		set_remedy(err, remedy);
	return code;
}

static const char *errno_remedy(int errnum)
{
	switch (errnum) {
	case ENOSPC:
	case EDQUOT:
		return "free some space on that filesystem and run the command again";
	case EACCES:
	case EPERM:
		return "run as a user that may access it, or correct its owner and mode";
	case ENOENT:
		return "check the path";
	case EROFS:
		return "the filesystem is mounted read-only: remount it or choose another place";
	default:
		return NULL;
	}
}

kt_code kt_fail_errno(kt_err *err, int errnum, const char *remedy, const char *fmt, ...)
{
	if (!err)
		return KT_E_IO;
	char msg[KT_ERR_MSG];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	return kt_fail(err, KT_E_IO, remedy ? remedy : errno_remedy(errnum), "%s: %s", msg, strerror(errnum));
}

kt_code kt_err_prefix(kt_err *err, kt_code code, const char *fmt, ...)
{
	if (!err)
		return code;
	char prefix[KT_ERR_MSG];
	char old[KT_ERR_MSG];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(prefix, sizeof prefix, fmt, ap);
	va_end(ap);
	memcpy(old, err->msg, sizeof old);
	size_t used = strnlen(prefix, sizeof prefix - 1);
	(void)snprintf(err->msg, sizeof err->msg, "%s", prefix);
	(void)snprintf(err->msg + used, sizeof err->msg - used, ": %s", old);
	err->code = code;
	return code;
}

const char *kt_code_name(kt_code code)
{
	if ((unsigned)code >= NAMES)
		return "internal";
	return names[code];
}

kt_code kt_code_from_name(const char *name)
{
	for (unsigned i = 0; name && i < NAMES; i++)
		if (strcmp(names[i], name) == 0)
			return (kt_code)i;
	return KT_E_INTERNAL;
}

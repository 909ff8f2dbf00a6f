/* SPDX-License-Identifier: Apache-2.0 */
#include "base/keyuri.h"

#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

static const char *const names[KT_KEYURI_KINDS] = {[KT_KEYURI_FILE] = "file",
						   [KT_KEYURI_ENV] = "env",
						   [KT_KEYURI_PKCS11] = "pkcs11",
						   [KT_KEYURI_AWSKMS] = "awskms",
						   [KT_KEYURI_LEGACY] = "legacy"};

const char *kt_keyuri_name(kt_keyuri_kind kind)
{
	return names[kind];
}

bool kt_keyuri_named(const char *name, kt_keyuri_kind *out)
{
	for (int k = 0; k < KT_KEYURI_KINDS; k++)
		if (strcmp(names[k], name) == 0) {
			*out = (kt_keyuri_kind)k;
			return true;
		}
	return false;
}

bool kt_keyuri_kind_of(const char *uri, kt_keyuri_kind *out, const char **rest)
{
	for (int k = 0; k < KT_KEYURI_KINDS; k++) {
		size_t n = strlen(names[k]);
		if (strncmp(uri, names[k], n) != 0 || uri[n] != ':')
			continue;
		*out = (kt_keyuri_kind)k;
		*rest = uri + n + 1;
		return true;
	}
	return false;
}

bool kt_keyuri_stays(kt_keyuri_kind kind)
{
	return kind == KT_KEYURI_PKCS11 || kind == KT_KEYURI_AWSKMS || kt_keyuri_none(kind);
}

bool kt_keyuri_none(kt_keyuri_kind kind)
{
	return kind == KT_KEYURI_LEGACY;
}

/* --- awskms: ------------------------------------------------------------------------------------------------------ */

static const char shape[] =
	"write awskms:alias/NAME?region=REGION&context=TEXT (both may be left out), or an ARN for alias/NAME";

static kt_code malformed(const char *what, kt_err *err)
{
	return kt_fail(err, KT_E_INPUT, shape, "%s", what);
}

static bool plain(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-._~/:", c);
}

/* RFC 3986 §2.1 */
static kt_code put_escaped(const char *text, kt_buf *out, kt_err *err)
{
	for (const char *p = text; *p; p++) {
		if (plain((unsigned char)*p))
			KT_TRY(kt_buf_append(out, p, 1, err));
		else
			KT_TRY(kt_buf_printf(out, err, "%%%02X", (unsigned char)*p));
	}
	return KT_OK;
}

static int hex_digit(char c)
{
	const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c) : NULL;
	return at ? (int)(at - digits) : -1;
}

/* n bytes with %-escapes; printable UTF-8 of 1 to size - 1 bytes. */
static bool take_escaped(const char *text, size_t n, char *out, size_t size)
{
	size_t len = 0;
	for (size_t i = 0; i < n; i++, len++) {
		if (len + 1 >= size)
			return false;
		out[len] = text[i];
		if (text[i] == '%') {
			int high = i + 2 < n ? hex_digit(text[i + 1]) : -1,
			    low = high >= 0 ? hex_digit(text[i + 2]) : -1;
			if (low < 0)
				return false;
			out[len] = (char)(high << 4 | low);
			i += 2;
		}
		if ((unsigned char)out[len] < ' ' || out[len] == 0x7f)
			return false;
	}
	out[len] = '\0';
	return len > 0 && kt_utf8_valid(out, len, NULL);
}

static kt_code take_name(const char *text, size_t n, kt_awsuri *out, kt_err *err)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:/_-";
	if (n == 0 || n >= sizeof out->name || strspn(text, letters) < n)
		return malformed("this names no key of AWS KMS", err);
	memcpy(out->name, text, n);
	return KT_OK;
}

static kt_code take_query(const char *at, kt_awsuri *out, kt_err *err)
{
	while (*at) {
		size_t n = strcspn(at, "&");
		if (strncmp(at, "region=", 7) == 0 && !out->region[0]) {
			if (!take_escaped(at + 7, n - 7, out->region, sizeof out->region))
				return malformed("region= holds no region", err);
		} else if (strncmp(at, "context=", 8) == 0 && !out->context[0]) {
			if (!take_escaped(at + 8, n - 8, out->context, sizeof out->context))
				return malformed("context= is not 1 to 256 bytes of printable UTF-8", err);
		} else {
			return malformed("only region= and context= may stand behind the '?', once each", err);
		}
		at += n + (at[n] == '&');
	}
	return KT_OK;
}

/* arn:PARTITION:kms:REGION:ACCOUNT:... */
static kt_code region_of_arn(kt_awsuri *uri, kt_err *err)
{
	char partition[16], region[KT_AWSURI_REGION], account[16];
	if (strncmp(uri->name, "arn:", 4) != 0)
		return KT_OK;
	if (sscanf(uri->name, "arn:%15[a-z-]:kms:%32[a-z0-9-]:%15[0-9]:", partition, region, account) != 3)
		return malformed("this is no ARN of a key of AWS KMS", err);
	if (uri->region[0] && strcmp(uri->region, region) != 0)
		return malformed("the URI's region is not that of its ARN", err);
	memcpy(uri->region, region, sizeof region);
	return KT_OK;
}

kt_code kt_awsuri_parse(const char *rest, kt_awsuri *out, kt_err *err)
{
	size_t n = strcspn(rest, "?");
	*out = (kt_awsuri){.name = ""};
	KT_TRY(take_name(rest, n, out, err));
	KT_TRY(take_query(rest[n] ? rest + n + 1 : rest + n, out, err));
	return region_of_arn(out, err);
}

static bool fits(const char *text, char *out, size_t size)
{
	int n = snprintf(out, size, "%s", text ? text : "");
	bool ok = n >= 0 && (size_t)n < size && kt_utf8_valid(out, strlen(out), NULL);
	for (const char *p = out; *p; p++)
		ok = ok && (unsigned char)*p >= ' ' && *p != 0x7f;
	return ok;
}

kt_code kt_awsuri_make(const char *name, const char *region, const char *context, kt_awsuri *out, kt_err *err)
{
	*out = (kt_awsuri){.name = ""};
	KT_TRY(take_name(name, strlen(name), out, err));
	if (!fits(region, out->region, sizeof out->region))
		return malformed("the region is not printable, or longer than 32 bytes", err);
	if (!fits(context, out->context, sizeof out->context))
		return malformed("the encryption context is not at most 256 bytes of printable UTF-8", err);
	return region_of_arn(out, err);
}

kt_code kt_awsuri_format(const kt_awsuri *uri, kt_buf *out, kt_err *err)
{
	KT_TRY(kt_buf_printf(out, err, "awskms:%s", uri->name));
	if (uri->region[0]) {
		KT_TRY(kt_buf_str(out, "?region=", err));
		KT_TRY(put_escaped(uri->region, out, err));
	}
	if (!uri->context[0])
		return KT_OK;
	KT_TRY(kt_buf_printf(out, err, "%scontext=", uri->region[0] ? "&" : "?"));
	return put_escaped(uri->context, out, err);
}

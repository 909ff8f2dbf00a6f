/* SPDX-License-Identifier: Apache-2.0 */
/*
 * awskms:KEY[?region=REGION][&context=TEXT]: the CMK is a key of AWS KMS and never leaves it; KEKs are wrapped and
 * unwrapped there. KEY is alias/NAME, a key's id, or an ARN of either. The CMK has no check value: its ARN stands in
 * the wrapped key instead, and tells which CMK opens it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "keystore/aws.h"
#include "keystore/internal.h"

static const char shape[] =
	"write awskms:alias/NAME?region=REGION&context=TEXT (both may be left out), or an ARN for alias/NAME";

static kt_code malformed(const char *what, kt_err *err)
{
	return kt_fail(err, KT_E_INPUT, shape, "%s", what);
}

/* --- The URI ------------------------------------------------------------------------------------------------------ */

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

static kt_code take_key(const char *text, size_t n, kt_aws_kms *kms, kt_err *err)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:/_-";
	if (n == 0 || n >= sizeof kms->name || strspn(text, letters) < n)
		return malformed("this names no key of AWS KMS", err);
	memcpy(kms->name, text, n);
	return KT_OK;
}

/* arn:PARTITION:kms:REGION:ACCOUNT:... */
static kt_code region_of_arn(kt_aws_kms *kms, kt_err *err)
{
	char partition[16], region[KT_AWS_REGION_MAX], account[16];
	if (strncmp(kms->name, "arn:", 4) != 0)
		return KT_OK;
	if (sscanf(kms->name, "arn:%15[a-z-]:kms:%32[a-z0-9-]:%15[0-9]:", partition, region, account) != 3)
		return malformed("this is no ARN of a key of AWS KMS", err);
	if (kms->region[0] && strcmp(kms->region, region) != 0)
		return malformed("the URI's region is not that of its ARN", err);
	memcpy(kms->region, region, sizeof region);
	return KT_OK;
}

static kt_code take_query(const char *at, kt_aws_kms *kms, kt_err *err)
{
	while (*at) {
		size_t n = strcspn(at, "&");
		if (strncmp(at, "region=", 7) == 0 && !kms->region[0]) {
			if (!take_escaped(at + 7, n - 7, kms->region, sizeof kms->region))
				return malformed("region= holds no region", err);
		} else if (strncmp(at, "context=", 8) == 0 && !kms->context[0]) {
			if (!take_escaped(at + 8, n - 8, kms->context, sizeof kms->context))
				return malformed("context= is not 1 to 256 bytes of printable UTF-8", err);
		} else {
			return malformed("only region= and context= may stand behind the '?', once each", err);
		}
		at += n + (at[n] == '&');
	}
	return KT_OK;
}

static kt_code parse(const char *rest, kt_aws_kms *kms, kt_err *err)
{
	size_t n = strcspn(rest, "?");
	KT_TRY(take_key(rest, n, kms, err));
	KT_TRY(take_query(rest[n] ? rest + n + 1 : rest + n, kms, err));
	KT_TRY(region_of_arn(kms, err));
	if (!kms->region[0])
		KT_TRY(kt_aws_region_find(kms->region, err));
	if (!kms->region[0])
		return kt_fail(err, KT_E_INPUT, "set AWS_REGION, or add ?region= to the URI, or use an ARN",
			       "the region of the AWS KMS key %s is not known", kms->name);
	if (!kt_aws_region_valid(kms->region))
		return kt_fail(err, KT_E_INPUT, "write it like eu-west-1", "this is no region of AWS");
	if (!kms->context[0])
		memcpy(kms->context, KT_KEYSTORE_AWS_CONTEXT, sizeof KT_KEYSTORE_AWS_CONTEXT);
	return KT_OK;
}

kt_code kt_keystore_awskms_uri(const char *key, const char *context, kt_buf *out, kt_err *err)
{
	KT_TRY(kt_buf_printf(out, err, "awskms:%s", key));
	if (!context || !context[0])
		return KT_OK;
	KT_TRY(kt_buf_str(out, "?context=", err));
	return put_escaped(context, out, err);
}

static kt_code format(const kt_aws_kms *kms, kt_buf *out, kt_err *err)
{
	KT_TRY(kt_buf_printf(out, err, "awskms:%s?region=%s", kms->name, kms->region));
	if (strcmp(kms->context, KT_KEYSTORE_AWS_CONTEXT) == 0)
		return KT_OK;
	KT_TRY(kt_buf_str(out, "&context=", err));
	return put_escaped(kms->context, out, err);
}

/* --- The scheme --------------------------------------------------------------------------------------------------- */

static kt_code open_awskms(kt_keystore *ks, const char *rest, kt_err *err)
{
	ks->kms = calloc(1, sizeof *ks->kms);
	if (!ks->kms)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	KT_TRY(parse(rest, ks->kms, err));
	KT_TRY(format(ks->kms, &ks->uri, err));
	KT_TRY(kt_aws_kms_open(ks->kms, err));
	memcpy(ks->kcv, KT_KEYSTORE_NO_KCV, sizeof KT_KEYSTORE_NO_KCV);
	return KT_OK;
}

void kt_keystore_awskms_close(kt_aws_kms *kms)
{
	if (kms)
		kt_aws_kms_close(kms);
	free(kms);
}

bool kt_keystore_awskms_made(const kt_aws_kms *kms, const kt_blob *blob)
{
	return strcmp(blob->wrapping.label, kms->arn) == 0;
}

static kt_code begin(const kt_keystore *ks, const char *operation, kt_blob *out, kt_err *err)
{
	KT_TRY(kt_blob_begin(&(kt_blob_address){.purpose = KT_BLOB_KEK}, out, err));
	out->format = KT_BLOB_AWS_KMS;
	(void)snprintf(out->mechanism, sizeof out->mechanism, "%s", operation);
	memcpy(out->wrapping.label, ks->kms->arn, sizeof ks->kms->arn);
	return KT_OK;
}

static kt_code new_kek(kt_keystore *ks, kt_secret *kek, kt_blob *out, kt_err *err)
{
	KT_TRY(begin(ks, "GenerateDataKey", out, err));
	KT_TRY(kt_aws_kms_generate(ks->kms, kek, out, err));
	kt_code rc = kt_blob_seal(out, kek, err);
	if (rc != KT_OK)
		kt_secret_free(kek);
	return rc;
}

static kt_code wrap_kek(kt_keystore *ks, const kt_secret *kek, kt_blob *out, kt_err *err)
{
	KT_TRY(begin(ks, "Encrypt", out, err));
	KT_TRY(kt_aws_kms_encrypt(ks->kms, kek, out, err));
	return kt_blob_seal(out, kek, err);
}

static kt_code unwrap_kek(kt_keystore *ks, const kt_blob *blob, kt_secret *kek, kt_err *err)
{
	KT_TRY(kt_aws_kms_decrypt(ks->kms, blob, kek, err));
	kt_code rc = kt_blob_check_key(blob, kek, err);
	if (rc != KT_OK)
		kt_secret_free(kek);
	return rc;
}

const kt_keystore_scheme kt_keystore_awskms = {"awskms:", open_awskms, new_kek, wrap_kek, unwrap_kek};

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * awskms:KEY[?region=REGION][&context=TEXT]: the CMK is a key of AWS KMS and never leaves it; KEKs are wrapped and
 * unwrapped there. KEY is alias/NAME, a key's id, or an ARN of either. The CMK has no check value: its ARN stands in
 * the wrapped key instead, and tells which CMK opens it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/keyuri.h"
#include "base/log.h"
#include "keystore/aws.h"
#include "keystore/internal.h"

/* --- The URI ------------------------------------------------------------------------------------------------------ */

static kt_code parse(const char *rest, kt_aws_kms *kms, kt_err *err)
{
	kt_awsuri uri;
	KT_TRY(kt_awsuri_parse(rest, &uri, err));
	memcpy(kms->name, uri.name, sizeof uri.name);
	memcpy(kms->region, uri.region, sizeof uri.region);
	memcpy(kms->context, uri.context, sizeof uri.context);
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
	kt_awsuri uri;
	KT_TRY(kt_awsuri_make(key, "", context, &uri, err));
	return kt_awsuri_format(&uri, out, err);
}

static kt_code format(const kt_aws_kms *kms, kt_buf *out, kt_err *err)
{
	kt_awsuri uri;
	bool usual = strcmp(kms->context, KT_KEYSTORE_AWS_CONTEXT) == 0;
	KT_TRY(kt_awsuri_make(kms->name, kms->region, usual ? "" : kms->context, &uri, err));
	return kt_awsuri_format(&uri, out, err);
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

kt_code kt_keystore_awskms_create(const char *uri, const char *description, kt_buf *arn, kt_err *err)
{
	kt_aws_kms kms = {.name = ""};
	const char *rest = strncmp(uri, "awskms:", 7) == 0 ? uri + 7 : "";
	kt_code rc = parse(rest, &kms, err);
	if (rc == KT_OK)
		rc = kt_aws_kms_create(&kms, description, err);
	if (rc == KT_OK)
		rc = kt_buf_str(arn, kms.arn, err);
	kt_aws_kms_close(&kms);
	return rc;
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

/* What ReEncrypt gave is opened by the new key and compared with what the old one had wrapped, before anybody relies on
 * it. */
static kt_code open_moved(kt_keystore *to, const kt_blob *blob, kt_secret *kek, kt_blob *out, kt_err *err)
{
	KT_TRY(kt_aws_kms_decrypt(to->kms, out, kek, err));
	kt_code rc = kt_blob_check_key(blob, kek, err);
	if (rc == KT_OK)
		rc = kt_blob_seal(out, kek, err);
	if (rc != KT_OK)
		kt_secret_free(kek);
	return rc;
}

static kt_code move_kek(kt_keystore *to, kt_keystore *from, const kt_blob *blob, kt_secret *kek, kt_blob *out,
			bool *moved, kt_err *err)
{
	kt_err own = KT_ERR_INIT;
	kt_err *e = err ? err : &own;
	if (strcmp(to->kms->region, from->kms->region) != 0)
		return KT_OK;
	KT_TRY(begin(to, "ReEncrypt", out, err));
	kt_code rc = kt_aws_kms_reencrypt(to->kms, from->kms, blob, out, e);
	if (kt_aws_kms_denied(rc, e)) {
		kt_log(KT_LOG_WARN, "%s: the KEK is moved by Decrypt and Encrypt instead", e->msg);
		return KT_OK;
	}
	KT_TRY(rc);
	*moved = true;
	return open_moved(to, blob, kek, out, err);
}

static kt_code random_bytes(kt_keystore *ks, kt_secret *out, kt_err *err)
{
	return kt_aws_kms_random(ks->kms, out, err);
}

const kt_keystore_scheme kt_keystore_awskms = {.prefix = "awskms:",
					       .open = open_awskms,
					       .new_kek = new_kek,
					       .wrap_kek = wrap_kek,
					       .unwrap_kek = unwrap_kek,
					       .move_kek = move_kek,
					       .random = random_bytes};

/* SPDX-License-Identifier: Apache-2.0 */
#include "keystore/keystore.h"

#include <stdlib.h>
#include <string.h>

#include "keystore/internal.h"

static const kt_keystore_scheme *const schemes[] = {&kt_keystore_pkcs11, &kt_keystore_file, &kt_keystore_env,
						    &kt_keystore_awskms};
enum { SCHEMES = sizeof schemes / sizeof schemes[0] };

static const char known[] = "keystores are named by pkcs11:..., file:/absolute/path, env:NAME or awskms:KEY";

static const kt_keystore_scheme *scheme_of(const char *uri)
{
	for (size_t i = 0; i < SCHEMES; i++)
		if (strncmp(uri, schemes[i]->prefix, strlen(schemes[i]->prefix)) == 0)
			return schemes[i];
	return NULL;
}

/* The text before ':' if that is a plausible scheme; anything else may be a key and is not shown. */
static kt_code unknown_scheme(const char *uri, kt_err *err)
{
	size_t n = strspn(uri, "abcdefghijklmnopqrstuvwxyz0123456789+.-");
	if (n > 0 && n <= 16 && uri[n] == ':')
		return kt_fail(err, KT_E_INPUT, known, "there is no keystore of the kind \"%.*s:\"", (int)n, uri);
	return kt_fail(err, KT_E_INPUT, known, "this does not name a keystore");
}

kt_code kt_keystore_open(const char *uri, kt_keystore **out, kt_err *err)
{
	const kt_keystore_scheme *scheme = scheme_of(uri);
	*out = NULL;
	if (!scheme)
		return unknown_scheme(uri, err);
	kt_keystore *ks = calloc(1, sizeof *ks);
	if (!ks)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	ks->scheme = scheme;
	ks->uri.max = KT_KEYSTORE_TEXT_MAX;
	kt_code rc = scheme->open(ks, uri + strlen(scheme->prefix), err);
	if (rc == KT_OK)
		*out = ks;
	else
		kt_keystore_close(ks);
	return rc;
}

void kt_keystore_close(kt_keystore *ks)
{
	if (!ks)
		return;
	kt_secret_free(&ks->cmk);
	kt_token_close(ks->token);
	kt_keystore_awskms_close(ks->kms);
	kt_buf_free(&ks->uri);
	free(ks);
}

const char *kt_keystore_uri(const kt_keystore *ks)
{
	return kt_buf_cstr(&ks->uri);
}

const char *kt_keystore_kcv(const kt_keystore *ks)
{
	return ks->kcv;
}

bool kt_keystore_made(const kt_keystore *ks, const kt_blob *blob)
{
	if (blob->format == KT_BLOB_AWS_KMS || ks->kms)
		return blob->format == KT_BLOB_AWS_KMS && ks->kms && kt_keystore_awskms_made(ks->kms, blob);
	return strcmp(blob->wrapping.kcv, ks->kcv) == 0;
}

/* Before anything is asked of a key that cannot open it. */
static kt_code another_kind(const kt_keystore *ks, const kt_blob *blob, kt_err *err)
{
	if (blob->format == KT_BLOB_AWS_KMS)
		return kt_fail(err, KT_E_KEY, "give that key (awskms:, LKR_AWS_CMK)",
			       "the KEK is wrapped by the AWS KMS key %s, not by %s", blob->wrapping.label,
			       kt_buf_cstr(&ks->uri));
	return kt_fail(err, KT_E_KEY, "give the key with that check value",
		       "the KEK is wrapped by a master key with KCV %s, not by %s", blob->wrapping.kcv,
		       kt_buf_cstr(&ks->uri));
}

kt_code kt_keystore_new_kek(kt_keystore *ks, kt_secret *kek, kt_blob *out, kt_err *err)
{
	*kek = KT_SECRET_INIT;
	return ks->scheme->new_kek(ks, kek, out, err);
}

kt_code kt_keystore_wrap_kek(kt_keystore *ks, const kt_secret *kek, kt_blob *out, kt_err *err)
{
	if (kek->len != KT_KEK_LEN)
		return kt_fail(err, KT_E_KEY, NULL, "a KEK has %d bytes, this one has %zu", KT_KEK_LEN, kek->len);
	return ks->scheme->wrap_kek(ks, kek, out, err);
}

kt_code kt_keystore_unwrap_kek(kt_keystore *ks, const kt_blob *blob, kt_secret *kek, kt_err *err)
{
	*kek = KT_SECRET_INIT;
	if (blob->purpose != KT_BLOB_KEK)
		return kt_fail(err, KT_E_INPUT, NULL, "this wrapped key is for %s, it is no KEK",
			       kt_blob_purpose_name(blob->purpose));
	if ((blob->format == KT_BLOB_AWS_KMS || ks->kms) && !kt_keystore_made(ks, blob))
		return another_kind(ks, blob, err);
	return ks->scheme->unwrap_kek(ks, blob, kek, err);
}

static kt_code move_by_hand(kt_keystore *to, kt_keystore *from, const kt_blob *blob, kt_secret *kek, kt_blob *out,
			    kt_err *err)
{
	KT_TRY(kt_keystore_unwrap_kek(from, blob, kek, err));
	kt_code rc = kt_keystore_wrap_kek(to, kek, out, err);
	if (rc != KT_OK)
		kt_secret_free(kek);
	return rc;
}

kt_code kt_keystore_move_kek(kt_keystore *to, kt_keystore *from, const kt_blob *blob, kt_secret *kek, kt_blob *out,
			     kt_err *err)
{
	bool moved = false;
	*kek = KT_SECRET_INIT;
	if (to->scheme == from->scheme && to->scheme->move_kek && kt_keystore_made(from, blob))
		KT_TRY(to->scheme->move_kek(to, from, blob, kek, out, &moved, err));
	return moved ? KT_OK : move_by_hand(to, from, blob, kek, out, err);
}

kt_code kt_keystore_stir(kt_keystore *ks, kt_err *err)
{
	kt_secret bytes;
	if (!ks->scheme->random)
		return KT_OK;
	KT_TRY(ks->scheme->random(ks, &bytes, err));
	kt_code rc = kt_secret_stir(&bytes, err);
	kt_secret_free(&bytes);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A KEK between token and process: the CMK stays in the token, the KEK has to be where libcrypto works with it. */
#include <string.h>

#include "pkcs11/internal.h"
#include "pkcs11/wrap.h"

enum { KEK_LEN = 32 };

/* Wrap the session object `h` under the CMK, as purpose KT_BLOB_KEK. */
static kt_code wrap_object(kt_token *t, CK_OBJECT_HANDLE h, const kt_token_key *cmk, kt_blob *out, kt_err *err)
{
	kt_token_key key = {.handle = h};
	KT_TRY(kt_p11_kcv(t, h, key.kcv, err));
	return kt_token_wrap_under(t, &key, cmk, &(kt_blob_address){.purpose = KT_BLOB_KEK}, out, err);
}

/* The value of a session object, checked against the blob. */
static kt_code read_object(kt_token *t, CK_OBJECT_HANDLE h, const kt_blob *blob, kt_secret *kek, kt_err *err)
{
	char kcv[KT_KCV_TEXT];
	KT_TRY(kt_p11_read_value(t, h, kek, err));
	kt_code rc = kt_kcv_of(kek, kcv, err);
	if (rc == KT_OK && strcmp(kcv, blob->kcv) != 0)
		rc = kt_fail(err, KT_E_HSM, "use another token",
			     "%s: the key that was read has check value %s, the token says %s", t->name, kcv,
			     blob->kcv);
	if (rc != KT_OK)
		kt_secret_free(kek);
	return rc;
}

kt_code kt_token_make_kek(kt_token *t, const kt_token_key *cmk, kt_secret *kek, kt_blob *out, kt_err *err)
{
	kt_p11_template tpl;
	CK_OBJECT_HANDLE h = 0;
	*kek = KT_SECRET_INIT;
	kt_p11_template_key(&tpl, &kt_p11_readable);
	KT_TRY(kt_p11_generate(t, &tpl, &kt_p11_readable, &h, err));
	kt_code rc = wrap_object(t, h, cmk, out, err);
	if (rc == KT_OK)
		rc = read_object(t, h, out, kek, err);
	kt_p11_discard(t, h);
	return rc;
}

kt_code kt_token_import_kek(kt_token *t, const kt_token_key *cmk, const kt_secret *kek, kt_blob *out, kt_err *err)
{
	kt_p11_template tpl;
	CK_OBJECT_HANDLE h = 0;
	if (kek->len != KEK_LEN)
		return kt_fail(err, KT_E_KEY, NULL, "a KEK has %d bytes, this one has %zu", KEK_LEN, kek->len);
	kt_p11_template_key(&tpl, &kt_p11_cluster_session);
	kt_p11_template_add(&tpl, CKA_VALUE, kek->data, kek->len);
	KT_TRY(P11(t, err, C_CreateObject, t->session, tpl.a, tpl.n, &h));
	kt_code rc = kt_p11_policy_check(t, h, &kt_p11_cluster_session, err);
	if (rc == KT_OK)
		rc = wrap_object(t, h, cmk, out, err);
	kt_p11_discard(t, h);
	return rc;
}

kt_code kt_token_export_kek(kt_token *t, const kt_token_key *cmk, const kt_blob *blob, kt_secret *kek, kt_err *err)
{
	CK_OBJECT_HANDLE h = 0;
	*kek = KT_SECRET_INIT;
	KT_TRY(kt_p11_may_unwrap(t, blob, cmk, err));
	KT_TRY(kt_p11_unwrap_under(t, blob, cmk->handle, &kt_p11_readable, NULL, &h, err));
	kt_code rc = read_object(t, h, blob, kek, err);
	kt_p11_discard(t, h);
	return rc;
}

kt_code kt_token_random(kt_token *t, size_t len, kt_secret *out, kt_err *err)
{
	*out = KT_SECRET_INIT;
	if (!(kt_token_get_info(t)->flags & CKF_RNG))
		return kt_fail(err, KT_E_REFUSED, NULL, "%s: the token has no generator of random numbers", t->name);
	KT_TRY(kt_secret_new(out, len, err));
	kt_code rc = P11(t, err, C_GenerateRandom, t->session, out->data, out->len);
	if (rc != KT_OK)
		kt_secret_free(out);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "pkcs11/wrap.h"

#include <stdio.h>
#include <string.h>

#include "base/codec.h"
#include "pkcs11/internal.h"

enum { AES_WRAPPED = 40 };

static bool is_rsa(kt_blob_format f)
{
	return f == KT_BLOB_RSA_OAEP_SHA256 || f == KT_BLOB_RSA_OAEP_SHA1;
}

static CK_RSA_PKCS_OAEP_PARAMS oaep_params(kt_blob_format f)
{
	bool sha256 = f == KT_BLOB_RSA_OAEP_SHA256;
	return (CK_RSA_PKCS_OAEP_PARAMS){.hashAlg = sha256 ? CKM_SHA256 : CKM_SHA_1,
					 .mgf = sha256 ? CKG_MGF1_SHA256 : CKG_MGF1_SHA1,
					 .source = CKZ_DATA_SPECIFIED};
}

kt_code kt_p11_wrap(kt_token *t, kt_blob_format format, const kt_p11_mechanism *mechanism, CK_OBJECT_HANDLE wrapping,
		    CK_OBJECT_HANDLE key, kt_blob *out, kt_err *err)
{
	CK_RSA_PKCS_OAEP_PARAMS oaep = oaep_params(format);
	CK_MECHANISM m = {mechanism->type, NULL, 0};
	CK_ULONG len =
		sizeof out->wrapped; /* one call into a generous buffer: the sizes that tokens announce are wrong */
	if (is_rsa(format)) {
		m.pParameter = &oaep;
		m.ulParameterLen = sizeof oaep;
	}
	KT_TRY(P11(t, err, C_WrapKey, t->session, &m, wrapping, key, out->wrapped, &len));
	if (len > sizeof out->wrapped || (!is_rsa(format) && len != AES_WRAPPED))
		return kt_fail(err, KT_E_HSM, "use another token", "%s: %s gave %lu bytes, which is not %s", t->name,
			       mechanism->name, len, kt_blob_format_name(format));
	out->format = format;
	out->wrapped_len = len;
	(void)snprintf(out->mechanism, sizeof out->mechanism, "%s", mechanism->name);
	return KT_OK;
}

/* The failures after which CKA_VALUE_LEN may be what was missing. */
static bool may_want_length(CK_RV rv)
{
	return rv == CKR_TEMPLATE_INCOMPLETE || rv == CKR_TEMPLATE_INCONSISTENT || rv == CKR_ATTRIBUTE_VALUE_INVALID ||
	       rv == CKR_KEY_SIZE_RANGE || rv == CKR_WRAPPED_KEY_LEN_RANGE;
}

static kt_code unwrap_raw(kt_token *t, const kt_p11_mechanism *mechanism, const kt_blob *blob,
			  CK_OBJECT_HANDLE wrapping, const kt_p11_policy *policy, CK_OBJECT_HANDLE *out, kt_err *err)
{
	CK_MECHANISM m = {mechanism->type, NULL, 0};
	kt_p11_template tpl;
	uint8_t wrapped[AES_WRAPPED];
	if (blob->wrapped_len != AES_WRAPPED)
		return kt_fail(err, KT_E_INPUT, NULL, "this is not a key of 32 bytes under a wrapping key");
	memcpy(wrapped, blob->wrapped, AES_WRAPPED);
	kt_p11_template_key(&tpl, policy);
	CK_RV rv = P11_RV(t->f, C_UnwrapKey, t->session, &m, wrapping, wrapped, AES_WRAPPED, tpl.a, tpl.n, out);
	if (may_want_length(rv)) {
		kt_p11_template_add(&tpl, CKA_VALUE_LEN, &tpl.value_len, sizeof tpl.value_len);
		rv = P11_RV(t->f, C_UnwrapKey, t->session, &m, wrapping, wrapped, AES_WRAPPED, tpl.a, tpl.n, out);
	}
	if (rv == CKR_OK)
		return KT_OK;
	*out = 0;
	return kt_p11_fail(t->name, "C_UnwrapKey", rv, err);
}

static kt_code check_unwrapped(kt_token *t, const kt_blob *blob, CK_OBJECT_HANDLE key, const kt_p11_policy *policy,
			       kt_err *err)
{
	char kcv[KT_KCV_TEXT];
	KT_TRY(kt_p11_policy_check(t, key, policy, err));
	KT_TRY(kt_p11_kcv(t, key, kcv, err));
	if (strcmp(kcv, blob->kcv) != 0)
		return kt_fail(err, KT_E_KEY, "take the blob again from where it was made; do not edit it",
			       "%s: the unwrapped key has check value %s, the blob says %s", t->name, kcv, blob->kcv);
	return KT_OK;
}

kt_code kt_p11_unwrap(kt_token *t, const kt_p11_mechanism *mechanism, const kt_blob *blob, CK_OBJECT_HANDLE wrapping,
		      const kt_p11_policy *policy, CK_OBJECT_HANDLE *out, kt_err *err)
{
	*out = 0;
	KT_TRY(unwrap_raw(t, mechanism, blob, wrapping, policy, out, err));
	kt_code rc = check_unwrapped(t, blob, *out, policy, err);
	if (rc == KT_OK)
		return KT_OK;
	kt_p11_discard(t, *out);
	*out = 0;
	return rc;
}

kt_code kt_p11_describe(const kt_token *t, const kt_token_key *wrapping, kt_blob *out, kt_err *err)
{
	(void)snprintf(out->token.label, sizeof out->token.label, "%s", t->info.label);
	(void)snprintf(out->token.manufacturer, sizeof out->token.manufacturer, "%s", t->info.manufacturer);
	(void)snprintf(out->token.serial, sizeof out->token.serial, "%s", t->info.serial);
	(void)snprintf(out->token.model, sizeof out->token.model, "%s", t->info.model);
	if (!wrapping)
		return KT_OK;
	kt_buf hex = KT_BUF_INIT;
	kt_code rc = kt_hex_encode(wrapping->id, wrapping->id_len, &hex, err);
	(void)snprintf(out->wrapping.id, sizeof out->wrapping.id, "%s", kt_buf_cstr(&hex));
	(void)snprintf(out->wrapping.label, sizeof out->wrapping.label, "%s", wrapping->label);
	memcpy(out->wrapping.kcv, wrapping->kcv, sizeof out->wrapping.kcv);
	kt_buf_free(&hex);
	return rc;
}

/* The better of two formats that the token does. */
static kt_code pick(const kt_token *t, kt_blob_format first, kt_blob_format second, kt_blob_format *out, kt_err *err)
{
	*out = t->by_format[first].name ? first : second;
	if (t->by_format[*out].name)
		return KT_OK;
	return kt_fail(err, KT_E_HSM,
		       "use a token, or a firmware of it, that does; pkcs11-tool --list-mechanisms shows them",
		       "%s: it does neither %s nor %s (tried with throw-away keys)", t->name,
		       kt_blob_format_name(first), kt_blob_format_name(second));
}

kt_code kt_token_wrap_for_node(kt_token *t, const kt_token_key *key, const kt_token_node_key *node,
			       kt_blob_purpose purpose, kt_blob *out, kt_err *err)
{
	kt_blob_format format;
	*out = (kt_blob){.purpose = purpose};
	if (purpose != KT_BLOB_TRANSPORT && purpose != KT_BLOB_REHEARSAL)
		return kt_fail(err, KT_E_INTERNAL, NULL, "a key is wrapped for a node in transport or rehearsal only");
	KT_TRY(kt_p11_probe_oaep(t, err));
	KT_TRY(pick(t, KT_BLOB_RSA_OAEP_SHA256, KT_BLOB_RSA_OAEP_SHA1, &format, err));
	KT_TRY(kt_p11_wrap(t, format, &t->by_format[format], node->handle, key->handle, out, err));
	if (out->wrapped_len != node->bits / 8)
		return kt_fail(err, KT_E_HSM, "use another token",
			       "%s: a key wrapped for RSA-%u came out with %zu bytes", t->name, node->bits,
			       out->wrapped_len);
	memcpy(out->spki_sha256, node->spki_sha256, sizeof out->spki_sha256);
	memcpy(out->kcv, key->kcv, sizeof out->kcv);
	return kt_p11_describe(t, NULL, out, err);
}

kt_code kt_token_wrap_under(kt_token *t, const kt_token_key *key, const kt_token_key *wrapping, kt_blob_purpose purpose,
			    kt_blob *out, kt_err *err)
{
	kt_blob_format format;
	*out = (kt_blob){.purpose = purpose};
	if (purpose != KT_BLOB_ESCROW && purpose != KT_BLOB_KEK)
		return kt_fail(err, KT_E_INTERNAL, NULL, "a key is wrapped under another for escrow or as a KEK only");
	KT_TRY(kt_p11_probe_aes(t, err));
	KT_TRY(pick(t, KT_BLOB_RFC5649, KT_BLOB_RFC3394, &format, err));
	KT_TRY(kt_p11_wrap(t, format, &t->by_format[format], wrapping->handle, key->handle, out, err));
	memcpy(out->kcv, key->kcv, sizeof out->kcv);
	return kt_p11_describe(t, wrapping, out, err);
}

kt_code kt_p11_may_unwrap(kt_token *t, const kt_blob *blob, const kt_token_key *wrapping, kt_err *err)
{
	kt_blob_format format;
	KT_TRY(kt_p11_mechanism_refuse(blob->mechanism, err));
	if (is_rsa(blob->format))
		return kt_fail(err, KT_E_INPUT, NULL, "a key wrapped for a node opens on that node only");
	if (strcmp(blob->wrapping.kcv, wrapping->kcv) != 0)
		return kt_fail(err, KT_E_KEY, "use the wrapping key that the blob names",
			       "%s: the blob was wrapped under \"%s\" (check value %s), this is \"%s\" (%s)", t->name,
			       blob->wrapping.label, blob->wrapping.kcv, wrapping->label, wrapping->kcv);
	KT_TRY(kt_p11_probe_aes(t, err));
	return pick(t, blob->format, blob->format, &format, err);
}

kt_code kt_token_unwrap_under(kt_token *t, const kt_blob *blob, const kt_token_key *wrapping, kt_token_key *out,
			      kt_err *err)
{
	CK_OBJECT_HANDLE h = 0;
	*out = (kt_token_key){0};
	KT_TRY(kt_p11_may_unwrap(t, blob, wrapping, err));
	KT_TRY(kt_p11_unwrap(t, &t->by_format[blob->format], blob, wrapping->handle, &kt_p11_cluster_session, &h, err));
	*out = (kt_token_key){.handle = h};
	memcpy(out->kcv, blob->kcv, sizeof out->kcv);
	return KT_OK;
}

kt_code kt_token_probe_formats(kt_token *t, kt_token_formats *out, kt_err *err)
{
	KT_TRY(kt_p11_probe_aes(t, err));
	KT_TRY(kt_p11_probe_oaep(t, err));
	*out = (kt_token_formats){.rfc5649 = t->by_format[KT_BLOB_RFC5649].name,
				  .rfc3394 = t->by_format[KT_BLOB_RFC3394].name,
				  .oaep_sha256 = t->by_format[KT_BLOB_RSA_OAEP_SHA256].name,
				  .oaep_sha1 = t->by_format[KT_BLOB_RSA_OAEP_SHA1].name};
	return KT_OK;
}

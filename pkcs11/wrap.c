/* SPDX-License-Identifier: Apache-2.0 */
#include "pkcs11/wrap.h"

#include <stdio.h>
#include <string.h>

#include "base/codec.h"
#include "pkcs11/internal.h"

/* CK_RSA_AES_KEY_WRAP_PARAMS (PKCS#11 v3.0 Current Mechanisms, "RSA AES KEY WRAP mechanism parameters"), which p11-kit
 * 0.24's header does not have. */
typedef struct rsa_aes_params {
	CK_ULONG aes_key_bits;
	CK_RSA_PKCS_OAEP_PARAMS *oaep;
} rsa_aes_params;

/* The parameter of an RSA format's mechanism; `m` points into it. */
typedef struct parameter {
	CK_RSA_PKCS_OAEP_PARAMS oaep;
	rsa_aes_params aes;
} parameter;

static void set_mechanism(kt_blob_format f, const kt_p11_mechanism *from, CK_MECHANISM *m, parameter *p)
{
	bool sha256 = kt_blob_is_sha256(f);
	*m = (CK_MECHANISM){from->type, NULL, 0};
	if (from->parameter == KT_P11_NO_PARAMETER)
		return;
	p->oaep = (CK_RSA_PKCS_OAEP_PARAMS){.hashAlg = sha256 ? CKM_SHA256 : CKM_SHA_1,
					    .mgf = sha256 ? CKG_MGF1_SHA256 : CKG_MGF1_SHA1,
					    .source = CKZ_DATA_SPECIFIED};
	p->aes = (rsa_aes_params){.aes_key_bits = KT_BLOB_KEY_BITS, .oaep = &p->oaep};
	bool both = from->parameter == KT_P11_RSA_AES;
	m->pParameter = both ? (void *)&p->aes : (void *)&p->oaep;
	m->ulParameterLen = both ? sizeof p->aes : sizeof p->oaep;
}

kt_code kt_p11_wrap_bytes(kt_token *t, kt_blob_format format, const kt_p11_mechanism *mechanism,
			  CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key, uint8_t *out, size_t *n, kt_err *err)
{
	parameter p;
	CK_MECHANISM m;
	CK_ULONG len = *n; /* one call into a generous buffer: the sizes that tokens announce are wrong */
	set_mechanism(format, mechanism, &m, &p);
	KT_TRY(P11(t, err, C_WrapKey, t->session, &m, wrapping, key, out, &len));
	if (len > *n || (!kt_blob_is_rsa(format) && len != KT_BLOB_AES_WRAPPED))
		return kt_fail(err, KT_E_HSM, "use another token", "%s: %s gave %lu bytes, which is not %s", t->name,
			       mechanism->name, len, kt_blob_format_name(format));
	*n = len;
	return KT_OK;
}

kt_code kt_p11_wrap(kt_token *t, kt_blob_format format, const kt_p11_mechanism *mechanism, CK_OBJECT_HANDLE wrapping,
		    CK_OBJECT_HANDLE key, kt_blob *out, kt_err *err)
{
	out->wrapped_len = sizeof out->wrapped;
	KT_TRY(kt_p11_wrap_bytes(t, format, mechanism, wrapping, key, out->wrapped, &out->wrapped_len, err));
	out->format = format;
	out->mechanism_id = (uint32_t)mechanism->type;
	(void)snprintf(out->mechanism, sizeof out->mechanism, "%s", mechanism->name);
	return KT_OK;
}

bool kt_p11_may_want_length(CK_RV rv)
{
	return rv == CKR_TEMPLATE_INCOMPLETE || rv == CKR_TEMPLATE_INCONSISTENT || rv == CKR_ATTRIBUTE_VALUE_INVALID ||
	       rv == CKR_KEY_SIZE_RANGE || rv == CKR_WRAPPED_KEY_LEN_RANGE;
}

static kt_code unwrap_bytes(kt_token *t, CK_MECHANISM *m, CK_OBJECT_HANDLE wrapping, const uint8_t *bytes, size_t n,
			    const kt_p11_policy *policy, const kt_token_key_name *name, CK_OBJECT_HANDLE *out,
			    kt_err *err)
{
	kt_p11_template tpl;
	uint8_t wrapped[KT_BLOB_WRAPPED_MAX]; /* C_UnwrapKey takes it as non-const */
	if (n == 0 || n > sizeof wrapped)
		return kt_fail(err, KT_E_INPUT, NULL, "a wrapped key cannot have %zu bytes", n);
	memcpy(wrapped, bytes, n);
	kt_p11_template_key(&tpl, policy);
	if (name)
		kt_p11_template_name(&tpl, name);
	CK_RV rv = P11_RV(t->f, C_UnwrapKey, t->session, m, wrapping, wrapped, n, tpl.a, tpl.n, out);
	if (kt_p11_may_want_length(rv)) {
		kt_p11_template_add(&tpl, CKA_VALUE_LEN, &tpl.value_len, sizeof tpl.value_len);
		rv = P11_RV(t->f, C_UnwrapKey, t->session, m, wrapping, wrapped, n, tpl.a, tpl.n, out);
	}
	if (rv == CKR_OK)
		return KT_OK;
	*out = 0;
	return kt_p11_fail(t->name, "C_UnwrapKey", rv, err);
}

kt_code kt_p11_keep_if(kt_token *t, kt_code rc, CK_OBJECT_HANDLE *key)
{
	if (rc != KT_OK) {
		kt_p11_discard(t, *key);
		*key = 0;
	}
	return rc;
}

kt_code kt_p11_unwrap(kt_token *t, kt_blob_format format, const kt_p11_mechanism *mechanism, CK_OBJECT_HANDLE wrapping,
		      const uint8_t *wrapped, size_t n, const kt_p11_policy *policy, const kt_token_key_name *name,
		      CK_OBJECT_HANDLE *out, kt_err *err)
{
	parameter p;
	CK_MECHANISM m;
	*out = 0;
	if (!kt_blob_is_rsa(format) && n != KT_BLOB_AES_WRAPPED)
		return kt_fail(err, KT_E_INPUT, NULL, "this is not a key of 32 bytes under a wrapping key");
	set_mechanism(format, mechanism, &m, &p);
	KT_TRY(unwrap_bytes(t, &m, wrapping, wrapped, n, policy, name, out, err));
	return kt_p11_keep_if(t, kt_p11_policy_check(t, *out, policy, err), out);
}

kt_code kt_p11_unwrap_under(kt_token *t, const kt_blob *blob, CK_OBJECT_HANDLE wrapping, const kt_p11_policy *policy,
			    const kt_token_key_name *name, CK_OBJECT_HANDLE *out, kt_err *err)
{
	KT_TRY(kt_p11_unwrap(t, blob->format, &t->by_format[blob->format], wrapping, blob->wrapped, blob->wrapped_len,
			     policy, name, out, err));
	return kt_p11_keep_if(t, kt_p11_check_blob(t, *out, blob, err), out);
}

static kt_code describe(const kt_token *t, const kt_token_key *wrapping, kt_blob *out, kt_err *err)
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

/* The better of two formats that the token does and the receiver opens (`accepts`, as in kt_blob_address). */
static kt_code pick(const kt_token *t, unsigned accepts, kt_blob_format first, kt_blob_format second,
		    kt_blob_format *out, kt_err *err)
{
	const kt_blob_format both[] = {first, second};
	for (int i = 0; i < 2; i++) {
		*out = both[i];
		if (t->by_format[*out].name && (!accepts || accepts & 1U << *out))
			return KT_OK;
	}
	return kt_fail(err, KT_E_HSM,
		       "use a token, or a firmware of it, that does; pkcs11-tool --list-mechanisms shows them",
		       "%s: it does neither %s nor %s (tried with throw-away keys)", t->name,
		       kt_blob_format_name(first), kt_blob_format_name(second));
}

kt_code kt_p11_finish_blob(kt_token *t, const kt_token_key *key, const kt_token_key *wrapping, kt_blob *out,
			   kt_err *err)
{
	memcpy(out->kcv, key->kcv, sizeof out->kcv);
	KT_TRY(describe(t, wrapping, out, err));
	return kt_p11_seal(t, key->handle, out, err);
}

kt_code kt_token_wrap_under(kt_token *t, const kt_token_key *key, const kt_token_key *wrapping,
			    const kt_blob_address *address, kt_blob *out, kt_err *err)
{
	kt_blob_format format;
	KT_TRY(kt_blob_begin(address, out, err));
	if (address->purpose != KT_BLOB_ESCROW && address->purpose != KT_BLOB_KEK)
		return kt_fail(err, KT_E_INTERNAL, NULL, "a key is wrapped under another for escrow or as a KEK only");
	KT_TRY(kt_p11_probe_aes(t, err));
	KT_TRY(pick(t, address->accepts, KT_BLOB_RFC5649, KT_BLOB_RFC3394, &format, err));
	KT_TRY(kt_p11_wrap(t, format, &t->by_format[format], wrapping->handle, key->handle, out, err));
	return kt_p11_finish_blob(t, key, wrapping, out, err);
}

kt_code kt_p11_may_unwrap(kt_token *t, const kt_blob *blob, const kt_token_key *wrapping, kt_err *err)
{
	kt_blob_format format;
	KT_TRY(kt_blob_refuse_mechanism(blob->mechanism, blob->mechanism_id, err));
	if (!kt_blob_is_aes(blob->format))
		return kt_fail(err, KT_E_INPUT, NULL,
			       "a key that is wrapped to an RSA key opens with its private half only");
	if (strcmp(blob->wrapping.kcv, wrapping->kcv) != 0)
		return kt_fail(err, KT_E_KEY, "use the wrapping key that the blob names",
			       "%s: the blob was wrapped under \"%s\" (check value %s), this is \"%s\" (%s)", t->name,
			       blob->wrapping.label, blob->wrapping.kcv, wrapping->label, wrapping->kcv);
	KT_TRY(kt_p11_probe_aes(t, err));
	return pick(t, 0, blob->format, blob->format, &format, err);
}

kt_code kt_token_unwrap_under(kt_token *t, const kt_blob *blob, const kt_token_key *wrapping, kt_token_key *out,
			      kt_err *err)
{
	CK_OBJECT_HANDLE h = 0;
	*out = (kt_token_key){0};
	KT_TRY(kt_p11_may_unwrap(t, blob, wrapping, err));
	KT_TRY(kt_p11_unwrap_under(t, blob, wrapping->handle, &kt_p11_cluster_session, NULL, &h, err));
	*out = (kt_token_key){.handle = h};
	memcpy(out->kcv, blob->kcv, sizeof out->kcv);
	return KT_OK;
}

/* --- The working copy --------------------------------------------------------------------------------------------- */

void kt_p11_drop_working(kt_token *t)
{
	kt_p11_discard(t, t->working.handle);
	kt_p11_forget_working(t);
}

void kt_p11_forget_working(kt_token *t)
{
	kt_secret_free(&t->working_mac_key);
	t->working = (kt_token_key){0};
}

static bool is_working(const kt_token *t, const kt_token_key_name *name)
{
	const kt_token_key *k = &t->working;
	return k->handle && name->label && strcmp(k->label, name->label) == 0 && name->id_len &&
	       k->id_len == name->id_len && memcmp(k->id, name->id, name->id_len) == 0;
}

kt_code kt_token_working_key(kt_token *t, const kt_token_key_name *name, const kt_token_key_name *wrapping,
			     kt_token_key *out, kt_err *err)
{
	const kt_blob_address address = {.purpose = KT_BLOB_ESCROW};
	kt_token_key key, under, copy;
	kt_blob blob;
	if (!is_working(t, name)) {
		KT_TRY(kt_token_find_cluster_key(t, name, &key, err));
		KT_TRY(kt_token_find_wrapping_key(t, wrapping, &under, err));
		KT_TRY(kt_token_wrap_under(t, &key, &under, &address, &blob, err));
		KT_TRY(kt_token_unwrap_under(t, &blob, &under, &copy, err));
		kt_p11_drop_working(t);
		t->working = key;
		t->working.handle = copy.handle;
		t->working.on_token = false;
	}
	*out = t->working;
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

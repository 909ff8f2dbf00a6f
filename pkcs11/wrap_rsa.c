/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Wrapping to an RSA key, and opening within the token that has its private half. Directly by RSA-OAEP, or composed: an
 * ephemeral AES-256 key by RSA-OAEP, and the key under that one by RFC 5649. Where a token has no CKM_RSA_AES_KEY_WRAP,
 * the composed form is made, and opened, by the two calls that the mechanism consists of; the bytes are the same.
 */
#include <stdio.h>
#include <string.h>

#include "pkcs11/internal.h"
#include "pkcs11/wrap.h"

/* The ephemeral key while it is made and wrapped, and when it came out of its wrapping. */
static const kt_p11_policy ephemeral_new = {"ephemeral key", CK_FALSE, CK_TRUE, CK_TRUE, CK_TRUE, CK_FALSE};
static const kt_p11_policy ephemeral_opened = {"ephemeral key", CK_FALSE, CK_TRUE, CK_FALSE, CK_TRUE, CK_FALSE};

static kt_blob_format oaep_of(kt_blob_format format)
{
	return kt_blob_is_sha256(format) ? KT_BLOB_RSA_OAEP_SHA256 : KT_BLOB_RSA_OAEP_SHA1;
}

/* --- Wrapping ----------------------------------------------------------------------------------------------------- */

/* By one call, or by two? What is asked of the token was found by the probes. */
static bool can(const kt_token *t, kt_blob_format format)
{
	if (t->by_format[format].name)
		return true;
	return kt_blob_is_composed(format) && t->by_format[oaep_of(format)].name && t->by_format[KT_BLOB_RFC5649].name;
}

/* The best format that the token does and the receiver opens. */
static kt_code choose(kt_token *t, unsigned accepts, kt_blob_format *out, kt_err *err)
{
	static const kt_blob_format best_first[] = {KT_BLOB_RSA_OAEP_SHA256, KT_BLOB_RSA_OAEP_SHA1,
						    KT_BLOB_RSA_AES_SHA256, KT_BLOB_RSA_AES_SHA1};
	KT_TRY(kt_p11_probe_oaep(t, err));
	for (size_t i = 0; i < sizeof best_first / sizeof best_first[0]; i++) {
		*out = best_first[i];
		if (accepts && !(accepts & 1U << *out))
			continue;
		if (kt_blob_is_composed(*out))
			KT_TRY(kt_p11_probe_aes(t, err));
		if (can(t, *out))
			return KT_OK;
	}
	return kt_fail(
		err, KT_E_HSM,
		"use a token, or a firmware of it, that does rsa-oaep-sha256; pkcs11-tool --list-mechanisms shows them",
		"%s: it wraps to an RSA key neither by rsa-oaep-sha256 nor by another format that the receiver opens "
		"(tried with throw-away keys)",
		t->name);
}

static kt_code compose(kt_token *t, kt_blob_format format, CK_OBJECT_HANDLE rsa, CK_OBJECT_HANDLE ephemeral,
		       CK_OBJECT_HANDLE key, kt_blob *out, kt_err *err)
{
	const kt_p11_mechanism *oaep = &t->by_format[oaep_of(format)], *kwp = &t->by_format[KT_BLOB_RFC5649];
	size_t head = sizeof out->wrapped - KT_BLOB_AES_WRAPPED, rest = KT_BLOB_AES_WRAPPED;
	KT_TRY(kt_p11_wrap_bytes(t, oaep->format, oaep, rsa, ephemeral, out->wrapped, &head, err));
	KT_TRY(kt_p11_wrap_bytes(t, KT_BLOB_RFC5649, kwp, ephemeral, key, out->wrapped + head, &rest, err));
	out->format = format;
	out->wrapped_len = head + rest;
	out->mechanism_id = (uint32_t)kwp->type;
	(void)snprintf(out->mechanism, sizeof out->mechanism, "%s+%s", oaep->name, kwp->name);
	return KT_OK;
}

static kt_code wrap_composed(kt_token *t, kt_blob_format format, CK_OBJECT_HANDLE rsa, CK_OBJECT_HANDLE key,
			     kt_blob *out, kt_err *err)
{
	kt_p11_template tpl;
	CK_OBJECT_HANDLE ephemeral;
	kt_p11_template_key(&tpl, &ephemeral_new);
	KT_TRY(kt_p11_generate(t, &tpl, &ephemeral_new, &ephemeral, err));
	kt_code rc = compose(t, format, rsa, ephemeral, key, out, err);
	kt_p11_discard(t, ephemeral);
	return rc;
}

kt_code kt_token_wrap_for_node(kt_token *t, const kt_token_key *key, const kt_token_node_key *node,
			       const kt_blob_address *address, kt_blob *out, kt_err *err)
{
	kt_blob_format format;
	KT_TRY(kt_blob_begin(address, out, err));
	if (address->purpose == KT_BLOB_ESCROW || address->purpose == KT_BLOB_KEK)
		return kt_fail(err, KT_E_INTERNAL, NULL, "a key is wrapped to an RSA key for a node or a custodian");
	KT_TRY(choose(t, address->accepts, &format, err));
	if (t->by_format[format].name)
		KT_TRY(kt_p11_wrap(t, format, &t->by_format[format], node->handle, key->handle, out, err));
	else
		KT_TRY(wrap_composed(t, format, node->handle, key->handle, out, err));
	if (out->wrapped_len != node->bits / 8 + (kt_blob_is_composed(format) ? KT_BLOB_AES_WRAPPED : 0))
		return kt_fail(err, KT_E_HSM, "use another token",
			       "%s: a key wrapped for RSA-%u came out with %zu bytes", t->name, node->bits,
			       out->wrapped_len);
	memcpy(out->spki_sha256, node->spki_sha256, sizeof out->spki_sha256);
	return kt_p11_finish_blob(t, key, NULL, out, err);
}

/* --- Opening ------------------------------------------------------------------------------------------------------ */

static kt_code unwrap_composed(kt_token *t, const kt_blob *blob, CK_OBJECT_HANDLE private_key,
			       const kt_p11_policy *policy, const kt_token_key_name *name, CK_OBJECT_HANDLE *out,
			       kt_err *err)
{
	const kt_p11_mechanism *oaep = kt_p11_mechanism_of(oaep_of(blob->format), t->maker);
	size_t head = blob->wrapped_len - KT_BLOB_AES_WRAPPED;
	CK_OBJECT_HANDLE ephemeral;
	KT_TRY(kt_p11_probe_aes(t, err));
	if (!t->by_format[KT_BLOB_RFC5649].name)
		return kt_fail(err, KT_E_HSM, "open it with another token, or take another escrow of the key",
			       "%s: it does not open %s, for which it needs rfc5649", t->name,
			       kt_blob_format_name(blob->format));
	KT_TRY(kt_p11_unwrap(t, oaep->format, oaep, private_key, blob->wrapped, head, &ephemeral_opened, NULL,
			     &ephemeral, err));
	kt_code rc = kt_p11_unwrap(t, KT_BLOB_RFC5649, &t->by_format[KT_BLOB_RFC5649], ephemeral, blob->wrapped + head,
				   KT_BLOB_AES_WRAPPED, policy, name, out, err);
	kt_p11_discard(t, ephemeral);
	return rc;
}

kt_code kt_p11_unwrap_rsa(kt_token *t, const kt_blob *blob, CK_OBJECT_HANDLE private_key, const kt_p11_policy *policy,
			  const kt_token_key_name *name, CK_OBJECT_HANDLE *out, kt_err *err)
{
	*out = 0;
	KT_TRY(kt_blob_refuse_mechanism(blob->mechanism, blob->mechanism_id, err));
	const kt_p11_mechanism *one = kt_p11_mechanism_of(blob->format, t->maker);
	if (kt_blob_is_composed(blob->format)) {
		KT_TRY(kt_p11_probe_oaep(t, err));
		one = &t->by_format[blob->format];
	}
	if (one->name)
		KT_TRY(kt_p11_unwrap(t, blob->format, one, private_key, blob->wrapped, blob->wrapped_len, policy, name,
				     out, err));
	else
		KT_TRY(unwrap_composed(t, blob, private_key, policy, name, out, err));
	return kt_p11_keep_if(t, kt_p11_check_blob(t, *out, blob, err), out);
}

kt_code kt_token_unwrap_rsa(kt_token *t, const kt_blob *blob, const kt_token_transport *private_key, kt_token_key *out,
			    kt_err *err)
{
	CK_OBJECT_HANDLE h;
	size_t oaep;
	*out = (kt_token_key){0};
	KT_TRY(kt_blob_for_rsa(blob, private_key->spki_sha256, &oaep, err));
	KT_TRY(kt_p11_unwrap_rsa(t, blob, private_key->handle, &kt_p11_cluster_session, NULL, &h, err));
	*out = (kt_token_key){.handle = h};
	memcpy(out->kcv, blob->kcv, sizeof out->kcv);
	return KT_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Throw-away session keys of the deep probe. */
#include <string.h>

#include "pkcs11/probe_internal.h"

void kt_probe_keep(kt_probe *p, CK_OBJECT_HANDLE object)
{
	if (p->n_made < KT_PROBE_OBJECTS)
		p->made[p->n_made++] = object;
	else
		kt_p11_discard(p->t, object);
}

void kt_probe_destroy_all(kt_probe *p)
{
	while (p->n_made)
		kt_p11_discard(p->t, p->made[--p->n_made]);
}

static void flag(kt_p11_template *tpl, CK_ATTRIBUTE_TYPE type, bool value)
{
	kt_p11_template_add(tpl, type, value ? &tpl->yes : &tpl->no, sizeof tpl->yes);
}

/* `tpl` points into itself and into *key. */
static void fill(kt_p11_template *tpl, const kt_probe_key *key)
{
	*tpl = (kt_p11_template){.yes = CK_TRUE,
				 .no = CK_FALSE,
				 .class = CKO_SECRET_KEY,
				 .type = key->generic ? CKK_GENERIC_SECRET : CKK_AES,
				 .value_len = key->bytes ? key->bytes : 32};
	kt_p11_template_add(tpl, CKA_CLASS, &tpl->class, sizeof tpl->class);
	kt_p11_template_add(tpl, CKA_KEY_TYPE, &tpl->type, sizeof tpl->type);
	flag(tpl, CKA_TOKEN, false);
	flag(tpl, CKA_PRIVATE, true);
	flag(tpl, CKA_SENSITIVE, !key->readable);
	flag(tpl, CKA_EXTRACTABLE, !key->fixed);
	if (!key->generic) { /* some refuse these in a generic secret's template */
		flag(tpl, CKA_WRAP, key->wraps);
		flag(tpl, CKA_UNWRAP, key->wraps);
		flag(tpl, CKA_DECRYPT, key->decrypts);
		flag(tpl, CKA_ENCRYPT, false);
		flag(tpl, CKA_SIGN, key->macs);
		flag(tpl, CKA_VERIFY, key->macs);
	}
	if (key->extra)
		kt_p11_template_add(tpl, key->extra->type, key->extra->pValue, key->extra->ulValueLen);
}

CK_RV kt_probe_generate(kt_probe *p, const kt_probe_key *key, CK_OBJECT_HANDLE *out)
{
	CK_MECHANISM m = {key->generic ? CKM_GENERIC_SECRET_KEY_GEN : CKM_AES_KEY_GEN, NULL, 0};
	kt_p11_template tpl;
	*out = 0;
	fill(&tpl, key);
	kt_p11_template_add(&tpl, CKA_VALUE_LEN, &tpl.value_len, sizeof tpl.value_len);
	CK_RV rv = P11_RV(p->t->f, C_GenerateKey, p->t->session, &m, tpl.a, tpl.n, out);
	if (rv == CKR_OK)
		kt_probe_keep(p, *out);
	return rv;
}

CK_RV kt_probe_wrap(kt_probe *p, CK_MECHANISM *m, CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key, kt_probe_blob *out)
{
	out->n = sizeof out->bytes;
	return P11_RV(p->t->f, C_WrapKey, p->t->session, m, wrapping, key, out->bytes, &out->n);
}

CK_RV kt_probe_unwrap(kt_probe *p, CK_MECHANISM *m, CK_OBJECT_HANDLE wrapping, const kt_probe_blob *blob,
		      const kt_probe_key *key, CK_OBJECT_HANDLE *out)
{
	kt_p11_template tpl;
	kt_probe_blob copy = *blob; /* a token may write into what it is given */
	*out = 0;
	fill(&tpl, key);
	CK_RV rv = P11_RV(p->t->f, C_UnwrapKey, p->t->session, m, wrapping, copy.bytes, copy.n, tpl.a, tpl.n, out);
	if (kt_p11_may_want_length(rv)) {
		copy = *blob;
		kt_p11_template_add(&tpl, CKA_VALUE_LEN, &tpl.value_len, sizeof tpl.value_len);
		rv = P11_RV(p->t->f, C_UnwrapKey, p->t->session, m, wrapping, copy.bytes, copy.n, tpl.a, tpl.n, out);
	}
	if (rv == CKR_OK)
		kt_probe_keep(p, *out);
	return rv;
}

int kt_probe_flag(kt_probe *p, CK_OBJECT_HANDLE key, CK_ATTRIBUTE_TYPE type)
{
	CK_BBOOL value = CK_FALSE;
	CK_ATTRIBUTE a = {type, &value, sizeof value};
	if (P11_RV(p->t->f, C_GetAttributeValue, p->t->session, key, &a, 1) != CKR_OK || a.ulValueLen != sizeof value)
		return -1;
	return value ? 1 : 0;
}

CK_ULONG kt_probe_value(kt_probe *p, CK_OBJECT_HANDLE key, CK_BYTE *out, CK_ULONG size)
{
	CK_ATTRIBUTE a = {CKA_VALUE, out, size};
	if (P11_RV(p->t->f, C_GetAttributeValue, p->t->session, key, &a, 1) != CKR_OK ||
	    a.ulValueLen == CK_UNAVAILABLE_INFORMATION)
		return 0;
	return a.ulValueLen;
}

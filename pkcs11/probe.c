/* SPDX-License-Identifier: Apache-2.0 */
/* What a token's mechanisms really do, found with throw-away session keys and checked against libcrypto. */
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <string.h>

#include "base/log.h"
#include "pkcs11/internal.h"
#include "pkcs11/wrap.h"

enum { PROBE_RSA_BITS = 2048 };

static const kt_p11_policy readable_wrapping = {"throw-away key", CK_FALSE, CK_FALSE, CK_TRUE, CK_TRUE, CK_TRUE};
static const kt_p11_policy opaque_wrapping = {"throw-away key", CK_FALSE, CK_TRUE, CK_TRUE, CK_TRUE, CK_TRUE};

/* The throw-away keys of a probe. `value` is empty where the token does not give it. */
typedef struct probe {
	CK_OBJECT_HANDLE wrapping, target;
	kt_secret value;
	kt_blob blob;
} probe;

static kt_code generate(kt_token *t, const kt_p11_policy *policy, CK_OBJECT_HANDLE *out, kt_err *err)
{
	kt_p11_template tpl;
	kt_p11_template_key(&tpl, policy);
	return kt_p11_generate(t, &tpl, policy, out, err);
}

static kt_code make_keys(kt_token *t, probe *p, kt_err *err)
{
	if (generate(t, &readable_wrapping, &p->wrapping, NULL) != KT_OK ||
	    kt_p11_read_value(t, p->wrapping, &p->value, NULL) != KT_OK) {
		kt_p11_discard(t, p->wrapping);
		KT_TRY(generate(t, &opaque_wrapping, &p->wrapping, err));
	}
	KT_TRY(generate(t, &kt_p11_cluster_session, &p->target, err));
	KT_TRY(kt_p11_kcv(t, p->wrapping, p->blob.wrapping.kcv, err));
	return kt_p11_kcv(t, p->target, p->blob.kcv, err);
}

static bool has_kcv(const kt_secret *key, const char *kcv)
{
	char own[KT_KCV_TEXT];
	return kt_kcv_of(key, own, NULL) == KT_OK && strcmp(own, kcv) == 0;
}

/* Which format p->blob, fresh from the token, is in; false when none. */
static bool format_of(const probe *p, const kt_p11_mechanism *m, kt_blob_format *out)
{
	static const kt_blob_format both[] = {KT_BLOB_RFC5649, KT_BLOB_RFC3394};
	*out = m->format;
	if (!p->value.len)
		return m->named;
	for (int i = 0; i < 2; i++) {
		kt_secret opened;
		*out = both[i];
		kt_code rc = kt_blob_open_aes(*out, &p->value, p->blob.wrapped, p->blob.wrapped_len, &opened, NULL);
		bool same = rc == KT_OK && has_kcv(&opened, p->blob.kcv);
		kt_secret_free(&opened);
		if (same)
			return true;
	}
	return false;
}

/* Does the token take what was changed? Then its mechanism protects nothing. */
static bool takes_changed(kt_token *t, const probe *p, const kt_p11_mechanism *m, kt_blob_format format)
{
	CK_OBJECT_HANDLE back = 0;
	kt_blob bad = p->blob;
	bad.wrapped[bad.wrapped_len / 2] ^= 0x01;
	if (kt_p11_unwrap(t, format, m, p->wrapping, bad.wrapped, bad.wrapped_len, &kt_p11_cluster_session, NULL, &back,
			  NULL) != KT_OK)
		return false;
	kt_p11_discard(t, back);
	kt_log(KT_LOG_WARN, "%s: %s takes a blob that was changed, and is not used", t->name, m->name);
	return true;
}

static void try_aes(kt_token *t, probe *p, const kt_p11_mechanism *m)
{
	CK_OBJECT_HANDLE back = 0;
	if (kt_p11_wrap(t, KT_BLOB_RFC5649, m, p->wrapping, p->target, &p->blob, NULL) != KT_OK)
		return;
	kt_blob_format format;
	if (!format_of(p, m, &format) || t->by_format[format].name)
		return;
	char kcv[KT_KCV_TEXT] = "";
	if (kt_p11_unwrap(t, format, m, p->wrapping, p->blob.wrapped, p->blob.wrapped_len, &kt_p11_cluster_session,
			  NULL, &back, NULL) != KT_OK)
		return;
	KT_IGNORE(kt_p11_kcv(t, back, kcv, NULL));
	kt_p11_discard(t, back);
	if (strcmp(kcv, p->blob.kcv) != 0 || takes_changed(t, p, m, format))
		return;
	t->by_format[format] = *m;
	t->by_format[format].format = format; /* what it gives, not what its name promises */
	kt_log(KT_LOG_DEBUG, "%s: %s does %s", t->name, m->name, kt_blob_format_name(format));
}

kt_code kt_p11_probe_aes(kt_token *t, kt_err *err)
{
	probe p = {.value = KT_SECRET_INIT};
	if (t->probed_aes)
		return KT_OK;
	kt_code rc = make_keys(t, &p, err);
	for (const kt_p11_mechanism *m = kt_p11_mechanisms(); rc == KT_OK && m->name; m++)
		if (m->parameter == KT_P11_NO_PARAMETER && kt_p11_applies(m, t->maker))
			try_aes(t, &p, m);
	t->probed_aes = rc == KT_OK;
	kt_p11_discard(t, p.wrapping);
	kt_p11_discard(t, p.target);
	kt_secret_free(&p.value);
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "trying out the token's key wrapping");
}

static void try_oaep(kt_token *t, probe *p, EVP_PKEY *pair, const kt_p11_mechanism *m)
{
	kt_secret opened = KT_SECRET_INIT;
	if (t->by_format[m->format].name)
		return;
	if (kt_p11_wrap(t, m->format, m, p->wrapping, p->target, &p->blob, NULL) == KT_OK &&
	    kt_blob_open_rsa(m->format, pair, p->blob.wrapped, p->blob.wrapped_len, &opened, NULL) == KT_OK &&
	    has_kcv(&opened, p->blob.kcv)) {
		t->by_format[m->format] = *m;
		kt_log(KT_LOG_DEBUG, "%s: it does %s", t->name, kt_blob_format_name(m->format));
	}
	kt_secret_free(&opened);
}

static kt_code oaep_with(kt_token *t, EVP_PKEY *pair, probe *p, kt_err *err)
{
	unsigned char *der = NULL;
	kt_token_node_key node;
	int n = i2d_PUBKEY(pair, &der);
	kt_code rc = n > 0 ? kt_token_import_node_key(t, der, (size_t)n, &node, err)
			   : kt_fail(err, KT_E_INTERNAL, NULL, "a public key cannot be encoded");
	OPENSSL_free(der);
	KT_TRY(rc);
	p->wrapping = node.handle;
	KT_TRY(generate(t, &kt_p11_cluster_session, &p->target, err));
	KT_TRY(kt_p11_kcv(t, p->target, p->blob.kcv, err));
	for (const kt_p11_mechanism *m = kt_p11_mechanisms(); m->name; m++)
		if (m->parameter != KT_P11_NO_PARAMETER && kt_p11_applies(m, t->maker))
			try_oaep(t, p, pair, m);
	return KT_OK;
}

static EVP_PKEY *one_pair;

static void make_pair(void)
{
	one_pair = EVP_RSA_gen(PROBE_RSA_BITS);
}

EVP_PKEY *kt_p11_probe_pair(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	(void)pthread_once(&once, make_pair);
	return one_pair;
}

kt_code kt_p11_probe_oaep(kt_token *t, kt_err *err)
{
	probe p = {.value = KT_SECRET_INIT};
	if (t->probed_oaep)
		return KT_OK;
	EVP_PKEY *pair = kt_p11_probe_pair();
	kt_code rc = pair ? oaep_with(t, pair, &p, err)
			  : kt_fail(err, KT_E_INTERNAL, NULL, "libcrypto does not make an RSA key");
	t->probed_oaep = rc == KT_OK;
	kt_p11_discard(t, p.wrapping);
	kt_p11_discard(t, p.target);
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "trying out the token's RSA-OAEP");
}

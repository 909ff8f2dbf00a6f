/* SPDX-License-Identifier: Apache-2.0 */
#include "pkcs11/transport.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <string.h>

#include "pkcs11/internal.h"

enum { ID_LEN = 16, MODULUS_MAX = KT_TRANSPORT_KEY_MAX_BITS / 8, EXPONENT_MAX = 32 };

const kt_p11_pair kt_p11_transport_pair = {.what = "transport key", .on_token = true};

static const CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
static const CK_KEY_TYPE rsa = CKK_RSA;
static const CK_OBJECT_CLASS private_class = CKO_PRIVATE_KEY, public_class = CKO_PUBLIC_KEY;

static void add_flag(kt_p11_template *tpl, CK_ATTRIBUTE_TYPE type, bool value)
{
	kt_p11_template_add(tpl, type, value ? &yes : &no, sizeof yes);
}

static void add_name(kt_p11_template *tpl, const kt_token_key_name *name)
{
	if (name->label)
		kt_p11_template_add(tpl, CKA_LABEL, name->label, strlen(name->label));
	if (name->id_len)
		kt_p11_template_add(tpl, CKA_ID, name->id, name->id_len);
}

static kt_code check_name(const kt_token_key_name *name, kt_err *err)
{
	size_t n = name->label ? strnlen(name->label, KT_URI_OBJECT) : 0;
	if ((name->label && (n == 0 || n >= KT_URI_OBJECT)) || name->id_len > KT_URI_ID ||
	    (!name->label && !name->id_len))
		return kt_fail(err, KT_E_INPUT, "give object= or id= in the URI",
			       "a transport key is named by a label of 1 to %d bytes, an id of at most %d, or both",
			       KT_URI_OBJECT - 1, KT_URI_ID);
	return KT_OK;
}

/* --- The public half ---------------------------------------------------------------------------------------------- */

typedef struct numbers {
	CK_BYTE n[MODULUS_MAX], e[EXPONENT_MAX];
	CK_ULONG n_len, e_len;
} numbers;

static bool read_numbers(const kt_token *t, CK_OBJECT_HANDLE key, numbers *out)
{
	CK_ATTRIBUTE a[] = {{CKA_MODULUS, out->n, sizeof out->n}, {CKA_PUBLIC_EXPONENT, out->e, sizeof out->e}};
	if (P11_RV(t->f, C_GetAttributeValue, t->session, key, a, 2) != CKR_OK || !a[0].ulValueLen ||
	    !a[1].ulValueLen || a[0].ulValueLen > sizeof out->n || a[1].ulValueLen > sizeof out->e)
		return false;
	out->n_len = a[0].ulValueLen;
	out->e_len = a[1].ulValueLen;
	return true;
}

/* Up to `max` objects of a template. */
static kt_code find(const kt_token *t, kt_p11_template *tpl, CK_OBJECT_HANDLE *out, CK_ULONG max, CK_ULONG *n,
		    kt_err *err)
{
	CK_ULONG got = 1;
	kt_code rc = KT_OK;
	*n = 0;
	KT_TRY(P11(t, err, C_FindObjectsInit, t->session, tpl->a, tpl->n));
	while (rc == KT_OK && got && *n < max) {
		rc = P11(t, err, C_FindObjects, t->session, out + *n, max - *n, &got);
		*n += rc == KT_OK ? got : 0;
	}
	CK_RV rv = P11_RV(t->f, C_FindObjectsFinal, t->session);
	return rc != KT_OK || rv == CKR_OK ? rc : kt_p11_fail(t->name, "C_FindObjectsFinal", rv, err);
}

/* The public halves of a pair: RSA public keys with its id. */
static kt_code find_public(const kt_token *t, const kt_token_transport *key, CK_OBJECT_HANDLE *out, CK_ULONG max,
			   CK_ULONG *n, kt_err *err)
{
	kt_p11_template tpl = {.n = 0};
	*n = 0;
	if (!key->id_len)
		return KT_OK;
	kt_p11_template_add(&tpl, CKA_CLASS, &public_class, sizeof public_class);
	kt_p11_template_add(&tpl, CKA_KEY_TYPE, &rsa, sizeof rsa);
	kt_p11_template_add(&tpl, CKA_ID, key->id, key->id_len);
	return find(t, &tpl, out, max, n, err);
}

static EVP_PKEY *build(const numbers *from)
{
	EVP_PKEY *key = NULL;
	BIGNUM *n = BN_bin2bn(from->n, (int)from->n_len, NULL);
	BIGNUM *e = BN_bin2bn(from->e, (int)from->e_len, NULL);
	OSSL_PARAM_BLD *b = OSSL_PARAM_BLD_new();
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
	OSSL_PARAM *params = NULL;
	if (n && e && b && ctx && OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_N, n) == 1 &&
	    OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_E, e) == 1)
		params = OSSL_PARAM_BLD_to_param(b);
	if (params && EVP_PKEY_fromdata_init(ctx) == 1)
		(void)EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, params);
	OSSL_PARAM_free(params);
	OSSL_PARAM_BLD_free(b);
	EVP_PKEY_CTX_free(ctx);
	BN_free(n);
	BN_free(e);
	return key;
}

static kt_code encode(const kt_token *t, const numbers *from, kt_token_transport *out, kt_err *err)
{
	unsigned char *der = NULL;
	EVP_PKEY *key = build(from);
	int n = key ? i2d_PUBKEY(key, &der) : 0;
	out->bits = key ? (unsigned)EVP_PKEY_get_bits(key) : 0;
	EVP_PKEY_free(key);
	kt_code rc = KT_OK;
	if (n <= 0 || n > KT_TRANSPORT_SPKI_MAX)
		rc = kt_fail(err, KT_E_HSM, "use another token", "%s: what it gives for a public key is none", t->name);
	else if (out->bits < KT_TRANSPORT_KEY_MIN_BITS || out->bits > KT_TRANSPORT_KEY_MAX_BITS)
		rc = kt_fail(err, KT_E_REFUSED, "name another key, or let keyturn make one",
			     "%s: the RSA key has %u bits; %d to %d are taken", t->name, out->bits,
			     (int)KT_TRANSPORT_KEY_MIN_BITS, (int)KT_TRANSPORT_KEY_MAX_BITS);
	if (rc == KT_OK) {
		memcpy(out->spki, der, (size_t)n);
		out->spki_len = (size_t)n;
		rc = kt_sha256_hex(der, (size_t)n, out->spki_sha256, err);
	}
	OPENSSL_free(der);
	return rc;
}

/* Out of the private half; a token that does not tell the exponent there tells it of the public one. */
static kt_code read_public(const kt_token *t, const kt_p11_pair *kind, kt_token_transport *key, kt_err *err)
{
	numbers got;
	CK_OBJECT_HANDLE public = 0;
	CK_ULONG n = 0;
	if (read_numbers(t, key->handle, &got))
		return encode(t, &got, key, err);
	KT_TRY(find_public(t, key, &public, 1, &n, err));
	if (n == 1 && read_numbers(t, public, &got))
		return encode(t, &got, key, err);
	return kt_fail(err, KT_E_HSM, "use another token, or keep the key in a file",
		       "%s: it does not tell the public half of the %s", t->name, kind->what);
}

/* --- What a pair must be ------------------------------------------------------------------------------------------ */

enum { OPENS = 2, FLAGS = 9 };

static const struct must {
	CK_ATTRIBUTE_TYPE type;
	const char *name;
	CK_BBOOL is;
	bool may_lack; /* a token that does not know it at all cannot do it either */
} musts[FLAGS] = {
	{CKA_DECRYPT, "CKA_DECRYPT", CK_FALSE, true},          /* the first OPENS: check_opening */
	{CKA_UNWRAP, "CKA_UNWRAP", CK_TRUE, true},             /* */
	{CKA_TOKEN, "CKA_TOKEN", CK_TRUE, false},              /* or as the kind of pair says */
	{CKA_PRIVATE, "CKA_PRIVATE", CK_TRUE, false},          /* */
	{CKA_SENSITIVE, "CKA_SENSITIVE", CK_TRUE, false},      /* */
	{CKA_EXTRACTABLE, "CKA_EXTRACTABLE", CK_FALSE, false}, /* */
	{CKA_SIGN, "CKA_SIGN", CK_FALSE, true},
	{CKA_SIGN_RECOVER, "CKA_SIGN_RECOVER", CK_FALSE, true},
	{CKA_DERIVE, "CKA_DERIVE", CK_FALSE, true},
};

/* One attribute at a time: what a token answers about many of which it does not know one differs. */
static kt_code read_flag(const kt_token *t, const kt_p11_pair *kind, CK_OBJECT_HANDLE key, const struct must *m,
			 CK_BBOOL *out, kt_err *err)
{
	CK_BBOOL value = CK_FALSE;
	CK_ATTRIBUTE a = {m->type, &value, sizeof value};
	CK_RV rv = P11_RV(t->f, C_GetAttributeValue, t->session, key, &a, 1);
	bool lacks = rv == CKR_ATTRIBUTE_TYPE_INVALID || (rv == CKR_OK && a.ulValueLen != sizeof value);
	*out = lacks ? CK_FALSE : value;
	if (lacks && !m->may_lack)
		return kt_fail(err, KT_E_REFUSED, "use another token", "%s: it does not tell %s of the %s", t->name,
			       m->name, kind->what);
	return lacks || rv == CKR_OK ? KT_OK : kt_p11_fail(t->name, "C_GetAttributeValue", rv, err);
}

static const char wrong_pair[] =
	"name another key, or let keyturn make one; a token that ignores attributes is not fit";

/* A pair that only unwraps opens into the token alone: with DECRYPT as well it would show what it opens. */
static kt_code check_opening(const kt_token *t, const kt_p11_pair *kind, const kt_token_transport *key, kt_err *err)
{
	if (kind->unwrap_only && (key->decrypt || !key->unwrap))
		return kt_fail(err, KT_E_REFUSED, wrong_pair, "%s: the %s must have CKA_UNWRAP, and not CKA_DECRYPT",
			       t->name, kind->what);
	if (!key->decrypt && !key->unwrap)
		return kt_fail(err, KT_E_REFUSED, wrong_pair, "%s: the %s has neither CKA_DECRYPT nor CKA_UNWRAP",
			       t->name, kind->what);
	return KT_OK;
}

static kt_code check_policy(const kt_token *t, const kt_p11_pair *kind, kt_token_transport *key, kt_err *err)
{
	CK_BBOOL is[FLAGS];
	for (size_t i = 0; i < FLAGS; i++)
		KT_TRY(read_flag(t, kind, key->handle, &musts[i], &is[i], err));
	key->decrypt = is[0];
	key->unwrap = is[1];
	KT_TRY(check_opening(t, kind, key, err));
	for (size_t i = OPENS; i < FLAGS; i++) {
		bool must = musts[i].type == CKA_TOKEN ? kind->on_token : musts[i].is != CK_FALSE;
		if ((is[i] != CK_FALSE) != must)
			return kt_fail(err, KT_E_REFUSED, wrong_pair, "%s: the %s has %s %u where it must be %u",
				       t->name, kind->what, musts[i].name, is[i], must);
	}
	return KT_OK;
}

static kt_code read_pair(const kt_token *t, const kt_p11_pair *kind, CK_OBJECT_HANDLE handle, kt_token_transport *out,
			 kt_err *err)
{
	*out = (kt_token_transport){.handle = handle};
	CK_ATTRIBUTE id = {CKA_ID, out->id, sizeof out->id};
	KT_TRY(P11(t, err, C_GetAttributeValue, t->session, handle, &id, 1));
	out->id_len = id.ulValueLen <= sizeof out->id ? id.ulValueLen : 0;
	KT_TRY(check_policy(t, kind, out, err));
	return read_public(t, kind, out, err);
}

kt_code kt_p11_pair_list(kt_token *t, const kt_p11_pair *kind, const kt_token_key_name *name, kt_token_transport *out,
			 size_t *n, kt_err *err)
{
	CK_OBJECT_HANDLE found[KT_TRANSPORT_KEYS_MAX + 1] = {0};
	CK_ULONG got = 0;
	kt_p11_template tpl = {.n = 0};
	*n = 0;
	KT_TRY(check_name(name, err));
	kt_p11_template_add(&tpl, CKA_CLASS, &private_class, sizeof private_class);
	kt_p11_template_add(&tpl, CKA_KEY_TYPE, &rsa, sizeof rsa);
	add_name(&tpl, name);
	KT_TRY(find(t, &tpl, found, KT_TRANSPORT_KEYS_MAX + 1, &got, err));
	/* A token whose store vanished finds nothing and reports success; nothing may be concluded from that. */
	if (got == 0)
		return kt_token_check(t, err);
	if (got > KT_TRANSPORT_KEYS_MAX)
		return kt_fail(err, KT_E_REFUSED, "remove the keys that nothing needs",
			       "%s: it has more than %d RSA keys of this name", t->name, (int)KT_TRANSPORT_KEYS_MAX);
	for (; *n < got; ++*n)
		KT_TRY(read_pair(t, kind, found[*n], &out[*n], err));
	return KT_OK;
}

kt_code kt_token_transport_list(kt_token *t, const kt_token_key_name *name, kt_token_transport *out, size_t *n,
				kt_err *err)
{
	return kt_p11_pair_list(t, &kt_p11_transport_pair, name, out, n, err);
}

/* --- Making and destroying ---------------------------------------------------------------------------------------- */

/* Templates from the most to the least that tokens take. `plain`: what most tokens take for granted is not spoken of.
 * The usages of the public half are left to the token: nobody uses it there, and tpm2-pkcs11 refuses some. */
static const struct usage {
	bool decrypt, unwrap, plain;
} usages[] = {{true, true, false}, {true, false, false}, {false, true, false}, {true, false, true}};

static CK_RV generate(const kt_token *t, const kt_p11_pair *kind, const kt_token_key_name *name, CK_ULONG bits,
		      const struct usage *use, CK_OBJECT_HANDLE *public, CK_OBJECT_HANDLE *private)
{
	static const CK_BYTE exponent[] = {1, 0, 1};
	CK_MECHANISM m = {CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0};
	kt_p11_template pub = {.n = 0}, priv = {.n = 0};
	add_flag(&pub, CKA_TOKEN, kind->on_token);
	kt_p11_template_add(&pub, CKA_MODULUS_BITS, &bits, sizeof bits);
	kt_p11_template_add(&pub, CKA_PUBLIC_EXPONENT, exponent, sizeof exponent);
	add_name(&pub, name);
	add_flag(&priv, CKA_TOKEN, kind->on_token);
	add_flag(&priv, CKA_PRIVATE, true);
	add_flag(&priv, CKA_SENSITIVE, true);
	add_flag(&priv, CKA_EXTRACTABLE, false);
	add_flag(&priv, CKA_DECRYPT, use->decrypt);
	add_flag(&priv, CKA_SIGN, false);
	if (!use->plain) {
		add_flag(&priv, CKA_UNWRAP, use->unwrap);
		add_flag(&priv, CKA_SIGN_RECOVER, false);
		add_flag(&priv, CKA_DERIVE, false);
	}
	add_name(&priv, name);
	*public = *private = 0;
	return P11_RV(t->f, C_GenerateKeyPair, t->session, &m, pub.a, pub.n, priv.a, priv.n, public, private);
}

/* The longest key up to `bits` that the token makes, by the first template that it takes. */
static kt_code generate_any(const kt_token *t, const kt_p11_pair *kind, const kt_token_key_name *name, unsigned bits,
			    CK_OBJECT_HANDLE pair[2], kt_err *err)
{
	CK_RV rv = CKR_OK;
	for (unsigned b = bits; b >= KT_TRANSPORT_KEY_MIN_BITS; b = b > 3072 ? 3072 : b > 2048 ? 2048 : 0)
		for (size_t i = 0; i < sizeof usages / sizeof usages[0]; i++) {
			if (kind->unwrap_only && usages[i].decrypt)
				continue;
			CK_RV got = generate(t, kind, name, b, &usages[i], &pair[0], &pair[1]);
			if (got == CKR_OK)
				return KT_OK;
			rv = rv == CKR_OK ? got : rv;
		}
	return kt_p11_fail(t->name, "C_GenerateKeyPair", rv, err);
}

kt_code kt_p11_pair_make(kt_token *t, const kt_p11_pair *kind, const kt_token_key_name *name, unsigned bits,
			 kt_token_transport *out, kt_err *err)
{
	CK_OBJECT_HANDLE pair[2];
	uint8_t id[ID_LEN];
	kt_token_key_name full = *name;
	*out = (kt_token_transport){0};
	KT_TRY(check_name(name, err));
	if (!name->label || bits < KT_TRANSPORT_KEY_MIN_BITS || bits > KT_TRANSPORT_KEY_MAX_BITS || bits % 256)
		return kt_fail(err, KT_E_INPUT, NULL, "a new %s needs a label, and %d to %d bits", kind->what,
			       (int)KT_TRANSPORT_KEY_MIN_BITS, (int)KT_TRANSPORT_KEY_MAX_BITS);
	if (!name->id_len) {
		if (RAND_bytes(id, sizeof id) != 1)
			return kt_fail(err, KT_E_INTERNAL, NULL, "the random generator failed");
		full.id = id;
		full.id_len = sizeof id;
	}
	KT_TRY(generate_any(t, kind, &full, bits, pair, err));
	kt_code rc = read_pair(t, kind, pair[1], out, err);
	if (rc == KT_OK)
		return KT_OK;
	kt_p11_discard(t, pair[1]);
	kt_p11_discard(t, pair[0]);
	*out = (kt_token_transport){0};
	return kt_err_prefix(err, rc, "the new %s was destroyed", kind->what);
}

kt_code kt_token_transport_make(kt_token *t, const kt_token_key_name *name, unsigned bits, kt_token_transport *out,
				kt_err *err)
{
	return kt_p11_pair_make(t, &kt_p11_transport_pair, name, bits, out, err);
}

kt_code kt_token_transport_destroy(kt_token *t, const kt_token_transport *key, kt_err *err)
{
	CK_OBJECT_HANDLE public[4];
	CK_ULONG n = 0;
	KT_TRY(P11(t, err, C_DestroyObject, t->session, key->handle));
	KT_TRY(find_public(t, key, public, 4, &n, err));
	for (CK_ULONG i = 0; i < n; i++)
		KT_TRY(P11(t, err, C_DestroyObject, t->session, public[i]));
	return KT_OK;
}

/* --- Opening ------------------------------------------------------------------------------------------------------ */

typedef struct oaep {
	CK_RSA_PKCS_OAEP_PARAMS params;
	CK_MECHANISM mechanism;
	CK_BYTE wrapped[MODULUS_MAX];
	CK_ULONG n;
} oaep;

static void oaep_init(oaep *o, bool sha256, const uint8_t *wrapped, size_t n)
{
	*o = (oaep){.params = {.hashAlg = sha256 ? CKM_SHA256 : CKM_SHA_1,
			       .mgf = sha256 ? CKG_MGF1_SHA256 : CKG_MGF1_SHA1,
			       .source = CKZ_DATA_SPECIFIED},
		    .n = n};
	o->mechanism = (CK_MECHANISM){CKM_RSA_PKCS_OAEP, &o->params, sizeof o->params};
	memcpy(o->wrapped, wrapped, n);
}

/* The session, the login or the token is gone, rather than the blob damaged. */
static bool is_gone(CK_RV rv)
{
	return rv == CKR_DEVICE_REMOVED || rv == CKR_DEVICE_ERROR || rv == CKR_TOKEN_NOT_PRESENT ||
	       rv == CKR_SESSION_HANDLE_INVALID || rv == CKR_SESSION_CLOSED || rv == CKR_USER_NOT_LOGGED_IN ||
	       rv == CKR_HOST_MEMORY || rv == CKR_CRYPTOKI_NOT_INITIALIZED || rv == CKR_SLOT_ID_INVALID ||
	       rv == CKR_OPERATION_ACTIVE; /* tpm2-pkcs11, once the TPM has failed */
}

/* One message for every way in which opening fails: the difference would help who sends forged blobs. */
static kt_code does_not_open(const kt_token *t, const char *call, CK_RV rv, kt_err *err)
{
	if (is_gone(rv))
		return kt_p11_fail(t->name, call, rv, err);
	return kt_fail(err, KT_E_KEY, "have it wrapped again for this node",
		       "%s: the wrapped key does not open with this transport key: it was damaged", t->name);
}

static kt_code no_such_hash(const kt_token *t, const char *call, CK_RV rv, bool sha256, kt_err *err)
{
	if (is_gone(rv))
		return kt_p11_fail(t->name, call, rv, err);
	return kt_fail(err, KT_E_HSM, "let it be wrapped with the hash that was found at enrolment",
		       "%s: it does not open RSA-OAEP with %s (%s gave %s)", t->name, sha256 ? "SHA-256" : "SHA-1",
		       call, kt_p11_rv_name(rv));
}

static kt_code open_by_decrypt(kt_token *t, const kt_token_transport *key, oaep *o, kt_secret *out, kt_err *err)
{
	CK_RV rv = P11_RV(t->f, C_DecryptInit, t->session, &o->mechanism, key->handle);
	if (rv != CKR_OK)
		return no_such_hash(t, "C_DecryptInit", rv, o->params.hashAlg == CKM_SHA256, err);
	KT_TRY(kt_secret_new(out, MODULUS_MAX, err));
	CK_ULONG n = out->len;
	rv = P11_RV(t->f, C_Decrypt, t->session, o->wrapped, o->n, out->data, &n);
	if (rv == CKR_OK && n > 0 && n < out->len) {
		out->len = n;
		out->data[n] = '\0';
		return KT_OK;
	}
	kt_secret_free(out);
	if (rv == CKR_MECHANISM_PARAM_INVALID || rv == CKR_MECHANISM_INVALID)
		return no_such_hash(t, "C_Decrypt", rv, o->params.hashAlg == CKM_SHA256, err);
	return does_not_open(t, "C_Decrypt", rv, err);
}

/* A key whose value may be read, for this session. */
static CK_RV unwrap_readable(kt_token *t, const kt_token_transport *key, oaep *o, CK_OBJECT_HANDLE *out)
{
	kt_p11_template tpl;
	kt_p11_template_key(&tpl, &kt_p11_readable);
	CK_RV rv =
		P11_RV(t->f, C_UnwrapKey, t->session, &o->mechanism, key->handle, o->wrapped, o->n, tpl.a, tpl.n, out);
	if (rv == CKR_TEMPLATE_INCOMPLETE || rv == CKR_TEMPLATE_INCONSISTENT) {
		kt_p11_template_add(&tpl, CKA_VALUE_LEN, &tpl.value_len, sizeof tpl.value_len);
	} else if (rv ==
		   CKR_ATTRIBUTE_READ_ONLY) { /* openCryptoki: what is unwrapped is readable, and takes no word on it */
		kt_p11_template bare = {.n = 0};
		kt_p11_template_add(&bare, CKA_CLASS, &tpl.class, sizeof tpl.class);
		kt_p11_template_add(&bare, CKA_KEY_TYPE, &tpl.type, sizeof tpl.type);
		return P11_RV(t->f, C_UnwrapKey, t->session, &o->mechanism, key->handle, o->wrapped, o->n, bare.a,
			      bare.n, out);
	} else {
		return rv;
	}
	return P11_RV(t->f, C_UnwrapKey, t->session, &o->mechanism, key->handle, o->wrapped, o->n, tpl.a, tpl.n, out);
}

static kt_code open_by_unwrap(kt_token *t, const kt_token_transport *key, oaep *o, kt_secret *out, kt_err *err)
{
	CK_OBJECT_HANDLE h = 0;
	CK_RV rv = unwrap_readable(t, key, o, &h);
	if (rv == CKR_MECHANISM_PARAM_INVALID || rv == CKR_MECHANISM_INVALID || rv == CKR_ARGUMENTS_BAD)
		return no_such_hash(t, "C_UnwrapKey", rv, o->params.hashAlg == CKM_SHA256, err);
	if (rv != CKR_OK)
		return does_not_open(t, "C_UnwrapKey", rv, err);
	kt_code rc = kt_p11_read_value(t, h, out, err);
	kt_p11_discard(t, h);
	return rc;
}

kt_code kt_token_transport_open(kt_token *t, const kt_token_transport *key, bool sha256, const uint8_t *wrapped,
				size_t n, kt_secret *out, kt_err *err)
{
	oaep o;
	*out = KT_SECRET_INIT;
	if (n != key->bits / 8)
		return kt_fail(err, KT_E_KEY, "have it wrapped again for this node",
			       "%s: the wrapped key has %zu bytes, the transport key gives %u", t->name, n,
			       key->bits / 8);
	oaep_init(&o, sha256, wrapped, n);
	return key->decrypt ? open_by_decrypt(t, key, &o, out, err) : open_by_unwrap(t, key, &o, out, err);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <string.h>

#include "base/codec.h"
#include "pkcs11/internal.h"
#include "pkcs11/wrap.h"

enum { SPKI_MAX = 16 * 1024, EXPONENT_MAX = 32 };

/* The DER within a PEM; *out is the caller's: OPENSSL_free. False when it is no "PUBLIC KEY" in the clear. */
static bool open_pem(const void *bytes, size_t n, unsigned char **out, long *out_len)
{
	char *name = NULL, *header = NULL;
	BIO *bio = BIO_new_mem_buf(bytes, (int)n);
	*out = NULL;
	bool done = bio && PEM_read_bio(bio, &name, &header, out, out_len) == 1 && strcmp(name, "PUBLIC KEY") == 0 &&
		    header[0] == '\0';
	OPENSSL_free(name);
	OPENSSL_free(header);
	BIO_free(bio);
	return done;
}

static EVP_PKEY *parse_der(const unsigned char *bytes, long n)
{
	const unsigned char *at = bytes;
	EVP_PKEY *key = d2i_PUBKEY(NULL, &at, n);
	if (key && at == bytes + n)
		return key;
	EVP_PKEY_free(key);
	return NULL;
}

/* The key, and the digest of its DER as it was given: encoding it again costs as much as wrapping to it. */
static kt_code parse(const void *spki, size_t n, EVP_PKEY **out, char digest[KT_SHA256_HEX], kt_err *err)
{
	static const char begin[] = "-----BEGIN ";
	unsigned char *opened = NULL;
	const unsigned char *der = spki;
	long len = (long)n;
	*out = NULL;
	if (n > sizeof begin && n <= SPKI_MAX && memcmp(spki, begin, sizeof begin - 1) == 0)
		der = open_pem(spki, n, &opened, &len) ? opened : NULL;
	if (der && n && n <= SPKI_MAX)
		*out = parse_der(der, len);
	kt_code rc = *out ? kt_sha256_hex(der, (size_t)len, digest, err)
			  : kt_fail(err, KT_E_INPUT, "take the node's public key again from the node",
				    "this is no public key (SubjectPublicKeyInfo in PEM or DER)");
	OPENSSL_free(opened);
	return rc;
}

/* What a node's key must be: SP 800-56B r2 §6.2 (length, exponent). */
static kt_code check(const EVP_PKEY *key, const BIGNUM *e, kt_err *err)
{
	static const char remedy[] = "let the node make a new transport key";
	int bits = EVP_PKEY_get_bits(key);
	if (bits < KT_NODE_KEY_MIN_BITS || bits > KT_NODE_KEY_MAX_BITS || bits % 64)
		return kt_fail(err, KT_E_REFUSED, remedy, "the node's RSA key has %d bits; %d to %d are taken", bits,
			       KT_NODE_KEY_MIN_BITS, KT_NODE_KEY_MAX_BITS);
	if (BN_num_bits(e) < 17 || BN_num_bytes(e) > EXPONENT_MAX || !BN_is_odd(e))
		return kt_fail(err, KT_E_REFUSED, remedy, "the node's RSA key has an unfit public exponent");
	return KT_OK;
}

static kt_code create(kt_token *t, const BIGNUM *n, const BIGNUM *e, CK_OBJECT_HANDLE *out, kt_err *err)
{
	static const CK_OBJECT_CLASS class = CKO_PUBLIC_KEY;
	static const CK_KEY_TYPE type = CKK_RSA;
	static const CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
	unsigned char modulus[KT_NODE_KEY_MAX_BITS / 8], exponent[EXPONENT_MAX];
	int n_len = BN_bn2bin(n, modulus);
	int e_len = BN_bn2bin(e, exponent);
	kt_p11_template tpl = {.n = 0};
	kt_p11_template_add(&tpl, CKA_CLASS, &class, sizeof class);
	kt_p11_template_add(&tpl, CKA_KEY_TYPE, &type, sizeof type);
	kt_p11_template_add(&tpl, CKA_TOKEN, &no, sizeof no);
	kt_p11_template_add(&tpl, CKA_PRIVATE, &no, sizeof no);
	kt_p11_template_add(&tpl, CKA_WRAP, &yes, sizeof yes);
	kt_p11_template_add(&tpl, CKA_ENCRYPT, &no, sizeof no);
	kt_p11_template_add(&tpl, CKA_VERIFY, &no, sizeof no);
	kt_p11_template_add(&tpl, CKA_MODULUS, modulus, (size_t)n_len);
	kt_p11_template_add(&tpl, CKA_PUBLIC_EXPONENT, exponent, (size_t)e_len);
	return P11(t, err, C_CreateObject, t->session, tpl.a, tpl.n, out);
}

static kt_code import(kt_token *t, EVP_PKEY *key, kt_token_node_key *out, kt_err *err)
{
	BIGNUM *n = NULL, *e = NULL;
	kt_code rc = KT_OK;
	CK_OBJECT_HANDLE h = 0;
	if (!EVP_PKEY_is_a(key, "RSA"))
		return kt_fail(err, KT_E_REFUSED, "let the node make an RSA transport key",
			       "the node's key is not RSA");
	if (EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_N, &n) != 1 ||
	    EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_E, &e) != 1) {
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "libcrypto does not give the parts of an RSA key");
		goto out;
	}
	KT_TRY_GOTO(check(key, e, err), out);
	KT_TRY_GOTO(create(t, n, e, &h, err), out);
	out->handle = h;
	out->bits = (unsigned)EVP_PKEY_get_bits(key);
out:
	BN_free(n);
	BN_free(e);
	return rc;
}

kt_code kt_token_import_node_key(kt_token *t, const void *spki, size_t n, kt_token_node_key *out, kt_err *err)
{
	EVP_PKEY *key;
	*out = (kt_token_node_key){0};
	kt_code rc = parse(spki, n, &key, out->spki_sha256, err);
	if (rc == KT_OK)
		rc = import(t, key, out, err);
	EVP_PKEY_free(key);
	return rc;
}

void kt_token_drop_node_key(kt_token *t, kt_token_node_key *node)
{
	kt_p11_discard(t, node->handle);
	*node = (kt_token_node_key){0};
}

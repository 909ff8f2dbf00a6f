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

/* An RSA public key. */
typedef struct numbers {
	BIGNUM *n, *e;
} numbers;

static void numbers_free(numbers *k)
{
	BN_free(k->n);
	BN_free(k->e);
	*k = (numbers){0};
}

/* --- its DER ------------------------------------------------------------------------------------------------------ */

/* Enter the value at *at, of this type; *inner is its end. */
static bool enter(const unsigned char **at, const unsigned char *end, int tag, const unsigned char **inner)
{
	const unsigned char *p = *at;
	long n;
	int is, class;
	if (p >= end || (ASN1_get_object(&p, &n, &is, &class, end - p) & ~V_ASN1_CONSTRUCTED) != 0)
		return false; /* broken, or of no definite length */
	if (is != tag || class != V_ASN1_UNIVERSAL || n > end - p)
		return false;
	*at = p;
	*inner = p + n;
	return true;
}

static BIGNUM *read_integer(const unsigned char **at, const unsigned char *end)
{
	const unsigned char *inner;
	if (!enter(at, end, V_ASN1_INTEGER, &inner) || inner == *at || **at & 0x80)
		return NULL;
	BIGNUM *n = BN_bin2bn(*at, (int)(inner - *at), NULL);
	*at = inner;
	return n;
}

/* RFC 8017 §A.1.1 within RFC 5280 §4.1.2.7, as everybody writes it. Read here, because libcrypto's decoder takes longer
 * than it takes to wrap to the key. False: it is something else, see decode. */
static bool read_rsa(const unsigned char *at, long len, numbers *out)
{
	static const unsigned char rsa[] = {0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86,
					    0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00};
	const unsigned char *end = at + len, *inner;
	if (!enter(&at, end, V_ASN1_SEQUENCE, &inner) || inner != end || end - at <= (long)sizeof rsa ||
	    memcmp(at, rsa, sizeof rsa) != 0)
		return false;
	at += sizeof rsa;
	if (!enter(&at, end, V_ASN1_BIT_STRING, &inner) || inner != end || at == end || *at++ != 0)
		return false;
	if (!enter(&at, end, V_ASN1_SEQUENCE, &inner) || inner != end)
		return false;
	out->n = read_integer(&at, end);
	out->e = read_integer(&at, end);
	if (out->n && out->e && at == end)
		return true;
	numbers_free(out);
	return false;
}

/* Whatever libcrypto can read. */
static kt_code decode(const unsigned char *der, long len, numbers *out, kt_err *err)
{
	const unsigned char *at = der;
	EVP_PKEY *key = d2i_PUBKEY(NULL, &at, len);
	kt_code rc = KT_OK;
	if (!key || at != der + len)
		rc = kt_fail(err, KT_E_INPUT, "take the node's public key again from the node",
			     "this is no public key (SubjectPublicKeyInfo in PEM or DER)");
	else if (!EVP_PKEY_is_a(key, "RSA"))
		rc = kt_fail(err, KT_E_REFUSED, "let the node make an RSA transport key", "the node's key is not RSA");
	else if (EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_N, &out->n) != 1 ||
		 EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_E, &out->e) != 1)
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "libcrypto does not give the parts of an RSA key");
	EVP_PKEY_free(key);
	return rc;
}

/* The key, and the digest of its DER as it was given: encoding it again costs as much as wrapping to it. */
static kt_code parse(const void *spki, size_t n, numbers *out, char digest[KT_SHA256_HEX], kt_err *err)
{
	static const char begin[] = "-----BEGIN ";
	unsigned char *opened = NULL;
	const unsigned char *der = spki;
	long len = (long)n;
	if (n > sizeof begin && n <= SPKI_MAX && memcmp(spki, begin, sizeof begin - 1) == 0 &&
	    open_pem(spki, n, &opened, &len))
		der = opened;
	if (len > SPKI_MAX)
		len = 0;
	kt_code rc = read_rsa(der, len, out) ? KT_OK : decode(der, len, out, err);
	if (rc == KT_OK)
		rc = kt_sha256_hex(der, (size_t)len, digest, err);
	OPENSSL_free(opened);
	return rc;
}

/* --- into the token ----------------------------------------------------------------------------------------------- */

/* What a node's key must be: SP 800-56B r2 §6.2 (length, exponent). */
static kt_code check(const numbers *k, kt_err *err)
{
	static const char remedy[] = "let the node make a new transport key";
	int bits = BN_num_bits(k->n);
	if (bits < KT_NODE_KEY_MIN_BITS || bits > KT_NODE_KEY_MAX_BITS || bits % 64)
		return kt_fail(err, KT_E_REFUSED, remedy, "the node's RSA key has %d bits; %d to %d are taken", bits,
			       KT_NODE_KEY_MIN_BITS, KT_NODE_KEY_MAX_BITS);
	if (BN_num_bits(k->e) < 17 || BN_num_bytes(k->e) > EXPONENT_MAX || !BN_is_odd(k->e))
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

kt_code kt_token_import_node_key(kt_token *t, const void *spki, size_t n, kt_token_node_key *out, kt_err *err)
{
	numbers key = {0};
	CK_OBJECT_HANDLE h = 0;
	*out = (kt_token_node_key){0};
	kt_code rc = parse(spki, n, &key, out->spki_sha256, err);
	if (rc == KT_OK)
		rc = check(&key, err);
	if (rc == KT_OK)
		rc = create(t, key.n, key.e, &h, err);
	if (rc == KT_OK) {
		out->handle = h;
		out->bits = (unsigned)BN_num_bits(key.n);
	}
	numbers_free(&key);
	return rc;
}

void kt_token_drop_node_key(kt_token *t, kt_token_node_key *node)
{
	kt_p11_discard(t, node->handle);
	*node = (kt_token_node_key){0};
}

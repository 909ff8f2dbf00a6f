/* SPDX-License-Identifier: Apache-2.0 */
/* RSA keys for tests: a public one imported, and a private one made a session object, as a recovery token has it. */
#ifndef KT_TESTS_UNIT_PKCS11_RSA_H
#define KT_TESTS_UNIT_PKCS11_RSA_H

#include "tests/unit/support.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/x509.h>

#include "pkcs11/internal.h"
#include "pkcs11/wrap.h"

static inline kt_token_node_key rsa_import_public(kt_token *into, EVP_PKEY *key)
{
	kt_err err = KT_ERR_INIT;
	kt_token_node_key node;
	unsigned char *der = NULL;
	int n = i2d_PUBKEY(key, &der);
	assert_true(n > 0);
	assert_kt_ok(kt_token_import_node_key(into, der, (size_t)n, &node, &err));
	OPENSSL_free(der);
	return node;
}

/* The private half, which may unwrap. */
static inline CK_OBJECT_HANDLE rsa_import_private(kt_token *into, EVP_PKEY *key)
{
	static const struct {
		CK_ATTRIBUTE_TYPE type;
		const char *name;
	} parts[] = {{CKA_MODULUS, OSSL_PKEY_PARAM_RSA_N},
		     {CKA_PUBLIC_EXPONENT, OSSL_PKEY_PARAM_RSA_E},
		     {CKA_PRIVATE_EXPONENT, OSSL_PKEY_PARAM_RSA_D},
		     {CKA_PRIME_1, OSSL_PKEY_PARAM_RSA_FACTOR1},
		     {CKA_PRIME_2, OSSL_PKEY_PARAM_RSA_FACTOR2},
		     {CKA_EXPONENT_1, OSSL_PKEY_PARAM_RSA_EXPONENT1},
		     {CKA_EXPONENT_2, OSSL_PKEY_PARAM_RSA_EXPONENT2},
		     {CKA_COEFFICIENT, OSSL_PKEY_PARAM_RSA_COEFFICIENT1}};
	enum { PARTS = sizeof parts / sizeof parts[0] };
	static const CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
	static const CK_KEY_TYPE type = CKK_RSA;
	static const CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
	unsigned char value[PARTS][1024];
	kt_err err = KT_ERR_INIT;
	kt_p11_template tpl = {.n = 0};
	CK_OBJECT_HANDLE h = 0;
	kt_p11_template_add(&tpl, CKA_CLASS, &class, sizeof class);
	kt_p11_template_add(&tpl, CKA_KEY_TYPE, &type, sizeof type);
	kt_p11_template_add(&tpl, CKA_TOKEN, &no, sizeof no);
	kt_p11_template_add(&tpl, CKA_PRIVATE, &yes, sizeof yes);
	kt_p11_template_add(&tpl, CKA_SENSITIVE, &yes, sizeof yes);
	kt_p11_template_add(&tpl, CKA_UNWRAP, &yes, sizeof yes);
	for (int i = 0; i < PARTS; i++) {
		BIGNUM *n = NULL;
		assert_int_equal(EVP_PKEY_get_bn_param(key, parts[i].name, &n), 1);
		kt_p11_template_add(&tpl, parts[i].type, value[i], (size_t)BN_bn2bin(n, value[i]));
		BN_clear_free(n);
	}
	assert_kt_ok(P11(into, &err, C_CreateObject, into->session, tpl.a, tpl.n, &h));
	return h;
}

#endif

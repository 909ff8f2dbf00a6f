/* SPDX-License-Identifier: Apache-2.0 */
/* A node's RSA key pair in a token: SoftHSM, and the module over it that does what other tokens do. */
#include "tests/unit/support.h"

#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>

#include "pkcs11/internal.h"
#include "pkcs11/transport.h"
#include "tests/unit/pkcs11/opened.h"

/* The one pair of this name is made by the first test and destroyed by the last: making one takes valgrind half a
 * minute. */
static const kt_token_key_name name = {.label = "transport"};

static kt_token_transport the_pair(void)
{
	static kt_token_transport list[KT_TRANSPORT_KEYS_MAX];
	kt_err err = KT_ERR_INIT;
	size_t n;
	assert_kt_ok(kt_token_transport_list(t, &name, list, &n, &err));
	assert_int_equal(n, 1);
	return list[0];
}

/* What libcrypto wraps to the public half that the token tells. */
static size_t wrap(const kt_token_transport *key, const EVP_MD *md, const uint8_t *in, size_t n, uint8_t out[512])
{
	const unsigned char *der = key->spki;
	size_t len = 512;
	EVP_PKEY *pub = d2i_PUBKEY(NULL, &der, (long)key->spki_len);
	EVP_PKEY_CTX *x = EVP_PKEY_CTX_new(pub, NULL);
	assert_int_equal(EVP_PKEY_encrypt_init(x), 1);
	assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(x, RSA_PKCS1_OAEP_PADDING), 1);
	assert_int_equal(EVP_PKEY_CTX_set_rsa_oaep_md(x, md), 1);
	assert_int_equal(EVP_PKEY_CTX_set_rsa_mgf1_md(x, md), 1);
	assert_int_equal(EVP_PKEY_encrypt(x, out, &len, in, n), 1);
	EVP_PKEY_CTX_free(x);
	EVP_PKEY_free(pub);
	return len;
}

static const uint8_t key32[32] = "thirty-two bytes of an AES key!";

static void made_found_opened(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	static kt_token_transport list[KT_TRANSPORT_KEYS_MAX];
	size_t n = 9;
	uint8_t wrapped[512];
	kt_secret out;
	long objects = shim->objects;
	assert_kt_ok(kt_token_transport_list(t, &name, list, &n, &err));
	assert_int_equal(n, 0);
	kt_token_transport key;
	assert_kt_ok(kt_token_transport_make(t, &name, 2048, &key, &err));
	assert_int_equal(key.bits, 2048);
	assert_int_equal(key.id_len, 16);
	assert_kt_ok(kt_token_transport_list(t, &name, list, &n, &err));
	assert_int_equal(n, 1);
	assert_string_equal(list[0].spki_sha256, key.spki_sha256);
	const kt_token_key_name by_id = {.id = key.id, .id_len = key.id_len};
	assert_kt_ok(kt_token_transport_list(t, &by_id, list, &n, &err));
	assert_int_equal(n, 1);
	size_t len = wrap(&key, EVP_sha1(), key32, 32, wrapped);
	/* By C_Decrypt, and, as where a key may not, by C_UnwrapKey. */
	for (int way = 0; way < 2; way++) {
		list[0].decrypt = way == 0;
		assert_true(list[0].unwrap);
		assert_kt_ok(kt_token_transport_open(t, &list[0], false, wrapped, len, &out, &err));
		assert_int_equal(out.len, 32);
		assert_memory_equal(out.data, key32, 32);
		kt_secret_free(&out);
	}
	assert_int_equal(shim->objects, objects + 2); /* what was unwrapped is gone */
}

static void destroyed(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	static kt_token_transport list[KT_TRANSPORT_KEYS_MAX];
	size_t n;
	kt_token_transport key = the_pair();
	long objects = shim->objects;
	assert_kt_ok(kt_token_transport_destroy(t, &key, &err));
	assert_int_equal(shim->objects, objects - 2);
	assert_kt_ok(kt_token_transport_list(t, &name, list, &n, &err));
	assert_int_equal(n, 0);
}

static void what_does_not_open(void **state)
{
	(void)state;
	uint8_t wrapped[512];
	kt_secret out;
	kt_token_transport key = the_pair();
	for (int way = 0; way < 2; way++) {
		key.decrypt = way == 0;
		size_t len = wrap(&key, EVP_sha1(), key32, 32, wrapped);
		for (size_t i = 0; i < len; i += 37) {
			kt_err err = KT_ERR_INIT;
			wrapped[i] ^= 1;
			assert_kt_fails(KT_E_KEY, kt_token_transport_open(t, &key, false, wrapped, len, &out, &err));
			assert_non_null(strstr(err.msg, "it was damaged"));
			assert_int_equal(out.len, 0);
			wrapped[i] ^= 1;
		}
		kt_err err = KT_ERR_INIT;
		assert_kt_fails(KT_E_KEY, kt_token_transport_open(t, &key, false, wrapped, len - 8, &out, &err));
		/* SoftHSM does no OAEP with SHA-256: that is no damage. */
		len = wrap(&key, EVP_sha256(), key32, 32, wrapped);
		assert_kt_fails(KT_E_HSM, kt_token_transport_open(t, &key, true, wrapped, len, &out, &err));
		assert_non_null(strstr(err.msg, "SHA-256"));
	}
}

/* What the token says of a pair is not as it must be: it is not used, and a new one does not stay. */
static void a_pair_that_came_out_otherwise(void **state)
{
	(void)state;
	static const struct {
		CK_ATTRIBUTE_TYPE type;
		const char *says;
	} lies[] = {{CKA_TOKEN, "CKA_TOKEN"},         {CKA_PRIVATE, "CKA_PRIVATE"},
		    {CKA_SENSITIVE, "CKA_SENSITIVE"}, {CKA_EXTRACTABLE, "CKA_EXTRACTABLE"},
		    {CKA_SIGN, "CKA_SIGN"},           {CKA_SIGN_RECOVER, "CKA_SIGN_RECOVER"},
		    {CKA_DERIVE, "CKA_DERIVE"}};
	static kt_token_transport list[KT_TRANSPORT_KEYS_MAX];
	size_t n;
	long objects = shim->objects;
	for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
		kt_err err = KT_ERR_INIT;
		shim->lie_about = lies[i].type;
		assert_kt_fails(KT_E_REFUSED, kt_token_transport_list(t, &name, list, &n, &err));
		assert_non_null(strstr(err.msg, lies[i].says));
	}
	kt_err err = KT_ERR_INIT;
	const kt_token_key_name new = {.label = "new"};
	shim->lie_about = CKA_SIGN;
	assert_kt_fails(KT_E_REFUSED, kt_token_transport_make(t, &new, 2048, &list[0], &err));
	assert_non_null(strstr(err.msg, "was destroyed"));
	assert_int_equal(shim->objects, objects);
}

/* Another program's key of that name, which signs: found, and refused. */
static void a_key_that_signs(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	static kt_token_transport list[KT_TRANSPORT_KEYS_MAX];
	size_t n;
	const char *const argv[] = {
		"pkcs11-tool", "--module",     softhsm_module(), "--token-label", "kt-test", "--login", "--pin",
		SOFTHSM_PIN,   "--keypairgen", "--key-type",     "rsa:2048",      "--label", "signs",   NULL};
	kt_token_close(t);
	assert_int_equal(softhsm_run(argv), 0);
	assert_kt_ok(kt_token_open(softhsm_shim_uri(), &t, &err));
	const kt_token_key_name signs = {.label = "signs"};
	assert_kt_fails(KT_E_REFUSED, kt_token_transport_list(t, &signs, list, &n, &err));
	assert_non_null(strstr(err.msg, "CKA_SIGN"));
}

static void names_and_sizes(void **state)
{
	(void)state;
	kt_token_transport key;
	static kt_token_transport list[KT_TRANSPORT_KEYS_MAX];
	size_t n;
	static const unsigned bits[] = {0, 1024, 2049, 4352};
	for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++) {
		kt_err err = KT_ERR_INIT;
		assert_kt_fails(KT_E_INPUT, kt_token_transport_make(t, &name, bits[i], &key, &err));
	}
	kt_err err = KT_ERR_INIT;
	const kt_token_key_name none = {.label = NULL};
	assert_kt_fails(KT_E_INPUT, kt_token_transport_list(t, &none, list, &n, &err));
	assert_kt_fails(KT_E_INPUT, kt_token_transport_make(t, &none, 2048, &key, &err));
}

/* A store that vanished finds nothing and says that all is well: no key may be made anew for that. */
static void a_token_that_vanished(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	static kt_token_transport list[KT_TRANSPORT_KEYS_MAX];
	size_t n;
	shim->finds_nothing = true;
	shim->token_info_rv = CKR_TOKEN_NOT_PRESENT;
	assert_kt_fails(KT_E_HSM, kt_token_transport_list(t, &name, list, &n, &err));
	assert_non_null(strstr(err.msg, "the token is gone"));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, open_token, close_token)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(made_found_opened), TEST(what_does_not_open), TEST(a_pair_that_came_out_otherwise),
		TEST(a_key_that_signs),  TEST(names_and_sizes),    TEST(a_token_that_vanished),
		TEST(destroyed),
	};
	return cmocka_run_group_tests(tests, softhsm_start, softhsm_stop);
}

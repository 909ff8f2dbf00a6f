/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "pkcs11/internal.h"
#include "pkcs11/mac.h"
#include "pkcs11/wrap.h"
#include "tests/unit/pkcs11/opened.h"
#include "tests/unit/pkcs11/rsa.h"

static EVP_PKEY *pair; /* a node's transport key */

static const kt_blob_address to_escrow = {.purpose = KT_BLOB_ESCROW, .run = "R1"};
static const kt_blob_address to_transport = {.purpose = KT_BLOB_TRANSPORT, .run = "R1", .node = "web01"};
static const kt_blob_address to_custodian = {.purpose = KT_BLOB_CUSTODIAN, .run = "R1", .custodian = "alice"};
static const kt_blob_address to_rehearsal = {.purpose = KT_BLOB_REHEARSAL, .run = "R1", .node = "web01"};

static int start(void **state)
{
	int rc = softhsm_start(state);
	pair = EVP_RSA_gen(2048);
	return pair ? rc : -1;
}

static int stop(void **state)
{
	EVP_PKEY_free(pair);
	return softhsm_stop(state);
}

static kt_token_key wrapping_key(const char *label)
{
	kt_err err = KT_ERR_INIT;
	kt_token_key k;
	const kt_token_key_name name = {.label = label};
	if (kt_token_find_wrapping_key(t, &name, &k, &err) != KT_OK)
		assert_kt_ok(kt_token_create_wrapping_key(t, &name, &k, &err));
	return k;
}

static kt_token_key session_key(void)
{
	kt_err err = KT_ERR_INIT;
	kt_token_key k;
	bool made;
	const kt_token_key_name name = {.label = "cluster", .id = (const uint8_t *)"c", .id_len = 1};
	assert_kt_ok(kt_token_ensure_cluster_key(t, &name, false, &k, &made, &err));
	return k;
}

/* A wrapping key whose value the test knows, so that libcrypto can open what the token made. */
static kt_token_key known_wrapping_key(kt_secret *value)
{
	static const kt_p11_policy policy = {"test key", CK_FALSE, CK_FALSE, CK_TRUE, CK_TRUE, CK_TRUE};
	kt_err err = KT_ERR_INIT;
	kt_p11_template tpl;
	kt_token_key k = {0};
	kt_p11_template_key(&tpl, &policy);
	assert_kt_ok(kt_p11_generate(t, &tpl, &policy, &k.handle, &err));
	assert_kt_ok(kt_p11_read_value(t, k.handle, value, &err));
	assert_kt_ok(kt_p11_kcv(t, k.handle, k.kcv, &err));
	return k;
}

static kt_token_node_key import(EVP_PKEY *key)
{
	return rsa_import_public(t, key);
}

static void same_proof(const kt_token_key *a, const kt_token_key *b)
{
	kt_err err = KT_ERR_INIT;
	uint8_t pa[KT_PROOF_LEN], pb[KT_PROOF_LEN], nonce[16] = {7};
	assert_kt_ok(kt_token_proof(t, a, "x", nonce, sizeof nonce, pa, &err));
	assert_kt_ok(kt_token_proof(t, b, "x", nonce, sizeof nonce, pb, &err));
	assert_memory_equal(pa, pb, sizeof pa);
}

static void finds_what_softhsm_does(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_formats f;
	long before = shim->objects;
	assert_kt_ok(kt_token_probe_formats(t, &f, &err));
	assert_string_equal(f.rfc5649, "CKM_AES_KEY_WRAP_PAD");
	assert_string_equal(f.rfc3394, "CKM_AES_KEY_WRAP");
	assert_string_equal(f.oaep_sha1, "CKM_RSA_PKCS_OAEP");
	assert_int_equal(shim->objects, before); /* no throw-away key stays */
}

/* The escrow is wrapped, recovered in the token, and the same key by proof; the cluster key was never readable. */
static void escrow_round_trip(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_key escrow = wrapping_key("escrow"), key = session_key(), back;
	kt_blob blob, parsed;
	kt_buf text = KT_BUF_INIT;
	assert_kt_ok(kt_token_wrap_under(t, &key, &escrow, &to_escrow, &blob, &err));
	assert_int_equal(blob.format, KT_BLOB_RFC5649);
	assert_string_equal(blob.mechanism, "CKM_AES_KEY_WRAP_PAD");
	assert_string_equal(blob.token.label, "kt-test");
	assert_string_equal(blob.token.model, "SoftHSM v2");
	assert_string_equal(blob.wrapping.label, "escrow");
	assert_string_equal(blob.wrapping.kcv, escrow.kcv);
	assert_string_equal(blob.kcv, key.kcv);
	assert_int_equal(strlen(blob.wrapping.id), 32);
	assert_kt_ok(kt_blob_to_text(&blob, &text, &err));
	assert_kt_ok(kt_blob_from_text("escrow", text.data, text.len, &parsed, &err));
	kt_buf_free(&text);
	assert_kt_ok(kt_token_unwrap_under(t, &parsed, &escrow, &back, &err));
	assert_string_equal(back.kcv, key.kcv);
	same_proof(&key, &back);
	assert_kt_ok(kt_p11_policy_check(t, back.handle, &kt_p11_cluster_session, &err));
	assert_kt_ok(kt_token_destroy_key(t, &back, &err));
	kt_token_key other = wrapping_key("other");
	assert_kt_fails(KT_E_KEY, kt_token_unwrap_under(t, &parsed, &other, &back, &err));
	assert_non_null(strstr(err.msg, escrow.kcv));
	memcpy(parsed.wrapping.kcv, other.kcv, sizeof other.kcv); /* a blob that lies about its wrapping key */
	assert_kt_fails(KT_E_KEY, kt_token_unwrap_under(t, &parsed, &other, &back, &err));
	assert_kt_fails(KT_E_INTERNAL, kt_token_wrap_under(t, &key, &escrow, &to_transport, &blob, &err));
}

/* Both formats, opened by libcrypto, and by the token again. */
static void libcrypto_opens_both_formats(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret value, opened;
	kt_token_key wrapping = known_wrapping_key(&value), key = session_key(), back;
	for (int i = 0; i < 2; i++) {
		kt_blob blob;
		if (i == 1)
			t->by_format[KT_BLOB_RFC5649].name = NULL; /* as a token with RFC 3394 alone */
		assert_kt_ok(kt_token_wrap_under(t, &key, &wrapping, &to_escrow, &blob, &err));
		assert_int_equal(blob.format, i ? KT_BLOB_RFC3394 : KT_BLOB_RFC5649);
		assert_string_equal(blob.mechanism, i ? "CKM_AES_KEY_WRAP" : "CKM_AES_KEY_WRAP_PAD");
		assert_kt_ok(kt_blob_unwrap_aes(&blob, &value, &opened, &err));
		uint8_t a[KT_PROOF_LEN], b[KT_PROOF_LEN], nonce[16] = {1};
		assert_kt_ok(kt_proof_of(&opened, "x", nonce, 16, a, &err));
		assert_kt_ok(kt_token_proof(t, &key, "x", nonce, 16, b, &err));
		assert_memory_equal(a, b, sizeof a);
		kt_secret_free(&opened);
		assert_kt_ok(kt_token_unwrap_under(t, &blob, &wrapping, &back, &err));
		same_proof(&key, &back);
		assert_kt_ok(kt_token_destroy_key(t, &back, &err));
	}
	kt_secret_free(&value);
}

/* What libcrypto wraps, the token opens. */
static void the_token_opens_what_libcrypto_wraps(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret value, key;
	kt_token_key wrapping = known_wrapping_key(&value), back;
	kt_blob blob = {.purpose = KT_BLOB_ESCROW};
	assert_kt_ok(kt_secret_random(&key, 32, &err));
	assert_kt_ok(kt_blob_wrap_aes(&blob, &value, &key, &err));
	assert_kt_ok(kt_token_unwrap_under(t, &blob, &wrapping, &back, &err));
	assert_string_equal(back.kcv, blob.kcv);
	kt_secret_free(&value);
	kt_secret_free(&key);
}

/* Each byte of the wrapped key flipped, and the length cut: refused by the token and by libcrypto, nothing left behind.
 */
static void a_corrupted_escrow_is_refused(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret value, opened;
	kt_token_key wrapping = known_wrapping_key(&value), key = session_key(), back;
	kt_blob good;
	for (int format = 0; format < 2; format++) {
		if (format == 1)
			t->by_format[KT_BLOB_RFC5649].name = NULL;
		assert_kt_ok(kt_token_wrap_under(t, &key, &wrapping, &to_escrow, &good, &err));
		long before = shim->objects;
		for (size_t i = 0; i < good.wrapped_len; i++) {
			kt_blob bad = good;
			bad.wrapped[i] ^= 0x01;
			assert_kt_fails(KT_E_KEY, kt_token_unwrap_under(t, &bad, &wrapping, &back, &err));
			assert_kt_fails(KT_E_KEY, kt_blob_unwrap_aes(&bad, &value, &opened, &err));
			assert_null(opened.data);
		}
		kt_blob bad = good;
		bad.wrapped_len = 32;
		assert_kt_fails(KT_E_INPUT, kt_token_unwrap_under(t, &bad, &wrapping, &back, &err));
		bad = good;
		bad.kcv[0] = bad.kcv[0] == '0' ? '1' : '0';
		assert_kt_fails(KT_E_KEY, kt_token_unwrap_under(t, &bad, &wrapping, &back, &err));
		assert_kt_fails(KT_E_KEY, kt_blob_unwrap_aes(&bad, &value, &opened, &err));
		assert_int_equal(shim->objects, before);
	}
	kt_secret_free(&value);
}

/* One copy in a session, the same key, and gone with it. */
static void the_working_copy(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	const kt_token_key_name name = {.label = "cluster", .id = (const uint8_t *)"w1", .id_len = 2},
				by = {.label = "escrow"},
				other = {.label = "cluster", .id = (const uint8_t *)"w2", .id_len = 2};
	kt_token_key key, second, copy, again;
	bool made;
	wrapping_key("escrow");
	assert_kt_fails(KT_E_KEY, kt_token_working_key(t, &name, &by, &copy, &err));
	assert_kt_ok(kt_token_ensure_cluster_key(t, &name, true, &key, &made, &err));
	assert_kt_ok(kt_token_ensure_cluster_key(t, &other, true, &second, &made, &err));
	assert_kt_fails(KT_E_KEY, kt_token_working_key(t, &name, &(kt_token_key_name){.label = "none"}, &copy, &err));
	assert_kt_ok(kt_token_working_key(t, &name, &by, &copy, &err));
	assert_int_not_equal(copy.handle, key.handle);
	assert_kt_ok(kt_p11_policy_check(t, copy.handle, &kt_p11_cluster_session, &err));
	same_proof(&key, &copy);
	long before = shim->objects;
	assert_kt_ok(kt_token_working_key(t, &name, &by, &again, &err));
	assert_int_equal(again.handle, copy.handle);
	assert_int_equal(shim->objects, before);
	assert_kt_ok(kt_token_working_key(t, &other, &by, &again, &err)); /* takes the place of the first */
	assert_int_equal(shim->objects, before);
	same_proof(&second, &again);
	assert_kt_ok(kt_token_destroy_key(t, &second, &err));
	assert_int_equal(shim->objects, before - 2);
	assert_kt_fails(KT_E_KEY, kt_token_working_key(t, &other, &by, &again, &err));
	assert_kt_ok(kt_token_destroy_key(t, &key, &err));
}

static void a_node_opens_its_key(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_key key = session_key();
	kt_token_node_key node = import(pair);
	kt_blob blob;
	kt_secret opened;
	char kcv[KT_KCV_TEXT];
	uint8_t a[KT_PROOF_LEN], b[KT_PROOF_LEN], nonce[16] = {3};
	assert_int_equal(node.bits, 2048);
	assert_kt_ok(kt_token_wrap_for_node(t, &key, &node, &to_transport, &blob, &err));
	assert_int_equal(blob.wrapped_len, 256);
	assert_true(blob.format == KT_BLOB_RSA_OAEP_SHA1 || blob.format == KT_BLOB_RSA_OAEP_SHA256);
	assert_string_equal(blob.spki_sha256, node.spki_sha256);
	assert_kt_ok(kt_blob_unwrap_rsa(&blob, pair, &opened, &err));
	assert_kt_ok(kt_kcv_of(&opened, kcv, &err));
	assert_string_equal(kcv, key.kcv);
	assert_kt_ok(kt_proof_of(&opened, "n", nonce, 16, a, &err));
	assert_kt_ok(kt_token_proof(t, &key, "n", nonce, 16, b, &err));
	assert_memory_equal(a, b, sizeof a);
	kt_secret_free(&opened);
	for (size_t i = 0; i < blob.wrapped_len; i += 5) {
		kt_blob bad = blob;
		bad.wrapped[i] ^= 0x80;
		assert_kt_fails(KT_E_KEY, kt_blob_unwrap_rsa(&bad, pair, &opened, &err));
		assert_null(opened.data);
	}
	assert_kt_fails(KT_E_INTERNAL, kt_token_wrap_for_node(t, &key, &node, &to_escrow, &blob, &err));
	kt_token_drop_node_key(t, &node);
	assert_int_equal(node.handle, 0);
}

/* A blob to `pair` that came out as it had to: opened by libcrypto, and within the token that has the private key. */
static void opens_on_both_sides(const kt_blob *blob, const kt_token_key *key)
{
	kt_err err = KT_ERR_INIT;
	kt_secret opened;
	CK_OBJECT_HANDLE priv = rsa_import_private(t, pair), h;
	assert_kt_ok(kt_blob_unwrap_rsa(blob, pair, &opened, &err));
	kt_secret_free(&opened);
	long before = shim->objects;
	assert_kt_ok(kt_p11_unwrap_rsa(t, blob, priv, &kt_p11_cluster_session, NULL, &h, &err));
	assert_int_equal(shim->objects, before + 1); /* the ephemeral key is gone */
	assert_kt_ok(kt_p11_policy_check(t, h, &kt_p11_cluster_session, &err));
	same_proof(key, &(kt_token_key){.handle = h});
	kt_p11_discard(t, h);
	kt_p11_discard(t, priv);
}

static kt_blob for_custodian(const kt_token_key *key, kt_blob_format format)
{
	kt_err err = KT_ERR_INIT;
	kt_blob_address address = to_custodian;
	kt_token_node_key custodian = import(pair);
	kt_blob blob;
	address.accepts = 1U << format;
	long before = shim->objects;
	assert_kt_ok(kt_token_wrap_for_node(t, key, &custodian, &address, &blob, &err));
	assert_int_equal(shim->objects, before);
	assert_int_equal(blob.format, format);
	assert_string_equal(blob.custodian, "alice");
	assert_string_equal(blob.node, "");
	kt_token_drop_node_key(t, &custodian);
	return blob;
}

/* Without the mechanism the composed form is made by two calls, with it by one; both open both. */
static void composed_by_two_calls_or_by_one(void **state)
{
	(void)state;
	kt_token_key key = session_key();
	kt_blob two = for_custodian(&key, KT_BLOB_RSA_AES_SHA1);
	assert_int_equal(two.wrapped_len, 256 + 40);
	assert_string_equal(two.mechanism, "CKM_RSA_PKCS_OAEP+CKM_AES_KEY_WRAP_PAD");
	assert_int_equal(two.mechanism_id, CKM_AES_KEY_WRAP_PAD);
	opens_on_both_sides(&two, &key);
	t->probed_oaep = false; /* as if the token had been opened again */
	shim->rsa_aes = true;
	kt_blob one = for_custodian(&key, KT_BLOB_RSA_AES_SHA1);
	assert_string_equal(one.mechanism, "CKM_RSA_AES_KEY_WRAP");
	assert_int_equal(one.mechanism_id, CKM_RSA_AES_KEY_WRAP);
	assert_int_equal(one.wrapped_len, 256 + 40);
	unsigned calls = shim->rsa_aes_calls;
	opens_on_both_sides(&one, &key);
	opens_on_both_sides(&two, &key);
	assert_int_equal(shim->rsa_aes_calls, calls + 2);
	shim->rsa_aes = false;
	t->probed_oaep = false;
	t->by_format[KT_BLOB_RSA_AES_SHA1].name = NULL;
	opens_on_both_sides(&one, &key);
}

/* A token that wraps keys to RSA keys by CKM_RSA_AES_KEY_WRAP alone, as a YubiHSM 2 does. */
static void a_token_with_rsa_aes_alone(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_key key = session_key();
	kt_token_node_key node = import(pair);
	kt_blob blob;
	shim->rsa_aes = true;
	shim->deny_wrap[0] = CKM_RSA_PKCS_OAEP;
	assert_kt_ok(kt_token_wrap_for_node(t, &key, &node, &to_transport, &blob, &err));
	assert_true(kt_blob_is_composed(blob.format));
	opens_on_both_sides(&blob, &key);
	kt_blob_address direct = to_transport;
	direct.accepts = 1U << KT_BLOB_RSA_OAEP_SHA256 | 1U << KT_BLOB_RSA_OAEP_SHA1;
	assert_kt_fails(KT_E_HSM, kt_token_wrap_for_node(t, &key, &node, &direct, &blob, &err));
}

static void what_opens_in_the_token_is_checked(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_key key = session_key();
	CK_OBJECT_HANDLE priv = rsa_import_private(t, pair), h;
	static const kt_blob_format formats[] = {KT_BLOB_RSA_OAEP_SHA1, KT_BLOB_RSA_AES_SHA1};
	for (int i = 0; i < 2; i++) {
		kt_blob good = for_custodian(&key, formats[i]), bad = good;
		long before = shim->objects;
		bad.custodian[0] ^= 1;
		assert_kt_fails(KT_E_KEY, kt_p11_unwrap_rsa(t, &bad, priv, &kt_p11_cluster_session, NULL, &h, &err));
		assert_non_null(strstr(err.msg, "MAC"));
		assert_int_equal(h, 0);
		bad = good;
		bad.wrapped[good.wrapped_len - 1] ^= 1;
		assert_kt_fails(KT_E_KEY, kt_p11_unwrap_rsa(t, &bad, priv, &kt_p11_cluster_session, NULL, &h, &err));
		bad = good;
		memcpy(bad.mechanism, "CKM_RSA_PKCS", sizeof "CKM_RSA_PKCS");
		assert_kt_fails(KT_E_REFUSED,
				kt_p11_unwrap_rsa(t, &bad, priv, &kt_p11_cluster_session, NULL, &h, &err));
		shim->lie_about = CKA_EXTRACTABLE; /* of the ephemeral key, or the key itself */
		assert_kt_fails(KT_E_REFUSED,
				kt_p11_unwrap_rsa(t, &good, priv, &kt_p11_cluster_session, NULL, &h, &err));
		shim->lie_about = 0;
		assert_int_equal(shim->objects, before);
	}
	shim->deny_wrap[0] = CKM_AES_KEY_WRAP_PAD;
	t->probed_aes = false;
	t->by_format[KT_BLOB_RFC5649].name = NULL;
	kt_blob by_libcrypto;
	kt_secret value;
	assert_kt_ok(kt_secret_random(&value, 32, &err));
	assert_kt_ok(kt_blob_begin(&to_custodian, &by_libcrypto, &err));
	assert_kt_ok(kt_blob_wrap_rsa(&by_libcrypto, pair, KT_BLOB_RSA_AES_SHA1, &value, &err));
	kt_secret_free(&value);
	assert_kt_fails(KT_E_HSM, kt_p11_unwrap_rsa(t, &by_libcrypto, priv, &kt_p11_cluster_session, NULL, &h, &err));
	assert_non_null(strstr(err.msg, "rfc5649"));
}

static void the_blob_must_be_for_the_private_key(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_key key = session_key(), back;
	kt_token_transport priv = {.handle = rsa_import_private(t, pair)};
	kt_blob blob = for_custodian(&key, KT_BLOB_RSA_OAEP_SHA1);
	memset(priv.spki_sha256, 'a', sizeof priv.spki_sha256 - 1);
	assert_kt_fails(KT_E_KEY, kt_token_unwrap_rsa(t, &blob, &priv, &back, &err));
	assert_non_null(strstr(err.remedy, "custodian"));
	assert_kt_ok(kt_blob_spki_sha256(pair, priv.spki_sha256, &err));
	assert_kt_ok(kt_token_unwrap_rsa(t, &blob, &priv, &back, &err));
	same_proof(&key, &back);
	assert_string_equal(back.kcv, key.kcv);
}

/* What libcrypto wraps to the private key's public half, the token opens. */
static void the_token_opens_what_libcrypto_wraps_to_rsa(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret value;
	static const kt_blob_format formats[] = {KT_BLOB_RSA_OAEP_SHA1, KT_BLOB_RSA_AES_SHA1};
	CK_OBJECT_HANDLE priv = rsa_import_private(t, pair), h;
	assert_kt_ok(kt_secret_random(&value, 32, &err));
	for (int i = 0; i < 2; i++) {
		kt_blob blob;
		char kcv[KT_KCV_TEXT];
		assert_kt_ok(kt_blob_begin(&to_custodian, &blob, &err));
		assert_kt_ok(kt_blob_wrap_rsa(&blob, pair, formats[i], &value, &err));
		assert_kt_ok(kt_p11_unwrap_rsa(t, &blob, priv, &kt_p11_cluster_session, NULL, &h, &err));
		assert_kt_ok(kt_p11_kcv(t, h, kcv, &err));
		assert_string_equal(kcv, blob.kcv);
		kt_p11_discard(t, h);
	}
	kt_secret_free(&value);
}

static void a_key_for_another_node_is_named_so(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_key key = session_key();
	kt_token_node_key node = import(pair);
	EVP_PKEY *other = EVP_RSA_gen(2048), *ec = EVP_EC_gen("P-256");
	kt_blob blob;
	kt_secret opened;
	assert_kt_ok(kt_token_wrap_for_node(t, &key, &node, &to_rehearsal, &blob, &err));
	assert_kt_fails(KT_E_KEY, kt_blob_unwrap_rsa(&blob, other, &opened, &err));
	assert_non_null(strstr(err.remedy, "enroll"));
	assert_kt_ok(kt_blob_spki_sha256(other, blob.spki_sha256, &err)); /* a forged name */
	assert_kt_fails(KT_E_KEY, kt_blob_unwrap_rsa(&blob, other, &opened, &err));
	assert_kt_fails(KT_E_INPUT, kt_blob_unwrap_rsa(&blob, ec, &opened, &err));
	EVP_PKEY_free(other);
	EVP_PKEY_free(ec);
}

static void takes_pem_and_der_and_refuses_the_rest(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_node_key node, from_der = import(pair);
	EVP_PKEY *weak = EVP_RSA_gen(1024), *ec = EVP_EC_gen("P-256");
	EVP_PKEY *bad[] = {weak, ec};
	unsigned char *der = NULL;
	char *pem;
	BIO *bio = BIO_new(BIO_s_mem());
	assert_int_equal(PEM_write_bio_PUBKEY(bio, pair), 1);
	long n = BIO_get_mem_data(bio, &pem);
	assert_kt_ok(kt_token_import_node_key(t, pem, (size_t)n, &node, &err));
	assert_string_equal(node.spki_sha256, from_der.spki_sha256);
	kt_token_drop_node_key(t, &node);
	kt_token_drop_node_key(t, &from_der);
	long before = shim->objects;
	for (long cut = 0; cut < n - 2; cut += 7)
		assert_kt_fails(KT_E_INPUT, kt_token_import_node_key(t, pem, (size_t)cut, &node, &err));
	for (int i = 0; i < 2; i++) {
		int len = i2d_PUBKEY(bad[i], &der);
		assert_kt_fails(KT_E_REFUSED, kt_token_import_node_key(t, der, (size_t)len, &node, &err));
		OPENSSL_free(der);
		der = NULL;
	}
	int len = i2d_PUBKEY(pair, &der);
	for (int cut = 0; cut < len; cut += 3)
		assert_kt_fails(KT_E_INPUT, kt_token_import_node_key(t, der, (size_t)cut, &node, &err));
	unsigned char longer[1024];
	memcpy(longer, der, (size_t)len);
	longer[len] = 0;
	assert_kt_fails(KT_E_INPUT, kt_token_import_node_key(t, longer, (size_t)len + 1, &node, &err));
	OPENSSL_free(der);
	assert_int_equal(shim->objects, before);
	shim->create_rv = CKR_ATTRIBUTE_VALUE_INVALID;
	assert_kt_fails(KT_E_HSM, kt_token_import_node_key(t, pem, (size_t)n, &node, &err));
	BIO_free(bio);
	EVP_PKEY_free(weak);
	EVP_PKEY_free(ec);
}

/* Tokens whose mechanisms are not what their names say. */
static void mechanisms_are_not_believed(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_formats f;
	shim->pad_is_long = true; /* NSS */
	shim->oaep_is_sha1 = true;
	assert_kt_ok(kt_token_probe_formats(t, &f, &err));
	assert_null(f.rfc5649);
	assert_string_equal(f.rfc3394, "CKM_AES_KEY_WRAP");
	assert_null(f.oaep_sha256);
	assert_string_equal(f.oaep_sha1, "CKM_RSA_PKCS_OAEP");
}

static void pad_that_is_rfc3394_is_called_so(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_formats f;
	shim->pad_is_rfc3394 = true; /* right length, another format */
	shim->deny_wrap[0] = CKM_AES_KEY_WRAP;
	assert_kt_ok(kt_token_probe_formats(t, &f, &err));
	assert_null(f.rfc5649);
	assert_string_equal(f.rfc3394, "CKM_AES_KEY_WRAP_PAD");
}

static void a_token_that_shows_no_key_is_believed_by_name_only(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_formats f;
	shim->no_readable = true;
	assert_kt_ok(kt_token_probe_formats(t, &f, &err));
	assert_null(f.rfc5649); /* CKM_AES_KEY_WRAP_PAD means nothing without a check */
	assert_string_equal(f.rfc3394, "CKM_AES_KEY_WRAP");
}

static void missing_mechanisms_are_said(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_key escrow = wrapping_key("escrow"), key = session_key();
	kt_token_node_key node = import(pair);
	kt_blob blob;
	shim->deny_wrap[0] = CKM_AES_KEY_WRAP;
	shim->deny_wrap[1] = CKM_AES_KEY_WRAP_PAD;
	shim->deny_wrap[2] = CKM_RSA_PKCS_OAEP;
	assert_kt_fails(KT_E_HSM, kt_token_wrap_under(t, &key, &escrow, &to_escrow, &blob, &err));
	assert_non_null(strstr(err.msg, "rfc5649"));
	assert_non_null(strstr(err.remedy, "list-mechanisms"));
	assert_kt_fails(KT_E_HSM, kt_token_wrap_for_node(t, &key, &node, &to_transport, &blob, &err));
	assert_non_null(strstr(err.msg, "rsa-oaep"));
}

static void a_length_that_the_format_cannot_have_is_refused(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_key escrow = wrapping_key("escrow"), key = session_key();
	kt_blob blob;
	assert_kt_ok(kt_token_wrap_under(t, &key, &escrow, &to_escrow, &blob, &err));
	shim->pad_is_long = true; /* after it was probed */
	assert_kt_fails(KT_E_HSM, kt_token_wrap_under(t, &key, &escrow, &to_escrow, &blob, &err));
	assert_non_null(strstr(err.msg, "48 bytes"));
}

static void value_len_is_given_where_it_is_wanted(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_key escrow = wrapping_key("escrow"), key = session_key(), back;
	kt_blob blob;
	shim->unwrap_wants_len = true;
	assert_kt_ok(kt_token_wrap_under(t, &key, &escrow, &to_escrow, &blob, &err));
	assert_kt_ok(kt_token_unwrap_under(t, &blob, &escrow, &back, &err));
	same_proof(&key, &back);
}

static void what_an_unwrap_ignores_is_destroyed(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_key escrow = wrapping_key("escrow"), key = session_key(), back;
	kt_blob blob;
	assert_kt_ok(kt_token_wrap_under(t, &key, &escrow, &to_escrow, &blob, &err));
	long before = shim->objects;
	shim->lie_about = CKA_SENSITIVE; /* openCryptoki ignores it at unwrap */
	assert_kt_fails(KT_E_REFUSED, kt_token_unwrap_under(t, &blob, &escrow, &back, &err));
	assert_int_equal(shim->objects, before);
	assert_int_equal(back.handle, 0);
}

/* The escrow blob with tools that know nothing of keyturn: `openssl enc -id-aes256-wrap-pad`. */
static void openssl_command_opens_the_escrow(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret value, opened;
	kt_token_key wrapping = known_wrapping_key(&value), key = session_key();
	kt_blob blob;
	kt_buf out = KT_BUF_INIT;
	char hex[65], in_path[600], out_path[600], kcv[KT_KCV_TEXT];
	assert_kt_ok(kt_token_wrap_under(t, &key, &wrapping, &to_escrow, &blob, &err));
	kt_token_close(t); /* children are not started while a module is loaded */
	t = NULL;
	for (size_t i = 0; i < 32; i++)
		(void)snprintf(hex + 2 * i, 3, "%02x", value.data[i]);
	kt_secret_free(&value);
	(void)snprintf(in_path, sizeof in_path, "%s", softhsm_file("wrapped", blob.wrapped, blob.wrapped_len, 0600));
	(void)snprintf(out_path, sizeof out_path, "%s", softhsm_file("opened", "", 0, 0600));
	const char *const argv[] = {
		"openssl", "enc",    "-d", "-id-aes256-wrap-pad", "-K", hex, "-iv", "A65959A6", "-in", in_path,
		"-out",    out_path, NULL};
	assert_int_equal(softhsm_run(argv), 0);
	assert_kt_ok(kt_file_read(out_path, &out, &err));
	assert_int_equal(out.len, 32);
	assert_kt_ok(kt_secret_copy(&opened, out.data, out.len, &err));
	assert_kt_ok(kt_kcv_of(&opened, kcv, &err));
	assert_string_equal(kcv, key.kcv);
	kt_secret_free(&opened);
	kt_buf_free(&out);
}

#define WITH_TOKEN(f) cmocka_unit_test_setup_teardown(f, open_token, close_token)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_TOKEN(finds_what_softhsm_does),
		WITH_TOKEN(escrow_round_trip),
		WITH_TOKEN(libcrypto_opens_both_formats),
		WITH_TOKEN(the_token_opens_what_libcrypto_wraps),
		WITH_TOKEN(a_corrupted_escrow_is_refused),
		WITH_TOKEN(the_working_copy),
		WITH_TOKEN(a_node_opens_its_key),
		WITH_TOKEN(composed_by_two_calls_or_by_one),
		WITH_TOKEN(a_token_with_rsa_aes_alone),
		WITH_TOKEN(what_opens_in_the_token_is_checked),
		WITH_TOKEN(the_blob_must_be_for_the_private_key),
		WITH_TOKEN(the_token_opens_what_libcrypto_wraps_to_rsa),
		WITH_TOKEN(a_key_for_another_node_is_named_so),
		WITH_TOKEN(takes_pem_and_der_and_refuses_the_rest),
		WITH_TOKEN(mechanisms_are_not_believed),
		WITH_TOKEN(pad_that_is_rfc3394_is_called_so),
		WITH_TOKEN(a_token_that_shows_no_key_is_believed_by_name_only),
		WITH_TOKEN(missing_mechanisms_are_said),
		WITH_TOKEN(a_length_that_the_format_cannot_have_is_refused),
		WITH_TOKEN(value_len_is_given_where_it_is_wanted),
		WITH_TOKEN(what_an_unwrap_ignores_is_destroyed),
		WITH_TOKEN(openssl_command_opens_the_escrow),
	};
	return cmocka_run_group_tests(tests, start, stop);
}

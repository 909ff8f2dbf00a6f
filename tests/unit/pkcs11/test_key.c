/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pkcs11/internal.h"
#include "pkcs11/key.h"
#include "pkcs11/mac.h"
#include "tests/unit/pkcs11/opened.h"

static const uint8_t id1[] = {0, 1, 2, 0xff}, id2[] = {9};

static CK_BBOOL flag(CK_OBJECT_HANDLE h, CK_ATTRIBUTE_TYPE type)
{
	CK_BBOOL b = 77;
	CK_ATTRIBUTE a = {type, &b, sizeof b};
	assert_int_equal(t->f->C_GetAttributeValue(t->session, h, &a, 1), CKR_OK);
	return b;
}

/* The value cannot be read, by no attribute that would give it. */
static void assert_value_hidden(CK_OBJECT_HANDLE h)
{
	uint8_t value[64] = {0}, none[64] = {0};
	CK_ATTRIBUTE a = {CKA_VALUE, value, sizeof value};
	assert_int_equal(t->f->C_GetAttributeValue(t->session, h, &a, 1), CKR_ATTRIBUTE_SENSITIVE);
	assert_memory_equal(value, none, sizeof value);
}

static void a_wrapping_key_is_what_it_says(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_key made, found;
	const kt_token_key_name name = {.label = "escrow"};
	assert_kt_ok(kt_token_create_wrapping_key(t, &name, &made, &err));
	CK_OBJECT_HANDLE h = made.handle;
	assert_true(flag(h, CKA_TOKEN) && flag(h, CKA_PRIVATE) && flag(h, CKA_SENSITIVE) && flag(h, CKA_WRAP) &&
		    flag(h, CKA_UNWRAP) && flag(h, CKA_SIGN) && flag(h, CKA_ALWAYS_SENSITIVE) &&
		    flag(h, CKA_NEVER_EXTRACTABLE) && flag(h, CKA_LOCAL));
	assert_false(flag(h, CKA_EXTRACTABLE) || flag(h, CKA_ENCRYPT) || flag(h, CKA_DECRYPT) ||
		     flag(h, CKA_MODIFIABLE) || flag(h, CKA_DERIVE));
	assert_value_hidden(h);
	assert_int_equal(made.id_len, 16);
	assert_true(made.on_token);
	assert_kt_ok(kt_token_find_wrapping_key(t, &name, &found, &err));
	assert_string_equal(found.label, "escrow");
	assert_string_equal(found.kcv, made.kcv);
	assert_memory_equal(found.id, made.id, made.id_len);
	assert_kt_fails(KT_E_REFUSED, kt_token_create_wrapping_key(t, &name, &found, &err));
	const kt_token_key_name same_id = {.label = "other", .id = made.id, .id_len = made.id_len};
	assert_kt_fails(KT_E_REFUSED, kt_token_create_wrapping_key(t, &same_id, &found, &err));
	assert_kt_fails(KT_E_INPUT, kt_token_create_wrapping_key(t, &(kt_token_key_name){0}, &found, &err));
}

static void a_cluster_key_is_made_once(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_key a, b, c;
	bool made;
	const kt_token_key_name name = {.label = "cluster-1", .id = id1, .id_len = sizeof id1};
	assert_kt_ok(kt_token_ensure_cluster_key(t, &name, true, &a, &made, &err));
	assert_true(made);
	CK_OBJECT_HANDLE h = a.handle;
	assert_true(flag(h, CKA_TOKEN) && flag(h, CKA_PRIVATE) && flag(h, CKA_SENSITIVE) && flag(h, CKA_EXTRACTABLE) &&
		    flag(h, CKA_SIGN));
	assert_false(flag(h, CKA_WRAP) || flag(h, CKA_UNWRAP) || flag(h, CKA_ENCRYPT) || flag(h, CKA_DECRYPT) ||
		     flag(h, CKA_MODIFIABLE));
	assert_value_hidden(h);
	assert_kt_ok(kt_token_ensure_cluster_key(t, &name, true, &b, &made, &err));
	assert_false(made);
	assert_string_equal(a.kcv, b.kcv);
	assert_memory_equal(b.id, id1, sizeof id1);
	assert_kt_ok(kt_token_find_cluster_key(t, &name, &c, &err));
	assert_string_equal(a.kcv, c.kcv);
	const kt_token_key_name renamed = {.label = "cluster-2", .id = id1, .id_len = sizeof id1};
	assert_kt_fails(KT_E_REFUSED, kt_token_ensure_cluster_key(t, &renamed, true, &c, &made, &err));
	assert_kt_fails(KT_E_REFUSED, kt_token_ensure_cluster_key(t, &name, false, &c, &made, &err));
	assert_kt_fails(KT_E_REFUSED, kt_token_find_wrapping_key(t, &name, &c, &err)); /* another kind of key */
	const kt_token_key_name no_id = {.label = "cluster-1"};
	assert_kt_fails(KT_E_INPUT, kt_token_ensure_cluster_key(t, &no_id, true, &c, &made, &err));
	assert_kt_ok(kt_token_destroy_key(t, &a, &err));
	assert_int_equal(a.handle, 0);
	assert_kt_ok(kt_token_destroy_key(t, &a, &err));
	assert_kt_fails(KT_E_KEY, kt_token_find_cluster_key(t, &name, &c, &err));
}

static void survives_a_new_session(void **state)
{
	kt_err err = KT_ERR_INIT;
	kt_token_key a, b;
	bool made;
	const kt_token_key_name name = {.label = "kept", .id = (const uint8_t *)"kept", .id_len = 4};
	const kt_token_key_name brief = {.label = "brief", .id = (const uint8_t *)"brief", .id_len = 5};
	assert_kt_ok(kt_token_ensure_cluster_key(t, &name, true, &a, &made, &err));
	assert_kt_ok(kt_token_ensure_cluster_key(t, &brief, false, &b, &made, &err));
	assert_true(made);
	assert_kt_ok(kt_token_ensure_cluster_key(t, &brief, false, &b, &made, &err));
	assert_false(made);
	assert_false(b.on_token);
	assert_int_equal(close_token(state), 0);
	assert_int_equal(open_token(state), 0);
	assert_kt_ok(kt_token_ensure_cluster_key(t, &name, true, &b, &made, &err));
	assert_false(made);
	assert_string_equal(a.kcv, b.kcv);
	assert_kt_ok(kt_token_ensure_cluster_key(t, &brief, false, &b, &made, &err));
	assert_true(made); /* a session object went with its session */
}

static void two_of_a_name_are_refused(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_key k;
	bool made;
	const kt_token_key_name one = {.label = "twin", .id = id1, .id_len = sizeof id1};
	const kt_token_key_name two = {.label = "twin", .id = id2, .id_len = sizeof id2};
	const kt_token_key_name label = {.label = "twin"};
	assert_kt_ok(kt_token_ensure_cluster_key(t, &one, true, &k, &made, &err));
	assert_kt_ok(kt_token_ensure_cluster_key(t, &two, true, &k, &made, &err));
	assert_kt_fails(KT_E_KEY, kt_token_find_cluster_key(t, &label, &k, &err));
	assert_non_null(strstr(err.msg, "more than one"));
	assert_non_null(strstr(err.remedy, "id"));
	assert_kt_ok(kt_token_find_cluster_key(t, &two, &k, &err));
	assert_memory_equal(k.id, id2, sizeof id2);
	assert_kt_fails(KT_E_INPUT, kt_token_find_cluster_key(t, &(kt_token_key_name){0}, &k, &err));
}

/* A token that does not do what the template says: the new key is destroyed again. */
static void a_lying_token_gets_no_key(void **state)
{
	static const CK_ATTRIBUTE_TYPE lies[] = {CKA_TOKEN,  CKA_PRIVATE, CKA_SENSITIVE, CKA_EXTRACTABLE, CKA_WRAP,
						 CKA_UNWRAP, CKA_SIGN,    CKA_ENCRYPT,   CKA_DECRYPT,     CKA_DERIVE};
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_key k;
	bool made;
	const kt_token_key_name name = {.label = "lie", .id = (const uint8_t *)"lie", .id_len = 3};
	long before = shim->objects;
	for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
		shim->lie_about = lies[i];
		assert_kt_fails(KT_E_REFUSED, kt_token_ensure_cluster_key(t, &name, true, &k, &made, &err));
		assert_non_null(strstr(err.msg, "destroyed"));
		assert_kt_fails(KT_E_REFUSED, kt_token_create_wrapping_key(t, &name, &k, &err));
	}
	shim->lie_about = CKA_ALWAYS_SENSITIVE;
	assert_kt_fails(KT_E_REFUSED, kt_token_ensure_cluster_key(t, &name, true, &k, &made, &err));
	shim->lie_about = CKA_NEVER_EXTRACTABLE;
	assert_kt_fails(KT_E_REFUSED, kt_token_create_wrapping_key(t, &name, &k, &err));
	assert_non_null(strstr(err.msg, "CKA_NEVER_EXTRACTABLE"));
	shim->lie_about = 0;
	shim->hide_attributes = true;
	assert_kt_fails(KT_E_REFUSED, kt_token_ensure_cluster_key(t, &name, true, &k, &made, &err));
	assert_non_null(strstr(err.msg, "CKA_DECRYPT"));
	shim->hide_attributes = false;
	shim->deny_sign = CKM_AES_CMAC;
	assert_kt_fails(KT_E_HSM, kt_token_ensure_cluster_key(t, &name, true, &k, &made, &err));
	assert_int_equal(shim->objects, before);
}

/* A token that makes another key than it was asked to. */
static void a_token_that_changes_templates_gets_no_key(void **state)
{
	static const CK_ATTRIBUTE_TYPE flips[] = {CKA_TOKEN,  CKA_PRIVATE, CKA_SENSITIVE, CKA_EXTRACTABLE, CKA_WRAP,
						  CKA_UNWRAP, CKA_SIGN,    CKA_ENCRYPT,   CKA_DECRYPT,     CKA_DERIVE};
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_key k;
	bool made;
	const kt_token_key_name name = {.label = "flip", .id = (const uint8_t *)"flip", .id_len = 4};
	long before = shim->objects;
	for (size_t i = 0; i < sizeof flips / sizeof flips[0]; i++) {
		shim->flip_at_generate = flips[i];
		assert_kt_fails(KT_E_REFUSED, kt_token_ensure_cluster_key(t, &name, true, &k, &made, &err));
		assert_kt_fails(KT_E_REFUSED, kt_token_create_wrapping_key(t, &name, &k, &err));
		assert_int_equal(shim->objects, before);
	}
}

/* A wrapping key that somebody else made: of this length, with one attribute as a wrapping key must not have it. */
static void foreign_wrapping_key(const char *label, CK_ULONG bytes, CK_ATTRIBUTE_TYPE flipped)
{
	CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
	CK_MECHANISM m = {CKM_AES_KEY_GEN, NULL, 0};
	CK_OBJECT_HANDLE h;
	CK_ATTRIBUTE a[] = {{CKA_TOKEN, &yes, 1},      {CKA_PRIVATE, &yes, 1}, {CKA_SENSITIVE, &yes, 1},
			    {CKA_EXTRACTABLE, &no, 1}, {CKA_WRAP, &yes, 1},    {CKA_UNWRAP, &yes, 1},
			    {CKA_SIGN, &yes, 1},       {CKA_VERIFY, &yes, 1},  {CKA_ENCRYPT, &no, 1},
			    {CKA_DECRYPT, &no, 1},     {CKA_DERIVE, &no, 1},   {CKA_VALUE_LEN, &bytes, sizeof bytes},
			    {CKA_LABEL, NULL, 0}};
	union {
		const char *in;
		void *out;
	} text = {.in = label};
	a[12].pValue = text.out;
	a[12].ulValueLen = strlen(label);
	for (size_t i = 0; i < 11; i++)
		if (a[i].type == flipped)
			a[i].pValue = a[i].pValue == &yes ? &no : &yes;
	assert_int_equal(t->f->C_GenerateKey(t->session, &m, a, 13, &h), CKR_OK);
}

static void a_wrapping_key_that_is_weak_or_may_decrypt_is_refused(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_key k;
	foreign_wrapping_key("as-it-must-be", 32, 0);
	assert_kt_ok(kt_token_find_wrapping_key(t, &(kt_token_key_name){.label = "as-it-must-be"}, &k, &err));
	foreign_wrapping_key("aes-128", 16, 0);
	assert_kt_fails(KT_E_REFUSED,
			kt_token_find_wrapping_key(t, &(kt_token_key_name){.label = "aes-128"}, &k, &err));
	assert_non_null(strstr(err.msg, "128 bits"));
	foreign_wrapping_key("decrypts", 32, CKA_DECRYPT);
	assert_kt_fails(KT_E_REFUSED,
			kt_token_find_wrapping_key(t, &(kt_token_key_name){.label = "decrypts"}, &k, &err));
	assert_non_null(strstr(err.msg, "CKA_DECRYPT"));
	foreign_wrapping_key("extractable", 32, CKA_EXTRACTABLE);
	assert_kt_fails(KT_E_REFUSED,
			kt_token_find_wrapping_key(t, &(kt_token_key_name){.label = "extractable"}, &k, &err));
}

/* A token that vanished finds nothing and says OK. No key may be made then, nor "no such key" be said. */
static void nothing_found_on_a_vanished_token_is_no_answer(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_key k;
	bool made;
	const kt_token_key_name name = {.label = "kept", .id = (const uint8_t *)"kept", .id_len = 4};
	long before = shim->objects;
	shim->finds_nothing = true;
	shim->token_info_rv = CKR_TOKEN_NOT_PRESENT;
	assert_kt_fails(KT_E_HSM, kt_token_ensure_cluster_key(t, &name, true, &k, &made, &err));
	assert_false(made);
	assert_kt_fails(KT_E_HSM, kt_token_find_cluster_key(t, &name, &k, &err));
	assert_non_null(strstr(err.msg, "gone"));
	assert_int_equal(shim->objects, before);
}

/* The same with the real thing: SoftHSM's folder is moved away under an open session. */
static void softhsm_folder_vanishes(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_token_key k;
	bool made;
	char from[600], to[600];
	const kt_token_key_name name = {.label = "vanishing", .id = (const uint8_t *)"vanish", .id_len = 6};
	(void)snprintf(from, sizeof from, "%s/tokens", softhsm_folder());
	(void)snprintf(to, sizeof to, "%s/tokens-away", softhsm_folder());
	assert_int_equal(rename(from, to), 0);
	kt_code rc = kt_token_ensure_cluster_key(t, &name, true, &k, &made, &err);
	assert_int_equal(rename(to, from), 0);
	assert_int_equal(rc, KT_E_HSM);
	assert_non_null(strstr(err.msg, "gone"));
}

static void proof_and_check_value_are_those_of_libcrypto(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_p11_template tpl;
	CK_OBJECT_HANDLE h;
	kt_secret value;
	char kcv[KT_KCV_TEXT], own[KT_KCV_TEXT];
	uint8_t nonce[32] = {1, 2, 3}, a[KT_PROOF_LEN], b[KT_PROOF_LEN];
	kt_p11_template_key(&tpl, &kt_p11_readable);
	assert_kt_ok(kt_p11_generate(t, &tpl, &kt_p11_readable, &h, &err));
	assert_kt_ok(kt_p11_read_value(t, h, &value, &err));
	const kt_token_key key = {.handle = h};
	assert_kt_ok(kt_token_kcv(t, &key, kcv, &err));
	assert_kt_ok(kt_kcv_of(&value, own, &err));
	assert_string_equal(kcv, own);
	for (size_t n = KT_PROOF_NONCE_MIN; n <= sizeof nonce; n++) {
		assert_kt_ok(kt_token_proof(t, &key, "keyturn-proof/1:r:n", nonce, n, a, &err));
		assert_kt_ok(kt_proof_of(&value, "keyturn-proof/1:r:n", nonce, n, b, &err));
		assert_memory_equal(a, b, sizeof a);
	}
	assert_kt_fails(KT_E_INPUT, kt_token_proof(t, &key, "", nonce, 16, a, &err));
	kt_secret_free(&value);
	kt_p11_discard(t, h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_wrapping_key_is_what_it_says, open_token, close_token),
		cmocka_unit_test_setup_teardown(a_cluster_key_is_made_once, open_token, close_token),
		cmocka_unit_test_setup_teardown(survives_a_new_session, open_token, close_token),
		cmocka_unit_test_setup_teardown(two_of_a_name_are_refused, open_token, close_token),
		cmocka_unit_test_setup_teardown(a_lying_token_gets_no_key, open_token, close_token),
		cmocka_unit_test_setup_teardown(a_token_that_changes_templates_gets_no_key, open_token, close_token),
		cmocka_unit_test_setup_teardown(a_wrapping_key_that_is_weak_or_may_decrypt_is_refused, open_token,
						close_token),
		cmocka_unit_test_setup_teardown(nothing_found_on_a_vanished_token_is_no_answer, open_token,
						close_token),
		cmocka_unit_test_setup_teardown(proof_and_check_value_are_those_of_libcrypto, open_token, close_token),
		cmocka_unit_test_setup_teardown(softhsm_folder_vanishes, open_token, close_token),
	};
	return cmocka_run_group_tests(tests, softhsm_start, softhsm_stop);
}

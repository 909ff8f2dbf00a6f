/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <string.h>

#include "pkcs11/mechanism.h"

static kt_p11_maker maker_of(const char *library, const char *manufacturer, const char *token)
{
	return kt_p11_maker_of((const char *const[]){library, manufacturer, token, NULL});
}

static void makers_are_known_by_their_own_words(void **state)
{
	(void)state;
	assert_int_equal(maker_of("AWS CloudHSM PKCS#11", "", ""), KT_P11_CLOUDHSM);
	assert_int_equal(maker_of("", "", "Marvell Semiconductors, Inc."), KT_P11_CLOUDHSM);
	assert_int_equal(maker_of("Chrystoki", "SafeNet", "SafeNet"), KT_P11_LUNA);
	assert_int_equal(maker_of("", "nCipher Corp. Ltd", ""), KT_P11_NSHIELD);
	assert_int_equal(maker_of("YubiHSM PKCS#11 Library", "Yubico (www.yubico.com)", ""), KT_P11_YUBIHSM);
	assert_int_equal(maker_of("PKCS#11 PIV Library (SP-800-73)", "Yubico (www.yubico.com)", ""), KT_P11_ANYBODY);
	assert_int_equal(maker_of("Implementation of PKCS11", "SoftHSM", "SoftHSM project"), KT_P11_ANYBODY);
}

/* The first row for a format that is worth a try on a module of this maker. */
static const kt_p11_mechanism *first(kt_blob_format format, kt_p11_maker maker, bool vendors_own)
{
	for (const kt_p11_mechanism *m = kt_p11_mechanisms(); m->name; m++)
		if (m->format == format && kt_p11_applies(m, maker) && (m->maker != KT_P11_ANYBODY) == vendors_own)
			return m;
	return NULL;
}

static void a_makers_numbers_are_tried_on_its_modules_alone(void **state)
{
	(void)state;
	assert_int_equal(first(KT_BLOB_RFC5649, KT_P11_CLOUDHSM, true)->type, 0x8000216F);
	assert_int_equal(first(KT_BLOB_RFC3394, KT_P11_CLOUDHSM, true)->type, 0x80002109);
	assert_int_equal(first(KT_BLOB_RFC5649, KT_P11_LUNA, true)->type, 0x80000171);
	assert_int_equal(first(KT_BLOB_RFC3394, KT_P11_LUNA, true)->type, 0x80000170);
	assert_null(first(KT_BLOB_RFC5649, KT_P11_ANYBODY, true));
	assert_int_equal(first(KT_BLOB_RFC5649, KT_P11_NSHIELD, true)->type, CKM_AES_KEY_WRAP_PAD);
	assert_true(first(KT_BLOB_RFC5649, KT_P11_NSHIELD, true)->named);
	assert_int_equal(first(KT_BLOB_RFC5649, KT_P11_NSHIELD, false)->type, CKM_AES_KEY_WRAP_KWP);
	assert_null(first(KT_BLOB_RFC3394, KT_P11_NSHIELD, false)); /* its own row stands for the standard's */
	assert_int_equal(first(KT_BLOB_RSA_AES_SHA256, KT_P11_YUBIHSM, true)->type, CKM_RSA_AES_KEY_WRAP);
	assert_int_equal(first(KT_BLOB_RFC5649, KT_P11_ANYBODY, false)->type, 0x210B);
}

static void no_row_is_forbidden_and_makers_rows_are_marked_untested(void **state)
{
	(void)state;
	for (const kt_p11_mechanism *m = kt_p11_mechanisms(); m->name; m++) {
		assert_int_equal(kt_blob_refuse_mechanism(m->name, (uint32_t)m->type, NULL), KT_OK);
		assert_true(m->maker == KT_P11_ANYBODY || !m->tested);
		assert_non_null(m->note);
		assert_true(m->type != CKM_RSA_PKCS && m->type != CKM_RSA_X_509 && m->type != 0x8000210A &&
			    m->type != CKM_AES_CBC && m->type != CKM_AES_CBC_PAD && m->type != CKM_AES_ECB);
	}
}

static void what_is_never_used_is_refused_by_name_and_number(void **state)
{
	kt_err err;
	static const char *const names[] = {"CKM_RSA_PKCS+CKM_AES_KEY_WRAP",
					    "CKM_RSA_PKCS_OAEP+CKM_AES_CBC_PAD",
					    "CKM_RSA_PKCS",
					    "CKM_RSA_X_509",
					    "CKM_AES_CBC_PAD",
					    "CKM_AES_CBC",
					    "CKM_AES_ECB",
					    "CKM_CLOUDHSM_AES_KEY_WRAP_PKCS5_PAD",
					    "CKM_DES3_CBC_PAD"};
	(void)state;
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		assert_kt_fails(KT_E_REFUSED, kt_blob_refuse_mechanism(names[i], 0, &err));
		assert_non_null(strstr(err.msg, names[i]));
	}
	assert_kt_fails(KT_E_REFUSED, kt_blob_refuse_mechanism("CKM_AES_KEY_WRAP", CKM_AES_CBC_PAD, &err));
	assert_kt_fails(KT_E_REFUSED, kt_blob_refuse_mechanism("CKM_RSA_PKCS_OAEP", CKM_RSA_PKCS, &err));
	assert_kt_ok(kt_blob_refuse_mechanism("CKM_RSA_PKCS_OAEP+CKM_AES_KEY_WRAP_PAD", CKM_AES_KEY_WRAP_PAD, &err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(makers_are_known_by_their_own_words),
		cmocka_unit_test(a_makers_numbers_are_tried_on_its_modules_alone),
		cmocka_unit_test(no_row_is_forbidden_and_makers_rows_are_marked_untested),
		cmocka_unit_test(what_is_never_used_is_refused_by_name_and_number),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <string.h>

#include "pkcs11/wrap.h"
#include "tests/unit/pkcs11/opened.h"

static kt_token_key cmk;

static int open_cmk(void **state)
{
	kt_err err = KT_ERR_INIT;
	const kt_token_key_name name = {.label = "cmk"};
	(void)open_token(state);
	if (kt_token_find_wrapping_key(t, &name, &cmk, &err) != KT_OK)
		assert_kt_ok(kt_token_create_wrapping_key(t, &name, &cmk, &err));
	return 0;
}

static void made_and_exported_are_the_same(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret kek, again;
	kt_blob blob;
	long before = shim->objects;
	assert_kt_ok(kt_token_make_kek(t, &cmk, &kek, &blob, &err));
	assert_int_equal(kek.len, 32);
	assert_int_equal(blob.purpose, KT_BLOB_KEK);
	assert_kt_ok(kt_token_export_kek(t, &cmk, &blob, &again, &err));
	assert_true(kt_secret_equal(&kek, &again));
	kt_secret_free(&again);
	kt_secret_free(&kek);
	assert_int_equal(shim->objects, before);
}

static void imported_and_exported_are_the_same(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret kek, again, shorter;
	kt_blob blob;
	assert_kt_ok(kt_secret_random(&kek, 32, &err));
	assert_kt_ok(kt_token_import_kek(t, &cmk, &kek, &blob, &err));
	assert_kt_ok(kt_token_export_kek(t, &cmk, &blob, &again, &err));
	assert_true(kt_secret_equal(&kek, &again));
	kt_secret_free(&again);
	assert_kt_ok(kt_secret_copy(&shorter, kek.data, 16, &err));
	assert_kt_fails(KT_E_KEY, kt_token_import_kek(t, &cmk, &shorter, &blob, &err));
	kt_secret_free(&shorter);
	shim->create_rv = CKR_TEMPLATE_INCONSISTENT; /* a token that takes no key in the clear */
	assert_kt_fails(KT_E_HSM, kt_token_import_kek(t, &cmk, &kek, &blob, &err));
	kt_secret_free(&kek);
}

static void random_bytes_are_the_token_s(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret a, b;
	unsigned before = shim->randoms;
	assert_kt_ok(kt_token_random(t, 32, &a, &err));
	assert_kt_ok(kt_token_random(t, 32, &b, &err));
	assert_int_equal(shim->randoms, before + 2);
	assert_int_equal(a.len, 32);
	assert_false(kt_secret_equal(&a, &b));
	kt_secret_free(&a);
	kt_secret_free(&b);
	shim->random_rv = CKR_DEVICE_ERROR;
	assert_kt_fails(KT_E_HSM, kt_token_random(t, 32, &a, &err));
	assert_null(a.data);
	(void)close_token(state);
	shim->drop_flags = CKF_RNG; /* a token without a generator is not asked */
	assert_kt_ok(kt_token_open(softhsm_shim_uri(), &t, &err));
	assert_kt_fails(KT_E_REFUSED, kt_token_random(t, 32, &a, &err));
	assert_int_equal(shim->randoms, 0);
}

static void failures_leave_nothing(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret kek;
	kt_blob blob, bad;
	assert_kt_ok(kt_token_make_kek(t, &cmk, &kek, &blob, &err));
	kt_secret_free(&kek);
	long before = shim->objects;
	for (size_t i = 0; i < blob.wrapped_len; i++) {
		bad = blob;
		bad.wrapped[i] ^= 4;
		assert_kt_fails(KT_E_KEY, kt_token_export_kek(t, &cmk, &bad, &kek, &err));
		assert_null(kek.data);
	}
	bad = blob;
	bad.format = KT_BLOB_RSA_OAEP_SHA1;
	assert_kt_fails(KT_E_INPUT, kt_token_export_kek(t, &cmk, &bad, &kek, &err));
	bad = blob;
	memcpy(bad.wrapping.kcv, "000000", 7);
	assert_kt_fails(KT_E_KEY, kt_token_export_kek(t, &cmk, &bad, &kek, &err));
	shim->unwrap_rv = CKR_DEVICE_REMOVED;
	assert_kt_fails(KT_E_HSM, kt_token_export_kek(t, &cmk, &blob, &kek, &err));
	shim->no_readable = true;
	assert_kt_fails(KT_E_HSM, kt_token_make_kek(t, &cmk, &kek, &blob, &err));
	shim->no_readable = false;
	shim->lie_about = CKA_EXTRACTABLE;
	assert_kt_fails(KT_E_REFUSED, kt_token_make_kek(t, &cmk, &kek, &blob, &err));
	assert_null(kek.data);
	assert_int_equal(shim->objects, before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(made_and_exported_are_the_same, open_cmk, close_token),
		cmocka_unit_test_setup_teardown(imported_and_exported_are_the_same, open_cmk, close_token),
		cmocka_unit_test_setup_teardown(random_bytes_are_the_token_s, open_cmk, close_token),
		cmocka_unit_test_setup_teardown(failures_leave_nothing, open_cmk, close_token),
	};
	return cmocka_run_group_tests(tests, softhsm_start, softhsm_stop);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <stdio.h>
#include <string.h>

#include "pkcs11/internal.h"

static void names(void **state)
{
	(void)state;
	assert_string_equal(kt_p11_rv_name(CKR_PIN_INCORRECT), "CKR_PIN_INCORRECT");
	assert_string_equal(kt_p11_rv_name(CKR_OK), "CKR_OK");
	assert_string_equal(kt_p11_rv_name(0xCE534351UL), "NSS's CKR_NSS_CERTDB_FAILED");
	assert_string_equal(kt_p11_rv_name(CKR_VENDOR_DEFINED | 7), "a vendor's own CKR");
	assert_string_equal(kt_p11_rv_name(0x7777), "an unknown CKR");
}

/* The errors that mislead: the same value means different things after different calls, and of different modules. */
static void meaning_depends_on_the_call(void **state)
{
	static const struct {
		const char *call;
		CK_RV rv;
		kt_code code;
		const char *says, *remedy, *module;
	} rows[] = {
		{"C_Initialize", CKR_GENERAL_ERROR, KT_E_HSM, "SoftHSM", "directories.tokendir", "libsofthsm2.so"},
		{"C_Initialize", CKR_GENERAL_ERROR, KT_E_HSM, "TPM2_PKCS11_TCTI is ", "swtpm", "libtpm2_pkcs11.so"},
		{"C_Initialize", CKR_GENERAL_ERROR, KT_E_HSM, "configuration", "manual", NULL},
		{"C_Initialize", CKR_HOST_MEMORY, KT_E_HSM, "pkcsslotd", "pkcsslotd", "libopencryptoki.so"},
		{"C_Initialize", CKR_HOST_MEMORY, KT_E_HSM, "memory", "memory", "libsofthsm2.so"},
		{"C_Initialize", CKR_FUNCTION_FAILED, KT_E_HSM, "pkcsslotd", "group", "libopencryptoki.so"},
		{"C_Initialize", CKR_ARGUMENTS_BAD, KT_E_HSM, "NSS", "x-init-reserved", "libsoftokn3.so"},
		{"C_Initialize", 0xCE534351UL, KT_E_HSM, "NSS", "certutil", "libsoftokn3.so"},
		{"C_Login", CKR_GENERAL_ERROR, KT_E_HSM, "handles", "tpm2_flushcontext -l", "libtpm2_pkcs11.so"},
		{"C_Login", CKR_GENERAL_ERROR, KT_E_HSM, "C_Login gave CKR_GENERAL_ERROR", "log", "libsofthsm2.so"},
		{"C_SignInit", CKR_MECHANISM_INVALID, KT_E_HSM, "AES-CMAC", "list-mechanisms", NULL},
		{"C_GenerateKey", CKR_FUNCTION_NOT_SUPPORTED, KT_E_HSM, "AES", "list-mechanisms", NULL},
		{"C_UnwrapKey", CKR_GENERAL_ERROR, KT_E_KEY, "damaged", "blob", NULL},
		{"C_UnwrapKey", CKR_FUNCTION_FAILED, KT_E_KEY, "damaged", "blob", NULL},
		{"C_UnwrapKey", CKR_WRAPPED_KEY_INVALID, KT_E_KEY, "damaged", "blob", NULL},
		{"C_UnwrapKey", CKR_ENCRYPTED_DATA_INVALID, KT_E_KEY, "damaged", "blob", NULL},
		{"C_WrapKey", CKR_GENERAL_ERROR, KT_E_HSM, "C_WrapKey gave CKR_GENERAL_ERROR", "log", NULL},
		{"C_WrapKey", CKR_MECHANISM_INVALID, KT_E_HSM, "does not do", "list-mechanisms", NULL},
		{"C_WrapKey", CKR_KEY_UNEXTRACTABLE, KT_E_REFUSED, "may not leave", "EXTRACTABLE", NULL},
		{"C_Sign", CKR_DEVICE_REMOVED, KT_E_HSM, "taken away", "again", NULL},
		{"C_Sign", 0x7777, KT_E_HSM, "0x7777", "log", NULL},
	};
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		kt_err err;
		char where[64];
		(void)snprintf(where, sizeof where, "token \"x\" (%s)", rows[i].module ? rows[i].module : "hsm.so");
		assert_kt_fails(rows[i].code, kt_p11_check(where, rows[i].call, rows[i].rv, &err));
		if (!strstr(err.msg, rows[i].says) || !strstr(err.remedy, rows[i].remedy))
			fail_msg("row %zu: %s / %s", i, err.msg, err.remedy);
		assert_non_null(strstr(err.msg, where));
		assert_non_null(strstr(err.msg, rows[i].call));
	}
	kt_err err = KT_ERR_INIT;
	assert_kt_ok(kt_p11_check("x", "C_Sign", CKR_OK, &err));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),
		cmocka_unit_test(meaning_depends_on_the_call),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

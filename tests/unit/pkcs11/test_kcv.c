/* SPDX-License-Identifier: Apache-2.0 */
/* Expected values: `openssl mac -cipher AES-256-CBC -macopt hexkey:000102...1f CMAC` and a second implementation; the
 * MAC key: `openssl kdf -keylen 32 -kdfopt mac:CMAC -kdfopt cipher:AES-256-CBC -kdfopt hexkey:000102...1f -kdfopt
 * salt:keyturn-mac/1 -kdfopt mode:counter KBKDF`, and python3-cryptography's KBKDFCMAC. */
#include "tests/unit/support.h"

#include <string.h>

#include "base/kcv.h"

static kt_secret key;
static uint8_t nonce[64];

static int set_up(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	if (kt_secret_setup(&err) != KT_OK || kt_secret_new(&key, 32, &err) != KT_OK)
		return -1;
	for (uint8_t i = 0; i < 32; i++)
		key.data[i] = i;
	for (uint8_t i = 0; i < 64; i++)
		nonce[i] = i;
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	kt_secret_free(&key);
	return 0;
}

static void check_value(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	char kcv[KT_KCV_TEXT];
	assert_kt_ok(kt_kcv_of(&key, kcv, &err));
	assert_string_equal(kcv, "377822");
}

static void mac_key(void **state)
{
	static const uint8_t expected[32] = {0x8e, 0x0e, 0x26, 0xe3, 0xeb, 0x99, 0x25, 0x6c, 0x9f, 0x13, 0x4f,
					     0xec, 0x3f, 0xb9, 0x8e, 0x0a, 0x83, 0xfe, 0x5f, 0xd4, 0xcb, 0x47,
					     0x29, 0x07, 0x17, 0x69, 0xbe, 0x46, 0xde, 0xad, 0x8a, 0x78};
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret out;
	assert_kt_ok(kt_mac_key_of(&key, &out, &err));
	assert_int_equal(out.len, sizeof expected);
	assert_memory_equal(out.data, expected, sizeof expected);
	kt_secret_free(&out);
}

static void proof(void **state)
{
	static const uint8_t expected[16] = {0x2a, 0xab, 0xe0, 0x06, 0xb4, 0x77, 0xad, 0xe8,
					     0x34, 0xcc, 0xd6, 0x59, 0xd6, 0xb0, 0x97, 0x1f};
	(void)state;
	kt_err err = KT_ERR_INIT;
	uint8_t out[KT_PROOF_LEN];
	assert_kt_ok(kt_proof_of(&key, "keyturn-proof/1:run:web01", nonce, 16, out, &err));
	assert_memory_equal(out, expected, sizeof expected);
	assert_kt_ok(kt_proof_of(&key, "keyturn-proof/1:run:web02", nonce, 16, out, &err));
	assert_memory_not_equal(out, expected, sizeof expected);
}

static void limits(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret shorter, under;
	uint8_t out[KT_PROOF_LEN];
	char kcv[KT_KCV_TEXT], label[300];
	memset(label, 'x', sizeof label);
	label[KT_PROOF_LABEL_MAX] = '\0';
	assert_kt_ok(kt_proof_of(&key, label, nonce, 64, out, &err));
	label[KT_PROOF_LABEL_MAX] = 'x';
	label[KT_PROOF_LABEL_MAX + 1] = '\0';
	assert_kt_fails(KT_E_INPUT, kt_proof_of(&key, label, nonce, 64, out, &err));
	assert_kt_fails(KT_E_INPUT, kt_proof_of(&key, "", nonce, 16, out, &err));
	assert_kt_fails(KT_E_INPUT, kt_proof_of(&key, "x", nonce, 15, out, &err));
	assert_kt_fails(KT_E_INPUT, kt_proof_of(&key, "x", nonce, 65, out, &err));
	assert_kt_ok(kt_secret_copy(&shorter, key.data, 31, &err));
	assert_kt_fails(KT_E_KEY, kt_kcv_of(&shorter, kcv, &err));
	assert_kt_fails(KT_E_KEY, kt_proof_of(&shorter, "x", nonce, 16, out, &err));
	assert_kt_fails(KT_E_KEY, kt_mac_key_of(&shorter, &under, &err));
	assert_null(under.data);
	kt_secret_free(&shorter);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(check_value),
		cmocka_unit_test(mac_key),
		cmocka_unit_test(proof),
		cmocka_unit_test(limits),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}

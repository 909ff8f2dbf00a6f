/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <string.h>

#include "base/codec.h"

static void hex_round_trip(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf text = KT_BUF_INIT;
	kt_buf back = KT_BUF_INIT;
	uint8_t all[256];
	for (unsigned i = 0; i < sizeof all; i++)
		all[i] = (uint8_t)i;
	assert_kt_ok(kt_hex_encode(all, sizeof all, &text, &err));
	assert_int_equal(text.len, 512);
	assert_memory_equal(text.data + 2 * 0xab, "ab", 2);
	assert_kt_ok(kt_hex_decode(kt_buf_cstr(&text), text.len, &back, &err));
	assert_int_equal(back.len, sizeof all);
	assert_memory_equal(back.data, all, sizeof all);
	kt_buf_free(&text);
	kt_buf_free(&back);
}

static void hex_takes_both_cases_and_appends(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf out = KT_BUF_INIT;
	assert_kt_ok(kt_hex_decode("aBCd", 4, &out, &err));
	assert_kt_ok(kt_hex_decode("", 0, &out, &err));
	assert_kt_ok(kt_hex_decode("00", 2, &out, &err));
	assert_int_equal(out.len, 3);
	assert_memory_equal(out.data, "\xab\xcd\x00", 3);
	kt_buf_free(&out);
}

static void hex_refuses_what_is_not_hex(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf out = KT_BUF_INIT;
	assert_kt_fails(KT_E_INPUT, kt_hex_decode("abc", 3, &out, &err));
	const char *const bad[] = {"0g", "g0", "0x", " 0", "0\n", "\xff\xff", "ab0g"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_kt_fails(KT_E_INPUT, kt_hex_decode(bad[i], strlen(bad[i]), &out, &err));
		assert_true(kt_buf_sane(&out));
	}
	kt_buf_free(&out);
}

/* RFC 4648 §10. */
static const char *const vectors[][2] = {{"", ""},
					 {"f", "Zg=="},
					 {"fo", "Zm8="},
					 {"foo", "Zm9v"},
					 {"foob", "Zm9vYg=="},
					 {"fooba", "Zm9vYmE="},
					 {"foobar", "Zm9vYmFy"}};

static void base64_vectors(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
		kt_buf text = KT_BUF_INIT;
		kt_buf back = KT_BUF_INIT;
		assert_kt_ok(kt_base64_encode(vectors[i][0], strlen(vectors[i][0]), &text, &err));
		assert_string_equal(kt_buf_cstr(&text), vectors[i][1]);
		assert_kt_ok(kt_base64_decode(vectors[i][1], strlen(vectors[i][1]), &back, &err));
		assert_string_equal(kt_buf_cstr(&back), vectors[i][0]);
		assert_int_equal(back.len, strlen(vectors[i][0]));
		kt_buf_free(&text);
		kt_buf_free(&back);
	}
}

static void base64_is_strict(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf out = KT_BUF_INIT;
	const char *const bad[] = {"A",    "AB",    "ABC",    "A===", "====", "=ABC",         "A=BC",
				   "AB=C", "AB==A", "ABCD\n", " ABC", "AB C", "Zm9vYg==Zg==", "AB_-"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_kt_fails(KT_E_INPUT, kt_base64_decode(bad[i], strlen(bad[i]), &out, &err));
		assert_int_equal(out.len, 0);
		assert_true(kt_buf_sane(&out));
	}
	assert_kt_fails(KT_E_INPUT, kt_base64_decode("AB\0D", 4, &out, &err));
	kt_buf_free(&out);
}

/* Every byte of a text set to every value: what is accepted must encode to a text of the same length. */
static void base64_survives_every_flip(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	for (size_t at = 0; at < 8; at++) {
		for (unsigned value = 0; value < 256; value++) {
			char text[] = "Zm9vYmE=";
			kt_buf out = KT_BUF_INIT;
			text[at] = (char)value;
			if (kt_base64_decode(text, 8, &out, &err) == KT_OK)
				assert_in_range(out.len, 4, 6);
			assert_true(kt_buf_sane(&out));
			kt_buf_free(&out);
		}
	}
}

static void sha256_vectors(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	char hex[KT_SHA256_HEX];
	/* FIPS 180-4 examples. */
	assert_kt_ok(kt_sha256_hex("abc", 3, hex, &err));
	assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	assert_kt_ok(kt_sha256_hex(NULL, 0, hex, &err));
	assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	uint8_t raw[KT_SHA256_LEN];
	assert_kt_ok(kt_sha256("abc", 3, raw, &err));
	assert_int_equal(raw[0], 0xba);
	assert_int_equal(raw[31], 0xad);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hex_round_trip),
		cmocka_unit_test(hex_takes_both_cases_and_appends),
		cmocka_unit_test(hex_refuses_what_is_not_hex),
		cmocka_unit_test(base64_vectors),
		cmocka_unit_test(base64_is_strict),
		cmocka_unit_test(base64_survives_every_flip),
		cmocka_unit_test(sha256_vectors),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

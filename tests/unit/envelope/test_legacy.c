/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/codec.h"
#include "envelope/legacy.h"

static const char content[] = "an item of the legacy form, of three blocks.";

/* Made by: openssl enc -aes-128-cbc -K 000102030405060708090a0b0c0d0e0f -iv 101112131415161718191a1b1c1d1e1f */
static const char made[] =
	"4b544c31101112131415161718191a1b1c1d1e1f"
	"2a3364777e3017c39626c8ec4150d26b744fea5ea22fea3ad8ad57fc9f697bffaccb09ed0e42de8ab3e85c20a2cc0294";

enum { HEAD = 20 };

static kt_secret key;
static kt_buf item;

static int set_up(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	if (kt_secret_setup(&err) != KT_OK || kt_secret_new(&key, KT_LEGACY_KEY_LEN, &err) != KT_OK)
		return -1;
	for (uint8_t i = 0; i < KT_LEGACY_KEY_LEN; i++)
		key.data[i] = i;
	return kt_hex_decode(made, strlen(made), &item, &err) != KT_OK;
}

static int tear_down(void **state)
{
	(void)state;
	kt_secret_free(&key);
	kt_buf_free(&item);
	return 0;
}

/* Of an exact copy on the heap, so that a sanitizer sees any read beyond the end. */
static kt_code open_it(const uint8_t *bytes, size_t n, kt_buf *out, kt_err *err)
{
	uint8_t *copy = malloc(n ? n : 1);
	assert_non_null(copy);
	memcpy(copy, bytes, n);
	kt_buf_clear(out);
	kt_code rc = kt_legacy_open(&key, copy, n, out, err);
	assert_true(rc == KT_OK || out->len == 0);
	free(copy);
	return rc;
}

static void opens(void **state)
{
	(void)state;
	kt_buf out = KT_BUF_INIT;
	assert_true(kt_legacy_is(item.data, item.len));
	assert_int_equal(open_it(item.data, item.len, &out, NULL), KT_OK);
	assert_string_equal(kt_buf_cstr(&out), content);
	kt_buf_free(&out);
}

/* There is no tag: of a changed byte only the magic and the last block's padding tell. What opens is never the content.
 */
static void every_byte_flipped(void **state)
{
	(void)state;
	kt_buf out = KT_BUF_INIT;
	for (size_t i = 0; i < item.len * 8; i++) {
		kt_err err = KT_ERR_INIT;
		item.data[i / 8] ^= (uint8_t)(1 << i % 8);
		kt_code rc = open_it(item.data, item.len, &out, &err);
		item.data[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_true(rc == KT_OK || rc == KT_E_INPUT);
		if (i / 8 < 4)
			assert_non_null(strstr(err.msg, "does not begin with KTL1 (offset 0)"));
		else if (rc != KT_OK)
			assert_true(i / 8 >= item.len - 32 && strstr(err.msg, "its padding is wrong"));
		else
			assert_string_not_equal(kt_buf_cstr(&out), content);
	}
	kt_buf_free(&out);
}

static void truncated_everywhere(void **state)
{
	(void)state;
	kt_buf out = KT_BUF_INIT;
	for (size_t n = 0; n < item.len; n++) {
		kt_err err = KT_ERR_INIT;
		kt_code rc = open_it(item.data, n, &out, &err);
		if (n < 4)
			assert_non_null(strstr(err.msg, "KTL1"));
		else if (n < HEAD + 16 || (n - HEAD) % 16 != 0)
			assert_non_null(strstr(err.msg, "are not a header and whole blocks"));
		else /* whole blocks: the padding alone is missing */
			assert_non_null(strstr(err.msg, "its padding is wrong"));
		assert_int_equal(rc, KT_E_INPUT);
	}
	kt_buf_free(&out);
}

static void other_keys_and_forms(void **state)
{
	(void)state;
	kt_buf out = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	kt_secret longer;
	assert_int_equal(kt_secret_new(&longer, 32, NULL), KT_OK);
	assert_int_equal(kt_legacy_open(&longer, item.data, item.len, &out, &err), KT_E_KEY);
	assert_non_null(strstr(err.msg, "16 bytes"));
	kt_secret_free(&longer);
	key.data[0] ^= 1;
	assert_int_equal(open_it(item.data, item.len, &out, NULL), KT_E_INPUT);
	key.data[0] ^= 1;
	/* no other version, and no envelope, is taken for it */
	item.data[3] = '2';
	assert_false(kt_legacy_is(item.data, item.len));
	assert_int_equal(open_it(item.data, item.len, &out, NULL), KT_E_INPUT);
	item.data[3] = '1';
	assert_false(kt_legacy_is("KTEV", 4));
	assert_false(kt_legacy_is("KTL", 3));
	kt_buf_free(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(opens),
		cmocka_unit_test(every_byte_flipped),
		cmocka_unit_test(truncated_everywhere),
		cmocka_unit_test(other_keys_and_forms),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}

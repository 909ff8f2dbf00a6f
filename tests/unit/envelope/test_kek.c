/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "envelope/kek.h"

static kt_keystore *one, *two;

static int set_up(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	if (kt_secret_setup(&err) != KT_OK)
		return -1;
	(void)setenv("KEK_TEST_ONE", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", 1);
	(void)setenv("KEK_TEST_TWO", "IAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", 1);
	return kt_keystore_open("env:KEK_TEST_ONE", &one, &err) != KT_OK ||
	       kt_keystore_open("env:KEK_TEST_TWO", &two, &err) != KT_OK;
}

static int tear_down(void **state)
{
	(void)state;
	kt_keystore_close(one);
	kt_keystore_close(two);
	return 0;
}

static void round_trip(void **state)
{
	(void)state;
	kt_kek made, opened;
	kt_kek_info info;
	char kcv[KT_KCV_TEXT];
	kt_buf record = KT_BUF_INIT;
	assert_int_equal(kt_kek_make(one, 7, 1795469798642, &made, &record, NULL), KT_OK);
	assert_null(memmem(record.data, record.len, made.key.data, made.key.len));
	assert_int_equal(kt_kek_inspect(record.data, record.len, &info, NULL), KT_OK);
	assert_int_equal(info.generation, 7);
	assert_int_equal(info.created_ms, 1795469798642);
	assert_int_equal(kt_kcv_of(&made.key, kcv, NULL), KT_OK);
	assert_string_equal(info.kcv, kcv);
	assert_string_equal(info.cmk_kcv, kt_keystore_kcv(one));
	assert_int_equal(kt_kek_open(record.data, record.len, one, &opened, NULL), KT_OK);
	assert_true(kt_secret_equal(&made.key, &opened.key));
	assert_memory_equal(made.id, opened.id, KT_KEK_ID_LEN);
	assert_int_equal(opened.generation, 7);
	kt_kek_free(&made);
	kt_kek_free(&opened);
	kt_buf_free(&record);
}

static void moved_to_another_cmk(void **state)
{
	(void)state;
	kt_kek made, opened;
	kt_kek_info before, after;
	kt_buf old = KT_BUF_INIT, record = KT_BUF_INIT;
	assert_int_equal(kt_kek_make(one, 7, 1000, &made, &old, NULL), KT_OK);
	assert_int_equal(kt_kek_wrap(&made, two, 1000, &record, NULL), KT_OK);
	assert_int_equal(kt_kek_inspect(old.data, old.len, &before, NULL), KT_OK);
	assert_int_equal(kt_kek_inspect(record.data, record.len, &after, NULL), KT_OK);
	assert_string_equal(after.id, before.id);
	assert_string_equal(after.kcv, before.kcv);
	assert_int_equal(after.generation, 7);
	assert_string_equal(after.cmk_kcv, kt_keystore_kcv(two));
	assert_int_equal(kt_kek_open(record.data, record.len, one, &opened, NULL), KT_E_KEY);
	assert_int_equal(kt_kek_open(record.data, record.len, two, &opened, NULL), KT_OK);
	assert_true(kt_secret_equal(&made.key, &opened.key));
	kt_kek_free(&made);
	kt_kek_free(&opened);
	kt_buf_free(&old);
	kt_buf_free(&record);
}

/* The same, in one: what comes out of it has the old record's id, generation and time. */
static void moved_in_one(void **state)
{
	(void)state;
	kt_kek made, moved, opened;
	kt_kek_info after;
	kt_err err = KT_ERR_INIT;
	kt_buf old = KT_BUF_INIT, record = KT_BUF_INIT;
	assert_int_equal(kt_kek_make(one, 7, 1000, &made, &old, NULL), KT_OK);
	assert_int_equal(kt_kek_move(old.data, old.len, one, two, &moved, &record, NULL), KT_OK);
	assert_int_equal(kt_kek_inspect(record.data, record.len, &after, NULL), KT_OK);
	assert_int_equal(after.created_ms, 1000);
	assert_string_equal(after.cmk_kcv, kt_keystore_kcv(two));
	assert_int_equal(kt_kek_open(record.data, record.len, two, &opened, NULL), KT_OK);
	assert_true(kt_secret_equal(&made.key, &opened.key) && kt_secret_equal(&made.key, &moved.key));
	assert_memory_equal(made.id, moved.id, KT_KEK_ID_LEN);
	assert_memory_equal(made.id, opened.id, KT_KEK_ID_LEN);
	assert_int_equal(moved.generation, 7);
	assert_int_equal(opened.generation, 7);
	kt_kek_free(&opened);
	kt_kek_free(&moved);
	kt_buf_clear(&record);
	assert_int_equal(kt_kek_move(old.data, old.len, two, one, &moved, &record, &err), KT_E_KEY);
	assert_non_null(strstr(err.msg, "env:KEK_TEST_TWO"));
	for (size_t i = 0; i < old.len; i++) {
		old.data[i] ^= 1;
		assert_int_not_equal(kt_kek_move(old.data, old.len, one, two, &moved, &record, NULL), KT_OK);
		assert_int_equal(moved.key.len, 0);
		assert_int_equal(record.len, 0);
		old.data[i] ^= 1;
	}
	kt_kek_free(&made);
	kt_buf_free(&old);
	kt_buf_free(&record);
}

static void another_cmk(void **state)
{
	(void)state;
	kt_kek kek;
	kt_err err = KT_ERR_INIT;
	kt_buf record = KT_BUF_INIT;
	assert_int_equal(kt_kek_make(one, 1, 0, &kek, &record, NULL), KT_OK);
	kt_kek_free(&kek);
	assert_int_equal(kt_kek_open(record.data, record.len, two, &kek, &err), KT_E_KEY);
	assert_int_equal(kek.key.len, 0);
	assert_non_null(strstr(err.msg, kt_keystore_kcv(one)));
	assert_non_null(strstr(err.msg, kt_keystore_kcv(two)));
	assert_non_null(strstr(err.msg, "env:KEK_TEST_TWO"));
	kt_buf_free(&record);
}

/* What is said of a changed byte at `from` and after it, up to the next row (docs/FORMATS.md, "Envelope"). Counted from
 * the end where negative. */
static const struct said {
	long from;
	const char *what;
} said[] = {{0, "does not begin with KTKR (offset 0)"},
	    {4, "is not known (offset 4)"},
	    {5, "a reserved byte is not zero (offset 5)"},
	    {6, "bytes of wrapped key, there are"},
	    {8, "it was altered (its MAC at offset"}, /* id, generation */
	    {28, "offset"},                           /* time: out of range, or altered */
	    {29, "it was altered (its MAC at offset"},
	    {36, "a reserved byte is not zero (offset "},
	    {48, ""}, /* the wrapped key: tests/unit/pkcs11/test_blob.c */
	    {-KT_KEK_RECORD_MAC, "it was altered (its MAC at offset"}};

static const char *said_of(size_t at, size_t len)
{
	const char *what = "";
	for (size_t i = 0; i < sizeof said / sizeof said[0]; i++)
		if ((said[i].from < 0 ? len - (size_t)-said[i].from : (size_t)said[i].from) <= at)
			what = said[i].what;
	return what;
}

static void every_byte_flipped(void **state)
{
	(void)state;
	kt_kek kek;
	kt_buf record = KT_BUF_INIT;
	assert_int_equal(kt_kek_make(one, 7, 5, &kek, &record, NULL), KT_OK);
	kt_kek_free(&kek);
	for (size_t i = 0; i < record.len * 8; i++) {
		kt_err err = KT_ERR_INIT;
		record.data[i / 8] ^= (uint8_t)(1 << i % 8);
		kt_code rc = kt_kek_open(record.data, record.len, one, &kek, &err);
		record.data[i / 8] ^= (uint8_t)(1 << i % 8);
		bool in_blob = i / 8 >= 48 && i / 8 < record.len - KT_KEK_RECORD_MAC;
		if (rc == KT_OK || (!in_blob && rc != KT_E_INPUT) || !err.msg[0] ||
		    !strstr(err.msg, said_of(i / 8, record.len)))
			fail_msg("bit %zu: %s: %s", i, kt_code_name(rc), err.msg);
		assert_int_equal(kek.key.len, 0);
	}
	assert_int_equal(kt_kek_open(record.data, record.len, one, &kek, NULL), KT_OK);
	kt_kek_free(&kek);
	kt_buf_free(&record);
}

static void truncated_everywhere(void **state)
{
	(void)state;
	kt_kek kek;
	kt_buf record = KT_BUF_INIT;
	assert_int_equal(kt_kek_make(one, 1, 5, &kek, &record, NULL), KT_OK);
	kt_kek_free(&kek);
	for (size_t n = 0; n < record.len; n++) {
		kt_err err = KT_ERR_INIT;
		uint8_t *copy = malloc(n + 1);
		assert_non_null(copy);
		memcpy(copy, record.data, n);
		assert_int_equal(kt_kek_open(copy, n, one, &kek, &err), KT_E_INPUT);
		assert_non_null(strstr(err.msg, n < 80 ? "ends at offset" : "bytes of wrapped key, there are"));
		free(copy);
	}
	assert_int_equal(kt_buf_append(&record, "", 1, NULL), KT_OK);
	assert_int_equal(kt_kek_open(record.data, record.len, one, &kek, NULL), KT_E_INPUT);
	assert_int_equal(kt_kek_open(record.data, record.len - 1, one, &kek, NULL), KT_OK);
	kt_kek_free(&kek);
	kt_buf_free(&record);
}

/* The parts of two records of one CMK: head, wrapped key, MAC. Only the whole one opens. */
static void parts_swapped_between_records(void **state)
{
	(void)state;
	kt_kek kek;
	kt_buf r[2] = {KT_BUF_INIT, KT_BUF_INIT}, mixed = KT_BUF_INIT;
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(kt_kek_make(one, 1, 5, &kek, &r[i], NULL), KT_OK);
		kt_kek_free(&kek);
	}
	assert_int_equal(r[0].len, r[1].len);
	size_t cut[] = {0, 8, 24, 28, 36, 48, r[0].len - KT_KEK_RECORD_MAC, r[0].len};
	enum { PARTS = sizeof cut / sizeof cut[0] - 1 };
	for (unsigned from = 0; from < 1u << PARTS; from++) {
		kt_err err = KT_ERR_INIT;
		kt_buf_clear(&mixed);
		for (size_t p = 0; p < PARTS; p++)
			assert_int_equal(
				kt_buf_append(&mixed, r[from >> p & 1].data + cut[p], cut[p + 1] - cut[p], NULL),
				KT_OK);
		bool whole =
			memcmp(mixed.data, r[0].data, mixed.len) == 0 || memcmp(mixed.data, r[1].data, mixed.len) == 0;
		assert_int_equal(kt_kek_open(mixed.data, mixed.len, one, &kek, &err), whole ? KT_OK : KT_E_INPUT);
		assert_true(whole || strstr(err.msg, "KEK record: it was altered"));
		kt_kek_free(&kek);
	}
	kt_buf_free(&r[0]);
	kt_buf_free(&r[1]);
	kt_buf_free(&mixed);
}

static void malformed_fields_are_named(void **state)
{
	(void)state;
	static const struct {
		size_t at;
		uint8_t value;
		const char *says;
	} c[] = {{0, 'X', "offset 0"},  {4, 3, "version 3"},  {5, 1, "offset 5"},
		 {6, 0xff, "offset 6"}, {27, 0, "offset 24"}, {28, 0x80, "offset 28"},
		 {36, 1, "offset 36"},  {47, 1, "offset 47"}, {48, 'x', "offset 48"}};
	kt_kek kek;
	kt_kek_info info;
	kt_buf record = KT_BUF_INIT;
	assert_int_equal(kt_kek_make(one, 1, 5, &kek, &record, NULL), KT_OK);
	kt_kek_free(&kek);
	for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
		kt_err err = KT_ERR_INIT;
		uint8_t kept = record.data[c[i].at];
		record.data[c[i].at] = c[i].value;
		assert_int_equal(kt_kek_inspect(record.data, record.len, &info, &err), KT_E_INPUT);
		assert_non_null(strstr(err.msg, c[i].says));
		record.data[c[i].at] = kept;
	}
	kt_buf_free(&record);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(moved_to_another_cmk),
		cmocka_unit_test(moved_in_one),
		cmocka_unit_test(another_cmk),
		cmocka_unit_test(every_byte_flipped),
		cmocka_unit_test(truncated_everywhere),
		cmocka_unit_test(parts_swapped_between_records),
		cmocka_unit_test(malformed_fields_are_named),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* libkeyturn-envelope as an application sees it: the shared library and its header, nothing of ours inside. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "envelope/keyturn-envelope.h"

static const char plain[] = "some content that is worth keeping";
enum { PLAIN = sizeof plain - 1, SEALED = PLAIN + KTE_OVERHEAD };

static kte_keystore *one, *two; /* two CMKs */
static kte_kek *a, *b;          /* two KEKs */
static uint8_t record[KTE_RECORD_MAX];
static size_t record_len;
static int dumpable_before;
static struct rlimit core_before;

static kte_kek *make_kek(void)
{
	kte_kek *kek;
	kte_error err;
	if (kte_kek_make(one, 1, 1795469798642, &kek, record, sizeof record, &record_len, &err) != KTE_OK)
		fail_msg("%s", err.message);
	return kek;
}

static int set_up(void **state)
{
	(void)state;
	dumpable_before = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
	(void)getrlimit(RLIMIT_CORE, &core_before);
	(void)setenv("API_TEST_ONE", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", 1);
	(void)setenv("API_TEST_TWO", "IAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", 1);
	if (kte_keystore_open("env:API_TEST_ONE", &one, NULL) != KTE_OK ||
	    kte_keystore_open("env:API_TEST_TWO", &two, NULL) != KTE_OK)
		return -1;
	b = make_kek();
	a = make_kek(); /* `record` is that of a */
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	kte_kek_close(a);
	kte_kek_close(b);
	kte_keystore_close(one);
	kte_keystore_close(two);
	return 0;
}

static void seal(kte_kek *kek, const char *name, uint8_t out[SEALED])
{
	assert_int_equal(kte_seal(kek, name, plain, PLAIN, out, SEALED, NULL), KTE_OK);
}

/* Of an exact copy on the heap, so that a sanitizer sees any read beyond the end. */
static kte_code open_it(kte_kek *kek, const char *name, const uint8_t *bytes, size_t n, kte_error *err)
{
	uint8_t *copy = malloc(n ? n : 1), *out = calloc(1, n > KTE_OVERHEAD ? n - KTE_OVERHEAD : 1);
	size_t len = 99;
	assert_true(copy && out);
	memcpy(copy, bytes, n);
	kte_code rc = kte_open(kek, name, copy, n, out, n > KTE_OVERHEAD ? n - KTE_OVERHEAD : 0, &len, err);
	if (rc == KTE_OK)
		assert_true(len == PLAIN && memcmp(out, plain, len) == 0);
	else
		assert_true(len == 0 && (n <= KTE_OVERHEAD || memcmp(out, plain, n - KTE_OVERHEAD) != 0));
	free(copy);
	free(out);
	return rc;
}

static void round_trip(void **state)
{
	(void)state;
	uint8_t env[SEALED], empty[KTE_OVERHEAD], none[1];
	kte_info info;
	size_t len = 99;
	seal(a, "item", env);
	assert_int_equal(open_it(a, "item", env, SEALED, NULL), KTE_OK);
	assert_int_equal(kte_inspect(env, SEALED, &info, NULL), KTE_OK);
	assert_true(info.version == 1 && info.content_len == PLAIN);
	assert_int_equal(strlen(info.id), 32);
	assert_int_equal(kte_seal(a, "item", NULL, 0, empty, sizeof empty, NULL), KTE_OK);
	assert_int_equal(kte_open(a, "item", empty, sizeof empty, none, 0, &len, NULL), KTE_OK);
	assert_int_equal(len, 0);
	assert_string_equal(kte_code_name(KTE_E_INPUT), "input");
	assert_int_equal(kte_version()[1], '.');
}

static void records(void **state)
{
	(void)state;
	uint8_t env[SEALED], other[KTE_RECORD_MAX];
	kte_error err;
	kte_kek *kek;
	kte_kek_info info;
	size_t len;
	seal(a, "item", env);
	assert_int_equal(kte_kek_open(two, record, record_len, &kek, &err), KTE_E_KEY);
	assert_null(kek);
	assert_non_null(strstr(err.message, kte_keystore_check_value(one)));
	assert_non_null(strstr(err.message, kte_keystore_check_value(two)));
	assert_non_null(strstr(err.message, kte_keystore_uri(two)));
	assert_int_equal(kte_kek_wrap(a, two, 5, other, sizeof other, &len, NULL), KTE_OK);
	assert_int_equal(kte_kek_open(two, other, len, &kek, NULL), KTE_OK);
	assert_int_equal(open_it(kek, "item", env, SEALED, NULL), KTE_OK);
	kte_kek_close(kek);
	assert_int_equal(kte_kek_inspect(other, len, &info, NULL), KTE_OK);
	assert_true(info.generation == 1 && info.created_ms == 5);
	assert_string_equal(info.cmk_check_value, kte_keystore_check_value(two));
}

static void moved_and_encrypted_anew(void **state)
{
	(void)state;
	uint8_t env[SEALED], before[SEALED];
	seal(a, "item", env);
	memcpy(before, env, SEALED);
	assert_int_equal(kte_rewrap(a, b, "item", env, SEALED, NULL), KTE_OK);
	assert_memory_equal(env + KTE_HEAD, before + KTE_HEAD, SEALED - KTE_HEAD);
	assert_int_equal(open_it(a, "item", env, SEALED, NULL), KTE_E_KEY);
	assert_int_equal(open_it(b, "item", env, SEALED, NULL), KTE_OK);
	assert_int_equal(kte_reseal(b, a, "item", env, SEALED, NULL), KTE_OK);
	assert_memory_not_equal(env + KTE_HEAD, before + KTE_HEAD, SEALED - KTE_HEAD);
	assert_int_equal(open_it(a, "item", env, SEALED, NULL), KTE_OK);
}

/* --- Damage: refused, and named ----------------------------------------------------------------------------------- */

/* What is said of a changed byte at `from` and after it, up to the next row (docs/FORMATS.md, "Envelope"). */
static const struct said {
	size_t from;
	kte_code code;
	const char *what;
} said[] = {
	{0, KTE_E_INPUT, "does not begin with KTEV (offset 0)"},
	{4, KTE_E_INPUT, "is not known (offset 4)"},
	{5, KTE_E_INPUT, "is not known (offset 5)"},
	{6, KTE_E_INPUT, "reserved bytes are not zero (offset 6)"},
	{8, KTE_E_INPUT, "its header was altered, or it belongs to another item (tag at offset 104)"}, /* id */
	{24, KTE_E_INPUT, "(offset 24)"},                                                              /* length */
	{32, KTE_E_INPUT, "its header was altered, or it belongs to another item (tag at offset 104)"},
	{44, KTE_E_KEY, "it is under the KEK"},
	{60, KTE_E_INPUT, "its header was altered, or it belongs to another item (tag at offset 104)"},
	{120, KTE_E_INPUT, "its content was altered (tag at offset 154)"},
	{SEALED, KTE_OK, ""},
};

static const struct said *said_of(size_t at)
{
	const struct said *s = said;
	while (s[1].from <= at)
		s++;
	return s;
}

static void check_said(const char *name, size_t at, kte_code rc, const kte_error *err)
{
	const struct said *s = said_of(at);
	if (rc != s->code || err->code != rc || !strstr(err->message, s->what) || !strstr(err->message, name))
		fail_msg("byte %zu: %s: %s", at, kte_code_name(rc), err->message);
}

static void every_byte_flipped(void **state)
{
	(void)state;
	uint8_t env[SEALED], work[SEALED];
	seal(a, "customer/17", env);
	for (size_t at = 0; at < SEALED; at++)
		for (int bit = 0; bit < 8; bit++) {
			kte_error err = {KTE_OK, "", ""};
			env[at] ^= (uint8_t)(1 << bit);
			check_said("item \"customer/17\"", at, open_it(a, "customer/17", env, SEALED, &err), &err);
			memcpy(work, env, SEALED);
			kte_code rc = kte_rewrap(a, b, "customer/17", work, SEALED, &err);
			if (at < KTE_HEAD)
				check_said("item \"customer/17\"", at, rc, &err);
			assert_true((rc == KTE_OK) == (at >= KTE_HEAD)); /* the content is not looked at */
			assert_true(rc == KTE_OK || memcmp(work, env, SEALED) == 0);
			memcpy(work, env, SEALED);
			rc = kte_reseal(a, b, "customer/17", work, SEALED, &err);
			check_said("item \"customer/17\"", at, rc, &err);
			env[at] ^= (uint8_t)(1 << bit);
		}
	assert_int_equal(open_it(a, "customer/17", env, SEALED, NULL), KTE_OK);
}

static void truncated_everywhere(void **state)
{
	(void)state;
	uint8_t env[SEALED + 1] = {0};
	seal(a, "item", env);
	for (size_t n = 0; n <= SEALED + 1; n++) {
		kte_error err = {KTE_OK, "", ""};
		char what[64];
		if (n == SEALED)
			continue;
		assert_int_equal(open_it(a, "item", env, n, &err), KTE_E_INPUT);
		(void)snprintf(what, sizeof what, n < KTE_OVERHEAD ? "ends at offset %zu" : "there are %zu (offset 24)",
			       n < KTE_OVERHEAD ? n : n - KTE_OVERHEAD);
		if (!strstr(err.message, what) || !strstr(err.message, "item \"item\""))
			fail_msg("%zu bytes: %s", n, err.message);
	}
}

/* Every version that is not ours, of an envelope and of a record. */
static void other_versions(void **state)
{
	(void)state;
	uint8_t env[SEALED], rec[KTE_RECORD_MAX];
	seal(a, "item", env);
	memcpy(rec, record, record_len);
	for (int v = 0; v < 256; v++) {
		kte_error err = {KTE_OK, "", ""};
		kte_kek *kek;
		char what[64];
		(void)snprintf(what, sizeof what, "version %d is not known (offset 4)", v);
		env[4] = rec[4] = (uint8_t)v;
		kte_code rc = open_it(a, "item", env, SEALED, &err);
		assert_true(v == 1 ? rc == KTE_OK : rc == KTE_E_INPUT && strstr(err.message, what) != NULL);
		rc = kte_kek_open(one, rec, record_len, &kek, &err);
		assert_true(v == 1 ? rc == KTE_OK : rc == KTE_E_INPUT && strstr(err.message, what) != NULL);
		kte_kek_close(kek);
	}
}

/* Each part of one item's envelope in that of another, of the same length and under the same KEK. */
static void parts_swapped_between_items(void **state)
{
	(void)state;
	static const size_t cut[] = {0, 4, 5, 6, 8, 24, 32, 44, 60, 72, 104, 120, 154, SEALED};
	enum { PARTS = sizeof cut / sizeof cut[0] - 1 };
	uint8_t alice[SEALED], bob[SEALED], mixed[SEALED];
	seal(a, "alice", alice);
	seal(a, "bob", bob);
	for (unsigned from_bob = 0; from_bob < 1u << PARTS; from_bob++) {
		kte_error err = {KTE_OK, "", ""};
		for (size_t p = 0; p < PARTS; p++)
			memcpy(mixed + cut[p], (from_bob >> p & 1 ? bob : alice) + cut[p], cut[p + 1] - cut[p]);
		bool as_alice = memcmp(mixed, alice, SEALED) == 0, as_bob = memcmp(mixed, bob, SEALED) == 0;
		kte_code rc = open_it(a, "alice", mixed, SEALED, &err);
		assert_int_equal(rc, as_alice ? KTE_OK : KTE_E_INPUT);
		assert_true(as_alice || (strstr(err.message, "item \"alice\"") && strstr(err.message, "altered")));
		rc = open_it(a, "bob", mixed, SEALED, &err);
		assert_int_equal(rc, as_bob ? KTE_OK : KTE_E_INPUT);
		assert_true(as_bob || (strstr(err.message, "item \"bob\"") && strstr(err.message, "altered")));
	}
}

/* What an earlier rekey replaced does not fit what it left: parts of the item's own older envelopes. */
static void parts_swapped_between_generations(void **state)
{
	(void)state;
	uint8_t env[SEALED], old[SEALED], mixed[SEALED];
	seal(a, "item", env);
	memcpy(old, env, SEALED);
	assert_int_equal(kte_reseal(a, a, "item", env, SEALED, NULL), KTE_OK);
	for (size_t from = 0; from < SEALED; from++)
		for (size_t to = from + 1; to <= SEALED; to++) {
			memcpy(mixed, env, SEALED);
			memcpy(mixed + from, old + from, to - from);
			if (memcmp(mixed, env, SEALED) == 0 || memcmp(mixed, old, SEALED) == 0)
				continue;
			size_t len;
			uint8_t out[PLAIN];
			kte_error err;
			assert_int_equal(kte_open(a, "item", mixed, SEALED, out, PLAIN, &len, &err), KTE_E_INPUT);
			assert_non_null(strstr(err.message, "altered"));
		}
}

/* --- How it is called --------------------------------------------------------------------------------------------- */

static void names_are_shown_safely(void **state)
{
	(void)state;
	uint8_t env[SEALED];
	kte_error err;
	char name[KTE_NAME_MAX + 2];
	seal(a, "item", env);
	assert_int_equal(open_it(a, "a\n\"\x1b[31m", env, SEALED, &err), KTE_E_INPUT);
	assert_non_null(strstr(err.message, "item \"a\\x0a\\x22\\x1b[31m\": "));
	memset(name, 'n', sizeof name);
	name[sizeof name - 1] = '\0';
	assert_int_equal(kte_seal(a, name, "x", 1, env, SEALED, &err), KTE_E_INPUT);
	assert_non_null(strstr(err.message, "nnn...\": the name of an item has 1 to 512 bytes"));
	assert_int_equal(kte_seal(a, "", "x", 1, env, SEALED, NULL), KTE_E_INPUT);
}

static void wrong_calls(void **state)
{
	(void)state;
	uint8_t env[SEALED], small[16];
	kte_error err;
	kte_kek *kek = a;
	size_t len;
	assert_int_equal(kte_seal(NULL, "x", plain, PLAIN, env, SEALED, &err), KTE_E_USAGE);
	assert_non_null(strstr(err.message, "NULL"));
	assert_int_equal(kte_seal(a, "x", plain, PLAIN, env, SEALED - 1, &err), KTE_E_USAGE);
	assert_non_null(strstr(err.message, "KTE_OVERHEAD"));
	assert_int_equal(kte_seal(a, "x", plain, SIZE_MAX - 8, env, SEALED, NULL), KTE_E_INPUT);
	seal(a, "x", env);
	assert_int_equal(kte_open(a, "x", env, SEALED, small, sizeof small, &len, &err), KTE_E_USAGE);
	assert_int_equal(kte_kek_make(one, 0, 0, &kek, env, SEALED, &len, NULL), KTE_E_USAGE);
	assert_null(kek);
	assert_int_equal(kte_kek_make(one, 1, 0, &kek, small, sizeof small, &len, &err), KTE_E_USAGE);
	assert_null(kek);
	assert_non_null(strstr(err.remedy, "KTE_RECORD_MAX"));
	assert_int_equal(kte_keystore_open(NULL, NULL, NULL), KTE_E_USAGE);
	kte_kek_close(NULL);
	kte_keystore_close(NULL);
}

static void keystores_are_refused_by_name(void **state)
{
	(void)state;
	kte_keystore *ks = one;
	kte_error err;
	assert_int_equal(kte_keystore_open("kmip://host", &ks, &err), KTE_E_INPUT);
	assert_null(ks);
	assert_non_null(strstr(err.message, "kmip:"));
	assert_int_equal(kte_keystore_open("env:API_TEST_THREE", &ks, &err), KTE_E_KEY);
	assert_non_null(strstr(err.remedy, "API_TEST_THREE"));
}

/* What keyturn's programs do first of all, a library may not: the process is another's. */
static void the_process_is_left_alone(void **state)
{
	(void)state;
	struct rlimit core;
	assert_int_equal(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), dumpable_before);
	assert_int_equal(getrlimit(RLIMIT_CORE, &core), 0);
	assert_int_equal(core.rlim_cur, core_before.rlim_cur);
	assert_int_equal(core.rlim_max, core_before.rlim_max);
}

static void *work(void *arg)
{
	(void)arg;
	kte_kek *kek = NULL;
	kte_keystore *ks = NULL;
	uint8_t env[SEALED], out[PLAIN];
	size_t len = 0;
	int good = kte_keystore_open("env:API_TEST_ONE", &ks, NULL) == KTE_OK &&
		   kte_kek_open(ks, record, record_len, &kek, NULL) == KTE_OK;
	for (int i = 0; good && i < 50; i++)
		good = kte_seal(kek, "x", plain, PLAIN, env, SEALED, NULL) == KTE_OK &&
		       kte_open(kek, "x", env, SEALED, out, PLAIN, &len, NULL) == KTE_OK && len == PLAIN;
	kte_kek_close(kek);
	kte_keystore_close(ks);
	return good ? record : NULL; /* anything but NULL */
}

static void handles_in_threads(void **state)
{
	(void)state;
	pthread_t t[4];
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, work, NULL), 0);
	for (size_t i = 0; i < 4; i++) {
		void *good = NULL;
		assert_int_equal(pthread_join(t[i], &good), 0);
		assert_non_null(good);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(records),
		cmocka_unit_test(moved_and_encrypted_anew),
		cmocka_unit_test(every_byte_flipped),
		cmocka_unit_test(truncated_everywhere),
		cmocka_unit_test(other_versions),
		cmocka_unit_test(parts_swapped_between_items),
		cmocka_unit_test(parts_swapped_between_generations),
		cmocka_unit_test(names_are_shown_safely),
		cmocka_unit_test(wrong_calls),
		cmocka_unit_test(keystores_are_refused_by_name),
		cmocka_unit_test(the_process_is_left_alone),
		cmocka_unit_test(handles_in_threads),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}

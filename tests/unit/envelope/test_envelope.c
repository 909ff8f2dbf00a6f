/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "envelope/envelope.h"

static kt_envelope_ctx *a, *b; /* two KEKs */

static kt_envelope_ctx *make_ctx(uint8_t id)
{
	kt_kek kek = {.generation = 1};
	kt_envelope_ctx *ctx;
	memset(kek.id, id, sizeof kek.id);
	assert_int_equal(kt_secret_random(&kek.key, KT_KEK_LEN, NULL), KT_OK);
	assert_int_equal(kt_envelope_ctx_new(&kek, &ctx, NULL), KT_OK);
	kt_kek_free(&kek);
	return ctx;
}

static int set_up(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	if (kt_secret_setup(&err) != KT_OK)
		return -1;
	a = make_ctx(0xaa);
	b = make_ctx(0xbb);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	kt_envelope_ctx_free(a);
	kt_envelope_ctx_free(b);
	return 0;
}

static kt_buf seal(kt_envelope_ctx *ctx, const char *name, const char *text)
{
	kt_buf env = KT_BUF_INIT;
	assert_int_equal(kt_envelope_seal(ctx, name, text, strlen(text), &env, NULL), KT_OK);
	assert_true(kt_buf_sane(&env));
	return env;
}

static kt_code open_it(kt_envelope_ctx *ctx, const char *name, const uint8_t *bytes, size_t n, kt_buf *out, kt_err *err)
{
	/* An exact copy on the heap, so that a sanitizer sees any read beyond the end. */
	uint8_t *copy = malloc(n ? n : 1);
	assert_non_null(copy);
	memcpy(copy, bytes, n);
	kt_code rc = kt_envelope_open(ctx, name, copy, n, out, err);
	free(copy);
	return rc;
}

static void round_trip(void **state)
{
	(void)state;
	static const size_t sizes[] = {0, 1, 15, 16, 17, 1000, 65536};
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		kt_buf env = KT_BUF_INIT, out = KT_BUF_INIT;
		uint8_t *plain = malloc(sizes[i] + 1);
		assert_non_null(plain);
		memset(plain, (int)i + 1, sizes[i] + 1);
		assert_int_equal(kt_envelope_seal(a, "item", plain, sizes[i], &env, NULL), KT_OK);
		assert_int_equal(env.len, KT_ENVELOPE_OVERHEAD + sizes[i]);
		if (sizes[i] >= 16) /* encrypted, and not a copy */
			assert_null(memmem(env.data, env.len, plain, 16));
		assert_int_equal(kt_envelope_open(a, "item", env.data, env.len, &out, NULL), KT_OK);
		assert_int_equal(out.len, sizes[i]);
		assert_memory_equal(out.data, plain, sizes[i]);
		assert_true(kt_buf_sane(&out));
		free(plain);
		kt_buf_free(&env);
		kt_buf_free(&out);
	}
}

static void appends_and_never_repeats(void **state)
{
	(void)state;
	kt_buf one = seal(a, "x", "same content"), two = seal(a, "x", "same content"), out = KT_BUF_INIT;
	assert_int_equal(one.len, two.len);
	assert_memory_not_equal(one.data + 8, two.data + 8, 16);                /* envelope id */
	assert_memory_not_equal(one.data + 32, two.data + 32, 12);              /* content nonce */
	assert_memory_not_equal(one.data + 60, two.data + 60, 12);              /* wrap nonce */
	assert_memory_not_equal(one.data + 72, two.data + 72, 32);              /* wrapped DEK */
	assert_memory_not_equal(one.data + 120, two.data + 120, one.len - 120); /* content */
	assert_int_equal(kt_buf_str(&out, "before ", NULL), KT_OK);
	assert_int_equal(kt_envelope_open(a, "x", one.data, one.len, &out, NULL), KT_OK);
	assert_string_equal(kt_buf_cstr(&out), "before same content");
	kt_buf_free(&one);
	kt_buf_free(&two);
	kt_buf_free(&out);
}

/* Every bit of every byte counts. */
static void flipped(void **state)
{
	(void)state;
	kt_buf env = seal(a, "item", "some content that is worth keeping"), out = KT_BUF_INIT;
	for (size_t i = 0; i < env.len * 8; i++) {
		kt_err err = KT_ERR_INIT;
		env.data[i / 8] ^= (uint8_t)(1 << i % 8);
		kt_code rc = open_it(a, "item", env.data, env.len, &out, &err);
		bool kek_id = i / 8 >= 44 && i / 8 < 60;
		assert_int_equal(rc, kek_id ? KT_E_KEY : KT_E_INPUT);
		assert_non_null(strstr(err.msg, "offset"));
		assert_int_equal(out.len, 0);
		env.data[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	assert_int_equal(open_it(a, "item", env.data, env.len, &out, NULL), KT_OK);
	kt_buf_free(&env);
	kt_buf_free(&out);
}

static void truncated_and_extended(void **state)
{
	(void)state;
	kt_buf env = seal(a, "item", "some content"), out = KT_BUF_INIT;
	for (size_t n = 0; n < env.len; n++)
		assert_int_equal(open_it(a, "item", env.data, n, &out, NULL), KT_E_INPUT);
	size_t whole = env.len;
	for (int i = 0; i < 40; i++) {
		assert_int_equal(kt_buf_append(&env, "", 1, NULL), KT_OK);
		assert_int_equal(open_it(a, "item", env.data, env.len, &out, NULL), KT_E_INPUT);
	}
	assert_int_equal(open_it(a, "item", env.data, whole, &out, NULL), KT_OK);
	kt_buf_free(&env);
	kt_buf_free(&out);
}

static void malformed_headers_are_named(void **state)
{
	(void)state;
	static const struct {
		size_t at;
		uint8_t value;
		const char *says;
	} c[] = {{0, 'X', "offset 0"}, {4, 2, "version 2"}, {5, 9, "algorithm 9"},  {6, 1, "offset 6"},
		 {7, 1, "offset 6"},   {24, 1, "too long"}, {31, 0xff, "offset 24"}};
	kt_buf env = seal(a, "item", "some content");
	for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
		kt_err err = KT_ERR_INIT;
		kt_envelope_info info;
		uint8_t kept = env.data[c[i].at];
		env.data[c[i].at] = c[i].value;
		assert_int_equal(kt_envelope_inspect(env.data, env.len, &info, &err), KT_E_INPUT);
		assert_non_null(strstr(err.msg, c[i].says));
		env.data[c[i].at] = kept;
	}
	kt_buf_free(&env);
}

static void swapped_items(void **state)
{
	(void)state;
	kt_buf one = seal(a, "alice", "content of alice"), two = seal(a, "bob", "content of bob!!"), out = KT_BUF_INIT;
	assert_int_equal(open_it(a, "bob", one.data, one.len, &out, NULL), KT_E_INPUT);
	assert_int_equal(open_it(a, "alice", two.data, two.len, &out, NULL), KT_E_INPUT);
	assert_int_equal(open_it(a, "alic", one.data, one.len, &out, NULL), KT_E_INPUT);
	assert_int_equal(open_it(a, "alice2", one.data, one.len, &out, NULL), KT_E_INPUT);
	/* the content of one under the header of the other, and the wrapped DEK of one in the other */
	kt_buf mixed = KT_BUF_INIT;
	assert_int_equal(kt_buf_append(&mixed, one.data, 120, NULL), KT_OK);
	assert_int_equal(kt_buf_append(&mixed, two.data + 120, two.len - 120, NULL), KT_OK);
	assert_int_equal(open_it(a, "alice", mixed.data, mixed.len, &out, NULL), KT_E_INPUT);
	memcpy(mixed.data, one.data, 44);
	memcpy(mixed.data + 44, two.data + 44, 76);
	assert_int_equal(open_it(a, "alice", mixed.data, mixed.len, &out, NULL), KT_E_INPUT);
	assert_int_equal(open_it(a, "bob", mixed.data, mixed.len, &out, NULL), KT_E_INPUT);
	assert_int_equal(out.len, 0);
	kt_buf_free(&mixed);
	kt_buf_free(&one);
	kt_buf_free(&two);
	kt_buf_free(&out);
}

/* The KEK's id is bound too, not only looked at: the same key under another id does not open it. */
static void kek_id_is_bound(void **state)
{
	(void)state;
	kt_envelope_ctx *same_key[2];
	kt_kek kek = {.generation = 1};
	kt_buf out = KT_BUF_INIT;
	assert_int_equal(kt_secret_random(&kek.key, KT_KEK_LEN, NULL), KT_OK);
	for (uint8_t i = 0; i < 2; i++) {
		memset(kek.id, i, sizeof kek.id);
		assert_int_equal(kt_envelope_ctx_new(&kek, &same_key[i], NULL), KT_OK);
	}
	kt_kek_free(&kek);
	kt_buf env = seal(same_key[0], "item", "content");
	memset(env.data + 44, 1, 16);
	assert_int_equal(open_it(same_key[1], "item", env.data, env.len, &out, NULL), KT_E_INPUT);
	memset(env.data + 44, 0, 16);
	assert_int_equal(open_it(same_key[0], "item", env.data, env.len, &out, NULL), KT_OK);
	kt_buf_free(&env);
	kt_buf_free(&out);
	kt_envelope_ctx_free(same_key[0]);
	kt_envelope_ctx_free(same_key[1]);
}

static void rewrap_keeps_the_content(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf env = seal(a, "item", "content that stays as it is"), out = KT_BUF_INIT, before = KT_BUF_INIT;
	assert_int_equal(kt_buf_append(&before, env.data, env.len, NULL), KT_OK);
	assert_int_equal(kt_envelope_rewrap(a, b, "item", env.data, env.len, &err), KT_OK);
	assert_memory_equal(env.data, before.data, KT_ENVELOPE_FIXED_LEN);
	assert_memory_not_equal(env.data + 44, before.data + 44, 16);
	assert_memory_not_equal(env.data + 72, before.data + 72, 32);
	assert_memory_equal(env.data + 120, before.data + 120, env.len - 120);
	assert_int_equal(open_it(a, "item", env.data, env.len, &out, &err), KT_E_KEY);
	assert_non_null(strstr(err.msg, "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"));
	assert_int_equal(open_it(b, "item", env.data, env.len, &out, NULL), KT_OK);
	assert_string_equal(kt_buf_cstr(&out), "content that stays as it is");
	kt_buf_free(&env);
	kt_buf_free(&before);
	kt_buf_free(&out);
}

static void failed_rewrap_changes_nothing(void **state)
{
	(void)state;
	kt_buf env = seal(a, "item", "content");
	uint8_t head[KT_ENVELOPE_HEAD_LEN];
	for (size_t i = 0; i < KT_ENVELOPE_HEAD_LEN; i++) {
		env.data[i] ^= 0x40;
		memcpy(head, env.data, sizeof head);
		assert_int_not_equal(kt_envelope_rewrap(a, b, "item", env.data, env.len, NULL), KT_OK);
		assert_memory_equal(head, env.data, sizeof head);
		env.data[i] ^= 0x40;
	}
	memcpy(head, env.data, sizeof head);
	assert_int_equal(kt_envelope_rewrap(a, b, "other", env.data, env.len, NULL), KT_E_INPUT);
	assert_int_equal(kt_envelope_rewrap(b, a, "item", env.data, env.len, NULL), KT_E_KEY);
	assert_int_equal(kt_envelope_rewrap(a, b, "item", env.data, env.len + 1, NULL), KT_E_INPUT);
	assert_int_equal(kt_envelope_rewrap(a, b, "item", env.data, 7, NULL), KT_E_INPUT);
	assert_memory_equal(head, env.data, sizeof head);
	kt_buf_free(&env);
}

static void reseal_changes_everything(void **state)
{
	(void)state;
	static const char *const texts[] = {"", "content that is encrypted anew"};
	for (size_t i = 0; i < 2; i++) {
		kt_buf env = seal(a, "item", texts[i]), out = KT_BUF_INIT, before = KT_BUF_INIT;
		assert_int_equal(kt_buf_append(&before, env.data, env.len, NULL), KT_OK);
		assert_int_equal(kt_envelope_reseal(a, b, "item", env.data, env.len, NULL), KT_OK);
		assert_memory_not_equal(env.data + 8, before.data + 8, 16);   /* id */
		assert_memory_not_equal(env.data + 32, before.data + 32, 12); /* nonce */
		assert_memory_not_equal(env.data + 72, before.data + 72, 32); /* wrapped DEK */
		assert_memory_not_equal(env.data + 120, before.data + 120, env.len - 120);
		assert_int_equal(open_it(a, "item", env.data, env.len, &out, NULL), KT_E_KEY);
		assert_int_equal(open_it(b, "item", env.data, env.len, &out, NULL), KT_OK);
		assert_string_equal(kt_buf_cstr(&out), texts[i]);
		/* no part of one fits the other: head, fixed head, content with its tag */
		static const size_t cut[] = {KT_ENVELOPE_FIXED_LEN, KT_ENVELOPE_HEAD_LEN};
		for (size_t c = 0; c < 2; c++) {
			memcpy(before.data, env.data, cut[c]);
			assert_int_not_equal(open_it(b, "item", before.data, before.len, &out, NULL), KT_OK);
		}
		kt_buf_free(&env);
		kt_buf_free(&before);
		kt_buf_free(&out);
	}
}

/* What does not open is not sealed anew, so no damage is ever made to look whole. */
static void reseal_refuses_what_does_not_open(void **state)
{
	(void)state;
	kt_buf env = seal(a, "item", "content"), work = KT_BUF_INIT;
	for (size_t i = 0; i <= env.len; i++) {
		kt_buf_clear(&work);
		assert_int_equal(kt_buf_append(&work, env.data, env.len, NULL), KT_OK);
		if (i < env.len)
			work.data[i] ^= 1;
		const char *name = i < env.len ? "item" : "other";
		assert_int_not_equal(kt_envelope_reseal(a, b, name, work.data, work.len, NULL), KT_OK);
		assert_null(memmem(work.data, work.len, "content", 7));
	}
	assert_int_equal(kt_envelope_reseal(b, a, "item", env.data, env.len, NULL), KT_E_KEY);
	assert_int_equal(kt_envelope_reseal(a, b, "item", env.data, env.len - 1, NULL), KT_E_INPUT);
	kt_buf_free(&env);
	kt_buf_free(&work);
}

/* The DEK of an envelope, with nothing but the numbers of docs/FORMATS.md. */
static void dek_of(const uint8_t *e, const uint8_t kek[32], const char *name, uint8_t dek[32])
{
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	uint8_t tag[16];
	int n;
	memcpy(tag, e + 104, sizeof tag);
	assert_int_equal(EVP_DecryptInit_ex2(c, EVP_aes_256_gcm(), kek, e + 60, NULL), 1);
	assert_int_equal(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, sizeof tag, tag), 1);
	assert_int_equal(EVP_DecryptUpdate(c, NULL, &n, e, 60), 1);
	assert_int_equal(EVP_DecryptUpdate(c, NULL, &n, (const uint8_t *)name, (int)strlen(name)), 1);
	assert_int_equal(EVP_DecryptUpdate(c, dek, &n, e + 72, 32), 1);
	assert_int_equal(EVP_DecryptFinal_ex(c, tag, &n), 1);
	EVP_CIPHER_CTX_free(c);
}

/* Random bytes are kept in stock: after a fork parent and child must not both use them. The same nonce twice under a
 * KEK, or a DEK and its nonce twice, would give the contents away. */
static void nothing_repeats_after_a_fork(void **state)
{
	(void)state;
	enum { LEN = KT_ENVELOPE_OVERHEAD + 4 };
	kt_kek kek = {.generation = 1};
	kt_envelope_ctx *ctx;
	uint8_t dek[2][32], mine[LEN], key[32];
	uint8_t *theirs = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status = -1;
	assert_true(theirs != MAP_FAILED);
	assert_int_equal(kt_secret_random(&kek.key, KT_KEK_LEN, NULL), KT_OK);
	memcpy(key, kek.key.data, sizeof key);
	assert_int_equal(kt_envelope_ctx_new(&kek, &ctx, NULL), KT_OK);
	kt_kek_free(&kek);
	assert_int_equal(kt_envelope_seal_at(ctx, "x", "1234", 4, mine, NULL), KT_OK); /* now there is a stock */
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0)
		_exit(kt_envelope_seal_at(ctx, "x", "abcd", 4, theirs, NULL) != KT_OK);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(kt_envelope_seal_at(ctx, "x", "1234", 4, mine, NULL), KT_OK);
	assert_memory_not_equal(mine + 8, theirs + 8, 16);   /* id */
	assert_memory_not_equal(mine + 32, theirs + 32, 12); /* nonce of the content */
	assert_memory_not_equal(mine + 60, theirs + 60, 12); /* nonce of the wrapping */
	dek_of(mine, key, "x", dek[0]);
	dek_of(theirs, key, "x", dek[1]);
	assert_memory_not_equal(dek[0], dek[1], 32);
	kt_envelope_ctx_free(ctx);
	(void)munmap(theirs, LEN);
}

static void names_and_sizes_out_of_range(void **state)
{
	(void)state;
	char name[KT_ENVELOPE_NAME_MAX + 2];
	kt_buf env = KT_BUF_INIT;
	memset(name, 'n', sizeof name);
	name[KT_ENVELOPE_NAME_MAX + 1] = '\0';
	assert_int_equal(kt_envelope_seal(a, "", "x", 1, &env, NULL), KT_E_INPUT);
	assert_int_equal(kt_envelope_seal(a, name, "x", 1, &env, NULL), KT_E_INPUT);
	name[KT_ENVELOPE_NAME_MAX] = '\0';
	assert_int_equal(kt_envelope_seal(a, name, "x", 1, &env, NULL), KT_OK);
	size_t had = env.len;
	assert_int_equal(kt_envelope_seal(a, "x", "x", (size_t)KT_ENVELOPE_CONTENT_MAX + 1, &env, NULL), KT_E_INPUT);
	assert_int_equal(env.len, had);
	kt_kek short_key = {.generation = 1};
	kt_envelope_ctx *ctx;
	assert_int_equal(kt_secret_random(&short_key.key, 16, NULL), KT_OK);
	assert_int_equal(kt_envelope_ctx_new(&short_key, &ctx, NULL), KT_E_KEY);
	assert_null(ctx);
	kt_kek_free(&short_key);
	kt_buf_free(&env);
}

/* The bytes that docs/FORMATS.md promises, opened here with nothing but the numbers of that table. */
static void inspect_says_what_is_there(void **state)
{
	(void)state;
	kt_envelope_info info;
	kt_buf env = seal(a, "item", "twelve bytes");
	assert_int_equal(kt_envelope_inspect(env.data, env.len, &info, NULL), KT_OK);
	assert_int_equal(info.version, 1);
	assert_int_equal(info.content_len, 12);
	assert_string_equal(info.kek_id, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
	assert_int_equal(strlen(info.id), 32);
	static const uint8_t head[] = {'K', 'T', 'E', 'V', 1, 1, 0, 0};
	static const uint8_t length[] = {0, 0, 0, 0, 0, 0, 0, 12};
	assert_memory_equal(env.data, head, sizeof head);
	assert_memory_equal(env.data + 24, length, sizeof length);
	kt_buf_free(&env);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(appends_and_never_repeats),
		cmocka_unit_test(flipped),
		cmocka_unit_test(truncated_and_extended),
		cmocka_unit_test(malformed_headers_are_named),
		cmocka_unit_test(swapped_items),
		cmocka_unit_test(kek_id_is_bound),
		cmocka_unit_test(rewrap_keeps_the_content),
		cmocka_unit_test(failed_rewrap_changes_nothing),
		cmocka_unit_test(reseal_changes_everything),
		cmocka_unit_test(reseal_refuses_what_does_not_open),
		cmocka_unit_test(nothing_repeats_after_a_fork),
		cmocka_unit_test(names_and_sizes_out_of_range),
		cmocka_unit_test(inspect_says_what_is_there),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}

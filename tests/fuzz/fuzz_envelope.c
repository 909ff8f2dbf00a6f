/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Envelopes and KEK records as an attacker with the database could write them. What parses must say so consistently,
 * nothing that was not sealed may open, and a refusal must leave everything as it was. The first byte of an input
 * chooses: 'E' envelope, 'S' envelope sealed here and then damaged by the rest, 'R' a KEK record made here and then
 * damaged by the rest, 'L' an item of the legacy form, anything else a KEK record.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "envelope/envelope.h"
#include "envelope/legacy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds, const char *what)
{
	if (holds)
		return;
	(void)fprintf(stderr, "does not hold: %s\n", what);
	abort();
}

static kt_envelope_ctx *make_ctx(uint8_t fill)
{
	kt_kek kek = {.generation = 1};
	kt_envelope_ctx *ctx;
	memset(kek.id, fill, sizeof kek.id);
	require(kt_secret_new(&kek.key, KT_KEK_LEN, NULL) == KT_OK, "a secret");
	memset(kek.key.data, fill, KT_KEK_LEN);
	require(kt_envelope_ctx_new(&kek, &ctx, NULL) == KT_OK, "a context");
	kt_kek_free(&kek);
	return ctx;
}

/* What opens can be sealed anew, and then opens with the other KEK only; nothing else can. */
static void check_resealed(kt_envelope_ctx *a, kt_envelope_ctx *b, const uint8_t *data, size_t size, int opens)
{
	kt_buf env = KT_BUF_INIT, out = KT_BUF_INIT;
	require(kt_buf_append(&env, data, size, NULL) == KT_OK, "a copy");
	int sealed = kt_envelope_reseal(a, b, "item", env.data, size, NULL) == KT_OK;
	require(sealed == opens, "what opens is sealed anew, and nothing else");
	if (sealed) {
		require(kt_envelope_open(a, "item", env.data, size, &out, NULL) == KT_E_KEY,
			"the old KEK is of no use");
		require(kt_envelope_open(b, "item", env.data, size, &out, NULL) == KT_OK, "the new KEK opens it");
	}
	kt_buf_free(&env);
	kt_buf_free(&out);
}

static void check_envelope(kt_envelope_ctx *a, kt_envelope_ctx *b, const uint8_t *data, size_t size)
{
	kt_envelope_info info;
	kt_buf out = KT_BUF_INIT;
	uint8_t head[KT_ENVELOPE_HEAD_LEN] = {0};
	int parses = kt_envelope_inspect(data, size, &info, NULL) == KT_OK;
	require(!parses || size == KT_ENVELOPE_OVERHEAD + info.content_len, "the length is the whole length");
	int opens = kt_envelope_open(a, "item", data, size, &out, NULL) == KT_OK;
	require(!opens || (parses && out.len == info.content_len), "what opens parses");
	require(opens || out.len == 0, "a refusal gives nothing");
	require(kt_buf_sane(&out), "a sane buffer");
	memcpy(head, data, size < sizeof head ? size : sizeof head);
	uint8_t before[KT_ENVELOPE_HEAD_LEN];
	memcpy(before, head, sizeof before);
	int moved = kt_envelope_rewrap(a, b, "item", head, size, NULL) == KT_OK;
	require(!opens || moved, "what opens can be moved");
	require(moved || memcmp(before, head, sizeof before) == 0, "a refusal leaves the head alone");
	kt_buf_free(&out);
	check_resealed(a, b, data, size, opens);
}

/* Data: positions and values to XOR into a sealed envelope. Any real change must make it fail. */
static void check_damaged(kt_envelope_ctx *a, kt_envelope_ctx *b, const uint8_t *data, size_t size)
{
	kt_buf env = KT_BUF_INIT, kept = KT_BUF_INIT, out = KT_BUF_INIT;
	require(kt_envelope_seal(a, "item", "a content of 24 bytes...", 24, &env, NULL) == KT_OK, "sealing");
	require(kt_buf_append(&kept, env.data, env.len, NULL) == KT_OK, "a copy");
	for (size_t i = 0; i + 1 < size; i += 2)
		env.data[data[i] % env.len] ^= data[i + 1];
	int same = memcmp(env.data, kept.data, env.len) == 0;
	int opens = kt_envelope_open(a, "item", env.data, env.len, &out, NULL) == KT_OK;
	require(opens == same, "it opens exactly when it was not changed");
	check_envelope(a, b, env.data, env.len);
	kt_buf_free(&env);
	kt_buf_free(&kept);
	kt_buf_free(&out);
}

/* As check_damaged: pairs of a position (of two bytes) and a value. */
static void check_damaged_record(const uint8_t *data, size_t size)
{
	static kt_keystore *cmk;
	static kt_buf good;
	static kt_kek kek;
	kt_buf record = KT_BUF_INIT;
	kt_kek opened;
	if (!cmk) {
		require(setenv("FUZZ_CMK", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", 1) == 0, "a variable");
		require(kt_keystore_open("env:FUZZ_CMK", &cmk, NULL) == KT_OK, "a keystore");
		require(kt_kek_make(cmk, 7, 1, &kek, &good, NULL) == KT_OK, "a record");
	}
	require(kt_buf_append(&record, good.data, good.len, NULL) == KT_OK, "a copy");
	for (size_t i = 0; i + 2 < size; i += 3)
		record.data[((size_t)data[i] << 8 | data[i + 1]) % record.len] ^= data[i + 2];
	int same = memcmp(record.data, good.data, good.len) == 0;
	int opens = kt_kek_open(record.data, record.len, cmk, &opened, NULL) == KT_OK;
	require(opens == same, "a record opens exactly when it was not changed");
	require(!opens || (opened.generation == 7 && kt_secret_equal(&opened.key, &kek.key)), "to the same KEK");
	kt_kek_free(&opened);
	kt_buf_free(&record);
}

static void check_record(const uint8_t *data, size_t size)
{
	kt_kek_info info;
	kt_err err = KT_ERR_INIT;
	if (kt_kek_inspect(data, size, &info, &err) == KT_OK)
		require(info.generation >= 1 && strlen(info.kcv) == 6 &&
				(strlen(info.cmk_kcv) == 6 || strcmp(info.cmk_kcv, KT_KEYSTORE_NO_KCV) == 0),
			"a whole record");
	else
		require((err.code == KT_E_INPUT || err.code == KT_E_REFUSED) && err.msg[0], "a refusal says why");
}

/* There is no tag in the legacy form: what it opens as is anything, but it is shorter than the input and sane. */
static void check_legacy(const uint8_t *data, size_t size)
{
	static kt_secret key;
	kt_buf out = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	require(key.len || kt_secret_new(&key, KT_LEGACY_KEY_LEN, NULL) == KT_OK, "a secret");
	if (kt_legacy_open(&key, data, size, &out, &err) == KT_OK)
		require(kt_legacy_is(data, size) && out.len < size, "what opens is of the legacy form");
	else
		require(err.code == KT_E_INPUT && err.msg[0] && out.len == 0, "a refusal says why, and gives nothing");
	require(kt_buf_sane(&out), "a sane buffer");
	kt_buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static kt_envelope_ctx *a, *b;
	if (!a) {
		a = make_ctx(0xaa);
		b = make_ctx(0xbb);
	}
	if (size == 0)
		return 0;
	if (data[0] == 'E')
		check_envelope(a, b, data + 1, size - 1);
	else if (data[0] == 'S')
		check_damaged(a, b, data + 1, size - 1);
	else if (data[0] == 'R')
		check_damaged_record(data + 1, size - 1);
	else if (data[0] == 'L')
		check_legacy(data + 1, size - 1);
	else
		check_record(data, size);
	return 0;
}

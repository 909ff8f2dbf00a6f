/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/secret.h"
#include "wire/blob.h"

static kt_blob escrow, transport;

static int set_up(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	assert_kt_ok(kt_secret_setup(&err));
	escrow = (kt_blob){.purpose = KT_BLOB_ESCROW,
			   .format = KT_BLOB_RFC5649,
			   .mechanism = "CKM_AES_KEY_WRAP_PAD",
			   .mechanism_id = 0x210a,
			   .token = {"kt \"1\"", "ACME", "123", "M"},
			   .wrapping = {"escrow", "00ff", "abcdef"},
			   .kcv = "012345",
			   .run = "20260131T120000Z-abc123",
			   .wrapped_len = 40};
	memset(escrow.wrapped, 0xA7, 40);
	transport = (kt_blob){.purpose = KT_BLOB_TRANSPORT,
			      .format = KT_BLOB_RSA_OAEP_SHA256,
			      .mechanism = "CKM_RSA_PKCS_OAEP",
			      .token = {"kt", "ACME", "123", "M"},
			      .kcv = "012345",
			      .run = "r",
			      .node = "web01",
			      .wrapped_len = 384};
	memset(transport.wrapped, 0x5A, 384);
	memset(transport.spki_sha256, 'a', 64);
	return 0;
}

static char *text_of(const kt_blob *b)
{
	kt_err err = KT_ERR_INIT;
	kt_buf out = KT_BUF_INIT;
	assert_kt_ok(kt_blob_to_text(b, &out, &err));
	return kt_buf_steal(&out);
}

static void goes_to_json_and_back(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_blob bare = escrow;
	memset(&bare.token, 0, sizeof bare.token);
	bare.purpose = KT_BLOB_KEK;
	const kt_blob *const blobs[] = {&escrow, &transport, &bare};
	for (int i = 0; i < 3; i++) {
		kt_blob back;
		char *text = text_of(blobs[i]);
		assert_kt_ok(kt_blob_from_text("blob", text, strlen(text), &back, &err));
		assert_memory_equal(&back, blobs[i], sizeof back);
		free(text);
	}
	char *text = text_of(&escrow);
	assert_non_null(strstr(text, "\"v\":2,\"purpose\":\"escrow\",\"format\":\"rfc5649\""));
	assert_non_null(strstr(text, "\"kcv_method\":\"cmac-zero16\""));
	free(text);
}

/* The text with one part replaced must be refused. */
static void refuse(const char *text, const char *from, const char *to)
{
	kt_err err = KT_ERR_INIT;
	kt_blob b;
	char changed[4096];
	const char *at = strstr(text, from);
	assert_non_null(at);
	(void)snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
	if (kt_blob_from_text("blob", changed, strlen(changed), &b, &err) != KT_E_INPUT)
		fail_msg("taken with %s for %s", to, from);
	assert_true(err.msg[0]);
}

static void refuses_what_is_not_exact(void **state)
{
	(void)state;
	char *text = text_of(&escrow);
	refuse(text, "\"v\":2", "\"v\":1");
	refuse(text, "\"v\":2", "\"v\":3");
	refuse(text, "\"v\":2,", "");
	refuse(text, "\"v\":2,", "\"v\":2,\"extra\":0,");
	refuse(text, "\"v\":2,", "\"v\":2,\"v\":2,");
	refuse(text, "\"escrow\",\"format\"", "\"transport\",\"format\""); /* a purpose that the format does not fit */
	refuse(text, "\"escrow\",\"format\"", "\"Escrow\",\"format\"");
	refuse(text, "rfc5649", "rfc5648");
	refuse(text, "rfc5649", "rsa-oaep-sha1");
	refuse(text, "\"aes\"", "\"des\"");
	refuse(text, "256", "128");
	refuse(text, "256", "256.5");
	refuse(text, "cmac-zero16", "ecb-zero16");
	refuse(text, "\"012345\"", "\"01234\"");
	refuse(text, "\"012345\"", "\"0123456\"");
	refuse(text, "\"012345\"", "\"01234G\"");
	refuse(text, "\"012345\"", "\"01234A\"");
	refuse(text, "\"00ff\"", "\"0ff\"");
	refuse(text, "\"00ff\"", "\"zz\"");
	refuse(text, "\"abcdef\"", "7");
	refuse(text, "\"serial\":\"123\",", "");
	refuse(text, "\"serial\":\"123\"", "\"serial\":\"12345678901234567\"");
	refuse(text, "\"wrapping_key\":{", "\"wrapping_key\":{\"x\":1,");
	refuse(text, "\"wrapped\":\"p6en", "\"wrapped\":\"p6e*");
	refuse(text, "\"wrapped\":\"p6en", "\"wrapped\":\"");
	refuse(text, "\"wrapped\":\"p6en", "\"wrapped\":\"p6enp6en");
	free(text);
	text = text_of(&transport);
	refuse(text, "aaaa", "aaa");
	refuse(text, "aaaa", "AAAA");
	refuse(text, "\"transport\"", "\"kek\"");
	free(text);
}

/* A blob that says so of itself is refused as such, by the name and by the number. */
static void what_is_never_used_is_refused(void **state)
{
	static const struct {
		const char *name;
		uint32_t id;
	} never[] = {{"CKM_RSA_PKCS", 0}, {"CKM_AES_CBC_PAD", 0}, {"CKM_AES_KEY_WRAP", 0x1085}, {"CKM_X", 1}};
	(void)state;
	kt_err err;
	for (size_t i = 0; i < sizeof never / sizeof never[0]; i++) {
		kt_blob b = escrow, got;
		cJSON *json;
		(void)snprintf(b.mechanism, sizeof b.mechanism, "%s", never[i].name);
		b.mechanism_id = never[i].id;
		assert_kt_ok(kt_blob_to_json(&b, &json, &err));
		assert_kt_fails(KT_E_REFUSED, kt_blob_from_json(json, &got, &err));
		assert_non_null(strstr(err.msg, "never uses"));
		cJSON_Delete(json);
	}
}

static void every_cut_is_refused(void **state)
{
	(void)state;
	kt_blob b;
	char *text = text_of(&transport);
	for (size_t n = 0; n < strlen(text); n++)
		assert_int_equal(kt_blob_from_text("blob", text, n, &b, NULL), KT_E_INPUT);
	free(text);
}

/* A flip either is refused or changes what was parsed; none is lost, none crashes. */
static void no_flip_goes_unseen(void **state)
{
	(void)state;
	kt_blob b;
	char *text = text_of(&escrow);
	size_t n = strlen(text);
	for (size_t i = 0; i < n; i++) {
		for (int bit = 0; bit < 8; bit++) {
			text[i] = (char)(text[i] ^ 1 << bit);
			if (kt_blob_from_text("blob", text, n, &b, NULL) == KT_OK)
				assert_memory_not_equal(&b, &escrow, sizeof b);
			text[i] = (char)(text[i] ^ 1 << bit);
		}
	}
	free(text);
}

static void a_broken_one_is_not_written(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf out = KT_BUF_INIT;
	kt_blob b = escrow;
	b.kcv[0] = '\0';
	assert_kt_fails(KT_E_INTERNAL, kt_blob_to_text(&b, &out, &err));
	b = escrow;
	b.wrapped_len = 32;
	assert_kt_fails(KT_E_INTERNAL, kt_blob_to_text(&b, &out, &err));
	b = transport;
	b.spki_sha256[0] = '\0';
	assert_kt_fails(KT_E_INTERNAL, kt_blob_to_text(&b, &out, &err));
	assert_int_equal(out.len, 0);
	kt_buf_free(&out);
}

static void aes_on_libcrypto(void **state)
{
	/* RFC 5649 by `openssl enc -id-aes256-wrap-pad -iv A65959A6`: key 00..1f wraps 20..3f. */
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret cmk, key, opened;
	kt_blob b = {.purpose = KT_BLOB_KEK};
	assert_kt_ok(kt_secret_new(&cmk, 32, &err));
	assert_kt_ok(kt_secret_new(&key, 32, &err));
	for (uint8_t i = 0; i < 32; i++) {
		cmk.data[i] = i;
		key.data[i] = (uint8_t)(32 + i);
	}
	assert_kt_ok(kt_blob_wrap_aes(&b, &cmk, &key, &err));
	static const uint8_t expected[40] = {0x92, 0xf4, 0x8c, 0x52, 0x04, 0x5c, 0x08, 0x05, 0x0e, 0xc7,
					     0x96, 0xa5, 0xa9, 0x1c, 0x5d, 0xda, 0xf7, 0xc6, 0x1c, 0xbd,
					     0xc9, 0x40, 0xad, 0xc8, 0xd3, 0xdc, 0x8a, 0x14, 0x4f, 0x61,
					     0x61, 0xa8, 0xc5, 0xd3, 0x29, 0x9e, 0x32, 0x5f, 0x17, 0x50};
	assert_int_equal(b.wrapped_len, 40);
	assert_memory_equal(b.wrapped, expected, 40);
	assert_kt_ok(kt_blob_unwrap_aes(&b, &cmk, &opened, &err));
	assert_true(kt_secret_equal(&opened, &key));
	kt_secret_free(&opened);
	assert_kt_fails(KT_E_KEY, kt_blob_unwrap_aes(&b, &key, &opened, &err)); /* not the CMK that the blob names */
	assert_kt_fails(KT_E_INPUT, kt_blob_unwrap_aes(&transport, &cmk, &opened, &err));
	for (size_t i = 0; i < 40; i++) {
		b.wrapped[i] ^= 1;
		assert_kt_fails(KT_E_KEY, kt_blob_unwrap_aes(&b, &cmk, &opened, &err));
		b.wrapped[i] ^= 1;
	}
	kt_secret_free(&cmk);
	kt_secret_free(&key);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(goes_to_json_and_back),
		cmocka_unit_test(refuses_what_is_not_exact),
		cmocka_unit_test(what_is_never_used_is_refused),
		cmocka_unit_test(every_cut_is_refused),
		cmocka_unit_test(no_flip_goes_unseen),
		cmocka_unit_test(a_broken_one_is_not_written),
		cmocka_unit_test(aes_on_libcrypto),
	};
	return cmocka_run_group_tests(tests, set_up, NULL);
}

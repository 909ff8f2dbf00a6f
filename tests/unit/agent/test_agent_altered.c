/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Altered blobs at the last door before a node: key.receive, and the slot that it fills. Each byte of the text flipped,
 * the text cut at each length: no proof is answered, no slot is made, no key comes out of one.
 */
#include "tests/unit/agent/keys.h"

#include "agent/action.h"
#include "agent/slot.h"
#include "base/secret.h"

enum { ROOM = 8192 };

static EVP_PKEY *pair;

/* Under valgrind a part of the bytes is enough: its question is another one. */
static size_t stride(void)
{
	return getenv("KT_VALGRIND") ? 307 : 1;
}

static int set_up(void **state)
{
	kt_err err = KT_ERR_INIT;
	if (scratch_make(state) != 0 || kt_secret_setup(&err) != KT_OK)
		return -1;
	pair = pair ? pair : EVP_RSA_gen(2048);
	put_folder("state", 0700);
	BIO *bio = BIO_new(BIO_s_mem());
	char *pem;
	assert_int_equal(PEM_write_bio_PKCS8PrivateKey(bio, pair, NULL, NULL, 0, NULL, NULL), 1);
	long n = BIO_get_mem_data(bio, &pem);
	put_bytes("state/transport.key", pem, (size_t)n, 0400);
	BIO_free(bio);
	return 0;
}

static int stop(void **state)
{
	(void)state;
	EVP_PKEY_free(pair);
	return 0;
}

static int tear_down(void **state)
{
	return scratch_drop(state);
}

/* What key.receive answers to a delivery with this text of a blob. A text that is no JSON ends the conversation. */
static kt_status receive(const char *blob, size_t n, char kcv[KT_KCV_TEXT])
{
	kt_err err = KT_ERR_INIT;
	char args[ROOM];
	cJSON *json, *result = cJSON_CreateObject();
	kt_agent_ctx ctx = {.state = at("state"),
			    .node = "web01",
			    .cluster = "looker",
			    .run = "R1",
			    .step = "deliver",
			    .attempt = 1,
			    .epoch = 1,
			    .verb = "key.receive",
			    .lock_fd = -1};
	kt_status status = KT_STATUS_FAILED;
	int len = snprintf(args, sizeof args,
			   "{\"slot\":\"R1\",\"keep\":true,\"label\":\"keyturn-proof/1:R1:web01\",\"nonce\":\"" NONCE_5A
			   "\",\"blob\":%.*s}",
			   (int)n, blob);
	kcv[0] = '\0';
	if (kt_json_parse("args", args, (size_t)len, &json, &err) == KT_OK) {
		status = kt_action_key_receive(&ctx, json, result, &err);
		const cJSON *told = cJSON_GetObjectItemCaseSensitive(result, "kcv");
		(void)snprintf(kcv, KT_KCV_TEXT, "%s", cJSON_IsString(told) ? told->valuestring : "");
		assert_true(status == KT_STATUS_OK || (err.msg[0] && !cJSON_HasObjectItem(result, "proof")));
		cJSON_Delete(json);
	}
	cJSON_Delete(result);
	return status;
}

static void must_be_refused(const char *text, size_t n)
{
	char kcv[KT_KCV_TEXT];
	if (receive(text, n, kcv) == KT_STATUS_OK || kcv[0] || is_there("state/slots/R1.json"))
		fail_msg("an altered blob was taken: %.*s", (int)n, text);
}

static size_t blob_text(kt_blob_format format, char text[ROOM])
{
	kt_err err = KT_ERR_INIT;
	kt_blob b;
	kt_buf buf = KT_BUF_INIT;
	kt_secret key = secret_of(canary);
	assert_kt_ok(kt_blob_begin(&(kt_blob_address){.purpose = KT_BLOB_TRANSPORT, .run = "R1", .node = "web01"}, &b,
				   &err));
	(void)snprintf(b.token.label, sizeof b.token.label, "kt");
	assert_kt_ok(kt_blob_wrap_rsa(&b, pair, format, &key, &err));
	assert_kt_ok(kt_blob_to_text(&b, &buf, &err));
	size_t n = buf.len;
	assert_true(n < ROOM / 2);
	memcpy(text, buf.data, n + 1);
	kt_buf_free(&buf);
	kt_secret_free(&key);
	return n;
}

static void alter_all(kt_blob_format format)
{
	static const char flips[] = {0x01, 0x20};
	char text[ROOM], kcv[KT_KCV_TEXT];
	size_t n = blob_text(format, text);
	for (size_t i = 0; i < n; i += stride()) {
		must_be_refused(text, i);
		for (size_t k = 0; k < sizeof flips; k++) {
			text[i] = (char)(text[i] ^ flips[k]);
			must_be_refused(text, n);
			text[i] = (char)(text[i] ^ flips[k]);
		}
	}
	assert_int_equal(receive(text, n, kcv), KT_STATUS_OK);
	assert_string_equal(kcv, kcv_of(canary));
	assert_true(is_there("state/slots/R1.json"));
}

static void no_altered_oaep_blob_is_received(void **state)
{
	(void)state;
	alter_all(KT_BLOB_RSA_OAEP_SHA256);
}

static void no_altered_composed_blob_is_received(void **state)
{
	(void)state;
	alter_all(KT_BLOB_RSA_AES_SHA1);
}

/* Somebody who can write there makes the record's checksum right, too. */
static void no_key_comes_out_of_an_altered_slot(void **state)
{
	(void)state;
	char text[ROOM];
	kt_err err = KT_ERR_INIT;
	kt_secret key;
	size_t n = blob_text(KT_BLOB_RSA_OAEP_SHA1, text);
	put_folder("state/slots", 0700);
	for (size_t i = 0; i < n; i += 3 * stride()) {
		text[i] ^= 0x01;
		put_record("state/slots/R1.json", text);
		if (kt_slot_open(at("state"), "R1", &key, &err) == KT_OK)
			fail_msg("an altered slot opens: %s", text);
		assert_null(key.data);
		text[i] ^= 0x01;
	}
	put_record("state/slots/R1.json", text);
	assert_kt_ok(kt_slot_open(at("state"), "R1", &key, &err));
	kt_secret_free(&key);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(no_altered_oaep_blob_is_received, set_up, tear_down),
		cmocka_unit_test_setup_teardown(no_altered_composed_blob_is_received, set_up, tear_down),
		cmocka_unit_test_setup_teardown(no_key_comes_out_of_an_altered_slot, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, stop);
}

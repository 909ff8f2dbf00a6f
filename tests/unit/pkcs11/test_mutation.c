/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every kind of wrapped key (purpose and format), altered: each byte of its text flipped in several ways, its text cut
 * at each length, its members exchanged with those of another blob of the same key. Nothing but the very same blob may
 * open, by libcrypto or within a token.
 */
#include "tests/unit/pkcs11/rsa.h"

#include <openssl/rsa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/secret.h"
#include "tests/unit/pkcs11/shim.h"
#include "tests/unit/pkcs11/softhsm.h"
#include "wire/blob.h"

enum { KINDS = 16, ROOM = 4096 };
static const char flips[] = {0x01, 0x20, 0x04, (char)0x80};

static kt_token *t;
static shim_control *shim;
static EVP_PKEY *pair;
static kt_secret key, wrapping;
static CK_OBJECT_HANDLE token_wrapping, token_private;
static char spki[65];

/* Under valgrind a part of the bytes is enough: its question is another one. */
static size_t stride(void)
{
	return getenv("KT_VALGRIND") ? 211 : 1;
}

/* --- The blobs ---------------------------------------------------------------------------------------------------- */

static const struct {
	kt_blob_purpose purpose;
	kt_blob_format format;
} kinds[KINDS] = {
	{KT_BLOB_ESCROW, KT_BLOB_RFC5649},
	{KT_BLOB_ESCROW, KT_BLOB_RFC3394},
	{KT_BLOB_KEK, KT_BLOB_RFC5649},
	{KT_BLOB_KEK, KT_BLOB_RFC3394},
	{KT_BLOB_TRANSPORT, KT_BLOB_RSA_OAEP_SHA256},
	{KT_BLOB_TRANSPORT, KT_BLOB_RSA_OAEP_SHA1},
	{KT_BLOB_TRANSPORT, KT_BLOB_RSA_AES_SHA256},
	{KT_BLOB_TRANSPORT, KT_BLOB_RSA_AES_SHA1},
	{KT_BLOB_REHEARSAL, KT_BLOB_RSA_OAEP_SHA256},
	{KT_BLOB_REHEARSAL, KT_BLOB_RSA_OAEP_SHA1},
	{KT_BLOB_REHEARSAL, KT_BLOB_RSA_AES_SHA256},
	{KT_BLOB_REHEARSAL, KT_BLOB_RSA_AES_SHA1},
	{KT_BLOB_CUSTODIAN, KT_BLOB_RSA_OAEP_SHA256},
	{KT_BLOB_CUSTODIAN, KT_BLOB_RSA_OAEP_SHA1},
	{KT_BLOB_CUSTODIAN, KT_BLOB_RSA_AES_SHA256},
	{KT_BLOB_CUSTODIAN, KT_BLOB_RSA_AES_SHA1},
};

/* RFC 3394, which libcrypto's side only opens. */
static void wrap_rfc3394(kt_blob *b)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int n = 0;
	EVP_CIPHER_CTX_set_flags(ctx, EVP_CIPHER_CTX_FLAG_WRAP_ALLOW);
	assert_int_equal(EVP_EncryptInit_ex(ctx, EVP_aes_256_wrap(), NULL, wrapping.data, NULL), 1);
	assert_int_equal(EVP_EncryptUpdate(ctx, b->wrapped, &n, key.data, (int)key.len), 1);
	EVP_CIPHER_CTX_free(ctx);
	b->wrapped_len = (size_t)n;
}

/* A blob of a kind, of run `run` and, where the kind has it, for `whom`; always of the same key. */
static kt_blob make(int kind, const char *run, const char *whom)
{
	kt_err err = KT_ERR_INIT;
	kt_blob b;
	kt_blob_purpose p = kinds[kind].purpose;
	bool node = p == KT_BLOB_TRANSPORT || p == KT_BLOB_REHEARSAL;
	assert_kt_ok(kt_blob_begin(&(kt_blob_address){.purpose = p,
						      .run = p == KT_BLOB_KEK ? NULL : run,
						      .node = node ? whom : NULL,
						      .custodian = p == KT_BLOB_CUSTODIAN ? whom : NULL},
				   &b, &err));
	(void)snprintf(b.token.label, sizeof b.token.label, "kt-test");
	(void)snprintf(b.token.serial, sizeof b.token.serial, "%s", whom);
	(void)snprintf(b.wrapping.label, sizeof b.wrapping.label, kt_blob_is_rsa(kinds[kind].format) ? "" : "escrow");
	b.mechanism_id = 0x210a;
	if (kt_blob_is_rsa(kinds[kind].format))
		assert_kt_ok(kt_blob_wrap_rsa(&b, pair, kinds[kind].format, &key, &err));
	else
		assert_kt_ok(kt_blob_wrap_aes(&b, &wrapping, &key, &err));
	if (kinds[kind].format == KT_BLOB_RFC3394) {
		wrap_rfc3394(&b);
		b.format = KT_BLOB_RFC3394;
		assert_kt_ok(kt_blob_seal(&b, &key, &err));
	}
	return b;
}

static size_t text_of(const kt_blob *b, char out[ROOM])
{
	kt_err err = KT_ERR_INIT;
	kt_buf text = KT_BUF_INIT;
	assert_kt_ok(kt_blob_to_text(b, &text, &err));
	size_t n = text.len;
	assert_true(n < ROOM);
	memcpy(out, text.data, n + 1);
	kt_buf_free(&text);
	return n;
}

/* --- Opening ------------------------------------------------------------------------------------------------------ */

/* Whoever opens it; true when a key came out. A refusal must have left nothing behind. */
typedef bool opener(const kt_blob *b);

static bool by_libcrypto(const kt_blob *b)
{
	kt_err err = KT_ERR_INIT;
	kt_secret out;
	kt_code rc = kt_blob_is_rsa(b->format) ? kt_blob_unwrap_rsa(b, pair, &out, &err)
					       : kt_blob_unwrap_aes(b, &wrapping, &out, &err);
	assert_true((rc == KT_OK) == (out.data != NULL));
	assert_true(rc == KT_OK || (err.code == rc && err.msg[0]));
	kt_secret_free(&out);
	return rc == KT_OK;
}

static bool by_token(const kt_blob *b)
{
	kt_err err = KT_ERR_INIT;
	kt_token_key out, under = {.handle = token_wrapping};
	kt_token_transport priv = {.handle = token_private};
	memcpy(priv.spki_sha256, spki, sizeof spki);
	long before = shim->objects;
	assert_kt_ok(kt_kcv_of(&wrapping, under.kcv, &err));
	kt_code rc = kt_blob_is_rsa(b->format) ? kt_token_unwrap_rsa(t, b, &priv, &out, &err)
					       : kt_token_unwrap_under(t, b, &under, &out, &err);
	assert_true((rc == KT_OK) == (out.handle != 0));
	if (rc == KT_OK)
		assert_kt_ok(kt_token_destroy_key(t, &out, &err));
	assert_int_equal(shim->objects, before);
	return rc == KT_OK;
}

/* --- The alterations ---------------------------------------------------------------------------------------------- */

typedef struct tally {
	int tried, parsed, same;
} tally;

static void must_not_open(const char *text, size_t n, const kt_blob *good, opener *opens, tally *sum)
{
	kt_blob b;
	sum->tried++;
	if (kt_blob_from_text("altered", text, n, &b, NULL) != KT_OK)
		return;
	sum->parsed++;
	if (memcmp(&b, good, sizeof b) == 0)
		sum->same++;
	else if (opens(&b))
		fail_msg("an altered blob opens: %.*s", (int)n, text);
}

/* `every`: each how-manieth byte of the base64 of `wrapped` in an RSA blob, for a private-key operation is slow. */
static tally flip_and_cut(int kind, opener *opens, size_t ways, size_t every)
{
	char text[ROOM];
	tally sum = {0};
	const kt_blob good = make(kind, "R1", "web01");
	size_t n = text_of(&good, text);
	const char *bytes = strstr(text, "\"wrapped\":\"");
	size_t from = (size_t)(bytes - text) + sizeof "\"wrapped\":\"" - 1,
	       to = (size_t)(strchr(text + from, '"') - text);
	assert_true(opens(&good));
	for (size_t i = 0; i < n; i += stride()) {
		must_not_open(text, i, &good, opens, &sum);
		if (i >= from && i < to && i % every)
			continue;
		for (size_t k = 0; k < ways; k++) {
			text[i] = (char)(text[i] ^ flips[k]);
			must_not_open(text, n, &good, opens, &sum);
			text[i] = (char)(text[i] ^ flips[k]);
		}
	}
	assert_true(opens(&good));
	return sum;
}

/* The compact text has no byte that may be another one: what parses to the same blob has been changed by white space.
 */
static void white_space_is_the_only_exception(int kind, opener *opens)
{
	char text[ROOM], spaced[ROOM + 64];
	tally sum = {0};
	const kt_blob good = make(kind, "R1", "web01");
	text_of(&good, text);
	int n = snprintf(spaced, sizeof spaced, " {\n%s\t\n", text + 1);
	must_not_open(spaced, (size_t)n, &good, opens, &sum);
	assert_int_equal(sum.same, 1);
}

static void no_flip_and_no_cut_opens(void **state)
{
	(void)state;
	tally all = {0};
	for (int kind = 0; kind < KINDS; kind++) {
		bool first = kinds[kind].purpose != KT_BLOB_REHEARSAL && kinds[kind].purpose != KT_BLOB_CUSTODIAN;
		tally sum = flip_and_cut(kind, by_libcrypto, first ? 3 : 2, first ? 1 : 5);
		all.tried += sum.tried;
		all.parsed += sum.parsed;
		assert_int_equal(sum.same, 0);
		assert_true(stride() > 1 || sum.parsed > 200);
		white_space_is_the_only_exception(kind, by_libcrypto);
	}
	print_message("libcrypto: %d altered texts refused, %d of them when they were opened\n", all.tried, all.parsed);
}

/* The formats that SoftHSM does: it has no OAEP with SHA-256. */
static void no_flip_and_no_cut_opens_in_the_token(void **state)
{
	(void)state;
	tally all = {0};
	for (int kind = 0; kind < KINDS; kind++) {
		bool rsa = kt_blob_is_rsa(kinds[kind].format);
		if (rsa && (kinds[kind].purpose != KT_BLOB_CUSTODIAN || kt_blob_is_sha256(kinds[kind].format)))
			continue;
		tally sum = flip_and_cut(kind, by_token, rsa ? 1 : 4, 1);
		all.tried += sum.tried;
		all.parsed += sum.parsed;
		assert_int_equal(sum.same, 0);
		white_space_is_the_only_exception(kind, by_token);
	}
	print_message("token: %d altered texts refused, %d of them when they were opened\n", all.tried, all.parsed);
}

/* --- Members of another blob -------------------------------------------------------------------------------------- */

/* `into` with the members of `from` whose names are in the list (ends with NULL); what only one has is taken, or goes.
 */
static void graft(const char *into, const char *from, const char *const *names, char out[ROOM])
{
	kt_err err = KT_ERR_INIT;
	cJSON *a, *b;
	kt_buf text = KT_BUF_INIT;
	assert_kt_ok(kt_json_parse("into", into, strlen(into), &a, &err));
	assert_kt_ok(kt_json_parse("from", from, strlen(from), &b, &err));
	for (; *names; names++) {
		cJSON *m = cJSON_DetachItemFromObjectCaseSensitive(b, *names);
		cJSON_DeleteItemFromObjectCaseSensitive(a, *names);
		if (m)
			assert_kt_ok(kt_json_add(a, *names, m, &err));
	}
	assert_kt_ok(kt_json_print(a, &text, &err));
	(void)snprintf(out, ROOM, "%s", kt_buf_cstr(&text));
	kt_buf_free(&text);
	cJSON_Delete(a);
	cJSON_Delete(b);
}

/* All that tells two blobs apart, alone and in what an attacker would try together. */
static const char *const grafts[][6] = {
	{"purpose", NULL},
	{"run", NULL},
	{"node", NULL},
	{"custodian", NULL},
	{"token", NULL},
	{"mechanism", NULL},
	{"mechanism_id", NULL},
	{"wrapping_key", NULL},
	{"key", NULL},
	{"wrapped", NULL},
	{"mac", NULL},
	{"format", NULL},
	{"run", "node", NULL},
	{"purpose", "node", "custodian", NULL},
	{"wrapped", "mac", NULL},
	{"wrapped", "format", "mechanism", NULL},
	{"wrapped", "format", "mechanism", "mechanism_id", "mac", NULL},
	{"run", "node", "custodian", "purpose", "mac", NULL},
};

static void no_graft_opens(void **state)
{
	(void)state;
	tally sum = {0};
	static char from[KINDS][ROOM];
	char into[ROOM], text[ROOM];
	const int step = stride() > 1 ? 5 : 1;
	for (int j = 0; j < KINDS; j++) {
		const kt_blob donor = make(j, "R2", "web02");
		text_of(&donor, from[j]);
	}
	for (int i = 0; i < KINDS; i += step) {
		const kt_blob good = make(i, "R1", "web01");
		text_of(&good, into);
		for (int j = 0; j < KINDS; j += step) {
			/* of a part each graft, too, is made with some of the pairs */
			const size_t each = step > 1 ? 3 : 1;
			for (size_t k = (size_t)(i + j) % each; k < sizeof grafts / sizeof grafts[0]; k += each) {
				graft(into, from[j], grafts[k], text);
				must_not_open(text, strlen(text), &good, by_libcrypto, &sum);
			}
		}
	}
	assert_true(step > 1 || sum.parsed - sum.same > 500);
	print_message("%d grafted texts, %d of them parsed, %d of these the same blob, none opens\n", sum.tried,
		      sum.parsed, sum.same);
}

/* --- Set-up ------------------------------------------------------------------------------------------------------- */

static int start(void **state)
{
	static const kt_p11_policy policy = {"test key", CK_FALSE, CK_FALSE, CK_TRUE, CK_TRUE, CK_TRUE};
	kt_err err = KT_ERR_INIT;
	kt_p11_template tpl;
	if (softhsm_start(state) != 0)
		return -1;
	pair = EVP_RSA_gen(2048);
	shim = shim_get(softhsm_shim());
	assert_kt_ok(kt_token_open(softhsm_shim_uri(), &t, &err));
	assert_kt_ok(kt_secret_random(&key, 32, &err));
	kt_p11_template_key(&tpl, &policy);
	assert_kt_ok(kt_p11_generate(t, &tpl, &policy, &token_wrapping, &err));
	assert_kt_ok(kt_p11_read_value(t, token_wrapping, &wrapping, &err));
	token_private = rsa_import_private(t, pair);
	assert_kt_ok(kt_blob_spki_sha256(pair, spki, &err));
	return 0;
}

static int stop(void **state)
{
	kt_secret_free(&key);
	kt_secret_free(&wrapping);
	kt_token_close(t);
	EVP_PKEY_free(pair);
	return softhsm_stop(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_flip_and_no_cut_opens),
		cmocka_unit_test(no_flip_and_no_cut_opens_in_the_token),
		cmocka_unit_test(no_graft_opens),
	};
	return cmocka_run_group_tests(tests, start, stop);
}

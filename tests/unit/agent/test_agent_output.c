/* SPDX-License-Identifier: Apache-2.0 */
/* Output on its way: keys replaced wherever the pieces are cut, tails, matching across pieces, printable text. */
#include "agent/output.h"
#include "agent/redact.h"
#include "base/log.h"
#include "tests/unit/agent/scratch.h"

static const uint8_t key_bytes[32] = "\x01\xf3k!zQ\x80#8Lp\x99\xaa\x12\x34\x56"
				     "0123456789abcdef";
static const char key_base64[] = "AfNrIXpRgCM4THCZqhI0VjAxMjM0NTY3ODlhYmNkZWY=";
static const char key_hex[] = "01f36b217a518023384c7099aa12345630313233343536373839616263646566";

static int register_key(void **state)
{
	kt_err err = KT_ERR_INIT;
	kt_secret key;
	if (scratch_make(state) != 0 || kt_secret_copy(&key, key_bytes, 32, &err) != KT_OK)
		return -1;
	kt_code rc = kt_redact_key(&key, &err);
	kt_secret_free(&key);
	return rc == KT_OK ? 0 : -1;
}

static int forget_key(void **state)
{
	kt_log_forget_all();
	return scratch_drop(state);
}

static kt_output fresh(size_t tail, size_t out)
{
	return (kt_output){.tail_max = tail, .out_max = out, .fd = -1};
}

/* The padding of a key's text is no part of it: depending on where the pieces are cut, it is left over. */
static void drop_padding(kt_buf *b)
{
	static const char padded[] = "[redacted]=";
	uint8_t *hit;
	while (b->data && (hit = memmem(b->data, b->len, padded, sizeof padded - 1))) {
		memmove(hit + 10, hit + 11, b->len - (size_t)(hit + 11 - b->data) + 1);
		b->len--;
	}
}

/* `text` in pieces of `step` bytes on stream 1; the tail afterwards must be `want`. */
static void assert_scrubbed(const char *text, size_t step, const char *want)
{
	kt_err err = KT_ERR_INIT;
	kt_output o = fresh(4096, 4096);
	size_t n = strlen(text);
	for (size_t i = 0; i < n; i += step)
		assert_kt_ok(kt_output_feed(&o, 1, (const uint8_t *)text + i, n - i < step ? n - i : step, &err));
	assert_kt_ok(kt_output_end(&o, &err));
	drop_padding(&o.tail);
	drop_padding(&o.out);
	if (strcmp(kt_buf_cstr(&o.tail), want) != 0 || strcmp(kt_buf_cstr(&o.out), want) != 0)
		fail_msg("pieces of %zu: \"%s\" and \"%s\", not \"%s\"", step, kt_buf_cstr(&o.tail),
			 kt_buf_cstr(&o.out), want);
	kt_output_free(&o);
}

static void keys_are_replaced_across_pieces(void **state)
{
	(void)state;
	char text[512];
	(void)snprintf(text, sizeof text, "a %s b %s%s c\n", key_base64, key_hex, key_base64);
	for (size_t step = 1; step <= strlen(text); step++)
		assert_scrubbed(text, step, "a [redacted] b [redacted][redacted] c\n");
}

/* Its text without the padding, and its bytes in hex of the other case. */
static void keys_are_replaced_without_padding(void **state)
{
	(void)state;
	char text[256];
	(void)snprintf(text, sizeof text, "k=%.43s;", key_base64);
	for (size_t step = 1; step <= strlen(text); step++)
		assert_scrubbed(text, step, "k=[redacted];");
	char upper[65];
	for (size_t i = 0; i < 65; i++)
		upper[i] = (char)(key_hex[i] >= 'a' && key_hex[i] <= 'f' ? key_hex[i] - 32 : key_hex[i]);
	for (size_t step = 1; step <= 64; step++)
		assert_scrubbed(upper, step, "[redacted]");
}

static void raw_bytes_are_replaced(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	for (size_t cut = 0; cut <= 32; cut++) {
		kt_output o = fresh(100, 0);
		assert_kt_ok(kt_output_feed(&o, 2, key_bytes, cut, &err));
		assert_kt_ok(kt_output_feed(&o, 2, key_bytes + cut, 32 - cut, &err));
		assert_kt_ok(kt_output_end(&o, &err));
		assert_string_equal(kt_buf_cstr(&o.tail), "[redacted]");
		kt_output_free(&o);
	}
}

/* People see a line when it was printed, not when a key's length of others has followed it. */
static void lines_come_at_once(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_output o = {.tail_max = 1000, .fd = -1};
	assert_kt_ok(kt_output_feed(&o, 1, (const uint8_t *)"moved 1 of 4\n", 13, &err));
	assert_string_equal(kt_buf_cstr(&o.tail), "moved 1 of 4\n");
	/* But for what may be the beginning of a key. */
	assert_kt_ok(kt_output_feed(&o, 1, (const uint8_t *)"key ", 4, &err));
	assert_kt_ok(kt_output_feed(&o, 1, (const uint8_t *)key_base64, 20, &err));
	assert_string_equal(kt_buf_cstr(&o.tail), "moved 1 of 4\nkey ");
	assert_kt_ok(kt_output_feed(&o, 1, (const uint8_t *)"no more\n", 8, &err));
	assert_int_equal(o.tail.len, 13 + 4 + 20 + 8);
	kt_output_free(&o);
}

/* The two streams are held back apart: one does not break the other's key in two. */
static void streams_are_apart(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_output o = fresh(4096, 4096);
	const uint8_t *p = (const uint8_t *)key_base64;
	assert_kt_ok(kt_output_feed(&o, 1, p, 20, &err));
	assert_kt_ok(kt_output_feed(&o, 2, (const uint8_t *)"noise\n", 6, &err));
	assert_kt_ok(kt_output_feed(&o, 1, p + 20, 24, &err));
	assert_kt_ok(kt_output_end(&o, &err));
	assert_null(strstr(kt_buf_cstr(&o.tail), "AfNr"));
	assert_null(strstr(kt_buf_cstr(&o.tail), "ZWY"));
	assert_non_null(strstr(kt_buf_cstr(&o.tail), "noise"));
	drop_padding(&o.out);
	assert_string_equal(kt_buf_cstr(&o.out), "[redacted]");
	kt_output_free(&o);
}

static void files_get_scrubbed_bytes_too(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_output o = fresh(16, 0);
	o.fd = open(at("out"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(o.fd >= 0);
	for (int i = 0; i < 1000; i++) {
		assert_kt_ok(kt_output_feed(&o, 1, (const uint8_t *)key_base64, 30, &err));
		assert_kt_ok(kt_output_feed(&o, 1, (const uint8_t *)key_base64 + 30, 14, &err));
		assert_kt_ok(kt_output_feed(&o, 1, (const uint8_t *)"\n", 1, &err));
	}
	assert_kt_ok(kt_output_end(&o, &err));
	assert_int_equal(close(o.fd), 0);
	kt_buf got = KT_BUF_INIT;
	assert_kt_ok(kt_file_read(at("out"), &got, &err));
	drop_padding(&got);
	assert_int_equal(got.len, 11000);
	assert_null(memmem(got.data, got.len, "AfNrI", 5));
	kt_buf_free(&got);
	kt_output_free(&o);
}

static void a_full_disk_does_not_stop_it(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_output o = fresh(16, 0);
	o.fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
	assert_true(o.fd >= 0);
	char line[200];
	memset(line, 'x', sizeof line);
	for (int i = 0; i < 10; i++)
		assert_kt_ok(kt_output_feed(&o, 1, (const uint8_t *)line, sizeof line, &err));
	assert_kt_ok(kt_output_end(&o, &err));
	assert_true(o.fd_failed);
	assert_string_equal(kt_buf_cstr(&o.tail), "xxxxxxxxxxxxxxxx");
	assert_int_equal(close(o.fd), 0);
	kt_output_free(&o);
}

static void tails_and_heads(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_output o = fresh(10, 10);
	for (int i = 0; i < 26; i++) {
		uint8_t c[3] = {(uint8_t)('a' + i), (uint8_t)('a' + i), (uint8_t)('a' + i)};
		assert_kt_ok(kt_output_feed(&o, 1, c, 3, &err));
	}
	assert_kt_ok(kt_output_end(&o, &err));
	assert_string_equal(kt_buf_cstr(&o.out), "aaabbbcccd");
	assert_true(o.out_cut);
	assert_string_equal(kt_buf_cstr(&o.tail), "wxxxyyyzzz");
	kt_output_free(&o);
}

static void assert_clean(const char *bytes, size_t n, const char *want)
{
	kt_err err = KT_ERR_INIT;
	kt_buf b = KT_BUF_INIT;
	assert_kt_ok(kt_buf_append(&b, bytes, n, &err));
	kt_text_clean(&b);
	assert_string_equal(kt_buf_cstr(&b), want);
	assert_int_equal(b.len, strlen(want));
	assert_true(kt_buf_sane(&b));
	kt_buf_free(&b);
}

static void text_is_made_printable(void **state)
{
	(void)state;
	assert_clean("", 0, "");
	assert_clean("plain\n\ttext", 11, "plain\n\ttext");
	assert_clean("a\r\nb", 4, "a\nb");
	assert_clean("a\0b\x1b[1m\x7f", 8, "a?b?[1m?");
	assert_clean("\xbc\xbd\xbe x", 5, " x"); /* cut inside of a character */
	assert_clean("a\xff\xfe\x80z", 5, "a???z");
	assert_clean("\xc3\xbc\xc3", 3, "\xc3\xbc?");
	char last[8];
	kt_text_last_line("one\ntwo\n  \n\n", last, sizeof last);
	assert_string_equal(last, "two");
	char lines[16];
	kt_text_last_lines("zero\none\n\n  two\n  \n", lines, sizeof lines);
	assert_string_equal(lines, "one; two");
	kt_text_last_lines("  one\n", lines, sizeof lines);
	assert_string_equal(lines, "  one");
	kt_text_last_line("", last, sizeof last);
	assert_string_equal(last, "");
	kt_text_last_line("a line that is long", last, sizeof last);
	assert_string_equal(last, "a line ");
}

static kt_match *match_of(const char *json)
{
	kt_err err = KT_ERR_INIT;
	cJSON *j = NULL;
	kt_match *m;
	assert_kt_ok(kt_json_parse("match", json, strlen(json), &j, &err));
	assert_kt_ok(kt_match_new(j, &m, &err));
	cJSON_Delete(j);
	return m;
}

static void texts_are_found_across_pieces(void **state)
{
	(void)state;
	const char *stream = "0123456789 the needle and the bad word 0123456789";
	size_t n = strlen(stream);
	for (size_t step = 1; step <= n; step++) {
		kt_match *m = match_of("{\"has\":[\"needle\",\"0\",\"word 0123456789\"],\"lacks\":[\"bad\"]}");
		for (size_t i = 0; i < n; i += step)
			(void)kt_match_feed(m, 0, stream + i, n - i < step ? n - i : step);
		assert_null(kt_match_missing(m));
		assert_string_equal(kt_match_forbidden(m), "bad");
		kt_match_free(m);
	}
}

static void texts_do_not_reach_across(void **state)
{
	(void)state;
	kt_match *m = match_of("{\"has\":[\"needle\"]}");
	assert_false(kt_match_feed(m, 0, "nee", 3));
	assert_false(kt_match_feed(m, 1, "dle", 3));
	kt_match_break(m, 0);
	assert_false(kt_match_feed(m, 0, "dle", 3));
	assert_string_equal(kt_match_missing(m), "needle");
	assert_true(kt_match_feed(m, 1, "x needle", 8));
	assert_false(kt_match_feed(m, 1, "x needle", 8));
	assert_null(kt_match_missing(m));
	kt_match_free(m);
}

static void matchers_are_bounded(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_match *m;
	static const char *const bad[] = {"{\"has\":[\"\"]}", "{\"has\":\"x\"}", "{\"lacks\":[1]}"};
	for (size_t i = 0; i < 3; i++) {
		cJSON *j = NULL;
		assert_kt_ok(kt_json_parse("match", bad[i], strlen(bad[i]), &j, &err));
		assert_kt_fails(KT_E_INPUT, kt_match_new(j, &m, &err));
		cJSON_Delete(j);
	}
	char text[KT_MATCH_TEXT + 2];
	memset(text, 'x', sizeof text);
	text[KT_MATCH_TEXT + 1] = '\0';
	cJSON *j = cJSON_CreateObject();
	cJSON *list = cJSON_AddArrayToObject(j, "has");
	cJSON_AddItemToArray(list, cJSON_CreateString(text));
	assert_kt_fails(KT_E_INPUT, kt_match_new(j, &m, &err));
	text[KT_MATCH_TEXT] = '\0';
	cJSON_ReplaceItemInArray(list, 0, cJSON_CreateString(text));
	assert_kt_ok(kt_match_new(j, &m, &err));
	for (int i = 0; i < KT_MATCH_TEXT; i++)
		assert_int_equal(kt_match_feed(m, 0, "x", 1), i == KT_MATCH_TEXT - 1);
	kt_match_free(m);
	for (int i = 0; i < KT_MATCH_TEXTS; i++)
		cJSON_AddItemToArray(list, cJSON_CreateString("y"));
	assert_kt_fails(KT_E_INPUT, kt_match_new(j, &m, &err));
	cJSON_Delete(j);
}

#define KEYED(f) cmocka_unit_test_setup_teardown(f, register_key, forget_key)
#define TEST(f) cmocka_unit_test_setup_teardown(f, scratch_make, scratch_drop)

int main(void)
{
	kt_err err = KT_ERR_INIT;
	if (kt_secret_setup(&err) != KT_OK)
		return 1;
	const struct CMUnitTest tests[] = {
		KEYED(keys_are_replaced_across_pieces),
		KEYED(lines_come_at_once),
		KEYED(keys_are_replaced_without_padding),
		KEYED(raw_bytes_are_replaced),
		KEYED(streams_are_apart),
		KEYED(files_get_scrubbed_bytes_too),
		TEST(a_full_disk_does_not_stop_it),
		TEST(tails_and_heads),
		TEST(text_is_made_printable),
		TEST(texts_are_found_across_pieces),
		TEST(texts_do_not_reach_across),
		TEST(matchers_are_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

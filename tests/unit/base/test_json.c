/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"

static void refuses(const char *text, size_t n)
{
	kt_err err = KT_ERR_INIT;
	cJSON *root = NULL;
	kt_code rc = kt_json_parse("t.json", text, n, &root, &err);
	if (rc != KT_E_INPUT)
		fail_msg("accepted: %s", text);
	assert_null(root);
	assert_non_null(strstr(err.msg, "t.json"));
}

static cJSON *accepts(const char *text)
{
	kt_err err = KT_ERR_INIT;
	cJSON *root = NULL;
	assert_kt_ok(kt_json_parse("t.json", text, strlen(text), &root, &err));
	return root;
}

static void accepts_rfc_8259(void **state)
{
	(void)state;
	const char *const good[] = {"{}",
				    "[]",
				    "0",
				    "-0",
				    "-1.5e+3",
				    "1E9",
				    "true",
				    "false",
				    "null",
				    "\"\"",
				    " [1 , 2]\r\n\t",
				    "{\"a\":{\"a\":1}}",
				    "\"\\u00e9\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
				    "\"\\ud83d\\ude00\"",
				    "\"\xc3\xa9\""};
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
		cJSON_Delete(accepts(good[i]));
}

static void refuses_what_is_not_json(void **state)
{
	(void)state;
	const char *const bad[] = {"",           " ",        "{",        "}",         "[1",          "[1,]",
				   "{\"a\":1,}", "{\"a\"}",  "{a:1}",    "'a'",       "[1] x",       "{}{}",
				   "nul",        "True",     "NaN",      "Infinity",  "-",           "+1",
				   "1e999",      "\"a",      "\"\\x\"",  "\"\\u12\"", "\"\\ud83d\"", "[1 2]",
				   "// c\n1",    "/* c */1", "\"a\nb\"", "\"a\tb\"",  "\x0b[]",      "[\x1f]"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		refuses(bad[i], strlen(bad[i]));
	refuses("[1]\0", 4);
	refuses("\"a\0b\"", 5);
}

/* RFC 8259 §6: no leading zeros, digits on both sides of the point. cJSON takes what strtod takes. */
static void refuses_loose_numbers(void **state)
{
	(void)state;
	const char *const bad[] = {"01",    "-01",   "[1.]",    "[1.e5]", "[1e]",
				   "[1e+]", "[-.5]", "[1.2.3]", "[1-2]",  "[--1]"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		refuses(bad[i], strlen(bad[i]));
}

/* cJSON ends a string at \u0000, so that "a\u0000b" would pass for "a". */
static void refuses_an_escaped_nul(void **state)
{
	(void)state;
	refuses("{\"a\\u0000b\":1}", 14);
	refuses("\"\\u0000\"", 8);
	cJSON_Delete(accepts("\"\\\\u0000\""));
}

/* cJSON takes four characters that are no digits for zero. */
static void refuses_an_escape_without_its_digits(void **state)
{
	(void)state;
	const char *const bad[] = {"\"\\u00g0\"",        "\"\\u 0e9\"",        "\"\\u-0e9\"",
				   "\"\\ud83d\\u00e9\"", "\"\\ud83dx\\de00\"", "\"\\ude00\\ud83d\"",
				   "\"\\ud83d\\ud83d\"", "\"\\ud83d\\ude0\""};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		refuses(bad[i], strlen(bad[i]));
}

static void reads_escapes_as_utf8(void **state)
{
	(void)state;
	cJSON *text = accepts(
		"\"\\\"\\\\\\/\\b\\f\\n\\r\\t|\\u007f\\u0080\\u07FF\\u0800\\uffff\\ud800\\udc00\\uDBFF\\uDFFF|\"");
	assert_string_equal(text->valuestring, "\"\\/\b\f\n\r\t|\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf"
					       "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf|");
	cJSON_Delete(text);
}

static void reads_numbers_exactly(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		double is;
	} good[] = {{"0", 0},
		    {"-0", -0.0},
		    {"-17", -17},
		    {"999999999999999", 999999999999999.0},
		    {"9007199254740993", 9007199254740992.0},
		    {"0.1", 0.1},
		    {"-1.5e+3", -1500},
		    {"5e-324", 5e-324}};
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		cJSON *number = accepts(good[i].text);
		assert_memory_equal(&number->valuedouble, &good[i].is, sizeof good[i].is);
		cJSON_Delete(number);
	}
}

/* RFC 8259 §8.1: UTF-8. */
static void refuses_what_is_not_utf8(void **state)
{
	(void)state;
	const char *const bad[] = {
		"\"\xff\"", "\"\xc3\"",     "\"\xc0\xaf\"",  "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"",
		"\"\x80\"", "\"\xe2\x82\"", "\xef\xbb\xbf{}"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		refuses(bad[i], strlen(bad[i]));
	cJSON_Delete(accepts("\"\xf0\x9f\x98\x80 \xe2\x82\xac\""));
}

static void refuses_a_name_that_stands_twice(void **state)
{
	(void)state;
	refuses("{\"a\":1,\"b\":2,\"a\":3}", 19);
	refuses("[{\"x\":{\"a\":1,\"a\":1}}]", 21);
	cJSON_Delete(accepts("{\"a\":1,\"A\":2}"));
}

static void bounds_depth_and_size(void **state)
{
	(void)state;
	char deep[2 * KT_JSON_DEPTH + 3];
	memset(deep, '[', KT_JSON_DEPTH);
	memset(deep + KT_JSON_DEPTH, ']', KT_JSON_DEPTH);
	deep[2 * KT_JSON_DEPTH] = '\0';
	cJSON_Delete(accepts(deep));
	memset(deep, '[', KT_JSON_DEPTH + 1);
	memset(deep + KT_JSON_DEPTH + 1, ']', KT_JSON_DEPTH + 1);
	refuses(deep, 2 * KT_JSON_DEPTH + 2);
	char *big = malloc((size_t)KT_JSON_MAX + 1);
	assert_non_null(big);
	memset(big, ' ', (size_t)KT_JSON_MAX + 1);
	big[0] = '1';
	refuses(big, (size_t)KT_JSON_MAX + 1);
	free(big);
}

/* Every prefix of a good text is refused, without a crash and without a leak. */
static void refuses_every_truncation(void **state)
{
	(void)state;
	const char text[] = "{\"a\":[1,2.5,{\"b\":\"x\\u00e9\"}],\"c\":null,\"d\":true}";
	for (size_t n = 0; n < sizeof text - 1; n++)
		refuses(text, n);
	cJSON_Delete(accepts(text));
}

static void names_the_line(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	cJSON *root = NULL;
	const char text[] = "{\n \"a\": 1,\n \"b\" 2\n}";
	assert_kt_fails(KT_E_INPUT, kt_json_parse("c.json", text, strlen(text), &root, &err));
	assert_non_null(strstr(err.msg, "c.json:3:"));
	assert_kt_fails(KT_E_INPUT, kt_json_parse("c.json", "[\n\n\"\x01\"]", 7, &root, &err));
	assert_non_null(strstr(err.msg, "c.json:3:"));
}

static const char commented[] = "// a file for people\n"
				"{\n"
				"  \"name\": \"x // no comment\", /* block\n"
				"     over two lines */ \"list\": [\n"
				"    1, // one\n"
				"    {\"deep\": /* here */ true, \"esc\\\"aped\": \"/* no */\"},\n"
				"    []\n"
				"  ],\n"
				"  \"last\"\n"
				"    : null\n"
				"}\n";

static void reads_comments_and_finds_lines(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_json_doc doc;
	assert_kt_ok(kt_json_doc_parse(&doc, "c.json", commented, strlen(commented), &err));
	const char *name = NULL;
	assert_kt_ok(kt_json_str(doc.root, "name", &name, &err));
	assert_string_equal(name, "x // no comment");
	assert_int_equal(kt_json_doc_line(&doc, "$"), 2);
	assert_int_equal(kt_json_doc_line(&doc, "$.name"), 3);
	assert_int_equal(kt_json_doc_line(&doc, "$.list"), 4);
	assert_int_equal(kt_json_doc_line(&doc, "$.list[0]"), 5);
	assert_int_equal(kt_json_doc_line(&doc, "$.list[1].deep"), 6);
	assert_int_equal(kt_json_doc_line(&doc, "$.list[2]"), 7);
	assert_int_equal(kt_json_doc_line(&doc, "$.last"), 10);
	kt_json_doc_free(&doc);
	kt_json_doc_free(NULL);
}

static void paths_that_lead_nowhere_have_no_line(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_json_doc doc;
	assert_kt_ok(kt_json_doc_parse(&doc, "c.json", commented, strlen(commented), &err));
	const char *const none[] = {
		"",         "x",         "$x",      "$.none",    "$.list[3]",    "$.list[99999999999999999999]",
		"$.list.x", "$.name[0]", "$.list[", "$.list[x]", "$.list[2][0]", "$.",
		"$.lis"};
	for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
		if (kt_json_doc_line(&doc, none[i]) != 0)
			fail_msg("%s has a line", none[i]);
	kt_json_doc_free(&doc);
}

static void fail_says_file_line_path(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_json_doc doc;
	assert_kt_ok(kt_json_doc_parse(&doc, "c.json", commented, strlen(commented), &err));
	assert_kt_fails(KT_E_INPUT, kt_json_doc_fail(&doc, "$.list[1].deep", &err, "write false", "is %s", "true"));
	assert_string_equal(err.msg, "c.json:6: $.list[1].deep: is true");
	assert_string_equal(err.remedy, "write false");
	kt_json_doc_free(&doc);
}

static void comments_must_end(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_json_doc doc;
	const char *const bad[] = {"{} /*", "{}\n/* *", "/*/", "{} /", "\"/*\" /* x"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_kt_fails(KT_E_INPUT, kt_json_doc_parse(&doc, "c.json", bad[i], strlen(bad[i]), &err));
		assert_null(doc.root);
		assert_null(doc.text);
	}
	assert_kt_ok(kt_json_doc_parse(&doc, "c.json", "{} //", 5, &err));
	kt_json_doc_free(&doc);
	assert_kt_ok(kt_json_doc_parse(&doc, "c.json", "/**/{}/***/", 11, &err));
	kt_json_doc_free(&doc);
}

static void write_file(const char *path, const char *text, size_t n)
{
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

static void loads_files(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_json_doc doc;
	write_file("json-load", commented, strlen(commented));
	assert_kt_ok(kt_json_doc_load(&doc, "json-load", &err));
	assert_int_equal(err.code, KT_OK);
	kt_json_doc_free(&doc);
	write_file("json-load", "", 0);
	assert_kt_fails(KT_E_INPUT, kt_json_doc_load(&doc, "json-load", &err));
	assert_int_equal(unlink("json-load"), 0);
	assert_kt_fails(KT_E_IO, kt_json_doc_load(&doc, "json-load", &err));
	assert_non_null(strstr(err.msg, "json-load"));
	assert_kt_fails(KT_E_IO, kt_json_doc_load(&doc, ".", &err));
	assert_null(doc.root);
}

/* Files just below and just above the bound. */
static void loads_files_up_to_the_bound(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_json_doc doc;
	size_t max = KT_JSON_MAX;
	char *big = malloc(max + 1);
	assert_non_null(big);
	memset(big, ' ', max + 1);
	memcpy(big, "{}", 2);
	write_file("json-big", big, max);
	assert_kt_ok(kt_json_doc_load(&doc, "json-big", &err));
	kt_json_doc_free(&doc);
	write_file("json-big", big, max + 1);
	assert_kt_fails(KT_E_INPUT, kt_json_doc_load(&doc, "json-big", &err));
	assert_int_equal(unlink("json-big"), 0);
	free(big);
}

static void integers_are_exact(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	int64_t v = 0;
	cJSON *o = accepts("{\"max\":9007199254740991,\"min\":-9007199254740991,\"over\":9007199254740993,\"half\":1.5,"
			   "\"e\":1e3,\"s\":\"1\",\"z\":-0}");
	assert_kt_ok(kt_json_int(o, "max", INT64_MIN, INT64_MAX, &v, &err));
	assert_true(v == 9007199254740991);
	assert_kt_ok(kt_json_int(o, "min", INT64_MIN, INT64_MAX, &v, &err));
	assert_true(v == -9007199254740991);
	assert_kt_ok(kt_json_int(o, "e", 0, 1000, &v, &err));
	assert_true(v == 1000);
	assert_kt_ok(kt_json_int(o, "z", 0, 0, &v, &err));
	/* 2^53 + 1 is not a double: it would be taken for 2^53. */
	assert_kt_fails(KT_E_INPUT, kt_json_int(o, "over", INT64_MIN, INT64_MAX, &v, &err));
	assert_kt_fails(KT_E_INPUT, kt_json_int(o, "half", 0, 9, &v, &err));
	assert_kt_fails(KT_E_INPUT, kt_json_int(o, "e", 0, 999, &v, &err));
	assert_kt_fails(KT_E_INPUT, kt_json_int(o, "e", 1001, 2000, &v, &err));
	assert_kt_fails(KT_E_INPUT, kt_json_int(o, "s", 0, 9, &v, &err));
	assert_non_null(strstr(err.msg, "\"s\""));
	cJSON_Delete(o);
}

static void members_have_types(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	cJSON *o = accepts("{\"s\":\"x\",\"b\":false,\"o\":{},\"a\":[],\"n\":null}");
	const char *s = NULL;
	bool b = true;
	const cJSON *c = NULL;
	assert_kt_ok(kt_json_bool(o, "b", &b, &err));
	assert_false(b);
	assert_kt_ok(kt_json_object(o, "o", &c, &err));
	assert_kt_ok(kt_json_array(o, "a", &c, &err));
	assert_kt_fails(KT_E_INPUT, kt_json_str(o, "b", &s, &err));
	assert_kt_fails(KT_E_INPUT, kt_json_str(o, "n", &s, &err));
	assert_kt_fails(KT_E_INPUT, kt_json_bool(o, "s", &b, &err));
	assert_kt_fails(KT_E_INPUT, kt_json_object(o, "a", &c, &err));
	assert_kt_fails(KT_E_INPUT, kt_json_array(o, "o", &c, &err));
	assert_kt_fails(KT_E_INPUT, kt_json_str(o, "missing", &s, &err));
	assert_non_null(strstr(err.msg, "missing"));
	assert_kt_fails(KT_E_INPUT, kt_json_str(o, "S", &s, &err)); /* names are case-sensitive */
	cJSON_Delete(o);
}

static void optional_members_fall_back(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	cJSON *o = accepts("{\"s\":\"x\",\"i\":7,\"b\":true,\"n\":null}");
	const char *s = NULL;
	int64_t i = 0;
	bool b = false;
	assert_kt_ok(kt_json_opt_str(o, "s", "f", &s, &err));
	assert_string_equal(s, "x");
	assert_kt_ok(kt_json_opt_str(o, "none", "f", &s, &err));
	assert_string_equal(s, "f");
	assert_kt_ok(kt_json_opt_int(o, "i", 3, 0, 9, &i, &err));
	assert_true(i == 7);
	assert_kt_ok(kt_json_opt_int(o, "none", 3, 0, 9, &i, &err));
	assert_true(i == 3);
	assert_kt_ok(kt_json_opt_bool(o, "none", true, &b, &err));
	assert_true(b);
	assert_kt_fails(KT_E_INPUT, kt_json_opt_str(o, "i", "f", &s, &err));
	assert_kt_fails(KT_E_INPUT, kt_json_opt_int(o, "i", 3, 0, 6, &i, &err));
	assert_kt_fails(KT_E_INPUT, kt_json_opt_bool(o, "n", true, &b, &err));
	cJSON_Delete(o);
}

static void canonical_sorts_every_object(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf out = KT_BUF_INIT;
	cJSON *o = accepts(" {\"b\" : [ {\"z\":1,\"a\":2} , 3 ], \"a\":\"x\\u00e9\", \"B\":{}, \"\":null }");
	assert_kt_ok(kt_json_canonical(o, &out, &err));
	assert_string_equal(kt_buf_cstr(&out), "{\"\":null,\"B\":{},\"a\":\"x\xc3\xa9\",\"b\":[{\"a\":2,\"z\":1},3]}");
	kt_buf_clear(&out);
	assert_kt_ok(kt_json_print(o, &out, &err));
	assert_string_equal(kt_buf_cstr(&out), "{\"b\":[{\"z\":1,\"a\":2},3],\"a\":\"x\xc3\xa9\",\"B\":{},\"\":null}");
	kt_buf_free(&out);
	cJSON_Delete(o);
}

/* What is printed here equals what cJSON prints, byte for byte: digests and chains of hashes are taken of it. */
static void prints_as_cjson_does(void **state)
{
	(void)state;
	static const char *const texts[] = {"0",
					    "-0",
					    "1",
					    "-1",
					    "10",
					    "9007199254740992",
					    "-9007199254740992",
					    "999999999999999",
					    "1000000000000000",
					    "1e15",
					    "123456789012345678",
					    "1.5",
					    "-0.25",
					    "1e-7",
					    "1e300",
					    "true",
					    "false",
					    "null",
					    "\"\"",
					    "\"a b\"",
					    "\"\\\"\\\\\\n\\u0001\"",
					    "\"\xc3\xa4\xe2\x82\xac\x7f\"",
					    "[]",
					    "{}",
					    "[[],{},[1]]",
					    "{\"a\":{\"b\\\"\":[1,\"x\",null,true]},\"c\":-17}"};
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		kt_err err = KT_ERR_INIT;
		cJSON *json = cJSON_Parse(texts[i]);
		kt_buf out = KT_BUF_INIT;
		assert_non_null(json);
		char *want = cJSON_PrintUnformatted(json);
		assert_kt_ok(kt_json_print(json, &out, &err));
		assert_string_equal(kt_buf_cstr(&out), want);
		cJSON_free(want);
		kt_buf_free(&out);
		cJSON_Delete(json);
	}
}

static void adds_members(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf out = KT_BUF_INIT;
	cJSON *o = cJSON_CreateObject();
	assert_kt_ok(kt_json_add_str(o, "s", "a\"b", &err));
	assert_kt_ok(kt_json_add_int(o, "i", 1795468266999, &err));
	assert_kt_ok(kt_json_add_bool(o, "b", false, &err));
	assert_kt_ok(kt_json_add(o, "o", cJSON_CreateObject(), &err));
	assert_kt_fails(KT_E_INTERNAL, kt_json_add(o, "null", NULL, &err));
	assert_kt_ok(kt_json_print(o, &out, &err));
	assert_string_equal(kt_buf_cstr(&out), "{\"s\":\"a\\\"b\",\"i\":1795468266999,\"b\":false,\"o\":{}}");
	kt_buf_free(&out);
	cJSON_Delete(o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(accepts_rfc_8259),
		cmocka_unit_test(refuses_what_is_not_json),
		cmocka_unit_test(refuses_loose_numbers),
		cmocka_unit_test(refuses_an_escaped_nul),
		cmocka_unit_test(refuses_an_escape_without_its_digits),
		cmocka_unit_test(reads_escapes_as_utf8),
		cmocka_unit_test(reads_numbers_exactly),
		cmocka_unit_test(refuses_what_is_not_utf8),
		cmocka_unit_test(refuses_a_name_that_stands_twice),
		cmocka_unit_test(bounds_depth_and_size),
		cmocka_unit_test(refuses_every_truncation),
		cmocka_unit_test(names_the_line),
		cmocka_unit_test(reads_comments_and_finds_lines),
		cmocka_unit_test(paths_that_lead_nowhere_have_no_line),
		cmocka_unit_test(fail_says_file_line_path),
		cmocka_unit_test(comments_must_end),
		cmocka_unit_test(loads_files),
		cmocka_unit_test(loads_files_up_to_the_bound),
		cmocka_unit_test(integers_are_exact),
		cmocka_unit_test(members_have_types),
		cmocka_unit_test(optional_members_fall_back),
		cmocka_unit_test(canonical_sorts_every_object),
		cmocka_unit_test(prints_as_cjson_does),
		cmocka_unit_test(adds_members),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

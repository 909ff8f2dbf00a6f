/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <stdio.h>
#include <string.h>

#include "base/schema.h"

static cJSON *parse(const char *text)
{
	kt_err err = KT_ERR_INIT;
	cJSON *root = NULL;
	assert_kt_ok(kt_json_parse("schema", text, strlen(text), &root, &err));
	return root;
}

static kt_code run(const char *schema_text, const char *text, kt_err *err)
{
	cJSON *schema = parse(schema_text);
	kt_json_doc doc;
	kt_err own = KT_ERR_INIT;
	if (kt_json_doc_parse(&doc, "f.json", text, strlen(text), &own) != KT_OK)
		fail_msg("%s", own.msg);
	kt_code rc = kt_schema_check(schema, &doc, err);
	kt_json_doc_free(&doc);
	cJSON_Delete(schema);
	return rc;
}

/* Every keyword: what it takes, and what it refuses with which words in which place. */
static const struct {
	const char *schema;
	const char *good; /* NULL: none */
	const char *bad;  /* NULL: none */
	const char *message;
} rows[] = {
	{"{\"type\":\"string\"}", "\"a\"", "1", "f.json:1: $: must be of type string, is integer"},
	{"{\"type\":\"integer\"}", "1", "1.5", "must be of type integer, is number"},
	{"{\"type\":\"number\"}", "1", "\"1\"", "must be of type number, is string"},
	{"{\"type\":\"boolean\"}", "true", "null", "must be of type boolean, is null"},
	{"{\"type\":\"array\"}", "[]", "{}", "must be of type array, is object"},
	{"{\"type\":[\"object\",\"null\"]}", "null", "[]", "must be of type object or null, is array"},
	{"{\"enum\":[\"node\",\"coordinator\",1]}", "1", "\"nodes\"",
	 "must be one of \"node\", \"coordinator\", 1; did you mean \"node\"?"},
	{"{\"enum\":[\"a\"]}", "\"a\"", "\"zzz\"", "must be one of \"a\""},
	{"{\"const\":{\"a\":[1]}}", "{\"a\":[1]}", "{\"a\":[2]}", "must be {\"a\":[1]}"},
	{"{\"pattern\":\"^[a-z]+$\"}", "\"abc\"", "\"aBc\"", "\"aBc\" does not match ^[a-z]+$"},
	{"{\"pattern\":\"b\"}", "\"abc\"", "\"ac\"", "does not match b"},
	{"{\"pattern\":\"^x\"}", "17", NULL, NULL},
	{"{\"minLength\":1}", "\"a\"", "\"\"", "must not be empty"},
	{"{\"minLength\":2}", "\"\xc3\xa9\xc3\xa9\"", "\"\xc3\xa9\"", "has 1 characters, must have at least 2"},
	{"{\"maxLength\":2}", "\"\xc3\xa9\xc3\xa9\"", "\"abc\"", "has 3 characters, must have at most 2"},
	{"{\"minimum\":1}", "1", "0", "is 0, must be at least 1"},
	{"{\"maximum\":65535}", "65535", "65536", "is 65536, must be at most 65535"},
	{"{\"items\":{\"type\":\"string\"}}", "[\"a\"]", "[\"a\",\n1]",
	 "f.json:2: $[1]: must be of type string, is integer"},
	{"{\"minItems\":1}", "[1]", "[]", "has 0 elements, must have at least 1"},
	{"{\"maxItems\":1}", "[1]", "[1,2]", "has 2 elements, must have at most 1"},
	{"{\"uniqueItems\":true,\"maxItems\":9}", "[1,2]", "[1,\n2,\n1]", "f.json:3: $[2]: stands already at [0]"},
	{"{\"minProperties\":1}", "{\"a\":1}", "{}", "has 0 members, must have at least 1"},
	{"{\"required\":[\"a\",\"b\"]}", "{\"b\":1,\"a\":1}", "{\"a\":1}", "f.json:1: $: \"b\" is missing"},
	{"{\"properties\":{\"name\":{\"type\":\"string\"}}}", "{\"x\":1}", "{\n\"name\":1}",
	 "f.json:2: $.name: must be of type string, is integer"},
	{"{\"properties\":{\"name\":{}},\"additionalProperties\":false}", "{\"name\":1}", "{\"name\":1,\n\"nmae\":1}",
	 "f.json:2: $.nmae: unknown member \"nmae\"; did you mean \"name\"?"},
	{"{\"properties\":{\"name\":{}},\"additionalProperties\":false}", NULL, "{\"zz\":1}", "unknown member \"zz\""},
	{"{\"additionalProperties\":false}", "{}", "{\"a.b\":1}", "f.json:1: $: unknown member \"a.b\""},
	{"{\"additionalProperties\":{\"type\":\"null\"}}", "{\"a\":null}", "{\"a\":1}", "$.a: must be of type null"},
	{"{\"patternProperties\":{\"^A\":{\"type\":\"null\"}},\"additionalProperties\":false}", "{\"A1\":null}",
	 "{\"B1\":null}", "unknown member \"B1\""},
	{"{\"patternProperties\":{\"^A\":{\"type\":\"null\"}}}", "{\"B\":1}", "{\"A\":1}", "$.A: must be of type null"},
	{"{\"propertyNames\":{\"pattern\":\"^[A-Z]+$\"}}", "{\"AB\":1}", "{\"ab\":1}", "$.ab: \"ab\" does not match"},
	{"{\"$ref\":\"#/$defs/n\",\"$defs\":{\"n\":{\"minimum\":3}}}", "3", "2", "is 2, must be at least 3"},
	{"{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]}", "null", "1", "has none of the allowed forms"},
	{"{\"oneOf\":[{\"type\":\"integer\"},{\"minimum\":3}]}", "2", "3", "fits 2 of the forms"},
	{"{\"anyOf\":[{\"type\":\"integer\"},{\"minimum\":3}]}", "3", "2.5", "has none of the allowed forms"},
	/* The form that was meant is the one that failed deepest inside. */
	{"{\"oneOf\":[{\"type\":\"string\"},{\"properties\":{\"a\":{\"properties\":{\"b\":{\"type\":\"null\"}}}}}]}",
	 "{\"a\":{\"b\":null}}", "{\"a\":{\"b\":1}}", "$.a.b: must be of type null"},
	{"true", "1", NULL, NULL},
	{"{\"properties\":{\"a\":false}}", "{\"b\":1}", "{\"a\":1}", "$.a: is not allowed here"},
	{"{\"title\":\"t\",\"description\":\"d\",\"default\":1,\"examples\":[1],\"$comment\":\"\"}", "1", NULL, NULL},
};

static void checks_every_keyword(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		kt_err err = KT_ERR_INIT;
		if (rows[i].good && run(rows[i].schema, rows[i].good, &err) != KT_OK)
			fail_msg("%s refuses %s: %s", rows[i].schema, rows[i].good, err.msg);
		if (!rows[i].bad)
			continue;
		err = KT_ERR_INIT;
		if (run(rows[i].schema, rows[i].bad, &err) != KT_E_INPUT)
			fail_msg("%s takes %s: %s", rows[i].schema, rows[i].bad, err.msg);
		if (!strstr(err.msg, rows[i].message))
			fail_msg("%s: \"%s\" does not say \"%s\"", rows[i].schema, err.msg, rows[i].message);
	}
}

static void refuses_a_schema_that_checks_less_than_it_says(void **state)
{
	(void)state;
	const char *const bad[] = {
		"{\"typ\":\"string\"}",
		"{\"properties\":{\"a\":{\"format\":\"uri\"}}}",
		"{\"allOf\":[{}]}",
		"{\"if\":{}}",
		"{\"type\":\"strin\"}",
		"{\"type\":[]}",
		"{\"type\":[\"string\",7]}",
		"{\"enum\":[]}",
		"{\"enum\":\"a\"}",
		"{\"required\":\"a\"}",
		"{\"required\":[1]}",
		"{\"properties\":[]}",
		"{\"properties\":{\"a\":1}}",
		"{\"items\":[{}]}",
		"{\"oneOf\":[]}",
		"{\"minItems\":-1}",
		"{\"minLength\":1.5}",
		"{\"minimum\":\"1\"}",
		"{\"uniqueItems\":1,\"maxItems\":3}",
		"{\"uniqueItems\":true}",
		"{\"uniqueItems\":true,\"maxItems\":100000}",
		"{\"pattern\":\"(\"}",
		"{\"pattern\":\"\\\\d+\"}",
		"{\"pattern\":\"(?:a)\"}",
		"{\"pattern\":\"[\\\\.]\"}",
		"{\"patternProperties\":{\"[\":{}}}",
		"{\"$ref\":\"#/$defs/none\"}",
		"{\"$ref\":\"other.json\"}",
		"{\"$defs\":{\"unused\":{\"nonsense\":1}}}",
		"[]",
		"7",
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		cJSON *schema = parse(bad[i]);
		kt_err err = KT_ERR_INIT;
		if (kt_schema_lint(schema, &err) != KT_E_INTERNAL)
			fail_msg("taken: %s", bad[i]);
		assert_true(err.msg[0]);
		cJSON_Delete(schema);
		err = KT_ERR_INIT;
		assert_int_equal(run(bad[i], "{\"a\":1}", &err), KT_E_INTERNAL);
	}
}

static void a_reference_to_itself_ends(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	assert_kt_fails(KT_E_INTERNAL,
			run("{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"$ref\":\"#/$defs/a\"}}}", "1", &err));
	/* One that goes down into the value is fine. */
	const char *tree = "{\"$ref\":\"#/$defs/t\",\"$defs\":{\"t\":{\"properties\":{\"n\":{\"$ref\":\"#/$defs/t\"}},"
			   "\"additionalProperties\":false}}}";
	err = KT_ERR_INIT;
	assert_kt_ok(run(tree, "{\"n\":{\"n\":{\"n\":{}}}}", &err));
	assert_kt_fails(KT_E_INPUT, run(tree, "{\"n\":{\"n\":{\"m\":{}}}}", &err));
	assert_non_null(strstr(err.msg, "$.n.n.m: unknown member \"m\"; did you mean \"n\"?"));
}

static void the_description_is_the_remedy(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	assert_kt_fails(KT_E_INPUT, run("{\"maximum\":9,\"description\":\"one digit\"}", "10", &err));
	assert_string_equal(err.remedy, "one digit");
}

static void a_path_too_long_names_the_parent(void **state)
{
	(void)state;
	char text[1600];
	memset(text, 'a', sizeof text);
	memcpy(text, "{\"", 2);
	memcpy(text + 1400, "\":1}", 5);
	kt_err err = KT_ERR_INIT;
	assert_kt_fails(KT_E_INPUT, run("{\"additionalProperties\":{\"type\":\"null\"}}", text, &err));
	assert_non_null(strstr(err.msg, "f.json:1: $: must be of type null"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(checks_every_keyword),
		cmocka_unit_test(refuses_a_schema_that_checks_less_than_it_says),
		cmocka_unit_test(a_reference_to_itself_ends),
		cmocka_unit_test(the_description_is_the_remedy),
		cmocka_unit_test(a_path_too_long_names_the_parent),
	};
	return cmocka_run_group_tests_name("schema", tests, NULL, NULL);
}

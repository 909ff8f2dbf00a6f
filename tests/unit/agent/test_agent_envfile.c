/* SPDX-License-Identifier: Apache-2.0 */
/* Env files as systemd.exec(5) describes them: read, and changed without touching anything else. */
#include "agent/envfile.h"
#include "tests/unit/agent/scratch.h"

static kt_envfile *parse(const char *text)
{
	kt_err err = KT_ERR_INIT;
	kt_envfile *f;
	assert_kt_ok(kt_envfile_parse("env", text, strlen(text), &f, &err));
	return f;
}

static void assert_value(const char *text, const char *want)
{
	kt_envfile *f = parse(text);
	const kt_secret *v = kt_envfile_get(f, "A");
	if (!v)
		fail_msg("A is not set by \"%s\"", text);
	if (v->len != strlen(want) || (v->len && memcmp(v->data, want, v->len) != 0))
		fail_msg("\"%s\": \"%.*s\", not \"%s\"", text, (int)v->len, v->len ? (const char *)v->data : "", want);
	kt_envfile_free(f);
}

static void values(void **state)
{
	(void)state;
	assert_value("A=b", "b");
	assert_value("A=b\n", "b");
	assert_value("  A = b c  \n", "b c");
	assert_value("A=\n", "");
	assert_value("A=   \nB=c\n", "");
	assert_value("A=b\r\nB=c\r\n", "b");
	assert_value("A=\"b c \"", "b c ");
	assert_value("A=' b\\c\"'", " b\\c\"");
	assert_value("A=\"b\\\"c\\\\d\\$e\\`f\\g\"", "b\"c\\d$e`f\\g");
	assert_value("A=\"two\nlines\"\nB=c", "two\nlines");
	assert_value("A='two\nlines'\nB=c", "two\nlines");
	assert_value("A=\"con\\\ntinued\"", "continued");
	assert_value("A=con\\\ntinued\nB=c", "continued");
	assert_value("A=a\\ \n", "a ");
	assert_value("A=a\\\\b", "a\\b");
	assert_value("A=\\\"b", "\"b");
	assert_value("A=it's \"fine\"", "it's \"fine\"");
	assert_value("A=\"a\" \"b\"", "ab");
	assert_value("A=\"a\"b", "ab");
	assert_value("A='a'\"b\"c  ", "abc");
	assert_value("A=a=b=c", "a=b=c");
	assert_value("A=1\nA=2\nA=3\n", "3");
	assert_value("A=#no comment", "#no comment");
	assert_value("#A=x\n;A=y\nA=z\n# end", "z");
	assert_value("\n\n  \nA=b\nno assignment\n=c\n1X=d\nexport A=e\nexport\n", "b");
	assert_value("A=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
		     "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
}

static void which_are_set(void **state)
{
	(void)state;
	kt_envfile *f = parse("B=1\nA=2\n#C=3\nB=4\nexport D=5\nX Y=6\n");
	assert_int_equal(kt_envfile_count(f), 2);
	assert_string_equal(kt_envfile_name(f, 0), "A");
	assert_string_equal(kt_envfile_name(f, 1), "B");
	assert_null(kt_envfile_name(f, 2));
	assert_null(kt_envfile_value(f, 2));
	assert_null(kt_envfile_get(f, "D"));
	assert_null(kt_envfile_get(f, "C"));
	kt_envfile_free(f);
	f = parse("");
	assert_int_equal(kt_envfile_count(f), 0);
	kt_envfile_free(f);
}

static void assert_refused(const char *text, size_t n, const char *part)
{
	kt_err err = KT_ERR_INIT;
	kt_envfile *f = (kt_envfile *)1;
	assert_kt_fails(KT_E_INPUT, kt_envfile_parse("env", text, n, &f, &err));
	assert_null(f);
	if (!strstr(err.msg, part))
		fail_msg("\"%s\" does not say \"%s\"", err.msg, part);
}

static void malformed(void **state)
{
	(void)state;
	assert_refused("X=1\nA=\"open\nB=c\n", 16, "env:2");
	assert_refused("A='open", 7, "not closed");
	assert_refused("A=\"open\\", 8, "not closed");
	assert_refused("A=b\0c", 5, "NUL");
	assert_refused("# ends so \\\nA=b\n", 16, "env:1");
	static char large[KT_ENVFILE_MAX + 1];
	memset(large, '#', sizeof large);
	assert_refused(large, sizeof large, "larger than");
}

/* Set (or unset, with value NULL) and compare the whole text. */
static void assert_changed(const char *text, const char *name, const char *value, const char *want)
{
	kt_err err = KT_ERR_INIT;
	kt_secret v = KT_SECRET_INIT;
	kt_envfile *f = parse(text);
	if (value && value[0])
		assert_kt_ok(kt_secret_copy(&v, value, strlen(value), &err));
	if (value)
		assert_kt_ok(kt_envfile_set(f, name, &v, &err));
	else
		assert_kt_ok(kt_envfile_unset(f, name, &err));
	const kt_secret *got = kt_envfile_text(f);
	if (got->len != strlen(want) || (got->len && memcmp(got->data, want, got->len) != 0))
		fail_msg("\"%s\" became \"%.*s\", not \"%s\"", text, (int)got->len,
			 got->len ? (const char *)got->data : "", want);
	const kt_secret *now = kt_envfile_get(f, name);
	assert_int_equal(now != NULL, value != NULL);
	if (value)
		assert_true(kt_secret_equal(now, &v));
	kt_secret_free(&v);
	kt_envfile_free(f);
}

static void changes(void **state)
{
	(void)state;
	assert_changed("# top\nA=1\n\nB=2\n; end", "A", "x", "# top\nA=x\n\nB=2\n; end");
	assert_changed("# top\nB=2", "A", "x", "# top\nB=2\nA=x\n");
	assert_changed("", "A", "x", "A=x\n");
	/* The last line is still continued: what is added must not become a part of it. */
	assert_changed("B=2\\\n", "A", "x", "B=2\\\n\nA=x\n");
	assert_changed("B=2\\", "A", "x", "B=2\\\n\nA=x\n");
	assert_changed("B=2\\\\", "A", "x", "B=2\\\\\nA=x\n");
	assert_changed("1=2\\\n", "A", "x", "1=2\\\n\nA=x\n");
	assert_changed("A=1\nB=2\nA=3\n", "A", "x", "B=2\nA=x\n");
	assert_changed("A=\"x\"\n", "A", "x", "A=\"x\"\n"); /* already so: not touched */
	assert_changed("A=x\nA=\"x\"\n", "A", "x", "A=x\n");
	assert_changed("A=1\n", "A", "", "A=\n");
	assert_changed("A=1\n", "A", "two words", "A=\"two words\"\n");
	assert_changed("A=1\n", "A", " \"\\`$'#;\t ", "A=\" \\\"\\\\\\`\\$'#;\t \"\n");
	assert_changed("A=1\n", "A", "c+/=", "A=c+/=\n");
	assert_changed("A=1\n", "A", "\xc3\xbc", "A=\"\xc3\xbc\"\n");
	assert_changed("A='two\nlines'\nB=2\n", "A", "x", "A=x\nB=2\n");
	assert_changed("A=1\nB=2\n", "A", NULL, "B=2\n");
	assert_changed("A='two\nlines'\nB=2\nA=3", "A", NULL, "B=2\n");
	assert_changed("B=2\n#A=1\nsome words\n", "A", NULL, "B=2\n#A=1\nsome words\n");
	assert_changed("A=1\r\nB=2\r\n", "B", "x", "A=1\r\nB=x\n\n");
	assert_changed("AB=1\nA=2\n", "A", NULL, "AB=1\n");
}

static void assert_unsettable(const char *text, const char *name, const char *value, size_t n, const char *part)
{
	kt_err err = KT_ERR_INIT;
	kt_secret v = KT_SECRET_INIT;
	kt_envfile *f = parse(text);
	assert_kt_ok(kt_secret_copy(&v, value, n, &err));
	assert_kt_fails(KT_E_INPUT, kt_envfile_set(f, name, &v, &err));
	if (!strstr(err.msg, part))
		fail_msg("\"%s\" does not say \"%s\"", err.msg, part);
	kt_secret_free(&v);
	kt_envfile_free(f);
}

static void what_cannot_be_set(void **state)
{
	(void)state;
	assert_unsettable("", "A", "a\nB=c", 5, "newline");
	assert_unsettable("", "A", "a\rb", 3, "control character");
	assert_unsettable("", "A", "a\0b", 3, "control character");
	assert_unsettable("", "1A", "x", 1, "no name");
	assert_unsettable("", "A B", "x", 1, "no name");
	assert_unsettable("", "", "x", 1, "no name");
	assert_unsettable("export A=1\n", "A", "x", 1, "export");
	char *text = malloc(KT_ENVFILE_MAX);
	memset(text, '#', KT_ENVFILE_MAX - 10);
	text[KT_ENVFILE_MAX - 10] = '\0';
	assert_unsettable(text, "A", "0123456789", 10, "larger than");
	free(text);
	kt_err err = KT_ERR_INIT;
	kt_envfile *f = parse("export A=1\n");
	assert_kt_fails(KT_E_INPUT, kt_envfile_unset(f, "A", &err));
	kt_envfile_free(f);
}

/* Any value that can be set is read back as it was, whatever stands in it. */
static void every_character_survives(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	for (int c = 1; c < 256; c++) {
		if ((c < 0x20 && c != '\t') || c == 0x7f)
			continue;
		char value[] = {(char)c, 'a', (char)c, (char)c, 'b', (char)c, '\0'};
		kt_secret v;
		kt_envfile *f = parse("B=1\n");
		assert_kt_ok(kt_secret_copy(&v, value, 6, &err));
		assert_kt_ok(kt_envfile_set(f, "A", &v, &err));
		assert_true(kt_secret_equal(kt_envfile_get(f, "A"), &v));
		assert_int_equal(kt_envfile_count(f), 2);
		kt_secret_free(&v);
		kt_envfile_free(f);
	}
}

static void files(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_envfile *f;
	put_text("env", "A=1\n", 0600);
	assert_kt_ok(kt_envfile_load(at("env"), &f, &err));
	assert_int_equal(kt_envfile_count(f), 1);
	kt_envfile_free(f);
	put_text("env", "", 0600);
	assert_kt_ok(kt_envfile_load(at("env"), &f, &err));
	kt_envfile_free(f);
	assert_kt_fails(KT_E_IO, kt_envfile_load(at("none"), &f, &err));
	assert_kt_fails(KT_E_IO, kt_envfile_load(scratch_folder, &f, &err));
	assert_int_equal(mkfifo(at("fifo"), 0600), 0);
	assert_kt_fails(KT_E_IO, kt_envfile_load(at("fifo"), &f, &err));
	assert_int_equal(truncate(at("env"), KT_ENVFILE_MAX + 1), 0);
	assert_kt_fails(KT_E_INPUT, kt_envfile_load(at("env"), &f, &err));
	assert_int_equal(truncate(at("env"), INT64_C(1) << 40), 0);
	assert_kt_fails(KT_E_INPUT, kt_envfile_load(at("env"), &f, &err));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, scratch_make, scratch_drop)

int main(void)
{
	kt_err err = KT_ERR_INIT;
	if (kt_secret_setup(&err) != KT_OK)
		return 1;
	const struct CMUnitTest tests[] = {TEST(values),  TEST(which_are_set),      TEST(malformed),
					   TEST(changes), TEST(what_cannot_be_set), TEST(every_character_survives),
					   TEST(files)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

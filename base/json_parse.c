/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strict JSON text (RFC 8259) into a tree of cJSON, in one pass. cJSON's own parser takes more than that: control
 * characters in strings, numbers as strtod takes them, bytes that are not UTF-8, a string that ends at an escaped NUL.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"

enum { FEW_MEMBERS = 16, NUMBER_MAX = 63, EXACT_DIGITS = 15 };

typedef struct reader {
	const char *name; /* for messages */
	const char *text, *at, *end;
	int depth;
	kt_err *err;
} reader;

static kt_code refuse_at(const reader *r, const char *at, const char *what)
{
	size_t line = 1;
	for (const char *p = r->text; p < at; p++)
		line += *p == '\n';
	return kt_fail(r->err, KT_E_INPUT, "correct the JSON there", "%s:%zu: %s", r->name, line, what);
}

static kt_code refuse(const reader *r)
{
	return refuse_at(r, r->at, "not valid JSON");
}

static kt_code no_memory(const reader *r)
{
	return kt_fail(r->err, KT_E_INTERNAL, NULL, "out of memory");
}

/* The next character that is no white space; NUL at the end, and a NUL in the text is refused like the end is. */
static char peek(reader *r)
{
	while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t'))
		r->at++;
	return r->at < r->end ? *r->at : '\0';
}

/* --- Strings ------------------------------------------------------------------------------------------------------ */

/* Four hexadecimal digits at p, which has that many characters before the closing quote; -1 when they are none. */
static long hex4(const char *p, const char *end)
{
	long out = 0;
	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		char c = p[i];
		if (c >= '0' && c <= '9')
			out = out * 16 + (c - '0');
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			out = out * 16 + ((c | 0x20) - 'a' + 10);
		else
			return -1;
	}
	return out;
}

/* The character behind `\u`, a pair of surrogates being one (RFC 8259 §7); *p goes behind it. -1: it is none. */
static long escaped_character(const char **p, const char *end)
{
	long high = hex4(*p, end);
	if (high < 0 || (high >= 0xdc00 && high <= 0xdfff))
		return -1;
	*p += 4;
	if (high < 0xd800 || high > 0xdfff)
		return high;
	if (end - *p < 6 || (*p)[0] != '\\' || (*p)[1] != 'u')
		return -1;
	long low = hex4(*p + 2, end);
	*p += 6;
	return low < 0xdc00 || low > 0xdfff ? -1 : 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
}

/* As UTF-8 (RFC 3629 §3); the end of it. */
static char *put_character(char *out, long c)
{
	if (c < 0x80) {
		*out++ = (char)c;
		return out;
	}
	int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3; /* bytes that follow the first */
	*out++ = (char)((0xff00 >> (more + 1) & 0xff) | c >> 6 * more);
	while (more-- > 0)
		*out++ = (char)(0x80 | (c >> 6 * more & 0x3f));
	return out;
}

static const char escapes[] = "\"\\/bfnrt";
static const char escaped[] = "\"\\/\b\f\n\r\t";

/* The text of a string up to its closing quote, which is `end`, without its escapes; `out` has room for it. */
static kt_code unescape(const reader *r, const char *p, const char *end, char *out)
{
	while (p < end) {
		const char *start = p;
		if (*p != '\\') {
			*out++ = *p++;
			continue;
		}
		p++;
		const char *e = *p ? strchr(escapes, *p) : NULL;
		if (e) {
			*out++ = escaped[e - escapes];
			p++;
			continue;
		}
		long c = *p++ == 'u' ? escaped_character(&p, end) : -1;
		if (c <= 0)
			return refuse_at(r, start, c ? "not valid JSON" : "\\u0000 in a string");
		out = put_character(out, c);
	}
	*out = '\0';
	return KT_OK;
}

/* Printable ASCII without escapes, as most strings are; a loop that has no way out looks at many together. */
static bool is_plain(const char *p, size_t n)
{
	bool plain = true;
	for (size_t i = 0; i < n; i++)
		plain &= (unsigned char)p[i] >= 0x20 && (unsigned char)p[i] < 0x80 && p[i] != '\\';
	return plain;
}

/* The closing quote of the string that begins at r->at. */
static kt_code find_quote(const reader *r, const char **out, bool *plain)
{
	const char *p = r->at;
	size_t bad;
	bool ascii = true;
	*out = memchr(p, '"', (size_t)(r->end - p));
	*plain = *out && is_plain(p, (size_t)(*out - p));
	if (*plain)
		return KT_OK;
	for (; p < r->end && *p != '"'; p++) {
		unsigned char c = (unsigned char)*p;
		if (c < 0x20)
			return refuse_at(r, p, "control character in a string");
		ascii &= c < 0x80;
		p += c == '\\'; /* the next one is no closing quote */
	}
	if (p >= r->end)
		return refuse_at(r, r->end, "not valid JSON");
	if (!ascii && !kt_utf8_valid(r->at, (size_t)(p - r->at), &bad))
		return refuse_at(r, r->at + bad, "not UTF-8");
	*out = p;
	return KT_OK;
}

/* The string of which the opening quote is at r->at. *out is for cJSON to free. */
static kt_code read_string(reader *r, char **out)
{
	const char *end = NULL;
	bool plain;
	r->at++;
	KT_TRY(find_quote(r, &end, &plain));
	size_t n = (size_t)(end - r->at);
	char *text = cJSON_malloc(n + 1);
	if (!text)
		return no_memory(r);
	kt_code rc = KT_OK;
	if (plain) {
		memcpy(text, r->at, n);
		text[n] = '\0';
	} else {
		rc = unescape(r, r->at, end, text);
	}
	r->at = end + 1;
	if (rc == KT_OK)
		*out = text;
	else
		cJSON_free(text);
	return rc;
}

/* --- Numbers ------------------------------------------------------------------------------------------------------ */

static size_t digits_at(const char *p, const char *end)
{
	size_t n = 0;
	while (p + n < end && p[n] >= '0' && p[n] <= '9')
		n++;
	return n;
}

/* The end of the number at p (RFC 8259 §6), NULL when it is none. *digits: how many, when it is a whole one. */
static const char *number_end(const char *p, const char *end, size_t *digits)
{
	p += *p == '-';
	size_t n = *digits = digits_at(p, end);
	if (n == 0 || (n > 1 && *p == '0'))
		return NULL;
	p += n;
	if (p < end && *p == '.') {
		n = digits_at(p + 1, end);
		if (n == 0)
			return NULL;
		p += 1 + n;
		*digits = 0;
	}
	if (p < end && (*p == 'e' || *p == 'E')) {
		p += p + 1 < end && (p[1] == '+' || p[1] == '-') ? 2 : 1;
		n = digits_at(p, end);
		if (n == 0)
			return NULL;
		p += n;
		*digits = 0;
	}
	return p;
}

static double whole_number(const char *p, const char *end)
{
	bool negative = *p == '-';
	int64_t n = 0;
	for (p += negative; p < end; p++)
		n = n * 10 + (*p - '0');
	return negative ? -(double)n : (double)n;
}

static kt_code read_number(reader *r, cJSON **out)
{
	size_t digits;
	double d;
	const char *start = r->at;
	const char *end = number_end(start, r->end, &digits);
	if (!end || end - start > NUMBER_MAX)
		return refuse_at(r, start, "not a number");
	if (digits && digits <= EXACT_DIGITS) {
		d = whole_number(start, end);
	} else {
		char copy[NUMBER_MAX + 1];
		memcpy(copy, start, (size_t)(end - start));
		copy[end - start] = '\0';
		d = strtod(copy, NULL);
	}
	if (!isfinite(d))
		return refuse_at(r, start, "a number is out of range");
	r->at = end;
	*out = cJSON_CreateNumber(d);
	return *out ? KT_OK : no_memory(r);
}

/* --- Values ------------------------------------------------------------------------------------------------------- */

static kt_code read_value(reader *r, cJSON **out);

static kt_code twice(const reader *r, const cJSON *member)
{
	return kt_fail(r->err, KT_E_INPUT, "remove one of the two", "%s: the name \"%s\" stands twice in one object",
		       r->name, member->string);
}

/* Few members are compared each with each. */
static kt_code check_few_names(const reader *r, const cJSON *object)
{
	for (const cJSON *c = object->child; c; c = c->next)
		for (const cJSON *before = object->child; before != c; before = before->next)
			if (before->string[0] == c->string[0] && strcmp(before->string, c->string) == 0)
				return twice(r, c);
	return KT_OK;
}

static kt_code check_names(const reader *r, const cJSON *object, size_t n)
{
	if (n <= FEW_MEMBERS)
		return check_few_names(r, object);
	const cJSON **member;
	KT_TRY(kt_json_sorted(object, &member, &n, r->err));
	kt_code rc = KT_OK;
	for (size_t i = 1; rc == KT_OK && i < n; i++)
		if (strcmp(member[i - 1]->string, member[i]->string) == 0)
			rc = twice(r, member[i]);
	free((void *)member);
	return rc;
}

/* What stands in an object before a value. */
static kt_code read_name(reader *r, char **out)
{
	if (peek(r) != '"')
		return refuse(r);
	KT_TRY(read_string(r, out));
	if (peek(r) == ':') {
		r->at++;
		return KT_OK;
	}
	cJSON_free(*out);
	return refuse(r);
}

static kt_code read_child(reader *r, cJSON *into)
{
	char *name = NULL;
	cJSON *child = NULL;
	if (cJSON_IsObject(into))
		KT_TRY(read_name(r, &name));
	kt_code rc = read_value(r, &child);
	if (rc != KT_OK) {
		cJSON_free(name);
		return rc;
	}
	child->string = name;
	(void)cJSON_AddItemToArray(into, child); /* which only links it */
	return KT_OK;
}

/* The rest of an array or object, behind its bracket. */
static kt_code read_children(reader *r, cJSON *into)
{
	const char close = cJSON_IsObject(into) ? '}' : ']';
	size_t n = 0;
	if (peek(r) == close) {
		r->at++;
		return KT_OK;
	}
	for (char c = ','; c == ','; n++) {
		KT_TRY(read_child(r, into));
		c = peek(r);
		if (c != ',' && c != close)
			return refuse(r);
		r->at++;
	}
	return close == '}' ? check_names(r, into, n) : KT_OK;
}

static kt_code read_composite(reader *r, cJSON *into, cJSON **out)
{
	if (!into)
		return no_memory(r);
	kt_code rc = r->depth < KT_JSON_DEPTH ? KT_OK : refuse_at(r, r->at, "nested too deep");
	r->at++;
	r->depth++;
	if (rc == KT_OK)
		rc = read_children(r, into);
	r->depth--;
	if (rc == KT_OK)
		*out = into;
	else
		cJSON_Delete(into);
	return rc;
}

static kt_code read_text(reader *r, cJSON **out)
{
	char *text;
	KT_TRY(read_string(r, &text));
	*out = cJSON_CreateNull();
	if (!*out) {
		cJSON_free(text);
		return no_memory(r);
	}
	(*out)->type = cJSON_String;
	(*out)->valuestring = text;
	return KT_OK;
}

static kt_code read_word(reader *r, cJSON **out)
{
	static const char *const words[] = {"false", "true", "null"};
	for (int i = 0; i < 3; i++) {
		size_t n = strlen(words[i]);
		if ((size_t)(r->end - r->at) < n || memcmp(r->at, words[i], n) != 0)
			continue;
		r->at += n;
		*out = i == 2 ? cJSON_CreateNull() : cJSON_CreateBool(i);
		return *out ? KT_OK : no_memory(r);
	}
	return refuse(r);
}

static kt_code read_value(reader *r, cJSON **out)
{
	char c = peek(r);
	if (c == '"')
		return read_text(r, out);
	if (c == '{')
		return read_composite(r, cJSON_CreateObject(), out);
	if (c == '[')
		return read_composite(r, cJSON_CreateArray(), out);
	if (c == '-' || (c >= '0' && c <= '9'))
		return read_number(r, out);
	return read_word(r, out);
}

kt_code kt_json_parse(const char *name, const void *text, size_t len, cJSON **out, kt_err *err)
{
	const char *start = len ? text : "";
	reader r = {.name = name, .text = start, .at = start, .end = start + len, .err = err};
	cJSON *root = NULL;
	*out = NULL;
	if (len > KT_JSON_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "%s: larger than %d bytes", name, (int)KT_JSON_MAX);
	KT_TRY(read_value(&r, &root));
	(void)peek(&r);
	if (r.at < r.end) {
		cJSON_Delete(root);
		return refuse(&r);
	}
	*out = root;
	return KT_OK;
}

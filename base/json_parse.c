/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strict JSON text (RFC 8259). cJSON reads it; what cJSON lets pass and the RFC forbids is refused: before it sees the
 * text control characters in strings, numbers as strtod takes them, bytes that are not UTF-8, a string that would end
 * at an escaped NUL, a \u without its four digits (taken for a NUL); afterwards names that stand twice.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"

enum { FEW_MEMBERS = 16 };

/* A text and what its messages name it. */
typedef struct source {
	const char *name;
	const char *text, *end;
	kt_err *err;
} source;

static kt_code refuse_at(const source *s, const char *at, const char *what)
{
	size_t line = 1;
	for (const char *p = s->text; p < at; p++)
		line += *p == '\n';
	return kt_fail(s->err, KT_E_INPUT, "correct the JSON there", "%s:%zu: %s", s->name, line, what);
}

/* --- Before cJSON sees it ----------------------------------------------------------------------------------------- */

static const char *digits_end(const char *p, const char *end)
{
	while (p < end && *p >= '0' && *p <= '9')
		p++;
	return p;
}

/* The end of the number at p (RFC 8259 §6), NULL when it is none. */
static const char *number_end(const char *p, const char *end)
{
	p += *p == '-';
	const char *first = p;
	p = digits_end(p, end);
	if (p == first || (p - first > 1 && *first == '0'))
		return NULL;
	if (p < end && *p == '.') {
		first = p + 1;
		p = digits_end(first, end);
		if (p == first)
			return NULL;
	}
	if (p < end && (*p == 'e' || *p == 'E')) {
		first = p + (p + 1 < end && (p[1] == '+' || p[1] == '-') ? 2 : 1);
		p = digits_end(first, end);
		if (p == first)
			return NULL;
	}
	return p < end && (*p == '.' || *p == '-' || *p == '+') ? NULL : p;
}

/* The escape of which the backslash is at p; *after goes behind it. */
static kt_code check_escape(const source *s, const char *p, const char **after)
{
	static const char digits[] = "0123456789abcdefABCDEF";
	*after = p + 1;
	if (s->end - p < 2 || p[1] != 'u') {
		*after += s->end - p >= 2 && (unsigned char)p[1] >= 0x20;
		return KT_OK; /* cJSON knows the others */
	}
	for (int i = 2; i < 6; i++)
		if (s->end - p <= i || !p[i] || !strchr(digits, p[i]))
			return refuse_at(s, p, "not valid JSON");
	if (memcmp(p + 2, "0000", 4) == 0)
		return refuse_at(s, p, "\\u0000 in a string");
	*after = p + 6;
	return KT_OK;
}

/* The string that begins with the quote at p; *after is behind its closing quote (or the end of the text). */
static kt_code check_string(const source *s, const char *p, const char **after)
{
	for (p++; p < s->end && *p != '"';) {
		if ((unsigned char)*p < 0x20)
			return refuse_at(s, p, "control character in a string");
		if (*p == '\\')
			KT_TRY(check_escape(s, p, &p));
		else
			p++;
	}
	*after = p < s->end ? p + 1 : p;
	return KT_OK;
}

static kt_code check_utf8(const source *s)
{
	size_t bad, n = (size_t)(s->end - s->text);
	unsigned char all = 0;
	for (size_t i = 0; i < n; i++) /* without a way out, so that many are looked at together */
		all |= (unsigned char)s->text[i];
	return all < 0x80 || kt_utf8_valid(s->text, n, &bad) ? KT_OK : refuse_at(s, s->text + bad, "not UTF-8");
}

/* A character that stands in no string and begins no string and no number. */
static kt_code check_character(const source *s, const char *p, int *depth)
{
	if ((unsigned char)*p < 0x20 && *p != '\n' && *p != '\r' && *p != '\t')
		return refuse_at(s, p, "control character");
	if ((unsigned char)*p > 0x7e) /* also a byte order mark, which cJSON would skip */
		return refuse_at(s, p, "not valid JSON");
	*depth += (*p == '{' || *p == '[') - (*p == '}' || *p == ']');
	return *depth > KT_JSON_DEPTH ? refuse_at(s, p, "nested too deep") : KT_OK;
}

static kt_code check_text(const source *s)
{
	int depth = 0;
	KT_TRY(check_utf8(s));
	for (const char *p = s->text; p < s->end;) {
		if (*p == '"') {
			KT_TRY(check_string(s, p, &p));
		} else if (*p == '-' || (*p >= '0' && *p <= '9')) {
			const char *after = number_end(p, s->end);
			if (!after)
				return refuse_at(s, p, "not a number");
			p = after;
		} else {
			KT_TRY(check_character(s, p++, &depth));
		}
	}
	return KT_OK;
}

/* --- What it has read --------------------------------------------------------------------------------------------- */

static kt_code twice(const source *s, const cJSON *member)
{
	return kt_fail(s->err, KT_E_INPUT, "remove one of the two", "%s: the name \"%s\" stands twice in one object",
		       s->name, member->string);
}

/* Few members are compared each with each. */
static kt_code check_few_names(const source *s, const cJSON *object)
{
	for (const cJSON *c = object->child; c; c = c->next)
		for (const cJSON *before = object->child; before != c; before = before->next)
			if (before->string[0] == c->string[0] && strcmp(before->string, c->string) == 0)
				return twice(s, c);
	return KT_OK;
}

static kt_code check_many_names(const source *s, const cJSON *object)
{
	const cJSON **member;
	size_t n;
	KT_TRY(kt_json_sorted(object, &member, &n, s->err));
	kt_code rc = KT_OK;
	for (size_t i = 1; rc == KT_OK && i < n; i++)
		if (strcmp(member[i - 1]->string, member[i]->string) == 0)
			rc = twice(s, member[i]);
	free((void *)member);
	return rc;
}

/* The depth is known to be bounded. */
static kt_code check_value(const source *s, const cJSON *v)
{
	size_t n = 0;
	if (cJSON_IsNumber(v) && !isfinite(v->valuedouble))
		return kt_fail(s->err, KT_E_INPUT, NULL, "%s: a number is out of range", s->name);
	for (const cJSON *c = v->child; c; c = c->next, n++)
		if (c->child || cJSON_IsNumber(c))
			KT_TRY(check_value(s, c));
	if (!cJSON_IsObject(v))
		return KT_OK;
	return n <= FEW_MEMBERS ? check_few_names(s, v) : check_many_names(s, v);
}

/* Nothing but white space is left. */
static bool is_end(const source *s, const char *p)
{
	while (p < s->end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
		p++;
	return p == s->end;
}

kt_code kt_json_parse(const char *name, const void *text, size_t len, cJSON **out, kt_err *err)
{
	const char *start = len ? text : "";
	const source s = {.name = name, .text = start, .end = start + len, .err = err};
	const char *end = start;
	*out = NULL;
	if (len > KT_JSON_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "%s: larger than %d bytes", name, (int)KT_JSON_MAX);
	KT_TRY(check_text(&s));
	cJSON *root = cJSON_ParseWithLengthOpts(start, len, &end, 0);
	kt_code rc = root && is_end(&s, end) ? check_value(&s, root) : refuse_at(&s, end, "not valid JSON");
	if (rc != KT_OK)
		cJSON_Delete(root);
	else
		*out = root;
	return rc;
}

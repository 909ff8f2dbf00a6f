/* SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

#define KT_EXACT_INT 9007199254740992.0 /* 2^53 */

static size_t line_of(const char *text, const char *at)
{
	size_t line = 1;
	for (const char *p = text; p < at; p++)
		line += *p == '\n';
	return line;
}

static int by_name(const void *a, const void *b)
{
	const cJSON *const *x = a;
	const cJSON *const *y = b;
	return strcmp((*x)->string, (*y)->string);
}

kt_code kt_json_sorted(const cJSON *obj, const cJSON ***out, size_t *n, kt_err *err)
{
	*out = NULL;
	*n = 0;
	for (const cJSON *c = obj->child; c; c = c->next)
		++*n;
	if (*n == 0)
		return KT_OK;
	*out = calloc(*n, sizeof(cJSON *));
	if (!*out)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	size_t i = 0;
	for (const cJSON *c = obj->child; c; c = c->next)
		(*out)[i++] = c;
	qsort((void *)*out, *n, sizeof(cJSON *), by_name);
	return KT_OK;
}

/* Blank comments in place, line breaks kept. An unclosed block comment is an error. */
static kt_code blank_comments(const char *name, char *text, size_t len, kt_err *err)
{
	bool in_string = false;
	for (size_t i = 0; i < len; i++) {
		if (in_string) {
			if (text[i] == '\\' && i + 1 < len)
				i++;
			else if (text[i] == '"')
				in_string = false;
		} else if (text[i] == '"') {
			in_string = true;
		} else if (text[i] == '/' && i + 1 < len && text[i + 1] == '/') {
			while (i < len && text[i] != '\n')
				text[i++] = ' ';
		} else if (text[i] == '/' && i + 1 < len && text[i + 1] == '*') {
			const char *close = NULL;
			for (size_t j = i + 2; j + 1 < len && !close; j++)
				if (text[j] == '*' && text[j + 1] == '/')
					close = text + j + 1;
			if (!close)
				return kt_fail(err, KT_E_INPUT, NULL, "%s:%zu: comment without an end", name,
					       line_of(text, text + i));
			for (; text + i <= close; i++)
				if (text[i] != '\n')
					text[i] = ' ';
			i--;
		}
	}
	return KT_OK;
}

kt_code kt_json_doc_parse(kt_json_doc *doc, const char *name, const void *text, size_t len, kt_err *err)
{
	*doc = (kt_json_doc){0};
	kt_code rc = KT_OK;
	doc->name = strdup(name);
	doc->text = malloc(len + 1);
	if (!doc->name || !doc->text) {
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
		goto out;
	}
	if (len)
		memcpy(doc->text, text, len);
	doc->text[len] = '\0';
	doc->len = len;
	KT_TRY_GOTO(blank_comments(name, doc->text, len, err), out);
	KT_TRY_GOTO(kt_json_parse(name, doc->text, len, &doc->root, err), out);
out:
	if (rc != KT_OK)
		kt_json_doc_free(doc);
	return rc;
}

kt_code kt_json_doc_load(kt_json_doc *doc, const char *path, kt_err *err)
{
	*doc = (kt_json_doc){0};
	kt_buf text = {.max = KT_JSON_MAX};
	kt_code rc = kt_file_read(path, &text, err);
	if (rc == KT_OK)
		rc = kt_json_doc_parse(doc, path, text.data ? text.data : (const uint8_t *)"", text.len, err);
	kt_buf_free(&text);
	return rc;
}

void kt_json_doc_free(kt_json_doc *doc)
{
	if (!doc)
		return;
	cJSON_Delete(doc->root);
	free(doc->name);
	free(doc->text);
	*doc = (kt_json_doc){0};
}

/* --- From a JSON path to its place. The text is known to be valid JSON. ------------------------------------------ */

static const char *skip_space(const char *p)
{
	while (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')
		p++;
	return p;
}

static const char *skip_string(const char *p)
{
	for (p++; *p && *p != '"'; p++)
		if (*p == '\\' && p[1])
			p++;
	return *p ? p + 1 : p;
}

static const char *skip_value(const char *p)
{
	int depth = 0;
	p = skip_space(p);
	while (*p) {
		if (*p == '"') {
			p = skip_string(p);
			if (depth == 0)
				return p;
			continue;
		}
		if (*p == '{' || *p == '[')
			depth++;
		else if (*p == '}' || *p == ']') {
			if (depth == 0)
				return p;
			if (--depth == 0)
				return p + 1;
		} else if (*p == ',' && depth == 0)
			return p;
		p++;
	}
	return p;
}

/* The value of the member of which the name is name[0..n), in the object at p. */
static const char *enter_member(const char *p, const char *name, size_t n)
{
	p = skip_space(p);
	if (*p != '{')
		return NULL;
	p = skip_space(p + 1);
	while (*p == '"') {
		const char *label = p + 1;
		const char *end = skip_string(p);
		p = skip_space(end);
		if (*p != ':')
			return NULL;
		p = skip_space(p + 1);
		if ((size_t)(end - 1 - label) == n && memcmp(label, name, n) == 0)
			return p;
		p = skip_space(skip_value(p));
		if (*p != ',')
			return NULL;
		p = skip_space(p + 1);
	}
	return NULL;
}

static const char *enter_index(const char *p, unsigned long index)
{
	p = skip_space(p);
	if (*p != '[')
		return NULL;
	p = skip_space(p + 1);
	for (; index; index--) {
		p = skip_space(skip_value(p));
		if (*p != ',')
			return NULL;
		p = skip_space(p + 1);
	}
	return *p == ']' ? NULL : p;
}

size_t kt_json_doc_line(const kt_json_doc *doc, const char *path)
{
	if (*path != '$')
		return 0;
	const char *p = skip_space(doc->text);
	for (path++; *path && p;) {
		if (*path == '.') {
			size_t n = strcspn(path + 1, ".[");
			p = enter_member(p, path + 1, n);
			path += 1 + n;
		} else if (*path == '[') {
			char *end;
			unsigned long i = strtoul(path + 1, &end, 10);
			if (*end != ']')
				return 0;
			p = enter_index(p, i);
			path = end + 1;
		} else {
			return 0;
		}
	}
	return p ? line_of(doc->text, p) : 0;
}

kt_code kt_json_doc_fail(const kt_json_doc *doc, const char *path, kt_err *err, const char *remedy, const char *fmt,
			 ...)
{
	char msg[KT_ERR_MSG / 2];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	return kt_fail(err, KT_E_INPUT, remedy ? remedy : "correct the file there", "%s:%zu: %s: %s", doc->name,
		       kt_json_doc_line(doc, path), path, msg);
}

/* --- Members ------------------------------------------------------------------------------------------------------ */

const cJSON *kt_json_member(const cJSON *obj, const char *name)
{
	const cJSON *m = obj ? obj->child : NULL;
	while (m && (!m->string || m->string[0] != name[0] || strcmp(m->string, name) != 0))
		m = m->next;
	return m;
}

static kt_code member(const cJSON *obj, const char *name, cJSON_bool (*is)(const cJSON *), const char *what,
		      const cJSON **out, kt_err *err)
{
	*out = kt_json_member(obj, name);
	if (!*out)
		return kt_fail(err, KT_E_INPUT, NULL, "\"%s\" is missing", name);
	if (!is(*out))
		return kt_fail(err, KT_E_INPUT, NULL, "\"%s\" must be %s", name, what);
	return KT_OK;
}

kt_code kt_json_str(const cJSON *obj, const char *name, const char **out, kt_err *err)
{
	const cJSON *m;
	KT_TRY(member(obj, name, cJSON_IsString, "a string", &m, err));
	*out = m->valuestring;
	return KT_OK;
}

kt_code kt_json_int(const cJSON *obj, const char *name, int64_t min, int64_t max, int64_t *out, kt_err *err)
{
	const cJSON *m;
	KT_TRY(member(obj, name, cJSON_IsNumber, "a whole number", &m, err));
	double d = m->valuedouble;
	if (d != floor(d) || fabs(d) >= KT_EXACT_INT || d < (double)min || d > (double)max)
		return kt_fail(err, KT_E_INPUT, NULL, "\"%s\" must be a whole number from %" PRId64 " to %" PRId64,
			       name, min, max);
	*out = (int64_t)d;
	return KT_OK;
}

kt_code kt_json_bool(const cJSON *obj, const char *name, bool *out, kt_err *err)
{
	const cJSON *m;
	KT_TRY(member(obj, name, cJSON_IsBool, "true or false", &m, err));
	*out = cJSON_IsTrue(m);
	return KT_OK;
}

kt_code kt_json_object(const cJSON *obj, const char *name, const cJSON **out, kt_err *err)
{
	return member(obj, name, cJSON_IsObject, "an object", out, err);
}

kt_code kt_json_array(const cJSON *obj, const char *name, const cJSON **out, kt_err *err)
{
	return member(obj, name, cJSON_IsArray, "an array", out, err);
}

kt_code kt_json_opt_str(const cJSON *obj, const char *name, const char *fallback, const char **out, kt_err *err)
{
	*out = fallback;
	return kt_json_member(obj, name) ? kt_json_str(obj, name, out, err) : KT_OK;
}

kt_code kt_json_opt_int(const cJSON *obj, const char *name, int64_t fallback, int64_t min, int64_t max, int64_t *out,
			kt_err *err)
{
	*out = fallback;
	return kt_json_member(obj, name) ? kt_json_int(obj, name, min, max, out, err) : KT_OK;
}

kt_code kt_json_opt_bool(const cJSON *obj, const char *name, bool fallback, bool *out, kt_err *err)
{
	*out = fallback;
	return kt_json_member(obj, name) ? kt_json_bool(obj, name, out, err) : KT_OK;
}

/* --- Printing ----------------------------------------------------------------------------------------------------- */

/*
 * Printing: what nearly everything is (plain strings, whole numbers, lists and objects) here, for a turn prints some
 * hundred thousand values; the rest by cJSON, whose text this equals byte for byte.
 */
static kt_code print_by_cjson(const cJSON *value, kt_buf *out, kt_err *err)
{
	char *text = cJSON_PrintUnformatted(value);
	if (!text)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = kt_buf_str(out, text, err);
	cJSON_free(text);
	return rc;
}

static kt_code print_text(const char *text, kt_buf *out, kt_err *err)
{
	const size_t n = strlen(text);
	bool plain = true;
	for (size_t i = 0; i < n; i++) /* without a way out of the loop, so that many are looked at together */
		plain &= (unsigned char)text[i] >= 0x20 && text[i] != '"' && text[i] != '\\';
	if (!plain) {
		const cJSON s = {.type = cJSON_String, .valuestring = (char *)(uintptr_t)text};
		return print_by_cjson(&s, out, err);
	}
	KT_TRY(kt_buf_room(out, n + 2, err));
	uint8_t *to = out->data + out->len;
	to[0] = '"';
	memcpy(to + 1, text, n);
	to[n + 1] = '"';
	to[n + 2] = '\0';
	out->len += n + 2;
	return KT_OK;
}

static kt_code print_number(const cJSON *value, kt_buf *out, kt_err *err)
{
	char digits[24];
	char *at = digits + sizeof digits;
	double d = value->valuedouble;
	if (!(fabs(d) < 1e15) || d != floor(d) || (d == 0 && signbit(d)))
		return print_by_cjson(value, out, err);
	uint64_t n = (uint64_t)fabs(d);
	do
		*--at = (char)('0' + n % 10);
	while ((n /= 10) > 0);
	if (d < 0)
		*--at = '-';
	return kt_buf_append(out, at, (size_t)(digits + sizeof digits - at), err);
}

static kt_code put(char c, kt_buf *out, kt_err *err)
{
	KT_TRY(kt_buf_room(out, 1, err));
	out->data[out->len++] = (uint8_t)c;
	out->data[out->len] = '\0';
	return KT_OK;
}

static kt_code print_children(const cJSON *value, bool named, kt_buf *out, kt_err *err)
{
	KT_TRY(put(named ? '{' : '[', out, err));
	for (const cJSON *c = value->child; c; c = c->next) {
		if (c != value->child)
			KT_TRY(put(',', out, err));
		if (named) {
			KT_TRY(print_text(c->string, out, err));
			KT_TRY(put(':', out, err));
		}
		KT_TRY(kt_json_print(c, out, err));
	}
	return put(named ? '}' : ']', out, err);
}

kt_code kt_json_print(const cJSON *value, kt_buf *out, kt_err *err)
{
	if (cJSON_IsObject(value) || cJSON_IsArray(value))
		return print_children(value, cJSON_IsObject(value), out, err);
	if (cJSON_IsString(value))
		return print_text(value->valuestring, out, err);
	if (cJSON_IsNumber(value))
		return print_number(value, out, err);
	return print_by_cjson(value, out, err);
}

static kt_code canonical_object(const cJSON *obj, kt_buf *out, kt_err *err)
{
	const cJSON **m;
	size_t n;
	KT_TRY(kt_json_sorted(obj, &m, &n, err));
	kt_code rc = put('{', out, err);
	for (size_t i = 0; rc == KT_OK && i < n; i++) {
		if (i)
			rc = put(',', out, err);
		if (rc == KT_OK)
			rc = print_text(m[i]->string, out, err);
		if (rc == KT_OK)
			rc = put(':', out, err);
		if (rc == KT_OK)
			rc = kt_json_canonical(m[i], out, err);
	}
	free((void *)m);
	return rc == KT_OK ? put('}', out, err) : rc;
}

kt_code kt_json_canonical(const cJSON *value, kt_buf *out, kt_err *err)
{
	if (cJSON_IsObject(value))
		return canonical_object(value, out, err);
	if (!cJSON_IsArray(value))
		return kt_json_print(value, out, err);
	KT_TRY(put('[', out, err));
	for (const cJSON *c = value->child; c; c = c->next) {
		if (c != value->child)
			KT_TRY(put(',', out, err));
		KT_TRY(kt_json_canonical(c, out, err));
	}
	return put(']', out, err);
}

kt_code kt_json_add(cJSON *obj, const char *name, cJSON *value, kt_err *err)
{
	if (value && cJSON_AddItemToObject(obj, name, value))
		return KT_OK;
	cJSON_Delete(value);
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

kt_code kt_json_add_str(cJSON *obj, const char *name, const char *value, kt_err *err)
{
	return kt_json_add(obj, name, cJSON_CreateString(value), err);
}

kt_code kt_json_add_int(cJSON *obj, const char *name, int64_t value, kt_err *err)
{
	return kt_json_add(obj, name, cJSON_CreateNumber((double)value), err);
}

kt_code kt_json_add_bool(cJSON *obj, const char *name, bool value, kt_err *err)
{
	return kt_json_add(obj, name, cJSON_CreateBool(value), err);
}

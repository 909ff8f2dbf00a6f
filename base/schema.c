/* SPDX-License-Identifier: Apache-2.0 */
#include "base/schema.h"

#include <math.h>
#include <regex.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/nearest.h"

enum {
	PATH_MAX_LEN = 1024,
	REF_DEPTH = 64,    /* schemas entered at once; JSON itself is at most KT_JSON_DEPTH deep */
	UNIQUE_MAX = 1000, /* comparing pairs must stay cheap */
	REFS_PREFIX = 8    /* strlen("#/$defs/") */
};

typedef struct checker {
	const cJSON *root; /* the schema, for $ref */
	const kt_json_doc *doc;
	kt_err *err;
	char path[PATH_MAX_LEN]; /* of the value looked at */
	size_t fault;            /* how long the path was where the last fault was found */
	int depth;
} checker;

typedef kt_code (*check_fn)(checker *c, const cJSON *schema, const cJSON *keyword, const cJSON *value);

static kt_code check(checker *c, const cJSON *schema, const cJSON *value);

/* --- Paths and messages ---------------------------------------------------------------------------------------------
 */

/* Both give the length to return to with leave(). What would not fit is left out: the message names the parent then. */
static size_t enter_member(checker *c, const char *name)
{
	size_t n = strlen(c->path);
	bool plain = name[0] && strcspn(name, ".[]") == strlen(name);
	if (plain && n + strlen(name) + 2 <= sizeof c->path)
		(void)snprintf(c->path + n, sizeof c->path - n, ".%s", name);
	return n;
}

static size_t enter_index(checker *c, size_t index)
{
	size_t n = strlen(c->path);
	if (n + 24 <= sizeof c->path)
		(void)snprintf(c->path + n, sizeof c->path - n, "[%zu]", index);
	return n;
}

static void leave(checker *c, size_t length)
{
	c->path[length] = '\0';
}

static kt_code fault(checker *c, const cJSON *schema, const char *fmt, ...) KT_PRINTF(3, 4);
static kt_code fault(checker *c, const cJSON *schema, const char *fmt, ...)
{
	char msg[KT_ERR_MSG / 2];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	c->fault = strlen(c->path);
	const cJSON *help = cJSON_GetObjectItemCaseSensitive(schema, "description");
	return kt_json_doc_fail(c->doc, c->path, c->err,
				cJSON_IsString(help) ? help->valuestring : "correct the file there", "%s", msg);
}

static kt_code broken(kt_err *err, const char *fmt, ...) KT_PRINTF(2, 3);
static kt_code broken(kt_err *err, const char *fmt, ...)
{
	char msg[KT_ERR_MSG / 2];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	return kt_fail(err, KT_E_INTERNAL, "this is a fault of the schema, not of the file", "schema: %s", msg);
}

/* --- Values ---------------------------------------------------------------------------------------------------------
 */

static bool is_integer(const cJSON *v)
{
	return cJSON_IsNumber(v) && v->valuedouble == floor(v->valuedouble) &&
	       fabs(v->valuedouble) <= 9007199254740992.0;
}

static const char *type_of(const cJSON *v)
{
	if (cJSON_IsString(v))
		return "string";
	if (cJSON_IsBool(v))
		return "boolean";
	if (cJSON_IsNull(v))
		return "null";
	if (cJSON_IsArray(v))
		return "array";
	if (cJSON_IsObject(v))
		return "object";
	return is_integer(v) ? "integer" : "number";
}

static bool has_type(const cJSON *v, const char *type)
{
	const char *is = type_of(v);
	return strcmp(is, type) == 0 || (strcmp(type, "number") == 0 && strcmp(is, "integer") == 0);
}

static size_t characters(const char *utf8)
{
	size_t n = 0;
	for (; *utf8; utf8++)
		n += ((unsigned char)*utf8 & 0xc0) != 0x80;
	return n;
}

/* --- Keywords -------------------------------------------------------------------------------------------------------
 */

static kt_code check_type(checker *c, const cJSON *schema, const cJSON *keyword, const cJSON *value)
{
	if (cJSON_IsString(keyword)) {
		if (has_type(value, keyword->valuestring))
			return KT_OK;
		return fault(c, schema, "must be of type %s, is %s", keyword->valuestring, type_of(value));
	}
	char list[128] = "";
	for (const cJSON *t = keyword->child; t; t = t->next) {
		if (has_type(value, t->valuestring))
			return KT_OK;
		size_t n = strlen(list);
		(void)snprintf(list + n, sizeof list - n, "%s%s", n ? " or " : "", t->valuestring);
	}
	return fault(c, schema, "must be of type %s, is %s", list, type_of(value));
}

static kt_code check_enum(checker *c, const cJSON *schema, const cJSON *keyword, const cJSON *value)
{
	kt_nearest near = KT_NEAREST(cJSON_IsString(value) ? value->valuestring : "");
	kt_buf list = {.max = KT_ERR_MSG / 4};
	kt_code rc = KT_OK;
	for (const cJSON *e = keyword->child; e; e = e->next) {
		if (cJSON_Compare(e, value, 1)) {
			kt_buf_free(&list);
			return KT_OK;
		}
		if (cJSON_IsString(e))
			kt_nearest_offer(&near, e->valuestring);
		if (list.len)
			rc = kt_buf_str(&list, ", ", NULL);
		if (rc == KT_OK)
			rc = kt_json_print(e, &list, NULL);
	}
	if (near.best)
		rc = fault(c, schema, "must be one of %s; did you mean \"%s\"?", kt_buf_cstr(&list), near.best);
	else
		rc = fault(c, schema, "must be one of %s", kt_buf_cstr(&list));
	kt_buf_free(&list);
	return rc;
}

static kt_code check_const(checker *c, const cJSON *schema, const cJSON *keyword, const cJSON *value)
{
	if (cJSON_Compare(keyword, value, 1))
		return KT_OK;
	kt_buf text = {.max = KT_ERR_MSG / 4};
	KT_IGNORE(kt_json_print(keyword, &text, NULL));
	kt_code rc = fault(c, schema, "must be %s", kt_buf_cstr(&text));
	kt_buf_free(&text);
	return rc;
}

static kt_code check_pattern(checker *c, const cJSON *schema, const cJSON *keyword, const cJSON *value)
{
	if (!cJSON_IsString(value))
		return KT_OK;
	regex_t re;
	if (regcomp(&re, keyword->valuestring, REG_EXTENDED | REG_NOSUB) != 0)
		return broken(c->err, "bad pattern %s", keyword->valuestring);
	int no = regexec(&re, value->valuestring, 0, NULL, 0);
	regfree(&re);
	if (no == 0)
		return KT_OK;
	return fault(c, schema, "\"%.80s\" does not match %s", value->valuestring, keyword->valuestring);
}

static kt_code check_length(checker *c, const cJSON *schema, const cJSON *keyword, const cJSON *value)
{
	if (!cJSON_IsString(value))
		return KT_OK;
	bool least = strcmp(keyword->string, "minLength") == 0;
	size_t n = characters(value->valuestring);
	size_t bound = (size_t)keyword->valuedouble;
	if (least ? n >= bound : n <= bound)
		return KT_OK;
	if (least && bound == 1)
		return fault(c, schema, "must not be empty");
	return fault(c, schema, "has %zu characters, must have at %s %zu", n, least ? "least" : "most", bound);
}

static kt_code check_range(checker *c, const cJSON *schema, const cJSON *keyword, const cJSON *value)
{
	if (!cJSON_IsNumber(value))
		return KT_OK;
	bool least = strcmp(keyword->string, "minimum") == 0;
	double d = value->valuedouble;
	if (least ? d >= keyword->valuedouble : d <= keyword->valuedouble)
		return KT_OK;
	return fault(c, schema, "is %.15g, must be at %s %.15g", d, least ? "least" : "most", keyword->valuedouble);
}

static kt_code check_count(checker *c, const cJSON *schema, const cJSON *keyword, const cJSON *value)
{
	bool object = strcmp(keyword->string, "minProperties") == 0;
	if (object ? !cJSON_IsObject(value) : !cJSON_IsArray(value))
		return KT_OK;
	bool least = strncmp(keyword->string, "min", 3) == 0;
	size_t n = (size_t)cJSON_GetArraySize(value);
	size_t bound = (size_t)keyword->valuedouble;
	if (least ? n >= bound : n <= bound)
		return KT_OK;
	return fault(c, schema, "has %zu %s, must have at %s %zu", n, object ? "members" : "elements",
		     least ? "least" : "most", bound);
}

static kt_code check_unique(checker *c, const cJSON *schema, const cJSON *keyword, const cJSON *value)
{
	if (!cJSON_IsArray(value) || !cJSON_IsTrue(keyword) || cJSON_GetArraySize(value) > UNIQUE_MAX)
		return KT_OK; /* too many: maxItems has its say, which lint demands */
	size_t i = 0;
	for (const cJSON *a = value->child; a; a = a->next, i++) {
		size_t j = 0;
		for (const cJSON *b = value->child; b != a; b = b->next, j++) {
			if (!cJSON_Compare(a, b, 1))
				continue;
			size_t back = enter_index(c, i);
			kt_code rc = fault(c, schema, "stands already at [%zu]", j);
			leave(c, back);
			return rc;
		}
	}
	return KT_OK;
}

static kt_code check_items(checker *c, const cJSON *schema, const cJSON *keyword, const cJSON *value)
{
	(void)schema;
	if (!cJSON_IsArray(value))
		return KT_OK;
	size_t i = 0;
	for (const cJSON *e = value->child; e; e = e->next, i++) {
		size_t back = enter_index(c, i);
		KT_TRY(check(c, keyword, e));
		leave(c, back);
	}
	return KT_OK;
}

/* Is there a pattern in `patterns` that fits `name`? *sub is its schema. */
static kt_code match_name(checker *c, const cJSON *patterns, const char *name, const cJSON **sub)
{
	for (const cJSON *p = patterns ? patterns->child : NULL; p && !*sub; p = p->next) {
		regex_t re;
		if (regcomp(&re, p->string, REG_EXTENDED | REG_NOSUB) != 0)
			return broken(c->err, "bad pattern %s", p->string);
		if (regexec(&re, name, 0, NULL, 0) == 0)
			*sub = p;
		regfree(&re);
	}
	return KT_OK;
}

static kt_code unknown_member(checker *c, const cJSON *schema, const cJSON *properties, const char *name)
{
	kt_nearest near = KT_NEAREST(name);
	for (const cJSON *p = properties ? properties->child : NULL; p; p = p->next)
		kt_nearest_offer(&near, p->string);
	if (near.best)
		return fault(c, schema, "unknown member \"%.80s\"; did you mean \"%s\"?", name, near.best);
	return fault(c, schema, "unknown member \"%.80s\"", name);
}

/* Where no other members are allowed: is one there? */
static kt_code check_known(checker *c, const cJSON *schema, const cJSON *value)
{
	const cJSON *properties = cJSON_GetObjectItemCaseSensitive(schema, "properties");
	const cJSON *patterns = cJSON_GetObjectItemCaseSensitive(schema, "patternProperties");
	if (!cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(schema, "additionalProperties")))
		return KT_OK;
	for (const cJSON *m = value->child; m; m = m->next) {
		const cJSON *sub = properties ? cJSON_GetObjectItemCaseSensitive(properties, m->string) : NULL;
		size_t back = enter_member(c, m->string);
		if (!sub)
			KT_TRY(match_name(c, patterns, m->string, &sub));
		if (!sub)
			return unknown_member(c, schema, properties, m->string);
		leave(c, back);
	}
	return KT_OK;
}

static kt_code check_required(checker *c, const cJSON *schema, const cJSON *keyword, const cJSON *value)
{
	if (!cJSON_IsObject(value))
		return KT_OK;
	for (const cJSON *name = keyword->child; name; name = name->next)
		if (!cJSON_GetObjectItemCaseSensitive(value, name->valuestring)) {
			KT_TRY(check_known(c, schema, value)); /* a mistyped name is the better message */
			return fault(c, schema, "\"%s\" is missing", name->valuestring);
		}
	return KT_OK;
}

/* properties, patternProperties and additionalProperties belong together: whichever comes first does all three. */
static kt_code check_members(checker *c, const cJSON *schema, const cJSON *keyword, const cJSON *value)
{
	const cJSON *properties = cJSON_GetObjectItemCaseSensitive(schema, "properties");
	const cJSON *patterns = cJSON_GetObjectItemCaseSensitive(schema, "patternProperties");
	const cJSON *others = cJSON_GetObjectItemCaseSensitive(schema, "additionalProperties");
	const cJSON *first = properties ? properties : patterns ? patterns : others;
	if (!cJSON_IsObject(value) || keyword != first)
		return KT_OK;
	for (const cJSON *m = value->child; m; m = m->next) {
		const cJSON *sub = properties ? cJSON_GetObjectItemCaseSensitive(properties, m->string) : NULL;
		size_t back = enter_member(c, m->string);
		if (!sub)
			KT_TRY(match_name(c, patterns, m->string, &sub));
		if (!sub && cJSON_IsFalse(others))
			return unknown_member(c, schema, properties, m->string);
		if (sub || others)
			KT_TRY(check(c, sub ? sub : others, m));
		leave(c, back);
	}
	return KT_OK;
}

static kt_code check_names(checker *c, const cJSON *schema, const cJSON *keyword, const cJSON *value)
{
	(void)schema;
	if (!cJSON_IsObject(value))
		return KT_OK;
	for (const cJSON *m = value->child; m; m = m->next) {
		cJSON *name = cJSON_CreateStringReference(m->string);
		if (!name)
			return kt_fail(c->err, KT_E_INTERNAL, NULL, "out of memory");
		size_t back = enter_member(c, m->string);
		kt_code rc = check(c, keyword, name);
		cJSON_Delete(name);
		KT_TRY(rc);
		leave(c, back);
	}
	return KT_OK;
}

static kt_code check_ref(checker *c, const cJSON *schema, const cJSON *keyword, const cJSON *value)
{
	(void)schema;
	const cJSON *defs = cJSON_GetObjectItemCaseSensitive(c->root, "$defs");
	return check(c, cJSON_GetObjectItemCaseSensitive(defs, keyword->valuestring + REFS_PREFIX), value);
}

/* Of the forms that do not fit, the one that failed deepest inside is most likely the one that was meant. */
static kt_code check_forms(checker *c, const cJSON *schema, const cJSON *keyword, const cJSON *value)
{
	bool one = strcmp(keyword->string, "oneOf") == 0;
	size_t fits = 0;
	size_t deepest = 0;
	kt_err best = KT_ERR_INIT;
	for (const cJSON *form = keyword->child; form; form = form->next) {
		kt_err own = KT_ERR_INIT;
		checker sub = *c;
		sub.err = &own;
		kt_code rc = check(&sub, form, value);
		if (rc == KT_E_INTERNAL)
			return kt_fail(c->err, rc, own.remedy, "%s", own.msg);
		fits += rc == KT_OK;
		if (rc != KT_OK && sub.fault > deepest) {
			deepest = sub.fault;
			best = own;
		}
	}
	if (fits == 1 || (fits && !one))
		return KT_OK;
	if (fits)
		return fault(c, schema, "fits %zu of the forms that exclude each other", fits);
	if (deepest <= strlen(c->path))
		return fault(c, schema, "has none of the allowed forms");
	c->fault = deepest;
	return kt_fail(c->err, best.code, best.remedy[0] ? best.remedy : NULL, "%s", best.msg);
}

/* --- The table of keywords, and what a schema itself must look like --------------------------------------------------
 */

typedef enum kind {
	K_NOTE,    /* annotation: anything */
	K_ANY,     /* any value */
	K_BOOL,    /* true or false */
	K_COUNT,   /* whole number >= 0 */
	K_NUMBER,  /* number */
	K_TYPE,    /* name of a type, or several */
	K_NAMES,   /* array of strings */
	K_VALUES,  /* array that is not empty */
	K_PATTERN, /* expression */
	K_REF,     /* #/$defs/NAME */
	K_SCHEMA,  /* a schema */
	K_SCHEMAS, /* array of schemas that is not empty */
	K_MAP,     /* object of schemas */
	K_PATTERNS /* object of schemas, the names are expressions */
} kind;

static const struct keyword {
	const char *name;
	kind kind;
	check_fn check;
} keywords[] = {
	{"$schema", K_NOTE, NULL},
	{"$id", K_NOTE, NULL},
	{"$comment", K_NOTE, NULL},
	{"title", K_NOTE, NULL},
	{"description", K_NOTE, NULL},
	{"default", K_NOTE, NULL},
	{"examples", K_NOTE, NULL},
	{"$defs", K_MAP, NULL},
	{"$ref", K_REF, check_ref},
	{"type", K_TYPE, check_type},
	{"enum", K_VALUES, check_enum},
	{"const", K_ANY, check_const},
	{"required", K_NAMES, check_required},
	{"properties", K_MAP, check_members},
	{"patternProperties", K_PATTERNS, check_members},
	{"additionalProperties", K_SCHEMA, check_members},
	{"propertyNames", K_SCHEMA, check_names},
	{"minProperties", K_COUNT, check_count},
	{"items", K_SCHEMA, check_items},
	{"minItems", K_COUNT, check_count},
	{"maxItems", K_COUNT, check_count},
	{"uniqueItems", K_BOOL, check_unique},
	{"pattern", K_PATTERN, check_pattern},
	{"minLength", K_COUNT, check_length},
	{"maxLength", K_COUNT, check_length},
	{"minimum", K_NUMBER, check_range},
	{"maximum", K_NUMBER, check_range},
	{"oneOf", K_SCHEMAS, check_forms},
	{"anyOf", K_SCHEMAS, check_forms},
};

static const struct keyword *find_keyword(const char *name)
{
	for (size_t i = 0; i < sizeof keywords / sizeof keywords[0]; i++)
		if (strcmp(keywords[i].name, name) == 0)
			return &keywords[i];
	return NULL;
}

/* What ERE and ECMA-262 understand differently: \d, \w and their like, (?…), a backslash inside brackets. */
static kt_code lint_pattern(const char *pattern, kt_err *err)
{
	bool in_brackets = false;
	for (const char *p = pattern; *p; p++) {
		if (*p == '\\' && (in_brackets || !strchr("\\^$.[]|()*+?{}/", p[1])))
			return broken(err, "pattern %s: this backslash has no common meaning", pattern);
		if (*p == '\\' && p[1])
			p++;
		else if (!in_brackets && p[0] == '(' && p[1] == '?')
			return broken(err, "pattern %s: (? is not for POSIX", pattern);
		else if (!in_brackets && *p == '[') {
			in_brackets = true;
			p += p[1] == '^';
		} else if (*p == ']')
			in_brackets = false;
	}
	regex_t re;
	if (regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB) != 0)
		return broken(err, "bad pattern %s", pattern);
	regfree(&re);
	return KT_OK;
}

static kt_code lint(const cJSON *root, const cJSON *schema, const char *where, int depth, kt_err *err);

static kt_code lint_type(const cJSON *v, const char *where, kt_err *err)
{
	static const char *const known[] = {"string", "integer", "number", "boolean", "null", "array", "object"};
	bool list = cJSON_IsArray(v) && v->child;
	for (const cJSON *t = list ? v->child : v; t; t = list ? t->next : NULL) {
		bool ok = false;
		for (size_t i = 0; cJSON_IsString(t) && i < sizeof known / sizeof known[0]; i++)
			ok = ok || strcmp(t->valuestring, known[i]) == 0;
		if (!ok)
			return broken(err, "%s: unknown type", where);
	}
	return KT_OK;
}

static kt_code lint_ref(const cJSON *root, const cJSON *v, const char *where, kt_err *err)
{
	const cJSON *defs = cJSON_GetObjectItemCaseSensitive(root, "$defs");
	if (!cJSON_IsString(v) || strncmp(v->valuestring, "#/$defs/", REFS_PREFIX) != 0 ||
	    !cJSON_GetObjectItemCaseSensitive(defs, v->valuestring + REFS_PREFIX))
		return broken(err, "%s: $ref leads nowhere", where);
	return KT_OK;
}

static kt_code lint_children(const cJSON *root, const cJSON *v, kind k, const char *where, int depth, kt_err *err)
{
	bool list = k == K_SCHEMAS;
	if (list ? !cJSON_IsArray(v) || !v->child : !cJSON_IsObject(v))
		return broken(err, "%s: must hold schemas", where);
	for (const cJSON *s = v->child; s; s = s->next) {
		if (k == K_PATTERNS)
			KT_TRY(lint_pattern(s->string, err));
		KT_TRY(lint(root, s, list ? where : s->string, depth + 1, err));
	}
	return KT_OK;
}

static kt_code lint_names(const cJSON *v, const char *where, kt_err *err)
{
	bool ok = cJSON_IsArray(v);
	for (const cJSON *n = ok ? v->child : NULL; n; n = n->next)
		ok = ok && cJSON_IsString(n);
	return ok ? KT_OK : broken(err, "%s: \"%s\" must be an array of strings", where, v->string);
}

static kt_code lint_plain(const cJSON *v, kind k, const char *where, kt_err *err)
{
	bool ok = true;
	if (k == K_BOOL)
		ok = cJSON_IsBool(v);
	else if (k == K_COUNT)
		ok = is_integer(v) && v->valuedouble >= 0;
	else if (k == K_NUMBER)
		ok = cJSON_IsNumber(v);
	else if (k == K_VALUES)
		ok = cJSON_IsArray(v) && v->child;
	else if (k == K_PATTERN)
		ok = cJSON_IsString(v);
	return ok ? KT_OK : broken(err, "%s: bad value of \"%s\"", where, v->string);
}

static kt_code lint_keyword(const cJSON *root, const cJSON *v, const char *where, int depth, kt_err *err)
{
	const struct keyword *k = find_keyword(v->string);
	if (!k)
		return broken(err, "%s: keyword \"%s\" is not supported", where, v->string);
	switch (k->kind) {
	case K_TYPE:
		return lint_type(v, where, err);
	case K_REF:
		return lint_ref(root, v, where, err);
	case K_NAMES:
		return lint_names(v, where, err);
	case K_SCHEMA:
		return lint(root, v, v->string, depth + 1, err);
	case K_SCHEMAS:
	case K_MAP:
	case K_PATTERNS:
		return lint_children(root, v, k->kind, where, depth, err);
	default:
		KT_TRY(lint_plain(v, k->kind, where, err));
		return k->kind == K_PATTERN ? lint_pattern(v->valuestring, err) : KT_OK;
	}
}

static kt_code lint(const cJSON *root, const cJSON *schema, const char *where, int depth, kt_err *err)
{
	if (cJSON_IsBool(schema))
		return KT_OK;
	if (!cJSON_IsObject(schema) || depth > REF_DEPTH)
		return broken(err, "%s: a schema is an object, true or false", where);
	for (const cJSON *k = schema->child; k; k = k->next)
		KT_TRY(lint_keyword(root, k, where, depth, err));
	const cJSON *most = cJSON_GetObjectItemCaseSensitive(schema, "maxItems");
	if (cJSON_GetObjectItemCaseSensitive(schema, "uniqueItems") && (!most || most->valuedouble > UNIQUE_MAX))
		return broken(err, "%s: uniqueItems needs maxItems of at most %d", where, (int)UNIQUE_MAX);
	return KT_OK;
}

kt_code kt_schema_lint(const cJSON *schema, kt_err *err)
{
	return lint(schema, schema, "$", 0, err);
}

/* --- Walking --------------------------------------------------------------------------------------------------------
 */

static kt_code check_keywords(checker *c, const cJSON *schema, const cJSON *value)
{
	/* The type first: it explains most about a value that is quite another thing. */
	const cJSON *type = cJSON_GetObjectItemCaseSensitive(schema, "type");
	if (type)
		KT_TRY(check_type(c, schema, type, value));
	for (const cJSON *k = schema->child; k; k = k->next) {
		const struct keyword *known = find_keyword(k->string);
		if (known && known->check && k != type)
			KT_TRY(known->check(c, schema, k, value));
	}
	return KT_OK;
}

static kt_code check(checker *c, const cJSON *schema, const cJSON *value)
{
	if (cJSON_IsTrue(schema))
		return KT_OK;
	if (cJSON_IsFalse(schema))
		return fault(c, NULL, "is not allowed here");
	if (c->depth >= REF_DEPTH)
		return broken(c->err, "a $ref leads to itself");
	c->depth++;
	kt_code rc = check_keywords(c, schema, value);
	c->depth--;
	return rc;
}

kt_code kt_schema_check(const cJSON *schema, const kt_json_doc *doc, kt_err *err)
{
	KT_TRY(kt_schema_lint(schema, err));
	checker c = {.root = schema, .doc = doc, .err = err, .path = "$"};
	return check(&c, schema, doc->root);
}

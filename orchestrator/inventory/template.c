/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/inventory/template.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	STRING_MAX = 1024 * 1024,        /* bytes of one resolved string */
	BUDGET = 16 * 1024 * 1024,       /* bytes that one resolution may look at: ends what doubles at every level */
	FALLBACK = KT_TEMPLATE_NAME * 2, /* bytes of a fallback with its NUL */
	VALUE_DEPTH = 2 * KT_JSON_DEPTH  /* of a resolved value */
};

/* --- Tokens ----------------------------------------------------------------------------------------------------------
 */

typedef enum token_kind { T_END, T_TEXT, T_DOLLAR, T_REF } token_kind;

typedef struct token {
	token_kind kind;
	const char *raw; /* its bytes in the string */
	size_t raw_len;
	char name[KT_TEMPLATE_NAME];
	char field[KT_TEMPLATE_NAME]; /* empty: none */
	char fallback[FALLBACK];
	bool has_fallback;
} token;

static bool is_name_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

static kt_code bad_ref(const token *t, kt_err *err, const char *why)
{
	return kt_fail(err, KT_E_INPUT, "write ${name}, ${step.field} or ${step.field|fallback}; $$ is a dollar sign",
		       "\"%.*s\": %s", (int)(t->raw_len < 80 ? t->raw_len : 80), t->raw, why);
}

/* A name at p, with dots if `dots`; *n is its length. */
static kt_code copy_name(const token *t, const char *p, bool dots, char out[KT_TEMPLATE_NAME], size_t *n, kt_err *err)
{
	*n = 0;
	while (is_name_char(p[*n]) || (dots && p[*n] == '.'))
		++*n;
	if (*n == 0)
		return bad_ref(t, err, "a name is missing");
	if (*n >= KT_TEMPLATE_NAME)
		return bad_ref(t, err, "the name is too long");
	memcpy(out, p, *n);
	out[*n] = '\0';
	return KT_OK;
}

/* t->raw begins with "${". */
static kt_code read_ref(token *t, kt_err *err)
{
	const char *close = strchr(t->raw, '}');
	t->raw_len = close ? (size_t)(close - t->raw) + 1 : strlen(t->raw);
	if (!close)
		return bad_ref(t, err, "${ without a closing }");
	const char *p = t->raw + 2;
	size_t n;
	KT_TRY(copy_name(t, p, false, t->name, &n, err));
	p += n;
	if (*p == '.') {
		KT_TRY(copy_name(t, p + 1, true, t->field, &n, err));
		p += 1 + n;
	}
	if (*p == '|') {
		size_t rest = (size_t)(close - p) - 1;
		if (!t->field[0])
			return bad_ref(t, err, "only the result of a step may have a fallback");
		if (rest >= FALLBACK)
			return bad_ref(t, err, "the fallback is too long");
		memcpy(t->fallback, p + 1, rest);
		t->fallback[rest] = '\0';
		t->has_fallback = true;
		p = close;
	}
	return p == close ? KT_OK : bad_ref(t, err, "a name has letters, digits, _ and -");
}

/* The token at *p, which moves behind it. */
static kt_code next_token(const char **p, token *t, kt_err *err)
{
	t->kind = T_END;
	t->raw = *p;
	t->raw_len = 0;
	t->field[0] = '\0';
	t->has_fallback = false;
	if (!**p)
		return KT_OK;
	if (**p != '$') {
		t->kind = T_TEXT;
		t->raw_len = strcspn(*p, "$");
	} else if ((*p)[1] == '$') {
		t->kind = T_DOLLAR;
		t->raw_len = 2;
	} else if ((*p)[1] == '{') {
		t->kind = T_REF;
		KT_TRY(read_ref(t, err));
	} else {
		t->kind = T_TEXT;
		t->raw_len = 1;
	}
	*p += t->raw_len;
	return KT_OK;
}

/* true, false, null and whole numbers as such, everything else as text. */
static cJSON *fallback_value(const char *text)
{
	if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0)
		return cJSON_CreateBool(*text == 't');
	if (strcmp(text, "null") == 0)
		return cJSON_CreateNull();
	char *end;
	long long n = strtoll(text, &end, 10);
	char again[24];
	(void)snprintf(again, sizeof again, "%lld", n);
	if (*text && !*end && strcmp(again, text) == 0)
		return cJSON_CreateNumber((double)n);
	return cJSON_CreateString(text);
}

static kt_code no_memory(kt_err *err)
{
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static kt_code give(cJSON *made, cJSON **out, kt_err *err)
{
	*out = made;
	return made ? KT_OK : no_memory(err);
}

/* --- Resolving
 * --------------------------------------------------------------------------------------------------------- */

typedef struct resolver {
	const kt_scope *scope;
	size_t budget;
	const char *names[KT_TEMPLATE_DEPTH]; /* the variables being resolved, outermost first */
	size_t depth;
	int value_depth;
} resolver;

static kt_code resolve(resolver *r, const cJSON *value, cJSON **out, kt_err *err);

static kt_code charge(resolver *r, size_t bytes, kt_err *err)
{
	if (bytes > r->budget)
		return kt_fail(err, KT_E_INPUT, "let the variables use each other less",
			       "the variables grow too large");
	r->budget -= bytes;
	return KT_OK;
}

static kt_code unknown_name(const resolver *r, const char *name, kt_err *err)
{
	kt_nearest near = KT_NEAREST(name);
	if (r->scope->offer)
		r->scope->offer(r->scope->cookie, &near);
	if (near.best)
		return kt_fail(err, KT_E_INPUT, NULL, "${%s} is not known; did you mean ${%s}?", name, near.best);
	return kt_fail(err, KT_E_INPUT, NULL, "${%s} is not known%s", name, strchr(name, '.') ? " here" : "");
}

static kt_code cycle(const resolver *r, size_t from, const char *name, kt_err *err)
{
	char chain[KT_ERR_MSG / 2] = "";
	for (size_t i = from; i < r->depth; i++) {
		size_t n = strlen(chain);
		(void)snprintf(chain + n, sizeof chain - n, "%s -> ", r->names[i]);
	}
	return kt_fail(err, KT_E_INPUT, "a variable cannot use itself", "variables go round in a circle: %s%s", chain,
		       name);
}

/* The resolved value of a variable. *out stays NULL when there is no such name. */
static kt_code resolve_name(resolver *r, const char *name, cJSON **out, kt_err *err)
{
	const cJSON *value = r->scope->find(r->scope->cookie, name);
	if (!value)
		return KT_OK;
	for (size_t i = 0; i < r->depth; i++)
		if (strcmp(r->names[i], name) == 0)
			return cycle(r, i, name, err);
	if (r->depth == KT_TEMPLATE_DEPTH)
		return kt_fail(err, KT_E_INPUT, NULL, "variables use each other more than %d deep, at ${%s}",
			       (int)KT_TEMPLATE_DEPTH, name);
	r->names[r->depth++] = name;
	kt_code rc = resolve(r, value, out, err);
	r->depth--;
	return rc;
}

/* Text that means itself, or one dollar sign, which is escaped where a late pass follows. */
static kt_code put_text(const resolver *r, const token *t, kt_buf *out, kt_err *err)
{
	if (t->raw[0] == '$')
		return kt_buf_str(out, r->scope->late ? "$$" : "$", err);
	return kt_buf_append(out, t->raw, t->raw_len, err);
}

/* A value inside of a longer string. Strings come in resolved: they are not escaped again. */
static kt_code put_value(const char *name, const cJSON *v, kt_buf *out, kt_err *err)
{
	if (cJSON_IsString(v))
		return kt_buf_str(out, v->valuestring, err);
	if (cJSON_IsNumber(v) || cJSON_IsBool(v))
		return kt_json_print(v, out, err);
	return kt_fail(err, KT_E_INPUT, "inside a longer string only a string, a number or a boolean can stand",
		       "${%s} is %s", name,
		       cJSON_IsArray(v)  ? "an array"
		       : cJSON_IsNull(v) ? "null"
					 : "an object");
}

/* The value of a reference; *out stays NULL when the reference is to be kept as it is. */
static kt_code resolve_ref(resolver *r, const token *t, cJSON **out, kt_err *err)
{
	char full[2 * KT_TEMPLATE_NAME];
	(void)snprintf(full, sizeof full, "%s%s%s", t->name, t->field[0] ? "." : "", t->field);
	if (r->scope->keep && strcmp(r->scope->keep, full) == 0)
		return KT_OK;
	KT_TRY(resolve_name(r, full, out, err));
	if (*out || (t->field[0] && r->scope->late))
		return KT_OK;
	return unknown_name(r, full, err);
}

static kt_code put_ref(resolver *r, const token *t, kt_buf *out, kt_err *err)
{
	cJSON *value = NULL;
	KT_TRY(resolve_ref(r, t, &value, err));
	if (!value)
		return kt_buf_append(out, t->raw, t->raw_len, err);
	kt_code rc = put_value(t->name, value, out, err);
	cJSON_Delete(value);
	return rc == KT_OK ? charge(r, out->len, err) : rc;
}

static kt_code resolve_text(resolver *r, const char *text, kt_buf *out, kt_err *err)
{
	token t;
	for (;;) {
		KT_TRY(next_token(&text, &t, err));
		if (t.kind == T_END)
			return KT_OK;
		if (t.kind == T_REF)
			KT_TRY(put_ref(r, &t, out, err));
		else
			KT_TRY(put_text(r, &t, out, err));
	}
}

/* Exactly one `${…}`: the value, whatever its type. *out stays NULL when it is to be kept. */
static kt_code resolve_whole(resolver *r, const char *text, cJSON **out, kt_err *err)
{
	token t;
	KT_TRY(next_token(&text, &t, err));
	if (t.kind != T_REF || *text)
		return KT_OK;
	return resolve_ref(r, &t, out, err);
}

static kt_code resolve_string(resolver *r, const char *text, cJSON **out, kt_err *err)
{
	KT_TRY(charge(r, strlen(text) + 1, err));
	KT_TRY(resolve_whole(r, text, out, err));
	if (*out)
		return KT_OK;
	kt_buf made = {.max = STRING_MAX};
	kt_code rc = resolve_text(r, text, &made, err);
	if (rc == KT_OK)
		rc = give(cJSON_CreateString(kt_buf_cstr(&made)), out, err);
	kt_buf_free(&made);
	return rc;
}

static bool is_true(const cJSON *v)
{
	if (cJSON_IsString(v))
		return v->valuestring[0] != '\0';
	if (cJSON_IsArray(v) || cJSON_IsObject(v))
		return v->child != NULL;
	if (cJSON_IsNumber(v))
		return v->valuedouble != 0;
	return cJSON_IsTrue(v);
}

/* {"$if":condition,"then":value,"else":value}; without "else" it is null. */
static kt_code resolve_if(resolver *r, const cJSON *object, cJSON **out, kt_err *err)
{
	const cJSON *then = cJSON_GetObjectItemCaseSensitive(object, "then");
	const cJSON *other = cJSON_GetObjectItemCaseSensitive(object, "else");
	if (!then || cJSON_GetArraySize(object) != 2 + (other != NULL))
		return kt_fail(err, KT_E_INPUT, NULL, "\"$if\" needs \"then\", may have \"else\" and nothing more");
	cJSON *condition = NULL;
	KT_TRY(resolve(r, cJSON_GetObjectItemCaseSensitive(object, "$if"), &condition, err));
	const cJSON *chosen = is_true(condition) ? then : other;
	cJSON_Delete(condition);
	return chosen ? resolve(r, chosen, out, err) : give(cJSON_CreateNull(), out, err);
}

/* {"$concat":[arrays]}: one array of all their elements. */
static kt_code resolve_concat(resolver *r, const cJSON *object, cJSON **out, kt_err *err)
{
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, "$concat");
	cJSON *joined = cJSON_CreateArray();
	kt_code rc = joined ? KT_OK : no_memory(err);
	if (rc == KT_OK && (!cJSON_IsArray(list) || cJSON_GetArraySize(object) != 1))
		rc = kt_fail(err, KT_E_INPUT, NULL, "\"$concat\" must be an array of arrays, and stand alone");
	for (const cJSON *e = list ? list->child : NULL; rc == KT_OK && e; e = e->next) {
		cJSON *part = NULL;
		rc = resolve(r, e, &part, err);
		if (rc == KT_OK && !cJSON_IsArray(part))
			rc = kt_fail(err, KT_E_INPUT, NULL, "\"$concat\": an element is not an array");
		while (rc == KT_OK && part->child)
			if (!cJSON_AddItemToArray(joined, cJSON_DetachItemViaPointer(part, part->child)))
				rc = no_memory(err);
		cJSON_Delete(part);
	}
	if (rc != KT_OK)
		cJSON_Delete(joined);
	else
		*out = joined;
	return rc;
}

static kt_code resolve_operator(resolver *r, const cJSON *object, const cJSON *member, cJSON **out, kt_err *err)
{
	if (strcmp(member->string, "$if") == 0)
		return resolve_if(r, object, out, err);
	if (strcmp(member->string, "$concat") == 0)
		return resolve_concat(r, object, out, err);
	cJSON *value = NULL;
	if (r->scope->op)
		KT_TRY(r->scope->op(r->scope->cookie, object, &value, err));
	if (!value)
		return kt_fail(err, KT_E_INPUT, NULL, "\"%.40s\" is not an operator that is known here",
			       member->string);
	kt_code rc = resolve(r, value, out, err);
	cJSON_Delete(value);
	return rc;
}

static kt_code resolve_children(resolver *r, const cJSON *value, cJSON *into, kt_err *err)
{
	bool object = cJSON_IsObject(value);
	for (const cJSON *c = value->child; c; c = c->next) {
		cJSON *made = NULL;
		KT_TRY(resolve(r, c, &made, err));
		if (object)
			KT_TRY(kt_json_add(into, c->string, made, err));
		else if (!cJSON_AddItemToArray(into, made)) {
			cJSON_Delete(made);
			return no_memory(err);
		}
	}
	return KT_OK;
}

static kt_code resolve_container(resolver *r, const cJSON *value, cJSON **out, kt_err *err)
{
	bool object = cJSON_IsObject(value);
	for (const cJSON *c = object ? value->child : NULL; c; c = c->next)
		if (c->string[0] == '$')
			return resolve_operator(r, value, c, out, err);
	cJSON *made = object ? cJSON_CreateObject() : cJSON_CreateArray();
	if (!made)
		return no_memory(err);
	kt_code rc = resolve_children(r, value, made, err);
	if (rc != KT_OK)
		cJSON_Delete(made);
	else
		*out = made;
	return rc;
}

static kt_code resolve(resolver *r, const cJSON *value, cJSON **out, kt_err *err)
{
	KT_TRY(charge(r, sizeof(cJSON), err));
	if (cJSON_IsString(value))
		return resolve_string(r, value->valuestring, out, err);
	if (!cJSON_IsObject(value) && !cJSON_IsArray(value))
		return give(cJSON_Duplicate(value, 0), out, err);
	if (++r->value_depth > VALUE_DEPTH)
		return kt_fail(err, KT_E_INPUT, NULL, "nested deeper than %d", (int)VALUE_DEPTH);
	kt_code rc = resolve_container(r, value, out, err);
	r->value_depth--;
	return rc;
}

kt_code kt_template_resolve(const cJSON *value, const kt_scope *scope, cJSON **out, kt_err *err)
{
	*out = NULL;
	resolver r = {.scope = scope, .budget = BUDGET};
	return resolve(&r, value, out, err);
}

kt_code kt_template_text(const char *text, const kt_scope *scope, kt_buf *out, kt_err *err)
{
	resolver r = {.scope = scope, .budget = BUDGET};
	KT_TRY(charge(&r, strlen(text) + 1, err));
	return resolve_text(&r, text, out, err);
}

/* --- Late
 * --------------------------------------------------------------------------------------------------------------- */

typedef struct binder {
	kt_late_lookup lookup;
	void *cookie;
} binder;

/* The result's field (then its sub-fields) as a copy, or the fallback. A list by reference stays one. */
static kt_code bind_ref(const binder *b, const token *t, cJSON **out, kt_err *err)
{
	char field[KT_TEMPLATE_NAME];
	memcpy(field, t->field, sizeof field);
	char *rest = strchr(field, '.');
	if (rest)
		*rest++ = '\0';
	const cJSON *v = b->lookup(b->cookie, t->name, field);
	while (v && rest) {
		char *next = strchr(rest, '.');
		if (next)
			*next++ = '\0';
		v = cJSON_GetObjectItemCaseSensitive(v, rest);
		rest = next;
	}
	if (v && cJSON_IsArray(v) && (v->type & cJSON_IsReference))
		return give(cJSON_CreateArrayReference(v->child), out, err);
	if (v)
		return give(cJSON_Duplicate(v, 1), out, err);
	if (t->has_fallback)
		return give(fallback_value(t->fallback), out, err);
	return kt_fail(err, KT_E_REFUSED, NULL, "step \"%s\" has given no \"%s\"", t->name, t->field);
}

static kt_code bind_text(const binder *b, const char *text, kt_buf *out, kt_err *err)
{
	token t;
	for (;;) {
		KT_TRY(next_token(&text, &t, err));
		if (t.kind == T_END)
			return KT_OK;
		if (t.kind != T_REF || !t.field[0]) {
			KT_TRY(kt_buf_append(out, t.raw, t.kind == T_DOLLAR ? 1 : t.raw_len, err));
			continue;
		}
		cJSON *v = NULL;
		KT_TRY(bind_ref(b, &t, &v, err));
		kt_code rc = put_value(t.name, v, out, err);
		cJSON_Delete(v);
		KT_TRY(rc);
	}
}

static kt_code bind_string(const binder *b, const char *text, cJSON **out, kt_err *err)
{
	const char *p = text;
	token t;
	KT_TRY(next_token(&p, &t, err));
	if (t.kind == T_REF && !*p && t.field[0])
		return bind_ref(b, &t, out, err);
	kt_buf made = {.max = STRING_MAX};
	kt_code rc = bind_text(b, text, &made, err);
	if (rc == KT_OK)
		rc = give(cJSON_CreateString(kt_buf_cstr(&made)), out, err);
	kt_buf_free(&made);
	return rc;
}

static kt_code bind(const binder *b, const cJSON *value, cJSON **out, kt_err *err)
{
	if (cJSON_IsString(value))
		return bind_string(b, value->valuestring, out, err);
	bool object = cJSON_IsObject(value);
	if (!object && !cJSON_IsArray(value))
		return give(cJSON_Duplicate(value, 0), out, err);
	cJSON *made = object ? cJSON_CreateObject() : cJSON_CreateArray();
	kt_code rc = made ? KT_OK : no_memory(err);
	for (const cJSON *c = value->child; rc == KT_OK && c; c = c->next) {
		cJSON *sub = NULL;
		rc = bind(b, c, &sub, err);
		if (rc == KT_OK && object)
			rc = kt_json_add(made, c->string, sub, err);
		else if (rc == KT_OK && !cJSON_AddItemToArray(made, sub)) {
			cJSON_Delete(sub);
			rc = no_memory(err);
		}
	}
	if (rc != KT_OK)
		cJSON_Delete(made);
	else
		*out = made;
	return rc;
}

kt_code kt_template_resolve_late(const cJSON *args, kt_late_lookup lookup, void *cookie, cJSON **out, kt_err *err)
{
	*out = NULL;
	binder b = {.lookup = lookup, .cookie = cookie};
	return bind(&b, args, out, err);
}

/* --- Looking at references -------------------------------------------------------------------------------------------
 */

typedef struct walker {
	kt_template_visit visit;
	void *cookie;
	char path[1024];
} walker;

static kt_code walk_string(walker *w, const char *text, kt_err *err)
{
	token t;
	for (;;) {
		KT_TRY(next_token(&text, &t, err));
		if (t.kind == T_END)
			return KT_OK;
		if (t.kind != T_REF)
			continue;
		kt_template_ref ref = {.name = t.name,
				       .field = t.field[0] ? t.field : NULL,
				       .fallback = t.has_fallback ? t.fallback : NULL,
				       .path = w->path};
		KT_TRY(w->visit(w->cookie, &ref, err));
	}
}

static kt_code walk(walker *w, const cJSON *value, kt_err *err)
{
	if (cJSON_IsString(value))
		return walk_string(w, value->valuestring, err);
	size_t back = strlen(w->path);
	size_t i = 0;
	for (const cJSON *c = value->child; c; c = c->next, i++) {
		if (cJSON_IsObject(value))
			(void)snprintf(w->path + back, sizeof w->path - back, ".%s", c->string);
		else
			(void)snprintf(w->path + back, sizeof w->path - back, "[%zu]", i);
		KT_TRY(walk(w, c, err));
		w->path[back] = '\0';
	}
	return KT_OK;
}

kt_code kt_template_each(const cJSON *value, kt_template_visit visit, void *cookie, kt_err *err)
{
	walker w = {.visit = visit, .cookie = cookie};
	return walk(&w, value, err);
}

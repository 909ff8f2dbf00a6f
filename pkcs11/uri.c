/* SPDX-License-Identifier: Apache-2.0 */
#include "pkcs11/uri.h"

#include <stddef.h>
#include <string.h>

typedef enum place { IN_PATH, IN_QUERY } place;

/* What RFC 7512 §2.3 and §2.4 define, and one vendor attribute (§2.3: pk11-v-qattr) that has the name and the meaning
 * of the line in p11-kit's .module files. `size` 0: known, but refused with the remedy given. */
typedef struct attribute {
	const char *name;
	place where;
	size_t offset, size;
	const char *refused;
} attribute;

#define FIELD(f) offsetof(kt_uri, f), sizeof(((kt_uri *)0)->f), NULL
#define REFUSED(why) 0, 0, why

static const char no_slot[] = "name the token by token= and serial=; slot numbers change";
static const char no_library[] = "name the module by module-path= or module-name=";
static const char no_pin_value[] =
	"use pin-source=file:/path, pin-source=fd:N or pin-source=env:NAME: a PIN in a URI ends "
	"up in histories, process lists and logs";

static const attribute attributes[] = {
	{"token", IN_PATH, FIELD(token)},
	{"manufacturer", IN_PATH, FIELD(manufacturer)},
	{"serial", IN_PATH, FIELD(serial)},
	{"model", IN_PATH, FIELD(model)},
	{"object", IN_PATH, FIELD(object)},
	{"type", IN_PATH, FIELD(type)},
	{"id", IN_PATH, FIELD(id)},
	{"module-path", IN_QUERY, FIELD(module_path)},
	{"module-name", IN_QUERY, FIELD(module_name)},
	{"x-init-reserved", IN_QUERY, FIELD(init_reserved)},
	{"pin-source", IN_QUERY, FIELD(pin_source)},
	{"pin-value", IN_QUERY, REFUSED(no_pin_value)},
	{"pin-value", IN_PATH, REFUSED(no_pin_value)},
	{"slot-id", IN_PATH, REFUSED(no_slot)},
	{"slot-description", IN_PATH, REFUSED(no_slot)},
	{"slot-manufacturer", IN_PATH, REFUSED(no_slot)},
	{"library-description", IN_PATH, REFUSED(no_library)},
	{"library-manufacturer", IN_PATH, REFUSED(no_library)},
	{"library-version", IN_PATH, REFUSED(no_library)},
};
enum { ATTRIBUTES = sizeof attributes / sizeof attributes[0], URI_MAX = 4096 };

static const char *const types[] = {"public", "private", "cert", "secret-key", "data"};

/* What is left of the text while it is parsed. */
typedef struct cursor {
	const char *at, *end;
	place where;
	unsigned count; /* attributes so far; messages name this instead of the text, which may hold a PIN */
	bool seen[ATTRIBUTES];
} cursor;

static int nibble(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Characters that may stand for themselves in a value: pk11-res-avail and pk11-qattr of RFC 7512 §2.3. */
static bool plain(char c, place where)
{
	if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))
		return true;
	return c && strchr(where == IN_PATH ? "-._~:[]@!$'()*+,=&" : "-._~:[]@!$'()*+,=/?|", c);
}

/* Decode [from, to) into `out` of `size` bytes; the number of bytes in *n. */
static kt_code decode(const attribute *a, const char *from, const char *to, uint8_t *out, size_t size, size_t *n,
		      kt_err *err)
{
	for (*n = 0; from < to; from++) {
		uint8_t byte = (uint8_t)*from;
		if (*from == '%') {
			int hi = to - from > 2 ? nibble(from[1]) : -1;
			int lo = to - from > 2 ? nibble(from[2]) : -1;
			if (hi < 0 || lo < 0)
				return kt_fail(err, KT_E_INPUT, "write a byte as % and two hex digits",
					       "pkcs11: URI: the value of \"%s\" has a broken %%-escape", a->name);
			byte = (uint8_t)(hi << 4 | lo);
			from += 2;
		} else if (!plain(*from, a->where)) {
			return kt_fail(err, KT_E_INPUT, "write it as % and two hex digits (a space is %20)",
				       "pkcs11: URI: the value of \"%s\" has a character that must be escaped",
				       a->name);
		}
		if (*n == size)
			return kt_fail(err, KT_E_INPUT, "no token has a longer one; check the URI",
				       "pkcs11: URI: the value of \"%s\" is longer than %zu bytes", a->name, size);
		out[(*n)++] = byte;
	}
	return KT_OK;
}

static kt_code check_text(const attribute *a, const char *text, size_t n, kt_err *err)
{
	if (memchr(text, '\0', n))
		return kt_fail(err, KT_E_INPUT, NULL, "pkcs11: URI: the value of \"%s\" has a NUL byte", a->name);
	if (strcmp(a->name, "module-path") == 0 && text[0] != '/')
		return kt_fail(err, KT_E_INPUT, "give the absolute path of the module, or use module-name=",
			       "pkcs11: URI: \"module-path\" is not absolute");
	if (strcmp(a->name, "type") != 0)
		return KT_OK;
	for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
		if (strcmp(text, types[i]) == 0)
			return KT_OK;
	return kt_fail(err, KT_E_INPUT, "known are: public, private, cert, secret-key, data",
		       "pkcs11: URI: the value of \"type\" is not known");
}

static kt_code store_value(const attribute *a, const char *from, const char *to, kt_uri *out, kt_err *err)
{
	uint8_t *field = (uint8_t *)out + a->offset;
	bool is_id = a->offset == offsetof(kt_uri, id);
	size_t n = 0;
	if (from == to)
		return kt_fail(err, KT_E_INPUT, "leave the attribute out", "pkcs11: URI: \"%s\" is empty", a->name);
	KT_TRY(decode(a, from, to, field, is_id ? a->size : a->size - 1, &n, err));
	if (is_id) {
		out->id_len = n;
		return KT_OK;
	}
	field[n] = '\0';
	return check_text(a, (const char *)field, n, err);
}

static size_t find_attribute(const char *name, size_t n, place where)
{
	for (size_t i = 0; i < ATTRIBUTES; i++)
		if (attributes[i].where == where && strlen(attributes[i].name) == n &&
		    memcmp(attributes[i].name, name, n) == 0)
			return i;
	return ATTRIBUTES;
}

/* One name=value that ends at `stop`. */
static kt_code parse_attribute(cursor *c, const char *stop, kt_uri *out, kt_err *err)
{
	const char *where = c->where == IN_PATH ? "before the '?'" : "after the '?'";
	const char *equals = memchr(c->at, '=', (size_t)(stop - c->at));
	c->count++;
	if (!equals)
		return kt_fail(err, KT_E_INPUT, "write attributes as name=value (RFC 7512)",
			       "pkcs11: URI: attribute %u has no '='", c->count);
	size_t i = find_attribute(c->at, (size_t)(equals - c->at), c->where);
	if (i == ATTRIBUTES)
		return kt_fail(
			err, KT_E_INPUT,
			"known are token, manufacturer, serial, model, object, type, id before the '?', joined by "
			"';', and module-path, module-name, x-init-reserved, pin-source after it, joined by '&'",
			"pkcs11: URI: attribute %u is not one that is known %s", c->count, where);
	const attribute *a = &attributes[i];
	if (a->refused)
		return kt_fail(err, KT_E_INPUT, a->refused, "pkcs11: URI: \"%s\" is not accepted", a->name);
	if (c->seen[i])
		return kt_fail(err, KT_E_INPUT, NULL, "pkcs11: URI: \"%s\" is there twice", a->name);
	c->seen[i] = true;
	return store_value(a, equals + 1, stop, out, err);
}

/* All attributes up to c->end, separated by `separator`. */
static kt_code parse_part(cursor *c, char separator, kt_uri *out, kt_err *err)
{
	while (c->at < c->end) {
		const char *stop = memchr(c->at, separator, (size_t)(c->end - c->at));
		if (!stop)
			stop = c->end;
		KT_TRY(parse_attribute(c, stop, out, err));
		c->at = stop < c->end ? stop + 1 : stop;
		if (stop < c->end && c->at == c->end)
			return kt_fail(err, KT_E_INPUT, NULL, "pkcs11: URI: it ends in '%c'", separator);
	}
	return KT_OK;
}

static kt_code parse(const char *text, kt_uri *out, kt_err *err)
{
	static const char scheme[] = "pkcs11:";
	size_t n = strnlen(text, URI_MAX + 1);
	if (strncmp(text, scheme, sizeof scheme - 1) != 0)
		return kt_fail(err, KT_E_INPUT, "begin it with pkcs11: (RFC 7512), as in pkcs11:token=keyturn",
			       "this is not a pkcs11: URI");
	if (n > URI_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "pkcs11: URI: longer than %d bytes", URI_MAX);
	const char *question = strchr(text, '?');
	cursor c = {.at = text + sizeof scheme - 1, .end = question ? question : text + n, .where = IN_PATH};
	KT_TRY(parse_part(&c, ';', out, err));
	if (!question)
		return KT_OK;
	c.where = IN_QUERY;
	c.at = question + 1;
	c.end = text + n;
	if (c.at == c.end)
		return kt_fail(err, KT_E_INPUT, NULL, "pkcs11: URI: it ends in '?'");
	KT_TRY(parse_part(&c, '&', out, err));
	if (out->module_path[0] && out->module_name[0])
		return kt_fail(err, KT_E_INPUT, "give one of them", "pkcs11: URI: both module-path and module-name");
	if (out->init_reserved[0] && !out->module_path[0])
		return kt_fail(err, KT_E_INPUT, "name the module that it is for by module-path=",
			       "pkcs11: URI: x-init-reserved without module-path");
	return KT_OK;
}

kt_code kt_uri_parse(const char *text, kt_uri *out, kt_err *err)
{
	*out = (kt_uri){0};
	kt_code rc = parse(text, out, err);
	if (rc != KT_OK)
		*out = (kt_uri){0};
	return rc;
}

static kt_code put_value(const attribute *a, const uint8_t *bytes, size_t n, char *separator, kt_buf *out, kt_err *err)
{
	bool is_id = a->offset == offsetof(kt_uri, id);
	if (n == 0)
		return KT_OK;
	if (*separator)
		KT_TRY(kt_buf_append(out, separator, 1, err));
	*separator = a->where == IN_PATH ? ';' : '&';
	KT_TRY(kt_buf_printf(out, err, "%s=", a->name));
	for (size_t i = 0; i < n; i++) {
		/* '&' and '=' in a path value are legal, but read badly: escape them too. */
		bool raw = !is_id && plain((char)bytes[i], a->where) && bytes[i] != '&' && bytes[i] != '=';
		KT_TRY(raw ? kt_buf_append(out, &bytes[i], 1, err) : kt_buf_printf(out, err, "%%%02X", bytes[i]));
	}
	return KT_OK;
}

kt_code kt_uri_format(const kt_uri *uri, kt_buf *out, kt_err *err)
{
	char separator = '\0';
	KT_TRY(kt_buf_str(out, "pkcs11:", err));
	for (place where = IN_PATH; where <= IN_QUERY; where++) {
		if (where == IN_QUERY)
			separator = '?';
		for (size_t i = 0; i < ATTRIBUTES; i++) {
			const attribute *a = &attributes[i];
			const uint8_t *field = (const uint8_t *)uri + a->offset;
			if (a->where != where || a->refused || strcmp(a->name, "pin-source") == 0)
				continue;
			size_t n = a->offset == offsetof(kt_uri, id) ? uri->id_len : strlen((const char *)field);
			KT_TRY(put_value(a, field, n, &separator, out, err));
		}
	}
	return KT_OK;
}

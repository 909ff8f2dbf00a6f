/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/fleet/hostkeys.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/codec.h"
#include "base/file.h"
#include "orchestrator/fleet/sshbytes.h"

enum { SHA1_LEN = 20, HOST_TEXT = 300, PORT_DEFAULT = 22 };

typedef enum marker { PLAIN, REVOKED, AUTHORITY } marker;

typedef struct entry {
	marker marker;
	char *patterns;         /* as in the file; NULL when hashed */
	uint8_t salt[SHA1_LEN]; /* |1|salt|hash */
	uint8_t hash[SHA1_LEN];
	char type[KT_FINGERPRINT];
	kt_buf key;
} entry;

struct kt_hostkeys {
	entry *list;
	size_t count, cap;
};

/* ---- a key by itself ---- */

kt_code kt_hostkey_type(const uint8_t *key, size_t len, char out[KT_FINGERPRINT], kt_err *err)
{
	kt_bytes in = {key, len};
	kt_bytes type;
	if (!kt_bytes_string(&in, &type) || type.len == 0 || type.len >= KT_FINGERPRINT || in.len == 0)
		return kt_fail(err, KT_E_INPUT, NULL, "this is not a public key of ssh");
	for (size_t i = 0; i < type.len; i++)
		if (type.at[i] <= 0x20 || type.at[i] >= 0x7f || type.at[i] == ',')
			return kt_fail(err, KT_E_INPUT, NULL, "this is not a public key of ssh");
	memcpy(out, type.at, type.len);
	out[type.len] = '\0';
	return KT_OK;
}

kt_code kt_hostkey_fingerprint(const uint8_t *key, size_t len, char out[KT_FINGERPRINT], kt_err *err)
{
	uint8_t sum[KT_SHA256_LEN];
	kt_buf text = KT_BUF_INIT;
	KT_TRY(kt_sha256(key, len, sum, err));
	kt_code rc = kt_base64_encode(sum, sizeof sum, &text, err);
	if (rc == KT_OK) {
		const size_t n = strcspn(kt_buf_cstr(&text), "=");
		memcpy(out, "SHA256:", 7);
		memcpy(out + 7, text.data, n);
		out[7 + n] = '\0';
	}
	kt_buf_free(&text);
	return rc;
}

/* ---- the table ---- */

kt_code kt_hostkeys_new(kt_hostkeys **out, kt_err *err)
{
	*out = calloc(1, sizeof **out);
	return *out ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static void free_entry(entry *e)
{
	free(e->patterns);
	kt_buf_free(&e->key);
}

/* Back to the first `count` entries. */
static void truncate_table(kt_hostkeys *keys, size_t count)
{
	while (keys->count > count)
		free_entry(&keys->list[--keys->count]);
}

void kt_hostkeys_free(kt_hostkeys *keys)
{
	if (!keys)
		return;
	truncate_table(keys, 0);
	free(keys->list);
	free(keys);
}

static kt_code add_entry(kt_hostkeys *keys, const entry *e, kt_err *err)
{
	if (keys->count == keys->cap) {
		const size_t cap = keys->cap ? 2 * keys->cap : 16;
		entry *list = realloc(keys->list, cap * sizeof *list);
		if (!list)
			return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
		keys->list = list;
		keys->cap = cap;
	}
	keys->list[keys->count++] = *e;
	return KT_OK;
}

/* ---- reading a line: [@marker] names type base64 [comment] ---- */

/* The next word of the line [*at, end); false when there is none. */
static bool next_word(const char **at, const char *end, const char **word, size_t *n)
{
	while (*at < end && (**at == ' ' || **at == '\t'))
		(*at)++;
	*word = *at;
	while (*at < end && **at != ' ' && **at != '\t')
		(*at)++;
	*n = (size_t)(*at - *word);
	return *n > 0;
}

static bool word_is(const char *word, size_t n, const char *text)
{
	return strlen(text) == n && memcmp(word, text, n) == 0;
}

static kt_code decode_sha1(const char *text, size_t n, uint8_t out[SHA1_LEN], kt_err *err)
{
	kt_buf bytes = KT_BUF_INIT;
	kt_code rc = kt_base64_decode(text, n, &bytes, err);
	if (rc == KT_OK && bytes.len != SHA1_LEN)
		rc = kt_fail(err, KT_E_INPUT, NULL, "not %d bytes", (int)SHA1_LEN);
	if (rc == KT_OK)
		memcpy(out, bytes.data, SHA1_LEN);
	kt_buf_free(&bytes);
	return rc;
}

static kt_code read_names(const char *word, size_t n, entry *e, kt_err *err)
{
	if (word[0] != '|') {
		e->patterns = strndup(word, n);
		return e->patterns ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	const char *bar = n > 3 ? memchr(word + 3, '|', n - 3) : NULL;
	if (!bar || memcmp(word, "|1|", 3) != 0 ||
	    decode_sha1(word + 3, (size_t)(bar - word) - 3, e->salt, err) != KT_OK ||
	    decode_sha1(bar + 1, n - (size_t)(bar - word) - 1, e->hash, err) != KT_OK)
		return kt_fail(err, KT_E_INPUT, NULL, "a hashed name that cannot be read");
	return KT_OK;
}

static kt_code read_key(const char *type, size_t type_len, const char *text, size_t n, entry *e, kt_err *err)
{
	if (kt_base64_decode(text, n, &e->key, err) != KT_OK ||
	    kt_hostkey_type(e->key.data, e->key.len, e->type, err) != KT_OK)
		return kt_fail(err, KT_E_INPUT, NULL, "a key that cannot be read");
	if (!word_is(type, type_len, e->type))
		return kt_fail(err, KT_E_INPUT, NULL, "the line says %.*s, its key is %s", (int)(type_len & 0xff), type,
			       e->type);
	return KT_OK;
}

static kt_code read_entry(const char *at, const char *end, entry *e, kt_err *err)
{
	const char *word, *type, *key;
	size_t n, type_len, key_len;
	*e = (entry){.marker = PLAIN};
	(void)next_word(&at, end, &word, &n);
	if (word[0] == '@') {
		if (word_is(word, n, "@revoked"))
			e->marker = REVOKED;
		else if (word_is(word, n, "@cert-authority"))
			e->marker = AUTHORITY;
		else
			return kt_fail(err, KT_E_INPUT, NULL, "the marker %.*s is not known", (int)(n & 0x3f), word);
		if (!next_word(&at, end, &word, &n))
			return kt_fail(err, KT_E_INPUT, NULL, "a marker without a name");
	}
	if (!next_word(&at, end, &type, &type_len) || !next_word(&at, end, &key, &key_len))
		return kt_fail(err, KT_E_INPUT, NULL, "not `names type key`");
	kt_code rc = read_names(word, n, e, err);
	if (rc == KT_OK)
		rc = read_key(type, type_len, key, key_len, e, err);
	if (rc != KT_OK)
		free_entry(e);
	return rc;
}

static bool is_empty(const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\t'))
		at++;
	return at == end || *at == '#';
}

static kt_code read_line(kt_hostkeys *keys, const char *at, const char *end, kt_err *err)
{
	entry e;
	if (end > at && end[-1] == '\r')
		end--;
	if (is_empty(at, end))
		return KT_OK;
	KT_TRY(read_entry(at, end, &e, err));
	kt_code rc = add_entry(keys, &e, err);
	if (rc != KT_OK)
		free_entry(&e);
	return rc;
}

kt_code kt_hostkeys_parse(kt_hostkeys *keys, const char *name, const char *text, size_t len, kt_err *err)
{
	const size_t before = keys->count;
	const char *stop = text + len;
	size_t line = 1;
	for (const char *at = text; at < stop; line++) {
		const char *end = memchr(at, '\n', (size_t)(stop - at));
		if (!end)
			end = stop;
		kt_code rc = read_line(keys, at, end, err);
		if (rc != KT_OK) {
			truncate_table(keys, before);
			return kt_err_prefix(err, rc, "%s:%zu", name, line);
		}
		at = end + 1;
	}
	return KT_OK;
}

kt_code kt_hostkeys_load(kt_hostkeys *keys, const char *path, bool may_be_absent, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	if (may_be_absent && access(path, F_OK) != 0)
		return KT_OK;
	kt_code rc = kt_file_read(path, &text, err);
	if (rc == KT_OK)
		rc = kt_hostkeys_parse(keys, path, kt_buf_cstr(&text), text.len, err);
	kt_buf_free(&text);
	return rc;
}

/* ---- looking up ---- */

/* The name under which OpenSSH keeps it: lower case, "[host]:port" unless the port is 22. */
static void host_text(const char *host, unsigned port, char out[HOST_TEXT])
{
	if (port == 0 || port == PORT_DEFAULT)
		(void)snprintf(out, HOST_TEXT, "%.255s", host);
	else
		(void)snprintf(out, HOST_TEXT, "[%.255s]:%u", host, port);
	for (char *p = out; *p; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p - 'A' + 'a');
}

/* `*` and `?` only, as in sshd(8); without brackets, so not fnmatch. */
static bool match(const char *pattern, const char *end, const char *name)
{
	for (; pattern < end; pattern++, name++) {
		if (*pattern == '*') {
			for (;; name++) {
				if (match(pattern + 1, end, name))
					return true;
				if (!*name)
					return false;
			}
		}
		char c = *pattern >= 'A' && *pattern <= 'Z' ? (char)(*pattern - 'A' + 'a') : *pattern;
		if (!*name || (c != '?' && c != *name))
			return false;
	}
	return !*name;
}

/* One of the list matches, and none of those with `!` does. */
static bool match_list(const char *list, const char *name)
{
	bool found = false;
	while (*list) {
		const size_t n = strcspn(list, ",");
		const bool negated = list[0] == '!';
		if (n > (negated ? 1U : 0U) && match(list + (negated ? 1 : 0), list + n, name)) {
			if (negated)
				return false;
			found = true;
		}
		list += n + (list[n] ? 1 : 0);
	}
	return found;
}

static bool match_hash(const entry *e, const char *name)
{
	uint8_t sum[EVP_MAX_MD_SIZE];
	unsigned n = 0;
	return HMAC(EVP_sha1(), e->salt, SHA1_LEN, (const uint8_t *)name, strlen(name), sum, &n) && n == SHA1_LEN &&
	       CRYPTO_memcmp(sum, e->hash, SHA1_LEN) == 0;
}

static bool is_for(const entry *e, const char *name)
{
	return e->patterns ? match_list(e->patterns, name) : match_hash(e, name);
}

static bool same_key(const entry *e, const uint8_t *key, size_t len)
{
	return e->key.len == len && CRYPTO_memcmp(e->key.data, key, len) == 0;
}

bool kt_hostkeys_known(const kt_hostkeys *keys, const char *host, unsigned port)
{
	char name[HOST_TEXT];
	host_text(host, port, name);
	for (size_t i = 0; i < keys->count; i++)
		if (keys->list[i].marker == PLAIN && is_for(&keys->list[i], name))
			return true;
	return false;
}

/* What the table says of a host and a key. */
typedef struct verdict {
	const entry *same, *other, *revoked, *authority; /* `other`: of the same type if there is one */
} verdict;

static verdict judge(const kt_hostkeys *keys, const char *name, const uint8_t *key, size_t len, const char *type)
{
	verdict v = {NULL, NULL, NULL, NULL};
	for (size_t i = 0; i < keys->count; i++) {
		const entry *e = &keys->list[i];
		if (e->marker == REVOKED ? !same_key(e, key, len) : false)
			continue;
		if (!is_for(e, name))
			continue;
		if (e->marker == REVOKED)
			v.revoked = e;
		else if (e->marker == AUTHORITY)
			v.authority = e;
		else if (same_key(e, key, len))
			v.same = e;
		else if (!v.other || strcmp(e->type, type) == 0)
			v.other = e;
	}
	return v;
}

static kt_code say_changed(const char *name, const char *type, const char *offered, const entry *pin, kt_err *err)
{
	char pinned[KT_FINGERPRINT];
	KT_TRY(kt_hostkey_fingerprint(pin->key.data, pin->key.len, pinned, err));
	return kt_fail(
		err, KT_E_REFUSED,
		"if the host was really installed anew, compare the fingerprint on its console, remove the old line "
		"from known_hosts (ssh-keygen -R) and run `keyturn enroll`; else somebody is in between",
		"the host key of %s has changed: it shows %s %s, pinned is %s %s", name, type, offered, pin->type,
		pinned);
}

kt_code kt_hostkeys_check(const kt_hostkeys *keys, const char *host, unsigned port, const uint8_t *key, size_t len,
			  kt_err *err)
{
	char name[HOST_TEXT];
	char type[KT_FINGERPRINT];
	char offered[KT_FINGERPRINT];
	host_text(host, port, name);
	KT_TRY(kt_hostkey_type(key, len, type, err));
	KT_TRY(kt_hostkey_fingerprint(key, len, offered, err));
	const verdict v = judge(keys, name, key, len, type);
	if (v.revoked)
		return kt_fail(err, KT_E_REFUSED, "give the host a new key and run `keyturn enroll`",
			       "the host key of %s is revoked: %s %s", name, type, offered);
	if (v.same)
		return KT_OK;
	if (v.other)
		return say_changed(name, type, offered, v.other, err);
	if (v.authority)
		return kt_fail(err, KT_E_REFUSED, "pin the host's own key with `keyturn enroll`",
			       "%s is known only by a @cert-authority line, which is not supported; it shows %s %s",
			       name, type, offered);
	return kt_fail(
		err, KT_E_REFUSED,
		"compare the fingerprint on the host's console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), "
		"then pin it with `keyturn enroll`",
		"the host key of %s is unknown: it shows %s %s", name, type, offered);
}

/* ---- methods for the key exchange ---- */

static const char *const methods[] = {"ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384",
				      "ecdsa-sha2-nistp521", "ssh-rsa"};
enum { N_METHODS = sizeof methods / sizeof *methods };

kt_code kt_hostkeys_methods(const kt_hostkeys *keys, const char *host, unsigned port, kt_buf *out, kt_err *err)
{
	char name[HOST_TEXT];
	bool pinned[N_METHODS] = {false};
	host_text(host, port, name);
	for (size_t i = 0; i < keys->count; i++) {
		if (keys->list[i].marker != PLAIN || !is_for(&keys->list[i], name))
			continue;
		for (size_t m = 0; m < N_METHODS; m++)
			pinned[m] |= strcmp(keys->list[i].type, methods[m]) == 0;
	}
	const size_t before = out->len;
	for (int wanted = 1; wanted >= 0; wanted--)
		for (size_t m = 0; m < N_METHODS; m++)
			if (pinned[m] == (wanted == 1))
				KT_TRY(kt_buf_printf(out, err, "%s%s", out->len > before ? "," : "", methods[m]));
	return KT_OK;
}

/* ---- pinning ---- */

static kt_code make_line(const char *name, const char *type, const uint8_t *key, size_t len, kt_buf *out, kt_err *err)
{
	KT_TRY(kt_buf_printf(out, err, "%s %s ", name, type));
	KT_TRY(kt_base64_encode(key, len, out, err));
	return kt_buf_str(out, "\n", err);
}

static kt_code append_line(const char *path, const kt_buf *line, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = access(path, F_OK) == 0 ? kt_file_read(path, &text, err) : KT_OK;
	if (rc == KT_OK && text.len && text.data[text.len - 1] != '\n')
		rc = kt_buf_str(&text, "\n", err);
	if (rc == KT_OK)
		rc = kt_buf_append(&text, line->data, line->len, err);
	if (rc == KT_OK)
		rc = kt_file_replace(path, text.data, text.len, NULL, err); /* keeps the mode; 0600 when new */
	kt_buf_free(&text);
	return rc;
}

/* Names end up in a line of a file: nothing that could make a second one, or a pattern. */
static kt_code check_name(const char *host, kt_err *err)
{
	for (const char *p = host; *p; p++)
		if (*p <= ' ' || *p >= 0x7f || strchr(",*?!|#@[]\"", *p))
			return kt_fail(err, KT_E_INPUT, NULL, "%.100s is not a host name", host);
	return *host && strlen(host) < 256 ? KT_OK : kt_fail(err, KT_E_INPUT, NULL, "a host name is empty or too long");
}

kt_code kt_hostkeys_pin(kt_hostkeys *keys, const char *path, const char *host, unsigned port, const uint8_t *key,
			size_t len, kt_err *err)
{
	char name[HOST_TEXT];
	char type[KT_FINGERPRINT];
	char offered[KT_FINGERPRINT];
	kt_buf line = KT_BUF_INIT;
	KT_TRY(check_name(host, err));
	host_text(host, port, name);
	KT_TRY(kt_hostkey_type(key, len, type, err));
	KT_TRY(kt_hostkey_fingerprint(key, len, offered, err));
	const verdict v = judge(keys, name, key, len, type);
	if (v.revoked)
		return kt_hostkeys_check(keys, host, port, key, len, err);
	if (v.same)
		return KT_OK;
	if (v.other && strcmp(v.other->type, type) == 0)
		return say_changed(name, type, offered, v.other, err);
	kt_code rc = make_line(name, type, key, len, &line, err);
	if (rc == KT_OK)
		rc = append_line(path, &line, err);
	if (rc == KT_OK)
		rc = kt_hostkeys_parse(keys, path, kt_buf_cstr(&line), line.len, err);
	kt_buf_free(&line);
	return rc;
}

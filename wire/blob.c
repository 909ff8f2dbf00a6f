/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/blob.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/codec.h"

enum { VERSION = 2, RSA_MIN = 256, RSA_MAX = 1024, MECHANISM_HEX = 8 };

static const char not_ours[] = "take the blob again from where it was made; do not edit it";

static const char *const purposes[] = {"escrow", "kek", "transport", "rehearsal", "custodian"};
static const char *const formats[] = {"rfc5649",        "rfc3394",      "rsa-oaep-sha256", "rsa-oaep-sha1",
				      "rsa-aes-sha256", "rsa-aes-sha1", "aws-kms"};
_Static_assert(sizeof purposes / sizeof purposes[0] == KT_BLOB_PURPOSES, "a name for each purpose");
_Static_assert(sizeof formats / sizeof formats[0] == KT_BLOB_FORMATS, "a name for each format");

const char *kt_blob_format_name(kt_blob_format format)
{
	return (unsigned)format < KT_BLOB_FORMATS ? formats[format] : "unknown";
}

const char *kt_blob_purpose_name(kt_blob_purpose purpose)
{
	return (unsigned)purpose < KT_BLOB_PURPOSES ? purposes[purpose] : "unknown";
}

bool kt_blob_is_rsa(kt_blob_format f)
{
	return !kt_blob_is_aes(f) && f != KT_BLOB_AWS_KMS;
}

bool kt_blob_is_aes(kt_blob_format f)
{
	return f == KT_BLOB_RFC5649 || f == KT_BLOB_RFC3394;
}

bool kt_blob_is_composed(kt_blob_format f)
{
	return f == KT_BLOB_RSA_AES_SHA256 || f == KT_BLOB_RSA_AES_SHA1;
}

bool kt_blob_is_sha256(kt_blob_format f)
{
	return f == KT_BLOB_RSA_OAEP_SHA256 || f == KT_BLOB_RSA_AES_SHA256;
}

/* --- The address -------------------------------------------------------------------------------------------------- */

static kt_code put_name(char out[KT_BLOB_NAME], const char *name, kt_err *err)
{
	if (!name)
		return KT_OK;
	if (strlen(name) >= KT_BLOB_NAME)
		return kt_fail(err, KT_E_INPUT, "use a shorter name", "\"%.40s...\" has more than %d bytes", name,
			       KT_BLOB_NAME - 1);
	memcpy(out, name, strlen(name) + 1);
	return KT_OK;
}

kt_code kt_blob_begin(const kt_blob_address *address, kt_blob *out, kt_err *err)
{
	*out = (kt_blob){.purpose = address->purpose};
	KT_TRY(put_name(out->run, address->run, err));
	KT_TRY(put_name(out->node, address->node, err));
	return put_name(out->custodian, address->custodian, err);
}

/* --- Invariants --------------------------------------------------------------------------------------------------- */

static bool lower_hex(const char *s, size_t n)
{
	return strlen(s) == n && strspn(s, "0123456789abcdef") == n;
}

static bool to_node(const kt_blob *b)
{
	return b->purpose == KT_BLOB_TRANSPORT || b->purpose == KT_BLOB_REHEARSAL;
}

static const char *broken_address(const kt_blob *b)
{
	if (to_node(b) ? !b->node[0] || !b->run[0] : b->node[0] != '\0')
		return "\"node\" and \"run\" belong to a key for a node, and only there";
	if ((b->purpose == KT_BLOB_CUSTODIAN) != (b->custodian[0] != '\0'))
		return "\"custodian\" belongs to a key for a custodian, and only there";
	return NULL;
}

static const char *broken_length(const kt_blob *b)
{
	size_t aes = kt_blob_is_composed(b->format) ? KT_BLOB_AES_WRAPPED : 0;
	size_t rsa = b->wrapped_len >= aes ? b->wrapped_len - aes : 0;
	bool fits = kt_blob_is_rsa(b->format) ? rsa >= RSA_MIN && rsa <= RSA_MAX && rsa % 8 == 0
		    : kt_blob_is_aes(b->format)
			    ? b->wrapped_len == KT_BLOB_AES_WRAPPED
			    : b->wrapped_len > KT_BLOB_KEY_BITS / 8 && b->wrapped_len <= KT_BLOB_KMS_MAX;
	return fits ? NULL : "the wrapped key has a length that its format cannot give";
}

static const char *broken_kind(const kt_blob *b)
{
	if ((unsigned)b->purpose >= KT_BLOB_PURPOSES || (unsigned)b->format >= KT_BLOB_FORMATS ||
	    kt_blob_is_rsa(b->format) != (to_node(b) || b->purpose == KT_BLOB_CUSTODIAN) ||
	    (b->format == KT_BLOB_AWS_KMS && b->purpose != KT_BLOB_KEK))
		return "its format does not fit its purpose";
	return NULL;
}

static const char *broken_wrapping(const kt_blob *b)
{
	if (kt_blob_is_rsa(b->format))
		return lower_hex(b->spki_sha256, KT_SHA256_HEX - 1)
			       ? NULL
			       : "\"spki_sha256\" must be 64 lower-case hex digits";
	if (b->format == KT_BLOB_AWS_KMS)
		return strncmp(b->wrapping.label, "arn:", 4) == 0 && !b->wrapping.id[0] && !b->wrapping.kcv[0]
			       ? NULL
			       : "the wrapping key must be named by its ARN alone";
	if (!lower_hex(b->wrapping.kcv, KT_KCV_TEXT - 1))
		return "the wrapping key's check value must be 6 lower-case hex digits";
	if (strlen(b->wrapping.id) % 2 || !lower_hex(b->wrapping.id, strlen(b->wrapping.id)))
		return "the wrapping key's id must be lower-case hex";
	return NULL;
}

const char *kt_blob_broken(const kt_blob *b)
{
	const char *wrong = broken_kind(b);
	if (wrong)
		return wrong;
	if (!lower_hex(b->kcv, KT_KCV_TEXT - 1))
		return "the key's check value must be 6 lower-case hex digits";
	wrong = broken_wrapping(b);
	if (wrong)
		return wrong;
	wrong = broken_address(b);
	return wrong ? wrong : broken_length(b);
}

/* --- To JSON ------------------------------------------------------------------------------------------------------ */

/* A new object as member `name` of `parent`, which owns it. */
static kt_code add_object(cJSON *parent, const char *name, cJSON **out, kt_err *err)
{
	*out = cJSON_CreateObject();
	return kt_json_add(parent, name, *out, err);
}

static bool has_token(const kt_blob *b)
{
	return b->token.label[0] || b->token.manufacturer[0] || b->token.serial[0] || b->token.model[0];
}

static kt_code put_token(const kt_blob *b, cJSON *o, kt_err *err)
{
	cJSON *t;
	if (!has_token(b))
		return KT_OK;
	KT_TRY(add_object(o, "token", &t, err));
	KT_TRY(kt_json_add_str(t, "label", b->token.label, err));
	KT_TRY(kt_json_add_str(t, "manufacturer", b->token.manufacturer, err));
	KT_TRY(kt_json_add_str(t, "serial", b->token.serial, err));
	return kt_json_add_str(t, "model", b->token.model, err);
}

static kt_code put_wrapping(const kt_blob *b, cJSON *o, kt_err *err)
{
	cJSON *w;
	KT_TRY(add_object(o, "wrapping_key", &w, err));
	if (kt_blob_is_rsa(b->format))
		return kt_json_add_str(w, "spki_sha256", b->spki_sha256, err);
	if (b->format == KT_BLOB_AWS_KMS)
		return kt_json_add_str(w, "arn", b->wrapping.label, err);
	KT_TRY(kt_json_add_str(w, "label", b->wrapping.label, err));
	KT_TRY(kt_json_add_str(w, "id", b->wrapping.id, err));
	return kt_json_add_str(w, "kcv", b->wrapping.kcv, err);
}

static kt_code put_key(const kt_blob *b, cJSON *o, kt_err *err)
{
	cJSON *k;
	KT_TRY(add_object(o, "key", &k, err));
	KT_TRY(kt_json_add_str(k, "type", "aes", err));
	KT_TRY(kt_json_add_int(k, "bits", KT_BLOB_KEY_BITS, err));
	KT_TRY(kt_json_add_str(k, "kcv", b->kcv, err));
	return kt_json_add_str(k, "kcv_method", KT_KCV_METHOD, err);
}

/* Members that are absent when they are empty. */
static kt_code put_opt(cJSON *o, const char *name, const char *value, kt_err *err)
{
	return value[0] ? kt_json_add_str(o, name, value, err) : KT_OK;
}

static kt_code put_mechanism(const kt_blob *b, cJSON *o, kt_err *err)
{
	char hex[MECHANISM_HEX + 1] = "";
	if (b->mechanism_id)
		(void)snprintf(hex, sizeof hex, "%08lx", (unsigned long)b->mechanism_id);
	KT_TRY(kt_json_add_str(o, "mechanism", b->mechanism, err));
	return put_opt(o, "mechanism_id", hex, err);
}

static kt_code put_mac(const kt_blob *b, cJSON *o, kt_err *err)
{
	kt_buf hex = KT_BUF_INIT;
	kt_code rc = kt_hex_encode(b->mac, sizeof b->mac, &hex, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "mac", kt_buf_cstr(&hex), err);
	kt_buf_free(&hex);
	return rc;
}

static kt_code put_wrapped(const kt_blob *b, cJSON *o, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc;
	KT_TRY_GOTO(kt_base64_encode(b->wrapped, b->wrapped_len, &text, err), out);
	rc = kt_json_add_str(o, "wrapped", kt_buf_cstr(&text), err);
out:
	kt_buf_free(&text);
	return rc;
}

static kt_code put_all(const kt_blob *b, cJSON *o, kt_err *err)
{
	KT_TRY(kt_json_add_int(o, "v", VERSION, err));
	KT_TRY(kt_json_add_str(o, "purpose", kt_blob_purpose_name(b->purpose), err));
	KT_TRY(kt_json_add_str(o, "format", kt_blob_format_name(b->format), err));
	KT_TRY(put_mechanism(b, o, err));
	KT_TRY(put_token(b, o, err));
	KT_TRY(put_wrapping(b, o, err));
	KT_TRY(put_key(b, o, err));
	KT_TRY(put_opt(o, "run", b->run, err));
	KT_TRY(put_opt(o, "node", b->node, err));
	KT_TRY(put_opt(o, "custodian", b->custodian, err));
	KT_TRY(put_wrapped(b, o, err));
	return put_mac(b, o, err);
}

kt_code kt_blob_to_json(const kt_blob *blob, cJSON **out, kt_err *err)
{
	*out = NULL;
	const char *wrong = kt_blob_broken(blob);
	if (wrong)
		return kt_fail(err, KT_E_INTERNAL, NULL, "a wrapped key cannot be recorded: %s", wrong);
	cJSON *o = cJSON_CreateObject();
	kt_code rc = o ? put_all(blob, o, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		*out = o;
	else
		cJSON_Delete(o);
	return rc;
}

kt_code kt_blob_to_text(const kt_blob *blob, kt_buf *out, kt_err *err)
{
	cJSON *o;
	KT_TRY(kt_blob_to_json(blob, &o, err));
	kt_code rc = kt_json_print(o, out, err);
	cJSON_Delete(o);
	return rc;
}

/* --- From JSON ---------------------------------------------------------------------------------------------------- */

/* Refuse members that are not in the NULL-ended list. */
static kt_code only(const cJSON *o, const char *const *names, kt_err *err)
{
	for (const cJSON *m = o->child; m; m = m->next) {
		size_t i = 0;
		while (names[i] && strcmp(names[i], m->string) != 0)
			i++;
		if (!names[i])
			return kt_fail(err, KT_E_INPUT, not_ours, "\"%.40s\" is not a member that belongs here",
				       m->string);
	}
	return KT_OK;
}

static kt_code get_text(const cJSON *o, const char *name, char *out, size_t size, kt_err *err)
{
	const char *s;
	KT_TRY(kt_json_str(o, name, &s, err));
	if (strlen(s) >= size)
		return kt_fail(err, KT_E_INPUT, not_ours, "\"%s\" is longer than %zu bytes", name, size - 1);
	memcpy(out, s, strlen(s) + 1);
	return KT_OK;
}

/* What is empty is absent: one blob has one text, but for the white space and the order of members. */
static kt_code get_opt_text(const cJSON *o, const char *name, char *out, size_t size, kt_err *err)
{
	if (!cJSON_GetObjectItemCaseSensitive(o, name))
		return KT_OK;
	KT_TRY(get_text(o, name, out, size, err));
	return out[0] ? KT_OK : kt_fail(err, KT_E_INPUT, not_ours, "\"%s\" is empty", name);
}

/* n bytes in lower-case hex. */
static kt_code get_hex(const cJSON *o, const char *name, uint8_t *out, size_t n, kt_err *err)
{
	const char *s;
	kt_buf bytes = {.max = n + 1};
	KT_TRY(kt_json_str(o, name, &s, err));
	if (!lower_hex(s, 2 * n))
		return kt_fail(err, KT_E_INPUT, not_ours, "\"%s\" must be %zu lower-case hex digits", name, 2 * n);
	kt_code rc = kt_hex_decode(s, 2 * n, &bytes, err);
	if (rc == KT_OK)
		memcpy(out, bytes.data, n);
	kt_buf_free(&bytes);
	return rc;
}

/* Names as PKCS#11 v2.40 has them, and CloudHSM's for a padding that no RFC has. */
static const struct {
	const char *name;
	uint32_t id;
} never[] = {
	{"CKM_RSA_PKCS", 0x0001}, {"CKM_RSA_X_509", 0x0003},   {"CKM_AES_ECB", 0x1081},
	{"CKM_AES_CBC", 0x1082},  {"CKM_AES_CBC_PAD", 0x1085}, {"CKM_CLOUDHSM_AES_KEY_WRAP_PKCS5_PAD", 0},
};

static bool is_never(const char *name, size_t n, uint32_t id)
{
	for (size_t i = 0; i < sizeof never / sizeof never[0]; i++)
		if ((strlen(never[i].name) == n && strncasecmp(never[i].name, name, n) == 0) ||
		    (id && id == never[i].id))
			return true;
	return memmem(name, n, "_CBC", 4) || memmem(name, n, "_ECB", 4);
}

kt_code kt_blob_refuse_mechanism(const char *name, uint32_t id, kt_err *err)
{
	for (const char *part = name;; part++) {
		size_t n = strcspn(part, "+");
		if (is_never(part, n, id))
			return kt_fail(err, KT_E_REFUSED, "wrap the key again where it is, with keyturn",
				       "the key was wrapped by %.60s (0x%lx), which keyturn never uses: a changed blob "
				       "would not "
				       "be seen",
				       name, (unsigned long)id);
		part += n;
		if (!*part)
			return KT_OK;
	}
}

static kt_code get_mechanism(const cJSON *o, kt_blob *b, kt_err *err)
{
	uint8_t id[MECHANISM_HEX / 2];
	KT_TRY(get_text(o, "mechanism", b->mechanism, sizeof b->mechanism, err));
	if (!cJSON_GetObjectItemCaseSensitive(o, "mechanism_id"))
		return kt_blob_refuse_mechanism(b->mechanism, 0, err);
	KT_TRY(get_hex(o, "mechanism_id", id, sizeof id, err));
	for (size_t i = 0; i < sizeof id; i++)
		b->mechanism_id = b->mechanism_id << 8 | id[i];
	if (!b->mechanism_id)
		return kt_fail(err, KT_E_INPUT, not_ours, "\"mechanism_id\" is empty");
	return kt_blob_refuse_mechanism(b->mechanism, b->mechanism_id, err);
}

static kt_code get_choice(const cJSON *o, const char *name, const char *const *choices, unsigned n, unsigned *out,
			  kt_err *err)
{
	const char *s;
	KT_TRY(kt_json_str(o, name, &s, err));
	for (*out = 0; *out < n; ++*out)
		if (strcmp(s, choices[*out]) == 0)
			return KT_OK;
	return kt_fail(err, KT_E_INPUT, not_ours, "\"%s\": \"%.40s\" is not known", name, s);
}

static kt_code get_fixed(const cJSON *o, const char *name, const char *must, kt_err *err)
{
	const char *s;
	KT_TRY(kt_json_str(o, name, &s, err));
	if (strcmp(s, must) != 0)
		return kt_fail(err, KT_E_INPUT, "it may be of a newer keyturn; update this one",
			       "\"%s\": \"%.40s\" is not supported, only \"%s\"", name, s, must);
	return KT_OK;
}

static kt_code get_token(const cJSON *o, kt_blob *b, kt_err *err)
{
	static const char *const names[] = {"label", "manufacturer", "serial", "model", NULL};
	const cJSON *t;
	if (!cJSON_GetObjectItemCaseSensitive(o, "token"))
		return KT_OK;
	KT_TRY(kt_json_object(o, "token", &t, err));
	KT_TRY(only(t, names, err));
	KT_TRY(get_text(t, "label", b->token.label, sizeof b->token.label, err));
	KT_TRY(get_text(t, "manufacturer", b->token.manufacturer, sizeof b->token.manufacturer, err));
	KT_TRY(get_text(t, "serial", b->token.serial, sizeof b->token.serial, err));
	KT_TRY(get_text(t, "model", b->token.model, sizeof b->token.model, err));
	return has_token(b) ? KT_OK : kt_fail(err, KT_E_INPUT, not_ours, "\"token\" is empty");
}

static kt_code get_wrapping(const cJSON *o, kt_blob *b, kt_err *err)
{
	static const char *const aes[] = {"label", "id", "kcv", NULL};
	static const char *const rsa[] = {"spki_sha256", NULL};
	static const char *const kms[] = {"arn", NULL};
	const cJSON *w;
	KT_TRY(kt_json_object(o, "wrapping_key", &w, err));
	KT_TRY(only(w, kt_blob_is_rsa(b->format) ? rsa : kt_blob_is_aes(b->format) ? aes : kms, err));
	if (kt_blob_is_rsa(b->format))
		return get_text(w, "spki_sha256", b->spki_sha256, sizeof b->spki_sha256, err);
	if (b->format == KT_BLOB_AWS_KMS)
		return get_text(w, "arn", b->wrapping.label, sizeof b->wrapping.label, err);
	KT_TRY(get_text(w, "label", b->wrapping.label, sizeof b->wrapping.label, err));
	KT_TRY(get_text(w, "id", b->wrapping.id, sizeof b->wrapping.id, err));
	return get_text(w, "kcv", b->wrapping.kcv, sizeof b->wrapping.kcv, err);
}

static kt_code get_key(const cJSON *o, kt_blob *b, kt_err *err)
{
	static const char *const names[] = {"type", "bits", "kcv", "kcv_method", NULL};
	const cJSON *k;
	int64_t bits;
	KT_TRY(kt_json_object(o, "key", &k, err));
	KT_TRY(only(k, names, err));
	KT_TRY(get_fixed(k, "type", "aes", err));
	KT_TRY(kt_json_int(k, "bits", KT_BLOB_KEY_BITS, KT_BLOB_KEY_BITS, &bits, err));
	KT_TRY(get_fixed(k, "kcv_method", KT_KCV_METHOD, err));
	return get_text(k, "kcv", b->kcv, sizeof b->kcv, err);
}

static kt_code get_wrapped(const cJSON *o, kt_blob *b, kt_err *err)
{
	const char *text;
	KT_TRY(kt_json_str(o, "wrapped", &text, err));
	kt_buf bytes = {.max = KT_BLOB_WRAPPED_MAX + 8};
	kt_code rc = kt_base64_decode(text, strlen(text), &bytes, err);
	if (rc == KT_OK && bytes.len > KT_BLOB_WRAPPED_MAX)
		rc = kt_fail(err, KT_E_INPUT, not_ours, "longer than %d bytes", KT_BLOB_WRAPPED_MAX);
	if (rc == KT_OK && bytes.len)
		memcpy(b->wrapped, bytes.data, bytes.len);
	b->wrapped_len = rc == KT_OK ? bytes.len : 0;
	kt_buf_free(&bytes);
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "\"wrapped\"");
}

static kt_code get_version(const cJSON *o, kt_err *err)
{
	int64_t v;
	KT_TRY(kt_json_int(o, "v", 1, INT32_MAX, &v, err));
	if (v < VERSION)
		return kt_fail(err, KT_E_INPUT, "have the key wrapped again by this keyturn",
			       "it has version %d, which carries no MAC and is not taken any more; it must be %d",
			       (int)v, VERSION);
	if (v > VERSION)
		return kt_fail(err, KT_E_INPUT, "it is of a newer keyturn; update this one",
			       "it has version %d, this keyturn knows %d", (int)v, VERSION);
	return KT_OK;
}

static kt_code get_kind(const cJSON *o, kt_blob *b, kt_err *err)
{
	unsigned purpose, format;
	KT_TRY(get_choice(o, "purpose", purposes, KT_BLOB_PURPOSES, &purpose, err));
	KT_TRY(get_choice(o, "format", formats, KT_BLOB_FORMATS, &format, err));
	b->purpose = (kt_blob_purpose)purpose;
	b->format = (kt_blob_format)format;
	return KT_OK;
}

static kt_code get_all(const cJSON *o, kt_blob *b, kt_err *err)
{
	static const char *const names[] = {"v",         "purpose",      "format", "mechanism", "mechanism_id",
					    "token",     "wrapping_key", "key",    "run",       "node",
					    "custodian", "wrapped",      "mac",    NULL};
	if (!cJSON_IsObject(o))
		return kt_fail(err, KT_E_INPUT, not_ours, "not a JSON object");
	KT_TRY(get_version(o, err));
	KT_TRY(only(o, names, err));
	KT_TRY(get_kind(o, b, err));
	KT_TRY(get_mechanism(o, b, err));
	KT_TRY(get_token(o, b, err));
	KT_TRY(get_wrapping(o, b, err));
	KT_TRY(get_key(o, b, err));
	KT_TRY(get_opt_text(o, "run", b->run, sizeof b->run, err));
	KT_TRY(get_opt_text(o, "node", b->node, sizeof b->node, err));
	KT_TRY(get_opt_text(o, "custodian", b->custodian, sizeof b->custodian, err));
	KT_TRY(get_wrapped(o, b, err));
	KT_TRY(get_hex(o, "mac", b->mac, sizeof b->mac, err));
	const char *wrong = kt_blob_broken(b);
	return wrong ? kt_fail(err, KT_E_INPUT, not_ours, "%s", wrong) : KT_OK;
}

kt_code kt_blob_from_json(const cJSON *json, kt_blob *out, kt_err *err)
{
	*out = (kt_blob){0};
	kt_code rc = get_all(json, out, err);
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "wrapped key");
}

kt_code kt_blob_from_text(const char *name, const void *text, size_t n, kt_blob *out, kt_err *err)
{
	cJSON *o;
	*out = (kt_blob){0};
	KT_TRY(kt_json_parse(name, text, n, &o, err));
	kt_code rc = kt_blob_from_json(o, out, err);
	cJSON_Delete(o);
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "%s", name);
}

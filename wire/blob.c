/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/blob.h"

#include <openssl/crypto.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

#include "base/codec.h"

enum { VERSION = 1, KEY_LEN = KT_BLOB_KEY_BITS / 8, AES_WRAPPED = KEY_LEN + 8, RSA_WRAPPED_MIN = 256 };

static const char not_ours[] = "take the blob again from where it was made; do not edit it";

static const char *const purposes[] = {"escrow", "kek", "transport", "rehearsal"};
static const char *const formats[] = {"rfc5649", "rfc3394", "rsa-oaep-sha256", "rsa-oaep-sha1"};

const char *kt_blob_format_name(kt_blob_format format)
{
	return (unsigned)format < 4 ? formats[format] : "unknown";
}

const char *kt_blob_purpose_name(kt_blob_purpose purpose)
{
	return (unsigned)purpose < 4 ? purposes[purpose] : "unknown";
}

static bool is_rsa(kt_blob_format f)
{
	return f == KT_BLOB_RSA_OAEP_SHA256 || f == KT_BLOB_RSA_OAEP_SHA1;
}

/* --- Invariants --------------------------------------------------------------------------------------------------- */

static bool lower_hex(const char *s, size_t n)
{
	return strlen(s) == n && strspn(s, "0123456789abcdef") == n;
}

/* The invariants of the struct (blob.h); NULL when all hold, else what is wrong. */
static const char *broken(const kt_blob *b)
{
	bool rsa = is_rsa(b->format);
	bool to_node = b->purpose == KT_BLOB_TRANSPORT || b->purpose == KT_BLOB_REHEARSAL;
	if ((unsigned)b->purpose > 3 || (unsigned)b->format > 3 || rsa != to_node)
		return "its format does not fit its purpose";
	if (!lower_hex(b->kcv, KT_KCV_TEXT - 1))
		return "the key's check value must be 6 lower-case hex digits";
	if (rsa && !lower_hex(b->spki_sha256, KT_SHA256_HEX - 1))
		return "\"spki_sha256\" must be 64 lower-case hex digits";
	if (!rsa && !lower_hex(b->wrapping.kcv, KT_KCV_TEXT - 1))
		return "the wrapping key's check value must be 6 lower-case hex digits";
	if (!rsa && (strlen(b->wrapping.id) % 2 || !lower_hex(b->wrapping.id, strlen(b->wrapping.id))))
		return "the wrapping key's id must be lower-case hex";
	if (rsa ? b->wrapped_len < RSA_WRAPPED_MIN || b->wrapped_len > KT_BLOB_WRAPPED_MAX || b->wrapped_len % 8
		: b->wrapped_len != AES_WRAPPED)
		return "the wrapped key has a length that its format cannot give";
	return NULL;
}

/* --- To JSON ------------------------------------------------------------------------------------------------------ */

/* A new object as member `name` of `parent`, which owns it. */
static kt_code add_object(cJSON *parent, const char *name, cJSON **out, kt_err *err)
{
	*out = cJSON_CreateObject();
	return kt_json_add(parent, name, *out, err);
}

static kt_code put_token(const kt_blob *b, cJSON *o, kt_err *err)
{
	cJSON *t;
	if (!b->token.label[0] && !b->token.serial[0])
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
	if (is_rsa(b->format))
		return kt_json_add_str(w, "spki_sha256", b->spki_sha256, err);
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
	KT_TRY(kt_json_add_str(o, "mechanism", b->mechanism, err));
	KT_TRY(put_token(b, o, err));
	KT_TRY(put_wrapping(b, o, err));
	KT_TRY(put_key(b, o, err));
	if (b->run[0])
		KT_TRY(kt_json_add_str(o, "run", b->run, err));
	if (b->node[0])
		KT_TRY(kt_json_add_str(o, "node", b->node, err));
	return put_wrapped(b, o, err);
}

kt_code kt_blob_to_json(const kt_blob *blob, cJSON **out, kt_err *err)
{
	*out = NULL;
	const char *wrong = broken(blob);
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

static kt_code get_opt_text(const cJSON *o, const char *name, char *out, size_t size, kt_err *err)
{
	return cJSON_GetObjectItemCaseSensitive(o, name) ? get_text(o, name, out, size, err) : KT_OK;
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
	return get_text(t, "model", b->token.model, sizeof b->token.model, err);
}

static kt_code get_wrapping(const cJSON *o, kt_blob *b, kt_err *err)
{
	static const char *const aes[] = {"label", "id", "kcv", NULL};
	static const char *const rsa[] = {"spki_sha256", NULL};
	const cJSON *w;
	KT_TRY(kt_json_object(o, "wrapping_key", &w, err));
	KT_TRY(only(w, is_rsa(b->format) ? rsa : aes, err));
	if (is_rsa(b->format))
		return get_text(w, "spki_sha256", b->spki_sha256, sizeof b->spki_sha256, err);
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

static kt_code get_all(const cJSON *o, kt_blob *b, kt_err *err)
{
	static const char *const names[] = {"v",   "purpose", "format", "mechanism", "token", "wrapping_key",
					    "key", "run",     "node",   "wrapped",   NULL};
	int64_t v;
	unsigned purpose, format;
	if (!cJSON_IsObject(o))
		return kt_fail(err, KT_E_INPUT, not_ours, "not a JSON object");
	KT_TRY(kt_json_int(o, "v", VERSION, VERSION, &v, err));
	KT_TRY(only(o, names, err));
	KT_TRY(get_choice(o, "purpose", purposes, 4, &purpose, err));
	KT_TRY(get_choice(o, "format", formats, 4, &format, err));
	b->purpose = (kt_blob_purpose)purpose;
	b->format = (kt_blob_format)format;
	KT_TRY(get_text(o, "mechanism", b->mechanism, sizeof b->mechanism, err));
	KT_TRY(get_token(o, b, err));
	KT_TRY(get_wrapping(o, b, err));
	KT_TRY(get_key(o, b, err));
	KT_TRY(get_opt_text(o, "run", b->run, sizeof b->run, err));
	KT_TRY(get_opt_text(o, "node", b->node, sizeof b->node, err));
	KT_TRY(get_wrapped(o, b, err));
	const char *wrong = broken(b);
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

/* --- Opening and wrapping with libcrypto -------------------------------------------------------------------------- */

/* Give `key` away when its check value is the blob's, else wipe it. */
static kt_code accept_key(const kt_blob *b, kt_secret *key, kt_secret *out, kt_err *err)
{
	char kcv[KT_KCV_TEXT];
	kt_code rc = kt_kcv_of(key, kcv, err);
	if (rc == KT_OK && strcmp(kcv, b->kcv) != 0)
		rc = kt_fail(err, KT_E_KEY, not_ours, "the unwrapped key has check value %s, the blob says %s", kcv,
			     b->kcv);
	if (rc != KT_OK) {
		kt_secret_free(key);
		return rc;
	}
	key->data[key->len] = '\0';
	*out = *key;
	*key = KT_SECRET_INIT;
	return KT_OK;
}

kt_code kt_blob_spki_sha256(EVP_PKEY *key, char out[65], kt_err *err)
{
	unsigned char *der = NULL;
	int n = i2d_PUBKEY(key, &der);
	if (n <= 0)
		return kt_fail(err, KT_E_INPUT, NULL, "the public key cannot be encoded");
	kt_code rc = kt_sha256_hex(der, (size_t)n, out, err);
	OPENSSL_free(der);
	return rc;
}

static bool oaep_setup(EVP_PKEY_CTX *ctx, const EVP_MD *md)
{
	return EVP_PKEY_decrypt_init(ctx) == 1 && EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_OAEP_PADDING) == 1 &&
	       EVP_PKEY_CTX_set_rsa_oaep_md(ctx, md) == 1 && EVP_PKEY_CTX_set_rsa_mgf1_md(ctx, md) == 1;
}

static kt_code oaep_open(const kt_blob *b, EVP_PKEY *priv, kt_secret *key, kt_err *err)
{
	const EVP_MD *md = b->format == KT_BLOB_RSA_OAEP_SHA256 ? EVP_sha256() : EVP_sha1();
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_pkey(NULL, priv, NULL);
	kt_code rc = KT_OK;
	if (!ctx || !oaep_setup(ctx, md)) {
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "RSA-OAEP is not available in libcrypto");
		goto out;
	}
	KT_TRY_GOTO(kt_secret_new(key, KT_BLOB_WRAPPED_MAX, err), out);
	/* One message for every way in which this fails: the difference would help who sends forged blobs. */
	if (EVP_PKEY_decrypt(ctx, key->data, &key->len, b->wrapped, b->wrapped_len) != 1 || key->len != KEY_LEN) {
		kt_secret_free(key);
		rc = kt_fail(err, KT_E_KEY, "have it wrapped again for this node",
			     "the wrapped key does not open with this transport key: it was damaged");
	}
out:
	EVP_PKEY_CTX_free(ctx);
	return rc;
}

kt_code kt_blob_unwrap_rsa(const kt_blob *blob, EVP_PKEY *priv, kt_secret *out, kt_err *err)
{
	char spki[KT_SHA256_HEX];
	kt_secret key = KT_SECRET_INIT;
	*out = KT_SECRET_INIT;
	if (!is_rsa(blob->format) || !EVP_PKEY_is_a(priv, "RSA"))
		return kt_fail(err, KT_E_INPUT, NULL, "a wrapped key of format %s cannot be opened with an RSA key",
			       kt_blob_format_name(blob->format));
	KT_TRY(kt_blob_spki_sha256(priv, spki, err));
	if (strcmp(spki, blob->spki_sha256) != 0)
		return kt_fail(err, KT_E_KEY, "enroll the node again, so that its transport key is known",
			       "the key was wrapped for the transport key %.16s..., this node has %.16s...",
			       blob->spki_sha256, spki);
	if (blob->wrapped_len != (size_t)EVP_PKEY_get_size(priv))
		return kt_fail(err, KT_E_INPUT, not_ours, "the wrapped key has %zu bytes, the transport key gives %d",
			       blob->wrapped_len, EVP_PKEY_get_size(priv));
	KT_TRY(oaep_open(blob, priv, &key, err));
	return accept_key(blob, &key, out, err);
}

/* AES key wrap in either direction: `out` has room for n + 8 bytes; *len is what was written. */
static bool aes_wrap(const EVP_CIPHER *cipher, const kt_secret *wrapping, int encrypt, const uint8_t *in, size_t n,
		     uint8_t *out, size_t *len)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int body = 0, tail = 0;
	if (ctx)
		EVP_CIPHER_CTX_set_flags(ctx, EVP_CIPHER_CTX_FLAG_WRAP_ALLOW);
	bool done = ctx && EVP_CipherInit_ex2(ctx, cipher, wrapping->data, NULL, encrypt, NULL) == 1 &&
		    EVP_CipherUpdate(ctx, out, &body, in, (int)n) == 1 &&
		    EVP_CipherFinal_ex(ctx, out + body, &tail) == 1;
	*len = done ? (size_t)(body + tail) : 0;
	EVP_CIPHER_CTX_free(ctx);
	return done;
}

kt_code kt_blob_wrap_aes(kt_blob *blob, const kt_secret *wrapping, const kt_secret *key, kt_err *err)
{
	KT_TRY(kt_kcv_of(wrapping, blob->wrapping.kcv, err));
	KT_TRY(kt_kcv_of(key, blob->kcv, err));
	blob->format = KT_BLOB_RFC5649;
	memcpy(blob->mechanism, "AES-256-WRAP-PAD", sizeof "AES-256-WRAP-PAD");
	if (!aes_wrap(EVP_aes_256_wrap_pad(), wrapping, 1, key->data, key->len, blob->wrapped, &blob->wrapped_len))
		return kt_fail(err, KT_E_INTERNAL, NULL, "AES key wrap (RFC 5649) is not available in libcrypto");
	return KT_OK;
}

kt_code kt_blob_unwrap_aes(const kt_blob *blob, const kt_secret *wrapping, kt_secret *out, kt_err *err)
{
	char kcv[KT_KCV_TEXT];
	kt_secret key = KT_SECRET_INIT;
	*out = KT_SECRET_INIT;
	if (is_rsa(blob->format) || blob->wrapped_len != AES_WRAPPED)
		return kt_fail(err, KT_E_INPUT, NULL, "this is not a key of 32 bytes under an AES key");
	KT_TRY(kt_kcv_of(wrapping, kcv, err));
	if (strcmp(kcv, blob->wrapping.kcv) != 0)
		return kt_fail(err, KT_E_KEY, "use the wrapping key with the check value that the blob names",
			       "the blob was wrapped under the key with check value %s, this one has %s",
			       blob->wrapping.kcv, kcv);
	KT_TRY(kt_secret_new(&key, AES_WRAPPED + 8, err));
	const EVP_CIPHER *cipher = blob->format == KT_BLOB_RFC5649 ? EVP_aes_256_wrap_pad() : EVP_aes_256_wrap();
	if (!aes_wrap(cipher, wrapping, 0, blob->wrapped, blob->wrapped_len, key.data, &key.len) ||
	    key.len != KEY_LEN) {
		kt_secret_free(&key);
		return kt_fail(err, KT_E_KEY, not_ours, "the wrapped key does not open: it was damaged");
	}
	return accept_key(blob, &key, out, err);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A wrapped key with libcrypto: its MAC, opening it, and wrapping one under an AES key that is in this process. */
#include <openssl/crypto.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <string.h>

#include "base/codec.h"
#include "wire/blob.h"

enum { KEY_LEN = KT_BLOB_KEY_BITS / 8 };

static const char not_ours[] = "take the blob again from where it was made; do not edit it";

/* --- The MAC ------------------------------------------------------------------------------------------------------ */

/* Where the next field goes; `at` stays within the buffer, for KT_BLOB_MAC_INPUT_MAX has room for all of the longest.
 */
static void put(uint8_t **at, const void *bytes, size_t n)
{
	*(*at)++ = (uint8_t)(n >> 8);
	*(*at)++ = (uint8_t)n;
	memcpy(*at, bytes, n);
	*at += n;
}

static void put_text(uint8_t **at, const char *s)
{
	put(at, s, strlen(s));
}

static void put_number(uint8_t **at, uint32_t n)
{
	const uint8_t bytes[4] = {(uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
	put(at, bytes, sizeof bytes);
}

size_t kt_blob_mac_input(const kt_blob *b, uint8_t out[KT_BLOB_MAC_INPUT_MAX])
{
	static const char label[] = "keyturn-blob/2";
	_Static_assert(sizeof label + sizeof(kt_blob) + 128 <= KT_BLOB_MAC_INPUT_MAX, "room for all of the longest");
	const char *const first[] = {kt_blob_purpose_name(b->purpose), kt_blob_format_name(b->format), b->mechanism};
	const char *const texts[] = {b->token.label,  b->token.manufacturer, b->token.serial,
				     b->token.model,  b->wrapping.label,     b->wrapping.id,
				     b->wrapping.kcv, b->spki_sha256,        "aes"};
	const char *const last[] = {b->kcv, KT_KCV_METHOD, b->run, b->node, b->custodian};
	uint8_t *at = out;
	memcpy(at, label, sizeof label); /* with its NUL, which ends the label */
	at += sizeof label;
	for (size_t i = 0; i < sizeof first / sizeof first[0]; i++)
		put_text(&at, first[i]);
	put_number(&at, b->mechanism_id);
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
		put_text(&at, texts[i]);
	put_number(&at, KT_BLOB_KEY_BITS);
	for (size_t i = 0; i < sizeof last / sizeof last[0]; i++)
		put_text(&at, last[i]);
	put(&at, b->wrapped, b->wrapped_len);
	return (size_t)(at - out);
}

static kt_code mac_of(const kt_blob *b, const kt_secret *key, uint8_t mac[KT_BLOB_MAC_LEN], kt_err *err)
{
	uint8_t input[KT_BLOB_MAC_INPUT_MAX];
	return kt_mac_of(key, input, kt_blob_mac_input(b, input), mac, err);
}

kt_code kt_blob_seal(kt_blob *b, const kt_secret *key, kt_err *err)
{
	KT_TRY(kt_kcv_of(key, b->kcv, err));
	const char *wrong = kt_blob_broken(b);
	if (wrong)
		return kt_fail(err, KT_E_INTERNAL, NULL, "a wrapped key cannot be sealed: %s", wrong);
	return mac_of(b, key, b->mac, err);
}

kt_code kt_blob_mac_differs(kt_err *err)
{
	return kt_fail(err, KT_E_KEY, not_ours,
		       "the MAC of the wrapped key is not that of its content: something in it was changed");
}

kt_code kt_blob_check_key(const kt_blob *b, const kt_secret *key, kt_err *err)
{
	char kcv[KT_KCV_TEXT];
	uint8_t mac[KT_BLOB_MAC_LEN];
	KT_TRY(kt_kcv_of(key, kcv, err));
	if (strcmp(kcv, b->kcv) != 0)
		return kt_fail(err, KT_E_KEY, not_ours, "the unwrapped key has check value %s, the blob says %s", kcv,
			       b->kcv);
	KT_TRY(mac_of(b, key, mac, err));
	return CRYPTO_memcmp(mac, b->mac, sizeof mac) == 0 ? KT_OK : kt_blob_mac_differs(err);
}

/* Give `key` away when KCV and MAC are the blob's, else wipe it. */
static kt_code accept_key(const kt_blob *b, kt_secret *key, kt_secret *out, kt_err *err)
{
	kt_code rc = kt_blob_check_key(b, key, err);
	if (rc != KT_OK) {
		kt_secret_free(key);
		return rc;
	}
	*out = *key;
	*key = KT_SECRET_INIT;
	return KT_OK;
}

/* --- AES formats -------------------------------------------------------------------------------------------------- */

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

static kt_code no_aes_wrap(kt_err *err)
{
	return kt_fail(err, KT_E_INTERNAL, NULL, "AES key wrap (RFC 5649) is not available in libcrypto");
}

kt_code kt_blob_wrap_aes(kt_blob *blob, const kt_secret *wrapping, const kt_secret *key, kt_err *err)
{
	KT_TRY(kt_kcv_of(wrapping, blob->wrapping.kcv, err));
	KT_TRY(kt_kcv_of(key, blob->kcv, err)); /* a key of 32 bytes */
	blob->format = KT_BLOB_RFC5649;
	memcpy(blob->mechanism, "AES-256-WRAP-PAD", sizeof "AES-256-WRAP-PAD");
	if (!aes_wrap(EVP_aes_256_wrap_pad(), wrapping, 1, key->data, key->len, blob->wrapped, &blob->wrapped_len))
		return no_aes_wrap(err);
	return kt_blob_seal(blob, key, err);
}

kt_code kt_blob_open_aes(kt_blob_format format, const kt_secret *wrapping, const uint8_t *wrapped, size_t n,
			 kt_secret *out, kt_err *err)
{
	*out = KT_SECRET_INIT;
	if (!kt_blob_is_aes(format) || n != KT_BLOB_AES_WRAPPED)
		return kt_fail(err, KT_E_INPUT, NULL, "this is not a key of 32 bytes under an AES key");
	if (wrapping->len != KEY_LEN)
		return kt_fail(err, KT_E_KEY, NULL, "an AES-256 key has %d bytes, this one has %zu", KEY_LEN,
			       wrapping->len);
	KT_TRY(kt_secret_new(out, KT_BLOB_AES_WRAPPED + 8, err));
	const EVP_CIPHER *cipher = format == KT_BLOB_RFC5649 ? EVP_aes_256_wrap_pad() : EVP_aes_256_wrap();
	if (!aes_wrap(cipher, wrapping, 0, wrapped, n, out->data, &out->len) || out->len != KEY_LEN) {
		kt_secret_free(out);
		return kt_fail(err, KT_E_KEY, not_ours, "the wrapped key does not open: it was damaged");
	}
	out->data[out->len] = '\0';
	return KT_OK;
}

kt_code kt_blob_unwrap_aes(const kt_blob *blob, const kt_secret *wrapping, kt_secret *out, kt_err *err)
{
	char kcv[KT_KCV_TEXT];
	kt_secret key;
	*out = KT_SECRET_INIT;
	KT_TRY(kt_kcv_of(wrapping, kcv, err));
	if (kt_blob_is_aes(blob->format) && strcmp(kcv, blob->wrapping.kcv) != 0)
		return kt_fail(err, KT_E_KEY, "use the wrapping key with the check value that the blob names",
			       "the blob was wrapped under the key with check value %s, this one has %s",
			       blob->wrapping.kcv, kcv);
	KT_TRY(kt_blob_open_aes(blob->format, wrapping, blob->wrapped, blob->wrapped_len, &key, err));
	return accept_key(blob, &key, out, err);
}

/* --- RSA formats -------------------------------------------------------------------------------------------------- */

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

static bool oaep_setup(EVP_PKEY_CTX *ctx, bool encrypt, kt_blob_format format)
{
	const EVP_MD *md = kt_blob_is_sha256(format) ? EVP_sha256() : EVP_sha1();
	return (encrypt ? EVP_PKEY_encrypt_init(ctx) : EVP_PKEY_decrypt_init(ctx)) == 1 &&
	       EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_OAEP_PADDING) == 1 &&
	       EVP_PKEY_CTX_set_rsa_oaep_md(ctx, md) == 1 && EVP_PKEY_CTX_set_rsa_mgf1_md(ctx, md) == 1;
}

static kt_code oaep_begin(EVP_PKEY *key, bool encrypt, kt_blob_format format, EVP_PKEY_CTX **out, kt_err *err)
{
	*out = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
	if (*out && oaep_setup(*out, encrypt, format))
		return KT_OK;
	EVP_PKEY_CTX_free(*out);
	*out = NULL;
	return kt_fail(err, KT_E_INTERNAL, NULL, "RSA-OAEP is not available in libcrypto");
}

/* A kt_blob_oaep_open with the private key in this process. */
static kt_code oaep_open(void *cookie, kt_blob_format format, const uint8_t *wrapped, size_t n, kt_secret *out,
			 kt_err *err)
{
	EVP_PKEY *priv = cookie;
	EVP_PKEY_CTX *ctx;
	*out = KT_SECRET_INIT;
	if (n != (size_t)EVP_PKEY_get_size(priv))
		return kt_fail(err, KT_E_INPUT, not_ours, "the wrapped key has %zu bytes, this RSA key gives %d", n,
			       EVP_PKEY_get_size(priv));
	KT_TRY(oaep_begin(priv, false, format, &ctx, err));
	kt_code rc = kt_secret_new(out, KT_BLOB_WRAPPED_MAX, err);
	/* One message for every way in which this fails: the difference would help who sends forged blobs. */
	if (rc == KT_OK && (EVP_PKEY_decrypt(ctx, out->data, &out->len, wrapped, n) != 1 || out->len != KEY_LEN)) {
		kt_secret_free(out);
		rc = kt_fail(err, KT_E_KEY, "have it wrapped again for this key",
			     "the wrapped key does not open with this RSA key: it was damaged");
	}
	if (rc == KT_OK)
		out->data[out->len] = '\0';
	EVP_PKEY_CTX_free(ctx);
	return rc;
}

static size_t oaep_len(kt_blob_format format, size_t n)
{
	size_t rest = kt_blob_is_composed(format) ? KT_BLOB_AES_WRAPPED : 0;
	return n > rest ? n - rest : 0;
}

static kt_code open_rsa(kt_blob_format format, kt_blob_oaep_open *open, void *cookie, const uint8_t *wrapped, size_t n,
			kt_secret *out, kt_err *err)
{
	kt_blob_format oaep = kt_blob_is_sha256(format) ? KT_BLOB_RSA_OAEP_SHA256 : KT_BLOB_RSA_OAEP_SHA1;
	size_t head = oaep_len(format, n);
	kt_secret ephemeral;
	if (!kt_blob_is_composed(format))
		return open(cookie, oaep, wrapped, head, out, err);
	*out = KT_SECRET_INIT;
	KT_TRY(open(cookie, oaep, wrapped, head, &ephemeral, err));
	kt_code rc = kt_blob_open_aes(KT_BLOB_RFC5649, &ephemeral, wrapped + head, n - head, out, err);
	kt_secret_free(&ephemeral);
	return rc;
}

static kt_code check_rsa(kt_blob_format format, const EVP_PKEY *key, kt_err *err)
{
	if (kt_blob_is_rsa(format) && EVP_PKEY_is_a(key, "RSA"))
		return KT_OK;
	return kt_fail(err, KT_E_INPUT, NULL, "a wrapped key of format %s has nothing to do with this key",
		       kt_blob_format_name(format));
}

kt_code kt_blob_open_rsa(kt_blob_format format, EVP_PKEY *priv, const uint8_t *wrapped, size_t n, kt_secret *out,
			 kt_err *err)
{
	*out = KT_SECRET_INIT;
	KT_TRY(check_rsa(format, priv, err));
	return open_rsa(format, oaep_open, priv, wrapped, n, out, err);
}

kt_code kt_blob_for_rsa(const kt_blob *blob, const char *spki_sha256, size_t *oaep, kt_err *err)
{
	*oaep = oaep_len(blob->format, blob->wrapped_len);
	if (!kt_blob_is_rsa(blob->format))
		return kt_fail(err, KT_E_INPUT, NULL, "a wrapped key of format %s cannot be opened with an RSA key",
			       kt_blob_format_name(blob->format));
	if (strcmp(spki_sha256, blob->spki_sha256) == 0)
		return KT_OK;
	return kt_fail(err, KT_E_KEY,
		       blob->purpose == KT_BLOB_CUSTODIAN ? "open it with the key of the custodian that it names"
							  : "enroll the node again, so that its transport key is known",
		       "the key was wrapped for the RSA key %.16s..., this one is %.16s...", blob->spki_sha256,
		       spki_sha256);
}

kt_code kt_blob_unwrap_rsa_by(const kt_blob *blob, const char *spki_sha256, kt_blob_oaep_open *open, void *cookie,
			      kt_secret *out, kt_err *err)
{
	kt_secret key;
	size_t oaep;
	*out = KT_SECRET_INIT;
	KT_TRY(kt_blob_for_rsa(blob, spki_sha256, &oaep, err));
	KT_TRY(open_rsa(blob->format, open, cookie, blob->wrapped, blob->wrapped_len, &key, err));
	return accept_key(blob, &key, out, err);
}

kt_code kt_blob_unwrap_rsa(const kt_blob *blob, EVP_PKEY *priv, kt_secret *out, kt_err *err)
{
	char spki[KT_SHA256_HEX];
	*out = KT_SECRET_INIT;
	KT_TRY(check_rsa(blob->format, priv, err));
	KT_TRY(kt_blob_spki_sha256(priv, spki, err));
	return kt_blob_unwrap_rsa_by(blob, spki, oaep_open, priv, out, err);
}

static kt_code oaep_wrap(EVP_PKEY *pub, kt_blob_format format, const kt_secret *key, uint8_t *out, size_t *n,
			 kt_err *err)
{
	EVP_PKEY_CTX *ctx;
	KT_TRY(oaep_begin(pub, true, format, &ctx, err));
	bool done = EVP_PKEY_encrypt(ctx, out, n, key->data, key->len) == 1;
	EVP_PKEY_CTX_free(ctx);
	return done ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "libcrypto does not wrap a key to this RSA key");
}

/* OAEP of an ephemeral key, and behind it the key under that one. */
static kt_code composed_wrap(kt_blob *blob, EVP_PKEY *pub, const kt_secret *key, kt_err *err)
{
	kt_secret ephemeral;
	size_t head = sizeof blob->wrapped - KT_BLOB_AES_WRAPPED, rest = 0;
	KT_TRY(kt_secret_random(&ephemeral, KEY_LEN, err));
	kt_code rc = oaep_wrap(pub, blob->format, &ephemeral, blob->wrapped, &head, err);
	if (rc == KT_OK &&
	    !aes_wrap(EVP_aes_256_wrap_pad(), &ephemeral, 1, key->data, key->len, blob->wrapped + head, &rest))
		rc = no_aes_wrap(err);
	kt_secret_free(&ephemeral);
	blob->wrapped_len = head + rest;
	return rc;
}

kt_code kt_blob_wrap_rsa(kt_blob *blob, EVP_PKEY *pub, kt_blob_format format, const kt_secret *key, kt_err *err)
{
	KT_TRY(check_rsa(format, pub, err));
	KT_TRY(kt_kcv_of(key, blob->kcv, err)); /* a key of 32 bytes */
	KT_TRY(kt_blob_spki_sha256(pub, blob->spki_sha256, err));
	if (EVP_PKEY_get_bits(pub) > 8192)
		return kt_fail(err, KT_E_INPUT, "use a key of 2048 to 8192 bits", "the RSA key has %d bits",
			       EVP_PKEY_get_bits(pub));
	blob->format = format;
	blob->wrapped_len = sizeof blob->wrapped;
	const char *name = kt_blob_is_composed(format) ? "RSA-OAEP+AES-256-WRAP-PAD" : "RSA-OAEP";
	memcpy(blob->mechanism, name, strlen(name) + 1);
	KT_TRY(kt_blob_is_composed(format) ? composed_wrap(blob, pub, key, err)
					   : oaep_wrap(pub, format, key, blob->wrapped, &blob->wrapped_len, err));
	return kt_blob_seal(blob, key, err);
}

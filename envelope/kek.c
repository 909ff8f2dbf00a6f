/* SPDX-License-Identifier: Apache-2.0 */
#include "envelope/kek.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

/* Where the fields are; docs/FORMATS.md, "Envelope", has the same numbers. */
enum {
	AT_MAGIC = 0,
	AT_VERSION = 4,
	AT_RESERVED = 5,
	AT_BLOB_LEN = 6,
	AT_ID = 8,
	AT_GENERATION = 24,
	AT_CREATED = 28,
	AT_ZERO = 36,
	AT_BLOB = KT_KEK_RECORD_HEAD
};

enum { VERSION = 1, MAC_KEY_LEN = 32 };

static const uint8_t magic[4] = {'K', 'T', 'K', 'R'};
static const char mac_info[] = "keyturn kek record/1";

static void be_put(uint8_t *p, size_t n, uint64_t v)
{
	while (n--) {
		p[n] = (uint8_t)v;
		v >>= 8;
	}
}

static uint64_t be_get(const uint8_t *p, size_t n)
{
	uint64_t v = 0;
	for (size_t i = 0; i < n; i++)
		v = v << 8 | p[i];
	return v;
}

/* HKDF-SHA256 (RFC 5869) of the KEK, without salt: the KEK itself is used for wrapping only. */
static kt_code derive_mac_key(const kt_secret *kek, kt_secret *out, kt_err *err)
{
	KT_TRY(kt_secret_new(out, MAC_KEY_LEN, err));
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
	EVP_KDF_CTX *c = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
	char digest[] = "SHA256";
	char info[sizeof mac_info];
	memcpy(info, mac_info, sizeof info);
	OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
			       OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, kek->data, kek->len),
			       OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, sizeof info - 1),
			       OSSL_PARAM_construct_end()};
	int good = c ? EVP_KDF_derive(c, out->data, out->len, params) : 0;
	EVP_KDF_CTX_free(c);
	EVP_KDF_free(kdf);
	if (good == 1)
		return KT_OK;
	kt_secret_free(out);
	return kt_fail(err, KT_E_INTERNAL, NULL, "libcrypto failed in HKDF");
}

static kt_code record_mac(const kt_secret *kek, const uint8_t *record, size_t len, uint8_t out[KT_KEK_RECORD_MAC],
			  kt_err *err)
{
	kt_secret key;
	KT_TRY(derive_mac_key(kek, &key, err));
	unsigned n = 0;
	const uint8_t *good = HMAC(EVP_sha256(), key.data, (int)key.len, record, len, out, &n);
	kt_secret_free(&key);
	if (good && n == KT_KEK_RECORD_MAC)
		return KT_OK;
	return kt_fail(err, KT_E_INTERNAL, NULL, "libcrypto failed in HMAC");
}

void kt_kek_free(kt_kek *kek)
{
	if (!kek)
		return;
	kt_secret_free(&kek->key);
	*kek = KT_KEK_INIT;
}

static kt_code append_record(const kt_kek *kek, int64_t created_ms, const kt_buf *blob, kt_buf *record, kt_err *err)
{
	if (blob->len > KT_KEK_RECORD_BLOB_MAX)
		return kt_fail(err, KT_E_INTERNAL, NULL, "a wrapped KEK of %zu bytes does not fit its record",
			       blob->len);
	uint8_t head[KT_KEK_RECORD_HEAD] = {0};
	memcpy(head + AT_MAGIC, magic, sizeof magic);
	head[AT_VERSION] = VERSION;
	be_put(head + AT_BLOB_LEN, 2, blob->len);
	memcpy(head + AT_ID, kek->id, KT_KEK_ID_LEN);
	be_put(head + AT_GENERATION, 4, kek->generation);
	be_put(head + AT_CREATED, 8, (uint64_t)created_ms);
	kt_buf whole = KT_BUF_INIT;
	uint8_t mac[KT_KEK_RECORD_MAC];
	kt_code rc = kt_buf_append(&whole, head, sizeof head, err);
	if (rc == KT_OK)
		rc = kt_buf_append(&whole, blob->data, blob->len, err);
	if (rc == KT_OK)
		rc = record_mac(&kek->key, whole.data, whole.len, mac, err);
	if (rc == KT_OK)
		rc = kt_buf_append(&whole, mac, sizeof mac, err);
	if (rc == KT_OK)
		rc = kt_buf_append(record, whole.data, whole.len, err);
	kt_buf_free(&whole);
	return rc;
}

static kt_code append_wrapped(const kt_kek *kek, int64_t created_ms, const kt_blob *blob, kt_buf *record, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = kt_blob_to_text(blob, &text, err);
	if (rc == KT_OK)
		rc = append_record(kek, created_ms, &text, record, err);
	kt_buf_free(&text);
	return rc;
}

kt_code kt_kek_wrap(const kt_kek *kek, kt_keystore *cmk, int64_t created_ms, kt_buf *record, kt_err *err)
{
	kt_blob blob = {0};
	KT_TRY(kt_keystore_wrap_kek(cmk, &kek->key, &blob, err));
	return append_wrapped(kek, created_ms, &blob, record, err);
}

kt_code kt_kek_make(kt_keystore *cmk, uint32_t generation, int64_t created_ms, kt_kek *kek, kt_buf *record, kt_err *err)
{
	*kek = KT_KEK_INIT;
	kt_blob blob = {0};
	kt_code rc = kt_keystore_new_kek(cmk, &kek->key, &blob, err);
	if (rc == KT_OK && RAND_bytes(kek->id, KT_KEK_ID_LEN) != 1)
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "the random generator failed");
	kek->generation = generation;
	if (rc == KT_OK)
		rc = append_wrapped(kek, created_ms, &blob, record, err);
	if (rc != KT_OK)
		kt_kek_free(kek);
	return rc;
}

static kt_code parse_head(const uint8_t *r, size_t len, kt_err *err)
{
	if (len < KT_KEK_RECORD_HEAD + KT_KEK_RECORD_MAC)
		return kt_fail(err, KT_E_INPUT, NULL, "KEK record: ends at offset %zu, the shortest has %d bytes", len,
			       KT_KEK_RECORD_HEAD + KT_KEK_RECORD_MAC);
	if (memcmp(r + AT_MAGIC, magic, sizeof magic) != 0)
		return kt_fail(err, KT_E_INPUT, NULL, "KEK record: does not begin with KTKR (offset %d)",
			       (int)AT_MAGIC);
	if (r[AT_VERSION] != VERSION)
		return kt_fail(err, KT_E_INPUT, "use a newer keyturn",
			       "KEK record: version %u is not known (offset %d)", r[AT_VERSION], (int)AT_VERSION);
	if (r[AT_RESERVED] != 0)
		return kt_fail(err, KT_E_INPUT, NULL, "KEK record: a reserved byte is not zero (offset %d)",
			       (int)AT_RESERVED);
	if (be_get(r + AT_GENERATION, 4) == 0)
		return kt_fail(err, KT_E_INPUT, NULL, "KEK record: generation 0 (offset %d)", (int)AT_GENERATION);
	if (be_get(r + AT_CREATED, 8) > INT64_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "KEK record: the time is out of range (offset %d)",
			       (int)AT_CREATED);
	for (size_t i = AT_ZERO; i < KT_KEK_RECORD_HEAD; i++)
		if (r[i] != 0)
			return kt_fail(err, KT_E_INPUT, NULL, "KEK record: a reserved byte is not zero (offset %zu)",
				       i);
	size_t n = (size_t)be_get(r + AT_BLOB_LEN, 2);
	if (n > KT_KEK_RECORD_BLOB_MAX || n != len - KT_KEK_RECORD_HEAD - KT_KEK_RECORD_MAC)
		return kt_fail(err, KT_E_INPUT, NULL,
			       "KEK record: the header says %zu bytes of wrapped key, there are %zu (offset %d)", n,
			       len - KT_KEK_RECORD_HEAD - KT_KEK_RECORD_MAC, (int)AT_BLOB_LEN);
	return KT_OK;
}

static kt_code parse(const uint8_t *r, size_t len, kt_blob *blob, kt_err *err)
{
	KT_TRY(parse_head(r, len, err));
	kt_code rc = kt_blob_from_text("KEK record, from offset 48", r + AT_BLOB,
				       len - KT_KEK_RECORD_HEAD - KT_KEK_RECORD_MAC, blob, err);
	if (rc != KT_OK)
		return rc;
	if (blob->purpose != KT_BLOB_KEK)
		return kt_fail(err, KT_E_INPUT, NULL, "KEK record: it holds a key for another purpose: %s (offset %d)",
			       kt_blob_purpose_name(blob->purpose), (int)AT_BLOB);
	return KT_OK;
}

kt_code kt_kek_inspect(const void *record, size_t len, kt_kek_info *info, kt_err *err)
{
	const uint8_t *r = record;
	kt_blob blob = {0};
	*info = (kt_kek_info){0};
	KT_TRY(parse(r, len, &blob, err));
	for (size_t i = 0; i < KT_KEK_ID_LEN; i++) {
		info->id[2 * i] = "0123456789abcdef"[r[AT_ID + i] >> 4];
		info->id[2 * i + 1] = "0123456789abcdef"[r[AT_ID + i] & 15];
	}
	info->generation = (uint32_t)be_get(r + AT_GENERATION, 4);
	info->created_ms = (int64_t)be_get(r + AT_CREATED, 8);
	memcpy(info->kcv, blob.kcv, sizeof info->kcv);
	(void)snprintf(info->cmk_kcv, sizeof info->cmk_kcv, "%s",
		       blob.format == KT_BLOB_AWS_KMS ? KT_KEYSTORE_NO_KCV : blob.wrapping.kcv);
	return KT_OK;
}

static kt_code wrong_cmk(const kt_blob *blob, const kt_keystore *cmk, kt_err *err)
{
	if (blob->format == KT_BLOB_AWS_KMS)
		return kt_fail(
			err, KT_E_KEY, "give that key, or restore the data that belongs to this one",
			"the master key %s (KCV %s) does not open the data: its KEK is wrapped by the AWS KMS key %s",
			kt_keystore_uri(cmk), kt_keystore_kcv(cmk), blob->wrapping.label);
	return kt_fail(
		err, KT_E_KEY,
		"give the key with the KCV that the data needs, or restore the data that belongs to this key",
		"the master key %s (KCV %s) does not open the data: its KEK is wrapped by a master key with KCV %s",
		kt_keystore_uri(cmk), kt_keystore_kcv(cmk), blob->wrapping.kcv);
}

static kt_code check_opened(const uint8_t *r, size_t len, const kt_secret *key, kt_err *err)
{
	uint8_t mac[KT_KEK_RECORD_MAC];
	if (key->len != KT_KEK_LEN)
		return kt_fail(err, KT_E_INPUT, NULL, "KEK record: the key has %zu bytes, not %d", key->len,
			       (int)KT_KEK_LEN);
	KT_TRY(record_mac(key, r, len - KT_KEK_RECORD_MAC, mac, err));
	if (CRYPTO_memcmp(mac, r + len - KT_KEK_RECORD_MAC, sizeof mac) != 0)
		return kt_fail(err, KT_E_INPUT, "restore the database from a backup",
			       "KEK record: it was altered (its MAC at offset %zu is not right)",
			       len - KT_KEK_RECORD_MAC);
	return KT_OK;
}

static kt_code parse_for(const uint8_t *r, size_t len, const kt_keystore *cmk, kt_blob *blob, kt_err *err)
{
	KT_TRY(parse(r, len, blob, err));
	return kt_keystore_made(cmk, blob) ? KT_OK : wrong_cmk(blob, cmk, err);
}

/* The key was opened: is it the record's? */
static kt_code complete(const uint8_t *r, size_t len, kt_kek *kek, kt_err *err)
{
	KT_TRY(check_opened(r, len, &kek->key, err));
	memcpy(kek->id, r + AT_ID, KT_KEK_ID_LEN);
	kek->generation = (uint32_t)be_get(r + AT_GENERATION, 4);
	return KT_OK;
}

kt_code kt_kek_open(const void *record, size_t len, kt_keystore *cmk, kt_kek *kek, kt_err *err)
{
	kt_blob blob = {0};
	*kek = KT_KEK_INIT;
	KT_TRY(parse_for(record, len, cmk, &blob, err));
	kt_code rc = kt_keystore_unwrap_kek(cmk, &blob, &kek->key, err);
	if (rc == KT_OK)
		rc = complete(record, len, kek, err);
	if (rc != KT_OK)
		kt_kek_free(kek);
	return rc;
}

kt_code kt_kek_move(const void *record, size_t len, kt_keystore *from, kt_keystore *to, kt_kek *kek, kt_buf *moved,
		    kt_err *err)
{
	kt_blob old = {0}, new = {0};
	*kek = KT_KEK_INIT;
	KT_TRY(parse_for(record, len, from, &old, err));
	kt_code rc = kt_keystore_move_kek(to, from, &old, &kek->key, &new, err);
	if (rc == KT_OK)
		rc = complete(record, len, kek, err);
	if (rc == KT_OK)
		rc = append_wrapped(kek, (int64_t)be_get((const uint8_t *)record + AT_CREATED, 8), &new, moved, err);
	if (rc != KT_OK)
		kt_kek_free(kek);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/archive_seal.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	MAGIC = 8,
	VERSION = 1,
	ALGORITHM = 1,
	SALT = 32,
	SALT_AT = 12,
	COMMIT = 32,
	COMMIT_AT = 44,
	KEY = 32,
	NONCE = 12
};

static const uint8_t magic[MAGIC] = "KTBACKUP";
static const char label[] = "keyturn-archive/1";
static const char bad_remedy[] = "do not use this backup; make a new one";

static kt_code crypto_failed(kt_err *err)
{
	return kt_fail(err, KT_E_INTERNAL, NULL, "libcrypto failed in the encryption of the backup");
}

/* --- the key of one archive --------------------------------------------------------------------------------------- */

/* HKDF-SHA256 (RFC 5869): the header's salt; label, NUL, and all else of the header but the commitment as info. */
static kt_code derive(const kt_secret *key, const uint8_t *header, size_t header_len, kt_secret *out, kt_err *err)
{
	uint8_t info[sizeof label + KT_SEAL_HEADER_MAX];
	size_t n = sizeof label;
	memcpy(info, label, n);
	memcpy(info + n, header, SALT_AT);
	n += SALT_AT;
	memcpy(info + n, header + KT_SEAL_FIXED, header_len - KT_SEAL_FIXED);
	n += header_len - KT_SEAL_FIXED;
	char sha256[] = "SHA256";
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, sha256, 0),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, key->data, key->len),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)(uintptr_t)(header + SALT_AT), SALT),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, n),
		OSSL_PARAM_construct_end(),
	};
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
	EVP_KDF_CTX *c = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
	kt_code rc = kt_secret_new(out, KEY + COMMIT, err);
	if (rc == KT_OK && (!c || EVP_KDF_derive(c, out->data, out->len, params) != 1)) {
		kt_secret_free(out);
		rc = crypto_failed(err);
	}
	EVP_KDF_CTX_free(c);
	EVP_KDF_free(kdf);
	return rc;
}

/* Both directions: the derived key goes into the cipher, and nowhere else. */
static kt_code set_key(EVP_CIPHER_CTX **out, const kt_secret *derived, int encrypt, kt_err *err)
{
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	if (!c || EVP_CipherInit_ex(c, EVP_aes_256_gcm(), NULL, derived->data, NULL, encrypt) != 1) {
		EVP_CIPHER_CTX_free(c);
		return crypto_failed(err);
	}
	*out = c;
	return KT_OK;
}

/* Three zeros, the chunk's number (8 bytes, big-endian), and 1 for the last chunk, else 0. */
static void make_nonce(uint64_t number, bool last, uint8_t out[NONCE])
{
	memset(out, 0, NONCE);
	for (int i = 0; i < 8; i++)
		out[3 + i] = (uint8_t)(number >> (56 - 8 * i));
	out[NONCE - 1] = last;
}

static kt_code check_key(const kt_archive_seal *seal, kt_err *err)
{
	if (seal->key->len == KEY)
		return KT_OK;
	return kt_fail(err, KT_E_KEY, NULL, "a backup's key has 32 bytes, not %zu", seal->key->len);
}

static kt_code check_context(const kt_archive_seal *seal, kt_err *err)
{
	size_t n = strlen(seal->context);
	if (n == 0 || n > KT_SEAL_CONTEXT_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "a backup cannot be named \"%.100s\"", seal->context);
	return KT_OK;
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

enum { CHUNK = 1 << KT_SEAL_CHUNK_BITS };

/* Invariant: n < CHUNK + 1; a chunk is sealed only when a byte after it has come, or at the end. */
struct kt_sealer {
	kt_seal_sink sink;
	void *arg;
	EVP_CIPHER_CTX *gcm;
	uint64_t number;
	size_t n;
	uint8_t plain[CHUNK];
	uint8_t sealed[CHUNK + KT_SEAL_TAG];
};

static size_t make_header(const char *context, uint8_t header[KT_SEAL_HEADER_MAX])
{
	size_t n = strlen(context);
	memset(header, 0, KT_SEAL_FIXED);
	memcpy(header, magic, MAGIC);
	header[8] = VERSION;
	header[9] = ALGORITHM;
	header[10] = KT_SEAL_CHUNK_BITS;
	header[11] = (uint8_t)n;
	memcpy(header + KT_SEAL_FIXED, context, n);
	return KT_SEAL_FIXED + n;
}

static kt_code begin(kt_sealer *s, const kt_archive_seal *seal, kt_err *err)
{
	uint8_t header[KT_SEAL_HEADER_MAX];
	kt_secret derived;
	KT_TRY(check_key(seal, err));
	KT_TRY(check_context(seal, err));
	size_t n = make_header(seal->context, header);
	if (RAND_bytes(header + SALT_AT, SALT) != 1)
		return crypto_failed(err);
	KT_TRY(derive(seal->key, header, n, &derived, err));
	memcpy(header + COMMIT_AT, derived.data + KEY, COMMIT);
	kt_code rc = set_key(&s->gcm, &derived, 1, err);
	kt_secret_free(&derived);
	return rc == KT_OK ? s->sink(s->arg, header, n, err) : rc;
}

kt_code kt_sealer_new(const kt_archive_seal *seal, kt_seal_sink sink, void *arg, kt_sealer **out, kt_err *err)
{
	kt_sealer *s = calloc(1, sizeof *s);
	if (!s)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	s->sink = sink;
	s->arg = arg;
	kt_code rc = begin(s, seal, err);
	if (rc == KT_OK)
		*out = s;
	else
		kt_sealer_free(s);
	return rc;
}

void kt_sealer_free(kt_sealer *s)
{
	if (!s)
		return;
	EVP_CIPHER_CTX_free(s->gcm);
	free(s);
}

static kt_code seal_chunk(kt_sealer *s, const uint8_t *plain, size_t n, bool last, kt_err *err)
{
	uint8_t nonce[NONCE];
	int got = 0;
	int rest = 0;
	make_nonce(s->number++, last, nonce);
	if (EVP_EncryptInit_ex(s->gcm, NULL, NULL, NULL, nonce) != 1 ||
	    EVP_EncryptUpdate(s->gcm, s->sealed, &got, plain, (int)n) != 1 ||
	    EVP_EncryptFinal_ex(s->gcm, s->sealed + got, &rest) != 1 || (size_t)(got + rest) != n ||
	    EVP_CIPHER_CTX_ctrl(s->gcm, EVP_CTRL_AEAD_GET_TAG, KT_SEAL_TAG, s->sealed + n) != 1)
		return crypto_failed(err);
	return s->sink(s->arg, s->sealed, n + KT_SEAL_TAG, err);
}

kt_code kt_sealer_feed(kt_sealer *s, const void *bytes, size_t n, kt_err *err)
{
	for (const uint8_t *p = bytes; n;) {
		if (s->n == CHUNK) {
			KT_TRY(seal_chunk(s, s->plain, CHUNK, false, err));
			s->n = 0;
		}
		/* What is more than a chunk need not be copied first. */
		if (s->n == 0 && n > CHUNK) {
			KT_TRY(seal_chunk(s, p, CHUNK, false, err));
			p += CHUNK;
			n -= CHUNK;
			continue;
		}
		size_t take = n < CHUNK - s->n ? n : CHUNK - s->n;
		memcpy(s->plain + s->n, p, take);
		s->n += take;
		p += take;
		n -= take;
	}
	return KT_OK;
}

kt_code kt_sealer_end(kt_sealer *s, kt_err *err)
{
	return seal_chunk(s, s->plain, s->n, true, err);
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

struct kt_seal_reader {
	const char *path;
	int fd;
	uint64_t size; /* of the file */
	uint64_t at;
	uint64_t number;
	size_t chunk;
	bool ended;
	EVP_CIPHER_CTX *gcm;
	uint8_t *sealed; /* chunk + KT_SEAL_TAG */
	uint8_t *plain;
};

/* As many bytes as there are, at most n; *got is less at the end of the file alone. */
static kt_code read_at(int fd, const char *path, uint64_t at, uint8_t *into, size_t n, size_t *got, kt_err *err)
{
	for (*got = 0; *got < n;) {
		ssize_t r = pread(fd, into + *got, n - *got, (off_t)(at + *got));
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return kt_fail_errno(err, errno, NULL, "the backup %s cannot be read", path);
		if (r == 0)
			break;
		*got += (size_t)r;
	}
	return KT_OK;
}

kt_code kt_seal_is(int fd, const char *path, bool *is, kt_err *err)
{
	uint8_t begins[MAGIC];
	size_t n;
	KT_TRY(read_at(fd, path, 0, begins, sizeof begins, &n, err));
	*is = n == sizeof begins && memcmp(begins, magic, MAGIC) == 0;
	return KT_OK;
}

static kt_code check_header(const kt_archive_seal *seal, const char *path, const uint8_t *header, size_t n, kt_err *err)
{
	if (n < KT_SEAL_FIXED || memcmp(header, magic, MAGIC) != 0)
		return kt_fail(err, KT_E_INPUT, bad_remedy, "%s is not an encrypted backup of keyturn", path);
	if (header[8] != VERSION || header[9] != ALGORITHM)
		return kt_fail(err, KT_E_INPUT, "use the version of keyturn that made it",
			       "%s is of format %u, algorithm %u: this version knows format %d, algorithm %d", path,
			       header[8], header[9], VERSION, ALGORITHM);
	if (header[10] < KT_SEAL_CHUNK_BITS_MIN || header[10] > KT_SEAL_CHUNK_BITS_MAX ||
	    n - KT_SEAL_FIXED < header[11])
		return kt_fail(err, KT_E_INPUT, bad_remedy, "%s: its header is damaged", path);
	if (!seal->context)
		return KT_OK;
	if (header[11] == strlen(seal->context) && memcmp(header + KT_SEAL_FIXED, seal->context, header[11]) == 0)
		return KT_OK;
	char says[KT_SEAL_CONTEXT_MAX + 1];
	for (size_t i = 0; i < header[11]; i++)
		says[i] = (char)(header[KT_SEAL_FIXED + i] >= ' ' && header[KT_SEAL_FIXED + i] < 0x7f
					 ? header[KT_SEAL_FIXED + i]
					 : '?');
	says[header[11]] = '\0';
	return kt_fail(err, KT_E_INPUT, "put the right archive in its place",
		       "%s says that it is the backup of %.100s, not of %.100s", path, says, seal->context);
}

static kt_code open_header(kt_seal_reader *r, const kt_archive_seal *seal, kt_err *err)
{
	uint8_t header[KT_SEAL_HEADER_MAX];
	kt_secret derived;
	size_t n;
	KT_TRY(check_key(seal, err));
	KT_TRY(read_at(r->fd, r->path, 0, header, sizeof header, &n, err));
	KT_TRY(check_header(seal, r->path, header, n, err));
	r->at = KT_SEAL_FIXED + header[11];
	r->chunk = (size_t)1 << header[10];
	KT_TRY(derive(seal->key, header, (size_t)r->at, &derived, err));
	kt_code rc = CRYPTO_memcmp(derived.data + KEY, header + COMMIT_AT, COMMIT) == 0
			     ? set_key(&r->gcm, &derived, 0, err)
			     : kt_fail(err, KT_E_KEY, "use the backup key of its run; if it is that, make a new backup",
				       "%s does not open with this key, or its header was altered", r->path);
	kt_secret_free(&derived);
	return rc;
}

kt_code kt_seal_reader_new(const kt_archive_seal *seal, int fd, uint64_t size, const char *path, kt_seal_reader **out,
			   kt_err *err)
{
	kt_seal_reader *r = calloc(1, sizeof *r);
	if (!r)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	r->path = path;
	r->fd = fd;
	r->size = size;
	kt_code rc = open_header(r, seal, err);
	if (rc == KT_OK) {
		r->sealed = malloc(r->chunk + KT_SEAL_TAG);
		r->plain = malloc(r->chunk);
		if (!r->sealed || !r->plain)
			rc = kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	if (rc == KT_OK)
		*out = r;
	else
		kt_seal_reader_free(r);
	return rc;
}

void kt_seal_reader_free(kt_seal_reader *r)
{
	if (!r)
		return;
	EVP_CIPHER_CTX_free(r->gcm);
	free(r->sealed);
	free(r->plain);
	free(r);
}

static kt_code open_chunk(kt_seal_reader *r, size_t n, bool last, kt_err *err)
{
	uint8_t nonce[NONCE];
	int got = 0;
	int rest = 0;
	make_nonce(r->number, last, nonce);
	if (EVP_DecryptInit_ex(r->gcm, NULL, NULL, NULL, nonce) != 1 ||
	    EVP_DecryptUpdate(r->gcm, r->plain, &got, r->sealed, (int)n) != 1 ||
	    EVP_CIPHER_CTX_ctrl(r->gcm, EVP_CTRL_AEAD_SET_TAG, KT_SEAL_TAG, r->sealed + n) != 1)
		return crypto_failed(err);
	if (EVP_DecryptFinal_ex(r->gcm, r->plain + got, &rest) == 1 && (size_t)(got + rest) == n)
		return KT_OK;
	OPENSSL_cleanse(r->plain, r->chunk);
	return kt_fail(err, KT_E_INPUT, bad_remedy,
		       "%s was altered or cut off: chunk %llu%s is not what was written there", r->path,
		       (unsigned long long)r->number, last ? ", the last one," : "");
}

kt_code kt_seal_reader_next(kt_seal_reader *r, const uint8_t **bytes, size_t *n, uint64_t *at, kt_err *err)
{
	size_t got;
	*n = 0;
	*bytes = r->plain;
	*at = r->at;
	if (r->ended)
		return KT_OK;
	KT_TRY(read_at(r->fd, r->path, r->at, r->sealed, r->chunk + KT_SEAL_TAG, &got, err));
	bool last = r->at + got >= r->size;
	if (got < KT_SEAL_TAG || (got - KT_SEAL_TAG < r->chunk && !last))
		return kt_fail(err, KT_E_INPUT, bad_remedy, "%s is cut off in chunk %llu", r->path,
			       (unsigned long long)r->number);
	KT_TRY(open_chunk(r, got - KT_SEAL_TAG, last, err));
	r->number++;
	r->at += got;
	r->ended = last;
	*at = r->at;
	*n = got - KT_SEAL_TAG;
	return KT_OK;
}

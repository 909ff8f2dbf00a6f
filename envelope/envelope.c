/* SPDX-License-Identifier: Apache-2.0 */
#include "envelope/envelope.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Where the fields are; docs/FORMATS.md, "Envelope", has the same numbers. */
enum {
	AT_MAGIC = 0,
	AT_VERSION = 4,
	AT_ALGORITHM = 5,
	AT_RESERVED = 6,
	AT_ID = 8,
	AT_CONTENT_LEN = 24,
	AT_CONTENT_NONCE = 32,
	AT_KEK_ID = KT_ENVELOPE_FIXED_LEN,
	AT_WRAP_NONCE = AT_KEK_ID + KT_KEK_ID_LEN,
	AT_DEK = AT_WRAP_NONCE + 12,
	AT_WRAP_TAG = AT_DEK + 32,
	AT_CONTENT = KT_ENVELOPE_HEAD_LEN
};

enum { VERSION = 1, AES_256_GCM = 1, NONCE_LEN = 12, DEK_LEN = 32, POOL = 4096, DEK_POOL = 15 };

_Static_assert(AT_WRAP_TAG + KT_ENVELOPE_TAG_LEN == KT_ENVELOPE_HEAD_LEN, "the fields fill the header");
_Static_assert(AT_CONTENT_NONCE + NONCE_LEN == KT_ENVELOPE_FIXED_LEN, "the fields fill the fixed header");

static const uint8_t magic[4] = {'K', 'T', 'E', 'V'};

struct kt_envelope_ctx {
	EVP_CIPHER *gcm;
	EVP_CIPHER_CTX *wrap;   /* encrypts under the KEK: its key schedule stays */
	EVP_CIPHER_CTX *unwrap; /* decrypts under the KEK: its key schedule stays */
	EVP_CIPHER_CTX *seal;   /* encrypts under one DEK after the other */
	EVP_CIPHER_CTX *open;   /* decrypts under one DEK after the other */
	kt_secret dek;          /* of the item at hand */
	uint8_t kek_id[KT_KEK_ID_LEN];
	/* Random bytes, each used once: a call of the generator costs as much as a small item. */
	uint8_t pool[POOL]; /* for nonces and ids */
	size_t pool_left;
	kt_secret deks; /* DEK_POOL of them, which fill a block of 512 bytes of the secure heap */
	size_t deks_left;
	unsigned forks; /* what `forks` was when the pools were filled */
};

/* How many forks are between the first process and this one. A child has what is left in its parent's pools, and must
 * not use it: the parent does. */
static atomic_uint forks;

static void count_fork(void)
{
	atomic_fetch_add(&forks, 1);
}

static int fork_watch; /* errno of setting it up */

static void watch_forks(void)
{
	fork_watch = pthread_atfork(NULL, NULL, count_fork);
}

/* What a GCM operation covers and where its parts are. Additional data is `head` followed by the item's name. */
typedef struct gcm_job {
	const uint8_t *nonce;
	const uint8_t *head;
	size_t head_len;
	const char *name;
	const uint8_t *in;
	size_t len;
	uint8_t *out;
} gcm_job;

static void be64_put(uint8_t *p, uint64_t v)
{
	for (int i = 7; i >= 0; i--, v >>= 8)
		p[i] = (uint8_t)v;
}

static uint64_t be64_get(const uint8_t *p)
{
	uint64_t v = 0;
	for (int i = 0; i < 8; i++)
		v = v << 8 | p[i];
	return v;
}

static kt_code crypto_failed(kt_err *err)
{
	return kt_fail(err, KT_E_INTERNAL, NULL, "libcrypto failed in AES-256-GCM");
}

/* `key` may be NULL: the one that the context has. 1 on success, as libcrypto. */
static int gcm_encrypt(EVP_CIPHER_CTX *c, const kt_secret *key, const gcm_job *job, uint8_t tag[KT_ENVELOPE_TAG_LEN])
{
	int n = 0;
	if (EVP_EncryptInit_ex2(c, NULL, key ? key->data : NULL, job->nonce, NULL) != 1 ||
	    EVP_EncryptUpdate(c, NULL, &n, job->head, (int)job->head_len) != 1 ||
	    EVP_EncryptUpdate(c, NULL, &n, (const uint8_t *)job->name, (int)strlen(job->name)) != 1)
		return 0;
	if (job->len && EVP_EncryptUpdate(c, job->out, &n, job->in, (int)job->len) != 1)
		return 0;
	uint8_t none[KT_ENVELOPE_TAG_LEN];
	if (EVP_EncryptFinal_ex(c, none, &n) != 1)
		return 0;
	return EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, KT_ENVELOPE_TAG_LEN, tag);
}

/* 1: the tag is right. 0: it is not, and `out` is not to be used. */
static int gcm_decrypt(EVP_CIPHER_CTX *c, const kt_secret *key, const gcm_job *job,
		       const uint8_t tag[KT_ENVELOPE_TAG_LEN])
{
	int n = 0;
	uint8_t expect[KT_ENVELOPE_TAG_LEN];
	memcpy(expect, tag, sizeof expect);
	if (EVP_DecryptInit_ex2(c, NULL, key ? key->data : NULL, job->nonce, NULL) != 1 ||
	    EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, KT_ENVELOPE_TAG_LEN, expect) != 1 ||
	    EVP_DecryptUpdate(c, NULL, &n, job->head, (int)job->head_len) != 1 ||
	    EVP_DecryptUpdate(c, NULL, &n, (const uint8_t *)job->name, (int)strlen(job->name)) != 1)
		return 0;
	if (job->len && EVP_DecryptUpdate(c, job->out, &n, job->in, (int)job->len) != 1)
		return 0;
	uint8_t none[KT_ENVELOPE_TAG_LEN];
	return EVP_DecryptFinal_ex(c, none, &n) == 1;
}

static kt_code random_failed(kt_err *err)
{
	return kt_fail(err, KT_E_INTERNAL, NULL, "the random generator failed");
}

static void empty_if_forked(kt_envelope_ctx *ctx)
{
	unsigned now = atomic_load_explicit(&forks, memory_order_relaxed);
	if (ctx->forks == now)
		return;
	ctx->forks = now;
	ctx->pool_left = ctx->deks_left = 0;
}

/* n random bytes that are no secret. */
static kt_code next_random(kt_envelope_ctx *ctx, uint8_t *out, size_t n, kt_err *err)
{
	empty_if_forked(ctx);
	if (ctx->pool_left < n) {
		if (RAND_bytes(ctx->pool, sizeof ctx->pool) != 1)
			return random_failed(err);
		ctx->pool_left = sizeof ctx->pool;
	}
	ctx->pool_left -= n;
	memcpy(out, ctx->pool + ctx->pool_left, n);
	return KT_OK;
}

/* A new DEK into ctx->dek. */
static kt_code next_dek(kt_envelope_ctx *ctx, kt_err *err)
{
	empty_if_forked(ctx);
	if (ctx->deks_left == 0) {
		if (RAND_priv_bytes(ctx->deks.data, (int)ctx->deks.len) != 1)
			return random_failed(err);
		ctx->deks_left = DEK_POOL;
	}
	uint8_t *dek = ctx->deks.data + --ctx->deks_left * DEK_LEN;
	memcpy(ctx->dek.data, dek, DEK_LEN);
	OPENSSL_cleanse(dek, DEK_LEN);
	return KT_OK;
}

static bool keyed(EVP_CIPHER_CTX *c, const EVP_CIPHER *gcm, const kt_secret *key, int encrypt)
{
	return c && EVP_CipherInit_ex2(c, gcm, key ? key->data : NULL, NULL, encrypt, NULL) == 1;
}

kt_code kt_envelope_ctx_new(const kt_kek *kek, kt_envelope_ctx **out, kt_err *err)
{
	*out = NULL;
	if (kek->key.len != KT_KEK_LEN)
		return kt_fail(err, KT_E_KEY, NULL, "a KEK has %d bytes, this one %zu", (int)KT_KEK_LEN, kek->key.len);
	kt_envelope_ctx *ctx = calloc(1, sizeof *ctx);
	if (!ctx)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	memcpy(ctx->kek_id, kek->id, KT_KEK_ID_LEN);
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	(void)pthread_once(&once, watch_forks);
	kt_code rc = fork_watch == 0 ? KT_OK : kt_fail_errno(err, fork_watch, NULL, "forks cannot be watched");
	if (rc == KT_OK)
		rc = kt_secret_new(&ctx->dek, DEK_LEN, err);
	if (rc == KT_OK)
		rc = kt_secret_new(&ctx->deks, (size_t)DEK_POOL * DEK_LEN, err);
	ctx->gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
	ctx->wrap = EVP_CIPHER_CTX_new();
	ctx->unwrap = EVP_CIPHER_CTX_new();
	ctx->seal = EVP_CIPHER_CTX_new();
	ctx->open = EVP_CIPHER_CTX_new();
	if (rc == KT_OK &&
	    (!ctx->gcm || !keyed(ctx->wrap, ctx->gcm, &kek->key, 1) || !keyed(ctx->unwrap, ctx->gcm, &kek->key, 0) ||
	     !keyed(ctx->seal, ctx->gcm, NULL, 1) || !keyed(ctx->open, ctx->gcm, NULL, 0)))
		rc = crypto_failed(err);
	if (rc == KT_OK)
		*out = ctx;
	else
		kt_envelope_ctx_free(ctx);
	return rc;
}

void kt_envelope_ctx_free(kt_envelope_ctx *ctx)
{
	if (!ctx)
		return;
	EVP_CIPHER_CTX_free(ctx->open);
	EVP_CIPHER_CTX_free(ctx->seal);
	EVP_CIPHER_CTX_free(ctx->unwrap);
	EVP_CIPHER_CTX_free(ctx->wrap);
	EVP_CIPHER_free(ctx->gcm);
	kt_secret_free(&ctx->deks);
	kt_secret_free(&ctx->dek);
	OPENSSL_cleanse(ctx, sizeof *ctx);
	free(ctx);
}

static kt_code check_name(const char *name, kt_err *err)
{
	size_t n = strnlen(name, KT_ENVELOPE_NAME_MAX + 1);
	if (n == 0 || n > KT_ENVELOPE_NAME_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "the name of an item has 1 to %d bytes",
			       (int)KT_ENVELOPE_NAME_MAX);
	return KT_OK;
}

/* The header of an envelope of `total` bytes; `e` has at least the first KT_ENVELOPE_HEAD_LEN of them if total has. */
static kt_code parse(const uint8_t *e, size_t total, kt_err *err)
{
	if (total < KT_ENVELOPE_OVERHEAD)
		return kt_fail(err, KT_E_INPUT, NULL, "envelope: ends at offset %zu, the shortest has %d bytes", total,
			       (int)KT_ENVELOPE_OVERHEAD);
	if (memcmp(e + AT_MAGIC, magic, sizeof magic) != 0)
		return kt_fail(err, KT_E_INPUT, NULL, "envelope: does not begin with KTEV (offset %d)", (int)AT_MAGIC);
	if (e[AT_VERSION] != VERSION)
		return kt_fail(err, KT_E_INPUT, "use a newer keyturn", "envelope: version %u is not known (offset %d)",
			       e[AT_VERSION], (int)AT_VERSION);
	if (e[AT_ALGORITHM] != AES_256_GCM)
		return kt_fail(err, KT_E_INPUT, NULL, "envelope: algorithm %u is not known (offset %d)",
			       e[AT_ALGORITHM], (int)AT_ALGORITHM);
	if (e[AT_RESERVED] != 0 || e[AT_RESERVED + 1] != 0)
		return kt_fail(err, KT_E_INPUT, NULL, "envelope: reserved bytes are not zero (offset %d)",
			       (int)AT_RESERVED);
	uint64_t n = be64_get(e + AT_CONTENT_LEN);
	if (n > KT_ENVELOPE_CONTENT_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "envelope: a content of %llu bytes is too long (offset %d)",
			       (unsigned long long)n, (int)AT_CONTENT_LEN);
	if (n != total - KT_ENVELOPE_OVERHEAD)
		return kt_fail(err, KT_E_INPUT, NULL,
			       "envelope: the header says %llu bytes of content, there are %zu (offset %d)",
			       (unsigned long long)n, total - KT_ENVELOPE_OVERHEAD, (int)AT_CONTENT_LEN);
	return KT_OK;
}

static void hex(const uint8_t *p, size_t n, char *out)
{
	static const char digit[] = "0123456789abcdef";
	for (size_t i = 0; i < n; i++) {
		out[2 * i] = digit[p[i] >> 4];
		out[2 * i + 1] = digit[p[i] & 15];
	}
	out[2 * n] = '\0';
}

kt_code kt_envelope_inspect(const void *envelope, size_t len, kt_envelope_info *info, kt_err *err)
{
	const uint8_t *e = envelope;
	*info = (kt_envelope_info){0};
	KT_TRY(parse(e, len, err));
	info->version = e[AT_VERSION];
	info->content_len = len - KT_ENVELOPE_OVERHEAD;
	hex(e + AT_ID, KT_ENVELOPE_ID_LEN, info->id);
	hex(e + AT_KEK_ID, KT_KEK_ID_LEN, info->kek_id);
	return KT_OK;
}

/* Wrap ctx->dek into the changeable part of `head`, whose fixed part is there already. */
static kt_code wrap_dek(kt_envelope_ctx *ctx, const char *name, const kt_secret *dek, uint8_t *head, kt_err *err)
{
	memcpy(head + AT_KEK_ID, ctx->kek_id, KT_KEK_ID_LEN);
	KT_TRY(next_random(ctx, head + AT_WRAP_NONCE, NONCE_LEN, err));
	gcm_job job = {.nonce = head + AT_WRAP_NONCE,
		       .head = head,
		       .head_len = AT_WRAP_NONCE,
		       .name = name,
		       .in = dek->data,
		       .len = DEK_LEN,
		       .out = head + AT_DEK};
	return gcm_encrypt(ctx->wrap, NULL, &job, head + AT_WRAP_TAG) == 1 ? KT_OK : crypto_failed(err);
}

/* The DEK of a parsed header into ctx->dek. */
static kt_code unwrap_dek(kt_envelope_ctx *ctx, const char *name, const uint8_t *head, kt_err *err)
{
	if (memcmp(head + AT_KEK_ID, ctx->kek_id, KT_KEK_ID_LEN) != 0) {
		char has[KT_KEK_ID_HEX], ours[KT_KEK_ID_HEX];
		hex(head + AT_KEK_ID, KT_KEK_ID_LEN, has);
		hex(ctx->kek_id, KT_KEK_ID_LEN, ours);
		return kt_fail(err, KT_E_KEY, NULL, "envelope: it is under the KEK %s, not under %s (offset %d)", has,
			       ours, (int)AT_KEK_ID);
	}
	gcm_job job = {.nonce = head + AT_WRAP_NONCE,
		       .head = head,
		       .head_len = AT_WRAP_NONCE,
		       .name = name,
		       .in = head + AT_DEK,
		       .len = DEK_LEN,
		       .out = ctx->dek.data};
	if (gcm_decrypt(ctx->unwrap, NULL, &job, head + AT_WRAP_TAG) == 1)
		return KT_OK;
	OPENSSL_cleanse(ctx->dek.data, DEK_LEN);
	return kt_fail(err, KT_E_INPUT, "restore the item from a backup",
		       "envelope: its header was altered, or it belongs to another item (tag at offset %d)",
		       (int)AT_WRAP_TAG);
}

/* The whole envelope into `e`, which has room for it. */
static kt_code fill(kt_envelope_ctx *ctx, const char *name, const void *plain, size_t len, uint8_t *e, kt_err *err)
{
	memcpy(e + AT_MAGIC, magic, sizeof magic);
	e[AT_VERSION] = VERSION;
	e[AT_ALGORITHM] = AES_256_GCM;
	e[AT_RESERVED] = e[AT_RESERVED + 1] = 0;
	be64_put(e + AT_CONTENT_LEN, len);
	KT_TRY(next_random(ctx, e + AT_CONTENT_NONCE, NONCE_LEN, err));
	KT_TRY(next_random(ctx, e + AT_ID, KT_ENVELOPE_ID_LEN, err));
	KT_TRY(next_dek(ctx, err));
	KT_TRY(wrap_dek(ctx, name, &ctx->dek, e, err));
	gcm_job job = {.nonce = e + AT_CONTENT_NONCE,
		       .head = e,
		       .head_len = KT_ENVELOPE_FIXED_LEN,
		       .name = name,
		       .in = plain,
		       .len = len,
		       .out = e + AT_CONTENT};
	return gcm_encrypt(ctx->seal, &ctx->dek, &job, e + AT_CONTENT + len) == 1 ? KT_OK : crypto_failed(err);
}

static kt_code check_content(size_t len, kt_err *err)
{
	if (len <= KT_ENVELOPE_CONTENT_MAX)
		return KT_OK;
	return kt_fail(err, KT_E_INPUT, NULL, "an item has at most %d bytes, this one %zu",
		       (int)KT_ENVELOPE_CONTENT_MAX, len);
}

kt_code kt_envelope_seal_at(kt_envelope_ctx *ctx, const char *name, const void *plain, size_t len, uint8_t *out,
			    kt_err *err)
{
	KT_TRY(check_name(name, err));
	KT_TRY(check_content(len, err));
	kt_code rc = fill(ctx, name, plain, len, out, err);
	OPENSSL_cleanse(ctx->dek.data, DEK_LEN);
	return rc;
}

kt_code kt_envelope_seal(kt_envelope_ctx *ctx, const char *name, const void *plain, size_t len, kt_buf *out,
			 kt_err *err)
{
	KT_TRY(check_content(len, err));
	KT_TRY(kt_buf_reserve(out, KT_ENVELOPE_OVERHEAD + len, err));
	kt_code rc = kt_envelope_seal_at(ctx, name, plain, len, out->data + out->len, err);
	if (rc == KT_OK)
		out->len += KT_ENVELOPE_OVERHEAD + len;
	out->data[out->len] = '\0';
	return rc;
}

/* The content of a parsed envelope into `out`, which has room for it and may be where it stands. */
static kt_code open_content(kt_envelope_ctx *ctx, const char *name, const uint8_t *e, size_t n, uint8_t *out,
			    kt_err *err)
{
	KT_TRY(unwrap_dek(ctx, name, e, err));
	gcm_job job = {.nonce = e + AT_CONTENT_NONCE,
		       .head = e,
		       .head_len = KT_ENVELOPE_FIXED_LEN,
		       .name = name,
		       .in = e + AT_CONTENT,
		       .len = n,
		       .out = out};
	int good = gcm_decrypt(ctx->open, &ctx->dek, &job, e + AT_CONTENT + n);
	OPENSSL_cleanse(ctx->dek.data, DEK_LEN);
	if (good == 1)
		return KT_OK;
	OPENSSL_cleanse(out, n);
	return kt_fail(err, KT_E_INPUT, "restore the item from a backup",
		       "envelope: its content was altered (tag at offset %zu)", AT_CONTENT + n);
}

kt_code kt_envelope_open_at(kt_envelope_ctx *ctx, const char *name, const void *envelope, size_t len, uint8_t *out,
			    kt_err *err)
{
	KT_TRY(check_name(name, err));
	KT_TRY(parse(envelope, len, err));
	return open_content(ctx, name, envelope, len - KT_ENVELOPE_OVERHEAD, out, err);
}

kt_code kt_envelope_open(kt_envelope_ctx *ctx, const char *name, const void *envelope, size_t len, kt_buf *out,
			 kt_err *err)
{
	size_t n = len > KT_ENVELOPE_OVERHEAD ? len - KT_ENVELOPE_OVERHEAD : 0;
	KT_TRY(kt_buf_reserve(out, n, err));
	kt_code rc = kt_envelope_open_at(ctx, name, envelope, len, out->data + out->len, err);
	if (rc == KT_OK)
		out->len += n;
	out->data[out->len] = '\0';
	return rc;
}

kt_code kt_envelope_reseal(kt_envelope_ctx *from, kt_envelope_ctx *to, const char *name, uint8_t *envelope, size_t len,
			   kt_err *err)
{
	KT_TRY(check_name(name, err));
	KT_TRY(parse(envelope, len, err));
	size_t n = len - KT_ENVELOPE_OVERHEAD;
	uint8_t *content = envelope + AT_CONTENT;
	KT_TRY(open_content(from, name, envelope, n, content, err));
	kt_code rc = fill(to, name, content, n, envelope, err);
	OPENSSL_cleanse(to->dek.data, DEK_LEN);
	if (rc != KT_OK)
		OPENSSL_cleanse(content, n);
	return rc;
}

kt_code kt_envelope_rewrap(kt_envelope_ctx *from, kt_envelope_ctx *to, const char *name,
			   uint8_t head[KT_ENVELOPE_HEAD_LEN], size_t total, kt_err *err)
{
	KT_TRY(check_name(name, err));
	KT_TRY(parse(head, total, err));
	KT_TRY(unwrap_dek(from, name, head, err));
	uint8_t fresh[KT_ENVELOPE_HEAD_LEN];
	memcpy(fresh, head, KT_ENVELOPE_FIXED_LEN);
	kt_code rc = wrap_dek(to, name, &from->dek, fresh, err);
	OPENSSL_cleanse(from->dek.data, DEK_LEN);
	if (rc == KT_OK)
		memcpy(head, fresh, KT_ENVELOPE_HEAD_LEN);
	return rc;
}

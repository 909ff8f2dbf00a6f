/* SPDX-License-Identifier: Apache-2.0 */
#include "base/secret.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

enum { HEAP_MOST = 64 * 1024, HEAP_LEAST = 16 * 1024, HEAP_MIN_BLOCK = 32, SECRET_MAX = 16384 };

kt_code kt_secret_setup(kt_err *err)
{
	struct rlimit none = {0, 0};
	if (setrlimit(RLIMIT_CORE, &none) != 0)
		return kt_fail_errno(err, errno, NULL, "core dumps cannot be turned off");
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
		return kt_fail_errno(err, errno, NULL, "the process cannot be made undumpable");
	return kt_secret_heap(err);
}

kt_code kt_secret_heap(kt_err *err)
{
	if (CRYPTO_secure_malloc_initialized())
		return KT_OK;
	/* 1: set up and locked; 2: set up, but a part (mlock or a guard page) failed. An ordinary user of a small
	 * system may lock 64 KiB in all. */
	for (size_t size = HEAP_MOST; size >= HEAP_LEAST; size /= 2) {
		int got = CRYPTO_secure_malloc_init(size, HEAP_MIN_BLOCK);
		if (got == 1)
			return KT_OK;
		if (got != 0)
			(void)CRYPTO_secure_malloc_done();
	}
	return kt_fail(err, KT_E_INTERNAL, "raise RLIMIT_MEMLOCK (ulimit -l) to at least 64 KiB",
		       "memory for keys cannot be locked");
}

kt_code kt_secret_new(kt_secret *s, size_t len, kt_err *err)
{
	*s = KT_SECRET_INIT;
	if (len == 0 || len > SECRET_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "a secret of %zu bytes is not supported (1 to %d)", len,
			       (int)SECRET_MAX);
	s->data = OPENSSL_secure_zalloc(len + 1);
	if (!s->data)
		return kt_fail(err, KT_E_INTERNAL, NULL, "locked memory is exhausted");
	s->len = s->cap = len;
	return KT_OK;
}

kt_code kt_secret_copy(kt_secret *s, const void *bytes, size_t len, kt_err *err)
{
	KT_TRY(kt_secret_new(s, len, err));
	memcpy(s->data, bytes, len);
	return KT_OK;
}

kt_code kt_secret_random(kt_secret *s, size_t len, kt_err *err)
{
	KT_TRY(kt_secret_new(s, len, err));
	if (RAND_priv_bytes(s->data, (int)len) == 1)
		return KT_OK;
	kt_secret_free(s);
	return kt_fail(err, KT_E_INTERNAL, NULL, "the random generator failed");
}

/* RAND_add(3) does the same and does not say whether it did. The generators that RAND_bytes and RAND_priv_bytes take
 * from are children of the primary one: they seed themselves from it before their next output. */
kt_code kt_secret_stir(const kt_secret *bytes, kt_err *err)
{
	EVP_RAND_CTX *primary = RAND_get0_primary(NULL);
	if (primary && EVP_RAND_reseed(primary, 0, NULL, 0, bytes->data, bytes->len) == 1)
		return KT_OK;
	return kt_fail(err, KT_E_INTERNAL, NULL, "the random generator could not be seeded anew");
}

void kt_secret_free(kt_secret *s)
{
	if (!s || !s->data)
		return;
	OPENSSL_secure_clear_free(s->data, s->cap + 1);
	*s = KT_SECRET_INIT;
}

bool kt_secret_equal(const kt_secret *a, const kt_secret *b)
{
	return a->len == b->len && (a->len == 0 || CRYPTO_memcmp(a->data, b->data, a->len) == 0);
}

kt_code kt_secret_read_fd(kt_secret *s, int fd, size_t max, const char *name, kt_err *err)
{
	KT_TRY(kt_secret_new(s, max + 1, err));
	size_t got = 0;
	while (got <= max) {
		ssize_t n = read(fd, s->data + got, max + 1 - got);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int e = errno;
			kt_secret_free(s);
			return kt_fail_errno(err, e, NULL, "%s cannot be read", name);
		}
		if (n == 0)
			break;
		got += (size_t)n;
	}
	if (got > max) {
		kt_secret_free(s);
		return kt_fail(err, KT_E_INPUT, NULL, "%s is larger than %zu bytes", name, max);
	}
	s->len = got;
	s->data[got] = '\0';
	return KT_OK;
}

kt_code kt_secret_to_base64(const kt_secret *in, kt_secret *text, kt_err *err)
{
	KT_TRY(kt_secret_new(text, (in->len + 2) / 3 * 4, err));
	(void)EVP_EncodeBlock(text->data, in->data, (int)in->len);
	return KT_OK;
}

static bool base64_alphabet(uint8_t c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '/';
}

/* Length of the text without its trailing newline; 0 when it is not canonical base64. */
static size_t base64_length(const kt_secret *text, size_t *pad)
{
	size_t n = text->len;
	if (n && text->data[n - 1] == '\n')
		n--;
	if (n && text->data[n - 1] == '\r')
		n--;
	if (n == 0 || n % 4 != 0)
		return 0;
	*pad = text->data[n - 1] != '=' ? 0 : text->data[n - 2] != '=' ? 1 : 2;
	for (size_t i = 0; i < n - *pad; i++)
		if (!base64_alphabet(text->data[i]))
			return 0;
	return n;
}

kt_code kt_secret_from_base64(const kt_secret *text, kt_secret *out, kt_err *err)
{
	size_t pad = 0;
	size_t n = base64_length(text, &pad);
	if (n == 0)
		return kt_fail(err, KT_E_INPUT, NULL, "not base64");
	KT_TRY(kt_secret_new(out, n / 4 * 3, err));
	if (EVP_DecodeBlock(out->data, text->data, (int)n) != (int)(n / 4 * 3)) {
		kt_secret_free(out);
		return kt_fail(err, KT_E_INPUT, NULL, "not base64");
	}
	out->len -= pad;
	out->data[out->len] = '\0';
	return KT_OK;
}

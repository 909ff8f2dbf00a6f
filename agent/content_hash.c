/* SPDX-License-Identifier: Apache-2.0 */
/* The hash of a file's content, plain or without its holes: the contract is in manifest.h. */
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/manifest.h"

enum { BLOCK = 64 * 1024 };

/* Invariants: (1) everything below `at` has been fed; (2) sparse: block[] holds the bytes from the start of at's block
 * up to at, zeros behind. */
struct kt_content_hash {
	EVP_MD_CTX *md;
	bool sparse;
	uint64_t at;
	uint8_t block[BLOCK];
};

static const uint8_t zeros[BLOCK];

kt_code kt_content_hash_new(bool sparse, kt_content_hash **out, kt_err *err)
{
	kt_content_hash *h = calloc(1, sizeof *h);
	if (h)
		h->md = EVP_MD_CTX_new();
	if (!h || !h->md || EVP_DigestInit_ex(h->md, EVP_sha256(), NULL) != 1) {
		kt_content_hash_free(h);
		return kt_fail(err, KT_E_INTERNAL, NULL, "SHA-256 is not available");
	}
	h->sparse = sparse;
	*out = h;
	return KT_OK;
}

void kt_content_hash_free(kt_content_hash *h)
{
	if (!h)
		return;
	EVP_MD_CTX_free(h->md);
	free(h);
}

static kt_code update(kt_content_hash *h, const void *bytes, size_t n, kt_err *err)
{
	if (EVP_DigestUpdate(h->md, bytes, n) != 1)
		return kt_fail(err, KT_E_INTERNAL, NULL, "SHA-256 failed");
	return KT_OK;
}

/* The block that ends at (or holds) `at` is complete: take it in unless it is all zeros. */
static kt_code close_block(kt_content_hash *h, uint64_t number, kt_err *err)
{
	if (memcmp(h->block, zeros, BLOCK) == 0)
		return KT_OK;
	uint8_t be[8];
	for (int i = 0; i < 8; i++)
		be[i] = (uint8_t)(number >> (56 - 8 * i));
	KT_TRY(update(h, be, sizeof be, err));
	KT_TRY(update(h, h->block, BLOCK, err));
	memset(h->block, 0, BLOCK);
	return KT_OK;
}

static kt_code skip_to(kt_content_hash *h, uint64_t offset, kt_err *err)
{
	if (h->sparse) {
		if (offset / BLOCK != h->at / BLOCK)
			KT_TRY(close_block(h, h->at / BLOCK, err));
		h->at = offset;
	}
	while (h->at < offset) {
		size_t n = offset - h->at < BLOCK ? (size_t)(offset - h->at) : BLOCK;
		KT_TRY(update(h, zeros, n, err));
		h->at += n;
	}
	return KT_OK;
}

kt_code kt_content_hash_feed(kt_content_hash *h, uint64_t offset, const void *bytes, size_t n, kt_err *err)
{
	if (offset < h->at)
		return kt_fail(err, KT_E_INPUT, NULL, "content out of order");
	KT_TRY(skip_to(h, offset, err));
	if (!h->sparse) {
		h->at += n;
		return update(h, bytes, n, err);
	}
	for (const uint8_t *p = bytes; n;) {
		size_t from = (size_t)(h->at % BLOCK);
		size_t take = n < BLOCK - from ? n : BLOCK - from;
		memcpy(h->block + from, p, take);
		p += take;
		n -= take;
		h->at += take;
		if (h->at % BLOCK == 0)
			KT_TRY(close_block(h, h->at / BLOCK - 1, err));
	}
	return KT_OK;
}

static kt_code finish(kt_content_hash *h, uint64_t size, char out[KT_SHA256_HEX], kt_err *err)
{
	if (h->at > size)
		return kt_fail(err, KT_E_INPUT, NULL, "more content than its size");
	KT_TRY(skip_to(h, size, err));
	if (h->sparse && h->at % BLOCK)
		KT_TRY(close_block(h, h->at / BLOCK, err));
	uint8_t sum[KT_SHA256_LEN];
	if (EVP_DigestFinal_ex(h->md, sum, NULL) != 1)
		return kt_fail(err, KT_E_INTERNAL, NULL, "SHA-256 failed");
	kt_buf hex = KT_BUF_INIT;
	kt_code rc = kt_hex_encode(sum, sizeof sum, &hex, err);
	if (rc == KT_OK)
		memcpy(out, hex.data, KT_SHA256_HEX);
	kt_buf_free(&hex);
	return rc;
}

kt_code kt_content_hash_end(kt_content_hash *h, uint64_t size, char out[KT_SHA256_HEX], kt_err *err)
{
	kt_code rc = finish(h, size, out, err);
	kt_content_hash_free(h);
	return rc;
}

/* Where the next data begins at or after `at`, so that holes are not read; `at` itself where holes are not known. */
static off_t next_data(int fd, off_t at, uint64_t size)
{
	off_t data = lseek(fd, at, SEEK_DATA);
	if (data < 0)
		return errno == ENXIO ? (off_t)size : at;
	return data;
}

static kt_code feed_fd(kt_content_hash *h, int fd, const char *path, bool sparse, uint64_t size, kt_err *err)
{
	enum { CHUNK = 256 * 1024 };
	uint8_t *chunk = malloc(CHUNK);
	if (!chunk)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = KT_OK;
	for (off_t at = 0; rc == KT_OK;) {
		if (sparse && (uint64_t)at < size)
			at = next_data(fd, at, size);
		ssize_t n = pread(fd, chunk, CHUNK, at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			rc = kt_fail_errno(err, errno, NULL, "%s cannot be read", path);
		if (n <= 0)
			break;
		rc = kt_content_hash_feed(h, (uint64_t)at, chunk, (size_t)n, err);
		at += n;
		if ((uint64_t)at > size)
			break;
	}
	free(chunk);
	return rc;
}

kt_code kt_content_hash_fd(int fd, const char *path, bool sparse, uint64_t size, char out[KT_SHA256_HEX], kt_err *err)
{
	off_t end = lseek(fd, 0, SEEK_END);
	if (end < 0)
		return kt_fail_errno(err, errno, NULL, "%s cannot be read", path);
	if ((uint64_t)end != size)
		return kt_fail(err, KT_E_INPUT, NULL, "%s: its size has changed", path);
	kt_content_hash *h;
	KT_TRY(kt_content_hash_new(sparse, &h, err));
	kt_code rc = feed_fd(h, fd, path, sparse, size, err);
	if (rc == KT_OK)
		rc = kt_content_hash_end(h, size, out, err);
	else
		kt_content_hash_free(h);
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "%s", path);
}

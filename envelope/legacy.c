/* SPDX-License-Identifier: Apache-2.0 */
#include "envelope/legacy.h"

#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>

/* Where the fields are; docs/FORMATS.md, "Envelope", has the same numbers. */
enum { AT_IV = 4, AT_CONTENT = 20, BLOCK = 16 };

static const uint8_t magic[AT_IV] = {'K', 'T', 'L', '1'};

bool kt_legacy_is(const void *bytes, size_t len)
{
	return len >= sizeof magic && memcmp(bytes, magic, sizeof magic) == 0;
}

static kt_code check(const kt_secret *key, const void *bytes, size_t len, kt_err *err)
{
	if (key->len != KT_LEGACY_KEY_LEN)
		return kt_fail(err, KT_E_KEY, NULL, "a legacy key has %d bytes, this one %zu", (int)KT_LEGACY_KEY_LEN,
			       key->len);
	if (!kt_legacy_is(bytes, len))
		return kt_fail(err, KT_E_INPUT, NULL, "legacy form: does not begin with KTL1 (offset 0)");
	if (len < AT_CONTENT + BLOCK || len > INT_MAX || (len - AT_CONTENT) % BLOCK != 0)
		return kt_fail(err, KT_E_INPUT, "restore the item from a backup",
			       "legacy form: %zu bytes are not a header and whole blocks", len);
	return KT_OK;
}

/* The length of the content, -1 on failure. */
static int decrypt(EVP_CIPHER_CTX *c, const kt_secret *key, const uint8_t *e, size_t len, uint8_t *out)
{
	int n = 0, last = 0;
	if (!c || EVP_DecryptInit_ex2(c, EVP_aes_128_cbc(), key->data, e + AT_IV, NULL) != 1 ||
	    EVP_DecryptUpdate(c, out, &n, e + AT_CONTENT, (int)(len - AT_CONTENT)) != 1 ||
	    EVP_DecryptFinal_ex(c, out + n, &last) != 1)
		return -1;
	return n + last;
}

kt_code kt_legacy_open(const kt_secret *key, const void *bytes, size_t len, kt_buf *out, kt_err *err)
{
	KT_TRY(check(key, bytes, len, err));
	KT_TRY(kt_buf_reserve(out, len, err));
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	int n = decrypt(c, key, bytes, len, out->data + out->len);
	EVP_CIPHER_CTX_free(c);
	if (n >= 0)
		out->len += (size_t)n;
	else
		OPENSSL_cleanse(out->data + out->len, len);
	out->data[out->len] = '\0';
	return n >= 0 ? KT_OK
		      : kt_fail(err, KT_E_INPUT, "restore the item from a backup",
				"legacy form: it was altered, or is under another key (its padding is wrong)");
}

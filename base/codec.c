/* SPDX-License-Identifier: Apache-2.0 */
#include "base/codec.h"

#include <openssl/evp.h>
#include <string.h>

static const char digits[] = "0123456789abcdef";

kt_code kt_hex_encode(const void *bytes, size_t n, kt_buf *out, kt_err *err)
{
	const uint8_t *p = bytes;
	KT_TRY(kt_buf_reserve(out, 2 * n, err));
	for (size_t i = 0; i < n; i++) {
		out->data[out->len++] = (uint8_t)digits[p[i] >> 4];
		out->data[out->len++] = (uint8_t)digits[p[i] & 15];
	}
	out->data[out->len] = '\0';
	return KT_OK;
}

static int nibble(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

kt_code kt_hex_decode(const char *text, size_t n, kt_buf *out, kt_err *err)
{
	if (n % 2)
		return kt_fail(err, KT_E_INPUT, NULL, "hex of odd length");
	for (size_t i = 0; i < n; i++)
		if (nibble(text[i]) < 0)
			return kt_fail(err, KT_E_INPUT, NULL, "not hex");
	KT_TRY(kt_buf_reserve(out, n / 2, err));
	for (size_t i = 0; i < n; i += 2) {
		int hi = nibble(text[i]);
		int lo = nibble(text[i + 1]);
		out->data[out->len++] = (uint8_t)(hi << 4 | lo);
	}
	out->data[out->len] = '\0';
	return KT_OK;
}

kt_code kt_base64_encode(const void *bytes, size_t n, kt_buf *out, kt_err *err)
{
	if (n > KT_BUF_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "too much for base64");
	KT_TRY(kt_buf_reserve(out, (n + 2) / 3 * 4, err));
	out->len += (size_t)EVP_EncodeBlock(out->data + out->len, n ? bytes : "", (int)n);
	return KT_OK;
}

kt_code kt_base64_decode(const char *text, size_t n, kt_buf *out, kt_err *err)
{
	static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	if (n == 0)
		return KT_OK;
	size_t pad = n % 4 ? 0 : text[n - 1] != '=' ? 0 : text[n - 2] != '=' ? 1 : 2;
	if (n % 4 || n > KT_BUF_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "not base64");
	for (size_t i = 0; i < n - pad; i++)
		if (!text[i] || !strchr(alphabet, text[i]))
			return kt_fail(err, KT_E_INPUT, NULL, "not base64");
	/* The bits of the last character that belong to no byte must be 0: one text for one value (RFC 4648 §3.5). */
	size_t spare = pad ? (size_t)(strchr(alphabet, text[n - pad - 1]) - alphabet) & (pad == 1 ? 3 : 15) : 0;
	if (spare)
		return kt_fail(err, KT_E_INPUT, NULL, "not base64");
	KT_TRY(kt_buf_reserve(out, n / 4 * 3, err));
	int got = EVP_DecodeBlock(out->data + out->len, (const unsigned char *)text, (int)n);
	if (got < 0)
		return kt_fail(err, KT_E_INPUT, NULL, "not base64");
	out->len += (size_t)got - pad;
	out->data[out->len] = '\0';
	return KT_OK;
}

kt_code kt_sha256(const void *bytes, size_t n, uint8_t out[KT_SHA256_LEN], kt_err *err)
{
	if (EVP_Digest(n ? bytes : "", n, out, NULL, EVP_sha256(), NULL) != 1)
		return kt_fail(err, KT_E_INTERNAL, NULL, "SHA-256 is not available");
	return KT_OK;
}

kt_code kt_sha256_hex(const void *bytes, size_t n, char out[KT_SHA256_HEX], kt_err *err)
{
	uint8_t sum[KT_SHA256_LEN];
	KT_TRY(kt_sha256(bytes, n, sum, err));
	for (size_t i = 0; i < sizeof sum; i++) {
		out[2 * i] = digits[sum[i] >> 4];
		out[2 * i + 1] = digits[sum[i] & 15];
	}
	out[2 * sizeof sum] = '\0';
	return KT_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Hex, base64 and SHA-256 for bytes that are not secret. (For secrets: kt_secret_to_base64.) */
#ifndef KT_BASE_CODEC_H
#define KT_BASE_CODEC_H

#include "base/buf.h"

enum { KT_SHA256_LEN = 32, KT_SHA256_HEX = 65 };

/* Lower-case hex appended to `out`; decoding takes both cases and refuses odd lengths and other characters. */
KT_MUST_CHECK kt_code kt_hex_encode(const void *bytes, size_t n, kt_buf *out, kt_err *err);
KT_MUST_CHECK kt_code kt_hex_decode(const char *text, size_t n, kt_buf *out, kt_err *err);
/* base64, RFC 4648 §4, padded, no line breaks; decoding is strict. */
KT_MUST_CHECK kt_code kt_base64_encode(const void *bytes, size_t n, kt_buf *out, kt_err *err);
KT_MUST_CHECK kt_code kt_base64_decode(const char *text, size_t n, kt_buf *out, kt_err *err);
/* SHA-256 (FIPS 180-4) as bytes and as lower-case hex with a closing NUL. */
KT_MUST_CHECK kt_code kt_sha256(const void *bytes, size_t n, uint8_t out[KT_SHA256_LEN], kt_err *err);
KT_MUST_CHECK kt_code kt_sha256_hex(const void *bytes, size_t n, char out[KT_SHA256_HEX], kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The data types of ssh (RFC 4251 §5): reading from a span, writing to a buffer. */
#ifndef KT_ORCHESTRATOR_FLEET_SSHBYTES_H
#define KT_ORCHESTRATOR_FLEET_SSHBYTES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

/* Borrowed bytes; reading takes them off the front. */
typedef struct kt_bytes {
	const uint8_t *at;
	size_t len;
} kt_bytes;

/* false when there are not enough bytes; `in` is then as before. */
bool kt_bytes_u8(kt_bytes *in, uint8_t *out);
bool kt_bytes_u32(kt_bytes *in, uint32_t *out);
bool kt_bytes_string(kt_bytes *in, kt_bytes *out);
/* Are these the characters of `text`? */
bool kt_bytes_is(const kt_bytes *bytes, const char *text);

KT_MUST_CHECK kt_code kt_bytes_put_u32(kt_buf *out, uint32_t v, kt_err *err);
/* Its length and the bytes. */
KT_MUST_CHECK kt_code kt_bytes_put(kt_buf *out, const void *bytes, size_t n, kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kt_buf: the one owning byte buffer. Bounded, grows by doubling, wiped whenever its memory is given back.
 * Holds text and bytes that are not keys; keys live in kt_secret (base/secret.h).
 */
#ifndef KT_BASE_BUF_H
#define KT_BASE_BUF_H

#include <stdbool.h>
#include <stdint.h>

#include "base/result.h"

/*
 * Invariants: (1) len <= cap <= max; (2) data is NULL exactly when cap is 0;
 * (3) data[len] is '\0' whenever data is not NULL, so that a buffer of text is also a C string.
 */
typedef struct kt_buf {
	uint8_t *data;
	size_t len; /* bytes used */
	size_t cap; /* bytes allocated, the closing '\0' not counted */
	size_t max; /* bytes that it may ever hold; 0 means KT_BUF_MAX */
} kt_buf;

enum { KT_BUF_MAX = 64 * 1024 * 1024 };

#define KT_BUF_INIT ((kt_buf){0})

/* Room for `extra` further bytes; KT_E_INPUT when the bound would be passed. */
KT_MUST_CHECK kt_code kt_buf_reserve(kt_buf *b, size_t extra, kt_err *err);
/* The same, cheap where there is room already. */
KT_MUST_CHECK static inline kt_code kt_buf_room(kt_buf *b, size_t extra, kt_err *err)
{
	return b->data && extra <= b->cap - b->len ? KT_OK : kt_buf_reserve(b, extra, err);
}
KT_MUST_CHECK kt_code kt_buf_append(kt_buf *b, const void *bytes, size_t n, kt_err *err);
KT_MUST_CHECK kt_code kt_buf_str(kt_buf *b, const char *s, kt_err *err);
KT_MUST_CHECK kt_code kt_buf_printf(kt_buf *b, kt_err *err, const char *fmt, ...) KT_PRINTF(3, 4);

/* Drop the first n bytes (n <= len). */
void kt_buf_consume(kt_buf *b, size_t n);
/* Wipe and forget the content, keep the memory. */
void kt_buf_clear(kt_buf *b);
/* Wipe and free; `b` may be NULL and may be used again afterwards. */
void kt_buf_free(kt_buf *b);
/* The content as a C string, "" when empty. Owned by the buffer. */
const char *kt_buf_cstr(const kt_buf *b);
/* Hand the bytes to the caller, who frees them with free(); the buffer is empty afterwards. Never NULL unless out of
 * memory. */
char *kt_buf_steal(kt_buf *b);
/* The invariants, executed; for tests and debug builds. */
bool kt_buf_sane(const kt_buf *b);

#endif

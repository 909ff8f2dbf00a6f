/* SPDX-License-Identifier: Apache-2.0 */
#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t bound(const kt_buf *b)
{
	return b->max ? b->max : KT_BUF_MAX;
}

bool kt_buf_sane(const kt_buf *b)
{
	if (b->len > b->cap || b->cap > bound(b) || (b->data == NULL) != (b->cap == 0))
		return false;
	return !b->data || b->data[b->len] == '\0';
}

kt_code kt_buf_reserve(kt_buf *b, size_t extra, kt_err *err)
{
	size_t max = bound(b);
	if (extra > max || b->len > max - extra)
		return kt_fail(err, KT_E_INPUT, NULL, "more than %zu bytes where no more are allowed", max);
	size_t need = b->len + extra;
	if (need <= b->cap && b->data)
		return KT_OK;
	size_t cap = b->cap ? b->cap : 1024;
	while (cap < need)
		cap *= 2;
	if (cap > max)
		cap = max;
	if (cap == 0)
		cap = 1;
	uint8_t *fresh = malloc(cap + 1);
	if (!fresh)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (b->data) {
		memcpy(fresh, b->data, b->len);
		explicit_bzero(b->data, b->cap);
		free(b->data);
	}
	fresh[b->len] = '\0';
	b->data = fresh;
	b->cap = cap;
	return KT_OK;
}

kt_code kt_buf_append(kt_buf *b, const void *bytes, size_t n, kt_err *err)
{
	KT_TRY(kt_buf_room(b, n, err));
	if (n)
		memcpy(b->data + b->len, bytes, n);
	b->len += n;
	b->data[b->len] = '\0';
	return KT_OK;
}

kt_code kt_buf_str(kt_buf *b, const char *s, kt_err *err)
{
	return kt_buf_append(b, s, strlen(s), err);
}

kt_code kt_buf_printf(kt_buf *b, kt_err *err, const char *fmt, ...)
{
	va_list ap;
	KT_TRY(kt_buf_room(b, 0, err)); /* what it has at first is mostly enough */
	size_t room = b->cap - b->len + 1;
	va_start(ap, fmt);
	int n = vsnprintf((char *)b->data + b->len, room, fmt, ap);
	va_end(ap);
	if (n < 0)
		return kt_fail(err, KT_E_INTERNAL, NULL, "bad format");
	if ((size_t)n < room) {
		b->len += (size_t)n;
		return KT_OK;
	}
	b->data[b->len] = '\0'; /* as it was, should there be no room */
	KT_TRY(kt_buf_reserve(b, (size_t)n, err));
	va_start(ap, fmt);
	(void)vsnprintf((char *)b->data + b->len, (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->len += (size_t)n;
	return KT_OK;
}

void kt_buf_consume(kt_buf *b, size_t n)
{
	if (!b->data || n == 0)
		return;
	if (n > b->len)
		n = b->len;
	memmove(b->data, b->data + n, b->len - n);
	explicit_bzero(b->data + b->len - n, n);
	b->len -= n;
	b->data[b->len] = '\0';
}

void kt_buf_clear(kt_buf *b)
{
	if (b->data)
		explicit_bzero(b->data, b->cap);
	b->len = 0;
}

void kt_buf_free(kt_buf *b)
{
	if (!b || !b->data)
		return;
	explicit_bzero(b->data, b->cap);
	free(b->data);
	b->data = NULL;
	b->len = b->cap = 0;
}

const char *kt_buf_cstr(const kt_buf *b)
{
	return b->data ? (const char *)b->data : "";
}

char *kt_buf_steal(kt_buf *b)
{
	char *out = b->data ? (char *)b->data : calloc(1, 1);
	b->data = NULL;
	b->len = b->cap = 0;
	return out;
}

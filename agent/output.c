/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/output.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/utf8.h"

static kt_code keep_tail(kt_output *o, const uint8_t *bytes, size_t n, kt_err *err)
{
	if (o->tail_max == 0)
		return KT_OK;
	if (n > o->tail_max) {
		bytes += n - o->tail_max;
		n = o->tail_max;
	}
	size_t over = o->tail.len + n > o->tail_max ? o->tail.len + n - o->tail_max : 0;
	kt_buf_consume(&o->tail, over);
	return kt_buf_append(&o->tail, bytes, n, err);
}

static kt_code keep_out(kt_output *o, const uint8_t *bytes, size_t n, kt_err *err)
{
	size_t room = o->out_max - o->out.len;
	if (n > room) {
		o->out_cut = true;
		n = room;
	}
	return kt_buf_append(&o->out, bytes, n, err);
}

/* Scrubbed bytes go to all who want them. */
static kt_code pass(kt_output *o, int stream, const uint8_t *bytes, size_t n, kt_err *err)
{
	if (n == 0)
		return KT_OK;
	if (o->match)
		(void)kt_match_feed(o->match, (unsigned)(stream - 1), bytes, n);
	if (o->fd >= 0 && !o->fd_failed)
		o->fd_failed = kt_file_write_all(o->fd, bytes, n, "the output", NULL) != KT_OK;
	KT_TRY(keep_tail(o, bytes, n, err));
	return stream == 1 ? keep_out(o, bytes, n, err) : KT_OK;
}

static kt_code scrub_and_pass(kt_output *o, int stream, bool last, kt_err *err)
{
	kt_buf *held = &o->held[stream - 1];
	if (held->len == 0)
		return KT_OK;
	held->len = kt_log_scrub(held->data, held->len);
	held->data[held->len] = '\0';
	size_t go = last ? held->len : held->len - kt_log_open_end(held->data, held->len);
	KT_TRY(pass(o, stream, held->data, go, err));
	kt_buf_consume(held, go);
	return KT_OK;
}

kt_code kt_output_feed(kt_output *o, int stream, const uint8_t *bytes, size_t n, kt_err *err)
{
	KT_TRY(kt_buf_append(&o->held[stream - 1], bytes, n, err));
	return scrub_and_pass(o, stream, false, err);
}

kt_code kt_output_end(kt_output *o, kt_err *err)
{
	KT_TRY(scrub_and_pass(o, 1, true, err));
	KT_TRY(scrub_and_pass(o, 2, true, err));
	kt_text_clean(&o->tail);
	kt_text_clean(&o->out);
	return KT_OK;
}

void kt_output_free(kt_output *o)
{
	kt_buf_free(&o->tail);
	kt_buf_free(&o->out);
	kt_buf_free(&o->held[0]);
	kt_buf_free(&o->held[1]);
}

void kt_text_clean(kt_buf *b)
{
	size_t cut = 0;
	while (cut < b->len && cut < 3 && (b->data[cut] & 0xc0) == 0x80)
		cut++;
	kt_buf_consume(b, cut);
	size_t from = 0;
	for (size_t bad; from < b->len && !kt_utf8_valid(b->data + from, b->len - from, &bad);) {
		b->data[from + bad] = '?';
		from += bad;
	}
	size_t w = 0;
	for (size_t r = 0; r < b->len; r++) {
		uint8_t c = b->data[r];
		if (c != '\r')
			b->data[w++] = (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f ? '?' : c;
	}
	if (b->data)
		b->data[w] = '\0';
	b->len = w;
}

typedef struct line {
	const char *at;
	int len;
} line;

/* The last two lines that are not blank; empty ones where there are none. */
static void find_last(const char *text, line *before, line *last)
{
	*before = *last = (line){"", 0};
	for (const char *p = text; *p;) {
		int n = (int)strcspn(p, "\n"), blank = (int)strspn(p, " \t");
		if (blank < n) {
			*before = *last;
			*last = (line){p, n};
		}
		p += n;
		p += *p == '\n';
	}
}

void kt_text_last_line(const char *text, char *out, size_t size)
{
	line before, last;
	find_last(text, &before, &last);
	(void)snprintf(out, size, "%.*s", last.len, last.at);
}

void kt_text_last_lines(const char *text, char *out, size_t size)
{
	line before, last;
	find_last(text, &before, &last);
	for (; last.len && strchr(" \t", *last.at) && before.len; last.at++)
		last.len--;
	(void)snprintf(out, size, "%.*s%s%.*s", before.len, before.at, before.len ? "; " : "", last.len, last.at);
}

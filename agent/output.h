/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a command prints, on its way to a file, a tail and a matcher: registered keys are replaced (base/log.h) also
 * where they arrive in pieces, so that nothing behind this holds one. Only what may be the beginning of a key is held
 * back: people see the rest as it comes.
 */
#ifndef KT_AGENT_OUTPUT_H
#define KT_AGENT_OUTPUT_H

#include "agent/match.h"

/* Fill in what is wanted, leave the rest zero; fd -1 for no file. Free with kt_output_free. */
typedef struct kt_output {
	size_t tail_max;  /* bytes of the end that are kept, both streams in order of arrival */
	size_t out_max;   /* bytes of the beginning of stdout that are kept */
	kt_match *match;  /* borrowed; lane 0 is stdout, lane 1 stderr */
	int fd;           /* borrowed: everything is written there */
	kt_buf tail, out; /* the results; out is whole only when !out_cut */
	bool out_cut;
	bool fd_failed; /* something could not be written (full disk); the rest is not written either */
	kt_buf held[2]; /* not yet scrubbed; private */
} kt_output;

/* stream 1 or 2. Secrets must have been registered before the first call. KT_E_INTERNAL: out of memory. */
KT_MUST_CHECK kt_code kt_output_feed(kt_output *o, int stream, const uint8_t *bytes, size_t n, kt_err *err);
/* The end: what was held back goes on, and the texts are made valid UTF-8 without control characters. */
KT_MUST_CHECK kt_code kt_output_end(kt_output *o, kt_err *err);
void kt_output_free(kt_output *o);

/* Make `b` printable text in place: bytes that are not UTF-8 and control characters other than newline and tab become
 * '?'; a carriage return goes. A sequence that is cut at the front is dropped. */
void kt_text_clean(kt_buf *b);
/* Copy the last line that is not blank, cut to `size`; "" when there is none. */
void kt_text_last_line(const char *text, char *out, size_t size);
/* The same of the last two, "; " between them: many programs say first what is wrong, and then what to do. */
void kt_text_last_lines(const char *text, char *out, size_t size);

#endif

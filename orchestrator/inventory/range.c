/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/inventory/range.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum {
	PARTS = 8,  /* brackets in one pattern */
	RUNS = 256, /* comma-separated pieces in one bracket */
	DIGITS = 9, /* of one number */
	NAME = 256, /* bytes of one expanded name */
	PATTERN_MAX = NAME * 4
};

/* One piece between commas: first to last, padded to `width` digits. */
typedef struct run {
	unsigned long first, last;
	int width;
} run;

/* Text, then a bracket (no runs: the rest of the pattern). */
typedef struct part {
	const char *text;
	size_t text_len;
	run *runs;
	size_t runs_count;
	size_t count; /* how many numbers the bracket stands for */
} part;

typedef struct pattern {
	const char *text;
	part parts[PARTS + 1];
	size_t count;
} pattern;

static void pattern_free(pattern *p)
{
	for (size_t i = 0; i <= PARTS; i++)
		free(p->parts[i].runs);
}

static kt_code bad(const char *text, kt_err *err, const char *why)
{
	return kt_fail(err, KT_E_INPUT, "a range looks like web[01-16] or web[1,3,7-9]", "\"%.80s\": %s", text, why);
}

/* A number of at most DIGITS digits at *p, which moves behind it. Its number of digits, 0 when there is none. */
static int number(const char **p, unsigned long *value)
{
	int digits = 0;
	*value = 0;
	for (; isdigit((unsigned char)**p) && digits <= DIGITS; ++*p, digits++)
		*value = *value * 10 + (unsigned long)(**p - '0');
	return digits <= DIGITS ? digits : 0;
}

static kt_code parse_run(const char *text, const char **p, run *out, kt_err *err)
{
	unsigned long first;
	int width = number(p, &first);
	if (!width)
		return bad(text, err, "a number (at most 9 digits) is missing in the brackets");
	*out = (run){.first = first, .last = first, .width = width};
	if (**p != '-')
		return KT_OK;
	++*p;
	int last_width = number(p, &out->last);
	if (!last_width)
		return bad(text, err, "the range has no end");
	if (out->last < first)
		return bad(text, err, "the range runs backwards");
	if (last_width < width)
		return bad(text, err, "the end of the range has fewer digits than its beginning");
	return KT_OK;
}

/* The bracket at *p (behind its `[`), up to and with its `]`. */
static kt_code parse_bracket(const char *text, const char **p, size_t limit, part *out, kt_err *err)
{
	out->runs = calloc(RUNS, sizeof(run));
	if (!out->runs)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	for (;;) {
		if (out->runs_count == RUNS)
			return bad(text, err, "too many pieces in one bracket");
		run *r = &out->runs[out->runs_count++];
		KT_TRY(parse_run(text, p, r, err));
		out->count += r->last - r->first + 1;
		if (out->count > limit)
			return kt_fail(err, KT_E_INPUT, NULL, "\"%.80s\" stands for more than %zu names", text, limit);
		if (**p == ']')
			break;
		if (**p != ',')
			return bad(text, err,
				   **p ? "neither a number, a comma nor a dash in the brackets" : "a [ has no ]");
		++*p;
	}
	++*p;
	return KT_OK;
}

static kt_code parse_pattern(const char *text, size_t limit, pattern *out, size_t *total, kt_err *err)
{
	*out = (pattern){.text = text};
	*total = 1;
	if (!*text || strlen(text) > PATTERN_MAX)
		return bad(text, err, *text ? "too long" : "the name is empty");
	const char *p = text;
	for (;;) {
		part *now = &out->parts[out->count++];
		now->text = p;
		now->text_len = strcspn(p, "[]");
		p += now->text_len;
		if (!*p)
			return KT_OK;
		if (*p == ']')
			return bad(text, err, "a ] has no [");
		if (out->count > PARTS)
			return bad(text, err, "too many brackets");
		p++;
		KT_TRY(parse_bracket(text, &p, limit, now, err));
		*total *= now->count;
		if (*total > limit)
			return kt_fail(err, KT_E_INPUT, NULL, "\"%.80s\" stands for more than %zu names", text, limit);
	}
}

/* The index-th number of a bracket. */
static kt_code append_number(const part *p, size_t index, kt_buf *name, kt_err *err)
{
	const run *r = p->runs;
	for (; index > r->last - r->first; r++)
		index -= r->last - r->first + 1;
	return kt_buf_printf(name, err, "%0*lu", r->width, r->first + index);
}

static kt_code nth_name(const pattern *p, size_t n, kt_buf *name, kt_err *err)
{
	size_t index[PARTS + 1] = {0};
	for (size_t i = p->count; i-- > 0;) {
		if (!p->parts[i].runs)
			continue;
		index[i] = n % p->parts[i].count;
		n /= p->parts[i].count;
	}
	kt_buf_clear(name);
	for (size_t i = 0; i < p->count; i++) {
		KT_TRY(kt_buf_append(name, p->parts[i].text, p->parts[i].text_len, err));
		if (p->parts[i].runs)
			KT_TRY(append_number(&p->parts[i], index[i], name, err));
	}
	return KT_OK;
}

kt_code kt_range_expand(const char *text, size_t limit, kt_range_visit visit, void *cookie, kt_err *err)
{
	pattern p;
	size_t total = 0;
	kt_buf name = {.max = PATTERN_MAX};
	kt_code rc = parse_pattern(text, limit, &p, &total, err);
	for (size_t i = 0; rc == KT_OK && i < total; i++) {
		rc = nth_name(&p, i, &name, err);
		if (rc == KT_OK)
			rc = visit(cookie, kt_buf_cstr(&name), err);
	}
	kt_buf_free(&name);
	pattern_free(&p);
	return rc;
}

/* --- The other way ---------------------------------------------------------------------------------------------------
 */

/* A name as text, its last number, text. */
typedef struct split {
	const char *name;
	size_t head; /* bytes before the number */
	int width;   /* digits; 0: there is no number */
	unsigned long value;
	const char *tail;
} split;

static split split_name(const char *name)
{
	size_t end = strlen(name);
	while (end && !isdigit((unsigned char)name[end - 1]))
		end--;
	size_t head = end;
	while (head && isdigit((unsigned char)name[head - 1]) && end - head < DIGITS)
		head--;
	split s = {.name = name, .head = head, .width = (int)(end - head), .tail = name + end};
	const char *p = name + head;
	if (s.width)
		(void)number(&p, &s.value);
	return s;
}

/* Is `b` the name right after `a`, written in the same width? */
static bool follows(const split *a, const split *b)
{
	if (!a->width || !b->width || a->head != b->head || b->value != a->value + 1)
		return false;
	bool padded = a->name[a->head] == '0' || b->name[b->head] == '0';
	if (a->width != b->width && (padded || b->width != a->width + 1))
		return false;
	return memcmp(a->name, b->name, a->head) == 0 && strcmp(a->tail, b->tail) == 0;
}

kt_code kt_range_fold(const char *const *names, size_t n, kt_buf *out, kt_err *err)
{
	for (size_t i = 0; i < n;) {
		split first = split_name(names[i]);
		split last = first;
		size_t j = i + 1;
		for (; j < n; j++) {
			split next = split_name(names[j]);
			if (!follows(&last, &next))
				break;
			last = next;
		}
		if (i)
			KT_TRY(kt_buf_str(out, " ", err));
		if (j - i == 1)
			KT_TRY(kt_buf_str(out, names[i], err));
		else
			KT_TRY(kt_buf_printf(out, err, "%.*s[%.*s-%.*s]%s", (int)first.head, first.name, first.width,
					     first.name + first.head, last.width, last.name + last.head, first.tail));
		i = j;
	}
	return KT_OK;
}

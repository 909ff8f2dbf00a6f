/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/match.h"

#include <stdlib.h>
#include <string.h>

#include "agent/action.h"

typedef struct text {
	char *bytes;
	size_t len;
	bool lacks;
	bool seen;
} text;

struct kt_match {
	text texts[KT_MATCH_TEXTS];
	size_t n;
	size_t longest;
	/* The end of what a lane has brought, shorter than the longest text. */
	uint8_t rest[KT_MATCH_LANES][KT_MATCH_TEXT];
	size_t rest_len[KT_MATCH_LANES];
};

static kt_code add_text(kt_match *m, const char *s, bool lacks, kt_err *err)
{
	size_t len = strlen(s);
	if (len == 0 || len > KT_MATCH_TEXT)
		return kt_fail(err, KT_E_INPUT, NULL, "a text to look for must have 1 to %d bytes, this has %zu",
			       (int)KT_MATCH_TEXT, len);
	if (m->n == KT_MATCH_TEXTS)
		return kt_fail(err, KT_E_INPUT, NULL, "more than %d texts to look for", (int)KT_MATCH_TEXTS);
	char *copy = strdup(s);
	if (!copy)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	m->texts[m->n++] = (text){.bytes = copy, .len = len, .lacks = lacks};
	if (len > m->longest)
		m->longest = len;
	return KT_OK;
}

static kt_code add_texts(kt_match *m, const cJSON *from, const char *name, kt_err *err)
{
	const cJSON *list;
	KT_TRY(kt_arg_strings(from, name, &list, err));
	const cJSON *item;
	cJSON_ArrayForEach(item, list) KT_TRY(add_text(m, item->valuestring, name[0] == 'l', err));
	return KT_OK;
}

kt_code kt_match_new(const cJSON *from, kt_match **out, kt_err *err)
{
	*out = NULL;
	kt_match *m = calloc(1, sizeof *m);
	if (!m)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = from ? add_texts(m, from, "has", err) : KT_OK;
	if (rc == KT_OK && from)
		rc = add_texts(m, from, "lacks", err);
	if (rc == KT_OK)
		*out = m;
	else
		kt_match_free(m);
	return rc;
}

void kt_match_free(kt_match *m)
{
	for (size_t i = 0; m && i < m->n; i++)
		free(m->texts[i].bytes);
	free(m);
}

static bool look(kt_match *m, const void *bytes, size_t n)
{
	bool fresh = false;
	for (size_t i = 0; i < m->n; i++) {
		text *t = &m->texts[i];
		if (t->seen || !memmem(bytes, n, t->bytes, t->len))
			continue;
		t->seen = fresh = true;
	}
	return fresh;
}

/* Keep the last longest-1 bytes of rest ‖ bytes. */
static void keep(kt_match *m, unsigned lane, const uint8_t *bytes, size_t n)
{
	size_t want = m->longest - 1;
	uint8_t *rest = m->rest[lane];
	size_t *len = &m->rest_len[lane];
	if (n >= want) {
		memcpy(rest, bytes + n - want, want);
		*len = want;
		return;
	}
	size_t old = want - n < *len ? want - n : *len;
	memmove(rest, rest + *len - old, old);
	memcpy(rest + old, bytes, n);
	*len = old + n;
}

bool kt_match_feed(kt_match *m, unsigned lane, const void *bytes, size_t n)
{
	if (m->longest == 0 || n == 0)
		return false;
	/* What began in the rest ends within the first longest-1 new bytes. */
	uint8_t seam[2 * KT_MATCH_TEXT];
	size_t head = n < m->longest - 1 ? n : m->longest - 1;
	memcpy(seam, m->rest[lane], m->rest_len[lane]);
	memcpy(seam + m->rest_len[lane], bytes, head);
	bool fresh = look(m, seam, m->rest_len[lane] + head);
	fresh |= look(m, bytes, n);
	keep(m, lane, bytes, n);
	return fresh;
}

void kt_match_break(kt_match *m, unsigned lane)
{
	m->rest_len[lane] = 0;
}

const char *kt_match_missing(const kt_match *m)
{
	for (size_t i = 0; i < m->n; i++)
		if (!m->texts[i].lacks && !m->texts[i].seen)
			return m->texts[i].bytes;
	return NULL;
}

const char *kt_match_forbidden(const kt_match *m)
{
	for (size_t i = 0; i < m->n; i++)
		if (m->texts[i].lacks && m->texts[i].seen)
			return m->texts[i].bytes;
	return NULL;
}

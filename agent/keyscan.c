/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/keyscan.h"

#include <stdlib.h>
#include <string.h>

enum { KEYS_MAX = 32, KEY_MIN = 16, KEY_MAX = 64, SHAPES = 5, SHAPE_MAX = 2 * KEY_MAX };

/*
 * Invariants: (1) seam holds the last seam_len bytes of the stream, fewer than `reach`; (2) reach is the length of the
 * longest pattern, 0 when there is none.
 */
struct kt_keyscan {
	kt_secret patterns[KEYS_MAX * SHAPES];
	size_t n;
	size_t reach;
	kt_secret seam; /* room for twice the reach */
	size_t seam_len;
	bool found;
};

static kt_code add_hex(kt_keyscan *s, const kt_secret *key, const char *digits, kt_err *err)
{
	kt_secret *p = &s->patterns[s->n];
	KT_TRY(kt_secret_new(p, 2 * key->len, err));
	s->n++;
	for (size_t i = 0; i < key->len; i++) {
		p->data[2 * i] = (uint8_t)digits[key->data[i] >> 4];
		p->data[2 * i + 1] = (uint8_t)digits[key->data[i] & 15];
	}
	return KT_OK;
}

/* Without padding, so that it is found with and without. */
static kt_code add_base64(kt_keyscan *s, const kt_secret *key, bool url, kt_err *err)
{
	kt_secret *p = &s->patterns[s->n];
	KT_TRY(kt_secret_to_base64(key, p, err));
	s->n++;
	while (p->len && p->data[p->len - 1] == '=')
		p->len--;
	for (size_t i = 0; url && i < p->len; i++)
		p->data[i] = p->data[i] == '+' ? '-' : p->data[i] == '/' ? '_' : p->data[i];
	return KT_OK;
}

static kt_code add_key(kt_keyscan *s, const kt_secret *key, kt_err *err)
{
	if (key->len < KEY_MIN || key->len > KEY_MAX)
		return kt_fail(err, KT_E_KEY, NULL, "a key of %zu bytes cannot be looked for", key->len);
	KT_TRY(kt_secret_copy(&s->patterns[s->n], key->data, key->len, err));
	s->n++;
	KT_TRY(add_hex(s, key, "0123456789abcdef", err));
	KT_TRY(add_hex(s, key, "0123456789ABCDEF", err));
	KT_TRY(add_base64(s, key, false, err));
	KT_TRY(add_base64(s, key, true, err));
	if (s->reach < 2 * key->len)
		s->reach = 2 * key->len;
	return KT_OK;
}

kt_code kt_keyscan_new(const kt_secret *keys, size_t n, kt_keyscan **out, kt_err *err)
{
	if (n > KEYS_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "more than %d keys to look for", (int)KEYS_MAX);
	kt_keyscan *s = calloc(1, sizeof *s);
	if (!s)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = KT_OK;
	for (size_t i = 0; rc == KT_OK && i < n; i++)
		rc = add_key(s, &keys[i], err);
	if (rc == KT_OK && n)
		rc = kt_secret_new(&s->seam, 2 * s->reach, err);
	if (rc != KT_OK) {
		kt_keyscan_free(s);
		return rc;
	}
	*out = s;
	return KT_OK;
}

void kt_keyscan_free(kt_keyscan *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n; i++)
		kt_secret_free(&s->patterns[i]);
	kt_secret_free(&s->seam);
	free(s);
}

void kt_keyscan_reset(kt_keyscan *s)
{
	if (s->seam.data)
		memset(s->seam.data, 0, s->seam.len);
	s->seam_len = 0;
	s->found = false;
}

static bool search(const kt_keyscan *s, const uint8_t *bytes, size_t n)
{
	for (size_t i = 0; i < s->n; i++)
		if (memmem(bytes, n, s->patterns[i].data, s->patterns[i].len))
			return true;
	return false;
}

/* Keep the last reach-1 bytes of seam and bytes together. */
static void keep_tail(kt_keyscan *s, const uint8_t *bytes, size_t n)
{
	size_t keep = s->reach - 1;
	if (n >= keep) {
		memcpy(s->seam.data, bytes + n - keep, keep);
		s->seam_len = keep;
		return;
	}
	size_t old = s->seam_len + n > keep ? keep - n : s->seam_len;
	memmove(s->seam.data, s->seam.data + s->seam_len - old, old);
	memcpy(s->seam.data + old, bytes, n);
	s->seam_len = old + n;
}

bool kt_keyscan_feed(kt_keyscan *s, const void *bytes, size_t n)
{
	if (s->found || s->n == 0 || n == 0)
		return s->found;
	size_t lead = n < s->reach - 1 ? n : s->reach - 1;
	memcpy(s->seam.data + s->seam_len, bytes, lead);
	s->found = search(s, s->seam.data, s->seam_len + lead) || search(s, bytes, n);
	keep_tail(s, bytes, n);
	return s->found;
}

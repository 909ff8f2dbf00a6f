/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looks for keys in a stream of bytes: raw, as base64 (standard and URL alphabet, padded or not) and as hex (lower or
 * upper case), also where they lie across the chunks in which the stream comes. Content that is itself compressed or
 * encrypted is not looked into.
 */
#ifndef KT_AGENT_KEYSCAN_H
#define KT_AGENT_KEYSCAN_H

#include <stdbool.h>

#include "base/secret.h"

typedef struct kt_keyscan kt_keyscan;

/* `keys` are raw bytes, 16 to 64 each (KT_E_KEY otherwise); at most 32. n may be 0: then nothing is ever found.
 * Patterns are kept in the secure heap. *out is the caller's: kt_keyscan_free. */
KT_MUST_CHECK kt_code kt_keyscan_new(const kt_secret *keys, size_t n, kt_keyscan **out, kt_err *err);
void kt_keyscan_free(kt_keyscan *s);
/* Begin another stream. */
void kt_keyscan_reset(kt_keyscan *s);
/* The next bytes; true as soon as a key has been seen since the last reset. */
bool kt_keyscan_feed(kt_keyscan *s, const void *bytes, size_t n);

#endif

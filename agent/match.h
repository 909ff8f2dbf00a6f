/* SPDX-License-Identifier: Apache-2.0 */
/* Texts looked for in streams of any length with bounded memory: the "has" and "lacks" of expect and log.check. */
#ifndef KT_AGENT_MATCH_H
#define KT_AGENT_MATCH_H

#include "base/json.h"

typedef struct kt_match kt_match;

enum { KT_MATCH_TEXTS = 64, KT_MATCH_TEXT = 1024, KT_MATCH_LANES = 2 };

/* From the members "has" and "lacks" (arrays of 1..1024 byte strings, at most 64 together) of an object, which may be
 * NULL. *out is the caller's: kt_match_free. KT_E_INPUT. */
KT_MUST_CHECK kt_code kt_match_new(const cJSON *from, kt_match **out, kt_err *err);
void kt_match_free(kt_match *m);
/* The next bytes of a stream; lane 0 or 1: a text does not reach from one lane into the other. True when a text of
 * "has" or "lacks" was seen for the first time. */
bool kt_match_feed(kt_match *m, unsigned lane, const void *bytes, size_t n);
/* A break in a stream: a text does not reach across it. */
void kt_match_break(kt_match *m, unsigned lane);
/* The first text of "has" that was not seen; NULL when all were. */
const char *kt_match_missing(const kt_match *m);
/* The first text of "lacks" that was seen; NULL when none was. */
const char *kt_match_forbidden(const kt_match *m);

#endif

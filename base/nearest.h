/* SPDX-License-Identifier: Apache-2.0 */
/*
 * "Did you mean …": the known name that is nearest to a mistyped one (optimal string alignment distance: a wrong, a
 * missing, an extra letter and two swapped ones cost 1 each).
 */
#ifndef KT_BASE_NEAREST_H
#define KT_BASE_NEAREST_H

#include <stddef.h>

/* Start with KT_NEAREST(word), offer candidates, read `best`: NULL when none is near enough (a third of the word's
 * length, at least 1 and at most 3 changes). Nothing is copied: the texts must outlive it. Of two equally near ones the
 * first stays. */
typedef struct kt_nearest {
	const char *word;
	const char *best;
	size_t distance; /* of best */
} kt_nearest;

#define KT_NEAREST(w) ((kt_nearest){.word = (w)})

void kt_nearest_offer(kt_nearest *n, const char *candidate);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/nearest.h"

#include <string.h>

enum { LONGEST = 64 }; /* longer names are no candidates */

static size_t min2(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Optimal string alignment distance, three rows kept: before, above, current. */
static size_t distance(const char *a, size_t na, const char *b, size_t nb)
{
	size_t rows[3][LONGEST + 1] = {{0}};
	size_t *before = rows[0];
	size_t *above = rows[1];
	size_t *row = rows[2];
	for (size_t j = 0; j <= nb; j++)
		above[j] = j;
	for (size_t i = 1; i <= na; i++) {
		row[0] = i;
		for (size_t j = 1; j <= nb; j++) {
			size_t wrong = a[i - 1] != b[j - 1];
			row[j] = min2(min2(above[j] + 1, row[j - 1] + 1), above[j - 1] + wrong);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				row[j] = min2(row[j], before[j - 2] + 1);
		}
		size_t *spare = before;
		before = above;
		above = row;
		row = spare;
	}
	return above[nb];
}

static size_t tolerance(size_t length)
{
	size_t third = length / 3;
	return third < 1 ? 1 : min2(third, 3);
}

void kt_nearest_offer(kt_nearest *n, const char *candidate)
{
	size_t na = strlen(n->word);
	size_t nb = strlen(candidate);
	if (na == 0 || na > LONGEST || nb > LONGEST)
		return;
	size_t d = distance(n->word, na, candidate, nb);
	if (d > tolerance(na) || (n->best && d >= n->distance))
		return;
	n->best = candidate;
	n->distance = d;
}

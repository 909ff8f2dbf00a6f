/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ranges in names: `web[01-16]`, `r[1-2]n[08-11]` (the last varies fastest), `db[1,3,7-9]`. The width of a range's
 * first number pads the others (`[08-11]`: 08 09 10 11). Pure.
 */
#ifndef KT_INVENTORY_RANGE_H
#define KT_INVENTORY_RANGE_H

#include "base/buf.h"

typedef kt_code (*kt_range_visit)(void *cookie, const char *name, kt_err *err);

/* Call `visit` for every name that `pattern` stands for, at most `limit` of them; stops at the first failure.
 * KT_E_INPUT says what is wrong with the pattern (unbalanced, empty, backwards, not a number, more than `limit`);
 * nothing was visited then. */
KT_MUST_CHECK kt_code kt_range_expand(const char *pattern, size_t limit, kt_range_visit visit, void *cookie,
				      kt_err *err);

/* The other way, for people: "web[01-03] db1 db3" for these names, in their order. Only the last number of a name is
 * folded. Appended to `out`. */
KT_MUST_CHECK kt_code kt_range_fold(const char *const *names, size_t n, kt_buf *out, kt_err *err);

#endif

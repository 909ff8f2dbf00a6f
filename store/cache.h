/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The on-disk cache of recently read items: their envelopes, as sealed as in the database (docs/FORMATS.md,
 * "keyturn-store"). An entry is good for one version of its item and one epoch of the database; a rekey raises the
 * epoch and removes the files. 256 slots, so it cannot grow without bound. Nothing depends on it: whatever is wrong
 * with an entry makes it a miss.
 */
#ifndef KT_STORE_CACHE_H
#define KT_STORE_CACHE_H

#include <stdbool.h>

#include "base/buf.h"

/* `folder` NULL: there is no cache, and these do nothing. True on a hit: the envelope is appended. */
bool kt_cache_get(const char *folder, const char *name, int64_t epoch, int64_t version, kt_buf *envelope);
void kt_cache_put(const char *folder, const char *name, int64_t epoch, int64_t version, const kt_buf *envelope);
/* Remove every entry. *removed may be NULL. KT_E_IO. */
KT_MUST_CHECK kt_code kt_cache_clear(const char *folder, size_t *removed, kt_err *err);
/* Remove the entries of other epochs: for the start of a node that was away during a rekey. KT_E_IO. */
KT_MUST_CHECK kt_code kt_cache_drop_stale(const char *folder, int64_t epoch, size_t *removed, kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and writing items of an open store. */
#ifndef KT_STORE_ITEM_H
#define KT_STORE_ITEM_H

#include "store/session.h"

/* Names of the items that `fill` makes; their content follows from name and length (kt_item_filler). */
#define KT_ITEM_FILL_PREFIX "fill/"

/* 1 to KT_ENVELOPE_NAME_MAX bytes without control characters. KT_E_INPUT. */
KT_MUST_CHECK kt_code kt_item_check_name(const char *name, kt_err *err);
/* Seal and store. KT_E_REFUSED in the legacy form, which is only read. KT_E_KEY when the store was rekeyed since the
 * session was opened: nothing is written then. */
KT_MUST_CHECK kt_code kt_item_put(kt_session *s, const char *name, const void *bytes, size_t n, kt_err *err);
/* The content, appended. KT_E_INPUT when there is no such item. Uses the cache. */
KT_MUST_CHECK kt_code kt_item_get(kt_session *s, const char *name, kt_buf *out, kt_err *err);
/* Seal and store within the caller's write transaction, without looking at the epoch; `scratch` is reused from call to
 * call. */
KT_MUST_CHECK kt_code kt_item_put_within(kt_session *s, const char *name, const void *bytes, size_t n, kt_buf *scratch,
					 kt_err *err);
/* The content of a filled item, appended: SHA-256(name ‖ 0x00 ‖ 32-bit block number, big-endian), block after block. */
KT_MUST_CHECK kt_code kt_item_filler(const char *name, size_t n, kt_buf *out, kt_err *err);

#endif

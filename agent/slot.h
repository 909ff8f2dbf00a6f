/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wrapped keys that were received for this node (slots/<slot>.json, as received). A key is unwrapped anew each time
 * that it is needed and lives in locked memory only as long; where the key that opens it is, only agent/transport.c
 * knows.
 */
#ifndef KT_AGENT_SLOT_H
#define KT_AGENT_SLOT_H

#include "base/buf.h"
#include "base/secret.h"
#include "wire/blob.h"

/* The path of a slot's file into `path`. KT_E_INPUT: bad name. */
KT_MUST_CHECK kt_code kt_slot_path(const char *state, const char *slot, kt_buf *path, kt_err *err);
/* Unwrap a blob with the transport key that it was wrapped for: 32 bytes, of the blob's check value and MAC. KT_E_KEY,
 * KT_E_INPUT; KT_E_HSM: the token that has the transport key. */
KT_MUST_CHECK kt_code kt_slot_unwrap(const char *state, const kt_blob *blob, kt_secret *key, kt_err *err);
/* Keep a wrapped key, 0400, durable. The same key again is fine; another one in that slot: KT_E_KEY. */
KT_MUST_CHECK kt_code kt_slot_keep(const char *state, const char *slot, const kt_blob *blob, kt_err *err);
/* The key in a slot; KT_E_KEY when nothing was received there. */
KT_MUST_CHECK kt_code kt_slot_open(const char *state, const char *slot, kt_secret *key, kt_err *err);
/*
 * Wrap what is in the slots for another transport key of this node anew, so that it opens after the old one is gone:
 * each is opened again before it replaces what was received. *lost counts those that do not open any more, which stay
 * as they are. May be repeated.
 */
KT_MUST_CHECK kt_code kt_slot_rewrap_all(const char *state, const char *spki_sha256, size_t *lost, kt_err *err);
/* Remove it; fine when there is none. */
KT_MUST_CHECK kt_code kt_slot_forget(const char *state, const char *slot, kt_err *err);

#endif

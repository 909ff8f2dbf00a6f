/* SPDX-License-Identifier: Apache-2.0 */
/*
 * This node's transport key, and the wrapped keys that were received for it (slots/<slot>.json, as received). A key is
 * unwrapped anew each time that it is needed and lives in locked memory only as long.
 */
#ifndef KT_AGENT_SLOT_H
#define KT_AGENT_SLOT_H

#include <openssl/evp.h>

#include "base/buf.h"
#include "base/secret.h"
#include "wire/blob.h"

enum { KT_TRANSPORT_BITS_MIN = 2048, KT_TRANSPORT_BITS = 3072, KT_TRANSPORT_BITS_MAX = 4096 };

/* The private transport key; the caller's: EVP_PKEY_free. KT_E_KEY: none yet, damaged, or readable by others. */
KT_MUST_CHECK kt_code kt_transport_load(const char *state, EVP_PKEY **out, kt_err *err);
/* Make one unless there is one (*made tells); a damaged one is an error and stays. */
KT_MUST_CHECK kt_code kt_transport_ensure(const char *state, unsigned bits, bool *made, EVP_PKEY **out, kt_err *err);

/* The path of a slot's file into `path`. KT_E_INPUT: bad name. */
KT_MUST_CHECK kt_code kt_slot_path(const char *state, const char *slot, kt_buf *path, kt_err *err);
/* Unwrap a blob with the transport key: 32 bytes whose check value is the blob's. KT_E_KEY, KT_E_INPUT. */
KT_MUST_CHECK kt_code kt_slot_unwrap(const char *state, const kt_blob *blob, kt_secret *key, kt_err *err);
/* Keep a wrapped key, 0400, durable. The same key again is fine; another one in that slot: KT_E_KEY. */
KT_MUST_CHECK kt_code kt_slot_keep(const char *state, const char *slot, const kt_blob *blob, kt_err *err);
/* The key in a slot; KT_E_KEY when nothing was received there. */
KT_MUST_CHECK kt_code kt_slot_open(const char *state, const char *slot, kt_secret *key, kt_err *err);
/* Remove it; fine when there is none. */
KT_MUST_CHECK kt_code kt_slot_forget(const char *state, const char *slot, kt_err *err);

#endif

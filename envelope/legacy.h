/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The legacy form of an item, AES-128-CBC: read by the migration to envelopes, and never written. It has no tag, so
 * what was altered opens as something else unless its padding happens to be wrong, and nothing binds it to its item.
 * Exact bytes: docs/FORMATS.md, "Envelope".
 */
#ifndef KT_ENVELOPE_LEGACY_H
#define KT_ENVELOPE_LEGACY_H

#include "base/buf.h"
#include "base/secret.h"

enum { KT_LEGACY_KEY_LEN = 16 };

/* Do these bytes begin as the legacy form does? */
bool kt_legacy_is(const void *bytes, size_t len);

/* Decrypt under a key of KT_LEGACY_KEY_LEN bytes, and append the content to `out` (wiped by kt_buf_free); nothing on
 * failure. KT_E_KEY: the key has another length. KT_E_INPUT: malformed, or it does not decrypt under this key. */
KT_MUST_CHECK kt_code kt_legacy_open(const kt_secret *key, const void *bytes, size_t len, kt_buf *out, kt_err *err);

#endif

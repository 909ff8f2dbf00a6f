/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys that a request only names (docs/FORMATS.md, section 2, "keyref"): {"key":{"slot":RUN}}, {"key":{"file":PATH}},
 * {"key":{"env_file":PATH,"name":NAME}}. Only here do they become bytes.
 */
#ifndef KT_AGENT_KEYREF_H
#define KT_AGENT_KEYREF_H

#include "agent/action.h"

enum { KT_KEY_LEN = 32 };

/* Whether a value is an object with the one member "key". */
bool kt_keyref_is(const cJSON *value);
/*
 * The 32 bytes that `ref` names, the caller's: kt_secret_free. They are registered with kt_log_redact, in the shapes
 * that programs print. KT_E_INPUT: malformed reference; KT_E_KEY: missing, wrong size, wrong mode (a key file must be
 * 0400), not base64; KT_E_IO.
 */
KT_MUST_CHECK kt_code kt_keyref_resolve(const kt_agent_ctx *ctx, const cJSON *ref, kt_secret *key, kt_err *err);
/* The same as base64 text, as an application reads it. */
KT_MUST_CHECK kt_code kt_keyref_text(const kt_agent_ctx *ctx, const cJSON *ref, kt_secret *text, kt_err *err);
/* A key file: base64 of 32 bytes (a newline is tolerated), mode exactly 0400, not a link. The three failures that
 * operators know carry the texts of base/keymsg.h. */
KT_MUST_CHECK kt_code kt_keyref_read_file(const char *path, kt_secret *key, kt_err *err);
/* Text of a key (base64, a newline is tolerated) to its 32 bytes; `where` is for the message. */
KT_MUST_CHECK kt_code kt_keyref_decode(const kt_secret *text, const char *where, kt_secret *key, kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Keys that are about to be near an output or a log: registered with base/log.h in the shapes that programs print. */
#ifndef KT_AGENT_REDACT_H
#define KT_AGENT_REDACT_H

#include "agent/envfile.h"

/* A key's bytes and its base64 text without padding (and so also with it). */
KT_MUST_CHECK kt_code kt_redact_key(const kt_secret *key, kt_err *err);
/* Every value of an env file that is the base64 of a key, and every key in a file that a value names. */
KT_MUST_CHECK kt_code kt_redact_envfile(const kt_envfile *f, kt_err *err);

#endif

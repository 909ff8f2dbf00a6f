/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The diagnostic log (stderr, or a file): one line per message, control characters escaped, and every registered secret
 * replaced by "[redacted]" in each of its shapes (raw, base64, hex). The registry is the second line of defence; the
 * first is that secrets are never formatted.
 */
#ifndef KT_BASE_LOG_H
#define KT_BASE_LOG_H

#include "base/buf.h"
#include "base/secret.h"

typedef enum kt_log_level { KT_LOG_ERROR, KT_LOG_WARN, KT_LOG_INFO, KT_LOG_DEBUG, KT_LOG_TRACE } kt_log_level;

/* Messages above `level` are dropped. fd stays the caller's. Default: KT_LOG_WARN to stderr. */
void kt_log_setup(kt_log_level level, int fd);
kt_log_level kt_log_get_level(void);
void kt_log(kt_log_level level, const char *fmt, ...) KT_PRINTF(2, 3);

/* Remember a secret of 8 bytes or more until kt_log_forget_all; a copy is kept in the secure heap. At most 64. */
KT_MUST_CHECK kt_code kt_log_redact(const kt_secret *s, kt_err *err);
void kt_log_forget_all(void);
/* Replace registered secrets in a text or a byte stream in place; returns the new length (never longer). */
size_t kt_log_scrub(uint8_t *bytes, size_t n);
/* How many bytes at the end of a scrubbed stream may be the beginning of a registered secret, and so must be held back
 * until more has come. */
size_t kt_log_open_end(const uint8_t *bytes, size_t n);
/* The longest shape of any registered secret, in bytes: how much a stream must hold back before it can be scrubbed. */
size_t kt_log_scrub_reach(void);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Words for a POSIX shell: for remote command lines and for what people may copy. */
#ifndef KT_BASE_SHELL_H
#define KT_BASE_SHELL_H

#include "base/buf.h"

/* The command line that runs exactly `argv` (NULL-terminated, at least one word), appended to `out`. KT_E_USAGE when
 * argv is empty. */
KT_MUST_CHECK kt_code kt_shell_quote(const char *const *argv, kt_buf *out, kt_err *err);
/* One word of it. */
KT_MUST_CHECK kt_code kt_shell_quote_word(const char *word, kt_buf *out, kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KT_BASE_UTF8_H
#define KT_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Well-formed UTF-8 (RFC 3629 §4: no overlong forms, no surrogates, nothing above U+10FFFF). On false *bad, if not
 * NULL, is the offset of the first byte that does not fit. */
bool kt_utf8_valid(const void *text, size_t n, size_t *bad);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What a PKCS#11 module prints on stderr by itself (tpm2-pkcs11 and others do): lines for the log, the last one kept.
 */
#ifndef KT_PKCS11_PRINTED_H
#define KT_PKCS11_PRINTED_H

#include <stddef.h>

enum { KT_PRINTED_LINE = 200 };

/* All zero at first. */
typedef struct kt_printed {
	char line[KT_PRINTED_LINE]; /* since the last newline; what does not fit is dropped */
	char last[KT_PRINTED_LINE]; /* the last whole line, "" when there was none */
} kt_printed;

/* Some more bytes of it. Each line goes to the log (KT_LOG_INFO). */
void kt_printed_add(kt_printed *p, const char *bytes, size_t n);

#endif

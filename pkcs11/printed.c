/* SPDX-License-Identifier: Apache-2.0 */
#include "pkcs11/printed.h"

#include <string.h>

#include "base/log.h"

static void add(kt_printed *p, char byte)
{
	size_t n = strlen(p->line);
	if (byte != '\n' && n + 1 < sizeof p->line) {
		p->line[n] = byte;
		p->line[n + 1] = '\0';
	}
	if (byte != '\n' || n == 0)
		return;
	kt_log(KT_LOG_INFO, "the PKCS#11 module prints: %s", p->line);
	memcpy(p->last, p->line, sizeof p->last);
	p->line[0] = '\0';
}

void kt_printed_add(kt_printed *p, const char *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		add(p, bytes[i]);
}

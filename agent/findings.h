/* SPDX-License-Identifier: Apache-2.0 */
/* What the gate has found: things that are live on this node, and things that could not be asked (which count as live).
 */
#ifndef KT_AGENT_FINDINGS_H
#define KT_AGENT_FINDINGS_H

#include "base/json.h"

typedef enum kt_finding_kind {
	KT_FINDING_SERVICE,
	KT_FINDING_PROCESS,
	KT_FINDING_SOCKET,
	KT_FINDING_FILE,
	KT_FINDING_HEARTBEAT,
	KT_FINDING_UNASKED,
} kt_finding_kind;

/* Invariant: list is an array of {"kind","who","detail"}, at most KT_FINDINGS_MAX; n counts all of them. */
typedef struct kt_findings {
	cJSON *list;
	size_t n;
} kt_findings;

enum { KT_FINDINGS_MAX = 200, KT_FINDING_TEXT = 400 };

KT_MUST_CHECK kt_code kt_findings_new(kt_findings *f, kt_err *err);
void kt_findings_free(kt_findings *f);
const char *kt_finding_name(kt_finding_kind kind);
/* Add one. Both texts are scrubbed, made printable and cut to KT_FINDING_TEXT. KT_E_INTERNAL: out of memory. */
KT_MUST_CHECK kt_code kt_findings_add(kt_findings *f, kt_err *err, kt_finding_kind kind, const char *who,
				      const char *fmt, ...) KT_PRINTF(5, 6);
/* All of them for people, appended to `out`: "who: detail; who: detail; and 3 more". */
KT_MUST_CHECK kt_code kt_findings_text(const kt_findings *f, size_t shown, kt_buf *out, kt_err *err);

#endif

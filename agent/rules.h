/* SPDX-License-Identifier: Apache-2.0 */
/* Which processes belong to the application: by executable, by folder, or by their command line. */
#ifndef KT_AGENT_RULES_H
#define KT_AGENT_RULES_H

#include "agent/findings.h"
#include "agent/procfs.h"

typedef struct kt_rules kt_rules;

/* From an array of {"exe":path}, {"under":folder}, {"match":text}; NULL is none. *out is the caller's: kt_rules_free.
 * KT_E_INPUT names the element. */
KT_MUST_CHECK kt_code kt_rules_new(const cJSON *array, kt_rules **out, kt_err *err);
void kt_rules_free(kt_rules *r);
/*
 * A finding when a rule fits this process: exe is the file (also when moved or deleted), or argv[0] names it; under:
 * exe, working folder or an argument lies in the folder; match: in the command line, arguments joined by spaces. Our
 * ancestors are not asked. A process that cannot be looked into and that no rule fits is counted, if it counts
 * (kt_procfs_blind_counts).
 */
KT_MUST_CHECK kt_code kt_rules_look(kt_rules *r, const cJSON *users, const kt_proc *p, kt_findings *findings,
				    kt_err *err);
/* After all processes: a finding when some could not be looked into. */
KT_MUST_CHECK kt_code kt_rules_end(kt_rules *r, kt_findings *findings, kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Private to playbook/: the steps as the rules look at them. */
#ifndef KT_PLAYBOOK_INTERNAL_H
#define KT_PLAYBOOK_INTERNAL_H

#include "orchestrator/playbook/playbook.h"
#include "orchestrator/playbook/verbs.h"

/* Texts and values are borrowed from the playbook's doc. */
typedef struct kt_step_view {
	const cJSON *json;
	const char *name;
	const char *on; /* all, rekey, canary, rest, once */
	int phase;
	const kt_verb *verb;
	const cJSON *with;
	bool once;
	bool commit;
} kt_step_view;

/* Invariants: (1) steps has n entries, each with a known verb; (2) before the safety rules `rekey` and `commit` are
 * SIZE_MAX; rule S1 sets the one, S7 the other. */
typedef struct kt_playbook_view {
	const kt_playbook *p;
	kt_step_view *steps;
	size_t n;
	size_t rekey;
	size_t commit;
} kt_playbook_view;

/* Form: phases in order, names, verbs and their members, references. Fills `v`, which the caller frees: free(v->steps).
 */
KT_MUST_CHECK kt_code kt_playbook_check_form(const kt_playbook *p, kt_playbook_view *v, kt_err *err);
/* S1..S7. */
KT_MUST_CHECK kt_code kt_playbook_check_safety(kt_playbook_view *v, kt_err *err);

/* Does the "from" or "to" of a "when" (a kind or an array of kinds) name this one? */
bool kt_playbook_names_kind(const cJSON *kinds, const char *kind);

/* An error at $.steps[i] followed by `member` (".with.path", or ""). */
KT_MUST_CHECK kt_code kt_playbook_fault(const kt_playbook_view *v, size_t i, const char *member, kt_err *err,
					const char *remedy, const char *fmt, ...) KT_PRINTF(6, 7);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs of a playbook (docs/FORMATS.md, sections 2 and 7), what they need, give and change: one table. */
#ifndef KT_PLAYBOOK_VERBS_H
#define KT_PLAYBOOK_VERBS_H

#include <stdbool.h>

#include "base/json.h"

typedef enum kt_place { KT_PLACE_NODE, KT_PLACE_COORDINATOR } kt_place;

/* One member of a verb's `with`. */
typedef struct kt_verb_arg {
	const char *name;
	char type; /* s string, i whole number, b boolean, o object, a array, k keyref, v object of values, c command */
	bool required; /* must be there */
	bool nullable; /* null is a value */
} kt_verb_arg;

enum { KT_VERB_ARGS = 10 };

typedef struct kt_verb {
	const char *name;
	kt_place at;
	bool changes;    /* changes something on the node or in the HSM */
	bool once;       /* may answer `unknown`; never done again blindly */
	bool needs_undo; /* alters what the application sees: before the commit its step must say how it is undone */
	kt_verb_arg args[KT_VERB_ARGS];
	const char *results; /* names of the result's fields, each followed by a space: "kcv proof " */
} kt_verb;

/* NULL when there is no such verb. */
const kt_verb *kt_verb_find(const char *name);
/* The table, in the order of FORMATS; ends with an entry of which the name is NULL. */
const kt_verb *kt_verb_table(void);
/* Does its result have this field? */
bool kt_verb_gives(const kt_verb *verb, const char *field);
/* Check the members of a `with`: known (with the nearest name), all required ones there, of the right type unless they
 * are strings with a template. KT_E_INPUT; the message begins with the member's path below `with`, and `*member` is set
 * to the member at fault (NULL when one is missing). */
KT_MUST_CHECK kt_code kt_verb_check_args(const kt_verb *verb, const cJSON *with, const cJSON **member, kt_err *err);

#endif

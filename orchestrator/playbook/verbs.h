/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs of a playbook (docs/FORMATS.md, sections 2 and 7), what they need, give and change: one table. */
#ifndef KT_PLAYBOOK_VERBS_H
#define KT_PLAYBOOK_VERBS_H

#include <stdbool.h>

#include "base/json.h"

typedef enum kt_place { KT_PLACE_NODE, KT_PLACE_COORDINATOR } kt_place;

/* What a member of a verb's `with` holds. */
typedef enum kt_arg_type {
	KT_ARG_STRING = 1,
	KT_ARG_INT,
	KT_ARG_BOOL,
	KT_ARG_ARRAY,
	KT_ARG_OBJECT,
	KT_ARG_KEYREF,  /* {"key":…} */
	KT_ARG_VALUES,  /* object of strings, keyrefs and nulls */
	KT_ARG_SERVICE, /* FORMATS section 2, "service" */
	KT_ARG_COMMAND  /* FORMATS section 2, "command" */
} kt_arg_type;

typedef struct kt_verb_arg {
	const char *name;
	kt_arg_type type;
	bool optional; /* may be absent */
	bool nullable; /* null is a value */
} kt_verb_arg;

enum { KT_VERB_ARGS = 14 };

typedef struct kt_verb {
	const char *name;
	kt_place at;
	bool per_node;       /* has a target per node; false: once for the cluster */
	bool changes;        /* changes something on the node or in the HSM */
	bool once;           /* may answer `unknown`; never done again blindly */
	const char *undo;    /* it alters what the application sees: the verb that takes it back; NULL: it does not */
	const char *results; /* the fields of its result, each followed by a space */
	kt_verb_arg args[KT_VERB_ARGS];
} kt_verb;

/* NULL when there is no such verb. */
const kt_verb *kt_verb_find(const char *name);
/* The table, in the order of FORMATS; ends with an entry of which the name is NULL. */
const kt_verb *kt_verb_table(void);
/* Does its result have this field (the part before the first dot)? */
bool kt_verb_gives(const kt_verb *verb, const char *field);

/*
 * Check the members of a `with` (of a playbook, or resolved): known (with the nearest name), the required ones there,
 * and of the right type unless they are strings with a template or operators. KT_E_INPUT; *member is the name of the
 * member at fault, "" when one is missing.
 */
KT_MUST_CHECK kt_code kt_verb_check_args(const kt_verb *verb, const cJSON *with, const char **member, kt_err *err);

#endif

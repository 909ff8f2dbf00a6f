/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Templates: strings with `${name}`, in cluster.json, playbooks and plans (docs/FORMATS.md, sections 6 and 7). Pure.
 *
 *   ${name}                 a variable; its value may hold templates itself (at most KT_TEMPLATE_DEPTH deep, no cycles)
 *   ${step.field}           the result of an earlier step; bound late, by the engine
 *   ${step.field|fallback}  the same, with a value for when there is none (true, false, null and whole numbers are
 *                           taken as such, everything else as text)
 *   $$                      one dollar sign; a dollar sign before any other character stands for itself
 *
 * A string that is exactly one `${…}` takes the value whatever its type; inside a longer string the value must be a
 * string, a number or a boolean.
 */
#ifndef KT_INVENTORY_TEMPLATE_H
#define KT_INVENTORY_TEMPLATE_H

#include "base/json.h"
#include "base/nearest.h"

enum { KT_TEMPLATE_DEPTH = 16, KT_TEMPLATE_NAME = 128 };

/* Where names come from. All callbacks get `cookie`; values are borrowed and must live until the resolution returns. */
typedef struct kt_scope {
	void *cookie;
	/* The value of a name ("dir", "from.path"), itself a template; NULL when there is none. */
	const cJSON *(*find)(void *cookie, const char *name);
	/* Offer every known name to `near`, for the message about an unknown one. May be NULL. */
	void (*offer)(void *cookie, kt_nearest *near);
	/* Operators: an object with a member "$…" is given here instead of being copied. `*out` stays NULL when it is
	 * not an operator; else it is the value, which is then resolved like any other. May be NULL. */
	kt_code (*op)(void *cookie, const cJSON *object, cJSON **out, kt_err *err);
	/* Keep `${step.field}` for kt_template_resolve_late, and dollar signs escaped as `$$` for it. */
	bool late;
	/* A name that stays as it is (the agent's `${scratch}`), or NULL. */
	const char *keep;
} kt_scope;

/* A copy of `value` with all templates in its strings resolved, the caller's: cJSON_Delete. Member names are not
 * templates. KT_E_INPUT: unknown name (with the nearest known one), cycle (with the chain of names), too deep, a value
 * that doesn't fit into a string, `${` without an end. */
KT_MUST_CHECK kt_code kt_template_resolve(const cJSON *value, const kt_scope *scope, cJSON **out, kt_err *err);
/* The same for one text of which the result must be a string. Appended to `out`. */
KT_MUST_CHECK kt_code kt_template_text(const char *text, const kt_scope *scope, kt_buf *out, kt_err *err);

/* The value of `step`'s `field` (its first name, without sub-fields), borrowed; NULL when there is none. A list that is
 * a cJSON reference is not copied: the result refers to its elements, too. */
typedef const cJSON *(*kt_late_lookup)(void *cookie, const char *step, const char *field);
/*
 * For the engine: bind what a plan left open in a command's args or expect. `${step.field.sub}` goes on into objects.
 * `$$` becomes `$`; a name without a dot (`${scratch}`) stays for the agent. KT_E_REFUSED when a field is missing and
 * there is no fallback. *out is the caller's.
 */
KT_MUST_CHECK kt_code kt_template_resolve_late(const cJSON *args, kt_late_lookup lookup, void *cookie, cJSON **out,
					       kt_err *err);

/* One `${…}` found in a value. `field` and `fallback` are NULL when absent. */
typedef struct kt_template_ref {
	const char *name; /* "dir", "step" */
	const char *field;
	const char *fallback;
	const char *path; /* JSON path of the string, below the value searched: ".with.env.X" */
} kt_template_ref;
typedef kt_code (*kt_template_visit)(void *cookie, const kt_template_ref *ref, kt_err *err);
/* Call `visit` for every reference in the strings of `value`, in order; stops at the first failure and returns it. */
KT_MUST_CHECK kt_code kt_template_each(const cJSON *value, kt_template_visit visit, void *cookie, kt_err *err);

#endif

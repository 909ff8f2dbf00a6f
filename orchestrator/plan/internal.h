/* SPDX-License-Identifier: Apache-2.0 */
/* Private to plan/: what is at work while a plan is made. */
#ifndef KT_PLAN_INTERNAL_H
#define KT_PLAN_INTERNAL_H

#include "base/keyuri.h"
#include "orchestrator/inventory/template.h"
#include "orchestrator/plan/plan.h"
#include "orchestrator/playbook/verbs.h"

enum {
	KT_PLAN_SECONDS = 86400 * 7, /* the largest timeout and pause */
	KT_PLAN_TIMES = 100000
};

/* Where one node has a key. */
typedef struct kt_plan_key {
	char *uri; /* file:/path, env:NAME, pkcs11:…, awskms:… or legacy: */
	kt_keyuri_kind kind;
	const char *where; /* in uri what follows the scheme: the path, the variable's name */
	kt_awsuri aws;     /* the parts of awskms:… */
} kt_plan_key;

/*
 * Invariants: (1) from and to have one entry a node, all of one kind each (of awskms: the same key); (2) kcv is NULL or
 * the old key's check value on every node that told one.
 */
typedef struct kt_planner {
	const kt_plan_input *in;
	const cJSON *playbook; /* root of its document */
	kt_plan_key *from, *to;
	const char *kcv;
	size_t step; /* index of the playbook's step at work; SIZE_MAX: none yet */
	bool own;    /* undo and probe may use their own step's result */
} kt_planner;

/* A target's names; for kt_scope. Values that are not in any document stand in the scratch members. */
typedef struct kt_plan_scope {
	kt_planner *p;
	const kt_node *node; /* NULL: the cluster */
	size_t index;        /* of the node */
	cJSON value;         /* a built-in's value */
	cJSON item;          /* the element where it is an array of one */
} kt_plan_scope;

/* A scope over the variables for one node (SIZE_MAX: the cluster), with the operators $set and $owned_except. `late`
 * as in kt_scope. `s` must outlive `*out`. */
void kt_plan_scope_init(kt_planner *p, size_t node, bool late, kt_plan_scope *s, kt_scope *out);
/* Every variable set is declared, every declared one has a value of its type. KT_E_INPUT with the place. */
KT_MUST_CHECK kt_code kt_plan_check_vars(kt_planner *p, kt_err *err);

/* Fill p->from, p->to and p->kcv. KT_E_INPUT, KT_E_REFUSED. */
KT_MUST_CHECK kt_code kt_plan_find_keys(kt_planner *p, kt_err *err);
void kt_plan_free_keys(kt_planner *p);
/* The operators for one node (SIZE_MAX: the cluster): *out stays NULL when `object` is none of ours. */
KT_MUST_CHECK kt_code kt_plan_operator(kt_planner *p, size_t node, const cJSON *object, cJSON **out, kt_err *err);
/* Is the step there for the kinds of keystores in force? */
bool kt_plan_applies(const kt_planner *p, const cJSON *step);
/* Replace {"key":"from"} and {"key":"to"} anywhere below `value` by what the agent understands. */
KT_MUST_CHECK kt_code kt_plan_bind_keys(kt_planner *p, size_t node, cJSON *value, kt_err *err);

/* The arguments of `verb` on one node (SIZE_MAX: the cluster), checked; the caller's. */
KT_MUST_CHECK kt_code kt_plan_args(kt_planner *p, const kt_verb *verb, const cJSON *with, size_t node, cJSON **out,
				   kt_err *err);
/* What a step expects, for all its targets; members that come out as null are left out. */
KT_MUST_CHECK kt_code kt_plan_expect(kt_planner *p, const cJSON *expect, cJSON **out, kt_err *err);
/* A whole number out of a value that may be a template; `fallback` when it is absent. */
KT_MUST_CHECK kt_code kt_plan_number(kt_planner *p, const cJSON *value, const char *name, int64_t fallback, int64_t min,
				     int64_t max, int64_t *out, kt_err *err);

/* Nodes with equal arguments together, in order of their first: [{"nodes":[names],"args":…}]. Found by the SHA-256 of
 * the canonical arguments (open addressing). */
struct kt_plan_group_slot {
	char digest[KT_SHA256_HEX]; /* empty: free */
	cJSON *nodes;               /* of the group, in the list */
};
typedef struct kt_plan_groups {
	struct kt_plan_group_slot *slots;
	size_t room; /* a power of two, more than twice the targets */
	cJSON *list;
} kt_plan_groups;
/* For at most `targets` of them. On success kt_plan_groups_end must be called. */
KT_MUST_CHECK kt_code kt_plan_groups_init(kt_plan_groups *g, size_t targets, kt_err *err);
/* Takes `args`, also on failure. */
KT_MUST_CHECK kt_code kt_plan_groups_add(kt_plan_groups *g, const char *node, cJSON *args, kt_err *err);
/* Frees it and gives back rc; where that is KT_OK, *out is the list, the caller's. */
KT_MUST_CHECK kt_code kt_plan_groups_end(kt_plan_groups *g, kt_code rc, cJSON **out);

/* The targets of an action: `on` as in the playbook. Grouped by equal arguments. *n is their number; *out the
 * caller's. */
KT_MUST_CHECK kt_code kt_plan_targets(kt_planner *p, const char *on, const kt_verb *verb, const cJSON *with,
				      cJSON **out, size_t *n, kt_err *err);

#endif

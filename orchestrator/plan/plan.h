/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan of a turn: every command on every node, before anything happens (docs/FORMATS.md, section 7). A pure
 * function of its inputs: no I/O, no clock, no randomness; the same inputs give the same bytes and the same digest.
 */
#ifndef KT_PLAN_PLAN_H
#define KT_PLAN_PLAN_H

#include "base/codec.h"
#include "orchestrator/inventory/inventory.h"
#include "orchestrator/playbook/playbook.h"

#define KT_PLAN_FORMAT "keyturn-plan/1"

/* Where a node has its old key, as it said itself (verb key.locate). */
typedef struct kt_located {
	const char *uri; /* file:/path, env:NAME, pkcs11:…, awskms:… or legacy:; NULL: the node was not asked */
	const char *kcv; /* hex; "" or NULL: not known */
} kt_located;

/* A node's transport key as it was pinned at enrolment. */
typedef struct kt_plan_pin {
	const char *at; /* where the node has it: "file", or a pkcs11: URI without its query; NULL: not pinned */
	const char *spki_sha256; /* hex SHA-256 of its SubjectPublicKeyInfo */
} kt_plan_pin;

typedef struct kt_plan_input {
	const kt_cluster *cluster;
	const kt_playbook *playbook;
	const char *run;               /* run id: YYYYMMDDTHHMMSSZ- and 6 hex digits */
	const kt_located *located;     /* one a node, in the order of cluster->nodes; NULL: none was asked */
	const kt_plan_pin *pins;       /* one a node, in that order; NULL: none is pinned */
	const char *const *custodians; /* SHA-256 (hex) of each custodian's public key, in the order of the cluster's;
					  NULL: they were not read */
} kt_plan_input;

/*
 * Make the plan. *plan is the caller's (cJSON_Delete); `digest` is the SHA-256 of its canonical JSON in hex.
 * KT_E_INPUT: a variable is unknown, of the wrong type, or not declared by the playbook; the plan is larger than
 * KT_JSON_MAX. KT_E_REFUSED: the inputs fit no safe turn: the new key's place is the old one's, nodes keep their keys
 * in different kinds of keystores, a node's own answer contradicts cluster.json, or its pinned transport key is
 * elsewhere than cluster.json says. KT_E_INTERNAL.
 */
KT_MUST_CHECK kt_code kt_plan_make(const kt_plan_input *in, cJSON **plan, char digest[KT_SHA256_HEX], kt_err *err);

/*
 * The arguments of `key.locate` for one node (an index into cluster->nodes): where the application's variables are, and
 * what those that the playbook's keystores set for running tell: {"env_file", "variables": {NAME: "file" | "env" |
 * "pkcs11" | "awskms" | "awskms.region" | "awskms.context"}, "legacy": whether the answer may be that there is none}.
 * `in->located` and `in->run` are not looked at. *args is the caller's. KT_E_INPUT.
 */
KT_MUST_CHECK kt_code kt_plan_locate_args(const kt_plan_input *in, size_t node, cJSON **args, kt_err *err);

/* The digest of a plan that is there already (from the journal, from a file). */
KT_MUST_CHECK kt_code kt_plan_digest(const cJSON *plan, char digest[KT_SHA256_HEX], kt_err *err);

/* What `keyturn plan` prints: grouped by phase and step, nodes folded into ranges, argv quoted for a shell, key values
 * as <old key> and <new key>, undo, retry, what cannot be taken back, and warnings. Appended to `out`. */
KT_MUST_CHECK kt_code kt_plan_print(const cJSON *plan, kt_buf *out, kt_err *err);

/*
 * Walk over the targets of an action (a step, or its "undo" or "probe"): `targets` is a list of
 * {"nodes":[names],"args":{…}}, nodes with the same arguments together.
 *
 *	kt_plan_cursor at = {0};
 *	while (kt_plan_next(action, &at))
 *		use(at.node, at.args);
 */
typedef struct kt_plan_cursor {
	const char *node;  /* "@" for the cluster */
	const cJSON *args; /* may hold templates for kt_template_resolve_late */
	const cJSON *group_, *name_;
} kt_plan_cursor;
bool kt_plan_next(const cJSON *action, kt_plan_cursor *at);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What the verbs work with: opened one by one as a verb needs it, closed together in the reverse order. */
#ifndef KT_CLI_CONTEXT_H
#define KT_CLI_CONTEXT_H

#include "orchestrator/cli/cli.h"
#include "orchestrator/plan/plan.h"
#include "orchestrator/turn/pins.h"
#include "orchestrator/turn/turn.h"

typedef struct kt_ctx {
	kt_cli *cli;
	kt_cluster cluster;
	kt_playbook playbook;
	uv_loop_t loop;
	bool loop_open;
	kt_journal *journal;
	kt_hsm *hsm;
	kt_nodes *nodes;
	char run[KT_RUN_MAX + 1];
	cJSON *plan;
	char digest[KT_SHA256_HEX];
	kt_located *located;    /* one a node; uri and kcv owned */
	kt_pin *pins;           /* one a node: its pinned transport key, empty where there is none; owned */
	kt_plan_pin *plan_pins; /* the same as the plan sees it; borrows pins */
	char **custodians;      /* one a custodian: SHA-256 of the public key; owned */
} kt_ctx;

/* cluster.json and the playbook. */
KT_MUST_CHECK kt_code kt_ctx_load(kt_ctx *c, kt_cli *cli, kt_err *err);
KT_MUST_CHECK kt_code kt_ctx_open_journal(kt_ctx *c, kt_journal_mode mode, kt_err *err);
KT_MUST_CHECK kt_code kt_ctx_open_nodes(kt_ctx *c, kt_err *err);
KT_MUST_CHECK kt_code kt_ctx_open_hsm(kt_ctx *c, kt_err *err);
/* KT_E_REFUSED when the ledger says that nothing new is to be wrapped under the cluster's escrow key. */
KT_MUST_CHECK kt_code kt_ctx_check_escrow_key(const kt_ctx *c, kt_err *err);
/* A new run id, the nodes asked where their old key is (unless cluster.json says it, and `always` is false), and the
 * plan. */
KT_MUST_CHECK kt_code kt_ctx_make_plan(kt_ctx *c, bool always, kt_err *err);
void kt_ctx_close(kt_ctx *c);

#endif

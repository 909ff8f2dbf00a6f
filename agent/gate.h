/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gate: proves that nothing of the application is live on this node, and nobody is connected to its database. Every
 * source that is named is asked; what cannot be asked is a finding of kind "unasked" and counts as live (S2).
 */
#ifndef KT_AGENT_GATE_H
#define KT_AGENT_GATE_H

#include "agent/action.h"
#include "agent/findings.h"

/*
 * Ask all sources of `args` (docs/FORMATS.md, gate.check: service, processes, ports, files, heartbeats, known_nodes;
 * each may be left out, but not all). The processes are looked through a second time when the first time found nothing,
 * since one that forks can slip past a single look. A unit that failed is quiet as long as nothing of it runs. KT_OK:
 * *findings says it all (n == 0: quiet). KT_E_INPUT: malformed args. KT_E_INTERRUPTED. KT_E_INTERNAL.
 */
KT_MUST_CHECK kt_code kt_gate_ask(kt_agent_ctx *ctx, const cJSON *args, kt_findings *findings, kt_err *err);

#endif

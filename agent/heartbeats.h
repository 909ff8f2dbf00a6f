/* SPDX-License-Identifier: Apache-2.0 */
/* What the application itself says about its nodes, as the status command of a store prints it (docs/FORMATS.md, 10).
 */
#ifndef KT_AGENT_HEARTBEATS_H
#define KT_AGENT_HEARTBEATS_H

#include "agent/findings.h"

/*
 * Read {"nodes":[{"name","live":bool,"age_ms" or "age_seconds"}],"live_window_seconds"?,"running"?}. A finding for each
 * node that is live, or whose heartbeat is younger than the window (or comes from the future), and when `running` is
 * true. With `known_nodes` (an array of names, or NULL) a live node that is not among them is called unknown.
 * KT_E_INPUT when the text is anything else: then nobody knows who is live.
 */
KT_MUST_CHECK kt_code kt_heartbeats_read(const char *text, size_t len, const cJSON *known_nodes, kt_findings *findings,
					 kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* A service: a systemd unit, or start, stop and status commands (docs/FORMATS.md, section 2). */
#ifndef KT_AGENT_SERVICE_H
#define KT_AGENT_SERVICE_H

#include "agent/action.h"

typedef enum kt_service_state {
	KT_SERVICE_ACTIVE,
	KT_SERVICE_INACTIVE,
	KT_SERVICE_FAILED,  /* a unit that ended with an error: nothing of it runs */
	KT_SERVICE_UNKNOWN, /* on its way up or down, or the status command gave another exit code */
} kt_service_state;

typedef struct kt_service_info {
	kt_service_state state;
	int64_t pid; /* main process; 0: none or not known */
} kt_service_info;

const char *kt_service_state_name(kt_service_state s);
/* Ask once. KT_E_INPUT: malformed; KT_E_REFUSED: no such unit; KT_E_IO: it cannot be asked (that is not "inactive"). */
KT_MUST_CHECK kt_code kt_service_query(kt_agent_ctx *ctx, const cJSON *service, kt_service_info *out, kt_err *err);
/* What to call it in messages: the unit, or argv[0] of the start command. */
const char *kt_service_name(const cJSON *service);

#endif

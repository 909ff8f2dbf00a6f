/* SPDX-License-Identifier: Apache-2.0 */
/* The two kinds of service behind one table; private to agent/service*.c. */
#ifndef KT_AGENT_SERVICEIMPL_H
#define KT_AGENT_SERVICEIMPL_H

#include "agent/service.h"

enum { KT_SERVICE_NO = 400 };

typedef struct kt_service_kind {
	/* The object's members. KT_E_INPUT. */
	kt_code (*check)(const cJSON *service, kt_err *err);
	kt_code (*query)(kt_agent_ctx *ctx, const cJSON *service, kt_service_info *out, kt_err *err);
	/* NULL: there is nothing to be done. From hold on nobody but us starts it, until release. */
	kt_code (*hold)(kt_agent_ctx *ctx, const cJSON *service, kt_err *err);
	kt_code (*release)(kt_agent_ctx *ctx, const cJSON *service, kt_err *err);
	/* Ask it to stop; whether it has is seen by query. */
	kt_code (*stop)(kt_agent_ctx *ctx, const cJSON *service, int64_t timeout_s, kt_err *err);
	/* Start it. When it ran and said no: KT_OK, and `no` (size KT_SERVICE_NO, empty before) ends a sentence that
	 * begins with the service's name. */
	kt_code (*start)(kt_agent_ctx *ctx, const cJSON *service, int64_t timeout_s, char *no, kt_err *err);
	/* The last lines of what it logged, scrubbed, on one line; "" when there is nothing to be had. */
	void (*explain)(kt_agent_ctx *ctx, const cJSON *service, char *out, size_t size);
} kt_service_kind;

extern const kt_service_kind kt_service_unit;     /* serviceunit.c */
extern const kt_service_kind kt_service_commands; /* servicecmd.c */

#endif

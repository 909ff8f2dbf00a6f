/* SPDX-License-Identifier: Apache-2.0 */
/* A key on its way from the coordinator to this node: wrapped for it, and with what it is proved by that the very key
 * has come. */
#ifndef KT_AGENT_DELIVERY_H
#define KT_AGENT_DELIVERY_H

#include "agent/action.h"
#include "base/buf.h"
#include "wire/blob.h"

typedef struct kt_delivery {
	const char *label; /* borrowed from the arguments */
	kt_buf nonce;
	kt_blob blob;
} kt_delivery;

/* From the members blob, label and nonce (hex): the key is for this node and run, for transport or a rehearsal, and the
 * proof that is asked for names them. KT_E_INPUT, KT_E_REFUSED. *out is the caller's: kt_delivery_free. */
KT_MUST_CHECK kt_code kt_delivery_read(const kt_agent_ctx *ctx, const cJSON *args, kt_delivery *out, kt_err *err);
void kt_delivery_free(kt_delivery *d);
/* Is it for transport to this node in that run? KT_E_REFUSED. */
KT_MUST_CHECK kt_code kt_delivery_check(const kt_agent_ctx *ctx, const kt_blob *blob, const char *run, kt_err *err);
/* Add kcv and proof, which the key that came out gives. */
KT_MUST_CHECK kt_code kt_delivery_prove(const kt_delivery *d, const kt_secret *key, cJSON *result, kt_err *err);

#endif

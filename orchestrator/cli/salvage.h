/* SPDX-License-Identifier: Apache-2.0 */
/* A look at a damaged journal: what of it is verified, and where it ends. */
#ifndef KT_CLI_SALVAGE_H
#define KT_CLI_SALVAGE_H

#include "orchestrator/cli/context.h"

/* Open the journal for reading. One that is damaged is opened as far as it is good: then KT_OK, and `damage` (else
 * empty) says what is wrong with it and what to do. */
KT_MUST_CHECK kt_code kt_salvage_open(kt_ctx *c, kt_err *damage, kt_err *err);
/* How far it is good: a text for people, or the member "damage" {"message","remedy","entries","last":{…}} of `into`. */
KT_MUST_CHECK kt_code kt_salvage_tell(const kt_ctx *c, const kt_err *damage, kt_err *err);
KT_MUST_CHECK kt_code kt_salvage_json(const kt_ctx *c, const kt_err *damage, cJSON *into, kt_err *err);

#endif

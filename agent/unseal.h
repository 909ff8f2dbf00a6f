/* SPDX-License-Identifier: Apache-2.0 */
/* keyturn-agent unseal: what is inside an encrypted backup, for a person who has its key and nothing else is left. */
#ifndef KT_AGENT_UNSEAL_H
#define KT_AGENT_UNSEAL_H

#include "base/result.h"

/* Write the stream inside `archive` (tar under zstd) to `out`, chunk by chunk as each is authenticated: only when this
 * returns KT_OK was it whole. `key_file`: 0400, the base64 of the run's backup key. KT_E_KEY, KT_E_INPUT, KT_E_IO. */
KT_MUST_CHECK kt_code kt_unseal(const char *key_file, const char *archive, int out, kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* `keyturn-agent run SPOOLDIR`: the detached process that carries out one exec and records how it ended. */
#ifndef KT_AGENT_RUNNER_H
#define KT_AGENT_RUNNER_H

#include "base/result.h"

/*
 * Carry out the intent in `spool`, unless somebody else has claimed it. Closes KT_DETACH_REPORT_FD once it is claimed,
 * or writes there why it cannot be. Returns when the outcome is recorded; KT_E_AUDIT when it could not be: then it
 * stays unknown.
 */
KT_MUST_CHECK kt_code kt_runner(const char *spool, kt_err *err);

#endif

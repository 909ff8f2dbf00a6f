/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `keyturn hsm probe` found, kept in the coordinator's state folder as hsm/<serial>.json (docs/FORMATS.md, "Probe
 * of a token"): a run does not begin, nor go on, with a token that is another one since, or that was found unfit.
 */
#ifndef KT_TURN_PROBED_H
#define KT_TURN_PROBED_H

#include "base/json.h"

/* Add the SHA-256 of the module's file to the identity of a token (`token` of kt_probe_to_json; kt_token_info_json); ""
 * when the file cannot be read. */
KT_MUST_CHECK kt_code kt_probed_identify(cJSON *token, kt_err *err);
/* Keep a report, whose token was identified, under `state`. */
KT_MUST_CHECK kt_code kt_probed_keep(const char *state, const cJSON *report, kt_err *err);
/*
 * Hold a token, identified, against what is kept. *kept is false when nothing is: then it was never probed here.
 * KT_E_REFUSED when module, version, firmware, model or serial differ from what was probed, or the verdict was "unfit".
 */
KT_MUST_CHECK kt_code kt_probed_check(const char *state, const cJSON *token, bool *kept, kt_err *err);

#endif

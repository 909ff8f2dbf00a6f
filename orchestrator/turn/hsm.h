/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The coordinator's own verbs that need the HSM (docs/FORMATS.md, section 7, "Coordinator verbs"). Everything here
 * blocks on the token: the driver calls it from its one HSM worker. No key is ever in this process: it holds handles
 * and blobs.
 */
#ifndef KT_TURN_HSM_H
#define KT_TURN_HSM_H

#include "base/json.h"
#include "wire/message.h"

typedef struct kt_hsm kt_hsm;

/* All strings are borrowed and must outlive the kt_hsm. */
typedef struct kt_hsm_options {
	const char *uri;          /* pkcs11: URI of the token, with its pin-source */
	const char *escrow_label; /* label of the wrapping key */
	const char *state;        /* the coordinator's state folder: escrow/ and nodes/ are in it */
	const char *cluster;
} kt_hsm_options;

/* Open the token and log in: the one place where a PIN is used in a run. */
KT_MUST_CHECK kt_code kt_hsm_open(const kt_hsm_options *options, kt_hsm **out, kt_err *err);
void kt_hsm_close(kt_hsm *hsm);

/* Is the escrow wrapping key there, and is it fit? kcv: KT_KCV_TEXT bytes. */
KT_MUST_CHECK kt_code kt_hsm_find_escrow_key(kt_hsm *hsm, char *kcv, kt_err *err);
/* Make the escrow wrapping key when there is none under that label; *made tells. kcv: KT_KCV_TEXT bytes. */
KT_MUST_CHECK kt_code kt_hsm_make_escrow_key(kt_hsm *hsm, bool *made, char *kcv, kt_err *err);

/* True for the verbs that kt_hsm_act knows. */
bool kt_hsm_knows(const char *verb);

/* One verb. `result` is an empty object that is filled. KT_STATUS_FAILED leaves the reason in *err. */
kt_status kt_hsm_act(kt_hsm *hsm, const char *verb, const char *run, const char *node, cJSON *result, kt_err *err);

#endif

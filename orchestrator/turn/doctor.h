/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The preflight alone: every preflight step of a plan on every target, going on after a finding, so that all findings
 * are seen at once. Nothing on the nodes is changed but the spool and a rehearsal key that is thrown away.
 */
#ifndef KT_TURN_DOCTOR_H
#define KT_TURN_DOCTOR_H

#include "orchestrator/turn/hsm.h"
#include "orchestrator/turn/nodes.h"

typedef struct kt_doctor_options {
	uv_loop_t *loop;
	kt_nodes *nodes;
	kt_hsm *hsm; /* NULL: could not be opened; its steps are findings with hsm_error */
	const kt_err *hsm_error;
	const kt_cluster *cluster;
	const cJSON *plan;
	/* One answer; err->code is KT_OK when there is nothing to find. May not be NULL. */
	void (*on_check)(void *cookie, const char *step, const char *title, const char *node, const kt_err *err);
	void *cookie;
} kt_doctor_options;

/* *findings is how many checks failed; *worst the class of the first of them. */
KT_MUST_CHECK kt_code kt_doctor_run(const kt_doctor_options *o, size_t *findings, kt_code *worst, kt_err *err);

#endif

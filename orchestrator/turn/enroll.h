/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making nodes known: their host keys, the agent's program on them, and their transport keys. All nodes side by side;
 * each has its own result, so that one bad node does not hide the others. Repeating it changes nothing that is right
 * already.
 */
#ifndef KT_TURN_ENROLL_H
#define KT_TURN_ENROLL_H

#include "orchestrator/turn/nodes.h"

/* What was found out or done on one node. `error.code` is KT_OK when all is well so far. */
typedef struct kt_enroll_node {
	kt_err error;
	bool pinned;       /* its host key was pinned before */
	uint8_t *host_key; /* wire form, from the scan; NULL when not scanned */
	size_t host_key_len;
	char host_key_type[KT_FINGERPRINT];
	char host_key_print[KT_FINGERPRINT]; /* "SHA256:..." */
	bool sent;                           /* the agent's program was not there or another */
	char transport[65];                  /* hex SHA-256 of the transport key's SubjectPublicKeyInfo */
	bool transport_new;                  /* it was pinned by this enrolment */
} kt_enroll_node;

struct kt_enroll_files; /* private */

typedef struct kt_enroll {
	uv_loop_t *loop;
	kt_nodes *nodes;
	const kt_cluster *cluster;
	const char
		*agent_folder; /* the agent's program and its libraries; every regular file in it is put on the nodes */
	bool replace_transport; /* pin another transport key than the one pinned before */
	kt_enroll_node *node;   /* one a node */
	struct kt_enroll_files *files;
} kt_enroll;

/* Set up the results; the rest of *e is the caller's. */
KT_MUST_CHECK kt_code kt_enroll_new(kt_enroll *e, kt_err *err);
void kt_enroll_free(kt_enroll *e);

/* 1. Learn the host keys of the nodes that have no pin. */
KT_MUST_CHECK kt_code kt_enroll_scan(kt_enroll *e, kt_err *err);
/* 2. Pin what was learnt. The caller has asked a person, or was told to accept. */
KT_MUST_CHECK kt_code kt_enroll_pin(kt_enroll *e, kt_err *err);
/* 3. Connect and put the agent there. */
KT_MUST_CHECK kt_code kt_enroll_install(kt_enroll *e, kt_err *err);
/* 4. Make (or find) the transport keys, and pin their public halves in state/nodes/. A node that shows another key than
 * the pinned one is refused. */
KT_MUST_CHECK kt_code kt_enroll_transport(kt_enroll *e, kt_err *err);

#endif

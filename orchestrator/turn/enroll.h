/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making nodes known: their host keys, the agent's program on them, and their transport keys. All nodes side by side;
 * each has its own result, so that one bad node does not hide the others. Repeating it changes nothing that is right
 * already.
 */
#ifndef KT_TURN_ENROLL_H
#define KT_TURN_ENROLL_H

#include "base/kcv.h"
#include "orchestrator/turn/nodes.h"
#include "orchestrator/turn/pins.h"

enum { KT_PROOF_HEX = 2 * KT_PROOF_LEN + 1 };

/* What was found out or done on one node. `error.code` is KT_OK when all is well so far. */
typedef struct kt_enroll_node {
	kt_err error;
	bool pinned;       /* its host key was pinned before */
	uint8_t *host_key; /* wire form, from the scan; NULL when not scanned */
	size_t host_key_len;
	char host_key_type[KT_FINGERPRINT];
	char host_key_print[KT_FINGERPRINT]; /* "SHA256:..." */
	bool sent;                           /* the agent's program was not there or another */
	bool skip;                           /* asked for: leave this node alone */
	bool rotate;                         /* asked for: another transport key than the pinned one */
	bool replace;                        /* asked for: another transport key is taken where a person agrees */
	kt_pin pin;                          /* the transport key that the node has proved to have; owned */
	char was[KT_SHA256_HEX];             /* digest of the one that was pinned before; "": none */
	bool transport_new;                  /* it is to be pinned, or was pinned by this enrolment */
	int64_t others;                      /* further transport keys that the node has */
	char proof[KT_PROOF_HEX];            /* what it must answer to the challenge under way */
	char note[KT_ERR_MSG];               /* what a person should know though all is well; "": nothing */
} kt_enroll_node;

struct kt_enroll_files; /* private */

typedef struct kt_enroll {
	uv_loop_t *loop;
	kt_nodes *nodes;
	const kt_cluster *cluster;
	const char
		*agent_folder; /* the agent's program and its libraries; every regular file in it is put on the nodes */
	kt_enroll_node *node;  /* one a node; skip, rotate and replace are the caller's */
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
/*
 * 4. Make (or find) the transport keys, and let each node prove that it has the private half: what libcrypto wraps to
 * the public half here, a throw-away key, it must open there. Which OAEP hashes it does is found by that, too. A node
 * that shows another key than the pinned one is refused, unless `replace` or `rotate` is set. Nothing is pinned yet.
 */
KT_MUST_CHECK kt_code kt_enroll_transport(kt_enroll *e, kt_err *err);
/* 5. Pin the keys, durably. The caller has asked a person about those that replace another. */
KT_MUST_CHECK kt_code kt_enroll_pin_transport(kt_enroll *e, kt_err *err);
/* 6. Have the keys that are pinned no more destroyed on their nodes. What cannot be is in `note`; enrolling again tries
 * it again. */
KT_MUST_CHECK kt_code kt_enroll_retire(kt_enroll *e, kt_err *err);

#endif

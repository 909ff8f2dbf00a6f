/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The coordinator's own verbs that need the HSM (docs/FORMATS.md, section 7, "Coordinator verbs"). The token is in a
 * process of its own (pkcs11/owner.h, turn/hsm_owner.c); here are the files: pinned transport keys, and escrows.
 * Everything blocks on the token: the driver calls it from its one HSM worker. No key is ever in either process: they
 * hold handles and blobs.
 */
#ifndef KT_TURN_HSM_H
#define KT_TURN_HSM_H

#include <sys/types.h>

#include "base/json.h"
#include "orchestrator/inventory/inventory.h"
#include "wire/message.h"

#define KT_HSM_SUBCOMMAND "hsm-owner" /* the hidden one under which a program calls kt_hsm_serve */

typedef struct kt_hsm kt_hsm;

/* All strings are borrowed and must outlive the kt_hsm. */
typedef struct kt_hsm_options {
	const char *uri;          /* pkcs11: URI of the token, with its pin-source */
	const char *escrow_label; /* label of the wrapping key */
	const char *state;        /* the coordinator's state folder: escrow/ and nodes/ are in it */
	const char *cluster;
	int64_t call_ms;                /* how long one C_* call may take */
	unsigned sessions;              /* at a time */
	const kt_custodian *custodians; /* borrowed: who gets a copy of each escrow */
	size_t custodians_count;
} kt_hsm_options;

/* Start the token's owner: it opens the token and logs in, the one place where a PIN is used. The thread that calls
 * this must live as long as the process. KT_E_REFUSED when the token is not as it was when it was probed, or was found
 * unfit (turn/probed.h). One that was never probed is, by hsm.check. */
KT_MUST_CHECK kt_code kt_hsm_open(const kt_hsm_options *options, kt_hsm **out, kt_err *err);
void kt_hsm_close(kt_hsm *hsm);

/* What the token of the URI really does (docs/FORMATS.md, section 13), tried in an owner of its own; a key that the URI
 * names is a node's. on_token: as in kt_probe_options. *report is the caller's: cJSON_Delete. */
KT_MUST_CHECK kt_code kt_hsm_probe(const char *uri, int64_t call_ms, bool on_token, cJSON **report, kt_err *err);

/* The process that owns the token; 0 while there is none. */
pid_t kt_hsm_pid(const kt_hsm *hsm);

/* The token's owner: a program calls this under KT_HSM_SUBCOMMAND, with the words after it. */
KT_MUST_CHECK kt_code kt_hsm_serve(int argc, char **argv, kt_err *err);

/* Is the escrow wrapping key there, and is it fit? kcv: KT_KCV_TEXT bytes. */
KT_MUST_CHECK kt_code kt_hsm_find_escrow_key(kt_hsm *hsm, char *kcv, kt_err *err);
/* Make the escrow wrapping key when there is none under that label; *made tells. kcv: KT_KCV_TEXT bytes. */
KT_MUST_CHECK kt_code kt_hsm_make_escrow_key(kt_hsm *hsm, bool *made, char *kcv, kt_err *err);

/* True for the verbs that kt_hsm_act knows. */
bool kt_hsm_knows(const char *verb);

/* One command, and what came of it. */
typedef struct kt_hsm_command {
	const char *verb;
	const char *node;        /* NULL: none */
	const char *spki_sha256; /* the node's transport key must be this one; NULL: whichever is pinned */

	kt_status status;
	cJSON *result; /* an object, the caller's: cJSON_Delete; empty when it failed */
	kt_err error;  /* the reason of KT_STATUS_FAILED */
} kt_hsm_command;

/* Carry out commands of a run, in no order: what is wrapped for many nodes goes over all sessions. */
void kt_hsm_act(kt_hsm *hsm, const char *run, kt_hsm_command *list, size_t n);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a verb's handler gets and gives. One handler a verb, listed in the table of agent/verbs.c; agent/dispatch.c has
 * already seen to node, run, epoch, lock and spool before it calls one. Handlers run in the agent's one worker thread.
 */
#ifndef KT_AGENT_ACTION_H
#define KT_AGENT_ACTION_H

#include <stdbool.h>

#include "base/json.h"
#include "base/secret.h"
#include "wire/message.h"

/*
 * Invariants: (1) all strings are set, never NULL, except spool; (2) spool is NULL exactly when the request is not
 * recorded (a reading verb, or a verb outside of a run).
 */
typedef struct kt_agent_ctx {
	const char *state;   /* the agent's state folder, absolute */
	const char *node;    /* our name */
	const char *cluster; /* of the request */
	const char *run;     /* "-" outside of a run */
	const char *step;
	kt_role role;
	int64_t attempt;
	bool settle; /* answer out of the spool; what was never started is not started now. Only `once` verbs see it set
		      */
	int64_t epoch;
	const char *verb;
	const char *spool; /* this request's folder in the spool (0700), absolute; or NULL */
	int lock_fd;       /* the cluster's lock on this node, held by dispatch during a changing verb; -1: not held */
	/* Where progress goes and who may stop us; private to agent/serve.c, NULL in the detached runner. */
	void (*report)(void *arg, int64_t done, int64_t total, const char *text);
	bool (*stopping)(void *arg);
	void *arg;
} kt_agent_ctx;

/*
 * A handler. `args` is the request's object (borrowed), `result` an empty object to be filled (it is sent with every
 * status, so findings may stand there on failure). Returns
 *   KT_STATUS_OK       done; *err untouched
 *   KT_STATUS_RETRY    not now, nothing changed; *err says why
 *   KT_STATUS_FAILED   certainly not done and nothing half-way left; *err says why
 *   KT_STATUS_UNKNOWN  only for a verb that is `once`
 * A long handler asks kt_agent_stopping() now and then and, when it is true, cleans up and fails with KT_E_INTERRUPTED
 * (such an outcome is not recorded: the verb is done again when it is asked for again).
 */
typedef kt_status kt_action_fn(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err);

/* KT_STATUS_OK for KT_OK, KT_STATUS_UNKNOWN for KT_E_UNKNOWN, else KT_STATUS_FAILED: `return kt_action_end(work(...));`
 */
KT_MUST_CHECK kt_status kt_action_end(kt_code rc);

/* A progress frame to the coordinator; done and total may be -1. Scrubbed and shortened to 500 bytes. Never fails. */
void kt_agent_progress(kt_agent_ctx *ctx, int64_t done, int64_t total, const char *fmt, ...) KT_PRINTF(4, 5);
/* The coordinator is gone, or another one with a higher epoch has taken over. */
bool kt_agent_stopping(kt_agent_ctx *ctx);
/* KT_E_INTERRUPTED when kt_agent_stopping(), else KT_OK: `KT_TRY(kt_agent_go_on(ctx, err));` */
KT_MUST_CHECK kt_code kt_agent_go_on(kt_agent_ctx *ctx, kt_err *err);
/* An absolute path below the state folder, kt_buf owned by the caller: kt_agent_path(ctx, &b, err, "slots/%s.json",
 * name). Replaces the buffer's content. */
KT_MUST_CHECK kt_code kt_agent_path(const kt_agent_ctx *ctx, kt_buf *out, kt_err *err, const char *fmt, ...)
	KT_PRINTF(4, 5);
/* A member that must be an absolute path without "/../" and without newline. Borrowed. KT_E_INPUT. */
KT_MUST_CHECK kt_code kt_arg_path(const cJSON *args, const char *name, const char **out, kt_err *err);
/* A member that must be an array of strings (absent or null: *out is NULL). KT_E_INPUT names the member and the index.
 */
KT_MUST_CHECK kt_code kt_arg_strings(const cJSON *args, const char *name, const cJSON **out, kt_err *err);

/* The handlers. */
kt_action_fn kt_action_facts, kt_action_file_remove, kt_action_run_release; /* facts.c, remove.c, release.c */
kt_action_fn kt_action_service_stop, kt_action_service_start, kt_action_service_status; /* service.c */
kt_action_fn kt_action_key_transport, kt_action_key_retire, kt_action_key_receive;      /* key.c */
kt_action_fn kt_action_key_install, kt_action_key_forget, kt_action_key_locate;         /* key.c, locate.c */
kt_action_fn kt_action_env_install, kt_action_env_restore;                              /* env.c */
kt_action_fn kt_action_exec, kt_action_command, kt_action_probe,
	kt_action_log_check;                            /* exec.c, command.c, logcheck.c */
kt_action_fn kt_action_preflight, kt_action_gate_check; /* gate*.c */
kt_action_fn kt_action_backup_create, kt_action_backup_check, kt_action_backup_restore; /* backup*.c */

#endif

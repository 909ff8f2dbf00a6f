/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process that owns a token: module, login and sessions are in a child, so that a call that hangs, or a module that
 * crashes, takes nothing else with it. The child is the same program under a hidden subcommand (exec'd: it never forks
 * after C_Initialize), and talks to its parent over a socket pair (docs/FORMATS.md, "Token owner").
 *
 * Both sides are here. The parent: kt_owner_start, kt_owner_ask or kt_owner_call, kt_owner_end. One thread at a time
 * uses a kt_owner; the thread that starts one must live as long as the process (the kernel ends the owner with it).
 * The child: kt_owner_serve, first thing in the hidden subcommand.
 *
 * What is lost is found again: when a C_* call is longer under way than call_ms, when the child dies (the module's
 * crash), or when the token says that session or device are gone, the child is ended by its pid, the next one loads the
 * module anew and logs in, and a request that may be asked again is asked once more. A PIN that was refused, or of
 * which nobody knows whether it was (the owner was lost in C_Login), is not tried a second time: every later request
 * fails with that reason. Nor is it shown to another token: the serial of the first one goes into the URI of every
 * later login. Where the PIN could be read only once (pin-source fd: and env:, a person at the terminal) no second
 * owner is started; the error says so.
 */
#ifndef KT_PKCS11_OWNER_H
#define KT_PKCS11_OWNER_H

#include <sys/types.h>

#include "base/json.h"
#include "base/secret.h"
#include "pkcs11/token.h"

enum { KT_OWNER_SESSIONS = 8, KT_OWNER_CALL_MS = 60000 };

/* --- the parent --------------------------------------------------------------------------------------------------- */

typedef struct kt_owner kt_owner;

/* Strings are borrowed and must outlive the kt_owner. */
typedef struct kt_owner_options {
	const char *subcommand; /* the hidden one: /proc/self/exe is executed with it and two numbers of descriptors */
	const char *uri;        /* pkcs11: URI of the token, with its pin-source */
	int64_t call_ms;        /* how long one C_* call may take; 0: KT_OWNER_CALL_MS */
	const char *const *env; /* complete, NAME=value, ends with NULL; NULL: ours */
	/* Set by kt_owner_start when this PIN was refused, or nobody knows whether it was; not by a token that is
	 * locked, and so did not look at it. NULL: does not matter. */
	bool *refused;
	unsigned sessions; /* most sessions at a time, a thread each: 1..KT_OWNER_SESSIONS; 0: 1 */
} kt_owner_options;

/* Start the child, load the module, log in. Errors as kt_token_open; KT_E_HSM too when a call hung or the module
 * crashed. *out is the caller's: kt_owner_end. */
KT_MUST_CHECK kt_code kt_owner_start(const kt_owner_options *options, kt_owner **out, kt_err *err);
/* Close the sessions and the module in order, and wait for the child; one that does not end in time is ended by
 * SIGKILL. NULL is fine. */
void kt_owner_end(kt_owner *o);

/* One request. The caller fills in the first part and owns what it points to; the answer is the caller's: result by
 * cJSON_Delete, reply by kt_secret_free. */
typedef struct kt_owner_request {
	const char *verb;
	cJSON *args;             /* borrowed; NULL: {} */
	const kt_secret *secret; /* goes along as raw bytes, never as JSON; NULL: none */
	bool again;              /* safe to ask once more when nobody knows whether it was done */

	kt_code code;    /* KT_OK exactly when it was done; else `error` says why */
	cJSON *result;   /* an object when code is KT_OK, else NULL */
	kt_secret reply; /* empty when the handler left none */
	kt_err error;    /* whole, as the handler gave it: message and remedy */
} kt_owner_request;

/* Where requests come from, so that a long list of them need not be in memory at once. */
typedef struct kt_owner_source {
	/* The next request, NULL: there is none. It stays until it is given to `done`. */
	kt_owner_request *(*next)(void *cookie);
	/* It has its answer. Neither of the two may ask this owner anything. */
	void (*done)(void *cookie, kt_owner_request *request);
	void *cookie;
} kt_owner_source;

/* Ask them all, as many at a time as there are sessions, in no order; returns when each has its answer. */
void kt_owner_ask_from(kt_owner *o, const kt_owner_source *source);
/* The same of a list that is in memory. */
void kt_owner_ask(kt_owner *o, kt_owner_request *list, size_t n);
/* Ask one; request->code, with request->error in *err. */
KT_MUST_CHECK kt_code kt_owner_call(kt_owner *o, kt_owner_request *request, kt_err *err);

/* The token that it has open, as kt_token_info_json describes it. The owner's; until the next request. */
const cJSON *kt_owner_token(const kt_owner *o);
/* The child's process id for tests and for who counts its locked memory; 0 while there is none. */
pid_t kt_owner_pid(const kt_owner *o);

/* --- the child ---------------------------------------------------------------------------------------------------- */

/* One call as a handler gets it. It runs in a thread of its own session. */
typedef struct kt_owner_task {
	kt_token *token;         /* logged in; this thread's alone */
	const cJSON *args;       /* an object */
	const kt_secret *secret; /* len 0 when none came along */
	cJSON *result;           /* an empty object to fill */
	kt_secret *reply;        /* KT_SECRET_INIT: fill it, or leave it */
} kt_owner_task;

typedef struct kt_owner_handler {
	const char *verb;
	kt_code (*act)(const kt_owner_task *task, kt_err *err);
} kt_owner_handler;

/*
 * Serve the parent until it closes its end; argv are the words after the hidden subcommand. kt_secret_setup() was
 * called; signals are seen to here. Ends the sessions and the module in order. `handlers` ends with an empty row.
 */
KT_MUST_CHECK kt_code kt_owner_serve(int argc, char **argv, const kt_owner_handler *handlers, kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The owner's process as its parent has it: started, watched, reaped. Private to pkcs11/. */
#ifndef KT_PKCS11_OWNER_CHILD_H
#define KT_PKCS11_OWNER_CHILD_H

#include "pkcs11/owner.h"
#include "pkcs11/printed.h"
#include "pkcs11/watch.h"

/* Invariant: pid is 0 exactly when sock, errors are -1 and table is NULL. */
typedef struct kt_owner_child {
	pid_t pid;
	int sock;              /* to it */
	int errors;            /* what it, and its module, print on stderr */
	kt_watch_table *table; /* shared with it */
	kt_watch_seen seen;    /* what we saw of that */
	kt_printed printed;
} kt_owner_child;

#define KT_OWNER_CHILD_NONE ((kt_owner_child){.sock = -1, .errors = -1})

/* Execute ourselves under the hidden subcommand; pin_source as in the URI (a descriptor is handed over). */
KT_MUST_CHECK kt_code kt_owner_child_start(kt_owner_child *c, const kt_owner_options *options, const char *pin_source,
					   kt_err *err);
/* What it has printed goes to the log, line by line. */
void kt_owner_child_read_errors(kt_owner_child *c);
/* Close the conversation, wait for its end (SIGKILL when it takes longer than grace_ms), give everything back. The wait
 * status as of waitpid(2). */
int kt_owner_child_end(kt_owner_child *c, int64_t grace_ms);

#endif

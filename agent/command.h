/* SPDX-License-Identifier: Apache-2.0 */
/* Running a command object (docs/FORMATS.md, section 2): environment composed, keyrefs resolved, output scrubbed. */
#ifndef KT_AGENT_COMMAND_H
#define KT_AGENT_COMMAND_H

#include "agent/action.h"
#include "agent/match.h"
#include "base/spawn.h"

enum { KT_COMMAND_TAIL = 4096, KT_COMMAND_STDOUT = 256 * 1024 };

/*
 * A command made ready: everything that can fail before it is started has been done. Values of keyrefs and of the env
 * file stay in locked memory.
 */
typedef struct kt_command kt_command;

/* How it ended. Free with kt_command_result_free. All texts are scrubbed of registered keys and valid UTF-8. */
typedef struct kt_command_result {
	kt_spawn_end end; /* exit or signal, ms, timed_out, stopped */
	kt_buf tail;      /* the last KT_COMMAND_TAIL bytes of stdout and stderr in order of arrival */
	kt_buf out;       /* stdout alone, its first KT_COMMAND_STDOUT bytes */
	bool out_cut;     /* stdout was longer */
} kt_command_result;

/* Parse and resolve `command`. *out is the caller's: kt_command_free. KT_E_INPUT (malformed), KT_E_REFUSED (another
 * user when we are not root, unknown user), KT_E_KEY, KT_E_IO. */
KT_MUST_CHECK kt_code kt_command_prepare(const kt_agent_ctx *ctx, const cJSON *command, kt_command **out, kt_err *err);
void kt_command_free(kt_command *c);
/* argv, cwd, env, user and timeout, for kt_spawn; borrowed from `c`. */
const kt_spawn_what *kt_command_what(const kt_command *c);

/*
 * Prepare, run attached and wait. Ended by kt_agent_stopping() with KT_E_INTERRUPTED, by its timeout with KT_E_IO; a
 * command that ran and exited in whatever way is KT_OK. `match` (may be NULL) sees all of the scrubbed output.
 */
KT_MUST_CHECK kt_code kt_command_run(kt_agent_ctx *ctx, const cJSON *command, kt_match *match, kt_command_result *out,
				     kt_err *err);
void kt_command_result_free(kt_command_result *r);
/* What goes through a command beside its output for people; 0: nothing. */
typedef struct kt_command_pipe {
	int in_fd;  /* its stdin */
	int out_fd; /* all of its stdout goes there as it is, not scrubbed, and is not in the result's texts */
} kt_command_pipe;
/* The same with data that goes through it. KT_E_REFUSED unless it exits with 0: the last lines of its stderr. */
KT_MUST_CHECK kt_code kt_command_pipe_run(kt_agent_ctx *ctx, const cJSON *command, const kt_command_pipe *pipe,
					  kt_err *err);

/*
 * `expect` (may be NULL: {"exit":0}): {"exit":n, "has":[text], "lacks":[text], "hints":{text:remedy}} over how a
 * command ended; a hint is the remedy where its text is in `tail`.
 * KT_E_REFUSED says what differs, with the last lines of the output. `match` was made by kt_match_new from the same
 * object.
 */
KT_MUST_CHECK kt_code kt_expect_check(const cJSON *expect, const kt_spawn_end *end, const kt_match *match,
				      const char *tail, kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A database that only its own client can save (MariaDB, MySQL): what a command prints goes into the backup as one
 * member, and back into a command. It lies on the disk meanwhile, in a file that never has a name.
 */
#ifndef KT_AGENT_DUMP_H
#define KT_AGENT_DUMP_H

#include "agent/action.h"

/* What it is called in messages. */
#define KT_DUMP_WHAT "the database's dump"

/* Run the command of args[name] and keep its stdout; *fd is the caller's, at its beginning, -1 when there is no such
 * member. `beside`: a path on the file system that has the room. KT_E_REFUSED: it did not exit with 0, or printed
 * nothing; KT_E_IO. */
KT_MUST_CHECK kt_code kt_dump_make(kt_agent_ctx *ctx, const cJSON *args, const char *name, const char *beside, int *fd,
				   kt_err *err);
/* How large it will be about, in bytes: what the command prints, a number and nothing else. KT_E_REFUSED: it did not
 * exit with 0, or printed something else; KT_E_IO. */
KT_MUST_CHECK kt_code kt_dump_measure(kt_agent_ctx *ctx, const cJSON *command, uint64_t *bytes, kt_err *err);
/* Feed it, from its beginning, to the command. KT_E_REFUSED: it did not exit with 0. */
KT_MUST_CHECK kt_code kt_dump_load(kt_agent_ctx *ctx, const cJSON *command, int fd, kt_err *err);

#endif

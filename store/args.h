/* SPDX-License-Identifier: Apache-2.0 */
/* The command line, parsed, and the verbs. */
#ifndef KT_STORE_ARGS_H
#define KT_STORE_ARGS_H

#include "base/json.h"
#include "store/config.h"

typedef struct kt_store_args {
	const char *program; /* argv[0] */
	const char *verb;
	const char *config, *database, *creds, *depth; /* NULL: not given */
	bool help, json, foreground, content;
	bool join;
	int64_t shards; /* 0: not given */
	int64_t count, size, timeout_s;
	int words; /* what follows the verb */
	char **word;
} kt_store_args;

/* A verb prints its result on stdout, and leaves its failure to main(). *exit_code is what to exit with after KT_OK (0
 * unless the verb sets it). */
typedef kt_code kt_verb(const kt_store_args *args, const kt_store_config *cfg, int *exit_code, kt_err *err);

kt_verb kt_verb_start, kt_verb_stop, kt_verb_status;          /* lifecycle.c */
kt_verb kt_verb_put, kt_verb_get, kt_verb_list, kt_verb_fill; /* items.c */
kt_verb kt_verb_verify;                                       /* verify.c */
kt_verb kt_verb_rekey;                                        /* rekey.c */
kt_verb kt_verb_migrate;                                      /* migrate.c */
kt_verb kt_verb_probe;                                        /* probe.c */
kt_verb kt_verb_check_key;                                    /* checkkey.c */

/* Print a JSON value and a newline on stdout, and delete it. `value` may be NULL: out of memory then. KT_E_IO. */
KT_MUST_CHECK kt_code kt_store_print_json(cJSON *value, kt_err *err);
/* Text on stdout. KT_E_IO, for instance when the disk behind it is full. */
KT_MUST_CHECK kt_code kt_store_print(kt_err *err, const char *fmt, ...) KT_PRINTF(2, 3);

#endif

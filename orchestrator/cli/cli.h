/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: verbs and options are tables; help and man pages are printed from them. */
#ifndef KT_CLI_CLI_H
#define KT_CLI_CLI_H

#include <stdio.h>

#include "base/json.h"

typedef struct kt_cli kt_cli;

/* One option. A table ends with an entry of which `name` is NULL. */
typedef struct kt_cli_option {
	const char *name; /* long, without the dashes */
	char letter;      /* 0: none */
	const char *arg;  /* what the value is called in the help; NULL: a switch */
	const char *help;
} kt_cli_option;

typedef struct kt_cli_verb {
	const char *name;    /* one word, or a group and a word: "hsm list" */
	const char *args;    /* "[RUN]"; "" when it takes none */
	int args_max;        /* positional arguments */
	const char *summary; /* one line, no full stop */
	const char *text;    /* paragraphs for --help and the man page, '\n' between lines */
	const char *exits;   /* which exit codes beside 0, 1, 2 it has: "3 4 7" */
	const kt_cli_option *options;
	kt_code (*run)(kt_cli *cli, kt_err *err);
} kt_cli_verb;

enum { KT_CLI_OPTIONS = 32, KT_CLI_ARGS = 8 };

/* What was typed. */
struct kt_cli {
	const kt_cli_verb *verb;
	const char *value[KT_CLI_OPTIONS]; /* in the order of kt_cli_all_options; "" for a switch that was given */
	const char *arg[KT_CLI_ARGS];
	int args;
	bool json;
	bool terminal; /* stdout is one, and people read it */
	bool colour;
	FILE *out;
};

/* The value of an option, "" for a switch, NULL when it was not given. */
const char *kt_cli_get(const kt_cli *cli, const char *name);
bool kt_cli_has(const kt_cli *cli, const char *name);

/* All verbs; ends with a NULL name. */
const kt_cli_verb *kt_cli_verbs(void);
/* Is this the first word of verbs that have two? */
bool kt_cli_is_group(const char *word);
/* The verb of these words; `second` counts only behind a group, and may be NULL. KT_E_USAGE with what there is. */
KT_MUST_CHECK kt_code kt_cli_find_verb(const char *word, const char *second, const kt_cli_verb **out, kt_err *err);
/* Read argv. KT_E_USAGE with the nearest known word in the remedy. `--help`, `--version` and `help` become a verb too.
 */
KT_MUST_CHECK kt_code kt_cli_parse(int argc, char **argv, kt_cli *out, kt_err *err);

/* Help for people, and roff (man(7)) for keyturn(1) (`verb` NULL) or keyturn-VERB(1), keyturn-GROUP-VERB(1). */
void kt_cli_help(const kt_cli_verb *verb, FILE *out);
void kt_cli_help_group(const char *group, FILE *out);
void kt_cli_man(const kt_cli_verb *verb, FILE *out);

/* One JSON object as a line on cli->out. Takes ownership of `o`. */
KT_MUST_CHECK kt_code kt_cli_print_json(const kt_cli *cli, cJSON *o, kt_err *err);
/* Ask on /dev/tty; KT_E_REFUSED when there is no terminal or the answer is not yes. `remedy`: how to go without asking.
 */
KT_MUST_CHECK kt_code kt_cli_confirm(const char *question, const char *remedy, kt_err *err);

/* The verbs. */
kt_code kt_verb_init(kt_cli *cli, kt_err *err);
kt_code kt_verb_enroll(kt_cli *cli, kt_err *err);
kt_code kt_verb_doctor(kt_cli *cli, kt_err *err);
kt_code kt_verb_plan(kt_cli *cli, kt_err *err);
kt_code kt_verb_run(kt_cli *cli, kt_err *err);
kt_code kt_verb_resume(kt_cli *cli, kt_err *err);
kt_code kt_verb_rollback(kt_cli *cli, kt_err *err);
kt_code kt_verb_status(kt_cli *cli, kt_err *err);
kt_code kt_verb_runs(kt_cli *cli, kt_err *err);
kt_code kt_verb_backup_list(kt_cli *cli, kt_err *err);
kt_code kt_verb_backup_verify(kt_cli *cli, kt_err *err);
kt_code kt_verb_backup_restore(kt_cli *cli, kt_err *err);
kt_code kt_verb_hsm_list(kt_cli *cli, kt_err *err);
kt_code kt_verb_hsm_probe(kt_cli *cli, kt_err *err);
kt_code kt_verb_hsm_mechanisms(kt_cli *cli, kt_err *err);
kt_code kt_verb_key_generate(kt_cli *cli, kt_err *err);
kt_code kt_verb_key_policy(kt_cli *cli, kt_err *err);
kt_code kt_verb_key_list(kt_cli *cli, kt_err *err);
kt_code kt_verb_key_show(kt_cli *cli, kt_err *err);
kt_code kt_verb_key_wrap(kt_cli *cli, kt_err *err);
kt_code kt_verb_key_unwrap(kt_cli *cli, kt_err *err);
kt_code kt_verb_key_escrow(kt_cli *cli, kt_err *err);
kt_code kt_verb_key_recover(kt_cli *cli, kt_err *err);
kt_code kt_verb_key_rewrap(kt_cli *cli, kt_err *err);
kt_code kt_verb_key_verify(kt_cli *cli, kt_err *err);
kt_code kt_verb_key_deactivate(kt_cli *cli, kt_err *err);
kt_code kt_verb_key_destroy(kt_cli *cli, kt_err *err);
kt_code kt_verb_help(kt_cli *cli, kt_err *err);
kt_code kt_verb_version(kt_cli *cli, kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* For verbs that load a PKCS#11 module into keyturn's own process: calls that hang, and modules that print. */
#ifndef KT_CLI_GUARD_H
#define KT_CLI_GUARD_H

#include "orchestrator/cli/cli.h"

/*
 * Before the module is loaded: from now on a C_* call that takes longer than call_ms ends the process with an error
 * that says so (told as main tells errors), and what is printed on descriptor 2 goes to the log, which keeps its place.
 * Nothing else may be printed there until kt_cli_unguard.
 */
KT_MUST_CHECK kt_code kt_cli_guard(const kt_cli *cli, int64_t call_ms, kt_err *err);
/* Descriptor 2 is stderr again. Harmless where there was no guard. */
void kt_cli_unguard(void);

/* What went wrong and what to do next: for people on stderr, for programs as JSON on stdout too. */
void kt_cli_tell(const kt_cli *cli, const kt_err *err);

#endif

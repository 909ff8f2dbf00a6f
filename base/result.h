/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Results and errors.
 *
 * Every function that can fail returns a kt_code that the compiler will not let the caller drop, and explains
 * itself in a caller-owned kt_err (never allocated, never owned by the callee). An error says what, where and why
 * in `msg`, and what to do next in `remedy`. Nothing below main() exits the process.
 */
#ifndef KT_BASE_RESULT_H
#define KT_BASE_RESULT_H

#include <stddef.h>

/* The classes of failure. The value is also the exit code of the commands (docs: keyturn(1), EXIT STATUS). */
typedef enum kt_code {
	KT_OK = 0,
	KT_E_INTERNAL = 1,    /* a bug or an exhausted resource of ours */
	KT_E_USAGE = 2,       /* the command line is wrong */
	KT_E_INPUT = 3,       /* a file, frame, blob or row that we were given is malformed */
	KT_E_REFUSED = 4,     /* a gate or a check said no; nothing was changed */
	KT_E_ROLLED_BACK = 5, /* the run failed and everything is back on the old key */
	KT_E_HELD = 6,        /* a person must decide; the message says what */
	KT_E_HSM = 7,         /* token, module, PIN or mechanism */
	KT_E_UNREACHABLE = 8, /* a node, AWS KMS or a database server could not be asked */
	KT_E_AUDIT = 9,       /* journal or audit trail cannot be written or does not verify */
	KT_E_IO = 10,         /* operating system: permission, missing file, full disk */
	KT_E_KEY = 11,        /* a key is missing, of wrong size or mode, or is not the one that opens the data */
	KT_E_BUSY = 12,       /* somebody else holds the lock; the message names them */
	KT_E_UNKNOWN = 13,    /* it was started and its outcome is not known */
	KT_E_INTERRUPTED = 14 /* Ctrl-C or a signal; the run can be resumed */
} kt_code;

#define KT_MUST_CHECK __attribute__((warn_unused_result))
#define KT_PRINTF(f, a) __attribute__((format(printf, f, a)))

enum { KT_ERR_MSG = 1024, KT_ERR_REMEDY = 512 };

/* Invariant: code == KT_OK exactly when msg is empty. */
typedef struct kt_err {
	kt_code code;
	char msg[KT_ERR_MSG];
	char remedy[KT_ERR_REMEDY];
} kt_err;

#define KT_ERR_INIT ((kt_err){.code = KT_OK})

/* Fill *err (which may be NULL) and return `code`, so that a failing function ends in `return kt_fail(...)`.
 * `remedy` may be NULL. Neither text may hold a secret. */
KT_MUST_CHECK kt_code kt_fail(kt_err *err, kt_code code, const char *remedy, const char *fmt, ...) KT_PRINTF(4, 5);

/* Like kt_fail, adds ": " and strerror(errnum); ENOSPC, EACCES and ENOENT get a fitting remedy where `remedy` is NULL.
 */
KT_MUST_CHECK kt_code kt_fail_errno(kt_err *err, int errnum, const char *remedy, const char *fmt, ...) KT_PRINTF(4, 5);

/* Put "text: " in front of the message of an error that passes by; returns err->code (or `code` if err is NULL). */
KT_MUST_CHECK kt_code kt_err_prefix(kt_err *err, kt_code code, const char *fmt, ...) KT_PRINTF(3, 4);

/* The stable lower-case name of a class ("refused", "hsm", ...), and back; an unknown name gives KT_E_INTERNAL. */
const char *kt_code_name(kt_code code);
kt_code kt_code_from_name(const char *name);

#define KT_TRY(expr)                                                                                                   \
	do {                                                                                                           \
		kt_code kt_try_code = (expr);                                                                          \
		if (kt_try_code != KT_OK)                                                                              \
			return kt_try_code;                                                                            \
	} while (0)

/* For functions that clean up: `rc` must be a kt_code in scope. */
#define KT_TRY_GOTO(expr, label)                                                                                       \
	do {                                                                                                           \
		rc = (expr);                                                                                           \
		if (rc != KT_OK)                                                                                       \
			goto label;                                                                                    \
	} while (0)

/* For the rare case in which a failure has nowhere to go (cleanup after another failure). Says so in the code. */
#define KT_IGNORE(expr)                                                                                                \
	do {                                                                                                           \
		kt_code kt_ignored = (expr);                                                                           \
		(void)kt_ignored;                                                                                      \
	} while (0)

#endif

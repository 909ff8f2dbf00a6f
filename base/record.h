/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records in a state folder (agent, ledger): text, and a last line with its SHA-256, so that a flipped bit or a lost
 * end is certain to be seen (docs/FORMATS.md, section 3). What is damaged is never taken for "nothing there".
 */
#ifndef KT_BASE_RECORD_H
#define KT_BASE_RECORD_H

#include "base/file.h"
#include "base/json.h"

/* Of every record; paths in the state folder are shorter, too. */
enum { KT_RECORD_PATH = 4096 };
extern const kt_file_attr kt_record_private; /* 0600, ours */

/* Add the last line to a record's text, after a newline where it has none at its end. */
KT_MUST_CHECK kt_code kt_record_seal(kt_buf *text, kt_err *err);
/*
 * Read a record, at most out->max bytes, into `out` without its last line; *found is false when nothing is there.
 * KT_E_AUDIT with `remedy`: it is damaged, and the message names the file. KT_E_IO: it cannot be read.
 */
KT_MUST_CHECK kt_code kt_record_read(const char *path, const char *remedy, bool *found, kt_buf *out, kt_err *err);
/* The same for JSON; *out is the caller's, NULL when nothing is there. */
KT_MUST_CHECK kt_code kt_record_read_json(const char *path, const char *remedy, cJSON **out, kt_err *err);
/* Is anything there? An error is not "no". */
KT_MUST_CHECK kt_code kt_record_exists(const char *path, bool *found, kt_err *err);
/* Seal the text and write it with `attr`, atomically and durably, over what is there. */
KT_MUST_CHECK kt_code kt_record_replace(const char *path, kt_buf *text, const kt_file_attr *attr, kt_err *err);
/* The same, 0600, where nothing is: *made is false when something is there already; durable as well. */
KT_MUST_CHECK kt_code kt_record_create(const char *path, kt_buf *text, bool *made, kt_err *err);

/* What cannot be recorded must not be done: "<what> cannot be recorded" in front of *err, whose class becomes
 * KT_E_AUDIT. Returns that. */
KT_MUST_CHECK kt_code kt_record_failed(kt_err *err, const char *what);

#endif

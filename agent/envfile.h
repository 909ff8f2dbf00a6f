/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Environment files in systemd's EnvironmentFile= syntax (systemd.exec(5)). Such a file may hold a key, so its text and
 * its values live in locked memory. Comments, order, blank and unknown lines survive a change.
 */
#ifndef KT_AGENT_ENVFILE_H
#define KT_AGENT_ENVFILE_H

#include <stdbool.h>

#include "base/secret.h"

enum { KT_ENVFILE_MAX = 16000, KT_ENVFILE_NAME = 256 };

typedef struct kt_envfile kt_envfile;

/* Read and parse; *out is the caller's: kt_envfile_free. KT_E_INPUT names the line: a quote that is not closed, NUL, a
 * comment ending in a backslash (versions of systemd disagree), or larger than KT_ENVFILE_MAX. KT_E_IO. */
KT_MUST_CHECK kt_code kt_envfile_load(const char *path, kt_envfile **out, kt_err *err);
KT_MUST_CHECK kt_code kt_envfile_parse(const char *name, const void *text, size_t n, kt_envfile **out, kt_err *err);
void kt_envfile_free(kt_envfile *f);

/* The variables in force (the last assignment of a name wins), in order; i from 0. Borrowed. */
size_t kt_envfile_count(const kt_envfile *f);
const char *kt_envfile_name(const kt_envfile *f, size_t i);
const kt_secret *kt_envfile_value(const kt_envfile *f, size_t i);
/* The value of one name; NULL when it is not set. An empty value is a secret with len 0 and data NULL. */
const kt_secret *kt_envfile_get(const kt_envfile *f, const char *name);

/* Set in place of the last assignment (earlier ones go), or at the end; quoted as needed. KT_E_INPUT: bad name, or a
 * value with a newline or another control character (a tab is fine). */
KT_MUST_CHECK kt_code kt_envfile_set(kt_envfile *f, const char *name, const kt_secret *value, kt_err *err);
/* Remove every assignment of a name; fine when there is none. */
KT_MUST_CHECK kt_code kt_envfile_unset(kt_envfile *f, const char *name, kt_err *err);
/* The whole text, borrowed until the next change. */
const kt_secret *kt_envfile_text(const kt_envfile *f);
/* [A-Za-z_][A-Za-z0-9_]*, at most 255. */
bool kt_envfile_name_ok(const char *name);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The credentials file of `rekey -d FILE` (--internal-db-creds): flat YAML, a `key: value` a line, comments with #,
 * values bare or in quotes. Here `dialect: sqlite` and `database: PATH` are understood; another dialect is refused by
 * name.
 */
#ifndef KT_STORE_CREDS_H
#define KT_STORE_CREDS_H

#include "base/result.h"

/* The database's absolute path (relative ones: to the file's folder); the caller's. KT_E_INPUT with file and line; no
 * value of the file but the dialect is ever printed, since it may hold a password. */
KT_MUST_CHECK kt_code kt_creds_database(const char *path, char **database, kt_err *err);

#endif

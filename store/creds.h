/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The credentials file of `-d FILE` (--internal-db-creds) and of store.json: flat YAML, a `key: value` a line, comments
 * with #, values bare or in quotes. Documented by Looker: dialect (mysql; here also mariadb and sqlite), host,
 * username, password, database, port, ssl. Ours: socket (path of a Unix socket), ssl_ca (path). Other keys are passed
 * over.
 */
#ifndef KT_STORE_CREDS_H
#define KT_STORE_CREDS_H

#include "store/address.h"

/* Pure: no file is read. `text` is cut into pieces. `path` is the file's, for messages and for the paths in it, which
 * are relative to its folder. KT_E_INPUT with file and line; of the values only the dialect is ever printed, since any
 * other may be the password in the wrong place. After a failure there is nothing to free. */
KT_MUST_CHECK kt_code kt_creds_parse(char *text, size_t len, const char *path, kt_db_address *out, kt_err *err);
/* The same of a file. */
KT_MUST_CHECK kt_code kt_creds_load(const char *path, kt_db_address *out, kt_err *err);

#endif

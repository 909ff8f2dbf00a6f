/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a database is, read out of a path, a URL or a credentials file.
 *
 * URL: mariadb://USER@HOST[:PORT]/DATABASE[?OPTION=VALUE&...], also with mysql: in front; sqlite:PATH is a path.
 * Options: password_file=PATH (first line), socket=PATH (a Unix socket instead of host and port), ssl=true,
 * ssl_ca=PATH. A password within the URL is refused: URLs stand in argument lists and in files that others read.
 */
#ifndef KT_STORE_ADDRESS_H
#define KT_STORE_ADDRESS_H

#include <stdbool.h>

#include "base/secret.h"
#include "store/db.h"

/* Texts are owned by the struct, NULL where they do not apply. */
typedef struct kt_db_address {
	char *name;  /* for people, and the file of an SQLite database: never with a password */
	bool server; /* MariaDB or MySQL; the rest is about it */
	char *host, *user, *database, *socket, *ssl_ca;
	int port;
	bool ssl; /* encrypted, and the server's certificate verified */
	kt_secret password;
} kt_db_address;

/* Read what `place` names. KT_E_INPUT: malformed, with the place in it. KT_E_IO: a file cannot be read. KT_E_KEY: a
 * file with a password can be read by everybody. After a failure there is nothing to free. */
KT_MUST_CHECK kt_code kt_db_address_load(kt_db_place place, kt_db_address *out, kt_err *err);
void kt_db_address_free(kt_db_address *a);

/* The URL's syntax alone, no file is read: *password_file is the caller's, NULL when there is none. */
KT_MUST_CHECK kt_code kt_db_address_parse(const char *url, kt_db_address *out, char **password_file, kt_err *err);
/* Set the name of a server's database out of the rest. */
KT_MUST_CHECK kt_code kt_db_address_name(kt_db_address *a, kt_err *err);
/* Does a text name a database by URL, rather than a file by its path? */
bool kt_db_address_is_url(const char *text);

/* A file that may hold a password, into locked memory, at most KT_CREDS_MAX bytes. *exposed: others may read it. */
enum { KT_CREDS_MAX = 4000, KT_DB_PORT = 3306 };
KT_MUST_CHECK kt_code kt_db_address_read_file(const char *path, kt_secret *text, bool *exposed, kt_err *err);
/* Fails, with the words for such a file that does hold a password. */
KT_MUST_CHECK kt_code kt_db_address_exposed(const char *path, kt_err *err);

#endif

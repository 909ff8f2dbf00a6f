/* SPDX-License-Identifier: Apache-2.0 */
/* store.json: where a node finds its database, its folders and its port. docs/FORMATS.md, "keyturn-store". */
#ifndef KT_STORE_CONFIG_H
#define KT_STORE_CONFIG_H

#include <stdbool.h>

#include "base/result.h"
#include "store/db.h"

/* All paths are absolute, and of database and creds there is exactly one. Everything is owned by the struct:
 * kt_store_config_free. */
typedef struct kt_store_config {
	char *file;     /* the configuration itself; "" when --database was given without any */
	char *database; /* a path or a URL; NULL: by creds */
	char *creds;    /* of the credentials file; NULL: by database */
	char *node;
	char *host;              /* of the listener */
	int port;                /* 0..65535, 0: any */
	char *cache;             /* a folder; NULL: no cache (another database than the configured one is looked at) */
	char *log;               /* NULL: no log */
	char *pid;               /* NULL without a configuration: such a node cannot be started */
	int heartbeat_seconds;   /* 1..3600 */
	int live_window_seconds; /* 1..86400, more than one heartbeat */
} kt_store_config;

/* How the configuration is to be found; each may be NULL. */
typedef struct kt_store_where {
	const char *config;   /* --config */
	const char *database; /* --database: a path or a URL that overrides; cache and log are off then */
	const char *creds;    /* -d: a credentials file that overrides */
	const char *program;  /* argv[0] */
} kt_store_where;

/*
 * --config, else $KEYTURN_STORE_CONFIG, else store.json beside the program as it was called, else in the working
 * folder. KT_E_IO: there is none (the message lists where it was looked for), or it cannot be read. KT_E_INPUT: it is
 * malformed, with file, line and JSON path.
 */
KT_MUST_CHECK kt_code kt_store_config_load(const kt_store_where *where, kt_store_config *out, kt_err *err);
void kt_store_config_free(kt_store_config *cfg);

/* Where the database is; good for as long as the configuration. */
kt_db_place kt_store_place(const kt_store_config *cfg);

/* `path` made absolute: relative to `folder`, or to the working folder when that is NULL. *out is the caller's. */
KT_MUST_CHECK kt_code kt_store_absolute(const char *folder, const char *path, char **out, kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* A MariaDB server for a benchmark: data in the working folder, a Unix socket, no network; with two keys of
 * file_key_management, ids 1 and 2. */
#ifndef KT_BENCH_MARIADB_H
#define KT_BENCH_MARIADB_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/result.h"

typedef struct bench_mariadb {
	pid_t pid;
	char folder[300]; /* data; removed at the end */
	char tmp[64];     /* the socket's folder: its path must be short */
	char socket[80];
	char url[200]; /* of the database `bench`, for store/db.h */
} bench_mariadb;

/* Is there one on this machine? */
bool bench_mariadb_present(void);
/* Make and start it below `folder`, with an empty database. The caller ends it with bench_mariadb_stop, also after a
 * failure. */
KT_MUST_CHECK kt_code bench_mariadb_start(bench_mariadb *m, const char *folder, kt_err *err);
void bench_mariadb_stop(bench_mariadb *m);

#endif

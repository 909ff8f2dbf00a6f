/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to the files of the MariaDB back end (store/db_mariadb.c and mariadb_*.c): the link to a server, and what the
 * parts of the back end have of it. Errors as store/db.h has them.
 */
#ifndef KT_STORE_MARIADB_H
#define KT_STORE_MARIADB_H

#include <mysql.h>
#include <string.h>

#include "store/db_backend.h"

enum { COLUMNS = 10 };

/* Their texts: mariadb_link.c. */
typedef enum statement {
	LOCK,
	SETTLE,
	META,
	SET_META,
	KEK_GET,
	KEK_CLEAR,
	KEK_PUT,
	LEGACY_GET,
	LEGACY_DROP,
	ITEM_GET,
	ITEM_PUT,
	ITEM_COUNT,
	ITEM_EACH,
	ITEM_NAMES,
	ITEM_HEADS,
	ITEM_WHOLE,
	ITEM_AFTER,
	ITEM_EDIT,
	ITEM_WRITE,
	ITEM_REPLACE,
	NODE_PUT,
	NODE_BEAT,
	NODE_REMOVE,
	NODE_EACH,
	REKEY_GET,
	REKEY_PUT,
	REKEY_CLEAR,
	RANGES,
	ROWS,
	RANGE_PUT,
	RANGE_CLEAR,
	RANGE_FREE,
	RANGE_CLAIM,
	RANGE_LOCK,
	RANGE_SAVE,
	PRIVILEGE,
	CLIENTS,
	STATEMENTS
} statement;

/* A column of the row at hand: a number, or bytes (with a NUL behind them). */
typedef struct cell {
	long long number;
	kt_buf bytes;
	unsigned long len;
	my_bool null, cut;
} cell;

typedef struct kt_mariadb {
	kt_db base; /* first */
	MYSQL *my;  /* NULL: not connected */
	kt_db_address address;
	int busy_ms;
	bool in_transaction;
	bool broken;   /* the connection was lost */
	unsigned code; /* of the last failure */
	bool bulk;     /* the server takes many rows of values with one statement (MariaDB, not MySQL) */
	MYSQL_STMT *prepared[STATEMENTS];
	cell row[COLUMNS];
} kt_mariadb;

static inline kt_mariadb *kt_mariadb_of(kt_db *base)
{
	return (kt_mariadb *)(void *)base;
}

/* A value for a statement: bytes, or a number where they are NULL. */
typedef struct value {
	const void *bytes;
	size_t n;
	int64_t number;
} value;

static inline value number(int64_t n)
{
	return (value){.number = n};
}

static inline value bytes(const void *p, size_t n)
{
	return (value){.bytes = p ? p : "", .n = n};
}

static inline value text(const char *s)
{
	return bytes(s, strlen(s));
}

#define VALUES(...) (const value[]){__VA_ARGS__}, sizeof((const value[]){__VA_ARGS__}) / sizeof(value)
#define NO_VALUES NULL, 0

/* ---- the link: mariadb_link.c ---- */

/* What the connection, or a statement, has failed with, as an error; `what` was to be done. */
KT_MUST_CHECK kt_code kt_mariadb_failed(kt_mariadb *db, const char *what, kt_err *err);
KT_MUST_CHECK kt_code kt_mariadb_statement_failed(kt_mariadb *db, MYSQL_STMT *s, const char *what, kt_err *err);
/* KT_E_INPUT: the tables hold what they cannot. */
KT_MUST_CHECK kt_code kt_mariadb_damaged(const kt_mariadb *db, const char *what, kt_err *err);
/* Close the connection with all that was prepared on it. */
void kt_mariadb_disconnect(kt_mariadb *db);
/* A new connection, with the session set up; whatever was before is closed. */
KT_MUST_CHECK kt_code kt_mariadb_connect_once(kt_mariadb *db, kt_err *err);
/* Outside of a transaction a lost connection is made anew, for as long as a lock would be waited for. */
KT_MUST_CHECK kt_code kt_mariadb_ensure(kt_mariadb *db, kt_err *err);
/* The statement on this connection; it belongs to the handle. */
KT_MUST_CHECK kt_code kt_mariadb_prepare(kt_mariadb *db, statement which, MYSQL_STMT **out, kt_err *err);
/* Carry a statement out; its rows come by next_row(), and end_rows() must follow where it has any. `in`: its n
 * values. */
KT_MUST_CHECK kt_code kt_mariadb_execute(kt_mariadb *db, statement which, const value *in, size_t n, const char *what,
					 MYSQL_STMT **out, kt_err *err);
/* The next row into db->row; *more false: there is none. */
KT_MUST_CHECK kt_code kt_mariadb_next_row(kt_mariadb *db, MYSQL_STMT *s, statement which, bool *more, kt_err *err);
/* Give the result back; returns `rc`, or how that failed. */
KT_MUST_CHECK kt_code kt_mariadb_end_rows(kt_mariadb *db, MYSQL_STMT *s, kt_code rc, kt_err *err);
/* A statement without rows; *rows (may be NULL): how many it found. */
KT_MUST_CHECK kt_code kt_mariadb_change(kt_mariadb *db, statement which, const value *in, size_t n, const char *what,
					uint64_t *rows, kt_err *err);
/* The first row, and how many there are, counted up to two. */
KT_MUST_CHECK kt_code kt_mariadb_one_row(kt_mariadb *db, statement which, const value *in, size_t n, const char *what,
					 int *rows, kt_err *err);
/* SQL without values. */
KT_MUST_CHECK kt_code kt_mariadb_run(kt_mariadb *db, const char *query, const char *what, kt_err *err);

/* ---- what store/db_backend.h asks for ---- */

/* mariadb_link.c */
void kt_mariadb_rollback(kt_db *base);
KT_MUST_CHECK kt_code kt_mariadb_begin(kt_db *base, bool write, kt_err *err);
KT_MUST_CHECK kt_code kt_mariadb_commit(kt_db *base, kt_err *err);
KT_MUST_CHECK kt_code kt_mariadb_settle(kt_db *base, kt_err *err);

/* mariadb_items.c */
KT_MUST_CHECK kt_code kt_mariadb_item_get(kt_db *base, const char *name, kt_buf *envelope, int64_t *version,
					  bool *found, kt_err *err);
KT_MUST_CHECK kt_code kt_mariadb_item_put(kt_db *base, const char *name, const kt_buf *envelope, kt_err *err);
KT_MUST_CHECK kt_code kt_mariadb_item_count(kt_db *base, int64_t *count, kt_err *err);
KT_MUST_CHECK kt_code kt_mariadb_item_each(kt_db *base, kt_db_span *span, kt_db_item_fn *fn, void *arg, kt_err *err);
KT_MUST_CHECK kt_code kt_mariadb_item_names(kt_db *base, kt_db_item_fn *fn, void *arg, kt_err *err);
KT_MUST_CHECK kt_code kt_mariadb_item_edit(kt_db *base, kt_db_span *span, size_t head_len, size_t from,
					   kt_db_edit_fn *fn, void *arg, int64_t *count, kt_err *err);
KT_MUST_CHECK kt_code kt_mariadb_item_convert(kt_db *base, int64_t *after, int64_t limit, kt_db_convert_fn *fn,
					      void *arg, int64_t *seen, kt_err *err);

/* mariadb_shards.c */
KT_MUST_CHECK kt_code kt_mariadb_rekey_get(kt_db *base, kt_db_rekey *out, bool *open, kt_err *err);
KT_MUST_CHECK kt_code kt_mariadb_rekey_open(kt_db *base, const kt_db_rekey *rekey, kt_err *err);
KT_MUST_CHECK kt_code kt_mariadb_rekey_close(kt_db *base, kt_err *err);
KT_MUST_CHECK kt_code kt_mariadb_range_claim(kt_db *base, const char *worker, int64_t lease_ms, kt_db_range *range,
					     bool *got, kt_err *err);
KT_MUST_CHECK kt_code kt_mariadb_range_begin(kt_db *base, kt_db_range *range, bool *ours, kt_err *err);
KT_MUST_CHECK kt_code kt_mariadb_range_save(kt_db *base, const kt_db_range *range, int64_t lease_ms, bool done,
					    kt_err *err);

/* mariadb_nodes.c */
KT_MUST_CHECK kt_code kt_mariadb_node_put(kt_db *base, const kt_db_node *node, kt_err *err);
KT_MUST_CHECK kt_code kt_mariadb_node_beat(kt_db *base, const char *name, int64_t pid, int64_t now_ms, bool *known,
					   kt_err *err);
KT_MUST_CHECK kt_code kt_mariadb_node_remove(kt_db *base, const char *name, int64_t pid, kt_err *err);
KT_MUST_CHECK kt_code kt_mariadb_node_each(kt_db *base, kt_db_node_fn *fn, void *arg, kt_err *err);
KT_MUST_CHECK kt_code kt_mariadb_client_each(kt_db *base, kt_db_client_fn *fn, void *arg, kt_err *err);

#endif

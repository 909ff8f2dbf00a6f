/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store's database, which all nodes share: one interface and two back ends, SQLite (db_sqlite.c: one file, the
 * default) and MariaDB or MySQL through its client library (db_mariadb.c). Nothing above knows which. Tables:
 * docs/FORMATS.md, "keyturn-store".
 *
 * What was committed survives a power cut, a kill in the middle of a transaction leaves the state before it. With
 * SQLite the file alone is everything while nobody is connected (rollback journal, synchronous=EXTRA).
 *
 * Errors: KT_E_IO (cannot be opened, read or written, disk full, no privilege), KT_E_INPUT (not such a database,
 * corrupted, a row that cannot be), KT_E_BUSY (another process holds it; a deadlock), KT_E_UNREACHABLE (the server
 * cannot be asked, or the connection was lost: what was in the transaction is rolled back by the server), each with the
 * database. A lost connection is made anew by the next call that is outside of a transaction. One thread at a time per
 * handle.
 */
#ifndef KT_STORE_DB_H
#define KT_STORE_DB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/secret.h"

typedef struct kt_db kt_db;

/* Where a database is: one of the two is given. Both are the caller's, for as long as the handle. */
typedef struct kt_db_place {
	const char
		*text; /* the absolute path of an SQLite file, or mariadb://USER@HOST:PORT/DATABASE (store/address.h) */
	const char *creds; /* the absolute path of a credentials file (store/creds.h) */
} kt_db_place;

typedef enum kt_db_mode {
	KT_DB_LOOK, /* it must exist; write access to a file is used when there is any, to roll a crashed writer back */
	KT_DB_WRITE, /* it must exist */
	KT_DB_CREATE /* the file, or the tables in a server's database, are made when they do not exist */
} kt_db_mode;

/* `busy_ms`: how long to wait for another process. An empty or absent (KT_DB_CREATE) file is fine: not initialised yet.
 * *out is the caller's: kt_db_close (NULL is fine), which also rolls an open transaction back. */
KT_MUST_CHECK kt_code kt_db_open(kt_db_place place, kt_db_mode mode, int busy_ms, kt_db **out, kt_err *err);
void kt_db_close(kt_db *db);
/* The database for people: its path or URL, without any password. */
const char *kt_db_name(const kt_db *db);

/* *absent: there is no file at all, in a folder that can be looked into (a server's database never counts as absent).
 * KT_E_IO when that cannot be told. */
KT_MUST_CHECK kt_code kt_db_absent(kt_db_place place, bool *absent, kt_err *err);

/* A transaction. `write` takes the one write lock at once: nobody else writes until its end. Without a transaction,
 * every call is its own. */
KT_MUST_CHECK kt_code kt_db_begin(kt_db *db, bool write, kt_err *err);
/* KT_E_UNKNOWN: the connection was lost while the server committed. Whoever has the write lock afterwards sees which it
 * is. */
KT_MUST_CHECK kt_code kt_db_commit(kt_db *db, kt_err *err);
/* Wait until no writing transaction is under way, not even one that a server still commits for a process that was
 * killed: what is read afterwards stays. Not within a transaction; an uninitialised database is fine. */
KT_MUST_CHECK kt_code kt_db_settle(kt_db *db, kt_err *err);
/* Harmless without a transaction. */
void kt_db_rollback(kt_db *db);

/* Is there a schema? KT_E_INPUT when the file is another program's database or of a newer version. */
KT_MUST_CHECK kt_code kt_db_initialized(kt_db *db, bool *yes, kt_err *err);
/* Make the tables, epoch 1. In a write transaction. */
KT_MUST_CHECK kt_code kt_db_create_schema(kt_db *db, kt_err *err);

KT_MUST_CHECK kt_code kt_db_epoch(kt_db *db, int64_t *epoch, kt_err *err);
KT_MUST_CHECK kt_code kt_db_set_epoch(kt_db *db, int64_t epoch, kt_err *err);

/* The KEK record, appended. KT_E_INPUT when there is none or more than one. */
KT_MUST_CHECK kt_code kt_db_kek_get(kt_db *db, kt_buf *record, kt_err *err);
/* Put this record in the place of any other; nothing of the old one stays in an SQLite file (secure_delete). */
KT_MUST_CHECK kt_code kt_db_kek_replace(kt_db *db, uint32_t generation, const kt_buf *record, kt_err *err);

KT_MUST_CHECK kt_code kt_db_has_kek(kt_db *db, bool *yes, kt_err *err);

/* Is there a legacy key, and so items of the legacy form perhaps? It is the caller's (kt_secret_free) where there is
 * one and `key` is not NULL. KT_E_INPUT: there is not one key. */
KT_MUST_CHECK kt_code kt_db_legacy_get(kt_db *db, kt_secret *key, bool *legacy, kt_err *err);
/* Remove it; nothing of the key stays in an SQLite file. */
KT_MUST_CHECK kt_code kt_db_legacy_drop(kt_db *db, kt_err *err);

/* One item's envelope, appended, and its version. `envelope` may be NULL. */
KT_MUST_CHECK kt_code kt_db_item_get(kt_db *db, const char *name, kt_buf *envelope, int64_t *version, bool *found,
				     kt_err *err);
/* Insert or replace; the version goes up. */
KT_MUST_CHECK kt_code kt_db_item_put(kt_db *db, const char *name, const kt_buf *envelope, kt_err *err);
KT_MUST_CHECK kt_code kt_db_item_count(kt_db *db, int64_t *count, kt_err *err);

/* Some of the items, by row: up to `limit` of them after the row `after`, up to the row `upto`. A call moves `after` to
 * the last row that it has seen. */
typedef struct kt_db_span {
	int64_t after, upto, limit;
} kt_db_span;

/* Called for every item, in the order of insertion; what it returns other than KT_OK ends the walk. It must not use the
 * database. `envelope` may be
 * NULL (kt_db_item_names). `bad` is NULL, or says why the row cannot be an item (then `name` may be made up, and the
 * rest is empty). */
typedef kt_code kt_db_item_fn(void *arg, const char *name, const void *envelope, size_t len, const char *bad,
			      kt_err *err);
/* `span` NULL: every item. */
KT_MUST_CHECK kt_code kt_db_item_each(kt_db *db, kt_db_span *span, kt_db_item_fn *fn, void *arg, kt_err *err);
KT_MUST_CHECK kt_code kt_db_item_names(kt_db *db, kt_db_item_fn *fn, void *arg, kt_err *err);

/*
 * Edit envelopes in place, every one (`span` NULL) or those of a span: `fn` gets its first `head_len` bytes
 * (KT_DB_WHOLE: all of it) and the whole length, and what it leaves from `from` on is written back. Envelopes keep
 * their length, so that a small head touches only the pages that hold the heads. In a write transaction. *count is the
 * number of items edited. A row that cannot be an item is KT_E_INPUT with its name. `fn` may be called in another
 * thread while this one is at the database (store/edit.h), one item after the other in the order of rows, and never
 * after the return.
 */
#define KT_DB_WHOLE SIZE_MAX
typedef kt_code kt_db_edit_fn(void *arg, const char *name, uint8_t *head, size_t total, kt_err *err);
KT_MUST_CHECK kt_code kt_db_item_edit(kt_db *db, kt_db_span *span, size_t head_len, size_t from, kt_db_edit_fn *fn,
				      void *arg, int64_t *count, kt_err *err);

/*
 * Give up to `limit` items after the row *after, in the order of rows, to `fn`, which may append other bytes to `out`:
 * they take the place of the envelope, and the version goes up. *after is the last row then, *seen how many there were.
 * In a write transaction. A row that cannot be an item is KT_E_INPUT with its name.
 */
typedef kt_code kt_db_convert_fn(void *arg, const char *name, const void *envelope, size_t len, kt_buf *out,
				 kt_err *err);
KT_MUST_CHECK kt_code kt_db_item_convert(kt_db *db, int64_t *after, int64_t limit, kt_db_convert_fn *fn, void *arg,
					 int64_t *seen, kt_err *err);

/* A node's row. In kt_db_node_each the texts are valid during the call only. */
typedef struct kt_db_node {
	const char *name;
	const char *host;
	const char *home;    /* its configuration file */
	const char *address; /* of its listener */
	int64_t pid;
	int64_t started_ms, heartbeat_ms; /* wall clock of that node */
	int64_t interval_ms;              /* between its heartbeats */
	int64_t beats;                    /* how many there were */
} kt_db_node;

KT_MUST_CHECK kt_code kt_db_node_put(kt_db *db, const kt_db_node *node, kt_err *err);
/* A heartbeat; *known is false when the row is gone. */
KT_MUST_CHECK kt_code kt_db_node_beat(kt_db *db, const char *name, int64_t pid, int64_t now_ms, bool *known,
				      kt_err *err);
/* Remove the row that this process (pid) made; no row is fine. */
KT_MUST_CHECK kt_code kt_db_node_remove(kt_db *db, const char *name, int64_t pid, kt_err *err);
typedef kt_code kt_db_node_fn(void *arg, const kt_db_node *node, kt_err *err);
KT_MUST_CHECK kt_code kt_db_node_each(kt_db *db, kt_db_node_fn *fn, void *arg, kt_err *err);

/*
 * A rekey in shards: items move to another KEK range by range of rows, and several processes work at once. Its record
 * is there until the last range is done. A range is claimed for a time (a lease, by the server's clock), which each
 * transaction on it renews; what is not renewed may be claimed by another, which raises its fence, so that the first
 * one, should it still live, writes nothing more. With SQLite there is never one, and kt_db_rekey_open is KT_E_USAGE:
 * a file has one writer.
 */
typedef struct kt_db_rekey {
	char depth[8];
	uint32_t generation; /* of the new KEK */
	kt_buf record;       /* and its record: kt_buf_free */
	int64_t ranges, done;
	int64_t items; /* in the ranges that are done */
} kt_db_rekey;

/* *open: is one under way? Then *out is the caller's. */
KT_MUST_CHECK kt_code kt_db_rekey_get(kt_db *db, kt_db_rekey *out, bool *open, kt_err *err);
/* Begin one: depth, generation, record and the wished number of ranges (1 or more) are taken from `rekey`. In a write
 * transaction. */
KT_MUST_CHECK kt_code kt_db_rekey_open(kt_db *db, const kt_db_rekey *rekey, kt_err *err);
/* Its record and its ranges go. In a write transaction. */
KT_MUST_CHECK kt_code kt_db_rekey_close(kt_db *db, kt_err *err);

typedef struct kt_db_range {
	int64_t id, fence;
	int64_t first, after, upto; /* rows: where it begins (after `first`), how far it is, where it ends */
	int64_t items;              /* that were moved in it */
	bool taken_over;            /* another one had claimed it */
} kt_db_range;

/* Claim a range that is not done and that nobody has a lease on. Not within a transaction. `worker` says for people who
 * it is. */
KT_MUST_CHECK kt_code kt_db_range_claim(kt_db *db, const char *worker, int64_t lease_ms, kt_db_range *range, bool *got,
					kt_err *err);
/* Begin a transaction on a claimed range, which nobody can claim until its end; its `after` and `items` are read anew.
 * *ours false: another one has claimed it, and there is no transaction. */
KT_MUST_CHECK kt_code kt_db_range_begin(kt_db *db, kt_db_range *range, bool *ours, kt_err *err);
/* Within it: write how far the range is, and renew the lease; `done`: it is finished for good. */
KT_MUST_CHECK kt_code kt_db_range_save(kt_db *db, const kt_db_range *range, int64_t lease_ms, bool done, kt_err *err);

/* Others who are connected to the database now, as the server itself lists them (none with SQLite): `who` is a text for
 * people. KT_E_REFUSED when the server does not show everybody's connections to this user; the remedy names the
 * privilege. */
typedef kt_code kt_db_client_fn(void *arg, const char *who, kt_err *err);
KT_MUST_CHECK kt_code kt_db_client_each(kt_db *db, kt_db_client_fn *fn, void *arg, kt_err *err);

#endif

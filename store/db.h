/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store's database: SQLite, one file that all nodes share. The only place of the store that calls SQLite. Tables:
 * docs/FORMATS.md, "keyturn-store". Rollback journal and synchronous=EXTRA: what was committed survives a power cut, a
 * kill in the middle of a transaction leaves the state before it, and the file alone is everything while nobody is
 * connected.
 *
 * Errors: KT_E_IO (cannot be opened, read or written, disk full), KT_E_INPUT (not such a database, corrupted, a row
 * that cannot be), KT_E_BUSY (another process holds it), each with the path. One thread at a time per handle.
 */
#ifndef KT_STORE_DB_H
#define KT_STORE_DB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/secret.h"

typedef struct kt_db kt_db;

typedef enum kt_db_mode {
	KT_DB_LOOK,  /* the file must exist; write access is used when there is any, to roll a crashed writer back */
	KT_DB_WRITE, /* the file must exist */
	KT_DB_CREATE /* is made when it does not exist */
} kt_db_mode;

/* `busy_ms`: how long to wait for another process. An empty or absent (KT_DB_CREATE) file is fine: not initialised yet.
 * *out is the caller's: kt_db_close (NULL is fine), which also rolls an open transaction back. */
KT_MUST_CHECK kt_code kt_db_open(const char *path, kt_db_mode mode, int busy_ms, kt_db **out, kt_err *err);
void kt_db_close(kt_db *db);
const char *kt_db_path(const kt_db *db);

/* *absent: there is no file at all, in a folder that can be looked into. KT_E_IO when that cannot be told. */
KT_MUST_CHECK kt_code kt_db_absent(const char *path, bool *absent, kt_err *err);

/* A transaction. `write` takes the write lock at once (BEGIN IMMEDIATE). Without one, every call is its own. */
KT_MUST_CHECK kt_code kt_db_begin(kt_db *db, bool write, kt_err *err);
KT_MUST_CHECK kt_code kt_db_commit(kt_db *db, kt_err *err);
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
/* Put this record in the place of any other; nothing of the old one stays in the file (secure_delete). */
KT_MUST_CHECK kt_code kt_db_kek_replace(kt_db *db, uint32_t generation, const kt_buf *record, kt_err *err);

KT_MUST_CHECK kt_code kt_db_has_kek(kt_db *db, bool *yes, kt_err *err);

/* Is there a table `legacy`, and so items of the legacy form perhaps? Its key is the caller's (kt_secret_free) where
 * there is one and `key` is not NULL. KT_E_INPUT: the table does not hold one key. */
KT_MUST_CHECK kt_code kt_db_legacy_get(kt_db *db, kt_secret *key, bool *legacy, kt_err *err);
/* Remove that table; nothing of the key stays in the file. */
KT_MUST_CHECK kt_code kt_db_legacy_drop(kt_db *db, kt_err *err);

/* One item's envelope, appended, and its version. `envelope` may be NULL. */
KT_MUST_CHECK kt_code kt_db_item_get(kt_db *db, const char *name, kt_buf *envelope, int64_t *version, bool *found,
				     kt_err *err);
/* Insert or replace; the version goes up. */
KT_MUST_CHECK kt_code kt_db_item_put(kt_db *db, const char *name, const kt_buf *envelope, kt_err *err);
KT_MUST_CHECK kt_code kt_db_item_count(kt_db *db, int64_t *count, kt_err *err);

/* Called for every item, in the order of insertion; what it returns other than KT_OK ends the walk. `envelope` may be
 * NULL (kt_db_item_names). `bad` is NULL, or says why the row cannot be an item (then `name` may be made up, and the
 * rest is empty). */
typedef kt_code kt_db_item_fn(void *arg, const char *name, const void *envelope, size_t len, const char *bad,
			      kt_err *err);
KT_MUST_CHECK kt_code kt_db_item_each(kt_db *db, kt_db_item_fn *fn, void *arg, kt_err *err);
KT_MUST_CHECK kt_code kt_db_item_names(kt_db *db, kt_db_item_fn *fn, void *arg, kt_err *err);

/*
 * Edit every envelope in place: `fn` gets its first `head_len` bytes (KT_DB_WHOLE: all of it) and the whole length, and
 * what it leaves from `from` on is written back. Envelopes keep their length, so that a small head touches only the
 * pages that hold the heads. In a write transaction. *count is the number of items edited. A row that cannot be an item
 * is KT_E_INPUT with its name.
 */
#define KT_DB_WHOLE SIZE_MAX
typedef kt_code kt_db_edit_fn(void *arg, const char *name, uint8_t *head, size_t total, kt_err *err);
KT_MUST_CHECK kt_code kt_db_item_edit(kt_db *db, size_t head_len, size_t from, kt_db_edit_fn *fn, void *arg,
				      int64_t *count, kt_err *err);

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

#endif

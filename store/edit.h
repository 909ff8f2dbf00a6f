/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kt_db_item_edit for both back ends: items are read, edited and written in batches, as a pipeline. The database is
 * read and written in the calling thread alone; what is done to the items (the cryptography) is done by a thread of
 * its own, where there is a second processor: while it edits a batch, the one before is written and the next one
 * read. So there are never more than two batches in memory, and all of it stays within the caller's transaction. On
 * one processor, or where no thread can be had, the same is done in turn.
 */
#ifndef KT_STORE_EDIT_H
#define KT_STORE_EDIT_H

#include "store/db.h"

enum { KT_BATCH_ROWS = 2000 };

/* An item in a batch. Offsets are into the batch's data; its name is a C string there. */
typedef struct kt_batched {
	int64_t id;
	size_t name, bytes;
	size_t len, total; /* of the bytes that were read, and of the whole envelope */
} kt_batched;

/* Items that were read together, in the order of rows. */
typedef struct kt_batch {
	kt_buf data;
	kt_batched item[KT_BATCH_ROWS];
	size_t n;
} kt_batch;

/* Empty it and keep the memory: envelopes are no secret, and an edited batch holds nothing else. */
void kt_batch_clear(kt_batch *b);
/* Add an item with `room` bytes, all zero, for its envelope (or for the first of them): the caller sets the returned
 * item's len (at most `room`) and total, and writes the bytes. `b->n` is below KT_BATCH_ROWS. */
KT_MUST_CHECK kt_code kt_batch_add(kt_batch *b, int64_t id, const char *name, size_t room, kt_batched **out,
				   kt_err *err);

typedef struct kt_edit kt_edit;

struct kt_edit {
	kt_db *db;        /* for the back end, and its name */
	size_t len, from; /* as kt_db_item_edit has them */
	kt_db_edit_fn *fn;
	void *arg;
	/* Fill an empty batch with the items of a span (limit: -1 or how many are left), in their order, as many as
	 * fit; none is the end. Each item has room for min(len, its whole length), and for `len` where that is no
	 * KT_DB_WHOLE. */
	kt_code (*read)(const kt_edit *e, const kt_db_span *span, kt_batch *b, kt_err *err);
	/* Write each item's bytes from `from` on back. */
	kt_code (*write)(const kt_edit *e, kt_batch *b, kt_err *err);
	void *own; /* the back end's */
};

/* `span` and `count` as kt_db_item_edit has them. */
KT_MUST_CHECK kt_code kt_edit_run(const kt_edit *e, kt_db_span *span, int64_t *count, kt_err *err);

#endif

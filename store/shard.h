/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker of a rekey in shards: it claims one range of rows after the other, moves its items in batches, opens every
 * one of them with the new KEK, and takes over what a dead worker has left. A batch and how far the range is are
 * committed together, and only while the range is still ours; so nothing is moved twice, and a worker may die, lose its
 * connection or sleep at any moment.
 */
#ifndef KT_STORE_SHARD_H
#define KT_STORE_SHARD_H

#include "envelope/envelope.h"
#include "store/db.h"
#include "store/progress.h"

typedef struct kt_shard {
	kt_db *db;
	kt_db_edit_fn *edit; /* moves one item: kt_db_item_edit */
	void *arg;
	size_t head_len, from;
	kt_envelope_ctx *fresh; /* opens what was written */
	/* results */
	int64_t items;              /* of the whole, when it has ended */
	int64_t ranges, taken_over; /* that this worker has done */
	bool ended;                 /* this worker was the one that ended it */
} kt_shard;

enum { KT_SHARD_MAX = 4096 }; /* ranges */

/*
 * Work until the rekey has ended, here or by another worker. Lost connections, deadlocks and lock waits are tried again
 * for about a minute, since what was not committed did not happen. Any failure leaves the rekey as it is: another
 * worker, or this one started again, goes on.
 */
KT_MUST_CHECK kt_code kt_shard_work(kt_shard *s, kt_err *err);

#endif

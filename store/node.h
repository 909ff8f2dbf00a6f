/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is connected to the database: a row per node with a heartbeat, and what the server says. A clean stop removes the
 * row; a node that crashed counts as live until its last heartbeat is older than the window.
 */
#ifndef KT_STORE_NODE_H
#define KT_STORE_NODE_H

#include "store/config.h"
#include "store/db.h"

/* Word for word as the procedure documents it. */
#define KT_NODE_LIVE                                                                                                   \
	"There are other live nodes connected to this backend Looker database. If Looker was shutdown within the "     \
	"last "                                                                                                        \
	"minute, try again shortly, otherwise verify all nodes in the cluster are shut down."

/* Is a row live at the time now_ms (this host's wall clock)? A heartbeat from the future is live. */
bool kt_node_live(const kt_db_node *node, int64_t now_ms, int window_seconds);

/*
 * The gate of the rekey: KT_E_REFUSED with KT_NODE_LIVE while any row is live, or while a server lists a connection to
 * the database that is not ours (asked again for a second); the remedy names them. KT_E_REFUSED, too, when the server
 * does not say who is connected.
 * Call it within the write transaction that does the work, since no node can register then.
 */
KT_MUST_CHECK kt_code kt_node_gate(kt_db *db, int window_seconds, kt_err *err);

/* The same of the node of this installation: it is live while its process lives, whatever its row says. */
KT_MUST_CHECK kt_code kt_node_gate_local(const kt_store_config *cfg, kt_err *err);

/*
 * Rows whose heartbeat looks too old may belong to a node with a slow clock. Remember how many beats each has had, wait
 * for two of their intervals, and refuse as kt_node_gate does if any has gone on. Returns at once when there are no
 * such rows. Not within a transaction.
 */
KT_MUST_CHECK kt_code kt_node_watch_stale(kt_db *db, int window_seconds, kt_err *err);

/*
 * Register this process as the node of `cfg`, in the caller's write transaction. A row of the same host and
 * configuration is replaced (the caller holds the pid file's lock, so that process is gone). KT_E_REFUSED when the name
 * belongs to another node that is live.
 */
KT_MUST_CHECK kt_code kt_node_register(kt_db *db, const kt_store_config *cfg, const char *address, kt_err *err);

#endif

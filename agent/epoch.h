/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fencing: the highest epoch that this node has seen for a cluster, the run that it belongs to, and the newest of that
 * coordinator's connections. An epoch belongs to one run; a lower one, or the same one of another run, comes from a
 * coordinator that has been replaced; a lower link from a connection that its coordinator has given up.
 */
#ifndef KT_AGENT_EPOCH_H
#define KT_AGENT_EPOCH_H

#include "agent/action.h"

typedef struct kt_epoch {
	int64_t epoch; /* 0: none seen */
	char run[KT_NAME_MAX + 1];
	int64_t link; /* 0: its requests do not say */
} kt_epoch;

/* What is recorded; zero when nothing is. */
KT_MUST_CHECK kt_code kt_epoch_read(const char *state, const char *cluster, kt_epoch *out, kt_err *err);
/* Admit a request of a run: KT_E_BUSY names both sides when it is stale. A higher epoch or link is recorded durably
 * before this returns; KT_E_AUDIT when it cannot be. Safe against other agent processes (flock on the cluster's
 * folder). */
KT_MUST_CHECK kt_code kt_epoch_admit(const char *state, const kt_request *r, kt_err *err);
/* Is a request that was admitted a while ago still to be obeyed? KT_E_BUSY as above. Records nothing: that is done. */
KT_MUST_CHECK kt_code kt_epoch_still(const char *state, const kt_request *r, kt_err *err);
/* Does no newer coordinator or run of the cluster have this node? KT_E_BUSY names both sides. Whatever the request's
 * connection; records nothing. */
KT_MUST_CHECK kt_code kt_epoch_check(const char *state, const kt_request *r, kt_err *err);

/*
 * Take the cluster's lock on this node for one changing verb: waits while another agent process holds it (its
 * connection may be half dead), with progress, until ctx is stopping (KT_E_INTERRUPTED). Sets ctx->lock_fd.
 */
KT_MUST_CHECK kt_code kt_node_lock(kt_agent_ctx *ctx, kt_err *err);
void kt_node_unlock(kt_agent_ctx *ctx);

/* Remember which detached work was started last in this cluster (`spool` is its folder); durable. */
KT_MUST_CHECK kt_code kt_detached_set(const kt_agent_ctx *ctx, const char *spool, kt_err *err);
/* KT_E_BUSY when detached work of this cluster, other than that of the folder `except` (NULL: none), has no outcome yet
 * and still runs; KT_E_AUDIT when a damaged record leaves that open. Work that was asked for but not begun is called
 * off for good. */
KT_MUST_CHECK kt_code kt_detached_check(const char *state, const char *cluster, const char *except, kt_err *err);

#endif

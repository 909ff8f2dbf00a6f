/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Group commit: when is what was recorded made durable? Pure: no clock and no I/O of its own, times are milliseconds of
 * any clock that never goes back.
 *
 * Nothing is sent before its intent is durable (S8); that is the driver's. Outcomes are another matter: one that is
 * lost in a crash is asked for again, and the node's spool gives it again. So an outcome may wait for company:
 * (1) When it enables nothing yet (commands are still under way): half as long as its command took, at least
 *     KT_GROUP_WINDOW_MIN_MS, at most KT_GROUP_WINDOW_MAX_MS. So a crash loses less than it took to come by, and the
 *     journal is never far behind for those who look at it.
 * (2) When further commands are wanted and others are still under way (a step with `parallel`): as long as the latest
 *     commit took; and where many are under way (KT_GROUP_MANY), a quarter of what its command took, if that is more.
 *     At most KT_GROUP_GATHER_MAX_MS. Commands of one batch then come to an end together, so that this costs little.
 * (3) Not at all when nothing is under way, for nobody could come; nor what a person is told or waits for.
 */
#ifndef KT_TURN_GROUP_H
#define KT_TURN_GROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	KT_GROUP_WINDOW_SHARE = 2,
	KT_GROUP_WINDOW_MIN_MS = 1000,
	KT_GROUP_WINDOW_MAX_MS = 10 * 1000,
	KT_GROUP_MANY = 16,
	KT_GROUP_GATHER_SHARE = 4,
	KT_GROUP_GATHER_MAX_MS = 5 * 1000
};

/* Begin with (kt_group){0}. Invariant: since_ms and took_ms count only while held > 0. */
typedef struct kt_group {
	size_t held;       /* outcomes that are recorded and not durable */
	int64_t since_ms;  /* when the oldest of them was recorded */
	int64_t took_ms;   /* how long the quickest of their commands took */
	int64_t commit_ms; /* how long the latest commit took */
	bool urgent;
} kt_group;

/* An outcome was recorded; its command took so long. */
void kt_group_outcome(kt_group *g, int64_t now_ms, int64_t took_ms);
/* Something was recorded that must not wait. */
void kt_group_urgent(kt_group *g);
/* All that was recorded is durable. */
void kt_group_committed(kt_group *g, int64_t began_ms, int64_t now_ms);

/* How the engine stands. */
typedef struct kt_group_view {
	bool wanted;      /* it has commands without an intent, or is at rest */
	size_t under_way; /* commands with an intent and without an outcome */
} kt_group_view;

/* The time at which to make the intents that are wanted and to commit: INT64_MIN at once, INT64_MAX not before
 * something else happens. */
int64_t kt_group_due(const kt_group *g, kt_group_view v);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Group commit: when is what was recorded made durable? Pure: no clock and no I/O of its own, times are milliseconds of
 * any clock that never goes back.
 *
 * Nothing is sent before its intent is durable (S8); that is the driver's. Outcomes are another matter: one that is
 * lost in a crash is asked for again, and the node's spool gives it again. So an outcome may wait for company:
 *   - when it is wanted for nothing yet (commands are still under way, and it enables no other): at most
 *     KT_GROUP_WINDOW_MS;
 *   - when further commands are wanted and others are still under way (a step with `parallel`): at most as long as the
 *     latest commit took, or an eighth of what its own command took, whichever is more, and never longer than the
 *     window. So grouping costs a step at most an eighth of its time.
 * There is no waiting when nothing is under way, for nobody could come, and none for what a person is told or waits
 * for.
 */
#ifndef KT_TURN_GROUP_H
#define KT_TURN_GROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KT_GROUP_WINDOW_MS = 1000, KT_GROUP_SHARE = 8 };

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

/*
 * The time at which to make the intents that are wanted and to commit: INT64_MIN at once, INT64_MAX not before
 * something else happens. `wanted`: the engine has commands without an intent; `alone`: no command is under way.
 */
int64_t kt_group_due(const kt_group *g, bool wanted, bool alone);

#endif

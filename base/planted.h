/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bugs that the simulator must find (tests/sim): each stands where the mechanism is that keeps it away. A build with
 * KT_PLANTED_BUGS carries all of them and has one at work, chosen by its name; it is the mutants' build of the
 * simulator and nothing else. In every other build PLANTED() is the constant false, and none of this is in it.
 */
#ifndef KT_BASE_PLANTED_H
#define KT_BASE_PLANTED_H

#include <stdbool.h>

typedef enum kt_planted {
	KT_PLANTED_NONE,
	/* orchestrator/engine */
	PROBE_SKIPPED,          /* the rekey's own word is believed */
	UNREACHABLE_IS_STOPPED, /* a node that cannot be asked counts as fine */
	INTENT_NOT_RECORDED,    /* the way back does not see what was begun */
	ONCE_RETRIED,           /* the rekey gets a second attempt */
	SETTLE_DROPPED,         /* a rekey in doubt is simply sent again */
	GATE_NOT_REPEATED,      /* what was quiet before a crash counts as quiet after it */
	EXPECT_IGNORED,         /* a wrong proof passes */
	SIBLINGS_FORGOTTEN,     /* the way back begins while commands are under way */
	UNDO_FAILURE_IGNORED,   /* the way back goes on over an undo that failed */
	RESTORE_UNCHECKED,      /* nobody asks whether the restore worked */
	RESTORE_UNGATED,        /* the backup is put back while a node may be live */
	NEVER_STARTED_RESTORED, /* the backup is put back though nothing was changed */
	UNSETTLED_PROBED,       /* the probe runs while the rekey may still be running: two walls, and both are down */
	/* the journal and the driver, as the simulator models them */
	INTENT_NOT_SYNCED,    /* commands are sent before their intents are durable */
	TORN_RECORD_ACCEPTED, /* half a transaction is taken for a whole one */
	COPY_NOT_CHECKED,     /* a coordinator goes on with a journal that is not the newest */
	FENCE_INCOMPLETE,     /* ... and does not shut out the first one on every node */
	/* agent */
	EPOCH_NOT_CHECKED,     /* a replaced coordinator is obeyed */
	LINK_NOT_CHECKED,      /* what was sent on an earlier connection is done late */
	FILE_NOT_SYNCED,       /* a file takes the place of another before its content is on the disk */
	NAME_NOT_SYNCED,       /* the name of a new file may be lost by a power cut: of an epoch, an intent */
	SPOOL_INTENT_UNSYNCED, /* the intent's name may be lost by a power cut */
	OUTCOME_NOT_LOOKED_UP, /* a repeated command is done again */
	CLAIM_NOT_EXCLUSIVE,   /* two runners carry out one request */
	CHILD_NOT_RECORDED,    /* the command is executed before it is recorded that it may be */
	UNKNOWN_IS_FAILED,     /* a command whose end nobody knows is answered as certainly not done */
	KT_PLANTED_END
} kt_planted;

#ifdef KT_PLANTED_BUGS
extern kt_planted kt_planted_bug; /* tests/sim/mutants.c */
#define PLANTED(bug) (kt_planted_bug == (bug))
#else
#define PLANTED(bug) (false)
#endif

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/mutants.h"

#include <stddef.h>
#include <string.h>

#include "base/planted.h"

#ifdef KT_PLANTED_BUGS
kt_planted kt_planted_bug;

static const struct mutant {
	kt_planted bug;
	const char *name;
	const char *breaks; /* the property: how the simulator's words begin */
} mutants[] = {
	{PROBE_SKIPPED, "PROBE_SKIPPED", "S4"},
	{UNREACHABLE_IS_STOPPED, "UNREACHABLE_IS_STOPPED", "S"},
	{INTENT_NOT_RECORDED, "INTENT_NOT_RECORDED", "S"},
	{ONCE_RETRIED, "ONCE_RETRIED", "S"},
	{SETTLE_DROPPED, "SETTLE_DROPPED", "S"},
	{GATE_NOT_REPEATED, "GATE_NOT_REPEATED", "S"},
	{EXPECT_IGNORED, "EXPECT_IGNORED", "S"},
	{SIBLINGS_FORGOTTEN, "SIBLINGS_FORGOTTEN", "S"},
	{UNDO_FAILURE_IGNORED, "UNDO_FAILURE_IGNORED", "S"},
	{RESTORE_UNCHECKED, "RESTORE_UNCHECKED", "S"},
	{RESTORE_UNGATED, "RESTORE_UNGATED", "S"},
	{UNSETTLED_PROBED, "UNSETTLED_PROBED", "S"},
	{INTENT_NOT_SYNCED, "INTENT_NOT_SYNCED", "S8"},
	{TORN_RECORD_ACCEPTED, "TORN_RECORD_ACCEPTED", "S"},
	{COPY_NOT_CHECKED, "COPY_NOT_CHECKED", "S"},
	{FENCE_INCOMPLETE, "FENCE_INCOMPLETE", "S"},
	{EPOCH_NOT_CHECKED, "EPOCH_NOT_CHECKED", "S"},
	{NAME_NOT_SYNCED, "NAME_NOT_SYNCED", "S"},
	{LINK_NOT_CHECKED, "LINK_NOT_CHECKED", "S"},
	{FILE_NOT_SYNCED, "FILE_NOT_SYNCED", "S"},
	{SPOOL_INTENT_UNSYNCED, "SPOOL_INTENT_UNSYNCED", "S"},
	{OUTCOME_NOT_LOOKED_UP, "OUTCOME_NOT_LOOKED_UP", "S"},
	{CLAIM_NOT_EXCLUSIVE, "CLAIM_NOT_EXCLUSIVE", "S"},
	{CHILD_NOT_RECORDED, "CHILD_NOT_RECORDED", "S"},
	{UNKNOWN_IS_FAILED, "UNKNOWN_IS_FAILED", "S"},
	{DETACHED_NOT_CHECKED, "DETACHED_NOT_CHECKED", "S"},
};

bool sim_plant(const char *name)
{
	for (size_t i = 0; name && i < sizeof mutants / sizeof mutants[0]; i++) {
		if (strcmp(mutants[i].name, name) != 0)
			continue;
		kt_planted_bug = mutants[i].bug;
		return true;
	}
	return !name;
}
#else
bool sim_plant(const char *name)
{
	return !name;
}
#endif

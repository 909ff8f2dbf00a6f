/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One run at a time on a node, whatever its cluster: the file `holder` in the state folder names the run that holds it,
 * from its first changing verb until its coordinator releases it at its end. Epochs fence within a cluster; this keeps
 * apart two clusters that name the same machine.
 */
#ifndef KT_AGENT_RUNLOCK_H
#define KT_AGENT_RUNLOCK_H

#include "agent/action.h"

typedef struct kt_runlock {
	char cluster[KT_NAME_MAX + 1]; /* "": nobody holds this node */
	char run[KT_NAME_MAX + 1];
	int64_t since_ms;
} kt_runlock;

/* Who holds this node. KT_E_AUDIT when the record is damaged. */
KT_MUST_CHECK kt_code kt_runlock_read(const char *state, kt_runlock *out, kt_err *err);
/* KT_E_BUSY, naming the holder, when it is held by a run of another cluster. */
KT_MUST_CHECK kt_code kt_runlock_check(const char *state, const char *cluster, kt_err *err);
/* The same; otherwise it is held by this run from now on, durably. A later run of the same cluster, whose epoch has
 * been admitted, takes it from an earlier one. Safe against other agent processes. KT_E_AUDIT: it cannot be recorded.
 */
KT_MUST_CHECK kt_code kt_runlock_take(const char *state, const char *cluster, const char *run, kt_err *err);
/* KT_E_BUSY, naming it, when any run holds this node. */
KT_MUST_CHECK kt_code kt_runlock_free(const char *state, kt_err *err);
/* The state folder, locked against other agent processes until *fd is closed: no run can take the node meanwhile. */
KT_MUST_CHECK kt_code kt_runlock_folder(const char *state, int *fd, kt_err *err);
/* Let go of it, durably, when it is held by this run; fine when it is not. */
KT_MUST_CHECK kt_code kt_runlock_release(const char *state, const char *cluster, const char *run, bool *released,
					 kt_err *err);

#endif

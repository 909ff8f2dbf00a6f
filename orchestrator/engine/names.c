/* SPDX-License-Identifier: Apache-2.0 */
/* The names of kinds and states, as journal and --json have them. */
#include <string.h>

#include "orchestrator/engine/engine.h"

static const char *const kinds[KT_EVENT_KINDS] = {
	[KT_EVENT_BEGIN] = "begin",     [KT_EVENT_TAKE] = "take",           [KT_EVENT_INTENT] = "intent",
	[KT_EVENT_OUTCOME] = "outcome", [KT_EVENT_INTERRUPT] = "interrupt", [KT_EVENT_ROLLBACK] = "rollback",
	[KT_EVENT_REVERT] = "revert",   [KT_EVENT_RESUME] = "resume",       [KT_EVENT_NOTE] = "note",
	[KT_EVENT_END] = "end",
};

static const char *const states[KT_RUN_STATES] = {
	[KT_RUN_NEW] = "new",
	[KT_RUN_FORWARD] = "forward",
	[KT_RUN_PROBING] = "probing",
	[KT_RUN_BACK] = "way-back",
	[KT_RUN_HELD] = "held",
	[KT_RUN_TURNED] = "turned",
	[KT_RUN_ROLLED_BACK] = "rolled-back",
	[KT_RUN_REFUSED] = "refused",
};

static const char *const target_states[KT_TARGET_STATES] = {
	[KT_TARGET_IDLE] = "idle", [KT_TARGET_WANTED] = "wanted", [KT_TARGET_SENT] = "sent",
	[KT_TARGET_OK] = "ok",     [KT_TARGET_FAILED] = "failed",
};

const char *kt_event_kind_name(kt_event_kind k)
{
	return (unsigned)k < KT_EVENT_KINDS ? kinds[k] : "?";
}

const char *kt_run_state_name(kt_run_state s)
{
	return (unsigned)s < KT_RUN_STATES ? states[s] : "?";
}

const char *kt_target_state_name(kt_target_state s)
{
	return (unsigned)s < KT_TARGET_STATES ? target_states[s] : "?";
}

static kt_code find(const char *name, const char *const *names, unsigned n, const char *what, unsigned *out,
		    kt_err *err)
{
	for (unsigned i = 0; i < n; i++) {
		if (strcmp(names[i], name) == 0) {
			*out = i;
			return KT_OK;
		}
	}
	return kt_fail(err, KT_E_INPUT, NULL, "\"%.32s\" is no %s", name, what);
}

kt_code kt_event_kind_parse(const char *name, kt_event_kind *out, kt_err *err)
{
	unsigned i = 0;
	KT_TRY(find(name, kinds, KT_EVENT_KINDS, "kind of event", &i, err));
	*out = (kt_event_kind)i;
	return KT_OK;
}

kt_code kt_run_state_parse(const char *name, kt_run_state *out, kt_err *err)
{
	unsigned i = 0;
	KT_TRY(find(name, states, KT_RUN_STATES, "state of a run", &i, err));
	*out = (kt_run_state)i;
	return KT_OK;
}

bool kt_run_state_final(kt_run_state s)
{
	return s == KT_RUN_TURNED || s == KT_RUN_ROLLED_BACK || s == KT_RUN_REFUSED;
}

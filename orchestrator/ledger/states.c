/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/ledger/states.h"

#include <string.h>

static const char *const names[KT_KEY_STATES] = {"pre-active", "active", "deactivated", "compromised", "destroyed"};

/* Row: from; column: to. */
static const bool may[KT_KEY_STATES][KT_KEY_STATES] = {
	[KT_KEY_PRE_ACTIVE] = {[KT_KEY_ACTIVE] = true, [KT_KEY_COMPROMISED] = true, [KT_KEY_DESTROYED] = true},
	[KT_KEY_ACTIVE] = {[KT_KEY_DEACTIVATED] = true, [KT_KEY_COMPROMISED] = true},
	[KT_KEY_DEACTIVATED] = {[KT_KEY_COMPROMISED] = true, [KT_KEY_DESTROYED] = true},
	[KT_KEY_COMPROMISED] = {[KT_KEY_DESTROYED] = true},
};

const char *kt_key_state_name(kt_key_state s)
{
	return names[s];
}

kt_code kt_key_state_parse(const char *name, kt_key_state *out, kt_err *err)
{
	for (int i = 0; i < KT_KEY_STATES; i++)
		if (strcmp(names[i], name) == 0) {
			*out = (kt_key_state)i;
			return KT_OK;
		}
	return kt_fail(err, KT_E_INPUT, NULL, "\"%.40s\" is no state of a key", name);
}

bool kt_key_state_may(kt_key_state from, kt_key_state to)
{
	return may[from][to];
}

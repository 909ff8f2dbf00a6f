/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A unit that a run has stopped stays down until the run starts it: systemd would start an enabled one at the next
 * boot, in the middle of a rekey (S2) or with a key that no longer opens the data (S4).
 *
 * A drop-in of the unit has `AssertPathExists=!FLAG`; FLAG is a file in our state folder. systemd looks at it whenever
 * somebody asks for a start, and `systemctl status` shows why there was none. Without the state folder the drop-in does
 * nothing.
 */
#ifndef KT_AGENT_UNITGUARD_H
#define KT_AGENT_UNITGUARD_H

#include "agent/action.h"

/* From the return on (also after a crash or reboot) nobody starts `unit`, the name by which systemd knows it. May be
 * repeated. KT_E_IO: it could be started. */
KT_MUST_CHECK kt_code kt_unitguard_set(const kt_agent_ctx *ctx, const char *unit, kt_err *err);
/* It may be started again, and nothing of ours is left beside it. May be repeated, also without a guard. */
KT_MUST_CHECK kt_code kt_unitguard_clear(const kt_agent_ctx *ctx, const char *unit, kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is this state folder the newest one of its cluster? The nodes remember the epoch and the run that they follow; a
 * journal that does not have that take is an older copy, or another coordinator's.
 */
#ifndef KT_TURN_TAKEOVER_H
#define KT_TURN_TAKEOVER_H

#include "orchestrator/inventory/inventory.h"
#include "orchestrator/journal/journal.h"
#include "orchestrator/turn/nodes.h"

/*
 * Ask every node which take it follows; runs the loop. KT_E_REFUSED names the first node that follows one which the
 * journal does not have. A node that cannot be asked is passed over: who has the newer journal has told the others.
 */
KT_MUST_CHECK kt_code kt_takeover_check(kt_nodes *nodes, const kt_cluster *cluster, kt_journal *journal, kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The names that a playbook may use without declaring them. The plan gives them their values. */
#ifndef KT_PLAYBOOK_NAMES_H
#define KT_PLAYBOOK_NAMES_H

#include <stdbool.h>

/*
 * node, host       the target's; not where a step is for the cluster
 * run, cluster     the run's id, the cluster's name
 * nodes            names of all nodes (array), as a whole value only: a plan says it as ${plan.nodes}, once for all
 * is_rekey, is_canary   whether the target has that role (boolean)
 * from.uri, .kind, .path, .name, .files, .kcv   where the old key is on the target; kind is file or env; path is ""
 *                  for env, name is "" for file; files is an array with the path, empty for env; kcv is null when it
 *                  is not known
 * to.…             the same for the new key
 * from.stays, to.stays   whether the key never leaves its place (boolean)
 * from.legacy      whether there is no old key, the data being in the legacy form (boolean)
 * scratch          stays for the agent (backup.check)
 */
const char *const *kt_builtin_names(void); /* NULL at the end */
/* Is it one of them ("node", "from.path")? */
bool kt_builtin_is(const char *name);
/* Would a variable or a step of this name hide one of them ("node", "from", "key")? */
bool kt_builtin_reserved(const char *name);

#endif

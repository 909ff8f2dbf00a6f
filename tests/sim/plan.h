/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KT_TESTS_SIM_PLAN_H
#define KT_TESTS_SIM_PLAN_H

#include "base/json.h"

/* A plan in the shape of the shipped playbook's, for n nodes n0, n1, …; the caller's. */
cJSON *sim_plan(size_t n);
/* The same of data in the legacy form: before the commit the log must tell of its migration. */
cJSON *sim_plan_migration(size_t n);

#endif

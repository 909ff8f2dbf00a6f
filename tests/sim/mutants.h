/* SPDX-License-Identifier: Apache-2.0 */
/* The planted bugs by name (base/planted.h), and which property each must break. */
#ifndef KT_TESTS_SIM_MUTANTS_H
#define KT_TESTS_SIM_MUTANTS_H

#include <stdbool.h>

/* Put a bug to work; NULL: none. False when there is none of that name, or this is not the mutants' build. */
bool sim_plant(const char *name);

#endif

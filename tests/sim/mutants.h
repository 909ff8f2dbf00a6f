/* SPDX-License-Identifier: Apache-2.0 */
/* The planted bugs by name (base/planted.h), and which property each must break. */
#ifndef KT_TESTS_SIM_MUTANTS_H
#define KT_TESTS_SIM_MUTANTS_H

#include "base/planted.h"

typedef struct sim_mutant {
	kt_planted bug;
	const char *name;   /* NULL: the end of the table */
	const char *breaks; /* the property: how the simulator's words begin */
} sim_mutant;

extern const sim_mutant sim_mutants[];

#endif

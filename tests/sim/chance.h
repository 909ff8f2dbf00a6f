/* SPDX-License-Identifier: Apache-2.0 */
/* Random numbers out of a seed (splitmix64): the same everywhere. */
#ifndef KT_TESTS_SIM_CHANCE_H
#define KT_TESTS_SIM_CHANCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct sim_rng {
	uint64_t s;
} sim_rng;

uint64_t sim_random(sim_rng *r);
uint64_t sim_roll(void *rng);           /* the same, for sim_disk_power_cut */
size_t sim_below(sim_rng *r, size_t n); /* 0 .. n-1 */
bool sim_chance(sim_rng *r, unsigned permille);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/chance.h"

uint64_t sim_random(sim_rng *r)
{
	uint64_t z = (r->s += UINT64_C(0x9e3779b97f4a7c15));
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

uint64_t sim_roll(void *rng)
{
	return sim_random(rng);
}

size_t sim_below(sim_rng *r, size_t n)
{
	return (size_t)(sim_random(r) % n);
}

bool sim_chance(sim_rng *r, unsigned permille)
{
	return sim_below(r, 1000) < permille;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole turn of a large cluster, the coordinator's side alone: the shipped playbook's plan, the real engine, the real
 * journal on a real disk, and the group commit's rule; the nodes' answers, as large as real ones, come after times out
 * of a seed. Time is simulated, but a commit takes what it takes.
 *
 * Every fsync and fdatasync of the program is counted, SQLite's own too.
 */
#ifndef KT_TESTS_SIM_FULLTURN_H
#define KT_TESTS_SIM_FULLTURN_H

#include <stddef.h>
#include <stdint.h>

#include "base/result.h"

typedef struct fullturn_options {
	size_t nodes;
	size_t start_batch; /* how many start at once after the canary; 0: all */
	const char *folder; /* the state folder; made, and left for who wants to look at it */
	uint64_t seed;
} fullturn_options;

typedef struct fullturn_figures {
	size_t syncs;
	size_t commits;
	size_t entries;
	int64_t simulated_ms; /* how long the turn takes the nodes */
	int64_t held_up_ms;   /* how much of it is due to commands that waited for others */
	size_t plan_bytes;
} fullturn_figures;

/* KT_OK: the run ended `turned`. */
KT_MUST_CHECK kt_code fullturn_run(const fullturn_options *o, fullturn_figures *out, kt_err *err);
/* The most memory that this process has had, in KiB (VmHWM). */
size_t fullturn_memory_kib(void);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a turn of a thousand nodes costs the coordinator: syncs of the disk, and memory. The plan is the shipped
 * playbook's, engine and journal are the real ones, the answers of the nodes come after simulated times (fullturn.h).
 * The goals are those of a cluster that starts all at once; batches are told beside it, for each of them is a commit or
 * more.
 *
 * bench_journal [NODES [BATCH]]
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/sim/fullturn.h"

enum { NODES = 1000, BATCH = 100, GOAL_SYNCS = 500, GOAL_MIB = 64 };

static void tidy(const char *folder)
{
	static const char *const files[] = {"/journal.db", "/journal.db-journal", "/journal.lock", ""};
	for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
		char path[400];
		(void)snprintf(path, sizeof path, "%s%s", folder, files[i]);
		(void)remove(path);
	}
}

static bool measure(size_t nodes, size_t batch, fullturn_figures *f)
{
	char folder[] = "bench-journal.XXXXXX";
	kt_err err = KT_ERR_INIT;
	if (!mkdtemp(folder))
		return false;
	const fullturn_options o = {.nodes = nodes, .start_batch = batch, .folder = folder, .seed = 1};
	kt_code rc = fullturn_run(&o, f, &err);
	tidy(folder);
	if (rc != KT_OK)
		(void)fprintf(stderr, "bench_journal: %s\n", err.msg);
	return rc == KT_OK;
}

static void figure(const char *name, double value, const char *unit, double goal)
{
	(void)printf("%s %.0f %s %.0f %s\n", name, value, unit, goal, value < goal ? "met" : "missed");
}

static void told(const char *name, double value, const char *unit)
{
	(void)printf("%s %.0f %s - -\n", name, value, unit);
}

int main(int argc, char **argv)
{
	fullturn_figures all, some;
	size_t nodes = argc > 1 ? strtoul(argv[1], NULL, 10) : NODES;
	size_t batch = argc > 2 ? strtoul(argv[2], NULL, 10) : BATCH;
	if (!measure(nodes, 0, &all))
		return 1;
	size_t kib = fullturn_memory_kib();
	if (!measure(nodes, batch, &some))
		return 1;
	figure("journal_syncs", (double)all.syncs, "syncs", GOAL_SYNCS);
	figure("journal_memory", (double)kib / 1024, "MiB", GOAL_MIB);
	told("journal_commits", (double)all.commits, "commits");
	told("journal_entries", (double)all.entries, "entries");
	told("journal_turn", (double)all.simulated_ms / 1000, "simulated_s");
	told("journal_held_up", (double)all.held_up_ms / 1000, "simulated_s");
	told("journal_batched_syncs", (double)some.syncs, "syncs");
	told("journal_batched_turn", (double)some.simulated_ms / 1000, "simulated_s");
	told("journal_batched_held_up", (double)some.held_up_ms / 1000, "simulated_s");
	return 0;
}

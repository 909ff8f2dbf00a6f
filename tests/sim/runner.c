/* SPDX-License-Identifier: Apache-2.0 */
/* The detached runner of the rekey: the steps of agent/runner.c in its order, each at a time of its own. */
#include <stdio.h>

#include "agent/spool.h"
#include "tests/sim/sim.h"

enum { SHORT_MS = 40, LONG_MS = 20000, VERY_LONG_MS = 300000, LATE_CLAIM_MS = 60000, DIES_WITHIN = 12 };

static void executes(sim *s, void *node, int64_t work);
static void ends(sim *s, void *node, int64_t work);

static bool current(const sim_node *n, int64_t work)
{
	return n->up && n->runner.spool && n->runner.work == work;
}

/* The runner runs from here; perhaps it is killed at one of its next operations on the disk. */
static void enter(sim *s, sim_node *n)
{
	if (s->faults && s->faults_left && sim_chance(&s->rng, 2 * s->fault_rate)) {
		s->faults_left--;
		sim_disk_die_after(n->disk, sim_below(&s->rng, DIES_WITHIN));
	}
	sim_enter(n, n->runner.pid);
}

void sim_runner_kill(sim *s, sim_node *n)
{
	if (!n->runner.spool || n->runner.killed)
		return;
	sim_trace(s, "-- the runner on %s is killed", n->name);
	sim_count(s, SIM_RUNNER_KILLED);
	n->runner.killed = true;
	sim_process_end(n, n->runner.pid);
}

/* Back to nobody; false when the runner, or the machine, is gone. */
static bool leave(sim *s, sim_node *n)
{
	bool dead = sim_disk_dead(n->disk);
	sim_enter(NULL, 0);
	sim_disk_die_after(n->disk, UINT64_MAX);
	if (!dead)
		return true;
	if (sim_chance(&s->rng, 500)) {
		sim_disk_process_end(n->disk);
		n->dirty = true;
		sim_runner_kill(s, n);
	} else {
		sim_node_crash(s, n);
	}
	return false;
}

static void claimed(sim *s, sim_node *n, const char *spool, pid_t pid)
{
	n->runner = (sim_runner){.spool = sim_text(s, spool), .pid = pid, .work = n->runner.work + 1};
	sim_after(s, 1 + (int64_t)sim_below(&s->rng, SHORT_MS), executes, n, n->runner.work);
}

typedef struct late_claim {
	sim_node *node;
	const char *spool;
	pid_t pid;
	int64_t boots;
} late_claim;

/* It was started, and gets to its claim only now; the agent that started it is gone. */
static void claims_late(sim *s, void *what, int64_t unused)
{
	const late_claim *l = what;
	sim_node *n = l->node;
	bool mine = false;
	kt_err err = KT_ERR_INIT;
	(void)unused;
	s->on_way--;
	if (!n->up || n->boots != l->boots)
		return;
	sim_enter(n, l->pid);
	kt_code rc = kt_spool_claim(l->spool, &mine, &err);
	sim_enter(NULL, 0);
	sim_trace(s, "-- a runner that was slow to begin on %s %s", n->name,
		  rc == KT_OK && mine ? "goes on" : "is too late");
	if (rc == KT_OK && mine)
		claimed(s, n, l->spool, l->pid);
	else
		sim_process_end(n, l->pid);
}

static void be_late(sim *s, sim_node *n, const char *spool, pid_t pid)
{
	late_claim *l = sim_alloc(s, sizeof *l);
	*l = (late_claim){.node = n, .spool = sim_text(s, spool), .pid = pid, .boots = n->boots};
	s->faults_left--;
	s->on_way++;
	sim_disk_die_after(n->disk, 0); /* the agent */
	sim_after(s, (int64_t)sim_below(&s->rng, LATE_CLAIM_MS), claims_late, l, 0);
}

kt_code sim_runner_start(void *node, const char *spool, char report[KT_ERR_MSG], kt_err *err)
{
	sim_node *n = node;
	sim *s = n->s;
	bool mine = false;
	kt_err why = KT_ERR_INIT;
	(void)err;
	pid_t pid = sim_process_new(n)->pid;
	if (s->faults && s->faults_left && sim_chance(&s->rng, s->fault_rate)) {
		be_late(s, n, spool, pid);
		return KT_OK;
	}
	sim_enter(n, pid);
	kt_code rc = kt_spool_claim(spool, &mine, &why);
	sim_enter(n, s->in_talk->pid);
	if (rc == KT_OK && mine && !sim_disk_dead(n->disk)) {
		claimed(s, n, spool, pid);
		return KT_OK;
	}
	(void)snprintf(report, KT_ERR_MSG, "%s", why.msg);
	sim_process_end(n, pid);
	return KT_OK;
}

static void record(sim *s, sim_node *n, kt_status status, const cJSON *result, const kt_err *why)
{
	kt_err err = KT_ERR_INIT;
	enter(s, n);
	kt_code rc = kt_spool_finish(n->runner.spool, status, result, why, &err);
	if (!leave(s, n))
		return;
	if (rc != KT_OK)
		sim_break(s, "S8: the outcome of the rekey has no room: %s", err.msg);
	sim_process_end(n, n->runner.pid);
	n->runner.spool = NULL;
}

/* The command, held at a pipe until `child` is durable. */
static void executes(sim *s, void *node, int64_t work)
{
	sim_node *n = node;
	kt_err err = KT_ERR_INIT;
	if (!current(n, work) || n->runner.killed)
		return;
	n->runner.child = sim_process_new(n)->pid;
	enter(s, n);
	kt_code rc = kt_spool_child(n->runner.spool, n->runner.child, &err);
	if (!leave(s, n)) {
		sim_process_end(n, n->runner.child);
		return;
	}
	if (rc != KT_OK) {
		sim_process_end(n, n->runner.child);
		cJSON *result = sim_keep(s, cJSON_CreateObject());
		(void)cJSON_AddBoolToObject(result, "started", false);
		record(s, n, KT_STATUS_FAILED, result, &err);
		return;
	}
	sim_rekey_starts(s);
	int64_t limit = sim_chance(&s->rng, 100) ? VERY_LONG_MS : LONG_MS;
	int64_t takes = sim_chance(&s->rng, 500) ? SHORT_MS : (int64_t)sim_below(&s->rng, (size_t)limit);
	sim_after(s, takes, ends, n, work);
}

static void ends(sim *s, void *node, int64_t work)
{
	sim_node *n = node;
	kt_err why = KT_ERR_INIT;
	if (!current(n, work))
		return;
	sim_rekey_ends(s, &n->runner, false);
	sim_process_end(n, n->runner.child);
	if (n->runner.killed) {
		n->runner.spool = NULL;
		return;
	}
	cJSON *result = sim_keep(s, cJSON_CreateObject());
	(void)cJSON_AddNumberToObject(result, "exit", n->runner.says_ok ? 0 : 1);
	if (!n->runner.says_ok)
		KT_IGNORE(kt_fail(&why, KT_E_REFUSED, NULL, "exit 1"));
	record(s, n, n->runner.says_ok ? KT_STATUS_OK : KT_STATUS_FAILED, result, &why);
}

void sim_runner_crash(sim *s, sim_node *n)
{
	if (n->runner.spool && s->w.rekey_running)
		sim_rekey_ends(s, &n->runner, true);
	n->runner.spool = NULL;
}

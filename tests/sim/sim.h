/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A deterministic simulator: the real engine, a simulated cluster, and faults out of a seed. Everything that can go
 * wrong between intent and outcome does: the coordinator dies at any point and loses what was not durable, connections
 * break before or after the node acted, requests arrive late, nodes crash in the middle of their work, the rekey lies,
 * checks fail, people interrupt, roll back, and start services by hand while no coordinator watches.
 * After every event S1 to S5 and S8 are checked, and at the end S7.
 */
#ifndef KT_TESTS_SIM_SIM_H
#define KT_TESTS_SIM_SIM_H

#include "orchestrator/engine/engine.h"

enum { SIM_NODES_MAX = 16, SIM_SPOOL = 64, SIM_LATE = 64, SIM_WHY = 400 };

typedef enum sim_key { SIM_OLD, SIM_NEW, SIM_MIXED } sim_key;

/* --- random numbers (rng in world.c); the same seed gives the same schedule everywhere ---------------------------- */

typedef struct sim_rng {
	uint64_t s;
} sim_rng;
uint64_t sim_random(sim_rng *r);
size_t sim_below(sim_rng *r, size_t n); /* 0 .. n-1 */
bool sim_chance(sim_rng *r, unsigned permille);

/* --- the world ---------------------------------------------------------------------------------------------------- */

/* What the spool of a node keeps for one idempotency key. */
typedef struct sim_spool {
	char step[24];
	kt_role role;
	int64_t attempt;
	bool was_active; /* noted before acting */
	bool done;       /* the outcome below is there */
	kt_status status;
	cJSON *result;
	kt_err error;
} sim_spool;

typedef struct sim_node {
	bool up;        /* the machine runs */
	bool reachable; /* from the coordinator */
	bool crashed;   /* was ever down: its service may be down at the end */
	bool service;
	bool slot;     /* has unwrapped the new key */
	bool key_file; /* the new key's file is there */
	sim_key env;
	int64_t epoch;      /* fencing: the highest that it has seen */
	int64_t connection; /* the newest that it has served */
	sim_spool spool[SIM_SPOOL];
	size_t spooled;
} sim_node;

/* A request on its way, or being worked on. */
typedef struct sim_request {
	kt_command c; /* args owned */
	int64_t epoch;
	int64_t connection;
	size_t node; /* SIM_NODES_MAX: the coordinator itself */
} sim_request;

typedef struct sim_reply {
	bool later; /* the work goes on (exec): no reply yet */
	kt_status status;
	cJSON *result; /* the receiver's */
	kt_err error;
} sim_reply;

typedef struct sim_world {
	sim_rng *rng;
	bool faults;   /* things still go wrong */
	unsigned fail; /* permille of actions that fail */
	size_t n;
	sim_node node[SIM_NODES_MAX];
	sim_key data;
	int64_t version; /* counts writes of the application */
	bool backup, backup_checked;
	int64_t backup_version;
	int64_t backup_id;
	bool key_made, escrowed;
	bool changed; /* anything but a look */
	bool rekey_running;
	unsigned rekey_started, rekey_completed;
	bool wrote_by_hand;   /* a person started a service while nobody watched */
	char broken[SIM_WHY]; /* the property that does not hold, or "" */
} sim_world;

void sim_world_init(sim_world *w, sim_rng *rng, size_t nodes);
void sim_world_free(sim_world *w);
/* A request arrives at a node, or at the coordinator's own verbs. The node is up. */
sim_reply sim_world_act(sim_world *w, const sim_request *r);
/* The rekey that runs on node 0 comes to its end. */
void sim_world_rekey_ends(sim_world *w);
void sim_world_crash(sim_world *w, size_t node);
/* A person starts the service of a node by hand. */
void sim_world_start_by_hand(sim_world *w, size_t node);
/* S1 to S5; the first that is broken is written to w->broken. */
void sim_world_check(sim_world *w);
void sim_world_break(sim_world *w, const char *fmt, ...) KT_PRINTF(2, 3);

/* --- plan.c ------------------------------------------------------------------------------------------------------- */

/* A plan in the shape of the shipped playbook's, for n nodes; the caller's. */
cJSON *sim_plan(size_t n);

/* --- run.c -------------------------------------------------------------------------------------------------------- */

typedef struct sim_options {
	uint64_t seed;
	size_t nodes; /* 0: by the seed */
	bool trace;   /* print the schedule */
} sim_options;

typedef struct sim_result {
	bool ok;
	char why[SIM_WHY];
	kt_run_state end;
	size_t events, crashes, resumes;
	bool rekeyed, restored_by_hand;
} sim_result;

sim_result sim_run(const sim_options *o, const cJSON *plans[SIM_NODES_MAX + 1]);

/* Many runs from `first` on; stops at the first that fails (*failed is its seed). Prints it when `trace`. */
typedef struct sim_totals {
	size_t runs, turned, rolled_back, refused, events, crashes, resumes;
} sim_totals;
bool sim_many(uint64_t first, size_t runs, size_t nodes, sim_totals *totals, uint64_t *failed, char why[SIM_WHY]);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A deterministic simulator of whole turns. Real are: the engine, the wire (frames, requests, replies), and on the
 * nodes dispatch, spool, epochs, the decisions about work that is done once, and base/file.c. Simulated are: time
 * (clock.c), the network (net.c), the nodes' processes and disks (node.c, runner.c, disk.c), the application, its data,
 * backup and HSM (world.c, verbs.c), the coordinators with their driver and journal (coordinator.c, journal.c), and all
 * that goes wrong (faults.c), which a seed decides. After every event the properties S1 to S5, S8 and S9 are checked,
 * and S7 at the end (checks.c). The same seed gives the same run everywhere.
 */
#ifndef KT_TESTS_SIM_SIM_H
#define KT_TESTS_SIM_SIM_H

#include <sys/types.h>

#include "agent/dispatch.h"
#include "orchestrator/engine/engine.h"
#include "orchestrator/turn/group.h"
#include "tests/sim/chance.h"
#include "tests/sim/disk.h"
#include "tests/sim/plan.h"

enum { SIM_WHY = 400, SIM_NODES_MAX = 1000, SIM_MACHINES = 3, SIM_PROCESSES = 16, SIM_TEXT = 64, SIM_NAMED = 4 };

typedef struct sim sim;
typedef struct sim_node sim_node;
typedef struct sim_talk sim_talk;
typedef struct sim_coord sim_coord;
typedef struct sim_entry sim_entry;

/* --- clock.c: the event queue ------------------------------------------------------------------------------------- */

typedef void sim_event_fn(sim *s, void *who, int64_t what);
typedef struct sim_event {
	int64_t at;   /* ms since the run began */
	uint64_t seq; /* events of one time happen in the order in which they were made */
	sim_event_fn *fn;
	void *who;
	int64_t what;
} sim_event;

/* Let fn(s, who, what) happen in `delay` ms. */
void sim_after(sim *s, int64_t delay, sim_event_fn *fn, void *who, int64_t what);
/* Take the next event and move the clock to it; false when there is none. */
bool sim_next(sim *s, sim_event *out);

/* --- memory.c: what lives until the end of the run ---------------------------------------------------------------- */

void sim_memory_pool(void);           /* cJSON takes its memory from a pool that is never given back: for programs */
void *sim_alloc(sim *s, size_t size); /* zeroed, never NULL */
char *sim_text(sim *s, const char *text);
cJSON *sim_keep(sim *s, cJSON *json); /* deleted at the end; NULL is an exhausted memory and ends the program */
void sim_memory_reset(sim *s);
void sim_memory_free(sim *s);
void sim_must(kt_code rc, const kt_err *err); /* ends the program: for what cannot fail here */

/* --- The world ---------------------------------------------------------------------------------------------------- */

typedef enum sim_key { SIM_OLD, SIM_NEW, SIM_MIXED } sim_key;
const char *sim_key_name(sim_key k);

typedef struct sim_process {
	pid_t pid;
	int64_t start;
	bool alive;
} sim_process;

/* The detached work that runs on a node. */
typedef struct sim_runner {
	const char *spool; /* NULL: none */
	pid_t pid, child;
	int64_t work; /* which one this is: events of an earlier one are void */
	bool killed;  /* the runner is gone, the command goes on */
	bool says_ok;
} sim_runner;

struct sim_node {
	sim *s;
	size_t index;
	char name[16];
	sim_disk *disk;
	bool up;
	int64_t boots;
	char boot_id[37];
	bool cut[SIM_MACHINES];    /* no connection with that machine */
	int64_t stuck_until, slow; /* ms: nothing goes on till then; each answer takes so long */
	bool full;                 /* its disk is */
	pid_t next_pid;
	sim_process process[SIM_PROCESSES]; /* the newest ones */
	size_t processes;
	sim_runner runner;
	sim_talk *talks; /* conversations whose agent lives */

	bool service;
	sim_key runs_with; /* the key with which the service was started */
	bool by_hand;      /* a person started it */
	bool may_be_down;  /* it crashed, or a person took it over: its service may be down at the end */
	bool dirty;        /* what is below must be read again from the disk */
	sim_key env;
	bool slot, key_file;
	const char *torn; /* S9: the file that is neither the old nor the new one, or NULL */
};

typedef struct sim_world {
	sim_key data;
	int64_t version;                            /* counts writes of the application */
	bool vague;                                 /* the probe did not know last time */
	bool never_started;                         /* the rekey's node is certain of that */
	bool backup, backup_checked, backup_sealed; /* the last: under the key that is escrowed */
	int64_t backup_version, backup_id;
	bool key_made, escrowed, backup_key_escrowed;
	bool changed; /* anything but a look */
	bool rekey_running;
	unsigned rekey_started, rekey_completed;
	bool log_tells; /* of the migration */
	bool reverted;  /* a person gave up what was written since */
} sim_world;

/* --- The network (net.c) ------------------------------------------------------------------------------------------ */

/* One connection: a coordinator's end, and an agent process at the other. */
struct sim_talk {
	sim_talk *next; /* of the node */
	sim_coord *coord;
	sim_node *node;
	int64_t link; /* the coordinator counts them, a node each */
	bool open;    /* the coordinator holds it for open */
	bool agent;   /* the agent process lives */
	bool over;    /* the agent knows that the conversation is over */
	pid_t pid;
	int64_t to_agent, to_coord; /* nothing overtakes: when the last message arrives */
	kt_buf in;                  /* what came for the agent */
	cJSON *queue[8];            /* requests that wait, the caller's */
	size_t queued;
	const char *waits; /* the spool folder of the work that the agent waits for, or NULL */
	int64_t waits_id;  /* the request's */
};

/* --- Coordinators ------------------------------------------------------------------------------------------------- */

/* An event of the journal; entries are never changed, so that copies of a journal share them. */
struct sim_entry {
	kt_event ev;
	size_t machine; /* of a take */
};

typedef struct sim_journal {
	sim_entry **entry;
	size_t n, cap;
	size_t durable; /* the entries of whole transactions */
	int64_t epoch;  /* the highest in it */
	int64_t commits;
} sim_journal;

/* A machine on which coordinators run, one at a time, with a state folder. */
typedef struct sim_machine {
	size_t index;
	bool has_journal;
	sim_journal journal;
	sim_coord *coord; /* NULL: none runs */
	int64_t clock;    /* its wall clock, ms ahead of the simulated time */
	bool full;        /* its disk is */
} sim_machine;

typedef struct sim_flight {
	struct sim_flight *next; /* in one of the driver's lists */
	struct sim_flight *older;
	sim_coord *coord;
	kt_command c;
	size_t node; /* SIZE_MAX: the coordinator itself */
	int64_t id;
	int64_t begun;
	int64_t give_up_at; /* 0: reachable so far */
	int64_t sent_times;
	bool resend, in_flight, delayed, over;
	kt_status status;
	cJSON *result;
	const kt_err *error; /* NULL when ok */
} sim_flight;

typedef struct sim_link {
	sim_talk *talk; /* NULL: not connected */
	int64_t count;
	bool reaching, timer;
	int64_t backoff;
	sim_flight *waiting; /* all that have no answer yet */
} sim_link;

struct sim_coord {
	sim *s;
	sim_machine *machine;
	bool alive;
	kt_engine *engine;
	int64_t epoch;
	int64_t links; /* where its links begin: drawn, so that two takes of one epoch are told apart */
	sim_link *link;
	sim_flight *arrived, **arrived_end; /* have an outcome that is not journalled yet */
	sim_flight *to_send, **to_send_end; /* have an intent in the batch */
	sim_flight *flights;                /* all, the newest first */
	int64_t ids;
	size_t asked; /* takeover: nodes that have not answered yet */
	enum { SIM_STAGE_CHECK, SIM_STAGE_FENCE, SIM_STAGE_RUN } stage;
	size_t unheard; /* takeover: nodes that did not answer */
	int64_t floor;  /* the highest epoch that a node follows */
	bool refused;   /* takeover: this journal is not the newest */
	bool wake;      /* a pump is scheduled */
	kt_group group;
	size_t under_way;
	bool hsm_lost; /* the session is gone until it is opened again */
	bool rollback, revert;
};

/* --- A run -------------------------------------------------------------------------------------------------------- */

typedef enum sim_fault {
	SIM_COORDINATOR_DIES,
	SIM_NODE_CRASHES,
	SIM_AGENT_KILLED,
	SIM_RUNNER_KILLED,
	SIM_CONNECTION_BREAKS,
	SIM_PARTITION,
	SIM_NODE_STUCK,
	SIM_NODE_SLOW,
	SIM_DISK_FULL,
	SIM_JOURNAL_FULL,
	SIM_HSM_SESSION_LOST,
	SIM_CLOCK_JUMPS,
	SIM_INTERRUPT,
	SIM_ROLLBACK,
	SIM_REVERT,
	SIM_BY_HAND,
	SIM_SECOND_COORDINATOR,
	SIM_STATE_MOVED,
	SIM_VERB_FAILS,
	SIM_REKEY_LIES,
	SIM_LATE_REQUEST,
	SIM_TORN_RECORD,
	SIM_FAULTS
} sim_fault;
const char *sim_fault_name(sim_fault f);

typedef struct sim_options {
	uint64_t seed;
	size_t nodes; /* 0: 1 to 5, by the seed */
	bool trace;   /* print the schedule */
	bool quiet;   /* no faults at all */
} sim_options;

typedef struct sim_result {
	bool ok;
	char why[SIM_WHY];
	kt_run_state end;
	size_t nodes, events, takes, commits, rekeys, restores,
		deepest; /* deepest: the phase in which the way back began */
	size_t fault[SIM_FAULTS];
} sim_result;

struct sim {
	const sim_options *o;
	sim_rng rng;
	const cJSON *plan;
	bool migration; /* the old data is in the legacy form: what is done once commits in batches, and tells of itself
			 */
	sim_result *out;
	int64_t now;
	uint64_t seq;
	sim_event *heap;
	size_t heap_n, heap_cap;
	struct sim_chunk *chunk; /* memory.c */
	cJSON **kept;
	size_t kept_n, kept_cap;
	sim_disk **disk; /* used again from run to run */
	size_t disks;
	sim_node *node;
	size_t n;
	sim_machine machine[SIM_MACHINES];
	sim_world w;
	bool faults;         /* things still go wrong */
	unsigned fail;       /* permille of actions that fail */
	unsigned fault_rate; /* permille of events at which something happens */
	size_t faults_left, calm_resumes;
	const char **request_name; /* takeover.c: by step, role and attempt, those below SIM_NAMED */
	size_t on_way;             /* requests, and runners that have not begun */
	bool may_revert;
	bool refused;         /* a coordinator was, as its journal is not the newest */
	bool operator_called; /* somebody is about to resume the run */
	bool over;
	kt_run_state last; /* of the latest `end` of the newest journal */
	char broken[SIM_WHY];
	/* Who is at work, for the code of the agent (node.c). */
	sim_node *at;
	pid_t as;
	sim_talk *in_talk;
};

void sim_trace(const sim *s, const char *fmt, ...) KT_PRINTF(2, 3);
void sim_break(sim *s, const char *fmt, ...) KT_PRINTF(2, 3);
bool sim_goes_wrong(sim *s); /* only while faults are on */
void sim_count(sim *s, sim_fault f);

/* node.c */
void sim_node_init(sim *s, size_t i);
sim_talk *sim_node_connect(sim_coord *c, size_t node);
void sim_node_receive(sim *s, sim_talk *t, const uint8_t *bytes, size_t n);
void sim_node_eof(sim *s, void *talk, int64_t what);
void sim_node_crash(sim *s, sim_node *n);
void sim_node_boot(sim *s, void *node, int64_t what);
void sim_agent_killed(sim *s, sim_talk *t);
void sim_node_look(sim_node *n);       /* reads what is dirty */
void sim_enter(sim_node *n, pid_t as); /* from here on code of that node runs */
bool sim_reachable(const sim_node *n, const sim_machine *m);
sim_process *sim_process_new(sim_node *n);
void sim_process_end(sim_node *n, pid_t pid);

/* runner.c */
kt_code sim_runner_start(void *node, const char *spool, char report[KT_ERR_MSG], kt_err *err);
void sim_runner_crash(sim *s, sim_node *n);
void sim_runner_kill(sim *s, sim_node *n);

/* verbs.c: the agent's table, as it is here */
extern const kt_agent_verb sim_verbs[];

/* world.c: the coordinator's own verbs */
void sim_world_act(sim_coord *c, const kt_command *cmd, kt_status *status, cJSON *result, kt_err *err);
void sim_rekey_starts(sim *s);
void sim_rekey_ends(sim *s, sim_runner *r, bool crashed);

/* net.c */
void sim_send_to_agent(sim *s, sim_talk *t, const uint8_t *bytes, size_t n);
void sim_send_to_coord(sim *s, sim_talk *t, const uint8_t *bytes, size_t n);
/* The connection is gone: the coordinator knows it in `delay` ms, the agent some time. */
void sim_connection_breaks(sim *s, sim_talk *t, int64_t delay);

/* ask.c: the driver's side of the connections, as orchestrator/turn/nodes.c */
void sim_ask(sim_flight *f);
void sim_reply_came(sim *s, sim_talk *t, const uint8_t *bytes, size_t n);
void sim_link_lost(sim *s, void *talk, int64_t what);

/* journal.c */
void sim_journal_open(sim *s, sim_machine *m);
void sim_journal_append(sim *s, sim_journal *j, const kt_event *ev);
bool sim_journal_commit(sim *s, sim_machine *m);
void sim_journal_crash(sim *s, sim_machine *m);
/* Nobody puts an older state folder over one in which more stands. */
bool sim_journal_may_copy(const sim_machine *from, const sim_machine *to);
void sim_journal_copy(sim *s, const sim_machine *from, sim_machine *to);
bool sim_journal_has_intent(const sim *s, const kt_request *r);
bool sim_journal_has_take(const sim_journal *j, int64_t epoch);

/* coordinator.c */
void sim_coord_start(sim *s, sim_machine *m, bool rollback, bool revert);
sim_flight *sim_flight_new(sim_coord *c, const kt_command *cmd); /* takes over the arguments */
bool sim_coord_take(sim_coord *c);
void sim_coord_go_on(sim_coord *c);
void sim_coord_gone(sim_coord *c);
void sim_coord_dies(sim_coord *c, const char *why);
void sim_coord_person(sim_coord *c, kt_event_kind kind);
void sim_coord_wake(sim_coord *c);
void sim_arrive(sim_flight *f, kt_status status, cJSON *result, const kt_err *error); /* result: kept */

/* takeover.c */
void sim_takeover_begin(sim_coord *c);
bool sim_nobody_newer(const sim_coord *c);
void sim_takeover_answer(sim_flight *f);

/* faults.c */
void sim_faults_draw(sim *s);
void sim_fault_now(sim *s);
void sim_by_hand(sim *s, void *unused, int64_t unused_too); /* somebody brings a node back while nobody watches */
void sim_heal(sim *s);
void sim_call_operator(sim *s);

/* checks.c */
void sim_check(sim *s);
void sim_check_engine(sim *s, const kt_engine *e);
void sim_check_end(sim *s);

/* run.c */
sim *sim_new(void);
void sim_free(sim *s);
sim_result sim_run(sim *s, const sim_options *o);

typedef struct sim_totals {
	size_t runs, end[KT_RUN_STATES], deepest[16];
	size_t events, takes, commits, rekeys, restores, fault[SIM_FAULTS];
} sim_totals;
void sim_totals_add(sim_totals *t, const sim_result *r);
/* Runs from seed `first` on; false at the first that fails: *failed is its seed, `why` what does not hold. */
bool sim_many(uint64_t first, size_t runs, size_t nodes, sim_totals *totals, uint64_t *failed, char why[SIM_WHY]);

#endif

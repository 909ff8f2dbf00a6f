/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Spool, epoch and dispatch over a disk in memory (tests/sim/disk.h): killed, without power, full and failing at every
 * single operation, and every record damaged at every byte. Then the same is asked again. The verbs are the test's own;
 * what they do to the world is counted, and the world forgets nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/dispatch.h"
#include "agent/epoch.h"
#include "agent/keep.h"
#include "agent/once.h"
#include "agent/runlock.h"
#include "agent/slot.h"
#include "agent/spool.h"
#include "base/file.h"
#include "base/log.h"
#include "base/record.h"
#include "tests/sim/disktest.h"
#include "tests/unit/allocfail.h"
#include "tests/unit/support.h"

#define STATE "/sim/state"
#define SET_DIR STATE "/spool/R1/set.do.1"
#define REKEY_DIR STATE "/spool/R1/rekey.do.1"

enum { SEEDS = 30, CUTS = 300, PROCESSES = 4096 };

/* --- Processes that are only numbers --------------------------------------------------------------------------------
 */

static struct {
	pid_t us;
	bool dead[PROCESSES];
	unsigned boot;
} machine;

static pid_t new_process(void)
{
	static pid_t last = 1;
	last = last % (PROCESSES - 2) + 2;
	machine.dead[last] = false;
	return last;
}

pid_t __wrap_getpid(void);
pid_t __wrap_getpid(void)
{
	return machine.us;
}

kt_code __wrap_kt_boot_id(char out[KT_BOOT_ID], kt_err *err);
kt_code __wrap_kt_boot_id(char out[KT_BOOT_ID], kt_err *err)
{
	(void)err;
	(void)snprintf(out, KT_BOOT_ID, "00000000-0000-0000-0000-%012u", machine.boot);
	return KT_OK;
}

kt_code __wrap_kt_process_of(pid_t pid, kt_process *out, kt_err *err);
kt_code __wrap_kt_process_of(pid_t pid, kt_process *out, kt_err *err)
{
	*out = (kt_process){.pid = pid, .start = 7};
	return __wrap_kt_boot_id(out->boot_id, err);
}

bool __wrap_kt_process_alive(const kt_process *p);
bool __wrap_kt_process_alive(const kt_process *p)
{
	kt_process now;
	kt_err err = KT_ERR_INIT;
	return __wrap_kt_process_of(p->pid, &now, &err) == KT_OK && strcmp(now.boot_id, p->boot_id) == 0 &&
	       !machine.dead[p->pid];
}

bool __wrap_kt_process_session_alive(const kt_process *leader);
bool __wrap_kt_process_session_alive(const kt_process *leader)
{
	return __wrap_kt_process_alive(leader);
}

/* --- The world and the verbs ----------------------------------------------------------------------------------------
 */

static sim_rng dice;

static struct {
	bool on;           /* what "set" turns off */
	unsigned executed; /* how often the command of "rekey" was */
	bool linger;       /* its runner goes on after it has begun; it ends with end_runner */
	bool never;        /* it was said that it never will be */
	bool late;         /* its runner is started and has not come yet; its agent is killed at that moment */
	pid_t runner, command;
} world;

/* As service.stop: what it finds is noted before it is changed. A process that is dead changes nothing. */
static kt_code set(kt_agent_ctx *ctx, cJSON *result, kt_err *err)
{
	cJSON *note;
	KT_TRY(kt_spool_noted(ctx->spool, &note, err));
	bool was_on = world.on || cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(note, "was_on"));
	cJSON_Delete(note);
	note = cJSON_CreateObject();
	kt_code rc = note ? kt_json_add_bool(note, "was_on", was_on, err)
			  : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = kt_spool_note(ctx->spool, note, err);
	cJSON_Delete(note);
	KT_TRY(rc);
	if (!sim_disk_dead(disk))
		world.on = false;
	return kt_json_add_bool(result, "was_on", was_on, err);
}

static kt_status act_set(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)args;
	return kt_action_end(set(ctx, result, err));
}

static kt_code end_command(const char *spool, kt_err *err)
{
	kt_err fine = KT_ERR_INIT;
	cJSON *result = cJSON_CreateObject();
	machine.dead[world.command] = true;
	kt_code rc = kt_spool_finish(spool, KT_STATUS_OK, result, &fine, err);
	cJSON_Delete(result);
	return rc;
}

/* The detached runner, as agent/runner.c: claim, the command's process, the command, its outcome. */
static kt_code runner(const char *spool, kt_err *err)
{
	bool mine;
	KT_TRY(kt_spool_claim(spool, &mine, err));
	if (!mine)
		return KT_OK;
	world.command = new_process();
	kt_code rc = kt_spool_child(spool, world.command, err);
	if (rc != KT_OK) {
		machine.dead[world.command] = true;
		kt_err why = *err;
		return kt_spool_finish(spool, KT_STATUS_FAILED, NULL, &why, err);
	}
	if (!sim_disk_dead(disk))
		world.executed++;
	return world.linger ? KT_OK : end_command(spool, err);
}

static kt_code start_runner(void *arg, const char *spool, char report[KT_ERR_MSG], kt_err *err)
{
	(void)arg, (void)err;
	kt_err why = KT_ERR_INIT;
	pid_t agent = machine.us;
	if (world.late) {
		sim_disk_die_after(disk, 0);
		return KT_OK;
	}
	machine.us = world.runner = new_process();
	if (runner(spool, &why) != KT_OK)
		(void)snprintf(report, KT_ERR_MSG, "%s", why.msg);
	machine.dead[world.runner] = !world.linger;
	machine.us = agent;
	return KT_OK;
}

static kt_status act_rekey(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)args;
	kt_code rc = kt_once_begin(ctx, start_runner, NULL, err);
	if (rc != KT_OK)
		return kt_action_end(rc);
	bool runs;
	kt_status status = kt_once_look(ctx->spool, &runs, result, err);
	if (runs)
		KT_IGNORE(kt_fail(err, KT_E_UNKNOWN, NULL, "it still runs"));
	return status;
}

static kt_status act_look(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)ctx, (void)args, (void)result, (void)err;
	return KT_STATUS_OK;
}

static const kt_agent_verb verbs[] = {
	{"set", KT_VERB_CHANGES, KT_VERB_AGAIN, false, false, false, "hidden", act_set},
	{"rekey", KT_VERB_CHANGES, KT_VERB_ONCE, false, false, false, NULL, act_rekey},
	{"run.release", KT_VERB_ENDS, KT_VERB_AGAIN, false, false, false, NULL, kt_action_run_release},
	{"probe", KT_VERB_READS, KT_VERB_AGAIN, false, true, false, NULL, act_look},
	{NULL, KT_VERB_READS, KT_VERB_AGAIN, false, false, false, NULL, NULL},
};

/* --- Asking ---------------------------------------------------------------------------------------------------------
 */

typedef struct told {
	bool any; /* somebody lived to tell it */
	kt_status status;
	bool was_on;
	kt_err error;
} told;

typedef struct how {
	const char *verb;
	const char *cluster, *run;
	int64_t epoch, attempt;
	bool settle;
	const char *args; /* NULL: the usual ones */
	size_t no_memory; /* this allocation fails, and *ran_out tells whether there was one; 0: none */
	bool *ran_out;
} how;

static told ask(how h)
{
	told t = {0};
	cJSON *result = cJSON_CreateObject();
	cJSON *args = cJSON_Parse(h.args ? h.args : "{\"hidden\":{\"key\":\"blob\"},\"n\":[1,2]}");
	const kt_agent agent = {.verbs = verbs, .state = STATE, .node = "web01"};
	const kt_request r = {.id = 1,
			      .cluster = h.cluster ? h.cluster : "looker",
			      .run = h.run ? h.run : "R1",
			      .epoch = h.epoch ? h.epoch : 5,
			      .step = h.verb,
			      .role = KT_ROLE_DO,
			      .node = "web01",
			      .attempt = h.attempt ? h.attempt : 1,
			      .verb = h.verb,
			      .settle = h.settle,
			      .args = args};
	if (h.no_memory)
		allocfail_begin(h.no_memory);
	t.status = kt_dispatch(&agent, &r, result, &t.error);
	if (h.no_memory)
		*h.ran_out = allocfail_end();
	cJSON_Delete(args);
	t.was_on = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(result, "was_on"));
	t.any = !sim_disk_dead(disk);
	bool never = cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(result, "started"));
	world.never |= t.any && never && t.error.code != KT_E_AUDIT; /* which is not recorded, but for this request */
	if (world.never && world.executed)
		fail_msg("seed %llu: executed, and it was said that it never is", (unsigned long long)dice.s);
	cJSON_Delete(result);
	return t;
}

#define ASK(...) ask((how){.verb = __VA_ARGS__})

/* A node on which nothing has happened yet. */
static void fresh(uint64_t seed)
{
	kt_err err = KT_ERR_INIT;
	memset(&machine, 0, sizeof machine);
	memset(&world, 0, sizeof world);
	machine.us = new_process();
	world.on = true;
	dice.s = seed;
	sim_disk_reset(disk);
	assert_kt_ok(kt_file_mkdirs(STATE, 0700, &err));
}

static void kill_processes(void)
{
	memset(machine.dead, 1, sizeof machine.dead);
	sim_disk_process_end(disk);
	machine.us = new_process();
}

static void cut_power(void)
{
	memset(machine.dead, 1, sizeof machine.dead);
	sim_disk_power_cut(disk, sim_roll, &dice);
	machine.boot++;
	machine.us = new_process();
}

/* --- What must always hold ------------------------------------------------------------------------------------------
 */

/* Under valgrind a few of all places are enough to see every line. */
static unsigned stride(void)
{
	return getenv("KT_VALGRIND") ? 13 : 1;
}

static const char *scenario; /* for messages */
static uint64_t at_op;

#define CHECK(cond, t)                                                                                                 \
	do {                                                                                                           \
		if (!(cond))                                                                                           \
			fail_msg("%s at operation %llu, seed %llu: %s does not hold (told %s, %s: %s)", scenario,      \
				 (unsigned long long)at_op, (unsigned long long)dice.s, #cond,                         \
				 kt_status_name((t).status), kt_code_name((t).error.code), (t).error.msg);             \
	} while (0)

/* What was said of "rekey" is true now. */
static void true_of_rekey(const told *t)
{
	if (!t->any)
		return;
	CHECK(world.executed <= 1, *t);
	if (t->status == KT_STATUS_OK)
		CHECK(world.executed == 1, *t);
	if (t->status == KT_STATUS_FAILED)
		CHECK(world.executed == 0, *t);
	CHECK(t->status == KT_STATUS_OK || t->error.msg[0], *t);
}

static void true_of_set(const told *t)
{
	if (!t->any)
		return;
	if (t->status == KT_STATUS_OK)
		CHECK(!world.on && t->was_on, *t);
	CHECK(t->status == KT_STATUS_OK || t->error.code == KT_E_AUDIT || t->error.code == KT_E_IO, *t);
}

/* No run of another cluster may do anything, and hears who holds the node. */
static void held_against_others(void)
{
	told t = ASK("set", .cluster = "store", .run = "S1", .epoch = 9);
	CHECK(t.status == KT_STATUS_FAILED && t.error.code == KT_E_BUSY, t);
	CHECK(strstr(t.error.msg, "held by run R1 of cluster looker since "), t);
	CHECK(strstr(t.error.remedy, "keyturn resume") && strstr(t.error.remedy, STATE "/holder"), t);
	CHECK(access(STATE "/spool/S1", F_OK) != 0, t);
}

/* What has changed the world was recorded: nobody takes it for new, and no coordinator that was replaced may act. */
static void recorded_before_it_happened(void)
{
	told t = {0};
	if (!world.on)
		CHECK(!kt_spool_unused(SET_DIR), t);
	if (world.executed)
		CHECK(!kt_spool_unused(REKEY_DIR), t);
	if (world.on && !world.executed)
		return;
	t = ASK("set", .run = "R0", .epoch = 4);
	CHECK(t.status == KT_STATUS_FAILED && t.error.code == KT_E_BUSY, t);
	CHECK(access(STATE "/spool/R0", F_OK) != 0, t);
	held_against_others();
}

/* Asked again after the fault, and once more after the power was cut: the same, as far as it is known. */
static void ask_again(const told *set_before, const told *rekey_before, bool settle)
{
	recorded_before_it_happened();
	told r = ASK("rekey", .settle = settle);
	true_of_rekey(&r);
	true_of_rekey(rekey_before);
	told s = ASK("set");
	CHECK(s.any && s.status == KT_STATUS_OK, s);
	true_of_set(&s);
	true_of_set(set_before);
	cut_power();
	recorded_before_it_happened();
	told again = ASK("rekey", .settle = !settle);
	true_of_rekey(&again);
	true_of_rekey(&r);
	CHECK(r.status == KT_STATUS_UNKNOWN || again.status == r.status, again);
	s = ASK("set");
	CHECK(s.status == KT_STATUS_OK, s);
	true_of_set(&s);
	CHECK(!kt_spool_unused(SET_DIR) && !kt_spool_unused(REKEY_DIR), s);
}

/* Both verbs, up to the fault. */
static void live(told *s, told *r)
{
	*s = ASK("set");
	*r = *s;
	r->any = false;
	if (!sim_disk_dead(disk))
		*r = ASK("rekey");
}

static uint64_t operations(void)
{
	told s;
	told r;
	fresh(0);
	uint64_t before = sim_disk_ops(disk);
	live(&s, &r);
	CHECK(s.status == KT_STATUS_OK && r.status == KT_STATUS_OK && world.executed == 1, r);
	return sim_disk_ops(disk) - before;
}

static void killed_anywhere(void **state)
{
	(void)state;
	scenario = "killed";
	const uint64_t all = operations();
	assert_true(all > 40);
	for (at_op = 0; at_op <= all; at_op += stride()) {
		for (int settle = 0; settle < 2; settle++) {
			told s;
			told r;
			fresh(at_op);
			sim_disk_die_after(disk, at_op);
			live(&s, &r);
			kill_processes();
			ask_again(&s, &r, settle);
		}
	}
}

static void without_power_anywhere(void **state)
{
	(void)state;
	scenario = "power cut";
	const uint64_t all = operations();
	for (at_op = 0; at_op <= all; at_op += stride()) {
		for (uint64_t seed = 0; seed < SEEDS; seed += stride()) {
			told s;
			told r;
			fresh(at_op * SEEDS + seed);
			sim_disk_die_after(disk, at_op);
			live(&s, &r);
			cut_power();
			ask_again(&s, &r, seed % 2);
		}
	}
}

/* Killed in the middle, asked again, and then the power is cut in the middle of that. */
static void killed_and_then_without_power(void **state)
{
	(void)state;
	scenario = "killed, then power cut";
	const uint64_t all = operations();
	for (at_op = 0; at_op <= all; at_op += stride()) {
		for (uint64_t then = 0; then <= all; then += stride() + at_op % 3) {
			told s;
			told r;
			told s2;
			told r2;
			fresh(at_op * 1000 + then);
			sim_disk_die_after(disk, at_op);
			live(&s, &r);
			kill_processes();
			sim_disk_die_after(disk, then);
			live(&s2, &r2);
			cut_power();
			true_of_rekey(&r2);
			ask_again(&s, &r, then % 2);
		}
	}
}

static void fails_anywhere(int error, bool reads_too)
{
	const uint64_t all = operations();
	fresh(0);
	const uint64_t calls_before = sim_disk_calls(disk);
	told s;
	told r;
	live(&s, &r);
	const uint64_t calls = reads_too ? sim_disk_calls(disk) - calls_before : all;
	for (at_op = 0; at_op <= calls; at_op += stride()) {
		fresh(at_op);
		if (reads_too)
			sim_disk_fail_call_at(disk, at_op, error);
		else
			sim_disk_fail_at(disk, at_op, error);
		live(&s, &r);
		true_of_set(&s);
		true_of_rekey(&r);
		CHECK(s.status == KT_STATUS_OK || s.status == KT_STATUS_FAILED || s.status == KT_STATUS_UNKNOWN, s);
		CHECK(r.status == KT_STATUS_OK || r.error.code == KT_E_AUDIT || r.error.code == KT_E_IO ||
			      r.error.code == KT_E_INTERNAL ||
			      (r.status == KT_STATUS_UNKNOWN && r.error.code == KT_E_UNKNOWN),
		      r);
		sim_disk_process_end(disk);
		/* "failed" for good: no request that comes late brings it about. */
		if (r.status == KT_STATUS_FAILED && at_op % 2) {
			told late = ASK("rekey");
			true_of_rekey(&late);
			CHECK(late.status == KT_STATUS_FAILED || !kt_spool_unused(REKEY_DIR), late);
		}
		kill_processes();
		told none = {0};
		if (s.status == KT_STATUS_OK)
			ask_again(&s, &none, at_op % 2);
		else
			recorded_before_it_happened();
	}
}

static void no_room_anywhere(void **state)
{
	(void)state;
	scenario = "ENOSPC";
	fails_anywhere(ENOSPC, false);
}

static void a_failing_disk(void **state)
{
	(void)state;
	scenario = "EIO";
	fails_anywhere(EIO, false);
	scenario = "EIO, also reading";
	fails_anywhere(EIO, true);
}

/* Truly full, with any number of blocks left: what was begun is recorded to its end, what cannot be is not begun. */
static void full_disks(void **state)
{
	(void)state;
	scenario = "full";
	unsigned done = 0;
	unsigned refused = 0;
	for (at_op = 0; at_op < 60; at_op++) {
		told s;
		told r;
		fresh(at_op);
		sim_disk_limit(disk, sim_disk_used(disk) + at_op * SIM_DISK_BLOCK);
		live(&s, &r);
		true_of_set(&s);
		true_of_rekey(&r);
		if (s.status != KT_STATUS_OK)
			CHECK(world.on && s.error.code == KT_E_AUDIT && strstr(s.error.msg, "cannot be recorded"), s);
		if (s.status == KT_STATUS_OK)
			CHECK(access(SET_DIR "/outcome.json", F_OK) == 0, s);
		CHECK(!world.executed || access(REKEY_DIR "/outcome.json", F_OK) == 0, r);
		done += r.status == KT_STATUS_OK;
		refused += s.status != KT_STATUS_OK;
		sim_disk_limit(disk, SIZE_MAX);
		kill_processes();
		told none = {0};
		if (s.status == KT_STATUS_OK)
			ask_again(&s, &none, true);
	}
	assert_true(done > 10 && refused > 10);
}

/* Without memory at any allocation: nothing untrue is said, then or when it is asked again. */
static bool without_memory(const char *verb, bool begun_before, size_t n)
{
	told set_told;
	told rekey_told;
	bool ran_out = false;
	bool is_set = strcmp(verb, "set") == 0;
	at_op = n;
	fresh(n);
	if (begun_before) { /* its outcome was not recorded */
		live(&set_told, &rekey_told);
		(void)unlink(is_set ? SET_DIR "/outcome.json" : REKEY_DIR "/outcome.json");
		world.on = true;
	}
	told t = ASK(verb, .no_memory = n, .ran_out = &ran_out);
	CHECK(ran_out || t.status == (is_set || !begun_before ? KT_STATUS_OK : KT_STATUS_UNKNOWN), t);
	for (int again = 0; again < 2; again++) {
		if (is_set)
			CHECK(t.status != KT_STATUS_OK || (!world.on && t.was_on), t);
		else
			true_of_rekey(&t);
		kill_processes();
		/* What could not be recorded is no outcome. */
		bool refused = t.status == KT_STATUS_FAILED &&
			       (t.error.code == KT_E_AUDIT || kt_spool_unused(is_set ? SET_DIR : REKEY_DIR));
		told next = ASK(verb);
		CHECK(t.status == KT_STATUS_UNKNOWN || refused || next.status == t.status ||
			      (is_set && next.status == KT_STATUS_OK),
		      next);
		t = next;
	}
	t = ASK("set", .attempt = 2);
	CHECK(t.status == KT_STATUS_OK && !world.on, t);
	return ran_out;
}

static void no_memory_anywhere(void **state)
{
	(void)state;
	scenario = "no memory";
	for (int v = 0; v < 4; v++) {
		unsigned rounds = 0;
		for (size_t n = 1; allocfail_more(n); n += stride())
			rounds += without_memory(v % 2 ? "set" : "rekey", v >= 2, n);
		assert_true(rounds * stride() > 20);
	}
}

/* --- Who holds the node ---------------------------------------------------------------------------------------------
 */

/* Released anywhere in between: held or not, never half; and told again it is free. */
static void released_anywhere(void **state)
{
	(void)state;
	scenario = "release";
	unsigned held = 0;
	for (at_op = 0; at_op < 40; at_op++) {
		told s;
		told r;
		fresh(at_op);
		live(&s, &r);
		held_against_others();
		sim_disk_die_after(disk, at_op / 4);
		told t = ASK("run.release");
		cut_power();
		told other = ASK("set", .cluster = "store", .run = "S1", .epoch = 9);
		CHECK(other.status == KT_STATUS_OK || other.error.code == KT_E_BUSY, other);
		CHECK(!t.any || (t.status == KT_STATUS_OK && other.status == KT_STATUS_OK), other);
		held += other.status != KT_STATUS_OK;
		t = ASK("run.release");
		CHECK(t.status == KT_STATUS_OK, t);
		other = ASK("set", .cluster = "store", .run = "S1", .epoch = 9);
		CHECK(other.status == KT_STATUS_OK, other);
		/* Somebody else's is not released. */
		t = ASK("run.release");
		CHECK(t.status == KT_STATUS_OK, t);
		t = ASK("set", .attempt = 2);
		CHECK(t.status == KT_STATUS_FAILED && strstr(t.error.msg, "held by run S1 of cluster store"), t);
	}
	assert_true(held > 0 && held < 40);
}

/* Within a cluster the next run, of a higher epoch, takes it over; the earlier one is fenced off and releases nothing.
 */
static void the_next_run_takes_over(void **state)
{
	(void)state;
	scenario = "next run";
	kt_err err = KT_ERR_INIT;
	kt_runlock h;
	fresh(1);
	told t = ASK("set");
	CHECK(t.status == KT_STATUS_OK, t);
	t = ASK("set", .run = "R2", .epoch = 6);
	CHECK(t.status == KT_STATUS_OK, t);
	assert_kt_ok(kt_runlock_read(STATE, &h, &err));
	assert_string_equal(h.run, "R2");
	t = ASK("run.release");
	CHECK(t.status == KT_STATUS_FAILED && t.error.code == KT_E_BUSY, t);
	assert_kt_ok(kt_runlock_read(STATE, &h, &err));
	assert_string_equal(h.run, "R2");
	/* While detached work runs nothing is released. */
	world.linger = true;
	t = ASK("rekey", .run = "R2", .epoch = 6);
	t = ASK("run.release", .run = "R2", .epoch = 6);
	CHECK(t.status == KT_STATUS_FAILED && t.error.code == KT_E_BUSY, t);
	kill_processes();
	t = ASK("run.release", .run = "R2", .epoch = 6);
	CHECK(t.status == KT_STATUS_OK, t);
	assert_kt_ok(kt_runlock_read(STATE, &h, &err));
	assert_string_equal(h.cluster, "");
}

/* --- Detached work --------------------------------------------------------------------------------------------------
 */

static void end_runner(void)
{
	kt_err err = KT_ERR_INIT;
	pid_t agent = machine.us;
	machine.us = world.runner;
	assert_kt_ok(end_command(REKEY_DIR, &err));
	machine.dead[world.runner] = true;
	machine.us = agent;
}

/* The runner outlives its agent: nothing else is done beside it, and its outcome is told to whoever asks. */
static void work_outlives_its_agent(void **state)
{
	(void)state;
	scenario = "detached";
	fresh(1);
	world.linger = true;
	told r = ASK("rekey");
	CHECK(r.status == KT_STATUS_UNKNOWN && world.executed == 1, r);
	sim_disk_process_end(disk);
	machine.dead[machine.us] = true;
	machine.us = new_process();
	told s = ASK("set");
	CHECK(s.status == KT_STATUS_FAILED && s.error.code == KT_E_BUSY && world.on, s);
	CHECK(kt_spool_unused(SET_DIR), s);
	told p = ASK("probe");
	CHECK(p.status == KT_STATUS_FAILED && p.error.code == KT_E_BUSY, p);
	r = ASK("rekey", .settle = true);
	CHECK(r.status == KT_STATUS_UNKNOWN && strcmp(r.error.msg, "it still runs") == 0, r);
	/* The runner is killed, the command itself still runs. */
	machine.dead[world.runner] = true;
	s = ASK("set");
	CHECK(s.error.code == KT_E_BUSY && world.on, s);
	machine.dead[world.runner] = false;
	end_runner();
	r = ASK("rekey", .settle = true);
	CHECK(r.status == KT_STATUS_OK, r);
	s = ASK("set");
	CHECK(s.status == KT_STATUS_OK, s);
	p = ASK("probe");
	CHECK(p.status == KT_STATUS_OK, p);
}

static void work_dies(bool power)
{
	fresh(2);
	world.linger = true;
	told r = ASK("rekey");
	CHECK(world.executed == 1, r);
	if (power)
		cut_power();
	else
		kill_processes();
	world.linger = false;
	told s = ASK("set");
	CHECK(s.status == KT_STATUS_OK, s);
	r = ASK("rekey");
	CHECK(r.status == KT_STATUS_UNKNOWN && r.error.code == KT_E_UNKNOWN && world.executed == 1, r);
	CHECK(strstr(r.error.msg, power ? "rebooted" : "its runner is gone"), r);
	r = ASK("rekey", .settle = true);
	CHECK(r.status == KT_STATUS_UNKNOWN && world.executed == 1, r);
}

static void work_that_dies_is_unknown(void **state)
{
	(void)state;
	scenario = "runner killed";
	work_dies(false);
	scenario = "rebooted";
	work_dies(true);
}

/* Asked for, not begun, and something else comes first: called off for good. */
static void work_that_was_not_begun(void **state)
{
	(void)state;
	scenario = "called off";
	kt_err err = KT_ERR_INIT;
	fresh(3);
	const uint64_t all = operations();
	unsigned off = 0;
	for (at_op = 0; at_op <= all; at_op += stride()) {
		fresh(at_op);
		sim_disk_die_after(disk, at_op);
		told r = ASK("rekey");
		kill_processes();
		kt_epoch seen;
		assert_kt_ok(kt_epoch_read(STATE, "looker", &seen, &err));
		bool pending =
			access(STATE "/clusters/looker/detached", F_OK) == 0 && access(REKEY_DIR "/pid", F_OK) != 0;
		told s = ASK("set");
		CHECK(s.status == KT_STATUS_OK, s);
		if (!pending)
			continue;
		off++;
		r = ASK("rekey");
		CHECK(r.status == KT_STATUS_FAILED && world.executed == 0 && strstr(r.error.msg, "called off"), r);
	}
	assert_true(off > 0 || stride() > 1);
}

/* A runner whose agent was killed comes late: whoever was told "failed" before must have kept it off. */
static void a_late_runner(void **state)
{
	(void)state;
	scenario = "late runner";
	char report[KT_ERR_MSG] = "";
	kt_err err = KT_ERR_INIT;
	unsigned unknown = 0;
	unsigned failed = 0;
	for (at_op = 0; at_op < 40; at_op++) {
		fresh(at_op);
		world.late = true;
		told t = ASK("rekey");
		assert_false(t.any);
		kill_processes();
		sim_disk_fail_at(disk, at_op, ENOSPC);
		t = ASK("rekey", .settle = true);
		CHECK(t.status == KT_STATUS_FAILED || t.status == KT_STATUS_UNKNOWN, t);
		sim_disk_process_end(disk);
		world.late = false;
		assert_kt_ok(start_runner(NULL, REKEY_DIR, report, &err));
		CHECK(world.executed == 0 || t.status == KT_STATUS_UNKNOWN, t);
		unknown += world.executed == 1;
		failed += t.status == KT_STATUS_FAILED;
	}
	assert_true(unknown > 0 && failed > 0);
}

/* --- Damage ---------------------------------------------------------------------------------------------------------
 */

static size_t load_file(const char *path, uint8_t *out, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	ssize_t n = read(fd, out, size);
	assert_true(n > 0 && (size_t)n < size);
	assert_int_equal(close(fd), 0);
	return (size_t)n;
}

static void store_file(const char *path, const uint8_t *bytes, size_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	if (n)
		assert_int_equal(write(fd, bytes, n), n);
	assert_int_equal(close(fd), 0);
}

/* Call `check` for the file with each byte changed, with each shorter length, and with more at its end. */
static void each_damage(const char *path, void (*check)(const char *path))
{
	static uint8_t whole[4096];
	static uint8_t bad[4096];
	const size_t n = load_file(path, whole, sizeof whole - 1);
	scenario = path;
	for (size_t at = 0; at < n; at += stride()) {
		static const uint8_t flips[] = {0x01, 0x20, 0x80, 0xff};
		for (size_t f = 0; f < sizeof flips; f++) {
			memcpy(bad, whole, n);
			bad[at] ^= flips[f];
			at_op = at;
			store_file(path, bad, n);
			check(path);
		}
		store_file(path, whole, at);
		check(path);
	}
	memcpy(bad, whole, n);
	bad[n] = '\n';
	store_file(path, bad, n + 1);
	check(path);
	store_file(path, whole, n);
}

/* Audit, with the file's path and what to do. */
static void said(const told *t, kt_status status, const char *path)
{
	CHECK(t->status == status && t->error.code == KT_E_AUDIT, *t);
	CHECK(strstr(t->error.msg, path) && strstr(t->error.msg, "damaged") && t->error.remedy[0], *t);
}

static void prepare(bool outcomes)
{
	told s;
	told r;
	fresh(9);
	live(&s, &r);
	CHECK(s.status == KT_STATUS_OK && r.status == KT_STATUS_OK, r);
	world.on = true; /* somebody turned it on again: whoever acts now would be seen */
	if (outcomes)
		return;
	assert_int_equal(unlink(SET_DIR "/outcome.json"), 0);
	assert_int_equal(unlink(REKEY_DIR "/outcome.json"), 0);
}

static void set_is_unknown(const char *path)
{
	told t = ASK("set");
	said(&t, KT_STATUS_UNKNOWN, path);
	CHECK(world.on, t);
}

static void rekey_is_unknown(const char *path)
{
	told t = ASK("rekey");
	said(&t, KT_STATUS_UNKNOWN, path);
	t = ASK("rekey", .settle = true);
	said(&t, KT_STATUS_UNKNOWN, path);
	CHECK(world.executed == 1, t);
}

/* Nobody can say whether it still runs: nothing else beside it, and a person is told what to look for. */
static void nothing_runs_beside_it(const char *path)
{
	rekey_is_unknown(path);
	told t = ASK("set", .attempt = 2);
	said(&t, KT_STATUS_FAILED, path);
	CHECK(strstr(t.error.remedy, STATE "/clusters/looker/detached"), t);
	CHECK(world.on && kt_spool_unused(STATE "/spool/R1/set.do.2"), t);
	t = ASK("probe");
	said(&t, KT_STATUS_FAILED, path);
}

static void nobody_is_let_in(const char *path)
{
	told t = ASK("set");
	said(&t, KT_STATUS_UNKNOWN, path);
	t = ASK("set", .attempt = 2);
	said(&t, KT_STATUS_FAILED, path);
	t = ASK("set", .run = "R9", .epoch = 1000);
	said(&t, KT_STATUS_FAILED, path);
	CHECK(world.on && world.executed == 1, t);
}

static void nobody_holds_it_for_sure(const char *path)
{
	told t = ASK("set");
	said(&t, KT_STATUS_UNKNOWN, path);
	t = ASK("set", .attempt = 2);
	said(&t, KT_STATUS_FAILED, path);
	t = ASK("set", .cluster = "store", .run = "S1", .epoch = 1);
	said(&t, KT_STATUS_FAILED, path);
	CHECK(world.on && world.executed == 1, t);
	t = ASK("run.release");
	said(&t, KT_STATUS_FAILED, path);
}

static void it_still_answers(const char *path)
{
	(void)path;
	told t = ASK("rekey");
	CHECK(t.status == KT_STATUS_OK && world.executed == 1, t);
}

static void damaged_records(void **state)
{
	(void)state;
	prepare(true);
	each_damage(SET_DIR "/intent.json", set_is_unknown);
	each_damage(SET_DIR "/outcome.json", set_is_unknown);
	each_damage(REKEY_DIR "/intent.json", rekey_is_unknown);
	each_damage(REKEY_DIR "/outcome.json", rekey_is_unknown);
	/* With an outcome nobody needs to know who it was. */
	each_damage(REKEY_DIR "/pid", it_still_answers);
	each_damage(REKEY_DIR "/child", it_still_answers);
	each_damage(STATE "/holder", nobody_holds_it_for_sure);
	each_damage(STATE "/clusters/looker/epoch", nobody_is_let_in);
	prepare(false);
	each_damage(SET_DIR "/note.json", set_is_unknown);
	each_damage(REKEY_DIR "/pid", nothing_runs_beside_it);
	each_damage(REKEY_DIR "/child", nothing_runs_beside_it);
}

static void refused_beside(const char *path)
{
	told t = ASK("set", .attempt = 2);
	said(&t, KT_STATUS_FAILED, path);
	t = ASK("probe");
	said(&t, KT_STATUS_FAILED, path);
	CHECK(world.on && world.executed == 1, t);
}

static void damaged_detached(void **state)
{
	(void)state;
	prepare(true);
	each_damage(STATE "/clusters/looker/detached", refused_beside);
	/* A damaged outcome of work that is over keeps nobody off. */
	static const uint8_t nothing[] = "x";
	store_file(REKEY_DIR "/outcome.json", nothing, 1);
	kill_processes();
	told t = ASK("set", .attempt = 2);
	CHECK(t.status == KT_STATUS_OK, t);
}

/* A record that has gone while others are there was lost: its request is not a new one. */
static void missing_intents(void **state)
{
	(void)state;
	scenario = "no intent";
	static const char *const kept[] = {"outcome.json", "note.json", "pid", "child"};
	for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
		prepare(true);
		const char *dir = i == 1 ? SET_DIR : REKEY_DIR;
		static const char *const all[] = {"intent.json", "outcome.json", "note.json", "pid", "child"};
		for (size_t f = 0; f < sizeof all / sizeof all[0]; f++) {
			char path[200];
			(void)snprintf(path, sizeof path, "%s/%s", dir, all[f]);
			if (strcmp(all[f], kept[i]) != 0)
				(void)unlink(path);
		}
		told t = ASK(i == 1 ? "set" : "rekey");
		CHECK(t.status == KT_STATUS_UNKNOWN && t.error.code == KT_E_AUDIT, t);
		CHECK(strstr(t.error.msg, "intent.json is missing") && world.on && world.executed == 1, t);
	}
}

static void slot_is_refused(const char *path)
{
	told t = {.status = KT_STATUS_FAILED};
	kt_secret key;
	KT_IGNORE(kt_slot_open(STATE, "R1", &key, &t.error));
	kt_secret_free(&key);
	said(&t, KT_STATUS_FAILED, path);
}

static void damaged_slots(void **state)
{
	(void)state;
	fresh(11);
	kt_err err = KT_ERR_INIT;
	kt_blob blob = {.purpose = KT_BLOB_TRANSPORT,
			.format = KT_BLOB_RSA_OAEP_SHA256,
			.mechanism = "CKM_RSA_PKCS_OAEP",
			.kcv = "a1b2c3",
			.run = "R1",
			.node = "web01",
			.wrapped_len = 256};
	memset(blob.spki_sha256, 'a', sizeof blob.spki_sha256 - 1);
	assert_kt_ok(kt_slot_keep(STATE, "R1", &blob, &err));
	each_damage(STATE "/slots/R1.json", slot_is_refused);
	store_file(STATE "/slots/R1.json", (const uint8_t *)"x", 1);
	assert_kt_fails(KT_E_AUDIT, kt_slot_keep(STATE, "R1", &blob, &err));
	assert_kt_ok(kt_slot_forget(STATE, "R1", &err));
	assert_kt_ok(kt_slot_keep(STATE, "R1", &blob, &err));
}

static void put_sealed(const char *path, const char *text)
{
	kt_err err = KT_ERR_INIT;
	kt_buf b = KT_BUF_INIT;
	assert_kt_ok(kt_buf_str(&b, text, &err));
	assert_kt_ok(kt_record_replace(path, &b, &kt_record_private, &err));
	kt_buf_free(&b);
}

/* Whole, but not what we write: as from another version, or from a person's hand. */
static void records_of_somebody_else(void **state)
{
	(void)state;
	static const char *const texts[] = {"\n",
					    "x\n",
					    "[]\n",
					    "{}\n",
					    "{\"status\":\"fine\"}\n",
					    "{\"boot_id\":\"x\",\"pid\":0,\"start\":1}\n",
					    "{\"boot_id\":\"x\",\"pid\":1,\"start\":-1}\n",
					    "{\"boot_id\":1}\n",
					    "{\"boot_id\":\"x\"}\n",
					    "{\"cluster\":\"looker\",\"run\":\"R1\"}\n",
					    "{\"cluster\":\"looker\",\"run\":\"a/b\",\"since_ms\":1}\n",
					    "{\"cluster\":\"looker\",\"run\":\"R1\",\"since_ms\":-1}\n",
					    "{\"cluster\":2,\"run\":\"R1\",\"since_ms\":1}\n"};
	static const struct {
		const char *path, *verb;
		bool outcomes;
	} of[] = {{SET_DIR "/intent.json", "set", true},
		  {SET_DIR "/outcome.json", "set", true},
		  {REKEY_DIR "/intent.json", "rekey", true},
		  {REKEY_DIR "/outcome.json", "rekey", true},
		  {REKEY_DIR "/pid", "rekey", false},
		  {REKEY_DIR "/child", "rekey", false},
		  {STATE "/holder", "set", true},
		  {STATE "/clusters/looker/epoch", "set", true}};
	scenario = "sealed nonsense";
	for (size_t i = 0; i < sizeof of / sizeof of[0]; i++) {
		for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++) {
			at_op = i * 100 + k;
			prepare(of[i].outcomes);
			put_sealed(of[i].path, texts[k]);
			told t = ASK(of[i].verb);
			CHECK(t.status == KT_STATUS_UNKNOWN && t.error.msg[0], t);
			CHECK(strstr(t.error.msg, strrchr(of[i].path, '/') + 1), t);
			CHECK(world.on && world.executed == 1, t);
		}
	}
}

/* What has no place in the spool is said, not cut off. */
static void paths_that_are_too_long(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	static char folder[KT_RECORD_PATH + 100];
	const kt_request r = {
		.cluster = "looker", .run = "R1", .step = "s", .node = "web01", .attempt = 1, .verb = "set"};
	const cJSON *const note = NULL;
	kt_spool_state begun;
	kt_spool_outcome o;
	kt_spool_work work;
	kt_request was;
	kt_epoch epoch;
	kt_runlock held;
	cJSON *json;
	bool flag;
	fresh(1);
	memset(folder, 'x', sizeof folder - 1);
	memcpy(folder, STATE "/", sizeof STATE);
	/* From a path that has no room for a record's name to one that is too long itself. */
	for (size_t n = KT_RECORD_PATH - 12; n < sizeof folder; n += 10) {
		folder[n] = '\0';
		assert_false(kt_spool_unused(folder));
		assert_kt_fails(KT_E_INPUT, kt_spool_intent(folder, &json, &was, &err));
		assert_int_not_equal(kt_spool_begin(folder, &r, NULL, &begun, &err), KT_OK);
		assert_int_not_equal(kt_spool_finish(folder, KT_STATUS_OK, NULL, NULL, &err), KT_OK);
		assert_int_not_equal(kt_spool_outcome_load(folder, &flag, &o, &err), KT_OK);
		assert_int_not_equal(kt_spool_note(folder, note, &err), KT_OK);
		assert_int_not_equal(kt_epoch_read(folder, "looker", &epoch, &err), KT_OK);
		assert_int_not_equal(
			kt_epoch_admit(folder, &(kt_request){.cluster = "looker", .run = "R1", .epoch = 1}, &err),
			KT_OK);
		assert_int_not_equal(kt_detached_check(folder, "looker", NULL, &err), KT_OK);
		folder[n] = 'x';
	}
	folder[KT_RECORD_PATH - 2] = '\0';
	assert_kt_fails(KT_E_AUDIT, kt_spool_claim(folder, &flag, &err));
	assert_kt_fails(KT_E_AUDIT, kt_spool_child(folder, 1, &err));
	assert_kt_fails(KT_E_INPUT, kt_spool_work_of(folder, &work, &err));
	assert_kt_fails(KT_E_INPUT, kt_runlock_read(folder, &held, &err));
	assert_kt_fails(KT_E_INTERNAL, kt_spool_noted(folder, &json, &err));
	folder[KT_RECORD_PATH - 2] = 'x';
	assert_kt_fails(KT_E_INPUT, kt_spool_noted(folder, &json, &err));
}

/* One key, one request: whatever is different, nothing is done. A command is begun once. */
static void keys_are_not_used_twice(void **state)
{
	(void)state;
	scenario = "used twice";
	kt_err err = KT_ERR_INIT;
	prepare(true);
	told t = ASK("set", .args = "{\"hidden\":{\"key\":\"another\"},\"n\":[1,2]}");
	CHECK(t.status == KT_STATUS_FAILED && strstr(t.error.msg, "already used for another request"), t);
	t = ASK("set", .args = "{\"n\":[1,2]}");
	CHECK(t.status == KT_STATUS_FAILED && strstr(t.error.msg, "already used for another request"), t);
	t = ASK("set", .args = "{\"n\":[1,2],\"hidden\":{\"key\":\"blob\"}}");
	CHECK(t.status == KT_STATUS_OK && world.on, t);
	const uint8_t *blob = (const uint8_t *)"blob";
	static uint8_t kept[4096];
	size_t n = load_file(SET_DIR "/intent.json", kept, sizeof kept);
	assert_null(memmem(kept, n, blob, 4));
	assert_kt_fails(KT_E_AUDIT, kt_spool_child(REKEY_DIR, 1, &err));
}

/* S9: whenever the new version is there, the old one is, too. */
static void kept_before_it_is_replaced(void **state)
{
	(void)state;
	static const char path[] = STATE "/file";
	static const char kept[] = STATE "/file.keyturn-R1.old";
	scenario = "keep";
	kt_err err = KT_ERR_INIT;
	told none = {0};
	unsigned replaced = 0;
	for (at_op = 0; at_op < 10 * CUTS; at_op += stride()) {
		fresh(at_op);
		assert_kt_ok(kt_file_replace(path, "old", 3, NULL, &err));
		sim_disk_die_after(disk, at_op / CUTS);
		bool done = kt_keep_link(path, "R1", "", &err) == KT_OK &&
			    kt_file_replace(path, "new", 3, NULL, &err) == KT_OK;
		cut_power();
		uint8_t text[8];
		CHECK(load_file(path, text, sizeof text) == 3, none);
		bool is_new = memcmp(text, "new", 3) == 0;
		CHECK(is_new || (!done && memcmp(text, "old", 3) == 0), none);
		if (is_new)
			CHECK(access(kept, F_OK) == 0 && load_file(kept, text, sizeof text) == 3 &&
				      memcmp(text, "old", 3) == 0,
			      none);
		replaced += is_new;
	}
	assert_true(replaced * stride() > CUTS);
}

static int quiet(void **state)
{
	kt_log_setup(KT_LOG_ERROR, STDERR_FILENO);
	return disk_make(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(killed_anywhere),
		cmocka_unit_test(without_power_anywhere),
		cmocka_unit_test(killed_and_then_without_power),
		cmocka_unit_test(no_room_anywhere),
		cmocka_unit_test(a_failing_disk),
		cmocka_unit_test(full_disks),
		cmocka_unit_test(no_memory_anywhere),
		cmocka_unit_test(released_anywhere),
		cmocka_unit_test(the_next_run_takes_over),
		cmocka_unit_test(work_outlives_its_agent),
		cmocka_unit_test(work_that_dies_is_unknown),
		cmocka_unit_test(work_that_was_not_begun),
		cmocka_unit_test(a_late_runner),
		cmocka_unit_test(damaged_records),
		cmocka_unit_test(damaged_detached),
		cmocka_unit_test(missing_intents),
		cmocka_unit_test(damaged_slots),
		cmocka_unit_test(kept_before_it_is_replaced),
		cmocka_unit_test(records_of_somebody_else),
		cmocka_unit_test(paths_that_are_too_long),
		cmocka_unit_test(keys_are_not_used_twice),
	};
	return cmocka_run_group_tests(tests, quiet, disk_drop);
}

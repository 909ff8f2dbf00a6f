/* SPDX-License-Identifier: Apache-2.0 */
/* A node: its boots and crashes, and the agent processes that serve conversations with the agent's own code. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent/dispatch.h"
#include "agent/once.h"
#include "base/file.h"
#include "tests/sim/sim.h"
#include "wire/frame.h"

enum { POLL_MS = 1000, REBOOT_MS = 20000, KILL_WITHIN = 60, FULL_SLACK = 2 * SIM_DISK_BLOCK };

static const char env_path[] = "/sim/app/env";

/* --- Boots -------------------------------------------------------------------------------------------------------- */

static void new_boot(sim_node *n)
{
	n->boots++;
	(void)snprintf(n->boot_id, sizeof n->boot_id, "%08x-0000-4000-8000-%012x", (unsigned)n->index,
		       (unsigned)n->boots);
}

void sim_node_init(sim *s, size_t i)
{
	sim_node *n = &s->node[i];
	kt_err err = KT_ERR_INIT;
	*n = (sim_node){.s = s, .index = i, .disk = s->disk[i], .up = true, .service = true, .next_pid = 100};
	(void)snprintf(n->name, sizeof n->name, "n%zu", i);
	new_boot(n);
	sim_enter(n, 1);
	sim_must(kt_file_mkdirs("/sim/state/slots", 0700, &err), &err);
	sim_must(kt_file_mkdirs("/sim/app", 0700, &err), &err);
	sim_must(kt_file_replace(env_path, "KEY=old\n", 8, NULL, &err), &err);
	for (const char *const *p = (const char *const[]){"/sim/state/slots", env_path, "/sim/app", NULL}; *p; p++)
		sim_must(kt_file_sync_folder(*p, &err), &err);
	sim_enter(NULL, 0);
}

/* What the running code depends on, as it lies on the disk. */
void sim_node_look(sim_node *n)
{
	kt_err err = KT_ERR_INIT;
	uint8_t bytes[64];
	kt_buf text = {.data = bytes, .cap = sizeof bytes - 1, .max = sizeof bytes - 1};
	n->dirty = false;
	sim_enter(n, 1);
	bool there = kt_file_read(env_path, &text, &err) == KT_OK;
	if (there && text.len == 8 && memcmp(bytes, "KEY=old\n", 8) == 0)
		n->env = SIM_OLD;
	else if (there && text.len == 8 && memcmp(bytes, "KEY=new\n", 8) == 0)
		n->env = SIM_NEW;
	else
		n->torn = env_path;
	text.len = 0;
	n->key_file = kt_file_read("/sim/app/key", &text, &err) == KT_OK;
	if (n->key_file && (text.len < 6 || memcmp(bytes, "blob-n", 6) != 0))
		n->torn = "/sim/app/key";
	text.len = 0;
	n->slot = kt_file_read("/sim/state/slots/r.json", &text, &err) == KT_OK;
	sim_enter(NULL, 0);
}

bool sim_reachable(const sim_node *n, const sim_machine *m)
{
	return n->up && !n->cut[m->index];
}

/* --- Ends of processes -------------------------------------------------------------------------------------------- */

static void end_talk(sim *s, sim_talk *t, int64_t known_in)
{
	t->agent = false;
	sim_process_end(t->node, t->pid);
	kt_buf_free(&t->in);
	for (size_t i = 0; i < t->queued; i++)
		cJSON_Delete(t->queue[i]);
	t->queued = 0;
	for (sim_talk **at = &t->node->talks; *at; at = &(*at)->next)
		if (*at == t) {
			*at = t->next;
			break;
		}
	if (t->open && known_in >= 0)
		sim_after(s, known_in, sim_link_lost, t, 0);
}

void sim_agent_killed(sim *s, sim_talk *t)
{
	sim_trace(s, "-- the agent on %s is killed", t->node->name);
	sim_count(s, SIM_AGENT_KILLED);
	sim_disk_process_end(t->node->disk);
	t->node->dirty = true;
	end_talk(s, t, 5);
}

void sim_node_crash(sim *s, sim_node *n)
{
	sim_trace(s, "-- %s crashes", n->name);
	sim_count(s, SIM_NODE_CRASHES);
	sim_runner_crash(s, n);
	sim_disk_power_cut(n->disk, sim_roll, &s->rng);
	n->up = false;
	n->service = n->by_hand = false;
	n->may_be_down = n->dirty = true;
	for (size_t i = 0; i < SIM_PROCESSES; i++)
		n->process[i].alive = false;
	while (n->talks)
		end_talk(s, n->talks, 15000);
	sim_after(s, 1000 + (int64_t)sim_below(&s->rng, REBOOT_MS), sim_node_boot, n, n->boots);
}

void sim_node_boot(sim *s, void *node, int64_t what)
{
	sim_node *n = node;
	if (n->up || what != n->boots)
		return;
	new_boot(n);
	n->up = true;
	sim_trace(s, "-- %s has booted", n->name);
}

/* The disk stopped answering while code of an agent ran: that process was killed there, or the whole machine. */
static bool died(sim *s, sim_talk *t)
{
	if (!sim_disk_dead(t->node->disk)) {
		sim_disk_die_after(t->node->disk, UINT64_MAX);
		return false;
	}
	if (sim_chance(&s->rng, 500))
		sim_agent_killed(s, t);
	else
		sim_node_crash(s, t->node);
	return true;
}

/* Perhaps it dies at one of the next operations on the disk. */
static void may_die(sim *s, sim_node *n)
{
	if (s->faults && s->faults_left && sim_chance(&s->rng, s->fault_rate)) {
		s->faults_left--;
		sim_disk_die_after(n->disk, sim_below(&s->rng, KILL_WITHIN));
	}
}

/* --- The agent ---------------------------------------------------------------------------------------------------- */

static bool stopping(void *talk)
{
	return ((sim_talk *)talk)->over;
}

static void reply(sim *s, sim_talk *t, int64_t id, kt_status status, const cJSON *result, const kt_err *error)
{
	kt_err err = KT_ERR_INIT;
	kt_buf frame = KT_BUF_INIT;
	cJSON *payload = NULL;
	const kt_reply r = {.id = id, .status = status, .result = result, .error = *error};
	sim_must(kt_reply_encode(&r, &payload, &err), &err);
	sim_must(kt_frame_encode(KT_FRAME_REPLY, payload, &frame, &err), &err);
	sim_send_to_coord(s, t, frame.data, frame.len);
	cJSON_Delete(payload);
	kt_buf_free(&frame);
}

static void poll_work(sim *s, void *talk, int64_t what);

/* S1: who says that the command was never executed is right. */
static void check_answer(sim *s, const char *verb, kt_status status, const cJSON *result, const kt_err *err)
{
	if (strcmp(verb, "exec") == 0 && status == KT_STATUS_FAILED && s->w.rekey_started &&
	    (err->code == KT_E_INTERNAL || err->code == KT_E_REFUSED) && !cJSON_HasObjectItem(result, "exit"))
		sim_break(s, "S1: the rekey was executed, and its node says that it was not");
	if (strcmp(verb, "exec") != 0 || !cJSON_IsFalse(kt_json_member(result, "started")))
		return;
	if (s->w.rekey_started)
		sim_break(s, "S1: the rekey was started, and its node is certain that it never was");
	s->w.never_started |= err->code != KT_E_AUDIT; /* it is recorded, so that no newer coordinator can start it */
}

/* S8: what arrives at a node stands in a journal. */
static void check_recorded(sim *s, const kt_request *r)
{
	if (strcmp(r->verb, "facts") != 0 && !sim_journal_has_intent(s, r))
		sim_break(s, "S8: %s on %s is done without a record", r->step, r->node);
}

static void work_on(sim *s, sim_talk *t, const cJSON *payload)
{
	sim_node *n = t->node;
	kt_request r;
	kt_err err = KT_ERR_INIT;
	cJSON *result = cJSON_CreateObject();
	sim_must(kt_request_decode(payload, &r, &err), &err);
	check_recorded(s, &r);
	const kt_agent a = {.verbs = sim_verbs, .state = "/sim/state", .node = n->name, .stopping = stopping, .arg = t};
	may_die(s, n);
	sim_enter(n, t->pid);
	s->in_talk = t;
	kt_status status = kt_dispatch(&a, &r, result, &err);
	sim_enter(NULL, 0);
	if (kt_run_state_final(s->last) && strcmp(r.verb, "facts") != 0 && err.code != KT_E_BUSY)
		s->last = KT_RUN_FORWARD; /* it is not over: somebody works on */
	if (!died(s, t)) {
		sim_trace(s, "        %s: %s %s %s #%" PRId64 "%s: %s %s", n->name, r.verb, r.step,
			  kt_role_name(r.role), r.attempt, r.settle ? " (settle)" : "",
			  t->waits ? "runs" : kt_status_name(status), err.msg);
		check_answer(s, r.verb, status, result, &err);
		t->waits_id = r.id;
		if (t->waits)
			sim_after(s, POLL_MS, poll_work, t, 0);
		else
			reply(s, t, r.id, status, result, &err);
	}
	cJSON_Delete(result);
}

static void work_off_queue(sim *s, sim_talk *t)
{
	while (t->agent && !t->waits && t->queued && !t->over) {
		cJSON *payload = t->queue[0];
		memmove((void *)t->queue, (void *)(t->queue + 1), --t->queued * sizeof(cJSON *));
		work_on(s, t, payload);
		cJSON_Delete(payload);
	}
	if (t->agent && t->over && !t->waits)
		end_talk(s, t, 5);
}

/* The agent waits for detached work. */
static void poll_work(sim *s, void *talk, int64_t what)
{
	sim_talk *t = talk;
	(void)what;
	if (!t->agent || !t->waits)
		return;
	if (t->node->stuck_until > s->now) {
		sim_after(s, t->node->stuck_until - s->now, poll_work, t, 0);
		return;
	}
	bool runs;
	kt_err err = KT_ERR_INIT;
	cJSON *result = cJSON_CreateObject();
	may_die(s, t->node);
	sim_enter(t->node, t->pid);
	kt_status status = kt_once_look(t->waits, &runs, result, &err);
	sim_enter(NULL, 0);
	if (!died(s, t)) {
		if (runs && !t->over) {
			sim_after(s, POLL_MS, poll_work, t, 0);
		} else {
			t->waits = NULL;
			if (!runs)
				check_answer(s, "exec", status, result, &err);
			if (!t->over)
				reply(s, t, t->waits_id, status, result, &err);
			work_off_queue(s, t);
		}
	}
	cJSON_Delete(result);
}

void sim_node_receive(sim *s, sim_talk *t, const uint8_t *bytes, size_t n)
{
	kt_err err = KT_ERR_INIT;
	kt_frame_kind kind;
	cJSON *payload;
	sim_must(kt_buf_append(&t->in, bytes, n, &err), &err);
	for (;;) {
		sim_must(kt_frame_decode(&t->in, &kind, &payload, &err), &err);
		if (!payload)
			break;
		if (t->queued == sizeof t->queue / sizeof t->queue[0])
			sim_must(kt_fail(&err, KT_E_INTERNAL, NULL, "too many requests wait in one conversation"),
				 &err);
		t->queue[t->queued++] = payload;
	}
	work_off_queue(s, t);
}

/* The agent sees the end of its input. */
void sim_node_eof(sim *s, void *talk, int64_t what)
{
	sim_talk *t = talk;
	(void)what;
	if (!t->agent)
		return;
	t->over = true;
	t->waits = NULL;
	work_off_queue(s, t);
}

sim_talk *sim_node_connect(sim_coord *c, size_t node)
{
	sim *s = c->s;
	sim_node *n = &s->node[node];
	sim_talk *t = sim_alloc(s, sizeof *t);
	*t = (sim_talk){.next = n->talks,
			.coord = c,
			.node = n,
			.link = c->links + ++c->link[node].count,
			.open = true,
			.agent = true,
			.pid = sim_process_new(n)->pid};
	n->talks = t;
	return t;
}

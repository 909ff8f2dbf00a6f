/* SPDX-License-Identifier: Apache-2.0 */
/* The state machine. docs/DESIGN.md, "The engine's rules", is the specification of this file. */
#include "orchestrator/engine/engine.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/engine/core.h"
#include "orchestrator/playbook/playbook.h"

static void forward_settled(kt_engine *e, kt_block *b);
static void probe_settled(kt_engine *e, kt_block *b);
static void undo_settled(kt_engine *e, kt_block *b);
static void back_probe_settled(kt_engine *e, kt_block *b);
static void back_gate_settled(kt_engine *e, kt_block *b);
static void back_check_settled(kt_engine *e, kt_block *b);

/* The modes: how each is called, the role of its commands (-1: it has none), whether it belongs to the way back, and
 * what is decided once no command is under way and none may be sent. */
static const struct mode_row {
	kt_run_state state;
	int role;
	bool back;
	void (*settled)(kt_engine *e, kt_block *b);
} modes[MODES] = {
	[MODE_NEW] = {KT_RUN_NEW, -1, false, NULL},
	[MODE_FORWARD] = {KT_RUN_FORWARD, KT_ROLE_DO, false, forward_settled},
	[MODE_PROBE] = {KT_RUN_PROBING, KT_ROLE_PROBE, false, probe_settled},
	[MODE_UNDO] = {KT_RUN_BACK, KT_ROLE_UNDO, true, undo_settled},
	[MODE_BACK_PROBE] = {KT_RUN_BACK, KT_ROLE_PROBE, true, back_probe_settled},
	[MODE_BACK_GATE] = {KT_RUN_BACK, KT_ROLE_DO, true, back_gate_settled},
	[MODE_BACK_CHECK] = {KT_RUN_BACK, KT_ROLE_PROBE, true, back_check_settled},
	[MODE_TURNED] = {KT_RUN_TURNED, -1, false, NULL},
	[MODE_ROLLED_BACK] = {KT_RUN_ROLLED_BACK, -1, true, NULL},
	[MODE_REFUSED] = {KT_RUN_REFUSED, -1, true, NULL},
};

kt_block *kt_engine_active(const kt_engine *e, kt_role *role)
{
	const struct mode_row *m = &modes[e->mode];
	*role = KT_ROLE_DO;
	if (m->role < 0)
		return NULL;
	*role = (kt_role)m->role;
	return &e->steps[e->cur].role[m->role];
}

static bool rekey_tried(const kt_engine *e)
{
	return e->steps[e->once].role[KT_ROLE_DO].tried > 0;
}

/* The backup is put back, or nodes are asked whether it may be. */
static bool restoring(const kt_engine *e)
{
	return e->mode == MODE_BACK_GATE || (e->mode == MODE_UNDO && e->cur == e->once);
}

/* May the active block send further commands, `parallel` apart? */
static bool may_send(const kt_engine *e, const kt_block *b)
{
	if (e->held || e->epoch == 0)
		return false;
	if (restoring(e))
		return !e->look_again;
	if (e->mode != MODE_FORWARD || (e->cur == e->once && b->tried))
		return true; /* an undo that fails does not keep the other nodes from theirs; a rekey is always settled
			      */
	if (e->turn_back || e->look_again)
		return false;
	return b->failed == 0 || (e->committed && e->steps[e->cur].phase == KT_PHASE_RETIRE);
}

static bool at_rest(const kt_engine *e)
{
	return e->held || kt_run_state_final(modes[e->mode].state);
}

/* --- Blame -------------------------------------------------------------------------------------------------------- */

static kt_blame blame_block(const kt_engine *e, const kt_block *b)
{
	kt_blame out = {.step = e->steps[e->cur].name};
	if (b->failed == 0)
		return out;
	const kt_target *t = &b->targets[b->first_failed];
	out.node = e->nodes[t->node];
	out.error = *t->error;
	return out;
}

static void hold(kt_engine *e, kt_blame why)
{
	e->held = true;
	e->hold = why;
}

static kt_blame blame_text(const kt_engine *e, kt_code code, const char *remedy, const char *text)
{
	kt_blame out = {.step = e->steps[e->cur].name};
	KT_IGNORE(kt_fail(&out.error, code, remedy, "%s", text));
	return out;
}

/* --- The way back ------------------------------------------------------------------------------------------------- */

/* Whose undo is wanted: of targets that had an intent; of a target that `do` has not, when any had one. Not of a node
 * that was left behind, nor what has been undone already (but a restore is done again when it did not help). */
static size_t choose_undo(kt_engine *e, kt_step *s)
{
	const kt_block *d = &s->role[KT_ROLE_DO];
	kt_block *u = &s->role[KT_ROLE_UNDO];
	kt_block_clear(u);
	for (size_t i = 0; i < u->n; i++) {
		kt_target *t = &u->targets[i];
		uint32_t same = d->n ? d->of_node[t->node] : 0;
		t->member = (same ? d->targets[same - 1].tried : d->tried > 0) && !e->behind[t->node] &&
			    (s->once || !t->undone);
		u->members += t->member;
	}
	return u->members;
}

/* The others are back. A resume takes up those that were left. */
static void hold_for_left(kt_engine *e)
{
	e->cur = e->left_at;
	e->mode = MODE_UNDO;
	kt_blame why = blame_block(e, &e->steps[e->cur].role[KT_ROLE_UNDO]);
	KT_IGNORE(kt_err_prefix(&why.error, why.error.code, "every other node is back (left: %zu of %zu)", e->left,
				e->n_nodes));
	hold(e, why);
}

static void end_back(kt_engine *e)
{
	if (e->left) {
		hold_for_left(e);
		return;
	}
	/* Steps of preflight and approve only look; when nothing else was begun, nothing was changed. */
	e->mode = MODE_REFUSED;
	for (size_t i = 0; i < e->n_steps; i++)
		if (e->steps[i].role[KT_ROLE_DO].tried && e->steps[i].phase > KT_PHASE_APPROVE)
			e->mode = MODE_ROLLED_BACK;
}

/* Which key opens the data? `old`: the rekey need not be undone. */
static void back_probe(kt_engine *e)
{
	e->cur = e->once;
	e->mode = MODE_BACK_PROBE;
	kt_block_open(&e->steps[e->once].role[KT_ROLE_PROBE]);
}

/* Undo the steps below `n`, newest first. */
static void back_below(kt_engine *e, size_t n)
{
	while (n-- > 0) {
		kt_step *s = &e->steps[n];
		e->cur = n;
		if (s->role[KT_ROLE_DO].tried && s->once && !s->undone) {
			back_probe(e);
			return;
		}
		if (s->role[KT_ROLE_DO].tried && !s->once && choose_undo(e, s) > 0) {
			e->mode = MODE_UNDO;
			kt_block_open(&s->role[KT_ROLE_UNDO]);
			return;
		}
		s->undone |= e->left == 0;
	}
	end_back(e);
}

static void turn_back(kt_engine *e, kt_blame why)
{
	if (e->back.error.code == KT_OK)
		e->back = why;
	back_below(e, e->top + 1);
}

/* S7: a node whose undo fails is left where it is, and keeps no other node from coming back. It is not started (S4):
 * none of its older undos is done over the one that failed. */
static void leave_behind(kt_engine *e, const kt_block *b)
{
	if (e->left == 0)
		e->left_at = e->cur;
	for (size_t i = 0; i < b->n; i++) {
		if (b->targets[i].state != KT_TARGET_FAILED)
			continue;
		e->behind[b->targets[i].node] = true;
		e->left++;
	}
	back_below(e, e->cur);
}

static void take_up_left(kt_engine *e)
{
	for (size_t i = 0; i < e->n_nodes; i++)
		e->behind[i] = false;
	e->left = 0;
	back_below(e, e->top + 1);
}

static void undone(kt_engine *e)
{
	e->steps[e->cur].undone = e->left == 0 || e->cur == e->once;
	back_below(e, e->cur);
}

/* Another coordinator has taken the run since the gate was asked: what the data is and who is live may have changed. */
static void look_before_restore(kt_engine *e)
{
	e->look_again = false;
	back_probe(e);
}

/* Has the undo of the cluster, of which all nodes depend, failed? */
static bool of_cluster(const kt_engine *e, const kt_block *b)
{
	uint32_t i = b->of_node[e->n_nodes];
	return i && b->targets[i - 1].state == KT_TARGET_FAILED;
}

static void undo_settled(kt_engine *e, kt_block *b)
{
	kt_step *s = &e->steps[e->cur];
	if (restoring(e) && e->look_again) {
		look_before_restore(e);
		return;
	}
	if (!kt_block_complete(b) && !PLANTED(UNDO_FAILURE_IGNORED)) {
		if (s->once || of_cluster(e, b))
			hold(e, blame_block(e, b)); /* S4: nothing older is undone over it */
		else
			leave_behind(e, b);
		return;
	}
	if (!s->once || PLANTED(RESTORE_UNCHECKED)) {
		undone(e);
		return;
	}
	e->mode = MODE_BACK_CHECK;
	kt_block_open(&s->role[KT_ROLE_PROBE]);
}

/* --- The probe ---------------------------------------------------------------------------------------------------- */

static const char *verdict(const kt_block *b)
{
	const cJSON *v =
		b->targets[0].result ? cJSON_GetObjectItemCaseSensitive(b->targets[0].result, "verdict") : NULL;
	return cJSON_IsString(v) ? v->valuestring : "unknown";
}

static kt_blame blame_verdict(const kt_engine *e, const kt_block *b, const char *when, const char *remedy)
{
	const kt_block *d = &e->steps[e->once].role[KT_ROLE_DO];
	kt_blame out = {.step = e->steps[e->once].name, .node = e->nodes[d->targets[0].node]};
	if (d->failed)
		out.error = *d->targets[0].error;
	KT_IGNORE(kt_fail(&out.error, d->failed ? out.error.code : KT_E_KEY, remedy ? remedy : out.error.remedy,
			  "%s; %s the probe says that the data opens with: %.32s",
			  d->failed ? out.error.msg : "the rekey reported success", when, verdict(b)));
	return out;
}

static void next_step(kt_engine *e);

static void probe_settled(kt_engine *e, kt_block *b)
{
	if (!kt_block_complete(b)) {
		hold(e, blame_block(e, b));
		return;
	}
	e->rekey_done = strcmp(verdict(b), "new") == 0;
	if (e->rekey_done && !e->turn_back) {
		next_step(e); /* S4: forward only with the key that the probe saw */
		return;
	}
	if (e->rekey_done)
		turn_back(e, e->back);
	else
		turn_back(e, blame_verdict(e, b, "after it", NULL));
}

/* The gates that ask every node directly before the rekey: the first of them (load.c sees to it that there is one). */
static size_t first_gate(const kt_engine *e)
{
	size_t i = e->once;
	while (i > 0 && strcmp(e->steps[i - 1].role[KT_ROLE_DO].verb, "gate.check") == 0)
		i--;
	return i;
}

static void restore(kt_engine *e)
{
	e->cur = e->once;
	e->mode = MODE_UNDO;
	(void)choose_undo(e, &e->steps[e->cur]);
	kt_block_open(&e->steps[e->cur].role[KT_ROLE_UNDO]);
}

/* By the word of its node, which has recorded that it never will be. */
static bool never_started(const kt_engine *e)
{
	const kt_target *t = &e->steps[e->once].role[KT_ROLE_DO].targets[0];
	return t->state == KT_TARGET_FAILED && !t->same_key && cJSON_IsFalse(kt_json_member(t->result, "started"));
}

/* S3: the rekey has changed nothing, so a restore would help nothing, and lose what somebody may have written while the
 * rekey was in doubt. S4: nor is a node started before the probe says `old`. A resume asks it again. */
static void hold_unrestored(kt_engine *e, kt_block *b)
{
	hold(e, blame_verdict(e, b, "and",
			      "the rekey has changed nothing, so the backup was not restored over what may have been "
			      "written since: see what probe_command prints on that node, then `keyturn resume`; "
			      "`keyturn rollback` restores it all the same"));
	kt_block_open(b);
}

static void back_probe_settled(kt_engine *e, kt_block *b)
{
	if (!kt_block_complete(b)) {
		hold(e, blame_block(e, b));
		return;
	}
	if (strcmp(verdict(b), "old") == 0) {
		e->rekey_done = false;
		undone(e);
		return;
	}
	if (never_started(e) && !e->given_up && !PLANTED(NEVER_STARTED_RESTORED)) {
		hold_unrestored(e, b);
		return;
	}
	if (PLANTED(RESTORE_UNGATED)) {
		restore(e);
		return;
	}
	e->look_again = false;
	e->cur = first_gate(e);
	e->mode = MODE_BACK_GATE;
	kt_block_open(&e->steps[e->cur].role[KT_ROLE_DO]);
}

/* S2: whoever is live now would work on while the data changes under it. */
static void back_gate_settled(kt_engine *e, kt_block *b)
{
	if (e->look_again) {
		look_before_restore(e);
		return;
	}
	if (!kt_block_complete(b)) {
		hold(e, blame_block(e, b));
		return;
	}
	if (++e->cur < e->once) {
		kt_block_open(&e->steps[e->cur].role[KT_ROLE_DO]);
		return;
	}
	restore(e);
}

static void back_check_settled(kt_engine *e, kt_block *b)
{
	if (!kt_block_complete(b)) {
		hold(e, blame_block(e, b));
		return;
	}
	if (strcmp(verdict(b), "old") == 0) {
		e->rekey_done = false;
		undone(e);
		return;
	}
	/* S4: no node is started on data that does not open with the old key. A resume probes and restores again. */
	hold(e, blame_verdict(e, b, "after the restore",
			      "the backup was restored, but no node is started before the probe says old: see what "
			      "probe_command prints on that node, then `keyturn resume`"));
	e->mode = MODE_BACK_PROBE;
	kt_block_open(b);
}

/* --- Forward ------------------------------------------------------------------------------------------------------ */

static bool step_done(const kt_step *s)
{
	return kt_block_complete(&s->role[KT_ROLE_DO]);
}

/* Go to the first step from `cur` that is not done, the order of the plan being the order of the work (S3). */
static void enter_step(kt_engine *e)
{
	e->mode = MODE_FORWARD;
	while (e->cur < e->n_steps && step_done(&e->steps[e->cur]) && e->steps[e->cur].role[KT_ROLE_DO].tried)
		e->cur++;
	if (e->cur == e->n_steps) {
		e->cur--;
		e->mode = MODE_TURNED;
		return;
	}
	kt_block *b = &e->steps[e->cur].role[KT_ROLE_DO];
	if (e->cur > e->top)
		e->top = e->cur;
	if (b->queued + b->waiting + b->sent + b->ok + b->failed == 0)
		kt_block_open(b);
}

static void next_step(kt_engine *e)
{
	/* A step without targets ends here too, and must not be entered again. */
	if (e->cur + 1 == e->n_steps) {
		e->mode = MODE_TURNED;
		return;
	}
	e->cur++;
	enter_step(e);
}

/* S2, S3: what was quiet and saved while another coordinator watched must be found quiet and be saved again. */
static void look_again(kt_engine *e)
{
	e->look_again = false;
	size_t first = e->cur;
	for (size_t i = e->once; i-- > 0;) {
		kt_step *s = &e->steps[i];
		if (!s->watch || s->role[KT_ROLE_DO].tried == 0)
			continue;
		kt_block_open(&s->role[KT_ROLE_DO]);
		first = i < first ? i : first;
	}
	e->cur = first;
	enter_step(e);
}

static void rekey_settled(kt_engine *e, kt_block *b)
{
	kt_step *s = &e->steps[e->cur];
	if (b->failed && b->targets[0].same_key && !PLANTED(UNSETTLED_PROBED)) {
		/* Perhaps it still runs: a probe now could say `old` and be wrong a moment later (S1, S4). */
		hold(e, blame_block(e, b));
		return;
	}
	if (b->ok && PLANTED(PROBE_SKIPPED)) {
		next_step(e);
		return;
	}
	e->mode = MODE_PROBE;
	kt_block_open(&s->role[KT_ROLE_PROBE]);
}

static void after_commit_failed(kt_engine *e, kt_block *b)
{
	if (e->steps[e->cur].phase != KT_PHASE_RETIRE) {
		hold(e, blame_block(e, b));
		return;
	}
	e->warnings += b->failed;
	next_step(e);
}

/* From here on there is no way back; a rollback that was asked for while the last answer was on its way is too late. */
static void commit(kt_engine *e)
{
	e->committed = true;
	e->turn_back = false;
	e->back = (kt_blame){0};
}

static void forward_settled(kt_engine *e, kt_block *b)
{
	kt_step *s = &e->steps[e->cur];
	if (s->once && b->tried) {
		rekey_settled(e, b);
		return;
	}
	bool done = kt_block_complete(b);
	if (done && s->commit)
		commit(e);
	if (b->failed && e->committed)
		after_commit_failed(e, b);
	else if (b->failed)
		turn_back(e, blame_block(e, b));
	else if (e->turn_back && !e->committed)
		turn_back(e, e->back);
	else if (e->look_again)
		look_again(e);
	else if (done)
		next_step(e);
	else
		hold(e, blame_text(e, KT_E_INTERNAL, NULL, "a step came to rest without being done"));
}

/* Take every decision that can be taken now. */
static void advance(kt_engine *e)
{
	for (;;) {
		kt_role role;
		kt_block *b = kt_engine_active(e, &role);
		if (!b || e->held || (b->sent && !PLANTED(SIBLINGS_FORGOTTEN)) || (b->sent && b->failed == 0) ||
		    (b->queued && may_send(e, b)) || e->epoch == 0)
			return;
		modes[e->mode].settled(e, b);
	}
}

/* --- Events ------------------------------------------------------------------------------------------------------- */

static kt_code misfit(kt_err *err, const kt_event *ev, const char *why)
{
	static const char remedy[] = "the journal is damaged or was written by another program: restore it from a copy";
	if (!ev->step || !ev->node)
		return kt_fail(err, KT_E_AUDIT, remedy, "event %s does not fit: %s", kt_event_kind_name(ev->kind), why);
	return kt_fail(err, KT_E_AUDIT, remedy, "%s of %s (%s) on %s, attempt %" PRId64 ", does not fit: %s",
		       kt_event_kind_name(ev->kind), ev->step, kt_role_name(ev->role), ev->node, ev->attempt, why);
}

static kt_code apply_begin(kt_engine *e, const kt_event *ev, kt_err *err)
{
	if (e->mode != MODE_NEW)
		return misfit(err, ev, "the run has begun already");
	enter_step(e);
	return KT_OK;
}

/* A turned run can be reverted. */
static bool final_for_good(const kt_engine *e)
{
	return kt_run_state_final(modes[e->mode].state) && e->mode != MODE_TURNED;
}

static kt_code apply_take(kt_engine *e, const kt_event *ev, kt_err *err)
{
	if (e->mode == MODE_NEW || (e->ended && final_for_good(e)))
		return misfit(err, ev, "there is nothing to take");
	if (ev->epoch <= e->epoch)
		return misfit(err, ev, "its epoch is not higher than the last one");
	e->epoch = ev->epoch;
	e->ended = false;
	if (e->mode == MODE_FORWARD && !e->held && !rekey_tried(e) && !PLANTED(GATE_NOT_REPEATED))
		for (size_t i = 0; i < e->once; i++)
			e->look_again |= e->steps[i].watch && e->steps[i].role[KT_ROLE_DO].tried > 0;
	e->look_again |= restoring(e) && !PLANTED(GATE_NOT_REPEATED);
	return KT_OK;
}

/* The target that an intent or outcome names, if it belongs to the active block. */
static kt_target *named_target(kt_engine *e, const kt_event *ev)
{
	kt_role role;
	const kt_block *b = kt_engine_active(e, &role);
	if (!b || role != ev->role || !ev->step || !ev->node || strcmp(ev->step, e->steps[e->cur].name) != 0)
		return NULL;
	size_t node = kt_engine_node(e, ev->node);
	if (node == SIZE_MAX || b->n == 0 || b->of_node[node] == 0)
		return NULL;
	return &b->targets[b->of_node[node] - 1];
}

/* The target whose command is wanted next, or NULL. */
static const kt_target *wanted(const kt_engine *e)
{
	kt_role role;
	const kt_block *b = kt_engine_active(e, &role);
	if (!b || e->ended || !may_send(e, b))
		return NULL;
	int64_t parallel = e->steps[e->cur].parallel;
	return parallel && b->sent >= (size_t)parallel ? NULL : kt_block_head(b);
}

static kt_code apply_intent(kt_engine *e, const kt_event *ev, kt_err *err)
{
	kt_role role;
	kt_target *t = named_target(e, ev);
	if (!t || t != wanted(e) || ev->attempt != t->attempt)
		return misfit(err, ev, "it is not the command that is wanted");
	kt_block_sent(kt_engine_active(e, &role));
	return KT_OK;
}

/* A copy of the outcome's error, or one in its place: a target that failed always says why. */
static kt_code copy_error(const kt_event *ev, const kt_err *why, kt_err **out, kt_err *err)
{
	*out = malloc(sizeof **out);
	if (!*out)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (why->code != KT_OK)
		**out = *why;
	else if (ev->error && ev->error->code != KT_OK)
		**out = *ev->error;
	else {
		**out = KT_ERR_INIT;
		KT_IGNORE(kt_fail(*out, KT_E_INTERNAL, NULL, "%s without a reason", kt_status_name(ev->status)));
	}
	return KT_OK;
}

static kt_retry_how retry_how(const kt_engine *e, kt_role role)
{
	if (role != KT_ROLE_DO)
		return RETRY_ALL;
	return e->steps[e->cur].once ? RETRY_UNREACHABLE : RETRY_WHEN_ASKED;
}

static kt_code settle_target(kt_engine *e, const kt_event *ev, kt_target *t, kt_err *err)
{
	kt_err why = KT_ERR_INIT;
	kt_status status = ev->status;
	if (status == KT_STATUS_OK && ev->role == KT_ROLE_DO)
		KT_TRY(kt_expect_check(e, e->cur, t, ev->result, &why, err));
	if (why.code != KT_OK)
		status = KT_STATUS_FAILED;
	if (PLANTED(UNREACHABLE_IS_STOPPED) && ev->error && ev->error->code == KT_E_UNREACHABLE &&
	    ev->role == KT_ROLE_DO && !e->steps[e->cur].once)
		status = KT_STATUS_OK;
	kt_err *error = NULL;
	if (status != KT_STATUS_OK)
		KT_TRY(copy_error(ev, &why, &error, err));
	cJSON *result = ev->result ? cJSON_Duplicate(ev->result, true) : NULL;
	if (ev->result && !result) {
		free(error);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	kt_role role;
	kt_block_settle(kt_engine_active(e, &role), t, status, result, error, retry_how(e, ev->role));
	return KT_OK;
}

static kt_code apply_outcome(kt_engine *e, const kt_event *ev, kt_err *err)
{
	kt_target *t = named_target(e, ev);
	if (!t || t->state != KT_TARGET_SENT || ev->attempt != t->attempt || e->ended)
		return misfit(err, ev, "no such command is under way");
	if ((unsigned)ev->status > KT_STATUS_UNKNOWN || (ev->result && !cJSON_IsObject(ev->result)))
		return misfit(err, ev, "it has no valid status or result");
	return settle_target(e, ev, t, err);
}

/* An interrupt counts until the rekey's first intent, a rollback until the commit. */
static kt_code apply_stop(kt_engine *e, const kt_event *ev, kt_err *err)
{
	if (e->mode == MODE_NEW || e->ended)
		return misfit(err, ev, "no coordinator has the run");
	bool rollback = ev->kind == KT_EVENT_ROLLBACK;
	e->interrupted |= !rollback;
	bool heed = rollback ? !e->committed : !rekey_tried(e);
	if (!heed || modes[e->mode].back || e->turn_back)
		return KT_OK;
	e->turn_back = true;
	e->back = blame_text(e, KT_E_INTERRUPTED, NULL,
			     rollback ? "a rollback was asked for" : "interrupted before the rekey");
	return KT_OK;
}

/* S5 allows it: neither the old key nor the backup was taken away. What was written since is given up by who asks. */
static kt_code apply_revert(kt_engine *e, const kt_event *ev, kt_err *err)
{
	if (e->mode == MODE_NEW || e->ended)
		return misfit(err, ev, "no coordinator has the run");
	e->given_up = true;
	if (modes[e->mode].back)
		return KT_OK;
	e->committed = false;
	e->turn_back = true;
	if (e->back.error.code == KT_OK)
		e->back = blame_text(e, KT_E_INTERRUPTED, NULL, "a rollback was asked for");
	if (e->mode == MODE_TURNED)
		turn_back(e, e->back);
	return KT_OK;
}

/* S7: while it was held, a node may have gone down that had been started: starts are asked for again, which changes
 * nothing where the service runs. */
static void start_again(kt_engine *e)
{
	size_t first = e->cur;
	for (size_t i = e->cur; i-- > e->commit + 1;) {
		kt_block *b = &e->steps[i].role[KT_ROLE_DO];
		if (strcmp(b->verb, "service.start") != 0 || b->n == 0)
			continue;
		kt_block_open(b);
		first = i;
	}
	e->cur = first;
}

static kt_code apply_resume(kt_engine *e, const kt_event *ev, kt_err *err)
{
	kt_role role;
	kt_block *b = kt_engine_active(e, &role);
	if (!e->held || e->ended || !b)
		return misfit(err, ev, "the run is not held, or not taken");
	e->held = false;
	e->hold = (kt_blame){0};
	if (e->left) {
		take_up_left(e);
		return KT_OK;
	}
	kt_block_reopen(b);
	if (e->committed)
		start_again(e);
	return KT_OK;
}

static kt_code apply_note(kt_engine *e, const kt_event *ev, kt_err *err)
{
	return e->mode == MODE_NEW ? misfit(err, ev, "the run has not begun") : KT_OK;
}

static kt_code apply_end(kt_engine *e, const kt_event *ev, kt_err *err)
{
	kt_run_state now = e->held ? KT_RUN_HELD : modes[e->mode].state;
	if (e->ended || !at_rest(e) || ev->state != now)
		return misfit(err, ev, "the run is not at that end");
	e->ended = true;
	return KT_OK;
}

static kt_code (*const appliers[KT_EVENT_KINDS])(kt_engine *, const kt_event *, kt_err *) = {
	[KT_EVENT_BEGIN] = apply_begin,     [KT_EVENT_TAKE] = apply_take,      [KT_EVENT_INTENT] = apply_intent,
	[KT_EVENT_OUTCOME] = apply_outcome, [KT_EVENT_INTERRUPT] = apply_stop, [KT_EVENT_ROLLBACK] = apply_stop,
	[KT_EVENT_REVERT] = apply_revert,   [KT_EVENT_RESUME] = apply_resume,  [KT_EVENT_NOTE] = apply_note,
	[KT_EVENT_END] = apply_end,
};

kt_code kt_engine_apply(kt_engine *e, const kt_event *ev, kt_err *err)
{
	if ((unsigned)ev->kind >= KT_EVENT_KINDS)
		return kt_fail(err, KT_E_AUDIT, NULL, "an event of an unknown kind (%d)", (int)ev->kind);
	KT_TRY(appliers[ev->kind](e, ev, err));
	advance(e);
	return KT_OK;
}

/* --- Commands ----------------------------------------------------------------------------------------------------- */

kt_code kt_engine_next(const kt_engine *e, kt_command *out, bool *have, kt_err *err)
{
	kt_role role;
	*out = (kt_command){0};
	const kt_target *t = wanted(e);
	*have = t != NULL;
	if (!t)
		return KT_OK;
	(void)kt_engine_active(e, &role);
	return kt_command_make(e, e->cur, role, t, out, err);
}

kt_code kt_engine_in_doubt(const kt_engine *e, kt_command_cb cb, void *user, kt_err *err)
{
	kt_role role;
	const kt_block *b = kt_engine_active(e, &role); /* invariant (6): only here */
	for (size_t i = 0; b && b->sent && i < b->n; i++) {
		if (b->targets[i].state != KT_TARGET_SENT)
			continue;
		kt_command c;
		KT_TRY(kt_command_make(e, e->cur, role, &b->targets[i], &c, err));
		c.delay_ms = 0;
		kt_code rc = cb(user, &c, err);
		kt_command_free(&c);
		KT_TRY(rc);
	}
	return KT_OK;
}

bool kt_engine_idle(const kt_engine *e)
{
	kt_role role;
	const kt_block *b = kt_engine_active(e, &role);
	return !b || b->sent == 0;
}

/* --- Life --------------------------------------------------------------------------------------------------------- */

kt_code kt_engine_new(const cJSON *plan, kt_engine **out, kt_err *err)
{
	*out = NULL;
	kt_engine *e = calloc(1, sizeof *e);
	if (!e)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = kt_engine_load(e, plan, err);
	if (rc != KT_OK) {
		kt_engine_free(e);
		return rc;
	}
	*out = e;
	return KT_OK;
}

static void free_block(kt_block *b)
{
	for (size_t i = 0; i < b->n; i++) {
		cJSON_Delete(b->targets[i].result);
		free(b->targets[i].error);
	}
	free(b->targets);
	free(b->queue);
	free(b->of_node);
}

void kt_engine_free(kt_engine *e)
{
	if (!e)
		return;
	for (size_t i = 0; i < e->cap_steps; i++)
		for (int r = 0; r < 3; r++)
			free_block(&e->steps[i].role[r]);
	free(e->steps);
	cJSON_Delete(e->shared);
	cJSON_Delete(e->names);
	free(e->by_name);
	free(e->behind);
	free((void *)e->nodes);
	free(e);
}

/* --- Looking at it ------------------------------------------------------------------------------------------------ */

kt_engine_status kt_engine_state(const kt_engine *e)
{
	static const kt_err fine = {.code = KT_OK};
	const struct mode_row *m = &modes[e->mode];
	const kt_blame *why = e->held ? &e->hold : m->back ? &e->back : NULL;
	kt_role role = KT_ROLE_DO;
	const kt_block *b = kt_engine_active(e, &role);
	return (kt_engine_status){
		.state = e->held         ? KT_RUN_HELD
			 : e->epoch == 0 ? KT_RUN_NEW
					 : m->state,
		.at_rest = at_rest(e),
		.ended = e->ended,
		.draining = b && b->sent && b->queued + b->failed > 0 && !may_send(e, b),
		.interrupted = e->interrupted,
		.rekey_started = rekey_tried(e),
		.rekey_done = e->rekey_done,
		.committed = e->committed,
		.epoch = e->epoch,
		.step = b ? e->steps[e->cur].name : NULL,
		.role = role,
		.failed_step = why && why->error.code != KT_OK ? why->step : NULL,
		.failed_node = why && why->error.code != KT_OK ? why->node : NULL,
		.reason = why ? &why->error : &fine,
		.warnings = e->warnings,
	};
}

size_t kt_engine_steps(const kt_engine *e)
{
	return e->n_steps;
}

kt_step_status kt_engine_step(const kt_engine *e, size_t i)
{
	const kt_step *s = &e->steps[i];
	const kt_block *b = &s->role[KT_ROLE_DO];
	return (kt_step_status){
		.name = s->name,
		.phase = s->phase_name,
		.title = s->title,
		.done = step_done(s) && (b->n || e->cur > i || e->mode == MODE_TURNED),
		.undone = s->undone,
		.targets = b->n,
		.ok = b->ok,
		.failed = b->failed,
		.sent = b->sent,
	};
}

size_t kt_engine_targets(const kt_engine *e, size_t i, kt_role role)
{
	return e->steps[i].role[role].n;
}

kt_target_status kt_engine_target(const kt_engine *e, size_t i, kt_role role, size_t target)
{
	const kt_target *t = &e->steps[i].role[role].targets[target];
	return (kt_target_status){
		.node = e->nodes[t->node],
		.state = (kt_target_state)t->state,
		.attempts = t->tried ? t->attempt : 0,
		.error = t->error,
		.result = t->result,
	};
}

/* --- Invariants --------------------------------------------------------------------------------------------------- */

static bool steps_sane(const kt_engine *e)
{
	kt_role role = KT_ROLE_DO;
	const kt_block *active = kt_engine_active(e, &role);
	for (size_t i = 0; i < e->n_steps; i++) {
		const kt_step *s = &e->steps[i];
		for (int r = 0; r < 3; r++) {
			const kt_block *b = &s->role[r];
			if (!kt_block_sane(b, s->parallel) || (b->sent && b != active)) /* (6) */
				return false;
		}
		if (s->role[KT_ROLE_DO].tried && i > e->top) /* (11) */
			return false;
	}
	return true;
}

bool kt_engine_sane(const kt_engine *e)
{
	const kt_block *rekey = &e->steps[e->once].role[KT_ROLE_DO];
	if (!steps_sane(e) || rekey->targets[0].attempt > 1) /* (7) */
		return false;
	for (size_t i = 0; !modes[e->mode].back && i < e->n_steps; i++) {
		bool must = (i < e->once && rekey->tried) || (i != e->once && i <= e->commit && e->committed);
		if (must && !step_done(&e->steps[i])) /* (8), (9) */
			return false;
	}
	if (e->committed && modes[e->mode].back) /* (9) */
		return false;
	kt_role role;
	const kt_block *active = kt_engine_active(e, &role);
	return !e->held || (active && active->sent == 0); /* (10) */
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/turn/turn.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "orchestrator/journal/replay.h"
#include "orchestrator/playbook/playbook.h"
#include "orchestrator/turn/drift.h"
#include "orchestrator/turn/group.h"
#include "orchestrator/turn/pins.h"
#include "orchestrator/turn/release.h"
#include "orchestrator/turn/takeover.h"

enum {
	SIGNALS = 2,
	REACH_MS = 60 * 1000,        /* how long a node that was lost in a run is tried again */
	ANSWER_GRACE_MS = 30 * 1000, /* on top of a command's own limit, which the node keeps itself */
	MESSAGE_LEN = KT_ERR_MSG
};

typedef struct turn turn;

/* A command under way: from its intent to its outcome. */
typedef struct flight {
	struct flight *next;          /* in one of the driver's queues */
	struct flight *older, *newer; /* all that are under way */
	turn *turn;
	kt_command c;
	uv_timer_t delay;
	int64_t sent_ms; /* when it was carried out, by the clock that never goes back; 0: not yet */
	cJSON *result;   /* of the outcome */
	kt_status status;
	kt_err error;
	bool resend; /* in doubt after a crash */
} flight;

typedef struct list {
	flight *first;
	flight **last;
} list;

/* An event that the watcher hears of once it is durable. Its texts are the engine's. */
typedef struct news {
	bool due; /* false: it was told at once */
	kt_event event;
} news;

/* Entries that go into the journal together. Each keeps its body alive. */
typedef struct batch {
	kt_entry *entry;
	kt_buf *body;
	news *news;
	size_t n, cap;
} batch;

struct turn {
	kt_turn_options o;
	kt_engine *engine;
	int64_t epoch;
	batch batch;
	kt_group group; /* when the batch is to be committed */
	list arrived;   /* have an outcome that is not in the batch yet */
	list to_send;   /* have an intent in the batch, or a durable one from before a crash */
	list hsm_waiting;
	flight *hsm_working; /* what the worker has now */
	uv_work_t hsm_work;
	kt_plan_pins *pins; /* of the plan; the worker's */
	uv_idle_t wake;
	uv_timer_t due;
	uv_signal_t signal[SIGNALS];
	unsigned signals_seen;
	size_t open_handles;
	flight *newest;
	size_t under_way; /* how many there are */
	bool stop;
	kt_code rc; /* why it stops, when not for being at rest */
	kt_err err;
};

static void wake(turn *t);
static void launch(flight *f);

/* --- small things ------------------------------------------------------------------------------------------------- */

static void push(list *l, flight *f)
{
	f->next = NULL;
	if (!l->first)
		l->last = &l->first;
	*l->last = f;
	l->last = &f->next;
}

static flight *pop(list *l)
{
	flight *f = l->first;
	if (f)
		l->first = f->next;
	return f;
}

static void note(turn *t, const char *text)
{
	if (t->o.watcher && t->o.watcher->note)
		t->o.watcher->note(t->o.watcher->cookie, text);
}

static void fail(turn *t, kt_code rc)
{
	if (!t->stop) {
		t->stop = true;
		t->rc = rc;
	}
	wake(t);
}

static void handle_closed(uv_handle_t *h)
{
	turn *t = h->data;
	t->open_handles--;
}

static void delay_closed(uv_handle_t *h)
{
	flight *f = h->data;
	f->turn->open_handles--;
	kt_command_free(&f->c);
	cJSON_Delete(f->result);
	free(f);
}

static void flight_end(flight *f)
{
	if (f->newer)
		f->newer->older = f->older;
	else
		f->turn->newest = f->older;
	if (f->older)
		f->older->newer = f->newer;
	f->turn->under_way--;
	uv_close((uv_handle_t *)&f->delay, delay_closed);
}

static kt_code flight_new(turn *t, kt_command *c, flight **out, kt_err *err)
{
	flight *f = calloc(1, sizeof *f);
	if (!f || uv_timer_init(t->o.loop, &f->delay) != 0) {
		free(f);
		kt_command_free(c);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	f->turn = t;
	f->c = *c;
	f->delay.data = f;
	t->open_handles++;
	f->older = t->newest;
	if (f->older)
		f->older->newer = f;
	t->newest = f;
	t->under_way++;
	*out = f;
	return KT_OK;
}

/* The outcome of a command is known: it is journalled and applied with everything else that has come by then. */
static void arrive(flight *f, kt_status status, const cJSON *result, const kt_err *error)
{
	f->status = status;
	f->result = result ? cJSON_Duplicate(result, 1) : NULL;
	f->error = *error;
	push(&f->turn->arrived, f);
	wake(f->turn);
}

static void arrive_failed(flight *f, const kt_err *error)
{
	arrive(f, KT_STATUS_FAILED, NULL, error);
}

/* --- the journal -------------------------------------------------------------------------------------------------- */

static kt_code batch_room(batch *b, kt_err *err)
{
	if (b->n < b->cap)
		return KT_OK;
	size_t cap = b->cap ? 2 * b->cap : 64;
	kt_entry *entry = realloc(b->entry, cap * sizeof *entry);
	if (entry)
		b->entry = entry;
	kt_buf *body = realloc(b->body, cap * sizeof *body);
	if (body)
		b->body = body;
	news *later = realloc(b->news, cap * sizeof *later);
	if (later)
		b->news = later;
	if (!entry || !body || !later)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	b->cap = cap;
	return KT_OK;
}

static void batch_clear(batch *b)
{
	for (size_t i = 0; i < b->n; i++)
		kt_buf_free(&b->body[i]);
	b->n = 0;
}

static void batch_free(batch *b)
{
	batch_clear(b);
	free(b->entry);
	free(b->body);
	free(b->news);
}

static void tell(turn *t, const kt_event *ev, int64_t time_ms)
{
	if (t->o.watcher && t->o.watcher->event)
		t->o.watcher->event(t->o.watcher->cookie, t->engine, ev, time_ms);
}

/* What a node did is a fact, and is told at once; what we mean to do, and how a run ended, once it is durable. */
static void note_event(turn *t, const kt_event *ev, int64_t now)
{
	bool outcome = ev->kind == KT_EVENT_OUTCOME;
	t->batch.news[t->batch.n - 1] = (news){.due = !outcome, .event = *ev};
	if (outcome)
		tell(t, ev, now);
	else if (ev->kind != KT_EVENT_INTENT)
		kt_group_urgent(&t->group);
}

/* Apply an event and put it into the batch. Nothing is acted upon before the batch is durable (S8). */
static kt_code record(turn *t, const kt_event *ev, const char *message)
{
	int64_t now = kt_clock_wall_ms();
	batch *b = &t->batch;
	KT_TRY(batch_room(b, &t->err));
	b->body[b->n] = KT_BUF_INIT;
	KT_TRY(kt_entry_of_event(ev, t->o.run, t->epoch, now, message, &b->body[b->n], &b->entry[b->n], &t->err));
	b->n++;
	KT_TRY(kt_engine_apply(t->engine, ev, &t->err));
	note_event(t, ev, now);
	return KT_OK;
}

/* The journal cannot be written: nothing more is sent, and whoever repairs it must know that the run is not over. */
static kt_code stopped_here(turn *t, kt_code rc)
{
	kt_err why = t->err;
	return kt_fail(&t->err, rc, "make room or repair the state folder, then `keyturn resume`",
		       "the run %s stopped where it was, since its journal cannot be written: %s", t->o.run, why.msg);
}

static kt_code commit(turn *t)
{
	if (t->batch.n == 0)
		return KT_OK;
	batch *b = &t->batch;
	int64_t began = kt_clock_mono_ms();
	kt_code rc = kt_journal_append(t->o.journal, b->entry, b->n, &t->err);
	kt_group_committed(&t->group, began, kt_clock_mono_ms());
	for (size_t i = 0; rc == KT_OK && i < b->n; i++)
		if (b->news[i].due)
			tell(t, &b->news[i].event, b->entry[i].time_ms);
	batch_clear(b);
	return rc == KT_OK ? KT_OK : stopped_here(t, rc);
}

/* --- the loop: outcomes in, intents out --------------------------------------------------------------------------- */

static kt_code take_outcomes(turn *t)
{
	for (flight *f = pop(&t->arrived); f; f = pop(&t->arrived)) {
		const kt_event ev = {.kind = KT_EVENT_OUTCOME,
				     .step = f->c.step,
				     .role = f->c.role,
				     .node = f->c.node,
				     .attempt = f->c.attempt,
				     .status = f->status,
				     .result = f->result,
				     .error = f->status == KT_STATUS_OK ? NULL : &f->error};
		int64_t now = kt_clock_mono_ms();
		kt_code rc = record(t, &ev, NULL);
		kt_group_outcome(&t->group, now, f->sent_ms ? now - f->sent_ms : 0);
		flight_end(f);
		KT_TRY(rc);
	}
	return KT_OK;
}

static kt_code make_intents(turn *t)
{
	for (;;) {
		kt_command c;
		bool have;
		flight *f = NULL;
		KT_TRY(kt_engine_next(t->engine, &c, &have, &t->err));
		if (!have)
			return KT_OK;
		KT_TRY(flight_new(t, &c, &f, &t->err));
		push(&t->to_send, f);
		const kt_event ev = {.kind = KT_EVENT_INTENT,
				     .step = f->c.step,
				     .role = f->c.role,
				     .node = f->c.node,
				     .attempt = f->c.attempt};
		KT_TRY(record(t, &ev, NULL));
	}
}

static kt_code end_at_rest(turn *t, bool *ended)
{
	kt_engine_status s = kt_engine_state(t->engine);
	*ended = s.at_rest && kt_engine_idle(t->engine) && !t->arrived.first;
	if (!*ended)
		return KT_OK;
	const kt_event ev = {.kind = KT_EVENT_END, .state = s.state};
	char message[MESSAGE_LEN];
	(void)snprintf(message, sizeof message, "%s", s.reason ? s.reason->msg : "");
	return record(t, &ev, message);
}

/* Has the engine commands that it wants sent, or come to its end? Then there is something to write. */
static kt_code is_wanted(turn *t, bool *out)
{
	kt_command c;
	*out = kt_engine_state(t->engine).at_rest;
	if (*out)
		return KT_OK;
	KT_TRY(kt_engine_next(t->engine, &c, out, &t->err));
	if (*out)
		kt_command_free(&c);
	return KT_OK;
}

static void on_due(uv_timer_t *timer)
{
	wake(timer->data);
}

/* Outcomes are applied as they come; intents are made when it is time, and are durable with everything before them. */
static kt_code pump_once(turn *t)
{
	bool wanted, ended;
	KT_TRY(take_outcomes(t));
	KT_TRY(is_wanted(t, &wanted));
	int64_t now = kt_clock_mono_ms();
	int64_t due = kt_group_due(&t->group, (kt_group_view){.wanted = wanted, .under_way = t->under_way});
	if (due > now) {
		if (due < INT64_MAX)
			(void)uv_timer_start(&t->due, on_due, (uint64_t)(due - now), 0);
		return KT_OK;
	}
	(void)uv_timer_stop(&t->due);
	KT_TRY(make_intents(t));
	KT_TRY(end_at_rest(t, &ended));
	KT_TRY(commit(t));
	t->stop = ended; /* a run of which the end is not recorded has not ended */
	return KT_OK;
}

static void pump(uv_idle_t *idle)
{
	turn *t = idle->data;
	(void)uv_idle_stop(idle);
	if (t->stop)
		return;
	kt_code rc = pump_once(t);
	if (rc != KT_OK) {
		fail(t, rc);
		return;
	}
	for (flight *f = pop(&t->to_send); f; f = pop(&t->to_send))
		launch(f);
}

/* Once per turn of the loop, however much arrives in it. */
static void wake(turn *t)
{
	(void)uv_idle_start(&t->wake, pump);
}

/* --- commands on nodes -------------------------------------------------------------------------------------------- */

static void on_answer(void *cookie, size_t node, kt_status status, const cJSON *result, const kt_err *error)
{
	(void)node;
	arrive(cookie, status, result, error);
}

static void on_progress(void *cookie, size_t node, const kt_progress *progress)
{
	flight *f = cookie;
	(void)node;
	const kt_watcher *w = f->turn->o.watcher;
	if (w && w->progress)
		w->progress(w->cookie, f->c.step, f->c.node, progress);
}

static bool in_preflight(const turn *t, const char *step)
{
	for (size_t i = 0; i < kt_engine_steps(t->engine); i++) {
		kt_step_status s = kt_engine_step(t->engine, i);
		if (strcmp(s.name, step) == 0)
			return kt_phase_find(s.phase) <= KT_PHASE_APPROVE;
	}
	return false;
}

static void ask_node(flight *f)
{
	turn *t = f->turn;
	const kt_node *n = kt_cluster_node(t->o.cluster, f->c.node);
	kt_err err = KT_ERR_INIT;
	if (!n) {
		KT_IGNORE(kt_fail(&err, KT_E_REFUSED, "use the cluster.json with which the run was begun",
				  "the plan names %s, which is not in this cluster.json", f->c.node));
		arrive_failed(f, &err);
		return;
	}
	const kt_ask ask = {.request = {.cluster = t->o.cluster->name,
					.run = t->o.run,
					.epoch = t->epoch,
					.step = f->c.step,
					.role = f->c.role,
					.attempt = f->c.attempt,
					.verb = f->c.verb,
					.settle = f->c.settle},
			    .args = f->c.args,
			    .once = f->c.once,
			    .timeout_ms = f->c.timeout_s * 1000 + ANSWER_GRACE_MS,
			    .reach_ms = in_preflight(t, f->c.step) && !f->resend ? 0 : REACH_MS,
			    .on_progress = on_progress,
			    .on_answer = on_answer,
			    .cookie = f};
	f->c.args = NULL; /* taken over: a thousand nodes' arguments are there once */
	if (kt_nodes_ask(t->o.nodes, (size_t)(n - t->o.cluster->nodes), &ask, &err) != KT_OK)
		arrive_failed(f, &err);
}

/* --- commands of the coordinator ---------------------------------------------------------------------------------- */

/* What came of a command of the coordinator; `done` NULL: there was no memory to ask for it. */
static void hsm_outcome(flight *f, const kt_hsm_command *done)
{
	f->status = done ? done->status : KT_STATUS_FAILED;
	f->result = done ? done->result : NULL;
	f->error = done ? done->error : KT_ERR_INIT;
	if (!done)
		KT_IGNORE(kt_fail(&f->error, KT_E_INTERNAL, NULL, "out of memory"));
}

/* In the worker: everything that was waiting. */
static void hsm_work(uv_work_t *w)
{
	turn *t = w->data;
	size_t n = 0;
	for (flight *f = t->hsm_working; f; f = f->next)
		n++;
	kt_hsm_command *command = calloc(n, sizeof *command);
	size_t i = 0;
	for (flight *f = t->hsm_working; command && f; f = f->next)
		command[i++] =
			(kt_hsm_command){.verb = f->c.verb,
					 .node = f->c.node,
					 .spki_sha256 = f->c.node ? kt_plan_pins_find(t->pins, f->c.node) : NULL};
	if (command)
		kt_hsm_act(t->o.hsm, t->o.run, command, n);
	i = 0;
	for (flight *f = t->hsm_working; f; f = f->next)
		hsm_outcome(f, command ? &command[i++] : NULL);
	free(command);
}

static void hsm_start(turn *t);

static void hsm_done(uv_work_t *w, int status)
{
	turn *t = w->data;
	(void)status; /* it is never cancelled */
	for (flight *f = t->hsm_working, *next; f; f = next) {
		next = f->next;
		push(&t->arrived, f);
	}
	t->hsm_working = NULL;
	wake(t);
	hsm_start(t);
}

static void hsm_start(turn *t)
{
	if (t->hsm_working || !t->hsm_waiting.first)
		return;
	t->hsm_working = t->hsm_waiting.first;
	t->hsm_waiting = (list){0};
	t->hsm_work.data = t;
	if (uv_queue_work(t->o.loop, &t->hsm_work, hsm_work, hsm_done) == 0)
		return;
	t->hsm_working = NULL;
	fail(t, kt_fail(&t->err, KT_E_INTERNAL, NULL, "the HSM worker cannot be started"));
}

static size_t find_step(const kt_engine *e, const char *name)
{
	size_t i = 0;
	while (i < kt_engine_steps(e) && strcmp(kt_engine_step(e, i).name, name) != 0)
		i++;
	return i;
}

static kt_code drift(const flight *f, kt_err *err)
{
	const turn *t = f->turn;
	const char *of;
	KT_TRY(kt_json_str(f->c.args, "of", &of, err));
	size_t step = find_step(t->engine, of);
	if (step == kt_engine_steps(t->engine))
		return kt_fail(err, KT_E_INPUT, NULL, "drift.check: there is no step \"%s\"", of);
	size_t n = kt_engine_targets(t->engine, step, KT_ROLE_DO);
	kt_drift_answer *a = calloc(n ? n : 1, sizeof *a);
	if (!a)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	for (size_t i = 0; i < n; i++) {
		kt_target_status s = kt_engine_target(t->engine, step, KT_ROLE_DO, i);
		const kt_node *node = kt_cluster_node(t->o.cluster, s.node);
		a[i] = (kt_drift_answer){.node = s.node, .result = s.result};
		if (node)
			a[i].skew_ms = kt_nodes_skew_ms(t->o.nodes, (size_t)(node - t->o.cluster->nodes));
	}
	kt_code rc = kt_drift_check(f->c.args, a, n, err);
	free(a);
	return rc;
}

static void act_here(flight *f)
{
	turn *t = f->turn;
	kt_err err = KT_ERR_INIT;
	if (kt_hsm_knows(f->c.verb) && !t->o.hsm) {
		KT_IGNORE(kt_fail(&err, KT_E_HSM, "`keyturn doctor` tells what is wrong with it",
				  "%s needs the token, which could not be opened", f->c.verb));
		arrive_failed(f, &err);
	} else if (kt_hsm_knows(f->c.verb)) {
		push(&t->hsm_waiting, f);
		hsm_start(t);
	} else if (strcmp(f->c.verb, "drift.check") == 0) {
		kt_code rc = drift(f, &err);
		arrive(f, rc == KT_OK ? KT_STATUS_OK : KT_STATUS_FAILED, NULL, &err);
	} else {
		KT_IGNORE(kt_fail(&err, KT_E_INTERNAL, NULL, "the coordinator has no verb %s", f->c.verb));
		arrive_failed(f, &err);
	}
}

static void execute(flight *f)
{
	if (f->turn->stop)
		return;
	f->sent_ms = kt_clock_mono_ms();
	if (f->c.problem.code != KT_OK)
		arrive_failed(f, &f->c.problem);
	else if (f->c.place == KT_PLACE_NODE)
		ask_node(f);
	else
		act_here(f);
}

static void on_delay(uv_timer_t *timer)
{
	execute(timer->data);
}

static void launch(flight *f)
{
	if (f->c.delay_ms > 0)
		(void)uv_timer_start(&f->delay, on_delay, (uint64_t)f->c.delay_ms, 0);
	else
		execute(f);
}

/* --- signals ------------------------------------------------------------------------------------------------------ */

/* What waits for its time has not been sent: it ends here, so that the way back does not wait for it. */
static void end_delayed(turn *t)
{
	kt_err err = KT_ERR_INIT;
	KT_IGNORE(kt_fail(&err, KT_E_INTERRUPTED, NULL, "not sent: the run was interrupted"));
	for (flight *f = t->newest; f; f = f->older) {
		if (!uv_is_active((uv_handle_t *)&f->delay))
			continue;
		(void)uv_timer_stop(&f->delay);
		arrive_failed(f, &err);
	}
}

static void on_signal(uv_signal_t *s, int number)
{
	turn *t = s->data;
	if (t->stop)
		return; /* it is over, and only the nodes are still told so */
	if (++t->signals_seen > 1) {
		kt_code stop = commit(t); /* outcomes that wait for company: they need not be asked for again */
		fail(t, stop != KT_OK ? stop
				      : kt_fail(&t->err, KT_E_INTERRUPTED, "`keyturn resume` goes on from here",
						"stopped by a second signal; the run is in the journal"));
		return;
	}
	const kt_event ev = {.kind = KT_EVENT_INTERRUPT};
	const char *name = number == SIGINT ? "Ctrl-C" : "SIGTERM";
	char text[128];
	kt_code rc = record(t, &ev, name);
	if (rc == KT_OK) /* nobody is told that it turns back before a crash could not make it go on */
		rc = commit(t);
	if (rc != KT_OK) {
		fail(t, rc);
		return;
	}
	end_delayed(t);
	(void)snprintf(text, sizeof text, "%s: %s (once more stops here; the run can be resumed)", name,
		       kt_engine_state(t->engine).rekey_started ? "the rekey has begun, so the turn goes on to its end"
								: "turning back");
	note(t, text);
	wake(t);
}

static kt_code open_handles(turn *t)
{
	static const int number[SIGNALS] = {SIGINT, SIGTERM};
	if (uv_idle_init(t->o.loop, &t->wake) != 0 || uv_timer_init(t->o.loop, &t->due) != 0)
		return kt_fail(&t->err, KT_E_INTERNAL, NULL, "the event loop cannot be used");
	t->wake.data = t->due.data = t;
	t->open_handles += 2;
	for (size_t i = 0; i < SIGNALS; i++) {
		if (uv_signal_init(t->o.loop, &t->signal[i]) != 0 ||
		    uv_signal_start(&t->signal[i], on_signal, number[i]) != 0)
			return kt_fail(&t->err, KT_E_INTERNAL, NULL, "signals cannot be caught");
		t->signal[i].data = t;
		t->open_handles++;
	}
	return KT_OK;
}

/* --- a run from here to its rest ---------------------------------------------------------------------------------- */

/* Also what still waits for an answer, when the run stops in the middle. */
static void close_all(turn *t)
{
	while (t->hsm_working)
		(void)uv_run(t->o.loop, UV_RUN_ONCE);
	kt_nodes_drop(t->o.nodes);
	if (t->wake.data) {
		uv_close((uv_handle_t *)&t->wake, handle_closed);
		uv_close((uv_handle_t *)&t->due, handle_closed);
	}
	for (size_t i = 0; i < SIGNALS; i++)
		if (t->signal[i].data)
			uv_close((uv_handle_t *)&t->signal[i], handle_closed);
	while (t->newest)
		flight_end(t->newest);
	while (t->open_handles)
		(void)uv_run(t->o.loop, UV_RUN_ONCE);
	batch_free(&t->batch);
}

static void tell_end(const turn *t, kt_turn_end *end)
{
	kt_engine_status s = kt_engine_state(t->engine);
	*end = (kt_turn_end){.state = s.state, .warnings = s.warnings};
	if (s.reason)
		end->reason = *s.reason;
	(void)snprintf(end->failed_step, sizeof end->failed_step, "%s", s.failed_step ? s.failed_step : "");
	(void)snprintf(end->failed_node, sizeof end->failed_node, "%s", s.failed_node ? s.failed_node : "");
}

/* A run that is over holds no node any more. `epoch` is that of its latest take. */
static void release(const turn *t, int64_t epoch)
{
	if (!kt_run_state_final(kt_engine_state(t->engine).state))
		return;
	const kt_watcher *w = t->o.watcher;
	const kt_release r = {.cluster = t->o.cluster,
			      .nodes = t->o.nodes,
			      .engine = t->engine,
			      .run = t->o.run,
			      .epoch = epoch,
			      .note = w ? w->note : NULL,
			      .cookie = w ? w->cookie : NULL};
	kt_release_nodes(&r);
}

/* The epoch of a run that was over before we came; it is told again to nodes that did not hear it. */
static kt_code release_again(const turn *t, kt_err *err)
{
	kt_run_info *runs = NULL;
	size_t n = 0;
	KT_TRY(kt_journal_runs(t->o.journal, &runs, &n, err));
	for (size_t i = 0; i < n; i++)
		if (strcmp(runs[i].run, t->o.run) == 0 && runs[i].epoch > 0)
			release(t, runs[i].epoch);
	free(runs);
	return KT_OK;
}

static kt_code drive(turn *t, kt_turn_end *end, kt_err *err)
{
	wake(t);
	while (!t->stop)
		(void)uv_run(t->o.loop, UV_RUN_ONCE);
	tell_end(t, end);
	if (t->rc == KT_OK)
		release(t, t->epoch);
	else if (err)
		*err = t->err;
	return t->rc;
}

/* Take the run under a new epoch: from now on the nodes refuse whoever held it before. */
static kt_code take(turn *t, int64_t floor)
{
	int64_t now = kt_clock_wall_ms();
	KT_TRY(kt_journal_take(t->o.journal, t->o.run, now > floor ? now : floor + 1, &t->epoch, &t->err));
	const kt_event ev = {.kind = KT_EVENT_TAKE, .epoch = t->epoch};
	return kt_engine_apply(t->engine, &ev, &t->err);
}

static kt_takeover takeover_of(const turn *t, const kt_engine *engine)
{
	return (kt_takeover){.nodes = t->o.nodes,
			     .cluster = t->o.cluster,
			     .journal = t->o.journal,
			     .run = t->o.run,
			     .engine = engine,
			     .alone = t->o.alone};
}

static kt_code begin(turn *t, const cJSON *plan)
{
	kt_buf body = KT_BUF_INIT;
	kt_entry entry;
	KT_TRY(kt_engine_new(plan, &t->engine, &t->err));
	KT_TRY(kt_plan_pins_new(plan, &t->pins, &t->err));
	kt_takeover takeover = takeover_of(t, NULL);
	KT_TRY(kt_takeover_check(&takeover, &t->err));
	kt_code rc = kt_entry_of_plan(plan, t->o.run, kt_clock_wall_ms(), &body, &entry, &t->err);
	if (rc == KT_OK)
		rc = kt_journal_append(t->o.journal, &entry, 1, &t->err);
	kt_buf_free(&body);
	KT_TRY(rc);
	KT_TRY(kt_engine_apply(t->engine, &(kt_event){.kind = KT_EVENT_BEGIN}, &t->err));
	KT_TRY(take(t, takeover.floor));
	return open_handles(t);
}

kt_code kt_turn_begin(const kt_turn_options *o, const cJSON *plan, kt_turn_end *end, kt_err *err)
{
	turn t = {.o = *o};
	kt_code rc = begin(&t, plan);
	if (rc == KT_OK)
		rc = drive(&t, end, err);
	else if (err)
		*err = t.err;
	close_all(&t);
	kt_engine_free(t.engine);
	kt_plan_pins_free(t.pins);
	return rc;
}

/* What was under way when the coordinator died is sent again, under its old key. */
static kt_code send_again(void *cookie, kt_command *c, kt_err *err)
{
	turn *t = cookie;
	flight *f = NULL;
	kt_command taken = *c;
	c->args = NULL;
	KT_TRY(flight_new(t, &taken, &f, err));
	f->resend = true;
	push(&t->to_send, f);
	return KT_OK;
}

static kt_code go_on(turn *t)
{
	kt_takeover takeover = takeover_of(t, t->engine);
	KT_TRY(kt_takeover_check(&takeover, &t->err));
	KT_TRY(take(t, takeover.floor));
	KT_TRY(kt_takeover_fence(&takeover, t->epoch, &t->err));
	KT_TRY(open_handles(t));
	if (kt_engine_state(t->engine).state == KT_RUN_HELD)
		KT_TRY(record(t, &(kt_event){.kind = KT_EVENT_RESUME}, "resumed"));
	if (t->o.rollback)
		KT_TRY(record(t, &(kt_event){.kind = KT_EVENT_ROLLBACK}, "asked for by a person"));
	if (t->o.revert)
		KT_TRY(record(t, &(kt_event){.kind = KT_EVENT_REVERT}, "asked for by a person"));
	return kt_engine_in_doubt(t->engine, send_again, t, &t->err);
}

/* Nothing is to be done any more. */
static bool is_over(const turn *t)
{
	kt_engine_status s = kt_engine_state(t->engine);
	return kt_run_state_final(s.state) && s.ended && !(t->o.revert && s.state == KT_RUN_TURNED);
}

kt_code kt_turn_resume(const kt_turn_options *o, kt_turn_end *end, kt_err *err)
{
	turn t = {.o = *o};
	kt_replay replay;
	KT_TRY(kt_replay_run(o->journal, o->run, &replay, err));
	t.engine = replay.engine;
	kt_code rc = kt_plan_pins_new(replay.plan, &t.pins, err);
	if (rc != KT_OK) {
		kt_replay_free(&replay);
		return rc;
	}
	if (is_over(&t)) {
		tell_end(&t, end);
		rc = release_again(&t, err);
	} else {
		rc = go_on(&t);
		if (rc == KT_OK)
			rc = drive(&t, end, err);
		else if (err)
			*err = t.err;
	}
	close_all(&t);
	kt_plan_pins_free(t.pins);
	kt_replay_free(&replay);
	return rc;
}

kt_code kt_turn_class(const kt_turn_end *end)
{
	switch (end->state) {
	case KT_RUN_TURNED:
		return KT_OK;
	case KT_RUN_ROLLED_BACK:
		return KT_E_ROLLED_BACK;
	case KT_RUN_REFUSED:
		return end->reason.code == KT_E_HSM || end->reason.code == KT_E_UNREACHABLE ||
				       end->reason.code == KT_E_KEY || end->reason.code == KT_E_INTERRUPTED
			       ? end->reason.code
			       : KT_E_REFUSED;
	default:
		return KT_E_HELD;
	}
}

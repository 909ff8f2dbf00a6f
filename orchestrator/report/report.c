/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/report/report.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "orchestrator/playbook/playbook.h"

enum { MS_PER_S = 1000, PROGRESS_EVERY_MS = 100 };

struct kt_report {
	FILE *out;
	kt_report_mode mode;
	bool colour;
	bool line_open; /* live: a line without its end is on the screen */
	kt_watcher watcher;
	char step[KT_NAME_MAX + 1]; /* the step (and role) that the open line is about */
	kt_role role;
	int64_t step_began_ms;
	int64_t progress_ms;  /* JSON: when progress was told last */
	int64_t down_from_ms; /* 0: not yet */
	int64_t down_to_ms;
};

static const char *paint(const kt_report *r, const char *code)
{
	return r->colour ? code : "";
}

static void end_line(kt_report *r)
{
	if (r->line_open)
		(void)fputc('\n', r->out);
	r->line_open = false;
}

static size_t step_index(const kt_engine *e, const char *name)
{
	size_t i = 0;
	while (i < kt_engine_steps(e) && strcmp(kt_engine_step(e, i).name, name) != 0)
		i++;
	return i;
}

/* --- one line a step ---------------------------------------------------------------------------------------------- */

typedef struct counts {
	size_t all, ok, failed, sent;
} counts;

static counts count(const kt_engine *e, size_t step, kt_role role)
{
	counts c = {.all = kt_engine_targets(e, step, role)};
	for (size_t i = 0; i < c.all; i++) {
		kt_target_state s = kt_engine_target(e, step, role, i).state;
		c.ok += s == KT_TARGET_OK;
		c.failed += s == KT_TARGET_FAILED;
		c.sent += s == KT_TARGET_SENT;
	}
	return c;
}

static const char *role_word(kt_role role)
{
	return role == KT_ROLE_UNDO ? "undo " : role == KT_ROLE_PROBE ? "probe " : "";
}

/* The title says what the step does: what its undo and its probe are, is said before it. */
static const char *role_verb(kt_role role)
{
	return role == KT_ROLE_UNDO ? "take back: " : role == KT_ROLE_PROBE ? "which key opens the data after: " : "";
}

static const char *member(const cJSON *o, const char *name)
{
	const cJSON *v = o ? cJSON_GetObjectItemCaseSensitive(o, name) : NULL;
	return cJSON_IsString(v) ? v->valuestring : "";
}

/* What a probe answered; where it said no verdict, what it said instead. */
static void tell_verdict(const kt_report *r, const kt_event *ev)
{
	if (ev->role != KT_ROLE_PROBE || ev->status != KT_STATUS_OK)
		return;
	const char *verdict = member(ev->result, "verdict");
	bool none = strcmp(verdict, "unknown") == 0;
	(void)fprintf(r->out, "  %s: the data opens with: %s%s%.200s\n", ev->node, verdict,
		      none ? "; the probe's last line: " : "", none ? member(ev->result, "tail") : "");
}

static void live_line(kt_report *r, const kt_engine *e, size_t step, kt_role role, int64_t now)
{
	kt_step_status s = kt_engine_step(e, step);
	counts c = count(e, step, role);
	const char *mark = c.failed ? "✗" : c.ok == c.all ? "✓" : "…";
	const char *tint = c.failed ? "\033[31m" : c.ok == c.all ? "\033[32m" : "\033[33m";
	(void)fprintf(r->out, "\r\033[K%s%s%s %-9s %s%s  %zu/%zu  %.1f s", paint(r, tint), mark, paint(r, "\033[0m"),
		      s.phase, role_verb(role), s.title ? s.title : s.name, c.ok, c.all,
		      (double)(now - r->step_began_ms) / MS_PER_S);
	r->line_open = true;
}

static void step_changed(kt_report *r, const kt_event *ev, int64_t now)
{
	if (strcmp(r->step, ev->step) == 0 && r->role == ev->role)
		return;
	end_line(r);
	(void)snprintf(r->step, sizeof r->step, "%s", ev->step);
	r->role = ev->role;
	r->step_began_ms = now;
}

static void on_live(kt_report *r, const kt_engine *e, const kt_event *ev, int64_t now)
{
	if (ev->kind != KT_EVENT_INTENT && ev->kind != KT_EVENT_OUTCOME)
		return;
	size_t step = step_index(e, ev->step);
	if (step == kt_engine_steps(e))
		return;
	step_changed(r, ev, now);
	live_line(r, e, step, ev->role, now);
	if (ev->kind == KT_EVENT_OUTCOME && ev->role == KT_ROLE_PROBE && ev->status == KT_STATUS_OK) {
		end_line(r);
		tell_verdict(r, ev);
	}
	if (ev->kind == KT_EVENT_OUTCOME && ev->status == KT_STATUS_FAILED && ev->error) {
		end_line(r);
		(void)fprintf(r->out, "  %s: %s\n", ev->node, ev->error->msg);
		if (ev->error->remedy[0])
			(void)fprintf(r->out, "  %s→ %s%s\n", paint(r, "\033[2m"), ev->error->remedy,
				      paint(r, "\033[0m"));
	}
	(void)fflush(r->out);
}

/* --- plain lines -------------------------------------------------------------------------------------------------- */

static void on_plain(kt_report *r, const kt_engine *e, const kt_event *ev, int64_t now)
{
	char when[KT_TIME_TEXT];
	kt_clock_format(now, when);
	if (ev->kind == KT_EVENT_INTENT) {
		bool first = strcmp(r->step, ev->step) != 0 || r->role != ev->role;
		step_changed(r, ev, now);
		size_t step = step_index(e, ev->step);
		if (first && step < kt_engine_steps(e))
			(void)fprintf(r->out, "%s %s%s: %s%s\n", when, role_word(ev->role), ev->step,
				      role_verb(ev->role),
				      kt_engine_step(e, step).title ? kt_engine_step(e, step).title : "");
	} else if (ev->kind == KT_EVENT_OUTCOME) {
		(void)fprintf(r->out, "%s %s%s %s: %s%s%s\n", when, role_word(ev->role), ev->step, ev->node,
			      kt_status_name(ev->status), ev->error ? ": " : "", ev->error ? ev->error->msg : "");
		tell_verdict(r, ev);
		if (ev->status == KT_STATUS_FAILED && ev->error && ev->error->remedy[0])
			(void)fprintf(r->out, "%s   remedy: %s\n", when, ev->error->remedy);
	}
	(void)fflush(r->out);
}

/* --- JSON lines --------------------------------------------------------------------------------------------------- */

static kt_code json_event(const kt_engine *e, const kt_event *ev, int64_t now, cJSON *o, kt_err *err)
{
	char when[KT_TIME_TEXT];
	kt_clock_format(now, when);
	KT_TRY(kt_json_add_str(o, "time", when, err));
	KT_TRY(kt_json_add_str(o, "event", kt_event_kind_name(ev->kind), err));
	KT_TRY(kt_json_add_str(o, "state", kt_run_state_name(kt_engine_state(e).state), err));
	if (!ev->step)
		return KT_OK;
	KT_TRY(kt_json_add_str(o, "step", ev->step, err));
	KT_TRY(kt_json_add_str(o, "role", kt_role_name(ev->role), err));
	KT_TRY(kt_json_add_str(o, "node", ev->node, err));
	KT_TRY(kt_json_add_int(o, "attempt", ev->attempt, err));
	if (ev->kind != KT_EVENT_OUTCOME)
		return KT_OK;
	return kt_outcome_encode(ev->status, ev->result, ev->error, o, err);
}

/* A line, if `rc` says that the object is whole. */
static void print_json(const kt_report *r, const cJSON *o, kt_code rc)
{
	kt_buf text = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	if (o && rc == KT_OK && kt_json_print(o, &text, &err) == KT_OK)
		(void)fprintf(r->out, "%s\n", kt_buf_cstr(&text));
	(void)fflush(r->out);
	kt_buf_free(&text);
}

static void on_json(const kt_report *r, const kt_engine *e, const kt_event *ev, int64_t now)
{
	cJSON *o = cJSON_CreateObject();
	kt_err err = KT_ERR_INIT;
	print_json(r, o, o ? json_event(e, ev, now, o, &err) : KT_E_INTERNAL);
	cJSON_Delete(o);
}

/* What is no event of the engine: `text`, from a step's node or (step NULL) from the driver itself. */
static kt_code json_said(const char *event, const char *step, const char *node, const char *text, cJSON *o, kt_err *err)
{
	char when[KT_TIME_TEXT];
	kt_clock_format(kt_clock_wall_ms(), when);
	KT_TRY(kt_json_add_str(o, "time", when, err));
	KT_TRY(kt_json_add_str(o, "event", event, err));
	if (step) {
		KT_TRY(kt_json_add_str(o, "step", step, err));
		KT_TRY(kt_json_add_str(o, "node", node, err));
	}
	return kt_json_add_str(o, "text", text, err);
}

static void note_json(const kt_report *r, const char *text)
{
	cJSON *o = cJSON_CreateObject();
	kt_err err = KT_ERR_INIT;
	print_json(r, o, o ? json_said("note", NULL, NULL, text, o, &err) : KT_E_INTERNAL);
	cJSON_Delete(o);
}

/* Lines that a command prints come once a second at most; how far a backup is comes from every node twice a second. */
static void progress_json(kt_report *r, const char *step, const char *node, const kt_progress *p)
{
	int64_t now = kt_clock_mono_ms();
	if (p->total > 0 && now - r->progress_ms < PROGRESS_EVERY_MS)
		return;
	r->progress_ms = now;
	cJSON *o = cJSON_CreateObject();
	kt_err err = KT_ERR_INIT;
	kt_code rc = o ? json_said("progress", step, node, p->text, o, &err) : KT_E_INTERNAL;
	if (rc == KT_OK && p->total > 0)
		rc = kt_json_add_int(o, "done", p->done, &err);
	if (rc == KT_OK && p->total > 0)
		rc = kt_json_add_int(o, "total", p->total, &err);
	print_json(r, o, rc);
	cJSON_Delete(o);
}

/* --- the watcher -------------------------------------------------------------------------------------------------- */

static void measure(kt_report *r, const kt_engine *e, const kt_event *ev, int64_t now)
{
	if (!ev->step)
		return;
	size_t step = step_index(e, ev->step);
	if (step == kt_engine_steps(e))
		return;
	int phase = kt_phase_find(kt_engine_step(e, step).phase);
	if (ev->kind == KT_EVENT_INTENT && phase == KT_PHASE_STOP && !r->down_from_ms)
		r->down_from_ms = now;
	if (ev->kind == KT_EVENT_OUTCOME && ev->status == KT_STATUS_OK &&
	    (phase == KT_PHASE_START || (phase == KT_PHASE_STOP && ev->role == KT_ROLE_UNDO)))
		r->down_to_ms = now;
}

static void on_event(void *cookie, const kt_engine *e, const kt_event *ev, int64_t now)
{
	kt_report *r = cookie;
	measure(r, e, ev, now);
	if (r->mode == KT_REPORT_JSON)
		on_json(r, e, ev, now);
	else if (r->mode == KT_REPORT_LIVE)
		on_live(r, e, ev, now);
	else
		on_plain(r, e, ev, now);
}

static void on_note(void *cookie, const char *text)
{
	kt_report *r = cookie;
	if (r->mode == KT_REPORT_JSON) {
		note_json(r, text);
		return;
	}
	end_line(r);
	(void)fprintf(r->out, "%s\n", text);
	(void)fflush(r->out);
}

static void on_progress(void *cookie, const char *step, const char *node, const kt_progress *p)
{
	kt_report *r = cookie;
	if (r->mode == KT_REPORT_JSON)
		progress_json(r, step, node, p);
	if (r->mode != KT_REPORT_LIVE || !r->line_open)
		return;
	if (p->total > 0)
		(void)fprintf(r->out, "\033[s  %s %" PRId64 "%%\033[K\033[u", node, 100 * p->done / p->total);
	else
		(void)fprintf(r->out, "\033[s  %s %.40s\033[K\033[u", node, p->text);
	(void)fflush(r->out);
}

kt_code kt_report_new(FILE *out, kt_report_mode mode, bool colour, kt_report **made, kt_err *err)
{
	kt_report *r = calloc(1, sizeof *r);
	if (!r)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	r->out = out;
	r->mode = mode;
	r->colour = colour;
	r->watcher = (kt_watcher){.cookie = r, .event = on_event, .progress = on_progress, .note = on_note};
	*made = r;
	return KT_OK;
}

void kt_report_free(kt_report *r)
{
	if (!r)
		return;
	end_line(r);
	free(r);
}

const kt_watcher *kt_report_watcher(kt_report *r)
{
	return &r->watcher;
}

int64_t kt_report_downtime_ms(const kt_report *r)
{
	return r->down_from_ms && r->down_to_ms > r->down_from_ms ? r->down_to_ms - r->down_from_ms : -1;
}

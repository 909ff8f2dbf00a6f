/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/journal/replay.h"

#include <inttypes.h>
#include <string.h>

/* --- Events into entries ------------------------------------------------------------------------------------------ */

static kt_code fill_body(const kt_event *ev, const char *message, cJSON *o, kt_err *err)
{
	if (ev->kind == KT_EVENT_OUTCOME)
		return kt_outcome_encode(ev->status, ev->result, ev->error ? ev->error : &KT_ERR_INIT, o, err);
	if (ev->kind == KT_EVENT_END)
		KT_TRY(kt_json_add_str(o, "state", kt_run_state_name(ev->state), err));
	if (message && message[0])
		return kt_json_add_str(o, "message", message, err);
	return KT_OK;
}

kt_code kt_entry_of_event(const kt_event *ev, const char *run, int64_t epoch, int64_t time_ms, const char *message,
			  kt_buf *body, kt_entry *out, kt_err *err)
{
	bool keyed = ev->kind == KT_EVENT_INTENT || ev->kind == KT_EVENT_OUTCOME;
	*out = (kt_entry){.run = run,
			  .epoch = epoch,
			  .time_ms = time_ms,
			  .kind = kt_event_kind_name(ev->kind),
			  .step = keyed ? ev->step : "",
			  .role = keyed ? kt_role_name(ev->role) : "",
			  .node = keyed ? ev->node : "",
			  .attempt = keyed ? ev->attempt : 0};
	cJSON *o = cJSON_CreateObject();
	kt_code rc = o ? fill_body(ev, message, o, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_buf_clear(body);
	if (rc == KT_OK && o->child)
		rc = kt_json_canonical(o, body, err);
	cJSON_Delete(o);
	out->body = kt_buf_cstr(body);
	return rc;
}

kt_code kt_entry_of_plan(const cJSON *plan, const char *run, int64_t time_ms, kt_buf *body, kt_entry *out, kt_err *err)
{
	kt_buf_clear(body);
	KT_TRY(kt_json_canonical(plan, body, err));
	*out = (kt_entry){.run = run,
			  .time_ms = time_ms,
			  .kind = kt_event_kind_name(KT_EVENT_BEGIN),
			  .step = "",
			  .role = "",
			  .node = "",
			  .body = kt_buf_cstr(body)};
	return KT_OK;
}

/* --- Entries into events ------------------------------------------------------------------------------------------ */

static kt_code decode_key(const kt_entry *e, kt_event *ev, kt_err *err)
{
	ev->step = e->step;
	ev->node = e->node;
	ev->attempt = e->attempt;
	KT_TRY(kt_role_parse(e->role, &ev->role, err));
	return e->attempt >= 1 ? KT_OK : kt_fail(err, KT_E_INPUT, NULL, "attempt %" PRId64, e->attempt);
}

static kt_code decode_body(const kt_entry *e, const cJSON *body, kt_event *ev, kt_err *error, kt_err *err)
{
	switch (ev->kind) {
	case KT_EVENT_TAKE:
		ev->epoch = e->epoch;
		return KT_OK;
	case KT_EVENT_INTENT:
		return decode_key(e, ev, err);
	case KT_EVENT_OUTCOME:
		KT_TRY(decode_key(e, ev, err));
		KT_TRY(kt_outcome_decode(body, &ev->status, &ev->result, error, err));
		ev->error = error->code == KT_OK ? NULL : error;
		return KT_OK;
	case KT_EVENT_END: {
		const char *state;
		KT_TRY(kt_json_str(body, "state", &state, err));
		return kt_run_state_parse(state, &ev->state, err);
	}
	default:
		return KT_OK;
	}
}

static kt_code decode(const kt_entry *e, kt_event *ev, cJSON **body, kt_err *error, kt_err *err)
{
	KT_TRY(kt_event_kind_parse(e->kind, &ev->kind, err));
	if (e->body[0])
		KT_TRY(kt_json_parse("its body", e->body, strlen(e->body), body, err));
	return decode_body(e, *body, ev, error, err);
}

kt_code kt_event_of_entry(const kt_entry *e, kt_event *ev, cJSON **body, kt_err *error, kt_err *err)
{
	*ev = (kt_event){0};
	*body = NULL;
	*error = KT_ERR_INIT;
	kt_code rc = decode(e, ev, body, error, err);
	if (rc == KT_OK)
		return KT_OK;
	cJSON_Delete(*body);
	*body = NULL;
	return kt_err_prefix(err, rc == KT_E_INTERNAL ? rc : KT_E_AUDIT, "entry %" PRId64 " of the journal", e->seq);
}

/* --- A run ---------------------------------------------------------------------------------------------------------
 */

static kt_code fold(void *user, const kt_entry *e, kt_err *err)
{
	kt_replay *r = user;
	kt_event ev;
	kt_err error;
	cJSON *body;
	KT_TRY(kt_event_of_entry(e, &ev, &body, &error, err));
	kt_code rc = KT_OK;
	if (ev.kind == KT_EVENT_BEGIN && !r->plan) {
		r->plan = body;
		body = NULL;
		rc = kt_engine_new(r->plan, &r->engine, err);
	} else if (!r->engine) {
		rc = kt_fail(err, KT_E_AUDIT, NULL, "the run does not begin with its plan");
	}
	if (rc == KT_OK)
		rc = kt_engine_apply(r->engine, &ev, err);
	r->events++;
	cJSON_Delete(body);
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "entry %" PRId64 " of the journal", e->seq);
}

kt_code kt_replay_run(kt_journal *j, const char *run, kt_replay *out, kt_err *err)
{
	*out = (kt_replay){0};
	kt_code rc = kt_journal_read(j, run, fold, out, err);
	if (rc == KT_OK && !out->engine)
		rc = kt_fail(err, KT_E_REFUSED, "`keyturn runs` lists the runs", "the journal has no run %.40s", run);
	if (rc != KT_OK)
		kt_replay_free(out);
	return rc;
}

void kt_replay_free(kt_replay *r)
{
	if (!r)
		return;
	kt_engine_free(r->engine);
	cJSON_Delete(r->plan);
	*r = (kt_replay){0};
}

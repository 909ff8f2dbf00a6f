/* SPDX-License-Identifier: Apache-2.0 */
/* What runs did to keys, out of their journal: the engine says where a run stands, the outcomes what was made. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/codec.h"
#include "base/keyuri.h"
#include "orchestrator/journal/replay.h"
#include "orchestrator/ledger/internal.h"
#include "orchestrator/ledger/view.h"

/* Invariant: `from`, `to` and `backup` belong to `keys`; `to` is NULL until the run has made its key, or the data opens
 * with one that it did not make; `backup` until the run has made it; `from` where the data was in the legacy form. */
typedef struct fold {
	cJSON *keys;
	char run[KT_RUN_MAX + 1];
	cJSON *plan;
	kt_engine *engine;
	cJSON *from;
	cJSON *to;
	cJSON *backup; /* the key that its backups are encrypted with */
	bool active;   /* `to` has opened the data */
	bool turned;   /* the run has ended turned, and was not taken back */
} fold;

/* --- The two keys of a run ---------------------------------------------------------------------------------------- */

/* "kcv-1a2b3c", or where the key stays (without what only says how a node gets there): "at-" and a digest of it. */
static kt_code id_of(const char *uri, const char *kcv, char id[KT_LEDGER_ID], kt_err *err)
{
	char digest[KT_SHA256_HEX];
	size_t n = strncmp(uri, "pkcs11:", 7) == 0 ? strcspn(uri, "?") : strlen(uri);
	(void)snprintf(id, KT_LEDGER_ID, "kcv-%.6s", kcv);
	if (kcv[0])
		return KT_OK;
	KT_TRY(kt_sha256_hex(uri, n, digest, err));
	(void)snprintf(id, KT_LEDGER_ID, "at-%.12s", digest);
	return KT_OK;
}

/* A key that the run did not make, "from" or "to" of its plan. *out stays NULL for one of which neither check value nor
 * place says which key it is, and where there was none (legacy:). */
static kt_code find_outside(fold *f, const char *side, const char *kcv, cJSON **out, kt_err *err)
{
	char id[KT_LEDGER_ID];
	kt_keyuri_kind kind;
	const char *rest;
	const cJSON *uris = kt_ledger_member(kt_ledger_member(f->plan, "key"), side);
	const char *uri = uris && cJSON_IsString(uris->child) ? uris->child->valuestring : "";
	*out = NULL;
	bool known = kt_keyuri_kind_of(uri, &kind, &rest);
	if ((known && kt_keyuri_none(kind)) || (!kcv[0] && !(known && kt_keyuri_stays(kind))))
		return KT_OK;
	KT_TRY(id_of(uri, kcv, id, err));
	*out = kcv[0] ? kt_ledger_element(f->keys, "kcv", kcv) : kt_ledger_element(f->keys, "id", id);
	const kt_ledger_new outside = {.id = id, .label = "", .uri = uri, .kind = "cluster", .kcv = kcv};
	return *out ? KT_OK : kt_ledger_add_key(f->keys, &outside, out, err);
}

static kt_code find_old(fold *f, int64_t time_ms, kt_err *err)
{
	KT_TRY(find_outside(f, "from", kt_ledger_text(kt_ledger_member(f->plan, "key"), "kcv"), &f->from, err));
	if (!f->from || kt_ledger_element(kt_ledger_member(f->from, "history"), "state", "active"))
		return KT_OK;
	return kt_ledger_add_event(f->from, KT_KEY_ACTIVE, time_ms, f->run, "in use when the run began", err);
}

/* The token's URI and the key's name in it. */
static void uri_of(const fold *f, const char *id, char out[KT_LEDGER_PATH])
{
	const char *token = kt_ledger_text(kt_ledger_member(f->plan, "hsm"), "token");
	int n = snprintf(out, KT_LEDGER_PATH, "%.*s%sid=", (int)strcspn(token, "?"), token,
			 token[strlen("pkcs11:")] ? ";" : "");
	for (size_t i = 0; id[i] && id[i + 1] && n > 0 && n < KT_LEDGER_PATH - 4; i += 2)
		n += snprintf(out + n, KT_LEDGER_PATH - (size_t)n, "%%%.2s", id + i);
}

/* A key that the run made, in *out; *made is false when it made it before: a coordinator died between intent and
 * outcome, or the step was done again. */
static kt_code made_key(fold *f, const cJSON *result, const char *label_at, const char *kind, cJSON **out, bool *made,
			kt_err *err)
{
	const char *id, *label, *kcv;
	char uri[KT_LEDGER_PATH];
	KT_TRY(kt_json_str(result, "id", &id, err));
	KT_TRY(kt_json_str(result, label_at, &label, err));
	KT_TRY(kt_json_str(result, "kcv", &kcv, err));
	uri_of(f, id, uri);
	const kt_ledger_new key = {.id = id, .label = label, .uri = uri, .kind = kind, .kcv = kcv};
	*out = kt_ledger_element(f->keys, "id", id);
	if (!*out)
		KT_TRY(kt_ledger_add_key(f->keys, &key, out, err));
	*made = kt_ledger_member(*out, "run") == NULL;
	return *made ? kt_json_add_str(*out, "run", f->run, err) : KT_OK;
}

static kt_code on_generate(fold *f, const cJSON *result, int64_t time_ms, kt_err *err)
{
	bool made;
	KT_TRY(made_key(f, result, "label", "cluster", &f->to, &made, err));
	return made ? kt_ledger_add_event(f->to, KT_KEY_PRE_ACTIVE, time_ms, f->run, "made by the run", err) : KT_OK;
}

/* --- Escrows and backups ------------------------------------------------------------------------------------------ */

static kt_code on_escrow(const fold *f, cJSON *key, const cJSON *result, int64_t time_ms, kt_err *err)
{
	const kt_ledger_escrow own = {.path = kt_ledger_text(result, "path"),
				      .custodian = "",
				      .under = kt_ledger_text(result, "wrapping_key"),
				      .under_kcv = kt_ledger_text(result, "wrapping_kcv"),
				      .time_ms = time_ms};
	const cJSON *custodians = kt_ledger_member(result, "custodians");
	if (!key)
		return kt_fail(err, KT_E_AUDIT, NULL, "run %s escrowed a key that it had not made", f->run);
	KT_TRY(kt_ledger_escrowed(key, &own, err));
	KT_TRY(kt_ledger_proved(key, result, err));
	for (const cJSON *c = custodians ? custodians->child : NULL; c; c = c->next) {
		const kt_ledger_escrow e = {.path = kt_ledger_text(c, "path"),
					    .custodian = kt_ledger_text(c, "name"),
					    .under = kt_ledger_text(c, "spki_sha256"),
					    .under_kcv = "",
					    .time_ms = time_ms};
		KT_TRY(kt_ledger_escrowed(key, &e, err));
	}
	return KT_OK;
}

static kt_code on_backup_key(fold *f, const cJSON *result, int64_t time_ms, kt_err *err)
{
	bool made;
	KT_TRY(made_key(f, result, "key_label", "backup", &f->backup, &made, err));
	if (made)
		KT_TRY(kt_ledger_add_event(f->backup, KT_KEY_ACTIVE, time_ms, f->run, "made for the run's backups",
					   err));
	return on_escrow(f, f->backup, result, time_ms, err);
}

static bool has_need(const cJSON *key, const char *what, const char *node)
{
	const cJSON *needs = kt_ledger_member(key, "dependants");
	for (const cJSON *n = needs ? needs->child : NULL; n; n = n->next)
		if (kt_ledger_is(n, "what", what) && kt_ledger_is(n, "node", node))
			return true;
	return false;
}

static kt_code backup_needs(const fold *f, cJSON *key, const kt_event *ev, kt_err *err)
{
	const char *archive = kt_ledger_text(ev->result, "archive");
	if (!key || (ev->attempt > 1 && has_need(key, archive, ev->node)))
		return KT_OK;
	return kt_ledger_add_need(key, "backup", archive, ev->node, f->run, err);
}

/* The data in a backup is under the old key, and the backup itself under the backup key. */
static kt_code on_backup(const fold *f, const kt_event *ev, kt_err *err)
{
	KT_TRY(backup_needs(f, f->from, ev, err));
	return cJSON_IsTrue(kt_ledger_member(ev->result, "encrypted")) ? backup_needs(f, f->backup, ev, err) : KT_OK;
}

/* --- Event by event ----------------------------------------------------------------------------------------------- */

static const char *verb_of(const fold *f, const char *step)
{
	const cJSON *s = kt_ledger_element(kt_ledger_member(f->plan, "steps"), "name", step);
	return kt_ledger_text(s, "verb");
}

static kt_code on_outcome(fold *f, const kt_event *ev, int64_t time_ms, kt_err *err)
{
	if (ev->role != KT_ROLE_DO || ev->status != KT_STATUS_OK)
		return KT_OK;
	const char *verb = verb_of(f, ev->step);
	if (strcmp(verb, "key.generate") == 0)
		return on_generate(f, ev->result, time_ms, err);
	if (strcmp(verb, "key.escrow") == 0)
		return on_escrow(f, f->to, ev->result, time_ms, err);
	if (strcmp(verb, "backup.key") == 0)
		return on_backup_key(f, ev->result, time_ms, err);
	return strcmp(verb, "backup.create") == 0 ? on_backup(f, ev, err) : KT_OK;
}

static kt_code taken_back(fold *f, int64_t time_ms, kt_err *err)
{
	char kept[128];
	if (f->to && f->active) {
		(void)snprintf(kept, sizeof kept, "what its restore replaced (*.keyturn-%s.old)", f->run);
		KT_TRY(kt_ledger_add_event(f->to, KT_KEY_DEACTIVATED, time_ms, f->run, "the run was taken back", err));
		KT_TRY(kt_ledger_add_need(f->to, "kept", kept, "", f->run, err));
	}
	if (f->from && f->turned)
		KT_TRY(kt_ledger_add_event(f->from, KT_KEY_ACTIVE, time_ms, f->run, "the run was taken back", err));
	f->active = f->turned = false;
	return KT_OK;
}

/* Nothing new is encrypted under the backup key of a run that is over; a rollback of it still opens its backups. */
static kt_code retire_backup_key(const fold *f, int64_t time_ms, kt_err *err)
{
	if (!f->backup || kt_ledger_element(kt_ledger_member(f->backup, "history"), "state", "deactivated"))
		return KT_OK;
	return kt_ledger_add_event(f->backup, KT_KEY_DEACTIVATED, time_ms, f->run, "the run is over", err);
}

/* Where the run stands now that the event was applied. */
static kt_code on_progress(fold *f, const kt_event *ev, int64_t time_ms, kt_err *err)
{
	kt_engine_status s = kt_engine_state(f->engine);
	if (!f->to && s.rekey_done && !kt_ledger_element(kt_ledger_member(f->plan, "steps"), "verb", "key.generate"))
		KT_TRY(find_outside(f, "to", "", &f->to, err));
	if (f->to && !f->active && s.rekey_done) {
		f->active = true;
		KT_TRY(kt_ledger_add_event(f->to, KT_KEY_ACTIVE, time_ms, f->run, "the data opens with it", err));
	}
	if (ev->kind != KT_EVENT_END)
		return KT_OK;
	if (kt_run_state_final(ev->state))
		KT_TRY(retire_backup_key(f, time_ms, err));
	if (ev->state == KT_RUN_ROLLED_BACK)
		return taken_back(f, time_ms, err);
	if (ev->state != KT_RUN_TURNED || f->turned)
		return KT_OK;
	f->turned = true;
	return f->from ? kt_ledger_add_event(f->from, KT_KEY_DEACTIVATED, time_ms, f->run, "turned", err) : KT_OK;
}

static kt_code apply(fold *f, const kt_event *ev, const cJSON *body, int64_t time_ms, kt_err *err)
{
	if (ev->kind == KT_EVENT_BEGIN && !f->plan) {
		f->plan = cJSON_Duplicate(body, true);
		if (!f->plan)
			return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
		KT_TRY(kt_engine_new(f->plan, &f->engine, err));
		KT_TRY(find_old(f, time_ms, err));
	}
	if (!f->engine)
		return kt_fail(err, KT_E_AUDIT, NULL, "the run does not begin with its plan");
	KT_TRY(kt_engine_apply(f->engine, ev, err));
	if (ev->kind == KT_EVENT_OUTCOME)
		KT_TRY(on_outcome(f, ev, time_ms, err));
	return on_progress(f, ev, time_ms, err);
}

/* All runs of one walk over the journal: each walk verifies its whole chain. */
typedef struct walk {
	cJSON *keys;
	fold *runs;
	size_t n;
} walk;

/* NULL without memory. */
static fold *fold_of(walk *w, const char *run)
{
	for (size_t i = w->n; i > 0; i--)
		if (strcmp(w->runs[i - 1].run, run) == 0)
			return &w->runs[i - 1];
	fold *runs = realloc(w->runs, (w->n + 1) * sizeof *runs);
	if (!runs)
		return NULL;
	w->runs = runs;
	fold *made = &runs[w->n++];
	*made = (fold){.keys = w->keys};
	(void)snprintf(made->run, sizeof made->run, "%s", run);
	return made;
}

static kt_code on_entry(void *user, const kt_entry *e, kt_err *err)
{
	kt_event ev;
	kt_err error;
	cJSON *body;
	fold *f = fold_of(user, e->run);
	if (!f)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	KT_TRY(kt_event_of_entry(e, &ev, &body, &error, err));
	kt_code rc = apply(f, &ev, body, e->time_ms, err);
	cJSON_Delete(body);
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "entry %lld of the journal", (long long)e->seq);
}

/* As long as a run is not over, both its keys may be what opens the data, and its backups may be needed. */
static kt_code needs_of_open_run(fold *f, kt_err *err)
{
	kt_run_state s = kt_engine_state(f->engine).state;
	if (kt_run_state_final(s))
		return KT_OK;
	cJSON *const keys[] = {f->from, f->to, f->backup};
	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
		if (keys[i])
			KT_TRY(kt_ledger_add_need(keys[i], "run", "a run that is not over", "", f->run, err));
	return KT_OK;
}

kt_code kt_ledger_told(kt_journal *j, cJSON **out, kt_err *err)
{
	walk w = {.keys = cJSON_CreateArray()};
	kt_code rc = w.keys ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	*out = NULL;
	if (rc == KT_OK && j)
		rc = kt_journal_read(j, NULL, on_entry, &w, err);
	for (size_t i = 0; i < w.n; i++) {
		if (rc == KT_OK && w.runs[i].engine)
			rc = needs_of_open_run(&w.runs[i], err);
		kt_engine_free(w.runs[i].engine);
		cJSON_Delete(w.runs[i].plan);
	}
	free(w.runs);
	if (rc == KT_OK)
		*out = w.keys;
	else
		cJSON_Delete(w.keys);
	return rc;
}

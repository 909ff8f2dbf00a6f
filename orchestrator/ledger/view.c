/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/ledger/view.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "orchestrator/ledger/internal.h"

enum { NAMED = 10, DAY_MS = 24 * 60 * 60 * 1000 };

static kt_code append(cJSON *key, const char *array, cJSON *o, kt_code rc, kt_err *err)
{
	cJSON *to = kt_ledger_member(key, array);
	if (rc == KT_OK && !to) {
		to = cJSON_AddArrayToObject(key, array);
		rc = to ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	if (rc == KT_OK && cJSON_AddItemToArray(to, o))
		return KT_OK;
	cJSON_Delete(o);
	return rc != KT_OK ? rc : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

kt_code kt_ledger_add_event(cJSON *key, kt_key_state state, int64_t time_ms, const char *run, const char *why,
			    kt_err *err)
{
	cJSON *o = cJSON_CreateObject();
	kt_code rc = kt_json_add_str(o, "state", kt_key_state_name(state), err);
	if (rc == KT_OK)
		rc = kt_json_add_int(o, "time_ms", time_ms, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "why", why, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "run", run, err);
	return append(key, "history", o, rc, err);
}

kt_code kt_ledger_add_need(cJSON *key, const char *kind, const char *what, const char *node, const char *run,
			   kt_err *err)
{
	cJSON *o = cJSON_CreateObject();
	kt_code rc = kt_json_add_str(o, "kind", kind, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "what", what, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "node", node, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "run", run, err);
	return append(key, "dependants", o, rc, err);
}

static kt_code warn(cJSON *key, const char *text, kt_err *err)
{
	return append(key, "warnings", cJSON_CreateString(text), KT_OK, err);
}

/* --- State -------------------------------------------------------------------------------------------------------- */

static kt_key_state state_of(const cJSON *event)
{
	kt_key_state s = KT_KEY_PRE_ACTIVE;
	KT_IGNORE(kt_key_state_parse(kt_ledger_text(event, "state"), &s, NULL));
	return s;
}

/* One source's word on a key: people (no "run" in their events) or runs. */
typedef struct word {
	const cJSON *last;
	bool active; /* the last state but `compromised` */
} word;

static word listen(const cJSON *key, bool runs)
{
	word w = {0};
	for (const cJSON *e = kt_ledger_member(key, "history")->child; e; e = e->next) {
		if ((kt_ledger_member(e, "run") != NULL) != runs)
			continue;
		kt_key_state s = state_of(e);
		w.last = e;
		if (s != KT_KEY_COMPROMISED)
			w.active = s == KT_KEY_ACTIVE;
	}
	return w;
}

static double time_of(const cJSON *event)
{
	const cJSON *t = kt_ledger_member(event, "time_ms");
	return cJSON_IsNumber(t) ? t->valuedouble : 0;
}

/* Where people and runs both speak, the state that is further on counts; on data is what runs say. */
static kt_code set_state(cJSON *key, kt_err *err)
{
	word people = listen(key, false), runs = listen(key, true);
	const cJSON *last = !runs.last                                                     ? people.last
			    : !people.last || state_of(runs.last) >= state_of(people.last) ? runs.last
											   : people.last;
	kt_key_state s = state_of(last);
	bool on_data = s != KT_KEY_DESTROYED && (runs.last ? runs.active : people.active) &&
		       kt_ledger_is(key, "kind", "cluster");
	KT_TRY(kt_json_add_str(key, "state", kt_key_state_name(s), err));
	KT_TRY(kt_json_add_int(key, "since_ms", (int64_t)time_of(last), err));
	return kt_json_add_bool(key, "on_data", on_data, err);
}

/* The history in order of time; until now people's events stand before those of runs. */
static kt_code sort_history(cJSON *key, kt_err *err)
{
	cJSON *history = kt_ledger_member(key, "history");
	cJSON *sorted = cJSON_CreateArray();
	while (sorted && history->child) {
		cJSON *first = history->child;
		for (cJSON *e = first->next; e; e = e->next)
			if (time_of(e) < time_of(first))
				first = e;
		(void)cJSON_AddItemToArray(sorted, cJSON_DetachItemViaPointer(history, first));
	}
	if (sorted && cJSON_ReplaceItemInObjectCaseSensitive(key, "history", sorted))
		return KT_OK;
	cJSON_Delete(sorted);
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

/* --- Escrows as dependants of the keys that open them ------------------------------------------------------------- */

/* Is that escrow under this wrapping key? */
static bool opens(const cJSON *key, const cJSON *escrow)
{
	if (kt_ledger_text(escrow, "custodian")[0] || !kt_ledger_is(key, "kind", "wrapping"))
		return false;
	bool by_kcv = kt_ledger_text(escrow, "under_kcv")[0] != '\0';
	return kt_ledger_is(escrow, by_kcv ? "under_kcv" : "under", kt_ledger_text(key, by_kcv ? "kcv" : "label"));
}

/* A wrapping key that is only known because something is wrapped under it. */
static kt_code find_opener(cJSON *keys, const cJSON *escrow, kt_err *err)
{
	char id[KT_LEDGER_ID];
	cJSON *made;
	const char *kcv = kt_ledger_text(escrow, "under_kcv");
	if (kt_ledger_text(escrow, "custodian")[0] || !kcv[0])
		return KT_OK;
	for (const cJSON *k = keys->child; k; k = k->next)
		if (opens(k, escrow))
			return KT_OK;
	(void)snprintf(id, sizeof id, "kcv-%.6s", kcv);
	const kt_ledger_new key = {
		.id = id, .label = kt_ledger_text(escrow, "under"), .uri = "", .kind = "wrapping", .kcv = kcv};
	KT_TRY(kt_ledger_add_key(keys, &key, &made, err));
	return kt_ledger_add_event(made, KT_KEY_ACTIVE, (int64_t)time_of(escrow), "", "escrows are under it", err);
}

static kt_code each_escrow(cJSON *keys, const cJSON *of, kt_code (*visit)(cJSON *, const cJSON *, kt_err *),
			   kt_err *err)
{
	for (const cJSON *e = kt_ledger_member(of, "escrows")->child; e; e = e->next)
		if (!cJSON_IsTrue(kt_ledger_member(e, "gone")))
			KT_TRY(visit(keys, e, err));
	return KT_OK;
}

static kt_code need_opener(cJSON *keys, const cJSON *escrow, kt_err *err)
{
	for (cJSON *k = keys->child; k; k = k->next)
		if (opens(k, escrow))
			KT_TRY(kt_ledger_add_need(k, "escrow", kt_ledger_text(escrow, "path"), "", "", err));
	return KT_OK;
}

/* --- Warnings ----------------------------------------------------------------------------------------------------- */

static kt_code warn_of_cryptoperiod(cJSON *key, const kt_view_options *o, kt_err *err)
{
	char text[160], end[KT_TIME_TEXT];
	const cJSON *days = kt_ledger_member(key, "cryptoperiod_days");
	int64_t period = cJSON_IsNumber(days) ? (int64_t)days->valuedouble : 0;
	const cJSON *active = kt_ledger_element(kt_ledger_member(key, "history"), "state", "active");
	if (!period && kt_ledger_member(key, "run"))
		period = o->cryptoperiod_days;
	if (!period || !active || kt_view_state(key) != KT_KEY_ACTIVE)
		return KT_OK;
	int64_t until = (int64_t)time_of(active) + period * DAY_MS;
	if (o->now_ms < until)
		return KT_OK;
	kt_clock_format(until, end);
	(void)snprintf(text, sizeof text, "its cryptoperiod of %" PRId64 " days was over on %s: replace it", period,
		       end);
	return warn(key, text, err);
}

static kt_code warn_of_pending(cJSON *key, kt_err *err)
{
	char text[200], since[KT_TIME_TEXT];
	const cJSON *p = kt_ledger_member(key, "pending");
	const cJSON *t = kt_ledger_member(p, "since_ms");
	if (!p)
		return KT_OK;
	kt_clock_format(cJSON_IsNumber(t) ? (int64_t)t->valuedouble : 0, since);
	(void)snprintf(text, sizeof text,
		       "\"%s\" was begun at %s and its end was not recorded: the same command again finishes it",
		       kt_ledger_text(p, "what"), since);
	return warn(key, text, err);
}

static bool has_escrow(const cJSON *key)
{
	for (const cJSON *e = kt_ledger_member(key, "escrows")->child; e; e = e->next)
		if (!cJSON_IsTrue(kt_ledger_member(e, "gone")))
			return true;
	return false;
}

static kt_code finish(cJSON *keys, const kt_view_options *o, kt_err *err)
{
	char data[96];
	(void)snprintf(data, sizeof data, "the data of %s", o->cluster);
	for (cJSON *k = keys->child; k; k = k->next) {
		if (!kt_ledger_member(k, "dependants"))
			KT_TRY(kt_json_add(k, "dependants", cJSON_CreateArray(), err));
		KT_TRY(kt_json_add(k, "warnings", cJSON_CreateArray(), err));
		if (cJSON_IsTrue(kt_ledger_member(k, "on_data"))) {
			KT_TRY(kt_ledger_add_need(k, "data", data, "", "", err));
			if (!kt_ledger_text(k, "kcv")[0])
				KT_TRY(warn(k,
					    "data is under it, and it cannot be escrowed: who deletes it where it is "
					    "deletes the data",
					    err));
			else if (!has_escrow(k))
				KT_TRY(warn(k, "data is under it, and no escrow of it is known", err));
		}
		KT_TRY(warn_of_cryptoperiod(k, o, err));
		KT_TRY(warn_of_pending(k, err));
	}
	return KT_OK;
}

/* --- The view ----------------------------------------------------------------------------------------------------- */

/* Of a key that stays where it is a run knows the place alone. The query part of a pkcs11: URI is how a node gets
 * there. */
static bool same_place(const cJSON *a, const cJSON *b)
{
	const char *x = kt_ledger_text(a, "uri"), *y = kt_ledger_text(b, "uri");
	bool token = strncmp(x, "pkcs11:", 7) == 0;
	size_t n = token ? strcspn(x, "?") : strlen(x);
	return n == (token ? strcspn(y, "?") : strlen(y)) && strncmp(x, y, n) == 0;
}

/* The ledger's key that runs tell of: by its id; a key that came from elsewhere by its check value, or its place. */
static cJSON *find_told(cJSON *keys, const cJSON *told)
{
	cJSON *found = kt_ledger_element(keys, "id", kt_ledger_text(told, "id"));
	bool outside = !kt_ledger_member(told, "run"), by_kcv = kt_ledger_text(told, "kcv")[0] != '\0';
	for (cJSON *k = keys->child; k && !found && outside; k = k->next)
		if (kt_ledger_is(k, "kind", "cluster") &&
		    (by_kcv ? kt_ledger_is(k, "kcv", kt_ledger_text(told, "kcv")) : same_place(k, told)))
			found = k;
	return found;
}

static kt_code append_all(cJSON *to, const char *array, const cJSON *from, kt_err *err)
{
	for (const cJSON *e = from ? from->child : NULL; e; e = e->next)
		KT_TRY(append(to, array, cJSON_Duplicate(e, true), KT_OK, err));
	return KT_OK;
}

/* What the ledger says of an escrow's file is newer: it was wrapped anew, or removed. */
static kt_code join_escrows(cJSON *to, const cJSON *from, kt_err *err)
{
	for (const cJSON *e = kt_ledger_member(from, "escrows")->child; e; e = e->next)
		if (!kt_ledger_element(kt_ledger_member(to, "escrows"), "path", kt_ledger_text(e, "path")))
			KT_TRY(append(to, "escrows", cJSON_Duplicate(e, true), KT_OK, err));
	return KT_OK;
}

/* Backups, and what a rollback kept, of which a person has said that they are gone, need no key. */
static kt_code join_needs(cJSON *to, const cJSON *from, kt_err *err)
{
	const cJSON *needs = kt_ledger_member(from, "dependants");
	for (const cJSON *n = needs ? needs->child : NULL; n; n = n->next) {
		bool open = kt_ledger_is(n, "kind", "run");
		if (open || !kt_ledger_element(kt_ledger_member(to, "released"), "run", kt_ledger_text(n, "run")))
			KT_TRY(append(to, "dependants", cJSON_Duplicate(n, true), KT_OK, err));
	}
	return KT_OK;
}

static kt_code join_one(cJSON *keys, const cJSON *told, kt_err *err)
{
	static const char *const names[] = {"run", "proof"};
	cJSON *key = find_told(keys, told);
	const kt_ledger_new as = kt_view_describe(told);
	if (!key)
		KT_TRY(kt_ledger_add_key(keys, &as, &key, err));
	KT_TRY(append_all(key, "history", kt_ledger_member(told, "history"), err));
	KT_TRY(join_escrows(key, told, err));
	KT_TRY(join_needs(key, told, err));
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (kt_ledger_member(told, names[i]) && !kt_ledger_member(key, names[i]))
			KT_TRY(kt_json_add(key, names[i], cJSON_Duplicate(kt_ledger_member(told, names[i]), true),
					   err));
	return KT_OK;
}

static kt_code make(cJSON *keys, const cJSON *told, const kt_view_options *o, kt_err *err)
{
	for (const cJSON *t = told ? told->child : NULL; t; t = t->next)
		KT_TRY(join_one(keys, t, err));
	for (const cJSON *k = keys->child; k; k = k->next)
		KT_TRY(each_escrow(keys, k, find_opener, err));
	for (cJSON *k = keys->child; k; k = k->next) {
		KT_TRY(sort_history(k, err));
		KT_TRY(set_state(k, err));
	}
	for (const cJSON *k = keys->child; k; k = k->next)
		if (kt_view_state(k) != KT_KEY_DESTROYED)
			KT_TRY(each_escrow(keys, k, need_opener, err));
	return finish(keys, o, err);
}

kt_code kt_ledger_view(const kt_ledger *l, const cJSON *told, const kt_view_options *o, cJSON **out, kt_err *err)
{
	*out = cJSON_Duplicate(kt_ledger_member(l->root, "keys"), true);
	kt_code rc = *out ? make(*out, told, o, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc != KT_OK) {
		cJSON_Delete(*out);
		*out = NULL;
	}
	return rc;
}

const cJSON *kt_view_find(const cJSON *keys, const char *id, const char *kind, const char *kcv)
{
	const cJSON *found = kt_ledger_element(keys, "id", id);
	for (const cJSON *k = keys ? keys->child : NULL; !found && k && kcv[0]; k = k->next)
		if (kt_ledger_is(k, "kcv", kcv) && kt_ledger_is(k, "kind", kind))
			found = k;
	return found;
}

const cJSON *kt_view_carried(const cJSON *keys, const char *kcv)
{
	const cJSON *cluster = kt_view_find(keys, "", "cluster", kcv);
	return cluster ? cluster : kt_view_find(keys, "", "backup", kcv);
}

kt_key_state kt_view_state(const cJSON *key)
{
	return state_of(key);
}

/* The state that people gave the newest wrapping key of this label; false when the ledger knows none. */
static bool newest_of_label(const kt_ledger *l, const char *label, kt_key_state *out)
{
	double newest = -1;
	for (const cJSON *k = kt_ledger_member(l->root, "keys")->child; k; k = k->next) {
		const cJSON *last = listen(k, false).last;
		if (!kt_ledger_is(k, "kind", "wrapping") || !kt_ledger_is(k, "label", label) || time_of(last) < newest)
			continue;
		newest = time_of(last);
		*out = state_of(last);
	}
	return newest >= 0;
}

kt_code kt_ledger_may_wrap(const kt_ledger *l, const char *label, kt_err *err)
{
	kt_key_state s = KT_KEY_PRE_ACTIVE;
	if (!newest_of_label(l, label, &s) || s <= KT_KEY_ACTIVE)
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED,
		       "make another one (`keyturn key generate --wrapping`) and name it in hsm.escrow_key",
		       "the escrow key \"%s\" is %s in the ledger: nothing new is wrapped under it", label,
		       kt_key_state_name(s));
}

kt_ledger_new kt_view_describe(const cJSON *key)
{
	const cJSON *days = kt_ledger_member(key, "cryptoperiod_days");
	return (kt_ledger_new){.id = kt_ledger_text(key, "id"),
			       .label = kt_ledger_text(key, "label"),
			       .uri = kt_ledger_text(key, "uri"),
			       .kind = kt_ledger_text(key, "kind"),
			       .kcv = kt_ledger_text(key, "kcv"),
			       .cryptoperiod_days = cJSON_IsNumber(days) ? (int64_t)days->valuedouble : 0};
}

int kt_view_need(const cJSON *need, char *out, size_t size)
{
	const char *what = kt_ledger_text(need, "what"), *node = kt_ledger_text(need, "node"),
		   *run = kt_ledger_text(need, "run");
	if (kt_ledger_is(need, "kind", "data") || kt_ledger_is(need, "kind", "kept"))
		return snprintf(out, size, "%s", what);
	if (kt_ledger_is(need, "kind", "run"))
		return snprintf(out, size, "run %s, which is not over", run);
	return snprintf(out, size, "%s %s%s%s%s%s", kt_ledger_text(need, "kind"), what, node[0] ? " on " : "", node,
			run[0] ? " of run " : "", run);
}

kt_code kt_view_unneeded(const cJSON *key, kt_err *err)
{
	char text[KT_ERR_MSG - 200];
	size_t n = 0;
	int count = 0;
	const cJSON *needs = kt_ledger_member(key, "dependants");
	text[0] = '\0';
	for (const cJSON *d = needs->child; d; d = d->next, count++) {
		if (count < NAMED && n < sizeof text)
			n += (size_t)snprintf(text + n, sizeof text - n, "%s", count ? "; " : "");
		if (count < NAMED && n < sizeof text)
			n += (size_t)kt_view_need(d, text + n, sizeof text - n);
	}
	if (!count)
		return KT_OK;
	return kt_fail(
		err, KT_E_REFUSED,
		"data: turn the key first. Backups that are gone for good: --gone RUN says so. Escrows: wrap them "
		"anew (keyturn key rewrap)",
		"the key is needed (%d): %s%s", count, text, count > NAMED ? "; …" : "");
}

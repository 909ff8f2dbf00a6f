/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The safety rules of a playbook (docs/DESIGN.md, S1..S7): what no playbook may leave out or put elsewhere. Each rule
 * is a function; the table at the end runs them in order. A playbook is data that anybody may write: what is refused
 * here can never be started.
 */
#include <stdio.h>
#include <string.h>

#include "base/keyuri.h"
#include "orchestrator/inventory/template.h"
#include "orchestrator/playbook/internal.h"

enum { WHERE_TEXT = 256 };

static const cJSON *member(const cJSON *obj, const char *name)
{
	return obj ? cJSON_GetObjectItemCaseSensitive(obj, name) : NULL;
}

static const char *text(const cJSON *obj, const char *name)
{
	const cJSON *v = member(obj, name);
	return cJSON_IsString(v) ? v->valuestring : "";
}

static bool does(const kt_step_view *s, const char *verb)
{
	return strcmp(s->verb->name, verb) == 0;
}

static bool on(const kt_step_view *s, const char *targets)
{
	return strcmp(s->on, targets) == 0;
}

/* Runs on the node that rekeys, among others perhaps. */
static bool on_rekey(const kt_step_view *s)
{
	return on(s, "all") || on(s, "rekey");
}

/* A file key must be there, but only where the new key is one; everything else has to be there always. */
static bool always(const kt_step_view *s)
{
	return member(s->json, "when") == NULL;
}

/* Is obj[name] the string "${step.field}"? */
static bool is_ref(const cJSON *obj, const char *name, const char *step, const char *field)
{
	char want[2 * KT_TEMPLATE_NAME];
	(void)snprintf(want, sizeof want, "${%s.%s}", step, field);
	return strcmp(text(obj, name), want) == 0;
}

/* The first step from `from` on, before `end`, with this verb on these targets and without `when`; `end` when none. */
static size_t find(const kt_playbook_view *v, size_t from, size_t end, const char *verb, const char *targets)
{
	size_t i = from;
	while (i < end && !(does(&v->steps[i], verb) && on(&v->steps[i], targets) && always(&v->steps[i])))
		i++;
	return i;
}

/* Is the step there whenever the new key's keystore is of this kind? */
static bool serves(const kt_step_view *s, const char *kind)
{
	const cJSON *when = member(s->json, "when");
	const cJSON *to = member(when, "to");
	return !member(when, "from") && (!to || kt_playbook_names_kind(to, kind));
}

/* As find(), for one kind of keystore of the new key. */
static size_t find_for(const kt_playbook_view *v, size_t from, size_t end, const char *verb, const char *targets,
		       const char *kind)
{
	size_t i = from;
	while (i < end && !(does(&v->steps[i], verb) && on(&v->steps[i], targets) && serves(&v->steps[i], kind)))
		i++;
	return i;
}

/* A fault of the playbook as a whole. */
static kt_code lacks(const kt_playbook_view *v, kt_err *err, const char *remedy, const char *what)
{
	return kt_json_doc_fail(&v->p->doc, "$.steps", err, remedy, "%s", what);
}

/* --- S1: one rekey, once
 * ------------------------------------------------------------------------------------------------ */

static kt_code rekey_is_one(kt_playbook_view *v, kt_err *err)
{
	for (size_t i = 0; i < v->n; i++) {
		const kt_step_view *s = &v->steps[i];
		if (s->once && v->rekey != SIZE_MAX)
			return kt_playbook_fault(v, i, ".once", err, NULL,
						 "S1: a second step is \"once\": a run rekeys once");
		if (s->once)
			v->rekey = i;
		if (s->once && s->phase != KT_PHASE_REKEY)
			return kt_playbook_fault(v, i, ".phase", err, NULL,
						 "S1: the step that is \"once\" belongs to phase rekey");
		if (!s->once && s->phase == KT_PHASE_REKEY)
			return kt_playbook_fault(v, i, ".phase", err, "mark the rekey with \"once\": true",
						 "S1: phase rekey has one step only, the one that is \"once\"");
		if (!s->once && s->verb->once)
			return kt_playbook_fault(v, i, ".do", err, "use `command` for what may be repeated",
						 "S1: %s is for the rekey alone", s->verb->name);
		if (!s->once && member(s->json, "probe"))
			return kt_playbook_fault(v, i, ".probe", err, NULL, "S1: only the rekey step has a probe");
	}
	return v->rekey == SIZE_MAX ? lacks(v, err, "one step of phase rekey has \"once\": true",
					    "S1: no step is \"once\": there is no rekey")
				    : KT_OK;
}

/* A `retry` of it only asks for the outcome again while its node is out of reach: the engine never sends it twice. */
static kt_code rekey_is_guarded(kt_playbook_view *v, kt_err *err)
{
	size_t i = v->rekey;
	const kt_step_view *s = &v->steps[i];
	if (!does(s, "exec"))
		return kt_playbook_fault(
			v, i, ".do", err, NULL,
			"S1: the rekey is done with exec, which outlives the connection and never repeats");
	if (!on(s, "rekey"))
		return kt_playbook_fault(v, i, ".on", err, NULL, "S1: the rekey runs on one node: \"on\":\"rekey\"");
	if (!always(s))
		return kt_playbook_fault(v, i, ".when", err, NULL, "S1: the rekey is not conditional");
	if (strcmp(text(member(s->json, "probe"), "do"), "probe") != 0)
		return kt_playbook_fault(
			v, i, "", err, NULL,
			"S1: the rekey needs a \"probe\" (verb probe), which tells the key that opens the data");
	return KT_OK;
}

/* --- S2: nobody is live
 * ------------------------------------------------------------------------------------------------- */

static kt_code gate_is_whole(const kt_playbook_view *v, size_t i, kt_err *err)
{
	const kt_step_view *s = &v->steps[i];
	if (!cJSON_IsTrue(member(member(s->json, "retry"), "together")))
		return kt_playbook_fault(v, i, "", err, "\"retry\": {…, \"together\": true}",
					 "S2: all nodes must be quiet in the same round");
	if (strcmp(text(s->with, "known_nodes"), "${nodes}") != 0)
		return kt_playbook_fault(v, i, ".with.known_nodes", err, NULL,
					 "S2: must be \"${nodes}\", so that an unknown node is seen");
	return KT_OK;
}

static kt_code nodes_are_stopped(kt_playbook_view *v, kt_err *err)
{
	size_t stop = find(v, 0, v->rekey, "service.stop", "all");
	if (stop == v->rekey)
		return lacks(v, err, NULL, "S2: no service.stop on all before the rekey");
	size_t last = stop;
	for (size_t i = stop; i < v->rekey; i++) {
		if (does(&v->steps[i], "service.start"))
			return kt_playbook_fault(v, i, ".do", err, NULL,
						 "S2: nothing starts between the stop and the rekey");
		if (does(&v->steps[i], "service.stop"))
			last = i;
	}
	size_t gate = find(v, last, v->rekey, "gate.check", "all");
	if (gate == v->rekey || v->steps[gate].phase != KT_PHASE_QUIET)
		return lacks(v, err, NULL, "S2: no gate.check on all in phase quiet, after the stop");
	KT_TRY(gate_is_whole(v, gate, err));
	size_t before = v->rekey - 1; /* there is a gate before it at least */
	if (find(v, before, v->rekey, "gate.check", "all") != before)
		return kt_playbook_fault(v, v->rekey, "", err, NULL,
					 "S2: the step directly before the rekey must be gate.check on all");
	if (before == gate)
		return kt_playbook_fault(v, v->rekey, "", err, NULL,
					 "S2: a second gate.check on all must stand before the rekey");
	return gate_is_whole(v, before, err);
}

/* --- S3: backup and escrow
 * ----------------------------------------------------------------------------------------------- */

static bool uses_backup(const cJSON *with, const char *step)
{
	return is_ref(with, "archive", step, "archive") && is_ref(with, "sha256", step, "sha256");
}

/* Is it always done, and on every node that the other is done on? */
static bool covers(const kt_step_view *s, const kt_step_view *other)
{
	return always(s) && (on(s, "all") || strcmp(s->on, other->on) == 0);
}

/* What is encrypted can be opened again: it is proved that its key is the one that was escrowed and recovered. */
static kt_code backup_key_is_kept(const kt_playbook_view *v, size_t b, kt_err *err)
{
	const kt_step_view *s = &v->steps[b];
	size_t k = find(v, 0, b, "backup.key", "once");
	size_t w = k;
	while (w < b && !(does(&v->steps[w], "backup.wrap") && covers(&v->steps[w], s)))
		w++;
	if (w == b || !cJSON_IsTrue(member(member(v->steps[k].json, "expect"), "recovered")))
		return kt_playbook_fault(
			v, b, ".with.blob", err, NULL,
			"S3: before it come backup.key, which must \"expect\" {\"recovered\": true}, and "
			"backup.wrap for the same nodes");
	const char *name = v->steps[w].name;
	if (!is_ref(s->with, "blob", name, "blob") || !is_ref(member(s->json, "expect"), "proof", name, "expect"))
		return kt_playbook_fault(v, b, ".with.blob", err, NULL,
					 "S3: the backup's key is \"${%s.blob}\", and it must \"expect\" {\"proof\": "
					 "\"${%s.expect}\"}",
					 name, name);
	return KT_OK;
}

/* What opens the backup later is what it was made with; or none is encrypted. */
static kt_code same_backup_key(const kt_playbook_view *v, size_t b, size_t c, kt_err *err)
{
	const char *made = text(v->steps[b].with, "blob");
	const cJSON *undo = member(member(v->steps[v->rekey].json, "undo"), "with");
	if (strcmp(made, text(v->steps[c].with, "blob")) != 0 || strcmp(made, text(undo, "blob")) != 0)
		return kt_playbook_fault(
			v, b, ".with", err, NULL,
			"S3: backup, test restore and the rekey's \"undo\" must have the same \"blob\", "
			"or none");
	return made[0] ? backup_key_is_kept(v, b, err) : KT_OK;
}

static kt_code backup_is_tested(kt_playbook_view *v, kt_err *err)
{
	size_t gate = find(v, 0, v->rekey, "gate.check", "all");
	size_t b = gate;
	while (b < v->rekey && !(does(&v->steps[b], "backup.create") && on_rekey(&v->steps[b]) && always(&v->steps[b])))
		b++;
	if (b == v->rekey)
		return lacks(v, err, NULL, "S3: no backup.create on the rekey node between the gate and the rekey");
	size_t c = b + 1;
	while (c < v->rekey && !(does(&v->steps[c], "backup.check") && on_rekey(&v->steps[c]) && always(&v->steps[c]) &&
				 uses_backup(v->steps[c].with, v->steps[b].name)))
		c++;
	if (c == v->rekey)
		return kt_playbook_fault(v, b, "", err,
					 "a later backup.check takes \"archive\" and \"sha256\" from this step",
					 "S3: this backup is never test-restored");
	const cJSON *undo = member(v->steps[v->rekey].json, "undo");
	if (strcmp(text(undo, "do"), "backup.restore") != 0 || !uses_backup(member(undo, "with"), v->steps[b].name))
		return kt_playbook_fault(v, v->rekey, undo ? ".undo" : "", err, NULL,
					 "S3: the rekey's \"undo\" must restore the backup of step \"%s\"",
					 v->steps[b].name);
	return same_backup_key(v, b, c, err);
}

static kt_code key_is_escrowed(kt_playbook_view *v, const char *kind, kt_err *err)
{
	size_t g = find_for(v, 0, v->rekey, "key.generate", "once", kind);
	if (g == v->rekey)
		return lacks(v, err, NULL, "S3: no key.generate before the rekey");
	size_t again = find_for(v, g + 1, v->n, "key.generate", "once", kind);
	if (again != v->n)
		return kt_playbook_fault(v, again, ".do", err, NULL, "S3: a run has one new key");
	size_t e = find_for(v, g + 1, v->rekey, "key.escrow", "once", kind);
	if (e == v->rekey)
		return kt_playbook_fault(v, g, "", err, "add key.escrow after it", "S3: this key is never escrowed");
	const cJSON *expect = member(v->steps[e].json, "expect");
	if (!cJSON_IsTrue(member(expect, "recovered")) || !is_ref(expect, "kcv", v->steps[g].name, "kcv"))
		return kt_playbook_fault(v, e, "", err, NULL,
					 "S3: the escrow must \"expect\" {\"recovered\": true, \"kcv\": \"${%s.kcv}\"}",
					 v->steps[g].name);
	for (size_t i = 0; i < e; i++)
		if (does(&v->steps[i], "key.wrap"))
			return kt_playbook_fault(v, i, ".do", err, NULL,
						 "S3: the key leaves the HSM before it was escrowed");
	return KT_OK;
}

/* --- S4: no node starts with a key that does not open the data
 * ------------------------------------------------------------ */

static kt_code key_is_delivered(kt_playbook_view *v, const char *kind, kt_err *err)
{
	size_t g = find_for(v, 0, v->rekey, "key.generate", "once", kind);
	size_t w = find_for(v, g, v->rekey, "key.wrap", "all", kind);
	size_t r = w;
	while (r < v->rekey && !(does(&v->steps[r], "key.receive") && cJSON_IsTrue(member(v->steps[r].with, "keep"))))
		r++;
	if (w == v->rekey || r == v->rekey)
		return lacks(v, err, NULL,
			     "S4: the new key is not delivered (key.wrap, then key.receive with \"keep\": true) before "
			     "the rekey");
	const kt_step_view *s = &v->steps[r];
	if (!on(s, "all") || !serves(s, kind))
		return kt_playbook_fault(v, r, ".on", err, NULL, "S4: every node needs the new key: \"on\":\"all\"");
	const cJSON *expect = member(s->json, "expect");
	if (!is_ref(expect, "proof", v->steps[w].name, "expect") || !is_ref(expect, "kcv", v->steps[g].name, "kcv"))
		return kt_playbook_fault(
			v, r, "", err, NULL,
			"S4: the delivery must \"expect\" {\"proof\": \"${%s.expect}\", \"kcv\": \"${%s.kcv}\"}",
			v->steps[w].name, v->steps[g].name);
	return KT_OK;
}

/* Where the new key is a file, it must be there before the rekey. */
static kt_code file_is_installed(kt_playbook_view *v, const char *kind, kt_err *err)
{
	if (strcmp(kind, kt_keyuri_name(KT_KEYURI_FILE)) != 0 ||
	    find_for(v, 0, v->rekey, "key.install", "all", kind) != v->rekey)
		return KT_OK;
	return lacks(v, err, "\"when\": {\"to\": \"file\"} may limit it", "S4: no key.install on all before the rekey");
}

static bool sets_destination(const kt_step_view *s)
{
	const cJSON *sets = member(member(member(s->with, "command"), "env"), "$set");
	for (const cJSON *n = cJSON_IsArray(sets) ? sets->child : NULL; n; n = n->next)
		if (cJSON_IsString(n) && strcmp(n->valuestring, "to.destination") == 0)
			return true;
	return false;
}

/* It takes a throw-away key and keeps nothing. */
static bool is_rehearsal(const kt_step_view *s)
{
	return does(s, "key.receive") && cJSON_IsFalse(member(s->with, "keep"));
}

/* A key that stays in a token or a service is there before the run: nothing of it can be made, escrowed or delivered.
 * What is left of the rehearsal and of the proof of possession: each node has used it, and it was the same key. */
static kt_code key_is_tried_where_it_is(kt_playbook_view *v, const char *kind, kt_err *err)
{
	static const char *const never[] = {"key.generate", "key.escrow", "key.wrap", "key.receive", "key.install"};
	for (size_t i = 0; i < v->n; i++)
		for (size_t k = 0; k < sizeof never / sizeof never[0]; k++)
			if (does(&v->steps[i], never[k]) && serves(&v->steps[i], kind) && !is_rehearsal(&v->steps[i]))
				return kt_playbook_fault(
					v, i, ".do", err, "\"when\": {\"to\": [\"file\", \"env\"]} limits it",
					"S3: %s cannot serve a new key in %s:, which never leaves it", never[k], kind);
	size_t stop = find(v, 0, v->rekey, "service.stop", "all");
	size_t tried = 0;
	while (tried < stop &&
	       (find_for(v, tried, tried + 1, "command", "all", kind) != tried || !sets_destination(&v->steps[tried])))
		tried++;
	for (size_t i = tried; i < stop; i++)
		if (find_for(v, i, i + 1, "drift.check", "once", kind) == i &&
		    strcmp(text(v->steps[i].with, "of"), v->steps[tried].name) == 0)
			return KT_OK;
	char what[WHERE_TEXT];
	(void)snprintf(what, sizeof what,
		       "S4: nodes do not prove before the stop that they can use a new key in %s:", kind);
	return lacks(v, err, "a `command` on all that gets the set \"to.destination\", and a drift.check of it", what);
}

/* For every kind of keystore that the playbook knows. */
static kt_code new_key_is_safe(kt_playbook_view *v, kt_err *err)
{
	for (const cJSON *k = member(v->p->doc.root, "keystores")->child; k; k = k->next) {
		kt_keyuri_kind kind;
		if (!kt_keyuri_named(k->string, &kind))
			return kt_fail(err, KT_E_INTERNAL, NULL, "the schema let \"%.20s\" pass", k->string);
		if (kt_keyuri_none(kind)) /* never where a turn goes to */
			continue;
		if (kt_keyuri_stays(kind)) {
			KT_TRY(key_is_tried_where_it_is(v, k->string, err));
			continue;
		}
		KT_TRY(key_is_escrowed(v, k->string, err));
		KT_TRY(key_is_delivered(v, k->string, err));
		KT_TRY(file_is_installed(v, k->string, err));
	}
	return KT_OK;
}

static kt_code env_comes_before_start(kt_playbook_view *v, kt_err *err)
{
	size_t e = find(v, v->rekey, v->n, "env.install", "all");
	for (size_t i = v->rekey + 1; i < e; i++)
		if (does(&v->steps[i], "service.start"))
			return kt_playbook_fault(v, i, ".do", err, NULL,
						 "S4: a node starts before it has the new variables");
	if (e == v->n)
		return lacks(v, err, NULL, "S4: no env.install on all after the rekey");
	for (size_t i = 0; i < v->rekey; i++)
		if (does(&v->steps[i], "env.install"))
			return kt_playbook_fault(v, i, ".do", err, NULL,
						 "S4: new variables before the rekey would start a node "
						 "with a key that does not open the data");
	return KT_OK;
}

/* A log.check with null for a path looks at nothing; what is no more than a variable may be null. */
static kt_code log_is_looked_at(const kt_playbook_view *v, size_t i, kt_err *err)
{
	const char *path = text(v->steps[i].with, "path");
	size_t n = strlen(path);
	bool may_be_null = !n || (strncmp(path, "${", 2) == 0 && strcspn(path, "}") == n - 1);
	if (!does(&v->steps[i], "log.check") || !may_be_null)
		return KT_OK;
	return kt_playbook_fault(v, i, ".with.path", err, "write a path, ${dir}/log/….log for instance",
				 "S4: this verifies the node, so that there must be a log to look at");
}

static kt_code canary_goes_first(kt_playbook_view *v, kt_err *err)
{
	size_t canary = find(v, v->rekey, v->n, "service.start", "canary");
	const kt_step_view *commit = &v->steps[v->commit];
	for (size_t i = v->rekey; i < v->commit; i++)
		if (does(&v->steps[i], "service.start") && !on(&v->steps[i], "canary"))
			return kt_playbook_fault(v, i, ".on", err, NULL,
						 "S4: before the commit only the canary may start");
	if (canary >= v->commit)
		return kt_playbook_fault(v, v->commit, "", err, NULL,
					 "S4: the canary is not started before the commit");
	if (!on(commit, "canary") || !(does(commit, "command") || does(commit, "log.check")) || !always(commit))
		return kt_playbook_fault(
			v, v->commit, "", err, NULL,
			"S4: the commit is the step that verifies the canary: command or log.check on it");
	KT_TRY(log_is_looked_at(v, v->commit, err));
	size_t rest = find(v, v->commit, v->n, "service.start", "rest");
	if (rest == v->n)
		return lacks(v, err, NULL, "S4: the rest is never started (service.start on rest after the commit)");
	size_t looked = find(v, rest, v->n, "log.check", "rest");
	if (find(v, rest, v->n, "command", "rest") != v->n)
		return KT_OK;
	if (looked == v->n)
		return kt_playbook_fault(v, rest, "", err, NULL, "S4: the rest is never verified after this start");
	return log_is_looked_at(v, looked, err);
}

/* --- S5: the old key stays
 * ------------------------------------------------------------------------------------------------ */

static kt_code old_key_stays(kt_playbook_view *v, kt_err *err)
{
	for (size_t i = 0; i < v->n; i++) {
		const kt_step_view *s = &v->steps[i];
		if (does(s, "file.remove"))
			return kt_playbook_fault(v, i, ".do", err, "remove old keys later, when no backup needs them",
						 "S5: a turn removes no file");
		if (does(s, "key.forget") && (i < v->commit || member(s->with, "path")))
			return kt_playbook_fault(
				v, i, ".do", err, NULL,
				"S5: key.forget is for the way back, or after the commit without \"path\"");
		if (does(s, "key.install") && strcmp(text(s->with, "path"), "${to.path}") != 0)
			return kt_playbook_fault(v, i, ".with.path", err, NULL,
						 "S5: must be \"${to.path}\", which is never where the old key is");
		const cJSON *undo = member(s->json, "undo");
		const cJSON *path = member(member(undo, "with"), "path");
		if (strcmp(text(undo, "do"), "key.forget") == 0 && path &&
		    strcmp(text(member(undo, "with"), "path"), "${to.path}") != 0)
			return kt_playbook_fault(v, i, ".undo.with.path", err, NULL, "S5: must be \"${to.path}\"");
	}
	return KT_OK;
}

/* --- S6: keys only where nobody else can see them
 * ---------------------------------------------------------------------------- */

static bool may_hold_key(const char *where)
{
	static const char *const places[] = {".with.key",   ".with.secrets",    ".command.env.",
					     ".check.env.", ".heartbeats.env.", ".with.set."};
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
		if (strstr(where, places[i]))
			return true;
	return false;
}

static kt_code look_for_keys(const kt_playbook_view *v, size_t i, const cJSON *value, const char *where, kt_err *err)
{
	bool object = cJSON_IsObject(value);
	if (object && member(value, "key")) {
		const char *which = text(value, "key");
		if (strcmp(which, "from") != 0 && strcmp(which, "to") != 0)
			return kt_playbook_fault(v, i, where, err, NULL, "S6: \"key\" must be \"from\" or \"to\"");
		if (!may_hold_key(where))
			return kt_playbook_fault(v, i, where, err,
						 "put it into \"env\", \"set\", \"secrets\" or \"key\"",
						 "S6: no key may stand here");
		return KT_OK;
	}
	size_t n = 0;
	for (const cJSON *c = value->child; c; c = c->next, n++) {
		char inner[WHERE_TEXT];
		if (object)
			(void)snprintf(inner, sizeof inner, "%s.%s", where, c->string);
		else
			(void)snprintf(inner, sizeof inner, "%s[%zu]", where, n);
		KT_TRY(look_for_keys(v, i, c, inner, err));
	}
	return KT_OK;
}

static kt_code keys_are_hidden(kt_playbook_view *v, kt_err *err)
{
	static const char *const roles[] = {"undo", "probe"};
	for (size_t i = 0; i < v->n; i++) {
		/* A member named `key` of a `with` is an argument (preflight), not a key reference itself. */
		for (const cJSON *a = v->steps[i].with->child; a; a = a->next) {
			char where[WHERE_TEXT];
			(void)snprintf(where, sizeof where, ".with.%s", a->string);
			KT_TRY(look_for_keys(v, i, a, where, err));
		}
		for (size_t r = 0; r < 2; r++) {
			const cJSON *with = member(member(v->steps[i].json, roles[r]), "with");
			for (const cJSON *a = with ? with->child : NULL; a; a = a->next) {
				char where[WHERE_TEXT];
				(void)snprintf(where, sizeof where, ".%s.with.%s", roles[r], a->string);
				KT_TRY(look_for_keys(v, i, a, where, err));
			}
		}
	}
	return KT_OK;
}

/* --- S7: a way back, until the commit by itself, after it when a person asks for it
 * ------------------------------------------------------------------------------------------ */

static kt_code commit_is_one(kt_playbook_view *v, kt_err *err)
{
	for (size_t i = 0; i < v->n; i++) {
		if (!v->steps[i].commit)
			continue;
		if (v->commit != SIZE_MAX)
			return kt_playbook_fault(v, i, ".commit", err, NULL, "S7: a second step is the commit");
		if (i <= v->rekey)
			return kt_playbook_fault(v, i, ".commit", err, NULL,
						 "S7: the commit cannot come before the rekey is done");
		v->commit = i;
	}
	return v->commit == SIZE_MAX ? lacks(v, err, "mark the step that verifies the canary with \"commit\": true",
					     "S7: no step is the commit")
				     : KT_OK;
}

/* A rehearsal keeps nothing, so that there is nothing to take back. */
static bool needs_undo(const kt_step_view *s)
{
	return s->verb->undo && !is_rehearsal(s);
}

static kt_code changes_have_undo(kt_playbook_view *v, kt_err *err)
{
	for (size_t i = 0; i < v->n; i++) {
		const kt_step_view *s = &v->steps[i];
		if (!needs_undo(s))
			continue;
		const cJSON *undo = member(s->json, "undo");
		if (!undo || strcmp(text(undo, "do"), s->verb->undo) != 0)
			return kt_playbook_fault(v, i, undo ? ".undo.do" : "", err, NULL,
						 "S7: %s needs an \"undo\" with %s", s->verb->name, s->verb->undo);
		if (s->phase == KT_PHASE_PREFLIGHT || s->phase == KT_PHASE_APPROVE)
			return kt_playbook_fault(v, i, ".do", err, NULL, "S7: phase %s changes nothing",
						 kt_phase_name(s->phase));
	}
	return KT_OK;
}

/* What is taken back must be what was done. */
static kt_code undo_fits(kt_playbook_view *v, kt_err *err)
{
	static const struct {
		const char *verb, *member;
	} same[] = {{"service.stop", "service"}, {"service.start", "service"}, {"key.receive", "slot"},
		    {"key.install", "slot"},     {"key.install", "path"},      {"key.forget", "slot"},
		    {"env.install", "path"},     {"env.install", "keep"}};
	for (size_t i = 0; i < v->n; i++) {
		const cJSON *with = member(member(v->steps[i].json, "undo"), "with");
		for (size_t k = 0; with && k < sizeof same / sizeof same[0]; k++) {
			if (!does(&v->steps[i], same[k].verb))
				continue;
			const cJSON *done = member(v->steps[i].with, same[k].member);
			const cJSON *back = member(with, same[k].member);
			if (!back || !cJSON_Compare(done, back, 1))
				return kt_playbook_fault(v, i, ".undo.with", err, NULL,
							 "S7: \"%s\" must be the same as what is taken back",
							 same[k].member);
		}
	}
	return KT_OK;
}

kt_code kt_playbook_check_safety(kt_playbook_view *v, kt_err *err)
{
	static kt_code (*const rules[])(kt_playbook_view *, kt_err *) = {
		rekey_is_one,    rekey_is_guarded, nodes_are_stopped,      backup_is_tested,
		new_key_is_safe, commit_is_one,    env_comes_before_start, canary_goes_first,
		old_key_stays,   keys_are_hidden,  changes_have_undo,      undo_fits,
	};
	for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
		KT_TRY(rules[i](v, err));
	return KT_OK;
}

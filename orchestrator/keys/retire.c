/* SPDX-License-Identifier: Apache-2.0 */
/* Keys that protect nothing more, and keys that go for good (S5: never while something needs them). */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "orchestrator/keys/internal.h"

/* The key, in the ledger: one that only its token knows is looked up there and entered. */
static kt_code identify(kt_keys *k, const char *key, kt_place *p, char id[KT_LEDGER_ID], kt_err *err)
{
	kt_found f;
	cJSON *entry = NULL;
	KT_TRY(kt_place_of(k, key, p, err));
	if (p->known) {
		(void)snprintf(id, KT_LEDGER_ID, "%s", kt_ledger_text(p->known, "id"));
		return KT_OK;
	}
	if (p->file)
		return kt_fail(err, KT_E_KEY, "`keyturn key list` has the keys",
			       "the ledger does not know the key file %s", p->path);
	kt_code rc = kt_find(k, p, &f, err);
	if (rc == KT_OK)
		rc = kt_found_entry(k, &f, &entry, err);
	if (rc == KT_OK)
		rc = kt_keys_save(k, err);
	kt_found_close(&f);
	KT_TRY(rc);
	(void)snprintf(id, KT_LEDGER_ID, "%s", kt_ledger_text(entry, "id"));
	return KT_OK;
}

static const cJSON *view_of(const kt_keys *k, const char *id)
{
	return kt_view_find(k->view, id, "", "");
}

/* --- deactivate --------------------------------------------------------------------------------------------------- */

/* Does a run say that data is under it? What runs say no person takes back. */
static bool runs_need(const cJSON *known)
{
	for (const cJSON *e = kt_ledger_member(known, "history")->child; e; e = e->next)
		if (kt_ledger_member(e, "run"))
			return cJSON_IsTrue(kt_ledger_member(known, "on_data"));
	return false;
}

static kt_code compromise(const cJSON *known, cJSON *entry, const char *why, kt_err *err)
{
	int64_t now = kt_clock_wall_ms();
	KT_TRY(kt_ledger_may(kt_ledger_text(known, "id"), kt_view_state(known), KT_KEY_COMPROMISED, err));
	if (kt_view_state(known) == KT_KEY_ACTIVE && !runs_need(known))
		KT_TRY(kt_ledger_moved(entry, KT_KEY_DEACTIVATED, now, why, err));
	return kt_ledger_moved(entry, KT_KEY_COMPROMISED, now, why, err);
}

static kt_code deactivate(const cJSON *known, cJSON *entry, const char *why, kt_err *err)
{
	KT_TRY(kt_ledger_may(kt_ledger_text(known, "id"), kt_view_state(known), KT_KEY_DEACTIVATED, err));
	if (runs_need(known))
		return kt_fail(
			err, KT_E_REFUSED,
			"turn the key (keyturn run): the run deactivates the old one. --compromised only marks it",
			"the data is under %s", kt_ledger_text(known, "label"));
	return kt_ledger_moved(entry, KT_KEY_DEACTIVATED, kt_clock_wall_ms(), why, err);
}

kt_code kt_keys_deactivate(kt_keys *k, const kt_keys_end *what, cJSON *result, kt_err *err)
{
	kt_place p;
	char id[KT_LEDGER_ID];
	cJSON *entry;
	const char *why = what->why ? what->why : what->compromised ? "compromised" : "deactivated";
	KT_TRY(identify(k, what->key, &p, id, err));
	KT_TRY(kt_keys_entry(k, view_of(k, id), &entry, err));
	KT_TRY(what->compromised ? compromise(view_of(k, id), entry, why, err)
				 : deactivate(view_of(k, id), entry, why, err));
	KT_TRY(kt_keys_save(k, err));
	return kt_keys_tell(k, id, result, err);
}

/* --- May it be destroyed? ----------------------------------------------------------------------------------------- */

static bool is_pending(const cJSON *known)
{
	return kt_ledger_is(kt_ledger_member(known, "pending"), "what", "destroy");
}

/* A person's word that what a run left is gone. */
static kt_code release(kt_keys *k, const char *id, const char *run, kt_err *err)
{
	cJSON *entry;
	const cJSON *known = view_of(k, id);
	if (!run || kt_ledger_element(kt_ledger_member(known, "released"), "run", run))
		return KT_OK;
	if (!kt_ledger_element(kt_ledger_member(known, "dependants"), "run", run))
		return kt_fail(err, KT_E_REFUSED, "`keyturn key show` names what depends on the key, with its run",
			       "no run %s left anything that needs this key", run);
	KT_TRY(kt_keys_entry(k, known, &entry, err));
	KT_TRY(kt_ledger_release(entry, run, kt_clock_wall_ms(), err));
	return kt_keys_save(k, err);
}

/* A key of which a wrapped copy is left is not destroyed. */
static kt_code no_copies(const cJSON *known, bool with_escrows, kt_err *err)
{
	char text[KT_ERR_MSG - 200];
	size_t n = 0, count = 0;
	text[0] = '\0';
	for (const cJSON *e = kt_ledger_member(known, "escrows")->child; e; e = e->next) {
		if (cJSON_IsTrue(kt_ledger_member(e, "gone")))
			continue;
		if (n < sizeof text)
			n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", count ? ", " : "",
					      kt_ledger_text(e, "path"));
		count++;
	}
	if (!count || with_escrows)
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED,
		       "--with-escrows removes them, too; copies that were taken elsewhere are yours to remove",
		       "the key could be recovered from its escrows (%zu): %s", count, text);
}

static kt_code check_destroy(kt_keys *k, const kt_keys_end *what, kt_place *p, char id[KT_LEDGER_ID], kt_err *err)
{
	KT_TRY(identify(k, what->key, p, id, err));
	KT_TRY(release(k, id, what->gone, err));
	const cJSON *known = view_of(k, id);
	KT_TRY(kt_view_unneeded(known, err));
	if (kt_view_state(known) == KT_KEY_ACTIVE || !is_pending(known))
		KT_TRY(kt_ledger_may(id, kt_view_state(known), KT_KEY_DESTROYED, err));
	return no_copies(known, what->with_escrows, err);
}

kt_code kt_keys_may_destroy(kt_keys *k, const kt_keys_end *what, kt_buf *question, kt_err *err)
{
	kt_place p;
	char id[KT_LEDGER_ID];
	KT_TRY(check_destroy(k, what, &p, id, err));
	const cJSON *known = view_of(k, id);
	const char *label = kt_ledger_text(known, "label");
	if (what->lost)
		return kt_buf_printf(
			question, err,
			"Record that the key %s was lost with its token, and that nobody can bring it back?", id);
	if (kt_keys_elsewhere(known))
		return kt_buf_printf(question, err,
				     "The key %s (%s) was not made by keyturn. Have you removed every copy of it?", id,
				     kt_ledger_text(known, "uri"));
	return kt_buf_printf(question, err, "Destroy the key %s%s%s%s for good%s?", label[0] ? label : "",
			     label[0] ? " (" : "", id, label[0] ? ")" : "",
			     what->with_escrows ? ", and its escrows" : "");
}

/* --- destroy ------------------------------------------------------------------------------------------------------ */

/* `again`: an earlier attempt may have come as far as this. */
static kt_code destroy_object(const kt_keys *k, const kt_place *p, bool again, kt_err *err)
{
	kt_found f;
	bool was_there = false;
	kt_err why = KT_ERR_INIT;
	if (p->file) {
		KT_TRY(kt_file_remove(p->path, &was_there, err));
		return was_there || again
			       ? KT_OK
			       : kt_fail(err, KT_E_KEY, "look where it went: what is not here was not destroyed",
					 "the key file %s is not there", p->path);
	}
	kt_code rc = kt_find(k, p, &f, &why);
	bool gone = rc == KT_E_KEY && again && f.token != NULL;
	if (rc == KT_OK)
		rc = kt_token_destroy_key(f.token, &f.key, &why);
	kt_found_close(&f);
	if (rc == KT_OK || gone)
		return KT_OK;
	if (err)
		*err = why;
	return rc;
}

static kt_code remove_escrows(cJSON *entry, const cJSON *escrows, kt_err *err)
{
	for (const cJSON *e = escrows->child; e; e = e->next) {
		if (cJSON_IsTrue(kt_ledger_member(e, "gone")))
			continue;
		const kt_ledger_escrow gone = {.path = kt_ledger_text(e, "path"),
					       .custodian = kt_ledger_text(e, "custodian"),
					       .under = kt_ledger_text(e, "under"),
					       .under_kcv = kt_ledger_text(e, "under_kcv"),
					       .time_ms = kt_clock_wall_ms(),
					       .gone = true};
		KT_TRY(kt_file_remove(gone.path, NULL, err));
		KT_TRY(kt_ledger_escrowed(entry, &gone, err));
	}
	return KT_OK;
}

typedef struct how {
	bool again;         /* an earlier attempt may have come as far as the token */
	bool recorded_only; /* it is not in reach: not made by keyturn, or lost with its token */
} how;

/* The escrows go first: while the key itself is there, nothing is lost by a failure. */
static kt_code carry_out(kt_keys *k, const kt_place *p, cJSON *entry, const char *id, const how *h, kt_err *err)
{
	cJSON *escrows = cJSON_Duplicate(kt_ledger_member(view_of(k, id), "escrows"), true);
	kt_code rc = escrows ? remove_escrows(entry, escrows, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	cJSON_Delete(escrows);
	if (rc == KT_OK && !h->recorded_only)
		rc = destroy_object(k, p, h->again, err);
	return rc;
}

kt_code kt_keys_destroy(kt_keys *k, const kt_keys_end *what, cJSON *result, kt_err *err)
{
	kt_place p;
	char id[KT_LEDGER_ID];
	cJSON *entry;
	KT_TRY(check_destroy(k, what, &p, id, err));
	const how h = {.again = is_pending(view_of(k, id)),
		       .recorded_only = what->lost || kt_keys_elsewhere(view_of(k, id))};
	KT_TRY(kt_keys_entry(k, view_of(k, id), &entry, err));
	KT_TRY(kt_ledger_intend(entry, "destroy", kt_clock_wall_ms(), err));
	KT_TRY(kt_keys_save(k, err));
	KT_TRY(kt_place_of(k, what->key, &p, err)); /* the view is another one */
	KT_TRY(carry_out(k, &p, entry, id, &h, err));
	KT_TRY(kt_ledger_moved(entry, KT_KEY_DESTROYED, kt_clock_wall_ms(), what->why ? what->why : "destroyed", err));
	kt_ledger_done(entry);
	KT_TRY(kt_keys_save(k, err));
	return kt_keys_tell(k, id, result, err);
}

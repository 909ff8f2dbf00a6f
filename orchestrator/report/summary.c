/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/report/summary.h"

#include <string.h>

#include "base/keyuri.h"
#include "orchestrator/plan/plan.h"

/* The index of the first step of the plan with this verb; the number of steps when there is none. */
static size_t step_with(const cJSON *plan, const char *verb)
{
	size_t i = 0;
	const cJSON *step;
	cJSON_ArrayForEach(step, cJSON_GetObjectItemCaseSensitive(plan, "steps"))
	{
		const cJSON *v = cJSON_GetObjectItemCaseSensitive(step, "verb");
		if (cJSON_IsString(v) && strcmp(v->valuestring, verb) == 0)
			return i;
		i++;
	}
	return i;
}

/* The result of the first target of that step which has one. */
static const cJSON *first_result(const cJSON *plan, const kt_engine *e, const char *verb)
{
	size_t step = step_with(plan, verb);
	if (step >= kt_engine_steps(e))
		return NULL;
	for (size_t i = 0; i < kt_engine_targets(e, step, KT_ROLE_DO); i++) {
		kt_target_status t = kt_engine_target(e, step, KT_ROLE_DO, i);
		if (t.state == KT_TARGET_OK && t.result)
			return t.result;
	}
	return NULL;
}

static kt_code copy_str(const cJSON *from, const char *name, cJSON *into, const char *as, kt_err *err)
{
	const cJSON *v = from ? cJSON_GetObjectItemCaseSensitive(from, name) : NULL;
	return cJSON_IsString(v) ? kt_json_add_str(into, as, v->valuestring, err) : KT_OK;
}

/* The URI of the rekey node's key: "from" or "to" of the plan. */
static kt_code add_uri(const cJSON *plan, const char *which, cJSON *into, kt_err *err)
{
	const cJSON *roles = cJSON_GetObjectItemCaseSensitive(plan, "roles");
	const cJSON *node = cJSON_GetObjectItemCaseSensitive(roles, "rekey");
	const cJSON *key = cJSON_GetObjectItemCaseSensitive(plan, "key");
	const cJSON *uris = cJSON_GetObjectItemCaseSensitive(key, which);
	return cJSON_IsString(node) ? copy_str(uris, node->valuestring, into, "uri", err) : KT_OK;
}

static kt_code add_keys(const cJSON *plan, const kt_engine *e, cJSON *s, kt_err *err)
{
	cJSON *old = cJSON_AddObjectToObject(s, "old_key");
	cJSON *new = cJSON_AddObjectToObject(s, "new_key");
	if (!old || !new)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	const cJSON *made = first_result(plan, e, "key.generate");
	KT_TRY(copy_str(first_result(plan, e, "preflight"), "kcv", old, "kcv", err));
	KT_TRY(add_uri(plan, "from", old, err));
	KT_TRY(copy_str(made, "kcv", new, "kcv", err));
	KT_TRY(copy_str(made, "id", new, "id", err));
	KT_TRY(copy_str(made, "label", new, "label", err));
	KT_TRY(add_uri(plan, "to", new, err));
	const cJSON *escrow = first_result(plan, e, "key.escrow");
	const cJSON *custodians = cJSON_GetObjectItemCaseSensitive(escrow, "custodians");
	if (custodians && custodians->child)
		KT_TRY(kt_json_add(s, "custodians", cJSON_Duplicate(custodians, 1), err));
	return copy_str(escrow, "path", s, "escrow", err);
}

static kt_code add_backup(const kt_target_status *t, cJSON *list, kt_err *err)
{
	cJSON *b = cJSON_CreateObject();
	if (!b || !cJSON_AddItemToArray(list, b)) {
		cJSON_Delete(b);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	KT_TRY(kt_json_add_str(b, "node", t->node, err));
	KT_TRY(copy_str(t->result, "archive", b, "archive", err));
	KT_TRY(copy_str(t->result, "sha256", b, "sha256", err));
	static const char *const others[] = {"files", "bytes", "archive_bytes", "encrypted"};
	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
		const cJSON *value = cJSON_GetObjectItemCaseSensitive(t->result, others[i]);
		if (value)
			KT_TRY(kt_json_add(b, others[i], cJSON_Duplicate(value, true), err));
	}
	return KT_OK;
}

static kt_code add_backups(const cJSON *plan, const kt_engine *e, cJSON *s, kt_err *err)
{
	size_t step = step_with(plan, "backup.create");
	cJSON *list = cJSON_AddArrayToObject(s, "backups");
	if (!list)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	for (size_t i = 0; step < kt_engine_steps(e) && i < kt_engine_targets(e, step, KT_ROLE_DO); i++) {
		kt_target_status t = kt_engine_target(e, step, KT_ROLE_DO, i);
		if (t.state == KT_TARGET_OK && t.result)
			KT_TRY(add_backup(&t, list, err));
	}
	return KT_OK;
}

static kt_code add_reason(const kt_engine_status *st, cJSON *s, kt_err *err)
{
	if (st->failed_step)
		KT_TRY(kt_json_add_str(s, "failed_step", st->failed_step, err));
	if (st->failed_node)
		KT_TRY(kt_json_add_str(s, "failed_node", st->failed_node, err));
	if (!st->reason || st->reason->code == KT_OK)
		return KT_OK;
	KT_TRY(kt_json_add_str(s, "class", kt_code_name(st->reason->code), err));
	KT_TRY(kt_json_add_str(s, "reason", st->reason->msg, err));
	return kt_json_add_str(s, "remedy", st->reason->remedy[0] ? st->reason->remedy : kt_summary_remedy(st->state),
			       err);
}

static kt_code fill(const cJSON *plan, const kt_engine *e, cJSON *s, kt_err *err)
{
	char digest[KT_SHA256_HEX];
	kt_engine_status st = kt_engine_state(e);
	KT_TRY(copy_str(plan, "run", s, "run", err));
	KT_TRY(copy_str(plan, "cluster", s, "cluster", err));
	KT_TRY(kt_json_add_str(s, "state", kt_run_state_name(st.state), err));
	KT_TRY(kt_plan_digest(plan, digest, err));
	KT_TRY(kt_json_add_str(s, "digest", digest, err));
	KT_TRY(kt_json_add_bool(s, "committed", st.committed, err));
	KT_TRY(add_reason(&st, s, err));
	KT_TRY(add_keys(plan, e, s, err));
	return add_backups(plan, e, s, err);
}

const char *kt_summary_remedy(kt_run_state state)
{
	switch (state) {
	case KT_RUN_ROLLED_BACK:
		return "the application is up as it was before; `keyturn run` begins anew, once what is named is "
		       "repaired";
	case KT_RUN_REFUSED:
		return "`keyturn run` begins anew, once what is named is repaired";
	case KT_RUN_HELD:
		return "repair what is named, then `keyturn resume` goes on from here";
	default:
		return "";
	}
}

kt_code kt_summary_make(const cJSON *plan, const kt_engine *engine, cJSON **out, kt_err *err)
{
	cJSON *s = cJSON_CreateObject();
	if (!s)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = fill(plan, engine, s, err);
	if (rc != KT_OK)
		cJSON_Delete(s);
	else
		*out = s;
	return rc;
}

/* --- for people --------------------------------------------------------------------------------------------------- */

static const char *text(const cJSON *o, const char *name)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
	return cJSON_IsString(v) ? v->valuestring : NULL;
}

static bool is_legacy(const cJSON *key)
{
	kt_keyuri_kind kind;
	const char *uri = text(key, "uri"), *rest;
	return uri && kt_keyuri_kind_of(uri, &kind, &rest) && kt_keyuri_none(kind);
}

static const char *state_sentence(const cJSON *s)
{
	const char *state = text(s, "state");
	static const struct {
		const char *state, *sentence;
	} table[] = {
		{"turned", "TURNED: all data opens with the new key"},
		{"rolled-back", "ROLLED BACK: all data opens with the old key"},
		{"refused", "REFUSED: nothing was changed"},
		{"held", "HELD: a person must look; `keyturn resume` goes on"},
	};
	if (strcmp(state, "rolled-back") == 0 && is_legacy(cJSON_GetObjectItemCaseSensitive(s, "old_key")))
		return "ROLLED BACK: all data is in the legacy form, as it was";
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
		if (strcmp(table[i].state, state) == 0)
			return table[i].sentence;
	return "UNFINISHED: `keyturn resume` goes on";
}

/* A key that stays where it is has no check value that anybody here could know. */
static kt_code print_key(const char *what, const cJSON *key, kt_buf *out, kt_err *err)
{
	kt_keyuri_kind kind;
	const char *kcv = text(key, "kcv"), *uri = text(key, "uri");
	if (is_legacy(key))
		return kt_buf_printf(out, err, "  %-9s none: the data was in the legacy form\n", what);
	if (!kcv && !(uri && kt_keyuri_kind_of(uri, &kind, &uri) && kt_keyuri_stays(kind)))
		return KT_OK;
	KT_TRY(kt_buf_printf(out, err, "  %-9s %s%s", what, kcv ? "KCV " : "stays where it is", kcv ? kcv : ""));
	if (text(key, "id"))
		KT_TRY(kt_buf_printf(out, err, "  id %s", text(key, "id")));
	if (text(key, "uri"))
		KT_TRY(kt_buf_printf(out, err, "  %s", text(key, "uri")));
	return kt_buf_str(out, "\n", err);
}

kt_code kt_summary_print(const cJSON *s, kt_buf *out, kt_err *err)
{
	const cJSON *b;
	KT_TRY(kt_buf_printf(out, err, "Run %s of %s: %s\n", text(s, "run"), text(s, "cluster"), state_sentence(s)));
	if (text(s, "reason"))
		KT_TRY(kt_buf_printf(out, err, "  why       %s%s%s%s%s: %s\n", text(s, "failed_step") ? "step " : "",
				     text(s, "failed_step") ? text(s, "failed_step") : "",
				     text(s, "failed_node") ? " on " : "",
				     text(s, "failed_node") ? text(s, "failed_node") : "", "", text(s, "reason")));
	if (text(s, "remedy") && text(s, "remedy")[0])
		KT_TRY(kt_buf_printf(out, err, "  remedy    %s\n", text(s, "remedy")));
	KT_TRY(print_key("old key", cJSON_GetObjectItemCaseSensitive(s, "old_key"), out, err));
	KT_TRY(print_key("new key", cJSON_GetObjectItemCaseSensitive(s, "new_key"), out, err));
	if (text(s, "escrow"))
		KT_TRY(kt_buf_printf(out, err, "  escrow    %s\n", text(s, "escrow")));
	cJSON_ArrayForEach(b, cJSON_GetObjectItemCaseSensitive(s, "custodians"))
		KT_TRY(kt_buf_printf(out, err, "  custodian %s: %s\n", text(b, "name"), text(b, "path")));
	cJSON_ArrayForEach(b, cJSON_GetObjectItemCaseSensitive(s, "backups"))
		KT_TRY(kt_buf_printf(out, err, "  backup    %s:%s\n", text(b, "node"), text(b, "archive")));
	return kt_buf_printf(out, err, "  digest    %s\n", text(s, "digest"));
}

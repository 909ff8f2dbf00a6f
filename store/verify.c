/* SPDX-License-Identifier: Apache-2.0 */
#include "store/verify.h"

#include <stdio.h>
#include <string.h>

#include "store/args.h"
#include "store/item.h"

typedef struct walk {
	const kt_session *s; /* what opens the items */
	bool content;
	kt_buf plain, expect;
	kt_progress *progress;
	kt_verify_report *report;
} walk;

static void note(kt_verify_report *r, const char *name, kt_code code, const char *message)
{
	r->failed++;
	if (r->worst != KT_E_KEY)
		r->worst = code == KT_E_KEY ? KT_E_KEY : KT_E_INPUT;
	if (r->n_first == KT_VERIFY_FIRST)
		return;
	(void)snprintf(r->first[r->n_first].name, sizeof r->first[0].name, "%s", name);
	(void)snprintf(r->first[r->n_first].message, sizeof r->first[0].message, "%s", message);
	r->n_first++;
}

/* Is the content of a filled item what it must be? KT_OK with *same, or a failure of ours. */
static kt_code compare(walk *w, const char *name, bool *same, kt_err *err)
{
	*same = true;
	if (!w->content || strncmp(name, KT_ITEM_FILL_PREFIX, sizeof KT_ITEM_FILL_PREFIX - 1) != 0)
		return KT_OK;
	kt_buf_clear(&w->expect);
	KT_TRY(kt_item_filler(name, w->plain.len, &w->expect, err));
	*same = w->plain.len == 0 || memcmp(w->plain.data, w->expect.data, w->plain.len) == 0;
	w->report->compared++;
	return KT_OK;
}

static kt_code see(void *arg, const char *name, const void *envelope, size_t len, const char *bad, kt_err *err)
{
	walk *w = arg;
	kt_err why = KT_ERR_INIT;
	w->report->items++;
	kt_progress_step(w->progress);
	if (bad) {
		note(w->report, name, KT_E_INPUT, bad);
		return KT_OK;
	}
	kt_buf_clear(&w->plain);
	kt_code rc = kt_session_open_item(w->s, name, envelope, len, &w->plain, &why);
	if (rc == KT_E_INTERNAL)
		return kt_fail(err, rc, why.remedy, "%s", why.msg);
	bool same = true;
	if (rc == KT_OK)
		KT_TRY(compare(w, name, &same, err));
	if (rc == KT_OK && same)
		w->report->opened++;
	else
		note(w->report, name, rc, rc == KT_OK ? "it opens, but its content is not what `fill` wrote" : why.msg);
	return KT_OK;
}

static kt_code verify_with(const kt_session *s, kt_db_span *span, bool content, kt_progress *progress,
			   kt_verify_report *report, kt_err *err)
{
	*report = (kt_verify_report){0};
	walk w = {.s = s, .content = content, .progress = progress, .report = report};
	kt_code rc = kt_db_item_each(s->db, span, see, &w, err);
	kt_buf_free(&w.plain);
	kt_buf_free(&w.expect);
	return rc;
}

kt_code kt_verify_items(kt_db *db, kt_db_span *span, kt_envelope_ctx *ctx, bool content, kt_progress *progress,
			kt_verify_report *report, kt_err *err)
{
	const kt_session s = {.db = db, .ctx = ctx};
	return verify_with(&s, span, content, progress, report, err);
}

kt_code kt_verify_judge(const kt_verify_report *r, kt_err *err)
{
	if (r->failed == 0)
		return KT_OK;
	char names[512] = "";
	for (size_t i = 0; i < r->n_first && i < 3; i++) {
		size_t n = strlen(names);
		(void)snprintf(names + n, sizeof names - n, "%s\"%.60s\" (%.90s)", i ? ", " : "", r->first[i].name,
			       r->first[i].message);
	}
	return kt_fail(err, r->worst, "restore these items from a backup that opens with this key",
		       "%lld of %lld items do not open: %s%s", (long long)r->failed, (long long)r->items, names,
		       r->failed > 3 ? ", ..." : "");
}

static kt_code add_failures(cJSON *o, const kt_verify_report *r, kt_err *err)
{
	cJSON *list = cJSON_CreateArray();
	KT_TRY(kt_json_add(o, "failures", list, err));
	for (size_t i = 0; i < r->n_first; i++) {
		cJSON *f = cJSON_CreateObject();
		if (!f || !cJSON_AddItemToArray(list, f))
			return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
		KT_TRY(kt_json_add_str(f, "name", r->first[i].name, err));
		KT_TRY(kt_json_add_str(f, "message", r->first[i].message, err));
	}
	return KT_OK;
}

static kt_code add_kek(cJSON *o, const kt_kek_info *kek, kt_err *err)
{
	cJSON *k = cJSON_CreateObject();
	KT_TRY(kt_json_add(o, "kek", k, err));
	KT_TRY(kt_json_add_str(k, "id", kek->id, err));
	KT_TRY(kt_json_add_int(k, "generation", kek->generation, err));
	KT_TRY(kt_json_add_str(k, "kcv", kek->kcv, err));
	return kt_json_add_str(k, "cmk_kcv", kek->cmk_kcv, err);
}

static kt_code fill_json(cJSON *o, const kt_verify_report *r, const kt_session *s, kt_err *err)
{
	if (!o)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	KT_TRY(kt_json_add_int(o, "items", r->items, err));
	KT_TRY(kt_json_add_int(o, "opened", r->opened, err));
	KT_TRY(kt_json_add_int(o, "failed", r->failed, err));
	KT_TRY(kt_json_add_int(o, "compared", r->compared, err));
	KT_TRY(s->ctx ? add_kek(o, &s->kek, err) : kt_json_add(o, "kek", cJSON_CreateNull(), err));
	return add_failures(o, r, err);
}

static kt_code print_opened(const kt_verify_report *r, const kt_session *s, kt_err *err)
{
	const kt_kek_info *kek = &s->kek;
	if (!s->ctx)
		return kt_store_print(
			err, "%lld of %lld items open in the legacy form (AES-128-CBC), without a master key\n",
			(long long)r->opened, (long long)r->items);
	return kt_store_print(
		err, "%lld of %lld items open with the master key KCV %s (KEK %s, generation %u, KCV %s)\n",
		(long long)r->opened, (long long)r->items, kek->cmk_kcv, kek->id, kek->generation, kek->kcv);
}

static kt_code print(const kt_store_args *args, const kt_verify_report *r, const kt_session *s, kt_err *err)
{
	if (!args->json) {
		KT_TRY(print_opened(r, s, err));
		return args->content ? kt_store_print(err, "%lld of them have the content that fill wrote\n",
						      (long long)r->compared)
				     : KT_OK;
	}
	cJSON *o = cJSON_CreateObject();
	kt_code rc = fill_json(o, r, s, err);
	if (rc == KT_OK)
		return kt_store_print_json(o, err);
	cJSON_Delete(o);
	return rc;
}

static kt_code verify_in_transaction(kt_session *s, bool content, kt_verify_report *r, kt_err *err)
{
	KT_TRY(kt_db_begin(s->db, false, err));
	kt_code rc = kt_session_check_epoch(s, err);
	if (rc == KT_OK)
		rc = verify_with(s, NULL, content, NULL, r, err);
	kt_db_rollback(s->db);
	return rc;
}

kt_code kt_verb_verify(const kt_store_args *args, const kt_store_config *cfg, int *exit_code, kt_err *err)
{
	kt_session s;
	kt_verify_report report;
	kt_err judged = KT_ERR_INIT;
	kt_code rc = kt_session_open(&s, cfg, KT_DB_LOOK, err);
	if (rc == KT_OK)
		rc = verify_in_transaction(&s, args->content, &report, err);
	if (rc == KT_OK)
		rc = print(args, &report, &s, err);
	kt_session_close(&s);
	if (rc != KT_OK)
		return rc;
	/* The report was printed; with --json it holds the failures, and nothing else follows it on stdout. */
	kt_code verdict = kt_verify_judge(&report, &judged);
	*exit_code = (int)verdict;
	if (verdict != KT_OK)
		(void)fprintf(stderr, "%s\n  what to do: %s\n", judged.msg, judged.remedy);
	return KT_OK;
}

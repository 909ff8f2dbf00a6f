/* SPDX-License-Identifier: Apache-2.0 */
/* The deep probe as a whole: asks the tables of questions, and tells what came out. */
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

#include "pkcs11/probe_internal.h"

void kt_probe_add(kt_probe *p, const kt_probe_row *row, const char *seen)
{
	kt_probe_report *r = p->report;
	if (r->n == KT_PROBE_ROWS)
		return;
	r->row[r->n] = *row;
	(void)snprintf(r->row[r->n++].seen, KT_PROBE_SEEN, "%s", seen);
}

static void ask(kt_probe *p, const kt_probe_question *q)
{
	char seen[KT_PROBE_SEEN] = "not tried";
	kt_probe_answer answer = q->ask(p, seen);
	kt_probe_row row = {.role = q->role,
			    .what = q->what,
			    .expected = q->expected,
			    .mark = answer == KT_PROBE_GOOD  ? KT_PROBE_OK
				    : answer == KT_PROBE_BAD ? q->mark
							     : KT_PROBE_NOT_TRIED,
			    .words = answer == KT_PROBE_BAD    ? q->bad
				     : answer == KT_PROBE_GOOD ? q->good
							       : ""};
	(void)snprintf(row.id, sizeof row.id, "%s%s%s", q->id, q->each ? "." : "",
		       q->each ? p->now->mechanism->name : "");
	kt_probe_add(p, &row, seen);
}

void kt_probe_ask(kt_probe *p, const kt_probe_question *questions)
{
	for (const kt_probe_question *q = questions; q->id; q++) {
		if (!q->each)
			ask(p, q);
		for (p->now = p->found; q->each && p->now < p->found + p->n_found; p->now++)
			ask(p, q);
	}
}

/* A wrapping key and a target whose values are known, where the token shows values; else sensitive ones. */
static CK_RV make_keys(kt_probe *p)
{
	kt_probe_key kek = {.readable = true, .wraps = true, .macs = true};
	kt_probe_key target = {.readable = true, .macs = true};
	CK_RV rv = kt_probe_generate(p, &kek, &p->kek);
	if (rv == CKR_OK)
		rv = kt_probe_generate(p, &target, &p->target);
	p->readable = rv == CKR_OK && kt_probe_value(p, p->kek, p->kek_value, 32) == 32 &&
		      kt_probe_value(p, p->target, p->target_value, 32) == 32;
	if (p->readable)
		return CKR_OK;
	kek.readable = target.readable = false;
	rv = kt_probe_generate(p, &kek, &p->kek);
	return rv == CKR_OK ? kt_probe_generate(p, &target, &p->target) : rv;
}

static void as_coordinator(kt_probe *p)
{
	char seen[KT_PROBE_SEEN];
	CK_RV rv = make_keys(p);
	kt_probe_row row = {.id = "keys",
			    .what = "AES-256 keys for a session",
			    .expected = "made",
			    .mark = rv == CKR_OK ? KT_PROBE_OK : KT_PROBE_UNFIT,
			    .words = rv == CKR_OK ? "" : "it makes no AES-256 keys as keyturn needs them"};
	(void)snprintf(seen, sizeof seen, rv == CKR_OK ? "made%s" : "no: C_GenerateKey gave %s",
		       rv == CKR_OK ? (p->readable ? "" : "; their values are never shown") : kt_p11_rv_name(rv));
	kt_probe_add(p, &row, seen);
	if (rv != CKR_OK)
		return;
	kt_probe_ask(p, kt_probe_mac);
	kt_probe_mechanisms(p);
	kt_probe_ask(p, kt_probe_wrapping);
	kt_probe_ask(p, kt_probe_policy);
	kt_probe_ask(p, kt_probe_lengths);
	kt_probe_ask(p, kt_probe_sessions);
}

kt_code kt_token_probe(kt_token *t, const kt_probe_options *options, kt_probe_report *out, kt_err *err)
{
	kt_probe p = {.t = t, .report = out};
	*out = (kt_probe_report){.token = t->info};
	KT_TRY(kt_token_check(t, err));
	as_coordinator(&p);
	kt_code rc = kt_probe_node(&p, options, err);
	kt_probe_destroy_all(&p);
	OPENSSL_cleanse(p.kek_value, sizeof p.kek_value);
	OPENSSL_cleanse(p.target_value, sizeof p.target_value);
	return rc == KT_OK ? kt_token_check(t, err) : rc;
}

/* --- telling ------------------------------------------------------------------------------------------------------ */

const char *kt_probe_mark_name(kt_probe_mark mark)
{
	static const char *const names[] = {"ok", "not tried", "warning", "unfit"};
	return names[mark];
}

kt_probe_mark kt_probe_verdict(const kt_probe_report *r, kt_probe_role role)
{
	kt_probe_mark worst = KT_PROBE_OK;
	for (size_t i = 0; i < r->n; i++)
		if (r->row[i].role == role && r->row[i].mark > worst)
			worst = r->row[i].mark;
	return worst;
}

void kt_probe_verdict_words(const kt_probe_report *r, kt_probe_role role, char out[KT_PROBE_BECAUSE])
{
	kt_probe_mark worst = kt_probe_verdict(r, role);
	size_t n = 0;
	if (worst != KT_PROBE_UNFIT) {
		(void)snprintf(out, KT_PROBE_BECAUSE, "%s",
			       worst == KT_PROBE_WARNING     ? "fit with warnings"
			       : worst == KT_PROBE_NOT_TRIED ? "fit, as far as it was tried"
							     : "fit");
		return;
	}
	n = (size_t)snprintf(out, KT_PROBE_BECAUSE, "unfit because ");
	size_t head = n;
	for (size_t i = 0; i < r->n && n < KT_PROBE_BECAUSE; i++)
		if (r->row[i].role == role && r->row[i].mark == KT_PROBE_UNFIT)
			n += (size_t)snprintf(out + n, KT_PROBE_BECAUSE - n, "%s%s", n > head ? "; " : "",
					      r->row[i].words);
}

static kt_code add_object(cJSON *list, cJSON **out, kt_err *err)
{
	*out = cJSON_CreateObject();
	if (*out && cJSON_AddItemToArray(list, *out))
		return KT_OK;
	cJSON_Delete(*out);
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static kt_code mechanism_json(const kt_p11_mechanism *m, cJSON *list, kt_err *err)
{
	char number[24];
	cJSON *o;
	KT_TRY(add_object(list, &o, err));
	(void)snprintf(number, sizeof number, "0x%lx", m->type);
	KT_TRY(kt_json_add_str(o, "format", kt_blob_format_name(m->format), err));
	KT_TRY(kt_json_add_str(o, "mechanism", m->name, err));
	KT_TRY(kt_json_add_str(o, "number", number, err));
	KT_TRY(kt_json_add_str(o, "maker", kt_p11_maker_name(m->maker), err));
	KT_TRY(kt_json_add_bool(o, "tested", m->tested, err));
	return kt_json_add_str(o, "note", m->note, err);
}

kt_code kt_mechanisms_to_json(cJSON **out, kt_err *err)
{
	kt_code rc = KT_OK;
	*out = cJSON_CreateArray();
	if (!*out)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	for (const kt_p11_mechanism *m = kt_p11_mechanisms(); rc == KT_OK && m->name; m++)
		rc = mechanism_json(m, *out, err);
	if (rc == KT_OK)
		return KT_OK;
	cJSON_Delete(*out);
	*out = NULL;
	return rc;
}

static kt_code row_json(const kt_probe_row *row, cJSON *list, kt_err *err)
{
	cJSON *o;
	KT_TRY(add_object(list, &o, err));
	KT_TRY(kt_json_add_str(o, "id", row->id, err));
	KT_TRY(kt_json_add_str(o, "role", row->role == KT_PROBE_NODE ? "node" : "coordinator", err));
	KT_TRY(kt_json_add_str(o, "what", row->what, err));
	KT_TRY(kt_json_add_str(o, "expected", row->expected, err));
	KT_TRY(kt_json_add_str(o, "seen", row->seen, err));
	KT_TRY(kt_json_add_str(o, "verdict", kt_probe_mark_name(row->mark), err));
	return kt_json_add_str(o, "meaning", row->words, err);
}

static kt_code verdict_json(const kt_probe_report *r, kt_probe_role role, const char *name, cJSON *o, kt_err *err)
{
	char words[KT_PROBE_BECAUSE];
	cJSON *v = cJSON_CreateObject();
	kt_probe_verdict_words(r, role, words);
	KT_TRY(kt_json_add(o, name, v, err));
	KT_TRY(kt_json_add_bool(v, "fit", kt_probe_verdict(r, role) != KT_PROBE_UNFIT, err));
	return kt_json_add_str(v, "verdict", words, err);
}

static kt_code fill(const kt_probe_report *r, const char *date, cJSON *o, kt_err *err)
{
	KT_TRY(kt_json_add_str(o, "format", "keyturn-probe/1", err));
	KT_TRY(kt_json_add_str(o, "date", date, err));
	KT_TRY(kt_json_add_str(o, "keyturn", KT_VERSION, err));
	cJSON *token = cJSON_CreateObject();
	KT_TRY(kt_json_add(o, "token", token, err));
	KT_TRY(kt_token_info_json(&r->token, token, err));
	KT_TRY(verdict_json(r, KT_PROBE_COORDINATOR, "coordinator", o, err));
	KT_TRY(verdict_json(r, KT_PROBE_NODE, "node", o, err));
	cJSON *rows = cJSON_CreateArray();
	KT_TRY(kt_json_add(o, "rows", rows, err));
	for (size_t i = 0; i < r->n; i++)
		KT_TRY(row_json(&r->row[i], rows, err));
	return KT_OK;
}

kt_code kt_probe_to_json(const kt_probe_report *r, const char *date, cJSON **out, kt_err *err)
{
	cJSON *o = cJSON_CreateObject();
	kt_code rc = fill(r, date, o, err);
	*out = rc == KT_OK ? o : NULL;
	if (rc != KT_OK)
		cJSON_Delete(o);
	return rc;
}

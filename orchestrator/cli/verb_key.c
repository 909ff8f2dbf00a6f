/* SPDX-License-Identifier: Apache-2.0 */
/* key generate, list, show, wrap, unwrap, escrow, recover, rewrap, verify, deactivate, destroy: the words. What they do
 * is in orchestrator/keys. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "keystore/keystore.h"
#include "orchestrator/cli/backups.h"
#include "orchestrator/cli/context.h"
#include "orchestrator/cli/guard.h"
#include "orchestrator/keys/keys.h"
#include "pkcs11/owner.h"

/* What one verb has in its hands. */
typedef struct key_verb {
	kt_cli *cli;
	kt_ctx *ctx;
	kt_keys *keys;
	cJSON *result;
} key_verb;

typedef kt_code key_act(key_verb *v, kt_err *err);

static kt_code need_args(const kt_cli *cli, int least, kt_err *err)
{
	char remedy[96];
	(void)snprintf(remedy, sizeof remedy, "see `keyturn %s --help`", cli->verb->name);
	if (cli->args >= least)
		return KT_OK;
	return kt_fail(err, KT_E_USAGE, remedy, "keyturn %s needs %s", cli->verb->name, cli->verb->args);
}

/* The cluster and its keys, the verb, and all of it closed again. */
static kt_code with_keys(kt_cli *cli, kt_keys_mode mode, int least, key_act *act, kt_err *err)
{
	kt_ctx c = {0};
	key_verb v = {.cli = cli, .ctx = &c, .result = cJSON_CreateObject()};
	kt_code rc = v.result ? need_args(cli, least, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = kt_ctx_load(&c, cli, err);
	if (rc == KT_OK)
		rc = kt_cli_guard(cli, KT_OWNER_CALL_MS, err);
	if (rc == KT_OK)
		rc = kt_keys_open(&c.cluster, mode, &v.keys, err);
	if (rc == KT_OK)
		rc = act(&v, err);
	kt_keys_close(v.keys);
	kt_ctx_close(&c);
	cJSON_Delete(v.result);
	return rc;
}

static const char *text(const cJSON *o, const char *name)
{
	return kt_ledger_text(o, name);
}

/* What was done: the object, or a sentence and what comes next. */
static kt_code done(key_verb *v, const char *did, const char *next, kt_err *err)
{
	cJSON *result = v->result;
	if (v->cli->json) {
		v->result = NULL;
		return kt_cli_print_json(v->cli, result, err);
	}
	const char *label = text(result, text(result, "label")[0] ? "label" : "path");
	const char *kcv = text(result, "kcv");
	(void)fprintf(v->cli->out, "%s %s%s%s%s%s%s%s%s\n", did, label[0] ? label : text(result, "uri"),
		      text(result, "id")[0] ? ", id " : "", text(result, "id"), kcv[0] ? " (check value " : "", kcv,
		      kcv[0] ? ")" : "", next[0] ? ". Next: " : "", next);
	return KT_OK;
}

/* --- generate ----------------------------------------------------------------------------------------------------- */

static kt_code days_of(const kt_cli *cli, int64_t *out, kt_err *err)
{
	const char *value = kt_cli_get(cli, "cryptoperiod");
	char *end = NULL;
	long n = value ? strtol(value, &end, 10) : 0;
	*out = n;
	if (!value || (end != value && !*end && n >= 1 && n <= 36500))
		return KT_OK;
	return kt_fail(err, KT_E_USAGE, NULL, "--cryptoperiod takes a number of days from 1 to 36500, not \"%.20s\"",
		       value);
}

static kt_code generate(key_verb *v, kt_err *err)
{
	kt_keys_generate what = {.key = v->cli->arg[0],
				 .wrapping = kt_cli_has(v->cli, "wrapping"),
				 .activate = kt_cli_has(v->cli, "activate")};
	KT_TRY(days_of(v->cli, &what.cryptoperiod_days, err));
	KT_TRY(kt_keys_make(v->keys, &what, v->result, err));
	return done(v, what.wrapping ? "Generated the wrapping key" : "Generated the key",
		    what.wrapping || strncmp(v->cli->arg[0], "pkcs11:", 7) != 0 ? "" : "keyturn key escrow", err);
}

/* It needs no cluster: custodians run it on their own machine. */
static kt_code generate_custodian(kt_cli *cli, kt_err *err)
{
	kt_buf pem = KT_BUF_INIT;
	cJSON *result = cJSON_CreateObject();
	const char *output = kt_cli_get(cli, "output");
	const kt_file_attr attr = {0644, (uid_t)KT_KEEP, (gid_t)KT_KEEP};
	kt_code rc = need_args(cli, 1, err);
	if (rc == KT_OK)
		rc = kt_cli_guard(cli, KT_OWNER_CALL_MS, err);
	if (rc == KT_OK)
		rc = kt_keys_make_custodian(cli->arg[0], &pem, result, err);
	if (rc == KT_OK && output)
		rc = kt_file_replace(output, pem.data, pem.len, &attr, err);
	if (rc == KT_OK && cli->json) {
		rc = kt_cli_print_json(cli, result, err);
		result = NULL;
	} else if (rc == KT_OK && !output) {
		(void)fputs(kt_buf_cstr(&pem), cli->out);
	} else if (rc == KT_OK) {
		(void)fprintf(cli->out, "Generated the custodian's key %s; its public half is in %s (sha256 %s)\n",
			      text(result, "label"), output, text(result, "spki_sha256"));
	}
	cJSON_Delete(result);
	kt_buf_free(&pem);
	return rc;
}

kt_code kt_verb_key_generate(kt_cli *cli, kt_err *err)
{
	if (kt_cli_has(cli, "custodian"))
		return generate_custodian(cli, err);
	return with_keys(cli, KT_KEYS_CHANGE, 1, generate, err);
}

/* --- policy ------------------------------------------------------------------------------------------------------- */

/* It needs no cluster: it says what a cluster will need. */
kt_code kt_verb_key_policy(kt_cli *cli, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = kt_keystore_awskms_policy(cli->args ? cli->arg[0] : NULL, kt_cli_has(cli, "create"), &text, err);
	if (rc == KT_OK)
		(void)fputs(kt_buf_cstr(&text), cli->out);
	kt_buf_free(&text);
	return rc;
}

/* --- list, show --------------------------------------------------------------------------------------------------- */

static void print_key(const kt_cli *cli, const cJSON *key)
{
	const char *label = text(key, "label"), *uri = text(key, "uri");
	(void)fprintf(cli->out, "%-12s %-8s %-6s %-36s %s\n", text(key, "state"), text(key, "kind"), text(key, "kcv"),
		      text(key, "id"), label[0] ? label : uri);
	for (const cJSON *w = kt_ledger_member(key, "warnings")->child; w; w = w->next)
		(void)fprintf(cli->out, "             ! %s\n", w->valuestring);
}

static kt_code list(key_verb *v, kt_err *err)
{
	const cJSON *keys = kt_keys_view(v->keys);
	for (const cJSON *key = keys->child; key; key = key->next) {
		if (v->cli->json)
			KT_TRY(kt_cli_print_json(v->cli, cJSON_Duplicate(key, true), err));
		else
			print_key(v->cli, key);
	}
	if (!keys->child && !v->cli->json)
		(void)fprintf(v->cli->out, "No key is known.\n");
	return KT_OK;
}

kt_code kt_verb_key_list(kt_cli *cli, kt_err *err)
{
	return with_keys(cli, KT_KEYS_LOOK, 0, list, err);
}

static void print_time(FILE *out, const cJSON *event)
{
	char time[KT_TIME_TEXT];
	const cJSON *ms = kt_ledger_member(event, "time_ms");
	kt_clock_format(cJSON_IsNumber(ms) ? (int64_t)ms->valuedouble : 0, time);
	(void)fprintf(out, "  %s  ", time);
}

static void print_history(FILE *out, const cJSON *key)
{
	const cJSON *history = kt_ledger_member(key, "history");
	for (const cJSON *e = history ? history->child : NULL; e; e = e->next) {
		const char *run = text(e, "run");
		print_time(out, e);
		(void)fprintf(out, "%-12s %s%s%s\n", text(e, "state"), text(e, "why"), run[0] ? ", run " : "", run);
	}
}

static void print_copies(FILE *out, const cJSON *key)
{
	const cJSON *escrows = kt_ledger_member(key, "escrows");
	for (const cJSON *e = escrows ? escrows->child : NULL; e; e = e->next) {
		const char *custodian = text(e, "custodian");
		(void)fprintf(out, "escrow     %s, %s %.64s%s\n", text(e, "path"), custodian[0] ? "custodian" : "under",
			      custodian[0] ? custodian : text(e, "under"),
			      cJSON_IsTrue(kt_ledger_member(e, "gone")) ? " (removed)" : "");
	}
}

static void print_needs(FILE *out, const cJSON *key)
{
	const cJSON *needs = kt_ledger_member(key, "dependants");
	for (const cJSON *n = needs ? needs->child : NULL; n; n = n->next) {
		char shown[512];
		(void)kt_view_need(n, shown, sizeof shown);
		(void)fprintf(out, "needed by  %s\n", shown);
	}
}

static kt_code show(key_verb *v, kt_err *err)
{
	static const char *const names[] = {"id", "label", "uri", "kind", "kcv", "state", "run"};
	FILE *out = v->cli->out;
	KT_TRY(kt_keys_show(v->keys, v->cli->arg[0], v->result, err));
	if (v->cli->json)
		return done(v, "", "", err);
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (text(v->result, names[i])[0])
			(void)fprintf(out, "%-10s %s\n", names[i], text(v->result, names[i]));
	const cJSON *token = kt_ledger_member(v->result, "token");
	if (token)
		(void)fprintf(out, "in token   %s key \"%s\", id %s, check value %s\n", text(token, "kind"),
			      text(token, "label"), text(token, "id"), text(token, "kcv"));
	print_history(out, v->result);
	print_copies(out, v->result);
	print_needs(out, v->result);
	const cJSON *warnings = kt_ledger_member(v->result, "warnings");
	for (const cJSON *w = warnings ? warnings->child : NULL; w; w = w->next)
		(void)fprintf(out, "!          %s\n", w->valuestring);
	return KT_OK;
}

kt_code kt_verb_key_show(kt_cli *cli, kt_err *err)
{
	return with_keys(cli, KT_KEYS_LOOK, 1, show, err);
}

/* --- wrap, escrow, rewrap ----------------------------------------------------------------------------------------- */

static kt_code target_of(const kt_cli *cli, const char *output, kt_keys_target *out, kt_err *err)
{
	*out = (kt_keys_target){.public_key = kt_cli_get(cli, "to"),
				.under = kt_cli_get(cli, "under"),
				.name = kt_cli_get(cli, "name"),
				.output = kt_cli_get(cli, "output")};
	if (!out->output)
		out->output = output;
	if (!out->public_key == !out->under)
		return kt_fail(err, KT_E_USAGE, NULL, "give either --to FILE (a public key) or --under LABEL");
	return out->output ? KT_OK : kt_fail(err, KT_E_USAGE, NULL, "say where it is to be written: --output FILE");
}

static kt_code wrap(key_verb *v, kt_err *err)
{
	kt_keys_target to;
	KT_TRY(target_of(v->cli, NULL, &to, err));
	KT_TRY(kt_keys_wrap(v->keys, v->cli->arg[0], &to, v->result, err));
	return done(v, "Wrapped into", "", err);
}

kt_code kt_verb_key_wrap(kt_cli *cli, kt_err *err)
{
	return with_keys(cli, KT_KEYS_CHANGE, 1, wrap, err);
}

static kt_code escrow(key_verb *v, kt_err *err)
{
	KT_TRY(kt_keys_escrow(v->keys, v->cli->arg[0], v->result, err));
	if (!v->cli->json)
		print_copies(v->cli->out, v->result);
	return done(v, "Escrowed", "", err);
}

kt_code kt_verb_key_escrow(kt_cli *cli, kt_err *err)
{
	return with_keys(cli, KT_KEYS_CHANGE, 1, escrow, err);
}

static kt_code rewrap(key_verb *v, kt_err *err)
{
	kt_keys_target to;
	KT_TRY(target_of(v->cli, v->cli->arg[0], &to, err));
	KT_TRY(kt_keys_rewrap(v->keys, v->cli->arg[0], kt_cli_get(v->cli, "custodian"), &to, v->result, err));
	return done(v, "Wrapped anew into", "", err);
}

kt_code kt_verb_key_rewrap(kt_cli *cli, kt_err *err)
{
	return with_keys(cli, KT_KEYS_CHANGE, 1, rewrap, err);
}

/* --- verify, unwrap, recover -------------------------------------------------------------------------------------- */

static void print_rows(const kt_cli *cli, const cJSON *rows)
{
	for (const cJSON *r = rows ? rows->child : NULL; r; r = r->next) {
		(void)fprintf(cli->out, "%-8s %s%s%s\n", text(r, "status"), text(r, "path"),
			      text(r, "message")[0] ? ": " : "", text(r, "message"));
		if (text(r, "remedy")[0])
			(void)fprintf(cli->out, "         → %s\n", text(r, "remedy"));
	}
}

/* What was found is told in any case: it is what the verb is for. */
static kt_code tell_rows(key_verb *v, kt_code rc, const char *did, const char *next, kt_err *err)
{
	const cJSON *rows = kt_ledger_member(v->result, "escrows");
	if (!v->cli->json)
		print_rows(v->cli, rows);
	else if (rc != KT_OK && rows && rows->child)
		KT_IGNORE(kt_cli_print_json(v->cli, cJSON_Duplicate(v->result, true), NULL));
	KT_TRY(rc);
	return v->cli->json || did[0] ? done(v, did, next, err) : KT_OK;
}

static kt_code verify(key_verb *v, kt_err *err)
{
	kt_code rc = kt_keys_verify(v->keys, v->cli->arg, (size_t)v->cli->args, kt_cli_get(v->cli, "custodian"),
				    v->result, err);
	return tell_rows(v, rc, "", "", err);
}

kt_code kt_verb_key_verify(kt_cli *cli, kt_err *err)
{
	return with_keys(cli, KT_KEYS_LOOK, 0, verify, err);
}

static kt_code restore(key_verb *v, const kt_keys_recover *what, const char *did, kt_err *err)
{
	kt_code rc = kt_keys_restore(v->keys, what, v->result, err);
	return tell_rows(v, rc, did,
			 what->plaintext ? "" : "keyturn key escrow: the escrows that are there need what was lost",
			 err);
}

static kt_code unwrap(key_verb *v, kt_err *err)
{
	const kt_keys_recover what = {.paths = v->cli->arg,
				      .n = 1,
				      .key = v->cli->arg[1],
				      .custodian = kt_cli_get(v->cli, "custodian"),
				      .plaintext = kt_cli_has(v->cli, "plaintext-file")};
	return restore(v, &what, "Unwrapped", err);
}

kt_code kt_verb_key_unwrap(kt_cli *cli, kt_err *err)
{
	return with_keys(cli, KT_KEYS_CHANGE, 2, unwrap, err);
}

static kt_code recover(key_verb *v, kt_err *err)
{
	const kt_keys_recover what = {.paths = v->cli->arg + 1,
				      .n = (size_t)v->cli->args - 1,
				      .key = v->cli->arg[0],
				      .custodian = kt_cli_get(v->cli, "custodian")};
	return restore(v, &what, "Recovered", err);
}

kt_code kt_verb_key_recover(kt_cli *cli, kt_err *err)
{
	return with_keys(cli, KT_KEYS_CHANGE, 2, recover, err);
}

/* --- deactivate, destroy ------------------------------------------------------------------------------------------ */

static kt_keys_end end_of(const kt_cli *cli)
{
	return (kt_keys_end){.key = cli->arg[0],
			     .why = kt_cli_get(cli, "reason"),
			     .gone = kt_cli_get(cli, "gone"),
			     .compromised = kt_cli_has(cli, "compromised"),
			     .with_escrows = kt_cli_has(cli, "with-escrows"),
			     .lost = kt_cli_has(cli, "lost")};
}

static kt_code deactivate(key_verb *v, kt_err *err)
{
	const kt_keys_end what = end_of(v->cli);
	KT_TRY(kt_keys_deactivate(v->keys, &what, v->result, err));
	return done(v, what.compromised ? "Marked as compromised:" : "Deactivated", "", err);
}

kt_code kt_verb_key_deactivate(kt_cli *cli, kt_err *err)
{
	return with_keys(cli, KT_KEYS_CHANGE, 1, deactivate, err);
}

/* A person's word is held against what the nodes have. */
static kt_code ask_nodes(key_verb *v, const kt_keys_end *what, kt_err *err)
{
	cJSON *shown = what->gone ? cJSON_CreateObject() : NULL;
	if (!what->gone)
		return KT_OK;
	kt_code rc = kt_keys_show(v->keys, what->key, shown, err);
	if (rc == KT_OK && kt_ledger_member(shown, "dependants"))
		rc = kt_backups_gone(v->ctx, kt_ledger_member(shown, "dependants"), what->gone, err);
	cJSON_Delete(shown);
	return rc;
}

static kt_code destroy(key_verb *v, kt_err *err)
{
	const kt_keys_end what = end_of(v->cli);
	kt_buf question = KT_BUF_INIT;
	KT_TRY(ask_nodes(v, &what, err));
	kt_code rc = kt_keys_may_destroy(v->keys, &what, &question, err);
	if (rc == KT_OK && !kt_cli_has(v->cli, "yes"))
		rc = kt_cli_confirm(kt_buf_cstr(&question),
				    "look at `keyturn key show`, then: keyturn key destroy --yes", err);
	kt_buf_free(&question);
	KT_TRY(rc);
	KT_TRY(kt_keys_destroy(v->keys, &what, v->result, err));
	return done(v, "Destroyed", "", err);
}

kt_code kt_verb_key_destroy(kt_cli *cli, kt_err *err)
{
	return with_keys(cli, KT_KEYS_CHANGE, 1, destroy, err);
}

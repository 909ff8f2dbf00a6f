/* SPDX-License-Identifier: Apache-2.0 */
/* hsm list, hsm probe, hsm mechanisms: what tokens there are, what they really do, what keyturn knows to ask for. */
#include <stdlib.h>
#include <string.h>

#include "orchestrator/cli/context.h"
#include "orchestrator/cli/guard.h"
#include "orchestrator/turn/probed.h"
#include "pkcs11/owner.h"
#include "pkcs11/probe.h"

static kt_code as_json(const kt_token_info *t, cJSON *o, kt_err *err)
{
	char flags[160];
	kt_token_flags(t, flags, sizeof flags);
	KT_TRY(kt_token_info_json(t, o, err));
	KT_TRY(kt_json_add_bool(o, "initialized", t->initialized, err));
	KT_TRY(kt_json_add_str(o, "flags", flags, err));
	return kt_json_add_str(o, "pin", kt_token_pin_state(t), err);
}

static kt_code show_json(const kt_cli *cli, const kt_token_info *t, kt_err *err)
{
	cJSON *o = cJSON_CreateObject();
	kt_code rc = as_json(t, o, err);
	if (rc == KT_OK)
		return kt_cli_print_json(cli, o, err);
	cJSON_Delete(o);
	return rc;
}

/* The PIN's state as people need it: said only where it is not as it should be. */
static const char *pin_words(const kt_token_info *t)
{
	static const struct {
		const char *state, *words;
	} said[] = {
		{"low", "; a wrong PIN was used since the last login"},
		{"last", "; ONE TRY of the PIN is left before the token locks"},
		{"locked", "; the PIN is LOCKED"},
		{"unset", "; no user PIN is set"},
	};
	for (size_t i = 0; i < sizeof said / sizeof said[0]; i++)
		if (strcmp(kt_token_pin_state(t), said[i].state) == 0)
			return said[i].words;
	return "";
}

static void show(const kt_cli *cli, const kt_token_info *t)
{
	char flags[160];
	kt_token_flags(t, flags, sizeof flags);
	(void)fprintf(cli->out, "%s%s%s  serial %s\n", t->label[0] ? "\"" : "", t->label[0] ? t->label : "(no label)",
		      t->label[0] ? "\"" : "", t->serial[0] ? t->serial : "(none)");
	(void)fprintf(cli->out, "  token    %s, %s, hardware %s, firmware %s\n", t->manufacturer, t->model, t->hardware,
		      t->firmware);
	(void)fprintf(cli->out, "  module   %s: %s %s (PKCS#11 %s)\n", t->module, t->library, t->library_version,
		      t->cryptoki);
	(void)fprintf(cli->out, "  state    %s%s%s%s\n", t->initialized ? "initialised" : "not initialised",
		      flags[0] ? ", " : "", flags, t->initialized ? pin_words(t) : "");
}

kt_code kt_verb_hsm_list(kt_cli *cli, kt_err *err)
{
	kt_token_info *tokens;
	size_t n;
	KT_TRY(kt_cli_guard(cli, KT_OWNER_CALL_MS, err));
	KT_TRY(kt_token_list(cli->args ? cli->arg[0] : NULL, &tokens, &n, err));
	kt_code rc = KT_OK;
	for (size_t i = 0; rc == KT_OK && i < n; i++) {
		if (cli->json)
			rc = show_json(cli, &tokens[i], err);
		else
			show(cli, &tokens[i]);
	}
	if (n == 0 && !cli->json)
		(void)fprintf(cli->out, "No token is there.\n");
	free(tokens);
	return rc;
}

/* --- hsm probe ---------------------------------------------------------------------------------------------------- */

enum { PROBE_CALL_MS = 120000 }; /* a TPM takes its time to make an RSA key */

static const char *member(const cJSON *o, const char *name)
{
	const char *text;
	return kt_json_opt_str(o, name, "", &text, NULL) == KT_OK ? text : "";
}

static const char *tint(const kt_cli *cli, const char *verdict)
{
	if (!cli->colour)
		return "";
	return strcmp(verdict, "unfit") == 0     ? "\033[31m"
	       : strcmp(verdict, "warning") == 0 ? "\033[33m"
	       : strcmp(verdict, "ok") == 0      ? "\033[32m"
						 : "";
}

/* What a row is about: a mechanism's name stands in its id. */
static void show_row(const kt_cli *cli, const cJSON *row)
{
	const char *verdict = member(row, "verdict"), *id = member(row, "id");
	const char *mechanism = strstr(id, ".CKM_");
	(void)fprintf(cli->out, "  %s%-9s%s %s%s%s: %s\n", tint(cli, verdict), verdict, cli->colour ? "\033[0m" : "",
		      member(row, "what"), mechanism ? ", " : "", mechanism ? mechanism + 1 : "", member(row, "seen"));
	if (member(row, "meaning")[0])
		(void)fprintf(cli->out, "            (%s) %s\n", id, member(row, "meaning"));
}

static void show_role(const kt_cli *cli, const cJSON *report, const char *role, const char *title)
{
	const cJSON *row;
	(void)fprintf(cli->out, "\n%s\n", title);
	cJSON_ArrayForEach(row, cJSON_GetObjectItemCaseSensitive(report, "rows"))
	{
		if (strcmp(member(row, "role"), role) == 0)
			show_row(cli, row);
	}
	(void)fprintf(cli->out, "  => %s\n", member(cJSON_GetObjectItemCaseSensitive(report, role), "verdict"));
}

static void show_report(const kt_cli *cli, const cJSON *report, const char *state)
{
	const cJSON *token = cJSON_GetObjectItemCaseSensitive(report, "token");
	const cJSON *module = cJSON_GetObjectItemCaseSensitive(token, "module");
	(void)fprintf(cli->out, "\"%s\"  serial %s\n  token    %s, %s, hardware %s, firmware %s\n",
		      member(token, "label"), member(token, "serial"), member(token, "manufacturer"),
		      member(token, "model"), member(token, "hardware"), member(token, "firmware"));
	(void)fprintf(cli->out, "  module   %s: %s %s\n", member(module, "path"), member(module, "library"),
		      member(module, "version"));
	show_role(cli, report, "coordinator", "As the coordinator's token");
	show_role(cli, report, "node", "As a node's token");
	if (state)
		(void)fprintf(cli->out, "\nKept in %s/hsm: a run refuses this token once it has changed.\n", state);
	else
		(void)fprintf(cli->out, "\nNot kept: --state keeps it; without a URI the cluster's own token is probed "
					"and kept.\n");
}

static kt_code verdict(const cJSON *report, kt_err *err)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(report, "coordinator");
	if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(v, "fit")))
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED, "use another token for the coordinator, or a firmware that does it",
		       "as the coordinator's token it is %s", member(v, "verdict"));
}

static kt_code probe(const kt_cli *cli, const char *uri, int64_t call_ms, const char *state, kt_err *err)
{
	cJSON *report;
	KT_TRY(kt_hsm_probe(uri, call_ms, kt_cli_has(cli, "key-on-token"), &report, err));
	kt_code rc = state ? kt_probed_keep(state, report, err) : KT_OK;
	if (rc == KT_OK && cli->json)
		rc = kt_cli_print_json(cli, cJSON_Duplicate(report, 1), err);
	else if (rc == KT_OK)
		show_report(cli, report, state);
	if (rc == KT_OK)
		rc = verdict(report, err);
	cJSON_Delete(report);
	return rc;
}

kt_code kt_verb_hsm_probe(kt_cli *cli, kt_err *err)
{
	kt_ctx c;
	if (cli->args)
		return probe(cli, cli->arg[0], PROBE_CALL_MS, kt_cli_get(cli, "state"), err);
	kt_code rc = kt_ctx_load(&c, cli, err);
	if (rc == KT_OK)
		rc = probe(cli, c.cluster.hsm.uri, c.cluster.hsm.call_timeout_s * 1000, c.cluster.state, err);
	kt_ctx_close(&c);
	return rc;
}

/* --- hsm mechanisms ----------------------------------------------------------------------------------------------- */

static void show_mechanism(const kt_cli *cli, const cJSON *m)
{
	const char *maker = member(m, "maker");
	bool tested = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(m, "tested"));
	(void)fprintf(cli->out, "  %-16s %-36s %-11s %-15s %s; %s\n", member(m, "format"), member(m, "mechanism"),
		      member(m, "number"), *maker ? maker : "PKCS#11", tested ? "tested" : "untested here",
		      member(m, "note"));
}

kt_code kt_verb_hsm_mechanisms(kt_cli *cli, kt_err *err)
{
	cJSON *list;
	const cJSON *m;
	kt_code rc = KT_OK;
	KT_TRY(kt_mechanisms_to_json(&list, err));
	cJSON_ArrayForEach(m, list)
	{
		if (cli->json && rc == KT_OK)
			rc = kt_cli_print_json(cli, cJSON_Duplicate(m, 1), err);
		else if (!cli->json)
			show_mechanism(cli, m);
	}
	cJSON_Delete(list);
	return rc;
}

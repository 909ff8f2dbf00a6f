/* SPDX-License-Identifier: Apache-2.0 */
/* hsm list: what tokens there are. */
#include <stdlib.h>
#include <string.h>

#include "orchestrator/cli/cli.h"
#include "pkcs11/token.h"

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

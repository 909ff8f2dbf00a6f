/* SPDX-License-Identifier: Apache-2.0 */
/* hsm list: what tokens there are. */
#include <stdlib.h>

#include "orchestrator/cli/cli.h"
#include "pkcs11/token.h"

static kt_code as_json(const kt_token_info *t, cJSON *o, kt_err *err)
{
	KT_TRY(kt_json_add_str(o, "label", t->label, err));
	KT_TRY(kt_json_add_str(o, "serial", t->serial, err));
	KT_TRY(kt_json_add_str(o, "manufacturer", t->manufacturer, err));
	KT_TRY(kt_json_add_str(o, "model", t->model, err));
	KT_TRY(kt_json_add_str(o, "module", t->module, err));
	return kt_json_add_bool(o, "initialized", t->initialized, err);
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

static void show(const kt_cli *cli, const kt_token_info *t)
{
	(void)fprintf(cli->out, "%-32s  serial %-16s  %s %s\n    %s%s\n", t->label[0] ? t->label : "(no label)",
		      t->serial, t->manufacturer, t->model, t->module, t->initialized ? "" : ", not initialised");
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

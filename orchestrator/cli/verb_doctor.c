/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/context.h"
#include "orchestrator/turn/doctor.h"

static void as_json(const kt_cli *cli, const char *step, const char *node, const kt_err *found)
{
	cJSON *o = cJSON_CreateObject();
	if (cJSON_AddStringToObject(o, "check", step) && cJSON_AddStringToObject(o, "node", node) &&
	    cJSON_AddBoolToObject(o, "ok", found->code == KT_OK) &&
	    cJSON_AddStringToObject(o, "class", kt_code_name(found->code)) &&
	    cJSON_AddStringToObject(o, "message", found->msg) && cJSON_AddStringToObject(o, "remedy", found->remedy))
		KT_IGNORE(kt_cli_print_json(cli, o, NULL));
	else
		cJSON_Delete(o);
}

static void on_check(void *cookie, const char *step, const char *title, const char *node, const kt_err *found)
{
	const kt_cli *cli = cookie;
	if (cli->json) {
		as_json(cli, step, node, found);
		return;
	}
	const char *tint = !cli->colour ? "" : found->code == KT_OK ? "\033[32m" : "\033[31m";
	(void)fprintf(cli->out, "%s%s%s %-16s %s%s%s\n", tint, found->code == KT_OK ? "ok  " : "FAIL",
		      cli->colour ? "\033[0m" : "", node[0] == '@' ? "(coordinator)" : node, title,
		      found->code == KT_OK ? "" : ": ", found->msg);
	if (found->remedy[0])
		(void)fprintf(cli->out, "                      → %s\n", found->remedy);
	(void)fflush(cli->out);
}

static kt_code examine(kt_ctx *c, kt_err *err)
{
	kt_err hsm_error = KT_ERR_INIT;
	size_t findings;
	kt_code worst;
	kt_doctor_options o = {.on_check = on_check, .cookie = c->cli, .cluster = &c->cluster};
	KT_TRY(kt_ctx_open_nodes(c, err));
	KT_TRY(kt_ctx_make_plan(c, false, err));
	if (kt_ctx_check_escrow_key(c, &hsm_error) != KT_OK || kt_ctx_open_hsm(c, &hsm_error) != KT_OK)
		o.hsm_error = &hsm_error;
	o.loop = &c->loop;
	o.nodes = c->nodes;
	o.hsm = c->hsm;
	o.plan = c->plan;
	KT_TRY(kt_doctor_run(&o, &findings, &worst, err));
	if (findings)
		return kt_fail(err, worst, "each finding above has its remedy", "%zu finding%s: a run would be refused",
			       findings, findings == 1 ? "" : "s");
	if (!c->cli->json)
		(void)fprintf(c->cli->out, "Nothing found: the cluster is fit for a turn. Next: keyturn plan\n");
	return KT_OK;
}

kt_code kt_verb_doctor(kt_cli *cli, kt_err *err)
{
	kt_ctx c;
	kt_code rc = kt_ctx_load(&c, cli, err);
	if (rc == KT_OK)
		rc = examine(&c, err);
	kt_ctx_close(&c);
	return rc;
}

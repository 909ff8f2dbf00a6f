/* SPDX-License-Identifier: Apache-2.0 */
/* init, plan, runs, help, version: the verbs that change nothing but a file of the user's. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "orchestrator/cli/context.h"

kt_code kt_verb_help(kt_cli *cli, kt_err *err)
{
	const kt_cli_verb *verb = NULL;
	if (cli->args == 1 && kt_cli_is_group(cli->arg[0])) {
		kt_cli_help_group(cli->arg[0], cli->out);
		return KT_OK;
	}
	if (cli->args)
		KT_TRY(kt_cli_find_verb(cli->arg[0], cli->args > 1 ? cli->arg[1] : NULL, &verb, err));
	if (kt_cli_has(cli, "man"))
		kt_cli_man(verb, cli->out);
	else
		kt_cli_help(verb, cli->out);
	return KT_OK;
}

kt_code kt_verb_version(kt_cli *cli, kt_err *err)
{
	if (!cli->json)
		return fprintf(cli->out, "keyturn %s\n", KT_VERSION) < 0
			       ? kt_fail(err, KT_E_IO, NULL, "the output cannot be written")
			       : KT_OK;
	cJSON *o = cJSON_CreateObject();
	KT_TRY(kt_json_add_str(o, "version", KT_VERSION, err));
	return kt_cli_print_json(cli, o, err);
}

/* Only `--force` replaces a file that is there. */
static kt_code write_new(const char *path, const kt_buf *text, bool force, kt_err *err)
{
	if (!force && access(path, F_OK) == 0)
		return kt_fail(err, KT_E_REFUSED, "choose another name with --output, or replace it with --force",
			       "%s is there already", path);
	return kt_file_replace(path, text->data, text->len, &(kt_file_attr){0644, (uid_t)KT_KEEP, (gid_t)KT_KEEP}, err);
}

kt_code kt_verb_init(kt_cli *cli, kt_err *err)
{
	kt_playbook playbook;
	kt_buf text = KT_BUF_INIT;
	const char *path = kt_cli_get(cli, "output");
	if (!path)
		path = "cluster.json";
	KT_TRY(kt_playbook_load(cli->args ? cli->arg[0] : "looker", &playbook, err));
	kt_code rc = kt_playbook_init_text(&playbook, &text, err);
	if (rc == KT_OK)
		rc = write_new(path, &text, kt_cli_has(cli, "force"), err);
	kt_buf_free(&text);
	kt_playbook_free(&playbook);
	if (rc == KT_OK && !cli->json)
		(void)fprintf(cli->out, "%s was written. Fill in the nodes and the token, then: keyturn enroll\n",
			      path);
	return rc;
}

/* --- plan --------------------------------------------------------------------------------------------------------- */

static kt_code plan_to_file(const kt_ctx *c, const char *path, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = kt_json_canonical(c->plan, &text, err);
	if (rc == KT_OK)
		rc = kt_file_replace(path, text.data, text.len, &(kt_file_attr){0644, (uid_t)KT_KEEP, (gid_t)KT_KEEP},
				     err);
	kt_buf_free(&text);
	return rc;
}

static kt_code show_plan(const kt_ctx *c, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = kt_plan_print(c->plan, &text, err);
	if (rc == KT_OK)
		(void)fprintf(c->cli->out, "%s\nDigest of this plan: %s\n", kt_buf_cstr(&text), c->digest);
	kt_buf_free(&text);
	return rc;
}

static kt_code show_plan_json(const kt_ctx *c, kt_err *err)
{
	cJSON *o = cJSON_CreateObject();
	KT_TRY(kt_json_add_str(o, "digest", c->digest, err));
	KT_TRY(kt_json_add(o, "plan", cJSON_Duplicate(c->plan, 1), err));
	return kt_cli_print_json(c->cli, o, err);
}

kt_code kt_verb_plan(kt_cli *cli, kt_err *err)
{
	kt_ctx c;
	kt_code rc = kt_ctx_load(&c, cli, err);
	if (rc == KT_OK)
		rc = kt_ctx_make_plan(&c, false, err);
	if (rc == KT_OK && kt_cli_get(cli, "output"))
		rc = plan_to_file(&c, kt_cli_get(cli, "output"), err);
	if (rc == KT_OK)
		rc = cli->json ? show_plan_json(&c, err) : show_plan(&c, err);
	kt_ctx_close(&c);
	return rc;
}

/* --- runs --------------------------------------------------------------------------------------------------------- */

static kt_code show_run(const kt_cli *cli, const kt_run_info *r, kt_err *err)
{
	char begun[KT_TIME_TEXT];
	kt_clock_format(r->begun_ms, begun);
	if (!cli->json) {
		(void)fprintf(cli->out, "%-24s %-24s %-12s %s\n", r->run, begun, r->state, r->message);
		return KT_OK;
	}
	cJSON *o = cJSON_CreateObject();
	kt_code rc = kt_json_add_str(o, "run", r->run, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "begun", begun, err);
	if (rc == KT_OK)
		rc = kt_json_add_int(o, "epoch", r->epoch, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "state", r->state, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "message", r->message, err);
	if (rc == KT_OK)
		return kt_cli_print_json(cli, o, err);
	cJSON_Delete(o);
	return rc;
}

kt_code kt_verb_runs(kt_cli *cli, kt_err *err)
{
	kt_ctx c;
	kt_run_info *runs = NULL;
	size_t n = 0;
	kt_code rc = kt_ctx_load(&c, cli, err);
	if (rc == KT_OK)
		rc = kt_ctx_open_journal(&c, KT_JOURNAL_READ, err);
	if (rc == KT_OK)
		rc = kt_journal_runs(c.journal, &runs, &n, err);
	for (size_t i = 0; rc == KT_OK && i < n; i++)
		rc = show_run(cli, &runs[i], err);
	free(runs);
	kt_ctx_close(&c);
	return rc;
}

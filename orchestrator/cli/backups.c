/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/backups.h"

#include <string.h>

#include "base/log.h"
#include "orchestrator/ledger/ledger.h"

enum { ASK_LIMIT_MS = 30000 };

/* What the nodes are asked about. */
typedef struct asking {
	const kt_cluster *cluster;
	const cJSON *dependants;
	const char *run;
} asking;

static bool is_backup(const asking *a, const cJSON *need, const char *node)
{
	return kt_ledger_is(need, "kind", "backup") && kt_ledger_is(need, "run", a->run) &&
	       (!node || kt_ledger_is(need, "node", node));
}

static bool has_none(void *cookie, size_t node)
{
	const asking *a = cookie;
	for (const cJSON *n = a->dependants->child; n; n = n->next)
		if (is_backup(a, n, a->cluster->nodes[node].name))
			return false;
	return true;
}

static kt_code add_word(cJSON *argv, const char *word, kt_err *err)
{
	cJSON *text = cJSON_CreateString(word);
	if (text && cJSON_AddItemToArray(argv, text))
		return KT_OK;
	cJSON_Delete(text);
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

/* test -e ARCHIVE -o -e ARCHIVE: 1 when none of them is there. */
static kt_code add_argv(const asking *a, const char *node, cJSON *command, kt_err *err)
{
	KT_TRY(kt_json_add(command, "argv", cJSON_CreateArray(), err));
	cJSON *argv = kt_ledger_member(command, "argv");
	KT_TRY(add_word(argv, "test", err));
	for (const cJSON *n = a->dependants->child; n; n = n->next) {
		if (!is_backup(a, n, node))
			continue;
		if (argv->child->next)
			KT_TRY(add_word(argv, "-o", err));
		KT_TRY(add_word(argv, "-e", err));
		KT_TRY(add_word(argv, kt_ledger_text(n, "what"), err));
	}
	return KT_OK;
}

static kt_code make_args(void *cookie, size_t node, cJSON **out, kt_err *err)
{
	const asking *a = cookie;
	*out = cJSON_CreateObject();
	KT_TRY(kt_json_add(*out, "command", cJSON_CreateObject(), err));
	KT_TRY(kt_json_add(*out, "expect", cJSON_CreateObject(), err));
	KT_TRY(kt_json_add_int(kt_ledger_member(*out, "expect"), "exit", 1, err));
	return add_argv(a, a->cluster->nodes[node].name, kt_ledger_member(*out, "command"), err);
}

static kt_code judge(const kt_node *node, const kt_answer *answer, const char *run, kt_err *err)
{
	const cJSON *status = kt_ledger_member(answer->result, "exit");
	if (answer->status == KT_STATUS_OK)
		return KT_OK;
	if (cJSON_IsNumber(status) && status->valuedouble == 0)
		return kt_fail(err, KT_E_REFUSED, "remove it first, and every copy of it",
			       "%s still has a backup of run %s", node->name, run);
	kt_log(KT_LOG_WARN, "%s could not be asked whether its backup of run %s is gone (%s): you said so", node->name,
	       run, answer->error.msg);
	return KT_OK;
}

static void warn_of_strangers(const asking *a)
{
	for (const cJSON *n = a->dependants->child; n; n = n->next)
		if (is_backup(a, n, NULL) && !kt_cluster_node(a->cluster, kt_ledger_text(n, "node")))
			kt_log(KT_LOG_WARN,
			       "%s is not in cluster.json any more: that %s is gone there is your word alone",
			       kt_ledger_text(n, "node"), kt_ledger_text(n, "what"));
}

kt_code kt_backups_gone(kt_ctx *c, const cJSON *dependants, const char *run, kt_err *err)
{
	asking a = {.cluster = &c->cluster, .dependants = dependants, .run = run};
	kt_answer *answers;
	const kt_survey q = {
		.verb = "command", .args = make_args, .skip = has_none, .cookie = &a, .timeout_ms = ASK_LIMIT_MS};
	warn_of_strangers(&a);
	KT_TRY(kt_ctx_open_nodes(c, err));
	KT_TRY(kt_nodes_survey(c->nodes, &q, &answers, err));
	kt_code rc = KT_OK;
	for (size_t i = 0; rc == KT_OK && i < c->cluster.nodes_count; i++)
		rc = judge(&c->cluster.nodes[i], &answers[i], run, err);
	kt_answers_free(answers, c->cluster.nodes_count);
	return rc;
}

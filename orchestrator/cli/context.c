/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/context.h"

#include <ctype.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "orchestrator/inventory/custodian.h"
#include "orchestrator/ledger/view.h"

enum { LOCATE_LIMIT_MS = 30000 };

kt_code kt_ctx_load(kt_ctx *c, kt_cli *cli, kt_err *err)
{
	*c = (kt_ctx){.cli = cli};
	const char *path = kt_cli_get(cli, "cluster");
	if (!path)
		path = getenv("KEYTURN_CLUSTER");
	if (!path || !*path)
		path = "cluster.json";
	kt_code rc = kt_cluster_load(path, &c->cluster, err);
	if (rc == KT_E_IO && err)
		return kt_fail(err, rc, "give it with --cluster FILE, or make one with `keyturn init`", "%s", err->msg);
	KT_TRY(rc);
	return kt_playbook_load(c->cluster.playbook, &c->playbook, err);
}

kt_code kt_ctx_open_journal(kt_ctx *c, kt_journal_mode mode, kt_err *err)
{
	return kt_journal_open(c->cluster.state, mode, &c->journal, err);
}

static void on_trace(void *cookie, const char *node, const char *line)
{
	(void)cookie;
	kt_log(KT_LOG_DEBUG, "%s: %s", node, line);
}

static void on_lost(void *cookie, size_t node, const kt_err *err)
{
	(void)cookie;
	(void)node;
	kt_log(KT_LOG_WARN, "%s; it is reached for again when it is needed", err->msg);
}

kt_code kt_ctx_open_nodes(kt_ctx *c, kt_err *err)
{
	if (!c->loop_open && uv_loop_init(&c->loop) != 0)
		return kt_fail(err, KT_E_INTERNAL, NULL, "the event loop cannot be made");
	c->loop_open = true;
	const kt_nodes_options o = {.on_trace = kt_log_get_level() >= KT_LOG_DEBUG ? on_trace : NULL,
				    .on_lost = on_lost};
	return kt_nodes_open(&c->loop, &c->cluster, &o, &c->nodes, err);
}

kt_code kt_ctx_open_hsm(kt_ctx *c, kt_err *err)
{
	const kt_hsm_options o = {.uri = c->cluster.hsm.uri,
				  .escrow_label = c->cluster.hsm.escrow_key,
				  .state = c->cluster.state,
				  .cluster = c->cluster.name,
				  .call_ms = c->cluster.hsm.call_timeout_s * 1000,
				  .sessions = (unsigned)c->cluster.hsm.sessions,
				  .custodians = c->cluster.custodians,
				  .custodians_count = c->cluster.custodians_count};
	return kt_hsm_open(&o, &c->hsm, err);
}

kt_code kt_ctx_check_escrow_key(const kt_ctx *c, kt_err *err)
{
	kt_ledger ledger;
	kt_code rc = kt_ledger_open(c->cluster.state, c->cluster.name, &ledger, err);
	if (rc == KT_OK)
		rc = kt_ledger_may_wrap(&ledger, c->cluster.hsm.escrow_key, err);
	kt_ledger_close(&ledger);
	return rc;
}

/* YYYYMMDDTHHMMSSZ-xxxxxx */
static kt_code new_run_id(char out[KT_RUN_MAX + 1], kt_err *err)
{
	uint8_t r[3];
	struct tm tm;
	time_t now = (time_t)(kt_clock_wall_ms() / 1000);
	if (RAND_bytes(r, sizeof r) != 1 || !gmtime_r(&now, &tm))
		return kt_fail(err, KT_E_INTERNAL, NULL, "a run id cannot be made");
	size_t n = strftime(out, KT_RUN_MAX, "%Y%m%dT%H%M%SZ", &tm);
	(void)snprintf(out + n, KT_RUN_MAX - n, "-%02x%02x%02x", r[0], r[1], r[2]);
	return KT_OK;
}

/* --- where the old key is ----------------------------------------------------------------------------------------- */

static kt_plan_input plan_input(const kt_ctx *c)
{
	return (kt_plan_input){.cluster = &c->cluster,
			       .playbook = &c->playbook,
			       .run = c->run,
			       .located = c->located,
			       .pins = c->plan_pins,
			       .custodians = (const char *const *)c->custodians};
}

static kt_code locate_args(void *cookie, size_t node, cJSON **out, kt_err *err)
{
	const kt_plan_input in = plan_input(cookie);
	return kt_plan_locate_args(&in, node, out, err);
}

static kt_code keep_answer(kt_ctx *c, size_t i, const kt_answer *a, kt_err *err)
{
	const char *uri;
	const char *kcv;
	if (a->status != KT_STATUS_OK) {
		if (err)
			*err = a->error;
		/* What the connection says begins with the node's name already. */
		const char *name = c->cluster.nodes[i].name;
		size_t n = strlen(name);
		bool named = strncmp(a->error.msg, name, n) == 0 && !isalnum((unsigned char)a->error.msg[n]);
		return named ? a->error.code : kt_err_prefix(err, a->error.code, "%s", name);
	}
	if (!a->result)
		return kt_fail(err, KT_E_INPUT, NULL, "%s gave no answer", c->cluster.nodes[i].name);
	KT_TRY(kt_json_str(a->result, "uri", &uri, err));
	KT_TRY(kt_json_str(a->result, "kcv", &kcv, err));
	c->located[i] = (kt_located){.uri = strdup(uri), .kcv = strdup(kcv)};
	return c->located[i].uri && c->located[i].kcv ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static kt_code locate(kt_ctx *c, kt_err *err)
{
	kt_answer *answer;
	const kt_survey q = {.verb = "key.locate", .args = locate_args, .cookie = c, .timeout_ms = LOCATE_LIMIT_MS};
	size_t n = c->cluster.nodes_count;
	KT_TRY(kt_nodes_survey(c->nodes, &q, &answer, err));
	kt_code rc = KT_OK;
	c->located = calloc(n, sizeof *c->located);
	if (!c->located)
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	for (size_t i = 0; rc == KT_OK && i < n; i++)
		rc = keep_answer(c, i, &answer[i], err);
	kt_answers_free(answer, n);
	return rc;
}

static kt_code read_custodians(kt_ctx *c, kt_err *err)
{
	size_t n = c->cluster.custodians_count;
	if (!n || c->custodians)
		return KT_OK;
	c->custodians = calloc(n, sizeof *c->custodians);
	kt_code rc = c->custodians ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	for (size_t i = 0; rc == KT_OK && i < n; i++) {
		kt_custodian_key key;
		rc = kt_custodian_read(&c->cluster.custodians[i], &key, err);
		if (rc == KT_OK && !(c->custodians[i] = strdup(key.spki_sha256)))
			rc = kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
		kt_custodian_key_free(&key);
	}
	return rc;
}

static kt_code read_pins(kt_ctx *c, kt_err *err)
{
	size_t n = c->cluster.nodes_count;
	bool found;
	if (c->pins)
		return KT_OK;
	c->pins = calloc(n, sizeof *c->pins);
	c->plan_pins = calloc(n, sizeof *c->plan_pins);
	if (!c->pins || !c->plan_pins)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	for (size_t i = 0; i < n; i++) {
		KT_TRY(kt_pin_load(c->cluster.state, c->cluster.nodes[i].name, &found, &c->pins[i], err));
		if (found)
			c->plan_pins[i] = (kt_plan_pin){c->pins[i].at, c->pins[i].spki_sha256};
	}
	return KT_OK;
}

kt_code kt_ctx_make_plan(kt_ctx *c, bool always, kt_err *err)
{
	KT_TRY(new_run_id(c->run, err));
	KT_TRY(read_custodians(c, err));
	KT_TRY(read_pins(c, err));
	if (always || !c->cluster.key_from) {
		if (!c->nodes)
			KT_TRY(kt_ctx_open_nodes(c, err));
		KT_TRY(locate(c, err));
	}
	const kt_plan_input in = plan_input(c);
	return kt_plan_make(&in, &c->plan, c->digest, err);
}

void kt_ctx_close(kt_ctx *c)
{
	kt_nodes_close(c->nodes);
	kt_hsm_close(c->hsm);
	kt_journal_close(c->journal);
	if (c->loop_open) {
		while (uv_run(&c->loop, UV_RUN_NOWAIT))
			;
		(void)uv_loop_close(&c->loop);
	}
	for (size_t i = 0; c->located && i < c->cluster.nodes_count; i++) {
		free((void *)c->located[i].uri);
		free((void *)c->located[i].kcv);
	}
	free(c->located);
	for (size_t i = 0; c->pins && i < c->cluster.nodes_count; i++)
		kt_pin_free(&c->pins[i]);
	free(c->pins);
	free(c->plan_pins);
	for (size_t i = 0; c->custodians && i < c->cluster.custodians_count; i++)
		free(c->custodians[i]);
	free((void *)c->custodians);
	cJSON_Delete(c->plan);
	kt_playbook_free(&c->playbook);
	kt_cluster_free(&c->cluster);
	*c = (kt_ctx){0};
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/kcv.h"
#include "orchestrator/cli/context.h"
#include "orchestrator/inventory/range.h"
#include "orchestrator/turn/enroll.h"

/* The agent's program beside ours: in a build folder, or where it is installed. */
static kt_code agent_folder(const kt_cli *cli, char out[PATH_MAX], kt_err *err)
{
	static const char *const places[] = {"agent", "../libexec/keyturn/agent"};
	char self[PATH_MAX];
	const char *given = kt_cli_get(cli, "agent");
	if (given) {
		(void)snprintf(out, PATH_MAX, "%s", given);
		return KT_OK;
	}
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	if (n < 0)
		return kt_fail_errno(err, errno, NULL, "/proc/self/exe");
	self[n] = '\0';
	*strrchr(self, '/') = '\0';
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
		if (snprintf(out, PATH_MAX, "%s/%s", self, places[i]) < PATH_MAX && access(out, R_OK) == 0)
			return KT_OK;
	}
	return kt_fail(err, KT_E_USAGE, "say where it is with --agent FOLDER",
		       "the agent's program was not found near %s", self);
}

/* --- host keys: a person says yes, or --accept-host-keys did ------------------------------------------------------ */

static kt_code ask_host_keys(const kt_ctx *c, const kt_enroll *e, kt_err *err)
{
	size_t unknown = 0;
	for (size_t i = 0; i < c->cluster.nodes_count; i++)
		unknown += e->node[i].host_key != NULL;
	if (unknown == 0)
		return KT_OK;
	FILE *out = c->cli->json ? stderr : c->cli->out;
	(void)fprintf(out, "Host keys that are not pinned yet:\n");
	for (size_t i = 0; i < c->cluster.nodes_count; i++)
		if (e->node[i].host_key)
			(void)fprintf(out, "  %-16s %s %s\n", c->cluster.nodes[i].name, e->node[i].host_key_type,
				      e->node[i].host_key_print);
	(void)fflush(out);
	if (kt_cli_has(c->cli, "accept-host-keys"))
		return KT_OK;
	return kt_cli_confirm(
		"Are these the nodes' own keys, and shall they be pinned?",
		"compare the fingerprints with the nodes' own (ssh-keygen -l), then: enroll --accept-host-keys", err);
}

/* --- transport keys that replace another: a person says yes ------------------------------------------------------- */

static bool is_replaced(const kt_enroll_node *r)
{
	return !r->skip && r->error.code == KT_OK && r->replace && r->was[0] && r->transport_new;
}

static kt_code ask_replaced(const kt_ctx *c, const kt_enroll *e, kt_err *err)
{
	size_t n = 0;
	FILE *out = c->cli->json ? stderr : c->cli->out;
	for (size_t i = 0; i < c->cluster.nodes_count; i++) {
		const kt_enroll_node *r = &e->node[i];
		if (!is_replaced(r))
			continue;
		if (n++ == 0)
			(void)fprintf(out, "Transport keys that take the place of a pinned one:\n");
		(void)fprintf(out, "  %-16s %s (%s)\n  %-16s instead of %s\n", c->cluster.nodes[i].name,
			      r->pin.spki_sha256, r->pin.at, "", r->was);
	}
	(void)fflush(out);
	if (n == 0 || kt_cli_has(c->cli, "yes"))
		return KT_OK;
	return kt_cli_confirm("Are these the nodes' own keys, and shall new cluster keys be wrapped to them?",
			      "see on the nodes that these are their keys, then: enroll --replace --yes NODE", err);
}

/* Which nodes it is about. */
typedef struct choice {
	const kt_cluster *cluster;
	kt_enroll *e;
} choice;

static kt_code choose(void *cookie, const char *name, kt_err *err)
{
	const choice *c = cookie;
	const kt_node *n = kt_cluster_node(c->cluster, name);
	if (!n)
		return kt_fail(err, KT_E_USAGE, "give names of \"nodes\" in cluster.json, as in web[01-03]",
			       "there is no node \"%.64s\"", name);
	c->e->node[n - c->cluster->nodes].skip = false;
	return KT_OK;
}

static kt_code choose_nodes(const kt_ctx *c, kt_enroll *e, kt_err *err)
{
	const kt_cli *cli = c->cli;
	choice chosen = {.cluster = &c->cluster, .e = e};
	if (kt_cli_has(cli, "replace") && cli->args == 0)
		return kt_fail(err, KT_E_USAGE, "name them: enroll --replace NODE", "--replace is about certain nodes");
	if (kt_cli_has(cli, "replace") && kt_cli_has(cli, "rotate-transport"))
		return kt_fail(err, KT_E_USAGE,
			       "--rotate-transport changes a key that works, --replace one that is lost",
			       "--replace and --rotate-transport exclude each other");
	for (size_t i = 0; i < c->cluster.nodes_count; i++) {
		e->node[i].skip = cli->args > 0;
		e->node[i].rotate = kt_cli_has(cli, "rotate-transport");
		e->node[i].replace = kt_cli_has(cli, "replace");
	}
	for (int i = 0; i < cli->args; i++)
		KT_TRY(kt_range_expand(cli->arg[i], c->cluster.nodes_count, choose, &chosen, err));
	return KT_OK;
}

/* --- telling what came of it -------------------------------------------------------------------------------------- */

static kt_code tell_json(const kt_ctx *c, const kt_enroll *e, size_t i, kt_err *err)
{
	const kt_enroll_node *r = &e->node[i];
	cJSON *o = cJSON_CreateObject();
	kt_code rc = kt_json_add_str(o, "node", c->cluster.nodes[i].name, err);
	if (rc == KT_OK)
		rc = kt_json_add_bool(o, "ok", r->error.code == KT_OK, err);
	if (rc == KT_OK && r->error.code != KT_OK)
		rc = kt_json_add_str(o, "class", kt_code_name(r->error.code), err);
	if (rc == KT_OK && r->error.code != KT_OK)
		rc = kt_json_add_str(o, "message", r->error.msg, err);
	if (rc == KT_OK && r->host_key_print[0])
		rc = kt_json_add_str(o, "host_key", r->host_key_print, err);
	if (rc == KT_OK)
		rc = kt_json_add_bool(o, "agent_sent", r->sent, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "transport_key", r->pin.spki_sha256, err);
	if (rc == KT_OK && r->pin.at)
		rc = kt_json_add_str(o, "transport_at", r->pin.at, err);
	if (rc == KT_OK && r->note[0])
		rc = kt_json_add_str(o, "note", r->note, err);
	if (rc == KT_OK)
		return kt_cli_print_json(c->cli, o, err);
	cJSON_Delete(o);
	return rc;
}

static void tell_text(const kt_ctx *c, const kt_enroll *e, size_t i)
{
	const kt_enroll_node *r = &e->node[i];
	FILE *out = c->cli->out;
	if (r->error.code != KT_OK) {
		(void)fprintf(out, "  %-16s FAILED: %s\n", c->cluster.nodes[i].name, r->error.msg);
		if (r->error.remedy[0])
			(void)fprintf(out, "  %-16s → %s\n", "", r->error.remedy);
		return;
	}
	(void)fprintf(out, "  %-16s host key %s, agent %s, transport key %.16s… %s%s%s\n", c->cluster.nodes[i].name,
		      r->pinned ? "known" : "pinned", r->sent ? "installed" : "up to date", r->pin.spki_sha256,
		      !r->transport_new ? "known"
		      : !r->was[0]      ? "pinned"
					: (r->rotate ? "rotated" : "replaced"),
		      strcmp(r->pin.at, "file") == 0 ? "" : " in ", strcmp(r->pin.at, "file") == 0 ? "" : r->pin.at);
	if (r->note[0])
		(void)fprintf(out, "  %-16s note: %s\n", "", r->note);
}

static kt_code tell(const kt_ctx *c, const kt_enroll *e, kt_err *err)
{
	size_t failed = 0;
	size_t n = 0;
	kt_code first = KT_OK;
	for (size_t i = 0; i < c->cluster.nodes_count; i++) {
		if (e->node[i].skip)
			continue;
		n++;
		if (e->node[i].error.code != KT_OK && failed++ == 0)
			first = e->node[i].error.code;
		if (c->cli->json)
			KT_TRY(tell_json(c, e, i, err));
		else
			tell_text(c, e, i);
	}
	if (failed == 0)
		return KT_OK;
	return kt_fail(err, first, "correct what is said above and run `keyturn enroll` again",
		       "%zu of %zu nodes could not be enrolled", failed, n);
}

/* --- the HSM's wrapping key --------------------------------------------------------------------------------------- */

static kt_code escrow_key(kt_ctx *c, kt_err *err)
{
	bool made = false;
	char kcv[KT_KCV_TEXT] = "";
	KT_TRY(kt_ctx_open_hsm(c, err));
	if (!kt_cli_has(c->cli, "create-escrow-key"))
		return kt_hsm_find_escrow_key(c->hsm, kcv, err);
	KT_TRY(kt_hsm_make_escrow_key(c->hsm, &made, kcv, err));
	if (!c->cli->json)
		(void)fprintf(c->cli->out, "Escrow wrapping key \"%s\" %s, KCV %s\n", c->cluster.hsm.escrow_key,
			      made ? "made" : "is there", kcv);
	return KT_OK;
}

/* Every stage goes on with the nodes that are well so far. */
static kt_code enroll_nodes(kt_ctx *c, kt_enroll *e, kt_err *err)
{
	KT_TRY(kt_enroll_scan(e, err));
	KT_TRY(ask_host_keys(c, e, err));
	KT_TRY(kt_enroll_pin(e, err));
	KT_TRY(kt_enroll_install(e, err));
	KT_TRY(kt_enroll_transport(e, err));
	KT_TRY(ask_replaced(c, e, err));
	KT_TRY(kt_enroll_pin_transport(e, err));
	KT_TRY(kt_enroll_retire(e, err));
	return tell(c, e, err);
}

static kt_code enroll(kt_ctx *c, kt_err *err)
{
	char folder[PATH_MAX];
	kt_enroll e = {.agent_folder = folder};
	KT_TRY(agent_folder(c->cli, folder, err));
	KT_TRY(kt_ctx_open_journal(c, KT_JOURNAL_WRITE, err));
	KT_TRY(escrow_key(c, err));
	KT_TRY(kt_ctx_open_nodes(c, err));
	e.loop = &c->loop;
	e.nodes = c->nodes;
	e.cluster = &c->cluster;
	KT_TRY(kt_enroll_new(&e, err));
	kt_code rc = choose_nodes(c, &e, err);
	if (rc == KT_OK)
		rc = enroll_nodes(c, &e, err);
	kt_enroll_free(&e);
	return rc;
}

kt_code kt_verb_enroll(kt_cli *cli, kt_err *err)
{
	kt_ctx c;
	kt_code rc = kt_ctx_load(&c, cli, err);
	if (rc == KT_OK)
		rc = enroll(&c, err);
	kt_ctx_close(&c);
	return rc;
}

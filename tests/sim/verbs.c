/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the verbs do on a simulated node. Dispatch, spool, epochs and files are the agent's own; the application, its
 * service and its data are those of world.c. Actions fail, and lie where an application may.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/dispatch.h"
#include "agent/epoch.h"
#include "agent/once.h"
#include "agent/spool.h"
#include "base/file.h"
#include "tests/sim/sim.h"

static const char env_path[] = "/sim/app/env";
static const char kept_path[] = "/sim/app/env.keyturn-r.old";
static const char key_path[] = "/sim/app/key";
static const char slot_path[] = "/sim/state/slots/r.json";
static const kt_file_attr secret_file = {.mode = 0400, .uid = (uid_t)KT_KEEP, .gid = (gid_t)KT_KEEP};

static sim_node *node_of(const kt_agent_ctx *ctx)
{
	return ((sim_talk *)ctx->arg)->node;
}

static sim *sim_of(const kt_agent_ctx *ctx)
{
	return node_of(ctx)->s;
}

/* S1: what has its outcome is answered with that, and not done again. */
static void check_first(const kt_agent_ctx *ctx)
{
	char path[256];
	(void)snprintf(path, sizeof path, "%s/outcome.json", ctx->spool);
	if (access(path, F_OK) == 0)
		sim_break(sim_of(ctx), "S1: %s on %s is done again, and it has its outcome", ctx->step,
			  node_of(ctx)->name);
}

/* Who is dead does nothing any more; and things go wrong. */
static kt_code may(const kt_agent_ctx *ctx, const char *what, kt_err *err)
{
	if (sim_disk_dead(node_of(ctx)->disk))
		return kt_fail(err, KT_E_IO, NULL, "killed");
	if (ctx->spool)
		check_first(ctx);
	if (sim_goes_wrong(sim_of(ctx)))
		return kt_fail(err, KT_E_IO, NULL, "%s", what);
	return KT_OK;
}

static const char *text_arg(const cJSON *args, const char *name)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(args, name);
	return cJSON_IsString(v) ? v->valuestring : "";
}

/* --- Looks -------------------------------------------------------------------------------------------------------- */

static kt_status act_facts(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	kt_epoch seen;
	cJSON *known = cJSON_AddArrayToObject(result, "known");
	kt_code rc = kt_epoch_read(ctx->state, ctx->cluster, &seen, err);
	if (rc == KT_OK)
		rc = kt_json_add_int(result, "epoch", seen.epoch, err);
	if (rc == KT_OK && seen.epoch)
		rc = kt_json_add_str(result, "epoch_run", seen.run, err);
	if (rc == KT_OK)
		rc = kt_spool_known(ctx->state, "r", cJSON_GetObjectItemCaseSensitive(args, "asked"), known, err);
	return kt_action_end(rc);
}

static kt_status act_look(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)args, (void)result;
	return kt_action_end(may(ctx, "a check failed", err));
}

static kt_status act_gate(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)args;
	sim *s = sim_of(ctx);
	bool quiet = !node_of(ctx)->service && !(s->faults && sim_chance(&s->rng, 30));
	if (!quiet) {
		KT_IGNORE(kt_fail(err, KT_E_REFUSED, NULL, "somebody is live"));
		return KT_STATUS_RETRY;
	}
	return kt_action_end(kt_json_add_bool(result, "quiet", true, err));
}

/* It may fail, and it may not know, often more than once; it never says `old` or `new` when that is not so. */
static kt_status act_probe(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)args;
	static const char *const vague[] = {"unknown", "mixed", "none"};
	sim *s = sim_of(ctx);
	kt_code rc = may(ctx, "the probe does not run", err);
	s->w.vague = sim_goes_wrong(s) || (s->faults && s->w.vague && sim_chance(&s->rng, 700));
	const char *verdict = s->w.vague ? vague[sim_below(&s->rng, 3)] : sim_key_name(s->w.data);
	return kt_action_end(rc == KT_OK ? kt_json_add_str(result, "verdict", verdict, err) : rc);
}

static kt_status act_command(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)args, (void)result;
	if (!node_of(ctx)->service) {
		KT_IGNORE(kt_fail(err, KT_E_REFUSED, NULL, "the application does not answer"));
		return KT_STATUS_FAILED;
	}
	return kt_action_end(may(ctx, "the application does not answer", err));
}

/* The log of the node on which the migration ran; a line may have got lost. */
static kt_status act_log(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)args, (void)result;
	if (may(ctx, "the log cannot be read", err) != KT_OK)
		return KT_STATUS_FAILED;
	if (sim_of(ctx)->w.log_tells)
		return KT_STATUS_OK;
	KT_IGNORE(kt_fail(err, KT_E_REFUSED, NULL, "the log does not tell of it"));
	return KT_STATUS_RETRY;
}

/* --- The service -------------------------------------------------------------------------------------------------- */

static kt_code stop(kt_agent_ctx *ctx, cJSON *result, kt_err *err)
{
	sim_node *n = node_of(ctx);
	cJSON *note;
	KT_TRY(kt_spool_noted(ctx->spool, &note, err));
	if (!note) {
		note = cJSON_CreateObject();
		(void)cJSON_AddBoolToObject(note, "was_active", n->service);
		kt_code rc = kt_spool_note(ctx->spool, note, err);
		if (rc != KT_OK) {
			cJSON_Delete(note);
			return rc;
		}
	}
	bool was = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(note, "was_active"));
	cJSON_Delete(note);
	KT_TRY(may(ctx, "it does not stop", err));
	n->service = n->by_hand = false;
	n->s->w.changed = true;
	return kt_json_add_bool(result, "was_active", was, err);
}

static kt_status act_stop(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)args;
	return kt_action_end(stop(ctx, result, err));
}

static kt_code start(kt_agent_ctx *ctx, const cJSON *args, kt_err *err)
{
	sim_node *n = node_of(ctx);
	sim_world *w = &n->s->w;
	if (cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(args, "if")))
		return KT_OK;
	KT_TRY(may(ctx, "it does not start", err));
	if (!n->service) {
		pid_t as = n->s->in_talk->pid;
		sim_node_look(n);
		sim_enter(n, as);
		n->runs_with = n->env;
	}
	n->service = true;
	w->version += w->rekey_started == 0; /* the canary's first writes are the price of a way back */
	return KT_OK;
}

static kt_status act_start(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)result;
	return kt_action_end(start(ctx, args, err));
}

/* --- The backup --------------------------------------------------------------------------------------------------- */

static void sha_of(const sim_world *w, char out[SIM_TEXT])
{
	(void)snprintf(out, SIM_TEXT, "sha-%d", (int)w->backup_id);
}

/* It opens with the key that it was made with alone. */
static kt_code right_archive(const sim_world *w, const cJSON *args, kt_err *err)
{
	char sha[SIM_TEXT];
	sha_of(w, sha);
	if (w->backup && w->backup_sealed && strcmp(text_arg(args, "blob"), "backup-blob-n0") == 0 &&
	    strcmp(text_arg(args, "sha256"), sha) == 0)
		return KT_OK;
	return kt_fail(err, KT_E_IO, NULL, "the archive has another checksum");
}

static kt_status act_backup(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	sim *s = sim_of(ctx);
	sim_world *w = &s->w;
	char sha[SIM_TEXT];
	char proof[SIM_TEXT];
	if (may(ctx, "no room for the backup", err) != KT_OK)
		return KT_STATUS_FAILED;
	(void)snprintf(proof, sizeof proof, "proof-%s", sim_goes_wrong(s) ? "of-another-key" : text_arg(args, "blob"));
	w->backup_sealed = strcmp(proof, "proof-backup-blob-n0") == 0;
	if (w->data != SIM_OLD || w->rekey_running)
		sim_break(s, "S5: the backup is replaced by one of other data");
	w->backup = true;
	w->backup_checked = false;
	w->backup_version = w->version;
	w->backup_id++;
	sha_of(w, sha);
	kt_code rc = kt_json_add_str(result, "sha256", sha, err);
	return kt_action_end(rc == KT_OK ? kt_json_add_str(result, "proof", proof, err) : rc);
}

static kt_status act_backup_check(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	sim_world *w = &sim_of(ctx)->w;
	if (right_archive(w, args, err) != KT_OK || may(ctx, "the test restore failed", err) != KT_OK)
		return KT_STATUS_FAILED;
	w->backup_checked = !sim_goes_wrong(sim_of(ctx));
	return kt_action_end(kt_json_add_bool(result, "checked", w->backup_checked, err));
}

static kt_status act_restore(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	sim *s = sim_of(ctx);
	sim_world *w = &s->w;
	(void)result;
	if (right_archive(w, args, err) != KT_OK || may(ctx, "the restore failed", err) != KT_OK)
		return KT_STATUS_FAILED;
	if (w->rekey_running)
		sim_break(s, "S1: a restore while the rekey runs");
	for (size_t i = 0; i < s->n; i++)
		if (s->node[i].service)
			sim_break(s, "S2: a restore while %s is live", s->node[i].name);
	if (w->backup_version != w->version && !w->reverted)
		sim_break(s, "S3: the restore loses writes (version %d of %d)", (int)w->backup_version,
			  (int)w->version);
	s->out->restores++;
	if (!sim_goes_wrong(s)) /* else it lies */
		w->data = SIM_OLD;
	return KT_STATUS_OK;
}

/* --- Keys and env files ------------------------------------------------------------------------------------------- */

static kt_code receive(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	char proof[SIM_TEXT];
	const char *blob = text_arg(args, "blob");
	node_of(ctx)->dirty = true;
	sim_of(ctx)->w.changed = true;
	if (sim_goes_wrong(sim_of(ctx))) {
		(void)snprintf(proof, sizeof proof, "proof-of-another-key");
	} else {
		KT_TRY(kt_file_replace(slot_path, blob, strlen(blob), &secret_file, err));
		(void)snprintf(proof, sizeof proof, "proof-%s", blob);
	}
	return kt_json_add_str(result, "proof", proof, err);
}

static kt_status act_receive(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	return kt_action_end(receive(ctx, args, result, err));
}

static kt_code copy(const char *from, const char *to, const kt_file_attr *attr, bool new, kt_err *err)
{
	bool made;
	kt_buf text = {.max = 256};
	kt_code rc = kt_file_read(from, &text, err);
	if (rc == KT_OK)
		rc = new ? kt_file_create(to, text.data, text.len, attr, &made, err)
			 : kt_file_replace(to, text.data, text.len, attr, err);
	kt_buf_free(&text);
	return rc;
}

static kt_status act_key_install(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)args, (void)result;
	node_of(ctx)->dirty = true;
	kt_code rc = may(ctx, "the key file is not made", err);
	return kt_action_end(rc == KT_OK ? copy(slot_path, key_path, &secret_file, false, err) : rc);
}

static kt_status act_forget(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)result;
	node_of(ctx)->dirty = true;
	kt_code rc = may(ctx, "not removed", err);
	if (rc == KT_OK && text_arg(args, "path")[0])
		rc = kt_file_remove(key_path, NULL, err);
	if (rc == KT_OK)
		rc = kt_file_remove(slot_path, NULL, err);
	return kt_action_end(rc);
}

static kt_status act_env(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)args, (void)result;
	node_of(ctx)->dirty = true;
	kt_code rc = may(ctx, "the env file is not written", err);
	if (rc == KT_OK)
		rc = copy(env_path, kept_path, &secret_file, true, err);
	if (rc == KT_OK)
		rc = kt_file_replace(env_path, "KEY=new\n", 8, NULL, err);
	return kt_action_end(rc);
}

static kt_status act_env_back(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)args, (void)result;
	node_of(ctx)->dirty = true;
	kt_code rc = may(ctx, "the env file is not written", err);
	if (rc == KT_OK && access(kept_path, F_OK) == 0)
		rc = copy(kept_path, env_path, NULL, false, err);
	return kt_action_end(rc);
}

/* --- The rekey ---------------------------------------------------------------------------------------------------- */

static kt_status act_exec(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	sim_talk *t = ctx->arg;
	bool runs;
	(void)args;
	kt_code rc = kt_once_begin(ctx, sim_runner_start, t->node, err);
	if (rc != KT_OK)
		return kt_action_end(rc);
	kt_node_unlock(ctx);
	kt_status status = kt_once_look(ctx->spool, &runs, result, err);
	t->waits = runs ? sim_text(t->node->s, ctx->spool) : NULL;
	return status;
}

const kt_agent_verb sim_verbs[] = {
	{"facts", KT_VERB_READS, KT_VERB_AGAIN, false, false, false, NULL, act_facts},
	{"preflight", KT_VERB_READS, KT_VERB_AGAIN, false, false, false, NULL, act_look},
	{"service.stop", KT_VERB_CHANGES, KT_VERB_AGAIN, false, false, false, NULL, act_stop},
	{"service.start", KT_VERB_CHANGES, KT_VERB_AGAIN, false, false, false, NULL, act_start},
	{"gate.check", KT_VERB_READS, KT_VERB_AGAIN, false, false, true, NULL, act_gate},
	{"backup.create", KT_VERB_CHANGES, KT_VERB_AGAIN, false, false, false, NULL, act_backup},
	{"backup.check", KT_VERB_CHANGES, KT_VERB_AGAIN, false, false, false, NULL, act_backup_check},
	{"backup.restore", KT_VERB_CHANGES, KT_VERB_AGAIN, false, false, false, NULL, act_restore},
	{"key.receive", KT_VERB_CHANGES, KT_VERB_AGAIN, true, false, false, "blob", act_receive},
	{"key.install", KT_VERB_CHANGES, KT_VERB_AGAIN, false, false, false, NULL, act_key_install},
	{"key.forget", KT_VERB_CHANGES, KT_VERB_AGAIN, false, false, false, NULL, act_forget},
	{"env.install", KT_VERB_CHANGES, KT_VERB_AGAIN, false, false, false, NULL, act_env},
	{"env.restore", KT_VERB_CHANGES, KT_VERB_AGAIN, false, false, false, NULL, act_env_back},
	{"exec", KT_VERB_CHANGES, KT_VERB_ONCE, false, false, false, NULL, act_exec},
	{"command", KT_VERB_READS, KT_VERB_AGAIN, false, false, false, NULL, act_command},
	{"probe", KT_VERB_READS, KT_VERB_AGAIN, false, true, true, NULL, act_probe},
	{"log.check", KT_VERB_READS, KT_VERB_AGAIN, false, false, false, NULL, act_log},
	{0},
};

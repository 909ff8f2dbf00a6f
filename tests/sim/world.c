/* SPDX-License-Identifier: Apache-2.0 */
/* The application's data, its rekey, and what the coordinator does with the HSM. */
#include <stdio.h>
#include <string.h>

#include "tests/sim/sim.h"

const char *sim_key_name(sim_key k)
{
	static const char *const name[] = {[SIM_OLD] = "old", [SIM_NEW] = "new", [SIM_MIXED] = "mixed"};
	return name[k];
}

/* --- The rekey ---------------------------------------------------------------------------------------------------- */

/* S1, S2, S3 at the moment in which it really starts. */
void sim_rekey_starts(sim *s)
{
	sim_world *w = &s->w;
	sim_trace(s, "-- the rekey starts");
	if (++w->rekey_started > 1)
		sim_break(s, "S1: the rekey is started a second time");
	if (w->never_started)
		sim_break(s, "S1: the rekey starts, and its node was certain that it never will");
	for (size_t i = 0; i < s->n; i++) {
		sim_node *n = &s->node[i];
		if (n->dirty)
			sim_node_look(n);
		if (n->service)
			sim_break(s, "S2: the rekey starts while %s is live", n->name);
		if (!n->slot)
			sim_break(s, "S3: the rekey starts and %s has not proven the new key", n->name);
	}
	if (!w->backup || !w->backup_checked || w->backup_version != w->version)
		sim_break(s, "S3: the rekey starts without a tested backup of the data as it is");
	if (!w->backup_sealed || !w->backup_key_escrowed)
		sim_break(s, "S3: the rekey starts with a backup under a key that was not escrowed");
	if (!w->escrowed)
		sim_break(s, "S3: the rekey starts without a recovered escrow");
	w->rekey_running = true;
	w->log_tells = s->migration && !(s->faults && sim_chance(&s->rng, 100));
	s->out->rekeys++;
}

/* A rekey is one transaction. A migration is many, so that one that dies has mostly done a part of its work. */
static sim_key what_is_left(sim *s)
{
	size_t truth = sim_below(&s->rng, 10);
	if (s->migration)
		return truth < 7 ? SIM_MIXED : truth < 9 ? SIM_OLD : SIM_NEW;
	return truth < 4 ? SIM_NEW : truth < 7 ? SIM_MIXED : SIM_OLD;
}

/* What it did, and what it says that it did. */
void sim_rekey_ends(sim *s, sim_runner *r, bool crashed)
{
	sim_world *w = &s->w;
	size_t truth = !crashed && s->faults ? sim_below(&s->rng, 14) : 0;
	w->rekey_running = false;
	w->data = crashed ? what_is_left(s) : truth < 4 || truth > 9 ? SIM_NEW : truth < 7 ? SIM_MIXED : SIM_OLD;
	bool lies = s->faults && sim_chance(&s->rng, 150);
	r->says_ok = (w->data == SIM_NEW) != lies;
	w->rekey_completed += w->data == SIM_NEW;
	if (lies)
		sim_count(s, SIM_REKEY_LIES);
	sim_trace(s, "-- the rekey %s; the data is %s",
		  crashed      ? "dies"
		  : r->says_ok ? "says ok"
			       : "says failed",
		  sim_key_name(w->data));
}

/* --- The coordinator's verbs -------------------------------------------------------------------------------------- */

static kt_code hsm(sim_coord *c, kt_err *err)
{
	sim *s = c->s;
	if (c->hsm_lost)
		return kt_fail(err, KT_E_HSM, NULL, "CKR_SESSION_HANDLE_INVALID");
	if (sim_goes_wrong(s))
		return kt_fail(err, KT_E_HSM, NULL, "CKR_DEVICE_ERROR");
	return KT_OK;
}

static void generate(sim *s, cJSON *result)
{
	s->w.key_made = true;
	(void)cJSON_AddStringToObject(result, "id", "key");
}

static void escrow(sim *s, cJSON *result)
{
	bool good = s->w.key_made && !sim_goes_wrong(s);
	s->w.escrowed = good;
	(void)cJSON_AddBoolToObject(result, "recovered", good);
}

static void backup_key(sim *s, cJSON *result)
{
	bool good = !sim_goes_wrong(s);
	s->w.backup_key_escrowed = good;
	(void)cJSON_AddBoolToObject(result, "recovered", good);
}

static void wrap(const kt_command *cmd, cJSON *result)
{
	char text[SIM_TEXT];
	const char *kind = strcmp(cmd->verb, "backup.wrap") == 0 ? "backup-" : "";
	(void)snprintf(text, sizeof text, "%sblob-%s", kind, cmd->node);
	(void)cJSON_AddStringToObject(result, "blob", text);
	(void)snprintf(text, sizeof text, "proof-%sblob-%s", kind, cmd->node);
	(void)cJSON_AddStringToObject(result, "expect", text);
}

void sim_world_act(sim_coord *c, const kt_command *cmd, kt_status *status, cJSON *result, kt_err *err)
{
	*status = hsm(c, err) == KT_OK ? KT_STATUS_OK : KT_STATUS_FAILED;
	if (*status != KT_STATUS_OK || strcmp(cmd->verb, "hsm.check") == 0)
		return;
	if (strcmp(cmd->verb, "key.generate") == 0)
		generate(c->s, result);
	else if (strcmp(cmd->verb, "key.escrow") == 0)
		escrow(c->s, result);
	else if (strcmp(cmd->verb, "backup.key") == 0)
		backup_key(c->s, result);
	else
		wrap(cmd, result);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated cluster: nodes with agents that obey docs/FORMATS.md, sections 1 and 2, and lie where an application
 * may. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

uint64_t sim_random(sim_rng *r)
{
	uint64_t z = (r->s += UINT64_C(0x9e3779b97f4a7c15));
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

size_t sim_below(sim_rng *r, size_t n)
{
	return (size_t)(sim_random(r) % n);
}

bool sim_chance(sim_rng *r, unsigned permille)
{
	return sim_below(r, 1000) < permille;
}

void sim_world_break(sim_world *w, const char *fmt, ...)
{
	if (w->broken[0])
		return;
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(w->broken, sizeof w->broken, fmt, ap);
	va_end(ap);
}

void sim_world_init(sim_world *w, sim_rng *rng, size_t nodes)
{
	*w = (sim_world){.rng = rng, .faults = true, .n = nodes};
	for (size_t i = 0; i < nodes; i++)
		w->node[i] = (sim_node){.up = true, .reachable = true, .service = true};
}

void sim_world_free(sim_world *w)
{
	for (size_t i = 0; i < w->n; i++)
		for (size_t s = 0; s < w->node[i].spooled; s++)
			cJSON_Delete(w->node[i].spool[s].result);
}

/* --- Replies ------------------------------------------------------------------------------------------------------ */

static sim_reply reply_ok(void)
{
	return (sim_reply){.status = KT_STATUS_OK, .result = cJSON_CreateObject()};
}

static sim_reply reply_bad(kt_status status, kt_code code, const char *why)
{
	sim_reply r = {.status = status};
	KT_IGNORE(kt_fail(&r.error, code, NULL, "%s", why));
	return r;
}

static sim_reply reply_text(const char *name, const char *value)
{
	sim_reply r = reply_ok();
	(void)cJSON_AddStringToObject(r.result, name, value);
	return r;
}

static sim_reply reply_bool(const char *name, bool value)
{
	sim_reply r = reply_ok();
	(void)cJSON_AddBoolToObject(r.result, name, value);
	return r;
}

static const char *arg_text(const sim_request *r, const char *name)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(r->c.args, name);
	return cJSON_IsString(v) ? v->valuestring : "";
}

/* Things that go wrong, only while faults are on. */
static bool goes_wrong(sim_world *w)
{
	return w->faults && sim_chance(w->rng, w->fail);
}

/* --- Verbs -------------------------------------------------------------------------------------------------------- */

typedef struct deed {
	sim_world *w;
	sim_node *n;
	size_t node;
	const sim_request *r;
	sim_spool *spool;
} deed;

static sim_reply do_look(deed *d)
{
	if (goes_wrong(d->w))
		return reply_bad(KT_STATUS_FAILED, KT_E_REFUSED, "a check failed");
	return reply_ok();
}

static sim_reply do_stop(deed *d)
{
	bool was = d->spool->was_active;
	if (goes_wrong(d->w))
		return reply_bad(KT_STATUS_FAILED, KT_E_IO, "it does not stop");
	d->n->service = false;
	d->w->changed = true;
	return reply_bool("was_active", was);
}

static sim_reply do_start(deed *d)
{
	const cJSON *wanted = cJSON_GetObjectItemCaseSensitive(d->r->c.args, "if");
	if (cJSON_IsFalse(wanted))
		return reply_ok();
	if (goes_wrong(d->w))
		return reply_bad(KT_STATUS_FAILED, KT_E_IO, "it does not start");
	d->n->service = true;
	d->w->version += d->w->rekey_started == 0; /* the canary's first writes are the price of a way back */
	return reply_ok();
}

static sim_reply do_gate(deed *d)
{
	if (d->n->service || (d->w->faults && sim_chance(d->w->rng, 50)))
		return reply_bad(KT_STATUS_RETRY, KT_E_REFUSED, "somebody is live");
	return reply_bool("quiet", true);
}

static void sha_of(const sim_world *w, char out[32])
{
	(void)snprintf(out, 32, "sha-%d", (int)w->backup_id);
}

static sim_reply do_backup(deed *d)
{
	char sha[32];
	if (goes_wrong(d->w))
		return reply_bad(KT_STATUS_FAILED, KT_E_IO, "disk full");
	d->w->backup = true;
	d->w->backup_checked = false;
	d->w->backup_version = d->w->version;
	d->w->backup_id++;
	sha_of(d->w, sha);
	return reply_text("sha256", sha);
}

static bool right_archive(const deed *d)
{
	char sha[32];
	sha_of(d->w, sha);
	return d->w->backup && strcmp(arg_text(d->r, "sha256"), sha) == 0;
}

static sim_reply do_backup_check(deed *d)
{
	if (!right_archive(d))
		return reply_bad(KT_STATUS_FAILED, KT_E_IO, "the archive has another checksum");
	bool good = !goes_wrong(d->w);
	d->w->backup_checked = good;
	return reply_bool("checked", good);
}

static sim_reply do_restore(deed *d)
{
	sim_world *w = d->w;
	if (!right_archive(d) || goes_wrong(w))
		return reply_bad(KT_STATUS_FAILED, KT_E_IO, "the restore failed");
	if (w->rekey_running)
		sim_world_break(w, "S1: a restore while the rekey runs");
	if (w->backup_version != w->version)
		sim_world_break(w, "S3: the restore loses writes (version %d of %d)", (int)w->backup_version,
				(int)w->version);
	if (!goes_wrong(w)) /* else it lies */
		w->data = SIM_OLD;
	return reply_ok();
}

static sim_reply do_receive(deed *d)
{
	char proof[64];
	const char *blob = arg_text(d->r, "blob");
	bool wrong = goes_wrong(d->w);
	(void)snprintf(proof, sizeof proof, "proof-%s", wrong ? "of-another-key" : blob);
	d->n->slot = !wrong;
	d->w->changed = true;
	return reply_text("proof", proof);
}

static sim_reply do_key_install(deed *d)
{
	if (goes_wrong(d->w))
		return reply_bad(KT_STATUS_FAILED, KT_E_IO, "disk full");
	d->n->key_file = d->n->slot;
	return reply_ok();
}

static sim_reply do_forget(deed *d)
{
	if (goes_wrong(d->w))
		return reply_bad(KT_STATUS_FAILED, KT_E_IO, "not removed");
	d->n->slot = false;
	if (arg_text(d->r, "path")[0])
		d->n->key_file = false;
	return reply_ok();
}

static sim_reply do_env(deed *d)
{
	if (goes_wrong(d->w))
		return reply_bad(KT_STATUS_FAILED, KT_E_IO, "disk full");
	d->n->env = SIM_NEW;
	return reply_ok();
}

static sim_reply do_env_back(deed *d)
{
	if (goes_wrong(d->w))
		return reply_bad(KT_STATUS_FAILED, KT_E_IO, "disk full");
	d->n->env = SIM_OLD;
	return reply_ok();
}

/* S2, S3 at the moment in which the rekey really starts. */
static void check_rekey_start(sim_world *w)
{
	if (++w->rekey_started > 1)
		sim_world_break(w, "S1: the rekey is started a second time");
	for (size_t i = 0; i < w->n; i++) {
		if (w->node[i].service)
			sim_world_break(w, "S2: the rekey starts while n%zu is live", i);
		if (!w->node[i].slot)
			sim_world_break(w, "S3: the rekey starts and n%zu has not proven the new key", i);
	}
	if (!w->backup || !w->backup_checked || w->backup_version != w->version)
		sim_world_break(w, "S3: the rekey starts without a tested backup of the data as it is");
	if (!w->escrowed)
		sim_world_break(w, "S3: the rekey starts without a recovered escrow");
}

static sim_reply do_exec(deed *d)
{
	check_rekey_start(d->w);
	d->w->rekey_running = true;
	return (sim_reply){.later = true};
}

static sim_reply do_probe(deed *d)
{
	static const char *const word[] = {[SIM_OLD] = "old", [SIM_NEW] = "new", [SIM_MIXED] = "mixed"};
	if (goes_wrong(d->w))
		return reply_bad(KT_STATUS_FAILED, KT_E_IO, "the probe does not run");
	return reply_text("verdict", goes_wrong(d->w) ? "unknown" : word[d->w->data]);
}

static sim_reply do_verify(deed *d)
{
	if (!d->n->service || goes_wrong(d->w))
		return reply_bad(KT_STATUS_FAILED, KT_E_REFUSED, "the application does not answer");
	return reply_ok();
}

static sim_reply do_generate(deed *d)
{
	if (goes_wrong(d->w))
		return reply_bad(KT_STATUS_FAILED, KT_E_HSM, "CKR_DEVICE_ERROR");
	d->w->key_made = true;
	return reply_text("id", "key");
}

static sim_reply do_escrow(deed *d)
{
	bool good = d->w->key_made && !goes_wrong(d->w);
	d->w->escrowed = good;
	return reply_bool("recovered", good);
}

static sim_reply do_wrap(deed *d)
{
	char text[64];
	(void)snprintf(text, sizeof text, "blob-%s", d->r->c.node);
	sim_reply r = reply_text("blob", text);
	(void)snprintf(text, sizeof text, "proof-blob-%s", d->r->c.node);
	(void)cJSON_AddStringToObject(r.result, "expect", text);
	return r;
}

static const struct verb {
	const char *name;
	bool changes;
	sim_reply (*act)(deed *);
} verbs[] = {
	{"preflight", false, do_look},
	{"hsm.check", false, do_look},
	{"service.stop", true, do_stop},
	{"service.start", true, do_start},
	{"gate.check", false, do_gate},
	{"backup.create", true, do_backup},
	{"backup.check", true, do_backup_check},
	{"backup.restore", true, do_restore},
	{"key.receive", true, do_receive},
	{"key.install", true, do_key_install},
	{"key.forget", true, do_forget},
	{"env.install", true, do_env},
	{"env.restore", true, do_env_back},
	{"exec", true, do_exec},
	{"probe", false, do_probe},
	{"command", false, do_verify},
	{"key.generate", false, do_generate},
	{"key.escrow", false, do_escrow},
	{"key.wrap", false, do_wrap},
};

static const struct verb *find_verb(const char *name)
{
	for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
		if (strcmp(verbs[i].name, name) == 0)
			return &verbs[i];
	abort();
}

/* --- The spool ---------------------------------------------------------------------------------------------------- */

static sim_spool *find_spool(sim_node *n, const kt_command *c)
{
	for (size_t i = 0; i < n->spooled; i++)
		if (n->spool[i].attempt == c->attempt && n->spool[i].role == c->role &&
		    strcmp(n->spool[i].step, c->step) == 0)
			return &n->spool[i];
	return NULL;
}

static sim_spool *add_spool(sim_node *n, const kt_command *c)
{
	if (n->spooled == SIM_SPOOL)
		abort();
	sim_spool *s = &n->spool[n->spooled++];
	*s = (sim_spool){.role = c->role, .attempt = c->attempt, .was_active = n->service};
	(void)snprintf(s->step, sizeof s->step, "%s", c->step);
	return s;
}

static void keep_outcome(sim_spool *s, const sim_reply *r)
{
	s->done = true;
	s->status = r->status;
	s->result = r->result ? cJSON_Duplicate(r->result, true) : NULL;
	s->error = r->error;
}

static sim_reply first_outcome(const sim_spool *s)
{
	return (sim_reply){
		.status = s->status,
		.result = s->result ? cJSON_Duplicate(s->result, true) : NULL,
		.error = s->error,
	};
}

/* `exec` that is in the spool already, or must not be started. False: it is to be started now. */
static bool exec_known(deed *d, bool known, sim_reply *out)
{
	if (known && d->w->rekey_running)
		*out = (sim_reply){.later = true};
	else if (known)
		*out = reply_bad(KT_STATUS_UNKNOWN, KT_E_UNKNOWN, "started, outcome unknown");
	else if (d->r->c.settle)
		*out = reply_bad(KT_STATUS_FAILED, KT_E_REFUSED, "never started");
	else
		return false;
	if (!out->later)
		keep_outcome(d->spool, out);
	return true;
}

static sim_reply act_on_node(sim_world *w, const sim_request *r, const struct verb *v)
{
	sim_node *n = &w->node[r->node];
	deed d = {.w = w, .n = n, .node = r->node, .r = r};
	sim_reply out;
	if (r->epoch < n->epoch || (r->epoch == n->epoch && r->connection < n->connection))
		return reply_bad(KT_STATUS_FAILED, KT_E_REFUSED, "a newer coordinator has this node");
	n->epoch = r->epoch;
	n->connection = r->connection;
	if (!v->changes)
		return v->act(&d);
	d.spool = find_spool(n, &r->c);
	if (d.spool && d.spool->done)
		return first_outcome(d.spool);
	bool known = d.spool != NULL;
	if (!known)
		d.spool = add_spool(n, &r->c);
	if (strcmp(v->name, "exec") == 0 && exec_known(&d, known, &out))
		return out;
	out = v->act(&d);
	/* A node that dies between the work and its record does idempotent work again. */
	if (w->faults && !out.later && sim_chance(w->rng, 5)) {
		cJSON_Delete(out.result);
		sim_world_crash(w, r->node);
		return (sim_reply){.later = true};
	}
	if (!out.later)
		keep_outcome(d.spool, &out);
	return out;
}

sim_reply sim_world_act(sim_world *w, const sim_request *r)
{
	const struct verb *v = find_verb(r->c.verb);
	if (r->c.place == KT_PLACE_NODE)
		return act_on_node(w, r, v);
	deed d = {.w = w, .r = r};
	return v->act(&d);
}

/* --- What happens by itself --------------------------------------------------------------------------------------- */

static void record_rekey(sim_world *w, const sim_reply *r)
{
	sim_node *n = &w->node[0];
	for (size_t i = 0; i < n->spooled; i++)
		if (strcmp(n->spool[i].step, "rekey") == 0 && n->spool[i].role == KT_ROLE_DO && !n->spool[i].done)
			keep_outcome(&n->spool[i], r);
	cJSON_Delete(r->result);
}

void sim_world_rekey_ends(sim_world *w)
{
	w->rekey_running = false;
	size_t truth = w->faults ? sim_below(w->rng, 10) : 0;
	w->data = truth < 6 ? SIM_NEW : truth < 8 ? SIM_MIXED : SIM_OLD;
	bool lies = w->faults && sim_chance(w->rng, 200);
	bool says_ok = (w->data == SIM_NEW) != lies;
	w->rekey_completed += w->data == SIM_NEW;
	sim_reply r = says_ok ? reply_ok() : reply_bad(KT_STATUS_FAILED, KT_E_REFUSED, "exit 1");
	record_rekey(w, &r);
}

void sim_world_crash(sim_world *w, size_t node)
{
	sim_node *n = &w->node[node];
	n->up = false;
	n->crashed = true;
	n->service = false;
	if (node == 0 && w->rekey_running) {
		w->rekey_running = false; /* its spool has no outcome: `unknown` */
		w->data = (sim_key)sim_below(w->rng, 3);
		w->rekey_completed += w->data == SIM_NEW;
	}
}

void sim_world_start_by_hand(sim_world *w, size_t node)
{
	w->node[node].service = true;
	w->version++;
	w->wrote_by_hand = true;
}

/* --- What must always hold ---------------------------------------------------------------------------------------- */

void sim_world_check(sim_world *w)
{
	if (w->rekey_completed > 1)
		sim_world_break(w, "S1: the rekey was completed %u times", w->rekey_completed);
	if (w->data != SIM_OLD && !w->escrowed)
		sim_world_break(w, "S5: the data needs the new key, and there is no escrow");
	for (size_t i = 0; i < w->n; i++) {
		const sim_node *n = &w->node[i];
		if (n->service && n->env != w->data)
			sim_world_break(w, "S4: n%zu runs with the %s key, the data is %s", i,
					n->env == SIM_NEW ? "new" : "old",
					w->data == SIM_NEW   ? "new"
					: w->data == SIM_OLD ? "old"
							     : "mixed");
		if (n->service && w->rekey_running)
			sim_world_break(w, "S2: n%zu is live while the rekey runs", i);
		if (n->env == SIM_NEW && !n->key_file)
			sim_world_break(w, "S5: n%zu has no new key file any more and its env names it", i);
	}
}

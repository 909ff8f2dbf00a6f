/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/fullturn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "orchestrator/journal/replay.h"
#include "orchestrator/plan/plan.h"
#include "orchestrator/turn/group.h"
#include "tests/sim/chance.h"

#define RUN "20261123T204726Z-1a2b3c"
enum { HSM_MS = 6, TEXT = 8192, WRAPPED = 344 };

/* --- syncs -------------------------------------------------------------------------------------------------------- */

static size_t syncs;

int fsync(int fd)
{
	syncs++;
	return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
	syncs++;
	return (int)syscall(SYS_fdatasync, fd);
}

size_t fullturn_memory_kib(void)
{
	char line[256];
	size_t kib = 0;
	FILE *f = fopen("/proc/self/status", "re");
	while (f && fgets(line, sizeof line, f))
		if (strncmp(line, "VmHWM:", 6) == 0)
			kib = strtoul(line + 6, NULL, 10);
	if (f)
		(void)fclose(f);
	return kib;
}

/* --- the plan ----------------------------------------------------------------------------------------------------- */

static kt_code plan_of(const kt_cluster *c, cJSON **plan, size_t *bytes, kt_err *err)
{
	kt_playbook p;
	char digest[KT_SHA256_HEX];
	kt_buf text = KT_BUF_INIT;
	KT_TRY(kt_playbook_load("looker", &p, err));
	kt_located *at = calloc(c->nodes_count, sizeof *at);
	for (size_t i = 0; at && i < c->nodes_count; i++)
		at[i] = (kt_located){.uri = "file:/home/lookerops/looker/cmk", .kcv = "a1b2c3"};
	kt_plan_input in = {.cluster = c, .playbook = &p, .run = RUN, .located = at};
	kt_code rc = at ? kt_plan_make(&in, plan, digest, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = kt_json_print(*plan, &text, err);
	*bytes = text.len;
	kt_buf_free(&text);
	free(at);
	kt_playbook_free(&p);
	return rc;
}

static kt_code make_plan(const fullturn_options *o, cJSON **plan, size_t *bytes, kt_err *err)
{
	char text[TEXT];
	kt_cluster c;
	(void)snprintf(text, sizeof text,
		       "{\"cluster\":\"looker\",\"playbook\":\"looker\",\"nodes\":[{\"name\":\"web[0001-%04zu]\","
		       "\"host\":\"${node}.example.com\"}],\"vars\":{\"database\":\"/srv/looker/looker.db\","
		       "\"start_batch\":%zu},\"hsm\":{\"uri\":\"pkcs11:token=t;serial=1?pin-source=file:/p\"},"
		       "\"key\":{\"to\":\"file:${dir}/cmk-${run}\"}}",
		       o->nodes, o->start_batch);
	KT_TRY(kt_cluster_parse("cluster.json", text, strlen(text), "/home/me", &c, err));
	kt_code rc = plan_of(&c, plan, bytes, err);
	kt_cluster_free(&c);
	return rc;
}

/* --- what the nodes answer, and when ------------------------------------------------------------------------------ */

/* %s: the node. As long as real answers are; what is said twice in one turn is said twice here. */
static const struct answer {
	const char *verb;
	int64_t least_ms, most_ms;
	const char *result;
} answers[] = {
	{"facts", 200, 3000,
	 "{'agent':'0.1.0','boot_id':'0d1cb3f2-5f1b-4a3c-9a4f-3a3a6f0d7a10','epoch':0,'hostname':'%s.example.com',"
	 "'kernel':'6.1.0-18-amd64','time_ms':1764102446123,'uid':0}"},
	{"preflight", 300, 5000,
	 "{'env_names':['JAVA_HOME','LKR_MASTER_KEY_FILE','LOOKER_MEMORY','LOOKERARGS','TZ'],'findings':[],"
	 "'free_bytes':81604378624,'kcv':'a1b2c3','needed_bytes':1073741824,'service':'active','time_ms':1764102446123,"
	 "'uid':0,'unit_sha256':'9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'}"},
	{"service.stop", 3000, 40000, "{'state':'inactive','was_active':true}"},
	{"gate.check", 300, 3000, "{'count':0,'findings':[],'quiet':true}"},
	{"backup.create", 5000, 60000,
	 "{'archive':'/var/backups/keyturn/" RUN
	 "-%s.ktbackup','archive_bytes':412316860,'bytes':1073741824,'encrypted':true,'files':14823,"
	 "'kcv':'c0ffee','proof':'00112233445566778899aabbccddeeff',"
	 "'manifest_sha256':'9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08','notes':["
	 "'left out: /home/lookerops/looker/.cache','left out: /home/lookerops/looker/cmk (a key)'],"
	 "'sha256':'2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae'}"},
	{"backup.check", 5000, 60000, "{'bytes':1073741824,'checked':true,'files':14823,'loaded':false}"},
	{"key.receive", 50, 2000, "{'kcv':'c0ffee','proof':'00112233445566778899aabbccddeeff'}"},
	{"key.install", 50, 1000, "{'kcv':'c0ffee','path':'/home/lookerops/looker/cmk-" RUN "'}"},
	{"key.forget", 50, 1000, "{}"},
	{"probe", 4000, 5000, "{'exit':0,'ms':4123,'tail':'the last word','verdict':'old'}"},
	{"exec", 290000, 300000,
	 "{'exit':0,'log':'/var/lib/keyturn/spool/" RUN "/rekey.do.1/output','ms':295123,'signal':0,"
	 "'tail':'rekeyed 120034 items'}"},
	{"env.install", 50, 1000,
	 "{'kept':'/home/lookerops/looker/looker.env.keyturn-" RUN ".old',"
	 "'sha256':'2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae'}"},
	{"service.start", 20000, 40000, "{'state':'active'}"},
	{"command", 5000, 10000, "{'exit':0,'ms':6123,'signal':0,'tail':'120034 items opened'}"},
	{"hsm.check", HSM_MS, HSM_MS, "{'mechanisms':['CKM_AES_KEY_WRAP_PAD','CKM_RSA_PKCS_OAEP']}"},
	{"drift.check", 0, 0, "{}"},
	{"key.generate", HSM_MS, HSM_MS,
	 "{'id':'4f1a','kcv':'c0ffee','kcv_method':'cmac-zero16','label':'cmk-" RUN "'}"},
	{"backup.key", HSM_MS, HSM_MS,
	 "{'id':'4f1b','kcv':'c0ffee','kcv_method':'cmac-zero16','path':'looker.state/escrow/" RUN
	 "-backup.json','recovered':true}"},
	{"key.escrow", HSM_MS, HSM_MS, "{'kcv':'c0ffee','path':'looker.state/escrow/" RUN ".json','recovered':true}"},
};

/* key.wrap, backup.wrap and key.rehearse: a wrapped key, as wire/blob.h has it. */
static const char wrapped[] =
	"{'blob':{'v':1,'purpose':'transport','format':'rsa-oaep-sha256','mechanism':'CKM_RSA_PKCS_OAEP','token':{"
	"'label':'keyturn','manufacturer':'SoftHSM project','serial':'8d4b1f2c3a5e6f70','model':'SoftHSM v2'},"
	"'wrapping_key':{'spki_sha256':'2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae'},"
	"'key':{'type':'aes','bits':256,'kcv':'c0ffee','kcv_method':'cmac-zero16'},'run':'" RUN "','node':'%s',"
	"'wrapped':'%.*s'},'expect':'00112233445566778899aabbccddeeff','label':'keyturn-proof/1:" RUN ":%s',"
	"'nonce':'ffeeddccbbaa99887766554433221100'}";

static const struct answer *answer_of(const char *verb)
{
	for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++)
		if (strcmp(answers[i].verb, verb) == 0)
			return &answers[i];
	return NULL;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
static kt_code result_of(const kt_command *c, cJSON **out, kt_err *err)
{
	char text[TEXT];
	char base64[WRAPPED + 1];
	const struct answer *a = answer_of(c->verb);
	memset(base64, 'Q', WRAPPED);
	base64[WRAPPED] = '\0';
	if (a)
		(void)snprintf(text, sizeof text, a->result, c->node);
	else
		(void)snprintf(text, sizeof text, wrapped, c->node, (int)WRAPPED, base64, c->node);
	for (char *p = text; *p; p++)
		if (*p == '\'')
			*p = '"';
	char *verdict = c->role == KT_ROLE_PROBE ? strstr(text, "\"old\"") : NULL;
	if (verdict) /* after the rekey */
		memcpy(verdict, "\"new\"", 5);
	return kt_json_parse(c->verb, text, strlen(text), out, err);
}
#pragma GCC diagnostic pop

/* --- what is under way -------------------------------------------------------------------------------------------- */

typedef struct flight {
	kt_command c; /* args as the driver keeps them */
	int64_t sent_ms, due_ms;
} flight;

typedef struct turn {
	kt_journal *journal;
	kt_engine *engine;
	kt_group group;
	int64_t now_ms, epoch;
	sim_rng rng;
	flight *flight; /* a heap by due_ms */
	size_t n, cap;
	kt_entry *entry; /* the batch */
	kt_buf *body;
	size_t entries, cap_entries;
	int64_t hsm_free_ms;
	fullturn_figures *out;
	kt_err *err;
} turn;

static void *grow(void *list, size_t n, size_t *cap, size_t size)
{
	if (n < *cap)
		return list;
	*cap = *cap ? 2 * *cap : 64;
	list = realloc(list, *cap * size);
	if (!list)
		abort();
	return list;
}

static void sift(turn *t, size_t i, size_t k)
{
	flight f = t->flight[i];
	t->flight[i] = t->flight[k];
	t->flight[k] = f;
}

static void push(turn *t, const flight *f)
{
	t->flight = grow(t->flight, t->n, &t->cap, sizeof *t->flight);
	t->flight[t->n] = *f;
	for (size_t i = t->n++; i && t->flight[i].due_ms < t->flight[(i - 1) / 2].due_ms; i = (i - 1) / 2)
		sift(t, i, (i - 1) / 2);
}

static flight pop(turn *t)
{
	flight first = t->flight[0];
	t->flight[0] = t->flight[--t->n];
	for (size_t i = 0;;) {
		size_t least = i;
		for (size_t k = 2 * i + 1; k <= 2 * i + 2 && k < t->n; k++)
			if (t->flight[k].due_ms < t->flight[least].due_ms)
				least = k;
		if (least == i)
			return first;
		sift(t, i, least);
		i = least;
	}
}

/* --- the driver, as turn.c has it --------------------------------------------------------------------------------- */

static kt_code record(turn *t, const kt_event *ev)
{
	if (t->entries == t->cap_entries) {
		size_t cap = t->cap_entries;
		t->body = grow(t->body, t->entries, &cap, sizeof *t->body);
		t->entry = grow(t->entry, t->entries, &t->cap_entries, sizeof *t->entry);
	}
	kt_buf *body = &t->body[t->entries];
	*body = KT_BUF_INIT;
	KT_TRY(kt_entry_of_event(ev, RUN, t->epoch, t->now_ms, NULL, body, &t->entry[t->entries], t->err));
	t->entries++;
	return kt_engine_apply(t->engine, ev, t->err);
}

static kt_code commit(turn *t)
{
	if (t->entries == 0)
		return KT_OK;
	int64_t began = kt_clock_mono_ms();
	kt_code rc = kt_journal_append(t->journal, t->entry, t->entries, t->err);
	int64_t took = kt_clock_mono_ms() - began;
	t->out->commits++;
	t->out->entries += t->entries;
	t->now_ms += took;
	kt_group_committed(&t->group, t->now_ms - took, t->now_ms);
	while (t->entries)
		kt_buf_free(&t->body[--t->entries]);
	return rc;
}

static void launch(turn *t, flight *f)
{
	const struct answer *a = answer_of(f->c.verb);
	f->sent_ms = t->now_ms + f->c.delay_ms;
	if (f->c.place == KT_PLACE_NODE) {
		int64_t span = a->most_ms - a->least_ms;
		f->due_ms = f->sent_ms + a->least_ms + (int64_t)sim_below(&t->rng, (size_t)span + 1);
	} else { /* one worker; what waits for it is done together, as far as anybody sees */
		t->hsm_free_ms = (t->hsm_free_ms > t->now_ms ? t->hsm_free_ms : t->now_ms) + HSM_MS;
		f->due_ms = t->hsm_free_ms;
	}
	push(t, f);
}

/* All that the worker had is seen when it has come to its end. */
static void hsm_together(turn *t, size_t first)
{
	for (size_t i = first; i < t->n; i++)
		if (t->flight[i].c.place == KT_PLACE_COORDINATOR)
			t->flight[i].due_ms = t->hsm_free_ms;
}

static kt_code make_intents(turn *t)
{
	size_t n = 0, cap = 0;
	flight *made = NULL;
	kt_code rc = KT_OK;
	for (bool have = true; rc == KT_OK && have;) {
		flight f = {0};
		rc = kt_engine_next(t->engine, &f.c, &have, t->err);
		if (rc != KT_OK || !have)
			break;
		const kt_event ev = {.kind = KT_EVENT_INTENT,
				     .step = f.c.step,
				     .role = f.c.role,
				     .node = f.c.node,
				     .attempt = f.c.attempt};
		rc = record(t, &ev);
		made = grow(made, n, &cap, sizeof *made);
		made[n++] = f;
	}
	kt_engine_status s = kt_engine_state(t->engine);
	if (rc == KT_OK && s.at_rest)
		rc = record(t, &(kt_event){.kind = KT_EVENT_END, .state = s.state});
	if (rc == KT_OK)
		rc = commit(t);
	for (size_t i = 0; i < n; i++)
		launch(t, &made[i]);
	hsm_together(t, 0);
	free(made);
	return rc;
}

/* A few nodes are not quiet when they are asked for the first time. */
static bool not_yet(const kt_command *c)
{
	return strcmp(c->verb, "gate.check") == 0 && c->attempt == 1 && c->node[strlen(c->node) - 1] == '7';
}

static kt_code arrive(turn *t)
{
	flight f = pop(t);
	cJSON *result = NULL;
	kt_err busy = KT_ERR_INIT;
	bool again = not_yet(&f.c);
	kt_code rc = result_of(&f.c, &result, t->err);
	if (f.c.problem.code != KT_OK)
		rc = kt_fail(t->err, f.c.problem.code, NULL, "%s", f.c.problem.msg);
	KT_IGNORE(kt_fail(&busy, KT_E_REFUSED, "stop it", "somebody is connected"));
	const kt_event ev = {.kind = KT_EVENT_OUTCOME,
			     .step = f.c.step,
			     .role = f.c.role,
			     .node = f.c.node,
			     .attempt = f.c.attempt,
			     .status = again ? KT_STATUS_RETRY : KT_STATUS_OK,
			     .result = result,
			     .error = again ? &busy : NULL};
	if (rc == KT_OK)
		rc = record(t, &ev);
	kt_group_outcome(&t->group, t->now_ms, t->now_ms - f.sent_ms);
	cJSON_Delete(result);
	kt_command_free(&f.c);
	return rc;
}

static kt_code is_wanted(turn *t, bool *out)
{
	kt_command c;
	*out = kt_engine_state(t->engine).at_rest;
	if (*out)
		return KT_OK;
	KT_TRY(kt_engine_next(t->engine, &c, out, t->err));
	if (*out)
		kt_command_free(&c);
	return KT_OK;
}

/* One turn of the loop: what has arrived by now, then what is due; then time goes on to what comes next. */
static kt_code turn_once(turn *t)
{
	bool wanted;
	while (t->n && t->flight[0].due_ms <= t->now_ms)
		KT_TRY(arrive(t));
	KT_TRY(is_wanted(t, &wanted));
	int64_t due = kt_group_due(&t->group, (kt_group_view){.wanted = wanted, .under_way = t->n});
	if (due <= t->now_ms)
		return make_intents(t);
	int64_t next = t->n && t->flight[0].due_ms < due ? t->flight[0].due_ms : due;
	if (next == INT64_MAX)
		return kt_fail(t->err, KT_E_INTERNAL, NULL, "nothing is under way and nothing is wanted");
	t->out->held_up_ms += wanted ? next - t->now_ms : 0;
	t->now_ms = next;
	return KT_OK;
}

static kt_code begin(turn *t, const cJSON *plan)
{
	kt_entry e;
	kt_buf body = KT_BUF_INIT;
	KT_TRY(kt_engine_new(plan, &t->engine, t->err));
	kt_code rc = kt_entry_of_plan(plan, RUN, t->now_ms, &body, &e, t->err);
	if (rc == KT_OK)
		rc = kt_journal_append(t->journal, &e, 1, t->err);
	kt_buf_free(&body);
	KT_TRY(rc);
	KT_TRY(kt_engine_apply(t->engine, &(kt_event){.kind = KT_EVENT_BEGIN}, t->err));
	KT_TRY(kt_journal_take(t->journal, RUN, t->now_ms, &t->epoch, t->err));
	t->out->commits += 2;
	t->out->entries += 2;
	return kt_engine_apply(t->engine, &(kt_event){.kind = KT_EVENT_TAKE, .epoch = t->epoch}, t->err);
}

static kt_code drive(turn *t, const cJSON *plan)
{
	KT_TRY(begin(t, plan));
	int64_t began = t->now_ms;
	while (!kt_engine_state(t->engine).ended)
		KT_TRY(turn_once(t));
	t->out->simulated_ms = t->now_ms - began;
	kt_engine_status s = kt_engine_state(t->engine);
	return s.state == KT_RUN_TURNED ? KT_OK
					: kt_fail(t->err, KT_E_INTERNAL, NULL, "%s: %s: %s", kt_run_state_name(s.state),
						  s.failed_step ? s.failed_step : "", s.reason ? s.reason->msg : "");
}

kt_code fullturn_run(const fullturn_options *o, fullturn_figures *out, kt_err *err)
{
	cJSON *plan = NULL;
	*out = (fullturn_figures){0};
	turn t = {.now_ms = 1764102446000, .rng = {o->seed}, .out = out, .err = err};
	size_t before = syncs;
	KT_TRY(make_plan(o, &plan, &out->plan_bytes, err));
	kt_code rc = kt_journal_open(o->folder, KT_JOURNAL_WRITE, &t.journal, err);
	if (rc == KT_OK)
		rc = drive(&t, plan);
	kt_journal_close(t.journal);
	kt_engine_free(t.engine);
	while (t.n)
		kt_command_free(&t.flight[--t.n].c);
	while (t.entries)
		kt_buf_free(&t.body[--t.entries]);
	free(t.flight);
	free(t.entry);
	free(t.body);
	cJSON_Delete(plan);
	out->syncs = syncs - before;
	return rc;
}

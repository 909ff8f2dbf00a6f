/* SPDX-License-Identifier: Apache-2.0 */
/* The shipped playbook with one thing taken away, moved or added: each must be refused, with the rule that it breaks.
 */
#include "tests/unit/support.h"

#include "tests/unit/playbook/edit.h"

/* `set`: path and value (NULL: removed), up to three; `move`: a step in front of another, under a new name: a copy. */
typedef struct mutation {
	const char *what;
	const char *set[3][2];
	const char *move[3];
	const char *message;
	const char *path;
} mutation;

static const mutation mutations[] = {
	/* S1 */
	{"no once", {{"steps.rekey.once", NULL}}, {0}, "S1: phase rekey has one step only", "$.steps[19].phase: "},
	{"no rekey at all", {{"steps.rekey", NULL}}, {0}, "S1: no step is \"once\"", "$.steps: "},
	{"once twice", {{0}}, {"rekey", "env", "rekey2"}, "S1: a second step is \"once\"", "$.steps[20].once: "},
	{"once elsewhere",
	 {{"steps.rekey.once", NULL}, {"steps.env.once", "true"}},
	 {0},
	 "S1: ",
	 "$.steps[19].phase: "},
	{"exec elsewhere",
	 {{"steps.verify-canary.do", "'exec'"}},
	 {0},
	 "S1: exec is for the rekey alone",
	 "$.steps[22].do: "},
	{"rekey attached",
	 {{"steps.rekey.do", "'command'"}},
	 {0},
	 "S1: the rekey is done with exec",
	 "$.steps[19].do: "},
	{"rekey on all", {{"steps.rekey.on", "'all'"}}, {0}, "S1: the rekey runs on one node", "$.steps[19].on: "},
	{"rekey when", {{"steps.rekey.when", "{'to':'file'}"}}, {0}, "S1: the rekey is not conditional", ".when: "},
	{"rekey in rounds",
	 {{"steps.rekey.retry", "{'times':1,'every_s':1,'together':true}"}},
	 {0},
	 "\"together\" is for gate.check",
	 "$.steps[19].retry.together: "},
	{"no probe", {{"steps.rekey.probe", NULL}}, {0}, "S1: the rekey needs a \"probe\"", "$.steps[19]: "},
	{"probe that is none",
	 {{"steps.rekey.probe", "{'do':'facts','with':{}}"}},
	 {0},
	 "S1: the rekey needs a \"probe\"",
	 "$.steps[19]: "},
	/* S2 */
	{"no stop", {{"steps.stop", NULL}}, {0}, "S2: no service.stop on all", "$.steps: "},
	{"stop of one node", {{"steps.stop.on", "'rekey'"}}, {0}, "S2: no service.stop on all", "$.steps: "},
	{"no first gate", {{"steps.quiet", NULL}}, {0}, "S2: no gate.check on all in phase quiet", "$.steps: "},
	{"no second gate",
	 {{"steps.still-quiet", NULL}},
	 {0},
	 "S2: the step directly before the rekey",
	 "$.steps[18]: "},
	{"gate on one node",
	 {{"steps.still-quiet.on", "'rekey'"}},
	 {0},
	 "S2: the step directly before the rekey must be gate.check on all",
	 "$.steps[19]: "},
	{"gate only sometimes",
	 {{"steps.still-quiet.when", "{'to':'env'}"}},
	 {0},
	 "S2: the step directly before the rekey",
	 "$.steps[19]: "},
	{"something between gate and rekey",
	 {{0}},
	 {"still-quiet", "install", NULL},
	 "S2: the step directly",
	 "$.steps[19]: "},
	{"rounds apart",
	 {{"steps.quiet.retry.together", "false"}},
	 {0},
	 "S2: all nodes must be quiet in the same round",
	 "$.steps[7]: "},
	{"other known nodes",
	 {{"steps.still-quiet.with.known_nodes", "['web01']"}},
	 {0},
	 "S2: must be \"${nodes}\"",
	 "$.steps[18].with.known_nodes: "},
	{"start before the rekey",
	 {{"steps.again.phase", "'backup'"}},
	 {"canary", "backup", "again"},
	 "S2: nothing starts between the stop and the rekey",
	 "$.steps[10].do: "},
	/* S3 */
	{"no backup",
	 {{"steps.backup.do", "'command'"}, {"steps.backup.with", "{'command':{'argv':['x']}}"}},
	 {0},
	 "gives no \"archive\"",
	 "$.steps[11].with.archive: "},
	{"backup elsewhere",
	 {{"steps.backup.on", "'canary'"}, {"steps.restored.on", "'canary'"}},
	 {0},
	 "may be no such result",
	 "$.steps[19].undo.with.archive: "},
	{"backup before the gate",
	 {{"steps.backup.phase", "'stop'"},
	  {"steps.backup.with", "{'archive':'/a','paths':[],'secrets':[],'key_files':[]}"},
	  {"steps.backup.expect", NULL}},
	 {"backup", "quiet", NULL},
	 "S3: no backup.create on the rekey node between the gate",
	 "$.steps: "},
	{"backup not tested",
	 {{"steps.restored", NULL}},
	 {0},
	 "S3: this backup is never test-restored",
	 "$.steps[10]: "},
	{"another backup tested",
	 {{"steps.restored.with.sha256", "'abc'"}},
	 {0},
	 "S3: this backup is never test-restored",
	 "$.steps[10]: "},
	{"no restore", {{"steps.rekey.undo", NULL}}, {0}, "S3: the rekey's \"undo\" must restore", "$.steps[19]: "},
	{"restore of something else",
	 {{"steps.rekey.undo.with.archive", "'/other'"}},
	 {0},
	 "S3: the rekey's \"undo\" must restore the backup of step \"backup\"",
	 "$.steps[19].undo: "},
	{"backup key not escrowed",
	 {{"steps.backup-key.expect", NULL}},
	 {0},
	 "S3: before it come backup.key, which must",
	 "$.steps[10].with.blob: "},
	{"backup key wrapped for the canary alone",
	 {{"steps.backup-wrap.on", "'canary'"}},
	 {0},
	 "there may be no such result here",
	 "$.steps[10].with.blob: "},
	{"backup key not proved",
	 {{"steps.backup.expect", NULL}},
	 {0},
	 "S3: the backup's key is \"${backup-wrap.blob}\", and it must",
	 "$.steps[10].with.blob: "},
	{"backup under the new key",
	 {{"steps.backup.with.blob", "'${rehearse.blob}'"},
	  {"steps.restored.with.blob", "'${rehearse.blob}'"},
	  {"steps.rekey.undo.with.blob", "'${rehearse.blob}'"}},
	 {0},
	 "S3: the backup's key is \"${backup-wrap.blob}\"",
	 "$.steps[10].with.blob: "},
	{"test restore without the key",
	 {{"steps.restored.with.blob", NULL}},
	 {0},
	 "must have the same \"blob\", or none",
	 "$.steps[10].with: "},
	{"restore without the key",
	 {{"steps.rekey.undo.with.blob", NULL}},
	 {0},
	 "must have the same \"blob\", or none",
	 "$.steps[10].with: "},
	{"no key",
	 {{"steps.generate.do", "'hsm.check'"}},
	 {0},
	 "${generate.kcv}: hsm.check gives no \"kcv\"",
	 "$.steps[13].expect.kcv: "},
	{"no escrow", {{"steps.escrow", NULL}}, {0}, "S3: this key is never escrowed", "$.steps[12]: "},
	{"escrow not recovered",
	 {{"steps.escrow.expect", "{'kcv':'${generate.kcv}'}"}},
	 {0},
	 "S3: the escrow must \"expect\"",
	 "$.steps[13]: "},
	{"escrow of what key?",
	 {{"steps.escrow.expect", "{'recovered':true}"}},
	 {0},
	 "S3: the escrow must",
	 "$.steps[13]: "},
	{"two keys", {{0}}, {"generate", "escrow", "generate2"}, "S3: a run has one new key", "$.steps[13].do: "},
	{"delivery before the escrow",
	 {{0}},
	 {"wrap", "escrow", NULL},
	 "S3: the key leaves the HSM before",
	 "$.steps[13].do: "},
	/* S4 */
	{"no delivery", {{"steps.receive", NULL}}, {0}, "S4: the new key is not delivered", "$.steps: "},
	{"delivery to some",
	 {{"steps.receive.on", "'rest'"}},
	 {0},
	 "S4: every node needs the new key",
	 "$.steps[15].on: "},
	{"delivery without proof",
	 {{"steps.receive.expect", "{'kcv':'${generate.kcv}'}"}},
	 {0},
	 "S4: the delivery must \"expect\"",
	 "$.steps[15]: "},
	{"delivery without expect",
	 {{"steps.receive.expect", NULL}},
	 {0},
	 "S4: the delivery must \"expect\"",
	 "$.steps[15]: "},
	{"proof of the rehearsal",
	 {{"steps.receive.expect.proof", "'${rehearse.expect}'"}},
	 {0},
	 "S4: the delivery must \"expect\"",
	 "$.steps[15]: "},
	{"no key file", {{"steps.install", NULL}}, {0}, "S4: no key.install on all", "$.steps: "},
	{"key file only for some",
	 {{"steps.install.when", "{'to':'file','from':'env'}"}},
	 {0},
	 "S4: no key.install on all",
	 "$.steps: "},
	{"no env", {{"steps.env", NULL}}, {0}, "S4: ", "$.steps"},
	{"env before the rekey",
	 {{"steps.early.phase", "'key'"}},
	 {"env", "still-quiet", "early"},
	 "S4: new variables before the rekey",
	 "$.steps[18].do: "},
	{"start before env",
	 {{"steps.early.phase", "'env'"}},
	 {"canary", "env", "early"},
	 "S4: a node starts before it has the new variables",
	 "$.steps[20].do: "},
	{"all at once",
	 {{"steps.canary.on", "'all'"}},
	 {0},
	 "S4: before the commit only the canary",
	 "$.steps[21].on: "},
	{"canary not started", {{"steps.canary", NULL}}, {0}, "S4: the canary is not started", "$.steps[21]: "},
	{"rest before the commit",
	 {{0}},
	 {"start", "verify-canary", NULL},
	 "S4: before the commit only the canary",
	 "$.steps[22].on: "},
	{"commit by the start",
	 {{"steps.verify-canary.commit", NULL}, {"steps.start.commit", "true"}},
	 {0},
	 "S4: ",
	 "$.steps[23]"},
	{"rest never started", {{"steps.start", NULL}}, {0}, "S4: the rest is never started", "$.steps: "},
	{"rest never verified", {{"steps.verify", NULL}}, {0}, "S4: the rest is never verified", "$.steps[23]: "},
	/* S5 */
	{"old key removed",
	 {{"steps.forget.do", "'file.remove'"}, {"steps.forget.with", "{'path':'${from.path}'}"}},
	 {0},
	 "S5: a turn removes no file",
	 "$.steps[25].do: "},
	{"new key file forgotten",
	 {{"steps.forget.with.path", "'${from.path}'"}},
	 {0},
	 "S5: key.forget is for the way back",
	 "$.steps[25].do: "},
	{"old key overwritten",
	 {{"steps.install.with.path", "'${from.path}'"}},
	 {0},
	 "S5: must be \"${to.path}\"",
	 "$.steps[16].with.path: "},
	{"old key taken back",
	 {{"steps.install.undo.with.path", "'${from.path}'"}},
	 {0},
	 "S5: must be \"${to.path}\"",
	 "$.steps[16].undo.with.path: "},
	/* S6 */
	{"key as an argument",
	 {{"steps.rekey.with.command.argv", "['./looker','rekey',{'key':'to'}]"}},
	 {0},
	 "\"argv\" may hold strings only",
	 "$.steps[19].with.command: "},
	{"key in a concatenation",
	 {{"steps.rekey.with.command.argv", "{'$concat':[['./looker',{'key':'to'}]]}"}},
	 {0},
	 "S6: no key may stand here",
	 "$.steps[19].with.command.argv.$concat[0][1]: "},
	{"key as a path",
	 {{"steps.backup.with.paths", "[{'key':'from'}]"}},
	 {0},
	 "S6: no key may stand here",
	 "$.steps[10].with.paths[0]: "},
	{"another key",
	 {{"steps.backup.with.secrets", "[{'key':'old'}]"}},
	 {0},
	 "S6: \"key\" must be \"from\" or \"to\"",
	 "$.steps[10].with.secrets[0]: "},
	/* S7 */
	{"no commit", {{"steps.verify-canary.commit", NULL}}, {0}, "S7: no step is the commit", "$.steps: "},
	{"two commits",
	 {{"steps.verify.commit", "true"}},
	 {0},
	 "S7: a second step is the commit",
	 "$.steps[24].commit: "},
	{"commit before the rekey",
	 {{"steps.verify-canary.commit", NULL}, {"steps.generate.commit", "true"}},
	 {0},
	 "S7: the commit cannot come before the rekey",
	 "$.steps[12].commit: "},
	{"commit is the rekey",
	 {{"steps.verify-canary.commit", NULL}, {"steps.rekey.commit", "true"}},
	 {0},
	 "S7: the commit cannot come before the rekey",
	 "$.steps[19].commit: "},
	{"stop without start", {{"steps.stop.undo", NULL}}, {0}, "S7: service.stop needs an \"undo\"", "$.steps[6]: "},
	{"stop with another undo",
	 {{"steps.stop.undo", "{'do':'service.status','with':{'service':'${service}'}}"}},
	 {0},
	 "S7: service.stop needs an \"undo\" with service.start",
	 "$.steps[6].undo.do: "},
	{"env without restore", {{"steps.env.undo", NULL}}, {0}, "S7: env.install needs an \"undo\"", "$.steps[20]: "},
	{"delivery without forget", {{"steps.receive.undo", NULL}}, {0}, "S7: key.receive needs", "$.steps[15]: "},
	{"key file without forget", {{"steps.install.undo", NULL}}, {0}, "S7: key.install needs", "$.steps[16]: "},
	{"canary without stop", {{"steps.canary.undo", NULL}}, {0}, "S7: service.start needs", "$.steps[21]: "},
	{"the rest without stop", {{"steps.start.undo", NULL}}, {0}, "S7: service.start needs", "$.steps[23]: "},
	{"the slot is not brought back", {{"steps.forget.undo", NULL}}, {0}, "S7: key.forget needs", "$.steps[25]: "},
	{"another slot is brought back",
	 {{"steps.forget.undo.with.slot", "'other'"}},
	 {0},
	 "S7: \"slot\" must be the same",
	 "$.steps[25].undo.with: "},
	{"rehearsal that keeps",
	 {{"steps.rehearsed.with.keep", "true"}},
	 {0},
	 "S7: key.receive needs an \"undo\"",
	 "$.steps[5]: "},
	{"another env restored",
	 {{"steps.env.undo.with.path", "'/etc/other.env'"}},
	 {0},
	 "S7: \"path\" must be the same",
	 "$.steps[20].undo.with: "},
	{"another service started",
	 {{"steps.stop.undo.with.service", "{'unit':'x.service'}"}},
	 {0},
	 "S7: \"service\" must be the same",
	 "$.steps[6].undo.with: "},
};

static cJSON *apply(const mutation *m)
{
	cJSON *root = edit_shipped();
	if (m->move[0])
		edit_before(root, m->move[0], m->move[1], m->move[2]);
	for (size_t i = 0; i < 3 && m->set[i][0]; i++)
		edit_set(root, m->set[i][0], m->set[i][1]);
	return root;
}

static void every_mutation_is_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof mutations / sizeof mutations[0]; i++) {
		const mutation *m = &mutations[i];
		kt_err err = KT_ERR_INIT;
		kt_playbook p;
		if (edit_parse(apply(m), &p, &err) != KT_E_INPUT)
			fail_msg("%s: taken", m->what);
		if (!strstr(err.msg, m->message) || !strstr(err.msg, m->path))
			fail_msg("%s: \"%s\" does not say \"%s%s\"", m->what, err.msg, m->path, m->message);
		if (strncmp(err.msg, "edited.json:", 12) != 0 || strtol(err.msg + 12, NULL, 10) < 2)
			fail_msg("%s: no line: %s", m->what, err.msg);
	}
}

/* What is left after the edit machinery alone must be taken: else the test above proves nothing. */
static void the_shipped_one_is_taken(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_playbook p;
	assert_kt_ok(edit_parse(edit_shipped(), &p, &err));
	kt_playbook_free(&p);
}

/* Changes that are safe are not refused. */
static const mutation harmless[] = {
	{"no facts", {{"steps.facts", NULL}}, {0}, NULL, NULL},
	{"no rehearsal", {{"steps.rehearsed", NULL}, {"steps.rehearse", NULL}}, {0}, NULL, NULL},
	{"backups that are not encrypted",
	 {{"steps.backup.with.blob", NULL}, {"steps.restored.with.blob", NULL}, {"steps.rekey.undo.with.blob", NULL}},
	 {0},
	 NULL,
	 NULL},
	{"backup on the rekey node alone",
	 {{"steps.backup.on", "'rekey'"}, {"steps.restored.on", "'rekey'"}},
	 {0},
	 NULL,
	 NULL},
	{"key file whatever the kind", {{"steps.install.when", NULL}}, {0}, NULL, NULL},
	{"a third gate", {{"steps.gate3.phase", "'backup'"}}, {"quiet", "generate", "gate3"}, NULL, NULL},
	{"the rekey's outcome asked for again", {{"steps.rekey.retry", "{'times':9,'every_s':1}"}}, {0}, NULL, NULL},
	{"and not asked for again", {{"steps.rekey.retry", NULL}}, {0}, NULL, NULL},
	{"retire nothing", {{"steps.forget", NULL}}, {0}, NULL, NULL},
	{"verified by the log",
	 {{"steps.verify-canary.do", "'log.check'"},
	  {"steps.verify-canary.with", "{'path':'${dir}/log','has':['up']}"}},
	 {0},
	 NULL,
	 NULL},
};

static void harmless_changes_are_taken(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof harmless / sizeof harmless[0]; i++) {
		kt_err err = KT_ERR_INIT;
		kt_playbook p;
		if (edit_parse(apply(&harmless[i]), &p, &err) != KT_OK)
			fail_msg("%s: %s", harmless[i].what, err.msg);
		kt_playbook_free(&p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_shipped_one_is_taken),
		cmocka_unit_test(every_mutation_is_refused),
		cmocka_unit_test(harmless_changes_are_taken),
	};
	return cmocka_run_group_tests_name("safety", tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include "orchestrator/inventory/inventory.h"
#include "tests/unit/playbook/edit.h"

static void phases_have_names(void **state)
{
	(void)state;
	for (int i = 0; i < KT_PHASES; i++)
		assert_int_equal(kt_phase_find(kt_phase_name(i)), i);
	assert_int_equal(kt_phase_find("nonsense"), -1);
	assert_string_equal(kt_phase_name(-1), "?");
	assert_string_equal(kt_phase_name(KT_PHASES), "?");
}

/* Every embedded playbook is in the list of names, and can be loaded by it. */
static void shipped_playbooks_load_by_name(void **state)
{
	(void)state;
	size_t embedded = 0;
	size_t named = 0;
	for (const kt_embedded *f = kt_embedded_files; f->name; f++)
		embedded += strstr(f->name, ".schema.json") == NULL;
	for (; kt_playbook_names()[named]; named++) {
		kt_err err = KT_ERR_INIT;
		kt_playbook p;
		assert_kt_ok(kt_playbook_load(kt_playbook_names()[named], &p, &err));
		assert_string_equal(p.name, kt_playbook_names()[named]);
		assert_int_equal(strlen(p.sha256), 64);
		assert_true(p.version >= 1);
		assert_true(p.title[0]);
		kt_playbook_free(&p);
		kt_playbook_free(&p); /* harmless */
	}
	assert_int_equal(embedded, named);
}

static void names_and_paths_that_are_not_there(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_playbook p;
	assert_kt_fails(KT_E_INPUT, kt_playbook_load("loker", &p, &err));
	assert_non_null(strstr(err.msg, "did you mean \"looker\"?"));
	assert_kt_fails(KT_E_INPUT, kt_playbook_load("galera", &p, &err));
	assert_non_null(strstr(err.remedy, ".json"));
	assert_kt_fails(KT_E_INPUT, kt_playbook_load("", &p, &err));
	assert_kt_fails(KT_E_IO, kt_playbook_load("none.json", &p, &err));
	assert_non_null(strstr(err.msg, "none.json"));
	assert_kt_fails(KT_E_INPUT, kt_playbook_load("cluster.schema", &p, &err));
}

static void the_fingerprint_is_of_the_content(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_playbook shipped;
	kt_playbook same;
	kt_playbook other;
	cJSON *changed = edit_shipped();
	edit_set(changed, "title", "'another title'");
	assert_kt_ok(kt_playbook_load("looker", &shipped, &err));
	assert_kt_ok(edit_parse(edit_shipped(), &same, &err)); /* other layout, no comments */
	assert_kt_ok(edit_parse(changed, &other, &err));
	assert_string_equal(shipped.sha256, same.sha256);
	assert_string_not_equal(shipped.sha256, other.sha256);
	kt_playbook_free(&shipped);
	kt_playbook_free(&same);
	kt_playbook_free(&other);
}

/* One change, and what is said about it. */
static const struct {
	const char *path, *value;
	const char *message;
} faults[] = {
	{"steps", "[]", "$.steps: has 0 elements"},
	{"versoin", "1", "$.versoin: unknown member \"versoin\"; did you mean \"version\"?"},
	{"version", NULL, "$: \"version\" is missing"},
	{"steps.stop.phase", "'halt'", "$.steps[8].phase: must be one of"},
	{"steps.stop.phase", "'start'", "$.steps[9].phase: phase \"quiet\" cannot come after \"start\""},
	{"steps.stop.phase", "'quite'", "did you mean \"quiet\"?"},
	{"steps.stop.on", "'nodes'", "$.steps[8].on: must be one of"},
	{"steps.stop.name", "'Stop'", "$.steps[8].name: \"Stop\" does not match"},
	{"steps.stop.name", "'facts'", "$.steps[8].name: the name \"facts\" stands already at $.steps[0]"},
	{"steps.facts.name", "'from'", "$.steps[0].name: the name \"from\" is taken"},
	{"steps.facts.name", "'key'", "$.steps[0].name: the name \"key\" is taken"},
	{"steps.stop.do", "'service.stpo'", "$.steps[8].do: no verb \"service.stpo\"; did you mean \"service.stop\"?"},
	{"steps.stop.do", "'reboot'", "$.steps[8].do: no verb \"reboot\""},
	{"steps.stop.undo.do", "'undo'", "$.steps[8].undo.do: no verb \"undo\""},
	{"steps.stop.at", "'coordinator'", "$.steps[8].at: service.stop runs at the node"},
	{"steps.hsm.at", "'node'", "$.steps[3].at: hsm.check runs at the coordinator"},
	{"steps.hsm.on", "'all'", "hsm.check is done once for the cluster"},
	{"steps.stop.on", "'once'", "$.steps[8].on: service.stop is done per node"},
	{"steps.stop.with", "{}", "$.steps[8].with: service.stop needs \"service\""},
	{"steps.stop.with.timeout", "3",
	 "$.steps[8].with.timeout: service.stop has no \"timeout\"; did you mean \"timeout_s\"?"},
	{"steps.stop.undo.with.if", "'x'", "$.steps[8].undo.with.if: \"if\" must be true or false"},
	{"steps.stop.timeout_s", "'soon'", "$.steps[8].timeout_s: "},
	{"steps.stop.timeout_s", "'${stop_timeout}'",
	 "$.steps[8].timeout_s: ${stop_timeout} is not known; did you mean ${stop_timeout_s}?"},
	{"steps.stop.retry", "{'times':3,'every_s':1,'together':true}",
	 "$.steps[8].retry.together: \"together\" is for gate.check"},
	{"steps.stop.probe", "{'do':'probe','with':{'command':{'argv':['x']}}}",
	 "$.steps[8].probe: S1: only the rekey step has a probe"},
	{"steps.stop.when", "{'from':'kms'}", "$.steps[8].when.from: has none of the allowed forms"},
	{"steps.stop.with.service", "'${servcie}'",
	 "$.steps[8].with.service: ${servcie} is not known; did you mean ${service}?"},
	{"steps.stop.with.service", "'${service'", "$.steps[8].with: \"${service\": ${ without a closing }"},
	{"steps.stop.with.service", "'${from.pth}'",
	 "$.steps[8].with.service: ${from.pth} is not known; did you mean ${from.path}?"},
	{"steps.stop.with.service", "'${key.path}'", "$.steps[8].with.service: ${key.path} is not known"},
	{"steps.receive.with.nonce", "'${rap.nonce}'",
	 "$.steps[17].with.nonce: ${rap.nonce}: no step \"rap\"; did you mean \"wrap\"?"},
	{"steps.receive.with.nonce", "'${nothing.nonce}'", "${nothing.nonce}: no step \"nothing\""},
	{"steps.receive.with.nonce", "'${wrap.nounce}'", "key.wrap gives no \"nounce\", but blob label nonce"},
	{"steps.receive.with.nonce", "'${drift.x}'", "drift.check gives no \"x\", but nothing"},
	{"steps.receive.with.nonce", "'${install.path}'",
	 "$.steps[17].with.nonce: ${install.path}: that step is not earlier"},
	{"steps.receive.with.nonce", "'${receive.kcv}'", "${receive.kcv}: that step is not earlier"},
	{"steps.stop.undo.with.if", "'${stop.was_active}'",
	 "$.steps[8].undo.with.if: ${stop.was_active}: there may be no such result here: give a fallback"},
	{"steps.drift.with.of", "'${preflight.kcv}'",
	 "$.steps[2].with.of: ${preflight.kcv}: there may be no such result"},
	{"steps.still-quiet.with.files", "['${install.path}']", "${install.path}: there may be no such result here"},
	{"steps.escrow.expect.kcv", "'${wrap.kcv}'", "$.steps[15].expect.kcv: ${wrap.kcv}: that step is not earlier"},
	{"variables.node", "{'help':'x'}", "$.variables.node: the name \"node\" is taken"},
	{"variables.to", "{'help':'x'}", "$.variables.to: the name \"to\" is taken"},
	{"variables._x", "{'help':'x'}", "$.variables._x: \"_x\" does not match"},
	{"variables.dir.help", NULL, "$.variables.dir: \"help\" is missing"},
	{"variables.dir.help", "'two\\nlines'", "$.variables.dir.help: "},
	{"variables.dir.type", "'text'", "$.variables.dir.type: "},
	{"variables.dir.default", "'${home}/x'", "$.variables.dir.default: ${home} is not known"},
	{"variables.dir.default", "'${'", "$.variables.dir.default: \"${\""},
	{"env_file", "'${env_fil}'", "$.env_file: ${env_fil} is not known; did you mean ${env_file}?"},
	{"keystores.file.run.LKR_OTHER", "'${key.path}'", "$.keystores.file.run: \"LKR_OTHER\" is not in \"owns\""},
	{"keystores.file.run.LKR_MASTER_KEY_FILE", "'${key.pat}'",
	 "$.keystores.file.run.LKR_MASTER_KEY_FILE: ${key.pat} is not known"},
	{"keystores.file.run.LKR_MASTER_KEY_FILE", "{'key':'from'}", "must be \"self\""},
	{"owns", "['LKR_MASTER_KEY_FILE']",
	 "$.keystores.file.source: \"LKR_MASTER_KEY_FILE_SOURCE\" is not in \"owns\""},
	{"shares", NULL, "$.keystores.awskms.run: \"AWS_REGION\" is not in \"owns\""},
	{"steps.escrow.when", "{'to':['file','env','awskms']}",
	 ".expect.kcv: ${generate.kcv}: there may be no such result here"},
	{"keystores.legacy", "{'run':{}}", "$.keystores.legacy.run: unknown member \"run\""},
	{"steps.stop.when", "{'to':'legacy'}", "$.steps[8].when.to: has none of the allowed forms"},
	{"steps.migrated.with.path", NULL, "log.check needs \"path\""},
	{"keystores.kms", "{}", "$.keystores.kms: unknown member \"kms\""},
	{"keystores.file.source", NULL, "$.keystores.file: \"source\" is missing"},
	{"owns", "['A B']", "$.owns[0]: "},
};

static void faults_are_named_with_their_place(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
		kt_err err = KT_ERR_INIT;
		kt_playbook p;
		cJSON *root = edit_shipped();
		edit_set(root, faults[i].path, faults[i].value);
		if (edit_parse(root, &p, &err) != KT_E_INPUT)
			fail_msg("%s %s: taken (%s)", faults[i].path, faults[i].value, err.msg);
		if (!strstr(err.msg, faults[i].message))
			fail_msg("%s %s: \"%s\" does not say \"%s\"", faults[i].path, faults[i].value, err.msg,
				 faults[i].message);
		if (strncmp(err.msg, "edited.json:", 12) != 0)
			fail_msg("%s: no place: %s", faults[i].path, err.msg);
	}
}

static void the_line_is_that_of_the_fault(void **state)
{
	(void)state;
	const char *text =
		"{\n\"playbook\": \"p\",\n\"version\": 1,\n\"title\": \"t\",\n\"env_file\": \"/e\",\n\"variables\": "
		"{},\n"
		"\"keystores\": {\"env\": {\"run\": {\"A\": {\"key\": \"self\"}}, \"source\": {\"A\": \"x\"},\n"
		"\"destination\": {\"B\": \"y\"}}},\n\"owns\": [\"A\"],\n\"steps\": [\n"
		"{\"name\": \"a\", \"phase\": \"stop\", \"title\": \"t\", \"on\": \"all\",\n\"do\": \"facts\", "
		"\"with\": {}}]\n}";
	kt_err err = KT_ERR_INIT;
	kt_playbook p;
	assert_kt_fails(KT_E_INPUT, kt_playbook_parse("p.json", text, strlen(text), &p, &err));
	assert_string_equal(err.msg, "p.json:8: $.keystores.env.destination: \"B\" is not in \"owns\"");
}

/* --- init
 * ---------------------------------------------------------------------------------------------------------------- */

static void init_text_loads_as_it_is(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_playbook p;
	kt_cluster c;
	kt_buf text = KT_BUF_INIT;
	assert_kt_ok(kt_playbook_load("looker", &p, &err));
	assert_kt_ok(kt_playbook_init_text(&p, &text, &err));
	assert_kt_ok(kt_cluster_parse("/x/cluster.json", text.data, text.len, "/home/me", &c, &err));
	assert_string_equal(c.playbook, "looker");
	assert_int_equal(c.nodes_count, 3);
	assert_non_null(kt_cluster_var(&c, NULL, "database"));
	assert_null(kt_cluster_var(&c, NULL, "quiet_times")); /* commented out */
	kt_cluster_free(&c);
	kt_buf_free(&text);
	kt_playbook_free(&p);
}

/* Every line that is commented out may be uncommented. */
static void init_text_loads_with_everything_uncommented(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_playbook p;
	kt_cluster c;
	kt_buf text = KT_BUF_INIT;
	assert_kt_ok(kt_playbook_load("looker", &p, &err));
	assert_kt_ok(kt_playbook_init_text(&p, &text, &err));
	size_t n = 0;
	for (char *at = strstr((char *)text.data, "// \""); at; at = strstr(at + 1, "// \""), n++)
		memset(at, ' ', 3);
	assert_true(n > 15);
	assert_kt_ok(kt_cluster_parse("/x/cluster.json", text.data, text.len, "/home/me", &c, &err));
	assert_non_null(kt_cluster_var(&c, NULL, "quiet_times"));
	assert_non_null(c.key_from);
	kt_cluster_free(&c);
	kt_buf_free(&text);
	kt_playbook_free(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(phases_have_names),
		cmocka_unit_test(shipped_playbooks_load_by_name),
		cmocka_unit_test(names_and_paths_that_are_not_there),
		cmocka_unit_test(the_fingerprint_is_of_the_content),
		cmocka_unit_test(faults_are_named_with_their_place),
		cmocka_unit_test(the_line_is_that_of_the_fault),
		cmocka_unit_test(init_text_loads_as_it_is),
		cmocka_unit_test(init_text_loads_with_everything_uncommented),
	};
	return cmocka_run_group_tests_name("playbook", tests, NULL, NULL);
}

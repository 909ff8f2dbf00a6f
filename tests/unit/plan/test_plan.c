/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <time.h>

#include "orchestrator/engine/engine.h"
#include "tests/unit/plan/fixture.h"

static void digest_of(const fixture *f, char digest[KT_SHA256_HEX])
{
	kt_err err = KT_ERR_INIT;
	cJSON *plan = NULL;
	assert_kt_ok(fixture_make(f, &plan, digest, &err));
	char again[KT_SHA256_HEX];
	assert_kt_ok(kt_plan_digest(plan, again, &err));
	assert_string_equal(digest, again);
	cJSON_Delete(plan);
}

/* --- The digest -----------------------------------------------------------------------------------------------------
 */

static void the_same_inputs_give_the_same_digest(void **state)
{
	(void)state;
	const fixture f = FIXTURE;
	char one[KT_SHA256_HEX];
	char two[KT_SHA256_HEX];
	digest_of(&f, one);
	digest_of(&f, two);
	assert_string_equal(one, two);
	assert_int_equal(strlen(one), 64);
	/* What only this machine needs does not count: how the PIN is got at. */
	fixture g = FIXTURE;
	g.hsm = "pkcs11:token=t;serial=1?module-path=/m.so&pin-source=env:PIN";
	digest_of(&g, two);
	assert_string_equal(one, two);
}

static void every_input_counts(void **state)
{
	(void)state;
	fixture f[12];
	char digest[13][KT_SHA256_HEX];
	const fixture base = FIXTURE;
	for (size_t i = 0; i < 12; i++)
		f[i] = base;
	f[0].run = "20261123T204726Z-1a2b3d";
	f[1].nodes = "[{'name':'web[01-04]','host':'${node}.example.com'}]";
	f[2].nodes = "[{'name':'web[01-03]','host':'${node}.example.org'}]";
	f[3].nodes = "[{'name':'web[01-03]','host':'${node}.example.com','port':23}]";
	f[4].roles = "{'canary':'web03'}";
	f[5].roles = "{'canary':'web02','rekey':'web02'}";
	f[6].vars = "{'database':'/srv/looker/other.db'}";
	f[7].vars = "{'database':'/srv/looker/looker.db','quiet_times':19}";
	f[8].hsm = "pkcs11:token=t;serial=2";
	f[9].key = "{'to':'env:LKR_MASTER_KEY_ENV'}";
	for (size_t i = 0; i < FIXTURE_NODES; i++) {
		f[10].located[i].kcv = "a1b2c4";
		f[11].located[i].uri = "file:/home/lookerops/looker/key";
	}
	/* The fourth node of f[1] was not asked: say where its key is. */
	f[1].key = "{'from':'file:/home/lookerops/looker/cmk','to':'file:${dir}/cmk-${run}'}";
	f[1].nodes = "[{'name':'web[01-02]','host':'${node}.example.com'}]";
	digest_of(&base, digest[12]);
	for (size_t i = 0; i < 12; i++)
		digest_of(&f[i], digest[i]);
	for (size_t i = 0; i < 13; i++)
		for (size_t j = 0; j < i; j++)
			if (strcmp(digest[i], digest[j]) == 0)
				fail_msg("inputs %zu and %zu give the same digest", i, j);
}

/* --- What is refused
 * ---------------------------------------------------------------------------------------------------- */

static void refused(const fixture *f, kt_code code, const char *message)
{
	kt_err err = KT_ERR_INIT;
	cJSON *plan = NULL;
	char digest[KT_SHA256_HEX];
	kt_code rc = fixture_make(f, &plan, digest, &err);
	if (rc != code || !strstr(err.msg, message))
		fail_msg("%s: \"%s\" instead of %s: \"%s\"", kt_code_name(rc), err.msg, kt_code_name(code), message);
	assert_null(plan);
	assert_string_equal(digest, "");
}

static void keys_in_the_wrong_place(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	f.key = "{'to':'file:${dir}/cmk'}";
	refused(&f, KT_E_REFUSED, "web01: the new key would replace the old one");
	f.key = "{'from':'file:${dir}/other','to':'file:${dir}/cmk-${run}'}";
	refused(&f, KT_E_REFUSED, "web01 runs with the key in file:/home/lookerops/looker/cmk, but");
	f.key = "{'to':'file:cmk'}";
	refused(&f, KT_E_INPUT, "$.key.to: web01: \"file:cmk\": the path is not plain");
	f.key = "{'to':'file:/a/../b'}";
	refused(&f, KT_E_INPUT, "the path is not plain");
	f.key = "{'to':'file:/a//b'}";
	refused(&f, KT_E_INPUT, "the path is not plain");
	f.key = "{'to':'file:/a/./b'}";
	refused(&f, KT_E_INPUT, "the path is not plain");
	f.key = "{'to':'file:/a/b/'}";
	refused(&f, KT_E_INPUT, "the path is not plain");
	f.key = "{'to':'file:/a$b'}";
	refused(&f, KT_E_INPUT, "the path is not plain");
	f.key = "{'to':'env:A-B'}";
	refused(&f, KT_E_INPUT, "\"env:A-B\" does not name a variable");
	f.key = "{'to':'env:OTHER'}";
	refused(&f, KT_E_REFUSED, "env:OTHER: the application does not read its key from this variable");
	f.key = "{'to':'env:LKR_MASTER_KEY_FILE'}";
	refused(&f, KT_E_REFUSED, "env:LKR_MASTER_KEY_FILE: the application does not read");
	f.key = "{'to':'${dir}'}";
	refused(&f, KT_E_INPUT, "is no keystore that is known");
	f.key = "{'to':'file:${dri}/cmk'}";
	refused(&f, KT_E_INPUT, "$.key.to: web01: ${dri} is not known; did you mean ${dir}?");
}

/* What is approved names the transport keys: another one is another plan. */
static void pinned_transport_keys_are_in_the_plan(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	char digest[3][KT_SHA256_HEX];
	fixture f = FIXTURE;
	for (size_t i = 0; i < 3; i++) {
		cJSON *plan;
		f.pins[1] = (kt_plan_pin){i ? "file" : NULL, i == 2 ? "bb" : "aa"};
		assert_kt_ok(fixture_make(&f, &plan, digest[i], &err));
		cJSON_Delete(plan);
	}
	assert_string_not_equal(digest[0], digest[1]);
	assert_string_not_equal(digest[1], digest[2]);
	f.pins[1].at = "pkcs11:token=t";
	refused(&f, KT_E_REFUSED, "web02: cluster.json has its transport key in file, pinned is one in pkcs11:token=t");
}

static void nodes_that_do_not_agree(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	f.located[1].uri = "env:LKR_MASTER_KEY_ENV";
	refused(&f, KT_E_REFUSED,
		"the old key is in file:/home/lookerops/looker/cmk on web01, but in env:LKR_MASTER_KEY_ENV on web02");
	fixture g = FIXTURE;
	g.located[2].kcv = "ffffff";
	refused(&g, KT_E_REFUSED, "the nodes have different keys: web01 has a1b2c3, web03 has ffffff");
	fixture h = FIXTURE;
	h.located[2].uri = NULL;
	refused(&h, KT_E_INPUT, "web03: where the old key is was neither said nor asked");
	fixture i = FIXTURE;
	i.nodes = "[{'name':'web[01-02]','host':'a'},{'name':'web03','vars':{'_to':'env:LKR_MASTER_KEY_ENV'}}]";
	i.vars = "{'_to':'file:/k'}";
	i.key = "{'to':'${_to}'}";
	refused(&i, KT_E_REFUSED, "the new key is in file:/k on web01, but in env:LKR_MASTER_KEY_ENV on web03");
}

static void variables_that_do_not_fit(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	f.vars = "{'portz':[1]}";
	refused(&f, KT_E_INPUT,
		"cluster.json:1: $.vars.portz: playbook \"looker\" has no variable \"portz\"; did you mean \"ports\"?");
	f.vars = "{'ports':'9999'}";
	refused(&f, KT_E_INPUT, "$.vars.ports: must be of type array, is string");
	f.vars = "{'ports':'${_p}','_p':9999}";
	refused(&f, KT_E_INPUT, "$.vars.ports: must be of type array, is integer");
	f.vars = "{'database':7}";
	refused(&f, KT_E_INPUT, "$.vars.database: must be of type string or null, is integer");
	f.vars = "{'run_user':'${_u}'}";
	refused(&f, KT_E_INPUT, "$.vars.run_user: web01: ${_u} is not known");
	f.vars = "{'service':{'unti':'x'}}";
	refused(&f, KT_E_INPUT, "(preflight): web01: a service has no \"unti\"; did you mean \"unit\"?");
	f.vars = "{'processes':[]}";
	refused(&f, KT_E_REFUSED, "S2: \"processes\" is empty");
	f.vars = "{'quiet_times':-1}";
	refused(&f, KT_E_INPUT, "\"times\" must be a whole number from 0");
	f.vars = "{'quiet_times':1.5}";
	refused(&f, KT_E_INPUT, "$.vars.quiet_times: must be of type integer, is number");
	f.vars = "{'rekey_command':[]}";
	refused(&f, KT_E_INPUT, "\"argv\" is empty");
	f.vars = "{'env_file':'${node}'}";
	fixture g = FIXTURE;
	g.nodes = "[{'name':'a','vars':{'ports':1}},{'name':'b'}]";
	g.roles = "{}";
	refused(&g, KT_E_INPUT, "$.nodes[0].vars.ports: must be of type array");
}

static void run_ids(void **state)
{
	(void)state;
	const char *const bad[] = {"",
				   "20261123T204726Z",
				   "20261123T204726Z-1A2B3C",
				   "20261123 204726Z-1a2b3c",
				   "20261123T204726Z-1a2b3c0",
				   "20261123T204726Z-1a2b3g",
				   "../../../../../../../etc"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		fixture f = FIXTURE;
		f.run = bad[i];
		refused(&f, KT_E_INPUT, "is no run id");
	}
}

/* A journal takes so much: what would not fit is refused before it begins. */
static void a_plan_too_large_for_a_journal(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	char vars[5000];
	bool slow = getenv("KT_VALGRIND") != NULL; /* then fewer nodes with more to say */
	(void)snprintf(vars, sizeof vars, "{'dir':'/a/long/path/%0*d/${node}'}", slow ? 3900 : 1000, 0);
	f.nodes = slow ? "[{'name':'n[001-240]','host':'h'}]" : "[{'name':'n[001-900]','host':'h'}]";
	f.roles = "{}";
	f.key = "{'from':'file:/k/${node}/old','to':'file:/k/${node}/new'}";
	f.vars = vars;
	memset(f.located, 0, sizeof f.located);
	kt_err err = KT_ERR_INIT;
	kt_cluster c;
	kt_playbook p;
	cJSON *plan = NULL;
	char digest[KT_SHA256_HEX];
	fixture_load(&f, &c, &p);
	kt_plan_input in = {.cluster = &c, .playbook = &p, .run = f.run};
	assert_kt_fails(KT_E_INPUT, kt_plan_make(&in, &plan, digest, &err));
	assert_non_null(strstr(err.msg, "a journal takes"));
	kt_playbook_free(&p);
	kt_cluster_free(&c);
}

/* --- What is made ----------------------------------------------------------------------------------------------------
 */

static void args_are(const cJSON *plan, const char *step, const char *role, const char *node, const char *want)
{
	char *text = plan_args(plan, step, role, node);
	assert_string_equal(text, want);
	cJSON_free(text);
}

static void has(const cJSON *plan, const char *step, const char *role, const char *node, const char *part)
{
	char *text = plan_args(plan, step, role, node);
	if (!strstr(text, part))
		fail_msg("%s on %s: no %s in %s", step, node, part, text);
	cJSON_free(text);
}

static void lacks(const cJSON *plan, const char *step, const char *role, const char *node, const char *part)
{
	char *text = plan_args(plan, step, role, node);
	if (strstr(text, part))
		fail_msg("%s on %s: %s in %s", step, node, part, text);
	cJSON_free(text);
}

#define FROM_FILE "'key':{'file':'/home/lookerops/looker/cmk'}"
#define FROM_ENV "'key':{'env_file':'/etc/looker.env','name':'LKR_MASTER_KEY_ENV'}"
#define TO_SLOT "{'key':{'slot':'" RUN "'}}"

static void file_to_env(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	f.key = "{'to':'env:LKR_MASTER_KEY_ENV'}";
	cJSON *plan = fixture_plan(&f);
	assert_null(plan_step(plan, "install")); /* when: to file */
	has(plan, "preflight", NULL, "web02", FROM_FILE);
	has(plan, "backup", NULL, "web02", "'secrets':[{" FROM_FILE "}]");
	has(plan, "backup", NULL, "web02", "'key_files':['/home/lookerops/looker/cmk']");
	has(plan, "rekey", NULL, "web01",
	    "'env':{'LKR_MASTER_KEY_FILE':'/home/lookerops/looker/cmk','LKR_MASTER_KEY_FILE_SOURCE':"
	    "'/home/lookerops/looker/cmk','LKR_MASTER_KEY_ENV_DESTINATION':" TO_SLOT ",");
	has(plan, "rekey", NULL, "web01", "'LKR_MASTER_KEY_ENV_SOURCE':null"); /* clear */
	has(plan, "rekey", "probe", "web01", "'LKR_MASTER_KEY_ENV_DESTINATION':" TO_SLOT);
	args_are(plan, "env", NULL, "web03",
		 "{'path':'/etc/looker.env','set':{'LKR_MASTER_KEY_ENV':" TO_SLOT "},'unset':["
		 "'LKR_MASTER_KEY_FILE','LKR_MASTER_KEY_FILE_SOURCE','LKR_MASTER_KEY_FILE_DESTINATION',"
		 "'LKR_MASTER_KEY_ENV_SOURCE','LKR_MASTER_KEY_ENV_DESTINATION','LKR_AWS_CMK','LKR_AWS_CMK_SOURCE',"
		 "'LKR_AWS_CMK_DESTINATION','LKR_AWS_CMK_EC','LKR_AWS_CMK_EC_SOURCE','LKR_AWS_CMK_EC_DESTINATION',"
		 "'LKR_PKCS11_CMK','LKR_PKCS11_CMK_SOURCE','LKR_PKCS11_CMK_DESTINATION'],"
		 "'keep':'" RUN "'}");
	assert_null(plan_step(plan, "tried")); /* when: to pkcs11 or awskms */
	cJSON_Delete(plan);
}

/* A key that stays where it is: nothing is made, escrowed or delivered, each node tries it. */
static void file_to_awskms(void **state)
{
	(void)state;
	static const char *const gone[] = {"generate", "escrow", "wrap", "receive", "install", "forget"};
	fixture f = FIXTURE;
	f.key = "{'to':'awskms:alias/looker?region=eu-west-1'}";
	cJSON *plan = fixture_plan(&f);
	for (size_t i = 0; i < sizeof gone / sizeof gone[0]; i++)
		assert_null(plan_step(plan, gone[i]));
	has(plan, "tried", NULL, "web03",
	    "'env':{'LKR_MASTER_KEY_FILE':'/home/lookerops/looker/cmk','LKR_AWS_CMK_DESTINATION':'alias/looker',"
	    "'AWS_REGION':'eu-west-1','LKR_MASTER_KEY_FILE_SOURCE':null");
	has(plan, "rekey", NULL, "web01", "'LKR_AWS_CMK_DESTINATION':'alias/looker','AWS_REGION':'eu-west-1',");
	has(plan, "rekey", NULL, "web01", "'LKR_AWS_CMK':null");
	has(plan, "rekey", NULL, "web01", "'LKR_AWS_CMK_EC_DESTINATION':null"); /* no context was said */
	args_are(plan, "env", NULL, "web03",
		 "{'path':'/etc/looker.env','set':{'LKR_AWS_CMK':'alias/looker','AWS_REGION':'eu-west-1'},'unset':["
		 "'LKR_MASTER_KEY_FILE','LKR_MASTER_KEY_FILE_SOURCE','LKR_MASTER_KEY_FILE_DESTINATION',"
		 "'LKR_MASTER_KEY_ENV','LKR_MASTER_KEY_ENV_SOURCE','LKR_MASTER_KEY_ENV_DESTINATION',"
		 "'LKR_AWS_CMK_SOURCE','LKR_AWS_CMK_DESTINATION','LKR_AWS_CMK_EC','LKR_AWS_CMK_EC_SOURCE',"
		 "'LKR_AWS_CMK_EC_DESTINATION','LKR_PKCS11_CMK','LKR_PKCS11_CMK_SOURCE','LKR_PKCS11_CMK_DESTINATION'],"
		 "'keep':'" RUN "'}");
	cJSON_Delete(plan);
}

static void from_awskms(fixture *f, const char *uri)
{
	for (size_t i = 0; i < FIXTURE_NODES; i++)
		f->located[i] = (kt_located){uri, ""};
}

static void awskms_to_file(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	from_awskms(&f, "awskms:alias/looker?region=eu-west-1&context=a%20b");
	cJSON *plan = fixture_plan(&f);
	assert_null(cJSON_GetObjectItem(cJSON_GetObjectItem(plan, "key"), "kcv"));
	has(plan, "preflight", NULL, "web01", "'key':null");
	has(plan, "backup", NULL, "web01", "'secrets':[]");
	has(plan, "drift", NULL, "@", "'fields':['unit_sha256','env_names']");
	has(plan, "rekey", NULL, "web01",
	    "'env':{'LKR_AWS_CMK':'alias/looker','LKR_AWS_CMK_SOURCE':'alias/looker','LKR_AWS_CMK_EC':'a b',"
	    "'LKR_AWS_CMK_EC_SOURCE':'a b','AWS_REGION':'eu-west-1','LKR_MASTER_KEY_FILE_DESTINATION':");
	has(plan, "env", NULL, "web01", "'LKR_PKCS11_CMK_DESTINATION','AWS_REGION'],"); /* it has had its day */
	cJSON_Delete(plan);
}

/* AWS_REGION may serve others: it goes with the last key of AWS KMS, and only then. */
static void the_region_is_shared(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	cJSON *plan = fixture_plan(&f); /* file to file */
	lacks(plan, "env", NULL, "web01", "AWS_REGION");
	lacks(plan, "rekey", NULL, "web01", "AWS_REGION");
	cJSON_Delete(plan);
	from_awskms(&f, "awskms:alias/looker?region=eu-west-1");
	f.key = "{'to':'awskms:alias/other?region=eu-west-1'}"; /* said by both, and the same */
	plan = fixture_plan(&f);
	has(plan, "rekey", NULL, "web01", "'AWS_REGION':'eu-west-1'");
	has(plan, "env", NULL, "web01", "'AWS_REGION':'eu-west-1'");
	cJSON_Delete(plan);
	f.key = "{'to':'awskms:alias/other'}"; /* then the one that is there stays */
	plan = fixture_plan(&f);
	lacks(plan, "env", NULL, "web01", "AWS_REGION");
	cJSON_Delete(plan);
	f.key = "{'to':'awskms:alias/other?region=us-east-1'}";
	refused(&f, KT_E_INPUT, "two sets give \"AWS_REGION\" different values");
}

static void to_and_from_a_token(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	f.key = "{'to':'pkcs11:token=${node};object=cmk?pin-source=file:/p'}"; /* each node has its own */
	cJSON *plan = fixture_plan(&f);
	assert_null(plan_step(plan, "generate"));
	has(plan, "tried", NULL, "web02",
	    "'LKR_PKCS11_CMK_DESTINATION':'pkcs11:token=web02;object=cmk?pin-source=file:/p'");
	has(plan, "same-key", NULL, "@", "{'of':'tried','fields':['json']}");
	has(plan, "env", NULL, "web02", "'set':{'LKR_PKCS11_CMK':'pkcs11:token=web02;object=cmk?pin-source=file:/p'}");
	cJSON_Delete(plan);
	for (size_t i = 0; i < FIXTURE_NODES; i++)
		f.located[i] = (kt_located){"pkcs11:token=t;object=cmk?module-path=/m", ""};
	f.key = "{'to':'pkcs11:token=t;object=cmk?module-path=/other'}";
	refused(&f, KT_E_REFUSED, "the new key would replace the old one");
	f.key = "{'to':'pkcs11:token=t'}";
	refused(&f, KT_E_INPUT, "names a token, but no key in it");
	f.key = "{'to':'pkcs11:token=t;object=k?pin-value=1234'}";
	refused(&f, KT_E_INPUT, "holds a PIN");
	f.key = "{'to':'pkcs11:token=t;object=k?pin-source=env:PIN'}";
	refused(&f, KT_E_INPUT, "can only come from a file on the node");
}

static void awskms_in_the_wrong_place(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	f.key = "{'to':'awskms:'}";
	refused(&f, KT_E_INPUT, "$.key.to: web01: this names no key of AWS KMS");
	f.key = "{'to':'awskms:alias/a?context=%24b'}";
	refused(&f, KT_E_INPUT, "a dollar sign would be taken for a template");
	from_awskms(&f, "awskms:alias/looker");
	f.key = "{'to':'awskms:alias/looker'}";
	refused(&f, KT_E_REFUSED, "web01: the new key would replace the old one");
	f.key = "{'to':'file:${dir}/cmk-${run}'}";
	f.located[1].uri = "awskms:alias/other";
	refused(&f, KT_E_REFUSED, "the old key is awskms:alias/looker on web01, but awskms:alias/other on web02");
}

/* From the legacy form: no old key anywhere, and what runs once is the migration, with the variables of afterwards. */
static void from_the_legacy_form(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	from_awskms(&f, "legacy:");
	f.key = "{'from':'legacy:','to':'file:${dir}/cmk-${run}'}";
	f.vars = "{'rekey_depth':'data','internal_db_creds':'/srv/db.yaml'}";
	cJSON *plan = fixture_plan(&f);
	assert_null(cJSON_GetObjectItem(cJSON_GetObjectItem(plan, "key"), "kcv"));
	has(plan, "preflight", NULL, "web01", "'key':null");
	has(plan, "drift", NULL, "@", "'fields':['unit_sha256','env_names']");
	has(plan, "backup", NULL, "web01", "'secrets':[]");
	has(plan, "backup", NULL, "web01", "'key_files':['/home/lookerops/looker/cmk-" RUN "']");
	has(plan, "rekey", NULL, "web01", "'argv':['./looker','migrate_encryption','-d','/srv/db.yaml']");
	has(plan, "rekey", NULL, "web01",
	    "'env':{'LKR_MASTER_KEY_FILE':'/home/lookerops/looker/cmk-" RUN "','LKR_MASTER_KEY_FILE_SOURCE':null,"
	    "'LKR_MASTER_KEY_FILE_DESTINATION':null,");
	has(plan, "rekey", NULL, "web01", "'hints':{'Could not find task \\'migrate_encryption\\'':");
	static const char asked[] = "'env':{'LKR_MASTER_KEY_FILE_DESTINATION':'/home/lookerops/looker/cmk-" RUN "',"
				    "'LKR_MASTER_KEY_FILE':null,'LKR_MASTER_KEY_FILE_SOURCE':null,";
	has(plan, "probed", NULL, "web01", asked);
	has(plan, "rekey", "probe", "web01", asked);
	has(plan, "migrated", NULL, "web01",
	    "{'path':'/home/lookerops/looker/log/looker.log','has':['GCM'],'since_ms':'${preflight.time_ms}'}");
	has(plan, "env", NULL, "web03", "'set':{'LKR_MASTER_KEY_FILE':'/home/lookerops/looker/cmk-" RUN "'},");
	assert_non_null(plan_step(plan, "escrow"));
	cJSON_Delete(plan);
	f.vars = "{'log_file':null}";
	plan = fixture_plan(&f);
	has(plan, "migrated", NULL, "web01", "'path':null");
	cJSON_Delete(plan);
	fixture file = FIXTURE;
	plan = fixture_plan(&file);
	assert_null(plan_step(plan, "migrated"));
	cJSON_Delete(plan);
}

static void the_legacy_form_in_the_wrong_place(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	f.key = "{'to':'legacy:'}";
	refused(&f, KT_E_REFUSED, "nothing is turned into the legacy form: legacy: can only be the source");
	f.key = "{'from':'legacy:','to':'legacy:'}";
	memset(f.located, 0, sizeof f.located);
	refused(&f, KT_E_REFUSED, "nothing is turned into the legacy form");
	f.key = "{'from':'legacy:x','to':'file:/k'}";
	refused(&f, KT_E_INPUT, "$.key.from: web01: \"legacy:x\": the legacy form has no key");
	/* Nobody said it: a node without a key may be one that lost its variables. */
	from_awskms(&f, "legacy:");
	f.key = "{'to':'file:/k'}";
	refused(&f, KT_E_REFUSED, "web01: no variable names the key in force (Looker can not start because: Missing");
	f.key = "{'from':'legacy:','to':'file:/k'}";
	f.located[1] = (kt_located){"file:/old", "a1b2c3"};
	refused(&f, KT_E_REFUSED, "web02 runs with the key in file:/old, but /etc/kt/cluster.json says legacy:");
	f.key = "{'to':'file:/k'}";
	f.located[0] = f.located[2] = f.located[1];
	f.located[1] = (kt_located){"legacy:", ""};
	refused(&f, KT_E_REFUSED, "web02: no variable names the key in force");
}

static void how_deep(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	f.vars = "{'rekey_depth':'cmk'}";
	cJSON *plan = fixture_plan(&f);
	has(plan, "rekey", NULL, "web01", "'argv':['./looker','rekey','--depth','cmk']");
	cJSON_Delete(plan);
	f.vars = "{'rekey_depth':'all'}";
	refused(&f, KT_E_INPUT, "$.vars.rekey_depth: is none of the values that it may have");
}

static void env_to_file_and_env_to_env(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	for (size_t i = 0; i < FIXTURE_NODES; i++)
		f.located[i].uri = "env:LKR_MASTER_KEY_ENV";
	cJSON *plan = fixture_plan(&f);
	has(plan, "preflight", NULL, "web01", FROM_ENV);
	has(plan, "backup", NULL, "web01", "'key_files':['/home/lookerops/looker/cmk-" RUN "']");
	has(plan, "install", NULL, "web01", "'path':'/home/lookerops/looker/cmk-" RUN "'");
	has(plan, "rekey", NULL, "web01", "'LKR_MASTER_KEY_ENV_SOURCE':{" FROM_ENV "}");
	has(plan, "rekey", NULL, "web01", "'LKR_MASTER_KEY_FILE_DESTINATION':'/home/lookerops/looker/cmk-" RUN "'");
	has(plan, "env", NULL, "web01", "'set':{'LKR_MASTER_KEY_FILE':'/home/lookerops/looker/cmk-" RUN "'}");
	cJSON_Delete(plan);
	/* The same variable, another key: its file is replaced, and the old one kept. */
	f.key = "{'to':'env:LKR_MASTER_KEY_ENV'}";
	plan = fixture_plan(&f);
	has(plan, "rekey", NULL, "web01", "'LKR_MASTER_KEY_ENV_SOURCE':{" FROM_ENV "}");
	has(plan, "rekey", NULL, "web01", "'LKR_MASTER_KEY_ENV_DESTINATION':" TO_SLOT);
	has(plan, "env", NULL, "web01", "'set':{'LKR_MASTER_KEY_ENV':" TO_SLOT "}");
	has(plan, "backup", NULL, "web01", "'key_files':[]");
	assert_null(plan_step(plan, "install"));
	cJSON_Delete(plan);
}

static void roles_and_nodes(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	f.nodes = "[{'name':'web[01-03]','host':'h','vars':{}},{'name':'db1','vars':{'dir':'/srv/db'}}]";
	f.roles = "{'rekey':'web03','canary':'db1'}";
	f.key = "{'from':'file:/k/old','to':'file:/k/new'}";
	memset(f.located, 0, sizeof f.located);
	kt_err err = KT_ERR_INIT;
	kt_cluster c;
	kt_playbook p;
	cJSON *plan = NULL;
	char digest[KT_SHA256_HEX];
	fixture_load(&f, &c, &p);
	kt_plan_input in = {.cluster = &c, .playbook = &p, .run = f.run};
	assert_kt_ok(kt_plan_make(&in, &plan, digest, &err));
	has(plan, "backup", NULL, "web03", "'paths':['/srv/looker/looker.db']");
	has(plan, "backup", NULL, "web01", "'paths':[]");
	has(plan, "backup", NULL, "db1", "'top':'/srv/db'");
	has(plan, "restored", NULL, "web03",
	    "'check':{'argv':['./looker','verify','--database','${scratch}/srv/looker/looker.db']");
	has(plan, "restored", NULL, "web01", "'check':null");
	has(plan, "quiet", NULL, "db1", "'known_nodes':'${plan.nodes}'");
	has(plan, "rekey", NULL, "web03", "'argv':['./looker','rekey']");
	has(plan, "canary", NULL, "db1", "looker.service");
	has(plan, "start", NULL, "web03", "looker.service");
	kt_plan_cursor at = {0};
	size_t n = 0;
	while (kt_plan_next(plan_step(plan, "start"), &at))
		n += strcmp(at.node, "db1") != 0;
	assert_int_equal(n, 3);
	at = (kt_plan_cursor){0};
	assert_true(kt_plan_next(plan_step(plan, "hsm"), &at));
	assert_string_equal(at.node, "@");
	assert_false(kt_plan_next(plan_step(plan, "hsm"), &at));
	/* Equal nodes stand together: three and one. */
	assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(plan_step(plan, "quiet"), "targets")), 2);
	cJSON_Delete(plan);
	kt_playbook_free(&p);
	kt_cluster_free(&c);
}

static void a_single_node_has_no_rest(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	f.nodes = "[{'name':'web01'}]";
	f.roles = "{}";
	cJSON *plan = fixture_plan(&f);
	assert_null(plan_step(plan, "start"));
	assert_null(plan_step(plan, "verify"));
	assert_non_null(plan_step(plan, "canary"));
	cJSON_Delete(plan);
}

static void what_variables_leave_out(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	f.vars = "{'run_user':null,'heartbeat_command':null,'internal_db_creds':'/"
		 "c.yaml','rekey_command':['java','-jar','x']}";
	cJSON *plan = fixture_plan(&f);
	lacks(plan, "rekey", NULL, "web01", "'user'");
	has(plan, "quiet", NULL, "web01", "'heartbeats':null");
	has(plan, "quiet", NULL, "web01", "'files':[]");
	has(plan, "rekey", NULL, "web01", "'argv':['java','-jar','x','-d','/c.yaml']");
	has(plan, "rekey", "probe", "web01", "'argv':['./looker','probe','-d','/c.yaml']");
	has(plan, "restored", NULL, "web01", "'check':null"); /* no database to look at */
	cJSON_Delete(plan);
	/* Without a check value the preflight cannot expect one. */
	fixture g = FIXTURE;
	for (size_t i = 0; i < FIXTURE_NODES; i++)
		g.located[i].kcv = NULL;
	plan = fixture_plan(&g);
	assert_null(cJSON_GetObjectItem(plan_step(plan, "preflight"), "expect")->child);
	assert_null(cJSON_GetObjectItem(cJSON_GetObjectItem(plan, "key"), "kcv"));
	cJSON_Delete(plan);
}

/* A Looker installation has no probe: its variables may use the outcome of the rekey. */
static void variables_may_use_results(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	f.vars = "{'probe_command':['sh','-c','x','probe','${backup.sha256|none}']}";
	cJSON *plan = fixture_plan(&f);
	has(plan, "rekey", "probe", "web01", "'probe','${backup.sha256|none}']");
	cJSON_Delete(plan);
	f.vars = "{'rekey_command':['x','${rekey.exit|none}']}";
	refused(&f, KT_E_INPUT, "${rekey.exit}: that step is not earlier");
	f.vars = "{'probe_command':['x','${reky.exit|none}']}";
	refused(&f, KT_E_INPUT, "${reky.exit} is not known: there is no such step");
	f.vars = "{'probe_command':['x','${backup.shasum|none}']}";
	refused(&f, KT_E_INPUT, "${backup.shasum}: that step gives no \"shasum\"");
	f.vars = "{'probe_command':['x','${forget.x|none}']}";
	refused(&f, KT_E_INPUT, "${forget.x}");
}

static void dollar_signs_wait_for_the_late_pass(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	f.vars = "{'verify_command':['./verify','echo $$$$ $HOME $${node} ${node}']}";
	cJSON *plan = fixture_plan(&f);
	has(plan, "verify-canary", NULL, "web02", "'echo $$$$ $$HOME $${node} web02'");
	kt_buf text = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	assert_kt_ok(kt_plan_print(plan, &text, &err));
	/* For people one dollar sign is one dollar sign, and the word is quoted for a shell. */
	assert_non_null(strstr(kt_buf_cstr(&text), "./verify 'echo $$ $HOME ${node} ${node}'"));
	kt_buf_free(&text);
	cJSON_Delete(plan);
}

static void what_a_node_is_asked(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	f.vars = "{'env_file':'/etc/${node}.env'}";
	kt_err err = KT_ERR_INIT;
	kt_cluster c;
	kt_playbook p;
	cJSON *args = NULL;
	fixture_load(&f, &c, &p);
	kt_plan_input in = {.cluster = &c, .playbook = &p, .run = f.run};
	assert_kt_ok(kt_plan_locate_args(&in, 1, &args, &err));
	char *text = cJSON_PrintUnformatted(args);
	assert_string_equal(text, "{\"env_file\":\"/etc/web02.env\",\"variables\":{\"LKR_MASTER_KEY_FILE\":\"file\","
				  "\"LKR_MASTER_KEY_ENV\":\"env\",\"LKR_AWS_CMK\":\"awskms\","
				  "\"LKR_AWS_CMK_EC\":\"awskms.context\",\"AWS_REGION\":\"awskms.region\","
				  "\"LKR_PKCS11_CMK\":\"pkcs11\"},\"legacy\":true}");
	cJSON_free(text);
	cJSON_Delete(args);
	kt_playbook_free(&p);
	kt_cluster_free(&c);
}

/* --- Others read it
 * ------------------------------------------------------------------------------------------------------ */

static void the_engine_takes_every_kind(void **state)
{
	(void)state;
	const char *const from[] = {"file:${dir}/cmk", "env:LKR_MASTER_KEY_ENV", "pkcs11:token=t;object=a",
				    "awskms:alias/a", "legacy:"};
	const char *const to[] = {"file:${dir}/cmk-${run}", "env:LKR_MASTER_KEY_ENV", "pkcs11:token=t;object=b",
				  "awskms:alias/b"};
	for (size_t i = 0; i < 20; i++) {
		char key[200];
		(void)snprintf(key, sizeof key, "{'from':'%s','to':'%s'}", from[i / 4], to[i % 4]);
		fixture f = FIXTURE;
		f.key = key;
		memset(f.located, 0, sizeof f.located);
		kt_err err = KT_ERR_INIT;
		cJSON *plan = fixture_plan(&f);
		kt_engine *engine = NULL;
		assert_kt_ok(kt_engine_new(plan, &engine, &err));
		kt_engine_free(engine);
		cJSON_Delete(plan);
	}
}

static void the_examples_make_plans(void **state)
{
	(void)state;
	const char *const names[] = {"systemd", "loopback", "looker-installation", "looker-aws", "looker-legacy"};
	const char *source = getenv("KT_SOURCE_DIR");
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		char path[2000];
		kt_err err = KT_ERR_INIT;
		kt_cluster c;
		kt_playbook p;
		cJSON *plan = NULL;
		char digest[KT_SHA256_HEX];
		const kt_located told = {"file:/k/cmk", "a1b2c3"};
		const kt_located asked[FIXTURE_NODES] = {told, told, told};
		(void)snprintf(path, sizeof path, "%s/playbooks/examples/%s.json", source ? source : "../../../..",
			       names[i]);
		assert_kt_ok(kt_cluster_load(path, &c, &err));
		assert_kt_ok(kt_playbook_load(c.playbook, &p, &err));
		assert_int_equal(c.nodes_count, FIXTURE_NODES);
		kt_plan_input in = {.cluster = &c, .playbook = &p, .run = RUN, .located = c.key_from ? NULL : asked};
		assert_kt_ok(kt_plan_make(&in, &plan, digest, &err));
		cJSON_Delete(plan);
		kt_playbook_free(&p);
		kt_cluster_free(&c);
	}
}

static void a_thousand_nodes(void **state)
{
	(void)state;
	fixture f = FIXTURE;
	bool slow = getenv("KT_VALGRIND") != NULL; /* then a hundred */
	f.nodes = slow ? "[{'name':'node[0001-0100]','host':'${node}.example.com'}]"
		       : "[{'name':'node[0001-1000]','host':'${node}.example.com'}]";
	f.roles = "{}";
	f.key = "{'from':'file:${dir}/cmk','to':'file:${dir}/cmk-${run}'}";
	kt_err err = KT_ERR_INIT;
	kt_cluster c;
	kt_playbook p;
	cJSON *plan = NULL;
	char digest[KT_SHA256_HEX];
	struct timespec t0;
	struct timespec t1;
	fixture_load(&f, &c, &p);
	kt_plan_input in = {.cluster = &c, .playbook = &p, .run = f.run};
	(void)clock_gettime(CLOCK_MONOTONIC, &t0);
	assert_kt_ok(kt_plan_make(&in, &plan, digest, &err));
	(void)clock_gettime(CLOCK_MONOTONIC, &t1);
	char *text = cJSON_PrintUnformatted(plan);
	print_message("%s nodes: %zu bytes, %.0f ms\n", slow ? "100" : "1000", strlen(text),
		      (double)(t1.tv_sec - t0.tv_sec) * 1e3 + (double)(t1.tv_nsec - t0.tv_nsec) / 1e6);
	assert_true(strlen(text) < KT_JSON_MAX / 4);
	cJSON_free(text);
	kt_buf out = KT_BUF_INIT;
	assert_kt_ok(kt_plan_print(plan, &out, &err));
	assert_non_null(
		strstr(kt_buf_cstr(&out), slow ? "node[0001-0100]: service.stop" : "node[0001-1000]: service.stop"));
	/* What differs in the node's name alone is one line for people. */
	assert_non_null(
		strstr(kt_buf_cstr(&out), slow ? "node[0002-0100]: backup.create" : "node[0002-1000]: backup.create"));
	kt_buf_free(&out);
	cJSON_Delete(plan);
	kt_playbook_free(&p);
	kt_cluster_free(&c);
}

/* Who else can open the escrow is part of what is approved. */
static void custodians_are_in_the_plan(void **state)
{
	static const char digest_of_key[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
	static const char *const digests[] = {digest_of_key};
	(void)state;
	fixture f = FIXTURE;
	f.key = "{'to':'file:${dir}/cmk-${run}'},'custodians':[{'name':'alice','public_key':'a.pem'}]";
	kt_err err = KT_ERR_INIT;
	kt_cluster c;
	kt_playbook p;
	cJSON *plan;
	char digest[KT_SHA256_HEX];
	fixture_load(&f, &c, &p);
	const kt_plan_input in = {
		.cluster = &c, .playbook = &p, .run = f.run, .located = f.located, .custodians = digests};
	assert_kt_ok(kt_plan_make(&in, &plan, digest, &err));
	const cJSON *first = cJSON_GetArrayItem(cJSON_GetObjectItem(plan, "custodians"), 0);
	assert_string_equal(cJSON_GetObjectItem(first, "name")->valuestring, "alice");
	assert_string_equal(cJSON_GetObjectItem(first, "spki_sha256")->valuestring, digest_of_key);
	kt_buf out = KT_BUF_INIT;
	assert_kt_ok(kt_plan_print(plan, &out, &err));
	assert_non_null(strstr(kt_buf_cstr(&out), "custodian alice, public key sha256 0011"));
	kt_buf_free(&out);
	cJSON_Delete(plan);
	kt_playbook_free(&p);
	kt_cluster_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_same_inputs_give_the_same_digest),
		cmocka_unit_test(every_input_counts),
		cmocka_unit_test(keys_in_the_wrong_place),
		cmocka_unit_test(nodes_that_do_not_agree),
		cmocka_unit_test(pinned_transport_keys_are_in_the_plan),
		cmocka_unit_test(variables_that_do_not_fit),
		cmocka_unit_test(run_ids),
		cmocka_unit_test(a_plan_too_large_for_a_journal),
		cmocka_unit_test(file_to_env),
		cmocka_unit_test(file_to_awskms),
		cmocka_unit_test(awskms_to_file),
		cmocka_unit_test(the_region_is_shared),
		cmocka_unit_test(to_and_from_a_token),
		cmocka_unit_test(awskms_in_the_wrong_place),
		cmocka_unit_test(from_the_legacy_form),
		cmocka_unit_test(the_legacy_form_in_the_wrong_place),
		cmocka_unit_test(how_deep),
		cmocka_unit_test(env_to_file_and_env_to_env),
		cmocka_unit_test(roles_and_nodes),
		cmocka_unit_test(a_single_node_has_no_rest),
		cmocka_unit_test(what_variables_leave_out),
		cmocka_unit_test(variables_may_use_results),
		cmocka_unit_test(dollar_signs_wait_for_the_late_pass),
		cmocka_unit_test(what_a_node_is_asked),
		cmocka_unit_test(the_engine_takes_every_kind),
		cmocka_unit_test(the_examples_make_plans),
		cmocka_unit_test(custodians_are_in_the_plan),
		cmocka_unit_test(a_thousand_nodes),
	};
	return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}

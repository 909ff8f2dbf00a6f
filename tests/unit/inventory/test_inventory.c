/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support.h"

#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "orchestrator/inventory/custodian.h"
#include "orchestrator/inventory/inventory.h"
#include "wire/blob.h"

#define HSM "\"hsm\":{\"uri\":\"pkcs11:token=t;serial=1\"}"
#define KEY "\"key\":{\"to\":\"file:/k/${run}\"}"
#define REST HSM "," KEY

static kt_code parse(const char *text, kt_cluster *c, kt_err *err)
{
	return kt_cluster_parse("/etc/kt/cluster.json", text, strlen(text), "/home/me", c, err);
}

static void reads(const char *text, kt_cluster *c)
{
	kt_err err = KT_ERR_INIT;
	assert_kt_ok(parse(text, c, &err));
}

static void a_small_file_has_defaults(void **state)
{
	(void)state;
	kt_cluster c;
	reads("{\"cluster\":\"looker\",\"playbook\":\"looker\",\"nodes\":[{\"name\":\"web[01-03]\"}]," REST "}", &c);
	assert_string_equal(c.name, "looker");
	assert_string_equal(c.playbook, "looker");
	assert_string_equal(c.state, "/etc/kt/looker.state");
	assert_int_equal(c.nodes_count, 3);
	assert_string_equal(c.nodes[2].name, "web03");
	assert_string_equal(c.nodes[2].host, "web03");
	assert_int_equal(c.nodes[2].port, 0);
	assert_null(c.nodes[2].user);
	assert_null(c.nodes[2].identity);
	assert_string_equal(c.nodes[2].agent_path, "/usr/local/lib/keyturn");
	assert_string_equal(c.nodes[2].agent_state, "/var/lib/keyturn");
	assert_int_equal(c.rekey, 0);
	assert_int_equal(c.canary, 0);
	assert_null(c.ssh.config);
	assert_int_equal(c.ssh.connect_timeout_s, 20);
	assert_true(c.agent_sudo);
	assert_string_equal(c.hsm.uri, "pkcs11:token=t;serial=1");
	assert_string_equal(c.hsm.escrow_key, "keyturn-escrow");
	assert_int_equal(c.hsm.call_timeout_s, 60);
	assert_int_equal(c.hsm.sessions, 2);
	assert_null(c.key_from);
	assert_string_equal(c.key_to, "file:/k/${run}");
	kt_cluster_free(&c);
	kt_cluster_free(&c); /* harmless */
}

static void everything_can_be_set(void **state)
{
	(void)state;
	kt_cluster c;
	reads("// a comment\n{\"cluster\":\"c1\",\"playbook\":\"own/p.json\",\"state\":\"st\",\n"
	      "\"nodes\":[{\"name\":\"a[1-2]\",\"host\":\"${node}.${zone}.example\",\"port\":2200},{\"name\":\"b\"}],\n"
	      "\"vars\":{\"zone\":\"eu\",\"base\":\"/opt/${cluster}\"},\"roles\":{\"rekey\":\"b\",\"canary\":\"a2\"},\n"
	      "\"ssh\":{\"user\":\"op-${node}\",\"identity\":\"~/k/"
	      "id\",\"config\":\"ssh.conf\",\"connect_timeout_s\":5},\n"
	      "\"agent\":{\"path\":\"${base}/bin\",\"state\":\"${base}/${node}\",\"sudo\":false},\n"
	      "\"hsm\":{\"uri\":\"pkcs11:token=t\",\"escrow_key\":\"e\",\"call_timeout_s\":5,\"sessions\":8},"
	      "\"key\":{\"from\":\"env:K\",\"to\":\"file:/k\",\"cryptoperiod_days\":90} /* end */}",
	      &c);
	assert_string_equal(c.playbook, "/etc/kt/own/p.json");
	assert_string_equal(c.state, "/etc/kt/st");
	assert_string_equal(c.nodes[1].host, "a2.eu.example");
	assert_int_equal(c.nodes[1].port, 2200);
	assert_string_equal(c.nodes[1].user, "op-a2");
	assert_string_equal(c.nodes[1].identity, "/home/me/k/id");
	assert_string_equal(c.nodes[2].agent_path, "/opt/c1/bin");
	assert_string_equal(c.nodes[2].agent_state, "/opt/c1/b");
	assert_string_equal(c.ssh.config, "/etc/kt/ssh.conf");
	assert_int_equal(c.ssh.connect_timeout_s, 5);
	assert_false(c.agent_sudo);
	assert_int_equal(c.rekey, 2);
	assert_int_equal(c.canary, 1);
	assert_string_equal(c.hsm.escrow_key, "e");
	assert_int_equal(c.hsm.call_timeout_s, 5);
	assert_int_equal(c.hsm.sessions, 8);
	assert_string_equal(c.key_from, "env:K");
	assert_int_equal(c.cryptoperiod_days, 90);
	assert_ptr_equal(kt_cluster_node(&c, "b"), &c.nodes[2]);
	assert_null(kt_cluster_node(&c, "a"));
	kt_cluster_free(&c);
}

static const char *var(const kt_cluster *c, const char *node, const char *name)
{
	const cJSON *v = kt_cluster_var(c, node ? kt_cluster_node(c, node) : NULL, name);
	return cJSON_IsString(v) ? v->valuestring : "-";
}

static void the_nearest_variable_wins(void **state)
{
	(void)state;
	kt_cluster c;
	reads("{\"cluster\":\"c\",\"playbook\":\"looker\",\"vars\":{\"x\":\"all\",\"y\":\"all\"},"
	      "\"groups\":{\"eu\":{\"vars\":{\"x\":\"eu\",\"z\":\"eu\"}},\"db\":{\"vars\":{\"x\":\"db\",\"z\":\"db\"}},"
	      "\"empty\":{}},"
	      "\"nodes\":[{\"name\":\"plain\"},{\"name\":\"one\",\"groups\":[\"eu\"]},"
	      "{\"name\":\"two\",\"groups\":[\"empty\",\"db\",\"eu\"]},"
	      "{\"name\":\"own\",\"groups\":[\"eu\"],\"vars\":{\"x\":\"own\"}}]," REST "}",
	      &c);
	assert_string_equal(var(&c, NULL, "x"), "all");
	assert_string_equal(var(&c, "plain", "x"), "all");
	assert_string_equal(var(&c, "one", "x"), "eu");
	assert_string_equal(var(&c, "two", "x"), "db"); /* the first group that has it */
	assert_string_equal(var(&c, "own", "x"), "own");
	assert_string_equal(var(&c, "own", "z"), "eu");
	assert_string_equal(var(&c, "own", "y"), "all");
	assert_string_equal(var(&c, "plain", "z"), "-");
	kt_cluster_free(&c);
}

/* A file, where the fault is said to be, and in which words. Lines: every row begins after "{\n". */
static const struct {
	const char *text;
	const char *message;
} faults[] = {
	{"", "cluster.json:1: not valid JSON"},
	{"{\"cluster\":", "not valid JSON"},
	{"[]", "cluster.json:1: $: must be of type object"},
	{"{\n}", "cluster.json:1: $: \"cluster\" is missing"},
	{"{\n\"cluster\":\"c\",\"cluster\":\"d\"}", "stands twice"},
	{"{\n\"clutser\":\"c\",\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a\"}]," REST "}",
	 "cluster.json:2: $.clutser: unknown member \"clutser\"; did you mean \"cluster\"?"},
	{"{\n\"cluster\":\"Looker\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a\"}]," REST "}",
	 "cluster.json:2: $.cluster: \"Looker\" does not match"},
	{"{\n\"cluster\":\"c\",\n\"playbook\":\"a/b\",\"nodes\":[{\"name\":\"a\"}]," REST "}",
	 "cluster.json:3: $.playbook: "},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\n\"nodes\":[]," REST "}", "cluster.json:3: $.nodes: has 0 elements"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\n\"nodes\":[{\"name\":\"a\"},\n{\"host\":\"b\"}]," REST "}",
	 "cluster.json:4: $.nodes[1]: \"name\" is missing"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\n\"nodes\":[{\"name\":\"a\"},\n{\"name\":\"b[3-1]\"}]," REST "}",
	 "cluster.json:4: $.nodes[1].name: \"b[3-1]\": the range runs backwards"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a[1-3]\"},\n{\"name\":\"a2\"}]," REST "}",
	 "cluster.json:3: $.nodes[1].name: node \"a2\" stands already in $.nodes[0]"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a[1-9999]\"},\n{\"name\":\"b[1-2]\"}]," REST
	 "}",
	 "cluster.json:3: $.nodes[1].name: \"b[1-2]\" stands for more than 1 names"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a[1-10000]\"},\n{\"name\":\"b\"}]," REST "}",
	 "cluster.json:3: $.nodes[1].name: more than 10000 nodes"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[\n{\"name\":\"a b\"}]," REST "}",
	 "cluster.json:3: $.nodes[0].name: "},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[\n{\"name\":\"../x\"}]," REST "}", "$.nodes[0].name: "},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[\n{\"name\":\"a\",\n\"port\":0}]," REST "}",
	 "cluster.json:4: $.nodes[0].port: is 0, must be at least 1"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[\n{\"name\":\"a\",\n\"groups\":[\"x\",\n\"eu\"]}],"
	 "\"groups\":{\"eu2\":{},\"x\":{}}," REST "}",
	 "cluster.json:5: $.nodes[0].groups[1]: no group \"eu\"; did you mean \"eu2\"?"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a\",\"groups\":[\"nowhere\"]}]," REST "}",
	 "$.nodes[0].groups[0]: no group \"nowhere\""},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a\",\"groups\":[\"x\",\"x\"]}],"
	 "\"groups\":{\"x\":{}}," REST "}",
	 "$.nodes[0].groups[1]: stands already at [0]"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"web[1-3]\"}],\n\"roles\":{\"rekey\":"
	 "\n\"web4\"}," REST "}",
	 "cluster.json:4: $.roles.rekey: no node \"web4\"; did you mean \"web1\"?"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"web[1-3]\"}],\n\"roles\":{\"canary\":\"db\"}"
	 "," REST "}",
	 "cluster.json:3: $.roles.canary: no node \"db\""},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[\n{\"name\":\"a\",\"host\":\n\"${nod}.x\"}]," REST "}",
	 "cluster.json:4: $.nodes[0].host: node \"a\": ${nod} is not known; did you mean ${node}?"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[\n{\"name\":\"a\",\"host\":\"-oProxyCommand=x\"}]," REST
	 "}",
	 "cluster.json:3: $.nodes[0].host: \"-oProxyCommand=x\" cannot be a host"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a\"}],\"ssh\":{\n\"user\":\"a b\"}," REST "}",
	 "cluster.json:3: $.ssh.user: \"a b\" cannot be a user"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a\"}],\"ssh\":{\n\"identity\":\"~bob/"
	 "id\"}," REST "}",
	 "cluster.json:3: $.ssh.identity: \"~bob/id\": only ~/"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a\"}],\"ssh\":{\n\"connect_timeout_s\":0}"
	 "," REST "}",
	 "cluster.json:3: $.ssh.connect_timeout_s: is 0"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a\"}],\"agent\":{\n\"state\":\"var/x\"}," REST
	 "}",
	 "cluster.json:3: $.agent.state: \"var/x\": a path on a node must begin with /"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a\"}],\"agent\":{\n\"sudo\":\"no\"}," REST "}",
	 "cluster.json:3: $.agent.sudo: must be of type boolean, is string"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a\"}],\"vars\":{\n\"x\":[\"${y\"]}," REST "}",
	 "cluster.json:3: $.vars.x: \"${y\": ${ without a closing }"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a\"}],\"vars\":{\n\"a-b\":1}," REST "}",
	 "cluster.json:3: $.vars.a-b: \"a-b\" does not match"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a\",\"host\":\"${x}\"}],\"vars\":{\"x\":\"${x}"
	 "\"}," REST "}",
	 "variables go round in a circle: x -> x"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a\"}]," KEY
	 ",\n\"hsm\":{\n\"uri\":\"file:x\"}}",
	 "cluster.json:4: $.hsm.uri: is not a pkcs11: URI"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a\"}]," HSM ",\"key\":{\n\"to\":\"kmip:x\"}}",
	 "cluster.json:3: $.key.to: \"kmip:x\" does not match"},
	{"{\n\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a\"}]," HSM
	 ",\"key\":{\n\"to\":\"file:${x\"}}",
	 "cluster.json:3: $.key.to: "},
};

static void assert_transport(const kt_node *n, const char *uri, const char *where)
{
	kt_err err = KT_ERR_INIT;
	kt_buf told = KT_BUF_INIT;
	if (uri)
		assert_string_equal(n->transport_key, uri);
	else
		assert_null(n->transport_key);
	assert_kt_ok(kt_node_transport_at(n, &told, &err));
	assert_string_equal(kt_buf_cstr(&told), where);
	kt_buf_free(&told);
}

static void the_nearest_transport_key_wins(void **state)
{
	(void)state;
	kt_cluster c;
	reads("{\"cluster\":\"looker\",\"playbook\":\"looker\",\"transport_key\":{\"uri\":\"pkcs11:token=${node}?pin-"
	      "source=file:/"
	      "etc/pin\",\"environment\":{\"SOFTHSM2_CONF\":\"/etc/"
	      "${node}.conf\"}},\"groups\":{\"a\":{},\"b\":{\"transport_"
	      "key\":\"pkcs11:token=group?pin-source=file:/"
	      "p\"}},\"nodes\":[{\"name\":\"n1\"},{\"name\":\"n2\",\"groups\":[\"a\","
	      "\"b\"]},{\"name\":\"n3\",\"groups\":[\"b\"],\"transport_key\":\"file\"},{\"name\":\"n4\",\"transport_"
	      "key\":"
	      "\"pkcs11:token=own;object=k\"}]," REST "}",
	      &c);
	assert_transport(&c.nodes[0], "pkcs11:token=n1?pin-source=file:/etc/pin", "pkcs11:token=n1");
	assert_string_equal(cJSON_GetObjectItem(c.nodes[0].environment, "SOFTHSM2_CONF")->valuestring, "/etc/n1.conf");
	assert_transport(&c.nodes[1], "pkcs11:token=group?pin-source=file:/p", "pkcs11:token=group");
	assert_null(c.nodes[1].environment);
	assert_transport(&c.nodes[2], NULL, "file");
	assert_transport(&c.nodes[3], "pkcs11:token=own;object=k", "pkcs11:token=own;object=k");
	kt_cluster_free(&c);
}

static void transport_keys_that_are_refused(void **state)
{
	static const struct {
		const char *key, *says;
	} bad[] = {
		{"\"pkcs11:token=t?pin-value=canary4711\"", "holds a PIN"},
		{"\"pkcs11:token=t?pin-source=env:PIN\"", "only come from a file on the node"},
		{"\"pkcs11:token=t?pin-source=fd:3\"", "only come from a file on the node"},
		{"\"/etc/key.pem\"", "neither \"file\" nor a pkcs11: URI"},
		{"{\"uri\":\"pkcs11:token=t\",\"pin\":\"canary4711\"}", "pin"},
		{"{\"environment\":{}}", "uri"},
		{"{\"uri\":\"pkcs11:token=t\",\"environment\":{\"a b\":\"c\"}}", "a b"},
		{"{\"uri\":\"pkcs11:token=t\",\"environment\":{\"A\":1}}", "environment.A"},
		{"\"pkcs11:token=${nobody}\"", "nobody"},
		{"7", "transport_key"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		char text[1024];
		kt_cluster c;
		kt_err err = KT_ERR_INIT;
		(void)snprintf(text, sizeof text,
			       "{\"cluster\":\"c\",\"playbook\":\"looker\",\"nodes\":[{\"name\":\"n\",\n\"transport_"
			       "key\":%s}]," REST "}",
			       bad[i].key);
		assert_kt_fails(KT_E_INPUT, parse(text, &c, &err));
		assert_non_null(strstr(err.msg, bad[i].says));
		assert_non_null(strstr(err.msg, "cluster.json:2: $.nodes[0].transport_key"));
		assert_null(strstr(err.msg, "canary4711"));
	}
}

static void faults_are_named_with_their_place(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
		kt_err err = KT_ERR_INIT;
		kt_cluster c;
		if (parse(faults[i].text, &c, &err) != KT_E_INPUT)
			fail_msg("row %zu was taken: %s", i, faults[i].text);
		if (!strstr(err.msg, faults[i].message))
			fail_msg("row %zu: \"%s\" does not say \"%s\"", i, err.msg, faults[i].message);
		assert_null(c.nodes);
		kt_cluster_free(&c);
	}
}

static void a_pin_in_the_file_is_refused_and_not_repeated(void **state)
{
	(void)state;
	const char *const uris[] = {"pkcs11:token=t?pin-value=8642", "pkcs11:token=t?PIN-VALUE=8642",
				    "file:x?pin-value=8642"};
	for (size_t i = 0; i < sizeof uris / sizeof uris[0]; i++) {
		char text[400];
		(void)snprintf(text, sizeof text,
			       "{\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a\"}],%s,\"hsm\":{\"uri\":"
			       "\"%s\"}}",
			       KEY, uris[i]);
		kt_err err = KT_ERR_INIT;
		kt_cluster c;
		assert_kt_fails(KT_E_INPUT, parse(text, &c, &err));
		assert_null(strstr(err.msg, "8642"));
		assert_null(strstr(err.remedy, "8642"));
		if (i < 2) {
			assert_non_null(strstr(err.msg, "$.hsm.uri: holds a PIN"));
			assert_non_null(strstr(err.remedy, "pin-source"));
		}
	}
}

static void ten_thousand_nodes(void **state)
{
	(void)state;
	kt_cluster c;
	reads("{\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"r[01-10]n[0001-1000]\",\"host\":\"${node}."
	      "x\"}]," REST "}",
	      &c);
	assert_int_equal(c.nodes_count, 10000);
	assert_string_equal(c.nodes[0].host, "r01n0001.x");
	assert_string_equal(c.nodes[9999].host, "r10n1000.x");
	kt_cluster_free(&c);
}

static void relative_paths_start_at_the_file(void **state)
{
	(void)state;
	const char *text = "{\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a\"}]," REST "}";
	kt_err err = KT_ERR_INIT;
	(void)mkdir("sub", 0755);
	FILE *f = fopen("sub/cluster.json", "w");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
	char cwd[2000];
	assert_non_null(getcwd(cwd, sizeof cwd));
	char want[2100];
	(void)snprintf(want, sizeof want, "%s/sub/c.state", cwd);
	kt_cluster c;
	assert_kt_ok(kt_cluster_load("sub/cluster.json", &c, &err));
	assert_string_equal(c.state, want);
	kt_cluster_free(&c);
	assert_kt_fails(KT_E_IO, kt_cluster_load("sub/none.json", &c, &err));
	assert_non_null(strstr(err.msg, "sub/none.json"));
	kt_cluster_free(&c);
	assert_kt_ok(kt_cluster_parse("/cluster.json", text, strlen(text), "/", &c, &err));
	assert_string_equal(c.state, "/c.state");
	kt_cluster_free(&c);
}

#define WITH_CUSTODIANS(list)                                                                                          \
	"{\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a\"}],\"custodians\":" list "," REST "}"

static void custodians(void **state)
{
	kt_err err = KT_ERR_INIT;
	kt_cluster c;
	(void)state;
	reads(WITH_CUSTODIANS(
		      "[{\"name\":\"alice\",\"public_key\":\"a.pem\"},{\"name\":\"bob\",\"public_key\":\"~/b.pem\"}]"),
	      &c);
	assert_int_equal(c.custodians_count, 2);
	assert_int_equal(c.cryptoperiod_days, 0);
	assert_string_equal(c.custodians[0].name, "alice");
	assert_string_equal(c.custodians[0].public_key, "/etc/kt/a.pem");
	assert_string_equal(c.custodians[1].public_key, "/home/me/b.pem");
	kt_cluster_free(&c);
	assert_kt_fails(
		KT_E_INPUT,
		parse(WITH_CUSTODIANS("[{\"name\":\"x\",\"public_key\":\"a\"},{\"name\":\"x\",\"public_key\":\"b\"}]"),
		      &c, &err));
	assert_non_null(strstr(err.msg, "$.custodians[1].name"));
	assert_kt_fails(KT_E_INPUT, parse(WITH_CUSTODIANS("[{\"name\":\"x/y\",\"public_key\":\"a\"}]"), &c, &err));
	assert_kt_fails(KT_E_INPUT, parse(WITH_CUSTODIANS("[{\"name\":\"x\"}]"), &c, &err));
}

static void write_key(const char *path, int bits, const char *type)
{
	kt_err err = KT_ERR_INIT;
	char *text;
	EVP_PKEY *key = bits ? EVP_RSA_gen((unsigned)bits) : EVP_PKEY_Q_keygen(NULL, NULL, type);
	BIO *bio = BIO_new(BIO_s_mem());
	assert_int_equal(PEM_write_bio_PUBKEY(bio, key), 1);
	long n = BIO_get_mem_data(bio, &text);
	const kt_file_attr attr = {0600, (uid_t)KT_KEEP, (gid_t)KT_KEEP};
	assert_kt_ok(kt_file_replace(path, text, (size_t)n, &attr, &err));
	BIO_free(bio);
	EVP_PKEY_free(key);
}

static void read_fails(kt_code code, const char *says)
{
	static char name[] = "alice", path[] = "custodian.pem";
	const kt_custodian c = {.name = name, .public_key = path};
	kt_err err = KT_ERR_INIT;
	kt_custodian_key key;
	assert_kt_fails(code, kt_custodian_read(&c, &key, &err));
	assert_non_null(strstr(err.msg, "custodian alice"));
	assert_non_null(strstr(err.msg, says));
}

static void put(const char *text)
{
	kt_err err = KT_ERR_INIT;
	const kt_file_attr attr = {0600, (uid_t)KT_KEEP, (gid_t)KT_KEEP};
	assert_kt_ok(kt_file_replace("custodian.pem", text, strlen(text), &attr, &err));
}

static void a_custodians_key(void **state)
{
	static char name[] = "alice", path[] = "custodian.pem";
	const kt_custodian c = {.name = name, .public_key = path};
	const unsigned both = 1U << KT_BLOB_RSA_OAEP_SHA256 | 1U << KT_BLOB_RSA_OAEP_SHA1;
	kt_err err = KT_ERR_INIT;
	kt_custodian_key key, again;
	kt_buf text = KT_BUF_INIT;
	(void)state;
	write_key(path, 2048, "RSA");
	assert_kt_ok(kt_custodian_read(&c, &key, &err));
	assert_int_equal(strlen(key.spki_sha256), 64);
	assert_int_equal(key.accepts, 0);
	assert_kt_ok(kt_custodian_opens(both, &text, &err));
	assert_string_equal(kt_buf_cstr(&text), "Opens: rsa-oaep-sha256 rsa-oaep-sha1\n");
	assert_kt_ok(kt_buf_str(&text, kt_buf_cstr(&key.pem), &err));
	put(kt_buf_cstr(&text));
	assert_kt_ok(kt_custodian_read(&c, &again, &err));
	assert_int_equal(again.accepts, both);
	assert_string_equal(again.spki_sha256, key.spki_sha256);
	assert_string_equal(kt_buf_cstr(&again.pem), kt_buf_cstr(&key.pem)); /* without the line */
	kt_custodian_key_free(&again);
	kt_buf_clear(&text);
	assert_kt_ok(kt_buf_printf(&text, &err, "Opens: rsa-pkcs1\n%s", kt_buf_cstr(&key.pem)));
	put(kt_buf_cstr(&text));
	read_fails(KT_E_INPUT, "rsa-pkcs1");
	kt_buf_clear(&text);
	assert_kt_ok(kt_buf_printf(&text, &err, "Opens:\n%s", kt_buf_cstr(&key.pem)));
	put(kt_buf_cstr(&text));
	read_fails(KT_E_INPUT, "nothing");
	kt_buf_free(&text);
	kt_custodian_key_free(&key);
	write_key(path, 1024, "RSA");
	read_fails(KT_E_REFUSED, "2048");
	write_key(path, 0, "ED25519");
	read_fails(KT_E_REFUSED, "RSA");
	put("no key");
	read_fails(KT_E_INPUT, "PEM");
	assert_int_equal(unlink(path), 0);
	read_fails(KT_E_IO, path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_small_file_has_defaults),
		cmocka_unit_test(everything_can_be_set),
		cmocka_unit_test(the_nearest_variable_wins),
		cmocka_unit_test(the_nearest_transport_key_wins),
		cmocka_unit_test(transport_keys_that_are_refused),
		cmocka_unit_test(faults_are_named_with_their_place),
		cmocka_unit_test(a_pin_in_the_file_is_refused_and_not_repeated),
		cmocka_unit_test(custodians),
		cmocka_unit_test(a_custodians_key),
		cmocka_unit_test(ten_thousand_nodes),
		cmocka_unit_test(relative_paths_start_at_the_file),
	};
	return cmocka_run_group_tests_name("inventory", tests, NULL, NULL);
}

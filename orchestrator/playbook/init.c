/* SPDX-License-Identifier: Apache-2.0 */
/* The cluster.json that `keyturn init` writes: everything that a person should look at, with its help beside it. */
#include <stdlib.h>
#include <string.h>

#include "orchestrator/playbook/playbook.h"

static const char head[] =
	"// A cluster for keyturn, playbook \"%s\": %s\n"
	"// Fill in the nodes and the token, then: keyturn enroll, keyturn doctor, keyturn plan, keyturn run.\n"
	"// Everything is explained in keyturn-cluster.json(5). Comments may stand anywhere.\n"
	"{\n"
	"  \"cluster\": \"%s\",                          // lower-case letters, digits, dashes\n"
	"  \"playbook\": \"%s\",                         // a shipped one, or a path ending in .json\n"
	"  // \"state\": \"%s.state\",                   // journal, pinned keys, escrow; relative to this file\n"
	"\n"
	"  // [01-03] expands; ${node} is the node's name. Per node: \"port\", \"groups\", \"vars\".\n"
	"  \"nodes\": [\n"
	"    {\"name\": \"web[01-03]\", \"host\": \"${node}.example.com\"}\n"
	"  ],\n"
	"  // \"groups\": {\"eu\": {\"vars\": {}}},         // variables for some nodes; a node's own win\n"
	"  // \"roles\": {\"rekey\": \"web01\", \"canary\": \"web01\"},   // default: the first node\n"
	"\n"
	"  // How to get there. What is left out is taken from your ssh configuration.\n"
	"  // \"ssh\": {\"user\": \"release\", \"identity\": \"~/.ssh/id_ed25519\"},\n"
	"  // \"agent\": {\"path\": \"/usr/local/lib/keyturn\", \"state\": \"/var/lib/keyturn\", \"sudo\": true},\n"
	"\n"
	"  // The token by label and serial (`pkcs11-tool -L` lists them). The PIN never stands here: name its "
	"source.\n"
	"  \"hsm\": {\n"
	"    \"uri\": "
	"\"pkcs11:token=keyturn?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/keyturn/pin\",\n"
	"    \"escrow_key\": \"keyturn-escrow\"\n"
	"  },\n"
	"\n"
	"  // Where the old key is (left out: the nodes are asked) and where the new one goes: file:/path, env:NAME,\n"
	"  // or where one is already that stays there: pkcs11:..., awskms:alias/NAME. Data that is still in the "
	"legacy\n"
	"  // form (AES-128-CBC, before migrate_encryption) has no old key: \"from\": \"legacy:\".\n"
	"  \"key\": {\n"
	"    // \"from\": \"file:${dir}/cmk\",\n"
	"    \"to\": \"file:${dir}/cmk-${run}\"\n"
	"  },\n"
	"\n"
	"  \"vars\": {\n";

static const cJSON *member(const cJSON *obj, const char *name)
{
	return obj ? cJSON_GetObjectItemCaseSensitive(obj, name) : NULL;
}

static kt_code put_variable(const cJSON *v, bool active, bool comma, kt_buf *out, kt_err *err)
{
	const cJSON *value = member(v, "default");
	KT_TRY(kt_buf_printf(out, err, "    // %s\n    %s\"%s\": ", member(v, "help")->valuestring, active ? "" : "// ",
			     v->string));
	KT_TRY(value ? kt_json_print(value, out, err) : kt_buf_str(out, "null", err));
	return kt_buf_str(out, comma ? ",\n" : "\n", err);
}

/* The optional ones stand commented out before the others: any of them may be uncommented, each ends with a comma. */
static kt_code put_variables(const cJSON *variables, kt_buf *out, kt_err *err)
{
	const cJSON *last = NULL;
	for (const cJSON *v = variables->child; v; v = v->next) {
		bool active = cJSON_IsTrue(member(v, "ask")) || !member(v, "default");
		if (active)
			last = v;
		else
			KT_TRY(put_variable(v, false, true, out, err));
	}
	if (last)
		KT_TRY(kt_buf_str(out, "\n    // --- Look at these:\n", err));
	for (const cJSON *v = variables->child; v; v = v->next)
		if (cJSON_IsTrue(member(v, "ask")) || !member(v, "default"))
			KT_TRY(put_variable(v, true, v != last, out, err));
	return KT_OK;
}

kt_code kt_playbook_init_text(const kt_playbook *p, kt_buf *out, kt_err *err)
{
	KT_TRY(kt_buf_printf(out, err, head, p->name, p->title, p->name, p->name, p->name));
	KT_TRY(put_variables(member(p->doc.root, "variables"), out, err));
	return kt_buf_str(out, "  }\n}\n", err);
}

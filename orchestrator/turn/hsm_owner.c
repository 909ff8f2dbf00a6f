/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HSM's verbs as they are carried out in the token's owner (pkcs11/owner.h): handles and blobs, and no file. Every
 * one may be asked again: what it makes on the token it finds by its name the next time, and the rest ends with the
 * session.
 */
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/codec.h"
#include "orchestrator/turn/hsm.h"
#include "pkcs11/key.h"
#include "pkcs11/mac.h"
#include "pkcs11/owner.h"
#include "pkcs11/probe.h"
#include "pkcs11/wrap.h"

enum { ID_LEN = 16, NONCE_LEN = 16 };

#define ESCROW_LABEL "keyturn-escrow/1"

/* What a request is about, all borrowed from its arguments. */
typedef struct call {
	kt_token *token;
	const char *cluster, *escrow_key, *run, *node, *pem, *spki_sha256;
	unsigned accepts; /* formats, as of kt_blob_address */
	bool backup;      /* about the run's backup key, not its cluster key */
	const cJSON *blob, *custodians;
	cJSON *result;
} call;

static kt_code read_call(const kt_owner_task *task, call *c, kt_err *err)
{
	int64_t accepts;
	*c = (call){.token = task->token, .result = task->result};
	KT_TRY(kt_json_str(task->args, "cluster", &c->cluster, err));
	KT_TRY(kt_json_str(task->args, "escrow_key", &c->escrow_key, err));
	KT_TRY(kt_json_opt_str(task->args, "run", "-", &c->run, err));
	KT_TRY(kt_json_opt_str(task->args, "node", "", &c->node, err));
	KT_TRY(kt_json_opt_str(task->args, "pem", "", &c->pem, err));
	KT_TRY(kt_json_opt_str(task->args, "spki_sha256", "", &c->spki_sha256, err));
	KT_TRY(kt_json_opt_int(task->args, "accepts", 0, 0, (1 << KT_BLOB_FORMATS) - 1, &accepts, err));
	KT_TRY(kt_json_opt_bool(task->args, "backup", false, &c->backup, err));
	c->accepts = (unsigned)accepts;
	c->blob = cJSON_GetObjectItemCaseSensitive(task->args, "blob");
	c->custodians = cJSON_GetObjectItemCaseSensitive(task->args, "custodians");
	return KT_OK;
}

/* --- the wrapping key --------------------------------------------------------------------------------------------- */

static kt_code find_escrow_key(const call *c, kt_token_key *out, kt_err *err)
{
	const kt_token_key_name name = {.label = c->escrow_key};
	kt_code rc = kt_token_find_wrapping_key(c->token, &name, out, err);
	if (rc == KT_E_KEY && err)
		return kt_fail(err, rc, "make it with `keyturn enroll --create-escrow-key`, or correct hsm.escrow_key",
			       "%s", err->msg);
	return rc;
}

static kt_code act_find_escrow_key(const call *c, kt_err *err)
{
	kt_token_key key;
	KT_TRY(find_escrow_key(c, &key, err));
	return kt_json_add_str(c->result, "kcv", key.kcv, err);
}

static kt_code act_make_escrow_key(const call *c, kt_err *err)
{
	const kt_token_key_name name = {.label = c->escrow_key};
	kt_token_key key;
	kt_err missing = KT_ERR_INIT;
	kt_code rc = kt_token_find_wrapping_key(c->token, &name, &key, &missing);
	const bool make = rc == KT_E_KEY;
	if (make)
		rc = kt_token_create_wrapping_key(c->token, &name, &key, err);
	else if (rc != KT_OK && err)
		*err = missing;
	KT_TRY(rc);
	KT_TRY(kt_json_add_bool(c->result, "made", make, err));
	return kt_json_add_str(c->result, "kcv", key.kcv, err);
}

/* The id of a run's cluster key, or backup key: the same for the same run, so that a resumed run finds what it made. */
static kt_code cluster_key_name(const call *c, uint8_t id[ID_LEN], char label[KT_URI_OBJECT], kt_token_key_name *name,
				kt_err *err)
{
	char text[256];
	uint8_t sum[KT_SHA256_LEN];
	(void)snprintf(text, sizeof text, "keyturn-%s/1:%s:%s", c->backup ? "backup" : "key", c->cluster, c->run);
	KT_TRY(kt_sha256(text, strlen(text), sum, err));
	memcpy(id, sum, ID_LEN);
	(void)snprintf(label, KT_URI_OBJECT, "keyturn%s:%s:%s", c->backup ? "-backup" : "", c->cluster, c->run);
	*name = (kt_token_key_name){.label = label, .id = id, .id_len = ID_LEN};
	return KT_OK;
}

static kt_code find_cluster_key(const call *c, kt_token_key *out, kt_err *err)
{
	uint8_t id[ID_LEN];
	char label[KT_URI_OBJECT];
	kt_token_key_name name;
	KT_TRY(cluster_key_name(c, id, label, &name, err));
	return kt_token_find_cluster_key(c->token, &name, out, err);
}

static kt_code add_hex(cJSON *o, const char *name, const void *bytes, size_t n, kt_err *err)
{
	kt_buf hex = KT_BUF_INIT;
	kt_code rc = kt_hex_encode(bytes, n, &hex, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, name, kt_buf_cstr(&hex), err);
	kt_buf_free(&hex);
	return rc;
}

static kt_code add_kcv(cJSON *o, const char *kcv, kt_err *err)
{
	KT_TRY(kt_json_add_str(o, "kcv", kcv, err));
	return kt_json_add_str(o, "kcv_method", KT_KCV_METHOD, err);
}

static kt_code nonce_make(uint8_t nonce[NONCE_LEN], kt_err *err)
{
	if (RAND_bytes(nonce, NONCE_LEN) != 1)
		return kt_fail(err, KT_E_INTERNAL, NULL, "the random generator failed");
	return KT_OK;
}

/* --- custodians --------------------------------------------------------------------------------------------------- */

/* A custodian whose public key is imported for this time. */
typedef struct custodian {
	const char *name;
	unsigned accepts; /* formats, as of kt_blob_address */
	kt_token_node_key public;
} custodian;

typedef kt_code with_custodian(const call *c, const custodian *who, const void *cookie, kt_err *err);

static kt_code one_custodian(const call *c, const cJSON *row, with_custodian *with, const void *cookie, kt_err *err)
{
	const char *pem;
	int64_t accepts;
	custodian who = {0};
	KT_TRY(kt_json_str(row, "name", &who.name, err));
	KT_TRY(kt_json_str(row, "pem", &pem, err));
	KT_TRY(kt_json_int(row, "accepts", 0, (1 << KT_BLOB_FORMATS) - 1, &accepts, err));
	who.accepts = (unsigned)accepts;
	kt_code rc = kt_token_import_node_key(c->token, pem, strlen(pem), &who.public, err);
	if (rc == KT_OK) {
		rc = with(c, &who, cookie, err);
		kt_token_drop_node_key(c->token, &who.public);
	}
	return rc == KT_OK ? rc : kt_err_prefix(err, rc, "custodian %s", who.name);
}

static kt_code each_custodian(const call *c, with_custodian *with, const void *cookie, kt_err *err)
{
	for (const cJSON *row = c->custodians ? c->custodians->child : NULL; row; row = row->next)
		KT_TRY(one_custodian(c, row, with, cookie, err));
	return KT_OK;
}

/* Preflight: a throw-away key can be wrapped to each of them, in a format that their token opens. */
static kt_code try_custodian(const call *c, const custodian *who, const void *key, kt_err *err)
{
	const kt_blob_address address = {
		.purpose = KT_BLOB_CUSTODIAN, .run = c->run, .custodian = who->name, .accepts = who->accepts};
	kt_blob blob;
	return kt_token_wrap_for_node(c->token, key, &who->public, &address, &blob, err);
}

static kt_code check_custodians(const call *c, kt_err *err)
{
	uint8_t id[ID_LEN];
	kt_token_key key;
	bool made;
	if (!c->custodians || !c->custodians->child)
		return KT_OK;
	KT_TRY(nonce_make(id, err));
	const kt_token_key_name name = {.label = "keyturn-rehearsal", .id = id, .id_len = sizeof id};
	KT_TRY(kt_token_ensure_cluster_key(c->token, &name, false, &key, &made, err));
	kt_code rc = each_custodian(c, try_custodian, &key, err);
	KT_IGNORE(kt_token_destroy_key(c->token, &key, NULL));
	return rc;
}

/* --- hsm.check ---------------------------------------------------------------------------------------------------- */

static kt_code act_check(const call *c, kt_err *err)
{
	kt_token_key escrow;
	kt_token_formats formats;
	KT_TRY(kt_token_check(c->token, err));
	KT_TRY(find_escrow_key(c, &escrow, err));
	KT_TRY(check_custodians(c, err));
	KT_TRY(kt_token_probe_formats(c->token, &formats, err));
	if (!formats.rfc5649 && !formats.rfc3394)
		return kt_fail(
			err, KT_E_HSM, "use a token with AES key wrap (RFC 5649 or RFC 3394) for the escrow",
			"the token cannot wrap a key under an AES key: neither mechanism CKM_AES_KEY_WRAP_PAD nor "
			"CKM_AES_KEY_WRAP works (tried with throw-away keys)");
	if (!formats.oaep_sha256 && !formats.oaep_sha1)
		return kt_fail(
			err, KT_E_HSM, "use a token with RSA-OAEP wrapping",
			"the token cannot wrap a key to a node's RSA key: mechanism CKM_RSA_PKCS_OAEP does not work "
			"(tried with throw-away keys)");
	const kt_token_info *info = kt_token_get_info(c->token);
	KT_TRY(kt_json_add_str(c->result, "token", info->label, err));
	KT_TRY(kt_json_add_str(c->result, "serial", info->serial, err));
	KT_TRY(kt_json_add_str(c->result, "escrow_format", formats.rfc5649 ? "rfc5649" : "rfc3394", err));
	KT_TRY(kt_json_add_str(c->result, "node_format", formats.oaep_sha256 ? "rsa-oaep-sha256" : "rsa-oaep-sha1",
			       err));
	return kt_json_add_str(c->result, "escrow_kcv", escrow.kcv, err);
}

/* --- hsm.probe ---------------------------------------------------------------------------------------------------- */

/* Not of a run. args: `label` and `id` (hex) of a node's transport key, both may be absent; `on_token`. */
static kt_code verb_probe(const kt_owner_task *task, kt_err *err)
{
	static kt_probe_report report;
	kt_probe_options options = {0};
	const char *label, *hex;
	char date[KT_TIME_TEXT];
	kt_buf id = {.max = KT_URI_ID};
	cJSON *json;
	KT_TRY(kt_json_opt_str(task->args, "label", NULL, &label, err));
	KT_TRY(kt_json_opt_str(task->args, "id", "", &hex, err));
	KT_TRY(kt_json_opt_bool(task->args, "on_token", false, &options.on_token, err));
	kt_code rc = kt_hex_decode(hex, strlen(hex), &id, err);
	const kt_token_key_name name = {.label = label, .id = id.data, .id_len = id.len};
	options.node_key = label || id.len ? &name : NULL;
	if (rc == KT_OK)
		rc = kt_token_probe(task->token, &options, &report, err);
	kt_buf_free(&id);
	KT_TRY(rc);
	kt_clock_format(kt_clock_wall_ms(), date);
	KT_TRY(kt_probe_to_json(&report, date, &json, err));
	return kt_json_add(task->result, "report", json, err);
}

/* --- key.generate ------------------------------------------------------------------------------------------------- */

static kt_code make_key(const call *c, kt_token_key *key, kt_err *err)
{
	uint8_t id[ID_LEN];
	char label[KT_URI_OBJECT];
	kt_token_key_name name;
	bool made;
	KT_TRY(cluster_key_name(c, id, label, &name, err));
	KT_TRY(kt_token_ensure_cluster_key(c->token, &name, true, key, &made, err));
	KT_TRY(add_hex(c->result, "id", id, sizeof id, err));
	return kt_json_add_str(c->result, c->backup ? "key_label" : "label", label, err);
}

static kt_code act_generate(const call *c, kt_err *err)
{
	kt_token_key key;
	KT_TRY(make_key(c, &key, err));
	return add_kcv(c->result, key.kcv, err);
}

/* --- key.escrow --------------------------------------------------------------------------------------------------- */

/* What tells the very key when the original is gone: recorded now, compared then with that of a recovered one. */
static kt_code add_proof(const call *c, const kt_token_key *key, kt_err *err)
{
	uint8_t nonce[NONCE_LEN];
	uint8_t proof[KT_PROOF_LEN];
	KT_TRY(nonce_make(nonce, err));
	KT_TRY(kt_token_proof(c->token, key, ESCROW_LABEL, nonce, sizeof nonce, proof, err));
	KT_TRY(kt_json_add_str(c->result, "label", ESCROW_LABEL, err));
	KT_TRY(add_hex(c->result, "nonce", nonce, sizeof nonce, err));
	return add_hex(c->result, "proof", proof, sizeof proof, err);
}

/* A custodian's copy: name, spki_sha256 and blob, in result.custodians. */
static kt_code wrap_for_custodian(const call *c, const custodian *who, const void *key, kt_err *err)
{
	const kt_blob_address address = {
		.purpose = KT_BLOB_CUSTODIAN, .run = c->run, .custodian = who->name, .accepts = who->accepts};
	kt_blob blob;
	cJSON *json;
	cJSON *row = cJSON_CreateObject();
	if (!row || !cJSON_AddItemToArray(cJSON_GetObjectItemCaseSensitive(c->result, "custodians"), row)) {
		cJSON_Delete(row);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	KT_TRY(kt_token_wrap_for_node(c->token, key, &who->public, &address, &blob, err));
	KT_TRY(kt_blob_to_json(&blob, &json, err));
	KT_TRY(kt_json_add(row, "blob", json, err));
	KT_TRY(kt_json_add_str(row, "name", who->name, err));
	return kt_json_add_str(row, "spki_sha256", who->public.spki_sha256, err);
}

/* The new key under the wrapping key, and to each custodian, as blobs. */
static kt_code act_escrow(const call *c, kt_err *err)
{
	const kt_blob_address address = {.purpose = KT_BLOB_ESCROW, .run = c->run};
	kt_token_key key;
	kt_token_key wrapping;
	kt_blob blob;
	cJSON *json;
	KT_TRY(find_cluster_key(c, &key, err));
	KT_TRY(find_escrow_key(c, &wrapping, err));
	KT_TRY(kt_token_wrap_under(c->token, &key, &wrapping, &address, &blob, err));
	KT_TRY(kt_blob_to_json(&blob, &json, err));
	KT_TRY(kt_json_add(c->result, "blob", json, err));
	KT_TRY(kt_json_add_str(c->result, "wrapping_key", wrapping.label, err));
	KT_TRY(kt_json_add_str(c->result, "wrapping_kcv", wrapping.kcv, err));
	KT_TRY(kt_json_add(c->result, "custodians", cJSON_CreateArray(), err));
	KT_TRY(each_custodian(c, wrap_for_custodian, &key, err));
	KT_TRY(add_proof(c, &key, err));
	return add_kcv(c->result, key.kcv, err);
}

/* --- backup.key --------------------------------------------------------------------------------------------------- */

/* Made and escrowed in one: it is of use only together. */
static kt_code act_backup_key(const call *c, kt_err *err)
{
	kt_token_key key;
	KT_TRY(make_key(c, &key, err));
	return act_escrow(c, err);
}

/* --- key.recover -------------------------------------------------------------------------------------------------- */

/* Both keys say the same of a fresh nonce. */
static kt_code same_key(const call *c, const kt_token_key *key, const kt_token_key *again, kt_err *err)
{
	uint8_t nonce[NONCE_LEN];
	uint8_t a[KT_PROOF_LEN];
	uint8_t b[KT_PROOF_LEN];
	KT_TRY(nonce_make(nonce, err));
	KT_TRY(kt_token_proof(c->token, key, ESCROW_LABEL, nonce, sizeof nonce, a, err));
	KT_TRY(kt_token_proof(c->token, again, ESCROW_LABEL, nonce, sizeof nonce, b, err));
	if (CRYPTO_memcmp(a, b, sizeof a) == 0 && strcmp(key->kcv, again->kcv) == 0)
		return KT_OK;
	return kt_fail(err, KT_E_HSM, "do not use this token for wrapping: report it to its vendor",
		       "the key recovered from the escrow is not the key that was escrowed");
}

/* S3: what was written to the disk opens inside the HSM to the very key: same check value, same proof over a fresh
 * nonce. */
static kt_code act_recover(const call *c, kt_err *err)
{
	kt_blob blob;
	kt_token_key key;
	kt_token_key wrapping;
	kt_token_key again;
	KT_TRY(kt_blob_from_json(c->blob, &blob, err));
	KT_TRY(find_cluster_key(c, &key, err));
	KT_TRY(find_escrow_key(c, &wrapping, err));
	KT_TRY(kt_token_unwrap_under(c->token, &blob, &wrapping, &again, err));
	kt_code rc = same_key(c, &key, &again, err);
	if (rc != KT_OK)
		KT_IGNORE(kt_token_destroy_key(c->token, &again, NULL));
	else
		rc = kt_token_destroy_key(c->token, &again, err);
	return rc;
}

/* --- key.wrap, key.rehearse --------------------------------------------------------------------------------------- */

/* blob, label, nonce and the proof that the node must answer with. */
static kt_code add_wrapped(const call *c, const kt_token_key *key, const kt_blob *blob, kt_err *err)
{
	char label[KT_PROOF_LABEL_MAX];
	uint8_t nonce[NONCE_LEN];
	uint8_t proof[KT_PROOF_LEN];
	cJSON *json;
	(void)snprintf(label, sizeof label, "keyturn-proof/1:%s:%s", c->run, c->node);
	KT_TRY(nonce_make(nonce, err));
	KT_TRY(kt_token_proof(c->token, key, label, nonce, sizeof nonce, proof, err));
	KT_TRY(kt_blob_to_json(blob, &json, err));
	KT_TRY(kt_json_add(c->result, "blob", json, err));
	KT_TRY(kt_json_add_str(c->result, "label", label, err));
	KT_TRY(add_hex(c->result, "nonce", nonce, sizeof nonce, err));
	KT_TRY(add_hex(c->result, "expect", proof, sizeof proof, err));
	return add_kcv(c->result, key->kcv, err);
}

static kt_code wrap_to_node(const call *c, const kt_token_key *key, kt_blob_purpose purpose, kt_err *err)
{
	kt_blob blob;
	kt_token_node_key node;
	KT_TRY(kt_token_import_node_key(c->token, c->pem, strlen(c->pem), &node, err));
	const kt_blob_address address = {.purpose = purpose, .run = c->run, .node = c->node, .accepts = c->accepts};
	kt_code rc = strcmp(node.spki_sha256, c->spki_sha256) == 0
			     ? kt_token_wrap_for_node(c->token, key, &node, &address, &blob, err)
			     : kt_fail(err, KT_E_REFUSED, "enroll the node again, comparing the fingerprint",
				       "%s: the pinned public key is not the one whose digest is pinned", c->node);
	kt_token_drop_node_key(c->token, &node);
	return rc == KT_OK ? add_wrapped(c, key, &blob, err) : rc;
}

/* Thousands of nodes need the same key: it is found, and its working copy made, once in each session. */
static kt_code act_wrap(const call *c, kt_err *err)
{
	uint8_t id[ID_LEN];
	char label[KT_URI_OBJECT];
	const kt_token_key_name wrapping = {.label = c->escrow_key};
	kt_token_key_name name;
	kt_token_key key;
	KT_TRY(cluster_key_name(c, id, label, &name, err));
	KT_TRY(kt_token_working_key(c->token, &name, &wrapping, &key, err));
	return wrap_to_node(c, &key, KT_BLOB_TRANSPORT, err);
}

static kt_code act_rehearse(const call *c, kt_err *err)
{
	uint8_t id[ID_LEN];
	kt_token_key key;
	bool made;
	KT_TRY(nonce_make(id, err));
	const kt_token_key_name name = {.label = "keyturn-rehearsal", .id = id, .id_len = sizeof id};
	KT_TRY(kt_token_ensure_cluster_key(c->token, &name, false, &key, &made, err));
	kt_code rc = wrap_to_node(c, &key, KT_BLOB_REHEARSAL, err);
	if (rc != KT_OK)
		KT_IGNORE(kt_token_destroy_key(c->token, &key, NULL));
	else
		rc = kt_token_destroy_key(c->token, &key, err);
	return rc;
}

/* --- the table ---------------------------------------------------------------------------------------------------- */

#define VERB(name)                                                                                                     \
	static kt_code verb_##name(const kt_owner_task *task, kt_err *err)                                             \
	{                                                                                                              \
		call c;                                                                                                \
		KT_TRY(read_call(task, &c, err));                                                                      \
		return act_##name(&c, err);                                                                            \
	}
VERB(find_escrow_key)
VERB(make_escrow_key)
VERB(check)
VERB(generate)
VERB(escrow)
VERB(backup_key)
VERB(recover)
VERB(wrap)
VERB(rehearse)

kt_code kt_hsm_serve(int argc, char **argv, kt_err *err)
{
	static const kt_owner_handler handlers[] = {{"escrow_key.find", verb_find_escrow_key},
						    {"escrow_key.make", verb_make_escrow_key},
						    {"hsm.check", verb_check},
						    {"hsm.probe", verb_probe},
						    {"key.generate", verb_generate},
						    {"key.escrow", verb_escrow},
						    {"key.recover", verb_recover},
						    {"backup.key", verb_backup_key},
						    {"backup.wrap", verb_wrap},
						    {"key.wrap", verb_wrap},
						    {"key.rehearse", verb_rehearse},
						    {0}};
	return kt_owner_serve(argc, argv, handlers, err);
}

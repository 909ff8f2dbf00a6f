/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/turn/hsm.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/codec.h"
#include "base/file.h"
#include "pkcs11/key.h"
#include "pkcs11/mac.h"
#include "pkcs11/token.h"
#include "pkcs11/wrap.h"

enum { ID_LEN = 16, NONCE_LEN = 16, PATH_LEN = 4096, BLOB_FILE_MAX = 16 * 1024, PEM_MAX = 8 * 1024 };

struct kt_hsm {
	kt_hsm_options opt;
	kt_token *token;
};

/* One call of a verb: what it is about. */
typedef struct call {
	kt_hsm *hsm;
	const char *run;
	const char *node;
	cJSON *result;
} call;

kt_code kt_hsm_open(const kt_hsm_options *options, kt_hsm **out, kt_err *err)
{
	*out = NULL;
	kt_hsm *hsm = calloc(1, sizeof *hsm);
	if (!hsm)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	hsm->opt = *options;
	kt_code rc = kt_token_open(options->uri, &hsm->token, err);
	if (rc != KT_OK)
		free(hsm);
	else
		*out = hsm;
	return rc;
}

void kt_hsm_close(kt_hsm *hsm)
{
	if (!hsm)
		return;
	kt_token_close(hsm->token);
	free(hsm);
}

static kt_code find_escrow_key(kt_hsm *hsm, kt_token_key *out, kt_err *err)
{
	const kt_token_key_name name = {.label = hsm->opt.escrow_label};
	kt_code rc = kt_token_find_wrapping_key(hsm->token, &name, out, err);
	if (rc == KT_E_KEY && err)
		return kt_fail(err, rc, "make it with `keyturn enroll --create-escrow-key`, or correct hsm.escrow_key",
			       "%s", err->msg);
	return rc;
}

kt_code kt_hsm_find_escrow_key(kt_hsm *hsm, char *kcv, kt_err *err)
{
	kt_token_key key;
	KT_TRY(find_escrow_key(hsm, &key, err));
	memcpy(kcv, key.kcv, KT_KCV_TEXT);
	return KT_OK;
}

kt_code kt_hsm_make_escrow_key(kt_hsm *hsm, bool *made, char *kcv, kt_err *err)
{
	const kt_token_key_name name = {.label = hsm->opt.escrow_label};
	kt_token_key key;
	kt_err ignored = KT_ERR_INIT;
	*made = false;
	kt_code rc = kt_token_find_wrapping_key(hsm->token, &name, &key, &ignored);
	if (rc == KT_E_KEY) {
		rc = kt_token_create_wrapping_key(hsm->token, &name, &key, err);
		*made = rc == KT_OK;
	} else if (rc != KT_OK && err) {
		*err = ignored;
	}
	if (rc == KT_OK)
		memcpy(kcv, key.kcv, KT_KCV_TEXT);
	return rc;
}

/* The id of a run's cluster key: the same for the same run, so that a resumed run finds what it made. */
static kt_code cluster_key_name(const call *c, uint8_t id[ID_LEN], char label[KT_URI_OBJECT], kt_token_key_name *name,
				kt_err *err)
{
	char text[256];
	uint8_t sum[KT_SHA256_LEN];
	(void)snprintf(text, sizeof text, "keyturn-key/1:%s:%s", c->hsm->opt.cluster, c->run);
	KT_TRY(kt_sha256(text, strlen(text), sum, err));
	memcpy(id, sum, ID_LEN);
	(void)snprintf(label, KT_URI_OBJECT, "keyturn:%s:%s", c->hsm->opt.cluster, c->run);
	*name = (kt_token_key_name){.label = label, .id = id, .id_len = ID_LEN};
	return KT_OK;
}

static kt_code find_cluster_key(const call *c, kt_token_key *out, kt_err *err)
{
	uint8_t id[ID_LEN];
	char label[KT_URI_OBJECT];
	kt_token_key_name name;
	KT_TRY(cluster_key_name(c, id, label, &name, err));
	return kt_token_find_cluster_key(c->hsm->token, &name, out, err);
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

/* --- hsm.check ---------------------------------------------------------------------------------------------------- */

static kt_code act_check(const call *c, kt_err *err)
{
	kt_token_key escrow;
	kt_token_formats formats;
	KT_TRY(kt_token_check(c->hsm->token, err));
	KT_TRY(find_escrow_key(c->hsm, &escrow, err));
	KT_TRY(kt_token_probe_formats(c->hsm->token, &formats, err));
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
	const kt_token_info *info = kt_token_get_info(c->hsm->token);
	KT_TRY(kt_json_add_str(c->result, "token", info->label, err));
	KT_TRY(kt_json_add_str(c->result, "serial", info->serial, err));
	KT_TRY(kt_json_add_str(c->result, "escrow_format", formats.rfc5649 ? "rfc5649" : "rfc3394", err));
	KT_TRY(kt_json_add_str(c->result, "node_format", formats.oaep_sha256 ? "rsa-oaep-sha256" : "rsa-oaep-sha1",
			       err));
	return kt_json_add_str(c->result, "escrow_kcv", escrow.kcv, err);
}

/* --- key.generate ------------------------------------------------------------------------------------------------- */

static kt_code act_generate(const call *c, kt_err *err)
{
	uint8_t id[ID_LEN];
	char label[KT_URI_OBJECT];
	kt_token_key_name name;
	kt_token_key key;
	bool made;
	KT_TRY(cluster_key_name(c, id, label, &name, err));
	KT_TRY(kt_token_ensure_cluster_key(c->hsm->token, &name, true, &key, &made, err));
	KT_TRY(add_hex(c->result, "id", id, sizeof id, err));
	KT_TRY(kt_json_add_str(c->result, "label", label, err));
	return add_kcv(c->result, key.kcv, err);
}

/* --- key.escrow --------------------------------------------------------------------------------------------------- */

static kt_code escrow_path(const call *c, char path[PATH_LEN], kt_err *err)
{
	if (snprintf(path, PATH_LEN, "%s/escrow", c->hsm->opt.state) >= PATH_LEN - KT_RUN_MAX - 8)
		return kt_fail(err, KT_E_INPUT, "use a shorter path", "the path of the state folder is too long");
	KT_TRY(kt_file_mkdirs(path, 0700, err));
	size_t n = strlen(path);
	(void)snprintf(path + n, PATH_LEN - n, "/%s.json", c->run);
	return KT_OK;
}

static kt_code escrow_write(const call *c, const char *path, const kt_token_key *key, const kt_token_key *wrapping,
			    kt_err *err)
{
	kt_blob blob;
	kt_buf text = KT_BUF_INIT;
	const kt_blob_address address = {.purpose = KT_BLOB_ESCROW, .run = c->run};
	KT_TRY(kt_token_wrap_under(c->hsm->token, key, wrapping, &address, &blob, err));
	kt_code rc = kt_blob_to_text(&blob, &text, err);
	if (rc == KT_OK)
		rc = kt_file_replace(path, text.data, text.len, &(kt_file_attr){0600, (uid_t)KT_KEEP, (gid_t)KT_KEEP},
				     err);
	kt_buf_free(&text);
	return rc;
}

static kt_code escrow_read(const call *c, const char *path, kt_blob *blob, kt_err *err)
{
	kt_buf text = {.max = BLOB_FILE_MAX};
	kt_code rc = kt_file_read(path, &text, err);
	if (rc == KT_OK)
		rc = kt_blob_from_text(path, text.data, text.len, blob, err);
	kt_buf_free(&text);
	if (rc == KT_OK && (blob->purpose != KT_BLOB_ESCROW || strcmp(blob->run, c->run) != 0))
		return kt_fail(err, KT_E_KEY, "put the escrow of this run back from a copy",
			       "%s: this is not the escrow of run %s, but a wrapped key for %s of run \"%s\"", path,
			       c->run, kt_blob_purpose_name(blob->purpose), blob->run);
	return rc;
}

/* S3: what was written to the disk opens inside the HSM to the very key: same check value, same proof over a fresh
 * nonce. */
static kt_code escrow_recover(const call *c, const char *path, const kt_token_key *key, const kt_token_key *wrapping,
			      kt_err *err)
{
	kt_blob blob;
	kt_token_key again;
	uint8_t nonce[NONCE_LEN];
	uint8_t a[KT_PROOF_LEN];
	uint8_t b[KT_PROOF_LEN];
	KT_TRY(escrow_read(c, path, &blob, err));
	KT_TRY(nonce_make(nonce, err));
	KT_TRY(kt_token_unwrap_under(c->hsm->token, &blob, wrapping, &again, err));
	kt_code rc = kt_token_proof(c->hsm->token, key, "keyturn-escrow/1", nonce, sizeof nonce, a, err);
	if (rc == KT_OK)
		rc = kt_token_proof(c->hsm->token, &again, "keyturn-escrow/1", nonce, sizeof nonce, b, err);
	if (rc == KT_OK && (CRYPTO_memcmp(a, b, sizeof a) != 0 || strcmp(key->kcv, again.kcv) != 0))
		rc = kt_fail(err, KT_E_HSM, "do not use this token for wrapping: report it to its vendor",
			     "%s: the key recovered from the escrow is not the key that was escrowed", path);
	if (rc != KT_OK)
		KT_IGNORE(kt_token_destroy_key(c->hsm->token, &again, NULL));
	else
		rc = kt_token_destroy_key(c->hsm->token, &again, err);
	return rc;
}

static kt_code act_escrow(const call *c, kt_err *err)
{
	char path[PATH_LEN];
	kt_token_key key;
	kt_token_key wrapping;
	KT_TRY(escrow_path(c, path, err));
	KT_TRY(find_cluster_key(c, &key, err));
	KT_TRY(find_escrow_key(c->hsm, &wrapping, err));
	KT_TRY(escrow_write(c, path, &key, &wrapping, err));
	KT_TRY(escrow_recover(c, path, &key, &wrapping, err));
	KT_TRY(kt_json_add_str(c->result, "path", path, err));
	KT_TRY(kt_json_add_str(c->result, "wrapping_key", wrapping.label, err));
	KT_TRY(kt_json_add_bool(c->result, "recovered", true, err));
	return add_kcv(c->result, key.kcv, err);
}

/* --- key.wrap, key.rehearse --------------------------------------------------------------------------------------- */

/* The pinned public half of the node's transport key. */
static kt_code import_node(const call *c, kt_token_node_key *out, kt_err *err)
{
	char path[PATH_LEN];
	kt_buf pem = {.max = PEM_MAX};
	KT_TRY(kt_name_check("node", c->node, err));
	if (snprintf(path, sizeof path, "%s/nodes/%s.pem", c->hsm->opt.state, c->node) >= (int)sizeof path)
		return kt_fail(err, KT_E_INPUT, "use a shorter path", "the path of the state folder is too long");
	kt_code rc = kt_file_read(path, &pem, err);
	if (rc != KT_OK)
		rc = kt_fail(err, KT_E_REFUSED, "run `keyturn enroll`", "%s has no transport key pinned here (%s)",
			     c->node, err ? err->msg : path);
	else
		rc = kt_token_import_node_key(c->hsm->token, pem.data, pem.len, out, err);
	kt_buf_free(&pem);
	return rc;
}

/* blob, label, nonce and the proof that the node must answer with. */
static kt_code add_wrapped(const call *c, const kt_token_key *key, const kt_blob *blob, kt_err *err)
{
	char label[KT_PROOF_LABEL_MAX];
	uint8_t nonce[NONCE_LEN];
	uint8_t proof[KT_PROOF_LEN];
	cJSON *json;
	(void)snprintf(label, sizeof label, "keyturn-proof/1:%s:%s", c->run, c->node);
	KT_TRY(nonce_make(nonce, err));
	KT_TRY(kt_token_proof(c->hsm->token, key, label, nonce, sizeof nonce, proof, err));
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
	KT_TRY(import_node(c, &node, err));
	const kt_blob_address address = {.purpose = purpose, .run = c->run, .node = c->node};
	kt_code rc = kt_token_wrap_for_node(c->hsm->token, key, &node, &address, &blob, err);
	kt_token_drop_node_key(c->hsm->token, &node);
	return rc == KT_OK ? add_wrapped(c, key, &blob, err) : rc;
}

static kt_code act_wrap(const call *c, kt_err *err)
{
	kt_token_key key;
	KT_TRY(find_cluster_key(c, &key, err));
	return wrap_to_node(c, &key, KT_BLOB_TRANSPORT, err);
}

static kt_code act_rehearse(const call *c, kt_err *err)
{
	uint8_t id[ID_LEN];
	kt_token_key key;
	bool made;
	KT_TRY(nonce_make(id, err));
	const kt_token_key_name name = {.label = "keyturn-rehearsal", .id = id, .id_len = sizeof id};
	KT_TRY(kt_token_ensure_cluster_key(c->hsm->token, &name, false, &key, &made, err));
	kt_code rc = wrap_to_node(c, &key, KT_BLOB_REHEARSAL, err);
	if (rc != KT_OK)
		KT_IGNORE(kt_token_destroy_key(c->hsm->token, &key, NULL));
	else
		rc = kt_token_destroy_key(c->hsm->token, &key, err);
	return rc;
}

/* --- the table ---------------------------------------------------------------------------------------------------- */

static const struct verb {
	const char *name;
	kt_code (*act)(const call *c, kt_err *err);
} verbs[] = {
	{"hsm.check", act_check}, {"key.generate", act_generate}, {"key.escrow", act_escrow},
	{"key.wrap", act_wrap},   {"key.rehearse", act_rehearse},
};

static const struct verb *find_verb(const char *name)
{
	for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
		if (strcmp(verbs[i].name, name) == 0)
			return &verbs[i];
	return NULL;
}

bool kt_hsm_knows(const char *verb)
{
	return find_verb(verb) != NULL;
}

kt_status kt_hsm_act(kt_hsm *hsm, const char *verb, const char *run, const char *node, cJSON *result, kt_err *err)
{
	const struct verb *v = find_verb(verb);
	const call c = {.hsm = hsm, .run = run, .node = node, .result = result};
	kt_code rc = v ? v->act(&c, err) : kt_fail(err, KT_E_INTERNAL, NULL, "the coordinator has no verb %s", verb);
	return rc == KT_OK ? KT_STATUS_OK : KT_STATUS_FAILED;
}

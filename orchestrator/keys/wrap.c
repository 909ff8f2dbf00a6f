/* SPDX-License-Identifier: Apache-2.0 */
/* Wrapped copies of a key: each is noted in the ledger before it is written, so that no copy is unknown. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "orchestrator/inventory/custodian.h"
#include "orchestrator/keys/internal.h"

/* One copy while it is made. */
typedef struct copy {
	kt_keys *k;
	kt_token *token;
	const kt_token_key *key;
	const char *run; /* "" when no run made it */
	const kt_keys_target *to;
	char path[KT_KEYS_PATH];            /* of the blob, absolute */
	char name[KT_CLUSTER_NAME_MAX + 1]; /* the custodian's */
	char under[KT_BLOB_NAME];
	char under_kcv[KT_KCV_TEXT];
	kt_blob blob;
} copy;

/* --- Whom it is for ----------------------------------------------------------------------------------------------- */

/* The name of a public key's file without folder and ending. */
static void name_of(const char *path, char *out, size_t size)
{
	const char *slash = strrchr(path, '/');
	const char *base = slash ? slash + 1 : path;
	(void)snprintf(out, size, "%.*s", (int)strcspn(base, "."), base);
}

static kt_code wrap_for(copy *c, const kt_custodian_key *key, kt_err *err)
{
	kt_token_node_key public;
	const kt_blob_address address = {
		.purpose = KT_BLOB_CUSTODIAN, .run = c->run, .custodian = c->name, .accepts = key->accepts};
	KT_TRY(kt_token_import_node_key(c->token, key->pem.data, key->pem.len, &public, err));
	kt_code rc = kt_token_wrap_for_node(c->token, c->key, &public, &address, &c->blob, err);
	kt_token_drop_node_key(c->token, &public);
	(void)snprintf(c->under, sizeof c->under, "%s", key->spki_sha256);
	return rc;
}

static kt_code for_custodian(copy *c, kt_err *err)
{
	kt_custodian_key key;
	if (c->to->name)
		(void)snprintf(c->name, sizeof c->name, "%s", c->to->name);
	else
		name_of(c->to->public_key, c->name, sizeof c->name);
	KT_TRY(kt_name_check("custodian", c->name, err));
	char *file = strdup(c->to->public_key);
	if (!file)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	const kt_custodian who = {.name = c->name, .public_key = file};
	kt_code rc = kt_custodian_read(&who, &key, err);
	if (rc == KT_OK)
		rc = wrap_for(c, &key, err);
	kt_custodian_key_free(&key);
	free(file);
	return rc;
}

/* A wrapping key that was pre-active is in use now. */
static kt_code activate(kt_keys *k, const kt_token_key *wrapping, kt_err *err)
{
	char id[KT_LEDGER_ID];
	cJSON *entry;
	KT_TRY(kt_keys_hex(wrapping->id, wrapping->id_len, id, err));
	const cJSON *known = kt_view_find(k->view, id, "wrapping", wrapping->kcv);
	if (!known)
		return KT_OK;
	kt_key_state state = kt_view_state(known);
	if (state == KT_KEY_ACTIVE)
		return KT_OK;
	if (state != KT_KEY_PRE_ACTIVE)
		return kt_fail(err, KT_E_REFUSED, "wrap under another key", "the wrapping key %s is %s",
			       wrapping->label, kt_key_state_name(state));
	KT_TRY(kt_keys_entry(k, known, &entry, err));
	return kt_ledger_moved(entry, KT_KEY_ACTIVE, kt_clock_wall_ms(), "first use", err);
}

static kt_code under_key(copy *c, kt_err *err)
{
	kt_token_key wrapping;
	const kt_token_key_name name = {.label = c->to->under};
	const kt_blob_address address = {.purpose = KT_BLOB_ESCROW, .run = c->run};
	KT_TRY(kt_token_find_wrapping_key(c->token, &name, &wrapping, err));
	KT_TRY(activate(c->k, &wrapping, err));
	KT_TRY(kt_token_wrap_under(c->token, c->key, &wrapping, &address, &c->blob, err));
	(void)snprintf(c->under, sizeof c->under, "%s", wrapping.label);
	memcpy(c->under_kcv, wrapping.kcv, sizeof c->under_kcv);
	return KT_OK;
}

/* --- Writing it --------------------------------------------------------------------------------------------------- */

/* The ledger has absolute paths: the folder must be there, the file need not. */
static kt_code make_absolute(const char *path, char out[KT_KEYS_PATH], kt_err *err)
{
	char folder[KT_KEYS_PATH];
	char real[PATH_MAX];
	const char *slash = strrchr(path, '/');
	(void)snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
	if (!realpath(folder, real))
		return kt_fail_errno(err, errno, NULL, "the folder of %s", path);
	if (snprintf(out, KT_KEYS_PATH, "%s/%s", strcmp(real, "/") == 0 ? "" : real, slash ? slash + 1 : path) >=
	    KT_KEYS_PATH)
		return kt_fail(err, KT_E_INPUT, "use a shorter path", "%s: the path is too long", path);
	return KT_OK;
}

static kt_code write_blob(const char *path, const kt_blob *blob, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	const kt_file_attr attr = {0600, (uid_t)KT_KEEP, (gid_t)KT_KEEP};
	kt_code rc = kt_blob_to_text(blob, &text, err);
	if (rc == KT_OK)
		rc = kt_file_replace(path, text.data, text.len, &attr, err);
	kt_buf_free(&text);
	return rc;
}

static kt_code note(const copy *c, cJSON *entry, kt_err *err)
{
	const kt_ledger_escrow e = {.path = c->path,
				    .custodian = c->name,
				    .under = c->under,
				    .under_kcv = c->under_kcv,
				    .time_ms = kt_clock_wall_ms()};
	cJSON *proof = cJSON_CreateObject();
	kt_code rc = kt_ledger_member(entry, "proof") ? KT_OK : kt_proof_make(c->token, c->key, proof, err);
	if (rc == KT_OK && !kt_ledger_member(entry, "proof"))
		rc = kt_ledger_proved(entry, proof, err);
	cJSON_Delete(proof);
	if (rc == KT_OK)
		rc = kt_ledger_escrowed(entry, &e, err);
	return rc;
}

static kt_code tell(const copy *c, cJSON *result, kt_err *err)
{
	KT_TRY(kt_json_add_str(result, "path", c->path, err));
	KT_TRY(kt_json_add_str(result, "custodian", c->name, err));
	KT_TRY(kt_json_add_str(result, "under", c->under, err));
	KT_TRY(kt_json_add_str(result, "format", kt_blob_format_name(c->blob.format), err));
	return kt_json_add_str(result, "kcv", c->blob.kcv, err);
}

kt_code kt_keys_wrap_to(kt_keys *k, kt_token *t, const kt_token_key *key, const char *run, const kt_keys_target *to,
			cJSON *entry, cJSON *result, kt_err *err)
{
	copy c = {.k = k, .token = t, .key = key, .run = run, .to = to};
	KT_TRY(make_absolute(to->output, c.path, err));
	KT_TRY(to->public_key ? for_custodian(&c, err) : under_key(&c, err));
	if (entry)
		KT_TRY(note(&c, entry, err));
	KT_TRY(kt_keys_save(k, err));
	KT_TRY(write_blob(c.path, &c.blob, err));
	return tell(&c, result, err);
}

/* --- The verbs ---------------------------------------------------------------------------------------------------- */

static kt_code find_cluster_key(const kt_keys *k, const char *key, kt_found *f, kt_err *err)
{
	kt_place p;
	*f = (kt_found){0};
	KT_TRY(kt_place_of(k, key, &p, err));
	KT_TRY(kt_find(k, &p, f, err));
	if (strcmp(f->kind, "cluster") == 0)
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED, "a wrapping key is saved by the HSM's own backup",
		       "\"%s\" is a wrapping key: it never leaves its token", f->key.label);
}

kt_code kt_keys_wrap(kt_keys *k, const char *key, const kt_keys_target *to, cJSON *result, kt_err *err)
{
	kt_found f;
	cJSON *entry = NULL;
	kt_code rc = find_cluster_key(k, key, &f, err);
	if (rc == KT_OK)
		rc = kt_found_entry(k, &f, &entry, err);
	if (rc == KT_OK)
		rc = kt_keys_wrap_to(k, f.token, &f.key, f.run, to, entry, result, err);
	kt_found_close(&f);
	return rc;
}

static kt_code escrow_one(kt_keys *k, const kt_found *f, const kt_custodian *custodian, cJSON *entry, cJSON *rows,
			  kt_err *err)
{
	char path[KT_KEYS_PATH];
	cJSON *row = cJSON_CreateObject();
	int n = snprintf(path, sizeof path, "%s/escrow/%s%s%s.json", k->cluster->state, f->id, custodian ? "." : "",
			 custodian ? custodian->name : "");
	const kt_keys_target to = {.public_key = custodian ? custodian->public_key : NULL,
				   .name = custodian ? custodian->name : NULL,
				   .under = custodian ? NULL : k->cluster->hsm.escrow_key,
				   .output = path};
	kt_code rc =
		n < (int)sizeof path ? KT_OK : kt_fail(err, KT_E_INPUT, "use a shorter path", "the path is too long");
	if (rc == KT_OK)
		rc = kt_keys_wrap_to(k, f->token, &f->key, f->run, &to, entry, row, err);
	if (rc == KT_OK && !cJSON_AddItemToArray(rows, row))
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc != KT_OK)
		cJSON_Delete(row);
	return rc;
}

/* What was written under the wrapping key opens again to the very key (S3); custodians' copies only they can open. */
static kt_code prove(const kt_found *f, const cJSON *entry, const char *path, kt_err *err)
{
	kt_opener o = {.hsm = f->token};
	kt_blob blob;
	kt_token *t;
	kt_token_key again;
	bool can;
	KT_TRY(kt_blob_read(path, &blob, err));
	KT_TRY(kt_opener_open(&o, &blob, &t, &again, &can, err));
	kt_code rc = kt_proof_check(t, &again, kt_ledger_member(entry, "proof"), err);
	KT_IGNORE(kt_token_destroy_key(t, &again, NULL));
	return rc;
}

static kt_code escrow(kt_keys *k, const kt_found *f, cJSON *result, kt_err *err)
{
	char folder[KT_KEYS_PATH];
	cJSON *entry, *rows;
	KT_TRY(kt_found_entry(k, f, &entry, err));
	KT_TRY(kt_json_add(result, "escrows", cJSON_CreateArray(), err));
	rows = kt_ledger_member(result, "escrows");
	(void)snprintf(folder, sizeof folder, "%s/escrow", k->cluster->state);
	KT_TRY(kt_file_mkdirs(folder, 0700, err));
	KT_TRY(escrow_one(k, f, NULL, entry, rows, err));
	KT_TRY(prove(f, entry, kt_ledger_text(rows->child, "path"), err));
	for (size_t i = 0; i < k->cluster->custodians_count; i++)
		KT_TRY(escrow_one(k, f, &k->cluster->custodians[i], entry, rows, err));
	return kt_keys_tell(k, f->id, result, err);
}

kt_code kt_keys_escrow(kt_keys *k, const char *key, cJSON *result, kt_err *err)
{
	kt_found f;
	kt_code rc = find_cluster_key(k, key, &f, err);
	if (rc == KT_OK)
		rc = escrow(k, &f, result, err);
	kt_found_close(&f);
	return rc;
}

/* The key that the blob says it carries, as the ledger knows it. */
static kt_code entry_of(kt_keys *k, const kt_blob *blob, cJSON **entry, const cJSON **known, kt_err *err)
{
	*entry = NULL;
	*known = kt_view_carried(k->view, blob->kcv);
	return *known ? kt_keys_entry(k, *known, entry, err) : KT_OK;
}

static kt_code rewrap(kt_keys *k, kt_opener *o, const kt_blob *blob, const kt_keys_target *to, cJSON *result,
		      kt_err *err)
{
	kt_token *t;
	kt_token_key key;
	cJSON *entry;
	const cJSON *known;
	bool can;
	KT_TRY(entry_of(k, blob, &entry, &known, err));
	KT_TRY(kt_opener_open(o, blob, &t, &key, &can, err));
	kt_code rc = kt_ledger_member(known, "proof") ? kt_proof_check(t, &key, kt_ledger_member(known, "proof"), err)
						      : KT_OK;
	if (rc == KT_OK)
		rc = kt_keys_wrap_to(k, t, &key, blob->run, to, entry, result, err);
	KT_IGNORE(kt_token_destroy_key(t, &key, NULL));
	return rc;
}

kt_code kt_keys_rewrap(kt_keys *k, const char *path, const char *custodian, const kt_keys_target *to, cJSON *result,
		       kt_err *err)
{
	kt_blob blob;
	kt_opener o = {.hsm_uri = k->cluster->hsm.uri, .custodian_uri = custodian};
	KT_TRY(kt_blob_read(path, &blob, err));
	kt_code rc = rewrap(k, &o, &blob, to, result, err);
	kt_opener_close(&o);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A lost key comes back (S6: from token to token, never in the clear). By the wrapping key, which the HSM's own backup
 * has restored in the token; or by a custodian: their token opens the blob, and wraps the key again to an RSA pair that
 * the fresh token has just made and that lives for this session.
 */
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "orchestrator/keys/internal.h"

/* One recovery. */
typedef struct recovery {
	kt_keys *k;
	const kt_keys_recover *what;
	kt_place place;
	char id[KT_LEDGER_ID];
	kt_opener o;
	cJSON *rows;  /* what each blob was found to be */
	cJSON *same;  /* a proof by the first good one */
	kt_blob blob; /* the first good one */
} recovery;

/* --- Which key, and what shows it --------------------------------------------------------------------------------- */

/* What the ledger knows of the key that the first readable blob says it carries. */
static const cJSON *known_by_blob(const recovery *r)
{
	kt_blob blob;
	for (size_t i = 0; i < r->what->n; i++)
		if (kt_blob_read(r->what->paths[i], &blob, NULL) == KT_OK)
			return kt_view_carried(r->k->view, blob.kcv);
	return NULL;
}

static kt_code choose_name(recovery *r, kt_err *err)
{
	kt_place *p = &r->place;
	kt_place of;
	if (!p->known)
		p->known = known_by_blob(r);
	const char *id = p->known ? kt_ledger_text(p->known, "id") : "";
	if (!p->id_len && id[0] && !kt_keys_elsewhere(p->known)) {
		KT_TRY(kt_place_of(r->k, id, &of, err));
		memcpy(p->id, of.id, of.id_len);
		p->id_len = of.id_len;
	}
	if (!p->id_len) {
		if (RAND_bytes(p->id, KT_KEYS_NEW_ID) != 1)
			return kt_fail(err, KT_E_INTERNAL, NULL, "the random generator failed");
		p->id_len = KT_KEYS_NEW_ID;
	}
	if (!p->label[0] && p->known)
		(void)snprintf(p->label, sizeof p->label, "%s", kt_ledger_text(p->known, "label"));
	return kt_keys_hex(p->id, p->id_len, r->id, err);
}

static kt_code may_come_back(const recovery *r, kt_err *err)
{
	if (r->place.known && kt_view_state(r->place.known) == KT_KEY_DESTROYED)
		return kt_fail(err, KT_E_REFUSED, "a key that was destroyed stays so; make another one",
			       "the key %s was destroyed", kt_ledger_text(r->place.known, "id"));
	return KT_OK;
}

/* Each blob, whatever the others are; the first good one is what is used. */
static kt_code try_all(recovery *r, kt_err *err)
{
	bool have = false;
	for (size_t i = 0; i < r->what->n; i++) {
		bool good;
		KT_TRY(kt_keys_try(r->k, &r->o, r->what->paths[i], r->place.known, r->same, r->rows, &good, err));
		if (good && !have)
			KT_TRY(kt_blob_read(r->what->paths[i], &r->blob, err));
		have = have || good;
	}
	if (have)
		return KT_OK;
	const char *first = kt_ledger_text(r->rows->child, "message");
	return kt_fail(err, KT_E_KEY, kt_ledger_text(r->rows->child, "remedy"), "%s: %s%s",
		       kt_ledger_text(r->rows->child, "path"), first, r->what->n > 1 ? " (and so for the others)" : "");
}

/* --- Into a token ------------------------------------------------------------------------------------------------- */

/* What the fresh token was found to open. */
static kt_code accepted_by(kt_token *fresh, unsigned *out, kt_err *err)
{
	kt_token_formats formats;
	KT_TRY(kt_token_probe_formats(fresh, &formats, err));
	*out = (formats.oaep_sha256 ? 1U << KT_BLOB_RSA_OAEP_SHA256 : 0) |
	       (formats.oaep_sha1 ? 1U << KT_BLOB_RSA_OAEP_SHA1 : 0);
	return KT_OK;
}

/* The custodian's token wraps the key to the pair of the fresh one. */
static kt_code hand_over(recovery *r, unsigned accepts, const kt_token_rsa_key *pair, kt_blob *out, kt_err *err)
{
	kt_token *t;
	kt_token_key key;
	kt_token_node_key public;
	const kt_blob_address address = {
		.purpose = KT_BLOB_CUSTODIAN, .run = r->blob.run, .custodian = "recovery", .accepts = accepts};
	KT_TRY(kt_opener_custodian(&r->o, &t, err));
	KT_TRY(kt_token_unwrap_rsa(t, &r->blob, &r->o.priv, &key, err));
	kt_code rc = kt_token_import_node_key(t, pair->spki, pair->spki_len, &public, err);
	if (rc == KT_OK) {
		rc = kt_token_wrap_for_node(t, &key, &public, &address, out, err);
		kt_token_drop_node_key(t, &public);
	}
	KT_IGNORE(kt_token_destroy_key(t, &key, NULL));
	return rc;
}

static kt_code by_custodian(recovery *r, kt_token *fresh, kt_token_key *key, kt_err *err)
{
	kt_token_rsa_key pair;
	kt_blob moved;
	const kt_token_key_name name = kt_place_name(&r->place);
	unsigned accepts;
	KT_TRY(accepted_by(fresh, &accepts, err));
	KT_TRY(kt_token_recovery_make(fresh, &pair, err));
	kt_code rc = hand_over(r, accepts, &pair, &moved, err);
	if (rc == KT_OK)
		rc = kt_token_recover_rsa(fresh, &moved, &pair, &name, key, err);
	kt_token_recovery_drop(fresh, &pair);
	return rc;
}

static kt_code by_wrapping_key(recovery *r, kt_token *fresh, kt_token_key *key, kt_err *err)
{
	kt_token_key wrapping;
	const kt_token_key_name name = kt_place_name(&r->place);
	KT_TRY(kt_opener_wrapping(fresh, &r->blob, &wrapping, err));
	return kt_token_recover_under(fresh, &r->blob, &wrapping, &name, key, err);
}

static kt_code intend(recovery *r, cJSON **entry, kt_err *err)
{
	const kt_ledger_new as = {
		.id = r->id, .label = r->place.label, .uri = "", .kind = "cluster", .kcv = r->blob.kcv};
	const cJSON *known = kt_view_find(r->k->view, r->id, "", "");
	KT_TRY(known ? kt_keys_entry(r->k, known, entry, err) : kt_ledger_enter(&r->k->ledger, &as, entry, err));
	KT_TRY(kt_ledger_intend(*entry, "recover", kt_clock_wall_ms(), err));
	return kt_keys_save(r->k, err);
}

/* It is not there, and that is certain. */
static void call_off(recovery *r, cJSON *entry)
{
	cJSON *keys = kt_ledger_member(r->k->ledger.root, "keys");
	kt_ledger_done(entry);
	if (!kt_ledger_text(entry, "uri")[0])
		cJSON_Delete(cJSON_DetachItemViaPointer(keys, entry));
	KT_IGNORE(kt_keys_save(r->k, NULL));
}

static kt_code finish(recovery *r, const kt_token *fresh, cJSON *entry, cJSON *result, kt_err *err)
{
	char uri[KT_LEDGER_PATH];
	KT_TRY(kt_keys_uri(fresh, r->place.label, r->place.id, r->place.id_len, uri, err));
	if (!kt_ledger_text(entry, "uri")[0]) /* nobody knew it: it is wanted because something is under it */
		KT_TRY(kt_ledger_moved(entry, KT_KEY_ACTIVE, kt_clock_wall_ms(), "recovered", err));
	KT_TRY(kt_keys_set(entry, "uri", uri, err));
	if (!kt_ledger_member(entry, "proof"))
		KT_TRY(kt_ledger_proved(entry, r->same, err));
	kt_ledger_done(entry);
	KT_TRY(kt_keys_save(r->k, err));
	return kt_keys_tell(r->k, r->id, result, err);
}

/* Did the first attempt come as far as the key? */
static bool is_there(const recovery *r, kt_token *fresh, kt_token_key *key)
{
	const kt_token_key_name name = kt_place_name(&r->place);
	const cJSON *known = kt_view_find(r->k->view, r->id, "", "");
	return kt_ledger_is(kt_ledger_member(known, "pending"), "what", "recover") &&
	       kt_token_find_cluster_key(fresh, &name, key, NULL) == KT_OK;
}

static kt_code into_token(recovery *r, cJSON *result, kt_err *err)
{
	kt_token *fresh;
	kt_token_key key;
	cJSON *entry;
	if (!r->place.label[0])
		return kt_fail(err, KT_E_INPUT, "add object=LABEL to the URI", "a recovered key needs a label");
	KT_TRY(kt_opener_hsm(&r->o, &fresh, err));
	bool there = is_there(r, fresh, &key);
	KT_TRY(intend(r, &entry, err));
	kt_code rc = there                            ? KT_OK
		     : kt_blob_is_rsa(r->blob.format) ? by_custodian(r, fresh, &key, err)
						      : by_wrapping_key(r, fresh, &key, err);
	bool made = rc == KT_OK && !there;
	if (rc == KT_OK)
		rc = kt_proof_check(fresh, &key, r->same, err);
	if (rc == KT_OK)
		return finish(r, fresh, entry, result, err);
	if (!made || kt_token_destroy_key(fresh, &key, NULL) == KT_OK)
		call_off(r, entry);
	return rc;
}

/* --- Into a file -------------------------------------------------------------------------------------------------- */

static kt_code export(recovery *r, kt_secret *key, kt_err *err)
{
	kt_token *t;
	kt_token_key wrapping;
	if (kt_blob_is_rsa(r->blob.format)) {
		KT_TRY(kt_opener_custodian(&r->o, &t, err));
		return kt_token_export_rsa(t, &r->o.priv, &r->blob, key, err);
	}
	KT_TRY(kt_opener_hsm(&r->o, &t, err));
	KT_TRY(kt_opener_wrapping(t, &r->blob, &wrapping, err));
	return kt_token_export_kek(t, &wrapping, &r->blob, key, err);
}

static kt_code into_file(recovery *r, cJSON *result, kt_err *err)
{
	kt_secret key = KT_SECRET_INIT;
	char kcv[KT_KCV_TEXT];
	kt_code rc = export(r, &key, err);
	if (rc == KT_OK)
		rc = kt_kcv_of(&key, kcv, err);
	if (rc == KT_OK)
		rc = kt_keys_write_file(r->place.path, &key, err);
	kt_secret_free(&key);
	KT_TRY(rc);
	KT_TRY(kt_json_add_str(result, "path", r->place.path, err));
	KT_TRY(kt_json_add_str(result, "kcv", kcv, err));
	return kt_json_add_str(result, "kcv_method", KT_KCV_METHOD, err);
}

static kt_code restore(recovery *r, cJSON *result, kt_err *err)
{
	if (r->place.file && !r->what->plaintext)
		return kt_fail(err, KT_E_REFUSED,
			       "name a token; or, for the file that the application reads, say --plaintext-file",
			       "a key file would have the key in the clear");
	if (!r->place.file)
		KT_TRY(choose_name(r, err));
	else
		r->place.known = known_by_blob(r);
	KT_TRY(may_come_back(r, err));
	KT_TRY(try_all(r, err));
	return r->place.file ? into_file(r, result, err) : into_token(r, result, err);
}

kt_code kt_keys_restore(kt_keys *k, const kt_keys_recover *what, cJSON *result, kt_err *err)
{
	recovery r = {.k = k, .what = what};
	KT_TRY(kt_place_of(k, what->key, &r.place, err));
	KT_TRY(kt_json_add(result, "escrows", cJSON_CreateArray(), err));
	r.rows = kt_ledger_member(result, "escrows");
	r.o = (kt_opener){.hsm_uri = r.place.file ? k->cluster->hsm.uri : r.place.uri,
			  .custodian_uri = what->custodian};
	r.same = cJSON_CreateObject();
	kt_code rc = r.same ? restore(&r, result, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	cJSON_Delete(r.same);
	kt_opener_close(&r.o);
	return rc;
}

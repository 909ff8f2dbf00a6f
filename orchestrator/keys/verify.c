/* SPDX-License-Identifier: Apache-2.0 */
/* Every escrow is opened and proved, not only the first one that works. */
#include <stdio.h>
#include <string.h>

#include "orchestrator/keys/internal.h"

static kt_code add_row(cJSON *rows, const char *path, const char *custodian, const char *status, const kt_err *why,
		       kt_err *err)
{
	cJSON *row = cJSON_CreateObject();
	kt_code rc = kt_json_add_str(row, "path", path, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(row, "custodian", custodian, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(row, "status", status, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(row, "message", why->msg, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(row, "remedy", why->remedy, err);
	if (rc == KT_OK && cJSON_AddItemToArray(rows, row))
		return KT_OK;
	cJSON_Delete(row);
	return rc != KT_OK ? rc : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

/* All hold the same key: the first that opens makes a proof that the others must give, too. */
static kt_code prove(kt_token *t, const kt_token_key *key, const cJSON *known, cJSON *same, kt_err *err)
{
	if (kt_ledger_member(known, "proof"))
		KT_TRY(kt_proof_check(t, key, kt_ledger_member(known, "proof"), err));
	if (!same)
		return KT_OK;
	return same->child ? kt_proof_check(t, key, same, err) : kt_proof_make(t, key, same, err);
}

static kt_code open_and_prove(kt_opener *o, const char *path, const cJSON *known, cJSON *same, kt_blob *blob, bool *can,
			      kt_err *err)
{
	kt_token *t;
	kt_token_key key;
	*can = true;
	KT_TRY(kt_blob_read(path, blob, err));
	const char *kcv = kt_ledger_text(known, "kcv");
	if (kcv[0] && strcmp(kcv, blob->kcv) != 0) /* lint: allow memcmp: check values are no secrets */
		return kt_fail(err, KT_E_KEY, "it belongs to another key", "it has the key with check value %s, not %s",
			       blob->kcv, kcv);
	KT_TRY(kt_opener_open(o, blob, &t, &key, can, err));
	kt_code rc = prove(t, &key, known, same, err);
	KT_IGNORE(kt_token_destroy_key(t, &key, NULL));
	return rc;
}

/* A token that cannot be asked says nothing about the escrow; one that lost the wrapping key does. */
static const char *status_of(kt_code rc, bool can)
{
	if (rc == KT_OK)
		return "good";
	if (!can && rc == KT_E_KEY)
		return "no-key";
	return !can || rc == KT_E_HSM ? "untried" : "bad";
}

kt_code kt_keys_try(kt_keys *k, kt_opener *o, const char *path, const cJSON *known, cJSON *same, cJSON *rows,
		    bool *good, kt_err *err)
{
	kt_err why = KT_ERR_INIT;
	kt_blob blob = {0};
	bool can;
	(void)k;
	kt_code rc = open_and_prove(o, path, known, same, &blob, &can, &why);
	*good = rc == KT_OK;
	return add_row(rows, path, blob.custodian, status_of(rc, can), &why, err);
}

/* --- verify ------------------------------------------------------------------------------------------------------- */

typedef struct verifying {
	kt_keys *k;
	kt_opener o;
	cJSON *rows;
} verifying;

static kt_code verify_one(verifying *v, const char *path, const cJSON *known, kt_err *err)
{
	bool good;
	return kt_keys_try(v->k, &v->o, path, known, NULL, v->rows, &good, err);
}

static kt_code verify_known(verifying *v, kt_err *err)
{
	for (const cJSON *key = v->k->view->child; key; key = key->next)
		for (const cJSON *e = kt_ledger_member(key, "escrows")->child; e; e = e->next)
			if (kt_view_state(key) != KT_KEY_DESTROYED && !cJSON_IsTrue(kt_ledger_member(e, "gone")))
				KT_TRY(verify_one(v, kt_ledger_text(e, "path"), key, err));
	return KT_OK;
}

/* What the ledger knows of the key that a file says it carries. */
static const cJSON *known_of(const kt_keys *k, const char *path)
{
	kt_blob blob;
	return kt_blob_read(path, &blob, NULL) == KT_OK ? kt_view_carried(k->view, blob.kcv) : NULL;
}

static size_t count(const cJSON *rows, const char *status)
{
	size_t n = 0;
	for (const cJSON *r = rows->child; r; r = r->next)
		n += kt_ledger_is(r, "status", status);
	return n;
}

static kt_code conclude(const cJSON *rows, kt_err *err)
{
	size_t bad = count(rows, "bad") + count(rows, "no-key");
	if (!rows->child)
		return kt_fail(err, KT_E_REFUSED, "`keyturn key escrow` makes them", "no escrow is known");
	if (bad)
		return kt_fail(err, KT_E_KEY, "make it anew (keyturn key escrow) while the key is there",
			       "%zu of %d escrows %s not good", bad, cJSON_GetArraySize(rows), bad == 1 ? "is" : "are");
	if (!count(rows, "good"))
		return kt_fail(err, KT_E_REFUSED, "give the custodian's key: --custodian URI",
			       "none of the escrows could be opened here");
	return KT_OK;
}

kt_code kt_keys_verify(kt_keys *k, const char *const *paths, size_t n, const char *custodian, cJSON *result,
		       kt_err *err)
{
	verifying v = {.k = k, .o = {.hsm_uri = k->cluster->hsm.uri, .custodian_uri = custodian}};
	KT_TRY(kt_json_add(result, "escrows", cJSON_CreateArray(), err));
	v.rows = kt_ledger_member(result, "escrows");
	kt_code rc = n ? KT_OK : verify_known(&v, err);
	for (size_t i = 0; rc == KT_OK && i < n; i++)
		rc = verify_one(&v, paths[i], known_of(k, paths[i]), err);
	kt_opener_close(&v.o);
	return rc == KT_OK ? conclude(v.rows, err) : rc;
}

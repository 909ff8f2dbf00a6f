/* SPDX-License-Identifier: Apache-2.0 */
/* Opening wrapped keys, in tokens alone; and proofs of possession. */
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <string.h>

#include "base/codec.h"
#include "base/file.h"
#include "orchestrator/keys/internal.h"
#include "pkcs11/mac.h"

enum { FILE_MAX = 16 * 1024, NONCE_LEN = 16 };

#define PROOF_LABEL "keyturn-escrow/1"

kt_code kt_blob_read(const char *path, kt_blob *out, kt_err *err)
{
	kt_buf text = {.max = FILE_MAX};
	kt_code rc = kt_file_read(path, &text, err);
	if (rc == KT_OK)
		rc = kt_blob_from_text(path, text.data, text.len, out, err);
	kt_buf_free(&text);
	KT_TRY(rc);
	if (out->purpose == KT_BLOB_ESCROW || out->purpose == KT_BLOB_CUSTODIAN)
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED, "name an escrow, or what was wrapped to a custodian",
		       "%s: its purpose is \"%s\"", path, kt_blob_purpose_name(out->purpose));
}

/* --- Openers ------------------------------------------------------------------------------------------------------ */

/* Once: a PIN that was wrong is not tried for the next blob. */
static kt_code open_once(const char *uri, kt_token **token, kt_err *failed, kt_err *err)
{
	if (!*token && failed->code == KT_OK)
		KT_IGNORE(kt_token_open(uri, token, failed));
	if (failed->code != KT_OK && err)
		*err = *failed;
	return failed->code;
}

kt_code kt_opener_hsm(kt_opener *o, kt_token **out, kt_err *err)
{
	kt_code rc = open_once(o->hsm_uri, &o->hsm, &o->hsm_failed, err);
	*out = o->hsm;
	return rc;
}

static kt_code find_private(kt_opener *o, kt_err *err)
{
	kt_uri uri;
	KT_TRY(kt_uri_parse(o->custodian_uri, &uri, err));
	const kt_token_key_name name = {.label = uri.object[0] ? uri.object : NULL, .id = uri.id, .id_len = uri.id_len};
	if (!name.label && !name.id_len)
		return kt_fail(err, KT_E_INPUT, "add object=LABEL to it", "the custodian's URI names no key");
	return kt_token_custodian_find(o->custodian, &name, &o->priv, err);
}

kt_code kt_opener_custodian(kt_opener *o, kt_token **out, kt_err *err)
{
	*out = NULL;
	KT_TRY(open_once(o->custodian_uri, &o->custodian, &o->custodian_failed, err));
	if (!o->priv.handle)
		KT_TRY(find_private(o, err));
	*out = o->custodian;
	return KT_OK;
}

kt_code kt_opener_wrapping(kt_token *t, const kt_blob *blob, kt_token_key *out, kt_err *err)
{
	kt_buf id = {.max = KT_URI_ID};
	kt_code rc = kt_hex_decode(blob->wrapping.id, strlen(blob->wrapping.id), &id, err);
	const kt_token_key_name name = {.label = id.len ? NULL : blob->wrapping.label, .id = id.data, .id_len = id.len};
	if (rc == KT_OK)
		rc = kt_token_find_wrapping_key(t, &name, out, err);
	kt_buf_free(&id);
	if (rc == KT_E_KEY && err)
		return kt_fail(err, rc,
			       "restore the wrapping key from the HSM's own backup, or let a custodian open another "
			       "escrow (--custodian)",
			       "%s", err->msg);
	return rc;
}

static kt_code open_rsa(kt_opener *o, const kt_blob *blob, kt_token **token, kt_token_key *key, bool *can, kt_err *err)
{
	*can = o->custodian_uri != NULL;
	if (!*can)
		return kt_fail(err, KT_E_REFUSED, "give the custodian's key: --custodian URI",
			       "only the custodian %s can open it", blob->custodian);
	KT_TRY(kt_opener_custodian(o, token, err));
	*can = strcmp(o->priv.spki_sha256, blob->spki_sha256) == 0;
	if (!*can)
		return kt_fail(err, KT_E_REFUSED, "give the key of that custodian",
			       "it is for the custodian %s (public key %.16s...), not for the key that was given",
			       blob->custodian, blob->spki_sha256);
	return kt_token_unwrap_rsa(*token, blob, &o->priv, key, err);
}

kt_code kt_opener_open(kt_opener *o, const kt_blob *blob, kt_token **token, kt_token_key *key, bool *can, kt_err *err)
{
	kt_token_key wrapping;
	*can = true;
	*key = (kt_token_key){0};
	if (kt_blob_is_rsa(blob->format))
		return open_rsa(o, blob, token, key, can, err);
	KT_TRY(kt_opener_hsm(o, token, err));
	kt_code rc = kt_opener_wrapping(*token, blob, &wrapping, err);
	*can = rc != KT_E_KEY;
	KT_TRY(rc);
	return kt_token_unwrap_under(*token, blob, &wrapping, key, err);
}

void kt_opener_close(kt_opener *o)
{
	kt_token_close(o->custodian);
	kt_token_close(o->hsm);
	o->custodian = o->hsm = NULL;
}

/* --- Proofs ------------------------------------------------------------------------------------------------------- */

static kt_code add_hex(cJSON *o, const char *name, const uint8_t *bytes, size_t n, kt_err *err)
{
	char hex[KT_LEDGER_ID];
	KT_TRY(kt_keys_hex(bytes, n, hex, err));
	return kt_json_add_str(o, name, hex, err);
}

kt_code kt_proof_make(kt_token *t, const kt_token_key *key, cJSON *o, kt_err *err)
{
	uint8_t nonce[NONCE_LEN];
	uint8_t proof[KT_PROOF_LEN];
	if (RAND_bytes(nonce, sizeof nonce) != 1)
		return kt_fail(err, KT_E_INTERNAL, NULL, "the random generator failed");
	KT_TRY(kt_token_proof(t, key, PROOF_LABEL, nonce, sizeof nonce, proof, err));
	KT_TRY(kt_json_add_str(o, "label", PROOF_LABEL, err));
	KT_TRY(add_hex(o, "nonce", nonce, sizeof nonce, err));
	return add_hex(o, "proof", proof, sizeof proof, err);
}

static kt_code compare(const uint8_t *made, const kt_buf *recorded, kt_err *err)
{
	if (recorded->len == KT_PROOF_LEN && CRYPTO_memcmp(made, recorded->data, KT_PROOF_LEN) == 0)
		return KT_OK;
	return kt_fail(err, KT_E_KEY, "do not use it: it is another key, or was put in the place of the real one",
		       "it is not the key that was escrowed: its proof of possession differs");
}

kt_code kt_proof_check(kt_token *t, const kt_token_key *key, const cJSON *recorded, kt_err *err)
{
	const char *nonce = kt_ledger_text(recorded, "nonce"), *proof = kt_ledger_text(recorded, "proof");
	uint8_t made[KT_PROOF_LEN];
	kt_buf n = KT_BUF_INIT, p = KT_BUF_INIT;
	kt_code rc = kt_hex_decode(nonce, strlen(nonce), &n, err);
	if (rc == KT_OK)
		rc = kt_hex_decode(proof, strlen(proof), &p, err);
	if (rc == KT_OK)
		rc = kt_token_proof(t, key, kt_ledger_text(recorded, "label"), n.data, n.len, made, err);
	if (rc == KT_OK)
		rc = compare(made, &p, err);
	kt_buf_free(&p);
	kt_buf_free(&n);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* New keys: the intent with the key's id is in the ledger before the token is asked, so that a crash in between is
 * finished by the same command. */
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "keystore/keystore.h"
#include "orchestrator/inventory/custodian.h"
#include "orchestrator/keys/internal.h"

/* One making. */
typedef struct making {
	kt_keys *k;
	const kt_keys_generate *what;
	kt_place place;
	kt_token *token; /* NULL for a file and for AWS KMS */
	char id[KT_LEDGER_ID];
	char uri[KT_LEDGER_PATH + 8];
	cJSON *entry;
	bool again; /* its intent was there */
} making;

static const char *kind_of(const making *m)
{
	return m->what->wrapping ? "wrapping" : "cluster";
}

/* --- The intent --------------------------------------------------------------------------------------------------- */

/* Was this very key begun and not seen to its end? */
static bool is_begun(const making *m, const cJSON *entry)
{
	const cJSON *pending = kt_ledger_member(entry, "pending");
	if (!pending || !kt_ledger_is(pending, "what", "generate") || !kt_ledger_is(entry, "kind", kind_of(m)))
		return false;
	if (!m->token)
		return kt_ledger_is(entry, "uri", m->uri);
	const char *uri = kt_ledger_text(entry, "uri");
	char token[KT_LEDGER_PATH];
	KT_IGNORE(kt_keys_uri(m->token, m->place.label, m->place.id, 0, token, NULL));
	return kt_ledger_is(entry, "label", m->place.label) && strncmp(uri, token, strlen(token)) == 0;
}

static void find_begun(making *m)
{
	const cJSON *keys = kt_ledger_member(m->k->ledger.root, "keys");
	for (cJSON *e = keys->child; e && !m->entry; e = e->next)
		if (is_begun(m, e))
			m->entry = e;
	m->again = m->entry != NULL;
}

static kt_code choose_id(making *m, kt_err *err)
{
	if (!m->place.id_len && RAND_bytes(m->place.id, KT_KEYS_NEW_ID) != 1)
		return kt_fail(err, KT_E_INTERNAL, NULL, "the random generator failed");
	if (!m->place.id_len)
		m->place.id_len = KT_KEYS_NEW_ID;
	KT_TRY(kt_keys_hex(m->place.id, m->place.id_len, m->id, err));
	if (kt_view_find(m->k->view, m->id, "", ""))
		return kt_fail(err, KT_E_REFUSED, "ids are never used again: give another one, or none",
			       "the ledger has a key with the id %s already", m->id);
	return KT_OK;
}

/* The id that the first attempt has chosen. */
static kt_code take_id(making *m, kt_err *err)
{
	kt_place of = {0};
	(void)snprintf(m->id, sizeof m->id, "%s", kt_ledger_text(m->entry, "id"));
	(void)snprintf(m->uri, sizeof m->uri, "%s", kt_ledger_text(m->entry, "uri"));
	if (!m->token)
		return KT_OK;
	KT_TRY(kt_place_of(m->k, m->uri, &of, err));
	memcpy(m->place.id, of.id, of.id_len);
	m->place.id_len = of.id_len;
	return KT_OK;
}

static kt_code intend(making *m, kt_err *err)
{
	find_begun(m);
	if (m->again)
		return take_id(m, err);
	KT_TRY(choose_id(m, err));
	if (m->token)
		KT_TRY(kt_keys_uri(m->token, m->place.label, m->place.id, m->place.id_len, m->uri, err));
	const kt_ledger_new as = {.id = m->id,
				  .label = m->place.label,
				  .uri = m->uri,
				  .kind = kind_of(m),
				  .kcv = "",
				  .cryptoperiod_days = m->what->cryptoperiod_days};
	KT_TRY(kt_ledger_enter(&m->k->ledger, &as, &m->entry, err));
	KT_TRY(kt_ledger_intend(m->entry, "generate", kt_clock_wall_ms(), err));
	return kt_keys_save(m->k, err);
}

static kt_code finish(making *m, const char *kcv, cJSON *result, kt_err *err)
{
	int64_t now = kt_clock_wall_ms();
	KT_TRY(kt_keys_set(m->entry, "kcv", kcv, err));
	KT_TRY(kt_ledger_moved(m->entry, KT_KEY_PRE_ACTIVE, now, "generated", err));
	if (m->what->activate)
		KT_TRY(kt_ledger_moved(m->entry, KT_KEY_ACTIVE, now, "activated when it was generated", err));
	kt_ledger_done(m->entry);
	KT_TRY(kt_keys_save(m->k, err));
	return kt_keys_tell(m->k, m->id, result, err);
}

/* It was not made, and that is certain: nothing is left of the intent. */
static void call_off(making *m)
{
	cJSON *keys = kt_ledger_member(m->k->ledger.root, "keys");
	if (m->again || !m->entry)
		return;
	cJSON_Delete(cJSON_DetachItemViaPointer(keys, m->entry));
	m->entry = NULL;
	KT_IGNORE(kt_keys_save(m->k, NULL));
}

/* --- In a token --------------------------------------------------------------------------------------------------- */

static kt_code no_namesake(const making *m, kt_err *err)
{
	const kt_token_key_name by_label = {.label = m->place.label};
	bool has;
	KT_TRY(kt_token_has_key(m->token, &by_label, &has, err));
	if (!has)
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED, "give the new key another label", "the token has a key \"%s\" already",
		       m->place.label);
}

static kt_code make_key(const making *m, kt_token_key *key, kt_err *err)
{
	const kt_token_key_name name = kt_place_name(&m->place);
	const kt_token_key_name by_id = {.id = m->place.id, .id_len = m->place.id_len};
	bool made;
	if (!m->what->wrapping)
		return kt_token_ensure_cluster_key(m->token, &name, true, key, &made, err);
	if (m->again && kt_token_find_wrapping_key(m->token, &by_id, key, NULL) == KT_OK)
		return KT_OK;
	return kt_token_create_wrapping_key(m->token, &name, key, err);
}

static kt_code in_token(making *m, cJSON *result, kt_err *err)
{
	kt_token_key key;
	if (!m->place.label[0])
		return kt_fail(err, KT_E_INPUT, "add object=LABEL to the URI", "a new key needs a label");
	find_begun(m);
	if (!m->again)
		KT_TRY(no_namesake(m, err));
	m->entry = NULL;
	KT_TRY(intend(m, err));
	kt_code rc = make_key(m, &key, err);
	if (rc == KT_OK)
		return finish(m, key.kcv, result, err);
	call_off(m);
	return rc;
}

/* --- In a file ---------------------------------------------------------------------------------------------------- */

kt_code kt_keys_write_file(const char *path, const kt_secret *key, kt_err *err)
{
	kt_secret text = KT_SECRET_INIT;
	bool made = false;
	const kt_file_attr attr = {0400, (uid_t)KT_KEEP, (gid_t)KT_KEEP};
	KT_TRY(kt_secret_to_base64(key, &text, err));
	kt_code rc = kt_file_create(path, text.data, text.len, &attr, &made, err);
	kt_secret_free(&text);
	if (rc == KT_OK && !made)
		return kt_fail(err, KT_E_REFUSED, "choose another path; nothing is ever replaced",
			       "%s is there already", path);
	return rc;
}

static kt_code make_file(making *m, char kcv[KT_KCV_TEXT], kt_err *err)
{
	kt_secret key = KT_SECRET_INIT;
	KT_TRY(kt_secret_random(&key, KT_CMK_LEN, err));
	kt_code rc = kt_kcv_of(&key, kcv, err);
	if (rc == KT_OK)
		rc = kt_keys_write_file(m->place.path, &key, err);
	kt_secret_free(&key);
	return rc;
}

/* The first attempt may have come as far as the file. */
static kt_code look_at_file(const making *m, char kcv[KT_KCV_TEXT], bool *there, kt_err *err)
{
	kt_keystore *ks;
	*there = access(m->place.path, F_OK) == 0;
	if (!*there)
		return KT_OK;
	KT_TRY(kt_keystore_open(m->uri, &ks, err));
	(void)snprintf(kcv, KT_KCV_TEXT, "%s", kt_keystore_kcv(ks));
	kt_keystore_close(ks);
	return KT_OK;
}

static kt_code in_file(making *m, cJSON *result, kt_err *err)
{
	char kcv[KT_KCV_TEXT] = "";
	bool there = false;
	if (m->what->wrapping)
		return kt_fail(err, KT_E_REFUSED, "name a token", "a wrapping key is made in a token only");
	(void)snprintf(m->uri, sizeof m->uri, "file:%s", m->place.path);
	KT_TRY(intend(m, err));
	kt_code rc = m->again ? look_at_file(m, kcv, &there, err) : KT_OK;
	if (rc == KT_OK && !there)
		rc = make_file(m, kcv, err);
	if (rc == KT_OK)
		return finish(m, kcv, result, err);
	call_off(m);
	return rc;
}

/* --- In AWS KMS --------------------------------------------------------------------------------------------------- */

/* The first attempt may have come as far as the alias. Of a key without one nothing is known: AWS lists it. */
static bool is_made(const making *m)
{
	kt_keystore *ks;
	bool made = kt_keystore_open(m->uri, &ks, NULL) == KT_OK;
	kt_keystore_close(ks);
	return made;
}

static kt_code create(const making *m, kt_buf *arn, kt_err *err)
{
	char description[128];
	(void)snprintf(description, sizeof description, "cluster key of %s, made by keyturn", m->k->cluster->name);
	if (m->again && is_made(m))
		return KT_OK;
	return kt_keystore_awskms_create(m->uri, description, arn, err);
}

static kt_code in_awskms(making *m, cJSON *result, kt_err *err)
{
	kt_buf arn = KT_BUF_INIT;
	if (m->what->wrapping)
		return kt_fail(err, KT_E_REFUSED, "name a token", "a wrapping key is made in a token only");
	(void)snprintf(m->uri, sizeof m->uri, "%s", m->place.uri);
	KT_TRY(intend(m, err));
	kt_code rc = create(m, &arn, err);
	if (rc != KT_OK && rc != KT_E_UNREACHABLE) /* with that, nobody knows whether one was made */
		call_off(m);
	if (rc == KT_OK)
		rc = finish(m, "", result, err);
	if (rc == KT_OK && arn.len)
		rc = kt_json_add_str(result, "arn", kt_buf_cstr(&arn), err);
	kt_buf_free(&arn);
	return rc;
}

kt_code kt_keys_make(kt_keys *k, const kt_keys_generate *what, cJSON *result, kt_err *err)
{
	making m = {.k = k, .what = what};
	KT_TRY(kt_place_of(k, what->key, &m.place, err));
	if (m.place.file)
		return in_file(&m, result, err);
	if (m.place.awskms)
		return in_awskms(&m, result, err);
	KT_TRY(kt_token_open(m.place.uri, &m.token, err));
	kt_code rc = in_token(&m, result, err);
	kt_token_close(m.token);
	return rc;
}

/* --- A custodian's ------------------------------------------------------------------------------------------------ */

static EVP_PKEY *public_half(const kt_token_rsa_key *key)
{
	const unsigned char *at = key->spki;
	return d2i_PUBKEY(NULL, &at, (long)key->spki_len);
}

/* Does the token open a throw-away key that libcrypto has wrapped? Its flags and mechanism list are not believed. */
static bool opens(kt_token *t, const kt_token_rsa_key *key, EVP_PKEY *public, kt_blob_format format, kt_err *why)
{
	const kt_blob_address address = {.purpose = KT_BLOB_CUSTODIAN, .custodian = "trial"};
	kt_blob blob;
	kt_token_key opened = {0};
	kt_secret secret = KT_SECRET_INIT;
	kt_code rc = kt_secret_random(&secret, KT_CMK_LEN, why);
	if (rc == KT_OK)
		rc = kt_blob_begin(&address, &blob, why);
	if (rc == KT_OK)
		rc = kt_blob_wrap_rsa(&blob, public, format, &secret, why);
	kt_secret_free(&secret);
	if (rc == KT_OK)
		rc = kt_token_unwrap_rsa(t, &blob, key, &opened, why);
	if (rc == KT_OK)
		KT_IGNORE(kt_token_destroy_key(t, &opened, NULL));
	return rc == KT_OK;
}

/* A pair that opens nothing would be found out on the day on which it is needed. */
static kt_code try_pair(kt_token *t, const kt_token_rsa_key *key, EVP_PKEY *public, unsigned *accepts, kt_err *err)
{
	static const kt_blob_format formats[] = {KT_BLOB_RSA_OAEP_SHA1, KT_BLOB_RSA_OAEP_SHA256};
	kt_err why = KT_ERR_INIT;
	*accepts = 0;
	for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
		kt_err none = KT_ERR_INIT;
		if (opens(t, key, public, formats[i], &none))
			*accepts |= 1U << formats[i];
		else
			why = none;
	}
	if (*accepts)
		return KT_OK;
	return kt_fail(err, KT_E_HSM, "use another token for custodians; `keyturn hsm probe` says what this one can do",
		       "the new pair was destroyed: this token does not open a key as it must (%s)", why.msg);
}

static kt_code to_pem(EVP_PKEY *public, unsigned accepts, kt_buf *pem, kt_err *err)
{
	char *text;
	BIO *bio = BIO_new(BIO_s_mem());
	kt_code rc = kt_custodian_opens(accepts, pem, err);
	if (rc == KT_OK && (!bio || PEM_write_bio_PUBKEY(bio, public) != 1))
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "the public key cannot be written as PEM");
	if (rc == KT_OK) {
		long n = BIO_get_mem_data(bio, &text);
		rc = kt_buf_append(pem, text, (size_t)n, err);
	}
	BIO_free(bio);
	return rc;
}

/* A pair that cannot be used does not stay. */
static kt_code prove_pair(kt_token *t, const kt_token_rsa_key *key, kt_buf *pem, kt_err *err)
{
	unsigned accepts;
	EVP_PKEY *public = public_half(key);
	kt_code rc = public ? try_pair(t, key, public, &accepts, err)
			    : kt_fail(err, KT_E_HSM, "use another token", "the token gives no public key");
	if (rc == KT_OK)
		rc = to_pem(public, accepts, pem, err);
	if (rc != KT_OK)
		KT_IGNORE(kt_token_transport_destroy(t, key, NULL));
	EVP_PKEY_free(public);
	return rc;
}

static kt_code make_pair(kt_token *t, const kt_uri *uri, kt_buf *pem, cJSON *result, kt_err *err)
{
	kt_token_rsa_key key;
	const kt_token_key_name name = {.label = uri->object, .id = uri->id, .id_len = uri->id_len};
	KT_TRY(kt_token_custodian_make(t, &name, &key, err));
	KT_TRY(prove_pair(t, &key, pem, err));
	KT_TRY(kt_json_add_str(result, "label", uri->object, err));
	KT_TRY(kt_json_add_str(result, "kind", "custodian", err));
	KT_TRY(kt_json_add_int(result, "bits", key.bits, err));
	KT_TRY(kt_json_add_str(result, "spki_sha256", key.spki_sha256, err));
	return kt_json_add_str(result, "public_key", kt_buf_cstr(pem), err);
}

kt_code kt_keys_make_custodian(const char *text, kt_buf *pem, cJSON *result, kt_err *err)
{
	kt_uri uri;
	kt_token *t;
	KT_TRY(kt_uri_parse(text, &uri, err));
	if (!uri.object[0])
		return kt_fail(err, KT_E_INPUT, "add object=LABEL to the URI", "a new key needs a label");
	KT_TRY(kt_token_open(text, &t, err));
	kt_code rc = make_pair(t, &uri, pem, result, err);
	kt_token_close(t);
	return rc;
}

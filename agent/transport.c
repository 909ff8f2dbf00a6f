/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/transport.h"

#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>

#include "agent/token.h"
#include "agent/transportfile.h"
#include "base/record.h"

static const char enroll[] = "run `keyturn enroll` for this node";
static const char lost_record[] = "remove the file and run `keyturn enroll` for this node: the key is still in its "
				  "token and is found there by its name";

/* What this node has. Invariant: file_spki[i] is "" exactly when file[i] is NULL. */
typedef struct ring {
	const char *state;
	EVP_PKEY *file[KT_TRANSPORT_FILES];
	char file_spki[KT_TRANSPORT_FILES][KT_SHA256_HEX];
	cJSON *record; /* NULL: not read, or none is there */
} ring;

/* --- The record --------------------------------------------------------------------------------------------------- */

static kt_code record_path(const char *state, char out[KT_RECORD_PATH], kt_err *err)
{
	if ((size_t)snprintf(out, KT_RECORD_PATH, "%s/transport.json", state) >= KT_RECORD_PATH)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", state);
	return KT_OK;
}

static cJSON *record_keys(const cJSON *record)
{
	return cJSON_GetObjectItemCaseSensitive(record, "keys");
}

static const char *text_of(const cJSON *entry, const char *name)
{
	return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(entry, name));
}

static kt_code load_record(ring *r, kt_err *err)
{
	char path[KT_RECORD_PATH];
	const cJSON *keys;
	const cJSON *entry;
	const char *ignored;
	KT_TRY(record_path(r->state, path, err));
	KT_TRY(kt_record_read_json(path, lost_record, &r->record, err));
	if (!r->record)
		return KT_OK;
	kt_code rc = kt_json_array(r->record, "keys", &keys, err);
	if (rc == KT_OK)
		cJSON_ArrayForEach(entry, keys)
		{
			if (rc == KT_OK)
				rc = kt_json_str(entry, "uri", &ignored, err);
			if (rc == KT_OK)
				rc = kt_json_str(entry, "spki_sha256", &ignored, err);
			if (rc == KT_OK)
				rc = kt_json_str(entry, "public_pem", &ignored, err);
		}
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "%s", path);
}

static kt_code save_record(const ring *r, kt_err *err)
{
	char path[KT_RECORD_PATH];
	kt_buf text = KT_BUF_INIT;
	KT_TRY(record_path(r->state, path, err));
	if (cJSON_GetArraySize(record_keys(r->record)) == 0)
		return kt_file_remove(path, NULL, err);
	kt_code rc = kt_json_print(r->record, &text, err);
	if (rc == KT_OK)
		rc = kt_record_replace(path, &text, &kt_record_private, err);
	kt_buf_free(&text);
	return rc == KT_OK ? KT_OK : kt_record_failed(err, "where the transport key is");
}

static cJSON *find_entry(const ring *r, const char *spki)
{
	cJSON *entry = NULL;
	cJSON_ArrayForEach(entry, record_keys(r->record)) if (strcmp(text_of(entry, "spki_sha256"), spki) == 0) break;
	return entry;
}

static kt_node_token token_of(const ring *r, const cJSON *entry)
{
	return (kt_node_token){.state = r->state,
			       .uri = text_of(entry, "uri"),
			       .environment = cJSON_GetObjectItemCaseSensitive(entry, "environment")};
}

/* --- The ring ----------------------------------------------------------------------------------------------------- */

static void ring_free(ring *r)
{
	kt_transport_files_free(r->file);
	cJSON_Delete(r->record);
	r->record = NULL;
}

static kt_code load_files(ring *r, kt_err *err)
{
	KT_TRY(kt_transport_files_load(r->state, r->file, err));
	for (unsigned i = 0; i < KT_TRANSPORT_FILES; i++) {
		r->file_spki[i][0] = '\0';
		if (r->file[i])
			KT_TRY(kt_blob_spki_sha256(r->file[i], r->file_spki[i], err));
	}
	return KT_OK;
}

/* Free it also after a failure. */
static kt_code ring_load(const char *state, ring *r, kt_err *err)
{
	*r = (ring){.state = state};
	KT_TRY(load_files(r, err));
	return load_record(r, err);
}

/* Index of the file with this key; KT_TRANSPORT_FILES: none. */
static unsigned find_file(const ring *r, const char *spki)
{
	unsigned i = 0;
	while (i < KT_TRANSPORT_FILES && strcmp(r->file_spki[i], spki) != 0)
		i++;
	return i;
}

static int64_t count_all(const ring *r)
{
	return cJSON_GetArraySize(record_keys(r->record)) + (r->file[0] != NULL) + (r->file[1] != NULL);
}

/* --- Finding and making ------------------------------------------------------------------------------------------- */

kt_code kt_transport_choose(const char (*spki)[KT_SHA256_HEX], size_t n, const char *pinned, bool rotate, int *which,
			    kt_err *err)
{
	size_t others = 0;
	*which = KT_TRANSPORT_MAKE;
	for (size_t i = 0; i < n; i++) {
		bool is_pinned = pinned && strcmp(spki[i], pinned) == 0;
		if (is_pinned && !rotate) {
			*which = (int)i;
			return KT_OK;
		}
		if (!is_pinned && others++ == 0)
			*which = (int)i;
	}
	if (others <= 1)
		return KT_OK;
	return kt_fail(
		err, KT_E_KEY,
		"remove what nothing needs any more (token: the RSA keys of this name; files: transport.new), or "
		"name the key by id= in the URI",
		"this node has %zu keys that may be its transport key, and keyturn does not guess", others);
}

static kt_code put_pem(EVP_PKEY *key, kt_buf *out, kt_err *err)
{
	char *text = NULL;
	BIO *bio = BIO_new(BIO_s_mem());
	long n = bio && PEM_write_bio_PUBKEY(bio, key) == 1 ? BIO_get_mem_data(bio, &text) : 0;
	kt_code rc = n > 0 ? kt_buf_append(out, text, (size_t)n, err)
			   : kt_fail(err, KT_E_INTERNAL, NULL, "the public key cannot be encoded");
	BIO_free(bio);
	return rc;
}

static kt_code describe(EVP_PKEY *key, bool made, kt_transport_key *out, kt_err *err)
{
	out->made = made;
	out->bits = EVP_PKEY_get_bits(key);
	KT_TRY(kt_blob_spki_sha256(key, out->spki_sha256, err));
	return put_pem(key, &out->public_pem, err);
}

static kt_code ensure_file(ring *r, const kt_transport_wish *wish, kt_transport_key *out, kt_err *err)
{
	char spki[KT_TRANSPORT_FILES][KT_SHA256_HEX];
	unsigned at[KT_TRANSPORT_FILES];
	size_t n = 0;
	int which;
	bool made = false;
	for (unsigned i = 0; i < KT_TRANSPORT_FILES; i++)
		if (r->file[i]) {
			memcpy(spki[n], r->file_spki[i], sizeof spki[n]);
			at[n++] = i;
		}
	KT_TRY(kt_transport_choose((const char(*)[KT_SHA256_HEX])spki, n, wish->pinned, wish->rotate, &which, err));
	unsigned file = which == KT_TRANSPORT_MAKE ? r->file[0] != NULL : at[which];
	if (which == KT_TRANSPORT_MAKE) {
		KT_TRY(kt_transport_file_make(r->state, file, wish->bits, &made, err));
		/* Read back what is there: what can't be read again must be found out now. */
		kt_transport_files_free(r->file);
		KT_TRY(load_files(r, err));
	}
	if (!r->file[file])
		return kt_fail(err, KT_E_KEY, enroll, "the transport key that was just made has gone");
	return describe(r->file[file], made, out, err);
}

/* The key as an entry of the record, in place of an older one of the same key: its URI may say another way to it now.
 */
static kt_code note_key(ring *r, const kt_transport_wish *wish, const kt_transport_key *key, kt_err *err)
{
	cJSON *entry = cJSON_CreateObject();
	kt_code rc = KT_OK;
	if (!r->record) {
		r->record = cJSON_CreateObject();
		rc = kt_json_add(r->record, "keys", cJSON_CreateArray(), err);
	}
	if (rc == KT_OK)
		rc = kt_json_add_str(entry, "uri", wish->uri, err);
	if (rc == KT_OK && wish->environment)
		rc = kt_json_add(entry, "environment", cJSON_Duplicate(wish->environment, true), err);
	if (rc == KT_OK)
		rc = kt_json_add_str(entry, "spki_sha256", key->spki_sha256, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(entry, "public_pem", kt_buf_cstr(&key->public_pem), err);
	if (rc == KT_OK) {
		cJSON_Delete(cJSON_DetachItemViaPointer(record_keys(r->record), find_entry(r, key->spki_sha256)));
		if (cJSON_AddItemToArray(record_keys(r->record), entry))
			return save_record(r, err);
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	cJSON_Delete(entry);
	return rc;
}

static kt_code ensure_token(ring *r, const kt_transport_wish *wish, kt_transport_key *out, kt_err *err)
{
	const kt_node_token t = {.state = r->state, .uri = wish->uri, .environment = wish->environment};
	kt_node_token_key got = {.spki = KT_BUF_INIT};
	KT_TRY(kt_node_token_ensure(&t, wish->bits, wish->pinned, wish->rotate, &got, err));
	const unsigned char *der = got.spki.data;
	EVP_PKEY *key = d2i_PUBKEY(NULL, &der, (long)got.spki.len);
	kt_code rc = key ? describe(key, got.made, out, err)
			 : kt_fail(err, KT_E_HSM, "use another token", "the token's public key is none");
	EVP_PKEY_free(key);
	kt_buf_free(&got.spki);
	return rc == KT_OK ? note_key(r, wish, out, err) : rc;
}

kt_code kt_transport_ensure(const char *state, const kt_transport_wish *wish, kt_transport_key *out, kt_err *err)
{
	ring r;
	*out = (kt_transport_key){.public_pem = KT_BUF_INIT};
	kt_code rc = wish->uri ? kt_node_token_check(wish->uri, err) : KT_OK;
	KT_TRY(rc);
	rc = ring_load(state, &r, err);
	if (rc == KT_OK)
		rc = wish->uri ? ensure_token(&r, wish, out, err) : ensure_file(&r, wish, out, err);
	if (rc == KT_OK)
		out->others = count_all(&r) - 1;
	else
		kt_buf_free(&out->public_pem);
	ring_free(&r);
	return rc;
}

/* --- Opening ------------------------------------------------------------------------------------------------------ */

typedef struct opening {
	kt_node_token token;
	const char *spki_sha256;
} opening;

static kt_code open_in_token(void *cookie, kt_blob_format oaep, const uint8_t *wrapped, size_t n, kt_secret *out,
			     kt_err *err)
{
	const opening *o = cookie;
	return kt_node_token_open(&o->token, o->spki_sha256, kt_blob_is_sha256(oaep), wrapped, n, out, err);
}

/* No key of this node is the one that it was wrapped for. */
static kt_code not_ours(const ring *r, const kt_blob *blob, kt_err *err)
{
	const cJSON *entry = record_keys(r->record) ? record_keys(r->record)->child : NULL;
	const char *ours = r->file[0] ? r->file_spki[0] : entry ? text_of(entry, "spki_sha256") : NULL;
	size_t ignored;
	if (ours)
		return kt_blob_for_rsa(blob, ours, &ignored, err);
	return kt_fail(err, KT_E_KEY, enroll, "this node has no transport key (%s/transport.key, transport.json)",
		       r->state);
}

static kt_code unwrap_with(ring *r, const kt_blob *blob, kt_secret *key, kt_err *err)
{
	KT_TRY(load_files(r, err));
	unsigned file = find_file(r, blob->spki_sha256);
	if (file < KT_TRANSPORT_FILES && r->file[file])
		return kt_blob_unwrap_rsa(blob, r->file[file], key, err);
	KT_TRY(load_record(r, err));
	const cJSON *entry = find_entry(r, blob->spki_sha256);
	if (!entry)
		return not_ours(r, blob, err);
	opening o = {.token = token_of(r, entry), .spki_sha256 = blob->spki_sha256};
	return kt_blob_unwrap_rsa_by(blob, blob->spki_sha256, open_in_token, &o, key, err);
}

kt_code kt_transport_unwrap(const char *state, const kt_blob *blob, kt_secret *key, kt_err *err)
{
	ring r = {.state = state};
	*key = KT_SECRET_INIT;
	kt_code rc = unwrap_with(&r, blob, key, err);
	ring_free(&r);
	return rc;
}

static kt_code public_of(const ring *r, const char *spki, EVP_PKEY **out, kt_err *err)
{
	kt_buf pem = KT_BUF_INIT;
	unsigned file = find_file(r, spki);
	const cJSON *entry = find_entry(r, spki);
	kt_code rc = KT_OK;
	if (file < KT_TRANSPORT_FILES && r->file[file])
		rc = put_pem(r->file[file], &pem, err);
	else if (entry)
		rc = kt_buf_str(&pem, text_of(entry, "public_pem"), err);
	else
		rc = kt_fail(err, KT_E_KEY, enroll, "the transport key %.16s... is not on this node", spki);
	if (rc == KT_OK) {
		BIO *bio = BIO_new_mem_buf(kt_buf_cstr(&pem), (int)pem.len);
		*out = bio ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;
		BIO_free(bio);
		if (!*out)
			rc = kt_fail(err, KT_E_AUDIT, lost_record, "the recorded public key is none");
	}
	kt_buf_free(&pem);
	return rc;
}

kt_code kt_transport_public(const char *state, const char *spki_sha256, EVP_PKEY **out, kt_err *err)
{
	ring r;
	*out = NULL;
	kt_code rc = ring_load(state, &r, err);
	if (rc == KT_OK)
		rc = public_of(&r, spki_sha256, out, err);
	ring_free(&r);
	return rc;
}

/* --- Retiring ----------------------------------------------------------------------------------------------------- */

/* One key after the other, each first in its token and then in the record: whoever dies between finds it in the record
 * again, and that it is gone from the token is fine. */
static kt_code retire_tokens(ring *r, const char *keep, size_t *left, kt_err *why, kt_err *err)
{
	for (cJSON *e = record_keys(r->record) ? record_keys(r->record)->child : NULL, *next; e; e = next) {
		const kt_node_token t = token_of(r, e);
		next = e->next;
		if (strcmp(text_of(e, "spki_sha256"), keep) == 0)
			continue;
		if (kt_node_token_destroy(&t, text_of(e, "spki_sha256"), why) != KT_OK) {
			++*left;
			continue;
		}
		cJSON_Delete(cJSON_DetachItemViaPointer(record_keys(r->record), e));
		KT_TRY(save_record(r, err));
	}
	return KT_OK;
}

kt_code kt_transport_retire(const char *state, const char *keep, size_t *left, kt_err *why, kt_err *err)
{
	ring r;
	EVP_PKEY *kept = NULL;
	*left = 0;
	kt_code rc = ring_load(state, &r, err);
	if (rc == KT_OK)
		rc = public_of(&r, keep, &kept, err);
	EVP_PKEY_free(kept);
	if (rc == KT_OK)
		rc = kt_transport_files_keep(state, find_file(&r, keep), err);
	if (rc == KT_OK)
		rc = retire_tokens(&r, keep, left, why, err);
	ring_free(&r);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/slot.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/keyref.h"
#include "agent/transport.h"
#include "base/log.h"
#include "base/record.h"
#include "wire/message.h"

enum { BLOB_MAX = 16 * 1024 };

static const kt_file_attr key_file = {.mode = 0400, .uid = (uid_t)KT_KEEP, .gid = (gid_t)KT_KEEP};

kt_code kt_slot_path(const char *state, const char *slot, kt_buf *path, kt_err *err)
{
	KT_TRY(kt_name_check("slot", slot, err));
	kt_buf_clear(path);
	return kt_buf_printf(path, err, "%s/slots/%s.json", state, slot);
}

kt_code kt_slot_unwrap(const char *state, const kt_blob *blob, kt_secret *key, kt_err *err)
{
	KT_TRY(kt_transport_unwrap(state, blob, key, err));
	if (key->len == KT_KEY_LEN)
		return KT_OK;
	kt_code rc = kt_fail(err, KT_E_KEY, NULL, "the wrapped key has %zu bytes, not %d", key->len, (int)KT_KEY_LEN);
	kt_secret_free(key);
	return rc;
}

static const char lost_slot[] = "`keyturn rollback` removes it, and the next run delivers a new key";

/* *found is false when there is none. */
static kt_code load_slot(const char *path, bool *found, kt_blob *blob, kt_err *err)
{
	kt_buf text = {.max = BLOB_MAX};
	kt_code rc = kt_record_read(path, lost_slot, found, &text, err);
	if (rc == KT_OK && *found)
		rc = kt_blob_from_text(path, text.data, text.len, blob, err);
	kt_buf_free(&text);
	return rc;
}

static kt_code write_slot(const char *path, const kt_blob *blob, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = kt_blob_to_text(blob, &text, err);
	if (rc == KT_OK)
		rc = kt_record_replace(path, &text, &key_file, err);
	kt_buf_free(&text);
	return rc;
}

static kt_code make_slots_folder(const char *state, kt_err *err)
{
	kt_buf dir = KT_BUF_INIT;
	kt_code rc = kt_buf_printf(&dir, err, "%s/slots", state);
	if (rc == KT_OK)
		rc = kt_file_mkdirs(kt_buf_cstr(&dir), 0700, err);
	if (rc == KT_OK)
		rc = kt_file_sync_folder(kt_buf_cstr(&dir), err);
	kt_buf_free(&dir);
	return rc;
}

static kt_code keep_at(const char *path, const char *slot, const kt_blob *blob, kt_err *err)
{
	kt_blob old;
	bool found;
	KT_TRY(load_slot(path, &found, &old, err));
	if (found && strcmp(old.kcv, blob->kcv) != 0)
		return kt_fail(err, KT_E_KEY, "a new key needs a new run",
			       "the slot %s holds another key already (%s, not %s)", slot, old.kcv, blob->kcv);
	return write_slot(path, blob, err);
}

kt_code kt_slot_keep(const char *state, const char *slot, const kt_blob *blob, kt_err *err)
{
	kt_buf path = KT_BUF_INIT;
	kt_code rc = kt_slot_path(state, slot, &path, err);
	if (rc == KT_OK)
		rc = make_slots_folder(state, err);
	if (rc == KT_OK)
		rc = keep_at(kt_buf_cstr(&path), slot, blob, err);
	kt_buf_free(&path);
	return rc;
}

kt_code kt_slot_open(const char *state, const char *slot, kt_secret *key, kt_err *err)
{
	kt_buf path = KT_BUF_INIT;
	kt_blob blob;
	bool found = false;
	*key = KT_SECRET_INIT;
	kt_code rc = kt_slot_path(state, slot, &path, err);
	if (rc == KT_OK)
		rc = load_slot(kt_buf_cstr(&path), &found, &blob, err);
	if (rc == KT_OK && !found)
		rc = kt_fail(err, KT_E_KEY, "deliver the key again: resume the run", "no key was received in slot %s",
			     slot);
	if (rc == KT_OK)
		rc = kt_slot_unwrap(state, &blob, key, err);
	kt_buf_free(&path);
	return rc;
}

kt_code kt_slot_forget(const char *state, const char *slot, kt_err *err)
{
	kt_buf path = KT_BUF_INIT;
	kt_code rc = kt_slot_path(state, slot, &path, err);
	if (rc == KT_OK)
		rc = kt_file_remove(kt_buf_cstr(&path), NULL, err);
	kt_buf_free(&path);
	return rc;
}

/* --- Another transport key -----------------------------------------------------------------------------------------
 */

/* The same key for the same run and node, and it opens. */
static kt_code wrap_anew(const char *state, EVP_PKEY *to, kt_blob_format format, const kt_blob *old,
			 const kt_secret *key, kt_blob *out, kt_err *err)
{
	const kt_blob_address address = {.purpose = old->purpose, .run = old->run, .node = old->node};
	kt_secret again;
	KT_TRY(kt_blob_begin(&address, out, err));
	KT_TRY(kt_blob_wrap_rsa(out, to, format, key, err));
	KT_TRY(kt_slot_unwrap(state, out, &again, err));
	bool same = kt_secret_equal(&again, key);
	kt_secret_free(&again);
	return same ? KT_OK : kt_fail(err, KT_E_KEY, NULL, "what was wrapped anew opens to another key");
}

/* Which hash the new key opens is found by trying. */
static kt_code rewrap(const char *state, const char *path, EVP_PKEY *to, const kt_blob *old, kt_err *err)
{
	static const kt_blob_format formats[] = {KT_BLOB_RSA_OAEP_SHA256, KT_BLOB_RSA_OAEP_SHA1};
	kt_secret key;
	kt_blob made;
	KT_TRY(kt_slot_unwrap(state, old, &key, err));
	kt_code rc = wrap_anew(state, to, formats[0], old, &key, &made, NULL);
	if (rc != KT_OK)
		rc = wrap_anew(state, to, formats[1], old, &key, &made, err);
	kt_secret_free(&key);
	return rc == KT_OK ? write_slot(path, &made, err) : rc;
}

static kt_code rewrap_slot(const char *state, const char *name, EVP_PKEY *to, const char *spki, size_t *lost,
			   kt_err *err)
{
	kt_buf path = KT_BUF_INIT;
	kt_blob blob;
	bool found = false;
	kt_err why = KT_ERR_INIT;
	kt_code rc = kt_buf_printf(&path, err, "%s/slots/%s", state, name);
	if (rc != KT_OK)
		return rc;
	rc = load_slot(kt_buf_cstr(&path), &found, &blob, &why);
	if (rc == KT_OK && found && strcmp(blob.spki_sha256, spki) != 0)
		rc = rewrap(state, kt_buf_cstr(&path), to, &blob, &why);
	if (rc != KT_OK) {
		++*lost;
		kt_log(KT_LOG_WARN, "%s: %s", kt_buf_cstr(&path), why.msg);
	}
	kt_buf_free(&path);
	return rc == KT_E_IO && err ? (*err = why, rc) : KT_OK;
}

kt_code kt_slot_rewrap_all(const char *state, const char *spki_sha256, size_t *lost, kt_err *err)
{
	kt_buf folder = KT_BUF_INIT;
	EVP_PKEY *to;
	*lost = 0;
	KT_TRY(kt_transport_public(state, spki_sha256, &to, err));
	kt_code rc = kt_buf_printf(&folder, err, "%s/slots", state);
	DIR *d = rc == KT_OK ? opendir(kt_buf_cstr(&folder)) : NULL;
	if (rc == KT_OK && !d && errno != ENOENT)
		rc = kt_fail_errno(err, errno, NULL, "%s", kt_buf_cstr(&folder));
	for (const struct dirent *e; rc == KT_OK && d && (e = readdir(d));) {
		size_t n = strlen(e->d_name);
		if (e->d_name[0] != '.' && n > 5 && strcmp(e->d_name + n - 5, ".json") == 0)
			rc = rewrap_slot(state, e->d_name, to, spki_sha256, lost, err);
	}
	if (d)
		(void)closedir(d);
	kt_buf_free(&folder);
	EVP_PKEY_free(to);
	return rc;
}

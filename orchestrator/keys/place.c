/* SPDX-License-Identifier: Apache-2.0 */
/* From what a person typed to a key. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/keyuri.h"
#include "orchestrator/keys/internal.h"

enum { SHORT_ID = 8 };

/* --- Where it is -------------------------------------------------------------------------------------------------- */

static kt_code of_uri(const kt_keys *k, const char *text, kt_place *out, kt_err *err)
{
	kt_uri uri;
	char id[KT_LEDGER_ID];
	KT_TRY(kt_uri_parse(text, &uri, err));
	if (snprintf(out->uri, sizeof out->uri, "%s", text) >= (int)sizeof out->uri)
		return kt_fail(err, KT_E_INPUT, NULL, "the URI is too long");
	(void)snprintf(out->label, sizeof out->label, "%s", uri.object);
	memcpy(out->id, uri.id, uri.id_len);
	out->id_len = uri.id_len;
	if (!uri.object[0] && !uri.id_len)
		return kt_fail(err, KT_E_INPUT, "add object=LABEL or id=ID to it", "the URI names a token, but no key");
	if (!uri.id_len)
		return KT_OK;
	KT_TRY(kt_keys_hex(uri.id, uri.id_len, id, err));
	out->known = kt_view_find(k->view, id, "", "");
	return KT_OK;
}

bool kt_keys_elsewhere(const cJSON *key)
{
	const char *id = kt_ledger_text(key, "id");
	return kt_ledger_is(key, "kind", "cluster") && (strncmp(id, "kcv-", 4) == 0 || strncmp(id, "at-", 3) == 0);
}

static kt_code of_file(const kt_keys *k, const char *text, kt_place *out, kt_err *err)
{
	const char *path = text + strlen("file:");
	if (strncmp(path, "///", 3) == 0)
		path += 2;
	if (path[0] != '/' || snprintf(out->path, sizeof out->path, "%s", path) >= (int)sizeof out->path)
		return kt_fail(err, KT_E_INPUT, "write file:/absolute/path",
			       "the path of a file: key must be absolute");
	out->file = true;
	char uri[KT_KEYS_PATH + 8];
	(void)snprintf(uri, sizeof uri, "file:%s", out->path);
	for (const cJSON *key = k->view->child; key && !out->known; key = key->next)
		if (kt_ledger_is(key, "uri", uri) && !kt_keys_elsewhere(key) && kt_view_state(key) != KT_KEY_DESTROYED)
			out->known = key;
	return KT_OK;
}

static kt_code of_awskms(const kt_keys *k, const char *text, kt_place *out, kt_err *err)
{
	kt_awsuri uri;
	kt_buf whole = KT_BUF_INIT;
	KT_TRY(kt_awsuri_parse(text + strlen("awskms:"), &uri, err));
	kt_code rc = kt_awsuri_format(&uri, &whole, err);
	out->awskms = true;
	(void)snprintf(out->uri, sizeof out->uri, "%s", kt_buf_cstr(&whole));
	kt_buf_free(&whole);
	for (const cJSON *key = k->view->child; rc == KT_OK && key && !out->known; key = key->next)
		if (kt_ledger_is(key, "uri", out->uri))
			out->known = key;
	return rc;
}

static bool is_named(const cJSON *key, const char *text)
{
	const char *id = kt_ledger_text(key, "id");
	bool made =
		kt_ledger_is(key, "run", text) && !kt_ledger_is(key, "kind", "backup"); /* a run's key is the new one */
	return strcmp(id, text) == 0 || kt_ledger_is(key, "label", text) || made ||
	       (strlen(text) >= SHORT_ID && strncmp(id, text, strlen(text)) == 0);
}

/* The one key that the ledger knows by this name; of several the one that is not destroyed. */
static kt_code known_by(const kt_keys *k, const char *text, const cJSON **out, kt_err *err)
{
	size_t n = 0;
	const cJSON *gone = NULL;
	*out = NULL;
	for (const cJSON *key = k->view->child; key; key = key->next) {
		if (!is_named(key, text))
			continue;
		if (kt_view_state(key) == KT_KEY_DESTROYED) {
			gone = key;
			continue;
		}
		*out = key;
		n++;
	}
	if (n > 1)
		return kt_fail(err, KT_E_KEY, "name it by its id (keyturn key list)",
			       "the ledger knows %zu keys by the name %s, and keyturn does not guess", n, text);
	if (!*out)
		*out = gone;
	return *out ? KT_OK
		    : kt_fail(err, KT_E_KEY, "`keyturn key list` has the keys; or give a pkcs11: or file: URI",
			      "the ledger does not know the key %s", text);
}

static kt_code set_id(const char *hex, kt_place *out, kt_err *err)
{
	kt_buf id = {.max = KT_URI_ID};
	kt_code rc = kt_hex_decode(hex, strlen(hex), &id, err);
	if (rc == KT_OK) {
		memcpy(out->id, id.data, id.len);
		out->id_len = id.len;
	}
	kt_buf_free(&id);
	return rc;
}

static kt_code of_known(const kt_keys *k, const char *text, kt_place *out, kt_err *err)
{
	KT_TRY(known_by(k, text, &out->known, err));
	const char *uri = kt_ledger_text(out->known, "uri");
	const char *id = kt_ledger_text(out->known, "id");
	if (strncmp(uri, "file:", 5) == 0) {
		out->file = true;
		(void)snprintf(out->path, sizeof out->path, "%s", uri + 5);
		return KT_OK;
	}
	if (strncmp(uri, "awskms:", 7) == 0) {
		out->awskms = true;
		(void)snprintf(out->uri, sizeof out->uri, "%s", uri);
		return KT_OK;
	}
	(void)snprintf(out->uri, sizeof out->uri, "%s", k->cluster->hsm.uri);
	(void)snprintf(out->label, sizeof out->label, "%s", kt_ledger_text(out->known, "label"));
	return strspn(id, "0123456789abcdef") == strlen(id) ? set_id(id, out, err) : KT_OK;
}

kt_code kt_place_of(const kt_keys *k, const char *key, kt_place *out, kt_err *err)
{
	*out = (kt_place){0};
	const char *named = key;
	if (strncmp(named, "pkcs11:", 7) == 0)
		return of_uri(k, named, out, err);
	if (strncmp(named, "awskms:", 7) == 0)
		return of_awskms(k, named, out, err);
	return strncmp(named, "file:", 5) == 0 ? of_file(k, named, out, err) : of_known(k, named, out, err);
}

kt_token_key_name kt_place_name(const kt_place *p)
{
	return (kt_token_key_name){.label = p->label[0] ? p->label : NULL, .id = p->id, .id_len = p->id_len};
}

/* --- In its token ------------------------------------------------------------------------------------------------- */

/* A key is of one kind or of the other by its attributes; a third kind is none of ours. */
static kt_code find_either(kt_found *f, const kt_token_key_name *name, kt_err *err)
{
	kt_err first = KT_ERR_INIT;
	kt_code rc = kt_token_find_wrapping_key(f->token, name, &f->key, &first);
	f->kind = "wrapping";
	if (rc == KT_OK)
		return KT_OK;
	f->kind = "cluster";
	if (rc == KT_E_REFUSED)
		return kt_token_find_cluster_key(f->token, name, &f->key, err);
	if (err)
		*err = first;
	return rc;
}

kt_code kt_find(const kt_keys *k, const kt_place *p, kt_found *out, kt_err *err)
{
	const kt_token_key_name name = kt_place_name(p);
	*out = (kt_found){.kind = "", .known = p->known};
	if (p->file)
		return kt_fail(err, KT_E_REFUSED, "name a key in a token",
			       "%s is a key file: no HSM has it, and it is not taken into one", p->path);
	if (p->awskms)
		return kt_fail(err, KT_E_REFUSED, "AWS's own tools do this: aws kms",
			       "%s is a key of AWS KMS: it stays there, and no HSM has it", p->uri);
	KT_TRY(kt_token_open(p->uri, &out->token, err));
	KT_TRY(find_either(out, &name, err));
	KT_TRY(kt_keys_hex(out->key.id, out->key.id_len, out->id, err));
	out->known = kt_view_find(k->view, out->id, out->kind, out->key.kcv);
	(void)snprintf(out->run, sizeof out->run, "%s", kt_ledger_text(out->known, "run"));
	if (!out->known || !kt_ledger_text(out->known, "kcv")[0] || kt_ledger_is(out->known, "kcv", out->key.kcv))
		return KT_OK;
	return kt_fail(err, KT_E_KEY, "look at the token: a key of this id that is another one must not be there",
		       "the key %s has check value %s in the token, the ledger has %s", out->id, out->key.kcv,
		       kt_ledger_text(out->known, "kcv"));
}

void kt_found_close(kt_found *f)
{
	kt_token_close(f->token);
	f->token = NULL;
}

kt_code kt_keys_uri(const kt_token *t, const char *label, const uint8_t *id, size_t id_len, char out[KT_LEDGER_PATH],
		    kt_err *err)
{
	const kt_token_info *info = kt_token_get_info(t);
	kt_buf text = KT_BUF_INIT;
	kt_uri uri = {.id_len = id_len};
	(void)snprintf(uri.token, sizeof uri.token, "%s", info->label);
	(void)snprintf(uri.serial, sizeof uri.serial, "%s", info->serial);
	(void)snprintf(uri.object, sizeof uri.object, "%s", label);
	memcpy(uri.id, id, id_len);
	kt_code rc = kt_uri_format(&uri, &text, err);
	(void)snprintf(out, KT_LEDGER_PATH, "%s", kt_buf_cstr(&text));
	kt_buf_free(&text);
	return rc;
}

kt_code kt_found_entry(kt_keys *k, const kt_found *f, cJSON **out, kt_err *err)
{
	char uri[KT_LEDGER_PATH];
	if (f->known)
		return kt_keys_entry(k, f->known, out, err);
	KT_TRY(kt_keys_uri(f->token, f->key.label, f->key.id, f->key.id_len, uri, err));
	const kt_ledger_new as = {.id = f->id, .label = f->key.label, .uri = uri, .kind = f->kind, .kcv = f->key.kcv};
	KT_TRY(kt_ledger_enter(&k->ledger, &as, out, err));
	return kt_ledger_moved(*out, KT_KEY_ACTIVE, kt_clock_wall_ms(), "found in the token", err);
}

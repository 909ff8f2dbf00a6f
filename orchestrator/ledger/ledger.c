/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/ledger/internal.h"

#include <stdio.h>
#include <string.h>

#include "base/record.h"
#include "base/schema.h"
#include "playbooks/embedded.h"

#define FORMAT "keyturn-ledger/1"
#define DAMAGED                                                                                                        \
	"nothing was changed. Put back a copy of it from a backup of the state folder; or look at the keys in the "    \
	"tokens, move it away, and enter what it had again (keyturn-keys(7), A DAMAGED LEDGER)"

/* --- The file ----------------------------------------------------------------------------------------------------- */

static kt_code check_schema(const kt_json_doc *doc, kt_err *err)
{
	const kt_embedded *file = kt_embedded_files;
	while (file->name && strcmp(file->name, "ledger.schema.json") != 0)
		file++;
	cJSON *schema = NULL;
	KT_TRY(kt_json_parse("ledger.schema.json", file->data, file->len, &schema, err));
	kt_code rc = kt_schema_check(schema, doc, err);
	cJSON_Delete(schema);
	return rc;
}

static kt_code check_format(const cJSON *root, const char *path, kt_err *err)
{
	const char *format;
	KT_TRY(kt_json_str(root, "format", &format, err));
	if (strcmp(format, FORMAT) == 0)
		return KT_OK;
	return kt_fail(err, KT_E_INPUT, "use the keyturn that wrote it, or a newer one",
		       "%s has the format \"%.40s\", this is for " FORMAT, path, format);
}

static kt_code check_cluster(const cJSON *root, const char *path, const char *cluster, kt_err *err)
{
	const char *name;
	KT_TRY(kt_json_str(root, "cluster", &name, err));
	if (strcmp(name, cluster) == 0)
		return KT_OK;
	return kt_fail(err, KT_E_INPUT, "correct \"state\" or \"cluster\" in cluster.json",
		       "%s is the ledger of the cluster %s, not of %s", path, name, cluster);
}

static kt_code parse(kt_ledger *l, const kt_buf *text, const char *cluster, kt_err *err)
{
	kt_json_doc doc;
	KT_TRY(kt_json_doc_parse(&doc, l->path, text->data, text->len, err));
	kt_code rc = check_format(doc.root, l->path, err);
	if (rc == KT_OK)
		rc = check_schema(&doc, err);
	if (rc == KT_OK)
		rc = check_cluster(doc.root, l->path, cluster, err);
	if (rc == KT_OK) {
		l->root = doc.root;
		doc.root = NULL;
	}
	kt_json_doc_free(&doc);
	return rc;
}

static kt_code empty(kt_ledger *l, const char *cluster, kt_err *err)
{
	l->root = cJSON_CreateObject();
	KT_TRY(kt_json_add_str(l->root, "format", FORMAT, err));
	KT_TRY(kt_json_add_str(l->root, "cluster", cluster, err));
	return kt_json_add(l->root, "keys", cJSON_CreateArray(), err);
}

kt_code kt_ledger_open(const char *folder, const char *cluster, kt_ledger *out, kt_err *err)
{
	kt_buf text = {.max = KT_JSON_MAX};
	bool found = false;
	*out = (kt_ledger){0};
	if (snprintf(out->path, sizeof out->path, "%s/ledger.json", folder) >= (int)sizeof out->path)
		return kt_fail(err, KT_E_INPUT, "use a shorter path", "the path of the state folder is too long");
	kt_code rc = kt_record_read(out->path, DAMAGED, &found, &text, err);
	if (rc == KT_OK)
		rc = found ? parse(out, &text, cluster, err) : empty(out, cluster, err);
	kt_buf_free(&text);
	if (rc != KT_OK)
		kt_ledger_close(out);
	return rc;
}

void kt_ledger_close(kt_ledger *l)
{
	cJSON_Delete(l->root);
	l->root = NULL;
}

kt_code kt_ledger_save(const kt_ledger *l, kt_err *err)
{
	kt_buf text = {.max = KT_JSON_MAX};
	kt_code rc = kt_json_canonical(l->root, &text, err);
	if (rc == KT_OK)
		rc = kt_record_replace(l->path, &text, &kt_record_private, err);
	kt_buf_free(&text);
	return rc == KT_OK ? KT_OK : kt_record_failed(err, "the change of the key");
}

/* --- Entries ------------------------------------------------------------------------------------------------------ */

cJSON *kt_ledger_member(const cJSON *o, const char *name)
{
	return o ? cJSON_GetObjectItemCaseSensitive(o, name) : NULL;
}

const char *kt_ledger_text(const cJSON *o, const char *name)
{
	const cJSON *m = kt_ledger_member(o, name);
	return cJSON_IsString(m) ? m->valuestring : "";
}

bool kt_ledger_is(const cJSON *o, const char *name, const char *text)
{
	return strcmp(kt_ledger_text(o, name), text) == 0;
}

cJSON *kt_ledger_element(const cJSON *array, const char *name, const char *value)
{
	for (cJSON *e = array ? array->child : NULL; e; e = e->next) {
		const cJSON *m = kt_ledger_member(e, name);
		if (cJSON_IsString(m) && strcmp(m->valuestring, value) == 0)
			return e;
	}
	return NULL;
}

cJSON *kt_ledger_find(const kt_ledger *l, const char *id)
{
	return kt_ledger_element(kt_ledger_member(l->root, "keys"), "id", id);
}

static kt_code fill(cJSON *o, const kt_ledger_new *key, kt_err *err)
{
	KT_TRY(kt_json_add_str(o, "id", key->id, err));
	KT_TRY(kt_json_add_str(o, "label", key->label, err));
	KT_TRY(kt_json_add_str(o, "uri", key->uri, err));
	KT_TRY(kt_json_add_str(o, "kind", key->kind, err));
	KT_TRY(kt_json_add_str(o, "kcv", key->kcv, err));
	KT_TRY(kt_json_add_int(o, "cryptoperiod_days", key->cryptoperiod_days, err));
	KT_TRY(kt_json_add(o, "history", cJSON_CreateArray(), err));
	KT_TRY(kt_json_add(o, "escrows", cJSON_CreateArray(), err));
	return kt_json_add(o, "released", cJSON_CreateArray(), err);
}

kt_code kt_ledger_add_key(cJSON *keys, const kt_ledger_new *key, cJSON **out, kt_err *err)
{
	*out = NULL;
	cJSON *o = cJSON_CreateObject();
	kt_code rc = fill(o, key, err);
	if (rc == KT_OK && !cJSON_AddItemToArray(keys, o))
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		*out = o;
	else
		cJSON_Delete(o);
	return rc;
}

/* Add `o` to an array of the entry, in the place of the element that has the same `name`. Takes ownership. */
static kt_code put(cJSON *array, const char *name, cJSON *o, kt_err *err)
{
	cJSON *old = kt_ledger_element(array, name, kt_ledger_member(o, name)->valuestring);
	bool done = old ? cJSON_ReplaceItemViaPointer(array, old, o) : cJSON_AddItemToArray(array, o);
	if (done)
		return KT_OK;
	cJSON_Delete(o);
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

kt_code kt_ledger_enter(kt_ledger *l, const kt_ledger_new *key, cJSON **out, kt_err *err)
{
	*out = kt_ledger_find(l, key->id);
	if (*out)
		return KT_OK;
	return kt_ledger_add_key(kt_ledger_member(l->root, "keys"), key, out, err);
}

kt_code kt_ledger_may(const char *what, kt_key_state from, kt_key_state to, kt_err *err)
{
	if (kt_key_state_may(from, to))
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED,
		       from == KT_KEY_ACTIVE ? "deactivate it first (keyturn key deactivate)"
					     : "keyturn-keys(7), STATES, has what may follow what",
		       "%s is %s: it cannot become %s", what, kt_key_state_name(from), kt_key_state_name(to));
}

kt_code kt_ledger_moved(cJSON *entry, kt_key_state to, int64_t time_ms, const char *why, kt_err *err)
{
	cJSON *o = cJSON_CreateObject();
	kt_code rc = kt_json_add_str(o, "state", kt_key_state_name(to), err);
	if (rc == KT_OK)
		rc = kt_json_add_int(o, "time_ms", time_ms, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "why", why, err);
	if (rc == KT_OK && !cJSON_AddItemToArray(kt_ledger_member(entry, "history"), o))
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc != KT_OK)
		cJSON_Delete(o);
	return rc;
}

kt_code kt_ledger_intend(cJSON *entry, const char *what, int64_t time_ms, kt_err *err)
{
	cJSON *o = cJSON_CreateObject();
	cJSON_DeleteItemFromObjectCaseSensitive(entry, "pending");
	kt_code rc = kt_json_add_str(o, "what", what, err);
	if (rc == KT_OK)
		rc = kt_json_add_int(o, "since_ms", time_ms, err);
	if (rc == KT_OK)
		return kt_json_add(entry, "pending", o, err);
	cJSON_Delete(o);
	return rc;
}

void kt_ledger_done(cJSON *entry)
{
	cJSON_DeleteItemFromObjectCaseSensitive(entry, "pending");
}

static kt_code fill_escrow(cJSON *o, const kt_ledger_escrow *e, kt_err *err)
{
	KT_TRY(kt_json_add_str(o, "path", e->path, err));
	KT_TRY(kt_json_add_str(o, "custodian", e->custodian, err));
	KT_TRY(kt_json_add_str(o, "under", e->under, err));
	KT_TRY(kt_json_add_str(o, "under_kcv", e->under_kcv, err));
	KT_TRY(kt_json_add_int(o, "time_ms", e->time_ms, err));
	return kt_json_add_bool(o, "gone", e->gone, err);
}

kt_code kt_ledger_escrowed(cJSON *entry, const kt_ledger_escrow *e, kt_err *err)
{
	cJSON *o = cJSON_CreateObject();
	kt_code rc = fill_escrow(o, e, err);
	if (rc == KT_OK)
		return put(kt_ledger_member(entry, "escrows"), "path", o, err);
	cJSON_Delete(o);
	return rc;
}

kt_code kt_ledger_proved(cJSON *entry, const cJSON *from, kt_err *err)
{
	static const char *const names[] = {"label", "nonce", "proof"};
	cJSON *o = cJSON_CreateObject();
	kt_code rc = KT_OK;
	bool whole = true;
	for (size_t i = 0; rc == KT_OK && i < sizeof names / sizeof names[0]; i++) {
		whole = whole && kt_ledger_text(from, names[i])[0];
		rc = kt_json_add_str(o, names[i], kt_ledger_text(from, names[i]), err);
	}
	if (rc != KT_OK || !whole) {
		cJSON_Delete(o);
		return rc;
	}
	cJSON_DeleteItemFromObjectCaseSensitive(entry, "proof");
	return kt_json_add(entry, "proof", o, err);
}

kt_code kt_ledger_release(cJSON *entry, const char *run, int64_t time_ms, kt_err *err)
{
	cJSON *o = cJSON_CreateObject();
	kt_code rc = kt_json_add_str(o, "run", run, err);
	if (rc == KT_OK)
		rc = kt_json_add_int(o, "time_ms", time_ms, err);
	if (rc == KT_OK)
		return put(kt_ledger_member(entry, "released"), "run", o, err);
	cJSON_Delete(o);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/keys/keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/codec.h"
#include "orchestrator/journal/lock.h"
#include "orchestrator/keys/internal.h"

static kt_code make_view(kt_keys *k, kt_err *err)
{
	const kt_view_options o = {.cluster = k->cluster->name,
				   .now_ms = kt_clock_wall_ms(),
				   .cryptoperiod_days = k->cluster->cryptoperiod_days};
	cJSON *view;
	KT_TRY(kt_ledger_view(&k->ledger, k->told, &o, &view, err));
	cJSON_Delete(k->view);
	k->view = view;
	return KT_OK;
}

/* Before the first run there is no journal, and nothing is wrong with that. */
static bool no_journal_yet(const char *folder)
{
	char path[KT_KEYS_PATH];
	(void)snprintf(path, sizeof path, "%s/journal.db", folder);
	return access(path, F_OK) != 0 && kt_lock_entries(folder) == 0;
}

static kt_code open_journal(kt_keys *k, kt_err *err)
{
	const char *folder = k->cluster->state;
	if (k->mode == KT_KEYS_CHANGE)
		return kt_journal_open(folder, KT_JOURNAL_WRITE, &k->journal, err);
	return no_journal_yet(folder) ? KT_OK : kt_journal_open(folder, KT_JOURNAL_READ, &k->journal, err);
}

kt_code kt_keys_open(const kt_cluster *cluster, kt_keys_mode mode, kt_keys **out, kt_err *err)
{
	kt_keys *k = calloc(1, sizeof *k);
	*out = NULL;
	if (!k)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	*k = (kt_keys){.cluster = cluster, .mode = mode};
	kt_code rc = open_journal(k, err);
	if (rc == KT_OK)
		rc = kt_ledger_open(cluster->state, cluster->name, &k->ledger, err);
	if (rc == KT_OK)
		rc = kt_ledger_told(k->journal, &k->told, err);
	if (rc == KT_OK)
		rc = make_view(k, err);
	if (rc == KT_OK)
		*out = k;
	else
		kt_keys_close(k);
	return rc;
}

void kt_keys_close(kt_keys *k)
{
	if (!k)
		return;
	cJSON_Delete(k->view);
	cJSON_Delete(k->told);
	kt_ledger_close(&k->ledger);
	kt_journal_close(k->journal);
	free(k);
}

const cJSON *kt_keys_view(const kt_keys *k)
{
	return k->view;
}

kt_code kt_keys_save(kt_keys *k, kt_err *err)
{
	KT_TRY(kt_ledger_save(&k->ledger, err));
	return make_view(k, err);
}

kt_code kt_keys_entry(kt_keys *k, const cJSON *known, cJSON **out, kt_err *err)
{
	const kt_ledger_new as = kt_view_describe(known);
	return kt_ledger_enter(&k->ledger, &as, out, err);
}

kt_code kt_keys_set(cJSON *entry, const char *name, const char *value, kt_err *err)
{
	cJSON *text = cJSON_CreateString(value);
	if (text && cJSON_ReplaceItemInObjectCaseSensitive(entry, name, text))
		return KT_OK;
	cJSON_Delete(text);
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

kt_code kt_keys_tell(const kt_keys *k, const char *id, cJSON *result, kt_err *err)
{
	static const char *const names[] = {"id", "label", "uri", "kind", "kcv", "state"};
	const cJSON *key = kt_view_find(k->view, id, "", "");
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		KT_TRY(kt_json_add_str(result, names[i], kt_ledger_text(key, names[i]), err));
	return kt_json_add_str(result, "kcv_method", KT_KCV_METHOD, err);
}

kt_code kt_keys_hex(const void *bytes, size_t n, char out[KT_LEDGER_ID], kt_err *err)
{
	kt_buf hex = KT_BUF_INIT;
	kt_code rc = kt_hex_encode(bytes, n, &hex, err);
	(void)snprintf(out, KT_LEDGER_ID, "%s", kt_buf_cstr(&hex));
	kt_buf_free(&hex);
	return rc;
}

/* --- show --------------------------------------------------------------------------------------------------------- */

static kt_code add_all(const cJSON *from, cJSON *to, kt_err *err)
{
	for (const cJSON *m = from ? from->child : NULL; m; m = m->next)
		KT_TRY(kt_json_add(to, m->string, cJSON_Duplicate(m, true), err));
	return KT_OK;
}

static kt_code show_token(kt_keys *k, const kt_place *p, cJSON *result, kt_err *err)
{
	kt_found f;
	cJSON *o = NULL;
	kt_code rc = kt_find(k, p, &f, err);
	if (rc == KT_OK)
		rc = add_all(f.known, result, err);
	if (rc == KT_OK)
		rc = kt_json_add(result, "token", cJSON_CreateObject(), err);
	if (rc == KT_OK) {
		o = kt_ledger_member(result, "token");
		rc = kt_json_add_str(o, "label", f.key.label, err);
	}
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "id", f.id, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "kind", f.kind, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "kcv", f.key.kcv, err);
	kt_found_close(&f);
	return rc;
}

kt_code kt_keys_show(kt_keys *k, const char *key, cJSON *result, kt_err *err)
{
	kt_place p;
	KT_TRY(kt_place_of(k, key, &p, err));
	const char *named = key;
	if (strncmp(named, "pkcs11:", 7) == 0)
		return show_token(k, &p, result, err);
	if (!p.known)
		return kt_fail(err, KT_E_KEY, "`keyturn key list` has what the ledger knows",
			       "the ledger does not know the key %s", key);
	return add_all(p.known, result, err);
}

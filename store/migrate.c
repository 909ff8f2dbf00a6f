/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verb migrate_encryption: items in the legacy form, AES-128-CBC under a key that stands in the database, become
 * envelopes. In batches, each a transaction: every item says itself which form it has, so what was killed goes on where
 * it was. Until the last item has moved the table `legacy` is there, and with it every other verb refuses; it goes, and
 * the legacy key with it, in the transaction that has opened every item.
 */
#include <stdio.h>

#include "base/clock.h"
#include "envelope/legacy.h"
#include "store/args.h"
#include "store/logfile.h"
#include "store/node.h"
#include "store/session.h"
#include "store/verify.h"

enum { BATCH = 5000 };

typedef struct migration {
	const kt_store_config *cfg;
	kt_db *db;
	kt_keystore *cmk;
	bool legacy; /* is there anything to do? */
	kt_secret key;
	kt_envelope_ctx *ctx;
	kt_kek_info kek;
	kt_buf plain;
	int64_t items, migrated;
	kt_progress progress;
} migration;

/* The KEK of an attempt before this one, else a new one. */
static kt_code take_kek(migration *m, kt_buf *record, kt_err *err)
{
	bool has;
	kt_kek kek;
	KT_TRY(kt_db_has_kek(m->db, &has, err));
	if (has || !m->legacy)
		return kt_db_kek_get(m->db, record, err);
	KT_TRY(kt_kek_make(m->cmk, 1, kt_clock_wall_ms(), &kek, record, err));
	kt_kek_free(&kek);
	return kt_db_kek_replace(m->db, 1, record, err);
}

static kt_code unlock(migration *m, kt_err *err)
{
	kt_buf record = KT_BUF_INIT;
	kt_envelope_ctx_free(m->ctx);
	m->ctx = NULL;
	kt_code rc = take_kek(m, &record, err);
	if (rc == KT_OK)
		rc = kt_kek_inspect(record.data, record.len, &m->kek, err);
	if (rc == KT_OK)
		rc = kt_session_unlock(&record, m->cmk, &m->ctx, err);
	kt_buf_free(&record);
	return rc;
}

static kt_code migrate_one(void *arg, const char *name, const void *bytes, size_t len, kt_buf *out, kt_err *err)
{
	migration *m = arg;
	kt_progress_step(&m->progress);
	if (!kt_legacy_is(bytes, len))
		return KT_OK;
	kt_buf_clear(&m->plain);
	KT_TRY(kt_legacy_open(&m->key, bytes, len, &m->plain, err));
	m->migrated++;
	return kt_envelope_seal(m->ctx, name, m->plain.data, m->plain.len, out, err);
}

/* Within a transaction. `first`: what the batches after it work with is found out. */
static kt_code batch(migration *m, bool first, int64_t *after, int64_t *seen, kt_err *err)
{
	*seen = 0;
	KT_TRY(kt_node_gate(m->db, m->cfg->live_window_seconds, err));
	if (first) {
		KT_TRY(kt_db_legacy_get(m->db, &m->key, &m->legacy, err));
		KT_TRY(kt_db_item_count(m->db, &m->items, err));
		KT_TRY(unlock(m, err));
		kt_progress_begin(&m->progress, "migrating", m->items);
	}
	if (!m->legacy)
		return KT_OK;
	if (first)
		kt_logfile(KT_LOG_INFO, "crypt", "Starting migration from AES-128-CBC Legacy to AES-GCM-256");
	KT_TRY(kt_db_item_convert(m->db, after, BATCH, migrate_one, m, seen, err));
	return kt_progress_pause(err);
}

static kt_code in_transaction(migration *m, kt_code rc, kt_err *err)
{
	if (rc == KT_OK)
		rc = kt_db_commit(m->db, err);
	kt_db_rollback(m->db);
	return rc;
}

static kt_code convert(migration *m, kt_err *err)
{
	int64_t after = INT64_MIN, seen = BATCH;
	for (bool first = true; seen == BATCH; first = false) {
		KT_TRY(kt_db_begin(m->db, true, err));
		KT_TRY(in_transaction(m, batch(m, first, &after, &seen, err), err));
	}
	kt_progress_end(&m->progress);
	return KT_OK;
}

/* Whoever has read the data in its old form sees by the epoch that it is another one now. */
static kt_code end_legacy(migration *m, kt_err *err)
{
	int64_t epoch;
	KT_TRY(kt_db_epoch(m->db, &epoch, err));
	KT_TRY(kt_db_set_epoch(m->db, epoch + 1, err));
	return kt_db_legacy_drop(m->db, err);
}

/* With nothing but what was written and the master key. */
static kt_code check_and_drop(migration *m, kt_err *err)
{
	kt_verify_report report;
	KT_TRY(kt_node_gate(m->db, m->cfg->live_window_seconds, err));
	KT_TRY(kt_db_legacy_get(m->db, NULL, &m->legacy, err));
	KT_TRY(unlock(m, err));
	kt_progress_begin(&m->progress, "opening", m->items);
	KT_TRY(kt_verify_items(m->db, NULL, m->ctx, false, &m->progress, &report, err));
	kt_progress_end(&m->progress);
	KT_TRY(kt_verify_judge(&report, err));
	m->items = report.items;
	return m->legacy ? end_legacy(m, err) : KT_OK;
}

static kt_code run(migration *m, kt_err *err)
{
	KT_TRY(kt_node_gate_local(m->cfg, err));
	KT_TRY(kt_keys_open(KT_KEYS_PLAIN, &m->cmk, err));
	KT_TRY(kt_db_open(kt_store_place(m->cfg), KT_DB_WRITE, KT_SESSION_BUSY_MS, &m->db, err));
	bool yes;
	KT_TRY(kt_db_initialized(m->db, &yes, err));
	if (!yes)
		return kt_fail(err, KT_E_INPUT, "check the path of the database in store.json",
			       "%s: the database is not initialised: there is nothing to migrate", kt_db_name(m->db));
	KT_TRY(kt_node_gate(m->db, m->cfg->live_window_seconds, err));
	KT_TRY(kt_node_watch_stale(m->db, m->cfg->live_window_seconds, err));
	KT_TRY(kt_session_stir(m->cmk, err));
	KT_TRY(convert(m, err));
	KT_TRY(kt_db_begin(m->db, true, err));
	KT_TRY(in_transaction(m, check_and_drop(m, err), err));
	kt_logfile(KT_LOG_INFO, "crypt",
		   "Migration complete: %lld of %lld items moved to AES-GCM-256, master key KCV %s",
		   (long long)m->migrated, (long long)m->items, kt_keystore_kcv(m->cmk));
	return KT_OK;
}

static kt_code fill_json(cJSON *o, const migration *m, double seconds, kt_err *err)
{
	if (!o)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	KT_TRY(kt_json_add_int(o, "items", m->items, err));
	KT_TRY(kt_json_add_int(o, "migrated", m->migrated, err));
	KT_TRY(kt_json_add_str(o, "cmk", kt_keystore_uri(m->cmk), err));
	KT_TRY(kt_json_add_str(o, "cmk_kcv", kt_keystore_kcv(m->cmk), err));
	return kt_json_add(o, "seconds", cJSON_CreateNumber(seconds), err);
}

static kt_code print(const kt_store_args *args, const migration *m, double seconds, kt_err *err)
{
	if (!args->json)
		return kt_store_print(
			err,
			"migrated %lld items from AES-128-CBC to AES-256-GCM in %.2f s; all %lld items open with the "
			"master key %s (KCV %s)\n"
			"losing that key loses the data: keep a copy in a safe place\n",
			(long long)m->migrated, seconds, (long long)m->items, kt_keystore_uri(m->cmk),
			kt_keystore_kcv(m->cmk));
	cJSON *o = cJSON_CreateObject();
	kt_code rc = fill_json(o, m, seconds, err);
	if (rc == KT_OK)
		return kt_store_print_json(o, err);
	cJSON_Delete(o);
	return rc;
}

kt_code kt_verb_migrate(const kt_store_args *args, const kt_store_config *cfg, int *exit_code, kt_err *err)
{
	migration m = {.cfg = cfg};
	(void)exit_code;
	int64_t start = kt_clock_mono_ms();
	KT_TRY(kt_logfile_open(cfg->log, err));
	kt_code rc = run(&m, err);
	if (rc == KT_OK)
		rc = print(args, &m, (double)(kt_clock_mono_ms() - start) / 1000.0, err);
	else
		kt_logfile(KT_LOG_ERROR, "crypt", "Migration stopped: %s", err->msg);
	kt_envelope_ctx_free(m.ctx);
	kt_secret_free(&m.key);
	kt_buf_free(&m.plain);
	kt_db_close(m.db);
	kt_keystore_close(m.cmk);
	kt_logfile_close();
	return rc;
}

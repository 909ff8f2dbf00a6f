/* SPDX-License-Identifier: Apache-2.0 */
#include "store/session.h"

#include "envelope/legacy.h"
#include "store/logfile.h"

typedef struct tally {
	int64_t items, legacy;
} tally;

static kt_code count_legacy(void *arg, const char *name, const void *bytes, size_t len, const char *bad, kt_err *err)
{
	tally *t = arg;
	(void)name;
	(void)err;
	t->items++;
	t->legacy += !bad && kt_legacy_is(bytes, len);
	return KT_OK;
}

/* What is still legacy is said by whatever verb meets it. */
static kt_code refuse_legacy(kt_db *db, kt_err *err)
{
	bool legacy;
	tally t = {0};
	KT_TRY(kt_db_legacy_get(db, NULL, &legacy, err));
	if (!legacy)
		return KT_OK;
	KT_TRY(kt_db_item_each(db, NULL, count_legacy, &t, err));
	return kt_fail(err, KT_E_INPUT, "run `migrate_encryption`, or run it again: it goes on where it was",
		       "%s: %lld of %lld items are still in the legacy form (AES-128-CBC)%s", kt_db_name(db),
		       (long long)t.legacy, (long long)t.items, t.legacy ? "" : ", but the migration has not ended");
}

static kt_code refuse_shards(kt_db *db, kt_err *err)
{
	kt_db_rekey rekey;
	bool open;
	KT_TRY(kt_db_rekey_get(db, &rekey, &open, err));
	kt_buf_free(&rekey.record);
	if (!open)
		return KT_OK;
	return kt_fail(err, KT_E_INPUT, "run `rekey --join` with the keys of that rekey: it goes on where it was",
		       "%s: a rekey in shards has not ended: %lld of %lld ranges are done", kt_db_name(db),
		       (long long)rekey.done, (long long)rekey.ranges);
}

kt_code kt_session_read_kek(kt_db *db, kt_buf *record, kt_kek_info *info, int64_t *epoch, kt_err *err)
{
	bool yes;
	KT_TRY(kt_db_initialized(db, &yes, err));
	if (!yes)
		return kt_fail(err, KT_E_INPUT, "the first `start` of a node initialises it",
			       "%s: the database is not initialised yet", kt_db_name(db));
	KT_TRY(refuse_legacy(db, err));
	KT_TRY(refuse_shards(db, err));
	KT_TRY(kt_db_epoch(db, epoch, err));
	KT_TRY(kt_db_kek_get(db, record, err));
	kt_code rc = kt_kek_inspect(record->data, record->len, info, err);
	return rc == KT_OK ? rc : kt_err_prefix(err, rc, "%s", kt_db_name(db));
}

kt_code kt_session_unlock(const kt_buf *record, kt_keystore *cmk, kt_envelope_ctx **out, kt_err *err)
{
	kt_kek kek;
	*out = NULL;
	KT_TRY(kt_kek_open(record->data, record->len, cmk, &kek, err));
	kt_code rc = kt_envelope_ctx_new(&kek, out, err);
	kt_kek_free(&kek);
	return rc;
}

kt_code kt_session_stir(kt_keystore *cmk, kt_err *err)
{
	kt_err why = KT_ERR_INIT;
	kt_code rc = kt_keystore_stir(cmk, &why);
	if (rc == KT_E_REFUSED)
		kt_logfile(KT_LOG_WARN, "crypt", "Keys are made of this machine's entropy alone: %s", why.msg);
	else if (rc != KT_OK)
		return kt_fail(err, rc, why.remedy, "%s", why.msg);
	return KT_OK;
}

/* The legacy form as it was before anybody began to migrate it. */
static kt_code is_untouched(kt_db *db, bool *yes, kt_err *err)
{
	bool kek = false;
	KT_TRY(kt_db_initialized(db, yes, err));
	if (*yes)
		KT_TRY(kt_db_legacy_get(db, NULL, yes, err));
	if (*yes)
		KT_TRY(kt_db_has_kek(db, &kek, err));
	*yes = *yes && !kek;
	return KT_OK;
}

kt_code kt_session_without_key(const kt_store_config *cfg, bool *yes, kt_err *err)
{
	kt_db *db = NULL;
	bool absent;
	*yes = false;
	if (kt_keys_set(KT_KEYS_PLAIN))
		return KT_OK;
	KT_TRY(kt_db_absent(kt_store_place(cfg), &absent, err));
	if (absent)
		return KT_OK;
	kt_code rc = kt_db_open(kt_store_place(cfg), KT_DB_LOOK, KT_SESSION_BUSY_MS, &db, err);
	if (rc == KT_OK)
		rc = kt_db_begin(db, false, err);
	if (rc == KT_OK)
		rc = is_untouched(db, yes, err);
	kt_db_close(db);
	return rc;
}

kt_code kt_session_read_legacy(kt_session *s, kt_err *err)
{
	bool legacy, untouched;
	KT_TRY(is_untouched(s->db, &untouched, err));
	if (!untouched)
		KT_TRY(refuse_legacy(s->db, err));
	KT_TRY(kt_db_legacy_get(s->db, &s->legacy, &legacy, err));
	if (!legacy)
		return kt_fail(err, KT_E_KEY, "try again", "%s: the data left the legacy form meanwhile",
			       kt_db_name(s->db));
	return kt_db_epoch(s->db, &s->epoch, err);
}

kt_code kt_session_open_item(const kt_session *s, const char *name, const void *bytes, size_t len, kt_buf *out,
			     kt_err *err)
{
	return s->ctx ? kt_envelope_open(s->ctx, name, bytes, len, out, err)
		      : kt_legacy_open(&s->legacy, bytes, len, out, err);
}

static kt_code read_legacy(kt_session *s, kt_err *err)
{
	KT_TRY(kt_db_begin(s->db, false, err));
	kt_code rc = kt_session_read_legacy(s, err);
	kt_db_rollback(s->db);
	return rc;
}

static kt_code read_and_unlock(kt_session *s, kt_keystore *cmk, kt_err *err)
{
	kt_buf record = KT_BUF_INIT;
	kt_code rc = kt_db_begin(s->db, false, err);
	if (rc == KT_OK)
		rc = kt_session_read_kek(s->db, &record, &s->kek, &s->epoch, err);
	kt_db_rollback(s->db);
	if (rc == KT_OK)
		rc = kt_session_unlock(&record, cmk, &s->ctx, err);
	kt_buf_free(&record);
	return rc;
}

kt_code kt_session_open(kt_session *s, const kt_store_config *cfg, kt_db_mode mode, kt_err *err)
{
	kt_keystore *cmk = NULL;
	bool legacy;
	*s = (kt_session){.cfg = cfg};
	kt_code rc = kt_session_without_key(cfg, &legacy, err);
	if (rc == KT_OK && !legacy)
		rc = kt_keys_open(KT_KEYS_PLAIN, &cmk, err);
	if (rc == KT_OK && !legacy && mode == KT_DB_WRITE)
		rc = kt_session_stir(cmk, err);
	if (rc == KT_OK)
		rc = kt_db_open(kt_store_place(cfg), mode, KT_SESSION_BUSY_MS, &s->db, err);
	if (rc == KT_OK)
		rc = legacy ? read_legacy(s, err) : read_and_unlock(s, cmk, err);
	kt_keystore_close(cmk);
	return rc;
}

void kt_session_close(kt_session *s)
{
	kt_envelope_ctx_free(s->ctx);
	kt_secret_free(&s->legacy);
	kt_db_close(s->db);
	*s = (kt_session){0};
}

kt_code kt_session_check_epoch(kt_session *s, kt_err *err)
{
	int64_t now;
	KT_TRY(kt_db_epoch(s->db, &now, err));
	if (now == s->epoch)
		return KT_OK;
	return kt_fail(err, KT_E_KEY, "start it again with the new key",
		       "the store was rekeyed in the meantime (epoch %lld, this process knows %lld)", (long long)now,
		       (long long)s->epoch);
}

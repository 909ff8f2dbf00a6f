/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verb probe: which of the two keys of a rekey opens the data? Answered by opening all of it. Without a _SOURCE it
 * is a migration that is asked about: "old" is then the legacy form as it was before anybody began to migrate it.
 */
#include "envelope/legacy.h"
#include "store/args.h"
#include "store/session.h"

typedef struct probe {
	kt_keystore *from, *to;
	kt_envelope_ctx *old_ctx, *new_ctx; /* NULL: that key does not open the KEK */
	kt_secret legacy;                   /* the key of the legacy form, while that is what is "old" */
	kt_buf plain;
	int64_t items, old_only, new_only, both, neither;
	bool in_shards; /* a rekey in shards has not ended: there are two KEKs */
	bool begun;     /* a migration has not ended */
} probe;

static bool opens_legacy(probe *p, const void *bytes, size_t len)
{
	kt_buf_clear(&p->plain);
	return p->legacy.len && kt_legacy_open(&p->legacy, bytes, len, &p->plain, NULL) == KT_OK;
}

static bool opens(kt_envelope_ctx *ctx, kt_buf *plain, const char *name, const void *envelope, size_t len)
{
	if (!ctx)
		return false;
	kt_buf_clear(plain);
	return kt_envelope_open(ctx, name, envelope, len, plain, NULL) == KT_OK;
}

static kt_code see(void *arg, const char *name, const void *envelope, size_t len, const char *bad, kt_err *err)
{
	probe *p = arg;
	(void)err;
	bool with_old = !bad && (opens(p->old_ctx, &p->plain, name, envelope, len) || opens_legacy(p, envelope, len));
	bool with_new = !bad && opens(p->new_ctx, &p->plain, name, envelope, len);
	p->items++;
	int64_t *count = with_old && with_new ? &p->both
			 : with_old           ? &p->old_only
			 : with_new           ? &p->new_only
					      : &p->neither;
	(*count)++;
	return KT_OK;
}

/* A key that does not open the KEK, or a record that was altered, is an answer; everything else is a failure to ask. */
static kt_code try_key(const kt_buf *record, kt_keystore *cmk, kt_envelope_ctx **out, kt_err *err)
{
	kt_code rc = kt_session_unlock(record, cmk, out, err);
	return rc == KT_E_KEY || rc == KT_E_INPUT ? KT_OK : rc;
}

static const char *verdict(const probe *p)
{
	bool old = p->old_ctx || p->legacy.len;
	if (p->begun)
		return "mixed";
	if (p->in_shards) /* wherever the items are: no single key opens the store */
		return p->old_ctx || p->new_ctx ? "mixed" : "none";
	if (p->items == 0)
		return old && p->new_ctx ? "both" : old ? "old" : p->new_ctx ? "new" : "none";
	if (p->both == p->items)
		return "both";
	if (p->old_only == p->items)
		return "old";
	if (p->new_only == p->items)
		return "new";
	return p->neither == p->items ? "none" : "mixed";
}

/* The record that each key has to open: one and the same, but for a rekey in shards that has not ended. */
static kt_code read_records(probe *p, kt_db *db, kt_buf *old_record, kt_buf *new_record, kt_err *err)
{
	kt_kek_info info;
	int64_t epoch;
	bool yes;
	kt_db_rekey rekey = {.ranges = 0};
	KT_TRY(kt_db_initialized(db, &yes, err));
	if (yes)
		KT_TRY(kt_db_rekey_get(db, &rekey, &p->in_shards, err));
	kt_code rc = p->in_shards ? kt_db_kek_get(db, old_record, err)
				  : kt_session_read_kek(db, old_record, &info, &epoch, err);
	const kt_buf *other = p->in_shards ? &rekey.record : old_record;
	if (rc == KT_OK)
		rc = kt_buf_append(new_record, other->data, other->len, err);
	kt_buf_free(&rekey.record);
	return rc;
}

static kt_code try_keys(probe *p, const kt_buf *old_record, const kt_buf *new_record, kt_err *err)
{
	kt_err why = KT_ERR_INIT;
	kt_code rc = p->from ? try_key(old_record, p->from, &p->old_ctx, &why) : KT_OK;
	if (rc == KT_OK)
		rc = try_key(new_record, p->to, &p->new_ctx, &why);
	return rc == KT_OK ? rc : kt_fail(err, rc, why.remedy, "%s", why.msg);
}

static kt_code ask_keys(probe *p, kt_db *db, kt_err *err)
{
	kt_buf old_record = KT_BUF_INIT, new_record = KT_BUF_INIT;
	kt_code rc = read_records(p, db, &old_record, &new_record, err);
	if (rc == KT_OK)
		rc = try_keys(p, &old_record, &new_record, err);
	kt_buf_free(&old_record);
	kt_buf_free(&new_record);
	return rc;
}

/* There is no _SOURCE. *done: the data is legacy, or on its way from there; else the keys are asked. */
static kt_code ask_legacy(probe *p, kt_db *db, bool *done, kt_err *err)
{
	bool legacy = false;
	KT_TRY(kt_db_initialized(db, done, err));
	if (*done)
		KT_TRY(kt_db_legacy_get(db, &p->legacy, &legacy, err));
	*done = legacy;
	return legacy ? kt_db_has_kek(db, &p->begun, err) : KT_OK;
}

/* What the source is, and what the destination. */
static kt_code open_sides(probe *p, kt_db *db, kt_err *err)
{
	bool done = false;
	if (!kt_keys_set(KT_KEYS_SOURCE))
		KT_TRY(ask_legacy(p, db, &done, err));
	if (done)
		return KT_OK;
	if (kt_keys_set(KT_KEYS_SOURCE) || !kt_keys_set(KT_KEYS_DESTINATION))
		KT_TRY(kt_keys_open(KT_KEYS_SOURCE, &p->from, err));
	KT_TRY(kt_keys_open(KT_KEYS_DESTINATION, &p->to, err));
	return ask_keys(p, db, err);
}

static kt_code ask(probe *p, kt_db *db, kt_err *err)
{
	KT_TRY(kt_db_settle(db, err)); /* a rekey that was killed while it committed: its end first */
	KT_TRY(kt_db_begin(db, false, err));
	kt_code rc = open_sides(p, db, err);
	if (rc == KT_OK)
		rc = kt_db_item_each(db, NULL, see, p, err);
	kt_db_rollback(db);
	return rc;
}

static kt_code fill_json(cJSON *o, const probe *p, kt_err *err)
{
	if (!o)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	KT_TRY(kt_json_add_str(o, "verdict", verdict(p), err));
	KT_TRY(kt_json_add_int(o, "items", p->items, err));
	KT_TRY(kt_json_add_int(o, "old", p->old_only + p->both, err));
	KT_TRY(kt_json_add_int(o, "new", p->new_only + p->both, err));
	return kt_json_add_int(o, "neither", p->neither, err);
}

static kt_code print(const kt_store_args *args, const probe *p, kt_err *err)
{
	if (!args->json)
		return kt_store_print(err, "%s\n", verdict(p));
	cJSON *o = cJSON_CreateObject();
	kt_code rc = fill_json(o, p, err);
	if (rc == KT_OK)
		return kt_store_print_json(o, err);
	cJSON_Delete(o);
	return rc;
}

kt_code kt_verb_probe(const kt_store_args *args, const kt_store_config *cfg, int *exit_code, kt_err *err)
{
	probe p = {0};
	kt_db *db = NULL;
	(void)exit_code;
	kt_code rc = kt_db_open(kt_store_place(cfg), KT_DB_LOOK, KT_SESSION_BUSY_MS, &db, err);
	if (rc == KT_OK)
		rc = ask(&p, db, err);
	if (rc == KT_OK)
		rc = print(args, &p, err);
	kt_buf_free(&p.plain);
	kt_secret_free(&p.legacy);
	kt_envelope_ctx_free(p.old_ctx);
	kt_envelope_ctx_free(p.new_ctx);
	kt_db_close(db);
	kt_keystore_close(p.from);
	kt_keystore_close(p.to);
	return rc;
}

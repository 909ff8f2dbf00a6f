/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verb rekey. Without shards: one transaction at every depth: a KEK under the destination's CMK, the items moved to
 * it, every item opened with what was written; so a kill at any moment leaves the old state or the new one, never a
 * mixture, and there is nothing to resume. Its price is a rollback journal of the size of what is rewritten; memory
 * stays the same.
 *
 * In shards, on a server, it is many transactions: the first records the new KEK and the ranges (from then on nothing
 * but a worker opens the store), the last puts the new KEK in the old one's place. Between them the data needs both
 * keys.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "store/args.h"
#include "store/cache.h"
#include "store/logfile.h"
#include "store/node.h"
#include "store/session.h"
#include "store/shard.h"
#include "store/verify.h"

typedef struct rekey rekey;

/* How deep to turn. Depths differ in which KEK the new record holds, and in what is done to each item. */
typedef struct depth {
	const char *name, *doing;
	kt_code (*kek)(rekey *r, kt_kek *kek, kt_buf *record, kt_err *err); /* and its record under the destination */
	kt_db_edit_fn *edit;                                                /* NULL: the items stay as they are */
	size_t head_len, from;                                              /* of an envelope: kt_db_item_edit */
} depth;

struct rekey {
	const kt_store_config *cfg;
	kt_db *db;
	kt_keystore *from, *to;
	kt_buf record; /* the KEK record, the old one and then the new one */
	kt_envelope_ctx *old_ctx, *new_ctx;
	kt_kek_info old_kek, new_kek;
	int64_t epoch; /* before */
	int64_t items, opened;
	size_t uncached;
	const depth *depth;
	kt_progress progress;
	bool in_shards;
	int64_t want_ranges; /* 0: join */
	kt_shard shard;
};

static kt_code same_key(kt_err *err)
{
	return kt_fail(err, KT_E_KEY, "give a new key as the destination; to move a key, no rekey is needed",
		       "source and destination are the same master key: nothing would be turned");
}

/* The plain variable that stays exported beside its _SOURCE has to name the same key. */
static kt_code check_plain(const rekey *r, kt_err *err)
{
	if (!kt_keys_set(KT_KEYS_PLAIN))
		return KT_OK;
	kt_keystore *plain = NULL;
	kt_kek kek = KT_KEK_INIT;
	kt_err why = KT_ERR_INIT;
	kt_code rc = kt_keys_open(KT_KEYS_PLAIN, &plain, err);
	if (rc == KT_OK && strcmp(kt_keystore_uri(plain), kt_keystore_uri(r->from)) != 0 &&
	    kt_kek_open(r->record.data, r->record.len, plain, &kek, &why) != KT_OK)
		rc = kt_fail(err, KT_E_KEY, "set the plain variable to the same key as its _SOURCE, or unset it",
			     "%s (KCV %s) and the source %s (KCV %s) are not the same master key",
			     kt_keystore_uri(plain), kt_keystore_kcv(plain), kt_keystore_uri(r->from),
			     kt_keystore_kcv(r->from));
	kt_kek_free(&kek);
	kt_keystore_close(plain);
	return rc;
}

/* Does the destination open the data as it is? Any failure to do so is a no. */
static bool destination_opens(const rekey *r)
{
	kt_kek kek;
	kt_err why = KT_ERR_INIT;
	bool opens = kt_kek_open(r->record.data, r->record.len, r->to, &kek, &why) == KT_OK;
	kt_kek_free(&kek);
	return opens;
}

static kt_code open_source(rekey *r, kt_err *err)
{
	kt_code rc = kt_session_unlock(&r->record, r->from, &r->old_ctx, err);
	bool turned = destination_opens(r);
	if (rc == KT_OK && turned)
		return same_key(err);
	if (rc == KT_E_KEY && turned)
		return kt_fail(
			err, KT_E_KEY, "nothing is left to do: start the nodes with the destination's key",
			"the data has been turned already: it opens with the destination %s (KCV %s), not with the "
			"source %s (KCV %s)",
			kt_keystore_uri(r->to), kt_keystore_kcv(r->to), kt_keystore_uri(r->from),
			kt_keystore_kcv(r->from));
	return rc == KT_OK ? check_plain(r, err) : kt_err_prefix(err, rc, "source");
}

static kt_code new_kek(rekey *r, kt_kek *kek, kt_buf *record, kt_err *err)
{
	if (r->old_kek.generation == UINT32_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "the generation of the KEK cannot go up any more");
	return kt_kek_make(r->to, r->old_kek.generation + 1, kt_clock_wall_ms(), kek, record, err);
}

static kt_code same_kek(rekey *r, kt_kek *kek, kt_buf *record, kt_err *err)
{
	kt_code rc = kt_kek_move(r->record.data, r->record.len, r->from, r->to, kek, record, err);
	return rc == KT_OK ? rc : kt_err_prefix(err, rc, "the KEK cannot be moved to the destination");
}

static kt_code rewrap_one(void *arg, const char *name, uint8_t *head, size_t total, kt_err *err)
{
	rekey *r = arg;
	kt_progress_step(&r->progress);
	return kt_envelope_rewrap(r->old_ctx, r->new_ctx, name, head, total, err);
}

static kt_code reseal_one(void *arg, const char *name, uint8_t *envelope, size_t len, kt_err *err)
{
	rekey *r = arg;
	kt_progress_step(&r->progress);
	return kt_envelope_reseal(r->old_ctx, r->new_ctx, name, envelope, len, err);
}

static const depth depths[] = {
	{"kek", "wrapping data keys anew", new_kek, rewrap_one, KT_ENVELOPE_HEAD_LEN, KT_ENVELOPE_FIXED_LEN},
	{"cmk", "", same_kek, NULL, 0, 0},
	{"data", "encrypting anew", new_kek, reseal_one, KT_DB_WHOLE, 0},
};

/* The first is the default. */
static kt_code find_depth(const char *name, const depth **out, kt_err *err)
{
	for (size_t i = 0; i < sizeof depths / sizeof depths[0]; i++)
		if (!name || strcmp(depths[i].name, name) == 0) {
			*out = &depths[i];
			return KT_OK;
		}
	return kt_fail(err, KT_E_USAGE, "keyturn-store rekey --help", "--depth: cmk, kek or data is expected");
}

static kt_code replace_kek(rekey *r, kt_err *err)
{
	kt_kek kek = KT_KEK_INIT;
	kt_buf record = KT_BUF_INIT;
	kt_code rc = r->depth->kek(r, &kek, &record, err);
	if (rc == KT_OK)
		rc = kt_envelope_ctx_new(&kek, &r->new_ctx, err);
	if (rc == KT_OK)
		rc = kt_db_kek_replace(r->db, kek.generation, &record, err);
	if (rc == KT_OK)
		rc = kt_db_set_epoch(r->db, r->epoch + 1, err);
	kt_kek_free(&kek);
	kt_buf_free(&record);
	return rc;
}

static kt_code turn_items(rekey *r, kt_err *err)
{
	int64_t edited;
	KT_TRY(kt_db_item_count(r->db, &r->items, err));
	if (!r->depth->edit)
		return KT_OK;
	kt_progress_begin(&r->progress, r->depth->doing, r->items);
	KT_TRY(kt_db_item_edit(r->db, NULL, r->depth->head_len, r->depth->from, r->depth->edit, r, &edited, err));
	kt_progress_end(&r->progress);
	return edited == r->items ? KT_OK
				  : kt_fail(err, KT_E_INTERNAL, NULL, "%lld items were moved, %lld are there",
					    (long long)edited, (long long)r->items);
}

static kt_code check_items(rekey *r, kt_envelope_ctx *fresh, kt_err *err)
{
	kt_verify_report report;
	kt_progress_begin(&r->progress, "opening", r->items);
	KT_TRY(kt_verify_items(r->db, NULL, fresh, false, &r->progress, &report, err));
	kt_progress_end(&r->progress);
	KT_TRY(kt_verify_judge(&report, err));
	r->opened = report.opened;
	return r->opened == r->items ? KT_OK
				     : kt_fail(err, KT_E_INTERNAL, NULL, "%lld items were moved, %lld open",
					       (long long)r->items, (long long)r->opened);
}

/* With nothing but what was written and the destination's key. Where no item was touched, that the record holds the KEK
 * that they are under says it all: its MAC is made with the KEK. */
static kt_code check_written(rekey *r, kt_err *err)
{
	kt_envelope_ctx *fresh = NULL;
	int64_t epoch;
	kt_buf_clear(&r->record);
	KT_TRY(kt_session_read_kek(r->db, &r->record, &r->new_kek, &epoch, err));
	KT_TRY(kt_session_unlock(&r->record, r->to, &fresh, err));
	kt_code rc = KT_OK;
	if (r->depth->edit)
		rc = check_items(r, fresh, err);
	else if (strcmp(r->new_kek.id, r->old_kek.id) != 0 || strcmp(r->new_kek.kcv, r->old_kek.kcv) != 0)
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "the new record holds another KEK");
	kt_envelope_ctx_free(fresh);
	return rc;
}

static kt_code turn(rekey *r, kt_err *err)
{
	KT_TRY(kt_node_gate(r->db, r->cfg->live_window_seconds, err));
	KT_TRY(kt_session_read_kek(r->db, &r->record, &r->old_kek, &r->epoch, err));
	KT_TRY(open_source(r, err));
	kt_logfile(KT_LOG_INFO, "crypt", "Starting rekey (depth %s) from master key KCV %s to %s", r->depth->name,
		   kt_keystore_kcv(r->from), kt_keystore_kcv(r->to));
	KT_TRY(replace_kek(r, err));
	KT_TRY(turn_items(r, err));
	KT_TRY(check_written(r, err));
	return kt_progress_pause(err);
}

/* A commit that reports a failure has mostly not happened, but it is the data that tells. */
static kt_code commit(rekey *r, kt_err *err)
{
	kt_err why = KT_ERR_INIT;
	int64_t now;
	if (kt_db_commit(r->db, &why) == KT_OK)
		return KT_OK;
	kt_db_rollback(r->db);
	/* whoever has the write lock sees how it ended, also where a server was still at it when the connection was
	 * lost */
	kt_code rc = kt_db_begin(r->db, true, NULL);
	if (rc == KT_OK)
		rc = kt_db_epoch(r->db, &now, NULL);
	kt_db_rollback(r->db);
	if (rc != KT_OK)
		return kt_fail(err, KT_E_UNKNOWN, "run `probe`: it tells which key opens the data", "%s", why.msg);
	if (now == r->epoch + 1)
		return KT_OK;
	return kt_fail(err, why.code == KT_E_UNKNOWN ? KT_E_UNREACHABLE : why.code, "run it again",
		       "%s; nothing was changed", why.msg);
}

/* From here on the data is turned: what fails is reported, but it is not a failure of the rekey. */
static void after_commit(rekey *r)
{
	kt_err err = KT_ERR_INIT;
	if (kt_cache_clear(r->cfg->cache, &r->uncached, &err) != KT_OK) {
		kt_logfile(KT_LOG_WARN, "cache", "%s", err.msg);
		(void)fprintf(stderr, "warning: %s\n  what to do: %s\n", err.msg, err.remedy);
	}
	kt_logfile(KT_LOG_INFO, "crypt",
		   "Rekey complete: %lld items, master key KCV %s to %s, KEK %s (KCV %s) to %s (KCV %s), generation %u",
		   (long long)r->items, kt_keystore_kcv(r->from), kt_keystore_kcv(r->to), r->old_kek.id, r->old_kek.kcv,
		   r->new_kek.id, r->new_kek.kcv, r->new_kek.generation);
	kt_logfile(KT_LOG_INFO, "cache", "The cache is invalid: %zu files removed", r->uncached);
}

/* ---- in shards ---- */

/* The first transaction: what will be done stands in the database, and every worker finds it there. */
static kt_code record_shards(rekey *r, kt_err *err)
{
	kt_kek kek = KT_KEK_INIT;
	kt_db_rekey plan = {.ranges = r->want_ranges, .generation = r->old_kek.generation + 1};
	(void)snprintf(plan.depth, sizeof plan.depth, "%s", r->depth->name);
	kt_code rc = r->depth->kek(r, &kek, &plan.record, err);
	if (rc == KT_OK)
		rc = kt_db_rekey_open(r->db, &plan, err);
	if (rc == KT_OK)
		rc = kt_db_set_epoch(r->db, r->epoch + 1, err);
	kt_kek_free(&kek);
	kt_buf_free(&plan.record);
	return rc;
}

static kt_code open_within(rekey *r, kt_err *err)
{
	KT_TRY(kt_node_gate(r->db, r->cfg->live_window_seconds, err));
	KT_TRY(kt_session_read_kek(r->db, &r->record, &r->old_kek, &r->epoch, err));
	KT_TRY(open_source(r, err));
	KT_TRY(record_shards(r, err));
	return commit(r, err);
}

static kt_code open_shards(rekey *r, kt_err *err)
{
	KT_TRY(kt_db_begin(r->db, true, err));
	kt_code rc = open_within(r, err);
	kt_db_rollback(r->db);
	if (rc == KT_OK)
		kt_logfile(KT_LOG_INFO, "crypt", "Starting rekey in shards (depth %s) from master key KCV %s to %s",
			   r->depth->name, kt_keystore_kcv(r->from), kt_keystore_kcv(r->to));
	return rc;
}

/* What was recorded, and both keys open their KEK. */
static kt_code take_part(rekey *r, kt_db_rekey *plan, kt_err *err)
{
	KT_TRY(find_depth(plan->depth, &r->depth, err));
	kt_buf_clear(&r->record);
	KT_TRY(kt_db_epoch(r->db, &r->epoch, err));
	KT_TRY(kt_db_kek_get(r->db, &r->record, err));
	KT_TRY(kt_kek_inspect(r->record.data, r->record.len, &r->old_kek, err));
	KT_TRY(kt_kek_inspect(plan->record.data, plan->record.len, &r->new_kek, err));
	kt_envelope_ctx_free(r->old_ctx);
	r->old_ctx = NULL;
	kt_code rc = kt_session_unlock(&r->record, r->from, &r->old_ctx, err);
	if (rc != KT_OK)
		return kt_err_prefix(err, rc, "source");
	rc = kt_session_unlock(&plan->record, r->to, &r->new_ctx, err);
	if (rc == KT_OK)
		rc = kt_session_unlock(&plan->record, r->to, &r->shard.fresh, err);
	return rc == KT_OK ? rc : kt_err_prefix(err, rc, "destination");
}

static kt_code join_within(rekey *r, kt_err *err)
{
	kt_db_rekey plan;
	bool open;
	KT_TRY(kt_db_rekey_get(r->db, &plan, &open, err));
	kt_code rc = open ? take_part(r, &plan, err)
			  : kt_fail(err, KT_E_REFUSED,
				    "begin one with --shards; `probe` says whether the data has been turned already",
				    "%s: no rekey in shards is under way", kt_db_name(r->db));
	kt_buf_free(&plan.record);
	if (rc == KT_OK)
		rc = kt_db_item_count(r->db, &r->items, err);
	return rc;
}

static kt_code join_shards(rekey *r, kt_err *err)
{
	KT_TRY(kt_db_begin(r->db, false, err));
	kt_code rc = join_within(r, err);
	kt_db_rollback(r->db);
	return rc;
}

static kt_code work_in_shards(rekey *r, kt_err *err)
{
	if (r->want_ranges)
		KT_TRY(open_shards(r, err));
	KT_TRY(join_shards(r, err));
	r->shard.db = r->db;
	r->shard.edit = r->depth->edit;
	r->shard.arg = r;
	r->shard.head_len = r->depth->head_len;
	r->shard.from = r->depth->from;
	kt_progress_begin(&r->progress, r->depth->doing, r->items);
	KT_TRY(kt_shard_work(&r->shard, err));
	kt_progress_end(&r->progress);
	r->items = r->opened = r->shard.items;
	r->epoch--; /* it went up with the first transaction */
	if (r->shard.ended)
		after_commit(r);
	else
		kt_logfile(KT_LOG_INFO, "crypt",
			   "Rekey in shards: another worker has ended it; %lld ranges were done here",
			   (long long)r->shard.ranges);
	return KT_OK;
}

static kt_code run(rekey *r, kt_err *err)
{
	KT_TRY(kt_db_open(kt_store_place(r->cfg), KT_DB_WRITE, KT_SESSION_BUSY_MS, &r->db, err));
	bool yes;
	KT_TRY(kt_db_initialized(r->db, &yes, err));
	if (!yes)
		return kt_fail(err, KT_E_INPUT, "check the path of the database in store.json",
			       "%s: the database is not initialised: there is nothing to rekey", kt_db_name(r->db));
	bool joins = r->in_shards && !r->want_ranges; /* the gate was passed by who began, and nobody has come since */
	if (!joins)
		KT_TRY(kt_node_gate(r->db, r->cfg->live_window_seconds, err));
	if (!joins)
		KT_TRY(kt_node_watch_stale(r->db, r->cfg->live_window_seconds, err));
	KT_TRY(kt_keys_open(KT_KEYS_SOURCE, &r->from, err));
	KT_TRY(kt_keys_open(KT_KEYS_DESTINATION, &r->to, err));
	if (r->depth->edit)
		KT_TRY(kt_session_stir(r->to, err));
	if (r->in_shards)
		return work_in_shards(r, err);
	KT_TRY(kt_db_begin(r->db, true, err));
	KT_TRY(turn(r, err));
	KT_TRY(commit(r, err));
	after_commit(r);
	return KT_OK;
}

static kt_code add_side(cJSON *o, const char *name, const kt_kek_info *kek, const kt_keystore *cmk, kt_err *err)
{
	cJSON *k = cJSON_CreateObject();
	KT_TRY(kt_json_add(o, name, k, err));
	KT_TRY(kt_json_add_str(k, "kek", kek->id, err));
	KT_TRY(kt_json_add_int(k, "generation", kek->generation, err));
	KT_TRY(kt_json_add_str(k, "kek_kcv", kek->kcv, err));
	KT_TRY(kt_json_add_str(k, "cmk", kt_keystore_uri(cmk), err));
	return kt_json_add_str(k, "cmk_kcv", kek->cmk_kcv, err);
}

static kt_code add_shards(cJSON *o, const kt_shard *shard, kt_err *err)
{
	cJSON *s = cJSON_CreateObject();
	KT_TRY(kt_json_add(o, "shards", s, err));
	KT_TRY(kt_json_add_int(s, "ranges", shard->ranges, err));
	KT_TRY(kt_json_add_int(s, "taken_over", shard->taken_over, err));
	return kt_json_add_bool(s, "ended", shard->ended, err);
}

static kt_code fill_json(cJSON *o, const rekey *r, double seconds, kt_err *err)
{
	if (!o)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	KT_TRY(kt_json_add_str(o, "depth", r->depth->name, err));
	KT_TRY(kt_json_add_int(o, "items", r->items, err));
	KT_TRY(kt_json_add_int(o, "opened", r->opened, err));
	KT_TRY(kt_json_add_int(o, "epoch", r->epoch + 1, err));
	KT_TRY(add_side(o, "old", &r->old_kek, r->from, err));
	KT_TRY(add_side(o, "new", &r->new_kek, r->to, err));
	KT_TRY(kt_json_add_int(o, "cache_files_removed", (int64_t)r->uncached, err));
	if (r->in_shards)
		KT_TRY(add_shards(o, &r->shard, err));
	return kt_json_add(o, "seconds", cJSON_CreateNumber(seconds), err);
}

static kt_code print(const kt_store_args *args, const rekey *r, double seconds, kt_err *err)
{
	if (!args->json)
		return kt_store_print(
			err,
			"rekeyed %lld items (depth %s) in %.2f s%s\n"
			"master key: %s (KCV %s) -> %s (KCV %s)\n"
			"KEK: %s (KCV %s) -> %s (KCV %s), generation %u\n"
			"the on-disk cache is invalid (%zu files removed): expect more load after the start\n",
			(long long)r->items, r->depth->name, seconds,
			r->depth->edit ? ", and every one of them opens with the new key"
				       : "; none of them was touched: `verify` opens them all",
			kt_keystore_uri(r->from), kt_keystore_kcv(r->from), kt_keystore_uri(r->to),
			kt_keystore_kcv(r->to), r->old_kek.id, r->old_kek.kcv, r->new_kek.id, r->new_kek.kcv,
			r->new_kek.generation, r->uncached);
	cJSON *o = cJSON_CreateObject();
	kt_code rc = fill_json(o, r, seconds, err);
	if (rc == KT_OK)
		return kt_store_print_json(o, err);
	cJSON_Delete(o);
	return rc;
}

kt_code kt_verb_rekey(const kt_store_args *args, const kt_store_config *cfg, int *exit_code, kt_err *err)
{
	rekey r = {.cfg = cfg, .in_shards = args->shards || args->join, .want_ranges = args->shards};
	(void)exit_code;
	KT_TRY(find_depth(args->depth, &r.depth, err));
	if (args->shards && !r.depth->edit)
		return kt_fail(err, KT_E_USAGE, "leave --shards out", "with depth cmk there is nothing to share");
	int64_t start = kt_clock_mono_ms();
	KT_TRY(kt_logfile_open(cfg->log, err));
	kt_code rc = kt_node_gate_local(cfg, err);
	if (rc == KT_OK)
		rc = run(&r, err);
	if (rc == KT_OK)
		rc = print(args, &r, (double)(kt_clock_mono_ms() - start) / 1000.0, err);
	else
		kt_logfile(KT_LOG_ERROR, "crypt", "Rekey %s: %s",
			   rc == KT_E_UNKNOWN ? "ended with an unknown outcome"
			   : r.shard.db       ? "in shards broken off (another worker may go on)"
					      : "refused or failed, nothing was changed",
			   err->msg);
	kt_envelope_ctx_free(r.shard.fresh);
	kt_envelope_ctx_free(r.new_ctx);
	kt_envelope_ctx_free(r.old_ctx);
	kt_db_close(r.db);
	kt_buf_free(&r.record);
	kt_keystore_close(r.to);
	kt_keystore_close(r.from);
	kt_logfile_close();
	return rc;
}

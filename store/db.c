/* SPDX-License-Identifier: Apache-2.0 */
#include "store/db.h"

#include <errno.h>
#include <unistd.h>

#include "store/db_backend.h"

kt_code kt_db_open(kt_db_place place, kt_db_mode mode, int busy_ms, kt_db **out, kt_err *err)
{
	kt_db_address address;
	*out = NULL;
	KT_TRY(kt_db_address_load(place, &address, err));
	if (address.server)
		return kt_db_open_mariadb(&address, mode, busy_ms, out, err);
	kt_code rc = kt_db_open_sqlite(address.name, mode, busy_ms, out, err);
	kt_db_address_free(&address);
	return rc;
}

kt_code kt_db_absent(kt_db_place place, bool *absent, kt_err *err)
{
	kt_db_address address;
	*absent = false;
	KT_TRY(kt_db_address_load(place, &address, err));
	kt_code rc = KT_OK;
	if (!address.server && access(address.name, F_OK) != 0) {
		*absent = true;
		if (errno != ENOENT)
			rc = kt_fail_errno(err, errno, NULL, "the database %s", address.name);
	}
	kt_db_address_free(&address);
	return rc;
}

void kt_db_close(kt_db *db)
{
	if (db)
		db->ops->close(db);
}

const char *kt_db_name(const kt_db *db)
{
	return db->name;
}

/* The rest is the back end's. */

kt_code kt_db_begin(kt_db *db, bool write, kt_err *err)
{
	return db->ops->begin(db, write, err);
}

kt_code kt_db_commit(kt_db *db, kt_err *err)
{
	return db->ops->commit(db, err);
}

kt_code kt_db_settle(kt_db *db, kt_err *err)
{
	return db->ops->settle(db, err);
}

void kt_db_rollback(kt_db *db)
{
	db->ops->rollback(db);
}

kt_code kt_db_initialized(kt_db *db, bool *yes, kt_err *err)
{
	return db->ops->initialized(db, yes, err);
}

kt_code kt_db_create_schema(kt_db *db, kt_err *err)
{
	return db->ops->create_schema(db, err);
}

kt_code kt_db_epoch(kt_db *db, int64_t *epoch, kt_err *err)
{
	return db->ops->epoch(db, epoch, err);
}

kt_code kt_db_set_epoch(kt_db *db, int64_t epoch, kt_err *err)
{
	return db->ops->set_epoch(db, epoch, err);
}

kt_code kt_db_kek_get(kt_db *db, kt_buf *record, kt_err *err)
{
	return db->ops->kek_get(db, record, err);
}

kt_code kt_db_kek_replace(kt_db *db, uint32_t generation, const kt_buf *record, kt_err *err)
{
	return db->ops->kek_replace(db, generation, record, err);
}

kt_code kt_db_has_kek(kt_db *db, bool *yes, kt_err *err)
{
	return db->ops->has_kek(db, yes, err);
}

kt_code kt_db_legacy_get(kt_db *db, kt_secret *key, bool *legacy, kt_err *err)
{
	return db->ops->legacy_get(db, key, legacy, err);
}

kt_code kt_db_legacy_drop(kt_db *db, kt_err *err)
{
	return db->ops->legacy_drop(db, err);
}

kt_code kt_db_item_get(kt_db *db, const char *name, kt_buf *envelope, int64_t *version, bool *found, kt_err *err)
{
	return db->ops->item_get(db, name, envelope, version, found, err);
}

kt_code kt_db_item_put(kt_db *db, const char *name, const kt_buf *envelope, kt_err *err)
{
	return db->ops->item_put(db, name, envelope, err);
}

kt_code kt_db_item_count(kt_db *db, int64_t *count, kt_err *err)
{
	return db->ops->item_count(db, count, err);
}

kt_code kt_db_item_each(kt_db *db, kt_db_span *span, kt_db_item_fn *fn, void *arg, kt_err *err)
{
	return db->ops->item_each(db, span, fn, arg, err);
}

kt_code kt_db_item_names(kt_db *db, kt_db_item_fn *fn, void *arg, kt_err *err)
{
	return db->ops->item_names(db, fn, arg, err);
}

kt_code kt_db_item_edit(kt_db *db, kt_db_span *span, size_t head_len, size_t from, kt_db_edit_fn *fn, void *arg,
			int64_t *count, kt_err *err)
{
	return db->ops->item_edit(db, span, head_len, from, fn, arg, count, err);
}

kt_code kt_db_item_convert(kt_db *db, int64_t *after, int64_t limit, kt_db_convert_fn *fn, void *arg, int64_t *seen,
			   kt_err *err)
{
	return db->ops->item_convert(db, after, limit, fn, arg, seen, err);
}

kt_code kt_db_node_put(kt_db *db, const kt_db_node *node, kt_err *err)
{
	return db->ops->node_put(db, node, err);
}

kt_code kt_db_node_beat(kt_db *db, const char *name, int64_t pid, int64_t now_ms, bool *known, kt_err *err)
{
	return db->ops->node_beat(db, name, pid, now_ms, known, err);
}

kt_code kt_db_node_remove(kt_db *db, const char *name, int64_t pid, kt_err *err)
{
	return db->ops->node_remove(db, name, pid, err);
}

kt_code kt_db_node_each(kt_db *db, kt_db_node_fn *fn, void *arg, kt_err *err)
{
	return db->ops->node_each(db, fn, arg, err);
}

kt_code kt_db_client_each(kt_db *db, kt_db_client_fn *fn, void *arg, kt_err *err)
{
	return db->ops->client_each(db, fn, arg, err);
}

kt_code kt_db_rekey_get(kt_db *db, kt_db_rekey *out, bool *open, kt_err *err)
{
	return db->ops->rekey_get(db, out, open, err);
}

kt_code kt_db_rekey_open(kt_db *db, const kt_db_rekey *rekey, kt_err *err)
{
	return db->ops->rekey_open(db, rekey, err);
}

kt_code kt_db_rekey_close(kt_db *db, kt_err *err)
{
	return db->ops->rekey_close(db, err);
}

kt_code kt_db_range_claim(kt_db *db, const char *worker, int64_t lease_ms, kt_db_range *range, bool *got, kt_err *err)
{
	return db->ops->range_claim(db, worker, lease_ms, range, got, err);
}

kt_code kt_db_range_begin(kt_db *db, kt_db_range *range, bool *ours, kt_err *err)
{
	return db->ops->range_begin(db, range, ours, err);
}

kt_code kt_db_range_save(kt_db *db, const kt_db_range *range, int64_t lease_ms, bool done, kt_err *err)
{
	return db->ops->range_save(db, range, lease_ms, done, err);
}

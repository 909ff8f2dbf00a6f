/* SPDX-License-Identifier: Apache-2.0 */
/* What a back end of store/db.h has to do: a function for each of its calls, which say there what is meant. */
#ifndef KT_STORE_DB_BACKEND_H
#define KT_STORE_DB_BACKEND_H

#include "store/address.h"
#include "store/db.h"

typedef struct kt_db_ops {
	void (*close)(kt_db *db); /* ends an open transaction, frees all of the handle */
	kt_code (*begin)(kt_db *db, bool write, kt_err *err);
	kt_code (*commit)(kt_db *db, kt_err *err);
	kt_code (*settle)(kt_db *db, kt_err *err);
	void (*rollback)(kt_db *db);
	kt_code (*initialized)(kt_db *db, bool *yes, kt_err *err);
	kt_code (*create_schema)(kt_db *db, kt_err *err);
	kt_code (*epoch)(kt_db *db, int64_t *epoch, kt_err *err);
	kt_code (*set_epoch)(kt_db *db, int64_t epoch, kt_err *err);
	kt_code (*kek_get)(kt_db *db, kt_buf *record, kt_err *err);
	kt_code (*kek_replace)(kt_db *db, uint32_t generation, const kt_buf *record, kt_err *err);
	kt_code (*has_kek)(kt_db *db, bool *yes, kt_err *err);
	kt_code (*legacy_get)(kt_db *db, kt_secret *key, bool *legacy, kt_err *err);
	kt_code (*legacy_drop)(kt_db *db, kt_err *err);
	kt_code (*item_get)(kt_db *db, const char *name, kt_buf *envelope, int64_t *version, bool *found, kt_err *err);
	kt_code (*item_put)(kt_db *db, const char *name, const kt_buf *envelope, kt_err *err);
	kt_code (*item_count)(kt_db *db, int64_t *count, kt_err *err);
	kt_code (*item_each)(kt_db *db, kt_db_span *span, kt_db_item_fn *fn, void *arg, kt_err *err);
	kt_code (*item_names)(kt_db *db, kt_db_item_fn *fn, void *arg, kt_err *err);
	kt_code (*item_edit)(kt_db *db, kt_db_span *span, size_t head_len, size_t from, kt_db_edit_fn *fn, void *arg,
			     int64_t *count, kt_err *err);
	kt_code (*item_convert)(kt_db *db, int64_t *after, int64_t limit, kt_db_convert_fn *fn, void *arg,
				int64_t *seen, kt_err *err);
	kt_code (*node_put)(kt_db *db, const kt_db_node *node, kt_err *err);
	kt_code (*node_beat)(kt_db *db, const char *name, int64_t pid, int64_t now_ms, bool *known, kt_err *err);
	kt_code (*node_remove)(kt_db *db, const char *name, int64_t pid, kt_err *err);
	kt_code (*node_each)(kt_db *db, kt_db_node_fn *fn, void *arg, kt_err *err);
	kt_code (*rekey_get)(kt_db *db, kt_db_rekey *out, bool *open, kt_err *err);
	kt_code (*rekey_open)(kt_db *db, const kt_db_rekey *rekey, kt_err *err);
	kt_code (*rekey_close)(kt_db *db, kt_err *err);
	kt_code (*range_claim)(kt_db *db, const char *worker, int64_t lease_ms, kt_db_range *range, bool *got,
			       kt_err *err);
	kt_code (*range_begin)(kt_db *db, kt_db_range *range, bool *ours, kt_err *err);
	kt_code (*range_save)(kt_db *db, const kt_db_range *range, int64_t lease_ms, bool done, kt_err *err);
	kt_code (*client_each)(kt_db *db, kt_db_client_fn *fn, void *arg, kt_err *err);
} kt_db_ops;

/* A back end's handle begins with this. Both are set by its open function; close frees the name. */
struct kt_db {
	const kt_db_ops *ops;
	char *name;
};

/* *out is set on success alone. The second takes the address over, also when it fails. */
KT_MUST_CHECK kt_code kt_db_open_sqlite(const char *path, kt_db_mode mode, int busy_ms, kt_db **out, kt_err *err);
KT_MUST_CHECK kt_code kt_db_open_mariadb(kt_db_address *address, kt_db_mode mode, int busy_ms, kt_db **out,
					 kt_err *err);

#endif

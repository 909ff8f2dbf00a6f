/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store's database on a MariaDB or MySQL server: its tables, what is there once, and the handle. It and mariadb_*.c
 * are the only places that call the client library, by one header (store/mariadb.h).
 */
#include <mysqld_error.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/mariadb.h"

enum { SCHEMA_VERSION = 1 };

/* In the order in which they are made: whoever finds the last one finds all. */
static const char *const tables[] = {
	"CREATE TABLE IF NOT EXISTS keyturn_kek(generation BIGINT PRIMARY KEY, record BLOB NOT NULL) ENGINE=InnoDB",
	"CREATE TABLE IF NOT EXISTS keyturn_item(id BIGINT AUTO_INCREMENT PRIMARY KEY, name VARBINARY(512) NOT NULL "
	"UNIQUE,"
	" version BIGINT NOT NULL, envelope LONGBLOB NOT NULL) ENGINE=InnoDB",
	"CREATE TABLE IF NOT EXISTS keyturn_node(name VARBINARY(255) PRIMARY KEY, host VARBINARY(255) NOT NULL,"
	" home VARBINARY(4096) NOT NULL, pid BIGINT NOT NULL, address VARBINARY(255) NOT NULL, started_ms BIGINT NOT "
	"NULL,"
	" heartbeat_ms BIGINT NOT NULL, interval_ms BIGINT NOT NULL, beats BIGINT NOT NULL) ENGINE=InnoDB",
	"CREATE TABLE IF NOT EXISTS keyturn_legacy(id INT PRIMARY KEY, secret VARBINARY(64) NOT NULL) ENGINE=InnoDB",
	"CREATE TABLE IF NOT EXISTS keyturn_rekey(id INT PRIMARY KEY, depth VARBINARY(8) NOT NULL, generation BIGINT "
	"NOT NULL,"
	" record BLOB NOT NULL) ENGINE=InnoDB",
	"CREATE TABLE IF NOT EXISTS keyturn_range(id BIGINT PRIMARY KEY, first_id BIGINT NOT NULL, after_id BIGINT NOT "
	"NULL,"
	" upto_id BIGINT NOT NULL, fence BIGINT NOT NULL, lease_ms BIGINT NOT NULL, items BIGINT NOT NULL, done INT "
	"NOT NULL,"
	" worker VARBINARY(255) NOT NULL) ENGINE=InnoDB",
	"CREATE TABLE IF NOT EXISTS keyturn_meta(name VARBINARY(64) PRIMARY KEY, value BIGINT NOT NULL) ENGINE=InnoDB",
	"INSERT IGNORE INTO keyturn_meta VALUES('lock', 0)",
};

/* ---- meta, KEK, legacy key ---- */

static kt_code get_meta(kt_mariadb *db, const char *name, int64_t *out, bool *found, kt_err *err)
{
	int rows;
	KT_TRY(kt_mariadb_one_row(db, META, VALUES(text(name)), "the database cannot be read", &rows, err));
	*found = rows == 1;
	*out = db->row[0].number;
	return KT_OK;
}

static kt_code set_meta(kt_mariadb *db, const char *name, int64_t to, kt_err *err)
{
	return kt_mariadb_change(db, SET_META, VALUES(text(name), number(to)), "the database cannot be written", NULL,
				 err);
}

static kt_code server_initialized(kt_db *base, bool *yes, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(base);
	int64_t version;
	*yes = false;
	kt_err why = KT_ERR_INIT;
	kt_code rc = get_meta(db, "schema", &version, yes, &why);
	if (rc == KT_E_INPUT && db->code == ER_NO_SUCH_TABLE)
		return KT_OK;
	if (rc != KT_OK)
		return kt_fail(err, rc, why.remedy, "%s", why.msg);
	if (*yes && version != SCHEMA_VERSION) {
		*yes = false;
		return kt_fail(err, KT_E_INPUT, "use the keyturn-store that wrote it, or a newer one",
			       "%s: version %lld of the database is not known", db->base.name, (long long)version);
	}
	return KT_OK;
}

static kt_code server_create_schema(kt_db *base, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(base);
	KT_TRY(set_meta(db, "epoch", 1, err));
	return set_meta(db, "schema", SCHEMA_VERSION, err);
}

static kt_code server_epoch(kt_db *base, int64_t *epoch, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(base);
	bool found;
	KT_TRY(get_meta(db, "epoch", epoch, &found, err));
	return found ? KT_OK : kt_mariadb_damaged(db, "the epoch is missing", err);
}

static kt_code server_set_epoch(kt_db *base, int64_t epoch, kt_err *err)
{
	return set_meta(kt_mariadb_of(base), "epoch", epoch, err);
}

static kt_code server_kek_get(kt_db *base, kt_buf *record, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(base);
	int rows;
	KT_TRY(kt_mariadb_one_row(db, KEK_GET, NO_VALUES, "the KEK record cannot be read", &rows, err));
	if (rows != 1)
		return kt_mariadb_damaged(db, rows ? "there is more than one KEK record" : "there is no KEK record",
					  err);
	return kt_buf_append(record, db->row[0].bytes.data, db->row[0].bytes.len, err);
}

static kt_code server_kek_replace(kt_db *base, uint32_t generation, const kt_buf *record, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(base);
	KT_TRY(kt_mariadb_change(db, KEK_CLEAR, NO_VALUES, "the old KEK record cannot be removed", NULL, err));
	return kt_mariadb_change(db, KEK_PUT, VALUES(number(generation), bytes(record->data, record->len)),
				 "the KEK record cannot be written", NULL, err);
}

static kt_code server_has_kek(kt_db *base, bool *yes, kt_err *err)
{
	int rows;
	kt_code rc = kt_mariadb_one_row(kt_mariadb_of(base), KEK_GET, NO_VALUES, "the KEK record cannot be read", &rows,
					err);
	*yes = rows > 0;
	return rc;
}

static kt_code server_legacy_get(kt_db *base, kt_secret *key, bool *legacy, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(base);
	int rows;
	kt_buf *bytes_of = &db->row[0].bytes;
	*legacy = false;
	kt_code rc = kt_mariadb_one_row(db, LEGACY_GET, NO_VALUES, "the legacy key cannot be read", &rows, err);
	*legacy = rc == KT_OK && rows > 0;
	if (*legacy && (rows > 1 || bytes_of->len == 0))
		rc = kt_mariadb_damaged(db, "the table keyturn_legacy does not hold one key", err);
	else if (*legacy && key)
		rc = kt_secret_copy(key, bytes_of->data, bytes_of->len, err);
	if (bytes_of->data)
		OPENSSL_cleanse(bytes_of->data, bytes_of->cap);
	return rc;
}

static kt_code server_legacy_drop(kt_db *base, kt_err *err)
{
	return kt_mariadb_change(kt_mariadb_of(base), LEGACY_DROP, NO_VALUES, "the legacy key cannot be removed", NULL,
				 err);
}

/* ---- opening ---- */

static void server_close(kt_db *base)
{
	kt_mariadb *db = kt_mariadb_of(base);
	kt_mariadb_disconnect(db);
	for (size_t i = 0; i < COLUMNS; i++)
		kt_buf_free(&db->row[i].bytes);
	kt_db_address_free(&db->address);
	free(db->base.name);
	free(db);
}

/* DDL commits by itself, so it comes before any transaction; all of it may be done again, and by two at once. */
static kt_code make_tables(kt_mariadb *db, kt_err *err)
{
	int64_t ignored;
	bool found;
	kt_err why = KT_ERR_INIT;
	kt_code rc = get_meta(db, "lock", &ignored, &found, &why);
	if (rc == KT_OK && found)
		return KT_OK;
	if (rc != KT_OK && rc != KT_E_INPUT)
		return kt_fail(err, rc, why.remedy, "%s", why.msg);
	for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++)
		KT_TRY(kt_mariadb_run(db, tables[i], "the tables cannot be made", err));
	return KT_OK;
}

static const kt_db_ops ops = {
	.close = server_close,
	.begin = kt_mariadb_begin,
	.commit = kt_mariadb_commit,
	.settle = kt_mariadb_settle,
	.rollback = kt_mariadb_rollback,
	.initialized = server_initialized,
	.create_schema = server_create_schema,
	.epoch = server_epoch,
	.set_epoch = server_set_epoch,
	.kek_get = server_kek_get,
	.kek_replace = server_kek_replace,
	.has_kek = server_has_kek,
	.legacy_get = server_legacy_get,
	.legacy_drop = server_legacy_drop,
	.item_get = kt_mariadb_item_get,
	.item_put = kt_mariadb_item_put,
	.item_count = kt_mariadb_item_count,
	.item_each = kt_mariadb_item_each,
	.item_names = kt_mariadb_item_names,
	.item_edit = kt_mariadb_item_edit,
	.item_convert = kt_mariadb_item_convert,
	.node_put = kt_mariadb_node_put,
	.node_beat = kt_mariadb_node_beat,
	.node_remove = kt_mariadb_node_remove,
	.node_each = kt_mariadb_node_each,
	.rekey_get = kt_mariadb_rekey_get,
	.rekey_open = kt_mariadb_rekey_open,
	.rekey_close = kt_mariadb_rekey_close,
	.range_claim = kt_mariadb_range_claim,
	.range_begin = kt_mariadb_range_begin,
	.range_save = kt_mariadb_range_save,
	.client_each = kt_mariadb_client_each,
};

kt_code kt_db_open_mariadb(kt_db_address *address, kt_db_mode mode, int busy_ms, kt_db **out, kt_err *err)
{
	kt_mariadb *db = calloc(1, sizeof *db);
	if (!db || !(db->base.name = strdup(address->name))) {
		free(db);
		kt_db_address_free(address);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	db->base.ops = &ops;
	db->address = *address;
	*address = (kt_db_address){0};
	db->busy_ms = busy_ms;
	kt_code rc = kt_mariadb_connect_once(db, err);
	if (rc == KT_OK && mode == KT_DB_CREATE)
		rc = make_tables(db, err);
	if (rc == KT_OK)
		*out = &db->base;
	else
		server_close(&db->base);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The link to a MariaDB or MySQL server: errors, connection, statements, transactions.
 *
 * Every writing transaction takes the row `lock` of keyturn_meta first: so there is one writer at a time, as with
 * SQLite, and what a lost connection was committing has ended when the next one has the lock. Statements are prepared;
 * values never stand in SQL. The password is given to the library for the connect alone, and wiped there.
 */
#include <errmsg.h>
#include <mysqld_error.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "store/mariadb.h"

enum {
	CONNECT_S = 10,
	ANSWER_S = 120, /* the longest that a single statement may take */
	RETRY_MS = 200, /* between attempts to come back to a server */
	NAME_MAX_LEN = 512
};

#define NOW_MS "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)" /* by the server's clock */

/* `result`: a letter for each column of the result, i for an integer, b for bytes. */
static const struct {
	const char *text, *result;
} sql[STATEMENTS] = {
	[LOCK] = {"SELECT value FROM keyturn_meta WHERE name='lock' FOR UPDATE", "i"},
	[SETTLE] = {"SELECT value FROM keyturn_meta WHERE name='lock' LOCK IN SHARE MODE", "i"},
	[META] = {"SELECT value FROM keyturn_meta WHERE name=?", "i"},
	[SET_META] = {"INSERT INTO keyturn_meta VALUES(?, ?) ON DUPLICATE KEY UPDATE value=VALUES(value)", ""},
	[KEK_GET] = {"SELECT record FROM keyturn_kek", "b"},
	[KEK_CLEAR] = {"DELETE FROM keyturn_kek", ""},
	[KEK_PUT] = {"INSERT INTO keyturn_kek VALUES(?, ?)", ""},
	[LEGACY_GET] = {"SELECT secret FROM keyturn_legacy", "b"},
	[LEGACY_DROP] = {"DELETE FROM keyturn_legacy", ""},
	[ITEM_GET] = {"SELECT version, IF(?, envelope, '') FROM keyturn_item WHERE name=?", "ib"},
	[ITEM_PUT] = {"INSERT INTO keyturn_item(name, version, envelope) VALUES(?, 1, ?)"
		      " ON DUPLICATE KEY UPDATE version=version+1, envelope=VALUES(envelope)",
		      ""},
	[ITEM_COUNT] = {"SELECT COUNT(*) FROM keyturn_item", "i"},
	[ITEM_EACH] = {"SELECT id, name, envelope FROM keyturn_item WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
		       "ibb"},
	[ITEM_NAMES] = {"SELECT id, name FROM keyturn_item ORDER BY id", "ib"},
	[ITEM_HEADS] = {"SELECT id, name, SUBSTRING(envelope, 1, ?), LENGTH(envelope) FROM keyturn_item"
			" WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
			"ibbi"},
	[ITEM_WHOLE] = {"SELECT id, name, envelope, LENGTH(envelope) FROM keyturn_item"
			" WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
			"ibbi"},
	[ITEM_AFTER] =
		{"SELECT id, name, envelope, LENGTH(envelope) FROM keyturn_item WHERE id > ? ORDER BY id LIMIT ?",
		 "ibbi"},
	[ITEM_EDIT] = {"UPDATE keyturn_item SET envelope=INSERT(envelope, ?, ?, ?) WHERE id=?", ""},
	[ITEM_WRITE] = {"UPDATE keyturn_item SET envelope=? WHERE id=?", ""},
	[ITEM_REPLACE] = {"UPDATE keyturn_item SET envelope=?, version=version+1 WHERE id=?", ""},
	[NODE_PUT] = {"REPLACE INTO keyturn_node VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)", ""},
	[NODE_BEAT] = {"UPDATE keyturn_node SET heartbeat_ms=?, beats=beats+1 WHERE name=? AND pid=?", ""},
	[NODE_REMOVE] = {"DELETE FROM keyturn_node WHERE name=? AND pid=?", ""},
	[NODE_EACH] = {"SELECT name, host, home, pid, address, started_ms, heartbeat_ms, interval_ms, beats"
		       " FROM keyturn_node ORDER BY name",
		       "bbbibiiii"},
	[REKEY_GET] = {"SELECT depth, generation, record FROM keyturn_rekey", "bib"},
	[REKEY_PUT] = {"INSERT INTO keyturn_rekey VALUES(1, ?, ?, ?)", ""},
	[REKEY_CLEAR] = {"DELETE FROM keyturn_rekey", ""},
	[RANGES] = {"SELECT COUNT(*), IFNULL(SUM(done), 0), IFNULL(SUM(IF(done, items, 0)), 0) FROM keyturn_range",
		    "iii"},
	[ROWS] = {"SELECT COUNT(*), IFNULL(MIN(id), 0), IFNULL(MAX(id), 0) FROM keyturn_item", "iii"},
	[RANGE_PUT] = {"INSERT INTO keyturn_range VALUES(?, ?, ?, ?, 0, 0, 0, 0, '')", ""},
	[RANGE_CLEAR] = {"DELETE FROM keyturn_range", ""},
	[RANGE_FREE] = {"SELECT id, fence, first_id, after_id, upto_id, items FROM keyturn_range WHERE done=0 AND "
			"lease_ms < " NOW_MS " ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED",
			"iiiiii"},
	[RANGE_CLAIM] = {"UPDATE keyturn_range SET fence=fence+1, worker=?, lease_ms=" NOW_MS "+? WHERE id=?", ""},
	[RANGE_LOCK] = {"SELECT after_id, items FROM keyturn_range WHERE id=? AND fence=? AND done=0 FOR UPDATE", "ii"},
	[RANGE_SAVE] = {"UPDATE keyturn_range SET after_id=?, items=?, done=?, lease_ms=" NOW_MS "+? WHERE id=?", ""},
	[PRIVILEGE] =
		{"SELECT CURRENT_USER(), COUNT(*) FROM information_schema.user_privileges"
		 " WHERE privilege_type='PROCESS' AND grantee=CONCAT('''', SUBSTRING_INDEX(CURRENT_USER(), '@', 1),"
		 " '''@''', SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''')",
		 "bi"},
	[CLIENTS] = {"SELECT id, user, host, command FROM information_schema.processlist"
		     " WHERE db=DATABASE() AND id<>CONNECTION_ID() ORDER BY id",
		     "ibbb"},
};

/* ---- errors ---- */

static bool is_lost(unsigned code)
{
	switch (code) {
	case CR_SERVER_GONE_ERROR:
	case CR_SERVER_LOST:
	case CR_SERVER_LOST_EXTENDED:
	case CR_SERVER_HANDSHAKE_ERR:
	case CR_ERR_NET_READ:
	case CR_ERR_NET_WRITE:
	case CR_MALFORMED_PACKET: /* the answer ends too early */
	case CR_STMT_CLOSED:
	case CR_NO_PREPARE_STMT: /* the library has closed what was prepared on it */
	case ER_SERVER_SHUTDOWN:
	case ER_CONNECTION_KILLED:
	case ER_NORMAL_SHUTDOWN:
		return true;
	default:
		return false;
	}
}

typedef struct meaning {
	unsigned code;
	kt_code class;
	const char *remedy;
} meaning;

static const meaning meanings[] = {
	{ER_LOCK_DEADLOCK, KT_E_BUSY, "the server has rolled the transaction back: run it again"},
	{ER_LOCK_WAIT_TIMEOUT, KT_E_BUSY, "another process is using the database: try again when it has finished"},
	{ER_CON_COUNT_ERROR, KT_E_UNREACHABLE, "raise max_connections, or end what is connected"},
	{ER_TOO_MANY_USER_CONNECTIONS, KT_E_UNREACHABLE, "raise the user's MAX_USER_CONNECTIONS"},
	{CR_CONNECTION_ERROR, KT_E_UNREACHABLE, "check that the server runs, and the socket's path"},
	{CR_CONN_HOST_ERROR, KT_E_UNREACHABLE, "check that the server runs, host and port"},
	{CR_UNKNOWN_HOST, KT_E_UNREACHABLE, "check the host"},
	{CR_SSL_CONNECTION_ERROR, KT_E_UNREACHABLE, "check ssl and ssl_ca, and the server's certificate and its name"},
	{ER_ACCESS_DENIED_ERROR, KT_E_IO, "check username and password"},
	{ER_DBACCESS_DENIED_ERROR, KT_E_IO, "GRANT the user all privileges on the database"},
	{ER_TABLEACCESS_DENIED_ERROR, KT_E_IO, "GRANT the user all privileges on the database"},
	{ER_SPECIFIC_ACCESS_DENIED_ERROR, KT_E_IO, "GRANT the user the privilege that is named"},
	{ER_BAD_DB_ERROR, KT_E_INPUT, "check the name, or CREATE DATABASE; its tables are made by `start`"},
	{ER_NO_SUCH_TABLE, KT_E_INPUT, "check the name of the database; its tables are made by `start`"},
	{ER_BAD_FIELD_ERROR, KT_E_INPUT, "the tables are not those of this keyturn-store"},
	{ER_NET_PACKET_TOO_LARGE, KT_E_INPUT, "raise the server's max_allowed_packet"},
	{CR_NET_PACKET_TOO_LARGE, KT_E_INPUT, "raise max_allowed_packet"},
	{ER_DISK_FULL, KT_E_IO, "free space on the server's file system and try again"},
	{ER_RECORD_FILE_FULL, KT_E_IO, "free space on the server's file system and try again"},
	{ER_OPTION_PREVENTS_STATEMENT, KT_E_IO, "the server is read-only: name the primary"},
	{CR_OUT_OF_MEMORY, KT_E_INTERNAL, NULL},
};

static kt_code explain(kt_mariadb *db, unsigned code, const char *why, const char *what, kt_err *err)
{
	db->code = code;
	if (is_lost(code)) {
		db->broken = true;
		return kt_fail(
			err, KT_E_UNREACHABLE,
			db->in_transaction
				? "the server rolls back what was not committed: run it again when the server answers"
				: "run it again when the server answers",
			"%s: %s: the connection to the server was lost: %s", db->base.name, what, why);
	}
	for (size_t i = 0; i < sizeof meanings / sizeof meanings[0]; i++)
		if (meanings[i].code == code)
			return kt_fail(err, meanings[i].class, meanings[i].remedy, "%s: %s: %s (error %u)",
				       db->base.name, what, why, code);
	return kt_fail(err, KT_E_IO, NULL, "%s: %s: %s (error %u)", db->base.name, what, why, code);
}

kt_code kt_mariadb_failed(kt_mariadb *db, const char *what, kt_err *err)
{
	return explain(db, mysql_errno(db->my), mysql_error(db->my), what, err);
}

/* Where a connection is lost between two rows, the library leaves the reason with the connection alone. */
kt_code kt_mariadb_statement_failed(kt_mariadb *db, MYSQL_STMT *s, const char *what, kt_err *err)
{
	if (mysql_stmt_errno(s) == 0)
		return kt_mariadb_failed(db, what, err);
	return explain(db, mysql_stmt_errno(s), mysql_stmt_error(s), what, err);
}

kt_code kt_mariadb_damaged(const kt_mariadb *db, const char *what, kt_err *err)
{
	return kt_fail(err, KT_E_INPUT, "restore the database from a backup", "%s: %s", db->base.name, what);
}

/* ---- the connection ---- */

void kt_mariadb_disconnect(kt_mariadb *db)
{
	for (size_t i = 0; i < STATEMENTS; i++) {
		if (db->prepared[i])
			(void)mysql_stmt_close(db->prepared[i]);
		db->prepared[i] = NULL;
	}
	if (db->my)
		mysql_close(db->my);
	db->my = NULL;
	db->broken = db->in_transaction = false;
}

/* What a server may ask of us: passwords as digests of it alone, and no file of this machine. */
static bool set_options(MYSQL *my, const kt_db_address *a)
{
	unsigned connect_s = CONNECT_S, answer_s = ANSWER_S, no = 0;
	unsigned by = a->socket ? MYSQL_PROTOCOL_SOCKET : MYSQL_PROTOCOL_TCP; /* also where the host is "localhost" */
	my_bool yes = 1;
	bool good = mysql_options(my, MYSQL_OPT_PROTOCOL, &by) == 0 &&
		    mysql_options(my, MYSQL_OPT_CONNECT_TIMEOUT, &connect_s) == 0 &&
		    mysql_options(my, MYSQL_OPT_READ_TIMEOUT, &answer_s) == 0 &&
		    mysql_options(my, MYSQL_OPT_WRITE_TIMEOUT, &answer_s) == 0 &&
		    mysql_options(my, MYSQL_OPT_LOCAL_INFILE, &no) == 0 &&
		    mysql_options(my, MYSQL_SET_CHARSET_NAME, "utf8mb4") == 0 &&
		    mysql_options(my, MARIADB_OPT_RESTRICTED_AUTH,
				  "mysql_native_password,client_ed25519,caching_sha2_password,sha256_password") == 0;
	if (good && a->ssl)
		good = mysql_options(my, MYSQL_OPT_SSL_ENFORCE, &yes) == 0 &&
		       mysql_options(my, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &yes) == 0 &&
		       (!a->ssl_ca || mysql_options(my, MYSQL_OPT_SSL_CA, a->ssl_ca) == 0);
	return good;
}

static kt_code set_session(kt_mariadb *db, kt_err *err)
{
	char set[160];
	int wait_s = (db->busy_ms + 999) / 1000;
	unsigned long more = 0;
	(void)snprintf(set, sizeof set,
		       "SET SESSION sql_mode='STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', autocommit=1,"
		       " innodb_lock_wait_timeout=%d",
		       wait_s > 0 ? wait_s : 1);
	if (mysql_query(db->my, set) != 0 ||
	    mysql_query(db->my, "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ") != 0)
		return kt_mariadb_failed(db, "the session cannot be set up", err);
	db->bulk = mariadb_get_infov(db->my, MARIADB_CONNECTION_EXTENDED_SERVER_CAPABILITIES, &more) == 0 &&
		   (more & (unsigned long)(MARIADB_CLIENT_STMT_BULK_OPERATIONS >> 32)) != 0;
	return KT_OK;
}

kt_code kt_mariadb_connect_once(kt_mariadb *db, kt_err *err)
{
	const kt_db_address *a = &db->address;
	kt_mariadb_disconnect(db);
	db->my = mysql_init(NULL);
	if (!db->my || !set_options(db->my, a))
		return kt_fail(err, KT_E_INTERNAL, NULL, "%s: the client library cannot be set up", db->base.name);
	MYSQL *up = mysql_real_connect(db->my, a->socket ? "localhost" : a->host, a->user,
				       a->password.len ? (const char *)a->password.data : NULL, a->database,
				       (unsigned)a->port, a->socket, CLIENT_FOUND_ROWS);
	if (db->my->passwd)
		OPENSSL_cleanse(db->my->passwd, strlen(db->my->passwd));
	kt_code rc = up ? set_session(db, err) : kt_mariadb_failed(db, "no connection to the server", err);
	if (rc != KT_OK)
		kt_mariadb_disconnect(db);
	return rc;
}

static void pause_ms(int ms)
{
	struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
	while (nanosleep(&left, &left) != 0)
		;
}

/* Outside of a transaction a lost connection is made anew, for as long as a lock would be waited for: nothing of ours
 * is under way. */
kt_code kt_mariadb_ensure(kt_mariadb *db, kt_err *err)
{
	if (db->in_transaction || (db->my && !db->broken))
		return KT_OK;
	int64_t until = kt_clock_mono_ms() + db->busy_ms;
	for (;;) {
		kt_code rc = kt_mariadb_connect_once(db, err);
		if (rc != KT_E_UNREACHABLE || kt_clock_mono_ms() >= until)
			return rc;
		pause_ms(RETRY_MS);
	}
}

/* ---- statements ---- */

kt_code kt_mariadb_prepare(kt_mariadb *db, statement which, MYSQL_STMT **out, kt_err *err)
{
	*out = db->prepared[which];
	if (*out)
		return KT_OK;
	MYSQL_STMT *s = mysql_stmt_init(db->my);
	if (!s)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (mysql_stmt_prepare(s, sql[which].text, strlen(sql[which].text)) != 0) {
		kt_code rc = kt_mariadb_statement_failed(db, s, "a query cannot be prepared", err);
		(void)mysql_stmt_close(s);
		return rc;
	}
	*out = db->prepared[which] = s;
	return KT_OK;
}

static void bind_value(MYSQL_BIND *b, const value *v)
{
	*b = (MYSQL_BIND){.buffer_type = v->bytes ? MYSQL_TYPE_LONG_BLOB : MYSQL_TYPE_LONGLONG,
			  .buffer = v->bytes ? (void *)(uintptr_t)v->bytes : (void *)(uintptr_t)&v->number,
			  .buffer_length = (unsigned long)v->n};
}

static kt_code bind_row(kt_mariadb *db, MYSQL_STMT *s, const char *types, const char *what, kt_err *err)
{
	MYSQL_BIND b[COLUMNS];
	memset(b, 0, sizeof b);
	for (size_t i = 0; types[i]; i++) {
		cell *c = &db->row[i];
		b[i].is_null = &c->null;
		b[i].length = &c->len;
		b[i].error = &c->cut;
		b[i].buffer_type = types[i] == 'i' ? MYSQL_TYPE_LONGLONG : MYSQL_TYPE_LONG_BLOB;
		if (types[i] == 'b')
			KT_TRY(kt_buf_room(&c->bytes, NAME_MAX_LEN, err));
		b[i].buffer = types[i] == 'i' ? (void *)&c->number : (void *)c->bytes.data;
		b[i].buffer_length = types[i] == 'i' ? sizeof c->number : (unsigned long)c->bytes.cap;
	}
	return mysql_stmt_bind_result(s, b) == 0 ? KT_OK : kt_mariadb_statement_failed(db, s, what, err);
}

/* Carry a statement out; its rows come by next_row(), and end_rows() must follow where it has any. */
kt_code kt_mariadb_execute(kt_mariadb *db, statement which, const value *in, size_t n, const char *what,
			   MYSQL_STMT **out, kt_err *err)
{
	MYSQL_BIND b[COLUMNS];
	KT_TRY(kt_mariadb_ensure(db, err));
	KT_TRY(kt_mariadb_prepare(db, which, out, err));
	for (size_t i = 0; i < n; i++)
		bind_value(&b[i], &in[i]);
	if ((n && mysql_stmt_bind_param(*out, b) != 0) || mysql_stmt_execute(*out) != 0)
		return kt_mariadb_statement_failed(db, *out, what, err);
	return sql[which].result[0] ? bind_row(db, *out, sql[which].result, what, err) : KT_OK;
}

/* A column that was longer than its buffer is fetched again into a larger one, which the next rows have, too. */
static kt_code fetch_long(kt_mariadb *db, MYSQL_STMT *s, const char *types, kt_err *err)
{
	bool grown = false;
	for (unsigned i = 0; types[i]; i++) {
		cell *c = &db->row[i];
		if (types[i] != 'b' || c->len <= c->bytes.cap)
			continue;
		KT_TRY(kt_buf_reserve(&c->bytes, c->len, err));
		MYSQL_BIND b = {.buffer_type = MYSQL_TYPE_LONG_BLOB,
				.buffer = c->bytes.data,
				.buffer_length = (unsigned long)c->bytes.cap,
				.length = &c->len,
				.is_null = &c->null,
				.error = &c->cut};
		if (mysql_stmt_fetch_column(s, &b, i, 0) != 0)
			return kt_mariadb_statement_failed(db, s, "a long value cannot be read", err);
		grown = true;
	}
	return grown ? bind_row(db, s, types, "a long value cannot be read", err) : KT_OK;
}

kt_code kt_mariadb_next_row(kt_mariadb *db, MYSQL_STMT *s, statement which, bool *more, kt_err *err)
{
	const char *types = sql[which].result;
	int got = mysql_stmt_fetch(s);
	*more = got == 0 || got == MYSQL_DATA_TRUNCATED;
	if (got == MYSQL_NO_DATA)
		return KT_OK;
	if (!*more)
		return kt_mariadb_statement_failed(db, s, "the database cannot be read", err);
	if (got == MYSQL_DATA_TRUNCATED)
		KT_TRY(fetch_long(db, s, types, err));
	for (size_t i = 0; types[i]; i++)
		if (types[i] == 'b') {
			db->row[i].bytes.len = db->row[i].null ? 0 : db->row[i].len;
			db->row[i].bytes.data[db->row[i].bytes.len] = '\0';
		}
	return KT_OK;
}

kt_code kt_mariadb_end_rows(kt_mariadb *db, MYSQL_STMT *s, kt_code rc, kt_err *err)
{
	if (mysql_stmt_free_result(s) != 0 && rc == KT_OK)
		return kt_mariadb_statement_failed(db, s, "the database cannot be read", err);
	return rc;
}

/* A statement without rows; *rows (may be NULL): how many it found. */
kt_code kt_mariadb_change(kt_mariadb *db, statement which, const value *in, size_t n, const char *what, uint64_t *rows,
			  kt_err *err)
{
	MYSQL_STMT *s;
	KT_TRY(kt_mariadb_execute(db, which, in, n, what, &s, err));
	if (rows)
		*rows = mysql_stmt_affected_rows(s);
	return KT_OK;
}

/* The first row, and how many there are, counted up to two. */
kt_code kt_mariadb_one_row(kt_mariadb *db, statement which, const value *in, size_t n, const char *what, int *rows,
			   kt_err *err)
{
	MYSQL_STMT *s;
	bool more;
	*rows = 0;
	KT_TRY(kt_mariadb_execute(db, which, in, n, what, &s, err));
	kt_code rc = kt_mariadb_next_row(db, s, which, &more, err);
	if (rc == KT_OK && more) {
		*rows = 1;
		int again = mysql_stmt_fetch(s); /* where it ends, the first one's bytes stay as they are */
		if (again == 1)
			rc = kt_mariadb_statement_failed(db, s, what, err);
		*rows += again != MYSQL_NO_DATA;
	}
	return kt_mariadb_end_rows(db, s, rc, err);
}

kt_code kt_mariadb_run(kt_mariadb *db, const char *query, const char *what, kt_err *err)
{
	return mysql_query(db->my, query) == 0 ? KT_OK : kt_mariadb_failed(db, what, err);
}

/* ---- transactions ---- */

static kt_code begin_once(kt_mariadb *db, bool write, kt_err *err)
{
	int rows;
	KT_TRY(kt_mariadb_ensure(db, err));
	KT_TRY(kt_mariadb_run(db, write ? "START TRANSACTION" : "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
			      "a transaction cannot begin", err));
	db->in_transaction = true;
	return write ? kt_mariadb_one_row(db, LOCK, NO_VALUES, "the write lock", &rows, err) : KT_OK;
}

void kt_mariadb_rollback(kt_db *base)
{
	kt_mariadb *db = kt_mariadb_of(base);
	if (db->in_transaction && db->my && !db->broken && mysql_rollback(db->my) != 0)
		db->broken = true; /* its end rolls back, too */
	db->in_transaction = false;
}

/* A connection may have been lost while nothing was done; then, and only then, it begins on a new one. */
kt_code kt_mariadb_begin(kt_db *base, bool write, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(base);
	kt_code rc = begin_once(db, write, err);
	if (rc == KT_E_UNREACHABLE && db->broken) {
		kt_mariadb_rollback(base);
		rc = begin_once(db, write, err);
	}
	if (rc != KT_OK)
		kt_mariadb_rollback(base);
	return rc;
}

kt_code kt_mariadb_commit(kt_db *base, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(base);
	if (mysql_commit(db->my) == 0) {
		db->in_transaction = false;
		return KT_OK;
	}
	kt_code rc = kt_mariadb_failed(db, "the transaction cannot be committed", err);
	if (rc != KT_E_UNREACHABLE)
		return rc;
	return kt_fail(err, KT_E_UNKNOWN, "look whether it was done before doing it again",
		       "%s: the connection was lost during the commit", db->base.name);
}

kt_code kt_mariadb_settle(kt_db *base, kt_err *err)
{
	kt_mariadb *db = kt_mariadb_of(base);
	int rows;
	kt_err why = KT_ERR_INIT;
	kt_code rc = kt_mariadb_one_row(db, SETTLE, NO_VALUES, "a writer has not ended", &rows, &why);
	if (rc == KT_OK || (rc == KT_E_INPUT && db->code == ER_NO_SUCH_TABLE))
		return KT_OK;
	return kt_fail(err, rc, why.remedy, "%s", why.msg);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store's database on a MariaDB or MySQL server. The only place that calls its client library.
 *
 * Every writing transaction takes the row `lock` of keyturn_meta first: so there is one writer at a time, as with
 * SQLite, and what a lost connection was committing has ended when the next one has the lock. Statements are prepared;
 * values never stand in SQL. The password is given to the library for the connect alone, and wiped there.
 */
#include <errmsg.h>
#include <mysql.h>
#include <mysqld_error.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "store/db_backend.h"
#include "store/edit.h"

enum {
	SCHEMA_VERSION = 1,
	COLUMNS = 10,
	CONNECT_S = 10,
	ANSWER_S = 120,        /* the longest that a single statement may take */
	RETRY_MS = 200,        /* between attempts to come back to a server */
	BATCH_ROWS = 2000,     /* that are read, edited and written together */
	BATCH_BYTES = 2 << 20, /* the same; one item may be larger */
	FIRST_ROWS = 64,       /* of a batch, while it is not known how long items are */
	SAME_MAX = 2,
	NAME_MAX_LEN = 512
};
_Static_assert((int)BATCH_ROWS <= (int)KT_BATCH_ROWS, "a batch holds them");

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

typedef enum statement {
	LOCK,
	SETTLE,
	META,
	SET_META,
	KEK_GET,
	KEK_CLEAR,
	KEK_PUT,
	LEGACY_GET,
	LEGACY_DROP,
	ITEM_GET,
	ITEM_PUT,
	ITEM_COUNT,
	ITEM_EACH,
	ITEM_NAMES,
	ITEM_HEADS,
	ITEM_WHOLE,
	ITEM_AFTER,
	ITEM_EDIT,
	ITEM_WRITE,
	ITEM_REPLACE,
	NODE_PUT,
	NODE_BEAT,
	NODE_REMOVE,
	NODE_EACH,
	REKEY_GET,
	REKEY_PUT,
	REKEY_CLEAR,
	RANGES,
	ROWS,
	RANGE_PUT,
	RANGE_CLEAR,
	RANGE_FREE,
	RANGE_CLAIM,
	RANGE_LOCK,
	RANGE_SAVE,
	PRIVILEGE,
	CLIENTS,
	STATEMENTS
} statement;

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

/* A column of the row at hand: a number, or bytes (with a NUL behind them). */
typedef struct cell {
	long long number;
	kt_buf bytes;
	unsigned long len;
	my_bool null, cut;
} cell;

typedef struct server_db {
	kt_db base; /* first */
	MYSQL *my;  /* NULL: not connected */
	kt_db_address address;
	int busy_ms;
	bool in_transaction;
	bool broken;   /* the connection was lost */
	unsigned code; /* of the last failure */
	bool bulk;     /* the server takes many rows of values with one statement (MariaDB, not MySQL) */
	MYSQL_STMT *prepared[STATEMENTS];
	cell row[COLUMNS];
} server_db;

static server_db *of(kt_db *base)
{
	return (server_db *)(void *)base;
}

/* A value for a statement: bytes, or a number where they are NULL. */
typedef struct value {
	const void *bytes;
	size_t n;
	int64_t number;
} value;

static value number(int64_t n)
{
	return (value){.number = n};
}

static value bytes(const void *p, size_t n)
{
	return (value){.bytes = p ? p : "", .n = n};
}

static value text(const char *s)
{
	return bytes(s, strlen(s));
}

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

static kt_code explain(server_db *db, unsigned code, const char *why, const char *what, kt_err *err)
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

static kt_code failed(server_db *db, const char *what, kt_err *err)
{
	return explain(db, mysql_errno(db->my), mysql_error(db->my), what, err);
}

/* Where a connection is lost between two rows, the library leaves the reason with the connection alone. */
static kt_code statement_failed(server_db *db, MYSQL_STMT *s, const char *what, kt_err *err)
{
	if (mysql_stmt_errno(s) == 0)
		return failed(db, what, err);
	return explain(db, mysql_stmt_errno(s), mysql_stmt_error(s), what, err);
}

/* ---- the connection ---- */

static void disconnect(server_db *db)
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

static kt_code set_session(server_db *db, kt_err *err)
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
		return failed(db, "the session cannot be set up", err);
	db->bulk = mariadb_get_infov(db->my, MARIADB_CONNECTION_EXTENDED_SERVER_CAPABILITIES, &more) == 0 &&
		   (more & (unsigned long)(MARIADB_CLIENT_STMT_BULK_OPERATIONS >> 32)) != 0;
	return KT_OK;
}

static kt_code connect_once(server_db *db, kt_err *err)
{
	const kt_db_address *a = &db->address;
	disconnect(db);
	db->my = mysql_init(NULL);
	if (!db->my || !set_options(db->my, a))
		return kt_fail(err, KT_E_INTERNAL, NULL, "%s: the client library cannot be set up", db->base.name);
	MYSQL *up = mysql_real_connect(db->my, a->socket ? "localhost" : a->host, a->user,
				       a->password.len ? (const char *)a->password.data : NULL, a->database,
				       (unsigned)a->port, a->socket, CLIENT_FOUND_ROWS);
	if (db->my->passwd)
		OPENSSL_cleanse(db->my->passwd, strlen(db->my->passwd));
	kt_code rc = up ? set_session(db, err) : failed(db, "no connection to the server", err);
	if (rc != KT_OK)
		disconnect(db);
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
static kt_code ensure(server_db *db, kt_err *err)
{
	if (db->in_transaction || (db->my && !db->broken))
		return KT_OK;
	int64_t until = kt_clock_mono_ms() + db->busy_ms;
	for (;;) {
		kt_code rc = connect_once(db, err);
		if (rc != KT_E_UNREACHABLE || kt_clock_mono_ms() >= until)
			return rc;
		pause_ms(RETRY_MS);
	}
}

/* ---- statements ---- */

static kt_code prepare(server_db *db, statement which, MYSQL_STMT **out, kt_err *err)
{
	*out = db->prepared[which];
	if (*out)
		return KT_OK;
	MYSQL_STMT *s = mysql_stmt_init(db->my);
	if (!s)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (mysql_stmt_prepare(s, sql[which].text, strlen(sql[which].text)) != 0) {
		kt_code rc = statement_failed(db, s, "a query cannot be prepared", err);
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

static kt_code bind_row(server_db *db, MYSQL_STMT *s, const char *types, const char *what, kt_err *err)
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
	return mysql_stmt_bind_result(s, b) == 0 ? KT_OK : statement_failed(db, s, what, err);
}

/* Carry a statement out; its rows come by next_row(), and end_rows() must follow where it has any. */
static kt_code execute(server_db *db, statement which, const value *in, size_t n, const char *what, MYSQL_STMT **out,
		       kt_err *err)
{
	MYSQL_BIND b[COLUMNS];
	KT_TRY(ensure(db, err));
	KT_TRY(prepare(db, which, out, err));
	for (size_t i = 0; i < n; i++)
		bind_value(&b[i], &in[i]);
	if ((n && mysql_stmt_bind_param(*out, b) != 0) || mysql_stmt_execute(*out) != 0)
		return statement_failed(db, *out, what, err);
	return sql[which].result[0] ? bind_row(db, *out, sql[which].result, what, err) : KT_OK;
}

#define VALUES(...) (const value[]){__VA_ARGS__}, sizeof((const value[]){__VA_ARGS__}) / sizeof(value)
#define NO_VALUES NULL, 0

/* A column that was longer than its buffer is fetched again into a larger one, which the next rows have, too. */
static kt_code fetch_long(server_db *db, MYSQL_STMT *s, const char *types, kt_err *err)
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
			return statement_failed(db, s, "a long value cannot be read", err);
		grown = true;
	}
	return grown ? bind_row(db, s, types, "a long value cannot be read", err) : KT_OK;
}

static kt_code next_row(server_db *db, MYSQL_STMT *s, statement which, bool *more, kt_err *err)
{
	const char *types = sql[which].result;
	int got = mysql_stmt_fetch(s);
	*more = got == 0 || got == MYSQL_DATA_TRUNCATED;
	if (got == MYSQL_NO_DATA)
		return KT_OK;
	if (!*more)
		return statement_failed(db, s, "the database cannot be read", err);
	if (got == MYSQL_DATA_TRUNCATED)
		KT_TRY(fetch_long(db, s, types, err));
	for (size_t i = 0; types[i]; i++)
		if (types[i] == 'b') {
			db->row[i].bytes.len = db->row[i].null ? 0 : db->row[i].len;
			db->row[i].bytes.data[db->row[i].bytes.len] = '\0';
		}
	return KT_OK;
}

static kt_code end_rows(server_db *db, MYSQL_STMT *s, kt_code rc, kt_err *err)
{
	if (mysql_stmt_free_result(s) != 0 && rc == KT_OK)
		return statement_failed(db, s, "the database cannot be read", err);
	return rc;
}

/* A statement without rows; *rows (may be NULL): how many it found. */
static kt_code change(server_db *db, statement which, const value *in, size_t n, const char *what, uint64_t *rows,
		      kt_err *err)
{
	MYSQL_STMT *s;
	KT_TRY(execute(db, which, in, n, what, &s, err));
	if (rows)
		*rows = mysql_stmt_affected_rows(s);
	return KT_OK;
}

/* The first row, and how many there are, counted up to two. */
static kt_code one_row(server_db *db, statement which, const value *in, size_t n, const char *what, int *rows,
		       kt_err *err)
{
	MYSQL_STMT *s;
	bool more;
	*rows = 0;
	KT_TRY(execute(db, which, in, n, what, &s, err));
	kt_code rc = next_row(db, s, which, &more, err);
	if (rc == KT_OK && more) {
		*rows = 1;
		int again = mysql_stmt_fetch(s); /* where it ends, the first one's bytes stay as they are */
		if (again == 1)
			rc = statement_failed(db, s, what, err);
		*rows += again != MYSQL_NO_DATA;
	}
	return end_rows(db, s, rc, err);
}

static kt_code run(server_db *db, const char *query, const char *what, kt_err *err)
{
	return mysql_query(db->my, query) == 0 ? KT_OK : failed(db, what, err);
}

/* ---- transactions ---- */

static kt_code begin_once(server_db *db, bool write, kt_err *err)
{
	int rows;
	KT_TRY(ensure(db, err));
	KT_TRY(run(db, write ? "START TRANSACTION" : "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
		   "a transaction cannot begin", err));
	db->in_transaction = true;
	return write ? one_row(db, LOCK, NO_VALUES, "the write lock", &rows, err) : KT_OK;
}

static void server_rollback(kt_db *base)
{
	server_db *db = of(base);
	if (db->in_transaction && db->my && !db->broken && mysql_rollback(db->my) != 0)
		db->broken = true; /* its end rolls back, too */
	db->in_transaction = false;
}

/* A connection may have been lost while nothing was done; then, and only then, it begins on a new one. */
static kt_code server_begin(kt_db *base, bool write, kt_err *err)
{
	server_db *db = of(base);
	kt_code rc = begin_once(db, write, err);
	if (rc == KT_E_UNREACHABLE && db->broken) {
		server_rollback(base);
		rc = begin_once(db, write, err);
	}
	if (rc != KT_OK)
		server_rollback(base);
	return rc;
}

static kt_code server_commit(kt_db *base, kt_err *err)
{
	server_db *db = of(base);
	if (mysql_commit(db->my) == 0) {
		db->in_transaction = false;
		return KT_OK;
	}
	kt_code rc = failed(db, "the transaction cannot be committed", err);
	if (rc != KT_E_UNREACHABLE)
		return rc;
	return kt_fail(err, KT_E_UNKNOWN, "look whether it was done before doing it again",
		       "%s: the connection was lost during the commit", db->base.name);
}

static kt_code server_settle(kt_db *base, kt_err *err)
{
	server_db *db = of(base);
	int rows;
	kt_err why = KT_ERR_INIT;
	kt_code rc = one_row(db, SETTLE, NO_VALUES, "a writer has not ended", &rows, &why);
	if (rc == KT_OK || (rc == KT_E_INPUT && db->code == ER_NO_SUCH_TABLE))
		return KT_OK;
	return kt_fail(err, rc, why.remedy, "%s", why.msg);
}

/* ---- meta, KEK, legacy key ---- */

static kt_code get_meta(server_db *db, const char *name, int64_t *out, bool *found, kt_err *err)
{
	int rows;
	KT_TRY(one_row(db, META, VALUES(text(name)), "the database cannot be read", &rows, err));
	*found = rows == 1;
	*out = db->row[0].number;
	return KT_OK;
}

static kt_code set_meta(server_db *db, const char *name, int64_t to, kt_err *err)
{
	return change(db, SET_META, VALUES(text(name), number(to)), "the database cannot be written", NULL, err);
}

static kt_code server_initialized(kt_db *base, bool *yes, kt_err *err)
{
	server_db *db = of(base);
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
	server_db *db = of(base);
	KT_TRY(set_meta(db, "epoch", 1, err));
	return set_meta(db, "schema", SCHEMA_VERSION, err);
}

static kt_code damaged(const server_db *db, const char *what, kt_err *err)
{
	return kt_fail(err, KT_E_INPUT, "restore the database from a backup", "%s: %s", db->base.name, what);
}

static kt_code server_epoch(kt_db *base, int64_t *epoch, kt_err *err)
{
	server_db *db = of(base);
	bool found;
	KT_TRY(get_meta(db, "epoch", epoch, &found, err));
	return found ? KT_OK : damaged(db, "the epoch is missing", err);
}

static kt_code server_set_epoch(kt_db *base, int64_t epoch, kt_err *err)
{
	return set_meta(of(base), "epoch", epoch, err);
}

static kt_code server_kek_get(kt_db *base, kt_buf *record, kt_err *err)
{
	server_db *db = of(base);
	int rows;
	KT_TRY(one_row(db, KEK_GET, NO_VALUES, "the KEK record cannot be read", &rows, err));
	if (rows != 1)
		return damaged(db, rows ? "there is more than one KEK record" : "there is no KEK record", err);
	return kt_buf_append(record, db->row[0].bytes.data, db->row[0].bytes.len, err);
}

static kt_code server_kek_replace(kt_db *base, uint32_t generation, const kt_buf *record, kt_err *err)
{
	server_db *db = of(base);
	KT_TRY(change(db, KEK_CLEAR, NO_VALUES, "the old KEK record cannot be removed", NULL, err));
	return change(db, KEK_PUT, VALUES(number(generation), bytes(record->data, record->len)),
		      "the KEK record cannot be written", NULL, err);
}

static kt_code server_has_kek(kt_db *base, bool *yes, kt_err *err)
{
	int rows;
	kt_code rc = one_row(of(base), KEK_GET, NO_VALUES, "the KEK record cannot be read", &rows, err);
	*yes = rows > 0;
	return rc;
}

static kt_code server_legacy_get(kt_db *base, kt_secret *key, bool *legacy, kt_err *err)
{
	server_db *db = of(base);
	int rows;
	kt_buf *bytes_of = &db->row[0].bytes;
	*legacy = false;
	kt_code rc = one_row(db, LEGACY_GET, NO_VALUES, "the legacy key cannot be read", &rows, err);
	*legacy = rc == KT_OK && rows > 0;
	if (*legacy && (rows > 1 || bytes_of->len == 0))
		rc = damaged(db, "the table keyturn_legacy does not hold one key", err);
	else if (*legacy && key)
		rc = kt_secret_copy(key, bytes_of->data, bytes_of->len, err);
	if (bytes_of->data)
		OPENSSL_cleanse(bytes_of->data, bytes_of->cap);
	return rc;
}

static kt_code server_legacy_drop(kt_db *base, kt_err *err)
{
	return change(of(base), LEGACY_DROP, NO_VALUES, "the legacy key cannot be removed", NULL, err);
}

/* ---- items ---- */

static kt_code server_item_get(kt_db *base, const char *name, kt_buf *envelope, int64_t *version, bool *found,
			       kt_err *err)
{
	server_db *db = of(base);
	int rows;
	KT_TRY(one_row(db, ITEM_GET, VALUES(number(envelope != NULL), text(name)), "an item cannot be read", &rows,
		       err));
	*found = rows == 1;
	if (!*found)
		return KT_OK;
	if (version)
		*version = db->row[0].number;
	return envelope ? kt_buf_append(envelope, db->row[1].bytes.data, db->row[1].bytes.len, err) : KT_OK;
}

static kt_code server_item_put(kt_db *base, const char *name, const kt_buf *envelope, kt_err *err)
{
	return change(of(base), ITEM_PUT, VALUES(text(name), bytes(envelope->data, envelope->len)),
		      "the item cannot be written", NULL, err);
}

static kt_code server_item_count(kt_db *base, int64_t *count, kt_err *err)
{
	server_db *db = of(base);
	int rows;
	KT_TRY(one_row(db, ITEM_COUNT, NO_VALUES, "the items cannot be counted", &rows, err));
	*count = db->row[0].number;
	return KT_OK;
}

/* The row's name, NULL when it cannot be one. */
static const char *row_name(const server_db *db)
{
	const kt_buf *b = &db->row[1].bytes;
	return memchr(b->data, '\0', b->len) ? NULL : (const char *)b->data;
}

static kt_code give_row(const server_db *db, bool envelopes, kt_db_item_fn *fn, void *arg, kt_err *err)
{
	char made_up[64];
	const char *name = row_name(db);
	(void)snprintf(made_up, sizeof made_up, "(row %lld)", db->row[0].number);
	if (!name)
		return fn(arg, made_up, NULL, 0, "its name is not a text", err);
	if (!envelopes)
		return fn(arg, name, NULL, 0, NULL, err);
	return fn(arg, name, db->row[2].bytes.data, db->row[2].bytes.len, NULL, err);
}

/* The rows come as the server sends them; none is kept. */
static kt_code each(server_db *db, statement which, const value *in, size_t n, kt_db_span *span, kt_db_item_fn *fn,
		    void *arg, kt_err *err)
{
	MYSQL_STMT *s;
	bool more = true;
	KT_TRY(execute(db, which, in, n, "the items cannot be read", &s, err));
	kt_code rc = next_row(db, s, which, &more, err);
	while (rc == KT_OK && more) {
		if (span)
			span->after = db->row[0].number;
		rc = give_row(db, which == ITEM_EACH, fn, arg, err);
		if (rc == KT_OK)
			rc = next_row(db, s, which, &more, err);
	}
	return end_rows(db, s, rc, err);
}

static kt_code server_item_each(kt_db *base, kt_db_span *span, kt_db_item_fn *fn, void *arg, kt_err *err)
{
	int64_t limit = span && span->limit >= 0 ? span->limit : INT64_MAX;
	return each(
		of(base), ITEM_EACH,
		VALUES(number(span ? span->after : INT64_MIN), number(span ? span->upto : INT64_MAX), number(limit)),
		span, fn, arg, err);
}

static kt_code server_item_names(kt_db *base, kt_db_item_fn *fn, void *arg, kt_err *err)
{
	return each(of(base), ITEM_NAMES, NO_VALUES, NULL, fn, arg, err);
}

/* What is needed beside a batch: how it was asked for, and its rows as the bulk statement wants them. */
typedef struct array {
	int64_t ask; /* how many to ask for: follows the length of the items */
	char *at[BATCH_ROWS];
	unsigned long lens[BATCH_ROWS];
	long long ids[BATCH_ROWS];
	long long same[SAME_MAX][BATCH_ROWS];
} array;

static kt_code bad_item(const server_db *db, const char *name, const char *bad, kt_err *err)
{
	return kt_fail(err, KT_E_INPUT, "restore the item from a backup", "%s: item \"%s\": %s", db->base.name, name,
		       bad);
}

/* `room`: of the first bytes of the envelope, as kt_batch_add; at least as many as there are. */
static kt_code keep_row(server_db *db, kt_batch *b, size_t room, kt_err *err)
{
	char made_up[64];
	(void)snprintf(made_up, sizeof made_up, "(row %lld)", db->row[0].number);
	if (!row_name(db))
		return bad_item(db, made_up, "its name is not a text", err);
	kt_batched *item;
	const kt_buf *envelope = &db->row[2].bytes;
	KT_TRY(kt_batch_add(b, db->row[0].number, row_name(db), room > envelope->len ? room : envelope->len, &item,
			    err));
	item->len = envelope->len;
	item->total = (size_t)db->row[3].number;
	memcpy(b->data.data + item->bytes, envelope->data, envelope->len);
	return KT_OK;
}

static kt_code fill_batch(server_db *db, MYSQL_STMT *s, statement which, size_t room, kt_batch *b, array *r,
			  kt_err *err)
{
	bool more = true;
	while (b->n < BATCH_ROWS && b->data.len < BATCH_BYTES) {
		KT_TRY(next_row(db, s, which, &more, err));
		if (!more)
			break;
		KT_TRY(keep_row(db, b, room, err));
	}
	if (b->n) { /* what did not fit is read again: ask for no more than fits */
		size_t mean = b->data.len / b->n + 1;
		r->ask = mean > BATCH_BYTES ? 1 : BATCH_BYTES / (int64_t)mean;
		r->ask = r->ask > BATCH_ROWS ? BATCH_ROWS : r->ask;
	}
	return KT_OK;
}

static kt_code read_batch(server_db *db, statement which, const value *in, size_t n, size_t room, kt_batch *b, array *r,
			  kt_err *err)
{
	MYSQL_STMT *s;
	KT_TRY(execute(db, which, in, n, "the items cannot be read", &s, err));
	return end_rows(db, s, fill_batch(db, s, which, room, b, r, err), err);
}

/* Where rows are written, the statement's first values are the same for all of them; the bytes and the row's number
 * follow. */
static kt_code write_bulk(server_db *db, statement which, const value *first, size_t n, array *w, size_t count,
			  kt_err *err)
{
	MYSQL_STMT *s;
	MYSQL_BIND in[SAME_MAX + 2];
	unsigned size = (unsigned)count;
	memset(in, 0, sizeof in);
	for (size_t i = 0; i < n; i++) {
		for (size_t r = 0; r < count; r++)
			w->same[i][r] = first[i].number;
		in[i].buffer_type = MYSQL_TYPE_LONGLONG;
		in[i].buffer = w->same[i];
	}
	in[n].buffer_type = MYSQL_TYPE_LONG_BLOB;
	in[n].buffer = w->at;
	in[n].length = w->lens;
	in[n + 1].buffer_type = MYSQL_TYPE_LONGLONG;
	in[n + 1].buffer = w->ids;
	KT_TRY(prepare(db, which, &s, err));
	if (mysql_stmt_attr_set(s, STMT_ATTR_ARRAY_SIZE, &size) != 0 || mysql_stmt_bind_param(s, in) != 0 ||
	    mysql_stmt_execute(s) != 0)
		return statement_failed(db, s, "the items cannot be written", err);
	if (mysql_stmt_affected_rows(s) == count)
		return KT_OK;
	return kt_fail(err, KT_E_INTERNAL, NULL, "%s: %zu items were written, and %llu were there", db->base.name,
		       count, (unsigned long long)mysql_stmt_affected_rows(s));
}

static kt_code write_one_by_one(server_db *db, statement which, const value *first, size_t n, const array *w,
				size_t count, kt_err *err)
{
	value in[SAME_MAX + 2];
	uint64_t found;
	for (size_t i = 0; i < n; i++)
		in[i] = first[i];
	for (size_t r = 0; r < count; r++) {
		in[n] = bytes(w->at[r], w->lens[r]);
		in[n + 1] = number(w->ids[r]);
		KT_TRY(change(db, which, in, n + 2, "the items cannot be written", &found, err));
		if (found != 1)
			return kt_fail(err, KT_E_INTERNAL, NULL, "%s: an item has gone", db->base.name);
	}
	return KT_OK;
}

static kt_code write_rows(server_db *db, statement which, const value *first, size_t n, array *w, size_t count,
			  kt_err *err)
{
	if (count == 0)
		return KT_OK;
	return db->bulk ? write_bulk(db, which, first, n, w, count, err)
			: write_one_by_one(db, which, first, n, w, count, err);
}

static kt_code write_edited(const kt_edit *e, kt_batch *b, kt_err *err)
{
	server_db *db = of(e->db);
	array *w = e->own;
	size_t count = 0;
	for (size_t i = 0; i < b->n; i++) {
		const kt_batched *item = &b->item[i];
		if (item->len <= e->from)
			continue;
		w->at[count] = (char *)b->data.data + item->bytes + e->from;
		w->lens[count] = item->len - e->from;
		w->ids[count++] = item->id;
	}
	if (e->len == KT_DB_WHOLE)
		return write_rows(db, ITEM_WRITE, NO_VALUES, w, count, err);
	return write_rows(db, ITEM_EDIT, VALUES(number((int64_t)e->from + 1), number((int64_t)(e->len - e->from))), w,
			  count, err);
}

static kt_code read_for_edit(const kt_edit *e, const kt_db_span *span, kt_batch *b, kt_err *err)
{
	server_db *db = of(e->db);
	array *r = e->own;
	int64_t limit = span->limit < 0 || span->limit > r->ask ? r->ask : span->limit;
	if (e->len == KT_DB_WHOLE)
		return read_batch(db, ITEM_WHOLE, VALUES(number(span->after), number(span->upto), number(limit)), 0, b,
				  r, err);
	return read_batch(db, ITEM_HEADS,
			  VALUES(number((int64_t)e->len), number(span->after), number(span->upto), number(limit)),
			  e->len, b, r, err);
}

static kt_code server_item_edit(kt_db *base, kt_db_span *span, size_t head_len, size_t from, kt_db_edit_fn *fn,
				void *arg, int64_t *count, kt_err *err)
{
	array *r = calloc(1, sizeof *r);
	if (!r)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	r->ask = FIRST_ROWS;
	kt_edit e = {.db = base,
		     .len = head_len,
		     .from = from,
		     .fn = fn,
		     .arg = arg,
		     .read = read_for_edit,
		     .write = write_edited,
		     .own = r};
	kt_code rc = kt_edit_run(&e, span, count, err);
	free(r);
	return rc;
}

/* Convert what is in a batch, and write what became of it. */
static kt_code convert_batch(server_db *db, const kt_batch *b, kt_db_convert_fn *fn, void *arg, kt_buf *out,
			     kt_err *err)
{
	for (size_t i = 0; i < b->n; i++) {
		const kt_batched *item = &b->item[i];
		const char *name = (const char *)b->data.data + item->name;
		kt_buf_clear(out);
		kt_code rc = fn(arg, name, b->data.data + item->bytes, item->len, out, err);
		if (rc != KT_OK)
			return kt_err_prefix(err, rc, "%s: item \"%s\"", db->base.name, name);
		if (out->len)
			KT_TRY(change(db, ITEM_REPLACE, VALUES(bytes(out->data, out->len), number(item->id)),
				      "the item cannot be written", NULL, err));
	}
	return KT_OK;
}

typedef struct conversion {
	kt_batch batch;
	array array;
	kt_buf out;
} conversion;

static kt_code convert_all(server_db *db, conversion *c, int64_t *after, int64_t limit, kt_db_convert_fn *fn, void *arg,
			   int64_t *seen, kt_err *err)
{
	kt_batch *b = &c->batch;
	c->array.ask = FIRST_ROWS;
	do {
		int64_t ask = limit - *seen < c->array.ask ? limit - *seen : c->array.ask;
		kt_batch_clear(b);
		KT_TRY(read_batch(db, ITEM_AFTER, VALUES(number(*after), number(ask)), 0, b, &c->array, err));
		KT_TRY(convert_batch(db, b, fn, arg, &c->out, err));
		if (b->n)
			*after = b->item[b->n - 1].id;
		*seen += (int64_t)b->n;
	} while (b->n && *seen < limit);
	return KT_OK;
}

static kt_code server_item_convert(kt_db *base, int64_t *after, int64_t limit, kt_db_convert_fn *fn, void *arg,
				   int64_t *seen, kt_err *err)
{
	*seen = 0;
	conversion *c = calloc(1, sizeof *c);
	if (!c)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = convert_all(of(base), c, after, limit, fn, arg, seen, err);
	kt_buf_free(&c->out);
	kt_buf_free(&c->batch.data);
	free(c);
	return rc;
}

/* ---- a rekey in shards ---- */

static kt_code server_rekey_get(kt_db *base, kt_db_rekey *out, bool *open, kt_err *err)
{
	server_db *db = of(base);
	int rows;
	*out = (kt_db_rekey){0};
	*open = false;
	KT_TRY(one_row(db, REKEY_GET, NO_VALUES, "the rekey under way cannot be read", &rows, err));
	if (rows == 0)
		return KT_OK;
	if (rows != 1)
		return damaged(db, "more than one rekey is under way", err);
	(void)snprintf(out->depth, sizeof out->depth, "%s", kt_buf_cstr(&db->row[0].bytes));
	out->generation = (uint32_t)db->row[1].number;
	kt_code rc = kt_buf_append(&out->record, db->row[2].bytes.data, db->row[2].bytes.len, err);
	if (rc == KT_OK)
		rc = one_row(db, RANGES, NO_VALUES, "the ranges cannot be read", &rows, err);
	if (rc != KT_OK) {
		kt_buf_free(&out->record);
		return rc;
	}
	out->ranges = db->row[0].number;
	out->done = db->row[1].number;
	out->items = db->row[2].number;
	*open = true;
	return KT_OK;
}

/* Rows first+1 .. last, in so many ranges of the same width. */
static kt_code put_ranges(server_db *db, int64_t first, int64_t last, int64_t ranges, kt_err *err)
{
	int64_t width = (last - first + ranges - 1) / ranges;
	for (int64_t id = 1; first < last; id++) {
		int64_t upto = last - first > width ? first + width : last;
		KT_TRY(change(db, RANGE_PUT, VALUES(number(id), number(first), number(first), number(upto)),
			      "a range cannot be written", NULL, err));
		first = upto;
	}
	return KT_OK;
}

static kt_code server_rekey_open(kt_db *base, const kt_db_rekey *rekey, kt_err *err)
{
	server_db *db = of(base);
	int rows;
	KT_TRY(change(db, RANGE_CLEAR, NO_VALUES, "the ranges cannot be removed", NULL, err));
	KT_TRY(change(
		db, REKEY_PUT,
		VALUES(text(rekey->depth), number(rekey->generation), bytes(rekey->record.data, rekey->record.len)),
		"the rekey cannot be recorded", NULL, err));
	KT_TRY(one_row(db, ROWS, NO_VALUES, "the items cannot be counted", &rows, err));
	if (db->row[0].number == 0)
		return KT_OK;
	return put_ranges(db, db->row[1].number - 1, db->row[2].number, rekey->ranges, err);
}

static kt_code server_rekey_close(kt_db *base, kt_err *err)
{
	server_db *db = of(base);
	KT_TRY(change(db, REKEY_CLEAR, NO_VALUES, "the end of the rekey cannot be recorded", NULL, err));
	return change(db, RANGE_CLEAR, NO_VALUES, "the ranges cannot be removed", NULL, err);
}

/* A transaction that does not take the write lock. */
static kt_code begin_shared(server_db *db, kt_err *err)
{
	KT_TRY(ensure(db, err));
	KT_TRY(run(db, "START TRANSACTION", "a transaction cannot begin", err));
	db->in_transaction = true;
	return KT_OK;
}

static kt_code claim_free(server_db *db, const char *worker, int64_t lease_ms, kt_db_range *range, bool *got,
			  kt_err *err)
{
	int rows;
	KT_TRY(one_row(db, RANGE_FREE, NO_VALUES, "no range can be claimed", &rows, err));
	*got = rows == 1;
	if (!*got)
		return KT_OK;
	const cell *row = db->row;
	*range = (kt_db_range){.id = row[0].number,
			       .fence = row[1].number + 1,
			       .first = row[2].number,
			       .after = row[3].number,
			       .upto = row[4].number,
			       .items = row[5].number,
			       .taken_over = row[1].number > 0};
	return change(db, RANGE_CLAIM, VALUES(text(worker), number(lease_ms), number(range->id)),
		      "a range cannot be claimed", NULL, err);
}

static kt_code server_range_claim(kt_db *base, const char *worker, int64_t lease_ms, kt_db_range *range, bool *got,
				  kt_err *err)
{
	server_db *db = of(base);
	*got = false;
	kt_code rc = begin_shared(db, err);
	if (rc == KT_OK)
		rc = claim_free(db, worker, lease_ms, range, got, err);
	if (rc == KT_OK)
		rc = server_commit(base, err);
	server_rollback(base);
	return rc;
}

static kt_code server_range_begin(kt_db *base, kt_db_range *range, bool *ours, kt_err *err)
{
	server_db *db = of(base);
	int rows;
	*ours = false;
	kt_code rc = begin_shared(db, err);
	if (rc == KT_OK)
		rc = one_row(db, RANGE_LOCK, VALUES(number(range->id), number(range->fence)), "the range", &rows, err);
	*ours = rc == KT_OK && rows == 1;
	if (!*ours) {
		server_rollback(base);
		return rc;
	}
	range->after = db->row[0].number;
	range->items = db->row[1].number;
	return KT_OK;
}

static kt_code server_range_save(kt_db *base, const kt_db_range *range, int64_t lease_ms, bool done, kt_err *err)
{
	return change(
		of(base), RANGE_SAVE,
		VALUES(number(range->after), number(range->items), number(done), number(lease_ms), number(range->id)),
		"the range cannot be written", NULL, err);
}

/* ---- nodes and connections ---- */

static kt_code server_node_put(kt_db *base, const kt_db_node *node, kt_err *err)
{
	return change(of(base), NODE_PUT,
		      VALUES(text(node->name), text(node->host), text(node->home), number(node->pid),
			     text(node->address), number(node->started_ms), number(node->heartbeat_ms),
			     number(node->interval_ms), number(node->beats)),
		      "the node cannot be registered", NULL, err);
}

static kt_code server_node_beat(kt_db *base, const char *name, int64_t pid, int64_t now_ms, bool *known, kt_err *err)
{
	uint64_t rows = 0;
	kt_code rc = change(of(base), NODE_BEAT, VALUES(number(now_ms), text(name), number(pid)),
			    "the heartbeat cannot be written", &rows, err);
	*known = rc == KT_OK && rows == 1;
	return rc;
}

static kt_code server_node_remove(kt_db *base, const char *name, int64_t pid, kt_err *err)
{
	return change(of(base), NODE_REMOVE, VALUES(text(name), number(pid)), "the node cannot be deregistered", NULL,
		      err);
}

static kt_code give_node(const cell *row, kt_db_node_fn *fn, void *arg, kt_err *err)
{
	kt_db_node node = {.name = kt_buf_cstr(&row[0].bytes),
			   .host = kt_buf_cstr(&row[1].bytes),
			   .home = kt_buf_cstr(&row[2].bytes),
			   .pid = row[3].number,
			   .address = kt_buf_cstr(&row[4].bytes),
			   .started_ms = row[5].number,
			   .heartbeat_ms = row[6].number,
			   .interval_ms = row[7].number,
			   .beats = row[8].number};
	return fn(arg, &node, err);
}

static kt_code server_node_each(kt_db *base, kt_db_node_fn *fn, void *arg, kt_err *err)
{
	server_db *db = of(base);
	MYSQL_STMT *s;
	bool more = true;
	KT_TRY(execute(db, NODE_EACH, NO_VALUES, "the nodes cannot be read", &s, err));
	kt_code rc = next_row(db, s, NODE_EACH, &more, err);
	while (rc == KT_OK && more) {
		rc = give_node(db->row, fn, arg, err);
		if (rc == KT_OK)
			rc = next_row(db, s, NODE_EACH, &more, err);
	}
	return end_rows(db, s, rc, err);
}

/* A list that may have gaps proves nothing: without PROCESS a server shows this user's connections alone. */
static kt_code check_privilege(server_db *db, kt_err *err)
{
	int rows;
	KT_TRY(one_row(db, PRIVILEGE, NO_VALUES, "the server's connections cannot be listed", &rows, err));
	if (db->row[1].number > 0)
		return KT_OK;
	char remedy[KT_ERR_REMEDY];
	(void)snprintf(remedy, sizeof remedy,
		       "as an administrator of the server: GRANT PROCESS ON *.* TO the user %.200s",
		       kt_buf_cstr(&db->row[0].bytes));
	return kt_fail(err, KT_E_REFUSED, remedy,
		       "%s: who else is connected cannot be seen: the user has no PROCESS privilege", db->base.name);
}

static kt_code give_client(const server_db *db, kt_db_client_fn *fn, void *arg, kt_err *err)
{
	char who[512];
	(void)snprintf(who, sizeof who, "connection %lld of %.80s from %.255s (%.40s)", db->row[0].number,
		       kt_buf_cstr(&db->row[1].bytes), kt_buf_cstr(&db->row[2].bytes), kt_buf_cstr(&db->row[3].bytes));
	return fn(arg, who, err);
}

static kt_code server_client_each(kt_db *base, kt_db_client_fn *fn, void *arg, kt_err *err)
{
	server_db *db = of(base);
	MYSQL_STMT *s;
	bool more = true;
	KT_TRY(check_privilege(db, err));
	KT_TRY(execute(db, CLIENTS, NO_VALUES, "the server's connections cannot be listed", &s, err));
	kt_code rc = next_row(db, s, CLIENTS, &more, err);
	while (rc == KT_OK && more) {
		rc = give_client(db, fn, arg, err);
		if (rc == KT_OK)
			rc = next_row(db, s, CLIENTS, &more, err);
	}
	return end_rows(db, s, rc, err);
}

/* ---- opening ---- */

static void server_close(kt_db *base)
{
	server_db *db = of(base);
	disconnect(db);
	for (size_t i = 0; i < COLUMNS; i++)
		kt_buf_free(&db->row[i].bytes);
	kt_db_address_free(&db->address);
	free(db->base.name);
	free(db);
}

/* DDL commits by itself, so it comes before any transaction; all of it may be done again, and by two at once. */
static kt_code make_tables(server_db *db, kt_err *err)
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
		KT_TRY(run(db, tables[i], "the tables cannot be made", err));
	return KT_OK;
}

static const kt_db_ops ops = {
	.close = server_close,
	.begin = server_begin,
	.commit = server_commit,
	.settle = server_settle,
	.rollback = server_rollback,
	.initialized = server_initialized,
	.create_schema = server_create_schema,
	.epoch = server_epoch,
	.set_epoch = server_set_epoch,
	.kek_get = server_kek_get,
	.kek_replace = server_kek_replace,
	.has_kek = server_has_kek,
	.legacy_get = server_legacy_get,
	.legacy_drop = server_legacy_drop,
	.item_get = server_item_get,
	.item_put = server_item_put,
	.item_count = server_item_count,
	.item_each = server_item_each,
	.item_names = server_item_names,
	.item_edit = server_item_edit,
	.item_convert = server_item_convert,
	.node_put = server_node_put,
	.node_beat = server_node_beat,
	.node_remove = server_node_remove,
	.node_each = server_node_each,
	.rekey_get = server_rekey_get,
	.rekey_open = server_rekey_open,
	.rekey_close = server_rekey_close,
	.range_claim = server_range_claim,
	.range_begin = server_range_begin,
	.range_save = server_range_save,
	.client_each = server_client_each,
};

kt_code kt_db_open_mariadb(kt_db_address *address, kt_db_mode mode, int busy_ms, kt_db **out, kt_err *err)
{
	server_db *db = calloc(1, sizeof *db);
	if (!db || !(db->base.name = strdup(address->name))) {
		free(db);
		kt_db_address_free(address);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	db->base.ops = &ops;
	db->address = *address;
	*address = (kt_db_address){0};
	db->busy_ms = busy_ms;
	kt_code rc = connect_once(db, err);
	if (rc == KT_OK && mode == KT_DB_CREATE)
		rc = make_tables(db, err);
	if (rc == KT_OK)
		*out = &db->base;
	else
		server_close(&db->base);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the store that need no running program: database, heartbeats, filler, creds. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "store/creds.h"
#include "store/db.h"
#include "store/item.h"
#include "store/node.h"
#include "store/pidfile.h"

static const char path[] = "parts.db";

static kt_db *fresh(void)
{
	kt_db *db;
	(void)unlink(path);
	assert_int_equal(kt_db_open((kt_db_place){.text = path}, KT_DB_CREATE, 2000, &db, NULL), KT_OK);
	assert_int_equal(kt_db_begin(db, true, NULL), KT_OK);
	assert_int_equal(kt_db_create_schema(db, NULL), KT_OK);
	assert_int_equal(kt_db_commit(db, NULL), KT_OK);
	return db;
}

/* Plain SQL from the side, as somebody with another tool would do. */
static void by_hand(const char *sql)
{
	sqlite3 *sq;
	assert_int_equal(sqlite3_open(path, &sq), SQLITE_OK);
	assert_int_equal(sqlite3_exec(sq, sql, NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_close(sq), SQLITE_OK);
}

static void put_node(kt_db *db, const char *name, int64_t age_ms, int64_t interval_ms)
{
	kt_db_node n = {.name = name,
			.host = "elsewhere",
			.home = "/x",
			.address = "",
			.pid = 77,
			.heartbeat_ms = kt_clock_wall_ms() - age_ms,
			.interval_ms = interval_ms};
	assert_int_equal(kt_db_node_put(db, &n, NULL), KT_OK);
}

static void gate_and_window(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_db *db = fresh();
	assert_int_equal(kt_node_gate(db, 60, &err), KT_OK);
	put_node(db, "web07", 59000, 5000);
	assert_int_equal(kt_node_gate(db, 60, &err), KT_E_REFUSED);
	assert_string_equal(err.msg, KT_NODE_LIVE);
	assert_non_null(strstr(err.remedy, "web07 (host elsewhere, pid 77"));
	put_node(db, "web07", 61000, 5000);
	assert_int_equal(kt_node_gate(db, 60, &err), KT_OK);
	put_node(db, "web07", -3600000, 5000); /* a clock that is ahead: live */
	assert_int_equal(kt_node_gate(db, 60, &err), KT_E_REFUSED);
	assert_int_equal(kt_db_node_remove(db, "web07", 78, NULL), KT_OK); /* not the process that made it */
	assert_int_equal(kt_node_gate(db, 60, &err), KT_E_REFUSED);
	assert_int_equal(kt_db_node_remove(db, "web07", 77, NULL), KT_OK);
	assert_int_equal(kt_node_gate(db, 60, &err), KT_OK);
	kt_db_close(db);
}

/* Beats for two seconds with a clock that is an hour behind, on a connection of its own. */
static void *beat_slowly(void *arg)
{
	kt_db *own;
	bool known = true;
	bool *good = arg;
	*good = kt_db_open((kt_db_place){.text = path}, KT_DB_WRITE, 2000, &own, NULL) == KT_OK;
	for (int i = 0; *good && i < 20; i++) {
		*good = kt_db_node_beat(own, "slow", 77, kt_clock_wall_ms() - 3600000, &known, NULL) == KT_OK && known;
		(void)usleep(100000);
	}
	kt_db_close(own);
	return NULL;
}

static void slow_clock_is_noticed(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	pthread_t thread;
	bool good = false;
	kt_db *db = fresh();
	put_node(db, "dead", 3600000, 200);
	assert_int_equal(kt_node_watch_stale(db, 60, &err), KT_OK);
	put_node(db, "slow", 3600000, 200);
	assert_int_equal(pthread_create(&thread, NULL, beat_slowly, &good), 0);
	(void)usleep(150000);
	assert_int_equal(kt_node_gate(db, 60, &err), KT_OK); /* the timestamps alone do not tell */
	assert_int_equal(kt_node_watch_stale(db, 60, &err), KT_E_REFUSED);
	assert_string_equal(err.msg, KT_NODE_LIVE);
	assert_non_null(strstr(err.remedy, "slow"));
	assert_null(strstr(err.remedy, "dead"));
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_true(good);
	kt_db_close(db);
}

typedef struct seen {
	int good, bad;
	char last_bad[64];
} seen;

static kt_code see(void *arg, const char *name, const void *envelope, size_t len, const char *bad, kt_err *err)
{
	seen *s = arg;
	(void)envelope;
	(void)len;
	(void)err;
	s->good += bad == NULL;
	s->bad += bad != NULL;
	if (bad)
		(void)snprintf(s->last_bad, sizeof s->last_bad, "%s: %s", name, bad);
	return KT_OK;
}

static kt_code leave(void *arg, const char *name, uint8_t *head, size_t total, kt_err *err)
{
	(void)arg;
	(void)name;
	(void)head;
	(void)total;
	(void)err;
	return KT_OK;
}

static void rows_that_cannot_be(void **state)
{
	(void)state;
	static const struct {
		const char *value, *name, *says;
	} c[] = {{"7", "'x'", "x: it holds no envelope"},
		 {"'text'", "'x'", "x: it holds no envelope"},
		 {"x'00'", "x'ff'", "(row 1): its name is not a text"},
		 {"x'00'", "'a' || char(0) || 'b'", "(row 1): its name is not a text"}};
	for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
		kt_db *db = fresh();
		char sql[256];
		seen s = {0};
		int64_t count;
		kt_err err = KT_ERR_INIT;
		(void)snprintf(sql, sizeof sql, "INSERT INTO item VALUES(1, %s, 1, %s)", c[i].name, c[i].value);
		by_hand(sql);
		assert_int_equal(kt_db_item_each(db, NULL, see, &s, NULL), KT_OK);
		assert_int_equal(s.bad, 1);
		assert_string_equal(s.last_bad, c[i].says);
		if (strcmp(c[i].value, "'text'") != 0) /* SQLite opens a text as a blob; its head will not parse */
			assert_int_equal(kt_db_item_edit(db, NULL, 8, 4, leave, NULL, &count, &err), KT_E_INPUT);
		kt_db_close(db);
	}
}

static kt_code scribble(void *arg, const char *name, uint8_t *head, size_t total, kt_err *err)
{
	(void)arg;
	(void)name;
	(void)err;
	assert_true(total == 20 || total == 3);
	memset(head, 'X', 8);
	return KT_OK;
}

static kt_code fill_whole(void *arg, const char *name, uint8_t *bytes, size_t total, kt_err *err)
{
	(void)arg;
	(void)name;
	(void)err;
	memset(bytes, 'Y', total);
	return KT_OK;
}

static void whole_envelopes_are_edited_in_place(void **state)
{
	(void)state;
	static const size_t sizes[] = {3, 100000, 0, 20}; /* larger, then smaller: the buffer is used again */
	kt_db *db = fresh();
	kt_buf env = KT_BUF_INIT, got = KT_BUF_INIT;
	int64_t count;
	bool found;
	assert_int_equal(kt_buf_reserve(&env, 100000, NULL), KT_OK);
	memset(env.data, 'x', 100000);
	for (size_t i = 0; i < 4; i++) {
		env.len = sizes[i];
		assert_int_equal(kt_db_item_put(db, (const char[]){(char)('a' + i), 0}, &env, NULL), KT_OK);
	}
	assert_int_equal(kt_db_item_edit(db, NULL, KT_DB_WHOLE, 0, fill_whole, NULL, &count, NULL), KT_OK);
	assert_int_equal(count, 4);
	memset(env.data, 'Y', 100000);
	for (size_t i = 0; i < 4; i++) {
		int64_t version;
		kt_buf_clear(&got);
		assert_int_equal(kt_db_item_get(db, (const char[]){(char)('a' + i), 0}, &got, &version, &found, NULL),
				 KT_OK);
		assert_int_equal(got.len, sizes[i]);
		assert_true(got.len == 0 || memcmp(got.data, env.data, got.len) == 0);
	}
	kt_buf_free(&env);
	kt_buf_free(&got);
	kt_db_close(db);
}

static void heads_are_edited_in_place(void **state)
{
	(void)state;
	kt_db *db = fresh();
	kt_buf env = KT_BUF_INIT, got = KT_BUF_INIT;
	int64_t count, version;
	bool found;
	assert_int_equal(kt_buf_str(&env, "0123456789abcdefghij", NULL), KT_OK);
	assert_int_equal(kt_db_item_put(db, "long", &env, NULL), KT_OK);
	env.len = 3;
	assert_int_equal(kt_db_item_put(db, "short", &env, NULL), KT_OK);
	assert_int_equal(kt_db_begin(db, true, NULL), KT_OK);
	assert_int_equal(kt_db_item_edit(db, NULL, 8, 4, scribble, NULL, &count, NULL), KT_OK);
	assert_int_equal(count, 2);
	assert_int_equal(kt_db_commit(db, NULL), KT_OK);
	assert_int_equal(kt_db_item_get(db, "long", &got, &version, &found, NULL), KT_OK);
	assert_string_equal(kt_buf_cstr(&got), "0123XXXX89abcdefghij");
	kt_buf_clear(&got);
	assert_int_equal(kt_db_item_get(db, "short", &got, &version, &found, NULL), KT_OK);
	assert_string_equal(kt_buf_cstr(&got), "012");
	kt_buf_free(&env);
	kt_buf_free(&got);
	kt_db_close(db);
}

static void foreign_and_newer_databases(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	bool yes;
	kt_db *db = fresh();
	assert_int_equal(kt_db_initialized(db, &yes, NULL), KT_OK);
	assert_true(yes);
	by_hand("PRAGMA user_version=2");
	assert_int_equal(kt_db_initialized(db, &yes, &err), KT_E_INPUT);
	assert_non_null(strstr(err.msg, "version 2"));
	by_hand("PRAGMA application_id=1");
	assert_int_equal(kt_db_initialized(db, &yes, &err), KT_E_INPUT);
	assert_non_null(strstr(err.msg, "another program"));
	kt_db_close(db);
	assert_int_equal(kt_db_open((kt_db_place){.text = "/nonexistent/x.db"}, KT_DB_CREATE, 0, &db, &err), KT_E_IO);
	assert_non_null(strstr(err.msg, "/nonexistent/x.db"));
	assert_int_equal(kt_db_open((kt_db_place){.text = "/nonexistent/x.db"}, KT_DB_LOOK, 0, &db, &err), KT_E_IO);
	assert_null(db);
}

static void kek_rows(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_db *db = fresh();
	kt_buf record = KT_BUF_INIT, got = KT_BUF_INIT;
	assert_int_equal(kt_db_kek_get(db, &got, &err), KT_E_INPUT);
	assert_int_equal(kt_buf_str(&record, "one", NULL), KT_OK);
	assert_int_equal(kt_db_kek_replace(db, 1, &record, NULL), KT_OK);
	assert_int_equal(kt_db_kek_get(db, &got, NULL), KT_OK);
	assert_string_equal(kt_buf_cstr(&got), "one");
	by_hand("INSERT INTO kek VALUES(5, x'00')");
	assert_int_equal(kt_db_kek_get(db, &got, &err), KT_E_INPUT);
	assert_int_equal(kt_db_kek_replace(db, 6, &record, NULL), KT_OK);
	kt_buf_clear(&got);
	assert_int_equal(kt_db_kek_get(db, &got, NULL), KT_OK);
	by_hand("DELETE FROM meta");
	int64_t epoch;
	assert_int_equal(kt_db_epoch(db, &epoch, &err), KT_E_INPUT);
	kt_buf_free(&record);
	kt_buf_free(&got);
	kt_db_close(db);
}

/* A process that was away during a rekey must neither write under its old KEK nor read on as if nothing had been. */
static void sessions_notice_a_rekey(void **state)
{
	(void)state;
	char database[] = "parts.db";
	const kt_store_config cfg = {.database = database};
	kt_keystore *cmk;
	kt_kek kek;
	kt_session s;
	kt_buf record = KT_BUF_INIT, out = KT_BUF_INIT;
	kt_err err = KT_ERR_INIT;
	int64_t count;
	kt_db *db = fresh();
	(void)unsetenv("LKR_MASTER_KEY_FILE");
	(void)setenv("LKR_MASTER_KEY_ENV", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", 1);
	assert_int_equal(kt_keys_open(KT_KEYS_PLAIN, &cmk, NULL), KT_OK);
	assert_int_equal(kt_kek_make(cmk, 1, 0, &kek, &record, NULL), KT_OK);
	assert_int_equal(kt_db_kek_replace(db, 1, &record, NULL), KT_OK);
	assert_int_equal(kt_session_open(&s, &cfg, KT_DB_WRITE, NULL), KT_OK);
	assert_int_equal(kt_item_put(&s, "before", "x", 1, NULL), KT_OK);
	assert_int_equal(kt_item_get(&s, "before", &out, NULL), KT_OK);
	assert_int_equal(kt_db_set_epoch(db, 2, NULL), KT_OK);
	assert_int_equal(kt_item_put(&s, "after", "x", 1, &err), KT_E_KEY);
	assert_non_null(strstr(err.msg, "rekeyed in the meantime"));
	assert_int_equal(kt_item_get(&s, "before", &out, &err), KT_E_KEY);
	assert_int_equal(kt_db_item_count(db, &count, NULL), KT_OK);
	assert_int_equal(count, 1);
	kt_session_close(&s);
	kt_kek_free(&kek);
	kt_keystore_close(cmk);
	kt_buf_free(&record);
	kt_buf_free(&out);
	(void)unsetenv("LKR_MASTER_KEY_ENV");
	kt_db_close(db);
}

static int set_up(void **state)
{
	(void)state;
	return kt_secret_setup(NULL) == KT_OK ? 0 : -1;
}

static void a_busy_database_says_so(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_db *one = fresh(), *two;
	assert_int_equal(kt_db_open((kt_db_place){.text = path}, KT_DB_WRITE, 50, &two, NULL), KT_OK);
	assert_int_equal(kt_db_begin(one, true, NULL), KT_OK);
	assert_int_equal(kt_db_begin(two, true, &err), KT_E_BUSY);
	assert_non_null(strstr(err.msg, path));
	kt_db_rollback(one);
	assert_int_equal(kt_db_begin(two, true, &err), KT_OK);
	kt_db_close(two);
	kt_db_close(one);
}

typedef struct where {
	const char *text, *says; /* the address, or the error (then `good` is false) */
	bool good;
} where;

static void urls(void **state)
{
	(void)state;
	static const where c[] = {
		{"mariadb://looker@db.example:3307/looker", "mariadb://looker@db.example:3307/looker", true},
		{"mysql://looker@db/looker", "mariadb://looker@db:3306/looker", true},
		{"mysql://looker@[::1]:1/x?ssl=true&password_file=/run/pw", "mariadb://looker@[::1]:1/x", true},
		{"mariadb://u@h/d?socket=/run/s", "mariadb://u@localhost/d?socket=/run/s", true},
		{"sqlite:/x/y.db", "/x/y.db", true},
		{"/x/y.db", "/x/y.db", true},
		{"mariadb://looker:hunter2@db/looker", "a password in it", false},
		{"mariadb://db/looker", "the user is missing", false},
		{"mariadb://@db/looker", "the user is missing", false},
		{"mariadb://u@/d", "the host is missing", false},
		{"mariadb://u@h", "the name of the database is missing", false},
		{"mariadb://u@h/", "the name of the database is missing", false},
		{"mariadb://u@h:0/d", "the port is not", false},
		{"mariadb://u@h:70000/d", "the port is not", false},
		{"mariadb://u@h:x/d", "the port is not", false},
		{"mariadb://u@[::1/d", "bracket", false},
		{"mariadb://u@[h]/d", "an IPv6 address", false},
		{"sqlite:", "it is empty", false},
		{"mariadb://u@h/d?password=hunter2", "known options", false},
		{"mariadb://u@h/d?password_file=hunter2", "an absolute path", false},
		{"mariadb://u@h/d?ssl=hunter2", "ssl is true or false", false},
		{"mariadb://u@h/d?socket=/a&socket=/b", "given twice", false},
		{"mariadb://u@h/d?socket", "has no value", false},
		{"mariadb://u@h/d?socket=", "has no value", false},
		{"mariadb://u%41@h/d", "cannot stand there", false},
	};
	for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
		kt_db_address a;
		kt_err err = KT_ERR_INIT;
		char *password_file;
		kt_code rc = kt_db_address_parse(c[i].text, &a, &password_file, &err);
		assert_int_equal(rc, c[i].good ? KT_OK : KT_E_INPUT);
		assert_null(strstr(err.msg, "hunter2"));
		if (c[i].good)
			assert_string_equal(a.name, c[i].says);
		else if (!strstr(err.msg, c[i].says))
			fail_msg("\"%s\" is not in: %s", c[i].says, err.msg);
		free(password_file);
		kt_db_address_free(&a);
	}
}

static kt_code parse_creds(const char *text, size_t len, kt_db_address *a, kt_err *err)
{
	char own[512];
	assert_true(len < sizeof own);
	memcpy(own, text, len);
	own[len] = '\0';
	return kt_creds_parse(own, len, "/conf/db.yaml", a, err);
}

static const char good_creds[] = "---\nhost: db.example # there\nusername: looker\npassword: 'hunter2: #x'\n"
				 "database: \"looker\"\ndialect: mysql\nport: 3307\nssl: true\nssl_ca: ca.pem\n";

static void creds_of_a_server(void **state)
{
	(void)state;
	kt_db_address a;
	assert_int_equal(parse_creds(good_creds, sizeof good_creds - 1, &a, NULL), KT_OK);
	assert_true(a.server && a.ssl);
	assert_string_equal(a.name, "mariadb://looker@db.example:3307/looker");
	assert_string_equal((const char *)a.password.data, "hunter2: #x");
	assert_string_equal(a.ssl_ca, "/conf/ca.pem");
	kt_db_address_free(&a);
	static const where c[] = {
		{"dialect: mysql\nhost: h\nusername: u\n", "database: it is missing", false},
		{"dialect: mysql\nhost: h\ndatabase: d\n", "username: it is missing", false},
		{"dialect: mysql\nusername: u\ndatabase: d\n", "host: it is missing", false},
		{"dialect: mysql\nhost: h\nusername: u\ndatabase: d\nport: hunter2\n", "port: not a value", false},
		{"dialect: mysql\nhost: h\nusername: u\ndatabase: d\nssl: hunter2\n", "ssl: not a value", false},
		{"dialect: mysql\npassword: {hunter2}\n", "db.yaml:2: the value of password", false},
		{"dialect: mysql\nhunter2: [x]\n", "db.yaml:2: the value is not", false},
	};
	for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
		kt_err err = KT_ERR_INIT;
		assert_int_equal(parse_creds(c[i].text, strlen(c[i].text), &a, &err), KT_E_INPUT);
		assert_null(strstr(err.msg, "hunter2"));
		if (!strstr(err.msg, c[i].says))
			fail_msg("\"%s\" is not in: %s", c[i].says, err.msg);
	}
}

/* Cut off anywhere, or with any byte another: an address or an error, and never the password in it. */
static void damaged_creds(void **state)
{
	(void)state;
	char text[sizeof good_creds];
	for (size_t i = 0; i < 2 * sizeof good_creds; i++) {
		kt_db_address a;
		kt_err err = KT_ERR_INIT;
		size_t n = i < sizeof good_creds ? i : sizeof good_creds - 1;
		memcpy(text, good_creds, sizeof text);
		if (i >= sizeof good_creds)
			text[i - sizeof good_creds] ^= 0x15;
		kt_code rc = parse_creds(text, n, &a, &err);
		assert_true(rc == KT_OK || rc == KT_E_INPUT);
		assert_null(strstr(err.msg, "hunter2"));
		kt_db_address_free(&a);
	}
}

static void filler_is_what_the_header_says(void **state)
{
	(void)state;
	kt_buf one = KT_BUF_INIT, two = KT_BUF_INIT;
	/* printf 'fill/00000001\0\0\0\0\0' | sha256sum, and with \1 at the end */
	static const uint8_t first[] = {0x65, 0x0f, 0x4f, 0xa2}, second[] = {0xab, 0xa4, 0x69, 0x96};
	assert_int_equal(kt_item_filler("fill/00000001", 40, &one, NULL), KT_OK);
	assert_int_equal(one.len, 40);
	assert_memory_equal(one.data, first, sizeof first);
	assert_memory_equal(one.data + 32, second, sizeof second);
	assert_int_equal(kt_item_filler("fill/00000001", 32, &two, NULL), KT_OK);
	assert_memory_equal(one.data, two.data, 32);
	kt_buf_clear(&two);
	assert_int_equal(kt_item_filler("fill/00000002", 32, &two, NULL), KT_OK);
	assert_memory_not_equal(one.data, two.data, 32);
	kt_buf_free(&one);
	kt_buf_free(&two);
}

static void names(void **state)
{
	(void)state;
	assert_int_equal(kt_item_check_name("a b/ü", NULL), KT_OK);
	assert_int_equal(kt_item_check_name("", NULL), KT_E_INPUT);
	assert_int_equal(kt_item_check_name("a\nb", NULL), KT_E_INPUT);
	assert_int_equal(kt_item_check_name("a\x7f", NULL), KT_E_INPUT);
}

static void pid_file_lock(void **state)
{
	(void)state;
	int fd, ready[2];
	pid_t pid, owner;
	kt_err err = KT_ERR_INIT;
	(void)unlink("parts.pid");
	assert_int_equal(kt_pidfile_owner("parts.pid", &owner, NULL), KT_OK);
	assert_int_equal(owner, 0);
	assert_int_equal(pipe(ready), 0);
	pid_t child = fork();
	if (child == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)signal(SIGTERM, SIG_IGN); /* one that does not listen */
		if (kt_pidfile_take("parts.pid", &fd, NULL) != KT_OK || write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			(void)pause();
	}
	char c;
	assert_int_equal(read(ready[0], &c, 1), 1);
	assert_int_equal(kt_pidfile_owner("parts.pid", &owner, NULL), KT_OK);
	assert_int_equal(owner, child);
	assert_int_equal(kt_pidfile_take("parts.pid", &fd, &err), KT_E_BUSY);
	assert_int_equal(kt_pidfile_stop("parts.pid", 300, &pid, &err), KT_E_BUSY);
	assert_int_equal(pid, child);
	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_int_equal(kt_pidfile_owner("parts.pid", &owner, NULL), KT_OK);
	assert_int_equal(owner, 0);
	assert_int_equal(kt_pidfile_take("parts.pid", &fd, &err), KT_OK); /* the stale file is taken over */
	kt_pidfile_release("parts.pid", fd);
	assert_int_equal(access("parts.pid", F_OK), -1);
	(void)close(ready[0]);
	(void)close(ready[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gate_and_window),
		cmocka_unit_test(slow_clock_is_noticed),
		cmocka_unit_test(rows_that_cannot_be),
		cmocka_unit_test(whole_envelopes_are_edited_in_place),
		cmocka_unit_test(heads_are_edited_in_place),
		cmocka_unit_test(foreign_and_newer_databases),
		cmocka_unit_test(kek_rows),
		cmocka_unit_test(sessions_notice_a_rekey),
		cmocka_unit_test(a_busy_database_says_so),
		cmocka_unit_test(filler_is_what_the_header_says),
		cmocka_unit_test(names),
		cmocka_unit_test(urls),
		cmocka_unit_test(creds_of_a_server),
		cmocka_unit_test(damaged_creds),
		cmocka_unit_test(pid_file_lock),
	};
	return cmocka_run_group_tests(tests, set_up, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs around a node's life, run as the built program. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/codec.h"
#include "base/file.h"
#include "tests/unit/store/lab.h"

#define assert_contains(text, part)                                                                                    \
	do {                                                                                                           \
		if (!strstr(text, part))                                                                               \
			fail_msg("\"%s\" is not in: %s", part, text);                                                  \
	} while (0)

/* The first line of what was said on stderr. */
static const char *first_line(const lab_result *r)
{
	static char line[1024];
	(void)snprintf(line, sizeof line, "%.*s", (int)strcspn(r->err, "\n"), r->err);
	return line;
}

static void start_put_get_stop(void **state)
{
	(void)state;
	const lab_result *r = lab("start");
	assert_int_equal(r->code, 0);
	assert_contains(r->out, "node web01 is running, pid ");
	assert_int_equal(lab("status")->code, 0);
	assert_int_equal(lab("put", "greeting", "hello")->code, 0);
	r = lab("get", "greeting");
	assert_int_equal(r->code, 0);
	assert_string_equal(r->out, "hello");
	lab_write("stdin", 0600, "from\0stdin", 10);
	assert_int_equal(lab("put", "binary", "-")->code, 0);
	assert_string_equal(lab_json(lab("get", "binary", "--json")->out, "base64"), "ZnJvbQBzdGRpbg==");
	assert_string_equal(lab("list")->out, "greeting\nbinary\n");
	assert_int_equal(lab("put", "greeting", "changed")->code, 0);
	assert_string_equal(lab("get", "greeting")->out, "changed");
	r = lab("verify", "--json");
	assert_int_equal(r->code, 0);
	assert_string_equal(lab_json(r->out, "opened"), "2");
	r = lab("stop");
	assert_int_equal(r->code, 0);
	assert_contains(r->out, "is stopped and deregistered");
	assert_int_equal(lab_pid("."), 0);
	assert_int_equal(lab("status")->code, 3);
	r = lab("stop");
	assert_int_equal(r->code, 0);
	assert_string_equal(r->out, "node web01 is not running\n");
	r = lab("get", "nothing");
	assert_int_equal(r->code, 3);
	assert_string_equal(first_line(r), "there is no item \"nothing\"");
}

static void status_tells(void **state)
{
	(void)state;
	const lab_result *r = lab("status", "--json");
	assert_int_equal(r->code, 0);
	assert_string_equal(lab_json(r->out, "initialized"), "false");
	assert_string_equal(lab_json(r->out, "running"), "false");
	assert_int_equal(access("looker.db", F_OK), -1); /* looking makes nothing */
	assert_int_equal(lab("start")->code, 0);
	lab_node("web02");
	assert_int_equal(lab_at("web02", "start")->code, 0);
	r = lab("status", "--json");
	assert_string_equal(lab_json(r->out, "running"), "true");
	assert_string_equal(lab_json(r->out, "nodes.0.name"), "web01");
	assert_string_equal(lab_json(r->out, "nodes.0.live"), "true");
	assert_string_equal(lab_json(r->out, "nodes.0.this"), "true");
	assert_string_equal(lab_json(r->out, "nodes.1.name"), "web02");
	assert_string_equal(lab_json(r->out, "nodes.1.this"), "false");
	assert_int_equal(strlen(lab_json(r->out, "kek.cmk_kcv")), 6);
	/* both nodes see what the other writes */
	assert_int_equal(lab_at("web02", "put", "shared", "x")->code, 0);
	assert_string_equal(lab_talk(".", "GET shared\nQUIT\n"), "OK eA==\nBYE\n");
	assert_int_equal(lab_at("web02", "stop")->code, 0);
	assert_string_equal(lab_json(lab("status", "--json")->out, "nodes.1.name"), "");
	/* the heartbeat goes on */
	lab_sleep_ms(2500);
	assert_string_equal(lab_json(lab("status", "--json")->out, "nodes.0.live"), "true");
	/* the file alone is everything once all have stopped */
	assert_int_equal(lab("stop")->code, 0);
	assert_int_equal(access("looker.db-journal", F_OK), -1);
	assert_int_equal(access("looker.db-wal", F_OK), -1);
}

static void second_start_is_refused(void **state)
{
	(void)state;
	assert_int_equal(lab("start")->code, 0);
	pid_t pid = lab_pid(".");
	const lab_result *r = lab("start");
	assert_int_equal(r->code, 12);
	char expect[64];
	(void)snprintf(expect, sizeof expect, "running already (pid %d", (int)pid);
	assert_contains(r->err, expect);
	assert_int_equal(lab_pid("."), pid);
	/* the same node name in another installation */
	lab_node("web02");
	static const char config[] = "{\"database\":\"../looker.db\",\"node\":\"web01\",\"listen\":\"127.0.0.1:0\"}";
	lab_write("web02/store.json", 0644, config, sizeof config - 1);
	r = lab_at("web02", "start");
	assert_int_equal(r->code, 4);
	assert_contains(r->err, "the node name \"web01\" is in use");
	assert_int_equal(lab("status")->code, 0);
}

/* The documented messages, to the letter. */
static void start_says_why_not(void **state)
{
	(void)state;
	(void)unsetenv("LKR_MASTER_KEY_FILE");
	const lab_result *r = lab("start");
	assert_int_equal(r->code, 11);
	assert_string_equal(first_line(r), "Looker can not start because: Missing backing keystore");
	(void)setenv("LKR_MASTER_KEY_FILE", "/nonexistent/cmk", 1);
	r = lab("start");
	assert_int_equal(r->code, 11);
	assert_string_equal(first_line(r), "Looker can not start because: Missing backing keystore");
	(void)setenv("LKR_MASTER_KEY_FILE", "cmk", 1);
	assert_int_equal(chmod("cmk", 0640), 0);
	r = lab("start");
	assert_int_equal(r->code, 11);
	assert_string_equal(first_line(r),
			    "Looker can not start because: Permission for backing key file must be 0400, but is 0640");
	lab_write("cmk", 0400, "AAECAwQFBgcICQoLDA0ODw==", 24);
	r = lab("start");
	assert_int_equal(r->code, 11);
	assert_string_equal(first_line(r),
			    "Looker can not start because: Size of the Master Key is invalid it must be 32 "
			    "bytes however is 16");
	(void)unsetenv("LKR_MASTER_KEY_FILE");
	(void)setenv("LKR_MASTER_KEY_ENV", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gIQ==", 1);
	r = lab("start", "--foreground");
	assert_int_equal(r->code, 11);
	assert_string_equal(first_line(r),
			    "Looker can not start because: Size of the Master Key is invalid it must be 32 "
			    "bytes however is 34");
	assert_null(strstr(r->err, "AAECAwQF"));
	(void)setenv("LKR_MASTER_KEY_FILE", "cmk2", 1);
	r = lab("start");
	assert_int_equal(r->code, 11);
	assert_contains(r->err, "LKR_MASTER_KEY_FILE and LKR_MASTER_KEY_ENV are both set");
	assert_int_equal(access("looker.db", F_OK), -1);
	assert_int_equal(lab_pid("."), 0);
}

/* S4: no node starts with a key that does not open the data. */
static void wrong_key_is_refused(void **state)
{
	(void)state;
	assert_int_equal(lab("start")->code, 0);
	assert_int_equal(lab("put", "a", "b")->code, 0);
	assert_int_equal(lab("stop")->code, 0);
	(void)setenv("LKR_MASTER_KEY_FILE", "cmk2", 1);
	const lab_result *r = lab("start");
	assert_int_equal(r->code, 11);
	assert_contains(r->err, "Looker can not start because: the master key file:");
	assert_contains(r->err, "does not open the data");
	assert_int_equal(lab("status")->code, 3);
	assert_string_equal(lab_json(lab("status", "--json")->out, "nodes.0.name"), "");
	static const char *const need_key[][3] = {{"get", "a", NULL}, {"verify", NULL, NULL}, {"put", "a", "c"}};
	for (size_t i = 0; i < 3; i++) {
		const char *const args[] = {need_key[i][0], need_key[i][1], need_key[i][2], NULL};
		assert_int_equal(lab_run(".", args)->code, 11);
	}
	(void)setenv("LKR_MASTER_KEY_FILE", "cmk", 1);
	assert_string_equal(lab("get", "a")->out, "b");
}

static void key_in_the_environment(void **state)
{
	(void)state;
	(void)unsetenv("LKR_MASTER_KEY_FILE");
	(void)setenv("LKR_MASTER_KEY_ENV", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", 1);
	assert_int_equal(lab("start")->code, 0);
	assert_int_equal(lab("put", "a", "b")->code, 0);
	/* the node has wiped the key from its environment */
	char path[64];
	kt_buf environment = KT_BUF_INIT;
	(void)snprintf(path, sizeof path, "/proc/%d/environ", (int)lab_pid("."));
	FILE *f = fopen(path, "rb");
	if (f) {
		char block[4096];
		size_t n;
		while ((n = fread(block, 1, sizeof block, f)) > 0)
			assert_int_equal(kt_buf_append(&environment, block, n, NULL), KT_OK);
		(void)fclose(f);
		assert_true(environment.len > 0);
		assert_null(memmem(environment.data, environment.len, "AAECAwQF", 8));
	}
	kt_buf_free(&environment);
	assert_int_equal(lab("stop")->code, 0);
	/* the same key from the file */
	(void)unsetenv("LKR_MASTER_KEY_ENV");
	(void)setenv("LKR_MASTER_KEY_FILE", "cmk", 1);
	assert_string_equal(lab("get", "a")->out, "b");
}

static void foreground_stops_on_sigterm(void **state)
{
	(void)state;
	static const char *const args[] = {"start", "--foreground", NULL};
	pid_t pid = lab_spawn(args);
	for (int i = 0; i < 100 && lab("status")->code != 0; i++)
		lab_sleep_ms(50);
	assert_int_equal(lab_pid("."), pid);
	const lab_result *r = lab("stop"); /* the zombie is reaped below; the stop must not wait for that */
	assert_int_equal(r->code, 0);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_string_equal(lab_json(lab("status", "--json")->out, "nodes.0.name"), "");
}

/* A pid file that names somebody else's process: it is not signalled, and does not keep the node from starting. */
static void foreign_pid_file(void **state)
{
	(void)state;
	char text[32];
	pid_t bystander = fork();
	if (bystander == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)pause();
		_exit(0);
	}
	int n = snprintf(text, sizeof text, "%d\n", (int)bystander);
	lab_write("looker.pid", 0644, text, (size_t)n);
	assert_string_equal(lab("stop")->out, "node web01 is not running\n");
	assert_int_equal(lab("status")->code, 3);
	assert_int_equal(kill(bystander, 0), 0);
	assert_int_equal(lab("start")->code, 0);
	assert_int_not_equal(lab_pid("."), bystander);
	assert_int_equal(kill(bystander, SIGKILL), 0);
	assert_int_equal(waitpid(bystander, NULL, 0), bystander);
}

static void line_protocol(void **state)
{
	(void)state;
	assert_int_equal(lab("start")->code, 0);
	assert_string_equal(lab_talk(".", "COUNT\nPUT a aGk=\r\nGET a\nCOUNT\nQUIT\n"),
			    "OK 0\nOK\nOK aGk=\nOK 1\nBYE\n");
	assert_contains(lab_talk(".", "GET b\nQUIT\n"), "ERR input there is no item \"b\"\nBYE\n");
	assert_contains(lab_talk(".", "PUT a\nQUIT\n"), "ERR usage PUT name base64");
	assert_contains(lab_talk(".", "PUT a !!!\nQUIT\n"), "ERR input");
	assert_contains(lab_talk(".", "PUT  aGk=\nQUIT\n"), "ERR input");
	assert_contains(lab_talk(".", "\nSHUTDOWN\nQUIT\n"), "ERR usage known are GET, PUT, COUNT and QUIT");
	/* a line that never ends is cut off, and the node goes on */
	char *flood = malloc(2 * 1024 * 1024 + 1);
	assert_non_null(flood);
	memset(flood, 'x', 2 * 1024 * 1024);
	flood[2 * 1024 * 1024] = '\0';
	int fd = lab_connect(".");
	size_t sent = 0;
	for (ssize_t n = 1; n > 0 && sent<2 * 1024 * 1024; sent += n> 0 ? (size_t)n : 0)
		n = send(fd, flood + sent, 2 * 1024 * 1024 - sent, MSG_NOSIGNAL);
	(void)close(fd);
	free(flood);
	/* a client that stays connected does not keep the node from stopping */
	fd = lab_connect(".");
	assert_string_equal(lab_talk(".", "GET a\nQUIT\n"), "OK aGk=\nBYE\n");
	assert_int_equal(lab("stop")->code, 0);
	char c;
	assert_int_equal(recv(fd, &c, 1, 0), 0);
	(void)close(fd);
}

static void log_has_the_documented_format(void **state)
{
	(void)state;
	assert_int_equal(lab("start")->code, 0);
	assert_int_equal(lab("stop")->code, 0);
	kt_buf text = KT_BUF_INIT;
	assert_int_equal(kt_file_read("log/looker.log", &text, NULL), KT_OK);
	const char *line = kt_buf_cstr(&text);
	int y, mo, d, h, mi, s, ms, n = 0;
	unsigned pid;
	char part[16];
	assert_int_equal(sscanf(line, "%4d-%2d-%2d %2d:%2d:%2d.%3d +0000 [INFO|%x|%15[a-z]] :: %n", &y, &mo, &d, &h,
				&mi, &s, &ms, &pid, part, &n),
			 9);
	assert_true(n > 0);
	assert_contains(line, "AES-GCM-256");
	assert_contains(line, "stopped and deregistered");
	kt_buf_free(&text);
}

static void damaged_items_are_named(void **state)
{
	(void)state;
	assert_int_equal(lab("start")->code, 0);
	assert_int_equal(lab("stop")->code, 0);
	assert_int_equal(lab("fill", "--count", "20", "--size", "100")->code, 0);
	assert_int_equal(lab("verify", "--content")->code, 0);
	/* the content of one item, somewhere in the file */
	kt_buf db = KT_BUF_INIT;
	assert_int_equal(kt_file_read("looker.db", &db, NULL), KT_OK);
	uint8_t *env = lab_envelope(&db, "fill/00000007");
	env[130] ^= 1;
	lab_write("looker.db", 0600, db.data, db.len);
	const lab_result *r = lab("verify", "--json");
	assert_int_equal(r->code, 3);
	assert_string_equal(lab_json(r->out, "opened"), "19");
	assert_string_equal(lab_json(r->out, "failures.0.name"), "fill/00000007");
	assert_contains(lab_json(r->out, "failures.0.message"), "offset 220");
	r = lab("verify");
	assert_contains(r->err, "1 of 20 items do not open: \"fill/00000007\"");
	r = lab("get", "fill/00000007");
	assert_int_equal(r->code, 3);
	assert_contains(r->err, "item \"fill/00000007\"");
	assert_int_equal(lab("get", "fill/00000008")->code, 0);
	/* two items swapped */
	env[130] ^= 1;
	(void)memcpy(memmem(env - 20, 20, "fill/00000007", 13), "fill/00000009", 13);
	lab_write("looker.db", 0600, db.data, db.len);
	assert_int_equal(lab("verify")->code, 3);
	/* a file that is no database, and one of somebody else */
	lab_write("looker.db", 0600, "this is not a database, but it is long enough to be one ...", 59);
	r = lab("verify");
	assert_int_equal(r->code, 3);
	assert_contains(r->err, "looker.db");
	kt_buf_free(&db);
}

static void another_database_can_be_looked_at(void **state)
{
	(void)state;
	assert_int_equal(lab("start")->code, 0);
	assert_int_equal(lab("put", "a", "backed up")->code, 0);
	assert_int_equal(lab("stop")->code, 0);
	kt_buf db = KT_BUF_INIT;
	assert_int_equal(kt_file_read("looker.db", &db, NULL), KT_OK);
	lab_write("restored.db", 0600, db.data, db.len);
	kt_buf_free(&db);
	assert_int_equal(lab("put", "a", "changed since")->code, 0);
	assert_string_equal(lab("get", "a")->out, "changed since");
	const lab_result *r = lab("verify", "--json", "--database", "restored.db");
	assert_int_equal(r->code, 0);
	assert_string_equal(lab_json(r->out, "opened"), "1");
	assert_string_equal(lab("get", "a", "--database", "restored.db")->out, "backed up");
	/* also where there is no installation */
	assert_int_equal(rename("store.json", "elsewhere.json"), 0);
	assert_string_equal(lab("get", "a", "--database", "restored.db")->out, "backed up");
	r = lab("get", "a");
	assert_int_equal(r->code, 10);
	assert_contains(r->err, "there is no configuration");
	(void)setenv("KEYTURN_STORE_CONFIG", "elsewhere.json", 1);
	assert_string_equal(lab("get", "a")->out, "changed since");
	r = lab("start", "--database", "restored.db");
	assert_int_equal(r->code, 2);
}

static void cache_never_answers_wrongly(void **state)
{
	(void)state;
	assert_int_equal(lab("start")->code, 0);
	assert_int_equal(lab("put", "a", "one")->code, 0);
	assert_string_equal(lab("get", "a")->out, "one");
	char slot[KT_SHA256_HEX], path[64];
	assert_int_equal(kt_sha256_hex("a", 1, slot, NULL), KT_OK);
	(void)snprintf(path, sizeof path, ".cache/%.2s.kte", slot);
	kt_buf entry = KT_BUF_INIT;
	assert_int_equal(kt_file_read(path, &entry, NULL), KT_OK);
	assert_null(memmem(entry.data, entry.len, "one", 3)); /* sealed */
	assert_int_equal(lab("put", "a", "two")->code, 0);
	assert_string_equal(lab("get", "a")->out, "two");
	/* a damaged entry is a miss */
	kt_buf_clear(&entry);
	assert_int_equal(kt_file_read(path, &entry, NULL), KT_OK);
	entry.data[entry.len - 1] ^= 1;
	lab_write(path, 0600, entry.data, entry.len);
	const lab_result *r = lab("get", "a");
	assert_int_equal(r->code, 0);
	assert_string_equal(r->out, "two");
	lab_write(path, 0600, entry.data, 3);
	assert_string_equal(lab("get", "a")->out, "two");
	kt_buf_free(&entry);
}

static void command_line(void **state)
{
	(void)state;
	const lab_result *r = lab("import_db");
	assert_int_equal(r->code, 2);
	assert_string_equal(first_line(r), "Could not find task \"import_db\"");
	static const char *const names[] = {"start",
					    "stop",
					    "status",
					    "put",
					    "get",
					    "list",
					    "verify",
					    "fill",
					    "rekey",
					    "probe",
					    "migrate_encryption"};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		r = lab(names[i], "--help");
		assert_int_equal(r->code, 0);
		assert_contains(r->out, names[i]);
		assert_contains(lab("--help")->out, names[i]);
	}
	assert_int_equal(access("looker.db", F_OK), -1);
	assert_int_equal(lab("get")->code, 2);
	assert_int_equal(lab("get", "a", "b")->code, 2);
	assert_int_equal(lab("--nonsense")->code, 2);
	assert_int_equal(lab("fill", "--count", "0", "--size", "1")->code, 2);
	assert_int_equal(lab("fill", "--count", "5")->code, 2);
	assert_int_equal(lab("fill", "--count", "5x", "--size", "1")->code, 2);
	assert_int_equal(lab("get", "a", "--foreground")->code, 2);
	r = lab("get", "a", "--json");
	assert_int_equal(r->code, 10);
	assert_string_equal(lab_json(r->out, "error.class"), "io");
	assert_contains(lab_json(r->out, "error.message"), "looker.db");
	assert_string_not_equal(lab_json(r->out, "error.remedy"), "");
}

static void bad_configurations(void **state)
{
	(void)state;
	static const struct {
		const char *text, *says;
	} c[] = {{"{\"database\":\"x\",\n\"nodes\":1}", "store.json:2: $.nodes"},
		 {"{}", "database"},
		 {"{\"database\":7}", "store.json:1: $.database"},
		 {"{\"database\":\"x\",\"listen\":\"9999\"}", "$.listen"},
		 {"{\"database\":\"x\",\"listen\":\"127.0.0.1:99999\"}", "$.listen"},
		 {"{\"database\":\"x\",\"node\":\"a b\"}", "$.node"},
		 {"{\"database\":\"x\",\"heartbeat_seconds\":0}", "$.heartbeat_seconds"},
		 {"{\"database\":\"x\",\"heartbeat_seconds\":9,\n\n\"live_window_seconds\":9}", "store.json:3: "},
		 {"{\"database\":\"x\"", "store.json"},
		 {"[]", "object"}};
	for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
		lab_write("store.json", 0644, c[i].text, strlen(c[i].text));
		const lab_result *r = lab("status");
		assert_int_equal(r->code, 3);
		assert_contains(r->err, c[i].says);
	}
}

static void no_permission(void **state)
{
	(void)state;
	assert_int_equal(lab("start")->code, 0);
	assert_int_equal(lab("stop")->code, 0);
	assert_int_equal(chmod("looker.db", 0), 0);
	lab_not_as_root(); /* root may everything */
	const lab_result *r = lab("start");
	assert_int_equal(r->code, 10);
	assert_contains(r->err, "looker.db");
	assert_int_equal(chmod("looker.db", 0600), 0);
}

int main(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
#define T(f) cmocka_unit_test_setup_teardown(f, lab_set_up, lab_tear_down)
	const struct CMUnitTest tests[] = {
		T(start_put_get_stop),
		T(status_tells),
		T(second_start_is_refused),
		T(start_says_why_not),
		T(wrong_key_is_refused),
		T(key_in_the_environment),
		T(foreground_stops_on_sigterm),
		T(foreign_pid_file),
		T(line_protocol),
		T(log_has_the_documented_format),
		T(damaged_items_are_named),
		T(another_database_can_be_looked_at),
		T(cache_never_answers_wrongly),
		T(command_line),
		T(bad_configurations),
		T(no_permission),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

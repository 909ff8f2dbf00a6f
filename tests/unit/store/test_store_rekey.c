/* SPDX-License-Identifier: Apache-2.0 */
/* Rekey and probe, run as the built program. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "tests/unit/store/lab.h"

#define assert_contains(text, part)                                                                                    \
	do {                                                                                                           \
		if (!strstr(text, part))                                                                               \
			fail_msg("\"%s\" is not in: %s", part, text);                                                  \
	} while (0)

static const char refusal[] = "There are other live nodes connected to this backend Looker database. If Looker was "
			      "shutdown within the last minute, "
			      "try again shortly, otherwise verify all nodes in the cluster are shut down.";

static const char key1[] = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
static const char key2[] = "IAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

static const char *first_line(const lab_result *r)
{
	static char line[1024];
	(void)snprintf(line, sizeof line, "%.*s", (int)strcspn(r->err, "\n"), r->err);
	return line;
}

/* A stopped store with some items. */
static void make_store(const char *count)
{
	assert_int_equal(lab("start")->code, 0);
	assert_int_equal(lab("stop")->code, 0);
	assert_int_equal(lab("fill", "--count", count, "--size", "200")->code, 0);
}

static void file_to_file(void)
{
	(void)setenv("LKR_MASTER_KEY_FILE_SOURCE", "cmk", 1);
	(void)setenv("LKR_MASTER_KEY_FILE_DESTINATION", "cmk2", 1);
}

static int verify_with(const char *key, const char **out)
{
	(void)setenv("LKR_MASTER_KEY_FILE", key, 1);
	const lab_result *r = lab("verify", "--content", "--json");
	if (out)
		*out = r->out;
	(void)setenv("LKR_MASTER_KEY_FILE", "cmk", 1);
	return r->code;
}

static void expect_probe(const char *verdict)
{
	char line[16];
	(void)snprintf(line, sizeof line, "%s\n", verdict);
	const lab_result *r = lab("probe");
	assert_int_equal(r->code, 0);
	assert_string_equal(r->out, line);
}

static void ten_thousand_items(void **state)
{
	(void)state;
	const char *out;
	make_store("10000");
	file_to_file();
	expect_probe("old");
	const lab_result *r = lab("rekey", "--json");
	assert_int_equal(r->code, 0);
	assert_string_equal(lab_json(r->out, "items"), "10000");
	assert_string_equal(lab_json(r->out, "old.generation"), "1");
	assert_string_equal(lab_json(r->out, "new.generation"), "2");
	assert_string_equal(lab_json(r->out, "epoch"), "2");
	assert_string_not_equal(lab_json(r->out, "old.kek"), lab_json(r->out, "new.kek"));
	assert_string_not_equal(lab_json(r->out, "old.cmk_kcv"), lab_json(r->out, "new.cmk_kcv"));
	expect_probe("new");
	assert_int_equal(verify_with("cmk", NULL), 11); /* nothing opens with the old one */
	assert_int_equal(verify_with("cmk2", &out), 0);
	assert_string_equal(lab_json(out, "opened"), "10000");
	assert_string_equal(lab_json(out, "compared"), "10000");
	/* nothing of the old KEK is left in the file */
	kt_buf db = KT_BUF_INIT;
	assert_int_equal(kt_file_read("looker.db", &db, NULL), KT_OK);
	size_t records = 0;
	for (uint8_t *p = db.data; (p = memmem(p, db.len - (size_t)(p - db.data), "KTKR", 4)) != NULL; p++)
		records++;
	assert_int_equal(records, 1);
	kt_buf_free(&db);
	/* the node starts with the new key, not with the old one */
	assert_int_equal(lab("start")->code, 11);
	(void)setenv("LKR_MASTER_KEY_FILE", "cmk2", 1);
	assert_int_equal(lab("start")->code, 0);
	assert_contains(lab_talk(".", "COUNT\nQUIT\n"), "OK 10000");
}

static void every_transition(void **state)
{
	(void)state;
	make_store("10");
	(void)unsetenv("LKR_MASTER_KEY_FILE");
	static const struct {
		const char *from, *from_value, *to, *to_value;
	} way[] = {{"FILE", "cmk", "ENV", key2},
		   {"ENV", key2, "ENV", key1},
		   {"ENV", key1, "FILE", "cmk2"},
		   {"FILE", "cmk2", "FILE", "cmk"}};
	for (size_t i = 0; i < 4; i++) {
		char source[64], destination[64], plain[64];
		(void)snprintf(plain, sizeof plain, "LKR_MASTER_KEY_%s", way[i].from);
		(void)snprintf(source, sizeof source, "LKR_MASTER_KEY_%s_SOURCE", way[i].from);
		(void)snprintf(destination, sizeof destination, "LKR_MASTER_KEY_%s_DESTINATION", way[i].to);
		(void)setenv(plain, way[i].from_value, 1); /* exported again beside its _SOURCE, as documented */
		(void)setenv(source, way[i].from_value, 1);
		(void)setenv(destination, way[i].to_value, 1);
		const lab_result *r = lab("rekey");
		assert_int_equal(r->code, 0);
		assert_contains(r->out, "rekeyed 10 items (depth kek)");
		assert_null(strstr(r->out, key1));
		assert_null(strstr(r->out, key2));
		(void)unsetenv(plain);
		(void)unsetenv(source);
		(void)unsetenv(destination);
	}
	assert_int_equal(verify_with("cmk", NULL), 0);
	kt_buf log = KT_BUF_INIT;
	assert_int_equal(kt_file_read("log/looker.log", &log, NULL), KT_OK);
	assert_contains(kt_buf_cstr(&log), "Rekey complete: 10 items");
	assert_null(strstr(kt_buf_cstr(&log), "AAECAwQF"));
	kt_buf_free(&log);
}

static void live_nodes_refuse(void **state)
{
	(void)state;
	make_store("10");
	file_to_file();
	/* this node */
	assert_int_equal(lab("start")->code, 0);
	const lab_result *r = lab("rekey");
	assert_int_equal(r->code, 4);
	assert_string_equal(first_line(r), refusal);
	assert_int_equal(lab("stop")->code, 0);
	/* another one */
	lab_node("web02");
	assert_int_equal(lab_at("web02", "start")->code, 0);
	r = lab("rekey", "--json");
	assert_int_equal(r->code, 4);
	assert_string_equal(first_line(r), refusal);
	assert_string_equal(lab_json(r->out, "error.class"), "refused");
	assert_contains(lab_json(r->out, "error.remedy"), "web02");
	expect_probe("old");
	/* a clean stop lets it through at once */
	assert_int_equal(lab_at("web02", "stop")->code, 0);
	assert_int_equal(lab("rekey")->code, 0);
}

static void crashed_node_counts_for_the_window(void **state)
{
	(void)state;
	make_store("10");
	file_to_file();
	lab_node("web02");
	assert_int_equal(lab_at("web02", "start")->code, 0);
	assert_int_equal(kill(lab_pid("web02"), SIGKILL), 0);
	const lab_result *r = lab("rekey");
	assert_int_equal(r->code, 4);
	assert_string_equal(first_line(r), refusal);
	/* a stop of what has crashed does not make it look clean */
	r = lab_at("web02", "stop");
	assert_int_equal(r->code, 0);
	assert_contains(r->out, "counts as live for another");
	assert_int_equal(lab("rekey")->code, 4);
	lab_sleep_ms(2300);
	assert_string_equal(lab_json(lab("status", "--json")->out, "nodes.0.live"), "false");
	r = lab("rekey");
	assert_int_equal(r->code, 0);
	/* it may come back at once, with the new key, in the place of its old row */
	(void)setenv("LKR_MASTER_KEY_FILE", "cmk2", 1);
	assert_int_equal(lab_at("web02", "start")->code, 0);
	assert_string_equal(lab_json(lab("status", "--json")->out, "nodes.1.name"), "");
}

/* A crashed node may be started again at once. */
static void crashed_node_restarts(void **state)
{
	(void)state;
	assert_int_equal(lab("start")->code, 0);
	assert_int_equal(kill(lab_pid("."), SIGKILL), 0);
	lab_sleep_ms(100);
	assert_int_equal(lab("start")->code, 0);
	assert_int_equal(lab("stop")->code, 0);
}

static const char *const depths[] = {"cmk", "kek", "data"};
enum { DEPTHS = 3 };

/* The envelope of the item as it stands in the database. */
static void read_envelope(const char *database, const char *name, uint8_t out[336])
{
	kt_buf db = KT_BUF_INIT;
	assert_int_equal(kt_file_read(database, &db, NULL), KT_OK);
	memcpy(out, lab_envelope(&db, name), 336);
	kt_buf_free(&db);
}

/* Each depth from the first key to the second, and the next one back. */
static void three_depths(void **state)
{
	(void)state;
	uint8_t before[336], after[336];
	const char *out;
	make_store("100");
	for (size_t i = 0; i < DEPTHS; i++) {
		const char *from = i % 2 ? "cmk2" : "cmk", *to = i % 2 ? "cmk" : "cmk2";
		(void)setenv("LKR_MASTER_KEY_FILE", from, 1);
		(void)setenv("LKR_MASTER_KEY_FILE_SOURCE", from, 1);
		(void)setenv("LKR_MASTER_KEY_FILE_DESTINATION", to, 1);
		expect_probe("old");
		read_envelope("looker.db", "fill/00000042", before);
		const lab_result *r = lab("rekey", "--depth", depths[i], "--json");
		assert_int_equal(r->code, 0);
		assert_string_equal(lab_json(r->out, "depth"), depths[i]);
		assert_string_equal(lab_json(r->out, "items"), "100");
		assert_string_equal(lab_json(r->out, "opened"), i ? "100" : "0");
		static const char *const generation[] = {"1", "2", "3"};
		assert_string_equal(lab_json(r->out, "new.generation"), generation[i]);
		static const char *const epoch[] = {"2", "3", "4"};
		assert_string_equal(lab_json(r->out, "epoch"), epoch[i]);
		char old_kek[64];
		(void)snprintf(old_kek, sizeof old_kek, "%s", lab_json(r->out, "old.kek"));
		assert_int_equal(strcmp(old_kek, lab_json(r->out, "new.kek")) == 0, i == 0);
		expect_probe("new");
		assert_int_equal(verify_with(from, NULL), 11);
		assert_int_equal(verify_with(to, &out), 0);
		assert_string_equal(lab_json(out, "compared"), "100");
		read_envelope("looker.db", "fill/00000042", after);
		assert_int_equal(memcmp(before, after, 336) == 0, i == 0);             /* cmk: nothing */
		assert_int_equal(memcmp(before + 120, after + 120, 216) == 0, i != 2); /* data: the content, too */
	}
}

static void depth_is_checked_first(void **state)
{
	(void)state;
	const lab_result *r = lab("rekey", "--depth", "deep");
	assert_int_equal(r->code, 2);
	assert_contains(r->err, "--depth: cmk, kek or data");
	r = lab("probe", "--depth", "cmk");
	assert_int_equal(r->code, 2);
	assert_contains(lab("rekey", "--help")->out, "--depth");
}

/* The envelope of a database from before the rekey is put back into it, whole or in part: refused, and named. */
static void old_envelopes_are_refused(void **state)
{
	(void)state;
	static const struct {
		const char *depth;
		size_t from, to; /* what is put back */
	} c[] = {{"kek", 0, 336},  {"kek", 44, 120},  {"data", 0, 336},
		 {"data", 0, 120}, {"data", 44, 120}, {"data", 120, 336}};
	for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
		uint8_t old[336];
		const char *out;
		(void)unlink("looker.db");
		make_store("9");
		file_to_file();
		read_envelope("looker.db", "fill/00000007", old);
		assert_int_equal(lab("rekey", "--depth", c[i].depth)->code, 0);
		kt_buf db = KT_BUF_INIT;
		assert_int_equal(kt_file_read("looker.db", &db, NULL), KT_OK);
		memcpy(lab_envelope(&db, "fill/00000007") + c[i].from, old + c[i].from, c[i].to - c[i].from);
		lab_write("looker.db", 0600, db.data, db.len);
		kt_buf_free(&db);
		assert_int_not_equal(verify_with("cmk2", &out), 0);
		assert_string_equal(lab_json(out, "failed"), "1");
		assert_string_equal(lab_json(out, "failures.0.name"), "fill/00000007");
		assert_string_equal(lab_json(lab("probe", "--json")->out, "verdict"), "mixed");
	}
}

/* On a terminal the walks say how far they are, and how fast. */
static void progress_on_a_terminal(void **state)
{
	(void)state;
	make_store("50");
	file_to_file();
	int terminal = posix_openpt(O_RDWR | O_NOCTTY);
	assert_true(terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		int fd = open(ptsname(terminal), O_RDWR | O_NOCTTY);
		if (fd >= 0 && dup2(fd, 2) == 2)
			(void)execl("./looker", "./looker", "rekey", "--depth", "data", "--json", (char *)NULL);
		_exit(127);
	}
	char got[4096];
	size_t n = 0;
	for (ssize_t more; n < sizeof got - 1 && (more = read(terminal, got + n, sizeof got - 1 - n)) > 0;)
		n += (size_t)more;
	got[n] = '\0';
	(void)close(terminal);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_contains(got, "encrypting anew: 50 of 50 items, ");
	assert_contains(got, "opening: 50 of 50 items, ");
	assert_contains(got, " items/s");
}

static void kill_in_the_middle(void **state)
{
	(void)state;
	make_store("2000");
	file_to_file();
	for (size_t d = 0; d < DEPTHS; d++) {
		const char *const args[] = {"rekey", "--depth", depths[d], NULL};
		(void)unlink("log/looker.log");
		(void)setenv("KEYTURN_STORE_REKEY_DELAY_MS", "60000", 1);
		pid_t pid = lab_spawn(args);
		kt_buf log = KT_BUF_INIT;
		for (int i = 0; i < 200; i++) {
			lab_sleep_ms(50);
			kt_buf_clear(&log);
			if (kt_file_read("log/looker.log", &log, NULL) == KT_OK &&
			    strstr(kt_buf_cstr(&log), "Pausing for"))
				break;
		}
		assert_contains(kt_buf_cstr(&log), "Pausing for"); /* all is written, nothing is committed */
		kt_buf_free(&log);
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		(void)unsetenv("KEYTURN_STORE_REKEY_DELAY_MS");
		expect_probe("old");
		assert_int_equal(verify_with("cmk", NULL), 0);
		assert_int_equal(verify_with("cmk2", NULL), 11);
	}
	assert_int_equal(lab("rekey", "--depth", "data")->code, 0);
	expect_probe("new");
	assert_int_equal(verify_with("cmk2", NULL), 0);
}

/* Killed at many moments without any pause: old or new, never a mixture. */
static void kill_anywhere(void **state)
{
	(void)state;
	make_store("3000");
	int turned = 0, kept = 0;
	for (int i = 0; i < 24; i++) {
		const char *const args[] = {"rekey", "--depth", depths[i % DEPTHS], NULL};
		(void)setenv("LKR_MASTER_KEY_FILE", turned % 2 ? "cmk2" : "cmk", 1);
		(void)setenv("LKR_MASTER_KEY_FILE_SOURCE", turned % 2 ? "cmk2" : "cmk", 1);
		(void)setenv("LKR_MASTER_KEY_FILE_DESTINATION", turned % 2 ? "cmk" : "cmk2", 1);
		pid_t pid = lab_spawn(args);
		lab_sleep_ms(2 + i * 4);
		(void)kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		const lab_result *r = lab("probe", "--json");
		assert_int_equal(r->code, 0);
		bool is_new = strcmp(lab_json(r->out, "verdict"), "new") == 0;
		assert_true(is_new || strcmp(lab_json(r->out, "verdict"), "old") == 0);
		assert_string_equal(lab_json(r->out, is_new ? "new" : "old"), "3000");
		turned += is_new;
		kept += !is_new;
	}
	assert_int_equal(turned + kept, 24);
	assert_true(kept > 0); /* some were killed in time */
}

static void refused_with_a_reason(void **state)
{
	(void)state;
	make_store("5");
	const lab_result *r = lab("rekey");
	assert_int_equal(r->code, 11);
	assert_contains(r->err, "_SOURCE");
	(void)setenv("LKR_MASTER_KEY_FILE_SOURCE", "cmk", 1);
	r = lab("rekey");
	assert_int_equal(r->code, 11);
	assert_contains(r->err, "_DESTINATION");
	/* the same key twice */
	(void)setenv("LKR_MASTER_KEY_ENV_DESTINATION", key1, 1);
	r = lab("rekey");
	assert_int_equal(r->code, 11);
	assert_contains(r->err, "source and destination are the same master key");
	expect_probe("both");
	(void)unsetenv("LKR_MASTER_KEY_ENV_DESTINATION");
	/* a source that does not open the data */
	lab_write("cmk3", 0400, "QAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", 44);
	file_to_file();
	(void)setenv("LKR_MASTER_KEY_FILE_SOURCE", "cmk3", 1);
	r = lab("rekey");
	assert_int_equal(r->code, 11);
	assert_contains(r->err, "source: the master key file:");
	assert_contains(r->err, "does not open the data");
	expect_probe("none");
	/* the plain variable disagrees */
	(void)setenv("LKR_MASTER_KEY_FILE_SOURCE", "cmk", 1);
	(void)setenv("LKR_MASTER_KEY_FILE", "cmk3", 1);
	r = lab("rekey");
	assert_int_equal(r->code, 11);
	assert_contains(r->err, "are not the same master key");
	/* two that agree by another name are fine */
	lab_write("cmk-copy", 0400, key1, 44);
	(void)setenv("LKR_MASTER_KEY_FILE", "cmk-copy", 1);
	assert_int_equal(lab("rekey")->code, 0);
	/* again: turned already */
	r = lab("rekey");
	assert_int_equal(r->code, 11);
	assert_contains(r->err, "turned already");
	assert_int_equal(verify_with("cmk2", NULL), 0);
	/* two keystores for one key */
	(void)setenv("LKR_AWS_CMK_DESTINATION", "alias/x", 1);
	r = lab("rekey");
	assert_int_equal(r->code, 11);
	assert_contains(r->err, "LKR_MASTER_KEY_FILE_DESTINATION and LKR_AWS_CMK_DESTINATION are both set");
}

static size_t cached_files(void)
{
	size_t n = 0;
	DIR *d = opendir(".cache");
	for (struct dirent *e; d && (e = readdir(d)) != NULL;)
		n += strstr(e->d_name, ".kte") != NULL;
	if (d)
		(void)closedir(d);
	return n;
}

static void cache_is_invalidated(void **state)
{
	(void)state;
	make_store("5");
	file_to_file();
	assert_int_equal(lab("get", "fill/00000001")->code, 0);
	assert_int_equal(lab("get", "fill/00000002")->code, 0);
	assert_true(cached_files() > 0);
	/* a node that is away keeps its files and drops them at its next start */
	lab_node("web02");
	assert_int_equal(lab_at("web02", "get", "fill/00000001")->code, 0);
	assert_int_equal(access("web02/.cache", F_OK), 0);
	const lab_result *r = lab("rekey");
	assert_int_equal(r->code, 0);
	assert_contains(r->out, "the on-disk cache is invalid");
	assert_int_equal(cached_files(), 0);
	(void)setenv("LKR_MASTER_KEY_FILE", "cmk2", 1);
	assert_int_equal(lab_at("web02", "start")->code, 0);
	kt_buf log = KT_BUF_INIT;
	assert_int_equal(kt_file_read("web02/log/looker.log", &log, NULL), KT_OK);
	assert_contains(kt_buf_cstr(&log), "1 cached items of another key removed");
	kt_buf_free(&log);
	assert_int_equal(lab_at("web02", "get", "fill/00000001")->code, 0);
}

static void credentials_file(void **state)
{
	(void)state;
	make_store("5");
	file_to_file();
	static const struct {
		const char *text, *says;
	} bad[] = {{"dialect: oracle\nhost: db\nusername: looker\npassword: hunter2hunter2\ndatabase: looker\n",
		    "\"oracle\" is not supported"},
		   {"dialect: mysql\nusername: looker\npassword: hunter2hunter2\ndatabase: looker\n",
		    "host: it is missing"},
		   {"database: looker.db\n", "the dialect is missing"},
		   {"dialect: sqlite\n", "the database is missing"},
		   {"dialect: sqlite\ndatabase: looker.db\ndatabase: other.db\n", "db.yaml:3: database is given twice"},
		   {"dialect: sqlite\npassword hunter2hunter2\n", "db.yaml:2"},
		   {"dialect: sqlite\ndatabase: \"looker.db\n", "db.yaml:2"},
		   {"dialect: sqlite\n  database: looker.db\n", "db.yaml:2"},
		   {"dialect: sqlite\ndatabase: [looker.db]\n", "db.yaml:2"},
		   {"", "empty"}};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		lab_write("db.yaml", 0600, bad[i].text, strlen(bad[i].text));
		const lab_result *r = lab("rekey", "-d", "db.yaml");
		assert_int_equal(r->code, 3);
		assert_contains(r->err, bad[i].says);
		assert_null(strstr(r->err, "hunter2"));
	}
	assert_int_equal(lab("rekey", "--internal-db-creds=/nonexistent.yaml")->code, 10);
	expect_probe("old");
	static const char good[] =
		"---\n# the internal database\ndialect: sqlite\nhost: 'x'\ndatabase: \"looker.db\" # here\n";
	lab_write("db.yaml", 0600, good, sizeof good - 1);
	assert_string_equal(lab("probe", "-d", "db.yaml")->out, "old\n");
	assert_int_equal(lab("rekey", "--internal-db-creds=db.yaml")->code, 0);
	expect_probe("new");
}

static void damaged_items_stop_the_rekey(void **state)
{
	(void)state;
	make_store("20");
	file_to_file();
	kt_buf db = KT_BUF_INIT;
	assert_int_equal(kt_file_read("looker.db", &db, NULL), KT_OK);
	uint8_t *env = lab_envelope(&db, "fill/00000007");
	static const size_t at[] = {5, 30, 80, 110, 130}; /* header, length, wrapped DEK, tag, content */
	for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
		env[at[i]] ^= 1;
		lab_write("looker.db", 0600, db.data, db.len);
		const lab_result *r = lab("rekey", "--depth", i % 2 ? "kek" : "data");
		assert_int_equal(r->code, 3);
		assert_contains(r->err, "fill/00000007");
		assert_int_equal(lab("rekey")->code, 3);
		r = lab("probe", "--json");
		assert_string_equal(lab_json(r->out, "verdict"), "mixed");
		assert_string_equal(lab_json(r->out, "old"), "19");
		assert_string_equal(lab_json(r->out, "neither"), "1");
		env[at[i]] ^= 1;
	}
	lab_write("looker.db", 0600, db.data, db.len);
	assert_int_equal(lab("rekey")->code, 0);
	kt_buf_free(&db);
}

/* A node that slept through a rekey (its heartbeat stopped, so it counted as dead) must not write with its old KEK, and
 * ends. */
static void sleeping_node_wakes_up(void **state)
{
	(void)state;
	make_store("5");
	file_to_file();
	lab_node("web02");
	assert_int_equal(lab_at("web02", "start")->code, 0);
	int fd = lab_connect("web02");
	pid_t pid = lab_pid("web02");
	assert_int_equal(kill(pid, SIGSTOP), 0);
	lab_sleep_ms(2300);
	assert_int_equal(lab("rekey")->code, 0);
	assert_int_equal(send(fd, "PUT fill/00000001 eA==\n", 23, MSG_NOSIGNAL), 23);
	assert_int_equal(kill(pid, SIGCONT), 0);
	char got[256] = "";
	(void)recv(fd, got, sizeof got - 1, 0);
	assert_null(strstr(got, "OK"));
	(void)close(fd);
	for (int i = 0; i < 60 && lab_at("web02", "status")->code == 0; i++)
		lab_sleep_ms(50);
	assert_int_equal(lab_at("web02", "status")->code, 3);
	kt_buf log = KT_BUF_INIT;
	assert_int_equal(kt_file_read("web02/log/looker.log", &log, NULL), KT_OK);
	assert_contains(kt_buf_cstr(&log), "the store was rekeyed in the meantime");
	kt_buf_free(&log);
	assert_int_equal(verify_with("cmk2", NULL), 0);
}

static void full_disk(void **state)
{
	(void)state;
	make_store("200");
	file_to_file();
	/* no file may grow beyond what the database has: the rollback journal cannot be written */
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct rlimit limit = {8192, 8192};
		int fd = open("full-disk.err", O_WRONLY | O_CREAT | O_TRUNC, 0600);
		(void)signal(SIGXFSZ, SIG_IGN);
		if (fd >= 0 && dup2(fd, 2) == 2 && setrlimit(RLIMIT_FSIZE, &limit) == 0)
			(void)execl("./looker", "./looker", "rekey", (char *)NULL);
		_exit(127);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 10);
	kt_buf err = KT_BUF_INIT;
	assert_int_equal(kt_file_read("full-disk.err", &err, NULL), KT_OK);
	assert_contains(kt_buf_cstr(&err), "looker.db");
	kt_buf_free(&err);
	expect_probe("old");
	assert_int_equal(verify_with("cmk", NULL), 0);
	assert_int_equal(lab("rekey")->code, 0);
}

int main(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
#define T(f) cmocka_unit_test_setup_teardown(f, lab_set_up, lab_tear_down)
	const struct CMUnitTest tests[] = {
		T(ten_thousand_items),
		T(every_transition),
		T(live_nodes_refuse),
		T(crashed_node_counts_for_the_window),
		T(crashed_node_restarts),
		T(three_depths),
		T(depth_is_checked_first),
		T(old_envelopes_are_refused),
		T(progress_on_a_terminal),
		T(kill_in_the_middle),
		T(kill_anywhere),
		T(refused_with_a_reason),
		T(cache_is_invalidated),
		T(credentials_file),
		T(damaged_items_stop_the_rekey),
		T(sleeping_node_wakes_up),
		T(full_disk),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

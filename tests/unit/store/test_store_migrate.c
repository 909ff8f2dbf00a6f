/* SPDX-License-Identifier: Apache-2.0 */
/* migrate_encryption, run as the built program, on databases that legacy_store made. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "envelope/legacy.h"
#include "tests/unit/store/lab.h"

#define assert_contains(text, part)                                                                                    \
	do {                                                                                                           \
		if (!strstr(text, part))                                                                               \
			fail_msg("\"%s\" is not in: %s", part, text);                                                  \
	} while (0)

static const char starting[] = "|crypt] :: Starting migration from AES-128-CBC Legacy to AES-GCM-256\n";
static const char live[] = "There are other live nodes connected to this backend Looker database.";

static void run(const char *const args[])
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)execvp(args[0], (char *const *)args);
		_exit(127);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void make_legacy(const char *count, const char *size)
{
	char program[4096];
	(void)snprintf(program, sizeof program, "%s/legacy_store", getenv("KT_BIN_DIR"));
	(void)unlink("looker.db");
	run((const char *const[]){program, "looker.db", count, size, NULL});
}

static size_t count_in(const char *path, const char *what)
{
	kt_buf b = KT_BUF_INIT;
	size_t n = 0, len = strlen(what);
	if (kt_file_read(path, &b, NULL) == KT_OK)
		for (uint8_t *p = b.data; (p = memmem(p, b.len - (size_t)(p - b.data), what, len)) != NULL; p += len)
			n++;
	kt_buf_free(&b);
	return n;
}

static void all_compared(const char *count)
{
	const lab_result *r = lab("verify", "--content", "--json");
	assert_int_equal(r->code, 0);
	assert_string_equal(lab_json(r->out, "opened"), count);
	assert_string_equal(lab_json(r->out, "compared"), count);
}

static void legacy_becomes_envelopes(void **state)
{
	(void)state;
	static const char *const sizes[] = {"0", "15", "16", "200", "100000"};
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		(void)unlink("log/looker.log");
		make_legacy("20", sizes[i]);
		assert_int_equal(count_in("looker.db", "KTEV"), 0);
		const lab_result *r = lab("migrate_encryption", "--json");
		assert_int_equal(r->code, 0);
		assert_string_equal(lab_json(r->out, "items"), "20");
		assert_string_equal(lab_json(r->out, "migrated"), "20");
		all_compared("20");
		/* neither the legacy items nor their key are in the file any more */
		assert_int_equal(count_in("looker.db", "KTL1"), 0);
		assert_int_equal(count_in("looker.db", "TABLE legacy"), 0);
		assert_int_equal(count_in("log/looker.log", starting), 1);
		assert_int_equal(count_in("log/looker.log", "Migration complete: 20 of 20 items moved to AES-GCM-256"),
				 1);
		/* again: nothing is left to do, and nothing is done */
		r = lab("migrate_encryption", "--json");
		assert_int_equal(r->code, 0);
		assert_string_equal(lab_json(r->out, "migrated"), "0");
		assert_int_equal(count_in("log/looker.log", starting), 1);
	}
	assert_int_equal(lab("start")->code, 0);
	assert_contains(lab_talk(".", "COUNT\nQUIT\n"), "OK 20");
}

/* What is still legacy is said, and nobody works on it as if it were not. */
static void every_other_verb_refuses(void **state)
{
	(void)state;
	make_legacy("20", "50");
	(void)setenv("LKR_MASTER_KEY_FILE_SOURCE", "cmk", 1);
	(void)setenv("LKR_MASTER_KEY_FILE_DESTINATION", "cmk2", 1);
	static const char *const verbs[][5] = {{"verify"},
					       {"start"},
					       {"get", "fill/00000001"},
					       {"put", "x", "y"},
					       {"rekey"},
					       {"probe"},
					       {"fill", "--count", "1", "--size=1"}};
	for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
		const char *const args[] = {verbs[i][0], verbs[i][1], verbs[i][2], verbs[i][3], NULL};
		const lab_result *r = lab_run(".", args);
		assert_int_equal(r->code, 3);
		assert_contains(r->err, "20 of 20 items are still in the legacy form (AES-128-CBC)");
		assert_contains(r->err, "migrate_encryption");
	}
	const lab_result *r = lab("status", "--json");
	assert_int_equal(r->code, 0);
	assert_string_equal(lab_json(r->out, "legacy"), "true");
	assert_string_equal(lab_json(r->out, "epoch"), "1");
	assert_int_equal(count_in("looker.db", "KTKR"), 0); /* none of them made a KEK */
	assert_int_equal(lab("migrate_encryption")->code, 0);
	r = lab("status", "--json");
	assert_string_equal(lab_json(r->out, "legacy"), "false");
	assert_string_equal(lab_json(r->out, "epoch"), "2"); /* so that a node that slept through it knows */
	all_compared("20");
}

/* An installation as it was before there was any key: it goes on without one, and nothing is written. */
static void without_a_key_it_is_read(void **state)
{
	(void)state;
	make_legacy("20", "50");
	(void)unsetenv("LKR_MASTER_KEY_FILE");
	assert_int_equal(lab("start")->code, 0);
	assert_contains(lab_talk(".", "COUNT\nGET fill/00000001\nPUT x eA==\nQUIT\n"), "OK 20\nOK ");
	assert_contains(lab_talk(".", "PUT x eA==\nQUIT\n"), "ERR refused the data is in the legacy form");
	const lab_result *r = lab("status", "--json");
	assert_string_equal(lab_json(r->out, "running"), "true");
	assert_string_equal(lab_json(r->out, "legacy"), "true");
	r = lab("verify", "--content", "--json");
	assert_int_equal(r->code, 0);
	assert_string_equal(lab_json(r->out, "opened"), "20");
	assert_string_equal(lab_json(r->out, "compared"), "20");
	assert_contains(lab("verify")->out,
			"20 of 20 items open in the legacy form (AES-128-CBC), without a master key");
	r = lab("fill", "--count", "1", "--size=1");
	assert_int_equal(r->code, 4);
	assert_contains(r->err, "only read");
	(void)setenv("LKR_MASTER_KEY_FILE", "cmk", 1);
	r = lab("migrate_encryption");
	assert_int_equal(r->code, 4);
	assert_contains(r->err, live);
	assert_int_equal(lab("stop")->code, 0);
	assert_int_equal(lab("migrate_encryption")->code, 0);
	all_compared("20");
	(void)unsetenv("LKR_MASTER_KEY_FILE");
	static const char *const verbs[] = {"start", "verify"};
	for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
		r = lab(verbs[i]);
		assert_int_equal(r->code, 11);
		assert_contains(r->err, "Looker can not start because: Missing backing keystore");
	}
	(void)unlink("looker.db"); /* and no database is made without a key */
	assert_int_equal(lab("start")->code, 11);
	assert_int_equal(access("looker.db", F_OK), -1);
}

static void probed_as(const char *want)
{
	const lab_result *r = lab("probe");
	assert_int_equal(r->code, 0);
	if (strncmp(r->out, want, strlen(want)) != 0)
		fail_msg("%s, not %s", r->out, want);
}

/* Without _SOURCE the probe is about a migration, with or without the new key. */
static void the_probe_knows_the_legacy_form(void **state)
{
	(void)state;
	static const char *const args[] = {"migrate_encryption", NULL};
	static const char *const counts[] = {"12000", "0"};
	for (size_t i = 0; i < 2; i++) {
		make_legacy(counts[i], "20");
		(void)unsetenv("LKR_MASTER_KEY_FILE_DESTINATION");
		probed_as("old");
		(void)setenv("LKR_MASTER_KEY_FILE_DESTINATION", "cmk", 1);
		probed_as("old");
		(void)unlink("log/looker.log");
		(void)setenv("KEYTURN_STORE_REKEY_DELAY_MS", "2500", 1);
		pid_t pid = lab_spawn(args);
		for (int k = 0; k < 400 && count_in("log/looker.log", "Pausing for") < (i ? 1 : 2); k++)
			lab_sleep_ms(25);
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		(void)unsetenv("KEYTURN_STORE_REKEY_DELAY_MS");
		probed_as(i ? "old" : "mixed"); /* of the last one nothing was committed yet */
		(void)setenv("LKR_MASTER_KEY_FILE_DESTINATION", "cmk2", 1);
		probed_as(i ? "old" : "mixed");
		/* half migrated it is not what a node without a key may read */
		(void)unsetenv("LKR_MASTER_KEY_FILE");
		assert_int_equal(lab("verify")->code, i ? 0 : 11);
		(void)setenv("LKR_MASTER_KEY_FILE", "cmk", 1);
		assert_int_equal(lab("migrate_encryption")->code, 0);
		probed_as("none");
		(void)setenv("LKR_MASTER_KEY_FILE_DESTINATION", "cmk", 1);
		probed_as("new");
		(void)unsetenv("LKR_MASTER_KEY_FILE_DESTINATION");
		assert_int_equal(lab("probe")->code, 11); /* of what rekey? */
	}
}

/* Cut off when every item had moved, and the legacy key not gone: the migration has not ended, with items or without.
 */
static void moved_is_not_migrated(void **state)
{
	(void)state;
	static const char *const counts[] = {"20", "0"};
	(void)setenv("LKR_MASTER_KEY_FILE_DESTINATION", "cmk", 1);
	for (size_t i = 0; i < 2; i++) {
		make_legacy(counts[i], "20");
		assert_int_equal(lab("migrate_encryption")->code, 0);
		probed_as("new");
		run((const char *const[]){"sqlite3", "looker.db",
					  "CREATE TABLE legacy(key BLOB NOT NULL); INSERT INTO legacy VALUES(x'"
					  "000102030405060708090a0b0c0d0e0f')",
					  NULL});
		probed_as("mixed");
		assert_int_equal(lab("migrate_encryption")->code, 0);
		probed_as("new");
	}
}

/* An item that does not open any more is no reason to call the rest old. */
static void a_damaged_legacy_store_is_not_old(void **state)
{
	(void)state;
	make_legacy("20", "50");
	kt_buf db = KT_BUF_INIT;
	assert_int_equal(kt_file_read("looker.db", &db, NULL), KT_OK);
	uint8_t *name = memmem(db.data, db.len, "fill/00000007", 13);
	assert_non_null(name);
	uint8_t *item = memmem(name, 64, "KTL1", 4);
	assert_non_null(item);
	item[0] ^= 0x80;
	lab_write("looker.db", 0600, db.data, db.len);
	probed_as("mixed");
	(void)unsetenv("LKR_MASTER_KEY_FILE");
	const lab_result *r = lab("verify");
	assert_int_equal(r->code, 3);
	assert_contains(r->err, "fill/00000007");
	kt_buf_free(&db);
}

static void live_nodes_refuse(void **state)
{
	(void)state;
	/* a node that knew the legacy form registered in the same table */
	assert_int_equal(lab("start")->code, 0);
	const lab_result *r = lab("migrate_encryption");
	assert_int_equal(r->code, 4);
	assert_contains(r->err, live);
	assert_int_equal(lab("stop")->code, 0);
	lab_node("web02");
	assert_int_equal(lab_at("web02", "start")->code, 0);
	r = lab("migrate_encryption");
	assert_int_equal(r->code, 4);
	assert_contains(r->err, live);
	assert_contains(r->err, "web02");
	assert_int_equal(lab_at("web02", "stop")->code, 0);
	assert_int_equal(lab("migrate_encryption")->code, 0);
}

/* Killed while the second of three batches is written and not yet committed: the first has moved, and stays. */
static void killed_in_the_middle_and_resumed(void **state)
{
	(void)state;
	static const char *const args[] = {"migrate_encryption", NULL};
	make_legacy("12000", "20");
	(void)setenv("KEYTURN_STORE_REKEY_DELAY_MS", "2500", 1);
	pid_t pid = lab_spawn(args);
	for (int i = 0; i < 400 && count_in("log/looker.log", "Pausing for") < 2; i++)
		lab_sleep_ms(25);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	(void)unsetenv("KEYTURN_STORE_REKEY_DELAY_MS");
	const lab_result *r = lab("verify");
	assert_int_equal(r->code, 3);
	assert_contains(r->err, "7000 of 12000 items are still in the legacy form");
	assert_int_equal(lab("start")->code, 3);
	/* with another key it does not go on */
	(void)setenv("LKR_MASTER_KEY_FILE", "cmk2", 1);
	r = lab("migrate_encryption");
	assert_int_equal(r->code, 11);
	assert_contains(r->err, "does not open the data");
	(void)setenv("LKR_MASTER_KEY_FILE", "cmk", 1);
	r = lab("migrate_encryption", "--json");
	assert_int_equal(r->code, 0);
	assert_string_equal(lab_json(r->out, "migrated"), "7000");
	assert_string_equal(lab_json(r->out, "items"), "12000");
	all_compared("12000");
}

static void killed_anywhere(void **state)
{
	(void)state;
	static const char *const args[] = {"migrate_encryption", NULL};
	make_legacy("12000", "20");
	for (int i = 0; i < 12; i++) {
		pid_t pid = lab_spawn(args);
		lab_sleep_ms(5 + i * 9);
		(void)kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
	}
	assert_int_equal(lab("migrate_encryption")->code, 0);
	all_compared("12000");
}

/* A damaged item stops the migration before the legacy key is gone, and is named; repaired, it goes on. */
static void damaged_items_are_named(void **state)
{
	(void)state;
	make_legacy("20", "50");
	kt_buf db = KT_BUF_INIT;
	assert_int_equal(kt_file_read("looker.db", &db, NULL), KT_OK);
	uint8_t *name = memmem(db.data, db.len, "fill/00000007", 13);
	assert_non_null(name);
	uint8_t *item = memmem(name, 64, "KTL1", 4);
	assert_non_null(item);
	static const size_t at[] = {0, 20 + 64 - 17}; /* magic; the block before the last: the padding */
	for (size_t i = 0; i < 2; i++) {
		item[at[i]] ^= 0x80;
		lab_write("looker.db", 0600, db.data, db.len);
		const lab_result *r = lab("migrate_encryption");
		assert_int_equal(r->code, 3);
		assert_contains(r->err, "fill/00000007");
		assert_int_equal(lab("start")->code, 3);
		assert_int_equal(count_in("looker.db", "TABLE legacy"), 1);
		item[at[i]] ^= 0x80;
	}
	lab_write("looker.db", 0600, db.data, db.len);
	assert_int_equal(lab("migrate_encryption")->code, 0);
	all_compared("20");
	kt_buf_free(&db);
}

/* A store that lost its KEK record is no legacy store: no new KEK is made in it. */
static void lost_kek_is_not_replaced(void **state)
{
	(void)state;
	make_legacy("3", "5");
	assert_int_equal(lab("migrate_encryption")->code, 0);
	run((const char *const[]){"sqlite3", "looker.db", "DELETE FROM kek", NULL});
	const lab_result *r = lab("migrate_encryption");
	assert_int_equal(r->code, 3);
	assert_contains(r->err, "there is no KEK record");
	(void)unlink("looker.db");
	assert_int_equal(lab("migrate_encryption")->code, 10);
	lab_write("looker.db", 0600, "", 0);
	r = lab("migrate_encryption");
	assert_int_equal(r->code, 3);
	assert_contains(r->err, "nothing to migrate");
}

/* What `openssl enc -aes-128-cbc` made of a known text, key and IV. */
static void legacy_form_is_the_standard_one(void **state)
{
	(void)state;
	static const uint8_t key[] = {0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6,
				      0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c};
	uint8_t item[] = {'K',  'T',  'L',  '1',  0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09,
			  0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x17, 0xb3, 0x9a, 0x0b, 0xd8, 0xb3, 0x9d, 0xf0,
			  0xdf, 0x3a, 0x71, 0xea, 0x7d, 0xc9, 0xeb, 0x5c, 0x9b, 0xcb, 0x28, 0xad, 0xbd, 0xf5,
			  0x4f, 0xaa, 0x7e, 0xf9, 0x51, 0x15, 0x19, 0xa5, 0x79, 0xf5, 0x05, 0x2a, 0xeb, 0x51,
			  0xd4, 0xa2, 0x4f, 0xee, 0xcf, 0x9b, 0x0a, 0x4a, 0x94, 0x12, 0xe1, 0xbd};
	kt_secret k;
	kt_buf out = KT_BUF_INIT;
	assert_int_equal(kt_secret_copy(&k, key, sizeof key, NULL), KT_OK);
	assert_int_equal(kt_legacy_open(&k, item, sizeof item, &out, NULL), KT_OK);
	assert_string_equal(kt_buf_cstr(&out), "keyturn: content of thirty bytes");
	kt_buf_clear(&out);
	for (size_t len = 0; len < sizeof item; len++) { /* an exact copy, so that a sanitizer sees what is beyond */
		uint8_t *copy = malloc(len ? len : 1);
		assert_non_null(copy);
		memcpy(copy, item, len);
		assert_int_equal(kt_legacy_open(&k, copy, len, &out, NULL), KT_E_INPUT);
		free(copy);
	}
	assert_int_equal(out.len, 0);
	item[51] ^= 1; /* the last byte of the block before the padding */
	assert_int_equal(kt_legacy_open(&k, item, sizeof item, &out, NULL), KT_E_INPUT);
	assert_int_equal(out.len, 0);
	kt_secret_free(&k);
	assert_int_equal(kt_secret_copy(&k, key, 15, NULL), KT_OK);
	assert_int_equal(kt_legacy_open(&k, item, sizeof item, &out, NULL), KT_E_KEY);
	kt_secret_free(&k);
	kt_buf_free(&out);
}

int main(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
	kt_err err = KT_ERR_INIT;
	if (kt_secret_setup(&err) != KT_OK)
		return 1;
#define T(f) cmocka_unit_test_setup_teardown(f, lab_set_up, lab_tear_down)
	const struct CMUnitTest tests[] = {
		T(legacy_becomes_envelopes),
		T(every_other_verb_refuses),
		T(without_a_key_it_is_read),
		T(the_probe_knows_the_legacy_form),
		T(a_damaged_legacy_store_is_not_old),
		T(moved_is_not_migrated),
		T(live_nodes_refuse),
		T(killed_in_the_middle_and_resumed),
		T(killed_anywhere),
		T(damaged_items_are_named),
		T(lost_kek_is_not_replaced),
		T(legacy_form_is_the_standard_one),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The ledger's file: states, intents, damage, power cuts, full disks. */
#include "tests/unit/support.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "orchestrator/ledger/ledger.h"
#include "tests/sim/disktest.h"

#define FOLDER "/sim"
#define FILE_PATH "/sim/ledger.json"

enum { SEEDS = 8 };

static const kt_ledger_new key = {.id = "0a0b",
				  .label = "looker",
				  .uri = "pkcs11:token=t;id=%0A%0B",
				  .kind = "cluster",
				  .kcv = "a1b2c3",
				  .cryptoperiod_days = 365};

/* A ledger with one key of some history, in memory. */
static cJSON *begin(kt_ledger *l)
{
	kt_err err = KT_ERR_INIT;
	cJSON *e;
	assert_kt_ok(kt_ledger_open(FOLDER, "looker", l, &err));
	assert_kt_ok(kt_ledger_enter(l, &key, &e, &err));
	return e;
}

static void save_one(kt_key_state s)
{
	kt_err err = KT_ERR_INIT;
	kt_ledger l;
	assert_kt_ok(kt_ledger_moved(begin(&l), s, 1000, "a test", &err));
	assert_kt_ok(kt_ledger_save(&l, &err));
	kt_ledger_close(&l);
}

static void transitions(void **state)
{
	static const char *const may[KT_KEY_STATES] = {".A.CX", "..DC.", "...CX", "....X", "....."};
	kt_err err = KT_ERR_INIT;
	(void)state;
	for (int from = 0; from < KT_KEY_STATES; from++)
		for (int to = 0; to < KT_KEY_STATES; to++) {
			bool expect = may[from][to] != '.';
			if (kt_key_state_may((kt_key_state)from, (kt_key_state)to) != expect)
				fail_msg("%s to %s", kt_key_state_name((kt_key_state)from),
					 kt_key_state_name((kt_key_state)to));
			if (expect)
				assert_kt_ok(kt_ledger_may("k", (kt_key_state)from, (kt_key_state)to, &err));
			else
				assert_kt_fails(KT_E_REFUSED,
						kt_ledger_may("k", (kt_key_state)from, (kt_key_state)to, &err));
		}
	kt_key_state s;
	for (int i = 0; i < KT_KEY_STATES; i++) {
		assert_kt_ok(kt_key_state_parse(kt_key_state_name((kt_key_state)i), &s, &err));
		assert_int_equal(s, i);
	}
	assert_kt_fails(KT_E_INPUT, kt_key_state_parse("suspended", &s, &err));
}

static void what_is_saved_is_read(void **state)
{
	kt_err err = KT_ERR_INIT;
	kt_ledger l;
	cJSON *e;
	(void)state;
	e = begin(&l);
	const kt_ledger_escrow escrow = {
		.path = "/state/escrow/x.json", .custodian = "", .under = "w", .under_kcv = "ffffff", .time_ms = 7};
	assert_kt_ok(kt_ledger_moved(e, KT_KEY_PRE_ACTIVE, 1000, "made", &err));
	assert_kt_ok(kt_ledger_intend(e, "destroy", 2000, &err));
	assert_kt_ok(kt_ledger_escrowed(e, &escrow, &err));
	assert_kt_ok(kt_ledger_escrowed(e, &escrow, &err));
	assert_kt_ok(kt_ledger_release(e, "run1", 3000, &err));
	assert_kt_ok(kt_ledger_save(&l, &err));
	char *was = cJSON_PrintUnformatted(l.root);
	kt_ledger_close(&l);
	assert_kt_ok(kt_ledger_open(FOLDER, "looker", &l, &err));
	char *now = cJSON_PrintUnformatted(l.root);
	assert_int_equal(strlen(was), strlen(now));
	assert_non_null(e = kt_ledger_find(&l, "0a0b"));
	assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(e, "escrows")), 1);
	assert_non_null(cJSON_GetObjectItem(e, "pending"));
	kt_ledger_done(e);
	assert_null(cJSON_GetObjectItem(e, "pending"));
	assert_null(kt_ledger_find(&l, "0a0c"));
	kt_ledger_close(&l);
	free(was);
	free(now);
	assert_kt_fails(KT_E_INPUT, kt_ledger_open(FOLDER, "another", &l, &err));
	assert_non_null(strstr(err.msg, "looker"));
}

static void another_format(void **state)
{
	kt_err err = KT_ERR_INIT;
	kt_ledger l;
	(void)state;
	(void)begin(&l);
	cJSON_ReplaceItemInObject(l.root, "format", cJSON_CreateString("keyturn-ledger/2"));
	assert_kt_ok(kt_ledger_save(&l, &err));
	kt_ledger_close(&l);
	assert_kt_fails(KT_E_INPUT, kt_ledger_open(FOLDER, "looker", &l, &err));
	assert_non_null(strstr(err.msg, "keyturn-ledger/2"));
}

/* --- Damage ------------------------------------------------------------------------------------------------------- */

static void damaged_is_named(const void *bytes, size_t n, size_t at)
{
	kt_err err = KT_ERR_INIT;
	kt_ledger l;
	kt_buf after = KT_BUF_INIT;
	assert_kt_ok(kt_file_replace(FILE_PATH, bytes, n, &(kt_file_attr){0600, (uid_t)KT_KEEP, (gid_t)KT_KEEP}, &err));
	if (kt_ledger_open(FOLDER, "looker", &l, &err) != KT_E_AUDIT)
		fail_msg("byte %zu", at);
	assert_non_null(strstr(err.msg, FILE_PATH));
	assert_true(err.remedy[0] != '\0');
	assert_null(l.root);
	assert_kt_ok(kt_file_read(FILE_PATH, &after, &err));
	assert_int_equal(after.len, n);
	assert_true(n == 0 || memcmp(after.data, bytes, n) == 0);
	kt_buf_free(&after);
}

static void every_byte(void **state)
{
	kt_err err = KT_ERR_INIT;
	kt_buf text = KT_BUF_INIT;
	(void)state;
	save_one(KT_KEY_PRE_ACTIVE);
	assert_kt_ok(kt_file_read(FILE_PATH, &text, &err));
	for (size_t i = 0; i < text.len; i++) {
		text.data[i] ^= 1;
		damaged_is_named(text.data, text.len, i);
		text.data[i] ^= 1;
		damaged_is_named(text.data, i, i);
	}
	kt_buf_free(&text);
}

/* --- A disk that fails -------------------------------------------------------------------------------------------- */

/* Whole, and one of the two. */
static kt_key_state state_now(void)
{
	kt_err err = KT_ERR_INIT;
	kt_ledger l;
	kt_key_state s;
	assert_kt_ok(kt_ledger_open(FOLDER, "looker", &l, &err));
	const cJSON *history = cJSON_GetObjectItem(kt_ledger_find(&l, "0a0b"), "history");
	const cJSON *last = cJSON_GetArrayItem(history, cJSON_GetArraySize(history) - 1);
	assert_non_null(last);
	assert_kt_ok(kt_key_state_parse(cJSON_GetObjectItem(last, "state")->valuestring, &s, &err));
	kt_ledger_close(&l);
	return s;
}

/* The second save, over a first one; what it said. */
static kt_code save_second(void)
{
	kt_err err = KT_ERR_INIT;
	kt_ledger l;
	cJSON *e;
	kt_code rc = kt_ledger_open(FOLDER, "looker", &l, &err);
	if (rc == KT_OK)
		rc = kt_ledger_enter(&l, &key, &e, &err);
	if (rc == KT_OK)
		rc = kt_ledger_moved(e, KT_KEY_DESTROYED, 2000, "a test", &err);
	if (rc == KT_OK)
		rc = kt_ledger_save(&l, &err);
	kt_ledger_close(&l);
	return rc;
}

static uint64_t operations(void)
{
	sim_disk_reset(disk);
	save_one(KT_KEY_PRE_ACTIVE);
	uint64_t before = sim_disk_ops(disk);
	assert_int_equal(save_second(), KT_OK);
	return sim_disk_ops(disk) - before;
}

static void power_cuts(void **state)
{
	const uint64_t all = operations();
	(void)state;
	assert_true(all >= 4);
	for (uint64_t at = 0; at <= all; at++)
		for (uint64_t seed = 0; seed < SEEDS; seed++) {
			sim_rng r = {at * SEEDS + seed};
			sim_disk_reset(disk);
			save_one(KT_KEY_PRE_ACTIVE);
			sim_disk_die_after(disk, at);
			kt_code rc = save_second();
			sim_disk_power_cut(disk, sim_roll, &r);
			kt_key_state s = state_now();
			assert_true(s == KT_KEY_PRE_ACTIVE || s == KT_KEY_DESTROYED);
			if (rc == KT_OK)
				assert_int_equal(s, KT_KEY_DESTROYED);
		}
}

static void a_failing_disk(void **state)
{
	static const int errors[] = {ENOSPC, EIO, EACCES};
	const uint64_t all = operations();
	(void)state;
	for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
		for (uint64_t at = 0; at < all; at++) {
			sim_disk_reset(disk);
			save_one(KT_KEY_PRE_ACTIVE);
			sim_disk_fail_at(disk, at, errors[i]);
			kt_code rc = save_second();
			kt_key_state s = state_now();
			if (rc == KT_OK) /* the failure was in tidying up */
				assert_int_equal(s, KT_KEY_DESTROYED);
			else
				assert_int_equal(rc, KT_E_AUDIT);
		}
}

static void a_full_disk(void **state)
{
	(void)state;
	save_one(KT_KEY_PRE_ACTIVE);
	sim_disk_limit(disk, sim_disk_used(disk));
	assert_int_equal(save_second(), KT_E_AUDIT);
	assert_int_equal(state_now(), KT_KEY_PRE_ACTIVE);
	sim_disk_limit(disk, SIZE_MAX);
	assert_int_equal(save_second(), KT_OK);
	assert_int_equal(state_now(), KT_KEY_DESTROYED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(transitions, disk_fresh),
		cmocka_unit_test_setup(what_is_saved_is_read, disk_fresh),
		cmocka_unit_test_setup(another_format, disk_fresh),
		cmocka_unit_test_setup(every_byte, disk_fresh),
		cmocka_unit_test_setup(power_cuts, disk_fresh),
		cmocka_unit_test_setup(a_failing_disk, disk_fresh),
		cmocka_unit_test_setup(a_full_disk, disk_fresh),
	};
	return cmocka_run_group_tests(tests, disk_make, disk_drop);
}

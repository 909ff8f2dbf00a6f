/* SPDX-License-Identifier: Apache-2.0 */
/* What LVM and the kernel print, read; and what is refused before anything is made. Real volumes:
 * tests/interop/test_lvm.py. */
#include <limits.h>
#include <sys/sysmacros.h>

#include "agent/lvm.h"
#include "agent/mounts.h"
#include "agent/snapshot.h"
#include "tests/unit/agent/scratch.h"
#include "tests/unit/support.h"

/* As lvs 2.03.16 printed it: a volume, one in a thin pool, a snapshot that ran full. */
static const char printed[] =
	"  {\n      \"report\": [\n          {\n              \"lv\": [\n"
	"{\"lv_uuid\":\"5uQvW7-ZTTn-Rrnp-BFEd-mwuL-OVch-AOMKAn\", "
	"\"vg_uuid\":\"YC8XCA-7p26-rG9x-ADIh-f9Fq-mYu8-tUZ4GY\","
	" \"vg_name\":\"vg\", \"lv_name\":\"data\", \"origin\":\"\", \"segtype\":\"linear\", \"lv_size\":\"67108864\","
	" \"vg_free\":\"327155712\", \"lv_tags\":\"\", \"lv_snapshot_invalid\":\"-1\"},\n"
	"{\"lv_uuid\":\"FNqug4-DwtQ-WOPJ-O1vI-AeLI-uMkd-SjGeTE\", "
	"\"vg_uuid\":\"YC8XCA-7p26-rG9x-ADIh-f9Fq-mYu8-tUZ4GY\","
	" \"vg_name\":\"vg\", \"lv_name\":\"thin\", \"origin\":\"\", \"segtype\":\"thin\", \"lv_size\":\"335544320\","
	" \"vg_free\":\"327155712\", \"lv_tags\":\"\", \"lv_snapshot_invalid\":\"-1\"},\n"
	"{\"lv_uuid\":\"1GP6wZ-5kKy-mmHR-BIbI-K9Qn-fLKw-YYajLK\", "
	"\"vg_uuid\":\"YC8XCA-7p26-rG9x-ADIh-f9Fq-mYu8-tUZ4GY\","
	" \"vg_name\":\"vg\", \"lv_name\":\"snap\", \"origin\":\"data\", \"segtype\":\"linear\", "
	"\"lv_size\":\"4194304\","
	" \"vg_free\":\"327155712\", \"lv_tags\":\"keyturn/c/n,x\", \"lv_snapshot_invalid\":\"1\"}\n"
	"              ]\n          }\n      ]\n  }\n";

static void volumes_are_read(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_lvm_volume *list;
	size_t n;
	assert_kt_ok(kt_lvm_parse(printed, sizeof printed - 1, &list, &n, &err));
	assert_int_equal(n, 3);
	assert_string_equal(list[0].vg, "vg");
	assert_string_equal(list[0].lv, "data");
	assert_string_equal(list[0].origin, "");
	assert_string_equal(list[0].uuid, "YC8XCA7p26rG9xADIhf9FqmYu8tUZ4GY5uQvW7ZTTnRrnpBFEdmwuLOVchAOMKAn");
	assert_int_equal(list[0].bytes, 67108864);
	assert_int_equal(list[0].free, 327155712);
	assert_false(list[0].thin || list[0].invalid);
	assert_true(list[1].thin && !list[1].invalid);
	assert_string_equal(list[2].origin, "data");
	assert_true(list[2].invalid && !list[2].thin);
	assert_true(kt_lvm_has_tag(&list[2], "keyturn/c/n"));
	assert_true(kt_lvm_has_tag(&list[2], "x"));
	assert_false(kt_lvm_has_tag(&list[2], "keyturn/c"));
	assert_false(kt_lvm_has_tag(&list[2], "keyturn/c/n,x"));
	assert_false(kt_lvm_has_tag(&list[0], ""));
	assert_kt_fails(KT_E_REFUSED, kt_lvm_remove(&list[0], &err)); /* never a volume that is no snapshot */
	free(list);
}

/* Cut anywhere, or without one of the members: refused, and nothing is given. */
static void damaged_lists_are_refused(void **state)
{
	static const char *const members[] = {"vg_name", "lv_uuid",    "origin", "lv_size",
					      "lv_tags", "\"report\"", "\"lv\""};
	(void)state;
	kt_lvm_volume *list;
	size_t n;
	char text[sizeof printed];
	for (size_t i = 0; i < sizeof printed - 8; i++) {
		assert_true(kt_lvm_parse(printed, i, &list, &n, NULL) != KT_OK);
		assert_null(list);
	}
	for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
		memcpy(text, printed, sizeof printed);
		strstr(text, members[i])[1] = '?';
		assert_true(kt_lvm_parse(text, sizeof text - 1, &list, &n, NULL) != KT_OK);
		assert_null(list);
	}
	memcpy(text, printed, sizeof printed);
	strstr(text, "67108864")[0] = '-';
	assert_true(kt_lvm_parse(text, sizeof text - 1, &list, &n, NULL) != KT_OK);
}

static void sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"10%ORIGIN", 100}, {"100%ORIGIN", 1000},      {"50%FREE", 2500},
		    {"4M", 4 << 20},    {"2G", UINT64_C(2) << 30}, {"1T", UINT64_C(1) << 40}};
	static const char *const bad[] = {"",          "10",        "0M",  "-1M",    "10%", "101%ORIGIN",
					  "10%VG",     "M",         "1M ", " 1M",    "1m",  "9999999G",
					  "--size 1G", "1G --help", "5K",  "%ORIGIN"};
	const kt_lvm_volume v = {.bytes = 1000, .free = 5000};
	kt_err err = KT_ERR_INIT;
	uint64_t bytes;
	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		assert_kt_ok(kt_lvm_size(good[i].text, &v, &bytes, &err));
		assert_int_equal(bytes, good[i].bytes);
	}
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		if (kt_lvm_size(bad[i], &v, &bytes, NULL) != KT_E_INPUT)
			fail_msg("\"%s\" was taken", bad[i]);
}

static void mounts(void **state)
{
	char text[] = "22 1 0:21 / /data/two\\040words rw - tmpfs t rw\n"
		      "25 1 253:0 / /data rw,relatime shared:1 master:2 - ext4 /dev/vg/data rw\n"
		      "1 1 0:2 / / rw - rootfs none rw\n"
		      "30 1 253:1 /sub/folder /data rw - xfs /dev/vg/over rw\n";
	kt_mounts m;
	kt_err err = KT_ERR_INIT;
	(void)state;
	assert_kt_ok(kt_mounts_parse(text, &m, &err));
	assert_int_equal(m.n, 4);
	assert_string_equal(m.list[0].at, "/"); /* what holds comes first, what is mounted over comes later */
	assert_string_equal(m.list[1].fstype, "ext4");
	assert_string_equal(m.list[1].root, "");
	assert_string_equal(m.list[2].root, "/sub/folder");
	assert_true(m.list[2].device == makedev(253, 1));
	assert_string_equal(m.list[3].at, "/data/two words");
	assert_ptr_equal(kt_mount_of(&m, "/data"), &m.list[2]);
	assert_ptr_equal(kt_mount_of(&m, "/data/x"), &m.list[2]);
	assert_ptr_equal(kt_mount_of(&m, "/database"), &m.list[0]);
	assert_ptr_equal(kt_mount_of(&m, "/data/two words/x"), &m.list[3]);
	assert_true(kt_mount_is_below("/a/b", "/a/") && kt_mount_is_below("/a", "/a") && kt_mount_is_below("/a", "/"));
	assert_false(kt_mount_is_below("/a", "/a/b") || kt_mount_is_below("/ab", "/a"));
	kt_mounts_free(&m);
	char cut[] = "25 1 253:0 / /data rw,relatime\n";
	assert_kt_fails(KT_E_INPUT, kt_mounts_parse(cut, &m, &err));
	assert_kt_ok(kt_mounts_read(&m, &err));
	assert_non_null(kt_mount_of(&m, "/"));
	kt_mounts_free(&m);
}

/* Where the kernel has no logical volumes, or no LVM is installed. */
static void what_cannot_be_is_said(void **state)
{
	static const struct {
		const char *args;
		kt_code code;
	} rows[] = {{"{\"snapshot\":\"auto\"}", KT_OK},
		    {"{\"snapshot\":\"never\"}", KT_OK},
		    {"{}", KT_OK},
		    {"{\"snapshot\":\"lvm2\"}", KT_E_INPUT},
		    {"{\"snapshot\":1}", KT_E_INPUT},
		    {"{\"snapshot_size\":\"much\"}", KT_E_INPUT},
		    {"{\"snapshot\":\"lvm\",\"snapshot_size\":\"1G\"}", KT_E_REFUSED}};
	(void)state;
	put_folder("top", 0755);
	const kt_archive_source source = {.top = at("top")};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		kt_err err = KT_ERR_INIT;
		cJSON *args;
		assert_kt_ok(kt_json_parse("args", rows[i].args, strlen(rows[i].args), &args, &err));
		kt_code rc = kt_snapshot_check(args, &source, &err);
		bool no_lvm = rows[i].code == KT_E_REFUSED && rc == KT_E_IO; /* lvm2 is not installed here */
		if (rc != rows[i].code && !no_lvm)
			fail_msg("%s: %s", rows[i].args, err.msg);
		cJSON_Delete(args);
	}
}

/* A record without a snapshot (killed in between): found by its tag alone, and only by who may. */
static void a_record_is_kept_until_its_tag_is_looked_for(void **state)
{
	kt_agent_ctx ctx = {.state = scratch_folder, .node = "n", .cluster = "c", .run = "r", .lock_fd = -1};
	kt_err err = KT_ERR_INIT;
	(void)state;
	assert_kt_ok(kt_snapshot_clear(&ctx, true, &err)); /* nothing there: LVM is not asked */
	put_text("snapshot", "keyturn/c/other/n\n", 0600);
	assert_kt_fails(KT_E_AUDIT, kt_snapshot_clear(&ctx, false, &err)); /* it has no checksum */
	assert_non_null(strstr(err.remedy, "lvs"));
	assert_int_equal(access(at("snapshot"), F_OK), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(volumes_are_read),
		cmocka_unit_test(damaged_lists_are_refused),
		cmocka_unit_test(sizes),
		cmocka_unit_test(mounts),
		cmocka_unit_test_setup_teardown(what_cannot_be_is_said, scratch_make, scratch_drop),
		cmocka_unit_test_setup_teardown(a_record_is_kept_until_its_tag_is_looked_for, scratch_make,
						scratch_drop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

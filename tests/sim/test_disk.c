/* SPDX-License-Identifier: Apache-2.0 */
/* The disk in memory keeps what POSIX promises, and loses what it does not. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "tests/sim/disktest.h"
#include "tests/unit/support.h"

enum { SEEDS = 400 };

static sim_rng dice;

static void fresh(uint64_t with)
{
	sim_disk_reset(disk);
	dice.s = with;
}

static void cut(void)
{
	sim_disk_power_cut(disk, sim_roll, &dice);
}

static void put(const char *path, const char *text, bool sync)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= SIM_DISK_FD);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	if (sync)
		assert_int_equal(fsync(fd), 0);
	assert_int_equal(close(fd), 0);
}

static void sync_folder(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= SIM_DISK_FD);
	assert_int_equal(fsync(fd), 0);
	assert_int_equal(close(fd), 0);
}

/* What is there; NULL when nothing is. */
static const char *get(const char *path)
{
	static char text[32768];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		assert_int_equal(errno, ENOENT);
		return NULL;
	}
	ssize_t n = read(fd, text, sizeof text - 1);
	assert_true(n >= 0);
	text[n] = '\0';
	assert_int_equal(close(fd), 0);
	return text;
}

static bool is(const char *path, const char *want)
{
	const char *have = get(path);
	return want ? have && strcmp(have, want) == 0 : !have;
}

static void a_file_system(void **state)
{
	(void)state;
	struct stat st;
	char text[64];
	assert_int_equal(mkdir("/sim/a", 0700), 0);
	assert_int_equal(mkdir("/sim/a", 0700), -1);
	assert_int_equal(errno, EEXIST);
	assert_int_equal(mkdir("/sim/no/b", 0700), -1);
	assert_int_equal(errno, ENOENT);
	put("/sim/a/f", "hello", false);
	assert_int_equal(mkdir("/sim/a/f/g", 0700), -1);
	assert_int_equal(errno, ENOTDIR);
	assert_int_equal(open("/sim/a", O_WRONLY), -1);
	assert_int_equal(errno, EISDIR);
	assert_int_equal(open("/sim/a/f", O_RDONLY | O_DIRECTORY), -1);
	assert_int_equal(errno, ENOTDIR);
	assert_int_equal(open("/sim/a/f", O_RDONLY | O_CREAT | O_EXCL, 0600), -1);
	assert_int_equal(errno, EEXIST);
	assert_int_equal(stat("/sim/a/f", &st), 0);
	assert_true(S_ISREG(st.st_mode) && st.st_size == 5 && (st.st_mode & 07777) == 0600 && st.st_nlink == 1);
	assert_int_equal(stat("/sim/a", &st), 0);
	assert_true(S_ISDIR(st.st_mode));
	assert_int_equal(link("/sim/a/f", "/sim/a/g"), 0);
	assert_int_equal(link("/sim/a/f", "/sim/a/g"), -1);
	assert_int_equal(errno, EEXIST);
	assert_int_equal(renameat2(AT_FDCWD, "/sim/a/f", AT_FDCWD, "/sim/a/g", RENAME_NOREPLACE), -1);
	assert_int_equal(errno, EEXIST);
	assert_int_equal(unlink("/sim/a/f"), 0);
	assert_int_equal(access("/sim/a/f", F_OK), -1);
	assert_int_equal(errno, ENOENT);
	assert_true(is("/sim/a/g", "hello"));
	assert_int_equal(rename("/sim/a/g", "/sim/g"), -1);
	assert_int_equal(errno, EXDEV);
	int folder = open("/sim/a", O_RDONLY | O_DIRECTORY);
	int fd = openat(folder, "g", O_RDWR | O_APPEND);
	assert_true(fd >= SIM_DISK_FD);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(write(fd, " world", 6), 6);
	assert_int_equal(pwrite(fd, "H", 1, 0), 1);
	assert_int_equal(pread(fd, text, sizeof text, 0), 11);
	assert_memory_equal(text, "Hello world", 11);
	assert_int_equal(ftruncate(fd, 2), 0);
	assert_int_equal(ftruncate(fd, 4), 0);
	assert_int_equal(pread(fd, text, sizeof text, 0), 4);
	assert_memory_equal(text, "He\0\0", 4);
	assert_int_equal(fchmod(fd, 0400), 0);
	assert_int_equal(unlinkat(folder, "g", 0), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true(st.st_nlink == 0 && (st.st_mode & 07777) == 0400);
	assert_int_equal(sim_disk_open_files(disk), 2);
	assert_int_equal(close(fd), 0);
	assert_int_equal(close(folder), 0);
	assert_int_equal(read(fd, text, 1), -1);
	assert_int_equal(errno, EBADF);
}

/* What does not begin with /sim/ goes to the machine. */
static void the_rest_is_real(void **state)
{
	(void)state;
	struct stat st;
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0 && fd < SIM_DISK_FD);
	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(close(fd), 0);
	assert_int_equal(stat("/simple", &st), -1);
	sim_disk_use(NULL);
	assert_int_equal(stat("/sim", &st), -1);
	sim_disk_use(disk);
	assert_int_equal(stat("/sim", &st), 0);
	assert_int_equal(sim_disk_ops(disk), 0);
}

/* A kill loses nothing but descriptors and locks. */
static void a_kill(void **state)
{
	(void)state;
	put("/sim/f", "unsynced", false);
	int fd = open("/sim/f", O_RDONLY);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	sim_disk_process_end(disk);
	assert_int_equal(sim_disk_open_files(disk), 0);
	assert_true(is("/sim/f", "unsynced"));
	fd = open("/sim/f", O_RDONLY);
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
}

static void dead_is_dead(void **state)
{
	(void)state;
	char text[8];
	int fd = open("/sim/f", O_RDWR | O_CREAT, 0600);
	sim_disk_die_after(disk, 1);
	assert_int_equal(write(fd, "one", 3), 3);
	assert_int_equal(pread(fd, text, 3, 0), 3);
	assert_false(sim_disk_dead(disk));
	assert_int_equal(write(fd, "two", 3), -1);
	assert_int_equal(errno, EIO);
	assert_true(sim_disk_dead(disk));
	assert_int_equal(pread(fd, text, 3, 0), -1);
	assert_int_equal(mkdir("/sim/a", 0700), -1);
	assert_int_equal(access("/sim/f", F_OK), -1);
	assert_int_equal(errno, EIO);
	sim_disk_process_end(disk);
	assert_true(is("/sim/f", "one"));
	assert_int_equal(access("/sim/a", F_OK), -1);
	assert_int_equal(errno, ENOENT);
}

static void one_failure(void **state)
{
	(void)state;
	sim_disk_fail_at(disk, 1, ENOSPC);
	int fd = open("/sim/f", O_RDWR | O_CREAT, 0600);
	assert_int_equal(write(fd, "x", 1), -1);
	assert_int_equal(errno, ENOSPC);
	assert_int_equal(write(fd, "y", 1), 1);
	sim_disk_fail_call_at(disk, 0, EACCES);
	assert_int_equal(access("/sim/f", F_OK), -1);
	assert_int_equal(errno, EACCES);
	assert_true(is("/sim/f", "y"));
}

/* Old and new as far as they go are there; anything else in between is possible and happens. */
static void unsynced_content_is_torn(void **state)
{
	(void)state;
	unsigned old = 0;
	unsigned new = 0;
	unsigned neither = 0;
	for (uint64_t s = 0; s < SEEDS; s++) {
		fresh(s);
		put("/sim/f", "the old one", true);
		sync_folder("/sim");
		put("/sim/f", "THE NEW ONE, LONGER", false);
		cut();
		const char *text = get("/sim/f");
		assert_non_null(text);
		assert_true(strlen(text) <= 19);
		old += strcmp(text, "the old one") == 0;
		new += strcmp(text, "THE NEW ONE, LONGER") == 0;
		neither += strcmp(text, "the old one") != 0 && strcmp(text, "THE NEW ONE, LONGER") != 0;
	}
	assert_true(old > SEEDS / 20 && new > SEEDS / 20 && neither > SEEDS / 20);
}

static void large_content_is_torn_by_blocks(void **state)
{
	(void)state;
	static char a[4 * SIM_DISK_SECTOR + 1];
	static char b[4 * SIM_DISK_SECTOR + 1];
	unsigned mixed = 0;
	memset(a, 'a', sizeof a - 1);
	memset(b, 'b', sizeof b - 1);
	for (uint64_t s = 0; s < SEEDS; s++) {
		fresh(s);
		put("/sim/f", a, true);
		sync_folder("/sim");
		int fd = open("/sim/f", O_WRONLY);
		assert_int_equal(write(fd, b, sizeof b - 1), sizeof b - 1);
		cut();
		const char *text = get("/sim/f");
		assert_int_equal(strlen(text), sizeof a - 1);
		bool as = strchr(text, 'a');
		bool bs = strchr(text, 'b');
		mixed += as && bs;
		for (size_t i = 0; i < sizeof a - 1; i++)
			assert_int_equal(text[i], text[i / SIM_DISK_SECTOR * SIM_DISK_SECTOR]);
	}
	assert_true(mixed > SEEDS / 2);
}

static void synced_content_stays(void **state)
{
	(void)state;
	for (uint64_t s = 0; s < SEEDS; s++) {
		fresh(s);
		put("/sim/f", "synced", true);
		sync_folder("/sim");
		cut();
		assert_true(is("/sim/f", "synced"));
		cut();
		assert_true(is("/sim/f", "synced"));
	}
}

/* Synced content without a synced name: there or not. */
static void unsynced_names(void **state)
{
	(void)state;
	unsigned there = 0;
	unsigned removed = 0;
	unsigned folders = 0;
	for (uint64_t s = 0; s < SEEDS; s++) {
		fresh(s);
		put("/sim/old", "old", true);
		sync_folder("/sim");
		put("/sim/f", "new", true);
		assert_int_equal(unlink("/sim/old"), 0);
		assert_int_equal(mkdir("/sim/d", 0700), 0);
		put("/sim/d/in", "deep", true);
		sync_folder("/sim/d");
		cut();
		assert_true(is("/sim/f", NULL) || is("/sim/f", "new"));
		assert_true(is("/sim/old", NULL) || is("/sim/old", "old"));
		there += is("/sim/f", "new");
		removed += is("/sim/old", NULL);
		bool folder = access("/sim/d", F_OK) == 0;
		folders += folder;
		assert_true(is("/sim/d/in", folder ? "deep" : NULL));
		/* Gone is gone: the name can be made again. */
		assert_int_equal(mkdir("/sim/d", 0700), folder ? -1 : 0);
		assert_true(is("/sim/d/in", folder ? "deep" : NULL));
	}
	assert_in_range(there, SEEDS / 4, SEEDS * 3 / 4);
	assert_in_range(removed, SEEDS / 4, SEEDS * 3 / 4);
	assert_in_range(folders, SEEDS / 4, SEEDS * 3 / 4);
}

/* S9's own way to replace: old or new, never torn, and never a name without content. */
static void a_rename_is_old_or_new(void **state)
{
	(void)state;
	unsigned news = 0;
	unsigned left = 0;
	for (uint64_t s = 0; s < SEEDS; s++) {
		fresh(s);
		put("/sim/f", "old", true);
		sync_folder("/sim");
		put("/sim/f.tmp", "new", true);
		assert_int_equal(rename("/sim/f.tmp", "/sim/f"), 0);
		cut();
		assert_true(is("/sim/f", "old") || is("/sim/f", "new"));
		assert_false(is("/sim/f", "new") && !is("/sim/f.tmp", NULL));
		news += is("/sim/f", "new");
		left += !is("/sim/f.tmp", NULL);
	}
	assert_in_range(news, SEEDS / 8, SEEDS * 7 / 8);
	assert_in_range(left, SEEDS / 8, SEEDS * 7 / 8);
}

/* The classic mistake is seen: renamed before its content was synced. */
static void a_rename_of_unsynced_content(void **state)
{
	(void)state;
	unsigned torn = 0;
	for (uint64_t s = 0; s < SEEDS; s++) {
		fresh(s);
		put("/sim/f.tmp", "new", false);
		assert_int_equal(rename("/sim/f.tmp", "/sim/f"), 0);
		sync_folder("/sim");
		cut();
		torn += !is("/sim/f", "new");
	}
	assert_true(torn > SEEDS / 4);
}

static void a_full_disk(void **state)
{
	(void)state;
	static char page[SIM_DISK_BLOCK];
	put("/sim/f", "x", false);
	int kept = open("/sim/kept", O_RDWR | O_CREAT, 0600);
	assert_int_equal(posix_fallocate(kept, 0, 3 * SIM_DISK_BLOCK), 0);
	assert_int_equal(fsync(kept), 0);
	sync_folder("/sim");
	sim_disk_limit(disk, sim_disk_used(disk) + SIM_DISK_BLOCK + 100);
	int fd = open("/sim/g", O_RDWR | O_CREAT, 0600);
	assert_int_equal(write(fd, page, 100), 100);
	assert_int_equal(write(fd, page, sizeof page), SIM_DISK_BLOCK - 100);
	assert_int_equal(write(fd, page, 1), -1);
	assert_int_equal(errno, ENOSPC);
	assert_int_equal(mkdir("/sim/d", 0700), -1);
	assert_int_equal(errno, ENOSPC);
	assert_int_equal(posix_fallocate(fd, 0, 2 * SIM_DISK_BLOCK), ENOSPC);
	/* Set aside is set aside, also over a power cut. */
	cut();
	sim_disk_limit(disk, sim_disk_used(disk));
	kept = open("/sim/kept", O_RDWR);
	for (int i = 0; i < 3; i++)
		assert_int_equal(write(kept, page, sizeof page), sizeof page);
	assert_int_equal(write(kept, page, 1), -1);
	/* Room comes back with what goes: the last name, and the last descriptor. */
	sim_disk_limit(disk, sim_disk_used(disk));
	fd = open("/sim/h", O_RDWR | O_CREAT, 0600);
	assert_int_equal(unlink("/sim/kept"), 0);
	assert_int_equal(write(fd, page, 1), -1);
	assert_int_equal(close(kept), 0);
	assert_int_equal(write(fd, page, 1), 1);
}

static void locks(void **state)
{
	(void)state;
	put("/sim/f", "", false);
	int a = open("/sim/f", O_RDONLY);
	int b = open("/sim/f", O_RDONLY);
	assert_int_equal(flock(a, LOCK_EX), 0);
	assert_int_equal(flock(b, LOCK_EX | LOCK_NB), -1);
	assert_int_equal(errno, EWOULDBLOCK);
	assert_int_equal(flock(b, LOCK_SH | LOCK_NB), -1);
	assert_int_equal(flock(b, LOCK_EX), -1);
	assert_int_equal(errno, EDEADLK);
	assert_int_equal(flock(a, LOCK_UN), 0);
	assert_int_equal(flock(b, LOCK_SH), 0);
	assert_int_equal(flock(a, LOCK_SH), 0);
	assert_int_equal(flock(a, LOCK_EX | LOCK_NB), -1);
	assert_int_equal(close(b), 0);
	assert_int_equal(flock(a, LOCK_EX | LOCK_NB), 0);
	assert_int_equal(close(a), 0);
	a = open("/sim/f", O_RDONLY);
	assert_int_equal(flock(a, LOCK_EX | LOCK_NB), 0);
}

/* The product's own replacement, cut off everywhere: old or new, and new once it has said so. */
static void the_real_replacement(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	for (uint64_t s = 0; s < SEEDS; s++) {
		fresh(s);
		assert_kt_ok(kt_file_replace("/sim/f", "old", 3, NULL, &err));
		sim_disk_die_after(disk, s % 8);
		bool said = kt_file_replace("/sim/f", "new", 3, NULL, &err) == KT_OK;
		assert_int_equal(said, s % 8 > 5);
		cut();
		assert_true(is("/sim/f", "new") || (!said && is("/sim/f", "old")));
	}
}

/* A file that somebody else has just made, and was killed before it was durable: it is when we have seen it. */
static void what_is_there_already_is_durable(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	for (uint64_t s = 0; s < SEEDS; s++) {
		bool made;
		fresh(s);
		put("/sim/f", "first", true);
		assert_kt_ok(kt_file_create("/sim/f", "second", 6, NULL, &made, &err));
		assert_false(made);
		cut();
		assert_true(is("/sim/f", "first"));
	}
}

/* Who removed it was killed before that was on the disk: it may come back with the power, unless it is seen to. */
static void what_is_gone_already_is_gone_for_good(void **state)
{
	(void)state;
	for (uint64_t s = 0; s < SEEDS; s++) {
		kt_err err = KT_ERR_INIT;
		bool was_there = true;
		fresh(s);
		put("/sim/key", "key", true);
		sync_folder("/sim");
		assert_int_equal(unlink("/sim/key"), 0);
		sim_disk_process_end(disk);
		assert_int_equal(kt_file_remove("/sim/key", &was_there, &err), KT_OK);
		assert_false(was_there);
		assert_int_equal(kt_file_remove("/sim/nowhere/key", NULL, &err), KT_OK);
		cut();
		assert_true(is("/sim/key", NULL));
	}
}

static void many_disks(void **state)
{
	(void)state;
	sim_disk *other = sim_disk_new();
	put("/sim/f", "first", false);
	int fd = open("/sim/f", O_RDONLY);
	sim_disk_use(other);
	put("/sim/f", "second", false);
	char text[8] = "";
	assert_int_equal(read(fd, text, sizeof text), 5);
	assert_string_equal(text, "first");
	assert_true(is("/sim/f", "second"));
	sim_disk_free(other);
	sim_disk_use(disk);
	assert_true(is("/sim/f", "first"));
	sim_disk_reset(disk);
	assert_true(is("/sim/f", NULL));
	assert_int_equal(sim_disk_ops(disk), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_file_system, disk_make, disk_drop),
		cmocka_unit_test_setup_teardown(the_rest_is_real, disk_make, disk_drop),
		cmocka_unit_test_setup_teardown(a_kill, disk_make, disk_drop),
		cmocka_unit_test_setup_teardown(dead_is_dead, disk_make, disk_drop),
		cmocka_unit_test_setup_teardown(one_failure, disk_make, disk_drop),
		cmocka_unit_test_setup_teardown(unsynced_content_is_torn, disk_make, disk_drop),
		cmocka_unit_test_setup_teardown(large_content_is_torn_by_blocks, disk_make, disk_drop),
		cmocka_unit_test_setup_teardown(synced_content_stays, disk_make, disk_drop),
		cmocka_unit_test_setup_teardown(unsynced_names, disk_make, disk_drop),
		cmocka_unit_test_setup_teardown(a_rename_is_old_or_new, disk_make, disk_drop),
		cmocka_unit_test_setup_teardown(a_rename_of_unsynced_content, disk_make, disk_drop),
		cmocka_unit_test_setup_teardown(a_full_disk, disk_make, disk_drop),
		cmocka_unit_test_setup_teardown(locks, disk_make, disk_drop),
		cmocka_unit_test_setup_teardown(the_real_replacement, disk_make, disk_drop),
		cmocka_unit_test_setup_teardown(what_is_there_already_is_durable, disk_make, disk_drop),
		cmocka_unit_test_setup_teardown(what_is_gone_already_is_gone_for_good, disk_make, disk_drop),
		cmocka_unit_test_setup_teardown(many_disks, disk_make, disk_drop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

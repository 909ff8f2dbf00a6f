/* SPDX-License-Identifier: Apache-2.0 */
/* Files. The tests of S9: a file is replaced whole or not at all, whatever happens. */
#include "tests/unit/support.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"

enum { BIG = 512 * 1024 };

static void put(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	assert_int_equal(fchmod(fd, mode), 0);
	assert_int_equal(close(fd), 0);
}

static void assert_content(const char *path, const char *text)
{
	kt_err err = KT_ERR_INIT;
	kt_buf got = KT_BUF_INIT;
	assert_kt_ok(kt_file_read(path, &got, &err));
	assert_string_equal(kt_buf_cstr(&got), text);
	kt_buf_free(&got);
}

static size_t entries(const char *folder)
{
	DIR *dir = opendir(folder);
	assert_non_null(dir);
	size_t n = 0;
	for (struct dirent *e = readdir(dir); e; e = readdir(dir))
		n += e->d_name[0] != '.';
	closedir(dir);
	return n;
}

/* Every test works in an empty folder of its own, which is removed with what is in it. */
static int enter(void **state)
{
	(void)state;
	char name[] = "file-XXXXXX";
	return mkdtemp(name) && chdir(name) == 0 ? 0 : -1;
}

static int leave(void **state)
{
	(void)state;
	char here[4096];
	if (!getcwd(here, sizeof here) || chdir("..") != 0)
		return -1;
	DIR *dir = opendir(here);
	for (struct dirent *e = dir ? readdir(dir) : NULL; e; e = readdir(dir)) {
		if (unlinkat(dirfd(dir), e->d_name, 0) != 0)
			(void)unlinkat(dirfd(dir), e->d_name, AT_REMOVEDIR);
	}
	if (dir)
		closedir(dir);
	return rmdir(here);
}

/* --- Reading ---------------------------------------------------------------------------------------------------------
 */

static void reads_within_its_bound(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	put("f", "0123456789", 0600);
	for (size_t max = 10; max < 30; max++) {
		kt_buf b = {.max = max};
		assert_kt_ok(kt_file_read("f", &b, &err));
		assert_string_equal(kt_buf_cstr(&b), "0123456789");
		assert_int_equal(err.code, KT_OK);
		assert_string_equal(err.msg, "");
		kt_buf_free(&b);
	}
	for (size_t max = 1; max < 10; max++) {
		kt_buf b = {.max = max};
		assert_kt_fails(KT_E_INPUT, kt_file_read("f", &b, &err));
		assert_true(kt_buf_sane(&b));
		kt_buf_free(&b);
	}
}

static void reads_every_size_around_a_chunk(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	const size_t sizes[] = {0, 1, 65535, 65536, 65537, 131072, 200000};
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		char *text = malloc(sizes[i] + 1);
		assert_non_null(text);
		memset(text, 'k', sizes[i]);
		text[sizes[i]] = '\0';
		put("f", text, 0600);
		kt_buf exact = {.max = sizes[i] ? sizes[i] : 1};
		assert_kt_ok(kt_file_read("f", &exact, &err));
		assert_int_equal(exact.len, sizes[i]);
		assert_true(kt_buf_sane(&exact));
		kt_buf_free(&exact);
		free(text);
	}
}

static void appends_what_it_reads(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf b = KT_BUF_INIT;
	put("f", "two", 0600);
	assert_kt_ok(kt_buf_str(&b, "one ", &err));
	assert_kt_ok(kt_file_read("f", &b, &err));
	assert_string_equal(kt_buf_cstr(&b), "one two");
	kt_buf_free(&b);
}

static void reads_only_regular_files(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf b = KT_BUF_INIT;
	assert_kt_fails(KT_E_IO, kt_file_read("none", &b, &err));
	assert_non_null(strstr(err.msg, "none"));
	assert_kt_fails(KT_E_IO, kt_file_read(".", &b, &err));
	assert_int_equal(mkfifo("fifo", 0600), 0);
	assert_kt_fails(KT_E_IO, kt_file_read("fifo", &b, &err)); /* and does not hang */
	assert_kt_fails(KT_E_IO, kt_file_read("/dev/zero", &b, &err));
	kt_buf_free(&b);
}

/* --- Replacing -------------------------------------------------------------------------------------------------------
 */

static void makes_a_new_file_private(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	struct stat st;
	mode_t old = umask(0);
	assert_kt_ok(kt_file_replace("f", "new", 3, NULL, &err));
	umask(old);
	assert_content("f", "new");
	assert_int_equal(stat("f", &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(st.st_uid, geteuid());
	assert_int_equal(entries("."), 1);
}

static void keeps_the_mode_of_the_old_file(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	const mode_t modes[] = {0400, 0600, 0640, 0644, 0755};
	mode_t old = umask(077);
	for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
		struct stat before;
		struct stat after;
		(void)unlink("f");
		put("f", "old", modes[i]);
		assert_int_equal(stat("f", &before), 0);
		assert_kt_ok(kt_file_replace("f", "new", 3, NULL, &err));
		assert_content("f", "new");
		assert_int_equal(stat("f", &after), 0);
		assert_int_equal(after.st_mode & 07777, modes[i]);
		assert_int_not_equal(after.st_ino, before.st_ino);
	}
	umask(old);
}

static void sets_what_is_asked_for(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	struct stat st;
	const kt_file_attr only_mode = {.mode = 0440, .uid = KT_KEEP, .gid = KT_KEEP};
	put("f", "old", 0644);
	assert_kt_ok(kt_file_replace("f", "", 0, &only_mode, &err));
	assert_content("f", "");
	assert_int_equal(stat("f", &st), 0);
	assert_int_equal(st.st_mode & 07777, 0440);
}

/* As root: the owner stays, and another can be set. As a user: what cannot be set is an error and changes nothing. */
static void owner_is_kept_or_set(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	struct stat st;
	const kt_file_attr other = {.mode = KT_KEEP, .uid = 65534, .gid = 65534};
	put("f", "old", 0600);
	if (geteuid() != 0) {
		assert_kt_fails(KT_E_IO, kt_file_replace("f", "new", 3, &other, &err));
		assert_content("f", "old");
		assert_int_equal(entries("."), 1);
		return;
	}
	assert_kt_ok(kt_file_replace("f", "new", 3, &other, &err));
	assert_kt_ok(kt_file_replace("f", "newer", 5, NULL, &err));
	assert_content("f", "newer");
	assert_int_equal(stat("f", &st), 0);
	assert_int_equal(st.st_uid, 65534);
	assert_int_equal(st.st_gid, 65534);
	assert_int_equal(st.st_mode & 07777, 0600);
}

static void refuses_links_and_folders(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	struct stat st;
	put("target", "old", 0600);
	assert_int_equal(symlink("target", "link"), 0);
	assert_kt_fails(KT_E_IO, kt_file_replace("link", "new", 3, NULL, &err));
	assert_int_equal(lstat("link", &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_content("target", "old");
	assert_int_equal(symlink("nowhere", "dangling"), 0);
	assert_kt_fails(KT_E_IO, kt_file_replace("dangling", "new", 3, NULL, &err));
	assert_int_equal(mkdir("folder", 0700), 0);
	assert_kt_fails(KT_E_IO, kt_file_replace("folder", "new", 3, NULL, &err));
	assert_kt_fails(KT_E_IO, kt_file_replace("no/such/folder/f", "new", 3, NULL, &err));
	assert_int_equal(entries("."), 4);
}

static void refuses_a_path_that_is_too_long(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	char path[5000];
	memset(path, 'p', sizeof path - 1);
	path[sizeof path - 1] = '\0';
	assert_true(kt_file_replace(path, "new", 3, NULL, &err) != KT_OK);
	assert_int_equal(entries("."), 0);
}

/* Runs `body` in a child; its exit code is 0 when all was well. (Limits and mounts of the child end with it.) */
static void in_a_child(int (*body)(void))
{
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0)
		_exit(body());
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fail_msg("the child ended with status 0x%x", (unsigned)status);
}

/* The old content must be there and no other file. 0 when so. */
static int unharmed(const char *path, const char *text, size_t files)
{
	kt_err err = KT_ERR_INIT;
	kt_buf got = KT_BUF_INIT;
	int bad = kt_file_read(path, &got, &err) != KT_OK || strcmp(kt_buf_cstr(&got), text) != 0;
	kt_buf_free(&got);
	return bad || entries(".") != files;
}

static char *big_text(char c)
{
	char *text = malloc(BIG + 1);
	if (text) {
		memset(text, c, BIG);
		text[BIG] = '\0';
	}
	return text;
}

/* A write that stops in the middle of the file (for any user: the limit on a file's size). */
static int stopped_in_the_middle(void)
{
	kt_err err = KT_ERR_INIT;
	struct rlimit small = {BIG / 2, BIG / 2};
	char *text = big_text('n');
	if (!text || signal(SIGXFSZ, SIG_IGN) == SIG_ERR || setrlimit(RLIMIT_FSIZE, &small) != 0)
		return 10;
	kt_code rc = kt_file_replace("f", text, BIG, NULL, &err);
	free(text);
	if (rc != KT_E_IO || !strstr(err.msg, "f"))
		return 11;
	return unharmed("f", "old", 1) ? 12 : 0;
}

static void a_short_write_leaves_the_old_file(void **state)
{
	(void)state;
	put("f", "old", 0600);
	in_a_child(stopped_in_the_middle);
	assert_content("f", "old");
}

static int on_a_full_disk(void)
{
	kt_err err = KT_ERR_INIT;
	if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) != 0)
		return 10;
	if (mount("tmpfs", "full", "tmpfs", 0, "size=128k") != 0 || chdir("full") != 0)
		return 11;
	if (kt_file_replace("f", "old", 3, NULL, &err) != KT_OK)
		return 12;
	char *text = big_text('n');
	if (!text)
		return 13;
	kt_code rc = kt_file_replace("f", text, BIG, NULL, &err);
	free(text);
	if (rc != KT_E_IO || !strstr(err.msg, strerror(ENOSPC)) || !strstr(err.remedy, "space"))
		return 14;
	if (unharmed("f", "old", 1))
		return 15;
	/* There is room again: the same call succeeds. */
	return kt_file_replace("f", "new", 3, NULL, &err) != KT_OK || unharmed("f", "new", 1) ? 16 : 0;
}

static void a_full_disk_leaves_the_old_file(void **state)
{
	(void)state;
	if (geteuid() != 0) {
		print_message("not root: a small filesystem cannot be mounted\n");
		skip();
	}
	assert_int_equal(mkdir("full", 0700), 0);
	in_a_child(on_a_full_disk);
}

static int without_permission(void)
{
	kt_err err = KT_ERR_INIT;
	if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
		return 10;
	kt_code rc = kt_file_replace("f", "new", 3, NULL, &err);
	if (rc != KT_E_IO || !strstr(err.msg, strerror(EACCES)) || !err.remedy[0])
		return 11;
	return 0;
}

static void a_folder_without_permission_is_an_error(void **state)
{
	(void)state;
	put("f", "old", 0644);
	assert_int_equal(chmod(".", 0555), 0);
	in_a_child(without_permission);
	assert_int_equal(chmod(".", 0755), 0);
	assert_content("f", "old");
	assert_int_equal(entries("."), 1);
}

static void replace_for_ever(const char *a, const char *b)
{
	kt_err err = KT_ERR_INIT;
	for (;;) {
		if (kt_file_replace("f", a, BIG, NULL, &err) != KT_OK ||
		    kt_file_replace("f", b, BIG, NULL, &err) != KT_OK)
			_exit(1);
	}
}

static void assert_whole(const char *path)
{
	kt_err err = KT_ERR_INIT;
	kt_buf got = KT_BUF_INIT;
	assert_kt_ok(kt_file_read(path, &got, &err));
	assert_int_equal(got.len, BIG);
	for (size_t i = 1; i < got.len; i++)
		if (got.data[i] != got.data[0])
			fail_msg("byte %zu is of another version", i);
	kt_buf_free(&got);
}

/* kill -9 at many moments of a replacement: the file is always wholly the one or the other version. */
static void kill_at_any_moment_leaves_a_whole_file(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	char *a = big_text('a');
	char *b = big_text('b');
	assert_non_null(a);
	assert_non_null(b);
	assert_kt_ok(kt_file_replace("f", a, BIG, NULL, &err));
	for (unsigned round = 0; round < 40; round++) {
		pid_t child = fork();
		assert_true(child >= 0);
		if (child == 0)
			replace_for_ever(a, b);
		const struct timespec moment = {.tv_nsec = (long)(1000000 + round * 487123)};
		assert_int_equal(nanosleep(&moment, NULL), 0);
		assert_int_equal(kill(child, SIGKILL), 0);
		int status;
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		assert_whole("f");
	}
	free(a);
	free(b);
}

/* --- Folders ---------------------------------------------------------------------------------------------------------
 */

static void makes_folders(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	struct stat st;
	mode_t old = umask(0);
	assert_kt_ok(kt_file_mkdirs("a/b//c/", 0700, &err));
	umask(old);
	assert_int_equal(stat("a/b/c", &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_kt_ok(kt_file_mkdirs("a/b/c", 0700, &err));
	assert_kt_ok(kt_file_mkdirs("/", 0700, &err));
	put("a/file", "x", 0600);
	assert_kt_fails(KT_E_IO, kt_file_mkdirs("a/file", 0700, &err));
	assert_kt_fails(KT_E_IO, kt_file_mkdirs("a/file/d", 0700, &err));
	assert_int_equal(unlink("a/file"), 0);
	assert_int_equal(rmdir("a/b/c") || rmdir("a/b"), 0);
}

static void syncs_folders(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	assert_kt_ok(kt_file_sync_folder("f", &err));
	assert_kt_ok(kt_file_sync_folder("/f", &err));
	assert_kt_fails(KT_E_IO, kt_file_sync_folder("none/f", &err));
	assert_non_null(strstr(err.msg, "none"));
}

static void sweeps_its_own_leftovers_alone(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	static const char *const left[] = {"f.ktAb12Zz", "f.kt000000"};
	static const char *const others[] = {"f", "f.ktAb12Z", "f.ktAb12Zzz", "g.ktAb12Zz", "f.keyturn", "f.tkAb12Zz"};
	for (size_t i = 0; i < sizeof left / sizeof left[0]; i++)
		close(open(left[i], O_CREAT | O_WRONLY, 0600));
	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
		close(open(others[i], O_CREAT | O_WRONLY, 0600));
	assert_kt_ok(kt_file_sweep("f", &err));
	for (size_t i = 0; i < sizeof left / sizeof left[0]; i++)
		assert_int_not_equal(access(left[i], F_OK), 0);
	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
		assert_int_equal(access(others[i], F_OK), 0);
	assert_kt_ok(kt_file_sweep("none/f", &err));
	assert_kt_fails(KT_E_IO, kt_file_sweep("f/g", &err));
}

static void writes_all_or_says_why(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	int ends[2];
	assert_int_equal(pipe(ends), 0);
	assert_kt_ok(kt_file_write_all(ends[1], "abc", 3, "pipe", &err));
	assert_kt_ok(kt_file_write_all(ends[1], NULL, 0, "pipe", &err));
	close(ends[0]);
	(void)signal(SIGPIPE, SIG_IGN);
	assert_kt_fails(KT_E_IO, kt_file_write_all(ends[1], "abc", 3, "the pipe", &err));
	assert_non_null(strstr(err.msg, "the pipe"));
	close(ends[1]);
}

#define KT_CASE(f) cmocka_unit_test_setup_teardown(f, enter, leave)

int main(void)
{
	const struct CMUnitTest tests[] = {
		KT_CASE(reads_within_its_bound),
		KT_CASE(reads_every_size_around_a_chunk),
		KT_CASE(appends_what_it_reads),
		KT_CASE(reads_only_regular_files),
		KT_CASE(makes_a_new_file_private),
		KT_CASE(keeps_the_mode_of_the_old_file),
		KT_CASE(sets_what_is_asked_for),
		KT_CASE(owner_is_kept_or_set),
		KT_CASE(refuses_links_and_folders),
		KT_CASE(refuses_a_path_that_is_too_long),
		KT_CASE(a_short_write_leaves_the_old_file),
		KT_CASE(a_full_disk_leaves_the_old_file),
		KT_CASE(a_folder_without_permission_is_an_error),
		KT_CASE(kill_at_any_moment_leaves_a_whole_file),
		KT_CASE(makes_folders),
		KT_CASE(syncs_folders),
		KT_CASE(sweeps_its_own_leftovers_alone),
		KT_CASE(writes_all_or_says_why),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

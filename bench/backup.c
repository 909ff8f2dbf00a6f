/* SPDX-License-Identifier: Apache-2.0 */
/* Making a backup against `tar -zcf` of the same tree in the same run: 256 MiB of text-like files in 4,000 files. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/archive.h"
#include "agent/tree.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/secret.h"
#include "base/spawn.h"

enum { FILES = 4000, FILE_BYTES = 64 * 1024, FOLDERS = 40, GOAL_TIMES = 2 };

static char root[256];

/* Lines of words, each file other ones: compresses as sources and models do. */
static void fill(char *text, size_t n, unsigned seed)
{
	static const char *const words[] = {"view",    "dimension", "measure",     "sql_table_name", "join",
					    "explore", "type: sum", "${TABLE}.id", "filters",        "label"};
	for (size_t at = 0; at < n;) {
		seed = seed * 1103515245u + 12345u;
		int len = snprintf(text + at, n - at, "%s_%x%c", words[seed >> 16 & 7], seed >> 8 & 0xfff,
				   seed & 0x700000 ? ' ' : '\n');
		at += len > 0 ? (size_t)len : n;
	}
}

static kt_code make_tree(kt_err *err)
{
	static char text[FILE_BYTES];
	for (unsigned i = 0; i < FILES; i++) {
		char path[512];
		(void)snprintf(path, sizeof path, "%s/top/%02u", root, i % FOLDERS);
		KT_TRY(kt_file_mkdirs(path, 0755, err));
		fill(text, sizeof text, i + 1);
		(void)snprintf(path, sizeof path, "%s/top/%02u/%05u.lkml", root, i % FOLDERS, i);
		int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (fd < 0)
			return kt_fail(err, KT_E_IO, NULL, "%s", path);
		kt_code rc = kt_file_write_all(fd, text, sizeof text, path, err);
		(void)close(fd);
		KT_TRY(rc);
	}
	return KT_OK;
}

static kt_code run_tar(int64_t *ms, uint64_t *bytes, kt_err *err)
{
	char archive[512];
	struct stat st;
	kt_spawn_end end;
	(void)snprintf(archive, sizeof archive, "%s/tar.tar.gz", root);
	const char *const argv[] = {"tar", "-C", root, "-zcf", archive, "top", NULL};
	const kt_spawn_what what = {.argv = argv};
	KT_TRY(kt_spawn_capture(&what, NULL, NULL, &end, err));
	if (end.exit != 0 || stat(archive, &st) != 0)
		return kt_fail(err, KT_E_IO, NULL, "tar failed");
	*ms = end.ms;
	*bytes = (uint64_t)st.st_size;
	return KT_OK;
}

/* With two keys to look for, as in a turn. */
static kt_code run_ours(int64_t *ms, kt_archive_made *made, kt_err *err)
{
	char top[512];
	char archive[512];
	kt_secret keys[2];
	(void)snprintf(top, sizeof top, "%s/top", root);
	(void)snprintf(archive, sizeof archive, "%s/ours.tar.zst", root);
	KT_TRY(kt_secret_random(&keys[0], 32, err));
	KT_TRY(kt_secret_random(&keys[1], 32, err));
	const kt_archive_source source = {.top = top, .secrets = keys, .secret_n = 2};
	int64_t start = kt_clock_mono_ms();
	kt_code rc = kt_archive_create(archive, &source, NULL, made, err);
	*ms = kt_clock_mono_ms() - start;
	kt_secret_free(&keys[0]);
	kt_secret_free(&keys[1]);
	return rc;
}

static kt_code run_check(const kt_archive_made *made, int64_t *ms, kt_err *err)
{
	char archive[512];
	char scratch[512];
	kt_archive_reader *r;
	kt_manifest m;
	(void)snprintf(archive, sizeof archive, "%s/ours.tar.zst", root);
	(void)snprintf(scratch, sizeof scratch, "%s/scratch", root);
	KT_TRY(kt_file_mkdirs(scratch, 0700, err));
	int64_t start = kt_clock_mono_ms();
	KT_TRY(kt_archive_open(archive, made->sha256, NULL, &r, err));
	kt_code rc = kt_archive_extract(r, scratch, NULL, NULL, &m, err);
	*ms = kt_clock_mono_ms() - start;
	kt_archive_close(r);
	if (rc == KT_OK)
		kt_manifest_free(&m);
	return rc;
}

static void print(const char *metric, double value, const char *unit, double goal, int met)
{
	printf("%s %.2f %s %.2f %s\n", metric, value, unit, goal, met ? "met" : "missed");
}

static kt_code run(kt_err *err)
{
	int64_t tar_ms = 0;
	int64_t ours_ms = 0;
	int64_t check_ms = 0;
	uint64_t tar_bytes = 0;
	kt_archive_made made;
	KT_TRY(make_tree(err));
	KT_TRY(run_tar(&tar_ms, &tar_bytes, err)); /* also warms the cache, to tar's disadvantage by one read */
	KT_TRY(run_tar(&tar_ms, &tar_bytes, err));
	KT_TRY(run_ours(&ours_ms, &made, err));
	KT_TRY(run_check(&made, &check_ms, err));
	double times = (double)tar_ms / (double)(ours_ms ? ours_ms : 1);
	double size = (double)made.archive_bytes / (double)tar_bytes;
	printf("# tar -zcf %lld ms, keyturn %lld ms, checked restore %lld ms\n", (long long)tar_ms, (long long)ours_ms,
	       (long long)check_ms);
	print("backup_speed_against_tar_z", times, "times", GOAL_TIMES, times >= GOAL_TIMES);
	print("backup_size_against_tar_z", size, "times", 1.1, size <= 1.1);
	return KT_OK;
}

int main(void)
{
	kt_err err = KT_ERR_INIT;
	kt_code rc = kt_secret_setup(&err);
	(void)snprintf(root, sizeof root, "%s/keyturn-bench-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp");
	if (rc == KT_OK && !mkdtemp(root))
		rc = kt_fail(&err, KT_E_IO, NULL, "%s", root);
	if (rc == KT_OK) {
		rc = run(&err);
		KT_IGNORE(kt_tree_remove(root, NULL));
	}
	if (rc != KT_OK)
		(void)fprintf(stderr, "%s\n", err.msg);
	return (int)rc;
}

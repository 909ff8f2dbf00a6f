/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making, verifying and restoring an encrypted backup against the documented `tar -zcf` (and `tar -zxf`) of the same
 * tree in the same run. The tree is like an installation: small text files, jars (compressed already), and a database
 * of encrypted items. 2 GiB; KT_BENCH_MIB makes it smaller.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/archive.h"
#include "agent/tree.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/secret.h"
#include "base/spawn.h"

enum { MIB = 1024 * 1024, FOLDERS = 64, JAR = 8 * MIB, PAGE = 4096, DEFAULT_MIB = 2048 };
enum { TEXT_PERCENT = 55, JAR_PERCENT = 15 }; /* the rest is the database */

static char root[256];
static uint64_t tree_bytes;

/* --- the tree ----------------------------------------------------------------------------------------------------- */

static uint64_t chance(uint64_t *seed) /* xorshift64* */
{
	*seed ^= *seed >> 12;
	*seed ^= *seed << 25;
	*seed ^= *seed >> 27;
	return *seed * 2685821657736338717u;
}

static void noise(uint8_t *bytes, size_t n, uint64_t *seed)
{
	for (size_t i = 0; i + 8 <= n; i += 8) {
		uint64_t r = chance(seed);
		memcpy(bytes + i, &r, 8);
	}
}

/* Text as people write it: this project's own. */
static kt_buf corpus = {.max = 16 * MIB};

static kt_code add_file(void *arg, const kt_tree_item *item, bool *skip, kt_err *err)
{
	static const char *const endings[] = {".c", ".h", ".md", ".py", ".json"};
	const char *dot = strrchr(item->base, '.');
	(void)arg;
	(void)skip;
	for (size_t i = 0; dot && S_ISREG(item->st->st_mode) && i < sizeof endings / sizeof *endings; i++)
		if (strcmp(dot, endings[i]) == 0)
			return kt_file_read(item->path, &corpus, err);
	return KT_OK;
}

static kt_code read_corpus(kt_err *err)
{
	static const char *const folders[] = {"agent", "base", "docs", "orchestrator", "pkcs11", "playbooks", "store"};
	for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
		char path[512];
		(void)snprintf(path, sizeof path, "%s/%s", KT_SOURCE_DIR, folders[i]);
		KT_TRY(kt_tree_walk(path, add_file, NULL, err));
	}
	return corpus.len > MIB ? KT_OK : kt_fail(err, KT_E_IO, NULL, "%s has no texts", KT_SOURCE_DIR);
}

/* A piece of it in which about one word of six is another one, so that no file repeats a part of another as it is. */
static size_t words(char *text, size_t n, uint64_t *seed)
{
	size_t from = (size_t)(chance(seed) % (corpus.len - n));
	memcpy(text, corpus.data + from, n);
	for (size_t i = 0; i + 1 < n; i++)
		if (text[i] == ' ' && chance(seed) % 6 == 0)
			for (i++; i < n && text[i] >= 'a' && text[i] <= 'z'; i++)
				text[i] = (char)('a' + chance(seed) % 26);
	return n;
}

static kt_code put(const char *name, const void *bytes, size_t n, bool more, kt_err *err)
{
	char path[512];
	(void)snprintf(path, sizeof path, "%s/top/%s", root, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (more ? O_APPEND : O_TRUNC), 0644);
	if (fd < 0)
		return kt_fail(err, KT_E_IO, NULL, "%s", path);
	kt_code rc = kt_file_write_all(fd, bytes, n, path, err);
	(void)close(fd);
	tree_bytes += n;
	return rc;
}

/* 2 to 64 KiB each, most of them small. */
static kt_code make_texts(uint64_t bytes, uint64_t *seed, kt_err *err)
{
	static char text[64 * 1024];
	char name[64];
	for (unsigned i = 0; i < FOLDERS; i++) {
		char path[512];
		(void)snprintf(path, sizeof path, "%s/top/models/%02u", root, i);
		KT_TRY(kt_file_mkdirs(path, 0755, err));
	}
	for (uint64_t made = 0, i = 0; made < bytes; i++) {
		size_t n = words(text, (size_t)2048 << (chance(seed) % 6), seed);
		(void)snprintf(name, sizeof name, "models/%02u/%06u.lkml", (unsigned)(i % FOLDERS), (unsigned)i);
		KT_TRY(put(name, text, n, false, err));
		made += n;
	}
	return KT_OK;
}

static kt_code make_jars(uint64_t bytes, uint8_t *chunk, uint64_t *seed, kt_err *err)
{
	char name[64];
	for (uint64_t i = 0; i * JAR < bytes; i++) {
		noise(chunk, JAR, seed);
		(void)snprintf(name, sizeof name, "lib-%03u.jar", (unsigned)i);
		KT_TRY(put(name, chunk, JAR, false, err));
	}
	return KT_OK;
}

/* Pages with items as ciphertext, and some room in each. */
static kt_code make_database(uint64_t bytes, uint8_t *chunk, uint64_t *seed, kt_err *err)
{
	for (uint64_t made = 0; made < bytes; made += JAR) {
		memset(chunk, 0, JAR);
		for (size_t at = 0; at < JAR; at += PAGE)
			noise(chunk + at, PAGE * 3 / 4, seed);
		if (made == 0)
			memcpy(chunk, "SQLite format 3", 16);
		KT_TRY(put("looker.db", chunk, JAR, made > 0, err));
	}
	return KT_OK;
}

static kt_code make_tree(kt_err *err)
{
	uint64_t seed = 88172645463325252u;
	const char *mib = getenv("KT_BENCH_MIB");
	uint64_t bytes = (mib ? strtoull(mib, NULL, 10) : DEFAULT_MIB) * MIB;
	uint64_t text = bytes * TEXT_PERCENT / 100;
	uint64_t jars = bytes * JAR_PERCENT / 100;
	uint8_t *chunk = malloc(JAR);
	if (!chunk)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = make_texts(text, &seed, err);
	if (rc == KT_OK)
		rc = make_jars(jars, chunk, &seed, err);
	if (rc == KT_OK)
		rc = make_database(bytes - text - jars, chunk, &seed, err);
	free(chunk);
	sync();
	return rc;
}

/* --- tar ---------------------------------------------------------------------------------------------------------- */

static kt_code run_argv(const char *const *argv, int64_t *ms, kt_err *err)
{
	kt_spawn_end end;
	const kt_spawn_what what = {.argv = argv};
	KT_TRY(kt_spawn_capture(&what, NULL, NULL, &end, err));
	*ms = end.ms;
	return end.exit == 0 ? KT_OK : kt_fail(err, KT_E_IO, NULL, "tar failed");
}

static kt_code run_tar(int64_t *make_ms, int64_t *unpack_ms, uint64_t *bytes, kt_err *err)
{
	char archive[512];
	char folder[512];
	struct stat st;
	(void)snprintf(archive, sizeof archive, "%s/tar.tar.gz", root);
	(void)snprintf(folder, sizeof folder, "%s/untar", root);
	const char *const make[] = {"tar", "-C", root, "-zcf", archive, "top", NULL};
	const char *const unpack[] = {"tar", "-C", folder, "-zxpf", archive, NULL};
	KT_TRY(run_argv(make, make_ms, err));
	if (stat(archive, &st) != 0)
		return kt_fail(err, KT_E_IO, NULL, "tar failed");
	*bytes = (uint64_t)st.st_size;
	KT_TRY(kt_file_mkdirs(folder, 0700, err));
	KT_TRY(run_argv(unpack, unpack_ms, err));
	KT_TRY(kt_tree_remove(folder, err));
	return unlink(archive) == 0 ? KT_OK : kt_fail(err, KT_E_IO, NULL, "%s", archive);
}

/* --- keyturn ------------------------------------------------------------------------------------------------------ */

typedef struct ours {
	kt_secret key, old_key;
	kt_archive_seal seal;
	char archive[512];
	kt_archive_made made;
	int64_t make_ms, check_ms, restore_ms;
} ours;

/* As in a turn: encrypted, and no file may hold the old key. */
static kt_code run_create(ours *o, kt_err *err)
{
	char top[512];
	(void)snprintf(top, sizeof top, "%s/top", root);
	const kt_archive_source source = {.top = top, .secrets = &o->old_key, .secret_n = 1};
	const kt_archive_how how = {.seal = &o->seal};
	int64_t start = kt_clock_mono_ms();
	KT_TRY(kt_archive_create(o->archive, &source, &how, &o->made, err));
	o->make_ms = kt_clock_mono_ms() - start;
	return KT_OK;
}

/* As in a turn: its SHA-256, unpacked, keys looked for, what then lies there read again and compared. */
static kt_code run_check(ours *o, kt_err *err)
{
	char scratch[512];
	kt_archive_reader *r = NULL;
	kt_manifest m;
	kt_keyscan *scan;
	(void)snprintf(scratch, sizeof scratch, "%s/scratch", root);
	KT_TRY(kt_file_mkdirs(scratch, 0700, err));
	KT_TRY(kt_keyscan_new(&o->old_key, 1, &scan, err));
	const kt_archive_hooks hooks = {.scan = scan};
	int64_t start = kt_clock_mono_ms();
	kt_code rc = kt_archive_open(o->archive, o->made.sha256, &o->seal, &r, err);
	if (rc == KT_OK)
		rc = kt_archive_extract(r, scratch, NULL, &hooks, &m, err);
	o->check_ms = kt_clock_mono_ms() - start;
	kt_archive_close(r);
	kt_keyscan_free(scan);
	KT_TRY(rc);
	kt_manifest_free(&m);
	return kt_tree_remove(scratch, err);
}

/* Back in place, everything gone: verified before the first byte is written, each file synced. */
static kt_code run_restore(ours *o, kt_err *err)
{
	char top[512];
	kt_archive_reader *r = NULL;
	kt_manifest m;
	uint64_t written;
	(void)snprintf(top, sizeof top, "%s/top", root);
	KT_TRY(kt_tree_remove(top, err));
	int64_t start = kt_clock_mono_ms();
	KT_TRY(kt_archive_open(o->archive, o->made.sha256, &o->seal, &r, err));
	kt_code rc = kt_archive_verify(r, NULL, &m, err);
	if (rc == KT_OK) {
		rc = kt_archive_restore(r, &m, NULL, 0, NULL, &written, err);
		kt_manifest_free(&m);
	}
	o->restore_ms = kt_clock_mono_ms() - start;
	kt_archive_close(r);
	return rc;
}

static void print(const char *metric, double value, const char *unit, double goal, int met)
{
	printf("%s %.2f %s %.2f %s\n", metric, value, unit, goal, met ? "met" : "missed");
}

static double rate(int64_t ms)
{
	return (double)tree_bytes / MIB * 1000 / (double)(ms ? ms : 1);
}

/* Seconds of processor time so far: of this process, or of those that it has waited for. */
static double cpu(int who)
{
	struct rusage u;
	(void)getrusage(who, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static kt_code run(kt_err *err)
{
	int64_t tar_ms = 0, untar_ms = 0;
	uint64_t tar_bytes = 0;
	static ours o;
	o.seal = (kt_archive_seal){.key = &o.key, .context = "bench/run/node"};
	(void)snprintf(o.archive, sizeof o.archive, "%s/ours.ktbackup", root);
	KT_TRY(kt_secret_random(&o.key, 32, err));
	KT_TRY(kt_secret_random(&o.old_key, 32, err));
	KT_TRY(read_corpus(err));
	KT_TRY(make_tree(err));
	kt_buf_free(&corpus);
	KT_TRY(run_tar(&tar_ms, &untar_ms, &tar_bytes, err));
	double before = cpu(RUSAGE_SELF);
	KT_TRY(run_create(&o, err));
	double used = cpu(RUSAGE_SELF) - before;
	KT_TRY(run_check(&o, err));
	KT_TRY(run_restore(&o, err));
	kt_secret_free(&o.key);
	kt_secret_free(&o.old_key);
	printf("# %.0f MiB: tar -zcf %.0f MiB/s, -zxpf %.0f; keyturn, encrypted: %.0f MiB/s, test restore %.0f, "
	       "restore in place (verified first, synced) %.0f\n",
	       (double)tree_bytes / MIB, rate(tar_ms), rate(untar_ms), rate(o.make_ms), rate(o.check_ms),
	       rate(o.restore_ms));
	printf("# processor time: tar, both ways, %.1f s; keyturn's backup %.1f s on %ld processors\n",
	       cpu(RUSAGE_CHILDREN), used, sysconf(_SC_NPROCESSORS_ONLN));
	double times = (double)tar_ms / (double)(o.make_ms ? o.make_ms : 1);
	double whole = (double)tar_ms / (double)(o.make_ms + o.check_ms);
	double size = (double)o.made.archive_bytes / (double)tar_bytes;
	double back = (double)untar_ms / (double)(o.check_ms ? o.check_ms : 1);
	print("backup_speed_against_tar_z", times, "times", 5, times >= 5);
	print("backup_and_test_restore_against_tar_z_alone", whole, "times", 1, whole >= 1);
	print("backup_size_against_tar_z", size, "times", 1, size <= 1);
	print("test_restore_speed_against_tar_zx", back, "times", 0.5, back >= 0.5);
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

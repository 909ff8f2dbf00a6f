/* SPDX-License-Identifier: Apache-2.0 */
/* Backup archives: what goes in, what must not, what is refused when it comes back, and what a restore leaves behind.
 */
#include <acl/libacl.h>
#include <archive.h>
#include <archive_entry.h>
#include <sys/acl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "agent/archive.h"
#include "agent/keyscan.h"
#include "base/clock.h"
#include "base/secret.h"
#include "tests/unit/agent/scratch.h"

static const char *const looker_excludes[] = {".cache",          "log",    ".tmp", ".snapshots", "looker.jar",
					      "authorized_keys", "dr-log", "core"};

/* An installation like the one of the documented procedure, with the names that its tar command gets wrong. */
static void make_installation(void)
{
	put_folder("top", 0755);
	put_folder("top/.cache", 0700);
	put_text("top/.cache/x", "cached", 0600);
	put_folder("top/log", 0755);
	put_text("top/log/looker.log", "line\n", 0644);
	put_text("top/looker.jar", "jar", 0644);
	put_text("top/core", "a dump", 0600);
	put_folder("top/models", 0750);
	put_folder("top/models/core", 0755);
	put_text("top/models/core/m.lkml", "view: core {}\n", 0640);
	put_folder("top/models/log", 0755);
	put_text("top/models/log/keep", "kept\n", 0644);
	put_text("top/models/looker.jar", "kept too\n", 0444);
	put_text("top/start.sh", "#!/bin/sh\n", 04755);
	put_text("top/name with\nnewline \\ and \xff", "odd", 0600);
	put_text("top/\xc3\xbc", "umlaut", 0600);
	put_text("top/empty", "", 0604);
	assert_int_equal(symlink("models/core", at("top/link")), 0);
	assert_int_equal(link(at("top/start.sh"), at("top/zz-start.sh")), 0);
}

static kt_archive_source installation(void)
{
	static char top[PATH_MAX];
	(void)snprintf(top, sizeof top, "%s", at("top"));
	return (kt_archive_source){.top = top, .exclude = looker_excludes, .exclude_n = 8};
}

static kt_archive_made create(const kt_archive_source *source)
{
	kt_err err = KT_ERR_INIT;
	kt_archive_made made;
	assert_kt_ok(kt_archive_create(at("b/backup.tar.zst"), source, NULL, &made, &err));
	return made;
}

static kt_manifest verify(const kt_archive_made *made)
{
	kt_err err = KT_ERR_INIT;
	kt_archive_reader *r = NULL;
	kt_manifest m;
	assert_kt_ok(kt_archive_open(at("b/backup.tar.zst"), made->sha256, NULL, &r, &err));
	assert_kt_ok(kt_archive_verify(r, NULL, &m, &err));
	kt_archive_close(r);
	return m;
}

static void extract(const kt_archive_made *made)
{
	kt_err err = KT_ERR_INIT;
	kt_archive_reader *r = NULL;
	kt_manifest m;
	put_folder("x", 0700);
	assert_kt_ok(kt_archive_open(at("b/backup.tar.zst"), made->sha256, NULL, &r, &err));
	assert_kt_ok(kt_archive_extract(r, at("x"), NULL, NULL, &m, &err));
	kt_manifest_free(&m);
	kt_archive_close(r);
}

static uint64_t restore_keeping(const kt_archive_made *made, const char *keep)
{
	kt_err err = KT_ERR_INIT;
	kt_archive_reader *r = NULL;
	kt_manifest m;
	uint64_t written = 0;
	assert_kt_ok(kt_archive_open(at("b/backup.tar.zst"), made->sha256, NULL, &r, &err));
	assert_kt_ok(kt_archive_verify(r, NULL, &m, &err));
	assert_kt_ok(kt_archive_restore(r, &m, keep, 0, NULL, &written, &err));
	kt_manifest_free(&m);
	kt_archive_close(r);
	return written;
}

static uint64_t restore(const kt_archive_made *made)
{
	return restore_keeping(made, NULL);
}

/* The member for a path in the scratch folder; NULL: not in the backup. */
static const kt_member *member(const kt_manifest *m, const char *name)
{
	return kt_manifest_find(m, at(name) + 1);
}

/* --- what goes in ---------------------------------------------------------------------------------------------- */

static void test_excludes_only_at_top(void **state)
{
	(void)state;
	make_installation();
	kt_archive_source source = installation();
	kt_archive_made made = create(&source);
	kt_manifest m = verify(&made);
	assert_null(member(&m, "top/core"));
	assert_null(member(&m, "top/log"));
	assert_null(member(&m, "top/log/looker.log"));
	assert_null(member(&m, "top/.cache/x"));
	assert_null(member(&m, "top/looker.jar"));
	assert_non_null(member(&m, "top/models/core/m.lkml"));
	assert_non_null(member(&m, "top/models/log/keep"));
	assert_non_null(member(&m, "top/models/looker.jar"));
	assert_int_equal(member(&m, "top/link")->kind, KT_MEMBER_LINK);
	assert_int_equal(member(&m, "top/zz-start.sh")->kind, KT_MEMBER_HARD);
	assert_int_equal(member(&m, "top/start.sh")->mode, 04755);
	assert_int_equal(member(&m, "top/models/core/m.lkml")->mode, 0640);
	assert_int_equal(made.files, 7);
	assert_int_equal(mode_of("b/backup.tar.zst"), 0600);
	assert_int_equal(mode_of("b"), 0711); /* who checks a restore in it may pass, nobody may look around */
	assert_false(is_there("b/backup.tar.zst.part"));
	kt_manifest_free(&m);
}

static void test_measure_is_what_create_takes(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	static uint8_t block[300000];
	make_installation();
	memset(block, 7, sizeof block);
	put_bytes("top/models/large", block, sizeof block, 0600);
	put_bytes("top/core", block, sizeof block, 0600);
	kt_archive_source source = installation();
	kt_archive_size size;
	assert_kt_ok(kt_archive_measure(&source, &size, &err));
	kt_archive_made made = create(&source);
	assert_int_equal(size.files, made.files + 1); /* the second name of start.sh */
	assert_in_range(size.bytes, sizeof block, sizeof block + 200);
	assert_int_equal(made.bytes + strlen("#!/bin/sh\n"), size.bytes);
}

static void test_database_elsewhere_brings_its_journals(void **state)
{
	(void)state;
	make_installation();
	put_folder("db", 0700);
	put_text("db/looker.db", "the database", 0600);
	put_text("db/looker.db-wal", "the wal", 0600);
	put_text("db/looker.db-shm", "shared memory", 0600);
	put_text("db/other", "not asked for", 0600);
	put_text("top/inside.db", "SQLite format 3", 0600); /* its closing NUL is missing */
	put_bytes("top/sq.db", "SQLite format 3\0 and more", 25, 0600);
	char wal[PATH_MAX];
	char db[PATH_MAX];
	(void)snprintf(wal, sizeof wal, "%s", at("db/looker.db-wal"));
	(void)snprintf(db, sizeof db, "%s", at("db//looker.db"));
	const char *paths[] = {wal, db, db};
	kt_archive_source source = installation();
	source.paths = paths;
	source.path_n = 3;
	kt_archive_made made = create(&source);
	kt_manifest m = verify(&made);
	assert_true(member(&m, "db/looker.db")->database);
	assert_non_null(member(&m, "db/looker.db-wal"));
	assert_null(member(&m, "db/looker.db-shm"));
	assert_null(member(&m, "db/other"));
	assert_true(member(&m, "top/sq.db")->database);
	assert_false(member(&m, "top/inside.db")->database);
	kt_manifest_free(&m);
	extract(&made);
}

static void test_sockets_are_skipped_and_links_out_are_noted(void **state)
{
	(void)state;
	make_installation();
	struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "s"};
	assert_int_equal(chdir(at("top")), 0);
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(s, (const struct sockaddr *)&name, sizeof name), 0);
	assert_int_equal(chdir("../.."), 0);
	(void)close(s);
	assert_int_equal(mkfifo(at("top/pipe"), 0600), 0);
	assert_int_equal(symlink("/var/log", at("top/away")), 0);
	kt_archive_source source = installation();
	kt_archive_made made = create(&source);
	assert_int_equal(made.skipped, 2);
	assert_string_equal(made.first_skipped, at("top/pipe"));
	assert_int_equal(made.outside, 1);
	assert_non_null(strstr(made.first_outside, "/var/log"));
	kt_manifest m = verify(&made);
	assert_null(member(&m, "top/s"));
	assert_non_null(member(&m, "top/away"));
	kt_manifest_free(&m);
}

static void test_bad_sources(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_archive_made made;
	make_installation();
	const char *archive = at("b.tar.zst");
	const char *linked = at("top/link");
	const char *gone = at("no-such-file");
	const char *up = "../x";
	kt_archive_source none = {0};
	kt_archive_source root = {.top = "//."};
	kt_archive_source relative = {.top = "top"};
	kt_archive_source dots = {.top = "/etc/../etc"};
	kt_archive_source link = {.paths = &linked, .path_n = 1};
	kt_archive_source missing = {.paths = &gone, .path_n = 1};
	kt_archive_source exclude = installation();
	exclude.exclude = &up;
	exclude.exclude_n = 1;
	assert_kt_fails(KT_E_INPUT, kt_archive_create(archive, &none, NULL, &made, &err));
	assert_kt_fails(KT_E_INPUT, kt_archive_create(archive, &root, NULL, &made, &err));
	assert_kt_fails(KT_E_INPUT, kt_archive_create(archive, &relative, NULL, &made, &err));
	assert_kt_fails(KT_E_INPUT, kt_archive_create(archive, &dots, NULL, &made, &err));
	assert_kt_fails(KT_E_INPUT, kt_archive_create(archive, &link, NULL, &made, &err));
	assert_kt_fails(KT_E_IO, kt_archive_create(archive, &missing, NULL, &made, &err));
	assert_non_null(strstr(err.msg, "no-such-file"));
	assert_kt_fails(KT_E_INPUT, kt_archive_create(archive, &exclude, NULL, &made, &err));
	assert_kt_fails(KT_E_INPUT, kt_archive_create("relative.tar", &none, NULL, &made, &err));
	assert_false(is_there("b.tar.zst"));
	assert_false(is_there("b.tar.zst.part"));
}

/* An archive that lies in the folder that is saved does not hold itself, nor its predecessor. */
static void test_archive_inside_top(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_archive_made made;
	make_installation();
	kt_archive_source source = installation();
	for (int i = 0; i < 2; i++)
		assert_kt_ok(kt_archive_create(at("top/b.tar.zst"), &source, NULL, &made, &err));
	assert_int_equal(made.files, 7);
}

/* --- no key inside --------------------------------------------------------------------------------------------- */

static kt_secret some_key(void)
{
	kt_err err = KT_ERR_INIT;
	kt_secret key;
	assert_kt_ok(kt_secret_random(&key, 32, &err));
	return key;
}

static void shape_of(const kt_secret *key, int shape, kt_buf *out)
{
	kt_err err = KT_ERR_INIT;
	if (shape == 0)
		assert_kt_ok(kt_buf_append(out, key->data, key->len, &err));
	else if (shape == 1)
		assert_kt_ok(kt_base64_encode(key->data, key->len, out, &err));
	else
		assert_kt_ok(kt_hex_encode(key->data, key->len, out, &err));
	for (size_t i = 0; shape == 3 && i < out->len; i++)
		if (out->data[i] >= 'a')
			out->data[i] = (uint8_t)(out->data[i] - 32);
}

/* Every shape, at every offset around the place where the reader's chunks meet, fed in pieces of several sizes. */
static void test_scan_across_chunks(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	enum { LEN = 700 };
	static const size_t pieces[] = {1, 7, 31, 32, 33, 64, 100, 127, LEN};
	kt_secret key = some_key();
	kt_keyscan *scan;
	assert_kt_ok(kt_keyscan_new(&key, 1, &scan, &err));
	for (int shape = 0; shape < 4; shape++) {
		kt_buf text = KT_BUF_INIT;
		shape_of(&key, shape, &text);
		for (size_t offset = 0; offset + text.len <= LEN; offset += 3) {
			uint8_t stream[LEN];
			memset(stream, 'x', sizeof stream);
			memcpy(stream + offset, text.data, text.len);
			for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
				bool found = false;
				kt_keyscan_reset(scan);
				for (size_t i = 0; i < LEN; i += pieces[p])
					found = kt_keyscan_feed(scan, stream + i,
								LEN - i < pieces[p] ? LEN - i : pieces[p]);
				assert_true(found);
				/* One byte of it changed: not the key. */
				stream[offset + text.len / 2] ^= 1;
				kt_keyscan_reset(scan);
				found = false;
				for (size_t i = 0; i < LEN; i += pieces[p])
					found = kt_keyscan_feed(scan, stream + i,
								LEN - i < pieces[p] ? LEN - i : pieces[p]);
				assert_false(found);
				stream[offset + text.len / 2] ^= 1;
			}
		}
		kt_buf_free(&text);
	}
	kt_keyscan_free(scan);
	kt_secret_free(&key);
}

static void test_planted_key_is_refused(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	enum { LEN = 2 * 1024 * 1024 + 5000 };
	make_installation();
	kt_secret key = some_key();
	uint8_t *content = malloc(LEN);
	assert_non_null(content);
	kt_archive_source source = installation();
	source.secrets = &key;
	source.secret_n = 1;
	for (int shape = 0; shape < 4; shape++) {
		kt_buf text = KT_BUF_INIT;
		kt_archive_made made;
		shape_of(&key, shape, &text);
		memset(content, 'y', LEN);
		memcpy(content + 1024 * 1024 - text.len / 2, text.data, text.len); /* across the reader's chunks */
		put_bytes("top/models/note.txt", content, LEN, 0600);
		assert_kt_fails(KT_E_KEY, kt_archive_create(at("b.tar.zst"), &source, NULL, &made, &err));
		assert_non_null(strstr(err.msg, "models/note.txt"));
		if (shape != 0)
			assert_null(strstr(err.msg, kt_buf_cstr(&text)));
		assert_false(is_there("b.tar.zst"));
		assert_false(is_there("b.tar.zst.part"));
		kt_buf_free(&text);
	}
	assert_int_equal(unlink(at("top/models/note.txt")), 0);
	(void)create(&source);
	free(content);
	kt_secret_free(&key);
}

static void test_key_file_is_left_out(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	make_installation();
	kt_secret key = some_key();
	kt_buf text = KT_BUF_INIT;
	shape_of(&key, 1, &text);
	put_bytes("top/cmk", text.data, text.len, 0400);
	assert_int_equal(symlink(at("top"), at("other-way")), 0);
	char by_link[PATH_MAX];
	char absent[PATH_MAX];
	(void)snprintf(by_link, sizeof by_link, "%s", at("other-way/cmk"));
	(void)snprintf(absent, sizeof absent, "%s", at("nowhere/cmk"));
	const char *key_files[] = {absent, by_link};
	kt_archive_source source = installation();
	source.secrets = &key;
	source.secret_n = 1;
	source.key_files = key_files;
	source.key_file_n = 2;
	kt_archive_made made;
	kt_archive_made first = create(&source);
	kt_manifest m = verify(&first);
	assert_null(member(&m, "top/cmk"));
	kt_manifest_free(&m);
	/* A copy of the key that is no key file is found by its content. */
	put_bytes("top/models/copy", text.data, text.len, 0600);
	assert_kt_fails(KT_E_KEY, kt_archive_create(at("b/backup.tar.zst"), &source, NULL, &made, &err));
	assert_non_null(strstr(err.msg, "models/copy"));
	/* The older archive is still there, and good. */
	kt_archive_made none;
	assert_kt_fails(KT_E_KEY, kt_archive_create(at("b/backup.tar.zst"), &source, NULL, &none, &err));
	m = verify(&first);
	kt_manifest_free(&m);
	kt_buf_free(&text);
	kt_secret_free(&key);
}

/* The key file of an earlier turn, which nobody named: told by its mode and its form. */
static void test_unnamed_key_files_are_left_out(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_secret earlier = some_key();
	kt_buf text = KT_BUF_INIT;
	make_installation();
	earlier.data[0] ^= 0xff;
	shape_of(&earlier, 1, &text);
	put_bytes("top/cmk-earlier", text.data, text.len, 0400);
	put_bytes("top/readable", text.data, text.len, 0600);
	assert_kt_ok(kt_buf_str(&text, "AAAA\n", &err));
	put_bytes("top/longer", text.data, text.len, 0400);
	kt_archive_source source = installation();
	kt_archive_made made = create(&source);
	kt_manifest m = verify(&made);
	assert_null(member(&m, "top/cmk-earlier"));
	assert_non_null(member(&m, "top/readable"));
	assert_non_null(member(&m, "top/longer"));
	kt_manifest_free(&m);
	kt_buf_free(&text);
	kt_secret_free(&earlier);
}

/* --- files that move ------------------------------------------------------------------------------------------- */

typedef struct meddler {
	const char *path;
	off_t new_size; /* -1: write a byte in the middle */
	bool done;
} meddler;

static kt_code meddle(void *arg, uint64_t done, uint64_t total, kt_err *err)
{
	meddler *m = arg;
	(void)total;
	(void)err;
	if (done < 1024 * 1024 || m->done)
		return KT_OK;
	m->done = true;
	int fd = open(m->path, O_WRONLY | O_CLOEXEC);
	if (m->new_size >= 0)
		assert_int_equal(ftruncate(fd, m->new_size), 0);
	else
		assert_int_equal(pwrite(fd, "z", 1, 100), 1);
	(void)close(fd);
	return KT_OK;
}

static void test_changing_file_is_refused(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	enum { LEN = 3 * 1024 * 1024 };
	static const off_t sizes[] = {1500000, LEN + 1, -1};
	make_installation();
	uint8_t *content = calloc(1, LEN);
	assert_non_null(content);
	memset(content, 'c', LEN);
	for (size_t i = 0; i < 3; i++) {
		kt_archive_made made;
		kt_archive_source source = installation();
		put_bytes("top/models/busy", content, LEN, 0600);
		/* Written a while ago, so that the clock's grain cannot hide the change. */
		const struct timeval past[2] = {{1000000000, 0}, {1000000000, 0}};
		assert_int_equal(utimes(at("top/models/busy"), past), 0);
		meddler m = {.path = at("top/models/busy"), .new_size = sizes[i]};
		kt_archive_hooks hooks = {.progress = meddle, .arg = &m};
		assert_kt_fails(KT_E_REFUSED, kt_archive_create(at("b.tar.zst"), &source,
								&(kt_archive_how){.hooks = &hooks}, &made, &err));
		assert_true(m.done);
		assert_non_null(strstr(err.msg, "models/busy"));
		assert_false(is_there("b.tar.zst"));
		assert_false(is_there("b.tar.zst.part"));
	}
	free(content);
}

static kt_code stop_it(void *arg, uint64_t done, uint64_t total, kt_err *err)
{
	(void)arg;
	(void)done;
	(void)total;
	return kt_fail(err, KT_E_INTERRUPTED, NULL, "stopped");
}

static void test_stopping_leaves_nothing(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_archive_made made;
	make_installation();
	kt_archive_source source = installation();
	kt_archive_hooks hooks = {.progress = stop_it};
	assert_kt_fails(KT_E_INTERRUPTED,
			kt_archive_create(at("b.tar.zst"), &source, &(kt_archive_how){.hooks = &hooks}, &made, &err));
	assert_false(is_there("b.tar.zst.part"));
}

/* --- a full disk ----------------------------------------------------------------------------------------------- */

static kt_code fill_up(void *arg, uint64_t done, uint64_t total, kt_err *err)
{
	static uint8_t block[65536];
	(void)total;
	(void)err;
	if (done == 0)
		return KT_OK;
	int fd = open(arg, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	while (write(fd, block, sizeof block) > 0)
		;
	(void)close(fd);
	return KT_OK;
}

static void test_full_disk(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_archive_made made;
	make_installation();
	put_folder("small", 0755);
	if (geteuid() != 0 || mount("tmpfs", at("small"), "tmpfs", 0, "size=1m") != 0) {
		print_message("skipped: a small file system needs root\n");
		skip();
	}
	enum { LEN = 700 * 1024 };
	kt_secret noise;
	uint8_t *content = malloc(LEN);
	assert_non_null(content);
	assert_kt_ok(kt_secret_random(&noise, 16384, &err));
	for (size_t i = 0; i < LEN; i++)
		content[i] = (uint8_t)(noise.data[i % 16381] ^ (i * 2654435761u >> 13));
	put_bytes("top/models/noise", content, LEN, 0600);
	kt_archive_source source = installation();
	/* Filled up while the backup is being written. */
	char filler[PATH_MAX];
	(void)snprintf(filler, sizeof filler, "%s", at("small/filler"));
	kt_archive_hooks hooks = {.progress = fill_up, .arg = filler};
	kt_err full = KT_ERR_INIT;
	kt_code rc =
		kt_archive_create(at("small/b.tar.zst"), &source, &(kt_archive_how){.hooks = &hooks}, &made, &full);
	bool left = is_there("small/b.tar.zst") || is_there("small/b.tar.zst.part");
	/* Too small from the beginning: refused before anything is read. */
	kt_code again = kt_archive_create(at("small/b.tar.zst"), &source, NULL, &made, &err);
	left = left || is_there("small/b.tar.zst") || is_there("small/b.tar.zst.part");
	assert_int_equal(umount(at("small")), 0);
	assert_int_equal(rc, KT_E_IO);
	assert_non_null(strstr(full.msg, "No space left"));
	assert_int_equal(again, KT_E_IO);
	assert_non_null(strstr(err.msg, "are free"));
	assert_false(left);
	free(content);
	kt_secret_free(&noise);
}

/* --- damaged and hostile archives ------------------------------------------------------------------------------ */

static void test_flipped_or_cut_archive(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_archive_reader *r = NULL;
	kt_buf bytes = KT_BUF_INIT;
	put_folder("top", 0755);
	put_text("top/a", "content", 0600);
	kt_archive_source source = {.top = at("top")};
	kt_archive_made made = create(&source);
	assert_kt_ok(kt_file_read(at("b/backup.tar.zst"), &bytes, &err));
	for (size_t i = 0; i < bytes.len; i++) {
		bytes.data[i] ^= 0x10;
		put_bytes("bad", bytes.data, bytes.len, 0600);
		assert_kt_fails(KT_E_INPUT, kt_archive_open(at("bad"), made.sha256, NULL, &r, &err));
		bytes.data[i] ^= 0x10;
		put_bytes("bad", bytes.data, i, 0600);
		assert_kt_fails(KT_E_INPUT, kt_archive_open(at("bad"), made.sha256, NULL, &r, &err));
	}
	assert_kt_fails(KT_E_IO, kt_archive_open(at("gone"), made.sha256, NULL, &r, &err));
	assert_int_equal(symlink(at("b/backup.tar.zst"), at("link")), 0);
	assert_kt_fails(KT_E_IO, kt_archive_open(at("link"), made.sha256, NULL, &r, &err));
	kt_buf_free(&bytes);
}

/* Also when the digest is that of the damaged file (somebody made it so), it is the manifest that finds it. */
static void test_flipped_archive_with_its_own_digest(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_buf bytes = KT_BUF_INIT;
	make_installation();
	put_text("top/a", "content that is long enough to be a literal of its own in the stream", 0600);
	kt_archive_source source = installation();
	(void)create(&source);
	assert_kt_ok(kt_file_read(at("b/backup.tar.zst"), &bytes, &err));
	size_t passed = 0;
	for (size_t i = 0; i < bytes.len; i += 1) {
		char sha[KT_SHA256_HEX];
		kt_archive_reader *r = NULL;
		kt_manifest m;
		bytes.data[i] ^= 0x04;
		put_bytes("bad", bytes.data, bytes.len, 0600);
		assert_kt_ok(kt_sha256_hex(bytes.data, bytes.len, sha, &err));
		assert_kt_ok(kt_archive_open(at("bad"), sha, NULL, &r, &err));
		if (kt_archive_verify(r, NULL, &m, &err) == KT_OK) {
			kt_manifest_free(&m);
			passed++;
		}
		kt_archive_close(r);
		bytes.data[i] ^= 0x04;
	}
	/* What is not covered: padding, header fields that nothing is restored from, times. */
	print_message("%zu of %zu flips change nothing that is restored\n", passed, bytes.len);
	assert_true(passed < bytes.len / 8);
	kt_buf_free(&bytes);
}

/* A member of a hand-made archive. */
typedef struct hostile {
	const char *what;
	const char *name;
	mode_t type;
	const char *link; /* target of a link */
	const char *hard; /* target of a hard link */
} hostile;

static void write_hostile(const char *path, const hostile *h, bool manifest)
{
	struct archive *a = archive_write_new();
	assert_int_equal(archive_write_set_format_pax(a), ARCHIVE_OK);
	assert_int_equal(archive_write_add_filter_zstd(a), ARCHIVE_OK);
	assert_int_equal(archive_write_open_filename(a, path), ARCHIVE_OK);
	for (const hostile *x = h; x && x->name; x++) {
		struct archive_entry *e = archive_entry_new();
		archive_entry_copy_pathname(e, x->name);
		archive_entry_set_mode(e, x->type | 0644);
		if (x->link)
			archive_entry_copy_symlink(e, x->link);
		if (x->hard)
			archive_entry_copy_hardlink(e, x->hard);
		archive_entry_set_size(e, x->type == S_IFREG && !x->hard ? 5 : 0);
		assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
		if (x->type == S_IFREG && !x->hard)
			assert_int_equal(archive_write_data(a, "pwned", 5), 5);
		archive_entry_free(e);
	}
	if (manifest) {
		static const char text[] = "keyturn-manifest 1\ntop t\nend 0\n";
		struct archive_entry *e = archive_entry_new();
		archive_entry_copy_pathname(e, KT_MANIFEST_MEMBER);
		archive_entry_set_mode(e, S_IFREG | 0600);
		archive_entry_set_size(e, sizeof text - 1);
		assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
		assert_int_equal(archive_write_data(a, text, sizeof text - 1), sizeof text - 1);
		archive_entry_free(e);
	}
	assert_int_equal(archive_write_close(a), ARCHIVE_OK);
	archive_write_free(a);
}

static void try_hostile(const hostile *h, bool manifest)
{
	kt_err err = KT_ERR_INIT;
	kt_archive_reader *r = NULL;
	kt_manifest m;
	kt_buf bytes = KT_BUF_INIT;
	char sha[KT_SHA256_HEX];
	write_hostile(at("evil"), h, manifest);
	assert_kt_ok(kt_file_read(at("evil"), &bytes, &err));
	assert_kt_ok(kt_sha256_hex(bytes.data, bytes.len, sha, &err));
	put_folder("x", 0700);
	put_folder("x/in", 0700);
	assert_kt_ok(kt_archive_open(at("evil"), sha, NULL, &r, &err));
	kt_code rc = kt_archive_extract(r, at("x/in"), NULL, NULL, &m, &err);
	if (rc != KT_E_INPUT && rc != KT_E_IO)
		fail_msg("%s: %s", h ? h->what : "no member", kt_code_name(rc));
	err = KT_ERR_INIT;
	rc = kt_archive_verify(r, NULL, &m, &err);
	if (rc != KT_E_INPUT)
		fail_msg("%s: %s", h ? h->what : "no member", kt_code_name(rc));
	assert_false(is_there("pwned"));
	assert_false(is_there("x/pwned"));
	kt_archive_close(r);
	assert_kt_ok(kt_tree_remove(at("x"), &err));
	kt_buf_free(&bytes);
}

static void test_hostile_archives(void **state)
{
	(void)state;
	char absolute[PATH_MAX];
	(void)snprintf(absolute, sizeof absolute, "%s", at("pwned"));
	const hostile up[] = {{"up", "../pwned", S_IFREG, NULL, NULL}, {0}};
	const hostile inner_up[] = {{"inner up", "t/../../pwned", S_IFREG, NULL, NULL}, {0}};
	const hostile abs[] = {{"absolute", absolute, S_IFREG, NULL, NULL}, {0}};
	const hostile dot[] = {{"dot", "./t/x", S_IFREG, NULL, NULL}, {0}};
	const hostile through[] = {
		{"through a link", "t", S_IFLNK, scratch_folder, NULL}, {"", "t/pwned", S_IFREG, NULL, NULL}, {0}};
	const hostile hard[] = {{"hard link out", "t/h", S_IFREG, NULL, "../../evil"}, {0}};
	const hostile hard_abs[] = {{"absolute hard link", "t/h", S_IFREG, NULL, "/etc/passwd"}, {0}};
	const hostile device[] = {{"device", "t/null", S_IFCHR, NULL, NULL}, {0}};
	const hostile pipe[] = {{"pipe", "t/p", S_IFIFO, NULL, NULL}, {0}};
	const hostile extra[] = {{"not in the manifest", "t/extra", S_IFREG, NULL, NULL}, {0}};
	const hostile behind[] = {
		{"a manifest first", KT_MANIFEST_MEMBER, S_IFREG, NULL, NULL}, {"", "t/x", S_IFREG, NULL, NULL}, {0}};
	const hostile *all[] = {up, inner_up, abs, dot, through, hard, hard_abs, device, pipe, extra, behind};
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		try_hostile(all[i], true);
		try_hostile(all[i], false);
	}
	try_hostile(NULL, false);
}

/* A tar file that GNU tar made is no backup of ours. */
static void test_not_our_archive(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_archive_reader *r = NULL;
	kt_manifest m;
	char sha[KT_SHA256_HEX];
	static const char text[] = "this is not an archive at all";
	put_text("text", text, 0600);
	assert_kt_ok(kt_sha256_hex(text, sizeof text - 1, sha, &err));
	assert_kt_ok(kt_archive_open(at("text"), sha, NULL, &r, &err));
	assert_kt_fails(KT_E_INPUT, kt_archive_verify(r, NULL, &m, &err));
	kt_archive_close(r);
}

/* --- coming back ----------------------------------------------------------------------------------------------- */

static void give_to_nobody(const char *name)
{
	if (geteuid() == 0)
		assert_int_equal(lchown(at(name), 65534, 65534), 0);
}

static void test_extract_is_exact(void **state)
{
	(void)state;
	make_installation();
	give_to_nobody("top/models/core/m.lkml");
	kt_archive_source source = installation();
	kt_archive_made made = create(&source);
	extract(&made);
	char name[PATH_MAX];
	(void)snprintf(name, sizeof name, "x/%s/models/core/m.lkml", at("top") + 1);
	assert_text(name, "view: core {}\n");
	assert_int_equal(mode_of(name), 0640);
	(void)snprintf(name, sizeof name, "x/%s/core", at("top") + 1);
	assert_false(is_there(name));
}

static void set_acl(const char *path)
{
	acl_t acl = acl_from_text("u::rw-,u:65534:r--,g::r--,m::r--,o::---");
	assert_non_null(acl);
	if (acl_set_file(path, ACL_TYPE_ACCESS, acl) != 0)
		print_message("no ACLs here: %s\n", strerror(errno));
	assert_int_equal(acl_free(acl), 0);
}

static void test_restore_is_exact(void **state)
{
	(void)state;
	make_installation();
	assert_int_equal(setxattr(at("top/models/core/m.lkml"), "user.note", "value", 5, 0), 0);
	set_acl(at("top/models/log/keep"));
	give_to_nobody("top/models/core/m.lkml");
	give_to_nobody("top/models/core");
	give_to_nobody("top/link");
	assert_int_equal(chmod(at("top/start.sh"), 04755), 0);
	struct stat before;
	assert_int_equal(lstat(at("top/models/core/m.lkml"), &before), 0);
	kt_archive_source source = installation();
	kt_archive_made made = create(&source);

	put_text("top/models/core/m.lkml", "spoilt", 0666);
	assert_int_equal(removexattr(at("top/models/core/m.lkml"), "user.note"), 0);
	assert_int_equal(unlink(at("top/models/log/keep")), 0);
	assert_int_equal(unlink(at("top/link")), 0);
	put_text("top/link", "a file where a link was", 0600);
	put_text("top/zz-start.sh", "written through both names", 0755);
	put_text("top/newer", "made after the backup", 0600);
	put_text("top/log/looker.log", "line\nline\n", 0644);
	assert_int_equal(chmod(at("top/models"), 0777), 0);

	assert_int_equal(restore(&made), 5); /* two names of start.sh, m.lkml, keep, link */
	assert_text("top/models/core/m.lkml", "view: core {}\n");
	struct stat after;
	assert_int_equal(lstat(at("top/models/core/m.lkml"), &after), 0);
	assert_int_equal(after.st_mode, before.st_mode);
	assert_int_equal(after.st_uid, before.st_uid);
	assert_int_equal(after.st_gid, before.st_gid);
	assert_int_equal(after.st_mtim.tv_sec, before.st_mtim.tv_sec);
	assert_int_equal(after.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
	char value[16] = "";
	assert_int_equal(getxattr(at("top/models/core/m.lkml"), "user.note", value, sizeof value), 5);
	assert_string_equal(value, "value");
	acl_t acl = acl_get_file(at("top/models/log/keep"), ACL_TYPE_ACCESS);
	char *text = acl_to_any_text(acl, NULL, ',', TEXT_NUMERIC_IDS);
	assert_non_null(strstr(text, "user:65534:r--"));
	(void)acl_free(text);
	(void)acl_free(acl);
	assert_text("top/start.sh", "#!/bin/sh\n");
	assert_int_equal(mode_of("top/start.sh"), 04755);
	assert_int_equal(mode_of("top/models"), 0750);
	char target[64] = "";
	assert_int_equal(readlink(at("top/link"), target, sizeof target - 1), 11);
	assert_string_equal(target, "models/core");
	struct stat one;
	struct stat two;
	assert_int_equal(lstat(at("top/start.sh"), &one), 0);
	assert_int_equal(lstat(at("top/zz-start.sh"), &two), 0);
	assert_int_equal(one.st_ino, two.st_ino);
	assert_text("top/newer", "made after the backup");
	assert_text("top/log/looker.log", "line\nline\n");
	/* Again: what has attributes, links or a second name is written again, all the rest is left alone. */
	assert_int_equal(restore(&made), 5);
	assert_text("top/models/core/m.lkml", "view: core {}\n");
}

static void test_restore_of_everything_gone(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	make_installation();
	put_folder("db", 0755);
	put_text("db/looker.db", "the database", 0600);
	const char *db = at("db/looker.db");
	char path[PATH_MAX];
	(void)snprintf(path, sizeof path, "%s", db);
	db = path;
	kt_archive_source source = installation();
	source.paths = &db;
	source.path_n = 1;
	kt_archive_made made = create(&source);
	assert_kt_ok(kt_tree_remove(at("top"), &err));
	assert_kt_ok(kt_tree_remove(at("db"), &err));
	(void)restore(&made);
	assert_text("db/looker.db", "the database");
	assert_text("top/models/core/m.lkml", "view: core {}\n");
	assert_int_equal(mode_of("top/models"), 0750);
}

/* Journals of another time must be gone before the database is back, whether the database itself changed or not. */
static void test_restore_removes_foreign_journals(void **state)
{
	(void)state;
	make_installation();
	put_folder("db", 0755);
	put_text("db/looker.db", "named as a path", 0600);
	put_text("db/looker.db-wal", "old wal", 0600);
	put_bytes("top/sq.db", "SQLite format 3\0old", 20, 0600);
	char path[PATH_MAX];
	(void)snprintf(path, sizeof path, "%s", at("db/looker.db"));
	const char *db = path;
	kt_archive_source source = installation();
	source.paths = &db;
	source.path_n = 1;
	kt_archive_made made = create(&source);
	put_text("db/looker.db", "after the rekey", 0600);
	put_text("db/looker.db-wal", "new wal", 0600);
	put_text("db/looker.db-shm", "shm", 0600);
	put_text("db/looker.db-journal", "journal", 0600);
	put_text("db/looker.db-wal2", "not a journal", 0600);
	put_text("top/sq.db-journal", "hot", 0600);
	put_text("top/start.sh-journal", "stays", 0600);
	(void)restore(&made);
	assert_text("db/looker.db", "named as a path");
	assert_text("db/looker.db-wal", "old wal");
	assert_false(is_there("db/looker.db-shm"));
	assert_false(is_there("db/looker.db-journal"));
	assert_true(is_there("db/looker.db-wal2"));
	assert_false(is_there("top/sq.db-journal"));
	assert_true(is_there("top/start.sh-journal"));
	/* Only the wal differs: it comes back, the database is not touched. */
	put_text("db/looker.db-wal", "newer wal", 0600);
	put_text("db/looker.db-shm", "shm", 0600);
	(void)restore(&made);
	assert_text("db/looker.db-wal", "old wal");
	assert_false(is_there("db/looker.db-shm"));
}

/* How often the folder of `watched` was synced. */
static const char *watched;
static size_t syncs;
kt_code __real_kt_file_sync_folder(const char *path, kt_err *err);
kt_code __wrap_kt_file_sync_folder(const char *path, kt_err *err);
kt_code __wrap_kt_file_sync_folder(const char *path, kt_err *err)
{
	size_t n = watched ? (size_t)(strrchr(watched, '/') - watched) + 1 : 0;
	syncs += n && strncmp(path, watched, n) == 0 && !strchr(path + n, '/');
	return __real_kt_file_sync_folder(path, err);
}

/* A restore that was killed may have removed a journal, and a power cut would bring it back: it is made to be gone. */
static void test_restore_syncs_what_is_gone_already(void **state)
{
	(void)state;
	make_installation();
	put_folder("db", 0755);
	put_text("db/looker.db", "named as a path", 0600);
	char path[PATH_MAX];
	(void)snprintf(path, sizeof path, "%s", at("db/looker.db"));
	const char *db = path;
	kt_archive_source source = installation();
	source.paths = &db;
	source.path_n = 1;
	kt_archive_made made = create(&source);
	watched = db;
	syncs = 0;
	(void)restore(&made); /* the database does not differ, and no journal is there */
	watched = NULL;
	assert_true(syncs > 0);
}

/* S9: what a restore replaces or removes is kept, once for a run; the next backup leaves it out. */
static void test_restore_keeps_old_versions(void **state)
{
	(void)state;
	make_installation();
	kt_archive_source source = installation();
	kt_archive_made made = create(&source);
	put_text("top/models/log/keep", "changed by the rekey", 0640);
	put_text("top/empty", "no longer", 0604);
	put_text("top/zz-start.sh", "both names", 0755);
	assert_int_equal(unlink(at("top/name with\nnewline \\ and \xff")), 0);
	struct stat before;
	assert_int_equal(lstat(at("top/models/log/keep"), &before), 0);
	(void)restore_keeping(&made, "R1");
	assert_text("top/models/log/keep", "kept\n");
	assert_text("top/models/log/keep.keyturn-R1.old", "changed by the rekey");
	struct stat after;
	assert_int_equal(lstat(at("top/models/log/keep.keyturn-R1.old"), &after), 0);
	assert_true(after.st_ino == before.st_ino && after.st_mode == before.st_mode && after.st_nlink == 1);
	assert_text("top/empty.keyturn-R1.old", "no longer");
	assert_text("top/start.sh.keyturn-R1.old", "both names");
	assert_text("top/zz-start.sh.keyturn-R1.old", "both names");
	assert_false(is_there("top/models/looker.jar.keyturn-R1.old")); /* was the same */
	assert_false(is_there("top/name with\nnewline \\ and \xff.keyturn-R1.old"));
	/* Once more in that run: the first one stays. Another run has its own. */
	put_text("top/models/log/keep", "spoilt again", 0644);
	(void)restore_keeping(&made, "R1");
	assert_text("top/models/log/keep.keyturn-R1.old", "changed by the rekey");
	put_text("top/models/log/keep", "by the next run", 0644);
	(void)restore_keeping(&made, "R2");
	assert_text("top/models/log/keep.keyturn-R1.old", "changed by the rekey");
	assert_text("top/models/log/keep.keyturn-R2.old", "by the next run");
	put_text("top/models/not.keyturn-.old", "", 0644);
	put_text("top/models/x.old", "", 0644);
	made = create(&source);
	kt_manifest m = verify(&made);
	assert_non_null(member(&m, "top/models/log/keep"));
	assert_null(member(&m, "top/models/log/keep.keyturn-R1.old"));
	assert_null(member(&m, "top/models/log/keep.keyturn-R2.old"));
	assert_non_null(member(&m, "top/models/not.keyturn-.old"));
	assert_non_null(member(&m, "top/models/x.old"));
	kt_manifest_free(&m);
}

/* A database is kept so that it opens: with its journals, under the names that SQLite looks for. */
static void test_restore_keeps_databases_whole(void **state)
{
	(void)state;
	put_folder("db", 0755);
	put_folder("top", 0755);
	put_text("db/looker.db", "before", 0600);
	char path[PATH_MAX];
	(void)snprintf(path, sizeof path, "%s", at("db/looker.db"));
	const char *db = path;
	kt_archive_source source = installation();
	source.paths = &db;
	source.path_n = 1;
	kt_archive_made made = create(&source);
	put_text("db/looker.db", "after the rekey", 0600);
	put_text("db/looker.db-wal", "wal", 0600);
	put_text("db/looker.db-journal", "journal", 0600);
	put_text("db/looker.db-shm", "shm", 0600);
	(void)restore_keeping(&made, "R1");
	assert_text("db/looker.db", "before");
	assert_false(is_there("db/looker.db-wal"));
	assert_text("db/looker.db.keyturn-R1.old", "after the rekey");
	assert_text("db/looker.db.keyturn-R1.old-wal", "wal");
	assert_text("db/looker.db.keyturn-R1.old-journal", "journal");
	/* The database is the same, what belongs to it is not. */
	put_text("db/looker.db-wal", "foreign", 0600);
	(void)restore_keeping(&made, "R2");
	assert_text("db/looker.db.keyturn-R2.old", "before");
	assert_text("db/looker.db.keyturn-R2.old-wal", "foreign");
	assert_false(is_there("db/looker.db-wal"));
	(void)restore_keeping(&made, "R3");
	assert_text("db/looker.db", "before");
}

/* What cannot be kept is not replaced. */
static void test_restore_that_cannot_keep(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_archive_reader *r = NULL;
	kt_manifest m;
	uint64_t written;
	make_installation();
	char name[250];
	memset(name, 'n', sizeof name - 1); /* no room for what is added to it */
	name[sizeof name - 1] = '\0';
	char path[300];
	(void)snprintf(path, sizeof path, "top/%s", name);
	put_text(path, "before", 0644);
	kt_archive_source source = installation();
	kt_archive_made made = create(&source);
	put_text(path, "after", 0644);
	assert_kt_ok(kt_archive_open(at("b/backup.tar.zst"), made.sha256, NULL, &r, &err));
	assert_kt_ok(kt_archive_verify(r, NULL, &m, &err));
	assert_kt_fails(KT_E_IO, kt_archive_restore(r, &m, "R1", 0, NULL, &written, &err));
	assert_non_null(strstr(err.msg, "cannot be kept"));
	kt_manifest_free(&m);
	kt_archive_close(r);
	assert_text(path, "after");
}

/* A folder that became a link since is a folder again; nothing is written where the link led. */
static void test_restore_does_not_follow_links(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	struct stat st;
	make_installation();
	kt_archive_source source = installation();
	kt_archive_made made = create(&source);
	assert_kt_ok(kt_tree_remove(at("top/models/core"), &err));
	put_folder("elsewhere", 0755);
	assert_int_equal(symlink(at("elsewhere"), at("top/models/core")), 0);
	(void)restore(&made);
	assert_false(is_there("elsewhere/m.lkml"));
	assert_int_equal(lstat(at("top/models/core"), &st), 0);
	assert_true(S_ISDIR(st.st_mode));
	assert_text("top/models/core/m.lkml", "view: core {}\n");
}

/* The installation's folder itself may be reached through links, as the application reaches it. */
static void test_top_through_a_link(void **state)
{
	(void)state;
	make_installation();
	assert_int_equal(symlink("top", at("current")), 0);
	char top[PATH_MAX];
	(void)snprintf(top, sizeof top, "%s", at("current"));
	kt_archive_source source = {.top = top, .exclude = looker_excludes, .exclude_n = 8};
	kt_archive_made made = create(&source);
	assert_int_equal(made.files, 7);
	put_text("top/models/core/m.lkml", "spoilt", 0600);
	(void)restore(&made);
	assert_text("top/models/core/m.lkml", "view: core {}\n");
	char target[16] = "";
	assert_int_equal(readlink(at("current"), target, sizeof target - 1), 3);
}

static void make_sparse(const char *name, off_t size, const off_t *data, size_t n)
{
	put_text(name, "", 0600);
	int fd = open(at(name), O_WRONLY | O_CLOEXEC);
	assert_int_equal(ftruncate(fd, size), 0);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(pwrite(fd, "data", 4, data[i]), 4);
	assert_int_equal(fsync(fd), 0);
	(void)close(fd);
}

static void test_sparse_files(void **state)
{
	(void)state;
	static const off_t middle[] = {3LL << 30, (3LL << 30) + 70000};
	static const off_t ends[] = {0, (1 << 20) - 4};
	put_folder("top", 0755);
	make_sparse("top/large", 5LL << 30, middle, 2);
	make_sparse("top/all-hole", 10 << 20, NULL, 0);
	make_sparse("top/ends", 1 << 20, ends, 2);
	make_sparse("top/odd-tail", (1 << 20) + 13, ends, 1);
	kt_archive_source source = {.top = at("top")};
	int64_t start = kt_clock_mono_ms();
	kt_archive_made made = create(&source);
	int64_t written = kt_clock_mono_ms();
	kt_manifest m = verify(&made);
	assert_int_equal(member(&m, "top/large")->kind, KT_MEMBER_SPARSE);
	assert_int_equal(member(&m, "top/all-hole")->kind, KT_MEMBER_SPARSE);
	kt_manifest_free(&m);
	extract(&made);
	int64_t checked = kt_clock_mono_ms();
	print_message("5 GiB with holes: written in %lld ms, verified and unpacked in %lld ms, %llu bytes\n",
		      (long long)(written - start), (long long)(checked - written),
		      (unsigned long long)made.archive_bytes);
	assert_true(written - start < 5000);
	assert_true(checked - written < 10000);
	struct stat st;
	char name[PATH_MAX];
	(void)snprintf(name, sizeof name, "x/%s/large", at("top") + 1);
	assert_int_equal(lstat(at(name), &st), 0);
	assert_int_equal(st.st_size, 5LL << 30);
	assert_true(st.st_blocks < 4096);
	/* A byte in a hole is seen. */
	int fd = open(at("top/large"), O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "!", 1, 1 << 30), 1);
	(void)close(fd);
	(void)restore(&made);
	fd = open(at("top/large"), O_RDONLY | O_CLOEXEC);
	char byte = 'x';
	assert_int_equal(pread(fd, &byte, 1, 1 << 30), 1);
	assert_int_equal(byte, 0);
	(void)close(fd);
}

/* The plain and the sparse hash do not depend on how the bytes come. */
static void test_content_hash(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	enum { LEN = 300000 };
	static uint8_t bytes[LEN];
	memset(bytes + 70000, 'q', 10);
	memset(bytes + 131070, 'r', 4);
	bytes[LEN - 1] = 1;
	char want[KT_SHA256_HEX];
	assert_kt_ok(kt_sha256_hex(bytes, LEN, want, &err));
	for (int sparse = 0; sparse < 2; sparse++) {
		char first[KT_SHA256_HEX] = "";
		for (size_t piece = 1000; piece <= LEN; piece *= 3) {
			for (int skip = 0; skip < 2; skip++) {
				kt_content_hash *h;
				char is[KT_SHA256_HEX];
				assert_kt_ok(kt_content_hash_new(sparse, &h, &err));
				for (size_t i = 0; i < LEN; i += piece) {
					size_t n = LEN - i < piece ? LEN - i : piece;
					bool zero = true;
					for (size_t k = 0; k < n; k++)
						zero = zero && bytes[i + k] == 0;
					if (!(skip && zero))
						assert_kt_ok(kt_content_hash_feed(h, i, bytes + i, n, &err));
				}
				assert_kt_ok(kt_content_hash_end(h, LEN, is, &err));
				if (!sparse)
					assert_string_equal(is, want);
				if (first[0])
					assert_string_equal(is, first);
				memcpy(first, is, sizeof first);
			}
		}
	}
	kt_content_hash *h;
	char is[KT_SHA256_HEX];
	assert_kt_ok(kt_content_hash_new(true, &h, &err));
	assert_kt_ok(kt_content_hash_feed(h, 5, "x", 1, &err));
	assert_kt_fails(KT_E_INPUT, kt_content_hash_feed(h, 3, "x", 1, &err));
	assert_kt_fails(KT_E_INPUT, kt_content_hash_end(h, 4, is, &err));
}

/* --- the manifest's text --------------------------------------------------------------------------------------- */

static void test_manifest_text(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	kt_manifest m;
	kt_buf text = KT_BUF_INIT;
	make_installation();
	kt_archive_source source = installation();
	kt_archive_made made = create(&source);
	m = verify(&made);
	assert_kt_ok(kt_manifest_print(&m, &text, &err));
	char sha[KT_SHA256_HEX];
	assert_kt_ok(kt_sha256_hex(text.data, text.len, sha, &err));
	assert_string_equal(sha, made.manifest_sha256);
	kt_manifest_free(&m);
	for (size_t n = 0; n < text.len; n++)
		assert_kt_fails(KT_E_INPUT, kt_manifest_parse(text.data, n, &m, &err));
	static const char *const bad[] = {
		"keyturn-manifest 2\nend 0\n",
		"keyturn-manifest 1\nend 1\n",
		"keyturn-manifest 1\nend 0\nend 0\n",
		"keyturn-manifest 1\ntop ../x\nend 0\n",
		"keyturn-manifest 1\ntop /x\nend 0\n",
		"keyturn-manifest 1\nd 0755 0 0 0 - a\nd 0755 0 0 0 - a\nend 2\n",
		"keyturn-manifest 1\nd 0799 0 0 0 - a\nend 1\n",
		"keyturn-manifest 1\nd 0755 0 0 0 - a\\000b\nend 1\n",
		"keyturn-manifest 1\nd 0755 0 0 0 - a\\09\nend 1\n",
		"keyturn-manifest 1\nd 0755 0 0 99999999999999999999 - a\nend 1\n",
		"keyturn-manifest 1\nf 0755 0 0 0 abcd a\nend 1\n",
		"keyturn-manifest 1\nx 0755 0 0 0 - a\nend 1\n",
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_kt_fails(KT_E_INPUT, kt_manifest_parse(bad[i], strlen(bad[i]), &m, &err));
	kt_buf_free(&text);
}

int main(void)
{
	kt_err err = KT_ERR_INIT;
	if (kt_secret_setup(&err) != KT_OK) {
		(void)fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
#define TEST(name) cmocka_unit_test_setup_teardown(name, scratch_make, scratch_drop)
	const struct CMUnitTest tests[] = {
		TEST(test_excludes_only_at_top),
		TEST(test_measure_is_what_create_takes),
		TEST(test_database_elsewhere_brings_its_journals),
		TEST(test_sockets_are_skipped_and_links_out_are_noted),
		TEST(test_bad_sources),
		TEST(test_archive_inside_top),
		TEST(test_scan_across_chunks),
		TEST(test_planted_key_is_refused),
		TEST(test_unnamed_key_files_are_left_out),
		TEST(test_key_file_is_left_out),
		TEST(test_changing_file_is_refused),
		TEST(test_stopping_leaves_nothing),
		TEST(test_full_disk),
		TEST(test_flipped_or_cut_archive),
		TEST(test_flipped_archive_with_its_own_digest),
		TEST(test_hostile_archives),
		TEST(test_not_our_archive),
		TEST(test_extract_is_exact),
		TEST(test_restore_is_exact),
		TEST(test_restore_of_everything_gone),
		TEST(test_restore_removes_foreign_journals),
		TEST(test_restore_syncs_what_is_gone_already),
		TEST(test_restore_keeps_old_versions),
		TEST(test_restore_keeps_databases_whole),
		TEST(test_restore_that_cannot_keep),
		TEST(test_restore_does_not_follow_links),
		TEST(test_top_through_a_link),
		TEST(test_sparse_files),
		TEST(test_content_hash),
		TEST(test_manifest_text),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "agent/scratch.h"
#include "base/clock.h"
#include "base/file.h"

enum {
	STEP_PAGES = 256,
	BUSY_MS = 5000, /* nobody should be live: a lock that stays is a finding */
	BUSY_REST_MS = 50,
	LOOK_EVERY = 1000000, /* instructions of SQLite's machine between two looks at who may stop us */
	CHUNK = 1024 * 1024
};

static const char damaged_remedy[] =
	"repair it (sqlite3 FILE .recover), or leave it out of the backup where it is not needed (exclude)";
static const char live_remedy[] = "stop what works with it, then try again";

/* --- what a database looks like -------------------------------------------------------------------------------- */

bool kt_sqlite_is(int folder_fd, const char *base)
{
	static const uint8_t magic[16] = "SQLite format 3";
	uint8_t begin[sizeof magic];
	int fd = openat(folder_fd, base, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return false;
	bool is = pread(fd, begin, sizeof begin, 0) == (ssize_t)sizeof begin && memcmp(begin, magic, sizeof magic) == 0;
	(void)close(fd);
	return is;
}

/* The files of a database: itself, and those whose names begin with its name. */
enum { DATABASE, JOURNAL, WAL, PARTS };
static const char *const endings[PARTS] = {"", "-journal", "-wal"};

static bool ends_with(const char *name, const char *ending)
{
	size_t n = strlen(name);
	size_t e = strlen(ending);
	return n > e && strcmp(name + n - e, ending) == 0;
}

bool kt_sqlite_is_journal(int folder_fd, const char *base)
{
	static const char *const belonging[] = {"-journal", "-wal", "-shm"};
	for (size_t i = 0; i < sizeof belonging / sizeof *belonging; i++) {
		char database[NAME_MAX + 1];
		struct stat st;
		if (!ends_with(base, belonging[i]) || strlen(base) >= sizeof database)
			continue;
		(void)snprintf(database, sizeof database, "%.*s", (int)(strlen(base) - strlen(belonging[i])), base);
		return fstatat(folder_fd, database, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
		       kt_sqlite_is(folder_fd, database);
	}
	return false;
}

uint64_t kt_sqlite_wal_bytes(int folder_fd, const char *base)
{
	char wal[NAME_MAX + 8];
	struct stat st;
	(void)snprintf(wal, sizeof wal, "%s%s", base, endings[WAL]);
	return fstatat(folder_fd, wal, &st, AT_SYMLINK_NOFOLLOW) == 0 ? (uint64_t)st.st_size : 0;
}

/* --- files without names --------------------------------------------------------------------------------------- */

/* One copy being made. `vfs` is SQLite's way to the copy: its files are those of `part`, which no folder knows, so that
 * nothing is left of them when we are killed. */
typedef struct copy {
	sqlite3_vfs vfs;
	sqlite3_vfs *real; /* SQLite's own */
	const kt_tree_item *item;
	const kt_sqlite_how *how;
	int part[PARTS]; /* -1: not there */
	sqlite3 *from;   /* the original, only read */
	sqlite3 *to;     /* the copy */
	sqlite3 *said;   /* the one of both that has the message of what failed */
	int64_t waiting_until_ms;
	kt_err stopped; /* what how->progress said */
} copy;

typedef struct nameless {
	sqlite3_file base;
	int fd;
	bool temporary; /* nobody else has it */
} nameless;

static int close_nameless(sqlite3_file *f)
{
	nameless *n = (nameless *)f;
	if (n->temporary)
		(void)close(n->fd);
	return SQLITE_OK;
}

static int read_nameless(sqlite3_file *f, void *into, int n, sqlite3_int64 at)
{
	for (int got = 0; got < n;) {
		ssize_t r = pread(((nameless *)f)->fd, (char *)into + got, (size_t)(n - got), at + got);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return SQLITE_IOERR_READ;
		if (r == 0) {
			memset((char *)into + got, 0, (size_t)(n - got)); /* what SQLite asks of a short read */
			return SQLITE_IOERR_SHORT_READ;
		}
		got += (int)r;
	}
	return SQLITE_OK;
}

static int write_nameless(sqlite3_file *f, const void *bytes, int n, sqlite3_int64 at)
{
	for (int put = 0; put < n;) {
		ssize_t r = pwrite(((nameless *)f)->fd, (const char *)bytes + put, (size_t)(n - put), at + put);
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r == 0 || errno == ENOSPC || errno == EDQUOT ? SQLITE_FULL : SQLITE_IOERR_WRITE;
		put += (int)r;
	}
	return SQLITE_OK;
}

static int truncate_nameless(sqlite3_file *f, sqlite3_int64 size)
{
	return ftruncate(((nameless *)f)->fd, size) == 0 ? SQLITE_OK : SQLITE_IOERR_TRUNCATE;
}

/* It need not outlive us. */
static int sync_nameless(sqlite3_file *f, int flags)
{
	(void)f;
	(void)flags;
	return SQLITE_OK;
}

static int size_nameless(sqlite3_file *f, sqlite3_int64 *size)
{
	struct stat st;
	if (fstat(((nameless *)f)->fd, &st) != 0)
		return SQLITE_IOERR_FSTAT;
	*size = st.st_size;
	return SQLITE_OK;
}

/* Nobody else can come to it. */
static int lock_nameless(sqlite3_file *f, int level)
{
	(void)f;
	(void)level;
	return SQLITE_OK;
}

static int reserved_nameless(sqlite3_file *f, int *is)
{
	(void)f;
	*is = 0;
	return SQLITE_OK;
}

static int control_nameless(sqlite3_file *f, int what, void *arg)
{
	(void)f;
	(void)what;
	(void)arg;
	return SQLITE_NOTFOUND;
}

static int nothing_special(sqlite3_file *f)
{
	(void)f;
	return 0;
}

static const sqlite3_io_methods methods = {.iVersion = 1,
					   .xClose = close_nameless,
					   .xRead = read_nameless,
					   .xWrite = write_nameless,
					   .xTruncate = truncate_nameless,
					   .xSync = sync_nameless,
					   .xFileSize = size_nameless,
					   .xLock = lock_nameless,
					   .xUnlock = lock_nameless,
					   .xCheckReservedLock = reserved_nameless,
					   .xFileControl = control_nameless,
					   .xSectorSize = nothing_special,
					   .xDeviceCharacteristics = nothing_special};

static int open_part(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out_flags)
{
	copy *c = vfs->pAppData;
	nameless *n = (nameless *)f;
	int part = flags & SQLITE_OPEN_MAIN_DB        ? DATABASE
		   : flags & SQLITE_OPEN_MAIN_JOURNAL ? JOURNAL
		   : flags & SQLITE_OPEN_WAL          ? WAL
						      : PARTS;
	int other = -1;
	int *fd = part < PARTS ? &c->part[part] : &other;
	(void)name;
	n->base.pMethods = NULL;
	if (*fd < 0 && kt_scratch_file(c->how->beside, "a copy of a database", fd, &c->stopped) != KT_OK)
		return SQLITE_CANTOPEN;
	n->base.pMethods = &methods;
	n->fd = *fd;
	n->temporary = part == PARTS;
	if (out_flags)
		*out_flags = flags;
	return SQLITE_OK;
}

/* The part that a name means; PARTS: none of ours. */
static int part_of(const char *name)
{
	int part = PARTS;
	for (int i = JOURNAL; i < PARTS; i++)
		if (ends_with(name, endings[i]))
			part = i;
	return part;
}

/* What is not ours is not removed: the journal of a transaction over several databases is the originals'. */
static int delete_part(sqlite3_vfs *vfs, const char *name, int sync)
{
	copy *c = vfs->pAppData;
	int part = part_of(name);
	(void)sync;
	if (part == PARTS || c->part[part] < 0)
		return SQLITE_OK;
	(void)close(c->part[part]);
	c->part[part] = -1;
	return SQLITE_OK;
}

/* Whether there is still that journal decides about a transaction over several databases: it is asked of the disk. */
static int is_part(sqlite3_vfs *vfs, const char *name, int flags, int *is)
{
	copy *c = vfs->pAppData;
	int part = part_of(name);
	if (part == PARTS)
		return c->real->xAccess(c->real, name, flags, is);
	*is = c->part[part] >= 0;
	return SQLITE_OK;
}

static int same_name(sqlite3_vfs *vfs, const char *name, int n, char *out)
{
	(void)vfs;
	(void)sqlite3_snprintf(n, out, "%s", name);
	return SQLITE_OK;
}

static void init_vfs(copy *c)
{
	c->real = sqlite3_vfs_find(NULL);
	c->vfs = *c->real; /* its time and chance */
	c->vfs.pNext = NULL;
	c->vfs.szOsFile = sizeof(nameless);
	c->vfs.zName = "keyturn-nameless";
	c->vfs.pAppData = c;
	c->vfs.xOpen = open_part;
	c->vfs.xDelete = delete_part;
	c->vfs.xAccess = is_part;
	c->vfs.xFullPathname = same_name;
}

/* --- errors ---------------------------------------------------------------------------------------------------- */

static kt_code no_room(const copy *c, kt_err *err)
{
	struct statvfs fs = {0};
	(void)fstatvfs(c->part[DATABASE], &fs);
	return kt_fail(err, KT_E_IO, "make room there, or choose another destination for the backup",
		       "%s: no room for its copy beside %s: %lld bytes and its journals, %llu are free", c->item->path,
		       c->how->beside, (long long)c->item->st->st_size, (unsigned long long)fs.f_bavail * fs.f_frsize);
}

static kt_code failed(const copy *c, int rc, kt_err *err)
{
	const char *why = c->said ? sqlite3_errmsg(c->said) : sqlite3_errstr(rc);
	if (c->stopped.code != KT_OK) {
		if (err)
			*err = c->stopped;
		return c->stopped.code;
	}
	switch (rc & 0xff) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return kt_fail(err, KT_E_REFUSED, live_remedy, "%s is locked by another process", c->item->path);
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return kt_fail(err, KT_E_REFUSED, damaged_remedy, "%s is a damaged SQLite database: %.300s",
			       c->item->path, why);
	case SQLITE_FULL:
		return no_room(c, err);
	default:
		return kt_fail(err, KT_E_IO, NULL, "%s cannot be copied by SQLite: %.300s", c->item->path, why);
	}
}

/* --- copying --------------------------------------------------------------------------------------------------- */

static bool goes_on(copy *c, size_t bytes)
{
	return c->stopped.code == KT_OK &&
	       (!c->how->progress || c->how->progress(c->how->arg, bytes, &c->stopped) == KT_OK);
}

static int while_busy(void *arg, int times)
{
	copy *c = arg;
	if (times == 0)
		c->waiting_until_ms = kt_clock_mono_ms() + BUSY_MS;
	if (kt_clock_mono_ms() >= c->waiting_until_ms || !goes_on(c, 0))
		return 0;
	(void)sqlite3_sleep(BUSY_REST_MS);
	return 1;
}

/* Where the copy is worked on. The files are ours alone, so a write-ahead log needs no shared memory. What the
 * database's own schema says is not trusted. */
static int open_copy(copy *c)
{
	static const char settings[] =
		"PRAGMA locking_mode=EXCLUSIVE; PRAGMA temp_store=MEMORY; PRAGMA trusted_schema=OFF;"
		"PRAGMA ignore_check_constraints=ON; PRAGMA cell_size_check=ON";
	int rc = sqlite3_open_v2("copy", &c->to, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_PRIVATECACHE,
				 c->vfs.zName);
	c->said = c->to;
	return rc == SQLITE_OK ? sqlite3_exec(c->to, settings, NULL, NULL, NULL) : rc;
}

static int page_bytes(sqlite3 *db, size_t *out)
{
	sqlite3_stmt *s = NULL;
	int rc = sqlite3_prepare_v2(db, "PRAGMA page_size", -1, &s, NULL);
	if (rc == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW)
		*out = (size_t)sqlite3_column_int(s, 0);
	int ended = sqlite3_finalize(s);
	return rc == SQLITE_OK ? ended : rc;
}

/* All pages of one transaction of the reader, which ends with the connection: nobody's later writing is in it. */
static int copy_pages(copy *c)
{
	size_t page = 0;
	int rc = sqlite3_exec(c->from, "BEGIN; PRAGMA user_version", NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		rc = page_bytes(c->from, &page);
	if (rc != SQLITE_OK)
		return rc;
	sqlite3_backup *b = sqlite3_backup_init(c->to, "main", c->from, "main");
	c->said = c->to; /* which has a backup's errors */
	if (!b)
		return sqlite3_errcode(c->to);
	do
		rc = sqlite3_backup_step(b, STEP_PAGES);
	while (rc == SQLITE_OK && goes_on(c, STEP_PAGES * page));
	int ended = sqlite3_backup_finish(b);
	return rc == SQLITE_DONE ? ended : rc == SQLITE_OK ? SQLITE_ABORT : rc;
}

/* The very file that was selected, and not what took its place while SQLite opened it by its name. */
static kt_code check_place(const copy *c, kt_err *err)
{
	struct stat st;
	const struct stat *was = c->item->st;
	if (fstatat(c->item->folder_fd, c->item->base, &st, AT_SYMLINK_NOFOLLOW) != 0 || st.st_dev != was->st_dev ||
	    st.st_ino != was->st_ino)
		return kt_fail(err, KT_E_REFUSED, live_remedy, "%s was replaced while it was read", c->item->path);
	return KT_OK;
}

/* By the backup API. SQLITE_READONLY and SQLITE_CANTOPEN: it could only be read by writing to it first. */
static int copy_live(copy *c)
{
	int rc = sqlite3_open_v2(c->item->path, &c->from, SQLITE_OPEN_READONLY | SQLITE_OPEN_PRIVATECACHE, NULL);
	c->said = c->from;
	if (rc == SQLITE_OK)
		rc = sqlite3_busy_handler(c->from, while_busy, c);
	return rc == SQLITE_OK ? copy_pages(c) : rc;
}

/* --- a database that was left in the middle -------------------------------------------------------------------- */

typedef struct original {
	int fd; /* -1: not there */
	struct stat st;
} original;

static kt_code open_original(const copy *c, int part, original *o, kt_err *err)
{
	char name[NAME_MAX + 16];
	(void)snprintf(name, sizeof name, "%s%s", c->item->base, endings[part]);
	o->fd = openat(c->item->folder_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (o->fd < 0 && errno == ENOENT)
		return KT_OK;
	if (o->fd < 0 || fstat(o->fd, &o->st) != 0)
		return kt_fail_errno(err, errno, NULL, "%s%s cannot be opened", c->item->path, endings[part]);
	if (!S_ISREG(o->st.st_mode))
		return kt_fail(err, KT_E_REFUSED, damaged_remedy, "%s%s is not a file", c->item->path, endings[part]);
	return KT_OK;
}

static kt_code copy_bytes(copy *c, int part, const original *o, uint8_t *chunk, kt_err *err)
{
	if (c->part[part] < 0)
		KT_TRY(kt_scratch_file(c->how->beside, "a copy of a database", &c->part[part], err));
	if (ftruncate(c->part[part], 0) != 0 || lseek(c->part[part], 0, SEEK_SET) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", c->how->beside);
	for (off_t at = 0;;) {
		ssize_t n = pread(o->fd, chunk, CHUNK, at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return kt_fail_errno(err, errno, NULL, "%s%s cannot be read", c->item->path, endings[part]);
		if (n == 0)
			return KT_OK;
		kt_code rc = kt_file_write_all(c->part[part], chunk, (size_t)n, c->how->beside, err);
		if (rc != KT_OK)
			return kt_err_prefix(err, rc, "the copy of %s", c->item->path);
		if (!goes_on(c, (size_t)n))
			return failed(c, SQLITE_ABORT, err);
		at += n;
	}
}

static bool same_time(struct timespec a, struct timespec b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

/* Neither written to nor removed; and what was not there still is not. */
static bool is_unchanged(const copy *c, int part, const original *o)
{
	char name[NAME_MAX + 16];
	struct stat st;
	(void)snprintf(name, sizeof name, "%s%s", c->item->base, endings[part]);
	if (o->fd < 0)
		return fstatat(c->item->folder_fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT;
	return fstat(o->fd, &st) == 0 && st.st_size == o->st.st_size && st.st_nlink == o->st.st_nlink &&
	       same_time(st.st_mtim, o->st.st_mtim) && same_time(st.st_ctim, o->st.st_ctim);
}

static kt_code copy_parts(copy *c, original o[PARTS], kt_err *err)
{
	uint8_t *chunk = malloc(CHUNK);
	if (!chunk)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = KT_OK;
	for (int i = 0; rc == KT_OK && i < PARTS; i++)
		rc = open_original(c, i, &o[i], err);
	for (int i = 0; rc == KT_OK && i < PARTS; i++)
		if (o[i].fd >= 0)
			rc = copy_bytes(c, i, &o[i], chunk, err);
	for (int i = 0; rc == KT_OK && i < PARTS; i++)
		if (!is_unchanged(c, i, &o[i]))
			rc = kt_fail(err, KT_E_REFUSED, live_remedy, "%s%s changed while it was read", c->item->path,
				     endings[i]);
	free(chunk);
	return rc;
}

/* Database and journals as they are. */
static kt_code copy_left(copy *c, kt_err *err)
{
	original o[PARTS] = {{.fd = -1}, {.fd = -1}, {.fd = -1}};
	kt_code rc = copy_parts(c, o, err);
	for (int i = 0; i < PARTS; i++)
		if (o[i].fd >= 0)
			(void)close(o[i].fd);
	return rc;
}

/* --- the whole ------------------------------------------------------------------------------------------------- */

static void close_both(copy *c)
{
	(void)sqlite3_close(c->from);
	(void)sqlite3_close(c->to);
	c->from = c->to = c->said = NULL;
}

static void drop_parts(copy *c, int from)
{
	for (int i = from; i < PARTS; i++) {
		if (c->part[i] >= 0)
			(void)close(c->part[i]);
		c->part[i] = -1;
	}
}

static int is_stopped(void *arg)
{
	return !goes_on(arg, 0);
}

/* What SQLite says of the structure of the copy; rolls back or takes in first what a journal holds. */
static kt_code check_copy(copy *c, kt_err *err)
{
	sqlite3_stmt *s = NULL;
	c->said = c->to;
	sqlite3_progress_handler(c->to, LOOK_EVERY, is_stopped, c);
	int rc = sqlite3_prepare_v2(c->to, "PRAGMA quick_check(1)", -1, &s, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(s);
	const char *said = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(s, 0) : NULL;
	kt_code code = KT_OK;
	if (rc != SQLITE_ROW)
		code = failed(c, rc, err);
	else if (!said || strcmp(said, "ok") != 0)
		code = kt_fail(err, KT_E_REFUSED, damaged_remedy, "%s is a damaged SQLite database: %.300s",
			       c->item->path, said ? said : "it cannot be checked");
	(void)sqlite3_finalize(s);
	KT_TRY(code);
	rc = sqlite3_wal_checkpoint_v2(c->to, "main", SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
	return rc == SQLITE_OK ? KT_OK : failed(c, rc, err);
}

static kt_code make_copy(copy *c, bool *is_none, kt_err *err)
{
	int rc = open_copy(c);
	if (rc != SQLITE_OK)
		return failed(c, rc, err);
	rc = copy_live(c);
	if (c->stopped.code == KT_OK && ((rc & 0xff) == SQLITE_READONLY || (rc & 0xff) == SQLITE_CANTOPEN)) {
		close_both(c);
		drop_parts(c, DATABASE);
		KT_TRY(copy_left(c, err));
		rc = open_copy(c);
		return rc == SQLITE_OK ? check_copy(c, err) : failed(c, rc, err);
	}
	*is_none = (rc & 0xff) == SQLITE_NOTADB && c->stopped.code == KT_OK;
	if (*is_none)
		return KT_OK;
	if (rc != SQLITE_OK)
		return failed(c, rc, err);
	KT_TRY(check_place(c, err));
	return check_copy(c, err);
}

kt_code kt_sqlite_copy(const kt_tree_item *item, const kt_sqlite_how *how, int *fd, kt_err *err)
{
	copy c = {.item = item, .how = how, .part = {-1, -1, -1}};
	bool is_none = false;
	*fd = -1;
	init_vfs(&c);
	if (sqlite3_vfs_register(&c.vfs, 0) != SQLITE_OK)
		return kt_fail(err, KT_E_INTERNAL, NULL, "SQLite is not available");
	kt_code rc = make_copy(&c, &is_none, err);
	close_both(&c);
	(void)sqlite3_vfs_unregister(&c.vfs);
	if (rc == KT_OK && !is_none) {
		*fd = c.part[DATABASE];
		c.part[DATABASE] = -1;
	}
	drop_parts(&c, DATABASE);
	return rc;
}

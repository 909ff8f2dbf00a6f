/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/vfs.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILES = 8, SECTOR = 512, NAME = 512 };

typedef struct bytes {
	uint8_t *data;
	size_t len, cap;
} bytes;

typedef struct file {
	char name[NAME]; /* "": this place is free */
	bool there;      /* the name, as the process sees it, and as it is on the disk */
	bool on_disk;
	bytes now; /* as the process sees it */
	bytes disk;
} file;

typedef enum change { WRITE, TRUNCATE, NAMED } change;

/* What was done and not synced. */
typedef struct pending {
	file *f;
	change kind;
	size_t at;
	bytes what;
} pending;

typedef struct handle {
	sqlite3_file base;
	file *f;
} handle;

static struct disk {
	file file[FILES];
	pending *list;
	size_t n, cap;
	size_t ops, calls, syncs;
	size_t stop_at, fail_at;
	int fail_rc;
	bool failed, stopped, lies;
} disk = {.stop_at = SIZE_MAX, .fail_at = SIZE_MAX};

/* --- bytes -------------------------------------------------------------------------------------------------------- */

static void set_length(bytes *b, size_t n)
{
	if (n > b->cap) {
		b->cap = 2 * n;
		b->data =
			reallocarray(b->data, b->cap, 1); /* not realloc: that one may be made to fail (allocfail.h) */
		if (!b->data)
			abort();
	}
	if (n > b->len)
		memset(b->data + b->len, 0, n - b->len);
	b->len = n;
}

static void put(bytes *b, size_t at, const uint8_t *from, size_t n)
{
	if (at + n > b->len)
		set_length(b, at + n);
	if (n)
		memcpy(b->data + at, from, n);
}

static void copy(bytes *to, const bytes *from)
{
	set_length(to, 0);
	put(to, 0, from->data, from->len);
}

/* --- what is pending ---------------------------------------------------------------------------------------------- */

static void remember(file *f, change kind, size_t at, const uint8_t *from, size_t n)
{
	if (disk.n == disk.cap) {
		disk.cap = disk.cap ? 2 * disk.cap : 64;
		disk.list = reallocarray(disk.list, disk.cap, sizeof *disk.list);
		if (!disk.list)
			abort();
	}
	pending *p = &disk.list[disk.n++];
	*p = (pending){.f = f, .kind = kind, .at = at};
	put(&p->what, 0, from, n);
}

static void drop(pending *p)
{
	free(p->what.data);
	p->what = (bytes){0};
}

/* Everything about this file is on the disk. */
static void make_durable(file *f)
{
	size_t kept = 0;
	for (size_t i = 0; i < disk.n; i++) {
		if (disk.list[i].f == f)
			drop(&disk.list[i]);
		else
			disk.list[kept++] = disk.list[i];
	}
	disk.n = kept;
	copy(&f->disk, &f->now);
	f->on_disk = f->there;
}

/* A write of which some bytes have come to the disk: all up to or from some place, some sectors, or any. The file is
 * as long as it would be with all of them; what has not come is what was there, or zeros. */
static void apply_torn(pending *p, sim_rng *r)
{
	bytes *b = &p->f->disk;
	size_t n = p->what.len;
	size_t how = sim_below(r, 5);
	size_t from = how == 1 ? sim_below(r, n + 1) : 0;
	size_t to = how == 0 ? sim_below(r, n + 1) : n;
	if (p->at + n > b->len && (how > 1 || sim_chance(r, 500)))
		set_length(b, p->at + n);
	for (size_t i = from; i < to; i++) {
		bool skip = how == 2   ? (sim_random(&(sim_rng){r->s + (p->at + i) / SECTOR}) & 1) != 0
			    : how == 3 ? sim_chance(r, 500)
				       : false;
		if (!skip)
			put(b, p->at + i, p->what.data + i, 1);
	}
}

static void apply(pending *p, sim_rng *r)
{
	file *f = p->f;
	if (p->kind == NAMED)
		f->on_disk = p->at != 0;
	else if (p->kind == TRUNCATE)
		set_length(&f->disk, p->at);
	else
		apply_torn(p, r);
}

static void shuffle(sim_rng *r)
{
	for (size_t i = disk.n; i > 1; i--) {
		size_t k = sim_below(r, i);
		pending p = disk.list[i - 1];
		disk.list[i - 1] = disk.list[k];
		disk.list[k] = p;
	}
}

static void restart(void)
{
	for (size_t i = 0; i < disk.n; i++)
		drop(&disk.list[i]);
	disk.n = 0;
	for (size_t i = 0; i < FILES; i++) {
		file *f = &disk.file[i];
		f->there = f->on_disk;
		if (!f->there)
			set_length(&f->disk, 0);
		copy(&f->now, &f->disk);
	}
	disk.stop_at = disk.fail_at = SIZE_MAX;
	disk.stopped = false;
}

void vfs_cut(sim_rng *r)
{
	/* From "nothing of it has come" to "all of it has". */
	unsigned come = (unsigned)sim_below(r, 5) * 250;
	if (sim_chance(r, 700))
		shuffle(r);
	for (size_t i = 0; i < disk.n; i++)
		if (sim_chance(r, come))
			apply(&disk.list[i], r);
	restart();
}

void vfs_settle(void)
{
	for (size_t i = 0; i < FILES; i++)
		make_durable(&disk.file[i]);
	restart();
}

/* --- the calls ---------------------------------------------------------------------------------------------------- */

/* A call that may fail; the code with which it does, or SQLITE_OK. */
static int call(bool changes, int rc_when_stopped)
{
	disk.stopped |= changes && disk.ops >= disk.stop_at;
	if (disk.stopped)
		return rc_when_stopped;
	disk.ops += changes;
	if (disk.calls++ != disk.fail_at)
		return SQLITE_OK;
	disk.failed = true;
	return disk.fail_rc;
}

static file *find(const char *name)
{
	for (size_t i = 0; i < FILES; i++)
		if (strcmp(disk.file[i].name, name) == 0)
			return &disk.file[i];
	for (size_t i = 0; i < FILES; i++) {
		if (disk.file[i].name[0])
			continue;
		(void)snprintf(disk.file[i].name, NAME, "%s", name);
		return &disk.file[i];
	}
	abort();
}

static int do_close(sqlite3_file *s)
{
	(void)s;
	return SQLITE_OK;
}

static int do_read(sqlite3_file *s, void *out, int n, sqlite3_int64 at)
{
	const bytes *b = &((handle *)s)->f->now;
	int rc = call(false, SQLITE_IOERR_READ);
	if (rc != SQLITE_OK)
		return rc == SQLITE_FULL ? SQLITE_IOERR_READ : rc;
	size_t have = (size_t)at < b->len ? b->len - (size_t)at : 0;
	size_t got = have < (size_t)n ? have : (size_t)n;
	if (got)
		memcpy(out, b->data + at, got);
	memset((uint8_t *)out + got, 0, (size_t)n - got);
	return got == (size_t)n ? SQLITE_OK : SQLITE_IOERR_SHORT_READ;
}

static void write_now(file *f, const void *from, size_t n, size_t at)
{
	put(&f->now, at, from, n);
	remember(f, WRITE, at, from, n);
}

static int do_write(sqlite3_file *s, const void *from, int n, sqlite3_int64 at)
{
	file *f = ((handle *)s)->f;
	int rc = call(true, SQLITE_IOERR_WRITE);
	if (rc != SQLITE_OK && !disk.stopped)
		write_now(f, from, (size_t)n / 2, (size_t)at);
	if (rc == SQLITE_OK)
		write_now(f, from, (size_t)n, (size_t)at);
	return rc;
}

static int do_truncate(sqlite3_file *s, sqlite3_int64 n)
{
	file *f = ((handle *)s)->f;
	int rc = call(true, SQLITE_IOERR_TRUNCATE);
	if (rc != SQLITE_OK)
		return rc;
	set_length(&f->now, (size_t)n);
	remember(f, TRUNCATE, (size_t)n, NULL, 0);
	return SQLITE_OK;
}

static int do_sync(sqlite3_file *s, int flags)
{
	(void)flags;
	int rc = call(true, SQLITE_IOERR_FSYNC);
	if (rc != SQLITE_OK)
		return rc;
	disk.syncs++;
	if (!disk.lies)
		make_durable(((handle *)s)->f);
	return SQLITE_OK;
}

static int do_size(sqlite3_file *s, sqlite3_int64 *out)
{
	int rc = call(false, SQLITE_IOERR_FSTAT);
	*out = (sqlite3_int64)((handle *)s)->f->now.len;
	return rc;
}

static int do_lock(sqlite3_file *s, int level)
{
	(void)s;
	(void)level;
	return SQLITE_OK;
}

static int do_check_lock(sqlite3_file *s, int *out)
{
	(void)s;
	*out = 0;
	return SQLITE_OK;
}

static int do_control(sqlite3_file *s, int op, void *arg)
{
	(void)s;
	(void)op;
	(void)arg;
	return SQLITE_NOTFOUND;
}

static int do_sector(sqlite3_file *s)
{
	(void)s;
	return SECTOR;
}

/* What SQLite's own VFS promises of any disk: a write that is torn harms no byte beside it. */
static int do_promises(sqlite3_file *s)
{
	(void)s;
	return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static const sqlite3_io_methods methods = {
	.iVersion = 1,
	.xClose = do_close,
	.xRead = do_read,
	.xWrite = do_write,
	.xTruncate = do_truncate,
	.xSync = do_sync,
	.xFileSize = do_size,
	.xLock = do_lock,
	.xUnlock = do_lock,
	.xCheckReservedLock = do_check_lock,
	.xFileControl = do_control,
	.xSectorSize = do_sector,
	.xDeviceCharacteristics = do_promises,
};

static int do_open(sqlite3_vfs *v, const char *name, sqlite3_file *s, int flags, int *out_flags)
{
	(void)v;
	handle *h = (handle *)s;
	h->base.pMethods = NULL;
	file *f = find(name ? name : "temp");
	bool makes = !f->there && (flags & SQLITE_OPEN_CREATE) != 0;
	int rc = call(makes, SQLITE_CANTOPEN);
	if (rc != SQLITE_OK)
		return SQLITE_CANTOPEN;
	if (!f->there && !makes && !(flags & SQLITE_OPEN_MAIN_DB))
		return SQLITE_CANTOPEN;
	if (flags & SQLITE_OPEN_MAIN_DB)
		f->on_disk = true;
	if (makes)
		remember(f, NAMED, 1, NULL, 0);
	f->there = true;
	h->f = f;
	h->base.pMethods = &methods;
	if (out_flags)
		*out_flags = flags;
	return SQLITE_OK;
}

static int do_delete(sqlite3_vfs *v, const char *name, int sync_dir)
{
	(void)v;
	file *f = find(name);
	int rc = call(true, SQLITE_IOERR_DELETE);
	if (rc != SQLITE_OK)
		return rc;
	if (!f->there)
		return SQLITE_IOERR_DELETE_NOENT;
	f->there = false;
	set_length(&f->now, 0);
	remember(f, NAMED, 0, NULL, 0);
	if (sync_dir)
		make_durable(f);
	return SQLITE_OK;
}

static int do_access(sqlite3_vfs *v, const char *name, int flags, int *out)
{
	(void)v;
	(void)flags;
	int rc = call(false, SQLITE_IOERR_ACCESS);
	const file *f = find(name);
	*out = f->there && (flags != SQLITE_ACCESS_EXISTS || f->now.len > 0);
	return rc;
}

static int do_full_path(sqlite3_vfs *v, const char *name, int n, char *out)
{
	char here[NAME / 2] = "";
	(void)v;
	if (name[0] != '/' && !getcwd(here, sizeof here))
		return SQLITE_CANTOPEN;
	return snprintf(out, (size_t)n, "%s%s%s", here, here[0] ? "/" : "", name) < n ? SQLITE_OK : SQLITE_CANTOPEN;
}

static int do_random(sqlite3_vfs *v, int n, char *out)
{
	(void)v;
	memset(out, 7, (size_t)n);
	return n;
}

static int do_sleep(sqlite3_vfs *v, int us)
{
	(void)v;
	return us;
}

static int do_time(sqlite3_vfs *v, double *out)
{
	(void)v;
	*out = 2460000.5;
	return SQLITE_OK;
}

static int do_last_error(sqlite3_vfs *v, int n, char *out)
{
	(void)v;
	(void)n;
	(void)out;
	return 0;
}

bool vfs_register(void)
{
	static sqlite3_vfs vfs = {
		.iVersion = 1,
		.szOsFile = sizeof(handle),
		.mxPathname = NAME - 1,
		.zName = "sim",
		.xOpen = do_open,
		.xDelete = do_delete,
		.xAccess = do_access,
		.xFullPathname = do_full_path,
		.xRandomness = do_random,
		.xSleep = do_sleep,
		.xCurrentTime = do_time,
		.xGetLastError = do_last_error,
	};
	return sqlite3_vfs_register(&vfs, 1) == SQLITE_OK;
}

bool vfs_use_real(void)
{
	return sqlite3_vfs_register(sqlite3_vfs_find("unix"), 1) == SQLITE_OK;
}

/* --- for the tests ------------------------------------------------------------------------------------------------ */

void vfs_reset(void)
{
	for (size_t i = 0; i < FILES; i++) {
		file *f = &disk.file[i];
		f->name[0] = '\0';
		f->there = f->on_disk = false;
		set_length(&f->now, 0);
		set_length(&f->disk, 0);
	}
	restart();
	disk.ops = disk.calls = disk.syncs = 0;
	disk.failed = disk.lies = false;
}

void vfs_lie(bool lies)
{
	disk.lies = lies;
}

size_t vfs_ops(void)
{
	return disk.ops;
}

size_t vfs_calls(void)
{
	return disk.calls;
}

size_t vfs_syncs(void)
{
	return disk.syncs;
}

void vfs_stop_after(size_t ops)
{
	disk.stop_at = ops == SIZE_MAX ? SIZE_MAX : disk.ops + ops;
}

bool vfs_stopped(void)
{
	return disk.stopped;
}

void vfs_fail_at(size_t calls, int rc)
{
	disk.fail_at = calls == SIZE_MAX ? SIZE_MAX : disk.calls + calls;
	disk.fail_rc = rc;
	disk.failed = false;
}

bool vfs_failed(void)
{
	return disk.failed;
}

bool vfs_get(const char *path, const uint8_t **data, size_t *n)
{
	char full[NAME];
	(void)do_full_path(NULL, path, NAME, full);
	const file *f = find(full);
	*data = f->now.data;
	*n = f->now.len;
	return f->there;
}

void vfs_put(const char *path, const uint8_t *data, size_t n)
{
	char full[NAME];
	(void)do_full_path(NULL, path, NAME, full);
	file *f = find(full);
	f->there = data != NULL;
	set_length(&f->now, 0);
	put(&f->now, 0, data, data ? n : 0);
	make_durable(f);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUCKETS = 512, CHUNK = 128 * 1024, SMALLEST = 256, PATH_TEXT = 4096 };

typedef struct sim_node sim_node;
typedef struct sim_name sim_name;
typedef struct sim_change sim_change;

/* Bytes from `len` to `size` are zero and have no memory. */
typedef struct content {
	uint8_t *bytes;
	size_t len, cap, size;
} content;

/* A file or a folder. */
struct sim_node {
	bool folder;
	bool dirty;       /* `now` differs from what is durable, which is `synced` */
	unsigned holders; /* names, durable names, changes and descriptors that hold it; without any it is used again */
	unsigned links;   /* names that lead to it now */
	unsigned opens;
	ino_t number;
	mode_t mode;
	uid_t uid;
	gid_t gid;
	content now, synced;
	size_t blocks;
	uint64_t counted; /* the last power cut after which its blocks were counted */
	unsigned shared;  /* flocks */
	bool exclusive;
	sim_change *first, **last; /* of a folder: what happened to its names since its last fsync, in order */
	sim_node *next;            /* unused ones */
};

/* A path that was ever used, and what it leads to; NULL: nothing. */
struct sim_name {
	uint64_t hash;
	size_t len;
	const char *path;
	sim_name *up; /* the folder's name; NULL: this is the root */
	sim_node *now, *durable;
	bool stuck; /* during a power cut: an earlier change of it was lost */
	sim_name *next_in_bucket;
	sim_name *next; /* in the order of making: folders before what is in them */
};

/* `to` leads to `node` (NULL: to nothing) and `from`, if any, to nothing. */
struct sim_change {
	sim_change *next;
	sim_name *from, *to;
	sim_node *node;
};

typedef struct chunk {
	struct chunk *next;
	size_t size, used;
	max_align_t room[];
} chunk;

struct sim_disk {
	sim_name *bucket[BUCKETS];
	sim_name *root, **last_name;
	sim_node *unused_nodes;
	sim_change *unused_changes;
	chunk *chunks, *at; /* all, and the one that is being filled */
	ino_t numbers;
	uint64_t cuts;
	size_t blocks, limit; /* in blocks */
	uint64_t ops, calls;
	uint64_t die_at, fail_at, fail_call_at; /* counts at which it happens */
	int fail_error, fail_call_error;
	bool dead;
	size_t open_files;
};

/* An open file; `disk` is NULL while the number is free. */
typedef struct open_file {
	sim_disk *disk;
	sim_node *node;
	sim_name *name;
	size_t at;
	int flags;
	int lock;  /* LOCK_SH, LOCK_EX or 0 */
	int after; /* the next free one */
} open_file;

/* Asked for with every file: no system call for those of a disk. */
uid_t __real_geteuid(void);
uid_t __wrap_geteuid(void);
gid_t __real_getegid(void);
gid_t __wrap_getegid(void);

static _Thread_local sim_disk *current;
static _Thread_local open_file files[SIM_DISK_OPEN_MAX];
static _Thread_local int files_used; /* numbers from here on were never used */
static _Thread_local int files_free = -1;

/* A folder that is being read; what is there is what is found when its turn comes. */
typedef struct listing {
	const sim_name *folder; /* NULL: free */
	const sim_name *next;
	struct dirent entry;
} listing;
static _Thread_local listing listings[4];

/* --- Memory: taken in chunks, given back all at once ----------------------------------------------------------------
 */

static void *take(sim_disk *d, size_t n)
{
	n = (n + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
	while (d->at && d->at->size - d->at->used < n)
		d->at = d->at->next;
	if (!d->at) {
		size_t size = n > CHUNK ? n : CHUNK;
		chunk *c = malloc(sizeof *c + size);
		if (!c)
			abort();
		*c = (chunk){.next = d->chunks, .size = size};
		d->chunks = d->at = c;
	}
	uint8_t *p = (uint8_t *)d->at->room + d->at->used;
	d->at->used += n;
	return p;
}

static void grow(sim_disk *d, content *c, size_t n)
{
	if (n <= c->cap)
		return;
	size_t cap = c->cap ? c->cap : SMALLEST;
	while (cap < n)
		cap *= 2;
	uint8_t *bytes = take(d, cap);
	if (c->len)
		memcpy(bytes, c->bytes, c->len);
	c->bytes = bytes;
	c->cap = cap;
}

static void copy_content(sim_disk *d, content *to, const content *from)
{
	grow(d, to, from->len);
	if (from->len)
		memcpy(to->bytes, from->bytes, from->len);
	to->len = from->len;
	to->size = from->size;
}

static uint8_t byte_at(const content *c, size_t at)
{
	return at < c->len ? c->bytes[at] : 0;
}

/* --- Nodes ----------------------------------------------------------------------------------------------------------
 */

static sim_node *new_node(sim_disk *d, bool folder, mode_t mode)
{
	static _Thread_local uid_t uid;
	static _Thread_local gid_t gid;
	static _Thread_local bool known;
	if (!known) {
		uid = __real_geteuid();
		gid = __real_getegid();
		known = true;
	}
	sim_node *n = d->unused_nodes;
	content now = {0};
	content synced = {0};
	if (n) {
		d->unused_nodes = n->next;
		now = (content){.bytes = n->now.bytes, .cap = n->now.cap};
		synced = (content){.bytes = n->synced.bytes, .cap = n->synced.cap};
	} else {
		n = take(d, sizeof *n);
	}
	*n = (sim_node){.folder = folder,
			.number = ++d->numbers,
			.mode = mode & 07777,
			.uid = uid,
			.gid = gid,
			.now = now,
			.synced = synced,
			.blocks = folder ? 1 : 0};
	n->last = &n->first;
	d->blocks += n->blocks;
	return n;
}

static void hold(sim_node *n)
{
	if (n)
		n->holders++;
}

static void let_go(sim_disk *d, sim_node *n)
{
	if (!n || --n->holders)
		return;
	n->next = d->unused_nodes;
	d->unused_nodes = n;
}

/* Nobody can reach it any more: its blocks are free, though after a power cut it may be back. */
static void free_blocks(sim_disk *d, sim_node *n)
{
	if (n->links || n->opens)
		return;
	d->blocks -= n->blocks;
	n->blocks = 0;
}

static size_t blocks_of(size_t bytes)
{
	return (bytes + SIM_DISK_BLOCK - 1) / SIM_DISK_BLOCK;
}

/* As many of `bytes` as there is room for. */
static size_t set_aside(sim_disk *d, sim_node *n, size_t bytes)
{
	size_t want = blocks_of(bytes);
	if (want <= n->blocks)
		return bytes;
	size_t room = d->limit > d->blocks ? d->limit - d->blocks : 0;
	size_t more = want - n->blocks <= room ? want - n->blocks : room;
	n->blocks += more;
	d->blocks += more;
	return n->blocks >= want ? bytes : n->blocks * SIM_DISK_BLOCK;
}

/* Before its content changes: what is durable is remembered. */
static void touch(sim_disk *d, sim_node *n)
{
	if (n->dirty)
		return;
	copy_content(d, &n->synced, &n->now);
	n->dirty = true;
}

/* --- Names ----------------------------------------------------------------------------------------------------------
 */

static uint64_t hash_of(const char *path, size_t len)
{
	uint64_t h = len * UINT64_C(0x9e3779b97f4a7c15);
	for (; len >= 8; path += 8, len -= 8) {
		uint64_t w;
		memcpy(&w, path, 8);
		h = (h ^ w) * UINT64_C(0xff51afd7ed558ccd);
		h ^= h >> 32;
	}
	uint64_t w = 0;
	memcpy(&w, path, len);
	h = (h ^ w) * UINT64_C(0xff51afd7ed558ccd);
	return h ^ (h >> 29);
}

static sim_name *find_name(const sim_disk *d, const char *path, size_t len)
{
	uint64_t h = hash_of(path, len);
	for (sim_name *n = d->bucket[h % BUCKETS]; n; n = n->next_in_bucket)
		if (n->hash == h && n->len == len && memcmp(n->path, path, len) == 0)
			return n;
	return NULL;
}

/* The name, made when it was never used; its folders, too. */
static sim_name *name_of(sim_disk *d, const char *path, size_t len)
{
	sim_name *n = find_name(d, path, len);
	if (n)
		return n;
	const char *slash = memrchr(path, '/', len);
	sim_name *up = d->root && slash && slash != path ? name_of(d, path, (size_t)(slash - path)) : NULL;
	char *text = take(d, len + 1);
	memcpy(text, path, len);
	text[len] = '\0';
	n = take(d, sizeof *n);
	*n = (sim_name){.hash = hash_of(path, len), .len = len, .path = text, .up = up};
	n->next_in_bucket = d->bucket[n->hash % BUCKETS];
	d->bucket[n->hash % BUCKETS] = n;
	*d->last_name = n;
	d->last_name = &n->next;
	return n;
}

static void lead_to(sim_disk *d, sim_name *name, sim_node *to)
{
	sim_node *was = name->now;
	hold(to);
	if (to)
		to->links++;
	name->now = to;
	if (!was)
		return;
	was->links--;
	free_blocks(d, was);
	let_go(d, was);
}

static void make_durable(sim_disk *d, sim_name *name, sim_node *to)
{
	sim_node *was = name->durable;
	hold(to);
	name->durable = to;
	let_go(d, was);
}

/* Carry out a change of names; it is durable once the folder is synced. */
static void change_names(sim_disk *d, sim_name *from, sim_name *to, sim_node *node)
{
	sim_change *c = d->unused_changes;
	if (c)
		d->unused_changes = c->next;
	else
		c = take(d, sizeof *c);
	*c = (sim_change){.from = from, .to = to, .node = node};
	hold(node);
	sim_node *folder = to->up->now;
	*folder->last = c;
	folder->last = &c->next;
	lead_to(d, to, node);
	if (from)
		lead_to(d, from, NULL);
}

/* All changes of a folder's names, each durable when `keep` says so and no earlier one of its names was lost. */
static void settle_names(sim_disk *d, sim_node *folder, bool (*keep)(void *arg), void *arg)
{
	for (sim_change *c = folder->first; c; c = c->next) {
		bool kept = !c->to->stuck && !(c->from && c->from->stuck) && (!keep || keep(arg));
		if (kept) {
			make_durable(d, c->to, c->node);
			if (c->from)
				make_durable(d, c->from, NULL);
			continue;
		}
		c->to->stuck = true;
		if (c->from)
			c->from->stuck = true;
	}
	for (sim_change *c = folder->first, *next; c; c = next) {
		next = c->next;
		c->to->stuck = false;
		if (c->from)
			c->from->stuck = false;
		let_go(d, c->node);
		c->next = d->unused_changes;
		d->unused_changes = c;
	}
	folder->first = NULL;
	folder->last = &folder->first;
}

/* --- The disk -------------------------------------------------------------------------------------------------------
 */

static const char root_path[] = "/sim";

static void calm(sim_disk *d)
{
	d->dead = false;
	d->die_at = d->fail_at = d->fail_call_at = UINT64_MAX;
}

static void make_root(sim_disk *d)
{
	d->last_name = &d->root;
	sim_name *root = name_of(d, root_path, sizeof root_path - 1);
	d->limit = SIZE_MAX / SIM_DISK_BLOCK;
	lead_to(d, root, new_node(d, true, 0755));
	make_durable(d, root, root->now);
	calm(d);
}

sim_disk *sim_disk_new(void)
{
	sim_disk *d = calloc(1, sizeof *d);
	if (!d)
		abort();
	make_root(d);
	return d;
}

static void close_all(sim_disk *d);

void sim_disk_reset(sim_disk *d)
{
	close_all(d);
	chunk *chunks = d->chunks;
	for (chunk *c = chunks; c; c = c->next)
		c->used = 0;
	*d = (sim_disk){.chunks = chunks, .at = chunks};
	make_root(d);
}

void sim_disk_free(sim_disk *d)
{
	if (!d)
		return;
	close_all(d);
	if (current == d)
		current = NULL;
	for (chunk *c = d->chunks, *next; c; c = next) {
		next = c->next;
		free(c);
	}
	free(d);
}

void sim_disk_use(sim_disk *d)
{
	current = d;
}

void sim_disk_limit(sim_disk *d, size_t bytes)
{
	d->limit = bytes / SIM_DISK_BLOCK;
}

size_t sim_disk_used(const sim_disk *d)
{
	return d->blocks * SIM_DISK_BLOCK;
}

/* `more` after `count`, without running over. */
static uint64_t later(uint64_t count, uint64_t more)
{
	return more > UINT64_MAX - count ? UINT64_MAX : count + more;
}

void sim_disk_die_after(sim_disk *d, uint64_t ops)
{
	d->die_at = later(d->ops, ops);
}

bool sim_disk_dead(const sim_disk *d)
{
	return d->dead;
}

void sim_disk_fail_at(sim_disk *d, uint64_t ops, int error)
{
	d->fail_at = later(d->ops, ops);
	d->fail_error = error;
}

void sim_disk_fail_call_at(sim_disk *d, uint64_t calls, int error)
{
	d->fail_call_at = later(d->calls, calls);
	d->fail_call_error = error;
}

uint64_t sim_disk_ops(const sim_disk *d)
{
	return d->ops;
}

uint64_t sim_disk_calls(const sim_disk *d)
{
	return d->calls;
}

size_t sim_disk_open_files(const sim_disk *d)
{
	return d->open_files;
}

/* Any call begins: 0, or the errno with which it fails. */
static int enter(sim_disk *d)
{
	if (d->dead)
		return EIO;
	return d->calls++ == d->fail_call_at ? d->fail_call_error : 0;
}

/* It is about to change something: 0, or the errno with which it fails instead. */
static int mutate(sim_disk *d)
{
	if (d->ops == d->die_at && d->die_at != UINT64_MAX) {
		d->dead = true;
		return EIO;
	}
	return d->ops++ == d->fail_at ? d->fail_error : 0;
}

/* --- Descriptors ----------------------------------------------------------------------------------------------------
 */

static open_file *file_of(int fd)
{
	if (fd < SIM_DISK_FD || fd >= SIM_DISK_FD + files_used || !files[fd - SIM_DISK_FD].disk)
		return NULL;
	return &files[fd - SIM_DISK_FD];
}

/* -EMFILE, or the descriptor. */
static int open_node(sim_disk *d, sim_name *name, int flags)
{
	int i = files_free;
	if (i >= 0)
		files_free = files[i].after;
	else if (files_used < SIM_DISK_OPEN_MAX)
		i = files_used++;
	else
		return -EMFILE;
	files[i] = (open_file){.disk = d, .node = name->now, .name = name, .flags = flags};
	hold(name->now);
	name->now->opens++;
	d->open_files++;
	return SIM_DISK_FD + i;
}

static void unlock_file(open_file *f)
{
	if (f->lock == LOCK_EX)
		f->node->exclusive = false;
	if (f->lock == LOCK_SH)
		f->node->shared--;
	f->lock = 0;
}

static void close_file(open_file *f)
{
	sim_disk *d = f->disk;
	unlock_file(f);
	f->node->opens--;
	d->open_files--;
	free_blocks(d, f->node);
	let_go(d, f->node);
	*f = (open_file){.after = files_free};
	files_free = (int)(f - files);
}

static void close_all(sim_disk *d)
{
	for (int i = 0; d->open_files && i < files_used; i++)
		if (files[i].disk == d)
			close_file(&files[i]);
}

/* --- What happens to it ---------------------------------------------------------------------------------------------
 */

void sim_disk_process_end(sim_disk *d)
{
	close_all(d);
	calm(d);
}

typedef struct dice {
	uint64_t (*roll)(void *arg);
	void *arg;
} dice;

static size_t below(dice *r, size_t n)
{
	return (size_t)(r->roll(r->arg) % n);
}

static bool heads(void *arg)
{
	return below(arg, 2);
}

/* What is left of a file that was not synced. */
static void tear(sim_disk *d, sim_node *n, dice *r)
{
	size_t was = n->synced.size;
	size_t is = n->now.size;
	size_t low = was < is ? was : is;
	size_t high = was < is ? is : was;
	size_t pick = below(r, 4);
	size_t size = pick == 0 ? was : pick == 1 ? is : low + below(r, high - low + 1);
	size_t longest = n->now.len > n->synced.len ? n->now.len : n->synced.len;
	size_t len = size < longest ? size : longest;
	content left = {.size = size};
	grow(d, &left, len);
	for (size_t at = 0; at < len; at++) {
		if (at % SIM_DISK_SECTOR == 0)
			pick = below(r, 2);
		left.bytes[at] = byte_at(pick ? &n->now : &n->synced, at);
	}
	left.len = len;
	n->now = left;
	n->blocks = blocks_of(size);
	n->dirty = false;
}

void sim_disk_power_cut(sim_disk *d, uint64_t (*roll)(void *), void *arg)
{
	dice r = {roll, arg};
	sim_disk_process_end(d);
	for (sim_name *n = d->root; n; n = n->next)
		if (n->now && n->now->folder)
			settle_names(d, n->now, heads, &r);
	for (sim_name *n = d->root; n; n = n->next) {
		if (n->up && !n->up->now)
			make_durable(d, n, NULL);
		lead_to(d, n, n->durable);
	}
	d->blocks = 0;
	d->cuts++;
	for (sim_name *n = d->root; n; n = n->next) {
		if (!n->now || n->now->counted == d->cuts)
			continue;
		n->now->counted = d->cuts;
		if (n->now->dirty)
			tear(d, n->now, &r);
		n->now->blocks = n->now->blocks ? n->now->blocks : blocks_of(n->now->now.size);
		d->blocks += n->now->blocks;
	}
}

/* --- The calls ------------------------------------------------------------------------------------------------------
 */

static int fails(int error)
{
	errno = error;
	return -1;
}

static bool ours(const char *path)
{
	const char *p = path;
	for (const char *r = root_path; current && *r && *p == *r; r++)
		p++;
	return p == path + sizeof root_path - 1 && (*p == '/' || *p == '\0');
}

/* A name whose folder is there: 0, or the errno. */
static int reach(sim_disk *d, const char *path, sim_name **out)
{
	size_t len = strlen(path);
	if (len >= PATH_TEXT)
		return ENAMETOOLONG;
	*out = name_of(d, path, len);
	if ((*out)->now || !(*out)->up)
		return 0;
	const sim_name *up = (*out)->up;
	for (; !up->now; up = up->up)
		if (up->up->now)
			return up->up->now->folder ? ENOENT : ENOTDIR;
	return up->now->folder ? 0 : ENOTDIR;
}

/* A name that leads to something: 0, or the errno. */
static int look_up(sim_disk *d, const char *path, sim_name **out)
{
	int e = enter(d);
	if (e)
		return e;
	e = reach(d, path, out);
	return e ? e : (*out)->now ? 0 : ENOENT;
}

static int open_new(sim_disk *d, sim_name *name, mode_t mode)
{
	int e = mutate(d);
	if (e)
		return e;
	change_names(d, NULL, name, new_node(d, false, mode));
	return 0;
}

static int empty_file(sim_disk *d, sim_node *n)
{
	int e = mutate(d);
	if (e)
		return e;
	touch(d, n);
	n->now.len = n->now.size = 0;
	d->blocks -= n->blocks;
	n->blocks = 0;
	return 0;
}

static int sim_open(const char *path, int flags, mode_t mode)
{
	sim_disk *d = current;
	sim_name *name;
	int e = enter(d);
	if (!e)
		e = reach(d, path, &name);
	if (e)
		return fails(e);
	bool writes = (flags & O_ACCMODE) != O_RDONLY;
	if (!name->now && !(flags & O_CREAT))
		return fails(ENOENT);
	if (name->now && (flags & O_CREAT) && (flags & O_EXCL))
		return fails(EEXIST);
	if (name->now && (flags & O_DIRECTORY) && !name->now->folder)
		return fails(ENOTDIR);
	if (name->now && name->now->folder && (writes || (flags & O_CREAT)))
		return fails(EISDIR);
	if (!name->now)
		e = open_new(d, name, mode);
	else if ((flags & O_TRUNC) && writes && (name->now->now.size || name->now->blocks))
		e = empty_file(d, name->now);
	if (e)
		return fails(e);
	int fd = open_node(d, name, flags);
	return fd < 0 ? fails(-fd) : fd;
}

static ssize_t sim_pread(open_file *f, void *out, size_t n, size_t at)
{
	int e = enter(f->disk);
	if (!e && f->node->folder)
		e = EISDIR;
	if (!e && (f->flags & O_ACCMODE) == O_WRONLY)
		e = EBADF;
	if (e)
		return fails(e);
	const content *c = &f->node->now;
	if (at >= c->size)
		return 0;
	n = n < c->size - at ? n : c->size - at;
	size_t have = at < c->len ? c->len - at : 0;
	have = have < n ? have : n;
	if (have)
		memcpy(out, c->bytes + at, have);
	memset((uint8_t *)out + have, 0, n - have);
	return (ssize_t)n;
}

static ssize_t sim_pwrite(open_file *f, const void *from, size_t n, size_t at)
{
	int e = enter(f->disk);
	if (!e && (f->flags & O_ACCMODE) == O_RDONLY)
		e = EBADF;
	if (!e && n)
		e = mutate(f->disk);
	if (e)
		return fails(e);
	if (!n)
		return 0;
	content *c = &f->node->now;
	size_t end = set_aside(f->disk, f->node, at + n);
	if (end <= at)
		return fails(ENOSPC);
	n = end - at;
	touch(f->disk, f->node);
	grow(f->disk, c, end);
	if (at > c->len)
		memset(c->bytes + c->len, 0, at - c->len);
	memcpy(c->bytes + at, from, n);
	c->len = c->len > end ? c->len : end;
	c->size = c->size > end ? c->size : end;
	return (ssize_t)n;
}

static ssize_t sim_write(open_file *f, const void *from, size_t n)
{
	size_t at = f->flags & O_APPEND ? f->node->now.size : f->at;
	ssize_t w = sim_pwrite(f, from, n, at);
	if (w > 0)
		f->at = at + (size_t)w;
	return w;
}

static int sim_mkdir(const char *path, mode_t mode)
{
	sim_disk *d = current;
	sim_name *name;
	int e = enter(d);
	if (!e)
		e = reach(d, path, &name);
	if (!e && name->now)
		e = EEXIST;
	if (!e)
		e = mutate(d);
	if (!e && d->blocks >= d->limit)
		e = ENOSPC;
	if (e)
		return fails(e);
	change_names(d, NULL, name, new_node(d, true, mode));
	return 0;
}

static int sim_rename(const char *from, const char *to, bool replace)
{
	sim_disk *d = current;
	sim_name *a;
	sim_name *b;
	int e = look_up(d, from, &a);
	if (!e)
		e = reach(d, to, &b);
	if (!e && a->now->folder)
		e = EINVAL;
	if (!e && a->up != b->up)
		e = EXDEV;
	if (!e && b->now && !replace)
		e = EEXIST;
	if (!e && b->now && b->now->folder)
		e = EISDIR;
	if (!e && a->now != b->now)
		e = mutate(d);
	if (e)
		return fails(e);
	if (a->now != b->now)
		change_names(d, a, b, a->now);
	return 0;
}

static int sim_link(const char *from, const char *to)
{
	sim_disk *d = current;
	sim_name *a;
	sim_name *b;
	int e = look_up(d, from, &a);
	if (!e)
		e = reach(d, to, &b);
	if (!e && a->now->folder)
		e = EPERM;
	if (!e && b->now)
		e = EEXIST;
	if (!e)
		e = mutate(d);
	if (e)
		return fails(e);
	change_names(d, NULL, b, a->now);
	return 0;
}

static int sim_unlink(const char *path)
{
	sim_disk *d = current;
	sim_name *name;
	int e = look_up(d, path, &name);
	if (!e && name->now->folder)
		e = EISDIR;
	if (!e)
		e = mutate(d);
	if (e)
		return fails(e);
	change_names(d, NULL, name, NULL);
	return 0;
}

static void describe(const sim_node *n, struct stat *st)
{
	*st = (struct stat){.st_dev = 1,
			    .st_ino = n->number,
			    .st_mode = (n->folder ? S_IFDIR : S_IFREG) | n->mode,
			    .st_nlink = n->links,
			    .st_uid = n->uid,
			    .st_gid = n->gid,
			    .st_size = (off_t)n->now.size,
			    .st_blksize = SIM_DISK_BLOCK,
			    .st_blocks = (blkcnt_t)(n->blocks * (SIM_DISK_BLOCK / 512))};
}

static int sim_stat(const char *path, struct stat *st)
{
	sim_name *name;
	int e = look_up(current, path, &name);
	if (e)
		return fails(e);
	describe(name->now, st);
	return 0;
}

static int sim_fstat(open_file *f, struct stat *st)
{
	int e = enter(f->disk);
	if (e)
		return fails(e);
	describe(f->node, st);
	return 0;
}

static listing *listing_of(DIR *d)
{
	for (size_t i = 0; i < sizeof listings / sizeof listings[0]; i++)
		if ((void *)d == &listings[i])
			return &listings[i];
	return NULL;
}

static DIR *sim_opendir(const char *path)
{
	sim_name *name;
	int e = look_up(current, path, &name);
	if (e || !name->now->folder) {
		errno = e ? e : ENOTDIR;
		return NULL;
	}
	for (size_t i = 0; i < sizeof listings / sizeof listings[0]; i++) {
		if (listings[i].folder)
			continue;
		listings[i].folder = name;
		listings[i].next = name->next; /* what is in it was named after it */
		return (void *)&listings[i];
	}
	errno = EMFILE;
	return NULL;
}

static struct dirent *sim_readdir(listing *l)
{
	const sim_name *n = l->next;
	while (n && (n->up != l->folder || !n->now))
		n = n->next;
	l->next = n ? n->next : NULL;
	if (!n)
		return NULL;
	(void)snprintf(l->entry.d_name, sizeof l->entry.d_name, "%s", n->path + l->folder->len + 1);
	return &l->entry;
}

static int sim_access(const char *path)
{
	sim_name *name;
	int e = look_up(current, path, &name);
	return e ? fails(e) : 0;
}

static int sim_truncate(open_file *f, size_t size)
{
	int e = enter(f->disk);
	if (!e && (f->node->folder || (f->flags & O_ACCMODE) == O_RDONLY))
		e = EINVAL;
	if (!e)
		e = mutate(f->disk);
	if (e)
		return fails(e);
	touch(f->disk, f->node);
	content *c = &f->node->now;
	if (size < c->size) {
		size_t keep = blocks_of(size);
		size_t blocks = f->node->blocks;
		f->node->blocks = keep < blocks ? keep : blocks;
		f->disk->blocks -= blocks - f->node->blocks;
	}
	c->len = c->len < size ? c->len : size;
	c->size = size;
	return 0;
}

/* posix_fallocate: the errno is returned. */
static int sim_fallocate(open_file *f, size_t end)
{
	int e = enter(f->disk);
	if (!e && (f->node->folder || (f->flags & O_ACCMODE) == O_RDONLY))
		e = EBADF;
	if (!e)
		e = mutate(f->disk);
	if (e)
		return e;
	size_t room = f->disk->limit > f->disk->blocks ? f->disk->limit - f->disk->blocks : 0;
	if (blocks_of(end) > f->node->blocks && blocks_of(end) - f->node->blocks > room)
		return ENOSPC;
	(void)set_aside(f->disk, f->node, end);
	touch(f->disk, f->node);
	if (end > f->node->now.size)
		f->node->now.size = end;
	return 0;
}

static int sim_sync(open_file *f)
{
	int e = enter(f->disk);
	if (!e)
		e = mutate(f->disk);
	if (e)
		return fails(e);
	if (f->node->folder)
		settle_names(f->disk, f->node, NULL, NULL);
	else
		f->node->dirty = false;
	return 0;
}

static int sim_flock(open_file *f, int how)
{
	int e = enter(f->disk);
	if (e)
		return fails(e);
	int want = how & (LOCK_SH | LOCK_EX);
	int had = f->lock;
	unlock_file(f);
	if (!want)
		return 0;
	sim_node *n = f->node;
	if (n->exclusive || (want == LOCK_EX && n->shared)) {
		if (had == LOCK_SH)
			n->shared++;
		f->lock = had == LOCK_SH ? LOCK_SH : 0;
		return fails(how & LOCK_NB ? EWOULDBLOCK : EDEADLK);
	}
	n->exclusive = want == LOCK_EX;
	n->shared += want == LOCK_SH;
	f->lock = want;
	return 0;
}

static int sim_chmod(open_file *f, mode_t mode)
{
	int e = enter(f->disk);
	if (!e)
		e = mutate(f->disk);
	if (e)
		return fails(e);
	f->node->mode = mode & 07777;
	return 0;
}

static int sim_chown(open_file *f, uid_t uid, gid_t gid)
{
	int e = enter(f->disk);
	if (!e)
		e = mutate(f->disk);
	if (e)
		return fails(e);
	f->node->uid = uid == (uid_t)-1 ? f->node->uid : uid;
	f->node->gid = gid == (gid_t)-1 ? f->node->gid : gid;
	return 0;
}

/* The first of 10^6 names that is free: the same names again and again, so that few are ever made. */
static int sim_mkostemp(char *template, int flags)
{
	size_t len = strlen(template);
	char *digits = template + len - 6;
	if (len < 6)
		return fails(EINVAL);
	memcpy(digits, "000000", 6);
	for (unsigned i = 0; i < 1000000; i++) {
		int fd = sim_open(template, O_RDWR | O_CREAT | O_EXCL | flags, 0600);
		if (fd >= 0 || errno != EEXIST)
			return fd;
		size_t at = 5;
		while (at && digits[at] == '9')
			digits[at--] = '0';
		digits[at]++;
	}
	return fails(EEXIST);
}

/* --- Behind the linker's --wrap -------------------------------------------------------------------------------------
 */

/* clang-format off */
#define WRAP(type, name, ...)                                                                                          \
	type __real_##name(__VA_ARGS__);                                                                               \
	type __wrap_##name(__VA_ARGS__);                                                                               \
	type __wrap_##name(__VA_ARGS__)
/* clang-format on */

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __real_openat(int at, const char *path, int flags, ...);
int __wrap_openat(int at, const char *path, int flags, ...);

#define MODE_OF(flags, mode)                                                                                           \
	do {                                                                                                           \
		va_list ap;                                                                                            \
		va_start(ap, flags);                                                                                   \
		(mode) = ((flags)&O_CREAT) || ((flags)&O_TMPFILE) == O_TMPFILE ? va_arg(ap, mode_t) : 0;               \
		va_end(ap);                                                                                            \
	} while (0)

int __wrap_open(const char *path, int flags, ...)
{
	mode_t mode;
	MODE_OF(flags, mode);
	return ours(path) ? sim_open(path, flags, mode) : __real_open(path, flags, mode);
}

/* The path below the folder of `at`, in `joined` when it has to be put together; NULL with errno: no such folder. */
static const char *path_at(int at, const char *path, char joined[PATH_TEXT])
{
	const open_file *f = path[0] == '/' ? NULL : file_of(at);
	if (!f)
		return path;
	if ((size_t)snprintf(joined, PATH_TEXT, "%s/%s", f->name->path, path) >= PATH_TEXT) {
		errno = ENAMETOOLONG;
		return NULL;
	}
	return joined;
}

int __wrap_openat(int at, const char *path, int flags, ...)
{
	mode_t mode;
	char joined[PATH_TEXT];
	MODE_OF(flags, mode);
	const char *full = path_at(at, path, joined);
	if (!full)
		return -1;
	return ours(full) ? sim_open(full, flags, mode) : __real_openat(at, path, flags, mode);
}

/* What _FORTIFY_SOURCE makes of open() without a mode. */
WRAP(int, __open_2, const char *path, int flags)
{
	return ours(path) ? sim_open(path, flags, 0) : __real___open_2(path, flags);
}

WRAP(int, close, int fd)
{
	open_file *f = file_of(fd);
	if (!f)
		return __real_close(fd);
	close_file(f);
	return 0;
}

WRAP(ssize_t, read, int fd, void *out, size_t n)
{
	open_file *f = file_of(fd);
	if (!f)
		return __real_read(fd, out, n);
	ssize_t got = sim_pread(f, out, n, f->at);
	if (got > 0)
		f->at += (size_t)got;
	return got;
}

WRAP(ssize_t, __read_chk, int fd, void *out, size_t n, size_t size)
{
	return file_of(fd) && n <= size ? __wrap_read(fd, out, n) : __real___read_chk(fd, out, n, size);
}

WRAP(ssize_t, pread, int fd, void *out, size_t n, off_t at)
{
	open_file *f = file_of(fd);
	return f ? sim_pread(f, out, n, (size_t)at) : __real_pread(fd, out, n, at);
}

WRAP(ssize_t, __pread_chk, int fd, void *out, size_t n, off_t at, size_t size)
{
	return file_of(fd) && n <= size ? __wrap_pread(fd, out, n, at) : __real___pread_chk(fd, out, n, at, size);
}

WRAP(ssize_t, write, int fd, const void *from, size_t n)
{
	open_file *f = file_of(fd);
	return f ? sim_write(f, from, n) : __real_write(fd, from, n);
}

WRAP(ssize_t, pwrite, int fd, const void *from, size_t n, off_t at)
{
	open_file *f = file_of(fd);
	return f ? sim_pwrite(f, from, n, (size_t)at) : __real_pwrite(fd, from, n, at);
}

WRAP(int, mkdir, const char *path, mode_t mode)
{
	return ours(path) ? sim_mkdir(path, mode) : __real_mkdir(path, mode);
}

WRAP(int, rename, const char *from, const char *to)
{
	return ours(from) ? sim_rename(from, to, true) : __real_rename(from, to);
}

WRAP(int, renameat2, int at, const char *from, int to_at, const char *to, unsigned flags)
{
	char a[PATH_TEXT];
	char b[PATH_TEXT];
	const char *full = path_at(at, from, a);
	const char *target = path_at(to_at, to, b);
	if (!full || !target)
		return -1;
	if (!ours(full))
		return __real_renameat2(at, from, to_at, to, flags);
	return sim_rename(full, target, !(flags & RENAME_NOREPLACE));
}

WRAP(int, link, const char *from, const char *to)
{
	return ours(from) ? sim_link(from, to) : __real_link(from, to);
}

WRAP(int, linkat, int at, const char *from, int to_at, const char *to, int flags)
{
	char a[PATH_TEXT];
	char b[PATH_TEXT];
	const char *full = path_at(at, from, a);
	const char *target = path_at(to_at, to, b);
	if (!full || !target)
		return -1;
	return ours(full) ? sim_link(full, target) : __real_linkat(at, from, to_at, to, flags);
}

WRAP(int, unlink, const char *path)
{
	return ours(path) ? sim_unlink(path) : __real_unlink(path);
}

WRAP(int, unlinkat, int at, const char *path, int flags)
{
	char joined[PATH_TEXT];
	const char *full = path_at(at, path, joined);
	if (!full)
		return -1;
	if (!ours(full))
		return __real_unlinkat(at, path, flags);
	return flags & AT_REMOVEDIR ? fails(EINVAL) : sim_unlink(full);
}

WRAP(int, access, const char *path, int how)
{
	return ours(path) ? sim_access(path) : __real_access(path, how);
}

WRAP(int, stat, const char *path, struct stat *st)
{
	return ours(path) ? sim_stat(path, st) : __real_stat(path, st);
}

WRAP(int, lstat, const char *path, struct stat *st)
{
	return ours(path) ? sim_stat(path, st) : __real_lstat(path, st);
}

WRAP(int, fstat, int fd, struct stat *st)
{
	open_file *f = file_of(fd);
	return f ? sim_fstat(f, st) : __real_fstat(fd, st);
}

WRAP(int, fstatat, int at, const char *path, struct stat *st, int flags)
{
	char joined[PATH_TEXT];
	const char *full = path_at(at, path, joined);
	if (!full)
		return -1;
	return ours(full) ? sim_stat(full, st) : __real_fstatat(at, path, st, flags);
}

WRAP(int, ftruncate, int fd, off_t size)
{
	open_file *f = file_of(fd);
	return f ? sim_truncate(f, (size_t)size) : __real_ftruncate(fd, size);
}

WRAP(int, posix_fallocate, int fd, off_t from, off_t n)
{
	open_file *f = file_of(fd);
	return f ? sim_fallocate(f, (size_t)(from + n)) : __real_posix_fallocate(fd, from, n);
}

WRAP(int, fsync, int fd)
{
	open_file *f = file_of(fd);
	return f ? sim_sync(f) : __real_fsync(fd);
}

WRAP(int, fdatasync, int fd)
{
	open_file *f = file_of(fd);
	return f ? sim_sync(f) : __real_fdatasync(fd);
}

WRAP(int, flock, int fd, int how)
{
	open_file *f = file_of(fd);
	return f ? sim_flock(f, how) : __real_flock(fd, how);
}

WRAP(int, fchmod, int fd, mode_t mode)
{
	open_file *f = file_of(fd);
	return f ? sim_chmod(f, mode) : __real_fchmod(fd, mode);
}

WRAP(int, fchown, int fd, uid_t uid, gid_t gid)
{
	open_file *f = file_of(fd);
	return f ? sim_chown(f, uid, gid) : __real_fchown(fd, uid, gid);
}

WRAP(int, mkostemp, char *template, int flags)
{
	return ours(template) ? sim_mkostemp(template, flags) : __real_mkostemp(template, flags);
}

WRAP(DIR *, opendir, const char *path)
{
	return ours(path) ? sim_opendir(path) : __real_opendir(path);
}

WRAP(struct dirent *, readdir, DIR *d)
{
	listing *l = listing_of(d);
	return l ? sim_readdir(l) : __real_readdir(d);
}

WRAP(int, closedir, DIR *d)
{
	listing *l = listing_of(d);
	if (!l)
		return __real_closedir(d);
	l->folder = NULL;
	return 0;
}

uid_t __wrap_geteuid(void)
{
	return current ? current->root->now->uid : __real_geteuid();
}

gid_t __wrap_getegid(void)
{
	return current ? current->root->now->gid : __real_getegid();
}

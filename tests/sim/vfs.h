/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk for SQLite, in memory and as forgetful as the most careless one: what was not synced is lost, kept or torn in
 * any byte, in any order, when the power is cut. Every call of the real journal goes to it once it is registered.
 *
 * Files are known by their full path. Content and length that were written are durable after xSync of the file. A name
 * that was made is durable with the file's xSync, one that was deleted with xDelete's syncDir, as SQLite's own VFS has
 * it. The database itself is never made by SQLite here (its file is there, empty), nor deleted.
 *
 * Not for threads; no locks (one connection writes).
 */
#ifndef KT_TESTS_SIM_VFS_H
#define KT_TESTS_SIM_VFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/sim/chance.h"

/* Make it SQLite's default; or the real one again. */
bool vfs_register(void);
bool vfs_use_real(void);
/* An empty disk; files that are open must be closed. */
void vfs_reset(void);

/* Mutating calls (write, truncate, sync, delete, making a file) since vfs_reset, and all that can fail. */
size_t vfs_ops(void);
size_t vfs_calls(void);
size_t vfs_syncs(void);

/* The machine stops before the mutating call that comes after `ops` others: from then on every call fails
 * (SQLITE_IOERR) and changes nothing. SIZE_MAX: never. */
void vfs_stop_after(size_t ops);
bool vfs_stopped(void);
/* The call (reads too) that comes after `calls` others fails with `rc` (SQLITE_IOERR…, SQLITE_FULL, SQLITE_CANTOPEN)
 * once. A write that fails has written half of it. SIZE_MAX: none (any more). */
void vfs_fail_at(size_t calls, int rc);
bool vfs_failed(void);
/* A disk that says that it has synced and has not: then losses must be seen. Until vfs_reset. */
void vfs_lie(bool lies);

/* The power is cut and comes back: a part of what was not synced is there, as the numbers say. */
void vfs_cut(sim_rng *r);
/* What is pending becomes durable, nothing is lost: the process alone was killed. */
void vfs_settle(void);

/* The content of a file as it is now; false when there is none. The bytes belong to the disk. */
bool vfs_get(const char *path, const uint8_t **bytes, size_t *n);
/* Put a file there, or take it away (bytes NULL); durable. */
void vfs_put(const char *path, const uint8_t *bytes, size_t n);

#endif

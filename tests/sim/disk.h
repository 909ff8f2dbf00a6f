/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An in-memory file system behind the POSIX calls of the code under test (linked with kt_sim_disk, which has the
 * linker's --wrap for each of them). Paths that are /sim or begin with /sim/ go to the disk in use, its descriptors are
 * numbers from SIM_DISK_FD on; everything else goes to the real call. No system call is made for it.
 *
 * It is as forgetful as POSIX allows. A process that is killed loses nothing that it has written. When the power is cut
 *   - content that was not fsynced is the old, the new, or any mixture by blocks of 512 bytes, of any length between;
 *   - a change of names (creat, link, mkdir, unlink, rename) that was not followed by an fsync of its folder is there
 * or not, each for itself, but in order for one name; a rename is one change: both of its names or neither;
 *   - what was fsynced is there, where its name is; what lies in a folder that has gone has gone.
 * Owner and mode are durable at once. Space is counted in blocks of 4,096 bytes, one for a folder; blocks set aside
 * (posix_fallocate) stay writable when the disk is full.
 * Not modelled: symbolic links, renaming a folder or into another one (EINVAL, EXDEV), holes, times. A flock that would
 * wait fails with EDEADLK, for nobody could release it.
 *
 * A disk, and which one is in use, belong to one thread; each thread may have its own ones.
 */
#ifndef KT_TESTS_SIM_DISK_H
#define KT_TESTS_SIM_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SIM_DISK_FD = 1 << 20, SIM_DISK_OPEN_MAX = 4096, SIM_DISK_BLOCK = 4096, SIM_DISK_SECTOR = 512 };

typedef struct sim_disk sim_disk;

/* An empty disk. Never NULL: without memory the program ends. */
sim_disk *sim_disk_new(void);
void sim_disk_free(sim_disk *d);
/* As if it were new, at almost no cost; keeps whether it is in use. */
void sim_disk_reset(sim_disk *d);
/* Paths below /sim go there from now on; NULL: nowhere. The caller's. */
void sim_disk_use(sim_disk *d);

/* Room in bytes; SIZE_MAX (as it begins): no limit. What needs more fails with ENOSPC. */
void sim_disk_limit(sim_disk *d, size_t bytes);
size_t sim_disk_used(const sim_disk *d);

/*
 * The process is killed after `ops` further mutating operations (UINT64_MAX: never): from then on every call fails with
 * EIO and changes nothing, until the end of the process. Mutating: open that makes or empties a file, write, pwrite,
 * mkdir, rename, link, unlink, ftruncate, posix_fallocate, fsync, fdatasync, fchmod, fchown.
 */
void sim_disk_die_after(sim_disk *d, uint64_t ops);
bool sim_disk_dead(const sim_disk *d);
/* The mutating operation that comes after `ops` others fails with `error`, once, and changes nothing. */
void sim_disk_fail_at(sim_disk *d, uint64_t ops, int error);
/* The same over all calls but close: also those that only read. */
void sim_disk_fail_call_at(sim_disk *d, uint64_t calls, int error);
/* Mutating operations, and all calls but close, since it was new. */
uint64_t sim_disk_ops(const sim_disk *d);
uint64_t sim_disk_calls(const sim_disk *d);

/* The process has been killed: descriptors closed, locks gone, nothing else is lost. Nothing is dead or about to fail
 * any more. */
void sim_disk_process_end(sim_disk *d);
/* The power has been cut: what was not synced is lost, torn or kept as `roll` says (any 64 bits); then as above. */
void sim_disk_power_cut(sim_disk *d, uint64_t (*roll)(void *arg), void *arg);

/* Descriptors that are open. */
size_t sim_disk_open_files(const sim_disk *d);

#endif

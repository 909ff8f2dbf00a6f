/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A backup out of LVM snapshots: every file of one instant, whoever writes meanwhile. The snapshots are seen by one
 * thread alone, in a mount namespace of its own, under the paths that the files always have: who reads there need not
 * know of it, and the mounts end with the thread, however it ends. What can be left over is the snapshot: before one is
 * made its tag is recorded in the state folder, and whoever comes next removes it (kt_snapshot_clear).
 */
#ifndef KT_AGENT_SNAPSHOT_H
#define KT_AGENT_SNAPSHOT_H

#include "agent/action.h"
#include "agent/archive.h"

/* From the members snapshot ("never", "auto", "lvm"; absent: never) and snapshot_size (kt_lvm_size; absent: 10%ORIGIN).
 * With lvm, every file system that is read must lie on a logical volume and be ext2, ext3, ext4 or xfs; with auto those
 * that do. */
typedef struct kt_snapshot kt_snapshot;

/* Could it be done now? KT_E_REFUSED, KT_E_IO, KT_E_INPUT say what is in the way; with auto and never nothing is. */
KT_MUST_CHECK kt_code kt_snapshot_check(const cJSON *args, const kt_archive_source *source, kt_err *err);

/* Remove what an agent that was killed left on this node: of this run, or (`others`, for who holds the node) of any.
 * Where none was, LVM is not asked. KT_E_IO. */
KT_MUST_CHECK kt_code kt_snapshot_clear(const kt_agent_ctx *ctx, bool others, kt_err *err);

/* Make the snapshots for a backup of `source` to `archive`, whose folder is made. *out is the caller's
 * (kt_snapshot_end); NULL where none is wanted, or none can be had and `auto` was said. `source` and `archive` are
 * borrowed so long. Errors as of kt_snapshot_check. */
KT_MUST_CHECK kt_code kt_snapshot_take(const kt_agent_ctx *ctx, const cJSON *args, const kt_archive_source *source,
				       const char *archive, kt_snapshot **out, kt_err *err);
/* Call `fn` where the snapshots stand in place of their volumes, in a thread that is waited for; only the archive's
 * folder can be written to. Without snapshots it is simply called. */
KT_MUST_CHECK kt_code kt_snapshot_within(const kt_snapshot *s, kt_code (*fn)(void *arg, kt_err *err), void *arg,
					 kt_err *err);
/* Remove the snapshots. `rc` and `err` are how the backup went, and pass by; KT_E_IO instead where a snapshot had no
 * room for what was written to its volume, or cannot be removed. Frees `s`; NULL is fine. */
KT_MUST_CHECK kt_code kt_snapshot_end(kt_snapshot *s, kt_code rc, kt_err *err);

/* "vg/lv" of each volume, for people, appended to an array. */
KT_MUST_CHECK kt_code kt_snapshot_name(const kt_snapshot *s, cJSON *array, kt_err *err);

#endif

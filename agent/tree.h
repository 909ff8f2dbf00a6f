/* SPDX-License-Identifier: Apache-2.0 */
/* Walking and removing folders by descriptor, so that nothing that is swapped meanwhile can lead elsewhere. */
#ifndef KT_AGENT_TREE_H
#define KT_AGENT_TREE_H

#include <stdbool.h>
#include <sys/stat.h>

#include "base/result.h"

/* What a walk has come to. All borrowed for the call. */
typedef struct kt_tree_item {
	const char *path;      /* the root's path, then what is below it; for messages */
	const char *name;      /* what is below the root, "" for the root itself */
	const char *base;      /* last part of the name; "." for the root */
	int folder_fd;         /* the folder that holds it; the root's own for the root */
	const struct stat *in; /* that folder */
	const struct stat *st; /* lstat(2) of it */
} kt_tree_item;

/* Return KT_OK to go on; set *skip on a folder to stay out of it. */
typedef kt_code (*kt_tree_fn)(void *arg, const kt_tree_item *item, bool *skip, kt_err *err);

enum { KT_TREE_DEPTH = 128 };

/* Visit the folder `root` (symbolic links to it are followed) and all below it (none followed), a folder before its
 * content, names in byte order. KT_E_IO; KT_E_INPUT when deeper than KT_TREE_DEPTH; a failure of `fn` passes through.
 */
KT_MUST_CHECK kt_code kt_tree_walk(const char *root, kt_tree_fn fn, void *arg, kt_err *err);
/* The same for one path, which may be anything: as if it were the root of a walk, but with base and folder_fd of the
 * folder that holds it, and never entered. A symbolic link is visited itself. */
KT_MUST_CHECK kt_code kt_tree_visit(const char *path, kt_tree_fn fn, void *arg, kt_err *err);
/* Remove a folder and all below it; fine when it is not there. Links are removed, never followed. KT_E_IO. */
KT_MUST_CHECK kt_code kt_tree_remove(const char *path, kt_err *err);

#endif

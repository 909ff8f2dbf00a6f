/* SPDX-License-Identifier: Apache-2.0 */
/* An archive read member by member, each checked before it is handed over. Private to the archive. */
#ifndef KT_AGENT_ARCHIVE_READER_H
#define KT_AGENT_ARCHIVE_READER_H

#include <archive.h>
#include <archive_entry.h>

#include "agent/archive_seal.h"

struct kt_archive_reader {
	char *path;
	int fd;
	uint64_t bytes;              /* of the archive */
	const kt_archive_seal *seal; /* NULL: it is not encrypted */
};

/*
 * One member. `m` has its name, kind, mode and owner; for the links also sha256. For files the function reads the
 * content with archive_read_data_block(a) and may set m->size and m->sha256. `target`: what a link leads to, else NULL.
 */
typedef kt_code (*kt_archive_member_fn)(void *arg, struct archive *a, struct archive_entry *e, kt_member *m,
					const char *target, kt_err *err);

/* Call `fn` for each member but the manifest, which is parsed into *out (the caller's, sorted) and must be the last
 * one. Refused with KT_E_INPUT: names that are absolute or lead up, devices, pipes, sockets, no manifest, a damaged
 * stream. */
KT_MUST_CHECK kt_code kt_archive_each(kt_archive_reader *r, const kt_archive_hooks *hooks, kt_archive_member_fn fn,
				      void *arg, kt_manifest *out, kt_err *err);
/* "The backup cannot be read", with the library's reason. */
KT_MUST_CHECK kt_code kt_archive_read_failed(struct archive *a, const char *name, kt_err *err);

#endif

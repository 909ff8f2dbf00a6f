/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a backup holds: one line a member, with the SHA-256 of every file. The text form is the last member of the
 * archive (docs/FORMATS.md, "Backup archive"). Names are member names: the absolute path without its leading slash.
 */
#ifndef KT_AGENT_MANIFEST_H
#define KT_AGENT_MANIFEST_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/codec.h"

/* The name of the last member of every archive. */
#define KT_MANIFEST_MEMBER "KEYTURN-MANIFEST"
/* What the client of a database printed (agent/dump.h); it has no place of its own. */
#define KT_DUMP_MEMBER "KEYTURN-DUMP"

typedef enum kt_member_kind {
	KT_MEMBER_FILE = 'f',   /* sha256: of the content */
	KT_MEMBER_SPARSE = 's', /* a file with holes; sha256: kt_content_hash, sparse */
	KT_MEMBER_FOLDER = 'd', /* sha256: "-" */
	KT_MEMBER_LINK = 'l',   /* a symbolic link; sha256: of the target's text */
	KT_MEMBER_HARD = 'h'    /* a hard link to an earlier member; sha256: of that member's name */
} kt_member_kind;

typedef struct kt_member {
	kt_member_kind kind;
	bool database; /* its -wal, -journal and -shm go with it: named as a database file, or begins as an SQLite file
			  does */
	mode_t mode;   /* permission bits, 07777 */
	uid_t uid;
	gid_t gid;
	uint64_t size;              /* bytes of content; 0 unless a file */
	char sha256[KT_SHA256_HEX]; /* by kind, see above */
	char *name;
} kt_member;

/*
 * Invariants: (1) n <= cap; (2) no name is absolute, empty, ends in a slash or has an empty, "." or ".." part;
 * (3) after kt_manifest_sort the members stand in byte order of their names and no name is there twice.
 */
typedef struct kt_manifest {
	kt_member *members;
	size_t n;
	size_t cap;
	char *top;    /* the installation's folder, a member name; NULL when there is none */
	char **paths; /* files and folders saved besides it, member names */
	size_t path_n;
} kt_manifest;

#define KT_MANIFEST_INIT ((kt_manifest){0})

void kt_manifest_free(kt_manifest *m);
/* KT_E_INPUT unless `name` satisfies invariant (2) and has at most 4095 bytes. */
KT_MUST_CHECK kt_code kt_manifest_check_name(const char *name, kt_err *err);
/* Add a copy of `member` (its name is copied too). */
KT_MUST_CHECK kt_code kt_manifest_add(kt_manifest *m, const kt_member *member, kt_err *err);
KT_MUST_CHECK kt_code kt_manifest_set_top(kt_manifest *m, const char *top, kt_err *err);
KT_MUST_CHECK kt_code kt_manifest_add_path(kt_manifest *m, const char *path, kt_err *err);
/* Sort by name; KT_E_INPUT when a name is there twice. */
KT_MUST_CHECK kt_code kt_manifest_sort(kt_manifest *m, kt_err *err);
/* The member of that name, or NULL. The manifest must be sorted. */
const kt_member *kt_manifest_find(const kt_manifest *m, const char *name);

/* The text form, appended; and back (sorted). KT_E_INPUT names the line. */
KT_MUST_CHECK kt_code kt_manifest_print(const kt_manifest *m, kt_buf *out, kt_err *err);
KT_MUST_CHECK kt_code kt_manifest_parse(const void *text, size_t len, kt_manifest *m, kt_err *err);

typedef struct kt_manifest_compare {
	bool owner; /* owner and group must be equal too */
} kt_manifest_compare;

/* `is` must hold exactly what `want` says; both sorted. KT_E_INPUT names up to five members that are missing, not
 * expected or different, and how many there are in all. */
KT_MUST_CHECK kt_code kt_manifest_equal(const kt_manifest *want, const kt_manifest *is,
					const kt_manifest_compare *options, kt_err *err);
/* Sums for reports: regular files (hard links not counted) and their bytes. */
void kt_manifest_totals(const kt_manifest *m, uint64_t *files, uint64_t *bytes);

/*
 * The hash of a file's content, fed in order of offset; what is left out counts as zeros. Plain: SHA-256 of all bytes.
 * Sparse: SHA-256 over every block of 64 KiB that has a byte other than zero, each preceded by its number (big-endian,
 * 8 bytes), the last block zero-padded; so it does not depend on where the file system keeps its holes, and holes cost
 * nothing.
 */
typedef struct kt_content_hash kt_content_hash;
KT_MUST_CHECK kt_code kt_content_hash_new(bool sparse, kt_content_hash **out, kt_err *err);
KT_MUST_CHECK kt_code kt_content_hash_feed(kt_content_hash *h, uint64_t offset, const void *bytes, size_t n,
					   kt_err *err);
/* Closes the content at `size` bytes (KT_E_INPUT when more were fed) and frees `h`, also on failure. */
KT_MUST_CHECK kt_code kt_content_hash_end(kt_content_hash *h, uint64_t size, char out[KT_SHA256_HEX], kt_err *err);
void kt_content_hash_free(kt_content_hash *h);
/* Hash an open file from its beginning; it must have exactly `size` bytes (KT_E_INPUT). `path` is for messages. */
KT_MUST_CHECK kt_code kt_content_hash_fd(int fd, const char *path, bool sparse, uint64_t size, char out[KT_SHA256_HEX],
					 kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Backup archives: pax (POSIX.1-2001 tar) under zstd, the manifest as the last member, and that sealed where there is a
 * key; docs/FORMATS.md, "Backup archive". Anything that reads pax and zstd can unpack what is inside. All paths are
 * absolute.
 */
#ifndef KT_AGENT_ARCHIVE_H
#define KT_AGENT_ARCHIVE_H

#include "agent/keyscan.h"
#include "agent/manifest.h"
#include "base/secret.h"

/* What is to be saved. All borrowed. */
typedef struct kt_archive_source {
	const char *top; /* the installation's folder; NULL: only `paths` */
	const char *const
		*exclude; /* names right below top ("log"), or paths below it ("a/b"); nothing deeper is meant */
	size_t exclude_n;
	const char *const *paths; /* files or folders besides; a database file's -wal and -journal come with it, unless
				   * SQLite copies it */
	size_t path_n;
	const char *const *key_files; /* never saved, whatever else is said; need not exist */
	size_t key_file_n;
	const kt_secret *secrets; /* keys (raw) that no saved file may hold */
	size_t secret_n;
	int dump_fd; /* saved as KT_DUMP_MEMBER; 0: none */
} kt_archive_source;

/* What an archive is encrypted with (agent/archive_seal.h). Both borrowed. */
typedef struct kt_archive_seal {
	const kt_secret *key; /* the run's backup key, 32 bytes */
	const char *context;  /* whose backup it is: "CLUSTER/RUN/NODE"; what opens it must say the same. NULL in a
			       * reader: whatever it says of itself (agent/unseal.h) */
} kt_archive_seal;

/* Called now and then; anything but KT_OK stops the work, cleans up and is passed on. */
typedef kt_code (*kt_archive_progress)(void *arg, uint64_t done, uint64_t total, kt_err *err);
typedef struct kt_archive_hooks {
	kt_archive_progress progress; /* NULL: none */
	void *arg;
	kt_keyscan *scan; /* keys that no file may hold that is unpacked (kt_archive_extract); NULL: none */
} kt_archive_hooks;

/* How an archive is made. */
typedef struct kt_archive_how {
	const kt_archive_seal *seal; /* NULL: not encrypted */
	uint64_t rate;               /* bytes of content to read in a second at most; 0: no limit */
	const kt_archive_hooks *hooks;
} kt_archive_how;

typedef struct kt_archive_size {
	uint64_t files; /* regular files, hard links counted once */
	uint64_t bytes; /* what their content takes on a disk (holes not counted) */
	uint64_t copy;  /* the largest SQLite database: room for its copy while it is saved (agent/sqlite.h) */
} kt_archive_size;

typedef struct kt_archive_made {
	uint64_t files;
	uint64_t bytes; /* of content, holes counted */
	uint64_t archive_bytes;
	char sha256[KT_SHA256_HEX];          /* of the archive */
	char manifest_sha256[KT_SHA256_HEX]; /* of the manifest's text */
	size_t skipped;                      /* sockets, pipes and devices that were left out */
	size_t outside;                      /* symbolic links that lead out of what was saved (saved as links) */
	char first_skipped[256];             /* one of each, "" when none */
	char first_outside[256];
	bool sealed; /* it is encrypted */
} kt_archive_made;

/* How much there is to save, with the same selection as kt_archive_create. KT_E_INPUT, KT_E_IO. */
KT_MUST_CHECK kt_code kt_archive_measure(const kt_archive_source *source, kt_archive_size *out, kt_err *err);

/*
 * Make `archive` (0600; missing folders are made, 0711): free space is checked first, it is written beside as
 * `<archive>.part`, synced, and renamed. On any failure there is no new file and an older `archive` is untouched.
 * `how` may be NULL: not encrypted, at any rate. KT_E_KEY: a file holds one of the keys (the message names it), or the
 * backup key is none. KT_E_REFUSED: a file changed while it was read, or an SQLite
 * database is damaged or stays locked (agent/sqlite.h). KT_E_IO: unreadable, or no space. KT_E_INPUT: a
 * path that makes no sense.
 */
KT_MUST_CHECK kt_code kt_archive_create(const char *archive, const kt_archive_source *source, const kt_archive_how *how,
					kt_archive_made *out, kt_err *err);

/* An archive opened for reading, its bytes having been checked. */
typedef struct kt_archive_reader kt_archive_reader;

/* Open and check that the file has this SHA-256 (hex). KT_E_INPUT when it has not (nothing was unpacked), KT_E_IO.
 * `seal` (NULL: it is not encrypted) is borrowed until kt_archive_close; KT_E_KEY when it is encrypted and there is no
 * key, or not the right one; KT_E_INPUT when it should be and is not, or is another one's. *out is the caller's:
 * kt_archive_close. */
KT_MUST_CHECK kt_code kt_archive_open(const char *archive, const char *sha256, const kt_archive_seal *seal,
				      kt_archive_reader **out, kt_err *err);
void kt_archive_close(kt_archive_reader *r);

/* Read all of it without writing anything: every member's name, kind and content must be what the manifest says. The
 * manifest (sorted) is the caller's. KT_E_INPUT names what is wrong. */
KT_MUST_CHECK kt_code kt_archive_verify(kt_archive_reader *r, const kt_archive_hooks *hooks, kt_manifest *out,
					kt_err *err);

/*
 * Unpack into `folder` (exists, empty but for `ignore`, a name in it, which may be NULL) and compare what then lies
 * there with the manifest, member by member. Refuses absolute names, "..", names that lead through a symbolic link,
 * and everything but files, folders and links. Owners are compared when we are root. KT_E_KEY: a file holds a key of
 * hooks->scan, or is a key file itself, whoever's. The manifest is the caller's.
 */
KT_MUST_CHECK kt_code kt_archive_extract(kt_archive_reader *r, const char *folder, const char *ignore,
					 const kt_archive_hooks *hooks, kt_manifest *out, kt_err *err);

/*
 * Put everything back where it was. `manifest` comes from kt_archive_verify on the same reader. Each file is written
 * beside its place, synced (many at once) and renamed; one that is the same already is left alone. A database's -wal,
 * -journal and -shm that are not in the archive are removed before the database is replaced. What else is on the disk
 * and not in the archive stays. With `keep` (a run; NULL: no) what is there is kept before it is replaced or removed
 * (agent/keep.h), a database together with its journals. May be repeated after a failure or a crash. *written counts
 * the files that were replaced. A KT_DUMP_MEMBER is written to `dump_fd` (0: there is none; KT_E_INTERNAL when there
 * is).
 */
KT_MUST_CHECK kt_code kt_archive_restore(kt_archive_reader *r, const kt_manifest *manifest, const char *keep,
					 int dump_fd, const kt_archive_hooks *hooks, uint64_t *written, kt_err *err);

/* The member name of an absolute path: cleaned of doubled slashes, "." and a slash at its end, without the leading one.
 * The caller frees it. KT_E_INPUT for "/", "..", or a relative path. */
KT_MUST_CHECK kt_code kt_archive_member_name(const char *path, char **out, kt_err *err);

#endif

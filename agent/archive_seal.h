/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The encryption of an archive (docs/FORMATS.md, "Sealed archive"): AES-256-GCM in chunks of 1 MiB, numbered, the last
 * one marked, under a key that is derived anew for each archive. A byte that was changed, a chunk that was moved,
 * left out, added, or taken from another archive is refused before any of it is handed on. Private to the archive.
 */
#ifndef KT_AGENT_ARCHIVE_SEAL_H
#define KT_AGENT_ARCHIVE_SEAL_H

#include <stdbool.h>

#include "agent/archive.h"

enum {
	KT_SEAL_CONTEXT_MAX = 255, /* bytes of kt_archive_seal.context */
	KT_SEAL_FIXED = 76,        /* bytes of a header before the context */
	KT_SEAL_HEADER_MAX = KT_SEAL_FIXED + KT_SEAL_CONTEXT_MAX,
	KT_SEAL_TAG = 16,            /* bytes behind each chunk */
	KT_SEAL_CHUNK_BITS = 20,     /* chunks of 1 MiB, as written */
	KT_SEAL_CHUNK_BITS_MIN = 12, /* as read: 4 KiB .. */
	KT_SEAL_CHUNK_BITS_MAX = 24  /* .. 16 MiB */
};

/* Where sealed bytes go, in order. */
typedef kt_code (*kt_seal_sink)(void *arg, const void *bytes, size_t n, kt_err *err);

/* Writes one archive. */
typedef struct kt_sealer kt_sealer;
/* Derive this archive's key, and send the header. *out is the caller's: kt_sealer_free. KT_E_KEY: not a key of 32
 * bytes; KT_E_INPUT: the context is empty or too long; else what the sink says. */
KT_MUST_CHECK kt_code kt_sealer_new(const kt_archive_seal *seal, kt_seal_sink sink, void *arg, kt_sealer **out,
				    kt_err *err);
KT_MUST_CHECK kt_code kt_sealer_feed(kt_sealer *s, const void *bytes, size_t n, kt_err *err);
/* The last chunk. Nothing may be fed after it. */
KT_MUST_CHECK kt_code kt_sealer_end(kt_sealer *s, kt_err *err);
void kt_sealer_free(kt_sealer *s);

/* Does the file begin as a sealed archive does? KT_E_IO. */
KT_MUST_CHECK kt_code kt_seal_is(int fd, const char *path, bool *is, kt_err *err);

/* Reads one archive, from its beginning to its end. */
typedef struct kt_seal_reader kt_seal_reader;
/* Read the header of an open file of `size` bytes, which is borrowed. KT_E_KEY: this key does not open it; KT_E_INPUT:
 * it is damaged, or another archive than the context says (the message has what it says of itself). */
KT_MUST_CHECK kt_code kt_seal_reader_new(const kt_archive_seal *seal, int fd, uint64_t size, const char *path,
					 kt_seal_reader **out, kt_err *err);
/* The next chunk, once it has been authenticated; *n is 0 after the last one. Borrowed until the next call. *at: bytes
 * of the file that have been read. */
KT_MUST_CHECK kt_code kt_seal_reader_next(kt_seal_reader *r, const uint8_t **bytes, size_t *n, uint64_t *at,
					  kt_err *err);
void kt_seal_reader_free(kt_seal_reader *r);

#endif

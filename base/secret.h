/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kt_secret: keys and PINs. Lives in libcrypto's secure heap (mlock, MADV_DONTDUMP, guard pages), is wiped when it is
 * freed, is never printed, and compares in constant time. See OPENSSL_secure_malloc(3).
 */
#ifndef KT_BASE_SECRET_H
#define KT_BASE_SECRET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/result.h"

/* Invariants: (1) len <= cap; (2) data is NULL exactly when cap is 0; (3) data[len] is '\0' while data is not NULL. */
typedef struct kt_secret {
	uint8_t *data;
	size_t len;
	size_t cap;
} kt_secret;

#define KT_SECRET_INIT ((kt_secret){0})

/*
 * Set up the secure heap (64 KiB, or down to 16 KiB where no more may be locked) and make the process undumpable: no
 * core files (RLIMIT_CORE 0 and PR_SET_DUMPABLE 0). Call once, first thing in main(), before any thread. KT_E_INTERNAL
 * when memory cannot be locked: the remedy names RLIMIT_MEMLOCK.
 */
KT_MUST_CHECK kt_code kt_secret_setup(kt_err *err);
/* The secure heap alone, for a library in somebody else's process; one that is there already is taken as it is. */
KT_MUST_CHECK kt_code kt_secret_heap(kt_err *err);

/* A zeroed secret of `len` bytes (1..16384). */
KT_MUST_CHECK kt_code kt_secret_new(kt_secret *s, size_t len, kt_err *err);
/* A copy of `len` bytes. The caller wipes its own. */
KT_MUST_CHECK kt_code kt_secret_copy(kt_secret *s, const void *bytes, size_t len, kt_err *err);
/* `len` random bytes from RAND_priv_bytes(3). */
KT_MUST_CHECK kt_code kt_secret_random(kt_secret *s, size_t len, kt_err *err);
/*
 * Mix random bytes of somebody else's into libcrypto's generator: it is seeded anew from this machine, with them as
 * additional input (SP 800-90A Rev. 1, 8.7.2 and 9.2). So they can only add: should they be known to an attacker, it is
 * as good as without them. KT_E_INTERNAL: the generator could not be seeded.
 */
KT_MUST_CHECK kt_code kt_secret_stir(const kt_secret *bytes, kt_err *err);
/* Wipe and free; NULL and an empty secret are fine. */
void kt_secret_free(kt_secret *s);
/* Equal length and bytes; constant time in the content. */
bool kt_secret_equal(const kt_secret *a, const kt_secret *b);
/*
 * Read a file of at most `max` bytes into a secret without an intermediate copy in ordinary memory.
 * KT_E_IO when it cannot be read, KT_E_INPUT when it is larger than `max`.
 */
KT_MUST_CHECK kt_code kt_secret_read_fd(kt_secret *s, int fd, size_t max, const char *name, kt_err *err);

/* base64 (RFC 4648 §4, padded, no line breaks) into a secret text, and back. Decoding skips a trailing newline and
 * refuses everything else that is not of the alphabet. */
KT_MUST_CHECK kt_code kt_secret_to_base64(const kt_secret *in, kt_secret *text, kt_err *err);
KT_MUST_CHECK kt_code kt_secret_from_base64(const kt_secret *text, kt_secret *out, kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Envelopes: one item each, AES-256-GCM (SP 800-38D), under a data key (DEK) of its own that is wrapped by the KEK.
 *
 * An envelope is versioned and signed: its content tag covers the fixed header and the item's name, its wrap tag covers
 * in addition the KEK's id and is made with the KEK. So a version, id or length cannot be altered, an envelope cannot
 * be given to another item, nor a content to another envelope. What is not detected: an older envelope of the same item
 * and the same KEK put back in its place. Nonces are random 96-bit values: a KEK must not seal or rewrap more than 2^32
 * items (SP 800-38D §8.3). Rewrapping changes KT_ENVELOPE_WRAP_LEN bytes in the middle and never touches the content.
 * Exact bytes: docs/FORMATS.md, "Envelope".
 */
#ifndef KT_ENVELOPE_ENVELOPE_H
#define KT_ENVELOPE_ENVELOPE_H

#include "base/buf.h"
#include "envelope/kek.h"

enum {
	KT_ENVELOPE_FIXED_LEN = 44, /* header that never changes */
	KT_ENVELOPE_WRAP_LEN = 76,  /* KEK id, nonce, wrapped DEK, tag: what a rewrap replaces */
	KT_ENVELOPE_HEAD_LEN = KT_ENVELOPE_FIXED_LEN + KT_ENVELOPE_WRAP_LEN,
	KT_ENVELOPE_TAG_LEN = 16,
	KT_ENVELOPE_OVERHEAD = KT_ENVELOPE_HEAD_LEN + KT_ENVELOPE_TAG_LEN,
	KT_ENVELOPE_ID_LEN = 16,
	KT_ENVELOPE_ID_HEX = 33,
	KT_ENVELOPE_NAME_MAX = 512,                /* bytes of an item's name, at least 1 */
	KT_ENVELOPE_CONTENT_MAX = 16 * 1024 * 1024 /* bytes of an item */
};

/*
 * A KEK made ready for work: cipher contexts, key schedules and a DEK in locked memory, all reused from item to item.
 * One thread at a time. It holds a copy of the KEK; the kt_kek may be freed before it. After fork() both processes may
 * go on with it.
 */
typedef struct kt_envelope_ctx kt_envelope_ctx;

/* *out is the caller's: kt_envelope_ctx_free. KT_E_KEY when the KEK is not of 32 bytes. */
KT_MUST_CHECK kt_code kt_envelope_ctx_new(const kt_kek *kek, kt_envelope_ctx **out, kt_err *err);
/* Wipes; NULL is fine. */
void kt_envelope_ctx_free(kt_envelope_ctx *ctx);

/* What an envelope says without any key. Hex texts end in NUL. */
typedef struct kt_envelope_info {
	unsigned version;
	char id[KT_ENVELOPE_ID_HEX];
	char kek_id[KT_KEK_ID_HEX];
	size_t content_len;
} kt_envelope_info;

/*
 * Seal `len` bytes (0..KT_ENVELOPE_CONTENT_MAX) as the item `name` (1..KT_ENVELOPE_NAME_MAX bytes) and append the
 * envelope to `out`. KT_E_INPUT for lengths out of range; nothing is appended on failure.
 */
KT_MUST_CHECK kt_code kt_envelope_seal(kt_envelope_ctx *ctx, const char *name, const void *plain, size_t len,
				       kt_buf *out, kt_err *err);

/* The same to `out`, which has room for KT_ENVELOPE_OVERHEAD + len bytes; on failure what is there is of no use. */
KT_MUST_CHECK kt_code kt_envelope_seal_at(kt_envelope_ctx *ctx, const char *name, const void *plain, size_t len,
					  uint8_t *out, kt_err *err);

/*
 * Open the envelope of the item `name` and append its content to `out` (wiped by kt_buf_free). Nothing is appended on
 * failure. KT_E_INPUT: malformed (with the offset), altered, or of another item. KT_E_KEY: it is under another KEK
 * (named).
 */
KT_MUST_CHECK kt_code kt_envelope_open(kt_envelope_ctx *ctx, const char *name, const void *envelope, size_t len,
				       kt_buf *out, kt_err *err);

/* The same to `out`, which has room for len - KT_ENVELOPE_OVERHEAD bytes; nothing of the content is there on failure.
 */
KT_MUST_CHECK kt_code kt_envelope_open_at(kt_envelope_ctx *ctx, const char *name, const void *envelope, size_t len,
					  uint8_t *out, kt_err *err);

/*
 * Move an envelope from the KEK of `from` to that of `to`, in place. `head` is its first KT_ENVELOPE_HEAD_LEN bytes,
 * `total` the length of the whole envelope (the content itself is not needed and not looked at). The bytes that change
 * are head[KT_ENVELOPE_FIXED_LEN .. KT_ENVELOPE_HEAD_LEN). On failure `head` is unchanged. Errors as kt_envelope_open.
 */
KT_MUST_CHECK kt_code kt_envelope_rewrap(kt_envelope_ctx *from, kt_envelope_ctx *to, const char *name,
					 uint8_t head[KT_ENVELOPE_HEAD_LEN], size_t total, kt_err *err);

/*
 * Seal the content of an envelope anew under a new DEK, nonce and id, and the KEK of `to`, in place: its length stays
 * `len`. For a short while the content stands there in the clear. On failure the bytes at `envelope` are not to be
 * used: they are neither the old envelope nor a new one. Errors as kt_envelope_open.
 */
KT_MUST_CHECK kt_code kt_envelope_reseal(kt_envelope_ctx *from, kt_envelope_ctx *to, const char *name,
					 uint8_t *envelope, size_t len, kt_err *err);

/* Parse strictly, without any key: magic, version, algorithm, reserved bits, lengths. KT_E_INPUT with the offset. */
KT_MUST_CHECK kt_code kt_envelope_inspect(const void *envelope, size_t len, kt_envelope_info *info, kt_err *err);

#endif

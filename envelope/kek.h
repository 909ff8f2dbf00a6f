/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The KEK: the middle of the hierarchy CMK -> KEK -> DEK, and the record in which a store keeps it.
 *
 * The CMK never leaves its keystore (keystore/keystore.h), which wraps the KEK. The record names the KEK (id,
 * generation, KCV) and the CMK (KCV), and ends in an HMAC over all of it, keyed from the KEK itself, so that nothing in
 * it can be altered unnoticed. Exact bytes: docs/FORMATS.md, "Envelope".
 */
#ifndef KT_ENVELOPE_KEK_H
#define KT_ENVELOPE_KEK_H

#include "base/buf.h"
#include "base/secret.h"
#include "keystore/keystore.h"

enum {
	KT_KEK_ID_LEN = 16, /* random */
	KT_KEK_ID_HEX = 33, /* with the closing NUL */
	KT_KEK_RECORD_HEAD = 48,
	KT_KEK_RECORD_BLOB_MAX = 4096,
	KT_KEK_RECORD_MAC = 32
};

/* Invariant: key.len is KT_KEK_LEN while the KEK is in use, 0 before and after. */
typedef struct kt_kek {
	uint8_t id[KT_KEK_ID_LEN];
	uint32_t generation; /* 1 for the first KEK of a store, one more with each rekey */
	kt_secret key;
} kt_kek;

#define KT_KEK_INIT ((kt_kek){0})

/* What a record says without any key. Texts end in NUL. */
typedef struct kt_kek_info {
	char id[KT_KEK_ID_HEX];
	uint32_t generation; /* 1.. */
	int64_t created_ms;
	char kcv[KT_KCV_TEXT];     /* of the KEK; KT_KCV_METHOD */
	char cmk_kcv[KT_KCV_TEXT]; /* of the CMK that wraps it, or KT_KEYSTORE_NO_KCV */
} kt_kek_info;

/*
 * A new random KEK, made and wrapped by `cmk`; its record is appended to `record`. `generation` is 1.., `created_ms`
 * the caller's wall clock. *kek is the caller's (kt_kek_free) on success and empty otherwise. Errors of the keystore
 * pass by.
 */
KT_MUST_CHECK kt_code kt_kek_make(kt_keystore *cmk, uint32_t generation, int64_t created_ms, kt_kek *kek,
				  kt_buf *record, kt_err *err);
/* The record of a KEK that is there already, wrapped by another CMK (it keeps its id and generation), appended to
 * `record`. `created_ms`: of the record. Errors of the keystore pass by. */
KT_MUST_CHECK kt_code kt_kek_wrap(const kt_kek *kek, kt_keystore *cmk, int64_t created_ms, kt_buf *record, kt_err *err);
/*
 * The same KEK under another CMK: the record that `from` opens becomes one that `to` opens (with the same id,
 * generation and time), appended to `moved`; see kt_keystore_move_kek for the way. What `to` opens has made the old
 * record's MAC, or it is not taken for the KEK. *kek is the caller's (kt_kek_free) on success and empty otherwise.
 * Errors as of kt_kek_open and kt_kek_wrap.
 */
KT_MUST_CHECK kt_code kt_kek_move(const void *record, size_t len, kt_keystore *from, kt_keystore *to, kt_kek *kek,
				  kt_buf *moved, kt_err *err);
/* Wipe and free; NULL and KT_KEK_INIT are fine. */
void kt_kek_free(kt_kek *kek);

/*
 * Have `cmk` unwrap the KEK of a record. *kek is the caller's (kt_kek_free) on success and empty otherwise.
 * KT_E_INPUT: the record is malformed (the message gives the offset) or was altered. KT_E_KEY: this CMK does not open
 * it (the message gives the KCV of the key that was tried and of the one that is needed). KT_E_REFUSED as
 * kt_kek_inspect. Other errors of the keystore pass by.
 */
KT_MUST_CHECK kt_code kt_kek_open(const void *record, size_t len, kt_keystore *cmk, kt_kek *kek, kt_err *err);

/* Parse a record strictly, without any key (so nothing in it is proven yet). KT_E_INPUT with the offset;
 * KT_E_REFUSED: it names a mechanism that keyturn never wraps with. */
KT_MUST_CHECK kt_code kt_kek_inspect(const void *record, size_t len, kt_kek_info *info, kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The KEK: the middle of the hierarchy CMK -> KEK -> DEK, and the record in which a store keeps it.
 *
 * The CMK never leaves its keystore (keystore/keystore.h), which wraps the KEK. The record names the KEK (id, generation,
 * KCV) and the CMK (KCV), and ends in an HMAC over all of it, keyed from the KEK itself, so that nothing in it can be
 * altered unnoticed. Exact bytes: docs/FORMATS.md, "Envelope".
 */
#ifndef KT_ENVELOPE_KEK_H
#define KT_ENVELOPE_KEK_H

#include "base/buf.h"
#include "base/secret.h"
#include "keystore/keystore.h"

enum {
	KT_KEK_LEN = 32,     /* AES-256 */
	KT_KEK_ID_LEN = 16,  /* random */
	KT_KEK_ID_HEX = 33,  /* with the closing NUL */
	KT_KEK_KCV_LEN = 3,  /* cmac-zero16, docs/FORMATS.md section 5 */
	KT_KEK_KCV_HEX = 7,
	KT_KEK_WRAPPED_MAX = 1024,
	KT_KEK_RECORD_HEAD = 48,
	KT_KEK_RECORD_MAC = 32,
	KT_KEK_RECORD_MAX = KT_KEK_RECORD_HEAD + KT_KEK_WRAPPED_MAX + KT_KEK_RECORD_MAC
};

/* Invariant: key.len is KT_KEK_LEN while the KEK is in use, 0 before and after. */
typedef struct kt_kek {
	uint8_t id[KT_KEK_ID_LEN];
	uint32_t generation; /* 1 for the first KEK of a store, one more with each rekey */
	int64_t created_ms;
	uint8_t kcv[KT_KEK_KCV_LEN];
	kt_secret key;
} kt_kek;

#define KT_KEK_INIT ((kt_kek){0})

/* What a record says without any key. Hex texts end in NUL. */
typedef struct kt_kek_info {
	char id[KT_KEK_ID_HEX];
	uint32_t generation; /* 1.. */
	int64_t created_ms;
	char kcv[KT_KEK_KCV_HEX];     /* of the KEK */
	char cmk_kcv[KT_KEK_KCV_HEX]; /* of the CMK that wraps it */
	size_t wrapped_len;
} kt_kek_info;

/* A fresh random KEK. The caller frees it with kt_kek_free. `created_ms` is the caller's wall clock. */
KT_MUST_CHECK kt_code kt_kek_new(kt_kek *kek, uint32_t generation, int64_t created_ms, kt_err *err);
/* Wipe and free; NULL and KT_KEK_INIT are fine. */
void kt_kek_free(kt_kek *kek);

/* Have `cmk` wrap the KEK, and append the whole record to `out`. Errors of the keystore pass by. */
KT_MUST_CHECK kt_code kt_kek_record_make(const kt_kek *kek, kt_keystore *cmk, kt_buf *out, kt_err *err);

/*
 * Have `cmk` unwrap the KEK of a record. *kek is the caller's (kt_kek_free) on success and empty otherwise.
 * KT_E_INPUT: the record is malformed (the message gives the offset) or was altered. KT_E_KEY: this CMK does not open it
 * (the message gives the KCV of the key that was tried and of the one that is needed). Other errors of the keystore pass by.
 */
KT_MUST_CHECK kt_code kt_kek_record_open(const void *record, size_t len, kt_keystore *cmk, kt_kek *kek, kt_err *err);

/* Parse a record strictly, without any key. KT_E_INPUT with the offset. */
KT_MUST_CHECK kt_code kt_kek_record_inspect(const void *record, size_t len, kt_kek_info *info, kt_err *err);

#endif

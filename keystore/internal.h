/* SPDX-License-Identifier: Apache-2.0 */
/* A scheme is a row of functions; a new one is one more file and one more row in keystore.c. */
#ifndef KT_KEYSTORE_INTERNAL_H
#define KT_KEYSTORE_INTERNAL_H

#include "keystore/aws.h"
#include "keystore/keystore.h"
#include "pkcs11/key.h"

typedef struct kt_keystore_scheme {
	const char *prefix; /* "file:" */
	/* `rest` is the URI after the prefix. Sets ks->uri, ks->kcv and the key; what it set is released by close. */
	kt_code (*open)(kt_keystore *ks, const char *rest, kt_err *err);
	kt_code (*new_kek)(kt_keystore *ks, kt_secret *kek, kt_blob *out, kt_err *err);
	kt_code (*wrap_kek)(kt_keystore *ks, const kt_secret *kek, kt_blob *out, kt_err *err);
	kt_code (*unwrap_kek)(kt_keystore *ks, const kt_blob *blob, kt_secret *kek, kt_err *err);
	/* Optional. As kt_keystore_move_kek, between two keystores of this scheme; `*moved` is false, and all is well,
	 * where these two cannot. */
	kt_code (*move_kek)(kt_keystore *to, kt_keystore *from, const kt_blob *blob, kt_secret *kek, kt_blob *out,
			    bool *moved, kt_err *err);
	/* Optional: KT_KEYSTORE_RANDOM bytes of a generator that is not this machine's. */
	kt_code (*random)(kt_keystore *ks, kt_secret *out, kt_err *err);
} kt_keystore_scheme;

/* Invariant: exactly one is set: cmk (file:, env:), token and key (pkcs11:), or kms (awskms:). */
struct kt_keystore {
	const kt_keystore_scheme *scheme;
	kt_buf uri;
	char kcv[KT_KCV_TEXT];
	kt_secret cmk;
	kt_token *token;
	kt_token_key key;
	kt_aws_kms *kms;
};

extern const kt_keystore_scheme kt_keystore_file;
extern const kt_keystore_scheme kt_keystore_env;
extern const kt_keystore_scheme kt_keystore_pkcs11;
extern const kt_keystore_scheme kt_keystore_awskms;

/* awskms.c: end it (NULL is fine); is it the key that a blob of format KT_BLOB_AWS_KMS names? */
void kt_keystore_awskms_close(kt_aws_kms *kms);
bool kt_keystore_awskms_made(const kt_aws_kms *kms, const kt_blob *blob);

/* local.c: what file: and env: share. Take base64 text as the CMK; `where` names its place in messages. */
KT_MUST_CHECK kt_code kt_keystore_take_cmk(kt_keystore *ks, const kt_secret *text, const char *where, kt_err *err);
KT_MUST_CHECK kt_code kt_keystore_local_new(kt_keystore *ks, kt_secret *kek, kt_blob *out, kt_err *err);
KT_MUST_CHECK kt_code kt_keystore_local_wrap(kt_keystore *ks, const kt_secret *kek, kt_blob *out, kt_err *err);
KT_MUST_CHECK kt_code kt_keystore_local_unwrap(kt_keystore *ks, const kt_blob *blob, kt_secret *kek, kt_err *err);

enum {
	KT_KEYSTORE_TEXT_MAX = 4096, /* bytes of a key's text that are looked at */
	KT_KEYSTORE_RANDOM = 32      /* bytes: a seed's strength, SP 800-90A */
};

#endif

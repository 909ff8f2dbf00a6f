/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keystores: where a CMK (customer master key, AES-256) lives, named by URI. What is done with one is wrapping and
 * unwrapping a KEK. Schemes:
 *   file:/absolute/path   base64 of 32 bytes (a newline is tolerated), mode exactly 0400
 *   env:NAME              base64 of 32 bytes in an environment variable
 *   awskms:KEY[?region=REGION][&context=TEXT]  a symmetric key of AWS KMS, which it never leaves
 *   pkcs11:...            a wrapping key in a token, named by `object` and/or `id`; the CMK never leaves it
 * Under a CMK of file: and env: a KEK is wrapped by libcrypto, in a token by C_WrapKey; RFC 5649 where possible.
 * AWS KMS has its own format (KT_BLOB_AWS_KMS).
 */
#ifndef KT_KEYSTORE_KEYSTORE_H
#define KT_KEYSTORE_KEYSTORE_H

#include "base/keymsg.h"
#include "base/secret.h"
#include "wire/blob.h"

/* What an operator of Looker knows these failures by; word for word as documented there (base/keymsg.h, which the agent
 * shares). Class KT_E_KEY. */
#define KT_KEYSTORE_MISSING KT_KEYMSG_MISSING
#define KT_KEYSTORE_SIZE KT_KEYMSG_SIZE
#define KT_KEYSTORE_MODE KT_KEYMSG_MODE

enum { KT_CMK_LEN = 32, KT_KEK_LEN = 32 };

typedef struct kt_keystore kt_keystore;

/*
 * Open a keystore and check its CMK. KT_E_INPUT: the URI is malformed or of an unknown scheme (the known ones are
 * listed). KT_E_KEY: the key is missing, of wrong size or mode, or not base64. KT_E_HSM, KT_E_IO: from below. Of AWS
 * KMS also KT_E_REFUSED: credentials, permission or the key's state; KT_E_UNREACHABLE: not reached, or it failed each
 * time. One thread at a time. *out is the caller's: kt_keystore_close (NULL is fine), which wipes the CMK or ends the
 * session.
 */
KT_MUST_CHECK kt_code kt_keystore_open(const char *uri, kt_keystore **out, kt_err *err);
void kt_keystore_close(kt_keystore *ks);

/* What stands for the check value of a key of AWS KMS: nobody can take one. Its ARN tells which key it is. */
#define KT_KEYSTORE_NO_KCV "none"
/* The encryption context of AWS KMS where none is said. */
#define KT_KEYSTORE_AWS_CONTEXT "Looker_Encryption_Context"
/* The URI of a key of AWS KMS (alias/NAME, id or ARN) with an encryption context (NULL or "": none is said), appended.
 */
KT_MUST_CHECK kt_code kt_keystore_awskms_uri(const char *key, const char *context, kt_buf *out, kt_err *err);

/* Make a symmetric key in AWS KMS with the alias that awskms:alias/NAME[?region=REGION] names; its ARN is appended to
 * `arn`, the alias to its description. It is asked for once: KT_E_UNREACHABLE leaves open whether a key without an
 * alias was made, and the remedy says how to find it by that description. KT_E_REFUSED: the alias is taken, or this is
 * not allowed. */
KT_MUST_CHECK kt_code kt_keystore_awskms_create(const char *uri, const char *description, kt_buf *arn, kt_err *err);
/* The IAM policy (JSON, a line at its end) that awskms: needs, appended to `out`: for every key of the account (`uri`
 * NULL), or for the one that an awskms: URI names. `create`: for kt_keystore_awskms_create, too. */
KT_MUST_CHECK kt_code kt_keystore_awskms_policy(const char *uri, bool create, kt_buf *out, kt_err *err);

/* The URI without a pin-source, and the CMK's check value (KT_KCV_METHOD, or KT_KEYSTORE_NO_KCV). Owned by the
 * keystore.
 */
const char *kt_keystore_uri(const kt_keystore *ks);
const char *kt_keystore_kcv(const kt_keystore *ks);

/* Does a blob say that it was wrapped by this CMK: by its check value, or its ARN? */
bool kt_keystore_made(const kt_keystore *ks, const kt_blob *blob);

/* A new random KEK (32 bytes, generated in the token for pkcs11:, by AWS for awskms:) and its wrapping under the CMK,
 * purpose KT_BLOB_KEK.
 */
KT_MUST_CHECK kt_code kt_keystore_new_kek(kt_keystore *ks, kt_secret *kek, kt_blob *out, kt_err *err);
/* Wrap a KEK that is there already (moving it to another CMK). A token that takes no key in the clear refuses:
 * KT_E_HSM. */
KT_MUST_CHECK kt_code kt_keystore_wrap_kek(kt_keystore *ks, const kt_secret *kek, kt_blob *out, kt_err *err);
/*
 * Move a KEK from the CMK that wrapped it to another: `out` is its wrapping under `to`, *kek the KEK, the caller's.
 * Where both are keys of AWS KMS in one region it is ReEncrypt that moves it, and *kek is what `to` opened of that,
 * checked against `blob`; where this is not allowed (said in the log), and everywhere else, it is unwrapped by `from`
 * and wrapped by `to`. It changes nothing that is kept, and may be repeated. Errors as of both.
 */
KT_MUST_CHECK kt_code kt_keystore_move_kek(kt_keystore *to, kt_keystore *from, const kt_blob *blob, kt_secret *kek,
					   kt_blob *out, kt_err *err);
/*
 * Before keys are made in this process: 32 random bytes of whoever has the CMK (GenerateRandom of AWS KMS,
 * C_GenerateRandom of a token) go into libcrypto's generator beside this machine's own (kt_secret_stir), so that those
 * keys do not rest on this machine's entropy alone: it may be a clone. Nothing is done where the CMK is in a file or a
 * variable. KT_E_REFUSED: it is not allowed, or there is no generator; keys can be made all the same.
 */
KT_MUST_CHECK kt_code kt_keystore_stir(kt_keystore *ks, kt_err *err);
/* Open it. KT_E_KEY when this CMK is not the one that wrapped it (its KCV or ARN differs) or the blob was damaged. */
KT_MUST_CHECK kt_code kt_keystore_unwrap_kek(kt_keystore *ks, const kt_blob *blob, kt_secret *kek, kt_err *err);

#endif

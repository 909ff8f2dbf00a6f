/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RSA pairs for recovery (S6: a key goes from token to token, and is never in the clear):
 *
 *                    TOKEN PRIVATE SENSITIVE EXTRACTABLE UNWRAP DECRYPT SIGN SIGN_RECOVER DERIVE
 *   custodian key      1      1        1          0        1       0      0       0          0
 *   recovery key       0      1        1          0        1       0      0       0          0
 *
 * A custodian's key opens escrows. A recovery key is made by a fresh token, for one session: a custodian's token wraps
 * to it what it has opened. Made, read back and found as in pkcs11/transport.h, of which the type is.
 */
#ifndef KT_PKCS11_RSA_KEY_H
#define KT_PKCS11_RSA_KEY_H

#include "pkcs11/transport.h"
#include "wire/blob.h"

typedef kt_token_transport kt_token_rsa_key;

enum { KT_RSA_KEY_BITS = 3072 };

/* Make a custodian's pair on the token. KT_E_REFUSED when there is a key of this name already. */
KT_MUST_CHECK kt_code kt_token_custodian_make(kt_token *t, const kt_token_key_name *name, kt_token_rsa_key *out,
					      kt_err *err);
/* The one of this name. KT_E_KEY: none, or more than one; KT_E_REFUSED: it may do what it must not. */
KT_MUST_CHECK kt_code kt_token_custodian_find(kt_token *t, const kt_token_key_name *name, kt_token_rsa_key *out,
					      kt_err *err);
/* A pair for this session. kt_token_recovery_drop, or closing the token, ends it. */
KT_MUST_CHECK kt_code kt_token_recovery_make(kt_token *t, kt_token_rsa_key *out, kt_err *err);
void kt_token_recovery_drop(kt_token *t, kt_token_rsa_key *key);

/*
 * Unwrap a blob into a cluster key *on* the token, under this name (label and id); read back, KCV and MAC checked,
 * destroyed on a mismatch. From under a wrapping key (errors as of kt_token_unwrap_under), or with the private half of
 * an RSA pair (as of kt_token_unwrap_rsa). KT_E_REFUSED when a key has that id already.
 */
KT_MUST_CHECK kt_code kt_token_recover_under(kt_token *t, const kt_blob *blob, const kt_token_key *wrapping,
					     const kt_token_key_name *name, kt_token_key *out, kt_err *err);
KT_MUST_CHECK kt_code kt_token_recover_rsa(kt_token *t, const kt_blob *blob, const kt_token_rsa_key *priv,
					   const kt_token_key_name *name, kt_token_key *out, kt_err *err);
/* The value of a custodian's blob, in this process: 32 bytes, for a key file that an application reads. Errors as of
 * kt_token_unwrap_rsa. *out is the caller's. */
KT_MUST_CHECK kt_code kt_token_export_rsa(kt_token *t, const kt_token_rsa_key *priv, const kt_blob *blob,
					  kt_secret *out, kt_err *err);

#endif

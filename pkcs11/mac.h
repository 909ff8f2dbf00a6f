/* SPDX-License-Identifier: Apache-2.0 */
/* The check value and the proof of base/kcv.h, computed in the token over a key that never leaves it. */
#ifndef KT_PKCS11_MAC_H
#define KT_PKCS11_MAC_H

#include "base/kcv.h"
#include "pkcs11/key.h"

/* KCV of the key as the token computes it now (key->kcv holds the same, from when the key was made or found). */
KT_MUST_CHECK kt_code kt_token_kcv(kt_token *t, const kt_token_key *key, char out[KT_KCV_TEXT], kt_err *err);
/* AES-CMAC over label || 0x00 || nonce under the key's MAC key, which is derived in the token; equal to kt_proof_of
 * over the same key. Compare with CRYPTO_memcmp. */
KT_MUST_CHECK kt_code kt_token_proof(kt_token *t, const kt_token_key *key, const char *label, const void *nonce,
				     size_t nonce_len, uint8_t out[KT_PROOF_LEN], kt_err *err);

#endif

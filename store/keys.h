/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The variables of the documented procedures, and the keystores that they name:
 *   LKR_MASTER_KEY_FILE  a file with the CMK (keystore file:)
 *   LKR_MASTER_KEY_ENV   the CMK itself, base64 (keystore env:)
 *   LKR_AWS_CMK          a key of AWS KMS: alias/NAME, id or ARN (keystore awskms:), with LKR_AWS_CMK_EC its encryption
 *                        context
 *   LKR_PKCS11_CMK       the pkcs11: URI of a wrapping key in a token (keystore pkcs11:); of ours, not documented there
 * each plain (what the node runs with), with _SOURCE and with _DESTINATION (what a rekey turns from and to). An empty
 * variable counts as absent.
 */
#ifndef KT_STORE_KEYS_H
#define KT_STORE_KEYS_H

#include <stdbool.h>

#include "keystore/keystore.h"

typedef enum kt_keys_role { KT_KEYS_PLAIN, KT_KEYS_SOURCE, KT_KEYS_DESTINATION } kt_keys_role;

/*
 * The keystore's URI for a role; *uri is the caller's (free). KT_E_KEY: no variable is set (KT_KEYSTORE_MISSING for the
 * plain ones), or two that contradict each other.
 */
KT_MUST_CHECK kt_code kt_keys_uri(kt_keys_role role, char **uri, kt_err *err);
/* Is any variable of that role set? */
bool kt_keys_set(kt_keys_role role);
/* Open it; the caller's: kt_keystore_close. Errors of the keystore pass by. */
KT_MUST_CHECK kt_code kt_keys_open(kt_keys_role role, kt_keystore **out, kt_err *err);
/* Overwrite and unset the variables that hold a key itself: a node does not need them after its start. */
void kt_keys_scrub(void);

#endif

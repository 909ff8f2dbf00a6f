/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages between a token owner and its parent (docs/FORMATS.md, "Token owner"): one frame of wire/frame.h, and
 * behind it as many raw bytes as its member "secret" says. Private to pkcs11/.
 */
#ifndef KT_PKCS11_OWNER_WIRE_H
#define KT_PKCS11_OWNER_WIRE_H

#include "base/json.h"
#include "base/secret.h"
#include "wire/frame.h"

/* Write a message; adds the member "secret" to `payload` when there is one (NULL or empty: none). KT_E_IO: the other
 * side is gone. */
KT_MUST_CHECK kt_code kt_owner_send(int fd, kt_frame_kind kind, cJSON *payload, const kt_secret *secret, kt_err *err);
/* Read one message, whole: never a byte more, so that a secret is read into locked memory alone. *payload is the
 * caller's; *secret is empty when none came along. *payload NULL and KT_OK: the other side has ended the conversation.
 */
KT_MUST_CHECK kt_code kt_owner_receive(int fd, kt_frame_kind *kind, cJSON **payload, kt_secret *secret, kt_err *err);

#endif

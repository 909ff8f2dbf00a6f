/* SPDX-License-Identifier: Apache-2.0 */
/* A custodian's public key, read from the file that cluster.json names. */
#ifndef KT_INVENTORY_CUSTODIAN_H
#define KT_INVENTORY_CUSTODIAN_H

#include "base/codec.h"
#include "orchestrator/inventory/inventory.h"

/* The PEM ("PUBLIC KEY", RFC 7468 §13) appended to `pem`, and the SHA-256 of its SubjectPublicKeyInfo in hex. KT_E_IO:
 * it cannot be read; KT_E_INPUT: it is no public key; KT_E_REFUSED: no RSA key of 2,048 bits or more. */
KT_MUST_CHECK kt_code kt_custodian_read(const kt_custodian *custodian, kt_buf *pem, char spki_sha256[KT_SHA256_HEX],
					kt_err *err);

#endif

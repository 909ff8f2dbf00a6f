/* SPDX-License-Identifier: Apache-2.0 */
/* A custodian's public key, read from the file that cluster.json names. */
#ifndef KT_INVENTORY_CUSTODIAN_H
#define KT_INVENTORY_CUSTODIAN_H

#include "base/codec.h"
#include "orchestrator/inventory/inventory.h"

/* What is read of one. */
typedef struct kt_custodian_key {
	kt_buf pem; /* "PUBLIC KEY" (RFC 7468 §13), nothing before or after it */
	char spki_sha256[KT_SHA256_HEX];
	unsigned accepts; /* bits 1 << kt_blob_format of what their token opens; 0: it was not said */
} kt_custodian_key;

/*
 * Read the file. Before the PEM it may say what the custodian's token was found to open, as `keyturn key generate
 * --custodian` writes it: a line "Opens: rsa-oaep-sha256 rsa-oaep-sha1". KT_E_IO: it cannot be read; KT_E_INPUT: it is
 * no public key, or that line is not understood; KT_E_REFUSED: no RSA key of 2,048 bits or more. Free with
 * kt_custodian_key_free, also after failure.
 */
KT_MUST_CHECK kt_code kt_custodian_read(const kt_custodian *custodian, kt_custodian_key *out, kt_err *err);
void kt_custodian_key_free(kt_custodian_key *key);
/* That line, appended to `out`. */
KT_MUST_CHECK kt_code kt_custodian_opens(unsigned accepts, kt_buf *out, kt_err *err);

#endif

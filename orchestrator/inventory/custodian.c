/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/inventory/custodian.h"

#include <openssl/evp.h>
#include <openssl/pem.h>

#include "base/file.h"
#include "wire/blob.h"

enum { PEM_MAX = 16 * 1024, MIN_BITS = 2048 };

static const char remedy[] =
	"ask the custodian for the public half of their key again (keyturn key generate --custodian "
	"prints it)";

static kt_code digest(const kt_custodian *c, const kt_buf *pem, char out[KT_SHA256_HEX], kt_err *err)
{
	BIO *bio = BIO_new_mem_buf(pem->data, (int)pem->len);
	EVP_PKEY *key = bio ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;
	kt_code rc = KT_OK;
	BIO_free(bio);
	if (!key)
		rc = kt_fail(err, KT_E_INPUT, remedy, "%s is no public key in PEM (\"PUBLIC KEY\")", c->public_key);
	else if (!EVP_PKEY_is_a(key, "RSA") || EVP_PKEY_get_bits(key) < MIN_BITS)
		rc = kt_fail(err, KT_E_REFUSED, remedy, "%s is no RSA key of %d bits or more", c->public_key,
			     (int)MIN_BITS);
	else
		rc = kt_blob_spki_sha256(key, out, err);
	EVP_PKEY_free(key);
	return rc;
}

kt_code kt_custodian_read(const kt_custodian *custodian, kt_buf *pem, char spki_sha256[KT_SHA256_HEX], kt_err *err)
{
	pem->max = PEM_MAX;
	kt_code rc = kt_file_read(custodian->public_key, pem, err);
	if (rc == KT_OK)
		rc = digest(custodian, pem, spki_sha256, err);
	return rc == KT_OK ? rc : kt_err_prefix(err, rc, "the public key of custodian %s", custodian->name);
}

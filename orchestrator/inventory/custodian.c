/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/inventory/custodian.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <string.h>

#include "base/file.h"
#include "wire/blob.h"

enum { PEM_MAX = 16 * 1024, MIN_BITS = 2048 };

static const char remedy[] =
	"ask the custodian for the public half of their key again (keyturn key generate --custodian "
	"prints it)";

static const char opens[] = "Opens:";
static const kt_blob_format formats[] = {KT_BLOB_RSA_OAEP_SHA256, KT_BLOB_RSA_OAEP_SHA1};

enum { FORMATS = sizeof formats / sizeof formats[0] };

/* --- What their token opens --------------------------------------------------------------------------------------- */

kt_code kt_custodian_opens(unsigned accepts, kt_buf *out, kt_err *err)
{
	KT_TRY(kt_buf_str(out, opens, err));
	for (size_t i = 0; i < FORMATS; i++)
		if (accepts & 1U << formats[i])
			KT_TRY(kt_buf_printf(out, err, " %s", kt_blob_format_name(formats[i])));
	return kt_buf_str(out, "\n", err);
}

static kt_code read_word(const kt_custodian *c, const char *word, size_t n, unsigned *accepts, kt_err *err)
{
	for (size_t i = 0; i < FORMATS; i++) {
		const char *name = kt_blob_format_name(formats[i]);
		if (strlen(name) == n && strncmp(name, word, n) == 0) {
			*accepts |= 1U << formats[i];
			return KT_OK;
		}
	}
	return kt_fail(err, KT_E_INPUT, remedy, "%s: \"%.*s\" after \"Opens:\" is no format of a wrapped key",
		       c->public_key, (int)(n < 40 ? n : 40), word);
}

/* The line, where there is one before the PEM. */
static kt_code read_opens(const kt_custodian *c, const char *text, unsigned *accepts, kt_err *err)
{
	if (strncmp(text, opens, sizeof opens - 1) != 0)
		return KT_OK;
	for (const char *p = text + sizeof opens - 1; *p && *p != '\n';) {
		size_t n = strcspn(p, " \r\n");
		if (n)
			KT_TRY(read_word(c, p, n, accepts, err));
		p += n;
		p += strspn(p, " \r");
	}
	if (*accepts)
		return KT_OK;
	return kt_fail(err, KT_E_INPUT, remedy, "%s: nothing stands after \"Opens:\"", c->public_key);
}

/* --- The key ------------------------------------------------------------------------------------------------------ */

static kt_code write_pem(EVP_PKEY *key, kt_buf *out, kt_err *err)
{
	char *text;
	BIO *bio = BIO_new(BIO_s_mem());
	kt_code rc = KT_OK;
	if (!bio || PEM_write_bio_PUBKEY(bio, key) != 1) {
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "libcrypto cannot write a public key");
	} else {
		long n = BIO_get_mem_data(bio, &text);
		rc = kt_buf_append(out, text, (size_t)n, err);
	}
	BIO_free(bio);
	return rc;
}

static kt_code parse(const kt_custodian *c, const kt_buf *text, kt_custodian_key *out, kt_err *err)
{
	BIO *bio = BIO_new_mem_buf(text->data, (int)text->len);
	EVP_PKEY *key = bio ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;
	kt_code rc = KT_OK;
	BIO_free(bio);
	if (!key)
		rc = kt_fail(err, KT_E_INPUT, remedy, "%s is no public key in PEM (\"PUBLIC KEY\")", c->public_key);
	else if (!EVP_PKEY_is_a(key, "RSA") || EVP_PKEY_get_bits(key) < MIN_BITS)
		rc = kt_fail(err, KT_E_REFUSED, remedy, "%s is no RSA key of %d bits or more", c->public_key,
			     (int)MIN_BITS);
	if (rc == KT_OK)
		rc = kt_blob_spki_sha256(key, out->spki_sha256, err);
	if (rc == KT_OK)
		rc = write_pem(key, &out->pem, err);
	if (rc == KT_OK)
		rc = read_opens(c, kt_buf_cstr(text), &out->accepts, err);
	EVP_PKEY_free(key);
	return rc;
}

kt_code kt_custodian_read(const kt_custodian *custodian, kt_custodian_key *out, kt_err *err)
{
	kt_buf text = {.max = PEM_MAX};
	*out = (kt_custodian_key){0};
	kt_code rc = kt_file_read(custodian->public_key, &text, err);
	if (rc == KT_OK)
		rc = parse(custodian, &text, out, err);
	kt_buf_free(&text);
	if (rc == KT_OK)
		return KT_OK;
	kt_custodian_key_free(out);
	return kt_err_prefix(err, rc, "the public key of custodian %s", custodian->name);
}

void kt_custodian_key_free(kt_custodian_key *key)
{
	kt_buf_free(&key->pem);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Keystores whose CMK is in this process: wrapping by libcrypto, RFC 5649. */
#include <stdio.h>

#include "keystore/internal.h"

static bool blank(const kt_secret *text)
{
	for (size_t i = 0; i < text->len; i++)
		if (text->data[i] != '\n' && text->data[i] != '\r')
			return false;
	return true;
}

kt_code kt_keystore_take_cmk(kt_keystore *ks, const kt_secret *text, const char *where, kt_err *err)
{
	kt_secret key = KT_SECRET_INIT;
	if (!blank(text) && kt_secret_from_base64(text, &key, NULL) != KT_OK)
		return kt_fail(err, KT_E_KEY, "make a key with: openssl rand -base64 32",
			       "the master key in %s is not base64 of %d bytes", where, KT_CMK_LEN);
	kt_code rc = KT_OK;
	if (key.len != KT_CMK_LEN) {
		char remedy[KT_ERR_REMEDY];
		(void)snprintf(remedy, sizeof remedy, "put base64 of %d bytes in %.300s (openssl rand -base64 %d)",
			       KT_CMK_LEN, where, KT_CMK_LEN);
		rc = kt_fail(err, KT_E_KEY, remedy, KT_KEYSTORE_SIZE, key.len);
	} else {
		rc = kt_kcv_of(&key, ks->kcv, err);
	}
	if (rc != KT_OK) {
		kt_secret_free(&key);
		return rc;
	}
	ks->cmk = key;
	return KT_OK;
}

kt_code kt_keystore_local_wrap(kt_keystore *ks, const kt_secret *kek, kt_blob *out, kt_err *err)
{
	KT_TRY(kt_blob_begin(&(kt_blob_address){.purpose = KT_BLOB_KEK}, out, err));
	return kt_blob_wrap_aes(out, &ks->cmk, kek, err);
}

kt_code kt_keystore_local_new(kt_keystore *ks, kt_secret *kek, kt_blob *out, kt_err *err)
{
	KT_TRY(kt_secret_random(kek, KT_KEK_LEN, err));
	kt_code rc = kt_keystore_local_wrap(ks, kek, out, err);
	if (rc != KT_OK)
		kt_secret_free(kek);
	return rc;
}

kt_code kt_keystore_local_unwrap(kt_keystore *ks, const kt_blob *blob, kt_secret *kek, kt_err *err)
{
	return kt_blob_unwrap_aes(blob, &ks->cmk, kek, err);
}

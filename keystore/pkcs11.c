/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pkcs11:...;object=LABEL and/or ;id=...: the CMK is a wrapping key of a token and never leaves it. The KEK is
 * generated and unwrapped by the token as a session object that may be read, read once into locked memory, and
 * destroyed.
 */
#include <string.h>

#include "keystore/internal.h"
#include "pkcs11/wrap.h"

static kt_code parse(kt_keystore *ks, const char *text, kt_uri *uri, kt_err *err)
{
	KT_TRY(kt_uri_parse(text, uri, err));
	if (!uri->object[0] && !uri->id_len)
		return kt_fail(err, KT_E_INPUT, "add object= (the label) or id= of the key to the URI",
			       "the pkcs11: keystore does not name a key");
	if (uri->type[0] && strcmp(uri->type, "secret-key") != 0)
		return kt_fail(err, KT_E_INPUT, "write type=secret-key or leave it out",
			       "the key of a keystore is a secret key");
	return kt_uri_format(uri, &ks->uri, err);
}

static kt_code open_pkcs11(kt_keystore *ks, const char *rest, kt_err *err)
{
	kt_uri uri;
	const char *text = rest - strlen(ks->scheme->prefix);
	KT_TRY(parse(ks, text, &uri, err));
	const kt_token_key_name name = {.label = uri.object[0] ? uri.object : NULL, .id = uri.id, .id_len = uri.id_len};
	KT_TRY(kt_token_open(text, &ks->token, err));
	KT_TRY(kt_token_find_wrapping_key(ks->token, &name, &ks->key, err));
	memcpy(ks->kcv, ks->key.kcv, sizeof ks->kcv);
	return KT_OK;
}

static kt_code new_kek(kt_keystore *ks, kt_secret *kek, kt_blob *out, kt_err *err)
{
	return kt_token_make_kek(ks->token, &ks->key, kek, out, err);
}

static kt_code wrap_kek(kt_keystore *ks, const kt_secret *kek, kt_blob *out, kt_err *err)
{
	return kt_token_import_kek(ks->token, &ks->key, kek, out, err);
}

static kt_code unwrap_kek(kt_keystore *ks, const kt_blob *blob, kt_secret *kek, kt_err *err)
{
	return kt_token_export_kek(ks->token, &ks->key, blob, kek, err);
}

static kt_code random_bytes(kt_keystore *ks, kt_secret *out, kt_err *err)
{
	return kt_token_random(ks->token, KT_KEYSTORE_RANDOM, out, err);
}

const kt_keystore_scheme kt_keystore_pkcs11 = {.prefix = "pkcs11:",
					       .open = open_pkcs11,
					       .new_kek = new_kek,
					       .wrap_kek = wrap_kek,
					       .unwrap_kek = unwrap_kek,
					       .random = random_bytes};

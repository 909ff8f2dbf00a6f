/* SPDX-License-Identifier: Apache-2.0 */
#include "pkcs11/rsa_key.h"

#include "pkcs11/internal.h"
#include "pkcs11/wrap.h"

static const kt_p11_pair custodian_pair = {.what = "custodian's key", .on_token = true, .unwrap_only = true};
static const kt_p11_pair recovery_pair = {.what = "recovery key", .on_token = false, .unwrap_only = true};

/* --- The pairs ---------------------------------------------------------------------------------------------------- */

kt_code kt_token_custodian_make(kt_token *t, const kt_token_key_name *name, kt_token_rsa_key *out, kt_err *err)
{
	kt_token_rsa_key there[KT_TRANSPORT_KEYS_MAX];
	size_t n = 0;
	*out = (kt_token_rsa_key){0};
	KT_TRY(kt_p11_pair_list(t, &custodian_pair, name, there, &n, err));
	if (n)
		return kt_fail(err, KT_E_REFUSED, "use the key that is there, or give the new one another name",
			       "%s: a custodian's key of this name is there already", t->name);
	return kt_p11_pair_make(t, &custodian_pair, name, KT_RSA_KEY_BITS, out, err);
}

kt_code kt_token_custodian_find(kt_token *t, const kt_token_key_name *name, kt_token_rsa_key *out, kt_err *err)
{
	kt_token_rsa_key there[KT_TRANSPORT_KEYS_MAX];
	size_t n = 0;
	*out = (kt_token_rsa_key){0};
	KT_TRY(kt_p11_pair_list(t, &custodian_pair, name, there, &n, err));
	if (n != 1)
		return kt_fail(err, KT_E_KEY, n ? "name it by its id as well" : "correct its name",
			       "%s: it has %s custodian's key of this name", t->name, n ? "more than one" : "no");
	*out = there[0];
	return KT_OK;
}

kt_code kt_token_recovery_make(kt_token *t, kt_token_rsa_key *out, kt_err *err)
{
	const kt_token_key_name name = {.label = "keyturn-recovery"};
	return kt_p11_pair_make(t, &recovery_pair, &name, KT_RSA_KEY_BITS, out, err);
}

void kt_token_recovery_drop(kt_token *t, kt_token_rsa_key *key)
{
	if (key->handle)
		KT_IGNORE(kt_token_transport_destroy(t, key, NULL));
	*key = (kt_token_rsa_key){0};
}

/* --- Recovery ----------------------------------------------------------------------------------------------------- */

/* Only a key that is not there is recovered: two of one id could not be told apart. */
static kt_code not_there(kt_token *t, const kt_token_key_name *name, kt_err *err)
{
	kt_err found = KT_ERR_INIT;
	kt_token_key key;
	if (!name->label || !name->id_len)
		return kt_fail(err, KT_E_INPUT, "give object= and id= in the URI",
			       "a recovered key needs a label and an id");
	const kt_token_key_name by_id = {.id = name->id, .id_len = name->id_len};
	kt_code rc = kt_token_find_cluster_key(t, &by_id, &key, &found);
	if (rc == KT_OK)
		return kt_fail(err, KT_E_REFUSED, "it is not lost: `keyturn key show` tells about it",
			       "%s: a key with this id is there (\"%s\", check value %s)", t->name, key.label, key.kcv);
	if (rc != KT_E_KEY && err)
		*err = found;
	return rc == KT_E_KEY ? KT_OK : rc;
}

/* As it is found from now on. A key that does not come out so is destroyed. */
static kt_code read_back(kt_token *t, CK_OBJECT_HANDLE h, const kt_token_key_name *name, kt_token_key *out, kt_err *err)
{
	kt_code rc = kt_token_find_cluster_key(t, name, out, err);
	if (rc == KT_OK && out->handle == h)
		return KT_OK;
	kt_p11_discard(t, h);
	*out = (kt_token_key){0};
	return rc != KT_OK ? rc
			   : kt_fail(err, KT_E_HSM, "use another token", "%s: it finds another key under the new name",
				     t->name);
}

kt_code kt_token_recover_under(kt_token *t, const kt_blob *blob, const kt_token_key *wrapping,
			       const kt_token_key_name *name, kt_token_key *out, kt_err *err)
{
	CK_OBJECT_HANDLE h = 0;
	*out = (kt_token_key){0};
	KT_TRY(not_there(t, name, err));
	KT_TRY(kt_p11_may_unwrap(t, blob, wrapping, err));
	KT_TRY(kt_p11_unwrap_under(t, blob, wrapping->handle, &kt_p11_cluster_on_token, name, &h, err));
	return read_back(t, h, name, out, err);
}

kt_code kt_token_recover_rsa(kt_token *t, const kt_blob *blob, const kt_token_rsa_key *priv,
			     const kt_token_key_name *name, kt_token_key *out, kt_err *err)
{
	CK_OBJECT_HANDLE h = 0;
	size_t oaep;
	*out = (kt_token_key){0};
	KT_TRY(not_there(t, name, err));
	KT_TRY(kt_blob_for_rsa(blob, priv->spki_sha256, &oaep, err));
	KT_TRY(kt_p11_unwrap_rsa(t, blob, priv->handle, &kt_p11_cluster_on_token, name, &h, err));
	return read_back(t, h, name, out, err);
}

kt_code kt_token_export_rsa(kt_token *t, const kt_token_rsa_key *priv, const kt_blob *blob, kt_secret *out, kt_err *err)
{
	CK_OBJECT_HANDLE h = 0;
	size_t oaep;
	*out = KT_SECRET_INIT;
	KT_TRY(kt_blob_for_rsa(blob, priv->spki_sha256, &oaep, err));
	KT_TRY(kt_p11_unwrap_rsa(t, blob, priv->handle, &kt_p11_readable, NULL, &h, err));
	kt_code rc = kt_p11_read_value(t, h, out, err);
	kt_p11_discard(t, h);
	return rc;
}

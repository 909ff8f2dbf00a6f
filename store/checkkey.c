/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verb check_key: can this node use its master key, and which one is it? With a _DESTINATION that one is tried, and
 * it must not be the plain one. A throw-away KEK is made, wrapped and opened; the database is not touched.
 */
#include "base/keyuri.h"
#include "store/args.h"
#include "store/keys.h"

typedef struct check {
	kt_keystore *key, *plain; /* plain: NULL where there is no other */
	kt_blob blob;             /* of the throw-away KEK */
	const char *uri;
} check;

static kt_code try_key(check *c, kt_err *err)
{
	kt_secret kek, opened;
	KT_TRY(kt_keystore_new_kek(c->key, &kek, &c->blob, err));
	kt_code rc = kt_keystore_unwrap_kek(c->key, &c->blob, &opened, err);
	if (rc == KT_OK && !kt_secret_equal(&kek, &opened))
		rc = kt_fail(err, KT_E_KEY, "do not use this key", "%s opens a wrapped key to another one", c->uri);
	kt_secret_free(&opened);
	kt_secret_free(&kek);
	return rc;
}

/* What the plain key opens that the new one wrapped, was wrapped by the same key. */
static kt_code check_other(check *c, kt_err *err)
{
	kt_secret opened = KT_SECRET_INIT;
	kt_err why = KT_ERR_INIT;
	if (!c->plain)
		return KT_OK;
	kt_code rc = kt_keystore_unwrap_kek(c->plain, &c->blob, &opened, &why);
	kt_secret_free(&opened);
	if (rc == KT_E_UNREACHABLE || rc == KT_E_REFUSED)
		return kt_fail(err, rc, why.remedy, "%s", why.msg); /* the rekey will need the old one, too */
	if (rc != KT_OK)
		return KT_OK;
	return kt_fail(err, KT_E_KEY, "give a new key as the destination",
		       "%s and %s are the same master key: nothing would be turned", kt_keystore_uri(c->plain), c->uri);
}

static kt_code open_keys(check *c, kt_err *err)
{
	bool new = kt_keys_set(KT_KEYS_DESTINATION);
	KT_TRY(kt_keys_open(new ? KT_KEYS_DESTINATION : KT_KEYS_PLAIN, &c->key, err));
	c->uri = kt_keystore_uri(c->key);
	return new &&kt_keys_set(KT_KEYS_PLAIN) ? kt_keys_open(KT_KEYS_PLAIN, &c->plain, err) : KT_OK;
}

/* What is the same on every node that uses this key: for AWS KMS its ARN, else its check value. */
static kt_code fill_json(cJSON *o, const check *c, kt_err *err)
{
	kt_keyuri_kind kind;
	const char *rest;
	bool remote = c->blob.format == KT_BLOB_AWS_KMS;
	if (!o || !kt_keyuri_kind_of(c->uri, &kind, &rest))
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	KT_TRY(kt_json_add_str(o, "keystore", kt_keyuri_name(kind), err));
	KT_TRY(kt_json_add_str(o, "key", remote ? c->blob.wrapping.label : kt_keystore_kcv(c->key), err));
	return kt_json_add_str(o, "key_is", remote ? "arn" : "kcv", err);
}

static kt_code print(const kt_store_args *args, const check *c, kt_err *err)
{
	bool remote = c->blob.format == KT_BLOB_AWS_KMS;
	if (!args->json)
		return kt_store_print(err, "%s wraps and opens (%s %s)\n", c->uri, remote ? "ARN" : "KCV",
				      remote ? c->blob.wrapping.label : kt_keystore_kcv(c->key));
	cJSON *o = cJSON_CreateObject();
	kt_code rc = fill_json(o, c, err);
	if (rc == KT_OK)
		return kt_store_print_json(o, err);
	cJSON_Delete(o);
	return rc;
}

kt_code kt_verb_check_key(const kt_store_args *args, const kt_store_config *cfg, int *exit_code, kt_err *err)
{
	check c = {0};
	(void)cfg;
	(void)exit_code;
	kt_code rc = open_keys(&c, err);
	if (rc == KT_OK)
		rc = try_key(&c, err);
	if (rc == KT_OK)
		rc = check_other(&c, err);
	if (rc == KT_OK)
		rc = print(args, &c, err);
	kt_keystore_close(c.plain);
	kt_keystore_close(c.key);
	return rc;
}

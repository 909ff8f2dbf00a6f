/* SPDX-License-Identifier: Apache-2.0 */
#include "store/keys.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/config.h"

static const char *const suffix[] = {
	[KT_KEYS_PLAIN] = "", [KT_KEYS_SOURCE] = "_SOURCE", [KT_KEYS_DESTINATION] = "_DESTINATION"};

typedef struct variable {
	char name[64];
	const char *value; /* NULL when absent or empty */
} variable;

static variable look(const char *stem, kt_keys_role role)
{
	variable v = {.value = NULL};
	(void)snprintf(v.name, sizeof v.name, "%s%s", stem, suffix[role]);
	const char *value = getenv(v.name);
	if (value && value[0])
		v.value = value;
	return v;
}

static kt_code file_uri(const variable *v, kt_keys_role role, kt_buf *out, kt_err *err)
{
	char *path = NULL;
	(void)role;
	KT_TRY(kt_store_absolute(NULL, v->value, &path, err));
	kt_code rc = kt_buf_printf(out, err, "file:%s", path);
	free(path);
	return rc;
}

static kt_code env_uri(const variable *v, kt_keys_role role, kt_buf *out, kt_err *err)
{
	(void)role;
	return kt_buf_printf(out, err, "env:%s", v->name);
}

static kt_code awskms_uri(const variable *v, kt_keys_role role, kt_buf *out, kt_err *err)
{
	return kt_keystore_awskms_uri(v->value, look("LKR_AWS_CMK_EC", role).value, out, err);
}

static kt_code pkcs11_uri(const variable *v, kt_keys_role role, kt_buf *out, kt_err *err)
{
	(void)role;
	if (strncmp(v->value, "pkcs11:", 7) != 0)
		return kt_fail(err, KT_E_KEY, "write pkcs11:token=LABEL;object=LABEL?pin-source=file:/path",
			       "%s is not a pkcs11: URI (RFC 7512)", v->name);
	return kt_buf_str(out, v->value, err);
}

/* The variables that may name a master key, and the keystore that each of them stands for. */
static const struct {
	const char *stem;
	kt_code (*uri)(const variable *v, kt_keys_role role, kt_buf *out, kt_err *err);
} namers[] = {{"LKR_MASTER_KEY_FILE", file_uri},
	      {"LKR_MASTER_KEY_ENV", env_uri},
	      {"LKR_AWS_CMK", awskms_uri},
	      {"LKR_PKCS11_CMK", pkcs11_uri}};
enum { NAMERS = sizeof namers / sizeof namers[0] };

bool kt_keys_set(kt_keys_role role)
{
	for (size_t i = 0; i < NAMERS; i++)
		if (look(namers[i].stem, role).value)
			return true;
	return false;
}

static kt_code missing(kt_keys_role role, kt_err *err)
{
	if (role == KT_KEYS_PLAIN)
		return kt_fail(
			err, KT_E_KEY,
			"set LKR_MASTER_KEY_FILE to the path of the master key's file, LKR_MASTER_KEY_ENV to the "
			"master key in base64, LKR_AWS_CMK to a key of AWS KMS, or LKR_PKCS11_CMK to the URI of "
			"one in a token",
			"%s", KT_KEYSTORE_MISSING);
	return kt_fail(err, KT_E_KEY,
		       "a rekey needs LKR_MASTER_KEY_FILE, LKR_MASTER_KEY_ENV, LKR_AWS_CMK or LKR_PKCS11_CMK with "
		       "_SOURCE and with _DESTINATION",
		       "none of LKR_MASTER_KEY_FILE%s, LKR_MASTER_KEY_ENV%s, LKR_AWS_CMK%s and LKR_PKCS11_CMK%s is set",
		       suffix[role], suffix[role], suffix[role], suffix[role]);
}

/* Exactly one of them must be set. */
static kt_code pick(kt_keys_role role, size_t *out, kt_err *err)
{
	*out = NAMERS;
	for (size_t i = 0; i < NAMERS; i++) {
		if (!look(namers[i].stem, role).value)
			continue;
		if (*out != NAMERS)
			return kt_fail(err, KT_E_KEY, "unset one of them",
				       "%s%s and %s%s are both set: which is the master key?", namers[*out].stem,
				       suffix[role], namers[i].stem, suffix[role]);
		*out = i;
	}
	return *out == NAMERS ? missing(role, err) : KT_OK;
}

kt_code kt_keys_uri(kt_keys_role role, char **uri, kt_err *err)
{
	size_t i;
	kt_buf text = KT_BUF_INIT;
	*uri = NULL;
	KT_TRY(pick(role, &i, err));
	const variable v = look(namers[i].stem, role);
	kt_code rc = namers[i].uri(&v, role, &text, err);
	if (rc == KT_OK && !(*uri = kt_buf_steal(&text)))
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_buf_free(&text);
	return rc;
}

kt_code kt_keys_open(kt_keys_role role, kt_keystore **out, kt_err *err)
{
	char *uri;
	*out = NULL;
	KT_TRY(kt_keys_uri(role, &uri, err));
	kt_code rc = kt_keystore_open(uri, out, err);
	free(uri);
	return rc;
}

void kt_keys_scrub(void)
{
	for (size_t i = 0; i < sizeof suffix / sizeof suffix[0]; i++) {
		char name[64];
		(void)snprintf(name, sizeof name, "LKR_MASTER_KEY_ENV%s", suffix[i]);
		char *value = getenv(name);
		if (value)
			OPENSSL_cleanse(value, strlen(value));
		(void)unsetenv(name);
	}
}

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

bool kt_keys_set(kt_keys_role role)
{
	return look("LKR_MASTER_KEY_FILE", role).value || look("LKR_MASTER_KEY_ENV", role).value ||
	       look("LKR_AWS_CMK", role).value;
}

static kt_code missing(kt_keys_role role, kt_err *err)
{
	if (role == KT_KEYS_PLAIN)
		return kt_fail(err, KT_E_KEY,
			       "set LKR_MASTER_KEY_FILE to the path of the master key's file, or "
			       "LKR_MASTER_KEY_ENV to the master key in base64, or LKR_AWS_CMK to a key of AWS KMS",
			       "%s", KT_KEYSTORE_MISSING);
	return kt_fail(err, KT_E_KEY,
		       "a rekey needs LKR_MASTER_KEY_FILE, LKR_MASTER_KEY_ENV or LKR_AWS_CMK with _SOURCE and with "
		       "_DESTINATION",
		       "none of LKR_MASTER_KEY_FILE%s, LKR_MASTER_KEY_ENV%s and LKR_AWS_CMK%s is set", suffix[role],
		       suffix[role], suffix[role]);
}

/* Which of the three that may name a master key are set: exactly one must be. */
static kt_code pick(kt_keys_role role, variable *out, kt_err *err)
{
	static const char *const stems[] = {"LKR_MASTER_KEY_FILE", "LKR_MASTER_KEY_ENV", "LKR_AWS_CMK"};
	*out = (variable){.value = NULL};
	for (size_t i = 0; i < sizeof stems / sizeof stems[0]; i++) {
		variable v = look(stems[i], role);
		if (v.value && out->value)
			return kt_fail(err, KT_E_KEY, "unset one of them",
				       "%s and %s are both set: which is the master key?", out->name, v.name);
		if (v.value)
			*out = v;
	}
	return out->value ? KT_OK : missing(role, err);
}

static kt_code file_uri(const char *value, kt_buf *out, kt_err *err)
{
	char *path = NULL;
	KT_TRY(kt_store_absolute(NULL, value, &path, err));
	kt_code rc = kt_buf_printf(out, err, "file:%s", path);
	free(path);
	return rc;
}

kt_code kt_keys_uri(kt_keys_role role, char **uri, kt_err *err)
{
	variable v;
	kt_buf text = KT_BUF_INIT;
	*uri = NULL;
	KT_TRY(pick(role, &v, err));
	kt_code rc = strncmp(v.name, "LKR_MASTER_KEY_FILE", 19) == 0 ? file_uri(v.value, &text, err)
		     : strncmp(v.name, "LKR_MASTER_KEY_ENV", 18) == 0
			     ? kt_buf_printf(&text, err, "env:%s", v.name)
			     : kt_keystore_awskms_uri(v.value, look("LKR_AWS_CMK_EC", role).value, &text, err);
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

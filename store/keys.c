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
			       "LKR_MASTER_KEY_ENV to the master key in base64",
			       "%s", KT_KEYSTORE_MISSING);
	return kt_fail(err, KT_E_KEY,
		       "a rekey needs LKR_MASTER_KEY_FILE or LKR_MASTER_KEY_ENV with _SOURCE and with _DESTINATION",
		       "neither LKR_MASTER_KEY_FILE%s nor LKR_MASTER_KEY_ENV%s is set", suffix[role], suffix[role]);
}

kt_code kt_keys_uri(kt_keys_role role, char **uri, kt_err *err)
{
	variable file = look("LKR_MASTER_KEY_FILE", role);
	variable env = look("LKR_MASTER_KEY_ENV", role);
	variable aws = look("LKR_AWS_CMK", role);
	*uri = NULL;
	if (aws.value)
		return kt_fail(err, KT_E_KEY, "use LKR_MASTER_KEY_FILE or LKR_MASTER_KEY_ENV, and unset this variable",
			       "%s is set, but this version has no keystore for AWS KMS", aws.name);
	if (file.value && env.value)
		return kt_fail(err, KT_E_KEY, "unset one of them", "%s and %s are both set: which is the master key?",
			       file.name, env.name);
	if (!file.value && !env.value)
		return missing(role, err);
	char *path = NULL;
	if (file.value)
		KT_TRY(kt_store_absolute(NULL, file.value, &path, err));
	int n = path ? asprintf(uri, "file:%s", path) : asprintf(uri, "env:%s", env.name);
	free(path);
	if (n >= 0)
		return KT_OK;
	*uri = NULL;
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
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

/* SPDX-License-Identifier: Apache-2.0 */
/* env:NAME: base64 of 32 bytes in an environment variable, which stays: the application reads it again at its next
 * start. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keystore/internal.h"

enum { NAME_MAX_LEN = 128 };

static kt_code check_name(const char *name, kt_err *err)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";
	size_t n = strnlen(name, NAME_MAX_LEN + 1);
	if (n == 0 || n > NAME_MAX_LEN || strspn(name, letters) != n || (name[0] >= '0' && name[0] <= '9'))
		return kt_fail(err, KT_E_INPUT, "write env:NAME with the variable's name, not its value",
			       "this is no name of an environment variable");
	return KT_OK;
}

static kt_code open_env(kt_keystore *ks, const char *rest, kt_err *err)
{
	kt_secret text = KT_SECRET_INIT;
	char remedy[KT_ERR_REMEDY];
	KT_TRY(check_name(rest, err));
	KT_TRY(kt_buf_printf(&ks->uri, err, "env:%s", rest));
	const char *value = getenv(rest);
	if (!value || !value[0]) {
		(void)snprintf(remedy, sizeof remedy, "set the environment variable %s to base64 of %d bytes", rest,
			       KT_CMK_LEN);
		return kt_fail(err, KT_E_KEY, remedy, KT_KEYSTORE_MISSING);
	}
	if (strlen(value) > KT_KEYSTORE_TEXT_MAX)
		return kt_fail(err, KT_E_KEY, "make a key with: openssl rand -base64 32",
			       "%s is longer than %d bytes: this is no master key", rest, KT_KEYSTORE_TEXT_MAX);
	KT_TRY(kt_secret_copy(&text, value, strlen(value), err));
	kt_code rc = kt_keystore_take_cmk(ks, &text, rest, err);
	kt_secret_free(&text);
	return rc;
}

const kt_keystore_scheme kt_keystore_env = {.prefix = "env:",
					    .open = open_env,
					    .new_kek = kt_keystore_local_new,
					    .wrap_kek = kt_keystore_local_wrap,
					    .unwrap_kek = kt_keystore_local_unwrap};

/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/redact.h"

#include <string.h>

#include "agent/keyref.h"
#include "base/log.h"

kt_code kt_redact_key(const kt_secret *key, kt_err *err)
{
	kt_secret text;
	KT_TRY(kt_log_redact(key, err));
	KT_TRY(kt_secret_to_base64(key, &text, err));
	while (text.len && text.data[text.len - 1] == '=')
		text.len--;
	kt_code rc = kt_log_redact(&text, err);
	kt_secret_free(&text);
	return rc;
}

/* A value that is no key, or names no key file, is nothing to redact. */
static kt_code redact_value(const kt_secret *v, kt_err *err)
{
	kt_secret key = KT_SECRET_INIT;
	kt_err ignored = KT_ERR_INIT;
	kt_code found = KT_E_KEY;
	if (v->len && v->data[0] == '/' && memchr(v->data, '\0', v->len) == NULL)
		found = kt_keyref_read_file((const char *)v->data, &key, &ignored);
	else if (v->len)
		found = kt_keyref_decode(v, "", &key, &ignored);
	kt_code rc = found == KT_OK ? kt_redact_key(&key, err) : KT_OK;
	kt_secret_free(&key);
	return rc;
}

kt_code kt_redact_envfile(const kt_envfile *f, kt_err *err)
{
	for (size_t i = 0; i < kt_envfile_count(f); i++)
		KT_TRY(redact_value(kt_envfile_value(f, i), err));
	return KT_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/keyref.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/envfile.h"
#include "agent/redact.h"
#include "agent/slot.h"
#include "base/keymsg.h"

enum { KEY_TEXT_MAX = 4096 };

bool kt_keyref_is(const cJSON *value)
{
	return cJSON_IsObject(value) && value->child && !value->child->next && strcmp(value->child->string, "key") == 0;
}

static kt_code missing(const char *where, kt_err *err)
{
	return kt_fail(err, KT_E_KEY, "put the key file back, from its escrow if need be", KT_KEYMSG_MISSING " (%s)",
		       where);
}

kt_code kt_keyref_decode(const kt_secret *text, const char *where, kt_secret *key, kt_err *err)
{
	*key = KT_SECRET_INIT;
	if (text->len == 0)
		return missing(where, err);
	kt_err ignored = KT_ERR_INIT;
	if (kt_secret_from_base64(text, key, &ignored) != KT_OK)
		return kt_fail(err, KT_E_KEY, "make it with `openssl rand -base64 32`, or recover it from its escrow",
			       "the key in %s is not base64", where);
	if (key->len == KT_KEY_LEN)
		return KT_OK;
	kt_code rc = kt_fail(err, KT_E_KEY, "recover it from its escrow", KT_KEYMSG_SIZE " (%s)", key->len, where);
	kt_secret_free(key);
	return rc;
}

static kt_code read_key_fd(int fd, const char *path, kt_secret *key, kt_err *err)
{
	struct stat st;
	kt_secret text;
	if (fstat(fd, &st) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", path);
	if (!S_ISREG(st.st_mode))
		return kt_fail(err, KT_E_KEY, NULL, "the key file %s is not a regular file", path);
	if ((st.st_mode & 07777) != 0400)
		return kt_fail(err, KT_E_KEY, "chmod 0400 it", KT_KEYMSG_MODE " (%s)", (unsigned)(st.st_mode & 07777),
			       path);
	KT_TRY(kt_secret_read_fd(&text, fd, KEY_TEXT_MAX, path, err));
	kt_code rc = kt_keyref_decode(&text, path, key, err);
	kt_secret_free(&text);
	return rc;
}

kt_code kt_keyref_read_file(const char *path, kt_secret *key, kt_err *err)
{
	*key = KT_SECRET_INIT;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT)
		return missing(path, err);
	if (fd < 0 && errno == ELOOP)
		return kt_fail(err, KT_E_KEY, "name the file that it leads to", "the key file %s is a symbolic link",
			       path);
	if (fd < 0)
		return kt_fail_errno(err, errno, NULL, "the key file %s", path);
	kt_code rc = read_key_fd(fd, path, key, err);
	(void)close(fd);
	return rc;
}

static kt_code read_env(const char *path, const char *name, kt_secret *key, kt_err *err)
{
	kt_envfile *f;
	KT_TRY(kt_envfile_load(path, &f, err));
	const kt_secret *text = kt_envfile_get(f, name);
	char where[1024];
	(void)snprintf(where, sizeof where, "%s in %.800s", name, path);
	kt_code rc = text ? kt_keyref_decode(text, where, key, err) : missing(where, err);
	kt_envfile_free(f);
	return rc;
}

static kt_code resolve(const kt_agent_ctx *ctx, const cJSON *key, kt_secret *out, kt_err *err)
{
	const char *text;
	const char *name;
	if (cJSON_HasObjectItem(key, "slot")) {
		KT_TRY(kt_json_str(key, "slot", &text, err));
		return kt_slot_open(ctx->state, text, out, err);
	}
	if (cJSON_HasObjectItem(key, "file")) {
		KT_TRY(kt_arg_path(key, "file", &text, err));
		return kt_keyref_read_file(text, out, err);
	}
	KT_TRY(kt_arg_path(key, "env_file", &text, err));
	KT_TRY(kt_json_str(key, "name", &name, err));
	if (!kt_envfile_name_ok(name))
		return kt_fail(err, KT_E_INPUT, NULL, "\"%.64s\" is no name of a variable", name);
	return read_env(text, name, out, err);
}

kt_code kt_keyref_resolve(const kt_agent_ctx *ctx, const cJSON *ref, kt_secret *key, kt_err *err)
{
	const cJSON *inner;
	*key = KT_SECRET_INIT;
	if (!kt_keyref_is(ref))
		return kt_fail(err, KT_E_INPUT, NULL,
			       "a key is named by {\"key\":{\"slot\", \"file\" or \"env_file\"}}");
	KT_TRY(kt_json_object(ref, "key", &inner, err));
	KT_TRY(resolve(ctx, inner, key, err));
	kt_code rc = kt_redact_key(key, err);
	if (rc != KT_OK)
		kt_secret_free(key);
	return rc;
}

kt_code kt_keyref_text(const kt_agent_ctx *ctx, const cJSON *ref, kt_secret *text, kt_err *err)
{
	kt_secret key;
	*text = KT_SECRET_INIT;
	KT_TRY(kt_keyref_resolve(ctx, ref, &key, err));
	kt_code rc = kt_secret_to_base64(&key, text, err);
	kt_secret_free(&key);
	return rc;
}

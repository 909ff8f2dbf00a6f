/* SPDX-License-Identifier: Apache-2.0 */
/* key.transport, key.retire, key.receive, key.install, key.forget: a new key on its way to this node. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/delivery.h"
#include "agent/keyref.h"
#include "agent/redact.h"
#include "agent/runlock.h"
#include "agent/slot.h"
#include "agent/transport.h"
#include "agent/transportfile.h"
#include "base/codec.h"
#include "base/file.h"

/* --- key.transport, key.retire ----------------------------------------------------------------------------------- */

static kt_code describe_transport(const kt_transport_key *key, cJSON *result, kt_err *err)
{
	KT_TRY(kt_json_add_str(result, "public_pem", kt_buf_cstr(&key->public_pem), err));
	KT_TRY(kt_json_add_str(result, "spki_sha256", key->spki_sha256, err));
	KT_TRY(kt_json_add_int(result, "bits", key->bits, err));
	KT_TRY(kt_json_add_bool(result, "made", key->made, err));
	return kt_json_add_int(result, "others", key->others, err);
}

static kt_code read_wish(const cJSON *args, kt_transport_wish *wish, kt_err *err)
{
	int64_t bits;
	KT_TRY(kt_json_opt_int(args, "bits", KT_TRANSPORT_BITS, KT_TRANSPORT_BITS_MIN, KT_TRANSPORT_BITS_MAX, &bits,
			       err));
	if (bits % 256 != 0)
		return kt_fail(err, KT_E_INPUT, NULL, "\"bits\" must be a multiple of 256, not %d", (int)bits);
	wish->bits = (unsigned)bits;
	KT_TRY(kt_json_opt_str(args, "uri", NULL, &wish->uri, err));
	KT_TRY(kt_json_opt_str(args, "pinned", NULL, &wish->pinned, err));
	KT_TRY(kt_json_opt_bool(args, "rotate", false, &wish->rotate, err));
	if (cJSON_HasObjectItem(args, "environment"))
		KT_TRY(kt_json_object(args, "environment", &wish->environment, err));
	return KT_OK;
}

/* Under the folder's lock: another agent must not make a second one, nor a run begin while the key changes. */
static kt_code transport(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	kt_transport_wish wish = {0};
	kt_transport_key key = {.public_pem = KT_BUF_INIT};
	int lock;
	KT_TRY(read_wish(args, &wish, err));
	KT_TRY(kt_runlock_folder(ctx->state, &lock, err));
	kt_code rc = wish.rotate ? kt_runlock_free(ctx->state, err) : KT_OK;
	if (rc == KT_OK)
		rc = kt_transport_ensure(ctx->state, &wish, &key, err);
	(void)close(lock);
	if (rc == KT_OK)
		rc = describe_transport(&key, result, err);
	kt_buf_free(&key.public_pem);
	return rc;
}

kt_status kt_action_key_transport(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	return kt_action_end(transport(ctx, args, result, err));
}

static kt_code retire_locked(const kt_agent_ctx *ctx, const char *keep, cJSON *result, kt_err *err)
{
	size_t lost, left;
	kt_err why = KT_ERR_INIT;
	KT_TRY(kt_runlock_free(ctx->state, err));
	KT_TRY(kt_slot_rewrap_all(ctx->state, keep, &lost, err));
	KT_TRY(kt_transport_retire(ctx->state, keep, &left, &why, err));
	KT_TRY(kt_json_add_int(result, "slots_lost", (int64_t)lost, err));
	KT_TRY(kt_json_add_int(result, "left", (int64_t)left, err));
	return kt_json_add_str(result, "why", left ? why.msg : "", err);
}

/* The keys that this one replaced go away for good; what they had opened is first wrapped for this one. */
static kt_code retire(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	const char *keep;
	int lock;
	KT_TRY(kt_json_str(args, "keep", &keep, err));
	KT_TRY(kt_runlock_folder(ctx->state, &lock, err));
	kt_code rc = retire_locked(ctx, keep, result, err);
	(void)close(lock);
	return rc;
}

kt_status kt_action_key_retire(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	return kt_action_end(retire(ctx, args, result, err));
}

/* --- key.receive ----------------------------------------------------------------------------------------------------
 */

/* Keep it in the slot, and prove possession with what is then read back from where it is kept. */
static kt_code take(kt_agent_ctx *ctx, const kt_delivery *d, const char *slot, cJSON *result, kt_err *err)
{
	kt_secret key;
	KT_TRY(kt_slot_unwrap(ctx->state, &d->blob, &key, err));
	kt_code rc = KT_OK;
	if (slot) {
		rc = kt_slot_keep(ctx->state, slot, &d->blob, err);
		kt_secret_free(&key);
		if (rc == KT_OK)
			rc = kt_slot_open(ctx->state, slot, &key, err);
	}
	if (rc == KT_OK)
		rc = kt_delivery_prove(d, &key, result, err);
	kt_secret_free(&key);
	return rc;
}

/* What may be kept: a key for transport, in a run. */
static kt_code check_kept(const kt_agent_ctx *ctx, const kt_delivery *d, kt_err *err)
{
	if (strcmp(ctx->run, "-") == 0)
		return kt_fail(err, KT_E_REFUSED, NULL, "a key is kept in a run only");
	if (d->blob.purpose != KT_BLOB_TRANSPORT)
		return kt_fail(err, KT_E_REFUSED, NULL, "a rehearsal key is never kept");
	return KT_OK;
}

static kt_code receive(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	kt_delivery d;
	const char *slot;
	bool keep;
	KT_TRY(kt_json_str(args, "slot", &slot, err));
	KT_TRY(kt_name_check("slot", slot, err));
	KT_TRY(kt_json_bool(args, "keep", &keep, err));
	KT_TRY(kt_delivery_read(ctx, args, &d, err));
	kt_code rc = keep ? check_kept(ctx, &d, err) : KT_OK;
	if (rc == KT_OK)
		rc = take(ctx, &d, keep ? slot : NULL, result, err);
	kt_delivery_free(&d);
	return rc;
}

kt_status kt_action_key_receive(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	return kt_action_end(receive(ctx, args, result, err));
}

/* --- key.install ----------------------------------------------------------------------------------------------------
 */

static kt_code write_key(const char *path, const kt_secret *key, const struct stat *like, bool *made, kt_err *err)
{
	kt_secret text;
	kt_secret line;
	kt_file_attr attr = {.mode = 0400, .uid = like->st_uid, .gid = like->st_gid};
	KT_TRY(kt_secret_to_base64(key, &text, err));
	kt_code rc = kt_secret_new(&line, text.len + 1, err);
	if (rc == KT_OK) {
		memcpy(line.data, text.data, text.len);
		line.data[text.len] = '\n';
		rc = kt_file_create(path, line.data, line.len, &attr, made, err);
	}
	kt_secret_free(&line);
	kt_secret_free(&text);
	return rc;
}

/* What is at `path` must be this key: a file that is there is never overwritten. */
static kt_code check_installed(const char *path, const kt_secret *key, const struct stat *like, kt_err *err)
{
	kt_secret there;
	struct stat st;
	KT_TRY(kt_keyref_read_file(path, &there, err));
	bool same = kt_secret_equal(&there, key);
	kt_secret_free(&there);
	if (!same)
		return kt_fail(err, KT_E_KEY, "choose another path for the new key; this file is not touched",
			       "%s holds another key", path);
	if (stat(path, &st) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", path);
	if (st.st_uid != like->st_uid)
		return kt_fail(err, KT_E_KEY, "chown it", "%s belongs to uid %u, and must belong to %u", path,
			       (unsigned)st.st_uid, (unsigned)like->st_uid);
	return KT_OK;
}

static kt_code install_at(const char *path, const char *like, const kt_secret *key, kt_err *err)
{
	struct stat st;
	bool made;
	if (stat(like, &st) != 0)
		return kt_fail_errno(err, errno, "\"like\" names a file of the service's user", "%s", like);
	KT_TRY(write_key(path, key, &st, &made, err));
	return check_installed(path, key, &st, err);
}

static kt_code install(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	const char *slot;
	const char *path;
	const char *like;
	kt_secret key;
	char kcv[KT_KCV_TEXT];
	KT_TRY(kt_json_str(args, "slot", &slot, err));
	KT_TRY(kt_arg_path(args, "path", &path, err));
	KT_TRY(kt_arg_path(args, "like", &like, err));
	KT_TRY(kt_file_sweep(path, err));
	KT_TRY(kt_slot_open(ctx->state, slot, &key, err));
	kt_code rc = install_at(path, like, &key, err);
	if (rc == KT_OK)
		rc = kt_kcv_of(&key, kcv, err);
	kt_secret_free(&key);
	if (rc != KT_OK)
		return rc;
	KT_TRY(kt_json_add_str(result, "path", path, err));
	return kt_json_add_str(result, "kcv", kcv, err);
}

kt_status kt_action_key_install(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	return kt_action_end(install(ctx, args, result, err));
}

/* --- key.forget -----------------------------------------------------------------------------------------------------
 */

/* Remove the file only where it holds the slot's key; anything else there is somebody else's. */
static kt_code remove_installed(kt_agent_ctx *ctx, const char *slot, const char *path, kt_err *err)
{
	kt_secret key;
	kt_secret there;
	kt_err ignored = KT_ERR_INIT;
	struct stat st;
	if (lstat(path, &st) != 0)
		return errno == ENOENT ? kt_file_remove(path, NULL, err) : kt_fail_errno(err, errno, NULL, "%s", path);
	KT_TRY(kt_slot_open(ctx->state, slot, &key, err));
	bool same = kt_keyref_read_file(path, &there, &ignored) == KT_OK && kt_secret_equal(&there, &key);
	kt_secret_free(&there);
	kt_secret_free(&key);
	return same ? kt_file_remove(path, NULL, err) : KT_OK;
}

static kt_code has_slot(const kt_agent_ctx *ctx, const char *slot, bool *there, kt_err *err)
{
	kt_buf path = KT_BUF_INIT;
	kt_code rc = kt_slot_path(ctx->state, slot, &path, err);
	*there = rc == KT_OK && access(kt_buf_cstr(&path), F_OK) == 0;
	kt_buf_free(&path);
	return rc;
}

/* First the file, while the slot still tells whose it is: so that it can be done again when it was broken off. */
static kt_code forget(kt_agent_ctx *ctx, const cJSON *args, kt_err *err)
{
	const char *slot;
	const char *path;
	bool there;
	KT_TRY(kt_json_str(args, "slot", &slot, err));
	KT_TRY(has_slot(ctx, slot, &there, err));
	if (there && cJSON_HasObjectItem(args, "path")) {
		KT_TRY(kt_arg_path(args, "path", &path, err));
		KT_TRY(kt_file_sweep(path, err));
		KT_TRY(remove_installed(ctx, slot, path, err));
	}
	return kt_slot_forget(ctx->state, slot, err);
}

kt_status kt_action_key_forget(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)result;
	return kt_action_end(forget(ctx, args, err));
}

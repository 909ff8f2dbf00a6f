/* SPDX-License-Identifier: Apache-2.0 */
#include "store/item.h"

#include <string.h>

#include "base/codec.h"
#include "store/cache.h"
#include "store/logfile.h"

kt_code kt_item_check_name(const char *name, kt_err *err)
{
	size_t n = strnlen(name, KT_ENVELOPE_NAME_MAX + 1);
	if (n == 0 || n > KT_ENVELOPE_NAME_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "the name of an item has 1 to %d bytes",
			       (int)KT_ENVELOPE_NAME_MAX);
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
			return kt_fail(err, KT_E_INPUT, NULL,
				       "the name of an item has no control characters (there is one at byte %zu)", i);
	return KT_OK;
}

kt_code kt_item_put_within(kt_session *s, const char *name, const void *bytes, size_t n, kt_buf *scratch, kt_err *err)
{
	KT_TRY(kt_item_check_name(name, err));
	if (!s->ctx)
		return kt_fail(err, KT_E_REFUSED, "set a master key and run `migrate_encryption`",
			       "the data is in the legacy form (AES-128-CBC), which is only read");
	kt_buf_clear(scratch);
	KT_TRY(kt_envelope_seal(s->ctx, name, bytes, n, scratch, err));
	return kt_db_item_put(s->db, name, scratch, err);
}

kt_code kt_item_put(kt_session *s, const char *name, const void *bytes, size_t n, kt_err *err)
{
	kt_buf scratch = KT_BUF_INIT;
	KT_TRY(kt_db_begin(s->db, true, err));
	kt_code rc = kt_session_check_epoch(s, err);
	if (rc == KT_OK)
		rc = kt_item_put_within(s, name, bytes, n, &scratch, err);
	if (rc == KT_OK)
		rc = kt_db_commit(s->db, err);
	kt_db_rollback(s->db);
	kt_buf_free(&scratch);
	return rc;
}

/* The envelope, from the cache when that has this very version of it. */
static kt_code find(kt_session *s, const char *name, kt_buf *envelope, int64_t *version, bool *cached, kt_err *err)
{
	bool found;
	*cached = false;
	KT_TRY(kt_session_check_epoch(s, err));
	KT_TRY(kt_db_item_get(s->db, name, NULL, version, &found, err));
	if (found && s->ctx && kt_cache_get(s->cfg->cache, name, s->epoch, *version, envelope)) {
		*cached = true;
		return KT_OK;
	}
	if (found)
		KT_TRY(kt_db_item_get(s->db, name, envelope, version, &found, err));
	return found ? KT_OK : kt_fail(err, KT_E_INPUT, "`list` shows the items", "there is no item \"%s\"", name);
}

static kt_code find_in_transaction(kt_session *s, const char *name, kt_buf *envelope, int64_t *version, bool *cached,
				   kt_err *err)
{
	KT_TRY(kt_db_begin(s->db, false, err));
	kt_code rc = find(s, name, envelope, version, cached, err);
	kt_db_rollback(s->db);
	return rc;
}

/* A damaged cache entry must not look like a damaged item: read it from the database then. */
static kt_code get_uncached(kt_session *s, const char *name, kt_buf *envelope, kt_buf *out, kt_err *err)
{
	bool found;
	int64_t version;
	kt_logfile(KT_LOG_WARN, "cache", "the cached envelope of \"%s\" does not open; removed", name);
	KT_TRY(kt_cache_clear(s->cfg->cache, NULL, err));
	kt_buf_clear(envelope);
	KT_TRY(kt_db_item_get(s->db, name, envelope, &version, &found, err));
	if (!found)
		return kt_fail(err, KT_E_INPUT, "`list` shows the items", "there is no item \"%s\"", name);
	return kt_envelope_open(s->ctx, name, envelope->data, envelope->len, out, err);
}

kt_code kt_item_get(kt_session *s, const char *name, kt_buf *out, kt_err *err)
{
	int64_t version = 0;
	bool cached = false;
	kt_buf envelope = KT_BUF_INIT;
	KT_TRY(kt_item_check_name(name, err));
	kt_code rc = find_in_transaction(s, name, &envelope, &version, &cached, err);
	if (rc == KT_OK) {
		rc = kt_session_open_item(s, name, envelope.data, envelope.len, out, err);
		if (rc != KT_OK && cached)
			rc = get_uncached(s, name, &envelope, out, err);
		else if (rc == KT_OK && !cached && s->ctx)
			kt_cache_put(s->cfg->cache, name, s->epoch, version, &envelope);
		if (rc != KT_OK)
			rc = kt_err_prefix(err, rc, "item \"%s\"", name);
	}
	kt_buf_free(&envelope);
	return rc;
}

kt_code kt_item_filler(const char *name, size_t n, kt_buf *out, kt_err *err)
{
	size_t name_len = strlen(name);
	uint8_t input[KT_ENVELOPE_NAME_MAX + 5] = {0}, block[KT_SHA256_LEN];
	if (name_len > KT_ENVELOPE_NAME_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "the name is too long");
	memcpy(input, name, name_len);
	KT_TRY(kt_buf_reserve(out, n, err));
	for (uint32_t i = 0; n; i++) {
		for (size_t b = 0; b < 4; b++)
			input[name_len + 1 + b] = (uint8_t)(i >> (24 - 8 * b));
		KT_TRY(kt_sha256(input, name_len + 5, block, err));
		size_t take = n < sizeof block ? n : sizeof block;
		KT_TRY(kt_buf_append(out, block, take, err));
		n -= take;
	}
	return KT_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs put, get, list and fill. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/file.h"
#include "store/args.h"
#include "store/item.h"

enum { BATCH = 500, CHUNK = 64 * 1024 };

static kt_code read_stdin(kt_buf *out, kt_err *err)
{
	out->max = KT_ENVELOPE_CONTENT_MAX + CHUNK;
	for (;;) {
		KT_TRY(kt_buf_reserve(out, CHUNK, err));
		ssize_t n = read(STDIN_FILENO, out->data + out->len, CHUNK);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return kt_fail_errno(err, errno, NULL, "standard input cannot be read");
		out->len += (size_t)n;
		out->data[out->len] = '\0';
		if (n == 0)
			return KT_OK;
	}
}

static kt_code said(const kt_store_args *args, const char *name, size_t bytes, kt_err *err)
{
	if (!args->json)
		return KT_OK;
	cJSON *o = cJSON_CreateObject();
	kt_code rc = o ? kt_json_add_str(o, "name", name, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = kt_json_add_int(o, "bytes", (int64_t)bytes, err);
	if (rc == KT_OK)
		return kt_store_print_json(o, err);
	cJSON_Delete(o);
	return rc;
}

kt_code kt_verb_put(const kt_store_args *args, const kt_store_config *cfg, int *exit_code, kt_err *err)
{
	kt_session s;
	kt_buf value = KT_BUF_INIT;
	const char *name = args->word[0];
	(void)exit_code;
	KT_TRY(kt_item_check_name(name, err));
	kt_code rc = args->words == 1 || strcmp(args->word[1], "-") == 0 ? read_stdin(&value, err)
									 : kt_buf_str(&value, args->word[1], err);
	if (rc == KT_OK) {
		rc = kt_session_open(&s, cfg, KT_DB_WRITE, err);
		if (rc == KT_OK)
			rc = kt_item_put(&s, name, value.data, value.len, err);
		kt_session_close(&s);
	}
	if (rc == KT_OK)
		rc = said(args, name, value.len, err);
	kt_buf_free(&value);
	return rc;
}

static kt_code print_item(const kt_store_args *args, const char *name, const kt_buf *value, kt_err *err)
{
	if (!args->json)
		return kt_file_write_all(STDOUT_FILENO, value->data, value->len, "standard output", err);
	kt_buf text = KT_BUF_INIT;
	cJSON *o = cJSON_CreateObject();
	kt_code rc = o ? kt_base64_encode(value->data, value->len, &text, err)
		       : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "name", name, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(o, "base64", kt_buf_cstr(&text), err);
	kt_buf_free(&text);
	if (rc == KT_OK)
		return kt_store_print_json(o, err);
	cJSON_Delete(o);
	return rc;
}

kt_code kt_verb_get(const kt_store_args *args, const kt_store_config *cfg, int *exit_code, kt_err *err)
{
	kt_session s;
	kt_buf value = KT_BUF_INIT;
	(void)exit_code;
	kt_code rc = kt_session_open(&s, cfg, KT_DB_LOOK, err);
	if (rc == KT_OK)
		rc = kt_item_get(&s, args->word[0], &value, err);
	kt_session_close(&s);
	if (rc == KT_OK)
		rc = print_item(args, args->word[0], &value, err);
	kt_buf_free(&value);
	return rc;
}

static kt_code print_name(void *arg, const char *name, const void *envelope, size_t len, const char *bad, kt_err *err)
{
	cJSON *list = arg;
	(void)envelope;
	(void)len;
	(void)bad;
	if (!list)
		return printf("%s\n", name) >= 0 ? KT_OK
						 : kt_fail_errno(err, errno, NULL, "standard output cannot be written");
	cJSON *s = cJSON_CreateString(name);
	if (s && cJSON_AddItemToArray(list, s))
		return KT_OK;
	cJSON_Delete(s);
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

/* Names are not encrypted, so this needs no key. */
kt_code kt_verb_list(const kt_store_args *args, const kt_store_config *cfg, int *exit_code, kt_err *err)
{
	kt_db *db = NULL;
	bool yes = false;
	cJSON *list = args->json ? cJSON_CreateArray() : NULL;
	(void)exit_code;
	kt_code rc = args->json && !list ? kt_fail(err, KT_E_INTERNAL, NULL, "out of memory") : KT_OK;
	if (rc == KT_OK)
		rc = kt_db_open(kt_store_place(cfg), KT_DB_LOOK, KT_SESSION_BUSY_MS, &db, err);
	if (rc == KT_OK)
		rc = kt_db_initialized(db, &yes, err);
	if (rc == KT_OK && yes)
		rc = kt_db_item_names(db, print_name, list, err);
	kt_db_close(db);
	if (rc == KT_OK && list)
		return kt_store_print_json(list, err);
	cJSON_Delete(list);
	return rc == KT_OK ? kt_store_print(err, "%s", "") : rc;
}

/* Items first .. first+n-1 in one transaction. */
static kt_code fill_batch(kt_session *s, int64_t first, int64_t n, int64_t size, kt_err *err)
{
	kt_buf plain = KT_BUF_INIT, scratch = KT_BUF_INIT;
	kt_code rc = kt_session_check_epoch(s, err);
	for (int64_t i = first; rc == KT_OK && i < first + n; i++) {
		char name[64];
		(void)snprintf(name, sizeof name, KT_ITEM_FILL_PREFIX "%08lld", (long long)i);
		kt_buf_clear(&plain);
		rc = kt_item_filler(name, (size_t)size, &plain, err);
		if (rc == KT_OK)
			rc = kt_item_put_within(s, name, plain.data, plain.len, &scratch, err);
	}
	kt_buf_free(&plain);
	kt_buf_free(&scratch);
	return rc;
}

static kt_code fill_all(kt_session *s, int64_t count, int64_t size, kt_err *err)
{
	for (int64_t done = 0; done < count; done += BATCH) {
		int64_t n = count - done < BATCH ? count - done : BATCH;
		KT_TRY(kt_db_begin(s->db, true, err));
		kt_code rc = fill_batch(s, done + 1, n, size, err);
		if (rc == KT_OK)
			rc = kt_db_commit(s->db, err);
		kt_db_rollback(s->db);
		KT_TRY(rc);
	}
	return KT_OK;
}

static kt_code print_filled(const kt_store_args *args, double seconds, kt_err *err)
{
	if (!args->json)
		return kt_store_print(err, "%lld items of %lld bytes written in %.2f s\n", (long long)args->count,
				      (long long)args->size, seconds);
	cJSON *o = cJSON_CreateObject();
	kt_code rc =
		o ? kt_json_add_int(o, "items", args->count, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = kt_json_add_int(o, "size", args->size, err);
	if (rc == KT_OK)
		rc = kt_json_add(o, "seconds", cJSON_CreateNumber(seconds), err);
	if (rc == KT_OK)
		return kt_store_print_json(o, err);
	cJSON_Delete(o);
	return rc;
}

kt_code kt_verb_fill(const kt_store_args *args, const kt_store_config *cfg, int *exit_code, kt_err *err)
{
	kt_session s;
	(void)exit_code;
	int64_t start = kt_clock_mono_ms();
	kt_code rc = kt_session_open(&s, cfg, KT_DB_WRITE, err);
	if (rc == KT_OK)
		rc = fill_all(&s, args->count, args->size, err);
	kt_session_close(&s);
	if (rc != KT_OK)
		return rc;
	return print_filled(args, (double)(kt_clock_mono_ms() - start) / 1000.0, err);
}

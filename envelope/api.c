/* SPDX-License-Identifier: Apache-2.0 */
/* libkeyturn-envelope: the public names (envelope/keyturn-envelope.h) over envelope.h, kek.h and the keystores. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "envelope/envelope.h"
#include "envelope/keyturn-envelope.h"

/* The numbers of the public header are promised there; these are what they stand for. */
#define SAME(a, b) _Static_assert((int)(a) == (int)(b), #a " is " #b)
SAME(KTE_OK, KT_OK);
SAME(KTE_E_INTERNAL, KT_E_INTERNAL);
SAME(KTE_E_USAGE, KT_E_USAGE);
SAME(KTE_E_INPUT, KT_E_INPUT);
SAME(KTE_E_REFUSED, KT_E_REFUSED);
SAME(KTE_E_HSM, KT_E_HSM);
SAME(KTE_E_UNREACHABLE, KT_E_UNREACHABLE);
SAME(KTE_E_IO, KT_E_IO);
SAME(KTE_E_KEY, KT_E_KEY);
SAME(KTE_E_INTERRUPTED, KT_E_INTERRUPTED);
SAME(KTE_RECORD_MAX, KT_KEK_RECORD_HEAD + KT_KEK_RECORD_BLOB_MAX + KT_KEK_RECORD_MAC);
SAME(KTE_NAME_MAX, KT_ENVELOPE_NAME_MAX);
SAME(KTE_CONTENT_MAX, KT_ENVELOPE_CONTENT_MAX);
SAME(KTE_OVERHEAD, KT_ENVELOPE_OVERHEAD);
SAME(KTE_HEAD, KT_ENVELOPE_HEAD_LEN);
SAME(sizeof((kte_error *)0)->message, KT_ERR_MSG);
SAME(sizeof((kte_error *)0)->remedy, KT_ERR_REMEDY);
SAME(sizeof((kte_kek_info *)0)->id, KT_KEK_ID_HEX);
SAME(sizeof((kte_kek_info *)0)->check_value, KT_KCV_TEXT);
SAME(sizeof((kte_info *)0)->id, KT_ENVELOPE_ID_HEX);

struct kte_kek {
	kt_kek kek; /* to be wrapped by another CMK */
	kt_envelope_ctx *ctx;
};

const char *kte_version(void)
{
	return KT_VERSION;
}

const char *kte_code_name(kte_code code)
{
	return kt_code_name((kt_code)code);
}

/* What is below says it in `e`; the caller's *err, if any, gets it. */
static kte_code give(kt_code rc, const kt_err *e, kte_error *err)
{
	if (rc != KT_OK && err) {
		err->code = (kte_code)rc;
		memcpy(err->message, e->msg, sizeof err->message);
		memcpy(err->remedy, e->remedy, sizeof err->remedy);
	}
	return (kte_code)rc;
}

static kte_code usage(const char *what, kte_error *err)
{
	kt_err e = KT_ERR_INIT;
	return give(kt_fail(&e, KT_E_USAGE, "see libkeyturn-envelope(3)", "%s", what), &e, err);
}

static kte_code null_given(kte_error *err)
{
	return usage("a pointer is NULL that must not be", err);
}

/* A failure that is about one item names it. What is not printable ASCII is shown as \xNN, what is long is cut. */
static kte_code give_item(kt_code rc, const char *name, kt_err *e, kte_error *err)
{
	enum { SHOWN = 128 };
	char text[4 * SHOWN + 4] = "";
	if (rc == KT_OK)
		return KTE_OK;
	size_t at = 0, i = 0;
	for (; name[i] && i < SHOWN; i++) {
		unsigned char c = (unsigned char)name[i];
		bool plain = c >= ' ' && c <= '~' && c != '"' && c != '\\';
		at += (size_t)snprintf(text + at, sizeof text - at, plain ? "%c" : "\\x%02x", c);
	}
	return give(kt_err_prefix(e, rc, "item \"%s%s\"", text, name[i] ? "..." : ""), e, err);
}

/* --- Keystores ---------------------------------------------------------------------------------------------------- */

/* The process is the application's: its core dumps and its stderr are left alone. */
static kt_code prepare(kt_err *err)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static bool done;
	kt_code rc = KT_OK;
	(void)pthread_mutex_lock(&lock);
	if (!done) {
		kt_log_setup(KT_LOG_ERROR, -1);
		rc = kt_secret_heap(err);
		done = rc == KT_OK;
	}
	(void)pthread_mutex_unlock(&lock);
	return rc;
}

static kt_keystore *inner(kte_keystore *keystore)
{
	return (kt_keystore *)keystore;
}

static const kt_keystore *inner_const(const kte_keystore *keystore)
{
	return (const kt_keystore *)keystore;
}

kte_code kte_keystore_open(const char *uri, kte_keystore **out, kte_error *err)
{
	kt_err e = KT_ERR_INIT;
	kt_keystore *ks = NULL;
	if (!uri || !out)
		return null_given(err);
	*out = NULL;
	kt_code rc = prepare(&e);
	if (rc == KT_OK)
		rc = kt_keystore_open(uri, &ks, &e);
	*out = (kte_keystore *)ks;
	return give(rc, &e, err);
}

void kte_keystore_close(kte_keystore *keystore)
{
	kt_keystore_close(inner(keystore));
}

const char *kte_keystore_uri(const kte_keystore *keystore)
{
	return kt_keystore_uri(inner_const(keystore));
}

const char *kte_keystore_check_value(const kte_keystore *keystore)
{
	return kt_keystore_kcv(inner_const(keystore));
}

/* --- KEKs --------------------------------------------------------------------------------------------------------- */

void kte_kek_close(kte_kek *kek)
{
	if (!kek)
		return;
	kt_envelope_ctx_free(kek->ctx);
	kt_kek_free(&kek->kek);
	free(kek);
}

/* `kek` is taken over, also on failure. */
static kt_code make_ready(kt_kek *kek, kte_kek **out, kt_err *err)
{
	kte_kek *k = calloc(1, sizeof *k);
	kt_code rc = k ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = kt_envelope_ctx_new(kek, &k->ctx, err);
	if (rc != KT_OK) {
		free(k);
		kt_kek_free(kek);
		return rc;
	}
	k->kek = *kek;
	*out = k;
	return KT_OK;
}

static kt_code give_record(const kt_buf *made, void *record, size_t size, size_t *len, kt_err *err)
{
	if (made->len > size)
		return kt_fail(err, KT_E_USAGE, "give a buffer of KTE_RECORD_MAX bytes",
			       "the record has %zu bytes, the buffer %zu", made->len, size);
	memcpy(record, made->data, made->len);
	*len = made->len;
	return KT_OK;
}

kte_code kte_kek_make(kte_keystore *cmk, uint32_t generation, int64_t created_ms, kte_kek **out, void *record,
		      size_t size, size_t *len, kte_error *err)
{
	kt_err e = KT_ERR_INIT;
	kt_kek kek = KT_KEK_INIT;
	kt_buf made = KT_BUF_INIT;
	if (!cmk || !out || !record || !len)
		return null_given(err);
	*out = NULL;
	if (generation == 0 || created_ms < 0)
		return usage("a generation begins at 1, and a time at 0", err);
	kt_code rc = kt_kek_make(inner(cmk), generation, created_ms, &kek, &made, &e);
	if (rc == KT_OK)
		rc = make_ready(&kek, out, &e);
	if (rc == KT_OK)
		rc = give_record(&made, record, size, len, &e);
	if (rc != KT_OK) {
		kte_kek_close(*out);
		*out = NULL;
	}
	kt_buf_free(&made);
	return give(rc, &e, err);
}

kte_code kte_kek_open(kte_keystore *cmk, const void *record, size_t len, kte_kek **out, kte_error *err)
{
	kt_err e = KT_ERR_INIT;
	kt_kek kek = KT_KEK_INIT;
	if (!cmk || !record || !out)
		return null_given(err);
	*out = NULL;
	kt_code rc = kt_kek_open(record, len, inner(cmk), &kek, &e);
	if (rc == KT_OK)
		rc = make_ready(&kek, out, &e);
	return give(rc, &e, err);
}

kte_code kte_kek_wrap(const kte_kek *kek, kte_keystore *cmk, int64_t created_ms, void *record, size_t size, size_t *len,
		      kte_error *err)
{
	kt_err e = KT_ERR_INIT;
	kt_buf made = KT_BUF_INIT;
	if (!kek || !cmk || !record || !len)
		return null_given(err);
	if (created_ms < 0)
		return usage("a time begins at 0", err);
	kt_code rc = kt_kek_wrap(&kek->kek, inner(cmk), created_ms, &made, &e);
	if (rc == KT_OK)
		rc = give_record(&made, record, size, len, &e);
	kt_buf_free(&made);
	return give(rc, &e, err);
}

kte_code kte_kek_inspect(const void *record, size_t len, kte_kek_info *info, kte_error *err)
{
	kt_err e = KT_ERR_INIT;
	kt_kek_info i;
	if (!record || !info)
		return null_given(err);
	kt_code rc = kt_kek_inspect(record, len, &i, &e);
	*info = (kte_kek_info){.generation = i.generation, .created_ms = i.created_ms};
	memcpy(info->id, i.id, sizeof info->id);
	memcpy(info->check_value, i.kcv, sizeof info->check_value);
	memcpy(info->cmk_check_value, i.cmk_kcv, sizeof info->cmk_check_value);
	return give(rc, &e, err);
}

/* --- Items -------------------------------------------------------------------------------------------------------- */

kte_code kte_seal(kte_kek *kek, const char *name, const void *content, size_t len, void *envelope, size_t size,
		  kte_error *err)
{
	kt_err e = {.code = KT_OK};
	if (!kek || !name || (!content && len) || !envelope)
		return null_given(err);
	if (len <= KTE_CONTENT_MAX && size < len + KTE_OVERHEAD)
		return usage("the buffer has no room for the envelope: len + KTE_OVERHEAD bytes", err);
	return give_item(kt_envelope_seal_at(kek->ctx, name, content, len, envelope, &e), name, &e, err);
}

kte_code kte_open(kte_kek *kek, const char *name, const void *envelope, size_t len, void *content, size_t size,
		  size_t *content_len, kte_error *err)
{
	kt_err e = {.code = KT_OK};
	if (!kek || !name || !envelope || (!content && size) || !content_len)
		return null_given(err);
	*content_len = 0;
	if (len >= KTE_OVERHEAD && len - KTE_OVERHEAD > size)
		return usage("the buffer has no room for the content: len - KTE_OVERHEAD bytes", err);
	kt_code rc = kt_envelope_open_at(kek->ctx, name, envelope, len, content, &e);
	if (rc == KT_OK)
		*content_len = len - KTE_OVERHEAD;
	return give_item(rc, name, &e, err);
}

kte_code kte_rewrap(kte_kek *from, kte_kek *to, const char *name, void *head, size_t total, kte_error *err)
{
	kt_err e = {.code = KT_OK};
	if (!from || !to || !name || !head)
		return null_given(err);
	return give_item(kt_envelope_rewrap(from->ctx, to->ctx, name, head, total, &e), name, &e, err);
}

kte_code kte_reseal(kte_kek *from, kte_kek *to, const char *name, void *envelope, size_t len, kte_error *err)
{
	kt_err e = {.code = KT_OK};
	if (!from || !to || !name || !envelope)
		return null_given(err);
	return give_item(kt_envelope_reseal(from->ctx, to->ctx, name, envelope, len, &e), name, &e, err);
}

kte_code kte_inspect(const void *envelope, size_t len, kte_info *info, kte_error *err)
{
	kt_err e = KT_ERR_INIT;
	kt_envelope_info i;
	if (!envelope || !info)
		return null_given(err);
	kt_code rc = kt_envelope_inspect(envelope, len, &i, &e);
	*info = (kte_info){.version = i.version, .content_len = i.content_len};
	memcpy(info->id, i.id, sizeof info->id);
	memcpy(info->kek_id, i.kek_id, sizeof info->kek_id);
	return give(rc, &e, err);
}

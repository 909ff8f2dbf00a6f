/* SPDX-License-Identifier: Apache-2.0 */
#include "store/edit.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { LARGE = 4 << 20 };

/* What edits batches. Invariant: while `at` is not NULL, its batch belongs to the thread. */
typedef struct editor {
	const kt_edit *e;
	bool has_thread;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	kt_batch *at; /* NULL: there is nothing to do */
	bool end;
	kt_err err; /* of the last batch */
} editor;

void kt_batch_clear(kt_batch *b)
{
	b->data.len = b->n = 0;
	if (b->data.data)
		b->data.data[0] = '\0';
}

kt_code kt_batch_add(kt_batch *b, int64_t id, const char *name, size_t room, kt_batched **out, kt_err *err)
{
	size_t at = b->data.len, need = at + strlen(name) + 1 + room;
	if (need > b->data.cap && need > LARGE) /* as much as it needs, where doubling would take twice that */
		b->data.max = need;
	KT_TRY(kt_buf_room(&b->data, need - at, err));
	KT_TRY(kt_buf_append(&b->data, name, strlen(name) + 1, err));
	*out = &b->item[b->n];
	**out = (kt_batched){.id = id, .name = at, .bytes = b->data.len};
	memset(b->data.data + b->data.len, 0, room + 1);
	b->data.len += room;
	b->n++;
	return KT_OK;
}

static kt_code edit_batch(const kt_edit *e, kt_batch *b, kt_err *err)
{
	for (size_t i = 0; i < b->n; i++) {
		const kt_batched *item = &b->item[i];
		const char *name = (const char *)b->data.data + item->name;
		kt_code rc = e->fn(e->arg, name, b->data.data + item->bytes, item->total, err);
		if (rc != KT_OK)
			return kt_err_prefix(err, rc, "%s: item \"%s\"", kt_db_name(e->db), name);
	}
	return KT_OK;
}

static void *edit_batches(void *arg)
{
	editor *ed = arg;
	(void)pthread_mutex_lock(&ed->lock);
	for (;;) {
		while (!ed->at && !ed->end)
			(void)pthread_cond_wait(&ed->changed, &ed->lock);
		if (!ed->at)
			break;
		(void)pthread_mutex_unlock(&ed->lock);
		KT_IGNORE(edit_batch(ed->e, ed->at, &ed->err)); /* finish() finds it in ed->err */
		(void)pthread_mutex_lock(&ed->lock);
		ed->at = NULL;
		(void)pthread_cond_signal(&ed->changed);
	}
	(void)pthread_mutex_unlock(&ed->lock);
	return NULL;
}

static bool two_processors(void)
{
	cpu_set_t set;
	return sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 1;
}

/* Signals stay with the threads that were there before. */
static bool create_thread(editor *ed)
{
	sigset_t all, old;
	(void)sigfillset(&all);
	if (pthread_sigmask(SIG_SETMASK, &all, &old) != 0)
		return false;
	bool created = pthread_create(&ed->thread, NULL, edit_batches, ed) == 0;
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	return created;
}

/* Have a batch edited: finish() must follow before anything else is done with it. */
static void start(editor *ed, kt_batch *b)
{
	if (!ed->has_thread) {
		KT_IGNORE(edit_batch(ed->e, b, &ed->err));
		return;
	}
	(void)pthread_mutex_lock(&ed->lock);
	ed->at = b;
	(void)pthread_cond_signal(&ed->changed);
	(void)pthread_mutex_unlock(&ed->lock);
}

static kt_code finish(editor *ed, kt_err *err)
{
	(void)pthread_mutex_lock(&ed->lock);
	while (ed->at)
		(void)pthread_cond_wait(&ed->changed, &ed->lock);
	(void)pthread_mutex_unlock(&ed->lock);
	if (err && ed->err.code != KT_OK)
		*err = ed->err;
	return ed->err.code;
}

static void end(editor *ed)
{
	if (ed->has_thread) {
		(void)pthread_mutex_lock(&ed->lock);
		ed->end = true;
		(void)pthread_cond_signal(&ed->changed);
		(void)pthread_mutex_unlock(&ed->lock);
		(void)pthread_join(ed->thread, NULL);
	}
	(void)pthread_cond_destroy(&ed->changed);
	(void)pthread_mutex_destroy(&ed->lock);
}

/* `rest` is what has not been read; it moves on. */
static kt_code read_batch(const kt_edit *e, kt_db_span *rest, kt_batch *b, kt_err *err)
{
	kt_batch_clear(b);
	if (rest->limit == 0)
		return KT_OK;
	KT_TRY(e->read(e, rest, b, err));
	if (b->n)
		rest->after = b->item[b->n - 1].id;
	if (rest->limit > 0)
		rest->limit -= (int64_t)b->n;
	return KT_OK;
}

static kt_code work(editor *ed, kt_batch *now, kt_batch *next, kt_db_span *span, int64_t *count, kt_err *err)
{
	kt_db_span rest = *span;
	KT_TRY(read_batch(ed->e, &rest, now, err));
	start(ed, now);
	while (now->n) {
		kt_code rc = read_batch(ed->e, &rest, next, err);
		KT_TRY(finish(ed, err));
		KT_TRY(rc);
		start(ed, next);
		KT_TRY(ed->e->write(ed->e, now, err));
		span->after = now->item[now->n - 1].id;
		*count += (int64_t)now->n;
		kt_batch *written = now;
		now = next;
		next = written;
	}
	return KT_OK;
}

kt_code kt_edit_run(const kt_edit *e, kt_db_span *span, int64_t *count, kt_err *err)
{
	kt_db_span all = {.after = INT64_MIN, .upto = INT64_MAX, .limit = -1};
	editor ed = {.e = e, .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
	*count = 0;
	kt_batch *b = calloc(2, sizeof *b);
	if (!b)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	ed.has_thread = two_processors() && create_thread(&ed);
	kt_code rc = work(&ed, &b[0], &b[1], span ? span : &all, count, err);
	end(&ed);
	kt_buf_free(&b[0].data);
	kt_buf_free(&b[1].data);
	free(b);
	return rc;
}

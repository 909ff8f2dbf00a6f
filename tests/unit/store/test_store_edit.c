/* SPDX-License-Identifier: Apache-2.0 */
/* The pipeline of store/edit.h over a back end in memory: what is read, edited and written, in which order and by
 * which thread, and what a failure at any place leaves. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "store/db_backend.h"
#include "store/edit.h"

enum { ITEMS = 1000, PER_BATCH = 64, HEAD = 8, FROM = 4, NEVER = -1 };

/* An item is 8 bytes of its row, and as many of what was done to it: 'r' while it only was read. */
typedef struct world {
	uint8_t item[ITEMS][HEAD];
	int fail_read, fail_edit, fail_write; /* at this item */
	int read, written;                    /* items so far */
	atomic_int edited, editing;
	pthread_t editor;
	int most; /* items that were read and not written yet */
} world;

static kt_code broken(const char *what, int at, kt_err *err)
{
	return kt_fail(err, KT_E_IO, NULL, "%s broke at %d", what, at);
}

static kt_code read_some(const kt_edit *e, const kt_db_span *span, kt_batch *b, kt_err *err)
{
	world *w = e->own;
	int first = span->after < 0 ? 0 : (int)span->after + 1;
	assert_int_equal(b->n, 0);
	for (int i = first; i < ITEMS && i <= span->upto && b->n < PER_BATCH; i++) {
		kt_batched *item;
		char name[24];
		if (span->limit >= 0 && (int64_t)b->n == span->limit)
			break;
		if (i == w->fail_read)
			return broken("read", i, err);
		(void)snprintf(name, sizeof name, "item %d", i);
		KT_TRY(kt_batch_add(b, i, name, HEAD, &item, err));
		item->len = item->total = HEAD;
		memcpy(b->data.data + item->bytes, w->item[i], HEAD);
		w->read++;
	}
	if (w->read - w->written > w->most)
		w->most = w->read - w->written;
	return KT_OK;
}

static kt_code write_some(const kt_edit *e, kt_batch *b, kt_err *err)
{
	world *w = e->own;
	for (size_t i = 0; i < b->n; i++) {
		const kt_batched *item = &b->item[i];
		if (item->id == w->fail_write)
			return broken("write", (int)item->id, err);
		assert_int_equal(item->len, HEAD);
		memcpy(w->item[item->id] + e->from, b->data.data + item->bytes + e->from, HEAD - e->from);
		w->written++;
	}
	return KT_OK;
}

/* In the pipeline's thread: no assertions here, cmocka leaves them by longjmp(). */
static kt_code edit_one(void *arg, const char *name, uint8_t *head, size_t total, kt_err *err)
{
	world *w = arg;
	int i = 0;
	bool alone = atomic_fetch_add(&w->editing, 1) == 0;
	w->editor = pthread_self();
	if (!alone || total != HEAD || sscanf(name, "item %d", &i) != 1 || i != atomic_load(&w->edited))
		return kt_fail(err, KT_E_INTERNAL, NULL, "%s is not what should come now", name);
	if (i == w->fail_edit)
		return broken("edit", i, err);
	for (size_t k = 0; k < HEAD; k++)
		head[k]++;
	atomic_fetch_add(&w->edited, 1);
	atomic_fetch_sub(&w->editing, 1);
	return KT_OK;
}

static char db_name[] = "memory";
static kt_db base = {.name = db_name};

static kt_code edit_all(world *w, kt_db_span *span, int64_t *count, kt_err *err)
{
	const kt_edit e = {.db = &base,
			   .len = HEAD,
			   .from = FROM,
			   .fn = edit_one,
			   .arg = w,
			   .read = read_some,
			   .write = write_some,
			   .own = w};
	return kt_edit_run(&e, span, count, err);
}

static world fresh(void)
{
	return (world){.fail_read = NEVER, .fail_edit = NEVER, .fail_write = NEVER};
}

/* The first n items were edited from FROM on and once, and no other byte has changed. */
static void check_items(const world *w, int n)
{
	for (int i = 0; i < ITEMS; i++)
		for (int k = 0; k < HEAD; k++)
			assert_int_equal(w->item[i][k], i < n && k >= FROM);
}

static void every_item_once_and_in_order(void **state)
{
	(void)state;
	world w = fresh();
	int64_t count;
	cpu_set_t set;
	assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
	assert_int_equal(edit_all(&w, NULL, &count, NULL), KT_OK);
	assert_int_equal(count, ITEMS);
	check_items(&w, ITEMS);
	assert_true(w.most <= 2 * PER_BATCH);
	if (CPU_COUNT(&set) > 1) /* beside the calling thread, which is reading while it works */
		assert_true(!pthread_equal(w.editor, pthread_self()) && w.most == 2 * PER_BATCH);
}

static void the_same_on_one_processor(void **state)
{
	(void)state;
	world w = fresh();
	int64_t count;
	cpu_set_t set, one;
	assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
	CPU_ZERO(&one);
	CPU_SET((size_t)sched_getcpu(), &one);
	assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
	kt_code rc = edit_all(&w, NULL, &count, NULL);
	assert_int_equal(sched_setaffinity(0, sizeof set, &set), 0);
	assert_int_equal(rc, KT_OK);
	assert_int_equal(count, ITEMS);
	check_items(&w, ITEMS);
	assert_true(pthread_equal(w.editor, pthread_self()));
}

static void spans_end_where_they_say(void **state)
{
	(void)state;
	static const struct {
		kt_db_span span;
		int n;
	} c[] = {{{.after = -1, .upto = 99, .limit = -1}, 100},
		 {{.after = -1, .upto = INT64_MAX, .limit = 100}, 100},
		 {{.after = -1, .upto = INT64_MAX, .limit = PER_BATCH}, PER_BATCH},
		 {{.after = -1, .upto = INT64_MAX, .limit = ITEMS + 1}, ITEMS},
		 {{.after = -1, .upto = INT64_MAX, .limit = 0}, 0},
		 {{.after = ITEMS, .upto = INT64_MAX, .limit = -1}, 0}};
	for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
		world w = fresh();
		kt_db_span span = c[i].span;
		int64_t count;
		assert_int_equal(edit_all(&w, &span, &count, NULL), KT_OK);
		assert_int_equal(count, c[i].n);
		assert_int_equal(span.after, c[i].n ? c[i].n - 1 : c[i].span.after);
		check_items(&w, c[i].n);
	}
}

/* At every place of a batch, in the first, a middle and the last one. What was written before is the caller's to roll
 * back; nothing is written out of order or after the failure, and it is named. */
static void failures_end_it(void **state)
{
	(void)state;
	static const int at[] = {0, 1, PER_BATCH - 1, PER_BATCH, PER_BATCH + 1, 500, ITEMS - 1};
	for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
		world w[3] = {fresh(), fresh(), fresh()};
		const char *const what[] = {"read", "edit", "write"};
		w[0].fail_read = w[1].fail_edit = w[2].fail_write = at[i];
		for (size_t k = 0; k < 3; k++) {
			char says[64];
			int64_t count;
			kt_err err = KT_ERR_INIT;
			kt_db_span span = {.after = -1, .upto = INT64_MAX, .limit = -1};
			(void)snprintf(says, sizeof says, "%s broke at %d", what[k], at[i]);
			assert_int_equal(edit_all(&w[k], &span, &count, &err), KT_E_IO);
			assert_non_null(strstr(err.msg, says));
			if (k == 1)
				assert_non_null(strstr(err.msg, "memory: item \"item "));
			assert_int_equal(count, span.after + 1);
			assert_true(count <= at[i] && w[k].written <= at[i]);
			check_items(&w[k], w[k].written);
		}
	}
}

/* Two things are wrong at once: what comes first in the order of items is what is said. */
static void the_first_failure_is_told(void **state)
{
	(void)state;
	world w = fresh();
	int64_t count;
	kt_err err = KT_ERR_INIT;
	w.fail_edit = PER_BATCH - 1;
	w.fail_read = PER_BATCH;
	assert_int_equal(edit_all(&w, NULL, &count, &err), KT_E_IO);
	assert_non_null(strstr(err.msg, "edit broke at 63"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_item_once_and_in_order), cmocka_unit_test(the_same_on_one_processor),
		cmocka_unit_test(spans_end_where_they_say),     cmocka_unit_test(failures_end_it),
		cmocka_unit_test(the_first_failure_is_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

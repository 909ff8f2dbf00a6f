/* SPDX-License-Identifier: Apache-2.0 */
#include "pkcs11/watch.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

enum { LOOK_MS = 100 };

static kt_watch_table own;
static kt_watch_table *used = &own;
static _Thread_local int mine = -1; /* the slot of this thread's call */

void kt_watch_use(kt_watch_table *table)
{
	used = table;
}

/* Even stamps are whole, odd ones are being written. */
static uint64_t next_stamp(void)
{
	return 2 * (atomic_fetch_add(&used->calls, 1) + 1);
}

void kt_watch_begin(const char *name)
{
	const uint64_t stamp = next_stamp();
	for (int i = 0; i < KT_WATCH_SLOTS; i++) {
		uint64_t is_free = 0;
		kt_watch_slot *s = &used->slot[i];
		if (!atomic_compare_exchange_strong(&s->stamp, &is_free, stamp | 1))
			continue;
		(void)snprintf(s->call, sizeof s->call, "%s", name);
		atomic_store(&s->stamp, stamp);
		mine = i;
		return;
	}
}

void kt_watch_end(void)
{
	if (mine >= 0)
		atomic_store(&used->slot[mine].stamp, 0);
	mine = -1;
}

/* The name in a slot, where it is whole and stays so while it is read. */
static bool read_slot(kt_watch_slot *s, uint64_t *stamp, char name[KT_WATCH_NAME])
{
	*stamp = atomic_load(&s->stamp);
	if (*stamp == 0 || *stamp & 1)
		return false;
	memcpy(name, s->call, KT_WATCH_NAME);
	name[KT_WATCH_NAME - 1] = '\0';
	return atomic_load(&s->stamp) == *stamp;
}

bool kt_watch_look(kt_watch_table *table, kt_watch_seen *seen, kt_watch_call *out)
{
	const int64_t now = kt_clock_mono_ms();
	bool any = false;
	for (size_t i = 0; i < KT_WATCH_SLOTS; i++) {
		char name[KT_WATCH_NAME];
		uint64_t stamp;
		if (!read_slot(&table->slot[i], &stamp, name))
			continue;
		if (seen->stamp[i] != stamp) {
			seen->stamp[i] = stamp;
			seen->since_ms[i] = now;
		}
		if (any && now - seen->since_ms[i] <= out->ms)
			continue;
		any = true;
		out->ms = now - seen->since_ms[i];
		memcpy(out->name, name, sizeof out->name);
	}
	return any;
}

bool kt_watch_has(kt_watch_table *table, const char *name)
{
	for (size_t i = 0; i < KT_WATCH_SLOTS; i++) {
		char is[KT_WATCH_NAME];
		uint64_t stamp;
		if (read_slot(&table->slot[i], &stamp, is) && strcmp(is, name) == 0)
			return true;
	}
	return false;
}

kt_code kt_watch_hung(const kt_watch_call *call, const char *where, kt_err *err)
{
	return kt_fail(err, KT_E_HSM,
		       "see with the token's own tool whether it answers; for a token that is only slow, raise "
		       "hsm.call_timeout_s in cluster.json",
		       "%s: %s was under way for %lld.%lld s without an answer, and was given up", where, call->name,
		       (long long)(call->ms / 1000), (long long)(call->ms % 1000 / 100));
}

/* --- a program's watch on itself ---------------------------------------------------------------------------------- */

static struct {
	int64_t call_ms;
	void (*hung)(const kt_err *err);
} self;

static void *watch(void *unused)
{
	kt_watch_seen seen = {0};
	kt_watch_call call;
	kt_err err = KT_ERR_INIT;
	while (!kt_watch_look(used, &seen, &call) || call.ms <= self.call_ms)
		(void)nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
	KT_IGNORE(kt_watch_hung(&call, "the token", &err));
	self.hung(&err);
	return unused;
}

kt_code kt_watch_start(int64_t call_ms, void (*hung)(const kt_err *err), kt_err *err)
{
	pthread_t thread;
	self.call_ms = call_ms;
	self.hung = hung;
	if (pthread_create(&thread, NULL, watch, NULL) != 0)
		return kt_fail(err, KT_E_INTERNAL, NULL, "no thread can be had to watch over the token's calls");
	(void)pthread_detach(thread);
	return KT_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* One step in one role: its queue, its attempts, its counts. Every function is O(1) but those that open a block. */
#include <stdlib.h>

#include "orchestrator/engine/core.h"

static void enqueue(kt_block *b, kt_target *t, int64_t delay_ms)
{
	if (!t->same_key)
		t->attempt++;
	t->state = KT_TARGET_WANTED;
	t->queued = true;
	t->delay_ms = delay_ms;
	b->queue[(b->head + b->queued) % b->n] = (uint32_t)(t - b->targets);
	b->queued++;
}

/* Queue every member with a new attempt; whatever stood in the queue is dropped. */
static void queue_all(kt_block *b, int64_t delay_ms)
{
	b->head = b->queued = b->ok = b->failed = b->waiting = 0;
	b->first_failed = b->n;
	for (size_t i = 0; i < b->n; i++) {
		kt_target *t = &b->targets[i];
		bool unused = t->queued && t->attempt > 0;
		t->queued = false;
		t->same_key = unused;
		if (t->member)
			enqueue(b, t, delay_ms);
		t->same_key = false;
	}
}

void kt_block_clear(kt_block *b)
{
	b->members = b->ok = b->failed = b->waiting = 0;
	b->first_failed = b->n;
	for (size_t i = 0; i < b->n; i++) {
		b->targets[i].member = false;
		b->targets[i].state = KT_TARGET_IDLE;
	}
}

void kt_block_open(kt_block *b)
{
	b->round = 0;
	for (size_t i = 0; i < b->n; i++)
		b->targets[i].again = 0;
	queue_all(b, 0);
}

void kt_block_reopen(kt_block *b)
{
	if (b->together) {
		kt_block_open(b);
		return;
	}
	for (size_t i = 0; i < b->n; i++) {
		kt_target *t = &b->targets[i];
		t->again = 0;
		if (t->state == KT_TARGET_FAILED)
			enqueue(b, t, 0);
	}
	b->failed = 0;
	b->first_failed = b->n;
}

const kt_target *kt_block_head(const kt_block *b)
{
	return b->queued ? &b->targets[b->queue[b->head]] : NULL;
}

void kt_block_sent(kt_block *b)
{
	kt_target *t = &b->targets[b->queue[b->head]];
	b->head = (b->head + 1) % b->n;
	b->queued--;
	b->sent++;
	if (!t->tried && !PLANTED(INTENT_NOT_RECORDED)) {
		t->tried = true;
		b->tried++;
	}
	t->queued = false;
	t->state = KT_TARGET_SENT;
}

/* The round of a `together` block is over: all were quiet at once, or all are asked again. */
static void end_round(kt_block *b)
{
	if (b->sent || b->queued || !b->waiting || b->failed)
		return;
	if (b->round < b->times) {
		b->round++;
		queue_all(b, b->every_ms);
		return;
	}
	for (size_t i = 0; i < b->n; i++) {
		kt_target *t = &b->targets[i];
		if (t->state != KT_TARGET_WANTED)
			continue;
		t->state = KT_TARGET_FAILED;
		b->failed++;
		if (i < b->first_failed)
			b->first_failed = i;
	}
	b->waiting = 0;
}

static bool asks_again(kt_status status, bool unreachable, kt_retry_how how)
{
	if (how == RETRY_ALL)
		return true;
	if (how == RETRY_UNREACHABLE)
		return (unreachable && !PLANTED(UNSETTLED_PROBED)) || PLANTED(ONCE_RETRIED);
	return status == KT_STATUS_RETRY;
}

static void settle_bad(kt_block *b, kt_target *t, kt_status status, kt_retry_how how)
{
	size_t i = (size_t)(t - b->targets);
	bool again = asks_again(status, t->same_key, how);
	if (PLANTED(ONCE_RETRIED) && how == RETRY_UNREACHABLE)
		t->same_key = false;
	if (again && b->together && how == RETRY_WHEN_ASKED) {
		t->state = KT_TARGET_WANTED;
		b->waiting++;
	} else if (again && t->again < b->times) {
		t->again++;
		enqueue(b, t, b->every_ms);
	} else {
		t->state = KT_TARGET_FAILED;
		b->failed++;
		if (i < b->first_failed)
			b->first_failed = i;
	}
}

void kt_block_settle(kt_block *b, kt_target *t, kt_status status, cJSON *result, kt_err *error, kt_retry_how how)
{
	b->sent--;
	if (result) {
		cJSON_Delete(t->result);
		t->result = result;
	}
	free(t->error);
	t->error = error;
	/* Nobody knows how an unreachable node's attempt ended: only its own key may be asked for (S1). */
	t->same_key = status != KT_STATUS_OK && error && error->code == KT_E_UNREACHABLE;
	if (status == KT_STATUS_OK) {
		t->state = KT_TARGET_OK;
		t->undone = true;
		b->ok++;
	} else {
		settle_bad(b, t, status, how);
	}
	end_round(b);
}

bool kt_block_complete(const kt_block *b)
{
	return b->ok == b->members;
}

/* Invariants (1) to (5), see core.h. */
bool kt_block_sane(const kt_block *b, int64_t parallel)
{
	size_t count[KT_TARGET_STATES] = {0};
	size_t members = 0, queued = 0, tried = 0, first = b->n;
	for (size_t i = 0; i < b->n; i++) {
		const kt_target *t = &b->targets[i];
		if (t->state >= KT_TARGET_STATES || (t->state == KT_TARGET_SENT && !t->tried) ||
		    (t->queued && t->state != KT_TARGET_WANTED) || (!t->member && t->state != KT_TARGET_IDLE) ||
		    (t->state == KT_TARGET_FAILED && !t->error))
			return false;
		count[t->state]++;
		members += t->member;
		queued += t->queued;
		tried += t->tried;
		if (t->state == KT_TARGET_FAILED && first == b->n)
			first = i;
	}
	for (size_t i = 0; i < b->queued; i++)
		if (!b->targets[b->queue[(b->head + i) % b->n]].queued)
			return false;
	return queued == b->queued && count[KT_TARGET_WANTED] == b->queued + b->waiting && tried == b->tried &&
	       count[KT_TARGET_SENT] == b->sent && count[KT_TARGET_OK] == b->ok &&
	       count[KT_TARGET_FAILED] == b->failed && members == b->members && first == b->first_failed &&
	       (parallel == 0 || b->sent <= (size_t)parallel);
}

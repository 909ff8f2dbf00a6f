/* SPDX-License-Identifier: Apache-2.0 */
/* exec: work that is done once, under a detached runner, while we only wait for what it records. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/detach.h"
#include "agent/epoch.h"
#include "agent/output.h"
#include "agent/spool.h"
#include "base/clock.h"

enum { PATH_TEXT = 4096, POLL_MS = 50, SAY_MS = 1000, LINE = 400, CHUNK = 8192 };

/* Where we are in the output, for progress. */
typedef struct follow {
	off_t at;
	int64_t say_at;
	char last[LINE];
} follow;

static void pause_ms(long ms)
{
	(void)nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL);
}

/* --- Starting -------------------------------------------------------------------------------------------------------
 */

/* What the runner says until it has claimed the work; nothing when all is well. */
static void read_report(int fd, char *out, size_t size)
{
	size_t len = 0;
	for (;;) {
		ssize_t n = len + 1 < size ? read(fd, out + len, size - 1 - len) : 0;
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	out[len] = '\0';
}

/* Start a runner and wait until it has claimed the work or is gone. */
static kt_code start_runner(const char *spool, char report[KT_ERR_MSG], kt_err *err)
{
	int p[2];
	if (pipe2(p, O_CLOEXEC) != 0)
		return kt_fail_errno(err, errno, NULL, "no pipe for detached work");
	const char *argv[] = {"keyturn-agent", "run", spool, NULL};
	kt_code rc = kt_detach(argv, -1, p[1], err);
	(void)close(p[1]);
	if (rc == KT_OK)
		read_report(p[0], report, KT_ERR_MSG);
	(void)close(p[0]);
	return rc;
}

/* No runner has claimed it: see to it that none can any more, so that "failed" is certain. */
static kt_code give_up(const char *spool, const kt_err *why, kt_err *err)
{
	bool mine;
	KT_TRY(kt_spool_claim(spool, &mine, err));
	return mine ? kt_spool_finish(spool, KT_STATUS_FAILED, NULL, why, err) : KT_OK;
}

static kt_code try_start(kt_agent_ctx *ctx, kt_err *why)
{
	char report[KT_ERR_MSG] = "";
	kt_spool_work work;
	KT_TRY(kt_detached_set(ctx, ctx->spool, why));
	KT_TRY(start_runner(ctx->spool, report, why));
	KT_TRY(kt_spool_work_of(ctx->spool, &work, why));
	if (work.claimed)
		return KT_OK;
	return kt_fail(why, KT_E_IO, "see whether the agent's files are complete, and the kernel's log",
		       "the detached runner could not be started%s%s", report[0] ? ": " : "", report);
}

/* KT_OK: a runner has claimed it, or it is recorded that there will be none. */
static kt_code start(kt_agent_ctx *ctx, kt_err *err)
{
	kt_err why = KT_ERR_INIT;
	return try_start(ctx, &why) == KT_OK ? KT_OK : give_up(ctx->spool, &why, err);
}

/* S1, S2: asked about again after its coordinator or its connection was lost. What was not begun then is not begun now,
 * long after the gate was quiet. */
static kt_code never_started(kt_agent_ctx *ctx, kt_err *err)
{
	kt_err why = KT_ERR_INIT;
	KT_IGNORE(kt_fail(&why, KT_E_REFUSED, "the probe tells which key opens the data",
			  "the command was never started: its request had not arrived before the connection was lost"));
	return give_up(ctx->spool, &why, err);
}

/* --- Waiting --------------------------------------------------------------------------------------------------------
 */

static void read_new(follow *f, const char *path, kt_buf *out)
{
	uint8_t chunk[CHUNK];
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return;
	for (ssize_t n = pread(fd, chunk, sizeof chunk, f->at); n > 0; n = pread(fd, chunk, sizeof chunk, f->at)) {
		f->at += n;
		kt_buf_clear(out);
		if (kt_buf_append(out, chunk, (size_t)n, NULL) != KT_OK)
			break;
	}
	(void)close(fd);
}

/* The last line that it has printed, at most once a second. The file is scrubbed already. */
static void say(kt_agent_ctx *ctx, follow *f)
{
	char path[PATH_TEXT];
	char line[LINE];
	if (kt_clock_mono_ms() < f->say_at)
		return;
	f->say_at = kt_clock_mono_ms() + SAY_MS;
	if ((size_t)snprintf(path, sizeof path, "%s/output", ctx->spool) >= sizeof path)
		return;
	kt_buf fresh = {.max = CHUNK};
	read_new(f, path, &fresh);
	kt_text_clean(&fresh);
	kt_text_last_line(kt_buf_cstr(&fresh), line, sizeof line);
	if (line[0] && strcmp(line, f->last) != 0) {
		kt_agent_progress(ctx, -1, -1, "%s", line);
		(void)snprintf(f->last, sizeof f->last, "%s", line);
	}
	kt_buf_free(&fresh);
}

/* The runner is gone and has recorded nothing. */
static kt_status lost(const char *spool, const kt_spool_work *work, kt_err *err)
{
	char boot_id[KT_BOOT_ID];
	kt_err ignored = KT_ERR_INIT;
	bool booted = kt_boot_id(boot_id, &ignored) == KT_OK && strcmp(boot_id, work->runner.boot_id) != 0;
	if (!work->started) {
		KT_IGNORE(kt_fail(err, KT_E_INTERNAL, NULL,
				  "the detached runner ended before the command was executed%s (%s)",
				  booted ? ": the node was rebooted" : "", spool));
		KT_IGNORE(kt_spool_finish(spool, KT_STATUS_FAILED, NULL, err, &ignored));
		return KT_STATUS_FAILED;
	}
	KT_IGNORE(kt_fail(err, KT_E_UNKNOWN, "the probe tells which key opens the data",
			  "the command was started and its outcome is not known: %s (%s)",
			  booted ? "the node was rebooted meanwhile" : "its runner is gone and recorded nothing",
			  spool));
	/* Nobody is left who could record another outcome. When this can't be recorded either, the same is found again.
	 */
	KT_IGNORE(kt_spool_finish(spool, KT_STATUS_UNKNOWN, NULL, err, &ignored));
	return KT_STATUS_UNKNOWN;
}

static kt_status broken_off(kt_agent_ctx *ctx, kt_err *err)
{
	KT_IGNORE(kt_fail(err, KT_E_UNKNOWN, "ask again with the same idempotency key",
			  "the command goes on detached (%s); this coordinator is gone or was replaced", ctx->spool));
	return KT_STATUS_UNKNOWN;
}

/* Copy the recorded outcome into the answer. */
static kt_status answer(kt_spool_outcome *o, cJSON *result, kt_err *err)
{
	const cJSON *item;
	kt_status status = o->status;
	*err = o->error;
	cJSON_ArrayForEach(item, o->result) if (kt_json_add(result, item->string, cJSON_Duplicate(item, 1), err) !=
						KT_OK) status = KT_STATUS_UNKNOWN;
	kt_spool_outcome_free(o);
	return status;
}

static kt_status wait_outcome(kt_agent_ctx *ctx, cJSON *result, kt_err *err)
{
	follow f = {.say_at = kt_clock_mono_ms() + SAY_MS / 4};
	for (;;) {
		kt_spool_work work;
		kt_spool_outcome o;
		bool found;
		/* First whether it is alive, then whether it has recorded: an outcome is recorded before the end. */
		if (kt_spool_work_of(ctx->spool, &work, err) != KT_OK ||
		    kt_spool_outcome_load(ctx->spool, &found, &o, err) != KT_OK)
			return KT_STATUS_UNKNOWN;
		if (found)
			return answer(&o, result, err);
		if (!work.alive || work.runner.pid == getpid()) /* claimed by ourselves to keep others off */
			return lost(ctx->spool, &work, err);
		if (kt_agent_stopping(ctx))
			return broken_off(ctx, err);
		say(ctx, &f);
		pause_ms(POLL_MS);
	}
}

kt_status kt_action_exec(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	kt_spool_work work;
	(void)args; /* the runner reads them from the intent: what is recorded is what is done */
	kt_code rc = kt_spool_work_of(ctx->spool, &work, err);
	if (rc != KT_OK)
		return KT_STATUS_UNKNOWN;
	if (!work.claimed && (ctx->settle ? never_started(ctx, err) : start(ctx, err)) != KT_OK)
		return KT_STATUS_FAILED; /* not claimed, so not started: no runner goes on without a claim */
	/* From here on the runner speaks for itself; other work is kept off by what kt_detached_set recorded. */
	kt_node_unlock(ctx);
	return wait_outcome(ctx, result, err);
}

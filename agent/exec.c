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
#include "agent/once.h"
#include "agent/output.h"
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
static kt_code start_runner(void *arg, const char *spool, char report[KT_ERR_MSG], kt_err *err)
{
	(void)arg;
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

static kt_status broken_off(kt_agent_ctx *ctx, kt_err *err)
{
	KT_IGNORE(kt_fail(err, KT_E_UNKNOWN, "ask again with the same idempotency key",
			  "the command goes on detached (%s); this coordinator is gone or was replaced", ctx->spool));
	return KT_STATUS_UNKNOWN;
}

static kt_status wait_outcome(kt_agent_ctx *ctx, cJSON *result, kt_err *err)
{
	follow f = {.say_at = kt_clock_mono_ms() + SAY_MS / 4};
	for (;;) {
		bool runs;
		kt_status status = kt_once_look(ctx->spool, &runs, result, err);
		if (!runs)
			return status;
		if (kt_agent_stopping(ctx))
			return broken_off(ctx, err);
		say(ctx, &f);
		pause_ms(POLL_MS);
	}
}

kt_status kt_action_exec(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	(void)args; /* the runner reads them from the intent: what is recorded is what is done */
	kt_code rc = kt_once_begin(ctx, start_runner, NULL, err);
	if (rc != KT_OK)
		return kt_action_end(rc);
	/* From here on the runner speaks for itself; other work is kept off by what kt_detached_set recorded. */
	kt_node_unlock(ctx);
	return wait_outcome(ctx, result, err);
}

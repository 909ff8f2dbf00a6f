/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/epoch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/spool.h"
#include "base/clock.h"
#include "base/planted.h"
#include "base/record.h"

enum { PATH_TEXT = KT_RECORD_PATH, WAIT_MS = 50, SAY_MS = 5000 };

static kt_code cluster_path(const char *state, const char *cluster, const char *name, char out[PATH_TEXT], kt_err *err)
{
	static const char below[] = "/clusters/";
	const char *const part[] = {state, below, cluster, name};
	size_t n = 0;
	for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
		size_t more = strlen(part[i]);
		if (n + more >= PATH_TEXT)
			return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", state);
		memcpy(out + n, part[i], more + 1);
		n += more;
	}
	return KT_OK;
}

/* The cluster's folder, made when needed, flocked until the descriptor is closed. */
static kt_code lock_folder(const char *state, const char *cluster, int *fd, kt_err *err)
{
	char path[PATH_TEXT];
	KT_TRY(cluster_path(state, cluster, "", path, err));
	*fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*fd < 0 && errno == ENOENT) {
		KT_TRY(kt_file_mkdirs(path, 0700, err));
		*fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (*fd < 0)
		return kt_fail_errno(err, errno, NULL, "%s", path);
	int r;
	do
		r = flock(*fd, LOCK_EX);
	while (r != 0 && errno == EINTR);
	if (r == 0)
		return KT_OK;
	kt_code rc = kt_fail_errno(err, errno, NULL, "%s cannot be locked", path);
	(void)close(*fd);
	return rc;
}

static const char lost_epoch[] =
	"see that no other coordinator works on this cluster, then remove it: `keyturn resume` records its epoch again";

/* "EPOCH RUN\n" or "EPOCH RUN LINK\n" */
static bool scan_epoch(const char *text, kt_epoch *out)
{
	char *end;
	errno = 0;
	out->epoch = strtoll(text, &end, 10);
	size_t run = *end == ' ' ? strcspn(end + 1, " \n") : 0;
	if (errno || out->epoch < 1 || run == 0 || run > KT_NAME_MAX)
		return false;
	memcpy(out->run, end + 1, run);
	out->run[run] = '\0';
	const char *rest = end + 1 + run;
	if (*rest == ' ') {
		out->link = strtoll(rest + 1, &end, 10);
		if (errno || out->link < 1)
			return false;
		rest = end;
	}
	return strcmp(rest, "\n") == 0;
}

static kt_code parse_epoch(const char *path, const char *text, kt_epoch *out, kt_err *err)
{
	if (scan_epoch(text, out))
		return KT_OK;
	*out = (kt_epoch){0};
	return kt_fail(err, KT_E_AUDIT, lost_epoch, "%s is damaged: it holds no epoch", path);
}

kt_code kt_epoch_read(const char *state, const char *cluster, kt_epoch *out, kt_err *err)
{
	char path[PATH_TEXT];
	bool found;
	*out = (kt_epoch){0};
	KT_TRY(cluster_path(state, cluster, "/epoch", path, err));
	kt_buf text = {.max = PATH_TEXT};
	kt_code rc = kt_record_read(path, lost_epoch, &found, &text, err);
	if (rc == KT_OK && found)
		rc = parse_epoch(path, kt_buf_cstr(&text), out, err);
	kt_buf_free(&text);
	return rc;
}

/* The record itself, and the names of the folders that it lies in: whoever made them may have been killed before. */
static kt_code write_epoch(const char *state, const kt_request *r, kt_err *err)
{
	char path[PATH_TEXT];
	KT_TRY(cluster_path(state, r->cluster, "", path, err));
	KT_TRY(kt_file_sync_folder(path, err));
	*strrchr(path, '/') = '\0';
	KT_TRY(kt_file_sync_folder(path, err));
	KT_TRY(cluster_path(state, r->cluster, "/epoch", path, err));
	kt_buf text = KT_BUF_INIT;
	kt_code rc = r->link ? kt_buf_printf(&text, err, "%" PRId64 " %s %" PRId64 "\n", r->epoch, r->run, r->link)
			     : kt_buf_printf(&text, err, "%" PRId64 " %s\n", r->epoch, r->run);
	if (rc == KT_OK)
		rc = kt_record_replace(path, &text, &kt_record_private, err);
	kt_buf_free(&text);
	return rc;
}

static kt_code record(const char *state, const kt_request *r, kt_err *err)
{
	if (write_epoch(state, r, err) == KT_OK)
		return KT_OK;
	char what[64];
	(void)snprintf(what, sizeof what, "epoch %" PRId64, r->epoch);
	return kt_record_failed(err, what);
}

/* The same epoch as before is durable, too: whoever recorded it may have been killed before it was. */
static kt_code confirm(const char *state, const kt_request *r, kt_err *err)
{
	char path[PATH_TEXT];
	KT_TRY(cluster_path(state, r->cluster, "/epoch", path, err));
	kt_code rc = kt_file_sync_folder(path, err);
	return rc == KT_OK ? KT_OK : kt_record_failed(err, "the epoch");
}

static kt_code replaced(const kt_request *r, const kt_epoch *seen, kt_err *err)
{
	return kt_fail(err, KT_E_BUSY, "another coordinator has taken over: look at its run with `keyturn status`",
		       "this node follows epoch %" PRId64 " of run %s of cluster %s; epoch %" PRId64
		       " of run %s is refused",
		       seen->epoch, seen->run, r->cluster, r->epoch, r->run);
}

/* What is stale is refused. */
static kt_code judge(const kt_request *r, const kt_epoch *seen, bool same, kt_err *err)
{
	if (r->epoch <= seen->epoch && !same && !PLANTED(EPOCH_NOT_CHECKED))
		return replaced(r, seen, err);
	if (same && r->link < seen->link && !PLANTED(LINK_NOT_CHECKED))
		return kt_fail(err, KT_E_BUSY, "its coordinator asks again on its newer connection",
			       "a request of an earlier connection of epoch %" PRId64
			       " comes too late (its link is %" PRId64 ", the newest %" PRId64 ")",
			       r->epoch, r->link, seen->link);
	return KT_OK;
}

static bool is_same(const kt_request *r, const kt_epoch *seen)
{
	return r->epoch == seen->epoch && strcmp(r->run, seen->run) == 0;
}

static kt_code admit_locked(const char *state, const kt_request *r, kt_err *err)
{
	kt_epoch seen;
	KT_TRY(kt_epoch_read(state, r->cluster, &seen, err));
	bool same = is_same(r, &seen);
	KT_TRY(judge(r, &seen, same, err));
	bool newer = r->epoch > seen.epoch || (same && r->link > seen.link);
	return newer ? record(state, r, err) : confirm(state, r, err);
}

kt_code kt_epoch_admit(const char *state, const kt_request *r, kt_err *err)
{
	int fd;
	if (lock_folder(state, r->cluster, &fd, err) != KT_OK)
		return kt_record_failed(err, "the epoch");
	kt_code rc = admit_locked(state, r, err);
	(void)close(fd);
	return rc;
}

kt_code kt_epoch_still(const char *state, const kt_request *r, kt_err *err)
{
	kt_epoch seen;
	KT_TRY(kt_epoch_read(state, r->cluster, &seen, err));
	return judge(r, &seen, is_same(r, &seen), err);
}

kt_code kt_epoch_check(const char *state, const kt_request *r, kt_err *err)
{
	kt_epoch seen;
	KT_TRY(kt_epoch_read(state, r->cluster, &seen, err));
	return r->epoch > seen.epoch || is_same(r, &seen) ? KT_OK : replaced(r, &seen, err);
}

/* --- The lock of one changing verb ----------------------------------------------------------------------------------
 */

/* Who holds it, for people; not relied upon. */
static void sign_lock(const kt_agent_ctx *ctx, int fd)
{
	char text[256];
	int n = snprintf(text, sizeof text, "%s %s.%s.%" PRId64 " pid %d\n", ctx->run, ctx->step,
			 kt_role_name(ctx->role), ctx->attempt, (int)getpid());
	if (ftruncate(fd, 0) == 0 && pwrite(fd, text, (size_t)n, 0) < 0)
		return;
}

static void say_waiting(kt_agent_ctx *ctx, int fd)
{
	char who[256];
	ssize_t n = pread(fd, who, sizeof who - 1, 0);
	who[n > 0 ? n : 0] = '\0';
	who[strcspn(who, "\n")] = '\0';
	kt_agent_progress(ctx, -1, -1, "waits for an agent of an earlier connection: %s", who);
}

static kt_code wait_lock(kt_agent_ctx *ctx, int fd, kt_err *err)
{
	int64_t say_at = kt_clock_mono_ms() + SAY_MS / 5;
	while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return kt_fail_errno(err, errno, NULL, "the lock of cluster %s", ctx->cluster);
		KT_TRY(kt_agent_go_on(ctx, err));
		if (kt_clock_mono_ms() >= say_at) {
			say_waiting(ctx, fd);
			say_at += SAY_MS;
		}
		(void)nanosleep(&(struct timespec){.tv_nsec = WAIT_MS * 1000000L}, NULL);
	}
	return KT_OK;
}

kt_code kt_node_lock(kt_agent_ctx *ctx, kt_err *err)
{
	char path[PATH_TEXT];
	KT_TRY(cluster_path(ctx->state, ctx->cluster, "/lock", path, err));
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return kt_fail_errno(err, errno, NULL, "%s", path);
	kt_code rc = wait_lock(ctx, fd, err);
	if (rc != KT_OK) {
		(void)close(fd);
		return rc;
	}
	sign_lock(ctx, fd);
	ctx->lock_fd = fd;
	return KT_OK;
}

void kt_node_unlock(kt_agent_ctx *ctx)
{
	if (ctx->lock_fd >= 0)
		(void)close(ctx->lock_fd);
	ctx->lock_fd = -1;
}

/* --- Detached work --------------------------------------------------------------------------------------------------
 */

static const char lost_detached[] = "look with ps for a process `keyturn-agent run` and what it started; when there is "
				    "none any more, remove the file";

kt_code kt_detached_set(const kt_agent_ctx *ctx, const char *spool, kt_err *err)
{
	char path[PATH_TEXT];
	KT_TRY(cluster_path(ctx->state, ctx->cluster, "/detached", path, err));
	kt_buf text = KT_BUF_INIT;
	kt_code rc = kt_buf_printf(&text, err, "%s\n", spool);
	if (rc == KT_OK)
		rc = kt_record_replace(path, &text, &kt_record_private, err);
	kt_buf_free(&text);
	return rc;
}

/* Nobody has begun it: from now on nobody can. */
static kt_code call_off(const char *spool, kt_err *err)
{
	bool mine;
	kt_err why = KT_ERR_INIT;
	KT_TRY(kt_spool_claim(spool, &mine, err));
	if (!mine)
		return kt_fail(err, KT_E_BUSY, "ask again", "detached work has just begun on this node (%s)", spool);
	KT_IGNORE(kt_fail(&why, KT_E_REFUSED, NULL, "called off before it began: another request came first"));
	return kt_spool_never_started(spool, &why, NULL, err);
}

/* Whether it still runs cannot be told from its records. */
static kt_code untold(const char *detached, kt_err *err)
{
	char remedy[KT_ERR_REMEDY];
	(void)snprintf(remedy, sizeof remedy,
		       "look with ps for its `keyturn-agent run` and what that started; when there is none any more, "
		       "remove %.300s",
		       detached);
	kt_err why = *err;
	return kt_fail(err, KT_E_AUDIT, remedy, "whether detached work still runs on this node is not known: %.700s",
		       why.msg);
}

static kt_code check_work(const char *detached, const char *spool, kt_err *err)
{
	kt_spool_outcome outcome;
	kt_spool_work work;
	kt_err damaged = KT_ERR_INIT;
	bool found;
	/* An outcome that can't be read says nothing; the processes do. */
	kt_code rc = kt_spool_outcome_load(spool, &found, &outcome, &damaged);
	kt_spool_outcome_free(&outcome);
	if (rc == KT_OK && found)
		return KT_OK;
	if (kt_spool_work_of(spool, &work, err) != KT_OK)
		return untold(detached, err);
	if (!work.claimed)
		return call_off(spool, err);
	if (!work.alive)
		return KT_OK;
	return kt_fail(err, KT_E_BUSY, "wait until it has ended; `keyturn resume` does so",
		       "detached work still runs on this node (%s, process %d)", spool, (int)work.runner.pid);
}

kt_code kt_detached_check(const char *state, const char *cluster, const char *except, kt_err *err)
{
	char path[PATH_TEXT];
	bool found;
	KT_TRY(cluster_path(state, cluster, "/detached", path, err));
	kt_buf text = {.max = 2 * PATH_TEXT};
	kt_code rc = kt_record_read(path, lost_detached, &found, &text, err);
	if (rc == KT_OK && found && !PLANTED(UNSETTLED_PROBED)) {
		text.data[strcspn(kt_buf_cstr(&text), "\n")] = '\0';
		if (!except || strcmp(except, kt_buf_cstr(&text)) != 0)
			rc = check_work(path, kt_buf_cstr(&text), err);
	}
	kt_buf_free(&text);
	return rc;
}

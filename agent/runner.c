/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/runner.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/command.h"
#include "agent/detach.h"
#include "agent/output.h"
#include "agent/spool.h"
#include "base/file.h"
#include "base/log.h"

enum { PATH_TEXT = 4096, RECORD_TRIES = 60 };

typedef struct runner {
	const char *spool;
	char state[PATH_TEXT];
	char log[PATH_TEXT];
	cJSON *intent;
	kt_request request;
	kt_agent_ctx ctx;
	const cJSON *command;
	const cJSON *expect; /* may be NULL */
	kt_command *prepared;
	kt_match *match;
	kt_output output;
	kt_spawn_end end;
	bool started; /* the command may have been executed */
	bool executed;
} runner;

/* Our end of the report to the agent: only a pipe that was handed to us, never a descriptor that happens to be 3. */
static int report_fd(void)
{
	struct stat st;
	if (fstat(KT_DETACH_REPORT_FD, &st) != 0 || !S_ISFIFO(st.st_mode))
		return -1;
	(void)fcntl(KT_DETACH_REPORT_FD, F_SETFD, FD_CLOEXEC);
	return KT_DETACH_REPORT_FD;
}

/* state/spool/<run>/<request>: three folders up. */
static kt_code state_of(const char *spool, char out[PATH_TEXT], kt_err *err)
{
	if (spool[0] != '/' || (size_t)snprintf(out, PATH_TEXT, "%s", spool) >= PATH_TEXT)
		return kt_fail(err, KT_E_USAGE, NULL, "the spool folder must be an absolute path");
	for (int i = 0; i < 3; i++) {
		char *slash = strrchr(out, '/');
		if (!slash || slash == out)
			return kt_fail(err, KT_E_USAGE, NULL, "%.200s is no folder of a spool", spool);
		*slash = '\0';
	}
	return KT_OK;
}

static kt_code read_intent(runner *r, kt_err *err)
{
	KT_TRY(state_of(r->spool, r->state, err));
	KT_TRY(kt_spool_intent(r->spool, &r->intent, &r->request, err));
	const kt_request *q = &r->request;
	r->ctx = (kt_agent_ctx){.state = r->state,
				.node = q->node,
				.cluster = q->cluster,
				.run = q->run,
				.step = q->step,
				.role = q->role,
				.attempt = q->attempt,
				.epoch = q->epoch,
				.verb = q->verb,
				.spool = r->spool,
				.lock_fd = -1};
	if ((size_t)snprintf(r->log, sizeof r->log, "%s/output", r->spool) >= sizeof r->log)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", r->spool);
	return KT_OK;
}

/* Everything that can fail before anything is executed. */
static kt_code prepare(runner *r, kt_err *err)
{
	KT_TRY(kt_json_object(r->request.args, "command", &r->command, err));
	if (cJSON_HasObjectItem(r->request.args, "expect"))
		KT_TRY(kt_json_object(r->request.args, "expect", &r->expect, err));
	KT_TRY(kt_match_new(r->expect, &r->match, err));
	KT_TRY(kt_command_prepare(&r->ctx, r->command, &r->prepared, err));
	int fd = open(r->log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return kt_fail_errno(err, errno, NULL, "%s", r->log);
	r->output = (kt_output){.tail_max = KT_COMMAND_TAIL, .match = r->match, .fd = fd};
	return KT_OK;
}

static kt_code on_started(void *arg, pid_t pid, kt_err *err)
{
	runner *r = arg;
	kt_code rc = kt_spool_child(r->spool, pid, err);
	r->started = rc == KT_OK; /* else it is not let go on */
	return rc;
}

static kt_code on_output(void *arg, int stream, const uint8_t *bytes, size_t n, kt_err *err)
{
	return kt_output_feed(&((runner *)arg)->output, stream, bytes, n, err);
}

static kt_code judge(const runner *r, kt_err *err)
{
	if (r->end.timed_out)
		return kt_fail(err, KT_E_IO, "see its output in the log",
			       "the command had not ended after %lld s and was ended by us (%s)",
			       (long long)(kt_command_what(r->prepared)->timeout_ms / 1000), r->log);
	return kt_expect_check(r->expect, &r->end, r->match, kt_buf_cstr(&r->output.tail), err);
}

static kt_code execute(runner *r, kt_err *err)
{
	kt_spawn_hooks hooks = {.output = on_output, .started = on_started, .arg = r};
	KT_TRY(prepare(r, err));
	kt_code rc = kt_spawn(kt_command_what(r->prepared), &hooks, NULL, &r->end, err);
	r->executed = r->end.exit >= 0 || r->end.signal;
	if (rc == KT_OK)
		rc = kt_output_end(&r->output, err);
	return rc == KT_OK ? judge(r, err) : rc;
}

static kt_code describe(const runner *r, cJSON *result, kt_err *err)
{
	if (!r->started)
		return kt_json_add_bool(result, "started", false, err);
	if (!r->executed)
		return KT_OK;
	KT_TRY(kt_json_add_int(result, "exit", r->end.exit, err));
	KT_TRY(kt_json_add_int(result, "signal", r->end.signal, err));
	KT_TRY(kt_json_add_int(result, "ms", r->end.ms, err));
	KT_TRY(kt_json_add_str(result, "tail", kt_buf_cstr(&r->output.tail), err));
	if (r->output.fd_failed)
		KT_TRY(kt_json_add_bool(result, "log_cut", true, err));
	return kt_json_add_str(result, "log", r->log, err);
}

/* The outcome has its blocks already; when it can't be written all the same, a person may help within a minute. */
static kt_code record(const runner *r, kt_code rc, const kt_err *why, kt_err *err)
{
	cJSON *result = cJSON_CreateObject();
	if (!result)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code done = describe(r, result, err);
	for (int i = 0; done == KT_OK && i < RECORD_TRIES; i++) {
		done = kt_spool_finish(r->spool, kt_action_end(rc), result, why, err);
		if (done == KT_OK)
			break;
		if (i + 1 < RECORD_TRIES)
			done = KT_OK;
		(void)nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
	}
	cJSON_Delete(result);
	return done;
}

static void release(runner *r)
{
	if (r->output.fd > 0)
		(void)close(r->output.fd);
	kt_output_free(&r->output);
	kt_command_free(r->prepared);
	kt_match_free(r->match);
	cJSON_Delete(r->intent);
}

/* Nobody but the kernel's SIGKILL ends the one who records. The command gets default signals (base/spawn.h). */
static void ignore_signals(void)
{
	static const int some[] = {SIGHUP, SIGINT, SIGTERM, SIGQUIT, SIGPIPE, SIGUSR1, SIGUSR2};
	for (size_t i = 0; i < sizeof some / sizeof some[0]; i++)
		(void)signal(some[i], SIG_IGN);
}

static kt_code claim(runner *r, bool *mine, kt_err *err)
{
	*mine = false;
	KT_TRY(read_intent(r, err));
	return kt_spool_claim(r->spool, mine, err);
}

kt_code kt_runner(const char *spool, kt_err *err)
{
	runner r = {.spool = spool, .output = {.fd = -1}};
	kt_err why = KT_ERR_INIT;
	bool mine;
	ignore_signals();
	int report = report_fd();
	kt_code rc = claim(&r, &mine, err);
	if (rc != KT_OK && report >= 0 && err)
		KT_IGNORE(kt_file_write_all(report, err->msg, strlen(err->msg), "report", NULL));
	if (report >= 0)
		(void)close(report);
	if (rc == KT_OK && mine) {
		char name[2 * KT_NAME_MAX];
		(void)snprintf(name, sizeof name, "%s-%s", r.request.run, strrchr(spool, '/') + 1);
		kt_detach_scope(name);
		rc = record(&r, execute(&r, &why), &why, err);
	}
	release(&r);
	return rc;
}

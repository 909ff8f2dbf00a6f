/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.check: texts that must, or must not, stand in a log file of any size, read with bounded memory. Lines that carry
 * a time ("2018-10-29 22:42:20.279 +0000 [INFO|007d0|crypt] :: ...") count from since_ms on, and so do the lines
 * without one that follow them; in a file without such times every line counts. With since_ms a log that was rotated
 * meanwhile is looked into, too: files beside it whose names go on with '.' or '-' and that were written since then;
 * in these only what has a time counts, so that nothing is found in compressed bytes.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/action.h"
#include "agent/match.h"
#include "agent/output.h"
#include "agent/redact.h"
#include "agent/slot.h"
#include "base/log.h"

enum { CHUNK = 64 * 1024, HEAD = 30, LINE = 400, PATH_TEXT = 4096 };

/* What is done with the file's lines. */
typedef struct scan {
	int64_t since_ms; /* 0: every line counts */
	bool only_look;   /* first pass: is there a line with a time? */
	bool seen_time;   /* there is */
	bool counts;      /* the line, or the one before, is recent enough */
	size_t at;        /* bytes of the line so far */
	char head[HEAD];  /* its beginning */
	bool hit;         /* a text was found in it */
	kt_buf line;      /* its first LINE bytes */
	kt_buf best;      /* the last line in which a text was found */
	kt_match *match;  /* NULL in the first pass */
} scan;

/* "dddd-dd-dd dd:dd:dd.ddd +dddd [" */
static bool has_shape(const char *s)
{
	static const char shape[] = "0000-00-00 00:00:00.000 +0000 ";
	for (size_t i = 0; shape[i]; i++) {
		bool ok = shape[i] == '0'   ? isdigit((unsigned char)s[i])
			  : shape[i] == '+' ? s[i] == '+' || s[i] == '-'
					    : s[i] == shape[i];
		if (!ok)
			return false;
	}
	return true;
}

static int number(const char *s, int n)
{
	int v = 0;
	for (int i = 0; i < n; i++)
		v = 10 * v + (s[i] - '0');
	return v;
}

static int64_t time_of(const char *s)
{
	struct tm tm = {.tm_year = number(s, 4) - 1900,
			.tm_mon = number(s + 5, 2) - 1,
			.tm_mday = number(s + 8, 2),
			.tm_hour = number(s + 11, 2),
			.tm_min = number(s + 14, 2),
			.tm_sec = number(s + 17, 2)};
	int64_t zone = (number(s + 25, 2) * 60 + number(s + 27, 2)) * 60;
	int64_t seconds = timegm(&tm) - (s[24] == '-' ? -zone : zone);
	return seconds * 1000 + number(s + 20, 3);
}

static kt_code feed(scan *s, const char *bytes, size_t n, kt_err *err)
{
	if (!s->counts || !s->match || n == 0)
		return KT_OK;
	s->hit |= kt_match_feed(s->match, 0, bytes, n);
	size_t room = LINE - s->line.len;
	return kt_buf_append(&s->line, bytes, n < room ? n : room, err);
}

/* The line's beginning is known: does it count? */
static kt_code begin(scan *s, size_t n, kt_err *err)
{
	if (n == HEAD && has_shape(s->head)) {
		s->seen_time = true;
		s->counts = time_of(s->head) >= s->since_ms;
	}
	return feed(s, s->head, n, err);
}

static kt_code end_line(scan *s, kt_err *err)
{
	if (s->at < HEAD)
		KT_TRY(begin(s, s->at, err));
	if (s->hit) {
		kt_buf_clear(&s->best);
		KT_TRY(kt_buf_append(&s->best, s->line.data, s->line.len, err));
	}
	if (s->match)
		kt_match_break(s->match, 0);
	kt_buf_clear(&s->line);
	s->hit = false;
	s->at = 0;
	return KT_OK;
}

static kt_code part_of_line(scan *s, const char *p, size_t n, kt_err *err)
{
	size_t head = s->at < HEAD ? (n < HEAD - s->at ? n : HEAD - s->at) : 0;
	memcpy(s->head + (head ? s->at : 0), p, head);
	bool whole = head && s->at + head == HEAD;
	s->at += n;
	if (whole)
		KT_TRY(begin(s, HEAD, err));
	return feed(s, p + head, s->at >= HEAD ? n - head : 0, err);
}

static kt_code chunk(scan *s, const char *p, size_t n, kt_err *err)
{
	while (n) {
		const char *newline = memchr(p, '\n', n);
		size_t len = newline ? (size_t)(newline - p) : n;
		KT_TRY(part_of_line(s, p, len, err));
		if (newline)
			KT_TRY(end_line(s, err));
		len += newline != NULL;
		p += len;
		n -= len;
	}
	return KT_OK;
}

static kt_code scan_file(kt_agent_ctx *ctx, int fd, const char *path, scan *s, kt_err *err)
{
	static char bytes[CHUNK]; /* one worker */
	if (lseek(fd, 0, SEEK_SET) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", path);
	for (;;) {
		ssize_t n = read(fd, bytes, sizeof bytes);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return kt_fail_errno(err, errno, NULL, "%s", path);
		if (n == 0)
			return s->at ? end_line(s, err) : KT_OK;
		KT_TRY(chunk(s, bytes, (size_t)n, err));
		if (s->only_look && s->seen_time)
			return KT_OK;
		KT_TRY(kt_agent_go_on(ctx, err));
	}
}

/* Are there times in the file? Then lines before the first one don't count. */
static kt_code begins_counting(kt_agent_ctx *ctx, int fd, const char *path, int64_t since_ms, bool *counts, kt_err *err)
{
	scan look = {.since_ms = since_ms, .only_look = true};
	*counts = true;
	if (since_ms == 0)
		return KT_OK;
	KT_TRY(scan_file(ctx, fd, path, &look, err));
	*counts = !look.seen_time;
	return KT_OK;
}

static kt_code open_log(const char *path, int *fd, kt_err *err)
{
	struct stat st;
	*fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (*fd < 0)
		return kt_fail_errno(err, errno, NULL, "the log %s", path);
	if (fstat(*fd, &st) == 0 && S_ISREG(st.st_mode))
		return KT_OK;
	(void)close(*fd);
	return kt_fail(err, KT_E_IO, "give the path of a regular file", "the log %s is not a regular file", path);
}

/* The key of this run may be what the log shows. */
static void redact_run(const kt_agent_ctx *ctx)
{
	kt_secret key;
	kt_err ignored = KT_ERR_INIT;
	if (kt_slot_open(ctx->state, ctx->run, &key, &ignored) == KT_OK)
		KT_IGNORE(kt_redact_key(&key, &ignored));
	kt_secret_free(&key);
}

static void put_line(const kt_agent_ctx *ctx, scan *s, cJSON *result)
{
	kt_err ignored = KT_ERR_INIT;
	redact_run(ctx);
	if (s->best.len)
		s->best.len = kt_log_scrub(s->best.data, s->best.len);
	/* A key that was cut at the end of what we keep would not be found. */
	size_t reach = kt_log_scrub_reach();
	if (s->best.len == LINE && reach && reach < LINE)
		s->best.len = LINE - reach;
	kt_text_clean(&s->best);
	KT_IGNORE(kt_json_add_str(result, "line", kt_buf_cstr(&s->best), &ignored));
}

static kt_status judge(const char *path, const kt_match *m, kt_err *err)
{
	const char *bad = kt_match_forbidden(m);
	const char *missing = kt_match_missing(m);
	if (bad) {
		KT_IGNORE(kt_fail(err, KT_E_REFUSED, "read the log on the node", "the log %s says \"%.200s\"", path,
				  bad));
		return KT_STATUS_FAILED;
	}
	if (!missing)
		return KT_STATUS_OK;
	KT_IGNORE(kt_fail(err, KT_E_REFUSED, "read the log on the node", "the log %s does not say \"%.200s\" yet", path,
			  missing));
	return KT_STATUS_RETRY;
}

/* One file beside the log; what is no regular file, or older, or gone by now, is passed over. */
static kt_code scan_older(kt_agent_ctx *ctx, const char *path, scan *s, kt_err *err)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	if (fd < 0)
		return KT_OK;
	kt_code rc = KT_OK;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
	    (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000 >= s->since_ms) {
		s->counts = false;
		rc = scan_file(ctx, fd, path, s, err);
	}
	(void)close(fd);
	return rc;
}

static kt_code scan_rotated_in(kt_agent_ctx *ctx, DIR *folder, const char *path, const char *name, scan *s, kt_err *err)
{
	size_t n = strlen(name);
	for (const struct dirent *e = readdir(folder); e; e = readdir(folder)) {
		char other[PATH_TEXT];
		if (strncmp(e->d_name, name, n) != 0 || (e->d_name[n] != '.' && e->d_name[n] != '-'))
			continue;
		if ((size_t)snprintf(other, sizeof other, "%.*s%s", (int)(name - path), path, e->d_name) < sizeof other)
			KT_TRY(scan_older(ctx, other, s, err));
	}
	return KT_OK;
}

static kt_code scan_rotated(kt_agent_ctx *ctx, const char *path, scan *s, kt_err *err)
{
	char name[PATH_TEXT];
	const char *slash = strrchr(path, '/'); /* kt_arg_path: it is absolute */
	(void)snprintf(name, sizeof name, "%.*s", (int)(slash - path) + 1, path);
	DIR *folder = opendir(name);
	if (!folder)
		return kt_fail_errno(err, errno, NULL, "the folder of the log %s", path);
	kt_code rc = scan_rotated_in(ctx, folder, path, slash + 1, s, err);
	(void)closedir(folder);
	return rc;
}

static kt_code search(kt_agent_ctx *ctx, const cJSON *args, const char *path, kt_match *m, cJSON *result, kt_err *err)
{
	int64_t since_ms;
	int fd;
	bool counts;
	KT_TRY(kt_json_opt_int(args, "since_ms", 0, 0, INT64_C(1) << 53, &since_ms, err));
	KT_TRY(open_log(path, &fd, err));
	scan s = {.since_ms = since_ms, .match = m};
	kt_code rc = since_ms ? scan_rotated(ctx, path, &s, err) : KT_OK;
	if (rc == KT_OK)
		rc = begins_counting(ctx, fd, path, since_ms, &counts, err);
	s.counts = rc == KT_OK && counts;
	if (rc == KT_OK)
		rc = scan_file(ctx, fd, path, &s, err);
	if (rc == KT_OK)
		put_line(ctx, &s, result);
	kt_buf_free(&s.line);
	kt_buf_free(&s.best);
	(void)close(fd);
	return rc;
}

kt_status kt_action_log_check(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	const char *path;
	kt_match *m = NULL;
	if (cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(args, "path"))) /* nobody says where it is */
		return kt_action_end(kt_json_add_str(result, "line", "", err));
	kt_code rc = kt_arg_path(args, "path", &path, err);
	if (rc == KT_OK)
		rc = kt_match_new(args, &m, err);
	if (rc == KT_OK)
		rc = search(ctx, args, path, m, result, err);
	kt_status status = rc == KT_OK ? judge(path, m, err) : kt_action_end(rc);
	kt_match_free(m);
	return status;
}

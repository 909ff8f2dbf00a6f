/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/runlock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/record.h"

static const char lost_holder[] =
	"see that no run of any cluster is under way on this node, then remove the file: the next run takes the node";

static kt_code holder_path(const char *state, char out[KT_RECORD_PATH], kt_err *err)
{
	if ((size_t)snprintf(out, KT_RECORD_PATH, "%s/holder", state) >= KT_RECORD_PATH)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", state);
	return KT_OK;
}

static kt_code read_member(const cJSON *json, const char *name, char out[KT_NAME_MAX + 1], kt_err *err)
{
	const char *text;
	KT_TRY(kt_json_str(json, name, &text, err));
	KT_TRY(kt_name_check(name, text, err));
	(void)snprintf(out, KT_NAME_MAX + 1, "%s", text);
	return KT_OK;
}

kt_code kt_runlock_read(const char *state, kt_runlock *out, kt_err *err)
{
	char path[KT_RECORD_PATH];
	cJSON *json;
	*out = (kt_runlock){0};
	KT_TRY(holder_path(state, path, err));
	KT_TRY(kt_record_read_json(path, lost_holder, &json, err));
	if (!json)
		return KT_OK;
	kt_code rc = read_member(json, "cluster", out->cluster, err);
	if (rc == KT_OK)
		rc = read_member(json, "run", out->run, err);
	if (rc == KT_OK)
		rc = kt_json_int(json, "since_ms", 0, INT64_C(1) << 53, &out->since_ms, err);
	cJSON_Delete(json);
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "%s", path);
}

kt_code kt_runlock_folder(const char *state, int *fd, kt_err *err)
{
	*fd = open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*fd < 0)
		return kt_fail_errno(err, errno, NULL, "%s", state);
	int r;
	do
		r = flock(*fd, LOCK_EX);
	while (r != 0 && errno == EINTR);
	if (r == 0)
		return KT_OK;
	kt_code rc = kt_fail_errno(err, errno, NULL, "%s cannot be locked", state);
	(void)close(*fd);
	return rc;
}

static kt_code held_by_another(const char *state, const kt_runlock *h, kt_err *err)
{
	char since[KT_TIME_TEXT];
	char remedy[KT_ERR_REMEDY];
	kt_clock_format(h->since_ms, since);
	(void)snprintf(
		remedy, sizeof remedy,
		"finish that run; if it is over, `keyturn resume` of it releases the node; if its coordinator is "
		"gone for good and nothing is under way, remove %.200s/holder on the node",
		state);
	return kt_fail(err, KT_E_BUSY, remedy, "this node is held by run %s of cluster %s since %s", h->run, h->cluster,
		       since);
}

static kt_code judge(const char *state, const char *cluster, const kt_runlock *h, kt_err *err)
{
	return h->cluster[0] && strcmp(h->cluster, cluster) != 0 ? held_by_another(state, h, err) : KT_OK;
}

kt_code kt_runlock_check(const char *state, const char *cluster, kt_err *err)
{
	kt_runlock h;
	KT_TRY(kt_runlock_read(state, &h, err));
	return judge(state, cluster, &h, err);
}

kt_code kt_runlock_free(const char *state, kt_err *err)
{
	kt_runlock h;
	KT_TRY(kt_runlock_read(state, &h, err));
	return h.cluster[0] ? held_by_another(state, &h, err) : KT_OK;
}

static kt_code record(const char *state, const char *cluster, const char *run, kt_err *err)
{
	char path[KT_RECORD_PATH];
	kt_buf text = KT_BUF_INIT;
	KT_TRY(holder_path(state, path, err));
	/* Names have nothing in them that JSON would want escaped (kt_name_check). */
	kt_code rc = kt_buf_printf(&text, err, "{\"cluster\":\"%s\",\"run\":\"%s\",\"since_ms\":%" PRId64 "}\n",
				   cluster, run, kt_clock_wall_ms());
	if (rc == KT_OK)
		rc = kt_record_replace(path, &text, &kt_record_private, err);
	kt_buf_free(&text);
	return rc == KT_OK ? KT_OK : kt_record_failed(err, "which run holds this node");
}

static kt_code take_locked(const char *state, const char *cluster, const char *run, kt_err *err)
{
	kt_runlock h;
	KT_TRY(kt_runlock_read(state, &h, err));
	KT_TRY(judge(state, cluster, &h, err));
	return strcmp(h.run, run) == 0 ? KT_OK : record(state, cluster, run, err);
}

kt_code kt_runlock_take(const char *state, const char *cluster, const char *run, kt_err *err)
{
	int fd;
	KT_TRY(kt_runlock_folder(state, &fd, err));
	kt_code rc = take_locked(state, cluster, run, err);
	(void)close(fd);
	return rc;
}

static kt_code release_locked(const char *state, const char *cluster, const char *run, bool *released, kt_err *err)
{
	kt_runlock h;
	char path[KT_RECORD_PATH];
	KT_TRY(holder_path(state, path, err));
	KT_TRY(kt_runlock_read(state, &h, err));
	if (strcmp(h.cluster, cluster) != 0 || strcmp(h.run, run) != 0)
		return KT_OK;
	return kt_file_remove(path, released, err);
}

kt_code kt_runlock_release(const char *state, const char *cluster, const char *run, bool *released, kt_err *err)
{
	int fd;
	*released = false;
	KT_TRY(kt_runlock_folder(state, &fd, err));
	kt_code rc = release_locked(state, cluster, run, released, err);
	(void)close(fd);
	return rc;
}

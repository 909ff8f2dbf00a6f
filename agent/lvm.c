/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/lvm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "agent/output.h"
#include "base/file.h"
#include "base/json.h"
#include "base/spawn.h"

#define FIELDS "lv_uuid,vg_uuid,vg_name,lv_name,origin,segtype,lv_size,vg_free,lv_tags,lv_snapshot_invalid"

enum { OUTPUT_MAX = 4 * 1024 * 1024, ERRORS_MAX = 16 * 1024, TIMEOUT_MS = 120000, DM_UUID_MAX = 256 };

/* Numbers and words as they stand in scripts, programs where administrators have them. */
static const char *const environment[] = {"LC_ALL=C",
					  "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL};

/* --- what there is ------------------------------------------------------------------------------------------------ */

static kt_code take(const cJSON *row, const char *name, char *out, size_t size, kt_err *err)
{
	const char *text;
	KT_TRY(kt_json_str(row, name, &text, err));
	if (strlen(text) >= size)
		return kt_fail(err, KT_E_INPUT, NULL, "%s of a logical volume is too long", name);
	memcpy(out, text, strlen(text) + 1);
	return KT_OK;
}

static kt_code take_bytes(const cJSON *row, const char *name, uint64_t *out, kt_err *err)
{
	char text[24], *end;
	KT_TRY(take(row, name, text, sizeof text, err));
	*out = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end)
		return kt_fail(err, KT_E_INPUT, NULL, "%s of a logical volume is no number", name);
	return KT_OK;
}

/* "dRJZkN-qLpI-..." without its dashes, behind what is there. */
static kt_code take_uuid(const cJSON *row, const char *name, char out[KT_LVM_UUID], kt_err *err)
{
	char text[64];
	size_t n = strlen(out);
	KT_TRY(take(row, name, text, sizeof text, err));
	for (const char *p = text; *p && n + 1 < KT_LVM_UUID; p++)
		if (*p != '-')
			out[n++] = *p;
	out[n] = '\0';
	return KT_OK;
}

static kt_code take_volume(const cJSON *row, kt_lvm_volume *v, kt_err *err)
{
	char segtype[64], invalid[8];
	*v = (kt_lvm_volume){.thin = false};
	KT_TRY(take_uuid(row, "vg_uuid", v->uuid, err));
	KT_TRY(take_uuid(row, "lv_uuid", v->uuid, err));
	KT_TRY(take(row, "vg_name", v->vg, sizeof v->vg, err));
	KT_TRY(take(row, "lv_name", v->lv, sizeof v->lv, err));
	KT_TRY(take(row, "origin", v->origin, sizeof v->origin, err));
	KT_TRY(take(row, "lv_tags", v->tags, sizeof v->tags, err));
	KT_TRY(take(row, "segtype", segtype, sizeof segtype, err));
	KT_TRY(take(row, "lv_snapshot_invalid", invalid, sizeof invalid, err));
	KT_TRY(take_bytes(row, "lv_size", &v->bytes, err));
	KT_TRY(take_bytes(row, "vg_free", &v->free, err));
	v->thin = strcmp(segtype, "thin") == 0;
	v->invalid = strcmp(invalid, "1") == 0; /* -1: it is no snapshot */
	return KT_OK;
}

static kt_code take_rows(const cJSON *root, kt_lvm_volume **out, size_t *n, kt_err *err)
{
	const cJSON *reports, *rows, *row;
	KT_TRY(kt_json_array(root, "report", &reports, err));
	KT_TRY(kt_json_array(cJSON_GetArrayItem(reports, 0), "lv", &rows, err));
	*out = calloc((size_t)cJSON_GetArraySize(rows) + 1, sizeof **out);
	if (!*out)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	/* A volume of several segments has a row for each. */
	cJSON_ArrayForEach(row, rows) KT_TRY(take_volume(row, &(*out)[(*n)++], err));
	return KT_OK;
}

kt_code kt_lvm_parse(const void *text, size_t len, kt_lvm_volume **out, size_t *n, kt_err *err)
{
	cJSON *root;
	*out = NULL;
	*n = 0;
	KT_TRY(kt_json_parse("lvs", text, len, &root, err));
	kt_code rc = take_rows(root, out, n, err);
	cJSON_Delete(root);
	if (rc == KT_OK)
		return KT_OK;
	free(*out);
	*out = NULL;
	*n = 0;
	return kt_err_prefix(err, rc, "what lvs prints");
}

/* One of LVM's programs to its end; what it prints goes to `out`, which may be NULL. */
static kt_code lvm(const char *const *argv, kt_buf *out, kt_err *err)
{
	const kt_spawn_what what = {.argv = argv, .env = environment, .timeout_ms = TIMEOUT_MS};
	kt_buf errors = {.max = ERRORS_MAX};
	kt_spawn_end end = {0};
	char why[200];
	kt_code rc = kt_spawn_capture(&what, out, &errors, &end, err);
	kt_text_clean(&errors);
	kt_text_last_line(kt_buf_cstr(&errors), why, sizeof why);
	kt_buf_free(&errors);
	if (rc == KT_E_IO)
		return kt_fail(err, KT_E_IO, "install lvm2 on the node, or make backups without a snapshot",
			       "LVM's program %s is not there", argv[0]);
	if (rc == KT_OK && (end.timed_out || end.exit != 0))
		rc = kt_fail(err, KT_E_IO, "try the same by hand, as root", "%s %s%s%s", argv[0],
			     end.timed_out ? "did not end in time" : "failed", why[0] ? ": " : "", why);
	return rc;
}

kt_code kt_lvm_list(kt_lvm_volume **out, size_t *n, kt_err *err)
{
	const char *const argv[] = {"lvs", "--reportformat", "json", "--binary", "--units",
				    "b",   "--nosuffix",     "-o",   FIELDS,     NULL};
	kt_buf text = {.max = OUTPUT_MAX};
	*out = NULL;
	*n = 0;
	kt_code rc = lvm(argv, &text, err);
	if (rc == KT_OK)
		rc = kt_lvm_parse(text.data, text.len, out, n, err);
	kt_buf_free(&text);
	return rc;
}

kt_code kt_lvm_uuid_of(dev_t device, char out[KT_LVM_UUID], bool *is, kt_err *err)
{
	char path[64];
	kt_buf text = {.max = DM_UUID_MAX};
	*is = false;
	(void)snprintf(path, sizeof path, "/sys/dev/block/%u:%u/dm/uuid", major(device), minor(device));
	if (access(path, F_OK) != 0)
		return KT_OK; /* not of the device mapper */
	kt_code rc = kt_file_read(path, &text, err);
	const char *uuid = kt_buf_cstr(&text);
	size_t n = strcspn(uuid, "\n");
	if (rc == KT_OK && strncmp(uuid, "LVM-", 4) == 0 && n - 4 == KT_LVM_UUID - 1) {
		memcpy(out, uuid + 4, KT_LVM_UUID - 1);
		out[KT_LVM_UUID - 1] = '\0';
		*is = true;
	}
	kt_buf_free(&text);
	return rc;
}

bool kt_lvm_has_tag(const kt_lvm_volume *v, const char *word)
{
	size_t n = strlen(word);
	for (const char *p = v->tags; *p; p += strspn(p, ",")) {
		size_t len = strcspn(p, ",");
		if (len == n && strncmp(p, word, n) == 0)
			return true;
		p += len;
	}
	return false;
}

/* --- snapshots ---------------------------------------------------------------------------------------------------- */

kt_code kt_lvm_size(const char *size, const kt_lvm_volume *v, uint64_t *bytes, kt_err *err)
{
	static const struct {
		const char *unit;
		int shift; /* -1: a part of the origin, -2: of what is free */
	} units[] = {{"%ORIGIN", -1}, {"%FREE", -2}, {"M", 20}, {"G", 30}, {"T", 40}};
	char *end;
	unsigned long n = strtoul(size, &end, 10);
	for (size_t i = 0; i < sizeof units / sizeof *units && size[0] >= '1' && size[0] <= '9' && n < 1000000; i++) {
		if (strcmp(end, units[i].unit) != 0 || (units[i].shift < 0 && n > 100))
			continue;
		*bytes = units[i].shift < 0 ? (units[i].shift == -1 ? v->bytes : v->free) / 100 * n
					    : (uint64_t)n << units[i].shift;
		return KT_OK;
	}
	return kt_fail(err, KT_E_INPUT, "write it like 10%ORIGIN, 50%FREE, 512M, 10G or 1T",
		       "\"%.40s\" is no size of a snapshot", size);
}

kt_code kt_lvm_snapshot(const kt_lvm_volume *v, const char *name, const char *tag, const char *size, kt_err *err)
{
	char origin[2 * KT_LVM_NAME];
	(void)snprintf(origin, sizeof origin, "%s/%s", v->vg, v->lv);
	/* A thin snapshot is not activated unless that is said. */
	const char *const thin[] = {"lvcreate", "--yes",      "--snapshot", "--setactivationskip",
				    "n",        "--activate", "y",          "--addtag",
				    tag,        "--name",     name,         origin,
				    NULL};
	const char *const thick[] = {"lvcreate", "--yes",    "--snapshot", strchr(size, '%') ? "--extents" : "--size",
				     size,       "--addtag", tag,          "--name",
				     name,       origin,     NULL};
	return lvm(v->thin ? thin : thick, NULL, err);
}

kt_code kt_lvm_remove(const kt_lvm_volume *v, kt_err *err)
{
	char name[2 * KT_LVM_NAME];
	if (!v->origin[0])
		return kt_fail(err, KT_E_REFUSED, "look at it by hand", "%s/%s is no snapshot: it is left alone", v->vg,
			       v->lv);
	(void)snprintf(name, sizeof name, "%s/%s", v->vg, v->lv);
	const char *const argv[] = {"lvremove", "--yes", "--force", name, NULL};
	return lvm(argv, NULL, err);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/mounts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/buf.h"

enum { TEXT_MAX = 4 * 1024 * 1024 };

/* "\040" is a space: octal, where the text's own signs would be in the way. */
static void unescape(char *text)
{
	char *to = text;
	for (const char *p = text; *p; to++) {
		bool code = p[0] == '\\' && strspn(p + 1, "01234567") >= 3;
		*to = code ? (char)((p[1] - '0') * 64 + (p[2] - '0') * 8 + (p[3] - '0')) : *p;
		p += code ? 4 : 1;
	}
	*to = '\0';
}

/* 36 35 98:0 /root /at rw,noatime shared:1 - ext4 /dev/x rw */
static kt_code parse_line(char *line, kt_mount *m, kt_err *err)
{
	unsigned maj, min;
	char *field[5] = {NULL}, *rest = line, *dash = strstr(line, " - ");
	for (size_t i = 0; i < 5 && rest; i++)
		field[i] = strsep(&rest, " ");
	if (!field[4] || !rest || !dash || dash < rest || sscanf(field[2], "%u:%u", &maj, &min) != 2 ||
	    sscanf(dash + 3, "%15s", m->fstype) != 1)
		return kt_fail(err, KT_E_INPUT, NULL, "a line of mountinfo is not understood");
	unescape(field[3]);
	unescape(field[4]);
	m->device = makedev(maj, min);
	m->root = strdup(strcmp(field[3], "/") == 0 ? "" : field[3]);
	m->at = strdup(field[4]);
	return m->root && m->at ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

/* Shorter places first, else in the order of the text, in which what is mounted over something comes after it. */
static void put_in_order(kt_mounts *m)
{
	for (size_t i = 1; i < m->n; i++)
		for (size_t k = i; k > 0 && strlen(m->list[k].at) < strlen(m->list[k - 1].at); k--) {
			kt_mount one = m->list[k];
			m->list[k] = m->list[k - 1];
			m->list[k - 1] = one;
		}
}

kt_code kt_mounts_parse(char *text, kt_mounts *out, kt_err *err)
{
	*out = (kt_mounts){.n = 0};
	kt_code rc = KT_OK;
	for (char *line; rc == KT_OK && (line = strsep(&text, "\n")) != NULL;) {
		if (!line[0])
			continue;
		kt_mount *grown = reallocarray(out->list, out->n + 1, sizeof *grown);
		if (!grown) {
			rc = kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
			break;
		}
		out->list = grown;
		out->list[out->n] = (kt_mount){.device = 0};
		rc = parse_line(line, &out->list[out->n++], err);
	}
	if (rc != KT_OK)
		kt_mounts_free(out);
	else
		put_in_order(out);
	return rc;
}

kt_code kt_mounts_read(kt_mounts *out, kt_err *err)
{
	kt_buf text = {.max = TEXT_MAX};
	char part[4096];
	*out = (kt_mounts){.n = 0};
	FILE *f = fopen("/proc/self/mountinfo", "re");
	kt_code rc = f ? KT_OK : kt_fail(err, KT_E_IO, NULL, "/proc/self/mountinfo cannot be read");
	for (size_t n; rc == KT_OK && (n = fread(part, 1, sizeof part, f)) > 0;)
		rc = kt_buf_append(&text, part, n, err);
	if (f)
		(void)fclose(f);
	if (rc == KT_OK)
		rc = kt_buf_append(&text, "", 1, err);
	if (rc == KT_OK)
		rc = kt_mounts_parse((char *)text.data, out, err);
	kt_buf_free(&text);
	return rc;
}

void kt_mounts_free(kt_mounts *m)
{
	for (size_t i = 0; i < m->n; i++) {
		free(m->list[i].root);
		free(m->list[i].at);
	}
	free(m->list);
	*m = (kt_mounts){.n = 0};
}

bool kt_mount_is_below(const char *path, const char *folder)
{
	size_t n = strlen(folder);
	while (n && folder[n - 1] == '/')
		n--;
	return strncmp(path, folder, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

const kt_mount *kt_mount_of(const kt_mounts *m, const char *path)
{
	const kt_mount *best = NULL;
	for (size_t i = 0; i < m->n; i++)
		if (kt_mount_is_below(path, m->list[i].at))
			best = &m->list[i]; /* longer places come later */
	return best;
}

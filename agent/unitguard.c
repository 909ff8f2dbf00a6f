/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/unitguard.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/output.h"
#include "base/file.h"
#include "base/spawn.h"

enum { OUTPUT_MAX = 16 * 1024, ASK_MS = 60000 };

typedef struct place {
	kt_buf flag;   /* in our state folder */
	kt_buf dropin; /* where systemd reads it */
} place;

static void place_free(place *p)
{
	kt_buf_free(&p->flag);
	kt_buf_free(&p->dropin);
}

/* systemctl to its end; what it printed in `out`, which may be NULL. */
static kt_code systemctl(const char *const *argv, kt_buf *out, kt_err *err)
{
	kt_spawn_what what = {.argv = argv, .timeout_ms = ASK_MS};
	kt_buf errors = {.max = OUTPUT_MAX};
	kt_spawn_end end = {0};
	char why[200];
	kt_code rc = kt_spawn_capture(&what, out, &errors, &end, err);
	kt_text_clean(&errors);
	kt_text_last_line(kt_buf_cstr(&errors), why, sizeof why);
	kt_buf_free(&errors);
	if (rc == KT_OK && (end.timed_out || end.exit != 0))
		rc = kt_fail(err, KT_E_IO, "see whether systemd on the node answers", "systemctl %s %s%s%s", argv[1],
			     end.timed_out ? "did not answer in time" : "failed", why[0] ? ": " : "", why);
	return rc;
}

/* Of the folders that systemd reads units from, the one for administrators: ".../system", and not lost at a reboot. */
static kt_code find_folder(const char *list, kt_buf *out, kt_err *err)
{
	static const char tail[] = "/system";
	const char *p = strstr(list, "UnitPath=");
	for (p = p ? p + strlen("UnitPath=") : ""; *p && *p != '\n'; p += strspn(p, " ")) {
		size_t n = strcspn(p, " \n");
		if (n >= sizeof tail && strncmp(p + n - (sizeof tail - 1), tail, sizeof tail - 1) == 0 &&
		    strncmp(p, "/run/", 5) != 0)
			return kt_buf_append(out, p, n, err);
		p += n;
	}
	return kt_fail(err, KT_E_IO, "see `systemctl show --property=UnitPath`",
		       "systemd names no folder in which a unit can be kept from starting");
}

static kt_code unit_folder(kt_buf *out, kt_err *err)
{
	const char *argv[] = {"systemctl", "show", "--no-pager", "--property=UnitPath", NULL};
	kt_buf text = {.max = OUTPUT_MAX};
	kt_code rc = systemctl(argv, &text, err);
	if (rc == KT_OK)
		rc = find_folder(kt_buf_cstr(&text), out, err);
	kt_buf_free(&text);
	return rc;
}

static kt_code find_place(const kt_agent_ctx *ctx, const char *unit, place *p, kt_err *err)
{
	*p = (place){.flag = KT_BUF_INIT, .dropin = KT_BUF_INIT};
	kt_code rc = kt_agent_path(ctx, &p->flag, err, "clusters/%s/stopped/%s", ctx->cluster, unit);
	if (rc == KT_OK)
		rc = unit_folder(&p->dropin, err);
	if (rc == KT_OK)
		rc = kt_buf_printf(&p->dropin, err, "/%s.d/keyturn-%s.conf", unit, ctx->cluster);
	if (rc != KT_OK)
		place_free(p);
	return rc;
}

static kt_code reload(kt_err *err)
{
	return systemctl((const char *const[]){"systemctl", "daemon-reload", NULL}, NULL, err);
}

/* --- Setting --------------------------------------------------------------------------------------------------------
 */

/* The folder that is to hold `path`, on the disk too. */
static kt_code make_folder_of(const char *path, mode_t mode, kt_err *err)
{
	char *folder = strdup(path);
	if (!folder)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	*strrchr(folder, '/') = '\0';
	kt_code rc = kt_file_mkdirs(folder, mode, err);
	if (rc == KT_OK)
		rc = kt_file_sync_folder(folder, err);
	free(folder);
	return rc;
}

static kt_code write_file(const char *path, bool readable, const kt_buf *text, kt_err *err)
{
	const kt_file_attr attr = {.mode = readable ? 0644 : 0600, .uid = (uid_t)KT_KEEP, .gid = (gid_t)KT_KEEP};
	KT_TRY(make_folder_of(path, readable ? 0755 : 0700, err));
	KT_TRY(kt_file_sweep(path, err));
	return kt_file_replace(path, text->data, text->len, &attr, err);
}

/* systemd's specifiers begin with a percent sign. */
static kt_code put_escaped(kt_buf *out, const char *path, kt_err *err)
{
	for (; *path; path++) {
		if (*path == '%')
			KT_TRY(kt_buf_append(out, "%", 1, err));
		KT_TRY(kt_buf_append(out, path, 1, err));
	}
	return KT_OK;
}

static kt_code dropin_text(const kt_agent_ctx *ctx, const char *flag, kt_buf *out, kt_err *err)
{
	KT_TRY(kt_buf_printf(
		out, err,
		"# Written by keyturn-agent. Run %s of cluster %s has stopped this unit; it starts it again, "
		"and until\n# then nobody does. `keyturn resume` brings the run to its end and removes this "
		"file.\n[Unit]\nAssertPathExists=!",
		ctx->run, ctx->cluster));
	KT_TRY(put_escaped(out, flag, err));
	return kt_buf_append(out, "\n", 1, err);
}

static kt_code set_at(const kt_agent_ctx *ctx, const place *p, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = kt_buf_printf(&text, err, "%s\n", ctx->run);
	if (rc == KT_OK)
		rc = write_file(kt_buf_cstr(&p->flag), false, &text, err);
	kt_buf_clear(&text);
	if (rc == KT_OK)
		rc = dropin_text(ctx, kt_buf_cstr(&p->flag), &text, err);
	if (rc == KT_OK)
		rc = write_file(kt_buf_cstr(&p->dropin), true, &text, err);
	kt_buf_free(&text);
	return rc == KT_OK ? reload(err) : rc;
}

kt_code kt_unitguard_set(const kt_agent_ctx *ctx, const char *unit, kt_err *err)
{
	place p;
	kt_code rc = find_place(ctx, unit, &p, err);
	if (rc == KT_OK) {
		rc = set_at(ctx, &p, err);
		place_free(&p);
	}
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "%s cannot be kept from being started at a boot", unit);
}

/* --- Clearing -------------------------------------------------------------------------------------------------------
 */

/* The flag first: without it the drop-in does nothing, whatever happens to us next. */
static kt_code clear_at(const place *p, kt_err *err)
{
	bool there;
	const char *dropin = kt_buf_cstr(&p->dropin);
	KT_TRY(kt_file_remove(kt_buf_cstr(&p->flag), NULL, err));
	KT_TRY(kt_file_sweep(dropin, err));
	KT_TRY(kt_file_remove(dropin, &there, err));
	char *folder = strdup(dropin);
	if (folder) {
		*strrchr(folder, '/') = '\0';
		(void)rmdir(folder); /* it stays when others have a drop-in there */
	}
	free(folder);
	return there ? reload(err) : KT_OK;
}

kt_code kt_unitguard_clear(const kt_agent_ctx *ctx, const char *unit, kt_err *err)
{
	place p;
	kt_code rc = find_place(ctx, unit, &p, err);
	if (rc == KT_OK) {
		rc = clear_at(&p, err);
		place_free(&p);
	}
	return rc == KT_OK ? KT_OK : kt_err_prefix(err, rc, "%s is still kept from being started", unit);
}

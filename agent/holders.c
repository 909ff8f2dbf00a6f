/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/holders.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* --- what is watched ------------------------------------------------------------------------------------------- */

static kt_code watch_one(kt_holders *h, const char *path, const char *ending, kt_err *err)
{
	kt_watched *grown = reallocarray(h->files, h->n + 1, sizeof *grown);
	if (!grown)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	h->files = grown;
	kt_watched *w = &h->files[h->n];
	*w = (kt_watched){0};
	struct stat st;
	if ((size_t)snprintf(w->path, sizeof w->path, "%s%s", path, ending) >= sizeof w->path)
		return kt_fail(err, KT_E_INPUT, NULL, "%.200s...: the path is too long", path);
	if (stat(w->path, &st) == 0) {
		w->exists = true;
		w->dev = st.st_dev;
		w->ino = st.st_ino;
	} else if (errno != ENOENT && errno != ENOTDIR) {
		return kt_fail_errno(err, errno, NULL, "%s", w->path);
	}
	if (!realpath(w->path, w->real))
		(void)snprintf(w->real, sizeof w->real, "%s", w->path);
	h->n++;
	return KT_OK;
}

kt_code kt_holders_watch(kt_holders *h, const char *path, kt_err *err)
{
	/* The journals lie beside the real file, wherever the path leads. */
	char real[PATH_MAX];
	KT_TRY(watch_one(h, path, "", err));
	memcpy(real, h->files[h->n - 1].real, sizeof real);
	KT_TRY(watch_one(h, real, "-wal", err));
	KT_TRY(watch_one(h, real, "-shm", err));
	return watch_one(h, real, "-journal", err);
}

void kt_holders_free(kt_holders *h)
{
	if (!h)
		return;
	free(h->files);
	free(h->holders);
	*h = (kt_holders){0};
}

static kt_code add_holder(kt_holders *h, size_t file, const kt_proc *p, const char *how, kt_findings *findings,
			  kt_err *err)
{
	for (size_t i = 0; i < h->holder_n; i++)
		if (h->holders[i].file == file && h->holders[i].pid == p->pid)
			return KT_OK;
	kt_holder *grown = reallocarray(h->holders, h->holder_n + 1, sizeof *grown);
	if (!grown)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	h->holders = grown;
	h->holders[h->holder_n++] = (kt_holder){.file = file, .pid = p->pid};
	char who[160];
	kt_buf line = KT_BUF_INIT;
	(void)snprintf(who, sizeof who, "pid %d (%s)", (int)p->pid, p->user);
	kt_code rc = kt_procfs_cmdline(p, 160, &line, err);
	if (rc == KT_OK)
		rc = kt_findings_add(findings, err, KT_FINDING_FILE, who, "has %s %s: %s", h->files[file].path, how,
				     kt_buf_cstr(&line));
	kt_buf_free(&line);
	return rc;
}

/* --- open files ------------------------------------------------------------------------------------------------ */

static bool same_path(const char *shown, const char *real)
{
	size_t n = strlen(real);
	return strncmp(shown, real, n) == 0 && (shown[n] == '\0' || strcmp(shown + n, " (deleted)") == 0);
}

static void note_blind(kt_holders *h, const kt_proc *p)
{
	if (h->blind++ == 0)
		(void)snprintf(h->first_blind, sizeof h->first_blind, "pid %d (%s), %s", (int)p->pid, p->user, p->name);
}

/* statx without asking a server that may be gone; what a descriptor leads to is known here. */
static bool identity(int folder, const char *name, dev_t *dev, ino_t *ino)
{
	struct statx sx;
	if (statx(folder, name, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_INO, &sx) != 0)
		return false;
	*dev = makedev(sx.stx_dev_major, sx.stx_dev_minor);
	*ino = sx.stx_ino;
	return true;
}

static kt_code look_at_descriptor(kt_holders *h, const kt_proc *p, int folder, const char *name, kt_findings *findings,
				  kt_err *err)
{
	char shown[PATH_MAX];
	dev_t dev = 0;
	ino_t ino = 0;
	ssize_t n = readlinkat(folder, name, shown, sizeof shown - 1);
	if (n < 0)
		return KT_OK; /* closed meanwhile */
	shown[n] = '\0';
	bool known = shown[0] == '/' && identity(folder, name, &dev, &ino);
	for (size_t i = 0; i < h->n; i++) {
		const kt_watched *w = &h->files[i];
		if ((known && w->exists && w->dev == dev && w->ino == ino) || same_path(shown, w->real))
			KT_TRY(add_holder(h, i, p, "open", findings, err));
	}
	return KT_OK;
}

/* *blind: this process could not be looked into. */
static kt_code look_at_descriptors(kt_holders *h, const kt_proc *p, bool *blind, kt_findings *findings, kt_err *err)
{
	char path[128];
	(void)snprintf(path, sizeof path, "%s/fd", p->folder);
	DIR *dir = opendir(path);
	if (!dir) {
		*blind = errno != ENOENT && errno != ESRCH;
		return KT_OK;
	}
	kt_code rc = KT_OK;
	struct dirent *e;
	while (rc == KT_OK && (errno = 0, e = readdir(dir)) != NULL)
		if (e->d_name[0] != '.')
			rc = look_at_descriptor(h, p, dirfd(dir), e->d_name, findings, err);
	if (rc == KT_OK && errno && errno != ENOENT && errno != ESRCH)
		*blind = true;
	(void)closedir(dir);
	return rc;
}

/* --- mappings -------------------------------------------------------------------------------------------------- */

/* The device in maps is not always that of stat(2) (btrfs, overlayfs): where only the inode is the same, ask the
 * mapping itself; who may not ask takes it for the same. */
static bool same_mapping(const kt_proc *p, const char *range, const kt_watched *w)
{
	char path[256];
	dev_t dev;
	ino_t ino;
	(void)snprintf(path, sizeof path, "%s/map_files/%.64s", p->folder, range);
	return !identity(AT_FDCWD, path, &dev, &ino) || (dev == w->dev && ino == w->ino);
}

static kt_code look_at_mapping(kt_holders *h, const kt_proc *p, char *line, kt_findings *findings, kt_err *err)
{
	char range[65];
	unsigned major;
	unsigned minor;
	unsigned long long ino;
	int rest = 0;
	line[strcspn(line, "\n")] = '\0';
	if (sscanf(line, "%64s %*s %*s %x:%x %llu %n", range, &major, &minor, &ino, &rest) < 4 || ino == 0 || rest == 0)
		return KT_OK;
	for (size_t i = 0; i < h->n; i++) {
		const kt_watched *w = &h->files[i];
		bool same_inode = w->exists && w->ino == ino;
		if (same_path(line + rest, w->real) || (same_inode && w->dev == makedev(major, minor)) ||
		    (same_inode && same_mapping(p, range, w)))
			KT_TRY(add_holder(h, i, p, "mapped", findings, err));
	}
	return KT_OK;
}

static kt_code look_at_mappings(kt_holders *h, const kt_proc *p, bool *blind, kt_findings *findings, kt_err *err)
{
	char path[128];
	(void)snprintf(path, sizeof path, "%s/maps", p->folder);
	FILE *f = fopen(path, "re");
	if (!f) {
		*blind = *blind || (errno != ENOENT && errno != ESRCH);
		return KT_OK;
	}
	kt_code rc = KT_OK;
	char *line = NULL;
	size_t room = 0;
	errno = 0;
	while (rc == KT_OK && getline(&line, &room, f) > 0)
		rc = look_at_mapping(h, p, line, findings, err);
	if (rc == KT_OK && ferror(f) && errno != ESRCH && errno != ENOENT)
		*blind = true;
	free(line);
	(void)fclose(f);
	return rc;
}

kt_code kt_holders_look(kt_holders *h, const cJSON *users, const kt_proc *p, kt_findings *findings, kt_err *err)
{
	bool blind = false;
	KT_TRY(look_at_descriptors(h, p, &blind, findings, err));
	KT_TRY(look_at_mappings(h, p, &blind, findings, err));
	if (blind && kt_procfs_blind_counts(users, p))
		note_blind(h, p);
	return KT_OK;
}

/* --- locks ----------------------------------------------------------------------------------------------------- */

static bool is_holder(const kt_holders *h, size_t file, pid_t pid)
{
	for (size_t i = 0; i < h->holder_n; i++)
		if (h->holders[i].file == file && (pid <= 0 || h->holders[i].pid == pid))
			return true;
	return false;
}

/* A lock of somebody who was not found to have the file open. pid 0 or -1: the kernel does not name one. */
static kt_code add_lock(kt_holders *h, size_t file, pid_t pid, const char *kind, kt_findings *findings, kt_err *err)
{
	if (pid == getpid() || is_holder(h, file, pid))
		return KT_OK;
	char who[64] = "outside this node's view";
	if (pid > 0)
		(void)snprintf(who, sizeof who, "pid %d", (int)pid);
	return kt_findings_add(findings, err, KT_FINDING_FILE, who, "holds a lock (%s) on %s%s", kind,
			       h->files[file].path, pid > 0 ? "" : ": a process of another container or machine");
}

/* What stands in the way of a lock on the whole file; asks the file's server too. Takes none itself. */
static kt_code ask_for_lock(kt_holders *h, size_t file, kt_findings *findings, kt_err *err)
{
	const kt_watched *w = &h->files[file];
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int fd = open(w->path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return KT_OK;
	int failed = fd < 0 || fcntl(fd, F_GETLK, &lock) != 0 ? errno : 0;
	if (fd >= 0)
		(void)close(fd);
	if (failed)
		return kt_findings_add(findings, err, KT_FINDING_UNASKED, w->path, "its locks cannot be asked for: %s",
				       strerror(failed));
	return lock.l_type == F_UNLCK ? KT_OK : add_lock(h, file, lock.l_pid, "fcntl", findings, err);
}

static kt_code look_at_lock(kt_holders *h, const char *line, kt_findings *findings, kt_err *err)
{
	char kind[16];
	int pid;
	unsigned major;
	unsigned minor;
	unsigned long long ino;
	const char *p = strchr(line, ':');
	if (!p)
		return KT_OK;
	p += strspn(p, ": ");
	if (strncmp(p, "->", 2) == 0)
		p += 2; /* somebody who waits for a lock has the file open too */
	if (sscanf(p, "%15s %*s %*s %d %x:%x:%llu", kind, &pid, &major, &minor, &ino) != 5)
		return KT_OK;
	for (size_t i = 0; i < h->n; i++) {
		const kt_watched *w = &h->files[i];
		/* File systems without a device of their own show another number here than in stat(2). */
		bool same_dev = w->dev == makedev(major, minor) || (major == 0 && major(w->dev) == 0);
		if (w->exists && w->ino == ino && same_dev)
			KT_TRY(add_lock(h, i, pid, kind, findings, err));
	}
	return KT_OK;
}

static kt_code look_at_locks(kt_holders *h, kt_findings *findings, kt_err *err)
{
	FILE *f = fopen("/proc/locks", "re");
	if (!f)
		return kt_findings_add(findings, err, KT_FINDING_UNASKED, "/proc/locks", "cannot be read: %s",
				       strerror(errno));
	kt_code rc = KT_OK;
	char line[512];
	while (rc == KT_OK && fgets(line, sizeof line, f))
		rc = look_at_lock(h, line, findings, err);
	if (rc == KT_OK && ferror(f))
		rc = kt_findings_add(findings, err, KT_FINDING_UNASKED, "/proc/locks", "cannot be read: %s",
				     strerror(errno));
	(void)fclose(f);
	return rc;
}

kt_code kt_holders_locks(kt_holders *h, kt_findings *findings, kt_err *err)
{
	if (h->n == 0)
		return KT_OK;
	size_t before = findings->n;
	KT_TRY(look_at_locks(h, findings, err));
	/* Where the list names the locks, asking again would only say the same. */
	for (size_t i = 0; findings->n == before && i < h->n; i++)
		if (h->files[i].exists)
			KT_TRY(ask_for_lock(h, i, findings, err));
	if (h->blind)
		return kt_findings_add(findings, err, KT_FINDING_UNASKED, "processes of other users",
				       "the open files of %zu cannot be read (first: %s)", h->blind, h->first_blind);
	return KT_OK;
}

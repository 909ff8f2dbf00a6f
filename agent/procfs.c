/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/procfs.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ARGS_MAX = 128 * 1024, KTHREAD_FLAG = 0x00200000 /* PF_KTHREAD of the kernel */ };

/* What /proc/<pid>/stat says. */
typedef struct proc_stat {
	char name[64];
	char state;
	pid_t parent;
	unsigned flags;
} proc_stat;

/* Read a small file of /proc whole (their sizes are not known before). false with errno. */
static bool read_whole(const char *path, kt_buf *out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	bool good = true;
	for (;;) {
		if (kt_buf_reserve(out, 4096, NULL) != KT_OK)
			break; /* long enough */
		ssize_t n = read(fd, out->data + out->len, out->cap - out->len);
		if (n < 0 && errno == EINTR)
			continue;
		good = n >= 0;
		if (n <= 0)
			break;
		out->len += (size_t)n;
		out->data[out->len] = '\0';
	}
	int e = errno;
	(void)close(fd);
	errno = e;
	return good;
}

/* The name stands in parentheses and may hold any character, so fields are counted from the last one. */
static bool parse_stat(const char *text, proc_stat *out)
{
	const char *open = strchr(text, '(');
	const char *close = strrchr(text, ')');
	int parent;
	if (!open || !close || close < open)
		return false;
	(void)snprintf(out->name, sizeof out->name, "%.*s", (int)(close - open - 1), open + 1);
	if (sscanf(close + 1, " %c %d %*d %*d %*d %*d %u", &out->state, &parent, &out->flags) != 3)
		return false;
	out->parent = parent;
	return true;
}

static bool read_stat(const char *folder, proc_stat *out)
{
	char path[PATH_MAX];
	kt_buf text = {.max = 16384};
	(void)snprintf(path, sizeof path, "%s/stat", folder);
	bool good = read_whole(path, &text) && text.len;
	if (good && !parse_stat(kt_buf_cstr(&text), out)) {
		good = false;
		errno = EIO;
	} else if (!good && text.len == 0 && errno == 0) {
		errno = ESRCH;
	}
	kt_buf_free(&text);
	return good;
}

static bool is_gone(int e)
{
	return e == ENOENT || e == ESRCH;
}

static bool is_dead(char state)
{
	return state == 'Z' || state == 'X' || state == 'x';
}

/* The first thread may have ended while others live on: then it is through one of those that we look. */
static bool find_living_thread(kt_proc *p)
{
	char tasks[64];
	(void)snprintf(tasks, sizeof tasks, "/proc/%d/task", (int)p->pid);
	DIR *dir = opendir(tasks);
	if (!dir)
		return false;
	bool found = false;
	for (struct dirent *e = readdir(dir); e && !found; e = readdir(dir)) {
		proc_stat st;
		char folder[64];
		if (!isdigit((unsigned char)e->d_name[0]) ||
		    (size_t)snprintf(folder, sizeof folder, "%s/%.16s", tasks, e->d_name) >= sizeof folder)
			continue;
		if (read_stat(folder, &st) && !is_dead(st.state)) {
			memcpy(p->folder, folder, sizeof folder);
			found = true;
		}
	}
	(void)closedir(dir);
	return found;
}

/* 0, or an errno. */
static int read_link(const kt_proc *p, const char *what, char out[PATH_MAX])
{
	static const char deleted[] = " (deleted)";
	char path[128];
	(void)snprintf(path, sizeof path, "%s/%s", p->folder, what);
	ssize_t n = readlink(path, out, PATH_MAX - 1);
	out[n > 0 ? n : 0] = '\0';
	if (n < 0)
		return errno;
	size_t tail = sizeof deleted - 1;
	if ((size_t)n > tail && strcmp(out + n - tail, deleted) == 0)
		out[(size_t)n - tail] = '\0';
	return 0;
}

static void name_user(kt_proc *p)
{
	char buffer[4096];
	struct passwd pw;
	struct passwd *found = NULL;
	if (getpwuid_r(p->uid, &pw, buffer, sizeof buffer, &found) == 0 && found)
		(void)snprintf(p->user, sizeof p->user, "%s", found->pw_name);
	else
		(void)snprintf(p->user, sizeof p->user, "uid %u", (unsigned)p->uid);
}

/* 1: filled in; 0: nothing to show (ended, or a kernel thread); -1: cannot be read, errno says why. */
static int read_process(kt_proc *p)
{
	proc_stat st;
	struct stat owner;
	char path[128];
	(void)snprintf(p->folder, sizeof p->folder, "/proc/%d", (int)p->pid);
	if (!read_stat(p->folder, &st))
		return is_gone(errno) ? 0 : -1;
	if (st.flags & KTHREAD_FLAG || (is_dead(st.state) && !find_living_thread(p)))
		return 0;
	memcpy(p->name, st.name, sizeof p->name);
	p->parent = st.parent;
	if (stat(p->folder, &owner) != 0)
		return is_gone(errno) ? 0 : -1;
	p->uid = owner.st_uid;
	int exe = read_link(p, "exe", p->exe);
	int cwd = read_link(p, "cwd", p->cwd);
	p->exe_unread = (exe && !is_gone(exe)) || (cwd && !is_gone(cwd));
	kt_buf_clear(&p->args);
	(void)snprintf(path, sizeof path, "%s/cmdline", p->folder);
	if (!read_whole(path, &p->args))
		return is_gone(errno) ? 0 : -1;
	name_user(p);
	return 1;
}

/* With hidepid= on /proc, other users' processes do not show; the first process is always another's then. */
static kt_code check_not_hidden(kt_err *err)
{
	proc_stat st;
	if (!read_stat("/proc/1", &st))
		return kt_fail_errno(err, errno, "let the agent run as root (agent.sudo)",
				     "/proc does not show the processes of other users");
	return KT_OK;
}

static kt_code visit(pid_t pid, kt_proc *p, kt_proc_fn fn, void *arg, kt_err *err)
{
	p->pid = pid;
	int shown = read_process(p);
	if (shown < 0)
		return kt_fail_errno(err, errno, "let the agent run as root (agent.sudo)", "process %d cannot be read",
				     (int)pid);
	return shown ? fn(arg, p, err) : KT_OK;
}

kt_code kt_procfs_each(kt_proc_fn fn, void *arg, kt_err *err)
{
	KT_TRY(check_not_hidden(err));
	DIR *dir = opendir("/proc");
	if (!dir)
		return kt_fail_errno(err, errno, NULL, "/proc cannot be read");
	kt_proc *p = calloc(1, sizeof *p);
	kt_code rc = p ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (p)
		p->args.max = ARGS_MAX;
	struct dirent *e = NULL;
	while (rc == KT_OK && (errno = 0, e = readdir(dir)) != NULL) {
		char *end;
		long pid = strtol(e->d_name, &end, 10);
		if (pid > 0 && *end == '\0' && pid != getpid())
			rc = visit((pid_t)pid, p, fn, arg, err);
	}
	if (rc == KT_OK && errno)
		rc = kt_fail_errno(err, errno, NULL, "/proc cannot be read");
	if (p)
		kt_buf_free(&p->args);
	free(p);
	(void)closedir(dir);
	return rc;
}

static kt_code add_socket(int folder, const char *name, uint64_t **out, size_t *n, kt_err *err)
{
	char shown[64];
	unsigned long long inode;
	ssize_t len = readlinkat(folder, name, shown, sizeof shown - 1);
	shown[len > 0 ? len : 0] = '\0';
	if (sscanf(shown, "socket:[%llu]", &inode) != 1)
		return KT_OK;
	if ((*n & (*n - 1)) == 0) {
		uint64_t *grown = reallocarray(*out, *n ? 2 * *n : 1, sizeof *grown);
		if (!grown)
			return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
		*out = grown;
	}
	(*out)[(*n)++] = inode;
	return KT_OK;
}

kt_code kt_procfs_sockets(const kt_proc *p, uint64_t **out, size_t *n, kt_err *err)
{
	char path[128];
	*out = NULL;
	*n = 0;
	(void)snprintf(path, sizeof path, "%s/fd", p->folder);
	DIR *dir = opendir(path);
	if (!dir)
		return KT_OK;
	kt_code rc = KT_OK;
	for (struct dirent *e = readdir(dir); rc == KT_OK && e; e = readdir(dir))
		rc = add_socket(dirfd(dir), e->d_name, out, n, err);
	(void)closedir(dir);
	if (rc != KT_OK) {
		free(*out);
		*out = NULL;
		*n = 0;
	}
	return rc;
}

bool kt_procfs_is_ancestor(pid_t pid)
{
	pid_t at = getppid();
	for (int depth = 0; at > 1 && depth < 256; depth++) {
		char folder[64];
		proc_stat st;
		if (at == pid)
			return true;
		(void)snprintf(folder, sizeof folder, "/proc/%d", (int)at);
		if (!read_stat(folder, &st))
			return false;
		at = st.parent;
	}
	return false;
}

/* Whether the value behind an option of this name is not for other eyes. */
static bool is_secret_option(const char *arg, size_t n)
{
	static const char *const words[] = {"password", "passwd", "secret", "token", "pin", "key", "cred"};
	char lower[64];
	if (n == 0 || n >= sizeof lower)
		return false;
	for (size_t i = 0; i < n; i++)
		lower[i] = (char)tolower((unsigned char)arg[i]);
	lower[n] = '\0';
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		if (strstr(lower, words[i]))
			return true;
	return false;
}

static kt_code print_arg(const char *arg, bool hide, kt_buf *out, kt_err *err)
{
	const char *equals = strchr(arg, '=');
	if (hide)
		return kt_buf_str(out, "***", err);
	if (equals && is_secret_option(arg, (size_t)(equals - arg)))
		return kt_buf_printf(out, err, "%.*s=***", (int)(equals - arg), arg);
	return kt_buf_str(out, arg, err);
}

kt_code kt_procfs_cmdline(const kt_proc *p, size_t max, kt_buf *out, kt_err *err)
{
	size_t start = out->len;
	bool hide = false;
	const char *text = kt_buf_cstr(&p->args);
	if (p->args.len == 0)
		return kt_buf_printf(out, err, "[%s]", p->name);
	for (size_t i = 0; i < p->args.len && out->len - start < max; i += strlen(text + i) + 1) {
		const char *arg = text + i;
		if (i)
			KT_TRY(kt_buf_str(out, " ", err));
		KT_TRY(print_arg(arg, hide, out, err));
		hide = arg[0] == '-' && !strchr(arg, '=') && is_secret_option(arg, strlen(arg));
	}
	if (out->len - start > max) {
		out->len = start + max;
		out->data[out->len] = '\0';
		KT_TRY(kt_buf_str(out, "...", err));
	}
	return KT_OK;
}

bool kt_procfs_blind_counts(const cJSON *users, const kt_proc *p)
{
	const cJSON *user;
	if (p->pid == 1 && geteuid() == 0)
		return false;
	if (!users)
		return true;
	cJSON_ArrayForEach(user, users)
	{
		if (cJSON_IsString(user) && strcmp(user->valuestring, p->user) == 0)
			return true;
	}
	return false;
}

struct blind_count {
	const cJSON *users;
	size_t count;
};

static kt_code count_blind(void *arg, const kt_proc *p, kt_err *err)
{
	struct blind_count *b = arg;
	(void)err;
	b->count += p->exe_unread && kt_procfs_blind_counts(b->users, p) && !kt_procfs_is_ancestor(p->pid);
	return KT_OK;
}

kt_code kt_procfs_blind(const cJSON *users, size_t *count, kt_err *err)
{
	struct blind_count b = {.users = users};
	kt_code rc = kt_procfs_each(count_blind, &b, err);
	*count = b.count;
	return rc;
}

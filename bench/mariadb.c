/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/mariadb.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <mysql.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char server[] = "/usr/sbin/mariadbd", installer[] = "/usr/bin/mariadb-install-db";

bool bench_mariadb_present(void)
{
	return access(server, X_OK) == 0 && access(installer, X_OK) == 0;
}

static pid_t spawn(const char *const argv[], const char *log)
{
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	if (fd >= 0 && dup2(fd, 1) == 1 && dup2(fd, 2) == 2)
		(void)execv(argv[0], (char *const *)(uintptr_t)argv);
	_exit(127);
}

static kt_code install(const bench_mariadb *m, const char *log, kt_err *err)
{
	char datadir[340];
	int status = -1;
	(void)snprintf(datadir, sizeof datadir, "--datadir=%s/data", m->folder);
	const char *const argv[] = {installer,
				    "--no-defaults",
				    datadir,
				    "--auth-root-authentication-method=normal",
				    "--skip-test-db",
				    "--skip-name-resolve",
				    geteuid() == 0 ? "--user=root" : NULL,
				    NULL};
	pid_t pid = spawn(argv, log);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
		return kt_fail(err, KT_E_IO, "see mariadb.log there", "%s failed for %s", installer, m->folder);
	return KT_OK;
}

static kt_code write_keys(const bench_mariadb *m, char path[340], kt_err *err)
{
	(void)snprintf(path, 340, "%s/keys", m->folder);
	FILE *f = fopen(path, "w");
	if (!f)
		return kt_fail_errno(err, errno, NULL, "%s", path);
	for (int id = 1; id <= 2; id++)
		(void)fprintf(f, "%d;%064x\n", id, id * 0x1234567);
	return fclose(f) == 0 ? KT_OK : kt_fail_errno(err, errno, NULL, "%s", path);
}

static kt_code run_server(bench_mariadb *m, const char *log, kt_err *err)
{
	char datadir[340], socket_option[100], keys[340], key_option[400], pid_file[340];
	KT_TRY(write_keys(m, keys, err));
	(void)snprintf(datadir, sizeof datadir, "--datadir=%s/data", m->folder);
	(void)snprintf(socket_option, sizeof socket_option, "--socket=%s", m->socket);
	(void)snprintf(pid_file, sizeof pid_file, "--pid-file=%s/pid", m->folder);
	(void)snprintf(key_option, sizeof key_option, "--file-key-management-filename=%s", keys);
	const char *const argv[] = {server,
				    "--no-defaults",
				    datadir,
				    socket_option,
				    pid_file,
				    key_option,
				    "--plugin-load-add=file_key_management",
				    "--skip-networking",
				    "--skip-log-bin",
				    "--innodb-buffer-pool-size=256M",
				    "--innodb-log-file-size=256M",
				    geteuid() == 0 ? "--user=root" : NULL,
				    NULL};
	m->pid = spawn(argv, log);
	return m->pid > 0 ? KT_OK : kt_fail_errno(err, errno, NULL, "%s", server);
}

/* Wait until it answers, and make the database. */
static kt_code await(const bench_mariadb *m, kt_err *err)
{
	for (int i = 0; i < 600 && waitpid(m->pid, NULL, WNOHANG) == 0; i++) {
		MYSQL *my = mysql_init(NULL);
		bool good = my && mysql_real_connect(my, "localhost", "root", NULL, NULL, 0, m->socket, 0) &&
			    mysql_query(my, "CREATE DATABASE bench") == 0;
		mysql_close(my);
		if (good)
			return KT_OK;
		(void)nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
	}
	return kt_fail(err, KT_E_IO, "see mariadb.log there", "mariadbd does not start in %s", m->folder);
}

kt_code bench_mariadb_start(bench_mariadb *m, const char *folder, kt_err *err)
{
	char log[340], cwd[200];
	*m = (bench_mariadb){.pid = -1};
	(void)snprintf(m->tmp, sizeof m->tmp, "/tmp/keyturn-bench-XXXXXX");
	if (!getcwd(cwd, sizeof cwd) || !mkdtemp(m->tmp))
		return kt_fail_errno(err, errno, NULL, "a folder for the server");
	(void)snprintf(m->folder, sizeof m->folder, "%s/%.90s/mariadb", cwd, folder);
	(void)snprintf(m->socket, sizeof m->socket, "%s/s", m->tmp);
	(void)snprintf(m->url, sizeof m->url, "mariadb://root@localhost/bench?socket=%s", m->socket);
	(void)snprintf(log, sizeof log, "%s/%.90s/mariadb.log", cwd, folder);
	if (mkdir(m->folder, 0700) != 0)
		return kt_fail_errno(err, errno, NULL, "%s", m->folder);
	KT_TRY(install(m, log, err));
	KT_TRY(run_server(m, log, err));
	return await(m, err);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

void bench_mariadb_stop(bench_mariadb *m)
{
	if (m->pid > 0 && kill(m->pid, SIGKILL) == 0) /* its data goes away anyway */
		(void)waitpid(m->pid, NULL, 0);
	for (int i = 0; i < 2; i++) {
		const char *folder = i ? m->tmp : m->folder;
		if (folder[0])
			(void)nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	}
	m->pid = -1;
}

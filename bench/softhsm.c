/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/softhsm.h"

#include <fcntl.h>
#include <ftw.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"

extern char **environ;

static const char pin[] = "1234-bench";

static kt_code put(const char *folder, const char *name, const char *text, char *path, size_t size, kt_err *err)
{
	(void)snprintf(path, size, "%s/%s", folder, name);
	return kt_file_replace(path, text, strlen(text), &(kt_file_attr){0600, geteuid(), getegid()}, err);
}

static kt_code run(char *const argv[], kt_err *err)
{
	pid_t pid;
	int status;
	posix_spawn_file_actions_t quiet;
	if (posix_spawn_file_actions_init(&quiet) ||
	    posix_spawn_file_actions_addopen(&quiet, STDOUT_FILENO, "/dev/null", O_WRONLY, 0))
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	int failed = posix_spawnp(&pid, argv[0], &quiet, NULL, argv, environ);
	(void)posix_spawn_file_actions_destroy(&quiet);
	if (failed)
		return kt_fail_errno(err, failed, "install softhsm2", "%s cannot be run", argv[0]);
	if (waitpid(pid, &status, 0) != pid || status != 0)
		return kt_fail(err, KT_E_HSM, NULL, "%s has failed", argv[0]);
	return KT_OK;
}

kt_code bench_softhsm_make(bench_softhsm *b, const char *module, kt_err *err)
{
	char text[256], path[128];
	char *const argv[] = {"softhsm2-util", "--init-token", "--free", "--label",    "bench",
			      "--so-pin",      "12345678",     "--pin",  "1234-bench", NULL};
	(void)snprintf(b->folder, sizeof b->folder, "/tmp/keyturn-bench-XXXXXX");
	if (!mkdtemp(b->folder))
		return kt_fail(err, KT_E_IO, NULL, "no temporary folder can be made");
	(void)snprintf(path, sizeof path, "%s/tokens", b->folder);
	KT_TRY(kt_file_mkdirs(path, 0700, err));
	(void)snprintf(text, sizeof text, "directories.tokendir = %s/tokens\nobjectstore.backend = file\n", b->folder);
	KT_TRY(put(b->folder, "softhsm2.conf", text, path, sizeof path, err));
	if (setenv("SOFTHSM2_CONF", path, 1) != 0)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	KT_TRY(put(b->folder, "pin", pin, path, sizeof path, err));
	KT_TRY(run(argv, err));
	(void)snprintf(b->uri, sizeof b->uri, "pkcs11:token=bench?module-path=%s&pin-source=file:%s", module, path);
	return KT_OK;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st, (void)type, (void)at;
	return remove(path);
}

void bench_softhsm_remove(bench_softhsm *b)
{
	if (b->folder[0])
		(void)nftw(b->folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/pkcs11/softhsm.h"

#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/secret.h"
#include "tests/unit/support.h"

extern char **environ;

enum { PATH_LEN = 512 };

static char folder[PATH_LEN];

const char *softhsm_module(void)
{
	static const char *const places[] = {
		"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
		"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so",
		"/usr/local/lib/softhsm/libsofthsm2.so"};
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
		if (access(places[i], R_OK) == 0)
			return places[i];
	fail_msg("SoftHSM is not installed (apt-get install softhsm2)");
	return NULL;
}

const char *softhsm_folder(void)
{
	return folder;
}

const char *softhsm_file(const char *name, const void *bytes, unsigned long n, unsigned mode)
{
	static char path[PATH_LEN + 64];
	kt_err err = KT_ERR_INIT;
	(void)snprintf(path, sizeof path, "%s/%s", folder, name);
	(void)unlink(path);
	assert_kt_ok(kt_file_replace(path, bytes, n, &(kt_file_attr){mode, geteuid(), getegid()}, &err));
	return path;
}

const char *softhsm_pin_source(void)
{
	static char source[PATH_LEN + 64];
	(void)snprintf(source, sizeof source, "file:%s/pin", folder);
	return source;
}

const char *softhsm_shim(void)
{
	static char path[PATH_LEN];
	const char *bin = getenv("KT_BIN_DIR");
	(void)snprintf(path, sizeof path, "%s/kt_p11_shim.so", bin ? bin : "../../bin");
	if (path[0] == '/')
		return path;
	static char absolute[PATH_MAX];
	assert_non_null(realpath(path, absolute));
	return absolute;
}

static const char *uri_of(const char *module, const char *path, const char *source)
{
	static char uri[3 * PATH_LEN];
	(void)snprintf(uri, sizeof uri, "pkcs11:%s?module-path=%s&pin-source=%s", path ? path : "token=kt-test", module,
		       source ? source : softhsm_pin_source());
	return uri;
}

const char *softhsm_uri(const char *path, const char *source)
{
	return uri_of(softhsm_module(), path, source);
}

const char *softhsm_shim_uri(void)
{
	return uri_of(softhsm_shim(), NULL, NULL);
}

int softhsm_run(const char *const argv[])
{
	pid_t pid;
	int status;
	posix_spawn_file_actions_t quiet;
	union {
		const char *const *in;
		char *const *out;
	} args = {.in = argv};
	assert_int_equal(posix_spawn_file_actions_init(&quiet), 0);
	assert_int_equal(posix_spawn_file_actions_addopen(&quiet, STDOUT_FILENO, "/dev/null", O_WRONLY, 0), 0);
	int failed = posix_spawnp(&pid, argv[0], &quiet, NULL, args.out, environ);
	(void)posix_spawn_file_actions_destroy(&quiet);
	if (failed)
		fail_msg("%s cannot be run: %s", argv[0], strerror(failed));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void softhsm_add_token(const char *label)
{
	const char *const argv[] = {"softhsm2-util", "--init-token", "--free", "--label",   label,
				    "--so-pin",      "so-12345678",  "--pin",  SOFTHSM_PIN, NULL};
	assert_int_equal(softhsm_run(argv), 0);
}

int softhsm_start(void **state)
{
	char conf[PATH_LEN * 2], cwd[PATH_LEN - 32];
	kt_err err = KT_ERR_INIT;
	(void)state;
	assert_kt_ok(kt_secret_setup(&err));
	assert_non_null(getcwd(cwd, sizeof cwd));
	(void)snprintf(folder, sizeof folder, "%s/softhsm-XXXXXX", cwd);
	assert_non_null(mkdtemp(folder));
	(void)snprintf(conf, sizeof conf, "%s/tokens", folder);
	assert_int_equal(mkdir(conf, 0700), 0);
	(void)snprintf(conf, sizeof conf,
		       "directories.tokendir = %s/tokens\nobjectstore.backend = file\nlog.level = ERROR\n", folder);
	assert_int_equal(setenv("SOFTHSM2_CONF", softhsm_file("softhsm2.conf", conf, strlen(conf), 0600), 1), 0);
	(void)softhsm_file("pin", SOFTHSM_PIN "\n", strlen(SOFTHSM_PIN) + 1, 0400);
	softhsm_add_token("kt-test");
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st, (void)type, (void)at;
	return remove(path);
}

int softhsm_stop(void **state)
{
	(void)state;
	return nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

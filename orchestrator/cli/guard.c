/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "base/log.h"
#include "pkcs11/printed.h"
#include "pkcs11/watch.h"

enum { CHUNK = 1024 };

static struct {
	const kt_cli *cli;
	int real, printed; /* stderr as it was; what is printed instead */
	pthread_t reader;
} g = {.real = -1, .printed = -1};

void kt_cli_tell(const kt_cli *cli, const kt_err *err)
{
	if (cli->json) {
		cJSON *error = cJSON_CreateObject();
		cJSON *o = cJSON_CreateObject();
		if (error && o && cJSON_AddStringToObject(error, "class", kt_code_name(err->code)) &&
		    cJSON_AddStringToObject(error, "message", err->msg) &&
		    cJSON_AddStringToObject(error, "remedy", err->remedy) && cJSON_AddItemToObject(o, "error", error))
			KT_IGNORE(kt_cli_print_json(cli, o, NULL));
	}
	(void)fprintf(stderr, "keyturn: %s\n", err->msg[0] ? err->msg : kt_code_name(err->code));
	if (err->remedy[0])
		(void)fprintf(stderr, "  → %s\n", err->remedy);
}

static void *read_printed(void *unused)
{
	char chunk[CHUNK];
	kt_printed p = {0};
	for (ssize_t n; (n = read(g.printed, chunk, sizeof chunk)) > 0 || (n < 0 && errno == EINTR);)
		if (n > 0)
			kt_printed_add(&p, chunk, (size_t)n);
	kt_printed_add(&p, "\n", 1);
	return unused;
}

/* In the watch's thread, while another one hangs in the module. */
static void hung(const kt_err *err)
{
	(void)dup2(g.real, STDERR_FILENO);
	kt_cli_tell(g.cli, err);
	(void)fflush(g.cli->out);
	/* lint: allow exit: a call that hangs can be ended in no other way */
	_exit((int)err->code);
}

kt_code kt_cli_guard(const kt_cli *cli, int64_t call_ms, kt_err *err)
{
	int end[2];
	g.cli = cli;
	if (pipe2(end, O_CLOEXEC) != 0)
		return kt_fail_errno(err, errno, NULL, "no pipe for what the PKCS#11 module prints");
	g.printed = end[0];
	g.real = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	if (g.real < 0 || dup2(end[1], STDERR_FILENO) < 0 || pthread_create(&g.reader, NULL, read_printed, NULL) != 0) {
		(void)close(end[1]);
		return kt_fail(err, KT_E_INTERNAL, NULL, "what the PKCS#11 module prints cannot be caught");
	}
	(void)close(end[1]);
	kt_log_setup(kt_log_get_level(), g.real);
	return kt_watch_start(call_ms, hung, err);
}

void kt_cli_unguard(void)
{
	if (g.real < 0)
		return;
	(void)dup2(g.real, STDERR_FILENO); /* the pipe's last end here: its reader comes to the end */
	(void)pthread_join(g.reader, NULL);
	kt_log_setup(kt_log_get_level(), STDERR_FILENO);
	(void)close(g.real);
	(void)close(g.printed);
	g.real = g.printed = -1;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/secret.h"
#include "orchestrator/cli/guard.h"
#include "orchestrator/turn/hsm.h"

/* The hidden subcommand: the process that owns the token of a run. What goes wrong here is for its parent to tell. */
static int own_token(int argc, char **argv)
{
	kt_err err = KT_ERR_INIT;
	kt_code rc = kt_secret_setup(&err);
	if (rc == KT_OK)
		rc = kt_hsm_serve(argc, argv, &err);
	if (rc != KT_OK)
		(void)fprintf(stderr, "%s\n", err.msg);
	kt_log_forget_all();
	return (int)rc;
}

int main(int argc, char **argv)
{
	kt_err err = KT_ERR_INIT;
	kt_cli cli = {.out = stdout};
	(void)signal(SIGPIPE, SIG_IGN);
	if (argc > 1 && strcmp(argv[1], KT_HSM_SUBCOMMAND) == 0)
		return own_token(argc - 2, argv + 2);
	(void)signal(SIGHUP, SIG_IGN); /* a closed terminal must not leave a cluster half way */
	kt_code rc = kt_secret_setup(&err);
	if (rc == KT_OK)
		rc = kt_cli_parse(argc, argv, &cli, &err);
	if (rc == KT_OK && kt_cli_has(&cli, "help") && !(cli.verb->run == kt_verb_help && cli.args)) {
		kt_cli_help(cli.verb, cli.out);
	} else if (rc == KT_OK) {
		kt_log_level level = kt_cli_has(&cli, "trace")     ? KT_LOG_TRACE
				     : kt_cli_has(&cli, "verbose") ? KT_LOG_DEBUG
								   : KT_LOG_WARN;
		kt_log_setup(level, STDERR_FILENO);
		rc = cli.verb->run(&cli, &err);
	}
	kt_cli_unguard();
	if (rc != KT_OK) {
		err.code = rc;
		kt_cli_tell(&cli, &err);
	}
	kt_log_forget_all();
	return (int)rc;
}

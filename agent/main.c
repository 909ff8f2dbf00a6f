/* SPDX-License-Identifier: Apache-2.0 */
/* keyturn-agent(8): what runs on a node. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/detach.h"
#include "agent/runner.h"
#include "agent/serve.h"
#include "agent/token.h"
#include "agent/unseal.h"
#include "base/log.h"
#include "base/secret.h"
#include "wire/message.h"

static const char usage[] =
	"usage: keyturn-agent serve --node NAME [--state DIR]\n"
	"       keyturn-agent unseal KEYFILE ARCHIVE >FILE.tar.zst\n"
	"       keyturn-agent --version | --help\n"
	"\n"
	"Serves one keyturn coordinator over stdin and stdout: `keyturn` starts it over ssh on\n"
	"every node of a cluster. Not meant to be typed; see keyturn-agent(8).\n"
	"\n"
	"  --node NAME   the node's name in cluster.json\n"
	"  --state DIR   where the agent keeps its key, epochs and spool (default /var/lib/keyturn)\n"
	"\n"
	"`unseal` is for people: what is inside an encrypted backup, as tar under zstd, by the key in KEYFILE\n"
	"(0400, base64). It was whole only when this exits with 0.\n"
	"\n"
	"Internal: `run SPOOLDIR` carries out detached work, `drain` reads stdin to its end,\n"
	"`token` owns this node's PKCS#11 token.\n";

static int fail(const kt_err *err)
{
	(void)fprintf(stderr, "keyturn-agent: %s\n", err->msg);
	if (err->remedy[0])
		(void)fprintf(stderr, "keyturn-agent: what to do: %s\n", err->remedy);
	return (int)err->code;
}

static kt_code wrong_usage(kt_err *err, const char *what)
{
	return kt_fail(err, KT_E_USAGE, "see `keyturn-agent --help`", "%s", what);
}

static kt_code parse_serve(int argc, char **argv, kt_serve_options *o, kt_err *err)
{
	static const struct option options[] = {
		{"node", required_argument, NULL, 'n'}, {"state", required_argument, NULL, 's'}, {NULL, 0, NULL, 0}};
	opterr = 0;
	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		if (c == 'n')
			o->node = optarg;
		else if (c == 's')
			o->state = optarg;
		else
			return wrong_usage(err, "an option of `serve` is not known, or lacks its value");
	}
	if (optind != argc)
		return wrong_usage(err, "`serve` takes options only");
	if (!o->node)
		return wrong_usage(err, "`serve` needs --node NAME");
	if (kt_name_check("node", o->node, err) != KT_OK)
		return err->code = KT_E_USAGE;
	if (o->state[0] != '/')
		return wrong_usage(err, "--state must be an absolute path");
	return KT_OK;
}

static kt_code serve(int argc, char **argv, kt_err *err)
{
	kt_serve_options o = {.state = "/var/lib/keyturn", .in = STDIN_FILENO, .out = STDOUT_FILENO};
	KT_TRY(kt_secret_setup(err));
	KT_TRY(parse_serve(argc, argv, &o, err));
	return kt_serve(&o, err);
}

static kt_code run(int argc, char **argv, kt_err *err)
{
	KT_TRY(kt_secret_setup(err));
	if (argc != 2)
		return wrong_usage(err, "`run` takes a folder of the spool");
	return kt_runner(argv[1], err);
}

static kt_code token(int argc, char **argv, kt_err *err)
{
	KT_TRY(kt_secret_setup(err));
	return kt_owner_serve(argc - 1, argv + 1, kt_node_token_handlers, err);
}

static kt_code unseal(int argc, char **argv, kt_err *err)
{
	KT_TRY(kt_secret_setup(err));
	if (argc != 3)
		return wrong_usage(err, "`unseal` takes a key file and an archive");
	if (isatty(STDOUT_FILENO))
		return wrong_usage(err,
				   "`unseal` does not write to a terminal: send it into a file, or to `tar --zstd -t`");
	return kt_unseal(argv[1], argv[2], STDOUT_FILENO, err);
}

int main(int argc, char **argv)
{
	kt_err err = KT_ERR_INIT;
	(void)signal(SIGPIPE, SIG_IGN);
	const char *what = argc > 1 ? argv[1] : "";
	if (strcmp(what, "--version") == 0)
		return printf("keyturn-agent " KT_VERSION "\n") > 0 ? 0 : KT_E_IO;
	if (strcmp(what, "--help") == 0)
		return fputs(usage, stdout) >= 0 ? 0 : KT_E_IO;
	if (strcmp(what, "drain") == 0) {
		kt_drain();
		return 0;
	}
	kt_code rc;
	if (strcmp(what, "serve") == 0)
		rc = serve(argc - 1, argv + 1, &err);
	else if (strcmp(what, "token") == 0)
		rc = token(argc - 1, argv + 1, &err);
	else if (strcmp(what, "unseal") == 0)
		rc = unseal(argc - 1, argv + 1, &err);
	else if (strcmp(what, "run") == 0)
		rc = run(argc - 1, argv + 1, &err);
	else
		rc = wrong_usage(&err, what[0] ? "this is no command of keyturn-agent" : "a command is missing");
	return rc == KT_OK ? 0 : fail(&err);
}

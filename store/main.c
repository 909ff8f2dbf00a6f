/* SPDX-License-Identifier: Apache-2.0 */
/* keyturn-store: the table of verbs and the command line. keyturn-store(1). */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/secret.h"
#include "store/args.h"
#include "store/shard.h"

/* What a verb takes besides --config, --json and --help. */
enum {
	TAKES_OTHER = 1, /* --database */
	TAKES_FOREGROUND = 2,
	TAKES_CONTENT = 4,
	TAKES_FILL = 8,
	TAKES_TIMEOUT = 16,
	TAKES_DEPTH = 32,
	TAKES_CREDS = 64, /* -d */
	TAKES_DATABASE = TAKES_OTHER | TAKES_CREDS
};

typedef struct verb {
	const char *name, *arguments, *summary;
	int takes;
	int words_min, words_max;
	bool forks; /* sets its locked memory up after the fork */
	kt_verb *run;
} verb;

static const verb verbs[] = {
	{"start", "[--foreground]", "start this node", TAKES_CREDS | TAKES_FOREGROUND, 0, 0, true, kt_verb_start},
	{"stop", "[--timeout SECONDS]", "stop this node and deregister it", TAKES_CREDS | TAKES_TIMEOUT, 0, 0, false,
	 kt_verb_stop},
	{"status", "", "this node, and every node of the heartbeat table", TAKES_DATABASE, 0, 0, false, kt_verb_status},
	{"put", "NAME [VALUE|-]", "store an item (without VALUE: from standard input)", TAKES_DATABASE, 1, 2, false,
	 kt_verb_put},
	{"get", "NAME", "print an item", TAKES_DATABASE, 1, 1, false, kt_verb_get},
	{"list", "", "the names of all items", TAKES_DATABASE, 0, 0, false, kt_verb_list},
	{"verify", "[--content]", "open every item with the master key", TAKES_DATABASE | TAKES_CONTENT, 0, 0, false,
	 kt_verb_verify},
	{"fill", "--count N --size BYTES", "make test items with a content that verify --content can check",
	 TAKES_DATABASE | TAKES_FILL, 0, 0, false, kt_verb_fill},
	{"rekey", "[--depth D] [--shards N | --join]", "turn the data from the _SOURCE to the _DESTINATION key",
	 TAKES_DATABASE | TAKES_DEPTH, 0, 0, false, kt_verb_rekey},
	{"migrate_encryption", "[-d FILE]", "move legacy items (AES-128-CBC) to AES-256-GCM", TAKES_DATABASE, 0, 0,
	 false, kt_verb_migrate},
	{"probe", "[-d FILE]", "which key opens the data: old, new, both, mixed or none", TAKES_DATABASE, 0, 0, false,
	 kt_verb_probe},
	{"check_key", "", "wrap and open something with the master key (the _DESTINATION one where it is set)", 0, 0, 0,
	 false, kt_verb_check_key},
};
enum { VERBS = sizeof verbs / sizeof verbs[0] };

static const struct option options[] = {{"help", no_argument, NULL, 'h'},
					{"version", no_argument, NULL, 'V'},
					{"json", no_argument, NULL, 'j'},
					{"config", required_argument, NULL, 'c'},
					{"database", required_argument, NULL, 'D'},
					{"internal-db-creds", required_argument, NULL, 'd'},
					{"foreground", no_argument, NULL, 'f'},
					{"content", no_argument, NULL, 'C'},
					{"count", required_argument, NULL, 'n'},
					{"size", required_argument, NULL, 's'},
					{"timeout", required_argument, NULL, 't'},
					{"depth", required_argument, NULL, 'p'},
					{"shards", required_argument, NULL, 'S'},
					{"join", no_argument, NULL, 'J'},
					{0}};

static const char common_help[] =
	"  --config FILE     the configuration (else $KEYTURN_STORE_CONFIG, store.json beside the program or here)\n"
	"  --json            the result, or the error, as JSON on standard output\n"
	"  --help, --version\n";

static const char database_help[] = "  --database FILE   look at this database instead, for instance a restored backup "
				    "(no cache, no log): a file, or\n"
				    "                    mariadb://USER@HOST:PORT/DATABASE?password_file=PATH\n";

static const char creds_help[] =
	"  -d FILE, --internal-db-creds=FILE   take the database from a credentials file (dialect: mysql or sqlite)\n";

static const char depth_help[] =
	"  --depth D         how deep to turn: cmk (the KEK is wrapped anew: at once; whoever had the old master key "
	"and\n"
	"                    an old database has the KEK still), kek (the default: a new KEK, every data key wrapped\n"
	"                    anew), data (every item encrypted anew under a new data key: after a compromise)\n"
	"  --shards N        on a database server: cut the rows into N ranges that several nodes turn at once; this "
	"one begins\n"
	"  --join            on the other nodes, or again after a failure: work on the ranges of the rekey that was "
	"begun\n";

static kt_code help_all(kt_err *err)
{
	KT_TRY(kt_store_print(err,
			      "usage: keyturn-store [--config FILE] VERB ...\n\nAn encrypted store that several nodes "
			      "share, with the commands of Looker's procedures.\n\n"));
	for (size_t i = 0; i < VERBS; i++)
		KT_TRY(kt_store_print(err, "  %-18s %-26s %s\n", verbs[i].name, verbs[i].arguments, verbs[i].summary));
	return kt_store_print(
		err,
		"\n%s\nMaster key: LKR_MASTER_KEY_FILE, LKR_MASTER_KEY_ENV, LKR_AWS_CMK or LKR_PKCS11_CMK; for "
		"rekey and probe with _SOURCE and _DESTINATION. See keyturn-store(1).\n",
		common_help);
}

static kt_code help_verb(const verb *v, kt_err *err)
{
	KT_TRY(kt_store_print(err, "usage: keyturn-store %s %s\n\n%s\n\n%s", v->name, v->arguments, v->summary,
			      common_help));
	if (v->takes & TAKES_DEPTH)
		KT_TRY(kt_store_print(err, "%s", depth_help));
	if (v->takes & TAKES_OTHER)
		KT_TRY(kt_store_print(err, "%s", database_help));
	return v->takes & TAKES_CREDS ? kt_store_print(err, "%s", creds_help) : KT_OK;
}

static kt_code number(const char *name, const char *text, int64_t min, int64_t max, int64_t *out, kt_err *err)
{
	char *end;
	errno = 0;
	long long v = strtoll(text, &end, 10);
	if (errno || end == text || *end || v < min || v > max)
		return kt_fail(err, KT_E_USAGE, NULL, "%s: a number from %lld to %lld is expected", name,
			       (long long)min, (long long)max);
	*out = v;
	return KT_OK;
}

/* What a verb has to take for this option; 0: every verb does. */
static int needs(int option)
{
	switch (option) {
	case 'D':
		return TAKES_OTHER;
	case 'd':
		return TAKES_CREDS;
	case 'f':
		return TAKES_FOREGROUND;
	case 'C':
		return TAKES_CONTENT;
	case 'n':
	case 's':
		return TAKES_FILL;
	case 't':
		return TAKES_TIMEOUT;
	case 'p':
	case 'S':
	case 'J':
		return TAKES_DEPTH;
	default:
		return 0;
	}
}

static kt_code take_option(kt_store_args *a, int option, const char *value, bool *version, kt_err *err)
{
	switch (option) {
	case 'h':
		a->help = true;
		return KT_OK;
	case 'V':
		*version = true;
		return KT_OK;
	case 'j':
		a->json = true;
		return KT_OK;
	case 'c':
		a->config = value;
		return KT_OK;
	case 'D':
		a->database = value;
		return KT_OK;
	case 'd':
		a->creds = value;
		return KT_OK;
	case 'f':
		a->foreground = true;
		return KT_OK;
	case 'C':
		a->content = true;
		return KT_OK;
	case 'p':
		a->depth = value;
		return KT_OK;
	case 'J':
		a->join = true;
		return KT_OK;
	case 'S':
		return number("--shards", value, 1, KT_SHARD_MAX, &a->shards, err);
	case 'n':
		return number("--count", value, 1, 100000000, &a->count, err);
	case 's':
		return number("--size", value, 0, 16 * 1024 * 1024, &a->size, err);
	case 't':
		return number("--timeout", value, 1, 3600, &a->timeout_s, err);
	default:
		return kt_fail(err, KT_E_USAGE, "keyturn-store --help lists them",
			       "unknown option, or one without its value");
	}
}

static const verb *find_verb(const char *name)
{
	for (size_t i = 0; i < VERBS; i++)
		if (strcmp(verbs[i].name, name) == 0)
			return &verbs[i];
	return NULL;
}

static kt_code check_use(const kt_store_args *a, const verb *v, int used, kt_err *err)
{
	char remedy[128];
	(void)snprintf(remedy, sizeof remedy, "keyturn-store %s --help", v->name);
	if (used & ~v->takes)
		return kt_fail(err, KT_E_USAGE, remedy, "%s does not take one of the options that were given", v->name);
	if (a->words < v->words_min || a->words > v->words_max)
		return kt_fail(err, KT_E_USAGE, remedy, "%s takes: %s", v->name,
			       *v->arguments ? v->arguments : "no arguments");
	if (a->database && a->creds)
		return kt_fail(err, KT_E_USAGE, remedy, "--database and --internal-db-creds exclude each other");
	if (a->join && (a->shards || a->depth))
		return kt_fail(err, KT_E_USAGE, remedy, "--join takes part in what was begun: no --shards or --depth");
	if ((v->takes & TAKES_FILL) && (a->count < 0 || a->size < 0))
		return kt_fail(err, KT_E_USAGE, remedy, "fill needs --count and --size");
	return KT_OK;
}

/* *v stays NULL when help or the version was asked for and printed. */
static kt_code parse(int argc, char **argv, kt_store_args *a, const verb **v, kt_err *err)
{
	int used = 0, option;
	bool version = false;
	*v = NULL;
	opterr = 0;
	while ((option = getopt_long(argc, argv, "hd:", options, NULL)) != -1) {
		used |= needs(option);
		KT_TRY(take_option(a, option, optarg, &version, err));
	}
	if (version)
		return kt_store_print(err, "keyturn-store %s\n", KT_VERSION);
	if (optind == argc)
		return a->help ? help_all(err)
			       : kt_fail(err, KT_E_USAGE, "keyturn-store --help lists the verbs", "a verb is missing");
	a->verb = argv[optind];
	a->word = argv + optind + 1;
	a->words = argc - optind - 1;
	const verb *found = find_verb(a->verb);
	if (!found)
		return kt_fail(err, KT_E_USAGE,
			       "keyturn-store --help lists the tasks; a newer version may have this one",
			       "Could not find task \"%s\"", a->verb);
	if (a->help)
		return help_verb(found, err);
	KT_TRY(check_use(a, found, used, err));
	*v = found;
	return KT_OK;
}

static kt_code configure(const kt_store_args *a, kt_store_config *cfg, kt_err *err)
{
	kt_store_where where = {.config = a->config, .database = a->database, .creds = a->creds, .program = a->program};
	return kt_store_config_load(&where, cfg, err);
}

static kt_code run(const kt_store_args *a, const verb *v, int *exit_code, kt_err *err)
{
	kt_store_config cfg = {0};
	kt_code rc = configure(a, &cfg, err);
	if (rc == KT_OK)
		rc = v->run(a, &cfg, exit_code, err);
	kt_store_config_free(&cfg);
	return rc;
}

static kt_code print_error_json(const kt_err *why, kt_err *err)
{
	cJSON *o = cJSON_CreateObject(), *e = cJSON_CreateObject();
	kt_code rc = o ? kt_json_add(o, "error", e, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = kt_json_add_str(e, "class", kt_code_name(why->code), err);
	if (rc == KT_OK)
		rc = kt_json_add_str(e, "message", why->msg, err);
	if (rc == KT_OK)
		rc = kt_json_add_str(e, "remedy", why->remedy, err);
	if (rc == KT_OK)
		return kt_store_print_json(o, err);
	cJSON_Delete(o);
	return rc;
}

/* The message stands alone on its line, word for word as the procedures document it. */
static void complain(const kt_store_args *a, const kt_err *why)
{
	if (a->json)
		KT_IGNORE(print_error_json(why, NULL));
	(void)fprintf(stderr, "%s\n", why->msg);
	if (why->remedy[0])
		(void)fprintf(stderr, "  what to do: %s\n", why->remedy);
}

int main(int argc, char **argv)
{
	kt_store_args a = {.program = argv[0], .count = -1, .size = -1, .timeout_s = 60};
	const verb *v;
	int exit_code = 0;
	kt_err err = KT_ERR_INIT;
	kt_code rc = parse(argc, argv, &a, &v, &err);
	if (rc == KT_OK && v && !v->forks)
		rc = kt_secret_setup(&err);
	if (rc == KT_OK && v)
		rc = run(&a, v, &exit_code, &err);
	if (rc != KT_OK)
		complain(&a, &err);
	return rc == KT_OK ? exit_code : (int)rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/nearest.h"

static const kt_cli_option common[] = {
	{"cluster", 'c', "FILE", "the cluster.json; default $KEYTURN_CLUSTER, then ./cluster.json"},
	{"json", 0, NULL, "print JSON, one object a line"},
	{"verbose", 'v', NULL, "more of what is going on, on stderr"},
	{"trace", 0, NULL, "everything that is going on (never secrets), on stderr"},
	{"help", 'h', NULL, "show the verb's help"},
	{NULL, 0, NULL, NULL},
};

/* The i-th option: first the common ones, then the verb's. NULL at the end. */
static const kt_cli_option *option_at(const kt_cli_verb *verb, size_t i)
{
	size_t n = sizeof common / sizeof common[0] - 1;
	if (i < n)
		return &common[i];
	if (!verb)
		return NULL;
	for (size_t k = 0; k <= i - n; k++)
		if (!verb->options[k].name)
			return NULL;
	return &verb->options[i - n];
}

const char *kt_cli_get(const kt_cli *cli, const char *name)
{
	for (size_t i = 0; option_at(cli->verb, i); i++)
		if (strcmp(option_at(cli->verb, i)->name, name) == 0)
			return cli->value[i];
	return NULL;
}

bool kt_cli_has(const kt_cli *cli, const char *name)
{
	return kt_cli_get(cli, name) != NULL;
}

/* How much of a verb's name is its group: "hsm" of "hsm list"; 0 when it has one word. */
static size_t group_len(const kt_cli_verb *verb)
{
	const char *space = strchr(verb->name, ' ');
	return space ? (size_t)(space - verb->name) : 0;
}

static bool in_group(const kt_cli_verb *verb, const char *word)
{
	return group_len(verb) == strlen(word) && strncmp(verb->name, word, strlen(word)) == 0;
}

bool kt_cli_is_group(const char *word)
{
	for (const kt_cli_verb *v = kt_cli_verbs(); v->name; v++)
		if (in_group(v, word))
			return true;
	return false;
}

static const kt_cli_verb *find_verb(const char *name)
{
	for (const kt_cli_verb *v = kt_cli_verbs(); v->name; v++)
		if (strcmp(v->name, name) == 0)
			return v;
	return NULL;
}

static kt_code no_such_verb(const char *name, kt_err *err)
{
	kt_nearest near = KT_NEAREST(name);
	for (const kt_cli_verb *v = kt_cli_verbs(); v->name; v++)
		kt_nearest_offer(&near, v->name);
	char remedy[128] = "see `keyturn help`";
	if (near.best)
		(void)snprintf(remedy, sizeof remedy, "did you mean `keyturn %s`?", near.best);
	return kt_fail(err, KT_E_USAGE, remedy, "there is no verb \"%.60s\"", name);
}

static kt_code half_a_verb(const char *group, kt_err *err)
{
	char remedy[160];
	size_t n = (size_t)snprintf(remedy, sizeof remedy, "one of:");
	for (const kt_cli_verb *v = kt_cli_verbs(); v->name; v++)
		if (in_group(v, group) && n < sizeof remedy)
			n += (size_t)snprintf(remedy + n, sizeof remedy - n, " %s", v->name + strlen(group) + 1);
	return kt_fail(err, KT_E_USAGE, remedy, "keyturn %s needs a second word", group);
}

kt_code kt_cli_find_verb(const char *word, const char *second, const kt_cli_verb **out, kt_err *err)
{
	char name[64];
	bool group = kt_cli_is_group(word);
	*out = NULL;
	if (group && !second)
		return half_a_verb(word, err);
	(void)snprintf(name, sizeof name, "%.30s%s%.30s", word, group ? " " : "", group ? second : "");
	*out = find_verb(name);
	return *out ? KT_OK : no_such_verb(name, err);
}

/* The next word from argv[i] on that is neither an option nor the value of a common one; argc when there is none. */
static int next_word(int argc, char **argv, int i)
{
	for (; i < argc; i++) {
		if (strcmp(argv[i], "-c") == 0 || strcmp(argv[i], "--cluster") == 0)
			i++;
		else if (argv[i][0] != '-')
			return i;
	}
	return argc;
}

static bool has_word(int argc, char **argv, const char *a, const char *b)
{
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], a) == 0 || strcmp(argv[i], b) == 0)
			return true;
	return false;
}

static void take_out(int *argc, char **argv, int at)
{
	for (int i = at; i + 1 < *argc; i++)
		argv[i] = argv[i + 1];
	(*argc)--;
}

/* Takes out each of two spellings; true when there was one. */
static bool take_word(int *argc, char **argv, const char *a, const char *b)
{
	int before = *argc;
	for (int i = 1; i < *argc; i++)
		if (strcmp(argv[i], a) == 0 || strcmp(argv[i], b) == 0)
			take_out(argc, argv, i--);
	return *argc < before;
}

/* The verb is the first word, or the first two where the first is a group. They are taken out of argv, so that options
 * may stand before and after them. */
static kt_code choose_verb(int *argc, char **argv, kt_cli *cli, kt_err *err)
{
	int first = next_word(*argc, argv, 1);
	bool help = has_word(*argc, argv, "-h", "--help");
	if (has_word(first, argv, "--version", "--version")) {
		cli->verb = find_verb("version");
		(void)take_word(argc, argv, "--version", "--version");
		return KT_OK;
	}
	if (first == *argc) {
		cli->verb = find_verb("help");
		return *argc == 1 || take_word(argc, argv, "-h", "--help")
			       ? KT_OK
			       : kt_fail(err, KT_E_USAGE, "see `keyturn help`", "no verb was given");
	}
	int second = kt_cli_is_group(argv[first]) ? next_word(*argc, argv, first + 1) : *argc;
	if (second == *argc && help && kt_cli_is_group(argv[first])) {
		cli->verb = find_verb("help"); /* `keyturn hsm --help` is `keyturn help hsm` */
		return KT_OK;
	}
	KT_TRY(kt_cli_find_verb(argv[first], second < *argc ? argv[second] : NULL, &cli->verb, err));
	if (second < *argc)
		take_out(argc, argv, second);
	take_out(argc, argv, first);
	return KT_OK;
}

static void make_getopt(const kt_cli *cli, struct option *longs, char *shorts)
{
	size_t s = 0;
	size_t i = 0;
	shorts[s++] = ':';
	for (; i < KT_CLI_OPTIONS && option_at(cli->verb, i); i++) {
		const kt_cli_option *o = option_at(cli->verb, i);
		longs[i] = (struct option){o->name, o->arg ? required_argument : no_argument, NULL, 256 + (int)i};
		if (!o->letter)
			continue;
		shorts[s++] = o->letter;
		if (o->arg)
			shorts[s++] = ':';
	}
	longs[i] = (struct option){0};
	shorts[s] = '\0';
}

static int option_of_letter(const kt_cli *cli, int letter)
{
	for (int i = 0; option_at(cli->verb, (size_t)i); i++)
		if (option_at(cli->verb, (size_t)i)->letter == letter)
			return i;
	return -1;
}

static kt_code bad_option(const kt_cli *cli, int code, char **argv, kt_err *err)
{
	char remedy[96];
	const char *word = argv[optind - 1];
	(void)snprintf(remedy, sizeof remedy, "see `keyturn %s --help`", cli->verb->name);
	if (code == ':')
		return kt_fail(err, KT_E_USAGE, remedy, "the option %.60s needs a value", word);
	return kt_fail(err, KT_E_USAGE, remedy, "keyturn %s has no option %.60s", cli->verb->name, word);
}

static kt_code read_options(int argc, char **argv, kt_cli *cli, kt_err *err)
{
	struct option longs[KT_CLI_OPTIONS + 1];
	char shorts[2 * KT_CLI_OPTIONS + 2];
	make_getopt(cli, longs, shorts);
	opterr = 0;
	optind = 1;
	for (int code; (code = getopt_long(argc, argv, shorts, longs, NULL)) != -1;) {
		int i = code >= 256 ? code - 256 : option_of_letter(cli, code);
		if (code == '?' || code == ':' || i < 0)
			return bad_option(cli, code, argv, err);
		cli->value[i] = optarg ? optarg : "";
	}
	for (; optind < argc; optind++) {
		if (cli->args == cli->verb->args_max || cli->args == KT_CLI_ARGS)
			return kt_fail(err, KT_E_USAGE, "see its --help", "keyturn %s: \"%.60s\" is one word too many",
				       cli->verb->name, argv[optind]);
		cli->arg[cli->args++] = argv[optind];
	}
	return KT_OK;
}

kt_code kt_cli_parse(int argc, char **argv, kt_cli *cli, kt_err *err)
{
	*cli = (kt_cli){.out = stdout};
	KT_TRY(choose_verb(&argc, argv, cli, err));
	KT_TRY(read_options(argc, argv, cli, err));
	cli->json = kt_cli_has(cli, "json");
	cli->terminal = !cli->json && isatty(STDOUT_FILENO);
	const char *no_colour = getenv("NO_COLOR");
	const char *term = getenv("TERM");
	cli->colour = cli->terminal && !(no_colour && *no_colour) && !(term && strcmp(term, "dumb") == 0);
	return KT_OK;
}

kt_code kt_cli_print_json(const kt_cli *cli, cJSON *o, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = o ? kt_json_print(o, &text, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK && (fprintf(cli->out, "%s\n", kt_buf_cstr(&text)) < 0 || fflush(cli->out) != 0))
		rc = kt_fail(err, KT_E_IO, NULL, "the output cannot be written");
	kt_buf_free(&text);
	cJSON_Delete(o);
	return rc;
}

kt_code kt_cli_confirm(const char *question, const char *remedy, kt_err *err)
{
	char line[16];
	FILE *tty = fopen("/dev/tty", "r+e");
	if (!tty)
		return kt_fail(err, KT_E_REFUSED, remedy, "there is no terminal to ask on");
	(void)fprintf(tty, "%s [y/N] ", question);
	(void)fflush(tty);
	bool yes = fgets(line, sizeof line, tty) && (strcmp(line, "y\n") == 0 || strcmp(line, "yes\n") == 0);
	(void)fclose(tty);
	return yes ? KT_OK : kt_fail(err, KT_E_REFUSED, NULL, "not confirmed; nothing was changed");
}

/* --- help --------------------------------------------------------------------------------------------------------- */

static const struct exit_status {
	kt_code code;
	const char *text;
} exits[] = {
	{KT_OK, "done; for a run: turned"},
	{KT_E_INTERNAL, "a fault of keyturn itself, or out of memory"},
	{KT_E_USAGE, "the command line is wrong"},
	{KT_E_INPUT, "a file that was given is malformed; the message names file, line and JSON path"},
	{KT_E_REFUSED, "a check said no; nothing was changed"},
	{KT_E_ROLLED_BACK, "the run failed, and everything is back on the old key"},
	{KT_E_HELD, "the run is held for a person"},
	{KT_E_HSM, "token, module, PIN or mechanism"},
	{KT_E_UNREACHABLE, "a node could not be asked"},
	{KT_E_AUDIT, "the journal cannot be written, or does not verify"},
	{KT_E_IO, "operating system: permission, missing file, full disk"},
	{KT_E_KEY, "a key is missing, of the wrong size or mode, or not the one that opens the data"},
	{KT_E_BUSY, "somebody else holds the lock; the message names them"},
	{KT_E_INTERRUPTED, "stopped by a signal; the run can be resumed"},
};

enum { EXITS = sizeof exits / sizeof exits[0] };

/* Does the verb say that it has this exit status? */
static bool has_exit(const kt_cli_verb *verb, kt_code code)
{
	if (!verb || code <= KT_E_USAGE)
		return true;
	for (const char *p = verb->exits; *p;) {
		char *end;
		if (strtol(p, &end, 10) == (long)code)
			return true;
		if (end == p)
			break;
		p = end;
	}
	return false;
}

static void help_options(const kt_cli_verb *verb, FILE *out)
{
	(void)fprintf(out, "\nOptions:\n");
	for (size_t i = 0; option_at(verb, i); i++) {
		const kt_cli_option *o = option_at(verb, i);
		char name[64];
		(void)snprintf(name, sizeof name, "--%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
		if (o->letter)
			(void)fprintf(out, "  -%c, %-26s %s\n", o->letter, name, o->help);
		else
			(void)fprintf(out, "      %-26s %s\n", name, o->help);
	}
}

static void help_exits(const kt_cli_verb *verb, FILE *out)
{
	(void)fprintf(out, "\nExit status:\n");
	for (size_t i = 0; i < EXITS; i++)
		if (has_exit(verb, exits[i].code))
			(void)fprintf(out, "  %2d  %s\n", (int)exits[i].code, exits[i].text);
}

/* The verbs with their summaries; of one group when `group` is not NULL. */
static void list_verbs(const char *group, FILE *out)
{
	int width = 0;
	for (const kt_cli_verb *v = kt_cli_verbs(); v->name; v++)
		if ((!group || in_group(v, group)) && (int)strlen(v->name) > width)
			width = (int)strlen(v->name);
	(void)fprintf(out, "Verbs:\n");
	for (const kt_cli_verb *v = kt_cli_verbs(); v->name; v++)
		if (!group || in_group(v, group))
			(void)fprintf(out, "  %-*s  %s\n", width, v->name, v->summary);
}

void kt_cli_help_group(const char *group, FILE *out)
{
	(void)fprintf(out, "Usage: keyturn %s VERB [options]\n\n", group);
	list_verbs(group, out);
	(void)fprintf(out, "\n`keyturn %s VERB --help` has more.\n", group);
}

void kt_cli_help(const kt_cli_verb *verb, FILE *out)
{
	if (verb) {
		(void)fprintf(out, "Usage: keyturn %s [options]%s%s\n\n%s.\n\n%s\n", verb->name, *verb->args ? " " : "",
			      verb->args, verb->summary, verb->text);
	} else {
		(void)fprintf(out,
			      "keyturn %s: turns the encryption key of a whole cluster safely.\n\n"
			      "Usage: keyturn [-c FILE] VERB [options]\n\n",
			      KT_VERSION);
		list_verbs(NULL, out);
		(void)fprintf(out,
			      "\n`keyturn VERB --help` has more. Start with `keyturn init`, then `enroll`, `doctor`, "
			      "`plan`, `run`.\n");
	}
	help_options(verb, out);
	help_exits(verb, out);
}

/* Text for roff: a backslash and a leading dot or quote mean something there. */
static void roff(const char *text, FILE *out)
{
	bool start = true;
	for (const char *p = text; *p; p++) {
		if (start && (*p == '.' || *p == '\''))
			(void)fputs("\\&", out);
		if (*p == '\\')
			(void)fputs("\\e", out);
		else if (*p == '-')
			(void)fputs("\\-", out);
		else
			(void)fputc(*p, out);
		start = *p == '\n';
	}
}

/* A verb's name in the name of its page: "hsm-list"; `dash` is how a hyphen is written there. */
static void page_name(const kt_cli_verb *verb, const char *dash, FILE *out)
{
	(void)fputs(verb ? dash : "", out);
	for (const char *p = verb ? verb->name : ""; *p; p++)
		(void)fprintf(out, *p == ' ' ? "%s" : "%.1s", *p == ' ' ? dash : p);
}

static void man_head(const kt_cli_verb *verb, FILE *out)
{
	(void)fprintf(out, ".\\\" SPDX-License-Identifier: Apache-2.0\n.TH KEYTURN");
	page_name(verb, "-", out);
	(void)fprintf(out, " 1 \"\" \"keyturn %s\"\n.SH NAME\nkeyturn", KT_VERSION);
	page_name(verb, "\\-", out);
	(void)fprintf(out, " \\- %s\n.SH SYNOPSIS\n.B keyturn\n",
		      verb ? verb->summary : "turn the encryption key of a whole cluster safely");
	if (verb)
		(void)fprintf(out, "%s [options] %s\n.SH DESCRIPTION\n", verb->name, verb->args);
	else
		(void)fprintf(out, "[\\-c FILE] VERB [options]\n.SH DESCRIPTION\n");
}

void kt_cli_man(const kt_cli_verb *verb, FILE *out)
{
	man_head(verb, out);
	roff(verb ? verb->text
		  : "Stops every node of a cluster, proves that nobody is connected, takes a backup and proves that "
		    "it\n"
		    "restores, makes the new key inside an HSM and wraps it there for each node, runs the "
		    "application's\n"
		    "rekey exactly once, and brings the nodes back with new env files.",
	     out);
	if (!verb) {
		(void)fprintf(out, "\n.SH VERBS\n");
		for (const kt_cli_verb *v = kt_cli_verbs(); v->name; v++)
			(void)fprintf(out, ".TP\n.B %s\n%s\n", v->name, v->summary);
	}
	(void)fprintf(out, "\n.SH OPTIONS\n");
	for (size_t i = 0; option_at(verb, i); i++) {
		const kt_cli_option *o = option_at(verb, i);
		(void)fprintf(out, ".TP\n.B \\-\\-");
		roff(o->name, out);
		(void)fprintf(out, "%s%s\n", o->arg ? " " : "", o->arg ? o->arg : "");
		roff(o->help, out);
		(void)fputc('\n', out);
	}
	(void)fprintf(out, ".SH EXIT STATUS\n");
	for (size_t i = 0; i < EXITS; i++)
		if (has_exit(verb, exits[i].code)) {
			(void)fprintf(out, ".TP\n.B %d\n", (int)exits[i].code);
			roff(exits[i].text, out);
			(void)fputc('\n', out);
		}
	(void)fprintf(out, ".SH SEE ALSO\nkeyturn(1), keyturn\\-agent(8), keyturn\\-store(1), keyturn\\-playbook(5), "
			   "keyturn\\-cluster.json(5)\n");
}

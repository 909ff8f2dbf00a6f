/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/envfile.h"
#include "agent/keyref.h"
#include "agent/output.h"
#include "agent/redact.h"
#include "base/file.h"

enum { ARGV_MAX = 256, ENV_MAX = 512, TIMEOUT_S = 600, TIMEOUT_S_MAX = 7 * 86400 };

static const char standard_path[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

struct kt_command {
	char *argv[ARGV_MAX + 1];
	kt_secret var[ENV_MAX]; /* NAME=value */
	size_t n_vars;
	const char *env[ENV_MAX + 1]; /* into var */
	char *cwd;
	kt_user user;
	kt_spawn_what what;
};

static kt_code copy_text(const char *s, char **out, kt_err *err)
{
	*out = strdup(s);
	return *out ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static kt_code take_argv(kt_command *c, const cJSON *command, kt_err *err)
{
	const cJSON *list;
	KT_TRY(kt_arg_strings(command, "argv", &list, err));
	int n = cJSON_GetArraySize(list);
	if (n < 1 || n > ARGV_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "\"argv\" must have 1 to %d strings", (int)ARGV_MAX);
	int i = 0;
	const cJSON *item;
	cJSON_ArrayForEach(item, list) KT_TRY(copy_text(item->valuestring, &c->argv[i++], err));
	if (c->argv[0][0] == '\0')
		return kt_fail(err, KT_E_INPUT, NULL, "\"argv[0]\" is empty");
	return KT_OK;
}

/* --- Environment ----------------------------------------------------------------------------------------------------
 */

static kt_secret *find_var(kt_command *c, const char *name)
{
	size_t n = strlen(name);
	for (size_t i = 0; i < c->n_vars; i++)
		if (c->var[i].len > n && memcmp(c->var[i].data, name, n) == 0 && c->var[i].data[n] == '=')
			return &c->var[i];
	return NULL;
}

static void unset_var(kt_command *c, const char *name)
{
	kt_secret *v = find_var(c, name);
	if (!v)
		return;
	kt_secret_free(v);
	*v = c->var[--c->n_vars];
	c->var[c->n_vars] = KT_SECRET_INIT;
}

static kt_code set_var(kt_command *c, const char *name, const void *value, size_t n, kt_err *err)
{
	unset_var(c, name);
	if (c->n_vars == ENV_MAX)
		return kt_fail(err, KT_E_INPUT, NULL, "more than %d variables", (int)ENV_MAX);
	kt_secret *v = &c->var[c->n_vars];
	size_t len = strlen(name);
	KT_TRY(kt_secret_new(v, len + 1 + n, err));
	memcpy(v->data, name, len);
	v->data[len] = '=';
	if (n)
		memcpy(v->data + len + 1, value, n);
	c->n_vars++;
	return KT_OK;
}

static kt_code base_env(kt_command *c, kt_err *err)
{
	const char *lang = getenv("LANG");
	if (!lang || !lang[0])
		lang = "C.UTF-8";
	KT_TRY(set_var(c, "PATH", standard_path, sizeof standard_path - 1, err));
	KT_TRY(set_var(c, "HOME", c->user.home, strlen(c->user.home), err));
	KT_TRY(set_var(c, "USER", c->user.name, strlen(c->user.name), err));
	KT_TRY(set_var(c, "LOGNAME", c->user.name, strlen(c->user.name), err));
	return set_var(c, "LANG", lang, strlen(lang), err);
}

static kt_code env_of_file(kt_command *c, const cJSON *command, kt_err *err)
{
	const char *path;
	kt_envfile *f;
	if (!cJSON_HasObjectItem(command, "env_file"))
		return KT_OK;
	KT_TRY(kt_arg_path(command, "env_file", &path, err));
	KT_TRY(kt_envfile_load(path, &f, err));
	kt_code rc = kt_redact_envfile(f, err);
	for (size_t i = 0; rc == KT_OK && i < kt_envfile_count(f); i++) {
		const kt_secret *v = kt_envfile_value(f, i);
		rc = set_var(c, kt_envfile_name(f, i), v->data, v->len, err);
	}
	kt_envfile_free(f);
	return rc;
}

static kt_code env_value(const kt_agent_ctx *ctx, kt_command *c, const cJSON *value, kt_err *err)
{
	if (!kt_envfile_name_ok(value->string))
		return kt_fail(err, KT_E_INPUT, NULL, "\"%.64s\" is no name of a variable", value->string);
	if (cJSON_IsString(value))
		return set_var(c, value->string, value->valuestring, strlen(value->valuestring), err);
	if (cJSON_IsNull(value)) {
		unset_var(c, value->string);
		return KT_OK;
	}
	kt_secret text;
	KT_TRY(kt_keyref_text(ctx, value, &text, err));
	kt_code rc = set_var(c, value->string, text.data, text.len, err);
	kt_secret_free(&text);
	return rc;
}

static kt_code env_of_command(const kt_agent_ctx *ctx, kt_command *c, const cJSON *command, kt_err *err)
{
	const cJSON *env;
	if (!cJSON_HasObjectItem(command, "env"))
		return KT_OK;
	KT_TRY(kt_json_object(command, "env", &env, err));
	const cJSON *value;
	cJSON_ArrayForEach(value, env)
	{
		kt_code rc = env_value(ctx, c, value, err);
		if (rc != KT_OK)
			return kt_err_prefix(err, rc, "env.%.64s", value->string);
	}
	return KT_OK;
}

static kt_code fill(const kt_agent_ctx *ctx, kt_command *c, const cJSON *command, kt_err *err)
{
	const char *user;
	const char *cwd = "/";
	int64_t timeout_s;
	KT_TRY(take_argv(c, command, err));
	KT_TRY(kt_json_opt_str(command, "user", NULL, &user, err));
	KT_TRY(kt_json_opt_int(command, "timeout_s", TIMEOUT_S, 1, TIMEOUT_S_MAX, &timeout_s, err));
	if (cJSON_HasObjectItem(command, "cwd"))
		KT_TRY(kt_arg_path(command, "cwd", &cwd, err));
	KT_TRY(copy_text(cwd, &c->cwd, err));
	KT_TRY(kt_user_find(user, &c->user, err));
	KT_TRY(base_env(c, err));
	KT_TRY(env_of_file(c, command, err));
	KT_TRY(env_of_command(ctx, c, command, err));
	for (size_t i = 0; i < c->n_vars; i++)
		c->env[i] = (const char *)c->var[i].data;
	c->what = (kt_spawn_what){.argv = (const char *const *)c->argv,
				  .env = c->env,
				  .cwd = c->cwd,
				  .user = user ? &c->user : NULL,
				  .timeout_ms = timeout_s * 1000};
	return KT_OK;
}

kt_code kt_command_prepare(const kt_agent_ctx *ctx, const cJSON *command, kt_command **out, kt_err *err)
{
	*out = NULL;
	if (!cJSON_IsObject(command))
		return kt_fail(err, KT_E_INPUT, NULL, "a command must be an object with \"argv\"");
	kt_command *c = calloc(1, sizeof *c);
	if (!c)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	kt_code rc = fill(ctx, c, command, err);
	if (rc == KT_OK)
		*out = c;
	else
		kt_command_free(c);
	return rc;
}

void kt_command_free(kt_command *c)
{
	if (!c)
		return;
	for (size_t i = 0; c->argv[i]; i++)
		free(c->argv[i]);
	for (size_t i = 0; i < c->n_vars; i++)
		kt_secret_free(&c->var[i]);
	kt_user_free(&c->user);
	free(c->cwd);
	free(c);
}

const kt_spawn_what *kt_command_what(const kt_command *c)
{
	return &c->what;
}

/* --- Running attached -----------------------------------------------------------------------------------------------
 */

typedef struct attached {
	kt_agent_ctx *ctx;
	kt_output output;
	int raw_fd;  /* where stdout goes as it is; 0: to `output` */
	bool broken; /* nothing more can be written there: what the command still prints is of no use */
} attached;

static kt_code on_output(void *arg, int stream, const uint8_t *bytes, size_t n, kt_err *err)
{
	attached *a = arg;
	if (stream == 1 && a->raw_fd) {
		kt_code rc = kt_file_write_all(a->raw_fd, bytes, n, "the command's output", err);
		a->broken = rc != KT_OK;
		return rc;
	}
	return kt_output_feed(&a->output, stream, bytes, n, err);
}

static bool on_stop(void *arg)
{
	const attached *a = arg;
	return a->broken || kt_agent_stopping(a->ctx);
}

static kt_code check_ending(const kt_command *c, const kt_spawn_end *end, kt_err *err)
{
	if (end->stopped)
		return kt_fail(err, KT_E_INTERRUPTED, "ask again",
			       "%.200s was ended: its coordinator is gone or was replaced", c->argv[0]);
	if (end->timed_out)
		return kt_fail(err, KT_E_IO, "see what it waits for, or raise timeout_s",
			       "%.200s had not ended after %lld s and was ended by us", c->argv[0],
			       (long long)(c->what.timeout_ms / 1000));
	return KT_OK;
}

static kt_code run_attached(kt_agent_ctx *ctx, const cJSON *command, kt_match *match, const kt_command_pipe *pipe,
			    kt_command_result *out, kt_err *err)
{
	kt_command *c;
	*out = (kt_command_result){0};
	KT_TRY(kt_command_prepare(ctx, command, &c, err));
	c->what.in_fd = pipe->in_fd;
	attached a = {.ctx = ctx,
		      .output = {.tail_max = KT_COMMAND_TAIL, .out_max = KT_COMMAND_STDOUT, .match = match, .fd = -1},
		      .raw_fd = pipe->out_fd};
	kt_spawn_hooks hooks = {.output = on_output, .stop = on_stop, .arg = &a};
	kt_code rc = kt_spawn(&c->what, &hooks, NULL, &out->end, err);
	if (rc == KT_OK)
		rc = kt_output_end(&a.output, err);
	if (rc == KT_OK)
		rc = check_ending(c, &out->end, err);
	out->tail = a.output.tail;
	out->out = a.output.out;
	out->out_cut = a.output.out_cut;
	a.output.tail = a.output.out = KT_BUF_INIT;
	kt_output_free(&a.output);
	kt_command_free(c);
	return rc;
}

kt_code kt_command_run(kt_agent_ctx *ctx, const cJSON *command, kt_match *match, kt_command_result *out, kt_err *err)
{
	const kt_command_pipe none = {0};
	return run_attached(ctx, command, match, &none, out, err);
}

kt_code kt_command_pipe_run(kt_agent_ctx *ctx, const cJSON *command, const kt_command_pipe *pipe, kt_err *err)
{
	kt_command_result r;
	kt_code rc = run_attached(ctx, command, NULL, pipe, &r, err);
	if (rc == KT_OK)
		rc = kt_expect_check(NULL, &r.end, NULL, kt_buf_cstr(&r.tail), err);
	kt_command_result_free(&r);
	return rc;
}

void kt_command_result_free(kt_command_result *r)
{
	if (!r)
		return;
	kt_buf_free(&r->tail);
	kt_buf_free(&r->out);
}

/* What to do about the first text of "hints" that was printed. */
static const char *remedy_for(const cJSON *expect, const char *tail)
{
	const cJSON *hints = expect ? cJSON_GetObjectItemCaseSensitive(expect, "hints") : NULL;
	for (const cJSON *h = hints ? hints->child : NULL; h; h = h->next)
		if (cJSON_IsString(h) && strstr(tail, h->string))
			return h->valuestring;
	return "read the command's output";
}

static kt_code differs(const cJSON *expect, const char *tail, kt_err *err, const char *what)
{
	char last[400];
	kt_text_last_lines(tail, last, sizeof last);
	return kt_fail(err, KT_E_REFUSED, remedy_for(expect, tail), "%s%s%s", what,
		       last[0] ? "; its last lines: " : "; it printed nothing", last);
}

kt_code kt_expect_check(const cJSON *expect, const kt_spawn_end *end, const kt_match *match, const char *tail,
			kt_err *err)
{
	int64_t code = 0;
	char what[200];
	if (expect)
		KT_TRY(kt_json_opt_int(expect, "exit", 0, 0, 255, &code, err));
	if (end->signal)
		(void)snprintf(what, sizeof what, "the command was ended by signal %d (%s)", end->signal,
			       strsignal(end->signal));
	else if (end->exit != code)
		(void)snprintf(what, sizeof what, "the command exited with %d, not %d", end->exit, (int)code);
	else if (match && kt_match_missing(match))
		(void)snprintf(what, sizeof what, "the command did not print \"%.100s\"", kt_match_missing(match));
	else if (match && kt_match_forbidden(match))
		(void)snprintf(what, sizeof what, "the command printed \"%.100s\"", kt_match_forbidden(match));
	else
		return KT_OK;
	return differs(expect, tail, err, what);
}

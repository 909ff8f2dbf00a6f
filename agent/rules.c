/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/rules.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef enum rule_kind { RULE_EXE, RULE_UNDER, RULE_MATCH } rule_kind;
static const char *const rule_names[] = {"exe", "under", "match"};

typedef struct rule {
	rule_kind kind;
	char *text; /* without a slash at its end */
	char *real; /* where links lead; NULL when it is not there */
	bool exists;
	dev_t dev;
	ino_t ino;
} rule;

struct kt_rules {
	rule *list;
	size_t n;
	bool paths; /* there is an exe or under rule */
	size_t blind;
	char first_blind[192];
};

static kt_code make_rule(const cJSON *element, size_t index, rule *out, kt_err *err)
{
	const cJSON *only = cJSON_IsObject(element) ? element->child : NULL;
	size_t kind = 0;
	while (only && kind < 3 && strcmp(only->string, rule_names[kind]) != 0)
		kind++;
	if (!only || only->next || kind == 3 || !cJSON_IsString(only) || !only->valuestring[0])
		return kt_fail(err, KT_E_INPUT, "give one of exe, under and match",
			       "processes[%zu] is not {\"exe\":path}, {\"under\":folder} or {\"match\":text}", index);
	if (kind != RULE_MATCH && only->valuestring[0] != '/')
		return kt_fail(err, KT_E_INPUT, "give an absolute path", "processes[%zu].%s is not an absolute path",
			       index, rule_names[kind]);
	struct stat st;
	*out = (rule){.kind = (rule_kind)kind, .text = strdup(only->valuestring)};
	if (!out->text)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (kind == RULE_MATCH)
		return KT_OK;
	for (size_t n = strlen(out->text); n > 1 && out->text[n - 1] == '/'; n--)
		out->text[n - 1] = '\0';
	out->real = realpath(out->text, NULL);
	out->exists = stat(out->text, &st) == 0;
	if (out->exists) {
		out->dev = st.st_dev;
		out->ino = st.st_ino;
	}
	return KT_OK;
}

kt_code kt_rules_new(const cJSON *array, kt_rules **out, kt_err *err)
{
	if (array && !cJSON_IsNull(array) && !cJSON_IsArray(array))
		return kt_fail(err, KT_E_INPUT, NULL, "processes is not an array");
	kt_rules *r = calloc(1, sizeof *r);
	size_t n = cJSON_IsArray(array) ? (size_t)cJSON_GetArraySize(array) : 0;
	if (r)
		r->list = calloc(n + 1, sizeof *r->list);
	if (!r || !r->list) {
		free(r);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	kt_code rc = KT_OK;
	const cJSON *element = n ? array->child : NULL;
	for (; rc == KT_OK && element; element = element->next) {
		rc = make_rule(element, r->n, &r->list[r->n], err);
		if (rc == KT_OK)
			r->paths = r->list[r->n++].kind != RULE_MATCH || r->paths;
		else
			free(r->list[r->n].text);
	}
	if (rc != KT_OK) {
		kt_rules_free(r);
		return rc;
	}
	*out = r;
	return KT_OK;
}

void kt_rules_free(kt_rules *r)
{
	if (!r)
		return;
	for (size_t i = 0; i < r->n; i++) {
		free(r->list[i].text);
		free(r->list[i].real);
	}
	free(r->list);
	free(r);
}

static bool is_below(const char *path, const char *folder)
{
	size_t n = folder ? strlen(folder) : 0;
	if (n == 1)
		return path[0] == '/';
	return n && strncmp(path, folder, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

static bool in_folder(const char *path, const rule *u)
{
	return is_below(path, u->text) || is_below(path, u->real);
}

/* By the file itself, whatever path leads to it there. */
static bool is_file(const kt_proc *p, const char *what, const rule *u)
{
	char path[128];
	struct stat st;
	(void)snprintf(path, sizeof path, "%s/%s", p->folder, what);
	return u->exists && stat(path, &st) == 0 && st.st_dev == u->dev && st.st_ino == u->ino;
}

static const char *next_arg(const kt_proc *p, const char *arg)
{
	const char *text = kt_buf_cstr(&p->args);
	const char *next = arg ? arg + strlen(arg) + 1 : text;
	return next < text + p->args.len ? next : NULL;
}

static const char *fits_exe(const kt_proc *p, const rule *u)
{
	const char *first = next_arg(p, NULL);
	if (strcmp(p->exe, u->text) == 0 || (u->real && strcmp(p->exe, u->real) == 0) || is_file(p, "exe", u))
		return "runs the executable";
	/* A script: the interpreter's arguments name it. */
	for (const char *arg = first; arg; arg = next_arg(p, arg))
		if (strcmp(arg, u->text) == 0)
			return "names the executable";
	return NULL;
}

static const char *fits_under(const kt_proc *p, const rule *u)
{
	if (in_folder(p->exe, u))
		return "its executable lies in the folder";
	if (in_folder(p->cwd, u) || is_file(p, "cwd", u))
		return "works in the folder";
	for (const char *arg = next_arg(p, NULL); arg; arg = next_arg(p, arg)) {
		const char *equals = strchr(arg, '=');
		if (in_folder(arg, u) || (equals && in_folder(equals + 1, u)))
			return "names a file in the folder";
	}
	return NULL;
}

static const char *fits_match(const kt_proc *p, const rule *u)
{
	char *line = malloc(p->args.len + 1);
	if (!line)
		return "may match (out of memory)";
	for (size_t i = 0; i < p->args.len; i++)
		line[i] = p->args.data[i] ? (char)p->args.data[i] : ' ';
	line[p->args.len] = '\0';
	bool fits = strstr(line, u->text) != NULL;
	free(line);
	return fits ? "matches the text" : NULL;
}

static const char *fits(const kt_proc *p, const rule *u)
{
	return u->kind == RULE_EXE ? fits_exe(p, u) : u->kind == RULE_UNDER ? fits_under(p, u) : fits_match(p, u);
}

static kt_code add(const kt_proc *p, const rule *u, const char *why, kt_findings *findings, kt_err *err)
{
	char who[160];
	kt_buf line = KT_BUF_INIT;
	(void)snprintf(who, sizeof who, "pid %d (%s)", (int)p->pid, p->user);
	kt_code rc = kt_procfs_cmdline(p, 160, &line, err);
	if (rc == KT_OK)
		rc = kt_findings_add(findings, err, KT_FINDING_PROCESS, who, "%s (%s %s)", kt_buf_cstr(&line), why,
				     u->text);
	kt_buf_free(&line);
	return rc;
}

kt_code kt_rules_look(kt_rules *r, const cJSON *users, const kt_proc *p, kt_findings *findings, kt_err *err)
{
	for (size_t i = 0; i < r->n; i++) {
		const char *why = fits(p, &r->list[i]);
		if (why && !kt_procfs_is_ancestor(p->pid))
			return add(p, &r->list[i], why, findings, err);
	}
	bool blind = r->paths && p->exe_unread && kt_procfs_blind_counts(users, p) && !kt_procfs_is_ancestor(p->pid);
	if (blind && r->blind++ == 0)
		(void)snprintf(r->first_blind, sizeof r->first_blind, "pid %d (%s), %s", (int)p->pid, p->user, p->name);
	return KT_OK;
}

kt_code kt_rules_end(kt_rules *r, kt_findings *findings, kt_err *err)
{
	if (r->blind == 0)
		return KT_OK;
	return kt_findings_add(findings, err, KT_FINDING_UNASKED, "processes of other users",
			       "the executables of %zu cannot be read (first: %s)", r->blind, r->first_blind);
}

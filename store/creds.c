/* SPDX-License-Identifier: Apache-2.0 */
#include "store/creds.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "store/config.h"

enum { CREDS_MAX = 64 * 1024 };

static char *trim(char *s)
{
	while (isspace((unsigned char)*s))
		s++;
	size_t n = strlen(s);
	while (n && isspace((unsigned char)s[n - 1]))
		s[--n] = '\0';
	return s;
}

/* The value without quotes or a comment; NULL when a quote is left open or something follows it. */
static char *unquote(char *v)
{
	if (*v == '"' || *v == '\'') {
		char *end = strchr(v + 1, *v);
		if (!end)
			return NULL;
		*end = '\0';
		char *rest = trim(end + 1);
		return *rest == '\0' || *rest == '#' ? v + 1 : NULL;
	}
	char *comment = strstr(v, " #");
	if (comment)
		*comment = '\0';
	return trim(v);
}

/* What a bare scalar may not begin with: YAML that is not flat. */
static bool nested(const char *v)
{
	return *v && strchr("[{|>&*!%@`", *v) != NULL;
}

typedef struct creds {
	char *dialect, *database; /* into the text */
} creds;

static kt_code take_line(creds *c, char *line, const char *path, int number, kt_err *err)
{
	bool indented = *line == ' ' || *line == '\t';
	char *text = trim(line);
	if (*text == '\0' || *text == '#' || strcmp(text, "---") == 0)
		return KT_OK;
	char *colon = strchr(text, ':');
	if (indented || !colon || colon == text || (colon[1] && !isspace((unsigned char)colon[1])))
		return kt_fail(err, KT_E_INPUT, "write one `key: value` a line",
			       "%s:%d: not a line of the form `key: value`", path, number);
	*colon = '\0';
	char *raw = trim(colon + 1);
	char *value = nested(raw) ? NULL : unquote(raw);
	if (!value)
		return kt_fail(err, KT_E_INPUT, NULL, "%s:%d: the value of %.60s is not a plain text", path, number,
			       text);
	char **where = strcmp(text, "dialect") == 0 ? &c->dialect : strcmp(text, "database") == 0 ? &c->database : NULL;
	if (where && *where)
		return kt_fail(err, KT_E_INPUT, NULL, "%s:%d: %s is given twice", path, number, text);
	if (where)
		*where = value;
	return KT_OK;
}

static kt_code judge(const creds *c, const char *path, char **database, kt_err *err)
{
	if (!c->dialect || !*c->dialect)
		return kt_fail(err, KT_E_INPUT, "add `dialect: sqlite`", "%s: the dialect is missing", path);
	if (strcmp(c->dialect, "sqlite") != 0)
		return kt_fail(err, KT_E_INPUT, "supported is: sqlite", "%s: the dialect \"%.40s\" is not supported",
			       path, c->dialect);
	if (!c->database || !*c->database)
		return kt_fail(err, KT_E_INPUT, "add `database: PATH`", "%s: the database is missing", path);
	const char *slash = strrchr(path, '/');
	char *folder = slash ? strndup(path, (size_t)(slash - path) + (slash == path)) : NULL;
	kt_code rc = kt_store_absolute(folder, c->database, database, err);
	free(folder);
	return rc;
}

static kt_code parse(char *text, const char *path, char **database, kt_err *err)
{
	creds c = {0};
	int number = 0;
	for (char *line = text; line;) {
		char *next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		KT_TRY(take_line(&c, line, path, ++number, err));
		line = next;
	}
	return judge(&c, path, database, err);
}

kt_code kt_creds_database(const char *path, char **database, kt_err *err)
{
	kt_buf text = {.max = CREDS_MAX};
	*database = NULL;
	kt_code rc = kt_file_read(path, &text, err);
	if (rc == KT_OK && text.len && memchr(text.data, '\0', text.len))
		rc = kt_fail(err, KT_E_INPUT, NULL, "%s: not a text file", path);
	if (rc == KT_OK && text.len == 0)
		rc = kt_fail(err, KT_E_INPUT, NULL, "%s: the file is empty", path);
	if (rc == KT_OK)
		rc = parse((char *)text.data, path, database, err);
	kt_buf_free(&text);
	return rc;
}

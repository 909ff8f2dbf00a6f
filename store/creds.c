/* SPDX-License-Identifier: Apache-2.0 */
#include "store/creds.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "store/config.h"

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

typedef enum field { DIALECT, HOST, USERNAME, PASSWORD, DATABASE, PORT, SSL, SOCKET, SSL_CA, FIELDS } field;

static const char *const keys[FIELDS] = {"dialect", "host", "username", "password", "database",
					 "port",    "ssl",  "socket",   "ssl_ca"};

/* Values, in the text; NULL where a key is not given. */
typedef struct creds {
	char *value[FIELDS];
	const char *path;
} creds;

static char **find(creds *c, const char *word)
{
	for (size_t i = 0; i < FIELDS; i++)
		if (strcmp(keys[i], word) == 0)
			return &c->value[i];
	return NULL;
}

static kt_code take_line(creds *c, char *line, int number, kt_err *err)
{
	bool indented = *line == ' ' || *line == '\t';
	char *text = trim(line);
	if (*text == '\0' || *text == '#' || strcmp(text, "---") == 0)
		return KT_OK;
	char *colon = strchr(text, ':');
	if (indented || !colon || colon == text || (colon[1] && !isspace((unsigned char)colon[1])))
		return kt_fail(err, KT_E_INPUT, "write one `key: value` a line",
			       "%s:%d: not a line of the form `key: value`", c->path, number);
	*colon = '\0';
	char **where = find(c, text);
	char *raw = trim(colon + 1);
	char *value = nested(raw) ? NULL : unquote(raw);
	if (!value && where)
		return kt_fail(err, KT_E_INPUT, "put the value in quotes", "%s:%d: the value of %s is not a plain text",
			       c->path, number, text);
	if (!value)
		return kt_fail(err, KT_E_INPUT, "write one `key: value` a line", "%s:%d: the value is not a plain text",
			       c->path, number);
	if (where && *where)
		return kt_fail(err, KT_E_INPUT, NULL, "%s:%d: %s is given twice", c->path, number, text);
	if (where)
		*where = value;
	return KT_OK;
}

static kt_code wrong(const creds *c, field f, const char *remedy, kt_err *err)
{
	return kt_fail(err, KT_E_INPUT, remedy, "%s: %s: %s", c->path, keys[f],
		       c->value[f] ? "not a value that it can have" : "it is missing");
}

static kt_code copy(const creds *c, field f, char **out, kt_err *err)
{
	*out = c->value[f] && c->value[f][0] ? strdup(c->value[f]) : NULL;
	return *out || !c->value[f] || !c->value[f][0] ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

/* A path, relative to the credentials file. */
static kt_code copy_path(const creds *c, field f, char **out, kt_err *err)
{
	const char *slash = strrchr(c->path, '/');
	*out = NULL;
	if (!c->value[f] || !c->value[f][0])
		return KT_OK;
	char *folder = slash ? strndup(c->path, (size_t)(slash - c->path) + (slash == c->path)) : NULL;
	kt_code rc = slash && !folder ? kt_fail(err, KT_E_INTERNAL, NULL, "out of memory")
				      : kt_store_absolute(folder, c->value[f], out, err);
	free(folder);
	return rc;
}

static kt_code take_port(const creds *c, kt_db_address *out, kt_err *err)
{
	out->port = KT_DB_PORT;
	if (!c->value[PORT])
		return KT_OK;
	char *end;
	long port = strtol(c->value[PORT], &end, 10);
	if (!c->value[PORT][0] || *end || port < 1 || port > 65535)
		return wrong(c, PORT, "a number from 1 to 65535", err);
	out->port = (int)port;
	return KT_OK;
}

static kt_code take_ssl(const creds *c, kt_db_address *out, kt_err *err)
{
	const char *v = c->value[SSL];
	bool yes = v && (strcmp(v, "true") == 0 || strcmp(v, "yes") == 0);
	if (v && !yes && strcmp(v, "false") != 0 && strcmp(v, "no") != 0)
		return wrong(c, SSL, "true or false", err);
	out->ssl = yes || (c->value[SSL_CA] && c->value[SSL_CA][0]);
	return KT_OK;
}

static kt_code take_server(const creds *c, kt_db_address *out, kt_err *err)
{
	out->server = true;
	if (!c->value[DATABASE] || !c->value[DATABASE][0])
		return wrong(c, DATABASE, "add `database: NAME`", err);
	if (!c->value[USERNAME] || !c->value[USERNAME][0])
		return wrong(c, USERNAME, "add `username: NAME`", err);
	if ((!c->value[HOST] || !c->value[HOST][0]) && (!c->value[SOCKET] || !c->value[SOCKET][0]))
		return wrong(c, HOST, "add `host: NAME`, or `socket: PATH` for a server on this machine", err);
	KT_TRY(copy(c, HOST, &out->host, err));
	KT_TRY(copy(c, USERNAME, &out->user, err));
	KT_TRY(copy(c, DATABASE, &out->database, err));
	KT_TRY(copy_path(c, SOCKET, &out->socket, err));
	KT_TRY(copy_path(c, SSL_CA, &out->ssl_ca, err));
	KT_TRY(take_port(c, out, err));
	KT_TRY(take_ssl(c, out, err));
	const char *password = c->value[PASSWORD];
	if (password && password[0])
		KT_TRY(kt_secret_copy(&out->password, password, strlen(password), err));
	return kt_db_address_name(out, err);
}

static kt_code judge(const creds *c, kt_db_address *out, kt_err *err)
{
	const char *dialect = c->value[DIALECT];
	if (!dialect || !*dialect)
		return kt_fail(err, KT_E_INPUT, "add `dialect: mysql` or `dialect: sqlite`",
			       "%s: the dialect is missing", c->path);
	if (strcmp(dialect, "mysql") == 0 || strcmp(dialect, "mariadb") == 0)
		return take_server(c, out, err);
	if (strcmp(dialect, "sqlite") != 0)
		return kt_fail(err, KT_E_INPUT, "supported are: mysql, mariadb, sqlite",
			       "%s: the dialect \"%.40s\" is not supported", c->path, dialect);
	if (!c->value[DATABASE] || !c->value[DATABASE][0])
		return kt_fail(err, KT_E_INPUT, "add `database: PATH`", "%s: the database is missing", c->path);
	return copy_path(c, DATABASE, &out->name, err);
}

kt_code kt_creds_parse(char *text, size_t len, const char *path, kt_db_address *out, kt_err *err)
{
	creds c = {.path = path};
	int number = 0;
	*out = (kt_db_address){0};
	if (len == 0)
		return kt_fail(err, KT_E_INPUT, NULL, "%s: the file is empty", path);
	if (memchr(text, '\0', len))
		return kt_fail(err, KT_E_INPUT, NULL, "%s: not a text file", path);
	kt_code rc = KT_OK;
	for (char *line = text; rc == KT_OK && line;) {
		char *next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		rc = take_line(&c, line, ++number, err);
		line = next;
	}
	if (rc == KT_OK)
		rc = judge(&c, out, err);
	if (rc != KT_OK)
		kt_db_address_free(out);
	return rc;
}

kt_code kt_creds_load(const char *path, kt_db_address *out, kt_err *err)
{
	kt_secret text = KT_SECRET_INIT;
	bool exposed;
	*out = (kt_db_address){0};
	KT_TRY(kt_db_address_read_file(path, &text, &exposed, err));
	kt_code rc = kt_creds_parse((char *)text.data, text.len, path, out, err);
	kt_secret_free(&text);
	if (rc == KT_OK && exposed && out->password.len) {
		kt_db_address_free(out);
		rc = kt_db_address_exposed(path, err);
	}
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "store/address.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/creds.h"

static kt_code no_memory(kt_err *err)
{
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

void kt_db_address_free(kt_db_address *a)
{
	free(a->name);
	free(a->host);
	free(a->user);
	free(a->database);
	free(a->socket);
	free(a->ssl_ca);
	kt_secret_free(&a->password);
	*a = (kt_db_address){0};
}

static const char *after_scheme(const char *text)
{
	static const char *const schemes[] = {"mariadb://", "mysql://"};
	for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++)
		if (strncmp(text, schemes[i], strlen(schemes[i])) == 0)
			return text + strlen(schemes[i]);
	return NULL;
}

bool kt_db_address_is_url(const char *text)
{
	return after_scheme(text) || strncmp(text, "sqlite:", 7) == 0;
}

kt_code kt_db_address_name(kt_db_address *a, kt_err *err)
{
	free(a->name);
	const bool six = a->host && strchr(a->host, ':'); /* RFC 3986 §3.2.2 */
	int n = a->socket ? asprintf(&a->name, "mariadb://%s@localhost/%s?socket=%s", a->user, a->database, a->socket)
			  : asprintf(&a->name, "mariadb://%s@%s%s%s:%d/%s", a->user, six ? "[" : "", a->host,
				     six ? "]" : "", a->port, a->database);
	if (n >= 0)
		return KT_OK;
	a->name = NULL;
	return no_memory(err);
}

/* Nothing of a URL that is wrong is printed: it may hold a password. */
static kt_code bad_url(const char *what, kt_err *err)
{
	return kt_fail(err, KT_E_INPUT, "mariadb://USER@HOST:PORT/DATABASE?password_file=PATH",
		       "the URL of the database: %s", what);
}

/* The text up to `stop`, not empty. */
static kt_code piece(const char **at, size_t n, const char *what, char **out, kt_err *err)
{
	if (n == 0)
		return bad_url(what, err);
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)(*at)[i] <= 0x20 || strchr("%'\"\\`\x7f", (*at)[i]))
			return bad_url("there is a character in it that cannot stand there", err);
	*out = strndup(*at, n);
	*at += n;
	return *out ? KT_OK : no_memory(err);
}

static kt_code take_host(const char **at, kt_db_address *a, kt_err *err)
{
	bool bracket = **at == '[';
	*at += bracket;
	KT_TRY(piece(at, strcspn(*at, bracket ? "]" : ":/?"), "the host is missing", &a->host, err));
	if (bracket && *(*at)++ != ']')
		return bad_url("a bracket is left open", err);
	if (bracket && a->host[strspn(a->host, "0123456789abcdefABCDEF:.")])
		return bad_url("in brackets stands an IPv6 address", err);
	a->port = KT_DB_PORT;
	if (**at != ':')
		return KT_OK;
	char *end;
	long port = strtol(*at + 1, &end, 10);
	if (end == *at + 1 || port < 1 || port > 65535)
		return bad_url("the port is not a number from 1 to 65535", err);
	a->port = (int)port;
	*at = end;
	return KT_OK;
}

static kt_code take_option(const char *name, size_t len, const char **at, kt_db_address *a, char **password_file,
			   kt_err *err)
{
	static const char *const names[] = {"password_file", "socket", "ssl_ca", "ssl"};
	char *ssl = NULL;
	char **const where[] = {password_file, &a->socket, &a->ssl_ca, &ssl};
	size_t i = 0;
	while (i < 4 && (strlen(names[i]) != len || strncmp(names[i], name, len) != 0))
		i++;
	if (i == 4)
		return bad_url("known options are password_file, socket, ssl and ssl_ca", err);
	if (*where[i])
		return bad_url("an option is given twice", err);
	KT_TRY(piece(at, strcspn(*at, "&"), "an option has no value", where[i], err));
	bool good = i < 3 ? *where[i][0] == '/' : strcmp(ssl, "true") == 0 || strcmp(ssl, "false") == 0;
	a->ssl = a->ssl || i == 2 || (ssl && strcmp(ssl, "true") == 0);
	free(ssl);
	return good ? KT_OK : bad_url(i < 3 ? "an absolute path is expected" : "ssl is true or false", err);
}

static kt_code take_options(const char *at, kt_db_address *a, char **password_file, kt_err *err)
{
	while (*at) {
		const char *name = ++at; /* past ? or & */
		size_t n = strcspn(name, "=&");
		if (name[n] != '=')
			return bad_url("an option has no value", err);
		at = name + n + 1;
		KT_TRY(take_option(name, n, &at, a, password_file, err));
	}
	return KT_OK;
}

static kt_code parse_server(const char *at, kt_db_address *a, char **password_file, kt_err *err)
{
	const char *sign = strchr(at, '@');
	if (!sign)
		return bad_url("the user is missing", err);
	if (memchr(at, ':', (size_t)(sign - at)))
		return kt_fail(err, KT_E_INPUT,
			       "name a file with it: ?password_file=PATH, or use a credentials file (-d)",
			       "the URL of the database has a password in it");
	KT_TRY(piece(&at, (size_t)(sign - at), "the user is missing", &a->user, err));
	at++;
	KT_TRY(take_host(&at, a, err));
	if (*at++ != '/')
		return bad_url("the name of the database is missing", err);
	KT_TRY(piece(&at, strcspn(at, "?"), "the name of the database is missing", &a->database, err));
	KT_TRY(take_options(at, a, password_file, err));
	return kt_db_address_name(a, err);
}

static kt_code parse_path(const char *url, kt_db_address *a, kt_err *err)
{
	const char *path = strncmp(url, "sqlite:", 7) == 0 ? url + 7 : url;
	if (!path[0])
		return bad_url("it is empty", err);
	a->name = strdup(path);
	return a->name ? KT_OK : no_memory(err);
}

kt_code kt_db_address_parse(const char *url, kt_db_address *out, char **password_file, kt_err *err)
{
	const char *server = after_scheme(url);
	*out = (kt_db_address){.server = server != NULL};
	*password_file = NULL;
	kt_code rc = server ? parse_server(server, out, password_file, err) : parse_path(url, out, err);
	if (rc == KT_OK)
		return KT_OK;
	kt_db_address_free(out);
	free(*password_file);
	*password_file = NULL;
	return rc;
}

kt_code kt_db_address_read_file(const char *path, kt_secret *text, bool *exposed, kt_err *err)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return kt_fail_errno(err, errno, NULL, "%s", path);
	kt_code rc = fstat(fd, &st) == 0 ? KT_OK : kt_fail_errno(err, errno, NULL, "%s", path);
	*exposed = rc == KT_OK && (st.st_mode & S_IROTH);
	if (rc == KT_OK)
		rc = kt_secret_read_fd(text, fd, KT_CREDS_MAX, path, err);
	(void)close(fd);
	return rc;
}

kt_code kt_db_address_exposed(const char *path, kt_err *err)
{
	return kt_fail(err, KT_E_KEY, "chmod 0600, or 0400, the file", "%s: everybody can read the password in it",
		       path);
}

static kt_code read_password(const char *path, kt_secret *out, kt_err *err)
{
	kt_secret text = KT_SECRET_INIT;
	bool exposed;
	KT_TRY(kt_db_address_read_file(path, &text, &exposed, err));
	size_t n = strcspn((const char *)text.data, "\r\n");
	kt_code rc = exposed ? kt_db_address_exposed(path, err)
		     : n     ? kt_secret_copy(out, text.data, n, err)
			     : kt_fail(err, KT_E_INPUT, NULL, "%s: there is no password in its first line", path);
	kt_secret_free(&text);
	return rc;
}

kt_code kt_db_address_load(kt_db_place place, kt_db_address *out, kt_err *err)
{
	char *password_file;
	if (place.creds)
		return kt_creds_load(place.creds, out, err);
	KT_TRY(kt_db_address_parse(place.text, out, &password_file, err));
	kt_code rc = password_file ? read_password(password_file, &out->password, err) : KT_OK;
	free(password_file);
	if (rc != KT_OK)
		kt_db_address_free(out);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "store/config.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "store/address.h"

static const char *const members[] = {
	"database", "internal_db_creds", "node", "listen", "heartbeat_seconds", "live_window_seconds", "cache", "log",
	"pid"};

static kt_code no_memory(kt_err *err)
{
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

void kt_store_config_free(kt_store_config *cfg)
{
	if (!cfg)
		return;
	free(cfg->file);
	free(cfg->database);
	free(cfg->creds);
	free(cfg->node);
	free(cfg->host);
	free(cfg->cache);
	free(cfg->log);
	free(cfg->pid);
	*cfg = (kt_store_config){0};
}

kt_code kt_store_absolute(const char *folder, const char *path, char **out, kt_err *err)
{
	char cwd[PATH_MAX];
	*out = NULL;
	if (path[0] != '/' && !folder && !getcwd(cwd, sizeof cwd))
		return kt_fail_errno(err, errno, NULL, "the working folder");
	if (path[0] == '/')
		*out = strdup(path);
	else if (asprintf(out, "%s/%s", folder ? folder : cwd, path) < 0)
		*out = NULL;
	return *out ? KT_OK : no_memory(err);
}

/* The folder of a path, without its last part; "." when there is none. */
static char *folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
}

/* Where the shell found a program that was called without a slash; NULL when nowhere. */
static char *find_in_path(const char *program)
{
	const char *path = getenv("PATH");
	for (const char *p = path ? path : ""; *p;) {
		size_t n = strcspn(p, ":");
		char *full = NULL;
		if (asprintf(&full, "%.*s/%s", (int)n, n ? p : ".", program) < 0)
			return NULL;
		if (access(full, X_OK) == 0)
			return full;
		free(full);
		p += n + (p[n] == ':');
	}
	return NULL;
}

/* store.json beside the program; NULL when that cannot be told. */
static char *beside_program(const char *program)
{
	if (!program || !program[0])
		return NULL;
	char *called = strchr(program, '/') ? strdup(program) : find_in_path(program);
	char *folder = called ? folder_of(called) : NULL;
	char *out = NULL;
	if (folder && asprintf(&out, "%s/store.json", folder) < 0)
		out = NULL;
	free(folder);
	free(called);
	return out;
}

/* The path with its folder resolved, so that it reads the same however the program was called. Takes over *path. */
static kt_code canonical(char **path, kt_err *err)
{
	char *slash = strrchr(*path, '/');
	char *folder = folder_of(*path);
	char *resolved = folder ? realpath(folder, NULL) : NULL;
	char *out = NULL;
	if (resolved && slash && asprintf(&out, "%s%s", strcmp(resolved, "/") == 0 ? "" : resolved, slash) < 0)
		out = NULL;
	kt_code rc = out ? KT_OK : kt_fail_errno(err, errno, NULL, "the configuration %s", *path);
	free(resolved);
	free(folder);
	free(*path);
	*path = out;
	return rc;
}

/* The configuration's path; *out stays NULL when there is none and `optional`. */
static kt_code find(const kt_store_where *where, bool optional, char **out, kt_err *err)
{
	*out = NULL;
	const char *named = where->config ? where->config : getenv("KEYTURN_STORE_CONFIG");
	if (named && named[0]) {
		KT_TRY(kt_store_absolute(NULL, named, out, err));
		return canonical(out, err);
	}
	char *beside = beside_program(where->program);
	const char *found = beside && access(beside, F_OK) == 0 ? beside
			    : access("store.json", F_OK) == 0   ? "store.json"
								: NULL;
	kt_code rc = KT_OK;
	if (found)
		rc = kt_store_absolute(NULL, found, out, err);
	else if (!optional)
		rc = kt_fail(err, KT_E_IO, "write one, or name it with --config or KEYTURN_STORE_CONFIG",
			     "there is no configuration: looked for %s and for store.json in the working folder",
			     beside ? beside : "store.json beside the program");
	free(beside);
	return rc == KT_OK && *out ? canonical(out, err) : rc;
}

static kt_code check_members(const kt_json_doc *doc, kt_err *err)
{
	if (!cJSON_IsObject(doc->root))
		return kt_json_doc_fail(doc, "$", err, NULL, "an object is expected");
	for (const cJSON *m = doc->root->child; m; m = m->next) {
		bool known = false;
		for (size_t i = 0; i < sizeof members / sizeof members[0]; i++)
			known = known || strcmp(m->string, members[i]) == 0;
		char path[160];
		(void)snprintf(path, sizeof path, "$.%.120s", m->string);
		if (!known)
			return kt_json_doc_fail(doc, path, err,
						"known are database, internal_db_creds, node, listen, "
						"heartbeat_seconds, live_window_seconds, cache, log and pid",
						"not a setting of the store");
	}
	return KT_OK;
}

/* An error of base/json.h about a member of the top object, with the file and line added. */
static kt_code located(const kt_json_doc *doc, const char *name, kt_code rc, kt_err *err)
{
	if (rc != KT_E_INPUT || !err)
		return rc;
	char why[KT_ERR_MSG], path[64];
	(void)snprintf(why, sizeof why, "%s", err->msg);
	(void)snprintf(path, sizeof path, "$.%s", name);
	return kt_json_doc_fail(doc, path, err, NULL, "%s", why);
}

static kt_code take_path(const kt_json_doc *doc, const char *folder, const char *name, const char *fallback, char **out,
			 kt_err *err)
{
	const char *text;
	KT_TRY(located(doc, name, kt_json_opt_str(doc->root, name, fallback, &text, err), err));
	if (!text || !text[0]) {
		char path[64];
		(void)snprintf(path, sizeof path, "$.%s", name);
		return kt_json_doc_fail(doc, text ? path : "$", err, NULL, "%s: a path is expected", name);
	}
	return kt_store_absolute(folder, text, out, err);
}

/* One of database (a path or a URL) and internal_db_creds. */
static kt_code take_database(const kt_json_doc *doc, const char *folder, kt_store_config *cfg, kt_err *err)
{
	const char *text, *creds;
	KT_TRY(located(doc, "database", kt_json_opt_str(doc->root, "database", NULL, &text, err), err));
	KT_TRY(located(doc, "internal_db_creds", kt_json_opt_str(doc->root, "internal_db_creds", NULL, &creds, err),
		       err));
	if (text && creds)
		return kt_json_doc_fail(doc, "$.internal_db_creds", err, NULL,
					"database and internal_db_creds exclude each other");
	if (creds)
		return take_path(doc, folder, "internal_db_creds", NULL, &cfg->creds, err);
	if (!text || !kt_db_address_is_url(text))
		return take_path(doc, folder, "database", NULL, &cfg->database, err);
	cfg->database = strdup(text);
	return cfg->database ? KT_OK : no_memory(err);
}

static kt_code take_node(const kt_json_doc *doc, kt_store_config *cfg, kt_err *err)
{
	char host[HOST_NAME_MAX + 1] = {0};
	const char *text;
	if (gethostname(host, sizeof host - 1) != 0)
		return kt_fail_errno(err, errno, NULL, "the name of this host");
	KT_TRY(located(doc, "node", kt_json_opt_str(doc->root, "node", host, &text, err), err));
	size_t n = strlen(text);
	bool good = n >= 1 && n <= 255;
	for (size_t i = 0; i < n; i++)
		good = good && (unsigned char)text[i] > 0x20 && text[i] != 0x7f;
	if (!good)
		return kt_json_doc_fail(doc, "$.node", err, NULL,
					"the name of a node has 1 to 255 characters, no space or control character");
	cfg->node = strdup(text);
	return cfg->node ? KT_OK : no_memory(err);
}

static kt_code take_listen(const kt_json_doc *doc, kt_store_config *cfg, kt_err *err)
{
	const char *text;
	KT_TRY(located(doc, "listen", kt_json_opt_str(doc->root, "listen", "127.0.0.1:9999", &text, err), err));
	const char *colon = strrchr(text, ':');
	char *end = NULL;
	long port = colon && colon[1] ? strtol(colon + 1, &end, 10) : -1;
	if (!colon || colon == text || !end || *end || port < 0 || port > 65535)
		return kt_json_doc_fail(doc, "$.listen", err, "for instance 127.0.0.1:9999",
					"an address and a port are expected");
	bool bracket = text[0] == '[' && colon[-1] == ']';
	cfg->host = bracket ? strndup(text + 1, (size_t)(colon - text) - 2) : strndup(text, (size_t)(colon - text));
	cfg->port = (int)port;
	return cfg->host ? KT_OK : no_memory(err);
}

static kt_code take_times(const kt_json_doc *doc, kt_store_config *cfg, kt_err *err)
{
	int64_t beat, window;
	KT_TRY(located(doc, "heartbeat_seconds",
		       kt_json_opt_int(doc->root, "heartbeat_seconds", 5, 1, 3600, &beat, err), err));
	KT_TRY(located(doc, "live_window_seconds",
		       kt_json_opt_int(doc->root, "live_window_seconds", 60, 1, 86400, &window, err), err));
	if (window <= beat)
		return kt_json_doc_fail(
			doc, "$.live_window_seconds", err, "give the window at least twice the heartbeat",
			"the window (%d s) is not longer than the heartbeat (%d s): a live node would look dead",
			(int)window, (int)beat);
	cfg->heartbeat_seconds = (int)beat;
	cfg->live_window_seconds = (int)window;
	return KT_OK;
}

static kt_code take_all(const kt_json_doc *doc, const char *folder, kt_store_config *cfg, kt_err *err)
{
	KT_TRY(check_members(doc, err));
	KT_TRY(take_database(doc, folder, cfg, err));
	KT_TRY(take_path(doc, folder, "cache", ".cache", &cfg->cache, err));
	KT_TRY(take_path(doc, folder, "log", "log/looker.log", &cfg->log, err));
	KT_TRY(take_path(doc, folder, "pid", "looker.pid", &cfg->pid, err));
	KT_TRY(take_node(doc, cfg, err));
	KT_TRY(take_listen(doc, cfg, err));
	return take_times(doc, cfg, err);
}

static kt_code load_file(kt_store_config *cfg, kt_err *err)
{
	kt_json_doc doc = {0};
	char *folder = folder_of(cfg->file);
	if (!folder)
		return no_memory(err);
	kt_code rc = kt_json_doc_load(&doc, cfg->file, err);
	if (rc == KT_OK)
		rc = take_all(&doc, folder, cfg, err);
	kt_json_doc_free(&doc);
	free(folder);
	return rc;
}

/* --database alone: what is needed to look at a restored backup. */
static kt_code bare(kt_store_config *cfg, kt_err *err)
{
	cfg->file = strdup("");
	cfg->node = strdup("-");
	cfg->host = strdup("127.0.0.1");
	cfg->heartbeat_seconds = 5;
	cfg->live_window_seconds = 60;
	return cfg->file && cfg->node && cfg->host ? KT_OK : no_memory(err);
}

/* Another database than the configured one, by path or URL. */
static kt_code override_database(kt_store_config *cfg, const char *text, kt_err *err)
{
	free(cfg->database);
	free(cfg->creds);
	free(cfg->cache);
	free(cfg->log);
	cfg->database = cfg->creds = cfg->cache = cfg->log = NULL;
	if (!kt_db_address_is_url(text))
		return kt_store_absolute(NULL, text, &cfg->database, err);
	cfg->database = strdup(text);
	return cfg->database ? KT_OK : no_memory(err);
}

static kt_code override_creds(kt_store_config *cfg, const char *path, kt_err *err)
{
	free(cfg->database);
	free(cfg->creds);
	cfg->database = cfg->creds = NULL;
	return kt_store_absolute(NULL, path, &cfg->creds, err);
}

kt_code kt_store_config_load(const kt_store_where *where, kt_store_config *out, kt_err *err)
{
	*out = (kt_store_config){0};
	kt_code rc = find(where, where->creds || where->database, &out->file, err);
	if (rc == KT_OK)
		rc = out->file ? load_file(out, err) : bare(out, err);
	if (rc == KT_OK && where->database)
		rc = override_database(out, where->database, err);
	if (rc == KT_OK && where->creds)
		rc = override_creds(out, where->creds, err);
	if (rc != KT_OK)
		kt_store_config_free(out);
	return rc;
}

kt_db_place kt_store_place(const kt_store_config *cfg)
{
	return (kt_db_place){.text = cfg->database, .creds = cfg->creds};
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/inventory/inventory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/nearest.h"
#include "base/schema.h"
#include "orchestrator/inventory/range.h"
#include "orchestrator/inventory/vars.h"
#include "playbooks/embedded.h"
#include "wire/message.h"

#define DEFAULT_HOST "${node}"
#define DEFAULT_AGENT_PATH "/usr/local/lib/keyturn"
#define DEFAULT_AGENT_STATE "/var/lib/keyturn"
#define DEFAULT_ESCROW_KEY "keyturn-escrow"

enum { PATH_TEXT = 160 };

/* What is at work while a file is read. */
typedef struct loader {
	kt_cluster *c;
	const char *home; /* NULL: not known */
	size_t entry;     /* the entry of "nodes" being expanded */
	const cJSON *spec;
	size_t room; /* nodes allocated */
} loader;

static kt_code no_memory(kt_err *err)
{
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

/* Put the place in front of an error that passes by. */
static kt_code at(const kt_cluster *c, const char *path, kt_code rc, kt_err *err)
{
	if (rc == KT_OK)
		return rc;
	return kt_err_prefix(err, rc, "%s:%zu: %s", c->doc.name, kt_json_doc_line(&c->doc, path), path);
}

static kt_code copy(const char *text, char **out, kt_err *err)
{
	*out = strdup(text);
	return *out ? KT_OK : no_memory(err);
}

static const cJSON *member(const cJSON *obj, const char *name)
{
	return obj ? cJSON_GetObjectItemCaseSensitive(obj, name) : NULL;
}

/* The text of $.section.name (or $.name when section is NULL), or `fallback`. The schema has seen to its type. */
static const char *text_of(const kt_cluster *c, const char *section, const char *name, const char *fallback)
{
	const cJSON *v = member(section ? member(c->doc.root, section) : c->doc.root, name);
	return cJSON_IsString(v) ? v->valuestring : fallback;
}

/* The same for a whole number. */
static int64_t number_of(const kt_cluster *c, const char *section, const char *name, int64_t fallback)
{
	const cJSON *v = member(member(c->doc.root, section), name);
	return cJSON_IsNumber(v) ? (int64_t)v->valuedouble : fallback;
}

/* --- Paths -----------------------------------------------------------------------------------------------------------
 */

static kt_code join(const char *folder, const char *rest, char **out, kt_err *err)
{
	size_t n = strlen(folder);
	while (n > 1 && folder[n - 1] == '/')
		n--;
	if (asprintf(out, "%.*s%s%s", (int)n, folder, n && folder[n - 1] == '/' ? "" : "/", rest) >= 0)
		return KT_OK;
	*out = NULL;
	return no_memory(err);
}

/* An absolute path out of what the file says: `~/` is the home folder, anything relative starts at the file's folder.
 */
static kt_code absolute(const loader *l, const char *path, char **out, kt_err *err)
{
	if (path[0] == '/')
		return copy(path, out, err);
	if (path[0] != '~')
		return join(l->c->folder, path, out, err);
	if (path[1] != '/')
		return kt_fail(err, KT_E_INPUT, "write the whole path", "\"%s\": only ~/ (your own home) is understood",
			       path);
	if (!l->home || l->home[0] != '/')
		return kt_fail(err, KT_E_INPUT, "write the whole path, or set HOME",
			       "\"%s\": the home folder is not known", path);
	return join(l->home, path + 2, out, err);
}

/* A path on a node: nothing there could make it absolute for us. */
static kt_code check_remote_path(const char *path, kt_err *err)
{
	if (path[0] == '/')
		return KT_OK;
	return kt_fail(err, KT_E_INPUT, "write the whole path", "\"%s\": a path on a node must begin with /", path);
}

/* What goes to ssh as one word: printable, and never taken for an option. */
static kt_code check_word(const char *what, const char *word, kt_err *err)
{
	bool ok = word[0] && word[0] != '-' && strlen(word) <= 255;
	for (const char *p = word; *p; p++)
		ok = ok && (unsigned char)*p > ' ' && *p != 0x7f && !strchr("\"'\\`$;&|<>(){}*?!#", *p);
	return ok ? KT_OK : kt_fail(err, KT_E_INPUT, NULL, "\"%.80s\" cannot be a %s", word, what);
}

/* --- Nodes -----------------------------------------------------------------------------------------------------------
 */

static kt_code grow(loader *l, kt_err *err)
{
	if (l->c->nodes_count < l->room)
		return KT_OK;
	size_t room = l->room ? l->room * 2 : 16;
	kt_node *nodes = realloc(l->c->nodes, room * sizeof *nodes);
	if (!nodes)
		return no_memory(err);
	l->c->nodes = nodes;
	l->room = room;
	return KT_OK;
}

static kt_code add_node(void *cookie, const char *name, kt_err *err)
{
	loader *l = cookie;
	KT_TRY(kt_name_check("node", name, err));
	KT_TRY(grow(l, err));
	kt_node n = {.entry = l->entry, .spec = l->spec};
	KT_TRY(copy(name, &n.name, err));
	l->c->nodes[l->c->nodes_count++] = n;
	return KT_OK;
}

static int by_name(const void *a, const void *b)
{
	const kt_node *x = *(const kt_node *const *)a;
	const kt_node *y = *(const kt_node *const *)b;
	int order = strcmp(x->name, y->name);
	return order ? order : (x > y) - (x < y);
}

static kt_code refuse_twice(const kt_cluster *c, kt_err *err)
{
	const kt_node **sorted = malloc(c->nodes_count * sizeof *sorted);
	if (!sorted)
		return no_memory(err);
	for (size_t i = 0; i < c->nodes_count; i++)
		sorted[i] = &c->nodes[i];
	qsort((void *)sorted, c->nodes_count, sizeof *sorted, by_name);
	kt_code rc = KT_OK;
	for (size_t i = 1; rc == KT_OK && i < c->nodes_count; i++) {
		if (strcmp(sorted[i - 1]->name, sorted[i]->name) != 0)
			continue;
		char path[PATH_TEXT];
		(void)snprintf(path, sizeof path, "$.nodes[%zu].name", sorted[i]->entry);
		rc = kt_json_doc_fail(&c->doc, path, err, "name every node once",
				      "node \"%s\" stands already in $.nodes[%zu]", sorted[i]->name,
				      sorted[i - 1]->entry);
	}
	free((void *)sorted);
	return rc;
}

static kt_code check_groups(const kt_cluster *c, const cJSON *spec, size_t entry, kt_err *err)
{
	const cJSON *known = member(c->doc.root, "groups");
	const cJSON *groups = member(spec, "groups");
	size_t i = 0;
	for (const cJSON *g = groups ? groups->child : NULL; g; g = g->next, i++) {
		if (member(known, g->valuestring))
			continue;
		kt_nearest near = KT_NEAREST(g->valuestring);
		for (const cJSON *k = known ? known->child : NULL; k; k = k->next)
			kt_nearest_offer(&near, k->string);
		char path[PATH_TEXT];
		(void)snprintf(path, sizeof path, "$.nodes[%zu].groups[%zu]", entry, i);
		if (near.best)
			return kt_json_doc_fail(&c->doc, path, err, NULL, "no group \"%s\"; did you mean \"%s\"?",
						g->valuestring, near.best);
		return kt_json_doc_fail(&c->doc, path, err, "define it in \"groups\"", "no group \"%s\"",
					g->valuestring);
	}
	return KT_OK;
}

static kt_code read_nodes(loader *l, kt_err *err)
{
	char path[PATH_TEXT];
	for (l->spec = member(l->c->doc.root, "nodes")->child; l->spec; l->spec = l->spec->next, l->entry++) {
		size_t left = KT_NODES_MAX - l->c->nodes_count;
		(void)snprintf(path, sizeof path, "$.nodes[%zu].name", l->entry);
		if (!left)
			return kt_json_doc_fail(&l->c->doc, path, err, NULL, "more than %d nodes", (int)KT_NODES_MAX);
		kt_code rc = kt_range_expand(member(l->spec, "name")->valuestring, left, add_node, l, err);
		KT_TRY(at(l->c, path, rc, err));
		KT_TRY(check_groups(l->c, l->spec, l->entry, err));
	}
	return refuse_twice(l->c, err);
}

const kt_node *kt_cluster_node(const kt_cluster *c, const char *name)
{
	for (size_t i = 0; i < c->nodes_count; i++)
		if (strcmp(c->nodes[i].name, name) == 0)
			return &c->nodes[i];
	return NULL;
}

/* --- What a node gets out of templates ------------------------------------------------------------------------------
 */

/* The text of a template for one node; NULL stays NULL. `where` is for messages. */
static kt_code node_text(const loader *l, const kt_node *n, const char *text, const char *where, char **out,
			 kt_err *err)
{
	if (!text)
		return KT_OK;
	kt_vars vars = {.cluster = l->c, .node = n};
	kt_scope scope = {.cookie = &vars, .find = kt_vars_find, .offer = kt_vars_offer};
	kt_buf made = KT_BUF_INIT;
	kt_code rc = kt_template_text(text, &scope, &made, err);
	if (rc == KT_OK)
		rc = copy(kt_buf_cstr(&made), out, err);
	kt_buf_free(&made);
	return rc == KT_OK ? rc : at(l->c, where, kt_err_prefix(err, rc, "node \"%s\"", n->name), err);
}

static kt_code node_path(const loader *l, const kt_node *n, const char *text, const char *where, char **out,
			 kt_err *err)
{
	char *made = NULL;
	KT_TRY(node_text(l, n, text, where, &made, err));
	kt_code rc = made ? at(l->c, where, absolute(l, made, out, err), err) : KT_OK;
	free(made);
	return rc;
}

/* --- Transport keys --------------------------------------------------------------------------------------------------
 */

/* The nearest "transport_key": the node's own, the first of its groups' that has one, the file's; NULL: none. `where`
 * gets its place. */
static const cJSON *find_transport_key(const kt_cluster *c, const kt_node *n, char where[PATH_TEXT])
{
	static const char name[] = "transport_key";
	const cJSON *groups = member(n->spec, "groups");
	const cJSON *found = member(n->spec, name);
	(void)snprintf(where, PATH_TEXT, "$.nodes[%zu].%s", n->entry, name);
	for (const cJSON *g = groups ? groups->child : NULL; g && !found; g = g->next) {
		found = member(member(member(c->doc.root, "groups"), g->valuestring), name);
		(void)snprintf(where, PATH_TEXT, "$.groups.%.64s.%s", g->valuestring, name);
	}
	if (found)
		return found;
	(void)snprintf(where, PATH_TEXT, "$.%s", name);
	return member(c->doc.root, name);
}

kt_code kt_node_token_check(const char *uri, kt_err *err)
{
	const char *source = strstr(uri, "pin-source=");
	if (strcasestr(uri, "pin-value"))
		return kt_fail(err, KT_E_INPUT,
			       "use pin-source=file:/path, a file on the node with mode 0400, and change the PIN if "
			       "others could read this file",
			       "holds a PIN (pin-value), which must not stand in a file like this");
	if (source && strncmp(source + strlen("pin-source="), "file:/", 6) != 0)
		return kt_fail(err, KT_E_INPUT, "use pin-source=file:/path, a file on the node with mode 0400",
			       "the PIN of a node's token can only come from a file on the node");
	return KT_OK;
}

static kt_code check_transport_uri(const char *uri, kt_err *err)
{
	if (strncmp(uri, "pkcs11:", 7) != 0)
		return kt_fail(err, KT_E_INPUT, "write \"file\", or name a token on the node: pkcs11:token=LABEL",
			       "is neither \"file\" nor a pkcs11: URI (RFC 7512)");
	return kt_node_token_check(uri, err);
}

static kt_code read_environment(const loader *l, kt_node *n, const cJSON *from, const char *where, kt_err *err)
{
	n->environment = from ? cJSON_CreateObject() : NULL;
	if (from && !n->environment)
		return no_memory(err);
	for (const cJSON *v = from ? from->child : NULL; v; v = v->next) {
		char *text = NULL;
		KT_TRY(node_text(l, n, v->valuestring, where, &text, err));
		kt_code rc = kt_json_add_str(n->environment, v->string, text, err);
		free(text);
		KT_TRY(rc);
	}
	return KT_OK;
}

static kt_code read_transport_key(const loader *l, kt_node *n, kt_err *err)
{
	char where[PATH_TEXT];
	const cJSON *found = find_transport_key(l->c, n, where);
	const cJSON *uri = cJSON_IsObject(found) ? member(found, "uri") : found;
	if (!uri || strcmp(uri->valuestring, "file") == 0)
		return KT_OK;
	KT_TRY(node_text(l, n, uri->valuestring, where, &n->transport_key, err));
	KT_TRY(at(l->c, where, check_transport_uri(n->transport_key, err), err));
	return read_environment(l, n, cJSON_IsObject(found) ? member(found, "environment") : NULL, where, err);
}

kt_code kt_node_transport_at(const kt_node *node, kt_buf *out, kt_err *err)
{
	const char *uri = node->transport_key ? node->transport_key : "file";
	return kt_buf_append(out, uri, strcspn(uri, "?"), err);
}

static kt_code finish_node(loader *l, kt_node *n, kt_err *err)
{
	const kt_cluster *c = l->c;
	const cJSON *host = member(n->spec, "host");
	const cJSON *port = member(n->spec, "port");
	char where[PATH_TEXT];
	(void)snprintf(where, sizeof where, "$.nodes[%zu]%s", n->entry, host ? ".host" : "");
	KT_TRY(node_text(l, n, host ? host->valuestring : DEFAULT_HOST, where, &n->host, err));
	KT_TRY(at(c, where, check_word("host", n->host, err), err));
	n->port = port ? (uint16_t)port->valuedouble : 0;
	KT_TRY(node_text(l, n, text_of(c, "ssh", "user", NULL), "$.ssh.user", &n->user, err));
	if (n->user)
		KT_TRY(at(c, "$.ssh.user", check_word("user", n->user, err), err));
	KT_TRY(node_path(l, n, text_of(c, "ssh", "identity", NULL), "$.ssh.identity", &n->identity, err));
	KT_TRY(node_text(l, n, text_of(c, "agent", "path", DEFAULT_AGENT_PATH), "$.agent.path", &n->agent_path, err));
	KT_TRY(at(c, "$.agent.path", check_remote_path(n->agent_path, err), err));
	KT_TRY(node_text(l, n, text_of(c, "agent", "state", DEFAULT_AGENT_STATE), "$.agent.state", &n->agent_state,
			 err));
	KT_TRY(at(c, "$.agent.state", check_remote_path(n->agent_state, err), err));
	return read_transport_key(l, n, err);
}

/* --- The rest of the file --------------------------------------------------------------------------------------------
 */

static kt_code read_role(const kt_cluster *c, const char *role, const char *path, size_t *out, kt_err *err)
{
	const char *name = text_of(c, "roles", role, NULL);
	*out = 0;
	if (!name)
		return KT_OK;
	const kt_node *node = kt_cluster_node(c, name);
	if (node) {
		*out = (size_t)(node - c->nodes);
		return KT_OK;
	}
	kt_nearest near = KT_NEAREST(name);
	for (size_t i = 0; i < c->nodes_count; i++)
		kt_nearest_offer(&near, c->nodes[i].name);
	if (near.best)
		return kt_json_doc_fail(&c->doc, path, err, NULL, "no node \"%s\"; did you mean \"%s\"?", name,
					near.best);
	return kt_json_doc_fail(&c->doc, path, err, "name a node of \"nodes\", its range expanded", "no node \"%s\"",
				name);
}

static kt_code read_custodian(loader *l, const cJSON *spec, size_t i, kt_err *err)
{
	kt_cluster *c = l->c;
	char where[PATH_TEXT];
	const char *name = member(spec, "name")->valuestring;
	(void)snprintf(where, sizeof where, "$.custodians[%zu].name", i);
	KT_TRY(at(c, where, kt_name_check("custodian", name, err), err));
	for (size_t k = 0; k < i; k++)
		if (strcmp(c->custodians[k].name, name) == 0)
			return kt_json_doc_fail(&c->doc, where, err, "name every custodian once",
						"custodian \"%s\" stands already in $.custodians[%zu]", name, k);
	c->custodians_count++;
	KT_TRY(copy(name, &c->custodians[i].name, err));
	(void)snprintf(where, sizeof where, "$.custodians[%zu].public_key", i);
	return at(c, where, absolute(l, member(spec, "public_key")->valuestring, &c->custodians[i].public_key, err),
		  err);
}

static kt_code read_custodians(loader *l, kt_err *err)
{
	const cJSON *all = member(l->c->doc.root, "custodians");
	size_t i = 0;
	if (!all || !all->child)
		return KT_OK;
	l->c->custodians = calloc((size_t)cJSON_GetArraySize(all), sizeof *l->c->custodians);
	if (!l->c->custodians)
		return no_memory(err);
	for (const cJSON *spec = all->child; spec; spec = spec->next)
		KT_TRY(read_custodian(l, spec, i++, err));
	return KT_OK;
}

/* The URI is never copied into an error: a careless one holds a PIN. */
static kt_code read_hsm(kt_cluster *c, kt_err *err)
{
	const char *uri = text_of(c, "hsm", "uri", "");
	if (strncmp(uri, "pkcs11:", 7) != 0)
		return kt_json_doc_fail(&c->doc, "$.hsm.uri", err, "name the token: pkcs11:token=LABEL;serial=SERIAL",
					"is not a pkcs11: URI (RFC 7512)");
	if (strcasestr(uri, "pin-value"))
		return kt_json_doc_fail(&c->doc, "$.hsm.uri", err,
					"use pin-source=file:/path (mode 0400) or pin-source=env:NAME instead, and "
					"change the PIN if others could read this file",
					"holds a PIN (pin-value), which must not stand in a file like this");
	c->hsm.call_timeout_s = number_of(c, "hsm", "call_timeout_s", 60);
	c->hsm.sessions = number_of(c, "hsm", "sessions", 2);
	KT_TRY(copy(uri, &c->hsm.uri, err));
	return copy(text_of(c, "hsm", "escrow_key", DEFAULT_ESCROW_KEY), &c->hsm.escrow_key, err);
}

static kt_code any_ref(void *cookie, const kt_template_ref *ref, kt_err *err)
{
	(void)cookie;
	(void)ref;
	(void)err;
	return KT_OK;
}

/* Templates must at least be well formed, used or not. */
static kt_code check_var(void *cookie, const cJSON *value, const char *path, kt_err *err)
{
	return at(cookie, path, kt_template_each(value, any_ref, NULL, err), err);
}

static kt_code read_key(kt_cluster *c, kt_err *err)
{
	const cJSON *key = member(c->doc.root, "key");
	for (const cJSON *k = key->child; k; k = k->next) {
		char path[PATH_TEXT];
		(void)snprintf(path, sizeof path, "$.key.%s", k->string);
		KT_TRY(check_var(c, k, path, err));
	}
	c->key_from = text_of(c, "key", "from", NULL);
	c->key_to = text_of(c, "key", "to", NULL);
	return kt_json_opt_int(key, "cryptoperiod_days", 0, 1, 36500, &c->cryptoperiod_days, err);
}

static kt_code read_paths(loader *l, kt_err *err)
{
	kt_cluster *c = l->c;
	const char *playbook = text_of(c, NULL, "playbook", "");
	size_t n = strlen(playbook);
	bool is_path = n > 5 && strcmp(playbook + n - 5, ".json") == 0;
	KT_TRY(copy(text_of(c, NULL, "cluster", ""), &c->name, err));
	KT_TRY(at(c, "$.playbook",
		  is_path ? absolute(l, playbook, &c->playbook, err) : copy(playbook, &c->playbook, err), err));
	char state[KT_CLUSTER_NAME_MAX + 8];
	(void)snprintf(state, sizeof state, "%s.state", c->name);
	KT_TRY(at(c, "$.state", absolute(l, text_of(c, NULL, "state", state), &c->state, err), err));
	const char *config = text_of(c, "ssh", "config", NULL);
	if (config)
		KT_TRY(at(c, "$.ssh.config", absolute(l, config, &c->ssh.config, err), err));
	c->ssh.connect_timeout_s = number_of(c, "ssh", "connect_timeout_s", 20);
	c->agent_sudo = !cJSON_IsFalse(member(member(c->doc.root, "agent"), "sudo"));
	return KT_OK;
}

static kt_code check_schema(const kt_json_doc *doc, kt_err *err)
{
	const kt_embedded *file = kt_embedded_files;
	while (file->name && strcmp(file->name, "cluster.schema.json") != 0)
		file++;
	cJSON *schema = NULL;
	KT_TRY(kt_json_parse("cluster.schema.json", file->data, file->len, &schema, err));
	kt_code rc = kt_schema_check(schema, doc, err);
	cJSON_Delete(schema);
	return rc;
}

/* c->doc and c->folder are there. */
static kt_code read_cluster(loader *l, kt_err *err)
{
	kt_cluster *c = l->c;
	KT_TRY(check_schema(&c->doc, err));
	KT_TRY(read_paths(l, err));
	KT_TRY(read_hsm(c, err));
	KT_TRY(read_key(c, err));
	KT_TRY(read_custodians(l, err));
	KT_TRY(kt_cluster_each_var(c, check_var, c, err));
	KT_TRY(read_nodes(l, err));
	KT_TRY(read_role(c, "rekey", "$.roles.rekey", &c->rekey, err));
	KT_TRY(read_role(c, "canary", "$.roles.canary", &c->canary, err));
	for (size_t i = 0; i < c->nodes_count; i++)
		KT_TRY(finish_node(l, &c->nodes[i], err));
	return KT_OK;
}

static kt_code read_or_free(kt_cluster *c, const char *absolute_path, const char *home, kt_err *err)
{
	loader l = {.c = c, .home = home ? home : getenv("HOME")};
	const char *slash = strrchr(absolute_path, '/');
	size_t n = slash && slash != absolute_path ? (size_t)(slash - absolute_path) : 1;
	c->folder = strndup(absolute_path, n);
	kt_code rc = c->folder ? read_cluster(&l, err) : no_memory(err);
	if (rc != KT_OK)
		kt_cluster_free(c);
	return rc;
}

kt_code kt_cluster_parse(const char *path, const void *text, size_t len, const char *home, kt_cluster *out, kt_err *err)
{
	*out = (kt_cluster){0};
	KT_TRY(kt_json_doc_parse(&out->doc, path, text, len, err));
	return read_or_free(out, path, home, err);
}

kt_code kt_cluster_load(const char *path, kt_cluster *out, kt_err *err)
{
	*out = (kt_cluster){0};
	KT_TRY(kt_json_doc_load(&out->doc, path, err));
	char *real = realpath(path, NULL);
	kt_code rc = real ? read_or_free(out, real, NULL, err) : kt_fail_errno(err, errno, NULL, "%s", path);
	if (!real)
		kt_cluster_free(out);
	free(real);
	return rc;
}

void kt_cluster_free(kt_cluster *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->nodes_count; i++) {
		kt_node *n = &c->nodes[i];
		cJSON_Delete(n->environment);
		free(n->transport_key);
		free(n->agent_state);
		free(n->agent_path);
		free(n->identity);
		free(n->user);
		free(n->host);
		free(n->name);
	}
	free(c->nodes);
	for (size_t i = 0; i < c->custodians_count; i++) {
		free(c->custodians[i].public_key);
		free(c->custodians[i].name);
	}
	free(c->custodians);
	free(c->hsm.escrow_key);
	free(c->hsm.uri);
	free(c->ssh.config);
	free(c->state);
	free(c->playbook);
	free(c->name);
	free(c->folder);
	kt_json_doc_free(&c->doc);
	*c = (kt_cluster){0};
}

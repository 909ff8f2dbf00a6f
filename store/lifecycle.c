/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs start, stop and status. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "store/args.h"
#include "store/daemon.h"
#include "store/node.h"
#include "store/pidfile.h"
#include "store/serve.h"
#include "store/session.h"

enum { NOT_RUNNING = 3 }; /* exit code of status, as init scripts have it (LSB) */

static void ready(void *arg, const char *text)
{
	kt_daemon *d = arg;
	if (d->child)
		kt_daemon_report(d, text, NULL);
	else
		KT_IGNORE(kt_store_print(NULL, "%s\n", text)); /* a reader that is gone does not stop the node */
}

static kt_code serve(const kt_store_config *cfg, kt_daemon *d, kt_err *err)
{
	kt_code rc = kt_secret_setup(err);
	if (rc == KT_OK)
		rc = kt_serve(cfg, ready, d, err);
	if (rc != KT_OK && d->child)
		kt_daemon_report(d, NULL, err);
	return rc;
}

kt_code kt_verb_start(const kt_store_args *args, const kt_store_config *cfg, int *exit_code, kt_err *err)
{
	kt_daemon d = {.fd = -1};
	char text[KT_DAEMON_TEXT] = "";
	(void)exit_code;
	if (!args->foreground)
		KT_TRY(kt_daemon_fork(&d, text, err));
	if (args->foreground || d.child)
		return serve(cfg, &d, err);
	return kt_store_print(err, "%s\n", text);
}

/* ---- stop ---- */

typedef struct row_of {
	const char *name;
	bool found;
	int64_t pid, heartbeat_ms;
} row_of;

static kt_code see_row(void *arg, const kt_db_node *node, kt_err *err)
{
	row_of *r = arg;
	(void)err;
	if (strcmp(node->name, r->name) != 0)
		return KT_OK;
	r->found = true;
	r->pid = node->pid;
	r->heartbeat_ms = node->heartbeat_ms;
	return KT_OK;
}

/* The row of this node, when there is a database. `gone`: the process that was stopped; its row is removed if it is
 * still there (0: none). */
static kt_code tidy_row(const kt_store_config *cfg, int64_t gone, row_of *row, kt_err *err)
{
	kt_db *db = NULL;
	bool yes = false;
	*row = (row_of){.name = cfg->node};
	kt_code rc = kt_db_open(kt_store_place(cfg), gone ? KT_DB_WRITE : KT_DB_LOOK, KT_SESSION_BUSY_MS, &db, err);
	if (rc == KT_OK)
		rc = kt_db_initialized(db, &yes, err);
	if (rc == KT_OK && yes)
		rc = kt_db_node_each(db, see_row, row, err);
	if (rc == KT_OK && row->found && gone && row->pid == gone) {
		rc = kt_db_node_remove(db, cfg->node, gone, err);
		row->found = false;
	}
	kt_db_close(db);
	return rc;
}

static kt_code print_stopped(const kt_store_args *args, const kt_store_config *cfg, int64_t pid, const row_of *row,
			     kt_err *err)
{
	int64_t age = kt_clock_wall_ms() - row->heartbeat_ms;
	int64_t left = (int64_t)cfg->live_window_seconds * 1000 - age;
	if (args->json) {
		cJSON *o = cJSON_CreateObject();
		kt_code rc = o ? kt_json_add_bool(o, "was_running", pid != 0, err)
			       : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
		if (rc == KT_OK)
			rc = kt_json_add_bool(o, "registered", row->found, err);
		if (rc == KT_OK)
			return kt_store_print_json(o, err);
		cJSON_Delete(o);
		return rc;
	}
	if (pid)
		KT_TRY(kt_store_print(err, "node %s (pid %lld) is stopped and deregistered\n", cfg->node,
				      (long long)pid));
	else
		KT_TRY(kt_store_print(err, "node %s is not running\n", cfg->node));
	if (row->found && left > 0)
		return kt_store_print(err, "it ended without a clean stop and counts as live for another %lld s\n",
				      (long long)(left + 999) / 1000);
	return KT_OK;
}

kt_code kt_verb_stop(const kt_store_args *args, const kt_store_config *cfg, int *exit_code, kt_err *err)
{
	pid_t pid;
	row_of row = {.name = cfg->node};
	kt_err ignored = KT_ERR_INIT;
	(void)exit_code;
	KT_TRY(kt_pidfile_stop(cfg->pid, (int)args->timeout_s * 1000, &pid, err));
	kt_code rc = tidy_row(cfg, pid, &row, pid ? err : &ignored);
	if (rc != KT_OK && pid)
		return kt_err_prefix(err, rc, "the node is stopped, but whether it is deregistered is not known");
	return print_stopped(args, cfg, pid, &row, err);
}

/* ---- status ---- */

typedef struct overview {
	const kt_store_config *cfg;
	pid_t pid;
	char *database; /* its name, once it could be looked into */
	bool initialized;
	int64_t epoch, now_ms;
	kt_kek_info kek;
	bool legacy;    /* there are items in the legacy form, or a migration has not ended: no kek here */
	bool in_shards; /* a rekey in shards has not ended */
	kt_db_rekey rekey;
	cJSON *nodes;
} overview;

static kt_code fill_node(const overview *o, cJSON *n, const kt_db_node *node, kt_err *err)
{
	KT_TRY(kt_json_add_str(n, "name", node->name, err));
	KT_TRY(kt_json_add_str(n, "host", node->host, err));
	KT_TRY(kt_json_add_int(n, "pid", node->pid, err));
	KT_TRY(kt_json_add_str(n, "address", node->address, err));
	KT_TRY(kt_json_add_int(n, "started_ms", node->started_ms, err));
	KT_TRY(kt_json_add_int(n, "age_ms", o->now_ms - node->heartbeat_ms, err));
	KT_TRY(kt_json_add_bool(n, "live", kt_node_live(node, o->now_ms, o->cfg->live_window_seconds), err));
	return kt_json_add_bool(n, "this", strcmp(node->name, o->cfg->node) == 0, err);
}

static kt_code see_node(void *arg, const kt_db_node *node, kt_err *err)
{
	overview *o = arg;
	cJSON *n = cJSON_CreateObject();
	if (!n || !cJSON_AddItemToArray(o->nodes, n))
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	return fill_node(o, n, node, err);
}

/* While a rekey in shards is under way the old KEK is still the one of the store. */
static kt_code read_turning(overview *o, kt_db *db, kt_buf *record, kt_err *err)
{
	kt_buf_free(&o->rekey.record);
	KT_TRY(kt_db_epoch(db, &o->epoch, err));
	KT_TRY(kt_db_kek_get(db, record, err));
	return kt_kek_inspect(record->data, record->len, &o->kek, err);
}

static kt_code read_database(overview *o, kt_db *db, kt_err *err)
{
	kt_buf record = KT_BUF_INIT;
	KT_TRY(kt_db_begin(db, false, err));
	kt_code rc = kt_db_initialized(db, &o->initialized, err);
	if (rc == KT_OK && o->initialized)
		rc = kt_db_rekey_get(db, &o->rekey, &o->in_shards, err);
	if (rc == KT_OK && o->initialized)
		rc = kt_db_legacy_get(db, NULL, &o->legacy, err);
	if (rc == KT_OK && o->in_shards)
		rc = read_turning(o, db, &record, err);
	else if (rc == KT_OK && o->legacy)
		rc = kt_db_epoch(db, &o->epoch, err);
	else if (rc == KT_OK && o->initialized)
		rc = kt_session_read_kek(db, &record, &o->kek, &o->epoch, err);
	if (rc == KT_OK && o->initialized)
		rc = kt_db_node_each(db, see_node, o, err);
	kt_db_rollback(db);
	kt_buf_free(&record);
	return rc;
}

/* A database that does not exist yet is an answer, not a failure. */
static kt_code look(overview *o, kt_err *err)
{
	kt_db *db = NULL;
	if (o->cfg->pid)
		KT_TRY(kt_pidfile_owner(o->cfg->pid, &o->pid, err));
	o->now_ms = kt_clock_wall_ms();
	bool absent = false;
	KT_TRY(kt_db_absent(kt_store_place(o->cfg), &absent, err));
	if (absent)
		return KT_OK;
	KT_TRY(kt_db_open(kt_store_place(o->cfg), KT_DB_LOOK, KT_SESSION_BUSY_MS, &db, err));
	kt_code rc = read_database(o, db, err);
	o->database = strdup(kt_db_name(db));
	kt_db_close(db);
	return rc;
}

static const char *name_of(const overview *o)
{
	return o->database ? o->database : o->cfg->database ? o->cfg->database : o->cfg->creds;
}

static kt_code add_kek(cJSON *j, const overview *o, kt_err *err)
{
	if (!o->initialized || o->legacy)
		return kt_json_add(j, "kek", cJSON_CreateNull(), err);
	cJSON *k = cJSON_CreateObject();
	KT_TRY(kt_json_add(j, "kek", k, err));
	KT_TRY(kt_json_add_str(k, "id", o->kek.id, err));
	KT_TRY(kt_json_add_int(k, "generation", o->kek.generation, err));
	KT_TRY(kt_json_add_str(k, "kcv", o->kek.kcv, err));
	return kt_json_add_str(k, "cmk_kcv", o->kek.cmk_kcv, err);
}

static kt_code add_rekey(cJSON *j, const overview *o, kt_err *err)
{
	if (!o->in_shards)
		return KT_OK;
	cJSON *r = cJSON_CreateObject();
	KT_TRY(kt_json_add(j, "rekey", r, err));
	KT_TRY(kt_json_add_str(r, "depth", o->rekey.depth, err));
	KT_TRY(kt_json_add_int(r, "ranges", o->rekey.ranges, err));
	KT_TRY(kt_json_add_int(r, "done", o->rekey.done, err));
	return kt_json_add_int(r, "items", o->rekey.items, err);
}

static kt_code fill_status(cJSON *j, const overview *o, kt_err *err)
{
	KT_TRY(kt_json_add_bool(j, "running", o->pid != 0, err));
	KT_TRY(kt_json_add(j, "pid", o->pid ? cJSON_CreateNumber((double)o->pid) : cJSON_CreateNull(), err));
	KT_TRY(kt_json_add_str(j, "node", o->cfg->node, err));
	KT_TRY(kt_json_add_str(j, "database", name_of(o), err));
	KT_TRY(kt_json_add_bool(j, "initialized", o->initialized, err));
	KT_TRY(kt_json_add_int(j, "epoch", o->epoch, err));
	KT_TRY(kt_json_add_int(j, "live_window_seconds", o->cfg->live_window_seconds, err));
	KT_TRY(kt_json_add_bool(j, "legacy", o->legacy, err));
	KT_TRY(add_rekey(j, o, err));
	return add_kek(j, o, err);
}

/* Takes over o->nodes. */
static kt_code print_status_json(overview *o, kt_err *err)
{
	cJSON *j = cJSON_CreateObject();
	kt_code rc = j ? fill_status(j, o, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK) {
		rc = kt_json_add(j, "nodes", o->nodes, err);
		o->nodes = NULL;
	}
	if (rc == KT_OK)
		return kt_store_print_json(j, err);
	cJSON_Delete(j);
	return rc;
}

static kt_code print_key(const overview *o, kt_err *err)
{
	if (o->legacy)
		return kt_store_print(
			err,
			"database %s: epoch %lld, legacy form (AES-128-CBC) until `migrate_encryption` has ended\n",
			name_of(o), (long long)o->epoch);
	return kt_store_print(err, "database %s: epoch %lld, KEK %s, generation %u, master key KCV %s\n", name_of(o),
			      (long long)o->epoch, o->kek.id, o->kek.generation, o->kek.cmk_kcv);
}

static kt_code print_status(const overview *o, kt_err *err)
{
	if (o->pid)
		KT_TRY(kt_store_print(err, "node %s is running, pid %d\n", o->cfg->node, (int)o->pid));
	else
		KT_TRY(kt_store_print(err, "node %s is not running\n", o->cfg->node));
	if (!o->initialized)
		return kt_store_print(err, "database %s: not initialised yet\n", name_of(o));
	KT_TRY(print_key(o, err));
	if (o->in_shards)
		KT_TRY(kt_store_print(err, "a rekey in shards (depth %s) has not ended: %lld of %lld ranges are done\n",
				      o->rekey.depth, (long long)o->rekey.done, (long long)o->rekey.ranges));
	const cJSON *n;
	cJSON_ArrayForEach(n, o->nodes)
	{
		const char *name, *host;
		int64_t pid, age;
		bool live;
		KT_TRY(kt_json_str(n, "name", &name, err));
		KT_TRY(kt_json_str(n, "host", &host, err));
		KT_TRY(kt_json_int(n, "pid", INT32_MIN, INT32_MAX, &pid, err));
		KT_TRY(kt_json_int(n, "age_ms", INT64_MIN / 4096, INT64_MAX / 4096, &age, err));
		KT_TRY(kt_json_bool(n, "live", &live, err));
		KT_TRY(kt_store_print(err, "  %-20s %-20s pid %-8lld heartbeat %.1f s ago  %s\n", name, host,
				      (long long)pid, (double)age / 1000.0, live ? "live" : "not live"));
	}
	return KT_OK;
}

kt_code kt_verb_status(const kt_store_args *args, const kt_store_config *cfg, int *exit_code, kt_err *err)
{
	overview o = {.cfg = cfg, .nodes = cJSON_CreateArray()};
	kt_code rc = o.nodes ? look(&o, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc == KT_OK)
		rc = args->json ? print_status_json(&o, err) : print_status(&o, err);
	cJSON_Delete(o.nodes);
	free(o.database);
	*exit_code = args->json || o.pid ? 0 : NOT_RUNNING;
	return rc;
}

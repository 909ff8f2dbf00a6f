/* SPDX-License-Identifier: Apache-2.0 */
#include "store/node.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "store/pidfile.h"

enum { STALE_MAX = 256, INTERVAL_MAX_MS = 60 * 1000, WATCH_SLACK_MS = 250, LEAVING_MS = 1000, LEAVING_STEP_MS = 50 };

bool kt_node_live(const kt_db_node *node, int64_t now_ms, int window_seconds)
{
	return node->heartbeat_ms > now_ms - (int64_t)window_seconds * 1000;
}

typedef struct gate {
	int64_t now_ms;
	int window_seconds;
	size_t live;
	char names[KT_ERR_REMEDY];
} gate;

static void add_text(gate *g, const char *who)
{
	size_t n = strlen(g->names);
	(void)snprintf(g->names + n, sizeof g->names - n, "%s%s", g->live ? ", " : "", who);
	g->live++;
}

static void add_name(gate *g, const kt_db_node *node)
{
	char who[KT_ERR_REMEDY];
	double age = (double)(g->now_ms - node->heartbeat_ms) / 1000.0;
	(void)snprintf(who, sizeof who, "%s (host %s, pid %lld, heartbeat %.1f s ago)", node->name, node->host,
		       (long long)node->pid, age);
	add_text(g, who);
}

static kt_code see_live(void *arg, const kt_db_node *node, kt_err *err)
{
	gate *g = arg;
	(void)err;
	if (kt_node_live(node, g->now_ms, g->window_seconds))
		add_name(g, node);
	return KT_OK;
}

static kt_code refuse(const gate *g, kt_err *err)
{
	char remedy[KT_ERR_REMEDY];
	(void)snprintf(remedy, sizeof remedy, "stop these nodes; one that crashed counts as live for %d s: %.400s",
		       g->window_seconds, g->names);
	return kt_fail(err, KT_E_REFUSED, remedy, "%s", KT_NODE_LIVE);
}

static kt_code see_client(void *arg, const char *who, kt_err *err)
{
	(void)err;
	add_text(arg, who);
	return KT_OK;
}

static void pause_ms(int64_t ms)
{
	struct timespec left = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
	while (nanosleep(&left, &left) != 0)
		;
}

/* A server lists a connection for a moment after its client has left: that moment is waited for. */
static kt_code see_clients(kt_db *db, gate *g, kt_err *err)
{
	for (int64_t waited = 0;; waited += LEAVING_STEP_MS) {
		*g = (gate){.now_ms = g->now_ms, .window_seconds = g->window_seconds};
		KT_TRY(kt_db_client_each(db, see_client, g, err));
		if (!g->live || waited >= LEAVING_MS)
			return KT_OK;
		pause_ms(LEAVING_STEP_MS);
	}
}

kt_code kt_node_gate(kt_db *db, int window_seconds, kt_err *err)
{
	gate g = {.now_ms = kt_clock_wall_ms(), .window_seconds = window_seconds};
	KT_TRY(kt_db_node_each(db, see_live, &g, err));
	if (!g.live)
		KT_TRY(see_clients(db, &g, err));
	return g.live ? refuse(&g, err) : KT_OK;
}

typedef struct watch {
	struct stale {
		char name[256];
		int64_t pid, beats;
	} row[STALE_MAX];
	size_t n;
	int64_t wait_ms;
	gate moved;
} watch;

static kt_code see_stale(void *arg, const kt_db_node *node, kt_err *err)
{
	watch *w = arg;
	if (kt_node_live(node, w->moved.now_ms, w->moved.window_seconds))
		return KT_OK;
	if (w->n == STALE_MAX)
		return kt_fail(err, KT_E_REFUSED, "remove the rows of nodes that no longer exist",
			       "more than %d nodes are registered without a recent heartbeat", (int)STALE_MAX);
	struct stale *s = &w->row[w->n++];
	(void)snprintf(s->name, sizeof s->name, "%s", node->name);
	s->pid = node->pid;
	s->beats = node->beats;
	int64_t interval = node->interval_ms < 0                 ? 0
			   : node->interval_ms > INTERVAL_MAX_MS ? INTERVAL_MAX_MS
								 : node->interval_ms;
	if (2 * interval + WATCH_SLACK_MS > w->wait_ms)
		w->wait_ms = 2 * interval + WATCH_SLACK_MS;
	return KT_OK;
}

static kt_code see_moved(void *arg, const kt_db_node *node, kt_err *err)
{
	watch *w = arg;
	(void)err;
	for (size_t i = 0; i < w->n; i++)
		if (strncmp(w->row[i].name, node->name, sizeof w->row[i].name - 1) == 0 &&
		    (w->row[i].pid != node->pid || w->row[i].beats != node->beats))
			add_name(&w->moved, node);
	return KT_OK;
}

static kt_code watch_rows(kt_db *db, watch *w, kt_err *err)
{
	KT_TRY(kt_db_node_each(db, see_stale, w, err));
	if (w->n == 0)
		return KT_OK;
	pause_ms(w->wait_ms);
	KT_TRY(kt_db_node_each(db, see_moved, w, err));
	return w->moved.live ? refuse(&w->moved, err) : KT_OK;
}

kt_code kt_node_watch_stale(kt_db *db, int window_seconds, kt_err *err)
{
	watch *w = calloc(1, sizeof *w);
	if (!w)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	w->moved.now_ms = kt_clock_wall_ms();
	w->moved.window_seconds = window_seconds;
	kt_code rc = watch_rows(db, w, err);
	free(w);
	return rc;
}

typedef struct claim {
	const char *name, *host, *home;
	int64_t now_ms;
	int window_seconds;
} claim;

static kt_code see_claim(void *arg, const kt_db_node *node, kt_err *err)
{
	const claim *c = arg;
	if (strcmp(node->name, c->name) != 0 || !kt_node_live(node, c->now_ms, c->window_seconds))
		return KT_OK;
	if (strcmp(node->host, c->host) == 0 && strcmp(node->home, c->home) == 0)
		return KT_OK;
	return kt_fail(err, KT_E_REFUSED, "give every node its own \"node\" name in store.json, or stop the other one",
		       "the node name \"%s\" is in use by pid %lld on host %s (%s)", c->name, (long long)node->pid,
		       node->host, node->home);
}

kt_code kt_node_register(kt_db *db, const kt_store_config *cfg, const char *address, kt_err *err)
{
	char host[HOST_NAME_MAX + 1] = {0};
	(void)gethostname(host, sizeof host - 1);
	int64_t now = kt_clock_wall_ms();
	claim c = {.name = cfg->node,
		   .host = host,
		   .home = cfg->file,
		   .now_ms = now,
		   .window_seconds = cfg->live_window_seconds};
	KT_TRY(kt_db_node_each(db, see_claim, &c, err));
	kt_db_node row = {.name = cfg->node,
			  .host = host,
			  .home = cfg->file,
			  .address = address,
			  .pid = getpid(),
			  .started_ms = now,
			  .heartbeat_ms = now,
			  .interval_ms = (int64_t)cfg->heartbeat_seconds * 1000};
	return kt_db_node_put(db, &row, err);
}

kt_code kt_node_gate_local(const kt_store_config *cfg, kt_err *err)
{
	pid_t pid = 0;
	if (cfg->pid)
		KT_TRY(kt_pidfile_owner(cfg->pid, &pid, err));
	if (pid == 0)
		return KT_OK;
	char remedy[128];
	(void)snprintf(remedy, sizeof remedy, "stop this node first, it is running with pid %d", (int)pid);
	return kt_fail(err, KT_E_REFUSED, remedy, "%s", KT_NODE_LIVE);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/turn/nodes.h"

#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "orchestrator/fleet/sshconfig.h"

enum { JUMPS_MAX = 8, FIRST_BACKOFF_MS = 500, LAST_BACKOFF_MS = 8000, PATH_LEN = 4096 };

/* One request on its way. Owns copies of everything. */
typedef struct pending {
	struct pending *next;
	struct node *node;
	kt_ask ask;
	char *strings; /* the request's texts, one allocation */
	bool in_flight;
	bool sent;            /* it left at least once */
	int64_t give_up_mono; /* 0: reachable so far */
} pending;

typedef struct node {
	kt_nodes *owner;
	size_t index;
	kt_fleet_node *fleet;
	char *pin_host;
	unsigned pin_port;
	pending *waiting;
	uv_timer_t again; /* next attempt to reach it */
	int64_t backoff_ms;
	int64_t skew_ms;
	int64_t links; /* agents that were started: what was sent to an earlier one must not be done late */
	bool reaching;
} node;

struct kt_nodes {
	int64_t links; /* where the numbers of our connections begin: drawn, so that no other coordinator has the same
			*/
	uv_loop_t *loop;
	const kt_cluster *cluster;
	kt_nodes_options opt;
	kt_hostkeys *pins;
	kt_fleet *fleet;
	node *node;
	size_t timers; /* open timer handles */
	bool closing;
	bool fleet_closed;
};

static void reach(node *n);

/* --- pending requests --------------------------------------------------------------------------------------------- */

static void pending_free(pending *p)
{
	if (!p)
		return;
	free(p->strings);
	cJSON_Delete(p->ask.args);
	free(p);
}

/* Copy the texts of a request into one block and let the request point there. */
static kt_code copy_texts(pending *p, const kt_request *r, kt_err *err)
{
	const char *const from[] = {r->cluster, r->run, r->step, r->verb};
	const char **const to[] = {&p->ask.request.cluster, &p->ask.request.run, &p->ask.request.step,
				   &p->ask.request.verb};
	size_t total = 0;
	for (size_t i = 0; i < 4; i++)
		total += strlen(from[i]) + 1;
	p->strings = malloc(total);
	if (!p->strings)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	char *at = p->strings;
	for (size_t i = 0; i < 4; i++) {
		size_t n = strlen(from[i]) + 1;
		memcpy(at, from[i], n);
		*to[i] = at;
		at += n;
	}
	return KT_OK;
}

static kt_code pending_new(node *n, const kt_ask *ask, pending **out, kt_err *err)
{
	pending *p = calloc(1, sizeof *p);
	if (!p) {
		cJSON_Delete(ask->args);
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	}
	p->node = n;
	p->ask = *ask;
	if (!p->ask.args)
		p->ask.args = cJSON_CreateObject();
	kt_code rc =
		p->ask.args ? copy_texts(p, &ask->request, err) : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	if (rc != KT_OK) {
		pending_free(p);
		return rc;
	}
	p->ask.request.args = p->ask.args;
	p->ask.request.node = n->owner->cluster->nodes[n->index].name;
	*out = p;
	return KT_OK;
}

static void unlink_pending(pending *p)
{
	pending **at = &p->node->waiting;
	while (*at && *at != p)
		at = &(*at)->next;
	if (*at)
		*at = p->next;
}

static void answer(pending *p, kt_status status, const cJSON *result, const kt_err *error)
{
	unlink_pending(p);
	if (p->ask.on_answer)
		p->ask.on_answer(p->ask.cookie, p->node->index, status, result, error);
	pending_free(p);
}

/* No answer will come: it never left (failed), or what became of it is not known. */
static void give_up(pending *p, const kt_err *error)
{
	answer(p, p->sent ? KT_STATUS_UNKNOWN : KT_STATUS_FAILED, NULL, error);
}

/* The node could not be reached: requests whose time is up are given up, the others wait for the next attempt. */
static void not_reached(node *n, const kt_err *error)
{
	int64_t now = kt_clock_mono_ms();
	for (pending *p = n->waiting, *next; p; p = next) {
		next = p->next;
		if (p->in_flight)
			continue;
		if (p->give_up_mono == 0)
			p->give_up_mono = now + p->ask.reach_ms;
		if (error->code == KT_E_REFUSED || now >= p->give_up_mono)
			give_up(p, error);
	}
}

/* --- sending ------------------------------------------------------------------------------------------------------ */

static void on_reply(void *cookie, kt_fleet_node *fleet, const kt_err *err, const kt_reply *reply)
{
	pending *p = cookie;
	node *n = p->node;
	p->in_flight = false;
	if (n->owner->closing)
		return;
	if (reply) {
		answer(p, reply->status, reply->result, &reply->error);
		return;
	}
	/* Still connected: it was the answer's time limit, and asking again would wait as long. */
	if (kt_fleet_node_state(fleet) == KT_FLEET_READY || err->code != KT_E_UNREACHABLE) {
		give_up(p, err);
		return;
	}
	not_reached(n, err);
	if (n->waiting)
		reach(n);
}

static void on_progress(void *cookie, kt_fleet_node *fleet, const kt_progress *progress)
{
	pending *p = cookie;
	(void)fleet;
	if (p->ask.on_progress && p->ask.on_answer)
		p->ask.on_progress(p->ask.cookie, p->node->index, progress);
}

static void send_one(pending *p)
{
	kt_err err = KT_ERR_INIT;
	const kt_fleet_request_options o = {
		.timeout_ms = p->ask.timeout_ms, .on_progress = on_progress, .on_reply = on_reply, .cookie = p};
	if (p->sent && p->ask.once)
		p->ask.request.settle = true;
	if (p->ask.request.epoch > 0)
		p->ask.request.link = p->node->owner->links + p->node->links;
	if (kt_fleet_request(p->node->fleet, &p->ask.request, &o, NULL, &err) != KT_OK) {
		give_up(p, &err);
		return;
	}
	p->in_flight = p->sent = true;
	p->give_up_mono = 0;
}

static void send_waiting(node *n)
{
	for (pending *p = n->waiting, *next; p; p = next) {
		next = p->next;
		if (!p->in_flight)
			send_one(p);
	}
}

/* --- reaching ----------------------------------------------------------------------------------------------------- */

static void on_again(uv_timer_t *t)
{
	reach(t->data);
}

static void reach_failed(node *n, const kt_err *err)
{
	n->reaching = false;
	if (n->owner->closing)
		return;
	not_reached(n, err);
	if (!n->waiting)
		return;
	n->backoff_ms = n->backoff_ms ? n->backoff_ms * 2 : FIRST_BACKOFF_MS;
	if (n->backoff_ms > LAST_BACKOFF_MS)
		n->backoff_ms = LAST_BACKOFF_MS;
	(void)uv_timer_start(&n->again, on_again, (uint64_t)n->backoff_ms, 0);
}

static void on_hello(void *cookie, kt_fleet_node *fleet, const kt_err *err, const kt_hello *hello)
{
	node *n = cookie;
	(void)fleet;
	if (!hello) {
		reach_failed(n, err);
		return;
	}
	n->reaching = false;
	n->backoff_ms = 0;
	n->links++;
	n->skew_ms = hello->time_ms - kt_clock_wall_ms();
	send_waiting(n);
}

static void start_agent(node *n)
{
	kt_err err = KT_ERR_INIT;
	if (kt_fleet_start_agent(n->fleet, on_hello, n, NULL, &err) != KT_OK)
		reach_failed(n, &err);
}

static void on_connected(void *cookie, kt_fleet_node *fleet, const kt_err *err)
{
	(void)fleet;
	if (err->code != KT_OK)
		reach_failed(cookie, err);
	else
		start_agent(cookie);
}

static void reach(node *n)
{
	kt_err err = KT_ERR_INIT;
	if (n->reaching || n->owner->closing)
		return;
	switch (kt_fleet_node_state(n->fleet)) {
	case KT_FLEET_READY:
		send_waiting(n);
		return;
	case KT_FLEET_CONNECTED:
		n->reaching = true;
		start_agent(n);
		return;
	case KT_FLEET_DOWN:
	case KT_FLEET_CONNECTING:
	case KT_FLEET_STARTING:
		break;
	}
	n->reaching = true;
	if (kt_fleet_connect(n->fleet, on_connected, n, NULL, &err) != KT_OK)
		reach_failed(n, &err);
}

kt_code kt_nodes_ask(kt_nodes *nodes, size_t index, const kt_ask *ask, kt_err *err)
{
	node *n = &nodes->node[index];
	pending *p = NULL;
	KT_TRY(pending_new(n, ask, &p, err));
	pending **at = &n->waiting;
	while (*at)
		at = &(*at)->next;
	*at = p;
	/* From the loop, so that the answer never comes from inside this call. */
	if (!n->reaching && !uv_is_active((uv_handle_t *)&n->again))
		(void)uv_timer_start(&n->again, on_again, 0, 0);
	return KT_OK;
}

void kt_nodes_drop(kt_nodes *nodes)
{
	for (size_t i = 0; i < nodes->cluster->nodes_count; i++) {
		for (pending *p = nodes->node[i].waiting, *next; p; p = next) {
			next = p->next;
			p->ask.on_answer = NULL;
			if (p->in_flight)
				continue; /* freed when its completion comes */
			unlink_pending(p);
			pending_free(p);
		}
	}
}

/* --- making the fleet --------------------------------------------------------------------------------------------- */

static void trace(void *cookie, const kt_fleet_node *fleet, const char *line)
{
	kt_nodes *nodes = cookie;
	nodes->opt.on_trace(nodes->opt.cookie, kt_fleet_node_name(fleet), line);
}

static void lost(void *cookie, kt_fleet_node *fleet, const kt_err *err)
{
	kt_nodes *nodes = cookie;
	node *n = kt_fleet_node_cookie(fleet);
	if (n && !nodes->closing && nodes->opt.on_lost)
		nodes->opt.on_lost(nodes->opt.cookie, n->index, err);
}

/* The chain of jump hosts, the nearest first; *out is the last one, through which the node is reached. */
static kt_code add_jumps(kt_nodes *nodes, const char *config, const char *chain, kt_fleet_node **out, kt_err *err)
{
	kt_sshjump jump[JUMPS_MAX];
	size_t count = 0;
	*out = NULL;
	if (!chain)
		return KT_OK;
	KT_TRY(kt_sshjump_parse(chain, jump, JUMPS_MAX, &count, err));
	kt_code rc = KT_OK;
	for (size_t i = 0; rc == KT_OK && i < count; i++) {
		kt_sshconfig c;
		rc = kt_sshconfig_query(config, jump[i].host, jump[i].user, jump[i].port, &c, err);
		if (rc != KT_OK)
			break;
		const kt_fleet_node_options o = {.name = "jump",
						 .host = c.hostname ? c.hostname : jump[i].host,
						 .port = c.port,
						 .user = c.user,
						 .identities = (const char *const *)c.identities,
						 .ssh_agent = c.identity_agent,
						 .identities_only = c.identities_only,
						 .hostkeys = nodes->pins,
						 .hostkey_alias = c.hostkey_alias,
						 .jump = *out};
		rc = kt_fleet_add(nodes->fleet, &o, out, err);
		kt_sshconfig_free(&c);
	}
	kt_sshjump_free(jump, count);
	return rc;
}

static kt_code pin_name(node *n, const kt_sshconfig *c, const char *host, kt_err *err)
{
	n->pin_host = strdup(c->hostkey_alias ? c->hostkey_alias : host);
	n->pin_port = c->hostkey_alias ? 22 : c->port ? c->port : 22;
	return n->pin_host ? KT_OK : kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static kt_code add_with(kt_nodes *nodes, node *n, const kt_node *k, const kt_sshconfig *c, kt_err *err)
{
	char program[PATH_LEN];
	if (snprintf(program, sizeof program, "%s/keyturn-agent", k->agent_path) >= (int)sizeof program)
		return kt_fail(err, KT_E_INPUT, "use a shorter path", "agent.path of %s is too long", k->name);
	const char *const all[] = {"sudo", "-n", program, "serve", "--node", k->name, "--state", k->agent_state, NULL};
	const char *const own[] = {k->identity, NULL};
	kt_fleet_node_options o = {.name = k->name,
				   .host = c->hostname ? c->hostname : k->host,
				   .port = k->port ? k->port : c->port,
				   .user = k->user ? k->user : c->user,
				   .identities = k->identity ? own : (const char *const *)c->identities,
				   .ssh_agent = c->identity_agent,
				   .identities_only = k->identity || c->identities_only,
				   .hostkeys = nodes->pins,
				   .hostkey_alias = c->hostkey_alias,
				   .agent_argv = nodes->cluster->agent_sudo ? all : all + 2,
				   .cookie = n};
	if (c->proxy_command)
		return kt_fail(err, KT_E_USAGE, "use ProxyJump instead", "ssh's ProxyCommand for %s is not supported",
			       k->name);
	KT_TRY(add_jumps(nodes, nodes->cluster->ssh.config, c->proxy_jump, &o.jump, err));
	KT_TRY(pin_name(n, c, o.host, err));
	return kt_fleet_add(nodes->fleet, &o, &n->fleet, err);
}

static kt_code add_node(kt_nodes *nodes, size_t i, kt_err *err)
{
	const kt_node *k = &nodes->cluster->nodes[i];
	node *n = &nodes->node[i];
	kt_sshconfig c;
	*n = (node){.owner = nodes, .index = i};
	KT_TRY(kt_sshconfig_query(nodes->cluster->ssh.config, k->host, k->user, k->port, &c, err));
	kt_code rc = add_with(nodes, n, k, &c, err);
	kt_sshconfig_free(&c);
	if (rc != KT_OK)
		return rc;
	if (uv_timer_init(nodes->loop, &n->again) != 0)
		return kt_fail(err, KT_E_INTERNAL, NULL, "a timer cannot be made");
	n->again.data = n;
	nodes->timers++;
	return KT_OK;
}

static kt_code fill(kt_nodes *nodes, kt_err *err)
{
	char path[PATH_LEN];
	if (snprintf(path, sizeof path, "%s/known_hosts", nodes->cluster->state) >= (int)sizeof path)
		return kt_fail(err, KT_E_INPUT, "use a shorter path", "the path of the state folder is too long");
	const kt_fleet_options o = {.connect_timeout_ms = nodes->cluster->ssh.connect_timeout_s * 1000,
				    .start_timeout_ms = nodes->cluster->ssh.connect_timeout_s * 1000,
				    .on_lost = lost,
				    .on_trace = nodes->opt.on_trace ? trace : NULL,
				    .cookie = nodes};
	KT_TRY(kt_hostkeys_new(&nodes->pins, err));
	KT_TRY(kt_hostkeys_load(nodes->pins, path, true, err));
	KT_TRY(kt_fleet_new(nodes->loop, &o, &nodes->fleet, err));
	nodes->node = calloc(nodes->cluster->nodes_count, sizeof *nodes->node);
	if (!nodes->node)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	for (size_t i = 0; i < nodes->cluster->nodes_count; i++)
		KT_TRY(add_node(nodes, i, err));
	return KT_OK;
}

/* Below 2^52, with room for a million connections to each node. */
static kt_code draw_links(kt_nodes *nodes, kt_err *err)
{
	uint32_t drawn;
	if (RAND_bytes((unsigned char *)&drawn, sizeof drawn) != 1)
		return kt_fail(err, KT_E_INTERNAL, NULL, "no random numbers");
	nodes->links = (int64_t)drawn << 20;
	return KT_OK;
}

kt_code kt_nodes_open(uv_loop_t *loop, const kt_cluster *cluster, const kt_nodes_options *options, kt_nodes **out,
		      kt_err *err)
{
	*out = NULL;
	kt_nodes *nodes = calloc(1, sizeof *nodes);
	if (!nodes)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	nodes->loop = loop;
	nodes->cluster = cluster;
	if (options)
		nodes->opt = *options;
	kt_code rc = draw_links(nodes, err);
	if (rc == KT_OK)
		rc = fill(nodes, err);
	if (rc != KT_OK)
		kt_nodes_close(nodes);
	else
		*out = nodes;
	return rc;
}

static void timer_closed(uv_handle_t *h)
{
	node *n = h->data;
	n->owner->timers--;
}

static void fleet_closed(void *cookie)
{
	kt_nodes *nodes = cookie;
	nodes->fleet_closed = true;
}

static void node_free(node *n)
{
	while (n->waiting) {
		pending *p = n->waiting;
		n->waiting = p->next;
		pending_free(p);
	}
	free(n->pin_host);
}

void kt_nodes_close(kt_nodes *nodes)
{
	if (!nodes)
		return;
	nodes->closing = true;
	for (size_t i = 0; nodes->node && i < nodes->cluster->nodes_count; i++)
		if (nodes->node[i].again.data)
			uv_close((uv_handle_t *)&nodes->node[i].again, timer_closed);
	nodes->fleet_closed = nodes->fleet == NULL;
	if (nodes->fleet)
		kt_fleet_close(nodes->fleet, fleet_closed, nodes);
	while (nodes->timers || !nodes->fleet_closed)
		(void)uv_run(nodes->loop, UV_RUN_ONCE);
	for (size_t i = 0; nodes->node && i < nodes->cluster->nodes_count; i++)
		node_free(&nodes->node[i]);
	free(nodes->node);
	kt_hostkeys_free(nodes->pins);
	free(nodes);
}

kt_fleet_node *kt_nodes_get(kt_nodes *nodes, size_t i)
{
	return nodes->node[i].fleet;
}

kt_hostkeys *kt_nodes_hostkeys(kt_nodes *nodes)
{
	return nodes->pins;
}

const char *kt_nodes_pin_host(const kt_nodes *nodes, size_t i)
{
	return nodes->node[i].pin_host;
}

unsigned kt_nodes_pin_port(const kt_nodes *nodes, size_t i)
{
	return nodes->node[i].pin_port;
}

int64_t kt_nodes_skew_ms(const kt_nodes *nodes, size_t i)
{
	return nodes->node[i].skew_ms;
}

/* --- survey ------------------------------------------------------------------------------------------------------- */

typedef struct survey_state {
	kt_answer *answers;
	size_t left;
} survey_state;

static void survey_answer(void *cookie, size_t i, kt_status status, const cJSON *result, const kt_err *error)
{
	survey_state *s = cookie;
	s->answers[i].status = status;
	s->answers[i].result = result ? cJSON_Duplicate(result, 1) : NULL;
	s->answers[i].error = *error;
	s->left--;
}

static kt_code survey_ask(kt_nodes *nodes, size_t i, const kt_survey *q, survey_state *s, kt_err *err)
{
	cJSON *args = NULL;
	if (q->args)
		KT_TRY(q->args(q->cookie, i, &args, err));
	const kt_ask ask = {.request = {.cluster = nodes->cluster->name,
					.run = q->run ? q->run : "-",
					.epoch = q->epoch,
					.step = q->verb,
					.role = KT_ROLE_DO,
					.attempt = 1,
					.verb = q->verb},
			    .args = args,
			    .timeout_ms = q->timeout_ms,
			    .on_answer = survey_answer,
			    .cookie = s};
	return kt_nodes_ask(nodes, i, &ask, err);
}

kt_code kt_nodes_survey(kt_nodes *nodes, const kt_survey *q, kt_answer **answers, kt_err *err)
{
	size_t n = nodes->cluster->nodes_count;
	survey_state s = {.answers = calloc(n, sizeof(kt_answer)), .left = 0};
	*answers = NULL;
	if (!s.answers)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	for (size_t i = 0; i < n; i++) {
		kt_err one = KT_ERR_INIT;
		if (q->skip && q->skip(q->cookie, i))
			continue;
		if (survey_ask(nodes, i, q, &s, &one) == KT_OK)
			s.left++;
		else
			s.answers[i] = (kt_answer){.status = KT_STATUS_FAILED, .error = one};
	}
	while (s.left)
		(void)uv_run(nodes->loop, UV_RUN_ONCE);
	*answers = s.answers;
	return KT_OK;
}

void kt_answers_free(kt_answer *answers, size_t n)
{
	for (size_t i = 0; answers && i < n; i++)
		cJSON_Delete(answers[i].result);
	free(answers);
}

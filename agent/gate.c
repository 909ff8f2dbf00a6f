/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/gate.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/command.h"
#include "agent/heartbeats.h"
#include "agent/holders.h"
#include "agent/procfs.h"
#include "agent/rules.h"
#include "agent/service.h"
#include "agent/sockets.h"

enum { PORTS_MAX = 256, SOCKETS_MAX = 4096, SHOWN = 10 };

/* What was asked for. The arrays are borrowed from the request; NULL: not asked for. */
typedef struct question {
	kt_agent_ctx *ctx;
	const cJSON *service;
	const cJSON *processes;
	const cJSON *files;
	const cJSON *heartbeats;
	const cJSON *known_nodes;
	const cJSON *users; /* whose processes count although they cannot be looked into */
	uint16_t ports[PORTS_MAX];
	size_t port_n;
} question;

/* A socket on one of the ports, and who has it, once that is known. */
typedef struct found_socket {
	kt_socket socket;
	char owner[256];
} found_socket;

/* One look at sockets and processes. */
typedef struct look {
	const question *q;
	kt_findings *findings;
	kt_rules *rules;
	kt_holders holders;
	found_socket *sockets;
	size_t socket_n;
} look;

/* --- reading the request --------------------------------------------------------------------------------------- */

/* The member, NULL when absent or null. */
static const cJSON *member(const cJSON *args, const char *name)
{
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(args, name);
	return cJSON_IsNull(value) ? NULL : value;
}

static kt_code read_ports(const cJSON *ports, question *q, kt_err *err)
{
	const cJSON *port;
	if (ports && !cJSON_IsArray(ports))
		return kt_fail(err, KT_E_INPUT, NULL, "ports is not an array");
	cJSON_ArrayForEach(port, ports)
	{
		if (!cJSON_IsNumber(port) || port->valuedouble < 1 || port->valuedouble > 65535 ||
		    port->valuedouble != (double)(uint16_t)port->valuedouble || q->port_n == PORTS_MAX)
			return kt_fail(err, KT_E_INPUT, "give at most 256 numbers from 1 to 65535",
				       "ports[%zu] is not a port", q->port_n);
		q->ports[q->port_n++] = (uint16_t)port->valuedouble;
	}
	return KT_OK;
}

static kt_code read_question(kt_agent_ctx *ctx, const cJSON *args, question *q, kt_err *err)
{
	*q = (question){.ctx = ctx, .service = member(args, "service"), .processes = member(args, "processes")};
	q->heartbeats = member(args, "heartbeats");
	KT_TRY(kt_arg_strings(args, "files", &q->files, err));
	KT_TRY(kt_arg_strings(args, "known_nodes", &q->known_nodes, err));
	KT_TRY(kt_arg_strings(args, "users", &q->users, err));
	KT_TRY(read_ports(member(args, "ports"), q, err));
	bool rules = cJSON_GetArraySize(q->processes) > 0;
	bool files = cJSON_GetArraySize(q->files) > 0;
	if (!q->service && !rules && !files && !q->heartbeats && q->port_n == 0)
		return kt_fail(err, KT_E_INPUT, "name a service, processes, ports, files or heartbeats",
			       "the gate was given nothing to ask: that proves nothing");
	const cJSON *file;
	cJSON_ArrayForEach(file, q->files)
	{
		if (file->valuestring[0] != '/')
			return kt_fail(err, KT_E_INPUT, "give an absolute path",
				       "files: \"%.200s\" is not an absolute path", file->valuestring);
	}
	return KT_OK;
}

/* --- service and heartbeats ------------------------------------------------------------------------------------ */

/* Something could not be asked: a finding, unless we ourselves are to stop. */
static kt_code unasked(kt_findings *findings, const char *who, kt_code why, const kt_err *reason, kt_err *err)
{
	if (why == KT_E_INTERRUPTED || why == KT_E_INTERNAL) {
		if (err)
			*err = *reason;
		return why;
	}
	return kt_findings_add(findings, err, KT_FINDING_UNASKED, who, "%s", reason->msg);
}

static kt_code ask_service(const question *q, kt_findings *findings, kt_err *err)
{
	kt_err reason = KT_ERR_INIT;
	kt_service_info info;
	const char *name = kt_service_name(q->service);
	kt_code rc = kt_service_query(q->ctx, q->service, &info, &reason);
	if (rc == KT_E_INPUT) {
		if (err)
			*err = reason;
		return rc;
	}
	if (rc != KT_OK)
		return unasked(findings, name, rc, &reason, err);
	bool down = info.state == KT_SERVICE_INACTIVE || info.state == KT_SERVICE_FAILED;
	if (down && info.pid <= 0)
		return KT_OK;
	if (info.pid > 0)
		return kt_findings_add(findings, err, KT_FINDING_SERVICE, name, "is %s, main process %" PRId64,
				       kt_service_state_name(info.state), info.pid);
	return kt_findings_add(findings, err, KT_FINDING_SERVICE, name, "is %s", kt_service_state_name(info.state));
}

static kt_code read_status(const question *q, const kt_command_result *r, kt_findings *findings, kt_err *err)
{
	char how[64] = "";
	kt_err reason = KT_ERR_INIT;
	if (r->end.signal)
		(void)snprintf(how, sizeof how, "was ended by signal %d", r->end.signal);
	else if (r->end.exit != 0)
		(void)snprintf(how, sizeof how, "exited with %d", r->end.exit);
	else if (r->out_cut)
		(void)snprintf(how, sizeof how, "printed more than %d bytes", (int)KT_COMMAND_STDOUT);
	if (how[0])
		return kt_findings_add(findings, err, KT_FINDING_UNASKED, "heartbeats", "the status command %s: %.200s",
				       how, kt_buf_cstr(&r->tail));
	kt_code rc = kt_heartbeats_read(kt_buf_cstr(&r->out), r->out.len, q->known_nodes, findings, &reason);
	if (rc != KT_OK)
		rc = kt_err_prefix(&reason, rc, "the status command's answer");
	return rc == KT_OK ? KT_OK : unasked(findings, "heartbeats", rc, &reason, err);
}

static kt_code ask_heartbeats(const question *q, kt_findings *findings, kt_err *err)
{
	kt_err reason = KT_ERR_INIT;
	kt_command_result r;
	kt_code rc = kt_command_run(q->ctx, q->heartbeats, NULL, &r, &reason);
	if (rc != KT_OK)
		return unasked(findings, "heartbeats", rc, &reason, err);
	rc = read_status(q, &r, findings, err);
	kt_command_result_free(&r);
	return rc;
}

/* --- sockets and processes ------------------------------------------------------------------------------------- */

static kt_code take_socket(void *arg, const kt_socket *s, kt_err *err)
{
	look *l = arg;
	bool wanted = false;
	for (size_t i = 0; i < l->q->port_n; i++)
		wanted = wanted || l->q->ports[i] == s->port;
	if (!wanted || l->socket_n == SOCKETS_MAX)
		return KT_OK;
	found_socket *grown = reallocarray(l->sockets, l->socket_n + 1, sizeof *grown);
	if (!grown)
		return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
	l->sockets = grown;
	l->sockets[l->socket_n++] = (found_socket){.socket = *s};
	return KT_OK;
}

/* Name the owner of each found socket that this descriptor is. */
static void name_owner(look *l, const kt_proc *p, uint64_t inode)
{
	for (size_t i = 0; i < l->socket_n; i++) {
		found_socket *f = &l->sockets[i];
		if (f->socket.inode != inode || f->owner[0])
			continue;
		(void)snprintf(f->owner, sizeof f->owner, "pid %d (%s), %s", (int)p->pid, p->user, p->name);
	}
}

static kt_code look_at_process(void *arg, const kt_proc *p, kt_err *err)
{
	look *l = arg;
	KT_TRY(kt_rules_look(l->rules, l->q->users, p, l->findings, err));
	if (l->holders.n)
		KT_TRY(kt_holders_look(&l->holders, l->q->users, p, l->findings, err));
	uint64_t *inodes = NULL;
	size_t n = 0;
	if (l->socket_n)
		KT_TRY(kt_procfs_sockets(p, &inodes, &n, err));
	for (size_t i = 0; i < n; i++)
		name_owner(l, p, inodes[i]);
	free(inodes);
	return KT_OK;
}

static kt_code add_sockets(look *l, kt_err *err)
{
	for (size_t i = 0; i < l->socket_n; i++) {
		const found_socket *f = &l->sockets[i];
		const char *owner = f->owner[0] ? f->owner : "a process that cannot be told";
		KT_TRY(kt_findings_add(l->findings, err, KT_FINDING_SOCKET, f->socket.local, "%s%s%s: %s",
				       f->socket.state, f->socket.remote[0] ? ", peer " : "", f->socket.remote, owner));
	}
	return KT_OK;
}

static kt_code prepare_look(look *l, kt_err *err)
{
	kt_err reason = KT_ERR_INIT;
	const cJSON *file;
	KT_TRY(kt_rules_new(l->q->processes, &l->rules, err));
	cJSON_ArrayForEach(file, l->q->files)
	{
		kt_code rc = kt_holders_watch(&l->holders, file->valuestring, &reason);
		if (rc != KT_OK)
			KT_TRY(unasked(l->findings, file->valuestring, rc, &reason, err));
	}
	if (l->q->port_n == 0)
		return KT_OK;
	kt_code rc = kt_sockets_each(take_socket, l, &reason);
	return rc == KT_OK ? KT_OK : unasked(l->findings, "sockets", rc, &reason, err);
}

static kt_code run_look(look *l, kt_err *err)
{
	kt_err reason = KT_ERR_INIT;
	KT_TRY(prepare_look(l, err));
	bool needed = cJSON_GetArraySize(l->q->processes) > 0 || l->holders.n || l->socket_n;
	kt_code rc = needed ? kt_procfs_each(look_at_process, l, &reason) : KT_OK;
	if (rc != KT_OK)
		KT_TRY(unasked(l->findings, "processes", rc, &reason, err));
	KT_TRY(kt_rules_end(l->rules, l->findings, err));
	KT_TRY(kt_holders_locks(&l->holders, l->findings, err));
	return add_sockets(l, err);
}

static kt_code ask_system(const question *q, kt_findings *findings, kt_err *err)
{
	look l = {.q = q, .findings = findings};
	kt_code rc = run_look(&l, err);
	kt_rules_free(l.rules);
	kt_holders_free(&l.holders);
	free(l.sockets);
	return rc;
}

/* --- the gate -------------------------------------------------------------------------------------------------- */

kt_code kt_gate_ask(kt_agent_ctx *ctx, const cJSON *args, kt_findings *findings, kt_err *err)
{
	question q;
	KT_TRY(read_question(ctx, args, &q, err));
	if (q.service)
		KT_TRY(ask_service(&q, findings, err));
	if (q.heartbeats)
		KT_TRY(ask_heartbeats(&q, findings, err));
	KT_TRY(kt_agent_go_on(ctx, err));
	size_t before = findings->n;
	KT_TRY(ask_system(&q, findings, err));
	if (findings->n == before)
		KT_TRY(ask_system(&q, findings, err));
	return KT_OK;
}

static bool only_unasked(const kt_findings *findings)
{
	const cJSON *one;
	cJSON_ArrayForEach(one, findings->list)
	{
		const cJSON *kind = cJSON_GetObjectItemCaseSensitive(one, "kind");
		if (strcmp(kind->valuestring, kt_finding_name(KT_FINDING_UNASKED)) != 0)
			return false;
	}
	return true;
}

static kt_code say_findings(const kt_agent_ctx *ctx, const kt_findings *findings, kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = kt_findings_text(findings, SHOWN, &text, err);
	if (rc == KT_OK)
		rc = kt_fail(err, KT_E_REFUSED,
			     only_unasked(findings)
				     ? "make what could not be asked answer (let the agent run as root: agent.sudo)"
				     : "stop what is named here; a heartbeat fades by itself within its window",
			     "%s is not quiet, %zu finding%s: %s", ctx->node, findings->n, findings->n == 1 ? "" : "s",
			     kt_buf_cstr(&text));
	kt_buf_free(&text);
	return rc;
}

kt_status kt_action_gate_check(kt_agent_ctx *ctx, const cJSON *args, cJSON *result, kt_err *err)
{
	kt_findings findings;
	kt_code rc = kt_findings_new(&findings, err);
	if (rc == KT_OK)
		rc = kt_gate_ask(ctx, args, &findings, err);
	bool quiet = rc == KT_OK && findings.n == 0;
	if (rc == KT_OK)
		rc = kt_json_add_bool(result, "quiet", quiet, err);
	if (rc == KT_OK)
		rc = kt_json_add_int(result, "count", (int64_t)findings.n, err);
	cJSON *list = rc == KT_OK ? cJSON_Duplicate(findings.list, true) : NULL;
	if (rc == KT_OK)
		rc = kt_json_add(result, "findings", list, err);
	kt_status status = kt_action_end(rc);
	if (rc == KT_OK && !quiet) {
		KT_IGNORE(say_findings(ctx, &findings, err));
		status = KT_STATUS_RETRY;
	}
	kt_findings_free(&findings);
	return status;
}

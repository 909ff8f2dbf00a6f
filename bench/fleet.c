/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fleet against OpenSSH: three commands, one after the other, on each of 64 nodes (sshd -i on loopback). We log in
 * once and run them through one persistent agent; the peers are `xargs -P64 ssh` with a login for each command, and the
 * same with one shared connection per node (ControlPersist). Same kex (curve25519), cipher, MAC, keys, strict host keys
 * and the same commands on all sides, in the same run; the median of three rounds. Client CPU is that of the client
 * processes alone.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "orchestrator/fleet/fleet.h"
#include "tests/unit/fleet/lab.h"

enum { NODES = 64, COMMANDS = 3, ROUNDS = 3 };

typedef struct figure {
	double wall_s, cpu_s;
} figure;

typedef struct run {
	lab *lab;
	lab_server *servers;
	kt_hostkeys *hostkeys;
	kt_fleet *fleet;
	int replies;  /* all commands of all nodes */
	int failures; /* must stay 0 */
	int open;     /* nodes that are not done */
	int64_t steps_begun_ms;
	double steps_s; /* from the last hello to the last reply */
	int hellos;
} run;

typedef struct node {
	run *run;
	int asked;
} node;

/* ---- our side ---- */

static void give_up(run *r, const kt_err *err)
{
	(void)fprintf(stderr, "bench_fleet: %s\n", err->msg);
	r->failures++;
	if (--r->open == 0)
		kt_fleet_close(r->fleet, NULL, NULL);
}

static void ask(kt_fleet_node *n, node *me);

static void on_reply(void *cookie, kt_fleet_node *n, const kt_err *err, const kt_reply *reply)
{
	node *me = cookie;
	run *r = me->run;
	if (err->code != KT_OK || reply->status != KT_STATUS_OK) {
		give_up(r, err->code != KT_OK ? err : &reply->error);
		return;
	}
	r->replies++;
	if (me->asked < COMMANDS) {
		ask(n, me);
		return;
	}
	r->steps_s = (double)(kt_clock_mono_ms() - r->steps_begun_ms) / 1000.0;
	if (--r->open == 0)
		kt_fleet_close(r->fleet, NULL, NULL);
}

static void ask(kt_fleet_node *n, node *me)
{
	kt_err err = KT_ERR_INIT;
	cJSON *args = cJSON_CreateObject();
	me->asked++;
	const kt_request request = {.cluster = "bench",
				    .run = "-",
				    .step = "run",
				    .role = KT_ROLE_DO,
				    .node = kt_fleet_node_name(n),
				    .attempt = 1,
				    .verb = "run",
				    .args = args};
	const kt_fleet_request_options o = {.timeout_ms = 60000, .on_reply = on_reply, .cookie = me};
	kt_code rc = args ? kt_json_add_int(args, "n", me->asked, &err) : KT_E_INTERNAL;
	if (rc == KT_OK)
		rc = kt_fleet_request(n, &request, &o, NULL, &err);
	cJSON_Delete(args);
	if (rc != KT_OK)
		give_up(me->run, &err);
}

static void on_hello(void *cookie, kt_fleet_node *n, const kt_err *err, const kt_hello *hello)
{
	node *me = cookie;
	(void)hello;
	if (err->code != KT_OK) {
		give_up(me->run, err);
		return;
	}
	if (++me->run->hellos == NODES)
		me->run->steps_begun_ms = kt_clock_mono_ms();
	ask(n, me);
}

static void on_connected(void *cookie, kt_fleet_node *n, const kt_err *err)
{
	node *me = cookie;
	kt_err trouble = KT_ERR_INIT;
	if (err->code != KT_OK)
		give_up(me->run, err);
	else if (kt_fleet_start_agent(n, on_hello, me, NULL, &trouble) != KT_OK)
		give_up(me->run, &trouble);
}

static kt_code add_node(run *r, size_t i, node *me, kt_err *err)
{
	char name[16], host[32], key[LAB_PATH];
	kt_fleet_node *n;
	(void)snprintf(name, sizeof name, "node%02zu", i);
	(void)snprintf(host, sizeof host, "127.42.8.%zu", i + 1);
	const char *const identities[] = {lab_path(r->lab, "user", key), NULL};
	const char *const argv[] = {r->lab->self, "lab-agent", name, NULL};
	const kt_fleet_node_options o = {.name = name,
					 .host = host,
					 .port = r->servers->port,
					 .user = r->lab->user,
					 .identities = identities,
					 .identities_only = true,
					 .hostkeys = r->hostkeys,
					 .agent_argv = argv};
	*me = (node){.run = r};
	KT_TRY(kt_fleet_add(r->fleet, &o, &n, err));
	return kt_fleet_connect(n, on_connected, me, NULL, err);
}

static kt_code drive(run *r, node *nodes, kt_err *err)
{
	uv_loop_t loop;
	if (uv_loop_init(&loop) != 0)
		return kt_fail(err, KT_E_INTERNAL, NULL, "no event loop");
	kt_code rc = kt_fleet_new(&loop, NULL, &r->fleet, err);
	for (size_t i = 0; i < NODES && rc == KT_OK; i++, r->open++)
		rc = add_node(r, i, &nodes[i], err);
	if (rc != KT_OK && r->fleet)
		kt_fleet_close(r->fleet, NULL, NULL);
	(void)uv_run(&loop, UV_RUN_DEFAULT);
	(void)uv_loop_close(&loop);
	if (rc == KT_OK && (r->failures || r->replies != NODES * COMMANDS))
		rc = kt_fail(err, KT_E_INTERNAL, NULL, "%d of %d commands were answered", r->replies, NODES * COMMANDS);
	return rc;
}

/* ---- measuring ---- */

static double seconds(const struct timeval *t)
{
	return (double)t->tv_sec + (double)t->tv_usec / 1e6;
}

static double cpu_of(int who)
{
	struct rusage u;
	if (getrusage(who, &u) != 0)
		return 0;
	return seconds(&u.ru_utime) + seconds(&u.ru_stime);
}

static int measure_fleet(lab *l, lab_server *s, kt_hostkeys *keys, figure *out, double *steps_s)
{
	static node nodes[NODES];
	run r = {.lab = l, .servers = s, .hostkeys = keys};
	kt_err err = KT_ERR_INIT;
	const int64_t begun = kt_clock_mono_ms();
	const double cpu = cpu_of(RUSAGE_SELF);
	if (drive(&r, nodes, &err) != KT_OK) {
		(void)fprintf(stderr, "bench_fleet: %s\n", err.msg);
		return -1;
	}
	*out = (figure){(double)(kt_clock_mono_ms() - begun) / 1000.0, cpu_of(RUSAGE_SELF) - cpu};
	*steps_s = r.steps_s;
	return 0;
}

/* $1 folder, $2 port, $3 user, $4 number of nodes, $5 number of commands, the rest: more options of ssh. Every command
 * runs on all nodes before the next one begins to, as steps do; their output is counted. */
static const char script[] =
	"set -eu\n"
	"dir=$1 port=$2 user=$3 nodes=$4 commands=$5; shift 5\n"
	"i=1; while [ $i -le $nodes ]; do echo \"$user@127.42.8.$i\"; i=$((i+1)); done >\"$dir/hosts\"\n"
	": >\"$dir/out\"\n"
	"c=1; while [ $c -le $commands ]; do\n"
	"  xargs -P64 -I@ ssh -F none -o BatchMode=yes -o IdentitiesOnly=yes -i \"$dir/user\" -p \"$port\" \\\n"
	"    -o StrictHostKeyChecking=yes -o UserKnownHostsFile=\"$dir/known_hosts\" -o "
	"KexAlgorithms=curve25519-sha256 \\\n"
	"    -o Ciphers=aes128-ctr -o MACs=hmac-sha2-256 \"$@\" @ /bin/echo $c <\"$dir/hosts\" >>\"$dir/out\"\n"
	"  c=$((c+1)); done\n"
	"[ \"$(wc -l <\"$dir/out\")\" -eq $((nodes*commands)) ]\n";

/* End the shared connections, so that the next round begins with none. */
static void end_shared(const lab *l)
{
	static const char end[] = "for s in \"$1\"/c-*; do ssh -F none -o ControlPath=\"$s\" -O exit x; done";
	/* lint: allow shell: a fixed script, its data are arguments */
	const char *const argv[] = {"sh", "-c", end, "bench", l->dir, NULL};
	(void)lab_run(l, argv);
}

static int measure_ssh(lab *l, lab_server *s, bool shared, figure *out)
{
	char port[8], nodes[8], commands[8], path[LAB_PATH + 24];
	(void)snprintf(port, sizeof port, "%u", s->port);
	(void)snprintf(nodes, sizeof nodes, "%d", (int)NODES);
	(void)snprintf(commands, sizeof commands, "%d", (int)COMMANDS);
	(void)snprintf(path, sizeof path, "ControlPath=%s/c-%%h", l->dir);
	/* lint: allow shell: a fixed script, its data are arguments */
	const char *const argv[] = {"sh",
				    "-c",
				    script,
				    "bench",
				    l->dir,
				    port,
				    l->user,
				    nodes,
				    commands,
				    "-o",
				    shared ? path : "ControlPath=none",
				    "-o",
				    shared ? "ControlMaster=auto" : "ControlMaster=no",
				    "-o",
				    shared ? "ControlPersist=60" : "ControlPersist=no",
				    NULL};
	const int64_t begun = kt_clock_mono_ms();
	const double cpu = cpu_of(RUSAGE_CHILDREN);
	if (lab_run(l, argv) != 0) {
		(void)fprintf(stderr, "bench_fleet: the ssh side failed, see %s/tool.log\n", l->dir);
		return -1;
	}
	*out = (figure){(double)(kt_clock_mono_ms() - begun) / 1000.0, cpu_of(RUSAGE_CHILDREN) - cpu};
	if (shared)
		end_shared(l);
	return 0;
}

static int compare_wall(const void *a, const void *b)
{
	const double x = ((const figure *)a)->wall_s, y = ((const figure *)b)->wall_s;
	return (x > y) - (x < y);
}

static figure median(figure *list)
{
	qsort(list, ROUNDS, sizeof *list, compare_wall);
	return list[ROUNDS / 2];
}

/* ---- figures ---- */

static int print_goal(const char *metric, double value, const char *unit, double goal)
{
	const bool met = value >= goal;
	(void)printf("%s %.2f %s %.2f %s\n", metric, value, unit, goal, met ? "met" : "missed");
	return met ? 0 : 1;
}

static void print_plain(const char *metric, double value, const char *unit)
{
	(void)printf("%s %.3f %s - -\n", metric, value, unit);
}

static int report(figure ours, figure plain, figure shared, double steps_s)
{
	int missed = 0;
	print_plain("fleet_wall", ours.wall_s, "s");
	print_plain("fleet_client_cpu", ours.cpu_s, "s");
	print_plain("fleet_steps_wall", steps_s, "s");
	print_plain("ssh_wall", plain.wall_s, "s");
	print_plain("ssh_client_cpu", plain.cpu_s, "s");
	print_plain("ssh_controlpersist_wall", shared.wall_s, "s");
	missed += print_goal("fleet_speedup_vs_ssh", plain.wall_s / ours.wall_s, "x", 3.0);
	missed += print_goal("fleet_speedup_vs_ssh_controlpersist", shared.wall_s / ours.wall_s, "x", 1.5);
	missed += print_goal("fleet_client_cpu_saved_vs_ssh", plain.cpu_s / ours.cpu_s, "x", 10.0);
	return missed ? 1 : 0;
}

static int bench(lab *l, lab_server *s, kt_hostkeys *keys)
{
	figure ours[ROUNDS], plain[ROUNDS], shared[ROUNDS];
	double steps_s = 0;
	for (int i = 0; i < ROUNDS; i++)
		if (measure_fleet(l, s, keys, &ours[i], &steps_s) != 0 || measure_ssh(l, s, false, &plain[i]) != 0 ||
		    measure_ssh(l, s, true, &shared[i]) != 0)
			return 1;
	return report(median(ours), median(plain), median(shared), steps_s);
}

int main(int argc, char **argv)
{
	lab l;
	lab_server s = {.pid = 0};
	char path[LAB_PATH];
	kt_hostkeys *keys = NULL;
	kt_err err = KT_ERR_INIT;
	const int as_agent = lab_agent_main(argc, argv);
	if (as_agent >= 0)
		return as_agent;
	if (lab_open(&l) != 0)
		return 1;
	int rc = 1;
	if (lab_keygen(&l, "user", "ed25519", "") == 0 && lab_authorize(&l, "user") == 0 &&
	    lab_nodes_start(&l, &s, NODES) == 0 && lab_nodes_known(&l, &s, NODES, "known_hosts") == 0 &&
	    kt_hostkeys_new(&keys, &err) == KT_OK &&
	    kt_hostkeys_load(keys, lab_path(&l, "known_hosts", path), false, &err) == KT_OK)
		rc = bench(&l, &s, keys);
	if (err.code != KT_OK)
		(void)fprintf(stderr, "bench_fleet: %s\n", err.msg);
	kt_hostkeys_free(keys);
	lab_server_stop(&s);
	lab_close(&l);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cluster.json. What must hold for every input: no crash, no hang; a refusal has a message and leaves nothing behind;
 * what is accepted keeps the invariants of kt_cluster.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/inventory/inventory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds, const char *what)
{
	if (holds)
		return;
	(void)fprintf(stderr, "does not hold: %s\n", what);
	abort();
}

static kt_code look(void *cookie, const cJSON *value, const char *path, kt_err *err)
{
	const kt_cluster *c = cookie;
	(void)err;
	require(kt_cluster_var(c, NULL, value->string) != NULL || strncmp(path, "$.vars.", 7) != 0,
		"a variable is found");
	return KT_OK;
}

static void check(const kt_cluster *c)
{
	kt_err err = KT_ERR_INIT;
	require(c->nodes_count >= 1 && c->nodes_count <= KT_NODES_MAX, "1 to KT_NODES_MAX nodes");
	require(c->rekey < c->nodes_count && c->canary < c->nodes_count, "roles are nodes");
	require(c->state[0] == '/' && c->key_to, "what every cluster has");
	require(strstr(c->hsm.uri, "pin-value") == NULL, "no PIN");
	for (size_t i = 0; i < c->nodes_count; i++) {
		const kt_node *n = &c->nodes[i];
		require(n->name[0] && n->host[0] && n->host[0] != '-', "a node has a name and a host");
		require(!n->user || n->user[0] != '-', "a user is no option");
		require(n->agent_path[0] == '/' && n->agent_state[0] == '/', "the agent's paths are absolute");
		require(!n->identity || n->identity[0] == '/', "the identity's path is absolute");
		require(i > 64 || kt_cluster_node(c, n->name) == n, "names are distinct");
	}
	require(kt_cluster_each_var(c, look, (void *)(uintptr_t)c, &err) == KT_OK, "variables can be walked");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	kt_err err = KT_ERR_INIT;
	kt_cluster c;
	if (kt_cluster_parse("/f/cluster.json", data, size, "/home/f", &c, &err) == KT_OK)
		check(&c);
	else
		require(err.msg[0] && !c.nodes && !c.doc.root, "a refusal has a message and leaves nothing");
	kt_cluster_free(&c);
	return 0;
}

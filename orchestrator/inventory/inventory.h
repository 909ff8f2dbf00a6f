/* SPDX-License-Identifier: Apache-2.0 */
/* The inventory: cluster.json (docs/FORMATS.md, section 6) read into kt_cluster, checked, ranges expanded. */
#ifndef KT_INVENTORY_INVENTORY_H
#define KT_INVENTORY_INVENTORY_H

#include <stdint.h>

#include "base/json.h"

enum {
	KT_NODES_MAX = 10000,
	KT_CLUSTER_NAME_MAX = 63, /* [a-z0-9][a-z0-9-]* */
	KT_NODE_NAME_MAX = 63     /* as kt_name_check (wire/message.h) */
};

/* One node, templates of the file resolved. Owned by its cluster. */
typedef struct kt_node {
	char *name;
	char *host;        /* what ssh connects to, before `ssh -G`; default: the name */
	uint16_t port;     /* 0: the user's ssh configuration decides (22 when it doesn't) */
	char *user;        /* NULL: the ssh configuration decides */
	char *identity;    /* absolute path of the private key; NULL: the ssh configuration and the agent decide */
	char *agent_path;  /* folder of the agent's program on the node, absolute */
	char *agent_state; /* the agent's state folder on the node, absolute */
	/* Where its transport key is: a pkcs11: URI that is meaningful on the node (a PIN comes from a file there), or
	 * NULL for a file of the agent's. `environment` is what the token's module needs: an object of texts, or NULL.
	 */
	char *transport_key;
	cJSON *environment;
	size_t entry;      /* index into "nodes" of the file, for messages: $.nodes[entry] */
	const cJSON *spec; /* that entry, borrowed from doc */
} kt_node;

/* Somebody who keeps the private half of an RSA key in a token of their own, for the day on which the HSM is lost. */
typedef struct kt_custodian {
	char *name;       /* [A-Za-z0-9.-], distinct */
	char *public_key; /* absolute path of the public half, PEM */
} kt_custodian;

/*
 * Invariants: (1) 1..KT_NODES_MAX nodes, their names distinct; (2) rekey and canary < nodes_count; (3) `state` and,
 * when it is a path, `playbook` are absolute; (4) everything is owned by the cluster or by `doc`.
 */
typedef struct kt_cluster {
	kt_json_doc doc; /* the file, for variables and for messages */
	char *folder;    /* absolute folder of the file: relative paths start here */
	char *name;
	char *playbook; /* the name of a shipped playbook, or an absolute path ending in .json */
	char *state;    /* the coordinator's state folder */
	kt_node *nodes;
	size_t nodes_count;
	size_t rekey;  /* index of the node that runs the rekey */
	size_t canary; /* index of the node that starts first */
	struct {
		char *config;              /* absolute path; NULL: ssh's own default */
		int64_t connect_timeout_s; /* 1..600, default 20 */
	} ssh;
	bool agent_sudo; /* start the agent with sudo; default true */
	struct {
		char *uri;              /* pkcs11: URI of the token */
		char *escrow_key;       /* label of the wrapping key; default keyturn-escrow */
		int64_t call_timeout_s; /* 1..3600, default 60: for one C_* call */
		int64_t sessions;       /* 1..8, default 2: at most so many at a time */
	} hsm;
	const char *key_from;      /* template of the old key's URI, borrowed from doc; NULL: the nodes are asked */
	const char *key_to;        /* template of the new key's URI, borrowed from doc */
	int64_t cryptoperiod_days; /* of keys that runs make; 0: none was set */
	kt_custodian *custodians;
	size_t custodians_count;
} kt_cluster;

/*
 * Read and check a cluster.json. Every fault is KT_E_INPUT with file, line and JSON path; KT_E_IO when the file cannot
 * be read. Relative paths are taken from the folder of the file, `~/` from $HOME. kt_cluster_free also after failure is
 * harmless.
 */
KT_MUST_CHECK kt_code kt_cluster_load(const char *path, kt_cluster *out, kt_err *err);
/* The same from memory; `path` names the file in messages and must be absolute. `home` may be NULL ($HOME then). */
KT_MUST_CHECK kt_code kt_cluster_parse(const char *path, const void *text, size_t len, const char *home,
				       kt_cluster *out, kt_err *err);
void kt_cluster_free(kt_cluster *c);

/* The node of that name, or NULL. */
const kt_node *kt_cluster_node(const kt_cluster *c, const char *name);

/* A node's transport key as people know it: "file", or its URI without the query part (which only says how the node
 * gets at it, RFC 7512 §2.4). Appended to `out`. */
KT_MUST_CHECK kt_code kt_node_transport_at(const kt_node *node, kt_buf *out, kt_err *err);

/* A pkcs11: URI of a token on a node: the node reads the PIN, and nobody is there to type it. KT_E_INPUT when it holds
 * a PIN or takes it from anywhere but a file; the URI is never copied into the error. */
KT_MUST_CHECK kt_code kt_node_token_check(const char *uri, kt_err *err);

/* The value of a variable as the file has it (a template): the node's own, else the first of its groups' (in the order
 * of the node's "groups") that has it, else the cluster's, else NULL. `node` may be NULL: the cluster's alone. */
const cJSON *kt_cluster_var(const kt_cluster *c, const kt_node *node, const char *name);

/* Call `visit` for every variable set anywhere (its value, of which the name is value->string) with its JSON path;
 * stops at the first failure. */
typedef kt_code (*kt_cluster_visit)(void *cookie, const cJSON *value, const char *path, kt_err *err);
KT_MUST_CHECK kt_code kt_cluster_each_var(const kt_cluster *c, kt_cluster_visit visit, void *cookie, kt_err *err);

#endif

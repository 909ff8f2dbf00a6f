/* SPDX-License-Identifier: Apache-2.0 */
/* A scope over the variables of a cluster for one node; the plan adds the playbook's defaults to it. */
#ifndef KT_INVENTORY_VARS_H
#define KT_INVENTORY_VARS_H

#include "orchestrator/inventory/inventory.h"
#include "orchestrator/inventory/template.h"

/* Built-in names with a fixed text: ${node}, ${host}, ${cluster}. */
typedef struct kt_vars {
	const kt_cluster *cluster;
	const kt_node *node; /* NULL: the cluster's variables alone, no ${node} and ${host} */
	cJSON text;          /* where a built-in's value stands while it is looked at */
} kt_vars;

/* For kt_scope: find and offer; `cookie` is a kt_vars. */
const cJSON *kt_vars_find(void *cookie, const char *name);
void kt_vars_offer(void *cookie, kt_nearest *near);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/inventory/vars.h"

#include <stdio.h>
#include <string.h>

static const cJSON *member(const cJSON *obj, const char *name)
{
	return obj ? cJSON_GetObjectItemCaseSensitive(obj, name) : NULL;
}

static const cJSON *group_vars(const kt_cluster *c, const char *group)
{
	return member(member(member(c->doc.root, "groups"), group), "vars");
}

const cJSON *kt_cluster_var(const kt_cluster *c, const kt_node *node, const char *name)
{
	const cJSON *found = node ? member(member(node->spec, "vars"), name) : NULL;
	const cJSON *groups = node ? member(node->spec, "groups") : NULL;
	for (const cJSON *g = groups ? groups->child : NULL; g && !found; g = g->next)
		found = member(group_vars(c, g->valuestring), name);
	return found ? found : member(member(c->doc.root, "vars"), name);
}

static kt_code visit_all(const cJSON *vars, const char *where, kt_cluster_visit visit, void *cookie, kt_err *err)
{
	for (const cJSON *v = vars ? vars->child : NULL; v; v = v->next) {
		char path[KT_TEMPLATE_NAME * 4];
		(void)snprintf(path, sizeof path, "%s.vars.%s", where, v->string);
		KT_TRY(visit(cookie, v, path, err));
	}
	return KT_OK;
}

kt_code kt_cluster_each_var(const kt_cluster *c, kt_cluster_visit visit, void *cookie, kt_err *err)
{
	char where[KT_TEMPLATE_NAME * 2];
	const cJSON *groups = member(c->doc.root, "groups");
	const cJSON *nodes = member(c->doc.root, "nodes");
	size_t i = 0;
	KT_TRY(visit_all(member(c->doc.root, "vars"), "$", visit, cookie, err));
	for (const cJSON *g = groups ? groups->child : NULL; g; g = g->next) {
		(void)snprintf(where, sizeof where, "$.groups.%s", g->string);
		KT_TRY(visit_all(member(g, "vars"), where, visit, cookie, err));
	}
	for (const cJSON *n = nodes ? nodes->child : NULL; n; n = n->next, i++) {
		(void)snprintf(where, sizeof where, "$.nodes[%zu]", i);
		KT_TRY(visit_all(member(n, "vars"), where, visit, cookie, err));
	}
	return KT_OK;
}

static const cJSON *as_text(kt_vars *v, char *text)
{
	if (!text)
		return NULL;
	v->text = (cJSON){.type = cJSON_String, .valuestring = text};
	return &v->text;
}

const cJSON *kt_vars_find(void *cookie, const char *name)
{
	kt_vars *v = cookie;
	if (strcmp(name, "cluster") == 0)
		return as_text(v, v->cluster->name);
	if (v->node && strcmp(name, "node") == 0)
		return as_text(v, v->node->name);
	if (v->node && strcmp(name, "host") == 0)
		return as_text(v, v->node->host);
	return kt_cluster_var(v->cluster, v->node, name);
}

static kt_code offer_one(void *cookie, const cJSON *value, const char *path, kt_err *err)
{
	(void)path;
	(void)err;
	kt_nearest_offer(cookie, value->string);
	return KT_OK;
}

void kt_vars_offer(void *cookie, kt_nearest *near)
{
	kt_vars *v = cookie;
	kt_nearest_offer(near, "cluster");
	if (v->node) {
		kt_nearest_offer(near, "node");
		kt_nearest_offer(near, "host");
	}
	KT_IGNORE(kt_cluster_each_var(v->cluster, offer_one, near, NULL));
}

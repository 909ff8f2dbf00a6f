/* SPDX-License-Identifier: Apache-2.0 */
/* The targets of an action: nodes with equal arguments together, so that the plan of a thousand nodes stays small. */
#include <stdlib.h>
#include <string.h>

#include "orchestrator/plan/internal.h"

static kt_code no_memory(kt_err *err)
{
	return kt_fail(err, KT_E_INTERNAL, NULL, "out of memory");
}

static struct kt_plan_group_slot *find_slot(const kt_plan_groups *g, const char digest[KT_SHA256_HEX])
{
	size_t at = 0;
	for (size_t i = 0; i < 15; i++)
		at = at * 16 + (size_t)(digest[i] <= '9' ? digest[i] - '0' : digest[i] - 'a' + 10);
	for (at &= g->room - 1;; at = (at + 1) & (g->room - 1))
		if (!g->slots[at].digest[0] || strcmp(g->slots[at].digest, digest) == 0)
			return &g->slots[at];
}

static kt_code digest_of(const cJSON *args, char digest[KT_SHA256_HEX], kt_err *err)
{
	kt_buf text = KT_BUF_INIT;
	kt_code rc = kt_json_canonical(args, &text, err);
	if (rc == KT_OK)
		rc = kt_sha256_hex(text.data, text.len, digest, err);
	kt_buf_free(&text);
	return rc;
}

/* A new group; takes `args`, also on failure. */
static kt_code new_group(kt_plan_groups *g, struct kt_plan_group_slot *s, const char digest[KT_SHA256_HEX], cJSON *args,
			 kt_err *err)
{
	cJSON *group = cJSON_CreateObject();
	if (!group || !cJSON_AddItemToArray(g->list, group)) {
		cJSON_Delete(group);
		cJSON_Delete(args);
		return no_memory(err);
	}
	s->nodes = cJSON_AddArrayToObject(group, "nodes");
	kt_code rc = kt_json_add(group, "args", args, err);
	if (rc != KT_OK || !s->nodes)
		return rc != KT_OK ? rc : no_memory(err);
	memcpy(s->digest, digest, KT_SHA256_HEX);
	return KT_OK;
}

kt_code kt_plan_groups_add(kt_plan_groups *g, const char *node, cJSON *args, kt_err *err)
{
	char digest[KT_SHA256_HEX];
	kt_code rc = digest_of(args, digest, err);
	if (rc != KT_OK) {
		cJSON_Delete(args);
		return rc;
	}
	struct kt_plan_group_slot *s = find_slot(g, digest);
	if (s->digest[0])
		cJSON_Delete(args);
	else
		KT_TRY(new_group(g, s, digest, args, err));
	cJSON *name = cJSON_CreateString(node);
	if (name && cJSON_AddItemToArray(s->nodes, name))
		return KT_OK;
	cJSON_Delete(name);
	return no_memory(err);
}

static bool is_target(const kt_cluster *c, const char *on, size_t node)
{
	if (strcmp(on, "rekey") == 0)
		return node == c->rekey;
	if (strcmp(on, "canary") == 0)
		return node == c->canary;
	return strcmp(on, "all") == 0 || node != c->canary;
}

static kt_code add_all(kt_planner *p, kt_plan_groups *g, const char *on, const kt_verb *verb, const cJSON *with,
		       size_t *n, kt_err *err)
{
	const kt_cluster *c = p->in->cluster;
	cJSON *args = NULL;
	if (strcmp(on, "once") == 0) {
		*n = 1;
		KT_TRY(kt_plan_args(p, verb, with, SIZE_MAX, &args, err));
		return kt_plan_groups_add(g, "@", args, err);
	}
	for (size_t i = 0; i < c->nodes_count; i++) {
		if (!is_target(c, on, i))
			continue;
		kt_code rc = kt_plan_args(p, verb, with, i, &args, err);
		if (rc != KT_OK)
			return kt_err_prefix(err, rc, "%s", c->nodes[i].name);
		KT_TRY(kt_plan_groups_add(g, c->nodes[i].name, args, err));
		++*n;
	}
	return KT_OK;
}

kt_code kt_plan_groups_init(kt_plan_groups *g, size_t targets, kt_err *err)
{
	*g = (kt_plan_groups){.room = 4};
	while (g->room < 2 * targets + 2)
		g->room *= 2;
	g->slots = calloc(g->room, sizeof *g->slots);
	g->list = cJSON_CreateArray();
	if (g->slots && g->list)
		return KT_OK;
	free(g->slots);
	cJSON_Delete(g->list);
	return no_memory(err);
}

kt_code kt_plan_groups_end(kt_plan_groups *g, kt_code rc, cJSON **out)
{
	free(g->slots);
	if (rc != KT_OK)
		cJSON_Delete(g->list);
	else
		*out = g->list;
	*g = (kt_plan_groups){0};
	return rc;
}

kt_code kt_plan_targets(kt_planner *p, const char *on, const kt_verb *verb, const cJSON *with, cJSON **out, size_t *n,
			kt_err *err)
{
	kt_plan_groups g;
	*n = 0;
	KT_TRY(kt_plan_groups_init(&g, p->in->cluster->nodes_count, err));
	return kt_plan_groups_end(&g, add_all(p, &g, on, verb, with, n, err), out);
}

bool kt_plan_next(const cJSON *action, kt_plan_cursor *at)
{
	if (at->name_)
		at->name_ = at->name_->next;
	while (!at->name_) {
		if (at->group_)
			at->group_ = at->group_->next;
		else
			at->group_ = cJSON_GetObjectItemCaseSensitive(action, "targets")
					     ? cJSON_GetObjectItemCaseSensitive(action, "targets")->child
					     : NULL;
		if (!at->group_)
			return false;
		const cJSON *nodes = cJSON_GetObjectItemCaseSensitive(at->group_, "nodes");
		at->name_ = nodes ? nodes->child : NULL;
	}
	at->node = at->name_->valuestring;
	at->args = cJSON_GetObjectItemCaseSensitive(at->group_, "args");
	return true;
}

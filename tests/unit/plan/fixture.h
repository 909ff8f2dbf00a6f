/* SPDX-License-Identifier: Apache-2.0 */
/* A cluster, the shipped playbook, and their plan. In texts ' stands for ". */
#ifndef KT_TESTS_UNIT_PLAN_FIXTURE_H
#define KT_TESTS_UNIT_PLAN_FIXTURE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/plan/plan.h"

#define RUN "20261123T204726Z-1a2b3c"
enum { FIXTURE_NODES = 3, FIXTURE_TEXT = 8192 };

/* %s: nodes, roles, vars, hsm uri, key. */
#define FIXTURE_CLUSTER                                                                                                \
	"{'cluster':'looker','playbook':'looker','nodes':%s,'roles':%s,'vars':%s,'hsm':{'uri':'%s'},'key':%s}"

typedef struct fixture {
	const char *nodes, *roles, *vars, *hsm, *key, *run;
	kt_located located[FIXTURE_NODES]; /* as many as there are nodes, at most */
	kt_plan_pin pins[FIXTURE_NODES];   /* the same */
	const char *playbook;              /* text of another playbook; NULL: the shipped one */
} fixture;

#define FIXTURE                                                                                                        \
	{                                                                                                              \
		.nodes = "[{'name':'web[01-03]','host':'${node}.example.com'}]", .roles = "{'canary':'web02'}",        \
		.vars = "{'database':'/srv/looker/looker.db'}", .hsm = "pkcs11:token=t;serial=1?pin-source=file:/p",   \
		.key = "{'to':'file:${dir}/cmk-${run}'}", .run = RUN,                                                  \
		.located = {{"file:/home/lookerops/looker/cmk", "a1b2c3"},                                             \
			    {"file:/home/lookerops/looker/cmk", "a1b2c3"},                                             \
			    {"file:/home/lookerops/looker/cmk", "a1b2c3"}},                                            \
	}

static inline void fixture_quotes(char *text)
{
	for (char *c = text; *c; c++)
		if (*c == '\'')
			*c = '"';
}

static inline void fixture_load(const fixture *f, kt_cluster *c, kt_playbook *p)
{
	kt_err err = KT_ERR_INIT;
	char text[FIXTURE_TEXT];
	(void)snprintf(text, sizeof text, FIXTURE_CLUSTER, f->nodes, f->roles, f->vars, f->hsm, f->key);
	fixture_quotes(text);
	assert_kt_ok(kt_cluster_parse("/etc/kt/cluster.json", text, strlen(text), "/home/me", c, &err));
	if (f->playbook)
		assert_kt_ok(kt_playbook_parse("own.json", f->playbook, strlen(f->playbook), p, &err));
	else
		assert_kt_ok(kt_playbook_load("looker", p, &err));
}

static inline kt_code fixture_make(const fixture *f, cJSON **plan, char digest[KT_SHA256_HEX], kt_err *err)
{
	kt_cluster c;
	kt_playbook p;
	fixture_load(f, &c, &p);
	kt_plan_input in = {.cluster = &c, .playbook = &p, .run = f->run, .located = f->located, .pins = f->pins};
	kt_code rc = kt_plan_make(&in, plan, digest, err);
	kt_playbook_free(&p);
	kt_cluster_free(&c);
	return rc;
}

static inline cJSON *fixture_plan(const fixture *f)
{
	kt_err err = KT_ERR_INIT;
	cJSON *plan = NULL;
	char digest[KT_SHA256_HEX];
	assert_kt_ok(fixture_make(f, &plan, digest, &err));
	return plan;
}

static inline const cJSON *plan_step(const cJSON *plan, const char *name)
{
	const cJSON *s = cJSON_GetObjectItem(plan, "steps")->child;
	while (s && strcmp(cJSON_GetObjectItem(s, "name")->valuestring, name) != 0)
		s = s->next;
	return s;
}

/* The arguments of a step (or its "undo", "probe") on a node, as JSON text with ' for "; the caller frees. */
static inline char *plan_args(const cJSON *plan, const char *step, const char *role, const char *node)
{
	const cJSON *action = plan_step(plan, step);
	if (action && role)
		action = cJSON_GetObjectItem(action, role);
	kt_plan_cursor at = {0};
	while (kt_plan_next(action, &at)) {
		if (strcmp(at.node, node) != 0)
			continue;
		char *text = cJSON_PrintUnformatted(at.args);
		for (char *c = text; *c; c++)
			if (*c == '"')
				*c = '\'';
		return text;
	}
	fail_msg("%s has no target %s", step, node);
	return NULL;
}

#endif

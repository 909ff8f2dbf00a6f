/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/heartbeats.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A number of seconds: `name_seconds`, or `name_ms`. NAN when there is none. false: it is there and no number. */
static bool seconds_of(const cJSON *obj, const char *in_seconds, const char *in_ms, double *out)
{
	const cJSON *s = cJSON_GetObjectItemCaseSensitive(obj, in_seconds);
	const cJSON *ms = cJSON_GetObjectItemCaseSensitive(obj, in_ms);
	*out = (double)NAN;
	if ((s && !cJSON_IsNumber(s)) || (ms && !cJSON_IsNumber(ms)))
		return false;
	if (s)
		*out = s->valuedouble;
	else if (ms)
		*out = ms->valuedouble / 1000;
	return true;
}

static bool is_known(const cJSON *known_nodes, const char *name)
{
	const cJSON *known;
	if (!cJSON_IsArray(known_nodes))
		return true;
	cJSON_ArrayForEach(known, known_nodes)
	{
		if (cJSON_IsString(known) && strcmp(known->valuestring, name) == 0)
			return true;
	}
	return false;
}

static kt_code read_node(const cJSON *node, size_t index, double window, const cJSON *known_nodes,
			 kt_findings *findings, kt_err *err)
{
	const char *name;
	double age;
	const cJSON *live = cJSON_GetObjectItemCaseSensitive(node, "live");
	KT_TRY(kt_json_str(node, "name", &name, err));
	if (!seconds_of(node, "age_seconds", "age_ms", &age) || (live && !cJSON_IsBool(live)) ||
	    (!live && (isnan(age) || isnan(window))))
		return kt_fail(err, KT_E_INPUT, NULL, "nodes[%zu] (%.60s) does not say whether it is live", index,
			       name);
	if (!cJSON_IsTrue(live) && !(age < 0) && !(age <= window))
		return KT_OK;
	char when[64] = "";
	if (!isnan(age))
		(void)snprintf(when, sizeof when, ", last heartbeat %.1f s ago", age);
	return kt_findings_add(findings, err, KT_FINDING_HEARTBEAT, name, "%s%s%s",
			       is_known(known_nodes, name) ? "" : "unknown node, not part of this cluster: ",
			       "connected to the database", when);
}

static kt_code read_all(const cJSON *root, const cJSON *known_nodes, kt_findings *findings, kt_err *err)
{
	double window;
	bool running;
	const cJSON *nodes;
	KT_TRY(kt_json_array(root, "nodes", &nodes, err));
	KT_TRY(kt_json_opt_bool(root, "running", false, &running, err));
	if (!seconds_of(root, "live_window_seconds", "live_window_ms", &window))
		return kt_fail(err, KT_E_INPUT, NULL, "live_window_seconds is not a number");
	if (running)
		KT_TRY(kt_findings_add(findings, err, KT_FINDING_HEARTBEAT, "this node",
				       "the application says that it runs"));
	size_t i = 0;
	const cJSON *node;
	cJSON_ArrayForEach(node, nodes)
	{
		if (!cJSON_IsObject(node))
			return kt_fail(err, KT_E_INPUT, NULL, "nodes[%zu] is not an object", i);
		KT_TRY(read_node(node, i++, window, known_nodes, findings, err));
	}
	return KT_OK;
}

kt_code kt_heartbeats_read(const char *text, size_t len, const cJSON *known_nodes, kt_findings *findings, kt_err *err)
{
	cJSON *root = NULL;
	KT_TRY(kt_json_parse("status", text, len, &root, err));
	kt_code rc = cJSON_IsObject(root) ? read_all(root, known_nodes, findings, err)
					  : kt_fail(err, KT_E_INPUT, NULL, "not an object");
	cJSON_Delete(root);
	return rc;
}

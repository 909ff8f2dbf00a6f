/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Playbooks, and plans made of them. What must hold for every input: no crash, no hang; a refusal has a message; a
 * playbook that is accepted gives a text for `init` that loads, and a plan (or a refusal) that can be printed.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/plan/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char cluster_text[] =
	"{\"cluster\":\"c\",\"playbook\":\"p\",\"nodes\":[{\"name\":\"a[1-2]\",\"host\":\"h\"}],"
	"\"hsm\":{\"uri\":\"pkcs11:token=t\"},\"key\":{\"from\":\"env:K\",\"to\":\"file:/k\"}}";

static void require(int holds, const char *what)
{
	if (holds)
		return;
	(void)fprintf(stderr, "does not hold: %s\n", what);
	abort();
}

static void check_init(const kt_playbook *p)
{
	kt_err err = KT_ERR_INIT;
	kt_buf text = KT_BUF_INIT;
	kt_cluster c;
	require(kt_playbook_init_text(p, &text, &err) == KT_OK, "init has a text");
	kt_code rc = kt_cluster_parse("/f/cluster.json", text.data, text.len, "/home/f", &c, &err);
	require(rc == KT_OK || rc == KT_E_INPUT, "which is read");
	kt_cluster_free(&c);
	kt_buf_free(&text);
}

static void check_plan(const kt_playbook *p)
{
	kt_err err = KT_ERR_INIT;
	kt_cluster c;
	kt_buf text = KT_BUF_INIT;
	cJSON *plan = NULL;
	char digest[KT_SHA256_HEX];
	require(kt_cluster_parse("/f/cluster.json", cluster_text, sizeof cluster_text - 1, "/", &c, &err) == KT_OK,
		"c");
	kt_plan_input in = {.cluster = &c, .playbook = p, .run = "20260101T000000Z-abcdef"};
	if (kt_plan_make(&in, &plan, digest, &err) == KT_OK) {
		char again[KT_SHA256_HEX];
		require(kt_plan_print(plan, &text, &err) == KT_OK, "a plan can be printed");
		require(kt_plan_digest(plan, again, &err) == KT_OK && strcmp(again, digest) == 0,
			"its digest is its own");
	} else {
		require(err.msg[0] && !plan, "a refusal has a message");
	}
	cJSON_Delete(plan);
	kt_buf_free(&text);
	kt_cluster_free(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	kt_err err = KT_ERR_INIT;
	kt_playbook p;
	if (kt_playbook_parse("playbook.json", data, size, &p, &err) == KT_OK) {
		check_init(&p);
		check_plan(&p);
	} else {
		require(err.msg[0] && !p.doc.root, "a refusal has a message and leaves nothing");
	}
	kt_playbook_free(&p);
	return 0;
}

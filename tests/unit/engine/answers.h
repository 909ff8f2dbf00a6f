/* SPDX-License-Identifier: Apache-2.0 */
/* What the simulated plan's verbs answer when all is well. */
#ifndef KT_TESTS_UNIT_ENGINE_ANSWERS_H
#define KT_TESTS_UNIT_ENGINE_ANSWERS_H

#include <stdio.h>
#include <string.h>

#include "orchestrator/engine/engine.h"

/* The result's JSON; `verdict` is what a probe says. Good until the next call. */
static inline const char *answer_fine(const kt_command *c, const char *verdict)
{
	static char text[128];
	static const struct {
		const char *verb, *result;
	} results[] = {
		{"service.stop", "{\"was_active\":true}"},
		{"backup.create", "{\"sha256\":\"s\",\"proof\":\"p\"}"},
		{"backup.check", "{\"checked\":true}"},
		{"key.generate", "{\"id\":\"k\"}"},
		{"key.escrow", "{\"recovered\":true}"},
		{"key.wrap", "{\"blob\":\"b\",\"expect\":\"p\"}"},
		{"key.receive", "{\"proof\":\"p\"}"},
		{"backup.key", "{\"recovered\":true}"},
		{"backup.wrap", "{\"blob\":\"b\",\"expect\":\"p\"}"},
	};
	for (size_t i = 0; i < sizeof results / sizeof results[0]; i++)
		if (strcmp(results[i].verb, c->verb) == 0)
			return results[i].result;
	(void)snprintf(text, sizeof text, "{\"verdict\":\"%s\"}", verdict);
	return strcmp(c->verb, "probe") == 0 ? text : "{}";
}

#endif

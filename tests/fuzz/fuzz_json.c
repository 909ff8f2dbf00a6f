/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strict JSON. What must hold for every input: no crash; what is accepted prints to a text that is accepted again and
 * has the same canonical form; paths never lead outside of the text.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds, const char *what)
{
	if (holds)
		return;
	(void)fprintf(stderr, "does not hold: %s\n", what);
	abort();
}

static void check_round_trip(const cJSON *root)
{
	kt_err err = KT_ERR_INIT;
	kt_buf first = KT_BUF_INIT;
	kt_buf second = KT_BUF_INIT;
	cJSON *again = NULL;
	require(kt_json_canonical(root, &first, &err) == KT_OK, "an accepted text has a canonical form");
	require(kt_json_parse("again", first.data, first.len, &again, &err) == KT_OK, "a canonical form is accepted");
	require(kt_json_canonical(again, &second, &err) == KT_OK, "and has one itself");
	require(first.len == second.len && memcmp(first.data, second.data, first.len) == 0, "which is the same");
	cJSON_Delete(again);
	kt_buf_free(&first);
	kt_buf_free(&second);
}

/* Uses the input itself as paths: its first line, and a few fixed ones. */
static void check_lines(const kt_json_doc *doc, const uint8_t *data, size_t size)
{
	static const char *const fixed[] = {"$",  "$.a", "$[0]", "$.a[1].b", "$[18446744073709551615]",
					    "$.", "$[",  "$[x]"};
	size_t lines = 1;
	for (size_t i = 0; i < doc->len; i++)
		lines += doc->text[i] == '\n';
	for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++)
		require(kt_json_doc_line(doc, fixed[i]) <= lines, "a line is one of the text");
	char own[64] = "$.";
	size_t n = size < sizeof own - 3 ? size : sizeof own - 3;
	if (n)
		memcpy(own + 2, data, n);
	require(kt_json_doc_line(doc, own) <= lines, "a line is one of the text");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	kt_err err = KT_ERR_INIT;
	cJSON *root = NULL;
	kt_code rc = kt_json_parse("input", data, size, &root, &err);
	require((rc == KT_OK) == (root != NULL), "a root exactly when accepted");
	require(rc == KT_OK || err.msg[0], "a refusal has a message");
	if (root)
		check_round_trip(root);
	cJSON_Delete(root);

	kt_json_doc doc;
	err = KT_ERR_INIT;
	if (kt_json_doc_parse(&doc, "input", data, size, &err) == KT_OK) {
		check_lines(&doc, data, size);
		check_round_trip(doc.root);
	}
	kt_json_doc_free(&doc);
	return 0;
}

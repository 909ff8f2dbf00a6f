/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Env files. What must hold for every input: no crash; a variable that is set has then that value and every other one
 * keeps its own, also when the file is read anew; one that is unset is gone; lines that assign nothing stay.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/envfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds, const char *what)
{
	if (holds)
		return;
	(void)fprintf(stderr, "does not hold: %s\n", what);
	abort();
}

static kt_envfile *parse(const void *text, size_t n)
{
	kt_err err = KT_ERR_INIT;
	kt_envfile *f = NULL;
	kt_code rc = kt_envfile_parse("env", text, n, &f, &err);
	require((rc == KT_OK) == (f != NULL), "a file exactly when accepted");
	require(rc == KT_OK || err.msg[0], "a refusal has a message");
	return f;
}

static int same(const kt_secret *a, const kt_secret *b)
{
	return a && b && kt_secret_equal(a, b);
}

/* Every variable but `name` is the same in both. */
static void check_others(const kt_envfile *a, const kt_envfile *b, const char *name)
{
	for (size_t i = 0; i < kt_envfile_count(a); i++) {
		const char *other = kt_envfile_name(a, i);
		require(kt_envfile_name_ok(other), "only names that are names");
		if (strcmp(other, name) != 0)
			require(same(kt_envfile_value(a, i), kt_envfile_get(b, other)),
				"another variable keeps its value");
	}
}

static void check_changes(const uint8_t *text, size_t n, const char *name, const void *value, size_t value_len)
{
	kt_err err = KT_ERR_INIT;
	kt_secret v = KT_SECRET_INIT;
	kt_envfile *before = parse(text, n);
	kt_envfile *after = parse(text, n);
	if (value_len)
		require(kt_secret_copy(&v, value, value_len, &err) == KT_OK, "there is room");
	if (kt_envfile_set(after, name, &v, &err) == KT_OK) {
		const kt_secret *t = kt_envfile_text(after);
		kt_envfile *again = parse(t->data, t->len);
		require(again && same(kt_envfile_get(again, name), &v), "what was set is read back");
		check_others(before, again, name);
		check_others(again, before, name);
		kt_envfile_free(again);
		require(kt_envfile_unset(after, name, &err) == KT_OK && !kt_envfile_get(after, name),
			"and can be unset");
		check_others(before, after, name);
		check_others(after, before, name);
	}
	kt_secret_free(&v);
	kt_envfile_free(before);
	kt_envfile_free(after);
}

/* The first line of the input is the value that is set, the rest is the file. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *newline = size ? memchr(data, '\n', size) : NULL;
	size_t value = newline ? (size_t)(newline - data) : 0;
	if (!newline || size > 2000)
		return 0;
	const uint8_t *text = newline + 1;
	size_t n = size - value - 1;
	kt_envfile *f = parse(text, n);
	if (!f)
		return 0;
	kt_envfile_free(f);
	check_changes(text, n, "A", data, value);
	check_changes(text, n, "NEW_ONE", data, value);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/allocfail.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

/* What the linker calls the real ones, and what it makes our code call (ld(1), --wrap). */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t max);

static size_t left; /* 0: none fails */
static bool hit;

bool allocfail_now(void)
{
	if (left == 0 || --left > 0)
		return false;
	hit = true;
	return true;
}

void allocfail_begin(size_t n)
{
	/* cJSON calls malloc in its own library, where the linker wraps nothing. */
	cJSON_InitHooks(&(cJSON_Hooks){.malloc_fn = __wrap_malloc, .free_fn = free});
	hit = false;
	left = n;
}

bool allocfail_end(void)
{
	left = 0;
	cJSON_InitHooks(NULL);
	return hit;
}

bool allocfail_more(size_t n)
{
	return n == 1 || hit;
}

void *__wrap_malloc(size_t n)
{
	return allocfail_now() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return allocfail_now() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
	return allocfail_now() ? NULL : __real_realloc(p, n);
}

char *__wrap_strndup(const char *text, size_t max)
{
	size_t n = strnlen(text, max);
	char *copy = __wrap_malloc(n + 1);
	if (copy) {
		memcpy(copy, text, n);
		copy[n] = '\0';
	}
	return copy;
}

char *__wrap_strdup(const char *text)
{
	return __wrap_strndup(text, strlen(text));
}

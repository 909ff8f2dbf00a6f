/* SPDX-License-Identifier: Apache-2.0 */
/* What is made in a run lives until its end: nobody has to know who still points to it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

enum { CHUNK = 256 * 1024, ALIGN = 16 };

typedef struct sim_chunk {
	struct sim_chunk *next;
	size_t used, size;
	_Alignas(ALIGN) unsigned char bytes[];
} sim_chunk;

static sim_chunk *new_chunk(sim_chunk *next, size_t size)
{
	sim_chunk *c = malloc(sizeof *c + size);
	if (!c)
		abort();
	*c = (sim_chunk){.next = next, .size = size};
	return c;
}

/* --- Small pieces for cJSON: of the same sizes again and again -------------------------------------------------------
 */

#ifndef __SANITIZE_ADDRESS__ /* which wants to see each piece */
enum { STEP = 16, CLASSES = 32 };

typedef union piece {
	union piece *next; /* of a free one */
	size_t class;      /* CLASSES: it is malloc's */
	_Alignas(ALIGN) unsigned char room[ALIGN];
} piece;

static piece *free_pieces[CLASSES];

static piece *more_pieces(size_t class)
{
	size_t size = (class + 1) * STEP + sizeof(piece);
	unsigned char *chunk = malloc(CHUNK);
	if (!chunk)
		abort();
	for (size_t at = 0; at + size <= CHUNK; at += size) {
		piece *p = (piece *)(void *)(chunk + at);
		p->next = free_pieces[class];
		free_pieces[class] = p;
	}
	return free_pieces[class];
}

static void *pool_malloc(size_t size)
{
	size_t class = size ? (size - 1) / STEP : 0;
	piece *p;
	if (class < CLASSES) {
		p = free_pieces[class] ? free_pieces[class] : more_pieces(class);
		free_pieces[class] = p->next;
	} else {
		class = CLASSES;
		p = malloc(size + sizeof *p);
		if (!p)
			return NULL;
	}
	p->class = class;
	return p + 1;
}

static void pool_free(void *memory)
{
	if (!memory)
		return;
	piece *p = (piece *)memory - 1;
	size_t class = p->class;
	if (class == CLASSES) {
		free(p);
		return;
	}
	p->next = free_pieces[class];
	free_pieces[class] = p;
}

void sim_memory_pool(void)
{
	cJSON_Hooks hooks = {.malloc_fn = pool_malloc, .free_fn = pool_free};
	cJSON_InitHooks(&hooks);
}
#else
void sim_memory_pool(void)
{
}
#endif

/* --- A run -------------------------------------------------------------------------------------------------------- */

void *sim_alloc(sim *s, size_t size)
{
	size = (size + ALIGN - 1) / ALIGN * ALIGN;
	if (!s->chunk || s->chunk->size - s->chunk->used < size)
		s->chunk = new_chunk(s->chunk, size > CHUNK ? size : CHUNK);
	void *out = s->chunk->bytes + s->chunk->used;
	s->chunk->used += size;
	return memset(out, 0, size);
}

char *sim_text(sim *s, const char *text)
{
	size_t n = strlen(text) + 1;
	return memcpy(sim_alloc(s, n), text, n);
}

cJSON *sim_keep(sim *s, cJSON *json)
{
	if (s->kept_n == s->kept_cap) {
		s->kept_cap = s->kept_cap ? 2 * s->kept_cap : 1024;
		s->kept = realloc(s->kept, s->kept_cap * sizeof(cJSON *));
	}
	if (!json || !s->kept)
		abort();
	return s->kept[s->kept_n++] = json;
}

void sim_memory_reset(sim *s)
{
	while (s->kept_n)
		cJSON_Delete(s->kept[--s->kept_n]);
	while (s->chunk && s->chunk->next) {
		sim_chunk *next = s->chunk->next;
		free(s->chunk);
		s->chunk = next;
	}
	if (s->chunk)
		s->chunk->used = 0;
}

void sim_memory_free(sim *s)
{
	sim_memory_reset(s);
	free(s->chunk);
	free((void *)s->kept);
}

void sim_must(kt_code rc, const kt_err *err)
{
	if (rc == KT_OK)
		return;
	(void)fprintf(stderr, "sim: %s\n", err->msg);
	abort();
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory runs out: the n-th allocation of our code, and of cJSON, fails once. For programs made with kt_allocfail()
 * (cmake/Keyturn.cmake), whose calls of malloc, calloc, realloc, strdup and strndup are wrapped by the linker.
 *
 * The loop that every user of it has:
 *
 *	for (size_t n = 1; allocfail_more(n); n++) {
 *		set up;
 *		allocfail_begin(n);
 *		rc = what is tested;
 *		bool failed = allocfail_end();
 *		assert: rc is KT_OK, or KT_E_INTERNAL and `failed`; and what must hold then;
 *	}
 *
 * It ends after the first round in which n was not reached: then every allocation has failed once. Not for threads.
 */
#ifndef KT_TESTS_UNIT_ALLOCFAIL_H
#define KT_TESTS_UNIT_ALLOCFAIL_H

#include <stdbool.h>
#include <stddef.h>

/* From now on the n-th allocation (from 1) returns NULL, and only that one. */
void allocfail_begin(size_t n);
/* No more. True when one has failed since allocfail_begin. */
bool allocfail_end(void);
/* Is there a round `n`? True for 1, and as long as the round before it made an allocation fail. */
bool allocfail_more(size_t n);
/* One allocation is about to be made by somebody who asks (SQLite's own allocator in a test): true, it fails. */
bool allocfail_now(void);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* What every unit test includes first: cmocka with its prerequisites, and checks of results. */
#ifndef KT_TESTS_UNIT_SUPPORT_H
#define KT_TESTS_UNIT_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/result.h"

/* The call succeeds; `err` must be in scope and its message is shown when it does not. */
#define assert_kt_ok(expr)                                                                                             \
	do {                                                                                                           \
		kt_code kt_got = (expr);                                                                               \
		if (kt_got != KT_OK)                                                                                   \
			fail_msg("%s: %s: %s", #expr, kt_code_name(kt_got), err.msg);                                  \
	} while (0)

/* The call fails with this class, says so in `err`, which must be in scope and is emptied before the call. */
#define assert_kt_fails(code_, expr)                                                                                   \
	do {                                                                                                           \
		err = KT_ERR_INIT;                                                                                     \
		kt_code kt_got = (expr);                                                                               \
		if (kt_got != (code_))                                                                                 \
			fail_msg("%s: %s instead of %s (%s)", #expr, kt_code_name(kt_got), kt_code_name(code_),        \
				 err.msg);                                                                             \
		assert_int_equal(err.code, (code_));                                                                   \
		assert_true(err.msg[0] != '\0');                                                                       \
	} while (0)

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Setup and teardown of tests that want the token "kt-test" open, over the shim. */
#ifndef KT_TESTS_UNIT_PKCS11_OPENED_H
#define KT_TESTS_UNIT_PKCS11_OPENED_H

#include "pkcs11/token.h"
#include "tests/unit/pkcs11/shim.h"
#include "tests/unit/pkcs11/softhsm.h"

extern kt_token *t;
extern shim_control *shim; /* ordinary behaviour when a test begins */
int open_token(void **state);
/* Ordinary behaviour again; no session may be left. */
int close_token(void **state);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/pkcs11/opened.h"

#include "tests/unit/support.h"

kt_token *t;
shim_control *shim;

int open_token(void **state)
{
	(void)state;
	kt_err err = KT_ERR_INIT;
	shim = shim_get(softhsm_shim());
	assert_kt_ok(kt_token_open(softhsm_shim_uri(), &t, &err));
	return 0;
}

int close_token(void **state)
{
	(void)state;
	*shim = (shim_control){.objects = shim->objects, .sessions = shim->sessions};
	kt_token_close(t);
	t = NULL;
	assert_int_equal(shim->sessions, 0);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A throw-away SoftHSM token for a benchmark. */
#ifndef KT_BENCH_SOFTHSM_H
#define KT_BENCH_SOFTHSM_H

#include "base/result.h"

#define BENCH_MODULE "/usr/lib/softhsm/libsofthsm2.so"

/* All zero at first. */
typedef struct bench_softhsm {
	char folder[64]; /* temporary; holds the token, its configuration and the PIN's file */
	char uri[1024];  /* of the token, with its pin-source */
} bench_softhsm;

/* Make a folder with a token "bench"; SOFTHSM2_CONF is set to it. `module`: path of libsofthsm2.so. */
KT_MUST_CHECK kt_code bench_softhsm_make(bench_softhsm *b, const char *module, kt_err *err);
/* Remove the folder with all that is in it. */
void bench_softhsm_remove(bench_softhsm *b);

#endif

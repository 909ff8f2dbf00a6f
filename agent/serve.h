/* SPDX-License-Identifier: Apache-2.0 */
/* `keyturn-agent serve`: one conversation with a coordinator over two descriptors. */
#ifndef KT_AGENT_SERVE_H
#define KT_AGENT_SERVE_H

#include "base/result.h"

typedef struct kt_serve_options {
	const char *node;  /* our name, checked by kt_name_check */
	const char *state; /* state folder, absolute; made with 0700 when it is not there */
	int in, out;       /* frames come and go here; stay the caller's */
} kt_serve_options;

/*
 * Say hello, then serve requests in order, one at a time in a worker thread, and answer pings meanwhile, until `bye`,
 * the end of `in`, or SIGTERM, SIGINT or SIGHUP. KT_E_INPUT: what came is not our format. KT_E_IO: the state folder
 * cannot be used, or `out` is closed. Call from the main thread before any other thread; blocks those three signals.
 */
KT_MUST_CHECK kt_code kt_serve(const kt_serve_options *o, kt_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A running node: registered in the database, with a heartbeat, a TCP listener (line protocol: docs/FORMATS.md) and
 * SIGTERM for a clean stop. It ends by itself, rather than go on unseen, when the store was rekeyed behind its back or
 * when it could not write its heartbeat for three quarters of the window.
 */
#ifndef KT_STORE_SERVE_H
#define KT_STORE_SERVE_H

#include "store/config.h"

/* Called once, when the node is registered and listens. */
typedef void kt_serve_ready_fn(void *arg, const char *text);

/* Runs until the stop, for the rest of the process: SIGTERM and SIGINT are blocked when it returns. KT_OK after a clean
 * stop. KT_E_KEY with the documented texts when the key is missing or wrong; KT_E_BUSY when this node is running
 * already; KT_E_REFUSED when its name is in use elsewhere. */
KT_MUST_CHECK kt_code kt_serve(const kt_store_config *cfg, kt_serve_ready_fn *ready, void *arg, kt_err *err);

#endif
